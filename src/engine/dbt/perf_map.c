/*
 * /tmp/perf-PID.map: perf's interface for code made at run time, a line
 * "START SIZE NAME" a function. Lines are appended as blocks are made. After a
 * flush of the code cache addresses appear again; perf then shows the samples
 * of both under one of the names.
 */
#include "engine/dbt/observe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct perf_map {
	FILE *f;
};

struct perf_map *perf_map_create(const char *path, struct error *e)
{
	struct perf_map *p = malloc(sizeof(*p));
	int fd;

	/* /tmp is everybody's: never through a link or into a file that someone else put there */
	unlink(path);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (!p || fd < 0 || !(p->f = fdopen(fd, "w"))) {
		error_errno(e, errno, "--perf-map: cannot create %s", path);
		if (fd >= 0)
			close(fd);
		free(p);
		return NULL;
	}
	setvbuf(p->f, NULL, _IOLBF, 0);
	return p;
}

void perf_map_add(struct perf_map *p, const void *start, u32 size, const char *name)
{
	fprintf(p->f, "%lx %x %s\n", (u64)(uintptr_t)start, size, name);
}

void perf_map_close(struct perf_map *p)
{
	if (!p)
		return;
	fclose(p->f);
	free(p);
}

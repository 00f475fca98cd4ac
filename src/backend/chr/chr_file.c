/* A character stream whose output goes to a file; it has no input. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "backend/chr/chr.h"
#include "base/log.h"

struct chr_file {
	struct chr chr;
	int fd;
	bool failed; /* said so once */
};

static void file_write(struct chr *c, const u8 *bytes, size_t n)
{
	struct chr_file *f = (struct chr_file *)c;

	while (n && !f->failed) {
		ssize_t done = write(f->fd, bytes, n);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0) {
			log_error("chr", "output file: cannot write (errno %d); further output is dropped", errno);
			f->failed = true;
			return;
		}
		bytes += done;
		n -= done;
	}
}

static void file_start(struct chr *c, struct door *door, int sink) {}
static void file_stop(struct chr *c) {}

static void file_destroy(struct chr *c)
{
	close(((struct chr_file *)c)->fd);
	free(c);
}

static const struct chr_ops ops = {
	.name = "file",
	.write = file_write,
	.start = file_start,
	.stop = file_stop,
	.destroy = file_destroy,
};

struct chr *chr_file_create(const char *path, struct error *e)
{
	struct chr_file *f = calloc(1, sizeof(*f));

	if (!f) {
		error_set(e, "output file %s: out of memory", path);
		return NULL;
	}
	f->chr.ops = &ops;
	f->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0666);
	if (f->fd < 0) {
		error_errno(e, errno, "output file %s: cannot create the file", path);
		free(f);
		return NULL;
	}
	return &f->chr;
}

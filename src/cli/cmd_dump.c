/* `ectype dump`: a core of a running machine's guest, into a file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host_time.h"
#include "cli/control.h"
#include "cli/new_file.h"

#define BLOCK (1 * MiB) /* gathered before it is written: a multiple of the page size */
#define PROGRESS_NS 200000000ull

struct dump {
	struct new_file file;
	u8 *block;
	size_t filled;
	u64 written, total; /* bytes */
	u64 shown;	    /* host time */
	bool terminal;
};

static void show_progress(struct dump *d)
{
	u64 now = host_ns();

	if (!d->terminal || now - d->shown < PROGRESS_NS)
		return;
	d->shown = now;
	fprintf(stderr, "\r%llu of %llu MiB ", (unsigned long long)(d->written / MiB),
		(unsigned long long)(d->total / MiB));
}

static int flush(struct dump *d, struct error *e)
{
	if (new_file_write(&d->file, d->block, d->filled, d->written, e))
		return -1;
	d->written += d->filled;
	d->filled = 0;
	show_progress(d);
	return 0;
}

static int take(void *opaque, const char *data, size_t n, u64 total, struct error *e)
{
	struct dump *d = opaque;

	d->total = total;
	while (n) {
		size_t part = MIN(n, BLOCK - d->filled);

		memcpy(d->block + d->filled, data, part);
		d->filled += part;
		data += part;
		n -= part;
		if (d->filled == BLOCK && flush(d, e))
			return -1;
	}
	return 0;
}

static void report(const struct dump *d, const char *path, u64 ns)
{
	struct stat st;
	u64 used = stat(path, &st) ? 0 : (u64)st.st_blocks * 512;

	if (d->terminal)
		fputs("\r\033[K", stderr);
	printf("%s: %.1f MiB, %.1f MiB of them on disk, in %.2f s\n", path, (double)d->total / (double)MiB,
	       (double)used / (double)MiB, (double)ns / 1e9);
}

static int dump(const char *machine, const char *path, bool paging, bool force)
{
	struct dump d = { .terminal = isatty(STDERR_FILENO), .block = malloc(BLOCK) };
	const struct ctl_sink sink = { take, &d };
	json_t *body = json_pack("{s:b}", "paging", paging);
	u64 start = host_ns();
	struct error e;
	int ret = CTL_REFUSED;

	if (!d.block || !body) {
		error_set(&e, "not enough memory");
		d.file.fd = -1;
	} else if (new_file_create(&d.file, path, force, &e)) {
		ret = CTL_NO_MACHINE; /* bad usage as well */
	} else {
		ret = ctl_fetch(machine, "PUT", "/api/v1/vm.coredump", body, &sink, &e);
		if (!ret && (flush(&d, &e) || new_file_finish(&d.file, d.total, &e)))
			ret = CTL_REFUSED;
	}
	new_file_drop(&d.file);
	json_decref(body);
	free(d.block);
	if (d.terminal && ret && d.total)
		fputs("\r\033[K", stderr);
	if (!ret)
		report(&d, path, host_ns() - start);
	return fflush(stdout) && !ret ? EXIT_FAILED : control_status("dump", ret, &e);
}

static int help(void)
{
	printf(
	    "usage: ectype dump NAME FILE [--paging] [--force]\n"
	    "Writes the memory and the registers of the running machine NAME into FILE, an ELF core for gdb and crash.\n"
	    "The guest stands still meanwhile.\n\n"
	    "  --paging  with the virtual addresses that the processors' page tables map, for gdb\n"
	    "  --force   replace FILE\n");
	return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
}

int cmd_dump(int argc, char **argv)
{
	const char *name[2] = { NULL };
	bool paging = false, force = false;
	unsigned names = 0;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
			return help();
		if (!strcmp(argv[i], "--paging"))
			paging = true;
		else if (!strcmp(argv[i], "--force"))
			force = true;
		else if (argv[i][0] == '-' || names == 2)
			return usage_error("dump: no argument '%s' (see ectype dump --help)", argv[i]);
		else
			name[names++] = argv[i];
	}
	if (names < 2)
		return usage_error("dump: %s (see ectype dump --help)", names ? "into which file?" : "which machine?");
	return dump(name[0], name[1], paging, force);
}

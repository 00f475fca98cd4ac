/* Opening a snapshot and checking it. The directory may come from anybody. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/snapshot.h"

/* A regular file of the directory, opened to be read. -1 with *e. */
static int open_file(const char *dir, const char *name, u64 *size, struct error *e)
{
	char path[PATH_MAX + 16];
	struct stat st;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	/* O_NONBLOCK: opening a FIFO must not wait for its writer */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return error_errno(e, errno, "%s is no snapshot: cannot open %s", dir, path);
	if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
		close(fd);
		return error_set(e, "%s is no snapshot: %s is no file", dir, path);
	}
	*size = (u64)st.st_size;
	return fd;
}

static int read_state(struct snapshot_reader *r, struct error *e)
{
	char what[PATH_MAX + 16];
	u64 size, pos = 0;
	int fd = open_file(r->path, SNAPSHOT_STATE, &size, e);

	if (fd < 0)
		return -1;
	snprintf(what, sizeof(what), "%s/%s", r->path, SNAPSHOT_STATE);
	if (size > STREAM_BYTES_MAX || !(r->data = malloc(size + 1))) {
		close(fd);
		return error_set(e, "%s is too large for a snapshot", what);
	}
	while (pos < size) {
		ssize_t n = pread(fd, r->data + pos, size - pos, (off_t)pos);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		pos += (u64)n;
	}
	close(fd);
	if (pos < size)
		return error_set(e, "%s cannot be read", what);
	r->len = size;
	return stream_read(&r->stream, r->data, r->len, what, e);
}

static struct stream_section *need(struct snapshot_reader *r, const char *name, struct error *e)
{
	struct stream_section *s = stream_find(&r->stream, name);

	if (!s)
		error_set(e, "%s/%s has no section %s", r->path, SNAPSHOT_STATE, name);
	return s;
}

static int read_sections(struct snapshot_reader *r, struct error *e)
{
	const struct stream_section *options = need(r, SAVED_OPTIONS_SECTION, e), *disks, *ram;
	struct decoder d;

	if (!options || !(disks = need(r, SNAPSHOT_DISKS_SECTION, e)) || !(ram = need(r, RAM_SECTION, e)))
		return -1;
	d = stream_decoder(ram);
	r->ram_size = dec_u64(&d);
	r->ram.pages = dec_u64(&d);
	r->ram.sum = dec_u64(&d);
	if (!dec_done(&d) || snapshot_disks_read(&r->disks, stream_decoder(disks)) ||
	    saved_options_read(&r->options, stream_decoder(options)))
		return error_set(e, "%s/%s: one of the sections options, disks, ram is not sound", r->path,
				 SNAPSHOT_STATE);
	return 0;
}

int snapshot_reader_open(struct snapshot_reader *r, const char *path, struct error *e)
{
	u64 size;

	*r = (struct snapshot_reader){ .ram_fd = -1 };
	if (!realpath(path, r->path))
		return error_errno(e, errno, "cannot open snapshot %s", path);
	if (read_state(r, e) || read_sections(r, e))
		goto fail;
	r->ram_fd = open_file(r->path, SNAPSHOT_RAM, &size, e);
	if (r->ram_fd < 0)
		goto fail;
	if (size == r->ram_size)
		return 0;
	error_set(e, "%s/%s has %lu bytes, the machine has %lu of RAM: it is not whole, or of another snapshot",
		  r->path, SNAPSHOT_RAM, size, r->ram_size);
fail:
	snapshot_reader_close(r);
	return -1;
}

int snapshot_check_ram(const struct snapshot_reader *r, struct error *e)
{
	struct ram_sum sum = { 0 };
	const u8 *ram = mmap(NULL, r->ram_size, PROT_READ, MAP_PRIVATE, r->ram_fd, 0);
	off_t at = 0;

	if (ram == MAP_FAILED)
		return error_errno(e, errno, "cannot map %s/%s", r->path, SNAPSHOT_RAM);
	while ((at = lseek(r->ram_fd, at, SEEK_DATA)) >= 0) {
		off_t hole = lseek(r->ram_fd, at, SEEK_HOLE);

		for (; at < hole; at += PAGE_SIZE)
			if (!ram_page_zero(ram + at))
				ram_sum_add(&sum, (u64)at / PAGE_SIZE, ram + at);
	}
	munmap((void *)(uintptr_t)ram, r->ram_size);
	if (sum.pages == r->ram.pages && sum.sum == r->ram.sum)
		return 0;
	return error_set(e, "%s/%s is damaged: its checksum is wrong", r->path, SNAPSHOT_RAM);
}

void snapshot_reader_close(struct snapshot_reader *r)
{
	stream_free(&r->stream);
	saved_options_free(&r->options);
	free(r->data);
	if (r->ram_fd >= 0)
		close(r->ram_fd);
	*r = (struct snapshot_reader){ .ram_fd = -1 };
}

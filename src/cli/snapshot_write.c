/*
 * Receiving a snapshot: sections of state are kept until the end, RAM goes to
 * its file as it comes. The directory has a temporary name until everything in
 * it is on the disk.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/snapshot.h"

#define COPY_PIECE (8 * MiB)

struct snapshot_writer {
	char path[PATH_MAX], made[PATH_MAX]; /* in the end; now: as long as it differs it is a temporary name */
	int dir, ram;
	/* what came and is not a whole section yet */
	u8 *in;
	size_t in_len, in_cap;
	bool begun, ended;
	u64 number; /* of the next section that comes */
	/* sections of `state`, without beginning and end: the writer's own are added to copies of it */
	struct encoder out;
	struct stream_writer w;
	u64 ram_size;
	struct ram_sum sum;
	bool has_sum;
	u64 still;
	struct saved_options options;
	bool has_options;
};

static int failed(const struct snapshot_writer *w, const char *what, struct error *e)
{
	return error_errno(e, errno, "%s/%s", w->made, what);
}

/* ---- making the directory ---- */

static int make_directory(struct snapshot_writer *w, const char *path, struct error *e)
{
	size_t n = strlen(path);
	struct stat st;

	while (n > 1 && path[n - 1] == '/')
		n--;
	if (!n || n + 8 >= sizeof(w->path))
		return error_set(e, "'%.64s' is no name for a directory", path);
	snprintf(w->path, sizeof(w->path), "%.*s", (int)n, path);
	if (!lstat(w->path, &st))
		return error_set(e, "%s is there already: give another name", w->path);
	snprintf(w->made, sizeof(w->made), "%.*s.XXXXXX", (int)n, path);
	if (!mkdtemp(w->made)) {
		w->made[0] = 0;
		return error_errno(e, errno, "cannot create %s", w->path);
	}
	w->dir = open(w->made, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (w->dir >= 0)
		w->ram = openat(w->dir, SNAPSHOT_RAM, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	return w->ram < 0 ? failed(w, SNAPSHOT_RAM, e) : 0;
}

struct snapshot_writer *snapshot_create(const char *path, struct error *e)
{
	struct snapshot_writer *w = calloc(1, sizeof(*w));

	if (!w) {
		error_set(e, "not enough memory");
		return NULL;
	}
	w->dir = w->ram = -1;
	stream_begin(&w->w, &w->out);
	if (!make_directory(w, path, e))
		return w;
	snapshot_drop(w);
	return NULL;
}

static void remove_all(struct snapshot_writer *w)
{
	char name[64];

	unlinkat(w->dir, SNAPSHOT_RAM, 0);
	unlinkat(w->dir, SNAPSHOT_STATE, 0);
	unlinkat(w->dir, SNAPSHOT_STATE ".new", 0);
	for (unsigned i = 0; w->has_options && i < w->options.count; i++) {
		const char *id = strstr(w->options.option[i], ",id=");

		if (strncmp(w->options.option[i], "--disk=", 7) || !id)
			continue;
		snprintf(name, sizeof(name), "%.*s.img", (int)MIN(strcspn(id + 4, ","), 40u), id + 4);
		unlinkat(w->dir, name, 0);
	}
	rmdir(w->made);
}

void snapshot_drop(struct snapshot_writer *w)
{
	if (!w)
		return;
	if (w->made[0] && strcmp(w->made, w->path))
		remove_all(w);
	if (w->ram >= 0)
		close(w->ram);
	if (w->dir >= 0)
		close(w->dir);
	if (w->has_options)
		saved_options_free(&w->options);
	enc_free(&w->out);
	free(w->in);
	free(w);
}

/* ---- what comes ---- */

static int write_all(int fd, const u8 *p, size_t n, u64 at)
{
	while (n) {
		ssize_t done = pwrite(fd, p, n, (off_t)at);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return -1;
		p += done;
		at += (u64)done;
		n -= (size_t)done;
	}
	return 0;
}

static int take_ram(struct snapshot_writer *w, const struct stream_section *s, struct error *e)
{
	struct decoder d = stream_decoder(s);
	u64 at = dec_u64(&d), n = s->len - d.pos;

	if (d.failed || at % PAGE_SIZE || n % PAGE_SIZE || at > w->ram_size || n > w->ram_size - at)
		return error_set(e, "the machine sent memory that it does not have");
	for (u64 i = 0; i < n; i += PAGE_SIZE)
		ram_sum_add(&w->sum, (at + i) / PAGE_SIZE, d.data + d.pos + i);
	return write_all(w->ram, d.data + d.pos, n, at) ? failed(w, SNAPSHOT_RAM, e) : 0;
}

static int take_section(struct snapshot_writer *w, const struct stream_section *s, struct error *e)
{
	struct decoder d = stream_decoder(s);

	if (!strcmp(s->name, STREAM_END)) {
		w->ended = true;
	} else if (!strcmp(s->name, RAM_DATA)) {
		return take_ram(w, s, e);
	} else if (!strcmp(s->name, RAM_SIZE)) {
		w->ram_size = dec_u64(&d);
		if (w->ram_size % PAGE_SIZE || ftruncate(w->ram, (off_t)w->ram_size))
			return failed(w, SNAPSHOT_RAM, e);
	} else if (!strcmp(s->name, RAM_SUM)) {
		w->has_sum = dec_u64(&d) == w->sum.pages && dec_u64(&d) == w->sum.sum;
		w->still = dec_u64(&d);
	} else {
		if (!strcmp(s->name, SAVED_OPTIONS_SECTION) && !w->has_options)
			w->has_options = !saved_options_read(&w->options, d);
		stream_section(&w->w, s->name, s->flags, s->payload, s->len);
	}
	return w->out.failed ? error_set(e, "not enough memory") : 0;
}

/* The section at *pos, if all of it is there: 1, and *pos is behind it. */
static int next_section(struct snapshot_writer *w, size_t *pos, struct error *e)
{
	static const char what[] = "what the machine sent";
	size_t left = w->in_len - *pos;
	struct stream_section s;
	u64 n;

	if (!w->begun) {
		if (left < STREAM_HEAD_BYTES)
			return 0;
		if (stream_check_head(w->in, what, e))
			return -1;
		w->begun = true;
		*pos += STREAM_HEAD_BYTES;
		return 1;
	}
	if (left < STREAM_SECTION_HEAD_BYTES)
		return 0;
	n = stream_section_rest(w->in + *pos);
	if (!n || w->ended)
		return error_set(e, "%s is damaged", what);
	n += STREAM_SECTION_HEAD_BYTES;
	if (left < n)
		return 0;
	if (stream_read_section(w->in + *pos, n, w->number++, &s, what, e) || take_section(w, &s, e))
		return -1;
	*pos += n;
	return 1;
}

int snapshot_take_piece(void *writer, const char *data, size_t n, u64 total, struct error *e)
{
	struct snapshot_writer *w = writer;
	size_t pos = 0;
	int ret;

	if (n > w->in_cap - w->in_len) {
		size_t cap = MAX(2 * w->in_cap, w->in_len + n);
		u8 *in = realloc(w->in, cap);

		if (!in)
			return error_set(e, "not enough memory");
		w->in = in;
		w->in_cap = cap;
	}
	memcpy(w->in + w->in_len, data, n);
	w->in_len += n;
	while ((ret = next_section(w, &pos, e)) > 0)
		;
	memmove(w->in, w->in + pos, w->in_len - pos);
	w->in_len -= pos;
	return ret;
}

struct saved_options *snapshot_received(struct snapshot_writer *w, struct error *e)
{
	if (!w->ended || w->in_len) {
		error_set(e, "the machine went on, or ended, before all of its memory was sent");
		return NULL;
	}
	if (!w->has_sum || !w->has_options) {
		error_set(e, "what the machine sent is damaged");
		return NULL;
	}
	return &w->options;
}

u64 snapshot_still_ns(const struct snapshot_writer *w)
{
	return w->still;
}

u64 snapshot_ram_bytes(const struct snapshot_writer *w)
{
	return w->sum.pages * PAGE_SIZE;
}

/* ---- disks ---- */

static int copy_range(int from, int to, off_t at, off_t end)
{
	while (at < end) {
		off_t in = at, out = at;
		ssize_t n = copy_file_range(from, &in, to, &out, MIN((size_t)(end - at), COPY_PIECE), 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (n == 0)
			break; /* shorter than it was */
		at += n;
	}
	return 0;
}

static int copy_file(int from, int to, off_t size)
{
	off_t at = 0;

	if (!ioctl(to, FICLONE, from))
		return 0;
	if (ftruncate(to, size))
		return -1;
	while (at < size) {
		off_t data = lseek(from, at, SEEK_DATA), hole;

		if (data < 0 && errno == ENXIO)
			return 0;
		if (data < 0)
			data = at;
		hole = lseek(from, data, SEEK_HOLE);
		if (hole <= data || hole > size)
			hole = size;
		if (copy_range(from, to, data, hole))
			return -1;
		at = hole;
	}
	return 0;
}

int snapshot_copy_disk(struct snapshot_writer *w, const struct snapshot_disk *d, const char *from, struct error *e)
{
	int in = open(from, O_RDONLY | O_CLOEXEC), out = -1, ret = 0;
	struct stat st;

	if (in < 0 || fstat(in, &st)) {
		ret = error_errno(e, errno, "cannot read disk %s", from);
	} else if (!S_ISREG(st.st_mode)) {
		ret = error_set(e, "disk %s is no file: save the machine with --stop", from);
	} else {
		out = openat(w->dir, d->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (out < 0 || copy_file(in, out, st.st_size) || fsync(out))
			ret = failed(w, d->path, e);
	}
	if (in >= 0)
		close(in);
	if (out >= 0)
		close(out);
	return ret;
}

/* ---- the end ---- */

static int write_state(struct snapshot_writer *w, const struct encoder *e, struct error *err)
{
	int fd = openat(w->dir, SNAPSHOT_STATE ".new", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	int ret = 0;

	if (fd < 0 || write_all(fd, e->data, e->len, 0) || fsync(fd) ||
	    renameat(w->dir, SNAPSHOT_STATE ".new", w->dir, SNAPSHOT_STATE))
		ret = failed(w, SNAPSHOT_STATE, err);
	if (fd >= 0)
		close(fd);
	return ret;
}

static void flush_parent(const char *path)
{
	char parent[PATH_MAX];
	char *slash;
	int fd;

	snprintf(parent, sizeof(parent), "%s", path);
	slash = strrchr(parent, '/');
	if (slash)
		slash[slash == parent] = 0;
	fd = open(slash ? parent : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return;
	fsync(fd);
	close(fd);
}

int snapshot_finish(struct snapshot_writer *w, const struct snapshot_disks *disks, struct error *e)
{
	/* what is added to the sections that came is taken back, for another time */
	const struct stream_writer before = w->w;
	size_t len = w->out.len;
	int ret;

	stream_section_begin(&w->w, RAM_SECTION, STREAM_REQUIRED);
	enc_u64(&w->out, w->ram_size);
	enc_u64(&w->out, w->sum.pages);
	enc_u64(&w->out, w->sum.sum);
	stream_section_end(&w->w);
	stream_section_begin(&w->w, SNAPSHOT_DISKS_SECTION, STREAM_REQUIRED);
	snapshot_disks_write(disks, &w->out);
	stream_section_end(&w->w);
	stream_finish(&w->w);
	if (w->out.failed)
		return error_set(e, "not enough memory");
	ret = fsync(w->ram) ? failed(w, SNAPSHOT_RAM, e) : write_state(w, &w->out, e);
	w->out.len = len;
	w->w = before;
	if (ret || fsync(w->dir))
		return ret ? ret : failed(w, "", e);
	if (!strcmp(w->made, w->path))
		return 0;
	if (renameat2(AT_FDCWD, w->made, AT_FDCWD, w->path, RENAME_NOREPLACE))
		return error_errno(e, errno, "cannot rename %s to %s", w->made, w->path);
	strcpy(w->made, w->path);
	flush_parent(w->path);
	return 0;
}

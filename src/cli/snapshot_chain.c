/* A snapshot and its bases: opening what has RAM. The directories may come from anybody. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/snapshot.h"

int snapshot_open_file(const char *dir, const char *name, u64 *size, struct error *e)
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

int snapshot_state_read(struct snapshot_state *s, const char *dir, struct error *e)
{
	char what[PATH_MAX + 16];
	u64 size, pos = 0;
	int fd = snapshot_open_file(dir, SNAPSHOT_STATE, &size, e);

	*s = (struct snapshot_state){ 0 };
	if (fd < 0)
		return -1;
	snprintf(what, sizeof(what), "%s/%s", dir, SNAPSHOT_STATE);
	if (size > STREAM_BYTES_MAX || !(s->data = malloc(size + 1))) {
		close(fd);
		return error_set(e, "%s is too large for a snapshot", what);
	}
	while (pos < size) {
		ssize_t n = pread(fd, s->data + pos, size - pos, (off_t)pos);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		pos += (u64)n;
	}
	close(fd);
	s->len = size;
	if (pos < size)
		error_set(e, "%s cannot be read", what);
	else if (!stream_read(&s->stream, s->data, s->len, what, e))
		return 0;
	snapshot_state_free(s);
	return -1;
}

void snapshot_state_free(struct snapshot_state *s)
{
	stream_free(&s->stream);
	free(s->data);
	*s = (struct snapshot_state){ 0 };
}

struct snapshot_identity snapshot_identity(const struct snapshot_state *s)
{
	XXH128_hash_t sum = XXH3_128bits(s->data, s->len);

	return (struct snapshot_identity){ sum.low64, sum.high64 };
}

/* ---- sections ---- */

void snapshot_base_write(const struct snapshot_base *b, struct encoder *e)
{
	enc_u16(e, (u16)strlen(b->path));
	enc_bytes(e, b->path, strlen(b->path));
	enc_u64(e, b->is.low);
	enc_u64(e, b->is.high);
}

int snapshot_base_read(struct snapshot_base *b, struct decoder d)
{
	u16 n = dec_u16(&d);

	if (!n || n >= sizeof(b->path))
		return -1;
	dec_bytes(&d, b->path, n);
	b->path[n] = 0;
	b->is.low = dec_u64(&d);
	b->is.high = dec_u64(&d);
	return dec_done(&d) && strlen(b->path) == n ? 0 : -1;
}

/* RAM's size and sum: those of the machine are those of the first level. */
static bool read_size(struct ram_chain *c, const struct stream_section *s)
{
	struct decoder d = stream_decoder(s);
	u64 size = dec_u64(&d), pages = dec_u64(&d), sum = dec_u64(&d);

	if (!dec_done(&d) || !size || size % PAGE_SIZE || size > INT64_MAX || pages > size / PAGE_SIZE ||
	    (c->levels > 1 && size != c->size))
		return false;
	c->size = size;
	c->level[c->levels - 1].pages = pages;
	if (c->levels == 1)
		c->sum = (struct ram_sum){ pages, sum };
	return true;
}

static int unsound(const char *dir, const char *what, struct error *e)
{
	return error_set(e, "%s/%s: section %s is not sound", dir, SNAPSHOT_STATE, what);
}

/*
 * A file that was cut and made longer again, or whose data never came to the disk, has holes where there was something.
 * Blocks are a first look: there may be fewer where a file system compresses.
 */
static bool has_data(int fd, u64 bytes)
{
	off_t at = 0, hole;
	struct stat st;
	u64 data = 0;

	if (!fstat(fd, &st) && (u64)st.st_blocks * 512 >= bytes)
		return true;
	while ((at = lseek(fd, at, SEEK_DATA)) >= 0) {
		hole = lseek(fd, at, SEEK_HOLE);
		if (hole <= at)
			return true;
		data += (u64)(hole - at);
		at = hole;
	}
	return errno != ENXIO || data >= bytes;
}

/* Another level of the chain. `index` may be NULL. */
static int open_level(struct ram_chain *c, const char *dir, const struct stream_section *ram,
		      const struct stream_section *index, struct error *e)
{
	struct ram_level *l = &c->level[c->levels++];
	bool packed = index && index->len && index->payload[0];
	const char *name = packed ? SNAPSHOT_RAM_PACKED : SNAPSHOT_RAM;

	*l = (struct ram_level){ .fd = -1, .indexed = index, .path = strdup(dir) };
	if (!l->path)
		return error_set(e, "not enough memory");
	if (!ram || !read_size(c, ram))
		return unsound(dir, RAM_SECTION, e);
	l->fd = snapshot_open_file(dir, name, &l->file_size, e);
	if (l->fd < 0)
		return -1;
	if (!packed && l->file_size != c->size)
		return error_set(e,
				 "%s/%s has %lu bytes, the machine has %lu of RAM: it is not whole, or of another "
				 "snapshot",
				 dir, name, l->file_size, c->size);
	if (!index && !has_data(l->fd, l->pages * PAGE_SIZE))
		return error_set(e, "%s/%s is not whole: there are holes where it has had data", dir, name);
	if (index && ram_index_read(&l->index, stream_decoder(index), c->size, l->file_size))
		return error_set(e, "%s/%s and the section %s do not go together: one is not whole", dir, name,
				 SNAPSHOT_INDEX_SECTION);
	return 0;
}

/* The images of disks in the base `dir`, which images of the snapshot build on: are they as long as they were? */
static int check_images(const char *dir, const struct stream *s, struct error *e)
{
	const struct stream_section *section = stream_find(s, SNAPSHOT_DISKS_SECTION);
	struct snapshot_disks *d = calloc(1, sizeof(*d));
	char path[2 * PATH_MAX];
	u64 size, written;
	int ret = 0;

	if (!d || !section || snapshot_disks_read(d, stream_decoder(section)))
		ret = unsound(dir, SNAPSHOT_DISKS_SECTION, e);
	for (unsigned i = 0; !ret && i < d->count; i++) {
		if (!snapshot_disk_own(&d->disk[i]))
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, d->disk[i].path);
		if (snapshot_file_identity(path, &size, &written))
			ret = error_errno(e, errno, "disk '%s' of the base, %.256s", d->disk[i].id, path);
		else if (size != d->disk[i].size)
			ret = error_set(e, "disk '%s' of the base, %.256s, was changed since", d->disk[i].id, path);
	}
	free(d);
	return ret;
}

/* The base of the last level, described by `section`: its state in *to, its directory in `dir`. */
static int find_base(const struct ram_chain *c, const struct stream_section *section, char dir[PATH_MAX],
		     struct snapshot_state *to, struct error *e)
{
	const char *of = c->level[c->levels - 1].path;
	struct snapshot_identity is;
	struct snapshot_base b;
	char path[2 * PATH_MAX];
	struct error why;

	if (snapshot_base_read(&b, stream_decoder(section)))
		return unsound(of, SNAPSHOT_BASE_SECTION, e);
	if (c->levels == RAM_CHAIN_MAX)
		return error_set(e, "%s: more than %u snapshots build on each other", c->level[0].path, RAM_CHAIN_MAX);
	snprintf(path, sizeof(path), "%s%s%s", b.path[0] == '/' ? "" : of, b.path[0] == '/' ? "" : "/", b.path);
	if (!realpath(path, dir))
		return error_errno(e, errno, "the base of snapshot %s, %s", of, path);
	if (snapshot_state_read(to, dir, &why))
		return error_set(e, "the base of snapshot %s: %s", of, why.text);
	is = snapshot_identity(to);
	if (is.low == b.is.low && is.high == b.is.high && !check_images(dir, &to->stream, e))
		return 0;
	snapshot_state_free(to);
	if (is.low == b.is.low && is.high == b.is.high)
		return -1;
	return error_set(e, "the base of snapshot %s, %s, was changed or replaced: the two do not go together any more",
			 of, dir);
}

int snapshot_chain_open(struct ram_chain *c, const char *path, const struct stream *s, struct error *e)
{
	struct snapshot_state state = { 0 };
	char dir[PATH_MAX];
	int ret;

	c->levels = 0;
	snprintf(dir, sizeof(dir), "%s", path);
	for (;;) {
		const struct stream_section *base = stream_find(s, SNAPSHOT_BASE_SECTION);
		const struct stream_section *index = stream_find(s, SNAPSHOT_INDEX_SECTION);
		struct snapshot_state next;

		ret = open_level(c, dir, stream_find(s, RAM_SECTION), index, e);
		if (!ret && base && !index)
			ret = unsound(dir, SNAPSHOT_BASE_SECTION, e);
		if (ret || !base)
			break;
		ret = find_base(c, base, dir, &next, e);
		if (ret)
			break;
		snapshot_state_free(&state);
		state = next;
		s = &state.stream;
	}
	snapshot_state_free(&state);
	if (ret)
		ram_chain_close(c);
	return ret;
}

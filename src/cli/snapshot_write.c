/*
 * Receiving a snapshot: sections of state are kept until the end, RAM goes to
 * its file as it comes. The directory has a temporary name until everything in
 * it is on the disk.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/new_file.h"
#include "cli/snapshot.h"
#include "cli/snapshot_images.h"

struct snapshot_writer {
	char path[PATH_MAX], made[PATH_MAX]; /* in the end; now: as long as it differs it is a temporary name */
	int dir;
	struct ram_out *ram;
	struct snapshot_base base; /* path "": none */
	struct ram_chain chain;	   /* of the base */
	bool no_sync;
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
	struct snapshot_images images;
	struct snapshot_images_base images_base;
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
	return w->dir < 0 ? failed(w, "", e) : 0;
}

/* How `to` is found from the directory `from`; both absolute and without "..". */
static int relative_path(const char *from, const char *to, char out[PATH_MAX])
{
	size_t same = 0, n = 0;

	for (size_t i = 0;; i++) {
		bool end_from = !from[i] || from[i] == '/', end_to = !to[i] || to[i] == '/';

		if (end_from && end_to)
			same = i;
		if (!from[i] || !to[i] || from[i] != to[i])
			break;
	}
	for (const char *p = from + same; *p; p++)
		if (*p == '/' && p[1] && n + 3 < PATH_MAX)
			n += (size_t)snprintf(out + n, PATH_MAX - n, "../");
	return snprintf(out + n, PATH_MAX - n, "%s", to[same] ? to + same + 1 : ".") >= (int)(PATH_MAX - n) ? -1 : 0;
}

/* Which disks the base has images of. */
static int find_images(struct snapshot_writer *w, const struct stream *s, const char *base, struct error *e)
{
	const struct stream_section *section = stream_find(s, SNAPSHOT_DISKS_SECTION);
	struct snapshot_images_base *to = &w->images_base;
	struct snapshot_disks *d = calloc(1, sizeof(*d));
	int ret = d && section ? snapshot_disks_read(d, stream_decoder(section)) : -1;

	for (unsigned i = 0; !ret && i < d->count && to->count < ARRAY_SIZE(to->image); i++) {
		if (!snapshot_disk_own(&d->disk[i]))
			continue;
		snprintf(to->image[to->count].id, sizeof(to->image[0].id), "%s", d->disk[i].id);
		to->image[to->count++].format = d->disk[i].format;
	}
	free(d);
	snprintf(to->path, sizeof(to->path), "%s", base);
	w->images.base = to;
	return ret ? error_set(e, "the disks of the base %s are not known", base) : 0;
}

static int open_base(struct snapshot_writer *w, const char *path, struct error *e)
{
	char base[PATH_MAX], made[PATH_MAX];
	struct snapshot_state s;
	struct error why;
	int ret;

	if (!realpath(path, base))
		return error_errno(e, errno, "the base %s", path);
	if (!realpath(w->made, made))
		return failed(w, "", e);
	if (snapshot_state_read(&s, base, e))
		return -1;
	w->base.is = snapshot_identity(&s);
	ret = snapshot_chain_open(&w->chain, base, &s.stream, &why) || find_images(w, &s.stream, base, &why);
	snapshot_state_free(&s);
	if (ret)
		return error_set(e, "the base %s cannot be used: %s", path, why.text);
	if (w->chain.levels == RAM_CHAIN_MAX)
		return error_set(e, "%u snapshots build on each other up to %s: make one without a base", RAM_CHAIN_MAX,
				 path);
	if (*path != '/')
		ret = relative_path(made, base, w->base.path);
	else
		snprintf(w->base.path, sizeof(w->base.path), "%s", base);
	strcpy(w->images_base.stored, w->base.path);
	return ret ? error_set(e, "the path of the base %s is too long", path) : 0;
}

struct snapshot_writer *snapshot_create(const char *path, struct error *e)
{
	return snapshot_create_as(path, &(struct snapshot_form){ 0 }, e);
}

struct snapshot_writer *snapshot_create_as(const char *path, const struct snapshot_form *f, struct error *e)
{
	struct snapshot_writer *w = calloc(1, sizeof(*w));

	if (!w) {
		error_set(e, "not enough memory");
		return NULL;
	}
	w->dir = -1;
	w->images.backings = f->backings;
	w->no_sync = f->no_sync;
	stream_begin(&w->w, &w->out);
	if (!make_directory(w, path, e) && (!f->base || !open_base(w, f->base, e)) &&
	    (w->ram = ram_out_create(w->dir, f->level, f->base ? &w->chain : NULL, e)))
		return w;
	snapshot_drop(w);
	return NULL;
}

static void remove_all(struct snapshot_writer *w)
{
	if (w->ram)
		unlinkat(w->dir, ram_out_name(w->ram), 0);
	unlinkat(w->dir, SNAPSHOT_STATE, 0);
	unlinkat(w->dir, SNAPSHOT_STATE ".new", 0);
	snapshot_images_close(&w->images, w->dir, true);
	rmdir(w->made);
}

void snapshot_drop(struct snapshot_writer *w)
{
	if (!w)
		return;
	if (w->made[0] && strcmp(w->made, w->path))
		remove_all(w);
	snapshot_images_close(&w->images, w->dir, false);
	ram_out_free(w->ram);
	ram_chain_close(&w->chain);
	if (w->dir >= 0)
		close(w->dir);
	if (w->has_options)
		saved_options_free(&w->options);
	enc_free(&w->out);
	free(w->in);
	free(w);
}

/* ---- what comes ---- */

static int take_ram(struct snapshot_writer *w, const struct stream_section *s, struct error *e)
{
	struct decoder d = stream_decoder(s);
	u64 at = dec_u64(&d), n = s->len - d.pos;

	if (d.failed || at % PAGE_SIZE || n % PAGE_SIZE || at > w->ram_size || n > w->ram_size - at)
		return error_set(e, "the machine sent memory that it does not have");
	for (u64 i = 0; i < n; i += PAGE_SIZE)
		ram_sum_add(&w->sum, (at + i) / PAGE_SIZE, d.data + d.pos + i);
	return ram_out_take(w->ram, at, d.data + d.pos, n, e);
}

/* What this process adds of its own: a machine has nothing to say there. */
static bool own_section(const char *name)
{
	return !strcmp(name, RAM_SECTION) || !strcmp(name, SNAPSHOT_INDEX_SECTION) ||
	       !strcmp(name, SNAPSHOT_BASE_SECTION) || !strcmp(name, SNAPSHOT_DISKS_SECTION) ||
	       !strcmp(name, SNAPSHOT_FILES_SECTION);
}

static int take_failure(const struct stream_section *s, struct error *e)
{
	error_set(e, "%.*s", (int)s->len, (const char *)s->payload);
	for (char *p = e->text; *p; p++)
		if (*p < ' ' || *p > '~')
			*p = '?';
	return -1;
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
		return ram_out_size(w->ram, w->ram_size, e);
	} else if (!strcmp(s->name, RAM_SUM)) {
		w->has_sum = dec_u64(&d) == w->sum.pages && dec_u64(&d) == w->sum.sum;
		w->still = dec_u64(&d);
	} else if (snapshot_images_section(s)) {
		return snapshot_images_take(&w->images, w->dir, w->made, s, e);
	} else if (!strcmp(s->name, SAVING_FAILED)) {
		return take_failure(s, e);
	} else if (own_section(s->name)) {
		return error_set(e, "the machine sent a section %s, which is not its own", s->name);
	} else {
		if (!strcmp(s->name, SAVED_OPTIONS_SECTION) && !w->has_options)
			w->has_options = !saved_options_read(&w->options, d);
		stream_section(&w->w, s->name, s->flags, s->payload, s->len);
	}
	if (w->out.len > STREAM_BYTES_MAX)
		return error_set(e, "the machine sent more state than a snapshot may have");
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
		error_set(e, "the machine went on, or ended, before all of it was sent");
		return NULL;
	}
	if (!w->has_sum || !w->has_options || !snapshot_images_whole(&w->images)) {
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

u64 snapshot_file_bytes(const struct snapshot_writer *w)
{
	return ram_out_bytes(w->ram);
}

bool snapshot_has_image(const struct snapshot_writer *w, struct snapshot_disk *d)
{
	const struct snapshot_image *im = snapshot_images_find(&w->images, d->id);
	char name[40];

	if (!im || snapshot_image_size(im, &d->size))
		return false;
	snapshot_image_name(im->id, name);
	snprintf(d->path, sizeof(d->path), "%s", name);
	d->format = im->format;
	return true;
}

int snapshot_note_backing(const struct snapshot_writer *w, const struct snapshot_disk *d, struct snapshot_disks *to,
			  struct error *e)
{
	const struct snapshot_backing *b = snapshot_backings_of(w->images.backings, d->id);
	struct block_config image = { .format = d->format };
	char path[2 * PATH_MAX];
	u64 size, written;

	for (unsigned i = 0; b && i < b->files; i++)
		if (snapshot_file_identity(b->file[i].path, &size, &written) || size != b->file[i].size ||
		    written != b->file[i].written)
			return error_set(e, "disk '%s': its backing file %s was changed meanwhile", d->id,
					 b->file[i].path);
	snprintf(path, sizeof(path), "%s/%s", w->made, d->path);
	image.path = path;
	return snapshot_files_note(to, d->id, &image, w->base.path[0] ? &w->chain : NULL, e);
}

u64 snapshot_image_bytes(const struct snapshot_writer *w)
{
	return snapshot_images_bytes(&w->images);
}

/* ---- the end ---- */

static int write_state(struct snapshot_writer *w, const struct encoder *e, struct error *err)
{
	int fd = openat(w->dir, SNAPSHOT_STATE ".new", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	int ret = 0;

	if (fd < 0 || write_all_at(fd, e->data, e->len, 0) || (!w->no_sync && fsync(fd)) ||
	    renameat(w->dir, SNAPSHOT_STATE ".new", w->dir, SNAPSHOT_STATE))
		ret = failed(w, SNAPSHOT_STATE, err);
	if (fd >= 0)
		close(fd);
	return ret;
}

static void add_ram_sections(struct snapshot_writer *w)
{
	const struct ram_index *index = ram_out_index(w->ram);

	stream_section_begin(&w->w, RAM_SECTION, STREAM_REQUIRED);
	enc_u64(&w->out, w->ram_size);
	enc_u64(&w->out, w->sum.pages);
	enc_u64(&w->out, w->sum.sum);
	stream_section_end(&w->w);
	if (index) {
		stream_section_begin(&w->w, SNAPSHOT_INDEX_SECTION, STREAM_REQUIRED);
		ram_index_write(index, &w->out);
		stream_section_end(&w->w);
	}
	if (w->base.path[0]) {
		stream_section_begin(&w->w, SNAPSHOT_BASE_SECTION, STREAM_REQUIRED);
		snapshot_base_write(&w->base, &w->out);
		stream_section_end(&w->w);
	}
}

int snapshot_finish(struct snapshot_writer *w, const struct snapshot_disks *disks, struct error *e)
{
	/* what is added to the sections that came is taken back, for another time */
	const struct stream_writer before = w->w;
	size_t len = w->out.len;
	int ret;

	if (ram_out_finish(w->ram, e))
		return -1;
	add_ram_sections(w);
	stream_section_begin(&w->w, SNAPSHOT_DISKS_SECTION, STREAM_REQUIRED);
	snapshot_disks_write(disks, &w->out);
	stream_section_end(&w->w);
	if (disks->files) {
		stream_section_begin(&w->w, SNAPSHOT_FILES_SECTION, 0);
		snapshot_files_write(disks, &w->out);
		stream_section_end(&w->w);
	}
	stream_finish(&w->w);
	if (w->out.failed)
		return error_set(e, "not enough memory");
	if (!w->no_sync && (ram_out_flush(w->ram, e) || snapshot_images_flush(&w->images, w->made, e)))
		return -1;
	ret = write_state(w, &w->out, e);
	w->out.len = len;
	w->w = before;
	if (ret || (!w->no_sync && fsync(w->dir)))
		return ret ? ret : failed(w, "", e);
	if (!strcmp(w->made, w->path))
		return 0;
	if (renameat2(AT_FDCWD, w->made, AT_FDCWD, w->path, RENAME_NOREPLACE))
		return error_errno(e, errno, "cannot rename %s to %s", w->made, w->path);
	strcpy(w->made, w->path);
	if (!w->no_sync)
		sync_parent(w->path);
	return 0;
}

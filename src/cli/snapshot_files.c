/* What lies under the disks of a snapshot that are not copied into it: the files of their backing chains. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/block/image.h"
#include "cli/snapshot.h"

struct visit {
	struct snapshot_disks *disks;
	const char *id;
	const struct ram_chain *skip;
};

/* Is it in the directory of one of these? */
static bool in_chain(const char *path, const struct ram_chain *c)
{
	char dir[PATH_MAX], whole[PATH_MAX];

	for (unsigned i = 0; c && i < c->levels; i++) {
		const char *slash;

		if (realpath(c->level[i].path, dir) && realpath(path, whole) && (slash = strrchr(whole, '/')) &&
		    strlen(dir) == (size_t)(slash - whole) && !strncmp(dir, whole, strlen(dir)))
			return true;
	}
	return false;
}

static int note_file(void *opaque, const char *path, enum block_format format, struct error *e)
{
	const struct visit *v = opaque;
	struct snapshot_disks *s = v->disks;
	struct snapshot_file *more, *f;

	if (in_chain(path, v->skip))
		return 0;
	more = realloc(s->file, (s->files + 1) * sizeof(*more));
	if (!more)
		return error_set(e, "not enough memory");
	s->file = more;
	f = &more[s->files];
	/* a name from the root on is the one that an image has, links in it included */
	snprintf(f->path, sizeof(f->path), "%s", path);
	if ((path[0] != '/' && !realpath(path, f->path)) || snapshot_file_identity(path, &f->size, &f->written))
		return error_errno(e, errno, "disk '%s', its backing file %s", v->id, path);
	s->files++;
	return 0;
}

int snapshot_files_note(struct snapshot_disks *s, const char *id, const struct block_config *image,
			const struct ram_chain *skip, struct error *e)
{
	struct visit v = { s, id, skip };

	return block_backing_files(image->path, image->format, note_file, &v, e);
}

void snapshot_files_write(const struct snapshot_disks *s, struct encoder *e)
{
	enc_u32(e, s->files);
	for (unsigned i = 0; i < s->files; i++) {
		const struct snapshot_file *f = &s->file[i];

		enc_u16(e, (u16)strlen(f->path));
		enc_bytes(e, f->path, strlen(f->path));
		enc_u64(e, f->size);
		enc_u64(e, f->written);
	}
}

static int not_sound(struct error *e)
{
	return error_set(e, "the section " SNAPSHOT_FILES_SECTION " of the snapshot is not sound");
}

static int read_file(struct decoder *d, struct snapshot_file *f, struct error *e)
{
	u16 len = dec_u16(d);

	if (!len || len >= sizeof(f->path))
		return not_sound(e);
	dec_bytes(d, f->path, len);
	f->path[len] = 0;
	f->size = dec_u64(d);
	f->written = dec_u64(d);
	return d->failed || strlen(f->path) != len || f->path[0] != '/' ? not_sound(e) : 0;
}

int snapshot_files_each(const struct stream *s, int (*visit)(const struct snapshot_file *f, struct error *e),
			struct error *e)
{
	const struct stream_section *section = stream_find(s, SNAPSHOT_FILES_SECTION);
	struct snapshot_file f;
	struct decoder d;
	u32 count;

	if (!section)
		return 0;
	d = stream_decoder(section);
	count = dec_u32(&d);
	for (u32 i = 0; i < count && !d.failed; i++)
		if (read_file(&d, &f, e) || visit(&f, e))
			return -1;
	return dec_done(&d) ? 0 : not_sound(e);
}

static int check_file(const struct snapshot_file *f, struct error *e)
{
	u64 size, written;

	if (snapshot_file_identity(f->path, &size, &written))
		return error_errno(e, errno, "%s, which a disk of the snapshot builds on", f->path);
	if (size != f->size || written != f->written)
		return error_set(e,
				 "%s, which a disk of the snapshot builds on, was changed since: the two do not go "
				 "together any more",
				 f->path);
	return 0;
}

int snapshot_files_check(const struct stream *s, struct error *e)
{
	return snapshot_files_each(s, check_file, e);
}

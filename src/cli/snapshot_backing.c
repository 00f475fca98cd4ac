#include "cli/snapshot_backing.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "backend/block/image.h"
#include "cli/clone.h"
#include "cli/control.h"

#define NAME_MAX_STORED 1000 /* bytes of a name that an image can hold, with some room */

static int note(struct snapshot_backing *b, const char *path, const struct stat *st, struct error *e)
{
	struct snapshot_file *file = realloc(b->file, (b->files + 1) * sizeof(*file));
	struct block_file *is = file ? realloc(b->is, (b->files + 1) * sizeof(*is)) : NULL;

	if (file)
		b->file = file;
	if (!is)
		return error_set(e, "not enough memory");
	b->is = is;
	is[b->files] = (struct block_file){ st->st_dev, st->st_ino };
	file = &file[b->files++];
	snprintf(file->path, sizeof(file->path), "%s", path);
	snapshot_stat_identity(st, &file->size, &file->written);
	return 0;
}

static int visit(void *opaque, const char *path, enum block_format format, struct error *e)
{
	struct snapshot_backing *to = opaque;
	struct stat st;

	if (!to->files && clone_dir_temporary(path))
		return 0; /* the next one may do */
	if (path[0] != '/' || strlen(path) > NAME_MAX_STORED || stat(path, &st) || !S_ISREG(st.st_mode))
		return error_set(e, "%s cannot be told from another file later", path);
	if (!to->files)
		to->format = format;
	return note(to, path, &st, e);
}

/* The rest of a raw file after its last whole sector is seen by images above it alone. */
static bool whole_sectors(const struct snapshot_backing *b)
{
	struct block_info info;
	struct error ignored;

	return !block_info(b->file[0].path, b->format, &info, &ignored) && !(info.virtual_size % BLOCK_SECTOR);
}

static void drop(struct snapshot_backing *b)
{
	free(b->file);
	free(b->is);
	*b = (struct snapshot_backing){ 0 };
}

void snapshot_backings_find(struct snapshot_backings *s, json_t *info)
{
	json_t *disks = json_object_get(json_object_get(info, "config"), "disks"), *d;
	size_t i;

	s->count = 0;
	json_array_foreach(disks, i, d)
	{
		struct snapshot_backing *to = &s->disk[s->count];
		struct error ignored;

		if (json_is_true(json_object_get(d, "readonly")) || s->count == ARRAY_SIZE(s->disk))
			continue;
		*to = (struct snapshot_backing){ 0 };
		snprintf(to->id, sizeof(to->id), "%s", json_text(d, "id"));
		if (!block_backing_files(json_text(d, "path"), BLOCK_FORMAT_AUTO, visit, to, &ignored) && to->files &&
		    whole_sectors(to))
			s->count++;
		else
			drop(to);
	}
}

void snapshot_backings_free(struct snapshot_backings *s)
{
	while (s->count)
		drop(&s->disk[--s->count]);
}

json_t *snapshot_backings_json(const struct snapshot_backings *s)
{
	json_t *all = json_object();

	for (unsigned i = 0; i < s->count; i++) {
		json_t *files = json_array();

		for (unsigned k = 0; k < s->disk[i].files; k++) {
			json_array_append_new(files, json_integer((json_int_t)s->disk[i].is[k].dev));
			json_array_append_new(files, json_integer((json_int_t)s->disk[i].is[k].ino));
		}
		json_object_set_new(all, s->disk[i].id, files);
	}
	return all;
}

const struct snapshot_backing *snapshot_backings_of(const struct snapshot_backings *s, const char *id)
{
	for (unsigned i = 0; s && i < s->count; i++)
		if (!strcmp(s->disk[i].id, id))
			return &s->disk[i];
	return NULL;
}

/* `ectype snapshot --info`: what is in a snapshot's directory, and whether all of it is. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "backend/block/image.h"
#include "cli/control.h"
#include "cli/snapshot.h"

#define LABEL "%-10s "

static void option(const struct snapshot_reader *r, const char *name, const char *label)
{
	size_t n = strlen(name);

	for (unsigned i = 0; i < r->options.count; i++)
		if (!strncmp(r->options.option[i], name, n) && r->options.option[i][n] == '=')
			printf(LABEL "%s\n", label, r->options.option[i] + n + 1);
}

/* Bytes on the disk. */
static u64 file_blocks(const char *dir, const char *name)
{
	char path[2 * PATH_MAX];
	struct stat st;

	snprintf(path, sizeof(path), "%s%s%s", *name == '/' ? "" : dir, *name == '/' ? "" : "/", name);
	return stat(path, &st) ? 0 : (u64)st.st_blocks * 512;
}

static u64 frames_of(const struct ram_index *x)
{
	u64 n = 0;

	for (u32 i = 0; i < x->count; i++)
		n += (u64)__builtin_popcountll(x->group[i].frames);
	return n;
}

static void show_level(const struct ram_chain *c, unsigned i)
{
	const struct ram_level *l = &c->level[i];
	const char *name = l->index.packed ? SNAPSHOT_RAM_PACKED : SNAPSHOT_RAM;
	char size[16], data[16];

	format_bytes((double)file_blocks(l->path, name), size);
	format_bytes((double)(frames_of(&l->index) * PAGE_SIZE), data);
	if (i)
		printf(LABEL "%s\n", "base", l->path);
	printf(LABEL "%s, %s on the disk", "ram", l->index.packed ? "zstd" : "plain", size);
	if (i + 1 < c->levels)
		printf(", %s that differ from the base", data);
	putchar('\n');
}

static const char *disk_path(const struct snapshot_reader *r, const struct snapshot_disk *d, char out[2 * PATH_MAX])
{
	snprintf(out, 2 * PATH_MAX, "%s%s%s", snapshot_disk_own(d) ? r->path : "", snapshot_disk_own(d) ? "/" : "",
		 d->path);
	return out;
}

static void show_disks(const struct snapshot_reader *r)
{
	for (unsigned i = 0; i < r->disks.count; i++) {
		const struct snapshot_disk *d = &r->disks.disk[i];
		char size[16];

		format_bytes((double)file_blocks(r->path, d->path), size);
		printf(LABEL "%s: %s, %s, %s on the disk%s\n", "disk", d->id, d->path,
		       d->format == BLOCK_FORMAT_QCOW2 ? "qcow2" : "raw", size, d->writable ? "" : ", read-only");
	}
}

static int show_file(const struct snapshot_file *f, struct error *e)
{
	printf(LABEL "%s\n", "builds on", f->path);
	return 0;
}

static int show(const struct snapshot_reader *r, struct error *e)
{
	char memory[16], used[16];

	format_bytes((double)r->chain.size, memory);
	format_bytes((double)(r->chain.sum.pages * PAGE_SIZE), used);
	printf(LABEL "%s\n", "snapshot", r->path);
	printf(LABEL "%s, %s of it not zeros\n", "memory", memory, used);
	option(r, "--cpus", "cpus");
	option(r, "--kernel", "kernel");
	option(r, "--initrd", "initrd");
	option(r, "--append", "append");
	option(r, "--firmware", "firmware");
	show_disks(r);
	if (snapshot_files_each(&r->state.stream, show_file, e))
		return -1;
	for (unsigned i = 0; i < r->chain.levels; i++)
		show_level(&r->chain, i);
	return 0;
}

/* The disks' files are there and what they were; the tables of qcow2 images go together. */
static int check_disk(const struct snapshot_reader *r, const struct snapshot_disk *d, struct error *e)
{
	struct block_check_result result = { 0 };
	char path[2 * PATH_MAX];
	u64 size, written;

	disk_path(r, d, path);
	if (snapshot_file_identity(path, &size, &written))
		return error_errno(e, errno, "disk '%s' of the snapshot, %.256s", d->id, path);
	if (size != d->size || (d->written && written != d->written))
		return error_set(e, "disk '%s', %.256s, was changed since the snapshot", d->id, path);
	if (d->format != BLOCK_FORMAT_QCOW2 || !snapshot_disk_own(d))
		return 0;
	if (block_check(path, BLOCK_FORMAT_QCOW2, &result, e))
		return -1;
	return result.errors ? error_set(e, "disk '%s', %.256s, is damaged", d->id, path) : 0;
}

static int check(const struct snapshot_reader *r, struct error *e)
{
	for (unsigned i = 0; i < r->disks.count; i++)
		if (check_disk(r, &r->disks.disk[i], e))
			return -1;
	if (snapshot_files_check(&r->state.stream, e))
		return -1;
	return snapshot_check_ram(r, e);
}

int snapshot_info(const char *dir, bool whole, struct error *e)
{
	struct snapshot_reader *r = calloc(1, sizeof(*r));
	int ret;

	if (!r)
		return error_set(e, "not enough memory");
	ret = snapshot_reader_open(r, dir, e);
	if (!ret) {
		if (whole)
			ret = check(r, e);
		if (!ret)
			ret = show(r, e);
		if (!ret && whole)
			printf(LABEL "all of it is there, and what it was\n", "check");
		snapshot_reader_close(r);
	}
	free(r);
	return ret;
}

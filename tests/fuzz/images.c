/* Fuzz target: what a machine sends of its disks (cli/snapshot_images.h): sections of any kind, sound or not. */
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli/snapshot_backing.h"
#include "cli/snapshot_images.h"
#include "fuzz.h"

static char folder[] = "/tmp/ectype-fuzz-XXXXXX";

/* Disks "a" and "b" have a backing file. */
static struct snapshot_backings backings;
static struct snapshot_file file;
static struct block_file is;

static void make_backing(int dir)
{
	int fd = openat(dir, "backing", O_CREAT | O_RDWR, 0600);
	struct stat st;

	assert(fd >= 0 && !ftruncate(fd, 256 * 1024) && pwrite(fd, "ectype", 6, 70000) == 6 && !fstat(fd, &st));
	close(fd);
	snprintf(file.path, sizeof(file.path), "%s/backing", folder);
	is = (struct block_file){ st.st_dev, st.st_ino };
	for (backings.count = 0; backings.count < 2; backings.count++)
		backings.disk[backings.count] = (struct snapshot_backing){ .id = { (char)('a' + backings.count) },
									   .format = BLOCK_FORMAT_RAW,
									   .file = &file,
									   .is = &is,
									   .files = 1 };
}

static void clean(void)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/backing", folder);
	unlink(path);
	rmdir(folder);
}

/* A sound beginning: disk "a", of which what lies above its backing file is to come; at most 8 MiB. */
static void begin(struct snapshot_images *m, int dir, u64 sectors)
{
	struct stream_section s = { .name = DISK_SIZE };
	struct encoder e;
	struct error err;

	enc_init(&e);
	enc_u8(&e, 0);
	enc_u8(&e, 1);
	enc_u8(&e, 'a');
	enc_u64(&e, sectors % 16384 * BLOCK_SECTOR);
	enc_u8(&e, 1);
	s.payload = e.data;
	s.len = (u32)e.len;
	assert(!snapshot_images_take(m, dir, folder, &s, &err));
	enc_free(&e);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static const char *const names[] = { DISK_SIZE, DISK_DATA, DISK_SUM, DISK_ZERO };
	static int dir = -1;
	struct input in = { data, data + size };
	struct snapshot_images m = { .backings = &backings };
	static u8 payload[3 * DISK_BLOCK];

	if (dir < 0) {
		assert(mkdtemp(folder));
		dir = open(folder, O_RDONLY | O_DIRECTORY);
		assert(dir >= 0);
		make_backing(dir);
		atexit(clean);
	}
	if (take(&in, 1) % 4 == 0)
		begin(&m, dir, take(&in, 2));
	for (unsigned i = 0; in.p < in.end && i < 64; i++) {
		struct stream_section s = { .payload = payload };
		unsigned kind = (unsigned)take(&in, 1), n = (unsigned)take(&in, 1) % 64;
		struct error e = { "" };

		strcpy(s.name, names[kind % 4]);
		/* a head of the input's, and blocks that are all the same */
		memset(payload, (int)(kind >> 4), sizeof(payload));
		take_bytes(&in, payload, n);
		s.len = kind % 4 == 1 ? 9 + (n % 4) * 512 + (kind >> 2 & 1) * DISK_BLOCK : n;
		if (snapshot_images_take(&m, dir, folder, &s, &e))
			assert(e.text[0]);
		assert(m.count <= MACHINE_DISKS_MAX);
	}
	snapshot_images_whole(&m);
	snapshot_images_bytes(&m);
	snapshot_images_close(&m, dir, true);
	return 0;
}

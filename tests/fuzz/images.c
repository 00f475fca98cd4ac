/* Fuzz target: what a machine sends of its disks (cli/snapshot_images.h): sections of any kind, sound or not. */
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli/snapshot_images.h"
#include "fuzz.h"

static char folder[] = "/tmp/ectype-fuzz-XXXXXX";

static void clean(void)
{
	rmdir(folder);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static const char *const names[] = { DISK_SIZE, DISK_DATA, DISK_SUM };
	static int dir = -1;
	struct input in = { data, data + size };
	struct snapshot_images m = { .count = 0 };
	static u8 payload[3 * DISK_BLOCK];

	if (dir < 0) {
		assert(mkdtemp(folder));
		dir = open(folder, O_RDONLY | O_DIRECTORY);
		assert(dir >= 0);
		atexit(clean);
	}
	for (unsigned i = 0; in.p < in.end && i < 64; i++) {
		struct stream_section s = { .payload = payload };
		unsigned kind = (unsigned)take(&in, 1), n = (unsigned)take(&in, 1) % 64;
		struct error e = { "" };

		strcpy(s.name, names[kind % 3]);
		/* a head of the input's, and blocks that are all the same */
		memset(payload, (int)(kind >> 4), sizeof(payload));
		take_bytes(&in, payload, n);
		s.len = kind % 3 == 1 ? 9 + (n % 4) * 512 + (kind >> 2 & 1) * DISK_BLOCK : n;
		if (snapshot_images_take(&m, dir, folder, &s, &e))
			assert(e.text[0]);
		assert(m.count <= MACHINE_DISKS_MAX);
	}
	snapshot_images_whole(&m);
	snapshot_images_bytes(&m);
	snapshot_images_close(&m, dir, true);
	return 0;
}

/*
 * Hostile qcow2 images: opened, looked at, checked, read and written. The input
 * is either the file itself or patches to a small image with data in it; its
 * first bytes choose the requests. The image lies in memory, behind
 * /proc/self/fd, so a name of a backing file leads nowhere.
 */
#include "fuzz.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend/block/block.h"
#include "backend/block/image.h"
#include "backend/block/track.h"
#include "base/log.h"

#define IMAGE_MAX (256 * KiB)
#define DISK (200 * KiB)
#define REQUESTS 12

static u8 template[2][IMAGE_MAX];
static size_t template_size[2];
static u8 data[64 * KiB];

static void done(struct block_request *r, int error)
{
	*(int *)r->opaque = error;
}

static int request(struct block *b, enum block_op op, u64 offset, u64 length, bool unmap)
{
	struct iovec iov = { data, length };
	int error = -1;
	struct block_request r = { .op = op,
				   .unmap = unmap,
				   .offset = offset,
				   .length = length,
				   .iov = &iov,
				   .iov_n = 1,
				   .done = done,
				   .opaque = &error };

	block_submit(b, &r);
	block_drain(b);
	assert(error >= 0);
	return error;
}

static int image_fd(char path[64])
{
	int fd = memfd_create("image", 0);

	assert(fd >= 0);
	snprintf(path, 64, "/proc/self/fd/%d", fd);
	return fd;
}

/* Version 3: clusters of 512 bytes with refcounts of 16 bits, and of 4096 with 1 bit. */
static void make_templates(void)
{
	for (unsigned i = 0; i < 2; i++) {
		char path[64];
		int fd = image_fd(path);
		struct qcow2_create_config c = { .path = path,
						 .size = DISK,
						 .cluster_size = i ? 4096 : 512,
						 .refcount_bits = i ? 1 : 16,
						 .overwrite = true };
		struct block_config open = { .path = path, .threads = true, .cache = BLOCK_CACHE_UNSAFE };
		struct error e;
		struct block *b;
		ssize_t n;

		assert(qcow2_create(&c, &e) == 0);
		b = block_open(&open, &e);
		assert(b);
		memset(data, 0x5a, sizeof(data));
		assert(request(b, BLOCK_WRITE, 1024, 30000 / 512 * 512, false) == 0);
		assert(request(b, BLOCK_WRITE, 120 * KiB, 8192, false) == 0);
		assert(request(b, BLOCK_WRITE_ZEROES, 8192, 8192, false) == 0);
		assert(request(b, BLOCK_DISCARD, 20 * KiB, 4096, false) == 0);
		assert(block_close(b) == 0);
		n = pread(fd, template[i], IMAGE_MAX, 0);
		assert(n > 0 && n < (ssize_t)IMAGE_MAX);
		template_size[i] = n;
		close(fd);
	}
}

/* Patches: where (3 bytes), how many (1 byte), bytes. */
static void write_image(int fd, bool whole, unsigned which, const u8 *in, size_t size)
{
	static u8 file[IMAGE_MAX];
	size_t n = template_size[which];

	if (whole) {
		assert(pwrite(fd, in, size, 0) == (ssize_t)size);
		return;
	}
	memcpy(file, template[which], n);
	while (size >= 4) {
		size_t at = (in[0] | in[1] << 8 | in[2] << 16) % n, k = MIN(in[3] % 32, size - 4);

		k = MIN(k, n - at);
		memcpy(file + at, in + 4, k);
		in += 4 + k;
		size -= 4 + k;
	}
	assert(pwrite(fd, file, n, 0) == (ssize_t)n);
}

/* What is said to be zeros reads as zeros. */
static void walk(struct block *b)
{
	u64 size = block_size(b), at = 0, end, next;

	for (unsigned i = 0; i < 200 && at < size; i++, at = end) {
		next = block_next_data(b, at, &end);
		assert(next >= at && next <= size && end <= size && end > at);
		if (next > at && !block_read_now(b, at, data, MIN(next - at, sizeof(data)) / 512 * 512))
			for (u64 k = 0; k < MIN(next - at, sizeof(data)) / 512 * 512; k++)
				assert(!data[k]);
	}
}

static void use(struct block *b, const u8 *seed, size_t n)
{
	u64 sectors = block_size(b) / BLOCK_SECTOR;

	for (unsigned i = 0; i < REQUESTS && sectors; i++) {
		u64 s = n ? seed[i % n] * 0x9e3779b97f4a7c15ull + i : i;
		u64 length = MIN(1 + (s >> 8) % 100, sectors), offset = (s >> 20) % (sectors - length + 1);

		if (s >> 60 & 1) /* where the template has data */
			offset = MIN((s >> 20) % 400, sectors - length);
		request(b, s % 5, offset * BLOCK_SECTOR, length * BLOCK_SECTOR, s >> 59 & 1);
	}
}

int LLVMFuzzerTestOneInput(const u8 *in, size_t size)
{
	struct block_config c = { .format = BLOCK_FORMAT_QCOW2, .cache = BLOCK_CACHE_UNSAFE, .threads = true };
	struct block_check_result r = { 0 };
	struct block_info info;
	struct error e;
	struct block *b;
	char path[64];
	int fd;

	if (size < 8)
		return 0;
	if (!template_size[0]) {
		log_set_level(LOG_ERROR - 1);
		make_templates();
	}
	fd = image_fd(path);
	write_image(fd, in[0] % 8 == 0, in[0] >> 3 & 1, in + 8, size - 8);
	c.path = path;
	c.readonly = in[0] >> 4 & 1;
	c.snapshot = in[0] >> 5 & 1;
	block_info(path, BLOCK_FORMAT_AUTO, &info, &e);
	block_check(path, BLOCK_FORMAT_QCOW2, &r, &e);
	block_check_config(&c, &e);
	b = block_open(&c, &e);
	if (b) {
		walk(b);
		use(b, in + 1, 7);
		walk(b);
		block_close(b);
	}
	block_check(path, BLOCK_FORMAT_QCOW2, &r, &e);
	close(fd);
	return 0;
}

/*
 * snapshot_disk DEVICE START BLOCKS BYTES STEP: writes to BLOCKS blocks of
 * BYTES bytes each from byte START on, for ever, past the page cache and one
 * after the other. Operation i, counted from 0, goes to block i * STEP modulo
 * BLOCKS: each seventh makes it zeros, the others fill it with i, in a form
 * that shows torn writes. Before each operation the block must hold what the
 * last one left there. So at any moment the highest i on the disk says what
 * every block holds (tests/guest/snapshot_disk.py).
 *
 * What is wrong goes to standard output, and how far it is to the file
 * /tmp/count.START.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static uint64_t blocks, bytes, start;

static void fill(uint64_t *p, uint64_t i)
{
	if (i % 7 == 6) {
		memset(p, 0, bytes);
		return;
	}
	for (uint64_t k = 0; k < bytes / 8; k++)
		p[k] = k % 64 ? (i + 1) * 0x9e3779b97f4a7c15u ^ (k * 0xbf58476d1ce4e5b9u) : i + 1;
}

static int operate(int fd, uint64_t i, uint64_t at, const uint64_t *content)
{
	uint64_t range[2] = { at, bytes };

	if (i % 7 == 6 && i % 2)
		return ioctl(fd, BLKZEROOUT, range);
	if (i % 7 == 6 && !ioctl(fd, BLKDISCARD, range)) {
		/* what a discard leaves is not promised */
		return ioctl(fd, BLKZEROOUT, range);
	}
	return pwrite(fd, content, bytes, (off_t)at) == (ssize_t)bytes ? 0 : -1;
}

int main(int argc, char **argv)
{
	uint64_t *expected, *found, step;
	char count[64];
	int fd = open(argv[1], O_RDWR | O_DIRECT), out;

	start = strtoull(argv[2], NULL, 0);
	blocks = strtoull(argv[3], NULL, 0);
	bytes = strtoull(argv[4], NULL, 0);
	step = strtoull(argv[5], NULL, 0);
	snprintf(count, sizeof(count), "/tmp/count.%s.%s", strrchr(argv[1], '/') + 1, argv[2]);
	out = open(count, O_WRONLY | O_CREAT, 0600);
	if (fd < 0 || out < 0 || posix_memalign((void **)&expected, 4096, bytes) ||
	    posix_memalign((void **)&found, 4096, bytes)) {
		perror(argv[1]);
		return 1;
	}
	for (uint64_t i = 0;; i++) {
		uint64_t block = i * step % blocks, at = start + block * bytes;
		int n;

		if (i >= blocks) {
			fill(expected, i - blocks);
			if (pread(fd, found, bytes, (off_t)at) != (ssize_t)bytes || memcmp(expected, found, bytes)) {
				printf("WRONG %s block %lu before %lu: %s\n", argv[1], (unsigned long)block,
				       (unsigned long)i, strerror(errno));
				fflush(stdout);
				return 1;
			}
		}
		fill(expected, i);
		if (operate(fd, i, at, expected)) {
			printf("WRONG %s operation %lu: %s\n", argv[1], (unsigned long)i, strerror(errno));
			fflush(stdout);
			return 1;
		}
		n = snprintf((char *)found, 32, "%20lu\n", (unsigned long)i);
		if (pwrite(out, found, (size_t)n, 0) != n)
			return 1;
	}
}

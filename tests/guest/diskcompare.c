/*
 * What diskcompare.py runs in the guest: diskcompare SEED COUNT DEVICE DEVICE
 *
 * Does the same random requests on two disks of one size, from four processes
 * in a quarter each: writes and reads of odd lengths, through the page cache
 * and past it, flushes, zeroes, discards of what is then written or zeroed.
 * Whatever is read is compared. It ends with "SAME", or with where they differ.
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
#include <sys/wait.h>
#include <unistd.h>

#define SECTOR 512
#define WORKERS 4
#define LONGEST (1 << 20) /* bytes of a request */

static int fd[2][2]; /* of each disk: page cache, O_DIRECT */
static uint8_t *buf[2];
static uint64_t rng, start, size; /* of the worker's part, bytes */

static void die(const char *what, uint64_t at)
{
	printf("%s at byte %llu (errno %d)\n", what, (unsigned long long)at, errno);
	fflush(stdout);
	_exit(1);
}

static uint64_t below(uint64_t n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (rng >> 11) % n;
}

static void compare(int how, uint64_t at, size_t n)
{
	for (int d = 0; d < 2; d++)
		if (pread(fd[d][how], buf[d], n, at) != (ssize_t)n)
			die("read error", at);
	if (memcmp(buf[0], buf[1], n))
		for (size_t i = 0;; i++)
			if (buf[0][i] != buf[1][i])
				die("DIFFERENT", at + i);
}

static void store(int how, uint64_t at, size_t n)
{
	uint64_t *word = (uint64_t *)buf[0];

	if (below(4))
		for (size_t i = 0; i < n / 8; i++)
			word[i] = rng * (i + 1) ^ at;
	else
		memset(buf[0], (int)below(3), n);
	for (int d = 0; d < 2; d++)
		if (pwrite(fd[d][how], buf[0], n, at) != (ssize_t)n)
			die("write error", at);
}

static void clear(unsigned long request, uint64_t at, uint64_t n)
{
	uint64_t range[2] = { at, n };

	for (int d = 0; d < 2; d++)
		if (ioctl(fd[d][0], request, range))
			die(request == BLKDISCARD ? "discard error" : "zeroing error", at);
}

/* A range of the part: mostly small, some at multiples of a cluster. */
static uint64_t choose(uint64_t *at)
{
	uint64_t unit = below(3) ? SECTOR : 65536, longest = below(5) ? 16 * unit : LONGEST;
	uint64_t n = (1 + below(longest / unit)) * unit;

	if (n > LONGEST)
		n = LONGEST;
	*at = start + below((size - n) / unit + 1) * unit;
	return n;
}

static void step(void)
{
	uint64_t at, n = choose(&at);
	int how = (int)below(2);

	switch (below(16)) {
	case 0:
		clear(BLKZEROOUT, at, n);
		compare(how, at, n);
		break;
	case 1: /* what a discarded sector reads is the disk's choice */
		clear(BLKDISCARD, at, n);
		if (below(2))
			store(how, at, n);
		else
			clear(BLKZEROOUT, at, n);
		break;
	case 2:
		for (int d = 0; d < 2; d++)
			if (fsync(fd[d][0]))
				die("flush error", at);
		break;
	case 3:
	case 4:
	case 5:
	case 6:
	case 7:
		compare(how, at, n);
		break;
	default:
		store(how, at, n);
	}
}

static void compare_all(void)
{
	for (uint64_t at = start; at < start + size; at += LONGEST)
		compare(1, at, start + size - at < LONGEST ? start + size - at : LONGEST);
}

int main(int argc, char **argv)
{
	unsigned long long total[2];
	int bad = 0, status;

	if (argc != 5)
		die("arguments", 0);
	for (int d = 0; d < 2; d++)
		for (int how = 0; how < 2; how++)
			if ((fd[d][how] = open(argv[3 + d], O_RDWR | (how ? O_DIRECT : 0))) < 0 ||
			    ioctl(fd[d][how], BLKGETSIZE64, &total[d]))
				die(argv[3 + d], 0);
	if (total[0] != total[1])
		die("sizes differ", total[0]);
	size = total[0] / WORKERS / 65536 * 65536;
	for (unsigned w = 0; w < WORKERS; w++) {
		if (fork())
			continue;
		start = w * size;
		if (w == WORKERS - 1)
			size = total[0] - start;
		rng = (strtoull(argv[1], NULL, 0) * WORKERS + w + 1) * 0x9e3779b97f4a7c15ull;
		for (int d = 0; d < 2; d++)
			if (posix_memalign((void **)&buf[d], 4096, LONGEST))
				die("memory", 0);
		compare_all();
		for (long i = strtol(argv[2], NULL, 0); i > 0; i--)
			step();
		for (int d = 0; d < 2; d++)
			if (fsync(fd[d][0]))
				die("flush error", start);
		compare_all();
		_exit(0);
	}
	while (wait(&status) > 0)
		bad |= status;
	if (!bad)
		puts("SAME");
	return bad != 0;
}

/*
 * What killsafe.py runs in the guest: killsafe DEVICE SEED SEQUENCE
 *
 * Four processes write records to a quarter of the disk each, sync them in one
 * of several ways, and only then say so on the console, a line a batch:
 *
 *	GO				all have started
 *	S WORKER KEY SEQ [KEY SEQ]...	these are on the disk
 *	F WORKER SECTOR COUNT		these sectors are to be discarded or zeroed; "A WORKER" allows it
 *	Z WORKER SECTOR COUNT SEQ	these were zeroed and synced after record SEQ
 *	E WORKER WHAT ERRNO		an error, the last line of a worker
 *
 * A key has two slots, and the slot with its last synced record is never
 * written to. Each sector of a record says where it belongs and has a
 * checksum, so that no sector may hold anything else.
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

#define MAGIC 0x656c6c694b746365ull
#define SECTOR 512
#define WORKERS 4
#define BATCH 6

struct sector {
	uint64_t magic, at, seq; /* `at`: the sector's number on the disk */
	uint32_t index;		 /* in its slot */
	uint8_t data[SECTOR - 32];
	uint32_t crc;
};

struct key {
	uint64_t seq;  /* of the last synced record; 0: none */
	uint8_t known; /* was looked for on the disk */
	uint8_t slot;  /* that the next record goes to */
};

static const unsigned slot_sectors[WORKERS] = { 1, 8, 40, 257 };
static unsigned me, sectors;	    /* worker, sectors of a slot */
static uint64_t first, count, keys; /* the worker's sectors; its keys */
static uint64_t rng, seq;
static int fd[3];		/* page cache, O_DSYNC, O_DIRECT */
static int allowed[WORKERS][2]; /* pipes, a byte for each "A" */
static struct key *key;
static uint8_t *buf;
static uint32_t crc_table[256];

static void die(const char *what)
{
	char line[80];
	int n = snprintf(line, sizeof(line), "E %u %s %d\n", me, what, errno);

	if (write(1, line, n) != n)
		_exit(3);
	_exit(2);
}

static uint64_t below(uint64_t n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (rng >> 11) % n;
}

static uint32_t crc32(const void *p, size_t n)
{
	uint32_t c = ~0u;

	if (!crc_table[1])
		for (uint32_t i = 0; i < 256; i++) {
			uint32_t v = i;

			for (int k = 0; k < 8; k++)
				v = v >> 1 ^ (v & 1 ? 0xedb88320u : 0);
			crc_table[i] = v;
		}
	for (const uint8_t *b = p; n--; b++)
		c = c >> 8 ^ crc_table[(c ^ *b) & 0xff];
	return ~c;
}

static uint64_t slot_at(uint64_t k, unsigned slot)
{
	return first + (2 * k + slot) * sectors;
}

static void make_record(uint64_t at)
{
	for (unsigned i = 0; i < sectors; i++) {
		struct sector *s = (struct sector *)(buf + i * SECTOR);

		s->magic = MAGIC;
		s->at = at + i;
		s->seq = seq;
		s->index = i;
		memset(s->data, (int)below(256), sizeof(s->data));
		for (unsigned j = 0; j < 16; j++)
			s->data[below(sizeof(s->data))] = (uint8_t)below(256);
		s->crc = crc32(s, SECTOR - 4);
	}
}

/* The sequence number of the record at `at`, 0 if it is none. */
static uint64_t read_record(uint64_t at)
{
	const struct sector *s = (const struct sector *)buf;

	if (pread(fd[below(3)], buf, sectors * SECTOR, at * SECTOR) != (ssize_t)sectors * SECTOR)
		die("read");
	for (unsigned i = 0; i < sectors; i++)
		if (s[i].magic != MAGIC || s[i].at != at + i || s[i].index != i || s[i].seq != s->seq ||
		    s[i].crc != crc32(&s[i], SECTOR - 4))
			return 0;
	return s->seq;
}

static void look_for(uint64_t k)
{
	uint64_t a = read_record(slot_at(k, 0)), b = read_record(slot_at(k, 1));

	key[k] = (struct key){ a > b ? a : b, 1, a > b };
}

static void forget(uint64_t at, uint64_t n)
{
	uint64_t k = (at - first) / sectors / 2, last = (at + n - 1 - first) / sectors / 2;

	for (; k <= last && k < keys; k++)
		key[k].known = 0;
}

static void say(const char *line, int n)
{
	if (write(1, line, n) != n)
		_exit(3);
}

static void write_batch(void)
{
	/* page cache and fdatasync, O_DSYNC, O_DIRECT and fdatasync */
	unsigned how = (unsigned)below(3), n = 1 + (unsigned)below(BATCH), len;
	uint64_t chosen[BATCH];
	char line[256];

	len = (unsigned)snprintf(line, sizeof(line), "S %u", me);
	for (unsigned i = 0; i < n; i++) {
		uint64_t k = chosen[i] = below(keys);

		for (unsigned j = 0; j < i; j++)
			if (chosen[j] == k) { /* one record of a key in a batch */
				n = i;
				break;
			}
		if (i >= n)
			break;
		if (!key[k].known)
			look_for(k);
		seq++;
		make_record(slot_at(k, key[k].slot));
		if (pwrite(fd[how], buf, sectors * SECTOR, slot_at(k, key[k].slot) * SECTOR) !=
		    (ssize_t)sectors * SECTOR)
			die("write");
		key[k].seq = seq;
		len += (unsigned)snprintf(line + len, sizeof(line) - len, " %llu %llu", (unsigned long long)k,
					  (unsigned long long)seq);
	}
	if (how != 1 && fdatasync(fd[how]))
		die("fdatasync");
	for (unsigned i = 0; i < n; i++)
		key[chosen[i]].slot ^= 1;
	line[len++] = '\n';
	say(line, (int)len);
}

static void clear(void)
{
	uint64_t n = 1 + below(8), unit = below(2) ? 128 : 2048, at = first + below(count / unit - n + 1) * unit;
	uint64_t range[2] = { at * SECTOR, n * unit * SECTOR };
	int zero = below(2);
	char line[80];

	n *= unit;
	say(line, snprintf(line, sizeof(line), "F %u %llu %llu\n", me, (unsigned long long)at, (unsigned long long)n));
	forget(at, n);
	/* what was written to the console need not have left the machine */
	if (read(allowed[me][0], line, 1) != 1)
		die("allowance");
	if (ioctl(fd[0], zero ? BLKZEROOUT : BLKDISCARD, range))
		die(zero ? "zero" : "discard");
	if (fdatasync(fd[0]))
		die("fdatasync");
	if (zero)
		say(line, snprintf(line, sizeof(line), "Z %u %llu %llu %llu\n", me, (unsigned long long)at,
				   (unsigned long long)n, (unsigned long long)seq));
}

static void work(const char *device, uint64_t size)
{
	static const int flags[] = { 0, O_DSYNC, O_DIRECT };

	for (unsigned i = 0; i < 3; i++)
		if ((fd[i] = open(device, O_RDWR | flags[i])) < 0)
			die("open");
	sectors = slot_sectors[me];
	count = size / SECTOR / WORKERS;
	first = me * count;
	keys = count / sectors / 2;
	key = calloc(keys, sizeof(*key));
	if (!key || posix_memalign((void **)&buf, 4096, sectors * SECTOR))
		die("memory");
	for (;;)
		if (below(12))
			write_batch();
		else
			clear();
}

static void pass_on(void)
{
	char line[64];
	unsigned w;

	while (fgets(line, sizeof(line), stdin))
		if (sscanf(line, "A %u", &w) == 1 && w < WORKERS && write(allowed[w][1], "", 1) != 1)
			die("allow");
}

int main(int argc, char **argv)
{
	uint64_t size = 0;
	int f = argc == 4 ? open(argv[1], O_RDONLY) : -1;

	if (f < 0 || ioctl(f, BLKGETSIZE64, &size))
		die("arguments");
	for (me = 0; me < WORKERS; me++) {
		if (pipe(allowed[me]))
			die("pipe");
		if (fork())
			continue;
		rng = (strtoull(argv[2], NULL, 0) * WORKERS + me + 1) * 0x9e3779b97f4a7c15ull;
		seq = strtoull(argv[3], NULL, 0);
		work(argv[1], size);
	}
	say("GO\n", 3);
	pass_on();
	return 1;
}

/*
 * blockio: the block backend for scripts.
 *
 *   blockio create FILE SIZE [cluster=N] [refcount=N] [backing=FILE] [format=F] [lazy]
 *   blockio check FILE            prints errors=N leaks=N; 0: no errors
 *   blockio info FILE
 *   blockio OPTIONS COMMAND...    with the image open
 *       file=F format=raw|qcow2 cache=none|unsafe threads ro snapshot
 *       read:OFFSET:LENGTH:FILE (FILE - : nothing is written)  write:OFFSET:FILE
 *       zero:OFFSET:LENGTH  unmap:OFFSET:LENGTH  discard:OFFSET:LENGTH  flush
 *       random:SEED:ROUNDS:MAX    random requests, compared with a model
 *       wait                      for a line on standard input
 *       torture:SEED:LOG          writes and flushes until it is killed
 *       verify:LOG                what torture says must be there
 *
 * A command that fails prints its errno value and ends it with status 1.
 */
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rig.h"

static int fail(const char *what, int error)
{
	printf("%s: %s (%d)\n", what, strerror(error), error);
	return 1;
}

/* ---- torture ---- */

#define UNIT 4096u
#define INFLIGHT 16
#define ZERO_EVERY 8 /* each so many versions of a unit are zeroes, the first (0) as well */

/* Shared with the file, so that it outlives the process. */
struct record {
	_Atomic u32 issued, flushed; /* versions */
};

static void make_unit(u8 *buf, u64 unit, u32 version)
{
	for (unsigned s = 0; s < UNIT; s += 512) {
		u64 head[3] = { 0x6563747970652121ull, unit, version };

		memset(buf + s, (u8)(version * 31 + unit), 512);
		memcpy(buf + s, head, sizeof(head));
	}
}

static struct record *map_log(const char *path, u64 units)
{
	int fd = open(path, O_RDWR | O_CREAT, 0644);
	struct record *r;

	if (fd < 0 || ftruncate(fd, units * sizeof(*r)) < 0)
		return NULL;
	r = mmap(NULL, units * sizeof(*r), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return r == MAP_FAILED ? NULL : r;
}

static int torture(struct block *b, u64 seed, const char *log)
{
	u64 units = block_size(b) / UNIT;
	struct record *rec = map_log(log, units);
	u32 *written = calloc(units, sizeof(*written)); /* by this process: what an earlier one issued may be lost */
	struct op ops[INFLIGHT];
	u8 *buf;

	if (!rec || !written || posix_memalign((void **)&buf, 4096, INFLIGHT * UNIT))
		return fail("torture", ENOMEM);
	seed = seed * 0x9e3779b97f4a7c15ull | 1;
	for (unsigned round = 0;; round++) {
		unsigned n = 0;

		while (n < INFLIGHT) {
			u64 unit = rig_random(&seed) % units;
			u32 version = rec[unit].issued + 1;

			if (rig_overlaps(ops, n, unit * UNIT, UNIT))
				continue;
			make_unit(buf + n * UNIT, unit, version);
			op_init(&ops[n], version % ZERO_EVERY ? BLOCK_WRITE : BLOCK_WRITE_ZEROES, unit * UNIT, UNIT,
				buf + n * UNIT, false);
			ops[n].r.unmap = true;
			rec[unit].issued = version;
			n++;
		}
		for (unsigned i = 0; i < n; i++)
			block_submit(b, &ops[i].r);
		block_drain(b);
		for (unsigned i = 0; i < n; i++)
			if (ops[i].error)
				return fail("torture", ops[i].error);
			else
				written[ops[i].r.offset / UNIT] = rec[ops[i].r.offset / UNIT].issued;
		if (round % 8)
			continue;
		if (rig_io(b, BLOCK_FLUSH, 0, 0, NULL))
			return fail("torture: flush", EIO);
		for (u64 u = 0; u < units; u++)
			if (written[u])
				rec[u].flushed = written[u];
	}
}

static bool sector_ok(const u8 *s, u64 unit, const struct record *r)
{
	static const u8 zeroes[512];
	u64 head[3];
	u8 *want;
	bool ok;

	if (!memcmp(s, zeroes, 512))
		return r->issued / ZERO_EVERY * ZERO_EVERY >= r->flushed;
	memcpy(head, s, sizeof(head));
	if (head[1] != unit || head[2] < r->flushed || head[2] > r->issued)
		return false;
	want = malloc(UNIT);
	make_unit(want, unit, head[2]);
	ok = !memcmp(want, s, 512);
	free(want);
	return ok;
}

static int verify(struct block *b, const char *log)
{
	u64 units = block_size(b) / UNIT, flushed = 0;
	struct record *rec = map_log(log, units);
	u8 buf[UNIT];

	if (!rec)
		return fail("verify", errno);
	for (u64 u = 0; u < units; u++) {
		int rc = rig_io(b, BLOCK_READ, u * UNIT, UNIT, buf);

		if (rc)
			return fail("verify", rc);
		flushed += rec[u].flushed != 0;
		for (unsigned s = 0; s < UNIT; s += 512)
			if (!sector_ok(buf + s, u, &rec[u])) {
				u64 head[3];

				memcpy(head, buf + s, sizeof(head));
				printf("unit %llu+%u: flushed %u, issued %u, read unit %llu version %llu\n",
				       (unsigned long long)u, s, rec[u].flushed, rec[u].issued,
				       (unsigned long long)head[1], (unsigned long long)head[2]);
				return 1;
			}
	}
	printf("verified %llu flushed units\n", (unsigned long long)flushed);
	return 0;
}

/* ---- commands on an open image ---- */

static int read_to(struct block *b, u64 offset, u64 length, const char *path)
{
	int fd = strcmp(path, "-") ? open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644) : -1, rc = 0;
	u8 *buf = malloc(MiB);

	for (u64 n; !rc && length; offset += n, length -= n) {
		n = MIN(MiB, length);
		rc = rig_io(b, BLOCK_READ, offset, n, buf);
		if (!rc && fd >= 0 && write(fd, buf, n) != (ssize_t)n)
			rc = errno;
	}
	free(buf);
	if (fd >= 0)
		close(fd);
	return rc;
}

static int write_from(struct block *b, u64 offset, const char *path)
{
	int fd = open(path, O_RDONLY), rc = fd < 0 ? errno : 0;
	u8 *buf = malloc(MiB);
	ssize_t n;

	while (!rc && (n = read(fd, buf, MiB)) > 0) {
		rc = rig_io(b, BLOCK_WRITE, offset, n, buf);
		offset += n;
	}
	free(buf);
	close(fd);
	return rc;
}

static int random_run(struct block *b, u64 seed, u64 rounds, u64 max)
{
	u8 *model = malloc(block_size(b));
	bool ok = model && rig_io(b, BLOCK_READ, 0, block_size(b), model) == 0 &&
		  rig_run(b, model, seed, rounds, max ? max : RIG_MAX) && rig_same(b, model);

	free(model);
	return ok ? 0 : EIO;
}

static char *field(char **s)
{
	char *f = strsep(s, ":");

	return f ? f : (char *)"";
}

static u64 number(char **s)
{
	return strtoull(field(s), NULL, 0);
}

static int simple(struct block *b, enum block_op op, bool unmap, u64 offset, u64 length)
{
	struct op o;

	op_init(&o, op, offset, length, NULL, false);
	o.r.iov_n = 0;
	o.r.unmap = unmap;
	block_submit(b, &o.r);
	block_drain(b);
	return o.error;
}

static int command(struct block *b, char *s)
{
	char *name = field(&s);
	u64 a, n;

	if (!strcmp(name, "flush"))
		return simple(b, BLOCK_FLUSH, false, 0, 0);
	if (!strcmp(name, "wait"))
		return printf("ready\n"), fflush(stdout), getchar() == EOF ? EPIPE : 0;
	if (!strcmp(name, "size"))
		return printf("%llu\n", (unsigned long long)block_size(b)), 0;
	if (!strcmp(name, "verify"))
		return verify(b, field(&s));
	a = number(&s);
	if (!strcmp(name, "torture"))
		return torture(b, a, field(&s));
	if (!strcmp(name, "write"))
		return write_from(b, a, field(&s));
	n = number(&s);
	if (!strcmp(name, "read"))
		return read_to(b, a, n ? n : block_size(b) - a, field(&s));
	if (!strcmp(name, "random"))
		return random_run(b, a, n, number(&s));
	if (!strcmp(name, "zero") || !strcmp(name, "unmap"))
		return simple(b, BLOCK_WRITE_ZEROES, *name == 'u', a, n);
	if (!strcmp(name, "discard"))
		return simple(b, BLOCK_DISCARD, false, a, n);
	return ENOSYS;
}

static bool option(struct block_config *c, const char *s)
{
	if (!strncmp(s, "file=", 5))
		c->path = s + 5;
	else if (!strcmp(s, "format=raw"))
		c->format = BLOCK_FORMAT_RAW;
	else if (!strcmp(s, "format=qcow2"))
		c->format = BLOCK_FORMAT_QCOW2;
	else if (!strcmp(s, "cache=none"))
		c->cache = BLOCK_CACHE_NONE;
	else if (!strcmp(s, "cache=unsafe"))
		c->cache = BLOCK_CACHE_UNSAFE;
	else if (!strcmp(s, "threads"))
		c->threads = true;
	else if (!strcmp(s, "ro"))
		c->readonly = true;
	else if (!strcmp(s, "snapshot"))
		c->snapshot = true;
	else
		return false;
	return true;
}

static int with_image(int argc, char **argv)
{
	struct block_config c = { 0 };
	struct block *b;
	struct error e;
	int i = 1, rc = 0, rc2;

	while (i < argc && option(&c, argv[i]))
		i++;
	if (!c.path)
		return fail("no file=", EINVAL);
	b = block_open(&c, &e);
	if (!b) {
		printf("%s\n", e.text);
		return 2;
	}
	for (; i < argc && !rc; i++) {
		rc = command(b, argv[i]);
		if (rc)
			fail(argv[i], rc);
	}
	rc2 = block_close(b);
	if (rc2)
		fail("close", rc2);
	return rc || rc2;
}

static int create(int argc, char **argv)
{
	struct qcow2_create_config c = { .path = argv[2], .size = argc > 3 ? strtoull(argv[3], NULL, 0) : 0 };
	struct error e;

	for (int i = 4; i < argc; i++) {
		const char *s = argv[i];

		if (!strncmp(s, "cluster=", 8))
			c.cluster_size = strtoul(s + 8, NULL, 0);
		else if (!strncmp(s, "refcount=", 9))
			c.refcount_bits = strtoul(s + 9, NULL, 0);
		else if (!strncmp(s, "backing=", 8))
			c.backing_file = s + 8;
		else if (!strncmp(s, "format=", 7))
			c.backing_format = s + 7;
		else if (!strcmp(s, "lazy"))
			c.lazy_refcounts = true;
		else if (!strcmp(s, "overwrite"))
			c.overwrite = true;
	}
	if (qcow2_create(&c, &e) == 0)
		return 0;
	printf("%s\n", e.text);
	return 2;
}

static void print_line(void *opaque, const char *line)
{
	printf("%s\n", line);
}

static int check(const char *path)
{
	struct block_check_result r = { .report = print_line };
	struct error e;

	if (block_check(path, BLOCK_FORMAT_AUTO, &r, &e) < 0) {
		printf("%s\n", e.text);
		return 2;
	}
	printf("errors=%llu leaks=%llu allocated=%llu clusters=%llu\n", (unsigned long long)r.errors,
	       (unsigned long long)r.leaks, (unsigned long long)r.allocated, (unsigned long long)r.clusters);
	return r.errors != 0;
}

static int info(const char *path)
{
	struct block_info i;
	struct error e;

	if (block_info(path, BLOCK_FORMAT_AUTO, &i, &e) < 0) {
		printf("%s\n", e.text);
		return 2;
	}
	printf("format=%s size=%llu cluster=%llu backing=%s backing_format=%s version=%u refcount_bits=%u "
	       "snapshots=%u lazy=%d dirty=%d corrupt=%d zstd=%d unsupported=%s\n",
	       i.format, (unsigned long long)i.virtual_size, (unsigned long long)i.cluster_size, i.backing_file,
	       i.backing_format, i.version, i.refcount_bits, i.snapshots, i.lazy_refcounts, i.dirty, i.corrupt, i.zstd,
	       i.unsupported);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 2 && !strcmp(argv[1], "create"))
		return create(argc, argv);
	if (argc > 2 && !strcmp(argv[1], "check"))
		return check(argv[2]);
	if (argc > 2 && !strcmp(argv[1], "info"))
		return info(argv[2]);
	return with_image(argc, argv);
}

/*
 * `ectype image convert`: copies a disk into an image of another format. The
 * new image has no name until it is whole, so that nothing is left of one that
 * was cut short, however that happened; where the file system knows no files
 * without a name, it has one beside the target. Runs of zeros are not written.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/image_commands.h"

#define CHUNK (2 * MiB)
#define GRAIN (64 * KiB) /* what is all zeros in this unit is left out */

static const char usage[] = "usage: ectype image convert [--format raw|qcow2] [--force] SRC DST\n"
			    "Copies a disk, with its backing files, into one new image.\n"
			    "  --format  of DST; default: qcow2 if its name ends so, else raw\n"
			    "  --force   replace DST if it is there\n";

/* A request that is waited for. */
struct pending {
	struct block_request r;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done;
	int error;
};

static void on_done(struct block_request *r, int error)
{
	struct pending *p = r->opaque;

	pthread_mutex_lock(&p->lock);
	p->done = true;
	p->error = error;
	pthread_cond_signal(&p->cond);
	pthread_mutex_unlock(&p->lock);
}

/* 0 or an errno value. */
static int transfer(struct block *b, enum block_op op, u64 offset, u8 *data, u64 length)
{
	struct iovec iov = { data, length };
	struct pending p = {
		.r = { .op = op, .offset = offset, .length = length, .iov = &iov, .iov_n = 1, .done = on_done },
		.lock = PTHREAD_MUTEX_INITIALIZER,
		.cond = PTHREAD_COND_INITIALIZER,
	};

	p.r.opaque = &p;
	block_submit(b, &p.r);
	pthread_mutex_lock(&p.lock);
	while (!p.done)
		pthread_cond_wait(&p.cond, &p.lock);
	pthread_mutex_unlock(&p.lock);
	return p.error;
}

/* The first byte from `at` on that is no hole of a raw image's file; `fd` may be -1. */
static u64 skip_hole(int fd, u64 at, u64 size)
{
	off_t next = fd < 0 ? -1 : lseek(fd, (off_t)at, SEEK_DATA);

	if (next >= 0)
		return MIN((u64)next / GRAIN * GRAIN, size);
	return fd >= 0 && errno == ENXIO ? size : at;
}

static bool zeros(const u8 *p, u64 n)
{
	return !n || (!p[0] && !memcmp(p, p + 1, n - 1));
}

/* Writes what of the chunk is not zero, in runs of whole grains. */
static int write_data(struct block *b, u64 offset, u8 *data, u64 length)
{
	u64 from = 0;
	int ret = 0;

	while (from < length && !ret) {
		u64 to = from;

		while (to < length && !zeros(data + to, MIN(GRAIN, length - to)))
			to += MIN(GRAIN, length - to);
		if (to > from)
			ret = transfer(b, BLOCK_WRITE, offset + from, data + from, to - from);
		from = to + MIN(GRAIN, length - to);
	}
	return ret;
}

/* 0 or -1 with *e. */
static int copy(struct block *from, struct block *to, const struct image_args *a, struct error *e)
{
	u8 *buffer = aligned_alloc(PAGE_SIZE, CHUNK);
	u64 size = block_size(from), percent = 101;
	bool tty = isatty(STDERR_FILENO);
	int ret = 0, fd = -1;

	if (!buffer)
		return error_set(e, "out of memory");
	if (!strcmp(block_format_name(from), "raw"))
		fd = open(a->file[0], O_RDONLY | O_CLOEXEC);
	signals_install(NULL, NULL);
	for (u64 at = skip_hole(fd, 0, size), n; at < size && !ret && !signals_caught();
	     at = skip_hole(fd, at + n, size)) {
		n = MIN(CHUNK, size - at);

		ret = transfer(from, BLOCK_READ, at, buffer, n);
		if (ret) {
			error_errno(e, ret, "%s cannot be read at byte %lu", a->file[0], at);
			break;
		}
		ret = write_data(to, at, buffer, n);
		if (ret)
			error_errno(e, ret, "%s cannot be written at byte %lu", a->file[1], at);
		if (tty && (at + n) * 100 / size != percent) {
			percent = (at + n) * 100 / size;
			fprintf(stderr, "\r\033[Kectype: copying (%lu %%)", percent);
		}
	}
	signals_remove();
	if (tty)
		fputs("\r\033[K", stderr);
	free(buffer);
	if (fd >= 0)
		close(fd);
	if (!ret && signals_caught())
		return error_set(e, "interrupted, nothing made");
	return ret ? -1 : 0;
}

/* The file that becomes the image. */
struct target {
	const char *name;
	int fd;		     /* without a name; else -1 */
	char path[PATH_MAX]; /* to open it by */
};

static mode_t mode_of(enum block_format format)
{
	return format == BLOCK_FORMAT_QCOW2 ? 0644 : 0666;
}

static int make_named(struct target *t, enum block_format format, struct error *e)
{
	int fd;

	if ((size_t)snprintf(t->path, sizeof(t->path), "%s.%d.new", t->name, getpid()) >= sizeof(t->path))
		return error_set(e, "%s: the name is too long", t->name);
	fd = open(t->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode_of(format));
	if (fd < 0)
		return error_errno(e, errno, "%s", t->path);
	close(fd);
	return 0;
}

static bool make_nameless(struct target *t, enum block_format format)
{
	const char *slash = strrchr(t->name, '/');
	char folder[PATH_MAX];

	if ((size_t)snprintf(folder, sizeof(folder), "%.*s.", slash ? (int)(slash + 1 - t->name) : 0, t->name) >=
	    sizeof(folder))
		return false;
	t->fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, mode_of(format));
	if (t->fd < 0)
		return false;
	snprintf(t->path, sizeof(t->path), "/proc/self/fd/%d", t->fd);
	if (access(t->path, W_OK) == 0)
		return true;
	close(t->fd);
	t->fd = -1;
	return false;
}

/* For messages: the name, not what a file without one is opened by. */
static int blame(const struct target *t, struct error *e)
{
	size_t n = strlen(t->path);
	struct error was = *e;

	if (t->fd >= 0 && !strncmp(was.text, t->path, n))
		return error_set(e, "%s%s", t->name, was.text + n);
	return -1;
}

static int fill_target(const struct target *t, enum block_format format, u64 size, struct error *e)
{
	const struct qcow2_create_config c = { .path = t->path, .size = size, .overwrite = true };

	if (format == BLOCK_FORMAT_QCOW2)
		return qcow2_create(&c, e) ? blame(t, e) : 0;
	return truncate(t->path, (off_t)size) ? error_errno(e, errno, "%s of %lu bytes", t->name, size) : 0;
}

/* Gives the whole image its name; a file that has appeared there is kept unless `force`. */
static int rename_target(const char *made, const char *name, bool force, struct error *e)
{
	if (renameat2(AT_FDCWD, made, AT_FDCWD, name, force ? 0 : RENAME_NOREPLACE) == 0)
		return 0;
	if (errno == EINVAL && access(name, F_OK) && rename(made, name) == 0)
		return 0; /* a file system without RENAME_NOREPLACE */
	return error_errno(e, errno, "%s", name);
}

static int publish(struct target *t, bool force, struct error *e)
{
	char path[PATH_MAX];

	if (t->fd < 0)
		return rename_target(t->path, t->name, force, e);
	if (linkat(AT_FDCWD, t->path, AT_FDCWD, t->name, AT_SYMLINK_FOLLOW) == 0)
		return 0;
	if (errno != EEXIST || !force)
		return error_errno(e, errno, "%s", t->name);
	/* a link replaces nothing; a rename does */
	strcpy(path, t->path);
	if ((size_t)snprintf(t->path, sizeof(t->path), "%s.%d.new", t->name, getpid()) >= sizeof(t->path))
		return error_set(e, "%s: the name is too long", t->name);
	if (linkat(AT_FDCWD, path, AT_FDCWD, t->path, AT_SYMLINK_FOLLOW))
		return error_errno(e, errno, "%s", t->path);
	close(t->fd);
	t->fd = -1;
	return rename_target(t->path, t->name, true, e);
}

static int copy_to(const struct target *t, const struct image_args *a, struct block *from, struct error *e)
{
	struct block *to = block_open(&(struct block_config){ .path = t->path, .format = a->format }, e);
	int ret = to ? copy(from, to, a, e) : blame(t, e), err = block_close(to);

	if (!ret && err)
		ret = error_errno(e, err, "%s cannot be written", t->name);
	return ret;
}

static int convert(const struct image_args *a, struct block *from, struct error *e)
{
	struct target t = { .name = a->file[1], .fd = -1 };
	int ret;

	if (!make_nameless(&t, a->format) && make_named(&t, a->format, e))
		return -1;
	ret = fill_target(&t, a->format, block_size(from), e);
	if (!ret)
		ret = copy_to(&t, a, from, e);
	if (!ret)
		ret = publish(&t, a->force, e);
	if (t.fd >= 0)
		close(t.fd);
	else if (ret)
		unlink(t.path);
	return ret;
}

int image_convert(int argc, char **argv)
{
	struct image_args a;
	struct block *from;
	struct stat st;
	struct error e;
	int ret = image_args_parse(&a, argc, argv, 2, IMAGE_ARG_FORMAT | IMAGE_ARG_FORCE, usage);

	if (ret || a.help)
		return ret;
	if (a.format == BLOCK_FORMAT_AUTO) {
		const char *end = strrchr(a.file[1], '.');

		a.format = end && !strcmp(end, ".qcow2") ? BLOCK_FORMAT_QCOW2 : BLOCK_FORMAT_RAW;
	}
	if (lstat(a.file[1], &st) == 0) {
		if (!a.force)
			return usage_error("image convert: %s exists; --force replaces it", a.file[1]);
		if (!S_ISREG(st.st_mode))
			return usage_error("image convert: %s is not an ordinary file; not replaced", a.file[1]);
	}
	from = block_open(&(struct block_config){ .path = a.file[0], .readonly = true }, &e);
	if (!from)
		return usage_error("image convert: %s", e.text);
	ret = convert(&a, from, &e);
	block_close(from);
	if (!ret)
		return EXIT_OK;
	usage_error("image convert: %s", e.text);
	return EXIT_FAILED;
}

/*
 * The initial RAM disk of `ectype exec`: Linux takes several cpio archives one
 * behind the other, so the cache's stays as it is and an archive with one file
 * follows it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/exec.h"

/* "key=value" strings, each with its zero byte. */
struct orders {
	char *text;
	size_t len;
	FILE *f;
};

static void order(struct orders *o, const char *key, const char *fmt, ...) printf_like(3, 4);
static void order(struct orders *o, const char *key, const char *fmt, ...)
{
	va_list ap;

	fprintf(o->f, "%s=", key);
	va_start(ap, fmt);
	vfprintf(o->f, fmt, ap);
	va_end(ap);
	fputc(0, o->f);
}

/* What a command expects to find, from here. */
static void order_environment(struct orders *out)
{
	static const char *const names[] = { "HOME", "TERM", "LANG", "LC_ALL", "USER", "LOGNAME", "SHELL" };
	const char *path = getenv("PATH");

	order(out, "env", "PATH=%s", path ? path : "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		if (getenv(names[i]))
			order(out, "env", "%s=%s", names[i], getenv(names[i]));
	}
}

static int write_orders(struct orders *out, const struct exec_options *o, const char *tty, struct error *e)
{
	char cwd[4096];

	if (!getcwd(cwd, sizeof(cwd)))
		return error_errno(e, errno, "the current directory cannot be used");
	order(out, "name", "ectype");
	order(out, "cwd", "%s", cwd);
	order(out, "tty", "%s", tty);
	if (o->net)
		order(out, "net", "user");
	/* the first share is the root */
	for (unsigned i = 1; i < o->run.shares.count; i++)
		order(out, "rw", "%s:%s", o->run.shares.item[i].tag, o->run.shares.item[i].path);
	order_environment(out);
	for (unsigned i = 0; i < o->envs; i++)
		order(out, "env", "%s", o->env[i]);
	for (char **c = o->command; *c; c++)
		order(out, "arg", "%s", *c);
	return 0;
}

static bool put(int fd, const void *p, size_t n)
{
	return write(fd, p, n) == (ssize_t)n;
}

/* An archive of the format "newc" with one regular file. */
static bool put_archive(int fd, const char *name, const char *data, size_t len)
{
	static const char zeros[4];
	const struct {
		const char *name;
		unsigned mode;
		const char *data;
		size_t len;
	} entry[] = { { name, S_IFREG | 0400, data, len }, { "TRAILER!!!", 0, "", 0 } };

	for (unsigned i = 0; i < ARRAY_SIZE(entry); i++) {
		size_t name_len = strlen(entry[i].name) + 1;
		char head[128];
		int n = snprintf(head, sizeof(head), "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s",
				 i + 1, entry[i].mode, 0, 0, 1, 0, (unsigned)entry[i].len, 0, 0, 0, 0,
				 (unsigned)name_len, 0, entry[i].name);

		if (!put(fd, head, (size_t)n + 1) || !put(fd, zeros, -((size_t)n + 1) % 4) ||
		    !put(fd, entry[i].data, entry[i].len) || !put(fd, zeros, -entry[i].len % 4))
			return false;
	}
	return true;
}

static int copy_base(int fd, const char *base, struct error *e)
{
	static const char zeros[4];
	int from = open(base, O_RDONLY | O_CLOEXEC);
	off_t size;
	ssize_t n;

	if (from < 0)
		return error_set(e, "no %s: run `make run` once", base);
	while ((n = sendfile(fd, from, NULL, 1 << 20)) > 0)
		;
	close(from);
	if (n < 0)
		return error_errno(e, errno, "cannot read %s", base);
	size = lseek(fd, 0, SEEK_CUR);
	return put(fd, zeros, (size_t)-size % 4) ? 0 : error_errno(e, errno, "cannot write the initial RAM disk");
}

int exec_image_create(const struct exec_options *o, const char *base, const char *tty, struct error *e)
{
	int fd = memfd_create("ectype-initrd", MFD_CLOEXEC), ret = -1;
	struct orders out = { 0 };

	out.f = fd < 0 ? NULL : open_memstream(&out.text, &out.len);
	if (!out.f) {
		error_errno(e, errno, "cannot make the initial RAM disk");
		goto done;
	}
	if (write_orders(&out, o, tty, e))
		goto done;
	if (fflush(out.f) || ferror(out.f) || out.len > 16 * MiB) {
		error_set(e, "the command is too long");
		goto done;
	}
	ret = copy_base(fd, base, e);
	if (!ret && !put_archive(fd, "ectype-exec", out.text, out.len))
		ret = error_errno(e, errno, "cannot make the initial RAM disk");
done:
	if (out.f)
		fclose(out.f);
	free(out.text);
	if (ret && fd >= 0)
		close(fd);
	return ret ? -1 : fd;
}

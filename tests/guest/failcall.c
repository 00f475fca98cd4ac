/*
 * For tests/guest/store.py, preloaded: counts the calls that change files, and lets call FAIL_AT fail with errno
 * FAIL_ERRNO, and all like it that follow; or, with FAIL_ERRNO=0, kills the process there. The number of calls goes to
 * the file FAIL_COUNT in the end.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static int number(const char *name)
{
	const char *s = getenv(name);

	return s ? atoi(s) : 0;
}

static int count;

__attribute__((destructor)) static void report(void)
{
	FILE *f = getenv("FAIL_COUNT") ? fopen(getenv("FAIL_COUNT"), "w") : NULL;

	if (f) {
		fprintf(f, "%d\n", count);
		fclose(f);
	}
}

/* Is this the call, or one of the same kind behind it? */
static int fails(const char *kind)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static const char *failing;
	int ret;

	pthread_mutex_lock(&lock);
	if (++count == number("FAIL_AT")) {
		if (!number("FAIL_ERRNO"))
			kill(getpid(), SIGKILL);
		failing = kind;
	}
	ret = failing == kind;
	pthread_mutex_unlock(&lock);
	if (ret)
		errno = number("FAIL_ERRNO");
	return ret;
}

#define REAL(type, name, ...)                                                                                          \
	static type (*real)(__VA_ARGS__);                                                                              \
	static const char kind[] = #name;                                                                              \
	if (!real)                                                                                                     \
		*(void **)&real = dlsym(RTLD_NEXT, #name);                                                             \
	if (fails(kind))                                                                                               \
		return (type)-1;

ssize_t pwrite64(int fd, const void *p, size_t n, off64_t at)
{
	REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t)
	return real(fd, p, n, at);
}

ssize_t pwritev64(int fd, const struct iovec *v, int n, off64_t at)
{
	REAL(ssize_t, pwritev64, int, const struct iovec *, int, off64_t)
	return real(fd, v, n, at);
}

ssize_t pwritev64v2(int fd, const struct iovec *v, int n, off64_t at, int flags)
{
	REAL(ssize_t, pwritev64v2, int, const struct iovec *, int, off64_t, int)
	return real(fd, v, n, at, flags);
}

int fsync(int fd)
{
	REAL(int, fsync, int)
	return real(fd);
}

int fdatasync(int fd)
{
	REAL(int, fdatasync, int)
	return real(fd);
}

int ftruncate64(int fd, off64_t n)
{
	REAL(int, ftruncate64, int, off64_t)
	return real(fd, n);
}

int renameat(int from, const char *a, int to, const char *b)
{
	REAL(int, renameat, int, const char *, int, const char *)
	return real(from, a, to, b);
}

int renameat2(int from, const char *a, int to, const char *b, unsigned flags)
{
	REAL(int, renameat2, int, const char *, int, const char *, unsigned)
	return real(from, a, to, b, flags);
}

int openat64(int dir, const char *name, int flags, ...)
{
	static int (*real)(int, const char *, int, ...);
	static const char kind[] = "openat";
	va_list ap;
	int mode;

	va_start(ap, flags);
	mode = va_arg(ap, int);
	va_end(ap);
	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "openat64");
	if ((flags & O_CREAT) && fails(kind))
		return -1;
	return real(dir, name, flags, mode);
}

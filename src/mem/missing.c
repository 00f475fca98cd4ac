#include "mem/missing.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mem/physmem_priv.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

#define MESSAGES 64u

struct missing {
	int fd;
	u8 *ram;
	u64 frames, left;
	u64 *bits;
	/* The memory goes on another thread: no page is brought to where something else may lie then. */
	pthread_mutex_t lock;
	struct memory *mem; /* NULL: it is gone, or nothing is missing any more */
	bool given_up;
};

int missing_open(struct error *e)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

	if (fd < 0)
		return error_errno(e, errno, "the host has no userfaultfd");
	if (!ioctl(fd, UFFDIO_API, &api))
		return fd;
	error_errno(e, errno, "the host's userfaultfd is not usable");
	close(fd);
	return -1;
}

/* ---- begin and end ---- */

static bool missing(const struct missing *s, u64 frame)
{
	return s->bits[frame / 64] & BIT(frame % 64);
}

/* What came before and is older. */
static int drop(struct missing *s, struct error *e)
{
	for (u64 at = 0, n; at < s->frames; at += n) {
		if (!(at % 64) && !s->bits[at / 64]) {
			n = MIN(s->frames - at, 64ull);
			continue;
		}
		for (n = 1; at + n < s->frames && missing(s, at + n) == missing(s, at); n++)
			;
		if (!missing(s, at))
			continue;
		s->left += n;
		if (madvise(s->ram + at * PAGE_SIZE, n * PAGE_SIZE, MADV_DONTNEED))
			return error_errno(e, errno, "cannot drop guest RAM");
	}
	return 0;
}

static int watch(struct missing *s, struct error *e)
{
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)s->ram, .len = s->frames * PAGE_SIZE },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	const u64 needed = BIT(_UFFDIO_COPY) | BIT(_UFFDIO_ZEROPAGE) | BIT(_UFFDIO_WAKE);

	if (ioctl(s->fd, UFFDIO_REGISTER, &reg))
		return error_errno(e, errno, "the host's userfaultfd does not take guest RAM");
	if ((reg.ioctls & needed) != needed)
		return error_set(e, "the host's userfaultfd cannot bring pages of guest RAM");
	return 0;
}

static void free_all(struct missing *s)
{
	if (s->fd >= 0)
		close(s->fd);
	pthread_mutex_destroy(&s->lock);
	free(s->bits);
	free(s);
}

struct missing *missing_begin(struct memory *m, int fd, const u64 *frames, struct error *e)
{
	struct missing *s = calloc(1, sizeof(*s));
	u64 words = (m->ram_size >> PAGE_SHIFT) / 64 + 1;

	if (!s) {
		close(fd);
		error_set(e, "not enough host memory");
		return NULL;
	}
	pthread_mutex_init(&s->lock, NULL);
	s->fd = fd;
	s->ram = m->ram;
	s->frames = m->ram_size >> PAGE_SHIFT;
	s->bits = malloc(words * sizeof(*s->bits));
	if (!s->bits) {
		error_set(e, "not enough host memory");
	} else if (m->flags & MEMORY_SHARED || m->filed || m->missing) {
		error_set(e, "this RAM cannot come later");
	} else {
		memcpy(s->bits, frames, (s->frames + 63) / 64 * sizeof(*s->bits));
		if (!drop(s, e) && !watch(s, e)) {
			s->mem = m;
			__atomic_store_n(&m->missing, s, __ATOMIC_RELEASE);
			return s;
		}
	}
	free_all(s);
	return NULL;
}

/* With the lock. Wakes all. */
static void unwatch(const struct missing *s)
{
	struct uffdio_range all = { .start = (uintptr_t)s->ram, .len = s->frames * PAGE_SIZE };

	ioctl(s->fd, UFFDIO_UNREGISTER, &all);
}

void missing_end(struct missing *s)
{
	pthread_mutex_lock(&s->lock);
	if (s->mem) {
		unwatch(s);
		__atomic_store_n(&s->mem->missing, NULL, __ATOMIC_RELEASE);
	}
	s->mem = NULL;
	pthread_mutex_unlock(&s->lock);
}

void missing_destroy(struct missing *s)
{
	if (!s)
		return;
	missing_end(s);
	free_all(s);
}

void missing_forget(struct missing *s)
{
	missing_end(s);
}

bool memory_missing(const struct memory *m)
{
	return __atomic_load_n(&m->missing, __ATOMIC_ACQUIRE);
}

/* ---- serving ---- */

int missing_fd(const struct missing *s)
{
	return s->fd;
}

u64 missing_left(const struct missing *s)
{
	return s->left;
}

const u64 *missing_bits(const struct missing *s)
{
	return s->bits;
}

static void wake(const struct missing *s, u64 frame)
{
	struct uffdio_range r = { .start = (uintptr_t)s->ram + frame * PAGE_SIZE, .len = PAGE_SIZE };

	ioctl(s->fd, UFFDIO_WAKE, &r);
}

/* One request for up to `n` frames. How many were brought, 0 with errno. */
static u64 bring_some(const struct missing *s, u64 first, u64 n, const u8 *data)
{
	u64 at = (uintptr_t)s->ram + first * PAGE_SIZE;
	struct uffdio_copy copy = { .dst = at, .src = (uintptr_t)data, .len = n * PAGE_SIZE };
	struct uffdio_zeropage zero = { .range = { .start = at, .len = n * PAGE_SIZE } };
	s64 done;

	if (!(data ? ioctl(s->fd, UFFDIO_COPY, &copy) : ioctl(s->fd, UFFDIO_ZEROPAGE, &zero)))
		return n;
	done = data ? copy.copy : zero.zeropage;
	if (done < 0)
		errno = (int)-done;
	return done > 0 ? (u64)done / PAGE_SIZE : 0;
}

/* With the lock. */
static int bring(const struct missing *s, u64 first, u64 n, const u8 *data)
{
	for (u64 done; n; first += done, n -= done, data += data ? done * PAGE_SIZE : 0) {
		done = bring_some(s, first, n, data);
		if (done || errno == EAGAIN) /* the address space changes at the moment */
			continue;
		if (errno != EEXIST)
			return -1;
		wake(s, first); /* it was there before */
		done = 1;
	}
	return 0;
}

int missing_place(struct missing *s, u64 first, u64 n, const u8 *data, struct error *e)
{
	int ret = 0;

	pthread_mutex_lock(&s->lock);
	for (u64 run, end = first + n; s->mem && !s->given_up && !ret && first < end; first += run) {
		const u8 *from = data ? data + (first - (end - n)) * PAGE_SIZE : NULL;

		for (run = 1; first + run < end && missing(s, first + run) == missing(s, first); run++)
			;
		if (!missing(s, first))
			continue;
		ret = bring(s, first, run, from);
		for (u64 i = 0; i < run && !ret; i++)
			s->bits[(first + i) / 64] &= ~BIT((first + i) % 64);
		s->left -= ret ? 0 : run;
	}
	if (ret)
		error_errno(e, errno, "the host does not take a page of guest RAM");
	pthread_mutex_unlock(&s->lock);
	return ret;
}

void missing_give_up(struct missing *s)
{
	pthread_mutex_lock(&s->lock);
	if (s->mem && !s->given_up)
		unwatch(s);
	s->given_up = true;
	pthread_mutex_unlock(&s->lock);
}

unsigned missing_faults(struct missing *s, u64 *frame, unsigned max)
{
	struct uffd_msg msg[MESSAGES];
	unsigned count = 0;
	ssize_t got = read(s->fd, msg, MIN(max, MESSAGES) * sizeof(*msg));

	pthread_mutex_lock(&s->lock);
	for (ssize_t i = 0; s->mem && !s->given_up && i < got / (ssize_t)sizeof(*msg); i++) {
		u64 at = (msg[i].arg.pagefault.address - (uintptr_t)s->ram) >> PAGE_SHIFT;

		if (msg[i].event != UFFD_EVENT_PAGEFAULT || at >= s->frames)
			continue;
		if (missing(s, at))
			frame[count++] = at;
		else
			bring(s, at, 1, NULL);
	}
	pthread_mutex_unlock(&s->lock);
	return count;
}

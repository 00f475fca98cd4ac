/* Reads and writes of the page cache by the caller (see now.h). */
#include <errno.h>
#include <limits.h>
#include <sys/resource.h>
#include <time.h>

#include "backend/block/now.h"
#include "base/host_time.h"

#define NSEC_PER_SEC 1000000000ull
#define WAITED_NS 2000000u /* long enough to matter */
#define PAUSE_MIN (NSEC_PER_SEC / 4)
#define PAUSE_MAX (32 * NSEC_PER_SEC)

/* How often the thread has waited for something; being preempted does not count. */
static long waits(void)
{
	struct rusage u;

	getrusage(RUSAGE_THREAD, &u);
	return u.ru_nvcsw;
}

/* A disk that cannot follow makes writers wait, up to 200 ms each: pauses that double keep that a small part of the
 * time, and a pause that was long enough halves the next. */
static void judge(struct now *n, u64 from, u64 to, bool waited)
{
	u64 pause = atomic_load(&n->pause_ns), last = atomic_load(&n->not_before);

	if (to - from > WAITED_NS && waited) {
		pause = MIN(MAX(2 * pause, PAUSE_MIN), PAUSE_MAX);
		atomic_store(&n->pause_ns, pause);
		atomic_store(&n->not_before, to + pause);
	} else if (pause && to - last > 4 * pause) {
		atomic_store(&n->pause_ns, pause / 2);
		atomic_store(&n->not_before, to);
	}
}

/* ext4 has no writes with RWF_NOWAIT. */
static bool write_blocking(struct now *n, int fd, u64 offset, u64 length, const struct iovec *iov, unsigned iov_n)
{
	u64 from = host_ns();
	long before;
	ssize_t r;

	if (from < atomic_load(&n->not_before) || atomic_load(&n->maintenance))
		return false;
	before = waits();
	r = pwritev(fd, iov, (int)iov_n, (off_t)offset);
	judge(n, from, host_ns(), waits() != before);
	return r >= 0 && (u64)r == length;
}

bool now_transfer(struct now *n, int fd, bool write, u64 offset, u64 length, const struct iovec *iov, unsigned iov_n)
{
	ssize_t r;

	if (length > NOW_MAX || iov_n > IOV_MAX)
		return false;
	if (!write)
		r = preadv2(fd, iov, (int)iov_n, (off_t)offset, RWF_NOWAIT);
	else if (!atomic_load(&n->blocking))
		r = pwritev2(fd, iov, (int)iov_n, (off_t)offset, RWF_NOWAIT);
	else
		return write_blocking(n, fd, offset, length, iov, iov_n);
	if (r < 0 && write && errno == EOPNOTSUPP) {
		atomic_store(&n->blocking, true);
		return write_blocking(n, fd, offset, length, iov, iov_n);
	}
	return r >= 0 && (u64)r == length;
}

/* What the kernel does for programs. Two parties of a ping-pong share one processor: bench.py pins the native run. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "work.h"

uint64_t run_getppid(uint64_t count)
{
	uint64_t same = 0;
	long parent = syscall(SYS_getppid);

	for (uint64_t i = 0; i < count; i++)
		same += syscall(SYS_getppid) == parent;
	return same;
}

static pid_t fork_or_die(void)
{
	pid_t child = fork();

	if (child < 0)
		die("fork");
	return child;
}

/* Returns the exit status. */
static uint64_t wait_for(pid_t child)
{
	int status;

	if (waitpid(child, &status, 0) != child || !WIFEXITED(status))
		die("waitpid");
	return (uint64_t)WEXITSTATUS(status);
}

/* A count is one byte to another process and back. */
uint64_t run_pipe(uint64_t count)
{
	int there[2], back[2];
	uint64_t sum = 0;
	uint8_t byte = 0;
	pid_t child;

	if (pipe(there) || pipe(back))
		die("pipe");
	child = fork_or_die();
	if (!child) {
		close(there[1]);
		while (read(there[0], &byte, 1) == 1) {
			byte++;
			if (write(back[1], &byte, 1) != 1)
				_exit(1);
		}
		_exit(0);
	}
	for (uint64_t i = 0; i < count; i++) {
		if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
			die("pipe");
		sum += byte;
	}
	close(there[1]);
	close(there[0]);
	close(back[0]);
	close(back[1]);
	return sum + wait_for(child);
}

/* Take every second turn, from `first` to before `end`; yield until it comes. */
static void take_turns(uint64_t *turn, uint64_t first, uint64_t end)
{
	for (uint64_t mine = first; mine < end; mine += 2) {
		while (__atomic_load_n(turn, __ATOMIC_ACQUIRE) != mine)
			sched_yield();
		__atomic_store_n(turn, mine + 1, __ATOMIC_RELEASE);
	}
}

/*
 * A count is one turn each of two processes that hand over by sched_yield().
 * Only among real-time processes does each yield lead to the other; the fair
 * scheduler lets the same process go on as it sees fit, which would be more
 * work on one machine than on another.
 */
void setup_yield(void)
{
	struct sched_param priority = { .sched_priority = 1 };

	if (sched_setscheduler(0, SCHED_FIFO, &priority))
		fprintf(stderr, "work: yield: no right to SCHED_FIFO, the figure means little\n");
}

uint64_t run_yield(uint64_t count)
{
	uint64_t *turn = mmap(NULL, sizeof(*turn), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t turns;
	pid_t child;

	if (turn == MAP_FAILED)
		die("mmap");
	child = fork_or_die();
	take_turns(turn, child ? 0 : 1, 2 * count);
	if (!child)
		_exit(0);
	turns = wait_for(child) + *turn;
	munmap(turn, sizeof(*turn));
	return turns;
}

static uint64_t fork_many(uint64_t count, bool exec)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		pid_t child = fork_or_die();

		if (!child) {
			if (exec)
				execl(work_self, work_self, "nothing", (char *)NULL);
			_exit(exec ? 127 : 3);
		}
		sum += wait_for(child);
	}
	return sum;
}

uint64_t run_forkexit(uint64_t count)
{
	return fork_many(count, false);
}

uint64_t run_forkexec(uint64_t count)
{
	return fork_many(count, true);
}

/* A count is 256 pages mapped, touched and unmapped; never as one huge page. */
uint64_t run_faults(uint64_t count)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		volatile uint8_t *p = pages(256 * 4096, PROT_READ | PROT_WRITE);

		madvise((void *)p, 256 * 4096, MADV_NOHUGEPAGE);
		for (int j = 0; j < 256; j++) {
			p[j * 4096] = (uint8_t)j;
			sum += p[j * 4096 + 1] + p[j * 4096];
		}
		munmap((void *)p, 256 * 4096);
	}
	return sum;
}

/* A count is 16 pages mapped, one touched, all unmapped. */
uint64_t run_mmap(uint64_t count)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		volatile uint8_t *p = pages(16 * 4096, PROT_READ | PROT_WRITE);

		p[(i & 15) * 4096] = 1;
		sum += p[(i & 15) * 4096];
		munmap((void *)p, 16 * 4096);
	}
	return sum;
}

enum { PROTECTED_PAGES = 64 };
static volatile uint8_t *region;

void setup_mprotect(void)
{
	region = pages(PROTECTED_PAGES * 4096, PROT_READ | PROT_WRITE);
	for (int i = 0; i < PROTECTED_PAGES; i++)
		region[i * 4096] = 1;
}

/* A count makes a page read-only and writable again, and writes there. */
uint64_t run_mprotect(uint64_t count)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		volatile uint8_t *p = region + i % PROTECTED_PAGES * 4096;

		if (mprotect((void *)p, 4096, PROT_READ) || mprotect((void *)p, 4096, PROT_READ | PROT_WRITE))
			die("mprotect");
		p[0] += (uint8_t)i;
		sum += p[0];
	}
	return sum;
}

static volatile uint64_t caught;
static sigjmp_buf escape;

static void on_signal(int number)
{
	caught += (uint64_t)number;
}

static void on_segv(int number, siginfo_t *info, void *context)
{
	(void)context;
	caught += (uint64_t)number + (info->si_addr == region);
	siglongjmp(escape, 1);
}

void setup_signals(void)
{
	struct sigaction action = { .sa_handler = on_signal };

	if (sigaction(SIGUSR1, &action, NULL))
		die("sigaction");
}

uint64_t run_signals(uint64_t count)
{
	for (uint64_t i = 0; i < count; i++)
		raise(SIGUSR1);
	return caught;
}

void setup_segv(void)
{
	/* SA_NODEFER: the handler leaves by a jump that restores no mask */
	struct sigaction action = { .sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_NODEFER };

	region = pages(4096, PROT_NONE);
	if (sigaction(SIGSEGV, &action, NULL))
		die("sigaction");
}

/* A count is a store to a page without access, and a jump out of the handler. */
uint64_t run_segv(uint64_t count)
{
	for (volatile uint64_t i = 0; i < count; i++)
		if (!sigsetjmp(escape, 0))
			*region = 1;
	return caught;
}

static void *thread_body(void *argument)
{
	return (char *)argument + 1;
}

/* A count creates a thread and joins it. */
uint64_t run_threads(uint64_t count)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		pthread_t thread;
		void *result;

		if (pthread_create(&thread, NULL, thread_body, (void *)(uintptr_t)i) || pthread_join(thread, &result))
			die("pthread");
		sum += (uint64_t)(uintptr_t)result;
	}
	return sum;
}

struct table_tennis {
	uint32_t ball; /* the turn; a futex */
	uint64_t count;
};

static void play(struct table_tennis *t, uint32_t first)
{
	for (uint32_t mine = first; mine < 2 * t->count; mine += 2) {
		uint32_t now;

		while ((now = __atomic_load_n(&t->ball, __ATOMIC_ACQUIRE)) != mine)
			syscall(SYS_futex, &t->ball, FUTEX_WAIT_PRIVATE, now, NULL, NULL, 0);
		__atomic_store_n(&t->ball, mine + 1, __ATOMIC_RELEASE);
		syscall(SYS_futex, &t->ball, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	}
}

static void *opponent(void *argument)
{
	play(argument, 1);
	return NULL;
}

/* A count is one futex wake-up of another thread, and one by it. */
uint64_t run_futex(uint64_t count)
{
	struct table_tennis t = { .count = count };
	pthread_t thread;

	if (pthread_create(&thread, NULL, opponent, &t))
		die("pthread_create");
	play(&t, 0);
	if (pthread_join(thread, NULL))
		die("pthread_join");
	return t.ball;
}

/* A count creates a file on a tmpfs, writes 16 KiB in four pieces, reads them back and unlinks it. */
uint64_t run_files(uint64_t count)
{
	static uint8_t data[4096], back[4096];
	char path[256];
	uint64_t sum = 0;

	snprintf(path, sizeof(path), "%s/bench-file-%d", work_dir, (int)getpid());
	for (uint64_t i = 0; i < count; i++) {
		int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

		if (fd < 0)
			die(path);
		memset(data, (int)i, sizeof(data));
		for (int piece = 0; piece < 4; piece++)
			if (write(fd, data, sizeof(data)) != sizeof(data))
				die("write");
		if (lseek(fd, 0, SEEK_SET))
			die("lseek");
		for (int piece = 0; piece < 4; piece++) {
			if (read(fd, back, sizeof(back)) != sizeof(back))
				die("read");
			sum += back[i % sizeof(back)];
		}
		close(fd);
		if (unlink(path))
			die("unlink");
	}
	return sum;
}

static char tree_path[300];

static void remove_tree(void)
{
	char path[400];

	for (int i = 0; i < 32; i++) {
		snprintf(path, sizeof(path), "%s/file%d", tree_path, i);
		unlink(path);
	}
	rmdir(tree_path);
}

void setup_openstat(void)
{
	char path[400];

	snprintf(tree_path, sizeof(tree_path), "%s/bench-tree-%d", work_dir, (int)getpid());
	if (mkdir(tree_path, 0700))
		die(tree_path);
	atexit(remove_tree);
	for (int i = 0; i < 32; i++) {
		int fd;

		snprintf(path, sizeof(path), "%s/file%d", tree_path, i);
		fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		if (fd < 0 || write(fd, path, (size_t)i) != i)
			die(path);
		close(fd);
	}
}

/* A count is stat(), open(), fstat() and close() of a file, and stat() of one that is not there. */
uint64_t run_openstat(uint64_t count)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		char path[400], missing[400];
		struct stat by_path, by_fd;
		int fd;

		snprintf(path, sizeof(path), "%s/file%d", tree_path, (int)(i & 31));
		snprintf(missing, sizeof(missing), "%s/none%d", tree_path, (int)(i & 31));
		if (stat(path, &by_path))
			die("stat");
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || fstat(fd, &by_fd))
			die("open");
		close(fd);
		sum += (uint64_t)(by_path.st_size + by_fd.st_size) + (stat(missing, &by_path) != 0);
	}
	return sum;
}

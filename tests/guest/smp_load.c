/*
 * What several processors do to one another from user space: messages between
 * many processes and many threads, locks that sleep, one address space whose
 * mappings change, code that one thread writes and others run. smp.py runs it.
 *
 *	smp_load messages|threads|files|mappings|code ROUNDS [THREADS]
 *
 * Prints one line, "NAME ok" or what was wrong, and the seconds it took on the
 * standard error.
 */
#define _GNU_SOURCE
#include <linux/membarrier.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static unsigned long rounds;
static int threads;
static atomic_ulong wrong;

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static void start(pthread_t *t, void *(*fn)(void *), long arg)
{
	if (pthread_create(t, NULL, fn, (void *)arg))
		die("pthread_create");
}

/* ---- messages, as hackbench has them: groups in which everyone sends to everyone ---- */

#define GROUP 5
struct message {
	uint32_t from, number, sum[22];
};
static int pair[64][2 * GROUP][2];

static void fill(struct message *m, uint32_t from, uint32_t number)
{
	m->from = from;
	m->number = number;
	for (unsigned i = 0; i < 22; i++)
		m->sum[i] = (from * 31 + number) * (i + 1);
}

static void *sender(void *arg)
{
	long id = (long)arg, group = id / GROUP;
	struct message m;

	for (unsigned long r = 0; r < rounds; r++) {
		for (int to = 0; to < GROUP; to++) {
			fill(&m, (uint32_t)id, (uint32_t)r);
			if (write(pair[group][to][1], &m, sizeof(m)) != sizeof(m))
				wrong++;
		}
	}
	return NULL;
}

static void *receiver(void *arg)
{
	long id = (long)arg, group = id / GROUP;
	uint32_t next[GROUP] = { 0 };
	struct message m, want;

	for (unsigned long n = 0; n < rounds * GROUP; n++) {
		if (recv(pair[group][id % GROUP][0], &m, sizeof(m), MSG_WAITALL) != sizeof(m)) {
			wrong++;
			break;
		}
		fill(&want, m.from, next[m.from % GROUP]++);
		if (memcmp(&m, &want, sizeof(m)) || m.from / GROUP != group)
			wrong++;
	}
	return NULL;
}

static void messages_by_threads(int groups)
{
	pthread_t t[64 * GROUP];
	int n = 0;

	for (int i = 0; i < groups * GROUP; i++) {
		start(&t[n++], receiver, i);
		start(&t[n++], sender, i);
	}
	while (n)
		pthread_join(t[--n], NULL);
}

static void messages_by_processes(int groups)
{
	int status, bad = 0;

	for (long i = 0; i < 2l * groups * GROUP; i++) {
		pid_t p = fork();
		if (p < 0)
			die("fork");
		if (!p) {
			(i & 1 ? sender : receiver)((void *)(i / 2));
			_exit(wrong ? 1 : 0);
		}
	}
	while (wait(&status) > 0)
		bad += status != 0;
	wrong += bad;
}

static void messages(void)
{
	int groups = threads < 8 ? threads : 8;

	for (int g = 0; g < groups; g++)
		for (int i = 0; i < GROUP; i++)
			if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair[g][i]))
				die("socketpair");
	messages_by_threads(groups);
	messages_by_processes(groups);
}

/* ---- locks that sleep ---- */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn_changed = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t all;
static unsigned long turn, plain;
static atomic_ulong counted;

static void *locker(void *arg)
{
	unsigned long me = (unsigned long)arg;

	for (unsigned long r = 0; r < rounds; r++) {
		/* round about */
		pthread_mutex_lock(&mutex);
		while (turn % (unsigned long)threads != me)
			pthread_cond_wait(&turn_changed, &mutex);
		turn++;
		pthread_cond_broadcast(&turn_changed);
		pthread_mutex_unlock(&mutex);
		/* whoever comes */
		for (int i = 0; i < 20; i++) {
			pthread_mutex_lock(&mutex);
			plain++;
			pthread_mutex_unlock(&mutex);
			counted++;
		}
		if (r % 8 == 0)
			pthread_barrier_wait(&all);
	}
	return NULL;
}

static void run_all(void *(*fn)(void *))
{
	pthread_t t[64];

	pthread_barrier_init(&all, NULL, (unsigned)threads);
	for (int i = 0; i < threads; i++)
		start(&t[i], fn, i);
	for (int i = 0; i < threads; i++)
		pthread_join(t[i], NULL);
}

static void locks(void)
{
	run_all(locker);
	unsigned long n = rounds * (unsigned long)threads;
	if (turn != n || plain != 20 * n || counted != 20 * n)
		wrong++;
}

/* ---- a spin lock of the kernel: that of the table of open files, which the threads share ---- */

static void *opener(void *arg)
{
	for (unsigned long r = 0; r < rounds; r++) {
		int fd = dup(0);

		if (fd < 0 || close(fd))
			wrong++;
	}
	return NULL;
}

static void files(void)
{
	run_all(opener);
}

/* ---- one address space: a page is replaced while others read it ---- */

#define WORDS 512
static volatile uint64_t *page;
static atomic_ulong published, done[64];

static void *reader(void *arg)
{
	long me = (long)arg;
	unsigned long seen = 0, looks = 0;

	while (seen < rounds) {
		unsigned long from = published, to;
		uint64_t v = page[me % WORDS];
		to = published;
		/* while round to + 1 is being made: empty, or that one */
		if (v && (v < from || v > to + 1))
			wrong++;
		/* between two rounds nothing moves */
		if (to == from && to > seen) {
			for (int i = 0; i < WORDS; i += 61)
				if (page[i] != to && published == to)
					wrong++;
			seen = to;
			done[me] = seen;
		}
		/* the writer may wait for this very processor */
		if (++looks % 64 == 0)
			sched_yield();
	}
	return NULL;
}

static void mappings(void)
{
	pthread_t t[64];

	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		die("mmap");
	for (int i = 0; i < threads; i++)
		start(&t[i], reader, i);
	for (unsigned long r = 1; r <= rounds; r++) {
		if (mmap((void *)page, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
		    MAP_FAILED)
			die("mmap");
		for (int i = 0; i < WORDS; i++)
			page[i] = r;
		published = r;
		for (int i = 0; i < threads; i++)
			while (done[i] < r)
				sched_yield();
	}
	for (int i = 0; i < threads; i++)
		pthread_join(t[i], NULL);
}

/* ---- code of one thread, run by others ---- */

static uint8_t *code;

static void *runner(void *arg)
{
	long me = (long)arg;
	unsigned long seen = 0;

	while (seen < rounds) {
		unsigned long r = published;
		if (r == seen) {
			sched_yield();
			continue;
		}
		uint32_t (*fn)(void) = (uint32_t(*)(void))(uintptr_t)(code + r % 3 * 64);
		for (int i = 0; i < 4; i++)
			if (fn() != (uint32_t)(r * 2654435761u))
				wrong++;
		seen = r;
		done[me] = r;
	}
	return NULL;
}

static void write_code(void)
{
	pthread_t t[64];

	code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (code == MAP_FAILED)
		die("mmap");
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0))
		die("membarrier");
	for (int i = 0; i < threads; i++)
		start(&t[i], runner, i);
	for (unsigned long r = 1; r <= rounds; r++) {
		uint8_t *p = code + r % 3 * 64;
		uint32_t v = (uint32_t)(r * 2654435761u);
		p[0] = 0xb8; /* mov $v,%eax; ret */
		memcpy(p + 1, &v, 4);
		p[5] = 0xc3;
		/* every thread serializes before it can see the number */
		if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0))
			die("membarrier");
		published = r;
		for (int i = 0; i < threads; i++)
			while (done[i] < r)
				sched_yield();
	}
	for (int i = 0; i < threads; i++)
		pthread_join(t[i], NULL);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} loads[] = {
		{ "messages", messages }, { "threads", locks },	  { "files", files },
		{ "mappings", mappings }, { "code", write_code },
	};
	struct timespec a, b;

	if (argc < 3)
		return 2;
	rounds = strtoul(argv[2], NULL, 10);
	threads = argc > 3 ? atoi(argv[3]) : (int)sysconf(_SC_NPROCESSORS_ONLN);
	if (threads > 64)
		threads = 64;
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (unsigned i = 0; i < sizeof(loads) / sizeof(loads[0]); i++) {
		if (strcmp(argv[1], loads[i].name))
			continue;
		loads[i].run();
		clock_gettime(CLOCK_MONOTONIC, &b);
		if (wrong)
			printf("%s: %lu wrong\n", loads[i].name, (unsigned long)wrong);
		else
			printf("%s ok\n", loads[i].name);
		fprintf(stderr, "%.2f\n", (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) * 1e-9);
		return wrong ? 1 : 0;
	}
	return 2;
}

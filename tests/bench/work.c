/*
 * The workloads of `make bench`: one static program that runs natively and,
 * as /init, in a guest. Prints a mark before and after each, with the
 * nanoseconds that its own clock saw; the driver also takes the marks' times
 * on the host, since an emulated clock may be off.
 *
 *	work [SCALE [NAME,...]]		natively
 *	bench=NAME,... scale=N		in a guest, on the kernel's command line
 */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static volatile uint64_t sink;
static const char *self;

/* Integer: a sieve and a hash over it. */
static void integer(int n)
{
	static uint8_t sieve[65536];

	while (n--) {
		memset(sieve, 1, sizeof(sieve));
		for (unsigned i = 2; i < 256; i++) {
			for (unsigned j = i * i; sieve[i] && j < sizeof(sieve); j += i)
				sieve[j] = 0;
		}
		uint64_t h = 14695981039346656037u;
		for (unsigned i = 0; i < sizeof(sieve); i++)
			h = (h ^ sieve[i]) * 1099511628211u;
		sink += h;
	}
}

static void floating(int n)
{
	static double a[64][64], b[64][64], c[64][64];

	for (int i = 0; i < 64 * 64; i++) {
		a[i / 64][i % 64] = i * 0.5;
		b[i / 64][i % 64] = 1.0 / (i + 1);
	}
	while (n--) {
		for (int i = 0; i < 64; i++) {
			for (int j = 0; j < 64; j++) {
				double s = 0;
				for (int k = 0; k < 64; k++)
					s += a[i][k] * b[k][j];
				c[i][j] = s;
			}
		}
		sink += (uint64_t)c[3][5];
	}
}

/* A pointer chase through 4 MiB in an order the prefetcher cannot guess. */
static void memory(int n)
{
	enum { CELLS = 65536 };
	struct cell {
		struct cell *next;
		char pad[56];
	};
	static struct cell cells[CELLS];
	uint32_t x = 0;

	for (int i = 0; i < CELLS; i++) {
		uint32_t y = (x * 1664525u + 1013904223u) % CELLS;
		cells[x].next = &cells[y];
		x = y;
	}
	struct cell *p = cells;
	for (long i = 0; i < (long)n * 10000; i++)
		p = p->next;
	sink += (uintptr_t)p;
}

static void strings(int n)
{
	static char a[4096], b[4096];

	memset(a, 'x', sizeof(a) - 1);
	while (n--) {
		memcpy(b, a, sizeof(a));
		sink += strlen(b) + (uint64_t)memcmp(a, b, sizeof(a));
		sink += (uintptr_t)strchr(b, 'y');
	}
}

static int fib(int n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static void calls(int n)
{
	while (n--)
		sink += (uint64_t)fib(18);
}

static void syscalls(int n)
{
	while (n--)
		sink += (uint64_t)syscall(SYS_getppid);
}

static void fork_exit(int n)
{
	while (n--) {
		pid_t p = fork();
		if (!p)
			_exit(0);
		waitpid(p, NULL, 0);
	}
}

static void fork_exec(int n)
{
	while (n--) {
		pid_t p = fork();
		if (!p) {
			execl(self, self, "nothing", (char *)NULL);
			_exit(1);
		}
		waitpid(p, NULL, 0);
	}
}

static void page_faults(int n)
{
	const size_t size = 1 << 20;

	while (n--) {
		char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (size_t i = 0; i < size; i += 4096)
			p[i] = 1;
		munmap(p, size);
	}
}

static void handler(int s)
{
	sink += (uint64_t)s;
}

static void signals(int n)
{
	signal(SIGUSR1, handler);
	while (n--)
		kill(getpid(), SIGUSR1);
}

static void pipes(int n)
{
	int to[2], from[2];
	char c = 0;

	if (pipe(to) || pipe(from))
		return;
	pid_t p = fork();
	if (!p) {
		while (n-- && read(to[0], &c, 1) == 1 && write(from[1], &c, 1) == 1)
			;
		_exit(0);
	}
	for (int i = 0; i < n; i++) {
		if (write(to[1], &c, 1) != 1 || read(from[0], &c, 1) != 1)
			break;
	}
	waitpid(p, NULL, 0);
	for (int i = 0; i < 2; i++) {
		close(to[i]);
		close(from[i]);
	}
}

/* Writes a small function, runs it, writes the next over it. */
static void generated(int n)
{
	uint8_t *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (int i = 0; i < n; i++) {
		uint8_t *p = code + (i & 7) * 64;
		uint32_t imm = (uint32_t)i;

		*p++ = 0xb8; /* mov $imm, %eax */
		memcpy(p, &imm, 4);
		p += 4;
		for (int j = 0; j < 8; j++) {
			*p++ = 0x83; /* add $j, %eax */
			*p++ = 0xc0;
			*p++ = (uint8_t)j;
		}
		*p = 0xc3;
		for (int j = 0; j < 4; j++)
			sink += (uint64_t)((int (*)(void))(uintptr_t)(code + (i & 7) * 64))();
	}
	munmap(code, 4096);
}

/* n: iterations that take some twenty milliseconds natively. */
static const struct {
	const char *name;
	void (*run)(int n);
	int n;
} work[] = {
	{ "integer", integer, 200 },	 { "floating", floating, 400 },	 { "memory", memory, 80 },
	{ "strings", strings, 100000 },	 { "calls", calls, 5000 },	 { "syscalls", syscalls, 200000 },
	{ "fork_exit", fork_exit, 200 }, { "fork_exec", fork_exec, 50 }, { "page_faults", page_faults, 100 },
	{ "signals", signals, 20000 },	 { "pipes", pipes, 5000 },	 { "generated", generated, 50000 },
};

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int wanted(const char *list, const char *name)
{
	size_t n = strlen(name);

	for (const char *p = list; p && (p = strstr(p, name)); p += n) {
		if ((p == list || p[-1] == ',') && (!p[n] || p[n] == ','))
			return 1;
	}
	return !list || !*list;
}

int main(int argc, char **argv)
{
	double scale = 1;
	const char *list = NULL;
	int init = getpid() == 1;

	if (argc > 1 && !strcmp(argv[1], "nothing"))
		return 0;
	self = init ? "/init" : "/proc/self/exe";
	if (init) {
		list = getenv("bench");
		if (getenv("scale"))
			scale = atof(getenv("scale"));
	} else {
		if (argc > 1)
			scale = atof(argv[1]);
		if (argc > 2)
			list = argv[2];
	}
	printf("\nBENCH ready\n");
	fflush(stdout);
	for (unsigned i = 0; i < sizeof(work) / sizeof(work[0]); i++) {
		if (!wanted(list, work[i].name))
			continue;
		int n = (int)(work[i].n * scale);
		printf("BENCH begin %s\n", work[i].name);
		fflush(stdout);
		uint64_t t = now();
		work[i].run(n > 0 ? n : 1);
		t = now() - t;
		printf("BENCH end %s %llu\n", work[i].name, (unsigned long long)t);
		fflush(stdout);
	}
	printf("BENCH done\n");
	fflush(stdout);
	if (init) {
		tcdrain(1); /* the last marks are still on their way */
		reboot(RB_POWER_OFF);
	}
	return 0;
}

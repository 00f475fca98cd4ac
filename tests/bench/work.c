/*
 * The workloads of `make bench`, in one static program that runs unchanged on
 * the host and as /init of a guest:
 *
 *	work PLAN		run every "NAME COUNT" line of the file PLAN
 *	work NAME COUNT		run one workload, COUNT units of it
 *	(as process 1)		mount /proc, run /plan, power off
 *
 * Markers on standard output bound what is measured; bench.py takes the host's
 * time as they arrive, since a guest's clock may not be trusted to run evenly:
 *
 *	READY			process 1 has begun
 *	<NAME  >NAME		a workload starts and ends; set-up lies outside
 *	=NAME HEX		its result, which must be the same everywhere
 *	DONE
 *
 * A marker is one write() and at most 16 bytes, the depth of a 16550's FIFO: it
 * leaves the guest in one interrupt instead of trickling out while the workload
 * already runs.
 */
#define _GNU_SOURCE
#include <math.h>
#include <signal.h>
#include <stdbool.h>
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
#include <unistd.h>

struct workload {
	const char *name; /* at most 14 characters */
	void (*setup)(void);
	uint64_t (*run)(uint64_t count);
};

static const char *self; /* this program's path, for those that exec */

static void die(const char *what)
{
	perror(what);
	_exit(1);
}

static void say(const char *text)
{
	size_t left = strlen(text);

	while (left) {
		ssize_t n = write(1, text, left);

		if (n < 0)
			die("write");
		text += n;
		left -= (size_t)n;
	}
}

static void *pages(size_t bytes, int prot)
{
	void *p = mmap(NULL, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

static uint64_t next_random(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

static uint64_t run_integer(uint64_t count)
{
	uint64_t x = 88172645463325252ull, sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		uint64_t r = next_random(&x);

		if (r & 15)
			sum += r * 3 + i;
		else
			sum ^= r >> 5;
	}
	return sum;
}

/* Planets on springs: additions, multiplications, a square root and a division a step. */
static uint64_t run_float(uint64_t count)
{
	double x = 1, y = 0.5, vx = 0, vy = 0.25;
	uint64_t bits;

	for (uint64_t i = 0; i < count; i++) {
		double r2 = x * x + y * y + 0.01;
		double f = -0.001 / (r2 * sqrt(r2));

		vx += f * x;
		vy += f * y;
		x += vx * 0.001;
		y += vy * 0.001;
	}
	x += y;
	memcpy(&bits, &x, sizeof(bits));
	return bits;
}

enum { COPY_BYTES = 4 << 20 };
static uint64_t *from, *to;

static void setup_copy(void)
{
	from = pages(COPY_BYTES, PROT_READ | PROT_WRITE);
	to = pages(COPY_BYTES, PROT_READ | PROT_WRITE);
	for (size_t i = 0; i < COPY_BYTES / sizeof(*from); i++)
		from[i] = i * 0x9e3779b97f4a7c15ull;
	memset(to, 1, COPY_BYTES);
}

/* A count is one pass over 4 MiB by the C library, and one by a loop of loads and stores. */
static uint64_t run_copy(uint64_t count)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		memcpy(to, from, COPY_BYTES);
		for (size_t j = 0; j < COPY_BYTES / sizeof(*to); j++)
			to[j] = to[j] * 3 + from[j];
		sum += to[i % (COPY_BYTES / sizeof(*to))];
	}
	return sum;
}

static uint64_t run_strings(uint64_t count)
{
	char line[160], copy[160];
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		snprintf(line, sizeof(line), "GET /item/%llu?colour=%s&size=%u HTTP/1.1", (unsigned long long)i,
			 i & 1 ? "green" : "blue", (unsigned)(i % 97));
		strcpy(copy, line);
		sum += strlen(copy);
		for (char *word = strtok(copy, "/?&= "); word; word = strtok(NULL, "/?&= "))
			sum = sum * 31 + (unsigned char)word[0];
		sum += strstr(line, "size=") - line;
		sum += (uint64_t)(strcmp(line, "GET /item/5") > 0) + (uint64_t)strtoul(line + 10, NULL, 10);
	}
	return sum;
}

enum { CHASE_NODES = 1 << 16 };
struct node {
	struct node *next;
	uint64_t value;
	char rest[48]; /* a cache line each: 4 MiB */
};
static struct node *nodes;

/* One cycle through all nodes (Sattolo), so that no prefetcher sees it coming. */
static void setup_chase(void)
{
	uint32_t *order = pages(CHASE_NODES * sizeof(*order), PROT_READ | PROT_WRITE);
	uint64_t x = 123456789;

	nodes = pages(CHASE_NODES * sizeof(*nodes), PROT_READ | PROT_WRITE);
	for (uint32_t i = 0; i < CHASE_NODES; i++)
		order[i] = i;
	for (uint32_t i = CHASE_NODES - 1; i > 0; i--) {
		uint32_t j = (uint32_t)(next_random(&x) % i), t = order[i];

		order[i] = order[j];
		order[j] = t;
	}
	for (uint32_t i = 0; i < CHASE_NODES; i++) {
		nodes[order[i]].next = &nodes[order[(i + 1) % CHASE_NODES]];
		nodes[order[i]].value = i;
	}
}

static uint64_t run_chase(uint64_t count)
{
	struct node *at = nodes;
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		sum = sum * 5 + at->value;
		at = at->next;
	}
	return sum;
}

static uint64_t op_add(uint64_t a, uint64_t b)
{
	return a + b;
}

static uint64_t op_sub(uint64_t a, uint64_t b)
{
	return a - b * 3;
}

static uint64_t op_xor(uint64_t a, uint64_t b)
{
	return a ^ b << 1;
}

static uint64_t op_rotate(uint64_t a, uint64_t b)
{
	return (a << 7 | a >> 57) + b;
}

static uint64_t (*const volatile operations[])(uint64_t, uint64_t) = { op_add, op_sub, op_xor, op_rotate };

static uint64_t run_indirect(uint64_t count)
{
	uint64_t x = 42, sum = 1;

	for (uint64_t i = 0; i < count; i++)
		sum = operations[next_random(&x) & 3](sum, i);
	return sum;
}

/* Each count writes a function into a page that has just run, and calls it twice. */
static uint8_t *code;

static void setup_codegen(void)
{
	code = pages(4096, PROT_READ | PROT_WRITE | PROT_EXEC);
}

static uint64_t run_codegen(uint64_t count)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		uint8_t *at = code + (i & 15) * 64;
		uint32_t constant = (uint32_t)(i * 2654435761u);
		uint32_t (*made)(uint32_t);

		*at++ = 0x8d, *at++ = 0x87; /* lea eax, [rdi + constant] */
		memcpy(at, &constant, 4), at += 4;
		*at++ = 0x31, *at++ = 0xf8; /* xor eax, edi */
		*at++ = 0xc3;		    /* ret */
		at = code + (i & 15) * 64;
		__builtin___clear_cache((char *)at, (char *)at + 16);
		memcpy(&made, &at, sizeof(made));
		sum += made((uint32_t)i);
		sum += made((uint32_t)sum);
	}
	return sum;
}

static uint64_t run_getppid(uint64_t count)
{
	uint64_t same = 0;
	long parent = syscall(SYS_getppid);

	for (uint64_t i = 0; i < count; i++)
		same += syscall(SYS_getppid) == parent;
	return same;
}

static uint64_t run_pipe(uint64_t count)
{
	int there[2], back[2];
	uint64_t sum = 0;
	uint8_t byte = 0;
	pid_t child;

	if (pipe(there) || pipe(back))
		die("pipe");
	child = fork();
	if (child < 0)
		die("fork");
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
	waitpid(child, NULL, 0);
	return sum;
}

static uint64_t fork_many(uint64_t count, bool exec)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		int status;
		pid_t child = fork();

		if (child < 0)
			die("fork");
		if (!child) {
			if (exec)
				execl(self, self, "nothing", (char *)NULL);
			_exit(exec ? 127 : 3);
		}
		if (waitpid(child, &status, 0) != child || !WIFEXITED(status))
			die("waitpid");
		sum += (uint64_t)WEXITSTATUS(status);
	}
	return sum;
}

static uint64_t run_forkexit(uint64_t count)
{
	return fork_many(count, false);
}

static uint64_t run_forkexec(uint64_t count)
{
	return fork_many(count, true);
}

/* A count is 256 pages mapped, touched and unmapped; never as one huge page. */
static uint64_t run_faults(uint64_t count)
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

static volatile uint64_t caught;

static void on_signal(int number)
{
	caught += (uint64_t)number;
}

static void setup_signals(void)
{
	struct sigaction action = { .sa_handler = on_signal };

	if (sigaction(SIGUSR1, &action, NULL))
		die("sigaction");
}

static uint64_t run_signals(uint64_t count)
{
	for (uint64_t i = 0; i < count; i++)
		raise(SIGUSR1);
	return caught;
}

static const struct workload workloads[] = {
	{ "integer", NULL, run_integer },
	{ "float", NULL, run_float },
	{ "copy", setup_copy, run_copy },
	{ "strings", NULL, run_strings },
	{ "chase", setup_chase, run_chase },
	{ "indirect", NULL, run_indirect },
	{ "codegen", setup_codegen, run_codegen },
	{ "getppid", NULL, run_getppid },
	{ "pipe", NULL, run_pipe },
	{ "forkexit", NULL, run_forkexit },
	{ "forkexec", NULL, run_forkexec },
	{ "faults", NULL, run_faults },
	{ "signals", setup_signals, run_signals },
};

static int run_one(const char *name, uint64_t count)
{
	for (size_t i = 0; i < sizeof(workloads) / sizeof(workloads[0]); i++) {
		const struct workload *w = &workloads[i];
		char start[32], end[32], result[64];
		uint64_t value;

		if (strcmp(w->name, name))
			continue;
		snprintf(start, sizeof(start), "<%s\n", name);
		snprintf(end, sizeof(end), ">%s\n", name);
		if (w->setup)
			w->setup();
		w->run(count / 100 + 1); /* warm: page in, let lazy allocation happen */
		say(start);
		value = w->run(count);
		say(end);
		snprintf(result, sizeof(result), "=%s %llx\n", name, (unsigned long long)value);
		say(result);
		return 0;
	}
	fprintf(stderr, "work: no workload '%s'\n", name);
	return 2;
}

static void run_plan(const char *path)
{
	char name[32], count[32];
	FILE *plan = fopen(path, "re");

	if (!plan)
		die(path);
	while (fscanf(plan, "%31s %31s", name, count) == 2) {
		pid_t child = fork();

		if (child < 0)
			die("fork");
		if (!child) {
			execl(self, self, name, count, (char *)NULL);
			_exit(127);
		}
		waitpid(child, NULL, 0);
	}
	fclose(plan);
	say("DONE\n");
}

int main(int argc, char **argv)
{
	self = argv[0];
	if (getpid() == 1) {
		self = "/init";
		say("READY\n");
		mount("proc", "/proc", "proc", 0, NULL);
		run_plan("/plan");
		tcdrain(1); /* power-off would discard what a paced line has yet to send */
		reboot(RB_POWER_OFF);
		for (;;)
			pause();
	}
	if (argc == 2 && !strcmp(argv[1], "nothing"))
		return 5;
	if (argc == 2) {
		run_plan(argv[1]);
		return 0;
	}
	if (argc == 3)
		return run_one(argv[1], strtoull(argv[2], NULL, 10));
	fprintf(stderr, "usage: work PLAN | work NAME COUNT\n");
	return 2;
}

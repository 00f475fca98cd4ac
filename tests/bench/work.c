/*
 * The workloads of `make bench`, in one static program that runs unchanged on
 * the host and as process 1 of a guest:
 *
 *	work list		print the table: group, name, count
 *	work PLAN		run every line of the file PLAN
 *	work NAME COUNT		run one workload, COUNT units of it
 *	(as process 1)		mount /proc and /dev/shm, run /plan, power off
 *
 * A line of a plan is "NAME COUNT", or "NAME ! PROGRAM ARGUMENT..." for a
 * program of the file system, whose output is the result.
 *
 * Markers on standard output bound what is measured; for guests bench.py takes
 * the host's time as they arrive, since theirs may not be trusted to run evenly:
 *
 *	READY			process 1 has begun
 *	<NAME  >NAME		a workload starts and ends; set-up lies outside
 *	=NAME HEX		its result, which must be the same everywhere
 *	+NAME CPU REAL		microseconds it took by this system's clocks;
 *				bench.py believes the host's
 *	DONE
 *
 * A marker is one write() and at most 16 bytes, the depth of a 16550's FIFO: it
 * leaves the guest in one interrupt instead of trickling out while the workload
 * already runs.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "work.h"

static const struct workload {
	const char *group, *name;
	uint64_t count;
	void (*setup)(void);
	uint64_t (*run)(uint64_t count);
} workloads[] = {
#define WORKLOAD(group, name, count, setup) { #group, #name, count, setup, run_##name },
#include "work_table.h"
#undef WORKLOAD
};

const char *work_self;
const char *work_dir;

void no_setup(void) {}

void die(const char *what)
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

static void mark(char kind, const char *name)
{
	char line[40];

	snprintf(line, sizeof(line), "%c%.32s\n", kind, name);
	say(line);
}

/* In microseconds. */
struct times {
	uint64_t cpu; /* of this process and of the children that it has waited for */
	uint64_t real;
};

static struct times now(void)
{
	struct times t = { 0 };
	struct timespec real;

	for (int i = 0; i < 2; i++) {
		struct rusage r;

		if (getrusage(i ? RUSAGE_CHILDREN : RUSAGE_SELF, &r))
			die("getrusage");
		t.cpu += (uint64_t)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) * 1000000 +
			 (uint64_t)(r.ru_utime.tv_usec + r.ru_stime.tv_usec);
	}
	clock_gettime(CLOCK_MONOTONIC, &real);
	t.real = (uint64_t)real.tv_sec * 1000000 + (uint64_t)real.tv_nsec / 1000;
	return t;
}

static void say_result(const char *name, uint64_t value, struct times from, struct times to)
{
	char line[160];

	snprintf(line, sizeof(line), "=%.32s %llx\n+%.32s %llu %llu\n", name, (unsigned long long)value, name,
		 (unsigned long long)(to.cpu - from.cpu), (unsigned long long)(to.real - from.real));
	say(line);
}

void *pages(size_t bytes, int prot)
{
	void *p = mmap(NULL, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

static int run_one(const char *name, uint64_t count)
{
	for (size_t i = 0; i < sizeof(workloads) / sizeof(workloads[0]); i++) {
		const struct workload *w = &workloads[i];
		struct times from, to;
		uint64_t value;

		if (strcmp(w->name, name))
			continue;
		w->setup();
		w->run(count / 100 + 1); /* warm: page in, let lazy allocation happen */
		mark('<', name);
		from = now();
		value = w->run(count);
		to = now();
		mark('>', name);
		say_result(name, value, from, to);
		return 0;
	}
	fprintf(stderr, "work: no workload '%s'\n", name);
	return 2;
}

static uint64_t hash_file(int fd)
{
	uint64_t sum = 0xcbf29ce484222325ull;
	uint8_t data[4096];
	ssize_t n;

	if (lseek(fd, 0, SEEK_SET))
		die("lseek");
	while ((n = read(fd, data, sizeof(data))) > 0)
		for (ssize_t i = 0; i < n; i++)
			sum = mix(sum, data[i]);
	return sum;
}

/* Run a program with its output to a file, and say what the output hashes to; the status counts as output. */
static void run_program(const char *name, char *command)
{
	static char *const environment[] = { "PATH=/usr/bin:/bin",	  "HOME=/tmp",	      "LC_ALL=C",
					     "PYTHONDONTWRITEBYTECODE=1", "PYTHONHASHSEED=0", NULL };
	char *argv[32], *rest;
	size_t n = 0;
	struct times from, to;
	int fd = memfd_create("output", MFD_CLOEXEC), status;
	pid_t child;

	for (char *word = strtok_r(command, " ", &rest); word && n < 31; word = strtok_r(NULL, " ", &rest))
		argv[n++] = word;
	argv[n] = NULL;
	if (!n || fd < 0)
		die("work: cannot run a program");
	mark('<', name);
	from = now();
	child = fork();
	if (child < 0)
		die("fork");
	if (!child) {
		dup2(fd, 1);
		execve(argv[0], argv, environment);
		die(argv[0]);
	}
	if (waitpid(child, &status, 0) != child)
		die("waitpid");
	to = now();
	mark('>', name);
	say_result(name, hash_file(fd) + (uint64_t)status, from, to);
	close(fd);
}

static void run_workload(const char *name, const char *count)
{
	pid_t child = fork();

	if (child < 0)
		die("fork");
	if (!child) {
		execl(work_self, work_self, name, count, (char *)NULL);
		_exit(127);
	}
	waitpid(child, NULL, 0);
}

static void run_plan(const char *path)
{
	char line[512];
	FILE *plan = fopen(path, "re");

	if (!plan)
		die(path);
	while (fgets(line, sizeof(line), plan)) {
		char *rest;
		const char *name = strtok_r(line, " \n", &rest), *count = strtok_r(NULL, " \n", &rest);

		if (!name || !count)
			continue;
		if (strcmp(count, "!")) {
			run_workload(name, count);
			continue;
		}
		rest[strcspn(rest, "\n")] = '\0';
		run_program(name, rest);
	}
	fclose(plan);
	say("DONE\n");
}

static void list(void)
{
	for (size_t i = 0; i < sizeof(workloads) / sizeof(workloads[0]); i++)
		printf("%s %s %llu\n", workloads[i].group, workloads[i].name, (unsigned long long)workloads[i].count);
}

/* Real-time processes are otherwise stopped for 50 ms of each second. */
static void allow_realtime(void)
{
	int fd = open("/proc/sys/kernel/sched_rt_runtime_us", O_WRONLY | O_CLOEXEC);

	if (fd >= 0 && write(fd, "-1", 2) == 2)
		close(fd);
}

static void be_init(void)
{
	say("READY\n");
	mount("proc", "/proc", "proc", 0, NULL);
	allow_realtime();
	mkdir("/dev/shm", 0755);
	mount("tmpfs", "/dev/shm", "tmpfs", 0, NULL);
	run_plan("/plan");
	tcdrain(1); /* power-off would discard what a paced line has yet to send */
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	work_self = argv[0];
	work_dir = "/dev/shm";
	if (getpid() == 1)
		be_init();
	if (argc == 2 && !strcmp(argv[1], "nothing"))
		return 5;
	if (argc == 2 && !strcmp(argv[1], "list"))
		list();
	else if (argc == 2)
		run_plan(argv[1]);
	else if (argc == 3)
		return run_one(argv[1], strtoull(argv[2], NULL, 10));
	if (argc == 2 || argc == 3)
		return 0;
	fprintf(stderr, "usage: work list | work PLAN | work NAME COUNT\n");
	return 2;
}

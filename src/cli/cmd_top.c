/*
 * `ectype top`: the running machines with what they do a second, from the
 * difference of two looks at their counters.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "base/host_time.h"
#include "cli/control.h"
#include "ctl/rundir.h"

#define MACHINES_MAX 256
#define ANSWER_MS 1000
#define CAUSES 8 /* of exits, in a processor's line */

struct sample {
	char name[CTL_NAME_MAX + 1];
	json_t *info, *counters;
	double at; /* seconds */
};

struct look {
	struct sample s[MACHINES_MAX];
	unsigned n;
};

/* ---- looking ---- */

static double now(void)
{
	return (double)host_ns() / 1e9;
}

static json_t *get(const char *name, const char *path)
{
	struct ctl_answer a;
	json_t *j = NULL;

	if (ctl_ask(name, "GET", path, NULL, ANSWER_MS, &a, NULL))
		return NULL;
	if (a.status == 200)
		j = json_loadb(a.body, a.len, 0, NULL);
	ctl_answer_free(&a);
	return j;
}

static void look_at(void *opaque, const char *name, const char *path)
{
	struct look *l = opaque;
	struct sample *s = &l->s[l->n];

	if (l->n == MACHINES_MAX)
		return;
	snprintf(s->name, sizeof(s->name), "%s", name);
	s->info = get(name, "/api/v1/vm.info");
	s->counters = s->info ? get(name, "/api/v1/vm.counters") : NULL;
	s->at = now();
	l->n++;
}

static void forget(struct look *l)
{
	for (unsigned i = 0; i < l->n; i++) {
		json_decref(l->s[i].info);
		json_decref(l->s[i].counters);
	}
	l->n = 0;
}

/* The same process at the look before, or NULL. */
static const struct sample *earlier(const struct look *before, const struct sample *s)
{
	for (unsigned i = 0; i < before->n; i++)
		if (!strcmp(before->s[i].name, s->name) &&
		    json_number(before->s[i].info, "pid") == json_number(s->info, "pid"))
			return &before->s[i];
	return NULL;
}

/* ---- rates ---- */

/* A counter that went back began anew: with another engine. */
static double difference(json_t *now_, json_t *then, const char *path)
{
	u64 a = json_number(then, path), b = json_number(now_, path);

	return (double)(b >= a ? b - a : b);
}

static double rate(const struct sample *s, const struct sample *then, const char *path)
{
	if (!then || s->at <= then->at)
		return 0;
	return difference(s->counters, then->counters, path) / (s->at - then->at);
}

/* Over all groups whose name begins with `group`. */
static double rate_of_all(const struct sample *s, const struct sample *then, const char *group, const char *counter)
{
	char path[400];
	const char *key;
	json_t *value;
	double sum = 0;

	json_object_foreach(s->counters, key, value)
	{
		if (strncmp(key, group, strlen(group)) || strchr(key, '/'))
			continue;
		snprintf(path, sizeof(path), "%s/%s", key, counter);
		sum += rate(s, then, path);
	}
	return sum;
}

static const char *format_count(double v, char out[16])
{
	if (v < 10000)
		snprintf(out, 16, "%.0f", v);
	else if (v < 1e7)
		snprintf(out, 16, "%.0fk", v / 1e3);
	else
		snprintf(out, 16, "%.0fM", v / 1e6);
	return out;
}

/* ---- printing ---- */

struct screen {
	unsigned rows, cols; /* 0: no limit */
	unsigned row;
	const char *end; /* of a line */
};

static void line(struct screen *s, const char *text)
{
	if (s->rows && s->row + 1 >= s->rows)
		return;
	s->row++;
	printf("%.*s%s", s->cols ? (int)s->cols : 4096, text, s->end);
}

static void print_machine(struct screen *out, const struct sample *s, const struct sample *then)
{
	char text[512], up[16], ram[16], rss[16], ex[16], code[16], fills[16], dr[16], dw[16], rx[16], tx[16];
	double cpu = rate(s, then, "machine/process_cpu_ns") / 1e7;

	format_seconds(json_fraction(s->info, "uptime_seconds"), up);
	format_bytes((double)json_number(s->info, "config/memory/size"), ram);
	format_bytes((double)process_resident((int)json_number(s->info, "pid")), rss);
	format_bytes(rate_of_all(s, then, "disk:", "read_bytes"), dr);
	format_bytes(rate_of_all(s, then, "disk:", "write_bytes"), dw);
	format_bytes(rate_of_all(s, then, "net:", "rx_bytes"), rx);
	format_bytes(rate_of_all(s, then, "net:", "tx_bytes"), tx);
	format_count(rate(s, then, "machine/exits_event") + rate(s, then, "machine/exits_halt") +
			 rate(s, then, "machine/exits_budget"),
		     ex);
	format_count(rate_of_all(s, then, "cpu", "exits_shared_semantics"), code);
	format_count(rate_of_all(s, then, "cpu", "mmu_fills") + rate_of_all(s, then, "cpu", "tlb_fills"), fills);
	snprintf(text, sizeof(text), "%-16s %7lu %-10s %-7s %4lu %5.1f %6s %6s %7s %7s %7s %7s %7s %7s %7s %8s",
		 s->name, json_number(s->info, "pid"), s->info ? json_text(s->info, "state") : "no answer",
		 json_text(s->info, "engine"), json_number(s->info, "config/cpus/boot_vcpus"), cpu, ram, rss, ex, code,
		 fills, dr, dw, rx, tx, up);
	line(out, text);
}

struct cause {
	const char *name;
	double rate;
};

static int by_rate(const void *a, const void *b)
{
	double p = ((const struct cause *)a)->rate, q = ((const struct cause *)b)->rate;

	return (p < q) - (p > q);
}

/* The most frequent causes of leaving translated code. */
static void print_cpu(struct screen *out, const struct sample *s, const struct sample *then, const char *cpu)
{
	struct cause list[64];
	char text[512], path[160], number[16];
	const char *key;
	json_t *value;
	unsigned n = 0;
	int at;

	json_object_foreach(json_object_get(s->counters, cpu), key, value)
	{
		snprintf(path, sizeof(path), "%s/%s", cpu, key);
		if (!strncmp(key, "exits_", 6) && n < ARRAY_SIZE(list))
			list[n++] = (struct cause){ key + 6, rate(s, then, path) };
	}
	qsort(list, n, sizeof(list[0]), by_rate);
	snprintf(path, sizeof(path), "%s/mmu_fills", cpu);
	at = snprintf(text, sizeof(text), "%-16s %-5s", s->name, cpu);
	for (unsigned i = 0; i < MIN(n, CAUSES) && list[i].rate >= 0.5 && at < (int)sizeof(text); i++)
		at += snprintf(text + at, sizeof(text) - (size_t)at, "  %s %s", list[i].name,
			       format_count(list[i].rate, number));
	line(out, text);
}

static void print_cpus(struct screen *out, const struct look *l, const struct look *before)
{
	line(out, "");
	line(out, "MACHINE          CPU    LEAVES OF TRANSLATED CODE BY CAUSE, A SECOND");
	for (unsigned i = 0; i < l->n; i++) {
		const struct sample *then = earlier(before, &l->s[i]);
		const char *key;
		json_t *value;

		json_object_foreach(l->s[i].counters, key, value) if (!strncmp(key, "cpu", 3))
		    print_cpu(out, &l->s[i], then, key);
	}
}

static void print_look(struct screen *out, const struct look *l, const struct look *before)
{
	char text[256];

	snprintf(text, sizeof(text), "%-16s %7s %-10s %-7s %4s %5s %6s %6s %7s %7s %7s %7s %7s %7s %7s %8s", "NAME",
		 "PID", "STATE", "ENGINE", "CPUS", "%CPU", "MEMORY", "RES", "EXITS/s", "SENS/s", "FILLS/s", "READ/s",
		 "WRITE/s", "RX/s", "TX/s", "UPTIME");
	line(out, text);
	for (unsigned i = 0; i < l->n; i++)
		print_machine(out, &l->s[i], earlier(before, &l->s[i]));
	if (!l->n)
		line(out, "no machine runs");
	else
		print_cpus(out, l, before);
}

/* ---- the terminal ---- */

static volatile sig_atomic_t caught;
static struct termios saved;

static void on_signal(int sig)
{
	caught = sig;
}

static void enter(void)
{
	static const int list[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction sa = { .sa_handler = on_signal };
	struct termios t;

	sigemptyset(&sa.sa_mask);
	for (unsigned i = 0; i < ARRAY_SIZE(list); i++)
		sigaction(list[i], &sa, NULL);
	if (tcgetattr(STDIN_FILENO, &saved))
		return;
	t = saved;
	t.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	tcsetattr(STDIN_FILENO, TCSANOW, &t);
	printf("\033[?1049h\033[?25l");
}

static void leave(void)
{
	printf("\033[?25h\033[?1049l");
	fflush(stdout);
	tcsetattr(STDIN_FILENO, TCSANOW, &saved);
}

/* True: a key, or a signal, says that it is enough. */
static bool wait_key(double seconds)
{
	struct pollfd p = { .fd = STDIN_FILENO, .events = POLLIN };
	double end = now() + seconds;
	char key;

	while (!caught && now() < end) {
		if (poll(&p, 1, (int)((end - now()) * 1000) + 1) <= 0)
			continue;
		if (read(STDIN_FILENO, &key, 1) <= 0 || key == 'q' || key == 'Q')
			return true;
	}
	return caught;
}

static int watch(double interval)
{
	static struct look looks[2];
	struct error e;
	unsigned turn = 0;
	int ret;

	enter();
	do {
		struct look *l = &looks[turn++ & 1];
		struct screen out = { .end = "\033[K\n" };
		struct winsize w;

		forget(l);
		ret = ctl_each(look_at, l, &e);
		if (ret)
			break;
		if (!ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) && w.ws_row && w.ws_col) {
			out.rows = w.ws_row;
			out.cols = w.ws_col;
		}
		printf("\033[H");
		print_look(&out, l, &looks[turn & 1]);
		printf("\033[J");
		fflush(stdout);
	} while (!wait_key(turn == 1 ? MIN(interval, 0.5) : interval));
	leave();
	forget(&looks[0]);
	forget(&looks[1]);
	return ret ? usage_error("top: %s", e.text) : EXIT_OK;
}

static int once(double interval)
{
	static struct look first, second;
	const struct timespec pause = { (time_t)interval, (long)((interval - (double)(time_t)interval) * 1e9) };
	struct screen out = { .end = "\n" };
	struct error e;

	if (ctl_each(look_at, &first, &e))
		return usage_error("top: %s", e.text);
	if (first.n)
		nanosleep(&pause, NULL);
	if (ctl_each(look_at, &second, &e))
		return usage_error("top: %s", e.text);
	print_look(&out, &second, &first);
	forget(&first);
	forget(&second);
	return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
}

static int help(void)
{
	printf("usage: ectype top [--once] [--interval S]\n"
	       "Shows the running machines of this user and what they do a second: processor time of the monitor,\n"
	       "returns of the engine (EXITS), sensitive instructions in software (SENS), MMU fills, bytes of disks\n"
	       "and networks; for each processor why it left translated code. q quits.\n"
	       "--once: print it once, over --interval seconds (default 1; else 2), without a terminal.\n");
	return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
}

int cmd_top(int argc, char **argv)
{
	bool just_once = false;
	double interval = 0;
	char *end;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
			return help();
		if (!strcmp(argv[i], "--once")) {
			just_once = true;
		} else if (!strcmp(argv[i], "--interval") && i + 1 < argc) {
			interval = strtod(argv[++i], &end);
			if (*end || !(interval >= 0.1 && interval <= 3600))
				return usage_error("top: --interval '%s' is not 0.1 to 3600 seconds", argv[i]);
		} else {
			return usage_error("top: no argument '%s' (see ectype top --help)", argv[i]);
		}
	}
	if (just_once)
		return once(interval > 0 ? interval : 1);
	if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
		return usage_error("top: no terminal here: give --once");
	return watch(interval > 0 ? interval : 2);
}

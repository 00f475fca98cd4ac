/*
 * `ectype stop`: the power button first, as a wish to the guest's operating
 * system; when time is up, the monitor is told to end, then its process.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "cli/control.h"
#include "ctl/rundir.h"

#define V1 "/api/v1/"
#define TIMEOUT_S 60
#define FORCE_MS 3000  /* for the monitor to end by itself */
#define ENDING_MS 1000 /* for a monitor that does not answer, since it is about to end */
#define STEP_MS 50

struct target {
	const char *name;
	char path[CTL_PATH_MAX];
	int pid, pidfd; /* -1: not known */
};

static int find(struct target *t, struct error *e)
{
	char dir[CTL_PATH_MAX];
	int fd = ctl_connect(t->name, e);

	if (fd < 0)
		return -1;
	close(fd);
	t->pidfd = -1;
	if (ctl_rundir(dir, false, e) || ctl_socket_path(dir, t->name, t->path, e))
		return -1;
	ctl_probe(t->path, &t->pid);
	if (t->pid > 0)
		t->pidfd = (int)syscall(SYS_pidfd_open, t->pid, 0);
	return 0;
}

/* True when the machine's process has ended; false after `ms`. */
static bool wait_end(const struct target *t, unsigned ms)
{
	const struct timespec step = { .tv_nsec = STEP_MS * 1000000l };
	struct pollfd p = { .fd = t->pidfd, .events = POLLIN };

	if (t->pidfd >= 0)
		return poll(&p, 1, (int)MIN(ms, 2000000000u)) > 0;
	for (unsigned waited = 0; ctl_probe(t->path, NULL) == CTL_ALIVE; waited += STEP_MS) {
		if (waited >= ms)
			return false;
		nanosleep(&step, NULL);
	}
	return true;
}

static bool kill_process(const struct target *t, int sig)
{
	return t->pidfd >= 0 && !syscall(SYS_pidfd_send_signal, t->pidfd, sig, NULL, 0);
}

static int by_force(const struct target *t)
{
	struct ctl_answer a;

	if (!ctl_ask(t->name, "PUT", V1 "vm.shutdown", NULL, FORCE_MS, &a, NULL))
		ctl_answer_free(&a);
	if (wait_end(t, FORCE_MS) || (kill_process(t, SIGTERM) && wait_end(t, FORCE_MS)) ||
	    (kill_process(t, SIGKILL) && wait_end(t, FORCE_MS)))
		return EXIT_OK;
	usage_error("stop: machine '%s' (process %d) does not end", t->name, t->pid);
	return EXIT_FAILED;
}

/* 0, or -1 with *e: the machine cannot be asked. */
static int ask(const struct target *t, struct error *e)
{
	if (ctl_order(t->name, "PUT", V1 "vm.power-button", NULL, NULL, e))
		return -1;
	/* a paused guest sees no button */
	return ctl_order(t->name, "PUT", V1 "vm.resume", NULL, NULL, e) ? -1 : 0;
}

/* True when it has ended, be it while it was asked. */
static bool by_button(const struct target *t, unsigned seconds)
{
	struct error e;
	bool asked = !ask(t, &e), ended = wait_end(t, asked ? seconds * 1000 : ENDING_MS);

	if (!ended && asked)
		fprintf(stderr, "ectype: stop: machine '%s' did not power off within %u s; it is ended\n", t->name,
			seconds);
	else if (!ended)
		fprintf(stderr, "ectype: stop: %s\n", e.text);
	return ended;
}

/* Its guest runs elsewhere, and would be lost. */
static bool needed_elsewhere(const char *name)
{
	struct error e;
	bool needed = false;
	json_t *j;

	if (!ctl_order(name, "GET", V1 "vm.migration", NULL, &j, &e)) {
		needed = !strcmp(json_text(j, "phase"), "post-copy");
		json_decref(j);
	}
	return needed;
}

static int stop(const char *name, bool force, unsigned seconds)
{
	struct target t = { .name = name };
	struct error e;
	int ret;

	if (find(&t, &e))
		return usage_error("stop: %s", e.text);
	if (!force && needed_elsewhere(name)) {
		if (t.pidfd >= 0)
			close(t.pidfd);
		fprintf(
		    stderr,
		    "ectype: stop: machine '%s' has moved, and memory that it needs there is here still; --force ends it "
		    "all the same\n",
		    name);
		return EXIT_FAILED;
	}
	ret = !force && by_button(&t, seconds) ? EXIT_OK : by_force(&t);
	if (t.pidfd >= 0)
		close(t.pidfd);
	return ret;
}

static int help(void)
{
	printf("usage: ectype stop NAME [--timeout S] [--force]\n"
	       "Ends the running machine NAME: presses its power button, waits S seconds (%d) for the guest\n"
	       "to power off, then ends it. --force: at once.\n"
	       "Exit status: 0 it has ended, 1 it does not end, 2 bad usage or no such machine.\n",
	       TIMEOUT_S);
	return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
}

int cmd_stop(int argc, char **argv)
{
	const char *name = NULL, *value;
	u64 seconds = TIMEOUT_S;
	bool force = false;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
			return help();
		if (!strcmp(argv[i], "--force")) {
			force = true;
		} else if (!strcmp(argv[i], "--timeout") || !strncmp(argv[i], "--timeout=", 10)) {
			value = argv[i][9] ? argv[i] + 10 : i + 1 < argc ? argv[++i] : "";
			if (parse_number(value, 1000000, &seconds))
				return usage_error("stop: --timeout '%s' is not a number of seconds", value);
		} else if (argv[i][0] == '-' || name) {
			return usage_error("stop: no argument '%s' (see ectype stop --help)", argv[i]);
		} else {
			name = argv[i];
		}
	}
	if (!name)
		return usage_error("stop: which machine? (see ectype stop --help)");
	return stop(name, force, (unsigned)seconds);
}

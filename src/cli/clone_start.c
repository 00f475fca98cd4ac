/* The processes of copies (clone.h): started, waited for, ended. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host_time.h"
#include "cli/cli.h"
#include "cli/clone.h"

#define START_MS 120000u /* until it runs; reading all of RAM (--eager) may take that long */
#define END_MS 5000

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* In the new process. What it says after it runs goes to the log alone. */
static void become(char **argv, int log, int messages, int ready)
{
	int null = open("/dev/null", O_RDWR);

	setsid();
	signal(SIGPIPE, SIG_IGN); /* nobody reads its messages later */
	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	signal(SIGHUP, SIG_DFL);
	if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(log >= 0 ? log : null, STDOUT_FILENO) < 0 ||
	    dup2(log >= 0 ? log : messages, STDERR_FILENO) < 0 || fcntl(ready, F_SETFD, 0))
		_exit(EXIT_FAILED);
	if (null > STDERR_FILENO)
		close(null);
	execv("/proc/self/exe", argv);
	dprintf(STDERR_FILENO, "ectype: cannot start /proc/self/exe: %s\n", strerror(errno));
	_exit(EXIT_FAILED);
}

static int open_log(const char *path, struct error *e)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		error_errno(e, errno, "cannot write %s", path);
	return fd;
}

int clone_start(struct clone *c, char **argv, const char *log, struct error *e)
{
	int ready[2] = { -1, -1 }, messages[2] = { -1, -1 }, file = -1;
	char **whole = NULL;
	unsigned n = 2;

	c->pidfd = c->ready = c->messages = -1;
	if (log && (file = open_log(log, e)) < 0)
		return -1;
	while (argv[n])
		n++;
	whole = calloc(n + 2, sizeof(*whole));
	if (!whole || pipe2(ready, O_CLOEXEC) || pipe2(messages, O_CLOEXEC | O_NONBLOCK))
		goto fail;
	memcpy(whole, argv, n * sizeof(*whole));
	whole[1] = (char[]){ "restore" };
	if (asprintf(&whole[n], "--ready-fd=%d", ready[1]) < 0) {
		whole[n] = NULL;
		goto fail;
	}
	c->start = host_ns();
	c->pid = fork();
	if (c->pid == 0)
		become(whole, file, messages[1], ready[1]);
	if (c->pid < 0)
		goto fail;
	/* it is not waited for before, so that the number is its own */
	c->pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0);
	c->ready = ready[0];
	c->messages = file >= 0 ? file : messages[0];
	if (file >= 0)
		close_fd(&messages[0]);
	close_fd(&ready[1]);
	close_fd(&messages[1]);
	free(whole[n]);
	free(whole);
	return 0;
fail:
	error_errno(e, errno, "cannot start a process");
	for (unsigned i = 0; i < 2; i++) {
		close_fd(&ready[i]);
		close_fd(&messages[i]);
	}
	close_fd(&file);
	if (whole)
		free(whole[n]);
	free(whole);
	return -1;
}

/* Its first message. */
static int tell(const struct clone *c, struct error *e)
{
	char text[400];
	ssize_t n = pread(c->messages, text, sizeof(text) - 1, 0);
	const char *line = text;

	if (n < 0)
		n = read(c->messages, text, sizeof(text) - 1);
	text[MAX(n, 0)] = 0;
	text[strcspn(text, "\n")] = 0;
	if (!strncmp(line, "ectype: ", 8))
		line += 8;
	if (!strncmp(line, "restore: ", 9))
		line += 9;
	return error_set(e, "copy '%s' does not start: %s", c->name, *line ? line : "it ended without a message");
}

/* Has it said that it runs, or ended? 1, 0: not yet, -1: with *e. */
static int look(struct clone *c, struct error *e)
{
	char byte;

	if (read(c->ready, &byte, 1) != 1)
		return tell(c, e);
	c->took = host_ns() - c->start;
	c->running = true;
	close_fd(&c->ready);
	close_fd(&c->messages);
	return 1;
}

static struct clone *starting(struct clone *list, unsigned count, struct pollfd *p, unsigned *n, u64 *oldest)
{
	struct clone *first = NULL;

	*n = 0;
	*oldest = UINT64_MAX;
	for (unsigned i = 0; i < count; i++) {
		if (list[i].ready < 0)
			continue;
		p[(*n)++] = (struct pollfd){ .fd = list[i].ready, .events = POLLIN };
		p[(*n)++] = (struct pollfd){ .fd = list[i].pidfd, .events = POLLIN };
		if (list[i].start < *oldest) {
			*oldest = list[i].start;
			first = &list[i];
		}
	}
	return first;
}

/* An index of the list, count: none. */
static unsigned ready_one(const struct clone *list, unsigned count, const struct pollfd *p)
{
	for (unsigned i = 0; i < count; i++) {
		if (list[i].ready < 0)
			continue;
		/* a process that ended may have said so before */
		if (p[0].revents || p[1].revents)
			return i;
		p += 2;
	}
	return count;
}

int clone_wait(struct clone *list, unsigned count, unsigned *which, struct error *e)
{
	struct pollfd *p = calloc(2 * (size_t)count, sizeof(*p));
	struct clone *first;
	unsigned n;
	u64 oldest, now;
	int r;

	*which = count;
	if (!p)
		return error_set(e, "not enough memory");
	first = starting(list, count, p, &n, &oldest);
	now = host_ns();
	r = poll(p, n, now - oldest >= START_MS * 1000000ull ? 0 : (int)(START_MS - (now - oldest) / 1000000));
	if (r < 0 && errno == EINTR)
		r = 0;
	else if (r < 0)
		r = error_errno(e, errno, "cannot wait for the copies");
	else if (r == 0)
		r = error_set(e, "copy '%s' does not start within %u s", first->name, START_MS / 1000);
	else if ((*which = ready_one(list, count, p)) < count)
		r = look(&list[*which], e);
	free(p);
	return r < 0 ? -1 : 0;
}

static bool wait_end(const struct clone *c, int ms)
{
	struct pollfd p = { .fd = c->pidfd, .events = POLLIN };

	return poll(&p, 1, ms) > 0;
}

void clone_end_all(struct clone *list, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (list[i].pid > 0)
			kill(list[i].pid, SIGTERM);
	for (unsigned i = 0; i < count; i++) {
		struct clone *c = &list[i];

		if (c->pid <= 0)
			continue;
		if (!wait_end(c, END_MS))
			kill(c->pid, SIGKILL);
		waitpid(c->pid, NULL, 0);
		close_fd(&c->pidfd);
		close_fd(&c->ready);
		close_fd(&c->messages);
		c->pid = 0;
	}
}

int clone_save(const char *name, const char *dir, bool keep)
{
	char *argv[] = { strdup("ectype"), strdup("snapshot"), strdup(name), strdup(dir), strdup("--no-sync"), NULL };
	pid_t pid = argv[0] && argv[1] && argv[2] && argv[3] && argv[4] ? fork() : -1;
	int status = -1;

	if (pid == 0) {
		if (!freopen("/dev/null", "w", stdout))
			_exit(EXIT_FAILED);
		if (keep)
			argv[4] = NULL;
		execv("/proc/self/exe", argv);
		_exit(EXIT_FAILED);
	}
	for (unsigned i = 0; i < 5; i++)
		free(argv[i]);
	if (pid < 0) {
		usage_error("clone: cannot start a process");
		return EXIT_FAILED;
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILED;
}

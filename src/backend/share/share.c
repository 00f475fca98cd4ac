/*
 * Starting and ending virtiofsd (see share.h).
 *
 * Between the monitor and its helper stands a keeper, a small process that
 * kills the helper when the monitor closes a pipe or dies, however it does: a
 * monitor in its jail (jail/jail.h) can neither signal nor wait for a process.
 *
 * The socket is one that virtiofsd accepts from a listening socket it inherits
 * (--fd): the monitor makes one in a private directory, connects to it, and
 * removes it before the helper starts, so nobody else can connect.
 */
#include "backend/share/share.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"

#define END_MS 2000 /* for the helper to end by itself */

struct share {
	struct share_config cfg;
	char *dir; /* canonical */
	const char *program;
	pid_t keeper; /* 0: none */
	int fd;	      /* to the helper */
	int words;    /* its standard error */
	int life;     /* a pipe: the helper lives as long as it is open */
	int ended;    /* a pipe: at its end when the keeper has ended */
};

/* ---- checks ---- */

static const char *find_program(void)
{
	static const char *const places[] = { "/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd",
					      "/usr/libexec/qemu/virtiofsd" };

	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
		if (!access(places[i], X_OK))
			return places[i];
	}
	return NULL;
}

int share_check(const struct share_config *cfg, struct error *e)
{
	struct stat st;

	if (stat(cfg->dir, &st))
		return error_errno(e, errno, "the shared directory %s cannot be used", cfg->dir);
	if (!S_ISDIR(st.st_mode))
		return error_set(e, "%s is to be shared but is not a directory", cfg->dir);
	if (access(cfg->dir, R_OK | X_OK))
		return error_errno(e, errno, "the shared directory %s cannot be read", cfg->dir);
	if (!find_program())
		return error_set(e, "sharing directories needs virtiofsd: apt-get install qemu-system-common");
	return 0;
}

/* ---- the helper's side, between fork and exec ---- */

/* What failed, for the parent. */
struct failure {
	int error;
	char step[60];
};

static void child_fail(int report, const char *step)
{
	struct failure f = { .error = errno };

	snprintf(f.step, sizeof(f.step), "%s", step);
	if (write(report, &f, sizeof(f)) != sizeof(f))
		_exit(126);
	_exit(127);
}

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return good;
}

/* Root of the user namespace is who we are outside. */
static bool map_user(uid_t uid, gid_t gid)
{
	char line[64];

	snprintf(line, sizeof(line), "0 %u 1", uid);
	if (!write_file("/proc/self/setgroups", "deny") || !write_file("/proc/self/uid_map", line))
		return false;
	snprintf(line, sizeof(line), "0 %u 1", gid);
	return write_file("/proc/self/gid_map", line);
}

static void enter_namespaces(int report)
{
	uid_t uid = geteuid();
	gid_t gid = getegid();

	if (unshare(CLONE_NEWNS | (uid ? CLONE_NEWUSER : 0)))
		child_fail(report, uid ? "a user namespace (without root it takes one)" : "a mount namespace");
	if (uid && !map_user(uid, gid))
		child_fail(report, "the user namespace's mapping");
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		child_fail(report, "private mounts");
}

/*
 * A copy of the directory's mounts at MOUNT_POINT/share, where a small tmpfs
 * covers what was there, in this namespace only. A directory that every system
 * has, and no program.
 */
#define MOUNT_POINT "/tmp"
#define SHARE_POINT MOUNT_POINT "/share"

static void mount_copy(const struct share *s, int report)
{
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
					       (s->cfg.readonly ? MOUNT_ATTR_RDONLY : 0) };
	static const char *const covered[] = { SHARE_POINT "/proc", SHARE_POINT "/sys", SHARE_POINT "/dev" };
	int tree = (int)syscall(SYS_open_tree, AT_FDCWD, s->dir, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);

	if (tree < 0)
		child_fail(report, "a copy of its mounts");
	if (syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof(attr)))
		child_fail(report, "a read-only copy of its mounts (Linux 5.12 or later)");
	if (mount("none", MOUNT_POINT, "tmpfs", MS_NOSUID | MS_NODEV, "size=16k,nr_inodes=8,mode=755") ||
	    mkdir(SHARE_POINT, 0755) ||
	    syscall(SYS_move_mount, tree, "", AT_FDCWD, SHARE_POINT, MOVE_MOUNT_F_EMPTY_PATH))
		child_fail(report, "a place for the copy of its mounts");
	for (unsigned i = 0; s->cfg.root && i < ARRAY_SIZE(covered); i++) {
		if (mount("none", covered[i], "tmpfs", MS_NOSUID | MS_NODEV | MS_RDONLY, "size=4k,nr_inodes=2") &&
		    errno != ENOENT)
			child_fail(report, "covers for /proc, /sys and /dev");
	}
}

/* Its descriptors: 0 the null device, 1 and 2 what it says, 3 the listening socket, 4 our report until exec. */
static int place_descriptors(int listening, int words, int report)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	const int from[] = { null, words, words, listening, report };
	int high[ARRAY_SIZE(from)];

	for (unsigned i = 0; i < ARRAY_SIZE(from); i++) {
		high[i] = fcntl(from[i], F_DUPFD, 16);
		if (high[i] < 0)
			child_fail(report, "descriptors");
	}
	for (unsigned i = 0; i < ARRAY_SIZE(from); i++)
		dup2(high[i], (int)i);
	fcntl(4, F_SETFD, FD_CLOEXEC);
	if (syscall(SYS_close_range, 5, ~0u, 0))
		child_fail(4, "descriptors");
	return 4;
}

static void limits(void)
{
	struct rlimit rl;

	/* virtiofsd keeps a descriptor for each file that the guest knows */
	if (!getrlimit(RLIMIT_NOFILE, &rl)) {
		rl.rlim_cur = rl.rlim_max;
		setrlimit(RLIMIT_NOFILE, &rl);
	}
	rl = (struct rlimit){ 0, 0 };
	setrlimit(RLIMIT_CORE, &rl);
}

static void become_helper(const struct share *s, bool namespaces, int listening, int words, int report, pid_t parent)
{
	char source[4200];
	const char *const argv[] = {
		s->program, "--fd=3",	      "-f", "--rlimit-nofile=0",
		"-o",	    source,	      "-o", s->cfg.frozen ? "cache=always" : "cache=auto",
		"-o",	    "log_level=err",  "-o", namespaces ? "sandbox=namespace" : "sandbox=chroot",
		"-o",	    "modcaps=-mknod", /* no device files on the host */
		NULL
	};
	const char *const envp[] = { "PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL };
	sigset_t none;

	report = place_descriptors(listening, words, report);
	setpgid(0, 0); /* not the terminal's business, and killed as a whole */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (int sig = 1; sig < 32; sig++)
		signal(sig, SIG_DFL);
	limits();
	if (namespaces) {
		enter_namespaces(report);
		mount_copy(s, report);
	}
	/* virtiofsd takes a comma for the end of the option, but not behind a backslash */
	size_t n = (size_t)snprintf(source, sizeof(source), "source=");

	for (const char *p = namespaces ? SHARE_POINT : s->dir; *p && n + 3 < sizeof(source); p++) {
		if (*p == ',' || *p == '\\')
			source[n++] = '\\';
		source[n++] = *p;
		source[n] = 0;
	}
	/* after the change of credentials, which would take it back */
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_PDEATHSIG, SIGKILL))
		child_fail(report, "its limits");
	if (getppid() != parent)
		_exit(0);
	umask(0);
	execve(s->program, (char *const *)argv, (char *const *)envp);
	child_fail(report, s->program);
}

/* ---- the keeper ---- */

/* Descriptors of the keeper: 0 the monitor's pipe, 1 what the monitor sees the end of, 2 the null device, then what
 * the helper is to get. */
static void keep(const struct share *s, bool namespaces, int listening, int words, int report, int life, int ended)
{
	const int from[] = { life, ended, open("/dev/null", O_RDWR | O_CLOEXEC), listening, words, report };
	int high[ARRAY_SIZE(from)], status;
	pid_t self = getpid(), helper;
	sigset_t children;

	setpgid(0, 0); /* Ctrl-C on the terminal is the monitor's business */
	for (unsigned i = 0; i < ARRAY_SIZE(from); i++)
		high[i] = fcntl(from[i], F_DUPFD_CLOEXEC, 32);
	for (unsigned i = 0; i < ARRAY_SIZE(from); i++)
		dup3(high[i], (int)i, O_CLOEXEC);
	syscall(SYS_close_range, ARRAY_SIZE(from), ~0u, 0);
	sigemptyset(&children);
	sigaddset(&children, SIGCHLD);
	sigprocmask(SIG_SETMASK, &children, NULL);
	for (int sig = 1; sig < 32; sig++)
		signal(sig, SIG_DFL);
	helper = fork();
	if (helper < 0)
		child_fail(5, "a process");
	if (!helper)
		become_helper(s, namespaces, 3, 4, 5, self);
	syscall(SYS_close_range, 3, ~0u, 0);
	prctl(PR_SET_NAME, "ectype-keeper");
	int signals = signalfd(-1, &children, SFD_CLOEXEC);
	struct pollfd f[2] = { { .fd = 0 }, { .fd = signals, .events = POLLIN } };

	while (poll(f, 2, -1) < 0 && errno == EINTR)
		;
	kill(-helper, SIGKILL);
	kill(helper, SIGKILL);
	waitpid(helper, &status, 0);
	_exit(0);
}

/* ---- the monitor's side ---- */

/* A listening socket that nobody but the holder of *connected is connected to. */
static int listening_socket(int *connected, struct error *e)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	const char *tmp = getenv("XDG_RUNTIME_DIR");
	char dir[80];
	int fd;

	if (!tmp || *tmp != '/' || strlen(tmp) > 50 || access(tmp, W_OK))
		tmp = "/tmp";
	snprintf(dir, sizeof(dir), "%s/ectype-XXXXXX", tmp);
	if (!mkdtemp(dir))
		return error_errno(e, errno, "cannot create a private directory in %s", tmp);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s/share", dir);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	*connected = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || *connected < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 1) ||
	    connect(*connected, (struct sockaddr *)&a, sizeof(a))) {
		error_errno(e, errno, "cannot create a unix socket in %s", dir);
		if (fd >= 0)
			close(fd);
		if (*connected >= 0)
			close(*connected);
		fd = -1;
	}
	unlink(a.sun_path);
	rmdir(dir);
	return fd;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void close_all(struct share *s)
{
	close_fd(&s->fd);
	close_fd(&s->words);
	close_fd(&s->life);
	close_fd(&s->ended);
}

/* Starts the helper with or without namespaces; what went wrong before it ran into *f, f->error 0 if nothing did. */
static int launch(struct share *s, bool namespaces, struct failure *f, struct error *e)
{
	int report[2] = { -1, -1 }, words[2] = { -1, -1 }, life[2] = { -1, -1 }, ended[2] = { -1, -1 };
	int listening = listening_socket(&s->fd, e);
	int *const mine[] = { &report[1], &words[1], &life[0], &ended[1], &listening };
	bool good;

	*f = (struct failure){ .error = 0 };
	if (listening < 0)
		return -1;
	/* What it says is kept as far as a pipe holds it. */
	good = !pipe2(report, O_CLOEXEC) && !pipe2(words, O_CLOEXEC | O_NONBLOCK) && !pipe2(life, O_CLOEXEC) &&
	       !pipe2(ended, O_CLOEXEC);
	if (good) {
		s->keeper = fork();
		if (!s->keeper)
			keep(s, namespaces, listening, words[1], report[1], life[0], ended[1]);
		good = s->keeper > 0;
	}
	if (!good)
		error_errno(e, errno, "cannot start %s", s->program);
	for (unsigned i = 0; i < ARRAY_SIZE(mine); i++)
		close_fd(mine[i]);
	s->words = words[0];
	s->life = life[1];
	s->ended = ended[0];
	while (good && read(report[0], f, sizeof(*f)) < 0 && errno == EINTR)
		;
	close_fd(&report[0]);
	if (good && !f->error)
		return 0;
	close_all(s);
	if (good)
		waitpid(s->keeper, NULL, 0);
	s->keeper = 0;
	return good ? 0 : -1;
}

struct share *share_start(const struct share_config *cfg, struct error *e)
{
	struct share *s;
	struct failure f;

	if (share_check(cfg, e))
		return NULL;
	s = calloc(1, sizeof(*s));
	if (!s) {
		error_set(e, "not enough host memory");
		return NULL;
	}
	s->cfg = *cfg;
	s->fd = s->words = s->life = s->ended = -1;
	s->program = find_program();
	s->dir = realpath(cfg->dir, NULL);
	if (!s->dir) {
		error_errno(e, errno, "the shared directory %s cannot be used", cfg->dir);
		goto fail;
	}
	if (launch(s, true, &f, e))
		goto fail;
	if (f.error == EPERM && !geteuid() && !cfg->readonly) {
		log_warn("share", "%s: no mount namespace is to be had: its helper has chroot only", cfg->dir);
		if (launch(s, false, &f, e))
			goto fail;
	}
	if (f.error) {
		error_errno(e, f.error, "%s cannot be shared: its helper lacks %s", cfg->dir, f.step);
		goto fail;
	}
	return s;
fail:
	free(s->dir);
	free(s);
	return NULL;
}

int share_fd(const struct share *s)
{
	return s->fd;
}

void share_kill(void *share)
{
	close_fd(&((struct share *)share)->life);
}

void share_explain(const struct share *s, struct error *e)
{
	char text[1024];
	ssize_t n = read(s->words, text, sizeof(text) - 1);
	size_t len = strlen(e->text);

	if (n <= 0)
		return;
	text[n] = 0;
	text[strcspn(text, "\n")] = 0;
	snprintf(e->text + len, sizeof(e->text) - len, " (virtiofsd: %s)", text);
}

void share_stop(struct share *s)
{
	if (!s)
		return;
	/* it ends when its socket is closed */
	close_fd(&s->fd);
	if (s->keeper > 0) {
		struct pollfd f = { .fd = s->ended };

		if (poll(&f, 1, END_MS) <= 0) {
			share_kill(s);
			poll(&f, 1, END_MS);
		}
		waitpid(s->keeper, NULL, 0);
	}
	close_all(s);
	free(s->dir);
	free(s);
}

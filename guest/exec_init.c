/*
 * /init of the machine that `ectype exec` starts (docs/exec.md). Process 1:
 * loads the drivers, makes a root file system of the host's (read-only, over
 * virtio-fs) under a throw-away overlay, runs the command there and carries its
 * streams, then says how it ended.
 *
 * What to do stands in /ectype-exec: "key=value" strings, each with a zero byte
 * behind it. Four named ports of the virtio console:
 *
 *   ectype.in, .out, .err   bytes and nothing else
 *   ectype.ctl              lines. From the host: "w ROWS COLUMNS", "eof N": standard input ends behind its
 *                           N-th byte, "hup out", "hup err": nobody reads that any more, "sig N": for the
 *                           command. To the host: "run": it has begun, "closed out N", "closed err N": all there
 *                           is, N bytes; then "exit STATUS".
 *
 * A static program of its own, so that nothing else is needed before the
 * host's root is there.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define LIST_MAX 4096
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

static struct {
	char *args[LIST_MAX], *env[LIST_MAX], *rw[LIST_MAX]; /* rw: "TAG:PATH" */
	unsigned nargs, nenv, nrw;
	char *cwd, *name;
	bool tty_in, tty_out, tty_err, net;
} todo;

static void power_off(void)
{
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

/* To the serial console, which the host shows if this machine ends without a word on the control port. */
static void __attribute__((noreturn, format(printf, 1, 2))) die(const char *fmt, ...)
{
	int error = errno, fd = open("/dev/console", O_WRONLY | O_NOCTTY);
	char text[600];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text) - 100, fmt, ap);
	va_end(ap);
	if (n > (int)sizeof(text) - 101)
		n = (int)sizeof(text) - 101;
	n += snprintf(text + n, sizeof(text) - (size_t)n, ": %s\n", strerror(error));
	if (fd >= 0 && (dprintf(fd, "ectype exec: ") < 0 || write(fd, text, (size_t)n) < 0 || tcdrain(fd)))
		error = 0;
	power_off();
	__builtin_unreachable();
}

/* ---- what to do ---- */

static void add(char **list, unsigned *n, char *value)
{
	if (*n + 1 >= LIST_MAX)
		die("too many arguments");
	list[(*n)++] = value;
}

static void take(char *item)
{
	char *value = strchr(item, '=');

	if (!value)
		return;
	*value++ = 0;
	if (!strcmp(item, "arg"))
		add(todo.args, &todo.nargs, value);
	else if (!strcmp(item, "env"))
		add(todo.env, &todo.nenv, value);
	else if (!strcmp(item, "rw"))
		add(todo.rw, &todo.nrw, value);
	else if (!strcmp(item, "cwd"))
		todo.cwd = value;
	else if (!strcmp(item, "name"))
		todo.name = value;
	else if (!strcmp(item, "net"))
		todo.net = true;
	else if (!strcmp(item, "tty")) {
		todo.tty_in = strchr(value, 'i');
		todo.tty_out = strchr(value, 'o');
		todo.tty_err = strchr(value, 'e');
	}
}

static void read_orders(void)
{
	int fd = open("/ectype-exec", O_RDONLY | O_CLOEXEC);
	struct stat st;
	char *text;

	if (fd < 0 || fstat(fd, &st) || !(text = malloc((size_t)st.st_size + 1)) ||
	    read(fd, text, (size_t)st.st_size) != st.st_size)
		die("/ectype-exec");
	text[st.st_size] = 0;
	close(fd);
	for (char *p = text; p < text + st.st_size;) {
		char *next = p + strlen(p) + 1;

		take(p);
		p = next;
	}
	if (!todo.nargs || !todo.cwd || !todo.name)
		die("/ectype-exec is not complete");
}

/* ---- drivers ---- */

/* In the order they depend on each other; those that the kernel has built in are not needed. */
static void load_modules(void)
{
	FILE *order = fopen("/modules/order", "re");
	char name[128], path[160];

	while (order && fgets(name, sizeof(name), order)) {
		name[strcspn(name, "\n")] = 0;
		if (!todo.net && (strstr(name, "virtio_net") || strstr(name, "failover")))
			continue;
		snprintf(path, sizeof(path), "/modules/%s", name);
		int fd = open(path, O_RDONLY | O_CLOEXEC);

		if (fd >= 0) {
			syscall(SYS_finit_module, fd, "", 0);
			close(fd);
		}
	}
	if (order)
		fclose(order);
}

/* The device of the port called `name`; it appears when driver and device have talked. */
static int open_port(const char *name)
{
	static const char class[] = "/sys/class/virtio-ports";

	for (unsigned tries = 0; tries < 10000; tries++) {
		DIR *d = opendir(class);
		struct dirent *e;

		while (d && (e = readdir(d))) {
			char path[600], found[64] = "";
			int fd;

			snprintf(path, sizeof(path), "%s/%s/name", class, e->d_name);
			fd = open(path, O_RDONLY | O_CLOEXEC);
			if (fd < 0)
				continue;
			ssize_t n = read(fd, found, sizeof(found) - 1);

			close(fd);
			found[n > 0 ? strcspn(found, "\n") : 0] = 0;
			if (strcmp(found, name))
				continue;
			snprintf(path, sizeof(path), "/dev/%s", e->d_name);
			fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
			if (fd >= 0) {
				closedir(d);
				return fd;
			}
		}
		if (d)
			closedir(d);
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
	errno = ENODEV;
	die("no port %s of a virtio console (does the kernel have its driver?)", name);
}

/* ---- the root file system ---- */

static void make_dirs(const char *path)
{
	char part[4200];

	for (size_t i = 1; path[i - 1] && i < sizeof(part); i++) {
		if (path[i] != '/' && path[i])
			continue;
		memcpy(part, path, i);
		part[i] = 0;
		mkdir(part, 0755);
	}
}

static void mount_at(const char *what, const char *where, const char *type, unsigned long flags, const char *data)
{
	mkdir(where, 0755);
	if (mount(what, where, type, flags, data))
		die("cannot mount %s at %s", type ? type : what, where);
}

#define ROOT "/new"

/* The current directory may lie below a directory that is about to be covered. */
static bool below(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	return !strncmp(path, dir, n) && (path[n] == '/' || !path[n]);
}

static void cover(const char *dir)
{
	char where[64], path[4200], self[64];
	bool keep = below(todo.cwd, dir) && strlen(todo.cwd) > strlen(dir);
	int fd = -1;

	snprintf(where, sizeof(where), ROOT "%s", dir);
	snprintf(path, sizeof(path), ROOT "%s", todo.cwd);
	if (keep)
		fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	mount_at("tmpfs", where, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755");
	if (fd < 0)
		return;
	make_dirs(path);
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	if (mount(self, path, NULL, MS_BIND | MS_REC, NULL))
		die("cannot show %s", todo.cwd);
	close(fd);
}

static void make_root(void)
{
	mount_at("ectype-root", "/host", "virtiofs", MS_RDONLY, NULL);
	mount_at("tmpfs", "/over", "tmpfs", 0, "mode=755,size=80%");
	mkdir("/over/upper", 0755);
	mkdir("/over/work", 0755);
	mount_at("overlay", ROOT, "overlay", 0, "lowerdir=/host,upperdir=/over/upper,workdir=/over/work");
	mount_at("proc", ROOT "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_at("sysfs", ROOT "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_at("dev", ROOT "/dev", "devtmpfs", MS_NOSUID, NULL);
	mount_at("devpts", ROOT "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "ptmxmode=666,mode=620");
	mount_at("tmpfs", ROOT "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
	cover("/run");
	for (unsigned i = 0; i < todo.nrw; i++) {
		char *path = strchr(todo.rw[i], ':'), where[4200];

		*path++ = 0;
		snprintf(where, sizeof(where), ROOT "%s", path);
		make_dirs(where);
		mount_at(todo.rw[i], where, "virtiofs", 0, NULL);
	}
	symlink("/proc/self/fd", ROOT "/dev/fd");
	symlink("/proc/self/fd/0", ROOT "/dev/stdin");
	symlink("/proc/self/fd/1", ROOT "/dev/stdout");
	symlink("/proc/self/fd/2", ROOT "/dev/stderr");
}

static void enter_root(void)
{
	if (chdir(ROOT) || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
		die("cannot change to the new root");
}

/* ---- network ---- */

static void set_address(int s, const char *nic, unsigned long request, const char *address)
{
	struct ifreq r = { 0 };
	struct sockaddr_in *a = (struct sockaddr_in *)&r.ifr_addr;

	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", nic);
	a->sin_family = AF_INET;
	inet_pton(AF_INET, address, &a->sin_addr);
	ioctl(s, request, &r);
}

static void bring_up(int s, const char *nic)
{
	struct ifreq r = { 0 };

	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", nic);
	if (!ioctl(s, SIOCGIFFLAGS, &r)) {
		r.ifr_flags |= IFF_UP;
		ioctl(s, SIOCSIFFLAGS, &r);
	}
}

/* What user networking gives to everybody (docs/net.md), without asking for it. */
static void set_up_network(void)
{
	struct rtentry route = { .rt_flags = RTF_UP | RTF_GATEWAY };
	struct sockaddr_in *gate = (struct sockaddr_in *)&route.rt_gateway;
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), fd;

	if (s < 0)
		return;
	bring_up(s, "lo");
	if (todo.net) {
		set_address(s, "eth0", SIOCSIFADDR, "10.0.2.15");
		set_address(s, "eth0", SIOCSIFNETMASK, "255.255.255.0");
		bring_up(s, "eth0");
		route.rt_dst.sa_family = route.rt_genmask.sa_family = gate->sin_family = AF_INET;
		inet_pton(AF_INET, "10.0.2.2", &gate->sin_addr);
		ioctl(s, SIOCADDRT, &route);
		unlink("/etc/resolv.conf");
		fd = open("/etc/resolv.conf", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		if (fd >= 0) {
			dprintf(fd, "nameserver 10.0.2.3\n");
			close(fd);
		}
	}
	close(s);
}

/* ---- streams ---- */

/* Bytes on their way from one descriptor to another; both may be closed under it. */
struct flow {
	int from, to;
	bool eof;		  /* `from` has no more */
	unsigned long long moved; /* bytes written to `to` */
	size_t at, len;
	char buf[65536];
};

static struct flow in, out, err;
static int ctl = -1, master = -1;
static unsigned long long in_end = ~0ull; /* where standard input ends */
static pid_t child;
static int child_status = -1;

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void say(const char *fmt, ...)
{
	char line[128];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	for (int done = 0; done < n;) {
		struct pollfd f = { .fd = ctl, .events = POLLOUT };
		ssize_t k = write(ctl, line + done, (size_t)(n - done));

		if (k > 0)
			done += (int)k;
		else if (k < 0 && errno == EAGAIN)
			poll(&f, 1, 100);
		else if (k < 0 && errno != EINTR)
			return;
	}
}

/* One step; called when poll() says so, or to find out. */
static void move(struct flow *f)
{
	if (f->from >= 0 && !f->eof && !f->len) {
		ssize_t n = read(f->from, f->buf, sizeof(f->buf));

		f->at = 0;
		if (n > 0)
			f->len = (size_t)n;
		else if (n == 0 || (errno != EAGAIN && errno != EINTR))
			f->eof = true; /* EIO: the last user of the terminal is gone */
	}
	if (f->len && f->to >= 0) {
		ssize_t n = write(f->to, f->buf + f->at, f->len);

		if (n > 0) {
			f->at += (size_t)n;
			f->len -= (size_t)n;
			f->moved += (unsigned long long)n;
		} else if (n < 0 && errno != EAGAIN && errno != EINTR) {
			close_fd(&f->to);
		}
	}
	if (f->len && f->to < 0) {
		/* nobody takes it */
		f->moved += f->len;
		f->len = 0;
	}
}

/* Standard input is a port: it never ends by itself. */
static void check_input_end(void)
{
	in.eof = false;
	if (in.moved < in_end || in.len)
		return;
	close_fd(&in.from);
	if (in.to != master)
		close_fd(&in.to);
	in.to = -1;
}

static void command_line(const char *line)
{
	struct winsize w = { 0 };
	int sig;

	if (sscanf(line, "sig %d", &sig) == 1 && child > 0 && child_status < 0)
		kill(-child, sig);
	else if (sscanf(line, "w %hu %hu", &w.ws_row, &w.ws_col) == 2 && master >= 0)
		ioctl(master, TIOCSWINSZ, &w);
	else if (sscanf(line, "eof %llu", &in_end) == 1)
		check_input_end();
	else if (!strcmp(line, "hup out") && out.from != master)
		close_fd(&out.from), out.eof = true, out.len = 0;
	else if (!strcmp(line, "hup err") && err.from != master)
		close_fd(&err.from), err.eof = true, err.len = 0;
}

static void read_commands(void)
{
	static char line[256];
	static size_t len;
	char buf[256];
	ssize_t n = read(ctl, buf, sizeof(buf));

	for (ssize_t i = 0; i < n; i++) {
		if (buf[i] == '\n') {
			line[len] = 0;
			command_line(line);
			len = 0;
		} else if (len + 1 < sizeof(line)) {
			line[len++] = buf[i];
		}
	}
}

static void reap(void)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid != child)
			continue;
		child_status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
		/* what it left behind ends with it, as the processes of a container do */
		kill(-1, SIGKILL);
	}
}

static bool finished(const struct flow *f)
{
	return f->from < 0 || (f->eof && !f->len);
}

static void want(struct pollfd *p, struct flow *f, unsigned *n)
{
	if (f->from >= 0 && !f->eof && !f->len)
		p[(*n)++] = (struct pollfd){ .fd = f->from, .events = POLLIN };
	else if (f->len && f->to >= 0)
		p[(*n)++] = (struct pollfd){ .fd = f->to, .events = POLLOUT };
}

static void carry(int signals)
{
	struct signalfd_siginfo si;

	while (child_status < 0 || !finished(&out) || !finished(&err)) {
		struct pollfd p[5] = { { .fd = signals, .events = POLLIN }, { .fd = ctl, .events = POLLIN } };
		unsigned n = 2;

		want(p, &in, &n);
		want(p, &out, &n);
		want(p, &err, &n);
		/* a hung-up terminal says so once; look again now and then */
		poll(p, n, child_status < 0 ? -1 : 10);
		while (read(signals, &si, sizeof(si)) == sizeof(si))
			;
		reap();
		read_commands();
		move(&in);
		check_input_end();
		move(&out);
		move(&err);
	}
}

/* ---- the command ---- */

static void pipe_or_die(int p[2])
{
	if (pipe2(p, O_CLOEXEC))
		die("cannot make a pipe");
}

static void set_nonblocking(int fd)
{
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static void __attribute__((noreturn)) run(int fd0, int fd1, int fd2, bool terminal)
{
	sigset_t none;

	setsid();
	if (dup2(fd0, 0) < 0 || dup2(fd1, 1) < 0 || dup2(fd2, 2) < 0)
		_exit(125);
	if (terminal)
		ioctl(todo.tty_in ? 0 : 1, TIOCSCTTY, 0);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	umask(022);
	if (chdir(todo.cwd)) {
		dprintf(2, "ectype exec: %s: %s\n", todo.cwd, strerror(errno));
		_exit(126);
	}
	clearenv();
	for (unsigned i = 0; i < todo.nenv; i++)
		putenv(todo.env[i]);
	todo.args[todo.nargs] = NULL;
	execvp(todo.args[0], todo.args);
	int status = errno == ENOENT || errno == ENOTDIR ? 127 : 126;

	dprintf(2, "ectype exec: %s: %s\n", todo.args[0], strerror(errno));
	_exit(status);
}

static int open_terminal(void)
{
	struct winsize w = { .ws_row = 24, .ws_col = 80 };
	int slave = -1, zero = 0;

	master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (master < 0 || ioctl(master, TIOCSPTLCK, &zero) ||
	    (slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0)
		die("no pseudo-terminal");
	ioctl(master, TIOCSWINSZ, &w);
	return slave;
}

static void start(void)
{
	int p0[2] = { -1, -1 }, p1[2] = { -1, -1 }, p2[2] = { -1, -1 };
	bool terminal = todo.tty_in || todo.tty_out || todo.tty_err;
	int slave = terminal ? open_terminal() : -1;

	if (!todo.tty_in)
		pipe_or_die(p0);
	if (!todo.tty_out)
		pipe_or_die(p1);
	if (!todo.tty_err)
		pipe_or_die(p2);
	in.to = todo.tty_in ? master : p0[1];
	out.from = todo.tty_out ? master : p1[0];
	/* a terminal for standard error only comes out there */
	err.from = !todo.tty_err ? p2[0] : todo.tty_out ? -1 : master;
	set_nonblocking(in.to);
	set_nonblocking(out.from);
	set_nonblocking(err.from);
	child = fork();
	if (child < 0)
		die("cannot start a process");
	if (!child)
		run(todo.tty_in ? slave : p0[0], todo.tty_out ? slave : p1[1], todo.tty_err ? slave : p2[1], terminal);
	close_fd(&slave);
	close_fd(&p0[0]);
	close_fd(&p1[1]);
	close_fd(&p2[1]);
}

int main(void)
{
	sigset_t children;
	int signals;

	mount_at("dev", "/dev", "devtmpfs", 0, NULL);
	mount_at("proc", "/proc", "proc", 0, NULL);
	mount_at("sysfs", "/sys", "sysfs", 0, NULL);
	read_orders();
	sigemptyset(&children);
	sigaddset(&children, SIGCHLD);
	sigprocmask(SIG_BLOCK, &children, NULL);
	signal(SIGPIPE, SIG_IGN);
	signals = signalfd(-1, &children, SFD_NONBLOCK | SFD_CLOEXEC);
	load_modules();
	ctl = open_port("ectype.ctl");
	in.from = open_port("ectype.in");
	out.to = open_port("ectype.out");
	err.to = open_port("ectype.err");
	make_root();
	enter_root();
	if (sethostname(todo.name, strlen(todo.name)))
		die("cannot set the host's name");
	set_up_network();
	start();
	say("run\n");
	carry(signals);
	sync(); /* files that were mapped and written in writable directories */
	say("closed out %llu\nclosed err %llu\nexit %d\n", out.moved, err.moved, child_status);
	/* the host ends the machine */
	nanosleep(&(struct timespec){ .tv_sec = 600 }, NULL);
	power_off();
}

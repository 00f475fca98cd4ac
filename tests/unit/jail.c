/* The jail from inside: what a child process in it can and cannot do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "jail/jail.h"

#define PART "/tmp/ectype-jail-test"

/* `fn` in a jailed child; it returns 0 or the number of the line that is wrong. */
static void in_jail(unsigned needs, int (*fn)(struct jail *))
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		struct jail j = { 0 };
		struct error e;

		jail_prepare(&j, !(needs & JAIL_SOCKETS));
		_exit(jail_lock(&j, needs, &e) ? 1 : fn(&j));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (status)
		print_error("line %d of %s, status %x\n", WEXITSTATUS(status), __FILE__, status);
	assert_int_equal(status, 0);
}

/* Lines of this file fit a byte. */
#define CHECK(x)                                                                                                       \
	do {                                                                                                           \
		if (!(x))                                                                                              \
			return __LINE__ & 0xff;                                                                        \
	} while (0)
#define DENIED(x) CHECK((x) == -1 && errno == EPERM)

static int forbidden(struct jail *j)
{
	static char *const none[] = { NULL };

	DENIED(open("/etc/passwd", O_RDONLY));
	DENIED(open("/proc/self/mem", O_RDWR));
	DENIED(syscall(SYS_openat2, AT_FDCWD, "/etc/passwd", NULL, 0));
	DENIED(unlink("/etc/passwd"));
	DENIED(execve("/bin/sh", none, none));
	DENIED(socket(AF_INET, SOCK_STREAM, 0));
	DENIED(socket(AF_UNIX, SOCK_STREAM, 0));
	DENIED(kill(getppid(), SIGTERM));
	DENIED(ptrace(PTRACE_ATTACH, getppid(), NULL, NULL));
	DENIED(syscall(SYS_process_vm_readv, getppid(), NULL, 0, NULL, 0, 0));
	DENIED(syscall(SYS_fork));
	DENIED(syscall(SYS_unshare, 0));
	DENIED(syscall(SYS_bpf, 0, NULL, 0));
	DENIED(syscall(SYS_io_uring_setup, 1, NULL));
	DENIED(ioctl(0, 0x5412 /* TIOCSTI */, "x"));
	CHECK(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
	return 0;
}

static void *nothing(void *p)
{
	return p;
}

static void *for_ever(void *p)
{
	for (;;)
		pause();
	return p;
}

static int allowed(struct jail *j)
{
	int fds[2];
	pthread_t t;
	void *p, *result;
	char c = 0;

	CHECK(!pipe2(fds, O_CLOEXEC));
	CHECK(write(fds[1], "x", 1) == 1 && read(fds[0], &c, 1) == 1 && c == 'x');
	CHECK(!close(fds[0]) && !close(fds[1]));
	CHECK(!pthread_create(&t, NULL, nothing, j) && !pthread_join(t, &result) && result == j);
	CHECK(!pthread_create(&t, NULL, for_ever, j) && !pthread_cancel(t) && !pthread_join(t, &result));
	CHECK(result == PTHREAD_CANCELED);
	p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(p != MAP_FAILED && !munmap(p, 1 << 20));
	return 0;
}

static int with_sockets(struct jail *j)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	CHECK(fd >= 0);
	DENIED(socket(AF_NETLINK, SOCK_RAW, 0));
	DENIED(socket(AF_UNIX, SOCK_STREAM, 0));
	DENIED(open("/etc/passwd", O_RDONLY));
	return 0;
}

static void test_forbidden(void **s)
{
	in_jail(0, forbidden);
}
static void test_allowed(void **s)
{
	in_jail(0, allowed);
}
static void test_sockets(void **s)
{
	in_jail(JAIL_SOCKETS, with_sockets);
}

/* Threads that were there before are in it too. */
static int go[2], came[2];

static void *reader(void *p)
{
	char c;

	if (read(go[0], &c, 1) == 1)
		c = open("/etc/passwd", O_RDONLY) == -1 && errno == EPERM ? 'y' : 'n';
	return write(came[1], &c, 1) == 1 ? p : NULL;
}

static void test_other_threads(void **s)
{
	int status;
	pid_t pid;

	pid = fork();
	if (pid == 0) {
		struct jail j = { 0 };
		struct error e;
		pthread_t t;
		char c = 0;

		jail_prepare(&j, true);
		if (pipe(go) || pipe(came) || pthread_create(&t, NULL, reader, NULL) || jail_lock(&j, 0, &e) ||
		    write(go[1], "x", 1) != 1 || read(came[0], &c, 1) != 1)
			_exit(1);
		_exit(c != 'y');
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* What the parent left open is closed; what was opened since is not. */
static int inherited = -1;

static int descriptors(struct jail *j)
{
	CHECK(inherited > 2 && fcntl(inherited, F_GETFD) == -1 && errno == EBADF);
	return 0;
}

static void test_descriptors(void **s)
{
	inherited = open("/dev/null", O_RDONLY);
	in_jail(0, descriptors);
	close(inherited);
}

static void make(const char *path)
{
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);

	assert_true(fd >= 0);
	close(fd);
}

/* Killed without a chance to clean up; a file that took another's name stays. */
static void test_janitor(void **s)
{
	char mine[64], other[64], moved[64];
	int status;
	pid_t pid;

	snprintf(mine, sizeof(mine), PART "-%d-mine", getpid());
	snprintf(other, sizeof(other), PART "-%d-other", getpid());
	snprintf(moved, sizeof(moved), PART "-%d-moved", getpid());
	make(mine);
	make(other);
	pid = fork();
	if (pid == 0) {
		struct error e;
		struct janitor *j = janitor_start(&e);

		if (!j || janitor_add(j, mine, &e) || janitor_add(j, other, &e) ||
		    !janitor_add(j, "/nonexistent/file", &e))
			_exit(1);
		if (rename(other, moved))
			_exit(1);
		make(other);
		raise(SIGKILL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	for (unsigned i = 0; i < 500 && !access(mine, F_OK); i++)
		usleep(10000);
	assert_int_equal(access(mine, F_OK), -1);
	assert_int_equal(access(other, F_OK), 0);
	assert_int_equal(access(moved, F_OK), 0);
	unlink(other);
	unlink(moved);
}

/* One that was killed is an error, not the end of the process. */
static void test_dead_janitor(void **s)
{
	struct error e;
	struct janitor *j = janitor_start(&e);
	FILE *f = fopen("/proc/thread-self/children", "re");
	int pid = 0;

	assert_non_null(j);
	assert_non_null(f);
	assert_int_equal(fscanf(f, "%d", &pid), 1);
	fclose(f);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitid(P_PID, (id_t)pid, &(siginfo_t){}, WEXITED | WNOWAIT), 0);
	assert_int_equal(janitor_add(j, "/", &e), -1);
	assert_non_null(strstr(e.text, "its process has ended"));
	janitor_finish(j);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_forbidden),    cmocka_unit_test(test_allowed),
		cmocka_unit_test(test_sockets),	     cmocka_unit_test(test_other_threads),
		cmocka_unit_test(test_descriptors),  cmocka_unit_test(test_janitor),
		cmocka_unit_test(test_dead_janitor),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

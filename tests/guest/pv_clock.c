/*
 * Runs in a guest: reads the clock a hundred thousand times with every system
 * call but write and exit forbidden, so the vDSO must do without. Time must
 * not go back. (Seccomp's strict mode would forbid RDTSC, too.)
 */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static struct sock_filter program[] = {
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 2, 0),
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit, 1, 0),
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
};

static void say(const char *text, long n)
{
	syscall(SYS_write, 1, text, n);
	syscall(SYS_exit, 0);
}

int main(void)
{
	const struct sock_fprog filter = { sizeof(program) / sizeof(program[0]), program };
	struct timespec t, last = { 0, 0 };

	clock_gettime(CLOCK_MONOTONIC, &t);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter))
		say("no seccomp\n", 11);
	for (int i = 0; i < 100000; i++) {
		clock_gettime(CLOCK_MONOTONIC, &t);
		if (t.tv_sec < last.tv_sec || (t.tv_sec == last.tv_sec && t.tv_nsec < last.tv_nsec))
			say("time went back\n", 15);
		last = t;
	}
	say("vdso time is fine\n", 18);
}

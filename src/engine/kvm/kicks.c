#include "engine/kvm/kicks.h"

#include <linux/kvm.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KICK_SIGNAL SIGRTMIN
#define KERNEL_SIGSET 8u /* bytes of the kernel's sigset_t */

static sigset_t only_kick(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, KICK_SIGNAL);
	return set;
}

int kicks_prepare(int fd)
{
	struct {
		struct kvm_signal_mask head;
		u8 set[KERNEL_SIGSET];
	} mask = { .head.len = KERNEL_SIGSET };
	sigset_t kick = only_kick(), others;

	pthread_sigmask(SIG_BLOCK, &kick, &others);
	sigdelset(&others, KICK_SIGNAL);
	memcpy(mask.head.sigset, &others, KERNEL_SIGSET);
	return ioctl(fd, KVM_SET_SIGNAL_MASK, &mask);
}

void kicks_consume(void)
{
	const struct timespec now = { .tv_sec = 0 };
	sigset_t kick = only_kick();

	while (sigtimedwait(&kick, NULL, &now) > 0)
		;
}

void kicks_send(pid_t thread)
{
	syscall(SYS_tgkill, getpid(), thread, KICK_SIGNAL);
}

static void on_kick(int sig) {}

bool kicks_timer(timer_t *t, long ns)
{
	struct sigaction sa = { .sa_handler = on_kick };
	struct sigevent ev = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KICK_SIGNAL };
	struct itimerspec period = { .it_value.tv_nsec = ns, .it_interval.tv_nsec = ns };
	sigset_t kick = only_kick();

	ev._sigev_un._tid = gettid();
	if (timer_create(CLOCK_MONOTONIC, &ev, t))
		return false;
	sigemptyset(&sa.sa_mask);
	sigaction(KICK_SIGNAL, &sa, NULL);
	pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
	timer_settime(*t, 0, &period, NULL);
	return true;
}

void kicks_timer_end(timer_t t)
{
	sigset_t kick = only_kick();

	timer_delete(t);
	pthread_sigmask(SIG_BLOCK, &kick, NULL);
	kicks_consume();
}

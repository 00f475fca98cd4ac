#include "engine/kvm/kicks.h"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KICK_SIGNAL SIGRTMIN

static void on_kick(int sig) {}

void kicks_catch(void)
{
	struct sigaction sa = { .sa_handler = on_kick };
	sigset_t set;

	sigemptyset(&sa.sa_mask);
	sigaction(KICK_SIGNAL, &sa, NULL);
	sigemptyset(&set);
	sigaddset(&set, KICK_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

void kicks_send(pid_t thread)
{
	syscall(SYS_tgkill, getpid(), thread, KICK_SIGNAL);
}

bool kicks_timer(timer_t *t, long ns)
{
	struct sigevent ev = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KICK_SIGNAL };
	struct itimerspec period = { .it_value.tv_nsec = ns, .it_interval.tv_nsec = ns };

	ev._sigev_un._tid = gettid();
	if (timer_create(CLOCK_MONOTONIC, &ev, t))
		return false;
	return timer_settime(*t, 0, &period, NULL) == 0;
}

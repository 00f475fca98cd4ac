/* Apart from the commands because <signal.h> has its own REG_RAX. */
#include <signal.h>
#include <stddef.h>

#include "cli/cli.h"

static const int stop_signals[] = { SIGINT, SIGTERM, SIGHUP };

/* A signal handler has no argument to hang state off. */
static struct {
	void (*volatile stop)(void *);
	void *opaque;
	volatile sig_atomic_t caught;
} target;

static void on_signal(int sig)
{
	target.caught = sig;
	if (target.stop)
		target.stop(target.opaque);
}

void signals_install(void (*stop)(void *), void *opaque)
{
	struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_RESTART };

	target.opaque = opaque;
	target.stop = stop;
	sigemptyset(&sa.sa_mask);
	for (unsigned i = 0; i < ARRAY_SIZE(stop_signals); i++)
		sigaction(stop_signals[i], &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a limit is an error of write() */
}

void signals_remove(void)
{
	target.stop = NULL;
}

int signals_caught(void)
{
	return target.caught;
}

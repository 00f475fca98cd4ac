/*
 * A thunk runs a guest's instruction on the host; where that instruction
 * faults (#DE, #MF, #XM, #GP of a misaligned operand, #UD of an encoding the
 * host refuses) the host's kernel sends a signal. The handler recognises the
 * code view of the running thread's engine and resumes behind thunk_call with
 * the trap number; a signal from anywhere else gets the default action.
 *
 * Apart from the other files because <ucontext.h> has its own REG_RAX.
 */
#include <pthread.h>
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include "engine/interp/host_fault.h"

/* mem/physmem.h pulls in names that clash */
bool memory_file_lost(const void *addr);

/* What runs on this thread. Signal handlers have no other way to know. */
static __thread struct {
	const struct thunk_cache *cache;
	const u64 *sp;
	bool (*translated)(int sig, siginfo_t *info, void *context);
} running __attribute__((tls_model("initial-exec")));

extern const char thunk_fault_exit[];

static const int fault_signals[] = { SIGFPE, SIGSEGV, SIGBUS, SIGILL };
/* Who had the signals before: written once, under pthread_once. */
static struct sigaction before[ARRAY_SIZE(fault_signals)];

/* A bug of ours: die of it, with a core, but through whoever was there before
 * (the console puts its terminal back). */
static void give_back(int sig)
{
	for (unsigned k = 0; k < ARRAY_SIZE(fault_signals); k++) {
		if (fault_signals[k] == sig)
			sigaction(sig, &before[k], NULL);
	}
}

/*
 * RAM that a machine was restored from is a file's, and the file has become
 * shorter or its disk fails: what the guest was to find there is nowhere.
 */
static void die_of_file(int sig)
{
	static const char line[] =
	    "ectype: memory: the file that the machine was restored from has become shorter or cannot "
	    "be read; the machine ends\n";

	for (unsigned k = 0; k < ARRAY_SIZE(fault_signals); k++)
		if (fault_signals[k] == sig && !(before[k].sa_flags & SA_SIGINFO) && before[k].sa_handler != SIG_DFL &&
		    before[k].sa_handler != SIG_IGN)
			before[k].sa_handler(sig);
	if (write(STDERR_FILENO, line, sizeof(line) - 1) < 0)
		_exit(1);
	_exit(1);
}

static void on_host_fault(int sig, siginfo_t *info, void *context)
{
	mcontext_t *mc = &((ucontext_t *)context)->uc_mcontext;

	if (sig == SIGBUS && memory_file_lost(info->si_addr))
		die_of_file(sig);
	if (running.translated && running.translated(sig, info, context))
		return;
	if (!running.cache || !thunk_holds(running.cache, (const void *)(uintptr_t)mc->gregs[REG_RIP])) {
		give_back(sig);
		return;
	}
	mc->gregs[REG_RSP] = (greg_t)*running.sp;
	mc->gregs[REG_RIP] = (greg_t)(uintptr_t)thunk_fault_exit;
	mc->gregs[REG_RAX] = mc->gregs[REG_TRAPNO] + 1;
}

static void install(void)
{
	struct sigaction sa = { .sa_sigaction = on_host_fault, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK };

	sigemptyset(&sa.sa_mask);
	for (unsigned k = 0; k < ARRAY_SIZE(fault_signals); k++)
		sigaction(fault_signals[k], &sa, &before[k]);
}

void host_fault_install(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, install);
}

void host_fault_enter(const struct thunk_cache *c, const u64 *sp)
{
	running.sp = sp;
	running.cache = c;
}

void host_fault_leave(void)
{
	running.cache = NULL;
}

void host_fault_set_translated(bool (*fn)(int sig, siginfo_t *info, void *context))
{
	running.translated = fn;
}

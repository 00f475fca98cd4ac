/*
 * One instruction on the real processor.
 *
 * host_enter() loads the vector state with XRSTOR, the segment bases and the
 * general registers, and enters the instruction by IRETQ with TF set. The
 * debug trap behind it, or the fault it meets, arrives as a signal on a stack
 * of its own; the frame there holds the complete state. The handler records
 * it and goes back to host_step()'s caller by switching stacks, without a
 * sigreturn. glibc needs FS, so the handler's first act is to restore it.
 */
#include "oracle_host.h"

#include <cpuid.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#define TF 0x100u
#define RF 0x10000u
#define STEPS_MAX 100000
/* Linux's selectors */
#define USER32_CS 0x23
#define USER_DS 0x2b

/* Read by the assembly below: keep the offsets. */
struct host_run {
	u64 gpr[16];
	u64 frame[5];  /* 128: RIP CS RFLAGS RSP SS for IRETQ */
	u64 sp;	       /* 168: of host_enter() */
	u64 fs, gs;    /* 176 */
	u64 own_fs;    /* 192 */
	u64 mask;      /* 200 */
	const u8 *fpu; /* 208 */
	u64 fsgsbase;  /* 216: may the bases be changed? */
	u64 active;
	bool repeats, compatibility;
	unsigned steps;
	u64 start;
	struct oracle_outcome *out;
	struct sigaction old[32];
	char watched[512];
};
_Static_assert(offsetof(struct host_run, sp) == 168 && offsetof(struct host_run, fs) == 176 &&
		   offsetof(struct host_run, own_fs) == 192 && offsetof(struct host_run, mask) == 200 &&
		   offsetof(struct host_run, fpu) == 208 && offsetof(struct host_run, fsgsbase) == 216,
	       "offsets used by host_enter and host_signal");

/* Signal handlers have no argument: one object for the process. */
struct host_run oracle_host_run;

void host_enter(struct host_run *r);
void host_leave(u64 sp) __attribute__((noreturn));
void host_signal(int sig, siginfo_t *info, void *context);
void oracle_host_trap(int sig, siginfo_t *info, void *context, u64 fs, u64 gs);

__asm__(".text\n.p2align 4\n.globl host_enter\nhost_enter:\n\t"
	"push %rbx\n\tpush %rbp\n\tpush %r12\n\tpush %r13\n\tpush %r14\n\tpush %r15\n\t"
	"mov %rsp, 168(%rdi)\n\t"
	"mov 200(%rdi), %eax\n\tmov 204(%rdi), %edx\n\tmov 208(%rdi), %rcx\n\txrstor64 (%rcx)\n\t"
	"cmpb $0, 216(%rdi)\n\tje 1f\n\t"
	"mov 176(%rdi), %rax\n\twrfsbase %rax\n\tmov 184(%rdi), %rax\n\twrgsbase %rax\n"
	"1:\tlea 128(%rdi), %rsp\n\t"
	"mov 0(%rdi), %rax\n\tmov 8(%rdi), %rcx\n\tmov 16(%rdi), %rdx\n\tmov 24(%rdi), %rbx\n\t"
	"mov 40(%rdi), %rbp\n\tmov 48(%rdi), %rsi\n\t"
	"mov 64(%rdi), %r8\n\tmov 72(%rdi), %r9\n\tmov 80(%rdi), %r10\n\tmov 88(%rdi), %r11\n\t"
	"mov 96(%rdi), %r12\n\tmov 104(%rdi), %r13\n\tmov 112(%rdi), %r14\n\tmov 120(%rdi), %r15\n\t"
	"mov 56(%rdi), %rdi\n\tiretq\n"
	".globl host_leave\nhost_leave:\n\tmov %rdi, %rsp\n\t"
	"pop %r15\n\tpop %r14\n\tpop %r13\n\tpop %r12\n\tpop %rbp\n\tpop %rbx\n\tret\n"
	".globl host_signal\nhost_signal:\n\t"
	"push %rbx\n\t"
	"pushfq\n\tandl $~0x40000, (%rsp)\n\tpopfq\n\t" /* the kernel leaves AC alone */
	"lea oracle_host_run(%rip), %rax\n\tcmpb $0, 216(%rax)\n\tje 2f\n\t"
	"rdfsbase %rcx\n\trdgsbase %r8\n\tmov %rcx, %rbx\n\tmov 192(%rax), %rax\n\twrfsbase %rax\n\t"
	"call oracle_host_trap\n\twrfsbase %rbx\n\tpop %rbx\n\tret\n"
	"2:\txor %ecx, %ecx\n\txor %r8d, %r8d\n\tcall oracle_host_trap\n\tpop %rbx\n\tret\n");

static void record(const ucontext_t *uc, u64 fs, u64 gs)
{
	static const u8 order[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
				      REG_R8,  REG_R9,	REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };
	const greg_t *g = uc->uc_mcontext.gregs;
	struct oracle_outcome *o = oracle_host_run.out;

	for (unsigned n = 0; n < 16; n++)
		o->s.gpr[n] = (u64)g[order[n]];
	o->s.rip = (u64)g[REG_RIP];
	o->s.rflags = (u64)g[REG_EFL] & ~(u64)(TF | RF);
	o->s.fs_base = fs;
	o->s.gs_base = gs;
	/* The kernel wrote it with plain XSAVE: every component is there. */
	memcpy(o->s.fpu, uc->uc_mcontext.fpregs, 512 + 64);
	memcpy(o->s.fpu + 576, (const u8 *)uc->uc_mcontext.fpregs + 576, 0xa80 - 576);
	o->vector = (int)g[REG_TRAPNO];
	o->error = (u32)g[REG_ERR];
	o->addr = (u64)g[REG_CR2];
	if (o->vector == 1) /* #DB: the single-step trap */
		o->vector = -1;
}

void oracle_host_trap(int sig, siginfo_t *info, void *context, u64 fs, u64 gs)
{
	struct host_run *r = &oracle_host_run;
	ucontext_t *uc = context;

	if (sig == SIGALRM) {
		if (write(2, r->watched, strlen(r->watched)) < 0)
			_exit(3);
		_exit(1);
	}
	if (!r->active) {
		if (r->old[sig].sa_flags & SA_SIGINFO)
			r->old[sig].sa_sigaction(sig, info, context);
		else
			signal(sig, SIG_DFL);
		return;
	}
	if (sig == SIGTRAP && r->repeats && (u64)uc->uc_mcontext.gregs[REG_RIP] == r->start && ++r->steps < STEPS_MAX)
		return;
	record(uc, fs, gs);
	r->active = 0;
	host_leave(r->sp);
}

static u64 read_fs(void)
{
	u64 fs;

	__asm__ volatile("mov %%fs:0, %0" : "=r"(fs)); /* the TCB points at itself */
	return fs;
}

bool host_init(u64 xstate_mask, bool compatibility)
{
	static const int signals[] = { SIGTRAP, SIGFPE, SIGSEGV, SIGBUS, SIGILL, SIGALRM };
	struct sigaction sa = { .sa_sigaction = host_signal, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK };
	stack_t stack = { .ss_size = 65536 };
	unsigned a, b, c, d;

	__cpuid(1, a, b, c, d);
	if (!(c & bit_OSXSAVE))
		return false;
	stack.ss_sp = malloc(stack.ss_size);
	if (!stack.ss_sp || sigaltstack(&stack, NULL))
		return false;
	oracle_host_run.mask = xstate_mask;
	oracle_host_run.compatibility = compatibility;
	if (compatibility) /* 64-bit code does without DS and ES */
		__asm__ volatile("mov %0, %%ds\n\tmov %0, %%es" : : "r"(USER_DS));
	oracle_host_run.own_fs = read_fs();
	oracle_host_run.fsgsbase = getauxval(AT_HWCAP2) >> 1 & 1;
	for (unsigned k = 0; k < ARRAY_SIZE(signals); k++)
		if (sigaction(signals[k], &sa, &oracle_host_run.old[signals[k]]))
			return false;
	return true;
}

bool host_has_fsgsbase(void)
{
	return oracle_host_run.fsgsbase;
}

void host_watchdog(const char *what)
{
	struct itimerval t = { .it_value.tv_sec = 10 };

	snprintf(oracle_host_run.watched, sizeof(oracle_host_run.watched), "oracle: hangs: %s\n", what);
	setitimer(ITIMER_REAL, &t, NULL);
}

void host_step(const struct oracle_state *in, bool repeats, struct oracle_outcome *out)
{
	struct host_run *r = &oracle_host_run;
	u16 cs, ss;

	__asm__("mov %%cs, %0\n\tmov %%ss, %1" : "=r"(cs), "=r"(ss));
	memcpy(r->gpr, in->gpr, sizeof(r->gpr));
	r->frame[0] = r->start = in->rip;
	r->frame[1] = r->compatibility ? USER32_CS : cs;
	r->frame[2] = in->rflags | TF;
	r->frame[3] = in->gpr[4];
	r->frame[4] = ss;
	r->fs = in->fs_base;
	r->gs = in->gs_base;
	r->fpu = in->fpu;
	r->repeats = repeats;
	r->steps = 0;
	r->out = out;
	r->active = 1;
	host_enter(r);
}

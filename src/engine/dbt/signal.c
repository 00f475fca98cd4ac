/*
 * A host fault inside translated code is one of three:
 *   - a lookup in a table page that nothing has touched (mem/flat.h): the page
 *     is made and the lookup done again;
 *   - the return stack is full: it is emptied;
 *   - the guest's own instruction faults, or its operand is not what the entry
 *     is for: state is that of the instruction's beginning, so translated code
 *     is left and the reference engine does the instruction.
 */
#include "engine/dbt/signal.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "engine/interp/host_fault.h"

/* mem/flat.h pulls in names that clash */
bool flat_table_fault(struct flat *f, const void *addr);

static __thread const struct dbt_signal *running __attribute__((tls_model("initial-exec")));

static u16 lahf_seto(u64 flags)
{
	return (u16)((flags & 0xff) << 8 | (flags >> 11 & 1));
}

static bool in_page(const u8 *addr, const u8 *page)
{
	return addr >= page && addr < page + 4096;
}

static bool on_fault(int sig, siginfo_t *info, void *context)
{
	const struct dbt_signal *s = running;
	greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
	const u8 *pc = (const u8 *)(uintptr_t)g[REG_RIP], *addr = info->si_addr;

	if (!s || pc < s->rx || pc >= s->rx + s->size)
		return false;
	if (sig == SIGSEGV && flat_table_fault(s->flat, addr))
		return true;
	if (sig == SIGSEGV && (in_page(addr, s->guard[0]) || in_page(addr, s->guard[1]))) {
		g[REG_RSP] = (greg_t)*s->ret_base;
		return true;
	}
	s->gpr[0] = (u64)g[REG_RAX];
	s->gpr[1] = (u64)g[REG_R12];
	s->gpr[2] = (u64)g[REG_RDX];
	s->gpr[3] = (u64)g[REG_RBX];
	s->gpr[4] = (u64)g[REG_R13];
	s->gpr[5] = (u64)g[REG_RBP];
	s->gpr[6] = (u64)g[REG_RSI];
	s->gpr[7] = (u64)g[REG_RDI];
	s->gpr[8] = (u64)g[REG_R8];
	s->gpr[9] = (u64)g[REG_R9];
	s->gpr[10] = (u64)g[REG_R10];
	s->gpr[11] = (u64)g[REG_R11];
	*s->t0 = (u64)g[REG_R14];
	*s->flags = lahf_seto((u64)g[REG_EFL]);
	*s->ret_sp = (u64)g[REG_RSP];
	*s->reason = s->reason_value;
	*s->info = (u32)(pc - s->rx);
	g[REG_RSP] = (greg_t)*s->host_sp;
	g[REG_RIP] = (greg_t)(uintptr_t)s->resume;
	return true;
}

int dbt_signal_enter(const struct dbt_signal *s)
{
	static __thread void *stack;
	const size_t size = 128 * 1024;

	if (!stack) {
		stack_t ss = { .ss_size = size };

		stack = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (stack == MAP_FAILED) {
			stack = NULL;
			return -1;
		}
		ss.ss_sp = stack;
		sigaltstack(&ss, NULL);
	}
	running = s;
	host_fault_set_translated(s ? on_fault : NULL);
	return 0;
}

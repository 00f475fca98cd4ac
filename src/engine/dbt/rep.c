/*
 * Repeated string instructions inside a page. string.c looks up the operands
 * and calls one of these routines, which does as many iterations as lie in the
 * pages of both operands by the host's own REP, on host addresses.
 *
 * They are assembled here and copied into the code cache, where calls reach
 * them. None can fault: the caller has touched both operands.
 *
 *   in    R14 = host address of the destination (CMPS: of the source), hot->value
 *         = that of the other operand of MOVS and CMPS; R12 = count, not 0
 *   out   RSI, RDI, R12 advanced; RCX = 0: all is done;
 *         -1: nothing was done, for EFLAGS.DF is set (SCAS, CMPS);
 *         else call again with the next page, status flags are those it began with
 */
#include "engine/dbt/rep.h"

/* RAX and the flags out of the way; to `backward` if EFLAGS.DF is set. */
#define SAVE(backward)                                                                                                 \
	"mov %%rax, %%gs:%c[rax]\n\t"                                                                                  \
	"lahf\n\tseto %%al\n\t"                                                                                        \
	"mov %%ax, %%gs:%c[flags]\n\t"                                                                                 \
	"testb $4, %%gs:%c[rflags] + 1\n\t"                                                                            \
	"jnz " backward "\n\t"
#define RESTORE                                                                                                        \
	"movzwl %%gs:%c[flags], %%eax\n\t"                                                                             \
	"add $127, %%al\n\tsahf\n\t"                                                                                   \
	"mov %%gs:%c[rax], %%rax\n\t"
/* ECX = elements from R14 to the end of its page, or down to its start */
#define FIT_UP(log) "mov %%r14d, %%ecx\n\tor $-4096, %%ecx\n\tneg %%ecx\n\tshr $" log ", %%ecx\n\t"
#define FIT_DOWN(log) "mov %%r14d, %%ecx\n\tand $4095, %%ecx\n\tshr $" log ", %%ecx\n\tinc %%ecx\n\t"
/* ... or those from `reg`, if they are fewer; spoils `reg` */
#define LESS(reg) "cmp " reg ", %%ecx\n\tcmova " reg ", %%ecx\n\t"
#define OTHER_UP(log, reg) "or $-4096, " reg "\n\tneg " reg "\n\tshr $" log ", " reg "\n\t" LESS(reg)
#define OTHER_DOWN(log, reg) "and $4095, " reg "\n\tshr $" log ", " reg "\n\tinc " reg "\n\t" LESS(reg)
/* RCX = min(ECX, R12); R12 less these */
#define ELEMENTS                                                                                                       \
	"cmp %%r12, %%rcx\n\tcmova %%r12, %%rcx\n\t"                                                                   \
	"sub %%rcx, %%r12\n\t"
/* RDI = R14, the host address; R14 = what leads from it to the guest's */
#define SWAP "sub %%r14, %%rdi\n\txchg %%r14, %%rdi\n\t"
#define LABEL(name, suffix) ".p2align 4\n.Lrep_" name "_" suffix ":\n\t"

#define STOS_END "lea (%%rdi, %%r14), %%rdi\n\tmov %%r12, %%rcx\n\tret\n"
#define STOS(log, suffix)                                                                                              \
	LABEL("stos", suffix)                                                                                          \
	SAVE("5f")                                                                                                     \
	FIT_UP(log)                                                                                                    \
	ELEMENTS SWAP RESTORE "rep stos" suffix "\n\t" STOS_END "5:\t" FIT_DOWN(log) ELEMENTS SWAP RESTORE             \
	    "std\n\trep stos" suffix "\n\tcld\n\t" STOS_END

/* hot->value: what leads from the source's host address to the guest's */
#define MOVS_BEGIN                                                                                                     \
	SWAP "mov %%gs:%c[value], %%rax\n\tsub %%rax, %%rsi\n\tmov %%rsi, %%gs:%c[value]\n\tmov %%eax, %%esi\n\t"
#define MOVS_RUN ELEMENTS "mov %%rax, %%rsi\n\t" RESTORE
#define MOVS_END                                                                                                       \
	"lea (%%rdi, %%r14), %%rdi\n\t"                                                                                \
	"mov %%gs:%c[value], %%rcx\n\tlea (%%rsi, %%rcx), %%rsi\n\t"                                                   \
	"mov %%r12, %%rcx\n\tret\n"
#define MOVS(log, suffix)                                                                                              \
	LABEL("movs", suffix)                                                                                          \
	SAVE("5f")                                                                                                     \
	FIT_UP(log)                                                                                                    \
	MOVS_BEGIN OTHER_UP(log, "%%esi") MOVS_RUN "rep movs" suffix "\n\t" MOVS_END "5:\t" FIT_DOWN(log) MOVS_BEGIN   \
	OTHER_DOWN(log, "%%esi") MOVS_RUN "std\n\trep movs" suffix "\n\tcld\n\t" MOVS_END

/* Behind a compare: stopped by `stop`, out of elements, or out of the page? */
#define COMPARED(stop)                                                                                                 \
	stop " 1f\n\t"                                                                                                 \
	     "mov %%r12, %%rcx\n\tjrcxz 2f\n\t" RESTORE "ret\n"                                                        \
	     "1:\tlea (%%r12, %%rcx), %%r12\n\t"                                                                       \
	     "2:\tmov %%gs:%c[rax], %%rax\n\tmov $0, %%ecx\n\tret\n"

#define CMPS(log, suffix, rep, stop)                                                                                   \
	LABEL("cmps", rep suffix)                                                                                      \
	SAVE(".Lrep_backward")                                                                                         \
	FIT_UP(log)                                                                                                    \
	"mov %%rsi, %%rax\n\tsub %%r14, %%rax\n\tmov %%r14, %%rsi\n\t"                                                 \
	"mov %%gs:%c[value], %%r14\n\tsub %%r14, %%rdi\n\tmov %%rdi, %%gs:%c[value]\n\t"                               \
	"mov %%r14d, %%edi\n\t" OTHER_UP(log, "%%edi") ELEMENTS                                                        \
	    "mov %%r14, %%rdi\n\t"                                                                                     \
	    "mov %%gs:%c[value], %%r14\n\t" rep " cmps" suffix "\n\t"                                                  \
	    "lea (%%rdi, %%r14), %%rdi\n\tlea (%%rsi, %%rax), %%rsi\n\t" COMPARED(stop)

#define SCAS(log, suffix, rep, stop)                                                                                   \
	LABEL("scas", rep suffix)                                                                                      \
	SAVE(".Lrep_backward")                                                                                         \
	FIT_UP(log)                                                                                                    \
	ELEMENTS SWAP "mov %%gs:%c[rax], %%rax\n\t" rep " scas" suffix "\n\t"                                          \
		      "lea (%%rdi, %%r14), %%rdi\n\t" COMPARED(stop)

#define COMPARES(log, suffix)                                                                                          \
	CMPS(log, suffix, "repe", "jne")                                                                               \
	CMPS(log, suffix, "repne", "je") SCAS(log, suffix, "repe", "jne") SCAS(log, suffix, "repne", "je")

#define ENTRY(name) ".long .Lrep_" name " - .Lrep_begin\n"
#define ENTRIES(name) ENTRY(name "b") ENTRY(name "w") ENTRY(name "l") ENTRY(name "q")

extern const u8 dbt_rep_code[];
extern const u32 dbt_rep_table[REP_OPS][4];

/* Never called: the operands of the assembly need a function to stand in. */
__attribute__((used, noinline)) static void rep_routines(void)
{
	__asm__ volatile(
	    ".section .rodata\n"
	    ".p2align 6\n"
	    "dbt_rep_code:\n"
	    ".Lrep_begin:\n"
	    ".Lrep_backward:\n\t" RESTORE "mov $-1, %%rcx\n\tret\n" STOS("0", "b") STOS("1", "w") STOS("2", "l")
		STOS("3", "q") MOVS("0", "b") MOVS("1", "w") MOVS("2", "l") MOVS("3", "q") COMPARES("0", "b")
		    COMPARES("1", "w") COMPARES("2", "l")
			COMPARES("3", "q") ".Lrep_end:\n"
					   ".p2align 2\n"
					   "dbt_rep_table:\n" ENTRIES("stos_") ENTRIES("movs_") ENTRIES("cmps_repe")
					       ENTRIES("cmps_repne") ENTRIES("scas_repe")
						   ENTRIES("scas_repne") "dbt_rep_size: .long .Lrep_end - .Lrep_begin\n"
									 ".previous\n"
	    :
	    : [rax] "i"(offsetof(struct cpu, gpr)), [rflags] "i"(offsetof(struct cpu, rflags)), [flags] "i"(HOT(flags)),
	      [value] "i"(HOT(value)));
}
extern const u32 dbt_rep_size;

void dbt_make_rep(struct dbt_shared *sh, struct emit *e)
{
	u8 *at;

	while ((uintptr_t)e->p & 63)
		put(e, 0xcc);
	at = e->p;
	put_bytes(e, dbt_rep_code, dbt_rep_size);
	for (unsigned op = 0; op < REP_OPS; op++)
		for (unsigned log = 0; log < 4; log++)
			sh->rep[op][log] = at + e->to_rx + dbt_rep_table[op][log];
}

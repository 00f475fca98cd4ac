/*
 * The shared semantics of every sensitive (privileged, control- or
 * behaviour-sensitive) instruction, and of the few others that no engine has
 * reason to do by itself. One function a row of src/isa/isa_table.h.
 *
 * Contract: on entry `cpu.rip` is the address of the instruction and all of
 * `cpu` is exact. On success the function returns 0 with cpu.rip at the next
 * instruction to execute. On a fault it returns FAULT with v->fault filled and
 * `cpu` unchanged (string instructions: at an iteration boundary). CPL, mode
 * and CPUID checks are made here, in the order the manual gives. Code here
 * runs while guest vector state may be live: general registers only.
 */
#ifndef ECTYPE_CPU_SYS_H
#define ECTYPE_CPU_SYS_H

#include "cpu/vcpu.h"

typedef int (*sys_fn)(struct vcpu *v, const struct dinsn *d);

/* cpu.rip += d->len, wrapped to the code size. */
void sys_advance(struct vcpu *v, const struct dinsn *d);
/* The general register `n` of `size` bytes (1: low byte, with AH..BH for 4..7
 * when the instruction has no REX prefix). Writes of 4 bytes clear the upper half. */
u64 sys_reg_read(const struct vcpu *v, const struct dinsn *d, unsigned n, unsigned size);
void sys_reg_write(struct vcpu *v, const struct dinsn *d, unsigned n, unsigned size, u64 val);
/* The ModRM r/m operand (register or memory through seg_linear). */
int must_check sys_rm_read(struct vcpu *v, const struct dinsn *d, unsigned size, u64 *val);
int must_check sys_rm_write(struct vcpu *v, const struct dinsn *d, unsigned size, u64 val);
/* Linear address of the memory operand for `len` bytes. */
int must_check sys_mem_linear(struct vcpu *v, const struct dinsn *d, unsigned len, int acc, gva_t *lin);

#define SYS(name) int must_check sys_##name(struct vcpu *v, const struct dinsn *d);

/* sys_flow.c, sys_seg.c and relatives: control transfer and segmentation */
/* clang-format off */
SYS(call_far) SYS(jmp_far) SYS(ret_far) SYS(iret)
SYS(int) SYS(int1) SYS(int3) SYS(into) SYS(bound)
SYS(syscall) SYS(sysret) SYS(sysenter) SYS(sysexit)
SYS(mov_to_sreg) SYS(mov_from_sreg) SYS(push_sreg) SYS(pop_sreg) SYS(load_far_ptr) /* LDS LES LFS LGS LSS */
SYS(lar) SYS(lsl) SYS(verr) SYS(verw) SYS(arpl)
SYS(lldt) SYS(sldt) SYS(ltr) SYS(str) SYS(lgdt) SYS(sgdt) SYS(lidt) SYS(sidt)
SYS(pushf) SYS(popf) SYS(cli) SYS(sti) SYS(enter)
    /* clang-format on */

    /* processor control */
    /* clang-format off */
SYS(cpuid) SYS(rdtsc) SYS(rdtscp) SYS(rdpmc) SYS(rdpid) SYS(rdmsr) SYS(wrmsr)
SYS(mov_cr) SYS(mov_dr) SYS(clts) SYS(lmsw) SYS(smsw)
SYS(hlt) SYS(invd) SYS(wbinvd) SYS(invlpg) SYS(invpcid)
SYS(in) SYS(out) SYS(ins) SYS(outs) /* ins/outs: one iteration, rip moves on when the count is spent */
SYS(xgetbv) SYS(xsetbv)
SYS(xsave) SYS(xsaveopt) SYS(xsavec) SYS(xsaves) SYS(xrstor) SYS(xrstors)
SYS(fxsave) SYS(fxrstor)
SYS(fnsave) SYS(frstor) SYS(fnstenv) SYS(fldenv) /* x87 state with the guest's own pointers */
SYS(monitor) SYS(mwait)
SYS(rdpkru) SYS(wrpkru) SYS(clac) SYS(stac) SYS(swapgs)
SYS(rdfsbase) SYS(rdgsbase) SYS(wrfsbase) SYS(wrgsbase)
SYS(rdrand) SYS(rdseed) SYS(pause)
SYS(vmcall) /* VMMCALL too */
SYS(ud) /* any instruction the CPU model does not have, RSM, VMX, SVM, SGX, ... */
/* clang-format on */
#undef SYS

    /* Shared helpers other code needs too. */
    /* Writes with all checks and side effects; FAULT on #GP. */
    int must_check cpu_write_cr(struct vcpu *v, unsigned cr, u64 val);
u64 cpu_read_cr(struct vcpu *v, unsigned cr);
int must_check cpu_rdmsr(struct vcpu *v, u32 msr, u64 *val); /* FAULT (#GP) for unknown ones */
int must_check cpu_wrmsr(struct vcpu *v, u32 msr, u64 val);
/* Is it one of the paravirtual interface that the model offers? */
bool cpu_is_pv_msr(const struct vcpu *v, u32 msr);
/* I/O permission of `size` bytes at `port` (IOPL, TSS bitmap). */
int must_check cpu_io_allowed(struct vcpu *v, u16 port, unsigned size);

#endif

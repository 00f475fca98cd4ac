/*
 * The names of the shared semantics (sys_NAME in cpu/sys.h) that rows of
 * isa_table.h refer to. An X-macro, so that src/isa numbers them without
 * knowing their types and src/cpu builds its dispatch array from the same list.
 */
#ifndef ECTYPE_ISA_ISA_SYS_H
#define ECTYPE_ISA_ISA_SYS_H

/* clang-format off */
#define ISA_SYS_LIST(X) \
	X(call_far) X(jmp_far) X(ret_far) X(iret) \
	X(int) X(int1) X(int3) X(into) X(bound) \
	X(syscall) X(sysret) X(sysenter) X(sysexit) \
	X(mov_to_sreg) X(mov_from_sreg) X(push_sreg) X(pop_sreg) X(load_far_ptr) \
	X(lar) X(lsl) X(verr) X(verw) X(arpl) \
	X(lldt) X(sldt) X(ltr) X(str) X(lgdt) X(sgdt) X(lidt) X(sidt) \
	X(pushf) X(popf) X(cli) X(sti) X(enter) \
	X(cpuid) X(rdtsc) X(rdtscp) X(rdpmc) X(rdpid) X(rdmsr) X(wrmsr) \
	X(mov_cr) X(mov_dr) X(clts) X(lmsw) X(smsw) \
	X(hlt) X(invd) X(wbinvd) X(invlpg) X(invpcid) \
	X(in) X(out) X(ins) X(outs) \
	X(xgetbv) X(xsetbv) \
	X(xsave) X(xsaveopt) X(xsavec) X(xsaves) X(xrstor) X(xrstors) \
	X(fxsave) X(fxrstor) \
	X(fnsave) X(frstor) X(fnstenv) X(fldenv) \
	X(monitor) X(mwait) \
	X(rdpkru) X(wrpkru) X(clac) X(stac) X(swapgs) \
	X(rdfsbase) X(rdgsbase) X(wrfsbase) X(wrgsbase) \
	X(rdrand) X(rdseed) X(pause) \
	X(vmcall) \
	X(ud)
/* clang-format on */

enum isa_sys {
	ISA_SYS_none,
#define X(name) ISA_SYS_##name,
	ISA_SYS_LIST(X)
#undef X
	    ISA_SYS_COUNT
};

#endif

/* Models, CPUID, MSRs, control and debug registers, I/O, the small
 * instructions: rules of the Intel SDM. */
#include <stdio.h>
#include <Zydis/Zydis.h>

#include "cpu/pv.h"
#include "cpuctl_fake.h"

static const char *const names[] = { "x86-64-v2", "x86-64-v3", "x86-64-v4", "host" };

static bool have_model(const char *name)
{
	struct cpu_model m;
	struct error e;

	if (!cpu_model_init(&m, name, 1, 2100000000, &e))
		return true;
	assert_non_null(strstr(e.text, "needs"));
	return false;
}

static void check_leaves(struct vcpu *v)
{
	u32 r[4], max[4], sig[4];
	u64 xcr0;

	cpu_cpuid(v, 0, 0, max);
	assert_int_equal(max[0], 0x1f);
	assert_int_equal(max[1], 0x756e6547);
	cpu_cpuid(v, 1, 0, r);
	assert_true(r[2] >> 31);
	assert_true(!!(r[2] & 1u << 27) == !!(v->cpu.cr4 & CR4_OSXSAVE));
	assert_false(r[2] & 1u << 3); /* MONITOR */
	assert_false(r[2] & 1u << 5); /* VMX */
	cpu_cpuid(v, 7, 0, r);
	assert_false(r[1] & (1u << 4 | 1u << 11 | 1u << 14 | 1u << 2)); /* HLE RTM MPX SGX */
	cpu_cpuid(v, 0xa, 0, r);
	assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
	cpu_cpuid(v, 0x15, 0, r);
	assert_int_equal((u64)r[2] * r[1] / r[0], model.tsc_hz);
	assert_true((u64)(r[2] / 1000) * r[1] <= UINT32_MAX); /* Linux multiplies in 32 bits */
	cpu_cpuid(v, 0x40000000, 0, sig);
	assert_memory_equal(sig + 1, "EctypeEctype", 12);
	cpu_cpuid(v, sig[0], 0, r);
	assert_int_equal(r[0], model.tsc_hz / 1000);
	cpu_cpuid(v, 0x40001000, 0, r);
	assert_int_equal(r[0] | r[1], 0);
	cpu_cpuid(v, 0x80000008, 0, r);
	assert_int_equal(r[0], model.lin_bits << 8 | model.phys_bits);
	if (!model.xsave)
		return;
	cpu_cpuid(v, 0xd, 0, r);
	xcr0 = r[0] | (u64)r[3] << 32;
	assert_int_equal(xcr0, model.xcr0_supported);
	assert_int_equal(r[1], xstate_standard_size(v->cpu.xcr0));
	for (unsigned i = 2, end = 0; i < 63; i++) {
		u32 s[4];

		cpu_cpuid(v, 0xd, i, s);
		assert_true(!!s[0] == !!(xcr0 & BIT(i)));
		if (s[0]) {
			assert_true(s[1] >= end);
			end = s[0] + s[1];
			assert_true(end <= r[2]);
		}
	}
}

static void test_models(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		struct vcpu *v;

		if (!have_model(names[i]))
			continue;
		v = new_vcpu(names[i]);
		v->cpu.cr4 &= model.cr4_supported;
		check_leaves(v);
		assert_true(cpu_model_has_isa_set(&model, ZYDIS_ISA_SET_I86));
		assert_true(cpu_model_has_isa_set(&model, ZYDIS_ISA_SET_SSE42));
		assert_true(cpu_model_has_isa_set(&model, ZYDIS_ISA_SET_CET)); /* ENDBR */
		assert_false(cpu_model_has_isa_set(&model, ZYDIS_ISA_SET_VTX));
		assert_false(cpu_model_has_isa_set(&model, ZYDIS_ISA_SET_RTM));
		assert_false(cpu_model_has_isa_set(&model, ZYDIS_ISA_SET_INVALID));
		assert_false(cpu_model_has_isa_set(&model, 100000));
		if (i == 0)
			assert_false(cpu_model_has_isa_set(&model, ZYDIS_ISA_SET_AVX));
		if (i < 2)
			assert_false(cpu_model_has_isa_set(&model, ZYDIS_ISA_SET_AVX512F_512));
		if (i == 2)
			assert_true(cpu_model_has_isa_set(&model, ZYDIS_ISA_SET_AVX512BW_128));
		if (i == 2)
			assert_false(cpu_model_has_isa_set(&model, ZYDIS_ISA_SET_AVX512_VBMI_512));
		free(v);
	}
}

static void test_model_errors(void **state)
{
	static const char *const bad[] = { "", "x86-64-v", "x86-64-v1", "x86-64-v5", "x86-64-v33", "hosts", "qemu64" };
	struct cpu_model m;
	struct error e;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(cpu_model_init(&m, bad[i], 1, 1000000000, &e), -1);
	assert_int_equal(cpu_model_init(&m, "host", 0, 1000000000, &e), -1);
	assert_int_equal(cpu_model_init(&m, "host", 16, 1234567891, &e), 0); /* no exact leaf 15H */
	for (unsigned i = 0; i < m.entries; i++)
		if (m.entry[i].leaf == 0xb && m.entry[i].has_subleaf && m.entry[i].subleaf == 1)
			assert_int_equal(m.entry[i].eax, 4);
}

static u64 rd(struct vcpu *v, u32 msr)
{
	u64 val = 0xdead;

	assert_int_equal(cpu_rdmsr(v, msr, &val), 0);
	return val;
}
static void wr(struct vcpu *v, u32 msr, u64 val)
{
	assert_int_equal(cpu_wrmsr(v, msr, val), 0);
}

static void test_msr_rules(void **state)
{
	static const struct {
		u32 msr;
		u64 good, bad;
	} rw[] = {
		{ MSR_PAT, 0x0007040600070406, 0x0007040600070402 },
		{ MSR_MTRR_DEF_TYPE, 0xc06, 0xc02 },
		{ MSR_MTRR_DEF_TYPE, 0x806, 0x1006 },
		{ MSR_MTRR_PHYSBASE0, 0x80000000, 0x80000100 },
		{ MSR_MTRR_PHYSBASE0 + 15, 0xff80000800, 0x400 },
		{ MSR_MTRR_PHYSBASE0 + 15, 0xff80000800, BIT(40) },
		{ MSR_MTRR_FIX64K, 0x0606060606060606, 0x0606060606060603 },
		{ MSR_MTRR_FIX4K_F8000, 0x0505050505050505, 7 },
		{ MSR_LSTAR, 0xffffffff81000000, BIT(47) },
		{ MSR_KERNEL_GS_BASE, 0xffff888000000000, BIT(63) },
		{ MSR_FS_BASE, 0x7fffffffffff, BIT(48) },
		{ MSR_SYSENTER_EIP, 0xffffffff81000000, BIT(50) },
		{ MSR_TSC_AUX, 0xffffffff, BIT(32) },
		{ MSR_SPEC_CTRL, 7, 8 },
		{ MSR_XSS, 0, BIT(8) },
		{ MSR_MCG_STATUS, 0, 8 },
		{ MSR_MCG_CTL, ~0ull, 1 },
		{ MSR_MC0_CTL, ~0ull, 0 },
		{ MSR_MC0_CTL + 1, 0, 1 },
		{ MSR_DEBUGCTL, 2, 4 },
		{ MSR_STAR, 0x0023001000000000, 0 },
	};
	static const u32 absent[] = { 0x34,  0xc1,  0xe7,  0x122, 0x186, 0x19c,	     0x345,	 0x38d,
				      0x480, 0x606, 0x770, 0x6a0, 0x410, 0xc0010015, 0x4b564d00, 0x20000000 };
	struct vcpu *v = new_vcpu("host");
	u64 val;

	for (unsigned i = 0; i < ARRAY_SIZE(rw); i++) {
		if (!model.xsaves && rw[i].msr == MSR_XSS)
			continue;
		wr(v, rw[i].msr, rw[i].good);
		assert_int_equal(rd(v, rw[i].msr), rw[i].good);
		if (!rw[i].bad)
			continue;
		assert_fault(v, cpu_wrmsr(v, rw[i].msr, rw[i].bad), EXC_GP);
		assert_int_equal(rd(v, rw[i].msr), rw[i].good);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(absent); i++) {
		assert_fault(v, cpu_rdmsr(v, absent[i], &val), EXC_GP);
		assert_fault(v, cpu_wrmsr(v, absent[i], 0), EXC_GP);
	}
	assert_int_equal(rd(v, MSR_MTRRCAP), 0x508);
	assert_fault(v, cpu_wrmsr(v, MSR_MTRRCAP, 0x508), EXC_GP);
	assert_fault(v, cpu_wrmsr(v, MSR_FEATURE_CONTROL, 1), EXC_GP);
	assert_fault(v, cpu_rdmsr(v, MSR_PRED_CMD, &val), EXC_GP);
	assert_fault(v, cpu_wrmsr(v, MSR_PRED_CMD, 2), EXC_GP);
	wr(v, MSR_PRED_CMD, 1);
	assert_fault(v, cpu_rdmsr(v, 0x8ff, &val), EXC_GP);
	assert_int_equal(rd(v, MSR_APIC_BASE), 0xfee00900);
	wr(v, MSR_MISC_ENABLE, rd(v, MSR_MISC_ENABLE) | 1);
	assert_true(rd(v, MSR_MISC_ENABLE) & MISC_BTS_UNAVAILABLE);
	assert_int_equal(v->fpu_live, false);
	free(v);
}

static void test_microcode(void **state)
{
	struct vcpu *v = new_vcpu("host");

	wr(v, MSR_BIOS_SIGN_ID, 0);
	assert_int_equal(rd(v, MSR_BIOS_SIGN_ID), 0);
	v->cpu.gpr[REG_RAX] = 1;
	assert_int_equal(sys_cpuid(v, INSN()), 0);
	assert_int_equal(rd(v, MSR_BIOS_SIGN_ID), 1ull << 32);
	assert_int_equal(v->cpu.rip, 3);
	free(v);
}

static void test_tsc(void **state)
{
	struct vcpu *v = new_vcpu("host");

	wr(v, MSR_TSC_DEADLINE, 5000);
	wr(v, MSR_TSC, 1000000);
	assert_int_equal(rd(v, MSR_TSC), 1000000);
	assert_int_equal(rd(v, MSR_TSC_ADJUST), 999000);
	assert_int_equal(deadline, 5000);
	wr(v, MSR_TSC_ADJUST, 0);
	assert_int_equal(rd(v, MSR_TSC), tsc_now);
	v->cpu.gpr[REG_RDX] = ~0ull;
	assert_int_equal(sys_rdtsc(v, INSN()), 0);
	assert_int_equal(v->cpu.gpr[REG_RAX], tsc_now);
	assert_int_equal(v->cpu.gpr[REG_RDX], 0);
	v->cpu.cr4 |= CR4_TSD;
	assert_int_equal(sys_rdtsc(v, INSN()), 0);
	set_cpl(v, 3);
	assert_fault(v, sys_rdtsc(v, INSN()), EXC_GP);
	assert_fault(v, sys_rdtscp(v, INSN()), EXC_GP);
	assert_fault(v, sys_rdmsr(v, INSN()), EXC_GP);
	assert_fault(v, sys_hlt(v, INSN()), EXC_GP);
	free(v);
}

static void test_efer(void **state)
{
	struct vcpu *v = new_vcpu("host");

	wr(v, MSR_EFER, EFER_LME | EFER_SCE | EFER_NXE); /* LMA is read-only */
	assert_int_equal(v->cpu.efer, EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE);
	assert_fault(v, cpu_wrmsr(v, MSR_EFER, EFER_SCE), EXC_GP); /* LME while PG */
	assert_fault(v, cpu_wrmsr(v, MSR_EFER, v->cpu.efer | BIT(12)), EXC_GP);
	free(v);
}

static void test_cr0(void **state)
{
	struct vcpu *v = new_vcpu("host");
	u64 cr0 = v->cpu.cr0;

	assert_fault(v, cpu_write_cr(v, 0, cr0 | BIT(32)), EXC_GP);
	assert_fault(v, cpu_write_cr(v, 0, cr0 & ~CR0_PE), EXC_GP);
	assert_fault(v, cpu_write_cr(v, 0, cr0 | CR0_NW), EXC_GP);
	assert_fault(v, cpu_write_cr(v, 0, cr0 & ~CR0_PG), EXC_GP); /* in 64-bit mode */
	assert_int_equal(v->cpu.cr0, cr0);
	assert_int_equal(cpu_write_cr(v, 0, (cr0 | BIT(10)) & ~CR0_ET), 0);
	assert_int_equal(v->cpu.cr0, cr0);

	v->cpu.seg[SEG_CS].attr &= ~SEG_L; /* compatibility mode: may leave */
	flush_all = 0;
	assert_int_equal(cpu_write_cr(v, 0, cr0 & ~CR0_PG), 0);
	assert_int_equal(flush_all, 1);
	assert_false(v->cpu.efer & EFER_LMA);
	v->cpu.cr4 &= ~CR4_PAE;
	assert_fault(v, cpu_write_cr(v, 0, cr0), EXC_GP); /* LME without PAE */
	v->cpu.cr4 |= CR4_PAE;
	v->cpu.seg[SEG_CS].attr |= SEG_L;
	assert_fault(v, cpu_write_cr(v, 0, cr0), EXC_GP);
	v->cpu.seg[SEG_CS].attr &= ~SEG_L;
	assert_int_equal(cpu_write_cr(v, 0, cr0), 0);
	assert_true(v->cpu.efer & EFER_LMA);

	v->cpu.gpr[REG_RBX] = 0; /* LMSW cannot clear PE */
	assert_int_equal(sys_lmsw(v, INSN(.rm = REG_RBX)), 0);
	assert_true(v->cpu.cr0 & CR0_PE);
	v->cpu.gpr[REG_RBX] = 0xffff;
	assert_int_equal(sys_lmsw(v, INSN(.rm = REG_RBX)), 0);
	assert_int_equal(v->cpu.cr0, cr0 | CR0_MP | CR0_EM | CR0_TS);
	assert_int_equal(sys_clts(v, INSN()), 0);
	assert_false(v->cpu.cr0 & CR0_TS);
	free(v);
}

static void test_pdptes(void **state)
{
	struct vcpu *v = new_vcpu("host");
	u64 pdpte = 0x5001;

	v->cpu.efer = 0;
	v->cpu.seg[SEG_CS].attr = SEG_P | SEG_S | SEG_TYPE_CODE | SEG_DB;
	memcpy(mem + 0x4000, &pdpte, 8);
	assert_int_equal(cpu_write_cr(v, 3, 0x4018), 0); /* bits 4:0 are not the address */
	pdpte |= BIT(1);
	memcpy(mem + 0x4020, &pdpte, 8);
	assert_fault(v, cpu_write_cr(v, 3, 0x4020), EXC_GP);
	assert_fault(v, cpu_write_cr(v, 3, 0xfffff000), EXC_GP); /* nowhere */
	assert_int_equal(v->cpu.cr3, 0x4018);
	memcpy(mem + 0x4000, &pdpte, 8);
	assert_fault(v, cpu_write_cr(v, 4, v->cpu.cr4 | CR4_PGE), EXC_GP);
	free(v);
}

static void test_cr3_cr4(void **state)
{
	struct vcpu *v = new_vcpu("host");

	assert_fault(v, cpu_write_cr(v, 3, 1ull << model.phys_bits), EXC_GP);
	assert_fault(v, cpu_write_cr(v, 3, BIT(63)), EXC_GP); /* without PCIDE */
	assert_int_equal(cpu_write_cr(v, 3, 0x1005), 0);
	assert_fault(v, cpu_write_cr(v, 4, v->cpu.cr4 | CR4_PCIDE), EXC_GP);
	assert_int_equal(cpu_write_cr(v, 3, 0x1000), 0);
	assert_int_equal(cpu_write_cr(v, 4, v->cpu.cr4 | CR4_PCIDE), 0);
	assert_int_equal(cpu_write_cr(v, 3, BIT(63) | 0x2001), 0);
	assert_int_equal(v->cpu.cr3, 0x2001);
	flush_nonglobal = 0;
	assert_int_equal(cpu_write_cr(v, 3, BIT(63) | 0x2001), 0);
	assert_int_equal(flush_nonglobal, 0);
	assert_int_equal(cpu_write_cr(v, 3, 0x2001), 0);
	assert_int_equal(flush_nonglobal, 1);
	assert_fault(v, cpu_write_cr(v, 4, v->cpu.cr4 & ~CR4_PAE), EXC_GP);
	assert_fault(v, cpu_write_cr(v, 4, v->cpu.cr4 | CR4_VMXE), EXC_GP);
	assert_fault(v, cpu_write_cr(v, 4, v->cpu.cr4 | BIT(40)), EXC_GP);
	assert_fault(v, cpu_write_cr(v, 8, 16), EXC_GP);
	v->cpu.gpr[REG_RBX] = 7;
	assert_int_equal(sys_mov_cr(v, INSN(.opcode = 0x22, .reg = 8, .rm = REG_RBX)), 0);
	assert_int_equal(cpu_read_cr(v, 8), 7);
	assert_fault(v, sys_mov_cr(v, INSN(.opcode = 0x22, .reg = 1)), EXC_UD);
	set_cpl(v, 3);
	assert_fault(v, sys_mov_cr(v, INSN(.opcode = 0x20, .reg = 0)), EXC_GP);
	v->cpu.cr4 |= CR4_UMIP;
	assert_fault(v, sys_smsw(v, INSN(.rm = 1)), EXC_GP);
	free(v);
}

static void test_dr(void **state)
{
	struct vcpu *v = new_vcpu("host");
	u64 *rbx = &v->cpu.gpr[REG_RBX];

	*rbx = 0;
	assert_int_equal(sys_mov_dr(v, INSN(.opcode = 0x23, .reg = 6, .rm = REG_RBX)), 0);
	assert_int_equal(v->cpu.dr[6], 0xffff0ff0);
	*rbx = 0xffffffff & ~BIT(13);
	assert_int_equal(sys_mov_dr(v, INSN(.opcode = 0x23, .reg = 5, .rm = REG_RBX)), 0); /* alias of DR7 */
	assert_int_equal(v->cpu.dr[7], 0xffff07ff);
	*rbx = BIT(32);
	assert_fault(v, sys_mov_dr(v, INSN(.opcode = 0x23, .reg = 7, .rm = REG_RBX)), EXC_GP);
	v->cpu.cr4 |= CR4_DE;
	assert_fault(v, sys_mov_dr(v, INSN(.opcode = 0x23, .reg = 4, .rm = REG_RBX)), EXC_UD);
	assert_fault(v, sys_mov_dr(v, INSN(.opcode = 0x23, .reg = 8, .rm = REG_RBX)), EXC_UD);
	v->cpu.dr[7] |= BIT(13);
	assert_fault(v, sys_mov_dr(v, INSN(.opcode = 0x21, .reg = 0, .rm = REG_RBX)), EXC_DB);
	assert_int_equal(v->fault.addr, BIT(13));
	free(v);
}

static void test_io(void **state)
{
	struct vcpu *v = new_vcpu("host");
	struct cpu *c = &v->cpu;

	c->gpr[REG_RAX] = ~0ull;
	assert_int_equal(sys_in(v, INSN(.opcode = 0xe4, .imm = 0x80)), 0);
	assert_int_equal(c->gpr[REG_RAX], 0xffffffffffffff44);
	c->gpr[REG_RDX] = 0x80;
	assert_int_equal(sys_in(v, INSN(.opcode = 0xed, .opsize = 8)), 0);
	assert_int_equal(c->gpr[REG_RAX], port_value);
	c->gpr[REG_RDX] = 0x666;
	assert_fault(v, sys_out(v, INSN(.opcode = 0xee)), EXC_GP);

	c->rip = 100;
	c->gpr[REG_RDX] = 0x80;
	c->gpr[REG_RCX] = 2;
	c->gpr[REG_RDI] = 0x100;
	assert_int_equal(sys_ins(v, INSN(.opcode = 0x6d, .prefixes = DI_REP)), 0);
	assert_int_equal(c->rip, 100);
	assert_int_equal(sys_ins(v, INSN(.opcode = 0x6d, .prefixes = DI_REP)), 0);
	assert_int_equal(c->rip, 103);
	assert_int_equal(c->gpr[REG_RDI], 0x108);
	assert_memory_equal(mem + 0x104, &port_value, 4);
	port_accesses = 0;
	assert_int_equal(sys_ins(v, INSN(.opcode = 0x6d, .prefixes = DI_REP)), 0); /* count is zero */
	assert_int_equal(port_accesses, 0);
	c->gpr[REG_RCX] = 1;
	c->gpr[REG_RDI] = MEM_READ_ONLY - 1;
	assert_fault(v, sys_ins(v, INSN(.opcode = 0x6d, .prefixes = DI_REP)), EXC_PF);
	assert_int_equal(port_accesses, 0); /* no effect before a fault */
	c->rflags |= FL_DF;
	c->gpr[REG_RSI] = 0x104;
	assert_int_equal(sys_outs(v, INSN(.opcode = 0x6f, .opsize = 2, .seg = SEG_DS)), 0);
	assert_int_equal(port_written, 0x3344);
	assert_int_equal(c->gpr[REG_RSI], 0x102);
	free(v);
}

static void test_small(void **state)
{
	struct vcpu *v = new_vcpu("host");
	struct cpu *c = &v->cpu;
	u64 desc[2] = { 0, 0x1000 };

	assert_int_equal(sys_hlt(v, INSN()), 0);
	assert_int_equal(c->activity, ACT_HALTED);
	c->kernel_gs_base = 0x1234;
	assert_int_equal(sys_swapgs(v, INSN()), 0);
	assert_int_equal(c->seg[SEG_GS].base, 0x1234);
	assert_int_equal(sys_stac(v, INSN()), 0);
	assert_true(c->rflags & FL_AC);
	assert_int_equal(sys_rdrand(v, INSN(.rm = 3, .opsize = 2)), 0);
	assert_int_equal(c->gpr[3] & 0xffff, 0x5a5a);
	assert_true((c->rflags & FL_STATUS) == FL_CF);
	assert_fault(v, sys_rdfsbase(v, INSN(.rm = 3)), EXC_UD);
	c->cr4 |= CR4_FSGSBASE;
	c->gpr[3] = BIT(47);
	assert_fault(v, sys_wrfsbase(v, INSN(.rm = 3, .opsize = 8)), EXC_GP);
	assert_int_equal(sys_wrfsbase(v, INSN(.rm = 3, .opsize = 4)), 0);
	assert_fault(v, sys_rdpmc(v, INSN()), EXC_GP);
	assert_fault(v, sys_mwait(v, INSN()), EXC_UD);
	assert_fault(v, sys_rdpkru(v, INSN()), EXC_UD);

	memcpy(mem, desc, 16);
	c->gpr[1] = 4;
	assert_fault(v, sys_invpcid(v, INSN(.is_mem = true, .reg = 1)), EXC_GP);
	c->gpr[1] = 0;
	flush_page = 0;
	assert_int_equal(sys_invpcid(v, INSN(.is_mem = true, .reg = 1)), 0);
	assert_int_equal(flush_page, 1);
	desc[0] = 1; /* a PCID without CR4.PCIDE */
	memcpy(mem, desc, 16);
	assert_fault(v, sys_invpcid(v, INSN(.is_mem = true, .reg = 1)), EXC_GP);
	assert_int_equal(sys_invlpg(v, INSN(.is_mem = true, .disp = (s64)BIT(47))), 0);
	assert_int_equal(flush_page, 1);
	assert_fault(v, sys_invlpg(v, INSN()), EXC_UD);
	free(v);
}

/* VMCALL: arguments by mode, rings, and a model without the interface. */
static u64 called[6];

static u64 fake_hypercall(void *m, unsigned cpu, u64 nr, const u64 args[4], bool wide)
{
	called[0] = nr;
	memcpy(called + 1, args, 32);
	called[5] = wide;
	return (u64)-KVM_ENOSYS;
}

static void test_vmcall(void **state)
{
	struct vcpu *v = new_vcpu("host");
	struct cpu *c = &v->cpu;
	struct vcpu_hooks hooks = *v->hooks;
	u32 r[4];

	hooks.hypercall = fake_hypercall;
	v->hooks = &hooks;
	assert_fault(v, sys_vmcall(v, INSN()), EXC_UD);
	cpu_model_offer_pv(&model, PV_ALL);
	cpu_cpuid(v, 0x40000001, 0, r);
	assert_int_equal(r[0], PV_ALL);
	c->gpr[REG_RAX] = 0x100000005;
	c->gpr[REG_RBX] = 0x200000006;
	c->gpr[REG_RCX] = 3;
	c->gpr[REG_RDX] = 4;
	c->gpr[REG_RSI] = 0x500000007;
	u64 rip = c->rip;

	assert_int_equal(sys_vmcall(v, INSN()), 0);
	assert_int_equal(c->rip, rip + 3);
	assert_memory_equal(called, ((u64[]){ 0x100000005, 0x200000006, 3, 4, 0x500000007, 1 }), sizeof(called));
	assert_int_equal(c->gpr[REG_RAX], (u64)-KVM_ENOSYS);
	c->seg[SEG_CS].attr &= ~SEG_L;
	c->gpr[REG_RAX] = 0x100000005;
	assert_int_equal(sys_vmcall(v, INSN()), 0);
	assert_memory_equal(called, ((u64[]){ 5, 6, 3, 4, 7, 0 }), sizeof(called));
	assert_int_equal(c->gpr[REG_RAX], (u32)-KVM_ENOSYS);
	c->seg[SEG_CS].attr |= SEG_L;
	set_cpl(v, 3);
	called[0] = 99;
	assert_int_equal(sys_vmcall(v, INSN()), 0);
	assert_int_equal(called[0], 99);
	assert_int_equal(c->gpr[REG_RAX], (u64)-KVM_EPERM);
	/* a kick is as good as an interrupt, once */
	set_cpl(v, 0);
	v->kicked = true;
	assert_int_equal(sys_hlt(v, INSN()), 0);
	assert_int_equal(c->activity, ACT_RUNNING);
	assert_int_equal(sys_hlt(v, INSN()), 0);
	assert_int_equal(c->activity, ACT_HALTED);
	free(v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_models),	  cmocka_unit_test(test_model_errors), cmocka_unit_test(test_msr_rules),
		cmocka_unit_test(test_microcode), cmocka_unit_test(test_tsc),	       cmocka_unit_test(test_efer),
		cmocka_unit_test(test_cr0),	  cmocka_unit_test(test_pdptes),       cmocka_unit_test(test_cr3_cr4),
		cmocka_unit_test(test_dr),	  cmocka_unit_test(test_io),	       cmocka_unit_test(test_small),
		cmocka_unit_test(test_vmcall),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * struct cpu into KVM and out of it: random legal states come back as they were. Skipped without /dev/kvm.
 */
#include "kvm_rig.h"

/* ---- random legal states ---- */

static u64 seed = 0x1234567;

static u64 rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static u64 canonical(void)
{
	return (u64)((s64)(rnd() << 16) >> 16);
}

static struct segment data_segment(u16 sel, unsigned dpl, bool flat)
{
	u32 limit = flat ? 0xffffffff : (u32)(rnd() & 0xffff);

	return (struct segment){ .sel = (u16)(sel | dpl),
				 .attr = 3 | SEG_S | dpl << SEG_DPL_SHIFT | SEG_P | SEG_DB | (flat ? SEG_G : 0),
				 .limit = limit,
				 .base = flat ? 0 : (u32)rnd() };
}

enum mode { REAL, PROTECTED, COMPATIBILITY, LONG, MODES };

static void random_segments(struct cpu *c, enum mode mode)
{
	unsigned cpl = mode == REAL ? 0 : rnd() & 1 ? 3 : 0;

	for (unsigned i = 0; i < SEG_COUNT; i++) {
		if (mode == REAL) {
			u16 sel = (u16)rnd();

			c->seg[i] =
			    (struct segment){ .sel = sel, .attr = 0x93, .limit = 0xffff, .base = (u64)sel << 4 };
		} else {
			c->seg[i] = data_segment(0x10, cpl, mode != PROTECTED || (rnd() & 1));
		}
	}
	if (mode == LONG) {
		c->seg[SEG_FS].base = canonical();
		c->seg[SEG_GS].base = canonical();
		if (rnd() & 1) /* a null selector */
			c->seg[SEG_DS] = (struct segment){ .attr = SEG_UNUSABLE };
	}
	if (mode != REAL)
		c->seg[SEG_CS].attr =
		    0xb | SEG_S | cpl << SEG_DPL_SHIFT | SEG_P | SEG_G | (mode == LONG ? SEG_L : SEG_DB);
	c->seg[SEG_CS].limit = mode == REAL ? 0xffff : 0xffffffff;
	c->ldtr = (struct segment){ .sel = 0x28, .attr = SEG_P | 2, .limit = 0x3f, .base = (u32)rnd() };
	c->tr = (struct segment){ .sel = 0x30, .attr = SEG_P | 11, .limit = 0x67, .base = (u32)rnd() };
	c->gdtr = (struct table_reg){ (u32)rnd(), (u16)rnd() };
	c->idtr = (struct table_reg){ (u32)rnd(), (u16)rnd() };
}

static void random_vectors(struct cpu *c)
{
	u64 components = fpu_host_components() & rig.model.xcr0_supported;
	u16 fcw = (u16)(0x37f & ~(rnd() & 0x33f)) | 0x40, fop = rnd() & 0x7ff;
	u32 mxcsr = (u32)rnd() & rig.model.mxcsr_mask & 0xffff;
	u64 fip = rnd() >> 17, fdp = rnd() >> 17;

	fpu_reset(c);
	memcpy(c->fpu + FX_FCW, &fcw, 2);
	c->fpu[FX_FTW] = (u8)rnd();
	memcpy(c->fpu + FX_FOP, &fop, 2);
	memcpy(c->fpu + FX_FIP, &fip, 8);
	memcpy(c->fpu + FX_FDP, &fdp, 8);
	memcpy(c->fpu + FX_MXCSR, &mxcsr, 4);
	for (unsigned i = 0; i < 8; i++)
		for (unsigned k = 0; k < 10; k++)
			c->fpu[FX_ST + 16 * i + k] = (u8)rnd();
	for (unsigned i = 1; i <= 7; i++)
		if ((i == 1 || (components & BIT(i))) && fpu_component_size(i))
			for (unsigned k = 0; k < fpu_component_size(i); k++)
				c->fpu[fpu_component_offset(i) + k] = (u8)rnd();
}

static void random_msrs(struct cpu *c)
{
	c->star = rnd();
	c->lstar = canonical();
	c->cstar = canonical();
	c->sfmask = (u32)rnd();
	c->kernel_gs_base = canonical();
	c->sysenter_cs = (u16)rnd();
	c->sysenter_esp = canonical();
	c->sysenter_eip = canonical();
	if (rig.model.rdtscp || rig.model.rdpid)
		c->tsc_aux = (u32)rnd();
	c->mtrr_def_type = rnd() & 0xc06;
	for (unsigned i = 0; i < MTRR_VAR_COUNT; i++)
		c->mtrr_base[i] = rnd() & 0xfffffff000;
	c->mc_ctl[1] = rnd();
}

static void random_state(struct vcpu *v)
{
	enum mode mode = (enum mode)(rnd() % MODES);
	struct cpu *c = &v->cpu;

	cpu_reset(v, false);
	for (unsigned i = 0; i < 16; i++)
		c->gpr[i] = rnd();
	c->rip = mode == LONG ? canonical() : mode == REAL ? (u16)rnd() : (u32)rnd();
	c->rflags = FL_FIXED1 | (rnd() & (FL_STATUS | FL_IF | FL_DF | FL_NT | FL_AC | FL_ID));
	c->cr0 = CR0_ET | CR0_NE | (rnd() & (CR0_MP | CR0_EM | CR0_TS | CR0_AM | CR0_WP));
	c->cr2 = canonical();
	if (mode != REAL)
		c->cr0 |= CR0_PE;
	c->cr4 = rnd() & (CR4_DE | CR4_PSE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_MCE);
	if (mode >= COMPATIBILITY) {
		c->cr0 |= CR0_PG;
		c->cr4 |= CR4_PAE;
		c->cr3 = rnd() & 0x3ff000;
		c->efer = EFER_LME | EFER_LMA | (rnd() & EFER_SCE) | (rnd() & EFER_NXE);
	}
	if (rig.model.xsave) {
		c->cr4 |= CR4_OSXSAVE;
		c->xcr0 = rig.model.xcr0_supported;
	}
	for (unsigned i = 0; i < 4; i++)
		c->dr[i] = (u32)rnd();
	c->dr[6] |= rnd() & 0xf;
	random_segments(c, mode);
	random_vectors(c);
	random_msrs(c);
	c->shadow = c->rflags & FL_IF && rnd() & 1 ? SHADOW_STI : rnd() & 1 ? SHADOW_MOV_SS : SHADOW_NONE;
	c->nmi_blocked = rnd() & 1;
	mmu_mode_changed(v);
}

static void test_round_trip(void **state)
{
	static struct cpu before;
	char what[32];

	attach(&engine_kvm);
	for (unsigned n = 0; n < 300; n++) {
		u64 own_msr;

		snprintf(what, sizeof(what), "state %u", n);
		random_state(rig.v);
		before = rig.v->cpu;
		if (kvm_import(rig.v))
			fail_msg("%s: KVM does not take it (rflags %llx cr0 %llx cr4 %llx efer %llx)", what,
				 (unsigned long long)before.rflags, (unsigned long long)before.cr0,
				 (unsigned long long)before.cr4, (unsigned long long)before.efer);
		/* What comes out must come from KVM, but for what KVM never sees. */
		own_msr = rig.v->cpu.mtrr_def_type;
		memset(rig.v->cpu.gpr, 0x77, offsetof(struct cpu, pkru) - offsetof(struct cpu, gpr));
		rig.v->cpu.zero = 0;
		rig.v->cpu.dr[4] = rig.v->cpu.dr[5] = 0;
		rig.v->cpu.xcr0 = before.xcr0;
		memset(rig.v->cpu.fpu, 0, sizeof(rig.v->cpu.fpu));
		rig.v->cpu.star = rig.v->cpu.lstar = rig.v->cpu.kernel_gs_base = rig.v->cpu.sysenter_eip = 0;
		rig.v->cpu.shadow = 0;
		rig.v->cpu.nmi_blocked = false;
		kvm_export(rig.v);
		assert_same_cpu(&before, &rig.v->cpu, what);
		assert_int_equal(rig.v->cpu.mtrr_def_type, own_msr);
	}
}

/* Out and in again, with nothing between, asks KVM for nothing. */
static void test_unchanged_import(void **state)
{
	struct kvm_vcpu *x;

	attach(&engine_kvm);
	x = kvm_of(rig.v);
	random_state(rig.v);
	assert_int_equal(kvm_import(rig.v), 0);
	kvm_export(rig.v);
	close(x->vm->vcpu_fd[0]); /* whatever is set now fails */
	x->fd = -1;
	assert_int_equal(kvm_import(rig.v), 0);
	x->vm->vcpu_fd[0] = -1;
	x->in_kvm = false;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_round_trip, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_unchanged_import, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

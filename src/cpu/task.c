/*
 * The hardware task switch (SDM vol. 3, chapter 8). Legacy modes only.
 *
 * Both TSSs are probed and the new one is read before anything is written;
 * then the old state is saved, the busy bits and the link are set, and the
 * new state is committed. From there faults belong to the new task: all its
 * segment registers hold their selectors, those not yet checked are unusable.
 */
#include "cpu/flow.h"
#include "cpu/sys.h"

#define TSS32_MIN_LIMIT 0x67u
#define TSS16_MIN_LIMIT 0x2bu
#define TSS32_SAVED 32u /* EIP .. GS: 64 bytes */
#define TSS32_SAVED_LEN 64u
#define TSS16_SAVED 14u /* IP .. DS: 28 bytes */
#define TSS16_SAVED_LEN 28u
#define TSS_TRAP_OFFSET 100u

/* What a TSS gives, whatever its width. */
struct task_image {
	u32 cr3, eip, eflags;
	u32 gpr[8];
	u16 sel[SEG_COUNT];
	u16 ldt;
	bool trap, wide;
};

static bool tss_wide(u32 attr)
{
	return attr & 8;
}

static int read_image(struct vcpu *v, const struct descriptor *d, struct task_image *t)
{
	gva_t base = (u32)d->base;
	u32 w[26];
	u16 h[22];
	unsigned i;

	t->wide = tss_wide(d->attr);
	if (t->wide) {
		if (lin_read(v, base, w, 64, LIN_SUPERVISOR) || lin_read(v, base + 64, w + 16, 40, LIN_SUPERVISOR))
			return FAULT;
		t->cr3 = w[7];
		t->eip = w[8];
		t->eflags = w[9];
		for (i = 0; i < 8; i++)
			t->gpr[i] = w[10 + i];
		for (i = 0; i < SEG_COUNT; i++)
			t->sel[i] = (u16)w[18 + i];
		t->ldt = (u16)w[24];
		t->trap = w[TSS_TRAP_OFFSET / 4] & 1;
		return 0;
	}
	if (lin_read(v, base, h, 44, LIN_SUPERVISOR))
		return FAULT;
	t->cr3 = 0;
	t->eip = h[7];
	t->eflags = h[8];
	for (i = 0; i < 8; i++)
		t->gpr[i] = h[9 + i];
	for (i = 0; i < SEG_COUNT; i++)
		t->sel[i] = i < SEG_FS ? h[17 + i] : 0;
	t->ldt = h[21];
	t->trap = false;
	return 0;
}

static int probe(struct vcpu *v, u16 sel, const struct descriptor *d, enum task_reason why, u32 ext)
{
	const struct segment *tr = &v->cpu.tr;
	bool wide = tss_wide(tr->attr);
	u32 off = wide ? TSS32_SAVED : TSS16_SAVED, len = wide ? TSS32_SAVED_LEN : TSS16_SAVED_LEN;

	if (d->limit < (tss_wide(d->attr) ? TSS32_MIN_LIMIT : TSS16_MIN_LIMIT))
		return fault_ts(v, sel_err(sel, ext));
	if ((tr->attr & SEG_UNUSABLE) || off + len - 1 > tr->limit)
		return fault_ts(v, sel_err(tr->sel, ext));
	if (lin_probe_write(v, (u32)(tr->base + off), len, LIN_SUPERVISOR))
		return FAULT;
	if ((why == TASK_JMP || why == TASK_IRET) && !sel_null(tr->sel) &&
	    lin_probe_write(v, (u32)(v->cpu.gdtr.base + (tr->sel & 0xfff8u) + 5), 1, LIN_SUPERVISOR))
		return FAULT;
	if ((why == TASK_CALL || why == TASK_GATE) && lin_probe_write(v, (u32)d->base, 2, LIN_SUPERVISOR))
		return FAULT;
	return lin_probe_write(v, d->addr + 5, 1, LIN_SUPERVISOR);
}

static int save_old(struct vcpu *v, enum task_reason why, u64 rip, bool rf)
{
	const struct cpu *c = &v->cpu;
	u32 eflags = (u32)(why == TASK_IRET ? c->rflags & ~FL_NT : c->rflags) | (rf ? (u32)FL_RF : 0);
	u32 w[16];
	u16 h[14];
	unsigned i;

	if (tss_wide(c->tr.attr)) {
		w[0] = (u32)rip;
		w[1] = eflags;
		for (i = 0; i < 8; i++)
			w[2 + i] = (u32)c->gpr[i];
		for (i = 0; i < SEG_COUNT; i++)
			w[10 + i] = c->seg[i].sel;
		return lin_write(v, (u32)(c->tr.base + TSS32_SAVED), w, TSS32_SAVED_LEN, LIN_SUPERVISOR);
	}
	h[0] = (u16)rip;
	h[1] = (u16)eflags;
	for (i = 0; i < 8; i++)
		h[2 + i] = (u16)c->gpr[i];
	for (i = 0; i < SEG_FS; i++)
		h[10 + i] = c->seg[i].sel;
	return lin_write(v, (u32)(c->tr.base + TSS16_SAVED), h, TSS16_SAVED_LEN, LIN_SUPERVISOR);
}

static int set_links(struct vcpu *v, const struct descriptor *d, enum task_reason why)
{
	const struct cpu *c = &v->cpu;

	if ((why == TASK_JMP || why == TASK_IRET) && !sel_null(c->tr.sel) &&
	    lin_and8(v, (u32)(c->gdtr.base + (c->tr.sel & 0xfff8u) + 5), (u8)~TSS_BUSY, LIN_SUPERVISOR))
		return FAULT;
	if (why != TASK_IRET && lin_or8(v, d->addr + 5, TSS_BUSY, LIN_SUPERVISOR))
		return FAULT;
	if ((why == TASK_CALL || why == TASK_GATE) && lin_write(v, (u32)d->base, &c->tr.sel, 2, LIN_SUPERVISOR))
		return FAULT;
	return 0;
}

/* The commit point: everything but the checks on selectors. */
static void load_registers(struct vcpu *v, const struct task_image *t, u16 sel, const struct descriptor *d,
			   enum task_reason why)
{
	struct cpu *c = &v->cpu;
	u64 old = c->rflags;
	unsigned i, cpl = t->eflags & FL_VM ? 3 : t->sel[SEG_CS] & 3;

	desc_to_segment(d, sel, &c->tr);
	c->tr.attr |= TSS_BUSY;
	c->cr0 |= CR0_TS;
	c->dr[7] &= ~DR7_LOCAL;
	if (t->wide && (c->cr0 & CR0_PG)) {
		c->cr3 = t->cr3;
		mmu_cr3_loaded(v, false);
	}
	c->rip = t->eip;
	c->rflags = (t->eflags & FL_VALID) | FL_FIXED1;
	if (why == TASK_CALL || why == TASK_GATE)
		c->rflags |= FL_NT;
	for (i = 0; i < 8; i++)
		c->gpr[i] = t->gpr[i];
	for (i = 0; i < SEG_COUNT; i++)
		seg_set_null(&c->seg[i], t->sel[i], cpl);
	seg_set_null(&c->ldtr, t->ldt, 0);
	c->shadow = SHADOW_NONE;
	if (t->trap)
		c->pending_db |= DR6_BT;
	if (c->pending_db)
		vcpu_raise(v, EV_TRAP);
	if (old & FL_TF)
		flow_suppress_step(v);
	mmu_mode_changed(v);
	flow_flags_loaded(v, c->rflags);
}

static int load_ldt(struct vcpu *v, u16 sel, u32 ext)
{
	struct descriptor d;

	if (sel_null(sel))
		return 0;
	if (sel & 4)
		return fault_ts(v, sel_err(sel, ext));
	if (desc_fetch(v, sel, false, EXC_TS, ext, &d))
		return FAULT;
	if ((d.attr & (SEG_S | SEG_TYPE)) != ST_LDT || !(d.attr & SEG_P))
		return fault_ts(v, sel_err(sel, ext));
	desc_to_segment(&d, sel, &v->cpu.ldtr);
	return 0;
}

static int load_cs(struct vcpu *v, u16 sel, u32 ext)
{
	unsigned rpl = sel & 3, dpl;
	struct descriptor d;

	if (sel_null(sel))
		return fault_ts(v, ext);
	if (desc_fetch(v, sel, false, EXC_TS, ext, &d))
		return FAULT;
	dpl = attr_dpl(d.attr);
	if (!attr_is_code(d.attr) || (attr_conforming(d.attr) ? dpl > rpl : dpl != rpl))
		return fault_ts(v, sel_err(sel, ext));
	if (!(d.attr & SEG_P))
		return fault_np(v, sel_err(sel, ext));
	if (desc_set_accessed(v, &d))
		return FAULT;
	desc_to_segment(&d, sel, &v->cpu.seg[SEG_CS]);
	return 0;
}

static int load_stack(struct vcpu *v, u16 sel, unsigned cpl, u32 ext)
{
	struct descriptor d;

	if (sel_null(sel))
		return fault_ts(v, ext);
	if (desc_fetch(v, sel, false, EXC_TS, ext, &d))
		return FAULT;
	if (!attr_writable_data(d.attr) || attr_dpl(d.attr) != cpl || (sel & 3u) != cpl)
		return fault_ts(v, sel_err(sel, ext));
	if (!(d.attr & SEG_P))
		return fault_ss(v, sel_err(sel, ext));
	if (desc_set_accessed(v, &d))
		return FAULT;
	desc_to_segment(&d, sel, &v->cpu.seg[SEG_SS]);
	return 0;
}

static int load_data(struct vcpu *v, enum seg_reg seg, u16 sel, unsigned cpl, u32 ext)
{
	struct descriptor d;
	unsigned dpl;

	if (sel_null(sel))
		return 0;
	if (desc_fetch(v, sel, false, EXC_TS, ext, &d))
		return FAULT;
	dpl = attr_dpl(d.attr);
	if (!attr_readable(d.attr))
		return fault_ts(v, sel_err(sel, ext));
	if (!(attr_is_code(d.attr) && attr_conforming(d.attr)) && (dpl < cpl || dpl < (sel & 3u)))
		return fault_ts(v, sel_err(sel, ext));
	if (!(d.attr & SEG_P))
		return fault_np(v, sel_err(sel, ext));
	if (desc_set_accessed(v, &d))
		return FAULT;
	desc_to_segment(&d, sel, &v->cpu.seg[seg]);
	return 0;
}

static int load_segments(struct vcpu *v, const struct task_image *t, u32 ext)
{
	static const u8 data[] = { SEG_DS, SEG_ES, SEG_FS, SEG_GS };
	struct cpu *c = &v->cpu;
	unsigned i, cpl = t->sel[SEG_CS] & 3;

	if (load_ldt(v, t->ldt, ext))
		return FAULT;
	if (t->eflags & FL_VM) {
		for (i = 0; i < SEG_COUNT; i++)
			seg_set_v86(&c->seg[i], t->sel[i]);
		return 0;
	}
	if (load_cs(v, t->sel[SEG_CS], ext) || load_stack(v, t->sel[SEG_SS], cpl, ext))
		return FAULT;
	for (i = 0; i < ARRAY_SIZE(data); i++) {
		if (load_data(v, data[i], t->sel[data[i]], cpl, ext))
			return FAULT;
	}
	return 0;
}

int task_switch(struct vcpu *v, u16 sel, const struct descriptor *d, enum task_reason why, u64 rip, bool rf, u32 ext)
{
	struct task_image t;

	if (probe(v, sel, d, why, ext) || read_image(v, d, &t) || save_old(v, why, rip, rf) || set_links(v, d, why))
		return FAULT;
	load_registers(v, &t, sel, d, why);
	if (load_segments(v, &t, ext))
		return FAULT;
	return flow_check_rip(v, &v->cpu.seg[SEG_CS], v->cpu.rip, ext);
}

int task_gate(struct vcpu *v, u16 sel, enum task_reason why, u64 rip, bool rf, u32 ext)
{
	struct descriptor d;

	if ((sel & 4) || sel_null(sel))
		return fault_gp(v, sel_err(sel, ext));
	if (desc_fetch(v, sel, false, EXC_GP, ext, &d))
		return FAULT;
	if ((d.attr & (SEG_S | (SEG_TYPE & ~8u))) != ST_TSS16)
		return fault_gp(v, sel_err(sel, ext));
	if (!(d.attr & SEG_P))
		return fault_np(v, sel_err(sel, ext));
	return task_switch(v, sel, &d, why, rip, rf, ext);
}

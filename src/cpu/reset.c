/* Power-up and INIT (SDM vol. 3, 9.1.1 and table 9-1). */
#include "cpu/cpuid.h"
#include "cpu/flow.h"

#define CR0_RESET (CR0_CD | CR0_NW | CR0_ET)
#define DR6_RESET 0xffff0ff0ull
#define DR7_RESET 0x400ull
#define PAT_RESET 0x0007040600070406ull
/* Fast strings on; no branch trace store, no PEBS. */
#define MISC_ENABLE_RESET (BIT(0) | BIT(11) | BIT(12))
#define MISC_ENABLE_MONITOR BIT(18)

static void reset_segment(struct segment *s, u16 sel, u64 base, u32 attr)
{
	s->sel = sel;
	s->base = base;
	s->limit = 0xffff;
	s->attr = attr;
}

/* What power-up resets and INIT keeps. */
static void reset_power_up(struct vcpu *v)
{
	struct cpu *c = &v->cpu;
	size_t i;

	fpu_park(v);
	for (i = 0; i < offsetof(struct cpu, fpu) / sizeof(u64); i++)
		((u64 *)(void *)c)[i] = 0;
	fpu_reset(c);
	c->xcr0 = XCR0_X87;
	c->pat = PAT_RESET;
	c->misc_enable = MISC_ENABLE_RESET | (v->model && v->model->monitor ? MISC_ENABLE_MONITOR : 0);
	c->cr0 = CR0_RESET;
}

void cpu_reset(struct vcpu *v, bool init)
{
	struct cpu *c = &v->cpu;
	u32 id[4] = { 0, 0, 0, 0 };
	unsigned i;

	if (!init)
		reset_power_up(v);
	c->cr0 = (c->cr0 & (CR0_CD | CR0_NW)) | CR0_ET;
	c->cr2 = c->cr3 = c->cr4 = 0;
	c->efer = 0;
	c->debugctl = 0;
	c->rflags = FL_FIXED1;
	c->rip = 0xfff0;
	for (i = 0; i < 16; i++)
		c->gpr[i] = 0;
	for (i = 0; i < SEG_COUNT; i++)
		reset_segment(&c->seg[i], 0, 0, SEG_ATTR_DATA);
	reset_segment(&c->seg[SEG_CS], 0xf000, 0xffff0000, SEG_ATTR_CODE);
	reset_segment(&c->ldtr, 0, 0, SEG_P | ST_LDT);
	reset_segment(&c->tr, 0, 0, SEG_P | ST_TSS32_BUSY);
	c->gdtr = c->idtr = (struct table_reg){ .base = 0, .limit = 0xffff };
	for (i = 0; i < 8; i++)
		c->dr[i] = 0;
	c->dr[6] = DR6_RESET;
	c->dr[7] = DR7_RESET;
	c->shadow = SHADOW_NONE;
	c->nmi_blocked = c->nmi_pending = false;
	c->pending_db = 0;
	v->kicked = false;
	c->activity = v->index ? ACT_WAIT_FOR_SIPI : ACT_RUNNING;
	cpu_cpuid(v, 1, 0, id);
	c->gpr[REG_RDX] = id[0];

	v->window_seen = v->step_suppressed = false;
	v->intr_held = true;
	vcpu_clear(v, EV_TRAP | EV_NMI);
	mmu_flush_all(v);
	mmu_mode_changed(v);
}

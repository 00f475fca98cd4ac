/*
 * The rig catches exceptions by letting the guest's IDT lead to a HLT in ring
 * 0 with one stub a vector: what was delivered is read off the stack and CR2.
 */
#include "engine/dbt/dbt.h"
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* RAM offsets of the rig's own tables, above what tests map. */
#define AT_PML4 (32 * MiB)
#define AT_TABLES (AT_PML4 + PAGE_SIZE)
#define AT_IDT (40 * MiB)
#define AT_GDT (AT_IDT + PAGE_SIZE)
#define AT_TSS (AT_GDT + PAGE_SIZE)
#define AT_STUBS (AT_TSS + TASK_SIZE * WORLD_MAX)
#define AT_STACK (AT_STUBS + PAGE_SIZE)
#define TASK_SIZE 128u
#define SUPER 0xffff800000000000ull /* where they are mapped, supervisor only */

static u64 fake_tsc(void *m)
{
	return 0;
}
static bool fake_pending(void *m, unsigned cpu)
{
	return false;
}
static int fake_ack(void *m, unsigned cpu)
{
	return -1;
}
static u64 fake_cr8(void *m, unsigned cpu)
{
	return 0;
}
static void fake_set_cr8(void *m, unsigned cpu, u64 v) {}
static int fake_msr(void *m, unsigned cpu, u32 msr, u64 *v)
{
	return -1;
}
static int fake_set_msr(void *m, unsigned cpu, u32 msr, u64 v)
{
	return -1;
}
static void fake_random(void *m, void *p, size_t n)
{
	memset(p, 0x5a, n);
}
static void fake_triple(void *m, unsigned cpu) {}

static const struct vcpu_hooks hooks = {
	.tsc = fake_tsc,
	.intr_pending = fake_pending,
	.intr_ack = fake_ack,
	.cr8_read = fake_cr8,
	.cr8_write = fake_set_cr8,
	.apic_msr_read = fake_msr,
	.apic_msr_write = fake_set_msr,
	.random = fake_random,
	.triple_fault = fake_triple,
};

static void die(const char *what)
{
	fprintf(stderr, "rig: %s\n", what);
	exit(1);
}

u8 *rig_ram(struct rig *r, u64 off)
{
	return memory_ram(r->mem) + off;
}

static u64 *entry(struct rig *r, gva_t lin, bool make)
{
	u64 *next_free = (u64 *)rig_ram(r, AT_TABLES), table = AT_PML4;

	for (int level = 3; level > 0; level--) {
		u64 *e = (u64 *)rig_ram(r, table) + (lin >> (12 + 9 * level) & 511);

		if (!*e) {
			if (!make)
				return NULL;
			if (!next_free[0])
				next_free[0] = AT_TABLES + PAGE_SIZE;
			if (next_free[0] >= AT_IDT)
				die("out of page tables");
			*e = next_free[0] | 7;
			next_free[0] += PAGE_SIZE;
		}
		table = *e & ~0xfffull;
	}
	return (u64 *)rig_ram(r, table) + (lin >> 12 & 511);
}

static void map(struct rig *r, gva_t lin, u64 off, u64 bits)
{
	*entry(r, lin, true) = off | bits;
	for (unsigned n = 0; n < r->group.count; n++)
		mmu_flush_all(r->cpu[n]);
}

void rig_map(struct rig *r, gva_t lin, u64 off, bool writable)
{
	map(r, lin, off, 5 | (writable ? 2 : 0));
}

void rig_unmap(struct rig *r, gva_t lin)
{
	u64 *e = entry(r, lin, false);

	if (e)
		*e = 0;
	for (unsigned n = 0; n < r->group.count; n++)
		mmu_flush_all(r->cpu[n]);
}

static void set_segment(struct segment *s, u16 sel, u32 attr)
{
	*s = (struct segment){ .sel = sel, .attr = attr, .limit = 0xffffffff };
}

static void make_tables(struct rig *r)
{
	u64 *gdt = (u64 *)rig_ram(r, AT_GDT);
	u8 *stubs = rig_ram(r, AT_STUBS);

	gdt[1] = 0x00af9b000000ffffull; /* 08 kernel code */
	gdt[2] = 0x00cf93000000ffffull; /* 10 kernel data */
	gdt[3] = 0x00cff3000000ffffull; /* 1b user data */
	gdt[4] = 0x00affb000000ffffull; /* 23 user code */
	gdt[5] = 0x00cffb000000ffffull; /* 2b user code, 32 bits */
	for (unsigned n = 0; n < 32; n++) {
		u64 at = SUPER + AT_STUBS + 16 * n;
		u64 *gate = (u64 *)rig_ram(r, AT_IDT + 16 * n);

		gate[0] = (at & 0xffff) | 8 << 16 | 0x8e00ull << 32 | (at >> 16 & 0xffff) << 48;
		gate[1] = at >> 32;
		stubs[16 * n] = 0xf4; /* HLT */
	}
	for (u64 p = AT_IDT; p < AT_STACK + TASK_SIZE * WORLD_MAX; p += PAGE_SIZE)
		map(r, SUPER + p, p, 3);
}

/* Each processor has a TSS and a stack of TASK_SIZE bytes. */
static void make_task(struct rig *r, struct vcpu *v)
{
	u64 rsp0 = SUPER + AT_STACK + TASK_SIZE * (v->index + 1);
	u8 *tss = rig_ram(r, AT_TSS + TASK_SIZE * v->index);

	memcpy(tss + 4, &rsp0, 8);
	tss[102] = 0x68; /* no I/O permission bitmap */
	v->cpu.tr =
	    (struct segment){ .sel = 0x30, .attr = 0x8b, .limit = 0x67, .base = SUPER + AT_TSS + TASK_SIZE * v->index };
}

static void make_cpu(struct rig *r, struct vcpu *v)
{
	struct cpu *c = &v->cpu;

	c->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	c->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_FSGSBASE;
	if (r->model.xsave)
		c->cr4 |= CR4_OSXSAVE;
	c->xcr0 = r->model.xcr0_supported & ~XCR0_PKRU;
	c->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
	c->cr3 = AT_PML4;
	c->rflags = FL_FIXED1;
	set_segment(&c->seg[SEG_CS], 0x23, 0xa0fb);
	for (unsigned s = 0; s < SEG_COUNT; s++)
		if (s != SEG_CS)
			set_segment(&c->seg[s], 0x1b, 0xc0f3);
	c->gdtr = (struct table_reg){ SUPER + AT_GDT, 47 };
	c->idtr = (struct table_reg){ SUPER + AT_IDT, 511 };
	make_task(r, v);
	c->ldtr.attr = SEG_UNUSABLE;
	c->activity = ACT_RUNNING;
	fpu_reset(c);
	mmu_mode_changed(v);
	mmu_flush_all(v);
}

void rig_reset(struct rig *r)
{
	fpu_park(r->v);
	memset(&r->v->cpu, 0, sizeof(r->v->cpu));
	r->compatibility = false;
	make_cpu(r, r->v);
}

void rig_create(struct rig *r, const struct engine_ops *engine)
{
	rig_create_with(r, engine, NULL);
}

void rig_create_with(struct rig *r, const struct engine_ops *engine, const struct engine_options *options)
{
	rig_create_group(r, engine, options, 1, false);
	if (engine == &engine_dbt)
		dbt_translate_single(r->v, true);
}

static void stop(void *rig, unsigned who)
{
	vcpu_raise(((struct rig *)rig)->cpu[who], EV_WORLD);
}

static void make_processor(struct rig *r, unsigned n, const struct engine_options *options)
{
	struct vcpu *v = aligned_alloc(64, (sizeof(*v) + 63) & ~63ull);

	if (!v)
		die("no memory");
	memset(v, 0, sizeof(*v));
	r->cpu[n] = v;
	v->index = n;
	v->model = &r->model;
	v->hooks = &hooks;
	v->engine_options = options;
	v->mem = r->mem;
	v->mmu = mmu_create();
	v->group = &r->group;
	make_cpu(r, v);
}

void rig_create_group(struct rig *r, const struct engine_ops *engine, const struct engine_options *options, unsigned n,
		      bool parallel)
{
	struct error e = { "" };
	struct engine_verdict why = { 0 };

	engine->probe(&why);
	if (!why.usable) {
		printf("skipped: engine %s: %s\n", engine->name, why.reason);
		exit(77); /* as meson has it */
	}
	memset(r, 0, sizeof(*r));
	r->mem = memory_create(RIG_RAM, &e);
	if (!r->mem || cpu_model_init(&r->model, "host", 1, 1000000000, &e))
		die(e.text);
	if (!memory_map_ram(r->mem, 0, 0, RIG_RAM, 0, "ram"))
		die("no memory");
	world_init(&r->world, n, stop, r);
	r->group = (struct vcpu_group){
		.count = n, .vcpu = r->cpu, .parallel = parallel, .world = parallel ? &r->world : NULL
	};
	for (unsigned k = 0; k < n; k++)
		make_processor(r, k, options);
	r->v = r->cpu[0];
	make_tables(r);
	for (unsigned k = 0; k < n; k++) {
		if (engine->vcpu_attach(r->cpu[k], &e))
			die(e.text);
		r->cpu[k]->engine = engine;
	}
}

static void set_code(struct rig *r, struct vcpu *v)
{
	set_segment(&v->cpu.seg[SEG_CS], r->compatibility ? 0x2b : 0x23, r->compatibility ? 0xc0fb : 0xa0fb);
}

void rig_compatibility_mode(struct rig *r)
{
	r->compatibility = true;
	set_code(r, r->v);
	mmu_mode_changed(r->v);
}

void rig_destroy(struct rig *r)
{
	for (unsigned n = 0; n < r->group.count; n++)
		r->cpu[n]->engine->vcpu_detach(r->cpu[n]);
	for (unsigned n = 0; n < r->group.count; n++) {
		mmu_destroy(r->cpu[n]->mmu);
		free(r->cpu[n]);
	}
	memory_destroy(r->mem);
	world_destroy(&r->world);
}

/* Undo the delivery: what the frame says is the state at the fault. */
static int undo_exception(struct rig *r, struct vcpu *v)
{
	struct cpu *c = &v->cpu;
	u64 at = c->rip - 1 - (SUPER + AT_STUBS), frame[6], *sp;
	bool has_error;
	int vector = (int)(at / 16);

	if (at / 16 >= 32)
		die("halted somewhere else");
	sp = (u64 *)rig_ram(r, c->gpr[REG_RSP] - SUPER);
	has_error = vector == EXC_DF || (vector >= EXC_TS && vector <= EXC_PF) || vector == EXC_AC;
	memset(frame, 0, sizeof(frame));
	memcpy(frame, sp, has_error ? 48 : 40);
	if (!has_error)
		memmove(frame + 1, frame, 40);
	v->fault = (struct fault){ (u8)vector, has_error, has_error ? (u32)frame[0] : 0, c->cr2 };
	c->rip = frame[1];
	c->rflags = frame[3] & ~FL_RF;
	c->gpr[REG_RSP] = frame[4];
	set_code(r, v);
	set_segment(&c->seg[SEG_SS], 0x1b, 0xc0f3);
	c->activity = ACT_RUNNING;
	mmu_mode_changed(v);
	return vector;
}

static enum vcpu_exit enter(struct rig *r, struct vcpu *v, u64 insns)
{
	const struct run_budget b = { insns };
	enum vcpu_exit why;

	if (r->group.world)
		world_enter(r->group.world, v->index);
	why = v->engine->run(v, &b);
	if (r->group.world)
		world_leave(r->group.world, v->index);
	return why;
}

static int run(struct rig *r, struct vcpu *v, u64 insns)
{
	enum vcpu_exit why;

	vcpu_clear(v, ~(u32)EV_TRAP); /* what waits at this boundary stays */
	why = enter(r, v, insns);
	if (why == VCPU_EXIT_BUDGET) {
		if (cpu_cpl(&v->cpu) == 3)
			return -1;
		why = enter(r, v, 1); /* delivered with the last instruction of the budget: on to the HLT */
	}
	if (why != VCPU_EXIT_HALT || v->cpu.activity != ACT_HALTED)
		die("unexpected exit");
	return undo_exception(r, v);
}

int rig_run(struct rig *r, u64 insns)
{
	return run(r, r->v, insns);
}

int rig_run_cpu(struct rig *r, unsigned n, u64 insns)
{
	return run(r, r->cpu[n], insns);
}

/*
 * Internal to src/cpu: what the files on segmentation, control transfer,
 * event delivery and tasks share.
 *
 * `ext` is the EXT bit of error codes (SDM vol. 3, 6.13): 1 while an event
 * that no software interrupt caused is being delivered, else 0.
 */
#ifndef ECTYPE_CPU_FLOW_H
#define ECTYPE_CPU_FLOW_H

#include "cpu/event.h"
#include "cpu/linear.h"
#include "cpu/seg.h"

/* Types of system descriptors (SDM vol. 3, table 3-2). */
enum sys_type {
	ST_TSS16 = 1,
	ST_LDT = 2,
	ST_TSS16_BUSY = 3,
	ST_CALL16 = 4,
	ST_TASK_GATE = 5,
	ST_INT16 = 6,
	ST_TRAP16 = 7,
	ST_TSS32 = 9, /* also the 64-bit TSS */
	ST_TSS32_BUSY = 11,
	ST_CALL32 = 12, /* also the 64-bit call gate */
	ST_INT32 = 14,
	ST_TRAP32 = 15,
};
#define TSS_BUSY 2u /* the type bit that tells busy from available */

#define SEG_ATTR_DATA (SEG_P | SEG_S | SEG_TYPE_RW | SEG_TYPE_ACCESSED)
#define SEG_ATTR_CODE (SEG_ATTR_DATA | SEG_TYPE_CODE)
#define ATTR_DPL(n) ((u32)(n) << SEG_DPL_SHIFT)

/* Bits of RFLAGS that exist. */
#define FL_VALID 0x3f7fd5ull

/* Bits of DR6 and DR7 (SDM vol. 3, 18.2) */
#define DR6_B0123 0xfull
#define DR6_BD BIT(13)
#define DR6_BS BIT(14)
#define DR6_BT BIT(15)
#define DR7_GD BIT(13)
#define DR7_LOCAL 0x155ull /* L0..L3, LE: cleared by a task switch */
#define DR7_ENABLED 0xffull

static inline bool sel_null(u16 sel)
{
	return !(sel & 0xfffc);
}
static inline u32 sel_err(u16 sel, u32 ext)
{
	return (sel & 0xfffcu) | ext;
}
static inline unsigned attr_dpl(u32 attr)
{
	return (attr & SEG_DPL) >> SEG_DPL_SHIFT;
}
static inline bool attr_is_code(u32 attr)
{
	return (attr & (SEG_S | SEG_TYPE_CODE)) == (SEG_S | SEG_TYPE_CODE);
}
static inline bool attr_conforming(u32 attr)
{
	return attr & SEG_TYPE_EC;
}
static inline bool attr_writable_data(u32 attr)
{
	return (attr & (SEG_S | SEG_TYPE_CODE | SEG_TYPE_RW)) == (SEG_S | SEG_TYPE_RW);
}
static inline bool attr_readable(u32 attr)
{
	return (attr & SEG_S) && (!(attr & SEG_TYPE_CODE) || (attr & SEG_TYPE_RW));
}
/* A CS that selects 64-bit mode (in long mode only). */
static inline bool attr_64bit(const struct cpu *c, u32 attr)
{
	return cpu_long_mode(c) && (attr & SEG_L);
}

/* seg_fetch() with the EXT bit in the error code. */
int must_check desc_fetch(struct vcpu *v, u16 sel, bool wide, enum exception vec, u32 ext, struct descriptor *d);
/* Set the accessed bit in memory if it is clear, and in `d`. */
int must_check desc_set_accessed(struct vcpu *v, struct descriptor *d);
static inline void desc_to_segment(const struct descriptor *d, u16 sel, struct segment *s)
{
	s->sel = sel;
	s->attr = d->attr;
	s->limit = d->limit;
	s->base = d->base;
}
/* The flat segment that SYSCALL and relatives load. */
static inline void seg_set_flat(struct segment *s, u16 sel, u32 attr)
{
	s->sel = sel;
	s->attr = attr | SEG_G;
	s->limit = 0xffffffff;
	s->base = 0;
}
static inline void seg_set_null(struct segment *s, u16 sel, unsigned dpl)
{
	s->sel = sel;
	s->attr = SEG_UNUSABLE | ATTR_DPL(dpl);
	s->limit = 0;
	s->base = 0;
}
/* The state of a segment register in virtual-8086 mode (SDM vol. 3, 20.2.1). */
static inline void seg_set_v86(struct segment *s, u16 sel)
{
	s->sel = sel;
	s->attr = SEG_ATTR_DATA | SEG_DPL;
	s->limit = 0xffff;
	s->base = (u32)sel << 4;
}

/* The checks of seg_linear() on a segment that need not be loaded; 0 or -1, no fault raised. */
int must_check seg_check(const struct cpu *c, const struct segment *s, bool is64, u64 off, unsigned len,
			 enum seg_access acc);

/*
 * A stack that may differ from the current one. Frames are written lowest
 * address first; nothing is written unless all of it can be.
 */
struct stack {
	struct segment ss;
	u64 sp;
	u64 mask;  /* of the stack pointer: 16, 32 or 64 bits */
	bool is64; /* no limit, no base: canonical form only */
	u8 how;	   /* enum lin_how */
	u32 err;   /* error code of #SS */
};

void stack_current(const struct vcpu *v, u32 ext, struct stack *st);
/* Width from SS.B, access as supervisor. */
void stack_inner(struct stack *st, u32 err);
/* Write n (1..40) values of `size` bytes ending at st->sp and lower st->sp. */
int must_check stack_push(struct vcpu *v, struct stack *st, const u64 *val, unsigned n, unsigned size);
/* Read n values of `size` bytes upwards from sp + skip; sp stays. */
int must_check stack_peek(struct vcpu *v, const struct stack *st, u64 skip, u64 *val, unsigned n, unsigned size);
/* `sp` merged into the old RSP: only the bits the stack width covers change. */
static inline u64 stack_merge(const struct stack *st, u64 old, u64 sp)
{
	if (st->mask == 0xffff)
		return (old & ~0xffffull) | (u16)sp;
	return sp & st->mask;
}

/* Stack pointer (and SS) for privilege level `dpl` from the TSS: checks of
 * SDM vol. 3, 5.8.5. Legacy modes. */
int must_check tss_inner_stack(struct vcpu *v, unsigned dpl, u32 ext, struct stack *st);
/* RSP0..RSP2 (slot 0..2) or IST1..IST7 (slot 4..10) of the 64-bit TSS. */
int must_check tss_rsp(struct vcpu *v, unsigned slot, u32 ext, u64 *rsp);

enum task_reason { TASK_JMP, TASK_CALL, TASK_IRET, TASK_GATE };
/*
 * Hardware task switch (SDM vol. 3, 8.3) to the TSS `sel`, whose descriptor
 * was checked for type and presence. `rip`, and RF if `rf`, are saved as the
 * old task's. Up to the commit point a fault leaves cpu unchanged; a later one
 * belongs to the new task: FAULT with cpu being the new task's state.
 */
int must_check task_switch(struct vcpu *v, u16 sel, const struct descriptor *d, enum task_reason why, u64 rip, bool rf,
			   u32 ext);
/* The same to the TSS that a task gate or a far transfer names, after the checks on its descriptor. */
int must_check task_gate(struct vcpu *v, u16 sel, enum task_reason why, u64 rip, bool rf, u32 ext);

/* An event as the delivery code sees it. */
struct delivery {
	u8 vector;
	u8 kind; /* enum event_kind */
	bool has_error;
	bool rf; /* push RFLAGS.RF set */
	u32 error;
	u64 rip; /* to push */
};
/* One attempt; FAULT leaves cpu unchanged (task gates: see task_switch). */
int must_check deliver_once(struct vcpu *v, const struct delivery *e);

/* RFLAGS was loaded: tell who must know what changed from `old`. */
void flow_flags_loaded(struct vcpu *v, u64 old);
/* An instruction opened a shadow over the next one. */
void flow_set_shadow(struct vcpu *v, enum shadow s);
/* The instruction being executed makes no single-step trap though TF was set. */
void flow_suppress_step(struct vcpu *v);
/* NMIs are no longer blocked (IRET). */
void flow_unblock_nmi(struct vcpu *v);
/* A return to an outer level: data segments that `cpl` may not use become null. */
void flow_drop_segments(struct cpu *c, unsigned cpl);
/* The checks on CS of RET and IRET in protected mode: `cs` is its new state. */
int must_check flow_return_cs(struct vcpu *v, u16 sel, struct segment *cs);
/* The checks on SS of RET and IRET; `cs` is the new CS. */
int must_check flow_return_ss(struct vcpu *v, u16 sel, const struct segment *cs, struct segment *ss);
/* May execution continue at cs:rip? #GP(ext) if not. */
int must_check flow_check_rip(struct vcpu *v, const struct segment *cs, u64 rip, u32 ext);

/* The address of the instruction after `d`. */
static inline u64 flow_next_rip(const struct vcpu *v, const struct dinsn *d)
{
	u64 rip = v->cpu.rip + d->len;

	return d->mode == CODE_64 ? rip : d->mode == CODE_32 ? (u32)rip : (u16)rip;
}
static inline u64 trunc_size(u64 val, unsigned size)
{
	return size == 2 ? (u16)val : size == 4 ? (u32)val : val;
}

#endif

/* Events, returns and system calls in 64-bit mode; instruction boundaries; reset. */
#include "flatmem.h"

enum { KCS = 0x08, KDS = 0x10, UCS32 = 0x1b, UDS = 0x23, UCS = 0x2b, TR = 0x30 };
#define HANDLER 0x20000ull
#define ALL_FLAGS 0x3f7fd5ull

static int setup64(void **state)
{
	unsigned i;

	clear_machine();
	descriptor_at(GDT + KCS, 0, 0xfffff, 0xa09a); /* accessed bit clear */
	descriptor_at(GDT + KDS, 0, 0xfffff, 0xc092);
	descriptor_at(GDT + 0x18, 0, 0xfffff, 0xc0fa);
	descriptor_at(GDT + 0x20, 0, 0xfffff, 0xc0f2);
	descriptor_at(GDT + 0x28, 0, 0xfffff, 0xa0fa);
	descriptor_at(GDT + TR, TSS, 0x67, 0x89);
	put64(TSS + 4, KSTACK);		 /* RSP0 */
	put64(TSS + 36, KSTACK + 0x808); /* IST1, not aligned */
	for (i = 0; i < 256; i++)
		gate64(i, KCS, HANDLER + i * 16, 14, 0, 0);
	gate64(EXC_BP, KCS, HANDLER + EXC_BP * 16, 15, 3, 0);
	c->gdtr = (struct table_reg){ GDT, 0x3f };
	c->idtr = (struct table_reg){ IDT, 0xfff };
	c->tr = (struct segment){ .sel = TR, .base = TSS, .limit = 0x67, .attr = 0x8b };
	c->cr0 = CR0_PE | CR0_PG;
	c->cr4 = CR4_PAE;
	c->efer = EFER_LMA | EFER_LME | EFER_SCE;
	c->seg[SEG_CS] = flat(KCS, 0xa09b);
	c->seg[SEG_SS] = flat(KDS, 0xc093);
	c->gpr[REG_RSP] = KSTACK - 0x1000;
	c->rip = CODE;
	return 0;
}

static void user_mode(void)
{
	c->seg[SEG_CS] = flat(UCS, 0xa0fb);
	c->seg[SEG_SS] = flat(UDS, 0xc0f3);
	c->gpr[REG_RSP] = USTACK;
	c->rflags = FL_FIXED1 | FL_IF | FL_CF;
}

static void test_fault_from_user(void **state)
{
	user_mode();
	assert_int_equal(fault_raise(v, EXC_PF, true, 6, 0xdead000), FAULT);
	cpu_deliver_fault(v);
	assert_int_equal(c->cr2, 0xdead000);
	assert_int_equal(c->rip, HANDLER + EXC_PF * 16);
	assert_int_equal(c->gpr[REG_RSP], KSTACK - 48);
	assert_int_equal(get64(KSTACK - 48), 6);
	assert_int_equal(get64(KSTACK - 40), CODE);
	assert_int_equal(get64(KSTACK - 32), UCS);
	assert_int_equal(get64(KSTACK - 24), FL_FIXED1 | FL_IF | FL_CF | FL_RF);
	assert_int_equal(get64(KSTACK - 16), USTACK);
	assert_int_equal(get64(KSTACK - 8), UDS);
	assert_int_equal(cpu_cpl(c), 0);
	assert_int_equal(c->seg[SEG_SS].sel, 0);
	assert_int_equal(c->rflags, FL_FIXED1 | FL_CF);
	assert_true(mem[GDT + KCS + 5] & 1); /* accessed */
	assert_true(supervisor_accesses >= 4);
}

static void test_ist_and_iret(void **state)
{
	struct dinsn iret = insn(CODE_64, 8);

	gate64(0x40, KCS, HANDLER, 14, 0, 1);
	user_mode();
	intr_line = true;
	intr_vector = 0x40;
	vcpu_raise(v, EV_INTR);
	assert_true(cpu_take_events(v));
	assert_int_equal(c->gpr[REG_RSP], KSTACK + 0x800 - 40);
	assert_int_equal(get64(KSTACK + 0x800 - 24), FL_FIXED1 | FL_IF | FL_CF);
	assert_int_equal(v->event & EV_INTR, 0);
	assert_int_equal(sys_iret(v, &iret), 0);
	assert_int_equal(c->rip, CODE);
	assert_int_equal(c->gpr[REG_RSP], USTACK);
	assert_int_equal(c->seg[SEG_CS].sel, UCS);
	assert_int_equal(c->seg[SEG_SS].sel, UDS);
	assert_int_equal(cpu_cpl(c), 3);
	assert_int_equal(c->rflags, FL_FIXED1 | FL_IF | FL_CF);
}

static void test_same_level_aligns_stack(void **state)
{
	c->gpr[REG_RSP] = KSTACK - 3;
	cpu_deliver(v, 0x41, EVENT_HARDWARE, false, 0);
	assert_int_equal(c->gpr[REG_RSP], KSTACK - 16 - 40);
	assert_int_equal(get64(KSTACK - 16 - 16), KSTACK - 3);
	assert_int_equal(get64(KSTACK - 16 - 8), KDS);
	assert_int_equal(c->seg[SEG_SS].sel, KDS); /* not loaded */
}

static void test_double_and_triple_fault(void **state)
{
	/* #GP whose gate is absent: #NP, contributory on contributory */
	mem[IDT + EXC_GP * 16 + 5] &= 0x7f;
	assert_int_equal(fault_gp(v, 0x1234), FAULT);
	cpu_deliver_fault(v);
	assert_int_equal(c->rip, HANDLER + EXC_DF * 16);
	assert_int_equal(get64(c->gpr[REG_RSP]), 0); /* error code */
	assert_int_equal(get64(c->gpr[REG_RSP] + 8), CODE);

	/* the same with the #DF gate gone */
	mem[IDT + EXC_DF * 16 + 5] &= 0x7f;
	assert_int_equal(fault_gp(v, 0), FAULT);
	cpu_deliver_fault(v);
	assert_int_equal(c->activity, ACT_SHUTDOWN);
	assert_int_equal(triple_faults, 1);
	assert_false(cpu_take_events(v));
}

static void test_nested_benign(void **state)
{
	/* #UD is benign: the #NP of its absent gate is delivered in its place, EXT set */
	mem[IDT + EXC_UD * 16 + 5] &= 0x7f;
	assert_int_equal(fault_ud(v), FAULT);
	cpu_deliver_fault(v);
	assert_int_equal(c->rip, HANDLER + EXC_NP * 16);
	assert_int_equal(get64(c->gpr[REG_RSP]), EXC_UD * 8 + 3);
}

static void test_stack_page_fault_becomes_df(void **state)
{
	/* a guard page under the kernel stack, as Linux has it: CR2 names it in the #DF handler */
	gate64(EXC_DF, KCS, HANDLER + EXC_DF * 16, 14, 0, 1);
	bad_page = KSTACK - 0x2000;
	c->gpr[REG_RSP] = bad_page + 0x100;
	assert_int_equal(fault_raise(v, EXC_PF, true, 2, bad_page + 8), FAULT);
	cpu_deliver_fault(v);
	assert_int_equal(c->rip, HANDLER + EXC_DF * 16);
	assert_int_equal(c->cr2 & PAGE_MASK, bad_page);
	assert_int_equal(get64(KSTACK + 0x800 - 48), 0);
}

static void test_soft_interrupts(void **state)
{
	struct dinsn d = insn(CODE_64, 4);

	user_mode();
	d.imm = 0x80;
	assert_fault(sys_int(v, &d), EXC_GP, 0x80 * 8 + 2);
	assert_int_equal(c->rip, CODE);
	d.len = 1;
	assert_int_equal(sys_int3(v, &d), 0);
	assert_int_equal(c->rip, HANDLER + EXC_BP * 16);
	assert_int_equal(get64(c->gpr[REG_RSP]), CODE + 1);
	assert_true(c->rflags & FL_IF); /* a trap gate */
	setup64(state);
	user_mode();
	assert_int_equal(sys_int1(v, &d), 0); /* the DPL does not count */
	assert_int_equal(c->rip, HANDLER + EXC_DB * 16);
}

static void test_gate_faults(void **state)
{
	put16(IDT + 0x50 * 16 + 2, KDS);
	cpu_deliver(v, 0x50, EVENT_HARDWARE, false, 0);
	assert_int_equal(c->rip, HANDLER + EXC_GP * 16);
	assert_int_equal(get64(c->gpr[REG_RSP]), KDS + 1);

	setup64(state);
	gate64(0x51, KCS, 0x800000000000, 14, 0, 0);
	cpu_deliver(v, 0x51, EVENT_HARDWARE, false, 0);
	assert_int_equal(get64(c->gpr[REG_RSP]), 1);

	setup64(state);
	c->tr.limit = 0x20;
	gate64(0x52, KCS, HANDLER, 14, 0, 1);
	cpu_deliver(v, 0x52, EVENT_HARDWARE, false, 0);
	assert_int_equal(c->rip, HANDLER + EXC_TS * 16);
	assert_int_equal(get64(c->gpr[REG_RSP]), TR + 1);
}

static void test_iret_checks(void **state)
{
	struct dinsn d = insn(CODE_64, 8);
	u32 sp = KSTACK - 0x100;

	c->gpr[REG_RSP] = sp;
	put64(sp, CODE);
	put64(sp + 8, UCS);
	put64(sp + 16, 0);
	put64(sp + 24, USTACK);
	put64(sp + 32, 0);
	assert_fault(sys_iret(v, &d), EXC_GP, 0); /* null SS at CPL 3 */
	assert_int_equal(c->gpr[REG_RSP], sp);
	put64(sp + 32, UDS);
	put64(sp, 0x800000000000);
	assert_fault(sys_iret(v, &d), EXC_GP, 0);
	put64(sp, CODE);
	put64(sp + 8, KDS);
	assert_fault(sys_iret(v, &d), EXC_GP, KDS);
	c->rflags |= FL_NT;
	assert_fault(sys_iret(v, &d), EXC_GP, 0);
	c->rflags &= ~FL_NT;

	/* to a null SS at CPL 0, all flags */
	put64(sp + 8, KCS);
	put64(sp + 16, ALL_FLAGS);
	put64(sp + 32, 0);
	assert_int_equal(sys_iret(v, &d), 0);
	assert_int_equal(c->seg[SEG_SS].sel, 0);
	assert_int_equal(c->rflags, (ALL_FLAGS & ~(FL_VM | FL_RF)) | FL_FIXED1);
	assert_true(v->event & EV_TRAP); /* TF */
}

static void test_iret_drops_segments_and_unblocks_nmi(void **state)
{
	struct dinsn d = insn(CODE_64, 8);
	u32 sp = KSTACK - 0x100;

	c->seg[SEG_DS] = flat(KDS, 0xc093);
	c->seg[SEG_ES] = flat(UDS, 0xc0f3);
	c->nmi_blocked = c->nmi_pending = true;
	c->gpr[REG_RSP] = sp;
	put64(sp, CODE);
	put64(sp + 8, UCS32);
	put64(sp + 16, FL_IF);
	put64(sp + 24, USTACK);
	put64(sp + 32, UDS);
	assert_int_equal(sys_iret(v, &d), 0);
	assert_true(c->seg[SEG_DS].attr & SEG_UNUSABLE);
	assert_int_equal(c->seg[SEG_ES].sel, UDS);
	assert_int_equal(cpu_code_mode(c), CODE_32);
	assert_true(v->event & EV_NMI);
	assert_true(cpu_take_events(v));
	assert_int_equal(c->rip, HANDLER + EXC_NMI * 16);
	assert_true(c->nmi_blocked);
}

/* One instruction as an engine under EV_TRAP would run it. */
static void retire(void)
{
	c->rip += 2;
	v->icount++;
}

static void test_sti_shadow(void **state)
{
	struct dinsn d = insn(CODE_64, 4);

	intr_line = true;
	intr_vector = 0x60;
	vcpu_raise(v, EV_INTR);
	assert_false(cpu_take_events(v));
	assert_int_equal(v->event, 0);
	assert_true(v->intr_held);

	assert_int_equal(sys_sti(v, &d), 0);
	v->icount++;
	assert_true(v->event & EV_TRAP);
	assert_false(cpu_take_events(v));
	assert_int_equal(c->shadow, SHADOW_STI);
	assert_true(v->event & EV_TRAP);
	assert_false(cpu_take_events(v)); /* a second look at the same boundary */
	assert_int_equal(c->shadow, SHADOW_STI);
	retire();
	assert_true(cpu_take_events(v));
	assert_int_equal(c->rip, HANDLER + 0x600);
	assert_int_equal(get64(c->gpr[REG_RSP]), CODE + 4);
	assert_int_equal(c->shadow, SHADOW_NONE);
	assert_int_equal(acks, 1);

	/* no shadow if IF was set already */
	c->rflags |= FL_IF;
	vcpu_clear(v, ~0u);
	assert_int_equal(sys_sti(v, &d), 0);
	assert_int_equal(c->shadow, SHADOW_NONE);
	assert_int_equal(v->event, 0);
}

static void test_sti_hlt(void **state)
{
	struct dinsn d = insn(CODE_64, 4);

	assert_int_equal(sys_sti(v, &d), 0);
	v->icount++;
	assert_false(cpu_take_events(v));
	c->activity = ACT_HALTED;
	retire();
	assert_false(cpu_take_events(v));
	assert_false(cpu_wakeup_pending(v));
	intr_line = true;
	intr_vector = 0x61;
	assert_true(cpu_wakeup_pending(v));
	assert_true(cpu_take_events(v));
	assert_int_equal(c->activity, ACT_RUNNING);
	assert_int_equal(get64(c->gpr[REG_RSP]), CODE + 4);
}

static void test_mov_ss_shadow_holds_debug_traps(void **state)
{
	struct dinsn d = insn(CODE_64, 8);

	c->rflags |= FL_TF | FL_IF;
	c->gpr[REG_RAX] = KDS;
	d.reg = SEG_SS;
	d.rm = REG_RAX;
	assert_int_equal(sys_mov_to_sreg(v, &d), 0);
	v->icount++;
	cpu_single_step_done(v);
	c->nmi_pending = true;
	vcpu_raise(v, EV_NMI);
	assert_false(cpu_take_events(v));
	assert_true(v->event & EV_TRAP);
	retire();
	cpu_single_step_done(v);
	assert_true(cpu_take_events(v)); /* #DB, and the NMI at its handler's first instruction */
	assert_int_equal(c->rip, HANDLER + EXC_NMI * 16);
	assert_int_equal(get64(c->gpr[REG_RSP]), HANDLER + EXC_DB * 16);
	assert_true(c->dr[6] & BIT(14));
	assert_int_equal(c->pending_db, 0);
	d.reg = SEG_CS;
	assert_fault(sys_mov_to_sreg(v, &d), EXC_UD, 0);
}

static void test_single_step(void **state)
{
	struct dinsn d = insn(CODE_64, 8);

	c->rflags |= FL_TF;
	retire();
	cpu_single_step_done(v);
	assert_true(cpu_take_events(v));
	assert_int_equal(c->rip, HANDLER + EXC_DB * 16);
	assert_int_equal(get64(c->gpr[REG_RSP]), CODE + 2);
	assert_int_equal(get64(c->gpr[REG_RSP] + 16), FL_FIXED1 | FL_TF);
	assert_false(c->rflags & FL_TF);

	/* INT n makes no trap, whether or not the engine asks */
	c->rflags |= FL_TF;
	d.imm = 0x80;
	assert_int_equal(sys_int(v, &d), 0);
	v->icount++;
	cpu_single_step_done(v);
	assert_int_equal(c->pending_db, 0);
	c->rflags |= FL_TF;
	assert_int_equal(sys_int(v, &d), 0);
	assert_false(cpu_take_events(v));
	cpu_single_step_done(v);
	assert_int_equal(c->pending_db, BIT(14));
}

static void test_breakpoints(void **state)
{
	struct dinsn iret = insn(CODE_64, 8);

	c->dr[0] = CODE;
	c->dr[1] = 0x7004;
	c->dr[7] = 0x400 | 2 | 8 | (1u << 20 | 3u << 22); /* G0 execute, G1 write 4 bytes */
	assert_int_equal(cpu_insn_breakpoint(v), FAULT);
	cpu_deliver_fault(v);
	assert_int_equal(c->dr[6] & 0xf, 1);
	assert_int_equal(get64(c->gpr[REG_RSP] + 16), FL_FIXED1); /* RF is the handler's business */
	put64((u32)c->gpr[REG_RSP] + 16, FL_FIXED1 | FL_RF);
	assert_int_equal(sys_iret(v, &iret), 0);
	v->icount++;
	assert_false(cpu_take_events(v));
	assert_true(c->rflags & FL_RF);
	assert_int_equal(cpu_insn_breakpoint(v), 0);
	retire();
	assert_false(cpu_take_events(v));
	assert_false(c->rflags & FL_RF);

	cpu_data_breakpoint(v, 0x7000, 4, true);
	cpu_data_breakpoint(v, 0x7008, 4, true);
	cpu_data_breakpoint(v, 0x7004, 4, false);
	assert_int_equal(c->pending_db, 0);
	cpu_data_breakpoint(v, 0x7001, 4, true);
	assert_int_equal(c->pending_db, 2);
	assert_true(cpu_take_events(v));
	assert_int_equal(c->dr[6] & 0xf, 3);
}

static void test_popf_masks(void **state)
{
	struct dinsn d = insn(CODE_64, 8);
	u32 sp = KSTACK - 0x100;

	c->gpr[REG_RSP] = sp;
	put64(sp, ~0ull);
	assert_int_equal(sys_popf(v, &d), 0);
	assert_int_equal(c->rflags, FL_STATUS | FL_FIXED1 | FL_TF | FL_IF | FL_DF | FL_IOPL | FL_NT | FL_AC | FL_ID);
	assert_int_equal(c->gpr[REG_RSP], sp + 8);

	user_mode();
	c->rflags = FL_FIXED1 | FL_IF;
	c->gpr[REG_RSP] = sp;
	put64(sp, FL_IOPL);
	assert_int_equal(sys_popf(v, &d), 0);
	assert_int_equal(c->rflags, FL_FIXED1 | FL_IF);
	d.opsize = 2;
	c->rflags = FL_FIXED1 | FL_AC | FL_IOPL;
	c->gpr[REG_RSP] = sp;
	put64(sp, FL_IF | FL_CF);
	assert_int_equal(sys_popf(v, &d), 0);
	assert_int_equal(c->rflags, FL_FIXED1 | FL_AC | FL_IOPL | FL_IF | FL_CF);
	assert_int_equal(c->gpr[REG_RSP], sp + 2);

	d.opsize = 8;
	c->rflags = FL_FIXED1 | FL_RF | FL_ZF;
	assert_int_equal(sys_pushf(v, &d), 0);
	assert_int_equal(get64(c->gpr[REG_RSP]), FL_FIXED1 | FL_ZF);
	assert_fault(sys_cli(v, &d), EXC_GP, 0);
	c->cr4 |= CR4_PVI;
	assert_int_equal(sys_sti(v, &d), 0);
	assert_true(c->rflags & FL_VIF);
	c->rflags |= FL_VIP;
	assert_fault(sys_sti(v, &d), EXC_GP, 0);
}

static void test_popf_takes_held_interrupt(void **state)
{
	struct dinsn d = insn(CODE_64, 8);

	intr_line = true;
	vcpu_raise(v, EV_INTR);
	assert_false(cpu_take_events(v));
	c->gpr[REG_RSP] = KSTACK - 0x100;
	put64(KSTACK - 0x100, FL_IF);
	assert_int_equal(sys_popf(v, &d), 0);
	assert_true(v->event & EV_INTR);
	assert_true(cpu_take_events(v));
}

static void test_syscall_sysret(void **state)
{
	struct dinsn d = insn(CODE_64, 8);

	c->star = (u64)0x18 << 48 | (u64)KCS << 32;
	c->lstar = HANDLER;
	c->sfmask = FL_IF | FL_TF | FL_AC;
	user_mode();
	c->rflags |= FL_AC;
	assert_int_equal(sys_syscall(v, &d), 0);
	assert_int_equal(c->rip, HANDLER);
	assert_int_equal(c->gpr[REG_RCX], CODE + 2);
	assert_int_equal(c->gpr[11], FL_FIXED1 | FL_IF | FL_CF | FL_AC);
	assert_int_equal(c->rflags, FL_FIXED1 | FL_CF);
	assert_int_equal(c->seg[SEG_CS].sel, KCS);
	assert_int_equal(c->seg[SEG_SS].sel, KDS);
	assert_int_equal(cpu_cpl(c), 0);
	assert_true(cpu_64bit(c));

	assert_int_equal(sys_sysret(v, &d), 0);
	assert_int_equal(c->rip, CODE + 2);
	assert_int_equal(c->seg[SEG_CS].sel, UCS);
	assert_int_equal(c->seg[SEG_SS].sel, UDS);
	assert_int_equal(c->rflags, FL_FIXED1 | FL_IF | FL_CF | FL_AC);
	assert_fault(sys_sysret(v, &d), EXC_GP, 0); /* CPL 3 */

	assert_int_equal(sys_syscall(v, &d), 0);
	c->gpr[REG_RCX] = 0x800000000000;
	assert_fault(sys_sysret(v, &d), EXC_GP, 0);
	assert_int_equal(cpu_cpl(c), 0);
	d.opsize = 4;
	c->gpr[REG_RCX] = 0x100001000;
	assert_int_equal(sys_sysret(v, &d), 0);
	assert_int_equal(c->rip, 0x1000);
	assert_int_equal(c->seg[SEG_CS].sel, UCS32);
	assert_int_equal(cpu_code_mode(c), CODE_32);
	assert_fault(sys_syscall(v, &d), EXC_UD, 0); /* compatibility mode */
}

static void test_sysenter_sysexit(void **state)
{
	struct dinsn d = insn(CODE_64, 8);

	user_mode();
	assert_fault(sys_sysenter(v, &d), EXC_GP, 0);
	c->sysenter_cs = KCS;
	c->sysenter_eip = HANDLER;
	c->sysenter_esp = KSTACK;
	assert_int_equal(sys_sysenter(v, &d), 0);
	assert_int_equal(c->seg[SEG_SS].sel, KDS);
	assert_true(cpu_64bit(c) && cpu_cpl(c) == 0 && !(c->rflags & FL_IF));
	c->gpr[REG_RCX] = USTACK;
	c->gpr[REG_RDX] = CODE;
	assert_int_equal(sys_sysexit(v, &d), 0);
	assert_int_equal(c->seg[SEG_CS].sel, KCS + 32 + 3);
	assert_int_equal(c->seg[SEG_SS].sel, KCS + 40 + 3);
	assert_int_equal(c->gpr[REG_RSP], USTACK);
}

static void test_segments_in_64bit_mode(void **state)
{
	gva_t lin;

	descriptor_at(GDT + 0x20, 0x1234000, 0xfffff, 0xc0f2);
	assert_int_equal(seg_load(v, SEG_FS, UDS), 0);
	assert_int_equal(c->seg[SEG_FS].base, 0x1234000);
	assert_int_equal(seg_linear(v, SEG_FS, 0x10, 8, SEG_ACC_READ, &lin), 0);
	assert_int_equal(lin, 0x1234010);
	assert_int_equal(seg_load(v, SEG_DS, 0), 0);
	assert_int_equal(seg_linear(v, SEG_DS, 0x10, 8, SEG_ACC_WRITE, &lin), 0);
	assert_fault(seg_linear(v, SEG_DS, 0x7ffffffffffc, 8, SEG_ACC_READ, &lin), EXC_GP, 0);
	assert_fault(seg_linear(v, SEG_SS, 0x800000000000, 8, SEG_ACC_READ, &lin), EXC_SS, 0);
	assert_int_equal(seg_load(v, SEG_SS, 0), 0);
	assert_int_equal(cpu_cpl(c), 0);
	assert_fault(seg_load(v, SEG_SS, 3), EXC_GP, 0);
	assert_fault(seg_load(v, SEG_SS, UDS), EXC_GP, UDS & ~3);
	assert_fault(seg_load(v, SEG_ES, 0x48), EXC_GP, 0x48); /* beyond the table */
}

static void test_call_gate_64(void **state)
{
	struct dinsn d = insn(CODE_64, 4);

	c->gdtr.limit = 0x5f;
	gate_at(GDT + 0x40, KCS, HANDLER, 12, 3, 0);
	put64(GDT + 0x48, 0);
	user_mode();
	d.is_mem = true;
	d.disp = 0x7000;
	put32(0x7000, 0x55555555);
	put16(0x7004, 0x43);
	assert_int_equal(sys_call_far(v, &d), 0);
	assert_int_equal(c->rip, HANDLER);
	assert_int_equal(c->gpr[REG_RSP], KSTACK - 32);
	assert_int_equal(get64(KSTACK - 32), CODE + 2);
	assert_int_equal(get64(KSTACK - 24), UCS);
	assert_int_equal(get64(KSTACK - 16), USTACK);
	assert_int_equal(get64(KSTACK - 8), UDS);
	d = insn(CODE_64, 8);
	d.opcode = 0xcb;
	assert_int_equal(sys_ret_far(v, &d), 0);
	assert_int_equal(c->gpr[REG_RSP], USTACK);
	assert_int_equal(cpu_cpl(c), 3);
	put32(GDT + 0x4c, 0x0100); /* type field of the upper half */
	d = insn(CODE_64, 4);
	d.is_mem = true;
	d.disp = 0x7000;
	assert_fault(sys_call_far(v, &d), EXC_GP, 0x40);
}

static void test_reset(void **state)
{
	c->pat = 1;
	cpu_reset(v, true);
	assert_int_equal(c->gpr[REG_RDX], 0x306c3);
	assert_int_equal(c->seg[SEG_CS].base, 0xffff0000);
	assert_int_equal(c->rip, 0xfff0);
	assert_int_equal(c->pat, 1);
	assert_int_equal(c->efer, 0);
	cpu_reset(v, false);
	assert_int_equal(c->pat, 0x0007040600070406);
	assert_int_equal(c->cr0, 0x60000010);
	assert_int_equal(c->activity, ACT_RUNNING);
	v->index = 1;
	cpu_reset(v, false);
	assert_int_equal(c->activity, ACT_WAIT_FOR_SIPI);
}

#define T(f) cmocka_unit_test_setup(f, setup64)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_fault_from_user),
		T(test_ist_and_iret),
		T(test_same_level_aligns_stack),
		T(test_double_and_triple_fault),
		T(test_nested_benign),
		T(test_stack_page_fault_becomes_df),
		T(test_soft_interrupts),
		T(test_gate_faults),
		T(test_iret_checks),
		T(test_iret_drops_segments_and_unblocks_nmi),
		T(test_sti_shadow),
		T(test_sti_hlt),
		T(test_mov_ss_shadow_holds_debug_traps),
		T(test_single_step),
		T(test_breakpoints),
		T(test_popf_masks),
		T(test_popf_takes_held_interrupt),
		T(test_syscall_sysret),
		T(test_sysenter_sysexit),
		T(test_segments_in_64bit_mode),
		T(test_call_gate_64),
		T(test_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Segmentation, gates, tasks, virtual-8086 and real mode. */
#include "flatmem.h"

enum {
	KCS = 0x08,
	KDS = 0x10,
	UCS = 0x1b,
	UDS = 0x23,
	TR1 = 0x28,
	TR2 = 0x30,
	CALLGATE = 0x38,
	TASKGATE = 0x40,
	LDT_SEL = 0x48,
	DOWN = 0x50,	   /* expand-down data, limit FFFH */
	CONFORMING = 0x58, /* DPL 0 */
	XONLY = 0x63,	   /* execute-only code, DPL 3 */
	ABSENT = 0x68,
	TR16 = 0x70,
};
#define HANDLER 0x20000u
#define TSS16 0x6000u

static int setup32(void **state)
{
	unsigned i;

	clear_machine();
	descriptor_at(GDT + KCS, 0, 0xfffff, 0xc09b);
	descriptor_at(GDT + KDS, 0, 0xfffff, 0xc093);
	descriptor_at(GDT + 0x18, 0, 0xfffff, 0xc0fb);
	descriptor_at(GDT + 0x20, 0, 0xfffff, 0xc0f3);
	descriptor_at(GDT + TR1, TSS, 0x67 + 0x2000, 0x8b);
	descriptor_at(GDT + TR2, TSS2, 0x67, 0xe9);
	gate_at(GDT + CALLGATE, KCS, HANDLER + 0x4440, 12, 3, 3);
	gate_at(GDT + TASKGATE, TR2, 0, 5, 3, 0);
	descriptor_at(GDT + LDT_SEL, LDT, 0x17, 0x82);
	descriptor_at(GDT + DOWN, 0, 0xfff, 0x4097);
	descriptor_at(GDT + CONFORMING, 0, 0xfffff, 0xc09f);
	descriptor_at(GDT + 0x60, 0, 0xfffff, 0xc0f9);
	descriptor_at(GDT + ABSENT, 0, 0xfffff, 0xc013);
	descriptor_at(GDT + TR16, TSS16, 0x2b, 0x81);
	for (i = 0; i < 32; i++)
		gate_at(IDT + i * 8, KCS, HANDLER + i * 16, 14, 0, 0);
	put32(TSS + 4, KSTACK);
	put16(TSS + 8, KDS);
	put16(TSS + 102, 0x88); /* I/O bitmap after the redirection bitmap */
	c->gdtr = (struct table_reg){ GDT, 0x77 };
	c->idtr = (struct table_reg){ IDT, 0xff };
	c->tr = (struct segment){ .sel = TR1, .base = TSS, .limit = 0x2067, .attr = 0x8b };
	c->ldtr.attr = SEG_UNUSABLE;
	c->cr0 = CR0_PE;
	c->seg[SEG_CS] = flat(KCS, 0xc09b);
	for (i = 0; i < SEG_COUNT; i++)
		if (i != SEG_CS)
			c->seg[i] = flat(KDS, 0xc093);
	c->gpr[REG_RSP] = KSTACK - 0x1000;
	c->rip = CODE;
	return 0;
}

static void user_mode(void)
{
	unsigned i;

	for (i = 0; i < SEG_COUNT; i++)
		c->seg[i] = flat(UDS, 0xc0f3);
	c->seg[SEG_CS] = flat(UCS, 0xc0fb);
	c->gpr[REG_RSP] = USTACK;
}

static void v86_mode(unsigned iopl)
{
	unsigned i;

	c->rflags = FL_FIXED1 | FL_VM | FL_IF | (u64)iopl << 12;
	for (i = 0; i < SEG_COUNT; i++)
		seg_load_real(c, i, (u16)(0x100 * (i + 1)));
	seg_load_real(c, SEG_SS, 0x0a00);
	seg_load_real(c, SEG_CS, 0x1000);
	c->gpr[REG_RSP] = 0x0ff0;
	c->rip = 0x20;
}

static struct dinsn far_ptr(u16 sel, u32 off)
{
	struct dinsn d = insn(CODE_32, 4);

	d.len = 7;
	d.imm = off;
	d.imm2 = sel;
	return d;
}

static void test_limits(void **state)
{
	gva_t lin;

	c->seg[SEG_DS].limit = 0xfff;
	assert_int_equal(seg_linear(v, SEG_DS, 0xffc, 4, SEG_ACC_READ, &lin), 0);
	assert_fault(seg_linear(v, SEG_DS, 0xffd, 4, SEG_ACC_READ, &lin), EXC_GP, 0);
	assert_int_equal(seg_load(v, SEG_ES, DOWN), 0);
	assert_fault(seg_linear(v, SEG_ES, 0xfff, 1, SEG_ACC_READ, &lin), EXC_GP, 0);
	assert_int_equal(seg_linear(v, SEG_ES, 0x1000, 4, SEG_ACC_WRITE, &lin), 0);
	assert_int_equal(seg_linear(v, SEG_ES, 0xfffffffc, 4, SEG_ACC_WRITE, &lin), 0);
	assert_fault(seg_linear(v, SEG_ES, 0xfffffffd, 4, SEG_ACC_WRITE, &lin), EXC_GP, 0);
	c->seg[SEG_ES].attr &= ~SEG_DB; /* a 16-bit one ends at FFFFH */
	assert_fault(seg_linear(v, SEG_ES, 0xfffd, 4, SEG_ACC_WRITE, &lin), EXC_GP, 0);
	assert_fault(seg_linear(v, SEG_CS, 0, 1, SEG_ACC_WRITE, &lin), EXC_GP, 0);
	c->seg[SEG_FS].base = 0xfffffff0;
	assert_int_equal(seg_linear(v, SEG_FS, 0x20, 4, SEG_ACC_READ, &lin), 0);
	assert_int_equal(lin, 0x10);
	assert_int_equal(seg_load(v, SEG_GS, 0), 0);
	assert_fault(seg_linear(v, SEG_GS, 0, 1, SEG_ACC_READ, &lin), EXC_GP, 0);
	c->seg[SEG_SS].limit = 0xff;
	assert_fault(seg_linear(v, SEG_SS, 0x100, 1, SEG_ACC_READ, &lin), EXC_SS, 0);
	assert_fault(seg_load(v, SEG_DS, ABSENT), EXC_NP, ABSENT);
	assert_fault(seg_load(v, SEG_SS, ABSENT), EXC_SS, ABSENT);
	assert_fault(seg_load(v, SEG_SS, 0), EXC_GP, 0);
	assert_fault(seg_load(v, SEG_DS, XONLY), EXC_GP, 0x60);
}

static bool zf(int rc)
{
	assert_int_equal(rc, 0);
	return c->rflags & FL_ZF;
}

static void test_lar_lsl_verr(void **state)
{
	struct dinsn d = insn(CODE_32, 4);

	d.reg = REG_RBX;
	d.rm = REG_RCX;
#define SEL(s, f) (c->gpr[REG_RCX] = (s), zf(f(v, &d)))
	assert_true(SEL(KDS, sys_lar));
	assert_int_equal(c->gpr[REG_RBX], 0x00c09300);
	assert_true(SEL(KDS, sys_lsl));
	assert_int_equal(c->gpr[REG_RBX], 0xffffffff);
	assert_true(SEL(TR2, sys_lsl));
	assert_int_equal(c->gpr[REG_RBX], 0x67);
	assert_true(SEL(CALLGATE, sys_lar));
	assert_false(SEL(CALLGATE, sys_lsl));
	assert_false(SEL(0, sys_lar));
	assert_false(SEL(0x78, sys_lar));
	assert_false(SEL(4, sys_lar)); /* no LDT */
	assert_true(SEL(KDS, sys_verw));
	assert_false(SEL(KCS, sys_verw));
	assert_true(SEL(KCS, sys_verr));
	assert_false(SEL(XONLY, sys_verr));
	assert_false(SEL(TR2, sys_verr));
	user_mode();
	assert_false(SEL(KDS, sys_lar));
	assert_true(SEL(CONFORMING, sys_lar));
	assert_true(SEL(CONFORMING, sys_verr));
	assert_true(SEL(UDS, sys_verw));
	c->gpr[REG_RBX] = 0x5555;
	assert_false(SEL(KDS | 3, sys_lsl));
	assert_int_equal(c->gpr[REG_RBX], 0x5555);
	c->gpr[REG_RBX] = 3; /* ARPL rm=RCX, reg=RBX */
	assert_true(SEL(0x10, sys_arpl));
	assert_int_equal(c->gpr[REG_RCX], 0x13);
	assert_false(SEL(0x13, sys_arpl));
	c->cr0 = 0;
	assert_fault(sys_lar(v, &d), EXC_UD, 0);
}

static void test_table_registers(void **state)
{
	struct dinsn d = insn(CODE_32, 4);

	d.rm = REG_RCX;
	c->gpr[REG_RCX] = LDT_SEL;
	assert_int_equal(sys_lldt(v, &d), 0);
	assert_int_equal(c->ldtr.base, LDT);
	assert_int_equal(c->ldtr.limit, 0x17);
	c->gpr[REG_RCX] = TR1;
	assert_fault(sys_ltr(v, &d), EXC_GP, TR1); /* busy */
	c->gpr[REG_RCX] = TR2;
	assert_int_equal(sys_ltr(v, &d), 0);
	assert_int_equal(mem[GDT + TR2 + 5], 0xeb);
	user_mode();
	assert_int_equal(sys_str(v, &d), 0);
	assert_int_equal(c->gpr[REG_RCX], TR2);
	c->cr4 = CR4_UMIP;
	assert_fault(sys_str(v, &d), EXC_GP, 0);
	assert_fault(sys_ltr(v, &d), EXC_GP, 0);
	d.is_mem = true;
	d.disp = 0x7000;
	assert_fault(sys_sgdt(v, &d), EXC_GP, 0);
	c->cr4 = 0;
	assert_int_equal(sys_sgdt(v, &d), 0);
	assert_int_equal(get16(0x7000), 0x77);
	assert_int_equal(get32(0x7002), GDT);
}

static void test_call_gate_parameters(void **state)
{
	struct dinsn d = far_ptr(CALLGATE | 3, 0x9999), ret = insn(CODE_32, 4);
	unsigned i;

	user_mode();
	for (i = 0; i < 3; i++)
		put32(USTACK + i * 4, 0xa0 + i);
	assert_int_equal(sys_call_far(v, &d), 0);
	assert_int_equal(c->rip, HANDLER + 0x4440);
	assert_int_equal(c->seg[SEG_CS].sel, KCS);
	assert_int_equal(c->seg[SEG_SS].sel, KDS);
	assert_int_equal(c->gpr[REG_RSP], KSTACK - 28);
	assert_int_equal(get32(KSTACK - 28), CODE + 7);
	assert_int_equal(get32(KSTACK - 24), UCS);
	for (i = 0; i < 3; i++)
		assert_int_equal(get32(KSTACK - 20 + i * 4), 0xa0 + i);
	assert_int_equal(get32(KSTACK - 8), USTACK);
	assert_int_equal(get32(KSTACK - 4), UDS);

	c->seg[SEG_DS] = flat(KDS, 0xc093);
	ret.opcode = 0xca;
	ret.imm = 12;
	assert_int_equal(sys_ret_far(v, &ret), 0);
	assert_int_equal(c->rip, CODE + 7);
	assert_int_equal(c->gpr[REG_RSP], USTACK + 12);
	assert_int_equal(cpu_cpl(c), 3);
	assert_true(c->seg[SEG_DS].attr & SEG_UNUSABLE);
	assert_false(c->seg[SEG_ES].attr & SEG_UNUSABLE);

	/* an inner stack without room: #SS names it; a jump may not change level */
	c->rip = CODE;
	put32(TSS + 4, 8);
	descriptor_at(GDT + KDS, 0, 0x100, 0x4093);
	put32(TSS + 4, 0x10);
	assert_fault(sys_call_far(v, &d), EXC_SS, KDS);
	assert_int_equal(c->gpr[REG_RSP], USTACK + 12);
	put16(TSS + 8, UDS);
	assert_fault(sys_call_far(v, &d), EXC_TS, UDS & ~3);
	assert_fault(sys_jmp_far(v, &d), EXC_GP, KCS);
	d = far_ptr(KCS, 0);
	assert_fault(sys_jmp_far(v, &d), EXC_GP, KCS);
	d = far_ptr(CONFORMING, 0x1234);
	assert_int_equal(sys_jmp_far(v, &d), 0);
	assert_int_equal(c->seg[SEG_CS].sel, CONFORMING | 3);
	assert_int_equal(cpu_cpl(c), 3);
}

static void test_interrupt_and_iret(void **state)
{
	struct dinsn d = insn(CODE_32, 4);

	user_mode();
	assert_int_equal(fault_gp(v, 0x88), FAULT);
	cpu_deliver_fault(v);
	assert_int_equal(c->gpr[REG_RSP], KSTACK - 24);
	assert_int_equal(get32(KSTACK - 24), 0x88);
	assert_int_equal(get32(KSTACK - 20), CODE);
	assert_int_equal(get32(KSTACK - 12), FL_FIXED1 | FL_RF);
	c->gpr[REG_RSP] += 4;
	assert_int_equal(sys_iret(v, &d), 0);
	assert_int_equal(c->rip, CODE);
	assert_int_equal(c->gpr[REG_RSP], USTACK);
	assert_int_equal(c->seg[SEG_CS].sel, UCS);

	/* same level: no stack switch */
	setup32(state);
	cpu_deliver(v, 5, EVENT_HARDWARE, false, 0);
	assert_int_equal(c->gpr[REG_RSP], KSTACK - 0x1000 - 12);
	/* CS limit against the gate's offset */
	setup32(state);
	descriptor_at(GDT + KCS, 0, HANDLER + 0x55, 0x409b);
	descriptor_at(GDT + CONFORMING, 0, 0xfffff, 0xc09f);
	gate_at(IDT + EXC_GP * 8, CONFORMING, HANDLER, 14, 0, 0);
	cpu_deliver(v, 6, EVENT_HARDWARE, false, 0);
	assert_int_equal(c->rip, HANDLER);
	assert_int_equal(get32(c->gpr[REG_RSP]), 1); /* #GP(EXT) */
}

static void new_task(u32 eip, u32 eflags)
{
	put32(TSS2 + 32, eip);
	put32(TSS2 + 36, eflags);
	put32(TSS2 + 40, 0x11111111); /* EAX */
	put32(TSS2 + 56, 0x9000);     /* ESP */
	put16(TSS2 + 72, KDS);
	put16(TSS2 + 76, KCS);
	put16(TSS2 + 80, KDS);
	put16(TSS2 + 84, KDS);
	put16(TSS2 + 96, LDT_SEL);
}

static void test_task_jmp(void **state)
{
	struct dinsn d = far_ptr(TR2, 0);

	new_task(0x30000, FL_FIXED1 | FL_CF);
	put16(TSS2 + 100, 1); /* T */
	c->gpr[REG_RBX] = 0x77777777;
	c->dr[7] = 0x401;
	assert_int_equal(sys_jmp_far(v, &d), 0);
	assert_int_equal(c->rip, 0x30000);
	assert_int_equal(c->gpr[REG_RAX], 0x11111111);
	assert_int_equal(c->rflags, FL_FIXED1 | FL_CF);
	assert_int_equal(c->tr.sel, TR2);
	assert_int_equal(c->tr.attr & SEG_TYPE, 11);
	assert_int_equal(c->ldtr.base, LDT);
	assert_true(c->cr0 & CR0_TS);
	assert_int_equal(c->dr[7], 0x400);
	assert_true(c->seg[SEG_FS].attr & SEG_UNUSABLE);
	assert_int_equal(get32(TSS + 32), CODE + 7);
	assert_int_equal(get32(TSS + 52), 0x77777777);
	assert_int_equal(get16(TSS + 76), KCS);
	assert_int_equal(mem[GDT + TR1 + 5], 0x89); /* no longer busy */
	assert_int_equal(mem[GDT + TR2 + 5], 0xeb);
	assert_true(cpu_take_events(v)); /* the T bit's trap */
	assert_true(c->dr[6] & BIT(15));
	assert_int_equal(c->rip, HANDLER + 16);
}

static void test_task_gate_and_back(void **state)
{
	struct dinsn iret = insn(CODE_32, 4);

	new_task(0x30000, FL_FIXED1);
	gate_at(IDT + EXC_GP * 8, TR2, 0, 5, 0, 0);
	user_mode();
	c->rflags |= FL_IF;
	assert_int_equal(fault_gp(v, 0x1230), FAULT);
	cpu_deliver_fault(v);
	assert_int_equal(c->rip, 0x30000);
	assert_int_equal(cpu_cpl(c), 0);
	assert_true(c->rflags & FL_NT);
	assert_int_equal(get16(TSS2), TR1);
	assert_int_equal(c->gpr[REG_RSP], 0x9000 - 4);
	assert_int_equal(get32(0x9000 - 4), 0x1230);
	assert_int_equal(get32(TSS + 32), CODE);
	assert_true(get32(TSS + 36) & FL_RF);
	assert_int_equal(mem[GDT + TR1 + 5], 0x8b); /* still busy */

	c->gpr[REG_RSP] += 4;
	c->rip = 0x30010;
	assert_int_equal(sys_iret(v, &iret), 0);
	assert_int_equal(c->rip, CODE);
	assert_int_equal(cpu_cpl(c), 3);
	assert_int_equal(c->tr.sel, TR1);
	assert_int_equal(mem[GDT + TR2 + 5], 0xe9);
	assert_false(get32(TSS2 + 36) & FL_NT);
	assert_int_equal(get32(TSS2 + 32), 0x30012);
	assert_int_equal(c->gpr[REG_RSP], USTACK);
}

static void test_task_faults(void **state)
{
	struct dinsn d = far_ptr(TASKGATE, 0);

	/* limit too small: in the old task */
	new_task(0x30000, FL_FIXED1);
	descriptor_at(GDT + TR2, TSS2, 0x66, 0xe9);
	assert_fault(sys_call_far(v, &d), EXC_TS, TR2);
	assert_int_equal(c->tr.sel, TR1);
	assert_int_equal(c->rip, CODE);
	/* a bad SS: in the new one */
	descriptor_at(GDT + TR2, TSS2, 0x67, 0xe9);
	put16(TSS2 + 80, UDS);
	assert_fault(sys_call_far(v, &d), EXC_TS, UDS & ~3);
	assert_int_equal(c->tr.sel, TR2);
	assert_int_equal(c->rip, 0x30000);
	assert_true(c->rflags & FL_NT);
	/* busy now */
	assert_fault(sys_call_far(v, &d), EXC_GP, TR2);
}

static void test_task_16bit(void **state)
{
	struct dinsn d = far_ptr(TR16, 0);

	put16(TSS16 + 14, 0x1234);
	put16(TSS16 + 16, FL_FIXED1);
	put16(TSS16 + 26, 0x8800); /* SP */
	put16(TSS16 + 34, KDS);
	put16(TSS16 + 36, KCS);
	put16(TSS16 + 38, KDS);
	put16(TSS16 + 40, KDS);
	assert_int_equal(sys_call_far(v, &d), 0);
	assert_int_equal(c->rip, 0x1234);
	assert_int_equal(c->gpr[REG_RSP], 0x8800);
	assert_int_equal(get16(TSS16), TR1);
	assert_int_equal(mem[GDT + TR16 + 5], 0x83);
	d = insn(CODE_32, 4);
	c->rflags |= FL_ZF;
	assert_int_equal(sys_iret(v, &d), 0);
	assert_int_equal(c->rip, CODE + 7);
	assert_int_equal(get16(TSS16 + 14), 0x1236);
	assert_int_equal(get16(TSS16 + 16), FL_FIXED1 | FL_ZF);
}

static void test_v86_round_trip(void **state)
{
	struct dinsn iret = insn(CODE_32, 4);
	u32 sp = KSTACK - 0x100;
	static const u32 frame[9] = { 0x20, 0x1000, FL_VM | FL_IF | FL_FIXED1, 0xff0, 0xa00, 1, 2, 3, 4 };

	memcpy(mem + sp, frame, sizeof(frame));
	c->gpr[REG_RSP] = sp;
	assert_int_equal(sys_iret(v, &iret), 0);
	assert_true(cpu_v86(c));
	assert_int_equal(cpu_cpl(c), 3);
	assert_int_equal(c->seg[SEG_CS].base, 0x10000);
	assert_int_equal(c->seg[SEG_DS].sel, 2);
	assert_int_equal(c->seg[SEG_GS].sel, 4);
	assert_int_equal(c->gpr[REG_RSP], 0xff0);
	assert_int_equal(c->seg[SEG_SS].limit, 0xffff);

	cpu_deliver(v, 7, EVENT_HARDWARE, false, 0);
	assert_false(c->rflags & FL_VM);
	assert_int_equal(c->gpr[REG_RSP], KSTACK - 36);
	assert_memory_equal(mem + KSTACK - 36, frame, sizeof(frame));
	assert_true(c->seg[SEG_DS].attr & SEG_UNUSABLE);
	assert_int_equal(cpu_cpl(c), 0);
	assert_int_equal(c->rip, HANDLER + 0x70);
}

static void test_v86_software_interrupts(void **state)
{
	struct dinsn d = insn(CODE_16, 2);

	put16(0x10 * 4, 0x0333);
	put16(0x10 * 4 + 2, 0x2000);
	d.imm = 0x10;
	v86_mode(0);
	assert_fault(sys_int(v, &d), EXC_GP, 0);
	assert_fault(sys_pushf(v, &d), EXC_GP, 0);
	assert_fault(sys_cli(v, &d), EXC_GP, 0);

	/* VME: redirected, flags show VIF as IF and IOPL 3 */
	c->cr4 = CR4_VME;
	c->rflags |= FL_VIF;
	assert_int_equal(sys_int(v, &d), 0);
	assert_int_equal(c->rip, 0x333);
	assert_int_equal(c->seg[SEG_CS].base, 0x20000);
	assert_int_equal(get16(0xa000 + 0xfea), 0x22);
	assert_int_equal(get16(0xa000 + 0xfec), 0x1000);
	assert_int_equal(get16(0xa000 + 0xfee), FL_FIXED1 | FL_IF | FL_IOPL);
	assert_false(c->rflags & FL_VIF);
	assert_true(c->rflags & FL_IF);
	assert_int_equal(sys_iret(v, &d), 0);
	assert_int_equal(c->rip, 0x22);
	assert_true(c->rflags & FL_VIF);
	assert_int_equal(c->rflags & FL_IOPL, 0);
	c->rflags |= FL_VIP;
	assert_fault(sys_sti(v, &d), EXC_GP, 0);

	/* the bitmap says protected mode */
	mem[TSS + 0x88 - 32 + 2] = 1;
	assert_fault(sys_int(v, &d), EXC_GP, 0);
	v86_mode(3);
	gate_at(IDT + 0x10 * 8, KCS, HANDLER + 0x100, 14, 3, 0);
	assert_int_equal(sys_int(v, &d), 0);
	assert_int_equal(c->rip, HANDLER + 0x100);
	assert_int_equal(cpu_cpl(c), 0);
}

static void test_real_mode(void **state)
{
	struct dinsn d = insn(CODE_16, 2);

	cpu_reset(v, false);
	c->idtr = (struct table_reg){ 0, 0x3ff };
	put16(0x21 * 4, 0x100);
	put16(0x21 * 4 + 2, 0x3000);
	seg_load_real(c, SEG_SS, 0x800);
	c->gpr[REG_RSP] = 0x70002;
	c->rflags |= FL_IF;
	c->rip = 0x500;
	d.imm = 0x21;
	assert_int_equal(sys_int(v, &d), 0);
	assert_int_equal(c->rip, 0x100);
	assert_int_equal(c->seg[SEG_CS].base, 0x30000);
	assert_int_equal(c->gpr[REG_RSP], 0x7fffc); /* wraps within 64 KiB, upper half kept */
	assert_int_equal(get16(0x8000), FL_FIXED1 | FL_IF);
	assert_int_equal(get16(0x8000 + 0xfffe), 0xf000);
	assert_false(c->rflags & FL_IF);
	assert_int_equal(sys_iret(v, &d), 0);
	assert_int_equal(c->rip, 0x502);
	assert_int_equal(c->gpr[REG_RSP], 0x70002);
	/* unreal mode: the limit stays */
	c->seg[SEG_DS].limit = 0xffffffff;
	seg_load_real(c, SEG_DS, 0x1234);
	assert_int_equal(c->seg[SEG_DS].limit, 0xffffffff);
	assert_int_equal(c->seg[SEG_DS].base, 0x12340);
	/* no room in the table, thrice */
	c->idtr.limit = 3;
	assert_int_equal(fault_ud(v), FAULT);
	cpu_deliver_fault(v);
	assert_int_equal(triple_faults, 1);
}

static void test_enter_bound_io(void **state)
{
	struct dinsn d = insn(CODE_32, 4);

	d.imm = 0x20;
	d.imm2 = 3;
	c->gpr[REG_RBP] = 0x9000;
	put32(0x9000 - 4, 0x1111);
	put32(0x9000 - 8, 0x2222);
	assert_int_equal(sys_enter(v, &d), 0);
	assert_int_equal(c->gpr[REG_RBP], KSTACK - 0x1000 - 4);
	assert_int_equal(c->gpr[REG_RSP], KSTACK - 0x1000 - 16 - 0x20);
	assert_int_equal(get32(KSTACK - 0x1000 - 4), 0x9000);
	assert_int_equal(get32(KSTACK - 0x1000 - 8), 0x1111);
	assert_int_equal(get32(KSTACK - 0x1000 - 12), 0x2222);
	assert_int_equal(get32(KSTACK - 0x1000 - 16), KSTACK - 0x1000 - 4);

	d.is_mem = true;
	d.disp = 0x7000;
	d.reg = REG_RBX;
	put32(0x7000, (u32)-5);
	put32(0x7004, 5);
	c->gpr[REG_RBX] = (u32)-5;
	assert_int_equal(sys_bound(v, &d), 0);
	c->gpr[REG_RBX] = 6;
	assert_fault(sys_bound(v, &d), EXC_BR, 0);

	assert_int_equal(cpu_io_allowed(v, 0x3f8, 4), 0);
	user_mode();
	mem[TSS + 0x88 + 0x3f8 / 8] = 0x10;
	assert_int_equal(cpu_io_allowed(v, 0x3f8, 4), 0);
	assert_fault(cpu_io_allowed(v, 0x3fc, 1), EXC_GP, 0);
	assert_fault(cpu_io_allowed(v, 0x3fa, 4), EXC_GP, 0);
	assert_fault(cpu_io_allowed(v, 0xffff, 1), EXC_GP, 0); /* the bitmap's last byte needs one more */
	c->rflags |= FL_IOPL;
	assert_int_equal(cpu_io_allowed(v, 0x3fc, 1), 0);
}

static void test_sreg_stack(void **state)
{
	struct dinsn d = insn(CODE_32, 4);

	put32(KSTACK - 0x1004, 0xaaaaaaaa);
	d.opcode = 0x1e;
	assert_int_equal(sys_push_sreg(v, &d), 0);
	assert_int_equal(c->gpr[REG_RSP], KSTACK - 0x1004);
	assert_int_equal(get32(KSTACK - 0x1004), 0xaaaa0000 | KDS);
	d.opcode = 0x17;
	assert_int_equal(sys_pop_sreg(v, &d), 0);
	assert_int_equal(c->shadow, SHADOW_MOV_SS);
	assert_int_equal(c->gpr[REG_RSP], KSTACK - 0x1000);
	d.opcode = 0xb5;
	d.map = 1;
	d.is_mem = true;
	d.disp = 0x7000;
	d.reg = REG_RSI;
	put32(0x7000, 0xfeedface);
	put16(0x7004, UDS);
	assert_int_equal(sys_load_far_ptr(v, &d), 0);
	assert_int_equal(c->gpr[REG_RSI], 0xfeedface);
	assert_int_equal(c->seg[SEG_GS].sel, UDS);
}

#define T(f) cmocka_unit_test_setup(f, setup32)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_limits),
		T(test_lar_lsl_verr),
		T(test_table_registers),
		T(test_call_gate_parameters),
		T(test_interrupt_and_iret),
		T(test_task_jmp),
		T(test_task_gate_and_back),
		T(test_task_faults),
		T(test_task_16bit),
		T(test_v86_round_trip),
		T(test_v86_software_interrupts),
		T(test_real_mode),
		T(test_enter_bound_io),
		T(test_sreg_stack),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * Vector and x87 state: parking and loading, the XSAVE family and the x87
 * images against the host's own instructions, saving and restoring.
 */
#include "cpuctl_fake.h"

#include <stdio.h>
#include "cpu/save.h"

#define AREA 0x1000
#define EXTENDED (XCR0_AVX | XCR0_AVX512)

static u32 seed = 12345;
static u8 random_byte(void)
{
	seed = seed * 1103515245 + 12345;
	return (u8)(seed >> 16);
}

/* Every component of the image not initial; x87 with masked exceptions. */
static void random_image(struct cpu *c)
{
	u64 host = fpu_host_components();
	u16 fcw = 0x027f, fsw = 0x1800;
	u32 mxcsr = 0x1fa0;

	for (unsigned i = 0; i < 128; i++)
		c->fpu[FX_ST + i] = i % 16 < 10 ? random_byte() : 0;
	for (unsigned i = 0; i < 256; i++)
		c->fpu[FX_XMM + i] = random_byte();
	for (unsigned k = 2; k <= 7; k++)
		for (unsigned i = 0; (host & BIT(k)) && i < fpu_component_size(k); i++)
			c->fpu[fpu_component_offset(k) + i] = random_byte();
	memcpy(c->fpu + FX_FCW, &fcw, 2);
	memcpy(c->fpu + FX_FSW, &fsw, 2);
	c->fpu[FX_FTW] = 0xf5;
	memcpy(c->fpu + FX_MXCSR, &mxcsr, 4);
	fpu_set_pointers(c, 0, 0, 0);
}

/* What the host stores for the state in `c`: op is one of its instructions. */
#define HOST_STORE(v, insn, area, mask)                                                                                \
	do {                                                                                                           \
		fpu_load_slow(v);                                                                                      \
		__asm__ volatile(insn " (%0)"                                                                          \
				 :                                                                                     \
				 : "r"(area), "a"((u32)(mask)), "d"((u32)((u64)(mask) >> 32))                          \
				 : "memory");                                                                          \
		fpu_park_slow(v);                                                                                      \
	} while (0)

static void test_park_keeps_state(void **state)
{
	struct vcpu *v = new_vcpu("host");
	static u8 before[FPU_IMAGE_SIZE];
	u32 mxcsr;
	u16 fcw;

	random_image(&v->cpu);
	fpu_set_pointers(&v->cpu, 0x123, 0xffffffff81234567, 0x7fff00001111);
	memcpy(before, v->cpu.fpu, sizeof(before));
	for (unsigned i = 0; i < 3; i++) {
		fpu_load(v);
		assert_true(v->fpu_live);
		fpu_set_pointers(&v->cpu, 0x123, 0xffffffff81234567, 0x7fff00001111);
		fpu_park(v);
		assert_false(v->fpu_live);
		__asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
		__asm__ volatile("fnstcw %0" : "=m"(fcw));
		assert_int_equal(mxcsr, MXCSR_INIT);
		assert_int_equal(fcw, FCW_INIT);
	}
	/* the host's MXCSR_MASK appears, nothing else changes */
	memcpy(before + FX_MXCSR_MASK, v->cpu.fpu + FX_MXCSR_MASK, 4);
	assert_memory_equal(before, v->cpu.fpu, sizeof(before));
	free(v);
}

/* A register written by a real instruction while live arrives in the image. */
static void test_live_registers(void **state)
{
	struct vcpu *v = new_vcpu("host");
	u64 val = 0x1122334455667788, got;

	fpu_load(v);
	__asm__ volatile("movq %0, %%xmm9; fninit; fld1" : : "r"(val));
	fpu_park(v);
	memcpy(&got, v->cpu.fpu + FX_XMM + 9 * 16, 8);
	assert_int_equal(got, val);
	memcpy(&got, v->cpu.fpu + FX_ST, 8);
	assert_int_equal(got, BIT(63));
	assert_int_equal(v->cpu.fpu[FX_FTW], 0x80);
	assert_int_equal(xstate_in_use(&v->cpu, true), XCR0_X87 | XCR0_SSE);
	free(v);
}

static void set_rfbm(struct vcpu *v, u64 mask)
{
	v->cpu.gpr[REG_RAX] = (u32)mask;
	v->cpu.gpr[REG_RDX] = mask >> 32;
}

static void expect_component(const u8 *host_area, const u8 *guest_area, unsigned host_off, unsigned guest_off,
			     unsigned n)
{
	assert_memory_equal(host_area + host_off, guest_area + guest_off, n);
}

static void test_xsave_against_host(void **state)
{
	struct vcpu *v = new_vcpu("host");
	static _Alignas(64) u8 area[4096];
	u64 mask = fpu_host_components();

	if (!model.xsavec)
		skip();
	random_image(&v->cpu);
	HOST_STORE(v, "xsave64", area, mask);
	set_rfbm(v, mask);
	assert_int_equal(sys_xsave(v, INSN(.opsize = 8, .disp = AREA)), 0);
	expect_component(area, mem + AREA, 0, 0, 6); /* FOP, FIP, FDP are the guest's */
	expect_component(area, mem + AREA, FX_MXCSR, FX_MXCSR, 8 + 128 + 256);
	expect_component(area, mem + AREA, XSTATE_HEADER, XSTATE_HEADER, 64);
	for (unsigned i = 2; i <= 7; i++)
		if (mask & BIT(i))
			expect_component(area, mem + AREA, fpu_component_offset(i), xstate_offset(i), xstate_size(i));

	memset(area, 0, sizeof(area));
	HOST_STORE(v, "xsavec64", area, mask);
	memset(mem, 0, sizeof(mem));
	assert_int_equal(sys_xsavec(v, INSN(.opsize = 8, .disp = AREA)), 0);
	expect_component(area, mem + AREA, 0, 0, 6);
	expect_component(area, mem + AREA, FX_MXCSR, FX_MXCSR, xstate_compact_size(mask) - FX_MXCSR);
	free(v);
}

typedef int (*save_fn)(struct vcpu *v, const struct dinsn *d);

static void round_trip(save_fn save, save_fn restore, u64 mask)
{
	struct vcpu *v = new_vcpu("host");
	static u8 before[FPU_IMAGE_SIZE];
	u64 image_mask;

	random_image(&v->cpu);
	fpu_set_pointers(&v->cpu, 0x7ff, 0xfffff00012345678, 0x1000);
	v->cpu.pkru = 0x55555554;
	memcpy(before, v->cpu.fpu, sizeof(before));
	set_rfbm(v, mask);
	assert_int_equal(save(v, INSN(.opsize = 8, .disp = AREA)), 0);
	fpu_reset(&v->cpu);
	v->cpu.pkru = 0;
	memcpy(&image_mask, mem + AREA + XSTATE_HEADER, 8);
	assert_int_equal(image_mask, mask & v->cpu.xcr0);
	assert_int_equal(restore(v, INSN(.opsize = 8, .disp = AREA)), 0);
	if ((mask & v->cpu.xcr0) == v->cpu.xcr0) {
		memcpy(before + FX_MXCSR_MASK, v->cpu.fpu + FX_MXCSR_MASK, 4);
		assert_memory_equal(before, v->cpu.fpu, sizeof(before));
		assert_int_equal(v->cpu.pkru, v->cpu.xcr0 & XCR0_PKRU ? 0x55555554 : 0);
	}
	/* bits clear in XSTATE_BV: initial values */
	memset(mem + AREA + XSTATE_HEADER, 0, 8);
	assert_int_equal(restore(v, INSN(.opsize = 8, .disp = AREA)), 0);
	assert_int_equal(xstate_in_use(&v->cpu, true) & mask & v->cpu.xcr0, 0);
	free(v);
}

static void test_round_trips(void **state)
{
	struct vcpu *v = new_vcpu("host");
	bool xsaves = model.xsaves;

	free(v);
	if (!xsaves)
		skip();
	for (u64 mask = 1; mask; mask = mask << 1 | 1) {
		round_trip(sys_xsave, sys_xrstor, mask);
		round_trip(sys_xsaveopt, sys_xrstor, mask);
		round_trip(sys_xsavec, sys_xrstor, mask);
		round_trip(sys_xsaves, sys_xrstors, mask);
		if (mask == ~0ull)
			break;
	}
}

static void put64(unsigned at, u64 val)
{
	memcpy(mem + at, &val, 8);
}

static void test_xsave_faults(void **state)
{
	struct vcpu *v = new_vcpu("host");
	const struct dinsn *d = INSN(.opsize = 8, .disp = AREA);
	u32 bad = 0x80000000 | MXCSR_INIT;

	if (!model.xsaves)
		skip();
	random_image(&v->cpu);
	set_rfbm(v, ~0ull);
	assert_fault(v, sys_xsave(v, INSN(.disp = AREA + 8)), EXC_GP);
	v->cpu.cr0 |= CR0_TS;
	assert_fault(v, sys_xsave(v, d), EXC_NM);
	assert_fault(v, sys_xrstor(v, d), EXC_NM);
	v->cpu.cr0 &= ~CR0_TS;
	v->cpu.cr4 &= ~CR4_OSXSAVE;
	assert_fault(v, sys_xsave(v, d), EXC_UD);
	assert_fault(v, sys_xgetbv(v, d), EXC_UD);
	v->cpu.cr4 |= CR4_OSXSAVE;
	/* the end of the area is not writable: nothing may be written */
	assert_fault(v, sys_xsave(v, INSN(.disp = MEM_READ_ONLY - 0x400)), EXC_PF);
	for (unsigned i = 0; i < MEM_SIZE; i++)
		assert_int_equal(mem[i], 0);

	assert_int_equal(sys_xsave(v, d), 0);
	put64(AREA + XSTATE_HEADER, BIT(62));
	assert_fault(v, sys_xrstor(v, d), EXC_GP);
	put64(AREA + XSTATE_HEADER, 7);
	put64(AREA + XSTATE_HEADER + 16, 1);
	assert_fault(v, sys_xrstor(v, d), EXC_GP);
	put64(AREA + XSTATE_HEADER + 16, 0);
	put64(AREA + XSTATE_HEADER + 24, 1); /* not looked at by the standard form */
	assert_int_equal(sys_xrstor(v, d), 0);
	assert_fault(v, sys_xrstors(v, d), EXC_GP); /* needs the compacted format */
	put64(AREA + XSTATE_HEADER + 8, XCOMP_COMPACT | 7);
	assert_fault(v, sys_xrstor(v, d), EXC_GP); /* ... where it is */
	put64(AREA + XSTATE_HEADER + 24, 0);
	put64(AREA + XSTATE_HEADER + 8, XCOMP_COMPACT | 3);
	assert_fault(v, sys_xrstor(v, d), EXC_GP);
	put64(AREA + XSTATE_HEADER + 8, XCOMP_COMPACT | 7);
	assert_int_equal(sys_xrstor(v, d), 0);
	memcpy(mem + AREA + FX_MXCSR, &bad, 4);
	assert_fault(v, sys_xrstor(v, d), EXC_GP);
	assert_fault(v, sys_fxrstor(v, d), EXC_GP);
	set_cpl(v, 3);
	assert_fault(v, sys_xsaves(v, d), EXC_GP);
	free(v);
}

static void test_xsetbv(void **state)
{
	static const u64 bad[] = { 0, 2, 5, 0x23, 0xe3, BIT(4) | 1, BIT(62) | 1 };
	struct vcpu *v = new_vcpu("host");

	if (!model.xsave)
		skip();
	v->cpu.gpr[REG_RCX] = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		set_rfbm(v, bad[i]);
		assert_fault(v, sys_xsetbv(v, INSN()), EXC_GP);
	}
	set_rfbm(v, 3);
	assert_int_equal(sys_xsetbv(v, INSN()), 0);
	assert_int_equal(sys_xgetbv(v, INSN()), 0);
	assert_int_equal(v->cpu.gpr[REG_RAX], 3);
	v->cpu.gpr[REG_RCX] = 2;
	assert_fault(v, sys_xgetbv(v, INSN()), EXC_GP);
	assert_fault(v, sys_xsetbv(v, INSN()), EXC_GP);
	free(v);
}

/* The x87 images, with and without pending exceptions, as the host stores them. */
static void test_x87_against_host(void **state)
{
	struct vcpu *v = new_vcpu("host");
	static _Alignas(16) u8 area[512];

	for (unsigned n = 0; n < 200; n++) {
		u16 fcw = (u16)(random_byte() | random_byte() << 8), fsw = (u16)(random_byte() | random_byte() << 8);

		random_image(&v->cpu);
		memset(area, 0, sizeof(area));
		memcpy(area, v->cpu.fpu, 512);
		memcpy(area + FX_FCW, &fcw, 2);
		memcpy(area + FX_FSW, &fsw, 2);
		area[FX_FTW] = random_byte();
		if (n & 1)
			memset(area + FX_ST + 16 * (n % 8), 0, 10);
		memcpy(mem + AREA, area, 512);
		assert_int_equal(sys_fxrstor(v, INSN(.opsize = 8, .disp = AREA)), 0);
		/* loading normalises as the hardware does */
		__asm__ volatile("fxrstor64 (%0); fxsave64 (%0); fninit" : : "r"(area) : "memory");
		assert_memory_equal(area, v->cpu.fpu, 6);
		assert_memory_equal(area + FX_ST, v->cpu.fpu + FX_ST, 128);
	}
	free(v);
}

/* FNSTENV and FNSAVE of one state, on the host and here. */
static void test_x87_images(void **state)
{
	struct vcpu *v = new_vcpu("host");
	static _Alignas(16) u8 image[512], area[512];

	for (unsigned n = 0; n < 200; n++) {
		u16 fcw = (u16)(random_byte() | random_byte() << 8), fsw = (u16)(random_byte() | random_byte() << 8);
		u32 mxcsr = MXCSR_INIT, zero[2] = { 0, 0 };

		random_image(&v->cpu);
		memcpy(image, v->cpu.fpu, 512);
		memcpy(image + FX_FCW, &fcw, 2);
		memcpy(image + FX_FSW, &fsw, 2);
		memcpy(image + FX_MXCSR, &mxcsr, 4);
		image[FX_FTW] = random_byte();
		if (n & 1)
			memset(image + FX_ST + 16 * (n % 8), 0, 10);
		memset(area, 0, sizeof(area));
		__asm__ volatile("fxrstor64 (%1); fnstenv 256(%0); fnsave (%0); fninit"
				 :
				 : "r"(area), "r"(image)
				 : "memory");
		memcpy(mem + AREA, image, 512);
		assert_int_equal(sys_fxrstor(v, INSN(.opsize = 8, .disp = AREA)), 0);
		assert_int_equal(sys_fnstenv(v, INSN(.disp = AREA + 1024 + 256)), 0);
		assert_int_equal(sys_fnsave(v, INSN(.disp = AREA + 1024)), 0);
		/* pointers: what the host recorded is not comparable */
		for (unsigned k = 0; k < 2; k++) {
			memcpy(area + 256 * k + 12, zero, 8);
			memcpy(area + 256 * k + 20, zero, 4);
			memcpy(mem + AREA + 1024 + 256 * k + 12, zero, 8);
			memcpy(mem + AREA + 1024 + 256 * k + 20, zero, 4);
		}
		assert_memory_equal(area + 256, mem + AREA + 1024 + 256, 28);
		assert_memory_equal(area, mem + AREA + 1024, 108);
		assert_int_equal(v->cpu.fpu[FX_FTW], 0);
		/* and back: FRSTOR of what FNSAVE stored */
		v->cpu.cr0 &= ~CR0_NE;
		assert_int_equal(sys_frstor(v, INSN(.disp = AREA + 1024)), 0);
		assert_int_equal(v->cpu.fpu[FX_FTW], image[FX_FTW]);
		v->cpu.cr0 |= CR0_NE;
	}
	free(v);
}

static void test_fx_faults(void **state)
{
	struct vcpu *v = new_vcpu("host");
	const struct dinsn *d = INSN(.disp = AREA);

	assert_fault(v, sys_fxsave(v, INSN(.disp = AREA + 8)), EXC_GP);
	assert_fault(v, sys_fxsave(v, INSN(.disp = MEM_READ_ONLY - 256)), EXC_PF);
	v->cpu.cr0 |= CR0_EM;
	assert_fault(v, sys_fxsave(v, d), EXC_UD);
	assert_fault(v, sys_fnsave(v, d), EXC_NM);
	v->cpu.cr0 = (v->cpu.cr0 & ~CR0_EM) | CR0_TS;
	assert_fault(v, sys_fxrstor(v, d), EXC_NM);
	v->cpu.cr0 &= ~CR0_TS;
	v->cpu.fpu[FX_FSW] = 0x81; /* pending invalid operation */
	assert_fault(v, sys_frstor(v, d), EXC_MF);
	assert_int_equal(sys_fnstenv(v, d), 0);
	assert_int_equal(v->cpu.fpu[FX_FSW], 1); /* masked now */
	free(v);
}

static void save(struct vcpu *v, struct encoder *e)
{
	enc_init(e);
	cpu_save(&v->cpu, e);
	assert_false(e->failed);
}

static int check(const u8 *data, size_t len)
{
	struct decoder d = { .data = data, .len = len };

	return cpu_check(&d, NULL);
}

static void test_save_load(void **state)
{
	struct vcpu *v = new_vcpu("host"), *w = new_vcpu("host");
	struct encoder a, b;
	struct decoder d;

	random_image(&v->cpu);
	for (unsigned i = 0; i < 16; i++)
		v->cpu.gpr[i] = i * 0x0101010101010101;
	v->cpu.mtrr_fixed[10] = 7;
	v->cpu.nmi_blocked = true;
	v->cpu.pending_db = 0x4000;
	v->cpu.pkru = 9;
	save(v, &a);
	assert_int_equal(check(a.data, a.len), 0);
	d = (struct decoder){ .data = a.data, .len = a.len };
	cpu_load(&w->cpu, &d);
	save(w, &b);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	memcpy(v->cpu.fpu + FX_MXCSR_MASK, w->cpu.fpu + FX_MXCSR_MASK, 4);
	assert_memory_equal(&v->cpu, &w->cpu, sizeof(v->cpu));
	/* XSTATE_BV of the image says nothing */
	memset(w->cpu.fpu + XSTATE_HEADER, 0, 8);
	enc_free(&b);
	save(w, &b);
	assert_memory_equal(a.data, b.data, a.len);

	for (size_t n = 0; n < a.len; n++)
		assert_int_equal(check(a.data, n), -1);
	for (unsigned n = 0; n < 20000; n++) { /* garbage: must only not crash */
		size_t at = (random_byte() | (size_t)random_byte() << 8) % a.len;
		u8 old = a.data[at];

		a.data[at] ^= random_byte();
		(void)check(a.data, a.len);
		a.data[at] = old;
	}
	enc_free(&a);
	enc_free(&b);
	free(v);
	free(w);
}

static void refused(struct vcpu *v)
{
	struct encoder e;

	save(v, &e);
	assert_int_equal(check(e.data, e.len), -1);
	enc_free(&e);
	free(v);
}

static void test_save_refuses(void **state)
{
	struct vcpu *v;

	v = new_vcpu("host");
	v->cpu.cr0 &= ~CR0_PE;
	refused(v);
	v = new_vcpu("host");
	v->cpu.efer &= ~EFER_LMA;
	refused(v);
	v = new_vcpu("host");
	v->cpu.activity = 9;
	refused(v);
	v = new_vcpu("host");
	v->cpu.rflags = 0;
	refused(v);
	v = new_vcpu("host");
	memset(v->cpu.fpu + FX_MXCSR, 0xff, 4);
	refused(v);
	v = new_vcpu("host");
	v->cpu.seg[0].attr = 1u << 20;
	refused(v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_park_keeps_state),   cmocka_unit_test(test_live_registers),
		cmocka_unit_test(test_xsave_against_host), cmocka_unit_test(test_round_trips),
		cmocka_unit_test(test_xsave_faults),	   cmocka_unit_test(test_xsetbv),
		cmocka_unit_test(test_x87_against_host),   cmocka_unit_test(test_x87_images),
		cmocka_unit_test(test_fx_faults),	   cmocka_unit_test(test_save_load),
		cmocka_unit_test(test_save_refuses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

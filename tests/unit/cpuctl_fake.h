/*
 * A processor without a machine for the tests of processor control: 64 KiB of
 * linear memory at 0, the last page not writable; ports that remember; a TSC
 * that stands still. Stands in for what src/cpu calls in other files, so the
 * tests link the objects under test alone.
 */
#ifndef ECTYPE_TESTS_CPUCTL_FAKE_H
#define ECTYPE_TESTS_CPUCTL_FAKE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cpu/bus.h"
#include "cpu/cpuid.h"
#include "cpu/event.h"
#include "cpu/linear.h"
#include "cpu/msr.h"
#include "cpu/seg.h"
#include "cpu/sys.h"
#include "cpu/xstate.h"

#define MEM_SIZE 0x10000u
#define MEM_READ_ONLY 0xf000u

static _Alignas(64) u8 mem[MEM_SIZE];
static unsigned flush_all, flush_nonglobal, flush_page, mode_changed;
static u64 deadline, cr8, tsc_now = 1000;
static u32 port_value = 0x11223344, port_written;
static unsigned port_accesses;

static int page_fault(struct vcpu *v, gva_t lin)
{
	return fault_raise(v, EXC_PF, true, 2, lin);
}

int lin_read(struct vcpu *v, gva_t lin, void *dst, unsigned len, enum lin_how how)
{
	if (lin + len > MEM_SIZE)
		return page_fault(v, lin);
	memcpy(dst, mem + lin, len);
	return 0;
}
int lin_probe_write(struct vcpu *v, gva_t lin, unsigned len, enum lin_how how)
{
	return lin + len > MEM_READ_ONLY ? page_fault(v, lin) : 0;
}
int lin_write(struct vcpu *v, gva_t lin, const void *src, unsigned len, enum lin_how how)
{
	if (lin_probe_write(v, lin, len, how))
		return FAULT;
	memcpy(mem + lin, src, len);
	return 0;
}
void mmu_flush_all(struct vcpu *v)
{
	flush_all++;
}
void mmu_cr3_loaded(struct vcpu *v, bool keep)
{
	flush_nonglobal++;
}
void mmu_flush_pcid(struct vcpu *v, unsigned pcid)
{
	flush_nonglobal++;
}
void mmu_flush_pcid_page(struct vcpu *v, unsigned pcid, gva_t lin)
{
	flush_page++;
}
void mmu_flush_page(struct vcpu *v, gva_t lin)
{
	flush_page++;
}
void mmu_mode_changed(struct vcpu *v)
{
	mode_changed++;
}
void cpu_recheck_events(struct vcpu *v) {}
int memory_read(struct memory *m, gpa_t gpa, void *dst, u64 len)
{
	memset(dst, 0xff, len);
	if (gpa + len > MEM_SIZE)
		return -1;
	memcpy(dst, mem + gpa, len);
	return 0;
}
u32 port_read(struct portmap *p, u16 port, unsigned size)
{
	port_accesses++;
	return size == 4 ? port_value : port_value & ((1u << 8 * size) - 1);
}
void port_write(struct portmap *p, u16 port, u32 val, unsigned size)
{
	port_accesses++;
	port_written = val;
}
int cpu_io_allowed(struct vcpu *v, u16 port, unsigned size)
{
	return port == 0x666 ? fault_gp(v, 0) : 0;
}

u64 dinsn_offset(const struct vcpu *v, const struct dinsn *d)
{
	return (u64)d->disp;
}
int seg_linear(struct vcpu *v, enum seg_reg seg, u64 off, unsigned len, enum seg_access acc, gva_t *lin)
{
	*lin = off;
	return 0;
}
int sys_mem_linear(struct vcpu *v, const struct dinsn *d, unsigned len, int acc, gva_t *lin)
{
	*lin = (u64)d->disp;
	return 0;
}
void sys_advance(struct vcpu *v, const struct dinsn *d)
{
	v->cpu.rip += d->len;
}
u64 sys_reg_read(const struct vcpu *v, const struct dinsn *d, unsigned n, unsigned size)
{
	return size == 8 ? v->cpu.gpr[n] : v->cpu.gpr[n] & ((1ull << 8 * size) - 1);
}
void sys_reg_write(struct vcpu *v, const struct dinsn *d, unsigned n, unsigned size, u64 val)
{
	if (size >= 4)
		v->cpu.gpr[n] = size == 8 ? val : (u32)val;
	else
		memcpy(&v->cpu.gpr[n], &val, size);
}
int sys_rm_read(struct vcpu *v, const struct dinsn *d, unsigned size, u64 *val)
{
	*val = sys_reg_read(v, d, d->rm, size);
	return 0;
}
int sys_rm_write(struct vcpu *v, const struct dinsn *d, unsigned size, u64 val)
{
	sys_reg_write(v, d, d->rm, size, val);
	return 0;
}

static u64 fake_tsc(void *m)
{
	return tsc_now;
}
static u64 fake_cr8_read(void *m, unsigned cpu)
{
	return cr8;
}
static void fake_cr8_write(void *m, unsigned cpu, u64 val)
{
	cr8 = val;
}
static int fake_msr_read(void *m, unsigned cpu, u32 msr, u64 *val)
{
	*val = msr == MSR_TSC_DEADLINE ? deadline : 0xfee00900;
	return msr == 0x8ff ? -1 : 0;
}
static int fake_msr_write(void *m, unsigned cpu, u32 msr, u64 val)
{
	if (msr == MSR_TSC_DEADLINE)
		deadline = val;
	return msr == 0x8ff ? -1 : 0;
}
static void fake_random(void *m, void *p, size_t n)
{
	memset(p, 0x5a, n);
}

static const struct vcpu_hooks fake_hooks = {
	.tsc = fake_tsc,
	.cr8_read = fake_cr8_read,
	.cr8_write = fake_cr8_write,
	.apic_msr_read = fake_msr_read,
	.apic_msr_write = fake_msr_write,
	.random = fake_random,
};

static struct cpu_model model;

/* A 64-bit kernel on model `name`. */
static struct vcpu *new_vcpu(const char *name)
{
	struct vcpu *v = aligned_alloc(64, (sizeof(*v) + 63) & ~63ul);
	struct error e;

	assert_non_null(v);
	memset(v, 0, sizeof(*v));
	assert_int_equal(cpu_model_init(&model, name, 1, 2100000000, &e), 0);
	v->model = &model;
	v->hooks = &fake_hooks;
	v->cpu.rflags = FL_FIXED1;
	v->cpu.cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE | CR0_WP;
	v->cpu.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXSAVE;
	v->cpu.efer = EFER_LME | EFER_LMA | EFER_SCE;
	v->cpu.seg[SEG_CS].attr = SEG_P | SEG_S | SEG_TYPE_CODE | SEG_L;
	v->cpu.seg[SEG_SS].attr = SEG_P | SEG_S | SEG_TYPE_RW;
	v->cpu.dr[6] = 0xffff0ff0;
	v->cpu.dr[7] = 0x400;
	fpu_reset(&v->cpu);
	v->cpu.xcr0 = model.xcr0_supported ? model.xcr0_supported : XCR0_X87;
	memset(mem, 0, sizeof(mem));
	deadline = 0;
	return v;
}
static void set_cpl(struct vcpu *v, unsigned cpl)
{
	v->cpu.seg[SEG_SS].attr = SEG_P | SEG_S | SEG_TYPE_RW | cpl << SEG_DPL_SHIFT;
}

/* Defaults first, the test's own fields over them. */
#ifdef __clang__
#pragma clang diagnostic ignored "-Winitializer-overrides"
#else
#pragma GCC diagnostic ignored "-Woverride-init"
#endif
#define INSN(...) (&(struct dinsn){ .len = 3, .mode = CODE_64, .opsize = 4, .addrsize = 8, __VA_ARGS__ })
#define assert_fault(v, call, vec)                                                                                     \
	do {                                                                                                           \
		assert_int_equal(call, FAULT);                                                                         \
		assert_int_equal((v)->fault.vector, vec);                                                              \
	} while (0)

void cpu_io_breakpoint(struct vcpu *v, u16 port, unsigned len)
{
	(void)v, (void)port, (void)len;
}

#endif

/*
 * A processor on one MiB of flat linear memory, for tests of src/cpu/'s
 * control transfers: fakes of cpu/linear.h and of the few other functions they
 * call, and builders for descriptors. One include a test program.
 */
#ifndef ECTYPE_TESTS_FLATMEM_H
#define ECTYPE_TESTS_FLATMEM_H

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "cpu/cpuid.h"
#include "cpu/event.h"
#include "cpu/linear.h"
#include "cpu/seg.h"
#include "cpu/sys.h"

#define MEM_SIZE MiB
#define GDT 0x1000u
#define IDT 0x2000u
#define LDT 0x3000u
#define TSS 0x4000u
#define TSS2 0x5000u
#define KSTACK 0x8000u
#define USTACK 0xa000u
#define CODE 0x10000u

static u8 mem[MEM_SIZE];
static struct vcpu vcpu_storage;
static struct vcpu *const v = &vcpu_storage;
static struct cpu *const c = &vcpu_storage.cpu;
static u64 bad_page; /* accesses to this page fault; 0: none */
static bool intr_line;
static int intr_vector, acks, triple_faults, supervisor_accesses;

static int fake_access(gva_t lin, unsigned len, bool write, enum lin_how how)
{
	u64 last = lin + len - 1;

	supervisor_accesses += how == LIN_SUPERVISOR;
	if (lin < MEM_SIZE && last < MEM_SIZE && (!bad_page || last < bad_page || lin >= bad_page + PAGE_SIZE))
		return 0;
	return fault_raise(v, EXC_PF, true, (write ? 2 : 0) | (how == LIN_CPL && cpu_cpl(c) == 3 ? 4 : 0),
			   lin >= bad_page ? lin : bad_page);
}

int lin_read(struct vcpu *x, gva_t lin, void *dst, unsigned len, enum lin_how how)
{
	if (fake_access(lin, len, false, how))
		return FAULT;
	memcpy(dst, mem + lin, len);
	return 0;
}
int lin_write(struct vcpu *x, gva_t lin, const void *src, unsigned len, enum lin_how how)
{
	if (fake_access(lin, len, true, how))
		return FAULT;
	memcpy(mem + lin, src, len);
	return 0;
}
int lin_probe_write(struct vcpu *x, gva_t lin, unsigned len, enum lin_how how)
{
	return fake_access(lin, len, true, how);
}
int lin_or8(struct vcpu *x, gva_t lin, u8 bits, enum lin_how how)
{
	if (fake_access(lin, 1, true, how))
		return FAULT;
	mem[lin] |= bits;
	return 0;
}
int lin_and8(struct vcpu *x, gva_t lin, u8 bits, enum lin_how how)
{
	if (fake_access(lin, 1, true, how))
		return FAULT;
	mem[lin] &= bits;
	return 0;
}
void mmu_flush_all(struct vcpu *x) {}
void mmu_cr3_loaded(struct vcpu *x, bool keep) {}
void mmu_mode_changed(struct vcpu *x) {}
void fpu_park_slow(struct vcpu *x) {}
void fpu_reset(struct cpu *x) {}
void cpu_cpuid(struct vcpu *x, u32 leaf, u32 subleaf, u32 out[4])
{
	out[0] = leaf == 1 ? 0x000306c3 : 0;
}

static bool fake_pending(void *m, unsigned cpu)
{
	return intr_line;
}
static int fake_ack(void *m, unsigned cpu)
{
	acks++;
	intr_line = false;
	return intr_vector;
}
static void fake_triple(void *m, unsigned cpu)
{
	triple_faults++;
}
static const struct vcpu_hooks fake_hooks = {
	.intr_pending = fake_pending,
	.intr_ack = fake_ack,
	.triple_fault = fake_triple,
};

static inline void put16(u32 a, u16 x)
{
	memcpy(mem + a, &x, 2);
}
static inline void put32(u32 a, u32 x)
{
	memcpy(mem + a, &x, 4);
}
static inline void put64(u32 a, u64 x)
{
	memcpy(mem + a, &x, 8);
}
static inline u16 get16(u64 a)
{
	u16 x;

	memcpy(&x, mem + a, 2);
	return x;
}
static inline u32 get32(u64 a)
{
	u32 x;

	memcpy(&x, mem + a, 4);
	return x;
}
static inline u64 get64(u64 a)
{
	u64 x;

	memcpy(&x, mem + a, 8);
	return x;
}

/* `attr` as in struct segment; `limit` as it stands in the descriptor. */
static inline void descriptor_at(u32 addr, u32 base, u32 limit, u32 attr)
{
	put32(addr, base << 16 | (limit & 0xffff));
	put32(addr + 4, (base & 0xff000000) | ((base >> 16) & 0xff) | attr << 8 | (limit & 0xf0000));
}
static inline void gate_at(u32 addr, u16 sel, u32 off, unsigned type, unsigned dpl, unsigned low)
{
	put32(addr, (u32)sel << 16 | (off & 0xffff));
	put32(addr + 4, (off & 0xffff0000) | 0x8000 | dpl << 13 | type << 8 | low);
}
static inline void gate64(unsigned vector, u16 sel, u64 off, unsigned type, unsigned dpl, unsigned ist)
{
	u32 a = IDT + vector * 16;

	gate_at(a, sel, (u32)off, type, dpl, ist);
	put32(a + 8, (u32)(off >> 32));
	put32(a + 12, 0);
}

static inline struct segment flat(u16 sel, u32 attr)
{
	return (struct segment){ .sel = sel, .attr = attr | SEG_G, .limit = 0xffffffff };
}

/* An instruction without operands of interest. */
static inline struct dinsn insn(enum code_mode mode, unsigned opsize)
{
	return (struct dinsn){ .len = 2,
			       .mode = (u8)mode,
			       .opsize = (u8)opsize,
			       .addrsize = mode == CODE_64 ? 8 : 4,
			       .base = REG_NONE,
			       .index = REG_NONE,
			       .scale = 1,
			       .seg = SEG_DS };
}

static inline void clear_machine(void)
{
	memset(mem, 0, sizeof(mem));
	memset(v, 0, sizeof(*v));
	v->hooks = &fake_hooks;
	bad_page = 0;
	intr_line = false;
	intr_vector = acks = triple_faults = supervisor_accesses = 0;
	cpu_reset(v, false);
	v->intr_held = false;
}

#define assert_fault(call, vec, err)                                                                                   \
	do {                                                                                                           \
		assert_int_equal(call, FAULT);                                                                         \
		assert_int_equal(v->fault.vector, vec);                                                                \
		assert_int_equal(v->fault.error, err);                                                                 \
	} while (0)

#endif

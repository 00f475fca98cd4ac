/*
 * Accesses through the software MMU: TLB contents, page crossing, code pages,
 * ROM, MMIO, alignment checks, breakpoints, and every kind of flush.
 */
#include "mmu_rig.h"

#include "cpu/event.h"

static const gva_t LIN = 0x12345000;

static struct tlb_entry *slot(struct rig *r, enum mmu_index i, gva_t lin)
{
	return tlb_slot(r->v.mmu->tlb[i], lin);
}

static bool cached(struct rig *r, enum mmu_index i, gva_t lin, enum mmu_access a)
{
	return slot(r, i, lin)->tag[a] == (lin & PAGE_MASK);
}

static u64 peek(struct rig *r, gpa_t gpa)
{
	u64 v;

	memory_read(r->v.mem, gpa, &v, 8);
	return v;
}

struct seen {
	unsigned count;
	gpa_t gpa;
	unsigned len;
	u64 value;
	struct rig *rig;
};

static void on_write(void *opaque, gpa_t gpa, unsigned len)
{
	struct seen *s = opaque;

	s->count++;
	s->gpa = gpa;
	s->len = len;
	s->value = peek(s->rig, gpa);
}

static void make_code(struct rig *r, gpa_t gpa)
{
	struct page_target t;

	assert_true(memory_page(r->v.mem, gpa, &t));
	*t.flags |= PAGE_CODE;
	mmu_protect_frame(&r->v, gpa);
}

static void crossing(void **state)
{
	struct rig *r = *state;
	u8 data[64], back[64], before[64];

	for (unsigned i = 0; i < 64; i++)
		data[i] = (u8)(i + 1);
	for (enum paging p = M32; p < PAGINGS; p++) {
		rig_mode(r, p);
		r->v.cpu.cr0 |= CR0_WP;
		mmu_mode_changed(&r->v);
		rig_map(r, LIN, 1, 0x5000 | E_ALL);
		rig_map(r, LIN + PAGE_SIZE, 1, 0x8000 | E_ALL);
		for (unsigned len = 2; len <= 64; len++) {
			gva_t at = LIN + PAGE_SIZE - len / 2;

			assert_int_equal(mmu_write(&r->v, at, data, len), 0);
			assert_memory_equal(r->ram + 0x6000 - len / 2, data, len / 2);
			assert_memory_equal(r->ram + 0x8000, data + len / 2, len - len / 2);
			assert_int_equal(mmu_read(&r->v, at, back, len), 0);
			assert_memory_equal(data, back, len);
		}
		/* the second page refuses: nothing written, fault address is the second page's */
		rig_set(r, r->entry[1], 0x8000 | E_P | E_U);
		mmu_flush_all(&r->v);
		memcpy(before, r->ram + 0x5fc0, 64);
		assert_int_equal(mmu_write(&r->v, LIN + PAGE_SIZE - 3, data, 8), FAULT);
		assert_int_equal(r->v.fault.vector, EXC_PF);
		assert_int_equal(r->v.fault.error, 3);
		assert_true(r->v.fault.addr == LIN + PAGE_SIZE);
		assert_int_equal(lin_write(&r->v, LIN + PAGE_SIZE - 3, data, 8, LIN_SUPERVISOR), FAULT);
		assert_int_equal(lin_probe_write(&r->v, LIN + PAGE_SIZE - 3, 8, LIN_CPL), FAULT);
		assert_int_equal(lin_probe_read(&r->v, LIN + PAGE_SIZE - 3, 8, LIN_CPL), 0);
		assert_memory_equal(before, r->ram + 0x5fc0, 64);
		rig_set(r, r->entry[1], 0);
		mmu_flush_all(&r->v);
		assert_int_equal(mmu_read(&r->v, LIN + PAGE_SIZE - 3, back, 8), FAULT);
		assert_int_equal(r->v.fault.error, 0);
	}
	/* at the end of the canonical half */
	rig_mode(r, L4);
	rig_map(r, 0x7ffffffff000, 1, 0x5000 | E_ALL);
	assert_int_equal(mmu_write(&r->v, 0x7ffffffffffd, data, 8), FAULT);
	assert_int_equal(r->v.fault.vector, EXC_GP);
	/* outside 64-bit mode addresses wrap at 4 GiB */
	rig_mode(r, M32);
	rig_map(r, 0xfffff000, 1, 0x5000 | E_ALL);
	rig_map(r, 0, 1, 0x8000 | E_ALL);
	assert_int_equal(mmu_write(&r->v, 0xfffffffe, data, 4), 0);
	assert_int_equal(r->ram[0x5fff], 2);
	assert_int_equal(r->ram[0x8000], 3);
}

static void long_accesses(void **state)
{
	struct rig *r = *state;
	static u8 data[9000], back[9000], zero[9000];

	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = (u8)(i * 13 + 1);
	for (unsigned i = 0; i < 3; i++)
		rig_map(r, LIN + i * PAGE_SIZE, 1, (0x5000 + 0x2000 * i) | E_ALL);
	assert_int_equal(lin_write(&r->v, LIN + 100, data, 9000, LIN_SUPERVISOR), 0);
	assert_int_equal(lin_read(&r->v, LIN + 100, back, 9000, LIN_SUPERVISOR), 0);
	assert_memory_equal(data, back, 9000);
	assert_memory_equal(data, r->ram + 0x5064, 3996);
	assert_memory_equal(data + 3996, r->ram + 0x7000, 4096);
	/* third page missing: none of it is written */
	rig_set(r, r->entry[1], 0);
	mmu_flush_all(&r->v);
	memset(r->ram + 0x5000, 0, 0x1000);
	assert_int_equal(lin_write(&r->v, LIN + 100, data, 9000, LIN_SUPERVISOR), FAULT);
	assert_true(r->v.fault.addr == LIN + 2 * PAGE_SIZE);
	assert_memory_equal(r->ram + 0x5000, zero, 4096);
}

static void code_pages(void **state)
{
	struct rig *r = *state;
	struct seen s = { .rig = r };
	u64 val = 0x1111111111111111;
	struct page_target t;

	memory_add_listener(r->v.mem, &(struct memory_listener){ .page_written = on_write, .opaque = &s });
	rig_map(r, LIN, 1, 0x5000 | E_ALL);
	rig_map(r, LIN + PAGE_SIZE, 1, 0x6000 | E_ALL);
	rig_map(r, 0xffff800000000000, 1, 0x5000 | E_ALL);
	assert_int_equal(mmu_write(&r->v, LIN, &val, 8), 0);
	assert_int_equal(mmu_write(&r->v, 0xffff800000000000, &val, 8), 0);
	assert_int_equal(lin_write(&r->v, LIN, &val, 8, LIN_USER), 0);
	assert_true(cached(r, MMU_KERNEL, LIN, MMU_WRITE) && cached(r, MMU_USER, LIN, MMU_WRITE));
	make_code(r, 0x5123);
	/* every alias lost its write tag and only that */
	assert_false(cached(r, MMU_KERNEL, LIN, MMU_WRITE));
	assert_false(cached(r, MMU_USER, LIN, MMU_WRITE));
	assert_false(cached(r, MMU_KERNEL, 0xffff800000000000, MMU_WRITE));
	assert_true(cached(r, MMU_KERNEL, LIN, MMU_READ));
	assert_int_equal(s.count, 0);
	val = 0x2222222222222222;
	assert_int_equal(mmu_write(&r->v, LIN + 8, &val, 8), 0);
	assert_int_equal(s.count, 1);
	assert_true(s.gpa == 0x5008 && s.len == 8 && s.value == val); /* told afterwards */
	assert_false(cached(r, MMU_KERNEL, LIN, MMU_WRITE));
	/* half in the code page */
	assert_int_equal(mmu_write(&r->v, LIN + PAGE_SIZE - 3, &val, 8), 0);
	assert_int_equal(s.count, 2);
	assert_true(s.gpa == 0x5ffd && s.len == 3);
	assert_int_equal(lin_or8(&r->v, LIN, 0x81, LIN_SUPERVISOR), 0);
	assert_int_equal(s.count, 3);
	assert_int_equal(r->ram[0x5000], 0x91);
	assert_int_equal(lin_and8(&r->v, LIN, 0x80, LIN_SUPERVISOR), 0);
	assert_int_equal(s.count, 4);
	assert_int_equal(r->ram[0x5000], 0x80);
	struct xlat x;
	assert_int_equal(mmu_translate(&r->v, LIN, MMU_WRITE, MMU_KERNEL, &x), 0);
	assert_true(x.host && !x.writable);
	/* no code any more: fast again */
	memory_page(r->v.mem, 0x5000, &t);
	*t.flags = 0;
	assert_int_equal(mmu_write(&r->v, LIN, &val, 8), 0);
	assert_true(cached(r, MMU_KERNEL, LIN, MMU_WRITE));
	assert_int_equal(s.count, 4);
	/* the walk's own writes count too */
	rig_map(r, 0x7654321000, 1, 0x9000 | E_ALL);
	make_code(r, r->entry[1]);
	assert_int_equal(mmu_write(&r->v, 0x7654321000, &val, 8), 0);
	assert_int_equal(s.count, 5);
	assert_true(s.gpa == r->entry[1] && s.len == 8);
}

static unsigned mmio_reads, mmio_writes;
static u64 mmio_last;

static u64 dev_read(void *opaque, u64 off, unsigned size)
{
	assert_false(((struct vcpu *)opaque)->fpu_live);
	mmio_reads++;
	return 0x0807060504030201ull * (off / 8 + 1) >> 8 * (off % 8);
}

static void dev_write(void *opaque, u64 off, u64 val, unsigned size)
{
	assert_false(((struct vcpu *)opaque)->fpu_live);
	mmio_writes++;
	mmio_last = val | off << 56;
}

static const struct io_ops dev_ops = { dev_read, dev_write, 1, 8 };

static void rom_mmio_holes(void **state)
{
	struct rig *r = *state;
	u8 *rom = aligned_alloc(4096, 4096), buf[64];
	u64 val = 0;

	memset(rom, 0x77, 4096);
	memory_map_host(r->v.mem, 0x70000000, rom, 4096, REGION_ROM, 0, "rom");
	memory_map_mmio(r->v.mem, 0x71000000, 0x1000, &dev_ops, &r->v, 0, "dev");
	rig_map(r, LIN, 1, 0x70000000 | E_ALL);
	rig_map(r, LIN + PAGE_SIZE, 1, 0x71000000 | E_ALL);
	rig_map(r, LIN + 2 * PAGE_SIZE, 1, 0x5000 | E_ALL);
	rig_map(r, LIN + 3 * PAGE_SIZE, 1, 0x90000000 | E_ALL);
	assert_int_equal(mmu_write(&r->v, LIN + 8, &val, 8), 0);
	assert_int_equal(lin_or8(&r->v, LIN, 0xff, LIN_CPL), 0);
	assert_int_equal(mmu_read(&r->v, LIN, &val, 8), 0);
	assert_true(val == 0x7777777777777777);
	assert_true(cached(r, MMU_KERNEL, LIN, MMU_READ) && !cached(r, MMU_KERNEL, LIN, MMU_WRITE));
	r->v.fpu_live = true;
	assert_int_equal(mmu_read(&r->v, LIN + PAGE_SIZE, &val, 8), 0);
	assert_false(r->v.fpu_live);
	assert_true(val == 0x0807060504030201);
	assert_int_equal(mmio_reads, 1);
	assert_false(cached(r, MMU_KERNEL, LIN + PAGE_SIZE, MMU_READ));
	val = 0x1234;
	r->v.fpu_live = true;
	assert_int_equal(mmu_write(&r->v, LIN + PAGE_SIZE + 6, &val, 2), 0);
	assert_true(mmio_last == (0x1234 | 6ull << 56) && mmio_writes == 1);
	mmio_reads = 0;
	assert_int_equal(mmu_read(&r->v, LIN + PAGE_SIZE, buf, 64), 0);
	assert_int_equal(mmio_reads, 8);
	assert_int_equal(buf[9], 4);
	mmio_reads = 0;
	assert_int_equal(mmu_read(&r->v, LIN + PAGE_SIZE + 3, buf, 8), 0);
	assert_int_equal(mmio_reads, 4); /* 1 4 2 1 */
	/* from the device into RAM, and the fault before the device is touched */
	mmio_writes = 0;
	assert_int_equal(mmu_write(&r->v, LIN + 2 * PAGE_SIZE - 4, &val, 8), 0);
	assert_int_equal(mmio_writes, 1);
	assert_int_equal(mmu_write(&r->v, LIN + PAGE_SIZE - 4, &val, 8), 0);
	assert_int_equal(mmio_writes, 2);
	rig_set(r, 0, 0);
	rig_map(r, LIN + 2 * PAGE_SIZE, 1, 0);
	mmu_flush_all(&r->v);
	assert_int_equal(mmu_write(&r->v, LIN + 2 * PAGE_SIZE - 4, &val, 8), FAULT);
	assert_int_equal(mmio_writes, 2);
	assert_int_equal(mmu_read(&r->v, LIN + 3 * PAGE_SIZE, &val, 8), 0);
	assert_true(val == ~0ull);
	assert_int_equal(mmu_write(&r->v, LIN + 3 * PAGE_SIZE, &val, 8), 0);
	/* nothing of the device is in any table */
	for (unsigned i = 0; i < MMU_INDEX_COUNT; i++)
		assert_false(cached(r, (enum mmu_index)i, LIN + PAGE_SIZE, MMU_EXEC));
	free(rom);
}

static void modes(void **state)
{
	struct rig *r = *state;
	struct cpu *c = &r->v.cpu;
	u8 b;

	assert_int_equal(r->v.mmu->index, MMU_KERNEL);
	rig_cpl(r, 3);
	assert_int_equal(r->v.mmu->index, MMU_USER);
	assert_ptr_equal(r->v.mmu->current, r->v.mmu->tlb[MMU_USER]);
	c->rflags |= FL_AC;
	mmu_mode_changed(&r->v);
	assert_int_equal(r->v.mmu->index, MMU_USER);
	c->cr0 |= CR0_AM;
	mmu_mode_changed(&r->v);
	assert_int_equal(r->v.mmu->index, MMU_USER_ALIGN);
	rig_cpl(r, 0);
	assert_int_equal(r->v.mmu->index, MMU_KERNEL);
	c->cr4 |= CR4_SMAP;
	mmu_mode_changed(&r->v);
	assert_int_equal(r->v.mmu->index, MMU_KERNEL_AC);
	/* explicit access with AC set, implicit one, user one */
	rig_map(r, LIN, 1, 0x5000 | E_ALL);
	assert_int_equal(lin_read(&r->v, LIN, &b, 1, LIN_CPL), 0);
	assert_int_equal(lin_read(&r->v, LIN, &b, 1, LIN_USER), 0);
	assert_int_equal(lin_read(&r->v, LIN, &b, 1, LIN_SUPERVISOR), FAULT);
	assert_int_equal(r->v.fault.error, 1);
	c->rflags &= ~FL_AC;
	mmu_mode_changed(&r->v);
	assert_int_equal(lin_read(&r->v, LIN, &b, 1, LIN_CPL), FAULT);
	/* an implicit supervisor access at CPL 3 is no user access */
	rig_map(r, LIN, 1, 0x5000 | E_P);
	mmu_flush_all(&r->v);
	rig_cpl(r, 3);
	assert_int_equal(lin_read(&r->v, LIN, &b, 1, LIN_SUPERVISOR), 0);
	assert_int_equal(lin_read(&r->v, LIN, &b, 1, LIN_CPL), FAULT);
	assert_int_equal(r->v.fault.error, 5);
}

static void alignment(void **state)
{
	static const u8 len[] = { 1, 2, 4, 8, 16, 3, 6, 32 };
	struct rig *r = *state;
	u8 buf[32] = { 0 };

	rig_map(r, LIN, 1, 0x5000 | E_ALL);
	r->v.cpu.rflags |= FL_AC;
	r->v.cpu.cr0 |= CR0_AM;
	rig_cpl(r, 3);
	for (unsigned i = 0; i < ARRAY_SIZE(len); i++) {
		for (unsigned off = 0; off < 16; off++) {
			bool bad = i < 5 && off % len[i];

			assert_int_equal(mmu_read(&r->v, LIN + off, buf, len[i]), bad ? FAULT : 0);
			if (bad)
				assert_true(r->v.fault.vector == EXC_AC && r->v.fault.has_error && !r->v.fault.error);
			assert_int_equal(mmu_write(&r->v, LIN + off, buf, len[i]), bad ? FAULT : 0);
			assert_int_equal(lin_read(&r->v, LIN + off, buf, len[i], LIN_SUPERVISOR), 0);
		}
	}
	/* the engine's table for this mode never hits on data */
	for (unsigned i = 0; i < TLB_SIZE; i++) {
		assert_int_equal(r->v.mmu->current[i].tag[MMU_READ], TLB_NONE);
		assert_int_equal(r->v.mmu->current[i].tag[MMU_WRITE], TLB_NONE);
	}
	assert_int_equal(rig_try(r, LIN, MMU_EXEC, MMU_USER_ALIGN, NULL), -1);
	assert_true(cached(r, MMU_USER_ALIGN, LIN, MMU_EXEC));
}

static void guest_breakpoints(void **state)
{
	struct rig *r = *state;
	struct cpu *c = &r->v.cpu;
	u64 val = 0;

	rig_map(r, LIN, 1, 0x5000 | E_ALL);
	/* DR0: write, 4 bytes at LIN+8 */
	c->dr[0] = LIN + 8;
	c->dr[7] = 1 | 1 << 16 | 3 << 18;
	mmu_invalidate(&r->v);
	assert_int_equal(mmu_read(&r->v, LIN + 8, &val, 8), 0);
	assert_true(c->pending_db == 0);
	assert_true(cached(r, MMU_KERNEL, LIN, MMU_READ) && !cached(r, MMU_KERNEL, LIN, MMU_WRITE));
	assert_int_equal(mmu_write(&r->v, LIN + 12, &val, 8), 0);
	assert_true(c->pending_db == 0);
	assert_int_equal(mmu_write(&r->v, LIN + 5, &val, 4), 0);
	assert_true((c->pending_db & 15) == 1 && (r->v.event & EV_TRAP));
	assert_false(cached(r, MMU_KERNEL, LIN, MMU_WRITE));
	/* implicit accesses do not count */
	c->pending_db = 0;
	assert_int_equal(lin_write(&r->v, LIN + 8, &val, 4, LIN_SUPERVISOR), 0);
	assert_true(c->pending_db == 0);
	/* DR1: read or write, 1 byte */
	c->dr[1] = LIN + 0x100;
	c->dr[7] = 4 | 3 << 20;
	mmu_invalidate(&r->v);
	assert_int_equal(mmu_read(&r->v, LIN + 0x100, &val, 1), 0);
	assert_true((c->pending_db & 15) == 2);
	assert_false(cached(r, MMU_KERNEL, LIN, MMU_READ));
	/* a write that faults is no hit */
	c->pending_db = 0;
	c->dr[0] = LIN + PAGE_SIZE;
	c->dr[7] = 1 | 1 << 16;
	mmu_invalidate(&r->v);
	assert_int_equal(mmu_write(&r->v, LIN + PAGE_SIZE - 4, &val, 8), FAULT);
	assert_true(c->pending_db == 0);
}

static void debugger_watchpoints(void **state)
{
	struct rig *r = *state;
	struct vcpu *v = &r->v;
	u64 val = 0;

	rig_map(r, LIN, 1, 0x5000 | E_ALL);
	rig_map(r, LIN + PAGE_SIZE, 1, 0x6000 | E_ALL);
	v->debug.count = 2;
	v->debug.point[0] = (struct debug_point){ .addr = LIN + PAGE_SIZE - 2, .len = 4, .kind = 1 };
	v->debug.point[1] = (struct debug_point){ .addr = LIN + 0x10, .len = 8, .kind = 0 };
	assert_int_equal(mmu_read(v, LIN + PAGE_SIZE - 2, &val, 2), 0);
	assert_int_equal(mmu_write(v, LIN + 0x10, &val, 8), 0); /* kind 0 is execution */
	assert_int_equal(v->event, 0);
	assert_false(cached(r, MMU_KERNEL, LIN, MMU_WRITE));
	assert_int_equal(mmu_write(v, LIN + PAGE_SIZE + 1, &val, 1), 0);
	assert_true(v->event & EV_KICK);
	assert_true(v->debug.hit_addr == LIN + PAGE_SIZE - 2 && v->debug.hit_kind == 1);
	assert_false(cached(r, MMU_KERNEL, LIN + PAGE_SIZE, MMU_WRITE));
	v->event = 0;
	v->debug.point[1].kind = 2;
	mmu_invalidate(v);
	assert_int_equal(mmu_write(v, LIN + 0x10, &val, 8), 0);
	assert_int_equal(v->event, 0);
	assert_int_equal(mmu_read(v, LIN + 0x17, &val, 1), 0);
	assert_true((v->event & EV_KICK) && v->debug.hit_addr == LIN + 0x10 && v->debug.hit_kind == 2);
	assert_false(cached(r, MMU_KERNEL, LIN, MMU_READ));
	v->debug.count = 0;
	mmu_invalidate(v);
	assert_int_equal(mmu_write(v, LIN + PAGE_SIZE - 2, &val, 2), 0);
	assert_true(cached(r, MMU_KERNEL, LIN, MMU_WRITE));
}

static void touch(struct rig *r, gva_t lin)
{
	u8 b;

	assert_int_equal(lin_read(&r->v, lin, &b, 1, LIN_SUPERVISOR), 0);
	assert_int_equal(lin_read(&r->v, lin, &b, 1, LIN_USER), 0);
	assert_true(cached(r, MMU_KERNEL, lin, MMU_READ) && cached(r, MMU_USER, lin, MMU_READ));
}

#define CACHED(lin) (cached(r, MMU_KERNEL, lin, MMU_READ) || cached(r, MMU_USER, lin, MMU_READ))

static void flushes(void **state)
{
	struct rig *r = *state;
	struct vcpu *v = &r->v;
	const gva_t big = 0x40200000, global = 0xffff800000001000, wide = 0x80000000;
	u64 gen;

	rig_map(r, LIN, 1, 0x5000 | E_ALL);
	rig_map(r, LIN + PAGE_SIZE, 1, 0x6000 | E_ALL);
	rig_map(r, global, 1, 0x7000 | E_ALL | E_G);
	rig_map(r, big, 2, 0x200000 | E_ALL | E_PS);
	rig_map(r, wide, 3, 0 | E_ALL | E_PS);
#define TOUCH_ALL()                                                                                                    \
	(touch(r, LIN), touch(r, LIN + PAGE_SIZE), touch(r, global), touch(r, big + 0x10000),                          \
	 touch(r, big + 0x1f0000), touch(r, wide + 0x20000), touch(r, wide + 0xf00000), gen = v->mmu->gen)
#define MOVED() (gen != v->mmu->gen)
	TOUCH_ALL();
	mmu_cr3_loaded(v, false);
	assert_true(MOVED() && CACHED(global));
	assert_false(CACHED(LIN) || CACHED(LIN + PAGE_SIZE) || CACHED(big + 0x10000) || CACHED(wide + 0xf00000));
	TOUCH_ALL();
	mmu_flush_all(v);
	assert_true(MOVED());
	assert_false(CACHED(global) || CACHED(LIN));
	TOUCH_ALL();
	mmu_flush_page(v, LIN + 0x123);
	assert_true(MOVED() && !CACHED(LIN) && CACHED(LIN + PAGE_SIZE) && CACHED(global));
	TOUCH_ALL();
	mmu_flush_page(v, global); /* global or not */
	assert_true(MOVED() && !CACHED(global) && CACHED(LIN));
	/* one address stands for the whole large page, whether that address was cached or not */
	TOUCH_ALL();
	mmu_flush_page(v, big);
	assert_true(MOVED() && !CACHED(big + 0x10000) && !CACHED(big + 0x1f0000) && CACHED(wide + 0x20000) &&
		    CACHED(LIN));
	TOUCH_ALL();
	mmu_flush_page(v, wide + 0x3fffffff);
	assert_true(!CACHED(wide + 0x20000) && !CACHED(wide + 0xf00000) && CACHED(big + 0x10000));
	TOUCH_ALL();
	mmu_invalidate(v);
	assert_true(MOVED() && !CACHED(LIN) && !CACHED(global));
	/* without PGE nothing is global */
	v->cpu.cr4 &= ~CR4_PGE;
	mmu_mode_changed(v);
	TOUCH_ALL();
	mmu_cr3_loaded(v, false);
	assert_false(CACHED(global));
	/* a slot taken over by another page does not inherit being global */
	v->cpu.cr4 |= CR4_PGE;
	mmu_mode_changed(v);
	gva_t rival = global + PAGE_SIZE;
	while (tlb_index(rival) != tlb_index(global))
		rival += PAGE_SIZE;
	touch(r, global);
	rig_map(r, rival, 1, 0x5000 | E_ALL);
	touch(r, rival);
	assert_false(CACHED(global));
	mmu_cr3_loaded(v, false);
	assert_false(CACHED(rival));
}

/* Rights are checked when an entry is filled: what they depend on must drop the entries. */
static void stale_rights(void **state)
{
	struct rig *r = *state;
	struct vcpu *v = &r->v;
	u64 val = 0, gen;

	rig_map(r, LIN, 1, 0x5000 | E_P | E_U | E_D | 3ull << 59);
	assert_int_equal(mmu_write(v, LIN, &val, 8), 0); /* WP = 0 */
	assert_true(cached(r, MMU_KERNEL, LIN, MMU_WRITE));
	v->cpu.cr0 |= CR0_WP;
	mmu_mode_changed(v);
	assert_int_equal(mmu_write(v, LIN, &val, 8), FAULT);
	assert_int_equal(mmu_read(v, LIN, &val, 8), 0);
	v->cpu.cr4 |= CR4_SMAP;
	mmu_mode_changed(v);
	assert_int_equal(mmu_read(v, LIN, &val, 8), FAULT);
	v->cpu.cr4 ^= CR4_SMAP | CR4_PKE;
	mmu_mode_changed(v);
	assert_int_equal(mmu_read(v, LIN, &val, 8), 0);
	gen = v->mmu->gen;
	v->cpu.pkru = 1 << 8; /* another key: nothing to do */
	mmu_mode_changed(v);
	assert_true(gen == v->mmu->gen && cached(r, MMU_KERNEL, LIN, MMU_READ));
	v->cpu.pkru = 1 << 6;
	mmu_mode_changed(v);
	assert_true(gen != v->mmu->gen);
	assert_int_equal(mmu_read(v, LIN, &val, 8), FAULT);
	assert_int_equal(v->fault.error, 0x21);
	v->cpu.pkru = 0;
	mmu_mode_changed(v);
	assert_int_equal(mmu_read(v, LIN, &val, 8), 0);
	gen = v->mmu->gen;
	mmu_mode_changed(v); /* nothing changed */
	assert_true(gen == v->mmu->gen);
}

/* Random traffic in random tables against a page-by-page model of the mapping. */
static void random_traffic(void **state)
{
	enum { PAGES = 40, FRAMES = 16 };
	struct rig *r = *state;
	unsigned frame[PAGES], seed = 99;
	static u8 shadow[FRAMES][PAGE_SIZE];
	const gva_t base = 0xffffc90000000000;

	memset(shadow, 0, sizeof(shadow));
	for (unsigned i = 0; i < PAGES; i++)
		rig_map(r, base + i * PAGE_SIZE, 1, (0x10000 + (frame[i] = i % FRAMES) * PAGE_SIZE) | E_ALL);
	for (unsigned n = 0; n < 200000; n++) {
		unsigned at = (unsigned)rand_r(&seed) % (unsigned)(PAGES * PAGE_SIZE - 64),
			 len = 1 + (unsigned)rand_r(&seed) % 64;
		u8 buf[64];

		switch (rand_r(&seed) % 16) {
		case 0: { /* remap a page */
			unsigned i = at / PAGE_SIZE;

			rig_map(r, base + i * PAGE_SIZE, 1,
				(0x10000 + (frame[i] = (unsigned)rand_r(&seed) % FRAMES) * PAGE_SIZE) | E_ALL);
			mmu_flush_page(&r->v, base + at);
			break;
		}
		case 1:
			make_code(r, 0x10000 + frame[at / PAGE_SIZE] * PAGE_SIZE);
			break;
		case 2:
		case 3:
		case 4:
		case 5:
		case 6:
		case 7:
			for (unsigned i = 0; i < len; i++) {
				buf[i] = (u8)rand_r(&seed);
				shadow[frame[(at + i) / PAGE_SIZE]][(at + i) % PAGE_SIZE] = buf[i];
			}
			assert_int_equal(mmu_write(&r->v, base + at, buf, len), 0);
			break;
		default:
			assert_int_equal(mmu_read(&r->v, base + at, buf, len), 0);
			for (unsigned i = 0; i < len; i++)
				assert_int_equal(buf[i], shadow[frame[(at + i) / PAGE_SIZE]][(at + i) % PAGE_SIZE]);
		}
	}
	assert_memory_equal(shadow, r->ram + 0x10000, sizeof(shadow));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		RIG_TEST(crossing),
		RIG_TEST(long_accesses),
		RIG_TEST(code_pages),
		RIG_TEST(rom_mmio_holes),
		RIG_TEST(modes),
		RIG_TEST(alignment),
		RIG_TEST(guest_breakpoints),
		RIG_TEST(debugger_watchpoints),
		RIG_TEST(flushes),
		RIG_TEST(stale_rights),
		RIG_TEST(random_traffic),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

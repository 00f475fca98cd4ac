/*
 * Fuzz target: the gdb protocol on any bytes, against one processor with 64
 * KiB of memory. Input that starts with 00 is a raw stream; else each line is
 * framed with a right checksum, so that the fuzzer gets past the framing.
 */
#include <stdlib.h>
#include <string.h>

#include "gdb/stub.h"

#define MEM_SIZE 0x10000ull

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

struct fake {
	struct vcpu v;
	u8 mem[MEM_SIZE];
};

static struct vcpu *f_vcpu(void *t, unsigned n)
{
	if (n != 0)
		abort();
	return &((struct fake *)t)->v;
}
static bool f_translate(void *t, struct vcpu *v, gva_t lin, gpa_t *gpa)
{
	*gpa = lin & 0xfffff;
	return true;
}
static int f_read(void *t, gpa_t gpa, void *dst, u64 len)
{
	if (gpa >= MEM_SIZE || len > MEM_SIZE - gpa)
		return -1;
	memcpy(dst, ((struct fake *)t)->mem + gpa, len);
	return 0;
}
static int f_write(void *t, gpa_t gpa, const void *src, u64 len)
{
	if (gpa >= MEM_SIZE || len > MEM_SIZE - gpa)
		return -1;
	memcpy(((struct fake *)t)->mem + gpa, src, len);
	return 0;
}
static unsigned f_fpu_offset(void *t, unsigned component)
{
	static const u16 at[10] = { 0, 0, 576, 0, 0, 1088, 1152, 1664, 0, 1 };

	return component < 10 ? at[component] : 0;
}
static int f_write_cr(void *t, struct vcpu *v, unsigned cr, u64 val)
{
	if (cr == 0)
		v->cpu.cr0 = val;
	else if (cr == 3)
		v->cpu.cr3 = val;
	else if (cr == 4)
		v->cpu.cr4 = val;
	return 0;
}
static int f_write_msr(void *t, struct vcpu *v, u32 msr, u64 val)
{
	if (msr == 0xc0000080)
		v->cpu.efer = val;
	return 0;
}
static int f_load_segment(void *t, struct vcpu *v, enum seg_reg seg, u16 sel)
{
	v->cpu.seg[seg].sel = sel;
	return 0;
}
static u64 f_cr8(void *t, struct vcpu *v)
{
	return 0;
}
static void f_changed(void *t, struct vcpu *v)
{
	if (v->debug.count > DEBUG_MAX_POINTS)
		abort();
}
static void f_reset(void *t) {}
static void f_registers(void *t, unsigned cpu, gdb_line_fn line, void *o)
{
	line(o, "registers");
}
static void f_line(void *t, gdb_line_fn line, void *o)
{
	line(o, "line");
}
static void f_interrupt(void *t) {}
static bool f_stopping(void *t)
{
	return false;
}

static const struct gdb_target_ops ops = {
	.vcpu = f_vcpu,
	.translate = f_translate,
	.phys_read = f_read,
	.phys_write = f_write,
	.fpu_offset = f_fpu_offset,
	.write_cr = f_write_cr,
	.write_msr = f_write_msr,
	.load_segment = f_load_segment,
	.cr8 = f_cr8,
	.points_changed = f_changed,
	.state_changed = f_changed,
	.reset = f_reset,
	.registers = f_registers,
	.map = f_line,
	.stats = f_line,
	.interrupt = f_interrupt,
	.stopping = f_stopping,
};

/* Feed bytes as the server does: go on after each resume, with some stop. */
static void feed(struct gdb_stub *s, const u8 *p, size_t n)
{
	static const enum debug_stop why[] = { DEBUG_STOP_BREAKPOINT, DEBUG_STOP_STEP, DEBUG_STOP_INTERRUPT,
					       DEBUG_STOP_TRIPLE_FAULT, DEBUG_STOP_END };
	unsigned stops = 0;

	while (n) {
		size_t used;
		enum gdb_action a = gdb_stub_input(s, p, n, &used);

		if (used > n || (a == GDB_WAIT && used != n))
			abort();
		p += used;
		n -= used;
		if (a == GDB_CONTINUE || a == GDB_STEP)
			gdb_stub_stopped(s, why[stops++ % ARRAY_SIZE(why)]);
		else if (a != GDB_WAIT)
			gdb_stub_reset(s);
		gdb_stub_out(s)->len = 0;
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct fake *f;
	struct gdb_target t;
	struct gdb_stub *s;

	if (size == 0 || posix_memalign((void **)&f, 64, sizeof(*f)))
		return 0;
	memset(f, 0, sizeof(*f));
	f->v.cpu.rflags = FL_FIXED1;
	t = (struct gdb_target){ .ops = &ops, .opaque = f, .cpus = 1 };
	s = gdb_stub_create(&t);
	gdb_stub_stopped(s, DEBUG_STOP_START);
	if (data[0] == 0) {
		feed(s, data + 1, size - 1);
	} else {
		for (size_t i = 0; i < size;) {
			const u8 *nl = memchr(data + i, '\n', size - i);
			size_t n = nl ? (size_t)(nl - (data + i)) : size - i;
			struct gdb_out frame = { 0 };

			gdb_out_packet(&frame, data + i, n);
			feed(s, frame.data, frame.len);
			gdb_out_free(&frame);
			i += n + 1;
		}
	}
	gdb_stub_destroy(s);
	free(f);
	return 0;
}

/*
 * The gdb stub against a fake machine: one processor, 64 KiB of memory at
 * physical 1000H, linear addresses equal to physical ones and once more at
 * ffff800000000000H. First the protocol by itself, then over a socket with the
 * "machine" on a thread of its own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "gdb/stub.h"

#define MEM_BASE 0x1000ull
#define MEM_SIZE 0x10000ull
#define HIGH 0xffff800000000000ull

struct fake {
	struct vcpu v;
	u8 mem[MEM_SIZE];
	unsigned resets, points_calls, state_calls;
	bool no_avx512;
	atomic_bool interrupted, stopping;
	struct gdb_target t;
};

static void f_describe(struct vcpu *v, gva_t lin, void (*line)(void *opaque, const char *text), void *opaque)
{
	if (lin == 0x1000)
		line(opaque, "some code");
}
static const struct engine_ops describing = { .describe = f_describe };

static struct vcpu *f_vcpu(void *t, unsigned n)
{
	assert_true(n == 0);
	return &((struct fake *)t)->v;
}
static bool f_translate(void *t, struct vcpu *v, gva_t lin, gpa_t *gpa)
{
	*gpa = lin >= HIGH ? lin - HIGH : lin;
	return *gpa < 0x100000;
}
static bool in_memory(gpa_t gpa, u64 len)
{
	return gpa >= MEM_BASE && gpa - MEM_BASE < MEM_SIZE && len <= MEM_SIZE - (gpa - MEM_BASE);
}
static int f_read(void *t, gpa_t gpa, void *dst, u64 len)
{
	if (!in_memory(gpa, len))
		return -1;
	memcpy(dst, ((struct fake *)t)->mem + gpa - MEM_BASE, len);
	return 0;
}
static int f_write(void *t, gpa_t gpa, const void *src, u64 len)
{
	if (!in_memory(gpa, len))
		return -1;
	memcpy(((struct fake *)t)->mem + gpa - MEM_BASE, src, len);
	return 0;
}
static unsigned f_fpu_offset(void *t, unsigned component)
{
	static const u16 at[10] = { 0, 0, 576, 0, 0, 1088, 1152, 1664, 0, 1 };

	if (((struct fake *)t)->no_avx512 && component > 2)
		return 0;
	return component < 10 ? at[component] : 0;
}
static int f_write_cr(void *t, struct vcpu *v, unsigned cr, u64 val)
{
	if (cr == 4 && val >> 32)
		return -1;
	if (cr == 3)
		v->cpu.cr3 = val;
	if (cr == 4)
		v->cpu.cr4 = val;
	return 0;
}
static int f_write_msr(void *t, struct vcpu *v, u32 msr, u64 val)
{
	if (msr != 0xc0000082)
		return -1;
	v->cpu.lstar = val;
	return 0;
}
static int f_load_segment(void *t, struct vcpu *v, enum seg_reg seg, u16 sel)
{
	v->cpu.seg[seg].sel = sel;
	return 0;
}
static u64 f_cr8(void *t, struct vcpu *v)
{
	return 9;
}
static void f_points(void *t, struct vcpu *v)
{
	((struct fake *)t)->points_calls++;
}
static void f_state(void *t, struct vcpu *v)
{
	((struct fake *)t)->state_calls++;
}
static void f_reset(void *t)
{
	((struct fake *)t)->resets++;
}
static void f_registers(void *t, unsigned cpu, gdb_line_fn line, void *o)
{
	line(o, "RAX=0");
}
static void f_line(void *t, gdb_line_fn line, void *o)
{
	line(o, "a line");
}
static void f_interrupt(void *t)
{
	atomic_store(&((struct fake *)t)->interrupted, true);
}
static bool f_stopping(void *t)
{
	return atomic_load(&((struct fake *)t)->stopping);
}

static const struct gdb_target_ops fake_ops = {
	.vcpu = f_vcpu,
	.translate = f_translate,
	.phys_read = f_read,
	.phys_write = f_write,
	.fpu_offset = f_fpu_offset,
	.write_cr = f_write_cr,
	.write_msr = f_write_msr,
	.load_segment = f_load_segment,
	.cr8 = f_cr8,
	.points_changed = f_points,
	.state_changed = f_state,
	.reset = f_reset,
	.registers = f_registers,
	.map = f_line,
	.stats = f_line,
	.interrupt = f_interrupt,
	.stopping = f_stopping,
};

static struct fake *fake_create(void)
{
	struct fake *f = aligned_alloc(64, (sizeof(*f) + 63) / 64 * 64);

	assert_non_null(f);
	memset(f, 0, sizeof(*f));
	f->t = (struct gdb_target){ .ops = &fake_ops, .opaque = f, .cpus = 1 };
	f->v.cpu.rflags = FL_FIXED1;
	f->v.cpu.gpr[REG_RAX] = 0x1122334455667788ull;
	f->v.cpu.gpr[REG_RBX] = 0xb;
	f->v.cpu.rip = 0x2000;
	for (size_t i = 0; i < MEM_SIZE; i++)
		f->mem[i] = (u8)i;
	return f;
}

/* Sends one packet, returns the payload of the (last) reply in a static buffer. */
static char last[2 * GDB_PACKET_MAX];
static enum gdb_action action;

static const char *parse_reply(struct gdb_out *o)
{
	/* the last $...#xx, unescaped */
	size_t i = o->len, n = 0;

	last[0] = 0;
	while (i > 0 && o->data[i - 1] != '$')
		i--;
	if (i == 0)
		return last;
	for (; i < o->len && o->data[i] != '#'; i++)
		last[n++] = (char)(o->data[i] == '}' ? o->data[++i] ^ 0x20 : o->data[i]);
	last[n] = 0;
	return last;
}

static const char *raw(struct gdb_stub *s, const void *payload, size_t n)
{
	struct gdb_out frame = { 0 };
	size_t used;

	gdb_stub_out(s)->len = 0;
	gdb_out_packet(&frame, payload, n);
	action = gdb_stub_input(s, frame.data, frame.len, &used);
	assert_int_equal(used, frame.len);
	gdb_out_free(&frame);
	return parse_reply(gdb_stub_out(s));
}
static const char *ask(struct gdb_stub *s, const char *packet)
{
	return raw(s, packet, strlen(packet));
}

static void test_registers(void **state)
{
	struct fake *f = fake_create();
	struct gdb_stub *s = gdb_stub_create(&f->t);
	char buf[200];

	assert_string_equal(ask(s, "p0"), "8877665544332211");
	assert_string_equal(ask(s, "p1"), "0b00000000000000"); /* gdb's order: rbx second */
	assert_string_equal(ask(s, "p10"), "0020000000000000");
	assert_string_equal(ask(s, "p11"), "02000000");
	assert_string_equal(ask(s, "P0=0100000000000000"), "OK");
	assert_true(f->v.cpu.gpr[REG_RAX] == 1);
	assert_int_equal(f->state_calls, 1);
	assert_string_equal(ask(s, "P11=ffffffff"), "OK"); /* reserved flags and VM do not get in */
	assert_true(f->v.cpu.rflags == 0x3d7fd7ull);
	assert_string_equal(ask(s, "P0=01"), "E16");
	assert_string_equal(ask(s, "P0"), "E16");
	assert_string_equal(ask(s, "p"), "E16");
	assert_string_equal(ask(s, "pffffffff"), "E16");
	assert_string_equal(ask(s, "p10000000000000000"), "E16");
	/* xmm0 is behind 16 + rip + flags + 6 + 8 st + 8 = 40 */
	assert_string_equal(ask(s, "p28"), "00000000000000000000000000000000");
	assert_string_equal(ask(s, "P28=000102030405060708090a0b0c0d0e0f"), "OK");
	assert_int_equal(f->v.cpu.fpu[160 + 15], 15);
	assert_int_equal(f->v.cpu.fpu[512] & 2, 2); /* XSTATE_BV.SSE */
	assert_string_equal(ask(s, "p28"), "000102030405060708090a0b0c0d0e0f");
	/* fctrl and ftag in the initial state, st0 written */
	assert_string_equal(ask(s, "p20"), "7f030000");
	assert_string_equal(ask(s, "p22"), "ffff0000");
	assert_string_equal(ask(s, "P18=00000000000000800040"), "OK");
	assert_string_equal(ask(s, "P22=fcff0000"), "OK");
	assert_string_equal(ask(s, "p22"), "fcff0000");
	assert_string_equal(ask(s, "p18"), "00000000000000800040");

	/* g and G carry all of them */
	char *all = strdup(ask(s, "g"));
	unsigned total = 0;
	for (unsigned i = 0; i < gdb_reg_count(&f->t); i++)
		total += gdb_reg_size(&f->t, i);
	assert_int_equal(strlen(all), 2 * total);
	f->v.cpu.gpr[REG_RAX] = 77;
	char *packet = NULL;
	assert_true(asprintf(&packet, "G%s", all) > 0);
	assert_string_equal(ask(s, packet), "OK");
	assert_true(f->v.cpu.gpr[REG_RAX] == 1);
	packet[strlen(packet) - 1] = 0;
	assert_string_equal(ask(s, packet), "E16");
	free(packet);
	free(all);

	/* system registers by name: find lstar and cr4 through their size and position in the XML */
	struct gdb_out xml = { 0 };
	gdb_target_xml(&f->t, &xml);
	gdb_out_add(&xml, "", 1);
	unsigned n = 0;
	for (char *p = (char *)xml.data; (p = strstr(p, "<reg name=\"")); n++) {
		p += 11;
		if (strncmp(p, "lstar\"", 6) == 0) {
			snprintf(buf, sizeof(buf), "P%x=0000000000ffffff", n);
			assert_string_equal(ask(s, buf), "OK");
			assert_true(f->v.cpu.lstar == 0xffffff0000000000ull);
		}
		if (strncmp(p, "cr4\"", 4) == 0) {
			snprintf(buf, sizeof(buf), "P%x=ffffffffffffffff", n);
			assert_string_equal(ask(s, buf), "E16");
		}
		if (strncmp(p, "cr8\"", 4) == 0) {
			snprintf(buf, sizeof(buf), "p%x", n);
			assert_string_equal(ask(s, buf), "0900000000000000");
		}
	}
	assert_int_equal(n, gdb_reg_count(&f->t));
	gdb_out_free(&xml);
	gdb_stub_destroy(s);
	free(f);
}

static void test_memory(void **state)
{
	struct fake *f = fake_create();
	struct gdb_stub *s = gdb_stub_create(&f->t);
	u8 x[] = "X1000,4:abc}";

	assert_string_equal(ask(s, "m1001,4"), "01020304");
	assert_string_equal(ask(s, "mffff800000001001,2"), "0102");
	assert_string_equal(ask(s, "m0,4"), "E0e");
	assert_string_equal(ask(s, "mfffffffffffffffe,8"), "E0e");
	assert_string_equal(ask(s, "m10fff,8"), "ff"); /* as much as there is */
	assert_string_equal(ask(s, "m1000,0"), "");
	assert_string_equal(ask(s, "m1000"), "E16");
	assert_string_equal(ask(s, "m1000,4,"), "E16");
	assert_int_equal(strlen(ask(s, "m1000,ffffffffffffffff")), GDB_PACKET_MAX);
	assert_string_equal(ask(s, "M1000,2:beef"), "OK");
	assert_int_equal(f->mem[0], 0xbe);
	assert_string_equal(ask(s, "M1000,3:beef"), "E16");
	assert_string_equal(ask(s, "M1000,2:beexx"), "E16");
	assert_string_equal(ask(s, "M0,2:beef"), "E0e");
	assert_string_equal(raw(s, x, sizeof(x) - 1), "OK");
	assert_memory_equal(f->mem, "abc}", 4);
	assert_string_equal(ask(s, "X1000,0:"), "OK");
	/* physical addresses */
	assert_string_equal(ask(s, "qqemu.PhyMemMode"), "0");
	assert_string_equal(ask(s, "Qqemu.PhyMemMode:1"), "OK");
	assert_string_equal(ask(s, "mffff800000001001,2"), "E0e");
	assert_string_equal(ask(s, "m1001,2"), "6263");
	gdb_stub_destroy(s);
	free(f);
}

static void test_breakpoints(void **state)
{
	struct fake *f = fake_create();
	struct gdb_stub *s = gdb_stub_create(&f->t);
	char buf[64];

	assert_non_null(strstr(ask(s, "qSupported:multiprocess+;swbreak+;hwbreak+"), "PacketSize=10000"));
	assert_string_equal(ask(s, "Z0,2000,1"), "OK");
	assert_string_equal(ask(s, "Z0,2000,1"), "OK"); /* twice is once */
	assert_int_equal(f->v.debug.count, 1);
	assert_string_equal(ask(s, "Z2,3000,8"), "OK");
	assert_string_equal(ask(s, "Z3,3100,4"), "OK");
	assert_string_equal(ask(s, "Z4,3200,2"), "OK");
	assert_int_equal(f->v.debug.count, 4);
	assert_int_equal(f->v.debug.point[1].kind, 1);
	assert_int_equal(f->v.debug.point[1].len, 8);
	assert_int_equal(f->v.debug.point[2].kind, 2);
	assert_int_equal(f->v.debug.point[3].kind, 3);
	assert_string_equal(ask(s, "Z5,0,1"), "");
	assert_string_equal(ask(s, "Z2,0,0"), "E16");
	assert_string_equal(ask(s, "Z2,0"), "E16");

	ask(s, "vCont;c");
	assert_int_equal(action, GDB_CONTINUE);
	gdb_stub_out(s)->len = 0;
	gdb_stub_stopped(s, DEBUG_STOP_BREAKPOINT);
	assert_string_equal(parse_reply(gdb_stub_out(s)), "T05thread:1;swbreak:;");
	ask(s, "c");
	f->v.debug.hit_kind = 1;
	f->v.debug.hit_addr = 0x3004;
	gdb_stub_out(s)->len = 0;
	gdb_stub_stopped(s, DEBUG_STOP_BREAKPOINT);
	assert_string_equal(parse_reply(gdb_stub_out(s)), "T05thread:1;watch:3004;");
	assert_string_equal(ask(s, "z0,2000,1"), "OK");
	assert_string_equal(ask(s, "z0,2000,1"), "OK");
	assert_int_equal(f->v.debug.count, 3);
	for (unsigned i = 0; i < DEBUG_MAX_POINTS - 3; i++) {
		snprintf(buf, sizeof(buf), "Z1,%x,1", i);
		assert_string_equal(ask(s, buf), "OK");
	}
	assert_string_equal(ask(s, "Z1,9999,1"), "E1c");
	assert_string_equal(ask(s, "D"), "OK");
	assert_int_equal(action, GDB_DETACH);
	assert_int_equal(f->v.debug.count, 0);
	gdb_stub_destroy(s);
	free(f);
}

static void test_control(void **state)
{
	struct fake *f = fake_create();
	struct gdb_stub *s = gdb_stub_create(&f->t);

	gdb_stub_stopped(s, DEBUG_STOP_START);
	assert_int_equal(gdb_stub_out(s)->len, 0);
	assert_string_equal(ask(s, "?"), "T05thread:1;");
	assert_string_equal(ask(s, "qC"), "QC1");
	assert_string_equal(ask(s, "qfThreadInfo"), "m1");
	assert_string_equal(ask(s, "qsThreadInfo"), "l");
	assert_string_equal(ask(s, "Hg1"), "OK");
	assert_string_equal(ask(s, "Hc-1"), "OK");
	assert_string_equal(ask(s, "Hg0"), "OK");
	assert_string_equal(ask(s, "Hg2"), "E16");
	assert_string_equal(ask(s, "Hg"), "E16");
	assert_string_equal(ask(s, "T1"), "OK");
	assert_string_equal(ask(s, "T2"), "E16");
	assert_string_equal(ask(s, "qAttached"), "1");
	assert_string_equal(ask(s, "vCont?"), "vCont;c;C;s;S");
	assert_string_equal(ask(s, "vMustReplyEmpty"), "");
	assert_string_equal(ask(s, ""), "");
	assert_string_equal(ask(s, "qThreadExtraInfo,1"), "70726f636573736f722030");

	assert_string_equal(ask(s, "s"), "");
	assert_int_equal(action, GDB_STEP);
	gdb_stub_stopped(s, DEBUG_STOP_STEP);
	assert_string_equal(parse_reply(gdb_stub_out(s)), "T05thread:1;");
	ask(s, "c3000");
	assert_int_equal(action, GDB_CONTINUE);
	assert_true(f->v.cpu.rip == 0x3000);
	gdb_stub_stopped(s, DEBUG_STOP_INTERRUPT);
	assert_string_equal(parse_reply(gdb_stub_out(s)), "T02thread:1;");
	ask(s, "C05;4000");
	assert_int_equal(action, GDB_CONTINUE);
	gdb_stub_stopped(s, DEBUG_STOP_TRIPLE_FAULT);
	assert_string_equal(parse_reply(gdb_stub_out(s)), "T0bthread:1;");
	ask(s, "vCont;s:1;c");
	assert_int_equal(action, GDB_STEP);
	gdb_stub_stopped(s, DEBUG_STOP_END);
	assert_string_equal(parse_reply(gdb_stub_out(s)), "W00");
	assert_string_equal(ask(s, "vCont;x"), "E16");
	assert_string_equal(ask(s, "vCont;c:9"), "E16");
	assert_string_equal(ask(s, "vCont;"), "E16");
	ask(s, "k");
	assert_int_equal(action, GDB_KILL);
	gdb_stub_destroy(s);
	free(f);
}

/* The text of the O packets of a monitor command. */
static const char *mon(struct gdb_stub *s, const char *cmd)
{
	static char text[GDB_OUT_MAX];
	char packet[600] = "qRcmd,";
	struct gdb_out *o = gdb_stub_out(s);
	size_t n = 0;

	for (size_t i = 0; cmd[i]; i++)
		sprintf(packet + 6 + 2 * i, "%02x", (u8)cmd[i]);
	assert_string_equal(ask(s, packet), "OK");
	for (size_t i = 0; i + 1 < o->len; i++) {
		if (o->data[i] != '$' || o->data[i + 1] != 'O' || o->data[i + 2] == 'K')
			continue;
		for (i += 2; o->data[i] != '#'; i += 2) {
			u8 b;
			assert_true(gdb_hex_bytes(o->data + i, &b, 1));
			text[n++] = (char)b;
		}
	}
	text[n] = 0;
	return text;
}

static void put64(struct fake *f, gpa_t at, u64 val)
{
	memcpy(f->mem + at - MEM_BASE, &val, 8);
}

static void test_monitor(void **state)
{
	struct fake *f = fake_create();
	struct gdb_stub *s = gdb_stub_create(&f->t);

	assert_non_null(strstr(mon(s, "help"), "info mem"));
	assert_string_equal(mon(s, "xp /4b 0x1001"), "0000000000001001: 01 02 03 04\n");
	assert_string_equal(mon(s, "xp/1xg 4096"), "0000000000001000: 0706050403020100\n");
	assert_string_equal(mon(s, "xp /2xw 0"), "0000000000000000: ???????? ????????\n");
	assert_non_null(strstr(mon(s, "xp /9999999 0"), "usage"));
	assert_non_null(strstr(mon(s, "xp /z 0"), "usage"));
	assert_non_null(strstr(mon(s, "xp x"), "usage"));
	assert_non_null(strstr(mon(s, "nonsense"), "unknown"));
	assert_string_equal(mon(s, "info registers"), "RAX=0\n");
	assert_string_equal(mon(s, "stats"), "a line\n");
	assert_non_null(strstr(mon(s, "code x"), "usage"));
	assert_non_null(strstr(mon(s, "code 0x10 0x20"), "usage"));
	assert_string_equal(mon(s, "code 0x10"), "no translated code\n");
	f->v.engine = &describing;
	assert_string_equal(mon(s, "code 0x10"), "no translated code\n");
	assert_string_equal(mon(s, "code 0x1000"), "some code\n");
	f->v.engine = NULL;
	assert_non_null(strstr(mon(s, "info status"), "real mode"));
	assert_string_equal(mon(s, "info mem"), "paging is off\n");
	mon(s, "reset");
	assert_int_equal(f->resets, 1);

	/* 4-level tables: two user pages, one read-only, and a 2 MiB kernel page at the top */
	memset(f->mem, 0, MEM_SIZE);
	f->v.cpu.cr0 = CR0_PE | CR0_PG;
	f->v.cpu.cr4 = CR4_PAE;
	f->v.cpu.efer = EFER_LME | EFER_LMA | EFER_NXE;
	f->v.cpu.cr3 = 0x1000;
	put64(f, 0x1000, 0x2007);
	put64(f, 0x1ff8, 0x5003);
	put64(f, 0x2000, 0x3007);
	put64(f, 0x3000, 0x4007);
	put64(f, 0x4008, 0x8067);
	put64(f, 0x4010, 0x9005 | BIT(63));
	put64(f, 0x5ff8, 0x6003);
	put64(f, 0x6ff8, 0x200083 | PAGE_SIZE * 0 | BIT(8));
	assert_string_equal(mon(s, "info tlb"), "0000000000001000 -> 0000000000008000      4K uwxad-\n"
						"0000000000002000 -> 0000000000009000      4K u-----\n"
						"ffffffffffe00000 -> 0000000000200000   2048K -wx--g\n");
	assert_string_equal(mon(s, "info mem"), "0000000000001000-0000000000001fff 0000000000001000 uwx\n"
						"0000000000002000-0000000000002fff 0000000000001000 u--\n"
						"ffffffffffe00000-ffffffffffffffff 0000000000200000 -wx\n");
	/* tables that point to themselves end */
	for (u64 i = 0; i < 512; i++)
		put64(f, 0x1000 + 8 * i, 0x1007);
	assert_non_null(strstr(mon(s, "info tlb"), "->"));
	assert_int_equal(action, GDB_WAIT);
	mon(s, "quit");
	assert_int_equal(action, GDB_KILL);
	gdb_stub_destroy(s);
	free(f);
}

static void test_framing(void **state)
{
	struct fake *f = fake_create();
	struct gdb_stub *s = gdb_stub_create(&f->t);
	struct gdb_out *o = gdb_stub_out(s);
	size_t used;
	u8 *big = malloc(GDB_PACKET_MAX + 100);

	gdb_stub_input(s, (const u8 *)"+$qC#b4", 7, &used);
	assert_int_equal(used, 7);
	gdb_out_add(o, "", 1);
	assert_string_equal((char *)o->data, "+$QC1#c5");
	o->len = 0;
	gdb_stub_input(s, (const u8 *)"-", 1, &used); /* again, please */
	gdb_out_add(o, "", 1);
	assert_string_equal((char *)o->data, "$QC1#c5");
	o->len = 0;
	gdb_stub_input(s, (const u8 *)"$qC#b5", 6, &used);
	gdb_out_add(o, "", 1);
	assert_string_equal((char *)o->data, "-");
	o->len = 0;
	gdb_stub_input(s, (const u8 *)"$qC#zz\x03junk", 11, &used);
	assert_int_equal(o->data[0], '-');
	o->len = 0;
	/* too large a packet is refused, whatever its checksum */
	memset(big, 0, GDB_PACKET_MAX + 100);
	big[0] = '$';
	big[GDB_PACKET_MAX + 50] = '#';
	memset(big + GDB_PACKET_MAX + 51, '0', 2);
	gdb_stub_input(s, big, GDB_PACKET_MAX + 53, &used);
	assert_int_equal(o->len, 1);
	assert_int_equal(o->data[0], '-');
	o->len = 0;
	/* no acknowledgements any more */
	assert_string_equal(ask(s, "QStartNoAckMode"), "OK");
	assert_string_equal(ask(s, "qC"), "QC1");
	assert_int_equal(o->data[0], '$');
	free(big);
	gdb_stub_destroy(s);
	free(f);
}

static void test_description(void **state)
{
	struct fake *f = fake_create();
	struct gdb_stub *s = gdb_stub_create(&f->t);
	char buf[80];
	size_t n = 0;
	unsigned with;

	for (;;) {
		const char *r;

		snprintf(buf, sizeof(buf), "qXfer:features:read:target.xml:%zx,200", n);
		r = ask(s, buf);
		assert_true(*r == 'm' || *r == 'l');
		n += strlen(r + 1);
		if (*r == 'l')
			break;
	}
	assert_true(n > 4000);
	assert_string_equal(ask(s, "qXfer:features:read:target.xml:ffffff,200"), "E00");
	assert_string_equal(ask(s, "qXfer:features:read:other.xml:0,200"), "E00");
	assert_string_equal(ask(s, "qXfer:memory-map:read::0,200"), "");
	with = gdb_reg_count(&f->t);
	f->no_avx512 = true;
	assert_int_equal(with - gdb_reg_count(&f->t), 8 + 16 * 4 + 1);
	gdb_stub_destroy(s);
	free(f);
}

/* Over a socket: a thread plays the machine. */
struct session {
	struct fake *f;
	struct gdb_server *server;
	enum debug_go end;
};

static void *machine_thread(void *opaque)
{
	struct session *s = opaque;
	enum debug_stop why = DEBUG_STOP_START;

	for (;;) {
		enum debug_go go = gdb_server_wait(s->server, why);

		if (go == DEBUG_KILL || atomic_load(&s->f->stopping)) {
			s->end = go;
			return NULL;
		}
		if (go == DEBUG_STEP) {
			s->f->v.cpu.rip++;
			why = DEBUG_STOP_STEP;
			continue;
		}
		while (!atomic_exchange(&s->f->interrupted, false) && !atomic_load(&s->f->stopping))
			usleep(500);
		why = DEBUG_STOP_INTERRUPT;
	}
}

static int connect_to(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct timeval tv = { .tv_sec = 5 };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(a.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	return fd;
}

/* Reads until `want` has been seen at the end. */
static void expect(int fd, const char *want)
{
	char buf[4096];
	size_t n = 0, w = strlen(want);

	while (n < w || memcmp(buf + n - w, want, w)) {
		ssize_t r = recv(fd, buf + n, 1, 0);

		assert_int_equal(r, 1);
		n++;
		assert_true(n < sizeof(buf));
	}
}
static void send_text(int fd, const char *t)
{
	assert_int_equal(send(fd, t, strlen(t), MSG_NOSIGNAL), strlen(t));
}

static void test_socket(void **state)
{
	struct fake *f = fake_create();
	struct session se = { .f = f };
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	char where[120];
	struct error e;
	pthread_t th;
	int fd, l = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "/tmp/ectype-gdb-%d.sock", getpid());
	snprintf(where, sizeof(where), "unix:%s", a.sun_path);
	unlink(a.sun_path);
	assert_int_equal(bind(l, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(l, 1), 0);
	se.server = gdb_server_create(&f->t, l, where, &e);
	assert_non_null(se.server);
	assert_int_equal(pthread_create(&th, NULL, machine_thread, &se), 0);

	fd = connect_to(a.sun_path);
	send_text(fd, "+$?#3f");
	expect(fd, "+$T05thread:1;#d7");
	send_text(fd, "+$s#73");
	expect(fd, "+$T05thread:1;#d7");
	assert_true(f->v.cpu.rip == 0x2001);
	send_text(fd, "+$Z0,2000,1#d5");
	send_text(fd, "$p10#d1");
	expect(fd, "$0120000000000000#03");
	assert_int_equal(f->v.debug.count, 1);
	/* run, interrupt */
	send_text(fd, "+$c#63");
	expect(fd, "+");
	usleep(20000);
	send_text(fd, "\x03");
	expect(fd, "$T02thread:1;#d4");
	/* run and interrupt in one piece */
	send_text(fd, "+$c#63\x03");
	expect(fd, "$T02thread:1;#d4");
	/* the client vanishes while the guest runs: its breakpoints go with it */
	send_text(fd, "+$c#63");
	expect(fd, "+");
	close(fd);
	for (int i = 0; i < 4000 && __atomic_load_n(&f->v.debug.count, __ATOMIC_SEQ_CST); i++)
		usleep(500);
	assert_int_equal(f->v.debug.count, 0);
	/* another comes and finds the machine stopped */
	fd = connect_to(a.sun_path);
	send_text(fd, "$?#3f");
	expect(fd, "$T02thread:1;#d4");
	/* and detaches */
	send_text(fd, "+$D#44");
	expect(fd, "$OK#9a");
	close(fd);
	fd = connect_to(a.sun_path);
	send_text(fd, "$?#3f");
	expect(fd, "$T02thread:1;#d4");
	/* one that says nothing does not keep the machine from ending */
	atomic_store(&f->stopping, true);
	pthread_join(th, NULL);
	assert_int_equal(se.end, DEBUG_CONTINUE);
	close(fd);
	gdb_server_destroy(se.server);
	assert_int_equal(access(a.sun_path, F_OK), -1);
	free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_registers),   cmocka_unit_test(test_memory),  cmocka_unit_test(test_breakpoints),
		cmocka_unit_test(test_control),	    cmocka_unit_test(test_monitor), cmocka_unit_test(test_framing),
		cmocka_unit_test(test_description), cmocka_unit_test(test_socket),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

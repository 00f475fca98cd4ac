/*
 * The machine with real-mode firmware of a few instructions: ends, exact
 * budgets, stops and calls from other threads, the state hash.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <pthread.h>
#include <unistd.h>

#include "machine/machine.h"

#define ROM_SIZE (64 * KiB)

static char rom_path[] = "/tmp/ectype-test-rom-XXXXXX";

/* `code` runs at F000:0000, the reset vector jumps there. */
static void write_rom(const u8 *code, size_t n)
{
	static const u8 jump[] = { 0xea, 0x00, 0x00, 0x00, 0xf0 };
	static u8 rom[ROM_SIZE];
	FILE *f = fopen(rom_path, "w");

	memset(rom, 0xf4, sizeof(rom));
	memcpy(rom, code, n);
	memcpy(rom + ROM_SIZE - 16, jump, sizeof(jump));
	assert_non_null(f);
	assert_int_equal(fwrite(rom, 1, sizeof(rom), f), sizeof(rom));
	fclose(f);
}

static struct machine_config config(enum machine_clock clock)
{
	return (struct machine_config){ .name = "test",
					.memory = 4 * MiB,
					.cpus = 1,
					.engine = "interp",
					.clock = clock,
					.cpu_model = "host",
					.firmware = rom_path,
					.debug_exit = true,
					.no_reboot = true };
}

static struct machine *create(const struct machine_config *c, const u8 *code, size_t n)
{
	struct error e;

	write_rom(code, n);
	struct machine *m = machine_create(c, &e);

	if (!m)
		fail_msg("%s", e.text);
	return m;
}

static void test_debug_exit(void **state)
{
	static const u8 code[] = { 0xb0, 0x11, 0xe6, 0xf4, 0xf4 }; /* mov al, 11h; out f4h, al; hlt */
	struct machine_config c = config(MACHINE_CLOCK_REAL);
	struct machine *m = create(&c, code, sizeof(code));
	struct machine_result r;

	machine_run(m, &r);
	assert_int_equal(r.end, MACHINE_END_DEBUG_EXIT);
	assert_int_equal(r.exit_code, 0x23);
	assert_int_equal(machine_vcpu(m, 0)->icount, 3);
	machine_destroy(m);
}

static unsigned lines;
static void count_line(void *opaque, const char *text)
{
	lines++;
}

static void test_triple_fault(void **state)
{
	static const u8 code[] = { 0x0f, 0x01, 0x1e, 0x00, 0x80, 0xcc }; /* lidt [8000h]; int3 */
	struct machine_config c = config(MACHINE_CLOCK_REAL);
	struct machine *m = create(&c, code, sizeof(code));
	struct machine_result r;

	machine_run(m, &r);
	assert_int_equal(r.end, MACHINE_END_TRIPLE_FAULT);
	machine_dump_registers(m, 0, count_line, NULL);
	assert_true(lines > 10);
	machine_destroy(m);
}

/* Without no_reboot it starts over; the limit is exact across that. */
static void test_reboot_and_limit(void **state)
{
	static const u8 code[] = { 0x0f, 0x01, 0x1e, 0x00, 0x80, 0xcc };
	struct machine_config c = config(MACHINE_CLOCK_VIRTUAL);
	struct machine_result r;

	c.no_reboot = false;
	c.insn_limit = 100;
	struct machine *m = create(&c, code, sizeof(code));

	machine_run(m, &r);
	assert_int_equal(r.end, MACHINE_END_LIMIT);
	assert_int_equal(machine_vcpu(m, 0)->icount, 100);
	machine_destroy(m);
}

static const u8 spin[] = { 0xfe, 0xc0, 0xeb, 0xfc };	 /* inc al; jmp -2 */
static const u8 halt_cli[] = { 0xfa, 0xf4, 0xeb, 0xfc }; /* cli; hlt */

static void *stop_soon(void *m)
{
	usleep(30000);
	machine_stop(m);
	return NULL;
}

static void test_stop(void **state)
{
	static const struct {
		const u8 *code;
		enum machine_clock clock;
	} cases[] = {
		{ spin, MACHINE_CLOCK_REAL },
		{ spin, MACHINE_CLOCK_VIRTUAL },
		{ halt_cli, MACHINE_CLOCK_REAL },
		{ halt_cli, MACHINE_CLOCK_VIRTUAL },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct machine_config c = config(cases[i].clock);
		struct machine *m = create(&c, cases[i].code, 4);
		struct machine_result r;
		pthread_t t;

		pthread_create(&t, NULL, stop_soon, m);
		machine_run(m, &r);
		pthread_join(t, NULL);
		assert_int_equal(r.end, MACHINE_END_STOPPED);
		assert_false(machine_stopping(m));
		machine_destroy(m);
	}
}

struct caller {
	struct machine *m;
	pthread_t ran_on;
	unsigned calls;
};

static void called(void *opaque)
{
	struct caller *c = opaque;

	c->ran_on = pthread_self();
	c->calls++;
}

static void *call_then_stop(void *opaque)
{
	struct caller *c = opaque;

	for (int i = 0; i < 100; i++)
		machine_call(c->m, called, c);
	machine_stop(c->m);
	return NULL;
}

static void test_call(void **state)
{
	struct machine_config c = config(MACHINE_CLOCK_REAL);
	struct caller caller = { .m = create(&c, halt_cli, sizeof(halt_cli)) };
	struct machine_result r;
	pthread_t t;

	machine_call(caller.m, called, &caller); /* not running: at once */
	assert_int_equal(caller.calls, 1);
	pthread_create(&t, NULL, call_then_stop, &caller);
	machine_run(caller.m, &r);
	pthread_join(t, NULL);
	assert_int_equal(caller.calls, 101);
	machine_destroy(caller.m);
}

static u64 hash_at(const u8 *code, size_t n, u64 limit)
{
	struct machine_config c = config(MACHINE_CLOCK_VIRTUAL);
	struct machine_result r;

	c.insn_limit = limit;
	struct machine *m = create(&c, code, n);

	machine_run(m, &r);
	assert_int_equal(r.end, MACHINE_END_LIMIT);
	assert_int_equal(machine_vcpu(m, 0)->icount, limit);
	u64 h = machine_state_hash(m);

	assert_int_equal(machine_state_hash(m), h); /* looking changes nothing */
	machine_destroy(m);
	return h;
}

static void test_determinism(void **state)
{
	/* mov al, 34h; out 43h, al; in al, 40h; mov [di], al; rdtsc; add [di], ax; inc di; jmp */
	static const u8 code[] = { 0xb0, 0x34, 0xe6, 0x43, 0xe4, 0x40, 0x88, 0x05,
				   0x0f, 0x31, 0x01, 0x05, 0x47, 0xeb, 0xf5 };
	u64 a = hash_at(code, sizeof(code), 100003);

	assert_int_equal(a, hash_at(code, sizeof(code), 100003));
	assert_true(a != hash_at(code, sizeof(code), 100004));
}

/*
 * The PIT ticks on IRQ 0 (x2APIC, LINT0 as ExtINT), a handler counts; work and halts in turn:
 *
 *	ds = ss = 0, sp = 7000h; x2APIC on, LINT0 700h; PIC: vector 20h, only IRQ 0; PIT: mode 3, 64 ticks; sti
 * w:	mov cx, 10000
 * 1:	add [6000h], cx; loop 1b; rdtsc; add [6002h], ax; mov dl, 5
 * 2:	hlt; dec dl; jnz 2b; jmp w
 * int20:	push ax; inc word [6004h]; mov al, 20h; out 20h, al; pop ax; iret
 */
static const u8 ticking[] = {
	0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x70, 0x66, 0xb9, 0x1b, 0x00, 0x00, 0x00, 0x0f, 0x32, 0x0d,
	0x00, 0x0c, 0x0f, 0x30, 0x66, 0xb9, 0x0f, 0x08, 0x00, 0x00, 0x66, 0x31, 0xd2, 0x66, 0xb8, 0xff, 0x01, 0x00,
	0x00, 0x0f, 0x30, 0xb1, 0x35, 0xb5, 0x08, 0xb8, 0x00, 0x07, 0x0f, 0x30, 0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x20,
	0xe6, 0x21, 0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21, 0xb0, 0xfe, 0xe6, 0x21, 0xc7, 0x06, 0x80, 0x00,
	0x73, 0x00, 0x8c, 0x0e, 0x82, 0x00, 0xb0, 0x36, 0xe6, 0x43, 0xb0, 0x40, 0xe6, 0x40, 0xb0, 0x00, 0xe6, 0x40,
	0xfb, 0xb9, 0x10, 0x27, 0x01, 0x0e, 0x00, 0x60, 0xe2, 0xfa, 0x0f, 0x31, 0x01, 0x06, 0x02, 0x60, 0xb2, 0x05,
	0xf4, 0xfe, 0xca, 0x75, 0xfb, 0xeb, 0xe8, 0x50, 0xff, 0x06, 0x04, 0x60, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf,
};

static void test_slices(void **state)
{
	static const u64 lengths[] = { 1, 7, 1000, 54321 };
	const u64 end = 60000, whole = hash_at(ticking, sizeof(ticking), end);
	struct machine_config c = config(MACHINE_CLOCK_VIRTUAL);
	struct machine_result r;

	for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
		struct machine *m = create(&c, ticking, sizeof(ticking));

		for (u64 at = 0; at < end;) {
			at = MIN(at + lengths[i], end);
			machine_run_until(m, at, &r);
			assert_int_equal(r.end, MACHINE_END_LIMIT);
			assert_int_equal(machine_vcpu(m, 0)->icount, at);
		}
		assert_true(memory_ram(machine_memory(m))[0x6004] > 10); /* interrupts there were */
		assert_int_equal(machine_state_hash(m), whole);
		machine_run_until(m, end, &r); /* a slice of nothing */
		assert_int_equal(machine_state_hash(m), whole);
		machine_destroy(m);
	}
}

static void test_halted_for_ever(void **state)
{
	struct machine_config c = config(MACHINE_CLOCK_VIRTUAL);
	struct machine *m = create(&c, halt_cli, sizeof(halt_cli));
	struct machine_result r;

	machine_run_until(m, 1000, &r);
	assert_int_equal(r.end, MACHINE_END_HALTED);
	assert_int_equal(machine_vcpu(m, 0)->icount, 3);
	machine_destroy(m);
}

static void test_bad_config(void **state)
{
	struct machine_config good = config(MACHINE_CLOCK_REAL), c;
	struct error e;

	write_rom(spin, sizeof(spin));
	assert_int_equal(machine_check(&good, &e), 0);
#define BAD(change)                                                                                                    \
	c = good;                                                                                                      \
	change;                                                                                                        \
	assert_int_equal(machine_check(&c, &e), -1);                                                                   \
	assert_null(machine_create(&c, &e));                                                                           \
	assert_true(strlen(e.text) > 10)
	BAD(c.memory = 0);
	BAD(c.memory = 4 * MiB + 4096);
	BAD(c.memory = 1ull << 60);
	BAD(c.cpus = 0);
	BAD(c.cpus = 65);
	BAD(c.engine = "warp");
	BAD(c.cpu_model = "i4004");
	BAD(c.firmware = "/nonexistent");
	BAD(c.firmware = NULL);
	BAD(c.kernel = rom_path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_debug_exit),
		cmocka_unit_test(test_triple_fault),
		cmocka_unit_test(test_reboot_and_limit),
		cmocka_unit_test(test_stop),
		cmocka_unit_test(test_call),
		cmocka_unit_test(test_determinism),
		cmocka_unit_test(test_slices),
		cmocka_unit_test(test_halted_for_ever),
		cmocka_unit_test(test_bad_config),
	};
	int fd = mkstemp(rom_path);

	if (fd < 0)
		return 1;
	close(fd);
	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	unlink(rom_path);
	return failed;
}

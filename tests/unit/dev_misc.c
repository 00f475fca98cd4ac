/* i8042, ACPI PM, debug exit, test device. */
#include "dev_rig.h"
#include <cmocka.h>

#include "dev/chipset/vmgenid.h"
#include "dev/chipset/acpi_pm.h"
#include "dev/chipset/debugexit.h"
#include "dev/chipset/i8042.h"
#include "dev/chipset/testdev.h"

static u32 in(struct rig *r, u16 port, unsigned size)
{
	return port_read(r->board.ports, port, size);
}
static void out(struct rig *r, u16 port, u32 v, unsigned size)
{
	port_write(r->board.ports, port, v, size);
}

static struct device *make_i8042(struct rig *r)
{
	struct irq irq = rig_irq(r, 1);

	return i8042_create(&r->board, &irq);
}

static u8 answer(struct rig *r)
{
	assert_int_equal(rig_in(r, 0x64) & 1, 1);
	return rig_in(r, 0x60);
}

static void kbd_expect(struct rig *r, u8 cmd, const char *bytes, unsigned n)
{
	rig_out(r, 0x60, cmd);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(answer(r), (u8)bytes[i]);
	assert_int_equal(rig_in(r, 0x64) & 1, 0);
}

static void keyboard_controller(void **state)
{
	struct rig *r = rig_create();

	make_i8042(r);
	rig_out(r, 0x64, 0xaa);
	assert_int_equal(answer(r), 0x55);
	rig_out(r, 0x64, 0xab);
	assert_int_equal(answer(r), 0x00);
	rig_out(r, 0x64, 0x60);
	rig_out(r, 0x60, 0x75);
	rig_out(r, 0x64, 0x20);
	assert_int_equal(answer(r), 0x75);
	/* no auxiliary port, found out without a wait */
	rig_out(r, 0x64, 0xd3);
	rig_out(r, 0x60, 0x5a);
	assert_int_equal(rig_in(r, 0x64) & 0x21, 0x01);
	assert_int_equal(answer(r), 0x5a);
	rig_out(r, 0x64, 0xa9);
	assert_int_equal(answer(r), 0x01);
	/* the keyboard */
	rig_out(r, 0x64, 0x60);
	rig_out(r, 0x60, 0x01);
	r->rises[1] = 0;
	kbd_expect(r, 0xf2, "\xfa\xab\x83", 3);
	assert_int_equal(r->rises[1], 3);
	kbd_expect(r, 0xff, "\xfa\xaa", 2);
	kbd_expect(r, 0xed, "\xfa", 1);
	kbd_expect(r, 0x07, "\xfa", 1);
	kbd_expect(r, 0xee, "\xee", 1);
	kbd_expect(r, 0x12, "\xfe", 1);
	/* resets */
	assert_int_equal(r->requests, 0);
	rig_out(r, 0x64, 0xfe);
	assert_int_equal(r->requests, 1);
	assert_int_equal(r->last_request, BOARD_RESET);
	rig_out(r, 0x92, 0x02);
	assert_int_equal(rig_in(r, 0x92) & 2, 2);
	assert_int_equal(r->requests, 1);
	rig_out(r, 0x92, 0x03);
	assert_int_equal(r->requests, 2);
	rig_destroy(r);
}

static void poke_i8042(struct rig *r, struct device *d)
{
	rig_out(r, 0x64, 0x60);
	rig_out(r, 0x60, 0x01);
	rig_out(r, 0x60, 0xf2);
	rig_out(r, 0x60, 0xed);
	rig_in(r, 0x60);
	rig_out(r, 0x64, 0xaa);
	rig_out(r, 0x64, 0xd1);
	rig_out(r, 0x92, 0x02);
}

static void roundtrip_i8042(void **state)
{
	rig_roundtrip(make_i8042, poke_i8042);
}

static struct device *make_pm(struct rig *r)
{
	struct irq sci = rig_irq(r, 9);

	return acpi_pm_create(&r->board, &sci, false);
}

static void acpi(void **state)
{
	struct rig *r = rig_create();
	struct device *d = make_pm(r);

	rig_pass(r, NSEC_PER_SEC);
	assert_int_equal(in(r, 0x608, 4), 3579545);
	rig_pass(r, 9 * NSEC_PER_SEC);
	assert_int_equal(in(r, 0x608, 4), 35795450 & 0xffffff);
	assert_int_equal(in(r, 0x600, 2), 1); /* the timer's top bit changed meanwhile */
	assert_null(rig_next_timer(&r->clock));
	out(r, 0x600, 1, 2);
	assert_int_equal(in(r, 0x600, 2), 0);
	assert_int_equal(in(r, 0x604, 2) & 1, 0);
	rig_out(r, 0xb2, 0x02);
	assert_int_equal(in(r, 0x604, 2) & 1, 1);
	out(r, 0x602, 0x0101, 2);
	assert_false(r->level[9]);
	acpi_pm_power_button(d);
	assert_true(r->level[9]);
	assert_int_equal(in(r, 0x600, 2), 0x100);
	out(r, 0x600, 0x100, 2);
	assert_false(r->level[9]);
	rig_pass(r, 3 * NSEC_PER_SEC); /* half a period is 2.34 s */
	assert_true(r->level[9]);
	out(r, 0x600, 1, 2);
	assert_false(r->level[9]);
	out(r, 0x602, 0, 2);
	acpi_pm_gpe(d, 10);
	assert_false(r->level[9]);
	out(r, 0x629, 0x04, 1);
	assert_true(r->level[9]);
	out(r, 0x621, 0x04, 1);
	assert_false(r->level[9]);
	/* moved */
	acpi_pm_set_base(d, 0xb000, true);
	assert_int_equal(in(r, 0x604, 2), 0xffff);
	assert_int_equal(in(r, 0xb004, 2), 1);
	/* S3 is ignored, S5 is not */
	out(r, 0xb004, 5 << 10 | 0x2001, 2);
	assert_int_equal(r->requests, 0);
	out(r, 0xb004, 7 << 10 | 0x2001, 2);
	assert_int_equal(r->requests, 1);
	assert_int_equal(r->last_request, BOARD_POWER_OFF);
	rig_destroy(r);
}

static void poke_pm(struct rig *r, struct device *d)
{
	rig_pass(r, 5 * NSEC_PER_SEC);
	rig_out(r, 0xb2, 0x02);
	acpi_pm_set_base(d, 0xb000, true);
	out(r, 0xb002, 0x0101, 2);
	out(r, 0xb000, 0x0001, 2);
	acpi_pm_power_button(d);
	acpi_pm_gpe(d, 3);
}

static void roundtrip_pm(void **state)
{
	rig_roundtrip(make_pm, poke_pm);
}

#define GENERATION_GPA 0xfef00000u

static struct device *make_vmgenid(struct rig *r)
{
	return vmgenid_create(&r->board, GENERATION_GPA, 1, (const u8 *)"0123456789abcdef");
}

static void poke_vmgenid(struct rig *r, struct device *d)
{
	vmgenid_set(d, (const u8 *)"another one, yes");
}

static void generation(void **state)
{
	struct rig *r = rig_create();
	struct device *d = make_vmgenid(r);
	u8 seen[GUID_LEN];

	memory_read(r->board.mem, GENERATION_GPA, seen, sizeof(seen));
	assert_memory_equal(seen, "0123456789abcdef", sizeof(seen));
	/* the guest cannot */
	assert_int_equal(memory_write(r->board.mem, GENERATION_GPA, "x", 1), -1);
	poke_vmgenid(r, d);
	d->ops->reset(d);
	memory_read(r->board.mem, GENERATION_GPA, seen, sizeof(seen));
	assert_memory_equal(seen, "another one, yes", sizeof(seen));
	assert_memory_equal(vmgenid_get(d), seen, sizeof(seen));
	rig_destroy(r);
}

static void roundtrip_vmgenid(void **state)
{
	rig_roundtrip(make_vmgenid, poke_vmgenid);
}

static void guid(void **state)
{
	static const char text[] = "00112233-4455-6677-8899-aabbccddeeff";
	static const char *const bad[] = { "",
					   "0",
					   "00112233-4455-6677-8899-aabbccddeef",
					   "00112233-4455-6677-8899-aabbccddeeff0",
					   "00112233-4455-6677-8899-aabbccddeefg",
					   "0011223344556677-8899-aabbccddeeff--",
					   "{0112233-4455-6677-8899-aabbccddeeff" };
	u8 bytes[GUID_LEN];
	char back[GUID_TEXT_LEN + 1];

	assert_true(guid_parse(text, bytes));
	assert_memory_equal(bytes, "\x33\x22\x11\x00\x55\x44\x77\x66\x88\x99\xaa\xbb\xcc\xdd\xee\xff", 16);
	guid_format(bytes, back);
	assert_string_equal(back, text);
	assert_true(guid_parse("00112233-4455-6677-8899-AABBCCDDEEFF", bytes));
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(guid_parse(bad[i], bytes));
}

static struct device *make_exit(struct rig *r)
{
	return debugexit_create(&r->board);
}
static void poke_nothing(struct rig *r, struct device *d) {}

static void debug_exit(void **state)
{
	struct rig *r = rig_create();

	make_exit(r);
	rig_out(r, 0xf4, 0x21);
	assert_int_equal(r->last_request, BOARD_DEBUG_EXIT);
	assert_int_equal(r->last_value, 0x21);
	out(r, 0xf4, 0x12345678, 4);
	assert_int_equal(r->last_value, 0x12345678);
	rig_destroy(r);
	rig_roundtrip(make_exit, poke_nothing);
}

static void flushed(void *opaque, u32 addr)
{
	((struct rig *)opaque)->last_value = addr;
}

static struct device *make_testdev(struct rig *r)
{
	struct testdev_config cfg = { .flush_page = flushed, .opaque = r, .prio = 10 };

	for (unsigned i = 0; i < TESTDEV_IRQS; i++)
		cfg.irqs[i] = rig_irq(r, i);
	return testdev_create(&r->board, &cfg);
}

static void test_device(void **state)
{
	struct rig *r = rig_create();
	u8 b[16], back[16];

	make_testdev(r);
	out(r, 0xe0, 0x12345678, 4);
	assert_int_equal(in(r, 0xe1, 1), 0x56);
	out(r, 0xe2, 0xabcd, 2);
	assert_int_equal(in(r, 0xe0, 4), 0xabcd5678);
	out(r, 0xe4, 0x401000, 4);
	assert_int_equal(r->last_value, 0x401000);
	out(r, 0x2000 + 23, 1, 1);
	assert_true(r->level[23]);
	out(r, 0x2000 + 23, 0, 1);
	assert_false(r->level[23]);
	for (unsigned i = 0; i < sizeof(b); i++)
		b[i] = i * 17;
	for (unsigned size = 1; size <= 8; size *= 2) {
		assert_int_equal(memory_write(r->board.mem, TESTDEV_MMIO + 0xfff0, b, size), 0);
		assert_int_equal(memory_read(r->board.mem, TESTDEV_MMIO + 0xfff0, back, size), 0);
		assert_memory_equal(b, back, size);
	}
	rig_destroy(r);
}

static void poke_testdev(struct rig *r, struct device *d)
{
	out(r, 0xe0, 0x12345678, 4);
	out(r, 0x2003, 1, 1);
	memory_write(r->board.mem, TESTDEV_MMIO + 100, "device", 6);
}

static void roundtrip_testdev(void **state)
{
	rig_roundtrip(make_testdev, poke_testdev);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(keyboard_controller),
		cmocka_unit_test(roundtrip_i8042),
		cmocka_unit_test(acpi),
		cmocka_unit_test(generation),
		cmocka_unit_test(roundtrip_vmgenid),
		cmocka_unit_test(guid),
		cmocka_unit_test(roundtrip_pm),
		cmocka_unit_test(debug_exit),
		cmocka_unit_test(test_device),
		cmocka_unit_test(roundtrip_testdev),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

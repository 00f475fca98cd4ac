/* Port dispatch: splitting, overlaps, removal, unclaimed ports. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "mem/portmap.h"

#include "fakes.h"

struct recorder {
	char text[256];
	u32 value;
};

static u64 rec_read(void *opaque, u64 off, unsigned size)
{
	struct recorder *r = opaque;

	snprintf(r->text + strlen(r->text), sizeof(r->text) - strlen(r->text), "r%x.%u ", (unsigned)off, size);
	return r->value;
}

static void rec_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct recorder *r = opaque;

	snprintf(r->text + strlen(r->text), sizeof(r->text) - strlen(r->text), "w%x.%u=%x ", (unsigned)off, size,
		 (unsigned)val);
}

static const struct io_ops ops_1 = { rec_read, rec_write, 1, 1 };
static const struct io_ops ops_124 = { rec_read, rec_write, 1, 4 };
static const struct io_ops ops_2 = { rec_read, rec_write, 2, 2 };
static const struct io_ops ops_4 = { rec_read, rec_write, 4, 4 };

#define SAW(r, s) (assert_string_equal((r).text, s), (r).text[0] = 0)

static void dispatch(void **state)
{
	struct portmap *p = portmap_create();
	struct recorder a = { "", 0xa1 }, b = { "", 0xb2b2 }, c = { "", 0xc3c3c3c3 };

	assert_int_equal(portmap_add(p, 0x60, 2, &ops_1, &a, "a"), 0);
	assert_int_equal(portmap_add(p, 0x62, 2, &ops_2, &b, "b"), 0);
	assert_int_equal(portmap_add(p, 0x1000, 16, &ops_124, &c, "c"), 0);
	assert_int_equal(port_read(p, 0x60, 1), 0xa1);
	SAW(a, "r0.1 ");
	assert_int_equal(port_read(p, 0x60, 2), 0xa1a1);
	SAW(a, "r0.1 r1.1 ");
	assert_int_equal(port_read(p, 0x60, 4), 0xb2b2a1a1);
	SAW(a, "r0.1 r1.1 ");
	SAW(b, "r0.2 ");
	assert_int_equal(port_read(p, 0x62, 1), 0xff); /* below min_size */
	SAW(b, "");
	assert_int_equal(port_read(p, 0x63, 2), 0xffff);
	assert_int_equal(port_read(p, 0x61, 2), 0xffa1);
	SAW(a, "r1.1 ");
	SAW(b, "");
	port_write(p, 0x60, 0x44332211, 4);
	SAW(a, "w0.1=11 w1.1=22 ");
	SAW(b, "w0.2=4433 ");
	assert_int_equal(port_read(p, 0x100c, 4), 0xc3c3c3c3);
	SAW(c, "rc.4 ");
	assert_int_equal(port_read(p, 0x100e, 4), 0xffffc3c3); /* over the end */
	SAW(c, "re.2 ");
	assert_int_equal(port_read(p, 0x80, 4), 0xffffffff);
	assert_int_equal(port_read(p, 0xffff, 4), 0xffffffff); /* no wrap to port 0 */
	port_write(p, 0xfffe, 0, 4);
	assert_int_equal(portmap_stats(p)->writes, 2);
	portmap_destroy(p);
}

static void top(void **state)
{
	struct portmap *p = portmap_create();
	struct recorder a = { "", 0x5a };

	assert_int_equal(portmap_add(p, 0xffff, 1, &ops_1, &a, "a"), 0);
	assert_int_equal(portmap_add(p, 0xffff, 2, &ops_1, &a, "a"), -1);
	assert_int_equal(portmap_add(p, 0, 0, &ops_1, &a, "a"), -1);
	assert_int_equal(port_read(p, 0xffff, 2), 0xff5a);
	assert_int_equal(portmap_add(p, 0, 0x10000, &ops_124, &a, "all"), 0);
	assert_int_equal(port_read(p, 0xffff, 1), 0x5a);
	portmap_destroy(p);
}

static void overlap(void **state)
{
	struct portmap *p = portmap_create();
	struct recorder pci = { "", 0x80000000 }, reset = { "", 6 }, other = { "", 1 };

	portmap_add(p, 0xcf8, 4, &ops_4, &pci, "pci-address");
	portmap_add(p, 0xcf9, 1, &ops_1, &reset, "reset-control");
	assert_int_equal(port_read(p, 0xcf8, 4), 0x80000000);
	SAW(pci, "r0.4 ");
	SAW(reset, "");
	assert_int_equal(port_read(p, 0xcf9, 1), 6);
	SAW(reset, "r0.1 ");
	portmap_add(p, 0xcf9, 1, &ops_1, &other, "other");
	assert_int_equal(port_read(p, 0xcf9, 1), 1);
	portmap_remove(p, 0xcf9, &other);
	assert_int_equal(port_read(p, 0xcf9, 1), 6);
	portmap_remove(p, 0xcf9, &reset);
	assert_int_equal(port_read(p, 0xcf9, 1), 0xff); /* the doubleword register takes no bytes */
	portmap_remove(p, 0xcf8, &pci);
	assert_int_equal(port_read(p, 0xcf8, 4), 0xffffffff);
	portmap_destroy(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dispatch),
		cmocka_unit_test(top),
		cmocka_unit_test(overlap),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

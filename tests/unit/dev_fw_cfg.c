/* fw_cfg: selector, data, directory, and the bounds of DMA. */
#include "dev_rig.h"
#include <cmocka.h>

#include "dev/chipset/fw_cfg.h"

#define DESC 0x1000u

static void written(void *opaque, const u8 *data, u32 len)
{
	((struct rig *)opaque)->last_value++;
}

static struct device *make(struct rig *r)
{
	struct device *d = fw_cfg_create(&r->board);

	fw_cfg_add_u16(d, FW_CFG_NB_CPUS, 4);
	fw_cfg_add_file(d, "etc/one", "first file", 10);
	fw_cfg_add_writable_file(d, "etc/rw", "........", 8, written, r);
	return d;
}

static void put_be(u8 *p, u64 v, unsigned n)
{
	while (n--) {
		p[n] = v;
		v >>= 8;
	}
}

/* One DMA command; returns the control word afterwards. */
static u32 dma(struct rig *r, u32 control, u32 len, u64 addr)
{
	u8 raw[16];
	u32 status;

	put_be(raw, control, 4);
	put_be(raw + 4, len, 4);
	put_be(raw + 8, addr, 8);
	memory_write(r->board.mem, DESC, raw, 16);
	port_write(r->board.ports, 0x514, 0, 4);
	port_write(r->board.ports, 0x518, __builtin_bswap32(DESC), 4);
	memory_read(r->board.mem, DESC, &status, 4);
	return __builtin_bswap32(status);
}

static void ports(void **state)
{
	struct rig *r = rig_create();
	struct device *d = make(r);
	u8 dir[4 + 2 * 64];

	port_write(r->board.ports, 0x510, FW_CFG_SIGNATURE, 2);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(rig_in(r, 0x511), "QEMU"[i]);
	assert_int_equal(rig_in(r, 0x511), 0); /* beyond the end */
	port_write(r->board.ports, 0x510, FW_CFG_ID, 2);
	assert_int_equal(rig_in(r, 0x511), 3);
	port_write(r->board.ports, 0x510, FW_CFG_NB_CPUS, 2);
	assert_int_equal(rig_in(r, 0x511), 4);
	assert_int_equal(rig_in(r, 0x511), 0);
	port_write(r->board.ports, 0x510, FW_CFG_FILE_DIR, 2);
	for (unsigned i = 0; i < sizeof(dir); i++)
		dir[i] = rig_in(r, 0x511);
	assert_memory_equal(dir, "\0\0\0\2\0\0\0\12\0\40\0\0etc/one", 20);
	assert_memory_equal(dir + 68, "\0\0\0\10\0\41\0\0etc/rw", 15);
	assert_int_equal(port_read(r->board.ports, 0x514, 4), __builtin_bswap32(0x51454d55));
	assert_int_equal(port_read(r->board.ports, 0x518, 4), __builtin_bswap32(0x20434647));
	assert_int_equal(fw_cfg_add_file(d, "etc/one", "", 0), -1);
	assert_int_equal(fw_cfg_add_file(d, "a name much too long for the fifty-six bytes of an entry", "", 0), -1);
	rig_destroy(r);
}

static void dma_bounds(void **state)
{
	struct rig *r = rig_create();
	u8 buf[64], ff[64];

	make(r);
	memset(ff, 0xff, sizeof(ff));
	memory_write(r->board.mem, 0x2000, ff, sizeof(ff));
	assert_int_equal(dma(r, 0x20 << 16 | 0x08 | 0x02, 14, 0x2000), 0);
	memory_read(r->board.mem, 0x2000, buf, sizeof(buf));
	assert_memory_equal(buf, "first file\0\0\0\0\xff", 15);
	/* skip, then read the rest */
	assert_int_equal(dma(r, 0x20 << 16 | 0x08 | 0x04, 6, 0), 0);
	assert_int_equal(dma(r, 0x02, 4, 0x2000), 0);
	memory_read(r->board.mem, 0x2000, buf, 4);
	assert_memory_equal(buf, "file", 4);
	/* hostile lengths and addresses end with the error bit, soon */
	assert_int_equal(dma(r, 0x20 << 16 | 0x08 | 0x02, 0xffffffff, 0x2000), 1);
	assert_int_equal(dma(r, 0x20 << 16 | 0x08 | 0x02, 10, 0xffffffffffffffffull), 1);
	assert_int_equal(dma(r, 0x20 << 16 | 0x08 | 0x02, 10, 0x40000000), 1);
	assert_int_equal(dma(r, 0x20 << 16 | 0x08 | 0x10, 4, 0x2000), 1); /* read-only */
	assert_int_equal(dma(r, 0x7777u << 16 | 0x08 | 0x02, 8, 0x2000), 0);
	memory_read(r->board.mem, 0x2000, buf, 8);
	assert_memory_equal(buf, "\0\0\0\0\0\0\0\0", 8);
	assert_int_equal(dma(r, 0x04, 0xffffffff, 0), 0);
	assert_int_equal(dma(r, 0, 5, 0), 0);
	/* a writable file */
	memory_write(r->board.mem, 0x2000, "abcdefghi", 9);
	assert_int_equal(dma(r, 0x21 << 16 | 0x08 | 0x10, 8, 0x2000), 0);
	assert_int_equal(r->last_value, 1);
	assert_int_equal(dma(r, 0x21 << 16 | 0x08 | 0x10, 9, 0x2000), 1);
	port_write(r->board.ports, 0x510, 0x21, 2);
	assert_int_equal(rig_in(r, 0x511), 'a');
	/* a descriptor in nowhere, at the end of the address space */
	port_write(r->board.ports, 0x514, 0xffffffff, 4);
	port_write(r->board.ports, 0x518, 0xffffffff, 4);
	port_write(r->board.ports, 0x514, 0, 4);
	port_write(r->board.ports, 0x518, __builtin_bswap32(0x50000000), 4);
	rig_destroy(r);
}

static void poke(struct rig *r, struct device *d)
{
	memory_write(r->board.mem, 0x2000, "abcdefghi", 9);
	dma(r, 0x21 << 16 | 0x08 | 0x10, 6, 0x2000);
	port_write(r->board.ports, 0x510, 0x20, 2);
	rig_in(r, 0x511);
	port_write(r->board.ports, 0x514, 0x01020304, 4);
}

/* What the guest wrote is gone after a reset. */
static void reset(void **state)
{
	struct rig *r = rig_create();
	struct device *d = make(r);
	u32 len;

	assert_null(fw_cfg_file(d, "etc/two", &len));
	poke(r, d);
	assert_memory_equal(fw_cfg_file(d, "etc/rw", &len), "abcdef..", 8);
	assert_int_equal(len, 8);
	d->ops->reset(d);
	assert_memory_equal(fw_cfg_file(d, "etc/rw", &len), "........", 8);
	assert_memory_equal(fw_cfg_file(d, "etc/one", &len), "first file", 10);
	rig_destroy(r);
}

static void roundtrip(void **state)
{
	rig_roundtrip(make, poke);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ports),
		cmocka_unit_test(dma_bounds),
		cmocka_unit_test(reset),
		cmocka_unit_test(roundtrip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

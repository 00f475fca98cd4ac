/* PCI: both configuration mechanisms, BARs, INTx; q35: PCIEXBAR, PAM, PMBASE, routes. */
#include "dev_rig.h"
#include <cmocka.h>

#include "dev/chipset/acpi_pm.h"
#include "dev/pci/q35.h"

#define ECAM 0xb0000000u

static _Alignas(4096) u8 low_rom[256 * KiB];

/* Lines 0-15: PIC, 16-23: I/O APIC, 24: SCI. */
static struct device *make(struct rig *r)
{
	struct q35_config cfg = { .ecam_base = ECAM, .pam = true, .pam_prio = 10, .low_rom = low_rom };
	struct irq sci = rig_irq(r, 24);
	struct device *d;

	for (unsigned i = 0; i < PCI_LINES; i++)
		cfg.gsi[i] = rig_irq(r, 16 + i);
	for (unsigned i = 0; i < 16; i++)
		cfg.pic[i] = rig_irq(r, i);
	cfg.pm = acpi_pm_create(&r->board, &sci, false);
	d = q35_create(&r->board, &cfg);
	return d;
}

static u32 cfg_read(struct rig *r, unsigned slot, unsigned off, unsigned size)
{
	port_write(r->board.ports, 0xcf8, 0x80000000u | slot << 11 | (off & 0xfc), 4);
	return port_read(r->board.ports, 0xcfc + (off & 3), size);
}

static void cfg_write(struct rig *r, unsigned slot, unsigned off, u32 v, unsigned size)
{
	port_write(r->board.ports, 0xcf8, 0x80000000u | slot << 11 | (off & 0xfc), 4);
	port_write(r->board.ports, 0xcfc + (off & 3), v, size);
}

static u32 ecam_read32(struct rig *r, unsigned slot, unsigned off)
{
	u32 v;

	memory_read(r->board.mem, ECAM + (slot << 15) + off, &v, 4);
	return v;
}

static void mechanisms(void **state)
{
	struct rig *r = rig_create();

	make(r);
	assert_int_equal(cfg_read(r, 0, 0, 4), 0x29c08086);
	assert_int_equal(cfg_read(r, 31, 0, 4), 0x29188086);
	assert_int_equal(cfg_read(r, 31, 2, 2), 0x2918);
	assert_int_equal(cfg_read(r, 31, 0x0b, 1), 0x06);
	assert_int_equal(cfg_read(r, 5, 0, 4), 0xffffffff);
	for (unsigned slot = 0; slot < 32; slot++)
		for (unsigned off = 0; off < 256; off += 4)
			assert_int_equal(cfg_read(r, slot, off, 4), ecam_read32(r, slot, off));
	assert_int_equal(ecam_read32(r, 31, 0x100), 0);
	port_write(r->board.ports, 0xcf8, 0x0000f800, 4); /* not enabled */
	assert_int_equal(port_read(r->board.ports, 0xcfc, 4), 0xffffffff);
	/* the reset register shares the doubleword */
	port_write(r->board.ports, 0xcf8, 0x8000f800, 4);
	rig_out(r, 0xcf9, 0x02);
	assert_int_equal(r->requests, 0);
	rig_out(r, 0xcf9, 0x06);
	assert_int_equal(r->requests, 1);
	assert_int_equal(port_read(r->board.ports, 0xcf8, 4), 0x8000f800);
	/* PCIEXBAR moves ECAM: 64 MiB at C0000000h */
	cfg_write(r, 0, 0x60, 0xc0000005, 4);
	assert_int_equal(ecam_read32(r, 0, 0), 0xffffffff);
	memory_read(r->board.mem, 0xc0000000, &(u32){ 0 }, 4);
	cfg_write(r, 0, 0x60, ECAM | 1, 4);
	assert_int_equal(ecam_read32(r, 0, 0), 0x29c08086);
	rig_destroy(r);
}

static u64 bar_read(void *opaque, u64 off, unsigned size)
{
	return 0x40 + off;
}
static void bar_write(void *opaque, u64 off, u64 val, unsigned size)
{
	*(u64 *)opaque = off << 32 | val;
}
static const struct io_ops bar_io = { bar_read, bar_write, 1, 4 };

static void bars(void **state)
{
	struct rig *r = rig_create();
	struct pci_bus *bus = q35_bus(make(r));
	struct pci_dev *p = calloc(1, sizeof(*p));
	u64 seen = 0;
	u8 b;

	pci_init(p, 0x1af4, 0x1000, 0x020000, 1, "card");
	pci_bar_mmio(p, 0, 4096, false, false, &bar_io, &seen, "bar0");
	pci_bar_io(p, 1, 32, &bar_io, &seen, "bar1");
	pci_bar_mmio(p, 2, 64 * KiB, true, true, &bar_io, &seen, "bar2");
	p->config[PCI_INTERRUPT_PIN] = 1;
	assert_int_equal(pci_add(bus, p, PCI_DEVFN(3, 0)), 0);
	assert_int_equal(pci_add(bus, p, PCI_DEVFN(3, 0)), -1);
	/* sizing, with decoding on as careless software does */
	cfg_write(r, 3, PCI_COMMAND, 3, 2);
	for (unsigned i = 0; i < 6; i++)
		cfg_write(r, 3, 0x10 + 4 * i, 0xffffffff, 4);
	assert_int_equal(cfg_read(r, 3, 0x10, 4), 0xfffff000);
	assert_int_equal(cfg_read(r, 3, 0x14, 4), 0xffffffe1);
	assert_int_equal(cfg_read(r, 3, 0x18, 4), 0xffff000c);
	assert_int_equal(cfg_read(r, 3, 0x1c, 4), 0xffffffff);
	assert_int_equal(cfg_read(r, 3, 0x20, 4), 0);
	assert_false(p->bars[0].mapped || p->bars[1].mapped || p->bars[2].mapped);
	cfg_write(r, 3, 0x10, 0xe0001000, 4);
	cfg_write(r, 3, 0x14, 0xc000, 4);
	cfg_write(r, 3, 0x18, 0x00020000, 4);
	cfg_write(r, 3, 0x1c, 0x00000008, 4);
	memory_read(r->board.mem, 0xe0001005, &b, 1);
	assert_int_equal(b, 0x45);
	assert_int_equal(rig_in(r, 0xc003), 0x43);
	memory_read(r->board.mem, 0x800020001, &b, 1);
	assert_int_equal(b, 0x41);
	cfg_write(r, 3, 0x14, 0xd000, 4);
	assert_int_equal(rig_in(r, 0xc003), 0xff);
	assert_int_equal(rig_in(r, 0xd003), 0x43);
	cfg_write(r, 3, PCI_COMMAND, 0, 2);
	assert_int_equal(rig_in(r, 0xd003), 0xff);
	assert_int_equal(memory_read(r->board.mem, 0xe0001005, &b, 1), -1);
	/* INTx: slot 3, pin A: line D; routed to PIC input 10 */
	pci_set_irq(p, true);
	assert_true(r->level[19]);
	assert_false(r->level[10]);
	cfg_write(r, 31, 0x63, 10, 1);
	assert_true(r->level[10]);
	cfg_write(r, 3, PCI_COMMAND, PCI_COMMAND_INTX_DISABLE, 2);
	assert_false(r->level[19] || r->level[10]);
	assert_int_equal(cfg_read(r, 3, PCI_STATUS, 2) & PCI_STATUS_INTX, PCI_STATUS_INTX);
	cfg_write(r, 3, PCI_COMMAND, 0, 2);
	assert_true(r->level[10]);
	cfg_write(r, 31, 0x63, 0x80, 1);
	assert_false(r->level[10]);
	pci_remove(p);
	assert_false(r->level[19]);
	free(p);
	rig_destroy(r);
}

static u8 peek(struct rig *r, gpa_t a)
{
	u8 v;

	memory_read(r->board.mem, a, &v, 1);
	return v;
}

static void pam(void **state)
{
	struct rig *r = rig_create();

	/* the rig's RAM lies beneath; a ROM over it plays the firmware */
	memset(low_rom, 0xaa, sizeof(low_rom));
	memory_map_host(r->board.mem, 0xc0000, low_rom, sizeof(low_rom), REGION_ROM, 5, "rom");
	make(r);
	assert_int_equal(peek(r, 0xf1234), 0xaa);
	cfg_write(r, 0, 0x90, 0x20, 1); /* write only */
	memory_write(r->board.mem, 0xf1234, "\x11", 1);
	assert_int_equal(peek(r, 0xf1234), 0xaa);
	cfg_write(r, 0, 0x90, 0x30, 1);
	assert_int_equal(peek(r, 0xf1234), 0x11);
	memory_write(r->board.mem, 0xf1234, "\x22", 1);
	cfg_write(r, 0, 0x90, 0x10, 1); /* read only */
	memory_write(r->board.mem, 0xf1234, "\x33", 1);
	assert_int_equal(peek(r, 0xf1234), 0x22);
	cfg_write(r, 0, 0x96, 0x30, 1); /* EC000h-EFFFFh */
	assert_int_equal(peek(r, 0xeffff), 0);
	assert_int_equal(peek(r, 0xebfff), 0xaa);
	assert_int_equal(cfg_read(r, 0, 0x96, 1), 0x30);
	/* PMBASE */
	assert_int_equal(port_read(r->board.ports, 0x604, 2), 0);
	cfg_write(r, 31, 0x40, 0xb001, 4);
	assert_int_equal(port_read(r->board.ports, 0x604, 2), 0xffff);
	assert_int_equal(port_read(r->board.ports, 0xb004, 2), 0);
	cfg_write(r, 31, 0x44, 0, 1);
	assert_int_equal(port_read(r->board.ports, 0xb004, 2), 0xffff);
	rig_destroy(r);
	memset(low_rom, 0, sizeof(low_rom));
}

static void poke(struct rig *r, struct device *d)
{
	cfg_write(r, 0, 0x90, 0x30, 1);
	cfg_write(r, 0, 0x93, 0x21, 1);
	cfg_write(r, 31, 0x60, 0x0b, 1);
	cfg_write(r, 31, 0x40, 0xb001, 4);
	cfg_write(r, 0, 0x60, 0xc0000001, 4);
	rig_out(r, 0xcf9, 0x02);
}

static void roundtrip(void **state)
{
	rig_roundtrip(make, poke);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(mechanisms),
		cmocka_unit_test(bars),
		cmocka_unit_test(pam),
		cmocka_unit_test(roundtrip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

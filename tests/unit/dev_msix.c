/* MSI-X: capability, masks and pending bits, bus mastering, records. */
#include "dev_rig.h"
#include <cmocka.h>

#include "dev/pci/msix.h"

#define VECTORS 70
#define PBA 0x800

/* A function whose BAR 2 is the table, as a device of the board. */
struct card {
	struct device dev;
	struct pci_bus *bus;
	struct pci_dev pci;
	struct msix msix;
};

static u64 card_read(void *opaque, u64 off, unsigned size)
{
	const struct card *c = opaque;

	return off < PBA ? msix_table_read(&c->msix, off, size) : msix_pba_read(&c->msix, off - PBA, size);
}
static void card_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct card *c = opaque;

	if (off < PBA)
		msix_table_write(&c->msix, off, val, size);
}
static const struct io_ops card_io = { card_read, card_write, 1, 4 };

static void card_config(struct pci_dev *d, unsigned off, unsigned size)
{
	msix_config_written(&((struct card *)d->opaque)->msix);
}
static void card_reset(struct device *d)
{
	pci_bus_reset(((struct card *)d)->bus);
	msix_reset(&((struct card *)d)->msix);
}
static void card_save(const struct device *d, struct encoder *e)
{
	const struct card *c = (const struct card *)d;

	enc_begin(e, "card", 1);
	pci_dev_save(&c->pci, e);
	msix_save(&c->msix, e);
	enc_end(e);
}
static int card_check(const struct device *d, struct decoder *in)
{
	const struct card *c = (const struct card *)d;
	struct decoder i;

	if (!dec_begin(in, "card", &i) || i.version != 1)
		return -1;
	return pci_dev_check(&c->pci, &i) && msix_check(&c->msix, &i) && dec_done(&i) ? 0 : -1;
}
static void card_load(struct device *d, struct decoder *in)
{
	struct card *c = (struct card *)d;
	struct decoder i;

	dec_begin(in, "card", &i);
	msix_reset(&c->msix);
	pci_dev_load(&c->pci, &i);
	msix_load(&c->msix, &i);
}
static void card_destroy(struct device *d)
{
	struct card *c = (struct card *)d;

	msix_free(&c->msix);
	pci_bus_destroy(c->bus);
	free(c);
}
static const struct device_ops card_ops = {
	.name = "card",
	.reset = card_reset,
	.save = card_save,
	.check = card_check,
	.load = card_load,
	.destroy = card_destroy,
};
static void no_intx(void *opaque, unsigned pirq, bool level) {}

static struct device *make(struct rig *r)
{
	struct card *c = calloc(1, sizeof(*c));

	c->dev.ops = &card_ops;
	c->bus = pci_bus_create(&r->board, no_intx, NULL);
	pci_init(&c->pci, 0x1234, 0x5678, 0x020000, 0, "card");
	c->pci.opaque = c;
	c->pci.config_written = card_config;
	pci_bar_mmio(&c->pci, 2, 4096, false, false, &card_io, c, "bar2");
	assert_int_equal(msix_init(&c->msix, &r->board, &c->pci, VECTORS, 2, 0, PBA), 0);
	assert_int_equal(pci_add_cap(&c->pci, PCI_CAP_VENDOR, 3), 0x4c);
	assert_int_equal(pci_add_cap(&c->pci, PCI_CAP_VENDOR, 4), 0x50);
	assert_int_equal(pci_add(c->bus, &c->pci, 8), 0);
	board_attach(&r->board, &c->dev);
	return &c->dev;
}

#define BAR 0xe0000000u
#define CONTROL 0x42
#define ENABLE 0x8000
#define MASK_ALL 0x4000

static void cfg(struct card *c, unsigned off, u32 v, unsigned size)
{
	pci_config_write(c->bus, 8, off, v, size);
}
static void put(struct rig *r, u32 off, u32 v)
{
	memory_write(r->board.mem, BAR + off, &v, 4);
}
static u32 get(struct rig *r, u32 off)
{
	u32 v;

	memory_read(r->board.mem, BAR + off, &v, 4);
	return v;
}

/* Mapped, bus master, enabled; vector n sends n, and is masked. */
static struct card *start(struct rig *r, struct device *d)
{
	struct card *c = (struct card *)d;

	cfg(c, 0x18, BAR, 4);
	cfg(c, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	cfg(c, CONTROL, ENABLE, 2);
	for (unsigned i = 0; i < VECTORS; i++) {
		put(r, 16 * i, 0xfee01004 + i);
		put(r, 16 * i + 8, i);
	}
	return c;
}

static void capability(void **state)
{
	struct rig *r = rig_create();
	struct card *c = (struct card *)make(r);

	assert_int_equal(pci_config_read(c->bus, 8, PCI_STATUS, 2) & PCI_STATUS_CAP_LIST, PCI_STATUS_CAP_LIST);
	assert_int_equal(pci_config_read(c->bus, 8, PCI_CAPABILITIES, 1), 0x40);
	assert_int_equal(pci_config_read(c->bus, 8, 0x40, 4), (VECTORS - 1) << 16 | 0x4c00 | PCI_CAP_MSIX);
	assert_int_equal(pci_config_read(c->bus, 8, 0x44, 4), 2);
	assert_int_equal(pci_config_read(c->bus, 8, 0x48, 4), PBA | 2);
	assert_int_equal(pci_config_read(c->bus, 8, 0x4c, 2), 0x5000 | PCI_CAP_VENDOR);
	assert_int_equal(pci_config_read(c->bus, 8, 0x50, 2), PCI_CAP_VENDOR);
	cfg(c, CONTROL, 0xffff, 2);
	assert_int_equal(pci_config_read(c->bus, 8, CONTROL, 2), 0xc000 | (VECTORS - 1));
	assert_true(msix_enabled(&c->msix));
	start(r, &c->dev);
	assert_int_equal(get(r, 0), 0xfee01004); /* the low bits are zero */
	assert_int_equal(get(r, 16), 0xfee01004);
	put(r, 16 * 69 + 4, 0x12345678);
	put(r, 16 * 69 + 12, 0xfffffffe);
	assert_int_equal(get(r, 16 * 69 + 4), 0x12345678);
	assert_int_equal(get(r, 16 * 69 + 12), 0);
	assert_int_equal(get(r, 16 * 70), 0); /* no such entry */
	put(r, 16 * 70 + 8, 1);
	put(r, PBA, 0xffffffff);
	assert_int_equal(get(r, PBA), 0);
	memory_write(r->board.mem, BAR + 8, "\x55", 1);
	memory_write(r->board.mem, BAR + 9, "\x55\x55", 2);
	assert_int_equal(get(r, 8), 0);
	/* 8 bytes at once are two doublewords */
	memory_write(r->board.mem, BAR + 32, "\x10\x00\xe0\xfe\x01\x00\x00\x00", 8);
	assert_int_equal(get(r, 32), 0xfee00010);
	assert_int_equal(get(r, 36), 1);
	rig_destroy(r);
}

static void delivery(void **state)
{
	struct rig *r = rig_create();
	struct card *c = start(r, make(r));

	put(r, 16 * 66 + 4, 9);
	put(r, 16 * 66 + 12, 0);
	msix_notify(&c->msix, 66);
	assert_int_equal(r->msi_of[66], 1);
	assert_int_equal(r->msi_addr, 0x9fee01044 & ~3ull);
	msix_notify(&c->msix, VECTORS);
	msix_notify(&c->msix, 0xffff);
	assert_int_equal(r->msis, 1);
	/* masked by its entry: once, however often */
	msix_notify(&c->msix, 65);
	msix_notify(&c->msix, 65);
	assert_int_equal(r->msis, 1);
	assert_int_equal(get(r, PBA), 0);
	assert_int_equal(get(r, PBA + 8), 2);
	assert_int_equal(get(r, PBA + 12), 0);
	put(r, 16 * 65 + 12, 0);
	assert_int_equal(r->msi_of[65], 1);
	assert_int_equal(get(r, PBA + 8), 0);
	/* by the function */
	cfg(c, CONTROL, ENABLE | MASK_ALL, 2);
	msix_notify(&c->msix, 65);
	msix_notify(&c->msix, 66);
	msix_notify(&c->msix, 3);
	assert_int_equal(get(r, PBA + 8), 6);
	put(r, 16 * 65 + 12, 1);
	put(r, 16 * 65 + 12, 0);
	assert_int_equal(r->msis, 2);
	cfg(c, CONTROL, ENABLE, 2);
	assert_int_equal(r->msi_of[65], 2);
	assert_int_equal(r->msi_of[66], 2);
	assert_int_equal(r->msi_of[3], 0);
	assert_int_equal(get(r, PBA), 8);
	/* no bus master: no message, not lost */
	cfg(c, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	msix_notify(&c->msix, 65);
	assert_int_equal(r->msi_of[65], 2);
	cfg(c, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	assert_int_equal(r->msi_of[65], 3);
	/* not enabled: nothing at all */
	cfg(c, CONTROL, 0, 2);
	assert_false(msix_enabled(&c->msix));
	msix_notify(&c->msix, 65);
	cfg(c, CONTROL, ENABLE, 2);
	assert_int_equal(r->msi_of[65], 3);
	c->dev.ops->reset(&c->dev);
	assert_false(msix_enabled(&c->msix));
	start(r, &c->dev);
	assert_int_equal(get(r, PBA), 0);
	assert_int_equal(get(r, 16 * 66 + 4), 0);
	assert_int_equal(get(r, 16 * 66 + 12), 1);
	rig_destroy(r);
}

/* A struct of zeros, as on boards without messages. */
static void none(void **state)
{
	struct rig *r = rig_create();
	struct pci_dev *d = calloc(1, sizeof(*d));
	struct msix x;

	r->board.msi = NULL;
	pci_init(d, 1, 2, 0, 0, "none");
	assert_int_equal(msix_init(&x, &r->board, d, 4, 0, 0, 64), -1);
	assert_int_equal(d->config[PCI_CAPABILITIES], 0);
	assert_false(msix_enabled(&x));
	msix_notify(&x, 0);
	msix_reset(&x);
	msix_config_written(&x);
	assert_int_equal(msix_table_read(&x, 0, 4), 0);
	assert_int_equal(msix_pba_read(&x, 0, 4), 0);
	msix_table_write(&x, 0, 1, 4);
	msix_free(&x);
	free(d);
	rig_destroy(r);
}

static void poke(struct rig *r, struct device *d)
{
	struct card *c = start(r, d);

	put(r, 16 * 5 + 12, 0);
	msix_notify(&c->msix, 5);
	msix_notify(&c->msix, 6);
	msix_notify(&c->msix, 69);
	put(r, 16 * 7 + 4, 0x80000000);
}

static void roundtrip(void **state)
{
	struct rig *a = rig_create(), *b = rig_create();
	struct card *from = (struct card *)make(a), *to = (struct card *)make(b);
	struct encoder e;

	/* what was pending is sent by the one that loaded it, and not while it loads */
	poke(a, &from->dev);
	e = rig_save(&from->dev);
	assert_int_equal(rig_check(&to->dev, e.data, e.len), 0);
	rig_load(&to->dev, e.data, e.len);
	assert_int_equal(b->msis, 0);
	put(b, 16 * 69 + 12, 0);
	assert_int_equal(b->msi_of[69], 1);
	enc_free(&e);
	rig_destroy(a);
	rig_destroy(b);
	rig_roundtrip(make, poke);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(capability),
		cmocka_unit_test(delivery),
		cmocka_unit_test(none),
		cmocka_unit_test(roundtrip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * Fuzz target: the legacy board's devices under byte-driven port accesses,
 * MMIO accesses, input, interrupt acknowledges and time, with a save, check, load
 * of every device at the end. Input bytes are operations (see step()).
 */
#include <stdio.h>

#include "dev_rig.h"
#include "fuzz.h"

#include "backend/chr/chr.h"
#include "dev/chipset/acpi_pm.h"
#include "dev/chipset/debugexit.h"
#include "dev/chipset/fw_cfg.h"
#include "dev/chipset/i8042.h"
#include "dev/chipset/pflash.h"
#include "dev/chipset/pic.h"
#include "dev/chipset/pit.h"
#include "dev/chipset/rtc.h"
#include "dev/chipset/testdev.h"
#include "dev/chipset/uart16550.h"
#include "dev/pci/q35.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

static const u16 ports[] = {
	0x20,  0x21,  0xa0,  0xa1,  0x4d0, 0x4d1, 0x40,	 0x41,	0x42,  0x43,  0x61,  0x70,  0x71,  0x60,   0x64,
	0x92,  0xb2,  0xb3,  0xe0,  0xe4,  0xf4,  0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x3ff,  0x510,
	0x511, 0x514, 0x518, 0x600, 0x602, 0x604, 0x608, 0x620, 0x628, 0xcf8, 0xcf9, 0xcfc, 0xcfe, 0x2000, 0x2017,
};
static const u64 addresses[] = {
	0xff000000, 0xff00fff9, 0xb0000000, 0xb0000060, 0xb0000090, 0xb00f8040,	 0xb00f8060, 0xb0018010,
	0xb0018004, 0xc0000,	0xf0000,    0xe0000000, 0x1000,	    0x800000000, 0xffc00000, 0xffc01ff0,
};

static u64 bar_read(void *opaque, u64 off, unsigned size)
{
	return off;
}
static void bar_write(void *opaque, u64 off, u64 val, unsigned size) {}
static const struct io_ops bar_io = { bar_read, bar_write, 1, 8 };

struct bench {
	struct rig *r;
	struct device *pic, *uart, *pm;
	struct chr *chr;
	struct pci_dev card;
};

static void build(struct bench *b)
{
	struct rig *r = b->r = rig_create();
	const struct rtc_config rtc = { 2 * MiB, 0, 1, { 2, 0, 0 } };
	struct testdev_config test = { .prio = 10 };
	struct q35_config q35 = { .ecam_base = 0xb0000000, .pam = true, .pam_prio = 10 };
	struct irq i[4] = { rig_irq(r, 24), rig_irq(r, 25), rig_irq(r, 26), rig_irq(r, 27) };
	struct device *fw;
	u8 flash[8192] = { 0 };
	const struct pflash_config pflash = { .base = 0xffc00000, .size = 8192, .content = flash, .prio = 10 };

	b->chr = chr_memory_create();
	b->pic = pic_create(&r->board, &i[0]);
	pit_create(&r->board, &i[0]);
	rtc_create(&r->board, &rtc, &i[1]);
	b->uart = uart_create(&r->board, 0x3f8, &i[2], b->chr, "com1");
	i8042_create(&r->board, &i[3]);
	debugexit_create(&r->board);
	testdev_create(&r->board, &test);
	q35.pm = b->pm = acpi_pm_create(&r->board, &i[1], false);
	fw = fw_cfg_create(&r->board);
	fw_cfg_add_file(fw, "a", "0123456789", 10);
	fw_cfg_add_writable_file(fw, "b", "0123456789", 10, NULL, NULL);
	pflash_create(&r->board, &pflash);
	pci_init(&b->card, 0x1234, 0x5678, 0x020000, 0, "card");
	pci_bar_mmio(&b->card, 0, 4096, false, false, &bar_io, b, "bar0");
	pci_bar_io(&b->card, 1, 64, &bar_io, b, "bar1");
	pci_bar_mmio(&b->card, 2, 1 * MiB, true, true, &bar_io, b, "bar2");
	b->card.config[PCI_INTERRUPT_PIN] = 1;
	pci_add(q35_bus(q35_create(&r->board, &q35)), &b->card, PCI_DEVFN(3, 0));
}

static void step(struct bench *b, struct input *in)
{
	struct rig *r = b->r;
	unsigned op = take(in, 1), size = 1u << (op >> 4 & 3);
	u16 port = ports[take(in, 1) % ARRAY_SIZE(ports)];
	u64 v, a;

	switch (op & 15) {
	case 0 ... 4:
		port_write(r->board.ports, port, take(in, MIN(size, 4)), MIN(size, 4));
		break;
	case 5 ... 6:
		port_read(r->board.ports, port, MIN(size, 4));
		break;
	case 7:
		port_write(r->board.ports, take(in, 2), take(in, 1), 1);
		break;
	case 8:
		a = addresses[take(in, 1) % ARRAY_SIZE(addresses)] + take(in, 1);
		v = take(in, size);
		memory_write(r->board.mem, a, &v, size);
		break;
	case 9:
		memory_read(r->board.mem, addresses[take(in, 1) % ARRAY_SIZE(addresses)] + take(in, 1), &v, size);
		break;
	case 10:
		r->clock.now += take(in, 3) << (op >> 4 & 3) * 4;
		rig_pass(r, 0);
		break;
	case 11:
		pic_set_irq(b->pic, take(in, 1) & 31, op & 0x10);
		break;
	case 12:
		pic_ack(b->pic);
		break;
	case 13:
		v = take(in, 8);
		door_post(r->board.door, uart_sink(b->uart), &v, 8);
		door_deliver(r->board.door, 0);
		break;
	case 14:
		pci_set_irq(&b->card, op & 0x10);
		acpi_pm_power_button(b->pm);
		break;
	case 15:
		v = take(in, 8);
		memory_write(r->board.mem, 0x1000 + (op >> 4), &v, 8);
		break;
	}
}

/* Every device's record must be sound to itself and come back the same. */
static void save_all(struct bench *b)
{
	for (struct device *d = b->r->board.first; d; d = d->next) {
		struct encoder e = rig_save(d), again;

		assert(rig_check(d, e.data, e.len) == 0);
		rig_load(d, e.data, e.len);
		again = rig_save(d);
		assert(again.len == e.len && !memcmp(again.data, e.data, e.len));
		enc_free(&e);
		enc_free(&again);
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct bench *b = calloc(1, sizeof(*b));
	struct input in = { data, data + size };

	build(b);
	/* ranges that move are left where firmware puts them or the guest likes */
	while (in.p < in.end)
		step(b, &in);
	save_all(b);
	for (struct device *d = b->r->board.first; d; d = d->next)
		d->ops->reset(d);
	rig_destroy(b->r);
	b->chr->ops->destroy(b->chr);
	free(b);
	return 0;
}

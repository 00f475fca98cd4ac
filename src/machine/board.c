/*
 * The board: the one place where devices are made and wired to each other.
 *
 *   ISA IRQ n  -> 8259 input n and IOAPIC pin n (IRQ 0: pin 2)
 *   PIRQ A..H  -> IOAPIC pins 16..23, and the 8259 inputs that the LPC bridge routes A..D to
 *   8259 INTR  -> LINT0 of the bootstrap processor
 *   IOAPIC     -> messages to the local APICs; their EOIs come back
 *
 * A line may have several drivers, so each is the OR of one bit a source.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "backend/nvram/nvram.h"
#include "dev/chipset/acpi_pm.h"
#include "dev/chipset/debugcon.h"
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
#include "dev/vhost_user/vhost_user_dev.h"
#include "dev/virtio/balloon.h"
#include "dev/virtio/console.h"
#include "dev/virtio/net.h"
#include "dev/virtio/rng.h"
#include "dev/virtio/vsock.h"
#include "machine/internal.h"
#include "machine/layout.h"
#include "machine/state.h"
#include "machine/pv.h"
#include "cpu/linear.h"
#include "replay/door.h"

/* ---- interrupt lines ---- */

/* SOURCE_ISA2: a second device of the ISA bus on the same line (COM3 and COM4). */
enum source { SOURCE_ISA = 1, SOURCE_PIRQ = 2, SOURCE_TEST = 4, SOURCE_ISA2 = 8 };

static void drive_isa(struct machine *m, unsigned n, enum source who, bool level)
{
	u8 *l = &m->isa_level[n];

	*l = level ? *l | who : *l & ~who;
	pic_set_irq(m->pic, n, *l);
}

static void drive_gsi(struct machine *m, unsigned n, enum source who, bool level)
{
	u8 *l = &m->gsi_level[n];

	*l = level ? *l | who : *l & ~who;
	ioapic_set_irq(m->ioapic, n, *l);
}

static unsigned isa_to_gsi(unsigned n)
{
	return n == LAYOUT_IRQ_TIMER ? LAYOUT_GSI_TIMER : n;
}

static void isa_irq(void *opaque, unsigned n, bool level)
{
	drive_isa(opaque, n, SOURCE_ISA, level);
	drive_gsi(opaque, isa_to_gsi(n), SOURCE_ISA, level);
}

static void isa_irq2(void *opaque, unsigned n, bool level)
{
	drive_isa(opaque, n, SOURCE_ISA2, level);
	drive_gsi(opaque, isa_to_gsi(n), SOURCE_ISA2, level);
}

static void pirq_gsi(void *opaque, unsigned n, bool level)
{
	drive_gsi(opaque, n, SOURCE_PIRQ, level);
}

static void pirq_pic(void *opaque, unsigned n, bool level)
{
	drive_isa(opaque, n, SOURCE_PIRQ, level);
}

static void test_irq(void *opaque, unsigned n, bool level)
{
	if (n < 16)
		drive_isa(opaque, n, SOURCE_TEST, level);
	drive_gsi(opaque, isa_to_gsi(n), SOURCE_TEST, level);
}

static void pic_intr(void *opaque, unsigned n, bool level)
{
	struct machine *m = opaque;

	lapic_set_lint(lapic_of(m->lapics, 0), 0, level);
}

static struct irq isa(struct machine *m, unsigned n)
{
	return (struct irq){ .fn = isa_irq, .opaque = m, .n = n };
}

/* The lines are state too: a device of their own. Section "lines", version 1:
 * 16 and 24 bytes of source bits. */

static struct machine *of_lines(const struct device *d)
{
	return container_of((struct device *)(uintptr_t)d, struct machine, lines);
}

/* Devices keep their levels over a reset, or drop them themselves. */
static void lines_reset(struct device *d) {}

static void lines_save(const struct device *d, struct encoder *e)
{
	const struct machine *m = of_lines(d);

	enc_begin(e, d->ops->name, 1);
	enc_bytes(e, m->isa_level, sizeof(m->isa_level));
	enc_bytes(e, m->gsi_level, sizeof(m->gsi_level));
	enc_end(e);
}

static int lines_decode(const struct device *d, struct decoder *in, u8 *isa_level, u8 *gsi_level)
{
	struct decoder s;

	if (!dec_begin(in, d->ops->name, &s) || s.version != 1)
		return -1;
	dec_bytes(&s, isa_level, 16);
	dec_bytes(&s, gsi_level, IOAPIC_PINS);
	return dec_done(&s) ? 0 : -1;
}

static int lines_check(const struct device *d, struct decoder *in)
{
	u8 isa_level[16], gsi_level[IOAPIC_PINS];

	return lines_decode(d, in, isa_level, gsi_level);
}

static void lines_load(struct device *d, struct decoder *in)
{
	struct machine *m = of_lines(d);

	if (lines_decode(d, in, m->isa_level, m->gsi_level) < 0)
		assert(!"checked before");
}

static void lines_destroy(struct device *d) {}

static const struct device_ops lines_ops = {
	.name = "lines",
	.reset = lines_reset,
	.save = lines_save,
	.check = lines_check,
	.load = lines_load,
	.destroy = lines_destroy,
};

/* ---- local APICs ---- */

static void apic_intr(void *opaque, unsigned cpu)
{
	wake_cpu(opaque, cpu, EV_INTR);
}

static void apic_nmi(void *opaque, unsigned cpu)
{
	machine_ask_cpu(opaque, cpu, ASKED_NMI);
}

static void apic_init(void *opaque, unsigned cpu)
{
	machine_ask_cpu(opaque, cpu, ASKED_INIT);
}

static void apic_sipi(void *opaque, unsigned cpu, u8 vector)
{
	struct machine *m = opaque;

	m->cpu[cpu].sipi_vector = vector;
	machine_ask_cpu(m, cpu, ASKED_SIPI);
}

static int apic_pic_ack(void *opaque)
{
	return pic_ack(((struct machine *)opaque)->pic);
}

static void apic_eoi(void *opaque, u8 vector)
{
	ioapic_eoi(((struct machine *)opaque)->ioapic, vector);
}

static u64 apic_tsc_offset(void *opaque, unsigned cpu)
{
	return ((struct machine *)opaque)->cpu[cpu].v->cpu.tsc_offset;
}

static unsigned apic_current(void *opaque)
{
	return machine_current(opaque)->v->index;
}

static bool apics_deliver(void *opaque, const struct apic_message *msg)
{
	return machine_apics_deliver(opaque, msg);
}

/* Not while other processors run with theirs. */
static bool apics_come_back(void *opaque)
{
	struct machine *m = opaque;

	if (m->cfg.cpus == 1)
		machine_apics_back(m);
	return !m->apics_lent;
}

static void ioapic_routed(void *opaque)
{
	machine_apics_route(opaque);
}

static bool ioapic_deliver(void *opaque, const struct apic_message *msg)
{
	return lapic_deliver(((struct machine *)opaque)->lapics, msg);
}

/* Address and data of a message (SDM vol. 3, 11.11.1 and 11.11.2). */
static void board_msi(void *opaque, u64 addr, u32 data)
{
	const struct apic_message msg = {
		.dest = addr >> 12 & 0xff,
		.logical = addr >> 2 & 1,
		.level = data >> 15 & 1,
		.mode = data >> 8 & 7,
		.vector = data & 0xff,
	};

	if (addr >> 20 == 0xfee)
		lapic_deliver(((struct machine *)opaque)->lapics, &msg);
}

static bool create_apics(struct machine *m)
{
	const struct lapic_wiring w = {
		.opaque = m,
		.cpus = m->cfg.cpus,
		.phys_bits = m->model.phys_bits,
		.x2apic = m->model.x2apic,
		.tsc_deadline = m->model.tsc_deadline,
		.intr = apic_intr,
		.nmi = apic_nmi,
		.init = apic_init,
		.sipi = apic_sipi,
		.pic_ack = apic_pic_ack,
		.eoi = apic_eoi,
		.tsc_offset = apic_tsc_offset,
		.current = apic_current,
		.lent_deliver = apics_deliver,
		.lent_back = apics_come_back,
	};
	const struct ioapic_output out = { ioapic_deliver, m, ioapic_routed };
	const struct irq intr = { .fn = pic_intr, .opaque = m };

	return (m->lapics = lapic_bus_create(&m->board, &w)) && (m->ioapic = ioapic_create(&m->board, &out)) &&
	       (m->pic = pic_create(&m->board, &intr));
}

/* ---- the processor's hooks ---- */

static u64 hook_tsc(void *opaque)
{
	return clock_tsc(((struct machine *)opaque)->clock);
}

static struct lapic *apic_of(void *opaque, unsigned cpu)
{
	return lapic_of(((struct machine *)opaque)->lapics, cpu);
}

static bool hook_intr_pending(void *m, unsigned cpu)
{
	struct lapic *l = apic_of(m, cpu);
	bool pending;

	if (likely(!lapic_pv_eoi_is_open(l)))
		return lapic_pending(l);
	machine_lock(m);
	pending = lapic_pending(l);
	machine_unlock(m);
	return pending;
}

static int hook_intr_ack(void *m, unsigned cpu)
{
	machine_lock(m);
	int vector = lapic_ack(apic_of(m, cpu));

	machine_unlock(m);
	return vector;
}

/* The engine that keeps the APICs, while they are lent; else NULL. */
static const struct engine_apics *keeper(void *opaque)
{
	struct machine *m = opaque;

	return unlikely(m->apics_lent) ? m->engine->apics : NULL;
}

static u64 hook_cr8_read(void *m, unsigned cpu)
{
	return keeper(m) ? keeper(m)->cr8_read(machine_vcpu(m, cpu)) : lapic_cr8_read(apic_of(m, cpu));
}

static void hook_cr8_write(void *m, unsigned cpu, u64 val)
{
	if (keeper(m)) {
		keeper(m)->cr8_write(machine_vcpu(m, cpu), val);
		return;
	}
	machine_lock(m);
	lapic_cr8_write(apic_of(m, cpu), val);
	machine_unlock(m);
}

static int hook_msr_read(void *m, unsigned cpu, u32 msr, u64 *val)
{
	if (keeper(m))
		return keeper(m)->msr_read(machine_vcpu(m, cpu), msr, val);
	machine_lock(m);
	int ret = lapic_msr_read(apic_of(m, cpu), msr, val);

	machine_unlock(m);
	return ret;
}

static int hook_msr_write(void *m, unsigned cpu, u32 msr, u64 val)
{
	if (keeper(m))
		return keeper(m)->msr_write(machine_vcpu(m, cpu), msr, val);
	machine_lock(m);
	int ret = lapic_msr_write(apic_of(m, cpu), msr, val);

	machine_unlock(m);
	return ret;
}

static bool hook_apics_lent(void *m)
{
	return ((struct machine *)m)->apics_lent;
}

static void hook_apics_back(void *m)
{
	machine_lock(m);
	machine_apics_back(m);
	machine_unlock(m);
}

static bool hook_extint(void *m, unsigned cpu)
{
	return lapic_extint(apic_of(m, cpu));
}

static int hook_extint_ack(void *m, unsigned cpu)
{
	machine_lock(m);
	int vector = lapic_extint_ack(apic_of(m, cpu));

	machine_unlock(m);
	return vector;
}

static void hook_apic_eoi(void *m, unsigned cpu, u8 vector)
{
	machine_lock(m);
	apic_eoi(m, vector);
	machine_unlock(m);
}

static int hook_pv_msr_read(void *m, unsigned cpu, u32 msr, u64 *val)
{
	machine_lock(m);
	int ret = pv_msr_read(m, cpu, msr, val);

	machine_unlock(m);
	return ret;
}

static int hook_pv_msr_write(void *m, unsigned cpu, u32 msr, u64 val)
{
	machine_lock(m);
	int ret = pv_msr_write(m, cpu, msr, val);

	machine_unlock(m);
	return ret;
}

static void hook_tsc_moved(void *m, unsigned cpu)
{
	machine_lock(m);
	pv_tsc_moved(m, cpu);
	machine_unlock(m);
}

static void hook_pause(void *m, unsigned cpu)
{
	machine_paused(m, cpu);
}

static void hook_random(void *opaque, void *p, size_t n)
{
	door_random(((struct machine *)opaque)->door, p, n);
}

static void hook_triple_fault(void *opaque, unsigned cpu)
{
	machine_lock(opaque);
	machine_request(opaque, REQUEST_TRIPLE_FAULT);
	machine_unlock(opaque);
}

const struct vcpu_hooks machine_hooks = {
	.tsc = hook_tsc,
	.intr_pending = hook_intr_pending,
	.intr_ack = hook_intr_ack,
	.cr8_read = hook_cr8_read,
	.cr8_write = hook_cr8_write,
	.apic_msr_read = hook_msr_read,
	.apic_msr_write = hook_msr_write,
	.apics_lent = hook_apics_lent,
	.apics_back = hook_apics_back,
	.extint = hook_extint,
	.extint_ack = hook_extint_ack,
	.apic_eoi = hook_apic_eoi,
	.pv_msr_read = hook_pv_msr_read,
	.pv_msr_write = hook_pv_msr_write,
	.hypercall = pv_hypercall,
	.tsc_moved = hook_tsc_moved,
	.pause = hook_pause,
	.random = hook_random,
	.triple_fault = hook_triple_fault,
};

/* ---- memory ---- */

static bool map_ram(struct machine *m)
{
	u64 size = memory_ram_size(m->mem), low = boot_low_ram(size);

	if (!memory_map_ram(m->mem, 0, 0, LAYOUT_VGA, PRIO_RAM, "ram-640k") ||
	    !memory_map_ram(m->mem, LAYOUT_SHADOW, LAYOUT_SHADOW, low - LAYOUT_SHADOW, PRIO_RAM, "ram-low"))
		return false;
	return size == low || memory_map_ram(m->mem, LAYOUT_HIGH_RAM, low, size - low, PRIO_RAM, "ram-high");
}

/* Firmware covers the last 128 KiB below 1 MiB; PAM opens the RAM beneath, and
 * reads of write-only segments come from a copy of what is there now. */
static int map_firmware(struct machine *m, struct error *e)
{
	u64 len = MiB - LAYOUT_SHADOW;

	if (!boot_is_firmware(m->image))
		return 0;
	if (boot_map_firmware(m->image, m->mem, PRIO_ROM, e) < 0)
		return -1;
	m->low_rom = malloc(len);
	if (!m->low_rom)
		return error_set(e, "not enough host memory");
	memory_read(m->mem, LAYOUT_SHADOW, m->low_rom, len);
	return 0;
}

static int store_vars(void *opaque, u64 off, const u8 *bytes, size_t n)
{
	return nvram_write(opaque, off, bytes, n);
}

/* The flash with the firmware's variables, right below its code. */
static int create_vars(struct machine *m, struct error *e)
{
	struct pflash_config cfg = { .prio = PRIO_ROM };
	const u8 *initial = boot_firmware_vars(m->image, &cfg.base, &cfg.size);
	u8 *content;
	int ret = 0;

	if (!initial)
		return 0;
	content = malloc(cfg.size);
	if (!content)
		return error_set(e, "not enough host memory");
	memcpy(content, initial, cfg.size);
	if (m->cfg.firmware_vars) {
		m->nvram = nvram_open(m->cfg.firmware_vars, content, cfg.size,
				      NVRAM_CREATE | (m->cfg.saved && m->cfg.saved->unlocked ? NVRAM_UNLOCKED : 0), e);
		ret = m->nvram ? 0 : -1;
		cfg.store = store_vars;
		cfg.opaque = m->nvram;
	}
	cfg.content = content;
	if (!ret && !pflash_create(&m->board, &cfg))
		ret = error_set(e, "not enough host memory for the firmware's variables");
	free(content);
	return ret;
}

/* ---- devices ---- */

static void board_request(void *opaque, enum board_request r, int value)
{
	struct machine *m = opaque;

	switch (r) {
	case BOARD_RESET:
		machine_request(m, REQUEST_RESET);
		break;
	case BOARD_INIT_CPU:
		machine_request(m, REQUEST_INIT);
		break;
	case BOARD_POWER_OFF:
		machine_request(m, REQUEST_POWER_OFF);
		break;
	case BOARD_DEBUG_EXIT:
		m->debug_exit_value = value;
		machine_request(m, REQUEST_DEBUG_EXIT);
		break;
	}
}

static bool create_serial(struct machine *m)
{
	static const char *const names[MACHINE_SERIALS] = { "com1", "com2", "com3", "com4" };

	for (unsigned i = 0; i < MACHINE_SERIALS; i++) {
		const struct irq irq = { .fn = i < 2 ? isa_irq : isa_irq2, .opaque = m, .n = boot_com[i].irq };

		if (!m->cfg.serial[i])
			continue;
		m->uart[i] = uart_create(&m->board, boot_com[i].port, &irq, m->cfg.serial[i], names[i]);
		if (!m->uart[i])
			return false;
	}
	return true;
}

static bool create_legacy(struct machine *m)
{
	struct board *b = &m->board;
	const struct irq irq0 = isa(m, LAYOUT_IRQ_TIMER), irq1 = isa(m, 1), irq8 = isa(m, 8);
	u64 low = boot_low_ram(m->cfg.memory);
	const struct rtc_config rtc = {
		.ram_below_4g = low,
		.ram_above_4g = m->cfg.memory - low,
		.cpus = m->cfg.cpus,
		.boot_order = { 2 },
	};

	if (!pit_create(b, &irq0) || !(m->rtc = rtc_create(b, &rtc, &irq8)) || !i8042_create(b, &irq1))
		return false;
	if (!create_serial(m))
		return false;
	if (m->cfg.debugcon && !debugcon_create(b, m->cfg.debugcon))
		return false;
	return !m->cfg.debug_exit || debugexit_create(b);
}

static void flush_page(void *opaque, u32 addr)
{
	mmu_flush_page(machine_current(opaque)->v, addr);
}

static bool create_testdev(struct machine *m)
{
	struct testdev_config cfg = { .flush_page = flush_page, .opaque = m, .prio = PRIO_DEVICE };

	if (!m->cfg.test_device)
		return true;
	for (unsigned n = 0; n < TESTDEV_IRQS; n++)
		cfg.irqs[n] = (struct irq){ .fn = test_irq, .opaque = m, .n = n };
	return testdev_create(&m->board, &cfg);
}

static bool create_chipset(struct machine *m)
{
	const struct irq sci = isa(m, LAYOUT_IRQ_SCI);
	struct q35_config cfg = {
		.ecam_base = boot_is_firmware(m->image) ? 0 : BOOT_ECAM_BASE,
		.pam = boot_is_firmware(m->image),
		.pam_prio = PRIO_PAM,
		.low_rom = m->low_rom,
	};

	cfg.pm = acpi_pm_create(&m->board, &sci, false);
	if (!cfg.pm)
		return false;
	m->pm = cfg.pm;
	for (unsigned i = 0; i < PCI_LINES; i++)
		cfg.gsi[i] = (struct irq){ .fn = pirq_gsi, .opaque = m, .n = LAYOUT_GSI_PIRQ + i };
	for (unsigned i = 0; i < 16; i++)
		cfg.pic[i] = (struct irq){ .fn = pirq_pic, .opaque = m, .n = i };
	m->q35 = q35_create(&m->board, &cfg);
	return m->q35;
}

static int create_balloon(struct machine *m, struct pci_bus *bus, struct error *e)
{
	const struct virtio_balloon_config cfg = { m->cfg.balloon_target, m->cfg.balloon_reporting };

	if (!m->cfg.balloon)
		return 0;
	m->balloon = virtio_balloon_create(&m->board, bus, LAYOUT_SLOT_BALLOON, &cfg);
	return m->balloon ? 0 : error_set(e, "not enough host memory for the balloon");
}

/* What is plugged into the PCI bus. Entropy device and balloon have slots of their own; others follow in the order of
 * the command line, in the next free slots. */
static int create_pci_devices(struct machine *m, struct error *e)
{
	struct pci_bus *bus = q35_bus(m->q35);

	if (virtio_rng_create(&m->board, bus, LAYOUT_SLOT_RNG) < 0)
		return error_set(e, "not enough host memory for the entropy device");
	if (create_balloon(m, bus, e))
		return -1;
	if (m->cfg.consoles) {
		m->console = virtio_console_create(&m->board, bus, 0, m->cfg.console, m->cfg.consoles);
		if (!m->console)
			return error_set(e, "not enough host memory or PCI slots for the virtio console");
	}
	for (unsigned i = 0; i < m->cfg.net_count; i++) {
		const struct machine_net *n = &m->cfg.nets[i];

		if (virtio_net_create(&m->board, bus, 0, n->net, n->mac, n->own_mac) < 0)
			return error_set(e, "network %u: not enough host memory, or no PCI slot is free", i + 1);
	}
	if (m->cfg.vsock && virtio_vsock_create(&m->board, bus, 0, m->cfg.vsock, m->cfg.vsock_cid) < 0)
		return error_set(e, "not enough host memory, or no PCI slot, for the socket device");
	for (unsigned i = 0; i < m->cfg.vhost_users; i++)
		if (!vhost_user_create(&m->board, bus, &m->cfg.vhost_user[i], e))
			return -1;
	return machine_disks_create(m, bus, e);
}

int machine_board_create(struct machine *m, struct error *e)
{
	m->board = (struct board){
		.mem = m->mem,
		.ports = m->ports,
		.clock = m->clock,
		.door = m->door,
		.request = board_request,
		.msi = board_msi,
		.machine = m,
	};
	if (!map_ram(m))
		return error_set(e, "not enough host memory for the memory map");
	if (map_firmware(m, e) < 0)
		return -1;
	if (create_vars(m, e) < 0)
		return -1;
	m->lines.ops = &lines_ops;
	board_attach(&m->board, &m->lines);
	if (!create_apics(m) || !create_legacy(m) || !create_testdev(m) || !create_chipset(m))
		return error_set(e, "not enough host memory for the devices");
	if (machine_generation_create(m) < 0)
		return error_set(e, "not enough host memory for the generation ID");
	if (pv_create(m, e) < 0)
		return -1;
	if (create_pci_devices(m, e) < 0)
		return -1;
	struct device *cfg = m->fw_cfg = fw_cfg_create(&m->board);

	if (!cfg || machine_vmcoreinfo_create(cfg) < 0 ||
	    (boot_is_firmware(m->image) && machine_tables_to_firmware(m, cfg) < 0))
		return error_set(e, "not enough host memory for the firmware's configuration");
	if (boot_is_firmware(m->image) && machine_boot_to_firmware(m, cfg, e) < 0)
		return -1;
	return 0;
}

void machine_board_destroy(struct machine *m)
{
	for (struct device *d = m->board.first, *next; d; d = next) {
		next = d->next;
		d->ops->destroy(d);
	}
	m->board.first = NULL;
	nvram_close(m->nvram);
	free(m->low_rom);
}

/* The DSDT: what of the machine cannot be probed. See boot/acpi.h for the map. */
#include <stdio.h>

#include "boot/acpi.h"
#include "boot/aml.h"
#include "boot/boot.h"

u64 acpi_pci64_base(u64 ram)
{
	u64 end = 4 * GiB + (ram - boot_low_ram(ram));

	return (end + ACPI_PCI64_SIZE - 1) & ~(ACPI_PCI64_SIZE - 1);
}

static void dsdt_cpus(struct aml *a, unsigned cpus)
{
	size_t scope = aml_scope(a, "\\_SB_"), dev;
	char name[5];

	for (unsigned i = 0; i < cpus; i++) {
		snprintf(name, sizeof(name), "C%03X", i & 0xfff);
		dev = aml_device(a, name);
		aml_name(a, "_HID");
		aml_string(a, "ACPI0007");
		aml_name_int(a, "_UID", i); /* the MADT's processor UID */
		aml_end(a, dev);
	}
	aml_end(a, scope);
}

/* Interrupt routing: the pins of devices 0..31 of the root bus. */
static void dsdt_prt(struct aml *a)
{
	size_t outer, entry;

	aml_name(a, "_PRT");
	outer = aml_package(a, 128);
	for (unsigned device = 0; device < 32; device++) {
		for (unsigned pin = 0; pin < 4; pin++) {
			entry = aml_package(a, 4);
			aml_int(a, device << 16 | 0xffff);
			aml_int(a, pin);
			aml_int(a, 0); /* no link device: a GSI follows */
			aml_int(a, acpi_pci_gsi(device, pin));
			aml_end(a, entry);
		}
	}
	aml_end(a, outer);
}

/* `uid` 0: none. */
static void dsdt_isa_device(struct aml *a, const char *name, const char *hid, unsigned uid, u16 port, unsigned len,
			    u16 port2, unsigned irq)
{
	size_t dev = aml_device(a, name), crs;

	aml_name(a, "_HID");
	aml_eisa_id(a, hid);
	if (uid)
		aml_name_int(a, "_UID", uid);
	crs = aml_crs(a);
	aml_io(a, port, len);
	if (port2)
		aml_io(a, port2, len);
	aml_irq(a, irq);
	aml_crs_end(a, crs);
	aml_end(a, dev);
}

static void dsdt_isa(struct aml *a, const struct acpi_config *c)
{
	size_t isa = aml_device(a, "ISA_");

	aml_name_int(a, "_ADR", 0x001f0000);
	dsdt_isa_device(a, "RTC_", "PNP0B00", 0, 0x70, 2, 0, 8);
	dsdt_isa_device(a, "KBD_", "PNP0303", 0, 0x60, 1, 0x64, 1);
	for (unsigned i = 0; i < BOOT_COMS; i++) {
		const char name[5] = { 'C', 'O', 'M', (char)('1' + i) };

		if (c->serial & BIT(i))
			dsdt_isa_device(a, name, "PNP0501", i + 1, boot_com[i].port, 8, 0, boot_com[i].irq);
	}
	aml_end(a, isa);
}

/* What the board decodes outside the PCI windows, so that nobody places
 * anything there; Linux wants the ECAM reserved before it uses it. */
static void dsdt_reserved(struct aml *a, const struct acpi_config *c)
{
	size_t dev = aml_device(a, "MRES"), crs;

	aml_name(a, "_HID");
	aml_eisa_id(a, "PNP0C02");
	crs = aml_crs(a);
	aml_memory32(a, (u32)BOOT_ECAM_BASE, (u32)BOOT_ECAM_SIZE);
	if (c->vmgenid)
		aml_memory32(a, ACPI_VMGENID_GPA, (u32)PAGE_SIZE);
	aml_io(a, ACPI_PM_BASE, 0x80);
	aml_io(a, ACPI_SMI_CMD, 2);
	aml_crs_end(a, crs);
	aml_end(a, dev);
}

/* fw_cfg, under the identity its Linux driver looks for. */
static void dsdt_fw_cfg(struct aml *a)
{
	size_t dev = aml_device(a, "FWCF"), crs;

	aml_name(a, "_HID");
	aml_string(a, "QEMU0002");
	aml_name_int(a, "_STA", 0x0b); /* present, not shown to the user */
	crs = aml_crs(a);
	aml_io(a, 0x510, 12);
	aml_crs_end(a, crs);
	aml_end(a, dev);
}

/* What Microsoft's paper wants: a device by which systems know it, whose ADDR names the place (low and high half), and
 * a notification when the ID has changed. The second name is Hyper-V's for systems that take names of at most eight
 * characters. */
static void dsdt_vmgenid(struct aml *a)
{
	size_t dev = aml_device(a, "VGEN"), list;

	aml_name(a, "_HID");
	aml_string(a, "ECTY0001");
	aml_name(a, "_CID");
	list = aml_package(a, 2);
	aml_string(a, "VM_Gen_Counter");
	aml_string(a, "VMGENCTR");
	aml_end(a, list);
	aml_name(a, "_DDN");
	aml_string(a, "VM_Gen_Counter");
	aml_name(a, "ADDR");
	list = aml_package(a, 2);
	aml_int(a, ACPI_VMGENID_GPA);
	aml_int(a, 0);
	aml_end(a, list);
	aml_end(a, dev);
}

/*
 * Scope (\_GPE) { Method (_E05) { Notify (\_SB.VGEN, 0x80) Notify (\_SB.C000, 0x82) } }: the event is an edge.
 *
 * For guests whose kernel has no driver for the device: that a processor's throttling states have changed, of which it
 * has none, is what every Linux passes on to its processes (guest/ectype_guest.c).
 */
static void dsdt_vmgenid_event(struct aml *a)
{
	size_t scope = aml_scope(a, "\\_GPE"), method;
	char name[5];

	snprintf(name, sizeof(name), "_E%02X", ACPI_VMGENID_GPE);
	method = aml_method(a, name, 0);
	aml_notify(a, "\\_SB_", "VGEN", 0x80);
	aml_notify(a, "\\_SB_", "C000", 0x82);
	aml_end(a, method);
	aml_end(a, scope);
}

static void dsdt_pci(struct aml *a, const struct acpi_config *c)
{
	size_t scope = aml_scope(a, "\\_SB_"), pci = aml_device(a, "PCI0"), mark;
	u64 base64 = acpi_pci64_base(c->ram);

	aml_name(a, "_HID");
	aml_eisa_id(a, "PNP0A08");
	aml_name(a, "_CID");
	aml_eisa_id(a, "PNP0A03");
	aml_name_int(a, "_UID", 0);
	aml_name_int(a, "_SEG", 0);
	aml_name_int(a, "_BBN", 0);
	mark = aml_crs(a);
	aml_word_bus(a, 0, 255);
	aml_io(a, 0xcf8, 8);
	aml_word_io(a, 0, 0xcf7);
	aml_word_io(a, 0xd00, 0xffff);
	aml_dword_memory(a, 0xa0000, 0xbffff);
	aml_dword_memory(a, ACPI_PCI32_FIRST, ACPI_PCI32_LAST);
	aml_qword_memory(a, base64, base64 + ACPI_PCI64_SIZE - 1);
	aml_crs_end(a, mark);
	/* Method (_OSC, 4) { Return (Arg3) }: the system may control all it asks for */
	mark = aml_method(a, "_OSC", 4);
	aml_u8(a, 0xa4);
	aml_u8(a, 0x6b);
	aml_end(a, mark);
	dsdt_prt(a);
	dsdt_isa(a, c);
	dsdt_reserved(a, c);
	aml_end(a, pci);
	dsdt_fw_cfg(a);
	if (c->vmgenid)
		dsdt_vmgenid(a);
	aml_end(a, scope);
	if (c->vmgenid)
		dsdt_vmgenid_event(a);
}

void acpi_dsdt(struct aml *a, const struct acpi_config *c)
{
	size_t s5;

	dsdt_cpus(a, c->cpus);
	dsdt_pci(a, c);
	aml_name(a, "\\_S5_");
	s5 = aml_package(a, 4);
	aml_int(a, ACPI_S5_SLP_TYP);
	aml_int(a, ACPI_S5_SLP_TYP);
	aml_int(a, 0);
	aml_int(a, 0);
	aml_end(a, s5);
}

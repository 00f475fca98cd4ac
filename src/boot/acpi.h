/*
 * ACPI tables of the machine (ACPI specification 6.4): RSDP, RSDT, XSDT,
 * FADT, FACS, DSDT, MADT, MCFG. They describe a q35-shaped board:
 *
 *   PM1 event 600H, PM1 control 604H, PM timer 608H (24 bits), GPE0 620H (16
 *   bytes), SCI on IRQ 9 (active high, level), SMI command port B2H (enable
 *   2, disable 3), reset register CF9H (value 6), S5 by SLP_TYP 0
 *   ECAM B0000000H, buses 0-255; PCI memory C0000000H-FEBFFFFFH and, above
 *   RAM, ACPI_PCI64_SIZE bytes at acpi_pci64_base()
 */
#ifndef ECTYPE_BOOT_ACPI_H
#define ECTYPE_BOOT_ACPI_H

#include "base/error.h"
#include "base/types.h"

struct memory;

#define ACPI_PM_BASE 0x600
#define ACPI_PM1_EVT 0x600
#define ACPI_PM1_CNT 0x604
#define ACPI_PM_TIMER 0x608
#define ACPI_GPE0 0x620
#define ACPI_GPE0_LEN 16
#define ACPI_SCI_IRQ 9
#define ACPI_SMI_CMD 0xb2
#define ACPI_ENABLE 2
#define ACPI_DISABLE 3
#define ACPI_RESET_PORT 0xcf9
#define ACPI_RESET_VALUE 6
#define ACPI_S5_SLP_TYP 0

/* VM Generation ID: where the page with it is, and the general-purpose event that tells of a change. */
#define ACPI_VMGENID_GPA 0xfef00000u
#define ACPI_VMGENID_GPE 5

#define ACPI_PCI32_FIRST 0xc0000000u
#define ACPI_PCI32_LAST 0xfebfffffu
#define ACPI_PCI64_SIZE (32 * GiB)

/* The GSI of a PCI function's interrupt pin (0 INTA# .. 3 INTD#): 16..23. */
static inline unsigned acpi_pci_gsi(unsigned device, unsigned pin)
{
	return 16 + ((device + pin) & 7);
}
/* Start of the 64-bit window for PCI memory of a machine with `ram` bytes. */
u64 acpi_pci64_base(u64 ram);

struct acpi_config {
	unsigned cpus;	    /* 1..254, APIC ids from 0 */
	u64 ram;	    /* bytes */
	unsigned serial;    /* bit n: COM(n + 1) is there */
	unsigned ioapic_id; /* what the IOAPIC's ID register reads at reset */
	bool vmgenid;	    /* there is a VM Generation ID */
};

/* RSDP's place in a direct boot: in the F segment, where kernels scan for it. */
#define ACPI_RSDP_GPA 0xf0000ull
#define ACPI_RSDP_SIZE 36

/* Built tables. `tables` begins with the FACS, alone in its page. */
struct acpi_blobs {
	u8 rsdp[ACPI_RSDP_SIZE];
	u8 *tables;
	size_t tables_len; /* at most BOOT_ACPI_SIZE */
	u8 *loader;	   /* of acpi_build_fw_cfg(): linker commands */
	size_t loader_len;
};

/* Tables that will lie at guest-physical `base` (page-aligned): pointers and
 * checksums filled in. -1 with *e when the host has no memory. */
int acpi_build(struct acpi_blobs *out, const struct acpi_config *c, u64 base, struct error *e);
/* For firmware, as the fw_cfg files etc/acpi/rsdp, etc/acpi/tables and
 * etc/table-loader: offsets where pointers go, checksums left to the loader. */
int acpi_build_fw_cfg(struct acpi_blobs *out, const struct acpi_config *c, struct error *e);
void acpi_blobs_free(struct acpi_blobs *b);

/* Direct boot: writes the RSDP at ACPI_RSDP_GPA and the tables at the `base`
 * they were built for; at every reset, before boot_place(). */
void acpi_place(const struct acpi_blobs *b, struct memory *m, u64 base);

/* Inside src/boot: appends the DSDT's body (without header). */
struct aml;
void acpi_dsdt(struct aml *a, const struct acpi_config *c);

#endif

/* The q35 chipset's two fixed PCI functions: host bridge 00:00.0 and ICH9 LPC bridge 00:1f.0. */
#ifndef ECTYPE_DEV_PCI_Q35_H
#define ECTYPE_DEV_PCI_Q35_H

#include "dev/pci/pci.h"

struct q35_config {
	struct device *pm; /* from acpi_pm_create(); PMBASE moves it. May be NULL */
	/* Where PIRQA#-PIRQH# go (copied): always the I/O APIC's 16-23, and the PIC
	 * input that the route registers 60h-63h and 68h-6Bh name. Pin p (0: INTA#) of
	 * slot s is line (s + p) mod 8. A PIC input also driven by
	 * others is ORed by the board. */
	struct irq gsi[PCI_LINES];
	struct irq pic[16];
	gpa_t ecam_base; /* PCIEXBAR after reset: enabled with 256 MiB here; 0: disabled */
	/*
	 * PAM: registers 90h-96h lay RAM of offset C0000h-FFFFFh over whatever the
	 * board maps there (at a priority below pam_prio). Without `pam` they only
	 * store. `low_rom`: the 256 KiB beneath, NULL if all ones; read while a
	 * segment is write-only.
	 */
	bool pam;
	int pam_prio;
	const u8 *low_rom;
};

/* NULL on lack of memory. */
struct device *q35_create(struct board *b, const struct q35_config *cfg);
/* The bus, for further functions; owned by the device. */
struct pci_bus *q35_bus(struct device *d);

#endif

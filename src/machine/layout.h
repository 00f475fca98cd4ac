/*
 * The guest-physical layout of the board, after QEMU's q35, which firmware
 * and systems know:
 *
 *   0            640 KiB of RAM
 *   A0000        the VGA window: a hole
 *   C0000        RAM (shadow RAM behind the firmware's PAM registers)
 *   100000       RAM, up to B0000000, or to 2 GiB if there is more than that
 *   B0000000     PCI ECAM, 256 buses (where PCIEXBAR says)
 *   C0000000     PCI memory
 *   FEC00000     IOAPIC
 *   FEE00000     local APIC (where IA32_APIC_BASE says)
 *   FEF00000     a page of ROM with the VM Generation ID (ACPI_VMGENID_GPA)
 *   FF000000     test device / firmware, ending at 4 GiB
 *   100000000    the rest of RAM; above it 64-bit PCI memory
 *
 * What boot/ needs to know of it is in boot/boot.h and boot/acpi.h.
 */
#ifndef ECTYPE_MACHINE_LAYOUT_H
#define ECTYPE_MACHINE_LAYOUT_H

#include "boot/boot.h"

#define LAYOUT_VGA 0xa0000ull
#define LAYOUT_SHADOW 0xc0000ull
#define LAYOUT_HIGH_RAM 0x100000000ull

/* Priorities of overlapping regions. */
enum layout_prio {
	PRIO_RAM = 0,
	PRIO_ROM = 1,
	PRIO_PAM = 2,
	PRIO_DEVICE = 10, /* IOAPIC, ECAM, BARs, test device; the local APIC is above all */
};

/* Limits of --memory. */
#define LAYOUT_RAM_MIN (2 * MiB)
#define LAYOUT_RAM_MAX (960 * GiB) /* with the windows for PCI within 40 address bits */

/* ISA interrupts and their IOAPIC pins: the timer's is overridden to 2. */
#define LAYOUT_IRQ_TIMER 0
#define LAYOUT_GSI_TIMER 2
#define LAYOUT_IRQ_SCI 9
#define LAYOUT_GSI_PIRQ 16 /* PIRQ A..H */

/* PCI slots with a device of their own: 0 host bridge, 31 LPC bridge. The others are free, from 1 on. The
 * balloon has the last, so that the others' places are the same without it. */
#define LAYOUT_SLOT_RNG 1
#define LAYOUT_SLOT_BALLOON 30

#endif

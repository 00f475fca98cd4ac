/*
 * PCI bus 0: functions, their configuration space and base address registers,
 * reached through ports CF8h/CFCh and through ECAM.
 */
#ifndef ECTYPE_DEV_PCI_PCI_H
#define ECTYPE_DEV_PCI_PCI_H

#include "dev/device.h"

#define PCI_CONFIG_SIZE 4096
#define PCI_BARS 6
#define PCI_LINES 8 /* PIRQA# to PIRQH# */
#define PCI_DEVFN(slot, fn) ((slot) << 3 | (fn))

/* Type 0 header (PCI Local Bus 3.0, 6.1) */
#define PCI_VENDOR_ID 0x00
#define PCI_DEVICE_ID 0x02
#define PCI_COMMAND 0x04
#define PCI_COMMAND_IO 0x0001
#define PCI_COMMAND_MEMORY 0x0002
#define PCI_COMMAND_MASTER 0x0004
#define PCI_COMMAND_INTX_DISABLE 0x0400
#define PCI_STATUS 0x06
#define PCI_STATUS_INTX 0x0008
#define PCI_STATUS_CAP_LIST 0x0010
#define PCI_REVISION 0x08
#define PCI_CLASS 0x09
#define PCI_HEADER_TYPE 0x0e
#define PCI_BAR0 0x10
#define PCI_SUBSYSTEM_VENDOR 0x2c
#define PCI_SUBSYSTEM_ID 0x2e
#define PCI_CAPABILITIES 0x34
#define PCI_INTERRUPT_LINE 0x3c
#define PCI_INTERRUPT_PIN 0x3d

#define PCI_CAP_VENDOR 0x09
#define PCI_CAP_MSIX 0x11

#define PCI_MMIO_PRIO (-16) /* below RAM, as if the chipset decoded RAM first */

struct pci_bus;
struct pci_dev;

struct pci_bar {
	u64 size; /* 0: no such BAR; a power of two */
	bool io, is64, prefetch;
	const struct io_ops *ops;
	void *opaque;
	const char *name;
	struct region *region; /* memory BARs */
	u64 addr;	       /* where it is mapped now, valid if `mapped` */
	bool mapped;
};

struct pci_dev {
	const char *name;
	struct pci_bus *bus;
	u8 devfn;
	bool intx; /* level of the INTx pin */
	u8 config[PCI_CONFIG_SIZE];
	u8 wmask[PCI_CONFIG_SIZE];   /* bits the guest may write */
	u8 w1c[PCI_CONFIG_SIZE];     /* bits a written one clears */
	u8 initial[PCI_CONFIG_SIZE]; /* what reset restores; taken by pci_add() */
	struct pci_bar bars[PCI_BARS];
	/* After a configuration write (already stored) and after load; may be NULL. */
	void (*config_written)(struct pci_dev *d, unsigned off, unsigned size);
	/* Before a configuration read, for registers that get their value then: writes it to `config`. May be NULL. */
	void (*config_read)(struct pci_dev *d, unsigned off, unsigned size);
	void *opaque;
	u8 cap_last, cap_end; /* pci_add_cap() */
};

/* Line `pirq` (0-7, PIRQA# to PIRQH#) of the bus changed. */
typedef void (*pci_intx_fn)(void *opaque, unsigned pirq, bool level);

/*
 * Owns ports CF8h-CFFh, among them the reset control register at CF9h, which
 * shares a doubleword with CONFIG_ADDRESS: bit 2 rising asks for BOARD_RESET.
 * ECAM is unmapped until pci_bus_set_ecam(). NULL on lack of memory.
 */
struct pci_bus *pci_bus_create(struct board *b, pci_intx_fn intx, void *opaque);
void pci_bus_destroy(struct pci_bus *bus);
/* `len` 64, 128 or 256 MiB; aligned to it. */
void pci_bus_set_ecam(struct pci_bus *bus, gpa_t base, u64 len, bool enabled);
void pci_bus_reset(struct pci_bus *bus);

/* Identity and the standard write masks. Call first, then set up the rest of
 * `config`, `wmask` and the BARs, then pci_add(). */
void pci_init(struct pci_dev *d, u16 vendor, u16 device, u32 class_code, u8 revision, const char *name);
/* Implements BAR `n`. Memory: size at least 16, I/O: 4 to 256; powers of two. A
 * 64-bit one takes two slots. */
void pci_bar_mmio(struct pci_dev *d, unsigned n, u64 size, bool is64, bool prefetch, const struct io_ops *ops,
		  void *opaque, const char *name);
void pci_bar_io(struct pci_dev *d, unsigned n, u32 size, const struct io_ops *ops, void *opaque, const char *name);
/* A capability of `len` bytes (its two-byte header included) behind those there are, before pci_add(). Returns where
 * it begins in `config`; the rest of it is zero and read-only. Up to FFh there must be room. */
unsigned pci_add_cap(struct pci_dev *d, u8 id, unsigned len);
/* Puts the function on the bus; it stays the caller's. 0, or -1 if the slot is
 * taken or memory lacks. */
int pci_add(struct pci_bus *bus, struct pci_dev *d, u8 devfn);
void pci_remove(struct pci_dev *d);

/* The lowest of slots 1 to 30 without a function, 0 if there is none. */
unsigned pci_free_slot(const struct pci_bus *bus);

/* Drive the function's INTx pin (PCI_INTERRUPT_PIN must be set). */
void pci_set_irq(struct pci_dev *d, bool level);

u16 pci_get16(const struct pci_dev *d, unsigned off);
u32 pci_get32(const struct pci_dev *d, unsigned off);
void pci_put16(struct pci_dev *d, unsigned off, u16 v);
void pci_put32(struct pci_dev *d, unsigned off, u32 v);

/* Configuration space, with all checks: beyond it or of an absent function reads
 * are all ones. `bdf` is bus << 8 | devfn. */
u32 pci_config_read(struct pci_bus *bus, unsigned bdf, unsigned off, unsigned size);
void pci_config_write(struct pci_bus *bus, unsigned bdf, unsigned off, u32 val, unsigned size);

/* Records without sections of their own, for the owner's save, check and load. */
void pci_bus_save(const struct pci_bus *bus, struct encoder *e);
bool pci_bus_check(struct decoder *d);
void pci_bus_load(struct pci_bus *bus, struct decoder *d);
void pci_dev_save(const struct pci_dev *d, struct encoder *e);
/* Read-only bits must be as this function has them. */
bool pci_dev_check(const struct pci_dev *d, struct decoder *in);
void pci_dev_load(struct pci_dev *d, struct decoder *in);

#endif

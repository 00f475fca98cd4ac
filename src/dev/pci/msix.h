/*
 * MSI-X of a PCI function (PCI Local Bus 3.0, 6.8.2): capability, table and
 * pending bits. The owner gives room for both in a memory BAR and hands the
 * accesses on.
 */
#ifndef ECTYPE_DEV_PCI_MSIX_H
#define ECTYPE_DEV_PCI_MSIX_H

#include "dev/pci/pci.h"

#define MSIX_VECTORS_MAX 2048
#define MSIX_ENTRY_SIZE 16

struct msix_entry {
	u32 addr_lo, addr_hi, data, control;
};

struct msix {
	struct pci_dev *pci;
	void (*send)(void *machine, u64 addr, u32 data);
	void *machine;
	unsigned cap, vectors;
	struct msix_entry *table;
	u64 *pending;
};

/*
 * Adds the capability, before pci_add(): `vectors` (1 to 2048) entries at
 * offset `table` of BAR `bar`, the pending bits at offset `pba`, 8 bytes for
 * each 64 vectors; both offsets multiples of 8. -1 on lack of memory, and on
 * boards without messages. A struct of zeros is an MSI-X that is never enabled;
 * all functions below take it.
 */
int msix_init(struct msix *x, struct board *b, struct pci_dev *d, unsigned vectors, unsigned bar, u32 table, u32 pba);
void msix_free(struct msix *x);
/* Entries masked, nothing pending. The capability itself is reset with the bus. */
void msix_reset(struct msix *x);

/* MSI-X Enable is set: the function must not use INTx. */
bool msix_enabled(const struct msix *x);
/* Sends the message of `vector`, or keeps it pending while it is masked or the function is no bus master. Nothing
 * if not enabled or there is no such vector. */
void msix_notify(struct msix *x, unsigned vector);
/* To be called from the function's config_written(). */
void msix_config_written(struct msix *x);

/* The table's part of the BAR, [0, 16 * vectors), and that of the pending bits (read only), by naturally aligned
 * accesses; those that are no doublewords read as zero and write nothing. */
u32 msix_table_read(const struct msix *x, u32 off, unsigned size);
void msix_table_write(struct msix *x, u32 off, u32 val, unsigned size);
u32 msix_pba_read(const struct msix *x, u32 off, unsigned size);

/* Records without sections of their own, as pci_dev_save(). After pci_dev_load(). */
void msix_save(const struct msix *x, struct encoder *e);
bool msix_check(const struct msix *x, struct decoder *in);
void msix_load(struct msix *x, struct decoder *in);

#endif

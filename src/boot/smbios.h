/*
 * SMBIOS 2.8 tables: what dmidecode and DMI lines in kernel logs show.
 * A direct boot has them in the F segment; firmware gets them as the fw_cfg
 * files etc/smbios/smbios-anchor and etc/smbios/smbios-tables.
 */
#ifndef ECTYPE_BOOT_SMBIOS_H
#define ECTYPE_BOOT_SMBIOS_H

#include "base/error.h"
#include "base/types.h"

struct memory;

#define SMBIOS_ANCHOR_SIZE 31
#define SMBIOS_ANCHOR_GPA 0xf1000ull
#define SMBIOS_TABLES_GPA 0xf1020ull

struct smbios_config {
	unsigned cpus;
	u64 ram;
	u8 uuid[16]; /* all zeros: not present */
};
struct smbios_blobs {
	u8 anchor[SMBIOS_ANCHOR_SIZE]; /* names SMBIOS_TABLES_GPA; firmware moves it */
	u8 *tables;
	size_t tables_len;
};

/* -1 with *e when the host has no memory. */
int smbios_build(struct smbios_blobs *out, const struct smbios_config *c, struct error *e);
void smbios_blobs_free(struct smbios_blobs *b);
/* Direct boot: at every reset. */
void smbios_place(const struct smbios_blobs *b, struct memory *m);

#endif

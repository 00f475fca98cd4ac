/*
 * The file `bootorder` of fw_cfg: a line for each disk to be tried, a path in the
 * notation of Open Firmware, a zero at the end. SeaBIOS and OVMF look for these
 * paths; what is not named comes last (SeaBIOS) or not at all (OVMF, as far as
 * it is on the PCI bus).
 */
#include <stdio.h>
#include <string.h>

#include "dev/chipset/fw_cfg.h"
#include "machine/internal.h"

#define PATH_MAX_LEN 64

/* Whether the item of `len` bytes at `s` means disk `d`. */
static bool means(const char *s, size_t len, const struct machine_disk *d)
{
	const char *kind = d->cdrom ? "cdrom" : "disk";

	return (strlen(kind) == len && !memcmp(s, kind, len)) || (strlen(d->id) == len && !memcmp(s, d->id, len));
}

static const char *next_item(const char *s, size_t *len)
{
	*len = strcspn(s, ",");
	return s + *len + (s[*len] == ',');
}

int machine_boot_check(const struct machine_config *cfg, struct error *e)
{
	const char *s = cfg->boot, *next;
	size_t len;

	if (!s)
		return 0;
	if (!cfg->firmware)
		return error_set(e, "a boot order needs firmware");
	do {
		bool found = false;

		next = next_item(s, &len);
		for (unsigned i = 0; i < cfg->disks; i++)
			found = found || means(s, len, &cfg->disk[i]);
		if (!found)
			return error_set(e, "--boot: there is no %s'%.*s' here: it takes disk, cdrom, and ids of disks",
					 len ? "" : "disk ", (int)len, s);
		s = next;
	} while (*s);
	return 0;
}

/* As SeaBIOS and OVMF make it of what they find on the bus. */
static size_t disk_path(const struct machine *m, unsigned n, char *to)
{
	if (m->disk[n].dev)
		return (size_t)snprintf(to, PATH_MAX_LEN, "/pci@i0cf8/scsi@%x/disk@0,0\n", m->disk[n].slot);
	return (size_t)snprintf(to, PATH_MAX_LEN, "/pci@i0cf8/pci8086,2922@1f,2/drive@%x/disk@0\n", m->disk[n].port);
}

int machine_boot_to_firmware(struct machine *m, struct device *fw_cfg, struct error *e)
{
	const char *s = m->cfg.boot;
	char text[MACHINE_DISKS_MAX * PATH_MAX_LEN + 1] = "";
	u32 used = 0, done = 0;
	size_t len;

	if (!m->cfg.disks || (!s && m->cfg.firmware_vars))
		return 0;
	if (!s)
		s = "disk,cdrom";
	while (*s) {
		const char *next = next_item(s, &len);

		for (unsigned i = 0; i < m->cfg.disks; i++) {
			if ((done & 1u << i) || !means(s, len, &m->cfg.disk[i]))
				continue;
			used += (u32)disk_path(m, i, text + used);
			done |= 1u << i;
		}
		s = next;
	}
	if (fw_cfg_add_file(fw_cfg, "bootorder", text, used + 1))
		return error_set(e, "not enough host memory for the boot order");
	return 0;
}

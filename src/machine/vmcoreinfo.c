/*
 * The fw_cfg file "etc/vmcoreinfo" (QEMU docs/specs/vmcoreinfo): in it the guest's kernel says where in memory its
 * VMCOREINFO note lies, so that a dump of the guest can carry it. Little-endian: u16 format the host takes, u16 format
 * of the note, u32 length, u64 physical address. The only format is 1, an ELF note.
 */
#include <string.h>

#include "dev/chipset/fw_cfg.h"
#include "machine/internal.h"

#define FILE_NAME "etc/vmcoreinfo"
#define FILE_LEN 16
#define FORMAT_ELF 1

int machine_vmcoreinfo_create(struct device *fw_cfg)
{
	const u8 empty[FILE_LEN] = { FORMAT_ELF };

	return fw_cfg_add_writable_file(fw_cfg, FILE_NAME, empty, sizeof(empty), NULL, NULL);
}

bool machine_vmcoreinfo(struct machine *m, gpa_t *gpa, u32 *len)
{
	u32 size;
	u16 format;
	const u8 *file = fw_cfg_file(m->fw_cfg, FILE_NAME, &size);

	if (!file || size != FILE_LEN)
		return false;
	memcpy(&format, file + 2, sizeof(format));
	memcpy(len, file + 4, sizeof(*len));
	memcpy(gpa, file + 8, sizeof(*gpa));
	return format == FORMAT_ELF && *len;
}

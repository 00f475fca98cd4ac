/*
 * The tables that describe the machine to its guest: ACPI, SMBIOS, e820. A
 * guest that is booted directly finds them in memory; firmware gets them
 * through fw_cfg and lays them out itself.
 */
#include <stdlib.h>
#include <string.h>

#include "boot/acpi.h"
#include "boot/smbios.h"
#include "dev/chipset/fw_cfg.h"
#include "machine/internal.h"

struct tables {
	struct acpi_blobs acpi;
	struct smbios_blobs smbios;
};

int machine_tables_create(struct machine *m, struct error *e)
{
	struct acpi_config acpi = { .cpus = m->cfg.cpus, .ram = m->cfg.memory, .vmgenid = m->cfg.vmgenid };
	const struct smbios_config smbios = { .cpus = m->cfg.cpus, .ram = m->cfg.memory };
	bool firmware = boot_is_firmware(m->image);

	_Static_assert(MACHINE_SERIALS == BOOT_COMS, "each has its place");
	for (unsigned i = 0; i < MACHINE_SERIALS; i++)
		acpi.serial |= m->cfg.serial[i] ? BIT(i) : 0;
	m->tables = calloc(1, sizeof(*m->tables));
	if (!m->tables)
		return error_set(e, "not enough host memory");
	boot_default_e820(&m->layout, m->cfg.memory);
	m->layout.acpi_rsdp = firmware ? 0 : ACPI_RSDP_GPA;
	if (firmware ? acpi_build_fw_cfg(&m->tables->acpi, &acpi, e)
		     : acpi_build(&m->tables->acpi, &acpi, boot_acpi_area(m->cfg.memory), e))
		return -1;
	return smbios_build(&m->tables->smbios, &smbios, e);
}

void machine_tables_place(struct machine *m)
{
	acpi_place(&m->tables->acpi, m->mem, boot_acpi_area(m->cfg.memory));
	smbios_place(&m->tables->smbios, m->mem);
}

/* "etc/e820" holds 20-byte entries. Firmware knows its own areas, so it is told
 * of RAM alone: below the PCI hole and above 4 GiB. */
static int add_e820(struct machine *m, struct device *cfg)
{
	u64 size = m->cfg.memory, low = boot_low_ram(size);
	const struct e820_entry ram[2] = {
		{ .addr = 0, .len = low, .type = E820_RAM },
		{ .addr = 4 * GiB, .len = size - low, .type = E820_RAM },
	};
	u8 map[2 * 20];
	u32 len = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(ram) && ram[i].len; i++, len += 20) {
		memcpy(map + len, &ram[i].addr, 8);
		memcpy(map + len + 8, &ram[i].len, 8);
		memcpy(map + len + 16, &ram[i].type, 4);
	}
	return fw_cfg_add_file(cfg, "etc/e820", map, len);
}

int machine_tables_to_firmware(struct machine *m, struct device *cfg)
{
	const struct acpi_blobs *acpi = &m->tables->acpi;
	const struct smbios_blobs *smbios = &m->tables->smbios;
	u16 cpus = (u16)m->cfg.cpus;

	if (fw_cfg_add_u64(cfg, FW_CFG_RAM_SIZE, m->cfg.memory) || fw_cfg_add_u16(cfg, FW_CFG_NOGRAPHIC, 1) ||
	    fw_cfg_add_u16(cfg, FW_CFG_NB_CPUS, cpus) || fw_cfg_add_u16(cfg, FW_CFG_MAX_CPUS, cpus) ||
	    fw_cfg_add_u16(cfg, FW_CFG_BOOT_MENU, 0) || add_e820(m, cfg))
		return -1;
	if (fw_cfg_add_file(cfg, "etc/acpi/rsdp", acpi->rsdp, sizeof(acpi->rsdp)) ||
	    fw_cfg_add_file(cfg, "etc/acpi/tables", acpi->tables, (u32)acpi->tables_len) ||
	    fw_cfg_add_file(cfg, "etc/table-loader", acpi->loader, (u32)acpi->loader_len))
		return -1;
	if (fw_cfg_add_file(cfg, "etc/smbios/smbios-anchor", smbios->anchor, sizeof(smbios->anchor)) ||
	    fw_cfg_add_file(cfg, "etc/smbios/smbios-tables", smbios->tables, (u32)smbios->tables_len))
		return -1;
	return 0;
}

void machine_tables_destroy(struct machine *m)
{
	if (!m->tables)
		return;
	acpi_blobs_free(&m->tables->acpi);
	smbios_blobs_free(&m->tables->smbios);
	free(m->tables);
}

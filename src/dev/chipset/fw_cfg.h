/* QEMU's firmware configuration device, port interface with DMA. */
#ifndef ECTYPE_DEV_CHIPSET_FW_CFG_H
#define ECTYPE_DEV_CHIPSET_FW_CFG_H

#include "dev/device.h"

/* Selector keys with a fixed meaning (QEMU docs/specs/fw_cfg). */
enum fw_cfg_key {
	FW_CFG_SIGNATURE = 0x00,
	FW_CFG_ID = 0x01,
	FW_CFG_UUID = 0x02,
	FW_CFG_RAM_SIZE = 0x03,
	FW_CFG_NOGRAPHIC = 0x04,
	FW_CFG_NB_CPUS = 0x05,
	FW_CFG_MACHINE_ID = 0x06,
	FW_CFG_KERNEL_ADDR = 0x07,
	FW_CFG_KERNEL_SIZE = 0x08,
	FW_CFG_KERNEL_CMDLINE = 0x09,
	FW_CFG_INITRD_ADDR = 0x0a,
	FW_CFG_INITRD_SIZE = 0x0b,
	FW_CFG_BOOT_DEVICE = 0x0c,
	FW_CFG_NUMA = 0x0d,
	FW_CFG_BOOT_MENU = 0x0e,
	FW_CFG_MAX_CPUS = 0x0f,
	FW_CFG_KERNEL_ENTRY = 0x10,
	FW_CFG_KERNEL_DATA = 0x11,
	FW_CFG_INITRD_DATA = 0x12,
	FW_CFG_CMDLINE_ADDR = 0x13,
	FW_CFG_CMDLINE_SIZE = 0x14,
	FW_CFG_CMDLINE_DATA = 0x15,
	FW_CFG_SETUP_ADDR = 0x16,
	FW_CFG_SETUP_SIZE = 0x17,
	FW_CFG_SETUP_DATA = 0x18,
	FW_CFG_FILE_DIR = 0x19,
	FW_CFG_FILE_FIRST = 0x20,
	FW_CFG_ARCH_LOCAL = 0x8000, /* + 0 ACPI tables, 1 SMBIOS, 2 IRQ0 override, 3 e820, 4 HPET */
};

#define FW_CFG_FILES_MAX 64
#define FW_CFG_NAME_MAX 56 /* with the terminating zero */

/* Ports 510h-511h and 514h-51Bh; signature, ID and an empty directory. NULL on
 * lack of memory. */
struct device *fw_cfg_create(struct board *b);

/*
 * Add items, at construction only: a restored machine adds the same ones.
 * Adding a key again replaces its item. 0, or -1 on lack of memory or of room,
 * or for a name that is too long or there already.
 */
/* Copies `data`. */
int fw_cfg_add_bytes(struct device *d, u16 key, const void *data, u32 len);
/* Borrows `data`, which must outlive the device: kernels and initrds. */
int fw_cfg_add_borrowed(struct device *d, u16 key, const void *data, u32 len);
/* Little-endian integers. */
int fw_cfg_add_u16(struct device *d, u16 key, u16 v);
int fw_cfg_add_u32(struct device *d, u16 key, u32 v);
int fw_cfg_add_u64(struct device *d, u16 key, u64 v);
/* The text with its terminating zero. */
int fw_cfg_add_string(struct device *d, u16 key, const char *s);
/* A file of the directory; copies. */
int fw_cfg_add_file(struct device *d, const char *name, const void *data, u32 len);
/* A file the guest may write by DMA; `written` (may be NULL) is told after each
 * write and sees the whole contents. They are part of the saved state. Reset
 * gives it the first contents again, and tells nobody. */
int fw_cfg_add_writable_file(struct device *d, const char *name, const void *data, u32 len,
			     void (*written)(void *opaque, const u8 *data, u32 len), void *opaque);
/* Contents of a file, the device's; NULL: there is none of that name. */
const u8 *fw_cfg_file(const struct device *d, const char *name, u32 *len);

#endif

/* Formats of disk images that we know by sight only. */
#include <string.h>

#include "backend/block/format.h"

static const struct {
	const char *name;
	unsigned at;
	const char *magic;
	unsigned length;
} known[] = {
	{ "VMDK", 0, "KDMV", 4 },
	{ "VMDK", 0, "COWD", 4 },
	{ "VMDK", 0, "# Disk DescriptorFile", 21 },
	{ "VDI", 64, "\x7f\x10\xda\xbe", 4 },
	{ "VHDX", 0, "vhdxfile", 8 },
	{ "VHD", 0, "conectix", 8 },
	{ "LUKS", 0, "LUKS\xba\xbe", 6 },
	{ "qcow (version 1)", 0, "QFI\xfb\0\0\0\1", 8 },
	{ "QED", 0, "QED\0", 4 },
	{ "Parallels", 0, "WithoutFreeSpace", 16 },
	{ "Parallels", 0, "WithouFreSpacExt", 16 },
	{ "Bochs", 0, "Bochs Virtual HD Image", 22 },
};

static const char *foreign_format(struct file *f)
{
	u8 start[128];
	u64 size;

	if (file_size(f, &size) || size < sizeof(start) || file_read(f, 0, start, sizeof(start)))
		return NULL;
	for (unsigned i = 0; i < ARRAY_SIZE(known); i++)
		if (!memcmp(start + known[i].at, known[i].magic, known[i].length))
			return known[i].name;
	return NULL;
}

int foreign_refuse(struct file *f, bool may_be_raw, struct error *e)
{
	const char *name = foreign_format(f);

	if (!name)
		return 0;
	return error_set(e,
			 "%s: an image of the format %s, which is not supported; 'qemu-img convert -O qcow2' makes "
			 "one that is%s",
			 f->path, name, may_be_raw ? " (format=raw gives the guest the file as it is)" : "");
}

/*
 * Fuzz target: the parsers and planners of src/boot, and placing what they
 * accept. The first byte chooses
 * firmware or kernel, the size of RAM, and how many of the last bytes are the
 * initial RAM disk.
 */
#include "boot_fake.h"
#include "boot/boot.h"
#include "cpu/cpuid.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

static void place(struct boot_image *b, u64 ram)
{
	static const struct cpu_model model = { .phys_bits = 40 };
	struct vcpu *v = aligned_alloc(64, (sizeof(*v) + 63) & ~63ul);
	struct boot_layout l = { .acpi_rsdp = 0xf0000 };
	struct error e;
	struct memory *m = memory_create(ram, &e); /* aborts on a write outside RAM */

	memset(v, 0, sizeof(*v));
	v->model = &model;
	boot_default_e820(&l, ram);
	boot_place(b, m, &l, v);
	memory_destroy(m);
	free(v);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct boot_image *b;
	struct error e = { "" };
	size_t initrd;
	u64 ram;

	if (size < 1)
		return 0;
	ram = (2ull << (data[0] & 3)) * MiB;
	initrd = data[0] & 0x10 ? MIN(size - 1, 16u) : 0;
	if (data[0] & 0x80)
		b = boot_load_firmware_bytes(data + 1, size - 1, &e);
	else
		b = boot_load_bytes(data + 1, size - 1 - initrd, initrd ? data + size - initrd : NULL, initrd,
				    data[0] & 0x20 ? "console=ttyS0" : NULL, ram, &e);
	if (!b && !e.text[0])
		abort(); /* refused without a word */
	if (b && !boot_is_firmware(b))
		place(b, ram);
	boot_free(b);
	return 0;
}

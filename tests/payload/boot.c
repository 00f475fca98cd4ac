/*
 * What the boot protocols promise: multiboot 1 (magic, memory, command line,
 * modules, memory map) or PVH (start_info), by the loader that was used. The
 * driver passes "hello world" and one module "MODULE".
 */
#include "rt.h"

struct module {
	u32 start, end, string, reserved;
};

/* The word `w` is in `s`: QEMU puts the file's name before the command line. */
static int has(const char *s, const char *w)
{
	for (; *s; s++) {
		const char *a = s, *b = w;
		while (*b && *a == *b) {
			a++;
			b++;
		}
		if (!*b)
			return 1;
	}
	return 0;
}

extern u8 image_end[];

static void multiboot(void)
{
	u32 *info = (u32 *)boot_info;
	u32 n = 0;
	u64 ram = 0;

	check("multiboot: flags hold memory, command line, modules, map", info[0] & 0x4d, 0x4d);
	check("multiboot: lower memory of at least 600 KiB", info[1] >= 600 && info[1] <= 640, 1);
	check("multiboot: upper memory of at least 30 MiB", info[2] >= 30 * 1024, 1);
	check("multiboot: command line", has((char *)info[4], "hello world"), 1);
	check("multiboot: one module", info[5], 1);
	struct module *m = (struct module *)info[6];
	check("multiboot: module's size", m->end - m->start, 6);
	check("multiboot: module's bytes", *(u32 *)m->start, 0x55444f4d);
	check("multiboot: module's string", has((char *)m->string, "args here"), 1);
	check("multiboot: module on a page", m->start & 0xfff, 0);
	check("multiboot: module behind the kernel", m->start >= (u32)image_end, 1);
	for (u32 at = info[12]; at < info[12] + info[11]; at += *(u32 *)at + 4, n++) {
		if (((u32 *)at)[5] == 1)
			ram += *(u64 *)(at + 12);
	}
	check("multiboot: memory map has entries", n > 1, 1);
	check("multiboot: memory map has RAM", ram > 30u << 20, 1);
}

static void pvh(void)
{
	u32 *info = (u32 *)boot_info;

	check("pvh: start_info magic", info[0], 0x336ec578);
	check("pvh: version 1 or later", info[1] >= 1, 1);
	u32 modules = info[3];
	u32 *list = (u32 *)info[4], cmdline = info[6], rsdp = info[8];
	check("pvh: command line", cmdline && has((char *)cmdline, "hello world"), 1);
	check("pvh: one module", modules, 1);
	check("pvh: module's size", list[2], 6);
	check("pvh: module's bytes", *(u32 *)list[0], 0x55444f4d);
	check("pvh: RSDP", rsdp && *(u32 *)rsdp == 0x20445352, 1);
	if (info[1] >= 1)
		check("pvh: memory map has entries", info[12] > 1, 1);
}

int main(void)
{
	check("entered with paging off", cr0() >> 31, 0);
	check("entered with interrupts off", flags() & FL_IF, 0);
	if (boot_magic == 0x2badb002)
		multiboot();
	else
		pvh();
	return 0;
}

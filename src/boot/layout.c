/*
 * The guest-physical layout, and planning: what goes where is settled once,
 * at load time, so that "does not fit" is an error before anything starts.
 */
#include "boot/image.h"

/* Left alone at the bottom of memory: real-mode vectors, BIOS data area, and
 * room for what a kernel wants below 64 KiB (processor start-up code). */
#define INFO_MIN 0x10000ull

u64 boot_low_ram(u64 ram)
{
	return ram < BOOT_LOW_RAM_MAX ? ram : BOOT_LOW_RAM_SPLIT;
}

gpa_t boot_acpi_area(u64 ram)
{
	return boot_low_ram(ram) - BOOT_ACPI_SIZE;
}

static void e820_add(struct boot_layout *l, u64 addr, u64 end, u32 type)
{
	if (end > addr && l->e820_count < ARRAY_SIZE(l->e820))
		l->e820[l->e820_count++] = (struct e820_entry){ addr, end - addr, type };
}

void boot_default_e820(struct boot_layout *l, u64 ram)
{
	u64 low = boot_low_ram(ram), acpi = boot_acpi_area(ram);

	l->e820_count = 0;
	e820_add(l, 0, BOOT_EBDA, E820_RAM);
	e820_add(l, BOOT_EBDA, 0xa0000, E820_RESERVED);
	e820_add(l, BOOT_BIOS_AREA, MiB, E820_RESERVED);
	e820_add(l, MiB, acpi, E820_RAM);
	/* the FACS is alone in the first page (boot/acpi.h) */
	e820_add(l, acpi, acpi + PAGE_SIZE, E820_NVS);
	e820_add(l, acpi + PAGE_SIZE, low, E820_ACPI);
	e820_add(l, BOOT_ECAM_BASE, BOOT_ECAM_BASE + BOOT_ECAM_SIZE, E820_RESERVED);
	e820_add(l, 4 * GiB, 4 * GiB + (ram - low), E820_RAM);
}

gpa_t plan_ram_top(const struct boot_image *b)
{
	return boot_acpi_area(b->memory);
}

static bool is_ram(const struct boot_image *b, gpa_t gpa, u64 size)
{
	u64 end = gpa + size;

	if (end < gpa)
		return false;
	return end <= BOOT_EBDA || (gpa >= MiB && end <= plan_ram_top(b));
}

/* A planned chunk that overlaps [gpa, gpa+size), or NULL. */
static const struct boot_chunk *overlap(const struct boot_image *b, gpa_t gpa, u64 size)
{
	for (unsigned i = 0; i < b->chunks; i++) {
		const struct boot_chunk *c = &b->chunk[i];
		if (gpa < c->gpa + c->size && c->gpa < gpa + size)
			return c;
	}
	return NULL;
}

int plan_fixed(struct boot_image *b, gpa_t gpa, u64 size, const u8 *data, u64 data_len, const char *what,
	       struct error *e)
{
	unsigned long long end = gpa + size;

	if (!size)
		return 0;
	if (end < gpa || !is_ram(b, gpa, size)) {
		if (gpa >= MiB && end > gpa && end <= BOOT_LOW_RAM_SPLIT)
			return error_set(
			    e, "%s needs memory up to %llu MiB, the guest has %llu MiB: give it more (--memory)", what,
			    (end + MiB - 1) / MiB, (unsigned long long)(b->memory / MiB));
		return error_set(e, "%s wants to be at 0x%llx (%llu bytes), where the guest has no usable RAM", what,
				 (unsigned long long)gpa, (unsigned long long)size);
	}
	if (overlap(b, gpa, size))
		return error_set(e, "%s at 0x%llx (%llu bytes) overlaps another part of the image: the file is damaged",
				 what, (unsigned long long)gpa, (unsigned long long)size);
	if (b->chunks == BOOT_MAX_CHUNKS)
		return error_set(e, "%s has too many segments (at most %d)", b->kernel.name, BOOT_MAX_CHUNKS);
	b->chunk[b->chunks++] = (struct boot_chunk){ gpa, size, data, data_len };
	return 0;
}

/* Candidates are the ends of the area and of every planned chunk: the best
 * fit towards either side always touches one of them. */
static bool fits(const struct boot_image *b, gpa_t gpa, u64 size, gpa_t min, gpa_t max)
{
	return gpa >= min && size <= max && gpa <= max - size && is_ram(b, gpa, size) && !overlap(b, gpa, size);
}

int plan_find(struct boot_image *b, u64 size, u64 align, gpa_t min, gpa_t max, enum plan_from from, gpa_t *gpa)
{
	bool found = false;

	for (unsigned i = 0; i <= b->chunks; i++) {
		gpa_t at;
		if (from == PLAN_LOWEST) {
			at = i ? b->chunk[i - 1].gpa + b->chunk[i - 1].size : min;
			at = (at + align - 1) & ~(align - 1);
		} else {
			at = i ? b->chunk[i - 1].gpa : max;
			if (at < size)
				continue;
			at = (at - size) & ~(align - 1);
		}
		if (!fits(b, at, size, min, max))
			continue;
		if (!found || (from == PLAN_LOWEST ? at < *gpa : at > *gpa))
			*gpa = at;
		found = true;
	}
	return found ? 0 : -1;
}

int plan_info(struct boot_image *b, u64 size, struct error *e)
{
	if (plan_find(b, size, PAGE_SIZE, INFO_MIN, BOOT_EBDA, PLAN_LOWEST, &b->info) < 0 &&
	    plan_find(b, size, PAGE_SIZE, MiB, plan_ram_top(b), PLAN_LOWEST, &b->info) < 0)
		return error_set(
		    e, "no room for the boot structures of %s in %llu MiB: give the guest more memory (--memory)",
		    b->kernel.name, (unsigned long long)(b->memory / MiB));
	b->info_size = size;
	return plan_fixed(b, b->info, size, NULL, 0, "boot structures", e);
}

/*
 * Stand-ins for the layers below src/boot, where a tree does not have them:
 * flat RAM from address 0, and error texts. With the real layers present this
 * defines nothing.
 */
#ifndef ECTYPE_TESTS_BOOT_FAKE_H
#define ECTYPE_TESTS_BOOT_FAKE_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "mem/physmem.h"

#if !__has_include("base/error.c")
int error_set(struct error *e, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (e)
		vsnprintf(e->text, sizeof(e->text), fmt, ap);
	va_end(ap);
	return -1;
}

int error_errno(struct error *e, int errnum, const char *fmt, ...)
{
	va_list ap;
	size_t n;

	va_start(ap, fmt);
	if (e) {
		vsnprintf(e->text, sizeof(e->text), fmt, ap);
		n = strlen(e->text);
		snprintf(e->text + n, sizeof(e->text) - n, ": %s", strerror(errnum));
	}
	va_end(ap);
	return -1;
}
#endif

#if !__has_include("mem/physmem.c") || defined(BOOT_FAKE_MEMORY)
struct memory {
	u8 *ram;
	u64 size;
	struct {
		gpa_t gpa;
		u8 *host;
		u64 len;
	} rom[4];
	unsigned roms;
};

struct memory *memory_create(u64 size, struct error *e)
{
	struct memory *m = calloc(1, sizeof(*m));

	m->ram = calloc(1, size);
	m->size = size;
	return m;
}

void memory_destroy(struct memory *m)
{
	free(m->ram);
	free(m);
}

struct region *memory_map_ram(struct memory *m, gpa_t gpa, u64 ram_off, u64 len, int prio, const char *name)
{
	return (struct region *)m;
}

struct region *memory_map_host(struct memory *m, gpa_t gpa, void *host, u64 len, enum region_kind kind, int prio,
			       const char *name)
{
	m->rom[m->roms].gpa = gpa;
	m->rom[m->roms].host = host;
	m->rom[m->roms++].len = len;
	return (struct region *)m;
}

int memory_read(struct memory *m, gpa_t gpa, void *dst, u64 len)
{
	for (unsigned i = 0; i < m->roms; i++) {
		if (gpa >= m->rom[i].gpa && gpa + len <= m->rom[i].gpa + m->rom[i].len) {
			memcpy(dst, m->rom[i].host + (gpa - m->rom[i].gpa), len);
			return 0;
		}
	}
	if (gpa > m->size || len > m->size - gpa)
		return -1;
	memcpy(dst, m->ram + gpa, len);
	return 0;
}

int memory_write(struct memory *m, gpa_t gpa, const void *src, u64 len)
{
	if (gpa > m->size || len > m->size - gpa)
		abort();
	memcpy(m->ram + gpa, src, len);
	return 0;
}
#endif

#endif

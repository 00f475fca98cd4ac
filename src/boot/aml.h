/*
 * A small builder of AML (ACPI specification 6.4, chapter 20): terms are
 * appended in order; what contains others is opened and closed, and its
 * package length is filled in when it is closed.
 */
#ifndef ECTYPE_BOOT_AML_H
#define ECTYPE_BOOT_AML_H

#include "base/types.h"

/* A growing byte buffer; after a failed allocation `failed` stays set and
 * nothing more is appended. */
struct aml {
	u8 *data;
	size_t len, cap;
	bool failed;
};

void aml_free(struct aml *a);
void aml_bytes(struct aml *a, const void *p, size_t n);
void aml_u8(struct aml *a, unsigned v);
void aml_int(struct aml *a, u64 v);
void aml_string(struct aml *a, const char *s);
/* "PNP0A08" in the compressed form. */
void aml_eisa_id(struct aml *a, const char *id);
/* "\\_SB_", "PCI0": one segment of four characters, optionally from the root. */
void aml_path(struct aml *a, const char *path);
/* Notify (scope.device, value): `scope` as of aml_path() from the root. */
void aml_notify(struct aml *a, const char *scope, const char *device, u64 value);
/* Name (path, ...): the object follows. */
void aml_name(struct aml *a, const char *path);
void aml_name_int(struct aml *a, const char *path, u64 v);

/* Open a term; returns the mark that aml_end() takes. */
size_t aml_scope(struct aml *a, const char *path);
size_t aml_device(struct aml *a, const char *path);
size_t aml_method(struct aml *a, const char *path, unsigned args);
size_t aml_package(struct aml *a, unsigned elements);
void aml_end(struct aml *a, size_t mark);

/* Name (_CRS, ResourceTemplate () { ... }): a mark for aml_crs_end(). */
size_t aml_crs(struct aml *a);
void aml_crs_end(struct aml *a, size_t mark);
void aml_io(struct aml *a, u16 base, unsigned len);
void aml_irq(struct aml *a, unsigned irq); /* edge, active high, exclusive */
void aml_memory32(struct aml *a, u32 base, u32 len);
void aml_word_bus(struct aml *a, u16 first, u16 last);
void aml_word_io(struct aml *a, u16 first, u16 last);
void aml_dword_memory(struct aml *a, u32 first, u32 last);
void aml_qword_memory(struct aml *a, u64 first, u64 last);

#endif

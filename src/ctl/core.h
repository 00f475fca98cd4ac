/*
 * A core of the guest: an ELF64 file as QEMU's dump-guest-memory makes it, which gdb and crash(8) read.
 *
 *   ELF header, program headers
 *   PT_NOTE: for each processor NT_PRSTATUS and NT_FPREGSET ("CORE"), for each one type 0 of "QEMU" (control
 *     registers, segments), and the guest's VMCOREINFO note if it offers one
 *   each piece of RAM or ROM in the guest-physical map, at a multiple of the page size
 *
 * There is one PT_LOAD for each piece, with its physical address as virtual address too. With `paging` those of what
 * the page tables of the processors map come first, by virtual address; they lie in the same pieces of the file.
 */
#ifndef ECTYPE_CTL_CORE_H
#define ECTYPE_CTL_CORE_H

#include "base/error.h"
#include "machine/machine.h"

struct core;

/* Registers, map and notes are those of this moment, memory is read later. On the vCPU thread; the machine's memory and
 * its map must stay until core_destroy(). NULL with *e. */
struct core *core_create(struct machine *m, bool paging, struct error *e);
void core_destroy(struct core *c); /* NULL is allowed */

u64 core_size(const struct core *c);
/* Up to `n` bytes of the file from `pos` on, at least one before its end. Any thread, one at a time. Does not make the
 * host provide pages of RAM that it never had to. */
size_t core_read(struct core *c, u64 pos, void *buf, size_t n);

/* The VMCOREINFO note that the guest says is at [gpa, gpa+len): copied to `out` without what lies behind it. Its
 * length, or 0: there is no sound one. */
#define CORE_VMCOREINFO_MAX (16 * KiB)
size_t core_vmcoreinfo(struct memory *mem, gpa_t gpa, u64 len, u8 out[CORE_VMCOREINFO_MAX]);

#endif

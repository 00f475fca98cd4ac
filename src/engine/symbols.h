/*
 * Names of guest addresses, from a file of the user's: System.map or
 * /proc/kallsyms as text ("ffffffff81000000 T name [module]"), or the symbol
 * table of an ELF file of 64 bits. For traces and the perf map only.
 */
#ifndef ECTYPE_ENGINE_SYMBOLS_H
#define ECTYPE_ENGINE_SYMBOLS_H

#include "base/error.h"

struct guest_symbols;

/* NULL with *e if the file cannot be read or holds no function symbol. The
 * caller frees the result. */
struct guest_symbols *guest_symbols_load(const char *path, struct error *e);
void guest_symbols_free(struct guest_symbols *s);
/* The function that begins at or before `addr`, no more than 1 MiB before;
 * *offset: how far. NULL: none, or `s` is NULL. The name belongs to `s`. */
const char *guest_symbols_find(const struct guest_symbols *s, u64 addr, u64 *offset);
/* "name+0x1c", or the address in hexadecimal. */
void guest_symbols_format(const struct guest_symbols *s, u64 addr, char *out, size_t size);

#endif

/*
 * The instruction set, once: one row per mnemonic in isa_table.h, expanded
 * into classes, dispatch, printing and tests.
 *
 * Row:  I(MNEMONIC, class, method, sys)
 *   class   Popek-Goldberg class below
 *   method  how software engines run it
 *   sys     name of the sys_ function (cpu/sys.h) for METHOD_SYS, else `none`
 */
#ifndef ECTYPE_ISA_ISA_H
#define ECTYPE_ISA_ISA_H

#include "isa/dinsn.h"

enum isa_class {
	CLASS_INNOCUOUS,
	CLASS_PRIVILEGED,          /* traps in user mode: sensitive and privileged */
	CLASS_CONTROL_SENSITIVE,   /* changes the configuration of resources without trapping */
	CLASS_BEHAVIOUR_SENSITIVE, /* result depends on the configuration without trapping */
};

enum isa_method {
	METHOD_HOST, /* user-level arithmetic: runs on the host's own units through a thunk */
	METHOD_CORE, /* integer, stack, string and control flow an engine does itself */
	METHOD_SYS,  /* shared semantics in src/cpu */
	METHOD_UD,   /* not in any CPU model we offer: #UD */
};

struct isa_row {
	u16 mnemonic; /* ZydisMnemonic */
	u8 class;     /* enum isa_class */
	u8 method;    /* enum isa_method */
	bool sensitive_unprivileged; /* one of the instructions that break the theorem on x86 */
	const char *note;            /* why, for the sensitive ones */
};

/* The row of a ZydisMnemonic; never NULL for a valid mnemonic. */
const struct isa_row *isa_row(unsigned mnemonic);

struct isa_decoded; /* Zydis' full record, see isa/decode.h */

/* Result of dinsn_decode(). */
enum decode_status {
	DECODE_OK,
	DECODE_INVALID,  /* #UD */
	DECODE_TOO_LONG, /* #GP(0): more than 15 bytes */
	DECODE_MORE,     /* the bytes given end inside the instruction */
};

/* Decode `len` (1..15) bytes at `bytes` in `mode`. */
enum decode_status dinsn_decode(struct dinsn *d, const u8 *bytes, unsigned len, enum code_mode mode);
/* Intel-syntax text of the instruction at linear address `addr`. */
void dinsn_format(const u8 *bytes, unsigned len, enum code_mode mode, u64 addr, char *out, size_t size);

#endif

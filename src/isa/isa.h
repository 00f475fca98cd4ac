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
#include "isa/isa_sys.h"

enum isa_class {
	CLASS_INNOCUOUS,
	CLASS_PRIVILEGED,	   /* traps in user mode: sensitive and privileged */
	CLASS_CONTROL_SENSITIVE,   /* changes the configuration of resources without trapping */
	CLASS_BEHAVIOUR_SENSITIVE, /* result depends on the configuration without trapping */
};

enum isa_method {
	METHOD_HOST, /* user-level arithmetic: runs on the host's own units through a thunk */
	METHOD_CORE, /* integer, stack, string and control flow an engine does itself */
	METHOD_SYS,  /* shared semantics in src/cpu */
	METHOD_UD,   /* not in any CPU model we offer: #UD */
};

/* The instructions that Robin and Irvine (2000) found sensitive yet
 * unprivileged on IA-32. POP, PUSH and MOV mean the segment register forms,
 * CALL, JMP and RET the far ones; RET covers IRET, the D and Q forms count
 * with their first. */
/* clang-format off */
#define ISA_CLASSICAL(X)                                                                                               \
	X(SGDT) X(SIDT) X(SLDT) X(SMSW) X(PUSHF) X(POPF) X(LAR) X(LSL) X(VERR) X(VERW)                                 \
	X(POP) X(PUSH) X(CALL) X(JMP) X(INT_n) X(RET) X(STR) X(MOV)
/* clang-format on */
enum isa_list {
	ISA_LIST_none, /* innocuous or privileged */
#define X(name) ISA_LIST_##name,
	ISA_CLASSICAL(X)
#undef X
	    ISA_LIST_modern, /* sensitive and unprivileged, but not in the classical list */
};

struct isa_row {
	u16 mnemonic; /* ZydisMnemonic */
	u8 class;     /* enum isa_class */
	u8 method;    /* enum isa_method */
	u8 sys;	      /* enum isa_sys: index of cpu/sys_table.h, ISA_SYS_none unless METHOD_SYS or METHOD_UD */
	u8 list;      /* enum isa_list */
	bool sensitive_unprivileged; /* one of the instructions that break the theorem on x86 */
	const char *name;	     /* of the row: the mnemonic, or a form of it such as MOV_CR */
	const char *note;	     /* why, for the sensitive unprivileged ones, else "" */
};

/* The row of a ZydisMnemonic; never NULL for a valid mnemonic. */
const struct isa_row *isa_row(unsigned mnemonic);
/* The row of an instruction: tells MOV to CR from MOV, far CALL from near ...
 * The one engines dispatch on. Never NULL. */
const struct isa_row *isa_row_of(const struct dinsn *d);
/* Row `n` in the order of the table, pseudo rows last; NULL beyond the end. */
const struct isa_row *isa_row_at(unsigned n);
const char *isa_class_name(unsigned isa_class);	  /* "innocuous" ... */
const char *isa_method_name(unsigned isa_method); /* "host" ... */
const char *isa_sys_name(unsigned sys);		  /* of enum isa_sys: "none", "iret" ... */

/* Result of dinsn_decode(). */
enum decode_status {
	DECODE_OK,
	DECODE_INVALID,	 /* #UD */
	DECODE_TOO_LONG, /* #GP(0): more than 15 bytes */
	DECODE_MORE,	 /* the bytes given end inside the instruction */
};

/* Decode `len` (1..15) bytes at `bytes` in `mode`. */
enum decode_status dinsn_decode(struct dinsn *d, const u8 *bytes, unsigned len, enum code_mode mode);
/* Intel-syntax text of the instruction at linear address `addr`. */
void dinsn_format(const u8 *bytes, unsigned len, enum code_mode mode, u64 addr, char *out, size_t size);

#endif

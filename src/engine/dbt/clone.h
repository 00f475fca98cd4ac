/* Where constants lie in a block's code that depend on where the block is; see clone.c. */
#ifndef ECTYPE_ENGINE_DBT_CLONE_H
#define ECTYPE_ENGINE_DBT_CLONE_H

#include "base/types.h"

/* 32 bits each, but for FIX_LIN. */
enum fix_kind {
	FIX_TRAMPOLINE, /* distance to one of the trampolines */
	FIX_CODE,	/* offset in the code cache */
	FIX_INSN,	/* index of a tinsn */
	FIX_EXIT,	/* of a texit */
	FIX_SYS,	/* of a tsys */
	FIX_PAGE,	/* of the page, as AUX_VALID has it */
	FIX_LIN,	/* 64 bits: a linear address that moves with the block */
	FIX_KINDS,
};

/* What is being noted. */
struct fixes {
	u8 *first, *at, *end;
	u8 *code; /* the latest fix */
	const u8 *trampolines;
	bool none; /* the block cannot be cloned */
	bool full; /* some could not be noted: it cannot be moved either */
};

/* From `at` to `end` there is room for notes; `code`: the block's first byte. */
void fixes_begin(struct fixes *f, u8 *at, u8 *end, u8 *code, const u8 *trampolines);
/* Behind the fix noted before. */
void fix_note(struct fixes *f, enum fix_kind kind, const u8 *where);

#endif

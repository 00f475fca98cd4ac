/* Listings of blocks: guest code, what was made of it, host code with names. */
#ifndef ECTYPE_ENGINE_DBT_LIST_H
#define ECTYPE_ENGINE_DBT_LIST_H

#include "engine/dbt/dbt.h"
#include "engine/symbols.h"

struct note;

struct listing {
	const struct dbt *x;
	const struct tblock *b;
	const struct note *notes; /* one an instruction, or NULL: no analysis */
	u32 what;		  /* of TRACE_BLOCKS */
	void (*line)(void *opaque, const char *text);
	void *opaque;
};

void dbt_list(const struct listing *l);
/* For --trace host: the passages between C and translated code (entry.c). */
void dbt_list_trampolines(const struct dbt *x);
/* trace.c: what was made of instruction `i`. */
void dbt_note_format(const struct listing *l, const struct tinsn *i, const struct note *n, char *out, size_t size);
/* Bytes of instruction `i` of `b` as they are in memory at present. */
const u8 *dbt_guest_bytes(const struct tblock *b, const struct tinsn *i);
static inline enum code_mode dbt_code_mode(const struct tblock *b)
{
	return b->page->key & KEY_32 ? CODE_32 : CODE_64;
}
/* "name+0x12" or the address. */
void dbt_guest_name(const struct dbt *x, u64 lin, char *out, size_t size);

#endif

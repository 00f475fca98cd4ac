/*
 * The instruction table as data: rows by mnemonic, the pseudo rows, and the
 * choice between them by encoding.
 */
#include "isa/isa.h"

#include <Zydis/Mnemonic.h>

#define ROW(row, m, cl, me, sy, li, no)                                                                                \
	{                                                                                                              \
		.mnemonic = ZYDIS_MNEMONIC_##m, .class = CLASS_##cl, .method = METHOD_##me, .sys = ISA_SYS_##sy,       \
		.list = ISA_LIST_##li, .sensitive_unprivileged = ISA_LIST_##li != ISA_LIST_none, .name = #row,         \
		.note = no                                                                                             \
	}

/* Two rows for one mnemonic would declare an enumerator twice; with as many
 * rows as mnemonics there is then exactly one for each. */
enum row_order {
#define I(m, ...) ROW_##m,
#define S(m, ...) ROW_##m,
#include "isa/isa_table.h"
	ROW_MNEMONICS,
};
enum pseudo_order {
#define P(name, ...) PSEUDO_##name,
#include "isa/isa_table.h"
	PSEUDO_COUNT,
};
_Static_assert(ROW_MNEMONICS == ZYDIS_MNEMONIC_MAX_VALUE + 1, "isa_table.h: one row a mnemonic");
_Static_assert(ROW_INVALID == 0, "isa_table.h opens with INVALID");
_Static_assert(ZYDIS_MNEMONIC_MAX_VALUE == ZYDIS_MNEMONIC_XTEST, "isa_table.h is that of Zydis 4.0");
_Static_assert(ISA_SYS_COUNT <= 256, "isa_row.sys is a byte");

static const struct isa_row rows[ROW_MNEMONICS] = {
#define I(m, cl, me, sy) [ZYDIS_MNEMONIC_##m] = ROW(m, m, cl, me, sy, none, ""),
#define S(m, cl, me, sy, li, no) [ZYDIS_MNEMONIC_##m] = ROW(m, m, cl, me, sy, li, no),
#include "isa/isa_table.h"
};

static const struct isa_row pseudo[PSEUDO_COUNT] = {
#define P(name, m, cl, me, sy, li, no) [PSEUDO_##name] = ROW(name, m, cl, me, sy, li, no),
#include "isa/isa_table.h"
};

/* METHOD_SYS rows name a function; METHOD_UD rows name `ud`; others none. */
#define CHECK_CORE(sy) ISA_SYS_##sy == ISA_SYS_none
#define CHECK_HOST(sy) ISA_SYS_##sy == ISA_SYS_none
#define CHECK_SYS(sy) ISA_SYS_##sy != ISA_SYS_none
#define CHECK_UD(sy) ISA_SYS_##sy == ISA_SYS_ud
#define I(m, cl, me, sy) _Static_assert(CHECK_##me(sy), "isa_table.h: " #m ": method and sys disagree");
#define S(m, cl, me, sy, li, no) _Static_assert(CHECK_##me(sy), "isa_table.h: " #m ": method and sys disagree");
#define P(name, m, cl, me, sy, li, no)                                                                                 \
	_Static_assert(CHECK_##me(sy), "isa_table.h: " #name ": method and sys disagree");
#include "isa/isa_table.h"

static const u16 in_order[ROW_MNEMONICS] = {
#define I(m, ...) ZYDIS_MNEMONIC_##m,
#define S(m, ...) ZYDIS_MNEMONIC_##m,
#include "isa/isa_table.h"
};

const struct isa_row *isa_row(unsigned mnemonic)
{
	return &rows[mnemonic < ROW_MNEMONICS ? mnemonic : ZYDIS_MNEMONIC_INVALID];
}

const struct isa_row *isa_row_at(unsigned n)
{
	if (n < ROW_MNEMONICS)
		return &rows[in_order[n]];
	n -= ROW_MNEMONICS;
	return n < PSEUDO_COUNT ? &pseudo[n] : NULL;
}

static const struct isa_row *mov_row(const struct dinsn *d)
{
	if (d->map == 1) {
		/* 0F 20/22: MOV CR; 0F 21/23: MOV DR */
		if ((d->opcode & 0xfc) == 0x20)
			return &pseudo[d->opcode & 1 ? PSEUDO_MOV_DR : PSEUDO_MOV_CR];
	} else if (d->map == 0) {
		if (d->opcode == 0x8c)
			return &pseudo[PSEUDO_MOV_FROM_SREG];
		if (d->opcode == 0x8e)
			return &pseudo[PSEUDO_MOV_TO_SREG];
	}
	return &rows[ZYDIS_MNEMONIC_MOV];
}

const struct isa_row *isa_row_of(const struct dinsn *d)
{
	switch (d->mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
		return mov_row(d);
	case ZYDIS_MNEMONIC_PUSH:
		/* 06 0E 16 1E, 0F A0, 0F A8 */
		if (d->map == 1 || (d->map == 0 && d->opcode < 0x20))
			return &pseudo[PSEUDO_PUSH_SREG];
		break;
	case ZYDIS_MNEMONIC_POP:
		/* 07 17 1F, 0F A1, 0F A9 */
		if (d->map == 1 || (d->map == 0 && d->opcode < 0x20))
			return &pseudo[PSEUDO_POP_SREG];
		break;
	case ZYDIS_MNEMONIC_CALL:
		if (d->opcode == 0x9a || (d->opcode == 0xff && (d->reg & 7) == 3))
			return &pseudo[PSEUDO_CALL_FAR];
		break;
	case ZYDIS_MNEMONIC_JMP:
		if (d->opcode == 0xea || (d->opcode == 0xff && (d->reg & 7) == 5))
			return &pseudo[PSEUDO_JMP_FAR];
		break;
	case ZYDIS_MNEMONIC_RET:
		if (d->opcode == 0xca || d->opcode == 0xcb)
			return &pseudo[PSEUDO_RET_FAR];
		break;
	}
	return isa_row(d->mnemonic);
}

const char *isa_class_name(unsigned isa_class)
{
	static const char *const names[] = {
		[CLASS_INNOCUOUS] = "innocuous",
		[CLASS_PRIVILEGED] = "privileged",
		[CLASS_CONTROL_SENSITIVE] = "control-sensitive",
		[CLASS_BEHAVIOUR_SENSITIVE] = "behaviour-sensitive",
	};
	return isa_class < ARRAY_SIZE(names) ? names[isa_class] : "?";
}

const char *isa_method_name(unsigned isa_method)
{
	static const char *const names[] = {
		[METHOD_HOST] = "host",
		[METHOD_CORE] = "core",
		[METHOD_SYS] = "sys",
		[METHOD_UD] = "ud",
	};
	return isa_method < ARRAY_SIZE(names) ? names[isa_method] : "?";
}

const char *isa_sys_name(unsigned sys)
{
	static const char *const names[] = { [ISA_SYS_none] = "none",
#define X(name) [ISA_SYS_##name] = #name,
					     ISA_SYS_LIST(X)
#undef X
	};
	return sys < ARRAY_SIZE(names) ? names[sys] : "?";
}

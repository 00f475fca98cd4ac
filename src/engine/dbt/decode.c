/*
 * Decoded instructions, kept: the same few thousand encodings make up all code,
 * with other displacements and immediates. What was found out about bytes is
 * used again for bytes that agree everywhere else; those two are then filled in
 * from the code.
 *
 * That is sound because where they lie and what they mean is decided by the
 * bytes before them. EVEX scales its displacement, some VEX instructions name
 * a register in the immediate, and some instructions have two: there all bytes
 * must agree.
 *
 * Processors that run at once share them without a lock: a version tells whether
 * one was changed while it was read.
 */
#include "engine/dbt/translate.h"
#include "isa/isa.h"

#include <string.h>

#define DECODED 8192u

struct decoded {
	u64 mask[2]; /* of the bytes that must agree; the first 0: empty */
	struct ginsn g;
} __attribute__((aligned(64)));
_Static_assert(sizeof(struct decoded) == 128, "two cache lines");

/* Behind them, one for each: odd while a processor changes it. Used where processors run at once. */
typedef u32 version;

const size_t dbt_decoded_size = DECODED * (sizeof(struct decoded) + sizeof(version));

/* The first bytes of an instruction, up to 16, as two words. */
struct head {
	u64 w[2];
};
/* A dinsn ends with the bytes and one of padding. */
#define BYTES_AT offsetof(struct dinsn, bytes)
_Static_assert(sizeof(struct dinsn) == BYTES_AT + 16, "16 bytes can be copied");

static u64 low_bytes(unsigned n)
{
	return n >= 8 ? ~0ull : BIT(8 * n) - 1;
}

static bool has_modrm(unsigned map, unsigned op)
{
	if (map == 0) {
		if (op < 0x40)
			return (op & 7) < 4;
		return op == 0x63 || op == 0x69 || op == 0x6b || (op & 0xf0) == 0x80 || (op & 0xfe) == 0xc0 ||
		       (op & 0xfe) == 0xc6 || (op & 0xfc) == 0xd0 || (op & 0xf8) == 0xd8 || (op & 0xf6) == 0xf6;
	}
	return (op & 0xf0) != 0x80 && (op & 0xf8) != 0xc8 && (op & 0xf8) != 0x30 && op != 0x05 && op != 0x0b;
}

static bool is_prefix(unsigned b)
{
	return (b & 0xf0) == 0x40 || (b & 0xfc) == 0x64 || (b & 0xfe) == 0xf2 || b == 0xf0;
}

/* Of the bytes up to ModRM and SIB. Where it errs an entry is only not found. */
static unsigned slot_of(u64 first)
{
	unsigned n = 0, map = 0;
	u64 rest = first;

	while (is_prefix(rest & 0xff)) {
		rest >>= 8;
		if (++n == 5)
			break;
	}
	if ((rest & 0xfe) == 0xc4) {
		unsigned k = rest & 1 ? 2 : 3;

		n += k;
		rest >>= 8 * k;
		map = 1;
	} else if ((rest & 0xff) == 0x0f) {
		unsigned k = (rest >> 8 & 0xfd) == 0x38 ? 2 : 1;

		n += k;
		rest >>= 8 * k;
		map = 1;
	}
	if (has_modrm(map, rest & 0xff)) {
		unsigned modrm = rest >> 8 & 0xff;

		n += 1 + (modrm < 0xc0 && (modrm & 7) == 4);
	}
	return (unsigned)((first & low_bytes(n + 1)) * 0x9e3779b97f4a7c15ull >> 48) % DECODED;
}

static void unmask(struct decoded *s, unsigned offset, unsigned bits)
{
	memset((u8 *)s->mask + offset, 0, bits / 8);
}

/* Which bytes must agree, and where those are that need not. */
static void set_mask(struct decoded *s, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
	struct ginsn *g = &s->g;
	bool exact =
	    (z->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && z->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX) ||
	    z->raw.imm[1].size;

	for (unsigned k = 0; k < z->operand_count; k++)
		exact |= ops[k].encoding == ZYDIS_OPERAND_ENCODING_IS4;
	s->mask[0] = low_bytes(z->length);
	s->mask[1] = z->length > 8 ? low_bytes(z->length - 8u) : 0;
	if (exact)
		return;
	if (g->d.is_mem && z->raw.disp.size) {
		bool moffs = !g->d.has_modrm; /* an address, not a displacement: dinsn_from_zydis() */

		g->disp_at = z->raw.disp.offset;
		g->disp_bits = z->raw.disp.size;
		g->disp_signed = !moffs || g->d.addrsize == 8;
		unmask(s, g->disp_at, g->disp_bits);
	}
	if (z->raw.imm[0].size) {
		g->imm_at = z->raw.imm[0].offset;
		g->imm_bits = z->raw.imm[0].size;
		g->imm_signed = z->raw.imm[0].is_signed;
		unmask(s, g->imm_at, g->imm_bits);
	}
}

static s64 field(const struct head *h, unsigned at, unsigned bits, bool is_signed)
{
	unsigned shift = 8 * (at & 7), up = 64 - bits;
	u64 v = h->w[at >> 3] >> shift;

	if (at < 8 && shift)
		v |= h->w[1] << (64 - shift);
	return is_signed ? (s64)(v << up) >> up : (s64)(v << up >> up);
}

/* What the bytes `h` have in the place of those that were decoded. */
static void fill_in(struct ginsn *g, const struct head *h)
{
	const struct head bytes = { { h->w[0] & low_bytes(g->d.len),
				      g->d.len > 8 ? h->w[1] & low_bytes(g->d.len - 8u) : 0 } };

	memcpy((u8 *)g + offsetof(struct ginsn, d) + BYTES_AT, &bytes, 16);
	if (g->disp_bits)
		g->d.disp = field(h, g->disp_at, g->disp_bits, g->disp_signed);
	if (g->imm_bits)
		g->d.imm = (u64)field(h, g->imm_at, g->imm_bits, g->imm_signed);
}

static enum decode_status decode(struct dbt *x, const u8 *code, unsigned avail, enum code_mode mode, struct decoded *s)
{
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction z;
	enum decode_status status = isa_decode_full(&z, ops, code, MIN(15u, avail), mode);
	struct ginsn *g = &s->g;

	s->mask[0] = 0;
	if (status != DECODE_OK)
		return status;
	memset(g, 0, sizeof(*g));
	dinsn_from_zydis(&g->d, &z, ops, code, mode);
	classify(x, g, &z, ops);
	find_flags_use(g, &z, ops);
	find_operand(g, &z, ops);
	find_plan(g);
	find_rewrite(g, &z, ops, x->options && x->options->alone);
	set_mask(s, &z, ops);
	return status;
}

static bool agrees(const struct decoded *s, const struct head *h, unsigned avail, enum code_mode mode)
{
	struct head k;

	memcpy(&k, (const u8 *)&s->g.d + BYTES_AT, 16);
	return likely(s->mask[0] && !((h->w[0] ^ k.w[0]) & s->mask[0]) && !((h->w[1] ^ k.w[1]) & s->mask[1]) &&
		      s->g.d.mode == mode && s->g.d.len <= avail);
}

/* ---- kept by processors that run at once: nobody waits, what is being changed is as good as not there ---- */

#define WORDS (sizeof(struct decoded) / 8)

static bool look_at(const struct decoded *s, const version *at, struct decoded *copy)
{
	version before = __atomic_load_n(at, __ATOMIC_ACQUIRE);
	const u64 *from = (const u64 *)s;
	u64 *to = (u64 *)copy;

	if (before & 1)
		return false;
	for (unsigned k = 0; k < WORDS; k++)
		to[k] = __atomic_load_n(&from[k], __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return __atomic_load_n(at, __ATOMIC_RELAXED) == before;
}

static void keep(struct decoded *s, version *at, const struct decoded *new)
{
	version before = __atomic_load_n(at, __ATOMIC_RELAXED);
	const u64 *from = (const u64 *)new;
	u64 *to = (u64 *)s;

	if (before & 1 ||
	    !__atomic_compare_exchange_n(at, &before, before + 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
		return;
	__atomic_thread_fence(__ATOMIC_RELEASE);
	for (unsigned k = 0; k < WORDS; k++)
		__atomic_store_n(&to[k], from[k], __ATOMIC_RELAXED);
	__atomic_store_n(at, before + 2, __ATOMIC_RELEASE);
}

static enum decode_status decode_shared(struct dbt *x, const u8 *code, unsigned avail, enum code_mode mode,
					const struct head *h, struct ginsn *g)
{
	unsigned slot = slot_of(h->w[0]);
	struct decoded *s = &x->sh->decoded[slot], copy;
	version *at = (version *)&x->sh->decoded[DECODED] + slot;
	enum decode_status status = DECODE_OK;

	if (unlikely(!look_at(s, at, &copy) || !agrees(&copy, h, avail, mode))) {
		status = decode(x, code, avail, mode, &copy);
		if (status == DECODE_OK)
			keep(s, at, &copy);
	}
	*g = copy.g;
	return status;
}

enum decode_status dbt_decode(struct dbt *x, const u8 *code, unsigned avail, enum code_mode mode, struct ginsn *g)
{
	enum decode_status status = DECODE_OK;
	struct head h = { { 0, 0 } };
	struct decoded *s;

	if (likely(avail >= 16))
		memcpy(&h, code, 16);
	else
		memcpy(&h, code, avail);
	s = &x->sh->decoded[slot_of(h.w[0])];
	if (unlikely(x->sh->parallel)) {
		status = decode_shared(x, code, avail, mode, &h, g);
	} else {
		if (unlikely(!agrees(s, &h, avail, mode)))
			status = decode(x, code, avail, mode, s);
		*g = s->g;
	}
	if (status == DECODE_OK)
		fill_in(g, &h);
	return status;
}

enum decode_status decode_next(struct tr *t, unsigned n)
{
	unsigned at = t->ginsn_at[n];

	if (n < t->ginsns_n || t->decoded != DECODE_OK)
		return n < t->ginsns_n ? DECODE_OK : t->decoded;
	t->decoded = dbt_decode(t->x, t->code + at, t->avail - at, t->narrow ? CODE_32 : CODE_64, &t->ginsn[n]);
	if (t->decoded == DECODE_OK)
		t->ginsn_at[++t->ginsns_n] = (u16)(at + t->ginsn[n].d.len);
	return t->decoded;
}

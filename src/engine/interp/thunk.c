/*
 * Making thunks.
 *
 * A thunk is called with RDI = vcpu and RSI = host address of the memory
 * operand (thunk_call has saved the callee-saved registers):
 *
 *     mov   Rv, rdi               two registers the instruction does not use
 *     movzx eax, [Rv + flags]     if it reads or changes status flags
 *     add   al, 127 ; sahf
 *     mov   Rm, rsi
 *     mov   reg, [Rv + reg * 8]   every general register it names
 *     <the instruction, [Rm] for its memory operand>
 *     mov   [Rv + reg * 8], reg   those it writes
 *     lahf ; seto al ; mov [Rv + flags], ax
 *     ret
 *
 * Guest registers are in the host registers of the same name, but for RSP,
 * which is renamed. The bytes are rewritten, not re-encoded: that keeps
 * whatever the guest wrote in ignored bits. 16-bit code needs 66H toggled.
 *
 * The code lives in a memfd mapped twice, writable and executable, so that no
 * page is both.
 */
#include "engine/interp/thunk.h"
#include "base/reclaim.h"
#include "engine/interp/host_fault.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CODE_SIZE (16 * MiB)
#define THUNKS_MAX 131072
#define THUNK_HASH 16384
#define THUNK_BYTES_MAX 256

struct thunk_cache {
	u8 *rw, *rx; /* two views of the same pages */
	size_t used;
	struct thunk *hash[THUNK_HASH];
	struct thunk *pool;
	unsigned count;
};

struct thunk_cache *thunk_cache_create(struct error *e)
{
	struct thunk_cache *c = mmap(NULL, sizeof(*c), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = memfd_create("ectype-thunks", MFD_CLOEXEC);

	if (c == MAP_FAILED || fd < 0 || ftruncate(fd, CODE_SIZE))
		goto fail;
	c->pool = mmap(NULL, THUNKS_MAX * sizeof(*c->pool), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	c->rw = mmap(NULL, CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	c->rx = mmap(NULL, CODE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (c->pool == MAP_FAILED || c->rw == MAP_FAILED || c->rx == MAP_FAILED)
		goto fail;
	close(fd);
	return c;
fail:
	error_errno(e, errno, "engine interp: cannot map memory for code");
	if (fd >= 0)
		close(fd);
	if (c != MAP_FAILED)
		munmap(c, sizeof(*c));
	return NULL;
}

void thunk_cache_destroy(struct thunk_cache *c, struct reclaim *later)
{
	if (!c)
		return;
	reclaim_later(later, c->rw, CODE_SIZE);
	reclaim_later(later, c->rx, CODE_SIZE);
	reclaim_later(later, c->pool, THUNKS_MAX * sizeof(*c->pool));
	reclaim_later(later, c, sizeof(*c));
}

bool thunk_holds(const struct thunk_cache *c, const void *pc)
{
	return (const u8 *)pc >= c->rx && (const u8 *)pc < c->rx + CODE_SIZE;
}

bool thunk_room(const struct thunk_cache *c)
{
	return CODE_SIZE - c->used > BLOCK_MAX * THUNK_BYTES_MAX && c->count + BLOCK_MAX < THUNKS_MAX;
}

void thunk_flush(struct thunk_cache *c)
{
	memset(c->hash, 0, sizeof(c->hash));
	c->used = 0;
	c->count = 0;
}

unsigned thunk_count(const struct thunk_cache *c)
{
	return c->count;
}

/* Emission buffer. */
struct emit {
	u8 b[THUNK_BYTES_MAX];
	unsigned n;
};
static void put(struct emit *e, u8 v)
{
	if (e->n < sizeof(e->b))
		e->b[e->n] = v;
	e->n++;
}
static void put_bytes(struct emit *e, const u8 *p, unsigned n)
{
	while (n--)
		put(e, *p++);
}
static void put32(struct emit *e, u32 v)
{
	for (unsigned k = 0; k < 4; k++)
		put(e, (u8)(v >> (8 * k)));
}

/* `op` (89H store, 8BH load) between 64-bit `reg` and [base + disp]; base is never RSP or R12. */
static void put_mov_mem(struct emit *e, u8 op, unsigned reg, unsigned base, u32 disp)
{
	put(e, (u8)(0x48 | (reg >> 3) << 2 | base >> 3));
	put(e, op);
	put(e, (u8)(0x80 | (reg & 7) << 3 | (base & 7)));
	put32(e, disp);
}
static void put_mov_reg(struct emit *e, unsigned dst, unsigned src)
{
	put(e, (u8)(0x48 | (src >> 3) << 2 | dst >> 3));
	put(e, 0x89);
	put(e, (u8)(0xc0 | (src & 7) << 3 | (dst & 7)));
}

/* What the instruction does with general registers. */
struct use {
	u16 regs, written; /* bit per register, implicit ones included */
	bool rsp;
};

static int gpr_number(ZydisRegister r)
{
	switch (ZydisRegisterGetClass(r)) {
	case ZYDIS_REGCLASS_GPR8: {
		int id = ZydisRegisterGetId(r);
		/* AL CL DL BL AH CH DH BH SPL BPL SIL DIL R8B.. in Zydis' order */
		return id < 4 ? id : id < 8 ? id - 4 : id - 4;
	}
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		return ZydisRegisterGetId(r);
	default:
		return -1;
	}
}

static struct use find_use(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
	struct use u = { 0 };

	for (unsigned k = 0; k < z->operand_count; k++) {
		int n;

		if (ops[k].type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		n = gpr_number(ops[k].reg.value);
		if (n < 0)
			continue;
		u.regs |= (u16)(1u << n);
		if (ops[k].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
			u.written |= (u16)(1u << n);
		if (n == REG_RSP)
			u.rsp = true;
	}
	return u;
}

/* Is the operand encoded in `where` the stack pointer? */
static bool is_rsp(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops, ZydisOperandEncoding where)
{
	for (unsigned k = 0; k < z->operand_count; k++)
		if (ops[k].type == ZYDIS_OPERAND_TYPE_REGISTER && ops[k].encoding == where &&
		    gpr_number(ops[k].reg.value) == REG_RSP)
			return true;
	return false;
}

static unsigned pick(u16 *taken, const u8 *from, unsigned n)
{
	for (unsigned k = 0; k < n; k++)
		if (!(*taken >> from[k] & 1)) {
			*taken |= (u16)(1u << from[k]);
			return from[k];
		}
	return REG_NONE;
}

/* Registers of a thunk. */
struct plan {
	unsigned rv, rm, rt; /* vcpu, memory operand, stand-in for RSP */
	bool mem;
	u8 rename_reg, rename_rm, rename_vvvv; /* fields that name RSP */
};

static void put_prefixes(struct emit *e, const ZydisDecodedInstruction *z, bool integer, const struct dinsn *d)
{
	bool mandatory66 = false, has66 = false;

	for (unsigned k = 0; k < z->raw.prefix_count; k++)
		if (z->raw.prefixes[k].value == 0x66) {
			has66 = true;
			mandatory66 |= z->raw.prefixes[k].type == ZYDIS_PREFIX_TYPE_MANDATORY;
		}
	if (d->mode == CODE_16 && integer && !mandatory66)
		has66 = z->operand_width == 16;
	if (has66)
		put(e, 0x66);
	for (unsigned k = 0; k < z->raw.prefix_count; k++) {
		u8 p = z->raw.prefixes[k].value;

		if (p == 0xf0 || p == 0xf2 || p == 0xf3)
			put(e, p);
	}
}

bool narrow_ignores_w(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
	switch (z->mnemonic) {
	case ZYDIS_MNEMONIC_VCVTSI2SD:
	case ZYDIS_MNEMONIC_VCVTSI2SS:
	case ZYDIS_MNEMONIC_VCVTUSI2SD:
	case ZYDIS_MNEMONIC_VCVTUSI2SS:
	case ZYDIS_MNEMONIC_VMOVD:
	case ZYDIS_MNEMONIC_VPCMPESTRI:
	case ZYDIS_MNEMONIC_VPCMPESTRM:
	case ZYDIS_MNEMONIC_VPEXTRD:
	case ZYDIS_MNEMONIC_VPINSRD:
		return true;
	default:
		break;
	}
	for (unsigned k = 0; k < z->operand_count; k++)
		if (ops[k].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ops[k].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT && gpr_number(ops[k].reg.value) >= 0)
			return true;
	return false;
}

bool narrow_has_is4(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
	for (unsigned k = 0; k < z->operand_count; k++)
		if (ops[k].encoding == ZYDIS_OPERAND_ENCODING_IS4)
			return true;
	return false;
}

unsigned narrow_zero(unsigned mnemonic, u8 code[NARROW_ZERO_BYTES])
{
	bool all = mnemonic == ZYDIS_MNEMONIC_VZEROALL;

	if (!all && mnemonic != ZYDIS_MNEMONIC_VZEROUPPER)
		return 0;
	for (unsigned r = 0; r < 8; r++) { /* VXORPS or VMOVAPS of 128 bits clears the rest */
		u8 *c = code + 4 * r;

		c[0] = 0xc5;
		c[1] = (u8)(0x80 | (all ? 15 - r : 15) << 3);
		c[2] = all ? 0x57 : 0x28;
		c[3] = (u8)(0xc0 | r << 3 | r);
	}
	return NARROW_ZERO_BYTES;
}

/* REX, VEX or EVEX with the bits of the old memory operand cleared. */
static void put_extension(struct emit *e, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops,
			  const struct plan *p, const struct dinsn *d)
{
	const u8 *b = d->bytes;
	bool narrow = d->mode != CODE_64, ignored = narrow && narrow_ignores_w(z, ops);
	u8 vvvv_fix = p->rename_vvvv ? (u8)(((4 ^ p->rt) & 15) << 3) : 0; /* inverted fields flip alike */

	if (z->attributes & ZYDIS_ATTRIB_HAS_REX) {
		put(e, p->mem ? b[z->raw.rex.offset] & 0xfc : b[z->raw.rex.offset]);
	} else if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
		const u8 *x = b + z->raw.vex.offset;

		put(e, x[0]);
		if (z->raw.vex.size == 3) {
			u8 b1 = x[1], b2 = x[2];

			if (p->mem)
				b1 |= 0x60;
			if (narrow) {
				b1 |= 0xe0;
				b2 |= 0x40;
				if (ignored)
					b2 &= 0x7f;
			}
			put(e, b1);
			put(e, b2 ^ vvvv_fix);
		} else {
			put(e, (u8)((x[1] | (narrow ? 0xc0 : 0)) ^ vvvv_fix));
		}
	} else if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX) {
		const u8 *x = b + z->raw.evex.offset;
		u8 p0 = x[1], p1 = x[2], p2 = x[3];

		if (p->mem) {
			p0 |= 0x60;
		}
		if (narrow) {
			p0 |= 0xf0;
			p1 |= 0x40;
			p2 |= 0x08;
			if (ignored)
				p1 &= 0x7f;
		}
		put(e, x[0]);
		put(e, p0);
		put(e, p1 ^ vvvv_fix);
		put(e, p2);
	}
}

static void put_instruction(struct emit *e, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops,
			    const struct plan *p, const struct dinsn *d, bool integer)
{
	bool narrow = d->mode != CODE_64;
	unsigned opcode_at, tail_at, n;
	u8 modrm, zero[NARROW_ZERO_BYTES];

	n = narrow ? narrow_zero(z->mnemonic, zero) : 0;
	if (n) {
		put_bytes(e, zero, n);
		return;
	}
	put_prefixes(e, z, integer, d);
	put_extension(e, z, ops, p, d);
	if (!(z->attributes & ZYDIS_ATTRIB_HAS_MODRM)) {
		/* opcode and immediates as they are; Zydis counts REX as a prefix */
		opcode_at = z->raw.prefix_count;
		if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
			opcode_at = z->raw.vex.offset + z->raw.vex.size;
		put_bytes(e, d->bytes + opcode_at, d->len - opcode_at);
		return;
	}
	if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		opcode_at = z->raw.vex.offset + z->raw.vex.size;
	else if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX)
		opcode_at = z->raw.evex.offset + 4u;
	else
		opcode_at = z->raw.prefix_count;
	if (narrow && d->map == 0 && d->bytes[opcode_at] == 0x82)
		put(e, 0x80); /* an alias of it, in 64-bit mode undefined */
	else
		put_bytes(e, d->bytes + opcode_at, z->raw.modrm.offset - opcode_at);
	modrm = d->bytes[z->raw.modrm.offset];
	if (p->rename_reg)
		modrm = (u8)((modrm & 0xc7) | p->rt << 3);
	if (p->rename_rm)
		modrm = (u8)((modrm & 0xf8) | p->rt);
	if (p->mem)
		modrm = (u8)((modrm & 0x38) | p->rm);
	put(e, modrm);
	tail_at = z->raw.modrm.offset + 1u;
	if (z->attributes & ZYDIS_ATTRIB_HAS_SIB)
		tail_at++;
	tail_at += z->raw.disp.size / 8;
	if (narrow && narrow_has_is4(z, ops)) {
		put(e, d->bytes[tail_at] & 0x7f);
		return;
	}
	put_bytes(e, d->bytes + tail_at, d->len - tail_at);
}

static bool touches_flags(const ZydisDecodedInstruction *z, bool *out)
{
	const ZydisAccessedFlags *f = z->cpu_flags;
	u32 written = 0, read = 0;

	if (f) {
		written = f->modified | f->set_0 | f->set_1 | f->undefined;
		read = f->tested;
	}
	*out = written & (u32)FL_STATUS;
	return (written | read) & (u32)FL_STATUS;
}

/* Loads, instruction, stores. */
static bool generate(struct emit *e, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops,
		     const struct dinsn *d, bool integer, bool mem)
{
	static const u8 low[] = { REG_RSI, REG_RDI, REG_RBX, REG_RDX, REG_RCX, REG_RAX };
	static const u8 any[] = { REG_RDI, REG_RBX, REG_RBP, 8, 9, 10, 11, 13, 14, 15, REG_RDX, REG_RCX };
	struct use u = find_use(z, ops);
	u16 taken = (u16)((u.regs & ~(1u << REG_RSP)) | 1u << REG_RSP), regs;
	struct plan p = { .mem = mem, .rm = REG_NONE, .rt = REG_NONE };
	bool flags_out, flags = touches_flags(z, &flags_out);
	u32 flags_at = (u32)(offsetof(struct vcpu, engine_hot) + offsetof(struct interp_hot, flags));

	if (mem)
		p.rm = pick(&taken, low, ARRAY_SIZE(low));
	if (u.rsp)
		p.rt = pick(&taken, low, ARRAY_SIZE(low));
	taken |= 1u << REG_RAX | 1u << REG_RSI; /* Rv must outlive the flag and pointer moves */
	p.rv = pick(&taken, any, ARRAY_SIZE(any));
	if (p.rv == REG_NONE || (mem && p.rm == REG_NONE) || (u.rsp && p.rt == REG_NONE))
		return false;
	p.rename_reg = is_rsp(z, ops, ZYDIS_OPERAND_ENCODING_MODRM_REG);
	p.rename_rm = is_rsp(z, ops, ZYDIS_OPERAND_ENCODING_MODRM_RM);
	p.rename_vvvv = is_rsp(z, ops, ZYDIS_OPERAND_ENCODING_NDSNDD);

	if (p.rv != REG_RDI)
		put_mov_reg(e, p.rv, REG_RDI);
	if (flags) {
		put(e, (u8)(0x40 | p.rv >> 3)); /* movzx eax, word [Rv + flags] */
		put(e, 0x0f);
		put(e, 0xb7);
		put(e, (u8)(0x80 | (p.rv & 7)));
		put32(e, flags_at);
		put_bytes(e, (const u8[]){ 0x04, 0x7f, 0x9e }, 3); /* add al, 127 ; sahf */
	}
	if (mem && p.rm != REG_RSI)
		put_mov_reg(e, p.rm, REG_RSI);
	regs = u.regs;
	for (unsigned r = 0; r < 16; r++)
		if (regs >> r & 1)
			put_mov_mem(e, 0x8b, r == REG_RSP ? p.rt : r, p.rv, r * 8);
	put_instruction(e, z, ops, &p, d, integer);
	for (unsigned r = 0; r < 16; r++)
		if (u.written >> r & 1)
			put_mov_mem(e, 0x89, r == REG_RSP ? p.rt : r, p.rv, r * 8);
	if (flags_out) {
		put_bytes(e, (const u8[]){ 0x9f, 0x0f, 0x90, 0xc0 }, 4); /* lahf ; seto al */
		put(e, 0x66);
		put(e, (u8)(0x40 | p.rv >> 3)); /* mov [Rv + flags], ax */
		put(e, 0x89);
		put(e, (u8)(0x80 | (p.rv & 7)));
		put32(e, flags_at);
	}
	put(e, 0xc3);
	return e->n <= sizeof(e->b);
}

/* Alignment of a legacy-SSE or aligned-move operand (SDM vol. 1, 15.? and exception
 * types 1, 2 and 4): exempt are the instructions defined as unaligned. */
static u8 required_alignment(const ZydisDecodedInstruction *z, unsigned size)
{
	switch (z->meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_SSE1:
	case ZYDIS_EXCEPTION_CLASS_AVX1:
	case ZYDIS_EXCEPTION_CLASS_E1:
	case ZYDIS_EXCEPTION_CLASS_E1NF:
		return size >= 16 ? (u8)size : 0;
	case ZYDIS_EXCEPTION_CLASS_SSE2:
	case ZYDIS_EXCEPTION_CLASS_SSE4:
		break;
	default:
		/* of no exception class in Zydis */
		if (z->mnemonic == ZYDIS_MNEMONIC_CVTPD2PI || z->mnemonic == ZYDIS_MNEMONIC_CVTTPD2PI ||
		    z->mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B)
			return 16;
		return 0;
	}
	switch (z->mnemonic) {
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_PCMPESTRI:
	case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI:
	case ZYDIS_MNEMONIC_PCMPISTRM:
		return 0;
	default:
		return size >= 16 ? 16 : 0;
	}
}

/* The memory operand that ModRM names, or NULL. */
static const ZydisDecodedOperand *memory_operand(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
	for (unsigned k = 0; k < z->operand_count; k++)
		if (ops[k].type == ZYDIS_OPERAND_TYPE_MEMORY && ops[k].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
			return &ops[k];
	return NULL;
}

/* The exception types whose memory operand is read under the mask; for the NF
 * ones an element of the operand is not one of the result (SDM vol. 2, 2.8). */
static bool suppresses_faults(const ZydisDecodedInstruction *z)
{
	switch (z->mnemonic) { /* NF in SDM vol. 2, not in Zydis 4.0 */
	case ZYDIS_MNEMONIC_VCVTNE2PS2BF16:
	case ZYDIS_MNEMONIC_VDBPSADBW:
	case ZYDIS_MNEMONIC_VGF2P8AFFINEQB:
	case ZYDIS_MNEMONIC_VGF2P8AFFINEINVQB:
		return false;
	default:
		break;
	}
	switch (z->meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_E1NF:
	case ZYDIS_EXCEPTION_CLASS_E2NF:
	case ZYDIS_EXCEPTION_CLASS_E3NF:
	case ZYDIS_EXCEPTION_CLASS_E4NF:
	case ZYDIS_EXCEPTION_CLASS_E5NF:
	case ZYDIS_EXCEPTION_CLASS_E6NF:
	case ZYDIS_EXCEPTION_CLASS_E9NF:
	case ZYDIS_EXCEPTION_CLASS_E10NF:
	case ZYDIS_EXCEPTION_CLASS_E11NF:
		return false;
	default:
		return true;
	}
}

/* Elements of the result a broadcast operand is repeated to; 0: no broadcast. */
static u8 broadcast_elements(ZydisBroadcastMode mode)
{
	switch (mode) {
	case ZYDIS_BROADCAST_MODE_1_TO_2:
		return 2;
	case ZYDIS_BROADCAST_MODE_1_TO_4:
	case ZYDIS_BROADCAST_MODE_2_TO_4:
		return 4;
	case ZYDIS_BROADCAST_MODE_1_TO_8:
	case ZYDIS_BROADCAST_MODE_2_TO_8:
	case ZYDIS_BROADCAST_MODE_4_TO_8:
		return 8;
	case ZYDIS_BROADCAST_MODE_1_TO_16:
	case ZYDIS_BROADCAST_MODE_2_TO_16:
	case ZYDIS_BROADCAST_MODE_4_TO_16:
	case ZYDIS_BROADCAST_MODE_8_TO_16:
		return 16;
	case ZYDIS_BROADCAST_MODE_1_TO_32:
		return 32;
	case ZYDIS_BROADCAST_MODE_1_TO_64:
		return 64;
	default:
		return 0;
	}
}

static void describe_memory(struct thunk *t, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *m)
{
	ZydisInstructionCategory cat = z->meta.category;

	t->mem = (u8)((m->actions & ZYDIS_OPERAND_ACTION_MASK_READ ? THUNK_READ : 0) |
		      (m->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE ? THUNK_WRITE : 0));
	t->mem_size = (u8)(m->size / 8);
	t->align = required_alignment(z, t->mem_size);
	t->converts = z->mnemonic == ZYDIS_MNEMONIC_VCVTPS2PH && (t->mem & THUNK_WRITE);
	if (z->encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX || z->avx.mask.reg == ZYDIS_REGISTER_K0 ||
	    z->avx.mask.reg == ZYDIS_REGISTER_NONE || (!(t->mem & THUNK_WRITE) && !suppresses_faults(z)))
		return;
	t->mask_reg = (u8)ZydisRegisterGetId(z->avx.mask.reg);
	t->element = (u8)(m->element_size / 8);
	t->packed = cat == ZYDIS_CATEGORY_COMPRESS || cat == ZYDIS_CATEGORY_EXPAND;
	t->elements = broadcast_elements(z->avx.broadcast.mode);
	if (!t->elements)
		t->elements = t->mem_size / t->element;
	t->whole = !suppresses_faults(z);
	/* A merging store reads nothing: what it leaves alone it does not touch. */
	if (t->mem & THUNK_WRITE)
		t->mem = THUNK_WRITE;
}

static u32 hash_bytes(const u8 *p, unsigned n)
{
	u32 h = 2166136261u;

	while (n--)
		h = (h ^ *p++) * 16777619u;
	return h;
}

enum fpu_need thunk_need(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
	bool vector = false, mmx = false;

	if (z->mnemonic == ZYDIS_MNEMONIC_FWAIT)
		return FPU_WAIT;
	for (unsigned k = 0; k < z->operand_count; k++) {
		ZydisRegisterClass c = ops[k].type == ZYDIS_OPERAND_TYPE_REGISTER
					   ? ZydisRegisterGetClass(ops[k].reg.value)
					   : ZYDIS_REGCLASS_INVALID;

		vector |= c == ZYDIS_REGCLASS_XMM || c == ZYDIS_REGCLASS_YMM || c == ZYDIS_REGCLASS_ZMM ||
			  c == ZYDIS_REGCLASS_MASK;
		mmx |= c == ZYDIS_REGCLASS_MMX;
	}
	if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX)
		return FPU_AVX512;
	if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
		if (z->meta.isa_ext == ZYDIS_ISA_EXT_AVX512VEX || z->meta.isa_ext == ZYDIS_ISA_EXT_AVX512EVEX)
			return FPU_AVX512;
		/* VZEROUPPER and VLDMXCSR name no vector register; BMI names none either */
		if (vector || z->meta.isa_ext == ZYDIS_ISA_EXT_AVX || z->meta.isa_ext == ZYDIS_ISA_EXT_AVX2)
			return FPU_AVX;
		return FPU_NONE;
	}
	if (z->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && z->opcode >= 0xd8 && z->opcode <= 0xdf)
		return FPU_X87;
	/* CVTSS2SI with memory names no vector register; CBW and its kin are "conversions" too */
	if (vector || (z->meta.category == ZYDIS_CATEGORY_CONVERT && z->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT) ||
	    z->mnemonic == ZYDIS_MNEMONIC_LDMXCSR || z->mnemonic == ZYDIS_MNEMONIC_STMXCSR)
		return FPU_SSE;
	if (mmx || z->mnemonic == ZYDIS_MNEMONIC_EMMS)
		return FPU_MMX;
	return FPU_NONE;
}

static enum x87_pointers x87_pointers(const ZydisDecodedInstruction *z, unsigned need)
{
	switch (z->mnemonic) {
	case ZYDIS_MNEMONIC_FNINIT:
		return X87_CLEAR;
	case ZYDIS_MNEMONIC_FNCLEX:
	case ZYDIS_MNEMONIC_FLDCW:
	case ZYDIS_MNEMONIC_FNSTCW:
	case ZYDIS_MNEMONIC_FNSTSW:
	case ZYDIS_MNEMONIC_FENI8087_NOP:
	case ZYDIS_MNEMONIC_FDISI8087_NOP:
	case ZYDIS_MNEMONIC_FSETPM287_NOP:
		return X87_KEEP;
	default:
		return need == FPU_X87 ? X87_SET : X87_KEEP;
	}
}

/* A pending x87 exception is reported before the operand is looked at. */
static bool waits(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops, unsigned need)
{
	for (unsigned k = 0; k < z->operand_count; k++)
		if (ops[k].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(ops[k].reg.value) == ZYDIS_REGCLASS_MMX)
			return true;
	return need == FPU_X87 && z->mnemonic != ZYDIS_MNEMONIC_FNSTCW && z->mnemonic != ZYDIS_MNEMONIC_FNSTSW;
}

struct thunk *thunk_make(struct thunk_cache *c, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops,
			 const struct dinsn *d, unsigned need)
{
	const ZydisDecodedOperand *m = memory_operand(z, ops);
	struct thunk want = { .x87 = (u8)x87_pointers(z, need), .waits = waits(z, ops, need) }, *t;
	struct emit e = { .n = 0 };
	u32 slot;

	if (!thunk_room(c))
		return NULL;
	if (m)
		describe_memory(&want, z, m);
	want.locked = m && (z->attributes & ZYDIS_ATTRIB_HAS_LOCK || z->mnemonic == ZYDIS_MNEMONIC_XCHG);
	if (want.mem_size > 64 || !generate(&e, z, ops, d, need == FPU_NONE, m != NULL))
		return NULL;
	want.hash = hash_bytes(e.b, e.n);
	want.code_len = e.n;
	slot = want.hash % THUNK_HASH;
	for (t = c->hash[slot]; t; t = t->next)
		if (t->hash == want.hash && t->code_len == e.n && t->mem == want.mem && t->mem_size == want.mem_size &&
		    t->mask_reg == want.mask_reg && !memcmp(t->code, e.b, e.n))
			return t;
	memcpy(c->rw + c->used, e.b, e.n);
	t = &c->pool[c->count++];
	*t = want;
	t->code = c->rx + c->used;
	t->next = c->hash[slot];
	c->hash[slot] = t;
	c->used += (e.n + 15) & ~15u;
	return t;
}

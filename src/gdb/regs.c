/*
 * The register file as gdb sees it: gdb's own amd64 features in the order
 * their descriptions list them, whatever mode the processor is in (so that one
 * session follows a guest from real to 64-bit mode), and a feature of ours
 * with the system registers, shown by `info registers system`.
 *
 * One table of ranges gives numbering, sizes, description and access. Vector
 * registers live in cpu.fpu, an XSAVE image: a component whose bit in
 * XSTATE_BV is clear is in its initial state whatever its bytes say
 * (SDM vol. 1, 13.6).
 */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "gdb/stub.h"

/* Legacy area of the XSAVE image (SDM vol. 1, table 10-2) and header. */
#define FX_FCW 0
#define FX_FSW 2
#define FX_FTW 4
#define FX_FOP 6
#define FX_FIP 8
#define FX_FDP 16
#define FX_MXCSR 24
#define FX_ST 32
#define FX_XMM 160
#define FX_END 512
#define XSTATE_BV 512
#define MXCSR_VALID 0xffffu

enum component {
	COMP_X87 = 0,
	COMP_SSE = 1,
	COMP_AVX = 2,
	COMP_OPMASK = 5,
	COMP_ZMM_HI256 = 6,
	COMP_HI16_ZMM = 7,
	COMP_PKRU = 9
};

enum kind {
	K_CPU, /* a field of struct cpu, plain */
	K_GPR, /* index: gdb's order */
	K_FLAGS,
	K_SEL, /* index: gdb's order */
	K_ST,
	K_X87, /* index: fctrl fstat ftag fiseg fioff foseg fooff fop */
	K_MXCSR,
	K_VECTOR,   /* a slice of an XSAVE component */
	K_CR,	    /* value: number */
	K_MSR,	    /* value: number; a field of struct cpu, written through WRMSR */
	K_READONLY, /* a field of struct cpu */
};

enum feature { F_CORE, F_SSE, F_AVX, F_AVX512, F_SEGMENTS, F_PKEYS, F_SYSTEM, F_COUNT };

struct range {
	const char *name; /* with %u if there are several */
	u8 feature, kind;
	u8 count, first; /* first: number of the first one's name */
	u16 bits;
	const char *type;
	u16 offset;   /* of the field in struct cpu; K_VECTOR: within the component */
	u8 component; /* needed to exist, 0 for none */
	u8 stride;    /* K_VECTOR: bytes from one register to the next */
	u32 value;
};

#define FIELD(f) offsetof(struct cpu, f)
#define CPU(n, k, b, ty, f, v)                                                                                         \
	{                                                                                                              \
		n, F_SYSTEM, k, 1, 0, b, ty, FIELD(f), 0, 0, v                                                         \
	}

/* clang-format off */
static const struct range ranges[] = {
	{ "", F_CORE, K_GPR, 16, 0, 64, "int64", 0, 0, 0, 0 }, /* names and types below */
	{ "rip", F_CORE, K_CPU, 1, 0, 64, "code_ptr", FIELD(rip), 0, 0, 0 },
	{ "eflags", F_CORE, K_FLAGS, 1, 0, 32, "i386_eflags", 0, 0, 0, 0 },
	{ "", F_CORE, K_SEL, 6, 0, 32, "int32", 0, 0, 0, 0 },
	{ "st%u", F_CORE, K_ST, 8, 0, 80, "i387_ext", 0, 0, 0, 0 },
	{ "", F_CORE, K_X87, 8, 0, 32, "int", 0, 0, 0, 0 },
	{ "xmm%u", F_SSE, K_VECTOR, 16, 0, 128, "vec128", FX_XMM, COMP_SSE, 16, 0 },
	{ "mxcsr", F_SSE, K_MXCSR, 1, 0, 32, "i386_mxcsr", 0, 0, 0, 0 },
	{ "ymm%uh", F_AVX, K_VECTOR, 16, 0, 128, "uint128", 0, COMP_AVX, 16, 0 },
	{ "k%u", F_AVX512, K_VECTOR, 8, 0, 64, "uint64", 0, COMP_OPMASK, 8, 0 },
	{ "zmm%uh", F_AVX512, K_VECTOR, 16, 0, 256, "v2ui128", 0, COMP_ZMM_HI256, 32, 0 },
	{ "xmm%u", F_AVX512, K_VECTOR, 16, 16, 128, "vec128", 0, COMP_HI16_ZMM, 64, 0 },
	{ "ymm%uh", F_AVX512, K_VECTOR, 16, 16, 128, "uint128", 16, COMP_HI16_ZMM, 64, 0 },
	{ "zmm%uh", F_AVX512, K_VECTOR, 16, 16, 256, "v2ui128", 32, COMP_HI16_ZMM, 64, 0 },
	{ "fs_base", F_SEGMENTS, K_CPU, 1, 0, 64, "int", FIELD(seg[SEG_FS].base), 0, 0, 0 },
	{ "gs_base", F_SEGMENTS, K_CPU, 1, 0, 64, "int", FIELD(seg[SEG_GS].base), 0, 0, 0 },
	{ "pkru", F_PKEYS, K_CPU, 1, 0, 32, "uint32", FIELD(pkru), COMP_PKRU, 0, 0 },
	CPU("cr0", K_CR, 64, "ectype_cr0", cr0, 0),
	CPU("cr2", K_CPU, 64, "uint64", cr2, 0),
	CPU("cr3", K_CR, 64, "uint64", cr3, 3),
	CPU("cr4", K_CR, 64, "ectype_cr4", cr4, 4),
	{ "cr8", F_SYSTEM, K_CR, 1, 0, 64, "uint64", 0, 0, 0, 8 },
	CPU("efer", K_MSR, 64, "ectype_efer", efer, 0xc0000080),
	CPU("xcr0", K_READONLY, 64, "uint64", xcr0, 0),
	CPU("gdtr_base", K_CPU, 64, "data_ptr", gdtr.base, 0),
	CPU("gdtr_limit", K_CPU, 16, "uint16", gdtr.limit, 0),
	CPU("idtr_base", K_CPU, 64, "data_ptr", idtr.base, 0),
	CPU("idtr_limit", K_CPU, 16, "uint16", idtr.limit, 0),
	CPU("ldtr", K_READONLY, 16, "uint16", ldtr.sel, 0),
	CPU("ldtr_base", K_READONLY, 64, "data_ptr", ldtr.base, 0),
	CPU("ldtr_limit", K_READONLY, 32, "uint32", ldtr.limit, 0),
	CPU("tr", K_READONLY, 16, "uint16", tr.sel, 0),
	CPU("tr_base", K_READONLY, 64, "data_ptr", tr.base, 0),
	CPU("tr_limit", K_READONLY, 32, "uint32", tr.limit, 0),
	CPU("cs_base", K_READONLY, 64, "data_ptr", seg[SEG_CS].base, 0),
	CPU("ss_base", K_READONLY, 64, "data_ptr", seg[SEG_SS].base, 0),
	CPU("ds_base", K_READONLY, 64, "data_ptr", seg[SEG_DS].base, 0),
	CPU("es_base", K_READONLY, 64, "data_ptr", seg[SEG_ES].base, 0),
	CPU("dr0", K_READONLY, 64, "uint64", dr[0], 0),
	CPU("dr1", K_READONLY, 64, "uint64", dr[1], 0),
	CPU("dr2", K_READONLY, 64, "uint64", dr[2], 0),
	CPU("dr3", K_READONLY, 64, "uint64", dr[3], 0),
	CPU("dr6", K_READONLY, 64, "uint64", dr[6], 0),
	CPU("dr7", K_READONLY, 64, "uint64", dr[7], 0),
	CPU("star", K_MSR, 64, "uint64", star, 0xc0000081),
	CPU("lstar", K_MSR, 64, "code_ptr", lstar, 0xc0000082),
	CPU("cstar", K_MSR, 64, "code_ptr", cstar, 0xc0000083),
	CPU("sfmask", K_MSR, 64, "uint64", sfmask, 0xc0000084),
	CPU("kernel_gs_base", K_MSR, 64, "data_ptr", kernel_gs_base, 0xc0000102),
	CPU("tsc_aux", K_MSR, 64, "uint64", tsc_aux, 0xc0000103),
	CPU("sysenter_cs", K_MSR, 64, "uint64", sysenter_cs, 0x174),
	CPU("sysenter_esp", K_MSR, 64, "data_ptr", sysenter_esp, 0x175),
	CPU("sysenter_eip", K_MSR, 64, "code_ptr", sysenter_eip, 0x176),
	CPU("pat", K_MSR, 64, "uint64", pat, 0x277),
};
/* clang-format on */

static const struct {
	const char *name, *type;
	u8 reg;
} gprs[16] = {
	{ "rax", "int64", 0 },	{ "rbx", "int64", 3 },	{ "rcx", "int64", 1 },	  { "rdx", "int64", 2 },
	{ "rsi", "int64", 6 },	{ "rdi", "int64", 7 },	{ "rbp", "data_ptr", 5 }, { "rsp", "data_ptr", 4 },
	{ "r8", "int64", 8 },	{ "r9", "int64", 9 },	{ "r10", "int64", 10 },	  { "r11", "int64", 11 },
	{ "r12", "int64", 12 }, { "r13", "int64", 13 }, { "r14", "int64", 14 },	  { "r15", "int64", 15 },
};
static const struct {
	const char *name;
	u8 seg;
} sels[6] = {
	{ "cs", SEG_CS }, { "ss", SEG_SS }, { "ds", SEG_DS }, { "es", SEG_ES }, { "fs", SEG_FS }, { "gs", SEG_GS }
};
static const char *const x87_names[8] = { "fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop" };
enum { X87_FCTRL, X87_FSTAT, X87_FTAG, X87_FISEG, X87_FIOFF, X87_FOSEG, X87_FOOFF, X87_FOP };

static bool exists(const struct gdb_target *t, const struct range *r)
{
	static const u8 avx512[] = { COMP_OPMASK, COMP_ZMM_HI256, COMP_HI16_ZMM };

	if (r->feature == F_PKEYS)
		return t->ops->fpu_offset(t->opaque, COMP_PKRU);
	if (r->feature == F_AVX)
		return t->ops->fpu_offset(t->opaque, COMP_AVX);
	if (r->feature == F_AVX512) {
		for (size_t i = 0; i < sizeof(avx512); i++)
			if (!t->ops->fpu_offset(t->opaque, avx512[i]))
				return false;
		return t->ops->fpu_offset(t->opaque, COMP_AVX);
	}
	return true;
}

/* The range of register `n`, and its index in it. */
static const struct range *find(const struct gdb_target *t, unsigned n, unsigned *index)
{
	for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
		if (!exists(t, &ranges[i]))
			continue;
		if (n < ranges[i].count) {
			*index = n;
			return &ranges[i];
		}
		n -= ranges[i].count;
	}
	return NULL;
}

unsigned gdb_reg_count(const struct gdb_target *t)
{
	unsigned n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(ranges); i++)
		n += exists(t, &ranges[i]) ? ranges[i].count : 0;
	return n;
}

unsigned gdb_reg_size(const struct gdb_target *t, unsigned n)
{
	unsigned i;
	const struct range *r = find(t, n, &i);

	return r ? r->bits / 8 : 0;
}

static u64 load(const void *p, unsigned n)
{
	u64 v = 0;

	memcpy(&v, p, n);
	return v;
}

static bool in_use(const struct cpu *c, unsigned component)
{
	return load(c->fpu + XSTATE_BV, 8) & BIT(component);
}

/* A write to a component in its initial state makes the rest of it explicit. */
static void use_component(const struct gdb_target *t, struct cpu *c, unsigned component)
{
	static const u16 size[] = {
		[COMP_AVX] = 256, [COMP_OPMASK] = 64, [COMP_ZMM_HI256] = 512, [COMP_HI16_ZMM] = 1024
	};
	u64 bv = load(c->fpu + XSTATE_BV, 8);

	if (bv & BIT(component))
		return;
	if (component == COMP_X87) {
		memset(c->fpu, 0, FX_MXCSR);
		c->fpu[FX_FCW] = 0x7f;
		c->fpu[FX_FCW + 1] = 3;
		memset(c->fpu + FX_ST, 0, 128);
	} else if (component == COMP_SSE) {
		memset(c->fpu + FX_XMM, 0, 256);
	} else {
		memset(c->fpu + t->ops->fpu_offset(t->opaque, component), 0, size[component]);
	}
	bv |= BIT(component);
	memcpy(c->fpu + XSTATE_BV, &bv, 8);
}

static u8 *vector(const struct gdb_target *t, struct cpu *c, const struct range *r, unsigned i)
{
	unsigned base = r->component == COMP_SSE ? 0 : t->ops->fpu_offset(t->opaque, r->component);
	size_t at = base + r->offset + (size_t)r->stride * i;

	return at + r->bits / 8 <= sizeof(c->fpu) ? c->fpu + at : NULL;
}

/* Tag of a full tag word from the value in a register (SDM vol. 1, 8.1.7). */
static unsigned full_tag(const u8 *st)
{
	u64 mant = load(st, 8);
	unsigned exp = (unsigned)load(st + 8, 2) & 0x7fff;

	if (exp == 0x7fff)
		return 2;
	if (exp == 0)
		return mant ? 2 : 1;
	return mant >> 63 ? 0 : 2;
}

static u32 ftag_get(const struct cpu *c)
{
	unsigned top = c->fpu[FX_FSW + 1] >> 3 & 7;
	u32 tags = 0;

	for (unsigned phys = 0; phys < 8; phys++) {
		unsigned tag = 3;

		if (c->fpu[FX_FTW] & (1u << phys))
			tag = full_tag(c->fpu + FX_ST + 16 * ((phys - top) & 7));
		tags |= tag << (2 * phys);
	}
	return tags;
}

static u32 x87_get(const struct cpu *c, unsigned i)
{
	if (!in_use(c, COMP_X87))
		return i == X87_FCTRL ? 0x37f : i == X87_FTAG ? 0xffff : 0;
	switch (i) {
	case X87_FCTRL:
		return (u32)load(c->fpu + FX_FCW, 2);
	case X87_FSTAT:
		return (u32)load(c->fpu + FX_FSW, 2);
	case X87_FTAG:
		return ftag_get(c);
	case X87_FISEG:
		return (u32)load(c->fpu + FX_FIP + 4, 4);
	case X87_FIOFF:
		return (u32)load(c->fpu + FX_FIP, 4);
	case X87_FOSEG:
		return (u32)load(c->fpu + FX_FDP + 4, 4);
	case X87_FOOFF:
		return (u32)load(c->fpu + FX_FDP, 4);
	default:
		return (u32)load(c->fpu + FX_FOP, 2);
	}
}

static void x87_set(struct cpu *c, unsigned i, u32 val)
{
	static const struct {
		u8 at, len;
	} where[8] = { { FX_FCW, 2 }, { FX_FSW, 2 },	 { FX_FTW, 1 }, { FX_FIP + 4, 4 },
		       { FX_FIP, 4 }, { FX_FDP + 4, 4 }, { FX_FDP, 4 }, { FX_FOP, 2 } };

	if (i == X87_FTAG) {
		u32 full = val;

		val = 0;
		for (unsigned phys = 0; phys < 8; phys++)
			val |= ((full >> (2 * phys)) & 3) != 3 ? 1u << phys : 0;
	}
	if (i == X87_FCTRL)
		val |= 0x40; /* reserved bit, always 1 */
	if (i == X87_FOP)
		val &= 0x7ff;
	memcpy(c->fpu + where[i].at, &val, where[i].len);
}

unsigned gdb_reg_get(const struct gdb_target *t, struct vcpu *v, unsigned n, u8 buf[GDB_REG_MAX_BYTES])
{
	unsigned i;
	const struct range *r = find(t, n, &i);
	struct cpu *c = &v->cpu;
	unsigned size = r ? r->bits / 8 : 0;
	u64 val = 0;
	u8 *p;

	memset(buf, 0, GDB_REG_MAX_BYTES);
	if (!r)
		return 0;
	switch (r->kind) {
	case K_GPR:
		val = c->gpr[gprs[i].reg];
		break;
	case K_FLAGS:
		val = c->rflags;
		break;
	case K_SEL:
		val = c->seg[sels[i].seg].sel;
		break;
	case K_X87:
		val = x87_get(c, i);
		break;
	case K_MXCSR:
		val = load(c->fpu + FX_MXCSR, 4);
		break;
	case K_ST:
		if (in_use(c, COMP_X87))
			memcpy(buf, c->fpu + FX_ST + 16 * i, 10);
		return size;
	case K_VECTOR:
		p = vector(t, c, r, i);
		if (p && in_use(c, r->component))
			memcpy(buf, p, size);
		return size;
	case K_CR:
		val = r->value == 8 ? t->ops->cr8(t->opaque, v) : load((u8 *)c + r->offset, 8);
		break;
	default:
		val = load((u8 *)c + r->offset, size);
		break;
	}
	memcpy(buf, &val, MIN(size, 8u));
	return size;
}

static int set_flags(struct cpu *c, u64 val)
{
	/* VM changes the meaning of every segment register: it stays. */
	const u64 keep = FL_VM | FL_FIXED1;
	const u64 may = FL_STATUS | FL_TF | FL_IF | FL_DF | FL_IOPL | FL_NT | FL_RF | FL_AC | FL_VIF | FL_VIP | FL_ID;

	c->rflags = (c->rflags & keep) | (val & may) | FL_FIXED1;
	return 0;
}

int gdb_reg_set(const struct gdb_target *t, struct vcpu *v, unsigned n, const u8 *buf)
{
	unsigned i;
	const struct range *r = find(t, n, &i);
	struct cpu *c = &v->cpu;
	unsigned size = r ? r->bits / 8 : 0;
	u64 val;
	u8 *p;

	if (!r)
		return -1;
	val = load(buf, MIN(size, 8u));
	switch (r->kind) {
	case K_GPR:
		c->gpr[gprs[i].reg] = val;
		return 0;
	case K_FLAGS:
		return set_flags(c, val);
	case K_SEL:
		if (c->seg[sels[i].seg].sel == (u16)val)
			return 0;
		return t->ops->load_segment(t->opaque, v, sels[i].seg, (u16)val);
	case K_X87:
		if (x87_get(c, i) == (u32)val)
			return 0;
		use_component(t, c, COMP_X87);
		x87_set(c, i, (u32)val);
		return 0;
	case K_MXCSR:
		if (val & ~(u64)MXCSR_VALID)
			return -1;
		memcpy(c->fpu + FX_MXCSR, &val, 4);
		return 0;
	case K_ST:
		use_component(t, c, COMP_X87);
		memcpy(c->fpu + FX_ST + 16 * i, buf, 10);
		return 0;
	case K_VECTOR:
		p = vector(t, c, r, i);
		if (!p)
			return -1;
		use_component(t, c, r->component);
		memcpy(p, buf, size);
		return 0;
	case K_CR:
		return t->ops->write_cr(t->opaque, v, r->value, val);
	case K_MSR:
		return t->ops->write_msr(t->opaque, v, r->value, val);
	case K_READONLY:
		return -1;
	default:
		memcpy((u8 *)c + r->offset, &val, size);
		return 0;
	}
}

/* The description. Type names with a prefix of ours are flags. */
static const char xml_head[] = "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\">"
			       "<target><architecture>i386:x86-64</architecture>";

#define FLAG(n, b) "<field name=\"" n "\" start=\"" #b "\" end=\"" #b "\"/>"
static const char xml_eflags[] = "<flags id=\"i386_eflags\" size=\"4\">" FLAG("CF", 0) FLAG("", 1) FLAG("PF", 2)
    FLAG("AF", 4) FLAG("ZF", 6) FLAG("SF", 7) FLAG("TF", 8) FLAG("IF", 9) FLAG("DF", 10)
	FLAG("OF", 11) "<field name=\"IOPL\" start=\"12\" end=\"13\"/>" FLAG("NT", 14) FLAG("RF", 16) FLAG("VM", 17)
	    FLAG("AC", 18) FLAG("VIF", 19) FLAG("VIP", 20) FLAG("ID", 21) "</flags>";
static const char xml_vec128[] =
    "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/><vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>"
    "<vector id=\"v16i8\" type=\"int8\" count=\"16\"/><vector id=\"v8i16\" type=\"int16\" count=\"8\"/>"
    "<vector id=\"v4i32\" type=\"int32\" count=\"4\"/><vector id=\"v2i64\" type=\"int64\" count=\"2\"/>"
    "<union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/><field name=\"v2_double\" type=\"v2d\"/>"
    "<field name=\"v16_int8\" type=\"v16i8\"/><field name=\"v8_int16\" type=\"v8i16\"/>"
    "<field name=\"v4_int32\" type=\"v4i32\"/><field name=\"v2_int64\" type=\"v2i64\"/>"
    "<field name=\"uint128\" type=\"uint128\"/></union>";
static const char xml_mxcsr[] = "<flags id=\"i386_mxcsr\" size=\"4\">" FLAG("IE", 0) FLAG("DE", 1) FLAG("ZE", 2)
    FLAG("OE", 3) FLAG("UE", 4) FLAG("PE", 5) FLAG("DAZ", 6) FLAG("IM", 7) FLAG("DM", 8) FLAG("ZM", 9) FLAG("OM", 10)
	FLAG("UM", 11) FLAG("PM", 12) FLAG("FZ", 15) "</flags>";
static const char xml_v2ui128[] = "<vector id=\"v2ui128\" type=\"uint128\" count=\"2\"/>";
static const char xml_system[] = "<flags id=\"ectype_cr0\" size=\"8\">" FLAG("PE", 0) FLAG("MP", 1) FLAG("EM", 2)
    FLAG("TS", 3) FLAG("ET", 4) FLAG("NE", 5) FLAG("WP", 16) FLAG("AM", 18) FLAG("NW", 29) FLAG("CD", 30)
	FLAG("PG", 31) "</flags>"
		       "<flags id=\"ectype_cr4\" size=\"8\">" FLAG("VME", 0) FLAG("PVI", 1) FLAG("TSD", 2) FLAG("DE", 3)
			   FLAG("PSE", 4) FLAG("PAE", 5) FLAG("MCE", 6) FLAG("PGE", 7) FLAG("PCE", 8) FLAG("OSFXSR", 9)
			       FLAG("OSXMMEXCPT", 10) FLAG("UMIP", 11) FLAG("LA57", 12) FLAG("VMXE", 13)
				   FLAG("FSGSBASE", 16) FLAG("PCIDE", 17) FLAG("OSXSAVE", 18) FLAG("SMEP", 20)
				       FLAG("SMAP", 21)
					   FLAG("PKE", 22) "</flags>"
							   "<flags id=\"ectype_efer\" size=\"8\">" FLAG("SCE", 0)
							       FLAG("LME", 8) FLAG("LMA", 10)
								   FLAG("NXE", 11) "</flags>";

static const struct {
	const char *name, *types[2];
} features[F_COUNT] = {
	[F_CORE] = { "org.gnu.gdb.i386.core", { xml_eflags } },
	[F_SSE] = { "org.gnu.gdb.i386.sse", { xml_vec128, xml_mxcsr } },
	[F_AVX] = { "org.gnu.gdb.i386.avx", { NULL } },
	[F_AVX512] = { "org.gnu.gdb.i386.avx512", { xml_vec128, xml_v2ui128 } },
	[F_SEGMENTS] = { "org.gnu.gdb.i386.segments", { NULL } },
	[F_PKEYS] = { "org.gnu.gdb.i386.pkeys", { NULL } },
	[F_SYSTEM] = { "org.ectype.i386.system", { xml_system } },
};

static void xml_reg(struct gdb_out *o, const struct range *r, unsigned i)
{
	const char *type = r->type, *group = "";
	char name[24];

	if (r->kind == K_GPR) {
		snprintf(name, sizeof(name), "%s", gprs[i].name);
		type = gprs[i].type;
	} else if (r->kind == K_SEL) {
		snprintf(name, sizeof(name), "%s", sels[i].name);
	} else if (r->kind == K_X87) {
		snprintf(name, sizeof(name), "%s", x87_names[i]);
		group = " group=\"float\"";
	} else if (r->count > 1) {
		const char *pc = strchr(r->name, '%');

		snprintf(name, sizeof(name), "%.*s%u%s", (int)(pc - r->name), r->name, r->first + i, pc + 2);
	} else {
		snprintf(name, sizeof(name), "%s", r->name);
	}
	if (r->feature == F_SYSTEM)
		group = " group=\"system\"";
	gdb_out_printf(o, "<reg name=\"%s\" bitsize=\"%u\" type=\"%s\"%s/>", name, r->bits, type, group);
}

void gdb_target_xml(const struct gdb_target *t, struct gdb_out *o)
{
	unsigned open = F_COUNT;

	gdb_out_add(o, xml_head, sizeof(xml_head) - 1);
	for (size_t n = 0; n < ARRAY_SIZE(ranges); n++) {
		const struct range *r = &ranges[n];

		if (!exists(t, r))
			continue;
		if (r->feature != open) {
			if (open != F_COUNT)
				gdb_out_printf(o, "</feature>");
			gdb_out_printf(o, "<feature name=\"%s\">", features[r->feature].name);
			open = r->feature;
			for (unsigned i = 0; i < 2 && features[open].types[i]; i++)
				gdb_out_add(o, features[open].types[i], strlen(features[open].types[i]));
		}
		for (unsigned i = 0; i < r->count; i++)
			xml_reg(o, r, i);
	}
	gdb_out_printf(o, "</feature></target>");
}

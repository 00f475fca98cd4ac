/*
 * The report on a difference: the instruction, the engines' translations of
 * it, registers before and after, sections of the state stream, and pages.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "boot/boot.h"
#include "cpu/linear.h"
#include "cpu/xstate.h"
#include "isa/isa.h"
#include "mem/mmu.h"
#include "replay/lockstep_internal.h"

#define PAGES_SHOWN 16
#define LISTING_LINES 400
#define CODE_MAX 15

struct listing {
	char (*line)[160];
	unsigned n;
};

struct scene {
	unsigned n;	/* the processor that is to run */
	struct cpu cpu; /* before, of both */
	gva_t lin;
	gpa_t gpa;
	bool mapped;
	u8 code[CODE_MAX];
	unsigned code_len;
	u8 mode;
	u64 icount;
	struct listing listing[2];
};

/* ---- lines ---- */

struct printer {
	const struct lockstep_config *c;
};

static void say(const struct printer *p, const char *fmt, ...) printf_like(2, 3);
static void say(const struct printer *p, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (p->c->line)
		p->c->line(p->c->opaque, text);
}

static void hex(char *out, size_t size, const u8 *p, unsigned n)
{
	size_t used = 0;

	*out = 0;
	for (unsigned i = 0; i < n && used + 4 < size; i++)
		used += (size_t)snprintf(out + used, size - used, i ? " %02x" : "%02x", p[i]);
}

/* ---- the instruction ---- */

static void list_line(void *opaque, const char *text)
{
	struct listing *l = opaque;

	if (l->n < LISTING_LINES)
		snprintf(l->line[l->n++], sizeof(l->line[0]), "%s", text);
}

/* The engine may have the translation before the instruction runs, or only behind it. */
static void describe(struct scene *s, struct pair *p)
{
	for (unsigned i = 0; i < 2; i++) {
		struct vcpu *v = machine_vcpu(p->s[i].m, s->n);

		if (!s->listing[i].n && v->engine->describe)
			v->engine->describe(v, s->lin, list_line, &s->listing[i]);
	}
}

/* The bytes at s->lin as far as they can be read without side effects. */
static void read_code(struct scene *s, struct vcpu *v)
{
	struct page_target t;
	gpa_t gpa;

	for (; s->code_len < CODE_MAX; s->code_len++) {
		gva_t at = s->lin + s->code_len;

		if (s->mode != CODE_64)
			at = (u32)at;
		if (!mmu_debug_translate(v, at, &gpa))
			return;
		if (!s->code_len) {
			s->mapped = true;
			s->gpa = gpa;
		}
		if (!memory_page(v->mem, gpa, &t) || !t.host)
			return;
		s->code[s->code_len] = t.host[gpa & ~PAGE_MASK];
	}
}

struct scene *scene_create(struct pair *p)
{
	struct vcpu *v = machine_vcpu(p->s[0].m, machine_turn(p->s[0].m));
	struct scene *s = aligned_alloc(_Alignof(struct scene), sizeof(*s));

	if (!s)
		return NULL;
	memset(s, 0, sizeof(*s));
	for (unsigned i = 0; i < 2; i++) {
		s->listing[i].line = calloc(LISTING_LINES, sizeof(s->listing[i].line[0]));
		if (!s->listing[i].line) {
			scene_destroy(s);
			return NULL;
		}
	}
	s->n = v->index;
	s->cpu = v->cpu;
	s->icount = v->icount;
	s->mode = (u8)cpu_code_mode(&v->cpu);
	s->lin = s->mode == CODE_64 ? v->cpu.rip : (u32)(v->cpu.seg[SEG_CS].base + v->cpu.rip);
	read_code(s, v);
	describe(s, p);
	return s;
}

void scene_destroy(struct scene *s)
{
	if (!s)
		return;
	for (unsigned i = 0; i < 2; i++)
		free(s->listing[i].line);
	free(s);
}

static void print_instruction(const struct printer *p, const struct scene *s)
{
	static const char *const mode[] = { [CODE_16] = "16 bit", [CODE_32] = "32 bit", [CODE_64] = "64 bit" };
	struct dinsn d;
	char text[160] = "(cannot be read)", bytes[3 * CODE_MAX + 4], where[48] = "not mapped";
	unsigned len = s->code_len;

	if (len && dinsn_decode(&d, s->code, len, s->mode) == DECODE_OK)
		len = d.len;
	if (len)
		dinsn_format(s->code, len, s->mode, s->lin, text, sizeof(text));
	hex(bytes, sizeof(bytes), s->code, len);
	if (s->mapped)
		snprintf(where, sizeof(where), "physical %lx", s->gpa);
	say(p, "instruction at %04x:%016lx, linear %016lx, %s, %s, CPL %u%s", s->cpu.seg[SEG_CS].sel, s->cpu.rip,
	    s->lin, where, mode[s->mode], cpu_cpl(&s->cpu), s->cpu.activity == ACT_RUNNING ? "" : ", not running");
	say(p, "  %-24s %s", bytes, text);
}

static void print_listings(const struct printer *p, const struct scene *s)
{
	for (unsigned i = 0; i < 2; i++) {
		if (!s->listing[i].n)
			continue;
		say(p, "translated by %s:", p->c->engine[i]);
		for (unsigned n = 0; n < s->listing[i].n; n++)
			say(p, "  %s", s->listing[i].line[n]);
	}
}

/* ---- registers ---- */

struct reg {
	const char *name;
	u16 offset;
	u8 size;
	bool always; /* shown even where nothing changed */
};

#define REG(label, field)                                                                                              \
	{                                                                                                              \
		label, offsetof(struct cpu, field), sizeof(((struct cpu *)0)->field), false                            \
	}
#define GPR(label, n)                                                                                                  \
	{                                                                                                              \
		label, offsetof(struct cpu, gpr) + 8 * (n), 8, true                                                    \
	}
#define SEGMENT(label, field)                                                                                          \
	REG(label ".sel", field.sel), REG(label ".base", field.base), REG(label ".limit", field.limit),                \
	    REG(label ".attr", field.attr)

static const struct reg regs[] = {
	GPR("RAX", 0),
	GPR("RCX", 1),
	GPR("RDX", 2),
	GPR("RBX", 3),
	GPR("RSP", 4),
	GPR("RBP", 5),
	GPR("RSI", 6),
	GPR("RDI", 7),
	GPR("R8", 8),
	GPR("R9", 9),
	GPR("R10", 10),
	GPR("R11", 11),
	GPR("R12", 12),
	GPR("R13", 13),
	GPR("R14", 14),
	GPR("R15", 15),
	{ "RIP", offsetof(struct cpu, rip), 8, true },
	{ "RFLAGS", offsetof(struct cpu, rflags), 8, true },
	SEGMENT("ES", seg[SEG_ES]),
	SEGMENT("CS", seg[SEG_CS]),
	SEGMENT("SS", seg[SEG_SS]),
	SEGMENT("DS", seg[SEG_DS]),
	SEGMENT("FS", seg[SEG_FS]),
	SEGMENT("GS", seg[SEG_GS]),
	SEGMENT("LDTR", ldtr),
	SEGMENT("TR", tr),
	REG("GDTR.base", gdtr.base),
	REG("GDTR.limit", gdtr.limit),
	REG("IDTR.base", idtr.base),
	REG("IDTR.limit", idtr.limit),
	REG("CR0", cr0),
	REG("CR2", cr2),
	REG("CR3", cr3),
	REG("CR4", cr4),
	REG("XCR0", xcr0),
	REG("EFER", efer),
	REG("DR0", dr[0]),
	REG("DR1", dr[1]),
	REG("DR2", dr[2]),
	REG("DR3", dr[3]),
	REG("DR6", dr[6]),
	REG("DR7", dr[7]),
	REG("PKRU", pkru),
	REG("STAR", star),
	REG("LSTAR", lstar),
	REG("CSTAR", cstar),
	REG("SFMASK", sfmask),
	REG("KERNEL_GS_BASE", kernel_gs_base),
	REG("TSC_AUX", tsc_aux),
	REG("TSC offset", tsc_offset),
	REG("activity", activity),
	REG("shadow", shadow),
	REG("NMI blocked", nmi_blocked),
	REG("NMI pending", nmi_pending),
	REG("pending #DB", pending_db),
};

/* Parts of the vector state, at their offsets in cpu.fpu. */
struct vector_part {
	char name[16];
	unsigned offset, size;
};

static u64 value(const struct cpu *c, const struct reg *r)
{
	u64 v = 0;

	memcpy(&v, (const u8 *)c + r->offset, r->size);
	return v;
}

static void print_register(const struct printer *p, const struct reg *r, const struct cpu *before,
			   const struct cpu *const after[2])
{
	u64 old = value(before, r), a = value(after[0], r), b = value(after[1], r);

	if (a == b && a == old && !r->always)
		return;
	say(p, "%c %-14s %016lx  %016lx  %016lx", a != b ? '*' : a != old ? '+' : ' ', r->name, old, a, b);
}

static void print_vector(const struct printer *p, const struct vector_part *v, const struct cpu *before,
			 const struct cpu *const after[2])
{
	const u8 *img[3] = { before->fpu + v->offset, after[0]->fpu + v->offset, after[1]->fpu + v->offset };
	const char *who[3] = { "before", p->c->engine[0], p->c->engine[1] };
	char text[3 * 64 + 4];

	if (!memcmp(img[1], img[2], v->size))
		return;
	for (unsigned i = 0; i < 3; i++) {
		hex(text, sizeof(text), img[i], v->size);
		say(p, "* %-14s %-7s %s", v->name, who[i], text);
	}
}

static void print_vectors(const struct printer *p, const struct cpu *before, const struct cpu *const after[2])
{
	static const struct vector_part head[] = {
		{ "FCW", FX_FCW, 2 }, { "FSW", FX_FSW, 2 }, { "FTW", FX_FTW, 1 },     { "FOP", FX_FOP, 2 },
		{ "FIP", FX_FIP, 8 }, { "FDP", FX_FDP, 8 }, { "MXCSR", FX_MXCSR, 4 },
	};
	/* components 2, 5, 6 and 7: how many registers, and of what size */
	static const struct {
		const char *name;
		u8 component, count, size, first;
	} ext[] = {
		{ "YMMH", 2, 16, 16, 0 },
		{ "K", 5, 8, 8, 0 },
		{ "ZMMH", 6, 16, 32, 0 },
		{ "ZMM", 7, 16, 64, 16 },
	};
	struct vector_part v;

	for (unsigned i = 0; i < ARRAY_SIZE(head); i++)
		print_vector(p, &head[i], before, after);
	for (unsigned i = 0; i < 8; i++) {
		v = (struct vector_part){ .offset = FX_ST + 16 * i, .size = 10 };
		snprintf(v.name, sizeof(v.name), "ST%u", i);
		print_vector(p, &v, before, after);
	}
	for (unsigned i = 0; i < 16; i++) {
		v = (struct vector_part){ .offset = FX_XMM + 16 * i, .size = 16 };
		snprintf(v.name, sizeof(v.name), "XMM%u", i);
		print_vector(p, &v, before, after);
	}
	for (unsigned e = 0; e < ARRAY_SIZE(ext); e++) {
		if (!(fpu_host_components() & BIT(ext[e].component)))
			continue;
		for (unsigned i = 0; i < ext[e].count; i++) {
			v = (struct vector_part){ .offset = fpu_component_offset(ext[e].component) + i * ext[e].size,
						  .size = ext[e].size };
			snprintf(v.name, sizeof(v.name), "%s%u", ext[e].name, ext[e].first + i);
			print_vector(p, &v, before, after);
		}
	}
}

static void print_registers(const struct printer *p, const struct scene *s, const struct pair *pair)
{
	const struct cpu *const after[2] = { &machine_vcpu(pair->s[0].m, s->n)->cpu,
					     &machine_vcpu(pair->s[1].m, s->n)->cpu };

	say(p, "  %-14s %-16s  %-16s  %-16s   (* differs, + changed)", "registers", "before", p->c->engine[0],
	    p->c->engine[1]);
	for (unsigned i = 0; i < ARRAY_SIZE(regs); i++)
		print_register(p, &regs[i], &s->cpu, after);
	print_vectors(p, &s->cpu, after);
}

/* ---- the state stream ---- */

struct section {
	char name[256];
	const u8 *data;
	u32 len;
};

/* The section at *pos, past which *pos is moved. False at the end. */
static bool next_section(const struct encoder *e, size_t *pos, struct section *s)
{
	const u8 *at = e->data + *pos;

	if (*pos >= e->len)
		return false;
	memcpy(s->name, at + 1, at[0]);
	s->name[at[0]] = 0;
	at += 1 + at[0] + 2;
	memcpy(&s->len, at, 4);
	s->data = at + 4;
	*pos = (size_t)(s->data + s->len - e->data);
	return true;
}

static void print_section(const struct printer *p, const struct section *a, const struct section *b)
{
	char text[2][3 * 16 + 4];
	u32 at = 0;

	if (strcmp(a->name, b->name) || a->len != b->len) {
		say(p, "section %s (%u bytes) against section %s (%u bytes)", a->name, a->len, b->name, b->len);
		return;
	}
	if (!memcmp(a->data, b->data, a->len))
		return;
	while (a->data[at] == b->data[at])
		at++;
	hex(text[0], sizeof(text[0]), a->data + at, MIN(16, a->len - at));
	hex(text[1], sizeof(text[1]), b->data + at, MIN(16, a->len - at));
	say(p, "section %s differs from byte %u of %u: %s / %s", a->name, at, a->len, text[0], text[1]);
}

static void print_sections(const struct printer *p, const struct pair *pair)
{
	struct section a, b;
	size_t at[2] = { 0, 0 };

	while (next_section(&pair->s[0].state, &at[0], &a) && next_section(&pair->s[1].state, &at[1], &b))
		print_section(p, &a, &b);
}

/* ---- RAM ---- */

static gpa_t ram_gpa(const struct pair *p, u64 off)
{
	u64 low = boot_low_ram(memory_ram_size(machine_memory(p->s[0].m)));

	return off < low ? off : off - low + 4 * GiB;
}

static void print_page(const struct printer *p, const struct pair *pair, u64 page)
{
	const u8 *ram[2] = { memory_ram(machine_memory(pair->s[0].m)) + page,
			     memory_ram(machine_memory(pair->s[1].m)) + page };
	char text[2][3 * 16 + 4];
	unsigned first = 0, count = 0;

	while (ram[0][first] == ram[1][first])
		first++;
	for (unsigned i = first; i < PAGE_SIZE; i++)
		count += ram[0][i] != ram[1][i];
	for (unsigned i = 0; i < 2; i++)
		hex(text[i], sizeof(text[i]), ram[i] + first, MIN(16, PAGE_SIZE - first));
	say(p, "memory differs from %lx on, %u bytes of that page: %s / %s", ram_gpa(pair, page + first), count,
	    text[0], text[1]);
}

static void print_ram(const struct printer *p, const struct pair *pair)
{
	unsigned pages = 0;

	for (u64 at = pair_ram_differs(pair, 0); at != UINT64_MAX; at = pair_ram_differs(pair, at + PAGE_SIZE)) {
		if (pages++ == PAGES_SHOWN) {
			say(p, "memory differs in further pages");
			return;
		}
		print_page(p, pair, at);
	}
}

/* ---- ends and console ---- */

static void print_ends(const struct printer *p, const struct pair *pair)
{
	size_t n[2] = { 0, 0 };

	for (unsigned i = 0; i < 2; i++) {
		const struct side *s = &pair->s[i];

		if (s->r.end != MACHINE_END_LIMIT)
			say(p, "%s: the guest ended after %lu instructions: %s", p->c->engine[i], side_icount(s),
			    s->r.text);
		if (s->serial)
			chr_memory_data(s->serial, &n[i]);
	}
	if (side_icount(&pair->s[0]) != side_icount(&pair->s[1]))
		say(p, "instructions retired: %lu / %lu", side_icount(&pair->s[0]), side_icount(&pair->s[1]));
	if (n[0] != n[1])
		say(p, "bytes on the serial port: %zu / %zu", n[0], n[1]);
}

void scene_report(struct scene *s, struct pair *pair, const struct lockstep_config *c)
{
	const struct printer p = { c };

	describe(s, pair);
	pair_differs(pair, false); /* the streams as they are now */
	say(&p, "%s and %s are equal after %lu instructions and differ after the next one", c->engine[0], c->engine[1],
	    s->icount);
	print_instruction(&p, s);
	print_listings(&p, s);
	print_ends(&p, pair);
	print_registers(&p, s, pair);
	print_sections(&p, pair);
	print_ram(&p, pair);
}

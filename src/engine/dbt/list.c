/*
 * Listings of blocks. Host code is disassembled by Zydis; fields of struct vcpu
 * (gs:), the tables at R15, trampolines and other blocks get their names.
 */
#include "engine/dbt/list.h"
#include "engine/dbt/translate.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cpu/xstate.h"
#include "isa/decode.h"

static void print(const struct listing *l, const char *fmt, ...) printf_like(2, 3);
static void print(const struct listing *l, const char *fmt, ...)
{
	char text[320];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	l->line(l->opaque, text);
}

const u8 *dbt_guest_bytes(const struct tblock *b, const struct tinsn *i)
{
	static __thread u8 both[15];
	unsigned first = (unsigned)(PAGE_SIZE - (b->lin & ~PAGE_MASK));

	if (b->crosses && first < sizeof(both)) {
		memcpy(both, b->page->host + (b->lin & ~PAGE_MASK), first);
		memcpy(both + first, b->tail, sizeof(both) - first);
		return both;
	}
	return b->page->host + ((b->lin + i->guest) & ~PAGE_MASK);
}

void dbt_guest_name(const struct dbt *x, u64 lin, char *out, size_t size)
{
	guest_symbols_format(x->options ? x->options->symbols : NULL, lin, out, size);
}

/* ---- names ---- */

#define FIELD(f)                                                                                                       \
	{                                                                                                              \
		HOT(f), sizeof(((struct dbt_hot *)0)->f), #f                                                           \
	}
static const struct {
	u32 off, size;
	const char *name;
} fields[] = {
	FIELD(reason),
	FIELD(info),
	FIELD(resume),
	FIELD(flags),
	FIELD(charge),
	FIELD(host_sp),
	FIELD(saved),
	FIELD(host_flags),
	FIELD(ret_sp),
	FIELD(ret_base),
	FIELD(pc),
	FIELD(t0),
	FIELD(t1),
	FIELD(value),
	FIELD(old),
	FIELD(branch),
	FIELD(cross_mask),
	FIELD(offset_mask),
	FIELD(window),
	FIELD(jump_mask),
	FIELD(df_mask),
	FIELD(bit_mask),
	FIELD(seg_size),
	FIELD(unlimited),
	FIELD(slot_mask),
	FIELD(one),
	FIELD(page_mask),
	FIELD(page_bits),
	FIELD(loop),
	FIELD(loop_limit),
	FIELD(loop_left),
	FIELD(loop_warm),
	FIELD(spill),
	FIELD(all_but_if),
	FIELD(all_but_df),
	FIELD(all_but_ac),
	FIELD(status),
	FIELD(high17),
	FIELD(inner16),
	FIELD(popf_fixed),
	FIELD(popf_fixed_user),
	FIELD(sti_ok),
	FIELD(fsgsbase),
	FIELD(pkru_on),
	FIELD(ac_index),
	FIELD(ac_table),
	FIELD(ac_base),
	{ offsetof(struct vcpu, go), 4, "go" },
	{ offsetof(struct cpu, rflags), 8, "rflags" },
	{ offsetof(struct vcpu, event), 4, "event" },
	{ offsetof(struct vcpu, mmu), 8, "mmu" },
	{ offsetof(struct vcpu, fpu_live), 1, "fpu_live" },
	{ offsetof(struct cpu, fpu) + FX_FIP, 8, "x87_pointer" },
};

/* gs:[off] */
static void field_name(u32 off, char *out, size_t size)
{
	static const char *const gpr[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					     "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };
	static const char *const seg[SEG_COUNT] = { "es", "cs", "ss", "ds", "fs", "gs" };
	u32 base = (u32)(offsetof(struct cpu, seg) + offsetof(struct segment, base));

	if (off < 128) {
		snprintf(out, size, off % 8 ? "guest_%s+%u" : "guest_%s", gpr[off / 8], off % 8);
		return;
	}
	if (off >= base && (off - base) % sizeof(struct segment) == 0 &&
	    (off - base) / sizeof(struct segment) < SEG_COUNT) {
		snprintf(out, size, "%s_base", seg[(off - base) / sizeof(struct segment)]);
		return;
	}
	for (unsigned k = 0; k < ARRAY_SIZE(fields); k++) {
		if (off < fields[k].off || off >= fields[k].off + fields[k].size)
			continue;
		snprintf(out, size, off == fields[k].off ? "%s" : "%s+%u", fields[k].name, off - fields[k].off);
		return;
	}
	snprintf(out, size, "vcpu+0x%x", off);
}

static bool trampoline_name(const struct dbt *x, const u8 *at, char *out, size_t size)
{
	static const char *const rep[REP_OPS] = {
		[REP_STOS] = "rep_stos",     [REP_MOVS] = "rep_movs",	[REPE_CMPS] = "repe_cmps",
		[REPNE_CMPS] = "repne_cmps", [REPE_SCAS] = "repe_scas", [REPNE_SCAS] = "repne_scas",
	};

	for (unsigned k = 0; k < LEAVE_COUNT; k++) {
		if (at == x->sh->leave[k] || at == x->sh->leave_saved[k]) {
			snprintf(out, size, at == x->sh->leave[k] ? "leave_%s" : "leave_%s_saved", dbt_leave_name(k));
			return true;
		}
	}
	for (unsigned w = 0; w < WIDTHS; w++) {
		const char *name = at == x->sh->ret_miss[w]	   ? "return_miss"
				   : at == x->sh->ret_wrong[w]	   ? "return_wrong"
				   : at == x->sh->jump_indirect[w] ? "jump_indirect"
								   : NULL;

		if (name) {
			snprintf(out, size, "%s%s", name, w == WIDTH_32 ? "_32" : "");
			return true;
		}
	}
	for (unsigned op = 0; op < REP_OPS; op++) {
		for (unsigned log = 0; log < 4; log++) {
			if (at == x->sh->rep[op][log]) {
				snprintf(out, size, "%s_%u", rep[op], 1u << log);
				return true;
			}
		}
	}
	return false;
}

/* Target of a branch. */
static void target_name(const struct listing *l, u64 to, char *out, size_t size)
{
	const struct dbt *x = l->x;
	const u8 *at = (const u8 *)(uintptr_t)to; /* NOLINT */
	const struct tblock *b;
	char guest[128];
	u32 off;

	if (at < x->sh->rx || at >= x->sh->rx + x->sh->size) {
		snprintf(out, size, "0x%lx", to);
		return;
	}
	off = (u32)(at - x->sh->rx);
	if (trampoline_name(x, at, out, size))
		return;
	if (off >= l->b->host && off < l->b->host_end) {
		snprintf(out, size, "+%03x", off - l->b->host);
		return;
	}
	b = dbt_block_at(x->sh, off);
	if (!b) {
		snprintf(out, size, "trampoline+0x%x", off);
		return;
	}
	dbt_guest_name(x, b->lin, guest, sizeof(guest));
	snprintf(out, size, "block %s%s", guest,
		 off == b->entry	    ? ""
		 : off == b->entry_saved    ? " (flags saved)"
		 : off == b->entry_page	    ? " (checks its page)"
		 : off == b->entry_indirect ? " (checks its address)"
					    : " (inside)");
}

/* ---- hooks of the formatter ---- */

struct hooks {
	const struct listing *l;
	ZydisFormatterFunc print_disp;
};

static ZyanStatus append(ZydisFormatterBuffer *buffer, const char *text)
{
	ZyanString *s;

	if (!ZYAN_SUCCESS(ZydisFormatterBufferAppend(buffer, ZYDIS_TOKEN_SYMBOL)) ||
	    !ZYAN_SUCCESS(ZydisFormatterBufferGetString(buffer, &s)))
		return ZYAN_STATUS_FAILED;
	/* As ZyanStringAppend does, which is in another library. The size counts the zero byte. */
	while (*text && s->vector.size < s->vector.capacity) {
		((char *)s->vector.data)[s->vector.size - 1] = *text++;
		((char *)s->vector.data)[s->vector.size++] = 0;
	}
	return *text ? ZYAN_STATUS_INSUFFICIENT_BUFFER_SIZE : ZYAN_STATUS_SUCCESS;
}

/* Absolute addresses: branch targets, and memory operands without registers, which are gs:. */
static ZyanStatus on_address(const ZydisFormatter *f, ZydisFormatterBuffer *buffer, ZydisFormatterContext *c)
{
	const struct hooks *h = c->user_data;
	ZyanU64 to;
	char name[192];

	(void)f;
	if (c->operand->type == ZYDIS_OPERAND_TYPE_MEMORY && c->operand->mem.segment != ZYDIS_REGISTER_GS) {
		snprintf(name, sizeof(name), "0x%lx", c->operand->mem.disp.value);
	} else if (c->operand->type == ZYDIS_OPERAND_TYPE_MEMORY) {
		field_name((u32)c->operand->mem.disp.value, name, sizeof(name));
	} else {
		if (!ZYAN_SUCCESS(ZydisCalcAbsoluteAddress(c->instruction, c->operand, c->runtime_address, &to)))
			return ZYAN_STATUS_FAILED;
		target_name(h->l, to, name, sizeof(name));
	}
	return append(buffer, name);
}

/* The set's tables at R15. */
static ZyanStatus on_disp(const ZydisFormatter *f, ZydisFormatterBuffer *buffer, ZydisFormatterContext *c)
{
	const struct hooks *h = c->user_data;
	s64 disp = c->operand->mem.disp.value;
	bool index = c->operand->mem.index != ZYDIS_REGISTER_NONE;
	char name[64];

	if (c->operand->mem.base != ZYDIS_REGISTER_R15)
		return h->print_disp(f, buffer, c);
	if (index && disp == FLAT_R_DISP)
		return append(buffer, "+read_table");
	if (index && disp == FLAT_W_DISP)
		return append(buffer, "+write_table");
	if (index && (disp == AUX_JUMP(WIDTH_64) || disp == AUX_JUMP(WIDTH_32)))
		return append(buffer, "+jump_cache");
	if (index || disp < 0 || disp >= PAGES_MAX || c->operand->size != 8)
		return h->print_disp(f, buffer, c);
	snprintf(name, sizeof(name), "+valid[%ld]", disp);
	return append(buffer, name);
}

static bool formatter(ZydisFormatter *f, struct hooks *h)
{
	ZydisFormatterFunc address = on_address, disp = on_disp;

	if (!ZYAN_SUCCESS(ZydisFormatterInit(f, ZYDIS_FORMATTER_STYLE_INTEL)) ||
	    !ZYAN_SUCCESS(ZydisFormatterSetProperty(f, ZYDIS_FORMATTER_PROP_HEX_UPPERCASE, ZYAN_FALSE)) ||
	    !ZYAN_SUCCESS(ZydisFormatterSetProperty(f, ZYDIS_FORMATTER_PROP_IMM_PADDING, ZYDIS_PADDING_DISABLED)) ||
	    !ZYAN_SUCCESS(ZydisFormatterSetProperty(f, ZYDIS_FORMATTER_PROP_DISP_PADDING, ZYDIS_PADDING_DISABLED)) ||
	    !ZYAN_SUCCESS(ZydisFormatterSetHook(f, ZYDIS_FORMATTER_FUNC_PRINT_ADDRESS_ABS, (const void **)&address)) ||
	    !ZYAN_SUCCESS(ZydisFormatterSetHook(f, ZYDIS_FORMATTER_FUNC_PRINT_DISP, (const void **)&disp)))
		return false;
	h->print_disp = disp; /* the one it replaced */
	return true;
}

/* ---- host code ---- */

/* Host code at offsets [from, to) of the block. */
static void list_host(const struct listing *l, u32 from, u32 to)
{
	const u8 *start = l->x->sh->rx + l->b->host;
	struct hooks h = { .l = l };
	ZydisFormatter f;

	if (!formatter(&f, &h))
		return;
	while (from < to) {
		ZydisDecodedInstruction z;
		ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
		char text[192];

		if (trampoline_name(l->x, start + from, text, sizeof(text)))
			print(l, "  %s", text);
		if (isa_decode_full(&z, ops, start + from, MIN(15u, to - from), CODE_64) != DECODE_OK ||
		    !ZYAN_SUCCESS(ZydisFormatterFormatInstruction(&f, &z, ops, z.operand_count_visible, text,
								  sizeof(text), (uintptr_t)(start + from), &h))) {
			print(l, "      +%03x  (bytes that are no instruction)", from);
			return;
		}
		if (!strcmp(text, "mov rcx, gs:[charge]"))
			print(l, "    charge of a segment");
		print(l, "      +%03x  %s", from, text);
		from += z.length;
	}
}

void dbt_list_trampolines(const struct dbt *x)
{
	const struct tblock all = { .host_end = x->sh->start };
	u32 end = 0;
	const struct listing l = {
		.x = x, .b = &all, .line = x->options->trace_line, .opaque = x->options->trace_opaque
	};

	/* up to the padding before the routines of rep.c, which are assembler there */
	while (end < x->sh->start && (x->sh->rx[end] != 0xcc || x->sh->rx[end + 1] != 0xcc))
		end++;
	print(&l, "trampolines: %u bytes at %lx", end, (u64)(uintptr_t)x->sh->rx);
	print(&l, "  enter");
	list_host(&l, 0, end);
}

static u32 body_end(const struct listing *l, u32 k)
{
	const struct tblock *b = l->b;

	return k + 1 < b->n ? l->x->sh->insns[b->first + k + 1].host : b->stubs;
}

static void list_insn(const struct listing *l, u32 k)
{
	const struct tinsn *i = &l->x->sh->insns[l->b->first + k];
	u64 lin = l->b->lin + i->guest;
	unsigned room = (unsigned)(PAGE_SIZE - (lin & ~PAGE_MASK));
	char text[192];

	dinsn_format(dbt_guest_bytes(l->b, i), MIN(MAX(i->len, 1u), room), dbt_code_mode(l->b), lin, text,
		     sizeof(text));
	print(l, "  %lx  %s", lin, text);
	if (l->notes && l->what & TRACE_ANALYSIS) {
		dbt_note_format(l, i, &l->notes[k], text, sizeof(text));
		print(l, "    %s", text);
	}
	if (l->what & TRACE_HOST)
		list_host(l, i->host, body_end(l, k));
}

static void list_entries(const struct listing *l)
{
	const struct tblock *b = l->b;

	if (b->door != b->body) {
		print(l, "  entered from where it was first: translated again");
		return;
	}
	print(l, "  entered by an indirect jump: is it meant?");
	list_host(l, b->entry_indirect - b->host, b->entry_page - b->host);
	print(l, "  entered from another page: does the page still hold this code?");
	list_host(l, b->entry_page - b->host, MIN(b->entry, b->entry_saved) - b->host);
	print(l, b->saved ? "  entered with the flags in the host: save them"
			  : "  entered with the flags saved: put them back");
	list_host(l, MIN(b->entry, b->entry_saved) - b->host, b->body - b->host);
	if (!b->n || l->x->sh->insns[b->first].host == b->body - b->host)
		return;
	list_host(l, b->body - b->host, l->x->sh->insns[b->first].host);
}

void dbt_list(const struct listing *l)
{
	const struct tblock *b = l->b;
	char name[128];

	dbt_guest_name(l->x, b->lin, name, sizeof(name));
	print(l, "block %lx (%s): %u instructions, %u bytes; host %u bytes at %lx%s", b->lin, name, b->n, b->bytes,
	      b->host_end - b->host, (u64)(uintptr_t)(l->x->sh->rx + b->host), b->dead ? "; dead" : "");
	if (l->what & TRACE_HOST)
		list_entries(l);
	for (u32 k = 0; k < b->n; k++)
		list_insn(l, k);
	if (!(l->what & TRACE_HOST))
		return;
	print(l, "  out of line");
	list_host(l, b->stubs, b->host_end - b->host);
}

/* ---- engine_ops.describe ---- */

static const struct tblock *holds(const struct dbt *x, const struct tpage *p, gva_t lin)
{
	for (unsigned k = 0; k < TPAGE_BUCKETS; k++) {
		for (const struct tblock *b = p->bucket[k]; b; b = b->next) {
			if (lin < b->lin || lin >= b->lin + b->bytes)
				continue;
			for (u32 n = 0; n < b->n; n++)
				if (b->lin + x->sh->insns[b->first + n].guest == lin)
					return b;
		}
	}
	return NULL;
}

void dbt_describe(struct vcpu *v, gva_t lin, void (*line)(void *opaque, const char *text), void *opaque)
{
	const struct dbt *x = dbt_of(v);
	struct listing l = { .x = x, .what = TRACE_GUEST | TRACE_HOST, .line = line, .opaque = opaque };
	const struct tblock *any = NULL, *b;

	fpu_park(v);
	for (u32 k = 0; k < x->sh->pages_n && !l.b; k++) {
		const struct tpage *p = &x->sh->pages[k];

		if (p->lin != (lin & PAGE_MASK) || ((p->key ^ x->key) & ~(u32)KEY_USER))
			continue;
		b = holds(x, p, lin);
		if (b && v->mmu->flat_base[AUX_VALID + p->index])
			l.b = b;
		else if (b)
			any = b; /* its page has not been looked at since the last flush */
	}
	if (!l.b)
		l.b = any;
	if (l.b)
		dbt_list(&l);
}

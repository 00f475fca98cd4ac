/*
 * The lines of --trace and of the perf map. Ordinary C, with the guest's vector
 * state put away.
 */
#include "engine/dbt/list.h"
#include "engine/dbt/translate.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const gpr_names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					   "r8",  "r9",	 "r10", "r11", "r12", "r13", "r14", "r15" };

static void print(const struct dbt *x, const char *fmt, ...) printf_like(2, 3);
static void print(const struct dbt *x, const char *fmt, ...)
{
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	x->options->trace_line(x->options->trace_opaque, text);
}

/* Is something in [lin, lin + size) to be traced? */
static bool wanted(const struct dbt *x, u64 lin, u64 size)
{
	return lin <= x->options->trace_last && lin + (size ? size - 1 : 0) >= x->options->trace_first;
}

/* ---- blocks ---- */

/* Appends to out. */
static void add(char *out, size_t size, const char *fmt, ...) printf_like(3, 4);
static void add(char *out, size_t size, const char *fmt, ...)
{
	size_t used = strlen(out);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(out + used, size - used, fmt, ap);
	va_end(ap);
}

static bool starts_segment(const struct listing *l, const struct tinsn *i)
{
	return i == &l->x->sh->insns[l->b->first] || i[-1].left != i->left + 1;
}

void dbt_note_format(const struct listing *l, const struct tinsn *i, const struct note *n, char *out, size_t size)
{
	static const char *const how[] = {
		[HOW_HOST] = "host code, operands replaced",
		[HOW_NOP] = "nothing to do",
		[HOW_LEA] = "address computation",
		[HOW_MOFFS] = "absolute move",
		[HOW_FLOW] = "control flow",
		[HOW_STACK] = "stack",
		[HOW_STRING] = "string",
		[HOW_ODD] = "code of its own",
		[HOW_SYS] = "shared semantics",
		[HOW_STEP] = "left to the reference engine",
	};
	static const char *const operand[] = { "", "; operand [lin+rcx+1]", "; operand [r14]", "; operand [rcx]" };
	struct dinsn d;
	const struct isa_row *row;

	*out = 0;
	if (dinsn_decode(&d, dbt_guest_bytes(l->b, i), MAX(i->len, 1u), dbt_code_mode(l->b)) == DECODE_OK) {
		row = isa_row_of(&d);
		add(out, size, "= %s, method %s: ", isa_class_name(row->class), isa_method_name(row->method));
		add(out, size, "%s", how[n->how]);
		if (n->how == HOW_SYS)
			add(out, size, " (sys_%s)", isa_sys_name(row->sys));
	} else {
		add(out, size, "= crosses the page or is invalid: %s", how[n->how]);
	}
	for (unsigned k = 0; k < n->accesses; k++)
		add(out, size, "; %s %u", n->access[k] & NOTE_WRITE ? "writes" : "reads", n->access[k] & ~NOTE_WRITE);
	add(out, size, "%s%s", n->opens ? "; lookup for others" : "", n->shares ? "; lookup shared" : "");
	add(out, size, "%s", operand[n->operand]);
	for (unsigned k = 0; k < n->borrowed; k++)
		add(out, size, "; %s in %s", gpr_names[n->borrow[k][0]], gpr_names[n->borrow[k][1]]);
	if (i->flags != TINSN_HOST)
		add(out, size, "; flags %s", i->flags == TINSN_SAVED ? "saved" : "by recipe");
	if (starts_segment(l, i))
		add(out, size, "; segment of %u%s", i->left, l->x->counted ? ", charged" : "");
}

void dbt_trace_block(struct tr *t)
{
	const struct dbt *x = t->x;
	const struct listing l = { .x = x,
				   .b = t->b,
				   .notes = t->note,
				   .what = x->trace & TRACE_BLOCKS,
				   .line = x->options->trace_line,
				   .opaque = x->options->trace_opaque };
	u64 began = __builtin_ia32_rdtsc();
	char name[128], text[160];

	if (x->sh->perf) {
		dbt_guest_name(x, t->b->lin, name, sizeof(name));
		snprintf(text, sizeof(text), "guest:%s", name);
		perf_map_add(x->sh->perf, x->sh->rx + t->b->host, t->b->host_end - t->b->host, text);
	}
	if (l.what && wanted(x, t->b->lin, t->b->bytes))
		dbt_list(&l);
	t->x->stats.trace_cycles += __builtin_ia32_rdtsc() - began;
}

/* ---- entries, leaves, invalidations ---- */

void dbt_trace_enter(struct vcpu *v)
{
	const struct dbt *x = dbt_of(v);
	u32 off = (u32)(dhot(v)->pc - (u64)(uintptr_t)x->sh->rx);
	const struct tblock *b = dbt_block_at(x->sh, off);
	char name[128];

	if (!b || !wanted(x, b->lin, b->bytes))
		return;
	dbt_guest_name(x, b->lin, name, sizeof(name));
	print(x, "enter block %lx (%s) at +%03x", b->lin, name, off - b->host);
}

static void leave_at(const struct dbt *x, u32 insn, const char *why)
{
	const struct tinsn *i = &x->sh->insns[insn];
	const struct tblock *b = dbt_insn_block(x->sh, i);
	u64 lin = b->lin + i->guest;
	char name[128], text[160];

	if (!wanted(x, lin, i->len))
		return;
	dbt_guest_name(x, lin, name, sizeof(name));
	dinsn_format(dbt_guest_bytes(b, i), MAX(i->len, 1u), dbt_code_mode(b), lin, text, sizeof(text));
	print(x, "leave %s at %lx (%s): %s", why, lin, name, text);
}

static void leave_to(const struct dbt *x, u64 lin, const char *why)
{
	char name[128];

	if (!wanted(x, lin, 1))
		return;
	dbt_guest_name(x, lin, name, sizeof(name));
	print(x, "leave %s to %lx (%s)", why, lin, name);
}

void dbt_trace_leave(struct vcpu *v)
{
	const struct dbt *x = dbt_of(v);
	const struct dbt_hot *h = dhot(v);
	const struct tinsn *i;
	char why[64];

	snprintf(why, sizeof(why), "%s", dbt_leave_name(h->reason));
	switch ((enum leave_reason)h->reason) {
	case LEAVE_LINK:
		leave_to(x, x->sh->exits[h->info].lin, why);
		return;
	case LEAVE_INDIRECT:
		leave_to(x, h->t0, why);
		return;
	case LEAVE_ENTRY:
		leave_to(x, x->sh->blocks[h->info].lin, why);
		return;
	case LEAVE_HOST:
		i = dbt_insn_at(x->sh, h->info);
		if (i)
			leave_at(x, (u32)(i - x->sh->insns), why);
		return;
	case LEAVE_SYS:
		snprintf(why, sizeof(why), "%s sys_%s", dbt_leave_name(h->reason),
			 isa_sys_name(x->sh->sys[h->info].sys));
		leave_at(x, x->sh->sys[h->info].insn, why);
		return;
	case LEAVE_MISS_R:
	case LEAVE_MISS_W:
		snprintf(why, sizeof(why), "%s of %lx", dbt_leave_name(h->reason), h->t0);
		leave_at(x, h->info, why);
		return;
	default:
		leave_at(x, h->info, why);
	}
}

void dbt_trace_kill(struct vcpu *v, const struct tblock *b)
{
	const struct dbt *x = dbt_of(v);
	char name[128];

	if (!b && !dbt_in_use(x->sh).blocks)
		return;
	if (!b) {
		print(x, "flush of %u blocks, %u bytes of code", dbt_in_use(x->sh).blocks, dbt_in_use(x->sh).used);
		return;
	}
	if (!wanted(x, b->lin, b->bytes))
		return;
	dbt_guest_name(x, b->lin, name, sizeof(name));
	print(x, "kill block %lx (%s): its code at %lx was written", b->lin, name,
	      (u64)(b->page->gpa + (b->lin & ~PAGE_MASK)));
}

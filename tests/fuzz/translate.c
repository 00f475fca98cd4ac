/*
 * Fuzz target: any bytes as code at CPL 3, under the reference engine and under
 * the translator, in one process. The reference goes first, an instruction at
 * a time, up to an exception; the translator must come to the same one with the
 * same processor and memory. Then both go on behind the instruction at fault.
 * The first byte chooses mode and budget, the next eight seed the registers.
 *
 * Not with AddressSanitizer: its shadow lies where translated code needs room.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dev/clock.h"
#include "cpu/cpu.h"
#include "cpu/save.h"
#include "engine/dbt/dbt.h"
#include "fuzz.h"
#include "isa/decode.h"
#include "isa/rig.h"
#include "state/codec.h"

#define CODE 0x10000ull /* and in RAM from 0 */
#define DATA 0x20000ull
#define DATA_OFF (4 * PAGE_SIZE)
#define DATA_SIZE (4 * PAGE_SIZE)
#define CODE_MAX 512u

#define INSNS_MAX 300u /* without an exception */
#define FAULTS_MAX 40u
#define BUDGET_PLENTY 100000u /* more than any run to an exception takes */

enum { REFERENCE, TRANSLATOR, SIDES };
static const char *const names[SIDES] = { "interp", "dbt" };
static struct rig rig[SIDES];

enum how { MODE_32 = 1, UNCOUNTED = 2 };

/* How a stretch of instructions ended. */
struct stretch {
	int vector;	/* -1: no exception */
	u32 insns;	/* retired before it */
	bool undefined; /* at an instruction whose effects may differ */
};

static void create(void)
{
	const struct engine_ops *const engine[SIDES] = { &engine_interp, &engine_dbt };

	for (unsigned s = 0; s < SIDES; s++) {
		struct rig *r = &rig[s];

		rig_create(r, engine[s]);
		rig_map(r, CODE, 0, true);
		for (u64 at = 0; at < DATA_SIZE; at += PAGE_SIZE)
			rig_map(r, DATA + at, DATA_OFF + at, true);
	}
	dbt_translate_single(rig[TRANSLATOR].v, false);
}

static u64 next(u64 *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Pointers into data and code, small numbers, anything. */
static u64 register_value(u64 *state)
{
	u64 r = next(state), how = r >> 60;

	if (how < 9)
		return DATA + DATA_SIZE / 2 + r % 0x800 * (how < 6 ? 8 : 1);
	if (how < 10)
		return CODE + r % CODE_MAX;
	return how < 13 ? r % 64 : next(state);
}

static void start(struct rig *r, const u8 *data, size_t size, u64 seed)
{
	static const u8 stop[CODE_MAX] = { [0 ... CODE_MAX - 1] = 0xf4 }; /* HLT: #GP */
	static u8 words[DATA_SIZE];
	u64 state = seed | 1;

	rig_reset(r);
	if (data[0] & MODE_32)
		rig_compatibility_mode(r);
	r->v->cpu.efer &= ~(u64)EFER_SCE; /* SYSCALL leaves CPL 3 without an exception */
	r->v->cpu.rip = CODE;
	for (unsigned n = 0; n < 16; n++)
		r->v->cpu.gpr[n] = register_value(&state);
	r->v->cpu.gpr[REG_RSP] = DATA + DATA_SIZE / 2 + (next(&state) & 0xff8);
	for (size_t at = 0; at < sizeof(words); at += 8) {
		u64 word = register_value(&state);

		memcpy(words + at, &word, 8);
	}
	memory_write(r->mem, DATA_OFF, words, sizeof(words));
	for (u64 at = 0; at < PAGE_SIZE; at += CODE_MAX)
		memory_write(r->mem, at, stop, CODE_MAX);
	memory_write(r->mem, 0, data + 9, MIN(size - 9, CODE_MAX));
	mmu_mode_changed(r->v);
}

/* Where `lin` is in RAM; the bytes to the end of its page. */
static unsigned code_at(const struct rig *r, gva_t lin, const u8 **bytes)
{
	u64 off = lin - CODE < PAGE_SIZE ? lin - CODE : lin - DATA < DATA_SIZE ? DATA_OFF + lin - DATA : ~0ull;

	if (off == ~0ull)
		return 0;
	*bytes = memory_ram(r->mem) + off;
	return (unsigned)(PAGE_SIZE - off % PAGE_SIZE);
}

/* The instruction the processor is at; 0: none. Both mappings are followed by a page that is not there. */
static unsigned decode(const struct rig *r, struct dinsn *d)
{
	const struct cpu *c = &r->v->cpu;
	const u8 *bytes;
	unsigned len = code_at(r, c->rip, &bytes);

	if (!len || dinsn_decode(d, bytes, MIN(len, 15), c->seg[SEG_CS].attr & SEG_L ? CODE_64 : CODE_32) != DECODE_OK)
		return 0;
	return d->len;
}

/* The engines agree on what the manual leaves undefined but for these (docs/testing.md). */
static bool leaves_undefined(const struct dinsn *d)
{
	return d->mnemonic == ZYDIS_MNEMONIC_ROL || d->mnemonic == ZYDIS_MNEMONIC_ROR;
}

/* One instruction. */
static void step_reference(struct rig *r, struct stretch *s)
{
	struct dinsn d;
	u8 was[15];
	const u8 *bytes = was;
	unsigned len = decode(r, &d);

	if (len && leaves_undefined(&d)) {
		s->undefined = true;
		return;
	}
	if (len) {
		code_at(r, r->v->cpu.rip, &bytes);
		memcpy(was, bytes, len);
	}
	s->vector = rig_run(r, 1);
	s->insns += s->vector < 0;
	/* a store over itself: a repeated one may see it in any iteration */
	s->undefined = len && (d.prefixes & (DI_REP | DI_REPNE)) && memcmp(was, bytes, len) != 0;
}

static struct stretch run_reference(struct rig *r)
{
	struct stretch s = { .vector = -1 };

	while (s.vector < 0 && s.insns < INSNS_MAX && !s.undefined)
		step_reference(r, &s);
	return s;
}

static const u8 *state_of(struct rig *r, struct encoder *e, size_t *len)
{
	enc_init(e);
	cpu_save(&r->v->cpu, e);
	*len = e->len;
	return e->data;
}

static void print(const struct rig *r, const char *name, int vector)
{
	const struct cpu *c = &r->v->cpu;

	printf("%s: vector %d error %x cr2 %llx rip %llx flags %llx\n", name, vector, r->v->fault.error,
	       (unsigned long long)c->cr2, (unsigned long long)c->rip, (unsigned long long)c->rflags);
	for (unsigned n = 0; n < 16; n++)
		printf(" %016llx%s", (unsigned long long)c->gpr[n], n % 4 == 3 ? "\n" : "");
}

static void compare(const struct stretch *want, int vector)
{
	struct encoder e[SIDES];
	size_t len[SIDES];
	const u8 *data[SIDES];
	const char *what = NULL;

	for (unsigned s = 0; s < SIDES; s++)
		data[s] = state_of(&rig[s], &e[s], &len[s]);
	if (vector != want->vector)
		what = "exceptions";
	else if (len[0] != len[1] || memcmp(data[0], data[1], len[0]))
		what = "processors";
	else if (vector >= 0 && (rig[0].v->fault.error != rig[1].v->fault.error))
		what = "error codes";
	else if (memcmp(rig_ram(&rig[0], 0), rig_ram(&rig[1], 0), DATA_OFF + DATA_SIZE))
		what = "memories";
	for (unsigned s = 0; s < SIDES; s++)
		enc_free(&e[s]);
	if (!what)
		return;
	printf("%s differ after %u instructions\n", what, want->insns);
	print(&rig[0], names[0], want->vector);
	print(&rig[1], names[1], vector);
	fflush(stdout);
	abort();
}

/* Behind the instruction at fault; a trap is there already. False: there is none to go on behind, or it is the HLT
 * that code is followed by. */
static bool skip(int vector)
{
	struct dinsn d;
	unsigned len;

	/* a debug trap that a shadow held back until the rig's handler of another exception began */
	if (rig[REFERENCE].v->cpu.rip >> 47)
		return false;
	if (vector == EXC_DB || vector == EXC_BP)
		return true;
	len = decode(&rig[REFERENCE], &d);
	if (!len || d.mnemonic == ZYDIS_MNEMONIC_HLT)
		return false;
	for (unsigned s = 0; s < SIDES; s++)
		rig[s].v->cpu.rip += len;
	return true;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	u64 seed;

	if (size < 10)
		return 0;
	if (!rig[0].v)
		create();
	memcpy(&seed, data + 1, 8);
	for (unsigned s = 0; s < SIDES; s++)
		start(&rig[s], data, size, seed);
	for (unsigned n = 0; n < FAULTS_MAX; n++) {
		struct stretch want = run_reference(&rig[REFERENCE]);
		int vector;

		if (want.undefined)
			return 0;
		vector = rig_run(&rig[TRANSLATOR], want.vector < 0	 ? want.insns
						   : data[0] & UNCOUNTED ? CLOCK_NEVER
									 : BUDGET_PLENTY);
		compare(&want, vector);
		if (want.vector >= 0 && !skip(want.vector))
			return 0;
	}
	return 0;
}

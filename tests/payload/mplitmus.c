/*
 * Litmus tests of the memory order (SDM 3A, 9.2; Owens, Sarkar, Sewell, "A
 * better x86 memory model: x86-TSO", 2009, whose names they have). A test is a
 * line of the table. Its code is made at run time, with one kind of accesses
 * after the other and its variables in one page, in pages of their own, or
 * across cache lines and pages. What may come out is found by walking through
 * all executions of the x86-TSO abstract machine; what comes out besides is an
 * error.
 *
 * Command line: iterations=N of each test; relaxed=1: outcomes that only store
 * buffers explain must be seen (of SB), relaxed=0: they must not; histograms=1:
 * print them.
 */
#include "mp.h"

#define THREADS 4
#define OPS 4
#define DIGITS 6 /* of an outcome: registers, then final values; two bits each */
#define OUTCOMES (1 << 2 * DIGITS)
#define TORN 3 /* the digit of a value of which parts are of several stores */

/* Threads are separated by |. Wx1: store 1 to x; Rx: load x; Xx1: XCHG; F: MFENCE; L: a locked instruction elsewhere;
 * =x at the end: the final value of x counts. An outcome is the values loaded, in this order, then the final ones. */
static const struct test {
	const char *name, *code, *witness;
	int allowed; /* `witness`, as the paper has it */
	int all;     /* with all kinds of accesses */
} tests[] = {
	{ "SB", "Wx1 Ry | Wy1 Rx", "00", 1, 1 },
	{ "SB+mfences", "Wx1 F Ry | Wy1 F Rx", "00", 0, 1 },
	{ "SB+mfence+po", "Wx1 F Ry | Wy1 Rx", "00", 1, 0 },
	{ "SB+locks", "Wx1 L Ry | Wy1 L Rx", "00", 0, 1 },
	{ "SB+xchgs", "Xx1 Ry | Xy1 Rx", "0000", 0, 1 },
	{ "SB+xchg+po", "Xx1 Ry | Wy1 Rx", "000", 1, 0 },
	{ "3.SB", "Wx1 Ry | Wy1 Rz | Wz1 Rx", "000", 1, 0 },
	{ "MP", "Wx1 Wy1 | Ry Rx", "10", 0, 1 },
	{ "MP+xchg", "Wx1 Xy1 | Ry Rx", "010", 0, 1 },
	{ "MP+three", "Wx1 Wy1 Wz1 | Rz Ry Rx", "110", 0, 1 },
	{ "LB", "Rx Wy1 | Ry Wx1", "11", 0, 1 },
	{ "WRC", "Wx1 | Rx Wy1 | Ry Rx", "110", 0, 0 },
	{ "RWC", "Wx1 | Rx Ry | Wy1 Rx", "100", 1, 0 },
	{ "RWC+mfence", "Wx1 | Rx Ry | Wy1 F Rx", "100", 0, 0 },
	{ "IRIW", "Wx1 | Wy1 | Rx Ry | Ry Rx", "1010", 0, 1 },
	{ "IRIW+xchgs", "Xx1 | Xy1 | Rx Ry | Ry Rx", "001010", 0, 0 },
	{ "2+2W", "Wx1 Wy2 | Wy1 Wx2 | =xy", "11", 0, 1 },
	{ "R", "Wx1 Wy1 | Wy2 Rx | =y", "02", 1, 1 },
	{ "R+mfences", "Wx1 F Wy1 | Wy2 F Rx | =y", "02", 0, 0 },
	{ "S", "Wx2 Wy1 | Ry Wx1 | =x", "12", 0, 1 },
	{ "CoRR", "Wx1 | Rx Rx", "10", 0, 1 },
	{ "CoRR2", "Wx1 Wx2 | Rx Rx", "21", 0, 1 },
	{ "CoWR", "Wx1 Rx | Wx2 | =x", "21", 0, 0 },
	{ "n4", "Rx Wx1 | Rx Wx2", "21", 0, 0 },
	{ "n5", "Wx1 Rx | Wx2 Rx", "21", 0, 1 },
	{ "n6", "Wx1 Rx Ry | Wy2 Wx2 | =x", "101", 1, 1 },
	{ "iwp2.4", "Wx1 Rx Ry | Wy1 Ry Rx", "1010", 1, 1 },
	{ "SB+xchgs+finals", "Xx1 Ry | Xy1 Rx | =xy", "000011", 0, 0 },
};

struct op {
	u8 what, var, value, reg;
};
static struct op ops[THREADS][OPS];
static u32 threads, op_count[THREADS], reg_count[THREADS], first_digit[THREADS], digits, finals[4], final_count;

static void parse(const char *s)
{
	threads = 0;
	final_count = 0;
	memset(op_count, 0, sizeof(op_count));
	memset(reg_count, 0, sizeof(reg_count));
	for (; *s; s++) {
		struct op *o = &ops[threads][op_count[threads]];
		if (*s == '|') {
			threads++;
		} else if (*s == '=') {
			while (*++s)
				finals[final_count++] = *s == 'w' ? 3 : *s - 'x';
			break;
		} else if (*s != ' ') {
			*o = (struct op){ .what = *s };
			if (*s == 'W' || *s == 'R' || *s == 'X')
				o->var = *++s - 'x';
			if (o->what == 'W' || o->what == 'X')
				o->value = *++s - '0';
			if (o->what == 'R' || o->what == 'X')
				o->reg = reg_count[threads]++;
			op_count[threads]++;
		}
	}
	if (!final_count)
		threads++;
	digits = 0;
	for (u32 t = 0; t < threads; t++) {
		first_digit[t] = digits;
		digits += reg_count[t];
	}
	digits += final_count;
}

/*
 * The abstract machine: a FIFO store buffer for each thread, a load takes the
 * newest of its own buffer or what memory has, fences and locked operations
 * want the buffer empty. With `halves` every variable is two, and each access
 * two in one or the other order: what lies across a line or a page.
 *
 * A state in three words. core: 8 variables of 2 bits; from bit 16, for each
 * thread, 3 times its operation plus 1 or 2 if the lower or upper half of it is
 * done; from bit 32, registers of 2 bits. A buffer: entries of 5 bits (variable,
 * value), the oldest lowest, and a 1 above them.
 */
struct state {
	u64 core, buffers[THREADS / 2];
};
static u8 tso[OUTCOMES], sc[OUTCOMES];
static u8 *outcomes; /* the set that is being filled */
static int halves, buffered;
#define SEEN 16384
static struct {
	struct state s;
	u64 round;
} seen[SEEN];
static u64 seen_round;

static u32 field(u64 w, u32 at, u32 bits)
{
	return w >> at & ((1u << bits) - 1);
}
static u64 with(u64 w, u32 at, u32 bits, u64 v)
{
	u64 mask = (1ull << bits) - 1;
	return (w & ~(mask << at)) | v << at;
}
static u64 buffer_of(const struct state *s, u32 t)
{
	return s->buffers[t / 2] >> 32 * (t % 2) & 0xffffffff;
}
static void set_buffer(struct state *s, u32 t, u64 b)
{
	s->buffers[t / 2] = with(s->buffers[t / 2], 32 * (t % 2), 32, b);
}

static void append(struct state *s, u32 t, u32 var, u32 value)
{
	u64 b = buffer_of(s, t), top = 1;

	if (!buffered) {
		s->core = with(s->core, 2 * var, 2, value);
		return;
	}
	while (top << 5 <= b)
		top <<= 5;
	set_buffer(s, t, (b ^ top) | top << 5 | top * (var << 2 | value));
}

static u32 read(const struct state *s, u32 t, u32 var)
{
	u32 v = field(s->core, 2 * var, 2);

	for (u64 b = buffer_of(s, t); b > 1; b >>= 5) {
		if (field(b, 2, 3) == var)
			v = b & 3;
	}
	return v;
}

static void add_outcome(const struct state *s)
{
	u32 out = 0, step = halves ? 2 : 1;

	for (u32 d = 0; d < digits; d++) {
		u32 loaded = digits - final_count;
		u32 bit = d < loaded ? 32 + 2 * d * step : 2 * finals[d - loaded] * step;
		u32 v = field(s->core, bit, 2), w = halves ? field(s->core, bit + 2, 2) : v;
		out |= (v == w ? v : TORN) << 2 * d;
	}
	outcomes[out] = 1;
}

static void explore(struct state s);

/* The next operation of a thread, in each way it can be done. */
static void step(const struct state *s, u32 t)
{
	u32 at = 16 + 4 * t, pc = field(s->core, at, 4), parts = halves ? 2 : 1;
	const struct op *o = &ops[t][pc / 3];
	u32 var = o->var * parts, bit = 32 + 2 * (first_digit[t] + o->reg) * parts;
	struct state next = *s;

	if (o->what == 'W') {
		for (u32 first = 0; first < parts; first++) {
			next = *s;
			append(&next, t, var + first, o->value);
			if (halves)
				append(&next, t, var + !first, o->value);
			next.core = with(next.core, at, 4, pc + 3);
			explore(next);
		}
	} else if (o->what == 'R') {
		for (u32 h = 0; h < parts; h++) {
			u32 done = pc % 3;
			if (done == h + 1)
				continue;
			next.core = with(s->core, bit + 2 * h, 2, read(s, t, var + h));
			next.core = with(next.core, at, 4, done || !halves ? pc - done + 3 : pc + h + 1);
			explore(next);
		}
	} else if (buffer_of(s, t) == 1) {
		for (u32 h = 0; h < parts && o->what == 'X'; h++) {
			next.core = with(next.core, bit + 2 * h, 2, field(s->core, 2 * (var + h), 2));
			next.core = with(next.core, 2 * (var + h), 2, o->value);
		}
		next.core = with(next.core, at, 4, pc + 3);
		explore(next);
	}
}

static int seen_before(const struct state *s)
{
	u32 h = (s->core * 0x9e3779b97f4a7c15ull ^ s->buffers[0] * 0xc2b2ae3d27d4eb4full ^
		 s->buffers[1] * 0x165667b19e3779f9ull) >>
		40;

	for (u32 i = 0; i < 32; i++, h++) {
		if (seen[h % SEEN].round != seen_round) {
			seen[h % SEEN].s = *s;
			seen[h % SEEN].round = seen_round;
			return 0;
		}
		const struct state *o = &seen[h % SEEN].s;
		if (o->core == s->core && o->buffers[0] == s->buffers[0] && o->buffers[1] == s->buffers[1])
			return 1;
	}
	return 0; /* no room: seen again, at worst */
}

static void explore(struct state s)
{
	int over = 1;

	if (seen_before(&s))
		return;
	for (u32 t = 0; t < threads; t++) {
		u64 b = buffer_of(&s, t);
		if (b > 1) {
			struct state next = s;
			next.core = with(s.core, 2 * field(b, 2, 3), 2, b & 3);
			set_buffer(&next, t, b >> 5);
			explore(next);
			over = 0;
		}
		if (field(s.core, 16 + 4 * t, 4) < 3 * op_count[t]) {
			step(&s, t);
			over = 0;
		}
	}
	if (over)
		add_outcome(&s);
}

static void find_allowed(u8 *set, int in_halves, int with_buffers)
{
	memset(set, 0, OUTCOMES);
	outcomes = set;
	halves = in_halves;
	buffered = with_buffers;
	seen_round++;
	explore((struct state){ 0, { 1 | 1ull << 32, 1 | 1ull << 32 } });
}

/* Code. Variables are at R8 to R11, results go by RBX, RBP, R12, R13 to R14, R15 counts the delay. */
static u8 code[THREADS][1024] __attribute__((aligned(4096)));
static u8 *at;
enum { MOV8, MOV4, NEIGHBOURS, STRING, REPEATED, STACK, MOVQ, MOVDQU, VMOVDQU, KINDS };
static const char *const kind_name[] = { "MOV, 8 bytes",  "MOV, 4 bytes", "MOV among others",
					 "STOS and LODS", "REP STOS",	  "PUSH and POP",
					 "MOVQ",	  "MOVDQU",	  "VMOVDQU" };
enum { ONE_PAGE, OWN_PAGES, LINES, PAGES, LAYOUTS };
static const char *const layout_name[] = { "one page", "own pages", "across lines", "across pages" };
static u32 kind, layout;

static void put(u64 bytes, u32 n)
{
	for (u32 i = n; i-- > 0;)
		*at++ = bytes >> 8 * i;
}
static void put32(u32 v)
{
	for (u32 i = 0; i < 4; i++)
		*at++ = v >> 8 * i;
}

/* The instruction `bytes`, the last of them with ModRM's REG field, of `var` + `add`. */
static void operand(u64 bytes, u32 n, u32 var, u32 add)
{
	put(bytes, n);
	if (layout == ONE_PAGE) {
		put32(var * 64 + add);
	} else {
		at[-1] |= var;
		put32(add);
	}
}

static u64 pattern(u32 v)
{
	return v * 0x0101010101010101;
}

static void neighbours(u32 var, u32 t)
{
	operand(0x498b88, 3, var, 16 + 8 * t); /* mov ...,%rcx */
	operand(0x498988, 3, var, 16 + 8 * t);
}

static void store(u32 var, u32 value, u32 t)
{
	put(0x48b8, 2); /* mov $...,%rax */
	for (u32 i = 0; i < 8; i++)
		*at++ = pattern(value) >> 8 * i;
	if (kind >= MOVQ)
		put(0x66480f6ec0, 5); /* movq %rax,%xmm0 */
	switch (kind) {
	case NEIGHBOURS:
		neighbours(var, t);
		__attribute__((fallthrough));
	case MOV8:
		operand(0x498980, 3, var, 0);
		break;
	case MOV4:
		operand(0x418980, 3, var, 0);
		break;
	case STRING:
		operand(0x498db8, 3, var, 0); /* lea ...,%rdi */
		put(0x48ab, 2);
		break;
	case REPEATED:
		operand(0x498db8, 3, var, 0);
		put(0xb902000000f348ab, 8); /* mov $2,%ecx; rep stosq */
		break;
	case STACK:
		put(0x4889e2, 3);	      /* mov %rsp,%rdx */
		operand(0x498da0, 3, var, 8); /* lea ...,%rsp */
		put(0x504889d4, 4);	      /* push %rax; mov %rdx,%rsp */
		break;
	case MOVQ:
		operand(0x66410fd680, 5, var, 0);
		break;
	case MOVDQU:
		operand(0xf3410f7f80, 5, var, 0);
		break;
	case VMOVDQU:
		operand(0xc4c17e7f80, 5, var, 0);
		break;
	}
}

static void load(u32 var, u32 reg, u32 t)
{
	static const u32 move[] = { 0x4889c3, 0x4889c5, 0x4989c4, 0x4989c5 };

	switch (kind) {
	case NEIGHBOURS:
		neighbours(var, t);
		__attribute__((fallthrough));
	case MOV8:
		operand(0x498b80, 3, var, 0);
		break;
	case MOV4:
		operand(0x418b80, 3, var, 0);
		break;
	case STRING:
		operand(0x498db0, 3, var, 0); /* lea ...,%rsi */
		put(0x48ad, 2);
		break;
	case REPEATED:
		operand(0x498db0, 3, var, 0);
		put(0xb901000000f348ad, 8);
		break;
	case STACK:
		put(0x4889e2, 3);
		operand(0x498da0, 3, var, 0);
		put(0x584889d4, 4);
		break;
	case MOVQ:
		operand(0xf3410f7e80, 5, var, 0);
		break;
	case MOVDQU:
		operand(0xf3410f6f80, 5, var, 0);
		break;
	case VMOVDQU:
		operand(0xc4c17e6f80, 5, var, 0);
		break;
	}
	if (kind >= MOVQ)
		put(0x66480f7ec0, 5); /* movq %xmm0,%rax */
	put(move[reg], 3);
}

static void assemble(u32 t)
{
	static const u32 result[] = { 0x49895e, 0x49896e, 0x4d8966, 0x4d896e };

	at = code[t];
	put(0x49ffcf75fb, 5); /* 1: dec %r15; jnz 1b */
	for (u32 i = 0; i < op_count[t]; i++) {
		struct op *o = &ops[t][i];
		switch (o->what) {
		case 'W':
			store(o->var, o->value, t);
			break;
		case 'R':
			load(o->var, o->reg, t);
			break;
		case 'X':
			put(0x48b8, 2);
			for (u32 k = 0; k < 8; k++)
				*at++ = pattern(o->value) >> 8 * k;
			operand(0x498780, 3, o->var, 0);
			put((u32[]){ 0x4889c3, 0x4889c5, 0x4989c4, 0x4989c5 }[o->reg], 3);
			break;
		case 'F':
			put(0x0faef0, 3);
			break;
		case 'L':
			put(0xf048834424c000, 7); /* lock addq $0,-64(%rsp) */
			break;
		}
	}
	for (u32 r = 0; r < reg_count[t]; r++) {
		put(result[r], 3);
		*at++ = 8 * r;
	}
	*at++ = 0xc3;
	asm volatile("cpuid" ::"a"(0) : "ebx", "ecx", "edx", "memory");
}

/* The code as a function of variables' addresses, results, delay. */
void litmus_run(void *code, const ulong *vars, u64 *results, u64 delay);
asm("litmus_run:\n"
    "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    "mov %rdi,%rax; mov %rdx,%r14; mov %rcx,%r15\n"
    "mov (%rsi),%r8; mov 8(%rsi),%r9; mov 16(%rsi),%r10; mov 24(%rsi),%r11\n"
    "call *%rax\n"
    "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
    "ret\n");

/* A batch: each iteration has variables of its own, so that the threads need not wait for one another. */
#define BATCH 512
#define ARENA (1u << 20) /* of each variable */
static u8 arena[4 * ARENA + 4096] __attribute__((aligned(4096)));
static u64 results[THREADS][BATCH][4];
static struct {
	volatile u64 at, pad[15];
} position[THREADS];
static struct barrier gather;
static volatile u64 batches;
static u64 histogram[OUTCOMES];

static u32 batch_size;

static u32 batch(void)
{
	return batch_size;
}

static void addresses(u32 i, ulong *a)
{
	for (u32 v = 0; v < 4; v++) {
		ulong own = (ulong)arena + v * ARENA;
		switch (layout) {
		case ONE_PAGE:
			a[v] = (ulong)arena + i * 256;
			break;
		case OWN_PAGES:
			a[v] = own + i * 64;
			break;
		case LINES:
			a[v] = own + i * 64 + 60;
			break;
		case PAGES:
			a[v] = own + i * 4096 + 4092;
			break;
		}
	}
}

static volatile u64 *variable(const ulong *a, u32 v)
{
	return (volatile u64 *)(a[v] + (layout == ONE_PAGE ? v * 64 : 0));
}

static void clear(void)
{
	for (u32 i = 0; i < batch(); i++) {
		ulong a[4];
		addresses(i, a);
		for (u32 v = 0; v < 4; v++)
			*variable(a, v) = 0;
		for (u32 t = 0; t < THREADS; t++)
			position[t].at = 0;
	}
}

static u32 digit(u64 v)
{
	u64 mask = kind == MOV4 ? 0xffffffff : ~0ull;

	for (u32 d = 0; d < TORN; d++) {
		if ((v & mask) == (pattern(d) & mask))
			return d;
	}
	return TORN;
}

static void count(void)
{
	for (u32 i = 0; i < batch(); i++) {
		u32 out = 0, k = 0;
		ulong a[4];
		for (u32 t = 0; t < threads; t++) {
			for (u32 r = 0; r < reg_count[t]; r++)
				out |= digit(results[t][i][r]) << 2 * k++;
		}
		addresses(i, a);
		for (u32 f = 0; f < final_count; f++)
			out |= digit(*variable(a, finals[f])) << 2 * k++;
		histogram[out]++;
	}
}

static void thread(ulong slot)
{
	u32 seed = slot * 2654435761u + 12345;

	cli();
	for (u64 b = 0; b < batches; b++) {
		/* every processor has every part */
		u32 t = (slot + b) % threads;
		if (slot == 0)
			clear();
		barrier(&gather, threads);
		u32 patience = 20000;
		for (u32 i = 0; i < batch(); i++) {
			ulong a[4];
			u64 got[4];
			addresses(i, a);
			seed = seed * 1103515245 + 12345;
			position[t].at = i;
			/* wait for the others; not again in this batch for one that does not run */
			u32 behind = 1;
			for (u32 k = 0; k < patience && behind; k++) {
				behind = 0;
				for (u32 o = 0; o < threads; o++)
					behind |= position[o].at < i;
				if (behind && k > 20)
					pause();
			}
			if (behind)
				patience = 0;
			litmus_run(code[t], a, got, 1 + (seed >> 16) % (1 + (seed >> 28) * 2));
			for (u32 r = 0; r < reg_count[t]; r++)
				results[t][i][r] = got[r];
		}
		barrier(&gather, threads);
		if (slot == 0)
			count();
	}
	sti();
}

static const char *outcome_text(u32 out)
{
	static char s[DIGITS + 1];

	for (u32 d = 0; d < digits; d++)
		s[d] = "012*"[out >> 2 * d & 3];
	s[digits] = 0;
	return s;
}

static u32 outcome_number(const char *s)
{
	u32 out = 0;
	for (u32 d = 0; s[d]; d++)
		out |= (s[d] - '0') << 2 * d;
	return out;
}

static u64 relaxed, relaxed_sb;

static void one(const struct test *test, u64 iterations, u64 *forbidden, u64 *weak)
{
	for (u32 t = 0; t < threads; t++)
		assemble(t);
	memset(histogram, 0, sizeof(histogram));
	batch_size = layout == PAGES ? 128 : BATCH;
	if (batch_size > iterations)
		batch_size = iterations + 1;
	batches = (iterations + batch_size - 1) / batch_size;
	for (u32 t = 1; t < threads; t++)
		mp_call(t, thread, t);
	thread(0);
	for (u32 t = 1; t < threads; t++)
		mp_wait(t);
	if (mp_option("histograms", 0))
		say("  %s, %s, %s:", test->name, kind_name[kind], layout_name[layout]);
	for (u32 out = 0; out < OUTCOMES; out++) {
		if (!histogram[out])
			continue;
		if (!tso[out]) {
			say("  %s, %s, %s: %s came out, %d times\n", test->name, kind_name[kind], layout_name[layout],
			    outcome_text(out), (int)histogram[out]);
			*forbidden += histogram[out];
		} else if (!sc[out]) {
			*weak += histogram[out];
		}
		if (mp_option("histograms", 0))
			say(" %s:%d%s", outcome_text(out), (int)histogram[out], sc[out] ? "" : "!");
	}
	if (mp_option("histograms", 0))
		say("\n");
}

static int has_avx(void)
{
	return (cpuid_reg(1, 0, 2) >> 27 & 3) == 3;
}

static void run(const struct test *test, u64 iterations)
{
	u64 forbidden = 0, weak = 0;

	for (int across = 0; across < 2; across++) {
		if (across && !test->all)
			break;
		find_allowed(tso, across, 1);
		find_allowed(sc, across, 0);
		if (!across)
			check(
			    nm("%s: %s %s", test->name, test->witness, test->allowed ? "is allowed" : "is not allowed"),
			    tso[outcome_number(test->witness)], test->allowed);
		for (kind = 0; kind < KINDS; kind++) {
			if ((kind && !test->all) || (kind == VMOVDQU && !has_avx()))
				continue;
			for (layout = across ? LINES : ONE_PAGE; layout <= (across ? PAGES : OWN_PAGES); layout++) {
				/* the 4 bytes of MOV4 are not across anything */
				if (across && kind == MOV4)
					continue;
				one(test, kind || across ? iterations / 8 : iterations, &forbidden, &weak);
			}
		}
	}
	check(nm("%s: what x86-TSO allows", test->name), forbidden, 0);
	relaxed += weak;
	if (test->code == tests[0].code)
		relaxed_sb += weak;
}

int main(void)
{
	mp_init();
	u64 iterations = mp_option("iterations", 200), want = mp_option("relaxed", 2), ran = 0;

	for (u32 i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
		parse(tests[i].code);
		if (threads > mp_started)
			continue;
		run(&tests[i], iterations);
		ran++;
	}
	if (!ran) {
		skip("one processor");
		return 0;
	}
	say("%d relaxed outcomes, %d of SB\n", (int)relaxed, (int)relaxed_sb);
	if (want == 1)
		check("SB: the relaxed outcome is seen", relaxed_sb > 0, 1);
	if (want == 0)
		check("no relaxed outcome where processors take turns", relaxed, 0);
	return 0;
}

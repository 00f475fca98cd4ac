/*
 * The search (contract in replay/lockstep.h).
 *
 * Where the slices are cut must not matter to the guest, but may matter to a
 * faulty engine: a fault in a long translated block may not show when the
 * block is cut up. So a run is repeated with the very slices it had. A *plan*
 * says which: first slices of one length up to a point, then shorter ones up
 * to the next point, and so on. Narrowing appends shorter and shorter slices;
 * where the difference does not show with those, the last interval is halved
 * instead, each probe a run of its own that does not stop in between.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replay/lockstep_internal.h"

/* RAM is compared every so many slices: measured over a boot of Linux with
 * 128 MiB, every slice of a million makes a run three times as long, every 16th
 * adds a tenth. */
#define RAM_EVERY 16
/* A narrowing pass cuts the interval into so many slices. */
#define CUT 64
#define PLAN_MAX 16

struct plan {
	unsigned n;
	struct {
		u64 upto, step;
	} part[PLAN_MAX];
};

struct search {
	const struct lockstep_config *c;
	struct lockstep_result *out;
	struct pair pair;
	const char *phase;
	size_t console_done;
	bool over; /* stopped or failed: out->end says which */
};

/* ---- the pair ---- */

static bool give_up(struct search *s, enum lockstep_end how, const char *text)
{
	if (!s->over) {
		s->over = true;
		s->out->end = how;
		snprintf(s->out->text, sizeof(s->out->text), "%.255s", text);
	}
	return false;
}

static void pair_close(struct search *s)
{
	for (unsigned i = 0; i < 2; i++) {
		struct side *side = &s->pair.s[i];

		if (side->m && s->c->machine_changed)
			s->c->machine_changed(s->c->opaque, i, NULL);
		machine_destroy(side->m);
		if (side->serial)
			side->serial->ops->destroy(side->serial);
		enc_free(&side->state);
	}
	s->pair = (struct pair){ 0 };
}

static struct machine_config side_config(const struct lockstep_config *c, unsigned which)
{
	struct machine_config m = *c->machine;

	m.engine = c->engine[which];
	m.insn_limit = 0;
	memset(m.serial, 0, sizeof(m.serial));
	return m;
}

static bool pair_open(struct search *s)
{
	struct error e;

	pair_close(s);
	for (unsigned i = 0; i < 2; i++) {
		struct side *side = &s->pair.s[i];
		struct machine_config m = side_config(s->c, i);

		enc_init(&side->state);
		if (s->c->serial) {
			m.serial[0] = side->serial = chr_memory_create();
			if (!side->serial)
				return give_up(s, LOCKSTEP_FAILED, "not enough host memory");
		}
		side->m = machine_create(&m, &e);
		if (!side->m)
			return give_up(s, LOCKSTEP_FAILED, e.text);
		side->r.end = MACHINE_END_LIMIT;
		if (s->c->machine_changed)
			s->c->machine_changed(s->c->opaque, i, side->m);
	}
	return true;
}

/* Has the guest of either machine ended? */
static bool ended(const struct pair *p)
{
	return p->s[0].r.end != MACHINE_END_LIMIT || p->s[1].r.end != MACHINE_END_LIMIT;
}

/* A machine built from what the second one saved takes its place. */
static bool rebuild(struct search *s, struct side *side)
{
	struct machine_config cfg = side_config(s->c, 1);
	struct machine *m;
	struct error e;

	if (s->c->alternate)
		cfg.engine = s->c->engine[side->turns++ % 2];
	cfg.serial[0] = side->serial;
	m = round_trip(side->m, &cfg, &e);
	if (!m)
		return give_up(s, LOCKSTEP_FAILED, e.text);
	if (s->c->machine_changed)
		s->c->machine_changed(s->c->opaque, 1, NULL);
	machine_destroy(side->m);
	side->m = m;
	if (s->c->machine_changed)
		s->c->machine_changed(s->c->opaque, 1, m);
	return true;
}

/* One slice. A machine whose guest has ended stays where it is. */
static bool advance(struct search *s, u64 icount)
{
	struct error e;

	if (s->c->stopping && s->c->stopping(s->c->opaque))
		return give_up(s, LOCKSTEP_STOPPED, "stopped");
	for (unsigned i = 0; i < 2; i++) {
		struct side *side = &s->pair.s[i];

		if (side->r.end != MACHINE_END_LIMIT)
			continue;
		if (i == 1 && s->c->round_trip && side_icount(side) && !rebuild(s, side))
			return false;
		if (i == 1 && s->c->alternate && !s->c->round_trip &&
		    machine_set_engine(side->m, s->c->engine[side->turns++ % 2], &e))
			return give_up(s, LOCKSTEP_FAILED, e.text);
		machine_run_until(side->m, icount, &side->r);
		if (side->r.end == MACHINE_END_STOPPED)
			return give_up(s, LOCKSTEP_STOPPED, "stopped");
		if (side->r.end == MACHINE_END_FAILED)
			return give_up(s, LOCKSTEP_FAILED, side->r.text);
	}
	if (s->c->progress)
		s->c->progress(s->c->opaque, s->phase, icount);
	return true;
}

static bool differs(struct search *s, bool ram)
{
	int d = pair_differs(&s->pair, ram);

	s->out->ram_compares += ram;
	if (d < 0)
		return give_up(s, LOCKSTEP_FAILED, "not enough host memory");
	return d > 0;
}

/* What both wrote and was found equal goes to the caller, once over all runs. */
static void hand_on_console(struct search *s)
{
	struct pair *p = &s->pair;
	const u8 *text;
	size_t n;

	if (!p->s[0].serial)
		return;
	text = chr_memory_data(p->s[0].serial, &n);
	if (n > s->console_done && s->c->console)
		s->c->console(s->c->opaque, text + s->console_done, n - s->console_done);
	s->console_done = MAX(s->console_done, n);
	p->serial_seen = n;
}

/* ---- plans ---- */

static void plan_add(struct plan *p, u64 upto, u64 step)
{
	if (p->n < PLAN_MAX && (!p->n || upto > p->part[p->n - 1].upto)) {
		p->part[p->n].upto = upto;
		p->part[p->n++].step = step;
	}
}

/* New machines, run by the plan to its end. */
static bool replay(struct search *s, const struct plan *p)
{
	u64 at = 0;

	if (!pair_open(s))
		return false;
	for (unsigned i = 0; i < p->n; i++) {
		while (at < p->part[i].upto) {
			at = MIN(at + p->part[i].step, p->part[i].upto);
			if (!advance(s, at))
				return false;
		}
	}
	return true;
}

/* ---- narrowing ---- */

/* Known: equal at the end of `base`, different at `hi` (counted from there in
 * slices of `step` or shorter ones). */
struct interval {
	struct plan base;
	u64 lo, hi;
	bool seen; /* the difference has shown again */
};

/* Runs again from the start in slices of `step` behind lo, everything compared
 * after each. True: found, and the interval is one slice. */
static bool cut(struct search *s, struct interval *v, u64 step)
{
	u64 at = v->lo;

	if (!replay(s, &v->base) || differs(s, true))
		return false;
	while (at < v->hi) {
		u64 next = MIN(at + step, v->hi);

		if (!advance(s, next))
			return false;
		if (differs(s, true)) {
			v->seen = true;
			plan_add(&v->base, at, step);
			v->lo = at;
			v->hi = next;
			return true;
		}
		if (s->over)
			return false;
		at = next;
	}
	return false;
}

/* Does it show when run from lo to `at` without a stop? */
static bool probe(struct search *s, const struct interval *v, u64 at)
{
	struct plan p = v->base;

	plan_add(&p, at, at - v->lo);
	return replay(s, &p) && differs(s, true);
}

/* Halves the interval, keeping its start. The last two probes, at hi - 1 and
 * at hi, tell the instruction. */
static void halve(struct search *s, struct interval *v)
{
	u64 good = v->lo;

	if (!probe(s, v, v->hi))
		return;
	v->seen = true;
	while (!s->over && v->hi - good > 1) {
		u64 mid = good + (v->hi - good) / 2;

		if (probe(s, v, mid))
			v->hi = mid;
		else
			good = mid;
	}
}

/* The pair to just before and just behind the instruction; the report between. */
static void show(struct search *s, const struct interval *v)
{
	struct plan p = v->base;
	struct scene *scene;

	plan_add(&p, v->hi - 1, v->hi - 1 - v->lo);
	if (!replay(s, &p))
		return;
	scene = scene_create(&s->pair);
	if (!scene) {
		give_up(s, LOCKSTEP_FAILED, "not enough host memory");
		return;
	}
	p = v->base;
	plan_add(&p, v->hi, v->hi - v->lo);
	if (v->hi - 1 == v->lo ? advance(s, v->hi) : replay(s, &p))
		scene_report(scene, &s->pair, s->c);
	scene_destroy(scene);
}

static void not_again(struct search *s, const struct interval *v)
{
	char text[200];

	s->out->repeated = false;
	snprintf(text, sizeof(text),
		 "different after %lu instructions, equal after %lu; running again did not show it again", v->hi,
		 v->lo);
	if (s->c->line)
		s->c->line(s->c->opaque, text);
}

static void narrow(struct search *s, u64 equal, u64 different)
{
	struct interval v = { .lo = equal, .hi = different };
	u64 step = s->c->every;

	s->phase = "narrowing";
	plan_add(&v.base, equal, s->c->every);
	/* Which of the slices since RAM was last compared? One instruction is a slice that needs no more cuts. */
	if ((different - equal > step || step == 1) && !cut(s, &v, step))
		step = 0;
	while (step > 1 && v.hi - v.lo > 1 && !s->over) {
		step = MAX(MIN(step, v.hi - v.lo) / CUT, 1);
		if (!cut(s, &v, step))
			break;
	}
	if (v.hi - v.lo > 1 && !s->over)
		halve(s, &v);
	if (s->over)
		return;
	s->out->end = LOCKSTEP_DIVERGED;
	s->out->repeated = true;
	s->out->equal = v.hi - 1;
	s->out->different = v.hi;
	if (v.seen) {
		show(s, &v);
		return;
	}
	s->out->equal = v.lo;
	not_again(s, &v);
}

/* ---- the run ---- */

static u64 slice_end(const struct search *s, u64 at)
{
	u64 end = at + s->c->every;

	return s->c->limit ? MIN(end, s->c->limit) : end;
}

static void run(struct search *s)
{
	u64 at = 0, ram_equal = 0;

	s->phase = "running";
	if (!pair_open(s))
		return;
	while (!s->over) {
		u64 next = slice_end(s, at);
		bool last, ram;

		if (!advance(s, next))
			return;
		s->out->slices++;
		last = ended(&s->pair) || next == s->c->limit;
		ram = last || s->out->slices % RAM_EVERY == 0;
		if (differs(s, ram)) {
			narrow(s, ram_equal, next);
			return;
		}
		hand_on_console(s);
		at = next;
		if (ram)
			ram_equal = at;
		s->out->instructions = side_icount(&s->pair.s[0]);
		if (last) {
			s->out->guest = s->pair.s[0].r;
			return;
		}
	}
}

int lockstep_check(const struct lockstep_config *c, struct error *e)
{
	for (unsigned i = 0; i < 2; i++) {
		struct machine_config m = side_config(c, i);

		if (machine_check(&m, e))
			return -1;
	}
	return 0;
}

void lockstep_run(const struct lockstep_config *c, struct lockstep_result *out)
{
	struct search s = { .c = c, .out = out };

	*out = (struct lockstep_result){ .end = LOCKSTEP_EQUAL };
	run(&s);
	pair_close(&s);
}

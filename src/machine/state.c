/*
 * The state of a whole machine (contract in state.h): what it is made of, in
 * the order in which it is loaded. Memory is loaded before all, for devices
 * look into it; processors and clock before devices.
 */
#include "machine/internal.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "cpu/linear.h"
#include "cpu/save.h"
#include "dev/chipset/rtc.h"
#include "machine/pv.h"
#include "machine/state.h"
#include "replay/door.h"

/* A component, and which of its kind. */
struct part {
	struct machine *m;
	unsigned n;
	const struct device *device;
};

struct component {
	const char *name;
	bool hashed; /* the same in all engines at one instruction count: part of the state hash */
	unsigned (*count)(const struct machine *m); /* how many there are; NULL: one */
	void (*save)(const struct part *p, struct encoder *e);
	int (*check)(const struct part *p, struct decoder *in);
	void (*load)(const struct part *p, struct decoder *in);
};

/* ---- the machine itself: section "machine", version 1 ---- */

/* Requests not yet served (u32), the value of a debug exit (u32), who asked for the next turn (u32). */
static void save_machine(const struct part *p, struct encoder *e)
{
	enc_begin(e, "machine", 1);
	enc_u32(e, p->m->requests);
	enc_u32(e, (u32)p->m->debug_exit_value);
	enc_u32(e, (u32)p->m->turn_to);
	enc_end(e);
}

struct saved_machine {
	u32 requests, debug_exit, turn_to;
};

static bool decode_machine(const struct part *p, struct decoder *in, struct saved_machine *s)
{
	const u32 known = REQUEST_RESET | REQUEST_INIT | REQUEST_POWER_OFF | REQUEST_DEBUG_EXIT | REQUEST_TRIPLE_FAULT;
	struct decoder i;

	if (!dec_begin(in, "machine", &i) || i.version != 1)
		return false;
	s->requests = dec_u32(&i);
	s->debug_exit = dec_u32(&i);
	s->turn_to = dec_u32(&i);
	return dec_done(&i) && !(s->requests & ~known) && (s->turn_to == ~0u || s->turn_to < p->m->cfg.cpus);
}

static int check_machine(const struct part *p, struct decoder *in)
{
	struct saved_machine s;

	return decode_machine(p, in, &s) ? 0 : -1;
}

static void load_machine(const struct part *p, struct decoder *in)
{
	struct saved_machine s;

	if (!decode_machine(p, in, &s))
		return;
	p->m->requests = s.requests;
	p->m->debug_exit_value = (int)s.debug_exit;
	p->m->turn_to = (int)s.turn_to;
}

/* ---- processors ---- */

static unsigned count_cpus(const struct machine *m)
{
	return m->cfg.cpus;
}

static void save_cpu(const struct part *p, struct encoder *e)
{
	fpu_park(p->m->cpu[p->n].v);
	cpu_save(&p->m->cpu[p->n].v->cpu, e);
}

static int check_cpu(const struct part *p, struct decoder *in)
{
	return cpu_check(in, &p->m->model);
}

static void load_cpu(const struct part *p, struct decoder *in)
{
	struct machine_cpu *c = &p->m->cpu[p->n];

	cpu_load(&c->v->cpu, in);
	c->tsc_offset = c->v->cpu.tsc_offset;
}

/* Section "vcpu", version 1: instructions retired (u64), what others asked of it (u8, u8). */
static void save_vcpu(const struct part *p, struct encoder *e)
{
	const struct machine_cpu *c = &p->m->cpu[p->n];

	enc_begin(e, "vcpu", 1);
	enc_u64(e, c->v->icount);
	enc_u8(e, (u8)c->asked);
	enc_u8(e, c->sipi_vector);
	enc_end(e);
}

static bool decode_vcpu(struct decoder *in, u64 *icount, u8 *asked, u8 *sipi_vector)
{
	struct decoder i;

	if (!dec_begin(in, "vcpu", &i) || i.version != 1)
		return false;
	*icount = dec_u64(&i);
	*asked = dec_u8(&i);
	*sipi_vector = dec_u8(&i);
	return dec_done(&i) && *icount < 1ull << 60 && !(*asked & ~(ASKED_INIT | ASKED_SIPI | ASKED_NMI));
}

static int check_vcpu(const struct part *p, struct decoder *in)
{
	u8 asked, vector;
	u64 icount;

	return decode_vcpu(in, &icount, &asked, &vector) ? 0 : -1;
}

static void load_vcpu(const struct part *p, struct decoder *in)
{
	struct machine_cpu *c = &p->m->cpu[p->n];
	u8 asked;

	if (decode_vcpu(in, &c->v->icount, &asked, &c->sipi_vector))
		c->asked = asked;
}

/* ---- turns: section "turns", version 1: whose it is (u32), what is left of it (u64) ---- */

static unsigned count_turns(const struct machine *m)
{
	return m->cfg.cpus > 1;
}

static void save_turns(const struct part *p, struct encoder *e)
{
	enc_begin(e, "turns", 1);
	enc_u32(e, p->m->turn);
	enc_u64(e, p->m->turn_left);
	enc_end(e);
}

static bool decode_turns(const struct part *p, struct decoder *in, u32 *turn, u64 *left)
{
	struct decoder i;

	if (!dec_begin(in, "turns", &i) || i.version != 1)
		return false;
	*turn = dec_u32(&i);
	*left = dec_u64(&i);
	return dec_done(&i) && *turn < p->m->cfg.cpus;
}

static int check_turns(const struct part *p, struct decoder *in)
{
	u32 turn;
	u64 left;

	return decode_turns(p, in, &turn, &left) ? 0 : -1;
}

static void load_turns(const struct part *p, struct decoder *in)
{
	u32 turn;

	if (!decode_turns(p, in, &turn, &p->m->turn_left))
		return;
	p->m->turn = turn;
	clock_set_source(p->m->clock, &p->m->cpu[turn].v->icount);
}

/* ---- time and the outside ---- */

static void save_clock(const struct part *p, struct encoder *e)
{
	clock_save(p->m->clock, e);
}
static int check_clock(const struct part *p, struct decoder *in)
{
	return clock_check(in);
}
static void load_clock(const struct part *p, struct decoder *in)
{
	clock_load(p->m->clock, in);
}

static void save_door(const struct part *p, struct encoder *e)
{
	door_save(p->m->door, e);
}
static int check_door(const struct part *p, struct decoder *in)
{
	return door_check(p->m->door, in);
}
static void load_door(const struct part *p, struct decoder *in)
{
	door_load(p->m->door, in);
}

static void save_timers(const struct part *p, struct encoder *e)
{
	clock_save_order(p->m->clock, e);
}
static int check_timers(const struct part *p, struct decoder *in)
{
	return clock_check_order(p->m->clock, in);
}
static void load_timers(const struct part *p, struct decoder *in)
{
	clock_load_order(p->m->clock, in);
}

/* ---- devices ---- */

static unsigned count_devices(const struct machine *m)
{
	unsigned n = 0;

	for (const struct device *d = m->board.first; d; d = d->next)
		n++;
	return n;
}

static void save_device(const struct part *p, struct encoder *e)
{
	p->device->ops->save(p->device, e);
}
static int check_device(const struct part *p, struct decoder *in)
{
	return p->device->ops->check(p->device, in);
}
static void load_device(const struct part *p, struct decoder *in)
{
	p->device->ops->load((struct device *)(uintptr_t)p->device, in);
}

static const struct component components[] = {
	{ "machine", false, NULL, save_machine, check_machine, load_machine },
	{ "cpu", true, count_cpus, save_cpu, check_cpu, load_cpu },
	{ "vcpu", false, count_cpus, save_vcpu, check_vcpu, load_vcpu },
	{ "turns", true, count_turns, save_turns, check_turns, load_turns },
	{ "clock", true, NULL, save_clock, check_clock, load_clock },
	{ "door", false, NULL, save_door, check_door, load_door },
	{ "device", true, count_devices, save_device, check_device, load_device },
	{ "timers", false, NULL, save_timers, check_timers, load_timers },
};

/* ---- all of them ---- */

/* Where a walk over all parts of all components is. */
struct walk {
	struct part part;
	const struct component *c;
	unsigned count; /* of *c */
};

static void begin_component(struct walk *w, const struct component *c)
{
	w->c = c;
	w->part.n = 0;
	w->count = c->count ? c->count(w->part.m) : 1;
	w->part.device = c->count == count_devices ? w->part.m->board.first : NULL;
}

static struct walk walk_start(struct machine *m)
{
	struct walk w = { .part = { .m = m } };

	begin_component(&w, components);
	return w;
}

/* Is there a part? */
static bool walk_more(struct walk *w)
{
	while (w->part.n == w->count) {
		if (w->c == &components[ARRAY_SIZE(components) - 1])
			return false;
		begin_component(w, w->c + 1);
	}
	return true;
}

static void walk_next(struct walk *w)
{
	w->part.n++;
	if (w->part.device)
		w->part.device = w->part.device->next;
}

/* Devices of one name, as local APICs are, are counted. */
static void part_name(const struct walk *w, char out[STREAM_NAME_MAX + 1])
{
	const char *name = w->c->name;
	unsigned n = w->part.n;
	bool several = w->c->count && !w->part.device;

	if (w->part.device) {
		name = w->part.device->ops->name;
		n = 0;
		for (const struct device *d = w->part.m->board.first; d != w->part.device; d = d->next)
			n += !strcmp(d->ops->name, name);
		several = n;
	}
	snprintf(out, STREAM_NAME_MAX + 1, several ? "%s%s.%u" : "%s%s", w->part.device ? "dev." : "", name, n);
}

void machine_save_kind(struct machine *m, struct stream_writer *w)
{
	stream_section_begin(w, "cpu-model", STREAM_REQUIRED);
	cpu_model_save(&m->model, w->to);
	stream_section_end(w);
	stream_section_begin(w, "boot", STREAM_REQUIRED);
	boot_save(m->image, w->to);
	stream_section_end(w);
}

void machine_save(struct machine *m, struct stream_writer *w)
{
	char name[STREAM_NAME_MAX + 1];

	machine_save_kind(m, w);
	for (struct walk at = walk_start(m); walk_more(&at); walk_next(&at)) {
		part_name(&at, name);
		stream_section_begin(w, name, STREAM_REQUIRED);
		at.c->save(&at.part, w->to);
		stream_section_end(w);
	}
}

void machine_save_state(struct machine *m, struct encoder *e)
{
	for (struct walk at = walk_start(m); walk_more(&at); walk_next(&at))
		if (at.c->hashed)
			at.c->save(&at.part, e);
}

static const char other_options[] = "give the options that the saved one had";

static int check_all(struct machine *m, const struct stream *s, struct error *e)
{
	const struct stream_section *unknown;
	char name[STREAM_NAME_MAX + 1];

	for (struct walk at = walk_start(m); walk_more(&at); walk_next(&at)) {
		const struct stream_section *sec;
		struct decoder d;

		part_name(&at, name);
		sec = stream_find(s, name);
		if (!sec)
			return error_set(e, "the snapshot has no section %s, which this machine needs: %s", name,
					 other_options);
		d = stream_decoder(sec);
		if (at.c->check(&at.part, &d) || !dec_done(&d))
			return error_set(e, "section %s of the snapshot is not sound, or not of this machine", name);
	}
	unknown = stream_unknown(s);
	if (unknown)
		return error_set(e, "section %s of the snapshot belongs to nothing in this machine: %s", unknown->name,
				 other_options);
	return 0;
}

static void load_all(struct machine *m, const struct stream *s)
{
	char name[STREAM_NAME_MAX + 1];

	for (struct walk at = walk_start(m); walk_more(&at); walk_next(&at)) {
		struct decoder d;

		part_name(&at, name);
		d = stream_decoder(stream_find(s, name));
		at.c->load(&at.part, &d);
	}
}

int machine_load_known(const struct machine *m, struct boot_known *known, struct error *e)
{
	const struct stream_section *s = stream_find(m->cfg.saved->stream, "boot");
	struct decoder d;

	if (!s)
		return error_set(e, "the snapshot has no section boot");
	d = stream_decoder(s);
	return boot_known_read(known, &d) || !dec_done(&d) ? error_set(e, "section boot of the snapshot is not sound")
							   : 0;
}

int machine_load_model(struct machine *m, const struct cpu_limits *limits, struct error *e)
{
	const struct stream_section *s = stream_find(m->cfg.saved->stream, "cpu-model");
	struct decoder d;

	if (!s)
		return error_set(e, "the snapshot has no section cpu-model");
	d = stream_decoder(s);
	if (cpu_model_load(&m->model, &d, m->cfg.cpus, limits, e))
		return -1;
	return dec_done(&d) ? 0 : error_set(e, "the record of the CPU model is not sound: there is more behind it");
}

/* What has passed since the machine was saved goes by for the guest as well. */
static void catch_up(struct machine *m)
{
	const u64 most = 20ull * 365 * 86400 * NSEC_PER_SEC; /* more is no time that passed, but a wrong clock */
	u64 then = clock_loaded_wall(m->clock), now;

	if (!then || m->cfg.saved->keep_time)
		return;
	now = door_wall_ns(m->door);
	if (now <= then || now - then > most)
		return;
	if (!pv_clock_used(m)) {
		rtc_advance(m->rtc, now - then);
		return;
	}
	clock_advance(m->clock, now - then);
	clock_start(m->clock); /* the rest of the way to the first instruction counts, too */
	pv_wall_moved(m);
}

int machine_load(struct machine *m, struct error *e)
{
	const struct machine_saved *s = m->cfg.saved;

	if (check_all(m, s->stream, e) || machine_load_ram(m, e))
		return -1;
	load_all(m, s->stream);
	catch_up(m);
	m->quiesced = true; /* what waits in rings is served when it begins to run */
	return 0;
}

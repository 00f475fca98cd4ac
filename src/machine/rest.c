/*
 * A machine at rest. Most of what an idle guest runs it runs a few times only,
 * and what the translator makes of that, with its tables, is several times
 * larger than what the reference engine keeps, and took longer to make than
 * the code takes to be interpreted. Copies of one snapshot share their RAM, so
 * this is most of what each of them has for itself. A machine that has been
 * idle for a while therefore goes on in the reference engine, as if somebody
 * had asked for it (engine_switch.c), and has the translator back, empty, as
 * soon as there is work.
 *
 * Idle: the process used less than REST_PERCENT of a processor in each of
 * several windows. Work: the processors have run for longer than they may,
 * which is CREDIT_MAX_NS at once and REST_PERCENT in the long run; the
 * reference engine leaves often enough to see that. After a short rest the next
 * one has to be waited for longer.
 *
 * What the reference engine keeps grows with everything that comes up once in a
 * while, so that it begins anew as well, less and less often.
 */
#include <malloc.h>
#include <time.h>

#include "base/log.h"
#include "machine/internal.h"

#define WINDOW_NS (10 * NSEC_PER_SEC)
#define REST_PERCENT 5u
#define WINDOWS_MIN 2u
#define WINDOWS_MAX 32u
#define SHORT_NS (60 * NSEC_PER_SEC)
#define CREDIT_MAX_NS (100 * NSEC_PER_SEC / 1000)
#define RENEW_MIN_NS (15 * NSEC_PER_SEC)
#define RENEW_MAX_NS (3600 * NSEC_PER_SEC)
#define RUN_INSNS 200000u /* some milliseconds */

/* Of all threads. */
static u64 process_ns(void)
{
	struct timespec t;

	if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t))
		return 0;
	return (u64)t.tv_sec * NSEC_PER_SEC + (u64)t.tv_nsec;
}

static bool can_rest(const struct machine *m)
{
	return (m->engine->caps & ENGINE_TRANSLATES) && !engine_options_translator(&m->cfg.engine_options) &&
	       !(machine_engine_caps(&m->cfg) & ~engine_interp.caps);
}

void rest_start(struct machine *m)
{
	m->rest.look_at = m->cfg.may_rest && m->cfg.clock == MACHINE_CLOCK_REAL && !m->cfg.insn_limit &&
				  !m->has_debugger && can_rest(m)
			      ? 0
			      : CLOCK_NEVER;
	m->rest.windows = WINDOWS_MIN;
}

bool rest_is(const struct machine *m)
{
	return m->rest.work != NULL;
}

u64 rest_budget(const struct machine *m)
{
	return rest_is(m) ? RUN_INSNS : CLOCK_NEVER;
}

/* At rest: a while has passed in which processors ran for `ran` and slept for `slept`. */
static void spend(struct rest *r, u64 ran, u64 slept)
{
	r->credit = MIN(r->credit + slept * REST_PERCENT / 100, CREDIT_MAX_NS);
	r->credit -= MIN(r->credit, ran);
	if (!r->credit)
		r->wanted = true;
}

void rest_ran(struct machine *m)
{
	struct rest *r = &m->rest;
	u64 used;

	if (!r->work)
		return;
	/* not the host's time, much of which is other processes' on a busy host */
	used = process_ns();
	spend(r, used - r->used, 0);
	r->used = used;
}

void rest_slept(struct machine *m, u64 now, u64 slept)
{
	struct rest *r = &m->rest;
	u64 used, window;

	if (r->work) {
		spend(r, 0, slept);
		r->wanted |= now - r->renewed >= r->renew;
		return;
	}
	if (now < r->look_at)
		return;
	used = process_ns();
	window = now - r->last;
	r->idle = r->look_at && (used - r->used) * 100 < window * REST_PERCENT ? r->idle + 1 : 0;
	r->last = now;
	r->used = used;
	r->look_at = now + WINDOW_NS;
	r->wanted = r->idle >= r->windows && can_rest(m);
}

static void change(struct machine *m, const struct engine_ops *to)
{
	struct error e;

	if (machine_replace_engine(m, to, &e))
		log_warn("engine", "%s goes on: %s", m->engine->name, e.text);
}

void machine_serve_rest(struct machine *m)
{
	struct rest *r = &m->rest;
	const struct engine_ops *work = r->work;
	u64 now = host_ns();

	r->wanted = false;
	if (work && r->credit) {
		change(m, m->engine);
		r->renew = MIN(2 * r->renew, RENEW_MAX_NS);
		r->renewed = host_ns();
		r->used = process_ns();
		malloc_trim(0);
		return;
	}
	if (work) {
		change(m, work);
		r->work = NULL;
		r->windows = now - r->began < SHORT_NS ? MIN(2 * r->windows, WINDOWS_MAX) : WINDOWS_MIN;
		r->look_at = now + WINDOW_NS;
	} else {
		work = m->engine;
		change(m, &engine_interp);
		if (m->engine != work)
			r->work = work;
		r->began = r->renewed = now;
		r->renew = RENEW_MIN_NS;
		r->credit = CREDIT_MAX_NS;
		malloc_trim(0);
	}
	r->idle = 0;
	r->last = now;
	r->used = process_ns();
}

void rest_forget(struct machine *m)
{
	m->rest.work = NULL;
	m->rest.wanted = false;
}

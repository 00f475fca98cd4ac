#include "engine/stop.h"

/* The world's functions are ordinary C. */
static bool put_away(struct vcpu *v)
{
	bool live = v->fpu_live;

	fpu_park(v);
	return live;
}

static void take_back(struct vcpu *v, bool live)
{
	if (live)
		fpu_load(v);
}

bool stop_others(struct vcpu *v)
{
	struct world *w = world_of(v);
	bool live, changed;

	if (!w)
		return false;
	live = put_away(v);
	changed = world_stop(w, v->index);
	take_back(v, live);
	return changed;
}

void let_others_go(struct vcpu *v)
{
	struct world *w = world_of(v);
	bool live;

	if (!w)
		return;
	live = put_away(v);
	world_go(w, v->index);
	take_back(v, live);
}

void wait_for_others(struct vcpu *v)
{
	vcpu_clear(v, EV_WORLD);
	if (world_of(v))
		world_yield(world_of(v), v->index);
}

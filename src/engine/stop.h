/*
 * Stopping the other processors of a group whose processors run at once, from
 * code that runs while the guest's vector state is live. In turns, and for a
 * processor alone, nothing happens.
 */
#ifndef ECTYPE_ENGINE_STOP_H
#define ECTYPE_ENGINE_STOP_H

#include "base/world.h"
#include "cpu/vcpu.h"

static inline struct world *world_of(const struct vcpu *v)
{
	return v->group ? v->group->world : NULL;
}

/* As world_stop(). Whoever calls this holds nothing that others may change, or looks at it again if it returns true. */
bool stop_others(struct vcpu *v);
void let_others_go(struct vcpu *v);
/* EV_WORLD: another processor wants the world stopped. At an instruction boundary, vector state parked. */
void wait_for_others(struct vcpu *v);

/* The processor of `all` whose thread this is; they run at once or in turns. */
static inline struct vcpu *own_processor(struct vcpu *any)
{
	return world_of(any) ? any->group->vcpu[world_self] : any;
}

#endif

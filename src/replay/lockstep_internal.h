/* What the files of lockstep share: the pair of machines, and looking at it. */
#ifndef ECTYPE_REPLAY_LOCKSTEP_INTERNAL_H
#define ECTYPE_REPLAY_LOCKSTEP_INTERNAL_H

#include "backend/chr/chr.h"
#include "replay/lockstep.h"
#include "state/codec.h"

struct side {
	struct machine *m;
	struct machine_result r; /* of the last slice */
	struct chr *serial;	 /* in memory */
	struct encoder state;	 /* scratch of pair_differs() */
	unsigned turns;		 /* slices run, for lockstep_config.alternate */
};

struct pair {
	struct side s[2];
	size_t serial_seen; /* bytes both wrote, compared and handed on */
};

static inline u64 side_icount(const struct side *s)
{
	return machine_icount(s->m);
}

/* lockstep_compare.c */

/* Is anything different? RAM is compared only if `ram`. -1: not enough host memory. */
int pair_differs(struct pair *p, bool ram);
/* The first page at or behind `from` whose contents differ (an offset in RAM),
 * or UINT64_MAX. Makes the host provide no page. */
u64 pair_ram_differs(const struct pair *p, u64 from);

/* round_trip.c */

/* A machine of configuration `cfg` in the state of `m`, which stays the caller's. NULL with *e, also if saving it gives
 * another record than saving `m`. */
struct machine *round_trip(struct machine *m, const struct machine_config *cfg, struct error *e);

/* lockstep_report.c */

/* What there is to see before the instruction that makes the difference. */
struct scene;
struct scene *scene_create(struct pair *p);
void scene_destroy(struct scene *s);
/* `p` is behind the instruction now: prints all with c->line. */
void scene_report(struct scene *s, struct pair *p, const struct lockstep_config *c);

#endif

/*
 * Moving a running machine to another monitor: the side it leaves
 * (docs/migrate.md; the protocol: state/migration.h). A thread speaks with the
 * receiver through a connection of the control socket that was upgraded; the
 * client behind it passes bytes on. Frames of RAM are sent while the guest runs,
 * those it wrote meanwhile again (mem/track.h), until what is left can be sent
 * in the time the guest may stand still.
 *
 * If anything fails before "go" was said, the machine goes on. Afterwards it is
 * *in doubt* until the receiver has told what it did, or a person who knows
 * says vm.resume or vm.shutdown.
 */
#ifndef ECTYPE_CTL_MIGRATE_H
#define ECTYPE_CTL_MIGRATE_H

#include <jansson.h>

#include "base/error.h"
#include "machine/machine.h"

struct migration;

enum migration_phase {
	MIGRATION_NONE,
	MIGRATION_SETUP,       /* the receiver looks at what is offered */
	MIGRATION_RAM,	       /* memory is sent while the guest runs */
	MIGRATION_HAND_OVER,   /* the guest stands still */
	MIGRATION_IN_DOUBT,    /* "go" was said, and nothing was heard */
	MIGRATION_POST_COPIES, /* the other machine runs, and gets the rest of its memory from here */
	MIGRATION_DONE,	       /* the other machine runs */
	MIGRATION_FAILED,      /* this one goes on */
	MIGRATION_CANCELLED,   /* the same, as was wished */
	MIGRATION_PHASES
};
extern const char *const migration_phase_names[MIGRATION_PHASES];

#define MIGRATION_DOWNTIME_MS 100u /* unless it is set */

struct migration_settings {
	u64 downtime_ms; /* how long the guest may stand still, as far as that can be foreseen */
	u64 timeout_s;	 /* give up if that is not reached; 0: never */
	bool post_copy;	 /* what does not fit that comes when the guest runs there already */
	bool copy_disks; /* of the next migration: disks the guest can write to move as well, the files stay */
};

/* `options`, of a snapshot, outlive it. NULL on lack of memory. */
struct migration *migration_create(struct machine *m, const u8 *options, size_t options_len);
/* Ends a thread that works. Not from the vCPU thread; after machine_run(). NULL is allowed. */
void migration_destroy(struct migration *g);

/* Any thread but the vCPU's, all of them. */

/* Can migration_attach() come now? 0, or -1 with *e. */
int migration_ready(struct migration *g, struct error *e);
/* Speaks through `fd` from now on: moves the machine; or asks how a migration ended that is not settled. `came` are
 * bytes that were received already. close(opaque) is called at the end, on another thread. -1: it cannot be; `fd` is
 * the caller's still. */
int migration_attach(struct migration *g, int fd, const void *came, size_t n, void (*close)(void *), void *opaque);
/* 0; or -1 with *e: the receiver of the migration under way cannot do that. */
int migration_set(struct migration *g, const struct migration_settings *s, struct error *e);
void migration_get(struct migration *g, struct migration_settings *s);
/* -1: there is nothing that could be cancelled (any more). */
int migration_cancel(struct migration *g, struct error *e);
/* The machine is to go on, somebody says: 1, it does, for the migration was in doubt; 0: it was not; -1 with *e: it
 * cannot. */
int migration_resume(struct migration *g, struct error *e);
enum migration_phase migration_phase(struct migration *g);
/* What `vm.migration` answers; to be released. */
json_t *migration_report(struct migration *g);

#endif

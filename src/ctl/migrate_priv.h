/* What the files of a migration's source share. */
#ifndef ECTYPE_CTL_MIGRATE_PRIV_H
#define ECTYPE_CTL_MIGRATE_PRIV_H

#include <pthread.h>

#include "ctl/migrate.h"
#include "ctl/sent_disks.h"
#include "mem/track.h"
#include "state/channel.h"
#include "state/migration.h"
#include "state/ram.h"

struct migration_figures {
	u64 start, end;	 /* host time; 0: not yet */
	u64 round;	 /* from 1 on */
	u64 sent;	 /* bytes */
	u64 remaining;	 /* bytes of RAM that are to be sent as far as is known */
	u64 bandwidth;	 /* bytes a second, 0: not known */
	u64 expected_ns; /* for how long the guest would stand still */
	u64 downtime_ns; /* for how long it did */
	u64 throttle;	 /* percent of the guest's time that it is held */
	u64 dirty;	 /* bytes written in the last round */
};

struct migration {
	struct machine *m;
	const u8 *options;
	size_t options_len;

	pthread_mutex_t lock; /* of what follows */
	enum migration_phase phase;
	bool busy, joinable; /* the thread works; is to be waited for */
	bool cancel;	     /* was wished */
	bool unsettled;	     /* a receiver may wait for "go", which it will never hear: it is to be told */
	u8 id[MIGRATION_ID_LEN];
	struct migration_settings set;
	bool copy_disks; /* of this migration */
	struct migration_figures fig;
	struct error why;

	/* the thread's; the first two are set by others */
	atomic_bool quit;   /* before "go" */
	atomic_bool ending; /* the machine has ended */
	pthread_t thread;
	struct channel c;
	u64 hold, throttle_hold; /* of the machine, 0: none */
	struct error call_error; /* of what was done on the vCPU thread */
	void (*close)(void *);
	void *opaque;
	struct track *track;
	u64 *todo;		 /* frames to be sent: track_words() */
	struct sent_disks disks; /* none if they are not copied */
	atomic_bool throttling;
	pthread_t throttle_thread;
};

/* On the vCPU thread; false: the machine has ended, or does not answer. */
bool migration_call(struct migration *g, void (*fn)(struct migration *g));

/* The next section, which has to be `name`, or (NULL) nothing but a refusal. 0; or -1 with *e: it is none, or the
 * receiver refuses, or the connection is lost. */
int migration_hear(struct migration *g, const char *name, unsigned ms, struct stream_section *out, struct error *e);

/* migrate_ram.c. Each: 0; or -1, and g->c.why or *e says why. */
/* Sends RAM in rounds until the rest is small enough. */
int migration_send_rounds(struct migration *g, struct error *e);
/* The machine stands still: sends what is left. */
int migration_send_rest(struct migration *g, struct error *e);
/* Ends what these two have begun. */
void migration_end_ram(struct migration *g);
/* The receiver speaks only to say that it will not. */
int migration_objection(struct migration *g, struct error *e);
bool migration_too_late(struct migration *g);
void migration_note_sent(struct migration *g, u64 bytes);

/* migrate_disks.c; without copies of disks they do nothing. On the vCPU thread: what is offered of disks. */
void migration_offer_disks(struct migration *g, struct stream_writer *w);
int migration_start_disks(struct migration *g, struct error *e);
/* What has to be sent of them. */
int migration_send_disks(struct migration *g, struct error *e);
void migration_end_disks(struct migration *g);

#endif

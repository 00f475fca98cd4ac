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
	u64 wanted;	 /* frames that were asked for after the hand-over */
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
	bool copy_disks;    /* of this migration */
	bool post_possible; /* the receiver can take memory while it runs */
	u64 sent_before;    /* over connections of this migration that were lost */
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
	u64 *todo; /* frames to be sent: track_words() */
	/* The rest goes, or went, by post-copy: `todo` is what was not sent of it. */
	bool post;
	u64 post_left;		 /* frames of it */
	u64 post_flying;	 /* bytes that were sent and have not been said to be there */
	u64 post_at;		 /* frame from which on the next is sent */
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
/* Frames [first, first + *n), at most, of `todo`: as many as are alike go in one section, *n. */
int migration_send_alike(struct migration *g, u64 first, u64 *n);
/* Ends what these have begun; and what was not sent yet is forgotten. */
void migration_end_ram(struct migration *g);
void migration_forget_ram(struct migration *g);
/* The receiver speaks only to say that it will not. */
int migration_objection(struct migration *g, struct error *e);
bool migration_too_late(struct migration *g);
void migration_note_sent(struct migration *g, u64 bytes);

/* migrate_post.c. */
/* The machine stands still: says what of `todo` the receiver will miss. Nothing: then g->post is false. */
int migration_send_missing(struct migration *g, struct error *e);
/* Did `s` concern what is missing? 1, and it was served; 0; -1 with *e. */
int migration_post_heard(struct migration *g, const struct stream_section *s, struct error *e);
/* `s` may be the first list of what the receiver does not have, which replaces what is known here (a machine that goes
 * on here does not care); then it becomes the section behind the last one. 0; -1 with *e. */
int migration_hear_missing(struct migration *g, struct stream_section *s, struct error *e);
/* The receiver runs: sends all that it misses. 0; -1 with *e: the connection is lost. */
int migration_post_push(struct migration *g, struct error *e);

/* migrate_disks.c; without copies of disks they do nothing. On the vCPU thread: what is offered of disks. */
void migration_offer_disks(struct migration *g, struct stream_writer *w);
int migration_start_disks(struct migration *g, struct error *e);
/* What has to be sent of them. */
int migration_send_disks(struct migration *g, struct error *e);
void migration_end_disks(struct migration *g);

#endif

/* What the files of the primary's side share. */
#ifndef ECTYPE_CTL_PROTECT_PRIV_H
#define ECTYPE_CTL_PROTECT_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "ctl/checkpoint.h"
#include "ctl/protect.h"

struct protect {
	struct machine *m;
	const u8 *options; /* of a snapshot */
	size_t options_len;
	struct gate *gate;
	int wake; /* eventfd: something for the thread */
	pthread_mutex_t lock;
	pthread_cond_t changed; /* status.phase, or the thread has ended */
	/* under the lock */
	struct protect_status status;
	u64 kept_at; /* host time of the moment of the last checkpoint that is kept; 0: none */
	bool running, joinable;
	pthread_t thread;
	/* any thread */
	atomic_bool quit;   /* at once */
	atomic_bool stop;   /* the machine goes on without protection */
	atomic_bool urgent; /* a checkpoint is wanted now */
	atomic_bool ended;  /* the machine has */
	atomic_bool said;   /* and what has to be said about it has been */
	/* vCPU thread */
	u64 throttled; /* a hold, because output has no room */
	/* the thread's */
	int control, fd, witness;
	void (*done)(void *);
	void *opaque;
	struct protect_terms terms;
	struct channel ch;
	struct checkpoint *cp;
	u64 number; /* of the checkpoint that is sent */
	/* of the checkpoint that is under way: set on the vCPU thread while this one waits for it */
	struct {
		u64 hold, epoch, at, still_ns, dirty;
		bool taken, fits, first, busy;
		struct error e;
	} now;
};

/* protect_status.c */
void protect_set_phase(struct protect *p, enum protect_phase phase);
void protect_set_why(struct protect *p, const char *why);
void protect_poke(struct protect *p);
/* protect.c */
void *protect_thread(void *opaque);

#endif

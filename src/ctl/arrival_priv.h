/* What the files of an arrival share. */
#ifndef ECTYPE_CTL_ARRIVAL_PRIV_H
#define ECTYPE_CTL_ARRIVAL_PRIV_H

#include <pthread.h>

#include "ctl/arrival.h"

struct arrival_post;

struct arrival {
	struct machine *m;
	struct channel c;
	int fd; /* of the connection, -1: none */
	int listen_fd;
	int keeper; /* of files that are not needed if it never runs; -1: none */
	u8 id[MIGRATION_ID_LEN];
	atomic_bool ending;
	pthread_t thread;
	bool joinable;
	atomic_bool loaded;	   /* by post-copy: the machine is there, `m` is set */
	struct arrival_post *post; /* NULL: all of its memory came before */
	pthread_t resumer;
	bool resuming;
	pthread_mutex_t lock; /* of what follows */
	enum arrival_phase phase;
};

struct decision {
	struct arrival *a;
	bool paused; /* it is to be as it was: paused */
	bool failed;
	struct error e;
};

/* fn(d) on the vCPU thread. */
void arrival_decide(struct decision *d, void (*fn)(void *));

/* arrival_post.c: memory that comes after the machine. The others than create and destroy are the arrival's thread's;
 * without post-copy they do nothing more than without it. */
struct arrival_post *arrival_post_create(struct memory *m, int fd, const u64 *missing, struct error *e);
void arrival_post_destroy(struct arrival_post *p);
/* As channel_next(): the next section that is not of memory, which is placed as it comes. */
int arrival_next(struct arrival *a, unsigned ms, struct stream_section *s);
/* Now and then while there is no connection. */
void arrival_post_alone(struct arrival *a);
/* Over a new connection, before and behind what has become of the machine. 0, or -1: the connection is lost. */
int arrival_post_say_missing(struct arrival *a);
int arrival_post_say_more(struct arrival *a);
/* Does it run, or is it to run, without all of its memory? */
bool arrival_post_misses(const struct arrival *a);
/* The connection is lost, or ends because the machine does: then the source hears it. */
void arrival_post_lost(struct arrival *a);
/* Until the machine is loaded. False: the source is lost or has given up, and the machine will never run. */
bool arrival_post_load(struct arrival *a);
/* There is nothing to be said any more. If the machine will never run, whoever waits for its memory goes on. */
void arrival_post_end(struct arrival *a);

#endif

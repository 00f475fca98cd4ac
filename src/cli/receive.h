/* What comes from another monitor: the side of the receiver before there is a machine (state/migration.h). */
#ifndef ECTYPE_CLI_RECEIVE_H
#define ECTYPE_CLI_RECEIVE_H

#include "cli/receive_disks.h"
#include "cli/saved_options.h"
#include "state/channel.h"
#include "state/migration.h"

struct receiver {
	struct channel c;
	int fd; /* of the connection, -1: none */
	u8 id[MIGRATION_ID_LEN];
	u8 *offer_data, *state_data; /* what the two streams lie in */
	struct stream offer, state;
	struct saved_options options;
	u8 *ram; /* memory_area(); NULL: none, or the machine's */
	u64 ram_size;
	struct received_disks disks; /* that are copied; the caller makes and opens them before receiver_accept() */
	bool post_copy;		     /* the source will not move it otherwise, if need be */
	int missing_fd;		     /* missing_open(): memory may come later; -1: it may not */
	u64 *missing;		     /* a bit a frame, of RAM that comes later; NULL: none does */
	u64 start, received;	     /* host time; bytes of RAM and disks */
};

void receiver_init(struct receiver *r);
void receiver_free(struct receiver *r);
/* A connection, which becomes the receiver's: reads what is offered. 0; or -1 with *e: nothing sound, and the next
 * connection may be tried. */
int receiver_meet(struct receiver *r, int fd, struct error *e);
/* The answer, with r->missing_fd. -1 with *e: the connection is lost. */
int receiver_accept(struct receiver *r, struct error *e);
void receiver_refuse(struct receiver *r, const char *text);
/* Takes RAM and disks, which are closed then, until the state has come, which is in r->state. 0, or -1 with *e. */
int receiver_take_all(struct receiver *r, struct error *e);

/* One section of RAM into `ram`, of `size` bytes. 1: it was one; 0: another section; -1: not sound. For fuzzing, too.
 */
int receive_ram_section(u8 *ram, u64 size, const struct stream_section *s);

#endif

/*
 * Checkpoints of a running machine, for replication (docs/protect.md): what has
 * changed since the last one, in RAM and on disks, and the state of processors
 * and devices, copied aside while the machine is held for a moment, and sent
 * over a channel while it goes on.
 *
 * The copies have bounded room. What finds none is sent from where it is, with
 * the machine held until then.
 *
 * The sections of state/protection.h; whoever uses this adds what ends a
 * checkpoint.
 */
#ifndef ECTYPE_CTL_CHECKPOINT_H
#define ECTYPE_CTL_CHECKPOINT_H

#include "machine/machine.h"
#include "state/channel.h"

#define CHECKPOINT_ROOM (64 * MiB)

struct checkpoint;

/* On the vCPU thread. Begins to track what is written; all that may hold something counts as changed. NULL with *e. */
struct checkpoint *checkpoint_create(struct machine *m, struct error *e);
/* Any thread but the vCPU's, or after machine_run(). NULL is allowed. */
void checkpoint_destroy(struct checkpoint *c);

/* On the vCPU thread: notes what has changed since the last time. Returns how many bytes that is, with what was noted
 * before and is not sent yet. */
u64 checkpoint_collect(struct checkpoint *c);
/*
 * Sends what is noted, as it is now, while the machine runs: it is good for nothing until a checkpoint follows. Waits
 * at most `ms` for the peer to take a piece. 0, or -1: the channel failed, or *e says why a disk cannot be read.
 */
int checkpoint_send_live(struct checkpoint *c, struct channel *ch, unsigned ms, struct error *e);

/* On the vCPU thread, the machine held: quiesces it, notes what has changed, and copies it with the machine's state.
 * 0; or -1 with *e. */
int checkpoint_take(struct checkpoint *c, struct error *e);
/* After that: how much has changed, in bytes; the machine may go on before checkpoint_send(). */
u64 checkpoint_dirty(const struct checkpoint *c);
bool checkpoint_fits(const struct checkpoint *c);
int checkpoint_send(struct checkpoint *c, struct channel *ch, unsigned ms, struct error *e);
/* Of the checkpoint that was sent last. */
u64 checkpoint_state_bytes(const struct checkpoint *c);

#endif

/*
 * The state of a whole machine: one table of components (state.c) for saving,
 * checking and loading. What is in the machine and not in the table is a bug.
 *
 * A machine is saved between machine_hold() and machine_release(), with every
 * processor at an instruction boundary and nothing in flight behind a device.
 * One is loaded as it is created: machine_config.saved.
 */
#ifndef ECTYPE_MACHINE_STATE_H
#define ECTYPE_MACHINE_STATE_H

#include "machine/machine.h"
#include "state/stream.h"

/* Where a new machine's state comes from. Must be valid during machine_create(). */
struct machine_saved {
	const struct stream *stream; /* holds the sections that machine_save() wrote */
	int ram_fd;		     /* RAM, as many bytes as the machine has; holes are zeros */
	bool eager;		     /* read all of it at once */
};

/*
 * Holds the machine, apart from machine_pause(): both must be undone before it goes on. Requests to disks that are in
 * flight are completed, what the disks' caches hold is written to the image files. On the vCPU thread. 0; or -1 with *e
 * (the machine cannot be saved, or a disk fails), and it is not held.
 */
int machine_hold(struct machine *m, struct error *e);
void machine_release(struct machine *m);

/* Writes a section for every component, all state but RAM. The machine is held, or does not run. */
void machine_save(struct machine *m, struct stream_writer *w);

/* RAM that may hold something other than zeros: the next such piece at or behind `pos`, whole pages in
 * [*start, *end); false: there is none. The host is made to provide no page. Any thread, while the machine is held. */
bool machine_ram_next(const struct machine *m, u64 pos, u64 *start, u64 *end);

#endif

/*
 * The state of a whole machine: one table of components (state.c) for saving,
 * checking and loading. What is in the machine and not in the table is a bug.
 *
 * A machine is saved with every processor at an instruction boundary, while it
 * is held or does not run, and nothing in flight behind a device. One is loaded
 * as it is created: machine_config.saved.
 */
#ifndef ECTYPE_MACHINE_STATE_H
#define ECTYPE_MACHINE_STATE_H

#include "machine/machine.h"
#include "state/stream.h"

/* Where a new machine's state comes from. */
struct machine_saved {
	const struct stream *stream; /* holds the sections that machine_save() wrote; valid during machine_create() */
	/* RAM: as many bytes as the machine has, holes are zeros. Mapped copy-on-write, so that it must keep its length
	 * and content while the machine is there. May be closed after machine_create(). */
	int ram_fd;
	bool eager; /* read all of RAM at once instead; then the file may change afterwards */
	/* It is the same machine that goes on, nobody else can: else it gets a random VM Generation ID, if it has one
	 * and its clock is the real one. */
	bool same;
};

/*
 * Completes the requests to disks that are in flight, and writes what the disks' caches hold to the image files. Until
 * an instruction runs again devices start nothing of themselves. On the vCPU thread, while the machine is held or
 * paused; or not running. 0; or -1 with *e: the machine cannot be saved, or a disk fails.
 */
int machine_quiesce(struct machine *m, struct error *e);

/* Writes a section for every component, all state but RAM, of a machine that was quiesced. */
void machine_save(struct machine *m, struct stream_writer *w);

#endif

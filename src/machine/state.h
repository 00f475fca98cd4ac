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
	/* Another machine has the disks and the firmware variables still: they are opened, but not locked. Before it
	 * runs machine_files_take() does that. */
	bool unlocked;
	bool own_disks; /* with `unlocked`: but not the disks, which are locked as always */
	/* Not NULL: fills in RAM, which is zeros so far, from `ram`; then ram_fd and eager mean nothing. 0, or -1 with
	 * *e. */
	int (*load_ram)(const void *ram, struct memory *m, struct error *e);
	const void *ram;
	/* It is the same machine that goes on, nobody else can: else it gets a random VM Generation ID, if it has one
	 * and its clock is the real one. */
	bool same;
	/* Guest time goes on where it stopped. Else, with the real clock, it goes on as if the guest had stood still
	 * for the time between: so its wall clock is right. A guest that does not use the paravirtual clock cannot be
	 * told of such a leap, and its watchdogs would bite: only its RTC is put right. */
	bool keep_time;
};

/* Whether machine_quiesce() will go. 0, or -1 with *e. */
int machine_can_be_saved(const struct machine *m, struct error *e);
/*
 * Completes the requests to disks that are in flight, and writes what the disks' caches hold to the image files. Until
 * an instruction runs again devices start nothing of themselves. On the vCPU thread, while the machine is held or
 * paused; or not running. 0; or -1 with *e: the machine cannot be saved, or a disk fails.
 */
int machine_quiesce(struct machine *m, struct error *e);
/* The same without writing the caches: for who knows by other means what was written (backend/block/track.h). */
int machine_quiesce_devices(struct machine *m, struct error *e);

/* Could a machine of this configuration run before all of its memory is there (mem/missing.h)? 0, or -1 with *e. */
int machine_memory_can_miss(const struct machine_config *cfg, struct error *e);

/* Writes the sections that machine_check() looks at: what was booted, and the CPU model. */
void machine_save_kind(struct machine *m, struct stream_writer *w);
/* Writes a section for every component, all state but RAM, of a machine that was quiesced. */
void machine_save(struct machine *m, struct stream_writer *w);

/*
 * For another machine that takes this one's place: lets go of the locks on disks (not if it has copies of its own: then
 * `disks` is false) and firmware variables, after everything is written; and takes them, or takes them again. Without
 * the locks nothing is written to them. On the vCPU thread, quiesced. 0; or -1 with *e.
 */
int machine_files_release(struct machine *m, bool disks, struct error *e);
int machine_files_take(struct machine *m, struct error *e);

#endif

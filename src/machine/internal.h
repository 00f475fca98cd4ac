/* What the files of src/machine share. */
#ifndef ECTYPE_MACHINE_INTERNAL_H
#define ECTYPE_MACHINE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "boot/boot.h"
#include "dev/chipset/ioapic.h"
#include "dev/chipset/lapic.h"
#include "machine/machine.h"

struct call;
struct pci_bus;
struct virtio;

/* What a device or the processor asked for, taken at the next boundary. */
enum machine_request {
	REQUEST_RESET = 1 << 0,
	REQUEST_INIT = 1 << 1,
	REQUEST_POWER_OFF = 1 << 2,
	REQUEST_DEBUG_EXIT = 1 << 3,
	REQUEST_TRIPLE_FAULT = 1 << 4,
};

struct machine {
	struct machine_config cfg;
	struct cpu_model model;
	const struct engine_ops *engine;
	struct engine_verdict verdict; /* why this one */

	struct vcpu *vcpu;
	struct memory *mem;
	struct portmap *ports;
	struct door *door;
	struct clock *clock;

	struct board board;
	struct lapic_bus *lapics;
	struct device *pic, *ioapic, *q35, *pm, *uart[MACHINE_SERIALS];
	struct virtio *console, *balloon; /* NULL: none */
	struct {
		struct block *image;
		struct virtio *dev; /* NULL: a drive of the SATA controller, on `port` */
		unsigned slot, port;
	} disk[MACHINE_DISKS_MAX]; /* of cfg.disk (disks.c) */
	struct device *ahci;	   /* NULL: none */
	/* Interrupt inputs: who drives each high, a bit a source (board.c). */
	struct device lines;
	u8 isa_level[16], gsi_level[IOAPIC_PINS];
	struct nvram *nvram; /* firmware variables; NULL: in memory only */
	u8 *low_rom;	     /* firmware: what is beneath the PAM segments */

	struct boot_image *image;
	struct boot_layout layout; /* e820 as the board has it */
	struct tables *tables;	   /* tables.c */

	/* vCPU thread only */
	u32 requests; /* enum machine_request */
	int debug_exit_value;
	u64 seen_tsc_offset;
	bool ended, stepping, attached;
	u64 until; /* end of the slice, CLOCK_NEVER outside machine_run_until() */
	struct machine_result result;
	struct machine_debugger debugger;
	bool has_debugger;

	/* any thread */
	atomic_bool stop, debug_interrupt;
	atomic_bool paused, debugged; /* written on the vCPU thread; `debugged`: a debugger holds it */
	atomic_bool next_engine;      /* machine_next_engine() */
	_Atomic u32 sleeping; /* the vCPU thread waits, or is about to, on vcpu->event */

	/* machine_call(): queue of what other threads want done */
	pthread_mutex_t call_lock;
	pthread_cond_t call_done;
	struct call *calls;
	atomic_bool have_calls;
	bool running;	  /* under call_lock: machine_run() will serve the queue */
	bool over;	  /* under call_lock: it ran, and has returned */
	pthread_t thread; /* valid while running */

	/* the host timer (wake.c) */
	int timer_fd; /* -1: virtual clock */
	pthread_t timer_thread;
	atomic_bool timer_quit;
	_Atomic u64 armed; /* guest time the host timer is set to, CLOCK_NEVER */

	/* statistics */
	u64 exits[VCPU_EXIT_COUNT], halts;
	u64 run_ns, halted_ns; /* host time */
	u64 run_start;	       /* of the present machine_run(), host time; 0: none */
	bool uncounted;	       /* an engine ran that does not count instructions */
};

/* board.c: the wiring. 0 or -1 with *e; board_destroy() frees what was made. */
int machine_board_create(struct machine *m, struct error *e);
void machine_board_destroy(struct machine *m);
extern const struct vcpu_hooks machine_hooks;

/* tables.c: ACPI, SMBIOS and memory map, for the guest directly or for its
 * firmware. 0 or -1 with *e. */
int machine_tables_create(struct machine *m, struct error *e);
int machine_tables_to_firmware(struct machine *m, struct device *fw_cfg);
void machine_tables_place(struct machine *m);
void machine_tables_destroy(struct machine *m);

/* disks.c. machine_disks_check() looks only; open, create (the devices) and close are in this order of life. 0 or -1
 * with *e. */
int machine_disks_check(const struct machine_config *cfg, struct error *e);
int machine_disks_open(struct machine *m, struct error *e);
int machine_disks_create(struct machine *m, struct pci_bus *bus, struct error *e);
void machine_disks_close(struct machine *m);

/* bootorder.c. machine_boot_check(): what `boot` of the configuration names is there. The other makes the file
 * `bootorder` for firmware, after the disks are on their buses. 0 or -1 with *e. */
int machine_boot_check(const struct machine_config *cfg, struct error *e);
int machine_boot_to_firmware(struct machine *m, struct device *fw_cfg, struct error *e);

/* machine.c: the reset itself. -1 with *e: a file cannot be read again; nothing has changed. */
int machine_start_anew(struct machine *m, struct error *e);

/* loop.c */
void machine_loop(struct machine *m);
void machine_request(struct machine *m, u32 request);

/* call.c */
void machine_serve_calls(struct machine *m);

/* pause.c: returns when the machine is resumed or told to end; calls are served meanwhile. */
void machine_wait_resumed(struct machine *m);

/* engine_switch.c: does what machine_next_engine() asked for. */
void machine_serve_next_engine(struct machine *m);

/* wake.c */
int wake_start(struct machine *m, struct error *e);
void wake_stop(struct machine *m);
/* The earliest deadline may have moved: set the host timer if it is late. */
void wake_arm(struct machine *m);
/* Any thread, signal handlers too: brings the vCPU thread to a boundary. */
void wake_kick(struct machine *m, u32 events);
/* Sleeps until an event is raised or, with a real clock, guest time `deadline`. */
void wake_sleep(struct machine *m, u64 deadline);
/* Sleeps until EV_KICK is raised; all events stay as they are. */
void wake_wait_kick(struct machine *m);
u64 host_ns(void); /* for statistics alone */

#endif

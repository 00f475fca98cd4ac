/* What the files of src/machine share. */
#ifndef ECTYPE_MACHINE_INTERNAL_H
#define ECTYPE_MACHINE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/host_time.h"
#include "base/reclaim.h"
#include "base/world.h"
#include "boot/boot.h"
#include "dev/chipset/ioapic.h"
#include "dev/chipset/lapic.h"
#include "cpu/event.h"
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
/* What one processor is asked to do at its next boundary. */
enum cpu_request { ASKED_INIT = 1 << 0, ASKED_SIPI = 1 << 1, ASKED_NMI = 1 << 2 };

/* What the machine keeps of a processor. */
struct machine_cpu {
	struct machine *m;
	struct vcpu *v;
	/* under the machine's lock */
	u32 asked;	/* enum cpu_request */
	u8 sipi_vector; /* of ASKED_SIPI */
	u64 tsc_offset; /* the APIC's timer knows of */
	bool parked;	/* its thread waits until the machine goes on */
	/* its own thread alone */
	unsigned depth;		       /* how often it holds the machine's lock by machine_lock() */
	struct machine_cpu *waits_for; /* it has sent that one an INIT */
	/* its own thread, any other */
	_Atomic u32 sleeping; /* its thread waits, or is about to, on v->event */
	u64 poll_window;      /* ns; for disks (poll.c) */
	u64 halt_window;      /* ns; for anything else */
	pthread_t thread;     /* of all but processor 0, while machine_run() lasts (parallel.c) */
	/* its own thread: host time of its last PAUSE, and of the first of those that followed each other closely; how
	 * long they may */
	u64 pause_last, pause_first, pause_window;
	/* statistics */
	u64 exits[VCPU_EXIT_COUNT], halts, halted_ns, yields, kicks;
};

struct machine {
	struct machine_config cfg;
	struct cpu_model model;
	const struct engine_ops *engine;
	struct engine_verdict verdict; /* why this one */

	struct machine_cpu *cpu; /* cfg.cpus of them */
	struct vcpu_group group;
	struct reclaim reclaim; /* what an engine left behind when another took its place */
	struct world world;
	pthread_mutex_t lock; /* parallel: whoever looks at or changes what follows, or runs device code, holds it */
	/* turns (loop.c) */
	unsigned turn; /* whose it is */
	u64 turn_left; /* instructions */
	int turn_to;   /* who asked for the next one, -1: nobody */
	/* parallel (parallel.c), under the lock */
	bool pausing, quitting;		      /* the threads of all but processor 0 are to park, to end */
	pthread_cond_t parked, go_on, served; /* served: an INIT was taken, or is not to be waited for */
	struct memory *mem;
	struct portmap *ports;
	struct door *door;
	struct clock *clock;

	struct board board;
	struct lapic_bus *lapics;
	bool apics_lent; /* to the engine (apics.c); written with every processor at a boundary */
	struct pv *pv;	 /* pv.c; NULL: no paravirtual interface */
	struct device *pic, *ioapic, *q35, *pm, *fw_cfg, *uart[MACHINE_SERIALS];
	struct device *vmgenid; /* NULL: none */
	struct device *rtc;
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
	u64 holds, held_until; /* of machine_hold(): how many there were; host time */
	bool hold_passes;      /* the clock stands because of a hold alone: the guest gets that time back */
	u32 requests;	       /* enum machine_request */
	int debug_exit_value;
	bool ended, stepping, attached;
	bool quiesced; /* devices are; they resume before the first instruction */
	struct machine_guard guard;
	u64 until; /* end of the slice, CLOCK_NEVER outside machine_run_until() */
	struct machine_result result;
	struct machine_debugger debugger;
	bool has_debugger;

	/* any thread */
	atomic_bool stop, debug_interrupt;
	atomic_bool paused, debugged; /* written on the vCPU thread; `debugged`: a debugger holds it */
	_Atomic u64 held;	      /* number of the hold, 0: none (pause.c) */
	atomic_bool next_engine;      /* machine_next_engine() */
	atomic_bool gate_full;	      /* guard.full is to be called */

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

	/* vCPU thread only: rest.c. Times are the host's, ns. */
	struct rest {
		const struct engine_ops *work; /* at rest: the engine to have when there is work, else NULL */
		bool wanted;		       /* to rest, or to work */
		u64 look_at;		       /* when the next window ends; CLOCK_NEVER: it does not rest */
		u64 last, used;		       /* when it was looked last; the process's processor time then */
		u64 began, credit;	       /* at rest: since when; for how long the processors may still run */
		u64 renewed, renew;	/* at rest: when the engine began anew, and after how long it does again */
		unsigned idle, windows; /* windows of idleness, and how many there must be */
	} rest;

	/* statistics */
	u64 run_ns;	  /* host time */
	u64 run_start;	  /* of the present machine_run(), host time; 0: none */
	bool uncounted;	  /* an engine ran that does not count instructions */
	bool uncountable; /* ... and one that cannot */
};

/* What the configuration asks of an engine, and what for. */
static inline u32 machine_engine_caps(const struct machine_config *c)
{
	return c->clock == MACHINE_CLOCK_VIRTUAL || c->insn_limit ? ENGINE_EXACT_ICOUNT : 0;
}
#define MACHINE_CAPS_PURPOSE "the virtual clock, which counts instructions,"

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

/* generation.c: the device, if it is wanted. -1 on lack of memory. */
int machine_generation_create(struct machine *m);

/* vmcoreinfo.c: its fw_cfg file. -1 on lack of memory. */
int machine_vmcoreinfo_create(struct device *fw_cfg);

/* disks.c. machine_disks_check() looks only; open, create (the devices) and close are in this order of life. 0 or -1
 * with *e. */
int machine_disks_check(const struct machine_config *cfg, struct error *e);
int machine_disks_open(struct machine *m, struct error *e);
int machine_disks_create(struct machine *m, struct pci_bus *bus, struct error *e);
void machine_disks_close(struct machine *m);
/* What the caches hold goes to the files. Nothing is in flight. */
int machine_disks_flush(struct machine *m, struct error *e);

/* bootorder.c. machine_boot_check(): what `boot` of the configuration names is there. The other makes the file
 * `bootorder` for firmware, after the disks are on their buses. 0 or -1 with *e. */
int machine_boot_check(const struct machine_config *cfg, struct error *e);
int machine_boot_to_firmware(struct machine *m, struct device *fw_cfg, struct error *e);

/* machine.c: the reset itself. -1 with *e: a file cannot be read again; nothing has changed. */
int machine_start_anew(struct machine *m, struct error *e);

/* processors.c */
int machine_cpus_create(struct machine *m, struct error *e);
void machine_cpus_destroy(struct machine *m);
int machine_cpus_attach(struct machine *m, struct error *e); /* to m->engine */
void machine_cpus_detach(struct machine *m);
void machine_cpus_reset(struct machine *m);   /* power-up */
void machine_cpus_changed(struct machine *m); /* memory or registers were: flush, look at events again */
/* INIT, SIPI, NMI for processor `n`, at its next boundary. */
void machine_ask_cpu(struct machine *m, unsigned n, u32 request);
void machine_serve_cpu(struct machine_cpu *c); /* what was asked of it; at a boundary */
static inline bool cpu_runnable(struct machine_cpu *c)
{
	if (c->m->apics_lent) /* the engine has it wait */
		return c->v->cpu.activity != ACT_SHUTDOWN;
	return c->v->cpu.activity == ACT_RUNNING || cpu_wakeup_pending(c->v);
}
/* It is not runnable: forgets events that cannot wake it, so that its thread can sleep. False if it has become
 * runnable.
 */
static inline bool cpu_may_sleep(struct machine_cpu *c)
{
	vcpu_clear(c->v, EV_INTR | EV_NMI);
	c->v->intr_held = true; /* what unblocks interrupts looks for them */
	return !cpu_runnable(c);
}
/* The processor that the calling thread runs. */
struct machine_cpu *machine_current(struct machine *m);
void machine_set_current(struct machine_cpu *c); /* parallel: of this thread */
/* From a hook: processor `n` waits for another one, for `to` if that is not -1. Another thread of the host may go on,
 * or in turns another processor at the next boundary. */
void machine_yield(struct machine *m, unsigned n, int to);
/* From a hook: it has executed a PAUSE. */
void machine_paused(struct machine *m, unsigned n);
/* The machine's lock, for what an engine calls; it may be taken again by its holder. Nothing without parallel threads.
 */
void machine_lock(struct machine *m);
void machine_unlock(struct machine *m);

/* apics.c: the local APICs go to an engine that keeps them, and come back. With every processor at a boundary; nothing
 * if it is so already. lend: the engine may not want them. */
void machine_apics_lend(struct machine *m);
void machine_apics_back(struct machine *m);
/* While they are lent. */
bool machine_apics_deliver(struct machine *m, const struct apic_message *msg);
void machine_apics_route(struct machine *m);

/* loop.c */
void machine_loop(struct machine *m);
void machine_request(struct machine *m, u32 request);
void machine_serve_timers(struct machine *m);
void machine_serve(struct machine *m);

/* parallel.c: a thread a processor. Processor 0's is the caller of machine_run(). */
int parallel_start(struct machine *m, struct error *e);
void parallel_stop(struct machine *m);
void parallel_loop(struct machine *m);
/* Every processor but 0 is at a boundary, and stays there until parallel_resume(). On processor 0's thread, with the
 * lock. */
void parallel_pause(struct machine *m);
void parallel_resume(struct machine *m);

/* call.c */
void machine_serve_calls(struct machine *m);

/* guard.c: before there are devices; what waits may leave, as far as it may; the end of machine_run(). */
void machine_gate_connect(struct machine *m);
void machine_gate_serve(struct machine *m);
void machine_gate_full(struct machine *m);
void machine_guard_ended(struct machine *m);

/* pause.c. machine_wait_resumed() returns when the machine is neither paused nor held, or told to end; calls are served
 * meanwhile. Guest time goes on, unless it is to stand still. */
bool machine_stands(const struct machine *m);
void machine_wait_resumed(struct machine *m);
void machine_start_time(struct machine *m);
/* Devices go on, if they are quiesced: before an instruction runs. */
void machine_unquiesce(struct machine *m);

/* state.c: into a machine that was just built, from cfg.saved. 0; or -1 with *e, and the machine is of no use. The
 * boot files and the model come first, before there are processors. */
int machine_load_known(const struct machine *m, struct boot_known *known, struct error *e);
int machine_load_model(struct machine *m, const struct cpu_limits *limits, struct error *e);
int machine_load(struct machine *m, struct error *e);
/* quiesce.c */
int machine_load_ram(struct machine *m, struct error *e);

/* engine_switch.c: does what machine_next_engine() asked for. */
void machine_serve_next_engine(struct machine *m);
/* All processors at a boundary. 0; or -1 with *e: the old engine goes on, or the machine has ended. */
int machine_replace_engine(struct machine *m, const struct engine_ops *to, struct error *e);

/* rest.c, all on the vCPU thread. Before the loop. */
void rest_start(struct machine *m);
bool rest_is(const struct machine *m);
u64 rest_budget(const struct machine *m); /* instructions at a time, CLOCK_NEVER: no limit */
/* A processor ran; processor 0 slept for `slept` ns until host time `now`. */
void rest_ran(struct machine *m);
void rest_slept(struct machine *m, u64 now, u64 slept);
/* With every processor at a boundary: does what is wanted. */
void machine_serve_rest(struct machine *m);
/* Somebody chooses an engine. */
void rest_forget(struct machine *m);

/* wake.c */
int wake_start(struct machine *m, struct error *e);
void wake_stop(struct machine *m);
/* The earliest deadline may have moved: set the host timer if it is late. */
void wake_arm(struct machine *m);
/* Any thread, signal handlers too: brings the thread that serves the machine to a boundary. */
void wake_machine(struct machine *m, u32 events);
/* Any thread: tells processor `n`; its thread comes to a boundary, or takes note. */
void wake_cpu(struct machine *m, unsigned n, u32 events);
/* The thread of `c` sleeps until an event of it is raised or, with a real clock, guest time `deadline`. */
void wake_sleep(struct machine_cpu *c, u64 deadline);
/* Whether wake_sleep() would return at once. */
bool wake_pending(const struct machine_cpu *c);

/* poll.c: wake_sleep(), after looking for completions of the disks' requests for a while if there are any. True if it
 * found some: the door has something. */
bool poll_sleep(struct machine_cpu *c, u64 deadline);
/* Processor 0's thread sleeps until EV_KICK is raised, or until host time `until` (CLOCK_NEVER: no limit); all events
 * stay as they are. */
void wake_wait_kick(struct machine *m, u64 until);

#endif

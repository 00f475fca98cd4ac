/*
 * A machine: memory, processors, board, clock and the thread that runs them.
 * Opaque outside src/machine; two machines fit in one process.
 *
 * Threads: with one processor, or several in turns, the vCPU thread
 * (machine_run's caller) owns all state. Processors that run at once have a
 * thread each, and a lock (parallel.c). "On the vCPU thread" means below: on
 * machine_run's caller, with every processor at an instruction boundary.
 */
#ifndef ECTYPE_MACHINE_MACHINE_H
#define ECTYPE_MACHINE_MACHINE_H

#include "backend/block/block.h"
#include "base/error.h"
#include "cpu/cpuid.h"
#include "dev/device.h"
#include "dev/storage/disk_stats.h"
#include "engine/engine.h"

struct machine;
struct machine_saved;
struct chr;
struct net;
struct vsock;
struct virtio;
struct virtio_console_port;
struct vhost_user_config;
struct gate;

#define MACHINE_SERIALS 4
#define MACHINE_CPUS_MAX 64u

enum machine_clock { MACHINE_CLOCK_REAL, MACHINE_CLOCK_VIRTUAL };

/* A disk of the guest: an image behind virtio-blk, or a drive of the SATA controller. */
struct machine_disk {
	struct block_config image;
	bool sata;  /* not virtio-blk */
	bool cdrom; /* a CD-ROM drive with `image`, of ISO 9660 or UDF, in it; with `sata` and a readonly raw image */
	const char *id;	    /* name in messages and statistics; different for each disk */
	const char *serial; /* what the guest reads as the disk's serial number, at most 20 bytes; NULL: none */
	unsigned queues;    /* of virtio-blk, 1 to 16; 0: one a processor */
};
#define MACHINE_DISKS_MAX 16
#define MACHINE_NETS_MAX 8
struct machine_net {
	struct net *net; /* owned by the caller; one machine's only */
	u8 mac[6];
	bool own_mac; /* not the one that was saved (`saved`): it is a copy */
};

struct machine_config {
	const char *name;
	u64 memory;	       /* bytes, multiple of 1 MiB */
	bool memory_mergeable; /* with equal pages of other machines; not with devices of other processes */
	unsigned cpus;	       /* 1 to MACHINE_CPUS_MAX */
	bool turns;	       /* several take turns on one thread, whatever the engine can: for a debugger */
	const char *engine;    /* "auto" or a name */
	enum machine_clock clock;
	u64 seed;	       /* of the virtual clock's random numbers */
	const char *cpu_model; /* "host" or x86-64-v2.. */
	u32 pv;		       /* paravirtual interface: PV_* of cpu/pv.h; 0: none */
	bool no_pause;	       /* a processor that loops over PAUSE does not step aside, in parallel */
	/* what to boot: exactly one of kernel and firmware */
	const char *kernel, *initrd, *append;
	const char *firmware;	   /* path, "seabios" or "ovmf" */
	const char *firmware_vars; /* file of its variables, made if missing; NULL: in memory */
	/* What firmware tries first, in this order: ids of disks, "disk" and "cdrom" (all of the kind), commas between.
	 * NULL: disks, then CD-ROMs, unless firmware_vars knows better. */
	const char *boot;
	bool debug_exit, test_device, no_reboot;
	struct machine_disk disk[MACHINE_DISKS_MAX]; /* in the order of their PCI slots */
	unsigned disks;
	struct machine_net nets[MACHINE_NETS_MAX]; /* network cards, in this order */
	unsigned net_count;
	struct chr *serial[MACHINE_SERIALS]; /* COM1 to COM4; NULL: none. Owned by the caller */
	/* ports of a virtio console (dev/virtio/console.h); valid during machine_create(), the streams as long as the
	 * machine */
	const struct virtio_console_port *console;
	unsigned consoles;
	struct vsock *vsock; /* host half of a socket device (backend/vsock/vsock.h); NULL: none. Owned by the caller */
	u32 vsock_cid;	     /* the guest's */
	/* A memory balloon that is to hold `balloon_target` bytes, a multiple of 1 MiB below `memory`
	 * (dev/virtio/balloon.h). */
	bool balloon, balloon_reporting;
	u64 balloon_target;
	/* devices of other processes; valid during machine_create(), their descriptors stay the caller's */
	const struct vhost_user_config *vhost_user;
	unsigned vhost_users;
	/* A VM Generation ID, 16 bytes (base/guid.h) that are copied; NULL: random, or with the virtual clock always
	 * the same. */
	bool vmgenid;
	const u8 *generation;
	struct chr *debugcon; /* what goes to the debug console port; NULL: no such port. Owned by the caller */
	struct gate *gate; /* before all of the backends above (backend/gate/gate.h); NULL: none. Owned by the caller */
	const struct machine_saved *saved; /* begin with this state (machine/state.h); NULL: at power-on */
	/* With the real clock: while the guest idles, the reference engine takes the translator's place
	 * (machine/rest.c). It must be possible to attach an engine while the machine runs (JAIL_EXEC_MAPS). */
	bool may_rest;
	struct engine_options engine_options;
	u64 insn_limit; /* stop (as by the debugger) after so many; 0: none. For tests */
};

enum machine_end {
	MACHINE_END_POWER_OFF,
	MACHINE_END_RESET,	  /* guest reset under no_reboot */
	MACHINE_END_DEBUG_EXIT,	  /* see exit_code */
	MACHINE_END_TRIPLE_FAULT, /* under no_reboot */
	MACHINE_END_STOPPED,	  /* machine_stop(): Ctrl-A x, signal, gdb kill */
	MACHINE_END_LIMIT,	  /* insn_limit, or the end of a slice */
	MACHINE_END_HALTED,	  /* in a slice: halted, and nothing in the machine will wake it */
	MACHINE_END_FAILED,	  /* host error, see `text` */
};

struct machine_result {
	enum machine_end end;
	int exit_code; /* (v << 1) | 1 for debug exit */
	char text[256];
};

/* Builds everything: checks the configuration and the files first, changes
 * nothing on failure. NULL with *e (usage error: exit status 2). */
struct machine *machine_create(const struct machine_config *cfg, struct error *e);
void machine_destroy(struct machine *m);
/* The checks of machine_create() alone: configuration and files, nothing
 * built. 0, or -1 with *e. */
int machine_check(const struct machine_config *cfg, struct error *e);

/* Run until the guest ends or someone stops it. */
void machine_run(struct machine *m, struct machine_result *out);

/*
 * Run a slice: as machine_run(), but at the latest until `icount` instructions
 * have retired since the machine started; then the end is MACHINE_END_LIMIT.
 * Virtual clock only. To be called again until the guest ends; where the
 * slices are cut makes no difference to the guest. At the end of a slice,
 * timers that are due have fired and what can be delivered at that boundary
 * has been delivered, so state there is comparable between engines. A machine
 * that could only sleep for ever ends with MACHINE_END_HALTED.
 */
void machine_run_until(struct machine *m, u64 icount, struct machine_result *out);

/* From any thread or a signal handler: end machine_run soon. */
void machine_stop(struct machine *m);
/* From any thread: machine_stop() was called and machine_run has not returned
 * yet. A debugger's wait polls it, so that Ctrl-A x ends a machine that waits
 * for gdb. */
bool machine_stopping(const struct machine *m);
/* From any thread: run `fn(opaque)` on the vCPU thread at the next instruction
 * boundary and wait for it. Served while the machine is paused, too. */
void machine_call(struct machine *m, void (*fn)(void *), void *opaque);
/* The same for threads that must not wait for ever: false if the machine has ended, or if `fn` has not begun after `ms`
 * (machine_run() was not called yet, or a debugger holds the machine); then it never will. Not from the vCPU thread. */
bool machine_call_within(struct machine *m, void (*fn)(void *), void *opaque, unsigned ms);

/*
 * Pause: the processors stop at an instruction boundary and guest time stands still; input waits in the door. Of a
 * machine that is paused before machine_run() no instruction runs. On the vCPU thread (machine_call()); twice is as
 * good as once.
 */
void machine_pause(struct machine *m);
void machine_resume(struct machine *m);

/*
 * Hold: another thread looks at the machine's memory. As a pause, but when the guest goes on the time has passed for
 * it, as if the host had had something else to do: its clock stays right however often it is held. And apart from a
 * pause: what machine_pause() and machine_resume() order meanwhile is so when the machine is released. After `ms` it
 * goes on by itself, so that whoever looks cannot hold it for ever: what was seen counts if machine_held() says so
 * afterwards. One at a time. On the vCPU thread; the number of the hold, or 0: the machine is held already, or has
 * ended.
 */
u64 machine_hold(struct machine *m, u64 ms);
/* From any thread: hold `id` lasts; ends it, if it does. */
bool machine_held(const struct machine *m, u64 id);
void machine_release(struct machine *m, u64 id);

/*
 * A guard: somebody who holds output back (machine_config.gate) while he keeps a copy of the machine up to date. Both
 * functions are called on the vCPU thread. NULL: no guard. To be set on the vCPU thread.
 */
struct machine_guard {
	/* Too much waits in the gate. At a boundary: it may hold the machine. */
	void (*full)(void *opaque);
	/* The machine ends as *r says, no instruction runs any more. Called again and again until it says true; what
	 * the gate lets out until then still leaves. */
	bool (*ended)(void *opaque, const struct machine_result *r);
	void *opaque;
};
void machine_set_guard(struct machine *m, const struct machine_guard *guard);
/* From any thread: by machine_pause(). */
bool machine_paused_by_order(const struct machine *m);

enum machine_state { MACHINE_RUNNING, MACHINE_PAUSED /* or held */, MACHINE_DEBUGGED /* a debugger holds it */ };
/* From any thread. */
enum machine_state machine_state(const struct machine *m);

/* On the vCPU thread: presses the power button, which an operating system with ACPI takes as a wish; and the reset
 * button, which under no_reboot ends the machine. */
void machine_press_power(struct machine *m);
void machine_press_reset(struct machine *m);

/*
 * Goes on with engine `name` ("auto" or a name). On the vCPU thread at an instruction boundary (machine_call()). The
 * guest cannot tell: state moves exactly, nothing pending is lost, guest time stands still meanwhile. 0; or -1 with *e,
 * and the machine goes on with the engine it had. If that one cannot be had again either, the machine ends
 * (MACHINE_END_FAILED).
 */
int machine_set_engine(struct machine *m, const char *name, struct error *e);
/* From any thread: the engine that runs. */
const char *machine_engine_name(const struct machine *m);
/* From any thread: soon, go on with the next engine in the order of engines[] that can run here; a log line tells. */
void machine_next_engine(struct machine *m);

/* Access for gdb, ctl, state, replay: on the vCPU thread. */
struct vcpu *machine_vcpu(struct machine *m, unsigned n);
unsigned machine_cpus(const struct machine *m);
/* Instructions retired since the machine started, by all processors. */
u64 machine_icount(const struct machine *m);
/* Whose turn it is, where processors take turns (loop.c); else 0. */
unsigned machine_turn(const struct machine *m);
/* It is processor `n`'s turn, unless it is halted: what a debugger steps. */
void machine_take_turn(struct machine *m, unsigned n);
struct memory *machine_memory(struct machine *m);
struct clock *machine_clock(struct machine *m);
struct board *machine_board(struct machine *m);
const struct machine_config *machine_config(const struct machine *m);
/* Where the guest's kernel says that its VMCOREINFO note is, an ELF note of `len` bytes; false: it did not say. Both
 * are the guest's word. */
bool machine_vmcoreinfo(struct machine *m, gpa_t *gpa, u32 *len);
/* The VM Generation ID, 16 bytes; NULL: there is no such device. It tells the guest whether it is a copy, or has gone
 * back in time: machine_set_generation() gives it another one (NULL: a random one) and tells it so by an ACPI event. 0,
 * or -1: there is no such device. On the vCPU thread. */
const u8 *machine_generation(const struct machine *m);
int machine_set_generation(struct machine *m, const u8 *guid);
/* The memory balloon, for the functions of dev/virtio/balloon.h; NULL: there is none. */
struct virtio *machine_balloon(struct machine *m);
/* Why the engine was chosen; one line about what is booted. */
const struct engine_verdict *machine_verdict(const struct machine *m);
const char *machine_guest(const struct machine *m);
/* Full reset, as the reset button. Ends the machine (MACHINE_END_FAILED) if its files cannot be read again. */
void machine_reset(struct machine *m);

/*
 * Debugger. While attached, machine_run calls `wait` on the vCPU thread
 * whenever the machine stops (first before the first instruction, then on
 * breakpoints, steps and machine_debug_interrupt); `wait` returns what to do
 * next.
 */
enum debug_stop {
	DEBUG_STOP_START,
	DEBUG_STOP_BREAKPOINT,
	DEBUG_STOP_STEP,
	DEBUG_STOP_INTERRUPT,
	DEBUG_STOP_TRIPLE_FAULT,
	DEBUG_STOP_END
};
enum debug_go { DEBUG_CONTINUE, DEBUG_STEP, DEBUG_DETACH, DEBUG_KILL };
struct machine_debugger {
	enum debug_go (*wait)(void *opaque, enum debug_stop why);
	void *opaque;
};
void machine_attach_debugger(struct machine *m, const struct machine_debugger *d);
void machine_debug_interrupt(struct machine *m); /* any thread */

/* Hash (XXH3, 64 bit) over the stream of machine_save_state() and RAM, in that order. */
u64 machine_state_hash(struct machine *m);
/* Appends the sections of processors, clock and devices to `e` (state/codec.h): all state but RAM. */
void machine_save_state(struct machine *m, struct encoder *e);

/* Where the vCPU thread spent its exits. */
struct machine_stats {
	u64 instructions, exits[VCPU_EXIT_COUNT], halts;
	u64 yields;   /* a processor that waited for another in a loop of PAUSEs stepped aside */
	u64 kicks;    /* KVM_HC_KICK_CPU: spin locks that slept were handed over */
	bool counted; /* `instructions` is all of them: see ENGINE_COUNTS_IF_ASKED */
	double seconds, halted_seconds;
};
void machine_stats(struct machine *m, struct machine_stats *out);

/* What the guest did with a disk. */
struct machine_disk_stats {
	const char *id, *format; /* "raw", "qcow2" */
	struct disk_stats count;
};
/* Of disk `n` of the configuration. On the vCPU thread. */
void machine_disk_stats(const struct machine *m, unsigned n, struct machine_disk_stats *out);

/* The image of disk `n` of the configuration: for tracks of what is written (backend/block/track.h), whose functions
 * any thread may call; as long as the machine is there. */
struct block *machine_disk_image(const struct machine *m, unsigned n);
/* machine_quiesce() would have to wait for a disk's flush. Any thread; who is not in a hurry tries again a little
 * later. */
bool machine_disks_busy(const struct machine *m);

/* Register dump, one line a call, as on a triple fault. */
void machine_dump_registers(struct machine *m, unsigned cpu, void (*line)(void *, const char *), void *opaque);

#endif

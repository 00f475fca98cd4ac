/*
 * A device: one .c file with its struct, handlers, static const ops and
 * constructor; its .h exports the constructor and what the board wires up.
 *
 * All calls come on the vCPU thread. Restoring is normal construction, then
 * `check` (validates a saved record, changes nothing), then `load` (cannot
 * fail).
 */
#ifndef ECTYPE_DEV_DEVICE_H
#define ECTYPE_DEV_DEVICE_H

#include "base/types.h"
#include "dev/clock.h"
#include "mem/physmem.h"
#include "mem/portmap.h"
#include "state/codec.h"

struct device;

struct device_ops {
	const char *name;		   /* section name in the state stream */
	void (*reset)(struct device *d);   /* power-on state */
	void (*quiesce)(struct device *d); /* may be NULL: nothing runs behind its back */
	void (*resume)(struct device *d);  /* may be NULL */
	void (*save)(const struct device *d, struct encoder *e);
	int (*check)(const struct device *d, struct decoder *in); /* 0 sound, -1 not */
	void (*load)(struct device *d, struct decoder *in);
	void (*destroy)(struct device *d);
};

/* First member of every device. */
struct device {
	const struct device_ops *ops;
	struct device *next; /* the board's list, in order of construction */
};

enum board_request {
	BOARD_RESET,	  /* CPU and devices back to power-on */
	BOARD_INIT_CPU,	  /* INIT only (i8042, port 92h on some boards) */
	BOARD_POWER_OFF,  /* ACPI S5 */
	BOARD_DEBUG_EXIT, /* value: what the guest wrote to the debug-exit port */
};

/*
 * What a board offers to a device's constructor. The board's owner
 * (machine/board.c) fills it; devices add themselves with board_attach().
 */
struct board {
	struct memory *mem;
	struct portmap *ports;
	struct clock *clock;
	struct door *door;
	struct device *first, **tail;
	/* Requests of a device to the machine; take effect at the next instruction boundary. */
	void (*request)(void *machine, enum board_request r, int value);
	/* A message-signalled interrupt: a write of `data` to `addr` as a PCI function does it (SDM vol. 3, 11.11).
	 * NULL on boards without. */
	void (*msi)(void *machine, u64 addr, u32 data);
	void *machine;
};

void board_attach(struct board *b, struct device *d);

/*
 * An interrupt line: the level a device drives, and who listens.
 * irq_set() is idempotent; the handler sees changes only.
 */
struct irq {
	void (*fn)(void *opaque, unsigned n, bool level);
	void *opaque;
	unsigned n;
	bool level;
};
static inline void irq_set(struct irq *i, bool level)
{
	if (i->level != level) {
		i->level = level;
		if (i->fn)
			i->fn(i->opaque, i->n, level);
	}
}
static inline void irq_pulse(struct irq *i)
{
	irq_set(i, true);
	irq_set(i, false);
}

#endif

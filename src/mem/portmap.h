/* The 64 KiB I/O port space. Unclaimed ports read as all ones. */
#ifndef ECTYPE_MEM_PORTMAP_H
#define ECTYPE_MEM_PORTMAP_H

#include "mem/physmem.h"

struct portmap;

struct portmap *portmap_create(void);
void portmap_destroy(struct portmap *p);
/* Later registrations win where they overlap earlier ones. Sizes as in io_ops. */
int portmap_add(struct portmap *p, u16 base, unsigned len, const struct io_ops *ops, void *opaque, const char *name);
/* Remove what `opaque` registered at `base`. */
void portmap_remove(struct portmap *p, u16 base, void *opaque);

/* One access, size 1, 2 or 4. An access wider than the handler's max_size is
 * split into consecutive ports; so is one that runs over a region's end. */
u32 port_read(struct portmap *p, u16 port, unsigned size);
void port_write(struct portmap *p, u16 port, u32 val, unsigned size);

/* Of the handlers; without, they are called as they are. */
void portmap_set_guard(struct portmap *p, const struct io_guard *g);

struct port_stats {
	u64 reads, writes;
};
const struct port_stats *portmap_stats(const struct portmap *p);

#endif

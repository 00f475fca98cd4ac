/*
 * RAM of which a part is still to come from elsewhere: a machine that runs
 * before all of its memory has arrived (docs/migrate.md). Who touches a frame
 * that is missing waits in the host's kernel (userfaultfd(2)) until
 * missing_place() has brought it. Frames that are neither missing nor there
 * are zeros.
 *
 * The kernel waits only for accesses of this process's own code: a system call
 * into a missing page fails with EFAULT. (Another kind of userfaultfd would
 * need a privilege, and could hold up the host's kernel.) So everything that
 * hands guest memory to a system call comes through memory_ptr(), which touches
 * what it gives out; memory_discard() writes zeros meanwhile, so that what was
 * there once does not go away. Saving RAM as a whole is refused
 * (memory_missing()), and so is the engine kvm, whose guest's accesses are the
 * kernel's.
 *
 * One thread serves; it takes no locks that a thread which waits for memory may
 * hold.
 */
#ifndef ECTYPE_MEM_MISSING_H
#define ECTYPE_MEM_MISSING_H

#include "base/error.h"
#include "mem/physmem.h"

struct missing;

/* A descriptor of userfaultfd(2). -1 with *e: the host has none for us. */
int missing_open(struct error *e);
/*
 * Drops the frames that are set in `frames` (a bit a frame, for all of RAM; copied), which are missing from now on.
 * RAM is private, nobody touches it, and no file is mapped there. Takes `fd` over, in any case. NULL with *e.
 */
struct missing *missing_begin(struct memory *m, int fd, const u64 *frames, struct error *e);
/* The memory may be gone already. Threads that still wait get zeros. NULL is allowed. */
void missing_destroy(struct missing *s);

/* Readable when somebody waits. */
int missing_fd(const struct missing *s);
/* Who waits: up to `max` missing frames; those that wait for zeros have them already. The number. */
unsigned missing_faults(struct missing *s, u64 *frame, unsigned max);
/* Brings frames [first, first + n), which lie in RAM, those of them that are missing still: from `data`, NULL: zeros.
 * 0; or -1 with *e: the host cannot. */
int missing_place(struct missing *s, u64 first, u64 n, const u8 *data, struct error *e);
/* Of frames; a bit each. Only for the serving thread. */
u64 missing_left(const struct missing *s);
const u64 *missing_bits(const struct missing *s);
/* The machine will never run: whoever waits, or comes later, gets zeros. */
void missing_give_up(struct missing *s);
/* None is missing: RAM is as any other from now on. */
void missing_end(struct missing *s);

/* Does some of it miss? From any thread. */
bool memory_missing(const struct memory *m);

#endif

/*
 * The jail: what a monitor taken over by its guest could still reach.
 *
 * jail_begin() comes first, before the first file is opened. jail_prepare()
 * follows while the process has one thread: namespaces that later files and
 * threads belong to; what needs the host's own (helper processes, the janitor)
 * is started between the two. jail_lock() comes last, before the
 * first guest instruction: an empty root directory, no file descriptors but
 * those opened since, no capabilities, and a filter that allows only the
 * system calls a running machine makes. What the host refuses is left out and
 * named in `missing`; the filter is not optional.
 *
 * What must be done by path after that (sockets removed at the end) is left to
 * a janitor, a small process without guest input.
 */
#ifndef ECTYPE_JAIL_JAIL_H
#define ECTYPE_JAIL_JAIL_H

#include "base/error.h"
#include "base/types.h"

/* What a machine needs beyond memory, time and its open files. */
enum jail_need {
	JAIL_SOCKETS = 1 << 0,	 /* makes and connects sockets of the host's network: user-mode networking */
	JAIL_EXEC_MAPS = 1 << 1, /* maps memory files executable while it runs: another engine */
};

#define JAIL_INHERITED_MAX 64
struct jail {
	int inherited[JAIL_INHERITED_MAX]; /* descriptors that were open at the start, beside 0, 1, 2 */
	unsigned inherited_n;
	bool begun, prepared, own_mounts;
	char missing[256]; /* "mount namespace (Operation not permitted), ..."; "": nothing */
};

/* Notes the descriptors that the process was started with. Done by jail_prepare() if it was not before. */
void jail_begin(struct jail *j);
/*
 * `own_network`: nothing of the host's network is used, not even by files to be opened yet (sockets by path are
 * files). Never fails: what cannot be had is in j->missing.
 */
void jail_prepare(struct jail *j, bool own_network);
/* Irreversible, for all threads. `needs`: enum jail_need. 0, or -1 with *e if there is no filter. */
int jail_lock(struct jail *j, unsigned needs, struct error *e);

/* filter.c: the system call filter alone, for all threads. Others fail with EPERM. */
int jail_filter(unsigned needs, struct error *e);

struct janitor;
/* A process that unlinks files when this process ends, however it does. Before jail_prepare(), while there is one
 * thread: it keeps the host's mounts. NULL with *e. */
struct janitor *janitor_start(struct error *e);
/* The file at `path` (relative to the present directory or absolute) is to be removed; at most 64 of them. It is
 * removed only if it is still the same file. 0, or -1 with *e. */
int janitor_add(struct janitor *j, const char *path, struct error *e);
/* They are removed now, and the process ends. NULL is allowed. */
void janitor_finish(struct janitor *j);

#endif

/*
 * Directories of the host for a guest: each served by a process of Debian's
 * virtiofsd over vhost-user, which dies with the monitor.
 *
 * The helper sees a copy of the directory's mounts in a mount namespace of its
 * own, read-only there where asked, without set-user-ID and device files; then
 * it shuts itself up in that (virtiofsd's sandbox "namespace": process, mount
 * and network namespaces, pivot_root, seccomp). Without root this goes on in a
 * user namespace in which the caller is root: it has the caller's rights, and
 * files of others belong to nobody.
 */
#ifndef ECTYPE_BACKEND_SHARE_SHARE_H
#define ECTYPE_BACKEND_SHARE_SHARE_H

#include "base/error.h"
#include "base/types.h"

struct share;

struct share_config {
	const char *dir;
	bool readonly;
	bool root;   /* `dir` is "/": without what is mounted at /proc, /sys and /dev */
	bool frozen; /* the guest may cache for ever: nobody else changes files there that it looks at */
};

/* Looks at the directory and for the helper, starts nothing. 0, or -1 with *e. */
int share_check(const struct share_config *cfg, struct error *e);
/* Starts the helper. NULL with *e. To be called by the thread that lives as long as the process. */
struct share *share_start(const struct share_config *cfg, struct error *e);
/* The socket to it; stays the share's. */
int share_fd(const struct share *s);
/* Kills the helper (opaque is the struct share). */
void share_kill(void *share);
/* Appends what the helper said, if anything, to the message in *e. */
void share_explain(const struct share *s, struct error *e);
/* Ends the helper and waits for its end; frees `s`. Duplicates of its socket are closed by then. NULL is allowed. */
void share_stop(struct share *s);

#endif

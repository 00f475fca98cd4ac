/*
 * The control socket of a machine: JSON over HTTP/1.1 (docs/control.md). A
 * thread of libmicrohttpd serves the clients; what they ask of the machine is
 * done on the vCPU thread, by machine_call_within().
 *
 * Clients are hostile: sizes, times and their number are bounded, and nothing
 * a client does holds the guest up.
 */
#ifndef ECTYPE_CTL_CTL_H
#define ECTYPE_CTL_CTL_H

#include "base/error.h"
#include "machine/machine.h"

struct ctl;
struct chr;
struct arrival;

struct ctl_config {
	struct machine *machine;
	const char *name;
	const char *cwd;     /* see struct api_machine */
	int fd;		     /* listens (ctl_listen()); stays the caller's */
	struct chr *console; /* of chr_mux_create(), for clients to attach to; NULL: none */
	const u8 *options;   /* of a snapshot: see struct api_machine */
	size_t options_len;
	struct arrival *arrival; /* it came by migration (ctl/arrival.h); NULL: it did not */
};

/* Serves from now on, requests before machine_run() wait for it. The machine and what is named in `cfg` must outlive
 * it. NULL with *e. */
struct ctl *ctl_start(const struct ctl_config *cfg, struct error *e);
/* After machine_run() has returned, on its thread. NULL is allowed. */
void ctl_stop(struct ctl *c);

#endif

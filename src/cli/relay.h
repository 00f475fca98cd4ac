/* Bytes both ways between a monitor and a peer on another host. */
#ifndef ECTYPE_CLI_RELAY_H
#define ECTYPE_CLI_RELAY_H

#include "base/types.h"
#include "cli/peer.h"

struct relay {
	struct peer monitor, peer;
	u64 limit; /* bytes a second towards the peer; 0: none */
	/* The monitor is to hear of the peer's end only if the peer has told it (peer_over()). After another one it
	 * hears nothing, until it closes. */
	bool meant;
	/* About every `tick_ms`, and after a signal; true: enough. May be NULL. */
	bool (*tick)(void *opaque);
	void *opaque;
	unsigned tick_ms;
};

/* Until the monitor has closed its end and the peer has all of it; or the peer has closed, the monitor has what came,
 * and has closed as well. Closes neither. */
void relay_run(struct relay *r);

#endif

/*
 * A queue pair between the vCPU thread and a backend's thread: a ring of
 * packets in each direction, and an eventfd that the backend's thread polls.
 */
#ifndef ECTYPE_BACKEND_NET_PORT_H
#define ECTYPE_BACKEND_NET_PORT_H

#include <sys/uio.h>

#include "backend/net/ring.h"

struct net_port {
	struct net_ring tx, rx; /* from and to the guest */
	int wake;		/* eventfd */
	unsigned index;
	void (*readable)(void *, unsigned);
	void (*writable)(void *, unsigned);
	void *opaque;
	atomic_bool stop;
};

/* 0, or -1 on lack of memory or descriptors (errno); net_port_free() is allowed then. */
int net_port_init(struct net_port *p, unsigned index, u32 tx_size, u32 rx_size);
void net_port_free(struct net_port *p);
/* Empties it for a new start; no thread runs. */
void net_port_start(struct net_port *p, void (*readable)(void *, unsigned), void (*writable)(void *, unsigned),
		    void *opaque);
/* Wakes the backend's thread; any thread. */
void net_port_wake(struct net_port *p);

/* vCPU thread; as in struct net_ops. */
bool net_port_send(struct net_port *p, const struct iovec *iov, unsigned iov_n);
size_t net_port_peek(struct net_port *p, const u8 **packet);
void net_port_next(struct net_port *p);

/* Backend's thread. What is in p->tx is taken by net_ring_peek() and net_port_taken(); what is for the guest is stored
 * at net_ring_reserve(&p->rx) and put by net_port_put(). */
void net_port_taken(struct net_port *p);
void net_port_put(struct net_port *p, u32 len);
/* Before it polls p->wake. False: there is something to do at once. */
bool net_port_sleep(struct net_port *p);
/* After poll() reported p->wake. */
void net_port_woken(struct net_port *p);

#endif

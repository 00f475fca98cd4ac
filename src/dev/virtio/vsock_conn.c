/* The connections of the socket device: by ports, and in the list of those that have something to tell. */
#include "dev/virtio/vsock_conn.h"

#include <stdlib.h>

/* Room for what the guest sends; the smaller when there are many connections. */
#define BUFFER (256 * 1024u)
#define BUFFER_SMALL (64 * 1024u)
#define MANY 64

static struct vsock_conn **bucket_of(struct vsock_dev *d, u32 guest_port, u32 host_port)
{
	return &d->bucket[(guest_port * 31 + host_port) % VSOCK_BUCKETS];
}

struct vsock_conn *vsock_find(struct vsock_dev *d, u32 guest_port, u32 host_port)
{
	struct vsock_conn *c = *bucket_of(d, guest_port, host_port);

	while (c && (c->guest_port != guest_port || c->host_port != host_port))
		c = c->hash_next;
	return c;
}

static void unhash(struct vsock_dev *d, struct vsock_conn *c)
{
	struct vsock_conn **at = bucket_of(d, c->guest_port, c->host_port);

	while (*at && *at != c)
		at = &(*at)->hash_next;
	if (*at)
		*at = c->hash_next;
}

struct vsock_conn *vsock_add(struct vsock_dev *d, enum vsock_state state, u32 guest_port, u32 host_port)
{
	struct vsock_conn **at = bucket_of(d, guest_port, host_port), *c = d->conns;

	if (d->used == VSOCK_CONNS)
		return NULL;
	while (c->state != VSOCK_FREE)
		c++;
	*c = (struct vsock_conn){ .state = state,
				  .guest_port = guest_port,
				  .host_port = host_port,
				  .id = d->next_id++,
				  .alloc = d->busy < MANY ? BUFFER : BUFFER_SMALL,
				  .hash_next = *at };
	*at = c;
	d->used++;
	d->busy += c->alloc == BUFFER;
	return c;
}

void vsock_list(struct vsock_dev *d, struct vsock_conn *c)
{
	if (c->listed)
		return;
	c->listed = true;
	TAILQ_INSERT_TAIL(&d->ready, c, list);
}

void vsock_unlist(struct vsock_dev *d, struct vsock_conn *c)
{
	if (c->listed)
		TAILQ_REMOVE(&d->ready, c, list);
	c->listed = false;
}

static void close_stream(struct vsock_dev *d, struct vsock_conn *c)
{
	if (c->stream)
		d->host->ops->close(d->host, c->stream);
	c->stream = NULL;
	free(c->buf);
	c->buf = NULL;
	c->len = 0;
}

void vsock_remove(struct vsock_dev *d, struct vsock_conn *c)
{
	close_stream(d, c);
	vsock_unlist(d, c);
	if (c->state != VSOCK_ORPHAN)
		unhash(d, c);
	d->used--;
	d->busy -= c->alloc == BUFFER;
	c->state = VSOCK_FREE;
}

void vsock_reset_conn(struct vsock_dev *d, struct vsock_conn *c)
{
	close_stream(d, c);
	c->state = VSOCK_RESETTING;
	vsock_list(d, c);
}

void vsock_remove_all(struct vsock_dev *d)
{
	for (unsigned i = 0; i < VSOCK_CONNS; i++)
		if (d->conns[i].state != VSOCK_FREE)
			vsock_remove(d, &d->conns[i]);
	d->reset_n = 0;
}

void vsock_orphan(struct vsock_dev *d, struct vsock_conn *c)
{
	unhash(d, c);
	vsock_unlist(d, c);
	c->state = VSOCK_ORPHAN;
}

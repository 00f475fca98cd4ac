/*
 * The socket device, see vsock.h: connections, credit and shutdown of 5.10.6;
 * the host's half is a backend (backend/vsock/vsock.h).
 *
 * From the guest: a packet's bytes are sent to the host's stream at once. What
 * that does not take waits in the connection's buffer, which has the size that
 * the guest was told (buf_alloc), so that there is room for all it may send. A
 * guest that sends more loses the connection.
 *
 * To the guest: nothing is kept. Bytes stay in the host's stream until the
 * guest has credit and a buffer; they are received straight into that.
 *
 * What a connection has to tell the guest is kept as state, not as packets:
 * connections with something to tell are in a list, and each has its turn as
 * buffers come. Only resets of connections that do not exist are packets that
 * wait, and while there are many the transmit queue waits, too (5.10.6.1.2).
 *
 * Connections do not survive save and load: the guest is told that its
 * transport was reset (5.10.6.7).
 */
#include "dev/virtio/vsock.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "dev/virtio/vsock_conn.h"
#include "replay/door.h"

#define F_STREAM BIT(0)
#define TYPE_STREAM 1

enum { RX, TX, EVENT, QUEUES };
#define QUEUE_SIZE 256
#define EVENT_TRANSPORT_RESET 0

enum op {
	OP_INVALID,
	OP_REQUEST,
	OP_RESPONSE,
	OP_RST,
	OP_SHUTDOWN,
	OP_RW,
	OP_CREDIT_UPDATE,
	OP_CREDIT_REQUEST,
};
/* Flags of OP_SHUTDOWN: the sender of it */
#define NO_MORE_RECEIVE 1u
#define NO_MORE_SEND 2u
#define NO_MORE (NO_MORE_RECEIVE | NO_MORE_SEND)

struct packet {
	u64 src_cid, dst_cid;
	u32 src_port, dst_port, len;
	u16 type, op;
	u32 flags, buf_alloc, fwd_cnt;
} __attribute__((packed));

#define PACKET_MAX (64 * 1024u)	    /* bytes to the guest at once */
#define FIRST_HOST_PORT 0x40000000u /* below are those that services listen on */

static struct vsock_dev *of(const struct virtio *v)
{
	return container_of((struct virtio *)(uintptr_t)v, struct vsock_dev, v);
}

/* ---- from the guest to the host ---- */

static void attach(struct vsock_conn *c, struct vsock_stream *s)
{
	c->stream = s;
	s->opaque = c;
	c->readable = true;
}

/* Guest and host both know that nothing more will come from the guest: shutdown, behind its last byte. */
static void pass_shutdown(struct vsock_dev *d, struct vsock_conn *c)
{
	if (c->len)
		return;
	if (c->state == VSOCK_ORPHAN) {
		vsock_remove(d, c);
	} else if (c->guest_shut == NO_MORE) {
		vsock_reset_conn(d, c); /* 5.10.6.6.1: the answer to a full shutdown */
	} else if (c->guest_shut && !c->host_told) {
		c->host_told = true;
		d->host->ops->shutdown(c->stream, c->guest_shut & NO_MORE_SEND, c->guest_shut & NO_MORE_RECEIVE);
	}
}

static void count_forwarded(struct vsock_dev *d, struct vsock_conn *c, u32 n)
{
	c->forwarded += n;
	/* as much as makes it worth a packet; all of it is told by the next one in any case */
	if (c->forwarded - c->told_forwarded >= c->alloc / 4) {
		c->tell_credit = true;
		vsock_list(d, c);
	}
}

/* The host takes no more; what the guest sent goes nowhere. */
static void host_closed(struct vsock_dev *d, struct vsock_conn *c)
{
	c->host_deaf = true;
	count_forwarded(d, c, c->len);
	c->len = 0;
	vsock_list(d, c);
}

/* What waits in the buffer, as far as the stream takes it. */
static void drain(struct vsock_dev *d, struct vsock_conn *c)
{
	while (c->len && !c->host_deaf) {
		const u32 first = MIN(c->len, c->alloc - c->at);
		const struct iovec iov[2] = { { c->buf + c->at, first }, { c->buf, c->len - first } };
		ssize_t n = d->host->ops->send(c->stream, iov, first < c->len ? 2 : 1);

		if (n == -EAGAIN)
			return;
		if (n < 0) {
			host_closed(d, c);
			break;
		}
		c->at = (u32)(c->at + n) % c->alloc;
		c->len -= (u32)n;
		count_forwarded(d, c, (u32)n);
	}
	pass_shutdown(d, c);
}

/* Stores bytes [off, off + n) of the packet's data behind what waits. */
static bool keep(struct vsock_dev *d, struct vsock_conn *c, u32 off, u32 n)
{
	u32 end = (c->at + c->len) % c->alloc, first = MIN(n, c->alloc - end);

	if (!c->buf && !(c->buf = malloc(c->alloc)))
		return false;
	virtq_copy_out(&d->tx, sizeof(struct packet) + off, c->buf + end, first);
	virtq_copy_out(&d->tx, sizeof(struct packet) + off + first, c->buf, n - first);
	c->len += n;
	return true;
}

/* The first `n` bytes of the data in d->tx, in d->iov; the number of pieces. */
static unsigned data_pieces(struct vsock_dev *d, size_t n)
{
	size_t skip = sizeof(struct packet);
	unsigned count = 0;

	for (unsigned i = 0; i < d->tx.out_n && n; i++) {
		struct iovec v = d->tx.iov[i];

		if (v.iov_len <= skip) {
			skip -= v.iov_len;
			continue;
		}
		v = (struct iovec){ (u8 *)v.iov_base + skip, MIN(v.iov_len - skip, n) };
		skip = 0;
		n -= v.iov_len;
		d->iov[count++] = v;
	}
	return count;
}

static void take_data(struct vsock_dev *d, struct vsock_conn *c, u32 n)
{
	u32 passed = 0;
	ssize_t r;

	/* more than it has credit for (5.10.6.3), or after it said that no more would come */
	if (c->state != VSOCK_OPEN || (c->guest_shut & NO_MORE_SEND) || n > c->alloc - c->len) {
		vsock_reset_conn(d, c);
		return;
	}
	if (n && !c->len && !c->host_deaf) {
		r = d->host->ops->send(c->stream, d->iov, data_pieces(d, n));
		if (r >= 0)
			passed = (u32)r;
		else if (r != -EAGAIN)
			host_closed(d, c);
	}
	count_forwarded(d, c, c->host_deaf ? n : passed);
	if (c->host_deaf || passed == n)
		return;
	if (keep(d, c, passed, n - passed))
		drain(d, c);
	else
		vsock_reset_conn(d, c);
}

/* ---- packets of the guest ---- */

/* 5.10.6.3. A guest that claims to have taken more than it was sent gets nothing. */
static u32 credit(const struct vsock_conn *c)
{
	u32 outstanding = c->sent - c->peer_fwd;

	return outstanding < c->peer_alloc ? c->peer_alloc - outstanding : 0;
}

static void reject(struct vsock_dev *d, const struct packet *p)
{
	struct vsock_reset *r = &d->reset[(d->reset_at + d->reset_n) % VSOCK_RESETS_MAX];

	if (p->op == OP_RST)
		return;
	assert(d->reset_n < VSOCK_RESETS_MAX);
	*r = (struct vsock_reset){ p->dst_cid, p->src_port, p->dst_port, p->type };
	d->reset_n++;
}

static void request(struct vsock_dev *d, const struct packet *p)
{
	struct vsock_conn *c = vsock_add(d, VSOCK_DIALLING, p->src_port, p->dst_port);

	if (!c) {
		reject(d, p);
		return;
	}
	c->peer_alloc = p->buf_alloc;
	c->peer_fwd = p->fwd_cnt;
	if (!d->host->ops->dial(d->host, p->dst_port, c->id))
		vsock_reset_conn(d, c);
}

static void response(struct vsock_dev *d, struct vsock_conn *c)
{
	char line[32];
	struct iovec iov = { line, (size_t)snprintf(line, sizeof(line), "OK %u\n", c->host_port) };

	/* the first bytes of a stream always fit */
	if (c->state != VSOCK_CALLING || c->tell_request ||
	    d->host->ops->send(c->stream, &iov, 1) != (ssize_t)iov.iov_len) {
		vsock_reset_conn(d, c);
		return;
	}
	c->state = VSOCK_OPEN;
	vsock_list(d, c);
}

/* A guest that shut down in both directions before has lost patience: what it sent is passed on all the same. */
static void reset_by_guest(struct vsock_dev *d, struct vsock_conn *c)
{
	if (c->state != VSOCK_OPEN || !(c->guest_shut & NO_MORE_SEND) || !c->len) {
		vsock_remove(d, c);
		return;
	}
	vsock_orphan(d, c);
}

static void from_peer(struct vsock_dev *d, struct vsock_conn *c, const struct packet *p)
{
	c->peer_alloc = p->buf_alloc;
	c->peer_fwd = p->fwd_cnt;
	c->asked_credit &= !credit(c);
	if (c->state == VSOCK_OPEN)
		vsock_list(d, c);
	switch (p->op) {
	case OP_RESPONSE:
		response(d, c);
		break;
	case OP_RST:
		reset_by_guest(d, c);
		break;
	case OP_SHUTDOWN:
		if (c->state == VSOCK_OPEN) {
			c->host_told &= !(p->flags & NO_MORE & ~c->guest_shut);
			c->guest_shut |= p->flags & NO_MORE;
			pass_shutdown(d, c);
		} else if (c->state != VSOCK_RESETTING && (p->flags & NO_MORE) == NO_MORE) {
			vsock_reset_conn(d, c);
		}
		break;
	case OP_RW:
		if (c->state != VSOCK_RESETTING)
			take_data(d, c, p->len);
		break;
	case OP_CREDIT_UPDATE:
		break;
	case OP_CREDIT_REQUEST:
		c->tell_credit = c->state == VSOCK_OPEN;
		break;
	default: /* a second request is from a guest that forgot the first */
		vsock_reset_conn(d, c);
	}
}

static void take_packet(struct vsock_dev *d)
{
	struct packet p;
	struct vsock_conn *c;

	/* what is cut short, or from somebody else, has no sender to be answered */
	if (virtq_copy_out(&d->tx, 0, &p, sizeof(p)) != sizeof(p) || p.src_cid != d->cid)
		return;
	if (p.type != TYPE_STREAM || p.dst_cid != VSOCK_CID_HOST || p.len > d->tx.out_len - sizeof(p)) {
		reject(d, &p);
		return;
	}
	c = vsock_find(d, p.src_port, p.dst_port);
	if (c)
		from_peer(d, c, &p);
	else if (p.op == OP_REQUEST)
		request(d, &p);
	else
		reject(d, &p);
}

/* ---- packets to the guest ---- */

static bool take_buffer(struct vsock_dev *d, u32 at_least)
{
	if (virtq_pop(&d->v.queue[RX], &d->rx) <= 0)
		return false;
	if (d->rx.in_len >= at_least)
		return true;
	virtio_broken(&d->v, "a receive buffer is too small");
	return false;
}

static void put_packet(struct vsock_dev *d, const struct packet *p)
{
	virtq_copy_in(&d->rx, 0, p, sizeof(*p));
	virtq_push(&d->v.queue[RX], &d->rx, (u32)sizeof(*p) + p->len);
}

static bool send_reset(struct vsock_dev *d)
{
	const struct vsock_reset *r = &d->reset[d->reset_at];
	const struct packet p = { .src_cid = r->cid,
				  .dst_cid = d->cid,
				  .src_port = r->host_port,
				  .dst_port = r->guest_port,
				  .type = r->type,
				  .op = OP_RST };

	if (!take_buffer(d, sizeof(p)))
		return false;
	put_packet(d, &p);
	d->reset_at = (d->reset_at + 1) % VSOCK_RESETS_MAX;
	d->reset_n--;
	return true;
}

static void put_control(struct vsock_dev *d, struct vsock_conn *c, enum op op, u32 len)
{
	const struct packet p = {
		.src_cid = VSOCK_CID_HOST,
		.dst_cid = d->cid,
		.src_port = c->host_port,
		.dst_port = c->guest_port,
		.len = len,
		.type = TYPE_STREAM,
		.op = (u16)op,
		.flags = op == OP_SHUTDOWN ? c->told : 0,
		.buf_alloc = c->alloc,
		.fwd_cnt = c->forwarded,
	};

	c->told_forwarded = c->forwarded;
	c->tell_credit = false;
	put_packet(d, &p);
}

static bool wants_data(const struct vsock_conn *c)
{
	return c->readable && !c->host_ended && !(c->guest_shut & NO_MORE_RECEIVE);
}

static unsigned shutdown_due(const struct vsock_conn *c)
{
	return (c->host_ended ? NO_MORE_SEND : 0) | (c->host_deaf ? NO_MORE_RECEIVE : 0);
}

/* Bytes of the stream into the buffer in d->rx; false: there were none, and it is not used. */
static bool put_data(struct vsock_dev *d, struct vsock_conn *c)
{
	u32 left = MIN(MIN(credit(c), PACKET_MAX), d->rx.in_len - (u32)sizeof(struct packet)),
	    skip = sizeof(struct packet);
	unsigned count = 0;
	ssize_t n;

	for (unsigned i = d->rx.out_n; i < d->rx.out_n + d->rx.in_n && left; i++) {
		struct iovec v = d->rx.iov[i];
		u32 part = MIN(skip, (u32)v.iov_len);

		skip -= part;
		v = (struct iovec){ (u8 *)v.iov_base + part, MIN(v.iov_len - part, left) };
		left -= (u32)v.iov_len;
		if (v.iov_len)
			d->iov[count++] = v;
	}
	n = d->host->ops->recv(c->stream, d->iov, count);
	if (n > 0) {
		c->sent += (u32)n;
		put_control(d, c, OP_RW, (u32)n);
		return true;
	}
	c->readable = false;
	c->host_ended = n != -EAGAIN;
	c->host_deaf |= n < 0 && n != -EAGAIN;
	return false;
}

/* The next packet of a connection that is due; OP_INVALID: none. */
static enum op due(const struct vsock_conn *c)
{
	switch (c->state) {
	case VSOCK_RESETTING:
		return OP_RST;
	case VSOCK_CALLING:
		return c->tell_request ? OP_REQUEST : OP_INVALID;
	case VSOCK_OPEN:
		if (c->tell_response)
			return OP_RESPONSE;
		if (wants_data(c) && credit(c))
			return OP_RW;
		if (shutdown_due(c) & ~c->told)
			return OP_SHUTDOWN;
		if (c->tell_credit)
			return OP_CREDIT_UPDATE;
		if (wants_data(c) && !c->asked_credit)
			return OP_CREDIT_REQUEST;
		return OP_INVALID;
	default:
		return OP_INVALID;
	}
}

/* The packet's turn; false: there is no buffer. */
static bool serve(struct vsock_dev *d, struct vsock_conn *c)
{
	enum op op = due(c);

	vsock_unlist(d, c);
	if (op == OP_INVALID)
		return true;
	vsock_list(d, c); /* behind the others */
	if (!take_buffer(d, sizeof(struct packet) + (op == OP_RW)))
		return false;
	if (op == OP_RW) {
		if (!put_data(d, c))
			virtq_unpop(&d->v.queue[RX], 1);
		return true;
	}
	c->tell_request &= op != OP_REQUEST;
	c->tell_response &= op != OP_RESPONSE;
	c->asked_credit |= op == OP_CREDIT_REQUEST;
	if (op == OP_SHUTDOWN)
		c->told = shutdown_due(c);
	put_control(d, c, op, 0);
	if (op == OP_RST)
		vsock_remove(d, c);
	return true;
}

static void tell_transport_reset(struct vsock_dev *d)
{
	const u32 event = EVENT_TRANSPORT_RESET;
	struct virtq *q = &d->v.queue[EVENT];

	if (!d->transport_reset || virtq_pop(q, &d->rx) <= 0)
		return;
	d->transport_reset = false;
	virtq_push(q, &d->rx, (u32)virtq_copy_in(&d->rx, 0, &event, sizeof(event)));
	virtq_signal(q);
}

static void to_guest(struct vsock_dev *d)
{
	struct vsock_conn *c;

	while (d->reset_n && send_reset(d))
		;
	while (!d->reset_n && (c = TAILQ_FIRST(&d->ready)) && serve(d, c))
		;
	virtq_signal(&d->v.queue[RX]);
}

/* Both directions, as far as they go. */
static void run(struct vsock_dev *d)
{
	struct virtq *q = &d->v.queue[TX];

	if (!d->started)
		return;
	do {
		while (d->reset_n < VSOCK_RESETS_MAX && virtq_pop(q, &d->tx) > 0) {
			take_packet(d);
			virtq_push(q, &d->tx, 0);
		}
		to_guest(d);
	} while (d->reset_n < VSOCK_RESETS_MAX && !virtq_empty(q));
	virtq_signal(q);
}

/* ---- events of the host ---- */

static void incoming(struct vsock_dev *d, const struct vsock_event *ev)
{
	struct vsock_conn *c = NULL;

	for (unsigned i = 0; d->used < VSOCK_CONNS && i <= VSOCK_CONNS && !c; i++) {
		if (!vsock_find(d, ev->port, d->next_port))
			c = vsock_add(d, VSOCK_CALLING, ev->port, d->next_port);
		d->next_port = (d->next_port + 1) | FIRST_HOST_PORT;
	}
	if (!c) {
		d->host->ops->close(d->host, ev->stream);
		return;
	}
	attach(c, ev->stream);
	c->tell_request = true;
	vsock_list(d, c);
}

static void dialled(struct vsock_dev *d, const struct vsock_event *ev)
{
	struct vsock_conn *c = d->conns;

	while (c < d->conns + VSOCK_CONNS && (c->state != VSOCK_DIALLING || c->id != ev->id))
		c++;
	if (c == d->conns + VSOCK_CONNS) {
		if (ev->stream)
			d->host->ops->close(d->host, ev->stream);
	} else if (!ev->stream) {
		vsock_reset_conn(d, c);
	} else {
		attach(c, ev->stream);
		c->state = VSOCK_OPEN;
		c->tell_response = true;
		vsock_list(d, c);
	}
}

static void ready(struct vsock_dev *d, const struct vsock_event *ev)
{
	struct vsock_conn *c = ev->stream->opaque;

	c->readable |= ev->readable;
	if (ev->gone && c->state == VSOCK_CALLING) {
		/* the client did not wait; a guest that has not been asked need not know */
		if (c->tell_request)
			vsock_remove(d, c);
		else
			vsock_reset_conn(d, c);
		return;
	}
	if (ev->gone)
		host_closed(d, c);
	vsock_list(d, c);
	if (ev->writable || ev->gone)
		drain(d, c);
}

static void on_events(void *opaque)
{
	struct vsock_dev *d = opaque;
	struct vsock_event ev;

	tell_transport_reset(d);
	while (d->started && d->host->ops->next(d->host, &ev)) {
		if (ev.kind == VSOCK_INCOMING)
			incoming(d, &ev);
		else if (ev.kind == VSOCK_DIALLED)
			dialled(d, &ev);
		else
			ready(d, &ev);
	}
	run(d);
}

/* Any thread. */
static void wake(void *opaque)
{
	struct vsock_dev *d = opaque;

	door_signal(d->v.board->door, d->source);
}

/* ---- as a virtio device ---- */

static void vsock_notify(struct virtio *v, unsigned q)
{
	if (q == EVENT)
		tell_transport_reset(of(v));
	else
		run(of(v));
}

static void stop(struct vsock_dev *d)
{
	if (!d->started)
		return;
	vsock_remove_all(d);
	d->host->ops->stop(d->host);
	d->started = false;
}

static void vsock_start(struct virtio *v)
{
	struct vsock_dev *d = of(v);
	struct error e;

	if (d->host->ops->start(d->host, wake, d, &e)) {
		log_error("vsock", "%s", e.text);
		return;
	}
	d->started = true;
	wake(d);
}

static void vsock_reset(struct virtio *v)
{
	struct vsock_dev *d = of(v);

	stop(d);
	d->transport_reset = false;
	d->next_port = FIRST_HOST_PORT;
}

static void vsock_destroy(struct virtio *v)
{
	struct vsock_dev *d = of(v);

	stop(d);
	free(d->conns);
	free(d);
}

/* ---- state: section "virtio-vsock", version 1 ---- */

static void vsock_save(const struct virtio *v, struct encoder *e)
{
	enc_begin(e, v->ops->name, 1);
	enc_u32(e, of(v)->next_port);
	enc_end(e);
}

static bool decode(const struct virtio *v, struct decoder *in, u32 *next_port)
{
	struct decoder s;

	if (!dec_begin(in, v->ops->name, &s) || s.version != 1)
		return false;
	*next_port = dec_u32(&s);
	return dec_done(&s) && (*next_port & FIRST_HOST_PORT);
}

static int vsock_check(const struct virtio *v, struct decoder *in)
{
	u32 port;

	return decode(v, in, &port) ? 0 : -1;
}

static void vsock_load(struct virtio *v, struct decoder *in)
{
	struct vsock_dev *d = of(v);

	stop(d);
	if (!decode(v, in, &d->next_port))
		assert(!"checked before");
	/* the CID is this machine's, whatever it was where the record was made */
	memcpy(v->config, &d->cid, sizeof(d->cid));
	d->transport_reset = virtio_running(v);
	if (virtio_running(v))
		vsock_start(v);
}

static const struct virtio_ops vsock_ops = {
	.name = "virtio-vsock",
	.id = VIRTIO_ID_VSOCK,
	.pci_class = 0x028000, /* network controller, other */
	.reset = vsock_reset,
	.start = vsock_start,
	.notify = vsock_notify,
	.save = vsock_save,
	.check = vsock_check,
	.load = vsock_load,
	.destroy = vsock_destroy,
};

int virtio_vsock_create(struct board *b, struct pci_bus *bus, unsigned slot, struct vsock *host, u64 cid)
{
	struct vsock_dev *d = calloc(1, sizeof(*d));

	_Static_assert(sizeof(struct packet) == 44, "5.10.6");
	if (!d)
		return -1;
	d->host = host;
	d->cid = cid;
	d->next_port = FIRST_HOST_PORT;
	TAILQ_INIT(&d->ready);
	d->conns = calloc(VSOCK_CONNS, sizeof(*d->conns));
	d->v.ops = &vsock_ops;
	d->v.offered = F_STREAM;
	d->v.config_len = sizeof(cid);
	memcpy(d->v.config, &cid, sizeof(cid));
	d->v.queues = QUEUES;
	for (unsigned i = 0; i < QUEUES; i++)
		d->v.queue[i].size_max = QUEUE_SIZE;
	d->source = door_add_source(b->door, "vsock", on_events, d);
	if (d->conns && d->source >= 0 && virtio_pci_create(b, bus, slot, &d->v) == 0)
		return 0;
	free(d->conns);
	free(d);
	return -1;
}

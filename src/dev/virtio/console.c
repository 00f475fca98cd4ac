/*
 * virtio console, see console.h.
 *
 * What the driver must be told of a port (that it is there, what it is, whether
 * somebody is at the host's end, the terminal's size) is kept as what it was
 * told last; tell() compares that with what is and sends the difference as far
 * as the driver has given control buffers. So no queue of messages is needed,
 * whatever host and guest do.
 */
#include "dev/virtio/console.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/chr/chr.h"
#include "dev/virtio/virtio.h"
#include "replay/door.h"

#define F_SIZE BIT(0)
#define F_MULTIPORT BIT(1)
#define F_EMERG_WRITE BIT(2)

/* Configuration (5.3.4) */
#define CONFIG_COLS 0
#define CONFIG_ROWS 2
#define CONFIG_MAX_PORTS 4
#define CONFIG_EMERG_WR 8
#define CONFIG_LEN 12

#define CONTROL_RX 2 /* to the driver */
#define CONTROL_TX 3
#define QUEUE_SIZE 64
/* Bytes of output taken at once; then the guest runs on in between. */
#define TURN MiB
/* A driver keeps only whether the host's end is open: a program that is to see it closed needs time, or closes its own
 * end, before it is open again. Guest time. */
#define LINGER_NS 100000000u
#define DRAIN_NS 1000000000u
#define DRAIN_STEP_NS 1000000u

enum control_event {
	DEVICE_READY,
	PORT_ADD,
	PORT_REMOVE,
	PORT_READY,
	CONSOLE_PORT,
	RESIZE,
	PORT_OPEN,
	PORT_NAME,
};
struct control {
	u32 id;
	u16 event, value;
};

struct port {
	struct console *c;
	unsigned id;
	struct chr *chr;
	char name[VIRTIO_CONSOLE_NAME_MAX + 1]; /* "": a console */
	char sink_name[16];
	int sink;
	bool refused;	 /* the door was told that there is no room */
	bool chr_opened; /* the stream was told that the guest's end is open */
	bool lingering;	 /* until the timer fires the driver is told of no next client */
	struct timer *linger;

	/* saved */
	bool added, kind_told, open_told; /* PORT_ADD; CONSOLE_PORT or PORT_NAME; PORT_OPEN was 1 */
	bool ready;			  /* PORT_READY came */
	bool guest_open;
	u16 cols_told, rows_told;
	u32 sent; /* bytes of the first chain in the transmit queue that were passed on */
};

struct console {
	struct virtio v;
	struct door *door;
	struct clock *clock;
	int source;
	bool device_ready; /* saved */
	bool started;
	unsigned ports;
	struct port port[VIRTIO_CONSOLE_PORTS_MAX];
	struct virtq_buf buf;
};

static struct console *of(const struct virtio *v)
{
	return container_of((struct virtio *)(uintptr_t)v, struct console, v);
}

/* 5.3.2: the control queues lie behind those of port 0. */
static struct virtq *rx_queue(struct port *p)
{
	return &p->c->v.queue[p->id ? 2 * p->id + 2 : 0];
}
static struct virtq *tx_queue(struct port *p)
{
	return &p->c->v.queue[p->id ? 2 * p->id + 3 : 1];
}

static bool multiport(const struct console *c)
{
	return virtio_has(&c->v, F_MULTIPORT);
}

/* Does the driver take bytes for the port? */
static bool guest_listens(const struct port *p)
{
	if (!virtio_running(&p->c->v))
		return false;
	return multiport(p->c) ? p->guest_open : p->id == 0;
}

/* ---- input ---- */

static size_t sink(void *opaque, const u8 *bytes, size_t n)
{
	struct port *p = opaque;
	struct console *c = p->c;
	struct virtq *q = rx_queue(p);
	size_t done = 0;

	while (done < n && guest_listens(p) && virtq_pop(q, &c->buf) > 0) {
		size_t part = virtq_copy_in(&c->buf, 0, bytes + done, n - done);

		virtq_push(q, &c->buf, (u32)part);
		done += part;
	}
	if (done)
		virtq_signal(q);
	p->refused = done < n;
	/* the driver is told of the client's end behind its last byte: once the door has counted these */
	door_signal(c->door, c->source);
	return done;
}

static void offer_room(struct port *p)
{
	if (p->refused) {
		p->refused = false;
		door_sink_ready(p->c->door, p->sink);
	}
}

/* ---- output ---- */

static bool paced(const struct port *p)
{
	return p->name[0] && p->chr->ops->send && door_mode(p->c->door) == DOOR_REAL;
}

/* Passes on a chain from byte p->sent on; false if the stream has no more room. */
static bool pass_on(struct port *p, const struct virtq_buf *b)
{
	const struct chr_ops *ops = p->chr->ops;
	u64 skip = p->sent;

	for (unsigned i = 0; i < b->out_n; i++) {
		size_t n = b->iov[i].iov_len, taken;
		const u8 *from = b->iov[i].iov_base;

		if (skip >= n) {
			skip -= n;
			continue;
		}
		from += skip;
		n -= skip;
		skip = 0;
		taken = n;
		if (paced(p))
			taken = ops->send(p->chr, from, n);
		else
			ops->write(p->chr, from, n);
		p->sent += (u32)taken;
		if (taken < n)
			return false;
	}
	return true;
}

/* The stream learns of the end of a program of the guest behind its last byte. */
static void tell_stream(struct port *p, bool open)
{
	if (p->chr_opened == open)
		return;
	p->chr_opened = open;
	if (p->name[0] && p->chr->ops->guest_open)
		p->chr->ops->guest_open(p->chr, open);
}

static void transmit(struct port *p)
{
	struct console *c = p->c;
	struct virtq *q = tx_queue(p);
	bool more = true;
	u64 turn = 0;

	while (virtq_pop(q, &c->buf) > 0) {
		more = pass_on(p, &c->buf);
		if (!more) {
			virtq_unpop(q, 1);
			break;
		}
		turn += c->buf.out_len;
		p->sent = 0;
		virtq_push(q, &c->buf, 0);
		if (turn >= TURN && door_mode(c->door) == DOOR_REAL) {
			door_signal(c->door, c->source);
			more = false;
			break;
		}
	}
	virtq_signal(q);
	if (more && !p->guest_open)
		tell_stream(p, false);
}

/* ---- control messages ---- */

static bool send_control(struct port *p, enum control_event event, u16 value, const void *extra, size_t n)
{
	const struct control msg = { p->id, event, value };
	struct console *c = p->c;
	struct virtq *q = &c->v.queue[CONTROL_RX];

	if (virtq_pop(q, &c->buf) <= 0)
		return false;
	if (c->buf.in_len < sizeof(msg) + n) {
		virtio_broken(&c->v, "a control buffer is too small");
		return false;
	}
	virtq_copy_in(&c->buf, 0, &msg, sizeof(msg));
	virtq_copy_in(&c->buf, sizeof(msg), extra, n);
	virtq_push(q, &c->buf, (u32)(sizeof(msg) + n));
	return true;
}

static void stream_state(struct port *p, struct chr_state *s)
{
	*s = (struct chr_state){ .connected = true };
	if (p->chr->ops->state)
		p->chr->ops->state(p->chr, s);
}

/* PORT_OPEN of the host's end; the next client is let in once the driver knows of the last one's end. */
static void tell_presence(struct port *p, const struct chr_state *s)
{
	bool open = s->connected, drained = !door_queued(p->c->door, p->sink);

	if (s->ended && !drained)
		open = p->open_told;
	if (p->kind_told && open != p->open_told) {
		if (!send_control(p, PORT_OPEN, open, NULL, 0))
			return;
		p->open_told = open;
		p->lingering = !open && p->guest_open;
		if (p->lingering)
			timer_arm(p->linger, clock_now(p->c->clock) + LINGER_NS);
	}
	if (s->ended && drained && !p->lingering && p->chr->ops->gone)
		p->chr->ops->gone(p->chr);
}

static void lingered(void *opaque)
{
	struct port *p = opaque;

	p->lingering = false;
	door_signal(p->c->door, p->c->source);
}

/* 5.3.6.2: columns first. */
static void tell_size(struct port *p, const struct chr_state *s)
{
	const u16 size[2] = { s->cols, s->rows };

	if (!p->kind_told || p->name[0] || !s->cols || !s->rows || (s->cols == p->cols_told && s->rows == p->rows_told))
		return;
	if (!send_control(p, RESIZE, 0, size, sizeof(size)))
		return;
	p->cols_told = s->cols;
	p->rows_told = s->rows;
}

static void tell(struct port *p)
{
	struct console *c = p->c;
	struct chr_state s;

	stream_state(p, &s);
	if (c->device_ready && !p->added)
		p->added = send_control(p, PORT_ADD, 1, NULL, 0);
	if (p->ready && !p->kind_told)
		p->kind_told = p->name[0] ? send_control(p, PORT_NAME, 1, p->name, strlen(p->name))
					  : send_control(p, CONSOLE_PORT, 1, NULL, 0);
	tell_presence(p, &s);
	tell_size(p, &s);
}

static void put_size(struct console *c, const struct chr_state *s)
{
	u16 size[2] = { s->cols, s->rows };

	if (!memcmp(c->v.config + CONFIG_COLS, size, sizeof(size)))
		return;
	memcpy(c->v.config + CONFIG_COLS, size, sizeof(size));
	virtio_config_changed(&c->v);
}

static void tell_all(struct console *c)
{
	struct chr_state s;

	stream_state(&c->port[0], &s);
	put_size(c, &s);
	for (unsigned i = 0; i < c->ports; i++)
		tell(&c->port[i]);
	virtq_signal(&c->v.queue[CONTROL_RX]);
}

static void guest_opens(struct port *p, bool open)
{
	p->guest_open = open;
	if (open) {
		/* opened again while output of the last time waits: the end is told late rather than never */
		tell_stream(p, false);
		tell_stream(p, true);
		offer_room(p);
	} else {
		p->lingering = false;
		timer_cancel(p->linger);
		transmit(p);
	}
}

static void control(struct console *c, const struct control *msg)
{
	struct port *p = msg->id < c->ports ? &c->port[msg->id] : NULL;

	if (msg->event == DEVICE_READY) {
		c->device_ready = msg->value == 1;
	} else if (!p) {
		return; /* a port the driver was never told of */
	} else if (msg->event == PORT_READY) {
		p->ready = p->added && msg->value == 1;
	} else if (msg->event == PORT_OPEN && msg->value <= 1 && p->guest_open != (msg->value == 1)) {
		guest_opens(p, msg->value == 1);
	}
}

static void receive_control(struct console *c)
{
	struct virtq *q = &c->v.queue[CONTROL_TX];
	struct control msg;

	while (virtq_pop(q, &c->buf) > 0) {
		bool whole = virtq_copy_out(&c->buf, 0, &msg, sizeof(msg)) == sizeof(msg);

		virtq_push(q, &c->buf, 0);
		if (whole)
			control(c, &msg);
	}
	virtq_signal(q);
	tell_all(c);
}

/* ---- as a virtio device ---- */

static void console_notify(struct virtio *v, unsigned n)
{
	struct console *c = of(v);
	struct port *p = &c->port[n < 2 ? 0 : n / 2 - 1];

	if (n == CONTROL_RX || n == CONTROL_TX) {
		if (!multiport(c))
			return;
		if (n == CONTROL_TX)
			receive_control(c);
		else
			tell_all(c);
	} else if (n & 1) {
		transmit(p);
	} else {
		offer_room(p);
	}
}

/* From the door: a stream has room again, somebody came or went, the terminal's size changed. */
static void stream_news(void *opaque)
{
	struct console *c = opaque;

	tell_all(c);
	for (unsigned i = 0; i < c->ports; i++)
		transmit(&c->port[i]);
}

/* Any thread. */
static void stream_changed(void *opaque)
{
	const struct port *p = opaque;

	door_signal(p->c->door, p->c->source);
}

static void console_start(struct virtio *v)
{
	struct console *c = of(v);

	for (unsigned i = 0; i < c->ports; i++)
		offer_room(&c->port[i]);
}

static void console_reset(struct virtio *v)
{
	struct console *c = of(v);

	c->device_ready = false;
	for (unsigned i = 0; i < c->ports; i++) {
		struct port *p = &c->port[i];

		p->added = p->kind_told = p->open_told = p->ready = p->guest_open = false;
		p->cols_told = p->rows_told = 0;
		p->sent = 0;
		p->lingering = false;
		timer_cancel(p->linger);
		tell_stream(p, false);
	}
	memset(v->config + CONFIG_EMERG_WR, 0, 4);
}

/* Emergency write (5.3.4): a byte of the first port, at any time, without a queue. */
static void console_config_written(struct virtio *v, unsigned off, unsigned size)
{
	struct port *p = &of(v)->port[0];

	if (off == CONFIG_EMERG_WR)
		p->chr->ops->write(p->chr, &v->config[CONFIG_EMERG_WR], 1);
}

/* ---- state: version 1, the ports' number first ---- */

static void console_save(const struct virtio *v, struct encoder *e)
{
	const struct console *c = of(v);

	enc_begin(e, v->ops->name, 1);
	enc_bool(e, c->device_ready);
	enc_u8(e, (u8)c->ports);
	for (unsigned i = 0; i < c->ports; i++) {
		const struct port *p = &c->port[i];

		enc_bool(e, p->added);
		enc_bool(e, p->kind_told);
		enc_bool(e, p->open_told);
		enc_bool(e, p->ready);
		enc_bool(e, p->guest_open);
		enc_u16(e, p->cols_told);
		enc_u16(e, p->rows_told);
		enc_u32(e, p->sent);
	}
	enc_end(e);
}

/* Of `ports` only the saved members are written. */
static bool decode(const struct virtio *v, struct decoder *in, bool *device_ready, struct port *ports)
{
	const struct console *c = of(v);
	struct decoder i;

	if (!dec_begin(in, v->ops->name, &i) || i.version != 1)
		return false;
	*device_ready = dec_bool(&i);
	if (dec_u8(&i) != c->ports)
		return false;
	for (unsigned n = 0; n < c->ports; n++) {
		struct port *p = &ports[n];

		p->added = dec_bool(&i);
		p->kind_told = dec_bool(&i);
		p->open_told = dec_bool(&i);
		p->ready = dec_bool(&i);
		p->guest_open = dec_bool(&i);
		p->cols_told = dec_u16(&i);
		p->rows_told = dec_u16(&i);
		p->sent = dec_u32(&i);
	}
	return dec_done(&i);
}

static int console_check(const struct virtio *v, struct decoder *in)
{
	struct port ports[VIRTIO_CONSOLE_PORTS_MAX];
	bool ready;

	return decode(v, in, &ready, ports) ? 0 : -1;
}

static void console_load(struct virtio *v, struct decoder *in)
{
	struct console *c = of(v);
	u32 ports = c->ports;

	if (!decode(v, in, &c->device_ready, c->port))
		return;
	memcpy(v->config + CONFIG_MAX_PORTS, &ports, sizeof(ports));
	for (unsigned i = 0; i < c->ports; i++) {
		tell_stream(&c->port[i], c->port[i].guest_open);
		c->port[i].refused = false;
		door_sink_ready(c->door, c->port[i].sink);
	}
	door_signal(c->door, c->source);
}

static void free_console(struct console *c)
{
	for (unsigned i = 0; i < c->ports; i++)
		if (c->port[i].linger)
			timer_free(c->port[i].linger);
	free(c);
}

static void stop_streams(struct console *c)
{
	for (unsigned i = 0; c->started && i < c->ports; i++) {
		struct chr *chr = c->port[i].chr;

		chr->ops->stop(chr);
		chr->changed = NULL;
	}
	c->started = false;
}

/* The bus is gone: the rings are not looked at any more. */
static void console_destroy(struct virtio *v)
{
	stop_streams(of(v));
	free_console(of(v));
}

static const struct virtio_ops console_ops = {
	.name = "virtio-console",
	.id = VIRTIO_ID_CONSOLE,
	.pci_class = 0x078000, /* simple communication controller, other */
	.reset = console_reset,
	.start = console_start,
	.notify = console_notify,
	.config_written = console_config_written,
	.save = console_save,
	.check = console_check,
	.load = console_load,
	.destroy = console_destroy,
};

void virtio_console_start(struct virtio *v)
{
	struct console *c = of(v);

	if (c->started)
		return;
	c->started = true;
	for (unsigned i = 0; i < c->ports; i++) {
		struct chr *chr = c->port[i].chr;

		chr->opaque = &c->port[i];
		chr->changed = stream_changed;
		chr->ops->start(chr, c->door, c->port[i].sink);
	}
	door_signal(c->door, c->source);
}

/* What a guest wrote before it ended is not lost for want of a moment. */
static void send_last_words(struct console *c)
{
	const struct timespec step = { .tv_nsec = DRAIN_STEP_NS };
	bool waiting = true;

	for (u64 t = 0; waiting && t < DRAIN_NS; t += DRAIN_STEP_NS) {
		waiting = false;
		for (unsigned i = 0; i < c->ports; i++) {
			transmit(&c->port[i]);
			waiting |= !virtq_empty(tx_queue(&c->port[i]));
		}
		if (waiting)
			nanosleep(&step, NULL);
	}
}

void virtio_console_stop(struct virtio *v)
{
	if (of(v)->started)
		send_last_words(of(v));
	stop_streams(of(v));
}

static bool add_ports(struct console *c, const struct virtio_console_port *ports, unsigned n)
{
	u32 count = n;

	c->ports = n;
	for (unsigned i = 0; i < n; i++) {
		struct port *p = &c->port[i];

		p->c = c;
		p->id = i;
		p->chr = ports[i].chr;
		if (ports[i].name)
			strncpy(p->name, ports[i].name, sizeof(p->name) - 1);
		memcpy(p->sink_name, "console0", 9);
		p->sink_name[7] += (char)(i % 10);
		p->sink = door_add_sink(c->door, p->sink_name, sink, p);
		p->linger = timer_create_on(c->clock, "console-linger", lingered, p);
		if (p->sink < 0 || !p->linger)
			return false;
		rx_queue(p)->size_max = tx_queue(p)->size_max = QUEUE_SIZE;
	}
	c->v.queue[CONTROL_RX].size_max = c->v.queue[CONTROL_TX].size_max = QUEUE_SIZE;
	c->v.queues = 2 * n + 2;
	memcpy(c->v.config + CONFIG_MAX_PORTS, &count, sizeof(count));
	return true;
}

struct virtio *virtio_console_create(struct board *b, struct pci_bus *bus, unsigned slot,
				     const struct virtio_console_port *ports, unsigned n)
{
	struct console *c = calloc(1, sizeof(*c));

	_Static_assert(2 * VIRTIO_CONSOLE_PORTS_MAX + 2 <= VIRTIO_QUEUES_MAX, "each port has two queues");
	if (!c || !n || n > VIRTIO_CONSOLE_PORTS_MAX) {
		free(c);
		return NULL;
	}
	c->door = b->door;
	c->clock = b->clock;
	c->v.ops = &console_ops;
	c->v.offered = F_SIZE | F_MULTIPORT | F_EMERG_WRITE;
	c->v.config_len = CONFIG_LEN;
	memset(c->v.config_wmask + CONFIG_EMERG_WR, 0xff, 4);
	c->source = door_add_source(b->door, "virtio-console", stream_news, c);
	if (add_ports(c, ports, n) && c->source >= 0 && virtio_pci_create(b, bus, slot, &c->v) == 0)
		return &c->v;
	free_console(c);
	return NULL;
}

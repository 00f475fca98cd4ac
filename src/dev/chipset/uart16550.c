/*
 * 16550A (National Semiconductor PC16550D data sheet, June 1995).
 *
 * Transmission takes no time: the transmitter is always empty. The
 * transmitter-empty interrupt is a latch of its own (`thre`): set when the
 * holding register becomes empty and when IER enables it while empty, cleared
 * by a write to the holding register and by the IIR read that reports it. As
 * the register empties at once, a write drops the line and raises it again,
 * which is the edge that an ISA interrupt needs.
 *
 * Bytes sent are collected and handed to the character backend at a line end,
 * when the buffer is full, and FLUSH_NS of guest time after the first one.
 *
 * Input comes from the replay door, which offers bytes again after
 * door_sink_ready(); so there are no overruns except in loopback.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/chr/chr.h"
#include "dev/chipset/uart16550.h"
#include "replay/door.h"

#define FIFO_SIZE 16
#define TX_BUFFER 4096
#define FLUSH_NS 2000000u
#define INPUT_CLOCK 1843200u

#define IER_RDI 0x01
#define IER_THRI 0x02
#define IER_RLSI 0x04
#define IER_MSI 0x08

#define IIR_NONE 0x01
#define IIR_MSI 0x00
#define IIR_THRI 0x02
#define IIR_RDI 0x04
#define IIR_RLSI 0x06
#define IIR_TIMEOUT 0x0c
#define IIR_FIFOS 0xc0

#define FCR_ENABLE 0x01
#define FCR_CLEAR_RX 0x02
#define FCR_TRIGGER 0xc0

#define LCR_DLAB 0x80

#define MCR_DTR 0x01
#define MCR_RTS 0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10

#define LSR_DR 0x01
#define LSR_OE 0x02
#define LSR_ERRORS 0x1e
#define LSR_EMPTY 0x60 /* THRE and TEMT */

#define MSR_CTS 0x10
#define MSR_DSR 0x20
#define MSR_RI 0x40
#define MSR_DCD 0x80
#define MSR_TERI 0x04

struct state {
	u8 ier, fcr, lcr, mcr, lsr_errors, msr, scr;
	u16 divisor;
	u8 fifo[FIFO_SIZE]; /* oldest first */
	u8 count;
	u8 last;	/* what an empty receiver reads as */
	bool thre;	/* transmitter-empty interrupt latch */
	bool timeout;	/* character timeout */
	u64 timeout_at; /* guest ns, 0: not running */
	bool irq;
};

struct uart {
	struct device dev;
	struct portmap *ports;
	struct clock *clock;
	struct door *door;
	struct timer *rx_timer, *tx_timer;
	struct chr *chr;
	struct irq irq;
	u16 base;
	int sink;
	bool refused; /* the door was told that there is no room */
	struct state s;
	unsigned tx_len;
	u8 tx[TX_BUFFER];
};

static unsigned room(const struct state *s)
{
	return (s->fcr & FCR_ENABLE ? FIFO_SIZE : 1) - s->count;
}

static unsigned trigger(const struct state *s)
{
	static const u8 levels[4] = { 1, 4, 8, 14 };

	return s->fcr & FCR_ENABLE ? levels[s->fcr >> 6] : 1;
}

/* Four character times (start, data, parity, stop bits) in ns. */
static u64 timeout_ns(const struct state *s)
{
	unsigned bits = 1 + 5 + (s->lcr & 3) + (s->lcr >> 3 & 1) + 1 + (s->lcr >> 2 & 1);
	u64 divisor = s->divisor ? s->divisor : 1;

	return 4 * bits * divisor * 16 * NSEC_PER_SEC / INPUT_CLOCK;
}

/* The highest-priority cause, data sheet table "Interrupt Control Functions". */
static u8 cause(const struct state *s)
{
	if ((s->ier & IER_RLSI) && s->lsr_errors)
		return IIR_RLSI;
	if ((s->ier & IER_RDI) && s->count >= trigger(s))
		return IIR_RDI;
	if ((s->ier & IER_RDI) && s->timeout)
		return IIR_TIMEOUT;
	if ((s->ier & IER_THRI) && s->thre)
		return IIR_THRI;
	if ((s->ier & IER_MSI) && (s->msr & 0x0f))
		return IIR_MSI;
	return IIR_NONE;
}

/* On a PC OUT2 gates the interrupt, and loopback forces OUT2 inactive. */
static void update(struct uart *u)
{
	u->s.irq = cause(&u->s) != IIR_NONE && (u->s.mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;
	irq_set(&u->irq, u->s.irq);
}

/* The timeout counts from the last arrival or read while bytes wait in the FIFO. */
static void restart_timeout(struct uart *u)
{
	struct state *s = &u->s;

	if ((s->fcr & FCR_ENABLE) && s->count && !s->timeout) {
		s->timeout_at = clock_now(u->clock) + timeout_ns(s);
		timer_arm(u->rx_timer, s->timeout_at);
	} else {
		s->timeout_at = 0;
		timer_cancel(u->rx_timer);
	}
}

static void rx_timeout(void *opaque)
{
	struct uart *u = opaque;

	u->s.timeout_at = 0;
	u->s.timeout = u->s.count != 0;
	update(u);
}

static void offer_room(struct uart *u)
{
	if (u->refused && room(&u->s) && !(u->s.mcr & MCR_LOOP)) {
		u->refused = false;
		door_sink_ready(u->door, u->sink);
	}
}

static size_t uart_rx(void *opaque, const u8 *bytes, size_t n)
{
	struct uart *u = opaque;
	struct state *s = &u->s;
	size_t take = s->mcr & MCR_LOOP ? 0 : MIN(n, room(s));

	u->refused = take < n;
	if (take) {
		memcpy(s->fifo + s->count, bytes, take);
		s->count += take;
		restart_timeout(u);
		update(u);
	}
	return take;
}

static void flush(struct uart *u)
{
	timer_cancel(u->tx_timer);
	if (u->tx_len && u->chr)
		u->chr->ops->write(u->chr, u->tx, u->tx_len);
	u->tx_len = 0;
}

static void tx_timeout(void *opaque)
{
	flush(opaque);
}

static void transmit(struct uart *u, u8 v)
{
	struct state *s = &u->s;

	if (s->mcr & MCR_LOOP) {
		if (room(s)) {
			s->fifo[s->count++] = v;
			restart_timeout(u);
		} else {
			s->lsr_errors |= LSR_OE;
			if (!(s->fcr & FCR_ENABLE)) /* the newer byte overwrites the holding register */
				s->fifo[0] = v;
		}
	} else if (u->chr) {
		if (!u->tx_len)
			timer_arm(u->tx_timer, clock_now(u->clock) + FLUSH_NS);
		u->tx[u->tx_len++] = v;
		if (v == '\n' || u->tx_len == TX_BUFFER)
			flush(u);
	}
	s->thre = false;
	update(u);
	s->thre = true;
}

static u8 receive(struct uart *u)
{
	struct state *s = &u->s;

	if (s->count) {
		s->last = s->fifo[0];
		memmove(s->fifo, s->fifo + 1, --s->count);
		s->timeout = false;
		restart_timeout(u);
		offer_room(u);
	}
	return s->last;
}

/* Modem inputs: a connected peer, or the outputs in loopback. Sets the deltas. */
static void modem_lines(struct uart *u)
{
	struct state *s = &u->s;
	u8 lines = MSR_DCD | MSR_DSR | MSR_CTS, changed;

	if (s->mcr & MCR_LOOP)
		lines = (s->mcr & MCR_RTS ? MSR_CTS : 0) | (s->mcr & MCR_DTR ? MSR_DSR : 0) |
			(s->mcr & MCR_OUT1 ? MSR_RI : 0) | (s->mcr & MCR_OUT2 ? MSR_DCD : 0);
	changed = (s->msr & 0xf0) ^ lines;
	if ((changed & MSR_RI) && (lines & MSR_RI))
		changed &= ~MSR_RI; /* only the trailing edge of RI counts */
	s->msr = lines | (s->msr & 0x0f) | changed >> 4;
}

static void write_fcr(struct uart *u, u8 val)
{
	struct state *s = &u->s;
	bool toggled = (val ^ s->fcr) & FCR_ENABLE;

	if (toggled || ((val & FCR_ENABLE) && (val & FCR_CLEAR_RX))) {
		s->count = 0;
		s->timeout = false;
	}
	s->fcr = val & FCR_ENABLE ? val & (FCR_ENABLE | FCR_TRIGGER) : 0;
	restart_timeout(u);
	offer_room(u);
}

static u64 uart_read(void *opaque, u64 off, unsigned size)
{
	struct uart *u = opaque;
	struct state *s = &u->s;
	u8 v;

	if (off < 2 && (s->lcr & LCR_DLAB))
		return off ? s->divisor >> 8 : s->divisor & 0xff;
	switch (off) {
	case 0:
		v = receive(u);
		break;
	case 1:
		return s->ier;
	case 2:
		v = cause(s);
		if (v == IIR_THRI)
			s->thre = false;
		if (s->fcr & FCR_ENABLE)
			v |= IIR_FIFOS;
		break;
	case 3:
		return s->lcr;
	case 4:
		return s->mcr;
	case 5:
		v = LSR_EMPTY | s->lsr_errors | (s->count ? LSR_DR : 0);
		s->lsr_errors = 0;
		break;
	case 6:
		v = s->msr;
		s->msr &= 0xf0;
		break;
	default:
		return s->scr;
	}
	update(u);
	return v;
}

static void uart_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct uart *u = opaque;
	struct state *s = &u->s;

	if (off < 2 && (s->lcr & LCR_DLAB)) {
		s->divisor = off ? (val & 0xff) << 8 | (s->divisor & 0xff) : (s->divisor & 0xff00) | (val & 0xff);
		return;
	}
	switch (off) {
	case 0:
		transmit(u, val);
		break;
	case 1:
		if ((val & IER_THRI) && !(s->ier & IER_THRI))
			s->thre = true;
		s->ier = val & 0x0f;
		break;
	case 2:
		write_fcr(u, val);
		break;
	case 3:
		s->lcr = val;
		break;
	case 4:
		s->mcr = val & 0x1f;
		modem_lines(u);
		offer_room(u);
		break;
	case 7:
		s->scr = val;
		break;
	}
	update(u);
}

static const struct io_ops uart_io = { uart_read, uart_write, 1, 1 };

static void uart_reset(struct device *d)
{
	struct uart *u = (struct uart *)d;

	flush(u);
	u->s = (struct state){ .divisor = 12, .msr = MSR_DCD | MSR_DSR | MSR_CTS, .thre = true };
	timer_cancel(u->rx_timer);
	update(u);
	offer_room(u);
}

static void uart_quiesce(struct device *d)
{
	flush((struct uart *)d);
}

static void uart_save(const struct device *d, struct encoder *e)
{
	const struct state *s = &((const struct uart *)d)->s;

	enc_begin(e, d->ops->name, 1);
	enc_u8(e, s->ier);
	enc_u8(e, s->fcr);
	enc_u8(e, s->lcr);
	enc_u8(e, s->mcr);
	enc_u8(e, s->lsr_errors);
	enc_u8(e, s->msr);
	enc_u8(e, s->scr);
	enc_u16(e, s->divisor);
	enc_u8(e, s->count);
	enc_bytes(e, s->fifo, s->count);
	enc_u8(e, s->last);
	enc_bool(e, s->thre);
	enc_bool(e, s->timeout);
	enc_u64(e, s->timeout_at);
	enc_bool(e, s->irq);
	enc_end(e);
}

static bool decode(const struct device *d, struct decoder *in, struct state *s)
{
	struct decoder i;

	if (!dec_begin(in, d->ops->name, &i) || i.version != 1)
		return false;
	*s = (struct state){ 0 };
	s->ier = dec_u8(&i);
	s->fcr = dec_u8(&i);
	s->lcr = dec_u8(&i);
	s->mcr = dec_u8(&i);
	s->lsr_errors = dec_u8(&i);
	s->msr = dec_u8(&i);
	s->scr = dec_u8(&i);
	s->divisor = dec_u16(&i);
	s->count = dec_u8(&i);
	if (s->count > FIFO_SIZE)
		return false;
	dec_bytes(&i, s->fifo, s->count);
	s->last = dec_u8(&i);
	s->thre = dec_bool(&i);
	s->timeout = dec_bool(&i);
	s->timeout_at = dec_u64(&i);
	s->irq = dec_bool(&i);
	return dec_done(&i) && s->ier <= 0x0f && !(s->fcr & ~(FCR_ENABLE | FCR_TRIGGER)) && s->mcr <= 0x1f &&
	       !(s->lsr_errors & ~LSR_ERRORS) && s->count <= (s->fcr & FCR_ENABLE ? FIFO_SIZE : 1);
}

static int uart_check(const struct device *d, struct decoder *in)
{
	struct state s;

	return decode(d, in, &s) ? 0 : -1;
}

static void uart_load(struct device *d, struct decoder *in)
{
	struct uart *u = (struct uart *)d;
	struct state s;

	if (!decode(d, in, &s))
		return;
	u->s = s;
	u->irq.level = s.irq;
	if (s.timeout_at)
		timer_arm(u->rx_timer, s.timeout_at);
	else
		timer_cancel(u->rx_timer);
	door_sink_ready(u->door, u->sink);
}

static void uart_destroy(struct device *d)
{
	struct uart *u = (struct uart *)d;

	flush(u);
	portmap_remove(u->ports, u->base, u);
	timer_free(u->rx_timer);
	timer_free(u->tx_timer);
	free(u);
}

static const struct device_ops uart_ops = {
	.name = "uart16550",
	.reset = uart_reset,
	.quiesce = uart_quiesce,
	.save = uart_save,
	.check = uart_check,
	.load = uart_load,
	.destroy = uart_destroy,
};

int uart_sink(const struct device *d)
{
	return ((const struct uart *)d)->sink;
}

struct device *uart_create(struct board *b, u16 base, const struct irq *irq, struct chr *out, const char *sink_name)
{
	struct uart *u = calloc(1, sizeof(*u));

	if (!u)
		return NULL;
	u->dev.ops = &uart_ops;
	u->ports = b->ports;
	u->clock = b->clock;
	u->door = b->door;
	u->chr = out;
	u->irq = *irq;
	u->base = base;
	u->rx_timer = timer_create_on(b->clock, "uart-rx", rx_timeout, u);
	u->tx_timer = timer_create_on(b->clock, "uart-tx", tx_timeout, u);
	u->sink = door_add_sink(b->door, sink_name, uart_rx, u);
	if (!u->rx_timer || !u->tx_timer || u->sink < 0) {
		if (u->rx_timer)
			timer_free(u->rx_timer);
		if (u->tx_timer)
			timer_free(u->tx_timer);
		free(u);
		return NULL;
	}
	portmap_add(b->ports, base, 8, &uart_io, u, "uart16550");
	board_attach(b, &u->dev);
	uart_reset(&u->dev);
	return &u->dev;
}

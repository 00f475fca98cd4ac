/*
 * The remote serial protocol: one packet in, one reply out.
 *
 * All-stop, one thread a processor (thread n is processor n - 1). Breakpoints
 * of every kind are debug points of the processors (v->debug): guest memory is
 * never patched, so the guest cannot see them and code that modifies itself
 * cannot lose them. Malformed packets get an error or, as the protocol wants
 * for what is unknown, an empty reply.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gdb/stub.h"

#define ERR_ARG "E16"  /* EINVAL */
#define ERR_MEM "E0e"  /* EFAULT */
#define ERR_FULL "E1c" /* ENOSPC */
#define SIG_INT 2
#define SIG_TRAP 5
#define SIG_SEGV 11

struct point {
	u8 type; /* of the Z packet, 0..4 */
	u8 len;
	u64 addr;
};

struct gdb_stub {
	const struct gdb_target *t;
	struct gdb_reader reader;
	struct gdb_out out, reply, xml;
	struct point point[DEBUG_MAX_POINTS];
	unsigned points;
	unsigned cpu; /* selected with Hg, and by a stop */
	bool no_ack, physical, swbreak, hwbreak;
	bool running; /* gdb waits for a stop reply */
	size_t last_len;
	u8 *last; /* frame to repeat on '-' */
	enum debug_stop why;
	enum gdb_action action; /* of the packet being handled */
	u8 mem[GDB_PACKET_MAX / 2];
};

struct args {
	const u8 *p, *end;
};

struct gdb_stub *gdb_stub_create(const struct gdb_target *t)
{
	struct gdb_stub *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->t = t;
	gdb_target_xml(t, &s->xml);
	return s;
}

void gdb_stub_destroy(struct gdb_stub *s)
{
	if (!s)
		return;
	gdb_out_free(&s->out);
	gdb_out_free(&s->reply);
	gdb_out_free(&s->xml);
	free(s->last);
	free(s);
}

struct gdb_out *gdb_stub_out(struct gdb_stub *s)
{
	return &s->out;
}

/* Hand the list of points to every processor. */
static void publish_points(struct gdb_stub *s)
{
	static const u8 kind[] = { 0, 0, 1, 2, 3 };

	for (unsigned n = 0; n < s->t->cpus; n++) {
		struct vcpu *v = gdb_vcpu(s->t, n);

		for (unsigned i = 0; i < s->points; i++)
			v->debug.point[i] = (struct debug_point){
				.addr = s->point[i].addr,
				.len = s->point[i].type < 2 ? 1 : s->point[i].len,
				.kind = kind[s->point[i].type],
			};
		v->debug.count = s->points;
		s->t->ops->points_changed(s->t->opaque, v);
	}
}

static void clear_points(struct gdb_stub *s)
{
	if (s->points) {
		s->points = 0;
		publish_points(s);
	}
}

void gdb_stub_reset(struct gdb_stub *s)
{
	s->reader.state = 0;
	s->out.len = 0;
	s->no_ack = s->physical = s->swbreak = s->hwbreak = s->running = false;
	s->cpu = 0;
	free(s->last);
	s->last = NULL;
	s->last_len = 0;
	clear_points(s);
}

static struct vcpu *current(struct gdb_stub *s)
{
	return gdb_vcpu(s->t, s->cpu);
}

static void say(struct gdb_stub *s, const char *text)
{
	gdb_out_add(&s->reply, text, strlen(text));
}

/* Frames s->reply into the output and remembers it for a '-'. */
static void send_reply(struct gdb_stub *s)
{
	size_t at = s->out.len;

	if (s->reply.full) {
		s->reply.len = 0;
		say(s, ERR_FULL);
	}
	gdb_out_packet(&s->out, s->reply.data, s->reply.len);
	s->reply.len = 0;
	s->reply.full = false;
	free(s->last);
	s->last = NULL;
	s->last_len = 0;
	if (!s->no_ack && s->out.len > at) {
		s->last = malloc(s->out.len - at);
		if (s->last) {
			s->last_len = s->out.len - at;
			memcpy(s->last, s->out.data + at, s->last_len);
		}
	}
}

static bool has_point(const struct gdb_stub *s, unsigned type, u64 addr)
{
	for (unsigned i = 0; i < s->points; i++)
		if (s->point[i].type == type && s->point[i].addr == addr)
			return true;
	return false;
}

/* T packet: the signal, the thread and why. */
static void stop_reply(struct gdb_stub *s)
{
	struct vcpu *v = current(s);
	static const char *const watch[] = { "", "watch", "rwatch", "awatch" };
	unsigned sig = SIG_TRAP;

	if (s->why == DEBUG_STOP_END) {
		say(s, "W00");
		return;
	}
	if (s->why == DEBUG_STOP_INTERRUPT)
		sig = SIG_INT;
	else if (s->why == DEBUG_STOP_TRIPLE_FAULT)
		sig = SIG_SEGV;
	gdb_out_printf(&s->reply, "T%02xthread:%x;", sig, s->cpu + 1);
	if (s->why != DEBUG_STOP_BREAKPOINT)
		return;
	if (v->debug.hit_kind >= 1 && v->debug.hit_kind <= 3)
		gdb_out_printf(&s->reply, "%s:%llx;", watch[v->debug.hit_kind], (unsigned long long)v->debug.hit_addr);
	else if (s->swbreak && has_point(s, 0, v->cpu.rip))
		say(s, "swbreak:;");
	else if (s->hwbreak && has_point(s, 1, v->cpu.rip))
		say(s, "hwbreak:;");
}

void gdb_stub_stopped(struct gdb_stub *s, enum debug_stop why)
{
	s->why = why;
	if (!s->running)
		return;
	s->running = false;
	if (s->t->ops->stopped)
		s->cpu = s->t->ops->stopped(s->t->opaque);
	stop_reply(s);
	send_reply(s);
}

static bool arg_char(struct args *a, char c)
{
	if (a->p == a->end || *a->p != (u8)c)
		return false;
	a->p++;
	return true;
}

static bool arg_hex(struct args *a, u64 *val)
{
	return gdb_hex_u64(&a->p, a->end, val);
}

static bool arg_end(const struct args *a)
{
	return a->p == a->end;
}

static bool arg_word(struct args *a, const char *w)
{
	size_t n = strlen(w);

	if ((size_t)(a->end - a->p) < n || memcmp(a->p, w, n))
		return false;
	a->p += n;
	return true;
}

/* A thread id: hexadecimal, 0 for any, -1 for all. */
static bool arg_thread(struct args *a, s64 *thread)
{
	u64 val;

	if (arg_word(a, "-1")) {
		*thread = -1;
		return true;
	}
	if (!arg_hex(a, &val) || val > INT32_MAX)
		return false;
	*thread = (s64)val;
	return true;
}

static bool thread_exists(const struct gdb_stub *s, s64 thread)
{
	return thread >= 1 && (u64)thread <= s->t->cpus;
}

/* Registers */

static void read_all_regs(struct gdb_stub *s)
{
	u8 buf[GDB_REG_MAX_BYTES];
	unsigned n = gdb_reg_count(s->t);

	for (unsigned i = 0; i < n; i++)
		gdb_out_hex(&s->reply, buf, gdb_reg_get(s->t, current(s), i, buf));
}

/* G: what cannot be written, or is as it was, is passed over. */
static void write_all_regs(struct gdb_stub *s, struct args *a)
{
	unsigned n = gdb_reg_count(s->t);

	for (unsigned i = 0; i < n && !arg_end(a); i++) {
		u8 now[GDB_REG_MAX_BYTES], want[GDB_REG_MAX_BYTES];
		unsigned size = gdb_reg_get(s->t, current(s), i, now);

		if ((size_t)(a->end - a->p) < 2 * size || !gdb_hex_bytes(a->p, want, size)) {
			/* xx..: unavailable, leave it */
			if ((size_t)(a->end - a->p) >= 2 * size && *a->p == 'x') {
				a->p += 2 * size;
				continue;
			}
			say(s, ERR_ARG);
			return;
		}
		a->p += 2 * size;
		if (memcmp(now, want, size))
			gdb_reg_set(s->t, current(s), i, want);
	}
	s->t->ops->state_changed(s->t->opaque, current(s));
	say(s, "OK");
}

static void read_reg(struct gdb_stub *s, struct args *a)
{
	u8 buf[GDB_REG_MAX_BYTES];
	unsigned size;
	u64 n;

	if (!arg_hex(a, &n) || !arg_end(a) || n > UINT32_MAX ||
	    !(size = gdb_reg_get(s->t, current(s), (unsigned)n, buf))) {
		say(s, ERR_ARG);
		return;
	}
	gdb_out_hex(&s->reply, buf, size);
}

static void write_reg(struct gdb_stub *s, struct args *a)
{
	u8 buf[GDB_REG_MAX_BYTES];
	unsigned size;
	u64 n;

	if (!arg_hex(a, &n) || n > UINT32_MAX || !arg_char(a, '=') || !(size = gdb_reg_size(s->t, (unsigned)n)) ||
	    (size_t)(a->end - a->p) != 2 * size || !gdb_hex_bytes(a->p, buf, size) ||
	    gdb_reg_set(s->t, current(s), (unsigned)n, buf)) {
		say(s, ERR_ARG);
		return;
	}
	s->t->ops->state_changed(s->t->opaque, current(s));
	say(s, "OK");
}

/* Memory */

static void read_mem(struct gdb_stub *s, struct args *a)
{
	u64 addr, len;
	size_t n;

	if (!arg_hex(a, &addr) || !arg_char(a, ',') || !arg_hex(a, &len) || !arg_end(a)) {
		say(s, ERR_ARG);
		return;
	}
	/* a reply may be shorter than what was asked for */
	n = gdb_mem_read(s->t, current(s), s->physical, addr, s->mem, MIN(len, (u64)sizeof(s->mem)));
	if (n == 0 && len != 0)
		say(s, ERR_MEM);
	else
		gdb_out_hex(&s->reply, s->mem, n);
}

/* M: hexadecimal, X: binary */
static void write_mem(struct gdb_stub *s, struct args *a, bool binary)
{
	u64 addr, len;
	const u8 *data;

	if (!arg_hex(a, &addr) || !arg_char(a, ',') || !arg_hex(a, &len) || !arg_char(a, ':') || len > GDB_PACKET_MAX ||
	    (size_t)(a->end - a->p) != (binary ? len : 2 * len)) {
		say(s, ERR_ARG);
		return;
	}
	data = a->p;
	if (!binary) {
		if (!gdb_hex_bytes(a->p, s->mem, len)) {
			say(s, ERR_ARG);
			return;
		}
		data = s->mem;
	}
	if (gdb_mem_write(s->t, current(s), s->physical, addr, data, len) != len)
		say(s, ERR_MEM);
	else
		say(s, "OK");
}

/* Z and z: type,addr,kind */
static void breakpoint(struct gdb_stub *s, struct args *a, bool insert)
{
	u64 type, addr, len;
	unsigned i;

	if (!arg_hex(a, &type) || !arg_char(a, ',') || !arg_hex(a, &addr) || !arg_char(a, ',') || !arg_hex(a, &len)) {
		say(s, ERR_ARG);
		return;
	}
	if (type > 4)
		return; /* empty: not supported; conditions and commands are left to gdb */
	if (type >= 2 && (len < 1 || len > 255)) {
		say(s, ERR_ARG);
		return;
	}
	if (type < 2)
		len = 1;
	for (i = 0; i < s->points; i++)
		if (s->point[i].type == type && s->point[i].addr == addr && s->point[i].len == len)
			break;
	if (insert && i == s->points) {
		if (s->points == DEBUG_MAX_POINTS) {
			say(s, ERR_FULL);
			return;
		}
		s->point[s->points++] = (struct point){ (u8)type, (u8)len, addr };
		publish_points(s);
	} else if (!insert && i < s->points) {
		s->point[i] = s->point[--s->points];
		publish_points(s);
	}
	say(s, "OK");
}

/* Going on */

static void go(struct gdb_stub *s, enum gdb_action action)
{
	s->running = true;
	s->action = action;
	if (action == GDB_STEP && s->t->ops->choose)
		s->t->ops->choose(s->t->opaque, s->cpu);
}

/* c, s: [addr]; C, S: sig[;addr]. Signals mean nothing to a machine. */
static void resume(struct gdb_stub *s, struct args *a, enum gdb_action action, bool signal)
{
	u64 val;

	if (signal && (!arg_hex(a, &val) || !(arg_end(a) || arg_char(a, ';')))) {
		say(s, ERR_ARG);
		return;
	}
	if (!arg_end(a)) {
		if (!arg_hex(a, &val) || !arg_end(a)) {
			say(s, ERR_ARG);
			return;
		}
		current(s)->cpu.rip = val;
		s->t->ops->state_changed(s->t->opaque, current(s));
	}
	go(s, action);
}

/* vCont;action[:thread]...: the leftmost that names the current thread, which is one that is to be stepped, counts. */
static void vcont(struct gdb_stub *s, struct args *a)
{
	enum gdb_action action = GDB_WAIT;
	s64 thread;
	u64 sig;

	while (arg_char(a, ';')) {
		u8 what = arg_end(a) ? 0 : *a->p++;

		thread = -1;
		if (((what == 'C' || what == 'S') && !arg_hex(a, &sig)) ||
		    (arg_char(a, ':') && !arg_thread(a, &thread)))
			goto bad;
		if (what != 'c' && what != 'C' && what != 's' && what != 'S')
			goto bad;
		if (thread > 0 && !thread_exists(s, thread))
			goto bad;
		if (thread > 0 && (what == 's' || what == 'S'))
			s->cpu = (unsigned)thread - 1;
		if (action == GDB_WAIT && (thread <= 0 || (u64)thread == s->cpu + 1))
			action = what == 'c' || what == 'C' ? GDB_CONTINUE : GDB_STEP;
	}
	if (!arg_end(a))
		goto bad;
	/* only other threads were named: nobody may be left behind in all-stop */
	go(s, action == GDB_WAIT ? GDB_CONTINUE : action);
	return;
bad:
	say(s, ERR_ARG);
}

/* q and Q packets */

static void supported(struct gdb_stub *s, struct args *a)
{
	const u8 *p = a->p;

	for (; p < a->end; p++) {
		struct args w = { p, a->end };

		if (p != a->p && p[-1] != ';' && p[-1] != ':')
			continue;
		if (arg_word(&w, "swbreak+"))
			s->swbreak = true;
		else if (arg_word(&w, "hwbreak+"))
			s->hwbreak = true;
	}
	gdb_out_printf(&s->reply,
		       "PacketSize=%x;qXfer:features:read+;QStartNoAckMode+;vContSupported+;swbreak+;hwbreak+;"
		       "qemu.PhyMemMode+",
		       GDB_PACKET_MAX);
}

/* qXfer:features:read:target.xml:offset,length */
static void features(struct gdb_stub *s, struct args *a)
{
	u64 off, len;
	size_t n;

	if (!arg_word(a, "target.xml:") || !arg_hex(a, &off) || !arg_char(a, ',') || !arg_hex(a, &len) || !arg_end(a) ||
	    off > s->xml.len || s->xml.full) {
		say(s, "E00");
		return;
	}
	n = MIN(s->xml.len - off, MIN(len, (u64)GDB_PACKET_MAX / 2));
	say(s, off + n < s->xml.len ? "m" : "l");
	gdb_out_add(&s->reply, s->xml.data + off, n);
}

static void thread_info(struct gdb_stub *s)
{
	for (unsigned n = 1; n <= s->t->cpus; n++)
		gdb_out_printf(&s->reply, "%s%x", n == 1 ? "m" : ",", n);
}

static void thread_extra(struct gdb_stub *s, struct args *a)
{
	s64 thread;
	char text[48];

	if (!arg_thread(a, &thread) || !arg_end(a) || !thread_exists(s, thread)) {
		say(s, ERR_ARG);
		return;
	}
	snprintf(text, sizeof(text), "processor %u%s", (unsigned)thread - 1,
		 gdb_vcpu(s->t, (unsigned)thread - 1)->cpu.activity == ACT_RUNNING ? "" : " [halted]");
	gdb_out_hex(&s->reply, text, strlen(text));
}

/* One line of a monitor command's output: an O packet of its own. */
static void monitor_line(void *opaque, const char *line)
{
	struct gdb_stub *s = opaque;

	if (s->out.len > GDB_OUT_MAX / 2)
		return; /* leave room for the reply that ends the command */
	s->reply.len = 0;
	say(s, "O");
	gdb_out_hex(&s->reply, line, strlen(line));
	gdb_out_hex(&s->reply, "\n", 1);
	gdb_out_packet(&s->out, s->reply.data, s->reply.len);
	s->reply.len = 0;
}

static void monitor(struct gdb_stub *s, struct args *a)
{
	size_t n = (size_t)(a->end - a->p) / 2;
	char cmd[256];

	if ((size_t)(a->end - a->p) % 2 || n >= sizeof(cmd) || !gdb_hex_bytes(a->p, (u8 *)cmd, n)) {
		say(s, ERR_ARG);
		return;
	}
	cmd[n] = 0;
	if (gdb_monitor(s->t, current(s), cmd, monitor_line, s) == GDB_MON_QUIT)
		s->action = GDB_KILL;
	say(s, "OK");
}

static void query(struct gdb_stub *s, struct args *a)
{
	if (arg_word(a, "Supported"))
		supported(s, a);
	else if (arg_word(a, "Xfer:features:read:"))
		features(s, a);
	else if (arg_word(a, "fThreadInfo"))
		thread_info(s);
	else if (arg_word(a, "sThreadInfo"))
		say(s, "l");
	else if (arg_word(a, "ThreadExtraInfo,"))
		thread_extra(s, a);
	else if (arg_word(a, "Rcmd,"))
		monitor(s, a);
	else if (arg_word(a, "Attached"))
		say(s, "1");
	else if (arg_word(a, "Symbol::"))
		say(s, "OK");
	else if (arg_word(a, "qemu.PhyMemMode"))
		say(s, s->physical ? "1" : "0");
	else if (arg_word(a, "C") && arg_end(a))
		gdb_out_printf(&s->reply, "QC%x", s->cpu + 1);
}

static void set(struct gdb_stub *s, struct args *a)
{
	u64 val;

	if (arg_word(a, "StartNoAckMode")) {
		s->no_ack = true;
		say(s, "OK");
	} else if (arg_word(a, "qemu.PhyMemMode:")) {
		if (!arg_hex(a, &val) || !arg_end(a)) {
			say(s, ERR_ARG);
			return;
		}
		s->physical = val != 0;
		say(s, "OK");
	}
}

/* Hg, Hc: choose a thread */
static void choose_thread(struct gdb_stub *s, struct args *a)
{
	u8 op = arg_end(a) ? 0 : *a->p++;
	s64 thread;

	if ((op != 'g' && op != 'c') || !arg_thread(a, &thread) || !arg_end(a) ||
	    (thread > 0 && !thread_exists(s, thread))) {
		say(s, ERR_ARG);
		return;
	}
	if (op == 'g' && thread > 0)
		s->cpu = (unsigned)thread - 1;
	say(s, "OK");
}

static void alive(struct gdb_stub *s, struct args *a)
{
	s64 thread;

	say(s, arg_thread(a, &thread) && arg_end(a) && thread_exists(s, thread) ? "OK" : ERR_ARG);
}

static void v_packet(struct gdb_stub *s, struct args *a)
{
	if (arg_word(a, "Cont?")) {
		say(s, "vCont;c;C;s;S");
	} else if (arg_word(a, "Cont")) {
		vcont(s, a);
	} else if (arg_word(a, "Kill")) {
		say(s, "OK");
		s->action = GDB_KILL;
	}
}

static void handle(struct gdb_stub *s)
{
	struct args a = { s->reader.data, s->reader.data + s->reader.len };
	u8 op = arg_end(&a) ? 0 : *a.p++;

	switch (op) {
	case '?':
		stop_reply(s);
		break;
	case 'g':
		read_all_regs(s);
		break;
	case 'G':
		write_all_regs(s, &a);
		break;
	case 'p':
		read_reg(s, &a);
		break;
	case 'P':
		write_reg(s, &a);
		break;
	case 'm':
		read_mem(s, &a);
		break;
	case 'M':
		write_mem(s, &a, false);
		break;
	case 'X':
		write_mem(s, &a, true);
		break;
	case 'Z':
	case 'z':
		breakpoint(s, &a, op == 'Z');
		break;
	case 'c':
	case 'C':
		resume(s, &a, GDB_CONTINUE, op == 'C');
		break;
	case 's':
	case 'S':
		resume(s, &a, GDB_STEP, op == 'S');
		break;
	case 'v':
		v_packet(s, &a);
		break;
	case 'H':
		choose_thread(s, &a);
		break;
	case 'T':
		alive(s, &a);
		break;
	case 'q':
		query(s, &a);
		break;
	case 'Q':
		set(s, &a);
		break;
	case 'D':
		s->action = GDB_DETACH;
		say(s, "OK");
		break;
	case 'k':
		s->action = GDB_KILL;
		return;
	}
	/* c, s and vCont are answered when the machine stops */
	if (s->action == GDB_CONTINUE || s->action == GDB_STEP)
		return;
	send_reply(s);
}

enum gdb_action gdb_stub_input(struct gdb_stub *s, const u8 *bytes, size_t n, size_t *used)
{
	for (size_t i = 0; i < n; i++) {
		bool no_ack = s->no_ack;

		switch (gdb_reader_byte(&s->reader, bytes[i])) {
		case GDB_EV_PACKET:
			if (!no_ack)
				gdb_out_add(&s->out, "+", 1);
			s->action = GDB_WAIT;
			handle(s);
			if (s->action == GDB_DETACH)
				clear_points(s);
			if (s->action != GDB_WAIT) {
				*used = i + 1;
				return s->action;
			}
			break;
		case GDB_EV_BAD:
			if (!no_ack)
				gdb_out_add(&s->out, "-", 1);
			break;
		case GDB_EV_NAK:
			if (!no_ack && s->last)
				gdb_out_add(&s->out, s->last, s->last_len);
			break;
		default: /* acknowledgements; Ctrl-C to a machine that is stopped already */
			break;
		}
	}
	*used = n;
	return GDB_WAIT;
}

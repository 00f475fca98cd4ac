/*
 * The primary (see protect.h). One thread; what it wants of the machine is done
 * on the vCPU thread by machine_call_within(), for short times, so that the
 * standby hears of it meanwhile.
 *
 * Who goes on when one side has lost the other:
 *
 *  - Output leaves only when the standby has said that it keeps the checkpoint
 *    behind it. So whatever the standby decides, nothing the world has seen is
 *    lost, and a primary that has lost it says nothing any more.
 *  - With a witness, the first who claims it goes on.
 *  - Without, the standby goes on, and the primary is held until a person says
 *    that there is no standby; with PROTECTION_CONTINUE it goes on if the
 *    connection was closed, which the kernel of a dead standby does, but not if
 *    it is only silent; a standby of such terms takes over at a closed
 *    connection alone, too.
 */
#include "ctl/protect_priv.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend/gate/gate.h"
#include "base/host_time.h"
#include "base/log.h"
#include "base/pass_fd.h"
#include "base/thread.h"
#include "ctl/checkpoint.h"
#include "ctl/limits.h"
#include "ctl/witness.h"
#include "machine/state.h"
#include "state/migration.h"
#include "state/ram.h"

#define ROUNDS_MAX 12u	       /* of copying before the first checkpoint */
#define ROUND_ENOUGH (8 * MiB) /* changed since the last round: little enough */
#define CLIENT_MS 10000	       /* for the client to say what it wants */
#define HOLD_MS 20000	       /* a machine that is held for a checkpoint goes on by itself after that, unheard */

/* How it went on, where it did not. */
enum end { END_STOPPED, END_MACHINE, END_LOST, END_REPLACED, END_FAILED, END_REFUSED };

static const enum end heard[] = { END_LOST, END_STOPPED, END_REPLACED, END_REFUSED }; /* by what hear() says, + 1 */

/* ---- on the vCPU thread ---- */

/* Output has no more room: the guest stands still until a checkpoint is kept. */
static void on_full(void *opaque)
{
	struct protect *p = opaque;

	if (!p->throttled)
		p->throttled = machine_hold(p->m, HOLD_MS);
	atomic_store(&p->urgent, true);
	protect_poke(p);
}

/* The machine has ended: the standby must not go on with it, and what it said last may leave when it knows. */
static bool on_ended(void *opaque, const struct machine_result *r)
{
	struct protect *p = opaque;

	if (!atomic_exchange(&p->ended, true))
		protect_poke(p);
	if (!atomic_load(&p->said))
		return false;
	if (p->status.phase == PROTECT_NONE)
		gate_disarm(p->gate);
	return true;
}

static void arm_tracks(void *opaque)
{
	struct protect *p = opaque;
	const struct machine_guard guard = { .full = on_full, .ended = on_ended, .opaque = p };

	p->cp = checkpoint_create(p->m, &p->now.e);
	if (p->cp)
		machine_set_guard(p->m, &guard);
}

static void collect(void *opaque)
{
	struct protect *p = opaque;

	p->now.dirty = checkpoint_collect(p->cp);
}

static void take(void *opaque)
{
	struct protect *p = opaque;
	u64 start = host_ns();

	if (p->throttled && !machine_held(p->m, p->throttled))
		p->throttled = 0;
	p->now.hold = p->throttled ? p->throttled : machine_hold(p->m, HOLD_MS);
	p->now.busy = !p->now.hold;
	if (p->now.busy)
		return;
	if (checkpoint_take(p->cp, &p->now.e)) {
		machine_release(p->m, p->now.hold);
		return;
	}
	p->now.epoch = p->now.first ? gate_arm(p->gate) - 1 : gate_mark(p->gate);
	p->now.at = start;
	p->now.dirty = checkpoint_dirty(p->cp);
	p->now.taken = true;
	p->now.fits = checkpoint_fits(p->cp) && !p->throttled;
	if (p->now.fits) {
		machine_release(p->m, p->now.hold);
		p->now.still_ns = host_ns() - start;
	}
	p->throttled = 0;
}

static void disarm(void *opaque)
{
	struct protect *p = opaque;

	machine_set_guard(p->m, NULL);
	gate_disarm(p->gate);
	if (p->throttled)
		machine_release(p->m, p->throttled);
	p->throttled = 0;
}

static void end_hold(void *opaque)
{
	machine_resume(((struct protect *)opaque)->m);
}

static void begin_hold(void *opaque)
{
	machine_pause(((struct protect *)opaque)->m);
}

/* ---- the standby ---- */

static unsigned patience(const struct protect *p)
{
	return p->terms.timeout_ms;
}

static int say(struct protect *p, const char *what)
{
	return channel_put(&p->ch, what, NULL, 0, patience(p));
}

/* Calls `fn` on the vCPU thread, and keeps the standby informed until it has been. False: the machine has ended or the
 * standby is lost. */
static bool call(struct protect *p, void (*fn)(void *))
{
	while (!machine_call_within(p->m, fn, p, MAX(patience(p) / 4, 20u))) {
		if (atomic_load(&p->ended) || atomic_load(&p->quit) || say(p, PROTECTION_BEAT))
			return false;
	}
	return true;
}

/*
 * What the standby says, until it has kept checkpoint `number`; 0: what is there already. 0; -1: lost, or it says what
 * it must not; 1: it takes over; 2: it cannot go on, p->now.e says why.
 */
static int hear(struct protect *p, u64 number)
{
	struct stream_section s;

	while (number || channel_readable(&p->ch)) {
		int r = channel_next(&p->ch, number ? patience(p) : 0, &s);

		if (r < 0)
			return -1;
		if (!r && !number)
			return 0;
		if (!r)
			return error_set(&p->ch.why, "the standby is silent");
		if (!strcmp(s.name, PROTECTION_MINE))
			return 1;
		if (!strcmp(s.name, MIGRATION_REFUSE)) {
			error_set(&p->now.e, "the standby: %.*s", (int)MIN(s.len, MIGRATION_TEXT_MAX), s.payload);
			return 2;
		}
		if (!strcmp(s.name, PROTECTION_KEPT) && number) {
			struct decoder d = stream_decoder(&s);

			if (dec_u64(&d) == number && dec_done(&d))
				return 0;
		}
		return error_set(&p->ch.why, "the standby sends what it must not: '%s'", s.name);
	}
	return 0;
}

/* Has its kernel closed the connection, or is it only silent? */
static bool closed_by_peer(struct protect *p)
{
	struct pollfd f = { .fd = p->fd, .events = POLLIN | POLLRDHUP };
	char byte;

	if (poll(&f, 1, 0) < 0 || !(f.revents & (POLLHUP | POLLRDHUP | POLLERR | POLLIN)))
		return false;
	return f.revents & (POLLHUP | POLLRDHUP | POLLERR) || !recv(p->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
}

/* ---- a checkpoint ---- */

static void count(struct protect *p)
{
	pthread_mutex_lock(&p->lock);
	p->status.checkpoints++;
	p->status.bytes = p->ch.sent;
	p->status.still_ns += p->now.still_ns;
	p->status.still_max_ns = MAX(p->status.still_max_ns, p->now.still_ns);
	p->status.dirty += p->now.dirty;
	p->kept_at = p->now.at;
	pthread_mutex_unlock(&p->lock);
}

/* Takes one and sends it; what waited for it leaves. END_STOPPED: all is well. */
static enum end checkpoint(struct protect *p)
{
	struct encoder *out;
	int r;

	p->now.taken = p->now.busy = false;
	if (!call(p, take))
		return atomic_load(&p->ended) ? END_MACHINE : END_LOST;
	if (p->now.busy) /* somebody reads the machine's memory: soon */
		return say(p, PROTECTION_BEAT) ? END_LOST : atomic_load(&p->ended) ? END_MACHINE : END_STOPPED;
	if (!p->now.taken)
		return END_FAILED;
	if (checkpoint_send(p->cp, &p->ch, patience(p), &p->now.e))
		return p->ch.failed ? END_LOST : END_FAILED;
	out = channel_begin(&p->ch, PROTECTION_CHECKPOINT);
	enc_u64(out, ++p->number);
	enc_u64(out, checkpoint_state_bytes(p->cp));
	r = channel_send(&p->ch, patience(p));
	r = r ? r : hear(p, p->number);
	if (r)
		return heard[r + 1];
	gate_release(p->gate, p->now.epoch);
	if (!p->now.fits) {
		machine_release(p->m, p->now.hold);
		p->now.still_ns = host_ns() - p->now.at;
	}
	p->now.first = false;
	count(p);
	return END_STOPPED;
}

/* Sleeps until host time `until`, or until there is something to do; tells the standby that it lives. */
static enum end rest(struct protect *p, u64 until)
{
	for (;;) {
		struct pollfd f[] = { { .fd = p->wake, .events = POLLIN }, { .fd = p->fd, .events = POLLIN } };
		u64 now = host_ns(), beat = (u64)patience(p) * 1000000 / 4;
		u64 count;
		ssize_t n;
		int r;

		if (atomic_load(&p->ended))
			return END_MACHINE;
		if (now >= until || atomic_load(&p->quit) || atomic_load(&p->stop) ||
		    atomic_exchange(&p->urgent, false))
			return END_STOPPED;
		poll(f, 2, (int)(MIN(until - now, beat) / 1000000 + 1));
		n = read(p->wake, &count, sizeof(count));
		(void)n; /* it may be empty */
		r = hear(p, 0);
		if (r)
			return heard[r + 1];
		if (host_ns() - now >= beat && say(p, PROTECTION_BEAT))
			return END_LOST;
	}
}

static enum end replicate(struct protect *p)
{
	const u64 period = 1000000000ull / p->terms.rate;
	u64 due = host_ns();
	enum end how;

	p->now.first = true;
	for (;;) {
		how = checkpoint(p);
		if (how != END_STOPPED)
			return how;
		if (p->number == 1)
			protect_set_phase(p, PROTECT_PROTECTS);
		if (p->number == 1 && p->control >= 0) {
			static const char text[] = "protected\n";

			send(p->control, text, sizeof(text) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
			p->done(p->opaque);
			p->control = -1;
		}
		/* a late one does not make the next ones follow each other closely */
		due = MAX(due + period, host_ns() + period / 4);
		how = rest(p, due);
		if (how != END_STOPPED)
			return how;
		if (atomic_load(&p->stop) || atomic_load(&p->quit))
			return END_STOPPED;
		if (host_ns() < due) {
			pthread_mutex_lock(&p->lock);
			p->status.early++;
			pthread_mutex_unlock(&p->lock);
		}
	}
}

/* ---- the beginning ---- */

/* Those that the guest can write to, in their order. */
static void put_disks(struct protect *p, struct encoder *out)
{
	const struct machine_config *c = machine_config(p->m);
	u32 count = 0;

	for (unsigned i = 0; i < c->disks; i++)
		count += !c->disk[i].image.readonly;
	enc_u32(out, count);
	for (unsigned i = 0; i < c->disks; i++)
		if (!c->disk[i].image.readonly)
			enc_u64(out, block_size(machine_disk_image(p->m, i)));
}

static int greet(struct protect *p, struct error *e)
{
	struct memory *mem = machine_memory(p->m);
	struct stream_section s;
	struct stream_writer w;
	struct encoder *out;
	int r;

	out = channel_begin(&p->ch, MIGRATION_HELLO);
	enc_u32(out, MIGRATION_VERSION);
	enc_bytes(out, p->terms.id, sizeof(p->terms.id));
	enc_u8(out, MIGRATION_PROTECT);
	r = channel_send(&p->ch, MIGRATION_PATIENCE_MS);
	out = channel_begin(&p->ch, PROTECTION_TERMS);
	enc_u32(out, p->terms.timeout_ms);
	enc_u8(out, p->terms.on_loss);
	enc_bool(out, p->terms.witness);
	put_disks(p, out);
	r = r ? r : channel_send(&p->ch, MIGRATION_PATIENCE_MS);
	out = channel_begin(&p->ch, MIGRATION_OFFER);
	stream_begin(&w, out);
	stream_section(&w, "options", STREAM_REQUIRED, p->options, p->options_len);
	machine_save_kind(p->m, &w);
	stream_section_begin(&w, RAM_SIZE, STREAM_REQUIRED);
	enc_u64(out, memory_ram_size(mem));
	stream_section_end(&w);
	stream_finish(&w);
	r = r ? r : channel_send(&p->ch, MIGRATION_PATIENCE_MS);
	r = r ? r : channel_next(&p->ch, MIGRATION_PATIENCE_MS, &s);
	if (r <= 0)
		return error_set(e, "%s", r ? p->ch.why.text : "the standby does not answer");
	if (!strcmp(s.name, MIGRATION_REFUSE))
		return error_set(e, "the standby refuses: %.*s", (int)MIN(s.len, MIGRATION_TEXT_MAX), s.payload);
	return strcmp(s.name, MIGRATION_ACCEPT) ? error_set(e, "the standby answers with '%s'", s.name) : 0;
}

/* Everything goes over once, and again what changes meanwhile, until that is little. */
static enum end copy_all(struct protect *p, struct error *e)
{
	u64 before = UINT64_MAX;

	if (!call(p, arm_tracks))
		return atomic_load(&p->ended) ? END_MACHINE : END_FAILED;
	if (!p->cp) {
		*e = p->now.e;
		return END_FAILED;
	}
	for (unsigned i = 0; i < ROUNDS_MAX; i++) {
		if (atomic_load(&p->stop) || atomic_load(&p->quit))
			return END_STOPPED;
		if (checkpoint_send_live(p->cp, &p->ch, MIGRATION_PATIENCE_MS, e))
			return END_FAILED;
		if (!call(p, collect))
			return atomic_load(&p->ended) ? END_MACHINE : END_FAILED;
		if (p->now.dirty <= ROUND_ENOUGH || p->now.dirty >= before)
			break;
		before = p->now.dirty;
	}
	return channel_put(&p->ch, PROTECTION_FIRST, NULL, 0, MIGRATION_PATIENCE_MS) ? END_FAILED : END_STOPPED;
}

/* ---- the end ---- */

/* The standby is told that it is not needed any more. True: it knows. */
static bool say_over(struct protect *p, enum protection_over why, enum end *how)
{
	struct stream_section s;
	int r;

	*how = END_LOST;
	enc_u8(channel_begin(&p->ch, PROTECTION_OVER), (u8)why);
	if (channel_send(&p->ch, patience(p)))
		return false;
	while ((r = channel_next(&p->ch, MAX(patience(p), 2000u), &s)) > 0) {
		if (!strcmp(s.name, PROTECTION_DISCARDED))
			return true;
		if (!strcmp(s.name, PROTECTION_MINE)) {
			*how = END_REPLACED;
			return false;
		}
	}
	return false;
}

/* Whether the machine may go on without its standby, which is lost. */
static bool may_go_on(struct protect *p, char why[256])
{
	bool closed = closed_by_peer(p);
	struct error e;
	int mine;

	snprintf(why, 256, "the standby is lost: %.200s", p->ch.why.text);
	if (!p->terms.witness)
		return closed && p->terms.on_loss == PROTECTION_CONTINUE;
	mine = witness_claim(p->witness, p->terms.id, WITNESS_PRIMARY, &e);
	if (mine < 0)
		log_error("protect", "%s", e.text);
	if (!mine)
		protect_set_phase(p, PROTECT_REPLACED);
	return mine > 0;
}

/* The machine goes on as it was before. */
static void go_on(struct protect *p)
{
	machine_call_within(p->m, disarm, p, CTL_ORDER_MS);
	if (p->now.hold)
		machine_release(p->m, p->now.hold);
	protect_set_phase(p, PROTECT_NONE);
}

static void stand_still(struct protect *p, const char *why)
{
	log_error("protect",
		  "%s. The machine stands still, since its standby may go on in its place: if there is none, ectype "
		  "protect --stop lets it go on",
		  why);
	machine_call_within(p->m, begin_hold, p, CTL_ORDER_MS);
	protect_set_phase(p, PROTECT_HELD);
	while (!atomic_load(&p->stop) && !atomic_load(&p->quit) && !atomic_load(&p->ended)) {
		struct pollfd f = { .fd = p->wake, .events = POLLIN };
		u64 n;
		ssize_t r;

		poll(&f, 1, 1000);
		r = read(p->wake, &n, sizeof(n));
		(void)r;
	}
	if (atomic_load(&p->ended) || atomic_load(&p->quit))
		return; /* what it held back is never sent */
	go_on(p);
	machine_call_within(p->m, end_hold, p, CTL_ORDER_MS);
}

static void replaced(struct protect *p)
{
	protect_set_phase(p, PROTECT_REPLACED);
	log_error("protect", "the standby has taken over: this machine ends");
	machine_stop(p->m);
}

/* It protected, and does not any more. */
static void finish(struct protect *p, enum end how)
{
	char why[256] = "";
	enum end instead;

	if (how == END_FAILED || how == END_REFUSED) {
		snprintf(why, sizeof(why), "%.250s", p->now.e.text);
		log_error("protect", "the machine is not protected any more: %s", why);
	}
	if (how != END_LOST && how != END_REPLACED) {
		if (how == END_REFUSED ||
		    say_over(p, how == END_MACHINE ? PROTECTION_ENDED : PROTECTION_STOPPED, &instead)) {
			if (p->witness >= 0)
				witness_clear(p->witness);
			protect_set_why(p, why);
			if (how == END_MACHINE)
				protect_set_phase(p, PROTECT_NONE);
			else
				go_on(p);
			return;
		}
		how = instead;
	}
	if (how == END_REPLACED) {
		replaced(p);
		return;
	}
	if (may_go_on(p, why)) {
		log_warn("protect", "%s: the machine goes on unprotected", why);
		protect_set_why(p, why);
		if (atomic_load(&p->ended))
			protect_set_phase(p, PROTECT_NONE);
		else
			go_on(p);
		return;
	}
	protect_set_why(p, why);
	if (p->status.phase == PROTECT_REPLACED)
		replaced(p);
	else if (!atomic_load(&p->ended))
		stand_still(p, why);
}

/* ---- the thread ---- */

/* The line of terms and the descriptors with it. */
static int take_terms(struct protect *p, struct error *e)
{
	char line[PROTECT_TERMS_MAX + 1];
	struct pollfd f[] = { { .fd = p->control, .events = POLLIN }, { .fd = p->wake, .events = POLLIN } };
	int fds[2];
	unsigned count;
	ssize_t n;

	if (poll(f, 2, CLIENT_MS) <= 0 || !f[0].revents)
		return error_set(e, "the client says nothing");
	n = fd_receive(p->control, line, PROTECT_TERMS_MAX, fds, 2, &count);
	p->fd = count > 0 ? fds[0] : -1;
	p->witness = count > 1 ? fds[1] : -1;
	line[MAX(n, 0)] = 0;
	if (n <= 0 || protect_terms_read(&p->terms, line) || count != 1u + p->terms.witness)
		return error_set(e, "the client does not say what it wants");
	return 0;
}

static void answer(struct protect *p, const char *text)
{
	char line[600];
	int n = snprintf(line, sizeof(line), "%s\n", text);

	if (p->control < 0)
		return;
	send(p->control, line, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
	p->done(p->opaque);
	p->control = -1;
}

static void clear_status(struct protect *p)
{
	pthread_mutex_lock(&p->lock);
	p->status = (struct protect_status){ .phase = PROTECT_BEGINS,
					     .rate = p->terms.rate,
					     .timeout_ms = p->terms.timeout_ms };
	p->kept_at = 0;
	pthread_mutex_unlock(&p->lock);
}

/* Nothing was held back yet. */
static void give_up(struct protect *p, enum end how, const struct error *e)
{
	enum end instead;

	if (how == END_FAILED) {
		answer(p, e->text);
		protect_set_why(p, e->text);
	} else {
		say_over(p, how == END_MACHINE ? PROTECTION_ENDED : PROTECTION_STOPPED, &instead);
		answer(p, "ended before it began");
	}
	if (p->witness >= 0)
		witness_clear(p->witness);
	if (p->cp && how != END_MACHINE)
		machine_call_within(p->m, disarm, p, CTL_ORDER_MS);
	protect_set_phase(p, PROTECT_NONE);
}

static void work(struct protect *p)
{
	struct error e = { .text = "" };
	enum end how;

	if (take_terms(p, &e)) {
		answer(p, e.text);
		protect_set_phase(p, PROTECT_NONE);
		return;
	}
	clear_status(p);
	if (channel_init(&p->ch, p->fd, &p->quit, NULL, 0) || greet(p, &e)) {
		give_up(p, END_FAILED, &e);
		return;
	}
	protect_set_phase(p, PROTECT_COPIES);
	how = copy_all(p, &e);
	if (how == END_FAILED && !e.text[0])
		e = p->ch.why;
	if (how != END_STOPPED || atomic_load(&p->stop) || atomic_load(&p->quit)) {
		give_up(p, how, &e);
		return;
	}
	how = replicate(p);
	if (!p->number && how != END_REPLACED) {
		/* the standby has nothing to go on with */
		e = p->ch.failed ? p->ch.why : p->now.e;
		give_up(p, how == END_LOST ? END_FAILED : how, &e);
		return;
	}
	finish(p, how);
}

void *protect_thread(void *opaque)
{
	struct protect *p = opaque;

	work(p);
	atomic_store(&p->said, true);
	answer(p, p->status.why);
	checkpoint_destroy(p->cp);
	p->cp = NULL;
	channel_free(&p->ch);
	if (p->fd >= 0)
		close(p->fd);
	if (p->witness >= 0)
		close(p->witness);
	p->fd = p->witness = -1;
	pthread_mutex_lock(&p->lock);
	p->running = false;
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

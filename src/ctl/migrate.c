/* The source of a migration: its states, and the dialogue with the receiver. RAM is in migrate_ram.c. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/host_time.h"
#include "base/log.h"
#include "base/thread.h"
#include "ctl/limits.h"
#include "ctl/migrate_priv.h"
#include "machine/state.h"

#define FOR_EVER_MS (365ull * 24 * 3600 * 1000)
#define LAST_QUESTION_MS 3000u /* for the client to ask how it ended, before the machine does */

const char *const migration_phase_names[MIGRATION_PHASES] = {
	[MIGRATION_NONE] = "none",
	[MIGRATION_SETUP] = "setup",
	[MIGRATION_RAM] = "ram",
	[MIGRATION_HAND_OVER] = "handing over",
	[MIGRATION_IN_DOUBT] = "in doubt",
	[MIGRATION_POST_COPIES] = "post-copy",
	[MIGRATION_DONE] = "handed over",
	[MIGRATION_FAILED] = "failed",
	[MIGRATION_CANCELLED] = "cancelled",
};

/* ---- small things ---- */

struct call {
	struct migration *g;
	void (*fn)(struct migration *g);
};

static void perform(void *opaque)
{
	struct call *call = opaque;

	call->fn(call->g);
}

bool migration_call(struct migration *g, void (*fn)(struct migration *g))
{
	struct call call = { g, fn };

	return machine_call_within(g->m, perform, &call, CTL_ORDER_MS);
}

static void set_phase(struct migration *g, enum migration_phase phase)
{
	pthread_mutex_lock(&g->lock);
	g->phase = phase;
	pthread_mutex_unlock(&g->lock);
}

static int lost(struct migration *g, struct error *e)
{
	return error_set(e, "%s", g->c.why.text);
}

int migration_hear(struct migration *g, const char *name, unsigned ms, struct stream_section *out, struct error *e)
{
	int n, heard = 1;

	while ((n = channel_next(&g->c, ms, out)) > 0 && g->post && (heard = migration_post_heard(g, out, e)) > 0)
		;
	if (heard < 0)
		return -1;
	if (n < 0)
		return lost(g, e);
	if (!n)
		return error_set(e, "the connection is lost: the receiver is silent");
	if (!strcmp(out->name, MIGRATION_REFUSE))
		return error_set(e, "the receiver: %.*s", (int)MIN(out->len, MIGRATION_TEXT_MAX),
				 (const char *)out->payload);
	if (!name || strcmp(out->name, name))
		return error_set(e, "the receiver says '%s' where it has to say %s", out->name,
				 name ? name : "nothing");
	return 0;
}

/* ---- the offer ---- */

static int say_hello(struct migration *g, enum migration_kind kind, struct error *e)
{
	struct encoder *out = channel_begin(&g->c, MIGRATION_HELLO);

	enc_u32(out, MIGRATION_VERSION);
	enc_bytes(out, g->id, sizeof(g->id));
	enc_u8(out, (u8)kind);
	return channel_send(&g->c, MIGRATION_PATIENCE_MS) ? lost(g, e) : 0;
}

/* A stream in a section; on the vCPU thread. */
static void write_offer(struct migration *g)
{
	struct encoder *out = channel_begin(&g->c, MIGRATION_OFFER);
	struct stream_writer w;

	stream_begin(&w, out);
	stream_section(&w, "options", STREAM_REQUIRED, g->options, g->options_len);
	stream_section_begin(&w, RAM_SIZE, STREAM_REQUIRED);
	enc_u64(out, memory_ram_size(machine_memory(g->m)));
	stream_section_end(&w);
	machine_save_kind(g->m, &w);
	migration_offer_disks(g, &w);
	pthread_mutex_lock(&g->lock);
	stream_section_begin(&w, MIGRATION_POST_COPY, STREAM_REQUIRED);
	enc_bool(out, g->set.post_copy);
	stream_section_end(&w);
	pthread_mutex_unlock(&g->lock);
	stream_finish(&w);
	g->call_error.text[0] = 0;
	machine_can_be_saved(g->m, &g->call_error);
}

static int offer(struct migration *g, struct error *e)
{
	struct stream_section s;
	struct decoder d;
	u32 flags;

	if (say_hello(g, MIGRATION_MOVE, e))
		return -1;
	if (!migration_call(g, write_offer))
		return error_set(e, "the machine does not answer");
	if (g->call_error.text[0])
		return error_set(e, "%s", g->call_error.text);
	if (channel_send(&g->c, MIGRATION_PATIENCE_MS))
		return lost(g, e);
	if (migration_hear(g, MIGRATION_ACCEPT, MIGRATION_PATIENCE_MS, &s, e))
		return -1;
	d = stream_decoder(&s);
	flags = dec_u32(&d);
	if (!dec_done(&d))
		return error_set(e, "the receiver's answer is not sound");
	pthread_mutex_lock(&g->lock);
	g->post_possible = flags & MIGRATION_CAN_POST_COPY;
	pthread_mutex_unlock(&g->lock);
	return 0;
}

/* ---- the hand-over ---- */

static void go_on(struct migration *g)
{
	if (g->hold)
		machine_release(g->m, g->hold);
	g->hold = 0;
}

/* From here on the guest stands still. What it wrote last comes to what is in `todo` still. */
static void hold(struct migration *g)
{
	g->call_error.text[0] = 0;
	g->hold = machine_hold(g->m, FOR_EVER_MS);
	if (!g->hold) {
		error_set(&g->call_error, "somebody else has the machine's memory read");
		return;
	}
	/* copies are flushed where they are: what was written is known by the tracks */
	if (g->copy_disks ? machine_quiesce_devices(g->m, &g->call_error) : machine_quiesce(g->m, &g->call_error)) {
		go_on(g);
		return;
	}
	track_harvest(g->track, g->todo, false);
	sent_disks_harvest(&g->disks);
}

/* On the vCPU thread, behind what is sent of RAM. */
static void write_state(struct migration *g)
{
	struct encoder *out = channel_begin(&g->c, MIGRATION_STATE);
	struct stream_writer w;

	stream_begin(&w, out);
	machine_save(g->m, &w);
	stream_finish(&w);
}

static void release_files(struct migration *g)
{
	g->call_error.text[0] = 0;
	machine_files_release(g->m, !g->copy_disks, &g->call_error);
}

static void take_files(struct migration *g)
{
	g->call_error.text[0] = 0;
	machine_files_take(g->m, &g->call_error);
}

/* The receiver has everything, and could run. */
static int send_last(struct migration *g, struct error *e)
{
	struct stream_section s;

	set_phase(g, MIGRATION_HAND_OVER);
	pthread_mutex_lock(&g->lock);
	g->fig.downtime_ns = host_ns();
	pthread_mutex_unlock(&g->lock);
	if (!migration_call(g, hold))
		return error_set(e, "the machine has ended, or does not answer");
	if (!g->hold)
		return error_set(e, "%s", g->call_error.text);
	if (migration_send_rest(g, e))
		return -1;
	if (!migration_call(g, write_state))
		return error_set(e, "the machine has ended");
	pthread_mutex_lock(&g->lock);
	g->unsettled = true;
	pthread_mutex_unlock(&g->lock);
	if (channel_send(&g->c, MIGRATION_STILL_MS))
		return lost(g, e);
	return migration_hear(g, MIGRATION_READY, MIGRATION_STILL_MS, &s, e);
}

enum outcome {
	OUTCOME_HERE,
	OUTCOME_DOUBT,
	OUTCOME_NEEDED, /* it runs there, but misses memory that is here */
	OUTCOME_THERE,
};

static enum outcome started(struct migration *g, struct error *e)
{
	if (!g->post)
		return OUTCOME_THERE;
	pthread_mutex_lock(&g->lock);
	if (g->phase != MIGRATION_POST_COPIES)
		g->fig.downtime_ns = host_ns() - g->fig.downtime_ns;
	g->phase = MIGRATION_POST_COPIES;
	g->unsettled = false;
	g->why.text[0] = 0;
	pthread_mutex_unlock(&g->lock);
	return migration_post_push(g, e) ? OUTCOME_NEEDED : OUTCOME_THERE;
}

static enum outcome refused_to_start(struct migration *g)
{
	/* it has not begun, and never will: the files are ours again */
	if (!migration_call(g, take_files) || g->call_error.text[0])
		return OUTCOME_DOUBT;
	return OUTCOME_HERE;
}

/* After "ready". From before the first byte of "go" on nobody but the receiver knows whether it runs. */
static enum outcome say_go(struct migration *g, struct error *e)
{
	struct stream_section s;

	pthread_mutex_lock(&g->lock);
	if (g->cancel) {
		pthread_mutex_unlock(&g->lock);
		error_set(e, "cancelled");
		return OUTCOME_HERE;
	}
	g->phase = MIGRATION_IN_DOUBT;
	pthread_mutex_unlock(&g->lock);
	g->c.quit = &g->ending;
	if (!migration_call(g, release_files)) {
		error_set(e, "the machine has ended");
		return OUTCOME_HERE;
	}
	if (g->call_error.text[0]) {
		error_set(e, "%s", g->call_error.text);
		return refused_to_start(g);
	}
	enc_bool(channel_begin(&g->c, MIGRATION_GO), machine_paused_by_order(g->m));
	if (channel_send(&g->c, MIGRATION_STILL_MS)) {
		lost(g, e);
		return OUTCOME_DOUBT;
	}
	if (!migration_hear(g, MIGRATION_STARTED, MIGRATION_STILL_MS, &s, e))
		return started(g, e);
	return !g->c.failed && !strcmp(s.name, MIGRATION_REFUSE) ? refused_to_start(g) : OUTCOME_DOUBT;
}

/* ---- how it ends ---- */

static void end_here(struct migration *g, const struct error *e)
{
	struct channel *c = &g->c;

	/* best effort: a receiver that does not hear it waits, and asks nobody */
	if (!c->failed || g->cancel) {
		c->quit = NULL;
		c->failed = false;
		if (!channel_put(c, MIGRATION_CANCEL, NULL, 0, 1000)) {
			pthread_mutex_lock(&g->lock);
			g->unsettled = false;
			pthread_mutex_unlock(&g->lock);
		}
	}
	go_on(g);
	migration_forget_ram(g);
	pthread_mutex_lock(&g->lock);
	g->phase = g->cancel ? MIGRATION_CANCELLED : MIGRATION_FAILED;
	g->why = *e;
	pthread_mutex_unlock(&g->lock);
}

static void end_in_doubt(struct migration *g, const struct error *e)
{
	pthread_mutex_lock(&g->lock);
	g->phase = MIGRATION_IN_DOUBT;
	g->why = *e;
	pthread_mutex_unlock(&g->lock);
	log_warn("migrate",
		 "in doubt: this machine was handed over, but not heard to run there (%s). It stands still until "
		 "`ectype migrate` has asked there. If it runs there: ectype stop; if it surely never will: ectype "
		 "resume",
		 e->text);
}

static void end_needed(struct migration *g, const struct error *e)
{
	pthread_mutex_lock(&g->lock);
	g->why = *e;
	pthread_mutex_unlock(&g->lock);
	log_warn("migrate",
		 "the machine runs at the receiver, and %llu MiB of its memory are here still (%s): it waits for "
		 "them. The same `ectype migrate` again sends them",
		 (unsigned long long)((g->post_left * PAGE_SIZE + MiB - 1) / MiB), e->text);
}

/* The client asks how it ended, then the machine does. */
static void end_there(struct migration *g)
{
	u64 until = host_ns() + LAST_QUESTION_MS * 1000000ull;
	struct stream_section s;

	pthread_mutex_lock(&g->lock);
	g->phase = MIGRATION_DONE;
	g->unsettled = false;
	if (g->fig.downtime_ns && !g->post)
		g->fig.downtime_ns = host_ns() - g->fig.downtime_ns;
	g->fig.remaining = 0;
	pthread_mutex_unlock(&g->lock);
	channel_put(&g->c, MIGRATION_BYE, NULL, 0, 1000);
	shutdown(g->c.fd, SHUT_WR);
	while (host_ns() < until && channel_next(&g->c, LAST_QUESTION_MS, &s) > 0)
		;
	machine_stop(g->m);
}

static void conclude(struct migration *g, enum outcome o, const struct error *e)
{
	migration_end_ram(g);
	pthread_mutex_lock(&g->lock);
	g->fig.end = host_ns();
	if (o == OUTCOME_HERE)
		g->fig.downtime_ns = 0;
	pthread_mutex_unlock(&g->lock);
	if (o == OUTCOME_HERE)
		end_here(g, e);
	else if (o == OUTCOME_DOUBT)
		end_in_doubt(g, e);
	else if (o == OUTCOME_NEEDED)
		end_needed(g, e);
	else
		end_there(g);
}

/* ---- the two dialogues ---- */

static void move(struct migration *g)
{
	enum outcome o = OUTCOME_HERE;
	struct error e;

	if (!offer(g, &e)) {
		set_phase(g, MIGRATION_RAM);
		if (!migration_send_rounds(g, &e) && !send_last(g, &e))
			o = say_go(g, &e);
	}
	conclude(g, o, &e);
}

/* The receiver runs, and misses memory. */
static void settle_needed(struct migration *g)
{
	struct stream_section s;
	struct error e;
	int n;

	g->c.quit = &g->ending;
	if (!say_hello(g, MIGRATION_ASK, &e)) {
		n = channel_next(&g->c, MIGRATION_STILL_MS, &s);
		if (n <= 0)
			error_set(&e, "%s", n ? g->c.why.text : "the receiver does not answer");
		else if (migration_hear_missing(g, &s, &e))
			;
		else if (!strcmp(s.name, MIGRATION_STARTED)) {
			conclude(g, started(g, &e), &e);
			return;
		} else
			error_set(&e, "the receiver: %.*s",
				  (int)(strcmp(s.name, MIGRATION_REFUSE) ? 0 : MIN(s.len, MIGRATION_TEXT_MAX)),
				  (const char *)s.payload);
	}
	conclude(g, OUTCOME_NEEDED, &e);
}

/* An earlier migration was handed over and not confirmed, or failed when the receiver had everything. */
static void settle(struct migration *g, bool doubt)
{
	struct stream_section s;
	struct error e;
	int n;

	g->c.quit = &g->ending;
	if (say_hello(g, MIGRATION_ASK, &e))
		goto unknown;
	n = channel_next(&g->c, MIGRATION_PATIENCE_MS, &s);
	if (n <= 0) {
		error_set(&e, "%s", n ? g->c.why.text : "the receiver does not answer");
		goto unknown;
	}
	if (migration_hear_missing(g, &s, &e))
		goto unknown;
	if (!strcmp(s.name, MIGRATION_STARTED) && doubt) {
		conclude(g, started(g, &e), &e);
		return;
	}
	if (!strcmp(s.name, MIGRATION_READY) && doubt) {
		conclude(g, say_go(g, &e), &e);
		return;
	}
	if (!strcmp(s.name, MIGRATION_READY)) {
		error_set(&e, "the receiver was told that the machine goes on here");
		conclude(g, OUTCOME_HERE, &e);
		return;
	}
	if (!strcmp(s.name, MIGRATION_STARTED))
		error_set(&e, "the machine runs at the receiver as well: somebody let both go on");
	else if (!strcmp(s.name, MIGRATION_REFUSE))
		error_set(&e, "the receiver: %.*s", (int)MIN(s.len, MIGRATION_TEXT_MAX), (const char *)s.payload);
	else
		error_set(&e, "the receiver says '%s' where it has to say what it did", s.name);
unknown:
	if (doubt) {
		end_in_doubt(g, &e);
		return;
	}
	pthread_mutex_lock(&g->lock);
	g->why = e;
	/* another receiver than the one that waits, or it runs: there is nobody to be told */
	g->unsettled = g->c.failed;
	pthread_mutex_unlock(&g->lock);
}

static void *work(void *opaque)
{
	struct migration *g = opaque;
	bool doubt, unsettled, needed;

	pthread_mutex_lock(&g->lock);
	needed = g->phase == MIGRATION_POST_COPIES;
	doubt = g->phase == MIGRATION_IN_DOUBT;
	unsettled = g->unsettled;
	pthread_mutex_unlock(&g->lock);
	if (!g->c.failed && needed)
		settle_needed(g);
	else if (!g->c.failed && (doubt || unsettled))
		settle(g, doubt);
	else if (!g->c.failed)
		move(g);
	channel_free(&g->c);
	g->close(g->opaque);
	pthread_mutex_lock(&g->lock);
	g->busy = false;
	pthread_mutex_unlock(&g->lock);
	return NULL;
}

/* ---- for others ---- */

struct migration *migration_create(struct machine *m, const u8 *options, size_t options_len)
{
	struct migration *g = calloc(1, sizeof(*g));

	if (!g)
		return NULL;
	pthread_mutex_init(&g->lock, NULL);
	g->m = m;
	g->options = options;
	g->options_len = options_len;
	g->set.downtime_ms = MIGRATION_DOWNTIME_MS;
	return g;
}

void migration_destroy(struct migration *g)
{
	if (!g)
		return;
	atomic_store(&g->ending, true);
	atomic_store(&g->quit, true);
	if (g->joinable)
		pthread_join(g->thread, NULL);
	migration_end_disks(g);
	migration_forget_ram(g);
	pthread_mutex_destroy(&g->lock);
	free(g);
}

/* Under the lock. */
static int check_ready(struct migration *g, struct error *e)
{
	if (!g->options)
		return error_set(e, "only machines of ectype run, ectype restore and ectype receive can move");
	if (g->busy)
		return error_set(e, "the machine is moving already");
	return g->phase == MIGRATION_DONE ? error_set(e, "the machine has moved") : 0;
}

int migration_ready(struct migration *g, struct error *e)
{
	int ret;

	pthread_mutex_lock(&g->lock);
	ret = check_ready(g, e);
	pthread_mutex_unlock(&g->lock);
	return ret;
}

/* Under the lock: a new migration, unless an old one is to be settled. */
static bool prepare(struct migration *g)
{
	g->cancel = false;
	atomic_store(&g->quit, false);
	g->sent_before = g->fig.sent;
	if (g->phase == MIGRATION_IN_DOUBT || g->phase == MIGRATION_POST_COPIES || g->unsettled)
		return true;
	g->sent_before = 0;
	g->fig = (struct migration_figures){ .start = host_ns() };
	g->why.text[0] = 0;
	g->copy_disks = g->set.copy_disks;
	g->post_possible = false;
	if (getrandom(g->id, sizeof(g->id), 0) != sizeof(g->id))
		return false;
	g->phase = MIGRATION_SETUP;
	return true;
}

int migration_attach(struct migration *g, int fd, const void *came, size_t n, void (*close)(void *), void *opaque)
{
	struct error e;

	pthread_mutex_lock(&g->lock);
	if (check_ready(g, &e) || !prepare(g)) {
		pthread_mutex_unlock(&g->lock);
		return -1;
	}
	if (g->joinable)
		pthread_join(g->thread, NULL);
	g->joinable = false;
	g->close = close;
	g->opaque = opaque;
	if (!channel_init(&g->c, fd, &g->quit, came, n) && !thread_start(&g->thread, work, g)) {
		g->busy = g->joinable = true;
		pthread_mutex_unlock(&g->lock);
		return 0;
	}
	channel_free(&g->c);
	if (g->phase == MIGRATION_SETUP)
		g->phase = MIGRATION_FAILED;
	pthread_mutex_unlock(&g->lock);
	return -1;
}

int migration_set(struct migration *g, const struct migration_settings *s, struct error *e)
{
	int ret = 0;

	pthread_mutex_lock(&g->lock);
	if (g->busy && g->phase == MIGRATION_RAM && s->post_copy && !g->post_possible)
		ret = error_set(e, "the receiver cannot take memory while the machine runs there");
	else
		g->set = *s;
	pthread_mutex_unlock(&g->lock);
	return ret;
}

void migration_get(struct migration *g, struct migration_settings *s)
{
	pthread_mutex_lock(&g->lock);
	*s = g->set;
	pthread_mutex_unlock(&g->lock);
}

enum migration_phase migration_phase(struct migration *g)
{
	enum migration_phase phase;

	pthread_mutex_lock(&g->lock);
	phase = g->phase;
	pthread_mutex_unlock(&g->lock);
	return phase;
}

int migration_cancel(struct migration *g, struct error *e)
{
	int ret = 0;

	pthread_mutex_lock(&g->lock);
	if (g->busy && g->phase >= MIGRATION_SETUP && g->phase <= MIGRATION_HAND_OVER) {
		g->cancel = true;
		atomic_store(&g->quit, true);
	} else {
		ret = error_set(e, "%s",
				g->phase == MIGRATION_IN_DOUBT || g->phase == MIGRATION_POST_COPIES
				    ? "the machine is handed over: too late to cancel"
				    : "the machine does not move");
	}
	pthread_mutex_unlock(&g->lock);
	return ret;
}

int migration_resume(struct migration *g, struct error *e)
{
	int ret = 0;

	pthread_mutex_lock(&g->lock);
	if (g->phase == MIGRATION_POST_COPIES)
		ret = error_set(e, "the machine runs at the receiver, which needs the rest of its memory from here");
	if (g->phase != MIGRATION_IN_DOUBT) {
		pthread_mutex_unlock(&g->lock);
		return ret;
	}
	if (g->busy) {
		pthread_mutex_unlock(&g->lock);
		return error_set(e, "the machine is being handed over");
	}
	g->busy = true; /* nobody else begins anything */
	pthread_mutex_unlock(&g->lock);
	if (!migration_call(g, take_files))
		ret = error_set(e, "the machine does not answer");
	else if (g->call_error.text[0])
		ret = error_set(e, "%s", g->call_error.text);
	if (!ret) {
		migration_forget_ram(g);
		go_on(g);
	}
	pthread_mutex_lock(&g->lock);
	g->busy = false;
	if (!ret) {
		g->phase = MIGRATION_FAILED;
		g->unsettled = true;
		ret = 1;
	}
	pthread_mutex_unlock(&g->lock);
	return ret;
}

json_t *migration_report(struct migration *g)
{
	const struct migration_figures *f = &g->fig;
	json_t *j;
	u64 now = host_ns();

	pthread_mutex_lock(&g->lock);
#define INT(v) ((json_int_t)(v))
	j = json_pack("{s:s, s:b, s:b, s:b, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:I, s:f, s:I, s:I, s:s}", "phase",
		      migration_phase_names[g->phase], "connected", g->busy, "unsettled", g->unsettled, "post_copy",
		      g->post, "wanted_pages", INT(f->wanted), "round", INT(f->round), "sent_bytes", INT(f->sent),
		      "remaining_bytes", INT(f->remaining), "bandwidth_bytes_per_second", INT(f->bandwidth),
		      "expected_downtime_ms", (double)f->expected_ns / 1e6, "downtime_ms",
		      g->phase == MIGRATION_DONE || g->phase == MIGRATION_POST_COPIES ? (double)f->downtime_ns / 1e6
										      : 0.0,
		      "throttle_percent", INT(f->throttle), "seconds",
		      f->start ? (double)((f->end ? f->end : now) - f->start) / 1e9 : 0.0, "downtime_limit_ms",
		      INT(g->set.downtime_ms), "timeout_s", INT(g->set.timeout_s), "error", g->why.text);
#undef INT
	pthread_mutex_unlock(&g->lock);
	return j;
}

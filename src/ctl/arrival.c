#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend/listen.h"
#include "base/log.h"
#include "base/thread.h"
#include "ctl/arrival_priv.h"
#include "ctl/limits.h"
#include "machine/state.h"

#define HELLO_MS 5000u

/* ---- to run or not, on the vCPU thread ---- */

static void resume(void *opaque)
{
	machine_resume(((struct arrival *)opaque)->m);
}

static void start(void *opaque)
{
	struct decision *d = opaque;
	struct arrival *a = d->a;

	pthread_mutex_lock(&a->lock);
	if (a->phase == ARRIVAL_DISCARDED) {
		d->failed = true;
		error_set(&d->e, "the source has taken the machine back");
	} else if (a->phase != ARRIVAL_STARTED) {
		d->failed = machine_files_take(a->m, &d->e);
		if (!d->failed && a->keeper >= 0 && send(a->keeper, "", 1, MSG_NOSIGNAL) != 1)
			log_warn("receive", "the files of its disks may be removed when the machine ends");
		if (!d->failed)
			a->phase = ARRIVAL_STARTED;
		if (!d->failed && !d->paused && !a->post)
			machine_resume(a->m);
	}
	pthread_mutex_unlock(&a->lock);
}

static void discard(void *opaque)
{
	struct decision *d = opaque;
	struct arrival *a = d->a;

	pthread_mutex_lock(&a->lock);
	d->failed = a->phase == ARRIVAL_STARTED;
	if (!d->failed)
		a->phase = ARRIVAL_DISCARDED;
	pthread_mutex_unlock(&a->lock);
}

void arrival_decide(struct decision *d, void (*fn)(void *))
{
	if (machine_call_within(d->a->m, fn, d, CTL_ORDER_MS))
		return;
	d->failed = true;
	error_set(&d->e, "the machine has ended, or does not answer");
}

/* With memory that is missing, devices that go on may wait for it: this thread, which brings it, does not wait. */
static void *resume_later(void *opaque)
{
	struct arrival *a = opaque;

	while (!atomic_load(&a->ending) && !machine_call_within(a->m, resume, a, CTL_ORDER_MS))
		;
	return NULL;
}

static void start_missing(struct arrival *a, const struct decision *d)
{
	if (!a->post || d->paused || a->resuming)
		return;
	a->resuming = !thread_start(&a->resumer, resume_later, a);
	if (!a->resuming)
		log_error("receive", "cannot start a thread: the machine stays paused");
}

/* ---- the dialogue ---- */

static void refuse(struct channel *c, const char *text)
{
	channel_put(c, MIGRATION_REFUSE, text, MIN(strlen(text), MIGRATION_TEXT_MAX), MIGRATION_STILL_MS);
}

static bool say(struct arrival *a, const char *name)
{
	return !channel_put(&a->c, name, NULL, 0, MIGRATION_STILL_MS);
}

/* False: there is no more to be said. */
static bool on_go(struct arrival *a, const struct stream_section *s)
{
	struct decoder d = stream_decoder(s);
	struct decision decision = { .a = a, .paused = dec_bool(&d) };

	if (!dec_done(&d)) {
		refuse(&a->c, "\"go\" is not sound");
		return false;
	}
	arrival_decide(&decision, start);
	if (!decision.failed) {
		start_missing(a, &decision);
		return say(a, MIGRATION_STARTED) && !arrival_post_say_more(a);
	}
	log_error("receive", "%s", decision.e.text);
	refuse(&a->c, decision.e.text);
	arrival_decide(&decision, discard);
	return false;
}

static bool on_cancel(struct arrival *a)
{
	struct decision d = { .a = a };

	arrival_decide(&d, discard);
	if (d.failed)
		log_error("receive", "the source goes on, and so does this machine: somebody resumed both");
	return false;
}

/* Until the connection is lost, or nothing is left to be said. True: the source may ask again. */
static bool converse(struct arrival *a)
{
	struct stream_section s;
	int n;

	while ((n = arrival_next(a, MIGRATION_PATIENCE_MS, &s)) >= 0) {
		bool more = true;

		if (!n)
			continue;
		if (!strcmp(s.name, MIGRATION_BYE))
			return arrival_phase(a) != ARRIVAL_STARTED || arrival_post_misses(a);
		if (!strcmp(s.name, MIGRATION_GO))
			more = on_go(a, &s);
		else if (!strcmp(s.name, MIGRATION_CANCEL))
			more = on_cancel(a);
		else
			return true;
		if (!more)
			break;
	}
	return arrival_phase(a) != ARRIVAL_DISCARDED;
}

static void hang_up(struct arrival *a)
{
	if (a->fd < 0)
		return;
	channel_free(&a->c);
	close(a->fd);
	a->fd = -1;
}

/* Somebody has connected: does he ask about this migration? */
static bool is_source(struct arrival *a)
{
	u8 id[MIGRATION_ID_LEN];
	struct stream_section s;
	struct decoder d;
	u32 version;
	u8 kind;

	if (channel_next(&a->c, HELLO_MS, &s) != 1 || strcmp(s.name, MIGRATION_HELLO))
		return false;
	d = stream_decoder(&s);
	version = dec_u32(&d);
	dec_bytes(&d, id, sizeof(id));
	kind = dec_u8(&d);
	if (!dec_done(&d) || version != MIGRATION_VERSION)
		return false;
	if (!memcmp(id, a->id, sizeof(id)) && kind == MIGRATION_ASK)
		return true;
	refuse(&a->c, "it has another machine already, and cannot tell what became of yours");
	return false;
}

static void wait_for_source(struct arrival *a)
{
	while (!atomic_load(&a->ending)) {
		int fd = listen_next(a->listen_fd, 100);

		arrival_post_alone(a);
		if (fd < 0)
			continue;
		a->fd = fd;
		if (!channel_init(&a->c, fd, &a->ending, NULL, 0) && is_source(a)) {
			if (!arrival_post_say_missing(a) &&
			    say(a, arrival_phase(a) == ARRIVAL_STARTED ? MIGRATION_STARTED : MIGRATION_READY) &&
			    !arrival_post_say_more(a))
				return;
		}
		hang_up(a);
	}
}

static void note_lost(struct arrival *a)
{
	bool doubt = false;

	pthread_mutex_lock(&a->lock);
	if (a->phase == ARRIVAL_READY) {
		a->phase = ARRIVAL_IN_DOUBT;
		doubt = true;
	}
	pthread_mutex_unlock(&a->lock);
	if (!doubt || atomic_load(&a->ending))
		return;
	if (a->post)
		log_warn("receive",
			 "in doubt: the machine is here, a part of its memory is at the source, and that is not "
			 "heard any more. It stands still until the source asks. If that is gone for good: "
			 "ectype stop");
	else
		log_warn("receive", "in doubt: all of the machine is here, but the source is not heard any more. It "
				    "stands still until the source asks. If that surely does not run any more: ectype "
				    "resume; if it does: ectype stop");
}

static void note_heard(struct arrival *a)
{
	pthread_mutex_lock(&a->lock);
	if (a->phase == ARRIVAL_IN_DOUBT)
		a->phase = ARRIVAL_READY;
	pthread_mutex_unlock(&a->lock);
}

static void *work(void *opaque)
{
	struct arrival *a = opaque;
	bool more = !a->post || arrival_post_load(a);

	if (!more && atomic_load(&a->ending))
		return NULL; /* it could not be built: arrival_refuse() tells */
	if (more)
		say(a, MIGRATION_READY);
	while (more && !atomic_load(&a->ending)) {
		note_heard(a);
		more = converse(a);
		arrival_post_lost(a);
		hang_up(a);
		note_lost(a);
		if (more)
			wait_for_source(a);
	}
	hang_up(a);
	/* nobody has to ask any more: others may listen there */
	close(a->listen_fd);
	a->listen_fd = -1;
	if (a->post)
		arrival_post_end(a);
	if (arrival_phase(a) == ARRIVAL_DISCARDED && a->m)
		machine_stop(a->m);
	return NULL;
}

/* ---- for others ---- */

struct arrival *arrival_create(struct channel *c, int fd, const u8 id[MIGRATION_ID_LEN])
{
	struct arrival *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	pthread_mutex_init(&a->lock, NULL);
	memcpy(a->id, id, MIGRATION_ID_LEN);
	a->c = *c;
	a->fd = c->fd;
	a->c.quit = &a->ending;
	/* the writer's target moved with it */
	a->c.w.to = &a->c.out;
	a->listen_fd = fd;
	a->keeper = -1;
	return a;
}

void arrival_keeper(struct arrival *a, int fd)
{
	a->keeper = fd;
}

int arrival_begin(struct arrival *a, struct machine *m, struct error *e)
{
	a->m = m;
	machine_pause(m);
	if (a->joinable) {
		atomic_store(&a->loaded, true);
		return arrival_phase(a) == ARRIVAL_DISCARDED ? error_set(e, "the source is not heard any more") : 0;
	}
	if (thread_start(&a->thread, work, a))
		return error_set(e, "cannot start a thread");
	a->joinable = true;
	return 0;
}

int arrival_expect(struct arrival *a, struct memory *m, int fd, const u64 *missing, struct error *e)
{
	a->post = arrival_post_create(m, fd, missing, e);
	if (!a->post)
		return -1;
	if (thread_start(&a->thread, work, a))
		return error_set(e, "cannot start a thread");
	a->joinable = true;
	return 0;
}

void arrival_stop(struct arrival *a)
{
	atomic_store(&a->ending, true);
	if (a->joinable)
		pthread_join(a->thread, NULL);
	if (a->resuming)
		pthread_join(a->resumer, NULL);
	a->joinable = a->resuming = false;
}

void arrival_refuse(struct arrival *a, const char *text)
{
	if (a->joinable) {
		arrival_stop(a);
		a->c.failed = false; /* of being told to end */
	}
	if (a->fd >= 0)
		refuse(&a->c, text);
	a->phase = ARRIVAL_DISCARDED;
}

int arrival_resume(struct arrival *a, struct error *e)
{
	struct decision d = { .a = a };

	switch (arrival_phase(a)) {
	case ARRIVAL_STARTED:
		return 0;
	case ARRIVAL_READY:
		return error_set(e, "the machine is being handed over");
	case ARRIVAL_DISCARDED:
		return error_set(e, "the source has taken the machine back");
	case ARRIVAL_IN_DOUBT:
		break;
	}
	if (a->post)
		return error_set(e, "a part of the machine's memory is at the source still");
	arrival_decide(&d, start);
	if (!d.failed)
		return 1;
	return error_set(e, "%s", d.e.text);
}

enum arrival_phase arrival_phase(struct arrival *a)
{
	enum arrival_phase phase;

	pthread_mutex_lock(&a->lock);
	phase = a->phase;
	pthread_mutex_unlock(&a->lock);
	return phase;
}

void arrival_destroy(struct arrival *a)
{
	if (!a)
		return;
	arrival_stop(a);
	hang_up(a);
	arrival_post_destroy(a->post);
	if (a->listen_fd >= 0)
		close(a->listen_fd);
	pthread_mutex_destroy(&a->lock);
	free(a);
}

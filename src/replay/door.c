/*
 * The replay door (see door.h).
 *
 * One mutex protects the queues; it is held for copies only, never while a
 * sink runs, so a sink may call door_sink_ready(). `pending` counts the sinks
 * that have both bytes and room, so that door_pending() is one atomic load.
 */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "replay/door.h"

#define SINKS 48
#define SOURCES 64
#define QUEUE_SIZE 65536u
#define CHUNK 4096
#define VIRTUAL_EPOCH 1577836800u /* 2020-01-01 00:00:00 UTC */

struct sink {
	const char *name;
	door_sink_fn fn;
	void *opaque;
	u8 *ring;
	u32 head, len;
	bool ready;
	u64 last_icount; /* of the last byte taken */
};

struct source {
	const char *name;
	door_source_fn fn;
	void *opaque;
	u64 last_icount; /* of the last call */
};

struct door {
	enum door_mode mode;
	u64 random[2];
	u64 epoch;
	pthread_mutex_t lock;
	void (*kick)(void *);
	void *kick_opaque;
	struct sink sinks[SINKS];
	int count;
	atomic_int pending;
	struct source sources[SOURCES];
	int source_count;
	atomic_ullong signalled; /* a bit for each source */
};

static u64 splitmix(u64 *s)
{
	u64 z = *s += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* xoroshiro128+ (Blackman, Vigna 2018): a reproducible stream, not a secret one. */
static u64 next_random(struct door *d)
{
	u64 a = d->random[0], b = d->random[1], r = a + b;

	b ^= a;
	d->random[0] = (a << 24 | a >> 40) ^ b ^ b << 16;
	d->random[1] = b << 37 | b >> 27;
	return r;
}

struct door *door_create(enum door_mode mode, u64 seed)
{
	struct door *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->mode = mode;
	d->random[0] = splitmix(&seed);
	d->random[1] = splitmix(&seed);
	d->epoch = mode == DOOR_VIRTUAL ? VIRTUAL_EPOCH : (u64)time(NULL);
	pthread_mutex_init(&d->lock, NULL);
	return d;
}

void door_destroy(struct door *d)
{
	if (!d)
		return;
	for (int i = 0; i < d->count; i++)
		free(d->sinks[i].ring);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

enum door_mode door_mode(const struct door *d)
{
	return d->mode;
}

static u64 host_time(const struct door *d, clockid_t id)
{
	struct timespec t;

	assert(d->mode == DOOR_REAL);
	clock_gettime(id, &t);
	return (u64)t.tv_sec * 1000000000u + t.tv_nsec;
}

u64 door_monotonic_ns(struct door *d)
{
	return host_time(d, CLOCK_MONOTONIC);
}

u64 door_wall_ns(struct door *d)
{
	return host_time(d, CLOCK_REALTIME);
}

u64 door_thread_ns(struct door *d)
{
	return host_time(d, CLOCK_THREAD_CPUTIME_ID);
}

u64 door_wall_epoch(struct door *d)
{
	return d->epoch;
}

void door_random(struct door *d, void *p, size_t n)
{
	u8 *out = p;

	if (d->mode == DOOR_REAL) {
		while (n) {
			ssize_t got = getrandom(out, n, 0);

			if (got < 0) {
				assert(errno == EINTR); /* cannot fail otherwise on Linux 3.17 and later */
				continue;
			}
			out += got;
			n -= got;
		}
		return;
	}
	while (n) {
		u64 v = next_random(d);
		size_t part = MIN(n, sizeof(v));

		memcpy(out, &v, part);
		out += part;
		n -= part;
	}
}

int door_add_sink(struct door *d, const char *name, door_sink_fn fn, void *opaque)
{
	struct sink *s = &d->sinks[d->count];

	if (d->count == SINKS)
		return -1;
	s->ring = malloc(QUEUE_SIZE);
	if (!s->ring)
		return -1;
	s->name = name;
	s->fn = fn;
	s->opaque = opaque;
	s->ready = true;
	return d->count++;
}

void door_set_kick(struct door *d, void (*kick)(void *), void *opaque)
{
	pthread_mutex_lock(&d->lock);
	d->kick = kick;
	d->kick_opaque = opaque;
	pthread_mutex_unlock(&d->lock);
}

/* Under the lock. */
static void recount(struct door *d)
{
	int n = 0;

	for (int i = 0; i < d->count; i++)
		n += d->sinks[i].ready && d->sinks[i].len;
	atomic_store(&d->pending, n);
}

static void kick(struct door *d)
{
	void (*fn)(void *);
	void *opaque;

	pthread_mutex_lock(&d->lock);
	fn = d->kick;
	opaque = d->kick_opaque;
	pthread_mutex_unlock(&d->lock);
	if (fn && door_pending(d))
		fn(opaque);
}

size_t door_post(struct door *d, int sink, const void *bytes, size_t n)
{
	struct sink *s;
	const u8 *from = bytes;
	size_t take, tail, first;

	if (sink < 0 || sink >= d->count)
		return 0;
	s = &d->sinks[sink];
	pthread_mutex_lock(&d->lock);
	take = MIN(n, QUEUE_SIZE - s->len);
	tail = (s->head + s->len) % QUEUE_SIZE;
	first = MIN(take, QUEUE_SIZE - tail);
	if (take) {
		memcpy(s->ring + tail, from, first);
		memcpy(s->ring, from + first, take - first);
	}
	s->len += take;
	recount(d);
	pthread_mutex_unlock(&d->lock);
	if (take)
		kick(d);
	return take;
}

void door_sink_ready(struct door *d, int sink)
{
	if (sink < 0 || sink >= d->count)
		return;
	pthread_mutex_lock(&d->lock);
	d->sinks[sink].ready = true;
	recount(d);
	pthread_mutex_unlock(&d->lock);
	kick(d);
}

size_t door_queued(struct door *d, int sink)
{
	size_t n;

	if (sink < 0 || sink >= d->count)
		return 0;
	pthread_mutex_lock(&d->lock);
	n = d->sinks[sink].len;
	pthread_mutex_unlock(&d->lock);
	return n;
}

bool door_pending(const struct door *d)
{
	return atomic_load_explicit(&d->pending, memory_order_acquire) > 0 ||
	       atomic_load_explicit(&d->signalled, memory_order_acquire);
}

int door_add_source(struct door *d, const char *name, door_source_fn fn, void *opaque)
{
	_Static_assert(SOURCES <= 64, "`signalled` has a bit for each");
	if (d->source_count == SOURCES)
		return -1;
	d->sources[d->source_count] = (struct source){ .name = name, .fn = fn, .opaque = opaque };
	return d->source_count++;
}

void door_signal(struct door *d, int source)
{
	if (source < 0 || source >= d->source_count)
		return;
	/* signalled before and not yet delivered: whoever did that kicks */
	if (!(atomic_fetch_or(&d->signalled, BIT(source)) & BIT(source)))
		kick(d);
}

/* Offer what is queued, piece by piece, until the sink refuses. */
static void deliver(struct door *d, struct sink *s, u64 icount)
{
	u8 chunk[CHUNK];
	size_t n, taken;

	do {
		pthread_mutex_lock(&d->lock);
		n = s->ready ? MIN(MIN(s->len, QUEUE_SIZE - s->head), sizeof(chunk)) : 0;
		if (n)
			memcpy(chunk, s->ring + s->head, n);
		/* a sink that makes room while it runs says so by door_sink_ready() */
		s->ready = s->ready && !n;
		pthread_mutex_unlock(&d->lock);
		if (!n)
			break;
		taken = s->fn(s->opaque, chunk, n);
		assert(taken <= n);
		pthread_mutex_lock(&d->lock);
		s->head = (s->head + taken) % QUEUE_SIZE;
		s->len -= taken;
		if (taken == n)
			s->ready = true;
		if (taken)
			s->last_icount = icount;
		pthread_mutex_unlock(&d->lock);
	} while (taken == n);
}

void door_deliver(struct door *d, u64 icount)
{
	for (int i = 0; i < d->count; i++)
		deliver(d, &d->sinks[i], icount);
	for (u64 bits = atomic_exchange(&d->signalled, 0); bits; bits &= bits - 1) {
		struct source *s = &d->sources[__builtin_ctzll(bits)];

		s->last_icount = icount;
		s->fn(s->opaque);
	}
	pthread_mutex_lock(&d->lock);
	recount(d);
	pthread_mutex_unlock(&d->lock);
}

/* ---- state: section "door", version 1: mode u8, epoch u64, sources u32, signalled u64, generator 2 * u64 ---- */

void door_save(const struct door *d, struct encoder *e)
{
	enc_begin(e, "door", 1);
	enc_u8(e, (u8)d->mode);
	enc_u64(e, d->epoch);
	enc_u32(e, (u32)d->source_count);
	enc_u64(e, atomic_load(&d->signalled));
	enc_u64(e, d->random[0]);
	enc_u64(e, d->random[1]);
	enc_end(e);
}

struct saved {
	u64 epoch, signalled, random[2];
};

static bool decode(const struct door *d, struct decoder *in, struct saved *s)
{
	struct decoder i;
	u8 mode;
	u32 sources;

	if (!dec_begin(in, "door", &i) || i.version != 1)
		return false;
	mode = dec_u8(&i);
	s->epoch = dec_u64(&i);
	sources = dec_u32(&i);
	s->signalled = dec_u64(&i);
	s->random[0] = dec_u64(&i);
	s->random[1] = dec_u64(&i);
	return dec_done(&i) && mode == (u8)d->mode && sources == (u32)d->source_count &&
	       (sources == SOURCES || !(s->signalled >> sources));
}

int door_check(const struct door *d, struct decoder *in)
{
	struct saved s;

	return decode(d, in, &s) ? 0 : -1;
}

void door_load(struct door *d, struct decoder *in)
{
	struct saved s;

	if (!decode(d, in, &s))
		return;
	d->epoch = s.epoch;
	if (d->mode == DOOR_VIRTUAL)
		memcpy(d->random, s.random, sizeof(d->random));
	atomic_fetch_or(&d->signalled, s.signalled);
}

#include "cli/standby.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend/block/track.h"
#include "cli/receive_disks.h"
#include "ctl/witness.h"
#include "mem/physmem.h"
#include "state/migration.h"
#include "state/ram.h"

#define RAM_MAX (1024 * GiB)
#define DISK_MAX (1024 * 1024 * GiB)
#define WARM (16 * MiB) /* of the staged copies, kept between checkpoints */

/* Bytes of RAM that belong to the checkpoint that comes. */
struct staged {
	u64 offset, n;
	u64 at; /* in `data`; ZEROS: it has none */
};
#define ZEROS UINT64_MAX

/* The same of a disk; `at` in the file. */
struct staged_granule {
	u32 disk, n;
	u64 offset, at;
};

struct standby {
	struct standby_config cfg;
	struct channel ch;
	u8 id[WITNESS_ID_LEN];
	u32 timeout_ms;
	enum protection_loss on_loss;
	bool witness;
	/* RAM of the last whole checkpoint; before the first one, what came so far */
	u8 *ram;
	u64 ram_size;
	bool first; /* was said: what comes is staged */
	u64 number; /* of the last whole checkpoint, 0: none */
	/* of the next; `data` is as large as RAM, `item` has a place for each frame */
	u8 *data;
	struct staged *item;
	u64 data_len, items;
	struct standby_offer disks;
	struct staged_granule *granule; /* a place for each granule of all disks */
	u64 granules, granules_max, staged_len;
	u8 *state, *next; /* PROTECTION_STATE_MAX each, used as needed */
	size_t state_len, next_len;
	u8 *zeros, *piece; /* BLOCK_GRANULE each */
	bool broken;	   /* the copy is not whole, and never will be */
	struct error lost;
};

/* ---- life ---- */

static void *area(u64 n)
{
	void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static u64 frames_of(const struct standby *s)
{
	return s->ram_size / PAGE_SIZE;
}

struct standby *standby_create(const struct standby_config *cfg, struct error *e)
{
	struct standby *s = calloc(1, sizeof(*s));

	if (!s) {
		error_set(e, "not enough host memory");
		return NULL;
	}
	s->cfg = *cfg;
	s->state = area(PROTECTION_STATE_MAX);
	s->next = area(PROTECTION_STATE_MAX);
	if (channel_init(&s->ch, cfg->fd, cfg->quit, NULL, 0) || !s->state || !s->next) {
		error_set(e, "not enough host memory");
		standby_destroy(s);
		return NULL;
	}
	return s;
}

void standby_destroy(struct standby *s)
{
	if (!s)
		return;
	channel_free(&s->ch);
	if (s->ram)
		munmap(s->ram, s->ram_size);
	if (s->data)
		munmap(s->data, s->ram_size);
	if (s->item)
		munmap(s->item, frames_of(s) * sizeof(*s->item));
	if (s->granule)
		munmap(s->granule, s->granules_max * sizeof(*s->granule));
	if (s->state)
		munmap(s->state, PROTECTION_STATE_MAX);
	if (s->next)
		munmap(s->next, PROTECTION_STATE_MAX);
	free(s->zeros);
	free(s);
}

void standby_take(struct standby *s, struct standby_kept *out)
{
	*out = (struct standby_kept){
		.state = s->state, .state_len = s->state_len, .ram = s->ram, .number = s->number, .why = s->lost.text
	};
	s->ram = NULL;
}

/* ---- what comes ---- */

static int wrong(struct standby *s, const char *what)
{
	return error_set(&s->lost, "the primary sends what it must not: %s", what);
}

static bool in_ram(const struct standby *s, u64 offset, u64 n)
{
	return n && !(offset % PAGE_SIZE) && !(n % PAGE_SIZE) && offset < s->ram_size && n <= s->ram_size - offset;
}

static int take_data(struct standby *s, const struct stream_section *sec)
{
	struct decoder d = stream_decoder(sec);
	u64 offset = dec_u64(&d), n = d.len - d.pos;

	if (d.failed || !in_ram(s, offset, n))
		return wrong(s, "memory beyond RAM");
	if (!s->first) {
		memcpy(s->ram + offset, d.data + d.pos, n);
		return 0;
	}
	if (n > s->ram_size - s->data_len || s->items == frames_of(s))
		return wrong(s, "more memory than there is");
	memcpy(s->data + s->data_len, d.data + d.pos, n);
	s->item[s->items++] = (struct staged){ offset, n, s->data_len };
	s->data_len += n;
	return 0;
}

/* Large pieces are given back, so that RAM the guest does not use costs nothing here. */
static void put_zeros(struct standby *s, u64 offset, u64 n)
{
	if (n < 2 * MiB || madvise(s->ram + offset, n, MADV_DONTNEED))
		memset(s->ram + offset, 0, n);
}

static int take_zeros(struct standby *s, const struct stream_section *sec)
{
	struct decoder d = stream_decoder(sec);
	u64 offset = dec_u64(&d), n = dec_u64(&d);

	if (!dec_done(&d) || !in_ram(s, offset, n))
		return wrong(s, "zeros beyond RAM");
	if (!s->first)
		put_zeros(s, offset, n);
	else if (s->items == frames_of(s))
		return wrong(s, "more memory than there is");
	else
		s->item[s->items++] = (struct staged){ offset, n, ZEROS };
	return 0;
}

static int disk_failed(struct standby *s, int rc)
{
	s->broken = true;
	return error_errno(&s->lost, rc, "the copy of a disk cannot be written");
}

static int put_granule(struct standby *s, u32 disk, u64 offset, const u8 *p, u64 n)
{
	int rc = block_write_now(s->disks.image[disk], offset, p, n);

	return rc ? disk_failed(s, rc) : 0;
}

static int take_granule(struct standby *s, const struct stream_section *sec)
{
	struct disk_piece p;

	if (disk_piece_read(sec, s->disks.size, s->disks.disks, &p) < 0)
		return wrong(s, "what is no part of a disk");
	if (!s->first)
		return put_granule(s, p.disk, p.offset, p.data ? p.data : s->zeros, p.n);
	if (s->granules == s->granules_max)
		return wrong(s, "more of its disks than there is");
	s->granule[s->granules] = (struct staged_granule){ p.disk, (u32)p.n, p.offset, p.data ? s->staged_len : ZEROS };
	s->granules++;
	if (!p.data)
		return 0;
	if (pwrite(s->disks.staged, p.data, p.n, (off_t)s->staged_len) != (ssize_t)p.n)
		return disk_failed(s, errno ? errno : ENOSPC);
	s->staged_len += p.n;
	return 0;
}

static int take_state(struct standby *s, const struct stream_section *sec)
{
	struct decoder d = stream_decoder(sec);
	u64 at = dec_u64(&d), n = d.len - d.pos;

	if (d.failed || !s->first || n > PROTECTION_PIECE || at > PROTECTION_STATE_MAX || n > PROTECTION_STATE_MAX - at)
		return wrong(s, "a state that is too large");
	memcpy(s->next + at, d.data + d.pos, n);
	s->next_len = MAX(s->next_len, at + n);
	return 0;
}

static int apply_disks(struct standby *s)
{
	for (u64 i = 0; i < s->granules; i++) {
		const struct staged_granule *g = &s->granule[i];
		const u8 *p = g->at == ZEROS ? s->zeros : s->piece;

		if (g->at != ZEROS && pread(s->disks.staged, s->piece, g->n, (off_t)g->at) != (ssize_t)g->n)
			return disk_failed(s, EIO);
		if (put_granule(s, g->disk, g->offset, p, g->n))
			return -1;
	}
	if (s->staged_len > WARM && ftruncate(s->disks.staged, 0))
		return disk_failed(s, errno);
	s->granules = s->staged_len = 0;
	return 0;
}

/* -1: it is not whole, and never will be. */
static int apply(struct standby *s)
{
	u8 *was = s->state;

	for (u64 i = 0; i < s->items; i++) {
		const struct staged *t = &s->item[i];

		if (t->at == ZEROS)
			put_zeros(s, t->offset, t->n);
		else
			memcpy(s->ram + t->offset, s->data + t->at, t->n);
	}
	if (s->data_len > WARM)
		madvise(s->data + WARM, s->data_len - WARM, MADV_DONTNEED);
	s->items = s->data_len = 0;
	s->state = s->next;
	s->state_len = s->next_len;
	s->next = was;
	memcpy(s->next, s->state, s->state_len);
	return apply_disks(s);
}

/* All of a checkpoint has come. */
static int take_checkpoint(struct standby *s, const struct stream_section *sec)
{
	struct decoder d = stream_decoder(sec);
	u64 number = dec_u64(&d), len = dec_u64(&d);
	struct stream state;
	struct error e;

	if (!dec_done(&d) || !s->first || number != s->number + 1 || len > s->next_len)
		return wrong(s, "a checkpoint that is not the next one");
	s->next_len = len;
	if (stream_read(&state, s->next, len, "the state of the machine", &e))
		return wrong(s, e.text);
	stream_free(&state);
	/* the primary goes on while it is put in its place */
	enc_u64(channel_begin(&s->ch, PROTECTION_KEPT), number);
	if (channel_send(&s->ch, s->timeout_ms)) {
		/* it may have been heard: what it says is so */
		s->lost = s->ch.why;
		s->number = number;
		apply(s);
		return -1;
	}
	s->number = number;
	if (apply(s))
		return -1;
	if (number == 1 && s->cfg.ready)
		s->cfg.ready(s->cfg.opaque);
	return 0;
}

/* ---- the beginning ---- */

static int expect(struct standby *s, const char *name, struct stream_section *out, struct error *e)
{
	int r = channel_next(&s->ch, MIGRATION_PATIENCE_MS, out);

	if (r <= 0)
		return error_set(e, "%s", r ? s->ch.why.text : "the primary says nothing");
	return strcmp(out->name, name) ? error_set(e, "the primary says '%s', not '%s'", out->name, name) : 0;
}

static int take_hello(struct standby *s, const struct stream_section *sec, struct error *e)
{
	struct decoder d = stream_decoder(sec);
	u32 version = dec_u32(&d);
	u8 kind;

	dec_bytes(&d, s->id, sizeof(s->id));
	kind = dec_u8(&d);
	if (!dec_done(&d) || version != MIGRATION_VERSION)
		return error_set(e, "the primary speaks version %u, this program %u", version, MIGRATION_VERSION);
	return kind == MIGRATION_PROTECT ? 0 : error_set(e, "a standby is for ectype protect");
}

static bool take_size(struct standby *s, unsigned disk, u64 size)
{
	s->disks.size[disk] = size;
	s->granules_max += (size + BLOCK_GRANULE - 1) / BLOCK_GRANULE;
	return size && !(size % BLOCK_SECTOR) && size <= DISK_MAX;
}

static int take_terms(struct standby *s, const struct stream_section *sec, struct error *e)
{
	struct decoder d = stream_decoder(sec);
	u8 loss;
	bool sizes_good = true;

	s->timeout_ms = dec_u32(&d);
	loss = dec_u8(&d);
	s->witness = dec_bool(&d);
	s->disks.disks = dec_u32(&d);
	for (unsigned i = 0; i < s->disks.disks && i < MACHINE_DISKS_MAX; i++)
		sizes_good &= take_size(s, i, dec_u64(&d));
	s->on_loss = loss ? PROTECTION_CONTINUE : PROTECTION_HOLD;
	if (!dec_done(&d) || loss > PROTECTION_CONTINUE || s->timeout_ms < 10 || s->timeout_ms > 600000 ||
	    s->disks.disks > MACHINE_DISKS_MAX || !sizes_good)
		return error_set(e, "the terms of the primary make no sense");
	if (s->witness && s->cfg.witness < 0)
		return error_set(e, "the primary has a witness, the standby needs --witness with the same file");
	if (!s->witness && s->cfg.witness >= 0)
		return error_set(e, "the standby has a witness, the primary has none");
	return s->witness ? witness_look(s->cfg.witness, s->id, e) : 0;
}

static int make_room(struct standby *s, struct error *e)
{
	s->ram = memory_area(s->ram_size, e);
	s->data = area(s->ram_size);
	s->item = area(frames_of(s) * sizeof(*s->item));
	if (s->granules_max) {
		s->granule = area(s->granules_max * sizeof(*s->granule));
		s->zeros = calloc(2, BLOCK_GRANULE);
		s->piece = s->zeros ? s->zeros + BLOCK_GRANULE : NULL;
		if (!s->granule || !s->zeros)
			return error_set(e, "not enough host memory");
	}
	return s->ram && s->data && s->item ? 0
					    : error_set(e, "not enough host memory for %llu MiB of RAM",
							(unsigned long long)(s->ram_size / MiB));
}

static int offer(struct standby *s, const struct stream *st, struct error *e)
{
	s->disks.ram = s->ram_size;
	return s->cfg.offer(s->cfg.opaque, st, &s->disks, e) || make_room(s, e) ? -1 : 0;
}

static int take_offer(struct standby *s, const struct stream_section *sec, struct error *e)
{
	struct stream st;
	const struct stream_section *ram;
	struct decoder d;
	int r = -1;

	if (stream_read(&st, sec->payload, sec->len, "what the primary offers", e))
		return -1;
	ram = stream_find(&st, RAM_SIZE);
	d = ram ? stream_decoder(ram) : (struct decoder){ .failed = true };
	s->ram_size = dec_u64(&d);
	if (!dec_done(&d) || !s->ram_size || s->ram_size % MiB || s->ram_size > RAM_MAX)
		error_set(e, "the primary does not say how much RAM it has");
	else
		r = offer(s, &st, e);
	stream_free(&st);
	return r;
}

/* Reads what the primary says meanwhile: a connection that is closed over its head loses the answer. */
static void refuse(struct standby *s, const struct error *e)
{
	struct stream_section sec;

	if (s->ch.failed ||
	    channel_put(&s->ch, MIGRATION_REFUSE, e->text, strnlen(e->text, MIGRATION_TEXT_MAX), MIGRATION_STILL_MS))
		return;
	for (unsigned i = 0; i < 8 && channel_next(&s->ch, MIGRATION_STILL_MS / 8, &sec) >= 0; i++)
		;
}

static int greet(struct standby *s, struct error *e)
{
	struct stream_section sec;

	if (expect(s, MIGRATION_HELLO, &sec, e))
		return -1;
	if (!take_hello(s, &sec, e))
		return 0;
	refuse(s, e);
	return -1;
}

static int begin(struct standby *s, struct error *e)
{
	struct stream_section sec;

	if (expect(s, PROTECTION_TERMS, &sec, e) || take_terms(s, &sec, e) || expect(s, MIGRATION_OFFER, &sec, e) ||
	    take_offer(s, &sec, e)) {
		refuse(s, e);
		return -1;
	}
	enc_u32(channel_begin(&s->ch, MIGRATION_ACCEPT), 0);
	return channel_send(&s->ch, MIGRATION_STILL_MS) ? error_set(e, "%s", s->ch.why.text) : 0;
}

/* ---- the loop ---- */

enum heard { HEARD, SILENT, CLOSED, WRONG, STOPPED, ENDED };

static bool closed_by_peer(const struct standby *s)
{
	struct pollfd f = { .fd = s->cfg.fd, .events = POLLIN | POLLRDHUP };

	return poll(&f, 1, 0) > 0 && (f.revents & (POLLHUP | POLLRDHUP | POLLERR));
}

static enum heard take_over_word(struct standby *s, const struct stream_section *sec)
{
	struct decoder d = stream_decoder(sec);
	u8 why = dec_u8(&d);

	if (!dec_done(&d) || why > PROTECTION_ENDED) {
		wrong(s, "an end of an unknown kind");
		return WRONG;
	}
	channel_put(&s->ch, PROTECTION_DISCARDED, NULL, 0, MIGRATION_STILL_MS);
	return why == PROTECTION_ENDED ? ENDED : STOPPED;
}

static enum heard listen_once(struct standby *s)
{
	/* a first transfer may wait for the primary's disks and processors */
	unsigned ms = s->number ? s->timeout_ms : MIGRATION_PATIENCE_MS;
	struct stream_section sec;
	int r = channel_next(&s->ch, ms, &sec);

	if (r <= 0) {
		s->lost = s->ch.why;
		if (!r)
			error_set(&s->lost, "the primary is silent");
		return r && closed_by_peer(s) ? CLOSED : SILENT;
	}
	r = 0;
	if (!strcmp(sec.name, RAM_DATA))
		r = take_data(s, &sec);
	else if (!strcmp(sec.name, MIGRATION_ZERO))
		r = take_zeros(s, &sec);
	else if (!strcmp(sec.name, MIGRATION_DISK) || !strcmp(sec.name, MIGRATION_DISK_ZERO))
		r = take_granule(s, &sec);
	else if (!strcmp(sec.name, PROTECTION_STATE))
		r = take_state(s, &sec);
	else if (!strcmp(sec.name, PROTECTION_CHECKPOINT))
		r = take_checkpoint(s, &sec);
	else if (!strcmp(sec.name, PROTECTION_FIRST))
		s->first = true;
	else if (!strcmp(sec.name, PROTECTION_OVER))
		return take_over_word(s, &sec);
	else if (strcmp(sec.name, PROTECTION_BEAT))
		r = wrong(s, sec.name);
	return !r ? HEARD : s->ch.failed ? (closed_by_peer(s) ? CLOSED : SILENT) : WRONG;
}

static bool quit(const struct standby *s)
{
	return s->cfg.quit && atomic_load(s->cfg.quit);
}

/* A primary that goes on at a closed connection, and only then: true when it was closed, false if the channel can be
 * listened to again, or is to be given up. */
static bool wait_closed(struct standby *s)
{
	while (s->ch.failed && !quit(s) && !closed_by_peer(s)) {
		struct pollfd f = { .fd = s->cfg.fd, .events = POLLRDHUP };

		poll(&f, 1, 100);
	}
	return s->ch.failed && !quit(s);
}

/* The primary is lost. Is it this side that goes on? 1; 0: no; -1: the primary may speak again. */
static int decide(struct standby *s, enum heard how, struct error *e)
{
	struct error why;
	int mine;

	*e = s->lost;
	if (s->broken && !s->ch.failed)
		channel_put(&s->ch, MIGRATION_REFUSE, e->text, strnlen(e->text, MIGRATION_TEXT_MAX),
			    MIGRATION_STILL_MS);
	if (!s->number || s->broken)
		return 0;
	if (s->witness) {
		mine = witness_claim(s->cfg.witness, s->id, WITNESS_STANDBY, &why);
		if (!mine)
			error_set(e, "%.200s; it was first at the witness and goes on", s->lost.text);
		else if (mine < 0)
			error_set(e, "%.200s; %.200s", s->lost.text, why.text);
		return mine > 0;
	}
	if (s->on_loss == PROTECTION_HOLD || how == CLOSED)
		return 1;
	if (how == SILENT && !s->ch.failed)
		return -1;
	return how == SILENT && wait_closed(s);
}

enum standby_end standby_serve(struct standby *s, struct error *e)
{
	enum heard how;
	int mine;

	if (greet(s, e))
		return STANDBY_STRANGER;
	if (begin(s, e))
		return STANDBY_LOST;
	for (;;) {
		how = listen_once(s);
		if (how == HEARD)
			continue;
		if (how == STOPPED || how == ENDED)
			return how == ENDED ? STANDBY_ENDED : STANDBY_STOPPED;
		if (quit(s)) {
			error_set(e, "told to end");
			return STANDBY_LOST;
		}
		mine = decide(s, how, e);
		if (mine < 0)
			continue;
		if (!mine)
			return STANDBY_LOST;
		/* a primary that lives is to know, and to end */
		if (how != CLOSED && !s->ch.failed)
			channel_put(&s->ch, PROTECTION_MINE, NULL, 0, 0);
		return STANDBY_TAKES_OVER;
	}
}

/*
 * An image in memory in place of src/backend/block, for tests of what submits
 * requests: they can be kept waiting and made to fail, and each is checked
 * against the contract (block.h). Defines block_*(), so include it in one file
 * of a program.
 */
#ifndef ECTYPE_TESTS_BLOCK_FAKE_H
#define ECTYPE_TESTS_BLOCK_FAKE_H

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "backend/block/block.h"

#define FAKE_WAITING_MAX 2048

struct block {
	u8 *data; /* NULL: transfers move nothing */
	u64 size;
	bool readonly;
	bool wait; /* requests are done by fake_run() and block_drain() only, the last one first */
	int error; /* what requests are done with */
	struct block_request *waiting[FAKE_WAITING_MAX];
	unsigned count;
	unsigned ready; /* how many of the waiting block_poll() finds done */
	/* history */
	char ops[256]; /* a letter a request: r w f d z */
	unsigned submitted;
};

static inline struct block *fake_image(u64 size, bool with_data)
{
	struct block *b = calloc(1, sizeof(*b));

	b->size = size;
	b->data = with_data ? malloc(size) : NULL;
	for (u64 i = 0; with_data && i < size; i++)
		b->data[i] = (u8)(i >> 9 ^ i * 7);
	return b;
}

static inline void fake_free(struct block *b)
{
	assert(!b->count);
	free(b->data);
	free(b);
}

static void fake_do(struct block *b, struct block_request *r)
{
	u64 at = r->offset;

	if (b->data && !b->error) {
		for (unsigned i = 0; i < r->iov_n && r->op <= BLOCK_WRITE; at += r->iov[i++].iov_len) {
			if (r->op == BLOCK_READ)
				memcpy(r->iov[i].iov_base, b->data + at, r->iov[i].iov_len);
			else
				memcpy(b->data + at, r->iov[i].iov_base, r->iov[i].iov_len);
		}
		if (r->op == BLOCK_DISCARD || r->op == BLOCK_WRITE_ZEROES)
			memset(b->data + at, 0, r->length);
	}
	r->done(r, b->error);
}

/* Lets up to `n` of the waiting requests be done. */
static inline void fake_run(struct block *b, unsigned n)
{
	while (n-- && b->count)
		fake_do(b, b->waiting[--b->count]);
}

static void fake_check(const struct block *b, const struct block_request *r)
{
	u64 sum = 0;

	if (r->op == BLOCK_FLUSH)
		return;
	assert(r->length && !(r->offset % BLOCK_SECTOR) && !(r->length % BLOCK_SECTOR));
	assert(r->offset <= b->size && r->length <= b->size - r->offset);
	assert(r->op == BLOCK_READ || !b->readonly);
	if (r->op > BLOCK_WRITE)
		return;
	for (unsigned i = 0; i < r->iov_n; i++)
		sum += r->iov[i].iov_len;
	assert(sum == r->length);
}

void block_submit(struct block *b, struct block_request *r)
{
	fake_check(b, r);
	b->ops[b->submitted++ % (sizeof(b->ops) - 1)] = "rwfdz"[r->op];
	if (!b->wait) {
		fake_do(b, r);
		return;
	}
	assert(b->count < FAKE_WAITING_MAX);
	b->waiting[b->count++] = r;
}

void block_drain(struct block *b)
{
	fake_run(b, FAKE_WAITING_MAX);
}

bool block_pollable(const struct block *b)
{
	return b->count;
}
bool block_poll(struct block *b)
{
	unsigned n = b->ready < b->count ? b->ready : b->count;

	b->ready = 0;
	fake_run(b, n);
	return n;
}
void block_poll_ends(struct block *b) {}
void block_kick(struct block *b) {}
bool block_drains_slowly(const struct block *b)
{
	return false;
}
u64 block_size(const struct block *b)
{
	return b->size;
}
bool block_readonly(const struct block *b)
{
	return b->readonly;
}
const char *block_format_name(const struct block *b)
{
	return "fake";
}
unsigned block_granularity(const struct block *b)
{
	return 65536;
}
struct block *block_open(const struct block_config *cfg, struct error *e)
{
	return NULL;
}
int block_check_config(const struct block_config *cfg, struct error *e)
{
	return -1;
}
int block_close(struct block *b)
{
	return 0;
}

#endif

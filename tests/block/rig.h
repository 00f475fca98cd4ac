/*
 * Images driven from a test: requests that are waited for, and random requests,
 * several at a time, compared with a disk in memory.
 */
#ifndef ECTYPE_TESTS_BLOCK_RIG_H
#define ECTYPE_TESTS_BLOCK_RIG_H

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/block/block.h"
#include "backend/block/image.h"

struct op {
	struct block_request r;
	struct iovec iov[3];
	u8 *buf;
	int error;
};

static inline void op_done(struct block_request *r, int error)
{
	container_of(r, struct op, r)->error = error;
}

/* The buffer in three pieces, none of them aligned where `odd`. */
static inline void op_init(struct op *o, enum block_op op, u64 offset, u64 length, void *buf, bool odd)
{
	u64 a = odd ? MIN(length, 100) : length, b = odd ? MIN(length - a, 1000) : 0;

	memset(o, 0, sizeof(*o));
	o->iov[0] = (struct iovec){ buf, a };
	o->iov[1] = (struct iovec){ (u8 *)buf + a, b };
	o->iov[2] = (struct iovec){ (u8 *)buf + a + b, length - a - b };
	o->r = (struct block_request){
		.op = op, .offset = offset, .length = length, .iov = o->iov, .iov_n = 3, .done = op_done
	};
	o->buf = buf;
	o->error = -1;
}

/* One request, waited for; its error. */
static inline int rig_io(struct block *b, enum block_op op, u64 offset, u64 length, void *buf)
{
	struct op o;

	op_init(&o, op, offset, length, buf, false);
	block_submit(b, &o.r);
	block_drain(b);
	return o.error;
}

static inline u64 rig_random(u64 *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

#define RIG_BATCH 8
#define RIG_MAX (256 * KiB) /* of one request */

static inline bool rig_overlaps(const struct op *ops, unsigned n, u64 offset, u64 length)
{
	for (unsigned i = 0; i < n; i++)
		if (ops[i].r.op != BLOCK_FLUSH && offset < ops[i].r.offset + ops[i].r.length &&
		    ops[i].r.offset < offset + length)
			return true;
	return false;
}

static inline void rig_choose(struct op *o, u64 *seed, u64 size, u64 max)
{
	u64 kind = rig_random(seed) % 16, length = (1 + rig_random(seed) % (max / 512)) * 512, offset;
	enum block_op op = kind < 6    ? BLOCK_WRITE
			   : kind < 11 ? BLOCK_READ
			   : kind < 13 ? BLOCK_WRITE_ZEROES
			   : kind < 15 ? BLOCK_DISCARD
				       : BLOCK_FLUSH;

	length = rig_random(seed) % 4 ? MIN(length, 8192) : length;
	length = MIN(length, size);
	offset = rig_random(seed) % ((size - length) / 512 + 1) * 512;
	if (op == BLOCK_READ || op == BLOCK_WRITE)
		for (u64 i = 0; i < length; i += 8) {
			u64 v = rig_random(seed);

			memcpy(o->buf + i, &v, 8);
		}
	op_init(o, op, offset, length, o->buf, rig_random(seed) % 4 == 0);
	o->r.unmap = rig_random(seed) % 2;
}

/* What a request that is done means for the model; false: it failed, or read the wrong bytes. After a discard the
 * bytes may be anything that is the same from then on: the model takes them over. */
static inline bool rig_settle(struct block *b, const struct op *o, u8 *model)
{
	u8 *at = model + o->r.offset;

	if (o->error) {
		fprintf(stderr, "rig: operation %d at %llu: error %d\n", o->r.op, (unsigned long long)o->r.offset,
			o->error);
		return false;
	}
	switch (o->r.op) {
	case BLOCK_READ:
		for (u64 i = 0; i < o->r.length; i++)
			if (o->buf[i] != at[i]) {
				fprintf(stderr, "rig: byte %llu is %02x, not %02x\n",
					(unsigned long long)(o->r.offset + i), o->buf[i], at[i]);
				return false;
			}
		return true;
	case BLOCK_WRITE:
		memcpy(at, o->buf, o->r.length);
		return true;
	case BLOCK_WRITE_ZEROES:
		memset(at, 0, o->r.length);
		return true;
	case BLOCK_DISCARD:
		return rig_io(b, BLOCK_READ, o->r.offset, o->r.length, at) == 0;
	case BLOCK_FLUSH:
		return true;
	}
	return false;
}

/* `rounds` batches on an image that reads as `model` (block_size() bytes). */
static inline bool rig_run(struct block *b, u8 *model, u64 seed, unsigned rounds, u64 max)
{
	static _Thread_local struct op ops[RIG_BATCH];
	bool ok = true;

	max = MIN(max, RIG_MAX);
	seed = seed * 0x9e3779b97f4a7c15ull | 1;
	for (unsigned i = 0; i < RIG_BATCH; i++)
		if (posix_memalign((void **)&ops[i].buf, 4096, RIG_MAX))
			return false;
	for (unsigned round = 0; ok && round < rounds; round++) {
		unsigned n = 0;

		for (unsigned tries = 0; n < RIG_BATCH && tries < 2 * RIG_BATCH; tries++) {
			rig_choose(&ops[n], &seed, block_size(b), max);
			if (!rig_overlaps(ops, n, ops[n].r.offset, ops[n].r.length))
				n++;
		}
		for (unsigned i = 0; i < n; i++)
			block_submit(b, &ops[i].r);
		block_drain(b);
		for (unsigned i = 0; ok && i < n; i++)
			ok = rig_settle(b, &ops[i], model);
	}
	for (unsigned i = 0; i < RIG_BATCH; i++)
		free(ops[i].buf);
	return ok;
}

/* Whether the whole image reads as the model. */
static inline bool rig_same(struct block *b, const u8 *model)
{
	u8 *buf = malloc(MiB);
	bool ok = true;

	for (u64 at = 0; ok && at < block_size(b); at += MiB) {
		u64 n = MIN(MiB, block_size(b) - at);

		ok = rig_io(b, BLOCK_READ, at, n, buf) == 0 && !memcmp(buf, model + at, n);
		if (!ok)
			fprintf(stderr, "rig: the image differs in the MiB at %llu\n", (unsigned long long)at);
	}
	free(buf);
	return ok;
}

#endif

/*
 * Port dispatch: a table with one number a port, the number of the
 * registration that answers it (0: nobody). An access goes as a whole to the
 * owner of its first port if it fits the owner's registration, even where a
 * later registration has taken a port in the middle: the doubleword at 0CF8H
 * is the PCI address register although 0CF9H alone is the reset control.
 */
#include "mem/portmap.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PORTS 0x10000u

struct port_range {
	u16 base;
	u32 len;
	const struct io_ops *ops;
	void *opaque;
	char name[24];
};

struct portmap {
	u16 owner[PORTS]; /* index into range + 1 */
	struct port_range *range;
	u32 count, cap;
	struct port_stats stats;
	struct io_guard guard;
};

struct portmap *portmap_create(void)
{
	return calloc(1, sizeof(struct portmap));
}

void portmap_destroy(struct portmap *p)
{
	if (!p)
		return;
	free(p->range);
	free(p);
}

const struct port_stats *portmap_stats(const struct portmap *p)
{
	return &p->stats;
}

static void claim(struct portmap *p, u32 i)
{
	const struct port_range *r = &p->range[i];

	for (u32 k = 0; k < r->len; k++)
		p->owner[r->base + k] = (u16)(i + 1);
}

int portmap_add(struct portmap *p, u16 base, unsigned len, const struct io_ops *ops, void *opaque, const char *name)
{
	struct port_range *r;

	assert(ops->min_size && ops->min_size <= ops->max_size);
	if (!len || len > PORTS - base || p->count == UINT16_MAX)
		return -1;
	if (p->count == p->cap) {
		u32 cap = MAX(32u, 2 * p->cap);

		r = realloc(p->range, cap * sizeof(*r));
		if (!r)
			return -1;
		p->range = r;
		p->cap = cap;
	}
	r = &p->range[p->count];
	*r = (struct port_range){ .base = base, .len = len, .ops = ops, .opaque = opaque };
	snprintf(r->name, sizeof(r->name), "%s", name);
	claim(p, p->count++);
	return 0;
}

void portmap_remove(struct portmap *p, u16 base, void *opaque)
{
	u32 kept = 0;

	for (u32 i = 0; i < p->count; i++)
		if (p->range[i].base != base || p->range[i].opaque != opaque)
			p->range[kept++] = p->range[i];
	p->count = kept;
	memset(p->owner, 0, sizeof(p->owner));
	for (u32 i = 0; i < p->count; i++)
		claim(p, i);
}

static u32 ones(unsigned size)
{
	return (u32)((1ull << (8 * size)) - 1);
}

/* The registration that takes all of the access, or NULL: then it must be split. */
static const struct port_range *taker(const struct portmap *p, u32 port, unsigned size)
{
	const struct port_range *r;

	if (port >= PORTS || !p->owner[port])
		return NULL;
	r = &p->range[p->owner[port] - 1];
	return size <= r->ops->max_size && port + size <= r->base + r->len ? r : NULL;
}

static u32 read_some(struct portmap *p, u32 port, unsigned size)
{
	const struct port_range *r = taker(p, port, size);
	unsigned half = size / 2;
	u32 low;

	if (r) {
		if (size < r->ops->min_size)
			return ones(size);
		return (u32)r->ops->read(r->opaque, port - r->base, size) & ones(size);
	}
	if (size == 1)
		return ones(1);
	low = read_some(p, port, half);
	return low | read_some(p, port + half, half) << (8 * half);
}

static void write_some(struct portmap *p, u32 port, u32 val, unsigned size)
{
	const struct port_range *r = taker(p, port, size);
	unsigned half = size / 2;

	if (r) {
		if (size >= r->ops->min_size)
			r->ops->write(r->opaque, port - r->base, val & ones(size), size);
		return;
	}
	if (size == 1)
		return;
	write_some(p, port, val, half);
	write_some(p, port + half, val >> (8 * half), half);
}

u32 port_read(struct portmap *p, u16 port, unsigned size)
{
	guard_lock(&p->guard);
	p->stats.reads++;
	u32 val = read_some(p, port, size);

	guard_unlock(&p->guard);
	return val;
}

void port_write(struct portmap *p, u16 port, u32 val, unsigned size)
{
	guard_lock(&p->guard);
	p->stats.writes++;
	write_some(p, port, val, size);
	guard_unlock(&p->guard);
}

void portmap_set_guard(struct portmap *p, const struct io_guard *g)
{
	p->guard = *g;
}

/* Locks on ranges of bytes: a list in order of arrival; one waits for those before it that are in its way. */
#include "backend/block/range.h"

void ranges_init(struct ranges *rs)
{
	pthread_mutex_init(&rs->lock, NULL);
	pthread_cond_init(&rs->changed, NULL);
	rs->first = rs->last = NULL;
}

void ranges_destroy(struct ranges *rs)
{
	pthread_cond_destroy(&rs->changed);
	pthread_mutex_destroy(&rs->lock);
}

static bool blocked(const struct range *r)
{
	for (const struct range *o = r->prev; o; o = o->prev)
		if ((o->exclusive || r->exclusive) && o->start < r->end && r->start < o->end)
			return true;
	return false;
}

static void append(struct ranges *rs, struct range *r, u64 start, u64 end, bool exclusive)
{
	*r = (struct range){ start, end, exclusive, NULL, rs->last };
	if (rs->last)
		rs->last->next = r;
	else
		rs->first = r;
	rs->last = r;
}

static void take_out(struct ranges *rs, struct range *r)
{
	if (r->prev)
		r->prev->next = r->next;
	else
		rs->first = r->next;
	if (r->next)
		r->next->prev = r->prev;
	else
		rs->last = r->prev;
}

void range_lock(struct ranges *rs, struct range *r, u64 start, u64 end, bool exclusive)
{
	pthread_mutex_lock(&rs->lock);
	append(rs, r, start, end, exclusive);
	while (blocked(r))
		pthread_cond_wait(&rs->changed, &rs->lock);
	pthread_mutex_unlock(&rs->lock);
}

bool range_trylock(struct ranges *rs, struct range *r, u64 start, u64 end, bool exclusive)
{
	bool got;

	pthread_mutex_lock(&rs->lock);
	append(rs, r, start, end, exclusive);
	got = !blocked(r);
	if (!got)
		take_out(rs, r);
	pthread_mutex_unlock(&rs->lock);
	return got;
}

void range_unlock(struct ranges *rs, struct range *r)
{
	pthread_mutex_lock(&rs->lock);
	take_out(rs, r);
	if (rs->first)
		pthread_cond_broadcast(&rs->changed);
	pthread_mutex_unlock(&rs->lock);
}

/* A pool of threads: one queue, threads started while none is idle. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "backend/block/pool.h"
#include "base/thread.h"

struct pool {
	void (*run)(void *opaque, void *item);
	void *opaque;
	unsigned max;
	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t work;
	bool stop;
	unsigned started, idle;
	pthread_t *threads;
	void **queue; /* a ring of `room` (a power of two) */
	size_t room, head, count;
};

static void *pool_thread(void *opaque)
{
	struct pool *p = opaque;

	pthread_mutex_lock(&p->lock);
	for (;;) {
		void *item;

		while (!p->count && !p->stop) {
			p->idle++;
			pthread_cond_wait(&p->work, &p->lock);
			p->idle--;
		}
		if (!p->count)
			break;
		item = p->queue[p->head];
		p->head = (p->head + 1) & (p->room - 1);
		p->count--;
		pthread_mutex_unlock(&p->lock);
		p->run(p->opaque, item);
		pthread_mutex_lock(&p->lock);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

struct pool *pool_create(unsigned max, void (*run)(void *opaque, void *item), void *opaque)
{
	struct pool *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->threads = calloc(max, sizeof(*p->threads));
	p->room = 64;
	p->queue = calloc(p->room, sizeof(*p->queue));
	if (!p->threads || !p->queue) {
		free(p->threads);
		free(p->queue);
		free(p);
		return NULL;
	}
	p->run = run;
	p->opaque = opaque;
	p->max = max;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->work, NULL);
	return p;
}

static bool grow(struct pool *p)
{
	void **q = calloc(p->room * 2, sizeof(*q));

	if (!q)
		return false;
	for (size_t i = 0; i < p->count; i++)
		q[i] = p->queue[(p->head + i) & (p->room - 1)];
	free(p->queue);
	p->queue = q;
	p->room *= 2;
	p->head = 0;
	return true;
}

void pool_put(struct pool *p, void *item)
{
	bool queued = false;

	pthread_mutex_lock(&p->lock);
	if (p->idle <= p->count && p->started < p->max && thread_start(&p->threads[p->started], pool_thread, p) == 0)
		p->started++;
	if (p->started && (p->count < p->room || grow(p))) {
		p->queue[(p->head + p->count++) & (p->room - 1)] = item;
		queued = true;
		pthread_cond_signal(&p->work);
	}
	pthread_mutex_unlock(&p->lock);
	if (!queued)
		p->run(p->opaque, item);
}

void pool_destroy(struct pool *p)
{
	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_broadcast(&p->work);
	pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < p->started; i++)
		pthread_join(p->threads[i], NULL);
	pthread_cond_destroy(&p->work);
	pthread_mutex_destroy(&p->lock);
	free(p->threads);
	free(p->queue);
	free(p);
}

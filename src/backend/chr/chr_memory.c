/* A character stream that keeps its output in memory, for tests. */
#include <stdlib.h>
#include <string.h>

#include "backend/chr/chr.h"

struct chr_memory {
	struct chr chr;
	u8 *data;
	size_t len, cap;
};

static void memory_write_bytes(struct chr *c, const u8 *bytes, size_t n)
{
	struct chr_memory *m = (struct chr_memory *)c;

	if (n > m->cap - m->len) {
		size_t cap = MAX(m->cap * 2, m->len + n);
		u8 *data = realloc(m->data, cap);

		if (!data)
			return;
		m->data = data;
		m->cap = cap;
	}
	memcpy(m->data + m->len, bytes, n);
	m->len += n;
}

static void memory_start(struct chr *c, struct door *door, int sink) {}
static void memory_stop(struct chr *c) {}

static void memory_chr_destroy(struct chr *c)
{
	free(((struct chr_memory *)c)->data);
	free(c);
}

static const struct chr_ops ops = {
	.name = "memory",
	.write = memory_write_bytes,
	.start = memory_start,
	.stop = memory_stop,
	.destroy = memory_chr_destroy,
};

struct chr *chr_memory_create(void)
{
	struct chr_memory *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->chr.ops = &ops;
	return &m->chr;
}

const u8 *chr_memory_data(struct chr *c, size_t *n)
{
	struct chr_memory *m = (struct chr_memory *)c;

	*n = m->len;
	return m->data;
}

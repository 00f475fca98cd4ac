/* Memory, strings, atomics, indirect calls, data structures. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "work.h"

enum { COPY_BYTES = 4 << 20 };
static uint64_t *from, *to;

void setup_copy(void)
{
	from = pages(COPY_BYTES, PROT_READ | PROT_WRITE);
	to = pages(COPY_BYTES, PROT_READ | PROT_WRITE);
	for (size_t i = 0; i < COPY_BYTES / sizeof(*from); i++)
		from[i] = i * 0x9e3779b97f4a7c15ull;
	memset(to, 1, COPY_BYTES);
}

/* A count is one memcpy() and one memset() of up to 511 bytes, at any alignment. */
uint64_t run_copy_small(uint64_t count)
{
	uint8_t *d = (uint8_t *)to, *s = (uint8_t *)from;
	uint64_t x = 4711, sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		uint64_t r = next_random(&x);
		size_t at = r >> 16 & 0x3fff, n = r & 511;

		memcpy(d + at, s + (at ^ 0x1235), n);
		memset(d + (at ^ 0x2007), (int)i, n >> 2);
		sum += d[at + (n >> 1)];
	}
	return sum;
}

/* A count is 64 KiB, 1 MiB and 4 MiB by memcpy(), 256 KiB by memset(), and 4 MiB by a loop of loads and stores. */
uint64_t run_copy_large(uint64_t count)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		memcpy(to, from, 64 << 10);
		memset(to, (int)i, 256 << 10);
		memcpy(to + 8, from + 1, 1 << 20);
		memcpy(to, from, COPY_BYTES);
		for (size_t j = 0; j < COPY_BYTES / sizeof(*to); j++)
			to[j] = to[j] * 3 + from[j];
		sum += to[i % (COPY_BYTES / sizeof(*to))];
	}
	return sum;
}

enum { LINES = 512, LINE_SIZE = 256 };
static char (*lines)[LINE_SIZE];

void setup_strings(void)
{
	uint64_t x = 99;

	lines = pages(LINES * LINE_SIZE, PROT_READ | PROT_WRITE);
	for (int i = 0; i < LINES; i++) {
		size_t n = 4 + next_random(&x) % (LINE_SIZE - 10);

		for (size_t j = 0; j < n; j++)
			lines[i][j] = (char)("etaoin shrdlu"[next_random(&x) % 13]);
	}
}

/* A count goes over 512 lines of up to 250 characters with the C library's searches and compares. */
uint64_t run_strings(uint64_t count)
{
	char buffer[2 * LINE_SIZE];
	uint64_t sum = 0;

	for (uint64_t n = 0; n < count; n++)
		for (int i = 0; i < LINES; i++) {
			const char *line = lines[i], *other = lines[(i + 7) % LINES];
			size_t length = strlen(line);
			const char *found = memchr(line, 'u', length), *last = strrchr(line, 'h');

			sum += length + (found ? (size_t)(found - line) : 0) + (last ? (size_t)(last - line) : 0);
			sum += strcmp(line, other) < 0;
			found = strstr(line, "rain");
			sum += found ? (size_t)(found - line) : 1;
			strcpy(buffer, other);
			strcat(buffer, line);
			sum += strcspn(buffer, "lu") + (memcmp(buffer, line, 3) > 0);
			sum += !strncmp(buffer + strlen(other), line, length);
		}
	return sum;
}

/* A count formats a line of a request and takes it to pieces again. */
uint64_t run_format(uint64_t count)
{
	char line[160], copy[160];
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		char *rest;

		snprintf(line, sizeof(line), "GET /item/%llu?colour=%s&size=%u HTTP/1.1", (unsigned long long)i,
			 i & 1 ? "green" : "blue", (unsigned)(i % 97));
		strcpy(copy, line);
		for (char *word = strtok_r(copy, "/?&= ", &rest); word; word = strtok_r(NULL, "/?&= ", &rest))
			sum = sum * 31 + (unsigned char)word[0];
		sum += strtoul(line + 10, NULL, 10);
	}
	return sum;
}

struct node {
	struct node *next;
	uint64_t value;
	char rest[48]; /* a cache line each */
};
static struct node *nodes;

/* One cycle through `n` nodes (Sattolo), so that no prefetcher sees it coming. */
static void setup_chase(uint32_t n)
{
	uint32_t *order = pages(n * sizeof(*order), PROT_READ | PROT_WRITE);
	uint64_t x = 123456789;

	nodes = pages(n * sizeof(*nodes), PROT_READ | PROT_WRITE);
	for (uint32_t i = 0; i < n; i++)
		order[i] = i;
	for (uint32_t i = n - 1; i > 0; i--) {
		uint32_t j = (uint32_t)(next_random(&x) % i), t = order[i];

		order[i] = order[j];
		order[j] = t;
	}
	for (uint32_t i = 0; i < n; i++) {
		nodes[order[i]].next = &nodes[order[(i + 1) % n]];
		nodes[order[i]].value = i;
	}
}

void setup_chase_l1(void)
{
	setup_chase((16 << 10) / sizeof(struct node));
}

void setup_chase_l2(void)
{
	setup_chase((512 << 10) / sizeof(struct node));
}

void setup_chase_mem(void)
{
	setup_chase((32 << 20) / sizeof(struct node));
}

static uint64_t chase(uint64_t count)
{
	struct node *at = nodes;
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		sum = sum * 5 + at->value;
		at = at->next;
	}
	return sum;
}

/* 16 KiB: within the first-level cache. */
uint64_t run_chase_l1(uint64_t count)
{
	return chase(count);
}

/* 512 KiB: within the second. */
uint64_t run_chase_l2(uint64_t count)
{
	return chase(count);
}

/* 32 MiB: most steps miss the TLB, too. */
uint64_t run_chase_mem(uint64_t count)
{
	return chase(count);
}

static uint64_t op_add(uint64_t a, uint64_t b)
{
	return a + b;
}

static uint64_t op_sub(uint64_t a, uint64_t b)
{
	return a - b * 3;
}

static uint64_t op_xor(uint64_t a, uint64_t b)
{
	return a ^ b << 1;
}

static uint64_t op_rotate(uint64_t a, uint64_t b)
{
	return (a << 7 | a >> 57) + b;
}

static uint64_t (*const volatile operations[])(uint64_t, uint64_t) = { op_add, op_sub, op_xor, op_rotate };

/* A random one of four functions each time: no branch predictor helps. */
uint64_t run_indirect(uint64_t count)
{
	uint64_t x = 42, sum = 1;

	for (uint64_t i = 0; i < count; i++)
		sum = operations[next_random(&x) & 3](sum, i);
	return sum;
}

/* Objects of three kinds behind pointers to tables of functions, in an order that repeats. */
struct shape;
struct shape_ops {
	uint64_t (*area)(const struct shape *s);
	void (*grow)(struct shape *s, uint32_t by);
};
struct shape {
	const struct shape_ops *ops;
	uint32_t a, b;
};

static uint64_t square_area(const struct shape *s)
{
	return (uint64_t)s->a * s->a;
}

static uint64_t rectangle_area(const struct shape *s)
{
	return (uint64_t)s->a * s->b;
}

static uint64_t circle_area(const struct shape *s)
{
	return (uint64_t)s->a * s->a * 355 / 113;
}

static void grow_one(struct shape *s, uint32_t by)
{
	s->a += by;
}

static void grow_both(struct shape *s, uint32_t by)
{
	s->a += by;
	s->b += by;
}

enum { SHAPES = 4096 };
static struct shape *shapes;

void setup_methods(void)
{
	static const struct shape_ops kinds[] = {
		{ square_area, grow_one },
		{ rectangle_area, grow_both },
		{ circle_area, grow_one },
	};
	uint64_t x = 2463534242;

	shapes = pages(SHAPES * sizeof(*shapes), PROT_READ | PROT_WRITE);
	for (int i = 0; i < SHAPES; i++) {
		uint64_t r = next_random(&x);

		shapes[i] = (struct shape){ &kinds[r % 3], r >> 8 & 255, r >> 16 & 255 };
	}
}

/* A count is two calls through the table of each of 4,096 objects. */
uint64_t run_methods(uint64_t count)
{
	uint64_t sum = 0;

	for (uint64_t n = 0; n < count; n++)
		for (int i = 0; i < SHAPES; i++) {
			sum += shapes[i].ops->area(&shapes[i]);
			shapes[i].ops->grow(&shapes[i], n & 1);
		}
	return sum;
}

/* A count is one locked instruction of each kind that C11's atomics compile to, and a fence. */
uint64_t run_atomics(uint64_t count)
{
	static uint64_t total, largest, lock;
	static uint32_t flags;

	for (uint64_t i = 0; i < count; i++) {
		uint64_t seen = __atomic_fetch_add(&total, i, __ATOMIC_SEQ_CST);
		uint64_t old = __atomic_load_n(&largest, __ATOMIC_RELAXED);

		while (old < (seen & 0xffff) && !__atomic_compare_exchange_n(&largest, &old, seen & 0xffff, 0,
									     __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
			;
		while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE))
			;
		__atomic_or_fetch(&flags, (uint32_t)i, __ATOMIC_RELAXED);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		__atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
	}
	return total + largest + flags;
}

enum { SLOTS = 1 << 16 };
struct slot {
	uint64_t key, value;
};
static struct slot *slots;

void setup_hash(void)
{
	slots = pages(SLOTS * sizeof(*slots), PROT_READ | PROT_WRITE);
}

static struct slot *find(uint64_t key)
{
	uint64_t at = key * 0x9e3779b97f4a7c15ull >> 48;

	while (slots[at].key && slots[at].key != key)
		at = (at + 1) % SLOTS;
	return &slots[at];
}

/* A count finds one of 32,768 keys in an open-addressed table of 1 MiB and adds to its value. */
uint64_t run_hash(uint64_t count)
{
	uint64_t x = 1973, sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		uint64_t key = next_random(&x) % 32768 + 1;
		struct slot *s = find(key * key);

		s->key = key * key;
		s->value += i;
		sum += s->value;
	}
	return sum;
}

struct tree {
	struct tree *left, *right;
};

static struct tree *grow_tree(int depth)
{
	struct tree *t = malloc(sizeof(*t));

	if (!t)
		die("malloc");
	t->left = depth ? grow_tree(depth - 1) : NULL;
	t->right = depth ? grow_tree(depth - 1) : NULL;
	return t;
}

static uint64_t fell_tree(struct tree *t)
{
	uint64_t n = 1;

	if (t->left)
		n += fell_tree(t->left) + fell_tree(t->right);
	free(t);
	return n;
}

/* A count builds, walks and frees trees of 8,191 nodes in all sizes. */
uint64_t run_tree(uint64_t count)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++)
		for (int depth = 2; depth <= 12; depth++)
			for (int n = 0; n < 1 << (12 - depth); n++)
				sum += fell_tree(grow_tree(depth));
	return sum;
}

enum { TEXT_SIZE = 128 << 10, LZ_HASH = 1 << 13, LZ_WINDOW = 1 << 15 };
static uint8_t *text, *packed, *unpacked;

/* Words of a small vocabulary, so that there is something to find. */
void setup_lz(void)
{
	uint64_t x = 65537;
	size_t at = 0;

	text = pages(TEXT_SIZE, PROT_READ | PROT_WRITE);
	packed = pages(2 * TEXT_SIZE, PROT_READ | PROT_WRITE);
	unpacked = pages(TEXT_SIZE, PROT_READ | PROT_WRITE);
	while (at < TEXT_SIZE) {
		uint64_t word = next_random(&x) % 1000 + 17, n = word % 9 + 2;

		for (uint64_t k = 0; k < n && at < TEXT_SIZE; k++)
			text[at++] = (uint8_t)('a' + (word * (k + 3) >> 2) % 26);
		if (at < TEXT_SIZE)
			text[at++] = ' ';
	}
}

static uint32_t word_at(const uint8_t *p)
{
	uint32_t word;

	memcpy(&word, p, sizeof(word));
	return word;
}

/* A literal is 0 and the byte; a match is its length (4 to 255) and the distance in two bytes. */
static size_t pack(void)
{
	static uint32_t last[LZ_HASH];
	size_t out = 0, at = 0;

	memset(last, 0, sizeof(last));
	while (at < TEXT_SIZE) {
		uint32_t length = 0, candidate = 0;

		if (at + 4 <= TEXT_SIZE) {
			uint32_t *slot = &last[word_at(text + at) * 2654435761u >> 19];

			candidate = *slot;
			*slot = (uint32_t)at;
			if (candidate < at && at - candidate < LZ_WINDOW)
				while (length < 255 && at + length < TEXT_SIZE &&
				       text[candidate + length] == text[at + length])
					length++;
		}
		if (length < 4) {
			packed[out++] = 0;
			packed[out++] = text[at++];
			continue;
		}
		packed[out++] = (uint8_t)length;
		packed[out++] = (uint8_t)(at - candidate);
		packed[out++] = (uint8_t)((at - candidate) >> 8);
		at += length;
	}
	return out;
}

static size_t unpack(size_t n)
{
	size_t out = 0;

	for (size_t i = 0; i < n;) {
		uint8_t length = packed[i++];
		size_t distance;

		if (!length) {
			unpacked[out++] = packed[i++];
			continue;
		}
		distance = packed[i] | (size_t)packed[i + 1] << 8;
		i += 2;
		for (; length; length--, out++)
			unpacked[out] = unpacked[out - distance];
	}
	return out;
}

/* A count packs and unpacks 128 KiB. */
uint64_t run_lz(uint64_t count)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		size_t n = pack();

		sum = mix(sum, n);
		sum = mix(sum, unpack(n) + (uint64_t)!memcmp(text, unpacked, TEXT_SIZE));
		text[i % TEXT_SIZE] ^= 1;
	}
	return sum;
}

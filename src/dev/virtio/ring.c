/*
 * Split virtqueues (VIRTIO 1.2, 2.7).
 *
 * Nothing is cached: each call looks the rings up in the memory map, which the
 * guest can change. A descriptor is copied before it is checked. Other host
 * threads do not touch rings; indices are read with acquire and written with
 * release order all the same, as the format wants it between processors.
 */
#include <string.h>

#include "dev/virtio/transport.h"

#define DESC_NEXT 1
#define DESC_WRITE 2
#define DESC_INDIRECT 4
#define AVAIL_NO_INTERRUPT 1
#define USED_NO_NOTIFY 1

struct desc {
	u64 addr;
	u32 len;
	u16 flags, next;
};
struct avail {
	u16 flags, idx, ring[]; /* behind the ring: used_event */
};
struct used_elem {
	u32 id, len;
};
struct used {
	u16 flags, idx;
	struct used_elem ring[]; /* behind the ring: avail_event */
};

static int broken(struct virtq *q, const char *why)
{
	virtio_broken(q->dev, why);
	return -1;
}

static bool live(const struct virtq *q)
{
	return q->enabled && virtio_running(q->dev) && q->dev->master;
}

static const struct avail *avail_ring(struct virtq *q)
{
	const void *p = memory_ptr(q->dev->board->mem, q->avail, virtq_avail_bytes(q->size), false);

	if (!p)
		broken(q, "the available ring is not in RAM");
	return p;
}

static struct used *used_ring(struct virtq *q)
{
	void *p = memory_ptr(q->dev->board->mem, q->used, virtq_used_bytes(q->size), true);

	if (!p)
		broken(q, "the used ring is not in RAM");
	return p;
}

static void used_written(struct virtq *q, u32 off, u32 len)
{
	memory_notify_written(q->dev->board->mem, q->used + off, len);
}

static void set_avail_event(struct virtq *q)
{
	struct used *u = used_ring(q);

	if (!u)
		return;
	__atomic_store_n((u16 *)&u->ring[q->size], q->avail_next, __ATOMIC_RELAXED);
	used_written(q, virtq_used_bytes(q->size) - 2, 2);
	/* the driver's index is looked at after it can see this */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static bool wants_kicks_by_index(const struct virtq *q)
{
	return virtio_has(q->dev, VIRTIO_F_EVENT_IDX) && !q->no_notify;
}

/* ---- chains ---- */

/* Bytes from `gpa` that are one piece of host memory, at most `len`; 0 if `gpa` is not RAM. */
static u32 contiguous(struct memory *m, gpa_t gpa, u32 len, bool write)
{
	u32 good = 0, bad = len;

	if (memory_ptr(m, gpa, len, write))
		return len;
	while (bad - good > 1) {
		u32 mid = good + (bad - good) / 2;

		if (memory_ptr(m, gpa, mid, write))
			good = mid;
		else
			bad = mid;
	}
	return good;
}

static int add_buffer(struct virtq *q, struct virtq_buf *b, const struct desc *d)
{
	struct memory *m = q->dev->board->mem;
	bool write = d->flags & DESC_WRITE;
	gpa_t gpa = d->addr;
	u32 len = d->len;

	if (!write && b->in_n)
		return broken(q, "a chain has a buffer to read behind one to write");
	if ((u64)b->out_len + b->in_len + len > UINT32_MAX)
		return broken(q, "a chain has 4 GiB or more");
	if (write)
		b->in_len += len;
	else
		b->out_len += len;
	while (len) {
		unsigned n = b->out_n + b->in_n;
		u32 part = contiguous(m, gpa, len, write);

		if (!part)
			return broken(q, "a buffer is not in RAM");
		if (n == VIRTQ_IOV_MAX)
			return broken(q, "a chain has too many buffers");
		b->iov[n] = (struct iovec){ memory_ptr(m, gpa, part, write), part };
		b->gpa[n] = gpa;
		if (write)
			b->in_n++;
		else
			b->out_n++;
		gpa += part;
		len -= part;
	}
	return 0;
}

/* A table of descriptors and how many more of them a chain without a loop can have. */
struct table {
	const u8 *at;
	unsigned count, left;
	bool indirect;
};

static int enter_indirect(struct virtq *q, struct table *t, const struct desc *d)
{
	if (!virtio_has(q->dev, VIRTIO_F_INDIRECT_DESC))
		return broken(q, "an indirect descriptor without the feature");
	if (t->indirect || (d->flags & DESC_NEXT))
		return broken(q, "an indirect descriptor where none may be");
	if (!d->len || d->len % sizeof(*d) || d->len / sizeof(*d) > VIRTQ_IOV_MAX)
		return broken(q, "an indirect table has a bad length");
	t->at = memory_ptr(q->dev->board->mem, d->addr, d->len, false);
	if (!t->at)
		return broken(q, "an indirect table is not in RAM");
	t->count = t->left = d->len / sizeof(*d);
	t->indirect = true;
	return 0;
}

int virtq_get(struct virtq *q, u16 head, struct virtq_buf *b)
{
	struct table t = { .count = q->size, .left = q->size };
	unsigned i = head;
	struct desc d;

	if (!live(q))
		return -1;
	b->head = head;
	b->out_n = b->in_n = b->out_len = b->in_len = 0;
	t.at = memory_ptr(q->dev->board->mem, q->desc, virtq_desc_bytes(q->size), false);
	if (!t.at)
		return broken(q, "the descriptor table is not in RAM");
	do {
		if (i >= t.count)
			return broken(q, "a descriptor's number is too large");
		if (!t.left--)
			return broken(q, "a chain of descriptors is a loop");
		memcpy(&d, t.at + i * sizeof(d), sizeof(d));
		i = d.next;
		if (d.flags & DESC_INDIRECT) {
			if (enter_indirect(q, &t, &d) < 0)
				return -1;
			i = 0;
			d.flags = DESC_NEXT;
		} else if (add_buffer(q, b, &d) < 0) {
			return -1;
		}
	} while (d.flags & DESC_NEXT);
	return 0;
}

/* ---- the available ring ---- */

/* How many chains wait, -1 if the ring is broken. */
static int waiting(struct virtq *q, const struct avail *a)
{
	u16 n = __atomic_load_n(&a->idx, __ATOMIC_ACQUIRE) - q->avail_next;

	return n > q->size ? broken(q, "the available index is out of range") : n;
}

int virtq_pop(struct virtq *q, struct virtq_buf *b)
{
	const struct avail *a;
	int n;

	if (!live(q))
		return q->dev->status & VIRTIO_NEEDS_RESET ? -1 : 0;
	if (!(a = avail_ring(q)) || (n = waiting(q, a)) < 0)
		return -1;
	if (!n && wants_kicks_by_index(q)) {
		set_avail_event(q);
		n = waiting(q, a);
	}
	if (n <= 0)
		return n;
	if ((u16)(q->avail_next - q->used_next) >= q->size)
		return broken(q, "more chains are available than there are descriptors");
	if (virtq_get(q, a->ring[q->avail_next & (q->size - 1)], b) < 0)
		return -1;
	q->avail_next++;
	if (wants_kicks_by_index(q))
		set_avail_event(q);
	return live(q) ? 1 : -1;
}

bool virtq_empty(struct virtq *q)
{
	const struct avail *a;

	return !live(q) || !(a = avail_ring(q)) || waiting(q, a) <= 0;
}

void virtq_unpop(struct virtq *q, unsigned n)
{
	q->avail_next -= n;
}

/* ---- the used ring ---- */

/* Code may have been where the device wrote. */
static void data_written(struct virtq *q, const struct virtq_buf *b, u32 len)
{
	for (unsigned i = b->out_n; len && i < b->out_n + b->in_n; i++) {
		u32 part = MIN(len, b->iov[i].iov_len);

		memory_notify_written(q->dev->board->mem, b->gpa[i], part);
		len -= part;
	}
}

void virtq_push_many(struct virtq *q, const struct virtq_buf *const *b, const u32 *written, unsigned n)
{
	struct used *u;

	for (unsigned i = 0; i < n; i++)
		data_written(q, b[i], written[i]);
	if (!live(q) || !(u = used_ring(q)))
		return;
	for (unsigned i = 0; i < n; i++) {
		unsigned slot = (u16)(q->used_next + i) & (q->size - 1);

		u->ring[slot] = (struct used_elem){ b[i]->head, MIN(written[i], b[i]->in_len) };
		used_written(q, 4 + 8 * slot, 8);
	}
	q->used_next += n;
	__atomic_store_n(&u->idx, q->used_next, __ATOMIC_RELEASE);
	used_written(q, 2, 2);
}

void virtq_push(struct virtq *q, const struct virtq_buf *b, u32 written)
{
	virtq_push_many(q, &b, &written, 1);
}

/* Does the driver ask for an interrupt by the used index's way from `old` to `q->used_next` (2.7.7.2)? */
static bool wanted(struct virtq *q, u16 old)
{
	const struct avail *a;
	u16 event;

	/* what was pushed is seen before the driver's wish is read */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!(a = avail_ring(q)))
		return false;
	if (!virtio_has(q->dev, VIRTIO_F_EVENT_IDX))
		return !(__atomic_load_n(&a->flags, __ATOMIC_RELAXED) & AVAIL_NO_INTERRUPT);
	event = __atomic_load_n(&a->ring[q->size], __ATOMIC_RELAXED);
	return !q->signalled_valid || (u16)(q->used_next - event - 1) < (u16)(q->used_next - old);
}

void virtq_signal(struct virtq *q)
{
	u16 old = q->signalled;
	bool yes;

	if (!live(q) || old == q->used_next)
		return;
	yes = wanted(q, old);
	q->signalled = q->used_next;
	q->signalled_valid = true;
	if (yes)
		virtio_pci_interrupt_queue(q);
}

/* ---- kicks ---- */

static void set_used_flags(struct virtq *q, u16 flags)
{
	struct used *u = used_ring(q);

	if (!u)
		return;
	__atomic_store_n(&u->flags, flags, __ATOMIC_RELAXED);
	used_written(q, 0, 2);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void virtq_notify_enable(struct virtq *q)
{
	q->no_notify = false;
	if (!live(q))
		return;
	if (virtio_has(q->dev, VIRTIO_F_EVENT_IDX))
		set_avail_event(q);
	else
		set_used_flags(q, 0);
}

/* With event indices there is nothing to write: the index stays behind, and the driver passes it once. */
void virtq_notify_disable(struct virtq *q)
{
	q->no_notify = true;
	if (live(q) && !virtio_has(q->dev, VIRTIO_F_EVENT_IDX))
		set_used_flags(q, USED_NO_NOTIFY);
}

/* ---- copies ---- */

static size_t copy(const struct iovec *iov, unsigned count, size_t off, u8 *to, const u8 *from, size_t n)
{
	size_t done = 0;

	for (unsigned i = 0; i < count && done < n; i++) {
		size_t part;

		if (off >= iov[i].iov_len) {
			off -= iov[i].iov_len;
			continue;
		}
		part = MIN(iov[i].iov_len - off, n - done);
		if (to)
			memcpy(to + done, (const u8 *)iov[i].iov_base + off, part);
		else
			memcpy((u8 *)iov[i].iov_base + off, from + done, part);
		done += part;
		off = 0;
	}
	return done;
}

size_t virtq_copy_out(const struct virtq_buf *b, size_t off, void *to, size_t n)
{
	return copy(b->iov, b->out_n, off, to, NULL, n);
}

size_t virtq_copy_in(const struct virtq_buf *b, size_t off, const void *from, size_t n)
{
	return copy(b->iov + b->out_n, b->in_n, off, NULL, from, n);
}

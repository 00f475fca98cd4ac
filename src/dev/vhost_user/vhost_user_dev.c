/*
 * Virtio devices served by another process (see vhost_user_dev.h).
 *
 * Chains go from the guest's rings through shadow rings (shadow_ring.h) to the
 * back end and back, all on the vCPU thread. A thread of each running device
 * sleeps on the back end's call eventfds and on the hang-up of its socket, and
 * rings at the replay door.
 *
 * The back end's address space: guest RAM as one piece at RAM_BASE, whatever
 * its guest-physical addresses, and the shadow rings at RINGS_BASE.
 */
#include "dev/vhost_user/vhost_user_dev.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/thread.h"
#include "dev/vhost_user/shadow_ring.h"
#include "dev/vhost_user/vhost_user.h"
#include "replay/door.h"

#define QUEUES_MAX 2
#define QUEUE_SIZE 256	/* what the guest is offered */
#define FINISH_MS 30000 /* for requests that are waited for */
#define RAM_BASE 0ull
#define RINGS_BASE BIT(46) /* beyond any RAM */
#define BATCH 64

struct vhost_dev {
	struct virtio v;
	const struct kind *kind;
	struct vhost_user link;
	char name[96];
	void (*kill)(void *);
	void *kill_opaque;
	bool started; /* the back end has the queues */
	bool failed;  /* for good */
	bool no_noatime;
	int rings_fd, source;
	u8 *rings;
	struct shadow_ring ring[QUEUES_MAX];
	int kick[QUEUES_MAX], call[QUEUES_MAX];
	bool starving[QUEUES_MAX]; /* chains of the guest wait for room in the shadow ring */

	int stop_fd;
	bool watching;
	pthread_t watcher;
	atomic_bool hung_up;
};

/* What differs between the types of devices. */
struct kind {
	const struct virtio_ops *ops;
	const char *name;
	u64 features; /* of the device type, passed through from the back end */
	unsigned queues;
	unsigned config_len; /* taken from the back end; 0: none is */
	/* Puts an answer into the chain for a request that the back end will not serve; bytes written. NULL: there is
	 * no such answer, the device needs a reset. */
	u32 (*refuse)(const struct virtq_buf *b);
};

static struct vhost_dev *of(const struct virtio *v)
{
	return container_of((struct virtio *)(uintptr_t)v, struct vhost_dev, v);
}

static bool is_virtual(const struct vhost_dev *d)
{
	return door_mode(d->v.board->door) == DOOR_VIRTUAL;
}

/* ---- the watcher ---- */

static void *watch(void *opaque)
{
	struct vhost_dev *d = opaque;
	struct pollfd f[QUEUES_MAX + 2] = {
		{ .fd = d->stop_fd, .events = POLLIN },
		{ .fd = d->link.fd, .events = POLLRDHUP },
	};
	unsigned n = d->v.queues + 2;

	for (unsigned i = 0; i < d->v.queues; i++)
		f[2 + i] = (struct pollfd){ .fd = d->call[i], .events = POLLIN };
	for (;;) {
		u64 count;

		if (poll(f, n, -1) < 0 && errno != EINTR)
			break;
		if (f[0].revents)
			break;
		for (unsigned i = 2; i < n; i++) {
			if (f[i].revents && read(f[i].fd, &count, sizeof(count)) < 0)
				f[i].revents = 0; /* the back end took its own call back */
		}
		if (f[1].revents) {
			atomic_store(&d->hung_up, true);
			f[1].fd = -1;
		}
		door_signal(d->v.board->door, d->source);
	}
	return NULL;
}

static bool start_watcher(struct vhost_dev *d)
{
	if (is_virtual(d))
		return true;
	d->watching = !thread_start(&d->watcher, watch, d);
	return d->watching;
}

static void stop_watcher(struct vhost_dev *d)
{
	u64 one = 1;

	if (!d->watching)
		return;
	if (write(d->stop_fd, &one, sizeof(one)) == sizeof(one))
		pthread_join(d->watcher, NULL);
	d->watching = false;
	if (read(d->stop_fd, &one, sizeof(one)) < 0)
		one = 0; /* nothing to take back */
}

/* ---- giving chains back ---- */

static void refuse_chain(struct vhost_dev *d, unsigned q, const struct virtq_buf *b)
{
	virtq_push(&d->v.queue[q], b, d->kind->refuse(b));
}

/* All that is in flight and all that waits: after a failure. */
static void refuse_all(struct vhost_dev *d, unsigned q)
{
	struct shadow_ring *r = &d->ring[q];
	struct virtq_buf *b;

	while ((b = shadow_ring_revoke(r))) {
		refuse_chain(d, q, b);
		shadow_ring_done(r, b);
	}
	while ((b = shadow_ring_buffer(r)) && virtq_pop(&d->v.queue[q], b) > 0)
		refuse_chain(d, q, b);
	virtq_signal(&d->v.queue[q]);
}

/* The back end is given up. The guest sees errors. */
static void give_up(struct vhost_dev *d, const char *why)
{
	if (d->failed)
		return;
	d->failed = true;
	d->started = false;
	stop_watcher(d);
	log_warn("vhost-user", "%s: %s; %s", d->name, why,
		 d->kind->refuse ? "every access of the guest fails from now on" : "the device does not work any more");
	vhost_user_close(&d->link);
	if (d->kill)
		d->kill(d->kill_opaque);
	if (!virtio_running(&d->v))
		return;
	if (!d->kind->refuse)
		virtio_broken(&d->v, "the vhost-user back end is gone");
	for (unsigned q = 0; d->kind->refuse && q < d->v.queues; q++)
		refuse_all(d, q);
}

/* `n` used chains of one batch: seen by the driver together. */
static void give_back(struct vhost_dev *d, unsigned q, struct virtq_buf **b, const u32 *written, unsigned n)
{
	struct memory *m = d->v.board->mem;

	for (unsigned k = 0; k < n; k++) {
		/* all of it, whatever the back end says it has written */
		for (unsigned i = b[k]->out_n; i < b[k]->out_n + b[k]->in_n; i++)
			memory_notify_written(m, b[k]->gpa[i], (unsigned)b[k]->iov[i].iov_len);
	}
	virtq_push_many(&d->v.queue[q], (const struct virtq_buf *const *)b, written, n);
	for (unsigned k = 0; k < n; k++)
		shadow_ring_done(&d->ring[q], b[k]);
}

/* What the back end has finished. Number of chains, or -1 after give_up(). */
static int collect(struct vhost_dev *d, unsigned q)
{
	struct virtq_buf *b[BATCH];
	u32 written[BATCH];
	unsigned n = 0, all = 0;
	int got;

	while ((got = shadow_ring_take(&d->ring[q], &b[n], &written[n])) > 0) {
		all++;
		if (++n == BATCH) {
			give_back(d, q, b, written, n);
			n = 0;
		}
	}
	if (n)
		give_back(d, q, b, written, n);
	if (got < 0) {
		give_up(d, "the back end broke its ring");
		return -1;
	}
	return (int)all;
}

/* ---- taking chains ---- */

/* A shared descriptor can only say what lies in RAM proper, not in ROM or flash. */
static bool in_ram(const struct vhost_dev *d, const struct virtq_buf *b)
{
	const struct memory *m = d->v.board->mem;
	const u8 *ram = memory_ram(d->v.board->mem);

	for (unsigned i = 0; i < b->out_n + b->in_n; i++) {
		const u8 *p = b->iov[i].iov_base;

		if (p < ram || (u64)(p - ram) >= memory_ram_size(m) ||
		    b->iov[i].iov_len > memory_ram_size(m) - (u64)(p - ram))
			return false;
	}
	return true;
}

/* FUSE_OPEN and FUSE_OPENDIR: header (40 bytes), u32 flags, u32 open_flags (linux/fuse.h). */
#define FUSE_OPEN 14
#define FUSE_OPENDIR 27
#define FUSE_OPEN_BYTES 48

/* The guest's own copy of the request stays as it is. */
static void drop_noatime(const struct shadow_ring *r, struct virtq_buf *b)
{
	u8 request[FUSE_OPEN_BYTES], *bounce;
	u32 opcode, flags;

	if (b->out_len != sizeof(request) || virtq_copy_out(b, 0, request, sizeof(request)) != sizeof(request))
		return;
	memcpy(&opcode, request + 4, sizeof(opcode));
	memcpy(&flags, request + 40, sizeof(flags));
	if ((opcode != FUSE_OPEN && opcode != FUSE_OPENDIR) || !(flags & O_NOATIME))
		return;
	flags &= ~(u32)O_NOATIME;
	memcpy(request + 40, &flags, sizeof(flags));
	bounce = shadow_ring_bounce(r);
	memcpy(bounce, request, sizeof(request));
	/* what was in several pieces is in one */
	memmove(b->iov + 1, b->iov + b->out_n, b->in_n * sizeof(b->iov[0]));
	memmove(b->gpa + 1, b->gpa + b->out_n, b->in_n * sizeof(b->gpa[0]));
	b->iov[0] = (struct iovec){ bounce, sizeof(request) };
	b->out_n = 1;
}

static void kick(struct vhost_dev *d, unsigned q)
{
	u64 one = 1;

	/* full means that there is a kick already */
	if (write(d->kick[q], &one, sizeof(one)) < 0 && errno != EAGAIN)
		give_up(d, strerror(errno));
}

static int ms_until(const struct timespec *end)
{
	struct timespec t;
	s64 ms;

	clock_gettime(CLOCK_MONOTONIC, &t);
	ms = (end->tv_sec - t.tv_sec) * 1000 + (end->tv_nsec - t.tv_nsec) / 1000000;
	return ms < 0 ? 0 : (int)ms;
}

/* Waits until the back end has finished all of queue `q`, or gives it up. */
static void finish(struct vhost_dev *d, unsigned q)
{
	struct timespec end;

	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += FINISH_MS / 1000;
	while (collect(d, q) >= 0 && d->ring[q].in_flight) {
		struct pollfd f[2] = { { .fd = d->call[q], .events = POLLIN },
				       { .fd = d->link.fd, .events = POLLRDHUP } };
		u64 count;
		int n = poll(f, 2, ms_until(&end));

		if (n < 0 && errno != EINTR)
			give_up(d, strerror(errno));
		else if (!n)
			give_up(d, "the back end does not finish a request");
		else if (n > 0 && f[1].revents && !f[0].revents)
			give_up(d, "the back end hung up");
		else if (n > 0 && read(d->call[q], &count, sizeof(count)) < 0 && errno != EAGAIN)
			give_up(d, strerror(errno));
	}
}

/* The next chain of the guest to the back end. 1, 0 if there is none or no room, -1 if the device is broken. */
static int submit(struct vhost_dev *d, unsigned q, bool *want_kick)
{
	struct shadow_ring *r = &d->ring[q];
	struct virtq_buf *b = shadow_ring_buffer(r);
	int got;

	d->starving[q] = true; /* until it turns out otherwise */
	if (!b)
		return 0;
	got = virtq_pop(&d->v.queue[q], b);
	if (got > 0 && !in_ram(d, b)) {
		virtio_broken(&d->v, "a buffer is in memory that cannot be shared with the back end");
		return -1;
	}
	if (got > 0 && !shadow_ring_fits(r, b)) {
		virtq_unpop(&d->v.queue[q], 1);
		return 0;
	}
	d->starving[q] = false;
	if (got <= 0)
		return got;
	if (d->no_noatime)
		drop_noatime(r, b);
	if (b->out_n + b->in_n)
		*want_kick |= shadow_ring_submit(r, b, memory_ram(d->v.board->mem));
	else
		virtq_push(&d->v.queue[q], b, 0);
	return 1;
}

static void submit_all(struct vhost_dev *d, unsigned q)
{
	bool want_kick = false;

	if (is_virtual(d)) {
		while (!d->failed && submit(d, q, &want_kick) > 0) {
			kick(d, q);
			finish(d, q);
		}
		virtq_signal(&d->v.queue[q]);
		return;
	}
	while (submit(d, q, &want_kick) > 0)
		;
	if (want_kick)
		kick(d, q);
}

static void vhost_notify(struct virtio *v, unsigned q)
{
	struct vhost_dev *d = of(v);

	if (q >= v->queues)
		return;
	if (d->started)
		submit_all(d, q);
	else if (d->failed && d->kind->refuse)
		refuse_all(d, q);
}

/* The door's source: the watcher has seen something. */
static void on_news(void *opaque)
{
	struct vhost_dev *d = opaque;

	for (unsigned q = 0; d->started && q < d->v.queues; q++) {
		if (collect(d, q) <= 0)
			continue;
		if (d->starving[q])
			submit_all(d, q);
		virtq_signal(&d->v.queue[q]);
	}
	if (d->started && atomic_load(&d->hung_up))
		give_up(d, "the back end hung up");
}

/* ---- start and stop ---- */

static int start_queue(struct vhost_dev *d, unsigned i)
{
	const u64 base = RINGS_BASE + (u64)i * SHADOW_RING_BYTES;
	const struct vhost_user_queue q = {
		.size = SHADOW_RING_SIZE,
		.desc = base + SHADOW_RING_DESC,
		.avail = base + SHADOW_RING_AVAIL,
		.used = base + SHADOW_RING_USED,
		.kick_fd = d->kick[i],
		.call_fd = d->call[i],
	};
	u64 count;

	shadow_ring_reset(&d->ring[i]);
	d->starving[i] = false;
	/* kicks and calls of an earlier start */
	while (read(d->kick[i], &count, sizeof(count)) > 0 || read(d->call[i], &count, sizeof(count)) > 0)
		;
	return vhost_user_start_queue(&d->link, i, &q);
}

static void vhost_start(struct virtio *v)
{
	struct vhost_dev *d = of(v);
	const struct vhost_user_region regions[] = {
		{ .guest = RAM_BASE,
		  .user = RAM_BASE,
		  .size = memory_ram_size(v->board->mem),
		  .fd = memory_ram_fd(v->board->mem) },
		{ .guest = RINGS_BASE, .user = RINGS_BASE, .size = v->queues * SHADOW_RING_BYTES, .fd = d->rings_fd },
	};

	if (d->failed) {
		if (!d->kind->refuse)
			virtio_broken(v, "the vhost-user back end is gone");
		return;
	}
	if (vhost_user_set_features(&d->link, (v->features & d->kind->features) | VIRTIO_F_VERSION_1) ||
	    vhost_user_set_memory(&d->link, regions, ARRAY_SIZE(regions))) {
		give_up(d, d->link.why);
		return;
	}
	for (unsigned i = 0; i < v->queues; i++) {
		if (start_queue(d, i)) {
			give_up(d, d->link.why);
			return;
		}
	}
	d->started = true;
	if (!start_watcher(d))
		give_up(d, "cannot start a thread");
}

/* Takes the queues from the back end; chains in flight are forgotten. */
static void stop(struct vhost_dev *d)
{
	if (!d->started)
		return;
	d->started = false;
	stop_watcher(d);
	for (unsigned i = 0; i < d->v.queues; i++) {
		if (vhost_user_stop_queue(&d->link, i)) {
			give_up(d, d->link.why);
			return;
		}
		shadow_ring_reset(&d->ring[i]);
	}
}

static void vhost_reset(struct virtio *v)
{
	stop(of(v));
}

static void vhost_config_written(struct virtio *v, unsigned off, unsigned size)
{
	struct vhost_dev *d = of(v);

	if (!d->failed && vhost_user_set_config(&d->link, off, v->config + off, size) && d->link.fd < 0)
		give_up(d, d->link.why);
}

/* ---- saved state ---- */

/* Nothing is in flight in saved state. */
static void vhost_quiesce(struct virtio *v)
{
	struct vhost_dev *d = of(v);

	stop_watcher(d); /* it would take the calls that finish() waits for */
	for (unsigned q = 0; d->started && q < v->queues; q++) {
		if (d->ring[q].in_flight)
			finish(d, q);
		virtq_signal(&v->queue[q]);
	}
}

static void vhost_resume(struct virtio *v)
{
	struct vhost_dev *d = of(v);

	if (d->started && !d->watching && !start_watcher(d))
		give_up(d, "cannot start a thread");
}

/* Section "vhost-user", version 1: u8 kind of device, u8 "the back end had failed". */
static void vhost_save(const struct virtio *v, struct encoder *e)
{
	const struct vhost_dev *d = of(v);

	enc_begin(e, "vhost-user", 1);
	enc_u8(e, (u8)v->ops->id);
	enc_u8(e, d->failed);
	enc_end(e);
}

static bool vhost_decode(const struct virtio *v, struct decoder *in, u8 *failed)
{
	struct decoder s;
	u8 id;

	if (!dec_begin(in, "vhost-user", &s) || s.version != 1)
		return false;
	id = dec_u8(&s);
	*failed = dec_u8(&s);
	return dec_done(&s) && id == v->ops->id && *failed <= 1;
}

static int vhost_check(const struct virtio *v, struct decoder *in)
{
	u8 failed;

	return vhost_decode(v, in, &failed) ? 0 : -1;
}

static void vhost_load(struct virtio *v, struct decoder *in)
{
	struct vhost_dev *d = of(v);
	u8 failed = 0;

	stop(d);
	if (vhost_decode(v, in, &failed) && failed)
		give_up(d, "the back end had failed when the state was saved");
	else if (virtio_running(v))
		vhost_start(v);
}

/* ---- the types of devices ---- */

/* FUSE: every request begins with a header (linux/fuse.h, struct fuse_in_header: u32 len, u32 opcode, u64 unique),
 * every answer with u32 len, s32 error, u64 unique. */
static u32 fs_refuse(const struct virtq_buf *b)
{
	struct {
		u32 len;
		s32 error;
		u64 unique;
	} out = { .len = sizeof(out), .error = -ENOTCONN };

	if (b->in_len < sizeof(out) || virtq_copy_out(b, 8, &out.unique, sizeof(out.unique)) != sizeof(out.unique))
		return 0; /* FORGET has no answer */
	virtq_copy_in(b, 0, &out, sizeof(out));
	return sizeof(out);
}

/* The last byte of a request is its status (5.2.6). */
static u32 blk_refuse(const struct virtq_buf *b)
{
	u8 ioerr = 1;

	if (b->in_len)
		virtq_copy_in(b, b->in_len - 1, &ioerr, 1);
	return b->in_len;
}

static void vhost_destroy(struct virtio *v);

#define VHOST_OPS                                                                                                      \
	.reset = vhost_reset, .start = vhost_start, .notify = vhost_notify, .quiesce = vhost_quiesce,                  \
	.resume = vhost_resume, .save = vhost_save, .check = vhost_check, .load = vhost_load,                          \
	.destroy = vhost_destroy, .config_written = vhost_config_written

static const struct virtio_ops fs_ops = {
	.name = "vhost-user-fs", .id = VIRTIO_ID_FS, .pci_class = 0x018000, VHOST_OPS
};
static const struct virtio_ops blk_ops = {
	.name = "vhost-user-blk", .id = VIRTIO_ID_BLOCK, .pci_class = 0x010000, VHOST_OPS
};
static const struct virtio_ops net_ops = {
	.name = "vhost-user-net", .id = VIRTIO_ID_NET, .pci_class = 0x020000, VHOST_OPS
};

#define BLK_F_CONFIG_WCE BIT(11)
#define BLK_WRITEBACK 32 /* offset of the one field that a driver may write (5.2.4) */
#define NET_F_MAC BIT(5)

static const struct kind kinds[] = {
	/* queues: high priority, one of requests (5.11.2) */
	[VHOST_USER_FS] = { .ops = &fs_ops, .name = "file system", .queues = 2, .refuse = fs_refuse },
	/* SIZE_MAX, SEG_MAX, GEOMETRY, RO, BLK_SIZE, FLUSH, TOPOLOGY, CONFIG_WCE, DISCARD, WRITE_ZEROES (5.2.3) */
	[VHOST_USER_BLK] = { .ops = &blk_ops,
			     .name = "disk",
			     .queues = 1,
			     .config_len = 60,
			     .features = BIT(1) | BIT(2) | BIT(4) | BIT(5) | BIT(6) | BIT(9) | BIT(10) |
					 BLK_F_CONFIG_WCE | BIT(13) | BIT(14),
			     .refuse = blk_refuse },
	/* CSUM, GUEST_CSUM, GUEST_TSO4/6, GUEST_ECN, HOST_TSO4/6, HOST_ECN, MRG_RXBUF (5.1.3) */
	[VHOST_USER_NET] = { .ops = &net_ops,
			     .name = "network",
			     .queues = 2,
			     .features =
				 BIT(0) | BIT(1) | BIT(7) | BIT(8) | BIT(9) | BIT(11) | BIT(12) | BIT(13) | BIT(15) },
};

static int configure(struct vhost_dev *d, const struct vhost_user_config *cfg, struct error *e)
{
	struct virtio *v = &d->v;
	u32 queues = 1;

	v->offered = d->link.features & d->kind->features;
	v->config_len = d->kind->config_len;
	switch (cfg->kind) {
	case VHOST_USER_FS:
		if (!*cfg->tag || strlen(cfg->tag) > VHOST_USER_TAG_MAX)
			return error_set(e, "a tag has 1 to %d bytes", VHOST_USER_TAG_MAX);
		memcpy(v->config, cfg->tag, strlen(cfg->tag));
		memcpy(v->config + VHOST_USER_TAG_MAX, &queues, sizeof(queues));
		v->config_len = VHOST_USER_TAG_MAX + sizeof(queues);
		break;
	case VHOST_USER_BLK:
		if (vhost_user_get_config(&d->link, 0, v->config, v->config_len))
			return error_set(e, "%s: the vhost-user back end does not tell the disk's configuration",
					 d->name);
		if (v->offered & BLK_F_CONFIG_WCE)
			v->config_wmask[BLK_WRITEBACK] = 1;
		break;
	case VHOST_USER_NET:
		if (is_virtual(d))
			return error_set(e, "%s: networks do not go with the virtual clock", d->name);
		v->offered |= NET_F_MAC;
		v->config_len = 6;
		door_random(v->board->door, v->config, 6);
		v->config[0] = (u8)((v->config[0] & 0xfc) | 2); /* local, unicast */
		break;
	}
	return 0;
}

/* Memory that the back end cannot take away under us. */
static int create_rings(struct vhost_dev *d)
{
	size_t len = d->v.queues * SHADOW_RING_BYTES;
	void *p;

	d->rings_fd = memfd_create("ectype-rings", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (d->rings_fd < 0 || ftruncate(d->rings_fd, (off_t)len) ||
	    fcntl(d->rings_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return -1;
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, d->rings_fd, 0);
	if (p == MAP_FAILED)
		return -1;
	d->rings = p;
	for (unsigned i = 0; i < d->v.queues; i++) {
		shadow_ring_init(&d->ring[i], d->rings + i * SHADOW_RING_BYTES, RINGS_BASE + i * SHADOW_RING_BYTES);
		d->kick[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		d->call[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (d->kick[i] < 0 || d->call[i] < 0)
			return -1;
	}
	d->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return d->stop_fd < 0 ? -1 : 0;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

static void vhost_destroy(struct virtio *v)
{
	struct vhost_dev *d = of(v);

	stop_watcher(d);
	vhost_user_close(&d->link);
	for (unsigned i = 0; i < QUEUES_MAX; i++) {
		if (d->rings && i < v->queues)
			shadow_ring_free(&d->ring[i]);
		close_fd(d->kick[i]);
		close_fd(d->call[i]);
	}
	close_fd(d->stop_fd);
	close_fd(d->rings_fd);
	if (d->rings)
		munmap(d->rings, v->queues * SHADOW_RING_BYTES);
	free(d);
}

static struct vhost_dev *allocate(struct board *b, const struct vhost_user_config *cfg)
{
	struct vhost_dev *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->kind = &kinds[cfg->kind];
	d->rings_fd = d->stop_fd = d->link.fd = -1;
	for (unsigned i = 0; i < QUEUES_MAX; i++)
		d->kick[i] = d->call[i] = -1;
	d->no_noatime = cfg->kind == VHOST_USER_FS && cfg->no_noatime;
	d->kill = cfg->kill;
	d->kill_opaque = cfg->opaque;
	snprintf(d->name, sizeof(d->name), "%s", cfg->name);
	d->v.board = b;
	d->v.ops = d->kind->ops;
	d->v.queues = d->kind->queues;
	for (unsigned i = 0; i < d->v.queues; i++)
		d->v.queue[i].size_max = QUEUE_SIZE;
	return d;
}

struct virtio *vhost_user_create(struct board *b, struct pci_bus *bus, const struct vhost_user_config *cfg,
				 struct error *e)
{
	struct vhost_dev *d = allocate(b, cfg);

	int fd = fcntl(cfg->fd, F_DUPFD_CLOEXEC, 0);

	if (!d || fd < 0) {
		close_fd(fd);
		free(d);
		error_set(e, "not enough host memory or descriptors");
		return NULL;
	}
	if (vhost_user_open(&d->link, fd, VHOST_USER_TIMEOUT_MS, e))
		goto fail;
	if (!(d->link.features & VIRTIO_F_VERSION_1) || d->link.queues < d->v.queues) {
		error_set(e, "%s: the vhost-user back end serves no virtio 1 %s", d->name, d->kind->name);
		goto fail;
	}
	if (configure(d, cfg, e))
		goto fail;
	d->source = door_add_source(b->door, d->v.ops->name, on_news, d);
	if (d->source < 0 || create_rings(d) || virtio_pci_create(b, bus, 0, &d->v)) {
		error_set(e, "%s: not enough host memory, descriptors or PCI slots for the device", d->name);
		goto fail;
	}
	return &d->v;
fail:
	vhost_destroy(&d->v);
	return NULL;
}

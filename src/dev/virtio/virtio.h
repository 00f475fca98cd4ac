/*
 * What virtio devices have in common (Virtual I/O Device (VIRTIO) Version 1.2):
 * status, features, configuration space and split virtqueues. The transport
 * (virtio_pci.c) talks to the guest's driver, ring.c reads the rings, a device
 * file (blk.c, net.c, ...) is the rest.
 *
 * Everything here runs on the vCPU thread. What a backend's thread finishes
 * gets there by a source of the replay door (door_add_source()).
 *
 * The driver is hostile: a ring or request that breaks the rules makes
 * virtio_broken() set DEVICE_NEEDS_RESET (2.1.2); then the device does nothing
 * until it is reset.
 */
#ifndef ECTYPE_DEV_VIRTIO_VIRTIO_H
#define ECTYPE_DEV_VIRTIO_VIRTIO_H

#include <sys/uio.h>

#include "dev/device.h"
#include "dev/pci/pci.h"

#define VIRTIO_QUEUES_MAX 72
#define VIRTQ_SIZE_MAX 1024
#define VIRTIO_CONFIG_MAX 256
#define VIRTQ_IOV_MAX 1024 /* pieces of one chain, buffers that span regions of RAM counted twice */

/* Device types (5). */
enum virtio_id {
	VIRTIO_ID_NET = 1,
	VIRTIO_ID_BLOCK = 2,
	VIRTIO_ID_CONSOLE = 3,
	VIRTIO_ID_ENTROPY = 4,
	VIRTIO_ID_BALLOON = 5,
	VIRTIO_ID_SCSI = 8,
	VIRTIO_ID_VSOCK = 19,
	VIRTIO_ID_FS = 26,
};
/* Device status field (2.1). */
enum virtio_status {
	VIRTIO_ACKNOWLEDGE = 1,
	VIRTIO_DRIVER = 2,
	VIRTIO_DRIVER_OK = 4,
	VIRTIO_FEATURES_OK = 8,
	VIRTIO_NEEDS_RESET = 64,
	VIRTIO_FAILED = 128,
};
/* Reserved feature bits (6); the transport offers them for every device. */
#define VIRTIO_F_INDIRECT_DESC BIT(28)
#define VIRTIO_F_EVENT_IDX BIT(29)
#define VIRTIO_F_VERSION_1 BIT(32)
#define VIRTIO_F_ACCESS_PLATFORM BIT(33)
#define VIRTIO_F_RING_PACKED BIT(34)

struct virtio;

struct virtq {
	struct virtio *dev;
	unsigned index;
	u16 size_max; /* what the device offers, a power of two; 0: no such queue */
	/* Set by the driver; checked when it enables the queue. */
	u16 size;
	bool enabled;
	gpa_t desc, avail, used;
	u16 vector; /* MSI-X, 0xffff: none */
	/* ring.c */
	u16 avail_next, used_next; /* free-running */
	u16 signalled;		   /* used index at the last interrupt */
	bool signalled_valid;
	bool no_notify; /* device asked the driver not to kick */
};

struct virtio_ops {
	const char *name; /* "virtio-blk" */
	enum virtio_id id;
	u32 pci_class; /* class code, subclass, interface: 0x010000 */
	/* Back to the state before a driver was there: drop or finish what is in flight, which must touch no guest
	 * memory after it returns. */
	void (*reset)(struct virtio *v);
	/* DRIVER_OK was set: v->features and the queues stand. May be NULL. */
	void (*start)(struct virtio *v);
	/* The driver kicked queue `q`: enabled, the device runs. */
	void (*notify)(struct virtio *v, unsigned q);
	/* The driver wrote [off, off + size) of v->config, already stored there (only v->config_wmask bits change).
	 * May be NULL. */
	void (*config_written)(struct virtio *v, unsigned off, unsigned size);
	/* As in struct device_ops; any of the five may be NULL. The transport saves what is in struct virtio; `save`,
	 * `check` and `load` are for the device's own state, a section of its own. */
	void (*quiesce)(struct virtio *v);
	void (*resume)(struct virtio *v);
	void (*save)(const struct virtio *v, struct encoder *e);
	int (*check)(const struct virtio *v, struct decoder *in);
	void (*load)(struct virtio *v, struct decoder *in);
	void (*destroy)(struct virtio *v); /* frees the device's struct */
};

/* First member of every virtio device. The constructor fills in the first group, then calls virtio_pci_create(). */
struct virtio {
	const struct virtio_ops *ops;
	u64 offered; /* device's feature bits; those of the transport are added */
	u8 config[VIRTIO_CONFIG_MAX], config_wmask[VIRTIO_CONFIG_MAX];
	unsigned config_len;
	unsigned queues;
	struct virtq queue[VIRTIO_QUEUES_MAX]; /* size_max set */

	struct board *board;
	u64 features; /* agreed on, valid from FEATURES_OK */
	u8 status;
	u8 generation; /* of the configuration (2.5.3) */
	bool master;   /* the function may touch memory: bus mastering is on. Else queues look empty */
	struct virtio_pci *pci;
};

/*
 * The device as a PCI function on `bus`, transport of 4.1 (modern only), with
 * MSI-X; attached to the board as a device. `slot`: 1 to 30, 0: the next free.
 * -1 on lack of memory or slots (then `v` is still the caller's).
 */
int virtio_pci_create(struct board *b, struct pci_bus *bus, unsigned slot, struct virtio *v);

static inline bool virtio_running(const struct virtio *v)
{
	return (v->status & (VIRTIO_DRIVER_OK | VIRTIO_NEEDS_RESET)) == VIRTIO_DRIVER_OK;
}
static inline bool virtio_has(const struct virtio *v, u64 feature)
{
	return (v->features & feature) != 0;
}
/* The configuration changed: next generation, configuration interrupt. */
void virtio_config_changed(struct virtio *v);
/* The driver broke a rule: DEVICE_NEEDS_RESET, configuration interrupt, one line in the log (debug). */
void virtio_broken(struct virtio *v, const char *why);

/*
 * A chain of descriptors taken from the available ring (2.7): first what the
 * device reads, then what it writes. Pointers lead into guest RAM; what lies
 * there can change at any time, so copy a header before checking it.
 */
struct virtq_buf {
	u16 head;
	unsigned out_n, in_n; /* pieces: iov[0, out_n) to read, iov[out_n, out_n + in_n) to write */
	u32 out_len, in_len;  /* bytes */
	struct iovec iov[VIRTQ_IOV_MAX];
	gpa_t gpa[VIRTQ_IOV_MAX];
};
/* The next chain into *b: 1, 0 if there is none, -1 if the ring is broken (virtio_broken() was called). Of *b
 * only what is used is written. Buffers of no bytes are left out, so out_n and in_n can both be 0. At most `size`
 * chains are ever popped and not pushed. */
int virtq_pop(struct virtq *q, struct virtq_buf *b);
/* Like virtq_pop(), but only says whether there is one. */
bool virtq_empty(struct virtq *q);
/* Gives the last `n` popped chains back, as if they had not been popped. */
void virtq_unpop(struct virtq *q, unsigned n);
/* The chain at `head` once more, for a device that has popped it and kept no more than the head through save and
 * load. 0, or -1 if it is broken. */
int virtq_get(struct virtq *q, u16 head, struct virtq_buf *b);
/* Puts the chain into the used ring with `written` bytes of its writable part, which the device has stored there:
 * engines are told. No interrupt yet. */
void virtq_push(struct virtq *q, const struct virtq_buf *b, u32 written);
/* Several used elements at once, seen by the driver together (mergeable receive buffers). */
void virtq_push_many(struct virtq *q, const struct virtq_buf *const *b, const u32 *written, unsigned n);
/* Interrupts the driver if it wants to know of what was pushed since the last call (2.7.7, 2.7.10). */
void virtq_signal(struct virtq *q);
/* Ask the driver (not) to kick. After virtq_notify_enable(), look at virtq_empty() once more. */
void virtq_notify_enable(struct virtq *q);
void virtq_notify_disable(struct virtq *q);

/* Copy between a chain and a buffer, from byte `off` of its readable (writable) part; returns bytes copied. */
size_t virtq_copy_out(const struct virtq_buf *b, size_t off, void *to, size_t n);
size_t virtq_copy_in(const struct virtq_buf *b, size_t off, const void *from, size_t n);

#endif

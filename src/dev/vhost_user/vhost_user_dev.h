/*
 * Virtio devices served by another process over vhost-user: file systems,
 * disks, networks.
 *
 * When the back end hangs up or misbehaves there is one line in the log, and
 * the connection is closed for good. File systems and disks then answer every
 * request, those in flight too, with an error (ENOTCONN, VIRTIO_BLK_S_IOERR);
 * guests would wait for ever otherwise. Networks set DEVICE_NEEDS_RESET.
 *
 * With the virtual clock each request is waited for at once; networks are
 * refused. Saved state has no more than the queues: files that a guest has open
 * are known to the back end only.
 */
#ifndef ECTYPE_DEV_VHOST_USER_DEV_H
#define ECTYPE_DEV_VHOST_USER_DEV_H

#include "base/error.h"
#include "dev/device.h"

#define VHOST_USER_TAG_MAX 36 /* bytes of a file system's tag (VIRTIO 1.2, 5.11.4) */

struct pci_bus;
struct virtio;

enum vhost_user_kind { VHOST_USER_FS, VHOST_USER_BLK, VHOST_USER_NET };

struct vhost_user_config {
	enum vhost_user_kind kind;
	int fd;		  /* connected to the back end; the device takes a duplicate */
	const char *name; /* for log lines, say the shared directory; copied */
	const char *tag;  /* VHOST_USER_FS: 1 to VHOST_USER_TAG_MAX bytes */
	/* VHOST_USER_FS: no file is opened with O_NOATIME, which a back end without rights may do with its own files
	 * only; guests' overlay file systems open everything so. */
	bool no_noatime;
	/* Ends the back end's process; may be NULL. For when it does not let go of guest memory in time. */
	void (*kill)(void *opaque);
	void *opaque;
};

/* The device as a PCI function on `bus`. NULL with *e if the back end does not answer or lacks what is needed. */
struct virtio *vhost_user_create(struct board *b, struct pci_bus *bus, const struct vhost_user_config *cfg,
				 struct error *e);

#endif

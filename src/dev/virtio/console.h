/*
 * virtio console (VIRTIO 1.2, 5.3): ports, each with a character stream of the
 * host.
 *
 * A console port is a terminal of the guest (hvc0, hvc1, ... in the order of
 * the array). A named port is a plain stream of bytes, /dev/virtio-ports/NAME
 * in the guest, open for one program at a time.
 *
 * Input stays at the door until the guest has buffers for it and, for several
 * ports, has opened the port. What a guest sends on a named port stays in its
 * queue while the stream has no room: nothing is lost, and the processor does
 * not wait. A console's output goes to chr_ops.write instead, as that of a serial
 * port does: drivers spin until it is taken. So does, with the virtual clock,
 * that of named ports: then a guest cannot be made to wait for the host.
 *
 * The end of a stream passes both ways. When the host's end goes away (a unix
 * socket's client hangs up), the guest gets PORT_OPEN 0 behind the last byte:
 * its program reads what is left, then end of file, and its writes wait until
 * somebody is there again. When the guest's program closes a named port, or is
 * killed, the stream gets chr_ops.guest_open(false) behind the last byte it
 * was sent. A stream can have one direction only: one port each for a process's
 * standard input, output and error passes each end of file by itself.
 */
#ifndef ECTYPE_DEV_VIRTIO_CONSOLE_H
#define ECTYPE_DEV_VIRTIO_CONSOLE_H

#include "dev/device.h"

#define VIRTIO_CONSOLE_PORTS_MAX 32
#define VIRTIO_CONSOLE_NAME_MAX 63

struct chr;
struct pci_bus;
struct virtio;

struct virtio_console_port {
	struct chr *chr;  /* stays the caller's, who destroys it after the device; nobody else starts it */
	const char *name; /* 1 to VIRTIO_CONSOLE_NAME_MAX bytes of printable ASCII without '/'; copied. NULL: a
			   * console port */
};

/*
 * One device in `slot` (as for virtio_pci_create()) with `n` ports, 1 to VIRTIO_CONSOLE_PORTS_MAX. Port 0 should be a
 * console: a driver without VIRTIO_CONSOLE_F_MULTIPORT knows only that one, and
 * takes it for a console. NULL on lack of memory, PCI slots or sinks of the
 * door.
 */
struct virtio *virtio_console_create(struct board *b, struct pci_bus *bus, unsigned slot,
				     const struct virtio_console_port *ports, unsigned n);
/* Start and stop the streams: around a run of the machine, on the vCPU thread or while there is none. */
void virtio_console_start(struct virtio *v);
void virtio_console_stop(struct virtio *v);

#endif

/*
 * The host half of a virtio socket device: streams of the host that are
 * connected with streams of the guest.
 *
 * All functions are called on the vCPU thread and never block; a thread of the
 * backend only waits for the host. What happened is fetched by next().
 */
#ifndef ECTYPE_BACKEND_VSOCK_VSOCK_H
#define ECTYPE_BACKEND_VSOCK_VSOCK_H

#include <sys/types.h>
#include <sys/uio.h>

#include "base/error.h"
#include "base/types.h"

#define VSOCK_STREAMS_MAX 1024
#define VSOCK_DIALS_MAX 64

struct vsock;

/* A stream of the host. `opaque` is the device's, `gate` the output gate's (backend/gate/gate.h). */
struct vsock_stream {
	void *opaque, *gate;
};

enum vsock_event_kind {
	VSOCK_INCOMING, /* somebody wants to talk to the guest's port `port`; the stream is the device's to close */
	VSOCK_DIALLED,	/* the answer to dial(): the stream, or NULL: nobody is there */
	VSOCK_READY,	/* something changed with a stream */
};
struct vsock_event {
	enum vsock_event_kind kind;
	struct vsock_stream *stream;
	u32 port; /* VSOCK_INCOMING */
	u32 id;	  /* VSOCK_DIALLED: as given to dial() */
	/* VSOCK_READY: since recv() or send() last failed with EAGAIN. `gone`: the other end takes nothing any more
	 * and sends nothing but what recv() still gives. */
	bool readable, writable, gone;
};

struct vsock_ops {
	const char *name; /* "unix" */
	/* Lets the host in. From then on `wake(opaque)` is called, on any thread, when next() has something again. */
	int (*start)(struct vsock *v, void (*wake)(void *), void *opaque, struct error *e);
	/* Closes all streams and forgets all events; no call of `wake` comes after it returned. start() may follow. */
	void (*stop)(struct vsock *v);
	/* The next event; false: none. A stream is ready in both ways when it is new. */
	bool (*next)(struct vsock *v, struct vsock_event *ev);
	/* Connects to what the host has for `port`. The answer comes by next(). False: too many wait for one. */
	bool (*dial)(struct vsock *v, u32 port, u32 id);
	/* Bytes moved; recv: 0 at the end; -EAGAIN: not now, an event comes; other -errno: the stream is broken. */
	ssize_t (*recv)(struct vsock_stream *s, const struct iovec *iov, unsigned iov_n);
	ssize_t (*send)(struct vsock_stream *s, const struct iovec *iov, unsigned iov_n);
	/* Tells the other end that the guest sends, or receives, no more. */
	void (*shutdown)(struct vsock_stream *s, bool sends, bool receives);
	void (*close)(struct vsock *v, struct vsock_stream *s);
	void (*destroy)(struct vsock *v);
};

struct vsock {
	const struct vsock_ops *ops;
};

/*
 * Unix sockets, with the handshake that Firecracker introduced. A client of the
 * host connects to `path` and writes "CONNECT PORT\n"; when the guest has
 * accepted it reads "OK HOSTPORT\n", then the streams are one; if the guest
 * refuses, the connection is closed. A guest that connects to port P of CID 2
 * gets what listens on "PATH_P".
 *
 * Sockets are connected by a process of its own, which is started here, so that
 * it works from inside the jail: call it while there is one thread. It ends
 * with this process. NULL with *e.
 */
struct vsock *vsock_unix_create(const char *path, struct error *e);

#endif

/*
 * The control socket's requests: what may be asked (api_parse.c), doing it
 * (api.c), and the answer. Knows nothing of HTTP but methods, paths and status
 * codes. src/ctl/openapi.json describes the same for clients.
 */
#ifndef ECTYPE_CTL_API_H
#define ECTYPE_CTL_API_H

#include <sys/types.h>

#include "backend/chr/chr.h"
#include "base/guid.h"
#include "ctl/disk_copy.h"
#include "machine/machine.h"

#define API_BODY_MAX (64 * KiB)

enum api_op {
	API_PING,
	API_INFO,
	API_COUNTERS,
	API_METRICS,
	API_OPENAPI,
	API_PAUSE,
	API_RESUME,
	API_POWER_BUTTON,
	API_REBOOT,
	API_SHUTDOWN,
	API_ENGINE,
	API_RESIZE,
	API_CONSOLE,
	API_COREDUMP,
	API_SNAPSHOT,
	API_GENERATION,
	API_PROTECT,
	API_UNPROTECT,
	API_PROTECTION,
	API_MIGRATE,
	API_MIGRATION,
	API_MIGRATION_SET,
	API_MIGRATION_CANCEL,
	API_OPS
};

struct api_route {
	const char *path, *method;
	enum api_op op;
};
extern const struct api_route api_routes[];
extern const unsigned api_route_count;

struct api_request {
	enum api_op op;
	char engine[16];	      /* API_ENGINE */
	bool has_balloon;	      /* API_RESIZE */
	u64 desired_balloon;	      /* bytes */
	bool paging;		      /* API_COREDUMP: with virtual addresses */
	bool no_disks;		      /* API_SNAPSHOT: state and memory only */
	struct disk_backings backing; /* API_SNAPSHOT: what the client has of the disks */
	bool has_generation;	      /* API_GENERATION: which one; else a random one */
	u8 generation[GUID_LEN];
	bool has_downtime, has_timeout; /* API_MIGRATION_SET */
	u64 downtime_ms, timeout_s;
	bool has_copy_disks, copy_disks;
	bool has_post_copy, post_copy;
};

#define API_LEN_UNKNOWN UINT64_MAX
/* The body of an answer that is made piece by piece while it is sent, on the server's thread. */
struct api_stream {
	u64 len; /* API_LEN_UNKNOWN: until `read` says so */
	/* Up to `n` bytes from `pos` on, at least one before the end; 0: the end; -1: the connection is cut. */
	ssize_t (*read)(struct api_stream *s, u64 pos, void *buf, size_t n);
	void (*release)(struct api_stream *s); /* sent, or the client is gone */
};

enum api_attach { API_ATTACH_NONE, API_ATTACH_CONSOLE, API_ATTACH_MIGRATION, API_ATTACH_PROTECTION };

struct api_reply {
	unsigned status;
	const char *type; /* of the body */
	char *body;	  /* from malloc(), NULL: none; or `constant` */
	const char *constant;
	size_t len;
	struct api_stream *stream; /* in place of these; released by whoever has the reply */
	const char *allow;	   /* with 405: the method that is allowed */
	bool then_stop;		   /* when the answer has been sent, the machine is to end */
	enum api_attach attach;	   /* with 101: what the connection becomes */
};

/* One line of text as the reply `status`, in JSON. */
void api_error(struct api_reply *r, unsigned status, const char *fmt, ...) printf_like(3, 4);
void api_reply_free(struct api_reply *r);

/* Finds out what is asked, and checks it as far as one can without the machine. True; or false, with the answer in
 * *r. `body`: `len` bytes. */
bool api_parse(const char *method, const char *path, const char *body, size_t len, struct api_request *q,
	       struct api_reply *r);

struct protect;
struct api_machine {
	struct machine *machine;
	const char *name;
	const char *cwd; /* where names of files begin that do not begin with '/'; NULL: not known */
	bool console;	 /* there is one to attach to */
	/* What a snapshot's section "options" holds (docs/snapshot.md); NULL: this machine cannot be saved. */
	const u8 *options;
	size_t options_len;
	struct protect *protect;     /* NULL: the machine cannot be protected */
	struct migration *migration; /* away from here */
	struct arrival *arrival;     /* to here; NULL: it has begun here */
};
/* Holds the machine, and answers with a core of its guest (coredump.c). Any thread but the vCPU's. */
void api_coredump(const struct api_machine *m, const struct api_request *q, struct api_reply *r);
/* Holds the machine, and answers with its state, memory and disks (saving.c). Any thread but the vCPU's. */
void api_snapshot(const struct api_machine *m, const struct api_request *q, struct api_reply *r);
/* One line of text for a machine that does not answer, as the reply. */
void api_no_answer(const struct api_machine *m, struct api_reply *r);
/* Any thread but the vCPU's. */
void api_perform(const struct api_machine *m, const struct api_request *q, struct api_reply *r);

#endif

/* The client's side of a control socket, for the commands. */
#ifndef ECTYPE_CTL_CLIENT_H
#define ECTYPE_CTL_CLIENT_H

#include <jansson.h>

#include "base/error.h"
#include "base/types.h"

/* What the functions below return but 0, with *e: no machine of that name runs; or it does not answer, or refuses. */
enum { CTL_NO_MACHINE = -1, CTL_REFUSED = -2 };

struct ctl_answer {
	unsigned status;
	char *body; /* from malloc(), NUL at the end */
	size_t len;
};

/* One request; any answer is a success. Waits at most `ms` for each piece of it. `body` may be NULL. */
int ctl_ask(const char *name, const char *method, const char *path, const char *body, unsigned ms,
	    struct ctl_answer *out, struct error *e);
void ctl_answer_free(struct ctl_answer *a);

/* The same, but only an answer of the class 2xx is a success. *json: the answer, to be released, or NULL for one
 * without a body; `json` may be NULL. */
int ctl_order(const char *name, const char *method, const char *path, json_t *body, json_t **json, struct error *e);

/*
 * The same for an answer too large to be held: its pieces go to `take`, in order; -1 with *e from it ends everything.
 * `total`: bytes of the whole; CTL_UNKNOWN: the answer does not say, and ends with the connection, so that whoever
 * reads it has to know whether all of it came. 0: all of `total` came.
 */
#define CTL_UNKNOWN UINT64_MAX
struct ctl_sink {
	int (*take)(void *opaque, const char *data, size_t n, u64 total, struct error *e);
	void *opaque;
};
int ctl_fetch(const char *name, const char *method, const char *path, json_t *body, const struct ctl_sink *sink,
	      struct error *e);

/* GET with Upgrade: the connected descriptor, with bytes that came along already in `out->body`. */
int ctl_upgrade(const char *name, const char *path, const char *protocol, struct ctl_answer *out, struct error *e);

#endif

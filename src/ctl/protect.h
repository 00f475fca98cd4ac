/*
 * The primary's side of a protected machine (docs/protect.md): a thread that
 * sends checkpoints to a standby over a socket, and lets output out of the gate
 * when the checkpoint behind it is kept there. state/protection.h has what is
 * said on the way.
 *
 * The socket comes from `ectype protect`, as a descriptor over the control
 * connection, so that the monitor itself sees when the standby's host closes
 * it; the command is not needed any more then.
 */
#ifndef ECTYPE_CTL_PROTECT_H
#define ECTYPE_CTL_PROTECT_H

#include "base/error.h"
#include "machine/machine.h"
#include "state/protection.h"

#define PROTECT_RATE_MAX 200u
#define PROTECT_TIMEOUT_MIN_MS 100u
#define PROTECT_TIMEOUT_MAX_MS 60000u

enum protect_phase {
	PROTECT_NONE,	/* unprotected; `why` says why, if it was otherwise before */
	PROTECT_BEGINS, /* the standby looks at what is offered */
	PROTECT_COPIES, /* memory and disks go over for the first time */
	PROTECT_PROTECTS,
	PROTECT_HELD,	  /* the standby is lost and may have taken over: the machine stands still */
	PROTECT_REPLACED, /* the standby has taken over: the machine ends */
};
extern const char *const protect_phase_names[];

struct protect_status {
	enum protect_phase phase;
	unsigned rate, timeout_ms;  /* checkpoints a second */
	u64 checkpoints, early;	    /* kept by the standby; those taken because output had no more room */
	u64 bytes;		    /* sent */
	u64 still_ns, still_max_ns; /* the machine stood still, together and at most */
	u64 dirty;		    /* bytes of RAM and disks in all checkpoints */
	u64 lag_ns;		    /* since the moment of the last checkpoint that is kept */
	u64 waiting, waiting_most;  /* bytes of output, now and at most */
	char why[256];
};

struct protect;

/* `options` of a snapshot, NULL if the machine cannot be saved; they and the machine must outlive it. NULL on lack of
 * memory. */
struct protect *protect_create(struct machine *m, const u8 *options, size_t options_len);
/* Its thread ends, as soon as it can, and none begins again. After machine_run(). NULL is allowed, twice is as good as
 * once. */
void protect_end(struct protect *p);
void protect_destroy(struct protect *p);

/* Any thread. Can it begin? 0, or -1 with *e. */
int protect_possible(struct protect *p, struct error *e);
/*
 * Any thread. Begins: `fd` is a control connection, on which a client sends a line of terms (protect_terms()) with the
 * descriptor of a socket to the standby and, if it says so, that of a witness. It is answered with one line,
 * "protected" or what is wrong, and done(opaque) is called on another thread; `fd` is not used any more then. 0, or -1:
 * busy.
 */
int protect_begin(struct protect *p, int fd, void (*done)(void *), void *opaque);

struct protect_terms {
	unsigned rate, timeout_ms;
	enum protection_loss on_loss;
	bool witness;
	u8 id[16];
};
#define PROTECT_TERMS_MAX 160
/* The line, with its end. Its length. */
size_t protect_terms_write(const struct protect_terms *t, char line[PROTECT_TERMS_MAX]);
/* 0, or -1: it is no such line. */
int protect_terms_read(struct protect_terms *t, const char *line);

/* Any thread. Ends the protection, the machine goes on without; also one that is held. 0; or -1 with *e. Waits. */
int protect_stop(struct protect *p, struct error *e);
/* Any thread. `p` NULL: a machine that cannot be protected is not. */
void protect_status(struct protect *p, struct protect_status *out);

#endif

/* `ectype clone`: several running copies of a machine. Each is a process of `ectype restore`. */
#ifndef ECTYPE_CLI_CLONE_H
#define ECTYPE_CLI_CLONE_H

#include <limits.h>
#include <sys/types.h>

#include "base/error.h"
#include "ctl/rundir.h"

#define CLONES_MAX 500u

struct saved_options;

/* ---- one copy ---- */

struct clone {
	char name[CTL_NAME_MAX + 1];
	unsigned number; /* %i */
	pid_t pid;
	/* -1: none. The process; where it says that it runs; what it says of errors, while it has not said that. */
	int pidfd, ready, messages;
	bool running;
	u64 start, took; /* host ns */
};

/* How copies are started: `ectype restore` with these. */
struct clone_options {
	const char *snapshot; /* directory */
	const char *overlays; /* directory; NULL: there is no disk that needs one */
	char **own;	      /* "--name=value" or "--flag", with %n, %i and %% in values */
	unsigned owns;
	u64 hostfwd_offset; /* 0: each forward gets a free port */
	bool same_mac;
};

/*
 * The command line of copy `c`, NULL at the end, to be freed with clone_arguments_free(): the machine's options with
 * what must not be shared replaced (ports of the host, sockets, files that are written), then the user's own. NULL
 * with *e.
 */
char **clone_arguments(const struct clone_options *o, const struct saved_options *saved, const struct clone *c,
		       struct error *e);
void clone_arguments_free(char **argv);
/* Can `count` copies be made with these? 0, or -1 with *e. */
int clone_arguments_check(const struct clone_options *o, const struct saved_options *saved, unsigned count,
			  struct error *e);

/* Starts the process, in a session of its own; its output goes to the new file `log` (NULL: nowhere). argv[1] is for
 * this function to set. 0, or -1 with *e. */
int clone_start(struct clone *c, char **argv, const char *log, struct error *e);
/* Waits until one of those that were started runs; *which: its index, or count: a signal came. -1 with *e: that one has
 * ended instead, or takes too long. */
int clone_wait(struct clone *list, unsigned count, unsigned *which, struct error *e);
/* Ends all that were started. */
void clone_end_all(struct clone *list, unsigned count);

/* Runs `ectype snapshot NAME DIR`, --no-sync if the directory goes with the copies. 0, or an exit status after its
 * message. */
int clone_save(const char *name, const char *dir, bool keep);

/* ---- where their files are ---- */

struct clone_dir {
	char path[PATH_MAX]; /* "": not made */
	bool keep;	     /* the user named it */
	int lock;	     /* -1: none */
};

/*
 * Makes the directory `wanted`, or one of a name of its own in $TMPDIR or /var/tmp, where `need` bytes must be free;
 * directories there that a killed keeper left over are removed. 0, or -1 with *e.
 */
int clone_dir_create(struct clone_dir *d, const char *wanted, u64 need, struct error *e);
/* Is the file in a directory that was made without `wanted`, and goes when its machines end? By its name. */
bool clone_dir_temporary(const char *path);
/* Removes it with all in it. */
void clone_dir_remove(struct clone_dir *d);
/* Leaves that to a process of its own, for when all of the copies have ended; not if it is to be kept. 0, or -1 with
 * *e. */
int clone_dir_leave(struct clone_dir *d, const struct clone *list, unsigned count, struct error *e);

#endif

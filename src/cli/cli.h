/* What the commands of the command line share. */
#ifndef ECTYPE_CLI_CLI_H
#define ECTYPE_CLI_CLI_H

#include "base/error.h"
#include "base/types.h"

/* Exit statuses besides the guest's own (docs: DESIGN 9). */
enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

/* argv[0] is the command's name. Return the exit status. */
int cmd_run(int argc, char **argv);
int cmd_exec(int argc, char **argv);
int cmd_image(int argc, char **argv);
int cmd_lockstep(int argc, char **argv);
int cmd_clone(int argc, char **argv);
int cmd_console(int argc, char **argv);
int cmd_ctl(int argc, char **argv);
int cmd_dump(int argc, char **argv);
int cmd_migrate(int argc, char **argv);
int cmd_pause(int argc, char **argv);
int cmd_ps(int argc, char **argv);
int cmd_receive(int argc, char **argv);
int cmd_restore(int argc, char **argv);
int cmd_protect(int argc, char **argv);
int cmd_standby(int argc, char **argv);
int cmd_resume(int argc, char **argv);
int cmd_snapshot(int argc, char **argv);
int cmd_stats(int argc, char **argv);
int cmd_stop(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_version(int argc, char **argv);

/* One line "ectype: ..." on stderr; returns EXIT_USAGE. */
int usage_error(const char *fmt, ...) printf_like(1, 2);
/* What it said last in this process, for who has to tell somebody else; "": nothing. */
const char *usage_error_last(void);

/* Where the file `name` of the cache is, or would be. 0, or an exit status after a message. */
int cache_path(char *out, size_t size, const char *name);

/* "512M", "3.5G", "1048576": bytes. -1 if it is no size or does not fit. */
int parse_size(const char *s, u64 *out);
/* Decimal or 0x number up to `max`. */
int parse_number(const char *s, u64 max, u64 *out);

/* "--name VALUE" or "--name=VALUE" at argv[*i]: the value, *i is its last word; NULL: it is not this option, or has no
 * value. */
const char *option_value(const char *name, int argc, char **argv, int *i);

/* SIGINT, SIGTERM and SIGHUP call `stop` (async-signal-safe) from now on;
 * SIGPIPE and SIGXFSZ are ignored. signals_caught() is the one that came, or 0. */
void signals_install(void (*stop)(void *), void *opaque);
void signals_remove(void);
int signals_caught(void);

#endif

/* The options of `ectype run`. */
#ifndef ECTYPE_CLI_RUN_OPTIONS_H
#define ECTYPE_CLI_RUN_OPTIONS_H

#include "cli/net_options.h"
#include "machine/machine.h"

enum serial_kind { SERIAL_STDIO, SERIAL_NONE, SERIAL_FILE, SERIAL_UNIX };

struct run_options {
	struct machine_config machine; /* without `serial` */
	enum serial_kind serial;
	const char *serial_path;
	struct net_options nets;
	const char *gdb;
	const char *trace_path, *symbols_path; /* NULL: stderr; none */
	bool stats;
	const char *stats_path; /* NULL: human, to stderr */
	bool jail;
	bool help;
	bool bare; /* a disk was given without --disk: its firmware is the default */
	/* storage of the defaults taken from the cache */
	char kernel[4096], initrd[4096], append[256];
	/* what --disk names */
	char disk_text[32768];
	size_t disk_text_used;
};

/* 0, or the exit status after a message. Looks at no file but the cache's. */
int run_options_parse(struct run_options *o, int argc, char **argv);
void run_options_help(void);

#endif

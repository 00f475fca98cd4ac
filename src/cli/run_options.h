/* The options of `ectype run`. */
#ifndef ECTYPE_CLI_RUN_OPTIONS_H
#define ECTYPE_CLI_RUN_OPTIONS_H

#include "base/guid.h"
#include "cli/net_options.h"
#include "cli/share_options.h"
#include "cli/stream_options.h"
#include "dev/virtio/console.h"
#include "machine/machine.h"

#define RUN_OPTIONS_MAX 160

struct run_options {
	struct machine_config machine; /* without `serial` and `console` */
	struct stream_option serial[MACHINE_SERIALS];
	unsigned serials; /* at least 1 */
	struct stream_option console[VIRTIO_CONSOLE_PORTS_MAX];
	unsigned consoles;
	struct share_options shares;
	struct net_options nets;
	char vsock[4096]; /* path of the socket; "": no such device */
	u8 generation[GUID_LEN];
	bool debugcon;
	const char *debugcon_path; /* NULL: where COM1 goes, on stdio */
	const char *gdb;
	const char *trace_path, *symbols_path; /* NULL: stderr; none */
	bool stats;
	const char *stats_path; /* NULL: human, to stderr */
	bool jail, no_control;
	bool help;
	/* what was given, in order, for saved_options.h; the values are the caller's */
	struct {
		const char *name, *value; /* NULL: none */
	} given[RUN_OPTIONS_MAX];
	unsigned givens;
	bool bare; /* a disk was given without --disk: its firmware is the default */
	/* storage of the defaults taken from the cache */
	char kernel[4096], initrd[4096], append[256];
	/* what --disk names */
	char disk_text[32768];
	size_t disk_text_used;
	char disk_id[MACHINE_DISKS_MAX][16]; /* names of those that were given none */
};

/* 0, or the exit status after a message. Looks at no file but the cache's. The caller has zeroed `o`, by calloc():
 * most of its 300 KiB is never touched. */
int run_options_parse(struct run_options *o, int argc, char **argv);
void run_options_help(void);

#endif

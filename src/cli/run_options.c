/*
 * Options of `ectype run`: one row an option. They are given as --name value
 * or --name=value, in full, most of them at most once; everything is checked before
 * anything is opened or created.
 */
#include "cli/run_options.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/disk_options.h"
#include "cli/pv_options.h"
#include "cli/trace_options.h"
#include "cpu/pv.h"
#include "ctl/rundir.h"
#include "dev/virtio/vsock.h"

#define DEFAULT_MEMORY (512 * MiB)
/* What the machine of the cache is started with. */
#define DEFAULT_APPEND "console=ttyS0 quiet"

/* ARG_MANY: required, and the option may be given more than once. */
enum argument { ARG_NONE, ARG_REQUIRED, ARG_OPTIONAL, ARG_MANY };

struct option_row {
	const char *name;
	enum argument argument;
	/* `value` is NULL where none was given. Returns 0 or an exit status. */
	int (*set)(struct run_options *o, const char *value);
	const char *value_name, *help;
};

#define STRING_OPTION(fn, field)                                                                                       \
	static int fn(struct run_options *o, const char *value)                                                        \
	{                                                                                                              \
		o->field = value;                                                                                      \
		return 0;                                                                                              \
	}
#define FLAG_OPTION(fn, field)                                                                                         \
	static int fn(struct run_options *o, const char *value)                                                        \
	{                                                                                                              \
		o->field = true;                                                                                       \
		return 0;                                                                                              \
	}

STRING_OPTION(set_kernel, machine.kernel)
STRING_OPTION(set_initrd, machine.initrd)
STRING_OPTION(set_append, machine.append)
STRING_OPTION(set_firmware, machine.firmware)
STRING_OPTION(set_firmware_vars, machine.firmware_vars)
STRING_OPTION(set_boot, machine.boot)
STRING_OPTION(set_engine, machine.engine)
STRING_OPTION(set_cpu_model, machine.cpu_model)
STRING_OPTION(set_gdb, gdb)
STRING_OPTION(set_trace_file, trace_path)
STRING_OPTION(set_symbols, symbols_path)
FLAG_OPTION(set_perf_map, machine.engine_options.perf_map)
FLAG_OPTION(set_count, machine.engine_options.count)
FLAG_OPTION(set_own_apics, machine.engine_options.own_apics)
FLAG_OPTION(set_debug_exit, machine.debug_exit)
FLAG_OPTION(set_test_device, machine.test_device)
FLAG_OPTION(set_no_reboot, machine.no_reboot)
FLAG_OPTION(set_no_control, no_control)
FLAG_OPTION(set_help, help)

static int set_name(struct run_options *o, const char *value)
{
	if (!ctl_name_ok(value))
		return usage_error("--name '%s' is not 1 to %d letters, digits, '.', '_', '-'", value, CTL_NAME_MAX);
	o->machine.name = value;
	return 0;
}

static int set_memory(struct run_options *o, const char *value)
{
	char text[64], *rest = text, *part;

	if (strlen(value) >= sizeof(text))
		goto bad;
	strcpy(text, value);
	if (parse_size(strsep(&rest, ","), &o->machine.memory))
		goto bad;
	while ((part = strsep(&rest, ","))) {
		if (strcmp(part, "mergeable=on") && strcmp(part, "mergeable=off"))
			goto bad;
		o->machine.memory_mergeable = part[11] == 'n';
	}
	return 0;
bad:
	return usage_error("--memory '%s' is not a size (512M, 2G, 3.5G)[,mergeable=on|off]", value);
}

static int set_cpus(struct run_options *o, const char *value)
{
	u64 n;

	if (parse_number(value, MACHINE_CPUS_MAX, &n) || !n)
		return usage_error("--cpus '%s' is not a number from 1 to %u", value, MACHINE_CPUS_MAX);
	o->machine.cpus = (unsigned)n;
	return 0;
}

static int set_clock(struct run_options *o, const char *value)
{
	if (!strcmp(value, "real"))
		o->machine.clock = MACHINE_CLOCK_REAL;
	else if (!strcmp(value, "virtual"))
		o->machine.clock = MACHINE_CLOCK_VIRTUAL;
	else
		return usage_error("--clock '%s' is neither real nor virtual", value);
	return 0;
}

static int set_serial(struct run_options *o, const char *value)
{
	if (o->serials == MACHINE_SERIALS)
		return usage_error("--serial is given more than %u times", MACHINE_SERIALS);
	return stream_parse_serial(&o->serial[o->serials++], value);
}

static int set_console(struct run_options *o, const char *value)
{
	struct stream_option *s = &o->console[o->consoles];

	if (o->consoles == VIRTIO_CONSOLE_PORTS_MAX)
		return usage_error("--console is given more than %u times", VIRTIO_CONSOLE_PORTS_MAX);
	if (stream_parse_console(s, value))
		return EXIT_USAGE;
	for (unsigned i = 0; i < o->consoles; i++)
		if (s->name[0] && !strcmp(s->name, o->console[i].name))
			return usage_error("--console: two ports are named %s", s->name);
	o->consoles++;
	return 0;
}

static int set_debugcon(struct run_options *o, const char *value)
{
	o->debugcon = true;
	if (!strcmp(value, "stdio"))
		return 0;
	if (strncmp(value, "file:", 5) || !value[5])
		return usage_error("--debugcon '%s' is neither stdio nor file:F", value);
	o->debugcon_path = value + 5;
	return 0;
}

static int set_stats(struct run_options *o, const char *value)
{
	o->stats = o->machine.engine_options.costs = true;
	if (!value)
		return 0;
	if (strncmp(value, "json:", 5) || !value[5])
		return usage_error("--stats '%s' is not json:F", value);
	o->stats_path = value + 5;
	return 0;
}

static int set_seed(struct run_options *o, const char *value)
{
	if (parse_number(value, UINT64_MAX, &o->machine.seed))
		return usage_error("--seed '%s' is not a number", value);
	return 0;
}

static int set_limit(struct run_options *o, const char *value)
{
	if (parse_number(value, INT64_MAX, &o->machine.insn_limit) || !o->machine.insn_limit)
		return usage_error("--insn-limit '%s' is not a number from 1", value);
	return 0;
}

static int set_jail(struct run_options *o, const char *value)
{
	if (strcmp(value, "on") && strcmp(value, "off"))
		return usage_error("--jail '%s' is neither on nor off", value);
	o->jail = !strcmp(value, "on");
	return 0;
}

static int set_pv(struct run_options *o, const char *value)
{
	return pv_option_parse(value, &o->machine.pv, &o->machine.no_pause);
}

static int set_net(struct run_options *o, const char *value)
{
	return net_options_parse(&o->nets, value);
}

/* "off", or SIZE and reporting=on|off with a comma between, each of them optional. */
static int set_balloon(struct run_options *o, const char *value)
{
	struct machine_config *m = &o->machine;
	char text[64], *rest = text, *part;

	if (!strcmp(value, "off")) {
		m->balloon = false;
		return 0;
	}
	if (!*value || strlen(value) >= sizeof(text))
		goto bad;
	strcpy(text, value);
	while ((part = strsep(&rest, ","))) {
		if (!strcmp(part, "reporting=on") || !strcmp(part, "reporting=off"))
			m->balloon_reporting = part[11] == 'n';
		else if (part != text || parse_size(part, &m->balloon_target))
			goto bad;
	}
	if (m->balloon_target % MiB)
		return usage_error("--balloon '%s': the size is no multiple of 1M", value);
	return 0;
bad:
	return usage_error("--balloon '%s' is neither off nor [SIZE][,reporting=on|off] (256M)", value);
}

static int add_share(struct run_options *o, const char *value)
{
	return share_option_parse(&o->shares, value);
}

static int add_vhost_user(struct run_options *o, const char *value)
{
	return vhost_user_option_parse(&o->shares, value);
}

static int set_vmgenid(struct run_options *o, const char *value)
{
	struct machine_config *m = &o->machine;

	m->vmgenid = strcmp(value, "off");
	m->generation = NULL;
	if (!m->vmgenid || !strcmp(value, "auto"))
		return 0;
	if (!guid_parse(value, o->generation))
		return usage_error("--vmgenid '%s' is neither auto, off nor a GUID "
				   "(00112233-4455-6677-8899-aabbccddeeff)",
				   value);
	m->generation = o->generation;
	return 0;
}

/* "cid=N,socket=PATH" */
static int set_vsock(struct run_options *o, const char *value)
{
	char text[sizeof(o->vsock)], *rest = text, *part;
	u64 cid = VSOCK_CID_MIN;

	if (strlen(value) >= sizeof(text))
		return usage_error("--vsock: the value is too long");
	strcpy(text, value);
	while ((part = strsep(&rest, ","))) {
		if (!strncmp(part, "cid=", 4)) {
			if (parse_number(part + 4, VSOCK_CID_MAX, &cid) || cid < VSOCK_CID_MIN)
				return usage_error("--vsock: '%s' is not a number from %u to %u", part, VSOCK_CID_MIN,
						   VSOCK_CID_MAX);
		} else if (!strncmp(part, "socket=", 7) && part[7]) {
			strcpy(o->vsock, part + 7);
		} else {
			return usage_error("--vsock '%s' is not [cid=N,]socket=PATH", value);
		}
	}
	if (!o->vsock[0])
		return usage_error("--vsock '%s' names no socket: [cid=N,]socket=PATH", value);
	o->machine.vsock_cid = (u32)cid;
	return 0;
}

static int set_trace(struct run_options *o, const char *value)
{
	return trace_options_parse(value, &o->machine.engine_options);
}

static int set_code_cache(struct run_options *o, const char *value)
{
	u64 *size = &o->machine.engine_options.code_cache;

	if (parse_size(value, size) || *size < CODE_CACHE_MIN || *size > CODE_CACHE_MAX)
		return usage_error("--code-cache '%s' is not a size from 4M to 1G", value);
	return 0;
}

static const struct option_row rows[] = {
	{ "kernel", ARG_REQUIRED, set_kernel, "F", "Linux bzImage, ELF with a PVH note, or multiboot 1" },
	{ "initrd", ARG_REQUIRED, set_initrd, "F", "initial RAM disk; for multiboot \"FILE ARGS,FILE ARGS\"" },
	{ "append", ARG_REQUIRED, set_append, "S", "kernel command line" },
	{ "firmware", ARG_REQUIRED, set_firmware, "F", "ROM image instead of a kernel; seabios or ovmf: Debian's" },
	{ "firmware-vars", ARG_REQUIRED, set_firmware_vars, "F", "keep ovmf's variables in F; else they end with it" },
	{ "disk", ARG_MANY, disk_option_add, "F[,...]", "disk image, raw or qcow2; a CD-ROM if F is *.iso; see below" },
	{ "cdrom", ARG_MANY, disk_option_add_cdrom, "F", "CD-ROM: an ISO 9660 or UDF image, readonly" },
	{ "boot", ARG_REQUIRED, set_boot, "WHAT", "firmware's order: disk, cdrom, ids of disks, with commas" },
	{ "memory", ARG_REQUIRED, set_memory, "SIZE", "RAM, with K, M or G; default 512M; ,mergeable=on: see below" },
	{ "cpus", ARG_REQUIRED, set_cpus, "N", "processors, 1 to 64; default 1" },
	{ "engine", ARG_REQUIRED, set_engine, "NAME", "auto (default), kvm, dbt or interp" },
	{ "cpu-model", ARG_REQUIRED, set_cpu_model, "NAME", "host (default), x86-64-v2, -v3, -v4, or kvm" },
	{ "own-apics", ARG_NONE, set_own_apics, NULL, "engine kvm: KVM does not get the local APICs" },
	{ "clock", ARG_REQUIRED, set_clock, "KIND", "real (default), or virtual: time by instructions" },
	{ "seed", ARG_REQUIRED, set_seed, "N", "random numbers of the virtual clock's machine" },
	{ "serial", ARG_MANY, set_serial, "WHERE",
	  "COM1, again: COM2 to 4: stdio (default), none, pty, file:F, unix:F" },
	{ "console", ARG_MANY, set_console, "WHERE", "virtio console: stdio, pty, file:F, unix:F; ,name=N: a port" },
	{ "debugcon", ARG_REQUIRED, set_debugcon, "WHERE", "firmware's log (port 402H): stdio or file:F" },
	{ "gdb", ARG_REQUIRED, set_gdb, "WHERE", "wait for gdb on PORT (of 127.0.0.1) or unix:F" },
	{ "debug-exit", ARG_NONE, set_debug_exit, NULL, "port F4H ends the machine with (value << 1) | 1" },
	{ "test-device", ARG_NONE, set_test_device, NULL, "the device public bare-metal test suites expect" },
	{ "no-reboot", ARG_NONE, set_no_reboot, NULL, "a reset or triple fault ends the machine" },
	{ "name", ARG_REQUIRED, set_name, "NAME", "name of the machine, for ectype ps and others; default vm-PID" },
	{ "no-control", ARG_NONE, set_no_control, NULL, "no control socket" },
	{ "stats", ARG_OPTIONAL, set_stats, "json:F", "figures at exit, to stderr or as JSON to F" },
	{ "insn-limit", ARG_REQUIRED, set_limit, "N", "stop after N instructions" },
	{ "count-instructions", ARG_NONE, set_count, NULL, "count them with the real clock too" },
	{ "code-cache", ARG_REQUIRED, set_code_cache, "SIZE", "room for translated code, 4M to 1G; default 64M" },
	{ "trace", ARG_REQUIRED, set_trace, "LIST", "print guest, analysis, host, exec, exits, smc, all, addr=LO-HI" },
	{ "trace-file", ARG_REQUIRED, set_trace_file, "F", "print the trace to F, not to stderr" },
	{ "perf-map", ARG_NONE, set_perf_map, NULL, "write /tmp/perf-PID.map for perf" },
	{ "guest-symbols", ARG_REQUIRED, set_symbols, "F", "names for both: System.map, kallsyms or ELF" },
	{ "net", ARG_MANY, set_net, "KIND", "network card: user, tap=NAME, none (default); see below" },
	{ "balloon", ARG_REQUIRED, set_balloon, "SIZE", "memory to take from the guest, or off; see below" },
	{ "share", ARG_MANY, add_share, "TAG=DIR", "host directory, by virtio-fs; ,ro: read-only" },
	{ "vhost-user", ARG_MANY, add_vhost_user, "K=SOCKET", "device of another process; K: blk or net" },
	{ "vmgenid", ARG_REQUIRED, set_vmgenid, "GUID", "VM Generation ID, or auto (default), or off" },
	{ "vsock", ARG_REQUIRED, set_vsock, "S", "sockets between guest and host: [cid=N,]socket=PATH; see below" },
	{ "pv", ARG_REQUIRED, set_pv, "on|off|LIST", "paravirtual interface, KVM's; default on; see below" },
	{ "jail", ARG_REQUIRED, set_jail, "on|off", "give up files, rights and system calls first; default on" },
	{ "help", ARG_NONE, set_help, NULL, "this" },
};

static const char help_tail[] =
    "\n--disk FILE[,format=raw|qcow2][,readonly][,snapshot][,cache=writeback|none|unsafe]\n"
    "       [,serial=S][,id=NAME][,queues=N][,bus=virtio|sata][,cdrom]; once for each disk.\n"
    "A comma in a name is written twice. snapshot: the file is only read, and what the guest\n"
    "writes is lost at the end.\n"
    "\n--memory SIZE,mergeable=on lets the host merge pages that are equal in several machines (KSM).\n"
    "\n--balloon off: no balloon device; --balloon [SIZE][,reporting=on|off]: SIZE of --memory goes\n"
    "back to the host while the guest can do without; reporting (default): so does what is free.\n"
    "\n--net user[,hostfwd=tcp|udp:[ADDR]:HPORT-[GADDR]:GPORT]...[,restrict][,hostname=H][,mac=M]\n"
    "--net tap=NAME[,queues=N][,mac=M]; once for each card.\n"
    "\n--vsock: a client of the host connects to PATH and writes \"CONNECT PORT\"; the guest's way to\n"
    "port P of CID 2 is the socket PATH_P.\n"
    "\n--pv: the parts, with commas between, are clock, io-delay, steal, eoi, unhalt, tlb-flush, ipi,\n"
    "poll, yield; on,no-PART leaves one out. no-pause: nor does a processor that loops over PAUSE\n"
    "step aside.\n"
    "\nOn the terminal, Ctrl-A x ends the machine, Ctrl-A e changes the engine, and Ctrl-A h helps.\n"
    "Exit status: 0 the guest powered off, (v << 1) | 1 it wrote v to the debug-exit port,\n"
    "1 the machine failed, 2 bad usage.\n";

void run_options_help(void)
{
	printf(
	    "usage: ectype run [OPTIONS] [DISK]\n"
	    "Runs a machine. Without --kernel and --firmware: vmlinuz and initramfs of the cache,\n"
	    "${ECTYPE_CACHE:-${XDG_CACHE_HOME:-~/.cache}/ectype}, which `make run` fills. A DISK or CD-ROM image alone is\n"
	    "booted by SeaBIOS: the same as --disk DISK --firmware seabios.\n\n");
	for (unsigned i = 0; i < ARRAY_SIZE(rows) && rows[i].help; i++) {
		char left[40];
		const char *v = rows[i].value_name;

		snprintf(left, sizeof(left), "--%s%s%s", rows[i].name,
			 rows[i].argument == ARG_OPTIONAL ? "[="
			 : v				  ? " "
							  : "",
			 v ? v : "");
		printf("  %s%-*s %s\n", left, (int)(20 - strlen(left)), rows[i].argument == ARG_OPTIONAL ? "]" : "",
		       rows[i].help);
	}
	printf("%s", help_tail);
}

static const struct option_row *find(const char *arg, size_t len)
{
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		if (strlen(rows[i].name) == len && !strncmp(rows[i].name, arg, len))
			return &rows[i];
	}
	return NULL;
}

/* Parses argv[*i] and moves *i past it. */
static int parse_one(struct run_options *o, int argc, char **argv, int *i, u64 *seen)
{
	const char *arg = argv[(*i)++], *value = NULL, *command = argv[0];

	if (!strcmp(arg, "-h"))
		arg = "--help";
	if (arg[0] != '-') {
		o->bare = true;
		return disk_option_add(o, arg);
	}
	if (strncmp(arg, "--", 2))
		return usage_error("%s: '%s' is not an option (see ectype %s --help)", command, arg, command);
	size_t len = strcspn(arg + 2, "=");
	const struct option_row *row = find(arg + 2, len);

	if (!row)
		return usage_error("%s: unknown option '%.*s' (see ectype %s --help)", command, (int)len + 2, arg,
				   command);
	if ((*seen & BIT(row - rows)) && row->argument != ARG_MANY)
		return usage_error("%s: --%s is given twice", command, row->name);
	*seen |= BIT(row - rows);
	if (arg[2 + len])
		value = arg + 2 + len + 1;
	if (value && row->argument == ARG_NONE)
		return usage_error("%s: --%s takes no value", command, row->name);
	if (!value && (row->argument == ARG_REQUIRED || row->argument == ARG_MANY)) {
		if (*i >= argc)
			return usage_error("%s: --%s needs a value", command, row->name);
		value = argv[(*i)++];
	}
	if (o->givens == RUN_OPTIONS_MAX)
		return usage_error("%s: more than %d options", command, RUN_OPTIONS_MAX);
	o->given[o->givens].name = row->name;
	o->given[o->givens++].value = value;
	return row->set(o, value);
}

/* ---- the machine of the cache ---- */

int cache_path(char *out, size_t size, const char *name)
{
	const char *cache = getenv("ECTYPE_CACHE"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	int n;

	if (cache && *cache)
		n = snprintf(out, size, "%s/%s", cache, name);
	else if (xdg && *xdg)
		n = snprintf(out, size, "%s/ectype/%s", xdg, name);
	else
		n = snprintf(out, size, "%s/.cache/ectype/%s", home ? home : "", name);
	if (n < 0 || (size_t)n >= size)
		return usage_error("the path of the cache is too long");
	return 0;
}

static int cache_file(char *out, size_t size, const char *name)
{
	if (cache_path(out, size, name))
		return EXIT_USAGE;
	if (access(out, R_OK))
		return usage_error("no kernel given and no %s: run `make run` once, or give --kernel", out);
	return 0;
}

static int use_cache(struct run_options *o)
{
	struct winsize w = { 0 };
	int ret = cache_file(o->kernel, sizeof(o->kernel), "vmlinuz");

	if (!ret && !o->machine.initrd)
		ret = cache_file(o->initrd, sizeof(o->initrd), "initramfs");
	if (ret)
		return ret;
	o->machine.kernel = o->kernel;
	if (!o->machine.initrd)
		o->machine.initrd = o->initrd;
	if (o->machine.append)
		return 0;
	/* A serial line does not tell the size of its terminal. */
	if (o->serial[0].kind == STREAM_STDIO && isatty(STDIN_FILENO) && !ioctl(STDIN_FILENO, TIOCGWINSZ, &w) &&
	    w.ws_row && w.ws_col)
		snprintf(o->append, sizeof(o->append), DEFAULT_APPEND " ectype.rows=%u ectype.cols=%u", w.ws_row,
			 w.ws_col);
	else
		snprintf(o->append, sizeof(o->append), DEFAULT_APPEND);
	o->machine.append = o->append;
	return 0;
}

/* COM1 is on the terminal if nothing else was said and no console is there. */
static int check_streams(struct run_options *o)
{
	unsigned stdio = 0;

	for (unsigned i = 0; i < o->consoles; i++)
		stdio += o->console[i].kind == STREAM_STDIO;
	if (!o->serials) {
		o->serial[0].kind = stdio ? STREAM_NONE : STREAM_STDIO;
		o->serials = 1;
	}
	for (unsigned i = 0; i < o->serials; i++)
		stdio += o->serial[i].kind == STREAM_STDIO;
	if (stdio > 1)
		return usage_error("only one of --serial and --console can be stdio");
	return 0;
}

static int check_together(struct run_options *o)
{
	struct machine_config *m = &o->machine;

	if (o->bare && !m->kernel && !m->firmware)
		m->firmware = "seabios";
	if (check_streams(o))
		return EXIT_USAGE;

	if (m->kernel && m->firmware)
		return usage_error("--kernel and --firmware exclude each other");
	if (o->debugcon && !o->debugcon_path && o->serial[0].kind != STREAM_STDIO)
		return usage_error("--debugcon stdio needs --serial stdio: give --debugcon file:F");
	if (o->trace_path && !m->engine_options.trace)
		return usage_error("--trace-file needs --trace");
	if (o->symbols_path && !m->engine_options.trace && !m->engine_options.perf_map)
		return usage_error("--guest-symbols needs --trace or --perf-map");
	if (m->boot && !m->firmware)
		return usage_error("--boot needs --firmware or a DISK without --kernel");
	if (m->firmware_vars && !m->firmware)
		return usage_error("--firmware-vars needs --firmware");
	if (m->firmware && (m->initrd || m->append))
		return usage_error("--initrd and --append need --kernel");
	if (!m->kernel && !m->firmware)
		return use_cache(o);
	return 0;
}

int run_options_parse(struct run_options *o, int argc, char **argv)
{
	u64 seen = 0;
	int i = 1, ret = 0;

	_Static_assert(ARRAY_SIZE(rows) <= 64, "`seen` has a bit for each option");
	o->jail = true;
	o->machine = (struct machine_config){
		.memory = DEFAULT_MEMORY,
		.cpus = 1,
		.engine = "auto",
		.cpu_model = "host",
		.pv = PV_ALL,
		.balloon = true,
		.balloon_reporting = true,
		.vmgenid = true,
	};
	while (i < argc && !ret)
		ret = parse_one(o, argc, argv, &i, &seen);
	if (ret || o->help)
		return ret;
	return check_together(o);
}

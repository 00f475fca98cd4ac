/*
 * `ectype lockstep`: runs two engines in step on one machine's configuration
 * and finds the first instruction after which they differ. Takes the options
 * of `ectype run` that describe a machine, and a few of its own.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/run_options.h"
#include "replay/lockstep.h"

#define DEFAULT_EVERY 1000000
#define DEFAULT_MEMORY (128 * MiB)
#define EXIT_UNFINISHED 3

struct command {
	struct run_options run;
	struct lockstep_config c;
	char engines[64];
	bool has_engines, has_every, has_limit, progress;
	/* given for the machine: what is to be refused or has another default here */
	bool has_memory, has_clock;

	FILE *console; /* NULL: none */
	struct machine *volatile machine[2];
	volatile bool stop;
	time_t last_progress;
};

static const char usage[] =
    "usage: ectype lockstep [OPTIONS] [OPTIONS OF ectype run]\n"
    "Runs two machines on the virtual clock, each with its own engine, and compares their\n"
    "state after every slice of instructions. Prints the first instruction that makes a\n"
    "difference.\n\n"
    "  --engines A,B        the two engines; default interp,dbt\n"
    "  --every N            instructions a slice; default 1000000\n"
    "  --limit N            stop after N instructions; default: when the guest ends\n"
    "  --alternate          the second machine has either engine in turn, a slice each\n"
    "  --round-trip         the second machine is saved after each slice, and a new one loaded\n"
    "  --progress           a line on stderr now and then\n"
    "  --help               this\n\n"
    "Of ectype run: all that describes the machine (--kernel, --firmware, --memory, --seed ...).\n"
    "The default memory is 128M. --serial is stdio (output only), none or file:F. --engine,\n"
    "--gdb, --stats, --insn-limit, traces and --perf-map are refused, and any clock but the\n"
    "virtual one.\n\n"
    "Exit status: 0 equal to the end or the limit, 1 a difference, 2 bad usage, 3 not finished\n"
    "(a signal, or the host failed).\n";

/* ---- options ---- */

static int set_engines(struct command *l, const char *value)
{
	char *comma;

	if (strlen(value) >= sizeof(l->engines))
		return usage_error("lockstep: --engines '%s' is not two names", value);
	strcpy(l->engines, value);
	comma = strchr(l->engines, ',');
	if (!comma || comma == l->engines || !comma[1] || strchr(comma + 1, ','))
		return usage_error("lockstep: --engines '%s' is not two names with a comma between", value);
	*comma = 0;
	l->c.engine[0] = l->engines;
	l->c.engine[1] = comma + 1;
	return 0;
}

static int set_count(const char *option, const char *value, u64 *out)
{
	if (parse_number(value, INT64_MAX / 2, out) || !*out)
		return usage_error("lockstep: %s '%s' is not a number from 1", option, value);
	return 0;
}

/* Is `arg` the option `name`, with or without "=value"? */
static bool is(const char *arg, const char *name)
{
	size_t n = strlen(name);

	return !strncmp(arg, name, n) && (!arg[n] || arg[n] == '=');
}

static int own_value(struct command *l, const char *name, const char *value)
{
	bool *seen = is(name, "--engines") ? &l->has_engines : is(name, "--every") ? &l->has_every : &l->has_limit;

	if (*seen)
		return usage_error("lockstep: %s is given twice", name);
	*seen = true;
	if (seen == &l->has_engines)
		return set_engines(l, value);
	return set_count(name, value, seen == &l->has_every ? &l->c.every : &l->c.limit);
}

/* Takes argv[*i] if it is one of this command's own; *own says so. */
static int take_own(struct command *l, int argc, char **argv, int *i, bool *own)
{
	static const char *const valued[] = { "--engines", "--every", "--limit" };
	static const char *const refused[] = { "--engine",   "--gdb",	       "--stats",    "--insn-limit",
					       "--trace",    "--trace-file",   "--perf-map", "--guest-symbols",
					       "--debugcon", "--firmware-vars" };
	const char *arg = argv[*i];

	*own = true;
	for (unsigned k = 0; k < ARRAY_SIZE(refused); k++) {
		if (is(arg, refused[k]))
			return usage_error("lockstep: %s does not go with lockstep", refused[k]);
	}
	for (unsigned k = 0; k < ARRAY_SIZE(valued); k++) {
		if (!is(arg, valued[k]))
			continue;
		if (arg[strlen(valued[k])] == '=')
			return own_value(l, valued[k], arg + strlen(valued[k]) + 1);
		if (++*i >= argc)
			return usage_error("lockstep: %s needs a value", valued[k]);
		return own_value(l, valued[k], argv[*i]);
	}
	if (!strcmp(arg, "--alternate")) {
		l->c.alternate = true;
		return 0;
	}
	if (!strcmp(arg, "--round-trip")) {
		l->c.round_trip = true;
		return 0;
	}
	if (!strcmp(arg, "--progress")) {
		l->progress = true;
		return 0;
	}
	*own = false;
	l->has_memory |= is(arg, "--memory");
	l->has_clock |= is(arg, "--clock");
	return 0;
}

static int check_machine(struct command *l)
{
	if (l->has_clock && l->run.machine.clock != MACHINE_CLOCK_VIRTUAL)
		return usage_error("lockstep: only the virtual clock makes two runs equal");
	if (l->run.shares.count)
		return usage_error("lockstep: two machines cannot have one --share or --vhost-user");
	if (l->run.serials > 1 || l->run.consoles)
		return usage_error("lockstep: one serial port is all there is here, and no --console");
	if (l->run.serial[0].kind == STREAM_UNIX || l->run.serial[0].kind == STREAM_PTY)
		return usage_error("lockstep: --serial is stdio, none or file:F here: nothing is read from it");
	for (unsigned i = 0; i < l->run.machine.disks; i++)
		if (!l->run.machine.disk[i].image.readonly && !l->run.machine.disk[i].image.snapshot)
			return usage_error("lockstep: two machines cannot write one disk: give --disk %s,snapshot",
					   l->run.machine.disk[i].image.path);
	for (unsigned i = 0; i < l->run.machine.disks && l->c.round_trip; i++)
		if (!l->run.machine.disk[i].image.readonly)
			return usage_error("lockstep: --round-trip forgets what a machine wrote to a disk: give "
					   "--disk %s,readonly",
					   l->run.machine.disk[i].image.path);
	if (l->run.vsock[0])
		return usage_error("lockstep: --vsock does not come to two runs alike");
	if (l->run.nets.count)
		return usage_error("lockstep: a network does not come to two runs alike: --net none");
	l->run.machine.clock = MACHINE_CLOCK_VIRTUAL;
	if (!l->has_memory)
		l->run.machine.memory = DEFAULT_MEMORY;
	return 0;
}

static int parse(struct command *l, int argc, char **argv)
{
	char **rest = calloc((size_t)argc + 1, sizeof(*rest));
	int n = 1, ret = 0;

	if (!rest)
		return EXIT_UNFINISHED;
	rest[0] = argv[0];
	for (int i = 1; i < argc && !ret; i++) {
		bool own;

		ret = take_own(l, argc, argv, &i, &own);
		if (!own)
			rest[n++] = argv[i];
	}
	if (!ret)
		ret = run_options_parse(&l->run, n, rest);
	free(rest);
	if (ret || l->run.help)
		return ret;
	return check_machine(l);
}

/* ---- callbacks ---- */

static void on_console(void *opaque, const u8 *bytes, size_t n)
{
	struct command *l = opaque;

	if (l->console) {
		fwrite(bytes, 1, n, l->console);
		fflush(l->console);
	}
}

static void on_machine(void *opaque, unsigned which, struct machine *m)
{
	((struct command *)opaque)->machine[which] = m;
}

/* Signal handler. */
static void on_stop(void *opaque)
{
	struct command *l = opaque;

	l->stop = true;
	for (unsigned i = 0; i < 2; i++) {
		if (l->machine[i])
			machine_stop(l->machine[i]);
	}
}

static bool on_stopping(void *opaque)
{
	return ((struct command *)opaque)->stop;
}

/* Now and then is by the host's clock: for people, no part of the run. */
static void on_progress(void *opaque, const char *phase, u64 icount)
{
	struct command *l = opaque;
	time_t now = time(NULL);

	if (!l->progress || now < l->last_progress + 2)
		return;
	l->last_progress = now;
	fprintf(stderr, "ectype: lockstep: %s, %lu instructions\n", phase, icount);
}

static void on_line(void *opaque, const char *text)
{
	printf("%s\n", text);
}

/* ---- the command ---- */

static int report(const struct command *l, const struct lockstep_result *r)
{
	switch (r->end) {
	case LOCKSTEP_EQUAL:
		printf("%s and %s are equal: %lu instructions, %lu slices, memory compared %lu times; %s",
		       l->c.engine[0], l->c.engine[1], r->instructions, r->slices, r->ram_compares, r->guest.text);
		if (r->guest.end == MACHINE_END_DEBUG_EXIT)
			printf(" with status %d", r->guest.exit_code);
		printf("\n");
		return EXIT_OK;
	case LOCKSTEP_DIVERGED:
		return EXIT_FAILED;
	case LOCKSTEP_STOPPED:
		fprintf(stderr, "ectype: lockstep: stopped after %lu equal instructions\n", r->instructions);
		return EXIT_UNFINISHED;
	case LOCKSTEP_FAILED:
		break;
	}
	fprintf(stderr, "ectype: lockstep: %s\n", r->text);
	return EXIT_UNFINISHED;
}

static int open_console(struct command *l)
{
	if (l->run.serial[0].kind == STREAM_STDIO)
		l->console = stdout;
	if (l->run.serial[0].kind != STREAM_FILE)
		return 0;
	l->console = fopen(l->run.serial[0].path, "w");
	return l->console ? 0 : usage_error("--serial: cannot create %s", l->run.serial[0].path);
}

static int run(struct command *l)
{
	struct lockstep_result r;
	struct error e;
	int status;

	if (lockstep_check(&l->c, &e))
		return usage_error("%s", e.text);
	status = open_console(l);
	if (status)
		return status;
	signals_install(on_stop, l);
	lockstep_run(&l->c, &r);
	signals_remove();
	status = report(l, &r);
	if (l->console && l->console != stdout && fclose(l->console))
		status = status ? status : EXIT_UNFINISHED;
	return fflush(stdout) && !status ? EXIT_UNFINISHED : status;
}

int cmd_lockstep(int argc, char **argv)
{
	struct command *l = calloc(1, sizeof(*l));
	int status;

	if (!l)
		return EXIT_UNFINISHED;
	l->c = (struct lockstep_config){
		.machine = &l->run.machine,
		.engine = { "interp", "dbt" },
		.every = DEFAULT_EVERY,
		.console = on_console,
		.machine_changed = on_machine,
		.stopping = on_stopping,
		.progress = on_progress,
		.line = on_line,
		.opaque = l,
	};
	status = parse(l, argc, argv);
	l->c.serial = l->run.serial[0].kind != STREAM_NONE;
	if (!status && l->run.help) {
		fputs(usage, stdout);
		status = fflush(stdout) ? EXIT_UNFINISHED : EXIT_OK;
	} else if (!status) {
		status = run(l);
	}
	free(l);
	return status;
}

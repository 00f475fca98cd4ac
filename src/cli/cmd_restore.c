/*
 * `ectype restore`: a machine goes on from a snapshot. It is built from its
 * options as by `ectype run`; then everything is checked, then loaded.
 *
 * The snapshot stays what it is: RAM is mapped copy-on-write, and disks that
 * the guest can write to get overlays.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/block/image.h"
#include "base/host_time.h"
#include "cli/cli.h"
#include "cli/run.h"
#include "cli/snapshot.h"
#include "machine/state.h"

struct restore {
	const char *dir, *overlays; /* NULL: in `dir` */
	bool eager, in_place, verbose;
	char **own; /* options of ectype run that were given */
	unsigned owns;
	char **argv; /* for run_options_parse() */
	struct snapshot_reader r;
	bool opened;
	struct machine_saved saved;
	char overlay[MACHINE_DISKS_MAX][PATH_MAX];
	unsigned made; /* overlays */
	u64 start;
};

/* ---- disks ---- */

static const struct snapshot_disk *find_disk(const struct restore *x, const char *id)
{
	for (unsigned i = 0; i < x->r.disks.count; i++)
		if (!strcmp(x->r.disks.disk[i].id, id))
			return &x->r.disks.disk[i];
	return NULL;
}

/* Where the disk's file is, and that it is what it was. */
static int check_disk(const struct restore *x, const struct snapshot_disk *d, char path[PATH_MAX], struct error *e)
{
	u64 size, written;

	if (snprintf(path, PATH_MAX, "%s%s%s", snapshot_disk_own(d) ? x->r.path : "", snapshot_disk_own(d) ? "/" : "",
		     d->path) >= PATH_MAX)
		return error_set(e, "the name of disk '%s' is too long", d->id);
	if (snapshot_file_identity(path, &size, &written))
		return error_errno(e, errno, "disk '%s' of the snapshot, %s", d->id, path);
	if (size != d->size || (d->written && written != d->written))
		return error_set(e,
				 "disk '%s', %s, was changed since the snapshot: the two do not go together any more",
				 d->id, path);
	return 0;
}

static int make_overlay(struct restore *x, const char *name, const struct snapshot_disk *d, const char *base,
			struct error *e)
{
	char *path = x->overlay[x->made];
	const struct qcow2_create_config c = {
		.path = path,
		.backing_file = base,
		.backing_format = d->format == BLOCK_FORMAT_QCOW2 ? "qcow2" : "raw",
	};

	if (snprintf(path, PATH_MAX, "%s/%s-%s.qcow2", x->overlays ? x->overlays : x->r.path, d->id, name) >= PATH_MAX)
		return error_set(e, "the name of an overlay for disk '%s' is too long", d->id);
	if (!access(path, F_OK))
		return error_set(e, "%s is there already: give another --name", path);
	if (qcow2_create(&c, e))
		return -1;
	x->made++;
	return 0;
}

static int attach_disk(struct restore *x, const char *name, struct machine_disk *to, struct error *e)
{
	const struct snapshot_disk *d = find_disk(x, to->id);
	char base[PATH_MAX];

	if (!d || d->writable == to->image.readonly)
		return error_set(e, "disk '%s' is not in the snapshot's list of disks", to->id);
	if (check_disk(x, d, base, e))
		return -1;
	if (!d->writable)
		return 0;
	if (x->in_place && snapshot_disk_own(d))
		return error_set(e, "--in-place: disk '%s' is the snapshot's own copy, which stays as it is", d->id);
	if (x->in_place)
		return 0;
	if (make_overlay(x, name, d, base, e))
		return -1;
	to->image.path = x->overlay[x->made - 1];
	to->image.format = BLOCK_FORMAT_QCOW2;
	return 0;
}

static int attach_disks(struct restore *x, struct run_options *o, struct error *e)
{
	char name[32];

	snprintf(name, sizeof(name), "vm-%d", (int)getpid());
	for (unsigned i = 0; i < o->machine.disks; i++)
		if (attach_disk(x, o->machine.name ? o->machine.name : name, &o->machine.disk[i], e))
			return -1;
	return 0;
}

/* ---- the plan ---- */

static void close_all(struct restore *x)
{
	if (x->opened)
		snapshot_reader_close(&x->r);
	x->opened = false;
}

static void failed(void *opaque)
{
	struct restore *x = opaque;

	for (unsigned i = 0; i < x->made; i++)
		unlink(x->overlay[i]);
	close_all(x);
}

static void ready(void *opaque)
{
	struct restore *x = opaque;

	if (x->verbose)
		fprintf(stderr, "ectype: restored in %.1f ms\n", (double)(host_ns() - x->start) / 1e6);
	close_all(x);
}

static int parse(struct restore *x, struct run_options *o)
{
	struct saved_options *s = &x->r.options;
	static char self[] = "restore";
	int n = 1;

	for (unsigned i = 0; i < x->owns; i++)
		if (saved_options_replace(s, x->own[i]))
			return EXIT_USAGE;
	x->argv = calloc(s->count + x->owns + 2, sizeof(*x->argv));
	if (!x->argv)
		return EXIT_FAILED;
	x->argv[0] = self;
	for (unsigned i = 0; i < s->count; i++)
		x->argv[n++] = s->option[i];
	for (unsigned i = 0; i < x->owns; i++)
		x->argv[n++] = x->own[i];
	/* the strings are the options' as long as the machine runs */
	free(s->option);
	s->option = NULL;
	s->count = 0;
	return run_options_parse(o, n, x->argv);
}

static int options(void *opaque, struct run_options *o)
{
	struct restore *x = opaque;
	struct error e;
	int status;

	if (snapshot_reader_open(&x->r, x->dir, &e))
		return usage_error("restore: %s", e.text);
	x->opened = true;
	status = parse(x, o);
	if (!status && x->r.ram_size != o->machine.memory)
		status = usage_error("restore: %s: its RAM is not of the size that its options say", x->r.path);
	if (!status && ((x->eager && snapshot_check_ram(&x->r, &e)) || attach_disks(x, o, &e)))
		status = usage_error("restore: %s", e.text);
	x->saved = (struct machine_saved){
		.stream = &x->r.stream, .ram_fd = x->r.ram_fd, .eager = x->eager, .same = x->in_place
	};
	o->machine.saved = &x->saved;
	if (status)
		failed(x);
	return status;
}

/* ---- the command ---- */

static int help(void)
{
	printf("usage: ectype restore DIR [OPTIONS]\n"
	       "A machine goes on from the snapshot DIR, which ectype snapshot made and which stays as it is.\n\n"
	       "  --eager              check and read all of RAM first, not when it is touched\n"
	       "  --overlays DIR2      what the guest writes to disks goes to qcow2 overlays there,\n"
	       "                       DISK-NAME.qcow2; default: in DIR\n"
	       "  --in-place           of a snapshot made with --stop: it goes on with the disks themselves,\n"
	       "                       and then the snapshot is good no more\n"
	       "  --verbose            say how long it took\n\n"
	       "Of ectype run: --name, --engine, --serial, --console, --debugcon, --net,\n"
	       "--vsock, --no-reboot in place of what the machine had; --stats, --gdb, --insn-limit, --jail,\n"
	       "--no-control, --code-cache, --trace, --trace-file, --perf-map, --guest-symbols,\n"
	       "--count-instructions. All else is what it was.\n\n"
	       "Exit status: as of ectype run; 2 also: no snapshot, a damaged one, or it does not go with its\n"
	       "disks, its kernel or this host.\n");
	return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
}

/* An option of ectype run: "--name value" becomes "--name=value". */
static int take_run_option(struct restore *x, int argc, char **argv, int *i)
{
	static const char *const flags[] = { "--no-reboot", "--no-control", "--perf-map", "--count-instructions",
					     "--stats" };
	char *arg = argv[*i];
	bool whole = strchr(arg, '=');

	for (unsigned k = 0; k < ARRAY_SIZE(flags); k++)
		whole |= !strcmp(arg, flags[k]);
	if (!whole && *i + 1 == argc)
		return usage_error("restore: %s needs a value", arg);
	if (!whole && asprintf(&arg, "%s=%s", arg, argv[++*i]) < 0)
		return EXIT_FAILED;
	x->own[x->owns++] = arg;
	return 0;
}

/* Takes argv[*i] if it is one of this command's own; 0, or an exit status after a message. */
static int take_argument(struct restore *x, int argc, char **argv, int *i)
{
	char *arg = argv[*i];

	if (!strcmp(arg, "--eager")) {
		x->eager = true;
	} else if (!strcmp(arg, "--in-place")) {
		x->in_place = true;
	} else if (!strcmp(arg, "--verbose")) {
		x->verbose = true;
	} else if (!strncmp(arg, "--overlays=", 11)) {
		x->overlays = arg + 11;
	} else if (!strcmp(arg, "--overlays") && *i + 1 < argc) {
		x->overlays = argv[++*i];
	} else if (!strncmp(arg, "--", 2)) {
		return take_run_option(x, argc, argv, i);
	} else if (x->dir) {
		return usage_error("restore: no argument '%s' (see ectype restore --help)", arg);
	} else {
		x->dir = arg;
	}
	return 0;
}

int cmd_restore(int argc, char **argv)
{
	struct restore *x = calloc(1, sizeof(*x));
	const struct run_plan plan = { .options = options, .failed = failed, .ready = ready, .opaque = x };
	int status = EXIT_OK;

	if (!x || !(x->own = calloc((size_t)argc + 1, sizeof(*x->own)))) {
		free(x);
		return EXIT_FAILED;
	}
	x->start = host_ns();
	for (int i = 1; i < argc && !status; i++) {
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			status = help();
			goto out;
		}
		status = take_argument(x, argc, argv, &i);
	}
	if (!status && !x->dir)
		status = usage_error("restore: which snapshot? (see ectype restore --help)");
	if (!status)
		status = run_machine(&plan);
out:
	free(x->argv);
	free(x->own);
	free(x);
	return status;
}

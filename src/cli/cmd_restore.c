/*
 * `ectype restore`: a machine goes on from a snapshot. It is built from its
 * options as by `ectype run`; then everything is checked, then loaded.
 *
 * The snapshot stays what it is: RAM is mapped copy-on-write, and disks that
 * the guest can write to get overlays.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
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
	bool keep_time;
	bool copy, same_mac; /* one of several that go on */
	int ready_fd;	     /* -1: none */
	struct given_options own;
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
	if (x->ready_fd >= 0)
		close(x->ready_fd);
	x->ready_fd = -1;
}

static void failed(void *opaque)
{
	struct restore *x = opaque;

	for (unsigned i = 0; i < x->made; i++)
		unlink(x->overlay[i]);
	close_all(x);
}

static int ready(void *opaque, struct machine *m)
{
	struct restore *x = opaque;

	if (x->verbose)
		fprintf(stderr, "ectype: restored in %.1f ms\n", (double)(host_ns() - x->start) / 1e6);
	if (x->ready_fd >= 0 && write(x->ready_fd, "\n", 1) != 1)
		errno = 0; /* nobody waits for it any more */
	close_all(x);
	return EXIT_OK;
}

static int parse(struct restore *x, struct run_options *o)
{
	struct saved_options *s = &x->r.options;

	if (given_options_replace(&x->own, s, "restore"))
		return EXIT_USAGE;
	if (x->copy)
		saved_options_drop(s, "--firmware-vars");
	for (unsigned i = 0; i < s->count && x->copy && !x->same_mac; i++)
		if (!strncmp(s->option[i], "--net=", 6))
			net_options_drop_mac(s->option[i]);
	return given_options_parse(&x->own, s, "restore", o);
}

/* A copy's own addresses, which are options of its own snapshots. With the virtual clock copies are alike to the bit.
 */
static int own_macs(struct run_options *o)
{
	unsigned card = 0;
	struct error e;

	if (o->machine.clock == MACHINE_CLOCK_VIRTUAL)
		return 0;
	if (net_options_own_macs(&o->nets, &e))
		return usage_error("restore: %s", e.text);
	for (unsigned i = 0; i < o->givens && card < o->nets.count; i++) {
		const u8 *m = o->nets.net[card].mac;
		const char *value = o->given[i].value;
		char *text;

		if (strcmp(o->given[i].name, "net"))
			continue;
		card++;
		if (strstr(value, ",mac="))
			continue;
		if (asprintf(&text, "%s,mac=%02x:%02x:%02x:%02x:%02x:%02x", value, m[0], m[1], m[2], m[3], m[4], m[5]) <
		    0)
			return EXIT_FAILED;
		o->given[i].value = text; /* as long as the machine runs */
	}
	return 0;
}

static int options(void *opaque, struct run_options *o)
{
	struct restore *x = opaque;
	struct error e;
	int status;

	/* the jail closes what was inherited */
	if (x->ready_fd >= 0)
		x->ready_fd = fcntl(x->ready_fd, F_DUPFD_CLOEXEC, 3);
	if (snapshot_reader_open(&x->r, x->dir, &e))
		return usage_error("restore: %s", e.text);
	x->opened = true;
	status = parse(x, o);
	if (!status && x->copy && !x->same_mac)
		status = own_macs(o);
	if (!status && x->r.ram_size != o->machine.memory)
		status = usage_error("restore: %s: its RAM is not of the size that its options say", x->r.path);
	if (!status && (snapshot_files_check(&x->r.state.stream, &e) || attach_disks(x, o, &e)))
		status = usage_error("restore: %s", e.text);
	x->saved = snapshot_saved(&x->r, x->eager);
	x->saved.same = x->in_place;
	x->saved.keep_time = x->keep_time;
	o->machine.saved = &x->saved;
	o->machine.may_rest = true; /* there may be many copies */
	if (status)
		failed(x);
	return status;
}

/* ---- the command ---- */

static int help(void)
{
	printf("usage: ectype restore DIR [OPTIONS]\n"
	       "A machine goes on from the snapshot DIR, which ectype snapshot made and which stays as it is.\n\n"
	       "  --eager              check and read all of RAM first, not when it is touched; RAM that is\n"
	       "                       compressed is always read first\n"
	       "  --overlays DIR2      what the guest writes to disks goes to qcow2 overlays there,\n"
	       "                       DISK-NAME.qcow2; default: in DIR\n"
	       "  --in-place           of a snapshot made with --stop: it goes on with the disks themselves,\n"
	       "                       and then the snapshot is good no more\n"
	       "  --time=now|saved     guest time goes on as if the guest had stood still since (now, the default, so\n"
	       "                       that its clock is right), or where it stopped\n"
	       "  --copy[=same-mac]    it is one of several: network cards get addresses of their own, the\n"
	       "                       firmware's variables are kept in memory; as ectype clone starts them\n"
	       "  --ready-fd N         write a line to descriptor N when its first instruction comes\n"
	       "  --verbose            say how long it took\n");
	given_options_help();
	printf("Exit status: as of ectype run; 2 also: no snapshot, a damaged one, or it does not go with its\n"
	       "disks, its kernel or this host.\n");
	return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
}

/* Takes argv[*i] if it is one of this command's own; 0, or an exit status after a message. */
static int take_argument(struct restore *x, int argc, char **argv, int *i)
{
	char *arg = argv[*i];
	u64 fd;

	if (!strcmp(arg, "--eager")) {
		x->eager = true;
	} else if (!strcmp(arg, "--in-place")) {
		x->in_place = true;
	} else if (!strcmp(arg, "--verbose")) {
		x->verbose = true;
	} else if (!strcmp(arg, "--time=now") || !strcmp(arg, "--time=saved")) {
		x->keep_time = arg[7] == 's';
	} else if (!strncmp(arg, "--time", 6) && (!arg[6] || arg[6] == '=')) {
		return usage_error("restore: %s is neither --time=now nor --time=saved", arg);
	} else if (!strcmp(arg, "--copy") || !strcmp(arg, "--copy=same-mac")) {
		x->copy = true;
		x->same_mac = arg[6];
	} else if (!strncmp(arg, "--ready-fd=", 11)) {
		if (parse_number(arg + 11, INT_MAX, &fd) || fcntl((int)fd, F_GETFD) < 0)
			return usage_error("restore: --ready-fd '%s' is no open descriptor", arg + 11);
		x->ready_fd = (int)fd;
	} else if (!strncmp(arg, "--overlays=", 11)) {
		x->overlays = arg + 11;
	} else if (!strcmp(arg, "--overlays") && *i + 1 < argc) {
		x->overlays = argv[++*i];
	} else if (!strncmp(arg, "--", 2)) {
		return given_options_take(&x->own, "restore", argc, argv, i);
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

	if (!x || !(x->own.option = calloc((size_t)argc + 1, sizeof(*x->own.option)))) {
		free(x);
		return EXIT_FAILED;
	}
	x->start = host_ns();
	x->ready_fd = -1;
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
	free(x->own.argv);
	free(x->own.option);
	free(x);
	return status;
}

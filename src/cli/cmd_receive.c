/*
 * `ectype receive`: waits for one machine from another monitor, and becomes it.
 * What is offered is checked before any of its memory comes; the machine is
 * built when all is here, checked and loaded as by `ectype restore`, and stands
 * still until the source says that it runs there no more (ctl/arrival.h).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/listen.h"
#include "base/host_time.h"
#include "cli/cli.h"
#include "cli/disk_places.h"
#include "cli/doorkeeper.h"
#include "cli/file_keeper.h"
#include "cli/migrate_target.h"
#include "cli/receive.h"
#include "cli/run.h"
#include "ctl/arrival.h"
#include "machine/state.h"
#include "mem/missing.h"
#include "mem/physmem.h"

struct receive {
	struct migrate_target at;
	bool verbose;
	struct given_options own;
	struct disk_places places;
	int listen_fd; /* the arrival's, when there is one */
	struct companion door;
	struct companion keeper;	     /* of copies of disks; pid 0: none */
	const char *copy[MACHINE_DISKS_MAX]; /* where they are */
	struct receiver r;
	struct machine_saved saved;
	struct arrival *arrival;
	bool arrived; /* `arrival` has the channel */
};

/* ---- the plan ---- */

static int meet(struct receive *x)
{
	struct error e;

	for (;;) {
		int fd = listen_next(x->listen_fd, 1000);

		if (fd < 0)
			continue;
		if (!receiver_meet(&x->r, fd, &e))
			return 0;
		fprintf(stderr, "ectype: receive: %s; waiting for another\n", e.text);
	}
}

static int parse(struct receive *x, struct run_options *o)
{
	struct error e;
	int status = given_options_replace(&x->own, &x->r.options, "receive");

	if (!status)
		status = given_options_parse(&x->own, &x->r.options, "receive", o);
	if (!status && disk_places_apply(&x->places, &o->machine, &e))
		status = usage_error("receive: %s", e.text);
	return status;
}

/* ---- copies of disks ---- */

static int place_copy(struct receive *x, unsigned n, struct machine_disk *disk, struct error *e)
{
	struct received_disks *d = &x->r.disks;
	const char *path = disk_places_of(&x->places, disk->id);

	if (n >= d->count || strcmp(d->id[n], disk->id))
		return error_set(e, "the offer of the source is not sound: its disks are not the machine's");
	if (!path)
		return error_set(e, "disk '%s' is copied: --disk %s=PATH of ectype receive says where to", disk->id,
				 disk->id);
	disk->image.format = BLOCK_FORMAT_RAW;
	x->copy[n] = path;
	return 0;
}

/* Without files there are none. end_copies() drops them. */
static int place_copies(struct receive *x, struct run_options *o, struct error *e)
{
	struct received_disks *d = &x->r.disks;
	struct error why;
	unsigned n = 0;

	for (unsigned i = 0; d->count && i < o->machine.disks; i++)
		if (!o->machine.disk[i].image.readonly && place_copy(x, n++, &o->machine.disk[i], e))
			return -1;
	if (n != d->count)
		return error_set(e, "the offer of the source is not sound: its disks are not the machine's");
	if (n && file_keeper_start(&x->keeper, x->copy, n, e))
		return -1;
	for (unsigned i = 0; i < n; i++) {
		int fd = file_keeper_make(&x->keeper, i, &why);

		if (fd < 0)
			return error_set(e, "cannot make %s for the copy of disk '%s': %.200s", x->copy[i], d->id[i],
					 why.text);
		if (received_disks_place(d, i, fd, x->copy[i], e))
			return -1;
	}
	return 0;
}

static int open_copies(struct receive *x, struct error *e)
{
	for (unsigned i = 0; i < x->r.disks.count; i++)
		if (received_disks_open(&x->r.disks, i, x->copy[i], e))
			return -1;
	return 0;
}

/* They are gone, unless the machine was told to run. */
static void end_copies(struct receive *x)
{
	if (x->keeper.pid)
		companion_finish(&x->keeper);
}

/* Everything that can be wrong and is known before RAM has come. */
static int check(struct receive *x, struct run_options *o, struct error *e)
{
	struct machine_config probe;
	int ret;

	if (x->r.ram_size != o->machine.memory)
		return error_set(e, "the memory that is offered is not of the size that the machine's options say");
	x->saved = (struct machine_saved){ .stream = &x->r.offer, .ram_fd = -1, .unlocked = true, .same = true };
	x->saved.own_disks = x->r.disks.count;
	o->machine.saved = &x->saved;
	if (machine_check(&o->machine, e))
		return -1;
	/* forwards of host ports, above all */
	probe = o->machine;
	ret = net_options_create(&o->nets, &probe, e);
	net_options_destroy(&probe);
	return ret;
}

/* The memory it came to becomes the machine's; what is missing of it comes later. */
static int adopt(const void *opaque, struct memory *m, struct error *e)
{
	struct receive *x = (struct receive *)(uintptr_t)opaque;
	int fd = x->r.missing_fd;

	if (memory_adopt(m, x->r.ram, e))
		return -1;
	x->r.ram = NULL;
	if (!x->r.missing)
		return 0;
	x->r.missing_fd = -1;
	return arrival_expect(x->arrival, m, fd, x->r.missing, e);
}

/* The machine can run before all of its memory is there; else *e says why not. */
static int check_post_copy(struct receive *x, const struct run_options *o, struct error *e)
{
	struct error why;

	if (!machine_memory_can_miss(&o->machine, &why))
		x->r.missing_fd = missing_open(&why);
	return x->r.missing_fd < 0 && x->r.post_copy ? error_set(e, "post-copy: %.400s", why.text) : 0;
}

static int take(struct receive *x, struct run_options *o)
{
	struct error e;
	int status = parse(x, o);

	if (status) {
		receiver_refuse(&x->r, usage_error_last());
		return status;
	}
	if (place_copies(x, o, &e) || check(x, o, &e) || open_copies(x, &e) || check_post_copy(x, o, &e)) {
		receiver_refuse(&x->r, e.text);
		return usage_error("receive: %s", e.text);
	}
	if (receiver_accept(&x->r, &e) || receiver_take_all(&x->r, &e)) {
		usage_error("receive: %s: the machine did not arrive", e.text);
		return EXIT_FAILED;
	}
	x->saved.stream = &x->r.state;
	x->saved.load_ram = adopt;
	x->saved.ram = x;
	x->arrival = arrival_create(&x->r.c, x->listen_fd, x->r.id);
	if (!x->arrival)
		return EXIT_FAILED;
	if (x->keeper.pid)
		arrival_keeper(x->arrival, x->keeper.fd);
	x->listen_fd = -1;
	x->r.fd = -1;
	return EXIT_OK;
}

static int listen_at(struct receive *x, struct error *e)
{
	u16 port = 0;

	if (!tls_wanted(&x->at.tls))
		x->listen_fd = migrate_listen(&x->at, &port, e);
	else if (!doorkeeper_start(&x->door, &x->at, LINK_PLAIN, &port, e))
		x->listen_fd = x->door.fd; /* it ends with the last descriptor */
	if (x->listen_fd >= 0 && !strcmp(x->at.port, "0"))
		fprintf(stderr, "ectype: receive: at port %u\n", port);
	return x->listen_fd < 0 ? -1 : 0;
}

static int options(void *opaque, struct run_options *o)
{
	struct receive *x = opaque;
	struct error e;
	int status;

	if (listen_at(x, &e))
		return usage_error("receive: %s", e.text);
	meet(x);
	status = take(x, o);
	if (status)
		migrate_unlink(&x->at);
	return status;
}

static struct arrival *arrival(void *opaque)
{
	return ((struct receive *)opaque)->arrival;
}

static void failed(void *opaque)
{
	struct receive *x = opaque;

	arrival_refuse(x->arrival, usage_error_last());
	migrate_unlink(&x->at);
}

static int ready(void *opaque, struct machine *m)
{
	struct receive *x = opaque;
	struct error e;

	if (x->verbose)
		fprintf(stderr, "ectype: received %.1f MiB in %.2f s\n", (double)x->r.received / (double)MiB,
			(double)(host_ns() - x->r.start) / 1e9);
	receiver_free(&x->r);
	if (!arrival_begin(x->arrival, m, &e))
		return EXIT_OK;
	usage_error("receive: %s", e.text);
	return EXIT_FAILED;
}

static int ended(void *opaque, int status)
{
	struct receive *x = opaque;
	enum arrival_phase phase = arrival_phase(x->arrival);

	arrival_stop(x->arrival);
	if (phase == ARRIVAL_STARTED)
		return status;
	usage_error("receive: %s", phase == ARRIVAL_DISCARDED ? "the source goes on with the machine"
							      : "ended before the machine had arrived");
	return EXIT_FAILED;
}

/* ---- the command ---- */

static int help(void)
{
	printf(
	    "usage: ectype receive tcp:HOST:PORT|unix:PATH [OPTIONS]\n"
	    "Waits for one machine that `ectype migrate` sends, and becomes it.\n\n"
	    "  --disk ID=PATH       disk ID (ectype ctl NAME info names them) is PATH here; default: the same path.\n"
	    "                       One that the source copies is made there, a raw image\n");
	migrate_target_help(true);
	printf("  --verbose            say how long it took\n");
	given_options_help();
	printf("Exit status: as of ectype run; 1 also: the machine did not arrive, the source goes on; 2 also: it\n"
	       "cannot be built here: a file, a port, a feature of the processor is missing.\n");
	return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
}

/* Takes argv[*i]; 0, or an exit status after a message. */
static int take_argument(struct receive *x, int argc, char **argv, int *i)
{
	char *arg = argv[*i];
	int status = migrate_target_option(&x->at, "receive", argc, argv, i);

	if (!status)
		status = disk_places_option(&x->places, "receive", argc, argv, i);
	if (status)
		return status < 0 ? 0 : status;
	if (!strcmp(arg, "--verbose"))
		x->verbose = true;
	else if (!strncmp(arg, "--", 2))
		return given_options_take(&x->own, "receive", argc, argv, i);
	else if (x->at.text)
		return usage_error("receive: no argument '%s' (see ectype receive --help)", arg);
	else
		return migrate_target_parse(&x->at, "receive", arg);
	return 0;
}

static int run(struct receive *x)
{
	const struct run_plan plan = {
		.options = options,
		.arrival = arrival,
		.socket = tls_wanted(&x->at.tls) ? NULL : x->at.path,
		.failed = failed,
		.ready = ready,
		.ended = ended,
		.opaque = x,
	};
	struct error e;
	int status;

	if (!x->at.text)
		return usage_error("receive: where? tcp:HOST:PORT or unix:PATH (see ectype receive --help)");
	if (migrate_target_check(&x->at, true, &e))
		return usage_error("receive: %s", e.text);
	status = run_machine(&plan);
	arrival_destroy(x->arrival);
	if (x->listen_fd >= 0)
		close(x->listen_fd);
	receiver_free(&x->r);
	end_copies(x);
	return status;
}

int cmd_receive(int argc, char **argv)
{
	struct receive *x = calloc(1, sizeof(*x));
	int status = EXIT_OK;

	if (!x || !(x->own.option = calloc((size_t)argc + 1, 2 * sizeof(*x->own.option)))) {
		free(x);
		return EXIT_FAILED;
	}
	x->places.place = x->own.option + argc + 1;
	x->listen_fd = -1;
	receiver_init(&x->r);
	for (int i = 1; i < argc && !status; i++) {
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			status = help();
			goto out;
		}
		status = take_argument(x, argc, argv, &i);
	}
	if (!status)
		status = run(x);
out:
	given_options_free(&x->own);
	free(x->own.option);
	free(x);
	return status;
}

/*
 * `ectype standby`: waits for one machine that `ectype protect` sends, keeps it
 * (standby.h), and becomes it when the primary is gone: built, checked and
 * loaded as by `ectype restore`.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "backend/listen.h"
#include "base/host_time.h"
#include "cli/cli.h"
#include "cli/disk_places.h"
#include "cli/doorkeeper.h"
#include "cli/file_keeper.h"
#include "cli/run.h"
#include "cli/saved_options.h"
#include "cli/standby.h"
#include "ctl/witness.h"
#include "machine/state.h"

#define NETS_SOON 200 /* tries, 10 ms apart */

struct command {
	struct migrate_target at;
	const char *witness;
	struct given_options own;
	struct disk_places places;
	struct saved_options options;
	struct run_options *o;
	struct standby *standby;
	int listener, fd, witness_fd; /* -1: none */
	struct companion door;	      /* pid 0: none */
	struct stream stream;
	struct machine_saved saved;
	const char *copy[MACHINE_DISKS_MAX]; /* files of copies */
	struct companion keeper;	     /* of them; pid 0: none */
	unsigned images;
	struct block *image[MACHINE_DISKS_MAX];
	int staged;
	bool taken_over;
	u64 start;
};

/* ---- who connects ---- */

/* With TLS only who the doorkeeper knows is let in, and what it has to say about others is shown. */
static int begin_listening(struct command *c, struct error *e)
{
	u16 port = 0;

	if (!tls_wanted(&c->at.tls))
		c->listener = migrate_listen(&c->at, &port, e);
	else if (!doorkeeper_start(&c->door, &c->at, LINK_MEANT, &port, e))
		c->listener = c->door.fd;
	if (c->listener >= 0 && !c->at.path && !strcmp(c->at.port, "0"))
		fprintf(stderr, "ectype: standby: at port %u\n", port);
	return c->listener < 0 ? -1 : 0;
}

/* Nobody else is let in. */
static void end_listening(struct command *c)
{
	if (c->listener >= 0 && c->door.pid) {
		companion_finish(&c->door);
	} else if (c->listener >= 0) {
		close(c->listener);
		migrate_unlink(&c->at);
	}
	c->listener = -1;
}

/* ---- what is offered ---- */

static int parse(struct command *c, struct error *e)
{
	int status = given_options_replace(&c->own, &c->options, "standby");

	if (!status)
		status = given_options_parse(&c->own, &c->options, "standby", c->o);
	return status ? error_set(e, "%s", usage_error_last()) : 0;
}

/* A new raw image of zeros. */
static int create_copy(struct command *c, unsigned n, u64 size, struct error *e)
{
	struct error why;
	int fd = file_keeper_make(&c->keeper, n, &why), r = 0;

	if (fd < 0)
		return error_set(e, "cannot make %s for the copy of a disk: %.200s", c->copy[n], why.text);
	if (ftruncate(fd, (off_t)size))
		r = error_errno(e, errno, "%s", c->copy[n]);
	close(fd);
	return r;
}

/* Disks that the guest can write to get copies here, the others are the same files, or what --disk says. */
static int place_disks(struct command *c, struct standby_offer *of, struct error *e)
{
	unsigned n = 0;

	for (unsigned i = 0; i < c->o->machine.disks; i++) {
		struct machine_disk *d = &c->o->machine.disk[i];
		const char *path = disk_places_of(&c->places, d->id);

		if (d->image.readonly)
			continue;
		if (!path)
			return error_set(e, "disk '%s' can be written to: --disk %s=PATH says where its copy goes",
					 d->id, d->id);
		if (n == of->disks)
			return error_set(e, "the primary does not say how large disk '%s' is", d->id);
		d->image.format = BLOCK_FORMAT_RAW;
		c->copy[n++] = path;
	}
	if (n != of->disks)
		return error_set(e, "the primary has more disks than its options say");
	if (n && file_keeper_start(&c->keeper, c->copy, n, e))
		return -1;
	for (unsigned i = 0; i < n; i++)
		if (create_copy(c, i, of->size[i], e))
			return -1;
	return 0;
}

static int open_copies(struct command *c, struct standby_offer *of, struct error *e)
{
	char dir[PATH_MAX];

	for (unsigned i = 0; i < c->o->machine.disks; i++) {
		const struct machine_disk *d = &c->o->machine.disk[i];
		const struct block_config image = { .path = d->image.path,
						    .format = BLOCK_FORMAT_RAW,
						    .threads = true };

		if (d->image.readonly)
			continue;
		c->image[c->images] = block_open(&image, e);
		if (!c->image[c->images])
			return -1;
		of->image[c->images] = c->image[c->images];
		c->images++;
	}
	if (!c->images)
		return 0;
	/* beside the first copy, where there must be room */
	snprintf(dir, sizeof(dir), "%s", c->copy[0]);
	of->staged = c->staged = open(dirname(dir), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	return c->staged < 0 ? error_errno(e, errno, "cannot make a file beside %s", c->copy[0]) : 0;
}

static void close_copies(struct command *c, bool keep)
{
	while (c->images)
		block_close(c->image[--c->images]);
	if (c->staged >= 0)
		close(c->staged);
	c->staged = -1;
	if (c->keeper.pid && keep)
		file_keeper_stay(&c->keeper);
	if (c->keeper.pid)
		companion_finish(&c->keeper);
	c->keeper.pid = 0;
}

static int offer(void *opaque, const struct stream *s, struct standby_offer *of, struct error *e)
{
	struct command *c = opaque;
	const struct stream_section *options = stream_find(s, SAVED_OPTIONS_SECTION);

	end_listening(c);
	if (!options || saved_options_read(&c->options, stream_decoder(options)))
		return error_set(e, "the primary does not say what its machine is");
	if (parse(c, e))
		return -1;
	if (of->ram != c->o->machine.memory)
		return error_set(e, "the memory that is offered is not of the size that the machine's options say");
	if (disk_places_apply(&c->places, &c->o->machine, e) || place_disks(c, of, e))
		return -1;
	c->saved = (struct machine_saved){ .stream = s, .ram_fd = -1, .unlocked = true, .same = true };
	c->o->machine.saved = &c->saved;
	return machine_check(&c->o->machine, e) || open_copies(c, of, e) ? -1 : 0;
}

static void ready(void *opaque)
{
	struct command *c = opaque;

	fprintf(stderr, "ectype: standby: has a first copy after %.2f s\n", (double)(host_ns() - c->start) / 1e9);
}

/* ---- the plan ---- */

/*
 * Host ports and tap interfaces may be the primary's still: for a moment, or,
 * if it is on this host and silent but alive, for as long as it lives. The
 * machine is here and perhaps nowhere else, so there is no giving up.
 */
static void await_nets(struct command *c)
{
	const struct timespec soon = { .tv_nsec = 10000000 }, later = { .tv_sec = 1 };
	struct error e;

	for (unsigned i = 0;; i++) {
		struct machine_config probe = c->o->machine;
		int r = net_options_create(&c->o->nets, &probe, &e);

		net_options_destroy(&probe);
		if (!r)
			return;
		if (i == NETS_SOON)
			fprintf(stderr, "ectype: standby: %s; goes on as soon as it is free\n", e.text);
		nanosleep(i < NETS_SOON ? &soon : &later, NULL);
	}
}

static int adopt(const void *ram, struct memory *m, struct error *e)
{
	return memory_adopt(m, (void *)(uintptr_t)ram, e);
}

static int take_over(struct command *c, struct error *e)
{
	struct standby_kept k;

	close_copies(c, true);
	standby_take(c->standby, &k);
	c->taken_over = true;
	fprintf(stderr, "ectype: standby: takes over at checkpoint %lu: %s\n", k.number, k.why);
	if (stream_read(&c->stream, k.state, k.state_len, "the state of the machine", e))
		return -1;
	c->saved =
	    (struct machine_saved){ .stream = &c->stream, .ram_fd = -1, .load_ram = adopt, .ram = k.ram, .same = true };
	await_nets(c);
	return 0;
}

/* The next one who connects is served. */
static enum standby_end meet(struct command *c, struct error *e)
{
	struct standby_config cfg = { .witness = c->witness_fd, .offer = offer, .ready = ready, .opaque = c };

	if (c->fd >= 0)
		close(c->fd);
	standby_destroy(c->standby);
	do
		c->fd = listen_next(c->listener, 1000);
	while (c->fd < 0);
	c->start = host_ns();
	cfg.fd = c->fd;
	c->standby = standby_create(&cfg, e);
	return c->standby ? standby_serve(c->standby, e) : STANDBY_LOST;
}

static int serve(struct command *c)
{
	enum standby_end how;
	struct error e;

	while ((how = meet(c, &e)) == STANDBY_STRANGER)
		fprintf(stderr, "ectype: standby: %s; waiting for another\n", e.text);
	end_listening(c);
	switch (how) {
	case STANDBY_TAKES_OVER:
		return take_over(c, &e) ? usage_error("standby: %s", e.text) : EXIT_OK;
	case STANDBY_STOPPED:
		fprintf(stderr, "ectype: standby: not needed any more: the machine goes on unprotected\n");
		break;
	case STANDBY_ENDED:
		fprintf(stderr, "ectype: standby: not needed any more: the machine has ended\n");
		break;
	default:
		fprintf(stderr, "ectype: standby: %s: does not take over\n", e.text);
		return EXIT_FAILED;
	}
	c->o->help = true; /* nothing is to be run */
	return EXIT_OK;
}

static int options(void *opaque, struct run_options *o)
{
	struct command *c = opaque;
	struct error e;

	c->o = o;
	return begin_listening(c, &e) ? usage_error("standby: %s", e.text) : serve(c);
}

/* ---- the command ---- */

static int help(void)
{
	printf(
	    "usage: ectype standby tcp:HOST:PORT|unix:PATH [OPTIONS]\n"
	    "Waits for one machine that `ectype protect` sends, keeps its state up to date, and goes on in its place\n"
	    "when it is lost.\n\n"
	    "  --witness FILE       the file that ectype protect was given: it decides who goes on\n"
	    "  --disk ID=PATH       of a disk that can be written to (ectype ctl NAME info names them): its copy,\n"
	    "                       a raw image, is made there; of another: it is PATH here, default the same path\n");
	migrate_target_help(true);
	given_options_help();
	printf("Exit status: 0 it was not needed; as of ectype run, if it took over; 1 also: the primary is lost, and\n"
	       "it does not take over; 2 also: the machine cannot be built here.\n");
	return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
}

/* Takes argv[*i]; 0, or an exit status after a message. */
static int take_argument(struct command *c, int argc, char **argv, int *i)
{
	char *arg = argv[*i];
	int status = migrate_target_option(&c->at, "standby", argc, argv, i);

	if (!status)
		status = disk_places_option(&c->places, "standby", argc, argv, i);
	if (status)
		return status < 0 ? 0 : status;
	if (!strncmp(arg, "--witness=", 10))
		c->witness = arg + 10;
	else if (!strcmp(arg, "--witness") && *i + 1 < argc)
		c->witness = argv[++*i];
	else if (!strncmp(arg, "--", 2))
		return given_options_take(&c->own, "standby", argc, argv, i);
	else if (c->at.text)
		return usage_error("standby: no argument '%s' (see ectype standby --help)", arg);
	else
		return migrate_target_parse(&c->at, "standby", arg);
	return 0;
}

static int run(struct command *c)
{
	const struct run_plan plan = { .options = options, .opaque = c };
	struct error e;
	int status;

	if (!c->at.text)
		return usage_error("standby: where? tcp:HOST:PORT or unix:PATH (see ectype standby --help)");
	if (migrate_target_check(&c->at, true, &e))
		return usage_error("standby: %s", e.text);
	if (c->witness && (c->witness_fd = witness_open(c->witness, true, &e)) < 0)
		return usage_error("standby: %s", e.text);
	status = run_machine(&plan);
	close_copies(c, c->taken_over);
	stream_free(&c->stream);
	standby_destroy(c->standby);
	if (c->fd >= 0)
		close(c->fd);
	if (c->witness_fd >= 0)
		close(c->witness_fd);
	return status;
}

int cmd_standby(int argc, char **argv)
{
	struct command *c = calloc(1, sizeof(*c));
	int status = EXIT_OK;

	if (!c || !(c->own.option = calloc((size_t)argc + 1, 2 * sizeof(*c->own.option)))) {
		free(c);
		return EXIT_FAILED;
	}
	c->places.place = c->own.option + argc + 1;
	c->listener = c->fd = c->witness_fd = c->staged = -1;
	for (int i = 1; i < argc && !status; i++) {
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			status = help();
			goto out;
		}
		status = take_argument(c, argc, argv, &i);
	}
	if (!status)
		status = run(c);
out:
	saved_options_free(&c->options);
	free(c->own.argv);
	free(c->own.option);
	free(c);
	return status;
}

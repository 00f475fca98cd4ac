/*
 * `ectype snapshot`: a running machine into a directory. The monitor, which
 * opens no files, streams its state, memory and disks; this process writes them.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "backend/block/image.h"
#include "base/host_time.h"
#include "cli/control.h"
#include "cli/snapshot.h"
#include "cli/snapshot_backing.h"
#include "ctl/rundir.h"

#define V1 "/api/v1/"
#define END_MS 60000 /* for the machine to end, with --stop */

struct command {
	const char *name, *dir;
	struct snapshot_form form;
	bool stop, info, check, whole;
	struct snapshot_backings backings; /* of the machine's disks, which are not copied */
	bool paused;			   /* by us */
	struct snapshot_writer *w;
	struct run_options *o; /* the machine's */
	struct snapshot_disks disks;
	u64 start, still; /* host time; the guest stood still for so long, ns */
};

/* ---- the machine ---- */

/* With --stop it stands still until it ends: what it does in between would be in no snapshot. */
static int pause_machine(struct command *c, struct error *e)
{
	json_t *info;
	int ret = ctl_order(c->name, "GET", V1 "vm.info", NULL, &info, e);
	bool needed;

	if (ret)
		return ret;
	needed = c->stop && !strcmp(json_text(info, "state"), "Running");
	if (!c->stop && !c->whole)
		snapshot_backings_find(&c->backings, info);
	json_decref(info);
	c->start = host_ns();
	if (!needed)
		return 0;
	ret = ctl_order(c->name, "PUT", V1 "vm.pause", NULL, NULL, e);
	c->paused = !ret;
	return ret;
}

static int resume_machine(struct command *c, struct error *e)
{
	int ret;

	if (!c->paused)
		return 0;
	ret = ctl_order(c->name, "PUT", V1 "vm.resume", NULL, NULL, e);
	c->paused = false;
	return ret;
}

static void nothing(void *opaque) {}

/* Signals are looked at between pieces, so that the machine is resumed. */
static int take(void *opaque, const char *data, size_t n, u64 total, struct error *e)
{
	if (signals_caught())
		return error_set(e, "ended by signal %d", signals_caught());
	return snapshot_take_piece(opaque, data, n, total, e);
}

/* A descriptor that tells of the end of the machine's process, or -1 with *e. */
static int process_of(const char *name, struct error *e)
{
	char dir[CTL_PATH_MAX], path[CTL_PATH_MAX];
	int pid = 0, fd;

	if (ctl_rundir(dir, false, e) || ctl_socket_path(dir, name, path, e))
		return -1;
	ctl_probe(path, &pid);
	fd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
	return fd < 0 ? error_set(e, "the process of machine '%s' cannot be found", name) : fd;
}

static int stop_machine(struct command *c, struct error *e)
{
	int fd = process_of(c->name, e), ret;
	struct pollfd p = { .fd = fd, .events = POLLIN };

	if (fd < 0)
		return -1;
	ret = ctl_order(c->name, "PUT", V1 "vm.shutdown", NULL, NULL, e);
	c->paused = false;
	if (!ret && poll(&p, 1, END_MS) <= 0)
		ret = error_set(e, "machine '%s' does not end", c->name);
	close(fd);
	return ret;
}

/* ---- disks ---- */

/* The machine's options, for its disks: parsed as when it was started. */
static int parse_options(struct command *c, const struct saved_options *s, struct error *e)
{
	char **argv = calloc(s->count + 2, sizeof(*argv));
	char self[] = "snapshot";
	int status = EXIT_FAILED;

	c->o = calloc(1, sizeof(*c->o));
	if (argv && c->o) {
		argv[0] = self;
		memcpy(argv + 1, s->option, s->count * sizeof(*argv));
		status = run_options_parse(c->o, (int)s->count + 1, argv);
	}
	free(argv);
	return status ? error_set(e, "the options of machine '%s' cannot be read", c->name) : 0;
}

static int describe_disk(const struct machine_disk *from, struct snapshot_disk *d, struct error *e)
{
	struct block_info info;

	if (block_info(from->image.path, from->image.format, &info, e))
		return -1;
	if (snapshot_file_identity(from->image.path, &d->size, &d->written))
		return error_errno(e, errno, "disk %s", from->image.path);
	snprintf(d->id, sizeof(d->id), "%s", from->id);
	snprintf(d->path, sizeof(d->path), "%s", from->image.path);
	d->format = strcmp(info.format, "qcow2") ? BLOCK_FORMAT_RAW : BLOCK_FORMAT_QCOW2;
	d->writable = !from->image.readonly;
	return 0;
}

/* Those that the guest goes on to write to came with the machine's memory; others stay what they are. */
static int take_disks(struct command *c, struct error *e)
{
	c->disks.count = 0;
	c->disks.files = 0;
	for (unsigned i = 0; i < c->o->machine.disks; i++) {
		const struct machine_disk *from = &c->o->machine.disk[i];
		struct snapshot_disk *d = &c->disks.disk[i];

		if (describe_disk(from, d, e))
			return -1;
		c->disks.count++;
		if (!d->writable || c->stop) {
			if (snapshot_files_note(&c->disks, d->id, &from->image, NULL, e))
				return -1;
			d->written = d->writable ? 0 : d->written; /* known when the machine has ended */
			continue;
		}
		d->written = 0;
		if (!snapshot_has_image(c->w, d))
			return error_set(e, "the machine did not send disk '%s'", d->id);
		if (snapshot_note_backing(c->w, d, &c->disks, e))
			return -1;
	}
	return 0;
}

/* The machine has ended: nobody writes to the disks any more. */
static int fix_disks(struct command *c, struct error *e)
{
	for (unsigned i = 0; i < c->disks.count; i++)
		if (snapshot_file_identity(c->disks.disk[i].path, &c->disks.disk[i].size, &c->disks.disk[i].written))
			return error_errno(e, errno, "disk %s", c->disks.disk[i].path);
	return 0;
}

/* ---- the command ---- */

/* Before the machine ends a whole snapshot is there, so that at no moment there is neither. */
static int finish(struct command *c, struct error *e)
{
	if (!c->stop)
		return snapshot_finish(c->w, &c->disks, e);
	if (snapshot_finish(c->w, &c->disks, e) || stop_machine(c, e) || fix_disks(c, e))
		return -1;
	return snapshot_finish(c->w, &c->disks, e);
}

static json_t *body_of(const struct command *c)
{
	json_t *body = json_pack("{s:b}", "disks", !c->stop);

	/* a machine that an older ectype runs knows no such member */
	if (c->backings.count)
		json_object_set_new(body, "backing", snapshot_backings_json(&c->backings));
	return body;
}

static int snapshot(struct command *c, struct error *e)
{
	const struct ctl_sink sink = { take, c->w };
	const struct saved_options *options;
	struct error ignored;
	json_t *body = NULL;
	int ret = pause_machine(c, e);

	if (!ret)
		body = body_of(c);
	if (!ret)
		ret = ctl_fetch(c->name, "PUT", V1 "vm.snapshot", body, &sink, e);
	json_decref(body);
	if (ret)
		goto out;
	options = snapshot_received(c->w, e);
	c->still = c->paused || !snapshot_still_ns(c->w) ? host_ns() - c->start : snapshot_still_ns(c->w);
	ret = !options || parse_options(c, options, e) || take_disks(c, e) ? CTL_REFUSED : 0;
	if (!ret && finish(c, e))
		ret = CTL_REFUSED;
out:
	if (c->paused)
		resume_machine(c, &ignored);
	return ret;
}

static void report(const struct command *c)
{
	u64 disks = snapshot_image_bytes(c->w);

	printf("%s: %.1f MiB of memory", c->dir, (double)snapshot_ram_bytes(c->w) / (double)MiB);
	if (snapshot_file_bytes(c->w) != snapshot_ram_bytes(c->w))
		printf(", written as %.1f MiB,", (double)snapshot_file_bytes(c->w) / (double)MiB);
	if (disks)
		printf(" and %.1f MiB of disks", (double)disks / (double)MiB);
	printf(" in %.2f s; ", (double)(host_ns() - c->start) / 1e9);
	if (c->stop)
		printf("the machine has ended\n");
	else
		printf("the guest stood still for %.1f ms\n", (double)c->still / 1e6);
}

static int run(struct command *c)
{
	struct error e;
	int ret;

	signals_install(nothing, NULL);
	c->form.backings = &c->backings;
	c->w = snapshot_create_as(c->dir, &c->form, &e);
	if (!c->w)
		return usage_error("snapshot: %s", e.text);
	ret = snapshot(c, &e);
	signals_remove();
	if (!ret)
		report(c);
	snapshot_drop(c->w);
	snapshot_backings_free(&c->backings);
	free(c->disks.file);
	free(c->o);
	return fflush(stdout) && !ret ? EXIT_FAILED : control_status("snapshot", ret, &e);
}

static int help(void)
{
	printf("usage: ectype snapshot NAME DIR [--base DIR0] [--compress[=LEVEL]] [--no-sync]\n"
	       "                       [--whole-disks|--stop]\n"
	       "       ectype snapshot --info DIR [--check]\n"
	       "Saves the running machine NAME in the new directory DIR, from which `ectype restore DIR` goes on.\n"
	       "What disks that the guest can write to hold goes into DIR, too; of a qcow2 overlay only what it has\n"
	       "itself, so that the files it is backed by must stay as they are. The guest goes on meanwhile.\n\n"
	       "  --base DIR0         write only what differs from the snapshot DIR0, which has to stay as it is.\n"
	       "                      DIR finds it by this path: relative to DIR, or absolute if it is given so\n"
	       "  --compress[=LEVEL]  compress memory by zstd, level 1 to %d, default 1\n"
	       "  --whole-disks       copy all that such a disk holds: DIR needs no other files then\n"
	       "  --no-sync           do not wait until all of it is on the host's disk: quicker; if the host itself\n"
	       "                      crashes soon after, DIR is lost\n"
	       "  --stop              the machine ends there: disks are not copied, and must stay as they are\n"
	       "  --info              say what is in the snapshot DIR; with --check read and check all of it\n"
	       "\n"
	       "Exit status: 0 done, 1 the machine cannot be saved, 2 bad usage, no such machine, or a snapshot\n"
	       "that is damaged.\n",
	       RAM_LEVEL_MAX);
	return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
}

static int parse_level(struct command *c, const char *text)
{
	u64 level = 1;

	if (*text && (parse_number(text + 1, RAM_LEVEL_MAX, &level) || !level))
		return usage_error("snapshot: --compress: '%s' is no level from 1 to %d", text + 1, RAM_LEVEL_MAX);
	c->form.level = (int)level;
	return 0;
}

/* Takes argv[*i]; 0, or an exit status after a message. */
static int take_argument(struct command *c, int argc, char **argv, int *i)
{
	char *arg = argv[*i];

	if (!strcmp(arg, "--stop"))
		c->stop = true;
	else if (!strcmp(arg, "--no-sync"))
		c->form.no_sync = true;
	else if (!strcmp(arg, "--info"))
		c->info = true;
	else if (!strcmp(arg, "--whole-disks"))
		c->whole = true;
	else if (!strcmp(arg, "--check"))
		c->check = true;
	else if (!strncmp(arg, "--compress", 10) && (!arg[10] || arg[10] == '='))
		return parse_level(c, arg + 10);
	else if (!strncmp(arg, "--base=", 7))
		c->form.base = arg + 7;
	else if (!strcmp(arg, "--base") && *i + 1 < argc)
		c->form.base = argv[++*i];
	else if (arg[0] == '-' || c->dir)
		return usage_error("snapshot: no argument '%s' (see ectype snapshot --help)", arg);
	else if (c->name)
		c->dir = arg;
	else
		c->name = arg;
	return 0;
}

static int show_info(const struct command *c)
{
	struct error e;

	if (!c->name || c->dir || c->stop || c->whole || c->form.level || c->form.base || c->form.no_sync)
		return usage_error("snapshot: --info takes one directory and --check (see ectype snapshot --help)");
	if (snapshot_info(c->name, c->check, &e))
		return usage_error("snapshot: %s", e.text);
	return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
}

static int run_arguments(struct command *c, int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		int status = 0;

		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
			return help();
		status = take_argument(c, argc, argv, &i);
		if (status)
			return status;
	}
	if (c->info)
		return show_info(c);
	if (c->stop && c->whole)
		return usage_error("snapshot: --stop copies no disks, --whole-disks all (see ectype snapshot --help)");
	if (c->stop && c->form.no_sync)
		return usage_error("snapshot: --no-sync leaves a machine of --stop nowhere if the host crashes "
				   "(see ectype snapshot --help)");
	if (c->check)
		return usage_error("snapshot: --check goes with --info (see ectype snapshot --help)");
	if (!c->dir)
		return usage_error("snapshot: %s (see ectype snapshot --help)",
				   c->name ? "into which directory?" : "which machine?");
	return run(c);
}

int cmd_snapshot(int argc, char **argv)
{
	struct command *c = calloc(1, sizeof(*c));
	int status = c ? run_arguments(c, argc, argv) : EXIT_FAILED;

	free(c);
	return status;
}

/*
 * `ectype snapshot`: a running machine into a directory. The monitor, which
 * opens no files, streams its state and memory; this process writes them, and
 * copies the disks while the machine is paused.
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
#include "ctl/rundir.h"

#define V1 "/api/v1/"
#define END_MS 60000 /* for the machine to end, with --stop */

struct command {
	const char *name, *dir;
	bool stop;
	bool paused; /* by us */
	struct snapshot_writer *w;
	struct run_options *o; /* the machine's */
	struct snapshot_disks disks;
	u64 start, still; /* host time; the guest stood still for so long, ns */
};

/* ---- the machine ---- */

static bool has_writable_disk(json_t *info)
{
	json_t *disks = json_object_get(json_object_get(info, "config"), "disks"), *d;
	size_t i;

	json_array_foreach(disks, i, d)
	{
		if (!json_is_true(json_object_get(d, "readonly")))
			return true;
	}
	return false;
}

/* Only where it must stand still for longer than its memory is sent. */
static int pause_machine(struct command *c, struct error *e)
{
	json_t *info;
	int ret = ctl_order(c->name, "GET", V1 "vm.info", NULL, &info, e);
	bool needed;

	if (ret)
		return ret;
	needed = !strcmp(json_text(info, "state"), "Running") && (c->stop || has_writable_disk(info));
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
	c->still = host_ns() - c->start;
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

/* Copies those that the guest goes on to write to; with --stop they stay what they are. */
static int take_disks(struct command *c, struct error *e)
{
	c->disks.count = 0;
	for (unsigned i = 0; i < c->o->machine.disks; i++) {
		const struct machine_disk *from = &c->o->machine.disk[i];
		struct snapshot_disk *d = &c->disks.disk[i];

		if (describe_disk(from, d, e))
			return -1;
		c->disks.count++;
		if (d->writable && c->stop) {
			d->written = 0; /* known when the machine has ended */
		} else if (d->writable) {
			snprintf(d->path, sizeof(d->path), "%s.img", d->id);
			d->written = 0;
			if (snapshot_copy_disk(c->w, d, from->image.path, e))
				return -1;
		}
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
	if (!c->stop) {
		int ret = resume_machine(c, e);

		return ret ? ret : snapshot_finish(c->w, &c->disks, e);
	}
	if (snapshot_finish(c->w, &c->disks, e) || stop_machine(c, e) || fix_disks(c, e))
		return -1;
	return snapshot_finish(c->w, &c->disks, e);
}

static int snapshot(struct command *c, struct error *e)
{
	const struct ctl_sink sink = { take, c->w };
	const struct saved_options *options;
	struct error ignored;
	int ret = pause_machine(c, e);

	if (!ret)
		ret = ctl_fetch(c->name, "PUT", V1 "vm.snapshot", NULL, &sink, e);
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
	printf("%s: %.1f MiB of memory in %.2f s; ", c->dir, (double)snapshot_ram_bytes(c->w) / (double)MiB,
	       (double)(host_ns() - c->start) / 1e9);
	if (c->stop)
		printf("the machine has ended\n");
	else
		printf("the guest stood still for %.1f ms\n", (double)c->still / 1e6);
}

static int run(struct command *c)
{
	struct error e;
	int ret;

	c->w = snapshot_create(c->dir, &e);
	if (!c->w)
		return usage_error("snapshot: %s", e.text);
	signals_install(nothing, NULL);
	ret = snapshot(c, &e);
	signals_remove();
	if (!ret)
		report(c);
	snapshot_drop(c->w);
	free(c->o);
	return fflush(stdout) && !ret ? EXIT_FAILED : control_status("snapshot", ret, &e);
}

static int help(void)
{
	printf("usage: ectype snapshot NAME DIR [--stop]\n"
	       "Saves the running machine NAME in the new directory DIR, from which `ectype restore DIR` goes on.\n"
	       "Disks that the guest can write to are copied into DIR. The guest stands still meanwhile.\n\n"
	       "  --stop  the machine ends there: disks are not copied, and must stay as they are\n"
	       "\n"
	       "Exit status: 0 done, 1 the machine cannot be saved, 2 bad usage or no such machine.\n");
	return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
}

int cmd_snapshot(int argc, char **argv)
{
	struct command *c = calloc(1, sizeof(*c));
	const char *name[2] = { NULL };
	unsigned names = 0;
	int status;

	if (!c)
		return EXIT_FAILED;
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			free(c);
			return help();
		}
		if (!strcmp(argv[i], "--stop")) {
			c->stop = true;
		} else if (argv[i][0] == '-' || names == 2) {
			free(c);
			return usage_error("snapshot: no argument '%s' (see ectype snapshot --help)", argv[i]);
		} else {
			name[names++] = argv[i];
		}
	}
	if (names < 2) {
		free(c);
		return usage_error("snapshot: %s (see ectype snapshot --help)",
				   names ? "into which directory?" : "which machine?");
	}
	c->name = name[0];
	c->dir = name[1];
	status = run(c);
	free(c);
	return status;
}

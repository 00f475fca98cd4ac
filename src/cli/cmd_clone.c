/*
 * `ectype clone`: running copies of a machine, or of a snapshot, that share
 * memory and disks until they write. A running machine is saved first, in a
 * directory that belongs to the copies. All copies run, or none.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/block/image.h"
#include "base/host_time.h"
#include "cli/clone.h"
#include "cli/control.h"
#include "cli/snapshot.h"
#include "cli/snapshot_backing.h"

#define V1 "/api/v1/"

struct command {
	const char *source, *dir, *log, *prefix, *name;
	u64 count;
	bool json;
	struct clone_options o;
	struct clone_dir files;
	char snapshot[PATH_MAX + 16];
	struct snapshot_reader r;
	bool opened;
	struct clone *list; /* count */
	u64 start;
};

/* ---- the source ---- */

struct backed {
	u64 *need;
	const struct snapshot_backing *by; /* what is not copied; NULL: nothing */
};

static int add_file(void *opaque, const char *path, enum block_format format, struct error *e)
{
	struct backed *b = opaque;
	struct stat st;

	if (b->by && !strcmp(path, b->by->file[0].path))
		return error_set(e, "from here on nothing is copied");
	if (!stat(path, &st))
		*b->need += (u64)st.st_blocks * 512;
	return 0;
}

/* What its snapshot may take: memory that is resident, and the disks it can write to, with what these are backed by
 * where that is copied. */
static u64 estimate(json_t *info)
{
	json_t *disks = json_object_get(json_object_get(info, "config"), "disks"), *d;
	u64 need = process_resident((int)json_number(info, "pid"));
	struct snapshot_backings backings;
	struct error ignored;
	size_t i;

	snapshot_backings_find(&backings, info);
	json_array_foreach(disks, i, d)
	{
		struct backed b = { &need, snapshot_backings_of(&backings, json_text(d, "id")) };

		if (json_is_true(json_object_get(d, "readonly")))
			continue;
		add_file(&b, json_text(d, "path"), BLOCK_FORMAT_AUTO, &ignored);
		block_backing_files(json_text(d, "path"), BLOCK_FORMAT_AUTO, add_file, &b, &ignored);
	}
	snapshot_backings_free(&backings);
	return need;
}

static int save_machine(struct command *c, struct error *e)
{
	json_t *info;
	int ret = ctl_order(c->source, "GET", V1 "vm.info", NULL, &info, e);

	if (ret)
		return control_status("clone", ret, e);
	ret = clone_dir_create(&c->files, c->dir, estimate(info), e);
	json_decref(info);
	if (ret)
		return usage_error("clone: %s", e->text);
	snprintf(c->snapshot, sizeof(c->snapshot), "%s/snapshot", c->files.path);
	return clone_save(c->source, c->snapshot, c->dir);
}

/* A directory, or else the name of a machine. */
static bool is_snapshot(const char *source)
{
	struct stat st;
	struct error e;
	int fd;

	if (stat(source, &st) || !S_ISDIR(st.st_mode))
		return strchr(source, '/');
	if (strchr(source, '/') || !ctl_name_ok(source) || (fd = ctl_connect(source, &e)) < 0)
		return true;
	close(fd);
	return false;
}

static bool needs_overlays(const struct command *c)
{
	for (unsigned i = 0; i < c->r.disks.count; i++)
		if (c->r.disks.disk[i].writable)
			return true;
	return false;
}

static int open_source(struct command *c)
{
	bool snapshot = is_snapshot(c->source);
	struct error e;
	int status;

	if (snapshot)
		snprintf(c->snapshot, sizeof(c->snapshot), "%s", c->source);
	else if ((status = save_machine(c, &e)))
		return status;
	if (snapshot_reader_open(&c->r, c->snapshot, &e))
		return usage_error("clone: %s", e.text);
	c->opened = true;
	if (clone_arguments_check(&c->o, &c->r.options, (unsigned)c->count, &e))
		return usage_error("clone: %s", e.text);
	if ((needs_overlays(c) || c->dir) && !c->files.path[0] && clone_dir_create(&c->files, c->dir, 0, &e))
		return usage_error("clone: %s", e.text);
	c->o.snapshot = c->r.path;
	c->o.overlays = needs_overlays(c) ? c->files.path : NULL;
	return 0;
}

/* ---- names ---- */

/* Of the source, with what a name cannot have replaced. */
static void default_prefix(const struct command *c, char out[CTL_NAME_MAX + 1])
{
	char path[PATH_MAX];
	const char *from = c->source;

	if (strchr(from, '/') && realpath(from, path))
		from = strrchr(path, '/') + 1;
	snprintf(out, CTL_NAME_MAX - 3, "%s", from);
	for (char *p = out; *p; p++)
		if (!ctl_name_ok((const char[]){ 'a', *p, 0 }))
			*p = '-';
	if (!ctl_name_ok(out))
		snprintf(out, CTL_NAME_MAX, "copy");
}

static bool taken(const char *name)
{
	char dir[CTL_PATH_MAX], path[CTL_PATH_MAX];
	struct error e;

	return !ctl_rundir(dir, false, &e) && !ctl_socket_path(dir, name, path, &e) &&
	       ctl_probe(path, NULL) == CTL_ALIVE;
}

static int choose_names(struct command *c)
{
	char prefix[CTL_NAME_MAX + 1], name[CTL_NAME_MAX + 16];
	unsigned number = 0;

	default_prefix(c, prefix);
	for (unsigned i = 0; i < c->count; i++) {
		do {
			if (c->name)
				snprintf(name, sizeof(name), "%s", c->name);
			else
				snprintf(name, sizeof(name), "%.48s-%u", c->prefix ? c->prefix : prefix, ++number);
			if (!ctl_name_ok(name))
				return usage_error("clone: '%s' is no name of a machine: at most %d letters, digits, "
						   "'.', '_', '-'",
						   name, CTL_NAME_MAX);
			if (c->name && taken(name))
				return usage_error("clone: a machine '%s' runs already", name);
		} while (taken(name));
		c->list[i].number = c->name ? 1 : number;
		snprintf(c->list[i].name, sizeof(c->list[i].name), "%.*s", CTL_NAME_MAX, name);
	}
	return 0;
}

/* ---- start ---- */

static int start_one(struct command *c, struct clone *to, struct error *e)
{
	char log[PATH_MAX], **argv = clone_arguments(&c->o, &c->r.options, to, e);
	int ret;

	if (!argv)
		return -1;
	if (c->log && snprintf(log, sizeof(log), "%s/%s.log", c->log, to->name) >= (int)sizeof(log))
		ret = error_set(e, "--log: the name is too long");
	else
		ret = clone_start(to, argv, c->log ? log : NULL, e);
	clone_arguments_free(argv);
	return ret;
}

static void nothing(void *opaque) {}

/* As many at a time as there are processors: each is busy while it starts. */
static int start_all(struct command *c, struct error *e)
{
	unsigned parallel = (unsigned)MAX(sysconf(_SC_NPROCESSORS_ONLN), 1l), begun = 0, run = 0, which;

	while (run < c->count) {
		while (begun < c->count && begun - run < parallel)
			if (start_one(c, &c->list[begun++], e))
				return -1;
		if (clone_wait(c->list, begun, &which, e))
			return -1;
		if (signals_caught())
			return error_set(e, "ended by signal %d", signals_caught());
		run += which < begun && c->list[which].running;
	}
	return clone_dir_leave(&c->files, c->list, (unsigned)c->count, e);
}

/* ---- what there is ---- */

/* One line of what leads into it, with spaces between. */
static void forwards_of(json_t *info, char *out, size_t size)
{
	json_t *nets = json_object_get(json_object_get(info, "config"), "net"), *n, *f;
	size_t i, k, used = 0;

	out[0] = 0;
	json_array_foreach(nets, i, n)
	{
		json_array_foreach(json_object_get(n, "hostfwd"), k, f)
		{
			if (used < size)
				used += (size_t)snprintf(out + used, size - used, "%s%s", used ? " " : "",
							 json_string_value(f));
		}
	}
}

static void print_json(const struct command *c)
{
	json_t *all = json_array();

	for (unsigned i = 0; i < c->count; i++) {
		struct error e;
		json_t *info;

		if (ctl_order(c->list[i].name, "GET", V1 "vm.info", NULL, &info, &e))
			info = json_pack("{s:s, s:i}", "name", c->list[i].name, "pid", (int)c->list[i].pid);
		json_object_set_new(info, "start_ms", json_real((double)c->list[i].took / 1e6));
		json_array_append_new(all, info);
	}
	json_dumpf(all, stdout, JSON_INDENT(1));
	printf("\n");
	json_decref(all);
}

static void print_table(const struct command *c)
{
	printf("%-20s %8s %9s  %s\n", "NAME", "PID", "START", "FORWARDS");
	for (unsigned i = 0; i < c->count; i++) {
		char forwards[4096] = "";
		struct error e;
		json_t *info;

		if (!ctl_order(c->list[i].name, "GET", V1 "vm.info", NULL, &info, &e)) {
			forwards_of(info, forwards, sizeof(forwards));
			json_decref(info);
		}
		printf("%-20s %8d %6.1f ms  %s\n", c->list[i].name, (int)c->list[i].pid, (double)c->list[i].took / 1e6,
		       forwards[0] ? forwards : "-");
	}
	printf("%llu in %.2f s", (unsigned long long)c->count, (double)(host_ns() - c->start) / 1e9);
	printf(c->files.keep ? "; files in %s\n" : "\n", c->files.path);
}

static int clone_machine(struct command *c)
{
	struct error e;
	int status;

	c->start = host_ns();
	c->files.lock = -1;
	signals_install(nothing, NULL);
	status = choose_names(c);
	if (!status)
		status = open_source(c);
	if (!status && start_all(c, &e)) {
		clone_end_all(c->list, (unsigned)c->count);
		usage_error("clone: %s", e.text);
		status = EXIT_FAILED;
	}
	signals_remove();
	if (c->opened)
		snapshot_reader_close(&c->r);
	if (status)
		clone_dir_remove(&c->files);
	else if (c->json)
		print_json(c);
	else
		print_table(c);
	return fflush(stdout) && !status ? EXIT_FAILED : status;
}

/* ---- the command ---- */

static int help(void)
{
	printf("usage: ectype clone NAME|DIR [--count K] [OPTIONS]\n"
	       "Starts K copies (default 1) of the running machine NAME, or of the snapshot DIR, in the background.\n"
	       "They share memory and disks until they write. All of them run, or none.\n\n"
	       "  --names PREFIX        they are PREFIX-1, PREFIX-2 ... of those that are free; default: NAME\n"
	       "  --name N              one copy of this name\n"
	       "  --dir D               keep the snapshot and what copies write to disks in the new directory D;\n"
	       "                        default: in $TMPDIR or /var/tmp, removed when the last copy has ended\n"
	       "  --log D               what a copy writes to its terminal goes to D/NAME.log\n"
	       "  --hostfwd-offset N    host port P of --net hostfwd= becomes P + N times the copy's number;\n"
	       "                        default: a free port, which is printed\n"
	       "  --same-mac            network cards keep their addresses\n"
	       "  --json                print what vm.info tells of each\n\n"
	       "All options of ectype restore but --overlays and --in-place; %%n in a value is the copy's\n"
	       "name, %%i its number. Paths of the machine's own sockets and output files get .NAME at their ends.\n\n"
	       "Exit status: 0 all run, 1 they do not, 2 bad usage, no such machine or snapshot.\n");
	return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
}

/* An option with a value: 1 and *value, 0: it is another one, -1: after a message. */
static int option(const char *name, int argc, char **argv, int *i, const char **value)
{
	size_t n = strlen(name);

	if (strncmp(argv[*i], name, n) || (argv[*i][n] && argv[*i][n] != '='))
		return 0;
	if (argv[*i][n]) {
		*value = argv[*i] + n + 1;
		return 1;
	}
	if (*i + 1 == argc) {
		usage_error("clone: %s needs a value", name);
		return -1;
	}
	*value = argv[++*i];
	return 1;
}

/* Takes argv[*i] if it has a value and is this command's own; as option(). */
static int take_valued(struct command *c, int argc, char **argv, int *i)
{
	const char *count = NULL, *offset = NULL;
	const struct {
		const char *name, **value;
	} own[] = {
		{ "--names", &c->prefix }, { "--name", &c->name }, { "--dir", &c->dir },
		{ "--log", &c->log },	   { "--count", &count },  { "--hostfwd-offset", &offset },
	};
	int r = 0;

	for (unsigned k = 0; k < ARRAY_SIZE(own) && !r; k++)
		r = option(own[k].name, argc, argv, i, own[k].value);
	if (count && (parse_number(count, CLONES_MAX, &c->count) || !c->count))
		return usage_error("clone: --count '%s' is not a number from 1 to %u", count, CLONES_MAX), -1;
	if (offset && (parse_number(offset, 65535, &c->o.hostfwd_offset) || !c->o.hostfwd_offset))
		return usage_error("clone: --hostfwd-offset '%s' is not a number from 1 to 65535", offset), -1;
	return r;
}

/* For `ectype restore`: "--name value" becomes "--name=value". */
static int take_restore_option(struct command *c, int argc, char **argv, int *i)
{
	char *arg = argv[*i];

	if (!strncmp(arg, "--overlays", 10) || !strcmp(arg, "--in-place") || !strncmp(arg, "--ready-fd", 10) ||
	    !strncmp(arg, "--copy", 6))
		return usage_error("clone: %s is not for copies (see ectype clone --help)", arg);
	if (strchr(arg, '=') || saved_options_flag(arg))
		arg = strdup(arg);
	else if (*i + 1 == argc)
		return usage_error("clone: %s needs a value", arg);
	else if (asprintf(&arg, "%s=%s", arg, argv[++*i]) < 0)
		arg = NULL;
	if (!arg)
		return EXIT_FAILED;
	c->o.own[c->o.owns++] = arg;
	return 0;
}

/* 0, or an exit status after a message. */
static int take_argument(struct command *c, int argc, char **argv, int *i)
{
	int r = take_valued(c, argc, argv, i);

	if (r)
		return r < 0 ? EXIT_USAGE : 0;
	if (!strcmp(argv[*i], "--same-mac"))
		c->o.same_mac = true;
	else if (!strcmp(argv[*i], "--json"))
		c->json = true;
	else if (!strncmp(argv[*i], "--", 2))
		return take_restore_option(c, argc, argv, i);
	else if (c->source)
		return usage_error("clone: no argument '%s' (see ectype clone --help)", argv[*i]);
	else
		c->source = argv[*i];
	return 0;
}

static int check_together(const struct command *c)
{
	struct stat st;

	if (!c->source)
		return usage_error("clone: which machine or snapshot? (see ectype clone --help)");
	if (c->name && (c->prefix || c->count > 1))
		return usage_error("clone: --name is for one copy: give --names");
	if (c->log && (stat(c->log, &st) || !S_ISDIR(st.st_mode)))
		return usage_error("clone: --log %s is no directory", c->log);
	return 0;
}

int cmd_clone(int argc, char **argv)
{
	struct command *c = calloc(1, sizeof(*c));
	int status = EXIT_FAILED;

	if (!c || !(c->o.own = calloc((size_t)argc + 1, sizeof(*c->o.own))))
		goto out;
	c->count = 1;
	status = 0;
	for (int i = 1; i < argc && !status; i++) {
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			status = help();
			goto out;
		}
		status = take_argument(c, argc, argv, &i);
	}
	if (!status)
		status = check_together(c);
	if (!status && !(c->list = calloc(c->count, sizeof(*c->list))))
		status = EXIT_FAILED;
	for (unsigned i = 0; !status && i < c->count; i++)
		c->list[i].pidfd = c->list[i].ready = c->list[i].messages = -1;
	if (!status)
		status = clone_machine(c);
out:
	for (unsigned i = 0; c && i < c->o.owns; i++)
		free(c->o.own[i]);
	if (c) {
		free(c->o.own);
		free(c->list);
	}
	free(c);
	return status;
}

/* `ectype image info`, `check` and `overlay`. */
#include "cli/image_commands.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

static int parse_format(struct image_args *a, const char *command, const char *value)
{
	if (!strcmp(value, "raw"))
		a->format = BLOCK_FORMAT_RAW;
	else if (!strcmp(value, "qcow2"))
		a->format = BLOCK_FORMAT_QCOW2;
	else
		return usage_error("image %s: --format '%s' is neither raw nor qcow2", command, value);
	return 0;
}

/* One argument that begins with a dash; may take argv[*i]. */
static int parse_option(struct image_args *a, int argc, char **argv, int *i, unsigned allowed)
{
	const char *arg = argv[(*i)++], *command = argv[0];

	if (!strcmp(arg, "--help") || !strcmp(arg, "-h")) {
		a->help = true;
		return 0;
	}
	if (!strcmp(arg, "--force") && (allowed & IMAGE_ARG_FORCE)) {
		a->force = true;
		return 0;
	}
	if (!strcmp(arg, "--json") && (allowed & IMAGE_ARG_JSON)) {
		a->json = true;
		return 0;
	}
	if (!strncmp(arg, "--format=", 9) && (allowed & IMAGE_ARG_FORMAT))
		return parse_format(a, command, arg + 9);
	if (!strcmp(arg, "--format") && (allowed & IMAGE_ARG_FORMAT)) {
		if (*i == argc)
			return usage_error("image %s: --format needs a value, raw or qcow2", command);
		return parse_format(a, command, argv[(*i)++]);
	}
	return usage_error("image %s: unknown option '%s' (see ectype image %s --help)", command, arg, command);
}

int image_args_parse(struct image_args *a, int argc, char **argv, unsigned files, unsigned allowed, const char *usage)
{
	unsigned n = 0;
	int i = 1, ret;

	*a = (struct image_args){ .format = BLOCK_FORMAT_AUTO };
	while (i < argc) {
		if (argv[i][0] == '-') {
			ret = parse_option(a, argc, argv, &i, allowed);
			if (ret)
				return ret;
			continue;
		}
		if (n == files)
			return usage_error("image %s: '%s' is an argument too many", argv[0], argv[i]);
		if (!argv[i][0])
			return usage_error("image %s: a file without a name", argv[0]);
		a->file[n++] = argv[i++];
	}
	if (a->help) {
		fputs(usage, stdout);
		return 0;
	}
	if (n < files)
		return usage_error("image %s: a file is missing (see ectype image %s --help)", argv[0], argv[0]);
	return 0;
}

/* --- info ----------------------------------------------------------------------------------------------------- */

static const char info_usage[] = "usage: ectype image info [--format raw|qcow2] [--json] F\n"
				 "Prints what an image is. It may be in use.\n";

static void print_size(const char *what, u64 bytes)
{
	static const char units[] = "KMGTPE";
	double v = (double)bytes / 1024;
	unsigned u = 0;

	if (bytes < KiB) {
		printf("%-14s %lu bytes\n", what, bytes);
		return;
	}
	for (; v >= 1024 && units[u + 1]; u++)
		v /= 1024;
	printf("%-14s %.4g %ciB (%lu bytes)\n", what, v, units[u], bytes);
}

/* Names in images are anybody's: nothing of them reaches the terminal as a control sequence. */
static void print_name(const char *what, const char *name)
{
	printf("%-14s ", what);
	for (; *name; name++)
		putchar((unsigned char)*name < 0x20 || *name == 0x7f ? '?' : *name);
	putchar('\n');
}

static void print_info(const char *path, const struct block_info *i)
{
	printf("%-14s %s\n%-14s %s", "file", path, "format", i->format);
	if (i->version)
		printf(", version %u", i->version);
	putchar('\n');
	print_size("size", i->virtual_size);
	print_size("on the host", i->disk_size);
	if (i->cluster_size)
		print_size("clusters of", i->cluster_size);
	if (i->version)
		printf("%-14s %u bits%s\n", "refcounts", i->refcount_bits, i->lazy_refcounts ? ", lazy" : "");
	if (i->zstd)
		printf("%-14s zstd\n", "compression");
	if (i->backing_file[0])
		print_name("backing file", i->backing_file);
	if (i->backing_format[0])
		print_name("its format", i->backing_format);
	if (i->snapshots)
		printf("%-14s %u\n", "snapshots", i->snapshots);
	if (i->dirty)
		printf("%-14s was not closed in order\n", "state");
	if (i->corrupt)
		printf("%-14s marked corrupt\n", "state");
	if (i->unsupported[0])
		print_name("unsupported", i->unsupported);
}

static int print_info_json(const char *path, const struct block_info *i)
{
	/* what is not UTF-8 has no JSON: jansson refuses it, so such names are left out */
	json_t *j = json_pack(
	    "{s:s*, s:s, s:I, s:I, s:I, s:i, s:i, s:i, s:b, s:b, s:b, s:b, s:s*, s:s*, s:s*}", "file", path, "format",
	    i->format, "virtual_size", (json_int_t)i->virtual_size, "disk_size", (json_int_t)i->disk_size,
	    "cluster_size", (json_int_t)i->cluster_size, "version", (int)i->version, "refcount_bits",
	    (int)i->refcount_bits, "snapshots", (int)i->snapshots, "lazy_refcounts", (int)i->lazy_refcounts, "dirty",
	    (int)i->dirty, "corrupt", (int)i->corrupt, "zstd", (int)i->zstd, "backing_file",
	    i->backing_file[0] ? i->backing_file : NULL, "backing_format",
	    i->backing_format[0] ? i->backing_format : NULL, "unsupported", i->unsupported[0] ? i->unsupported : NULL);
	int ret = j ? json_dumpf(j, stdout, JSON_INDENT(1)) : -1;

	json_decref(j);
	if (ret)
		return usage_error("image info: %s: a name in it is not UTF-8; see it without --json", path);
	putchar('\n');
	return 0;
}

int image_info(int argc, char **argv)
{
	struct block_info info = { 0 };
	struct image_args a;
	struct error e;
	int ret = image_args_parse(&a, argc, argv, 1, IMAGE_ARG_FORMAT | IMAGE_ARG_JSON, info_usage);

	if (ret || a.help)
		return ret;
	if (block_info(a.file[0], a.format, &info, &e))
		return usage_error("image info: %s", e.text);
	if (a.json)
		ret = print_info_json(a.file[0], &info);
	else
		print_info(a.file[0], &info);
	return fflush(stdout) ? EXIT_FAILED : ret;
}

/* --- check ---------------------------------------------------------------------------------------------------- */

static const char check_usage[] =
    "usage: ectype image check [--format raw|qcow2] F\n"
    "Compares the tables of a qcow2 image with each other. Nothing is changed.\n"
    "Exit status: 0 no errors (space that is lost is told), 1 errors, 2 it cannot be checked.\n";

static void print_line(void *opaque, const char *line)
{
	printf("%s\n", line);
}

int image_check(int argc, char **argv)
{
	struct block_check_result r = { .report = print_line };
	struct image_args a;
	struct error e;
	int ret = image_args_parse(&a, argc, argv, 1, IMAGE_ARG_FORMAT, check_usage);

	if (ret || a.help)
		return ret;
	if (block_check(a.file[0], a.format, &r, &e))
		return usage_error("image check: %s", e.text);
	if (!r.clusters && !r.errors)
		printf("%s: raw, there are no tables to check\n", a.file[0]);
	else
		printf("%s: %lu errors, %lu leaked clusters; %lu of %lu clusters hold data\n", a.file[0], r.errors,
		       r.leaks, r.allocated, r.clusters);
	return fflush(stdout) || r.errors ? EXIT_FAILED : EXIT_OK;
}

/* --- overlay -------------------------------------------------------------------------------------------------- */

static const char overlay_usage[] =
    "usage: ectype image overlay [--format raw|qcow2] [--force] BASE F\n"
    "Makes F, a qcow2 image that holds only what differs from BASE. BASE must not change any more.\n"
    "  --format  of BASE; default: qcow2 by its magic, else raw\n"
    "  --force   replace F if it is there\n";

static size_t folder_length(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? (size_t)(slash - path) + 1 : 0;
}

/* `base` as an image at `path` refers to it: by name alone in the same folder, so that both can move, else in full. */
static int backing_name(const char *base, const char *path, char out[PATH_MAX], struct error *e)
{
	size_t n = folder_length(base);

	if (n == folder_length(path) && !strncmp(base, path, n)) {
		/* "protocol:name" is what a colon before any slash means to QEMU */
		snprintf(out, PATH_MAX, "%s%s", strchr(base + n, ':') ? "./" : "", base + n);
		return 0;
	}
	if (!realpath(base, out))
		return error_errno(e, errno, "%s", base);
	return 0;
}

int image_overlay(int argc, char **argv)
{
	char backing[PATH_MAX];
	struct qcow2_create_config c = { .backing_file = backing };
	struct image_args a;
	struct error e;
	int ret = image_args_parse(&a, argc, argv, 2, IMAGE_ARG_FORMAT | IMAGE_ARG_FORCE, overlay_usage);

	if (ret || a.help)
		return ret;
	c.path = a.file[1];
	c.overwrite = a.force;
	if (a.format != BLOCK_FORMAT_AUTO)
		c.backing_format = a.format == BLOCK_FORMAT_RAW ? "raw" : "qcow2";
	if (!a.force && access(c.path, F_OK) == 0)
		return usage_error("image overlay: %s exists; --force replaces it", c.path);
	if (block_check_config(&(struct block_config){ .path = a.file[0], .format = a.format, .readonly = true }, &e) ||
	    backing_name(a.file[0], c.path, backing, &e) || qcow2_create(&c, &e))
		return usage_error("image overlay: %s", e.text);
	return EXIT_OK;
}

#include "cli/saved_options.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/disk_options.h"

/* Of the process alone: not saved, and for `ectype restore` to give. */
static const char *const process_options[] = {
	"name",	    "stats",	  "gdb",	   "insn-limit", "trace", "trace-file",
	"perf-map", "code-cache", "guest-symbols", "no-control", "jail",  "count-instructions",
};
/* Of the machine's surroundings: saved, and `ectype restore` may be told others. */
static const char *const outer_options[] = {
	"engine", "serial", "console", "debugcon", "net", "vsock", "no-reboot",
};
/* Written from what they came to. */
static const char *const rendered_options[] = {
	"kernel", "initrd", "append", "firmware", "firmware-vars", "memory", "cpus", "disk", "cdrom",
};

static bool among(const char *name, const char *const *list, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (!strcmp(name, list[i]))
			return true;
	return false;
}
#define AMONG(name, list) among(name, list, ARRAY_SIZE(list))

/* ---- writing ---- */

static void put(struct encoder *e, u32 *count, const char *fmt, ...) printf_like(3, 4);
static void put(struct encoder *e, u32 *count, const char *fmt, ...)
{
	char *text;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (n < 0 || n > UINT16_MAX) {
		e->failed = true;
	} else {
		enc_u16(e, (u16)n);
		enc_bytes(e, text, (size_t)n);
		++*count;
	}
	if (n >= 0)
		free(text);
}

/* The beginnings of values behind which the name of a file follows. */
static const char *const file_prefixes[] = { "file:", "unix:", "socket=" };

/* `path` from the root on; to be freed. */
static char *absolute(const char *path)
{
	char cwd[PATH_MAX], *text;

	if (*path == '/')
		return strdup(path);
	if (!getcwd(cwd, sizeof(cwd)) || asprintf(&text, "%s/%s", cwd, path) < 0)
		return NULL;
	return text;
}

static void put_file(struct encoder *e, u32 *count, const char *name, const char *path)
{
	char *text = path ? absolute(path) : NULL;

	if (text)
		put(e, count, "--%s=%s", name, text);
	e->failed |= path && !text;
	free(text);
}

/* A value in which one file may be named, behind one of the prefixes. */
static void put_value(struct encoder *e, u32 *count, const char *name, const char *value)
{
	for (unsigned i = 0; i < ARRAY_SIZE(file_prefixes); i++) {
		const char *at = strstr(value, file_prefixes[i]);
		size_t before = at ? (size_t)(at - value) + strlen(file_prefixes[i]) : 0;
		char *path;

		if (!at || (at != value && at[-1] != ','))
			continue;
		path = absolute(value + before);
		if (path)
			put(e, count, "--%s=%.*s%s", name, (int)before, value, path);
		e->failed |= !path;
		free(path);
		return;
	}
	put(e, count, "--%s=%s", name, value);
}

/* The modules of a multiboot kernel: "FILE ARGS,FILE ARGS", a comma in them is written twice. */
static char *absolute_modules(const char *list)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);
	bool start = true;

	if (!f)
		return NULL;
	for (const char *p = list; *p; p++) {
		char *root = start && *p != '/' ? absolute("") : NULL;

		for (const char *c = root; c && *c; c++)
			fputs(*c == ',' ? ",," : (const char[]){ *c, 0 }, f);
		free(root);
		start = *p == ',' && p[1] != ',';
		fputc(*p, f);
		if (*p == ',' && !start)
			fputc(*++p, f);
	}
	if (!fclose(f))
		return text;
	free(text);
	return NULL;
}

static void put_initrd(struct encoder *e, u32 *count, const char *initrd)
{
	char *list;

	if (!initrd || !access(initrd, F_OK)) {
		put_file(e, count, "initrd", initrd);
		return;
	}
	list = absolute_modules(initrd);
	if (list)
		put(e, count, "--initrd=%s", list);
	e->failed |= !list;
	free(list);
}

static void put_disk(struct encoder *e, u32 *count, struct machine_disk d)
{
	char *path = absolute(d.image.path), *text = NULL;

	d.image.path = path;
	if (path && (text = disk_option_text(&d)))
		put(e, count, "--disk=%s", text);
	e->failed |= !text;
	free(text);
	free(path);
}

static void put_rendered(const struct run_options *o, struct encoder *e, u32 *count)
{
	const struct machine_config *m = &o->machine;
	bool memory = false;

	put_file(e, count, "kernel", m->kernel);
	put_initrd(e, count, m->initrd);
	if (m->append)
		put(e, count, "--append=%s", m->append);
	if (m->firmware && strchr(m->firmware, '/'))
		put_file(e, count, "firmware", m->firmware);
	else if (m->firmware)
		put(e, count, "--firmware=%s", m->firmware);
	put_file(e, count, "firmware-vars", m->firmware_vars);
	for (unsigned i = 0; i < o->givens; i++) {
		if (strcmp(o->given[i].name, "memory"))
			continue;
		memory = true;
		put(e, count, "--memory=%s", o->given[i].value);
	}
	if (!memory)
		put(e, count, "--memory=%llu", (unsigned long long)m->memory);
	put(e, count, "--cpus=%u", m->cpus);
	for (unsigned i = 0; i < m->disks; i++)
		put_disk(e, count, m->disk[i]);
}

int saved_options_write(const struct run_options *o, struct encoder *e, struct error *err)
{
	u32 count = 0;

	enc_init(e);
	enc_u32(e, 0);
	for (unsigned i = 0; i < o->givens; i++) {
		const char *name = o->given[i].name;

		if (AMONG(name, process_options) || AMONG(name, rendered_options))
			continue;
		if (o->given[i].value)
			put_value(e, &count, name, o->given[i].value);
		else
			put(e, &count, "--%s", name);
	}
	put_rendered(o, e, &count);
	if (e->failed)
		return error_set(err,
				 "the options cannot be kept for snapshots: not enough memory, one is too long, or "
				 "there is no working directory");
	for (unsigned i = 0; i < 4; i++)
		e->data[i] = (u8)(count >> 8 * i);
	return 0;
}

/* ---- reading ---- */

static char *get(struct decoder *d)
{
	u16 n = dec_u16(d);
	char *text = d->failed || n > d->len - d->pos ? NULL : malloc((size_t)n + 1);

	if (!text) {
		d->failed = true;
		return NULL;
	}
	dec_bytes(d, text, n);
	text[n] = 0;
	if (strlen(text) != n)
		d->failed = true;
	return text;
}

/* Is it one that saved_options_write() may have written? Not --jail=off. */
static bool may_be_saved(const char *option)
{
	char name[32];

	if (strncmp(option, "--", 2))
		return false;
	option += 2;
	snprintf(name, sizeof(name), "%.*s", (int)MIN(strcspn(option, "="), sizeof(name) - 1), option);
	return !AMONG(name, process_options) && strcmp(name, "help");
}

int saved_options_read(struct saved_options *s, struct decoder d)
{
	u32 count = dec_u32(&d);

	*s = (struct saved_options){ 0 };
	if (!count || count > RUN_OPTIONS_MAX + MACHINE_DISKS_MAX + 8)
		return -1;
	s->option = calloc(count, sizeof(*s->option));
	while (s->option && !d.failed && s->count < count)
		s->option[s->count++] = get(&d);
	for (unsigned i = 0; i < s->count; i++)
		d.failed |= !s->option[i] || !may_be_saved(s->option[i]);
	if (s->option && dec_done(&d))
		return 0;
	saved_options_free(s);
	return -1;
}

void saved_options_free(struct saved_options *s)
{
	for (unsigned i = 0; i < s->count; i++)
		free(s->option[i]);
	free(s->option);
	*s = (struct saved_options){ 0 };
}

int saved_options_replace(struct saved_options *s, const char *command, const char *arg)
{
	size_t n = strcspn(arg, "=");
	char name[32];

	snprintf(name, sizeof(name), "%.*s", (int)MIN(n, sizeof(name) - 1), arg);
	if (strncmp(name, "--", 2) || (!AMONG(name + 2, process_options) && !AMONG(name + 2, outer_options))) {
		usage_error("%s: %s is none of its options: the machine is what it was (see ectype %s --help)", command,
			    name, command);
		return -1;
	}
	saved_options_drop(s, name);
	return 0;
}

void saved_options_drop(struct saved_options *s, const char *name)
{
	size_t n = strlen(name);
	unsigned kept = 0;

	for (unsigned i = 0; i < s->count; i++) {
		if (!strncmp(s->option[i], name, n) && (!s->option[i][n] || s->option[i][n] == '='))
			free(s->option[i]);
		else
			s->option[kept++] = s->option[i];
	}
	s->count = kept;
}

bool saved_options_flag(const char *arg)
{
	static const char *const flags[] = { "eager",	 "in-place",	       "verbose", "no-reboot", "no-control",
					     "perf-map", "count-instructions", "stats" };

	return !strncmp(arg, "--", 2) && AMONG(arg + 2, flags);
}

/* ---- options of ectype run that a command was given ---- */

int given_options_take(struct given_options *g, const char *command, int argc, char **argv, int *i)
{
	char *arg = argv[*i];
	bool whole = strchr(arg, '=') || saved_options_flag(arg);

	if (!whole && *i + 1 == argc)
		return usage_error("%s: %s needs a value", command, arg);
	if (!whole && asprintf(&arg, "%s=%s", arg, argv[++*i]) < 0)
		return EXIT_FAILED;
	g->option[g->count++] = arg;
	return 0;
}

void given_options_help(void)
{
	printf("\nOf ectype run: --name, --engine, --serial, --console, --debugcon, --net,\n"
	       "--vsock, --no-reboot in place of what the machine had; --stats, --gdb, --insn-limit, --jail,\n"
	       "--no-control, --code-cache, --trace, --trace-file, --perf-map, --guest-symbols,\n"
	       "--count-instructions. All else is what it was.\n\n");
}

int given_options_replace(const struct given_options *g, struct saved_options *s, const char *command)
{
	for (unsigned i = 0; i < g->count; i++)
		if (saved_options_replace(s, command, g->option[i]))
			return EXIT_USAGE;
	return 0;
}

int given_options_parse(struct given_options *g, struct saved_options *s, const char *command, struct run_options *o)
{
	int n = 1;

	g->argv = calloc(s->count + g->count + 2, sizeof(*g->argv));
	if (!g->argv)
		return EXIT_FAILED;
	snprintf(g->self, sizeof(g->self), "%s", command);
	g->argv[0] = g->self;
	for (unsigned i = 0; i < s->count; i++)
		g->argv[n++] = s->option[i];
	for (unsigned i = 0; i < g->count; i++)
		g->argv[n++] = g->option[i];
	/* the strings are the options' as long as the machine runs */
	free(s->option);
	s->option = NULL;
	s->count = 0;
	return run_options_parse(o, n, g->argv);
}

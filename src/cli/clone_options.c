/* The options of each copy of a machine (clone.h): what must not be shared is replaced. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/clone.h"
#include "cli/saved_options.h"

/* Options that may name a port, a socket or a file that is written. */
static const char *const shared[] = { "--net=", "--serial=", "--console=", "--debugcon=", "--vsock=" };

static bool starts(const char *s, const char *with)
{
	return !strncmp(s, with, strlen(with));
}

/* Has the user given an option of this name ("--net=")? */
static bool given(const struct clone_options *o, const char *name)
{
	for (unsigned i = 0; i < o->owns; i++)
		if (starts(o->own[i], name))
			return true;
	return false;
}

static bool is_shared(const struct clone_options *o, const char *option)
{
	for (unsigned i = 0; i < ARRAY_SIZE(shared); i++)
		if (starts(option, shared[i]))
			return !given(o, shared[i]);
	return false;
}

/* "hostfwd=tcp:[ADDR]:HPORT-..." with another HPORT. */
static int put_forward(FILE *f, const struct clone_options *o, const struct clone *c, const char *part, size_t len,
		       struct error *e)
{
	const char *end = part + len, *at = memchr(part, ':', len), *digits;
	u64 port = 0;

	at = at ? memchr(at + 1, ':', (size_t)(end - at - 1)) : NULL;
	if (!at || !isdigit((unsigned char)at[1])) {
		fwrite(part, 1, len, f); /* not understood: whoever parses it says so */
		return 0;
	}
	for (digits = ++at; digits < end && isdigit((unsigned char)*digits) && port <= 65535; digits++)
		port = port * 10 + (u64)(*digits - '0');
	/* 0: a free one */
	port = o->hostfwd_offset && port ? port + c->number * o->hostfwd_offset : 0;
	if (port > 65535)
		return error_set(e, "--hostfwd-offset %llu: host port %llu of copy '%s' is none",
				 (unsigned long long)o->hostfwd_offset, (unsigned long long)port, c->name);
	fprintf(f, "%.*s%llu%.*s", (int)(at - part), part, (unsigned long long)port, (int)(end - digits), digits);
	return 0;
}

static int put_net(FILE *f, const struct clone_options *o, const struct clone *c, const char *value, struct error *e)
{
	for (const char *part = value;;) {
		size_t len = strcspn(part, ",");

		if (!starts(part, "hostfwd="))
			fwrite(part, 1, len, f);
		else if (put_forward(f, o, c, part, len, e))
			return -1;
		if (!part[len])
			return 0;
		fputc(',', f);
		part += len + 1;
	}
}

/* Where the name of a file ends in `value`, which begins at `path`. */
static const char *path_end(const char *option, const char *path)
{
	const char *end = NULL;

	if (starts(option, "--vsock="))
		return path + strcspn(path, ",");
	for (const char *at = strstr(path, ",name="); at && starts(option, "--console="); at = strstr(at + 1, ",name="))
		end = at;
	return end ? end : path + strlen(path);
}

/* A path gets the copy's name at its end. */
static void put_path(FILE *f, const struct clone *c, const char *option)
{
	static const char *const prefixes[] = { "file:", "unix:", "socket=" };
	const char *path = NULL, *end;

	for (unsigned i = 0; i < ARRAY_SIZE(prefixes) && !path; i++) {
		path = strstr(option, prefixes[i]);
		path = path && (path[-1] == '=' || path[-1] == ',') ? path + strlen(prefixes[i]) : NULL;
	}
	if (!path) {
		fputs(option, f);
		return;
	}
	end = path_end(option, path);
	fprintf(f, "%.*s.%s%s", (int)(end - option), option, c->name, end);
}

static char *machine_option(const struct clone_options *o, const struct clone *c, const char *option, struct error *e)
{
	char *text = NULL, *value = strdup(option);
	size_t len;
	FILE *f = open_memstream(&text, &len);
	int ret = f && value ? 0 : -1;

	e->text[0] = 0;
	if (!ret && starts(option, "--net=")) {
		if (!o->same_mac)
			net_options_drop_mac(value);
		ret = put_net(f, o, c, value, e);
	} else if (!ret) {
		put_path(f, c, option);
	}
	free(value);
	if (f && !fclose(f) && !ret)
		return text;
	free(text);
	return NULL;
}

/* %n, %i, %% in what the user gave. */
static char *user_option(const struct clone *c, const char *option)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	for (; f && *option; option++) {
		if (*option == '%' && option[1] == 'n')
			fputs(c->name, f);
		else if (*option == '%' && option[1] == 'i')
			fprintf(f, "%u", c->number);
		else
			fputc(*option, f);
		option += *option == '%' && option[1] && strchr("ni%", option[1]);
	}
	if (f && !fclose(f))
		return text;
	free(text);
	return NULL;
}

static char *named(const char *name, const char *value)
{
	char *text;

	return asprintf(&text, "--%s=%s", name, value) < 0 ? NULL : text;
}

char **clone_arguments(const struct clone_options *o, const struct saved_options *saved, const struct clone *c,
		       struct error *e)
{
	char **argv = calloc(saved->count + o->owns + 9, sizeof(*argv)), text[32];
	unsigned n = 3;
	bool whole = argv;

	e->text[0] = 0;
	if (!argv)
		goto fail;
	argv[0] = strdup("ectype");
	/* [1], the command, is set last */
	argv[2] = strdup(o->snapshot);
	argv[n++] = named("name", c->name);
	snprintf(text, sizeof(text), "--copy%s", o->same_mac ? "=same-mac" : "");
	argv[n++] = strdup(text);
	if (o->overlays)
		argv[n++] = named("overlays", o->overlays);
	for (unsigned i = 0; i < saved->count && whole; i++)
		if (is_shared(o, saved->option[i]))
			whole = (argv[n++] = machine_option(o, c, saved->option[i], e));
	for (unsigned i = 0; i < o->owns && whole; i++)
		whole = (argv[n++] = user_option(c, o->own[i]));
	for (unsigned i = 0; i < n; i++)
		whole &= i == 1 || argv[i];
	if (whole)
		return argv;
fail:
	if (!e->text[0])
		error_set(e, "not enough memory");
	/* without holes, for it to be freed */
	for (unsigned i = 0; argv && i < n; i++)
		if (!argv[i])
			argv[i] = strdup("");
	clone_arguments_free(argv);
	return NULL;
}

void clone_arguments_free(char **argv)
{
	for (unsigned i = 0; argv && (i < 2 || argv[i]); i++)
		free(argv[i]);
	free(argv);
}

int clone_arguments_check(const struct clone_options *o, const struct saved_options *saved, unsigned count,
			  struct error *e)
{
	for (unsigned i = 0; i < saved->count && count > 1; i++)
		if (starts(saved->option[i], "--net=tap=") && !given(o, "--net="))
			return error_set(e,
					 "copies cannot share a tap interface (%s): give each its own, as "
					 "--net tap=NAME%%i",
					 saved->option[i]);
	for (unsigned i = 0; i < o->owns && count > 1; i++)
		if (starts(o->own[i], "--net=tap=") && !strstr(o->own[i], "%i") && !strstr(o->own[i], "%n"))
			return error_set(e, "copies cannot share a tap interface: %s needs %%i, the copy's number",
					 o->own[i]);
	return 0;
}

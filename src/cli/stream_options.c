#include "cli/stream_options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

static bool parse_where(struct stream_option *s, const char *value)
{
	static const struct {
		const char *text;
		enum stream_kind kind;
	} plain[] = { { "stdio", STREAM_STDIO }, { "none", STREAM_NONE }, { "pty", STREAM_PTY } };

	for (unsigned i = 0; i < ARRAY_SIZE(plain); i++) {
		if (!strcmp(value, plain[i].text)) {
			s->kind = plain[i].kind;
			return true;
		}
	}
	if ((strncmp(value, "file:", 5) && strncmp(value, "unix:", 5)) || !value[5])
		return false;
	s->kind = value[0] == 'f' ? STREAM_FILE : STREAM_UNIX;
	s->path = value + 5;
	return true;
}

int stream_parse_serial(struct stream_option *s, const char *value)
{
	*s = (struct stream_option){ 0 };
	if (!parse_where(s, value))
		return usage_error("--serial '%s' is none of stdio, none, pty, file:F, unix:F", value);
	return 0;
}

/* udev and the kernel make a device node's name of it. */
static bool good_name(const char *name, size_t max)
{
	size_t n = strlen(name);

	if (!n || n > max || !strcmp(name, ".") || !strcmp(name, ".."))
		return false;
	for (; *name; name++)
		if (*name <= ' ' || *name > '~' || *name == '/' || *name == ',')
			return false;
	return true;
}

int stream_parse_console(struct stream_option *s, const char *value)
{
	const char *name = strstr(value, ",name="), *where = value;

	*s = (struct stream_option){ 0 };
	for (const char *next = name; next; next = strstr(name + 1, ",name="))
		name = next; /* a path may hold one as well */
	if (name) {
		if (!good_name(name + 6, sizeof(s->name) - 1))
			return usage_error("--console: the name of '%s' is not 1 to 63 printable characters without "
					   "space, '/' and ','",
					   value);
		strcpy(s->name, name + 6);
		if ((size_t)(name - value) >= sizeof(s->where))
			return usage_error("--console '%s': the path is too long", value);
		memcpy(s->where, value, (size_t)(name - value));
		where = s->where;
	}
	if (!parse_where(s, where) || s->kind == STREAM_NONE)
		return usage_error("--console '%s' is none of stdio, pty, file:F, unix:F (then ,name=N for a port)",
				   value);
	return 0;
}

struct chr *stream_create(const struct stream_option *s, const char *option, const struct chr_stdio_actions *actions,
			  struct error *e)
{
	struct chr *c = NULL;

	switch (s->kind) {
	case STREAM_NONE:
		error_set(e, "%s: there is no stream", option);
		break;
	case STREAM_STDIO:
		c = chr_stdio_create(actions, e);
		break;
	case STREAM_FILE:
		c = chr_file_create(s->path, e);
		break;
	case STREAM_UNIX:
		c = chr_unix_create(s->path, e);
		break;
	case STREAM_PTY:
		c = chr_pty_create(e);
		if (c)
			fprintf(stderr, "ectype: %s%s%s is %s\n", option, s->name[0] ? " " : "", s->name,
				chr_pty_path(c));
		break;
	}
	return c;
}

#include "cli/trace_options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

static const struct {
	const char *name;
	u32 bits;
} switches[] = {
	{ "guest", TRACE_GUEST },
	{ "analysis", TRACE_ANALYSIS },
	{ "host", TRACE_HOST },
	{ "exec", TRACE_EXEC },
	{ "exits", TRACE_EXITS },
	{ "smc", TRACE_SMC },
	{ "all", TRACE_BLOCKS | TRACE_EXEC | TRACE_EXITS | TRACE_SMC },
};

/* Hexadecimal with or without 0x; moves *s behind it. */
static int parse_address(const char **s, u64 *out)
{
	const char *from = *s;
	char *end;

	if (from[0] == '0' && (from[1] == 'x' || from[1] == 'X'))
		from += 2;
	if (!*from || !strchr("0123456789abcdefABCDEF", *from))
		return -1;
	errno = 0;
	*out = strtoull(from, &end, 16);
	*s = end;
	return errno ? -1 : 0;
}

/* "LO-HI" or one address. */
static int parse_range(const char *s, struct engine_options *o)
{
	if (parse_address(&s, &o->trace_first))
		return -1;
	o->trace_last = o->trace_first;
	if (*s == '-' && (s++, parse_address(&s, &o->trace_last)))
		return -1;
	return *s || o->trace_last < o->trace_first ? -1 : 0;
}

static int parse_word(const char *word, struct engine_options *o)
{
	if (!strncmp(word, "addr=", 5)) {
		if (parse_range(word + 5, o))
			return usage_error("--trace: '%s' is not addr=LO-HI with hexadecimal addresses", word);
		return 0;
	}
	for (unsigned k = 0; k < ARRAY_SIZE(switches); k++) {
		if (!strcmp(word, switches[k].name)) {
			o->trace |= switches[k].bits;
			return 0;
		}
	}
	return usage_error("--trace: no '%s'; there is: guest, analysis, host, exec, exits, smc, all, addr=LO-HI",
			   word);
}

int trace_options_parse(const char *list, struct engine_options *o)
{
	char *copy = strdup(list), *rest = copy, *word;
	int ret = 0;

	if (!copy)
		return usage_error("--trace: not enough host memory");
	o->trace_first = 0;
	o->trace_last = UINT64_MAX;
	while (!ret && (word = strsep(&rest, ",")))
		ret = parse_word(word, o);
	if (!ret && !o->trace)
		ret = usage_error("--trace %s: what? guest, analysis, host, exec, exits, smc, all", list);
	free(copy);
	return ret;
}

void trace_options_line(void *file, const char *text)
{
	/* a terminal in raw mode needs the carriage return */
	fprintf(file, isatty(fileno(file)) ? "%s\r\n" : "%s\n", text);
}

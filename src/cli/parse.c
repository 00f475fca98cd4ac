/* Values of options, strictly. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

static char last[512];

int usage_error(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(last, sizeof(last), fmt, ap);
	va_end(ap);
	fputs("ectype: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return EXIT_USAGE;
}

const char *usage_error_last(void)
{
	return last;
}

static bool digit(char c)
{
	return c >= '0' && c <= '9';
}

int parse_number(const char *s, u64 max, u64 *out)
{
	char *end;

	if (!digit(*s))
		return -1;
	errno = 0;
	unsigned long long v = strtoull(s, &end, s[0] == '0' && (s[1] == 'x' || s[1] == 'X') ? 16 : 10);

	if (errno || *end || v > max)
		return -1;
	*out = v;
	return 0;
}

int parse_size(const char *s, u64 *out)
{
	u64 whole = 0, part = 0, scale = 1, unit = 1;
	unsigned __int128 total;

	if (!digit(*s))
		return -1;
	for (; digit(*s); s++) {
		if (whole > UINT32_MAX * 1000000ull)
			return -1;
		whole = whole * 10 + (u64)(*s - '0');
	}
	if (*s == '.') {
		if (!digit(*++s))
			return -1;
		for (; digit(*s); s++) {
			if (scale > 100000)
				return -1;
			part = part * 10 + (u64)(*s - '0');
			scale *= 10;
		}
	}
	switch (*s) {
	case 'k':
	case 'K':
		unit = KiB;
		break;
	case 'm':
	case 'M':
		unit = MiB;
		break;
	case 'g':
	case 'G':
		unit = GiB;
		break;
	case 0:
		s--;
		break;
	default:
		return -1;
	}
	if (s[1] || (scale > 1 && unit == 1))
		return -1;
	total = (unsigned __int128)whole * unit + part * unit / scale;
	if (total > INT64_MAX)
		return -1;
	*out = (u64)total;
	return 0;
}

const char *option_value(const char *name, int argc, char **argv, int *i)
{
	size_t n = strlen(name);

	if (strncmp(argv[*i], name, n))
		return NULL;
	if (argv[*i][n] == '=')
		return argv[*i] + n + 1;
	return !argv[*i][n] && *i + 1 < argc ? argv[++*i] : NULL;
}

#include "cli/control.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int control_status(const char *command, int ret, const struct error *e)
{
	if (!ret)
		return EXIT_OK;
	usage_error("%s: %s", command, e->text);
	return ret == CTL_NO_MACHINE ? EXIT_USAGE : EXIT_FAILED;
}

static json_t *at(json_t *j, const char *path)
{
	char key[64];

	while (j && *path) {
		size_t n = strcspn(path, "/");

		snprintf(key, sizeof(key), "%.*s", (int)n, path);
		j = json_object_get(j, key);
		path += n + (path[n] == '/');
	}
	return j;
}

u64 json_number(json_t *j, const char *path)
{
	return (u64)json_integer_value(at(j, path));
}

double json_fraction(json_t *j, const char *path)
{
	return json_number_value(at(j, path));
}

const char *json_text(json_t *j, const char *path)
{
	const char *s = json_string_value(at(j, path));

	return s ? s : "";
}

void format_seconds(double s, char out[16])
{
	u64 n = s > 0 && s < 1e15 ? (u64)s : 0;

	if (n < 60)
		snprintf(out, 16, "%us", (unsigned)n);
	else if (n < 3600)
		snprintf(out, 16, "%um%02us", (unsigned)n / 60, (unsigned)n % 60);
	else if (n < 86400)
		snprintf(out, 16, "%uh%02um", (unsigned)n / 3600, (unsigned)n / 60 % 60);
	else
		snprintf(out, 16, "%ud%02uh", (unsigned)(n / 86400) % 100000, (unsigned)(n / 3600 % 24));
}

void format_bytes(double bytes, char out[16])
{
	static const char units[] = " KMGTP";
	unsigned u = 0;

	for (; bytes >= 1024 && u < 5; u++)
		bytes /= 1024;
	if (u == 0 || bytes >= 100 || bytes == (double)(u64)bytes)
		snprintf(out, 16, "%.0f%c", bytes, units[u]);
	else
		snprintf(out, 16, "%.1f%c", bytes, units[u]);
	if (u == 0)
		out[strlen(out) - 1] = 0;
}

u64 process_resident(int pid)
{
	unsigned long size, resident = 0;
	char path[32];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/statm", pid);
	f = fopen(path, "re");
	if (!f)
		return 0;
	if (fscanf(f, "%lu %lu", &size, &resident) != 2)
		resident = 0;
	fclose(f);
	return (u64)resident * (u64)sysconf(_SC_PAGESIZE);
}

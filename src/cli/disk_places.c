#include "cli/disk_places.h"

#include <string.h>

#include "cli/cli.h"

static int take(struct disk_places *p, const char *command, char *value)
{
	char *is = strchr(value, '=');

	if (!is || is == value || !is[1])
		return usage_error("%s: --disk '%s' is not ID=PATH", command, value);
	p->place[p->count++] = value;
	return -1;
}

int disk_places_option(struct disk_places *p, const char *command, int argc, char **argv, int *i)
{
	if (!strncmp(argv[*i], "--disk=", 7))
		return take(p, command, argv[*i] + 7);
	if (!strcmp(argv[*i], "--disk") && *i + 1 < argc)
		return take(p, command, argv[++*i]);
	return 0;
}

static bool names(const char *place, const char *id)
{
	size_t n = strlen(id);

	return !strncmp(place, id, n) && place[n] == '=';
}

const char *disk_places_of(const struct disk_places *p, const char *id)
{
	for (unsigned i = p->count; i-- > 0;)
		if (names(p->place[i], id))
			return p->place[i] + strlen(id) + 1;
	return NULL;
}

int disk_places_apply(const struct disk_places *p, struct machine_config *m, struct error *e)
{
	for (unsigned i = 0; i < p->count; i++) {
		bool found = false;

		for (unsigned k = 0; k < m->disks; k++)
			found |= names(p->place[i], m->disk[k].id);
		if (!found)
			return error_set(e, "--disk %s: the machine has no such disk", p->place[i]);
	}
	for (unsigned k = 0; k < m->disks; k++) {
		const char *path = disk_places_of(p, m->disk[k].id);

		if (path)
			m->disk[k].image.path = path;
	}
	return 0;
}

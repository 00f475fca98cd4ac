#include "cli/disk_options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cli/cli.h"

#define SERIAL_MAX 20
#define QUEUES_MAX 16

/* Takes the text up to the next single comma off *at into the options' storage. NULL if that is full. */
static const char *take_item(struct run_options *o, const char **at)
{
	const char *s = *at;
	char *start = o->disk_text + o->disk_text_used, *to = start, *end = o->disk_text + sizeof(o->disk_text);

	while (*s && (*s != ',' || s[1] == ',')) {
		if (to + 1 >= end)
			return NULL;
		s += *s == ',';
		*to++ = *s++;
	}
	if (to >= end)
		return NULL;
	*to++ = 0;
	o->disk_text_used = (size_t)(to - o->disk_text);
	*at = *s ? s + 1 : NULL;
	return start;
}

static int set_format(struct machine_disk *d, const char *v)
{
	if (!strcmp(v, "raw"))
		d->image.format = BLOCK_FORMAT_RAW;
	else if (!strcmp(v, "qcow2"))
		d->image.format = BLOCK_FORMAT_QCOW2;
	else
		return usage_error("--disk: format '%s' is neither raw nor qcow2", v);
	return 0;
}

static int set_bus(struct machine_disk *d, const char *v)
{
	if (strcmp(v, "virtio") && strcmp(v, "sata"))
		return usage_error("--disk: bus '%s' is neither virtio nor sata", v);
	d->sata = !strcmp(v, "sata");
	return 0;
}

static int set_cache(struct machine_disk *d, const char *v)
{
	if (!strcmp(v, "writeback"))
		d->image.cache = BLOCK_CACHE_WRITEBACK;
	else if (!strcmp(v, "none"))
		d->image.cache = BLOCK_CACHE_NONE;
	else if (!strcmp(v, "unsafe"))
		d->image.cache = BLOCK_CACHE_UNSAFE;
	else
		return usage_error("--disk: cache '%s' is none of writeback, none, unsafe", v);
	return 0;
}

static int set_serial(struct machine_disk *d, const char *v)
{
	if (strlen(v) > SERIAL_MAX)
		return usage_error("--disk: serial '%s' has more than %d bytes", v, SERIAL_MAX);
	for (const char *p = v; *p; p++)
		if (*p < ' ' || *p > '~')
			return usage_error("--disk: a serial number has printable ASCII characters only");
	d->serial = v;
	return 0;
}

static int set_id(struct machine_disk *d, const char *v)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";

	if (strspn(v, allowed) != strlen(v) || strlen(v) > 31)
		return usage_error("--disk: id '%s' is not 1 to 31 letters, digits, '-', '_' and '.'", v);
	d->id = v;
	return 0;
}

static int set_queues(struct machine_disk *d, const char *v)
{
	u64 n;

	if (parse_number(v, QUEUES_MAX, &n) || !n)
		return usage_error("--disk: queues '%s' is not a number from 1 to %d", v, QUEUES_MAX);
	d->queues = (unsigned)n;
	return 0;
}

static const struct {
	const char *key;
	int (*set)(struct machine_disk *d, const char *value); /* NULL: a flag */
	size_t flag;
} settings[] = {
	{ "format", set_format, 0 },
	{ "bus", set_bus, 0 },
	{ "cache", set_cache, 0 },
	{ "serial", set_serial, 0 },
	{ "id", set_id, 0 },
	{ "queues", set_queues, 0 },
	{ "readonly", NULL, offsetof(struct machine_disk, image.readonly) },
	{ "snapshot", NULL, offsetof(struct machine_disk, image.snapshot) },
	{ "cdrom", NULL, offsetof(struct machine_disk, cdrom) },
};

static int apply(struct machine_disk *d, const char *item, u32 *seen)
{
	size_t len = strcspn(item, "=");
	const char *value = item[len] ? item + len + 1 : NULL;

	for (unsigned i = 0; i < ARRAY_SIZE(settings); i++) {
		if (strlen(settings[i].key) != len || strncmp(settings[i].key, item, len))
			continue;
		if (*seen & 1u << i)
			return usage_error("--disk: %s is given twice for %s", settings[i].key, d->image.path);
		*seen |= 1u << i;
		if (!settings[i].set && value)
			return usage_error("--disk: %s takes no value", settings[i].key);
		if (settings[i].set && (!value || !*value))
			return usage_error("--disk: %s needs a value", settings[i].key);
		if (settings[i].set)
			return settings[i].set(d, value);
		*(bool *)((char *)d + settings[i].flag) = true;
		return 0;
	}
	return usage_error(
	    "--disk: '%s' is none of format, bus, cache, serial, id, queues, readonly, snapshot, cdrom (a comma in "
	    "a file name is written twice)",
	    item);
}

/* "disk0" for the first, "cdrom0" for the first CD-ROM, and so on; the machine refuses two of a name. */
static void default_id(struct run_options *o, struct machine_disk *d)
{
	char *name = o->disk_id[d - o->machine.disk];
	unsigned n = 0;

	for (const struct machine_disk *other = o->machine.disk; other < d; other++)
		n += other->cdrom == d->cdrom;
	snprintf(name, sizeof(o->disk_id[0]), "%s%u", d->cdrom ? "cdrom" : "disk", n);
	d->id = name;
}

static bool seen(u32 mask, const char *key)
{
	for (unsigned i = 0; i < ARRAY_SIZE(settings); i++)
		if (!strcmp(settings[i].key, key))
			return mask & 1u << i;
	return false;
}

static bool is_iso(const char *path)
{
	size_t len = strlen(path);

	return len > 4 && !strcasecmp(path + len - 4, ".iso");
}

/* A file that ends in .iso is a CD-ROM, unless something was said that makes it a disk. */
static int make_cdrom(struct machine_disk *d, u32 mask)
{
	if (!d->cdrom && !(is_iso(d->image.path) && !seen(mask, "bus") && !seen(mask, "format")))
		return 0;
	if ((seen(mask, "bus") && !d->sata) || d->image.format == BLOCK_FORMAT_QCOW2 || d->image.snapshot || d->queues)
		return usage_error("%s: a CD-ROM is readonly, raw and on the SATA bus, without queues", d->image.path);
	d->cdrom = d->sata = d->image.readonly = true;
	d->image.format = BLOCK_FORMAT_RAW;
	return 0;
}

static int add(struct run_options *o, const char *value, bool cdrom)
{
	struct machine_config *m = &o->machine;
	struct machine_disk *d = &m->disk[m->disks];
	u32 mask = 0;

	if (m->disks == MACHINE_DISKS_MAX)
		return usage_error("--disk: more than %d disks", MACHINE_DISKS_MAX);
	*d = (struct machine_disk){ .cdrom = cdrom };
	for (bool first = true; value; first = false) {
		const char *item = take_item(o, &value);
		int status = 0;

		if (!item)
			return usage_error("--disk: the names of all disks together are too long");
		if (first)
			d->image.path = item;
		else
			status = apply(d, item, &mask);
		if (status)
			return status;
	}
	if (!*d->image.path)
		return usage_error("--%s needs the name of a file", cdrom ? "cdrom" : "disk");
	if (d->image.readonly && d->image.snapshot)
		return usage_error("--disk: readonly and snapshot exclude each other");
	if (d->sata && d->queues)
		return usage_error("--disk: a SATA disk has no queues to choose");
	if (make_cdrom(d, mask))
		return EXIT_USAGE;
	if (!d->id)
		default_id(o, d);
	m->disks++;
	return 0;
}

int disk_option_add(struct run_options *o, const char *value)
{
	return add(o, value, false);
}

int disk_option_add_cdrom(struct run_options *o, const char *value)
{
	return add(o, value, true);
}

static void put_doubled(FILE *f, const char *s)
{
	for (; *s; s++)
		fputs(*s == ',' ? ",," : (const char[]){ *s, 0 }, f);
}

char *disk_option_text(const struct machine_disk *d)
{
	static const char *const formats[] = { [BLOCK_FORMAT_RAW] = "raw", [BLOCK_FORMAT_QCOW2] = "qcow2" };
	static const char *const caches[] = { "writeback", "none", "unsafe" };
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return NULL;
	put_doubled(f, d->image.path);
	fprintf(f, ",id=%s,cache=%s", d->id, caches[d->image.cache]);
	if (d->serial) {
		fputs(",serial=", f);
		put_doubled(f, d->serial);
	}
	if (d->cdrom) {
		fputs(",cdrom", f);
	} else {
		fprintf(f, ",bus=%s%s%s", d->sata ? "sata" : "virtio", d->image.readonly ? ",readonly" : "",
			d->image.snapshot ? ",snapshot" : "");
		if (d->image.format != BLOCK_FORMAT_AUTO)
			fprintf(f, ",format=%s", formats[d->image.format]);
	}
	if (d->queues)
		fprintf(f, ",queues=%u", d->queues);
	if (fclose(f)) {
		free(text);
		return NULL;
	}
	return text;
}

/* A reset changes nothing: it is the same machine. */
#include "dev/chipset/vmgenid.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct vmgenid {
	struct device dev;
	struct memory *mem;
	struct region *region;
	gpa_t gpa;
	u8 *page;
};

const u8 *vmgenid_get(const struct device *d)
{
	return ((const struct vmgenid *)d)->page;
}

void vmgenid_set(struct device *d, const u8 guid[GUID_LEN])
{
	struct vmgenid *g = (struct vmgenid *)d;

	memcpy(g->page, guid, GUID_LEN);
	memory_notify_written(g->mem, g->gpa, GUID_LEN); /* a guest may execute it */
}

static void vmgenid_reset(struct device *d) {}

static void vmgenid_save(const struct device *d, struct encoder *e)
{
	enc_begin(e, d->ops->name, 1);
	enc_bytes(e, vmgenid_get(d), GUID_LEN);
	enc_end(e);
}

static int decode(const struct device *d, struct decoder *in, u8 guid[GUID_LEN])
{
	struct decoder s;

	if (!dec_begin(in, d->ops->name, &s) || s.version != 1)
		return -1;
	dec_bytes(&s, guid, GUID_LEN);
	return dec_done(&s) ? 0 : -1;
}

static int vmgenid_check(const struct device *d, struct decoder *in)
{
	u8 guid[GUID_LEN];

	return decode(d, in, guid);
}

static void vmgenid_load(struct device *d, struct decoder *in)
{
	u8 guid[GUID_LEN];

	if (!decode(d, in, guid))
		vmgenid_set(d, guid);
}

static void vmgenid_destroy(struct device *d)
{
	struct vmgenid *g = (struct vmgenid *)d;

	region_remove(g->mem, g->region);
	munmap(g->page, PAGE_SIZE);
	free(g);
}

static const struct device_ops vmgenid_ops = {
	.name = "vmgenid",
	.reset = vmgenid_reset,
	.save = vmgenid_save,
	.check = vmgenid_check,
	.load = vmgenid_load,
	.destroy = vmgenid_destroy,
};

struct device *vmgenid_create(struct board *b, gpa_t gpa, int prio, const u8 guid[GUID_LEN])
{
	struct vmgenid *g = calloc(1, sizeof(*g));

	if (!g)
		return NULL;
	g->dev.ops = &vmgenid_ops;
	g->mem = b->mem;
	g->gpa = gpa;
	g->page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (g->page == MAP_FAILED) {
		free(g);
		return NULL;
	}
	memcpy(g->page, guid, GUID_LEN);
	g->region = memory_map_host(b->mem, gpa, g->page, PAGE_SIZE, REGION_ROM, prio, "vmgenid");
	if (!g->region) {
		munmap(g->page, PAGE_SIZE);
		free(g);
		return NULL;
	}
	board_attach(b, &g->dev);
	return &g->dev;
}

/* Disks of a machine that moves without shared storage: they are copied with its memory. */
#include <string.h>

#include "ctl/migrate_priv.h"

void migration_offer_disks(struct migration *g, struct stream_writer *w)
{
	const struct machine_config *cfg = machine_config(g->m);
	u32 count = 0;

	if (!g->copy_disks)
		return;
	for (unsigned i = 0; i < cfg->disks; i++)
		count += !cfg->disk[i].image.readonly;
	stream_section_begin(w, MIGRATION_DISKS, STREAM_REQUIRED);
	enc_u32(w->to, count);
	for (unsigned i = 0; i < cfg->disks; i++) {
		const char *id = cfg->disk[i].id;

		if (cfg->disk[i].image.readonly)
			continue;
		enc_u8(w->to, (u8)strlen(id));
		enc_bytes(w->to, id, strlen(id));
		enc_u64(w->to, block_size(machine_disk_image(g->m, i)));
	}
	stream_section_end(w);
}

int migration_start_disks(struct migration *g, struct error *e)
{
	return g->copy_disks ? sent_disks_start(&g->disks, g->m, e) : 0;
}

static int after_granule(void *opaque, u64 bytes, struct error *e)
{
	struct migration *g = opaque;

	migration_note_sent(g, bytes);
	if (migration_objection(g, e))
		return -1;
	if (!g->hold && migration_too_late(g))
		return error_set(e, "the guest's disks are not there after %llu s",
				 (unsigned long long)g->set.timeout_s);
	return 0;
}

int migration_send_disks(struct migration *g, struct error *e)
{
	return sent_disks_send(&g->disks, &g->c, MIGRATION_PATIENCE_MS, after_granule, g, e);
}

void migration_end_disks(struct migration *g)
{
	sent_disks_stop(&g->disks);
}

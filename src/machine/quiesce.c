/* Making a machine's devices stand still for as long as it is saved, and reading its RAM from a file. */
#include "machine/internal.h"

#include <errno.h>
#include <unistd.h>

#include "backend/nvram/nvram.h"
#include "machine/state.h"
#include "mem/missing.h"

int machine_can_be_saved(const struct machine *m, struct error *e)
{
	if (memory_missing(m->mem))
		return error_set(e, "the machine's memory has not all arrived yet");
	if (m->cfg.vhost_users)
		return error_set(e, "a machine with --share or --vhost-user cannot be saved: what their processes know "
				    "is not known here");
	for (unsigned i = 0; i < m->cfg.disks; i++)
		if (m->cfg.disk[i].image.snapshot)
			return error_set(e,
					 "disk '%s' has the option snapshot: what the guest wrote is in no file that "
					 "could be kept",
					 m->cfg.disk[i].id);
	return 0;
}

int machine_quiesce_devices(struct machine *m, struct error *e)
{
	if (machine_can_be_saved(m, e))
		return -1;
	if (!m->quiesced)
		for (struct device *d = m->board.first; d; d = d->next)
			if (d->ops->quiesce)
				d->ops->quiesce(d);
	m->quiesced = true;
	return 0;
}

int machine_quiesce(struct machine *m, struct error *e)
{
	return machine_quiesce_devices(m, e) ? -1 : machine_disks_flush(m, e);
}

void machine_unquiesce(struct machine *m)
{
	if (!m->quiesced)
		return;
	m->quiesced = false;
	for (struct device *d = m->board.first; d; d = d->next)
		if (d->ops->resume)
			d->ops->resume(d);
}

int machine_files_release(struct machine *m, bool disks, struct error *e)
{
	/* once more: what the first one freed in an image is counted in the second */
	if (disks && machine_disks_flush(m, e))
		return -1;
	if (m->nvram)
		nvram_unlock(m->nvram);
	for (unsigned i = 0; disks && i < m->cfg.disks; i++)
		block_unlock(m->disk[i].image);
	return 0;
}

int machine_files_take(struct machine *m, struct error *e)
{
	for (unsigned i = 0; i < m->cfg.disks; i++)
		if (block_relock(m->disk[i].image, e))
			return -1;
	return m->nvram ? nvram_relock(m->nvram, e) : 0;
}

static int read_piece(int fd, u8 *to, u64 pos, u64 n, struct error *e)
{
	while (n) {
		ssize_t got = pread(fd, to, n, (off_t)pos);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return error_errno(e, got ? errno : EIO, "cannot read the RAM of the snapshot");
		to += got;
		pos += (u64)got;
		n -= (u64)got;
	}
	return 0;
}

/* RAM is zeros so far: only what the file has is read. */
static int read_ram(struct machine *m, int fd, struct error *e)
{
	u64 size = memory_ram_size(m->mem), pos = 0;

	while (pos < size) {
		off_t data = lseek(fd, (off_t)pos, SEEK_DATA), hole;

		if (data < 0 && errno == ENXIO)
			return 0;
		if (data < 0)
			data = (off_t)pos; /* a file system that knows no holes */
		hole = lseek(fd, data, SEEK_HOLE);
		if (hole <= data || (u64)hole > size)
			hole = (off_t)size;
		if (read_piece(fd, memory_ram(m->mem) + data, (u64)data, (u64)(hole - data), e))
			return -1;
		pos = (u64)hole;
	}
	return 0;
}

int machine_load_ram(struct machine *m, struct error *e)
{
	const struct machine_saved *s = m->cfg.saved;
	u64 size = memory_ram_size(m->mem);

	if (s->load_ram)
		return s->load_ram(s->ram, m->mem, e);
	if (lseek(s->ram_fd, 0, SEEK_END) != (off_t)size)
		return error_set(e, "the RAM of the snapshot is not of the machine's size");
	return s->eager ? read_ram(m, s->ram_fd, e) : memory_map_file(m->mem, 0, s->ram_fd, 0, size, e);
}

/* Holding a machine for as long as it is saved, and its RAM as a file. */
#include "machine/internal.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "machine/state.h"

int machine_hold(struct machine *m, struct error *e)
{
	if (m->cfg.vhost_users)
		return error_set(e, "a machine with --share or --vhost-user cannot be saved: the state of their "
				    "processes is not known");
	machine_add_pause(m, PAUSE_HELD);
	if (!m->quiesced)
		for (struct device *d = m->board.first; d; d = d->next)
			if (d->ops->quiesce)
				d->ops->quiesce(d);
	m->quiesced = true;
	if (!machine_disks_flush(m, e))
		return 0;
	machine_release(m);
	return -1;
}

void machine_release(struct machine *m)
{
	machine_drop_pause(m, PAUSE_HELD);
}

/* ---- RAM ---- */

bool machine_ram_next(const struct machine *m, u64 pos, u64 *start, u64 *end)
{
	u64 size = memory_ram_size(m->mem);
	int fd = memory_ram_fd(m->mem);
	off_t data, hole;

	if (pos >= size)
		return false;
	data = lseek(fd, (off_t)pos, SEEK_DATA);
	if (data < 0 || (u64)data >= size)
		return false;
	hole = lseek(fd, data, SEEK_HOLE);
	*start = (u64)data;
	*end = hole <= data || (u64)hole > size ? size : (u64)hole;
	return true;
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
int machine_load_ram(struct machine *m, struct error *e)
{
	u64 size = memory_ram_size(m->mem), pos = 0;
	int fd = m->cfg.saved->ram_fd;

	if (lseek(fd, 0, SEEK_END) != (off_t)size)
		return error_set(e, "the RAM of the snapshot is not of the machine's size");
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

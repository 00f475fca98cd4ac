/*
 * The disks of a machine: images opened before anything is built and closed
 * after the devices are gone.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "dev/storage/ahci.h"
#include "dev/virtio/blk.h"
#include "machine/internal.h"
#include "machine/state.h"

/* Two disks on one file: its lock would say the same, but of "another process". */
static bool same_file(const struct machine_disk *a, const struct machine_disk *b)
{
	struct stat x, y;

	return !stat(a->image.path, &x) && !stat(b->image.path, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static bool writes(const struct machine_disk *d)
{
	return !d->image.readonly && !d->image.snapshot;
}

static int check_pair(const struct machine_disk *a, const struct machine_disk *b, struct error *e)
{
	if (!strcmp(a->id, b->id))
		return error_set(e, "two disks have the id '%s'", a->id);
	if ((writes(a) || writes(b)) && same_file(a, b))
		return error_set(e, "%s is given as two disks: both must be readonly or snapshot", b->image.path);
	return 0;
}

/* The first volume descriptor lies in sector 16 (ECMA-119, 7.1; ECMA-167, part 2, 8.3.1). */
static int check_cdrom(const char *path, struct error *e)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	char id[5] = "";
	ssize_t n;

	if (fd < 0)
		return error_errno(e, errno, "cannot open CD-ROM image %s", path);
	n = pread(fd, id, sizeof(id), 16 * 2048 + 1);
	close(fd);
	if (n == sizeof(id) && (!memcmp(id, "CD001", 5) || !memcmp(id, "BEA01", 5)))
		return 0;
	return error_set(
	    e, "%s is not an image of a CD-ROM (ISO 9660 or UDF); if it is one of a disk, give --disk %s,bus=virtio",
	    path, path);
}

int machine_disks_check(const struct machine_config *cfg, struct error *e)
{
	unsigned drives = 0;

	for (unsigned i = 0; i < cfg->disks; i++) {
		for (unsigned k = 0; k < i; k++)
			if (check_pair(&cfg->disk[k], &cfg->disk[i], e))
				return -1;
		struct block_config image = cfg->disk[i].image;

		image.unlocked = cfg->saved && cfg->saved->unlocked && !cfg->saved->own_disks;
		if (block_check_config(&image, e))
			return -1;
		if (cfg->disk[i].cdrom && check_cdrom(cfg->disk[i].image.path, e))
			return -1;
		drives += cfg->disk[i].sata;
	}
	if (drives > AHCI_PORTS)
		return error_set(e, "%u SATA disks and CD-ROMs: the controller has %d ports", drives, AHCI_PORTS);
	return 0;
}

int machine_disks_open(struct machine *m, struct error *e)
{
	for (unsigned i = 0; i < m->cfg.disks; i++) {
		struct block_config image = m->cfg.disk[i].image;

		image.unlocked = m->cfg.saved && m->cfg.saved->unlocked && !m->cfg.saved->own_disks;
		m->disk[i].image = block_open(&image, e);
		if (!m->disk[i].image)
			return -1;
	}
	return 0;
}

/* The controller is there only if something is on it: systems take a while to look at its ports. */
static int create_sata(struct machine *m, struct pci_bus *bus, struct error *e)
{
	struct ahci_config cfg = { 0 };
	unsigned ports = 0;

	for (unsigned i = 0; i < m->cfg.disks; i++) {
		const struct machine_disk *d = &m->cfg.disk[i];

		if (!d->sata)
			continue;
		m->disk[i].port = ports;
		cfg.drive[ports++] = (struct ahci_drive){
			.image = m->disk[i].image,
			.cdrom = d->cdrom,
			.name = d->id,
			.serial = d->serial,
		};
	}
	if (!ports)
		return 0;
	m->ahci = ahci_create(&m->board, bus, &cfg);
	return m->ahci ? 0 : error_set(e, "not enough host memory for the SATA controller");
}

int machine_disks_create(struct machine *m, struct pci_bus *bus, struct error *e)
{
	for (unsigned i = 0; i < m->cfg.disks; i++) {
		const struct machine_disk *d = &m->cfg.disk[i];

		if (d->sata)
			continue;
		m->disk[i].slot = pci_free_slot(bus);
		const struct blk_config cfg = {
			.image = m->disk[i].image,
			.name = d->id,
			.serial = d->serial,
			.queues = d->queues ? d->queues : MIN(m->cfg.cpus, BLK_QUEUES_MAX),
			.slot = m->disk[i].slot,
		};

		m->disk[i].dev = blk_create(&m->board, bus, &cfg);
		if (!m->disk[i].dev)
			return error_set(e, "not enough host memory or PCI slots for disk '%s'", d->id);
	}
	return create_sata(m, bus, e);
}

static void flushed(struct block_request *r, int error)
{
	*(int *)r->opaque = error;
}

int machine_disks_flush(struct machine *m, struct error *e)
{
	for (unsigned i = 0; i < m->cfg.disks; i++) {
		int error = 0;
		struct block_request r = { .op = BLOCK_FLUSH, .done = flushed, .opaque = &error };

		block_submit(m->disk[i].image, &r);
		block_drain(m->disk[i].image);
		if (error)
			return error_errno(e, error, "disk '%s' cannot be written", m->cfg.disk[i].id);
	}
	return 0;
}

void machine_disks_close(struct machine *m)
{
	for (unsigned i = 0; i < m->cfg.disks; i++) {
		int error = block_close(m->disk[i].image);

		if (error)
			log_error("disk", "%s: what the guest wrote may not be in the file: %s",
				  m->cfg.disk[i].image.path, strerror(error));
		m->disk[i].image = NULL;
	}
}

void machine_disk_stats(const struct machine *m, unsigned n, struct machine_disk_stats *out)
{
	*out = (struct machine_disk_stats){
		.id = m->cfg.disk[n].id,
		.format = block_format_name(m->disk[n].image),
		.count = m->cfg.disk[n].sata ? *ahci_stats(m->ahci, m->disk[n].port) : *blk_stats(m->disk[n].dev),
	};
}

struct block *machine_disk_image(const struct machine *m, unsigned n)
{
	return m->disk[n].image;
}

bool machine_disks_busy(const struct machine *m)
{
	bool busy = false;

	for (unsigned i = 0; i < m->cfg.disks && !busy; i++)
		busy = block_drains_slowly(m->disk[i].image);
	return busy;
}

/* Opening a snapshot and checking it. The directory may come from anybody. */
#include <errno.h>
#include <stdlib.h>

#include "cli/snapshot.h"

static struct stream_section *need(struct snapshot_reader *r, const char *name, struct error *e)
{
	struct stream_section *s = stream_find(&r->state.stream, name);

	if (!s)
		error_set(e, "%s/%s has no section %s", r->path, SNAPSHOT_STATE, name);
	return s;
}

static int read_sections(struct snapshot_reader *r, struct error *e)
{
	const struct stream_section *options = need(r, SAVED_OPTIONS_SECTION, e), *disks;

	if (!options || !(disks = need(r, SNAPSHOT_DISKS_SECTION, e)) || !need(r, RAM_SECTION, e))
		return -1;
	if (snapshot_disks_read(&r->disks, stream_decoder(disks)) ||
	    saved_options_read(&r->options, stream_decoder(options)))
		return error_set(e, "%s/%s: one of the sections options, disks is not sound", r->path, SNAPSHOT_STATE);
	return 0;
}

int snapshot_reader_open(struct snapshot_reader *r, const char *path, struct error *e)
{
	*r = (struct snapshot_reader){ .ram_fd = -1 };
	if (!realpath(path, r->path))
		return error_errno(e, errno, "cannot open snapshot %s", path);
	if (!snapshot_state_read(&r->state, r->path, e) && !read_sections(r, e) &&
	    !snapshot_chain_open(&r->chain, r->path, &r->state.stream, e)) {
		r->ram_size = r->chain.size;
		r->ram_fd = r->chain.level[0].indexed ? -1 : r->chain.level[0].fd;
		return 0;
	}
	snapshot_reader_close(r);
	return -1;
}

int snapshot_check_ram(const struct snapshot_reader *r, struct error *e)
{
	return ram_chain_check(&r->chain, e);
}

static int load_lazy(const void *chain, struct memory *m, struct error *e)
{
	return ram_chain_load(chain, m, false, e);
}

static int load_eager(const void *chain, struct memory *m, struct error *e)
{
	return ram_chain_load(chain, m, true, e);
}

struct machine_saved snapshot_saved(const struct snapshot_reader *r, bool eager)
{
	return (struct machine_saved){
		.stream = &r->state.stream,
		.ram_fd = r->ram_fd,
		.load_ram = eager ? load_eager : load_lazy,
		.ram = &r->chain,
	};
}

void snapshot_reader_close(struct snapshot_reader *r)
{
	snapshot_state_free(&r->state);
	saved_options_free(&r->options);
	ram_chain_close(&r->chain);
	*r = (struct snapshot_reader){ .ram_fd = -1 };
}

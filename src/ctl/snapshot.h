/* The figures of a machine at one moment. */
#ifndef ECTYPE_CTL_SNAPSHOT_H
#define ECTYPE_CTL_SNAPSHOT_H

#include "backend/net/net.h"
#include "base/guid.h"
#include "dev/virtio/balloon.h"
#include "machine/machine.h"

#define SNAPSHOT_COUNTERS 64
#define SNAPSHOT_EXITS 32

struct snapshot_cpu {
	unsigned counters, exits;
	struct engine_counter counter[SNAPSHOT_COUNTERS]; /* the engine's */
	struct engine_cost exit[SNAPSHOT_EXITS];	  /* of translated code, by cause */
};

struct snapshot {
	const char *engine;
	struct machine_stats stats;
	u64 guest_ns, process_cpu_ns;
	u64 ram, mmio_reads, mmio_writes, port_reads, port_writes;
	unsigned disks, nets;
	struct machine_disk_stats disk[MACHINE_DISKS_MAX];
	struct net_count net[MACHINE_NETS_MAX];
	char generation[GUID_TEXT_LEN + 1]; /* "": none */
	bool has_balloon;
	struct virtio_balloon_info balloon;
	unsigned cpus;
	struct snapshot_cpu cpu[];
};

/* NULL: the machine did not answer in time, or there is no memory. Freed with free(). Any thread but the vCPU's. */
struct snapshot *snapshot_take(struct machine *m);

/* "budget", "event" ... */
extern const char *const snapshot_exit_names[VCPU_EXIT_COUNT];

#endif

/*
 * The state hash: XXH3 (64 bit) over the state stream of processors, clock and
 * devices, then over RAM. Pages the host never had to provide are zeros; they
 * are hashed from a page of zeros, so that hashing does not make the host
 * provide them.
 */
#include "machine/internal.h"

#include <xxhash.h>

static void hash_zeros(XXH3_state_t *x, u64 len)
{
	static const u8 zeros[64 * KiB];

	while (len) {
		size_t n = MIN(len, sizeof(zeros));

		XXH3_64bits_update(x, zeros, n);
		len -= n;
	}
}

static void hash_ram(XXH3_state_t *x, struct memory *mem)
{
	const u8 *ram = memory_ram(mem);
	u64 size = memory_ram_size(mem), pos = 0;

	while (pos < size) {
		u64 end, data = memory_next_data(mem, pos, &end);

		hash_zeros(x, data - pos);
		if (data == size)
			break;
		XXH3_64bits_update(x, ram + data, end - data);
		pos = end;
	}
}

u64 machine_state_hash(struct machine *m)
{
	XXH3_state_t *x = XXH3_createState();
	struct encoder e;
	u64 hash = 0;

	if (!x)
		return 0;
	enc_init(&e);
	machine_save_state(m, &e);
	XXH3_64bits_reset(x);
	if (!e.failed) {
		XXH3_64bits_update(x, e.data, e.len);
		hash_ram(x, m->mem);
		hash = XXH3_64bits_digest(x);
	}
	enc_free(&e);
	XXH3_freeState(x);
	return hash;
}

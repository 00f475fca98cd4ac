/*
 * The state hash: XXH3 (64 bit) over the state stream of processors, clock and
 * devices, then over RAM. Pages the host never had to provide are zeros; they
 * are hashed from a page of zeros, so that hashing does not make the host
 * provide them.
 */
#include "machine/internal.h"

#include <xxhash.h>

#include "machine/state.h"

static void hash_zeros(XXH3_state_t *x, u64 len)
{
	static const u8 zeros[64 * KiB];

	while (len) {
		size_t n = MIN(len, sizeof(zeros));

		XXH3_64bits_update(x, zeros, n);
		len -= n;
	}
}

static void hash_ram(XXH3_state_t *x, const struct machine *m)
{
	const u8 *ram = memory_ram(m->mem);
	u64 pos = 0, start, end;

	for (; machine_ram_next(m, pos, &start, &end); pos = end) {
		hash_zeros(x, start - pos);
		XXH3_64bits_update(x, ram + start, end - start);
	}
	hash_zeros(x, memory_ram_size(m->mem) - pos);
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
		hash_ram(x, m);
		hash = XXH3_64bits_digest(x);
	}
	enc_free(&e);
	XXH3_freeState(x);
	return hash;
}

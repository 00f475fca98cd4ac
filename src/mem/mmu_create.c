/* Construction of the software MMU. */
#include <stdlib.h>

#include "mem/mmu_priv.h"

struct mmu *mmu_create(void)
{
	struct mmu_impl *m = aligned_alloc(64, (sizeof(*m) + 63) / 64 * 64);

	if (!m)
		return NULL;
	*m = (struct mmu_impl){ .mmu = { .index = MMU_KERNEL, .gen = 1 } };
	m->mmu.current = m->mmu.tlb[MMU_KERNEL];
	for (unsigned i = 0; i < MMU_INDEX_COUNT; i++)
		for (unsigned k = 0; k < TLB_SIZE; k++)
			for (unsigned a = 0; a < ARRAY_SIZE(m->mmu.tlb[i][k].tag); a++)
				m->mmu.tlb[i][k].tag[a] = TLB_NONE;
	return &m->mmu;
}

void mmu_destroy(struct mmu *m)
{
	free(m);
}

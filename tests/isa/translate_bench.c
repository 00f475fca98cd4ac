/*
 * What a translation costs: all blocks of a program's text, swept from its
 * beginning, are translated a number of times. Prints the fewest cycles of all
 * rounds, and a sum over everything that was made, to tell whether two builds
 * translate alike.
 *
 *     translate_bench [-p] FILE [OFFSET LENGTH [ROUNDS]]
 *
 * -p: as where processors run at once, but with one alone.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/dbt/dbt.h"
#include "rig.h"

#define CODE 0x400000ull
#define TEXT_MAX (16 * MiB)

static struct rig rig;

static u64 hash_bytes(u64 h, const void *data, size_t n)
{
	const u8 *p = data;

	for (size_t k = 0; k < n; k++)
		h = (h ^ p[k]) * 0x100000001b3ull;
	return h;
}

static u64 sum_of(const struct dbt *x)
{
	u64 h = 0xcbf29ce484222325ull;

	for (u32 k = 0; k < x->sh->blocks_n; k++) {
		const struct tblock *b = &x->sh->blocks[k];

		h = hash_bytes(h, x->sh->rw + b->host, b->host_end - b->host);
		h = hash_bytes(h, &x->sh->insns[b->first], b->n * sizeof(struct tinsn));
		h = hash_bytes(h, &b->bytes, sizeof(b->bytes));
	}
	h = hash_bytes(h, x->sh->exits, x->sh->exits_n * sizeof(*x->sh->exits));
	return hash_bytes(h, x->sh->recipes, x->sh->recipes_n * sizeof(*x->sh->recipes));
}

int main(int argc, char **argv)
{
	const struct engine_options o = { .code_cache = 512 * MiB };
	bool parallel = argc > 1 && !strcmp(argv[1], "-p");

	argc -= parallel;
	argv += parallel;

	size_t off = argc > 2 ? strtoull(argv[2], NULL, 0) : 0, len = argc > 3 ? strtoull(argv[3], NULL, 0) : TEXT_MAX;
	unsigned rounds = argc > 4 ? (unsigned)atoi(argv[4]) : 5;
	int fd = argc > 1 ? open(argv[1], O_RDONLY) : -1;
	u64 best = ~0ull;
	struct dbt *x;
	ssize_t n;

	if (fd < 0) {
		fprintf(stderr, "usage: translate_bench [-p] FILE [OFFSET LENGTH [ROUNDS]]\n");
		return 2;
	}
	if (parallel)
		rig_create_group(&rig, &engine_dbt, &o, 1, true);
	else
		rig_create_with(&rig, &engine_dbt, &o);
	n = pread(fd, rig_ram(&rig, 0), len < TEXT_MAX ? len : TEXT_MAX, (off_t)off);
	if (n < 0)
		return 2;
	for (u64 at = 0; at < (u64)n; at += PAGE_SIZE)
		rig_map(&rig, CODE + at, at, false);
	rig.v->cpu.rip = CODE;
	rig_run(&rig, 1);
	dbt_translate_single(rig.v, false);
	x = dbt_of(rig.v);
	x->key &= ~KEY_COUNTED;
	x->counted = false;
	if (parallel)
		world_enter(&rig.world, 0);
	for (unsigned round = 0; round < rounds; round++) {
		struct dbt_stats before;
		u64 at = CODE, cycles, insns, blocks;

		dbt_flush(rig.v);
		before = x->stats;
		cycles = __builtin_ia32_rdtsc();
		while (at < CODE + (u64)n) {
			const struct tblock *b;

			dbt_lock(rig.v);
			b = dbt_find(rig.v, at);
			dbt_unlock(rig.v);
			at += b && b->bytes ? b->bytes : 1;
		}
		cycles = __builtin_ia32_rdtsc() - cycles;
		blocks = x->stats.translations - before.translations;
		insns = x->stats.insns - before.insns;
		if (x->stats.evictions != before.evictions)
			printf("evictions: the cache is too small\n");
		if (cycles < best)
			best = cycles;
		printf("%llu blocks, %llu instructions, %llu host bytes: %llu cycles a block, %llu an instruction\n",
		       (unsigned long long)blocks, (unsigned long long)insns,
		       (unsigned long long)(x->stats.host_bytes - before.host_bytes),
		       (unsigned long long)(cycles / blocks), (unsigned long long)(cycles / insns));
	}
	printf("sum %016llx\n", (unsigned long long)sum_of(x));
	if (parallel)
		world_leave(&rig.world, 0);
	rig_destroy(&rig);
	return 0;
}

/*
 * What a translation costs: all blocks of a program's text, swept from its
 * beginning, are translated a number of times. Prints the fewest cycles of all
 * rounds, and a sum over everything that was made, to tell whether two builds
 * translate alike.
 *
 *     translate_bench [-p PROCESSORS] FILE [OFFSET LENGTH [ROUNDS]]
 *
 * -p: by so many at once; 1: as they do, but alone.
 */
#include <fcntl.h>
#include <pthread.h>
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

/* What one processor translates: every `step`th chunk of the text, from chunk `first` on. */
struct share {
	pthread_t thread;
	struct vcpu *v;
	u64 bytes;
	unsigned first, step;
};
#define CHUNK 16384u

static void translate_chunk(struct vcpu *v, u64 at, u64 end)
{
	while (at < end) {
		const struct tblock *b;

		dbt_lock(v);
		b = dbt_find(v, at);
		dbt_unlock(v);
		at += b && b->bytes ? b->bytes : 1;
	}
}

static void *translate_share(void *arg)
{
	const struct share *s = arg;
	bool parallel = dbt_of(s->v)->world;

	if (parallel)
		world_enter(&rig.world, s->v->index);
	for (u64 at = s->first * CHUNK; at < s->bytes; at += (u64)s->step * CHUNK) {
		if (s->v->event & EV_WORLD)
			wait_for_others(s->v);
		translate_chunk(s->v, CODE + at, CODE + (s->bytes - at < CHUNK ? s->bytes : at + CHUNK));
	}
	if (parallel)
		world_leave(&rig.world, s->v->index);
	return NULL;
}

/* By `n` processors at once. */
static void translate_all(struct share *shares, unsigned n)
{
	for (unsigned k = 1; k < n; k++)
		if (pthread_create(&shares[k].thread, NULL, translate_share, &shares[k]))
			exit(2);
	translate_share(&shares[0]);
	for (unsigned k = 1; k < n; k++)
		pthread_join(shares[k].thread, NULL);
}

static struct dbt_stats all_stats(unsigned n)
{
	struct dbt_stats sum = { 0 };

	for (unsigned k = 0; k < n; k++) {
		sum.translations += dbt_of(rig.cpu[k])->stats.translations;
		sum.insns += dbt_of(rig.cpu[k])->stats.insns;
		sum.host_bytes += dbt_of(rig.cpu[k])->stats.host_bytes;
		sum.evictions += dbt_of(rig.cpu[k])->stats.evictions;
		sum.lock_waits += dbt_of(rig.cpu[k])->stats.lock_waits;
	}
	return sum;
}

/* So that it is in the mode that is translated, with nothing counted. */
static void settle_at_code(struct vcpu *v, struct share *s)
{
	struct dbt *x = dbt_of(v);

	v->cpu = rig.v->cpu;
	mmu_mode_changed(v);
	x->key = dbt_of(rig.v)->key & ~KEY_COUNTED;
	x->mode = dbt_of(rig.v)->mode;
	x->control = dbt_of(rig.v)->control;
	x->user = dbt_of(rig.v)->user;
	x->counted = x->single = false;
	s->v = v;
}

int main(int argc, char **argv)
{
	const struct engine_options o = { .code_cache = 512 * MiB };
	bool parallel = argc > 2 && !strcmp(argv[1], "-p");
	unsigned n = parallel ? (unsigned)atoi(argv[2]) : 1;
	struct share shares[WORLD_MAX];
	size_t off, len;
	unsigned rounds;
	u64 best = ~0ull;
	ssize_t bytes;
	int fd;

	argc -= 2 * parallel;
	argv += 2 * parallel;
	off = argc > 2 ? strtoull(argv[2], NULL, 0) : 0;
	len = argc > 3 ? strtoull(argv[3], NULL, 0) : TEXT_MAX;
	rounds = argc > 4 ? (unsigned)atoi(argv[4]) : 5;
	fd = argc > 1 ? open(argv[1], O_RDONLY) : -1;
	if (fd < 0 || !n || n > WORLD_MAX) {
		fprintf(stderr, "usage: translate_bench [-p PROCESSORS] FILE [OFFSET LENGTH [ROUNDS]]\n");
		return 2;
	}
	rig_create_group(&rig, &engine_dbt, &o, n, parallel);
	bytes = pread(fd, rig_ram(&rig, 0), len < TEXT_MAX ? len : TEXT_MAX, (off_t)off);
	if (bytes < 0)
		return 2;
	for (u64 at = 0; at < (u64)bytes; at += PAGE_SIZE)
		rig_map(&rig, CODE + at, at, false);
	rig.v->cpu.rip = CODE;
	rig_run(&rig, 1);
	for (unsigned k = 0; k < n; k++) {
		shares[k] = (struct share){ .bytes = (u64)bytes, .first = k, .step = n };
		settle_at_code(rig.cpu[k], &shares[k]);
	}
	for (unsigned round = 0; round < rounds; round++) {
		struct dbt_stats before, after;
		u64 cycles, insns, blocks;

		dbt_flush(rig.v);
		before = all_stats(n);
		cycles = __builtin_ia32_rdtsc();
		translate_all(shares, n);
		cycles = __builtin_ia32_rdtsc() - cycles;
		after = all_stats(n);
		blocks = after.translations - before.translations;
		insns = after.insns - before.insns;
		if (after.evictions != before.evictions)
			printf("evictions: the cache is too small\n");
		if (cycles < best)
			best = cycles;
		printf(
		    "%llu blocks, %llu instructions, %llu host bytes: %llu cycles a block, %llu an instruction; %llu lock waits\n",
		    (unsigned long long)blocks, (unsigned long long)insns,
		    (unsigned long long)(after.host_bytes - before.host_bytes), (unsigned long long)(cycles / blocks),
		    (unsigned long long)(cycles / insns), (unsigned long long)(after.lock_waits - before.lock_waits));
	}
	printf("best: %llu million cycles; sum %016llx\n", (unsigned long long)best / 1000000,
	       (unsigned long long)sum_of(dbt_of(rig.v)));
	rig_destroy(&rig);
	return 0;
}

/*
 * A fixed amount of work, cut into so many parts as there are threads, that
 * meet at barriers: integer mixing over 256 KiB of each thread and a product of
 * matrices. Prints a checksum, which does not depend on the count of threads.
 *
 *	smp_work THREADS [UNITS]
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define PARTS 16 /* of a unit, whatever the threads */
#define WORDS 4096
#define N 48
static int threads;
static long units;
static uint64_t result[PARTS];
static uint64_t table[PARTS][WORDS];
static pthread_barrier_t all;

static uint64_t mix(int part)
{
	uint64_t h = result[part] + (uint64_t)part + 1, *t = table[part];

	for (int turn = 0; turn < 24; turn++) {
		for (int i = 0; i < WORDS; i++) {
			h ^= h << 13;
			h ^= h >> 7;
			h ^= h << 17;
			t[(h >> 8) % WORDS] += h;
			h += t[i];
		}
	}
	return h;
}

static uint64_t product(uint64_t seed)
{
	static _Thread_local double a[N][N], b[N][N];
	double sum = 0;

	for (int i = 0; i < N; i++)
		for (int j = 0; j < N; j++) {
			a[i][j] = (double)((seed >> ((i + j) % 40)) & 255);
			b[i][j] = (double)(i * j % 17);
		}
	for (int i = 0; i < N; i++)
		for (int j = 0; j < N; j++) {
			double s = 0;
			for (int k = 0; k < N; k++)
				s += a[i][k] * b[k][j];
			sum += s;
		}
	return (uint64_t)sum;
}

static void *work(void *arg)
{
	long me = (long)arg;

	for (long u = 0; u < units; u++) {
		for (int part = (int)me; part < PARTS; part += threads) {
			uint64_t h = mix(part);
			result[part] = h ^ product(h);
		}
		pthread_barrier_wait(&all);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t t[PARTS];
	uint64_t sum = 0;

	threads = argc > 1 ? atoi(argv[1]) : 1;
	units = argc > 2 ? atol(argv[2]) : 40;
	if (threads < 1 || threads > PARTS)
		return 2;
	pthread_barrier_init(&all, NULL, (unsigned)threads);
	for (long i = 1; i < threads; i++)
		if (pthread_create(&t[i], NULL, work, (void *)i))
			return 2;
	work(0);
	for (int i = 1; i < threads; i++)
		pthread_join(t[i], NULL);
	for (int i = 0; i < PARTS; i++)
		sum = sum * 31 + result[i];
	printf("%016llx\n", (unsigned long long)sum);
	return 0;
}

/*
 * The product of two matrices of floats, in the plain loops that a compiler
 * vectorises. Compiled twice, with -O3: for the base architecture, and with
 * -mavx2, which bench.py leaves out if the host lacks it.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "work.h"

#ifdef __AVX2__
#define SETUP setup_matrix_avx2
#define RUN run_matrix_avx2
#else
#define SETUP setup_matrix
#define RUN run_matrix
#endif

enum { SIZE = 192 };
typedef float matrix[SIZE][SIZE];
static matrix *a, *b, *c;

void SETUP(void)
{
	uint64_t x = 31337;

	a = pages(sizeof(matrix), PROT_READ | PROT_WRITE);
	b = pages(sizeof(matrix), PROT_READ | PROT_WRITE);
	c = pages(sizeof(matrix), PROT_READ | PROT_WRITE);
	for (int i = 0; i < SIZE; i++)
		for (int j = 0; j < SIZE; j++) {
			(*a)[i][j] = (float)(next_random(&x) >> 44) / (1 << 20);
			(*b)[i][j] = (float)(next_random(&x) >> 44) / (1 << 20);
		}
}

/* A count is one product. */
uint64_t RUN(uint64_t count)
{
	uint64_t sum = 0;

	for (uint64_t n = 0; n < count; n++) {
		(*a)[n % SIZE][0] += 1;
		for (int i = 0; i < SIZE; i++) {
			for (int j = 0; j < SIZE; j++)
				(*c)[i][j] = 0;
			for (int k = 0; k < SIZE; k++)
				for (int j = 0; j < SIZE; j++)
					(*c)[i][j] += (*a)[i][k] * (*b)[k][j];
		}
		sum = mix(sum, (uint64_t)((*c)[n % SIZE][n % 7] * 1024));
	}
	return sum;
}

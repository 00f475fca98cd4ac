/* Floating point. No function of libm whose result depends on the processor's features is used. */
#define _GNU_SOURCE
#include <complex.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>

#include "work.h"

static uint64_t bits_of(double x)
{
	uint64_t bits;

	memcpy(&bits, &x, sizeof(bits));
	return bits;
}

struct body {
	double x[3], v[3], mass;
};

static void advance(struct body *bodies, int n, double dt)
{
	for (int i = 0; i < n; i++) {
		struct body *a = &bodies[i];

		for (int j = i + 1; j < n; j++) {
			struct body *b = &bodies[j];
			double d[3], r2 = 0, f;

			for (int k = 0; k < 3; k++) {
				d[k] = a->x[k] - b->x[k];
				r2 += d[k] * d[k];
			}
			f = dt / (r2 * sqrt(r2));
			for (int k = 0; k < 3; k++) {
				a->v[k] -= d[k] * b->mass * f;
				b->v[k] += d[k] * a->mass * f;
			}
		}
	}
	for (int i = 0; i < n; i++)
		for (int k = 0; k < 3; k++)
			bodies[i].x[k] += dt * bodies[i].v[k];
}

/* A count moves a sun and four planets by one step. */
uint64_t run_nbody(uint64_t count)
{
	struct body bodies[5] = {
		{ { 0, 0, 0 }, { 0, 0, 0 }, 39.47 },
		{ { 4.84, -1.16, -0.10 }, { 0.606, 2.81, -0.02 }, 0.0377 },
		{ { 8.34, 4.12, -0.40 }, { -1.01, 1.82, 0.008 }, 0.0113 },
		{ { 12.89, -15.11, -0.22 }, { 1.08, 0.868, -0.01 }, 0.0017 },
		{ { 15.37, -25.91, 0.179 }, { 0.979, 0.594, -0.034 }, 0.002 },
	};

	for (uint64_t i = 0; i < count; i++)
		advance(bodies, 5, 0.001);
	return bits_of(bodies[0].x[0] + bodies[1].x[1] + bodies[4].v[2]);
}

/* A count is one line of 256 points, up to 200 steps each. */
uint64_t run_mandelbrot(uint64_t count)
{
	uint64_t steps = 0;

	for (uint64_t line = 0; line < count; line++)
		for (int column = 0; column < 256; column++) {
			double cx = column / 100.0 - 2, cy = (double)(line & 255) / 128 - 1;
			double x = 0, y = 0;

			for (int n = 0; n < 200 && x * x + y * y < 4; n++, steps++) {
				double t = x * x - y * y + cx;

				y = 2 * x * y + cy;
				x = t;
			}
		}
	return steps;
}

enum { FFT_BITS = 12, FFT_SIZE = 1 << FFT_BITS };
static double complex *signal_in, *spectrum, *roots;

void setup_fft(void)
{
	double c = -1, s = 0;
	uint64_t x = 77;

	signal_in = pages(FFT_SIZE * sizeof(*signal_in), PROT_READ | PROT_WRITE);
	spectrum = pages(FFT_SIZE * sizeof(*spectrum), PROT_READ | PROT_WRITE);
	roots = pages((FFT_BITS + 1) * sizeof(*roots), PROT_READ | PROT_WRITE);
	for (int i = 0; i < FFT_SIZE; i++)
		signal_in[i] = (double)(next_random(&x) >> 40) / (1 << 24);
	/* roots[k] is the first root of unity of order 2^k, by halving the angle */
	roots[0] = 1;
	for (int k = 1; k <= FFT_BITS; k++) {
		double half = sqrt((1 + c) / 2);

		roots[k] = c - s * I;
		s = sqrt((1 - c) / 2);
		c = half;
	}
}

/* A count is one transform of 4,096 complex numbers, radix 2, in place. */
uint64_t run_fft(uint64_t count)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		for (uint32_t k = 0, r = 0; k < FFT_SIZE; k++) {
			uint32_t bit = FFT_SIZE >> 1;

			spectrum[r] = signal_in[k] * (double)(i + 1);
			for (; r & bit; bit >>= 1)
				r ^= bit;
			r |= bit;
		}
		for (int stage = 1; stage <= FFT_BITS; stage++) {
			int half = 1 << (stage - 1);

			for (int from = 0; from < FFT_SIZE; from += 2 * half) {
				double complex w = 1;

				for (int k = from; k < from + half; k++) {
					double complex t = w * spectrum[k + half];

					spectrum[k + half] = spectrum[k] - t;
					spectrum[k] += t;
					w *= roots[stage];
				}
			}
		}
		sum = mix(sum, bits_of(creal(spectrum[i % FFT_SIZE])));
	}
	return sum;
}

/* The Basel sum and a continued fraction in the 80-bit format, with compares and conversions. */
uint64_t run_x87(uint64_t count)
{
	long double sum = 0, fraction = 1, root = 2;

	for (uint64_t i = 1; i <= count; i++) {
		long double n = (long double)i;

		sum += 1 / (n * n);
		fraction = 1 + 1 / (fraction + 0.5L / n);
		root = sqrtl(root + fraction);
		if (root > 2.0L)
			root -= (long double)(int)root;
	}
	return mix(mix(bits_of((double)sum), bits_of((double)fraction)), bits_of((double)root));
}

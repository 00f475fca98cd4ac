/* Integer programs. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "work.h"

/* Random numbers and a branch on one in sixteen of them. */
uint64_t run_integer(uint64_t count)
{
	uint64_t x = 88172645463325252ull, sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		uint64_t r = next_random(&x);

		if (r & 15)
			sum += r * 3 + i;
		else
			sum ^= r >> 5;
	}
	return sum;
}

enum { SIEVE_SIZE = 1 << 18 };
static uint8_t *composite;

void setup_sieve(void)
{
	composite = pages(SIEVE_SIZE, PROT_READ | PROT_WRITE);
}

/* A count is the primes below 262,144. */
uint64_t run_sieve(uint64_t count)
{
	uint64_t primes = 0;

	for (uint64_t i = 0; i < count; i++) {
		memset(composite, 0, SIEVE_SIZE);
		for (uint32_t n = 2; n < SIEVE_SIZE; n++) {
			if (composite[n])
				continue;
			primes++;
			for (uint32_t m = 2 * n; m < SIEVE_SIZE; m += n)
				composite[m] = 1;
		}
	}
	return primes;
}

/* The steps that all numbers up to `count` take to 1. */
uint64_t run_collatz(uint64_t count)
{
	uint64_t steps = 0;

	for (uint64_t i = 1; i <= count; i++)
		for (uint64_t n = i; n != 1; steps++)
			n = n & 1 ? 3 * n + 1 : n / 2;
	return steps;
}

/* Greatest common divisors: a division a step, of 64 and of 32 bits. */
uint64_t run_divide(uint64_t count)
{
	uint64_t x = 362436069, sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		uint64_t a = next_random(&x), b = next_random(&x) >> 7;
		uint32_t c = (uint32_t)a, d = (uint32_t)b | 1;

		while (b) {
			uint64_t r = a % b;

			a = b;
			b = r;
		}
		while (d) {
			uint32_t r = c % d;

			c = d;
			d = r;
		}
		sum += a + c;
	}
	return sum;
}

enum { SORT_ITEMS = 1 << 16 };
static uint32_t *unsorted, *items;

void setup_sort(void)
{
	uint64_t x = 521288629;

	unsorted = pages(SORT_ITEMS * sizeof(*unsorted), PROT_READ | PROT_WRITE);
	items = pages(SORT_ITEMS * sizeof(*items), PROT_READ | PROT_WRITE);
	for (size_t i = 0; i < SORT_ITEMS; i++)
		unsorted[i] = (uint32_t)next_random(&x);
}

static void quicksort(uint32_t *a, ptrdiff_t n)
{
	while (n > 16) {
		uint32_t pivot = a[n / 2];
		ptrdiff_t i = 0, j = n - 1;

		while (i <= j) {
			while (a[i] < pivot)
				i++;
			while (a[j] > pivot)
				j--;
			if (i <= j) {
				uint32_t t = a[i];

				a[i++] = a[j];
				a[j--] = t;
			}
		}
		quicksort(a, j + 1);
		a += i;
		n -= i;
	}
	for (ptrdiff_t i = 1; i < n; i++) {
		uint32_t t = a[i];
		ptrdiff_t j = i;

		for (; j > 0 && a[j - 1] > t; j--)
			a[j] = a[j - 1];
		a[j] = t;
	}
}

static uint64_t sample(const uint32_t *a)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < SORT_ITEMS; i += 1021)
		sum = mix(sum, a[i]);
	return sum;
}

/* A count sorts 65,536 numbers. */
uint64_t run_sort(uint64_t count)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		memcpy(items, unsorted, SORT_ITEMS * sizeof(*items));
		items[i % SORT_ITEMS] = (uint32_t)i;
		quicksort(items, SORT_ITEMS);
		sum = mix(sum, sample(items));
	}
	return sum;
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

/* The same by the C library's qsort(), which calls back for every comparison. */
uint64_t run_qsort(uint64_t count)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		memcpy(items, unsorted, SORT_ITEMS * sizeof(*items));
		items[i % SORT_ITEMS] = (uint32_t)i;
		qsort(items, SORT_ITEMS, sizeof(*items), compare);
		sum = mix(sum, sample(items));
	}
	return sum;
}

enum { BLOB_SIZE = 1 << 20 };
static uint8_t *blob;
static uint32_t crc_table[256];

void setup_blob(void)
{
	uint64_t x = 88675123;

	blob = pages(BLOB_SIZE, PROT_READ | PROT_WRITE);
	for (size_t i = 0; i < BLOB_SIZE; i++)
		blob[i] = (uint8_t)next_random(&x);
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int bit = 0; bit < 8; bit++)
			c = c & 1 ? c >> 1 ^ 0xedb88320 : c >> 1;
		crc_table[i] = c;
	}
}

/* A count is the CRC-32 of 1 MiB by table, a byte at a time. */
uint64_t run_crc32(uint64_t count)
{
	uint32_t c = ~0u;

	for (uint64_t i = 0; i < count; i++)
		for (size_t j = 0; j < BLOB_SIZE; j++)
			c = crc_table[(c ^ blob[j]) & 255] ^ c >> 8;
	return ~c;
}

static uint32_t rotate(uint32_t x, int n)
{
	return x >> n | x << (32 - n);
}

/* FIPS 180-4, section 6.2.2. */
static void sha256_block(uint32_t h[8], const uint8_t *p)
{
	static const uint32_t k[64] = {
		0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
		0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
		0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
		0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
		0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
		0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
		0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
		0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2
	};
	uint32_t w[64], s[8];

	for (int i = 0; i < 16; i++)
		w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 |
		       p[4 * i + 3];
	for (int i = 16; i < 64; i++) {
		uint32_t a = w[i - 15], b = w[i - 2];

		w[i] = w[i - 16] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) + w[i - 7] +
		       (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
	}
	memcpy(s, h, sizeof(s));
	for (int i = 0; i < 64; i++) {
		uint32_t t1 = s[7] + (rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25)) +
			      ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
		uint32_t t2 = (rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22)) +
			      ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));

		memmove(s + 1, s, 7 * sizeof(*s));
		s[4] += t1;
		s[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		h[i] += s[i];
}

/* A count is SHA-256 over 1 MiB, whose last bytes stand for the padding. */
uint64_t run_sha256(uint64_t count)
{
	uint32_t h[8] = {
		0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19
	};

	for (uint64_t i = 0; i < count; i++)
		for (size_t j = 0; j < BLOB_SIZE; j += 64)
			sha256_block(h, blob + j);
	return (uint64_t)h[0] << 32 | h[7];
}

/* Population count, leading and trailing zeros, byte swaps, gathers of bits, variable shifts. */
uint64_t run_bits(uint64_t count)
{
	uint64_t x = 5783321, sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		uint64_t r = next_random(&x), low = r & -r;

		sum += (uint64_t)__builtin_popcountll(r) + (uint64_t)__builtin_ctzll(r);
		sum = sum << (r & 63) | sum >> (-r & 63);
		sum ^= __builtin_bswap64(r) + (r & (r - 1));
		sum -= (uint64_t)__builtin_clzll(low) * ((r >> (i & 31)) & 1);
	}
	return sum;
}

enum { LIMBS = 128 };

/* A count multiplies two numbers of 8,192 bits and adds the halves of the product. */
uint64_t run_bignum(uint64_t count)
{
	uint64_t a[LIMBS], b[LIMBS], product[2 * LIMBS], x = 123456789123;

	for (int i = 0; i < LIMBS; i++) {
		a[i] = next_random(&x);
		b[i] = next_random(&x);
	}
	for (uint64_t n = 0; n < count; n++) {
		unsigned carry = 0;

		memset(product, 0, sizeof(product));
		for (int i = 0; i < LIMBS; i++) {
			uint64_t high = 0;

			for (int j = 0; j < LIMBS; j++) {
				unsigned __int128 t = (unsigned __int128)a[i] * b[j] + product[i + j] + high;

				product[i + j] = (uint64_t)t;
				high = (uint64_t)(t >> 64);
			}
			product[i + LIMBS] = high;
		}
		for (int i = 0; i < LIMBS; i++) {
			unsigned __int128 t = (unsigned __int128)product[i] + product[i + LIMBS] + carry;

			a[i] = (uint64_t)t;
			carry = (unsigned)(t >> 64);
		}
	}
	return a[0] ^ a[LIMBS - 1];
}

/* A machine of registers, interpreted by a switch; its program counts primes by trial division. */
enum opcode { OP_SET, OP_ADD, OP_MULTIPLY, OP_REMAINDER, OP_LESS, OP_IF_ZERO, OP_GO, OP_HALT };
struct instruction {
	uint8_t op, a, b, c;
	int32_t value;
};

enum { N, D, PRIMES, LIMIT, ONE, T };
static const struct instruction prime_program[] = {
	{ OP_SET, PRIMES, 0, 0, 0 }, { OP_SET, ONE, 0, 0, 1 },	   { OP_SET, N, 0, 0, 2 },
	{ OP_LESS, T, N, LIMIT, 0 },								/* 3 */
	{ OP_IF_ZERO, T, 0, 0, 17 }, { OP_SET, D, 0, 0, 2 },	   { OP_MULTIPLY, T, D, D, 0 }, /* 6 */
	{ OP_LESS, T, N, T, 0 },     { OP_IF_ZERO, T, 0, 0, 11 },  { OP_ADD, PRIMES, PRIMES, ONE, 0 },
	{ OP_GO, 0, 0, 0, 15 },	     { OP_REMAINDER, T, N, D, 0 }, /* 11 */
	{ OP_ADD, D, D, ONE, 0 },    { OP_IF_ZERO, T, 0, 0, 15 },  { OP_GO, 0, 0, 0, 6 },
	{ OP_ADD, N, N, ONE, 0 },				   /* 15 */
	{ OP_GO, 0, 0, 0, 3 },	     { OP_HALT, PRIMES, 0, 0, 0 }, /* 17 */
};

static int64_t interpret(const struct instruction *program, int64_t limit)
{
	int64_t r[8] = { [LIMIT] = limit };
	const struct instruction *i = program;

	for (;;) {
		switch ((enum opcode)i->op) {
		case OP_SET:
			r[i->a] = i->value;
			break;
		case OP_ADD:
			r[i->a] = r[i->b] + r[i->c];
			break;
		case OP_MULTIPLY:
			r[i->a] = r[i->b] * r[i->c];
			break;
		case OP_REMAINDER:
			r[i->a] = r[i->b] % r[i->c];
			break;
		case OP_LESS:
			r[i->a] = r[i->b] < r[i->c];
			break;
		case OP_IF_ZERO:
			if (r[i->a] == 0) {
				i = program + i->value;
				continue;
			}
			break;
		case OP_GO:
			i = program + i->value;
			continue;
		case OP_HALT:
			return r[i->a];
		}
		i++;
	}
}

/* The primes below `count`. */
uint64_t run_bytecode(uint64_t count)
{
	return (uint64_t)interpret(prime_program, (int64_t)count);
}

static __attribute__((noinline)) uint64_t fibonacci(uint64_t n)
{
	return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

uint64_t run_fib(uint64_t count)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++)
		sum += fibonacci(20 + (i & 3));
	return sum;
}

static __attribute__((noinline)) uint64_t ackermann(uint64_t m, uint64_t n)
{
	if (!m)
		return n + 1;
	return ackermann(m - 1, n ? ackermann(m, n - 1) : 1);
}

uint64_t run_ackermann(uint64_t count)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++)
		sum += ackermann(2, 300 + (i & 3)) + ackermann(3, 6);
	return sum;
}

/* Code that is made while it runs. */
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "work.h"

/* All made functions take a number and return one. */
typedef uint32_t made(uint32_t);

static uint32_t call(const uint8_t *code, uint32_t argument)
{
	made *function;

	memcpy(&function, &code, sizeof(function));
	return function(argument);
}

static uint8_t *put(uint8_t *at, const void *bytes, size_t n)
{
	memcpy(at, bytes, n);
	return at + n;
}

static uint8_t *put32(uint8_t *at, uint32_t value)
{
	return put(at, &value, sizeof(value));
}

/* lea eax, [rdi + constant]; xor eax, edi; ret: 9 bytes. */
static void make_leaf(uint8_t *at, uint32_t constant)
{
	at = put(at, "\x8d\x87", 2);
	at = put32(at, constant);
	put(at, "\x31\xf8\xc3", 3);
}

static uint8_t *code, *view;

void setup_rewrite(void)
{
	code = pages(4096, PROT_READ | PROT_WRITE | PROT_EXEC);
}

/* A count writes a function into a page that has just run, and calls it twice. */
uint64_t run_rewrite(uint64_t count)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		uint8_t *at = code + (i & 15) * 64;

		make_leaf(at, (uint32_t)(i * 2654435761u));
		sum += call(at, (uint32_t)i);
		sum += call(at, (uint32_t)sum);
	}
	return sum;
}

enum { BESIDE_DATA = 2048 };

/* A function that adds its argument, counting down, to a variable half a page behind it. */
void setup_beside(void)
{
	uint8_t *at = code = pages(4096, PROT_READ | PROT_WRITE | PROT_EXEC), *top;

	top = at;
	at = put(at, "\x01\x3d", 2); /* add [rip + x], edi */
	at = put32(at, (uint32_t)(code + BESIDE_DATA - (at + 4)));
	at = put(at, "\x83\xef\x01\x75", 4); /* sub edi, 1; jnz top */
	*at = (uint8_t)(top - (at + 1));
	at++;
	at = put(at, "\x8b\x05", 2); /* mov eax, [rip + x] */
	at = put32(at, (uint32_t)(code + BESIDE_DATA - (at + 4)));
	*at = 0xc3;
}

/* A count is 100 turns of that loop, and a store from outside to the page. */
uint64_t run_beside(uint64_t count)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		put32(code + BESIDE_DATA + 64, (uint32_t)i);
		sum += call(code, 100);
	}
	return sum;
}

/* As a compiler of expressions would: 100 operations by eax, edi and constants, some jumped over. */
void setup_once(void)
{
	static const char *const operations[] = {
		"\x01\xf8",	/* add eax, edi */
		"\x31\xf8",	/* xor eax, edi */
		"\xd1\xc0",	/* rol eax, 1 */
		"\x29\xc7",	/* sub edi, eax */
		"\xf7\xd0",	/* not eax */
		"\x0f\xaf\xc7", /* imul eax, edi */
		"\x8d\x3c\x47", /* lea edi, [rdi + rax * 2] */
		"\x83\xc8\x11", /* or eax, 17 */
	};
	uint64_t x = 271828;
	uint8_t *at = code = pages(4096, PROT_READ | PROT_WRITE | PROT_EXEC);

	at = put(at, "\x89\xf8", 2); /* mov eax, edi */
	for (int i = 0; i < 100; i++) {
		const char *operation = operations[next_random(&x) % 8];

		if (i % 8 == 7)
			at = put(at, "\xa8\x04\x74\x05", 4); /* test al, 4; jz over the next */
		if (i % 8 == 7) {
			*at++ = 0x05; /* add eax, constant */
			at = put32(at, (uint32_t)next_random(&x));
		}
		at = put(at, operation, strlen(operation));
	}
	*at = 0xc3;
}

/* A count is one call. */
uint64_t run_once(uint64_t count)
{
	uint64_t sum = 1;

	for (uint64_t i = 0; i < count; i++)
		sum = sum * 3 + call(code, (uint32_t)(sum ^ i));
	return sum;
}

enum { ARENA_SIZE = 4 << 20 };
static size_t arena_used;

void setup_afresh(void)
{
	code = pages(ARENA_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC);
}

/* A count makes a function at an address not used before and calls it four times; a full arena is given back. */
uint64_t run_afresh(uint64_t count)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		uint8_t *at;

		if (arena_used + 64 > ARENA_SIZE) {
			munmap(code, ARENA_SIZE);
			setup_afresh();
			arena_used = 0;
		}
		at = code + arena_used;
		arena_used += 64;
		make_leaf(at, (uint32_t)(i * 2654435761u));
		for (int k = 0; k < 4; k++)
			sum += call(at, (uint32_t)sum);
	}
	return sum;
}

/* A loop whose body rewrites the constant of its own next instruction. */
void setup_immediates(void)
{
	uint8_t *at = code = pages(4096, PROT_READ | PROT_WRITE | PROT_EXEC), *top;

	at = put(at, "\x31\xc0", 2); /* xor eax, eax */
	top = at;
	at = put(at, "\x81\x05", 2); /* add dword [rip + 1], 7: what the next one adds */
	at = put32(at, 1);
	at = put32(at, 7);
	*at++ = 0x05; /* add eax, constant */
	at = put32(at, 1);
	at = put(at, "\x83\xef\x01\x75", 4); /* sub edi, 1; jnz top */
	*at = (uint8_t)(top - (at + 1));
	at[1] = 0xc3;
}

/* A count is one turn of the loop. */
uint64_t run_immediates(uint64_t count)
{
	return call(code, (uint32_t)count);
}

void setup_flip(void)
{
	code = pages(16 * 4096, PROT_READ | PROT_EXEC);
}

/* A count makes a page writable, writes a function there, makes it executable instead, and calls. */
uint64_t run_flip(uint64_t count)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		uint8_t *page = code + (i & 15) * 4096, *at = page + (i >> 4 & 31) * 64;

		if (mprotect(page, 4096, PROT_READ | PROT_WRITE))
			die("mprotect");
		make_leaf(at, (uint32_t)(i * 2654435761u));
		if (mprotect(page, 4096, PROT_READ | PROT_EXEC))
			die("mprotect");
		for (int k = 0; k < 4; k++)
			sum += call(at, (uint32_t)sum);
	}
	return sum;
}

enum { VIEWS_SIZE = 1 << 20 };
static int views_fd;

static void map_code_view(void)
{
	code = mmap(NULL, VIEWS_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, views_fd, 0);
	if (code == MAP_FAILED)
		die("mmap");
}

void setup_twoviews(void)
{
	views_fd = memfd_create("code", MFD_CLOEXEC);
	if (views_fd < 0 || ftruncate(views_fd, VIEWS_SIZE))
		die("memfd");
	view = mmap(NULL, VIEWS_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, views_fd, 0);
	if (view == MAP_FAILED)
		die("mmap");
	map_code_view();
}

/*
 * A count writes a function through one mapping and calls it four times through
 * the other. None is rewritten under an address that has run: that would take
 * a serializing instruction, since the addresses differ (SDM 3, 9.1.3).
 */
uint64_t run_twoviews(uint64_t count)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++) {
		if (arena_used + 64 > VIEWS_SIZE) {
			munmap(code, VIEWS_SIZE);
			map_code_view();
			arena_used = 0;
		}
		make_leaf(view + arena_used, (uint32_t)(i * 2654435761u));
		for (int k = 0; k < 4; k++)
			sum += call(code + arena_used, (uint32_t)sum);
		arena_used += 64;
	}
	return sum;
}

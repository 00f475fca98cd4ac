/*
 * Drives a fuzz target without libFuzzer: mutations of the seeds given, or of
 * nothing, for a number of seconds or of runs.
 *
 *	fuzz_X [--seconds N] [--seed S] [FILE...]
 *
 * The seed is printed first; a crash leaves the input in fuzz-crash-<pid>.
 */
#include "fuzz.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MAX_INPUT 8192
#define MAX_SEEDS 64

static struct {
	u8 bytes[MAX_INPUT];
	size_t size;
} seeds[MAX_SEEDS];
static unsigned seed_count;
static u8 input[MAX_INPUT];
static size_t input_size;
static u64 state;

static u64 next(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static void crashed(int sig)
{
	char name[64];
	int n = snprintf(name, sizeof(name), "fuzz-crash-%d", (int)getpid());
	int fd = open(name, O_CREAT | O_WRONLY | O_TRUNC, 0644);

	if (fd >= 0 && n > 0) {
		(void)!write(fd, input, input_size);
		close(fd);
	}
	signal(sig, SIG_DFL);
	raise(sig);
}

static void mutate(void)
{
	static const u8 interesting[] = { 0, 1, 0x7f, 0x80, 0xff, 0xf0, 0x66, 0x0f, 0x40 };
	unsigned steps = 1 + next() % 8;

	while (steps--) {
		size_t at = input_size ? next() % input_size : 0;

		switch (next() % 7) {
		case 0:
			if (input_size)
				input[at] ^= 1u << (next() % 8);
			break;
		case 1:
			if (input_size)
				input[at] = (u8)next();
			break;
		case 2:
			if (input_size)
				input[at] = interesting[next() % sizeof(interesting)];
			break;
		case 3:
			if (input_size < MAX_INPUT) {
				memmove(input + at + 1, input + at, input_size - at);
				input[at] = (u8)next();
				input_size++;
			}
			break;
		case 4:
			if (input_size > 1) {
				memmove(input + at, input + at + 1, input_size - at - 1);
				input_size--;
			}
			break;
		case 5:
			for (unsigned i = 0; i < 4 && at + i < input_size; i++)
				input[at + i] = next() & 1 ? 0xff : 0;
			break;
		default:
			if (input_size > 8 && next() % 16 == 0)
				input_size = next() % input_size;
			break;
		}
	}
}

static void add_seed(const char *path)
{
	FILE *f = fopen(path, "rb");

	if (!f || seed_count == MAX_SEEDS) {
		fprintf(stderr, "cannot use seed %s\n", path);
		exit(2);
	}
	seeds[seed_count].size = fread(seeds[seed_count].bytes, 1, MAX_INPUT, f);
	seed_count++;
	fclose(f);
}

int main(int argc, char **argv)
{
	double seconds = 5;
	u64 seed = (u64)time(NULL) * 1000003 + (u64)getpid();
	struct timespec start, now;
	u64 runs = 0;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--seconds") && i + 1 < argc)
			seconds = atof(argv[++i]);
		else if (!strcmp(argv[i], "--seed") && i + 1 < argc)
			seed = strtoull(argv[++i], NULL, 0);
		else
			add_seed(argv[i]);
	}
	printf("# seed %llu\n", (unsigned long long)seed);
	fflush(stdout);
	state = seed | 1;
	for (int sig = 1; sig < 16; sig++) {
		if (sig == SIGSEGV || sig == SIGABRT || sig == SIGBUS || sig == SIGFPE || sig == SIGILL)
			signal(sig, crashed);
	}
	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		if (runs % 64 == 0) {
			unsigned s = seed_count ? next() % (seed_count + 1) : 0;

			if (s < seed_count) {
				input_size = seeds[s].size;
				memcpy(input, seeds[s].bytes, input_size);
			} else {
				input_size = next() % 256;
				for (size_t i = 0; i < input_size; i++)
					input[i] = (u8)next();
			}
		}
		mutate();
		LLVMFuzzerTestOneInput(input, input_size);
		runs++;
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while ((double)(now.tv_sec - start.tv_sec) + (double)(now.tv_nsec - start.tv_nsec) / 1e9 < seconds);
	printf("ok - %llu runs\n", (unsigned long long)runs);
	return 0;
}

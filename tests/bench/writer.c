/* writer RATE SIZE: writes whole pages of SIZE MiB of memory in turn, RATE MiB a second; says every second how many it
 * managed. It does not make up for time in which it stood still. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TICKS 100

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
	const size_t rate = (argc > 1 ? strtoul(argv[1], NULL, 0) : 100) << 20;
	const size_t size = (argc > 2 ? strtoul(argv[2], NULL, 0) : 256) << 20, piece = rate / TICKS / 4096 * 4096;
	char *memory = malloc(size);
	size_t at = 0, written = 0;
	long long next, second;
	int round = 1;

	if (!memory)
		return 1;
	memset(memory, 255, size);
	for (next = second = now();;) {
		struct timespec until;
		long long t = now();

		for (size_t n = 0; n < piece; n += 4096, at = (at + 4096) % size)
			memset(memory + at, round % 255, 4096);
		round++;
		written += piece;
		next = t > next + 100000000 ? t : next + 1000000000 / TICKS;
		until = (struct timespec){ next / 1000000000, next % 1000000000 };
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
		if (now() - second < 1000000000)
			continue;
		printf("WRITES %.0f MiB/s\n", (double)written / (double)(now() - second) * 1e9 / 1048576);
		fflush(stdout);
		second = now();
		written = 0;
	}
}

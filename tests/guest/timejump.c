/*
 * For tests/guest/control.py and switch.py: reads the clock all the time, and computes
 * something known meanwhile. Prints the largest step of the clock in
 * microseconds, how often it went back, how often the result was wrong, and
 * how many rounds there were, in the end or when it is
 * interrupted. "first": before all other programs, and then it lets them run for half a millisecond
 * each time. A port of the host: the clock is sent there now and then.
 */
#include <arpa/inet.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Integer, floating-point and vector work on the same numbers, over again. */
static uint64_t work(void)
{
	volatile double x = 1.25;
	double sum[8] = { 0 };
	uint64_t h = 88172645463325252u;

	for (int i = 0; i < 300; i++) {
		h ^= h << 13;
		h ^= h >> 7;
		h ^= h << 17;
		for (int k = 0; k < 8; k++)
			sum[k] += (double)(h >> (8 + k) & 0xffff) * x;
	}
	for (int k = 0; k < 8; k++)
		h = h * 31 + (uint64_t)sum[k];
	return h;
}

static volatile sig_atomic_t over;

static void on_interrupt(int sig)
{
	over = sig;
}

/* Sends what the clock says to a port of the host (user networking). */
static int to_host(const char *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)) };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	a.sin_addr.s_addr = htonl(0x0a000202);
	return connect(fd, (struct sockaddr *)&a, sizeof(a)) ? -1 : fd;
}

int main(int argc, char **argv)
{
	uint64_t seconds = argc > 1 ? strtoul(argv[1], NULL, 10) : 5, start = now(), last = start, t;
	uint64_t largest = 0, back = 0, wrong = 0, rounds = 0, want = work();

	bool first = argc > 2 && !strcmp(argv[2], "first");
	int host = argc > 3 ? to_host(argv[3]) : -1;

	signal(SIGINT, on_interrupt);
	if (first && sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){ .sched_priority = 10 }))
		return 1;
	do {
		wrong += work() != want;
		rounds++;
		if (first)
			nanosleep(&(struct timespec){ .tv_nsec = 500000 }, NULL);
		t = now();
		if (host >= 0 && rounds % 32 == 0)
			send(host, &t, sizeof(t), 0);
		if (t < last)
			back++;
		else if (t - last > largest)
			largest = t - last;
		last = t;
	} while (!over && t - start < seconds * 1000000000u);
	printf("TIME largest=%lu back=%lu wrong=%lu rounds=%lu\n", (unsigned long)(largest / 1000), (unsigned long)back,
	       (unsigned long)wrong, (unsigned long)rounds);
	return 0;
}

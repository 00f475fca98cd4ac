/*
 * Counts, and sends each number to UDP port argv[2] of argv[1] as text, argv[3]
 * microseconds apart. The count is nowhere but in this process: a machine that
 * goes on from a state before a number was sent sends it again.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	char line[32];
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (argc != 4 || fd < 0)
		return 2;
	inet_pton(AF_INET, argv[1], &to.sin_addr);
	to.sin_port = htons((unsigned short)atoi(argv[2]));
	for (unsigned long n = 1;; n++) {
		snprintf(line, sizeof(line), "%lu\n", n);
		sendto(fd, line, strlen(line), 0, (struct sockaddr *)&to, sizeof(to));
		usleep((unsigned)atoi(argv[3]));
	}
}

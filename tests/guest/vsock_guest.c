/*
 * The guest's side of vsock.py.
 *
 *	vs get PORT	accepts one, socket to stdout
 *	vs count PORT	accepts one, reads to its end, answers with the number of bytes
 *	vs echo PORT	accepts for ever, a process each
 *	vs slow PORT	accepts one, reads nothing until a line comes on stdin, then as get
 *	vs put PORT	to the host: stdin to the socket, shutdown, what comes to stdout
 *	vs many PORT N	to the host: N at once, each sends its number and must get the double
 *
 * What fails is told in one line, and the exit status is 1.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

static char buf[1 << 16];

static int fail(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	exit(1);
}

static int open_socket(unsigned cid, unsigned port, int listens)
{
	struct sockaddr_vm a = { .svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port };
	int s = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (s < 0)
		fail("socket");
	if (listens ? bind(s, (struct sockaddr *)&a, sizeof(a)) || listen(s, 200)
		    : connect(s, (struct sockaddr *)&a, sizeof(a)))
		fail(listens ? "listen" : "connect");
	if (listens) {
		printf("listening\n");
		fflush(stdout);
	}
	return s;
}

static int accept_one(unsigned port)
{
	int s = accept(open_socket(VMADDR_CID_ANY, port, 1), NULL, NULL);

	return s < 0 ? fail("accept") : s;
}

static void write_all(int fd, const char *p, ssize_t n)
{
	for (ssize_t r; n; p += r, n -= r)
		if ((r = write(fd, p, n)) < 0)
			fail("write");
}

/* To the end of `from`; the bytes. */
static long copy(int from, int to)
{
	long total = 0;
	ssize_t n;

	while ((n = read(from, buf, sizeof(buf))) > 0) {
		if (to >= 0)
			write_all(to, buf, n);
		total += n;
	}
	if (n < 0)
		fail("read");
	return total;
}

static void echo(unsigned port)
{
	int l = open_socket(VMADDR_CID_ANY, port, 1), s;

	while ((s = accept(l, NULL, NULL)) >= 0) {
		if (fork() == 0) {
			copy(s, s);
			exit(0);
		}
		close(s);
	}
	fail("accept");
}

static void many(unsigned port, unsigned n)
{
	int *s = calloc(n, sizeof(*s));

	for (unsigned i = 0; i < n; i++)
		s[i] = open_socket(VMADDR_CID_HOST, port, 0);
	for (unsigned i = 0; i < n; i++)
		write_all(s[i], buf, sprintf(buf, "%u\n", i));
	for (unsigned i = 0; i < n; i++) {
		ssize_t got = read(s[i], buf, sizeof(buf) - 1);

		buf[got > 0 ? got : 0] = 0;
		if (got <= 0 || strtoul(buf, NULL, 10) != 2 * i)
			fail("answer");
	}
	printf("%u answers\n", n);
}

int main(int argc, char **argv)
{
	unsigned port = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
	int s;

	if (argc < 3)
		return 2;
	if (!strcmp(argv[1], "get")) {
		copy(accept_one(port), 1);
	} else if (!strcmp(argv[1], "slow")) {
		s = accept_one(port);
		read(0, buf, 1);
		copy(s, 1);
	} else if (!strcmp(argv[1], "count")) {
		s = accept_one(port);
		write_all(s, buf, sprintf(buf, "%ld\n", copy(s, -1)));
	} else if (!strcmp(argv[1], "echo")) {
		echo(port);
	} else if (!strcmp(argv[1], "put")) {
		s = open_socket(VMADDR_CID_HOST, port, 0);
		copy(0, s);
		shutdown(s, SHUT_WR);
		copy(s, 1);
	} else if (!strcmp(argv[1], "many")) {
		many(port, argc > 3 ? strtoul(argv[3], NULL, 10) : 1);
	}
	return 0;
}

#include "cli/migrate_target.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "backend/listen.h"
#include "cli/cli.h"

int migrate_target_parse(struct migrate_target *t, const char *command, const char *text)
{
	const char *host = text + 4, *colon;
	size_t n;

	t->text = text;
	if (!strncmp(text, "unix:", 5) && text[5]) {
		t->path = text + 5;
		return 0;
	}
	colon = strncmp(text, "tcp:", 4) ? NULL : strrchr(host, ':');
	if (!colon || !colon[1])
		return usage_error("%s: '%s' is not tcp:HOST:PORT or unix:PATH", command, text);
	n = (size_t)(colon - host);
	if (n >= 2 && host[0] == '[' && host[n - 1] == ']') {
		host++;
		n -= 2;
	}
	if (n >= sizeof(t->host) || strlen(colon + 1) >= sizeof(t->port))
		return usage_error("%s: '%s' is not tcp:HOST:PORT or unix:PATH", command, text);
	memcpy(t->host, host, n);
	strcpy(t->port, colon + 1);
	return 0;
}

int migrate_target_option(struct migrate_target *t, const char *command, int argc, char **argv, int *i)
{
	const struct {
		const char *name, **to;
	} files[] = {
		{ "--tls-cert", &t->tls.cert },
		{ "--tls-key", &t->tls.key },
		{ "--tls-ca", &t->tls.ca },
		{ "--tls-host", &t->tls.host },
	};

	if (!strcmp(argv[*i], "--insecure")) {
		t->insecure = true;
		return -1;
	}
	for (unsigned k = 0; k < ARRAY_SIZE(files); k++) {
		size_t n = strlen(files[k].name);

		if (strncmp(argv[*i], files[k].name, n) || (argv[*i][n] && argv[*i][n] != '='))
			continue;
		if (!argv[*i][n] && *i + 1 == argc)
			return usage_error("%s: %s needs a value", command, files[k].name);
		*files[k].to = argv[*i][n] ? argv[*i] + n + 1 : argv[++*i];
		return -1;
	}
	return 0;
}

void migrate_target_help(bool listens)
{
	printf("  --tls-cert F, --tls-key F, --tls-ca F\n"
	       "                       TLS: our certificate and its key, and who has signed the other side's\n");
	if (listens)
		printf(
		    "  --insecure           listen to other hosts without TLS: anybody who can connect may have files of\n"
		    "                       yours opened\n");
	else
		printf("  --tls-host NAME      the name in the other side's certificate, if it is not HOST\n"
		       "  --insecure           to another host without TLS\n");
}

static bool loopback(const struct addrinfo *a)
{
	if (a->ai_family == AF_INET)
		return ntohl(((const struct sockaddr_in *)a->ai_addr)->sin_addr.s_addr) >> 24 == 127;
	return a->ai_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)a->ai_addr)->sin6_addr);
}

int migrate_target_check(struct migrate_target *t, bool listens, struct error *e)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	bool all = listens && (!*t->host || !strcmp(t->host, "*"));
	struct addrinfo *list;
	int err;

	if (tls_wanted(&t->tls)) {
		/* who connects knows whom he wants to reach */
		if (!listens && !t->path && !t->tls.host)
			t->tls.host = t->host;
		return listens ? tls_given(&t->tls, e) : tls_check(&t->tls, e);
	}
	if (t->path || t->insecure)
		return 0;
	if (!all) {
		err = getaddrinfo(t->host, t->port, &hints, &list);
		if (err)
			return error_set(e, "%s: %s", t->text, gai_strerror(err));
		all = !loopback(list);
		freeaddrinfo(list);
	}
	return all ? error_set(e,
			       "%s: over a network a machine goes only with --tls-cert, --tls-key and --tls-ca, or "
			       "--insecure",
			       t->text)
		   : 0;
}

int migrate_listen(const struct migrate_target *t, u16 *port, struct error *e)
{
	*port = 0;
	if (t->path)
		return listen_unix("socket", t->path, 4, e);
	return listen_tcp("tcp", t->host, t->port, 4, port, e);
}

static int connect_unix(const char *path, struct error *e)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd;

	if (strlen(path) >= sizeof(a.sun_path))
		return error_set(e, "%s: the path of a socket has at most %zu bytes", path, sizeof(a.sun_path) - 1);
	strcpy(a.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && !connect(fd, (struct sockaddr *)&a, sizeof(a)))
		return fd;
	error_errno(e, errno, "cannot connect to unix:%s", path);
	if (fd >= 0)
		close(fd);
	return -1;
}

static int connect_at(const struct addrinfo *a)
{
	int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1, err;

	if (fd < 0)
		return -1;
	if (!connect(fd, a->ai_addr, a->ai_addrlen)) {
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		return fd;
	}
	err = errno;
	close(fd);
	errno = err;
	return -1;
}

int migrate_connect(const struct migrate_target *t, struct error *e)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	struct addrinfo *list;
	int err, fd = -1;

	if (t->path)
		return connect_unix(t->path, e);
	err = getaddrinfo(t->host, t->port, &hints, &list);
	if (err)
		return error_set(e, "%s: %s", t->text, gai_strerror(err));
	for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
		fd = connect_at(a);
	err = errno;
	freeaddrinfo(list);
	return fd < 0 ? error_errno(e, err, "cannot connect to %s", t->text) : fd;
}

void migrate_unlink(const struct migrate_target *t)
{
	if (t->path)
		unlink(t->path);
}

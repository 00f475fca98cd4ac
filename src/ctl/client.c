/*
 * One request a connection: the answer ends where the peer closes, or after
 * the bytes that Content-Length names. The peer is the user's own machine, but
 * what it sends is bounded and checked all the same.
 */
#include "ctl/client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "ctl/rundir.h"

#define ANSWER_MAX (16 * MiB)
#define DEFAULT_MS 10000
#define LARGE_PIECE (256 * KiB)
#define JSON_HEADERS "Content-Type: application/json\r\nConnection: close\r\n"

struct buffer {
	char *data;
	size_t len, size;
};

static int read_more(int fd, struct buffer *b)
{
	ssize_t n;

	if (b->len + 4096 > b->size) {
		size_t size = b->size ? b->size * 2 : 16384;
		char *data = size > ANSWER_MAX ? NULL : realloc(b->data, size);

		if (!data) {
			errno = EMSGSIZE;
			return -1;
		}
		b->data = data;
		b->size = size;
	}
	do
		n = recv(fd, b->data + b->len, b->size - b->len - 1, 0);
	while (n < 0 && errno == EINTR);
	if (n > 0)
		b->len += (size_t)n;
	if (b->data)
		b->data[b->len] = 0;
	return n < 0 ? -1 : n > 0;
}

/* The value of header `name` in the head, or NULL. */
static const char *header(const char *head, const char *name)
{
	size_t n = strlen(name);

	for (const char *p = strstr(head, "\r\n"); p; p = strstr(p, "\r\n")) {
		p += 2;
		if (!strncasecmp(p, name, n) && p[n] == ':')
			return p + n + 1 + strspn(p + n + 1, " \t");
	}
	return NULL;
}

static int send_all(int fd, const char *p, size_t n)
{
	while (n) {
		ssize_t done = send(fd, p, n, MSG_NOSIGNAL);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return -1;
		p += done;
		n -= (size_t)done;
	}
	return 0;
}

/* Reads the head of an answer: its length with the empty line, status and the value of Content-Length (NULL: there is
 * none, or it is not asked for). -1 with errno. */
static int receive_head(int fd, struct buffer *b, unsigned *status, const char **length)
{
	char *end = NULL;

	while (!end) {
		if (read_more(fd, b) <= 0)
			return -1;
		end = strstr(b->data, "\r\n\r\n");
	}
	*end = 0;
	if (sscanf(b->data, "HTTP/1.%*1d %3u", status) != 1) {
		errno = EPROTO;
		return -1;
	}
	*length = header(b->data, "Content-Length");
	return (int)(end - b->data) + 4;
}

/* The body behind a head of `head` bytes. */
static int receive_body(int fd, struct buffer *b, size_t head, size_t want, bool known, struct ctl_answer *out)
{
	while (b->len - head < want) {
		int n = read_more(fd, b);

		if (n < 0 || (n == 0 && known))
			return -1;
		if (n == 0)
			break;
	}
	out->len = b->len - head;
	out->body = malloc(out->len + 1);
	if (!out->body)
		return -1;
	memcpy(out->body, b->data + head, out->len);
	out->body[out->len] = 0;
	return 0;
}

/* Reads the head, then the body of an answer; `upgrade`: the head alone, what lies behind it is kept. */
static int receive(int fd, bool upgrade, struct ctl_answer *out, struct buffer *b)
{
	const char *length;
	size_t want = ANSWER_MAX;
	int head = receive_head(fd, b, &out->status, &length);

	if (head < 0)
		return -1;
	if (length)
		want = MIN(strtoull(length, NULL, 10), ANSWER_MAX);
	else if (out->status == 204)
		want = 0;
	if (upgrade && out->status == 101)
		want = 0;
	return receive_body(fd, b, (size_t)head, want, length != NULL, out);
}

/* Connects and sends the request. The descriptor, or CTL_NO_MACHINE; *err: why it was not sent. */
static int ask_for(const char *name, const char *request, size_t len, unsigned ms, int *err, struct error *e)
{
	const struct timeval limit = { .tv_sec = ms / 1000, .tv_usec = (ms % 1000) * 1000 };
	int fd = ctl_connect(name, e);

	*err = 0;
	if (fd < 0)
		return CTL_NO_MACHINE;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	/* a peer that takes no more may have answered all the same */
	errno = 0;
	if (send_all(fd, request, len) && errno != EPIPE && errno != ECONNRESET)
		*err = errno;
	return fd;
}

static int no_answer(const char *name, int err, struct error *e)
{
	if (err == EAGAIN || err == EWOULDBLOCK)
		error_set(e, "machine '%s' does not answer", name);
	else
		error_errno(e, err, "machine '%s' gave no answer", name);
	return CTL_REFUSED;
}

static int exchange(const char *name, const char *request, size_t len, unsigned ms, bool upgrade,
		    struct ctl_answer *out, struct error *e)
{
	struct buffer b = { 0 };
	int err, fd = ask_for(name, request, len, ms, &err, e);

	*out = (struct ctl_answer){ 0 };
	if (fd < 0)
		return fd;
	if (!err && receive(fd, upgrade, out, &b))
		err = errno ? errno : ECONNRESET;
	free(b.data);
	if (!err)
		return fd;
	close(fd);
	free(out->body);
	*out = (struct ctl_answer){ 0 };
	return no_answer(name, err, e);
}

static char *compose(unsigned minor, const char *method, const char *path, const char *more, const char *body,
		     size_t *len)
{
	size_t size = strlen(method) + strlen(path) + strlen(more) + strlen(body) + 160;
	char *text = malloc(size);

	if (text)
		*len = (size_t)snprintf(text, size,
					"%s %s HTTP/1.%u\r\nHost: localhost\r\nContent-Length: %zu\r\n%s\r\n%s", method,
					path, minor, strlen(body), more, body);
	return text;
}

int ctl_ask(const char *name, const char *method, const char *path, const char *body, unsigned ms,
	    struct ctl_answer *out, struct error *e)
{
	size_t len = 0;
	char *text = compose(1, method, path, JSON_HEADERS, body ? body : "", &len);
	int fd;

	if (!text) {
		error_set(e, "not enough memory");
		return CTL_REFUSED;
	}
	fd = exchange(name, text, len, ms, false, out, e);
	free(text);
	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

void ctl_answer_free(struct ctl_answer *a)
{
	free(a->body);
	a->body = NULL;
}

/* The line of an answer that tells of an error. */
static int refused(const char *name, const struct ctl_answer *a, struct error *e)
{
	json_t *j = json_loadb(a->body, a->len, 0, NULL);
	const char *text = json_string_value(json_object_get(j, "error"));

	if (text)
		error_set(e, "machine '%s': %s", name, text);
	else
		error_set(e, "machine '%s' answered with status %u", name, a->status);
	json_decref(j);
	return CTL_REFUSED;
}

int ctl_order(const char *name, const char *method, const char *path, json_t *body, json_t **json, struct error *e)
{
	char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
	struct ctl_answer a;
	int ret = ctl_ask(name, method, path, text, DEFAULT_MS, &a, e);

	free(text);
	if (json)
		*json = NULL;
	if (ret)
		return ret;
	if (a.status < 200 || a.status > 299) {
		ret = refused(name, &a, e);
	} else if (json && a.len) {
		*json = json_loadb(a.body, a.len, 0, NULL);
		if (!*json) {
			error_set(e, "machine '%s' gave no JSON", name);
			ret = CTL_REFUSED;
		}
	}
	ctl_answer_free(&a);
	return ret;
}

/* ---- large answers ---- */

/* Hands what came to the sink, then the rest piece by piece. `b`: behind the head `at` bytes, the first of the body. */
static int pass_on(int fd, const char *name, struct buffer *b, size_t at, u64 total, const struct ctl_sink *sink,
		   struct error *e)
{
	u64 done = MIN(b->len - at, total);

	if (done && sink->take(sink->opaque, b->data + at, (size_t)done, total, e))
		return CTL_REFUSED;
	while (done < total) {
		ssize_t n = recv(fd, b->data, MIN(b->size, total - done), 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return no_answer(name, errno, e);
		if (!n && total == CTL_UNKNOWN)
			return 0;
		if (!n) {
			error_set(e, "machine '%s' cut the answer off after %llu of %llu bytes", name,
				  (unsigned long long)done, (unsigned long long)total);
			return CTL_REFUSED;
		}
		if (sink->take(sink->opaque, b->data, (size_t)n, total, e))
			return CTL_REFUSED;
		done += (u64)n;
	}
	return 0;
}

static int grow(struct buffer *b, size_t size)
{
	char *data = b->size < size ? realloc(b->data, size) : b->data;

	if (!data)
		return -1;
	b->data = data;
	b->size = MAX(b->size, size);
	return 0;
}

static int receive_large(int fd, const char *name, struct buffer *b, const struct ctl_sink *sink, struct error *e)
{
	struct ctl_answer a = { 0 };
	const char *length;
	int head = receive_head(fd, b, &a.status, &length), ret;
	u64 total;

	if (head < 0)
		return no_answer(name, errno ? errno : EPROTO, e);
	total = length ? strtoull(length, NULL, 10) : CTL_UNKNOWN;
	if (a.status >= 200 && a.status <= 299) {
		if (!grow(b, LARGE_PIECE))
			return pass_on(fd, name, b, (size_t)head, total, sink, e);
		error_set(e, "not enough memory");
		return CTL_REFUSED;
	}
	if (receive_body(fd, b, (size_t)head, MIN(total, ANSWER_MAX), length != NULL, &a))
		return no_answer(name, errno ? errno : ECONNRESET, e);
	ret = refused(name, &a, e);
	ctl_answer_free(&a);
	return ret;
}

int ctl_fetch(const char *name, const char *method, const char *path, json_t *body, const struct ctl_sink *sink,
	      struct error *e)
{
	char *text = body ? json_dumps(body, JSON_COMPACT) : NULL, *request;
	struct buffer b = { 0 };
	size_t len = 0;
	int err, fd, ret;

	/* 1.0: an answer of unknown length ends with the connection, not in chunks */
	request = compose(0, method, path, JSON_HEADERS, text ? text : "", &len);
	free(text);
	if (!request) {
		error_set(e, "not enough memory");
		return CTL_REFUSED;
	}
	fd = ask_for(name, request, len, DEFAULT_MS, &err, e);
	free(request);
	if (fd < 0)
		return fd;
	ret = err ? no_answer(name, err, e) : receive_large(fd, name, &b, sink, e);
	free(b.data);
	close(fd);
	return ret;
}

int ctl_upgrade(const char *name, const char *path, const char *protocol, struct ctl_answer *out, struct error *e)
{
	char more[128];
	size_t len = 0;
	char *text;
	int fd;

	snprintf(more, sizeof(more), "Connection: Upgrade\r\nUpgrade: %.64s\r\n", protocol);
	text = compose(1, "GET", path, more, "", &len);
	if (!text) {
		error_set(e, "not enough memory");
		return CTL_REFUSED;
	}
	fd = exchange(name, text, len, DEFAULT_MS, true, out, e);
	free(text);
	if (fd < 0 || out->status == 101)
		return fd;
	close(fd);
	refused(name, out, e);
	ctl_answer_free(out);
	return CTL_REFUSED;
}

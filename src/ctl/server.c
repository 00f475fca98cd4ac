/* The HTTP side: libmicrohttpd on the listening unix socket. */
#include "ctl/ctl.h"

#include <fcntl.h>
#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "backend/chr/chr_mux.h"
#include "base/thread.h"
#include "ctl/api.h"
#include "ctl/migrate.h"
#include "ctl/protect.h"

#define CLIENTS_MAX 32u
#define IDLE_S 10u	      /* a client that neither sends nor takes */
#define REQUEST_S 60	      /* a request that does not end */
#define DRAIN_MAX (256 * MiB) /* of a body that is too large: read and dropped, so that the client sees the answer */
#define STREAM_BLOCK (256 * KiB)
#define STACK_SIZE (256 * KiB)

struct ctl {
	struct api_machine api;
	struct chr *console;
	struct MHD_Daemon *daemon;
	int fd;
};

/* A request under way. */
struct exchange {
	struct ctl *ctl;
	char *body; /* API_BODY_MAX, made for the first byte */
	size_t len;
	u64 seen; /* bytes of the body that came */
	time_t started;
	bool then_stop;
};

static time_t now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
	return t.tv_sec;
}

/* ---- console ---- */

static void close_console(void *urh)
{
	MHD_upgrade_action(urh, MHD_UPGRADE_ACTION_CLOSE);
}

static void upgraded(void *cls, struct MHD_Connection *c, void *state, const char *extra, size_t extra_len,
		     MHD_socket fd, struct MHD_UpgradeResponseHandle *urh)
{
	struct ctl *ctl = cls;
	int flags = fcntl(fd, F_GETFL);

	/* nothing is said any more to one who came second in between */
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) ||
	    chr_mux_attach(ctl->console, fd, extra, extra_len, close_console, urh))
		close_console(urh);
}

static void close_migration(void *urh)
{
	MHD_upgrade_action(urh, MHD_UPGRADE_ACTION_CLOSE);
}

static void upgraded_migration(void *cls, struct MHD_Connection *c, void *state, const char *extra, size_t extra_len,
			       MHD_socket fd, struct MHD_UpgradeResponseHandle *urh)
{
	struct ctl *ctl = cls;

	if (migration_attach(ctl->api.migration, fd, extra, extra_len, close_migration, urh))
		close_migration(urh);
}

/* The client waits for this answer before it says more: its first bytes come with descriptors. */
static void upgraded_protection(void *cls, struct MHD_Connection *c, void *state, const char *extra, size_t extra_len,
				MHD_socket fd, struct MHD_UpgradeResponseHandle *urh)
{
	struct ctl *ctl = cls;

	if (protect_begin(ctl->api.protect, fd, close_console, urh)) {
		static const char text[] = "the machine is protected already\n";

		send(fd, text, sizeof(text) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
		close_console(urh);
	}
}

static const struct upgrade {
	enum api_op op;
	const char *path, *protocol;
	MHD_UpgradeHandler handler;
} upgrades[] = {
	[API_ATTACH_CONSOLE] = { API_CONSOLE, "vm.console", "ectype-console", upgraded },
	[API_ATTACH_MIGRATION] = { API_MIGRATE, "vm.migrate", "ectype-migration", upgraded_migration },
	[API_ATTACH_PROTECTION] = { API_PROTECT, "vm.protect", "ectype-protection", upgraded_protection },
};

/* A request that needs an upgrade, without one. */
static const struct upgrade *lacks_upgrade(const struct ctl *ctl, struct MHD_Connection *c, enum api_op op)
{
	const char *to = MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_UPGRADE);

	if (op == API_CONSOLE && !ctl->api.console)
		return NULL;
	for (unsigned i = API_ATTACH_NONE + 1; i < ARRAY_SIZE(upgrades); i++)
		if (upgrades[i].op == op && (!to || strcasecmp(to, upgrades[i].protocol)))
			return &upgrades[i];
	return NULL;
}

/* ---- answers ---- */

static ssize_t stream_read(void *cls, uint64_t pos, char *buf, size_t max)
{
	struct api_stream *s = cls;
	ssize_t n = s->read(s, pos, buf, max);

	return n > 0 ? n : n == 0 ? MHD_CONTENT_READER_END_OF_STREAM : MHD_CONTENT_READER_END_WITH_ERROR;
}

static void stream_release(void *cls)
{
	struct api_stream *s = cls;

	s->release(s);
}

/* So that a stream's reader and writer need not take turns: nobody may write to a unix socket that is a quarter full.
 */
static void widen(struct MHD_Connection *c)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
	const int size = 4 * STREAM_BLOCK; /* the host may allow less */

	if (info)
		setsockopt(info->connect_fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

static enum MHD_Result send_reply(struct ctl *ctl, struct MHD_Connection *c, struct api_reply *r)
{
	struct MHD_Response *m;
	enum MHD_Result done;

	if (r->stream)
		widen(c);
	if (r->attach)
		m = MHD_create_response_for_upgrade(upgrades[r->attach].handler, ctl);
	else if (r->stream)
		m = MHD_create_response_from_callback(r->stream->len, STREAM_BLOCK, stream_read, r->stream,
						      stream_release);
	else if (r->body)
		m = MHD_create_response_from_buffer(r->len, r->body, MHD_RESPMEM_MUST_FREE);
	else
		m = MHD_create_response_from_buffer(r->len, (void *)(uintptr_t)r->constant, MHD_RESPMEM_PERSISTENT);
	if (!m) {
		api_reply_free(r);
		return MHD_NO;
	}
	r->body = NULL; /* the response's */
	r->stream = NULL;
	if (r->type)
		MHD_add_response_header(m, MHD_HTTP_HEADER_CONTENT_TYPE, r->type);
	if (r->allow)
		MHD_add_response_header(m, MHD_HTTP_HEADER_ALLOW, r->allow);
	if (r->attach)
		MHD_add_response_header(m, MHD_HTTP_HEADER_UPGRADE, upgrades[r->attach].protocol);
	done = MHD_queue_response(c, r->status, m);
	MHD_destroy_response(m);
	return done;
}

static void answer(struct exchange *x, struct MHD_Connection *c, const char *method, const char *path,
		   struct api_reply *r)
{
	const struct upgrade *u;
	struct api_request q;

	if (x->seen > API_BODY_MAX) {
		api_error(r, 413, "the body is larger than %llu bytes", API_BODY_MAX);
		return;
	}
	if (!api_parse(method, path, x->body, x->len, &q, r))
		return;
	u = lacks_upgrade(x->ctl, c, q.op);
	if (u) {
		api_error(r, 426, "%s wants the header Upgrade: %s", u->path, u->protocol);
		return;
	}
	if (q.op == API_CONSOLE && x->ctl->api.console && chr_mux_attached(x->ctl->console)) {
		api_error(r, 409, "somebody is attached to the console of machine '%s'", x->ctl->api.name);
		return;
	}
	api_perform(&x->ctl->api, &q, r);
	x->then_stop = r->then_stop;
}

/* ---- requests ---- */

static bool announces_too_much(struct MHD_Connection *c)
{
	const char *len = MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);

	return len && strtoull(len, NULL, 10) > API_BODY_MAX;
}

static enum MHD_Result begin(struct ctl *ctl, struct MHD_Connection *c, void **state)
{
	struct exchange *x = calloc(1, sizeof(*x));

	if (!x)
		return MHD_NO;
	x->ctl = ctl;
	x->started = now_s();
	*state = x;
	/* who asks before it sends ("Expect: 100-continue") need not send */
	if (announces_too_much(c) && MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_EXPECT)) {
		struct api_reply r = { .status = 0 };

		api_error(&r, 413, "the body is larger than %llu bytes", API_BODY_MAX);
		return send_reply(ctl, c, &r);
	}
	return MHD_YES;
}

static enum MHD_Result take_body(struct exchange *x, const char *data, size_t n)
{
	x->seen += n;
	if (x->seen > DRAIN_MAX || now_s() - x->started > REQUEST_S)
		return MHD_NO;
	if (x->seen > API_BODY_MAX)
		return MHD_YES;
	if (!x->body && !(x->body = malloc(API_BODY_MAX)))
		return MHD_NO;
	memcpy(x->body + x->len, data, n);
	x->len += n;
	return MHD_YES;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *c, const char *path, const char *method,
				  const char *version, const char *data, size_t *n, void **state)
{
	struct api_reply r = { .status = 0 };
	struct exchange *x = *state;

	if (!x)
		return begin(cls, c, state);
	if (*n) {
		size_t len = *n;

		*n = 0;
		return take_body(x, data, len);
	}
	answer(x, c, method, path, &r);
	return send_reply(cls, c, &r);
}

static void on_completed(void *cls, struct MHD_Connection *c, void **state, enum MHD_RequestTerminationCode why)
{
	struct exchange *x = *state;

	if (!x)
		return;
	if (x->then_stop)
		machine_stop(x->ctl->api.machine);
	free(x->body);
	free(x);
	*state = NULL;
}

/* ---- life ---- */

/* `fd` becomes the daemon's. */
static void start_daemon(void *opaque)
{
	struct ctl *c = opaque;

	c->daemon = MHD_start_daemon(MHD_USE_POLL_INTERNAL_THREAD | MHD_ALLOW_UPGRADE, 0, NULL, NULL, on_request, c,
				     MHD_OPTION_LISTEN_SOCKET, c->fd, MHD_OPTION_CONNECTION_LIMIT, CLIENTS_MAX,
				     MHD_OPTION_CONNECTION_TIMEOUT, IDLE_S, MHD_OPTION_NOTIFY_COMPLETED, on_completed,
				     c, MHD_OPTION_THREAD_STACK_SIZE, (size_t)STACK_SIZE, MHD_OPTION_END);
}

struct ctl *ctl_start(const struct ctl_config *cfg, struct error *e)
{
	struct ctl *c = calloc(1, sizeof(*c));
	int fd = dup(cfg->fd); /* the daemon closes it */

	if (!c || fd < 0) {
		error_set(e, "not enough host memory or descriptors");
		goto fail;
	}
	c->api = (struct api_machine){ .machine = cfg->machine,
				       .name = cfg->name,
				       .cwd = cfg->cwd,
				       .console = cfg->console != NULL,
				       .options = cfg->options,
				       .options_len = cfg->options_len,
				       .migration = migration_create(cfg->machine, cfg->options, cfg->options_len),
				       .arrival = cfg->arrival };
	if (!c->api.migration) {
		error_set(e, "not enough host memory");
		goto fail;
	}
	c->api.protect = protect_create(cfg->machine, cfg->options, cfg->options_len);
	if (!c->api.protect) {
		error_set(e, "not enough host memory");
		goto fail;
	}
	c->console = cfg->console;
	c->fd = fd;
	thread_masked(start_daemon, c);
	if (c->daemon)
		return c;
	error_set(e, "libmicrohttpd does not start");
fail:
	if (fd >= 0)
		close(fd);
	if (c) {
		migration_destroy(c->api.migration);
		protect_destroy(c->api.protect);
	}
	free(c);
	return NULL;
}

void ctl_stop(struct ctl *c)
{
	if (!c)
		return;
	/* upgraded connections must be closed before their daemon */
	if (c->console)
		chr_mux_detach(c->console);
	migration_destroy(c->api.migration);
	protect_end(c->api.protect);
	MHD_stop_daemon(c->daemon);
	protect_destroy(c->api.protect);
	free(c);
}

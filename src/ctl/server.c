/* The HTTP side: libmicrohttpd on the listening unix socket. */
#include "ctl/ctl.h"

#include <fcntl.h>
#include <microhttpd.h>
#include <pthread.h>
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
#define LAST_ANSWERS_MS 500   /* of a machine that has ended */
#define REQUEST_S 60	      /* a request that does not end */
#define DRAIN_MAX (256 * MiB) /* of a body that is too large: read and dropped, so that the client sees the answer */
#define STREAM_BLOCK (256 * KiB)
#define STACK_SIZE (256 * KiB)

struct ctl {
	struct api_machine api;
	struct chr *console;
	struct MHD_Daemon *daemon;
	int fd;
	_Atomic unsigned answering; /* requests that were taken and whose short answers have not left */
	pthread_mutex_t lock;	    /* while a request is looked at */
	bool ending;		    /* and none is any more; under the lock */
};

/* A request under way. */
struct exchange {
	struct ctl *ctl;
	char *body; /* API_BODY_MAX, made for the first byte */
	size_t len;
	u64 seen; /* bytes of the body that came */
	time_t started;
	bool then_stop;
	bool counted;		/* in ctl->answering */
	enum api_attach attach; /* what its connection becomes */
};

static time_t now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
	return t.tv_sec;
}

/* True, with the lock held: the machine is there. False: it ends, and what answers for it goes. */
static bool enter(struct ctl *c)
{
	pthread_mutex_lock(&c->lock);
	if (!c->ending)
		return true;
	pthread_mutex_unlock(&c->lock);
	return false;
}

static void leave(struct ctl *c)
{
	pthread_mutex_unlock(&c->lock);
}

/* ---- connections that become something else ---- */

static void close_upgraded(void *urh)
{
	MHD_upgrade_action(urh, MHD_UPGRADE_ACTION_CLOSE);
}

/* These take the connection, or return non-zero. `extra`: what the client said already. */

static int attach_console(struct ctl *c, int fd, const char *extra, size_t n, void *urh)
{
	int flags = fcntl(fd, F_GETFL);

	/* nothing is said any more to one who came second in between */
	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) ||
	       chr_mux_attach(c->console, fd, extra, n, close_upgraded, urh);
}

static int attach_migration(struct ctl *c, int fd, const char *extra, size_t n, void *urh)
{
	return migration_attach(c->api.migration, fd, extra, n, close_upgraded, urh);
}

/* The client waits for this answer before it says more: its first bytes come with descriptors. */
static int attach_protection(struct ctl *c, int fd, const char *extra, size_t n, void *urh)
{
	static const char text[] = "the machine is protected already\n";

	(void)extra;
	(void)n;
	if (!protect_begin(c->api.protect, fd, close_upgraded, urh))
		return 0;
	send(fd, text, sizeof(text) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	return -1;
}

static const struct upgrade {
	enum api_op op;
	const char *path, *protocol;
	int (*attach)(struct ctl *c, int fd, const char *extra, size_t n, void *urh);
} upgrades[] = {
	[API_ATTACH_CONSOLE] = { API_CONSOLE, "vm.console", "ectype-console", attach_console },
	[API_ATTACH_MIGRATION] = { API_MIGRATE, "vm.migrate", "ectype-migration", attach_migration },
	[API_ATTACH_PROTECTION] = { API_PROTECT, "vm.protect", "ectype-protection", attach_protection },
};

static void upgraded(void *cls, struct MHD_Connection *c, void *state, const char *extra, size_t extra_len,
		     MHD_socket fd, struct MHD_UpgradeResponseHandle *urh)
{
	const struct exchange *x = state;
	bool there = enter(cls);

	if (!there || upgrades[x->attach].attach(cls, fd, extra, extra_len, urh))
		close_upgraded(urh);
	if (there)
		leave(cls);
}

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

/* Nobody may write to a unix socket that is a quarter full: a stream's reader and writer would take turns. */
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
		m = MHD_create_response_for_upgrade(upgraded, ctl);
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

static void uncount(struct exchange *x)
{
	if (x->counted)
		x->ctl->answering--;
	x->counted = false;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *c, const char *path, const char *method,
				  const char *version, const char *data, size_t *n, void **state)
{
	struct api_reply r = { .status = 0 };
	struct exchange *x = *state;
	enum MHD_Result done;

	if (!x)
		return begin(cls, c, state);
	if (*n) {
		size_t len = *n;

		*n = 0;
		return take_body(x, data, len);
	}
	if (!enter(cls))
		return MHD_NO;
	x->counted = true;
	x->ctl->answering++;
	answer(x, c, method, path, &r);
	/* these last as long as their readers like */
	if (r.stream || r.attach)
		uncount(x);
	x->attach = r.attach;
	done = send_reply(cls, c, &r);
	leave(cls);
	return done;
}

static void on_completed(void *cls, struct MHD_Connection *c, void **state, enum MHD_RequestTerminationCode why)
{
	struct exchange *x = *state;

	if (!x)
		return;
	if (x->then_stop)
		machine_stop(x->ctl->api.machine);
	uncount(x);
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
	pthread_mutex_init(&c->lock, NULL);
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
	pthread_mutex_lock(&c->lock);
	c->ending = true;
	pthread_mutex_unlock(&c->lock);
	/* who made a paused guest go on hears that it was done, though the guest has powered off since */
	for (unsigned ms = 0; c->answering && ms < LAST_ANSWERS_MS; ms++)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	/* upgraded connections must be closed before their daemon */
	if (c->console)
		chr_mux_detach(c->console);
	migration_destroy(c->api.migration);
	protect_end(c->api.protect);
	MHD_stop_daemon(c->daemon);
	protect_destroy(c->api.protect);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

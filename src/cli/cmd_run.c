/*
 * `ectype run`: builds a machine from the options, runs it, and turns its end
 * into an exit status. Everything that can be wrong is found out before the
 * first file or socket is created.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/chr/chr.h"
#include "backend/vsock/vsock.h"
#include "cli/cli.h"
#include "cli/control_socket.h"
#include "cli/output_gate.h"
#include "cli/run.h"
#include "cli/saved_options.h"
#include "cli/run_stats.h"
#include "cli/trace_options.h"
#include "engine/symbols.h"
#include "gdb/gdb.h"
#include "jail/jail.h"

struct run {
	struct run_options o;
	struct chr *debugcon; /* may be the first serial port's */
	struct virtio_console_port console[VIRTIO_CONSOLE_PORTS_MAX];
	struct machine *machine;
	struct gdb *gdb;
	int gdb_fd;
	struct guest_symbols *symbols;
	FILE *trace, *stats;
	struct jail jail;
	struct janitor *janitor;
	struct control_socket control;
	const char *socket; /* of the plan */
};

static void stop(void *opaque)
{
	struct run *r = opaque;

	if (r->machine)
		machine_stop(r->machine);
}

static void next_engine(void *opaque)
{
	struct run *r = opaque;

	if (r->machine)
		machine_next_engine(r->machine);
}

static int create_control(struct run *r, struct error *e)
{
	struct error why;

	if (r->o.no_control)
		return 0;
	if (control_socket_open(&r->control, r->o.machine.name, "vm", &why, e))
		return -1;
	if (why.text[0])
		fprintf(stderr, "ectype: no control socket: %s\n", why.text);
	return 0;
}

static int create_streams(struct run *r, struct error *e)
{
	const struct chr_stdio_actions actions = { .quit = stop, .engine = next_engine, .opaque = r };

	for (unsigned i = 0; i < r->o.serials; i++) {
		if (r->o.serial[i].kind == STREAM_NONE)
			continue;
		r->o.machine.serial[i] = stream_create(&r->o.serial[i], "--serial", &actions, e);
		if (!r->o.machine.serial[i])
			return -1;
	}
	for (unsigned i = 0; i < r->o.consoles; i++) {
		const struct stream_option *o = &r->o.console[i];

		r->console[i] = (struct virtio_console_port){
			.chr = stream_create(o, "--console", &actions, e),
			.name = o->name[0] ? o->name : NULL,
		};
		if (!r->console[i].chr)
			return -1;
	}
	control_socket_mux(&r->control, r->o.machine.serial[0] ? &r->o.machine.serial[0] : &r->console[0].chr);
	r->o.machine.console = r->console;
	r->o.machine.consoles = r->o.consoles;
	return 0;
}

static void destroy_stream(struct chr *c)
{
	if (c)
		c->ops->destroy(c);
}

static int create_debugcon(struct run *r, struct error *e)
{
	if (!r->o.debugcon)
		return 0;
	r->debugcon = r->o.debugcon_path ? chr_file_create(r->o.debugcon_path, e) : r->o.machine.serial[0];
	r->o.machine.debugcon = r->debugcon;
	return r->debugcon ? 0 : -1;
}

/* While there is one thread. */
static int create_vsock(struct run *r, struct error *e)
{
	if (!r->o.vsock[0])
		return 0;
	r->o.machine.vsock = vsock_unix_create(r->o.vsock, e);
	return r->o.machine.vsock ? 0 : -1;
}

/* Where the trace goes: to a file by whole lines, for a run may end badly. */
static int open_trace(struct run *r, struct error *e)
{
	struct engine_options *o = &r->o.machine.engine_options;

	if (r->o.trace_path) {
		r->trace = fopen(r->o.trace_path, "we");
		if (!r->trace)
			return error_errno(e, errno, "--trace-file: cannot write %s", r->o.trace_path);
		setvbuf(r->trace, NULL, _IOLBF, 1 << 16);
	}
	o->trace_line = trace_options_line;
	o->trace_opaque = r->trace ? r->trace : stderr;
	return 0;
}

static bool is_unix(const char *where)
{
	return where && !strncmp(where, "unix:", 5);
}

#define SOCKETS_MAX (MACHINE_SERIALS + VIRTIO_CONSOLE_PORTS_MAX + 4)
/* The paths of sockets to be removed at the end; returns their number. */
static unsigned sockets(const struct run *r, const char *path[SOCKETS_MAX])
{
	unsigned n = 0;

	for (unsigned i = 0; i < r->o.serials; i++)
		if (r->o.serial[i].kind == STREAM_UNIX)
			path[n++] = r->o.serial[i].path;
	for (unsigned i = 0; i < r->o.consoles; i++)
		if (r->o.console[i].kind == STREAM_UNIX)
			path[n++] = r->o.console[i].path;
	if (r->o.vsock[0])
		path[n++] = r->o.vsock;
	if (is_unix(r->o.gdb))
		path[n++] = r->o.gdb + strlen("unix:");
	if (r->control.fd >= 0)
		path[n++] = r->control.path;
	if (r->socket)
		path[n++] = r->socket;
	return n;
}

/* Before files are opened and threads started. */
static int prepare_jail(struct run *r, struct error *e)
{
	const char *path[SOCKETS_MAX];

	if (!r->o.jail)
		return 0;
	if (sockets(r, path) && !(r->janitor = janitor_start(e)))
		return -1;
	jail_prepare(&r->jail, !r->o.nets.count && (!r->o.gdb || is_unix(r->o.gdb)));
	return 0;
}

static bool has_user_net(const struct run *r)
{
	for (unsigned i = 0; i < r->o.nets.count; i++) {
		if (r->o.nets.net[i].kind == NET_KIND_USER)
			return true;
	}
	return false;
}

/* Who can ask for another engine: a client, or Ctrl-A e. */
static bool engines_change(const struct run *r)
{
	return r->control.fd >= 0 || isatty(STDIN_FILENO);
}

/* The last thing before the guest's first instruction. */
static int lock_jail(struct run *r, struct error *e)
{
	const char *path[SOCKETS_MAX];
	unsigned n = sockets(r, path);

	if (!r->o.jail)
		return 0;
	for (unsigned i = 0; i < n; i++)
		if (janitor_add(r->janitor, path[i], e))
			return -1;
	if (jail_lock(&r->jail, (has_user_net(r) ? JAIL_SOCKETS : 0) | (engines_change(r) ? JAIL_EXEC_MAPS : 0), e))
		return -1;
	if (r->jail.missing[0])
		fprintf(stderr, "ectype: the jail lacks: %s\n", r->jail.missing);
	return 0;
}

/* First what only looks, then what creates. */
static int build(struct run *r, struct error *e)
{
	if (machine_check(&r->o.machine, e) || create_control(r, e))
		return -1;
	/* helpers make namespaces of their own, from the host's */
	if (share_options_check(&r->o.shares, e) || share_options_start(&r->o.shares, e))
		return -1;
	if (prepare_jail(r, e))
		return -1;
	if (r->o.stats_path && run_stats_check(r->o.stats_path, e))
		return -1;
	if (r->o.symbols_path) {
		r->symbols = guest_symbols_load(r->o.symbols_path, e);
		if (!r->symbols)
			return -1;
		r->o.machine.engine_options.symbols = r->symbols;
	}
	r->o.machine.turns = r->o.gdb;
	if (r->o.gdb) {
		r->gdb_fd = gdb_listen(r->o.gdb, e);
		if (r->gdb_fd < 0)
			return -1;
	}
	if (create_vsock(r, e) || net_options_create(&r->o.nets, &r->o.machine, e) || open_trace(r, e) ||
	    create_streams(r, e) || create_debugcon(r, e))
		return -1;
	r->o.machine.vhost_user = r->o.shares.config;
	r->o.machine.vhost_users = r->o.shares.count;
	r->o.machine.may_rest &= !r->o.jail || engines_change(r);
	if (output_gate_create(&r->o.machine, e))
		return -1;
	r->machine = machine_create(&r->o.machine, e);
	if (!r->machine) {
		share_options_explain(&r->o.shares, e);
		return -1;
	}
	if (r->o.gdb) {
		int fd = r->gdb_fd;

		r->gdb_fd = -1;
		r->gdb = gdb_create_fd(r->machine, fd, r->o.gdb, e);
		if (!r->gdb)
			return -1;
	}
	if (r->o.stats_path && !(r->stats = run_stats_open(r->o.stats_path, e)))
		return -1;
	if (saved_options_write(&r->o, &r->control.options, e) || lock_jail(r, e))
		return -1;
	control_socket_start(&r->control, r->machine);
	return 0;
}

static void destroy(struct run *r)
{
	signals_remove();
	control_socket_close(&r->control);
	gdb_destroy(r->gdb);
	if (r->gdb_fd >= 0) {
		close(r->gdb_fd);
		if (is_unix(r->o.gdb))
			unlink(r->o.gdb + 5);
	}
	machine_destroy(r->machine);
	gate_destroy(r->o.machine.gate);
	net_options_destroy(&r->o.machine);
	if (r->o.machine.vsock)
		r->o.machine.vsock->ops->destroy(r->o.machine.vsock);
	share_options_stop(&r->o.shares);
	guest_symbols_free(r->symbols);
	if (r->trace)
		fclose(r->trace);
	if (r->debugcon != r->o.machine.serial[0])
		destroy_stream(r->debugcon);
	if (r->stats)
		fclose(r->stats);
	for (unsigned i = 0; i < MACHINE_SERIALS; i++)
		destroy_stream(r->o.machine.serial[i]);
	for (unsigned i = 0; i < VIRTIO_CONSOLE_PORTS_MAX; i++)
		destroy_stream(r->console[i].chr);
	janitor_finish(r->janitor);
}

static void print_line(void *opaque, const char *text)
{
	fprintf(stderr, "ectype:   %s\n", text);
}

static int exit_status(struct run *r, const struct machine_result *res)
{
	switch (res->end) {
	case MACHINE_END_POWER_OFF:
	case MACHINE_END_RESET:
	case MACHINE_END_LIMIT:
	case MACHINE_END_HALTED:
		return EXIT_OK;
	case MACHINE_END_DEBUG_EXIT:
		return res->exit_code & 0xff;
	case MACHINE_END_STOPPED:
		if (signals_caught())
			fprintf(stderr, "ectype: ended by signal %d\n", signals_caught());
		return EXIT_OK;
	case MACHINE_END_TRIPLE_FAULT:
		fprintf(stderr, "ectype: triple fault: the processor shut down\n");
		machine_dump_registers(r->machine, 0, print_line, NULL);
		return EXIT_FAILED;
	case MACHINE_END_FAILED:
		break;
	}
	fprintf(stderr, "ectype: %s\n", res->text);
	return EXIT_FAILED;
}

static int run(struct run *r)
{
	struct machine_result res;
	struct error e;
	int status;

	signals_install(stop, r);
	if (!strcmp(r->o.machine.engine, "auto") && (isatty(STDERR_FILENO) || machine_verdict(r->machine)->passed_over))
		fprintf(stderr, "ectype: engine %s: %s\n", machine_vcpu(r->machine, 0)->engine->name,
			machine_verdict(r->machine)->reason);
	machine_run(r->machine, &res);
	control_socket_stop(&r->control);
	signals_remove();
	status = exit_status(r, &res);
	if (r->o.stats && !r->o.stats_path)
		run_stats_text(r->machine);
	if (r->stats && run_stats_json(r->machine, &res, r->stats, &e)) {
		fprintf(stderr, "ectype: %s\n", e.text);
		status = EXIT_FAILED;
	}
	return status;
}

int run_machine(const struct run_plan *p)
{
	struct run *r = calloc(1, sizeof(*r));
	struct error e;
	int status;

	if (!r)
		return EXIT_FAILED;
	r->gdb_fd = r->control.fd = -1;
	jail_begin(&r->jail); /* before anything is opened */
	status = p->options(p->opaque, &r->o);
	if (status || r->o.help) {
		free(r);
		return status;
	}
	r->socket = p->socket;
	if (p->arrival)
		r->control.arrival = p->arrival(p->opaque);
	if (build(r, &e)) {
		status = usage_error("%s", e.text);
		if (p->failed)
			p->failed(p->opaque);
	} else {
		status = p->ready ? p->ready(p->opaque, r->machine) : EXIT_OK;
		if (!status) {
			status = run(r);
			if (p->ended)
				status = p->ended(p->opaque, status);
		}
	}
	destroy(r);
	free(r);
	return status;
}

struct arguments {
	int argc;
	char **argv;
};

static int options_given(void *opaque, struct run_options *o)
{
	const struct arguments *a = opaque;
	int status = run_options_parse(o, a->argc, a->argv);

	if (!status && o->help) {
		run_options_help();
		status = fflush(stdout) ? EXIT_FAILED : EXIT_OK;
	}
	return status;
}

int cmd_run(int argc, char **argv)
{
	struct arguments a = { argc, argv };
	const struct run_plan plan = { .options = options_given, .opaque = &a };

	return run_machine(&plan);
}

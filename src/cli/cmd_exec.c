/*
 * `ectype exec`: a command in a fresh machine. The machine boots the cache's
 * kernel with a small initial RAM disk whose process 1 (guest/exec_init.c)
 * mounts the host's root, read-only over virtio-fs, under a throw-away overlay
 * and runs the command there.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/control_socket.h"
#include "cli/exec.h"
#include "cli/exec_streams.h"
#include "jail/jail.h"

/* Quiet, no waiting at a panic. The kernel's tests of its own cryptography are two thirds of the instructions of a
 * boot; the time stamp counter needs no watchdog here. */
#define APPEND "console=ttyS0 quiet panic=-1 cryptomgr.notests tsc=reliable no_timer_check"

struct exec {
	struct exec_options o;
	struct exec_streams *streams;
	struct virtio_console_port ports[EXEC_PORTS];
	struct machine *machine;
	struct jail jail;
	struct janitor *janitor; /* removes the control socket */
	struct control_socket control;
	int initrd_fd;
	char base[4096], initrd[64];
};

static void stop(void *opaque)
{
	struct exec *x = opaque;

	if (x->machine)
		machine_stop(x->machine);
}

/* In a signal handler. The first one is the command's business, the second ends the machine. */
static void on_signal(void *opaque)
{
	struct exec *x = opaque;

	if (!exec_streams_signal(x->streams, signals_caught()))
		stop(x);
}

/* What cannot be had is not spoken of: stderr is the command's. */
static int create_control(struct exec *x, struct error *e)
{
	struct error why;

	return x->o.run.no_control ? 0 : control_socket_open(&x->control, x->o.run.machine.name, "exec", &why, e);
}

static int prepare_jail(struct exec *x, struct error *e)
{
	if (!x->o.run.jail)
		return 0;
	if (x->control.fd >= 0 && !(x->janitor = janitor_start(e)))
		return -1;
	jail_prepare(&x->jail, !x->o.run.nets.count);
	return 0;
}

static int lock_jail(struct exec *x, struct error *e)
{
	unsigned needs = x->o.net ? JAIL_SOCKETS : 0;

	if (!x->o.run.jail)
		return 0;
	if (x->control.fd >= 0) {
		if (janitor_add(x->janitor, x->control.path, e))
			return -1;
		needs |= JAIL_EXEC_MAPS;
	}
	return jail_lock(&x->jail, needs, e);
}

/* The host's root, then the writable directories, by the names that the guest shall see. */
static int add_shares(struct exec *x, struct error *e)
{
	struct share_option *root = share_option_add(&x->o.run.shares, "ectype-root", "/", true);

	if (!root)
		return error_set(e, "too many directories");
	root->dir.root = root->dir.frozen = true;
	for (unsigned i = 0; i < x->o.rws; i++) {
		char tag[24], *path = realpath(x->o.rw[i], NULL);
		struct share_option *s;

		if (!path)
			return error_set(e, "--rw %s: there is no such directory", x->o.rw[i]);
		snprintf(tag, sizeof(tag), "ectype-rw%u", i);
		s = share_option_add(&x->o.run.shares, tag, path, false);
		free(path);
		if (!s)
			return error_set(e, "--rw: more than %d directories, or a path that is too long",
					 SHARES_MAX - 1);
	}
	return share_options_check(&x->o.run.shares, e);
}

static int build(struct exec *x, struct error *e)
{
	struct machine_config *m = &x->o.run.machine;

	jail_begin(&x->jail);
	x->streams = exec_streams_create(stop, x, e);
	if (!x->streams || add_shares(x, e))
		return -1;
	x->initrd_fd = exec_image_create(&x->o, x->base, exec_streams_tty(x->streams), e);
	if (x->initrd_fd < 0)
		return -1;
	snprintf(x->initrd, sizeof(x->initrd), "/proc/self/fd/%d", x->initrd_fd);
	m->initrd = x->initrd;
	m->append = APPEND;
	m->no_reboot = true;
	m->serial[0] = exec_streams_serial(x->streams);
	exec_streams_ports(x->streams, x->ports);
	m->console = x->ports;
	m->consoles = EXEC_PORTS;
	/* helpers make namespaces of their own, from the host's */
	if (machine_check(m, e) || create_control(x, e) || share_options_start(&x->o.run.shares, e))
		return -1;
	if (prepare_jail(x, e))
		return -1;
	if (net_options_create(&x->o.run.nets, m, e))
		return -1;
	m->vhost_user = x->o.run.shares.config;
	m->vhost_users = x->o.run.shares.count;
	x->machine = machine_create(m, e);
	if (!x->machine) {
		share_options_explain(&x->o.run.shares, e);
		return -1;
	}
	if (lock_jail(x, e))
		return -1;
	control_socket_start(&x->control, x->machine);
	return 0;
}

static int exit_status(struct exec *x, const struct machine_result *res)
{
	int status = exec_streams_status(x->streams);

	if (res->end == MACHINE_END_STOPPED && status >= 0) {
		int lost = exec_streams_error(x->streams);

		if (!lost)
			return status;
		fprintf(stderr, "ectype: exec: what the command wrote cannot be passed on: %s\n", strerror(lost));
		return status ? status : EXEC_FAILED;
	}
	if (res->end == MACHINE_END_STOPPED && signals_caught())
		return 128 + signals_caught();
	exec_streams_print_serial(x->streams);
	fprintf(stderr, "ectype: %s\n",
		res->end == MACHINE_END_FAILED	  ? res->text
		: res->end == MACHINE_END_STOPPED ? "exec: given up"
						  : "exec: the machine ended before the command did");
	return EXEC_FAILED;
}

static int run(struct exec *x)
{
	struct machine_result res;

	signals_install(on_signal, x);
	exec_streams_enter(x->streams);
	machine_run(x->machine, &res);
	control_socket_stop(&x->control);
	exec_streams_leave(x->streams);
	signals_remove();
	return exit_status(x, &res);
}

int cmd_exec(int argc, char **argv)
{
	struct exec *x = calloc(1, sizeof(*x));
	struct error e;
	int status;

	if (!x)
		return EXEC_FAILED;
	x->initrd_fd = x->control.fd = -1;
	status = exec_options_parse(&x->o, argc, argv);
	if (!status && x->o.help) {
		exec_options_help();
		status = fflush(stdout) ? EXIT_FAILED : EXIT_OK;
	} else if (!status && !(status = cache_path(x->base, sizeof(x->base), "exec-initramfs"))) {
		status = build(x, &e) ? usage_error("exec: %s", e.text) : run(x);
		signals_remove();
		control_socket_close(&x->control);
		machine_destroy(x->machine);
		net_options_destroy(&x->o.run.machine);
		share_options_stop(&x->o.run.shares);
		exec_streams_destroy(x->streams);
		janitor_finish(x->janitor);
		if (x->initrd_fd >= 0)
			close(x->initrd_fd);
	}
	free(x);
	return status;
}

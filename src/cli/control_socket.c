#include "cli/control_socket.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "backend/chr/chr_mux.h"
#include "ctl/ctl.h"

int control_socket_open(struct control_socket *c, const char *name, const char *kind, struct error *why,
			struct error *e)
{
	bool taken;

	why->text[0] = 0;
	if (name)
		snprintf(c->name, sizeof(c->name), "%s", name);
	else
		snprintf(c->name, sizeof(c->name), "%s-%d", kind, (int)getpid());
	c->fd = ctl_listen(c->name, c->path, &taken, why);
	if (c->fd >= 0 || !taken) {
		c->cwd = getcwd(NULL, 0);
		return 0;
	}
	*e = *why;
	return -1;
}

void control_socket_mux(struct control_socket *c, struct chr **stream)
{
	if (c->fd < 0 || !*stream)
		return;
	c->mux = chr_mux_create(*stream, NULL);
	if (c->mux)
		*stream = c->mux;
}

void control_socket_start(struct control_socket *c, struct machine *m)
{
	const struct ctl_config cfg = {
		.machine = m,
		.name = c->name,
		.cwd = c->cwd,
		.fd = c->fd,
		.console = c->mux,
		.options = c->options.len ? c->options.data : NULL,
		.options_len = c->options.len,
		.arrival = c->arrival,
	};
	struct error e;

	if (c->fd < 0)
		return;
	c->ctl = ctl_start(&cfg, &e);
	if (!c->ctl)
		fprintf(stderr, "ectype: the control socket does not answer: %s\n", e.text);
}

void control_socket_stop(struct control_socket *c)
{
	ctl_stop(c->ctl);
	c->ctl = NULL;
}

void control_socket_close(struct control_socket *c)
{
	control_socket_stop(c);
	enc_free(&c->options);
	free(c->cwd);
	c->cwd = NULL;
	if (c->fd < 0)
		return;
	unlink(c->path); /* in the jail, the janitor does */
	close(c->fd);
	c->fd = -1;
}

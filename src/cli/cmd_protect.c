/*
 * `ectype protect`: connects a running machine with `ectype standby`. The
 * monitor gets the connected socket and does the rest (ctl/protect.h); this
 * process waits until the machine is protected, and is not needed any more.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/pass_fd.h"
#include "cli/control.h"
#include "cli/secure_link.h"
#include "ctl/protect.h"
#include "ctl/witness.h"

#define V1 "/api/v1/"
#define RATE 20
#define TIMEOUT_MS 1000

struct command {
	const char *name, *witness;
	struct migrate_target to;
	struct protect_terms terms;
	bool stop;
};

/* The terms, with the descriptors they need. */
static int send_terms(const struct command *c, int monitor, int standby, int witness, struct error *e)
{
	const int fds[] = { standby, witness };
	char line[PROTECT_TERMS_MAX];

	if (!fd_pass(monitor, line, protect_terms_write(&c->terms, line), fds, witness >= 0 ? 2 : 1))
		return 0;
	return error_errno(e, errno, "machine '%s' does not listen", c->name);
}

/* The monitor's answer, one line. */
static int await(const struct command *c, int monitor)
{
	char line[600];
	size_t len = 0;
	ssize_t n;

	while (len < sizeof(line) - 1 && !memchr(line, '\n', len)) {
		struct pollfd f = { .fd = monitor, .events = POLLIN };

		n = poll(&f, 1, -1) < 0 ? -1 : read(monitor, line + len, sizeof(line) - 1 - len);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n <= 0)
			break;
		len += (size_t)n;
	}
	line[len] = 0;
	line[strcspn(line, "\n")] = 0;
	if (!strcmp(line, "protected")) {
		printf("%s: protected by %s\n", c->name, c->to.text);
		return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
	}
	fprintf(stderr, "ectype: protect: %s\n", *line ? line : "the machine has ended");
	return EXIT_FAILED;
}

static int begin(struct command *c, int witness)
{
	struct ctl_answer a;
	struct error e;
	int standby, monitor, status;

	standby = link_connect(&c->to, &e);
	if (standby < 0)
		return control_status("protect", CTL_REFUSED, &e);
	monitor = ctl_upgrade(c->name, V1 "vm.protect", "ectype-protection", &a, &e);
	if (monitor < 0) {
		close(standby);
		return control_status("protect", monitor, &e);
	}
	ctl_answer_free(&a);
	status = send_terms(c, monitor, standby, witness, &e) ? control_status("protect", CTL_REFUSED, &e) : -1;
	/* from here on it closes when the monitor closes it */
	close(standby);
	if (status < 0)
		status = await(c, monitor);
	close(monitor);
	return status;
}

static int run(struct command *c)
{
	struct error e;
	int witness = -1, status;

	if (c->stop)
		return control_status("protect", ctl_order(c->name, "PUT", V1 "vm.unprotect", NULL, NULL, &e), &e);
	if (migrate_target_check(&c->to, false, &e))
		return usage_error("protect: %s", e.text);
	if (getrandom(c->terms.id, sizeof(c->terms.id), 0) != sizeof(c->terms.id))
		return EXIT_FAILED;
	if (c->witness) {
		witness = witness_open(c->witness, true, &e);
		if (witness < 0 || witness_prepare(witness, c->terms.id, &e))
			return usage_error("protect: %s", e.text);
		c->terms.witness = true;
	}
	status = begin(c, witness);
	if (witness >= 0 && status == EXIT_USAGE)
		witness_clear(witness);
	if (witness >= 0)
		close(witness);
	return status;
}

static int help(void)
{
	printf(
	    "usage: ectype protect NAME tcp:HOST:PORT|unix:PATH [OPTIONS]\n"
	    "       ectype protect --stop NAME\n"
	    "Keeps a copy of the running machine NAME up to date at `ectype standby`, which listens there and goes on\n"
	    "in its place when it dies. What the machine sends to the outside world waits until the copy has the\n"
	    "state behind it. Returns when the machine is protected.\n\n"
	    "  --rate N             checkpoints a second, 1 to %u (%u)\n"
	    "  --timeout MS         the other side is lost when it is silent for so long (%u)\n"
	    "  --witness FILE       a file that both sides see: whoever has lost the other goes on if it was the first\n"
	    "                       there. It must be empty or missing\n"
	    "  --on-loss hold|continue\n"
	    "                       without a witness, if the standby is lost: the machine stands still until somebody\n"
	    "                       decides (hold), or goes on if the connection was closed (continue); the standby\n"
	    "                       takes over only at a closed connection then, too\n",
	    PROTECT_RATE_MAX, RATE, TIMEOUT_MS);
	migrate_target_help(false);
	printf("  --stop               the machine goes on unprotected\n\n"
	       "ectype ctl NAME protection shows how it goes.\n"
	       "Exit status: 0 done, 1 the machine or the standby refuses, 2 bad usage or no such machine.\n");
	return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
}

static int take_number(unsigned *to, const char *option, const char *text, unsigned min, unsigned max)
{
	u64 n;

	if (parse_number(text, max, &n) || n < min)
		return usage_error("protect: %s '%s' is not a number from %u to %u", option, text, min, max);
	*to = (unsigned)n;
	return 0;
}

static int take_on_loss(struct command *c, const char *text)
{
	if (strcmp(text, "hold") && strcmp(text, "continue"))
		return usage_error("protect: --on-loss '%s' is neither hold nor continue", text);
	c->terms.on_loss = strcmp(text, "hold") ? PROTECTION_CONTINUE : PROTECTION_HOLD;
	return 0;
}

static int take_argument(struct command *c, int argc, char **argv, int *i)
{
	int status = migrate_target_option(&c->to, "protect", argc, argv, i);
	const char *v;

	if (status)
		return status < 0 ? 0 : status;
	if ((v = option_value("--rate", argc, argv, i)))
		return take_number(&c->terms.rate, "--rate", v, 1, PROTECT_RATE_MAX);
	if ((v = option_value("--timeout", argc, argv, i)))
		return take_number(&c->terms.timeout_ms, "--timeout", v, PROTECT_TIMEOUT_MIN_MS,
				   PROTECT_TIMEOUT_MAX_MS);
	if ((v = option_value("--on-loss", argc, argv, i)))
		return take_on_loss(c, v);
	if ((v = option_value("--witness", argc, argv, i)))
		c->witness = v;
	else if (!strcmp(argv[*i], "--stop"))
		c->stop = true;
	else if (argv[*i][0] == '-' || (c->name && (c->to.text || c->stop)))
		return usage_error("protect: no argument '%s' (see ectype protect --help)", argv[*i]);
	else if (!c->name)
		c->name = argv[*i];
	else
		return migrate_target_parse(&c->to, "protect", argv[*i]);
	return 0;
}

int cmd_protect(int argc, char **argv)
{
	struct command c = { .terms = { .rate = RATE, .timeout_ms = TIMEOUT_MS } };
	int status = EXIT_OK;

	for (int i = 1; i < argc && !status; i++) {
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
			return help();
		status = take_argument(&c, argc, argv, &i);
	}
	if (!status && !c.name)
		status = usage_error("protect: which machine? (see ectype protect --help)");
	else if (!status && !c.stop && !c.to.text)
		status = usage_error("protect: where is the standby? tcp:HOST:PORT or unix:PATH (see ectype protect "
				     "--help)");
	else if (!status && c.witness && c.terms.on_loss == PROTECTION_CONTINUE)
		status = usage_error("protect: with --witness, --on-loss has no meaning");
	return status ? status : run(&c);
}

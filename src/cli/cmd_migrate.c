/*
 * `ectype migrate`: a running machine moves to another monitor, `ectype
 * receive`. The two monitors speak with each other (state/migration.h); this
 * process passes their bytes on, and connects them again when they have to ask
 * each other how it ended. It may be killed at any time: that is a lost
 * connection.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/host_time.h"
#include "cli/control.h"
#include "cli/migrate_target.h"
#include "cli/relay.h"
#include "ctl/migrate.h"

#define V1 "/api/v1/"
#define TICK_MS 250u
#define SHOW_NS 1000000000ull
#define AGAIN_S 1
#define TELL_TRIES 10 /* to tell a receiver that the machine goes on here */
#define END_TRIES 200 /* of 100 ms: until the monitor knows how it ended */

struct command {
	const char *name;
	struct migrate_target to;
	bool cancel, quiet, copy_disks, post_copy;
	u64 limit;
	json_t *set;
	bool cancelled, shown;
	u64 next_show;
};

static void nothing(void *opaque) {}

/* ---- progress ---- */

static void show(struct command *c, json_t *j)
{
	const char *phase = json_text(j, "phase");
	char left[16], rate[16];
	bool tty = isatty(STDERR_FILENO);

	if (c->quiet)
		return;
	format_bytes((double)json_number(j, "remaining_bytes"), left);
	if (!strcmp(phase, "post-copy")) {
		fprintf(stderr, "%sectype: post-copy: %s left, %lu pages were waited for%s", tty ? "\r\033[K" : "",
			left, json_number(j, "wanted_pages"), tty ? "" : "\n");
		fflush(stderr);
		c->shown = tty;
		return;
	}
	if (strcmp(phase, "ram"))
		return;
	format_bytes((double)json_number(j, "bandwidth_bytes_per_second"), rate);
	fprintf(stderr, "%sectype: round %lu: %s left", tty ? "\r\033[K" : "", json_number(j, "round"), left);
	if (json_number(j, "bandwidth_bytes_per_second"))
		fprintf(stderr, ", %s/s, the guest would stand still for %.0f ms", rate,
			json_fraction(j, "expected_downtime_ms"));
	if (json_number(j, "throttle_percent"))
		fprintf(stderr, ", held %lu %% of the time", json_number(j, "throttle_percent"));
	fputs(tty ? "" : "\n", stderr);
	fflush(stderr);
	c->shown = tty;
}

static void end_show(struct command *c)
{
	if (c->shown)
		fputs("\r\033[K", stderr);
	c->shown = false;
}

static bool tick(void *opaque)
{
	struct command *c = opaque;
	struct error e;
	json_t *j;

	if (signals_caught() && !c->cancelled) {
		c->cancelled = true;
		end_show(c);
		if (ctl_order(c->name, "PUT", V1 "vm.migration-cancel", NULL, NULL, &e))
			fprintf(stderr, "ectype: migrate: %s\n", e.text);
	}
	if (host_ns() < c->next_show)
		return false;
	c->next_show = host_ns() + SHOW_NS;
	if (!ctl_order(c->name, "GET", V1 "vm.migration", NULL, &j, &e)) {
		show(c, j);
		json_decref(j);
	}
	return false;
}

/* ---- one connection ---- */

static int connect_both(struct command *c, struct relay *r, struct error *e)
{
	struct ctl_answer a;
	int peer = migrate_connect(&c->to, e), monitor;
	struct tls *tls = NULL;

	if (peer < 0)
		return CTL_REFUSED;
	if (tls_wanted(&c->to.tls) && !(tls = tls_open(&c->to.tls, peer, false, e))) {
		close(peer);
		return CTL_REFUSED;
	}
	monitor = ctl_upgrade(c->name, V1 "vm.migrate", "ectype-migration", &a, e);
	peer_init(&r->peer, peer, tls);
	if (monitor < 0) {
		peer_close(&r->peer);
		return monitor;
	}
	peer_init(&r->monitor, monitor, NULL);
	while (a.len) { /* the first words of the monitor, if they came along */
		ssize_t n = peer_write(&r->peer, a.body, a.len);

		if (n <= 0)
			break;
		memmove(a.body, a.body + n, a.len -= (size_t)n);
	}
	ctl_answer_free(&a);
	return 0;
}

/* The monitor's account of it, when its side is over. NULL with *e. */
static json_t *how_it_ended(struct command *c, struct error *e)
{
	const struct timespec pause = { .tv_nsec = 100000000 };
	json_t *j = NULL;

	for (unsigned i = 0; i < END_TRIES; i++) {
		if (ctl_order(c->name, "GET", V1 "vm.migration", NULL, &j, e))
			return NULL;
		if (!json_is_true(json_object_get(j, "connected")) || !strcmp(json_text(j, "phase"), "handed over"))
			return j;
		json_decref(j);
		nanosleep(&pause, NULL);
	}
	error_set(e, "machine '%s' does not say how it ended", c->name);
	return NULL;
}

/* 0 and the account in *j; or as ctl_ask(), with *e: it was not begun, or the monitor tells nothing. */
static int attempt(struct command *c, json_t **j, struct error *e)
{
	struct relay r = { .limit = c->limit, .tick = tick, .opaque = c, .tick_ms = TICK_MS };
	int ret = connect_both(c, &r, e);

	*j = NULL;
	if (ret)
		return ret;
	relay_run(&r);
	end_show(c);
	if (tls_wanted(&c->to.tls) && tls_error(r.peer.tls))
		fprintf(stderr, "ectype: migrate: %s\n", tls_error(r.peer.tls));
	/* a receiver that goes is not to wait for us; a monitor that has moved answers before it ends */
	peer_close(&r.peer);
	*j = how_it_ended(c, e);
	peer_close(&r.monitor);
	return *j ? 0 : CTL_REFUSED;
}

/* ---- the whole ---- */

static int report(const struct command *c, json_t *j)
{
	printf("%s: moved to %s: %.1f MiB in %.2f s, %lu rounds; the guest stood still for %.1f ms\n", c->name,
	       c->to.text, (double)json_number(j, "sent_bytes") / (double)MiB, json_fraction(j, "seconds"),
	       json_number(j, "round"), json_fraction(j, "downtime_ms"));
	return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
}

static bool pause_before_next(void)
{
	const struct timespec pause = { .tv_sec = AGAIN_S };

	return nanosleep(&pause, NULL) || signals_caught();
}

static int in_doubt(const struct command *c)
{
	fprintf(stderr,
		"ectype: migrate: machine '%s' was handed over, and is not heard to run at %s; it stands still here. "
		"Ask again: ectype migrate %s %s. If it runs there: ectype stop %s --force. If it surely never will: "
		"ectype resume %s\n",
		c->name, c->to.text, c->name, c->to.text, c->name, c->name);
	return EXIT_FAILED;
}

static int needed(const struct command *c)
{
	fprintf(stderr,
		"ectype: migrate: machine '%s' runs at %s, and needs memory that is here still: it waits there for it. "
		"Again: ectype migrate %s %s\n",
		c->name, c->to.text, c->name, c->to.text);
	return EXIT_FAILED;
}

/* Until a definite answer has come. `j`: what the monitor said last; released. */
static int settle(struct command *c, json_t *j)
{
	bool told = false;
	struct error e;

	for (unsigned tries = 0;; tries++) {
		bool post = !strcmp(json_text(j, "phase"), "post-copy"),
		     doubt = !strcmp(json_text(j, "phase"), "in doubt"),
		     unsettled = json_is_true(json_object_get(j, "unsettled"));
		int ret;

		if (!strcmp(json_text(j, "phase"), "handed over")) {
			ret = report(c, j);
			json_decref(j);
			return ret;
		}
		if (!doubt && !post && (!unsettled || tries >= TELL_TRIES || c->cancelled)) {
			fprintf(stderr, "ectype: migrate: %s: machine '%s' goes on here\n", json_text(j, "error"),
				c->name);
			json_decref(j);
			return EXIT_FAILED;
		}
		if (!told)
			fprintf(stderr, "ectype: migrate: %s; connecting again\n", json_text(j, "error"));
		told = true;
		if (pause_before_next()) {
			json_decref(j);
			return doubt ? in_doubt(c) : post ? needed(c) : EXIT_FAILED;
		}
		json_t *next;

		ret = attempt(c, &next, &e);
		if (ret == CTL_NO_MACHINE) {
			json_decref(j);
			return control_status("migrate", ret, &e);
		}
		if (!next && ctl_order(c->name, "GET", V1 "vm.migration", NULL, &next, &e)) {
			json_decref(j);
			return control_status("migrate", CTL_REFUSED, &e);
		}
		json_decref(j);
		j = next;
	}
}

/*
 * Of a machine that moves already, nothing is touched, its settings neither.
 * A receiver may still wait for a machine that went on here: it is told first.
 */
static int end_old(struct command *c, struct error *e)
{
	bool unsettled, doubt, busy;
	json_t *j;
	int ret = ctl_order(c->name, "GET", V1 "vm.migration", NULL, &j, e);

	if (ret)
		return ret;
	unsettled = json_is_true(json_object_get(j, "unsettled"));
	doubt = !strcmp(json_text(j, "phase"), "in doubt");
	busy = json_is_true(json_object_get(j, "connected"));
	json_decref(j);
	if (busy) {
		error_set(e, "machine '%s' is moving already", c->name);
		return CTL_REFUSED;
	}
	if (!unsettled || doubt)
		return 0;
	ret = attempt(c, &j, e);
	json_decref(j);
	return ret;
}

/* All of the settings: what an earlier migration was told is not for this one. */
static int set_all(struct command *c, struct error *e)
{
	json_object_set_new(c->set, "copy_disks", json_boolean(c->copy_disks));
	json_object_set_new(c->set, "post_copy", json_boolean(c->post_copy));
	if (!json_object_get(c->set, "downtime_ms"))
		json_object_set_new(c->set, "downtime_ms", json_integer(MIGRATION_DOWNTIME_MS));
	if (!json_object_get(c->set, "timeout_s"))
		json_object_set_new(c->set, "timeout_s", json_integer(0));
	return ctl_order(c->name, "PUT", V1 "vm.migration-set", c->set, NULL, e);
}

static int run(struct command *c)
{
	struct error e;
	json_t *j;
	int ret;

	if (c->cancel)
		return control_status("migrate", ctl_order(c->name, "PUT", V1 "vm.migration-cancel", NULL, NULL, &e),
				      &e);
	if (migrate_target_check(&c->to, false, &e))
		return usage_error("migrate: %s", e.text);
	signals_install(nothing, NULL);
	c->next_show = host_ns() + SHOW_NS;
	ret = end_old(c, &e);
	if (!ret)
		ret = set_all(c, &e);
	if (!ret)
		ret = attempt(c, &j, &e);
	return ret ? control_status("migrate", ret, &e) : settle(c, j);
}

static int help(void)
{
	printf(
	    "usage: ectype migrate NAME tcp:HOST:PORT|unix:PATH [OPTIONS]\n"
	    "       ectype migrate --cancel NAME\n"
	    "Moves the running machine NAME to `ectype receive`, which listens there. It runs here until all of\n"
	    "its memory is there. Both sides must see the same files of disks, or --copy-disks. Ctrl-C cancels.\n\n"
	    "  --copy-disks         disks that the guest can write to are copied; ectype receive --disk ID=PATH says\n"
	    "                       where. The files here stay as the machine left them\n"
	    "  --post-copy          memory that is written faster than it can be sent comes when the guest runs there\n"
	    "                       already. If this machine or the connection is lost then for good, so is the guest\n"
	    "  --downtime MS        the guest may stand still for so long, as far as can be foreseen (100)\n"
	    "  --timeout S          give up if that is not reached in S seconds; default: never\n"
	    "  --bandwidth MIB/S    send no more than so many MiB a second\n");
	migrate_target_help(false);
	printf("  --quiet              no progress\n"
	       "  --cancel             of a machine that moves: it goes on here\n\n"
	       "Exit status: 0 moved, 1 not: the machine goes on here, or it is in doubt where, and a line says so;\n"
	       "2 bad usage or no such machine.\n");
	return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
}

/* ---- arguments ---- */

static int take_number(struct command *c, const char *member, const char *option, const char *text, u64 max)
{
	u64 n;

	if (parse_number(text, max, &n))
		return usage_error("migrate: %s '%s' is not a number up to %llu", option, text,
				   (unsigned long long)max);
	json_object_set_new(c->set, member, json_integer((json_int_t)n));
	return 0;
}

static int take_bandwidth(struct command *c, const char *text)
{
	char *end;
	double mib = strtod(text, &end);

	if (end == text || *end || !(mib > 0 && mib < 1e6))
		return usage_error("migrate: --bandwidth '%s' is not a number of MiB a second", text);
	c->limit = MAX((u64)(mib * (double)MiB), 1ull);
	return 0;
}

static int take_argument(struct command *c, int argc, char **argv, int *i)
{
	int status = migrate_target_option(&c->to, "migrate", argc, argv, i);
	const char *v;

	if (status)
		return status < 0 ? 0 : status;
	if ((v = option_value("--downtime", argc, argv, i)))
		return take_number(c, "downtime_ms", "--downtime", v, 3600000);
	if ((v = option_value("--timeout", argc, argv, i)))
		return take_number(c, "timeout_s", "--timeout", v, 86400 * 365);
	if ((v = option_value("--bandwidth", argc, argv, i)))
		return take_bandwidth(c, v);
	if (!strcmp(argv[*i], "--cancel"))
		c->cancel = true;
	else if (!strcmp(argv[*i], "--copy-disks"))
		c->copy_disks = true;
	else if (!strcmp(argv[*i], "--post-copy"))
		c->post_copy = true;
	else if (!strcmp(argv[*i], "--quiet"))
		c->quiet = true;
	else if (argv[*i][0] == '-' || (c->name && (c->to.text || c->cancel)))
		return usage_error("migrate: no argument '%s' (see ectype migrate --help)", argv[*i]);
	else if (!c->name)
		c->name = argv[*i];
	else
		return migrate_target_parse(&c->to, "migrate", argv[*i]);
	return 0;
}

int cmd_migrate(int argc, char **argv)
{
	struct command c = { .set = json_object() };
	int status = EXIT_OK;

	for (int i = 1; i < argc && !status; i++) {
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			json_decref(c.set);
			return help();
		}
		status = take_argument(&c, argc, argv, &i);
	}
	if (!status && !c.name)
		status = usage_error("migrate: which machine? (see ectype migrate --help)");
	else if (!status && !c.cancel && !c.to.text)
		status = usage_error("migrate: where to? tcp:HOST:PORT or unix:PATH (see ectype migrate --help)");
	if (!status)
		status = run(&c);
	json_decref(c.set);
	return status;
}

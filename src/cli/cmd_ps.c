/* `ectype ps`: the machines of this user. */
#include <stdio.h>
#include <string.h>

#include "cli/control.h"
#include "ctl/rundir.h"

#define ANSWER_MS 3000

struct list {
	bool json, any;
	json_t *all;
};

/* Where it is between two hosts, if it is; else what its processors do. */
static const char *state(json_t *info)
{
	const char *moves = json_text(info, "migration"), *protection = json_text(info, "protection"),
		   *runs = json_text(info, "state");

	if (!strcmp(moves, "setup") || !strcmp(moves, "ram"))
		return "Migrating";
	if (*moves)
		return moves;
	if (!strcmp(protection, "held") || !strcmp(protection, "replaced"))
		return protection;
	return !strcmp(protection, "protects") && !strcmp(runs, "Running") ? "Protected" : runs;
}

static void print_row(struct list *l, const char *name, json_t *info)
{
	char up[16], ram[16], resident[16];

	if (!l->any)
		printf("%-20s %8s %-12s %-7s %4s %7s %8s %8s\n", "NAME", "PID", "STATE", "ENGINE", "CPUS", "MEMORY",
		       "RESIDENT", "UPTIME");
	l->any = true;
	format_seconds(json_fraction(info, "uptime_seconds"), up);
	format_bytes((double)json_number(info, "config/memory/size"), ram);
	format_bytes((double)process_resident((int)json_number(info, "pid")), resident);
	printf("%-20s %8lu %-12s %-7s %4lu %7s %8s %8s\n", name, json_number(info, "pid"), state(info),
	       json_text(info, "engine"), json_number(info, "config/cpus/boot_vcpus"), ram, resident, up);
}

static void list_one(void *opaque, const char *name, const char *path)
{
	struct list *l = opaque;
	struct ctl_answer a;
	struct error e;
	json_t *info = NULL;
	int pid = 0;

	if (!ctl_ask(name, "GET", "/api/v1/vm.info", NULL, ANSWER_MS, &a, &e)) {
		info = json_loadb(a.body, a.len, 0, NULL);
		ctl_answer_free(&a);
	} else if (ctl_probe(path, &pid) != CTL_ALIVE) {
		return; /* it ended meanwhile */
	}
	if (!info)
		info = json_pack("{s:s, s:i, s:s}", "name", name, "pid", pid, "state", "no answer");
	if (l->json)
		json_array_append(l->all, info);
	else
		print_row(l, name, info);
	json_decref(info);
}

int cmd_ps(int argc, char **argv)
{
	struct list l = { 0 };
	struct error e;
	int ret;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			printf("usage: ectype ps [--json]\n"
			       "Lists the running machines of this user. --json: what vm.info tells of each.\n"
			       "Sockets that dead machines left over are removed.\n");
			return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
		}
		if (strcmp(argv[i], "--json"))
			return usage_error("ps: no argument '%s' (see ectype ps --help)", argv[i]);
		l.json = true;
	}
	l.all = json_array();
	ret = ctl_each(list_one, &l, &e);
	if (l.json && !ret) {
		json_dumpf(l.all, stdout, JSON_INDENT(1));
		printf("\n");
	}
	json_decref(l.all);
	if (ret)
		return usage_error("ps: %s", e.text);
	return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
}

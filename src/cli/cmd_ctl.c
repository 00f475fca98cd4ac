/*
 * `ectype ctl` and its short forms `pause`, `resume` and `stats`: one request to the control
 * socket of a running machine.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/control.h"
#include "ctl/rundir.h"

#define V1 "/api/v1/"
#define ANSWER_MS 10000

/* argv[0] is the command, of argc arguments behind it. Return the exit status. */
struct order {
	const char *name, *arguments, *summary, *method, *path;
	int arguments_min, arguments_max;
	int (*run)(const struct order *o, const char *machine, int argc, char **argv);
};

static int print_json(json_t *j)
{
	int failed = j && (json_dumpf(j, stdout, JSON_INDENT(1)) || fputc('\n', stdout) == EOF);

	json_decref(j);
	return failed || fflush(stdout) ? EXIT_FAILED : EXIT_OK;
}

static int plain(const struct order *o, const char *machine, int argc, char **argv)
{
	struct error e;
	json_t *answer;
	int ret = ctl_order(machine, o->method, o->path, NULL, &answer, &e);

	return ret ? control_status("ctl", ret, &e) : print_json(answer);
}

static int engine(const struct order *o, const char *machine, int argc, char **argv)
{
	json_t *body = json_pack("{s:s}", "engine", argv[1]), *answer;
	struct error e;
	int ret;

	if (!body)
		return usage_error("ctl engine: '%s' is no name", argv[1]);
	ret = ctl_order(machine, o->method, o->path, body, &answer, &e);
	json_decref(body);
	if (ret)
		return control_status("ctl", ret, &e);
	printf("%s (was %s; the guest stood still for %.3f ms)\n", json_text(answer, "engine"),
	       json_text(answer, "previous"), (double)json_number(answer, "microseconds") / 1000);
	json_decref(answer);
	return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
}

static int balloon(const struct order *o, const char *machine, int argc, char **argv)
{
	struct error e;
	json_t *body;
	u64 size;
	int ret;

	if (parse_size(argv[1], &size) || size % PAGE_SIZE)
		return usage_error("ctl balloon: '%s' is not a size of whole pages (256M)", argv[1]);
	body = json_pack("{s:I}", "desired_balloon", (json_int_t)size);
	ret = ctl_order(machine, o->method, o->path, body, NULL, &e);
	json_decref(body);
	return control_status("ctl", ret, &e);
}

/* Without an argument it asks only. */
static int generation(const struct order *o, const char *machine, int argc, char **argv)
{
	json_t *body = argc > 1 ? json_pack("{s:s}", "generation", argv[1]) : NULL, *answer;
	struct error e;
	int ret;

	if (argc > 1 && !body)
		return usage_error("ctl generation: '%s' is no name", argv[1]);
	ret = body ? ctl_order(machine, o->method, o->path, body, &answer, &e)
		   : ctl_order(machine, "GET", V1 "vm.info", NULL, &answer, &e);
	json_decref(body);
	if (ret)
		return control_status("ctl", ret, &e);
	if (*json_text(answer, "generation"))
		printf("%s\n", json_text(answer, "generation"));
	else
		fprintf(stderr, "ectype: ctl: machine '%s' has no VM Generation ID, or does not answer\n", machine);
	ret = *json_text(answer, "generation") ? EXIT_OK : EXIT_FAILED;
	json_decref(answer);
	return fflush(stdout) ? EXIT_FAILED : ret;
}

static int raw(const struct order *o, const char *machine, int argc, char **argv)
{
	struct ctl_answer a;
	struct error e;
	int ret = ctl_ask(machine, o->method, argv[1], argc > 2 ? argv[2] : NULL, ANSWER_MS, &a, &e);

	if (ret)
		return control_status("ctl", ret, &e);
	fwrite(a.body, 1, a.len, stdout);
	if (a.len && a.body[a.len - 1] != '\n')
		putchar('\n');
	ctl_answer_free(&a);
	if (fflush(stdout))
		return EXIT_FAILED;
	if (a.status < 400)
		return EXIT_OK;
	fprintf(stderr, "ectype: ctl: status %u\n", a.status);
	return a.status < 500 ? EXIT_USAGE : EXIT_FAILED;
}

static const struct order orders[] = {
	{ "info", "", "configuration and state, as JSON", "GET", V1 "vm.info", 0, 0, plain },
	{ "counters", "", "all counters, as JSON", "GET", V1 "vm.counters", 0, 0, plain },
	{ "migration", "", "how its last migration stands, as JSON", "GET", V1 "vm.migration", 0, 0, plain },
	{ "ping", "", "version and process", "GET", V1 "vmm.ping", 0, 0, plain },
	{ "pause", "", "stop the processors; guest time stands still", "PUT", V1 "vm.pause", 0, 0, plain },
	{ "resume", "", "go on", "PUT", V1 "vm.resume", 0, 0, plain },
	{ "engine", "NAME", "go on with another engine", "PUT", V1 "vm.engine", 1, 1, engine },
	{ "balloon", "SIZE", "memory to take from the guest (256M)", "PUT", V1 "vm.resize", 1, 1, balloon },
	{ "generation", "[GUID|auto]", "the VM Generation ID; another one, of which the guest is told", "PUT",
	  V1 "vm.generation", 0, 1, generation },
	{ "protection", "", "how ectype protect goes", "GET", V1 "vm.protection", 0, 0, plain },
	{ "power-button", "", "press the power button", "PUT", V1 "vm.power-button", 0, 0, plain },
	{ "reboot", "", "press the reset button", "PUT", V1 "vm.reboot", 0, 0, plain },
	{ "shutdown", "", "end the machine at once", "PUT", V1 "vm.shutdown", 0, 0, plain },
	{ "GET", "PATH", "any request; the answer is printed as it comes", "GET", NULL, 1, 1, raw },
	{ "PUT", "PATH [BODY]", "the same", "PUT", NULL, 1, 2, raw },
};

static int help(void)
{
	printf("usage: ectype ctl NAME COMMAND [ARGUMENTS]\n"
	       "Asks something of the running machine NAME (ectype ps lists them).\n\n");
	for (unsigned i = 0; i < ARRAY_SIZE(orders); i++)
		printf("  %-12s %-12s %s\n", orders[i].name, orders[i].arguments, orders[i].summary);
	printf("\nectype ctl NAME GET " V1 "openapi.json prints what can be asked.\n"
	       "Exit status: 0 done, 1 the machine refuses or does not answer, 2 bad usage or no such machine.\n");
	return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
}

static bool is_help(const char *arg)
{
	return !strcmp(arg, "--help") || !strcmp(arg, "-h");
}

static const struct order *find(const char *name)
{
	for (unsigned i = 0; i < ARRAY_SIZE(orders); i++)
		if (!strcmp(orders[i].name, name))
			return &orders[i];
	return NULL;
}

int cmd_ctl(int argc, char **argv)
{
	const struct order *o;

	if (argc > 1 && is_help(argv[1]))
		return help();
	if (argc < 3)
		return usage_error("ctl: %s (see ectype ctl --help)", argc < 2 ? "which machine?" : "which command?");
	o = find(argv[2]);
	if (!o)
		return usage_error("ctl: no command '%s' (see ectype ctl --help)", argv[2]);
	if (argc - 3 < o->arguments_min || argc - 3 > o->arguments_max)
		return usage_error("ctl: %s takes %s", o->name, *o->arguments ? o->arguments : "no argument");
	return o->run(o, argv[1], argc - 2, argv + 2);
}

/* ---- short forms ---- */

static int short_form(int argc, char **argv, const char *summary)
{
	const struct order *o = find(argv[0]);
	struct error e;
	int ret;

	if (argc == 2 && is_help(argv[1])) {
		printf("usage: ectype %s NAME\n%s\n", argv[0], summary);
		return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
	}
	if (argc != 2)
		return usage_error("%s: %s (see ectype %s --help)", argv[0],
				   argc < 2 ? "which machine?" : "one machine at a time", argv[0]);
	ret = ctl_order(argv[1], o->method, o->path, NULL, NULL, &e);
	return control_status(argv[0], ret, &e);
}

int cmd_pause(int argc, char **argv)
{
	return short_form(argc, argv, "Stops the processors of the running machine NAME; guest time stands still.");
}

int cmd_resume(int argc, char **argv)
{
	return short_form(argc, argv, "Lets the paused machine NAME go on.");
}

static void print_counters(json_t *all)
{
	const char *group, *name;
	json_t *members, *value;

	json_object_foreach(all, group, members)
	{
		printf("%s\n", group);
		json_object_foreach(members, name, value)
		    printf("  %-36s %16" JSON_INTEGER_FORMAT "\n", name, json_integer_value(value));
	}
}

int cmd_stats(int argc, char **argv)
{
	const char *machine = NULL;
	bool json = false;
	struct error e;
	json_t *all;
	int ret;

	for (int i = 1; i < argc; i++) {
		if (is_help(argv[i])) {
			printf("usage: ectype stats NAME [--json]\n"
			       "Prints the counters of the running machine NAME.\n");
			return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
		}
		if (!strcmp(argv[i], "--json"))
			json = true;
		else if (argv[i][0] == '-' || machine)
			return usage_error("stats: no argument '%s' (see ectype stats --help)", argv[i]);
		else
			machine = argv[i];
	}
	if (!machine)
		return usage_error("stats: which machine? (see ectype stats --help)");
	ret = ctl_order(machine, "GET", V1 "vm.counters", NULL, &all, &e);
	if (ret)
		return control_status("stats", ret, &e);
	if (json)
		return print_json(all);
	print_counters(all);
	json_decref(all);
	return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
}

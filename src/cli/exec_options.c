/* Options of `ectype exec`: its own, and some of `ectype run` that are handed on to it. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/exec.h"

#define PASSED_MAX 32

/* Options of `ectype run`, all with a value, that make sense here. */
static const char *const passed_on[] = { "kernel", "memory",	 "cpus", "engine", "cpu-model",
					 "net",	   "code-cache", "jail", "name" };

void exec_options_help(void)
{
	printf("usage: ectype exec [OPTIONS] [--] COMMAND [ARG...]\n"
	       "Runs a command in a fresh Linux machine that sees this host's files: read-only, under an\n"
	       "overlay that is thrown away. Streams and exit status are the command's.\n\n"
	       "  --rw DIR           DIR is the host's own, writable; may be repeated\n"
	       "  --env NAME=VALUE   set in the command's environment; may be repeated\n"
	       "  --net user         a network\n"
	       "  --kernel F         Linux to boot; default: vmlinuz of the cache, which `make run` fills\n"
	       "  --memory SIZE      RAM, default 1G\n"
	       "  --cpus N, --engine NAME, --cpu-model NAME, --code-cache SIZE, --jail on|off   as of ectype run\n"
	       "  --name NAME        of the machine, for ectype ps and others; default exec-PID\n"
	       "  --no-control       no control socket\n"
	       "  --help             this\n\n"
	       "With a terminal on stdin and stdout the command has a terminal; Ctrl-] three times ends the machine.\n"
	       "Exit status: the command's; 128 + N if signal N killed it; 125 the machine failed, 126 the command\n"
	       "cannot be run, 127 there is none of that name, 2 bad usage.\n");
}

static bool is_passed_on(const char *name, size_t len)
{
	for (unsigned i = 0; i < ARRAY_SIZE(passed_on); i++) {
		if (strlen(passed_on[i]) == len && !strncmp(passed_on[i], name, len))
			return true;
	}
	return false;
}

static int add(const char **list, unsigned *n, const char *value, const char *option)
{
	if (*n == EXEC_LIST_MAX)
		return usage_error("exec: --%s is given more than %d times", option, EXEC_LIST_MAX);
	list[(*n)++] = value;
	return 0;
}

/* Parses argv[*i] and moves *i past it; `passed` collects what goes to ectype run's parser. */
static int parse_one(struct exec_options *o, int argc, char **argv, int *i, char **passed, int *n)
{
	char *arg = argv[(*i)++], *value;
	size_t len = strcspn(arg + 2, "=");
	if (!strcmp(arg, "--no-control")) {
		if (*n + 1 > PASSED_MAX)
			return usage_error("exec: too many options");
		passed[(*n)++] = arg;
		return 0;
	}
	bool rw = len == 2 && !strncmp(arg + 2, "rw", 2), env = len == 3 && !strncmp(arg + 2, "env", 3);

	if (!rw && !env && !is_passed_on(arg + 2, len))
		return usage_error("exec: unknown option '%s' (see ectype exec --help)", arg);
	value = arg[2 + len] ? arg + 2 + len + 1 : NULL;
	if (!value && *i < argc)
		value = argv[(*i)++];
	if (!value)
		return usage_error("exec: %s needs a value", arg);
	if (rw)
		return add(o->rw, &o->rws, value, "rw");
	if (env && !strchr(value, '='))
		return usage_error("exec: --env '%s' is not NAME=VALUE", value);
	if (env)
		return add(o->env, &o->envs, value, "env");
	if (!strncmp(arg + 2, "net", len) && strcmp(value, "none"))
		o->net = true;
	if (*n + 2 > PASSED_MAX)
		return usage_error("exec: too many options");
	passed[(*n)++] = arg;
	if (!arg[2 + len])
		passed[(*n)++] = value;
	return 0;
}

int exec_options_parse(struct exec_options *o, int argc, char **argv)
{
	static char name[] = "exec", kernel_option[] = "--kernel", memory_option[] = "--memory", memory[] = "1G";
	static char kernel[4096]; /* the options point to it */
	char *passed[PASSED_MAX + 8] = { name };
	bool has_kernel = false, has_memory = false;
	int i = 1, n = 1, ret;

	while (i < argc && !strncmp(argv[i], "-", 1)) {
		if (!strcmp(argv[i], "--")) {
			i++;
			break;
		}
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			o->help = true;
			return 0;
		}
		if (strncmp(argv[i], "--", 2))
			return usage_error("exec: '%s' is not an option (see ectype exec --help)", argv[i]);
		has_kernel |= !strncmp(argv[i], "--kernel", 8);
		has_memory |= !strncmp(argv[i], "--memory", 8);
		ret = parse_one(o, argc, argv, &i, passed, &n);
		if (ret)
			return ret;
	}
	if (i >= argc)
		return usage_error("exec: which command? (see ectype exec --help)");
	o->command = argv + i;
	if (!has_kernel) {
		if (cache_path(kernel, sizeof(kernel), "vmlinuz"))
			return EXIT_USAGE;
		if (access(kernel, R_OK))
			return usage_error("exec: no %s: run `make run` once, or give --kernel", kernel);
		passed[n++] = kernel_option;
		passed[n++] = kernel;
	}
	if (!has_memory) {
		passed[n++] = memory_option;
		passed[n++] = memory;
	}
	return run_options_parse(&o->run, n, passed);
}

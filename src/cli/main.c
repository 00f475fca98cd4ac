/* The program: picks the command. */
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/cmd_isa.h"

static int cmd_help(int argc, char **argv);

static const struct command {
	const char *name, *summary;
	int (*run)(int argc, char **argv);
} commands[] = {
	{ "run", "run a machine; without options, a small Linux from the cache", cmd_run },
	{ "exec", "run a command in a fresh machine with the host's files", cmd_exec },
	{ "ps", "list the running machines", cmd_ps },
	{ "ctl", "ask something of a running machine: its state, another engine ...", cmd_ctl },
	{ "stop", "end a running machine: by its power button, then by force", cmd_stop },
	{ "pause", "stop a machine's processors and its time", cmd_pause },
	{ "resume", "let a paused machine go on", cmd_resume },
	{ "snapshot", "save a running machine in a directory", cmd_snapshot },
	{ "restore", "let a machine go on from a snapshot", cmd_restore },
	{ "clone", "start running copies of a machine or of a snapshot", cmd_clone },
	{ "migrate", "move a running machine to another monitor, also on another host", cmd_migrate },
	{ "receive", "wait for a machine that ectype migrate moves, and become it", cmd_receive },
	{ "protect", "keep a copy of a running machine up to date at a standby", cmd_protect },
	{ "standby", "go on in the place of a protected machine that is lost", cmd_standby },
	{ "console", "attach this terminal to a running machine's serial console", cmd_console },
	{ "stats", "print the counters of a running machine", cmd_stats },
	{ "dump", "write a running machine's memory and registers into a core file", cmd_dump },
	{ "top", "watch the running machines", cmd_top },
	{ "image", "make a Debian disk; look at, check and convert disk images", cmd_image },
	{ "lockstep", "run two engines in step and find where they differ", cmd_lockstep },
	{ "isa", "print the instruction table with its Popek-Goldberg classes", cmd_isa },
	{ "version", "print the version", cmd_version },
	{ "help", "print this, or the help of a command", cmd_help },
};

static const struct command *find(const char *name)
{
	for (unsigned i = 0; i < ARRAY_SIZE(commands); i++) {
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	}
	return NULL;
}

static int cmd_help(int argc, char **argv)
{
	if (argc > 1) {
		const struct command *c = find(argv[1]);
		char help[] = "--help";
		char *args[] = { argv[1], help, NULL };

		if (!c)
			return usage_error("no command '%s' (see ectype help)", argv[1]);
		if (c->run != cmd_help && c->run != cmd_version)
			return c->run(2, args);
	}
	printf("usage: ectype COMMAND [OPTIONS]\n\n");
	for (unsigned i = 0; i < ARRAY_SIZE(commands); i++)
		printf("  %-8s  %s\n", commands[i].name, commands[i].summary);
	printf("\nectype COMMAND --help says more.\n");
	return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
}

int cmd_version(int argc, char **argv)
{
	if (argc > 1)
		return usage_error("version takes no argument '%s'", argv[1]);
	printf("ectype " ECTYPE_VERSION "\n");
	return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
}

/* What is opened must not become a standard stream that the parent had closed. */
static void fill_standard_streams(void)
{
	int fd = open("/dev/null", O_RDWR);

	while (fd >= 0 && fd <= STDERR_FILENO)
		fd = dup(fd);
	if (fd >= 0)
		close(fd);
}

int main(int argc, char **argv)
{
	const struct command *c;

	fill_standard_streams();
	/* Large tables stay mappings of their own, touched page by page: else the first that is freed makes the heap
	 * take the others, cleared. 0.5 MiB less after a boot. */
	mallopt(M_MMAP_THRESHOLD, 64 * KiB);
	/* Threads allocate little; an arena of its own costs each one mappings and pages. */
	mallopt(M_ARENA_MAX, 1);
	if (argc < 2)
		return usage_error("which command? (see ectype help)");
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
		return cmd_help(1, argv);
	if (!strcmp(argv[1], "--version"))
		return cmd_version(1, argv);
	c = find(argv[1]);
	if (!c)
		return usage_error("no command '%s' (see ectype help)", argv[1]);
	return c->run(argc - 1, argv + 1);
}

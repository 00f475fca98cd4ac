/*
 * `ectype image`: disk images. What makes and opens up a Debian system is a
 * Python program, image.py, which lies beside the executable's directory:
 * installed in libexec/ectype, in the source tree in scripts.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/image_commands.h"

static const char *const script_places[] = { "../libexec/ectype/image.py", "../scripts/image.py" };

/* Replaces this process by image.py with the same arguments; returns only if that fails. */
static int run_script(int argc, char **argv)
{
	char self[PATH_MAX], script[PATH_MAX + 64], *slash;
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char **args;

	if (n < 0)
		return usage_error("image %s: /proc/self/exe cannot be read: %s", argv[0], strerror(errno));
	self[n] = 0;
	slash = strrchr(self, '/');
	args = calloc((size_t)argc + 3, sizeof(*args));
	if (!args || !slash)
		return usage_error("image %s: out of memory", argv[0]);
	/* image.py has the formats of images from this program */
	setenv("ECTYPE_PROGRAM", self, 1);
	args[0] = (char *)(uintptr_t) "python3";
	args[1] = script;
	memcpy(args + 2, argv, (size_t)argc * sizeof(*args));
	for (unsigned i = 0; i < ARRAY_SIZE(script_places); i++) {
		snprintf(script, sizeof(script), "%.*s/%s", (int)(slash - self), self, script_places[i]);
		if (access(script, R_OK))
			continue;
		execvp(args[0], args);
		usage_error("image %s: python3 cannot be started: %s; it is Debian's package python3", argv[0],
			    strerror(errno));
		free(args);
		return EXIT_USAGE;
	}
	free(args);
	return usage_error("image %s: image.py is neither in %.*s/../libexec/ectype nor in %.*s/../scripts", argv[0],
			   (int)(slash - self), self, (int)(slash - self), self);
}

static const struct subcommand {
	const char *name, *arguments, *summary;
	/* argv[0] is the name. Returns the exit status. */
	int (*run)(int argc, char **argv);
} subcommands[] = {
	{ "create", "F [OPTIONS]", "make a bootable Debian disk", run_script },
	{ "kernel", "F DIR", "copy kernel and initrd out of a Debian disk", run_script },
	{ "info", "F", "say what an image is", image_info },
	{ "check", "F", "look for errors in a qcow2 image", image_check },
	{ "overlay", "BASE F", "make a qcow2 image of what differs from BASE", image_overlay },
	{ "convert", "SRC DST", "copy a disk into an image of another format", image_convert },
};

static int help(void)
{
	printf("usage: ectype image COMMAND ...\n\n");
	for (unsigned i = 0; i < ARRAY_SIZE(subcommands); i++) {
		const struct subcommand *s = &subcommands[i];

		printf("  %-8s %-16s %s\n", s->name, s->arguments, s->summary);
	}
	printf("\nectype image COMMAND --help says more.\n");
	return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
}

int cmd_image(int argc, char **argv)
{
	if (argc < 2)
		return usage_error("image: which command? (see ectype image --help)");
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
		return help();
	for (unsigned i = 0; i < ARRAY_SIZE(subcommands); i++) {
		if (!strcmp(argv[1], subcommands[i].name))
			return subcommands[i].run(argc - 1, argv + 1);
	}
	return usage_error("image: no command '%s' (see ectype image --help)", argv[1]);
}

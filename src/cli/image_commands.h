/* The commands of `ectype image` that are written in C, and what they share. */
#ifndef ECTYPE_CLI_IMAGE_COMMANDS_H
#define ECTYPE_CLI_IMAGE_COMMANDS_H

#include "backend/block/image.h"

/* argv[0] is the name behind `image`. Return the exit status. */
int image_info(int argc, char **argv);
int image_check(int argc, char **argv);
int image_overlay(int argc, char **argv);
int image_convert(int argc, char **argv);

struct image_args {
	const char *file[2];
	enum block_format format; /* --format, AUTO if not given */
	bool force, json, help;
};
enum { IMAGE_ARG_FORMAT = 1, IMAGE_ARG_FORCE = 2, IMAGE_ARG_JSON = 4 };

/* `files` names and those options that `allowed` has. Prints `usage` for --help. 0 or an exit status after a message.
 */
int image_args_parse(struct image_args *a, int argc, char **argv, unsigned files, unsigned allowed, const char *usage);

#endif

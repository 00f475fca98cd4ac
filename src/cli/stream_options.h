/* --serial and --console: where a stream of characters goes. */
#ifndef ECTYPE_CLI_STREAM_OPTIONS_H
#define ECTYPE_CLI_STREAM_OPTIONS_H

#include "backend/chr/chr.h"

enum stream_kind { STREAM_STDIO, STREAM_NONE, STREAM_FILE, STREAM_UNIX, STREAM_PTY };

struct stream_option {
	enum stream_kind kind;
	const char *path; /* of a file or socket */
	char name[64];	  /* --console: of the port; "": a console */
	char where[4200]; /* then: what stands before the name, NUL at the end; `path` leads into it */
};

/* "stdio", "none", "pty", "file:F", "unix:F". Strings are not copied. 0, or an exit status after a message. */
int stream_parse_serial(struct stream_option *s, const char *value);
/* The same without "none", with ",name=N" behind; `s` must stay where it is. */
int stream_parse_console(struct stream_option *s, const char *value);
/* `option` is for messages; the path of a pseudo-terminal is printed to stderr. NULL with *e. */
struct chr *stream_create(const struct stream_option *s, const char *option, const struct chr_stdio_actions *actions,
			  struct error *e);

#endif

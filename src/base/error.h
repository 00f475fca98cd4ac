/*
 * Errors of configuration and of host files. A function that can fail for
 * such a reason takes a `struct error *` and returns a negative value after
 * error_set(); the command line prints the text as the one line the user
 * sees: what is wrong, where, and what to do.
 */
#ifndef ECTYPE_BASE_ERROR_H
#define ECTYPE_BASE_ERROR_H

#include "base/types.h"

struct error {
	char text[512];
};

/* Formats the message (truncating to fit) and returns -1, so that callers
 * can write `return error_set(...)`. `e` may be NULL. */
int error_set(struct error *e, const char *fmt, ...) printf_like(2, 3);

/* The same with ": <strerror(errnum)>" appended. */
int error_errno(struct error *e, int errnum, const char *fmt, ...) printf_like(3, 4);

#endif

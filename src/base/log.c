/*
 * A line is composed on the stack and leaves in one write(2), so that lines of
 * different threads do not mix. Threshold and line ending belong to the
 * process's stderr, not to a machine; they are the one exception to the rule
 * that all state hangs off struct machine.
 */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static _Atomic int log_threshold = LOG_WARN;
static _Atomic bool log_raw;

void log_set_level(enum log_level max)
{
	log_threshold = (int)max;
}

void log_set_raw_terminal(bool raw)
{
	log_raw = raw;
}

void log_msg(enum log_level level, const char *module, const char *fmt, ...)
{
	static const char *const label[] = { "error: ", "warning: ", "", "" };
	char line[1024];
	const int room = (int)sizeof(line) - 2; /* CR LF */
	int n, more;
	va_list ap;

	if ((int)level > log_threshold)
		return;
	n = snprintf(line, (size_t)room, "ectype: %s: %s", module, label[level]);
	n = MIN(n, room - 1);
	va_start(ap, fmt);
	more = vsnprintf(line + n, (size_t)(room - n), fmt, ap);
	va_end(ap);
	n += MAX(0, MIN(more, room - n - 1));
	if (log_raw)
		line[n++] = '\r';
	line[n++] = '\n';
	/* Nowhere to report a stderr that is gone. */
	if (write(STDERR_FILENO, line, (size_t)n) < 0)
		return;
}

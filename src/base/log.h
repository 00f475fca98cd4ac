/*
 * Log lines on stderr, one module name each. While the terminal is in raw
 * mode lines end in CR LF. Levels below the threshold cost one compare.
 * Never called from code that runs while guest vector state is live
 * (see cpu/fpu.h) except after fpu_park().
 */
#ifndef ECTYPE_BASE_LOG_H
#define ECTYPE_BASE_LOG_H

#include "base/types.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

void log_set_level(enum log_level max);
void log_set_raw_terminal(bool raw);
void log_msg(enum log_level level, const char *module, const char *fmt, ...) printf_like(3, 4);

#define log_error(mod, ...) log_msg(LOG_ERROR, mod, __VA_ARGS__)
#define log_warn(mod, ...) log_msg(LOG_WARN, mod, __VA_ARGS__)
#define log_info(mod, ...) log_msg(LOG_INFO, mod, __VA_ARGS__)
#define log_debug(mod, ...) log_msg(LOG_DEBUG, mod, __VA_ARGS__)

#endif

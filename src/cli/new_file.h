/*
 * A file that appears under its name only when it is whole: written under a temporary name in the same directory,
 * flushed to the disk, then renamed. What goes wrong, or a signal (SIGINT, SIGTERM, SIGHUP), leaves nothing behind.
 */
#ifndef ECTYPE_CLI_NEW_FILE_H
#define ECTYPE_CLI_NEW_FILE_H

#include <linux/limits.h>

#include "base/error.h"
#include "base/types.h"

struct new_file {
	const char *path;
	char temporary[PATH_MAX];
	int fd;
	bool replace;
};

/* Mode 0600. Without `replace` a file that is there is an error. One file a process. `path` stays the caller's. 0, or
 * -1 with *e. */
int new_file_create(struct new_file *f, const char *path, bool replace, struct error *e);
/* Writes at offset `at`, leaving out whole pages of zeros; a hole reads as zeros. */
int new_file_write(struct new_file *f, const void *data, size_t n, u64 at, struct error *e);
/* `size` bytes long, flushed and renamed. The descriptor is closed in any case. */
int new_file_finish(struct new_file *f, u64 size, struct error *e);
void new_file_drop(struct new_file *f);

/* All of `n` bytes at offset `at` of a file. 0, or -1 with errno. */
int write_all_at(int fd, const void *data, size_t n, u64 at);
/* Makes a name in a directory last: flushes the directory that `path` is in. What it refuses is no harm to the file. */
void sync_parent(const char *path);

#endif

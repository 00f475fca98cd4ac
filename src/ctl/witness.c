#include "ctl/witness.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TRIES 200 /* of 10 ms, for the lock */
#define HEX (2 * WITNESS_ID_LEN)
#define LINE_MAX_LEN 64

static const char *const words[] = { "primary", "standby" };

static void hex(const u8 id[WITNESS_ID_LEN], char out[HEX + 1])
{
	for (unsigned i = 0; i < WITNESS_ID_LEN; i++)
		snprintf(out + 2 * i, 3, "%02x", id[i]);
}

int witness_open(const char *path, bool create, struct error *e)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | (create ? O_CREAT : 0), 0600);

	return fd < 0 ? error_errno(e, errno, "witness %s", path) : fd;
}

static int lock(int fd, struct error *e)
{
	const struct timespec pause = { .tv_nsec = 10000000 };
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	for (unsigned i = 0; i < TRIES; i++) {
		if (!fcntl(fd, F_OFD_SETLK, &l))
			return 0;
		if (errno != EAGAIN && errno != EACCES && errno != EINTR)
			break;
		nanosleep(&pause, NULL);
	}
	return error_errno(e, errno, "the witness cannot be locked");
}

static void unlock(int fd)
{
	struct flock l = { .l_type = F_UNLCK, .l_whence = SEEK_SET };

	fcntl(fd, F_OFD_SETLK, &l);
}

/* Its length, or -1. */
static ssize_t read_line(int fd, char line[LINE_MAX_LEN], struct error *e)
{
	ssize_t n = pread(fd, line, LINE_MAX_LEN - 1, 0);

	if (n < 0)
		return error_errno(e, errno, "the witness cannot be read");
	line[n] = 0;
	return n;
}

static int write_line(int fd, const u8 id[WITNESS_ID_LEN], const char *word, struct error *e)
{
	char line[LINE_MAX_LEN], text[HEX + 1];
	int n;

	hex(id, text);
	n = snprintf(line, sizeof(line), "%s %s\n", text, word);
	if (pwrite(fd, line, (size_t)n, 0) != n || fdatasync(fd))
		return error_errno(e, errno ? errno : EIO, "the witness cannot be written");
	return 0;
}

int witness_prepare(int fd, const u8 id[WITNESS_ID_LEN], struct error *e)
{
	char line[LINE_MAX_LEN];
	ssize_t n;
	int r = -1;

	if (lock(fd, e))
		return -1;
	n = read_line(fd, line, e);
	if (n > 0)
		error_set(e, "the witness is not empty: another protection uses it, or did; if none does, remove it");
	else if (!n)
		r = write_line(fd, id, "-", e);
	unlock(fd);
	return r;
}

/* The word behind `id`; NULL with *e. */
static const char *word_of(const u8 id[WITNESS_ID_LEN], const char *line, struct error *e)
{
	char text[HEX + 1];

	hex(id, text);
	if (strncmp(line, text, HEX) || line[HEX] != ' ') {
		error_set(e, "the witness is not this protection's");
		return NULL;
	}
	return line + HEX + 1;
}

int witness_look(int fd, const u8 id[WITNESS_ID_LEN], struct error *e)
{
	char line[LINE_MAX_LEN];
	const char *word;

	if (read_line(fd, line, e) < 0 || !(word = word_of(id, line, e)))
		return -1;
	return strcmp(word, "-\n") ? error_set(e, "the witness is claimed already") : 0;
}

int witness_claim(int fd, const u8 id[WITNESS_ID_LEN], enum witness_side side, struct error *e)
{
	char line[LINE_MAX_LEN];
	const char *word;
	int r = -1;

	if (lock(fd, e))
		return -1;
	if (read_line(fd, line, e) >= 0 && (word = word_of(id, line, e))) {
		size_t n = strcspn(word, "\n");

		if (n == 1 && word[0] == '-')
			r = write_line(fd, id, words[side], e) ? -1 : 1;
		else
			r = n == strlen(words[side]) && !strncmp(word, words[side], n);
	}
	unlock(fd);
	return r;
}

void witness_clear(int fd)
{
	int r = ftruncate(fd, 0);

	(void)r; /* then it stays, and the next one is told to remove it */
}

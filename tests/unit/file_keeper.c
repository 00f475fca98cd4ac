/* Files of a process that may end at any time; who is let in to what is behind TLS is in tests/guest/protect.py. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/types.h"
#include "cli/file_keeper.h"

struct rig {
	char dir[32], name[3][64];
	const char *path[3];
	struct companion c;
};

static void begin(struct rig *r)
{
	struct error e;

	strcpy(r->dir, "/tmp/file-keeper-XXXXXX");
	assert_non_null(mkdtemp(r->dir));
	for (unsigned i = 0; i < 3; i++) {
		snprintf(r->name[i], sizeof(r->name[i]), "%s/%u", r->dir, i);
		r->path[i] = r->name[i];
	}
	assert_int_equal(file_keeper_start(&r->c, r->path, 3, &e), 0);
}

static void end(struct rig *r)
{
	for (unsigned i = 0; i < 3; i++)
		unlink(r->path[i]);
	assert_int_equal(rmdir(r->dir), 0);
}

static bool there(const struct rig *r, unsigned i)
{
	return !access(r->path[i], F_OK);
}

static void make(struct rig *r, unsigned i)
{
	struct error e;
	int fd = file_keeper_make(&r->c, i, &e);

	assert_true(fd >= 0);
	assert_true(there(r, i));
	assert_int_equal(write(fd, "x", 1), 1);
	assert_int_equal(lseek(fd, 0, SEEK_CUR), 1);
	assert_int_equal(close(fd), 0);
}

/* What it made goes, what was there before and what it was never asked for does not. */
static void removed(void **state)
{
	struct rig r;
	struct error e;
	int mine;

	begin(&r);
	mine = open(r.path[1], O_CREAT | O_EXCL | O_WRONLY, 0600);
	assert_true(mine >= 0);
	make(&r, 0);
	assert_int_equal(file_keeper_make(&r.c, 1, &e), -1);
	assert_string_equal(e.text, "File exists");
	make(&r, 2);
	assert_int_equal(file_keeper_make(&r.c, 2, &e), -1);
	companion_finish(&r.c);
	assert_false(there(&r, 0));
	assert_true(there(&r, 1));
	assert_false(there(&r, 2));
	close(mine);
	end(&r);
}

static void stays(void **state)
{
	struct rig r;

	begin(&r);
	make(&r, 0);
	file_keeper_stay(&r.c);
	companion_finish(&r.c);
	assert_true(there(&r, 0));
	end(&r);
}

/* Its process is killed while a file is made for it. */
static void killed(void **state)
{
	for (unsigned i = 0; i < 20; i++) {
		struct rig r;
		pid_t pid;

		begin(&r);
		pid = fork();
		if (!pid) {
			const u8 word = 1;

			if (send(r.c.fd, &word, 1, 0) != 1)
				_exit(1);
			usleep(i * 20);
			kill(getpid(), SIGKILL);
		}
		assert_true(pid > 0);
		companion_finish(&r.c);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		assert_false(there(&r, 0));
		end(&r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(removed),
		cmocka_unit_test(stays),
		cmocka_unit_test(killed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

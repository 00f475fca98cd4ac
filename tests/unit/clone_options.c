/* The options of copies: what must not be shared is replaced. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "cli/clone.h"
#include "cli/saved_options.h"

static const struct clone third = { .name = "web-3", .number = 3 };

/* What the machine's one option becomes; to be freed. NULL: it is not given anew, or *e says why not. */
static char *becomes(const struct clone_options *o, const char *option, struct error *e)
{
	char *saved[] = { strdup(option) }, **argv, *found = NULL;
	const struct saved_options s = { saved, 1 };
	size_t name = strcspn(option, "=");

	argv = clone_arguments(o, &s, &third, e);
	for (unsigned i = 2; argv && argv[i]; i++)
		if (!strncmp(argv[i], option, name) && argv[i][name] == '=')
			found = strdup(argv[i]);
	clone_arguments_free(argv);
	free(saved[0]);
	return found;
}

static void expect(const struct clone_options *o, const char *option, const char *want)
{
	struct error e;
	char *text = becomes(o, option, &e);

	if (want)
		assert_string_equal(text, want);
	else
		assert_null(text);
	free(text);
}

static void machine_options(void **state)
{
	const struct clone_options o = { .snapshot = "/s" };

	expect(&o, "--net=user,hostfwd=tcp:127.0.0.1:2222-:22,restrict",
	       "--net=user,hostfwd=tcp:127.0.0.1:0-:22,restrict");
	expect(&o, "--net=user,hostfwd=udp::53-10.0.2.9:53,hostfwd=tcp::1-:2",
	       "--net=user,hostfwd=udp::0-10.0.2.9:53,hostfwd=tcp::0-:2");
	expect(&o, "--net=tap=tap0,mac=52:54:00:00:00:01,queues=2", "--net=tap=tap0,queues=2");
	expect(&o, "--net=user,mac=52:54:00:00:00:01", "--net=user");
	/* what is not understood goes on to who refuses it */
	expect(&o, "--net=user,hostfwd=nonsense", "--net=user,hostfwd=nonsense");
	expect(&o, "--net=user,hostfwd=tcp:a:b-c", "--net=user,hostfwd=tcp:a:b-c");
	expect(&o, "--net=", "--net=");
	expect(&o, "--serial=unix:/run/a.sock", "--serial=unix:/run/a.sock.web-3");
	expect(&o, "--serial=file:/tmp/a,b", "--serial=file:/tmp/a,b.web-3");
	expect(&o, "--serial=stdio", "--serial=stdio");
	expect(&o, "--serial=pty", "--serial=pty");
	expect(&o, "--console=unix:/run/c,name=x,name=port", "--console=unix:/run/c,name=x.web-3,name=port");
	expect(&o, "--debugcon=file:/tmp/d", "--debugcon=file:/tmp/d.web-3");
	expect(&o, "--vsock=socket=/run/v,cid=7", "--vsock=socket=/run/v.web-3,cid=7");
	expect(&o, "--vsock=cid=7,socket=/run/v", "--vsock=cid=7,socket=/run/v.web-3");
	expect(&o, "--memory=512M", NULL); /* the snapshot has it */
}

static void offsets(void **state)
{
	const struct clone_options o = { .snapshot = "/s", .hostfwd_offset = 10, .same_mac = true };
	struct error e;

	expect(&o, "--net=user,mac=52:54:00:00:00:01,hostfwd=tcp::2222-:22",
	       "--net=user,mac=52:54:00:00:00:01,hostfwd=tcp::2252-:22");
	expect(&o, "--net=user,hostfwd=tcp::0-:22", "--net=user,hostfwd=tcp::0-:22");
	expect(&o, "--net=user,hostfwd=tcp::65505-:22", "--net=user,hostfwd=tcp::65535-:22");
	assert_null(becomes(&o, "--net=user,hostfwd=tcp::65506-:22", &e));
	assert_non_null(strstr(e.text, "65536"));
	assert_null(becomes(&o, "--net=user,hostfwd=tcp::99999999999999999999-:22", &e));
}

static void user_options(void **state)
{
	char net[] = "--net=tap=t%i", log[] = "--debugcon=file:/l/%n%%%x", flag[] = "--no-reboot";
	char *own[] = { net, log, flag }, *saved[] = { strdup("--net=user,hostfwd=tcp::1-:1") };
	const struct clone_options o = { .snapshot = "/s", .overlays = "/o", .own = own, .owns = 3 };
	const struct saved_options s = { saved, 1 };
	static const char *const want[] = { "/s",	    "--name=web-3",
					    "--copy",	    "--overlays=/o",
					    "--net=tap=t3", "--debugcon=file:/l/web-3%%x",
					    "--no-reboot" };
	struct error e;
	char **argv = clone_arguments(&o, &s, &third, &e);

	assert_non_null(argv);
	for (unsigned i = 0; i < ARRAY_SIZE(want); i++)
		assert_string_equal(argv[i + 2], want[i]);
	assert_null(argv[ARRAY_SIZE(want) + 2]);
	clone_arguments_free(argv);
	assert_int_equal(clone_arguments_check(&o, &s, 5, &e), 0);
	free(saved[0]);
}

static void taps(void **state)
{
	char net[] = "--net=tap=t", *own[] = { net }, *saved[] = { strdup("--net=tap=tap0") };
	const struct clone_options o = { .snapshot = "/s" }, given = { .snapshot = "/s", .own = own, .owns = 1 };
	const struct saved_options s = { saved, 1 };
	struct error e;

	assert_int_equal(clone_arguments_check(&o, &s, 1, &e), 0);
	assert_int_equal(clone_arguments_check(&o, &s, 2, &e), -1);
	assert_int_equal(clone_arguments_check(&given, &s, 2, &e), -1);
	free(saved[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(machine_options),
		cmocka_unit_test(offsets),
		cmocka_unit_test(user_options),
		cmocka_unit_test(taps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Values and options of the command line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cli/cli.h"
#include "cli/run_options.h"
#include "cpu/pv.h"

static void test_size(void **state)
{
	static const struct {
		const char *text;
		u64 value;
	} good[] = { { "512M", 512 * MiB }, { "3.5G", 3584 * MiB }, { "1k", 1024 }, { "0", 0 },
		     { "4096", 4096 },	    { "0.5g", 512 * MiB } };
	static const char *const bad[] = { "",
					   "M",
					   "-1M",
					   "1MB",
					   "1.M",
					   ".5M",
					   "1.5",
					   "1 M",
					   "0x10",
					   "99999999999G",
					   "99999999999999999999999",
					   "1.1234567M" };
	u64 v;

	for (unsigned i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(parse_size(good[i].text, &v), 0);
		assert_int_equal(v, good[i].value);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(parse_size(bad[i], &v), -1);
}

static void test_number(void **state)
{
	u64 v;

	assert_int_equal(parse_number("18446744073709551615", UINT64_MAX, &v), 0);
	assert_int_equal(v, UINT64_MAX);
	assert_int_equal(parse_number("0x1f", 100, &v), 0);
	assert_int_equal(v, 31);
	assert_int_equal(parse_number("18446744073709551616", UINT64_MAX, &v), -1);
	assert_int_equal(parse_number("101", 100, &v), -1);
	assert_int_equal(parse_number("-1", 100, &v), -1);
	assert_int_equal(parse_number("7x", 100, &v), -1);
	assert_int_equal(parse_number("", 100, &v), -1);
}

static int parse(struct run_options *o, const char *const *args)
{
	char *argv[16] = { (char *)"run" };
	int argc = 1;

	for (; args[argc - 1]; argc++)
		argv[argc] = (char *)(uintptr_t)args[argc - 1];
	memset(o, 0, sizeof(*o));
	return run_options_parse(o, argc, argv);
}
#define PARSE(o, ...) parse(o, (const char *const[]){ __VA_ARGS__, NULL })

static void test_options(void **state)
{
	static struct run_options o;

	assert_int_equal(PARSE(&o, "--kernel=K", "--memory", "1G", "--append", "--x=y", "--stats=json:S",
			       "--debug-exit", "--serial", "file:/f", "--clock=virtual"),
			 0);
	assert_string_equal(o.machine.kernel, "K");
	assert_int_equal(o.machine.memory, GiB);
	assert_string_equal(o.machine.append, "--x=y");
	assert_string_equal(o.stats_path, "S");
	assert_true(o.machine.debug_exit);
	assert_int_equal(o.serials, 1);
	assert_int_equal(o.serial[0].kind, STREAM_FILE);
	assert_string_equal(o.serial[0].path, "/f");
	assert_int_equal(o.machine.clock, MACHINE_CLOCK_VIRTUAL);
	assert_int_equal(PARSE(&o, "--help"), 0);
	assert_true(o.help);
	assert_int_equal(PARSE(&o, "--kernel"), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kern", "K"), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--kernel", "K"), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--debug-exit=1"), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--firmware", "F"), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--firmware", "F", "--initrd", "I"), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--cpus", "65"), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--stats=xml:F"), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--serial", "file:"), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "-kernel"), EXIT_USAGE);
}

static void test_disks(void **state)
{
	static struct run_options o;
	const struct machine_disk *d = o.machine.disk;

	assert_int_equal(PARSE(&o, "--kernel=K", "--disk",
			       "a,,b.img,format=qcow2,readonly,serial=X,,1,id=root,queues=3",
			       "--disk=B,snapshot,cache=none"),
			 0);
	assert_int_equal(o.machine.disks, 2);
	assert_string_equal(d[0].image.path, "a,b.img");
	assert_int_equal(d[0].image.format, BLOCK_FORMAT_QCOW2);
	assert_true(d[0].image.readonly && !d[0].image.snapshot);
	assert_string_equal(d[0].serial, "X,1");
	assert_string_equal(d[0].id, "root");
	assert_int_equal(d[0].queues, 3);
	assert_string_equal(d[1].image.path, "B");
	assert_int_equal(d[1].image.format, BLOCK_FORMAT_AUTO);
	assert_int_equal(d[1].image.cache, BLOCK_CACHE_NONE);
	assert_true(d[1].image.snapshot && !d[1].image.readonly);
	assert_string_equal(d[1].id, "disk1");
	assert_null(d[1].serial);
	/* an image alone is booted by firmware */
	assert_int_equal(PARSE(&o, "disk.qcow2"), 0);
	assert_string_equal(o.machine.firmware, "seabios");
	assert_string_equal(d[0].image.path, "disk.qcow2");
	assert_int_equal(PARSE(&o, "disk.qcow2", "--kernel", "K"), 0);
	assert_null(o.machine.firmware);
	static const char *const bad[] = { "",
					   ",readonly",
					   "F,",
					   "F,format=vmdk",
					   "F,format",
					   "F,format=",
					   "F,readonly=1",
					   "F,readonly,snapshot",
					   "F,readonly,readonly",
					   "F,cache=writethrough",
					   "F,serial=123456789012345678901",
					   "F,serial=a\nb",
					   "F,id=a b",
					   "F,queues=0",
					   "F,queues=17",
					   "F,size=1",
					   "F,Readonly" };
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(PARSE(&o, "--kernel=K", "--disk", bad[i]), EXIT_USAGE);
	char *many[2 * MACHINE_DISKS_MAX + 3] = { (char *)"run" };

	for (unsigned i = 0; i <= MACHINE_DISKS_MAX; i++) {
		many[1 + 2 * i] = (char *)"--disk";
		many[2 + 2 * i] = (char *)"F";
	}
	memset(&o, 0, sizeof(o));
	assert_int_equal(run_options_parse(&o, 2 * MACHINE_DISKS_MAX + 3, many), EXIT_USAGE);
	memset(&o, 0, sizeof(o));
	assert_int_equal(run_options_parse(&o, 2 * MACHINE_DISKS_MAX + 1, many), 0);
	char *name = malloc(sizeof(o.disk_text) + 1);

	memset(name, 'x', sizeof(o.disk_text));
	name[sizeof(o.disk_text)] = 0;
	assert_int_equal(PARSE(&o, "--kernel=K", "--disk", name), EXIT_USAGE);
	name[sizeof(o.disk_text) - 1] = 0;
	assert_int_equal(PARSE(&o, "--kernel=K", "--disk", name), 0);
	free(name);
}

static void test_cdroms(void **state)
{
	static struct run_options o;
	const struct machine_disk *d = o.machine.disk;
	static const char *const bad[] = { "F.iso,bus=virtio,cdrom",
					   "F,cdrom,format=qcow2",
					   "F.iso,snapshot",
					   "F.iso,queues=2",
					   "F,bus=sata,queues=2",
					   "F,bus=ide",
					   "F,bus",
					   "F,cdrom=1" };

	/* by name, by option, by setting */
	assert_int_equal(PARSE(&o, "D", "a.ISO", "--cdrom", "b", "--disk=c,cdrom,serial=S", "--disk=E,bus=sata"), 0);
	assert_string_equal(o.machine.firmware, "seabios");
	for (unsigned i = 1; i <= 3; i++) {
		assert_true(d[i].cdrom && d[i].sata && d[i].image.readonly);
		assert_int_equal(d[i].image.format, BLOCK_FORMAT_RAW);
	}
	assert_string_equal(d[1].id, "cdrom0");
	assert_string_equal(d[3].id, "cdrom2");
	assert_string_equal(d[4].id, "disk1");
	assert_true(d[4].sata && !d[4].cdrom && !d[4].image.readonly);
	assert_false(d[0].cdrom || d[0].sata);
	/* a disk in spite of its name */
	assert_int_equal(PARSE(&o, "--disk=a.iso,bus=virtio", "--disk=b.iso,format=raw", "--disk=.iso", "--boot=disk"),
			 EXIT_USAGE);
	assert_int_equal(PARSE(&o, "a.iso,bus=virtio", "--disk=b.iso,format=raw", "--disk=.iso", "--boot=disk"), 0);
	assert_false(d[0].cdrom || d[1].cdrom || d[2].cdrom);
	assert_string_equal(o.machine.boot, "disk");
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(PARSE(&o, "--kernel=K", "--disk", bad[i]), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel=K", "--cdrom", ""), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel=K", "--firmware-vars", "V"), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--firmware=F", "--debugcon=stdio", "--serial=none"), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--firmware=F", "--debugcon=tty"), EXIT_USAGE);
}

static void test_trace_options(void **state)
{
	static struct run_options o;
	const struct engine_options *e = &o.machine.engine_options;

	assert_int_equal(PARSE(&o, "--kernel=K", "--trace", "guest,exits,addr=0x1000-ffffffffffffffff"), 0);
	assert_int_equal(e->trace, TRACE_GUEST | TRACE_EXITS);
	assert_int_equal(e->trace_first, 0x1000);
	assert_true(e->trace_last == UINT64_MAX);
	assert_int_equal(PARSE(&o, "--kernel=K", "--trace=all"), 0);
	assert_int_equal(e->trace, 0x3f);
	assert_int_equal(e->trace_first, 0);
	assert_true(e->trace_last == UINT64_MAX);
	assert_int_equal(PARSE(&o, "--kernel=K", "--trace=host,addr=7fff0"), 0);
	assert_int_equal(e->trace_first, 0x7fff0);
	assert_int_equal(e->trace_last, 0x7fff0);
	static const char *const bad[] = { "",
					   "hosts",
					   "guest,",
					   "addr=1-2",
					   "guest,addr=",
					   "guest,addr=2-1",
					   "guest,addr=1-",
					   "guest,addr=1-2-3",
					   "guest,addr=xyz",
					   "guest,addr=11111111111111111" };
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(PARSE(&o, "--kernel=K", "--trace", bad[i]), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel=K", "--trace-file", "F"), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel=K", "--guest-symbols", "F"), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel=K", "--code-cache", "4M"), 0);
	assert_int_equal(e->code_cache, 4 * MiB);
	assert_int_equal(PARSE(&o, "--kernel=K", "--code-cache", "5000k"), 0);
	assert_int_equal(PARSE(&o, "--kernel=K", "--code-cache", "3.9M"), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel=K", "--code-cache", "1025M"), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel=K", "--code-cache", "big"), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel=K", "--stats"), 0);
	assert_true(e->costs);
	assert_false(e->count);
}

static void test_streams(void **state)
{
	struct run_options o;

	assert_int_equal(PARSE(&o, "--kernel", "K"), 0);
	assert_int_equal(o.serials, 1);
	assert_int_equal(o.serial[0].kind, STREAM_STDIO);
	assert_int_equal(
	    PARSE(&o, "--kernel", "K", "--serial", "none", "--serial", "pty", "--serial=unix:/u", "--serial", "stdio"),
	    0);
	assert_int_equal(o.serials, 4);
	assert_int_equal(o.serial[0].kind, STREAM_NONE);
	assert_int_equal(o.serial[1].kind, STREAM_PTY);
	assert_int_equal(o.serial[2].kind, STREAM_UNIX);
	assert_string_equal(o.serial[2].path, "/u");
	assert_int_equal(o.serial[3].kind, STREAM_STDIO);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--serial", "stdio", "--serial", "stdio"), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--serial", "stdio", "--console", "stdio"), EXIT_USAGE);
	assert_int_equal(
	    PARSE(&o, "--kernel", "K", "--serial=pty", "--serial=pty", "--serial=pty", "--serial=pty", "--serial=pty"),
	    EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel", "K"), 0);
	assert_true(o.machine.balloon && o.machine.balloon_reporting && !o.machine.balloon_target);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--balloon", "64M,reporting=off"), 0);
	assert_true(o.machine.balloon && !o.machine.balloon_reporting && o.machine.balloon_target == 64 * MiB);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--balloon=reporting=on"), 0);
	assert_true(o.machine.balloon && o.machine.balloon_reporting && !o.machine.balloon_target);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--balloon", "off"), 0);
	assert_false(o.machine.balloon);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--balloon", "64M,"), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--balloon", ""), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--vsock", "socket=/v,cid=9"), 0);
	assert_string_equal(o.vsock, "/v");
	assert_int_equal(o.machine.vsock_cid, 9);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--vsock=socket=/v"), 0);
	assert_int_equal(o.machine.vsock_cid, 3);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--vsock", "cid=1,socket=/v"), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--vsock", "socket="), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--vsock", "/v"), EXIT_USAGE);
	/* a console on the terminal leaves COM1 out */
	assert_int_equal(PARSE(&o, "--kernel", "K", "--console", "stdio", "--console", "unix:/a,name=x,name=org.a.0"),
			 0);
	assert_int_equal(o.serial[0].kind, STREAM_NONE);
	assert_int_equal(o.consoles, 2);
	assert_string_equal(o.console[0].name, "");
	assert_string_equal(o.console[1].path, "/a,name=x");
	assert_string_equal(o.console[1].name, "org.a.0");
	assert_int_equal(PARSE(&o, "--kernel", "K", "--console", "pty,name=a", "--console", "pty,name=a"), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--console", "none"), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--console", "pty,name="), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--console", "pty,name=a/b"), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--console", "pty,name=.."), EXIT_USAGE);
}

static void test_pv(void **state)
{
	struct run_options o;

	assert_int_equal(PARSE(&o, "--kernel", "K", "--pv", "on"), 0);
	assert_int_equal(o.machine.pv, PV_ALL);
	assert_false(o.machine.no_pause);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--pv", "on,no-unhalt,no-pause"), 0);
	assert_int_equal(o.machine.pv, PV_ALL & ~(u32)PV_UNHALT);
	assert_true(o.machine.no_pause);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--pv", "steal,pause"), 0);
	assert_int_equal(o.machine.pv, PV_STEAL_TIME);
	assert_false(o.machine.no_pause);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--pv", "off"), 0);
	assert_int_equal(o.machine.pv, 0);
	assert_false(o.machine.no_pause);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--pv", "off,no-pause"), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--pv", "on,no-paus"), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--pv", "no-"), EXIT_USAGE);
	assert_int_equal(PARSE(&o, "--kernel", "K", "--pv", ""), EXIT_USAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_size),	  cmocka_unit_test(test_number),
					    cmocka_unit_test(test_options),	  cmocka_unit_test(test_disks),
					    cmocka_unit_test(test_cdroms),	  cmocka_unit_test(test_streams),
					    cmocka_unit_test(test_trace_options), cmocka_unit_test(test_pv) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}

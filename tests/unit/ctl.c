/*
 * The control socket: requests and their errors, the table of endpoints beside
 * the OpenAPI file, a machine over its socket, and the directory of sockets.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "backend/chr/chr_mux.h"
#include "ctl/api.h"
#include "ctl/client.h"
#include "ctl/ctl.h"
#include "ctl/openapi.h"
#include "ctl/rundir.h"

/* ---- requests ---- */

static unsigned status_of(const char *method, const char *path, const char *body)
{
	struct api_request q;
	struct api_reply r;
	unsigned status = 0;

	if (!api_parse(method, path, body, strlen(body), &q, &r)) {
		json_t *j = json_loadb(r.body, r.len, 0, NULL);

		assert_true(json_is_string(json_object_get(j, "error")));
		assert_int_equal(json_object_size(j), 1);
		assert_int_equal(r.allow != NULL, r.status == 405);
		json_decref(j);
		status = r.status;
	}
	api_reply_free(&r);
	return status;
}

static void test_requests(void **state)
{
	static const struct {
		const char *method, *path, *body;
		unsigned status; /* 0: good */
	} cases[] = {
		{ "GET", "/api/v1/vm.info", "", 0 },
		{ "GET", "/api/v1/vm.info", "{}", 0 },
		{ "PUT", "/api/v1/vm.info", "", 405 },
		{ "HEAD", "/api/v1/vm.info", "", 405 },
		{ "get", "/api/v1/vm.info", "", 405 },
		{ "GET", "/api/v1/vm.info/", "", 404 },
		{ "GET", "/api/v1/vm.inf", "", 404 },
		{ "GET", "", "", 404 },
		{ "PUT", "/api/v1/vm.pause", "", 0 },
		{ "PUT", "/api/v1/vm.pause", " {} ", 0 },
		{ "PUT", "/api/v1/vm.pause", "{\"a\": 1}", 400 },
		{ "PUT", "/api/v1/vm.pause", "[]", 400 },
		{ "PUT", "/api/v1/vm.pause", "{", 400 },
		{ "PUT", "/api/v1/vm.pause", "{} {}", 400 },
		{ "PUT", "/api/v1/vm.engine", "{\"engine\": \"interp\"}", 0 },
		{ "PUT", "/api/v1/vm.engine", "", 400 },
		{ "PUT", "/api/v1/vm.engine", "{\"engine\": 7}", 400 },
		{ "PUT", "/api/v1/vm.engine", "{\"engine\": \"\"}", 400 },
		{ "PUT", "/api/v1/vm.engine", "{\"engine\": \"a-name-that-is-too-long\"}", 400 },
		{ "PUT", "/api/v1/vm.engine", "{\"engine\": \"a\", \"engine\": \"b\"}", 400 },
		{ "PUT", "/api/v1/vm.engine", "{\"engine\": \"\\u0000\"}", 400 },
		{ "PUT", "/api/v1/vm.engine", "{\"engine\": \"interp\", \"x\": null}", 400 },
		{ "PUT", "/api/v1/vm.engine", "\xff\xfe", 400 },
		{ "PUT", "/api/v1/vm.resize", "{\"desired_balloon\": 1048576}", 0 },
		{ "PUT", "/api/v1/vm.resize", "{\"desired_balloon\": 0}", 0 },
		{ "PUT", "/api/v1/vm.resize", "{\"desired_balloon\": -4096}", 400 },
		{ "PUT", "/api/v1/vm.resize", "{\"desired_balloon\": 4097}", 400 },
		{ "PUT", "/api/v1/vm.resize", "{\"desired_balloon\": 1e6}", 400 },
		{ "PUT", "/api/v1/vm.resize", "{\"desired_balloon\": 99999999999999999999}", 400 },
		{ "PUT", "/api/v1/vm.resize", "{\"desired_ram\": 4096}", 400 },
		{ "PUT", "/api/v1/vm.generation", "{\"generation\": \"auto\"}", 0 },
		{ "PUT", "/api/v1/vm.generation", "{\"generation\": \"00112233-4455-6677-8899-aAbBcCdDeEfF\"}", 0 },
		{ "PUT", "/api/v1/vm.generation", "{\"generation\": \"00112233-4455-6677-8899-aabbccddeef\"}", 400 },
		{ "PUT", "/api/v1/vm.generation", "{\"generation\": 5}", 400 },
		{ "PUT", "/api/v1/vm.generation", "", 400 },
		{ "PUT", "/api/v1/vm.snapshot", "{\"disks\": false}", 0 },
		{ "PUT", "/api/v1/vm.snapshot", "{\"backing\": {}}", 0 },
		{ "PUT", "/api/v1/vm.snapshot", "{\"backing\": {\"a\": [1, 2, 3, -4], \"b\": [1, 2]}}", 0 },
		{ "PUT", "/api/v1/vm.snapshot", "{\"backing\": null}", 400 },
		{ "PUT", "/api/v1/vm.snapshot", "{\"backing\": [1, 2]}", 400 },
		{ "PUT", "/api/v1/vm.snapshot", "{\"backing\": {\"a\": []}}", 400 },
		{ "PUT", "/api/v1/vm.snapshot", "{\"backing\": {\"a\": [1]}}", 400 },
		{ "PUT", "/api/v1/vm.snapshot", "{\"backing\": {\"a\": [1, \"2\"]}}", 400 },
		{ "PUT", "/api/v1/vm.snapshot", "{\"backing\": {\"a\": 1}}", 400 },
		{ "PUT", "/api/v1/vm.snapshot", "{\"backing\": {\"a-name-of-thirty-two-characters-\": [1, 2]}}", 400 },
		{ "PUT", "/api/v1/vm.coredump", "", 0 },
		{ "PUT", "/api/v1/vm.coredump", "{\"paging\": true}", 0 },
		{ "PUT", "/api/v1/vm.coredump", "{\"paging\": 1}", 400 },
		{ "PUT", "/api/v1/vm.coredump", "{\"path\": \"/tmp/x\"}", 400 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		unsigned got = status_of(cases[i].method, cases[i].path, cases[i].body);

		if (got != cases[i].status)
			fail_msg("%s %s '%s': %u, not %u", cases[i].method, cases[i].path, cases[i].body, got,
				 cases[i].status);
	}
}

/* As many disks and files as there can be, and one more. */
static void test_backing(void **state)
{
	for (unsigned more = 0; more < 3; more++) {
		json_t *all = json_object(), *body = json_pack("{s:o}", "backing", all);
		unsigned disks = MACHINE_DISKS_MAX + (more == 1);
		struct api_request q;
		struct api_reply r;
		char *text;

		for (unsigned i = 0; i < disks; i++) {
			json_t *files = json_array();
			char id[8];

			for (unsigned k = 0; k < 2 * (DISK_BACKING_MAX + (more == 2)); k++)
				json_array_append_new(files, json_integer((json_int_t)k - 1));
			snprintf(id, sizeof(id), "d%u", i);
			json_object_set_new(all, id, files);
		}
		text = json_dumps(body, JSON_COMPACT);
		assert_int_equal(api_parse("PUT", "/api/v1/vm.snapshot", text, strlen(text), &q, &r), !more);
		if (more) {
			assert_int_equal(r.status, 400);
			api_reply_free(&r);
		} else {
			assert_int_equal(q.backing.count, MACHINE_DISKS_MAX);
			assert_string_equal(q.backing.disk[0].id, "d0");
			assert_int_equal(q.backing.disk[0].files, DISK_BACKING_MAX);
			assert_int_equal(q.backing.disk[0].file[0].dev, UINT64_MAX);
			assert_int_equal(q.backing.disk[0].file[1].ino, 2);
		}
		free(text);
		json_decref(body);
	}
}

static void test_large_body(void **state)
{
	char *big = malloc(API_BODY_MAX + 2);

	memset(big, ' ', API_BODY_MAX + 1);
	big[0] = '{';
	big[API_BODY_MAX - 1] = '}';
	big[API_BODY_MAX] = 0;
	assert_int_equal(status_of("PUT", "/api/v1/vm.pause", big), 0);
	big[API_BODY_MAX] = ' ';
	big[API_BODY_MAX + 1] = 0;
	assert_int_equal(status_of("PUT", "/api/v1/vm.pause", big), 413);
	/* deeper than the stack would like */
	memset(big, '[', API_BODY_MAX);
	big[API_BODY_MAX] = 0;
	assert_int_equal(status_of("PUT", "/api/v1/vm.pause", big), 400);
	free(big);
}

/* Each endpoint is in the file with its method, and each of the file's is served. */
static void test_openapi_is_complete(void **state)
{
	json_t *doc = json_loadb(openapi_json, openapi_json_len, 0, NULL), *paths, *methods;
	const char *path, *method;
	unsigned served = 0;

	assert_non_null(doc);
	paths = json_object_get(doc, "paths");
	for (unsigned i = 0; i < api_route_count; i++) {
		const char *key = !strcmp(api_routes[i].method, "GET") ? "get" : "put";

		if (!json_object_get(json_object_get(paths, api_routes[i].path), key))
			fail_msg("%s is not in openapi.json", api_routes[i].path);
	}
	json_object_foreach(paths, path, methods) json_object_foreach(json_object_get(paths, path), method, methods)
	{
		bool found = false;

		for (unsigned i = 0; i < api_route_count; i++)
			found |= !strcmp(api_routes[i].path, path) && !strcasecmp(api_routes[i].method, method);
		if (!found)
			fail_msg("%s %s is not served", method, path);
		served++;
	}
	assert_int_equal(served, api_route_count);
	json_decref(doc);
}

/* ---- the directory ---- */

static char dir[] = "/tmp/ectype-test-ctl-XXXXXX";

static int make_dir(void **state)
{
	return !mkdtemp(dir) || setenv("XDG_RUNTIME_DIR", dir, 1);
}

static int remove_dir(void **state)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

static void test_names(void **state)
{
	static const char *const good[] = { "a", "vm-12", "A.b_c-9", "0" };
	static const char *const bad[] = {
		"", ".", "..", ".a", "-a", "a/b", "a b", "ä", "a\n", "a234567890123456789012345678901234567890123456789"
	};

	for (unsigned i = 0; i < ARRAY_SIZE(good); i++)
		assert_true(ctl_name_ok(good[i]));
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(ctl_name_ok(bad[i]));
}

static void collect(void *opaque, const char *name, const char *path)
{
	strcat(strcat(opaque, name), " ");
}

static void test_sockets(void **state)
{
	char path[CTL_PATH_MAX], other[CTL_PATH_MAX], names[256] = "";
	struct error e;
	struct stat st;
	bool taken;
	int fd, second, pid;

	/* nothing there yet is no error */
	assert_int_equal(ctl_each(collect, names, &e), 0);
	assert_string_equal(names, "");
	assert_int_equal(ctl_connect("one", &e), -1);
	assert_non_null(strstr(e.text, "no machine 'one' runs"));

	fd = ctl_listen("one", path, &taken, &e);
	assert_true(fd >= 0 && !taken);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(ctl_probe(path, &pid), CTL_ALIVE);
	assert_int_equal(pid, getpid());
	assert_int_equal(ctl_listen("one", other, &taken, &e), -1);
	assert_true(taken);
	assert_non_null(strstr(e.text, "a machine named 'one' runs"));
	second = ctl_listen("two", other, &taken, &e);
	assert_true(second >= 0);
	assert_int_equal(ctl_each(collect, names, &e), 0);
	assert_string_equal(names, "one two ");

	/* a dead machine's name is free, and its socket goes when somebody looks */
	close(fd);
	assert_int_equal(ctl_probe(path, NULL), CTL_STALE);
	fd = ctl_listen("one", path, &taken, &e);
	assert_true(fd >= 0);
	close(fd);
	close(second);
	names[0] = 0;
	assert_int_equal(ctl_connect("two", &e), -1);
	assert_non_null(strstr(e.text, "has died"));
	assert_int_equal(ctl_each(collect, names, &e), 0);
	assert_string_equal(names, "");
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(access(other, F_OK), -1);
}

static void test_directory_must_be_ones_own(void **state)
{
	char path[CTL_PATH_MAX];
	struct error e;
	bool taken;

	assert_int_equal(ctl_rundir(path, true, &e), 0);
	assert_int_equal(chmod(path, 0755), 0);
	assert_int_equal(ctl_listen("one", path, &taken, &e), -1);
	assert_false(taken);
	assert_non_null(strstr(e.text, "open to others"));
	snprintf(path, sizeof(path), "%s/ectype", dir);
	assert_int_equal(chmod(path, 0700), 0);
	/* a symbolic link to one's own directory is not it */
	char aside[160];

	snprintf(aside, sizeof(aside), "%s/aside", dir);
	assert_int_equal(rename(path, aside), 0);
	assert_int_equal(symlink(aside, path), 0);
	assert_int_equal(ctl_rundir(path, true, &e), -1);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rename(aside, path), 0);
}

/* ---- a machine ---- */

#define ROM_SIZE (64 * KiB)
static char rom_path[sizeof(dir) + 8];

/* inc al; jmp -2 at the reset vector's target */
static void write_rom(void)
{
	static const u8 jump[] = { 0xea, 0x00, 0x00, 0x00, 0xf0 }, spin[] = { 0xfe, 0xc0, 0xeb, 0xfc };
	static u8 rom[ROM_SIZE];
	int fd;

	snprintf(rom_path, sizeof(rom_path), "%s/rom", dir);
	fd = open(rom_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	memcpy(rom, spin, sizeof(spin));
	memcpy(rom + ROM_SIZE - 16, jump, sizeof(jump));
	assert_int_equal(write(fd, rom, sizeof(rom)), sizeof(rom));
	close(fd);
}

struct run {
	struct machine *m;
	struct machine_result result;
};

static void *run_machine(void *opaque)
{
	struct run *r = opaque;

	machine_run(r->m, &r->result);
	return NULL;
}

static struct machine *create_machine(struct chr *serial)
{
	const struct machine_config c = { .memory = 4 * MiB,
					  .cpus = 1,
					  .engine = "interp",
					  .cpu_model = "host",
					  .firmware = rom_path,
					  .serial = { serial },
					  .balloon = true };
	struct error e;
	struct machine *m = machine_create(&c, &e);

	if (!m)
		fail_msg("%s", e.text);
	return m;
}

static double seconds(const char *path)
{
	struct error e;
	json_t *j;
	double v;

	assert_int_equal(ctl_order("m", "GET", "/api/v1/vm.counters", NULL, &j, &e), 0);
	v = (double)json_integer_value(json_object_get(json_object_get(j, "machine"), path)) / 1e9;
	json_decref(j);
	return v;
}

static void check_state(const char *state)
{
	struct error e;
	json_t *j;

	assert_int_equal(ctl_order("m", "GET", "/api/v1/vm.info", NULL, &j, &e), 0);
	assert_string_equal(json_string_value(json_object_get(j, "state")), state);
	json_decref(j);
}

static void order(const char *what)
{
	struct error e = { .text = "" };
	char path[64];

	snprintf(path, sizeof(path), "/api/v1/%s", what);
	if (ctl_order("m", "PUT", path, NULL, NULL, &e))
		fail_msg("%s: %s", what, e.text);
}

/* The status of a request with a body of text. */
static unsigned ask(const char *method, const char *path, const char *body)
{
	struct ctl_answer a;
	struct error e;
	unsigned status;

	assert_int_equal(ctl_ask("m", method, path, body, 5000, &a, &e), 0);
	status = a.status;
	ctl_answer_free(&a);
	return status;
}

static void check_pause(void)
{
	double before;

	check_state("Running");
	order("vm.pause");
	order("vm.pause");
	check_state("Paused");
	before = seconds("guest_ns");
	usleep(50000);
	assert_true(seconds("guest_ns") == before);
	order("vm.resume");
	check_state("Running");
	usleep(20000);
	assert_true(seconds("guest_ns") > before);
	assert_true(seconds("guest_ns") < before + 10);
}

static void check_errors(void)
{
	assert_int_equal(ask("PUT", "/api/v1/vm.engine", "{\"engine\": \"nonesuch\"}"), 400);
	assert_int_equal(ask("PUT", "/api/v1/vm.engine", "{\"engine\": \"interp\"}"), 200);
	assert_int_equal(ask("PUT", "/api/v1/vm.resize", "{\"desired_balloon\": 1048576}"), 204);
	assert_int_equal(ask("PUT", "/api/v1/vm.resize", "{\"desired_balloon\": 4194304}"), 409);
	assert_int_equal(ask("GET", "/api/v1/vm.console", NULL), 426);
	assert_int_equal(ask("GET", "/metrics", NULL), 200);
	assert_int_equal(ask("GET", "/nothing", NULL), 404);
}

static void check_console(void)
{
	struct ctl_answer first;
	struct error e;
	int fd = ctl_upgrade("m", "/api/v1/vm.console", "ectype-console", &first, &e);

	if (fd < 0)
		fail_msg("%s", e.text);
	ctl_answer_free(&first);
	/* one at a time */
	assert_int_equal(ctl_upgrade("m", "/api/v1/vm.console", "ectype-console", &first, &e), CTL_REFUSED);
	assert_non_null(strstr(e.text, "somebody is attached"));
	close(fd);
	for (unsigned i = 0; i < 100; i++) {
		usleep(10000);
		fd = ctl_upgrade("m", "/api/v1/vm.console", "ectype-console", &first, &e);
		if (fd >= 0)
			break;
	}
	assert_true(fd >= 0);
	ctl_answer_free(&first);
	/* left open: the end of the machine closes it */
}

/* A machine that runs, with its socket. */
struct world {
	struct run run;
	pthread_t thread;
	struct chr *serial;
	struct ctl_config config;
	struct ctl *ctl;
	char path[CTL_PATH_MAX];
};

static void begin_world(struct world *w)
{
	struct error e;
	bool taken;

	write_rom();
	*w = (struct world){ .serial = chr_mux_create(chr_memory_create(), &e) };
	w->config =
	    (struct ctl_config){ .name = "m", .fd = ctl_listen("m", w->path, &taken, &e), .console = w->serial };
	w->run.m = w->config.machine = create_machine(w->serial);
	w->ctl = ctl_start(&w->config, &e);
	assert_non_null(w->ctl);
	pthread_create(&w->thread, NULL, run_machine, &w->run);
}

/* The socket first: who waits at it hears of it. */
static void end_world(struct world *w)
{
	ctl_stop(w->ctl);
	close(w->config.fd);
	unlink(w->path);
	machine_destroy(w->run.m);
	w->serial->ops->destroy(w->serial);
}

static void test_machine(void **state)
{
	struct world w;

	begin_world(&w);
	check_pause();
	check_errors();
	check_console();
	order("vm.reboot");
	order("vm.power-button");
	order("vm.pause");
	order("vm.shutdown"); /* paused or not */
	pthread_join(w.thread, NULL);
	assert_int_equal(w.run.result.end, MACHINE_END_STOPPED);
	/* it has ended: asked for its state, it says so at once */
	assert_int_equal(ask("PUT", "/api/v1/vm.pause", NULL), 503);
	end_world(&w);
}

/* ---- its end, while clients ask ---- */

#define ENDS 40

static atomic_bool over;

static void *ask_on(void *opaque)
{
	const char *const *request = opaque;
	struct ctl_answer a;

	while (!over)
		if (!ctl_ask("m", request[0], request[1], NULL, 5000, &a, NULL))
			ctl_answer_free(&a);
	return NULL;
}

static void *attach_on(void *opaque)
{
	struct ctl_answer first;
	struct error e;
	int fd;

	while (!over) {
		fd = ctl_upgrade("m", "/api/v1/vm.console", "ectype-console", &first, &e);
		if (fd < 0)
			continue;
		ctl_answer_free(&first);
		close(fd);
	}
	return opaque;
}

static void test_end(void **state)
{
	static const char *const requests[][2] = { { "GET", "/api/v1/vm.info" },
						   { "PUT", "/api/v1/vm.resume" },
						   { "GET", "/api/v1/vm.migration" },
						   { "PUT", "/api/v1/vm.migration-cancel" },
						   { "GET", "/api/v1/vm.protection" } };
	pthread_t t[ARRAY_SIZE(requests) + 1];
	struct world w;

	for (unsigned n = 0; n < ENDS; n++) {
		over = false;
		begin_world(&w);
		for (unsigned i = 0; i < ARRAY_SIZE(requests); i++)
			pthread_create(&t[i], NULL, ask_on, (void *)requests[i]);
		pthread_create(&t[ARRAY_SIZE(requests)], NULL, attach_on, NULL);
		usleep(n % 8 * 1000);
		machine_stop(w.run.m);
		pthread_join(w.thread, NULL);
		end_world(&w);
		over = true;
		for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
			pthread_join(t[i], NULL);
	}
}

static void *resume(void *status)
{
	struct ctl_answer a = { .status = 0 };

	if (!ctl_ask("m", "PUT", "/api/v1/vm.resume", NULL, 5000, &a, NULL))
		ctl_answer_free(&a);
	*(unsigned *)status = a.status;
	return NULL;
}

/* What was done is said to have been done, though all ends at once. */
static void test_last_answer(void **state)
{
	unsigned status;
	struct world w;
	pthread_t t;

	for (unsigned n = 0; n < ENDS; n++) {
		begin_world(&w);
		order("vm.pause");
		pthread_create(&t, NULL, resume, &status);
		while (machine_state(w.run.m) != MACHINE_RUNNING)
			;
		machine_stop(w.run.m);
		pthread_join(w.thread, NULL);
		end_world(&w);
		pthread_join(t, NULL);
		assert_int_equal(status, 204);
	}
}

/* ---- a terminal on a stream ---- */

static void note_close(void *opaque)
{
	close(*(int *)opaque);
	*(int *)opaque = -1;
}

static void read_text(int fd, const char *want)
{
	char got[64] = "";
	size_t n = 0;

	while (n < strlen(want)) {
		ssize_t part = recv(fd, got + n, sizeof(got) - 1 - n, 0);

		assert_true(part > 0);
		n += (size_t)part;
	}
	assert_string_equal(got, want);
}

static void test_mux(void **state)
{
	struct chr *inner = chr_memory_create(), *mux;
	const struct timeval limit = { .tv_sec = 10 };
	struct error e;
	int s[2], end;
	size_t n;

	mux = chr_mux_create(inner, &e);
	assert_non_null(mux);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
	setsockopt(s[1], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	end = s[0];
	assert_int_equal(chr_mux_attach(mux, s[0], NULL, 0, note_close, &end), -1); /* not started */
	mux->ops->start(mux, NULL, -1);
	mux->ops->write(mux, (const u8 *)"before ", 7);
	assert_int_equal(chr_mux_attach(mux, s[0], NULL, 0, note_close, &end), 0);
	assert_true(chr_mux_attached(mux));
	assert_int_equal(chr_mux_attach(mux, s[0], NULL, 0, note_close, &end), -1);
	mux->ops->write(mux, (const u8 *)"after", 5);
	read_text(s[1], "before after");
	assert_memory_equal(chr_memory_data(inner, &n), "before after", 12);
	assert_int_equal(n, 12);
	/* nobody reads: the guest goes on, and the end does not hang */
	for (unsigned i = 0; i < 200; i++) {
		static const u8 block[8192];

		mux->ops->write(mux, block, sizeof(block));
	}
	mux->ops->stop(mux);
	assert_int_equal(end, -1);
	assert_false(chr_mux_attached(mux));
	close(s[1]);
	mux->ops->destroy(mux);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_requests),
		cmocka_unit_test(test_large_body),
		cmocka_unit_test(test_backing),
		cmocka_unit_test(test_openapi_is_complete),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_sockets),
		cmocka_unit_test(test_directory_must_be_ones_own),
		cmocka_unit_test(test_mux),
		cmocka_unit_test(test_machine),
		cmocka_unit_test(test_end),
		cmocka_unit_test(test_last_answer),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}

/*
 * Tracks of written frames (mem/track.h) under the engines.
 *
 *   track [--long] PAYLOAD... [linux KERNEL INITRD]
 *   track --cost build/tests/payload/dirty_writer64
 *
 * Each payload runs in slices of random length, in each engine. After every
 * slice RAM is compared with a copy: each frame that differs must have been
 * noted, and hardly any other. From time to time a snapshot of RAM is taken
 * while the guest goes on: first writes copy the old page out. At the end the
 * machine's state is what it is without any of this. Those of several
 * processors (mp*) run in parallel as well, harvested from another thread.
 * dirty_writer64 runs from a file that has become too short.
 */
/* <sys/wait.h> with it has names of registers, as isa/dinsn.h. */
#undef _GNU_SOURCE
#define _DEFAULT_SOURCE

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host_time.h"
#include "machine/internal.h"
#include "mem/flat.h"
#include "mem/track.h"

#define RAM (128 * MiB)
#define SLICES 150u

static unsigned failures;

static void ok(bool good, const char *what, const char *engine, const char *name)
{
	printf("%sok - %s: %s, %s\n", good ? "" : "not ", engine, name, what);
	failures += !good;
}

static u64 seed = 1;
static u64 random64(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed * 2685821657736338717ull;
}

/* ---- one machine ---- */

struct watch {
	struct machine *m;
	struct memory *mem;
	struct track *t;
	u64 *bitmap;
	u8 *copy;
	u64 noted, changed, missed;
	/* a snapshot under way */
	struct track *snapshot;
	u8 *then, *old;
	unsigned snapshots, wrong;
	u64 left;
};

static void *area(void)
{
	return mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

/* To compare what the host has touched is enough: the rest is zeros on both sides, and was. */
static void each_data(struct memory *mem, void (*fn)(struct watch *, u64 frame), struct watch *w)
{
	u64 at = 0, end;

	for (; (at = memory_next_data(mem, at, &end)) < RAM; at = end)
		for (u64 f = at >> PAGE_SHIFT; f < end >> PAGE_SHIFT; f++)
			fn(w, f);
}

static void compare(struct watch *w, u64 f)
{
	const u8 *p = memory_ram(w->mem) + f * PAGE_SIZE;
	u8 *c = w->copy + f * PAGE_SIZE;

	if (!memcmp(c, p, PAGE_SIZE))
		return;
	w->changed++;
	if (!(w->bitmap[f / 64] >> (f % 64) & 1)) {
		if (!w->missed++)
			fprintf(stderr, "# frame 0x%llx differs and was not noted\n", (unsigned long long)f);
	}
	memcpy(c, p, PAGE_SIZE);
}

/* No processor runs. */
static void harvest(struct watch *w)
{
	memset(w->bitmap, 0, track_words(w->mem) * 8);
	w->noted += track_harvest(w->t, w->bitmap, true);
	each_data(w->mem, compare, w);
}

static void copy_frame(struct watch *w, u64 f)
{
	memcpy(w->copy + f * PAGE_SIZE, memory_ram(w->mem) + f * PAGE_SIZE, PAGE_SIZE);
}

static void keep(struct watch *w, u64 f)
{
	memcpy(w->then + f * PAGE_SIZE, memory_ram(w->mem) + f * PAGE_SIZE, PAGE_SIZE);
}

static void begin_snapshot(struct watch *w)
{
	struct error e;

	madvise(w->then, RAM, MADV_DONTNEED);
	madvise(w->old, RAM, MADV_DONTNEED);
	w->snapshot = track_start(w->mem, track_copy_out, w->old, &e);
	each_data(w->mem, keep, w);
}

static void check(struct watch *w, u64 f)
{
	const u8 *p = (track_noted(w->snapshot, f) ? w->old : memory_ram(w->mem)) + f * PAGE_SIZE;

	w->wrong += memcmp(p, w->then + f * PAGE_SIZE, PAGE_SIZE) != 0;
}

static void end_snapshot(struct watch *w)
{
	each_data(w->mem, check, w);
	w->snapshots++;
	track_stop(w->snapshot);
	w->snapshot = NULL;
}

static bool watch_open(struct watch *w, struct machine *m)
{
	struct error e;

	*w = (struct watch){ .m = m, .mem = machine_memory(m), .copy = area(), .then = area(), .old = area() };
	w->bitmap = calloc(track_words(w->mem), 8);
	w->t = track_start(w->mem, NULL, NULL, &e);
	if (!w->t)
		return false;
	each_data(w->mem, copy_frame, w);
	return true;
}

static void watch_close(struct watch *w)
{
	track_stop(w->snapshot);
	track_stop(w->t);
	munmap(w->copy, RAM);
	munmap(w->then, RAM);
	munmap(w->old, RAM);
	free(w->bitmap);
}

/* ---- slices ---- */

struct guest {
	const char *kernel, *initrd, *name;
	unsigned cpus;
	u64 longest; /* slice, in instructions */
	const char *append;
	u64 memory;
};

static struct machine *make(const struct guest *g, const char *engine, enum machine_clock clock)
{
	struct machine_config c = { .name = g->name,
				    .memory = g->memory,
				    .cpus = g->cpus,
				    .engine = engine,
				    .clock = clock,
				    .cpu_model = "x86-64-v2",
				    .kernel = g->kernel,
				    .initrd = g->initrd,
				    .append = g->append,
				    .debug_exit = true,
				    .no_reboot = true };
	struct error e;
	struct machine *m = machine_create(&c, &e);

	if (!m)
		fprintf(stderr, "# %s\n", e.text);
	return m;
}

static bool over(const struct machine_result *r)
{
	return r->end != MACHINE_END_LIMIT;
}

static u64 run_watched(const struct guest *g, const char *engine, unsigned slices, u64 *icount)
{
	struct machine *m = make(g, engine, MACHINE_CLOCK_VIRTUAL);
	struct machine_result r = { .end = MACHINE_END_LIMIT };
	struct watch w;
	u64 hash;

	if (!m || !watch_open(&w, m)) {
		ok(false, "starts", engine, g->name);
		return 0;
	}
	*icount = 0;
	for (unsigned n = 0; n < slices && !over(&r); n++) {
		*icount += 1 + random64() % (n % 8 ? g->longest : 50);
		machine_run_until(m, *icount, &r);
		harvest(&w);
		if (n % 4 == 1)
			begin_snapshot(&w);
		else if (w.snapshot && n % 4 == 3)
			end_snapshot(&w);
	}
	*icount = machine_vcpu(m, 0)->icount;
	for (unsigned i = 1; i < g->cpus; i++)
		*icount += machine_vcpu(m, i)->icount;
	hash = machine_state_hash(m);
	ok(!w.missed && w.changed > 20, "what differs was noted", engine, g->name);
	ok(w.noted < 2 * w.changed + 4 * slices, "little else was", engine, g->name);
	ok(w.snapshots > 1 && !w.wrong, "snapshots are of their time", engine, g->name);
	printf("# %llu instructions, %llu frames changed, %llu noted, %u snapshots\n", (unsigned long long)*icount,
	       (unsigned long long)w.changed, (unsigned long long)w.noted, w.snapshots);
	watch_close(&w);
	machine_destroy(m);
	return hash;
}

static u64 run_plain(const struct guest *g, const char *engine, u64 icount)
{
	struct machine *m = make(g, engine, MACHINE_CLOCK_VIRTUAL);
	struct machine_result r;
	u64 hash;

	machine_run_until(m, icount, &r);
	hash = machine_state_hash(m);
	machine_destroy(m);
	return hash;
}

/* ---- in parallel ---- */

static void look(void *opaque)
{
	struct watch *w = opaque;

	world_stop(&w->m->world, world_self);
	harvest(w);
	if (w->snapshot)
		end_snapshot(w);
	else
		begin_snapshot(w);
	world_go(&w->m->world, world_self);
}

static void *looker(void *opaque)
{
	struct watch *w = opaque;

	while (w->left && machine_call_within(w->m, look, w, 5000)) {
		w->left--;
		usleep((useconds_t)(random64() % 20000));
	}
	machine_stop(w->m);
	return NULL;
}

static void run_parallel(const struct guest *g, const char *engine, unsigned rounds)
{
	struct machine *m = make(g, engine, MACHINE_CLOCK_REAL);
	struct machine_result r;
	struct watch w;
	pthread_t t;

	if (!m || !watch_open(&w, m)) {
		ok(false, "starts in parallel", engine, g->name);
		return;
	}
	w.left = rounds;
	pthread_create(&t, NULL, looker, &w);
	machine_run(m, &r);
	pthread_join(t, NULL);
	ok(!w.missed && w.changed > 20, "in parallel: what differs was noted", engine, g->name);
	ok(w.snapshots && !w.wrong, "in parallel: snapshots are of their time", engine, g->name);
	printf("# %llu frames changed, %llu noted, %u snapshots; %s\n", (unsigned long long)w.changed,
	       (unsigned long long)w.noted, w.snapshots, r.end == MACHINE_END_STOPPED ? "stopped" : r.text);
	watch_close(&w);
	machine_destroy(m);
}

/* ---- RAM from a file that is cut off ---- */

/* The guest (dirty_writer.c) runs from a file's pages and comes to where there are none. */
static void run_cut_off(const struct guest *g, const char *engine, int err)
{
	struct machine *m = make(g, engine, MACHINE_CLOCK_REAL);
	struct memory *mem = machine_memory(m);
	char name[] = "/tmp/ectype-cut-XXXXXX";
	int fd = mkstemp(name);
	struct machine_result r;
	struct error e;
	u64 at = 0, end;

	unlink(name);
	dup2(err, STDERR_FILENO);
	if (fd < 0 || ftruncate(fd, RAM))
		_exit(3);
	for (; (at = memory_next_data(mem, at, &end)) < RAM; at = end)
		if (pwrite(fd, memory_ram(mem) + at, end - at, (off_t)at) != (ssize_t)(end - at))
			_exit(4);
	/* no holes, which would not be the file's: every page of it is there */
	if (posix_fallocate(fd, 0, RAM) || pwrite(fd, "", 1, 20 * MiB) != 1 || pwrite(fd, "", 1, 21 * MiB) != 1 ||
	    memory_map_file(mem, 0, fd, 0, RAM, &e) || ftruncate(fd, 20 * MiB))
		_exit(5);
	machine_run(m, &r);
	_exit(6);
}

static void cut_off(const struct guest *g, const char *engine)
{
	char text[300] = "";
	int out[2], status;
	pid_t pid;

	if (pipe(out) || (pid = fork()) < 0)
		return;
	if (!pid)
		run_cut_off(g, engine, out[1]);
	close(out[1]);
	waitpid(pid, &status, 0);
	ok(WIFEXITED(status) && WEXITSTATUS(status) == 1 && read(out[0], text, sizeof(text) - 1) > 0 &&
	       strstr(text, "ectype: memory: the file") == text && strchr(text, '\n') == text + strlen(text) - 1,
	   "a file that is cut off ends the machine with one line", engine, g->name);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 1)
		printf("# status %x: %s\n", status, text);
	close(out[0]);
}

/* ---- what it costs ---- */

#define COUNT 0xf00000u /* dirty_writer.c */

struct cost {
	struct machine *m;
	struct memory *mem;
	struct track *t;
	unsigned ms;
	u64 *bitmap, frames, pages, spent, before;
};

static void start_tracking(void *opaque)
{
	struct cost *c = opaque;
	struct error e;

	c->t = track_start(c->mem, NULL, NULL, &e);
}

static void take(void *opaque)
{
	struct cost *c = opaque;

	c->frames += track_harvest(c->t, c->bitmap, true);
}

static u64 pages_written(const struct cost *c)
{
	return *(volatile u64 *)(memory_ram(c->mem) + COUNT);
}

static void *drive(void *opaque)
{
	struct cost *c = opaque;
	u64 end, next;

	sleep(1);
	if (c->ms)
		machine_call(c->m, start_tracking, c);
	c->before = pages_written(c);
	c->spent = host_ns();
	end = c->spent + 4000000000ull;
	for (next = c->spent; host_ns() < end;) {
		next += (c->ms ? c->ms : 100) * 1000000ull;
		u64 at = host_ns();

		if (at < next)
			usleep((useconds_t)((next - at) / 1000));
		if (c->ms)
			machine_call(c->m, take, c);
	}
	c->pages = pages_written(c) - c->before;
	c->spent = host_ns() - c->spent;
	machine_stop(c->m);
	return NULL;
}

static double measure(const char *payload, const char *engine, const char *append, unsigned ms)
{
	struct guest g = { payload, NULL, "cost", 1, 0, append, 128 * MiB };
	struct cost c = { .m = make(&g, engine, MACHINE_CLOCK_REAL), .ms = ms };
	struct track_stats s;
	struct machine_result r;
	pthread_t t;
	double rate;

	c.mem = machine_memory(c.m);
	c.bitmap = calloc(track_words(c.mem), 8);
	pthread_create(&t, NULL, drive, &c);
	machine_run(c.m, &r);
	pthread_join(t, NULL);
	s = track_stats(c.mem);
	rate = (double)c.pages * 4096e3 / (double)c.spent;
	printf("# %s, %s, %4u ms: %7.0f MB/s written, %6.0f frames a harvest, %6.1f us a harvest\n", engine, append, ms,
	       rate, s.harvests > 1 ? (double)c.frames / (double)(s.harvests - 1) : 0.0,
	       s.harvests ? (double)s.stop_ns / 1e3 / (double)s.harvests : 0.0);
	free(c.bitmap);
	machine_destroy(c.m);
	return rate;
}

static void costs(const char *payload)
{
	static const char *const engine[] = { "dbt", "interp" };
	static const char *const append[] = { "work=0", "work=20000" };
	static const unsigned ms[] = { 0, 100, 20, 0, 100, 20 };

	for (unsigned e = 0; e < ARRAY_SIZE(engine); e++)
		for (unsigned a = 0; a < ARRAY_SIZE(append); a++)
			for (unsigned i = 0; i < ARRAY_SIZE(ms); i++)
				measure(payload, engine[e], append[a], ms[i]);
}

int main(int argc, char **argv)
{
	static const char *const engine[] = { "interp", "dbt" };
	unsigned rounds = 1;

	setbuf(stdout, NULL);
	for (int i = 1; i < argc; i++) {
		const char *name = strrchr(argv[i], '/') ? strrchr(argv[i], '/') + 1 : argv[i];
		bool mp = !strncmp(name, "mp", 2);
		struct guest g = { argv[i], NULL, name, mp ? 2 : 1, 60000, NULL, RAM };

		if (!strcmp(argv[i], "--long")) {
			rounds = 20;
			continue;
		}
		if (!strcmp(argv[i], "--cost") && i + 1 < argc) {
			costs(argv[++i]);
			continue;
		}
		if (!strcmp(argv[i], "linux") && i + 2 < argc) {
			g = (struct guest){ argv[i + 1], argv[i + 2], "linux", 1, 8000000, "console=ttyS0", RAM };
			i += 2;
		}
		for (unsigned k = 0; k < ARRAY_SIZE(engine); k++) {
			bool writer = !strncmp(name, "dirty", 5);
			u64 icount, hash;

			if (!strcmp(engine[k], "dbt") && !flat_possible()) {
				printf("ok - %s: %s # SKIP no room for its tables\n", engine[k], g.name);
				mp = false;
				continue;
			}
			if (writer) {
				cut_off(&g, engine[k]);
				continue;
			}
			hash = run_watched(&g, engine[k], SLICES * rounds, &icount);

			if (!mp)
				ok(hash && hash == run_plain(&g, engine[k], icount), "the guest does not notice",
				   engine[k], g.name);
		}
		if (mp)
			run_parallel(&g, "dbt", 40 * rounds);
	}
	return failures != 0;
}

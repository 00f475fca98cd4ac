/*
 * The tie between the gdb stub and a machine: the only file of this layer that
 * calls the layers below. Everything here but interrupt and stopping runs on
 * the vCPU thread while the machine is stopped.
 */
#include "gdb/gdb.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "cpu/event.h"
#include "cpu/seg.h"
#include "cpu/sys.h"
#include "gdb/stub.h"
#include "mem/mmu.h"

struct gdb {
	struct machine *m;
	struct gdb_target target;
	struct gdb_server *server;
};

static struct vcpu *t_vcpu(void *t, unsigned n)
{
	return machine_vcpu(((struct gdb *)t)->m, n);
}

static bool t_translate(void *t, struct vcpu *v, gva_t lin, gpa_t *gpa)
{
	(void)t;
	return mmu_debug_translate(v, lin, gpa);
}

static int t_phys_read(void *t, gpa_t gpa, void *dst, u64 len)
{
	return memory_read(machine_memory(((struct gdb *)t)->m), gpa, dst, len);
}

static int t_phys_write(void *t, gpa_t gpa, const void *src, u64 len)
{
	return memory_write(machine_memory(((struct gdb *)t)->m), gpa, src, len);
}

static unsigned t_fpu_offset(void *t, unsigned component)
{
	const struct cpu_model *model = machine_vcpu(((struct gdb *)t)->m, 0)->model;

	if (BIT(component) == XCR0_PKRU)
		return model->pku ? 1 : 0; /* kept in cpu.pkru */
	if (!(fpu_host_components() & model->xcr0_supported & BIT(component)))
		return 0;
	return fpu_component_offset(component);
}

static int t_write_cr(void *t, struct vcpu *v, unsigned cr, u64 val)
{
	(void)t;
	return cpu_write_cr(v, cr, val);
}

static int t_write_msr(void *t, struct vcpu *v, u32 msr, u64 val)
{
	(void)t;
	return cpu_wrmsr(v, msr, val);
}

static int t_load_segment(void *t, struct vcpu *v, enum seg_reg seg, u16 sel)
{
	(void)t;
	if (cpu_real(&v->cpu) || cpu_v86(&v->cpu)) {
		seg_load_real(&v->cpu, seg, sel);
		return 0;
	}
	return seg == SEG_CS ? -1 : seg_load(v, seg, sel);
}

static u64 t_cr8(void *t, struct vcpu *v)
{
	(void)t;
	return cpu_read_cr(v, 8);
}

static void t_points_changed(void *t, struct vcpu *v)
{
	(void)t;
	mmu_invalidate(v);
	if (v->engine && v->engine->debug_changed)
		v->engine->debug_changed(v);
}

static void t_state_changed(void *t, struct vcpu *v)
{
	(void)t;
	mmu_mode_changed(v);
	cpu_recheck_events(v);
}

static void t_reset(void *t)
{
	machine_reset(((struct gdb *)t)->m);
}

static void t_registers(void *t, unsigned cpu, gdb_line_fn line, void *opaque)
{
	machine_dump_registers(((struct gdb *)t)->m, cpu, line, opaque);
}

static void t_map(void *t, gdb_line_fn line, void *opaque)
{
	memory_dump(machine_memory(((struct gdb *)t)->m), line, opaque);
}

static void t_stats(void *t, gdb_line_fn line, void *opaque)
{
	static const char *const exits[VCPU_EXIT_COUNT] = { "budget", "event", "halt", "debug" };
	struct gdb *g = t;
	struct vcpu *v = machine_vcpu(g->m, 0);
	struct engine_counter counter[64];
	struct machine_stats st;
	unsigned n = 0;
	char text[128];

	machine_stats(g->m, &st);
	snprintf(text, sizeof(text), "instructions %llu%s, %.3f s, %llu halts (%.3f s)",
		 (unsigned long long)st.instructions, st.counted ? "" : " (not all counted)", st.seconds,
		 (unsigned long long)st.halts, st.halted_seconds);
	line(opaque, text);
	for (unsigned i = 0; i < VCPU_EXIT_COUNT; i++) {
		snprintf(text, sizeof(text), "exits.%s %llu", exits[i], (unsigned long long)st.exits[i]);
		line(opaque, text);
	}
	if (v->engine && v->engine->counters)
		n = v->engine->counters(v, counter, ARRAY_SIZE(counter));
	for (unsigned i = 0; i < MIN(n, ARRAY_SIZE(counter)); i++) {
		snprintf(text, sizeof(text), "%s.%s %llu", v->engine->name, counter[i].name,
			 (unsigned long long)counter[i].value);
		line(opaque, text);
	}
}

static void t_interrupt(void *t)
{
	machine_debug_interrupt(((struct gdb *)t)->m);
}

static bool t_stopping(void *t)
{
	return machine_stopping(((struct gdb *)t)->m);
}

static unsigned t_stopped(void *t)
{
	return machine_turn(((struct gdb *)t)->m);
}

static void t_choose(void *t, unsigned n)
{
	machine_take_turn(((struct gdb *)t)->m, n);
}

static const struct gdb_target_ops target_ops = {
	.vcpu = t_vcpu,
	.translate = t_translate,
	.phys_read = t_phys_read,
	.phys_write = t_phys_write,
	.fpu_offset = t_fpu_offset,
	.write_cr = t_write_cr,
	.write_msr = t_write_msr,
	.load_segment = t_load_segment,
	.cr8 = t_cr8,
	.points_changed = t_points_changed,
	.state_changed = t_state_changed,
	.reset = t_reset,
	.stopped = t_stopped,
	.choose = t_choose,
	.registers = t_registers,
	.map = t_map,
	.stats = t_stats,
	.interrupt = t_interrupt,
	.stopping = t_stopping,
};

static int listen_tcp(unsigned port, struct error *e)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((u16)port) };
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return error_errno(e, errno, "--gdb %u", port);
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 1)) {
		int err = errno;

		close(fd);
		if (err == EADDRINUSE)
			return error_set(e, "--gdb %u: the port is in use; choose another", port);
		return error_errno(e, err, "--gdb %u: cannot listen on 127.0.0.1", port);
	}
	return fd;
}

/* A socket left behind by a process that is gone: connecting is refused. */
static bool is_stale(const struct sockaddr_un *a)
{
	struct stat st;
	int fd, ret;

	if (lstat(a->sun_path, &st) || !S_ISSOCK(st.st_mode))
		return false;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return false;
	ret = connect(fd, (const struct sockaddr *)a, sizeof(*a)) ? errno : 0;
	close(fd);
	return ret == ECONNREFUSED;
}

static int listen_unix(const char *path, struct error *e)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd, err;

	if (*path == 0)
		return error_set(e, "--gdb unix: needs a path, as in --gdb unix:/tmp/gdb.sock");
	if (strlen(path) >= sizeof(a.sun_path))
		return error_set(e, "--gdb unix:%s: the path is longer than %zu bytes", path, sizeof(a.sun_path) - 1);
	strcpy(a.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_errno(e, errno, "--gdb unix:%s", path);
	if (is_stale(&a))
		unlink(path);
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(fd, 1) == 0)
		return fd;
	err = errno;
	close(fd);
	if (err == EADDRINUSE)
		return error_set(e, "--gdb unix:%s: the file exists; remove it or choose another", path);
	return error_errno(e, err, "--gdb unix:%s: cannot listen", path);
}

int gdb_listen(const char *where, struct error *e)
{
	unsigned long port;
	char *end;

	if (strncmp(where, "unix:", 5) == 0)
		return listen_unix(where + 5, e);
	port = *where >= '0' && *where <= '9' ? strtoul(where, &end, 10) : 0;
	if (port < 1 || port > 65535 || *end)
		return error_set(e, "--gdb '%s': give a port from 1 to 65535 or unix:PATH", where);
	return listen_tcp((unsigned)port, e);
}

static enum debug_go wait_callback(void *opaque, enum debug_stop why)
{
	return gdb_server_wait(((struct gdb *)opaque)->server, why);
}

struct gdb *gdb_create_fd(struct machine *m, int listen_fd, const char *where, struct error *e)
{
	struct gdb *g = calloc(1, sizeof(*g));
	struct machine_debugger d = { .wait = wait_callback, .opaque = g };

	if (!g) {
		close(listen_fd);
		error_set(e, "gdb: out of memory");
		return NULL;
	}
	g->m = m;
	g->target = (struct gdb_target){ .ops = &target_ops, .opaque = g, .cpus = machine_cpus(m) };
	g->server = gdb_server_create(&g->target, listen_fd, where, e);
	if (!g->server) {
		free(g);
		return NULL;
	}
	machine_attach_debugger(m, &d);
	return g;
}

struct gdb *gdb_create(struct machine *m, const char *where, struct error *e)
{
	int fd = gdb_listen(where, e);

	return fd < 0 ? NULL : gdb_create_fd(m, fd, where, e);
}

void gdb_destroy(struct gdb *g)
{
	if (!g)
		return;
	gdb_server_destroy(g->server);
	free(g);
}

/* Cores of guests: what page tables map, the kernel's note, the file, and the hold of the machine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <elf.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/host_time.h"
#include "cpu/vcpu.h"
#include "ctl/client.h"
#include "ctl/core.h"
#include "ctl/core_map.h"
#include "ctl/ctl.h"
#include "ctl/rundir.h"
#include "dev/clock.h"

#define RAM (4 * MiB)
#define P 1ull
#define PS 0x80ull

/* ---- page tables ---- */

static struct memory *make_memory(void)
{
	struct error e;
	struct memory *m = memory_create(RAM, &e);

	assert_non_null(m);
	assert_non_null(memory_map_ram(m, 0, 0, RAM, 0, "ram"));
	return m;
}

static void put64(struct memory *m, gpa_t gpa, u64 v)
{
	memory_write(m, gpa, &v, 8);
}

static void put32(struct memory *m, gpa_t gpa, u32 v)
{
	memory_write(m, gpa, &v, 4);
}

static void check(const struct core_map *map, const struct core_mapping *want, size_t n)
{
	assert_int_equal(map->count, n);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(map->at[i].virt, want[i].virt);
		assert_int_equal(map->at[i].phys, want[i].phys);
		assert_int_equal(map->at[i].len, want[i].len);
	}
}

static void test_long_mode(void **state)
{
	static const struct core_mapping want[] = {
		{ 0x400000, 0x5000, 0x3000 },
		{ 0x403000, 0x9000, 0x1000 },
		{ 0x600000, 0x200000, 0x200000 },
		{ 0xffff800000000000, 0, 0x40000000 },
		/* its last page is left out */
		{ 0xffffffffffe00000, 0, 0x1ff000 },
	};
	struct memory *m = make_memory();
	struct cpu *c = calloc(1, sizeof(*c));
	struct core_map map = { 0 };
	struct error e;

	c->cr0 = CR0_PE;
	c->cr4 = CR4_PAE;
	c->cr3 = 0x1000 | 5; /* a PCID */
	c->efer = EFER_LME | EFER_LMA;
	assert_int_equal(core_map_add(&map, m, c, 40, &e), 0);
	assert_int_equal(map.count, 0); /* paging is off */
	c->cr0 |= CR0_PG;
	put64(m, 0x1000, 0x2000 | P);
	put64(m, 0x2000, 0x3000 | P);
	put64(m, 0x3000 + 2 * 8, 0x4000 | P | BIT(63));
	put64(m, 0x4000, 0x5000 | P);
	put64(m, 0x4008, 0x6000 | P);
	put64(m, 0x4010, 0x7000 | P);
	put64(m, 0x4018, 0x9000 | P);
	put64(m, 0x4020, 0xa000); /* not present */
	put64(m, 0x3000 + 3 * 8, 0x200000 | BIT(12) | P | PS);
	put64(m, 0x1000 + 256 * 8, 0xb000 | P);
	put64(m, 0xb000, P | PS);	     /* a page of 1 GiB */
	put64(m, 0x1000 + 257 * 8, RAM | P); /* a table where there is no memory */
	put64(m, 0x1000 + 511 * 8, 0xc000 | P);
	put64(m, 0xc000 + 511 * 8, 0xd000 | P);
	put64(m, 0xd000 + 511 * 8, P | PS);
	assert_int_equal(core_map_add(&map, m, c, 40, &e), 0);
	/* another processor's: the same, and the same again */
	assert_int_equal(core_map_add(&map, m, c, 40, &e), 0);
	c->cr4 |= CR4_PGE;
	assert_int_equal(core_map_add(&map, m, c, 40, &e), 0);
	assert_int_equal(core_map_finish(&map, &e), 0);
	check(&map, want, ARRAY_SIZE(want));
	free(map.at);
	free(c);
	memory_destroy(m);
}

static void test_legacy_paging(void **state)
{
	static const struct core_mapping want[] = {
		{ 0, 0x3000, 0x1000 }, /* 32-bit: pages of 4 KiB, 4 MiB, 4 MiB beyond 4 GiB */
		{ 0x800000, 0xc00000, 0x400000 },
		{ 0xffc00000, 0x100400000, 0x400000 },
	};
	static const struct core_mapping want_pae[] = { { 0xc0200000, 0x200000, 0x200000 },
							{ 0xc0401000, 0x7000, 0x1000 } };
	struct memory *m = make_memory();
	struct cpu *c = calloc(1, sizeof(*c));
	struct core_map map = { 0 };
	struct error e;

	c->cr0 = CR0_PE | CR0_PG;
	c->cr4 = CR4_PSE;
	c->cr3 = 0x1000;
	put32(m, 0x1000, 0x2000 | P);
	put32(m, 0x2000, 0x3000 | P);
	put32(m, 0x1000 + 2 * 4, 0xc00000 | P | PS);
	put32(m, 0x1000 + 1023 * 4, 0x400000 | BIT(13) | P | PS);
	assert_int_equal(core_map_add(&map, m, c, 40, &e), 0);
	assert_int_equal(core_map_finish(&map, &e), 0);
	check(&map, want, ARRAY_SIZE(want));
	free(map.at);

	map = (struct core_map){ 0 };
	c->cr4 = CR4_PAE;
	c->cr3 = 0x4020;
	put64(m, 0x4020 + 3 * 8, 0x5000 | P);
	put64(m, 0x4020 + 4 * 8, 0x5000 | P); /* there is no fifth */
	put64(m, 0x5000 + 8, 0x200000 | P | PS);
	put64(m, 0x5000 + 16, 0x6000 | P);
	put64(m, 0x6000 + 8, 0x7000 | P);
	assert_int_equal(core_map_add(&map, m, c, 40, &e), 0);
	assert_int_equal(core_map_finish(&map, &e), 0);
	check(&map, want_pae, ARRAY_SIZE(want_pae));
	free(map.at);
	free(c);
	memory_destroy(m);
}

/* A table all of whose entries lead to itself, and pages in no order: refused, soon. */
static void test_hostile_tables(void **state)
{
	struct memory *m = make_memory();
	struct cpu *c = calloc(1, sizeof(*c));
	struct core_map map = { 0 };
	struct error e;

	c->cr0 = CR0_PE | CR0_PG;
	c->cr4 = CR4_PAE | CR4_LA57;
	c->cr3 = 0x1000;
	c->efer = EFER_LMA;
	for (unsigned i = 0; i < 512; i++)
		put64(m, 0x1000 + i * 8, 0x1000 | P);
	assert_int_equal(core_map_add(&map, m, c, 52, &e), -1);
	assert_non_null(strstr(e.text, "without --paging"));
	free(map.at);

	map = (struct core_map){ 0 };
	for (unsigned i = 0; i < 512; i++) {
		put64(m, 0x1000 + i * 8, 0x2000 | P);
		put64(m, 0x2000 + i * 8, 0x3000 | P);
		put64(m, 0x3000 + i * 8, 0x4000 | P);
		put64(m, 0x4000 + i * 8, 0x5000 | P);
		put64(m, 0x5000 + i * 8, (u64)(i ^ 1) << 12 | P);
	}
	assert_int_equal(core_map_add(&map, m, c, 52, &e), -1);
	assert_true(map.size <= 262144);
	free(map.at);
	free(c);
	memory_destroy(m);
}

/* ---- the kernel's note ---- */

static void test_vmcoreinfo(void **state)
{
	struct memory *m = make_memory();
	u8 out[CORE_VMCOREINFO_MAX];
	Elf64_Nhdr h = { .n_namesz = 11, .n_descsz = 13 };

	memory_write(m, 0x1000, &h, sizeof(h));
	memory_write(m, 0x1000 + sizeof(h), "VMCOREINFO\0", 12);
	memory_write(m, 0x1000 + sizeof(h) + 12, "OSRELEASE=1\n\n", 13);
	assert_int_equal(core_vmcoreinfo(m, 0x1000, 4096, out), 12 + 12 + 16);
	assert_memory_equal(out + 24, "OSRELEASE=1\n\n", 13);
	assert_int_equal(core_vmcoreinfo(m, 0x1000, 40, out), 40);
	assert_int_equal(core_vmcoreinfo(m, 0x1000, 39, out), 0);
	assert_int_equal(core_vmcoreinfo(m, 0x1000, 0, out), 0);
	assert_int_equal(core_vmcoreinfo(m, 0x1004, 4096, out), 0);
	assert_int_equal(core_vmcoreinfo(m, RAM - 16, 4096, out), 0);
	assert_int_equal(core_vmcoreinfo(m, ~0ull - 8, 4096, out), 0);
	h.n_descsz = ~0u;
	memory_write(m, 0x1000, &h, sizeof(h));
	assert_int_equal(core_vmcoreinfo(m, 0x1000, ~0u, out), 0);
	h.n_descsz = 13;
	h.n_namesz = 12;
	memory_write(m, 0x1000, &h, sizeof(h));
	assert_int_equal(core_vmcoreinfo(m, 0x1000, 4096, out), 0);
	memory_destroy(m);
}

/* ---- a machine ---- */

#define ROM_SIZE (64 * KiB)
static char rom_path[] = "/tmp/ectype-test-rom-XXXXXX";
static char dir[] = "/tmp/ectype-test-dump-XXXXXX";

/* inc al; jmp -2 at the reset vector's target */
static int prepare(void **state)
{
	static const u8 jump[] = { 0xea, 0x00, 0x00, 0x00, 0xf0 }, spin[] = { 0xfe, 0xc0, 0xeb, 0xfc };
	static u8 rom[ROM_SIZE];
	int fd = mkstemp(rom_path);
	bool good;

	memcpy(rom, spin, sizeof(spin));
	memcpy(rom + ROM_SIZE - 16, jump, sizeof(jump));
	good = write(fd, rom, sizeof(rom)) == sizeof(rom);
	close(fd);
	return !good || !mkdtemp(dir) || setenv("XDG_RUNTIME_DIR", dir, 1);
}

static int tidy(void **state)
{
	char command[128];

	unlink(rom_path);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

struct run {
	struct machine *m;
	struct machine_result result;
	pthread_t thread;
	u64 hold, ms;
};

static void *run_machine(void *opaque)
{
	struct run *r = opaque;

	machine_run(r->m, &r->result);
	return NULL;
}

static void start(struct run *r)
{
	const struct machine_config c = {
		.memory = RAM, .cpus = 2, .engine = "interp", .cpu_model = "host", .firmware = rom_path
	};
	struct error e;

	r->m = machine_create(&c, &e);
	if (!r->m)
		fail_msg("%s", e.text);
	pthread_create(&r->thread, NULL, run_machine, r);
}

static void stop(struct run *r)
{
	machine_stop(r->m);
	pthread_join(r->thread, NULL);
}

static void do_hold(void *opaque)
{
	struct run *r = opaque;

	r->hold = machine_hold(r->m, r->ms);
}
static void do_pause(void *opaque)
{
	machine_pause(((struct run *)opaque)->m);
}
static void do_resume(void *opaque)
{
	machine_resume(((struct run *)opaque)->m);
}
static void do_time(void *opaque)
{
	struct run *r = opaque;

	r->ms = clock_now(machine_clock(r->m));
}

static u64 guest_time(struct run *r)
{
	assert_true(machine_call_within(r->m, do_time, r, 10000));
	return r->ms;
}

static u64 hold(struct run *r, u64 ms)
{
	r->ms = ms;
	assert_true(machine_call_within(r->m, do_hold, r, 10000));
	return r->hold;
}

static bool moves(struct run *r)
{
	u64 before = guest_time(r);

	usleep(20000);
	return guest_time(r) != before;
}

static void test_hold(void **state)
{
	struct run r = { 0 };
	u64 id, began;

	start(&r);
	assert_true(moves(&r));
	id = hold(&r, 60000);
	assert_true(id && machine_held(r.m, id));
	assert_int_equal(machine_state(r.m), MACHINE_PAUSED);
	assert_false(moves(&r));
	assert_int_equal(hold(&r, 60000), 0); /* one at a time */
	/* orders of others wait */
	machine_call(r.m, do_pause, &r);
	machine_call(r.m, do_resume, &r);
	assert_true(machine_held(r.m, id));
	assert_false(moves(&r));
	machine_release(r.m, id);
	assert_false(machine_held(r.m, id));
	assert_int_equal(machine_state(r.m), MACHINE_RUNNING);
	assert_true(moves(&r));
	/* paused before, or meanwhile: paused afterwards */
	id = hold(&r, 60000);
	machine_call(r.m, do_pause, &r);
	machine_release(r.m, id);
	assert_false(moves(&r));
	id = hold(&r, 60000);
	machine_release(r.m, id);
	assert_int_equal(machine_state(r.m), MACHINE_PAUSED);
	assert_false(moves(&r));
	machine_call(r.m, do_resume, &r);
	assert_true(moves(&r));
	/* not for ever; and an old number is none of a new hold */
	began = host_ns();
	id = hold(&r, 100);
	while (machine_held(r.m, id))
		usleep(1000);
	assert_true(host_ns() - began >= 100000000);
	assert_true(moves(&r));
	r.hold = hold(&r, 60000);
	machine_release(r.m, id);
	assert_false(machine_held(r.m, id));
	assert_true(machine_held(r.m, r.hold));
	stop(&r);
	assert_false(machine_held(r.m, r.hold));
	assert_int_equal(r.result.end, MACHINE_END_STOPPED);
	machine_destroy(r.m);
}

/* ---- the file ---- */

struct file {
	u8 *data;
	u64 len;
};

static int take(void *opaque, const char *data, size_t n, u64 total, struct error *e)
{
	struct file *f = opaque;

	if (!f->data)
		f->data = malloc(total);
	if (f->len + n > total)
		return error_set(e, "too much");
	memcpy(f->data + f->len, data, n);
	f->len += n;
	return 0;
}

static void check_notes(const u8 *p, const u8 *end)
{
	unsigned prstatus = 0, fpregs = 0, qemu = 0;

	while (p < end) {
		Elf64_Nhdr h;
		const char *name = (const char *)p + sizeof(h);
		const u8 *desc;
		u64 rip;

		memcpy(&h, p, sizeof(h));
		desc = p + sizeof(h) + ((h.n_namesz + 3) & ~3u);
		if (!strcmp(name, "QEMU")) {
			assert_int_equal(h.n_descsz, 440);
			memcpy(&rip, desc + 8 + 16 * 8, 8);
			qemu++;
		} else if (h.n_type == NT_PRSTATUS) {
			memcpy(&rip, desc + 112 + 16 * 8, 8);
			prstatus++;
		} else {
			assert_int_equal(h.n_type, NT_FPREGSET);
			rip = 0;
			fpregs++;
		}
		/* in its loop; the second processor waits */
		assert_true(rip < 4 || rip == 0xfff0);
		p = desc + ((h.n_descsz + 3) & ~3u);
	}
	assert_ptr_equal(p, end);
	assert_true(prstatus == 2 && fpregs == 2 && qemu == 2);
}

/* Every byte of RAM and ROM is in the file, where its header says. */
static void check_file(const struct file *f, struct memory *mem)
{
	const Elf64_Ehdr *e = (const Elf64_Ehdr *)f->data;
	const Elf64_Phdr *h = (const Elf64_Phdr *)(f->data + e->e_phoff);
	u64 ram = 0;

	assert_memory_equal(e->e_ident, ELFMAG, SELFMAG);
	assert_int_equal(e->e_type, ET_CORE);
	assert_int_equal(h[0].p_type, PT_NOTE);
	check_notes(f->data + h[0].p_offset, f->data + h[0].p_offset + h[0].p_filesz);
	for (unsigned i = 1; i < e->e_phnum; i++) {
		u8 *want = malloc(h[i].p_filesz);

		assert_int_equal(h[i].p_type, PT_LOAD);
		assert_int_equal(h[i].p_paddr, h[i].p_vaddr);
		assert_true(h[i].p_offset % PAGE_SIZE == 0 && h[i].p_offset + h[i].p_filesz <= f->len);
		assert_int_equal(memory_read(mem, h[i].p_paddr, want, h[i].p_filesz), 0);
		assert_memory_equal(want, f->data + h[i].p_offset, h[i].p_filesz);
		free(want);
		ram += h[i].p_flags & PF_W ? h[i].p_filesz : 0;
	}
	assert_true(ram > RAM - 512 * KiB && ram <= RAM);
}

static int refuse(void *opaque, const char *data, size_t n, u64 total, struct error *e)
{
	return error_set(e, "enough");
}

/* Connects, asks for a core and reads nothing of it. */
static int ask_and_wait(void)
{
	static const char request[] = "PUT /api/v1/vm.coredump HTTP/1.1\r\nHost: localhost\r\n\r\n";
	struct error e;
	int fd = ctl_connect("dump-test", &e);
	char c;

	assert_true(fd >= 0);
	assert_int_equal(send(fd, request, sizeof(request) - 1, 0), sizeof(request) - 1);
	assert_int_equal(recv(fd, &c, 1, 0), 1);
	return fd;
}

static void until_it_runs(struct run *r)
{
	for (unsigned i = 0; i < 1000 && machine_state(r->m) != MACHINE_RUNNING; i++)
		usleep(10000);
	assert_true(moves(r));
}

static void test_stream(void **state)
{
	char path[CTL_PATH_MAX];
	struct run r = { 0 };
	struct file f = { 0 };
	const struct ctl_sink sink = { take, &f }, bad = { refuse, NULL };
	static const u8 mark[] = "a mark in memory";
	struct error e;
	bool taken;
	struct ctl_config c = { .name = "dump-test", .fd = ctl_listen("dump-test", path, &taken, &e) };
	struct ctl *ctl;
	int fd;

	start(&r);
	c.machine = r.m;
	ctl = ctl_start(&c, &e);
	assert_non_null(ctl);
	memory_write(machine_memory(r.m), 0x123456, mark, sizeof(mark));
	if (ctl_fetch("dump-test", "PUT", "/api/v1/vm.coredump", NULL, &sink, &e))
		fail_msg("%s", e.text);
	check_file(&f, machine_memory(r.m));
	free(f.data);
	until_it_runs(&r);
	/* held by a client that takes nothing: a second one is refused, an order waits; gone, the guest goes on */
	fd = ask_and_wait();
	assert_int_equal(machine_state(r.m), MACHINE_PAUSED);
	assert_int_equal(ctl_fetch("dump-test", "PUT", "/api/v1/vm.coredump", NULL, &bad, &e), CTL_REFUSED);
	assert_non_null(strstr(e.text, "somebody else"));
	assert_int_equal(ctl_order("dump-test", "PUT", "/api/v1/vm.resume", NULL, NULL, &e), 0);
	assert_false(moves(&r));
	close(fd);
	until_it_runs(&r);
	/* what cannot be written */
	assert_int_equal(ctl_fetch("dump-test", "PUT", "/api/v1/vm.coredump", NULL, &bad, &e), CTL_REFUSED);
	assert_string_equal(e.text, "enough");
	until_it_runs(&r);
	/* the machine ends while it is held */
	fd = ask_and_wait();
	stop(&r);
	ctl_stop(ctl);
	close(fd);
	machine_destroy(r.m);
	close(c.fd);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_long_mode),      cmocka_unit_test(test_legacy_paging),
		cmocka_unit_test(test_hostile_tables), cmocka_unit_test(test_vmcoreinfo),
		cmocka_unit_test(test_hold),	       cmocka_unit_test(test_stream),
	};

	return cmocka_run_group_tests(tests, prepare, tidy);
}

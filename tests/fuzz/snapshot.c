/*
 * Fuzz target: a snapshot's state. Either any bytes as a stream; or sections of
 * a sound one with some bytes changed and their sums put right, into a machine,
 * which may refuse them or has to bear what they make of it.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu/pv.h"
#include "fuzz.h"
#include "machine/state.h"

#define RAM (4 * MiB)
#define ROM_SIZE (64 * KiB)
#define RUN 3000 /* instructions */

static struct {
	char rom[64];
	struct encoder e;
	struct stream stream;
	int ram;
} base;

static struct machine_config config(void)
{
	return (struct machine_config){
		.name = "fuzz",
		.memory = RAM,
		.cpus = 2,
		.engine = "interp",
		.clock = MACHINE_CLOCK_VIRTUAL,
		.cpu_model = "host",
		.pv = PV_ALL,
		.firmware = base.rom,
		.balloon = true,
		.balloon_target = 1 * MiB,
	};
}

static void make_rom(void)
{
	/* inc dword [1000h]; in al, 40h; rdtsc; jmp */
	static const u8 code[] = { 0x66, 0xff, 0x06, 0x00, 0x10, 0xe4, 0x40, 0x0f, 0x31, 0xeb, 0xf5 };
	static const u8 jump[] = { 0xea, 0x00, 0x00, 0x00, 0xf0 };
	static u8 rom[ROM_SIZE];
	int fd = memfd_create("rom", 0);

	memcpy(rom, code, sizeof(code));
	memcpy(rom + ROM_SIZE - 16, jump, sizeof(jump));
	if (fd < 0 || write(fd, rom, sizeof(rom)) != sizeof(rom))
		abort();
	snprintf(base.rom, sizeof(base.rom), "/proc/self/fd/%d", fd);
}

static void make_base(void)
{
	struct machine_config c;
	struct machine_result r;
	struct stream_writer w;
	struct machine *m;
	struct error e;

	make_rom();
	c = config();
	m = machine_create(&c, &e);
	if (!m) {
		fprintf(stderr, "%s\n", e.text);
		abort();
	}
	machine_run_until(m, 20000, &r);
	if (machine_quiesce(m, &e))
		abort();
	enc_init(&base.e);
	stream_begin(&w, &base.e);
	machine_save(m, &w);
	stream_finish(&w);
	base.ram = memfd_create("ram", 0);
	if (stream_read(&base.stream, base.e.data, base.e.len, "base", &e) || base.ram < 0 ||
	    ftruncate(base.ram, RAM) || pwrite(base.ram, memory_ram(machine_memory(m)), RAM, 0) != RAM)
		abort();
	machine_destroy(m);
}

static void try(const struct stream *s)
{
	const struct machine_saved saved = { .stream = s, .ram_fd = base.ram };
	struct machine_config c = config();
	struct machine_result r;
	struct error e = { .text = "" };
	struct machine *m;

	c.saved = &saved;
	m = machine_create(&c, &e);
	if (!m) {
		assert(e.text[0]);
		return;
	}
	machine_run_until(m, machine_icount(m) + RUN, &r);
	machine_destroy(m);
}

/* The sound stream with bytes of one to three sections changed. */
static void mutate(struct input *in)
{
	u8 *data = malloc(base.e.len);
	struct stream s = { .section = malloc(base.stream.count * sizeof(*s.section)), .count = base.stream.count };

	if (!data || !s.section)
		abort();
	memcpy(data, base.e.data, base.e.len);
	memcpy(s.section, base.stream.section, s.count * sizeof(*s.section));
	for (unsigned i = 0; i < s.count; i++)
		s.section[i].payload = data + (base.stream.section[i].payload - base.e.data);
	for (unsigned n = 1 + take(in, 1) % 3; n; n--) {
		struct stream_section *sec = &s.section[take(in, 1) % s.count];
		u8 *payload = data + (sec->payload - data);

		for (unsigned k = 1 + take(in, 1) % 4; k && sec->len; k--)
			payload[take(in, 2) % sec->len] = (u8)take(in, 1);
	}
	try(&s);
	free(s.section);
	free(data);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct input in = { data, data + size };
	struct stream s;
	struct error e;

	if (!base.e.data)
		make_base();
	if (size && *data & 7) {
		in.p++;
		mutate(&in);
	} else if (!stream_read(&s, data, size, "input", &e)) {
		try(&s);
		stream_free(&s);
	}
	return 0;
}

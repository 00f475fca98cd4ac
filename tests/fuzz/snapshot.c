/*
 * Fuzz target: a snapshot's state and RAM. Either any bytes as a stream; or
 * sections of a sound one with some bytes changed and their sums put right,
 * into a machine, which may refuse them or has to bear what they make of it; or
 * compressed RAM on a base, its index and what is compressed changed likewise.
 */
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cli/snapshot.h"
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

/* ---- RAM ---- */

#define STORE_RAM (300 * PAGE_SIZE) /* the last group is no whole one */

/* What ram_out made of it: a plain base, and a compressed and a plain snapshot on it. */
static struct {
	struct encoder index[2];
	u8 *packed;
	size_t packed_len;
	int plain, base, out; /* out: the changed compressed file */
} store;

static int scratch(u64 size)
{
	int fd = memfd_create("store", 0);

	if (fd < 0 || ftruncate(fd, (off_t)size))
		abort();
	return fd;
}

static void make_file(int folder, const struct ram_chain *on, int level, const u8 *ram, unsigned n)
{
	struct ram_out *o;
	struct error e;

	o = ram_out_create(folder, level, on, &e);
	if (!o || ram_out_size(o, STORE_RAM, &e) || ram_out_take(o, 0, ram, STORE_RAM, &e) || ram_out_finish(o, &e))
		abort();
	enc_init(&store.index[n]);
	ram_index_write(ram_out_index(o), &store.index[n]);
	ram_out_free(o);
}

static void make_store(void)
{
	struct ram_chain low = { .size = STORE_RAM, .levels = 1 };
	char folder[] = "/tmp/fuzz-store.XXXXXX";
	static u8 ram[STORE_RAM];
	int dir, fd;

	store.base = low.level[0].fd = scratch(STORE_RAM);
	store.out = scratch(0);
	for (unsigned i = 0; i < STORE_RAM; i++)
		ram[i] = (u8)(i / PAGE_SIZE % 3 ? i * i >> 7 : 0);
	dir = mkdtemp(folder) ? open(folder, O_RDONLY | O_DIRECTORY) : -1;
	make_file(dir, &low, 1, ram, 0);
	make_file(dir, &low, 0, ram, 1);
	store.plain = openat(dir, SNAPSHOT_RAM, O_RDONLY);
	store.packed = malloc(STORE_RAM);
	fd = openat(dir, SNAPSHOT_RAM_PACKED, O_RDONLY);
	if (fd < 0 || store.plain < 0 || !store.packed)
		abort();
	store.packed_len = (size_t)read(fd, store.packed, STORE_RAM);
	close(fd);
	unlinkat(dir, SNAPSHOT_RAM, 0);
	unlinkat(dir, SNAPSHOT_RAM_PACKED, 0);
	close(dir);
	rmdir(folder);
}

/* Bytes of the index, or the whole of it; `n` what it was made from. */
static bool changed_index(struct input *in, unsigned n, u64 file_size, struct ram_index *x)
{
	size_t len = store.index[n].len;
	u8 *data = malloc(len);
	int ret;

	memcpy(data, store.index[n].data, len);
	for (unsigned k = take(in, 1) % 4; k; k--)
		data[take(in, 2) % len] = (u8)take(in, 1);
	if (take(in, 1) % 16 == 0)
		len = take(in, 2) % len;
	ret = ram_index_read(x, (struct decoder){ .data = data, .len = len }, STORE_RAM, file_size);
	free(data);
	return !ret;
}

/* Bytes of what is compressed; then its sums are put right, or the decompressor would see none of it. */
static void changed_groups(struct input *in, struct ram_index *x)
{
	u8 *data = malloc(store.packed_len);

	memcpy(data, store.packed, store.packed_len);
	for (unsigned k = take(in, 1) % 8; k; k--)
		data[take(in, 3) % store.packed_len] = (u8)take(in, 1);
	if (pwrite(store.out, data, store.packed_len, 0) != (ssize_t)store.packed_len)
		abort();
	for (u32 i = 0; i < x->count; i++)
		x->group[i].sum = XXH3_64bits_withSeed(data + x->group[i].at, x->group[i].len, x->group[i].number);
	free(data);
}

static void try_store(struct input *in)
{
	char name[] = "fuzz";
	struct ram_chain c = { .size = STORE_RAM, .levels = 3 };
	struct ram_level *top = &c.level[0], *mid = &c.level[1], *low = &c.level[2];
	unsigned how = (unsigned)take(in, 1);
	struct memory *m = memory_create(STORE_RAM, NULL);
	struct error e = { .text = "" };

	*top = (struct ram_level){ .fd = store.out, .indexed = true, .path = name };
	*mid = (struct ram_level){ .fd = store.plain, .indexed = true, .path = name };
	*low = (struct ram_level){ .fd = store.base, .path = name };
	if (m && changed_index(in, 0, store.packed_len, &top->index)) {
		changed_groups(in, &top->index);
		if (!(how & 4) || !changed_index(in, 1, STORE_RAM, &mid->index)) {
			*mid = *low;
			c.levels = 2;
		}
		if (how & 8)
			c.levels = 1;
		if (how & 1 ? ram_chain_check(&c, &e) : ram_chain_load(&c, m, how & 2, &e))
			assert(e.text[0]);
	}
	ram_index_free(&top->index);
	ram_index_free(&mid->index);
	memory_destroy(m);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct input in = { data, data + size };
	struct stream s;
	struct error e;

	if (!base.e.data) {
		make_base();
		make_store();
	}
	if (size && (*data & 7) >= 4) {
		in.p++;
		try_store(&in);
	} else if (size && *data & 7) {
		in.p++;
		mutate(&in);
	} else if (!stream_read(&s, data, size, "input", &e)) {
		try(&s);
		stream_free(&s);
	}
	return 0;
}

/*
 * Fuzz target: a primary that sends a standby anything, in sound sections: of a
 * byte for the name, two for the length and the payload. The first byte of the
 * input says whether it greets as it should.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend/block/block.h"
#include "cli/standby.h"
#include "fuzz.h"
#include "state/migration.h"
#include "state/ram.h"

#define RAM (1 * MiB)
#define DISK (200 * KiB)
#define SENT_MAX (100 * KiB) /* what a socket takes without a reader */

static const char *const names[] = {
	RAM_DATA,	  MIGRATION_ZERO,	 MIGRATION_DISK,  MIGRATION_DISK_ZERO, PROTECTION_FIRST,
	PROTECTION_STATE, PROTECTION_CHECKPOINT, PROTECTION_BEAT, PROTECTION_OVER,     PROTECTION_TERMS,
	MIGRATION_HELLO,  MIGRATION_OFFER,	 "state.sound",
};

static struct block *disk;
static int staged;

static int on_offer(void *opaque, const struct stream *s, struct standby_offer *o, struct error *e)
{
	if (o->disks > 1 || (o->disks && o->size[0] != DISK) || o->ram > 64 * MiB)
		return error_set(e, "not this one");
	o->image[0] = disk;
	o->staged = staged;
	return 0;
}

static void prepare(void)
{
	char path[] = "/tmp/ectype-fuzz-standby-XXXXXX";
	struct error e;
	int fd;

	if (disk)
		return;
	fd = mkstemp(path);
	if (fd < 0 || ftruncate(fd, DISK))
		abort();
	close(fd);
	const struct block_config image = { .path = path, .format = BLOCK_FORMAT_RAW, .threads = true };

	disk = block_open(&image, &e);
	staged = memfd_create("staged", 0);
	if (!disk || staged < 0)
		abort();
	unlink(path);
}

static void greet(struct channel *c)
{
	struct encoder *out = channel_begin(c, MIGRATION_HELLO);
	struct stream_writer w;
	static const u8 id[16];

	enc_u32(out, MIGRATION_VERSION);
	enc_bytes(out, id, sizeof(id));
	enc_u8(out, MIGRATION_PROTECT);
	channel_send(c, 0);
	out = channel_begin(c, PROTECTION_TERMS);
	enc_u32(out, 1000);
	enc_u8(out, PROTECTION_HOLD);
	enc_bool(out, false);
	enc_u32(out, 1);
	enc_u64(out, DISK);
	channel_send(c, 0);
	out = channel_begin(c, MIGRATION_OFFER);
	stream_begin(&w, out);
	stream_section_begin(&w, RAM_SIZE, STREAM_REQUIRED);
	enc_u64(out, RAM);
	stream_section_end(&w);
	stream_finish(&w);
	channel_send(c, 0);
}

/* A checkpoint that would be kept, but for its number. */
static void sound_state(struct channel *c)
{
	struct encoder *out = channel_begin(c, PROTECTION_STATE);
	struct stream_writer w;

	enc_u64(out, 0);
	stream_begin(&w, out);
	stream_finish(&w);
	channel_send(c, 0);
}

static void speak(struct channel *c, struct input *in)
{
	u8 payload[8192];

	while (in->p < in->end && c->sent < SENT_MAX) {
		unsigned name = (unsigned)take(in, 1) % ARRAY_SIZE(names);
		size_t n = take(in, 2) % (sizeof(payload) + 1);

		if (name == ARRAY_SIZE(names) - 1) {
			sound_state(c);
			continue;
		}
		/* a frame, or a granule, is more than the input has */
		take_bytes(in, payload, MIN(n, 64ul));
		memset(payload + MIN(n, 64ul), 0x5a, n - MIN(n, 64ul));
		channel_put(c, names[name], payload, n, 0);
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct input in = { data, data + size };
	struct standby_kept k;
	struct channel c;
	struct error e;
	int pair[2];

	prepare();
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		return 0;
	channel_init(&c, pair[0], NULL, NULL, 0);
	if (take(&in, 1) & 1)
		greet(&c);
	speak(&c, &in);
	shutdown(pair[0], SHUT_WR);
	const struct standby_config cfg = { .fd = pair[1], .witness = -1, .offer = on_offer };
	struct standby *s = standby_create(&cfg, &e);

	if (!s)
		abort();
	if (standby_serve(s, &e) == STANDBY_TAKES_OVER) {
		standby_take(s, &k);
		if (!k.number || !k.ram)
			abort();
		munmap(k.ram, RAM);
	}
	standby_destroy(s);
	channel_free(&c);
	close(pair[0]);
	close(pair[1]);
	return 0;
}

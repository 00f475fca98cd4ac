/* The standby before a scripted primary; the terms and the witness. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/block/track.h"
#include "base/thread.h"
#include "cli/standby.h"
#include "ctl/protect.h"
#include "ctl/witness.h"
#include "mem/physmem.h"
#include "state/migration.h"
#include "state/ram.h"

#define RAM (4 * MiB)
#define DISK (200 * KiB)
#define MS 5000

static const u8 id[16] = "0123456789abcde";

/* ---- the primary ---- */

struct rig {
	int fd; /* of the primary */
	struct channel ch;
	struct standby *s;
	pthread_t thread;
	enum standby_end end;
	struct error e;
	bool refuse;
	char path[64];
	struct block *disk;
	int staged, witness;
	unsigned readies;
	struct standby_config cfg;
};

static int on_offer(void *opaque, const struct stream *s, struct standby_offer *o, struct error *e)
{
	struct rig *r = opaque;

	assert_non_null(stream_find(s, "options"));
	if (o->disks) {
		o->image[0] = r->disk;
		o->staged = r->staged;
	}
	return r->refuse ? error_set(e, "not this one") : 0;
}

static void on_ready(void *opaque)
{
	((struct rig *)opaque)->readies++;
}

static void *serve(void *opaque)
{
	struct rig *r = opaque;

	r->end = standby_serve(r->s, &r->e);
	return NULL;
}

static void setup(struct rig *r, bool witness)
{
	int pair[2];
	struct error e;

	memset(r, 0, sizeof(*r));
	strcpy(r->path, "/tmp/ectype-standby-XXXXXX");
	r->staged = mkstemp(r->path);
	assert_int_equal(ftruncate(r->staged, DISK), 0);
	close(r->staged);
	const struct block_config image = { .path = r->path, .format = BLOCK_FORMAT_RAW, .threads = true };

	r->disk = block_open(&image, &e);
	assert_non_null(r->disk);
	r->staged = memfd_create("staged", 0);
	r->witness = witness ? memfd_create("witness", 0) : -1;
	if (witness)
		assert_int_equal(witness_prepare(r->witness, id, &e), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	r->fd = pair[0];
	assert_int_equal(channel_init(&r->ch, pair[0], NULL, NULL, 0), 0);
	r->cfg = (struct standby_config){
		.fd = pair[1], .witness = r->witness, .offer = on_offer, .ready = on_ready, .opaque = r
	};
	r->s = standby_create(&r->cfg, &e);
	assert_non_null(r->s);
	assert_int_equal(thread_start(&r->thread, serve, r), 0);
}

/* Of the standby, when it has ended. */
static enum standby_end ended(struct rig *r)
{
	pthread_join(r->thread, NULL);
	return r->end;
}

static void teardown(struct rig *r)
{
	standby_destroy(r->s);
	channel_free(&r->ch);
	if (r->fd >= 0)
		close(r->fd);
	close(r->cfg.fd);
	block_close(r->disk);
	unlink(r->path);
	close(r->staged);
	if (r->witness >= 0)
		close(r->witness);
}

static void greet(struct rig *r, u32 timeout, enum protection_loss loss, bool witness)
{
	struct encoder *out = channel_begin(&r->ch, MIGRATION_HELLO);
	struct stream_writer w;

	enc_u32(out, MIGRATION_VERSION);
	enc_bytes(out, id, sizeof(id));
	enc_u8(out, MIGRATION_PROTECT);
	channel_send(&r->ch, MS);
	out = channel_begin(&r->ch, PROTECTION_TERMS);
	enc_u32(out, timeout);
	enc_u8(out, (u8)loss);
	enc_bool(out, witness);
	enc_u32(out, 1);
	enc_u64(out, DISK);
	channel_send(&r->ch, MS);
	out = channel_begin(&r->ch, MIGRATION_OFFER);
	stream_begin(&w, out);
	stream_section(&w, "options", STREAM_REQUIRED, "", 0);
	stream_section_begin(&w, RAM_SIZE, STREAM_REQUIRED);
	enc_u64(out, RAM);
	stream_section_end(&w);
	stream_finish(&w);
	channel_send(&r->ch, MS);
}

static void hear(struct rig *r, const char *what)
{
	struct stream_section s;

	assert_int_equal(channel_next(&r->ch, MS, &s), 1);
	assert_string_equal(s.name, what);
}

static void send_frame(struct rig *r, u64 offset, u8 fill)
{
	struct encoder *out = channel_begin(&r->ch, RAM_DATA);
	u8 page[PAGE_SIZE];

	memset(page, fill, sizeof(page));
	enc_u64(out, offset);
	enc_bytes(out, page, sizeof(page));
	assert_int_equal(channel_send(&r->ch, MS), 0);
}

static void send_granule(struct rig *r, u64 offset, u8 fill, u64 n)
{
	struct encoder *out = channel_begin(&r->ch, fill ? MIGRATION_DISK : MIGRATION_DISK_ZERO);
	u8 *p = malloc(n);

	memset(p, fill, n);
	enc_u32(out, 0);
	enc_u64(out, offset);
	if (fill)
		enc_bytes(out, p, n);
	else
		enc_u64(out, n);
	free(p);
	assert_int_equal(channel_send(&r->ch, MS), 0);
}

/* A state is a stream; this one has a section with `text`. */
static void send_checkpoint(struct rig *r, u64 number, const char *text)
{
	struct encoder state, *out;
	struct stream_writer w;

	enc_init(&state);
	stream_begin(&w, &state);
	stream_section(&w, "text", STREAM_REQUIRED, text, strlen(text));
	stream_finish(&w);
	out = channel_begin(&r->ch, PROTECTION_STATE);
	enc_u64(out, 0);
	enc_bytes(out, state.data, state.len);
	channel_send(&r->ch, MS);
	out = channel_begin(&r->ch, PROTECTION_CHECKPOINT);
	enc_u64(out, number);
	enc_u64(out, state.len);
	channel_send(&r->ch, MS);
	enc_free(&state);
}

/* Up to the first checkpoint, and what must be there after it. */
static void begin(struct rig *r, u32 timeout, enum protection_loss loss, bool witness)
{
	greet(r, timeout, loss, witness);
	hear(r, MIGRATION_ACCEPT);
	send_frame(r, 0, 1);
	send_frame(r, PAGE_SIZE, 1);
	send_granule(r, 0, 1, BLOCK_GRANULE);
	channel_put(&r->ch, PROTECTION_FIRST, NULL, 0, MS);
	send_frame(r, PAGE_SIZE, 2);
	send_granule(r, BLOCK_GRANULE, 2, BLOCK_GRANULE);
	send_checkpoint(r, 1, "one");
	hear(r, PROTECTION_KEPT);
}

static u8 disk_byte(struct rig *r, u64 offset)
{
	u8 sector[BLOCK_SECTOR];

	assert_int_equal(block_read_now(r->disk, offset, sector, sizeof(sector)), 0);
	return sector[0];
}

/* What is kept is checkpoint `number`, with `text`. */
static void check_kept(struct rig *r, u64 number, const char *text, u8 second_frame, u8 second_granule)
{
	struct standby_kept k;
	struct stream st;
	struct stream_section *s;
	struct error e;

	standby_take(r->s, &k);
	assert_int_equal(k.number, number);
	assert_int_equal(stream_read(&st, k.state, k.state_len, "state", &e), 0);
	s = stream_find(&st, "text");
	assert_non_null(s);
	assert_int_equal(s->len, strlen(text));
	assert_memory_equal(s->payload, text, s->len);
	stream_free(&st);
	assert_int_equal(((u8 *)k.ram)[0], 1);
	assert_int_equal(((u8 *)k.ram)[PAGE_SIZE], second_frame);
	assert_int_equal(((u8 *)k.ram)[2 * PAGE_SIZE], 0);
	munmap(k.ram, RAM);
	assert_int_equal(disk_byte(r, 0), 1);
	assert_int_equal(disk_byte(r, BLOCK_GRANULE), second_granule);
}

/* ---- tests ---- */

/* Half a checkpoint is none, in RAM, in the state and on disks. */
static void test_whole_checkpoints_only(void **state)
{
	struct rig r;

	setup(&r, false);
	begin(&r, 60000, PROTECTION_HOLD, false);
	send_frame(&r, 0, 9);
	send_frame(&r, PAGE_SIZE, 9);
	send_granule(&r, BLOCK_GRANULE, 9, BLOCK_GRANULE);
	send_granule(&r, 0, 0, BLOCK_GRANULE);
	close(r.fd);
	r.fd = -1;
	assert_int_equal(ended(&r), STANDBY_TAKES_OVER);
	assert_int_equal(r.readies, 1);
	check_kept(&r, 1, "one", 2, 2);
	teardown(&r);
}

static void test_last_checkpoint(void **state)
{
	struct rig r;
	struct encoder *out;

	setup(&r, false);
	begin(&r, 60000, PROTECTION_CONTINUE, false);
	channel_put(&r.ch, PROTECTION_BEAT, NULL, 0, MS);
	out = channel_begin(&r.ch, MIGRATION_ZERO);
	enc_u64(out, PAGE_SIZE);
	enc_u64(out, PAGE_SIZE);
	channel_send(&r.ch, MS);
	send_granule(&r, BLOCK_GRANULE, 0, BLOCK_GRANULE);
	send_granule(&r, 3 * BLOCK_GRANULE, 7, DISK - 3 * BLOCK_GRANULE);
	send_checkpoint(&r, 2, "a longer one than the first");
	hear(&r, PROTECTION_KEPT);
	send_checkpoint(&r, 3, "three");
	hear(&r, PROTECTION_KEPT);
	close(r.fd);
	r.fd = -1;
	assert_int_equal(ended(&r), STANDBY_TAKES_OVER);
	check_kept(&r, 3, "three", 0, 0);
	assert_int_equal(disk_byte(&r, 3 * BLOCK_GRANULE), 7);
	teardown(&r);
}

/* It takes over from a primary that is silent, and says so; of other terms it waits. */
static void test_silence(void **state)
{
	struct rig r;

	setup(&r, false);
	begin(&r, 100, PROTECTION_HOLD, false);
	hear(&r, PROTECTION_MINE);
	assert_int_equal(ended(&r), STANDBY_TAKES_OVER);
	teardown(&r);

	setup(&r, false);
	begin(&r, 100, PROTECTION_CONTINUE, false);
	usleep(400000);
	send_checkpoint(&r, 2, "two");
	hear(&r, PROTECTION_KEPT);
	enc_u8(channel_begin(&r.ch, PROTECTION_OVER), PROTECTION_STOPPED);
	channel_send(&r.ch, MS);
	hear(&r, PROTECTION_DISCARDED);
	assert_int_equal(ended(&r), STANDBY_STOPPED);
	teardown(&r);
}

static void test_before_the_first(void **state)
{
	struct rig r;

	setup(&r, false);
	greet(&r, 60000, PROTECTION_HOLD, false);
	hear(&r, MIGRATION_ACCEPT);
	send_frame(&r, 0, 1);
	close(r.fd);
	r.fd = -1;
	assert_int_equal(ended(&r), STANDBY_LOST);
	teardown(&r);

	setup(&r, false);
	r.refuse = true;
	greet(&r, 60000, PROTECTION_HOLD, false);
	hear(&r, MIGRATION_REFUSE);
	assert_int_equal(ended(&r), STANDBY_LOST);
	assert_string_equal(r.e.text, "not this one");
	teardown(&r);
}

static void test_witness(void **state)
{
	struct rig r;
	struct error e;

	setup(&r, true);
	begin(&r, 60000, PROTECTION_HOLD, true);
	close(r.fd);
	r.fd = -1;
	assert_int_equal(ended(&r), STANDBY_TAKES_OVER);
	assert_int_equal(witness_claim(r.witness, id, WITNESS_PRIMARY, &e), 0);
	teardown(&r);

	setup(&r, true);
	begin(&r, 60000, PROTECTION_HOLD, true);
	assert_int_equal(witness_claim(r.witness, id, WITNESS_PRIMARY, &e), 1);
	close(r.fd);
	r.fd = -1;
	assert_int_equal(ended(&r), STANDBY_LOST);
	teardown(&r);
}

static void test_witness_alone(void **state)
{
	static const u8 other[16] = "somebody else's";
	struct error e;
	int fd = memfd_create("witness", 0);

	assert_int_equal(witness_claim(fd, id, WITNESS_PRIMARY, &e), -1); /* not prepared */
	assert_int_equal(witness_prepare(fd, id, &e), 0);
	assert_int_equal(witness_look(fd, id, &e), 0);
	assert_int_equal(witness_prepare(fd, other, &e), -1);
	assert_int_equal(witness_claim(fd, other, WITNESS_STANDBY, &e), -1);
	assert_int_equal(witness_claim(fd, id, WITNESS_STANDBY, &e), 1);
	assert_int_equal(witness_claim(fd, id, WITNESS_STANDBY, &e), 1); /* it is his */
	assert_int_equal(witness_claim(fd, id, WITNESS_PRIMARY, &e), 0);
	assert_int_equal(witness_look(fd, id, &e), -1);
	witness_clear(fd);
	assert_int_equal(witness_prepare(fd, other, &e), 0);
	close(fd);
}

static void test_terms(void **state)
{
	static const char *const bad[] = {
		"",
		"rate=20",
		"rate=0 timeout=500 on-loss=hold witness=0 id=00000000000000000000000000000000\n",
		"rate=20 timeout=500 on-loss=hope witness=0 id=00000000000000000000000000000000\n",
		"rate=20 timeout=5 on-loss=hold witness=0 id=00000000000000000000000000000000\n",
		"rate=20 timeout=500 on-loss=hold witness=2 id=00000000000000000000000000000000\n",
		"rate=20 timeout=500 on-loss=hold witness=0 id=0000000000000000000000000000\n",
		"rate=20 timeout=500 on-loss=hold witness=0 id=00000000000000000000000000000000",
		"rate=20 timeout=500 on-loss=hold witness=0 id=00000000000000000000000000000000\nmore"
	};
	struct protect_terms t = { 25, 700, PROTECTION_CONTINUE, true, { 1, 2, 0xff } }, back;
	char line[PROTECT_TERMS_MAX];

	protect_terms_write(&t, line);
	assert_int_equal(protect_terms_read(&back, line), 0);
	assert_int_equal(back.rate, t.rate);
	assert_int_equal(back.timeout_ms, t.timeout_ms);
	assert_int_equal(back.on_loss, t.on_loss);
	assert_true(back.witness);
	assert_memory_equal(back.id, t.id, sizeof(t.id));
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(protect_terms_read(&back, bad[i]), -1);
}

/* What a primary must not send: it is not kept, and the checkpoint before is what there is. */
static void test_wrong(void **state)
{
	for (unsigned what = 0; what < 7; what++) {
		struct encoder *out;
		struct rig r;

		setup(&r, false);
		begin(&r, 60000, PROTECTION_HOLD, false);
		switch (what) {
		case 0: /* beyond RAM */
			send_frame(&r, RAM, 1);
			break;
		case 1: /* between frames */
			send_frame(&r, 100, 1);
			break;
		case 2: /* a part of a granule */
			send_granule(&r, 0, 5, BLOCK_SECTOR);
			break;
		case 3: /* beyond the disk */
			send_granule(&r, 4 * BLOCK_GRANULE, 5, BLOCK_GRANULE);
			break;
		case 4: /* not the next one */
			send_checkpoint(&r, 3, "three");
			break;
		case 5: /* a state that is no stream */
			out = channel_begin(&r.ch, PROTECTION_STATE);
			enc_u64(out, 3);
			enc_u8(out, 77);
			channel_send(&r.ch, MS);
			out = channel_begin(&r.ch, PROTECTION_CHECKPOINT);
			enc_u64(out, 2);
			enc_u64(out, 60);
			channel_send(&r.ch, MS);
			break;
		default: /* a state beyond all bounds */
			out = channel_begin(&r.ch, PROTECTION_STATE);
			enc_u64(out, PROTECTION_STATE_MAX);
			enc_u8(out, 1);
			channel_send(&r.ch, MS);
		}
		hear(&r, PROTECTION_MINE);
		assert_int_equal(ended(&r), STANDBY_TAKES_OVER);
		check_kept(&r, 1, "one", 2, 2);
		teardown(&r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_whole_checkpoints_only),
		cmocka_unit_test(test_last_checkpoint),
		cmocka_unit_test(test_silence),
		cmocka_unit_test(test_before_the_first),
		cmocka_unit_test(test_witness),
		cmocka_unit_test(test_witness_alone),
		cmocka_unit_test(test_terms),
		cmocka_unit_test(test_wrong),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

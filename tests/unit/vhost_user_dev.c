/* Devices of other processes: requests through a fake back end, back ends that die or lie, saved state. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>

#include "dev/vhost_user/vhost_user_dev.h"
#include "dev/virtio/rng.h"
#include "vhost_back_end.h"
#define RIG_MEMORY MEMORY_SHARED
#include "virtio_rig.h"

#define PROTOCOL (VHOST_USER_PROTOCOL_F_MQ | VHOST_USER_PROTOCOL_F_REPLY_ACK | VHOST_USER_PROTOCOL_F_CONFIG)
#define BLK_FLUSH BIT(9)

/* What the next device is made of. */
static struct back_end *next;
static struct vhost_user_config config;
static struct error why;
static unsigned kills;

static void killed(void *opaque)
{
	kills++;
}

/* Answers with what it was sent. */
static u32 echo(struct back_end *b, const u8 *out, u32 out_len, u8 *in, u32 in_len)
{
	memcpy(in, out, MIN(out_len, in_len));
	return MIN(out_len, in_len);
}

static struct back_end *back_end(enum back_end_fault fault)
{
	struct back_end *b = calloc(1, sizeof(*b));

	*b = (struct back_end){ .offered = VIRTIO_F_VERSION_1 | BLK_FLUSH | BIT(20),
				.protocol = PROTOCOL,
				.serve = echo };
	b->fault = fault;
	b->fault_at = 63; /* none of the requests */
	for (unsigned i = 0; i < sizeof(b->config); i++)
		b->config[i] = (u8)(i * 3);
	return b;
}

/* Slots before VRIG_SLOT are taken, so that the device gets that one. */
static int create(struct rig *r, struct pci_bus *bus)
{
	struct virtio *v;

	for (unsigned slot = 1; slot < VRIG_SLOT; slot++)
		assert_int_equal(virtio_rng_create(&r->board, bus, slot), 0);
	config.fd = back_end_start(next);
	config.name = "test";
	config.kill = killed;
	v = vhost_user_create(&r->board, bus, &config, &why);
	close(config.fd);
	return v ? 0 : -1;
}

static struct rig *start(struct back_end *b, enum vhost_user_kind kind, unsigned queues)
{
	struct rig *r = rig_create();

	next = b;
	config = (struct vhost_user_config){ .kind = kind, .tag = "data" };
	vrig_init(r, create);
	vrig_start(r, 0, queues, 16);
	kills = 0;
	return r;
}

static void end(struct rig *r, struct back_end *b)
{
	rig_destroy(r);
	back_end_join(b);
	free(b);
}

/* Requests as FUSE's: length, opcode, unique number, 24 bytes that do not matter. */
struct request {
	u32 len, opcode;
	u64 unique;
	u8 rest[24];
	u32 flags, more;
};
struct answer {
	u32 len;
	s32 error;
	u64 unique;
};

static void test_file_system(void **state)
{
	struct back_end *b = back_end(FAULT_NONE);
	struct rig *r = start(b, VHOST_USER_FS, 2);
	struct request out = { .len = sizeof(out), .opcode = 14, .unique = 77, .flags = O_NOATIME | O_RDWR }, in;
	char tag[36] = "data";
	u32 value;

	for (unsigned i = 0; i < sizeof(tag); i++)
		assert_int_equal(vrig_read(r, VRIG_CONFIG + i, 1), tag[i]);
	value = vrig_read(r, VRIG_CONFIG + 36, 4);
	assert_int_equal(value, 1);
	for (unsigned i = 0; i < 3000; i++) {
		out.unique = i;
		assert_int_equal(vrig_request(r, i % 2, &out, sizeof(out), &in, sizeof(in)), sizeof(in));
		assert_memory_equal(&in, &out, sizeof(in));
		if (i % 500 == 0)
			vrig_start(r, 0, 2, 16); /* and its memory again */
		else if (vrig(r)->next > MiB)
			vrig(r)->next = MiB / 2;
	}
	/* no interrupt is lost */
	assert_true(r->msi_of[1] > 100 && r->msi_of[2] > 100);
	/* answers into memory that the back end may not see: the device is broken, nothing else is */
	vrig_add(r, 1, (struct vseg[]){ { VRIG_BAR, 64, true } }, 1);
	vrig_kick(r, 1);
	assert_true(vrig_status(r) & VIRTIO_NEEDS_RESET);
	vrig_start(r, 0, 2, 16);
	assert_int_equal(vrig_request(r, 1, &out, sizeof(out), &in, sizeof(in)), sizeof(in));
	end(r, b);
}

static void test_no_noatime(void **state)
{
	struct back_end *b = back_end(FAULT_NONE);
	struct rig *r = rig_create();
	struct request out = { .len = sizeof(out), .opcode = 14, .unique = 5, .flags = O_NOATIME | O_RDWR }, in;

	next = b;
	config = (struct vhost_user_config){ .kind = VHOST_USER_FS, .tag = "t", .no_noatime = true };
	vrig_init(r, create);
	vrig_start(r, 0, 2, 16);
	assert_int_equal(vrig_request(r, 1, &out, sizeof(out), &in, sizeof(in)), sizeof(in));
	assert_int_equal(in.flags, O_RDWR);
	assert_int_equal(in.unique, 5);
	out.opcode = 15;
	assert_int_equal(vrig_request(r, 1, &out, sizeof(out), &in, sizeof(in)), sizeof(in));
	assert_int_equal(in.flags, O_NOATIME | O_RDWR);
	end(r, b);
}

/* However it fails: errors for what is in flight and for all that comes, also after a reset. */
static void test_failed(void **state)
{
	static const enum back_end_fault faults[] = { FAULT_HANG_UP, FAULT_BAD_USED };

	for (unsigned i = 0; i < ARRAY_SIZE(faults); i++) {
		struct back_end *b = back_end(faults[i]);
		struct rig *r = start(b, VHOST_USER_FS, 2);
		struct request out = { .len = sizeof(out), .opcode = 3, .unique = 99 };
		struct answer in;

		for (unsigned k = 0; k < 4; k++) {
			memset(&in, 0, sizeof(in));
			assert_int_equal(vrig_request(r, 1, &out, sizeof(out), &in, sizeof(in)), sizeof(in));
			assert_int_equal(in.error, -ENOTCONN);
			assert_true(in.unique == 99 && in.len == sizeof(in));
			if (k == 1)
				vrig_start(r, 0, 2, 16);
		}
		/* FORGET has no answer */
		assert_int_equal(vrig_request(r, 0, &out, sizeof(out), NULL, 0), 0);
		assert_int_equal(kills, 1);
		end(r, b);

		b = back_end(faults[i]);
		r = start(b, VHOST_USER_BLK, 1);
		u8 answer[513] = { 0 };

		assert_int_equal(vrig_request(r, 0, &out, 16, answer, sizeof(answer)), sizeof(answer));
		assert_int_equal(answer[512], 1);
		end(r, b);
	}
}

static void test_block(void **state)
{
	struct back_end *b = back_end(FAULT_NONE);
	struct rig *r = start(b, VHOST_USER_BLK, 1);

	/* what the back end offers, less what is not known */
	assert_true(vrig_offered(r) & BLK_FLUSH);
	assert_false(vrig_offered(r) & BIT(20));
	for (unsigned i = 0; i < 60; i++)
		assert_int_equal(vrig_read(r, VRIG_CONFIG + i, 1), b->config[i]);
	assert_true(b->features & VIRTIO_F_VERSION_1);
	end(r, b);
}

static void refuse(struct back_end *b, struct vhost_user_config with, const char *text)
{
	struct rig *r = rig_create();
	struct q35_config cfg = { .ecam_base = 0xb0000000 };

	for (unsigned i = 0; i < PCI_LINES; i++)
		cfg.gsi[i] = rig_irq(r, 16 + i);
	for (unsigned i = 0; i < 16; i++)
		cfg.pic[i] = rig_irq(r, i);
	next = b;
	config = with;
	assert_int_equal(create(r, q35_bus(q35_create(&r->board, &cfg))), -1);
	assert_non_null(strstr(why.text, text));
	end(r, b);
}

static void test_refused(void **state)
{
	struct back_end *b = back_end(FAULT_NONE);

	refuse(b, (struct vhost_user_config){ .kind = VHOST_USER_NET }, "virtual clock");
	refuse(back_end(FAULT_NONE), (struct vhost_user_config){ .kind = VHOST_USER_FS, .tag = "" }, "tag");
	b = back_end(FAULT_NONE);
	b->offered = BIT(9);
	refuse(b, (struct vhost_user_config){ .kind = VHOST_USER_FS, .tag = "x" }, "no virtio 1 file system");
	b = back_end(FAULT_NONE);
	b->protocol = 0;
	refuse(b, (struct vhost_user_config){ .kind = VHOST_USER_BLK }, "configuration");
	b = back_end(FAULT_WRONG);
	b->fault_at = VHOST_USER_GET_FEATURES;
	refuse(b, (struct vhost_user_config){ .kind = VHOST_USER_FS, .tag = "x" }, "makes no sense");
}

/* ---- saved state ---- */

static struct back_end *made[2];
static unsigned made_count;

static struct device *make(struct rig *r)
{
	next = made[made_count++] = back_end(FAULT_NONE);
	config = (struct vhost_user_config){ .kind = VHOST_USER_FS, .tag = "data" };
	return vrig_init(r, create);
}

static void poke(struct rig *r, struct device *d)
{
	struct request out = { .len = sizeof(out), .opcode = 3, .unique = 1 }, in;

	vrig_start(r, 0, 2, 8);
	assert_true(vrig_request(r, 1, &out, sizeof(out), &in, sizeof(in)) > 0);
	if (d->ops->quiesce)
		d->ops->quiesce(d);
	if (d->ops->resume)
		d->ops->resume(d);
}

static void test_roundtrip(void **state)
{
	rig_roundtrip(make, poke);
	for (unsigned i = 0; i < made_count; i++) {
		back_end_join(made[i]);
		free(made[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_file_system), cmocka_unit_test(test_no_noatime), cmocka_unit_test(test_failed),
		cmocka_unit_test(test_block),	    cmocka_unit_test(test_refused),    cmocka_unit_test(test_roundtrip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

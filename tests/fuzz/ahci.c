/*
 * A hostile driver of the SATA controller: the input is a program of register
 * accesses, command slots and descriptors. Most commands keep to the format,
 * with numbers of the input's choice; the others are raw bytes. The backend is
 * slow or fails as the input says.
 */
#include "fuzz.h"

#include "ahci_rig.h"

#define STEPS 300

/* An address that is often a good one. */
static u64 address(struct input *in)
{
	switch (take(in, 1) & 15) {
	case 0:
		return take(in, 8);
	case 1:
		return 2 * MiB - (take(in, 1) & 1023);
	case 2:
		return ARIG_BAR + take(in, 2);
	case 3: /* what describes the command itself */
		return ARIG_LIST(0) + take(in, 2);
	default:
		return ARIG_DATA + take(in, 2) * 8;
	}
}

/* A slot with a command, and up to 8 descriptors. */
static void slot(struct rig *r, struct input *in, unsigned port, unsigned n)
{
	static const u8 ata[] = { 0x25, 0x35, 0x24, 0x34, 0x60, 0x61, 0xc8, 0xca, 0x06, 0x2f, 0xec, 0xef, 0xea, 0xa1 };
	u8 how = take(in, 1), which = take(in, 1), prds = take(in, 1) & 7, cdb[12];
	struct arig_command c = { .command = how & 0x80 ? which : ata[which % ARRAY_SIZE(ata)],
				  .device = how & 0x40 ? take(in, 1) : 0x40,
				  .features = take(in, 1),
				  .count = how & 0x20 ? take(in, 2) : take(in, 1),
				  .lba = how & 0x10 ? take(in, 6) : take(in, 2) };

	if (port == ARIG_CD && (how & 0x0e)) {
		c.command = 0xa0;
		for (unsigned i = 0; i < sizeof(cdb); i++)
			cdb[i] = take(in, 1);
		c.packet = cdb;
		c.packet_len = sizeof(cdb);
	}
	if ((c.command & 0xfe) == 0x60 && (how & 0x0c))
		c.count = (u16)(n << 3);
	for (unsigned i = 0; i < prds; i++)
		arig_prd(r, port, n, i, address(in), how & 1 ? take(in, 3) : 256u + (take(in, 1) << 8));
	arig_prepare(r, port, n, &c, how == 0xff ? 0xffff : prds);
}

static void issue(struct rig *r, struct input *in, unsigned port, u32 bits)
{
	if (take(in, 1) & 1)
		arig_set(r, port, SACT, bits);
	arig_set(r, port, CI, bits);
}

/* The backend. */
static void backend(struct rig *r, struct input *in, unsigned port, u8 how)
{
	struct block *b = arig(r)->image[port];

	if (!b)
		return;
	b->wait = how & 1;
	b->error = how & 6 ? 0 : 5;
	fake_run(b, take(in, 1) & 15);
	if (how & 8)
		door_deliver(r->board.door, 0);
}

static void record(struct rig *r, struct input *in, bool bad)
{
	struct device *d = arig(r)->dev;
	struct encoder e = rig_save(d), again;

	for (unsigned i = bad ? 1 + (take(in, 1) & 3) : 0; i; i--)
		e.data[e.len - 1 - take(in, 2) % e.len] = take(in, 1);
	if (rig_check(d, e.data, e.len) == 0) {
		rig_load(d, e.data, e.len);
		again = rig_save(d);
		assert(again.len == e.len && !memcmp(again.data, e.data, e.len));
		enc_free(&again);
	} else {
		assert(bad);
	}
	enc_free(&e);
}

static void step(struct rig *r, struct input *in)
{
	u8 op = take(in, 1);
	unsigned port = op >> 4 & 3, n = take(in, 1) & 31;

	switch (op & 15) {
	case 0:
		arig_start(r);
		break;
	case 1:
	case 2:
	case 3:
	case 4:
		slot(r, in, port, n);
		issue(r, in, port, 1u << n);
		break;
	case 5:
		slot(r, in, port, n);
		break;
	case 6:
		issue(r, in, port, (u32)take(in, 4));
		break;
	case 7: /* a stop, and on */
		arig_set(r, port, CMD, CMD_FRE);
		arig_set(r, port, CMD, CMD_FRE | CMD_ST);
		break;
	case 8:
	case 9:
		backend(r, in, port, (u8)take(in, 1));
		break;
	case 10:
		arig_write(r, (take(in, 2) & 0x3ff) * 4, take(in, 4));
		break;
	case 11:
		for (unsigned i = 0; i < 0x480; i += 4)
			arig_read(r, i);
		break;
	case 12:
		pci_config_write(arig(r)->bus, ARIG_DEVFN, take(in, 1), take(in, 4), 1u << (n % 3));
		break;
	case 13: /* raw bytes where a port's structures lie */
		memcpy(arig_ptr(r, ARIG_LIST(port) + take(in, 2) % 0x2000), (u8[]){ take(in, 1), take(in, 1) }, 2);
		break;
	case 14:
		record(r, in, n & 1);
		break;
	default:
		if (op & 0x80)
			arig(r)->dev->ops->reset(arig(r)->dev);
		else
			door_deliver(r->board.door, 0);
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct input in = { data, data + size };
	struct rig *r = arig_create(take(&in, 1) & 3 ? DOOR_REAL : DOOR_VIRTUAL);

	for (unsigned i = 0; i < STEPS && in.p < in.end; i++)
		step(r, &in);
	arig_destroy(r);
	return 0;
}

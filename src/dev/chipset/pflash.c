/*
 * The commands are written to any address of the array, those that take one to
 * the address or block they mean. In array mode reads give the content, in the
 * others status, identity or the CFI table.
 *
 *   FF, 00, F0  read array            50  clear status
 *   70          read status           90  read identifier
 *   98          CFI query             60  lock or unlock a block: accepted, does nothing
 *   10, 40 D    program a byte        20 D0  erase a block
 *   E8 N-1 D... D0  program up to BUFFER bytes of one aligned window
 *
 * Programming turns ones into zeros only. An operation is complete when the
 * write that starts it returns; the ready bit of the status register is then
 * set. A cleared status register reads as zero, as firmware for QEMU's device
 * expects, where hardware would say ready.
 */
#include <stdlib.h>
#include <string.h>

#include "dev/chipset/pflash.h"

#define BUFFER 256u

#define SR_READY 0x80
#define SR_ERASE_ERROR 0x20
#define SR_PROGRAM_ERROR 0x10
#define SR_SEQUENCE_ERROR (SR_ERASE_ERROR | SR_PROGRAM_ERROR)
#define SR_BITS (SR_READY | SR_SEQUENCE_ERROR)

enum mode { MODE_ARRAY, MODE_STATUS, MODE_ID, MODE_CFI, MODE_COUNT };
/* What the next write is. */
enum step { STEP_COMMAND, STEP_PROGRAM, STEP_ERASE, STEP_LOCK, STEP_COUNT, STEP_DATA, STEP_CONFIRM, STEP_END };

struct state {
	u8 mode, step, status;
	u32 window;  /* of the buffer: its address */
	u16 left;    /* bytes still to come, STEP_DATA */
	bool opened; /* the window is set */
	u8 buffer[BUFFER];
};

struct pflash {
	struct device dev;
	struct memory *mem;
	struct pflash_config cfg;
	struct region *region;
	struct state s;
	u8 cfi[0x40];
	u8 *data;
};

static void enter(struct pflash *p, enum mode mode)
{
	p->s.mode = mode;
	p->s.step = STEP_COMMAND;
}

/* ---- the array ---- */

static bool store(struct pflash *p, u64 off, const u8 *bytes, size_t n)
{
	if (p->cfg.store && p->cfg.store(p->cfg.opaque, off, bytes, n))
		return false;
	memcpy(p->data + off, bytes, n);
	return true;
}

static void program(struct pflash *p, u64 off, const u8 *bytes, unsigned n)
{
	u8 after[BUFFER];

	for (unsigned i = 0; i < n; i++)
		after[i] = p->data[off + i] & bytes[i];
	p->s.status |= SR_READY;
	if (memcmp(after, p->data + off, n) && !store(p, off, after, n))
		p->s.status |= SR_PROGRAM_ERROR;
}

static void erase(struct pflash *p, u64 off)
{
	u8 blank[PFLASH_BLOCK];

	memset(blank, 0xff, sizeof(blank));
	p->s.status |= SR_READY;
	if (!store(p, off & ~(u64)(PFLASH_BLOCK - 1), blank, sizeof(blank)))
		p->s.status |= SR_ERASE_ERROR;
}

/* ---- commands ---- */

static void command(struct pflash *p, u8 cmd)
{
	struct state *s = &p->s;

	s->step = STEP_COMMAND;
	switch (cmd) {
	case 0x10:
	case 0x40:
		s->mode = MODE_STATUS;
		s->step = STEP_PROGRAM;
		break;
	case 0x20:
		s->mode = MODE_STATUS;
		s->step = STEP_ERASE;
		break;
	case 0x50:
		s->status = 0;
		s->mode = MODE_ARRAY;
		break;
	case 0x60:
		s->mode = MODE_STATUS;
		s->step = STEP_LOCK;
		break;
	case 0x70:
		s->mode = MODE_STATUS;
		break;
	case 0x90:
		s->mode = MODE_ID;
		break;
	case 0x98:
		s->mode = MODE_CFI;
		break;
	case 0xe8:
		s->mode = MODE_STATUS;
		s->step = STEP_COUNT;
		s->status |= SR_READY; /* a buffer is free */
		break;
	default:
		s->mode = MODE_ARRAY;
		break;
	}
}

static void sequence_error(struct pflash *p)
{
	p->s.status |= SR_READY | SR_SEQUENCE_ERROR;
	enter(p, MODE_STATUS);
}

static void buffer_data(struct pflash *p, u64 off, u8 byte)
{
	struct state *s = &p->s;

	if (!s->opened) {
		s->window = (u32)off & ~(BUFFER - 1);
		s->opened = true;
	}
	if (off - s->window >= BUFFER) {
		sequence_error(p);
		return;
	}
	s->buffer[off - s->window] = byte;
	if (--s->left == 0)
		s->step = STEP_CONFIRM;
}

static void write_byte(struct pflash *p, u64 off, u8 byte)
{
	struct state *s = &p->s;

	switch (s->step) {
	case STEP_COMMAND:
		command(p, byte);
		break;
	case STEP_PROGRAM:
		s->step = STEP_COMMAND;
		program(p, off, &byte, 1);
		break;
	case STEP_ERASE:
		s->step = STEP_COMMAND;
		if (byte == 0xd0)
			erase(p, off);
		else
			sequence_error(p);
		break;
	case STEP_LOCK:
		s->status |= SR_READY;
		enter(p, byte == 0xff ? MODE_ARRAY : MODE_STATUS);
		break;
	case STEP_COUNT:
		s->left = (u16)(byte + 1);
		s->opened = false;
		memset(s->buffer, 0xff, sizeof(s->buffer)); /* programs nothing */
		s->step = STEP_DATA;
		break;
	case STEP_DATA:
		buffer_data(p, off, byte);
		break;
	case STEP_CONFIRM:
		s->step = STEP_COMMAND;
		if (byte == 0xd0)
			program(p, s->window, s->buffer, BUFFER);
		else
			sequence_error(p);
		break;
	}
}

static u8 read_byte(const struct pflash *p, u64 off)
{
	static const u8 id[4] = { 0x89, 0x18, 0, 0 }; /* Intel; a device; block not locked */

	switch (p->s.mode) {
	case MODE_ARRAY:
		return p->data[off];
	case MODE_ID:
		return id[off & 3];
	case MODE_CFI:
		return (off & 0xff) < sizeof(p->cfi) ? p->cfi[off & 0xff] : 0;
	default:
		return p->s.status;
	}
}

static u64 pflash_read(void *opaque, u64 off, unsigned size)
{
	const struct pflash *p = opaque;
	u64 v = 0;

	if (off > p->cfg.size - size)
		return ~0ull;
	if (p->s.mode == MODE_ARRAY) {
		memcpy(&v, p->data + off, size);
		return v;
	}
	for (unsigned i = 0; i < size; i++)
		v |= (u64)read_byte(p, off + i) << 8 * i;
	return v;
}

/* The bus is a byte wide: a wider write is several ones, but as a command only its lowest byte counts. */
static void pflash_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct pflash *p = opaque;

	if (off > p->cfg.size - size)
		return;
	switch (p->s.step) {
	case STEP_PROGRAM:
		for (unsigned i = 0; i < size; i++) {
			p->s.step = STEP_PROGRAM;
			write_byte(p, off + i, val >> 8 * i);
		}
		break;
	case STEP_DATA:
		for (unsigned i = 0; i < size && p->s.step == STEP_DATA; i++)
			write_byte(p, off + i, val >> 8 * i);
		break;
	default:
		write_byte(p, off, (u8)val);
	}
}

static const struct io_ops pflash_io = { pflash_read, pflash_write, 1, 8 };

/* JESD68.01, tables 1 to 4; times and voltages are those of a common part. */
static void fill_cfi(struct pflash *p)
{
	static const u8 query[] = { 'Q', 'R', 'Y', 0x01, 0x00, 0x31, 0x00 };	  /* command set 1, its table at 31h */
	static const u8 timing[] = { 0x45, 0x55, 0, 0, 7, 8, 10, 0, 4, 4, 4, 0 }; /* volts; log2 of typical, maximal */
	static const u8 primary[] = { 'P', 'R', 'I', '1', '0' };
	u64 blocks = p->cfg.size / PFLASH_BLOCK;

	_Static_assert(BUFFER == 1 << 8, "what the table says");
	memcpy(p->cfi + 0x10, query, sizeof(query));
	memcpy(p->cfi + 0x1b, timing, sizeof(timing));
	p->cfi[0x2a] = 8; /* log2(BUFFER) */
	p->cfi[0x2c] = 1; /* erase block regions */
	memcpy(p->cfi + 0x31, primary, sizeof(primary));
	p->cfi[0x27] = (u8)(64 - __builtin_clzll(p->cfg.size - 1));
	p->cfi[0x2d] = (u8)(blocks - 1);
	p->cfi[0x2e] = (u8)((blocks - 1) >> 8);
	p->cfi[0x2f] = (u8)(PFLASH_BLOCK / 256);
	p->cfi[0x30] = (u8)(PFLASH_BLOCK / 256 >> 8);
}

/* ---- the device ---- */

static void pflash_reset(struct device *d)
{
	struct pflash *p = (struct pflash *)d;

	p->s = (struct state){ .mode = MODE_ARRAY, .step = STEP_COMMAND };
	memset(p->s.buffer, 0xff, sizeof(p->s.buffer));
}

static void pflash_save(const struct device *d, struct encoder *e)
{
	const struct pflash *p = (const struct pflash *)d;
	const struct state *s = &p->s;

	enc_begin(e, d->ops->name, 1);
	enc_u8(e, s->mode);
	enc_u8(e, s->step);
	enc_u8(e, s->status);
	enc_u32(e, s->window);
	enc_u16(e, s->left);
	enc_bool(e, s->opened);
	enc_bytes(e, s->buffer, sizeof(s->buffer));
	enc_bytes(e, p->data, p->cfg.size);
	enc_end(e);
}

/* With `data` the content goes there, else it is skipped. */
static bool decode(const struct pflash *p, struct decoder *in, struct state *s, u8 *data)
{
	struct decoder i;

	if (!dec_begin(in, p->dev.ops->name, &i) || i.version != 1)
		return false;
	s->mode = dec_u8(&i);
	s->step = dec_u8(&i);
	s->status = dec_u8(&i);
	s->window = dec_u32(&i);
	s->left = dec_u16(&i);
	s->opened = dec_bool(&i);
	dec_bytes(&i, s->buffer, sizeof(s->buffer));
	if (data)
		dec_bytes(&i, data, p->cfg.size);
	else
		for (u64 n = 0; n < p->cfg.size && !i.failed; n++)
			dec_u8(&i);
	if (!dec_done(&i) || s->mode >= MODE_COUNT || s->step >= STEP_END || (s->status & ~SR_BITS) ||
	    (s->step != STEP_COMMAND && s->mode != MODE_STATUS))
		return false;
	return s->window % BUFFER == 0 && s->window < p->cfg.size && s->left <= BUFFER &&
	       (s->step == STEP_DATA) == (s->left != 0);
}

static int pflash_check(const struct device *d, struct decoder *in)
{
	struct state s;

	return decode((const struct pflash *)d, in, &s, NULL) ? 0 : -1;
}

static void pflash_load(struct device *d, struct decoder *in)
{
	struct pflash *p = (struct pflash *)d;
	struct state s;

	if (!decode(p, in, &s, p->data))
		return;
	p->s = s;
	for (u64 off = 0; p->cfg.store && off < p->cfg.size; off += PFLASH_BLOCK)
		p->cfg.store(p->cfg.opaque, off, p->data + off, PFLASH_BLOCK);
}

static void pflash_destroy(struct device *d)
{
	struct pflash *p = (struct pflash *)d;

	if (p->region)
		region_remove(p->mem, p->region);
	free(p->data);
	free(p);
}

static const struct device_ops pflash_ops = {
	.name = "pflash",
	.reset = pflash_reset,
	.save = pflash_save,
	.check = pflash_check,
	.load = pflash_load,
	.destroy = pflash_destroy,
};

struct device *pflash_create(struct board *b, const struct pflash_config *cfg)
{
	struct pflash *p;

	if (!cfg->size || cfg->size % PFLASH_BLOCK || cfg->size > PFLASH_MAX || cfg->base % PAGE_SIZE)
		return NULL;
	p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	p->dev.ops = &pflash_ops;
	p->mem = b->mem;
	p->cfg = *cfg;
	p->cfg.content = NULL;
	p->data = malloc(cfg->size);
	p->region = memory_map_mmio(b->mem, cfg->base, cfg->size, &pflash_io, p, cfg->prio, "pflash");
	if (!p->data || !p->region) {
		pflash_destroy(&p->dev);
		return NULL;
	}
	memcpy(p->data, cfg->content, cfg->size);
	fill_cfi(p);
	pflash_reset(&p->dev);
	board_attach(b, &p->dev);
	return &p->dev;
}

/*
 * The pieces of the gdb stub, from the inside out:
 *
 *   packet.c   framing: bytes to packets, hexadecimal
 *   regs.c     the register file as gdb sees it, target.xml
 *   memory.c   guest memory by linear and physical address, page-table listings
 *   monitor.c  `monitor` commands
 *   stub.c     the protocol: packets in, replies out; no descriptors, no threads
 *   server.c   sockets and the thread that listens while the guest runs
 *   gdb.c      the tie to struct machine: the only file that knows it
 *
 * All but gdb.c reach the machine through struct gdb_target, so that unit tests
 * and the fuzzer can put a processor and some memory behind it. Everything runs
 * on the vCPU thread while the machine is stopped, server.c's thread excepted.
 */
#ifndef ECTYPE_GDB_STUB_H
#define ECTYPE_GDB_STUB_H

#include "base/error.h"
#include "cpu/vcpu.h"
#include "machine/machine.h"

typedef void (*gdb_line_fn)(void *opaque, const char *line);

struct gdb_target_ops {
	struct vcpu *(*vcpu)(void *t, unsigned n); /* n below cpus */
	/* Linear to physical without side effects; false if not mapped. */
	bool (*translate)(void *t, struct vcpu *v, gva_t lin, gpa_t *gpa);
	/* 0, or -1 if any part is a hole. */
	int (*phys_read)(void *t, gpa_t gpa, void *dst, u64 len);
	int (*phys_write)(void *t, gpa_t gpa, const void *src, u64 len);
	/* Offset of an XSAVE component in cpu.fpu, 0 if the guest cannot have it. */
	unsigned (*fpu_offset)(void *t, unsigned component);
	/* With the processor's own checks; -1 if it would refuse. */
	int (*write_cr)(void *t, struct vcpu *v, unsigned cr, u64 val);
	int (*write_msr)(void *t, struct vcpu *v, u32 msr, u64 val);
	int (*load_segment)(void *t, struct vcpu *v, enum seg_reg seg, u16 sel);
	u64 (*cr8)(void *t, struct vcpu *v);
	void (*points_changed)(void *t, struct vcpu *v); /* v->debug */
	void (*state_changed)(void *t, struct vcpu *v);	 /* registers were written */
	void (*reset)(void *t);
	/* The processor that stopped; the one that is to run next (a step). NULL: there is one. */
	unsigned (*stopped)(void *t);
	void (*choose)(void *t, unsigned n);
	void (*registers)(void *t, unsigned cpu, gdb_line_fn line, void *opaque);
	void (*map)(void *t, gdb_line_fn line, void *opaque);
	void (*stats)(void *t, gdb_line_fn line, void *opaque);
	/* Any thread: */
	void (*interrupt)(void *t); /* make the machine call wait soon */
	bool (*stopping)(void *t);  /* somebody wants the machine to end */
};

struct gdb_target {
	const struct gdb_target_ops *ops;
	void *opaque;
	unsigned cpus;
};

static inline struct vcpu *gdb_vcpu(const struct gdb_target *t, unsigned n)
{
	return t->ops->vcpu(t->opaque, n);
}

/* packet.c */

#define GDB_PACKET_MAX 65536u /* payload bytes, as announced in qSupported */

enum gdb_event { GDB_EV_NONE, GDB_EV_PACKET, GDB_EV_BAD, GDB_EV_ACK, GDB_EV_NAK, GDB_EV_INTERRUPT };

struct gdb_reader {
	u8 data[GDB_PACKET_MAX + 1]; /* payload, unescaped, with a NUL behind it */
	size_t len;
	u8 state, sum, want;
	bool escape, overflow;
};
/* One byte of the stream. GDB_EV_PACKET: data and len hold a packet with a
 * right checksum until the next call. GDB_EV_BAD: checksum or length wrong. */
enum gdb_event gdb_reader_byte(struct gdb_reader *r, u8 byte);

/* Value of a hexadecimal digit, or -1. */
int gdb_hex_digit(u8 c);
/* Parses 1..16 digits at *p (before `end`) and moves *p behind them. */
bool gdb_hex_u64(const u8 **p, const u8 *end, u64 *val);
/* Exactly 2 * n digits to n bytes; false on anything else. */
bool gdb_hex_bytes(const u8 *p, u8 *out, size_t n);

/* A growing byte buffer. Past GDB_OUT_MAX bytes are dropped and `full` set. */
#define GDB_OUT_MAX (4u << 20)
struct gdb_out {
	u8 *data;
	size_t len, cap;
	bool full;
};
void gdb_out_add(struct gdb_out *o, const void *p, size_t n);
void gdb_out_hex(struct gdb_out *o, const void *p, size_t n);
void gdb_out_printf(struct gdb_out *o, const char *fmt, ...) printf_like(2, 3);
void gdb_out_free(struct gdb_out *o);
/* `payload` framed as $...#xx, special characters escaped. */
void gdb_out_packet(struct gdb_out *o, const void *payload, size_t n);

/* regs.c */

#define GDB_REG_MAX_BYTES 64
/* Number of registers this target describes. */
unsigned gdb_reg_count(const struct gdb_target *t);
/* Size in bytes, 0 if there is no register `n`. */
unsigned gdb_reg_size(const struct gdb_target *t, unsigned n);
/* Copies register `n` to `buf` (little-endian) and returns its size, 0 for none. */
unsigned gdb_reg_get(const struct gdb_target *t, struct vcpu *v, unsigned n, u8 buf[GDB_REG_MAX_BYTES]);
/* `buf` holds gdb_reg_size() bytes. -1: read-only, or the processor refuses. */
int gdb_reg_set(const struct gdb_target *t, struct vcpu *v, unsigned n, const u8 *buf);
/* Appends the target description. */
void gdb_target_xml(const struct gdb_target *t, struct gdb_out *o);

/* memory.c */

/* Returns how many bytes could be accessed before the first that could not. */
size_t gdb_mem_read(const struct gdb_target *t, struct vcpu *v, bool physical, u64 addr, u8 *dst, size_t n);
size_t gdb_mem_write(const struct gdb_target *t, struct vcpu *v, bool physical, u64 addr, const u8 *src, size_t n);
/* The page tables of `v`: merged ranges, or one line a mapping. Bounded. */
void gdb_list_mappings(const struct gdb_target *t, struct vcpu *v, bool each, gdb_line_fn line, void *opaque);

/* monitor.c */

enum gdb_monitor_end { GDB_MON_OK, GDB_MON_QUIT };
enum gdb_monitor_end gdb_monitor(const struct gdb_target *t, struct vcpu *v, const char *cmd, gdb_line_fn line,
				 void *opaque);

/* stub.c */

struct gdb_stub;
enum gdb_action {
	GDB_WAIT,     /* more input is needed */
	GDB_CONTINUE, /* run; gdb waits for a stop reply */
	GDB_STEP,
	GDB_DETACH, /* the client is leaving, breakpoints are gone: run */
	GDB_KILL,
};
struct gdb_stub *gdb_stub_create(const struct gdb_target *t);
void gdb_stub_destroy(struct gdb_stub *s);
/* A client came, or went: forget its breakpoints and settings. */
void gdb_stub_reset(struct gdb_stub *s);
/* The machine stopped: the reply gdb gets, now if it waits for one, and on `?`. */
void gdb_stub_stopped(struct gdb_stub *s, enum debug_stop why);
/* Takes bytes from the client up to the one that makes the machine run;
 * *used says how many. Replies gather in gdb_stub_out(), to be sent and emptied
 * (len = 0) by the caller. */
enum gdb_action gdb_stub_input(struct gdb_stub *s, const u8 *bytes, size_t n, size_t *used);
struct gdb_out *gdb_stub_out(struct gdb_stub *s);

/* server.c */

struct gdb_server;
/* Owns listen_fd from here on. `where` is a name for messages, and the path to
 * remove at the end if it is "unix:PATH". */
struct gdb_server *gdb_server_create(const struct gdb_target *t, int listen_fd, const char *where, struct error *e);
void gdb_server_destroy(struct gdb_server *s);
/* The debugger's wait callback (machine.h). */
enum debug_go gdb_server_wait(struct gdb_server *s, enum debug_stop why);

#endif

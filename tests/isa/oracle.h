/*
 * The host as oracle: random user-level instructions run on the real processor
 * and in an engine, and all that a program can see afterwards is compared.
 *
 *   oracle_forms.c    enumerates the instruction forms Zydis knows
 *   oracle_gen.c      makes a random instance of a form: bytes, registers, memory
 *   oracle_data.c     random numbers and interesting operand values
 *   oracle_host.c     runs it on the host
 *   oracle_vendor.c   what cannot be compared with hosts that are not Intel's
 *   oracle_compare.c  runs it in the engine, compares, prints differences
 *   oracle.c          the command line, the loop, the coverage table
 */
#ifndef ECTYPE_TESTS_ISA_ORACLE_H
#define ECTYPE_TESTS_ISA_ORACLE_H

#include "isa/decode.h"
#include "oracle_host.h"
#include "rig.h"

/* CODE_64, or CODE_32 for compatibility mode on both sides. Set before anything else is called. */
extern enum code_mode oracle_mode;
/* Can FS and GS have bases? */
static inline bool oracle_has_bases(void)
{
	return oracle_mode == CODE_64 && host_has_fsgsbase();
}

/* oracle_data.c */
struct rng {
	u64 s;
};
u64 rng_next(struct rng *r);
static inline u64 rng_below(struct rng *r, u64 n)
{
	return (u32)(rng_next(r) >> 32) * n >> 32;
} /* n < 2^32 */
static inline bool rng_percent(struct rng *r, unsigned p)
{
	return rng_below(r, 100) < p;
}
u64 rng_value(struct rng *r); /* an interesting integer */
/* Fill `n` bytes (multiple of 8) with elements of one random type. */
void rng_fill(struct rng *r, u8 *p, unsigned n);
/* A random x87, SSE, AVX, AVX-512 state. `mmx`: as MMX code leaves the x87 part. */
void rng_fpu(struct rng *r, u8 *image, bool mmx);

/*
 * Linear memory, the same on both sides. Code: two pages, execute only, with
 * nothing behind. Data: pages 1 and 2 writable, 4 and 6 read-only, 5
 * writable; the others absent, so that operands can cross from any kind to
 * any other. The data pages appear a second time above 4 GiB.
 */
#define CODE_LIN 0x10000000ull
#define CODE_PAGES 2
#define DATA_LIN 0x20000000ull
#define DATA_PAGES 8
#define DATA_HIGH 0x123400000000ull /* added to DATA_LIN */
#define DATA_SIZE (DATA_PAGES * PAGE_SIZE)
#define CODE_OFF (1 * MiB) /* in the rig's RAM */
#define DATA_OFF (2 * MiB)
enum page_kind { PAGE_NONE, PAGE_RW, PAGE_RO };
extern const u8 data_page_kind[DATA_PAGES];

enum form_kind {
	FORM_USER,	 /* compared, and counted for the coverage */
	FORM_PRIVILEGED, /* faults in user mode: compared, counted apart */
	FORM_EXCLUDED,	 /* cannot be compared, see form_excluded() */
};

struct form {
	u16 mnemonic;
	u8 encoding, map, opcode;
	u8 pp;	    /* 0 none, 1 66, 2 F3, 3 F2; legacy also 4: 66 F2, 5: 66 F3 */
	u8 w, l, b; /* REX.W, VEX.W, EVEX.W; L'L; EVEX.b */
	bool mem, has_modrm, vsib;
	u8 eff_pp;   /* part of the identity: see form_key() */
	u16 size[3]; /* of the first operands, legacy only */
	u64 modrm;   /* bit reg * 8 + rm: the combinations that are this form */
	u8 isa_set;
	u8 kind; /* enum form_kind */
	bool host_runs, core;
	const char *excluded;
	u32 instances, undefined, different;
};

struct form_list {
	struct form *form;
	unsigned count, cap;
	u32 *hash;
};
void forms_enumerate(struct form_list *l);
void forms_free(struct form_list *l);
/* The form of a decoded instruction in the list, or NULL. */
struct form *forms_find(struct form_list *l, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops);

struct patch {
	u64 lin; /* in the low view of the data */
	unsigned len;
	u8 bytes[128];
};

struct instance {
	u64 seed;
	struct form *form;
	u8 bytes[15];
	unsigned len;
	bool repeats;
	ZydisDecodedInstruction z;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	struct dinsn d;
	struct oracle_state in;
	struct patch patch[4];
	unsigned patches;
};
struct oracle {
	struct rig rig;
	struct engine_options engine_options;
	struct form_list forms;
	u8 *host_data, *host_code; /* writable views of the host's pages */
	u8 *master;		   /* what the data pages hold before an instance */
	bool verbose;
	unsigned printed;
};

/* False if no instance could be made. `plain`: no redundant prefixes, code not at a page's end. */
bool make_instance(struct oracle *o, struct instance *n, struct form *f, u64 seed, bool plain);
/* Bytes like those of `f` that the decoder refuses: the host must, too. */
bool make_refused(struct oracle *o, struct instance *n, struct form *f, u64 seed);

struct verdict {
	bool same, undefined_differs;
	struct oracle_outcome host, guest;
};
void oracle_memory(struct oracle *o, const struct engine_ops *engine, u64 seed);
/* Run it on both and compare; if there is no difference memory is as before
 * afterwards. False: it would meet this process's own memory, and was not run on the host. */
bool oracle_run(struct oracle *o, const struct instance *n, struct verdict *v);
/* oracle_vendor.c */
bool vendor_is_intel(void);
/* Why this instance cannot be compared on this host, or NULL. */
const char *vendor_excludes(const struct instance *n);
/* May the part at `at` of the XSAVE image be compared, when the host's is `host`? */
bool vendor_part_comparable(unsigned at, const u8 *host);
/* Both stopped, but not in the same way: may they on this host? */
bool vendor_same_fault(const struct instance *n, const struct verdict *v);

/* Memory as before, after a difference. */
void oracle_restore(struct oracle *o);
/* What differs, on stdout; restores memory. */
void oracle_print(struct oracle *o, const struct instance *n, const struct verdict *v);

#endif

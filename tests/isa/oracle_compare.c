/*
 * Memory of both sides, the engine's side of an instance, and the comparison.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu/xstate.h"
#include "oracle.h"

#define PF_P 1u

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void map_host(void *at, int fd, u64 off, u64 len, int prot)
{
	if (mmap(at, len, prot, MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, fd, (off_t)off) != at)
		fail("oracle: mmap");
}

static void map_data(int fd, u64 high)
{
	for (unsigned p = 0; p < DATA_PAGES; p++) {
		u64 lin = DATA_LIN + high + p * PAGE_SIZE;

		if (data_page_kind[p] != PAGE_NONE)
			map_host((void *)lin, fd, p * PAGE_SIZE, PAGE_SIZE,
				 data_page_kind[p] == PAGE_RW ? PROT_READ | PROT_WRITE : PROT_READ);
	}
}

void oracle_memory(struct oracle *o, const struct engine_ops *engine, u64 seed)
{
	struct rng r = { seed };
	int data = memfd_create("oracle-data", MFD_CLOEXEC), code = memfd_create("oracle-code", MFD_CLOEXEC);

	if (data < 0 || code < 0 || ftruncate(data, DATA_SIZE) || ftruncate(code, CODE_PAGES * PAGE_SIZE))
		fail("oracle: memfd");
	o->host_data = mmap(NULL, DATA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, data, 0);
	o->host_code = mmap(NULL, CODE_PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, code, 0);
	o->master = malloc(DATA_SIZE);
	if (o->host_data == MAP_FAILED || o->host_code == MAP_FAILED || !o->master)
		fail("oracle: memory");
	for (unsigned at = 0; at < DATA_SIZE; at += 64)
		rng_fill(&r, o->master + at, 64);
	memcpy(o->host_data, o->master, DATA_SIZE);
	memset(o->host_code, 0xcc, CODE_PAGES * PAGE_SIZE);
	map_data(data, 0);
	map_data(data, DATA_HIGH);
	map_host((void *)CODE_LIN, code, 0, CODE_PAGES * PAGE_SIZE, PROT_READ | PROT_EXEC);

	rig_create_with(&o->rig, engine, &o->engine_options);
	if (oracle_mode == CODE_32)
		rig_compatibility_mode(&o->rig);
	memcpy(rig_ram(&o->rig, DATA_OFF), o->master, DATA_SIZE);
	memset(rig_ram(&o->rig, CODE_OFF), 0xcc, CODE_PAGES * PAGE_SIZE);
	for (unsigned p = 0; p < CODE_PAGES; p++)
		rig_map(&o->rig, CODE_LIN + p * PAGE_SIZE, CODE_OFF + p * PAGE_SIZE, false);
	for (unsigned p = 0; p < DATA_PAGES; p++) {
		if (data_page_kind[p] == PAGE_NONE)
			continue;
		rig_map(&o->rig, DATA_LIN + p * PAGE_SIZE, DATA_OFF + p * PAGE_SIZE, data_page_kind[p] == PAGE_RW);
		rig_map(&o->rig, DATA_LIN + DATA_HIGH + p * PAGE_SIZE, DATA_OFF + p * PAGE_SIZE,
			data_page_kind[p] == PAGE_RW);
	}
}

/* Instruction bytes to both sides; `n` NULL: breakpoints again. */
static void place_code(struct oracle *o, const struct instance *n, bool clear)
{
	u64 off = n->in.rip - CODE_LIN;
	unsigned len = (unsigned)MIN(n->len, CODE_PAGES * PAGE_SIZE - off);
	u8 bytes[15];

	memcpy(bytes, n->bytes, 15);
	if (clear)
		memset(bytes, 0xcc, 15);
	memcpy(o->host_code + off, bytes, len);
	memory_write(o->rig.mem, CODE_OFF + off, bytes, len);
}

static void place_data(struct oracle *o, const struct instance *n)
{
	for (unsigned k = 0; k < n->patches; k++) {
		u64 off = n->patch[k].lin - DATA_LIN;

		memcpy(o->host_data + off, n->patch[k].bytes, n->patch[k].len);
		memcpy(rig_ram(&o->rig, DATA_OFF) + off, n->patch[k].bytes, n->patch[k].len);
	}
}

void oracle_restore(struct oracle *o)
{
	memcpy(o->host_data, o->master, DATA_SIZE);
	memcpy(rig_ram(&o->rig, DATA_OFF), o->master, DATA_SIZE);
}

static void run_guest(struct oracle *o, const struct instance *n, struct oracle_outcome *out)
{
	struct vcpu *v = o->rig.v;
	struct cpu *c = &v->cpu;

	memcpy(c->gpr, n->in.gpr, sizeof(c->gpr));
	c->rip = n->in.rip;
	c->rflags = n->in.rflags;
	c->seg[SEG_FS].base = n->in.fs_base;
	c->seg[SEG_GS].base = n->in.gs_base;
	memcpy(c->fpu, n->in.fpu, ORACLE_FPU_SIZE);
	out->vector = rig_run(&o->rig, 1);
	out->error = out->vector >= 0 && v->fault.has_error ? v->fault.error : 0;
	out->addr = v->fault.addr;
	memcpy(out->s.gpr, c->gpr, sizeof(c->gpr));
	out->s.rip = c->rip;
	out->s.rflags = c->rflags;
	out->s.fs_base = c->seg[SEG_FS].base;
	out->s.gs_base = c->seg[SEG_GS].base;
	memcpy(out->s.fpu, c->fpu, ORACLE_FPU_SIZE);
	/* It retired, and fetching what comes next failed: not this instruction's business. */
	if (out->vector == EXC_PF && (out->error & 16) && c->rip != n->in.rip)
		out->vector = -1;
}

/* Parts of the image, one a line of the report. */
struct part {
	const char *name;
	u16 at, len, stride, count;
};

static unsigned parts(struct part *p)
{
	const struct part all[] = {
		{ "FCW", FX_FCW, 2, 0, 1 },
		{ "FSW", FX_FSW, 2, 0, 1 },
		{ "FTW", FX_FTW, 1, 0, 1 },
		{ "FOP", FX_FOP, 2, 0, 1 },
		{ "FIP", FX_FIP, 8, 0, 1 },
		{ "FDP", FX_FDP, 8, 0, 1 },
		{ "MXCSR", FX_MXCSR, 4, 0, 1 },
		{ "ST", FX_ST, 10, 16, 8 },
		{ "XMM", FX_XMM, 16, 16, 16 },
		{ "YMMH", (u16)fpu_component_offset(2), 16, 16, 16 },
		{ "K", (u16)fpu_component_offset(5), 8, 8, 8 },
		{ "ZMMH", (u16)fpu_component_offset(6), 32, 32, 16 },
		{ "ZMM16+", (u16)fpu_component_offset(7), 64, 64, 16 },
	};
	unsigned n = fpu_host_components() & XCR0_AVX512 ? 13 : fpu_host_components() & XCR0_AVX ? 10 : 9;

	memcpy(p, all, n * sizeof(*p));
	return n;
}

static bool fpu_equal(const u8 *host, const u8 *guest)
{
	struct part p[13];
	unsigned n = parts(p);

	for (unsigned k = 0; k < n; k++)
		for (unsigned i = 0; i < p[k].count; i++)
			if (vendor_part_comparable(p[k].at, host) &&
			    memcmp(host + p[k].at + i * p[k].stride, guest + p[k].at + i * p[k].stride, p[k].len))
				return false;
	return true;
}

static u32 fault_error(const struct oracle_outcome *o)
{
	/* What the host's kernel maps for itself is not mapped in the rig. */
	return o->vector == EXC_PF && o->addr >= 0x7ffffffff000ull ? o->error & ~PF_P : o->error;
}

static bool faults_equal(const struct oracle_outcome *h, const struct oracle_outcome *g)
{
	if (h->vector != g->vector)
		return false;
	if (h->vector < 0)
		return true;
	return fault_error(h) == fault_error(g) && (h->vector != EXC_PF || h->addr == g->addr);
}

static u64 undefined_flags(const struct instance *n)
{
	return n->z.cpu_flags ? n->z.cpu_flags->undefined & FL_STATUS : 0;
}

/* A random address can be one where this process has something (libraries, the stack) and the rig nothing. */
static bool hits_own_memory(const struct oracle_outcome *guest)
{
	u64 page = guest->addr & ~(PAGE_SIZE - 1);
	unsigned char in;

	if (guest->vector != EXC_PF || page - DATA_LIN < DATA_SIZE || page - DATA_LIN - DATA_HIGH < DATA_SIZE ||
	    page - CODE_LIN < CODE_PAGES * PAGE_SIZE)
		return false;
	return !mincore((void *)page, PAGE_SIZE, &in);
}

bool oracle_run(struct oracle *o, const struct instance *n, struct verdict *v)
{
	u64 undefined = undefined_flags(n);
	const struct oracle_state *h = &v->host.s, *g = &v->guest.s;

	place_code(o, n, false);
	place_data(o, n);
	run_guest(o, n, &v->guest);
	if (hits_own_memory(&v->guest)) {
		place_code(o, n, true);
		oracle_restore(o);
		return false;
	}
	host_step(&n->in, n->repeats, &v->host);
	if (!host_has_fsgsbase()) {
		v->host.s.fs_base = n->in.fs_base;
		v->host.s.gs_base = n->in.gs_base;
	}
	v->same = faults_equal(&v->host, &v->guest) && !memcmp(h->gpr, g->gpr, sizeof(h->gpr)) && h->rip == g->rip &&
		  !((h->rflags ^ g->rflags) & ~undefined) && h->fs_base == g->fs_base && h->gs_base == g->gs_base &&
		  fpu_equal(h->fpu, g->fpu) &&
		  !memcmp(o->host_data + PAGE_SIZE, rig_ram(&o->rig, DATA_OFF) + PAGE_SIZE, DATA_SIZE - 2 * PAGE_SIZE);
	if (!v->same && vendor_same_fault(n, v))
		v->same = true;
	v->undefined_differs = (h->rflags ^ g->rflags) & undefined;
	place_code(o, n, true);
	if (v->same)
		oracle_restore(o);
	return true;
}

static void print_fault(const char *who, const struct oracle_outcome *x)
{
	if (x->vector < 0)
		printf("    %s: retired\n", who);
	else
		printf("    %s: vector %d error %x address %llx\n", who, x->vector, x->error,
		       x->vector == EXC_PF ? (unsigned long long)x->addr : 0);
}

static void print_hex(const u8 *p, unsigned len)
{
	while (len--)
		printf("%02x", p[len]);
}

static void print_fpu(const u8 *in, const u8 *a, const u8 *b)
{
	struct part p[13];
	unsigned n = parts(p);

	for (unsigned k = 0; k < n; k++)
		for (unsigned i = 0; i < p[k].count; i++) {
			unsigned at = p[k].at + i * p[k].stride;

			if (!vendor_part_comparable(p[k].at, a) || !memcmp(a + at, b + at, p[k].len))
				continue;
			printf("    %s%u: before ", p[k].name, p[k].name[0] == 'Z' && p[k].name[3] == '1' ? i + 16 : i);
			print_hex(in + at, p[k].len);
			printf("\n        host   ");
			print_hex(a + at, p[k].len);
			printf("\n        engine ");
			print_hex(b + at, p[k].len);
			printf("\n");
		}
}

static void print_word(const char *name, u64 before, u64 h, u64 g)
{
	if (h != g)
		printf("    %s: before %llx host %llx engine %llx\n", name, (unsigned long long)before,
		       (unsigned long long)h, (unsigned long long)g);
}

/* A vector operand, or a vector of indices, before the instruction. */
static void print_register(const struct instance *n, const ZydisDecodedOperand *op)
{
	ZydisRegister r = op->type == ZYDIS_OPERAND_TYPE_REGISTER ? op->reg.value
			  : op->type == ZYDIS_OPERAND_TYPE_MEMORY ? op->mem.index
								  : ZYDIS_REGISTER_NONE;
	ZydisRegisterClass c = ZydisRegisterGetClass(r);
	unsigned id = (unsigned)ZydisRegisterGetId(r);

	if (c != ZYDIS_REGCLASS_XMM && c != ZYDIS_REGCLASS_YMM && c != ZYDIS_REGCLASS_ZMM)
		return;
	printf("    %s: ", ZydisRegisterGetString(r));
	if (id < 16) {
		print_hex(n->in.fpu + fpu_component_offset(6) + 32 * id, 32);
		print_hex(n->in.fpu + fpu_component_offset(2) + 16 * id, 16);
		print_hex(n->in.fpu + FX_XMM + 16 * id, 16);
	} else {
		print_hex(n->in.fpu + fpu_component_offset(7) + 64 * (id - 16), 64);
	}
	printf("\n");
}

static void print_operand(const struct instance *n)
{
	u64 base = n->d.base < 16 ? n->in.gpr[n->d.base] : n->d.base == REG_RIP ? n->in.rip + n->len : 0;
	u64 index = n->d.index < 16 ? n->in.gpr[n->d.index] : 0, k = 0;
	u64 seg = n->d.seg == SEG_FS ? n->in.fs_base : n->d.seg == SEG_GS ? n->in.gs_base : 0;

	printf("    base %llx index %llx disp %llx segment %llx: %llx, %u bits", (unsigned long long)base,
	       (unsigned long long)index, (unsigned long long)n->d.disp, (unsigned long long)seg,
	       (unsigned long long)(base + index * n->d.scale + (u64)n->d.disp + seg), n->d.addrsize * 8u);
	if (n->z.avx.mask.reg) {
		memcpy(&k, n->in.fpu + fpu_component_offset(5) + 8 * ZydisRegisterGetId(n->z.avx.mask.reg), 8);
		printf(", mask %llx", (unsigned long long)k);
	}
	printf("\n");
}

static void print_memory(struct oracle *o)
{
	const u8 *g = rig_ram(&o->rig, DATA_OFF);
	unsigned shown = 0;

	for (unsigned at = PAGE_SIZE; at < DATA_SIZE - PAGE_SIZE; at++)
		if (o->host_data[at] != g[at] && shown++ < 24)
			printf("    memory %llx: host %02x engine %02x\n", (unsigned long long)DATA_LIN + at,
			       o->host_data[at], g[at]);
}

void oracle_print(struct oracle *o, const struct instance *n, const struct verdict *v)
{
	static const char *const names[16] = { "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
					       "R8",  "R9",  "R10", "R11", "R12", "R13", "R14", "R15" };
	const struct oracle_state *h = &v->host.s, *g = &v->guest.s;
	char text[128];
	u32 mxcsr;
	u16 fcw, fsw;

	dinsn_format(n->bytes, n->len, oracle_mode, n->in.rip, text, sizeof(text));
	memcpy(&mxcsr, n->in.fpu + FX_MXCSR, 4);
	memcpy(&fcw, n->in.fpu, 2);
	memcpy(&fsw, n->in.fpu + 2, 2);
	printf("difference:");
	for (unsigned k = 0; k < n->len; k++)
		printf(" %02x", n->bytes[k]);
	printf("  %s\n    at %llx, %s; repeat with --instance %llx --form %ld\n", text, (unsigned long long)n->in.rip,
	       ZydisISASetGetString(n->z.meta.isa_set), (unsigned long long)n->seed, (long)(n->form - o->forms.form));
	printf("    MXCSR %x FCW %x FSW %x FTW %x\n", mxcsr, fcw, fsw, n->in.fpu[FX_FTW]);
	if (!faults_equal(&v->host, &v->guest) || o->verbose) {
		print_fault("host  ", &v->host);
		print_fault("engine", &v->guest);
	}
	if (n->d.is_mem)
		print_operand(n);
	else if (n->z.meta.category == ZYDIS_CATEGORY_STRINGOP || n->z.meta.category == ZYDIS_CATEGORY_DATAXFER)
		printf("    RSI %llx RDI %llx RCX %llx\n", (unsigned long long)n->in.gpr[REG_RSI],
		       (unsigned long long)n->in.gpr[REG_RDI], (unsigned long long)n->in.gpr[REG_RCX]);
	for (unsigned k = 0; k < n->z.operand_count; k++)
		print_register(n, &n->ops[k]);
	for (unsigned k = 0; k < 16; k++)
		print_word(names[k], n->in.gpr[k], h->gpr[k], g->gpr[k]);
	print_word("RIP", n->in.rip, h->rip, g->rip);
	print_word("RFLAGS", n->in.rflags, h->rflags, g->rflags);
	print_word("FS base", n->in.fs_base, h->fs_base, g->fs_base);
	print_word("GS base", n->in.gs_base, h->gs_base, g->gs_base);
	print_fpu(n->in.fpu, h->fpu, g->fpu);
	print_memory(o);
	fflush(stdout);
	oracle_restore(o);
}

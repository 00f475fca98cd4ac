/*
 * Paging (SDM vol. 3, chapter 4). The heart is a model of the access rules,
 * written from section 4.6, against which every combination of entry bits,
 * CR0.WP, SMEP, SMAP and EFLAGS.AC is tried for reads, writes and fetches of
 * both privileges: outcome, error code, CR2, accessed and dirty bits. Then the
 * cases a table does not reach: large pages, reserved bits, INVLPG, page
 * crossings, protection keys, PCIDs. 32-bit payload: two-level and PAE paging;
 * 64-bit: four-level.
 *
 * TCG 7.2 differs from the manual in: P missing from the error code of a
 * reserved-bit fault.
 */
#include "rt.h"

#define P 1ul
#define RW 2ul
#define US 4ul
#define A 0x20ul
#define D 0x40ul
#define PS 0x80ul
#define G 0x100ul
#define NX (1ull << 63)

/* The kernel runs in pages of its own below 16 MiB; ring 3 sees the same
 * memory at ALIAS. The page under test is at VA, the one behind it at VA2. */
#define ALIAS 0x60000000ul
#define VA 0x40000000ul
#define VA2 (VA + 0x1000)

static u64 tables[16][512] __attribute__((aligned(4096)));
static u8 page[4][4096] __attribute__((aligned(4096)));
static unsigned used;
static int pae; /* 8-byte entries */
static u64 *pde_of_va, *pte_of_va;
static ulong root;
static const char *mode;

static u64 get(const void *e)
{
	return pae ? *(volatile u64 *)e : *(volatile u32 *)e;
}
static void put(void *e, u64 v)
{
	if (pae)
		*(volatile u64 *)e = v;
	else
		*(volatile u32 *)e = v;
}
static void *entry(void *table, unsigned i)
{
	return (u8 *)table + i * (pae ? 8 : 4);
}
static void *new_table(void)
{
	memset(tables[used], 0, 4096);
	return tables[used++];
}
static void invlpg(ulong va)
{
	asm volatile("invlpg (%0)" ::"r"(va) : "memory");
}
static void flush(void)
{
	set_cr3(cr3());
}

/* The page directory that covers VA and, in PAE and above, 1 GiB each. */
static void build(void)
{
	used = 0;
	if (!pae) {
		u32 *dir = new_table();
		for (u32 i = 0; i < 4; i++) {
			dir[i] = i << 22 | P | RW | PS;
			dir[(ALIAS >> 22) + i] = i << 22 | P | RW | US | PS;
		}
		dir[0xfee00000u >> 22] = 0xfec00000 | P | RW | PS;
		root = (ulong)dir;
		pde_of_va = (u64 *)&dir[VA >> 22];
	} else {
		u64 *top = new_table(), *pdpt = top;
#ifdef __x86_64__
		pdpt = new_table();
		top[0] = (ulong)pdpt | P | RW | US;
#endif
		for (int g = 0; g < 4; g++) {
			u64 *dir = new_table();
#ifdef __x86_64__
			pdpt[g] = (ulong)dir | P | RW | US;
#else
			pdpt[g] = (ulong)dir | P;
#endif
			if (g == 0) {
				for (u32 i = 0; i < 8; i++)
					dir[i] = (u64)i << 21 | P | RW | PS;
			}
			if (g == ALIAS >> 30) {
				for (u32 i = 0; i < 8; i++)
					dir[(ALIAS >> 21 & 511) + i] = (u64)i << 21 | P | RW | US | PS;
			}
			if (g == 3)
				dir[0xfee00000u >> 21 & 511] = 0xfee00000 | P | RW | PS;
			if (g == VA >> 30)
				pde_of_va = &dir[VA >> 21 & 511];
		}
		root = (ulong)top;
	}
	pte_of_va = new_table();
	put(pde_of_va, (ulong)pte_of_va | P | RW | US);
	put(entry(pte_of_va, 0), (ulong)page[0] | P | RW | US);
	put(entry(pte_of_va, 1), (ulong)page[1] | P | RW | US);
	set_cr3(root);
}

enum access { READ, WRITE, FETCH };
static const char *const access_name[] = { "read", "write", "fetch" };
extern u8 u_read[], u_write[], u_fetch[], u_load_ds[];
asm("u_read: movb (%" R "cx),%al; int $0x30\n"
    "u_write: movb $0xc3,%al; movb %al,(%" R "cx); int $0x30\n"
    "u_fetch: call *%" R "cx; int $0x30\n"
    "u_load_ds: mov $0x23,%eax; mov %eax,%ds; int $0x30\n");
static const u8 *const user_code[] = { u_read, u_write, u_fetch };

static int touch(enum access a, int in_user, ulong va)
{
	int v;

	if (in_user) {
		v = TRY(user_at((ulong)user_code[a] + ALIAS, USER_SP + ALIAS, 2, va));
		return v == DONE ? NONE : v;
	}
	switch (a) {
	case READ:
		return TRY(asm volatile("movb (%0),%%al" ::"r"(va) : "eax", "memory"));
	case WRITE:
		return TRY(asm volatile("movb %%al,(%0)" ::"r"(va), "a"(0xc3) : "memory"));
	default:
		return TRY(asm volatile("call *%0" ::"r"(va) : "memory"));
	}
}

/* Section 4.6: the error code of the fault, or -1 if the access is allowed. */
struct rules {
	int wp, smep, smap, ac, nxe;
};
static int expected(enum access a, int in_user, u64 pde, u64 pte, const struct rules *r)
{
	int err = (a == WRITE ? 2 : 0) | (in_user ? 4 : 0) | (a == FETCH && (r->nxe || r->smep) ? 16 : 0);
	int us = (pde & pte & US) != 0, rw = (pde & pte & RW) != 0;
	int nx = r->nxe && ((pde | pte) & NX);

	if (!(pte & P))
		return err;
	if (in_user) {
		if (!us || (a == WRITE && !rw) || (a == FETCH && nx))
			return err | 1;
		return -1;
	}
	if (a == FETCH)
		return nx || (us && r->smep) ? err | 1 : -1;
	if (us && r->smap && !r->ac)
		return err | 1;
	if (a == WRITE && !rw && r->wp)
		return err | 1;
	return -1;
}

static void table(const struct rules *r)
{
	unsigned tried = 0, bad = 0;

	page[0][0] = 0xc3;
	for (unsigned bits = 0; bits < 128; bits++) {
		u64 pte = (bits & 7), pde = P | (bits >> 3 & 3) << 1;

		if (bits & 32)
			pte |= NX;
		if (bits & 64)
			pde |= NX;
		if ((bits & 96) && !r->nxe)
			continue;
		for (int in_user = 0; in_user < 2; in_user++) {
			for (enum access a = READ; a <= FETCH; a++) {
				void *e = entry(pte_of_va, 0);
				int want = expected(a, in_user, pde, pte, r);

				put(pde_of_va, (ulong)pte_of_va | pde);
				put(e, (ulong)page[0] | pte);
				invlpg(VA);
				set_flags(2 | (r->ac && !in_user ? FL_AC : 0));
				/* TRY() unwinds with flags of its own, so AC holds for the access alone */
				int v = touch(a, in_user, VA);
				set_flags(2);
				int got = v == NONE ? -1 : v == PF ? (int)last.f.err : 1000 + v;
				u64 aged = get(e) & (A | D), dir_aged = get(pde_of_va) & A;
				u64 want_aged = want == -1 ? A | (a == WRITE ? D : 0) : 0;
				int wrong = got != want || (v == PF && last.cr2 != VA) || aged != want_aged ||
					    (want == -1 && !dir_aged) || (want != -1 && !(pte & P) && aged);

				tried++;
				if (wrong && ++bad <= 6)
					say("  %s %s: pde %lx pte %lx: got %d, expected %d, cr2 %lx, aged %lx (want %lx)\n",
					    in_user ? "user" : "kernel", access_name[a], pde, pte, got, want,
					    (u64)last.cr2, aged, want_aged);
			}
		}
	}
	check(nm("%s: access rules, wp %d smep %d smap %d ac %d nxe %d (%d accesses)", mode, r->wp, r->smep, r->smap,
		 r->ac, r->nxe, (int)tried),
	      bad, 0);
	put(pde_of_va, (ulong)pte_of_va | P | RW | US);
	put(entry(pte_of_va, 0), (ulong)page[0] | P | RW | US);
	flush();
}

static void tables_of_rules(void)
{
	int has_smep = cpuid_reg(7, 0, 1) >> 7 & 1, has_smap = cpuid_reg(7, 0, 1) >> 20 & 1;
	ulong old0 = cr0(), old4 = cr4();

	for (unsigned i = 0; i < 32; i++) {
		struct rules r = { i & 1, i >> 1 & 1, i >> 2 & 1, i >> 3 & 1, i >> 4 & 1 };

		if ((r.smep && !has_smep) || (r.smap && !has_smap) || (r.ac && !r.smap) || (r.nxe && !pae))
			continue;
		set_cr0(r.wp ? old0 | 0x10000 : old0 & ~0x10000ul);
		set_cr4((old4 & ~0x300000ul) | (ulong)r.smep << 20 | (ulong)r.smap << 21);
		wrmsr(0xc0000080, (rdmsr(0xc0000080) & ~0x800ull) | (u64)r.nxe << 11);
		table(&r);
	}
	set_cr4(old4);
	set_cr0(old0);
	if (pae)
		wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
}

static void map(unsigned n, const void *p, u64 bits)
{
	put(entry(pte_of_va, n), (ulong)p | bits);
	invlpg(VA + 4096 * n);
}

static int pf(const char *what, int v, ulong err, ulong address)
{
	check(nm("%s: %s: #PF", mode, what), v, PF);
	check(nm("%s: %s: error code", mode, what), last.f.err, err);
	check(nm("%s: %s: cr2", mode, what), last.cr2, address);
	return v == PF;
}

static void crossing(void)
{
	int v;

	memset(page[0], 0x11, 4096);
	memset(page[1], 0x22, 4096);
	map(0, page[0], P | RW | US);
	map(1, page[1], P | RW | US);
	u32 a;
	asm volatile("movl (%1),%0" : "=r"(a) : "r"(VA2 - 2));
	check(nm("%s: read across pages", mode), a, 0x22221111);
	/* neighbours in linear, not in physical memory */
	map(1, page[3], P | RW | US);
	memset(page[3], 0x44, 4096);
	asm volatile("movl (%1),%0" : "=r"(a) : "r"(VA2 - 1));
	check(nm("%s: read across pages that are apart", mode), a, 0x44444411);
	asm volatile("movl %0,(%1)" ::"r"(0xaabbccdd), "r"(VA2 - 3) : "memory");
	check(nm("%s: write across pages", mode), page[0][4095] << 8 | page[3][0], 0xbbaa);
	map(1, page[1], 0);
	v = TRY(asm volatile("movl (%0),%%eax" ::"r"(VA2 - 2) : "eax"));
	pf("read into a missing page", v, 0, VA2);
	page[0][4094] = page[0][4095] = 0x77;
	v = TRY(asm volatile("movl %%eax,(%0)" ::"r"(VA2 - 2), "a"(0) : "memory"));
	pf("write into a missing page", v, 2, VA2);
	check(nm("%s: nothing was written before the fault", mode), page[0][4094] << 8 | page[0][4095], 0x7777);
	map(1, page[1], P);
	set_cr0(cr0() | 0x10000);
	v = TRY(asm volatile("addl $1,(%0)" ::"r"(VA2 - 2) : "memory", "cc"));
	pf("read-modify-write into a read-only page", v, 3, VA2);
	check(nm("%s: nothing was written", mode), page[0][4094] << 8 | page[0][4095], 0x7777);
	map(0, page[0], P);
	v = TRY(asm volatile("cmpxchgl %%ecx,(%0)" ::"r"(VA), "a"(0x12345678) : "memory", "cc"));
	pf("cmpxchg that fails still writes", v, 3, VA);
	map(0, page[0], P | RW | US);
	/* pusha-like: a string that dies half way keeps what it did */
	map(1, page[1], 0);
	v = TRY(asm volatile("rep stosb" ::"D"(VA2 - 4), "c"(10ul), "a"(0x5a) : "memory"));
	pf("rep stosb into a missing page", v, 2, VA2);
	check(nm("%s: rep stosb: count left", mode), last.f.cx, 6);
	check(nm("%s: rep stosb: address", mode), last.f.di, VA2);
	check(nm("%s: rep stosb: bytes done", mode), page[0][4092], 0x5a);
	v = TRY(asm volatile("rep movsl" ::"S"(page[2]), "D"(VA2 - 6), "c"(4ul) : "memory"));
	pf("rep movsl into a missing page", v, 2, VA2);
	check(nm("%s: rep movsl: count left", mode), last.f.cx, 3);

	/* mov $imm,%eax; ret: its immediate lies in the next page */
	u8 *p = &page[0][4094];
	p[0] = 0xb8;
	p[1] = 1;
	v = TRY(asm volatile("call *%0" ::"r"(VA2 - 2) : "eax", "memory"));
	int smep = cr4() >> 20 & 1, nxe = pae && (rdmsr(0xc0000080) >> 11 & 1);
	pf("fetch across into a missing page", v, smep || nxe ? 16 : 0, VA2);
	check(nm("%s: fetch across: the instruction's address", mode), last.f.ip, VA2 - 2);
	map(1, page[1], P | RW | US);
	static const u8 rest[] = { 2, 3, 4, 0xc3 };
	memcpy(page[1], rest, 4);
	asm volatile("call *%1" : "=a"(a) : "r"(VA2 - 2) : "memory");
	check(nm("%s: fetch across pages", mode), a, 0x04030201);
	map(1, page[3], P | RW | US);
	static const u8 rest3[] = { 6, 7, 8, 0xc3 };
	memcpy(page[3], rest3, 4);
	asm volatile("call *%1" : "=a"(a) : "r"(VA2 - 2) : "memory");
	check(nm("%s: fetch across, second page remapped", mode), a, 0x08070601);
	if (nxe) {
		map(1, page[3], P | RW | US | NX);
		v = TRY(asm volatile("call *%0" ::"r"(VA2 - 2) : "eax", "memory"));
		pf("fetch across into an NX page", v, 0x11, VA2);
		map(1, page[1], P | RW | US);
	}
	/* one byte before the page: the instruction ends there, the next page is not touched */
	map(1, page[1], 0);
	page[0][4095] = 0xc3;
	RUNS(nm("%s: an instruction that ends with its page", mode), asm volatile("call *%0" ::"r"(VA2 - 1)
										  : "memory"));
	/* a 16-byte instruction is too long wherever it lies, but #PF comes first if its bytes are missing */
	memset(&page[0][4082], 0x66, 14);
	v = TRY(asm volatile("call *%0" ::"r"(VA2 - 14) : "memory"));
	pf("prefixes up to a missing page", v, smep || nxe ? 16 : 0, VA2);
	map(1, page[1], P | RW | US);
}

static void remapping(void)
{
	*(u32 *)page[0] = 0x1111;
	*(u32 *)page[1] = 0x2222;
	volatile u32 *va = (u32 *)VA;

	map(0, page[0], P | RW);
	check(nm("%s: before invlpg", mode), *va, 0x1111);
	map(0, page[1], P | RW);
	check(nm("%s: after invlpg", mode), *va, 0x2222);
	put(entry(pte_of_va, 0), (ulong)page[0] | P | RW);
	flush();
	check(nm("%s: after a CR3 load", mode), *va, 0x1111);
	/* not present becomes present: no invalidation is due */
	map(0, page[0], 0);
	FAULTS(nm("%s: not present", mode), PF, 0, (void)*va);
	put(entry(pte_of_va, 0), (ulong)page[1] | P | RW);
	check(nm("%s: present at once", mode), *va, 0x2222);
	/* a global page goes with INVLPG and with a change of CR4.PGE */
	set_cr4(cr4() | 0x80);
	map(0, page[0], P | RW | G);
	check(nm("%s: global page", mode), *va, 0x1111);
	map(0, page[1], P | RW | G);
	check(nm("%s: global page after invlpg", mode), *va, 0x2222);
	put(entry(pte_of_va, 0), (ulong)page[0] | P | RW | G);
	set_cr4(cr4() & ~0x80ul);
	check(nm("%s: global page after CR4.PGE changed", mode), *va, 0x1111);
	/* dirty is set by the first write though the translation was cached by a read */
	map(0, page[0], P | RW);
	(void)*va;
	check(nm("%s: read leaves D clear", mode), get(entry(pte_of_va, 0)) & (A | D), A);
	*va = 1;
	check(nm("%s: write sets D", mode), get(entry(pte_of_va, 0)) & (A | D), A | D);
	/* code reached through two addresses, rewritten through the other one */
	map(0, page[0], P | RW);
	page[0][0] = 0xb8;
	*(u32 *)&page[0][1] = 7;
	page[0][5] = 0xc3;
	u32 a;
	asm volatile("call *%1" : "=a"(a) : "r"(VA) : "memory");
	*(volatile u32 *)&page[0][1] = 8;
	asm volatile("call *%1" : "=a"(a) : "r"(VA) : "memory");
	check(nm("%s: code rewritten through an alias", mode), a, 8);
	memcpy(page[1], page[0], 16);
	page[1][1] = 9;
	map(0, page[1], P | RW);
	asm volatile("call *%1" : "=a"(a) : "r"(VA) : "memory");
	check(nm("%s: code page remapped", mode), a, 9);
}

static void large(void)
{
	ulong size = pae ? 0x200000 : 0x400000;
	u64 saved = get(pde_of_va);
	int v;

	put(pde_of_va, P | RW | PS);
	flush();
	*(volatile u32 *)page[2] = 0xfeed;
	check(nm("%s: large page", mode), *(volatile u32 *)(VA + ((ulong)page[2] & (size - 1))), 0xfeed);
	check(nm("%s: large page: A", mode), get(pde_of_va) & (A | D), A);
	*(volatile u32 *)(VA + ((ulong)page[2] & (size - 1))) = 0xbeef;
	check(nm("%s: large page: D", mode), get(pde_of_va) & (A | D), A | D);
	put(pde_of_va, P | PS);
	flush();
	set_cr0(cr0() | 0x10000);
	v = touch(WRITE, 0, VA + 0x1234);
	pf("large page, read-only", v, 3, VA + 0x1234);
	v = touch(READ, 1, VA + 0x1234);
	pf("large page, supervisor", v, 5, VA + 0x1234);
	/* reserved bits: 13 to 20 or 21 of the entry */
	put(pde_of_va, P | RW | US | PS | 0x100000 | (pae ? 0 : 0x200000));
	flush();
	if (pae) {
		v = touch(READ, 0, VA);
		pf("large page, reserved bit", v, 9, VA);
		v = touch(WRITE, 1, VA);
		pf("large page, reserved bit, user write", v, 15, VA);
	}
	/* PAT lies in bit 12, no address bit */
	put(pde_of_va, P | RW | PS | 0x1000);
	flush();
	check(nm("%s: large page: PAT is no address bit", mode), *(volatile u32 *)(VA + ((ulong)page[2] & (size - 1))),
	      0xbeef);
	put(pde_of_va, saved);
	flush();
}

static void reserved(void)
{
	int v;

	if (!pae)
		return;
	unsigned phys = cpuid_reg(0x80000008, 0, 0) & 0xff;
	if (phys < 52) {
		map(0, page[0], P | RW | US | 1ull << 51);
		v = touch(READ, 0, VA);
		pf("address above the physical width", v, 9, VA);
		v = touch(WRITE, 1, VA);
		pf("address above the physical width, user write", v, 15, VA);
		check(nm("%s: reserved bit: A stays clear", mode), get(entry(pte_of_va, 0)) & A, 0);
		put(pde_of_va, (ulong)pte_of_va | P | RW | US | 1ull << 51);
		flush();
		v = touch(READ, 0, VA);
		pf("the same in the directory", v, 9, VA);
		put(pde_of_va, (ulong)pte_of_va | P | RW | US);
	}
	wrmsr(0xc0000080, rdmsr(0xc0000080) & ~0x800ull);
	map(0, page[0], P | RW | US | NX);
	v = touch(READ, 0, VA);
	pf("NX without EFER.NXE is reserved", v, 9, VA);
	v = touch(FETCH, 0, VA);
	pf("fetch of that", v, cr4() >> 20 & 1 ? 0x19 : 9, VA);
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
	invlpg(VA);
	RUNS(nm("%s: the same with NXE", mode), (void)*(volatile u32 *)VA);
	map(0, page[0], P | RW | US);
	/* page tables at nowhere: memory that is not there reads as ones, or zeros: a fault either way or none, but no
	 * hang */
	put(pde_of_va, 0xe0000000ul | P | RW | US);
	flush();
	v = TRY((void)*(volatile u32 *)VA);
	check(nm("%s: page table in no memory: #PF or nothing", mode), v == PF || v == NONE, 1);
	put(pde_of_va, (ulong)pte_of_va | P | RW | US);
	flush();
}

/* Faults while an exception is delivered. */
static void nested(void)
{
	map(0, page[0], P | RW | US);
	map(1, page[1], 0);
#ifdef __x86_64__
	tss.ist[0] = INT_SP;
	set_gate(DF, KCS, stub_of(DF), A_INTR, 1);
	tss.rsp[0] = VA2 + 0x800;
	FAULTS(nm("%s: int n from ring 3 with a missing stack: #DF", mode), DF, 0,
	       user_at((ulong)u_read + ALIAS, USER_SP + ALIAS, 2, VA2));
	tss.rsp[0] = INT_SP;
	reset_gate(DF);
#endif
	/* the GDT is supervisor memory, ring 3 loads from it all the same */
	FAULTS(nm("%s: ring 3 reads the GDT with supervisor rights", mode), DONE, 0,
	       user_at((ulong)u_load_ds + ALIAS, USER_SP + ALIAS, 2, 0));
	/* an IDT that is not mapped: #PF while delivering is benign then fault: #PF, then with it #DF, then shutdown;
	 * so only its second half is taken away */
	ulong half = (idt_ptr.limit + 1) / 2;
	struct desc_ptr far_idt = { idt_ptr.limit, VA2 - half };
	memcpy(page[0] + 4096 - half, (void *)idt_ptr.base, half);
	lidt(&far_idt);
	int v = TRY(asm volatile("int $0xf0"));
	lidt(&idt_ptr);
	pf("IDT entry in a missing page", v, 0, VA2 - half + 0xf0 * (sizeof(ulong) * 2));
	map(1, page[1], P | RW | US);
}

static void protection_keys(void)
{
#ifdef __x86_64__
	if (!(cpuid_reg(7, 0, 2) >> 3 & 1)) {
		skip("protection keys");
		return;
	}
	set_cr4(cr4() | 0x400000);
	map(0, page[0], P | RW | US | 1ull << 59);
	page[0][0] = 0xc3;
#define WRPKRU(v) asm volatile(".byte 0x0f, 0x01, 0xef" ::"a"(v), "c"(0), "d"(0))
	for (u32 bits = 0; bits < 4; bits++) {
		WRPKRU(bits << 2);
		for (int in_user = 0; in_user < 2; in_user++) {
			for (int wp = 0; wp < 2; wp++) {
				set_cr0(wp ? cr0() | 0x10000 : cr0() & ~0x10000ul);
				for (enum access a = READ; a <= FETCH; a++) {
					int deny =
					    a != FETCH && ((bits & 1) || (a == WRITE && (bits & 2) && (in_user || wp)));
					int v = touch(a, in_user, VA);
					int got = v == PF ? (int)last.f.err : v;
					check(nm("pkey: AD %d WD %d %s %s wp %d", (int)(bits & 1), (int)(bits >> 1),
						 in_user ? "user" : "kernel", access_name[a], wp),
					      got, deny ? 0x21 | (a == WRITE ? 2 : 0) | (in_user ? 4 : 0) : NONE);
				}
			}
		}
	}
	WRPKRU(0xc);
	map(0, page[0], P | RW | 1ull << 59);
	RUNS("pkey: supervisor pages have none", (void)*(volatile u32 *)VA);
	FAULTS("wrpkru: ecx not zero", GP, 0, asm volatile(".byte 0x0f, 0x01, 0xef" ::"a"(0), "c"(1), "d"(0)));
	FAULTS("rdpkru: ecx not zero", GP, 0, asm volatile(".byte 0x0f, 0x01, 0xee" ::"c"(1) : "eax", "edx"));
	WRPKRU(0);
	set_cr4(cr4() & ~0x400000ul);
	FAULTS("rdpkru: without CR4.PKE", UD, 0, asm volatile(".byte 0x0f, 0x01, 0xee" ::"c"(0) : "eax", "edx"));
	map(0, page[0], P | RW | US);
#endif
}

static void pcid(void)
{
#ifdef __x86_64__
	if (!(cpuid_reg(1, 0, 2) >> 17 & 1)) {
		skip("PCID");
		return;
	}
	static u64 pml4b[512] __attribute__((aligned(4096))), pdptb[512] __attribute__((aligned(4096)));
	static u64 dirb[512] __attribute__((aligned(4096))), ptb[512] __attribute__((aligned(4096)));
	/* a second space: the same but for the page at VA */
	u64 *top = (u64 *)root, *pdpt_a = (u64 *)(top[0] & ~0xffful), *dir_a = (u64 *)(pdpt_a[1] & ~0xffful);
	for (int i = 0; i < 512; i++) {
		pml4b[i] = top[i];
		pdptb[i] = pdpt_a[i];
		dirb[i] = dir_a[i];
	}
	pml4b[0] = (ulong)pdptb | P | RW | US;
	pdptb[VA >> 30] = (ulong)dirb | P | RW | US;
	dirb[VA >> 21 & 511] = (ulong)ptb | P | RW | US;
	ptb[0] = (ulong)page[1] | P | RW;
	*(u32 *)page[0] = 0xa;
	*(u32 *)page[1] = 0xb;
	*(u32 *)page[2] = 0xc;
	map(0, page[0], P | RW);
	volatile u32 *va = (u32 *)VA;

	FAULTS("PCIDE with a PCID in CR3", GP, 0, set_cr3(root | 0x18); set_cr4(cr4() | 0x20000));
	set_cr3(root);
	RUNS("PCIDE", set_cr4(cr4() | 0x20000));
	set_cr3(root | 1);
	check("PCID 1", *va, 0xa);
	set_cr3((ulong)pml4b | 2);
	check("PCID 2", *va, 0xb);
	set_cr3(root | 1 | 1ul << 63);
	check("PCID 1 again, kept", *va, 0xa);
	check("CR3 bit 63 reads as zero", cr3() >> 63, 0);
	/* a load without bit 63 drops what the PCID had cached */
	ptb[0] = (ulong)page[2] | P | RW;
	set_cr3((ulong)pml4b | 2);
	check("PCID 2 after a load that flushes", *va, 0xc);
	if (cpuid_reg(7, 0, 1) >> 10 & 1) {
		struct {
			u64 pcid, address;
		} d = { 2, VA };
#define INVPCID(type) asm volatile("invpcid %0,%1" ::"m"(d), "r"((ulong)(type)) : "memory")
		set_cr3(root | 1 | 1ul << 63);
		ptb[0] = (ulong)page[1] | P | RW;
		RUNS("invpcid: one address", INVPCID(0));
		set_cr3((ulong)pml4b | 2 | 1ul << 63);
		check("  seen", *va, 0xb);
		set_cr3(root | 1 | 1ul << 63);
		ptb[0] = (ulong)page[2] | P | RW;
		RUNS("invpcid: one PCID", INVPCID(1));
		set_cr3((ulong)pml4b | 2 | 1ul << 63);
		check("  seen", *va, 0xc);
		set_cr3(root | 1 | 1ul << 63);
		ptb[0] = (ulong)page[1] | P | RW;
		RUNS("invpcid: all", INVPCID(2));
		set_cr3((ulong)pml4b | 2 | 1ul << 63);
		check("  seen", *va, 0xb);
		ptb[0] = (ulong)page[2] | P | RW;
		RUNS("invpcid: all but global", INVPCID(3));
		check("  seen", *va, 0xc);
		FAULTS("invpcid: type 4", GP, 0, INVPCID(4));
		d.pcid = 0x1000;
		FAULTS("invpcid: reserved bits of the descriptor", GP, 0, INVPCID(1));
		d.pcid = 1;
		d.address = 1ul << 60;
		FAULTS("invpcid: address not canonical", GP, 0, INVPCID(0));
	}
	set_cr3(root);
	RUNS("PCIDE cleared", set_cr4(cr4() & ~0x20000ul));
#endif
}

static void huge(void)
{
#ifdef __x86_64__
	u64 *pdpt_a = (u64 *)(((u64 *)root)[0] & ~0xffful), saved = pdpt_a[2];

	if (!(cpuid_reg(0x80000001, 0, 3) >> 26 & 1)) {
		skip("1 GiB pages");
	} else {
		pdpt_a[2] = P | RW | PS;
		flush();
		*(volatile u32 *)page[2] = 0x600d;
		check("1 GiB page", *(volatile u32 *)(0x80000000ul + (ulong)page[2]), 0x600d);
		check("1 GiB page: A", pdpt_a[2] & (A | D), A);
		pdpt_a[2] = P | RW | PS | 0x2000;
		flush();
		pf("1 GiB page, reserved bit", touch(READ, 0, 0x80000000), 9, 0x80000000);
	}
	pdpt_a[2] = saved;
	u64 *top = (u64 *)root;
	top[5] = (ulong)pdpt_a | P | RW | PS;
	flush();
	pf("PS in the top level is reserved", touch(READ, 0, 5ul << 39), 9, 5ul << 39);
	top[5] = 0;
	/* US and RW come together from all levels, NX adds up */
	top[6] = (ulong)pdpt_a | P | US;
	flush();
	set_cr0(cr0() | 0x10000);
	pf("read-only in the top level", touch(WRITE, 0, (6ul << 39) + VA), 3, (6ul << 39) + VA);
	top[6] = (ulong)pdpt_a | P | RW;
	flush();
	pf("supervisor in the top level", touch(READ, 1, (6ul << 39) + VA), 5, (6ul << 39) + VA);
	top[6] = (ulong)pdpt_a | P | RW | US | NX;
	flush();
	pf("NX in the top level", touch(FETCH, 0, (6ul << 39) + VA), 0x11, (6ul << 39) + VA);
	top[6] = 0;
	flush();
	pf("top level not present", touch(WRITE, 1, (6ul << 39) + VA), 6, (6ul << 39) + VA);
	FAULTS("invlpg of an address that is not canonical does nothing", NONE, 0, invlpg(1ul << 60));
#else
	if (!pae)
		return;
	/* the four PDPTEs are loaded and checked with CR3 */
	u64 *pdpt_a = (u64 *)root, saved = pdpt_a[2];
	pdpt_a[2] |= RW;
	FAULTS("PAE: reserved bits of a PDPTE", GP, 0, set_cr3(root));
	pdpt_a[2] = 0;
	RUNS("PAE: a PDPTE not present", set_cr3(root));
	pf("PAE: PDPTE not present", touch(READ, 0, 0x80000000), 0, 0x80000000);
	pdpt_a[2] = saved;
	pf("PAE: PDPTEs are those of the CR3 load", touch(READ, 0, 0x80000000), 0, 0x80000000);
	set_cr3(root);
#endif
}

static void suite(const char *name)
{
	mode = name;
	tables_of_rules();
	crossing();
	remapping();
	large();
	reserved();
	nested();
	huge();
	protection_keys();
	pcid();
}

int main(void)
{
#ifdef __x86_64__
	pae = 1;
	build();
	suite("4-level");
#else
	set_cr4(cr4() | 0x10);
	build();
	set_cr0(cr0() | 0x80000000);
	suite("2-level");
	set_cr0(cr0() & ~0x80000000ul);
	pae = 1;
	set_cr4(cr4() | 0x20);
	build();
	set_cr0(cr0() | 0x80000000);
	suite("PAE");
	set_cr0(cr0() & ~0x80000000ul);
#endif
	return 0;
}

/* See mp.h. */
#include "mp.h"

#define STACK 16384

struct cpu cpus[MP_MAX];
u32 mp_cpus, mp_started, mp_ioapic, mp_madt_bytes;
u8 *mp_madt;
int (*mp_trap)(struct frame *f);
u64 mp_cpu_size = sizeof(struct cpu);
static u8 stacks[MP_MAX][STACK] __attribute__((aligned(16)));
static char command_line[256];
extern u8 mp_tramp[], mp_tramp_end[], mp_tramp_nmi[];
void mp_main(struct cpu *c);

/* The command line */

static void keep_command_line(void)
{
	const u32 *info = (const u32 *)(ulong)boot_info;
	const char *s = (const char *)(ulong)(boot_magic == 0x2badb002 ? (info[0] & 4 ? info[4] : 0) : info[6]);

	for (u32 i = 0; s && s[i] && i < sizeof(command_line) - 1; i++)
		command_line[i] = s[i];
}

u64 mp_option(const char *name, u64 otherwise)
{
	for (const char *s = command_line; *s; s++) {
		const char *a = s, *b = name;
		u64 v = 0;
		while (*b && *a == *b) {
			a++;
			b++;
		}
		if (*b || *a != '=' || (s != command_line && s[-1] != ' '))
			continue;
		for (a++; *a >= '0' && *a <= '9'; a++)
			v = v * 10 + *a - '0';
		return v;
	}
	return otherwise;
}

/* ACPI 6.5, 5.2.5.3 (RSDP), 5.2.7 (RSDT), 5.2.8 (XSDT), 5.2.12 (MADT) */

static u8 sum(const u8 *p, u32 n)
{
	u8 s = 0;
	while (n--)
		s += *p++;
	return s;
}

static u8 *find_rsdp(void)
{
	const u32 *info = (const u32 *)(ulong)boot_info;

	if (boot_magic != 0x2badb002 && info[0] == 0x336ec578 && info[8])
		return (u8 *)(ulong)info[8];
	for (ulong p = 0x9fc00; p < 0x100000; p = p == 0x9fff0 ? 0xe0000 : p + 16) {
		if (*(u64 *)p == 0x2052545020445352 && !sum((u8 *)p, 20))
			return (u8 *)p;
	}
	return 0;
}

static u8 *find_table(u32 signature)
{
	u8 *rsdp = find_rsdp();
	if (!rsdp)
		return 0;
	int wide = rsdp[15] >= 2;
	u8 *root = (u8 *)(wide ? *(u64 *)(rsdp + 24) : *(u32 *)(rsdp + 16));
	for (u32 at = 36; at < *(u32 *)(root + 4); at += wide ? 8 : 4) {
		u8 *t = (u8 *)(wide ? *(u64 *)(root + at) : *(u32 *)(root + at));
		if (*(u32 *)t == signature)
			return t;
	}
	return 0;
}

static u32 my_apic(void)
{
	return cpuid_reg(1, 0, 1) >> 24;
}

static void add_cpu(u32 apic)
{
	struct cpu *c = &cpus[mp_cpus];

	if (mp_cpus >= MP_MAX)
		return;
	c->self = c;
	c->n = mp_cpus++;
	c->apic = apic;
	c->sp = (ulong)stacks[c->n] + STACK;
}

void mp_find(void)
{
	keep_command_line();
	for (u32 i = 0; i < MP_MAX; i++)
		cpus[i].apic = ~0u;
	add_cpu(my_apic());
	mp_madt = find_table(0x43495041); /* "APIC" */
	if (mp_madt) {
		mp_madt_bytes = *(u32 *)(mp_madt + 4);
		for (u8 *p = mp_madt + 44; p < mp_madt + mp_madt_bytes; p += p[1] ? p[1] : 2) {
			if (p[0] == 0 && (*(u32 *)(p + 4) & 1) && p[3] != my_apic())
				add_cpu(p[3]);
			else if (p[0] == 9 && (*(u32 *)(p + 8) & 1) && *(u32 *)(p + 4) != my_apic())
				add_cpu(*(u32 *)(p + 4));
			else if (p[0] == 1)
				mp_ioapic = *(u32 *)(p + 4);
		}
	}
	wrmsr(0xc0000101, (ulong)&cpus[0]);
	cpus[0].up = 1;
	mp_started = 1;
}

/* The local APIC */

#define APIC(reg) (*(volatile u32 *)(0xfee00000ul + (reg)))

int x2apic(void)
{
	return !!(rdmsr(MSR_APIC_BASE) & BASE_EXTD);
}

int has_x2apic(void)
{
	return cpuid_reg(1, 0, 2) >> 21 & 1;
}

u32 apic_read(u32 reg)
{
	return x2apic() ? (u32)rdmsr(0x800 + reg / 16) : APIC(reg);
}

void apic_write(u32 reg, u32 v)
{
	if (x2apic())
		wrmsr(0x800 + reg / 16, v);
	else
		APIC(reg) = v;
}

void icr(u32 dest, u32 low)
{
	if (x2apic()) {
		asm volatile("mfence; lfence" ::: "memory");
		wrmsr(0x830, (u64)dest << 32 | low);
		return;
	}
	APIC(APIC_ICR2) = dest << 24;
	APIC(APIC_ICR) = low;
	WAIT_FOR(!(APIC(APIC_ICR) & ICR_PENDING));
}

void apic_setup(void)
{
	apic_write(APIC_SVR, 0x100 | VEC_SPURIOUS);
	apic_write(APIC_TPR, 0);
	if (!x2apic()) {
		apic_write(APIC_DFR, 0xffffffff);
		apic_write(APIC_LDR, me()->n < 8 ? 1u << (24 + me()->n) : 0);
	}
	apic_write(APIC_TIMER, 0x10000);
	apic_write(APIC_LINT0, 0x10000);
	apic_write(APIC_LINT1, 0x10000);
}

void x2apic_enter(ulong unused)
{
	(void)unused;
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | BASE_EXTD);
	apic_setup();
}

void x2apic_leave(ulong unused)
{
	u64 base = rdmsr(MSR_APIC_BASE);

	(void)unused;
	wrmsr(MSR_APIC_BASE, base & ~(u64)(BASE_EXTD | BASE_ENABLE));
	wrmsr(MSR_APIC_BASE, base & ~(u64)BASE_EXTD);
	apic_setup();
}

static int taken(struct frame *f)
{
	struct cpu *c = me();

	if (f->vec != NMI && (f->vec < 32 || f->vec == DONE)) {
		if (mp_trap && mp_trap(f))
			return 1;
		/* rt.h's TRY() is the BSP's */
		if (c->n == 0)
			return 0;
		c->faults++;
		say("FAIL processor %d: exception %d error %lx at %lx, cr2 %lx\n", c->n, (int)f->vec, f->err, f->ip,
		    (u64)cr2());
		finish();
	}
	c->seen[f->vec]++;
	if (c->handler && f->vec != VEC_WAKE)
		c->handler(f);
	else if (f->vec != NMI && f->vec != VEC_SPURIOUS)
		apic_write(APIC_EOI, 0);
	return 1;
}

/* Starting, and work */

static void vector_state(void)
{
	set_cr0((cr0() & ~4ul) | 0x10002); /* WP, MP, not EM */
	set_cr4(cr4() | 0x600);
	if (cpuid_reg(1, 0, 2) >> 26 & 1) {
		set_cr4(cr4() | 0x40000);
		u32 x = cpuid_reg(1, 0, 2) >> 28 & 1 ? 7 : 3;
		asm volatile("xsetbv" ::"a"(x), "d"(0), "c"(0));
	}
}

void mp_main(struct cpu *c)
{
	/* as INIT left them */
	c->mark[0] = apic_read(APIC_SVR);
	c->mark[1] = apic_read(APIC_TIMER);
	c->mark[2] = apic_read(APIC_TPR);
	vector_state();
	apic_setup();
	c->handler = 0;
	asm volatile("lock incl %0" : "+m"(c->up)::"cc");
	for (;;) {
		cli();
		if (c->busy) {
			sti();
			c->fn(c->arg);
			asm volatile("" ::: "memory");
			c->busy = 0;
		} else {
			asm volatile("sti; hlt" ::: "memory");
		}
	}
}

void mp_prepare(u32 page)
{
	volatile u32 *data = (volatile u32 *)(page + 0xe00ul);

	memset((void *)(ulong)page, 0xf4, 4096);
	memset((void *)(page + 0xf00ul), 0, sizeof(struct mp_entry));
	memcpy((void *)(ulong)page, mp_tramp, mp_tramp_end - mp_tramp);
	data[0] = cr4() & 0x20;
	data[1] = cr3();
	data[2] = cr0();
	memcpy((void *)(page + 0xe10ul), &gdt_ptr, sizeof(gdt_ptr));
	/* an NMI that comes in real mode */
	*(volatile u32 *)8 = (page >> 4) << 16 | (u32)(mp_tramp_nmi - mp_tramp);
	asm volatile("" ::: "memory");
}

int mp_start(u32 n, u32 page)
{
	struct cpu *c = &cpus[n];
	u32 before = c->up;

	c->busy = 0;
	icr(c->apic, ICR_INIT | ICR_ASSERT | ICR_LEVEL);
	icr(c->apic, ICR_INIT | ICR_LEVEL);
	delay(MP_SHORT / 3);
	icr(c->apic, ICR_SIPI | ICR_ASSERT | page >> 12);
	delay(MP_SHORT / 10);
	icr(c->apic, ICR_SIPI | ICR_ASSERT | page >> 12);
	return WAIT_FOR(c->up != before);
}

void mp_init(void)
{
	u32 bad = 0;

	mp_find();
	vector_state();
	rt_hook = taken;
	apic_setup();
	sti();
	mp_prepare(SIPI_PAGE);
	for (u32 n = 1; n < mp_cpus; n++) {
		if (mp_start(n, SIPI_PAGE))
			mp_started++;
		else
			bad++;
	}
	if (bad || mp_option("cpus", mp_cpus) != mp_cpus) {
		check("as many processors as the machine has", mp_started, mp_option("cpus", mp_cpus));
		finish();
	}
}

void mp_call(u32 n, void (*fn)(ulong), ulong arg)
{
	struct cpu *c = &cpus[n];

	if (n == me()->n) {
		fn(arg);
		return;
	}
	c->fn = fn;
	c->arg = arg;
	asm volatile("" ::: "memory");
	c->busy = 1;
	icr(c->apic, ICR_FIXED | ICR_ASSERT | VEC_WAKE);
}

void mp_wait(u32 n)
{
	int done = 0;

	for (u32 i = 0; i < 50 && !done; i++)
		done = WAIT_FOR(!cpus[n].busy);
	if (!done) {
		check(nm("processor %d comes to the end of its work", n), 0, 1);
		finish();
	}
}

void mp_all(void (*fn)(ulong), ulong arg)
{
	for (u32 n = 1; n < mp_started; n++)
		mp_call(n, fn, arg);
	fn(arg);
	for (u32 n = 1; n < mp_started; n++)
		mp_wait(n);
}

void barrier(struct barrier *b, u32 n)
{
	u64 round = b->round;

	if (xadd(&b->count, 1) == n - 1) {
		b->count = 0;
		asm volatile("" ::: "memory");
		b->round = round + 1;
	} else {
		while (b->round == round)
			pause();
	}
}

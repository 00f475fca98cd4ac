/*
 * Is this KVM fast? Where a host emulates KVM in software it opens and answers
 * like any other, and a kernel crawls: only a measurement tells. A throw-away
 * VM runs a loop of 64-bit code with exits and page faults, which takes well
 * below a millisecond on a processor that does virtualization itself.
 *
 * And what CPUID does its guest see? Such a KVM may show features of the host
 * that it neither lists nor was told of; a guest uses them, so the CPU model
 * may as well have them. And does it stop at a debugger's points? Such a KVM
 * may take them and never say a word.
 */
#include "engine/kvm/kvm.h"
#include "base/host_time.h"
#include "engine/kvm/kicks.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ROUNDS 32
#define FAST_NS 4000000ull   /* slower is emulated */
#define LIMIT_NS 20000000ull /* not worth more time */

#define MEMORY (2 * MiB)
#define PML4 0x1000u
#define PDPT 0x2000u
#define PD 0x3000u
#define GDT 0x4000u
#define IDT 0x5000u
#define CODE 0x10000u
#define HANDLER 0x10100u
#define STACK 0x20000u
#define CPUID_CODE 0x11000u
#define CPUID_TABLE 0x12000u
#define WATCH_CODE 0x13000u
#define WATCHED 0x14000u

/*
 * 10000: mov ecx, ROUNDS
 * outer: mov edx, 2000
 * inner: dec edx; jnz inner
 *        out 80h, al
 *        mov [200000h], eax         ; page fault: the handler maps it
 *        mov qword [PD + 8], 0      ; and away with it
 *        invlpg [200000h]
 *        dec ecx; jnz outer
 *        hlt
 */
static const u8 code[] = {
	0xb9, ROUNDS, 0,    0,	  0,				   /* mov ecx */
	0xba, 0xd0,   0x07, 0,	  0,				   /* mov edx, 2000 */
	0xff, 0xca,   0x75, 0xfc,				   /* dec edx; jnz -4 */
	0xe6, 0x80,						   /* out 80h, al */
	0x89, 0x04,   0x25, 0,	  0,	0x20, 0,		   /* mov [200000h], eax */
	0x48, 0xc7,   0x04, 0x25, 0x08, 0x30, 0,    0, 0, 0, 0, 0, /* mov qword [3008h], 0 */
	0x0f, 0x01,   0x3c, 0x25, 0,	0,    0x20, 0,		   /* invlpg [200000h] */
	0xff, 0xc9,   0x75, 0xd4,				   /* dec ecx; jnz outer */
	0xf4,							   /* hlt */
};
/* mov qword [3008h], 83h (2 MiB page at 0); add rsp, 8; iretq */
static const u8 handler[] = {
	0x48, 0xc7, 0x04, 0x25, 0x08, 0x30, 0, 0, 0x83, 0, 0, 0, 0x48, 0x83, 0xc4, 0x08, 0x48, 0xcf,
};

/*
 * 11000: mov esi, CPUID_TABLE; mov ebp, number
 * next:  mov eax, [rsi]; mov ecx, [rsi + 4]; cpuid
 *        mov [rsi], eax; mov [rsi + 4], ebx; mov [rsi + 8], ecx; mov [rsi + 12], edx
 *        add esi, 16; dec ebp; jnz next
 *        hlt
 */
static const u32 leaves[][4] = {
	{ 1 }, { 6 }, { 7, 0 }, { 7, 1 }, { 7, 2 }, { 0xd, 1 }, { 0x80000001 }, { 0x80000007 },
};
static const u8 cpuid_code[] = {
	0xbe, 0x00, 0x20, 0x01, 0x00, 0xbd, ARRAY_SIZE(leaves),
	0,    0,    0,				  /* mov esi; mov ebp */
	0x8b, 0x06, 0x8b, 0x4e, 0x04, 0x0f, 0xa2, /* mov eax; mov ecx; cpuid */
	0x89, 0x06, 0x89, 0x5e, 0x04, 0x89, 0x4e,
	0x08, 0x89, 0x56, 0x0c,			  /* mov [rsi..] */
	0x83, 0xc6, 0x10, 0xff, 0xcd, 0x75, 0xe7, /* add esi; dec ebp; jnz next */
	0xf4,					  /* hlt */
};

/* nop; mov [WATCHED], eax; nop; hlt */
static const u8 watch_code[] = { 0x90, 0x89, 0x04, 0x25, 0x00, 0x40, 0x01, 0x00, 0x90, 0xf4 };

struct probe {
	int vm, vcpu;
	u8 *mem;
	struct kvm_run *run;
	size_t run_size;
};

static void put64(u8 *mem, u32 at, u64 val)
{
	memcpy(mem + at, &val, 8);
}

static void fill_memory(u8 *mem)
{
	put64(mem, PML4, PDPT | 3);
	put64(mem, PDPT, PD | 3);
	put64(mem, PD, 0x83); /* 2 MiB page, writable */
	put64(mem, GDT + 8, 0x00209b0000000000ull);
	put64(mem, GDT + 16, 0x0000930000000000ull);
	/* interrupt gate to HANDLER */
	put64(mem, IDT + 16 * EXC_PF, (HANDLER & 0xffff) | 8ull << 16 | 0x8e00ull << 32 | (u64)(HANDLER >> 16) << 48);
	memcpy(mem + CODE, code, sizeof(code));
	memcpy(mem + HANDLER, handler, sizeof(handler));
	memcpy(mem + CPUID_CODE, cpuid_code, sizeof(cpuid_code));
	memcpy(mem + CPUID_TABLE, leaves, sizeof(leaves));
	memcpy(mem + WATCH_CODE, watch_code, sizeof(watch_code));
}

static int set_state(const struct probe *p, u64 rip)
{
	struct kvm_regs r = { .rip = rip, .rsp = STACK, .rflags = FL_FIXED1 };
	struct kvm_sregs s;
	struct kvm_segment cs = {
		.limit = 0xffffffff, .selector = 8, .type = 11, .s = 1, .present = 1, .l = 1, .g = 1
	};
	struct kvm_segment ds = {
		.limit = 0xffffffff, .selector = 16, .type = 3, .s = 1, .present = 1, .db = 1, .g = 1
	};

	memset(&s, 0, sizeof(s));
	if (kvm_ioctl(p->vcpu, KVM_GET_SREGS, &s))
		return -1;
	s.cs = cs;
	s.ds = s.es = s.fs = s.gs = s.ss = ds;
	s.gdt = (struct kvm_dtable){ .base = GDT, .limit = 23 };
	s.idt = (struct kvm_dtable){ .base = IDT, .limit = 16 * 15 - 1 };
	s.cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE | CR0_WP;
	s.cr3 = PML4;
	s.cr4 = CR4_PAE;
	s.efer = EFER_LME | EFER_LMA;
	return kvm_ioctl(p->vcpu, KVM_SET_SREGS, &s) || kvm_ioctl(p->vcpu, KVM_SET_REGS, &r);
}

static int set_cpuid(const struct kvm_host *h, const struct probe *p)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + 512 * sizeof(c->entries[0]));
	int r = -1;

	if (c) {
		c->nent = 512;
		r = kvm_ioctl(h->fd, KVM_GET_SUPPORTED_CPUID, c) || kvm_ioctl(p->vcpu, KVM_SET_CPUID2, c);
	}
	free(c);
	return r;
}

static int build(const struct kvm_host *h, struct probe *p, u64 rip)
{
	struct kvm_userspace_memory_region m = { .memory_size = MEMORY };
	void *run;

	p->vm = kvm_ioctl(h->fd, KVM_CREATE_VM, NULL);
	p->vcpu = p->vm < 0 || ioctl(p->vm, KVM_SET_TSS_ADDR, 0xfeffd000ul) ? -1 : ioctl(p->vm, KVM_CREATE_VCPU, 0);
	p->mem = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p->vcpu < 0 || p->mem == MAP_FAILED)
		return -1;
	p->run_size = (size_t)h->run_size;
	run = mmap(NULL, p->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, p->vcpu, 0);
	if (run == MAP_FAILED)
		return -1;
	p->run = run;
	m.userspace_addr = (u64)(uintptr_t)p->mem;
	fill_memory(p->mem);
	return kvm_ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &m) || set_cpuid(h, p) || set_state(p, rip);
}

static void take_down(struct probe *p)
{
	if (p->run)
		munmap(p->run, p->run_size);
	if (p->vcpu >= 0)
		close(p->vcpu);
	if (p->vm >= 0)
		close(p->vm);
	if (p->mem != MAP_FAILED)
		munmap(p->mem, MEMORY);
}

/*
 * Nanoseconds until the guest halted; LIMIT_NS: it did not; 0: something else
 * happened. Signals come again and again, for one may hit between the look at
 * the clock and KVM_RUN.
 */
static u64 run(const struct probe *p)
{
	u64 start = host_ns();

	while (host_ns() - start < LIMIT_NS) {
		if (ioctl(p->vcpu, KVM_RUN, 0)) {
			if (errno != EINTR)
				return 0;
		} else if (p->run->exit_reason == KVM_EXIT_HLT) {
			return MAX(host_ns() - start, 1ull);
		} else if (p->run->exit_reason != KVM_EXIT_IO) {
			return 0;
		}
	}
	return LIMIT_NS;
}

static u64 measure(const struct kvm_host *h)
{
	struct probe p = { .vm = -1, .vcpu = -1, .mem = MAP_FAILED };
	timer_t timer;
	u64 ns = 0;

	if (build(h, &p, CODE) == 0 && kicks_timer(&timer, LIMIT_NS / 4)) {
		ns = run(&p);
		kicks_timer_end(timer);
	}
	take_down(&p);
	return ns;
}

/* Does the guest stop at an address in DR0 with this R/W and length in DR7? */
static bool stops(const struct probe *p, u64 addr, u64 dr7)
{
	const struct kvm_guest_debug g = {
		.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP,
		.arch.debugreg = { [0] = addr, [7] = dr7 | 0x602 },
	};

	unsigned tries = 16; /* signals come all the time */
	int r = -1;

	if (set_state(p, WATCH_CODE) || kvm_ioctl(p->vcpu, KVM_SET_GUEST_DEBUG, &g))
		return false;
	while (tries-- && (r = ioctl(p->vcpu, KVM_RUN, 0)) && errno == EINTR)
		;
	return !r && p->run->exit_reason == KVM_EXIT_DEBUG;
}

static u8 debug_means;

static u8 see_debug(const struct probe *p)
{
	return (stops(p, WATCH_CODE + 1, 0) ? KVM_DEBUG_EXECUTION : 0) |
	       (stops(p, WATCHED, 1ull << 16 | 3ull << 18) ? KVM_DEBUG_DATA : 0);
}

u8 kvm_debug_means(void)
{
	return __atomic_load_n(&debug_means, __ATOMIC_RELAXED);
}

void kvm_see_guest(const struct kvm_host *h, struct cpu_limits *l)
{
	struct probe p = { .vm = -1, .vcpu = -1, .mem = MAP_FAILED };
	timer_t timer;

	if (build(h, &p, CPUID_CODE) == 0 && kicks_timer(&timer, LIMIT_NS / 4)) {
		u64 ns = run(&p);

		if (ns && ns < LIMIT_NS)
			__atomic_store_n(&debug_means, see_debug(&p), __ATOMIC_RELAXED);
		kicks_timer_end(timer);
		for (unsigned i = 0; ns && ns < LIMIT_NS && i < ARRAY_SIZE(leaves); i++) {
			u32 regs[4];

			memcpy(regs, p.mem + CPUID_TABLE + 16 * i, sizeof(regs));
			cpu_limits_add(l, leaves[i][0], leaves[i][1], regs);
		}
	}
	take_down(&p);
}

static struct {
	u64 ns;
	bool known;
} result;
static pthread_mutex_t result_lock = PTHREAD_MUTEX_INITIALIZER;

bool kvm_fast(const struct kvm_host *h, char *why, size_t size)
{
	u64 ns;

	pthread_mutex_lock(&result_lock);
	if (!result.known) {
		result.ns = measure(h);
		result.known = true;
	}
	ns = result.ns;
	pthread_mutex_unlock(&result_lock);
	if (!ns)
		snprintf(why, size, "a test program of 64-bit code fails in this host's KVM");
	else if (ns >= LIMIT_NS)
		snprintf(why, size,
			 "this host's KVM is emulated in software: a test loop of less than 1 ms took over %llu",
			 LIMIT_NS / 1000000);
	else if (ns >= FAST_NS)
		snprintf(why, size, "this host's KVM is slow: a test loop of less than 1 ms took %.1f",
			 (double)ns / 1e6);
	else
		snprintf(why, size, "hardware virtualization; a test loop took %.2f ms", (double)ns / 1e6);
	return ns && ns < FAST_NS;
}

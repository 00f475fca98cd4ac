/*
 * The runtime of the bare-metal payloads: a GDT with room for a test's own
 * descriptors, an IDT whose every vector is caught, ring 3 on demand, reports
 * on the serial port. Compiled for 32-bit protected mode without paging and
 * for 64-bit mode with the first 4 GiB mapped one to one.
 *
 * A test provokes something and says what the manual promises:
 *
 *	FAULTS("hlt in ring 3", GP, 0, user(u_hlt, 0));
 *
 * TRY() runs a statement and gives the vector of the exception or interrupt
 * that ended it, or NONE. The handler does not return to where the exception
 * was: it goes back to TRY(), with flags and segment registers as the kernel
 * has them, whatever mode, stack or task raised it. `last` holds the frame.
 * Code that ended in ring 3 without a fault gives DONE. Locals that the
 * statement changes must be volatile.
 */
#ifndef RT_H
#define RT_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned long ulong; /* a register */

enum { DE, DB, NMI, BP, OF, BR, UD, NM, DF, CSO, TS, NP, SS, GP, PF, MF = 16, AC, MC, XM };
#define DONE 0x30
#define NONE (-1)

/* Selectors; those from SEL_TEST on are the tests'. */
#define KCS 0x08
#define KDS 0x10
#define UCS 0x1b
#define UDS 0x23
#define TSS_SEL 0x28
#define SEL_TEST 0x40
#define SEL(n) (SEL_TEST + 8 * (n))

#ifdef __x86_64__
struct frame {
	u64 r15, r14, r13, r12, r11, r10, r9, r8, di, si, bp, bx, dx, cx, ax;
	u64 vec, err, ip, cs, flags, sp, ss;
};
struct tss {
	u32 pad0;
	u64 rsp[3], pad1, ist[7], pad2;
	u16 pad3, iomap;
	u8 io[8193];
} __attribute__((packed));
#define R "r"
#else
struct frame {
	u32 gs, fs, es, ds, di, si, bp, unused, bx, dx, cx, ax;
	u32 vec, err, ip, cs, flags;
	u32 sp, ss;		    /* if the privilege level changed */
	u32 v_es, v_ds, v_fs, v_gs; /* from virtual-8086 mode */
};
struct tss {
	u16 link, l0;
	u32 esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi;
	u32 es, cs, ss, ds, fs, gs, ldt;
	u16 trap, iomap;
	u8 io[8193];
} __attribute__((packed));
#define R "e"
#endif

struct desc_ptr {
	u16 limit;
	ulong base;
} __attribute__((packed));

/* The exception that ended the last TRY(). */
struct last {
	struct frame f;
	int vec;
	ulong cr2, dr6, dr7, flags_in, sp_in; /* flags_in: as the gate left them; sp_in: of the frame */
	u32 cs_in, ss_in;
};
extern struct last last;
extern u64 gdt[64];
extern struct desc_ptr gdt_ptr, idt_ptr;
extern struct tss tss;
extern u32 boot_magic, boot_info;
extern u8 user_stack[8192], int_stack[8192];
#define USER_SP ((ulong)user_stack + sizeof(user_stack) - 64)
#define INT_SP ((ulong)int_stack + sizeof(int_stack) - 64)

/* A hook sees an exception first; 1: dealt with, return from it; 0: go back to TRY(). */
extern int (*rt_hook)(struct frame *f);

int rt_try(void) __attribute__((returns_twice));
#define TRY(...)                                                                                                       \
	({                                                                                                             \
		last.vec = NONE;                                                                                       \
		int _v = rt_try();                                                                                     \
		if (_v == -2) {                                                                                        \
			__VA_ARGS__;                                                                                   \
			_v = NONE;                                                                                     \
		}                                                                                                      \
		rt_caught();                                                                                           \
		_v;                                                                                                    \
	})
void rt_caught(void);
#define FAULTS(name, vec, err, ...) rt_fault(name, TRY(__VA_ARGS__), vec, err)
#define RUNS(name, ...) rt_fault(name, TRY(__VA_ARGS__), NONE, 0)
#define RUNS_IN_USER(name, ...) rt_fault(name, TRY(__VA_ARGS__), DONE, 0)
void rt_fault(const char *name, int got, int want, ulong want_err);
void check(const char *name, u64 got, u64 want);
void skip(const char *name);
void say(const char *fmt, ...); /* %s %x %d, %lx for u64 */
void finish(void) __attribute__((noreturn));
/* A name built of parts; valid until the next call. */
const char *nm(const char *fmt, ...);

/* Enter ring 3 at `fn` with `arg` in CX and DI (on the stack too, for C); its
 * return, or int $0x30, ends it. Only inside TRY(). */
void user(const void *fn, ulong arg);
void user_at(ulong ip, ulong sp, ulong flags, ulong arg);
extern u8 user_done[];

/* Descriptors. access: P DPL S type; flags: G D/B L AVL in the low nibble. */
u64 desc(u32 base, u32 limit, u8 access, u8 flags);
void set_desc(unsigned sel, u64 d);
u64 get_desc(unsigned sel);
void set_gate(unsigned vec, unsigned sel, ulong off, u8 access, u8 ist); /* in the IDT */
void reset_gate(unsigned vec);						 /* as at start */
ulong stub_of(unsigned vec);
void load_tss(void); /* TSS_SEL, made available again */

#define A_P 0x80
#define A_DPL(n) ((n) << 5)
#define A_CODE 0x1a  /* S, code, readable */
#define A_XCODE 0x18 /* S, code, execute-only */
#define A_CONF 0x1e  /* S, code, conforming, readable */
#define A_DATA 0x12  /* S, data, writable */
#define A_RODATA 0x10
#define A_DOWN 0x16 /* S, data, expand-down, writable */
#define A_INTR 0x8e /* P, interrupt gate */
#define A_TRAP 0x8f
#define A_CALL 0x8c
#define A_TASK 0x85
#define A_TSS 0x89
#define A_TSS_BUSY 0x8b
#define A_LDT 0x82
#define F_4G 0xc /* pages, 32 bits */
#define F_32 0x4 /* bytes, 32 bits */
#define F_L 0xa

void *memset(void *p, int c, ulong n);
void *memcpy(void *d, const void *s, ulong n);

static inline void outb(u16 port, u8 v)
{
	asm volatile("outb %0,%1" ::"a"(v), "Nd"(port));
}
static inline u8 inb(u16 port)
{
	u8 v;
	asm volatile("inb %1,%0" : "=a"(v) : "Nd"(port));
	return v;
}
static inline void outl(u16 port, u32 v)
{
	asm volatile("outl %0,%1" ::"a"(v), "Nd"(port));
}
static inline u64 rdmsr(u32 n)
{
	u32 a, d;
	asm volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(n));
	return (u64)d << 32 | a;
}
static inline void wrmsr(u32 n, u64 v)
{
	asm volatile("wrmsr" ::"c"(n), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}
static inline void cpuid(u32 leaf, u32 sub, u32 out[4])
{
	asm volatile("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3]) : "a"(leaf), "c"(sub));
}
static inline u32 cpuid_reg(u32 leaf, u32 sub, int reg)
{
	u32 r[4], top[4];
	cpuid(leaf & 0x80000000, 0, top);
	if (leaf > top[0])
		return 0;
	cpuid(leaf, sub, r);
	return r[reg];
}
#define CR(n)                                                                                                          \
	static inline ulong cr##n(void)                                                                                \
	{                                                                                                              \
		ulong v;                                                                                               \
		asm volatile("mov %%cr" #n ",%0" : "=r"(v));                                                           \
		return v;                                                                                              \
	}                                                                                                              \
	static inline void set_cr##n(ulong v)                                                                          \
	{                                                                                                              \
		asm volatile("mov %0,%%cr" #n ::"r"(v) : "memory");                                                    \
	}
CR(0)
CR(2)
CR(3)
CR(4)
#define DR(n)                                                                                                          \
	static inline ulong dr##n(void)                                                                                \
	{                                                                                                              \
		ulong v;                                                                                               \
		asm volatile("mov %%db" #n ",%0" : "=r"(v));                                                           \
		return v;                                                                                              \
	}                                                                                                              \
	static inline void set_dr##n(ulong v)                                                                          \
	{                                                                                                              \
		asm volatile("mov %0,%%db" #n ::"r"(v) : "memory");                                                    \
	}
DR(0)
DR(1)
DR(2)
DR(3)
DR(6)
DR(7)
static inline ulong flags(void)
{
	ulong v;
	asm volatile("pushf; pop %0" : "=r"(v));
	return v;
}
static inline void set_flags(ulong v)
{
	asm volatile("push %0; popf" ::"r"(v) : "memory", "cc");
}
static inline void sgdt(struct desc_ptr *p)
{
	asm volatile("sgdt %0" : "=m"(*p));
}
static inline void lgdt(struct desc_ptr *p)
{
	asm volatile("lgdt %0" ::"m"(*p));
}
static inline void lidt(struct desc_ptr *p)
{
	asm volatile("lidt %0" ::"m"(*p));
}

#define FL_CF 0x1
#define FL_TF 0x100
#define FL_IF 0x200
#define FL_DF 0x400
#define FL_OF 0x800
#define FL_IOPL 0x3000
#define FL_NT 0x4000
#define FL_RF 0x10000
#define FL_VM 0x20000
#define FL_AC 0x40000
#define FL_VIF 0x80000
#define FL_VIP 0x100000
#define FL_ID 0x200000

int main(void);

#endif

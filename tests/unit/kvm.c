/*
 * The engine kvm without a machine: the same programs under interp and kvm,
 * changes of the engine on the way, interrupts, kicks, the log of dirty pages.
 * Skipped without /dev/kvm. A program here is a few hundred instructions: where
 * KVM is emulated in software it is slow, too.
 */
#include "kvm_rig.h"
#include "mem/track.h"

/* ---- programs ---- */

extern const u8 real_code[], real_end[], modes_code[], modes_end[], irq_code[], irq_end[], spin_code[], spin_end[],
    pages_code[], pages_end[], cpuid_code[], cpuid_end[];

/* clang-format off */
__asm__(
"	.pushsection .rodata\n"
/* Real mode: arithmetic, stack, strings, calls, segments, ports, a software interrupt. */
"	.code16\n"
"real_code:\n"
"	xorl %eax, %eax; movl $0x12345678, %ebx; movw $0x100, %cx\n"
"1:	addl %ebx, %eax; rorl $3, %ebx; adcw %cx, %dx; loop 1b\n"
"	pushl %eax; pushfw; popw %si; popl %edi\n"
"	movw $0x900, %ax; movw %ax, %es; xorw %di, %di; movw $64, %cx; cld; rep stosw\n"
"	movw $0x900, %ax; movw %ax, %ds; xorw %si, %si; movw $0x40, %di; movw $32, %cx; rep movsb\n"
"	call 2f; jmp 3f\n"
"2:	movl $0xcafe, %ebp; ret\n"
"3:	xorw %ax, %ax; movw %ax, %ds; movw $0x9000, %ax\n"
"	movw $(4f - real_code + 0x8000), 0x80; movw $0, 0x82\n"
"	int $0x20; jmp 5f\n"
"4:	incl %ebp; iretw\n"
"5:	movw $0xe9, %dx; movb $'r', %al; outb %al, %dx; inb %dx, %al; movb %al, 0x9400\n"
"	movl %cr0, %ecx; cmpb %al, %ah; hlt\n"
"real_end:\n"
/* From real mode through protected mode with paging off to 64-bit mode, a page fault there, MMIO, CPUID, MSRs. */
"	.code16\n"
"modes_code:\n"
"	cli; lgdtl 0x8000 + gdt_ptr - modes_code; movl %cr0, %eax; orb $1, %al; movl %eax, %cr0\n"
"	ljmpl $8, $(0x8000 + prot - modes_code)\n"
"	.code32\n"
"prot:	movw $0x10, %ax; movw %ax, %ds; movw %ax, %es; movw %ax, %ss; movl $0x7000, %esp\n"
"	movl $0x10000, %edi; xorl %eax, %eax; movl $0x1000, %ecx; rep stosl\n"
"	movl $0x11003, 0x10000; movl $0x12003, 0x11000; movl $0x83, 0x12000\n"
"	movl %cr4, %eax; orl $0x20, %eax; movl %eax, %cr4; movl $0x10000, %eax; movl %eax, %cr3\n"
"	movl $0xc0000080, %ecx; rdmsr; orl $0x101, %eax; wrmsr\n"
"	movl %cr0, %eax; orl $0x80010000, %eax; movl %eax, %cr0\n"
"	ljmp $0x18, $(0x8000 + long - modes_code)\n"
"	.code64\n"
"long:	movl $0x7000, %esp; lidt 0x8000 + idt_ptr - modes_code\n"
"	movq $(0x8000 + fault - modes_code), %rax; movw %ax, 0x200e0; movw $0x18, 0x200e2; movw $0x8e00, 0x200e4\n"
"	shrq $16, %rax; movw %ax, 0x200e6; movl $0, 0x200e8; movl $0, 0x200ec\n"
"	movq $0x123456789abcdef, %r8; movq %r8, %r9; rolq $13, %r9; bswapq %r9; xorq %r8, %r9\n"
"	movl $0x1000, %ecx\n"
"1:	addq %r9, %r10; leaq 7(%r10,%r8,2), %r11; xorq %r11, %r12; decl %ecx; jnz 1b\n"
"	movl $0xc0000102, %ecx; movl $0x5678, %eax; movl $0x1234, %edx; wrmsr; swapgs; rdmsr; movl %eax, %r13d; swapgs\n"
"	movl $0x2ff, %ecx; movl $0xc06, %eax; xorl %edx, %edx; wrmsr; rdmsr; movl %eax, %r14d\n"
"	movq $0x200008, %rbx; movq %r12, (%rbx)\n" /* page fault: mapped by the handler */
"	movq (%rbx), %r15; lock cmpxchg8b 0x30000\n"
"	movl $0x40000000, %eax; cpuid; movl %ebx, 0x30030; movl %ecx, 0x30034; movl %edx, 0x30038\n"
"	movq $0x13003, %rax; orq $0, %rax; movq %rax, 0x11018; movq $0xfd000083 & ~0x1fffff | 0x83, %rax\n"
"	movl $0xfd000000 & ~0x1fffff | 0x83, %eax; movq %rax, 0x13f40; movl $0xfd000040, %ebx\n"
"	movl $'m', %eax; movl %eax, (%rbx); movq 8(%rbx), %rax; movq %rax, 0x30040\n"
"	movsd 0x30040, %xmm1; addsd %xmm1, %xmm1; pxor %xmm2, %xmm2; cvtsi2sdq %r8, %xmm2; fld1; fldpi; faddp\n"
"	movl $2, %eax; movq %rax, %cr8; movq %cr8, %rbp\n"
"	xorl %eax, %eax; xorl %edx, %edx; hlt\n"
"fault:	movq %cr2, %rsi; movl $0x83 + 0x200000, 0x12008; popq %rdi; iretq\n"
"	.balign 8\n"
"gdt:	.quad 0, 0xcf9b000000ffff, 0xcf93000000ffff, 0xaf9b000000ffff\n"
"gdt_ptr: .word 31; .long 0x8000 + gdt - modes_code\n"
"idt_ptr: .word 0xfff; .quad 0x20000\n"
"modes_end:\n"
/* Interrupts in real mode: STI and HLT until three came, then one below CR8's threshold is not taken. */
"	.code16\n"
"irq_code:\n"
"	xorw %ax, %ax; movw %ax, %ds; movw %ax, %ss; movw $0x7000, %sp\n"
"	movw $(0x8000 + irq_handler - irq_code), 0x31 * 4; movw $0, 0x31 * 4 + 2\n"
"	movw $(0x8000 + nmi_handler - irq_code), 2 * 4; movw $0, 2 * 4 + 2\n"
"1:	sti; hlt; cli; cmpw $3, %bx; jb 1b\n"
"	hlt\n"
"irq_handler: incw %bx; movb %bl, %al; outb %al, $0xe9; iretw\n"
"nmi_handler: incw %bp; outb %al, $0xe9; iretw\n"
"irq_end:\n"
"spin_code: 1: incl %eax; jmp 1b\n"
"spin_end:\n"
/* CPUID of 32 leaves and sub-leaves that lie at 2000:0, over them. */
"cpuid_code:\n"
"	movw $0x2000, %ax; movw %ax, %ds; xorw %si, %si; movw $32, %bp\n"
"1:	movl (%si), %eax; movl 4(%si), %ecx; cpuid; movl %eax, (%si); movl %ebx, 4(%si); movl %ecx, 8(%si)\n"
"	movl %edx, 12(%si); addw $16, %si; decw %bp; jnz 1b; hlt\n"
"cpuid_end:\n"
/* Writes to three pages. */
"pages_code:\n"
"	movw $0x2000, %ax; movw %ax, %ds; movb $1, 0; movw $0x3000, %ax; movw %ax, %ds; movl $1, 0xffe\n"
"	outb %al, $0xe9; hlt\n"
"pages_end:\n"
"	.code64\n"
"	.popsection\n");
/* clang-format on */

static void load(const u8 *code, const u8 *end)
{
	struct vcpu *v = rig.v;

	memset(memory_ram(rig.mem), 0, RAM);
	memcpy(memory_ram(rig.mem) + CODE, code, (size_t)(end - code));
	rig.outs = rig.waiting = 0;
	rig.cr8 = 0;
	rig.triple = false;
	rig.on_out = NULL;
	cpu_reset(v, false);
	xstate_fninit(&v->cpu);
	v->cpu.seg[SEG_CS].sel = 0;
	v->cpu.seg[SEG_CS].base = 0;
	v->cpu.rip = CODE;
	v->cpu.gpr[REG_RSP] = STACK;
	v->cpu.cr4 |= CR4_OSFXSR;
	mmu_flush_all(v);
	mmu_mode_changed(v);
	cpu_recheck_events(v);
}

static enum vcpu_exit run(void)
{
	const struct run_budget forever = { .insns = UINT64_MAX };

	vcpu_clear(rig.v, EV_KICK | EV_TIMER | EV_RESET);
	return rig.v->engine->run(rig.v, &forever);
}

struct outcome {
	struct cpu cpu;
	u8 *ram;
	u8 out[64];
	unsigned outs;
	u64 cr8;
};

static struct outcome take(void)
{
	struct outcome o = { .cpu = rig.v->cpu, .ram = malloc(RAM), .outs = rig.outs, .cr8 = rig.cr8 };

	assert_non_null(o.ram);
	memcpy(o.ram, memory_ram(rig.mem), RAM);
	memcpy(o.out, rig.out, sizeof(o.out));
	return o;
}

static void assert_same_outcome(const struct outcome *a, const struct outcome *b, const char *what)
{
	assert_same_cpu(&a->cpu, &b->cpu, what);
	for (size_t i = 0; i < RAM; i++)
		if (a->ram[i] != b->ram[i])
			fail_msg("%s: memory at %zx: %02x and %02x", what, i, a->ram[i], b->ram[i]);
	assert_int_equal(a->outs, b->outs);
	assert_memory_equal(a->out, b->out, a->outs);
	assert_int_equal(a->cr8, b->cr8);
}

static struct outcome outcome_of(const struct engine_ops *engine, const u8 *code, const u8 *end)
{
	struct outcome o;

	attach(engine);
	load(code, end);
	assert_int_equal(run(), VCPU_EXIT_HALT);
	assert_int_equal(rig.v->cpu.activity, ACT_HALTED);
	o = take();
	detach();
	return o;
}

static void compare(const u8 *code, const u8 *end, const char *what)
{
	struct outcome a = outcome_of(&engine_interp, code, end), b = outcome_of(&engine_kvm, code, end);

	assert_same_outcome(&a, &b, what);
	free(a.ram);
	free(b.ram);
}

static void test_real_mode(void **state)
{
	compare(real_code, real_end, "real mode");
	assert_int_equal(rig.out[0], 'r');
}

static void test_all_modes(void **state)
{
	compare(modes_code, modes_end, "to 64-bit mode");
	assert_true(cpu_64bit(&rig.v->cpu));
	assert_int_equal(rig.v->cpu.gpr[REG_RSI], 0x200008);
	assert_int_equal(rig.out[0], 'm');
}

/* The guest's CPUID is the model's. */
static void test_cpuid(void **state)
{
	static const u32 leaves[32][2] = {
		{ 0 },		{ 1 },		{ 2 },		{ 4, 0 },	{ 4, 1 },	{ 4, 2 },
		{ 4, 3 },	{ 4, 4 },	{ 5 },		{ 6 },		{ 7, 0 },	{ 7, 1 },
		{ 7, 2 },	{ 0xa },	{ 0xb, 0 },	{ 0xb, 1 },	{ 0xb, 2 },	{ 0xd, 0 },
		{ 0xd, 1 },	{ 0xd, 2 },	{ 0xd, 9 },	{ 0x15 },	{ 0x16 },	{ 0x40000000 },
		{ 0x40000010 }, { 0x80000000 }, { 0x80000001 }, { 0x80000002 }, { 0x80000006 }, { 0x80000007 },
		{ 0x80000008 }, { 0x1f, 1 },
	};
	struct engine_verdict why = { .usable = false };
	u32 *at = (u32 *)(memory_ram(rig.mem) + 0x20000), expected[4];

	engine_kvm.probe(&why);
	if (!why.advisable) {
		print_message("# skipped: a KVM in software may show features of the host that it was not told of\n");
		skip();
	}
	attach(&engine_kvm);
	load(cpuid_code, cpuid_end);
	for (unsigned i = 0; i < 32; i++)
		memcpy(at + 4 * i, leaves[i], 8);
	assert_int_equal(run(), VCPU_EXIT_HALT);
	for (unsigned i = 0; i < 32; i++) {
		cpu_cpuid(rig.v, leaves[i][0], leaves[i][1], expected);
		for (unsigned k = 0; k < 4; k++)
			if (at[4 * i + k] != expected[k])
				fail_msg("leaf %x.%u, register %u: %08x, not %08x", leaves[i][0], leaves[i][1], k,
					 at[4 * i + k], expected[k]);
	}
}

/* ---- changing the engine on the way ---- */

static pthread_t kicker;
static _Atomic bool kicking;

static void *kick_main(void *opaque)
{
	while (kicking) {
		usleep(300);
		vcpu_raise(rig.v, EV_KICK);
		if (rig.v->engine == &engine_kvm)
			engine_kvm.kick(rig.v);
	}
	return NULL;
}

/* The engine changes at every kick, and at each access to the port, in the middle of the program. */
static struct outcome switching(const u8 *code, const u8 *end)
{
	struct outcome o;
	unsigned changes = 0;
	enum vcpu_exit why;

	attach(&engine_kvm);
	load(code, end);
	do {
		const struct run_budget few = { .insns = 37 };

		vcpu_clear(rig.v, EV_KICK);
		/* under interp a few instructions, under kvm until the port or a kick */
		why = rig.v->engine == &engine_interp ? engine_interp.run(rig.v, &few) : run();
		if (why == VCPU_EXIT_HALT)
			break;
		const struct engine_ops *next = rig.v->engine == &engine_kvm ? &engine_interp : &engine_kvm;

		detach();
		attach(next);
		vcpu_raise(rig.v, EV_KICK); /* kvm does not get far: one exit at most */
		vcpu_clear(rig.v, EV_KICK);
	} while (++changes < 2000);
	assert_int_equal(why, VCPU_EXIT_HALT);
	o = take();
	detach();
	return o;
}

static void kick_self(u8 byte)
{
	vcpu_raise(rig.v, EV_KICK);
}

static void test_switching(void **state)
{
	struct outcome a = outcome_of(&engine_interp, modes_code, modes_end), b;

	for (unsigned n = 0; n < 5; n++) {
		kicking = false;
		b = switching(modes_code, modes_end);
		assert_same_outcome(&a, &b, "engines changed on the way");
		free(b.ram);
	}
	free(a.ram);
}

/* An exit's instruction is finished before the state is looked at: the OUT has retired. */
static void test_boundary(void **state)
{
	attach(&engine_kvm);
	load(pages_code, pages_end);
	rig.on_out = kick_self;
	assert_int_equal(run(), VCPU_EXIT_EVENT);
	assert_int_equal(rig.v->cpu.rip, CODE + (pages_end - pages_code) - 1);
	assert_int_equal(rig.outs, 1);
	rig.on_out = NULL;
	assert_int_equal(run(), VCPU_EXIT_HALT);
	assert_int_equal(rig.outs, 1);
}

/* ---- events ---- */

static void test_kick(void **state)
{
	attach(&engine_kvm);
	load(spin_code, spin_end);
	kicking = true;
	assert_int_equal(pthread_create(&kicker, NULL, kick_main, NULL), 0);
	for (unsigned n = 0; n < 20; n++)
		assert_int_equal(run(), VCPU_EXIT_EVENT);
	kicking = false;
	pthread_join(kicker, NULL);
	assert_true(rig.v->cpu.rip >= CODE && rig.v->cpu.rip < CODE + 8);
}

/* In the handler of the first NMI another two come: one waits for IRET. */
static void more_nmis(u8 byte)
{
	if (rig.v->cpu.nmi_pending || rig.nmis == 2)
		return;
	rig.nmis++;
	rig.v->cpu.nmi_pending = true;
	vcpu_raise(rig.v, EV_NMI);
}

static void test_interrupts(void **state)
{
	attach(&engine_kvm);
	load(irq_code, irq_end);
	assert_int_equal(run(), VCPU_EXIT_HALT); /* nothing came */
	for (unsigned n = 1; n <= 3; n++) {
		rig.vectors[rig.waiting++] = 0x31;
		vcpu_raise(rig.v, EV_INTR);
		assert_int_equal(run(), VCPU_EXIT_HALT);
		assert_int_equal((u16)rig.v->cpu.gpr[REG_RBX], n);
		assert_int_equal(rig.outs, n);
	}
	/* IF is clear: an interrupt does not wake it, an NMI does */
	rig.vectors[rig.waiting++] = 0x31;
	vcpu_raise(rig.v, EV_INTR);
	assert_int_equal(run(), VCPU_EXIT_HALT);
	assert_int_equal(rig.waiting, 1);
	rig.v->cpu.nmi_pending = true;
	vcpu_raise(rig.v, EV_NMI);
	rig.on_out = more_nmis;
	run();
	assert_int_equal((u16)rig.v->cpu.gpr[REG_RBP], 3);
	assert_false(rig.v->cpu.nmi_pending || rig.v->cpu.nmi_blocked);
}

static void test_triple_fault(void **state)
{
	static const u8 ud[] = { 0x0f, 0x0b };

	attach(&engine_kvm);
	load(ud, ud + sizeof(ud));
	rig.v->cpu.cr0 |= CR0_PE;
	for (unsigned i = 0; i < SEG_COUNT; i++)
		rig.v->cpu.seg[i] = (struct segment){ .sel = 16, .attr = 0xc093, .limit = 0xffffffff };
	rig.v->cpu.seg[SEG_CS] = (struct segment){ .sel = 8, .attr = 0xc09b, .limit = 0xffffffff };
	rig.v->cpu.gdtr.limit = rig.v->cpu.idtr.limit = 0;
	assert_int_equal(run(), VCPU_EXIT_HALT);
	assert_int_equal(rig.v->cpu.activity, ACT_SHUTDOWN);
	assert_true(rig.triple);
}

/* ---- memory ---- */

static void harvest(struct track *t, u64 *dirty)
{
	memset(dirty, 0, RAM / PAGE_SIZE / 8);
	track_harvest(t, dirty, true);
}

/* One log of what KVM's guest, devices and the reference engine write, also while the engine and the map change. */
static void test_dirty_log(void **state)
{
	static const u64 pages = BIT(0x20) | BIT(0x30) | BIT(0x31); /* of pages_code, not the code's own */
	const struct run_budget ten = { .insns = 10 };
	u64 dirty[RAM / PAGE_SIZE / 64] = { 0 };
	struct error e = { .text = "" };
	struct track *t;
	struct region *r;

	attach(&engine_kvm);
	load(pages_code, pages_end);
	t = track_start(rig.mem, NULL, NULL, &e);
	assert_non_null(t);
	assert_int_equal(run(), VCPU_EXIT_HALT);
	memory_write(rig.mem, 0x15000, "device", 6);
	harvest(t, dirty);
	assert_int_equal(dirty[0], pages | BIT(0x15));
	for (unsigned i = 1; i < ARRAY_SIZE(dirty); i++)
		assert_int_equal(dirty[i], 0);
	harvest(t, dirty);
	assert_int_equal(dirty[0], 0);
	/* a slot that goes, and one that is new */
	load(pages_code, pages_end);
	harvest(t, dirty);
	assert_int_equal(run(), VCPU_EXIT_HALT);
	r = memory_map_mmio(rig.mem, 0x30000, PAGE_SIZE, &mmio_ops, NULL, 5, "device");
	harvest(t, dirty);
	assert_int_equal(dirty[0], pages);
	region_remove(rig.mem, r);
	/* the reference engine inside, twice over the same frames */
	for (unsigned n = 0; n < 2; n++) {
		load(pages_code, pages_end);
		harvest(t, dirty);
		vcpu_clear(rig.v, EV_KICK | EV_TIMER | EV_RESET);
		engine_kvm.run(rig.v, &ten);
		harvest(t, dirty);
		assert_int_equal(dirty[0], pages);
	}
	/* the engine goes before the harvest, and comes while the track is there */
	load(pages_code, pages_end);
	harvest(t, dirty);
	assert_int_equal(run(), VCPU_EXIT_HALT);
	detach();
	harvest(t, dirty);
	assert_int_equal(dirty[0], pages);
	load(pages_code, pages_end);
	attach(&engine_kvm);
	harvest(t, dirty);
	assert_int_equal(run(), VCPU_EXIT_HALT);
	harvest(t, dirty);
	assert_int_equal(dirty[0], pages);
	track_stop(t);
}

/* The map changes while the engine is attached: RAM hidden by a device, ROM, a move, and back. */
static void test_map_changes(void **state)
{
	static const u8 code[] = {
		0xb8, 0x00, 0x20, 0x8e, 0xd8, 0xa0, 0x00, 0x00, /* mov ax, 2000h; mov ds, ax; mov al, [0] */
		0xc6, 0x06, 0x00, 0x00, 0x5a,			/* mov byte [0], 5ah */
		0x8a, 0x26, 0x00, 0x00, 0xf4,			/* mov ah, [0]; hlt */
	};
	u8 *rom = aligned_alloc(PAGE_SIZE, PAGE_SIZE);
	struct region *r;

	assert_non_null(rom);
	memset(rom, 0x77, PAGE_SIZE);
	attach(&engine_kvm);
	load(code, code + sizeof(code));
	assert_int_equal(run(), VCPU_EXIT_HALT);
	assert_int_equal((u16)rig.v->cpu.gpr[REG_RAX], 0x5a00);
	r = memory_map_host(rig.mem, 0x20000, rom, PAGE_SIZE, REGION_ROM, 5, "rom");
	load(code, code + sizeof(code));
	assert_int_equal(run(), VCPU_EXIT_HALT);
	assert_int_equal((u16)rig.v->cpu.gpr[REG_RAX], 0x7777);
	assert_int_equal(rom[0], 0x77);
	region_set(rig.mem, r, 0x21000, true);
	load(code, code + sizeof(code));
	assert_int_equal(run(), VCPU_EXIT_HALT);
	assert_int_equal((u16)rig.v->cpu.gpr[REG_RAX], 0x5a00);
	region_remove(rig.mem, r);
	r = memory_map_mmio(rig.mem, 0x20000, 16, &mmio_ops, NULL, 5, "small device");
	load(code, code + sizeof(code));
	assert_int_equal(run(), VCPU_EXIT_HALT);
	assert_int_equal((u16)rig.v->cpu.gpr[REG_RAX], 0x0000);
	assert_int_equal(rig.outs, 1);
	assert_int_equal(rig.out[0], 0x5a);
	assert_int_equal(memory_ram(rig.mem)[0x20000], 0);
	region_remove(rig.mem, r);
	load(code, code + sizeof(code));
	assert_int_equal(run(), VCPU_EXIT_HALT);
	assert_int_equal((u16)rig.v->cpu.gpr[REG_RAX], 0x5a00);
	detach();
	free(rom);
}

/* A guest that was shown more than KVM has, or another TSC, is refused with a line. */
static void test_refused(void **state)
{
	struct cpu_model own = rig.model;
	struct error e = { .text = "" };

	for (unsigned i = 0; i < own.entries; i++)
		if (own.entry[i].leaf == 1)
			own.entry[i].ecx |= 1u << 3 | 1u << 5; /* MONITOR, VMX */
	rig.v->model = &own;
	assert_int_equal(engine_kvm.vcpu_attach(rig.v, &e), -1);
	assert_non_null(strstr(e.text, "CPUID 1"));
	assert_non_null(strstr(e.text, "--cpu-model kvm"));
	rig.v->model = &rig.model;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_real_mode, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_all_modes, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_cpuid, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_switching, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_boundary, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_kick, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_interrupts, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_triple_fault, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_dirty_log, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_map_changes, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_refused, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

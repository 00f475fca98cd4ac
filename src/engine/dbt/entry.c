/*
 * The passages between C and translated code, made once at the start of the
 * code cache.
 */
#include "engine/dbt/dbt.h"
#include "engine/dbt/emit.h"
#include "engine/dbt/rep.h"
#include "engine/dbt/translate.h"

static const u8 callee_saved[] = { H_RBX, H_RBP, H_R12, H_R13, H_R14, H_R15 };

static void push_pop(struct emit *e, unsigned op, unsigned reg)
{
	if (reg >> 3)
		put(e, 0x41);
	put(e, op | (reg & 7));
}

/* mov word gs:[flags], ax or back (movzx eax) */
static void flags_out(struct emit *e)
{
	put_bytes(e, (const u8[]){ 0x9f, 0x0f, 0x90, 0xc0 }, 4); /* lahf ; seto al */
	put_bytes(e, (const u8[]){ 0x65, 0x66, 0x89 }, 3);
	put_gs_operand(e, H_RAX, HOT(flags));
}
static void flags_in(struct emit *e)
{
	put_bytes(e, (const u8[]){ 0x65, 0x0f, 0xb7 }, 3);
	put_gs_operand(e, H_RAX, HOT(flags));
	put_bytes(e, (const u8[]){ 0x04, 0x7f, 0x9e }, 3); /* add al, 127 ; sahf */
}

/* void enter(struct vcpu *) */
static void make_enter(struct emit *e)
{
	for (unsigned k = 0; k < ARRAY_SIZE(callee_saved); k++)
		push_pop(e, 0x50, callee_saved[k]);
	store_gs(e, H_RSP, HOT(host_sp));
	/* mov r15, [rdi + mmu] ; mov r15, [r15 + flat_base] */
	op_rm(e, true, 0x8b, H_R15, H_RDI, (s32)offsetof(struct vcpu, mmu));
	op_rm(e, true, 0x8b, H_R15, H_R15, (s32)offsetof(struct mmu, flat_base));
	flags_in(e);
	load_gs(e, H_RAX, 0);
	for (unsigned g = 1; g < 16; g++)
		if (home[g] != HOME_MEMORY)
			load_gs(e, home[g], gpr_off(g));
	load_gs(e, H_R14, HOT(t0));
	load_gs(e, H_RCX, HOT(t1));
	load_gs(e, H_RSP, HOT(ret_sp));
	put_bytes(e, (const u8[]){ 0x65, 0xff }, 2); /* jmp gs:[pc] */
	put_gs_operand(e, 4, HOT(pc));
}

static void make_leave(struct emit *e, struct dbt_shared *sh)
{
	const u8 *common, *saved = e->p + e->to_rx;
	u8 *over;

	store_gs(e, H_RAX, 0);
	mov_gs_imm32(e, HOT(saved), 1);
	put(e, 0xeb);
	over = e->p;
	put(e, 0);
	common = e->p + e->to_rx;
	store_gs(e, H_RAX, 0);
	flags_out(e);
	mov_gs_imm32(e, HOT(saved), 0);
	*over = (u8)(e->p - (over + 1));
	for (unsigned g = 1; g < 16; g++)
		if (home[g] != HOME_MEMORY)
			store_gs(e, home[g], gpr_off(g));
	store_gs(e, H_R14, HOT(t0));
	store_gs(e, H_RSP, HOT(ret_sp));
	load_gs(e, H_RSP, HOT(host_sp));
	sh->leave_host = e->p + e->to_rx;
	for (unsigned k = ARRAY_SIZE(callee_saved); k-- > 0;)
		push_pop(e, 0x58, callee_saved[k]);
	put(e, 0xc3);
	/* Reached with ECX = info. */
	for (unsigned r = 0; r < LEAVE_COUNT; r++) {
		sh->leave[r] = e->p + e->to_rx;
		op_gs(e, false, 0x89, H_RCX, HOT(info));
		mov_gs_imm32(e, HOT(reason), r);
		jump(e, 0xe9, common);
		sh->leave_saved[r] = e->p + e->to_rx;
		op_gs(e, false, 0x89, H_RCX, HOT(info));
		mov_gs_imm32(e, HOT(reason), r);
		jump(e, 0xe9, saved);
	}
}

/* R14 = target, ECX = tinsn of the branch: through the set's jump cache. */
static void make_indirect(struct emit *e, struct dbt_shared *sh, enum dbt_width w)
{
	const u8 *common;

	sh->ret_wrong[w] = e->p + e->to_rx; /* a return that is not the caller's: forget them all */
	load_gs(e, H_RSP, HOT(ret_base));
	put(e, 0xeb);
	put(e, 5);
	sh->ret_miss[w] = e->p + e->to_rx; /* the return stack was empty: stay at its bottom */
	lea(e, H_RSP, H_RSP, -8);
	common = e->p + e->to_rx;
	put_jump_slot(e);
	put_bytes(e, (const u8[]){ 0x41, 0xff }, 2); /* jmp [r15 + rcx*8 + AUX_JUMP] */
	put_base_index_disp(e, 4, H_R15, H_RCX, 3, (s32)AUX_JUMP(w));
	sh->jump_indirect[w] = e->p + e->to_rx;
	op_gs(e, false, 0x89, H_RCX, HOT(branch));
	jump(e, 0xe9, common);
}

/* shrx dst, src, count (64 bit) */
static void shrx(struct emit *e, unsigned dst, unsigned src, unsigned count)
{
	put_bytes(e, (const u8[]){ 0xc4, 0xe2, 0x83 | (~count & 15) << 3, 0xf7, 0xc0 | dst << 3 | src }, 5);
}

/* pext dst, dst, qword gs:[disp] */
static void pext64(struct emit *e, unsigned dst, u32 disp)
{
	put_bytes(e, (const u8[]){ 0x65, 0xc4, 0xe2, 0x82 | (~dst & 15) << 3, 0xf5 }, 5);
	put_gs_operand(e, dst, disp);
}

/*
 * R14 = first, RCX = last byte of a store inside one page that has no write
 * entry. RCX = its entry if there is code in the page, but none in the lines
 * the store touches; else 0. The rest and the flags are kept: four sums of what
 * must be zero (the page, the generation, two lines) are looked at together.
 */
static void make_code_store(struct emit *e, struct dbt_shared *sh)
{
	static const u8 used[] = { H_RAX, H_RDX, H_RBX };
	u8 *miss;

	sh->code_store = e->p + e->to_rx;
	for (unsigned k = 0; k < ARRAY_SIZE(used); k++)
		store_gs(e, used[k], HOT(spill) + 8 * k);
	pext_gs(e, H_RDX, H_R14, HOT(slot_mask));
	put_bytes(e, (const u8[]){ 0x48, 0x8d, 0x14, 0xd5, 0, 0, 0, 0 }, 8); /* lea rdx, [rdx * 8] */
	op_rmx(e, true, 0x8d, H_RDX, H_R15, H_RDX, 3, (s32)AUX_STORES);
	op_rm(e, true, 0x8b, H_RAX, H_RDX, offsetof(struct code_store, lines));
	op_rm(e, true, 0x8b, H_RAX, H_RAX, 0);
	rorx(e, H_RCX, H_RCX, 6);
	shrx(e, H_RCX, H_RAX, H_RCX);
	pext_gs(e, H_RCX, H_RCX, HOT(one));
	rorx(e, H_RBX, H_R14, 6);
	shrx(e, H_RAX, H_RAX, H_RBX);
	pext_gs(e, H_RAX, H_RAX, HOT(one));
	op_rmx(e, true, 0x8d, H_RAX, H_RAX, H_RCX, 0, 0);
	op_rm(e, true, 0x8b, H_RBX, H_RDX, offsetof(struct code_store, minus_page));
	op_rmx(e, true, 0x8d, H_RBX, H_RBX, H_R14, 0, 0);
	pext64(e, H_RBX, HOT(page_mask));
	op_rmx(e, true, 0x8d, H_RAX, H_RAX, H_RBX, 0, 0);
	load_gs(e, H_RCX, (u32)offsetof(struct vcpu, mmu));
	op_rm(e, true, 0x8b, H_RCX, H_RCX, offsetof(struct mmu, gen));
	op_rm(e, true, 0x8b, H_RBX, H_RDX, offsetof(struct code_store, minus_gen));
	op_rmx(e, true, 0x8d, H_RCX, H_RCX, H_RBX, 0, 0);
	op_rmx(e, true, 0x8d, H_RCX, H_RCX, H_RAX, 0, 0);
	put_bytes(e, (const u8[]){ 0xe3, 7, 0xb9, 0, 0, 0, 0, 0xeb, 0 }, 9); /* jrcxz hit ; mov ecx, 0 ; jmp out */
	miss = e->p - 1;
	op_rm(e, true, 0x8b, H_RCX, H_RDX, offsetof(struct code_store, entry));
	*miss = (u8)(e->p - (miss + 1));
	for (unsigned k = 0; k < ARRAY_SIZE(used); k++)
		load_gs(e, used[k], HOT(spill) + 8 * k);
	put(e, 0xc3);
}

void dbt_make_trampolines(struct dbt_shared *sh)
{
	struct emit e = { .p = sh->rw, .end = sh->rw + TRAMPOLINES_SIZE, .to_rx = sh->rx - sh->rw };

	sh->enter_code = (void (*)(struct vcpu *))(uintptr_t)sh->rx;
	make_enter(&e);
	make_leave(&e, sh);
	for (unsigned w = 0; w < WIDTHS; w++)
		make_indirect(&e, sh, w);
	make_code_store(&e, sh);
	dbt_make_rep(sh, &e);
	if (e.overflow)
		__builtin_trap();
	sh->start = sh->used = TRAMPOLINES_SIZE;
}

/*
 * Sensitive instructions that kernels execute all the time, done in place.
 *
 * What they read and write is v->cpu, by the rules of src/cpu: each case here
 * is the plain one of the shared function named beside it. The privilege level
 * is part of a block's key; what else decides comes from hot data that the run
 * loop keeps (settle_hot()). Everything out of the ordinary leaves to the
 * shared function, before anything is changed.
 *
 * While translated code runs the status bits of v->cpu.rflags are clear: they are
 * elsewhere: no instruction here clobbers the host's flags, except POPF's, which
 * loads them all. Bits are cleared with PEXT and PDEP, set with LEA.
 */
#include "cpu/cpuid.h"
#include "engine/dbt/translate.h"
#include "isa/isa.h"

#define RFLAGS_OFF ((u32)offsetof(struct cpu, rflags))
#define BASE_OFF(n) ((u32)(offsetof(struct cpu, seg) + (n) * sizeof(struct segment) + offsetof(struct segment, base)))
#define SEL_OFF(n) ((u32)(offsetof(struct cpu, seg) + (n) * sizeof(struct segment) + offsetof(struct segment, sel)))

void dbt_sysfast_init(struct vcpu *v)
{
	struct dbt_hot *h = dhot(v);

	h->all_but_if = ~(u32)FL_IF;
	h->all_but_df = ~(u32)FL_DF;
	h->all_but_ac = ~(u32)FL_AC;
	h->status = FL_STATUS;
	h->high17 = 0x1ffff;
	h->inner16 = 0x1fffe;
}

static bool user(const struct tr *t)
{
	return t->x->key & KEY_USER;
}

static void load32(struct emit *e, unsigned dst, u32 off)
{
	op_gs(e, false, 0x8b, dst, off);
}
static void store32(struct emit *e, unsigned src, u32 off)
{
	op_gs(e, false, 0x89, src, off);
}

/* RFLAGS: the bit that `keep` lacks becomes `set` (that bit, or 0). */
static void change_flag(struct emit *e, u32 keep, u32 set)
{
	load32(e, H_RCX, RFLAGS_OFF);
	pext_gs(e, H_RCX, H_RCX, keep);
	pdep_gs(e, H_RCX, H_RCX, keep);
	if (set)
		op_rm(e, false, 0x8d, H_RCX, H_RCX, (s32)set);
	store32(e, H_RCX, RFLAGS_OFF);
}

/* If ECX is zero the shared function does it. */
static void leave_if_zero(struct tr *t, u32 sys)
{
	short_branch(t, true, new_stub(t, STUB_LEAVE, LEAVE_SYS, sys));
}
/* Into guest register `g`: RCX, of which a 4-byte operand clears the upper half. */
static void write_gpr(struct tr *t, unsigned g)
{
	if (home[g] != HOME_MEMORY)
		mov_rr(&t->e, home[g], H_RCX);
	else
		store_gs(&t->e, H_RCX, gpr_off(g));
}

void emit_direction(struct tr *t, bool down)
{
	change_flag(&t->e, HOT(all_but_df), down ? (u32)FL_DF : 0);
}

/* sys_cli() at CPL 0. */
static bool emit_cli(struct tr *t)
{
	if (user(t))
		return false;
	change_flag(&t->e, HOT(all_but_if), 0);
	return true;
}

/*
 * sys_sti() at CPL 0 with nothing pending. The shadow over the next
 * instruction is kept by looking at no event before its end: it is part of
 * this block and segment and has no safepoint. Every loop with an STI looks at
 * vcpu->go here instead.
 */
static bool emit_sti(struct tr *t, u32 sys)
{
	struct emit *e = &t->e;

	load32(e, H_RCX, (u32)offsetof(struct vcpu, go));
	leave_if_zero(t, sys);
	load32(e, H_RCX, HOT(sti_ok));
	leave_if_zero(t, sys);
	change_flag(e, HOT(all_but_if), (u32)FL_IF);
	t->shadow = true;
	return true;
}

/* sys_pushf(), 64 bits. */
static bool emit_pushf(struct tr *t)
{
	struct emit *e = &t->e;

	if (t->d->opsize != 8)
		return false;
	put_bytes(e, (const u8[]){ 0x9c, 0x59 }, 2); /* pushfq ; pop rcx */
	pext_gs(e, H_RCX, H_RCX, HOT(status));
	pdep_gs(e, H_RCX, H_RCX, HOT(status));
	load32(e, H_R14, RFLAGS_OFF);
	op_rmx(e, true, 0x8d, H_RCX, H_RCX, H_R14, 0, 0);
	store_gs(e, H_RCX, HOT(value));
	emit_open_push(t);
	mov_rr(e, home[4], H_R14);
	op_operand(e, true, 0x8d, H_R14, H_R14);
	load_gs(e, H_RCX, HOT(value));
	op_rm(e, true, 0x89, H_RCX, H_R14, 0);
	return true;
}

/* sys_popf(), 64 bits, that changes nothing but the status flags and, at CPL 0, IF. */
static bool emit_popf(struct tr *t, u32 sys)
{
	struct emit *e = &t->e;
	u32 fixed = user(t) ? HOT(popf_fixed_user) : HOT(popf_fixed);

	emit_access(t, home[4], 8, false);
	op_operand(e, true, 0x8b, H_RCX, home[4]);
	store_gs(e, H_RCX, HOT(value));
	/* the fixed bits of the image, less those of RFLAGS: zero if they are the same */
	pext_gs(e, H_R14, H_RCX, fixed);
	load32(e, H_RCX, RFLAGS_OFF);
	pext_gs(e, H_RCX, H_RCX, fixed);
	put_bytes(e, (const u8[]){ 0x48, 0xf7, 0xd1 }, 3); /* not rcx */
	op_rmx(e, true, 0x8d, H_RCX, H_RCX, H_R14, 0, 1);
	leave_unless_zero(t, LEAVE_SYS, sys);
	lea(e, home[4], home[4], 8);
	load32(e, H_RCX, HOT(value));
	if (!user(t)) {
		load32(e, H_R14, RFLAGS_OFF);
		put_bytes(e, (const u8[]){ 0x41, 0x81, 0xe6 }, 3); /* and r14d, imm32 */
		put32(e, ~(u32)FL_IF);
		put_bytes(e, (const u8[]){ 0x81, 0xe1 }, 2); /* and ecx, imm32 */
		put32(e, (u32)FL_IF);
		op_rr(e, false, 0x09, H_RCX, H_R14); /* or r14d, ecx */
		store32(e, H_R14, RFLAGS_OFF);
		load32(e, H_RCX, HOT(value));
	}
	mov_rr(e, H_R14, H_RAX);
	op_rr(e, false, 0x89, H_RCX, H_RAX);
	put_bytes(e,
		  (const u8[]){
		      0xc1, 0xe0, 8,	    /* shl eax, 8: AH is the image's low byte */
		      0x0f, 0xba, 0xe1, 11, /* bt ecx, 11 */
		      0x0f, 0x92, 0xc0,	    /* setc al */
		      0x04, 0x7f,	    /* add al, 127 */
		      0x9e,		    /* sahf */
		  },
		  13);
	mov_rr(e, H_RAX, H_R14);
	return true;
}

/* sys_stac() and sys_clac() at CPL 0: mmu_mode_changed() included. */
static bool emit_ac(struct tr *t, unsigned ac)
{
	struct emit *e = &t->e;

	if (user(t) || !t->v->model->smap)
		return false;
	change_flag(e, HOT(all_but_ac), ac ? (u32)FL_AC : 0);
	load_gs(e, H_R15, HOT(ac_base) + 8 * ac);
	load_gs(e, H_RCX, (u32)offsetof(struct vcpu, mmu));
	op_rm(e, true, 0x89, H_R15, H_RCX, (s32)offsetof(struct mmu, flat_base));
	load_gs(e, H_R14, HOT(ac_table) + 8 * ac);
	op_rm(e, true, 0x89, H_R14, H_RCX, (s32)offsetof(struct mmu, current));
	load32(e, H_R14, HOT(ac_index) + 4 * ac);
	op_rm(e, false, 0x88, H_R14, H_RCX, (s32)offsetof(struct mmu, index));
	return true;
}

/* sys_swapgs() at CPL 0. */
static bool emit_swapgs(struct tr *t)
{
	struct emit *e = &t->e;
	const u32 kernel = (u32)offsetof(struct cpu, kernel_gs_base);

	if (user(t))
		return false;
	load_gs(e, H_RCX, BASE_OFF(SEG_GS));
	load_gs(e, H_R14, kernel);
	store_gs(e, H_R14, BASE_OFF(SEG_GS));
	store_gs(e, H_RCX, kernel);
	return true;
}

static bool emit_read_base(struct tr *t, unsigned seg, u32 sys)
{
	load32(&t->e, H_RCX, HOT(fsgsbase));
	leave_if_zero(t, sys);
	op_gs(&t->e, t->d->opsize == 8, 0x8b, H_RCX, BASE_OFF(seg));
	write_gpr(t, t->d->rm);
	return true;
}

/* The address is canonical if its bits 63:47 are all the same: plus 1, all but the lowest and highest are clear. */
static bool emit_write_base(struct tr *t, unsigned seg, u32 sys)
{
	struct emit *e = &t->e;
	unsigned src;

	load32(e, H_RCX, HOT(fsgsbase));
	leave_if_zero(t, sys);
	src = read_reg(t, t->d->rm, H_R14);
	if (t->d->opsize == 8) {
		rorx(e, H_RCX, src, 47);
		pext_gs(e, H_RCX, H_RCX, HOT(high17));
		op_rm(e, false, 0x8d, H_RCX, H_RCX, 1);
		pext_gs(e, H_RCX, H_RCX, HOT(inner16));
		leave_unless_zero(t, LEAVE_SYS, sys);
	} else {
		op_rr(e, false, 0x89, src, H_R14);
		src = H_R14;
	}
	store_gs(e, src, BASE_OFF(seg));
	return true;
}

static bool emit_rdpkru(struct tr *t, u32 sys)
{
	struct emit *e = &t->e;

	load32(e, H_RCX, HOT(pkru_on));
	leave_if_zero(t, sys);
	op_rr(e, false, 0x89, home[1], H_RCX);
	leave_unless_zero(t, LEAVE_SYS, sys);
	load32(e, H_RAX, (u32)offsetof(struct cpu, pkru));
	mov_imm(e, H_RDX, 0);
	return true;
}

/* sys_mov_cr() at CPL 0: what is only read, and CR2. */
static bool emit_mov_cr(struct tr *t)
{
	const struct dinsn *d = t->d;
	u32 off;

	if (user(t))
		return false;
	switch (d->reg) {
	case 0:
		off = (u32)offsetof(struct cpu, cr0);
		break;
	case 2:
		off = (u32)offsetof(struct cpu, cr2);
		break;
	case 3:
		off = (u32)offsetof(struct cpu, cr3);
		break;
	case 4:
		off = (u32)offsetof(struct cpu, cr4);
		break;
	default:
		return false;
	}
	if (d->opcode == 0x20) {
		load_gs(&t->e, H_RCX, off);
		write_gpr(t, d->rm);
		return true;
	}
	if (d->reg != 2)
		return false;
	store_gs(&t->e, read_reg(t, d->rm, H_R14), off);
	if (t->x->sh->parallel) /* it serializes */
		put_bytes(&t->e, (const u8[]){ 0x0f, 0xae, 0xf0 }, 3);
	return true;
}

/* Into a register, of which a 4-byte operand clears the upper half, or two bytes of memory. */
static bool emit_mov_from_sreg(struct tr *t)
{
	const struct dinsn *d = t->d;
	struct emit *e = &t->e;
	unsigned seg = d->reg & 7, lin;

	if (seg >= SEG_COUNT)
		return false;
	if (d->is_mem) {
		lin = emit_ea(t);
		emit_access(t, lin, 2, true);
		op_operand(e, true, 0x8d, H_R14, lin);
	}
	put_bytes(e, (const u8[]){ 0x65, 0x0f, 0xb7 }, 3); /* movzx ecx, word gs:[sel] */
	put_gs_operand(e, H_RCX, SEL_OFF(seg));
	if (!d->is_mem && d->opsize != 2) {
		write_gpr(t, d->rm);
		return true;
	}
	if (!d->is_mem && home[d->rm] == HOME_MEMORY) {
		put_bytes(e, (const u8[]){ 0x65, 0x66, 0x89 }, 3); /* mov gs:[gpr], cx */
		put_gs_operand(e, H_RCX, gpr_off(d->rm));
		return true;
	}
	put(e, 0x66);
	if (!d->is_mem) {
		op_rr(e, false, 0x89, H_RCX, home[d->rm]);
		return true;
	}
	op_rm(e, false, 0x89, H_RCX, H_R14, 0);
	return true;
}

static bool emit_rdpid(struct tr *t)
{
	if (!t->v->model->rdpid)
		return false;
	load32(&t->e, H_RCX, (u32)offsetof(struct cpu, tsc_aux));
	write_gpr(t, t->d->rm);
	return true;
}

/* sys_pause(), where nobody counts PAUSEs: of processors that run at once the kernel's alone are counted. */
static bool emit_pause(struct tr *t)
{
	if (!t->x->sh->parallel || !user(t))
		return false;
	put_bytes(&t->e, (const u8[]){ 0xf3, 0x90 }, 2);
	return true;
}

bool sensitive_aware(unsigned sys)
{
	return sys != ISA_SYS_pushf && sys != ISA_SYS_popf;
}

bool emit_sensitive(struct tr *t, unsigned sys)
{
	/* Nothing to do for one that waits for nobody. */
	if (sys == ISA_SYS_pause && (!t->v->group || t->v->group->count == 1))
		return true;
	if (t->narrow && sys != ISA_SYS_cli && sys != ISA_SYS_sti && sys != ISA_SYS_pause)
		return false;
	note_of(t)->how = HOW_SYS;
	islands(t, 100, true);
	switch (sys) {
	case ISA_SYS_pause:
		return emit_pause(t);
	case ISA_SYS_cli:
		return emit_cli(t);
	case ISA_SYS_sti:
		return !user(t) && t->next_here && emit_sti(t, new_sys(t, sys));
	case ISA_SYS_pushf:
		return emit_pushf(t);
	case ISA_SYS_popf:
		return t->d->opsize == 8 && emit_popf(t, new_sys(t, sys));
	case ISA_SYS_stac:
	case ISA_SYS_clac:
		return emit_ac(t, sys == ISA_SYS_stac);
	case ISA_SYS_swapgs:
		return emit_swapgs(t);
	case ISA_SYS_rdfsbase:
	case ISA_SYS_rdgsbase:
		return emit_read_base(t, sys == ISA_SYS_rdfsbase ? SEG_FS : SEG_GS, new_sys(t, sys));
	case ISA_SYS_wrfsbase:
	case ISA_SYS_wrgsbase:
		return emit_write_base(t, sys == ISA_SYS_wrfsbase ? SEG_FS : SEG_GS, new_sys(t, sys));
	case ISA_SYS_rdpkru:
		return emit_rdpkru(t, new_sys(t, sys));
	case ISA_SYS_mov_cr:
		return emit_mov_cr(t);
	case ISA_SYS_mov_from_sreg:
		return emit_mov_from_sreg(t);
	case ISA_SYS_rdpid:
		return emit_rdpid(t);
	default:
		return false;
	}
}

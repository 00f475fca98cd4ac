/*
 * Handler tables, indexed by operand size (0 1 2 3 for 8 16 32 64 bits) and
 * kind of effective address. One file defines each group; translate.c selects.
 */
#ifndef ECTYPE_ENGINE_INTERP_OPS_H
#define ECTYPE_ENGINE_INTERP_OPS_H

#include "engine/interp/interp.h"

enum { EA_BASE, EA_INDEXED, EA_GENERIC, EA_KINDS };

/* Two-operand arithmetic in the order of the opcode's bits 5..3. */
enum alu_op { ALU_ADD, ALU_OR, ALU_ADC, ALU_SBB, ALU_AND, ALU_SUB, ALU_XOR, ALU_CMP, ALU_TEST, ALU_OPS };
extern const op_fn alu_rr[ALU_OPS][4], alu_ri[ALU_OPS][4];
extern const op_fn alu_rm[ALU_OPS][4][EA_KINDS], alu_mr[ALU_OPS][4][EA_KINDS], alu_mi[ALU_OPS][4][EA_KINDS];

enum unary_op { UN_INC, UN_DEC, UN_NEG, UN_NOT, UN_OPS };
extern const op_fn unary_r[UN_OPS][4], unary_m[UN_OPS][4][EA_KINDS];

/* Rotates and shifts in the order of ModRM.reg; by immediate and by CL. */
extern const op_fn shift_ri[8][4], shift_rc[8][4];
extern const op_fn rotate_rk[2][4]; /* ROL, ROR of a register; OF stays */
/* Does this host keep OF when it rotates a register by an immediate other than 1? */
bool rotate_keeps_of(void);
extern const op_fn shift_mi[8][4][EA_KINDS], shift_mc[8][4][EA_KINDS];

extern const op_fn mov_rr[4], mov_ri[4], mov_rm[4][EA_KINDS], mov_mr[4][EA_KINDS], mov_mi[4][EA_KINDS];
extern const op_fn movzx_rr[2][4], movsx_rr[3][4];		       /* [source size][destination size] */
extern const op_fn movzx_rm[2][4][EA_KINDS], movsx_rm[3][4][EA_KINDS]; /* likewise */
extern const op_fn lea_r[4][EA_KINDS];
extern const op_fn xchg_rr[4], cmov_rr[4], setcc_r, bswap_r[4], imul_rr[4], imul_rri[4];
extern const op_fn cmov_rm[4][EA_KINDS], setcc_m[EA_KINDS];
extern const op_fn op_nop, op_cbw[4], op_cwd[4], op_lahf, op_sahf, op_clc, op_stc, op_cmc, op_cld, op_std, op_xlat,
    op_salc;
extern const op_fn op_bcd[6]; /* AAA AAS DAA DAS AAM AAD */
extern const op_fn op_touch;  /* memory operand is checked for reading, nothing else (CLFLUSH) */

/* 64-bit mode stack */
extern const op_fn push_r64, push_i64, pop_r64, push_m64[EA_KINDS], leave64;
/* any other stack: size 2 or 4 (8) in insn->size */
extern const op_fn push_r, push_i, push_m, pop_r, pop_m, leave_any, pusha, popa;

/* control flow */
extern const op_fn jmp_near, jcc_near[16], call_near64, ret_near64, jmp_r64, call_r64, jmp_m64[EA_KINDS],
    call_m64[EA_KINDS];
extern const op_fn jmp_any, jcc_any, call_any, ret_any, jmp_rm_any, call_rm_any, loop_any;

/* Out-of-line stack access at SS:off, and rSP of the stack's width. */
int stack_store(struct vcpu *v, const struct insn *i, u64 off, unsigned size, u64 val);
int stack_load(struct vcpu *v, const struct insn *i, u64 off, unsigned size, u64 *val);
void stack_set_sp(struct vcpu *v, u64 sp);
bool condition_of(struct vcpu *v, unsigned cc);

/* strings: by enum, generic in size and mode */
enum string_op { STR_MOVS, STR_STOS, STR_LODS, STR_SCAS, STR_CMPS };
extern const op_fn string_ops[5];

extern const op_fn op_sys, op_ud, op_too_long;
/* thunks and what they cannot do */
extern const op_fn op_host, op_bit_mem;

#endif

/* Vector instructions whose memory access is not one operand: the record
 * between their selection (special_select.c) and their handlers (special.c). */
#ifndef ECTYPE_ENGINE_INTERP_SPECIAL_H
#define ECTYPE_ENGINE_INTERP_SPECIAL_H

#include "engine/interp/interp.h"

/* All that the handlers need of the Zydis record. */
struct special {
	struct dinsn d;
	u8 value_reg, mask_reg, index_reg; /* vector (or opmask) register numbers */
	u8 element, index_size;            /* bytes */
	u8 count;                          /* elements */
	u8 vlen;                           /* bytes of the value register cleared above: VEX or EVEX length */
	bool opmask;                       /* mask_reg is an opmask register, else the sign bits of a vector */
	bool store;
	bool mmx;
	bool evex;
	bool clears; /* masked-off elements of the destination become zero (VMASKMOV loads) */
};

extern const op_fn op_gather, op_masked_move, op_masked_bytes, op_movdir64b;

#endif

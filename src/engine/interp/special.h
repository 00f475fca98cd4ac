/* Vector instructions whose memory access is not one operand: what special_select.c tells special.c. */
#ifndef ECTYPE_ENGINE_INTERP_SPECIAL_H
#define ECTYPE_ENGINE_INTERP_SPECIAL_H

#include "engine/interp/ops.h"

/* All that the handlers need of the Zydis record. */
struct special {
	struct dinsn d;
	u8 value_reg, mask_reg, index_reg; /* vector (or opmask) register numbers */
	u8 element, index_size;		   /* bytes */
	u8 count;			   /* elements */
	u8 vlen;			   /* bytes of the value register written; cleared above */
	u8 vector;			   /* bytes of the VEX or EVEX vector length */
	bool opmask;			   /* mask_reg is an opmask register, else the sign bits of a vector */
	bool store;
	bool mmx;
	bool evex;
	bool clears; /* masked-off elements of the destination become zero (VMASKMOV loads) */
};

extern const op_fn special_gather, special_masked_move, special_masked_bytes, special_movdir64b;

#endif

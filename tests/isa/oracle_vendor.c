/*
 * Hosts that are not Intel's. The guest's processor always is (docs/cpu.md),
 * so there are differences that are none of the engine's. They are not
 * compared on such a host; the whole comparison needs one of Intel's. Seen on
 * Zen 4; the sections are of AMD's manual (APM).
 */
#include <cpuid.h>

#include "cpu/xstate.h"
#include "oracle.h"

bool vendor_is_intel(void)
{
	static int known = -1;
	unsigned a, b, c, d;

	if (known < 0) {
		__cpuid(0, a, b, c, d);
		known = b == signature_INTEL_ebx && c == signature_INTEL_ecx && d == signature_INTEL_edx;
	}
	return known;
}

/* Zydis has no attribute for a prefix that an instruction does not take. */
static bool repeat_prefix(const struct instance *n)
{
	for (unsigned k = 0; k < n->z.raw.prefix_count; k++)
		if (n->z.raw.prefixes[k].value == 0xf2 || n->z.raw.prefixes[k].value == 0xf3)
			return true;
	return false;
}

static bool prefixed(const struct instance *n, ZydisInstructionAttributes a)
{
	return n->z.attributes & a;
}

/* 64-bit mode: 66 makes the branch and its target 16 bits wide (vol. 3, JMP, CALL, RET, Jcc); Intel's ignore it. */
static bool short_branch(const struct instance *n)
{
	ZydisInstructionCategory c = n->z.meta.category;

	return oracle_mode == CODE_64 && prefixed(n, ZYDIS_ATTRIB_HAS_OPERANDSIZE) &&
	       (c == ZYDIS_CATEGORY_COND_BR || c == ZYDIS_CATEGORY_UNCOND_BR || c == ZYDIS_CATEGORY_CALL ||
		c == ZYDIS_CATEGORY_RET);
}

const char *vendor_excludes(const struct instance *n)
{
	if (vendor_is_intel())
		return NULL;
	if (short_branch(n))
		return "branches with an operand-size prefix";
	switch (n->z.mnemonic) {
	case ZYDIS_MNEMONIC_FXSAVE: /* see vendor_part_comparable() */
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_FXRSTOR64: /* truncates FDP to the widest linear address */
		return "x87 pointers in memory";
	case ZYDIS_MNEMONIC_NOP: /* 0F 0D with a register: #UD (vol. 3, PREFETCH) */
		return n->z.opcode_map == ZYDIS_OPCODE_MAP_0F && n->z.opcode == 0x0d && !n->d.is_mem
			   ? "PREFETCH of a register"
			   : NULL;
	case ZYDIS_MNEMONIC_LOOPE: /* a repeat prefix decides, not the opcode */
	case ZYDIS_MNEMONIC_LOOPNE:
		return repeat_prefix(n) ? "LOOPcc with a repeat prefix" : NULL;
	case ZYDIS_MNEMONIC_MOVSXD: /* reads 32 bits all the same */
		return prefixed(n, ZYDIS_ATTRIB_HAS_OPERANDSIZE) ? "MOVSXD to 16 bits" : NULL;
	case ZYDIS_MNEMONIC_KMOVD: /* Intel's ignore VEX.W outside of 64-bit mode */
	case ZYDIS_MNEMONIC_VPEXTRD:
	case ZYDIS_MNEMONIC_VPINSRD:
		return oracle_mode == CODE_32 && n->form->w ? "VEX.W in compatibility mode" : NULL;
	default:
		break;
	}
	if (n->z.meta.isa_set == ZYDIS_ISA_SET_SHA && n->d.is_mem) /* no #GP */
		return "SHA with an unaligned operand";
	if (n->repeats && prefixed(n, ZYDIS_ATTRIB_HAS_ADDRESSSIZE)) /* upper halves stay when nothing is done */
		return "REP with 32-bit addresses";
	return NULL;
}

/* FOP, FIP and FDP are saved while FSW.ES is set only, else zeros (vol. 2, 11.4.4). */
bool vendor_part_comparable(unsigned at, const u8 *host)
{
	bool pointer = at == FX_FOP || at == FX_FIP || at == FX_FDP;

	return !pointer || vendor_is_intel() || (host[FX_FSW] & FSW_ES);
}

/*
 * Which of two faults comes first, and what of an instruction was done before
 * it, is the processor's own. An x87 store whose operand raises an unmasked
 * exception stores nothing; Intel's do not look at the page then.
 */
bool vendor_same_fault(const struct instance *n, const struct verdict *v)
{
	if (vendor_is_intel() || v->host.vector < 0)
		return false;
	if (v->guest.vector >= 0)
		return v->host.s.rip == v->guest.s.rip;
	return (v->guest.s.fpu[FX_FSW] & FSW_ES) && !(n->in.fpu[FX_FSW] & FSW_ES);
}

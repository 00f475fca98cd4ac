/*
 * Weak stand-ins for the processor layer, so that tests of src/mem link with
 * or without it: where the real functions are in the library they win. Behave
 * like the contracts in cpu/event.h and cpu/fpu.h as far as src/mem needs.
 */
#ifndef ECTYPE_TESTS_FAKES_H
#define ECTYPE_TESTS_FAKES_H

#include "cpu/event.h"

__attribute__((weak)) void cpu_data_breakpoint(struct vcpu *v, gva_t addr, unsigned len, bool write)
{
	static const u8 size[] = { 1, 2, 8, 4 };

	for (unsigned i = 0; i < 4; i++) {
		unsigned rw = (v->cpu.dr[7] >> (16 + 4 * i)) & 3, n = size[(v->cpu.dr[7] >> (18 + 4 * i)) & 3];
		u64 at = v->cpu.dr[i] & ~(u64)(n - 1);

		if (!((v->cpu.dr[7] >> (2 * i)) & 3) || !(rw == 3 || (rw == 1 && write)))
			continue;
		if (addr - at < n || at - addr < len) {
			v->cpu.pending_db |= BIT(i);
			vcpu_raise(v, EV_TRAP);
		}
	}
}

__attribute__((weak)) void fpu_park_slow(struct vcpu *v)
{
	v->fpu_live = false;
}

#endif

/*
 * Who holds the guest's x87 and vector state.
 *
 * While `vcpu->fpu_live` is set the state is in the host's registers (that is
 * how guest vector instructions run natively); otherwise it is in cpu.fpu and
 * the host's registers belong to ordinary C. All code that can run while it
 * is live (src/cpu, src/mem, src/engine) is compiled with -mgeneral-regs-only
 * and calls nothing outside without fpu_park(). A test checks the undefined
 * symbols of those objects against a list.
 */
#ifndef ECTYPE_CPU_FPU_H
#define ECTYPE_CPU_FPU_H

#include "base/types.h"

struct vcpu;

/* Saves the live state into cpu.fpu and gives the host clean control words
 * (MXCSR 1F80H, FCW 037FH, no pending x87 exception). */
void fpu_park_slow(struct vcpu *v);
/* Loads cpu.fpu into the host's registers and sets fpu_live. */
void fpu_load_slow(struct vcpu *v);

#define fpu_park(v) ((v)->fpu_live ? fpu_park_slow(v) : (void)0)
#define fpu_load(v) ((v)->fpu_live ? (void)0 : fpu_load_slow(v))

struct cpu;
/* Power-up / INIT state of the image (SDM vol. 3, table 9-1). */
void fpu_reset(struct cpu *c);

/* The x87 instruction and data pointers of the guest. x87 instructions run at
 * host addresses, so the engines record them here, in the legacy area of
 * cpu.fpu, and fpu_park keeps them. */
void fpu_set_pointers(struct cpu *c, u16 fop, u64 fip, u64 fdp);

/* The components (XCR0 bits) of the host that cpu.fpu holds, and the offset
 * and size of a component in the standard format. Constant after the first
 * call. */
u64 fpu_host_components(void);
unsigned fpu_component_offset(unsigned component);
unsigned fpu_component_size(unsigned component);

#endif

/*
 * What the processor's own semantics need of the guest-physical map and the
 * port space, declared here so that src/cpu does not include src/mem.
 * Implemented by src/mem (physmem.c, portmap.c). Ordinary C: fpu_park() first.
 */
#ifndef ECTYPE_CPU_BUS_H
#define ECTYPE_CPU_BUS_H

#include "base/types.h"

struct memory;
struct portmap;

u32 port_read(struct portmap *p, u16 port, unsigned size);
void port_write(struct portmap *p, u16 port, u32 val, unsigned size);
int memory_read(struct memory *m, gpa_t gpa, void *dst, u64 len);

#endif

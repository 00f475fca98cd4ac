/* The processor in a state stream: section "cpu", see state/codec.h. */
#ifndef ECTYPE_CPU_SAVE_H
#define ECTYPE_CPU_SAVE_H

#include "cpu/cpuid.h"
#include "state/codec.h"

/* `c->fpu` must hold the vector state (fpu_park() first). Components the
 * processor reports as initial are written in their initial form, so that
 * equal machines give equal bytes. */
void cpu_save(const struct cpu *c, struct encoder *e);
/* 0 if a load would be sound, for a processor of `model` (NULL: of any); changes nothing. */
int cpu_check(struct decoder *d, const struct cpu_model *model);
void cpu_load(struct cpu *c, struct decoder *d);

#endif

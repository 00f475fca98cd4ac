/* The shared semantics by enum isa_sys: sys_table[isa_row_of(d)->sys](v, d). */
#ifndef ECTYPE_CPU_SYS_TABLE_H
#define ECTYPE_CPU_SYS_TABLE_H

#include "cpu/sys.h"
#include "isa/isa_sys.h"

/* Entry ISA_SYS_none is NULL. */
extern const sys_fn sys_table[ISA_SYS_COUNT];

#endif

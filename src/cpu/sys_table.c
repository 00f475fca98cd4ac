/* The dispatch array of the shared semantics, from the same list that numbers them. */
#include "cpu/sys_table.h"

const sys_fn sys_table[ISA_SYS_COUNT] = {
#define X(name) [ISA_SYS_##name] = sys_##name,
	ISA_SYS_LIST(X)
#undef X
};

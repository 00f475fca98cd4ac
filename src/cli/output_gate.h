/* The gate before a machine's backends (backend/gate/gate.h), so that it can be protected while it runs. */
#ifndef ECTYPE_CLI_OUTPUT_GATE_H
#define ECTYPE_CLI_OUTPUT_GATE_H

#include "backend/gate/gate.h"
#include "machine/machine.h"

/* Sets m->gate, before the backends that are in *m. -1 with *e: no memory; gate_destroy() is needed all the same. */
int output_gate_create(struct machine_config *m, struct error *e);

#endif

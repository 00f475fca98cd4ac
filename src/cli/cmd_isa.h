/* `ectype isa`: the instruction table. */
#ifndef ECTYPE_CLI_CMD_ISA_H
#define ECTYPE_CLI_CMD_ISA_H

/* argv[0] is "isa". Returns the exit status: 0, 2 for bad usage, 1 if writing failed. */
int cmd_isa(int argc, char **argv);

#endif

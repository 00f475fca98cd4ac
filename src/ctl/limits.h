/* How long a client's request waits for the machine, in milliseconds: a question, an order. An overcommitted host takes
 * its time until every processor's thread has run. */
#ifndef ECTYPE_CTL_LIMITS_H
#define ECTYPE_CTL_LIMITS_H

#define CTL_CALL_MS 2000
#define CTL_ORDER_MS 6000

/* How long a client that has memory read may keep the machine held: milliseconds, and so many MiB a second. */
#define CTL_DUMP_MS 30000
#define CTL_DUMP_MIB_S 16

#endif

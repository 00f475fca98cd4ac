/* How long a client's request waits for the machine, in milliseconds: a question, an order. An overcommitted host takes
 * its time until every processor's thread has run. */
#ifndef ECTYPE_CTL_LIMITS_H
#define ECTYPE_CTL_LIMITS_H

#define CTL_CALL_MS 2000
#define CTL_ORDER_MS 6000

#endif

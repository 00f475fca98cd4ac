/* How long a client's request waits for the machine. */
#ifndef ECTYPE_CTL_LIMITS_H
#define ECTYPE_CTL_LIMITS_H

#define CTL_CALL_MS 2000

#endif

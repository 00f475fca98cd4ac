/*
 * What a protected machine's monitor, the primary, and its standby say to each
 * other over a channel (channel.h), docs/protect.md. A leaf header any layer may
 * use. It begins as a migration does (migration.h), with kind
 * MIGRATION_PROTECT.
 *
 *   primary                                standby
 *   hello  version(u32) id(16) kind(u8)
 *   terms  timeout(u32, ms)  on-loss(u8)  witness(bool)  disks(u32)  { size(u64) }*
 *   offer  a stream: options, cpu-model,
 *          boot, ram.size
 *                                          accept  0(u32)  | refuse  text
 *   ( ram.data | ram.zero | disk.data | disk.zero )*
 *   first
 *   then again and again:
 *   ( ram.data | ram.zero | disk.data | disk.zero | state.data )*
 *   checkpoint  number(u64) state(u64, bytes)
 *                                          kept  number(u64)
 *   beat, when there is nothing else
 *
 *   over   why(u8)                         discarded
 *                                          mine
 *
 * What comes before "first" is written to RAM and disks at once, what comes
 * later only with the checkpoint that it belongs to: a standby has one whole
 * checkpoint at any time from the first on. "state.data" changes bytes of the
 * state of the checkpoint before. "mine": the standby takes over, nothing is
 * kept any more.
 */
#ifndef ECTYPE_STATE_PROTECTION_H
#define ECTYPE_STATE_PROTECTION_H

#include "base/types.h"

#define MIGRATION_PROTECT 2 /* enum migration_kind */

#define PROTECTION_TERMS "terms"
#define PROTECTION_FIRST "first"
#define PROTECTION_STATE "state.data" /* offset(u64) and bytes, at most PROTECTION_PIECE */
#define PROTECTION_CHECKPOINT "checkpoint"
#define PROTECTION_KEPT "kept"
#define PROTECTION_BEAT "beat"
#define PROTECTION_OVER "over"
#define PROTECTION_DISCARDED "discarded"
#define PROTECTION_MINE "mine"

#define PROTECTION_PIECE (256 * KiB)
#define PROTECTION_STATE_MAX (64 * MiB)

enum protection_over {
	PROTECTION_STOPPED, /* the machine goes on unprotected */
	PROTECTION_ENDED,   /* it has ended of its own */
};
/* What a primary does that has lost its standby, without a witness. */
enum protection_loss {
	PROTECTION_HOLD,     /* stands still until somebody decides */
	PROTECTION_CONTINUE, /* goes on if the connection was closed */
};

#endif

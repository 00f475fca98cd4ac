/*
 * What the two monitors of a migration say to each other over a channel
 * (channel.h), docs/migrate.md. A leaf header any layer may use.
 *
 *   source                                 receiver
 *   hello  version(u32) id(16) kind(u8)
 *   offer  a stream: options, cpu-model,
 *          boot, ram.size, disks,
 *          post-copy
 *                                          accept  flags(u32) | refuse  text
 *   ( ram.data | ram.zero | disk.data | disk.zero )*
 *   round  number(u32)                     round   number(u32)
 *   ... as often as wanted; then the source is held
 *   ( ram.data | ram.zero | disk.data | disk.zero )*, or, with post-copy,
 *   missing* ( disk.data | disk.zero )*
 *   state  a stream: machine_save()
 *                                          ready           | refuse  text
 *   go     paused(bool)
 *                                          started
 *   bye
 *
 * With post-copy the receiver runs before all of RAM is there. From "state" on
 * it may say "need" at any time, and the source answers with RAM; after
 * "started" the source sends the rest by itself, wanted frames first, and
 * follows "got" so that what is wanted does not wait behind it. "all" comes
 * before "bye" then, from the receiver.
 *
 * The source may say "cancel" in place of anything before "go". With kind
 * MIGRATION_ASK the source asks, over another connection, what has become of
 * the migration `id`: the answer is ready, started, or refuse, and what follows
 * is as above; with post-copy ready and started come behind lists ("missing") of
 * what has not arrived. A receiver does not run before it has "go", and a source that has
 * said it does not go on before it knows that the receiver never will.
 */
#ifndef ECTYPE_STATE_MIGRATION_H
#define ECTYPE_STATE_MIGRATION_H

#include "base/types.h"

#define MIGRATION_VERSION 2u
#define MIGRATION_ID_LEN 16u
enum migration_kind { MIGRATION_MOVE = 0, MIGRATION_ASK = 1 };

#define MIGRATION_HELLO "hello"
#define MIGRATION_OFFER "offer"
#define MIGRATION_ACCEPT "accept"
#define MIGRATION_REFUSE "refuse" /* one line of text, at most MIGRATION_TEXT_MAX bytes */
#define MIGRATION_ROUND "round"
#define MIGRATION_STATE "state"
#define MIGRATION_READY "ready"
#define MIGRATION_GO "go"
#define MIGRATION_STARTED "started"
#define MIGRATION_BYE "bye"
#define MIGRATION_CANCEL "cancel"
/* RAM_DATA of ram.h: offset(u64) and whole frames */
#define MIGRATION_ZERO "ram.zero" /* offset(u64) and bytes(u64): zeros, whole frames */
/* Of an offer: the disks that are copied. count(u32) { length(u8) id size(u64) }* */
#define MIGRATION_DISKS "disks"
/* Granules of them; disk(u32) counts from 0. */
#define MIGRATION_DISK "disk.data"	/* disk(u32) offset(u64) and a granule */
#define MIGRATION_DISK_ZERO "disk.zero" /* disk(u32) offset(u64) bytes(u64): the same of zeros */
/* Of an offer: wanted(bool): it will not move but by post-copy, if need be. */
#define MIGRATION_POST_COPY "post-copy"
#define MIGRATION_CAN_POST_COPY 1u /* of the flags of "accept" */
/* Lists of frames (frame_list.h). */
#define MIGRATION_MISSING "missing" /* that the receiver does not have */
#define MIGRATION_NEED "need"	    /* that somebody waits for */
#define MIGRATION_GOT "got"	    /* bytes(u64): RAM that has found its place since the last time */
#define MIGRATION_ALL "all"	    /* nothing is missing any more */

#define MIGRATION_TEXT_MAX 500u
#define MIGRATION_PIECE (256 * KiB) /* of RAM, at most, in a section */

/* How long a peer may be silent: while the guest runs, and while it stands still. */
#define MIGRATION_PATIENCE_MS 30000u
#define MIGRATION_STILL_MS 10000u

#endif

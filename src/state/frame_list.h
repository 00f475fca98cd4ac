/*
 * Lists of frames of RAM, as the two monitors of a migration send them
 * (state/migration.h): runs, ascending, each as two numbers, how many frames
 * are left out since the run before (since frame 0 for the first) and how many
 * there are. A number is 7 bits a byte, the lowest first; bit 7 says that more
 * follow, and the last byte is not 0 unless it is the only one. A leaf header
 * any layer may use.
 */
#ifndef ECTYPE_STATE_FRAME_LIST_H
#define ECTYPE_STATE_FRAME_LIST_H

#include "state/codec.h"

#define FRAME_LIST_BYTES (256 * KiB) /* of a list, at most; more frames are more lists */

/* Writes frames of `bits` (a bit a frame, `frames` of them) from *at on, as many as there is room for, and sets *at
 * behind them: `frames` when all are written. How many frames were written: 0 if there is none any more. */
u64 frame_list_put(struct encoder *out, const u64 *bits, u64 frames, u64 *at);
/* One run. */
void frame_list_put_run(struct encoder *out, u64 first, u64 n);
/* Takes all that is left in `d`: its frames are set in `bits`. How many they are; 0: the list is empty, or not sound
 * (a number that is none, a run of no frames, frames that are not there). Those in front of what is wrong may be set.
 */
u64 frame_list_take(struct decoder *d, u64 *bits, u64 frames);

/* The first frame at `from` or behind it that is set, `frames` if there is none; and how many follow that are, itself
 * among them, at most `most`. */
u64 frame_list_next(const u64 *bits, u64 frames, u64 from);
u64 frame_list_run(const u64 *bits, u64 frames, u64 from, u64 most);
/* Frames [first, first + n). */
void frame_list_set(u64 *bits, u64 first, u64 n);
void frame_list_clear(u64 *bits, u64 first, u64 n);

#endif

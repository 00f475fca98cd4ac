/*
 * A GUID in Microsoft's layout: of its text 00112233-4455-6677-8899-AABBCCDDEEFF the first three numbers lie in memory
 * with their low byte first.
 */
#ifndef ECTYPE_BASE_GUID_H
#define ECTYPE_BASE_GUID_H

#include "base/types.h"

#define GUID_LEN 16
#define GUID_TEXT_LEN 36

/* Both cases of the digits. False: it is none, and *out is as it was. */
bool guid_parse(const char *text, u8 out[GUID_LEN]);
/* With small letters and a NUL. */
void guid_format(const u8 guid[GUID_LEN], char out[GUID_TEXT_LEN + 1]);

#endif

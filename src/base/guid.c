#include "base/guid.h"

#include <stdio.h>
#include <string.h>

/* Where in memory the bytes of the text are, in its order. */
static const u8 place[GUID_LEN] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool dash_before(unsigned byte)
{
	return byte == 4 || byte == 6 || byte == 8 || byte == 10;
}

bool guid_parse(const char *text, u8 out[GUID_LEN])
{
	u8 guid[GUID_LEN];

	for (unsigned i = 0; i < GUID_LEN; i++) {
		int high, low;

		if (dash_before(i) && *text++ != '-')
			return false;
		high = digit(*text);
		low = high < 0 ? -1 : digit(text[1]);
		if (low < 0)
			return false;
		guid[place[i]] = (u8)(high << 4 | low);
		text += 2;
	}
	if (*text)
		return false;
	memcpy(out, guid, GUID_LEN);
	return true;
}

void guid_format(const u8 guid[GUID_LEN], char out[GUID_TEXT_LEN + 1])
{
	for (unsigned i = 0; i < GUID_LEN; i++)
		out += sprintf(out, "%s%02x", dash_before(i) ? "-" : "", guid[place[i]]);
}

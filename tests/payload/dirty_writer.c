/*
 * A guest that writes: 64 MiB of pages over and over, all of each, with as much work between two pages as the option
 * work=N says (turns of an empty loop). Not a test; what tracking of written frames costs (track.c, --cost). The
 * number of pages written so far stands at COUNT.
 */
#include "mp.h"

#define FIRST 0x1000000ull
#define PAGES (64 << 8)
#define COUNT ((volatile u64 *)0xf00000)

int main(void)
{
	u64 work;

	mp_find();
	work = mp_option("work", 0);

	for (u64 n = 0;; n++) {
		u64 at = FIRST + n % PAGES * 4096, value = n, words = 512;

		asm volatile("rep stosq" : "+D"(at), "+c"(words) : "a"(value) : "memory");
		for (u64 k = work; k; k--)
			asm volatile("" : "+r"(k));
		*COUNT = n;
	}
}

/* A triple fault: #BP with an empty IDT, #GP with it, #DF with it. The monitor
 * resets the machine, or under --no-reboot ends with status 1 and a dump. */
#include "rt.h"

int main(void)
{
	struct desc_ptr none = { 0, 0 };

	say("PASS triple fault ahead\n");
	lidt(&none);
	asm volatile("int3");
	check("survived a triple fault", 1, 0);
	return 0;
}

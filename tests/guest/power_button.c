/*
 * For tests/guest/control.py: powers off when the power button is pressed, as
 * a kernel without a driver for the button sees it (ACPI 6.5, 4.8.3.1: PM1
 * status, bit 8; the block is at port 600H).
 */
#include <stdio.h>
#include <sys/io.h>
#include <sys/reboot.h>
#include <unistd.h>

int main(void)
{
	if (ioperm(0x600, 2, 1)) {
		perror("ioperm");
		return 1;
	}
	while (!(inw(0x600) & 0x100))
		usleep(100000);
	sync();
	return reboot(RB_POWER_OFF);
}

/* A kernel file, an initrd and firmware through the loaders. */
#include "fuzz.h"
#include "boot/boot.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static int fd = -1;
	static char path[64];
	struct error e;

	if (fd < 0) {
		fd = memfd_create("fuzz", MFD_CLOEXEC);
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	}
	if (fd < 0 || ftruncate(fd, 0) || pwrite(fd, data, size, 0) != (ssize_t)size)
		return 0;
	/* the first byte chooses how it is offered */
	struct boot_request r = { .memory = 64 * MiB };
	if (size && data[size - 1] % 4 == 3) {
		r.firmware = path;
	} else {
		r.kernel = path;
		r.append = "console=ttyS0";
		if (size && data[size - 1] % 4 == 2)
			r.initrd = path;
	}
	struct boot_image *b = boot_load(&r, &e);
	if (b) {
		(void)boot_describe(b);
		boot_free(b);
	}
	return 0;
}

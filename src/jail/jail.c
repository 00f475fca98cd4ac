/* Namespaces, descriptors, capabilities and limits (see jail.h). */
#include "jail/jail.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static void missing(struct jail *j, const char *what, int errnum)
{
	size_t at = strlen(j->missing);

	snprintf(j->missing + at, sizeof(j->missing) - at, "%s%s (%s)", at ? ", " : "", what, strerror(errnum));
}

/* What the parent left open; some of it is what the user named as /dev/fd/N, so it is closed only at the end. */
void jail_begin(struct jail *j)
{
	DIR *d = opendir("/proc/self/fd");
	struct dirent *entry;

	*j = (struct jail){ .begun = true };
	if (!d)
		return;
	while ((entry = readdir(d))) {
		int fd = atoi(entry->d_name);

		if (fd > 2 && fd != dirfd(d) && j->inherited_n < JAIL_INHERITED_MAX)
			j->inherited[j->inherited_n++] = fd;
	}
	closedir(d);
}

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : write(fd, text, strlen(text));

	if (fd >= 0)
		close(fd);
	return n == (ssize_t)strlen(text);
}

/* Files are made and opened as before: user and group stand for themselves. */
static void map_ids(uid_t uid, gid_t gid)
{
	char text[64];

	write_file("/proc/self/setgroups", "deny");
	snprintf(text, sizeof(text), "%u %u 1", gid, gid);
	write_file("/proc/self/gid_map", text);
	snprintf(text, sizeof(text), "%u %u 1", uid, uid);
	write_file("/proc/self/uid_map", text);
}

void jail_prepare(struct jail *j, bool own_network)
{
	uid_t uid = geteuid();
	gid_t gid = getegid();

	if (!j->begun)
		jail_begin(j);
	j->prepared = true;
	/* Root can do without a user namespace, and keeps what it may do to tap interfaces. */
	if (unshare(CLONE_NEWNS) == 0) {
		j->own_mounts = true;
	} else if (unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0) {
		map_ids(uid, gid);
		j->own_mounts = true;
	} else {
		missing(j, "mount namespace", errno);
	}
	if (j->own_mounts && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) {
		missing(j, "private mounts", errno);
		j->own_mounts = false;
	}
	if (own_network && unshare(CLONE_NEWNET))
		missing(j, "network namespace", errno);
	if (unshare(CLONE_NEWIPC))
		missing(j, "IPC namespace", errno);
}

/* The root becomes an empty file system without room. */
static int empty_root(void)
{
	static const char *const places[] = { "/tmp", "/var/tmp", "/proc" };

	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
		if (mount("jail", places[i], "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,nr_inodes=1,mode=0"))
			continue;
		if (chdir(places[i]) || syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/"))
			return errno;
		mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
		return 0;
	}
	return errno;
}

static void drop_capabilities(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[2] = { { 0 }, { 0 } };

	for (int cap = 0; prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0; cap++)
		;
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	syscall(SYS_capset, &head, none);
}

static void set_limits(void)
{
	static const struct {
		int resource;
		rlim_t max;
	} limits[] = {
		{ RLIMIT_CORE, 0 }, /* guest memory belongs in no core file */
		{ RLIMIT_MSGQUEUE, 0 },
	};
	struct rlimit r;

	for (unsigned i = 0; i < ARRAY_SIZE(limits); i++) {
		r = (struct rlimit){ limits[i].max, limits[i].max };
		setrlimit(limits[i].resource, &r);
	}
}

int jail_lock(struct jail *j, unsigned needs, struct error *e)
{
	/* pthread_cancel() loads it when it is first called, and aborts if it cannot */
	if (!dlopen("libgcc_s.so.1", RTLD_NOW | RTLD_GLOBAL))
		missing(j, "libgcc_s.so.1", ENOENT);
	for (unsigned i = 0; i < j->inherited_n; i++)
		close(j->inherited[i]);
	set_limits();
	if (j->own_mounts) {
		int error = empty_root();

		if (error)
			missing(j, "empty root directory", error);
	}
	drop_capabilities();
	return jail_filter(needs, e);
}

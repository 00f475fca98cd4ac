/*
 * ectype-guest: gives a copy of a machine its own identity (docs/clone.md).
 * Runs in the guest, as root, one file without others:
 *
 *   cc -O2 -static -o /usr/local/sbin/ectype-guest ectype_guest.c
 *
 * It sleeps until the monitor says that the VM Generation ID has changed: this
 * machine is a copy of another one, or went back in time. Kernels without
 * CONFIG_VMGENID do not listen to that. All pass on what they hear of a
 * processor, though, so the firmware's event handler notifies processor 0 as
 * well, with 82H: the throttling states have changed. Of these there are none,
 * and the kernel does nothing but send an event of the genetlink family
 * "acpi_event" (ACPI 6.5, 5.6.6; linux/drivers/acpi/processor_driver.c).
 *
 * Then: new random numbers, a new boot ID, the wall clock of the RTC, and the
 * programs in /etc/ectype/copied.d, in order, for what else must not be shared
 * (addresses, host keys, names).
 *
 *   ectype-guest            wait for copies, in the foreground
 *   ectype-guest --now      do it once, now
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <linux/random.h>
#include <linux/rtc.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BOOT_ID "/proc/sys/kernel/random/boot_id"
#define OWN_DIR "/run/ectype"
#define OWN_BOOT_ID OWN_DIR "/boot_id"
#define HOOKS "/etc/ectype/copied.d"
#define THROTTLING_CHANGED 0x82
#define CLOCK_OFF 2 /* seconds: RTC and system clock may differ by that */

/* linux/drivers/acpi/event.c */
struct acpi_event {
	char device_class[20], bus_id[15];
	uint32_t type, data;
};
#define ACPI_ATTR_EVENT 1

/* In one piece: /dev/kmsg takes each write for a line. */
static void say(const char *what)
{
	char text[256];
	int n = snprintf(text, sizeof(text), "ectype-guest: %s%s%s\n", what, errno ? ": " : "",
			 errno ? strerror(errno) : "");

	if (write(2, text, (size_t)n) < 0)
		errno = 0; /* nobody listens */
}

static bool failed(const char *what)
{
	say(what);
	return false;
}

/* ---- random numbers ---- */

#define SEED 64

/* The host's, by RDSEED and RDRAND: each copy gets others. */
static bool from_processor(uint64_t seed[SEED / 8])
{
	unsigned a, b, c, d, got = 0;
	unsigned char ok;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_RDRND))
		return false;
	for (unsigned i = 0; i < SEED / 8; i++) {
		uint64_t n = 0;

		for (unsigned attempt = 0; attempt < 32; attempt++) {
			__asm__ volatile("rdrand %0; setc %1" : "=r"(n), "=qm"(ok) : : "cc");
			if (ok)
				break;
		}
		got += ok;
		seed[i] ^= n;
	}
	return got == SEED / 8;
}

/* The host's, by virtio-rng. The driver and the kernel hold what they fetched before the copy was made. */
static bool from_device(uint64_t seed[SEED / 8])
{
	unsigned char bytes[8 * SEED];
	size_t n = 0;
	int fd = open("/dev/hwrng", O_RDONLY | O_CLOEXEC);

	while (fd >= 0 && n < sizeof(bytes)) {
		ssize_t r = read(fd, bytes + n, sizeof(bytes) - n);

		if (r <= 0)
			break;
		n += (size_t)r;
	}
	if (fd >= 0)
		close(fd);
	for (size_t i = 0; i < SEED && n == sizeof(bytes); i++)
		((unsigned char *)seed)[i] ^= bytes[sizeof(bytes) - SEED + i];
	return n == sizeof(bytes);
}

static bool new_random_numbers(void)
{
	struct {
		struct rand_pool_info info;
		uint64_t seed[SEED / 8];
	} add = { .info = { .buf_size = SEED } };
	struct timespec now;
	bool good;
	int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC), ret;

	if (fd < 0)
		return failed("/dev/urandom");
	clock_gettime(CLOCK_REALTIME, &now);
	add.seed[0] = (uint64_t)now.tv_nsec;
	add.seed[1] = __builtin_ia32_rdtsc();
	good = from_processor(add.seed);
	good |= from_device(add.seed);
	add.info.entropy_count = good ? SEED * 8 : 0;
	ret = ioctl(fd, RNDADDENTROPY, &add);
	/* what is in the pool counts from now on, not in up to a minute */
	if (!ret)
		ret = ioctl(fd, RNDRESEEDCRNG);
	close(fd);
	errno = ret ? errno : 0;
	if (ret)
		return failed("new random numbers");
	return good || failed("no random numbers of the host: neither RDRAND nor /dev/hwrng");
}

/* ---- boot ID ---- */

static bool same_file(const char *a, const char *b)
{
	struct stat x, y;

	return !stat(a, &x) && !stat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* A file of ours covers the kernel's. Its content is replaced at once, under those who have it open. */
static bool new_boot_id(void)
{
	unsigned char r[16];
	char text[40];
	int fd, n;

	if (getrandom(r, sizeof(r), 0) != sizeof(r))
		return failed("getrandom");
	r[6] = (r[6] & 0x0f) | 0x40;
	r[8] = (r[8] & 0x3f) | 0x80;
	n = snprintf(text, sizeof(text), "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x\n", r[0],
		     r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9], r[10], r[11], r[12], r[13], r[14], r[15]);
	mkdir(OWN_DIR, 0755);
	fd = open(OWN_BOOT_ID, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0444);
	if (fd < 0 || pwrite(fd, text, (size_t)n, 0) != n)
		return failed(OWN_BOOT_ID);
	close(fd);
	if (same_file(OWN_BOOT_ID, BOOT_ID))
		return true;
	return !mount(OWN_BOOT_ID, BOOT_ID, NULL, MS_BIND, NULL) || failed("mount over " BOOT_ID);
}

/* ---- wall clock ---- */

static bool rtc_is_local(void)
{
	char text[256];
	FILE *f = fopen("/etc/adjtime", "re");
	bool local = false;

	while (f && fgets(text, sizeof(text), f))
		local |= !strncmp(text, "LOCAL", 5);
	if (f)
		fclose(f);
	return local;
}

/* The monitor moves the RTC on by the time that passed, always; the rest of the machine's time, if it can. */
static void right_clock(void)
{
	int fd = open("/dev/rtc0", O_RDONLY | O_CLOEXEC);
	struct rtc_time rtc;
	struct timespec now, then = { 0 };

	if (fd >= 0 && !rtc_is_local() && !ioctl(fd, RTC_RD_TIME, &rtc)) {
		struct tm tm = {
			.tm_sec = rtc.tm_sec,
			.tm_min = rtc.tm_min,
			.tm_hour = rtc.tm_hour,
			.tm_mday = rtc.tm_mday,
			.tm_mon = rtc.tm_mon,
			.tm_year = rtc.tm_year,
		};

		then.tv_sec = timegm(&tm);
		clock_gettime(CLOCK_REALTIME, &now);
		errno = 0;
		if (llabs((long long)then.tv_sec - (long long)now.tv_sec) > CLOCK_OFF &&
		    clock_settime(CLOCK_REALTIME, &then))
			say("the wall clock");
	}
	if (fd >= 0)
		close(fd);
}

/* ---- the rest ---- */

static int visible(const struct dirent *d)
{
	return d->d_name[0] != '.';
}

static void run_hooks(void)
{
	struct dirent **list;
	int n = scandir(HOOKS, &list, visible, alphasort);

	for (int i = 0; i < n; i++) {
		char path[512];
		pid_t pid;

		snprintf(path, sizeof(path), HOOKS "/%s", list[i]->d_name);
		free(list[i]);
		pid = access(path, X_OK) ? -1 : fork();
		if (!pid) {
			execl(path, path, (char *)NULL);
			_exit(127);
		}
		while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	if (n >= 0)
		free(list);
}

static bool renew(void)
{
	bool ok = new_random_numbers();

	ok &= new_boot_id();
	right_clock();
	run_hooks();
	errno = 0;
	if (ok)
		say("this is a copy: it has new random numbers and a new boot ID");
	return ok;
}

/* ---- events ---- */

struct message {
	struct nlmsghdr head;
	struct genlmsghdr genl;
	char data[4096];
};

/* The attribute `type` of those in p[0..len), its length in *n; NULL: none. */
static const char *attribute(const char *p, size_t len, unsigned type, size_t *n)
{
	while (len >= NLA_HDRLEN) {
		struct nlattr a;

		memcpy(&a, p, sizeof(a));
		if (a.nla_len < NLA_HDRLEN || a.nla_len > len)
			return NULL;
		*n = a.nla_len - NLA_HDRLEN;
		if ((a.nla_type & NLA_TYPE_MASK) == type)
			return p + NLA_HDRLEN;
		if ((size_t)NLA_ALIGN(a.nla_len) >= len)
			return NULL;
		p += NLA_ALIGN(a.nla_len);
		len -= NLA_ALIGN(a.nla_len);
	}
	return NULL;
}

/* The next message's length of attributes; -1: an error, which *m holds, or errno. */
static ssize_t receive(int fd, struct message *m)
{
	ssize_t n;

	do
		n = recv(fd, m, sizeof(*m), 0);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == ENOBUFS ? 0 : -1; /* too many events at a time */
	if ((size_t)n < offsetof(struct message, data) || m->head.nlmsg_type == NLMSG_ERROR ||
	    m->head.nlmsg_len > (size_t)n)
		return -1;
	return (ssize_t)(m->head.nlmsg_len - offsetof(struct message, data));
}

/* The number of the family's only group: CTRL_ATTR_MCAST_GROUPS is a list of lists. */
static uint32_t group_of(const char *data, size_t len)
{
	size_t n = 0, k = 0;
	const char *groups = attribute(data, len, CTRL_ATTR_MCAST_GROUPS, &n);
	const char *first = groups ? attribute(groups, n, 1, &k) : NULL;
	const char *id = first ? attribute(first, k, CTRL_ATTR_MCAST_GRP_ID, &n) : NULL;
	uint32_t group = 0;

	if (id && n >= sizeof(group))
		memcpy(&group, id, sizeof(group));
	return group;
}

static int listen_to_acpi(void)
{
	static const char family[] = "acpi_event";
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	struct message m = {
		.head = { .nlmsg_type = GENL_ID_CTRL, .nlmsg_flags = NLM_F_REQUEST, .nlmsg_seq = 1 },
		.genl = { .cmd = CTRL_CMD_GETFAMILY, .version = 1 },
	};
	struct nlattr name = { .nla_len = NLA_HDRLEN + sizeof(family), .nla_type = CTRL_ATTR_FAMILY_NAME };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
	uint32_t group;
	ssize_t n;

	memcpy(m.data, &name, sizeof(name));
	memcpy(m.data + NLA_HDRLEN, family, sizeof(family));
	m.head.nlmsg_len = (uint32_t)(offsetof(struct message, data) + NLA_ALIGN(name.nla_len));
	if (fd < 0 || bind(fd, (struct sockaddr *)&kernel, sizeof(kernel)) ||
	    sendto(fd, &m, m.head.nlmsg_len, 0, (struct sockaddr *)&kernel, sizeof(kernel)) < 0)
		return -1;
	n = receive(fd, &m);
	group = n > 0 ? group_of(m.data, (size_t)n) : 0;
	if (!group) {
		errno = ENOENT;
		return -1;
	}
	return setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)) ? -1 : fd;
}

static bool is_copied(const struct message *m, size_t len)
{
	struct acpi_event event;
	size_t n = 0;
	const char *p = attribute(m->data, len, ACPI_ATTR_EVENT, &n);

	if (!p || n < sizeof(event))
		return false;
	memcpy(&event, p, sizeof(event));
	return !strncmp(event.device_class, "processor", sizeof(event.device_class)) &&
	       event.type == THROTTLING_CHANGED;
}

int main(int argc, char **argv)
{
	static struct message m;
	int fd;

	errno = 0;
	if (argc == 2 && !strcmp(argv[1], "--now"))
		return !renew();
	if (argc > 1) {
		dprintf(2, "usage: ectype-guest [--now]\n"
			   "Gives a copy of a virtual machine its own identity; see docs/clone.md of Ectype.\n");
		return 2;
	}
	fd = listen_to_acpi();
	if (fd < 0) {
		say("the kernel does not tell of ACPI events");
		return 1;
	}
	for (;;) {
		ssize_t n = receive(fd, &m);

		if (n > 0 && is_copied(&m, (size_t)n))
			renew();
		else if (n < 0 && errno == EBADF)
			return 1;
	}
}

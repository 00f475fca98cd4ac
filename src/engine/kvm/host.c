/* What this host's KVM can do. */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int kvm_ioctl(int fd, unsigned long request, const void *arg)
{
	int r;

	do
		r = ioctl(fd, request, arg);
	while (r < 0 && errno == EINTR);
	return r;
}

static int has(int fd, int cap)
{
	int r = ioctl(fd, KVM_CHECK_EXTENSION, cap);

	return r < 0 ? 0 : r;
}

static const struct {
	int cap;
	const char *name;
} needed[] = {
	{ KVM_CAP_USER_MEMORY, "user memory" },
	{ KVM_CAP_DESTROY_MEMORY_REGION_WORKS, "removal of memory slots" },
	{ KVM_CAP_READONLY_MEM, "read-only memory slots" },
	{ KVM_CAP_EXT_CPUID, "CPUID tables" },
	{ KVM_CAP_SET_TSS_ADDR, "KVM_SET_TSS_ADDR" },
	{ KVM_CAP_VCPU_EVENTS, "processor events" },
	{ KVM_CAP_DEBUGREGS, "debug registers" },
	{ KVM_CAP_SET_GUEST_DEBUG, "guest debugging" },
	{ KVM_CAP_XSAVE, "XSAVE state" },
	{ KVM_CAP_XCRS, "XCR0" },
	{ KVM_CAP_IMMEDIATE_EXIT, "immediate exits" },
	{ KVM_CAP_X86_USER_SPACE_MSR, "MSR exits" },
	{ KVM_CAP_X86_MSR_FILTER, "the MSR filter" },
	{ KVM_CAP_GET_TSC_KHZ, "the TSC's rate" },
};

/* What it takes to keep the local APICs. Without one of these they stay ours. */
static bool can_split(const struct kvm_host *h)
{
	return has(h->fd, KVM_CAP_SPLIT_IRQCHIP) && has(h->fd, KVM_CAP_SIGNAL_MSI) &&
	       has(h->fd, KVM_CAP_IRQ_ROUTING) >= APIC_PINS && has(h->fd, KVM_CAP_MP_STATE) &&
	       has(h->fd, KVM_CAP_TSC_DEADLINE_TIMER) && (h->x2apic_flags & KVM_X2APIC_API_USE_32BIT_IDS);
}

/* Of KVM_CAP_X2APIC_API: no suppression of EOI broadcasts, which our APICs do not have either. */
#define X2APIC_NO_SUPPRESSION BIT(3)

static const char jailed[] = "/dev/kvm cannot be opened in the jail: start the machine with --cpu-model kvm";

/* The state's MSRs that KVM lists. */
static int read_msrs(struct kvm_host *h)
{
	struct kvm_msr_list none = { .nmsrs = 0 }, *list;

	if (ioctl(h->fd, KVM_GET_MSR_INDEX_LIST, &none) == 0 || errno != E2BIG || none.nmsrs > 65536)
		return -1;
	list = calloc(1, sizeof(*list) + none.nmsrs * sizeof(list->indices[0]));
	if (!list)
		return -1;
	list->nmsrs = none.nmsrs;
	if (kvm_ioctl(h->fd, KVM_GET_MSR_INDEX_LIST, list)) {
		free(list);
		return -1;
	}
	for (unsigned i = 0; i < kvm_state_msr_count; i++)
		for (unsigned k = 0; k < list->nmsrs; k++)
			if (list->indices[k] == kvm_state_msrs[i] && h->msrs < KVM_MSRS_MAX)
				h->msr[h->msrs++] = list->indices[k];
	free(list);
	return 0;
}

/* The rate is asked of a processor. */
static int read_tsc(struct kvm_host *h)
{
	int vm = kvm_ioctl(h->fd, KVM_CREATE_VM, NULL), vcpu = -1, khz = 0;

	if (vm >= 0)
		vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu >= 0)
		khz = ioctl(vcpu, KVM_GET_TSC_KHZ, 0);
	if (vcpu >= 0)
		close(vcpu);
	if (vm >= 0)
		close(vm);
	h->tsc_khz = khz > 0 ? (u32)khz : 0;
	return khz > 0 ? 0 : -1;
}

static int look(struct kvm_host *h)
{
	int size;

	h->fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (h->fd < 0) {
		if (errno == EPERM) /* what the jail's filter says */
			snprintf(h->why, sizeof(h->why), "%s", jailed);
		else
			snprintf(h->why, sizeof(h->why), "cannot open /dev/kvm: %s", strerror(errno));
		return -1;
	}
	if (ioctl(h->fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) {
		snprintf(h->why, sizeof(h->why), "/dev/kvm does not speak KVM's API %u", KVM_API_VERSION);
		return -1;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(needed); i++) {
		if (!has(h->fd, needed[i].cap)) {
			snprintf(h->why, sizeof(h->why), "this host's KVM lacks %s", needed[i].name);
			return -1;
		}
	}
	size = has(h->fd, KVM_CAP_XSAVE2);
	h->xsave_size = size > (int)sizeof(struct kvm_xsave) ? (size_t)size : sizeof(struct kvm_xsave);
	h->run_size = ioctl(h->fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	h->slots = (unsigned)has(h->fd, KVM_CAP_NR_MEMSLOTS);
	h->scales_tsc = has(h->fd, KVM_CAP_TSC_CONTROL);
	h->x2apic_flags =
	    (u64)has(h->fd, KVM_CAP_X2APIC_API) &
	    (KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK | X2APIC_NO_SUPPRESSION);
	h->splits = can_split(h);
	h->steal = has(h->fd, KVM_CAP_STEAL_TIME);
	h->fails_out = has(h->fd, KVM_CAP_EXIT_ON_EMULATION_FAILURE);
	h->limits.whose = "this host's KVM";
	if (h->run_size < (int)sizeof(struct kvm_run) || read_msrs(h) || kvm_read_limits(h->fd, &h->limits, &h->xcr0) ||
	    read_tsc(h)) {
		snprintf(h->why, sizeof(h->why), "this host's KVM does not answer: %s", strerror(errno));
		return -1;
	}
	return 0;
}

/* What a guest is shown is only of interest where one is to run. */
const struct cpu_limits *kvm_limits(const struct kvm_host *h)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static struct cpu_limits seen;

	pthread_mutex_lock(&lock);
	if (!seen.whose) {
		seen = h->limits;
		kvm_see_guest(h, &seen);
	}
	pthread_mutex_unlock(&lock);
	return &seen;
}

static struct kvm_host the_host = { .fd = -1 };
static pthread_mutex_t host_lock = PTHREAD_MUTEX_INITIALIZER;
static bool kept; /* /dev/kvm stays open */

/* Looked at once; opened again where it was let go. */
static void open_host(void)
{
	static bool looked;

	if (the_host.fd >= 0 || (looked && the_host.msrs == 0))
		return;
	if (!looked) {
		looked = true;
		if (look(&the_host)) {
			the_host.msrs = 0;
			close(the_host.fd);
			the_host.fd = -1;
		}
		return;
	}
	the_host.fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (the_host.fd < 0)
		snprintf(
		    the_host.why, sizeof(the_host.why),
		    "cannot open /dev/kvm any more (%s): a machine in the jail needs --cpu-model kvm to go over to it",
		    strerror(errno));
}

const struct kvm_host *kvm_host(const char **why)
{
	const struct kvm_host *h;

	pthread_mutex_lock(&host_lock);
	open_host();
	h = the_host.fd < 0 ? NULL : &the_host;
	if (why)
		*why = the_host.why;
	pthread_mutex_unlock(&host_lock);
	return h;
}

void kvm_host_keep(bool keep)
{
	pthread_mutex_lock(&host_lock);
	kept |= keep;
	if (!kept && the_host.fd >= 0) {
		close(the_host.fd);
		the_host.fd = -1;
	}
	pthread_mutex_unlock(&host_lock);
}

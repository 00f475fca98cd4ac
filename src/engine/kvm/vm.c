/* The kernel's VM object: one a machine, shared by its processors. */
#include "engine/kvm/kvm.h"
#include "mem/track.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* Pages KVM takes below 4 GiB, in a hole of the board's map, where the processor cannot run real mode by itself. */
#define IDENTITY_MAP 0xfeffc000ull
#define TSS_PAGES 0xfeffd000ull

static void map_changed(void *opaque)
{
	kvm_slots_update(opaque);
	kvm_reference_map_changed();
}

static void page_written(void *opaque, gpa_t gpa, unsigned len)
{
	kvm_reference_written(gpa, len);
}

/* What the reference engine may write without the MMU's slow path is dropped as well. */
static void track_armed(void *opaque, bool on)
{
	struct kvm_vm *vm = opaque;

	kvm_log_written(vm, on);
	if (on && vm->alone)
		mmu_drop_writes(vm->alone);
	for (unsigned n = 0; on && vm->group && n < vm->group->count; n++)
		mmu_drop_writes(vm->group->vcpu[n]);
}

static void track_collect(void *opaque)
{
	kvm_report_written(opaque);
}

static void vm_free(struct kvm_vm *vm)
{
	for (unsigned i = 0; i < KVM_VCPUS_MAX; i++)
		if (vm->vcpu_fd[i] >= 0)
			close(vm->vcpu_fd[i]);
	if (vm->fd >= 0)
		close(vm->fd);
	pthread_mutex_destroy(&vm->lock);
	free(vm);
}

static int enable(int fd, u32 cap, u64 arg)
{
	struct kvm_enable_cap c = { .cap = cap, .args[0] = arg };

	return kvm_ioctl(fd, KVM_ENABLE_CAP, &c);
}

static int set_up(struct kvm_vm *vm, const struct vcpu *v, const struct kvm_host *h, struct error *e)
{
	u64 identity = IDENTITY_MAP;

	vm->fd = kvm_ioctl(h->fd, KVM_CREATE_VM, NULL);
	if (vm->fd < 0)
		return error_errno(e, errno, "engine kvm: cannot create a virtual machine");
	/* Both are without effect where the processor runs real mode by itself. */
	kvm_ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	if (ioctl(vm->fd, KVM_SET_TSS_ADDR, TSS_PAGES))
		return error_errno(e, errno, "engine kvm: KVM_SET_TSS_ADDR");
	if (enable(vm->fd, KVM_CAP_X86_USER_SPACE_MSR,
		   KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER) ||
	    kvm_set_msr_filter(vm, h, v->model))
		return error_errno(e, errno, "engine kvm: KVM does not let MSRs out");
	if (vm->split && kvm_split_enable(vm->fd, h))
		return error_errno(e, errno, "engine kvm: KVM does not take the local APICs");
	if (h->fails_out)
		enable(vm->fd, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1);
	return 0;
}

static struct kvm_vm *vm_create(struct vcpu *v, const struct kvm_host *h, struct error *e)
{
	struct memory *mem = v->mem;
	struct kvm_vm *vm = calloc(1, sizeof(*vm));
	struct memory_listener l = { map_changed, page_written, vm, track_armed, track_collect };

	if (!vm) {
		error_set(e, "engine kvm: out of memory");
		return NULL;
	}
	vm->mem = mem;
	vm->group = v->group;
	vm->alone = v->group ? NULL : v;
	vm->logs = track_any(mem);
	vm->fd = -1;
	vm->split = kvm_split_wanted(v, h);
	pthread_mutex_init(&vm->lock, NULL);
	for (unsigned i = 0; i < KVM_VCPUS_MAX; i++)
		vm->vcpu_fd[i] = -1;
	if (set_up(vm, v, h, e)) {
		vm_free(vm);
		return NULL;
	}
	kvm_slots_update(vm);
	memory_add_listener(mem, &l);
	return vm;
}

static int open_vcpu(struct vcpu *v, struct kvm_vm *vm, struct error *e)
{
	struct kvm_vcpu *x = kvm_of(v);
	void *run;

	if (v->index >= KVM_VCPUS_MAX)
		return error_set(e, "engine kvm: at most %u processors", KVM_VCPUS_MAX);
	/* A processor lives as long as its VM: one that was detached is taken up again. */
	if (vm->vcpu_fd[v->index] < 0)
		vm->vcpu_fd[v->index] = ioctl(vm->fd, KVM_CREATE_VCPU, (unsigned long)v->index);
	x->fd = vm->vcpu_fd[v->index];
	if (x->fd < 0)
		return error_errno(e, errno, "engine kvm: cannot create processor %u", v->index);
	run = mmap(NULL, (size_t)x->host->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, x->fd, 0);
	if (run == MAP_FAILED)
		return error_errno(e, errno, "engine kvm: cannot map processor %u", v->index);
	x->run = run;
	return 0;
}

int kvm_vm_join(struct vcpu *v, struct error *e)
{
	struct vcpu_group *g = v->group;
	struct kvm_vcpu *x = kvm_of(v);

	x->vm = g ? g->engine_shared : NULL;
	if (!x->vm)
		x->vm = vm_create(v, x->host, e);
	if (!x->vm)
		return -1;
	if (g) {
		g->engine_shared = x->vm;
		g->engine_users++;
	}
	return open_vcpu(v, x->vm, e);
}

void kvm_vm_leave(struct vcpu *v)
{
	struct vcpu_group *g = v->group;
	struct kvm_vcpu *x = kvm_of(v);
	struct kvm_vm *vm = x->vm;

	if (x->run)
		munmap(x->run, (size_t)x->host->run_size);
	x->run = NULL;
	x->vm = NULL;
	if (!vm || (g && --g->engine_users))
		return;
	if (g)
		g->engine_shared = NULL;
	kvm_report_written(vm);
	memory_remove_listener(vm->mem, vm);
	vm_free(vm);
}

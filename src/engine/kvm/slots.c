/*
 * Memory slots: each piece of RAM or ROM of the map that is whole pages is a
 * slot; all else comes out of KVM as MMIO. On a change only the slots that
 * differ are touched, so that the others' pages stay mapped. A slot cannot be
 * changed in place: for the moment it is away, accesses of other processors
 * come out and are done by memory_read() and memory_write().
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int tell(struct kvm_vm *vm, unsigned n, const struct kvm_slot *s)
{
	struct kvm_userspace_memory_region r = {
		.slot = n,
		.flags = (s->rom ? KVM_MEM_READONLY : 0) | (vm->logs && !s->rom ? KVM_MEM_LOG_DIRTY_PAGES : 0),
		.guest_phys_addr = s->gpa,
		.memory_size = s->len,
		.userspace_addr = (u64)(uintptr_t)s->host,
	};

	if (!s->len)
		r.flags = 0;
	vm->slots_set++;
	return kvm_ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &r);
}

static bool same(const struct kvm_slot *a, const struct kvm_slot *b)
{
	return a->gpa == b->gpa && a->len == b->len && a->host == b->host && a->rom == b->rom;
}

/* The whole pages of a range, joined with the slot before where memory goes on. */
static unsigned add(struct kvm_vm *vm, struct kvm_slot *want, unsigned n, const struct memory_range *r)
{
	gpa_t first = (r->first + ~PAGE_MASK) & PAGE_MASK, end = (r->last + 1) & PAGE_MASK;
	struct kvm_slot s = {
		.gpa = first, .len = end - first, .host = r->host + (first - r->first), .rom = r->kind == REGION_ROM
	};

	if (end <= first)
		return n;
	if (n && want[n - 1].gpa + want[n - 1].len == s.gpa && want[n - 1].host + want[n - 1].len == s.host &&
	    want[n - 1].rom == s.rom) {
		want[n - 1].len += s.len;
		return n;
	}
	if (n == KVM_SLOTS_MAX) {
		vm->unmapped++;
		return n;
	}
	want[n] = s;
	return n + 1;
}

static unsigned wanted(struct kvm_vm *vm, struct kvm_slot *want)
{
	unsigned max = memory_ranges(vm->mem, NULL, 0), n = 0;
	struct memory_range *range = calloc(max ? max : 1, sizeof(*range));

	vm->unmapped = 0;
	if (!range)
		return 0; /* everything comes out: slow, and right */
	memory_ranges(vm->mem, range, max);
	for (unsigned i = 0; i < max; i++)
		if (range[i].kind != REGION_MMIO)
			n = add(vm, want, n, &range[i]);
	free(range);
	return n;
}

/* Dirty bits of a slot that goes would be lost with it. */
static void save_log(struct kvm_vm *vm, unsigned n);

static bool is_wanted(const struct kvm_slot *s, const struct kvm_slot *want, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (same(s, &want[i]))
			return true;
	return false;
}

static void set_new(struct kvm_vm *vm, const struct kvm_slot *s)
{
	for (unsigned i = 0; i < KVM_SLOTS_MAX; i++)
		if (vm->slot[i].len && same(&vm->slot[i], s))
			return;
	for (unsigned i = 0; i < KVM_SLOTS_MAX; i++) {
		if (vm->slot[i].len)
			continue;
		if (tell(vm, i, s))
			vm->unmapped++;
		else
			vm->slot[i] = *s;
		return;
	}
}

void kvm_slots_update(struct kvm_vm *vm)
{
	struct kvm_slot want[KVM_SLOTS_MAX];
	unsigned n;

	pthread_mutex_lock(&vm->lock);
	n = wanted(vm, want);
	for (unsigned i = 0; i < KVM_SLOTS_MAX; i++) {
		if (!vm->slot[i].len || is_wanted(&vm->slot[i], want, n))
			continue;
		save_log(vm, i);
		vm->slot[i].len = 0;
		tell(vm, i, &vm->slot[i]);
	}
	for (unsigned i = 0; i < n; i++)
		set_new(vm, &want[i]);
	pthread_mutex_unlock(&vm->lock);
}

/* ---- dirty pages ---- */

static void mark(struct kvm_vm *vm, u64 off)
{
	u64 frame = off >> PAGE_SHIFT;

	if (off < memory_ram_size(vm->mem))
		__atomic_fetch_or(&vm->log[frame / 8], (u8)(1u << (frame % 8)), __ATOMIC_RELAXED);
}

/* What KVM noted of slot `n`, into vm->log; KVM starts afresh. */
static void save_log(struct kvm_vm *vm, unsigned n)
{
	const struct kvm_slot *s = &vm->slot[n];
	u64 pages = s->len >> PAGE_SHIFT, words = (pages + 63) / 64, *bits;
	struct kvm_dirty_log l = { .slot = n };
	bool known;

	if (!vm->logs || s->rom)
		return;
	bits = calloc(words, 8);
	l.dirty_bitmap = bits;
	known = bits && kvm_ioctl(vm->fd, KVM_GET_DIRTY_LOG, &l) == 0;
	for (u64 i = 0; i < pages; i++)
		if (!known || (bits[i / 64] >> (i % 64) & 1))
			mark(vm, (u64)(s->host - memory_ram(vm->mem)) + (i << PAGE_SHIFT));
	free(bits);
}

static int set_logging(struct kvm_vm *vm, bool on)
{
	int r = 0;

	vm->logs = on;
	for (unsigned i = 0; i < KVM_SLOTS_MAX && !r; i++)
		if (vm->slot[i].len && !vm->slot[i].rom)
			r = tell(vm, i, &vm->slot[i]);
	return r;
}

int kvm_dirty_start(struct vcpu *v, struct error *e)
{
	struct kvm_vm *vm = kvm_of(v)->vm;
	int r = 0;

	pthread_mutex_lock(&vm->lock);
	if (!vm->log)
		vm->log = calloc((memory_ram_size(vm->mem) >> PAGE_SHIFT) / 8 + 1, 1);
	if (!vm->log)
		r = error_set(e, "engine kvm: out of memory for the log of dirty pages");
	else if (!vm->logs && set_logging(vm, true)) {
		r = error_errno(e, errno, "engine kvm: KVM keeps no log of dirty pages");
		set_logging(vm, false);
	}
	pthread_mutex_unlock(&vm->lock);
	return r;
}

void kvm_dirty_stop(struct vcpu *v)
{
	struct kvm_vm *vm = kvm_of(v)->vm;

	pthread_mutex_lock(&vm->lock);
	if (vm->logs)
		set_logging(vm, false);
	free(vm->log);
	vm->log = NULL;
	pthread_mutex_unlock(&vm->lock);
}

int kvm_dirty_harvest(struct vcpu *v, u64 *bitmap)
{
	struct kvm_vm *vm = kvm_of(v)->vm;
	u64 frames = memory_ram_size(vm->mem) >> PAGE_SHIFT;
	bool on;

	pthread_mutex_lock(&vm->lock);
	on = vm->logs;
	for (unsigned i = 0; on && i < KVM_SLOTS_MAX; i++)
		if (vm->slot[i].len)
			save_log(vm, i);
	for (u64 i = 0; on && i < (frames + 7) / 8; i++) {
		u8 byte = __atomic_exchange_n(&vm->log[i], 0, __ATOMIC_RELAXED);

		bitmap[i / 8] |= (u64)byte << (i % 8 * 8);
	}
	pthread_mutex_unlock(&vm->lock);
	return on ? 0 : -1;
}

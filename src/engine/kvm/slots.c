/*
 * Memory slots: each piece of RAM or ROM of the map that is whole pages is a
 * slot; all else comes out of KVM as MMIO. On a change only the slots that
 * differ are touched, so that the others' pages stay mapped. A slot cannot be
 * changed in place: for the moment it is away, accesses of other processors
 * come out and are done by memory_read() and memory_write().
 */
#include "engine/kvm/kvm.h"
#include "mem/track.h"

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

/* ---- written frames (mem/track.h) ---- */

/* What KVM noted of slot `n` is told to the tracks; KVM starts afresh. A slot of which it has no log counts as written.
 */
static void save_log(struct kvm_vm *vm, unsigned n)
{
	const struct kvm_slot *s = &vm->slot[n];
	u64 pages = s->len >> PAGE_SHIFT, first = (u64)(s->host - memory_ram(vm->mem)) >> PAGE_SHIFT, *bits;
	struct kvm_dirty_log l = { .slot = n };

	/* ROM, and memory that is no RAM, is of no track's. */
	if (!vm->logs || s->rom || first >= memory_ram_size(vm->mem) >> PAGE_SHIFT)
		return;
	bits = calloc((pages + 63) / 64, 8);
	l.dirty_bitmap = bits;
	if (!bits || kvm_ioctl(vm->fd, KVM_GET_DIRTY_LOG, &l)) {
		track_note(vm->mem, first, pages);
	} else {
		for (u64 i = 0; i < pages; i++)
			if (bits[i / 64] >> (i % 64) & 1)
				track_note(vm->mem, first + i, 1);
	}
	free(bits);
}

/* Where KVM takes no log for a slot, save_log() finds that out. */
void kvm_log_written(struct kvm_vm *vm, bool on)
{
	pthread_mutex_lock(&vm->lock);
	if (vm->logs != on) {
		vm->logs = on;
		for (unsigned i = 0; i < KVM_SLOTS_MAX; i++)
			if (vm->slot[i].len && !vm->slot[i].rom)
				tell(vm, i, &vm->slot[i]);
	}
	pthread_mutex_unlock(&vm->lock);
}

void kvm_report_written(struct kvm_vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	for (unsigned i = 0; i < KVM_SLOTS_MAX; i++)
		if (vm->slot[i].len)
			save_log(vm, i);
	pthread_mutex_unlock(&vm->lock);
}

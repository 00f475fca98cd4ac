/*
 * EOI without leaving the guest (MSR_KVM_PV_EOI_EN): while bit 0 of a word
 * in guest memory is set, the guest may end the interrupt in service by
 * clearing it, with one instruction, instead of writing the EOI register.
 *
 * The flag is set when an interrupt is acknowledged whose EOI nobody waits
 * for: edge triggered (an IOAPIC wants to hear of the EOI of a level), the
 * only one in service, and nothing requested. Later requests change that:
 * whoever asks for an interrupt looks at the flag first. Cleared, the EOI has
 * happened, and was not late, for nothing asked before. Set, with a request
 * waiting, it is taken back, so that the EOI comes as a write and delivers
 * what waits. All this is done on the processor's own thread between two of
 * its instructions, so the guest clears the flag before or after, never at
 * the same time.
 */
#include "dev/chipset/lapic_internal.h"

#define PV_EOI_FLAG 1

static u8 *flag_of(const struct lapic *l)
{
	return memory_ptr(l->bus->board->mem, l->pv_eoi & ~3ull, 4, true);
}

static void write_flag(struct lapic *l, u8 *flag, u8 val)
{
	*flag = val;
	memory_notify_written(l->bus->board->mem, l->pv_eoi & ~3ull, 1);
}

bool lapic_pv_eoi_ended(const struct lapic *l)
{
	const u8 *flag = flag_of(l);

	return flag && !(*flag & PV_EOI_FLAG);
}

void lapic_pv_eoi_look(struct lapic *l)
{
	if (lapic_pv_eoi_ended(l)) {
		l->pv_eoi_open = false;
		lapic_isr_pop(l);
	} else if (__atomic_load_n(&l->irr_words, __ATOMIC_ACQUIRE)) {
		lapic_pv_eoi_close(l);
	}
}

void lapic_pv_eoi_offer(struct lapic *l, u8 vector)
{
	u32 others = 0;
	u8 *flag;

	for (unsigned i = 0; i < 8; i++)
		others |= l->isr[i] & ~(i == vector / 32 ? 1u << vector % 32 : 0);
	if (others || (l->tmr[vector / 32] & 1u << vector % 32) || __atomic_load_n(&l->irr_words, __ATOMIC_ACQUIRE))
		return;
	flag = flag_of(l);
	if (!flag)
		return;
	write_flag(l, flag, PV_EOI_FLAG);
	l->pv_eoi_open = true;
}

void lapic_pv_eoi_close(struct lapic *l)
{
	u8 *flag = l->pv_eoi_open ? flag_of(l) : NULL;

	l->pv_eoi_open = false;
	if (flag)
		write_flag(l, flag, 0);
}

int lapic_set_pv_eoi(struct lapic *l, u64 val)
{
	struct memory *mem = l->bus->board->mem;

	if ((val & 2) || ((val & 1) && !memory_ptr(mem, val & ~3ull, 4, true)))
		return -1;
	lapic_pv_eoi_sync(l);
	lapic_pv_eoi_close(l);
	l->pv_eoi = val;
	return 0;
}

u64 lapic_pv_eoi(const struct lapic *l)
{
	return l->pv_eoi;
}

bool lapic_pv_eoi_is_open(const struct lapic *l)
{
	return l->pv_eoi_open;
}

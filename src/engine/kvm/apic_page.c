/*
 * The local APIC's registers as KVM_GET_LAPIC and KVM_SET_LAPIC have them:
 * the APIC's page (SDM vol. 3, table 11-1), 32 bits each at multiples of 16,
 * in x2APIC mode with the ID in all 32 bits and ICR in two halves.
 *
 * One thing the page cannot say: a one-shot timer that has run out. KVM takes
 * an initial count with a current count of 0 for one that is due, and would
 * fire it again. So such a timer goes in without its initial count, which is
 * remembered on this side.
 */
#include "engine/kvm/kvm.h"

#include <string.h>

enum {
	PAGE_ID = 0x20,
	PAGE_TPR = 0x80,
	PAGE_LDR = 0xd0,
	PAGE_DFR = 0xe0,
	PAGE_SVR = 0xf0,
	PAGE_ISR = 0x100,
	PAGE_TMR = 0x180,
	PAGE_IRR = 0x200,
	PAGE_ESR = 0x280,
	PAGE_ICR = 0x300,
	PAGE_ICR2 = 0x310,
	PAGE_LVT = 0x320,
	PAGE_INIT_COUNT = 0x380,
	PAGE_COUNT = 0x390,
	PAGE_DIVIDE = 0x3e0,
};

#define BASE_X2APIC BIT(10)
#define TIMER_MODE (3u << 17)
#define TIMER_PERIODIC (1u << 17)

static void put(struct kvm_lapic_state *page, unsigned at, u32 val)
{
	memcpy(page->regs + at, &val, 4);
}

static u32 get(const struct kvm_lapic_state *page, unsigned at)
{
	u32 val;

	memcpy(&val, page->regs + at, 4);
	return val;
}

void kvm_apic_to_page(const struct apic_state *s, struct kvm_lapic_state *page, u32 *hide)
{
	bool one_shot = !(s->lvt[0] & TIMER_MODE);

	*hide = one_shot && !s->count ? s->init_count : 0;
	memset(page, 0, sizeof(*page));
	put(page, PAGE_ID, s->base & BASE_X2APIC ? s->id : s->id << 24);
	put(page, PAGE_TPR, s->tpr);
	put(page, PAGE_LDR, s->ldr);
	put(page, PAGE_DFR, s->dfr);
	put(page, PAGE_SVR, s->svr);
	for (unsigned i = 0; i < 8; i++) {
		put(page, PAGE_ISR + 16 * i, s->isr[i]);
		put(page, PAGE_TMR + 16 * i, s->tmr[i]);
		put(page, PAGE_IRR + 16 * i, s->irr[i]);
	}
	put(page, PAGE_ESR, s->esr);
	put(page, PAGE_ICR, (u32)s->icr);
	put(page, PAGE_ICR2, (u32)(s->icr >> 32));
	for (unsigned i = 0; i < APIC_LVTS; i++)
		put(page, PAGE_LVT + 16 * i, s->lvt[i]);
	put(page, PAGE_INIT_COUNT, *hide ? 0 : s->init_count);
	put(page, PAGE_COUNT, s->count);
	put(page, PAGE_DIVIDE, s->divide);
}

void kvm_page_to_apic(const struct kvm_lapic_state *page, u32 hidden, struct apic_state *s)
{
	s->id = s->base & BASE_X2APIC ? get(page, PAGE_ID) : get(page, PAGE_ID) >> 24;
	s->tpr = get(page, PAGE_TPR);
	s->ldr = get(page, PAGE_LDR);
	s->dfr = get(page, PAGE_DFR);
	s->svr = get(page, PAGE_SVR);
	for (unsigned i = 0; i < 8; i++) {
		s->isr[i] = get(page, PAGE_ISR + 16 * i);
		s->tmr[i] = get(page, PAGE_TMR + 16 * i);
		s->irr[i] = get(page, PAGE_IRR + 16 * i);
	}
	s->esr = get(page, PAGE_ESR);
	s->icr = get(page, PAGE_ICR) | (u64)get(page, PAGE_ICR2) << 32;
	for (unsigned i = 0; i < APIC_LVTS; i++)
		s->lvt[i] = get(page, PAGE_LVT + 16 * i);
	s->init_count = get(page, PAGE_INIT_COUNT);
	s->count = MIN(get(page, PAGE_COUNT), s->init_count);
	s->divide = get(page, PAGE_DIVIDE);
	if (!s->init_count && !(s->lvt[0] & TIMER_MODE))
		s->init_count = hidden;
	/* at the moment it starts anew */
	if ((s->lvt[0] & TIMER_MODE) == TIMER_PERIODIC && !s->count)
		s->count = s->init_count;
}

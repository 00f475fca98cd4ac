/*
 * Races on purpose: what the processors make of shared words by plain
 * instructions, with timer interrupts of their own in between, depends on each
 * step of each of them. The driver compares what is printed, and the machine's
 * state, from run to run and between engines, where processors take turns.
 */
#include "mp.h"

#define WORDS 64

static volatile u64 words[WORDS], log_of[MP_MAX];
static u64 rounds;
static struct barrier start;

static u64 mix(u64 h, u64 v)
{
	h ^= v;
	h *= 0x9e3779b97f4a7c15ull;
	return h ^ h >> 29;
}

static void ticked(struct frame *f)
{
	struct cpu *c = me();

	/* where it came in */
	c->mark[0] = mix(c->mark[0], f->ip ^ f->ax ^ words[c->n % WORDS]);
	apic_write(APIC_EOI, 0);
}

static void race(ulong unused)
{
	struct cpu *c = me();
	u64 h = c->n + 1, sum = 0;

	(void)unused;
	c->handler = ticked;
	c->mark[0] = 0;
	apic_write(APIC_DIVIDE, 0xb);
	apic_write(APIC_TIMER, 0x200a0);
	apic_write(APIC_INITIAL, 5000 + 777 * c->n);
	sti();
	barrier(&start, mp_started);
	for (u64 i = 0; i < rounds; i++) {
		u32 k = h % WORDS;
		u64 v = words[k];
		h = mix(h, v);
		if (h & 0x100)
			words[k] = v + 1;
		else if (h & 0x200)
			words[(k + 1) % WORDS]++;
		else
			sum += words[(k + 7) % WORDS];
		if ((h & 0xfff) == 0)
			icr(cpus[(h >> 20) % mp_started].apic, ICR_ASSERT | 0xa1);
		if ((h & 0x3f000) == 0)
			pause();
		if ((i & 1023) == 0)
			asm volatile("hlt" ::: "memory");
	}
	apic_write(APIC_TIMER, 0x10000);
	apic_write(APIC_INITIAL, 0);
	log_of[c->n] = mix(h, sum);
	delay(100000);
	c->handler = 0;
}

int main(void)
{
	u64 h = 0, total = 0;

	mp_init();
	rounds = mp_option("rounds", 20000);
	mp_all(race, 0);
	for (u32 i = 0; i < WORDS; i++) {
		h = mix(h, words[i]);
		total += words[i];
	}
	say("words %lx, %d increments left of them\n", h, (int)total);
	for (u32 n = 0; n < mp_started; n++)
		say("processor %d: %lx, %d ticks %lx, %d interrupts, at %lx\n", n, log_of[n], cpus[n].seen[0xa0],
		    cpus[n].mark[0], cpus[n].seen[0xa1], rdtsc());
	check("no more increments than rounds", total <= rounds * mp_started && total > 0, 1);
	return 0;
}

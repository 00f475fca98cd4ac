/*
 * The CPU model in a state stream. What the guest was shown is kept word for
 * word: an operating system has read it and acted on it. So a host that has
 * more goes on with less, and one that lacks something cannot go on.
 *
 * Section "cpu-model", version 1: length(u8) and name; tsc_hz(u64),
 * phys_bits(u8), lin_bits(u8), mxcsr_mask(u32), pv_features(u32), entries(u16),
 * of each leaf(u32) subleaf(u32) has_subleaf(bool) EAX EBX ECX EDX(u32).
 */
#include <string.h>

#include "cpu/features.h"
#include "cpu/pv.h"

#define TSC_HZ_MAX 18000000000ull /* what dev/clock.h can count */
#define PV_CLOCK_HZ 1000000000ull /* its structure counts on guest time and TSC being one (machine/pv.c) */
#define XSAVE_LEAF 0xdu

void cpu_model_save(const struct cpu_model *m, struct encoder *e)
{
	enc_begin(e, "cpu-model", 1);
	enc_u8(e, (u8)strlen(m->name));
	enc_bytes(e, m->name, strlen(m->name));
	enc_u64(e, m->tsc_hz);
	enc_u8(e, (u8)m->phys_bits);
	enc_u8(e, (u8)m->lin_bits);
	enc_u32(e, m->mxcsr_mask);
	enc_u32(e, m->pv_features);
	enc_u16(e, (u16)m->entries);
	for (unsigned i = 0; i < m->entries; i++) {
		const struct cpuid_entry *c = &m->entry[i];

		enc_u32(e, c->leaf);
		enc_u32(e, c->subleaf);
		enc_bool(e, c->has_subleaf);
		enc_u32(e, c->eax);
		enc_u32(e, c->ebx);
		enc_u32(e, c->ecx);
		enc_u32(e, c->edx);
	}
	enc_end(e);
}

static void decode_entry(struct decoder *d, struct cpuid_entry *c)
{
	c->leaf = dec_u32(d);
	c->subleaf = dec_u32(d);
	c->has_subleaf = dec_bool(d);
	c->eax = dec_u32(d);
	c->ebx = dec_u32(d);
	c->ecx = dec_u32(d);
	c->edx = dec_u32(d);
}

static bool decode(struct cpu_model *m, struct decoder *d)
{
	struct decoder s;
	unsigned n;

	memset(m, 0, sizeof(*m));
	if (!dec_begin(d, "cpu-model", &s) || s.version != 1)
		return false;
	n = dec_u8(&s);
	if (n >= sizeof(m->name))
		return false;
	dec_bytes(&s, m->name, n);
	m->tsc_hz = dec_u64(&s);
	m->phys_bits = dec_u8(&s);
	m->lin_bits = dec_u8(&s);
	m->mxcsr_mask = dec_u32(&s);
	m->pv_features = dec_u32(&s);
	m->entries = dec_u16(&s);
	if (m->entries > ARRAY_SIZE(m->entry))
		return false;
	for (unsigned i = 0; i < m->entries; i++)
		decode_entry(&s, &m->entry[i]);
	return dec_done(&s) && strlen(m->name) == n;
}

static const struct cpuid_entry *find(const struct cpu_model *m, u32 leaf, u32 subleaf)
{
	for (unsigned i = 0; i < m->entries; i++)
		if (m->entry[i].leaf == leaf && m->entry[i].subleaf == subleaf)
			return &m->entry[i];
	return NULL;
}

/* Components of the XSAVE area lie where the hardware puts them (SDM vol. 1, 13.4.2). */
static bool same_layout(const struct cpu_model *m, const struct cpu_model *host)
{
	for (unsigned i = 0; i < m->entries; i++) {
		const struct cpuid_entry *c = &m->entry[i], *h;

		if (c->leaf != XSAVE_LEAF || c->subleaf < 2)
			continue;
		h = find(host, c->leaf, c->subleaf);
		if (!h || c->eax != h->eax || c->ebx != h->ebx)
			return false;
	}
	return true;
}

static int check_host(const struct cpu_model *m, const struct feature_set *f, const struct cpu_model *host,
		      const char *whose, struct error *e)
{
	struct feature_set has;
	char what[64];

	cpu_model_features(host, &has);
	for (unsigned i = 0; i < W_COUNT * 32; i++) {
		if (!feature_get(f, i) || feature_get(&has, i))
			continue;
		cpu_feature_describe(i, what, sizeof(what));
		return error_set(e, "%s lacks %s, which the guest was shown", whose, what);
	}
	if (m->phys_bits > host->phys_bits)
		return error_set(e, "%s has physical addresses of %u bits, the guest was shown %u", whose,
				 host->phys_bits, m->phys_bits);
	if ((m->mxcsr_mask & ~host->mxcsr_mask) || !same_layout(m, host))
		return error_set(e, "%s has another layout of vector state than the guest was shown", whose);
	return 0;
}

static bool sound(const struct cpu_model *m, const struct feature_set *f)
{
	return m->phys_bits >= 32 && m->lin_bits == (feature_get(f, F_LA57) ? 57u : 48u) && m->tsc_hz &&
	       m->tsc_hz <= TSC_HZ_MAX && (!(m->pv_features & PV_CLOCK_ALL) || m->tsc_hz == PV_CLOCK_HZ) &&
	       !(m->pv_features & ~(u32)PV_ALL) && feature_get(f, F_LM);
}

int cpu_model_load(struct cpu_model *m, struct decoder *d, unsigned cpus, const struct cpu_limits *limits,
		   struct error *e)
{
	struct cpu_model host;
	struct feature_set f;

	if (!decode(m, d))
		return error_set(e, "the record of the CPU model is not sound");
	cpu_model_features(m, &f);
	if (!sound(m, &f))
		return error_set(e, "the record of the CPU model is not sound");
	if (cpu_model_init_within(&host, "host", cpus, m->tsc_hz, limits, e) ||
	    check_host(m, &f, &host, limits ? limits->whose : "this host", e))
		return -1;
	cpu_model_derive(m, &f);
	return 0;
}

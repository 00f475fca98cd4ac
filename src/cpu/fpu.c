/*
 * Parking and loading the guest's x87 and vector state (see fpu.h).
 *
 * The image is always written by the plain XSAVE64, which stores initial
 * values for components the host does not track as in use, and its XSTATE_BV
 * is then set to all components: the bytes alone carry the state. That keeps
 * the image the same in two identical runs, whatever the host kernel's own
 * context switches did to XINUSE, and lets other code edit it freely.
 *
 * XSAVEOPT would write less but was not chosen: its modified optimisation
 * leaves parts of the image unwritten depending on host context switches.
 *
 * A host without XSAVE gets FXSAVE64 with components x87 and SSE.
 */
#include <cpuid.h>

#include "cpu/xstate.h"

/* Facts about the host, filled before main() and constant from then on. */
static struct {
	u64 mask;
	bool xsave, avx;
	u16 offset[10];
} host;

#define FPU_COMPONENTS (XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512)

__attribute__((constructor)) static void fpu_probe_host(void)
{
	u32 a, b, c, d, lo, hi;

	for (unsigned i = 2; i < ARRAY_SIZE(host.offset); i++)
		host.offset[i] = (u16)xstate_offset(i);
	host.mask = XCR0_X87 | XCR0_SSE;
	__cpuid(1, a, b, c, d);
	if (!(c & (1u << 27)))
		return;
	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	host.xsave = true;
	host.mask = lo & FPU_COMPONENTS;
	if (!(host.mask & XCR0_AVX) || (host.mask & XCR0_AVX512) != XCR0_AVX512)
		host.mask &= ~XCR0_AVX512;
	for (unsigned i = 2; i <= 7; i++) {
		if (!(host.mask & BIT(i)))
			continue;
		__cpuid_count(0xd, i, a, b, c, d);
		/* SDM vol. 1, 13.4.3: sizes are architectural, offsets are the processor's. */
		if (a != xstate_size(i) || b + a > FPU_IMAGE_SIZE) {
			host.mask &= i == 2 ? ~(XCR0_AVX | XCR0_AVX512) : ~XCR0_AVX512;
			continue;
		}
		host.offset[i] = (u16)b;
	}
	host.avx = host.mask & XCR0_AVX;
}

u64 fpu_host_components(void)
{
	return host.mask;
}

unsigned fpu_component_offset(unsigned component)
{
	if (component < 2)
		return component ? FX_XMM : 0;
	return component < ARRAY_SIZE(host.offset) ? host.offset[component] : 0;
}

unsigned fpu_component_size(unsigned component)
{
	if (component == 0)
		return 160;
	return component == 1 ? 256 : xstate_size(component);
}

void fpu_park_slow(struct vcpu *v)
{
	u8 *img = v->cpu.fpu;
	u32 lo = (u32)host.mask, mxcsr = MXCSR_INIT;
	u64 fip, fdp, mask = host.mask;
	u16 fop, fcw, fsw;

	/* The host's pointers are addresses of the monitor: keep the recorded ones. */
	__builtin_memcpy(&fop, img + FX_FOP, 2);
	__builtin_memcpy(&fip, img + FX_FIP, 8);
	__builtin_memcpy(&fdp, img + FX_FDP, 8);
	if (likely(host.xsave))
		__asm__ volatile("xsave64 (%0)" : : "r"(img), "a"(lo), "d"(0) : "memory");
	else
		__asm__ volatile("fxsave64 (%0)" : : "r"(img) : "memory");
	__builtin_memcpy(img + FX_FOP, &fop, 2);
	__builtin_memcpy(img + FX_FIP, &fip, 8);
	__builtin_memcpy(img + FX_FDP, &fdp, 8);
	__builtin_memcpy(img + XSTATE_HEADER, &mask, 8);

	/* FNINIT costs about 100 cycles: only where there is something to clean. */
	__builtin_memcpy(&fcw, img + FX_FCW, 2);
	__builtin_memcpy(&fsw, img + FX_FSW, 2);
	if (fcw != FCW_INIT || (fsw & 0x38ff) || img[FX_FTW])
		__asm__ volatile("fninit");
	if (xstate_mxcsr(&v->cpu) != MXCSR_INIT)
		__asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
	if (host.avx) /* dirty upper halves slow the host's legacy SSE code down */
		__asm__ volatile("vzeroupper");
	v->fpu_live = false;
}

void fpu_load_slow(struct vcpu *v)
{
	u8 *img = v->cpu.fpu;
	u64 mask = host.mask;

	if (likely(host.xsave)) {
		__builtin_memcpy(img + XSTATE_HEADER, &mask, 8);
		__asm__ volatile("xrstor64 (%0)" : : "r"(img), "a"((u32)mask), "d"(0) : "memory");
	} else {
		__asm__ volatile("fxrstor64 (%0)" : : "r"(img) : "memory");
	}
	v->fpu_live = true;
}

void fpu_reset(struct cpu *c)
{
	u16 fcw = 0x40; /* SDM vol. 3, table 9-1: not what FNINIT leaves; all tags are "zero" */
	u32 mxcsr = MXCSR_INIT;
	u64 mask = host.mask;

	zero_words(c->fpu, FPU_IMAGE_SIZE);
	__builtin_memcpy(c->fpu + FX_FCW, &fcw, 2);
	c->fpu[FX_FTW] = 0xff;
	__builtin_memcpy(c->fpu + FX_MXCSR, &mxcsr, 4);
	__builtin_memcpy(c->fpu + XSTATE_HEADER, &mask, 8);
}

void fpu_set_pointers(struct cpu *c, u16 fop, u64 fip, u64 fdp)
{
	fop &= 0x7ff;
	__builtin_memcpy(c->fpu + FX_FOP, &fop, 2);
	__builtin_memcpy(c->fpu + FX_FIP, &fip, 8);
	__builtin_memcpy(c->fpu + FX_FDP, &fdp, 8);
}

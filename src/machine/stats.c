/* What --stats and a triple fault print. */
#include "machine/internal.h"

#include <stdarg.h>
#include <stdio.h>

void machine_stats(struct machine *m, struct machine_stats *out)
{
	*out = (struct machine_stats){
		.instructions = machine_icount(m),
		.counted = !m->uncountable && (!m->uncounted || m->cfg.clock == MACHINE_CLOCK_VIRTUAL ||
					       m->cfg.insn_limit || m->cfg.engine_options.count),
		.seconds = (double)(m->run_ns + (m->run_start ? host_ns() - m->run_start : 0)) / 1e9,
	};
	for (unsigned n = 0; n < m->cfg.cpus; n++) {
		const struct machine_cpu *c = &m->cpu[n];

		for (unsigned i = 0; i < VCPU_EXIT_COUNT; i++)
			out->exits[i] += c->exits[i];
		out->halts += c->halts;
		out->yields += c->yields;
		out->kicks += c->kicks;
		out->halted_seconds += (double)c->halted_ns / 1e9;
	}
}

struct sink {
	void (*line)(void *, const char *);
	void *opaque;
};

static void print(const struct sink *s, const char *fmt, ...) printf_like(2, 3);
static void print(const struct sink *s, const char *fmt, ...)
{
	char text[160];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	s->line(s->opaque, text);
}

static void dump_general(const struct sink *s, const struct cpu *c)
{
	static const char *const name[16] = { "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
					      "R8 ", "R9 ", "R10", "R11", "R12", "R13", "R14", "R15" };

	for (unsigned i = 0; i < 16; i += 4)
		print(s, "%s=%016lx %s=%016lx %s=%016lx %s=%016lx", name[i], c->gpr[i], name[i + 1], c->gpr[i + 1],
		      name[i + 2], c->gpr[i + 2], name[i + 3], c->gpr[i + 3]);
}

static void dump_segments(const struct sink *s, const struct cpu *c)
{
	static const char *const name[SEG_COUNT] = {
		[SEG_ES] = "ES", [SEG_CS] = "CS", [SEG_SS] = "SS", [SEG_DS] = "DS", [SEG_FS] = "FS", [SEG_GS] = "GS",
	};

	for (unsigned i = 0; i < SEG_COUNT; i++)
		print(s, "%s  sel=%04x base=%016lx limit=%08x attr=%05x", name[i], c->seg[i].sel, c->seg[i].base,
		      c->seg[i].limit, c->seg[i].attr);
	print(s, "LDT sel=%04x base=%016lx limit=%08x attr=%05x", c->ldtr.sel, c->ldtr.base, c->ldtr.limit,
	      c->ldtr.attr);
	print(s, "TR  sel=%04x base=%016lx limit=%08x attr=%05x", c->tr.sel, c->tr.base, c->tr.limit, c->tr.attr);
	print(s, "GDT base=%016lx limit=%04x   IDT base=%016lx limit=%04x", c->gdtr.base, c->gdtr.limit, c->idtr.base,
	      c->idtr.limit);
}

void machine_dump_registers(struct machine *m, unsigned cpu, void (*line)(void *, const char *), void *opaque)
{
	static const char *const activity[] = { "running", "halted", "shutdown", "waiting for SIPI" };
	const struct vcpu *v = machine_vcpu(m, cpu);
	const struct cpu *c = &v->cpu;
	const struct sink s = { line, opaque };

	print(&s, "CPU %u, %s, CPL %u, after %lu instructions", cpu, activity[c->activity & 3], cpu_cpl(c), v->icount);
	print(&s, "RIP=%016lx RFLAGS=%08lx", c->rip, c->rflags);
	dump_general(&s, c);
	dump_segments(&s, c);
	print(&s, "CR0=%08lx CR2=%016lx CR3=%016lx CR4=%08lx EFER=%04lx", c->cr0, c->cr2, c->cr3, c->cr4, c->efer);
	print(&s, "DR0=%016lx DR1=%016lx DR2=%016lx DR3=%016lx", c->dr[0], c->dr[1], c->dr[2], c->dr[3]);
	print(&s, "DR6=%08lx DR7=%08lx", c->dr[6], c->dr[7]);
	print(&s, "last fault: vector %u, error code %x, address %016lx", v->fault.vector,
	      v->fault.has_error ? v->fault.error : 0, v->fault.addr);
}

/* The commands of gdb's `monitor`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gdb/stub.h"

#define XP_MAX 1024 /* items */

static void help(gdb_line_fn line, void *o)
{
	static const char *const text[] = {
		"help               this list",
		"info registers     all registers of the current processor",
		"info mem           mapped linear ranges with their rights",
		"info tlb           every mapping of the page tables",
		"info mtree         the guest-physical map",
		"info status        what the current processor is doing",
		"xp [/N[b|h|w|g]] ADDR  N items of physical memory in hexadecimal",
		"reset              reset the machine, as the reset button",
		"stats              counters",
		"code ADDR          the translated code that holds a guest instruction",
		"quit               end the machine",
	};

	for (size_t i = 0; i < ARRAY_SIZE(text); i++)
		line(o, text[i]);
}

/* One item a call; rows of 16 bytes. */
static void dump(const struct gdb_target *t, gpa_t addr, unsigned count, unsigned size, gdb_line_fn line, void *o)
{
	unsigned per_row = 16 / size;

	for (unsigned i = 0; i < count; i += per_row) {
		char row[160];
		int n = snprintf(row, sizeof(row), "%016llx:", (unsigned long long)addr);

		for (unsigned k = 0; k < per_row && i + k < count; k++, addr += size) {
			u64 val = 0;

			if (t->ops->phys_read(t->opaque, addr, &val, size))
				n += snprintf(row + n, sizeof(row) - (size_t)n, " %.*s", (int)size * 2,
					      "????????????????");
			else
				n += snprintf(row + n, sizeof(row) - (size_t)n, " %0*llx", (int)size * 2,
					      (unsigned long long)val);
		}
		line(o, row);
	}
}

static void xp(const struct gdb_target *t, const char *arg, gdb_line_fn line, void *o)
{
	unsigned long count = 1;
	unsigned size = 4;
	u64 addr;
	char *end;

	while (*arg == ' ')
		arg++;
	if (*arg == '/') {
		arg++;
		if (*arg >= '0' && *arg <= '9') {
			count = strtoul(arg, &end, 10);
			arg = end;
		}
		for (; *arg && *arg != ' '; arg++) {
			if (*arg == 'b')
				size = 1;
			else if (*arg == 'h')
				size = 2;
			else if (*arg == 'w')
				size = 4;
			else if (*arg == 'g')
				size = 8;
			else if (*arg != 'x')
				goto bad;
		}
	}
	while (*arg == ' ')
		arg++;
	if (*arg < '0' || *arg > '9' || count == 0 || count > XP_MAX)
		goto bad;
	addr = strtoull(arg, &end, 0);
	while (*end == ' ')
		end++;
	if (*end)
		goto bad;
	dump(t, addr, (unsigned)count, size, line, o);
	return;
bad:
	line(o, "usage: xp [/N[b|h|w|g]] ADDR, N at most 1024, ADDR decimal or 0x...");
}

static void status(struct vcpu *v, gdb_line_fn line, void *o)
{
	static const char *const activity[] = { [ACT_RUNNING] = "running",
						[ACT_HALTED] = "halted",
						[ACT_SHUTDOWN] = "shut down",
						[ACT_WAIT_FOR_SIPI] = "waiting for SIPI" };
	static const char *const mode[] = { [CODE_16] = "16-bit", [CODE_32] = "32-bit", [CODE_64] = "64-bit" };
	char text[160];

	snprintf(text, sizeof(text), "processor %u: %s, %s code%s, CPL %u, %llu instructions", v->index,
		 v->cpu.activity < ARRAY_SIZE(activity) ? activity[v->cpu.activity] : "?", mode[cpu_code_mode(&v->cpu)],
		 cpu_real(&v->cpu)  ? " in real mode"
		 : cpu_v86(&v->cpu) ? " in virtual-8086 mode"
				    : "",
		 cpu_cpl(&v->cpu), (unsigned long long)v->icount);
	line(o, text);
}

struct code_lines {
	gdb_line_fn line;
	void *opaque;
	bool any;
};

static void code_line(void *opaque, const char *text)
{
	struct code_lines *c = opaque;

	c->any = true;
	c->line(c->opaque, text);
}

static void code(struct vcpu *v, const char *arg, gdb_line_fn line, void *o)
{
	struct code_lines c = { line, o, false };
	char *end;
	u64 addr = strtoull(arg, &end, 0);

	if (*arg < '0' || *arg > '9' || *end) {
		line(o, "usage: code ADDR, decimal or 0x...");
		return;
	}
	if (v->engine && v->engine->describe)
		v->engine->describe(v, addr, code_line, &c);
	if (!c.any)
		line(o, "no translated code");
}

enum gdb_monitor_end gdb_monitor(const struct gdb_target *t, struct vcpu *v, const char *cmd, gdb_line_fn line,
				 void *opaque)
{
	while (*cmd == ' ')
		cmd++;
	if (strcmp(cmd, "help") == 0 || *cmd == 0)
		help(line, opaque);
	else if (strcmp(cmd, "info registers") == 0)
		t->ops->registers(t->opaque, v->index, line, opaque);
	else if (strcmp(cmd, "info mem") == 0)
		gdb_list_mappings(t, v, false, line, opaque);
	else if (strcmp(cmd, "info tlb") == 0)
		gdb_list_mappings(t, v, true, line, opaque);
	else if (strcmp(cmd, "info mtree") == 0)
		t->ops->map(t->opaque, line, opaque);
	else if (strcmp(cmd, "info status") == 0)
		status(v, line, opaque);
	else if (strncmp(cmd, "xp ", 3) == 0 || strncmp(cmd, "xp/", 3) == 0)
		xp(t, cmd + 2, line, opaque);
	else if (strncmp(cmd, "code ", 5) == 0)
		code(v, cmd + 5, line, opaque);
	else if (strcmp(cmd, "stats") == 0)
		t->ops->stats(t->opaque, line, opaque);
	else if (strcmp(cmd, "reset") == 0 || strcmp(cmd, "system_reset") == 0)
		t->ops->reset(t->opaque);
	else if (strcmp(cmd, "quit") == 0)
		return GDB_MON_QUIT;
	else
		line(opaque, "unknown command; 'monitor help' lists them");
	return GDB_MON_OK;
}

/* --pv: which parts of the paravirtual interface the guest finds. */
#include "cli/pv_options.h"

#include <string.h>

#include "cli/cli.h"
#include "cpu/pv.h"

#define PAUSE_LOOPS BIT(31) /* nothing the guest finds: loops of PAUSE are looked for, unless this is left out */

static const struct {
	const char *name;
	u32 features;
} parts[] = {
	{ "on", PV_ALL },
	{ "off", 0 },
	{ "clock", PV_CLOCK_ALL },
	{ "io-delay", PV_NO_IO_DELAY },
	{ "steal", PV_STEAL_TIME },
	{ "eoi", PV_EOI },
	{ "unhalt", PV_UNHALT },
	{ "tlb-flush", PV_TLB_FLUSH },
	{ "ipi", PV_SEND_IPI },
	{ "poll", PV_POLL_CONTROL },
	{ "yield", PV_SCHED_YIELD },
	{ "pause", PAUSE_LOOPS },
};

int pv_option_parse(const char *value, u32 *features, bool *no_pause)
{
	const char *part = value;

	*no_pause = false;
	*features = 0;
	for (size_t len;; part += len + 1) {
		bool without = !strncmp(part, "no-", 3);
		const char *name = without ? part + 3 : part;
		unsigned i;

		len = strcspn(part, ",");
		for (i = 0; i < ARRAY_SIZE(parts); i++)
			if (part + len == name + strlen(parts[i].name) &&
			    !strncmp(name, parts[i].name, strlen(parts[i].name)))
				break;
		/* on and off come first, and nothing behind off */
		if (i == ARRAY_SIZE(parts) || (i < 2 && (part != value || without)) || (i == 1 && part[len]))
			return usage_error("--pv '%s': '%.*s' is none of on, off, [no-]clock, io-delay, steal, eoi, "
					   "unhalt, tlb-flush, ipi, poll, yield, pause",
					   value, (int)len, part);
		if (parts[i].features == PAUSE_LOOPS)
			*no_pause = without;
		else
			*features = without ? *features & ~parts[i].features : *features | parts[i].features;
		if (!part[len])
			return 0;
	}
}

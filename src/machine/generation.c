/* The machine's generation: what of it the guest sees is a device (dev/chipset/vmgenid.h). */
#include <string.h>

#include "boot/acpi.h"
#include "dev/chipset/acpi_pm.h"
#include "dev/chipset/vmgenid.h"
#include "machine/internal.h"
#include "machine/layout.h"
#include "replay/door.h"

/* Of a machine on the virtual clock that is given none: the same in each run. */
static const char fixed[] = "45637479-7065-4000-8000-000000000001";

int machine_generation_create(struct machine *m)
{
	u8 guid[GUID_LEN];

	if (!m->cfg.vmgenid)
		return 0;
	if (m->cfg.generation)
		memcpy(guid, m->cfg.generation, sizeof(guid));
	else if (m->cfg.clock == MACHINE_CLOCK_VIRTUAL)
		guid_parse(fixed, guid);
	else
		door_random(m->door, guid, sizeof(guid));
	m->cfg.generation = NULL; /* the caller's */
	m->vmgenid = vmgenid_create(&m->board, ACPI_VMGENID_GPA, PRIO_ROM, guid);
	return m->vmgenid ? 0 : -1;
}

const u8 *machine_generation(const struct machine *m)
{
	return m->vmgenid ? vmgenid_get(m->vmgenid) : NULL;
}

int machine_set_generation(struct machine *m, const u8 *guid)
{
	u8 random[GUID_LEN];

	if (!m->vmgenid)
		return -1;
	if (!guid)
		door_random(m->door, random, sizeof(random));
	vmgenid_set(m->vmgenid, guid ? guid : random);
	acpi_pm_gpe(m->pm, ACPI_VMGENID_GPE);
	return 0;
}

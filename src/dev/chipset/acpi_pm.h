/* ACPI power management of the ICH9: PM1 and GPE0 blocks, PM timer, SMI command port. */
#ifndef ECTYPE_DEV_CHIPSET_ACPI_PM_H
#define ECTYPE_DEV_CHIPSET_ACPI_PM_H

#include "dev/device.h"

#define ICH9_PM_BASE 0x600 /* at reset */
#define ICH9_PM_LEN 0x80
/* offsets from the base */
#define ICH9_PM1_EVT 0x00
#define ICH9_PM1_CNT 0x04
#define ICH9_PM_TMR 0x08
#define ICH9_GPE0 0x20 /* 16 bytes: 8 of status, 8 of enable */
#define ICH9_GPE0_LEN 16
#define ICH9_SMI_CMD 0xb2
#define ICH9_ACPI_ENABLE 0x02
#define ICH9_ACPI_DISABLE 0x03
#define ICH9_PM_TIMER_HZ 3579545u

/*
 * `sci` (copied) is level-triggered, active high. `timer_32bit`: width of the
 * PM timer, which the FADT must name (TMR_VAL_EXT). SLP_TYP 0 and 7 mean S5, 2
 * and 6 S4 (both power off); S1 and S3 are ignored. NULL on lack of memory.
 */
struct device *acpi_pm_create(struct board *b, const struct irq *sci, bool timer_32bit);

/* The LPC bridge's PMBASE and ACPI_EN. `base` is a multiple of 128. */
void acpi_pm_set_base(struct device *d, u16 base, bool enabled);
/* Presses the power button. */
void acpi_pm_power_button(struct device *d);
/* Raises general-purpose event `n`, 0 to 63. */
void acpi_pm_gpe(struct device *d, unsigned n);

#endif

/* Processor modes at a kernel's entry, with the tables in guest memory that back them. */
#include "boot/image.h"

#define DESC_CODE32 0x00cf9b000000ffffull
#define DESC_CODE64 0x00af9b000000ffffull
#define DESC_DATA 0x00cf93000000ffffull

#define ATTR_COMMON (SEG_S | SEG_P | SEG_G)
#define ATTR_CODE32 (SEG_TYPE_CODE | SEG_TYPE_RW | SEG_TYPE_ACCESSED | ATTR_COMMON | SEG_DB)
#define ATTR_CODE64 (SEG_TYPE_CODE | SEG_TYPE_RW | SEG_TYPE_ACCESSED | ATTR_COMMON | SEG_L)
#define ATTR_DATA (SEG_TYPE_RW | SEG_TYPE_ACCESSED | ATTR_COMMON | SEG_DB)
#define ATTR_TSS_BUSY (0xbu | SEG_P)

#define PTE_P BIT(0)
#define PTE_RW BIT(1)
#define PTE_A BIT(5)
#define PTE_PS BIT(7)

static void place_gdt(struct memory *m, gpa_t gdt, u16 cs, u64 code, u16 ds)
{
	u8 table[BOOT_GDT_SIZE] = { 0 };

	put64(table + cs, code);
	put64(table + ds, DESC_DATA);
	memory_write(m, gdt, table, sizeof(table));
}

static void flat_registers(struct cpu *c, gpa_t gdt, u16 cs, u32 code_attr, u16 ds)
{
	for (unsigned i = 0; i < ARRAY_SIZE(c->gpr); i++)
		c->gpr[i] = 0;
	c->rflags = FL_FIXED1;
	for (unsigned s = 0; s < SEG_COUNT; s++)
		c->seg[s] = (struct segment){ .sel = ds, .attr = ATTR_DATA, .limit = 0xffffffff };
	c->seg[SEG_CS] = (struct segment){ .sel = cs, .attr = code_attr, .limit = 0xffffffff };
	c->ldtr = (struct segment){ .attr = SEG_UNUSABLE };
	c->tr = (struct segment){ .attr = ATTR_TSS_BUSY, .limit = 0x67 };
	c->gdtr = (struct table_reg){ .base = gdt, .limit = BOOT_GDT_SIZE - 1 };
	c->idtr = (struct table_reg){ 0 };
	c->cr2 = c->cr3 = c->cr4 = c->efer = 0;
	c->cr0 = CR0_PE | CR0_ET;
}

void place_protected(struct cpu *c, struct memory *m, gpa_t gdt, u16 cs, u16 ds)
{
	place_gdt(m, gdt, cs, DESC_CODE32, ds);
	flat_registers(c, gdt, cs, ATTR_CODE32, ds);
}

void place_long(struct cpu *c, struct memory *m, gpa_t gdt, u16 cs, u16 ds, gpa_t tables)
{
	u8 page[PAGE_SIZE];

	/* page 0: PML4, page 1: PDPT, pages 2 to 5: 4 x 512 pages of 2 MiB */
	for (unsigned n = 0; n < BOOT_PAGE_TABLES / PAGE_SIZE; n++) {
		for (unsigned i = 0; i < 512; i++) {
			u64 pte = 0;
			if (n == 0 && i == 0)
				pte = (tables + PAGE_SIZE) | PTE_P | PTE_RW | PTE_A;
			else if (n == 1 && i < 4)
				pte = (tables + (2 + i) * PAGE_SIZE) | PTE_P | PTE_RW | PTE_A;
			else if (n >= 2)
				pte = ((u64)(n - 2) << 30 | (u64)i << 21) | PTE_P | PTE_RW | PTE_PS;
			put64(page + i * 8, pte);
		}
		memory_write(m, tables + n * PAGE_SIZE, page, sizeof(page));
	}
	place_gdt(m, gdt, cs, DESC_CODE64, ds);
	flat_registers(c, gdt, cs, ATTR_CODE64, ds);
	c->cr3 = tables;
	c->cr4 = CR4_PAE;
	c->efer = EFER_LME | EFER_LMA;
	c->cr0 |= CR0_PG;
}

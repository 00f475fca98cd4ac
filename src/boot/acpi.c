/*
 * ACPI tables. Everything is first built position-independent: a blob of
 * tables, the RSDP, and two lists that say which fields are pointers into the
 * blob and which bytes are checksums. A direct boot resolves the lists here;
 * firmware gets them as linker commands and resolves them itself.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "boot/acpi.h"
#include "boot/aml.h"
#include "boot/image.h"

enum { IN_TABLES, IN_RSDP };

struct fixup {
	u8 where; /* IN_* */
	u8 size;
	u32 offset;
};
struct checksum {
	u8 where;
	u32 offset, start, len;
};
struct builder {
	struct aml out; /* the tables */
	u8 *rsdp;
	struct fixup fix[24];
	unsigned fixes;
	struct checksum sum[16];
	unsigned sums;
};

#define HEADER_LEN 36
#define FACS_LEN 64

static void add_pointer(struct builder *b, unsigned where, size_t offset, unsigned size, size_t target)
{
	u8 *p = (where == IN_RSDP ? b->rsdp : b->out.data) + offset;

	assert(b->fixes < ARRAY_SIZE(b->fix));
	b->fix[b->fixes++] = (struct fixup){ (u8)where, (u8)size, (u32)offset };
	if (where == IN_TABLES && b->out.failed)
		return;
	if (size == 8)
		put64(p, target);
	else
		put32(p, (u32)target);
}

static void add_checksum(struct builder *b, unsigned where, size_t offset, size_t start, size_t len)
{
	assert(b->sums < ARRAY_SIZE(b->sum));
	b->sum[b->sums++] = (struct checksum){ (u8)where, (u32)offset, (u32)start, (u32)len };
}

/* The common header (5.2.6); length and checksum follow in table_end(). */
static size_t table_begin(struct builder *b, const char *signature, u8 revision)
{
	static const u8 zeros[8];
	u8 h[HEADER_LEN] = { 0 };
	size_t start;

	aml_bytes(&b->out, zeros, -b->out.len & 7);
	start = b->out.len;
	memcpy(h, signature, 4);
	h[8] = revision;
	memcpy(h + 10, "ECTYPE", 6);
	memcpy(h + 16, "ECTYPE  ", 8);
	put32(h + 24, 1);
	memcpy(h + 28, "ECTY", 4);
	put32(h + 32, 1);
	aml_bytes(&b->out, h, sizeof(h));
	return start;
}

static void table_end(struct builder *b, size_t start)
{
	if (!b->out.failed)
		put32(b->out.data + start + 4, (u32)(b->out.len - start));
	add_checksum(b, IN_TABLES, start + 9, start, b->out.len - start);
}

/* FACS, 5.2.10: no header, no checksum; a page of its own, for the E820 map
 * types it differently from the rest. */
static size_t build_facs(struct builder *b)
{
	u8 page[PAGE_SIZE] = { 0 };
	size_t start = b->out.len;

	memcpy(page, "FACS", 4);
	put32(page + 4, FACS_LEN);
	page[32] = 2; /* version */
	aml_bytes(&b->out, page, sizeof(page));
	return start;
}

static size_t build_dsdt(struct builder *b, const struct acpi_config *c)
{
	size_t start = table_begin(b, "DSDT", 2);

	acpi_dsdt(&b->out, c);
	table_end(b, start);
	return start;
}

/* Generic address structure, 5.2.3.2, of an I/O port. */
static void gas(u8 *p, unsigned bits, unsigned access, u16 port)
{
	p[0] = 1;
	p[1] = (u8)bits;
	p[3] = (u8)access;
	put64(p + 4, port);
}

/* FADT, 5.2.9, revision 6. */
static size_t build_fadt(struct builder *b, size_t facs, size_t dsdt)
{
	size_t start = table_begin(b, "FACP", 6);
	u8 t[276] = { 0 }; /* offsets as in the specification: from the header's start */

	t[45] = 1; /* preferred profile: desktop */
	put16(t + 46, ACPI_SCI_IRQ);
	put32(t + 48, ACPI_SMI_CMD);
	t[52] = ACPI_ENABLE;
	t[53] = ACPI_DISABLE;
	put32(t + 56, ACPI_PM1_EVT);
	put32(t + 64, ACPI_PM1_CNT);
	put32(t + 76, ACPI_PM_TIMER);
	put32(t + 80, ACPI_GPE0);
	t[88] = 4; /* PM1 event, control, timer, GPE0 lengths */
	t[89] = 2;
	t[91] = 4;
	t[92] = ACPI_GPE0_LEN;
	put16(t + 96, 0xfff); /* no C2, no C3 */
	put16(t + 98, 0xfff);
	t[108] = 0x32; /* century in CMOS */
	/* legacy devices, 8042; no VGA, no PCIe ASPM */
	put16(t + 109, BIT(0) | BIT(1) | BIT(2) | BIT(4));
	/* WBINVD works, C1, power button fixed, no sleep button, no RTC wake status, reset register */
	put32(t + 112, BIT(0) | BIT(2) | BIT(5) | BIT(6) | BIT(10));
	gas(t + 116, 8, 1, ACPI_RESET_PORT);
	t[128] = ACPI_RESET_VALUE;
	t[131] = 3; /* minor version */
	gas(t + 148, 32, 2, ACPI_PM1_EVT);
	gas(t + 172, 16, 2, ACPI_PM1_CNT);
	gas(t + 208, 32, 3, ACPI_PM_TIMER);
	gas(t + 220, ACPI_GPE0_LEN * 8, 1, ACPI_GPE0);
	aml_bytes(&b->out, t + HEADER_LEN, sizeof(t) - HEADER_LEN);
	add_pointer(b, IN_TABLES, start + 36, 4, facs);
	add_pointer(b, IN_TABLES, start + 40, 4, dsdt);
	add_pointer(b, IN_TABLES, start + 140, 8, dsdt); /* X_DSDT */
	table_end(b, start);
	return start;
}

static void madt_override(struct aml *a, unsigned irq, unsigned gsi, unsigned flags)
{
	u8 e[10] = { 2, 10, 0, (u8)irq };

	put32(e + 4, gsi);
	put16(e + 8, (u16)flags);
	aml_bytes(a, e, sizeof(e));
}

/* MADT, 5.2.12. */
static size_t build_madt(struct builder *b, const struct acpi_config *c)
{
	size_t start = table_begin(b, "APIC", 4);
	u8 head[8] = { 0 };
	u8 ioapic[12] = { 1, 12, (u8)c->ioapic_id };
	u8 nmi[6] = { 4, 6, 0xff, 0, 0, 1 }; /* every processor, LINT1 */

	put32(head, 0xfee00000);
	put32(head + 4, 1); /* there is a PIC pair too */
	aml_bytes(&b->out, head, sizeof(head));
	for (unsigned i = 0; i < c->cpus; i++) {
		u8 lapic[8] = { 0, 8, (u8)i, (u8)i, 1 };
		aml_bytes(&b->out, lapic, sizeof(lapic));
	}
	put32(ioapic + 4, 0xfec00000);
	aml_bytes(&b->out, ioapic, sizeof(ioapic));
	madt_override(&b->out, 0, 2, 0);			 /* the PIT, as the bus does: edge */
	madt_override(&b->out, ACPI_SCI_IRQ, ACPI_SCI_IRQ, 0xd); /* level, active high */
	aml_bytes(&b->out, nmi, sizeof(nmi));
	table_end(b, start);
	return start;
}

/* MCFG, PCI Firmware Specification 3.x, 4.1.2. */
static size_t build_mcfg(struct builder *b)
{
	size_t start = table_begin(b, "MCFG", 1);
	u8 t[24] = { 0 };

	put64(t + 8, BOOT_ECAM_BASE);
	t[19] = 255; /* buses 0..255 of segment 0 */
	aml_bytes(&b->out, t, sizeof(t));
	table_end(b, start);
	return start;
}

static size_t build_root(struct builder *b, const char *signature, unsigned width, const size_t *table, unsigned count)
{
	static const u8 zeros[8];
	size_t start = table_begin(b, signature, 1);

	for (unsigned i = 0; i < count; i++) {
		size_t at = b->out.len;
		aml_bytes(&b->out, zeros, width);
		add_pointer(b, IN_TABLES, at, width, table[i]);
	}
	table_end(b, start);
	return start;
}

/* RSDP, 5.2.5.3. */
static void build_rsdp(struct builder *b, size_t rsdt, size_t xsdt)
{
	memset(b->rsdp, 0, ACPI_RSDP_SIZE);
	memcpy(b->rsdp, "RSD PTR ", 8);
	memcpy(b->rsdp + 9, "ECTYPE", 6);
	b->rsdp[15] = 2; /* revision */
	put32(b->rsdp + 20, ACPI_RSDP_SIZE);
	add_pointer(b, IN_RSDP, 16, 4, rsdt);
	add_pointer(b, IN_RSDP, 24, 8, xsdt);
	add_checksum(b, IN_RSDP, 8, 0, 20);
	add_checksum(b, IN_RSDP, 32, 0, ACPI_RSDP_SIZE);
}

static int build_all(struct builder *b, u8 *rsdp, const struct acpi_config *c, struct error *e)
{
	size_t facs, dsdt, rsdt, xsdt, table[3];

	assert(c->cpus >= 1 && c->cpus <= 254);
	*b = (struct builder){ .rsdp = rsdp };
	facs = build_facs(b);
	dsdt = build_dsdt(b, c);
	table[0] = build_fadt(b, facs, dsdt);
	table[1] = build_madt(b, c);
	table[2] = build_mcfg(b);
	rsdt = build_root(b, "RSDT", 4, table, ARRAY_SIZE(table));
	xsdt = build_root(b, "XSDT", 8, table, ARRAY_SIZE(table));
	build_rsdp(b, rsdt, xsdt);
	if (b->out.failed) {
		aml_free(&b->out);
		return error_set(e, "not enough host memory for the ACPI tables");
	}
	assert(b->out.len <= BOOT_ACPI_SIZE);
	return 0;
}

int acpi_build(struct acpi_blobs *out, const struct acpi_config *c, u64 base, struct error *e)
{
	struct builder b;

	*out = (struct acpi_blobs){ 0 };
	if (build_all(&b, out->rsdp, c, e) < 0)
		return -1;
	for (unsigned i = 0; i < b.fixes; i++) {
		u8 *p = (b.fix[i].where == IN_RSDP ? b.rsdp : b.out.data) + b.fix[i].offset;
		if (b.fix[i].size == 8)
			put64(p, get64(p) + base);
		else
			put32(p, (u32)(get32(p) + base));
	}
	for (unsigned i = 0; i < b.sums; i++) {
		u8 *p = b.sum[i].where == IN_RSDP ? b.rsdp : b.out.data, sum = 0;
		for (u32 j = 0; j < b.sum[i].len; j++)
			sum += p[b.sum[i].start + j];
		p[b.sum[i].offset] -= sum;
	}
	out->tables = b.out.data;
	out->tables_len = b.out.len;
	return 0;
}

/*
 * Linker commands, 128 bytes each: u32 command, then by command
 *   1 allocate:     file[56], u32 alignment, u8 zone (1 high memory, 2 F segment)
 *   2 add pointer:  file to patch[56], file pointed to[56], u32 offset, u8 size
 *   3 add checksum: file[56], u32 offset of the byte, u32 start, u32 length
 */
#define COMMAND_LEN 128
#define FILE_LEN 56
static const char *const file_name[] = { [IN_TABLES] = "etc/acpi/tables", [IN_RSDP] = "etc/acpi/rsdp" };

static u8 *command(struct aml *a, u32 op, unsigned file)
{
	u8 c[COMMAND_LEN] = { 0 };

	put32(c, op);
	memcpy(c + 4, file_name[file], strlen(file_name[file]));
	aml_bytes(a, c, sizeof(c));
	return a->failed ? NULL : a->data + a->len - COMMAND_LEN + 4 + FILE_LEN;
}

static void command_allocate(struct aml *a, unsigned file, u32 align, u8 zone)
{
	u8 *p = command(a, 1, file);

	if (p) {
		put32(p, align);
		p[4] = zone;
	}
}

int acpi_build_fw_cfg(struct acpi_blobs *out, const struct acpi_config *c, struct error *e)
{
	struct aml l = { 0 };
	struct builder b;

	*out = (struct acpi_blobs){ 0 };
	if (build_all(&b, out->rsdp, c, e) < 0)
		return -1;
	command_allocate(&l, IN_RSDP, 16, 2);
	command_allocate(&l, IN_TABLES, (u32)PAGE_SIZE, 1);
	for (unsigned i = 0; i < b.fixes; i++) {
		u8 *p = command(&l, 2, b.fix[i].where);
		if (p) {
			memcpy(p, file_name[IN_TABLES], strlen(file_name[IN_TABLES]));
			put32(p + FILE_LEN, b.fix[i].offset);
			p[FILE_LEN + 4] = b.fix[i].size;
		}
	}
	for (unsigned i = 0; i < b.sums; i++) {
		u8 *p = command(&l, 3, b.sum[i].where);
		if (p) {
			put32(p, b.sum[i].offset);
			put32(p + 4, b.sum[i].start);
			put32(p + 8, b.sum[i].len);
		}
	}
	out->tables = b.out.data;
	out->tables_len = b.out.len;
	out->loader = l.data;
	out->loader_len = l.len;
	if (l.failed) {
		acpi_blobs_free(out);
		return error_set(e, "not enough host memory for the ACPI tables");
	}
	return 0;
}

void acpi_blobs_free(struct acpi_blobs *b)
{
	free(b->tables);
	free(b->loader);
	*b = (struct acpi_blobs){ 0 };
}

void acpi_place(const struct acpi_blobs *b, struct memory *m, u64 base)
{
	memory_write(m, ACPI_RSDP_GPA, b->rsdp, sizeof(b->rsdp));
	memory_write(m, base, b->tables, b->tables_len);
}

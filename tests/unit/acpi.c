/* ACPI and SMBIOS tables: structure, checksums, the linker commands, and iasl's opinion where it is installed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>
#include <cmocka.h>

#include "boot_fake.h"
#include "boot/acpi.h"
#include "boot/boot.h"
#include "boot/smbios.h"

#define BASE 0x1fff0000u

static u32 le32(const u8 *p)
{
	u32 v;
	memcpy(&v, p, 4);
	return v;
}

static u64 le64(const u8 *p)
{
	u64 v;
	memcpy(&v, p, 8);
	return v;
}

static u8 sum(const u8 *p, size_t n)
{
	u8 s = 0;

	while (n--)
		s += *p++;
	return s;
}

/* The table at guest address `a`: in bounds, right checksum. */
static const u8 *table(const struct acpi_blobs *b, u64 base, u64 a, const char *signature)
{
	const u8 *t;

	assert_true(a >= base && a + 36 <= base + b->tables_len);
	t = b->tables + (a - base);
	assert_memory_equal(t, signature, 4);
	assert_true(a + le32(t + 4) <= base + b->tables_len);
	if (strcmp(signature, "FACS"))
		assert_int_equal(sum(t, le32(t + 4)), 0);
	return t;
}

/* Follows every pointer from the RSDP; what firmware or a direct boot leaves. */
static void check_tables(const struct acpi_blobs *b, u64 base)
{
	static const char *const names[] = { "FACP", "APIC", "MCFG" };
	const u8 *rsdt, *xsdt, *fadt;

	assert_memory_equal(b->rsdp, "RSD PTR ", 8);
	assert_int_equal(sum(b->rsdp, 20), 0);
	assert_int_equal(sum(b->rsdp, 36), 0);
	rsdt = table(b, base, le32(b->rsdp + 16), "RSDT");
	xsdt = table(b, base, le64(b->rsdp + 24), "XSDT");
	assert_int_equal(le32(rsdt + 4), 36 + 4 * 3);
	assert_int_equal(le32(xsdt + 4), 36 + 8 * 3);
	for (unsigned i = 0; i < 3; i++) {
		table(b, base, le64(xsdt + 36 + 8 * i), names[i]);
		assert_int_equal(le32(rsdt + 36 + 4 * i), le64(xsdt + 36 + 8 * i));
	}
	fadt = table(b, base, le64(xsdt + 36), "FACP");
	assert_int_equal(le32(fadt + 4), 276);
	assert_int_equal(le32(fadt + 36) & 63, 0);
	assert_ptr_equal(table(b, base, le32(fadt + 36), "FACS"), b->tables);
	table(b, base, le32(fadt + 40), "DSDT");
	assert_int_equal(le64(fadt + 140), le32(fadt + 40));
	assert_int_equal(le32(fadt + 56), 0x600);
	assert_int_equal(le32(fadt + 76), 0x608);
}

static void direct(void **state)
{
	static const u64 ram[] = { 512 * MiB, 3584 * MiB, 8 * GiB, 256 * GiB };

	for (unsigned i = 0; i < ARRAY_SIZE(ram); i++) {
		for (unsigned cpus = 1; cpus <= 254; cpus += 253) {
			struct acpi_config c = { .cpus = cpus, .ram = ram[i], .serial = 0xf };
			struct acpi_blobs b;
			struct error e;

			assert_int_equal(acpi_build(&b, &c, BASE, &e), 0);
			assert_true(b.tables_len <= BOOT_ACPI_SIZE);
			check_tables(&b, BASE);
			acpi_blobs_free(&b);
		}
	}
	assert_int_equal(acpi_pci64_base(512 * MiB), 32 * GiB);
	assert_int_equal(acpi_pci64_base(40 * GiB), 64 * GiB);
}

/* Runs the linker commands as firmware would. */
static void fw_cfg(void **state)
{
	struct acpi_config c = { .cpus = 4, .ram = GiB, .vmgenid = true };
	struct acpi_blobs b;
	struct error e;
	unsigned allocated = 0;

	assert_int_equal(acpi_build_fw_cfg(&b, &c, &e), 0);
	assert_int_equal(b.loader_len % 128, 0);
	for (size_t i = 0; i < b.loader_len; i += 128) {
		u8 *p = b.loader + i, *file;
		size_t len;

		if (!strcmp((char *)p + 4, "etc/acpi/rsdp")) {
			file = b.rsdp;
			len = sizeof(b.rsdp);
		} else {
			assert_string_equal((char *)p + 4, "etc/acpi/tables");
			file = b.tables;
			len = b.tables_len;
		}
		switch (le32(p)) {
		case 1:
			allocated++;
			assert_int_equal(p[64], file == b.rsdp ? 2 : 1);
			break;
		case 2: {
			u32 off = le32(p + 116), size = p[120];
			u64 v = 0;
			assert_int_equal(allocated, 2);
			assert_string_equal((char *)p + 60, "etc/acpi/tables");
			assert_true((size == 4 || size == 8) && off + size <= len);
			memcpy(&v, file + off, size);
			assert_true(v < b.tables_len);
			v += BASE;
			memcpy(file + off, &v, size);
			break;
		}
		case 3: {
			u32 off = le32(p + 60), start = le32(p + 64), n = le32(p + 68);
			assert_true(off < len && start <= len && n <= len - start);
			assert_int_equal(file[off], 0);
			file[off] = (u8)-sum(file + start, n);
			break;
		}
		default:
			fail();
		}
	}
	check_tables(&b, BASE);
	acpi_blobs_free(&b);
}

static bool holds(const struct acpi_blobs *b, const void *bytes, size_t n)
{
	for (size_t i = 0; i + n <= b->tables_len; i++)
		if (!memcmp(b->tables + i, bytes, n))
			return true;
	return false;
}

/* Scope (\_GPE), Method (_E05, 0), Notify (\_SB.VGEN, 0x80), Notify (\_SB.C000, 0x82); Name (ADDR, Package (2) {
 * 0xFEF00000, Zero }). */
static void vmgenid(void **state)
{
	static const u8 event[] = "\x10\x27\\_GPE\x14\x20_E05\x00\x86\\\x2e_SB_VGEN\x0a\x80"
				  "\x86\\\x2e_SB_C000\x0a\x82";
	static const u8 addr[] = "\x08"
				 "ADDR\x12\x08\x02\x0c\x00\x00\xf0\xfe\x00";
	struct acpi_config c = { .cpus = 1, .ram = GiB, .vmgenid = true };
	struct acpi_blobs b;
	struct error e;

	assert_int_equal(acpi_build(&b, &c, BASE, &e), 0);
	assert_true(holds(&b, event, sizeof(event) - 1));
	assert_true(holds(&b, addr, sizeof(addr) - 1));
	assert_true(holds(&b, "VM_Gen_Counter", 15));
	acpi_blobs_free(&b);
	c.vmgenid = false;
	assert_int_equal(acpi_build(&b, &c, BASE, &e), 0);
	assert_false(holds(&b, "_GPE", 4));
	assert_false(holds(&b, "VM_Gen_Counter", 15));
	acpi_blobs_free(&b);
}

static void iasl(void **state)
{
	struct acpi_config c = { .cpus = 3, .ram = 5 * GiB, .vmgenid = true };
	struct acpi_blobs b;
	struct error e;
	char dir[] = "/tmp/ectype-acpi-XXXXXX", cmd[512];
	const u8 *dsdt;
	FILE *f;
	int bad;

	if (system("command -v iasl >/dev/null 2>&1") != 0)
		skip();
	assert_non_null(mkdtemp(dir));
	assert_int_equal(acpi_build(&b, &c, BASE, &e), 0);
	dsdt = b.tables + PAGE_SIZE;
	snprintf(cmd, sizeof(cmd), "%s/dsdt.dat", dir);
	f = fopen(cmd, "w");
	assert_non_null(f);
	fwrite(dsdt, 1, le32(dsdt + 4), f);
	fclose(f);
	/* disassembles without complaint, and what comes out compiles without a warning */
	snprintf(cmd, sizeof(cmd),
		 "cd %s && iasl -d dsdt.dat >d.log 2>&1 && ! grep -qiE 'error|warning|invalid' d.log && "
		 "iasl dsdt.dsl >c.log 2>&1 && grep -q '0 Errors, 0 Warnings' c.log",
		 dir);
	bad = system(cmd);
	snprintf(cmd, sizeof(cmd), "rm -r %s", dir);
	assert_int_equal(system(cmd), 0);
	assert_int_equal(bad, 0);
	acpi_blobs_free(&b);
}

static void smbios(void **state)
{
	struct smbios_config c = { .cpus = 2, .ram = 6 * GiB };
	struct smbios_blobs b;
	struct error e;
	unsigned count = 0, mapped = 0;
	size_t pos = 0;

	assert_int_equal(smbios_build(&b, &c, &e), 0);
	assert_int_equal(sum(b.anchor, 31), 0);
	assert_int_equal(sum(b.anchor + 16, 15), 0);
	assert_int_equal(b.anchor[22] | b.anchor[23] << 8, b.tables_len);
	while (pos < b.tables_len) {
		const u8 *s = b.tables + pos;
		count++;
		mapped += s[0] == 19;
		pos += s[1];
		while (pos + 2 <= b.tables_len && (b.tables[pos] || b.tables[pos + 1]))
			pos++;
		pos += 2;
		if (s[0] == 127)
			break;
	}
	assert_int_equal(pos, b.tables_len);
	assert_int_equal(count, b.anchor[28] | b.anchor[29] << 8);
	assert_int_equal(mapped, 2);
	smbios_blobs_free(&b);
}

static void placed(void **state)
{
	struct error e;
	struct memory *m = memory_create(64 * MiB, &e);
	struct acpi_config c = { .cpus = 1, .ram = 64 * MiB };
	struct smbios_config s = { .cpus = 1, .ram = 64 * MiB };
	struct acpi_blobs a;
	struct smbios_blobs b;
	u8 buf[8];

	memory_map_ram(m, 0, 0, 64 * MiB, 0, "ram");
	assert_int_equal(acpi_build(&a, &c, boot_acpi_area(c.ram), &e), 0);
	assert_int_equal(smbios_build(&b, &s, &e), 0);
	acpi_place(&a, m, boot_acpi_area(c.ram));
	smbios_place(&b, m);
	memory_read(m, ACPI_RSDP_GPA, buf, 8);
	assert_memory_equal(buf, "RSD PTR ", 8);
	memory_read(m, boot_acpi_area(c.ram), buf, 4);
	assert_memory_equal(buf, "FACS", 4);
	memory_read(m, SMBIOS_ANCHOR_GPA, buf, 4);
	assert_memory_equal(buf, "_SM_", 4);
	memory_destroy(m);
	acpi_blobs_free(&a);
	smbios_blobs_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(direct), cmocka_unit_test(fw_cfg), cmocka_unit_test(vmgenid),
		cmocka_unit_test(iasl),	  cmocka_unit_test(smbios), cmocka_unit_test(placed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

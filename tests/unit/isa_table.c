/* The instruction table: complete, consistent, and as the literature has it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "isa/decode.h"

static void test_every_mnemonic(void **state)
{
	(void)state;
	for (unsigned m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++) {
		const struct isa_row *r = isa_row(m);
		char name[32];
		size_t i;

		assert_int_equal(r->mnemonic, m);
		for (i = 0; ZydisMnemonicGetString((ZydisMnemonic)m)[i] && i < sizeof(name) - 1; i++) {
			char c = ZydisMnemonicGetString((ZydisMnemonic)m)[i];
			name[i] = c >= 'a' && c <= 'z' ? (char)(c - 32) : c;
		}
		name[i] = 0;
		assert_string_equal(r->name, name);
	}
	assert_int_equal(isa_row(~0u)->mnemonic, ZYDIS_MNEMONIC_INVALID);
}

static void test_rows(void **state)
{
	unsigned seen[ISA_LIST_modern + 1] = { 0 }, n = 0, classical = 0;
	const struct isa_row *r;

	(void)state;
	while ((r = isa_row_at(n++))) {
		seen[r->list]++;
		assert_int_equal(r->sensitive_unprivileged, r->list != ISA_LIST_none);
		/* sensitive and not privileged: exactly the listed ones */
		if (r->class == CLASS_CONTROL_SENSITIVE || r->class == CLASS_BEHAVIOUR_SENSITIVE)
			assert_true(r->sensitive_unprivileged);
		else
			assert_false(r->sensitive_unprivileged);
		assert_int_equal(r->sensitive_unprivileged, r->note[0] != 0);
		/* nothing sensitive may be copied or done by an engine alone */
		if (r->class != CLASS_INNOCUOUS)
			assert_true(r->method == METHOD_SYS || r->method == METHOD_UD);
	}
	assert_true(n > ZYDIS_MNEMONIC_MAX_VALUE);
	for (unsigned l = 1; l < ISA_LIST_modern; l++) {
		assert_true(seen[l] > 0);
		classical++;
	}
	assert_int_equal(classical, 18);
}

static const struct isa_row *row_of(enum code_mode mode, const char *bytes, unsigned len)
{
	struct dinsn d;

	assert_int_equal(dinsn_decode(&d, (const u8 *)bytes, len, mode), DECODE_OK);
	return isa_row_of(&d);
}
#define ROW_OF(mode, s) row_of(mode, s, sizeof(s) - 1)

static void test_forms(void **state)
{
	(void)state;
	assert_int_equal(ROW_OF(CODE_64, "\x0f\x20\xc0")->sys, ISA_SYS_mov_cr);
	assert_int_equal(ROW_OF(CODE_64, "\x0f\x23\xc0")->sys, ISA_SYS_mov_dr);
	assert_int_equal(ROW_OF(CODE_64, "\x8e\xd8")->sys, ISA_SYS_mov_to_sreg);
	assert_int_equal(ROW_OF(CODE_64, "\x8c\xd8")->sys, ISA_SYS_mov_from_sreg);
	assert_int_equal(ROW_OF(CODE_32, "\x0e")->sys, ISA_SYS_push_sreg);
	assert_int_equal(ROW_OF(CODE_32, "\x17")->sys, ISA_SYS_pop_sreg);
	assert_int_equal(ROW_OF(CODE_64, "\xff\x18")->sys, ISA_SYS_call_far);
	assert_int_equal(ROW_OF(CODE_32, "\xea\0\0\0\0\0\0")->sys, ISA_SYS_jmp_far);
	assert_int_equal(ROW_OF(CODE_64, "\xca\0\0")->sys, ISA_SYS_ret_far);
	assert_int_equal(ROW_OF(CODE_64, "\x8b\xc0")->method, METHOD_CORE);
	assert_int_equal(ROW_OF(CODE_64, "\x50")->method, METHOD_CORE);
	assert_int_equal(ROW_OF(CODE_64, "\x8f\xc0")->method, METHOD_CORE);
	assert_int_equal(ROW_OF(CODE_64, "\xff\xf0")->method, METHOD_CORE);
	assert_int_equal(ROW_OF(CODE_64, "\xff\xe0")->method, METHOD_CORE);
	assert_int_equal(ROW_OF(CODE_64, "\xc3")->method, METHOD_CORE);
	assert_int_equal(ROW_OF(CODE_64, "\x0f\xae\x20")->sys, ISA_SYS_xsave);
	assert_int_equal(ROW_OF(CODE_64, "\x0f\x01\xc1")->sys, ISA_SYS_vmcall);
	assert_int_equal(ROW_OF(CODE_64, "\x0f\x01\xd9")->sys, ISA_SYS_vmcall); /* VMMCALL */
	assert_int_equal(ROW_OF(CODE_64, "\x0f\x01\xc2")->sys, ISA_SYS_ud);	/* VMLAUNCH */
	assert_int_equal(ROW_OF(CODE_64, "\x0f\x58\xc0")->method, METHOD_HOST);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_mnemonic),
		cmocka_unit_test(test_rows),
		cmocka_unit_test(test_forms),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

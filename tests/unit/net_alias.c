/* Addresses that are translated at a card's boundary. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "dev/virtio/net_alias.h"

static const struct net_alias alias = {
	{ 0x52, 0x54, 0, 0x12, 0x34, 0x56 },
	{ 0x02, 0xfe, 0xed, 0xff, 0x01, 0xc3 },
};
static const u8 other[6] = { 0x52, 0x54, 0, 0xaa, 0xbb, 0xcc };
#define IN alias.inside
#define OUT alias.outside

static void put16(u8 *p, u16 v)
{
	p[0] = (u8)(v >> 8);
	p[1] = (u8)v;
}

static u32 sum16(const u8 *p, size_t len)
{
	u32 sum = 0;

	for (size_t i = 0; i < len; i++)
		sum += (u32)p[i] << (i & 1 ? 0 : 8);
	return sum;
}

static u16 fold(u32 sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (u16)sum;
}

static void ethernet(u8 *f, const u8 *to, const u8 *from, u16 type)
{
	memcpy(f, to, 6);
	memcpy(f + 6, from, 6);
	put16(f + 12, type);
}

/* Through translation with each beginning of the frame, so that a sanitizer sees what is read or written beyond. */
static void every_length(const u8 *f, size_t len)
{
	for (size_t n = 0; n <= len; n++) {
		u8 *copy = malloc(n + !n);

		memcpy(copy, f, n);
		net_alias_out(&alias, copy, n, false);
		net_alias_in(&alias, copy, n, false);
		free(copy);
	}
}

static void test_ethernet(void **state)
{
	u8 f[60] = { 0 };

	ethernet(f, other, IN, 0x88b5);
	net_alias_out(&alias, f, sizeof(f), false);
	assert_memory_equal(f + 6, OUT, 6);
	assert_memory_equal(f, other, 6);
	/* to the machine that was copied, which has that address still */
	ethernet(f, IN, IN, 0x88b5);
	net_alias_out(&alias, f, sizeof(f), false);
	assert_memory_equal(f, IN, 6);
	ethernet(f, OUT, IN, 0x88b5);
	net_alias_in(&alias, f, sizeof(f), false);
	assert_memory_equal(f, IN, 6);
	assert_memory_equal(f + 6, IN, 6);
	/* an address that the driver has set by now */
	ethernet(f, other, other, 0x88b5);
	net_alias_out(&alias, f, sizeof(f), false);
	net_alias_in(&alias, f, sizeof(f), false);
	assert_memory_equal(f, other, 6);
	assert_memory_equal(f + 6, other, 6);
}

static void arp(unsigned tag)
{
	u8 f[64] = { 0 }, *a = f + 14 + tag;

	ethernet(f, other, IN, tag ? 0x8100 : 0x0806);
	if (tag)
		put16(f + 16, 0x0806);
	memcpy(a, "\0\1\x08\0\6\4\0\2", 8);
	memcpy(a + 8, IN, 6);
	memcpy(a + 18, IN, 6);
	net_alias_out(&alias, f, sizeof(f), false);
	assert_memory_equal(a + 8, OUT, 6);
	assert_memory_equal(a + 18, IN, 6); /* another machine's */
	memcpy(f, OUT, 6);
	memcpy(a + 8, IN, 6);
	memcpy(a + 18, OUT, 6);
	for (unsigned twice = 0; twice < 2; twice++) {
		net_alias_in(&alias, f, sizeof(f), false);
		assert_memory_equal(a + 18, IN, 6);
		assert_memory_equal(a + 8, IN, 6);
	}
	every_length(f, sizeof(f));
}

static void test_arp(void **state)
{
	arp(0);
	arp(4);
}

/* A neighbour solicitation or advertisement with one option. */
static size_t nd(u8 *f, u8 type, u8 option, const u8 *mac)
{
	u8 *ip = f + 14, *icmp = ip + 40;

	memset(f, 0, 128);
	ethernet(f, other, IN, 0x86dd);
	ip[0] = 0x60;
	put16(ip + 4, 32);
	ip[6] = 58;
	ip[7] = 255;
	memset(ip + 8, 0x3c, 32);
	icmp[0] = type;
	icmp[24] = option;
	icmp[25] = 1;
	memcpy(icmp + 26, mac, 6);
	put16(icmp + 2, (u16)~fold(sum16(ip + 8, 32) + 32 + 58 + sum16(icmp, 32)));
	return 14 + 40 + 32;
}

static bool nd_sound(const u8 *f)
{
	return fold(sum16(f + 22, 32) + 32 + 58 + sum16(f + 54, 32)) == 0xffff;
}

static void test_neighbours(void **state)
{
	u8 f[128];
	size_t len = nd(f, 135, 1, IN);

	assert_true(nd_sound(f));
	net_alias_out(&alias, f, len, false);
	assert_memory_equal(f + 80, OUT, 6);
	assert_true(nd_sound(f));
	every_length(f, len);
	len = nd(f, 136, 2, IN);
	net_alias_out(&alias, f, len, false);
	assert_memory_equal(f + 80, OUT, 6);
	assert_true(nd_sound(f));
	len = nd(f, 136, 2, other);
	net_alias_out(&alias, f, len, false);
	assert_memory_equal(f + 80, other, 6);
	assert_true(nd_sound(f));
	/* the sum is still to be made: what is there is the sum of addresses and length alone */
	len = nd(f, 135, 1, IN);
	put16(f + 56, 0x1234);
	net_alias_out(&alias, f, len, true);
	assert_memory_equal(f + 80, OUT, 6);
	assert_memory_equal(f + 56, "\x12\x34", 2);
	/* an option without a length ends the list */
	len = nd(f, 135, 1, IN);
	f[79] = 0;
	net_alias_out(&alias, f, len, false);
	assert_memory_equal(f + 80, IN, 6);
}

/* With `pads` options of a byte before the client's identifier, so that it is at an odd place too. */
static size_t dhcp(u8 *f, unsigned pads, u16 to, const u8 *mac)
{
	u8 *ip = f + 14, *udp = ip + 20, *bootp = udp + 8, *o = bootp + 240;
	size_t len;

	memset(f, 0, 400);
	ethernet(f, other, IN, 0x0800);
	ip[0] = 0x45;
	ip[9] = 17;
	memset(ip + 12, 0x0a, 8);
	memcpy(bootp + 28, mac, 6);
	memcpy(o - 4, "\x63\x82\x53\x63", 4);
	o += pads;
	memcpy(o, "\x35\1\3\x3d\7\1", 6);
	memcpy(o + 6, mac, 6);
	o[12] = 255;
	len = (size_t)(o + 13 - udp);
	put16(udp, to == 67 ? 68 : 67);
	put16(udp + 2, to);
	put16(udp + 4, (u16)len);
	put16(udp + 6, (u16)~fold(sum16(ip + 12, 8) + 17 + (u32)len + sum16(udp, len)));
	return 14 + 20 + len;
}

static bool dhcp_sound(const u8 *f, size_t len)
{
	return fold(sum16(f + 26, 8) + 17 + (u32)(len - 34) + sum16(f + 34, len - 34)) == 0xffff;
}

static void test_dhcp(void **state)
{
	u8 f[400];

	for (unsigned pads = 0; pads < 2; pads++) {
		size_t len = dhcp(f, pads, 67, IN), id = 14 + 20 + 8 + 240 + pads + 6;

		assert_true(dhcp_sound(f, len));
		net_alias_out(&alias, f, len, false);
		assert_memory_equal(f + 42 + 28, OUT, 6);
		assert_memory_equal(f + id, OUT, 6);
		assert_true(dhcp_sound(f, len));
		every_length(f, len);
		len = dhcp(f, pads, 68, OUT);
		net_alias_in(&alias, f, len, false);
		assert_memory_equal(f + 42 + 28, IN, 6);
		assert_memory_equal(f + id, IN, 6);
		assert_true(dhcp_sound(f, len));
		/* without a checksum there is none afterwards either */
		len = dhcp(f, pads, 67, IN);
		put16(f + 40, 0);
		net_alias_out(&alias, f, len, false);
		assert_memory_equal(f + 40, "\0\0", 2);
		/* other ports are not DHCP */
		len = dhcp(f, pads, 69, IN);
		net_alias_out(&alias, f, len, false);
		assert_memory_equal(f + 42 + 28, IN, 6);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ethernet),
		cmocka_unit_test(test_arp),
		cmocka_unit_test(test_neighbours),
		cmocka_unit_test(test_dhcp),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

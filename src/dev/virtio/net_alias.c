#include "dev/virtio/net_alias.h"

#include <string.h>

#define MAC 6u
#define ETH_HEADER 14u
#define VLAN_TAG 4u
#define TYPE_IPV4 0x0800
#define TYPE_ARP 0x0806
#define TYPE_VLAN 0x8100
#define TYPE_QINQ 0x88a8
#define TYPE_IPV6 0x86dd
#define ARP_SENDER 8u
#define ARP_TARGET 18u
#define ARP_LEN 28u
#define IPV6_HEADER 40u
#define PROTO_UDP 17
#define PROTO_ICMPV6 58
#define ND_ROUTER_SOLICIT 133
#define ND_NEIGHBOUR_ADVERT 136
#define ND_SOURCE 1 /* options: link-layer addresses */
#define ND_TARGET 2
#define PORT_SERVER 67
#define PORT_CLIENT 68
#define UDP_HEADER 8u
#define BOOTP_CHADDR 28u
#define BOOTP_OPTIONS 240u /* behind the magic cookie */
#define OPT_PAD 0
#define OPT_CLIENT_ID 61
#define OPT_END 255
#define HW_ETHERNET 1

struct packet {
	u8 *p;
	size_t len;
	const u8 *from, *to;
	bool partial;
};

static u16 get16(const u8 *p)
{
	return (u16)(p[0] << 8 | p[1]);
}

/* The address at p[at..at + 6): replaced, if it is the one looked for. `sum`: where the checksum is that covers it from
 * an even distance before (RFC 1624); 0: there is none. */
static void replace(struct packet *k, size_t at, size_t sum)
{
	u32 n;

	if (at + MAC > k->len || memcmp(k->p + at, k->from, MAC))
		return;
	if (sum && !k->partial) {
		n = (u16)~get16(k->p + sum);
		for (unsigned i = 0; i < MAC; i++) {
			unsigned shift = (at + i - sum) & 1 ? 0 : 8;

			n += (u32)((u8)~k->from[i]) << shift;
			n += (u32)k->to[i] << shift;
		}
		/* at an odd distance two halves of words are left out, 00ffH and ff00H: zero in one's complement */
		while (n >> 16)
			n = (n & 0xffff) + (n >> 16);
		n = (u16)~n;
		k->p[sum] = (u8)(n >> 8);
		k->p[sum + 1] = (u8)n;
	}
	memcpy(k->p + at, k->to, MAC);
}

static void neighbour_discovery(struct packet *k, size_t ip)
{
	size_t icmp = ip + IPV6_HEADER, at, header, end;

	if (icmp + 8 > k->len || k->p[ip + 6] != PROTO_ICMPV6)
		return;
	switch (k->p[icmp]) {
	case ND_ROUTER_SOLICIT:
		header = 8;
		break;
	case ND_ROUTER_SOLICIT + 1: /* advertisement */
		header = 16;
		break;
	case ND_ROUTER_SOLICIT + 2: /* neighbour solicitation */
	case ND_NEIGHBOUR_ADVERT:
		header = 24;
		break;
	default:
		return;
	}
	end = MIN(icmp + get16(k->p + ip + 4), k->len);
	for (at = icmp + header; at + 8 <= end && k->p[at + 1]; at += 8u * k->p[at + 1])
		if (k->p[at] == ND_SOURCE || k->p[at] == ND_TARGET)
			replace(k, at + 2, icmp + 2);
}

static void dhcp_options(struct packet *k, size_t bootp, size_t sum)
{
	static const u8 cookie[4] = { 99, 130, 83, 99 };
	size_t at = bootp + BOOTP_OPTIONS;

	if (at > k->len || memcmp(k->p + at - sizeof(cookie), cookie, sizeof(cookie)))
		return;
	while (at + 2 <= k->len && k->p[at] != OPT_END) {
		if (k->p[at] == OPT_PAD) {
			at++;
			continue;
		}
		if (k->p[at] == OPT_CLIENT_ID && k->p[at + 1] == 1 + MAC && at + 2 < k->len &&
		    k->p[at + 2] == HW_ETHERNET)
			replace(k, at + 3, sum);
		at += 2u + k->p[at + 1];
	}
}

static void dhcp(struct packet *k, size_t ip)
{
	size_t udp = ip + 4u * (k->p[ip] & 15), sum;
	u16 to;

	if (k->p[ip + 9] != PROTO_UDP || (get16(k->p + ip + 6) & 0x3fff) || udp < ip + 20 ||
	    udp + UDP_HEADER + BOOTP_CHADDR > k->len)
		return;
	to = get16(k->p + udp + 2);
	if (to != PORT_SERVER && to != PORT_CLIENT)
		return;
	sum = get16(k->p + udp + 6) ? udp + 6 : 0;
	replace(k, udp + UDP_HEADER + BOOTP_CHADDR, sum);
	dhcp_options(k, udp + UDP_HEADER, sum);
	/* 0 would say that there is none; both are zero in one's complement */
	if (sum && !k->partial && !get16(k->p + sum))
		k->p[sum] = k->p[sum + 1] = 0xff;
}

/* `eth`, `arp`: where the card's own address is. */
static void translate(struct packet *k, size_t eth, size_t arp)
{
	size_t at = ETH_HEADER;
	u16 type;

	if (k->len < ETH_HEADER)
		return;
	replace(k, eth, 0);
	type = get16(k->p + 12);
	if ((type == TYPE_VLAN || type == TYPE_QINQ) && k->len >= ETH_HEADER + VLAN_TAG) {
		type = get16(k->p + 16);
		at += VLAN_TAG;
	}
	if (type == TYPE_ARP && at + ARP_LEN <= k->len && get16(k->p + at) == HW_ETHERNET && k->p[at + 4] == MAC)
		replace(k, at + arp, 0);
	else if (type == TYPE_IPV6)
		neighbour_discovery(k, at);
	else if (type == TYPE_IPV4 && at + 20 <= k->len)
		dhcp(k, at);
}

void net_alias_out(const struct net_alias *a, u8 *frame, size_t len, bool partial)
{
	struct packet k = { frame, len, a->inside, a->outside, partial };

	translate(&k, MAC, ARP_SENDER);
}

void net_alias_in(const struct net_alias *a, u8 *frame, size_t len, bool partial)
{
	struct packet k = { frame, len, a->outside, a->inside, partial };

	translate(&k, 0, ARP_TARGET);
}

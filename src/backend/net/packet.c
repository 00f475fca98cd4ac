#include "backend/net/packet.h"

#include <netinet/in.h>
#include <string.h>

#define ETHERTYPE_IPV4 0x0800
#define IP_MIN 20u
#define TCP_MIN 20u
/* Offsets within the IPv4 (RFC 791) and TCP (RFC 9293) headers. */
#define IP_TOTAL 2
#define IP_ID 4
#define IP_FRAGMENT 6
#define IP_PROTOCOL 9
#define IP_SUM 10
#define IP_SOURCE 12
#define IP_DEST 16
#define IP_MORE 0x2000
#define IP_OFFSET 0x1fff
#define TCP_SEQ 4
#define TCP_OFFSET 12
#define TCP_FLAGS 13
#define TCP_SUM 16
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_PSH 0x08
#define TCP_CWR 0x80
#define UDP_LEN 8u
#define UDP_SUM 6
#define TCP_OPTION_END 0
#define TCP_OPTION_NOP 1
#define TCP_OPTION_MSS 2

static u16 get16(const u8 *p)
{
	return (u16)(p[0] << 8 | p[1]);
}

static void put16(u8 *p, u16 v)
{
	p[0] = v >> 8;
	p[1] = v & 0xff;
}

static u32 get32(const u8 *p)
{
	return (u32)get16(p) << 16 | get16(p + 2);
}

static void put32(u8 *p, u32 v)
{
	put16(p, v >> 16);
	put16(p + 2, v & 0xffff);
}

/* The one's complement sum of RFC 1071 in the host's byte order, 16 bits. It does not matter in which order words are
 * added, so 8 bytes are at once. */
static u32 sum_bytes(const u8 *p, size_t n, u64 sum)
{
	u64 w;

	for (; n >= 8; p += 8, n -= 8) {
		memcpy(&w, p, 8);
		sum += w;
		sum += sum < w;
	}
	w = 0;
	memcpy(&w, p, n);
	sum += w;
	sum += sum < w;
	sum = (sum >> 32) + (sum & 0xffffffff);
	sum = (sum >> 32) + (sum & 0xffffffff);
	sum = (sum >> 16) + (sum & 0xffff);
	return (u32)((sum >> 16) + (sum & 0xffff));
}

static void store_sum(u8 *field, u32 sum)
{
	u16 v = (u16)sum;

	memcpy(field, &v, 2);
}

/* A sum of 0 goes out as FFFFh, which is equal; to UDP 0 means none. */
static void store_checksum(u8 *field, u32 sum)
{
	store_sum(field, sum == 0xffff ? 0xffff : ~sum);
}

static u32 pseudo_header(const u8 *ip, u32 len)
{
	u8 p[12];

	memcpy(p, ip + IP_SOURCE, 8);
	p[8] = 0;
	p[9] = ip[IP_PROTOCOL];
	put16(p + 10, (u16)len);
	return sum_bytes(p, sizeof(p), 0);
}

void net_set_ip_checksum(u8 *ip, u32 ip_len)
{
	put16(ip + IP_SUM, 0);
	store_checksum(ip + IP_SUM, sum_bytes(ip, ip_len, 0));
}

/* `body` NULL: the payload follows the header. */
static void set_tcp_checksum(u8 *ip, const struct net_tcp *t, const u8 *body, u32 body_len)
{
	u8 *tcp = ip + t->ip_len;
	u32 sum = pseudo_header(ip, t->tcp_len + body_len);

	put16(tcp + TCP_SUM, 0);
	sum = sum_bytes(tcp, t->tcp_len, sum); /* a multiple of 4 bytes */
	store_checksum(tcp + TCP_SUM, sum_bytes(body ? body : tcp + t->tcp_len, body_len, sum));
}

u32 net_parse_ip(const u8 *frame, size_t len, u32 *total)
{
	const u8 *ip = frame + ETH_HEADER;
	u32 ip_len;

	if (len < ETH_HEADER + IP_MIN || get16(frame + 12) != ETHERTYPE_IPV4 || ip[0] >> 4 != 4)
		return 0;
	ip_len = (ip[0] & 15) * 4;
	*total = get16(ip + IP_TOTAL);
	return ip_len >= IP_MIN && *total >= ip_len && *total <= len - ETH_HEADER ? ip_len : 0;
}

bool net_parse_tcp(const u8 *frame, size_t len, struct net_tcp *t)
{
	const u8 *ip = frame + ETH_HEADER;
	u32 total, ip_len = net_parse_ip(frame, len, &total), tcp_len;

	if (!ip_len || ip[IP_PROTOCOL] != IPPROTO_TCP || (get16(ip + IP_FRAGMENT) & (IP_MORE | IP_OFFSET)) ||
	    total < ip_len + TCP_MIN)
		return false;
	tcp_len = (ip[ip_len + TCP_OFFSET] >> 4) * 4;
	if (tcp_len < TCP_MIN || total < ip_len + tcp_len)
		return false;
	*t = (struct net_tcp){ ip_len, tcp_len, total - ip_len - tcp_len };
	return true;
}

/* ---- offloads of the guest ---- */

bool net_header_ok(const struct virtio_net_hdr_v1 *h, size_t len, const struct net_offload *o)
{
	u8 type = h->gso_type & ~VIRTIO_NET_HDR_GSO_ECN;
	bool needs_csum = h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM;

	if (needs_csum && (!o->csum || (size_t)h->csum_start + h->csum_offset + 2 > len || h->csum_start < ETH_HEADER))
		return false;
	if ((h->gso_type & VIRTIO_NET_HDR_GSO_ECN) && !o->ecn)
		return false;
	switch (type) {
	case VIRTIO_NET_HDR_GSO_NONE:
		return h->gso_type == VIRTIO_NET_HDR_GSO_NONE;
	case VIRTIO_NET_HDR_GSO_TCPV4:
		return o->tso4 && needs_csum && h->gso_size;
	case VIRTIO_NET_HDR_GSO_TCPV6:
		return o->tso6 && needs_csum && h->gso_size;
	default:
		return false;
	}
}

bool net_finish(u8 *frame, size_t len, const struct virtio_net_hdr_v1 *h)
{
	struct net_tcp t;

	if (h->gso_type != VIRTIO_NET_HDR_GSO_NONE) {
		if (!net_parse_tcp(frame, len, &t))
			return false;
		net_set_ip_checksum(frame + ETH_HEADER, t.ip_len);
		set_tcp_checksum(frame + ETH_HEADER, &t, NULL, t.payload);
	} else if (h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
		size_t at = (size_t)h->csum_start + h->csum_offset;

		if (at + 2 > len)
			return false;
		store_checksum(frame + at, sum_bytes(frame + h->csum_start, len - h->csum_start, 0));
	}
	return true;
}

/* The value of the option within a TCP header, NULL if it has none. */
static u8 *find_mss(u8 *tcp, u32 tcp_len)
{
	u32 at = TCP_MIN;

	while (at + 1 < tcp_len && tcp[at] != TCP_OPTION_END) {
		u32 n = tcp[at] == TCP_OPTION_NOP ? 1 : tcp[at + 1];

		if (tcp[at] == TCP_OPTION_MSS && n == 4 && at + 4 <= tcp_len)
			return tcp + at + 2;
		if (tcp[at] != TCP_OPTION_NOP && n < 2)
			break;
		at += n;
	}
	return NULL;
}

u16 net_raise_mss(u8 *frame, size_t len, u16 mss)
{
	u8 *ip = frame + ETH_HEADER, *value;
	struct net_tcp t;
	u16 old;

	if (!net_parse_tcp(frame, len, &t) || !(ip[t.ip_len + TCP_FLAGS] & TCP_SYN))
		return 0;
	value = find_mss(ip + t.ip_len, t.tcp_len);
	if (!value)
		return NET_MSS_DEFAULT;
	old = get16(value);
	if (old < mss) {
		put16(value, mss);
		set_tcp_checksum(ip, &t, NULL, t.payload);
	}
	return old;
}

/* ---- addresses ---- */

bool net_parse_flow(const u8 *frame, size_t len, struct net_flow *f)
{
	const u8 *ip = frame + ETH_HEADER;
	u32 total, ip_len = net_parse_ip(frame, len, &total);
	bool tcp = ip_len && ip[IP_PROTOCOL] == IPPROTO_TCP;

	if (!ip_len || (!tcp && ip[IP_PROTOCOL] != IPPROTO_UDP) || (get16(ip + IP_FRAGMENT) & (IP_MORE | IP_OFFSET)) ||
	    total < ip_len + (tcp ? TCP_MIN : UDP_LEN))
		return false;
	*f = (struct net_flow){
		.tcp = tcp,
		.source = get32(ip + IP_SOURCE),
		.dest = get32(ip + IP_DEST),
		.source_port = get16(ip + ip_len),
		.dest_port = get16(ip + ip_len + 2),
	};
	return true;
}

/* RFC 1624: the sum without the old value, with the new one. */
static void mend(u8 *field, const u8 *old, const u8 *new)
{
	u8 words[10];

	put16(words, (u16)~get16(field));
	for (unsigned i = 0; i < 4; i++)
		words[2 + i] = (u8)~old[i];
	memcpy(words + 6, new, 4);
	store_checksum(field, sum_bytes(words, sizeof(words), 0));
}

void net_set_address(u8 *frame, bool source, u32 addr)
{
	u8 *ip = frame + ETH_HEADER, *at = ip + (source ? IP_SOURCE : IP_DEST), *l4 = ip + (ip[0] & 15) * 4, old[4];
	bool tcp = ip[IP_PROTOCOL] == IPPROTO_TCP;
	u8 *sum = l4 + (tcp ? TCP_SUM : UDP_SUM);

	memcpy(old, at, 4);
	put32(at, addr);
	mend(ip + IP_SUM, old, at);
	if (tcp || get16(sum)) /* UDP's 0: none */
		mend(sum, old, at);
}

/* ---- towards the guest ---- */

void net_gso_header(struct virtio_net_hdr_v1 *h, u8 *frame, const struct net_tcp *t, u16 mss)
{
	u8 *ip = frame + ETH_HEADER;

	*h = (struct virtio_net_hdr_v1){
		.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		.gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
		.hdr_len = (u16)(ETH_HEADER + t->ip_len + t->tcp_len),
		.gso_size = mss,
		.csum_start = (u16)(ETH_HEADER + t->ip_len),
		.csum_offset = TCP_SUM,
	};
	store_sum(ip + t->ip_len + TCP_SUM, pseudo_header(ip, t->tcp_len + t->payload));
}

void net_segment(const u8 *frame, const struct net_tcp *t, u16 mss, net_piece_fn out, void *opaque)
{
	u32 head_len = ETH_HEADER + t->ip_len + t->tcp_len;
	u8 head[ETH_HEADER + 60 + 60], *ip = head + ETH_HEADER, *tcp = ip + t->ip_len;
	const u8 *body = frame + head_len;
	u8 flags = frame[ETH_HEADER + t->ip_len + TCP_FLAGS];
	u32 seq, n;

	memcpy(head, frame, head_len);
	seq = get32(tcp + TCP_SEQ);
	for (u32 at = 0, i = 0; at < t->payload || !i; at += n, i++) {
		n = MIN(t->payload - at, mss);
		put16(ip + IP_TOTAL, (u16)(t->ip_len + t->tcp_len + n));
		put16(ip + IP_ID, (u16)(get16(frame + ETH_HEADER + IP_ID) + i));
		net_set_ip_checksum(ip, t->ip_len);
		put32(tcp + TCP_SEQ, seq + at);
		tcp[TCP_FLAGS] = flags & ~((at + n < t->payload ? TCP_FIN | TCP_PSH : 0) | (i ? TCP_CWR : 0));
		set_tcp_checksum(ip, t, body + at, n);
		out(opaque, head, head_len, body + at, n);
	}
}

/* Options are copied to every fragment: no harm in what only the first needs (RFC 791, 3.1). */
void net_fragment(const u8 *frame, size_t len, net_piece_fn out, void *opaque)
{
	u8 head[ETH_HEADER + 60], *ip = head + ETH_HEADER;
	u32 total, ip_len = net_parse_ip(frame, len, &total), head_len = ETH_HEADER + ip_len, room, n;
	u16 field;

	if (!ip_len)
		return;
	room = (NET_MTU - ip_len) & ~7u;
	memcpy(head, frame, head_len);
	field = get16(ip + IP_FRAGMENT);
	for (u32 at = 0; at < total - ip_len; at += n) {
		bool last = total - ip_len - at <= NET_MTU - ip_len;

		n = last ? total - ip_len - at : room;
		put16(ip + IP_TOTAL, (u16)(ip_len + n));
		put16(ip + IP_FRAGMENT,
		      (u16)((field & ~(u32)IP_OFFSET) | ((field + at / 8) & IP_OFFSET) | (last ? 0 : IP_MORE)));
		net_set_ip_checksum(ip, ip_len);
		out(opaque, head, head_len, frame + head_len + at, n);
	}
}

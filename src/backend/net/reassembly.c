#include "backend/net/reassembly.h"

#include <stdlib.h>
#include <string.h>

#include "backend/net/packet.h"

#define DATAGRAMS 8u
#define TIMEOUT 15000u		    /* ms; RFC 1122, 3.3.2 has 60 s at least, for slower networks */
#define HEAD_MAX (ETH_HEADER + 60u) /* headers that fit before the payload */
#define DATAGRAM_MAX 65535u
#define UNITS (65536u / 8)
/* Offsets within the IPv4 header. */
#define IP_TOTAL 2
#define IP_ID 4
#define IP_FRAGMENT 6
#define IP_PROTOCOL 9
#define IP_SOURCE 12
#define IP_MORE 0x2000
#define IP_OFFSET 0x1fff
#define KEY 11 /* addresses, identification, protocol */

struct datagram {
	bool used;
	u8 key[KEY];
	u64 since;	       /* ms */
	u32 head_len;	       /* with the Ethernet header; 0: the first fragment is missing */
	u32 len;	       /* of the payload; 0: the last fragment is missing */
	u32 have;	       /* bytes of the payload */
	u32 end;	       /* of the furthest fragment */
	u64 units[UNITS / 64]; /* 8 bytes each, that are there */
	u8 frame[HEAD_MAX + DATAGRAM_MAX];
};

struct net_reassembly {
	struct datagram datagram[DATAGRAMS];
};

struct net_reassembly *net_reassembly_create(void)
{
	return calloc(1, sizeof(struct net_reassembly));
}

void net_reassembly_free(struct net_reassembly *r)
{
	free(r);
}

static u32 get16(const u8 *p)
{
	return (u32)(p[0] << 8 | p[1]);
}

bool net_is_fragment(const u8 *frame, size_t len)
{
	u32 total;

	return net_parse_ip(frame, len, &total) && (get16(frame + ETH_HEADER + IP_FRAGMENT) & (IP_MORE | IP_OFFSET));
}

/* The one that the fragment belongs to, made if there is none. */
static struct datagram *find(struct net_reassembly *r, const u8 *ip, u64 now)
{
	struct datagram *d = &r->datagram[0];
	u8 key[KEY];

	memcpy(key, ip + IP_SOURCE, 8);
	memcpy(key + 8, ip + IP_ID, 2);
	key[10] = ip[IP_PROTOCOL];
	for (unsigned i = 0; i < DATAGRAMS; i++) {
		struct datagram *k = &r->datagram[i];

		if (k->used && now - k->since > TIMEOUT)
			k->used = false;
		if (k->used && !memcmp(k->key, key, KEY))
			return k;
		if (d->used && (!k->used || k->since < d->since))
			d = k;
	}
	memset(d, 0, offsetof(struct datagram, frame));
	d->used = true;
	d->since = now;
	memcpy(d->key, key, KEY);
	return d;
}

/* False: some of them are there already. */
static bool claim(struct datagram *d, u32 offset, u32 n)
{
	for (u32 i = offset / 8; i < (offset + n + 7) / 8; i++) {
		if (d->units[i / 64] >> i % 64 & 1)
			return false;
		d->units[i / 64] |= 1ull << i % 64;
	}
	return true;
}

/* False: the fragment does not go with the others, or with any. */
static bool add(struct datagram *d, const u8 *frame, u32 ip_len, u32 total)
{
	u32 field = get16(frame + ETH_HEADER + IP_FRAGMENT), offset = (field & IP_OFFSET) * 8, n = total - ip_len;
	u32 head_len = ETH_HEADER + ip_len;

	if (!n || ((field & IP_MORE) && n % 8) || ip_len + offset + n > DATAGRAM_MAX || !claim(d, offset, n))
		return false;
	if (!(field & IP_MORE)) {
		if (d->len)
			return false;
		d->len = offset + n;
	}
	if (!offset) {
		memcpy(d->frame + HEAD_MAX - head_len, frame, head_len);
		d->head_len = head_len;
	}
	memcpy(d->frame + HEAD_MAX + offset, frame + head_len, n);
	d->have += n;
	d->end = MAX(d->end, offset + n);
	return !d->len || d->end <= d->len;
}

u8 *net_reassemble(struct net_reassembly *r, const u8 *frame, size_t len, u64 now, size_t *whole)
{
	u32 total, ip_len = net_parse_ip(frame, len, &total), size;
	struct datagram *d;
	u8 *start, *ip;

	if (!ip_len)
		return NULL;
	d = find(r, frame + ETH_HEADER, now);
	if (!add(d, frame, ip_len, total)) {
		d->used = false;
		return NULL;
	}
	/* no gap, since nothing overlaps and nothing is behind the end */
	if (!d->len || !d->head_len || d->have != d->len)
		return NULL;
	d->used = false;
	size = d->head_len - ETH_HEADER + d->len;
	if (size > DATAGRAM_MAX)
		return NULL;
	start = d->frame + HEAD_MAX - d->head_len;
	ip = start + ETH_HEADER;
	ip[IP_TOTAL] = (u8)(size >> 8);
	ip[IP_TOTAL + 1] = (u8)size;
	memset(ip + IP_FRAGMENT, 0, 2);
	net_set_ip_checksum(ip, d->head_len - ETH_HEADER);
	*whole = ETH_HEADER + size;
	return start;
}

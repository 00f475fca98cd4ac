/* IPv4 frames for tests: made, and checked in another way than src/backend/net does it. */
#ifndef ECTYPE_TESTS_NET_FRAMES_H
#define ECTYPE_TESTS_NET_FRAMES_H

#include <string.h>

#include "base/types.h"

static inline u32 fold(const u8 *p, size_t n, u32 sum)
{
	for (size_t i = 0; i < n; i++)
		sum += i & 1 ? p[i] : (u32)p[i] << 8;
	while (sum >> 16)
		sum = (sum >> 16) + (sum & 0xffff);
	return sum;
}

static inline u32 pseudo(const u8 *ip, u32 len)
{
	return fold(ip + 12, 8, ip[9] + len);
}

/* All checksums of an IPv4 frame hold, computed another way than the code does. */
static inline bool sound(const u8 *frame)
{
	const u8 *ip = frame + 14;
	u32 hl = (ip[0] & 15) * 4, total = (u32)(ip[2] << 8 | ip[3]);

	if (fold(ip, hl, 0) != 0xffff)
		return false;
	if (((ip[6] << 8 | ip[7]) & 0x3fff) || (ip[9] != 6 && ip[9] != 17))
		return true;
	return fold(ip + hl, total - hl, pseudo(ip, total - hl)) == 0xffff;
}

static inline void put16(u8 *p, unsigned v)
{
	p[0] = (u8)(v >> 8);
	p[1] = (u8)v;
}
static inline void put32(u8 *p, u32 v)
{
	put16(p, v >> 16);
	put16(p + 2, v & 0xffff);
}
static inline unsigned get16(const u8 *p)
{
	return (unsigned)(p[0] << 8 | p[1]);
}
static inline u32 get32(const u8 *p)
{
	return (u32)get16(p) << 16 | get16(p + 2);
}

#define GUEST 0x0a00020fu
#define GATEWAY 0x0a000202u
static const u8 guest_mac[6] = { 0x52, 0x54, 0, 0x12, 0x34, 0x56 };
static const u8 gateway_mac[6] = { 0x52, 0x55, 10, 0, 2, 2 };

/* An IPv4 frame from the guest with `len` bytes of protocol `proto`, whose checksum field is at `sum_at`. */
static inline size_t ipv4(u8 *f, unsigned proto, u32 from, u32 to, const u8 *body, size_t len, unsigned sum_at)
{
	u8 *ip = f + 14;

	memcpy(f, gateway_mac, 6);
	memcpy(f + 6, guest_mac, 6);
	put16(f + 12, 0x800);
	memset(ip, 0, 20);
	ip[0] = 0x45;
	put16(ip + 2, 20 + (unsigned)len);
	put16(ip + 4, 7);
	ip[8] = 64;
	ip[9] = (u8)proto;
	put32(ip + 12, from);
	put32(ip + 16, to);
	put16(ip + 10, 0xffff ^ fold(ip, 20, 0));
	memcpy(ip + 20, body, len);
	put16(ip + 20 + sum_at, 0);
	put16(ip + 20 + sum_at, 0xffff ^ fold(ip + 20, len, pseudo(ip, (u32)len)));
	return 34 + len;
}

static inline size_t udp(u8 *f, u32 from, unsigned fp, u32 to, unsigned tp, const void *data, size_t n)
{
	static u8 b[70000];

	put16(b, fp);
	put16(b + 2, tp);
	put16(b + 4, 8 + (unsigned)n);
	memcpy(b + 8, data, n);
	return ipv4(f, 17, from, to, b, 8 + n, 6);
}

/* With `mss` an option. */
static inline size_t tcp(u8 *f, unsigned fp, u32 to, unsigned tp, u32 seq, u32 ack, unsigned flags, unsigned mss,
			 const void *data, size_t n)
{
	static u8 b[70000];
	unsigned hl = mss ? 24 : 20;

	memset(b, 0, 24);
	put16(b, fp);
	put16(b + 2, tp);
	put32(b + 4, seq);
	put32(b + 8, ack);
	b[12] = (u8)(hl << 2);
	b[13] = (u8)flags;
	put16(b + 14, 65535);
	b[20] = 2;
	b[21] = 4;
	put16(b + 22, mss);
	if (n)
		memcpy(b + hl, data, n);
	return ipv4(f, 6, GUEST, to, b, hl + n, 16);
}

/* In `f` the fragment of datagram `whole` (RFC 791) with `n` bytes of its payload from `offset` on; its length. */
static inline size_t fragment(u8 *f, const u8 *whole, unsigned offset, unsigned n, bool more)
{
	memcpy(f, whole, 34);
	memcpy(f + 34, whole + 34 + offset, n);
	put16(f + 16, 20 + n);
	put16(f + 20, (more ? 0x2000 : 0) | offset / 8);
	put16(f + 24, 0);
	put16(f + 24, 0xffff ^ fold(f + 14, 20, 0));
	return 34 + n;
}

static inline void fill(u8 *p, size_t n, u32 seed)
{
	for (size_t i = 0; i < n; i++) {
		seed = seed * 1664525 + 1013904223;
		p[i] = (u8)(seed >> 24);
	}
}

#endif

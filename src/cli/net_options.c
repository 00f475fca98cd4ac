/* The grammar of --net: a kind, then options, with commas between (net_options.h, docs/net.md). */
#include "cli/net_options.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "cli/cli.h"

#define FIRST_MAC "\x52\x54\x00\x12\x34\x56"

/* Takes the word up to `stop` off *s into out; false if it is too long or there is no `stop`. */
static bool word(const char **s, char stop, char *out, size_t size)
{
	const char *end = strchr(*s, stop);

	if (!end || (size_t)(end - *s) >= size)
		return false;
	memcpy(out, *s, (size_t)(end - *s));
	out[end - *s] = 0;
	*s = end + 1;
	return true;
}

static bool port(const char *s, u64 least, u16 *out)
{
	u64 n;

	if (!isdigit((unsigned char)*s) || parse_number(s, 65535, &n) || n < least)
		return false;
	*out = (u16)n;
	return true;
}

static bool address(const char *s)
{
	struct in_addr a;

	return !*s || inet_pton(AF_INET, s, &a) == 1;
}

/* "tcp:[ADDR]:HPORT-[GADDR]:GPORT" */
static bool forward(const char *s, struct net_forward *f)
{
	char kind[8], from[8];

	*f = (struct net_forward){ 0 };
	if (!word(&s, ':', kind, sizeof(kind)) || (strcmp(kind, "tcp") && strcmp(kind, "udp")))
		return false;
	f->udp = kind[0] == 'u';
	return word(&s, ':', f->host_addr, sizeof(f->host_addr)) && address(f->host_addr) &&
	       word(&s, '-', from, sizeof(from)) && port(from, 0, &f->host_port) &&
	       word(&s, ':', f->guest_addr, sizeof(f->guest_addr)) && address(f->guest_addr) &&
	       port(s, 1, &f->guest_port);
}

static bool mac_address(const char *s, u8 mac[6])
{
	bool any = false;

	for (unsigned i = 0; i < 6; i++, s += 3) {
		if (!isxdigit((unsigned char)s[0]) || !isxdigit((unsigned char)s[1]) || s[2] != (i < 5 ? ':' : 0))
			return false;
		mac[i] = (u8)(strchr("0123456789abcdef", tolower(s[0])) - "0123456789abcdef") << 4 |
			 (u8)(strchr("0123456789abcdef", tolower(s[1])) - "0123456789abcdef");
		any |= mac[i] != 0;
	}
	return any && !(mac[0] & 1);
}

/* RFC 1123: letters, digits, hyphens, in labels. */
static bool host_name(const char *s)
{
	return *s && strlen(s) <= NET_HOSTNAME_MAX && *s != '-' &&
	       s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.")] == 0;
}

static int set_forward(struct net_option *n, const char *v)
{
	if (n->user.forwards == NET_FORWARDS_MAX)
		return usage_error("--net: more than %d forwards", NET_FORWARDS_MAX);
	if (!forward(v, &n->user.forward[n->user.forwards]))
		return usage_error("--net: hostfwd='%s' is not tcp|udp:[ADDR]:HPORT-[GADDR]:GPORT", v);
	n->user.forwards++;
	return 0;
}

static int set_queues(struct net_option *n, const char *v)
{
	u64 q;

	if (parse_number(v, NET_QUEUES_MAX, &q) || !q)
		return usage_error("--net: queues='%s' is not a number from 1 to %u", v, NET_QUEUES_MAX);
	n->queues = (unsigned)q;
	return 0;
}

static int suboption(struct net_option *n, const char *name, const char *v)
{
	bool user = n->kind == NET_KIND_USER;

	if (!strcmp(name, "mac")) {
		n->has_mac = mac_address(v ? v : "", n->mac);
		return n->has_mac
			   ? 0
			   : usage_error("--net: mac='%s' is no address of a card (52:54:00:12:34:56)", v ? v : "");
	}
	if (!strcmp(name, "hostfwd") && user)
		return set_forward(n, v ? v : "");
	if (!strcmp(name, "restrict") && user && !v) {
		n->user.restricted = true;
		return 0;
	}
	if (!strcmp(name, "hostname") && user) {
		if (!v || !host_name(v))
			return usage_error("--net: hostname='%s' is no host's name of at most %d characters",
					   v ? v : "", NET_HOSTNAME_MAX);
		strcpy(n->hostname, v);
		return 0;
	}
	if (!strcmp(name, "queues") && !user)
		return set_queues(n, v ? v : "");
	return usage_error("--net: '%s%s%s' is no option of a %s network", name, v ? "=" : "", v ? v : "",
			   user ? "user" : "tap");
}

static int parse_kind(struct net_option *n, const char *kind)
{
	if (!strcmp(kind, "user")) {
		n->kind = NET_KIND_USER;
	} else if (!strncmp(kind, "tap=", 4) && kind[4] && strlen(kind + 4) < sizeof(n->tap)) {
		n->kind = NET_KIND_TAP;
		strcpy(n->tap, kind + 4);
	} else {
		return usage_error("--net '%s' is none of user[,...], tap=NAME[,...], none", kind);
	}
	return 0;
}

int net_options_parse(struct net_options *o, const char *value)
{
	struct net_option *n = &o->net[o->count];
	char text[4096], *rest = text, *part;
	int ret;

	if ((o->none && strcmp(value, "none")) || (o->count && !strcmp(value, "none")))
		return usage_error("--net none goes with no other --net");
	if (!strcmp(value, "none")) {
		o->none = true;
		return 0;
	}
	if (o->count == MACHINE_NETS_MAX)
		return usage_error("--net: more than %d networks", MACHINE_NETS_MAX);
	if (strlen(value) >= sizeof(text))
		return usage_error("--net: the value is too long");
	strcpy(text, value);
	*n = (struct net_option){ .queues = 1 };
	ret = parse_kind(n, strsep(&rest, ","));
	while (!ret && (part = strsep(&rest, ","))) {
		char *name = strsep(&part, "=");

		ret = suboption(n, name, part);
	}
	o->count += !ret;
	return ret;
}

void net_options_drop_mac(char *value)
{
	char *at = strstr(value, ",mac="), *end = at ? at + 1 + strcspn(at + 1, ",") : NULL;

	if (at)
		memmove(at, end, strlen(end) + 1);
}

int net_options_own_macs(struct net_options *o, struct error *e)
{
	for (unsigned i = 0; i < o->count; i++) {
		struct net_option *n = &o->net[i];

		n->own_mac = true;
		if (n->has_mac)
			continue;
		if (getrandom(n->mac, sizeof(n->mac), 0) != sizeof(n->mac))
			return error_errno(e, errno, "no random numbers");
		/* IEEE 802, 8.2.2: locally administered, not a group */
		n->mac[0] = (n->mac[0] & 0xfc) | 2;
		n->has_mac = true;
	}
	return 0;
}

/* ---- backends ---- */

/* Of user networks by their order; those of tap interfaces, several of which may be on one bridge, by their name. */
static void default_mac(const struct net_option *n, unsigned i, u8 mac[6])
{
	u32 hash = 2166136261u; /* FNV-1a */

	memcpy(mac, FIRST_MAC, 6);
	if (n->kind == NET_KIND_USER) {
		mac[5] = (u8)(mac[5] + i);
		return;
	}
	for (const char *s = n->tap; *s; s++)
		hash = (hash ^ (u8)*s) * 16777619u;
	mac[3] = hash >> 16 & 0xff;
	mac[4] = hash >> 8 & 0xff;
	mac[5] = hash & 0xff;
}

int net_options_create(struct net_options *o, struct machine_config *cfg, struct error *e)
{
	for (unsigned i = 0; i < o->count; i++) {
		struct net_option *n = &o->net[i];
		struct machine_net *m = &cfg->nets[i];
		const struct net_tap_config tap = { n->tap, n->queues };

		if (n->has_mac)
			memcpy(m->mac, n->mac, sizeof(m->mac));
		else
			default_mac(n, i, m->mac);
		m->own_mac = n->own_mac;
		n->user.hostname = n->hostname[0] ? n->hostname : NULL;
		m->net = n->kind == NET_KIND_USER ? net_user_create(&n->user, e) : net_tap_create(&tap, e);
		if (!m->net)
			return -1;
		cfg->net_count++;
	}
	return 0;
}

void net_options_destroy(struct machine_config *cfg)
{
	while (cfg->net_count) {
		struct net *n = cfg->nets[--cfg->net_count].net;

		n->ops->destroy(n);
	}
}

/* --net: networks of the guest, and their backends. */
#ifndef ECTYPE_CLI_NET_OPTIONS_H
#define ECTYPE_CLI_NET_OPTIONS_H

#include "backend/net/net.h"
#include "machine/machine.h"

enum net_kind { NET_KIND_NONE, NET_KIND_USER, NET_KIND_TAP };

struct net_option {
	enum net_kind kind;
	bool has_mac, own_mac; /* own_mac: in place of the one that was saved */
	u8 mac[6];
	char hostname[NET_HOSTNAME_MAX + 1];
	char tap[32];
	unsigned queues;
	struct net_user_config user;
};
struct net_options {
	unsigned count;
	bool none; /* --net none was given */
	struct net_option net[MACHINE_NETS_MAX];
};

/* One value of --net. 0, or an exit status after a message. Looks at nothing but the text. */
int net_options_parse(struct net_options *o, const char *value);
/* Takes "mac=..." out of a value. */
void net_options_drop_mac(char *value);
/* The machine is a copy: its cards get addresses of their own, random and locally administered, where no
 * other was given. 0, or -1 with *e. */
int net_options_own_macs(struct net_options *o, struct error *e);
/* Makes the backends, in cfg->nets; those made are there on failure as well. */
int net_options_create(struct net_options *o, struct machine_config *cfg, struct error *e);
void net_options_destroy(struct machine_config *cfg);

#endif

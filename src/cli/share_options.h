/* --share and --vhost-user: directories and devices that other processes serve. */
#ifndef ECTYPE_CLI_SHARE_OPTIONS_H
#define ECTYPE_CLI_SHARE_OPTIONS_H

#include "backend/share/share.h"
#include "dev/vhost_user/vhost_user_dev.h"

#define SHARES_MAX 16

struct share_option {
	enum vhost_user_kind kind;
	char tag[VHOST_USER_TAG_MAX + 1]; /* of a shared directory; empty: `path` is a back end's socket */
	struct share_config dir;
	char path[4096];
	struct share *share;
	int fd;
};

struct share_options {
	struct share_option item[SHARES_MAX];
	struct vhost_user_config config[SHARES_MAX]; /* filled in by share_options_start() */
	unsigned count;
};

/* TAG=DIR[,ro] and blk=SOCKET, net=SOCKET. 0, or an exit status after a message. */
int share_option_parse(struct share_options *o, const char *value);
int vhost_user_option_parse(struct share_options *o, const char *value);
/* One directory more, as --share would; NULL if there are too many. */
struct share_option *share_option_add(struct share_options *o, const char *tag, const char *dir, bool readonly);

/* Looks at directories, starts nothing. */
int share_options_check(const struct share_options *o, struct error *e);
/* Starts the helpers, connects to the sockets. Whatever was started is ended by share_options_stop(). */
int share_options_start(struct share_options *o, struct error *e);
/* The machine could not be made: adds what helpers have to say. */
void share_options_explain(const struct share_options *o, struct error *e);
void share_options_stop(struct share_options *o);

#endif

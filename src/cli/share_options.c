#include "cli/share_options.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "dev/vhost_user/vhost_user.h"

static struct share_option *add(struct share_options *o, const char *path)
{
	struct share_option *s = &o->item[o->count];

	if (o->count == SHARES_MAX || strlen(path) >= sizeof(s->path))
		return NULL;
	*s = (struct share_option){ .fd = -1 };
	strcpy(s->path, path);
	o->count++;
	return s;
}

struct share_option *share_option_add(struct share_options *o, const char *tag, const char *dir, bool readonly)
{
	struct share_option *s = add(o, dir);

	if (!s)
		return NULL;
	s->kind = VHOST_USER_FS;
	snprintf(s->tag, sizeof(s->tag), "%s", tag);
	s->dir.dir = s->path;
	s->dir.readonly = readonly;
	return s;
}

int share_option_parse(struct share_options *o, const char *value)
{
	const char *dir = strchr(value, '=');
	size_t tag_len = dir ? (size_t)(dir - value) : 0, len;
	struct share_option *s;
	char tag[VHOST_USER_TAG_MAX + 1];

	if (!tag_len || tag_len > VHOST_USER_TAG_MAX || !dir[1])
		return usage_error("--share '%s' is not TAG=DIR or TAG=DIR,ro (a tag has 1 to %d bytes)", value,
				   VHOST_USER_TAG_MAX);
	snprintf(tag, sizeof(tag), "%.*s", (int)tag_len, value);
	for (unsigned i = 0; i < o->count; i++) {
		if (!strcmp(o->item[i].tag, tag))
			return usage_error("--share: two directories have the tag '%s'", tag);
	}
	s = share_option_add(o, tag, dir + 1, false);
	if (!s)
		return usage_error("--share: more than %d directories, or a path that is too long", SHARES_MAX);
	len = strlen(s->path);
	if (len > 3 && !strcmp(s->path + len - 3, ",ro")) {
		s->path[len - 3] = 0;
		s->dir.readonly = true;
	}
	return 0;
}

int vhost_user_option_parse(struct share_options *o, const char *value)
{
	bool blk = !strncmp(value, "blk=", 4), net = !strncmp(value, "net=", 4);
	struct share_option *s;

	if ((!blk && !net) || !value[4])
		return usage_error("--vhost-user '%s' is neither blk=SOCKET nor net=SOCKET", value);
	s = add(o, value + 4);
	if (!s)
		return usage_error("--vhost-user: more than %d devices, or a path that is too long", SHARES_MAX);
	s->kind = blk ? VHOST_USER_BLK : VHOST_USER_NET;
	return 0;
}

int share_options_check(const struct share_options *o, struct error *e)
{
	for (unsigned i = 0; i < o->count; i++) {
		if (o->item[i].kind == VHOST_USER_FS && share_check(&o->item[i].dir, e))
			return -1;
	}
	return 0;
}

int share_options_start(struct share_options *o, struct error *e)
{
	for (unsigned i = 0; i < o->count; i++) {
		struct share_option *s = &o->item[i];

		if (s->kind == VHOST_USER_FS) {
			s->share = share_start(&s->dir, e);
			if (!s->share)
				return -1;
		} else {
			s->fd = vhost_user_dial(s->path, e);
			if (s->fd < 0)
				return -1;
		}
		o->config[i] = (struct vhost_user_config){
			.kind = s->kind,
			.fd = s->share ? share_fd(s->share) : s->fd,
			.name = s->path,
			.tag = s->tag,
			.no_noatime = geteuid() != 0,
			.kill = s->share ? share_kill : NULL,
			.opaque = s->share,
		};
	}
	return 0;
}

void share_options_explain(const struct share_options *o, struct error *e)
{
	for (unsigned i = 0; i < o->count; i++) {
		if (o->item[i].share)
			share_explain(o->item[i].share, e);
	}
}

void share_options_stop(struct share_options *o)
{
	for (unsigned i = 0; i < o->count; i++) {
		share_stop(o->item[i].share);
		if (o->item[i].fd >= 0)
			close(o->item[i].fd);
		o->item[i].share = NULL;
		o->item[i].fd = -1;
	}
}

#include "cli/tls.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HANDSHAKE_MS 10000
#define PRIORITY "NORMAL:-VERS-ALL:+VERS-TLS1.3"

struct tls {
	gnutls_certificate_credentials_t own;
	gnutls_session_t session;
	bool sending;	  /* GnuTLS has bytes that the host did not take */
	bool over, ended; /* the other side has said that it ends; we have */
	struct error why;
	bool failed;
};

static int load(gnutls_certificate_credentials_t *c, const struct tls_files *f, struct error *e)
{
	int r = gnutls_certificate_allocate_credentials(c);

	if (r)
		return error_set(e, "TLS: %s", gnutls_strerror(r));
	r = gnutls_certificate_set_x509_trust_file(*c, f->ca, GNUTLS_X509_FMT_PEM);
	if (r <= 0) {
		error_set(e, "--tls-ca %s: %s", f->ca, r ? gnutls_strerror(r) : "no certificate is in it");
	} else {
		r = gnutls_certificate_set_x509_key_file(*c, f->cert, f->key, GNUTLS_X509_FMT_PEM);
		if (!r)
			return 0;
		error_set(e, "--tls-cert %s, --tls-key %s: %s", f->cert, f->key, gnutls_strerror(r));
	}
	gnutls_certificate_free_credentials(*c);
	return -1;
}

int tls_given(const struct tls_files *f, struct error *e)
{
	if (f->cert && f->key && f->ca)
		return 0;
	return error_set(e, "TLS needs all of --tls-cert, --tls-key and --tls-ca");
}

int tls_check(const struct tls_files *f, struct error *e)
{
	gnutls_certificate_credentials_t c;

	if (tls_given(f, e))
		return -1;
	if (load(&c, f, e))
		return -1;
	gnutls_certificate_free_credentials(c);
	return 0;
}

/* What is wrong with the other side's certificate, or with the handshake. */
static void explain(struct tls *t, int r, struct error *e)
{
	gnutls_datum_t text;
	unsigned status;

	if (r == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR) {
		status = gnutls_session_get_verify_cert_status(t->session);
		if (!gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0)) {
			error_set(e, "TLS: the other side's certificate: %s", (const char *)text.data);
			gnutls_free(text.data);
			return;
		}
	}
	if (r == GNUTLS_E_FATAL_ALERT_RECEIVED)
		error_set(e, "TLS: the other side refuses: %s", gnutls_alert_get_name(gnutls_alert_get(t->session)));
	else
		error_set(e, "TLS: %s", gnutls_strerror(r));
}

/* A client has greeted before the server has looked at its certificate: the server says when it has. */
static int welcome(struct tls *t, bool server)
{
	char byte = 0;
	ssize_t r;

	gnutls_record_set_timeout(t->session, HANDSHAKE_MS);
	do
		r = server ? gnutls_record_send(t->session, &byte, 1) : gnutls_record_recv(t->session, &byte, 1);
	while (r == GNUTLS_E_INTERRUPTED || r == GNUTLS_E_AGAIN);
	gnutls_record_set_timeout(t->session, 0);
	return r > 0 ? 0 : r < 0 ? (int)r : GNUTLS_E_PREMATURE_TERMINATION;
}

struct tls *tls_open(const struct tls_files *f, int fd, bool server, struct error *e)
{
	struct tls *t = calloc(1, sizeof(*t));
	int r;

	if (!t || load(&t->own, f, e)) {
		if (!t)
			error_set(e, "not enough memory");
		free(t);
		return NULL;
	}
	r = gnutls_init(&t->session, (server ? GNUTLS_SERVER : GNUTLS_CLIENT) | GNUTLS_NO_SIGNAL);
	if (!r)
		r = gnutls_priority_set_direct(t->session, PRIORITY, NULL);
	if (!r)
		r = gnutls_credentials_set(t->session, GNUTLS_CRD_CERTIFICATE, t->own);
	if (!r) {
		if (server)
			gnutls_certificate_server_set_request(t->session, GNUTLS_CERT_REQUIRE);
		else if (f->host)
			gnutls_server_name_set(t->session, GNUTLS_NAME_DNS, f->host, strlen(f->host));
		gnutls_session_set_verify_cert(t->session, f->host, 0);
		gnutls_transport_set_int(t->session, fd);
		gnutls_handshake_set_timeout(t->session, HANDSHAKE_MS);
		do
			r = gnutls_handshake(t->session);
		while (r < 0 && !gnutls_error_is_fatal(r));
	}
	if (!r)
		r = welcome(t, server);
	if (!r)
		return t;
	explain(t, r, e);
	if (t->session && r != GNUTLS_E_FATAL_ALERT_RECEIVED)
		gnutls_alert_send_appropriate(t->session, r);
	tls_close(t);
	return NULL;
}

static ssize_t failed(struct tls *t, ssize_t r)
{
	if (r == GNUTLS_E_AGAIN || r == GNUTLS_E_INTERRUPTED) {
		errno = EAGAIN;
		return -1;
	}
	if (!t->failed)
		explain(t, (int)r, &t->why);
	t->failed = true;
	errno = EPROTO;
	return -1;
}

ssize_t tls_read(struct tls *t, void *buf, size_t n)
{
	ssize_t r = gnutls_record_recv(t->session, buf, n);

	if (!r)
		t->over = true;
	if (r >= 0)
		return r;
	/* the sections themselves say whether anything is missing */
	if (r == GNUTLS_E_PREMATURE_TERMINATION)
		return 0;
	return failed(t, r);
}

ssize_t tls_write(struct tls *t, const void *buf, size_t n)
{
	/* what was not taken goes first, and is what `buf` begins with */
	ssize_t r = t->sending ? gnutls_record_send(t->session, NULL, 0) : gnutls_record_send(t->session, buf, n);

	t->sending = r == GNUTLS_E_AGAIN || r == GNUTLS_E_INTERRUPTED;
	return r >= 0 ? r : failed(t, r);
}

bool tls_pending(const struct tls *t)
{
	return gnutls_record_check_pending(t->session) > 0;
}

const char *tls_error(const struct tls *t)
{
	return t->failed ? t->why.text : NULL;
}

bool tls_over(const struct tls *t)
{
	return t->over;
}

int tls_end(struct tls *t)
{
	int r = t->ended ? 0 : gnutls_bye(t->session, GNUTLS_SHUT_WR);

	t->ended = r != GNUTLS_E_AGAIN && r != GNUTLS_E_INTERRUPTED;
	if (t->ended)
		return 0;
	errno = EAGAIN;
	return -1;
}

void tls_close(struct tls *t)
{
	if (!t)
		return;
	if (t->session) {
		tls_end(t);
		gnutls_deinit(t->session);
	}
	gnutls_certificate_free_credentials(t->own);
	free(t);
}

#include "sink/stream_tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <string.h>

#include "base/config_text.h"
#include "base/log.h"

/* What the certificate of the server has to be for. */
static const char *server_name(const struct stream_tls *t) {
    return t->config->redis.tls.server_name[0] != 0 ? t->config->redis.tls.server_name : t->config->redis.host;
}

static const char *last_reason(void) {
    const char *text = ERR_reason_error_string(ERR_peek_last_error());
    return text != NULL ? text : "unknown error";
}

/* -- the files --------------------------------------------------------------------------------- */

/* Without this OpenSSL would ask at the terminal. */
static int no_password(char *buffer, int size, int writing, void *asked) {
    (void)buffer, (void)size, (void)writing;
    *(bool *)asked = true;
    return -1;
}

static int ca_load(SSL_CTX *ctx, const char *ca, struct err *err) {
    if (ca[0] == 0) {
        if (SSL_CTX_set_default_verify_paths(ctx) == 1) return 0;
        return err_set(err, STREAM_MISCONFIGURED, "the system's certificates: %s", last_reason());
    }
    if (config_file_check(ca, false, err) != 0) return err_prefix(err, "redis.tls.ca_file");
    if (SSL_CTX_load_verify_file(ctx, ca) == 1) return 0;
    return err_set(err, STREAM_MISCONFIGURED, "redis.tls.ca_file: %s: no certificate in PEM form in it", ca);
}

static int client_load(SSL_CTX *ctx, const char *cert, const char *key, struct err *err) {
    bool asked = false;
    if (config_file_check(cert, false, err) != 0) return err_prefix(err, "redis.tls.cert_file");
    if (config_file_check(key, true, err) != 0) return err_prefix(err, "redis.tls.key_file");
    if (SSL_CTX_use_certificate_chain_file(ctx, cert) != 1)
        return err_set(err, STREAM_MISCONFIGURED, "redis.tls.cert_file: %s: no certificate in PEM form in it (%s)",
                       cert, last_reason());
    SSL_CTX_set_default_passwd_cb(ctx, no_password);
    SSL_CTX_set_default_passwd_cb_userdata(ctx, &asked);
    int loaded = SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM);
    SSL_CTX_set_default_passwd_cb_userdata(ctx, NULL);
    if (asked)
        return err_set(err, STREAM_MISCONFIGURED,
                       "redis.tls.key_file: %s is encrypted; it has to be there without a password", key);
    int reason = ERR_GET_REASON(ERR_peek_last_error());
    if (loaded != 1 && reason != X509_R_KEY_VALUES_MISMATCH && reason != X509_R_KEY_TYPE_MISMATCH)
        return err_set(err, STREAM_MISCONFIGURED, "redis.tls.key_file: %s: no private key in PEM form in it (%s)", key,
                       last_reason());
    if (loaded == 1 && SSL_CTX_check_private_key(ctx) == 1) return 0;
    return err_set(err, STREAM_MISCONFIGURED, "redis.tls: the key in %s does not belong to the certificate in %s", key,
                   cert);
}

/* NULL with err. */
static SSL_CTX *files_load(const struct config *c, struct err *err) {
    ERR_clear_error();
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    if (ctx == NULL) {
        err_set(err, ENOMEM, "OpenSSL: %s", last_reason());
        return NULL;
    }
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_read_ahead(ctx, 1);
    if (ca_load(ctx, c->redis.tls.ca_file, err) == 0 &&
        (c->redis.tls.cert_file[0] == 0 || client_load(ctx, c->redis.tls.cert_file, c->redis.tls.key_file, err) == 0))
        return ctx;
    err->code = STREAM_MISCONFIGURED;
    SSL_CTX_free(ctx);
    return NULL;
}

int stream_tls_check(const struct config *config, struct err *err) {
    SSL_CTX *ctx = files_load(config, err);
    SSL_CTX_free(ctx);
    return ctx != NULL ? 0 : -1;
}

/* Reads the files for the next connection. A renewal that is half done must not take away what works. */
static int files_renew(struct stream_tls *t, struct err *err) {
    if (t->files != NULL && t->fresh) return 0;
    SSL_CTX *ctx = files_load(t->config, err);
    if (ctx == NULL) {
        if (t->files == NULL) return -1;
        if (!t->warned) log_warn("sink.tls_files_kept", "the files read before stay in force: %s", err->text);
        t->warned = true;
        return 0;
    }
    if (t->files != NULL) SSL_CTX_free(t->files);
    t->files = ctx;
    t->fresh = true;
    t->warned = false;
    return 0;
}

/* -- the port below, as OpenSSL sees it -------------------------------------------------------- */

static int below_read(BIO *bio, char *out, int len) {
    struct stream_tls *t = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (len <= 0) return 0;
    ssize_t n = t->under.read(t->under.context, out, (size_t)len, &t->below);
    if (n > 0) return (int)n;
    if (n == 0) BIO_set_retry_read(bio);
    return -1;
}

static int below_write(BIO *bio, const char *bytes, int len) {
    struct stream_tls *t = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (len <= 0) return 0;
    ssize_t n = t->under.write(t->under.context, bytes, (size_t)len, &t->below);
    if (n > 0) return (int)n;
    if (n == 0) BIO_set_retry_write(bio);
    return -1;
}

static long below_control(BIO *bio, int command, long number, void *pointer) {
    (void)bio, (void)number, (void)pointer;
    return command == BIO_CTRL_FLUSH; /* nothing is held back here */
}

static BIO_METHOD *below_method(void) {
    BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "stream");
    CHECK(m != NULL && BIO_meth_set_read(m, below_read) == 1 && BIO_meth_set_write(m, below_write) == 1 &&
          BIO_meth_set_ctrl(m, below_control) == 1);
    return m;
}

/* -- what went wrong --------------------------------------------------------------------------- */

/* The chain of the server was looked at and not liked. */
static int certificate_refused(const struct stream_tls *t, long verdict, struct err *err) {
    const char *name = server_name(t);
    bool system = t->config->redis.tls.ca_file[0] == 0;
    switch (verdict) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
        return err_set(err, STREAM_MISCONFIGURED,
                       "the certificate of %s, or of its issuer, has expired: renew it (or is the clock of this "
                       "machine wrong?)",
                       name);
    case X509_V_ERR_CERT_NOT_YET_VALID:
        return err_set(err, STREAM_MISCONFIGURED,
                       "the certificate of %s is not valid yet: is the clock of this machine right?", name);
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        return err_set(err, STREAM_MISCONFIGURED,
                       "the certificate of Redis is not for %s: set redis.tls.server_name to a name that is in it, or "
                       "get one for this name",
                       name);
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
        return err_set(err, STREAM_MISCONFIGURED,
                       "the certificate of %s comes from an authority that is not trusted: redis.tls.ca_file %s", name,
                       system ? "is not set, and the system does not know it" : "does not hold its certificate");
    default:
        return err_set(err, STREAM_MISCONFIGURED, "the certificate of %s is refused: %s", name,
                       X509_verify_cert_error_string(verdict));
    }
}

/* The server has ended the handshake, or the connection, and says why. */
static int alert_received(const struct stream_tls *t, int alert, struct err *err) {
    bool shown = t->config->redis.tls.cert_file[0] != 0;
    switch (alert) {
    case TLS1_AD_PROTOCOL_VERSION:
        return err_set(err, STREAM_MISCONFIGURED, "Redis takes no TLS version from 1.2 on (tls-protocols)");
    case SSL3_AD_HANDSHAKE_FAILURE:
    case SSL3_AD_BAD_CERTIFICATE:
    case TLS13_AD_CERTIFICATE_REQUIRED:
        if (!shown)
            return err_set(err, STREAM_MISCONFIGURED,
                           "Redis demands a client certificate: set redis.tls.cert_file and redis.tls.key_file");
        break;
    case TLS1_AD_UNKNOWN_CA:
    case SSL3_AD_CERTIFICATE_EXPIRED:
    case SSL3_AD_CERTIFICATE_REVOKED:
    case SSL3_AD_CERTIFICATE_UNKNOWN:
    case SSL3_AD_UNSUPPORTED_CERTIFICATE:
    case TLS1_AD_ACCESS_DENIED:
    case TLS1_AD_INSUFFICIENT_SECURITY: break;
    default: return err_set(err, ECONNRESET, "Redis ended the TLS connection: %s", SSL_alert_desc_string_long(alert));
    }
    return err_set(err, STREAM_MISCONFIGURED, "Redis does not accept %s: %s",
                   shown ? "the certificate in redis.tls.cert_file" : "the TLS connection",
                   SSL_alert_desc_string_long(alert));
}

/* Whether a failed call of OpenSSL only has to be made again; if so, *events says when. */
static bool would_wait(const struct stream_tls *t, int result, short *events) {
    int e = SSL_get_error(t->ssl, result);
    if (e == SSL_ERROR_WANT_READ) *events = POLLIN;
    if (e == SSL_ERROR_WANT_WRITE) *events = POLLOUT;
    return e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE;
}

static int not_tls(const struct stream_tls *t, struct err *err) {
    return err_set(err, STREAM_MISCONFIGURED,
                   "%s:%u answers with something that is not TLS: is it the port of a plain Redis (redis://)?",
                   t->config->redis.host, t->config->redis.port);
}

/* After a call of OpenSSL that failed for good. */
static int explain(struct stream_tls *t, struct err *err) {
    unsigned long code = ERR_peek_error();
    int reason = ERR_GET_REASON(code);
    long verdict = SSL_get_verify_result(t->ssl);
    if (verdict != X509_V_OK) return certificate_refused(t, verdict, err);
    if (t->below.code != 0) {
        *err = t->below;
        return t->established ? -1 : err_prefix(err, "during the TLS handshake");
    }
    if (code == 0) return err_set(err, ECONNRESET, "Redis closed the connection");
    if (ERR_GET_LIB(code) == ERR_LIB_SSL && reason > SSL_AD_REASON_OFFSET)
        return alert_received(t, reason - SSL_AD_REASON_OFFSET, err);
    if (!t->established && (reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_PACKET_LENGTH_TOO_LONG))
        return not_tls(t, err);
    if (reason == SSL_R_UNSUPPORTED_PROTOCOL)
        return err_set(err, STREAM_MISCONFIGURED, "Redis speaks no TLS version from 1.2 on (tls-protocols)");
    return err_set(err, ECONNRESET, "TLS: %s", last_reason());
}

/* -- the port ---------------------------------------------------------------------------------- */

static void tls_close(void *context) {
    struct stream_tls *t = context;
    if (t->ssl != NULL) SSL_free(t->ssl);
    t->ssl = NULL;
    t->under.close(t->under.context);
}

static int tls_start(void *context, struct err *err) {
    struct stream_tls *t = context;
    tls_close(t);
    return files_renew(t, err) != 0 ? -1 : t->under.connect_start(t->under.context, err);
}

/* TLS begins on a connection that is there. */
static int handshake_prepare(struct stream_tls *t, struct err *err) {
    const char *name = server_name(t);
    struct in6_addr address;
    bool ip = inet_pton(AF_INET, name, &address) == 1 || inet_pton(AF_INET6, name, &address) == 1;
    BIO *bio = BIO_new(t->method);
    SSL *ssl = SSL_new(t->files);
    if (bio == NULL || ssl == NULL) {
        BIO_free(bio);
        SSL_free(ssl);
        return err_set(err, ENOMEM, "no memory for TLS");
    }
    BIO_set_data(bio, t);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio);
    SSL_set_connect_state(ssl);
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    t->ssl = ssl;
    t->fresh = t->established = t->dry = false;
    t->read_waits = POLLIN;
    t->write_waits = POLLOUT;
    bool named = ip ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1
                    : SSL_set1_host(ssl, name) == 1 && SSL_set_tlsext_host_name(ssl, name) == 1;
    return named ? 0 : err_set(err, STREAM_MISCONFIGURED, "%s is no name that a certificate could be for", name);
}

static int tls_finish(void *context, struct err *err) {
    struct stream_tls *t = context;
    if (t->ssl == NULL) {
        int r = t->under.connect_finish(t->under.context, err);
        if (r <= 0) return r;
        if (handshake_prepare(t, err) != 0) return -1;
    }
    ERR_clear_error();
    t->below.code = 0;
    int r = SSL_do_handshake(t->ssl);
    if (r == 1) {
        t->established = true;
        t->read_waits = POLLIN;
        return 1;
    }
    return would_wait(t, r, &t->read_waits) ? 0 : explain(t, err);
}

static ssize_t tls_read(void *context, void *out, size_t len, struct err *err) {
    struct stream_tls *t = context;
    size_t n = 0;
    ERR_clear_error();
    t->below.code = 0;
    int r = SSL_read_ex(t->ssl, out, len, &n);
    t->dry = r != 1;
    t->read_waits = POLLIN;
    if (r == 1) return (ssize_t)n;
    return would_wait(t, r, &t->read_waits) ? 0 : explain(t, err);
}

/* A server that refuses our certificate says so and closes, and we may learn first that it has closed. */
static int explain_write(struct stream_tls *t, struct err *err) {
    char answers[512];
    struct err alert;
    size_t n;
    explain(t, err);
    if (t->below.code == 0) return -1;
    do {
        ERR_clear_error();
        t->below.code = 0;
    } while (SSL_read_ex(t->ssl, answers, sizeof answers, &n) == 1);
    if (ERR_peek_error() != 0 && explain(t, &alert) != 0 && alert.code == STREAM_MISCONFIGURED) *err = alert;
    return -1;
}

static ssize_t tls_write(void *context, const void *bytes, size_t len, struct err *err) {
    struct stream_tls *t = context;
    size_t taken = 0, n = 0;
    t->write_waits = POLLOUT;
    while (taken < len) { /* a call takes one record of TLS, at most 16 KiB */
        ERR_clear_error();
        t->below.code = 0;
        int r = SSL_write_ex(t->ssl, (const char *)bytes + taken, len - taken, &n);
        if (r == 1)
            taken += n;
        else if (would_wait(t, r, &t->write_waits))
            break;
        else
            return explain_write(t, err);
    }
    return (ssize_t)taken;
}

static int tls_fd(void *context) {
    const struct stream_tls *t = context;
    return t->under.fd(t->under.context);
}

static short tls_events(void *context, bool writing) {
    const struct stream_tls *t = context;
    if (t->ssl == NULL) return t->under.events(t->under.context, writing);
    if (!t->established) return t->read_waits;
    if (!t->dry && SSL_has_pending(t->ssl)) return 0;
    return writing ? (short)(t->read_waits | t->write_waits) : t->read_waits;
}

void stream_tls_init(struct stream_tls *t, const struct config *config, const struct stream_port *under) {
    struct err ignored = {0}; /* connect_start reads them again and says so */
    *t = (struct stream_tls){.config = config, .under = *under, .method = below_method()};
    files_renew(t, &ignored);
}

void stream_tls_free(struct stream_tls *t) {
    tls_close(t);
    SSL_CTX_free(t->files);
    BIO_meth_free(t->method);
    t->files = NULL;
    t->method = NULL;
}

struct stream_port stream_tls_port(struct stream_tls *t) {
    return (struct stream_port){.connect_start = tls_start,
                                .connect_finish = tls_finish,
                                .read = tls_read,
                                .write = tls_write,
                                .close = tls_close,
                                .fd = tls_fd,
                                .events = tls_events,
                                .context = t};
}

/* -- whatever the scheme ----------------------------------------------------------------------- */

struct stream_port stream_open(struct stream *s, const struct config *config) {
    stream_socket_init(&s->socket, config);
    struct stream_port plain = stream_socket_port(&s->socket);
    s->tls = (struct stream_tls){0};
    if (config->redis.scheme != REDIS_TLS) return plain;
    stream_tls_init(&s->tls, config, &plain);
    return stream_tls_port(&s->tls);
}

void stream_free(struct stream *s) {
    struct stream_port plain = stream_socket_port(&s->socket);
    if (s->tls.method != NULL)
        stream_tls_free(&s->tls);
    else
        plain.close(plain.context);
}

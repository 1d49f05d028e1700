/* Stream TLS: the stream port over TLS 1.2 or newer, by OpenSSL, layered on another stream port (the plain socket).
 *
 * The server's certificate chain and name are always verified. The files of redis.tls are read by stream_tls_init, and
 * again at every connect, so that a renewed certificate is taken up; when they cannot be read then, what was read
 * before stays in force. */
#ifndef MILLRACE_SINK_STREAM_TLS_H
#define MILLRACE_SINK_STREAM_TLS_H

#include <stdbool.h>

#include "base/config.h"
#include "base/err.h"
#include "sink/stream.h"

struct ssl_ctx_st;
struct ssl_st;
struct bio_method_st;

struct stream_tls {
    const struct config *config;
    struct stream_port under;
    struct bio_method_st *method;  /* how OpenSSL reaches the port below */
    struct ssl_ctx_st *files;      /* made from redis.tls; NULL: never good so far */
    bool fresh;                    /* the files were read just now, for the next connection */
    bool warned;                   /* that older files stay in force: said once per process */
    struct ssl_st *ssl;            /* NULL: no TLS yet on this connection */
    bool established;              /* the handshake is through */
    bool dry;                      /* the last read found nothing whole, so only new bytes can help */
    short read_waits, write_waits; /* poll events that the next read (or the handshake), or write, waits for */
    struct err below;              /* of the port below, during the last call; code 0: none */
};

/* stream_tls_init prepares TLS over `under` (copied) with config->redis.tls, and reads its files; what is wrong with
 * them is reported by connect_start. Nothing is opened. config must outlive t. */
void stream_tls_init(struct stream_tls *t, const struct config *config, const struct stream_port *under);

/* stream_tls_free closes and gives back everything. */
void stream_tls_free(struct stream_tls *t);

/* stream_tls_check: whether the files of redis.tls are what they should be. 0, or -1 with err (STREAM_MISCONFIGURED).
 */
int stream_tls_check(const struct config *config, struct err *err);

/* stream_tls_port: the port over t. connect_finish includes the handshake. Errors with the code STREAM_MISCONFIGURED:
 * files that are no use, a certificate of the server that is not accepted, a server that does not accept ours, or that
 * does not speak TLS. close sends no farewell: what was not sent when the connection is dropped must not leave. */
struct stream_port stream_tls_port(struct stream_tls *t);

/* What a configured Redis needs, whatever its scheme. */
struct stream {
    struct stream_socket socket;
    struct stream_tls tls;
};

/* stream_open prepares the port that config->redis.scheme asks for: the plain socket, or TLS over it. Nothing is
 * connected. Both must outlive the port. stream_free closes and gives back. */
struct stream_port stream_open(struct stream *s, const struct config *config);
void stream_free(struct stream *s);

#endif

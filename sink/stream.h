/* Stream: the port through which the sink reaches Redis as bytes. The real one is a non-blocking TCP or unix socket;
 * TLS (sink/stream_tls.h) is layered on it behind the same port, and a simulator brings its own. */
#ifndef MILLRACE_SINK_STREAM_H
#define MILLRACE_SINK_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/config.h"
#include "base/err.h"

/* An err.code of the port: the configuration has to change (an address, a file, a certificate, here or on the server);
 * a new connection alone will not help. Every other code is a connection that failed. */
enum { STREAM_MISCONFIGURED = -1 };

/* Nothing here blocks, except that connect_start may resolve a name. One owner; calls in the order connect_start,
 * connect_finish until it is not 0, then read and write in any order, close. close at any time, also twice. */
struct stream_port {
    /* Begins a connection. 0: under way; -1 with err: failed. */
    int (*connect_start)(void *context, struct err *err);
    /* 1: connected; 0: not yet, ask again when events() come or after a few milliseconds; -1 with err: failed. */
    int (*connect_finish)(void *context, struct err *err);
    /* Bytes read in [1, len]; 0: nothing there now; -1 with err: the connection is gone (err.code ECONNRESET when the
     * other side ended it). len > 0. */
    ssize_t (*read)(void *context, void *out, size_t len, struct err *err);
    /* Bytes taken in [1, len]; 0: no room now; -1 as for read. len > 0. */
    ssize_t (*write)(void *context, const void *bytes, size_t len, struct err *err);
    void (*close)(void *context);
    /* The descriptor to wait on; -1 none. It may change from one connection attempt to the next. */
    int (*fd)(void *context);
    /* What to wait for on fd(): POLLIN, POLLOUT or both; 0: nothing, there is something to read without waiting. Which
     * direction a read or a write needs is the port's business: TLS may have to read before it can write, and the other
     * way round. writing: the owner has something to write. */
    short (*events)(void *context, bool writing);
    void *context;
};

struct addrinfo;

struct stream_socket {
    uint32_t scheme; /* enum config_redis_scheme */
    char host[TOPIC_BYTES];
    char path[108];
    uint32_t port;
    uint32_t response_timeout_ms;
    int fd;
    bool connected;
    struct addrinfo *addresses; /* of the attempt under way */
    struct addrinfo *next;      /* to try when the current one fails */
    struct err last;            /* why the address before it failed */
};

/* stream_socket_init takes the target from the configuration; nothing is opened. s must outlive the port. */
void stream_socket_init(struct stream_socket *s, const struct config *config);

/* stream_socket_port: the port over s. Names are resolved at every connect (getaddrinfo, which may block for as long as
 * the resolver is configured to), so a record that moved is followed; all its addresses are tried in turn. */
struct stream_port stream_socket_port(struct stream_socket *s);

#endif

#include "sink/stream.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fault.h"

void stream_socket_init(struct stream_socket *s, const struct config *config) {
    *s = (struct stream_socket){.scheme = config->redis.scheme,
                                .port = config->redis.port,
                                .response_timeout_ms = config->redis.response_timeout_ms,
                                .fd = -1};
    memcpy(s->host, config->redis.host, sizeof s->host);
    memcpy(s->path, config->redis.path, sizeof s->path);
}

static void fd_close(struct stream_socket *s) {
    if (s->fd >= 0) close(s->fd);
    s->fd = -1;
}

static void socket_close(void *context) {
    struct stream_socket *s = context;
    fd_close(s);
    if (s->addresses != NULL) freeaddrinfo(s->addresses);
    s->addresses = s->next = NULL;
}

/* Small writes leave at once; a peer that vanished without a word is noticed even while nothing is being sent. The
 * sink's own response timeout is what counts: these only help it, so a refusal is not an error. */
static void tcp_tune(const struct stream_socket *s) {
    int one = 1, idle_s = 5, interval_s = 2, probes = 3;
    unsigned user_timeout_ms = s->response_timeout_ms;
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(s->fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    setsockopt(s->fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    setsockopt(s->fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
    setsockopt(s->fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
    setsockopt(s->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout_ms, sizeof user_timeout_ms);
}

static int begin(struct stream_socket *s, int family, const struct sockaddr *address, socklen_t len, struct err *err) {
    fd_close(s);
    s->connected = false;
    s->fd = FAULT_FAILS("sink:socket") ? -1 : socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd < 0) return err_set(err, errno, "socket: %s", strerror(errno));
    if (family != AF_UNIX) tcp_tune(s);
    int connecting = FAULT_FAILS("sink:connect") ? -1 : connect(s->fd, address, len);
    if (connecting == 0 || errno == EINPROGRESS) return 0;
    int code = errno;
    fd_close(s);
    return err_set(err, code, "%s", strerror(code));
}

/* Starts with the next address of the name; the error of the last one stands for all. */
static int begin_next(struct stream_socket *s, struct err *err) {
    while (s->next != NULL) {
        struct addrinfo *a = s->next;
        s->next = a->ai_next;
        if (begin(s, a->ai_family, a->ai_addr, a->ai_addrlen, &s->last) == 0) return 0;
    }
    return err_set(err, s->last.code, "cannot connect to %s:%u: %s", s->host, s->port, s->last.text);
}

static int start_unix(struct stream_socket *s, struct err *err) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    static_assert(sizeof a.sun_path == sizeof s->path, "a path of the configuration fits a socket address");
    memcpy(a.sun_path, s->path, sizeof a.sun_path);
    if (begin(s, AF_UNIX, (const struct sockaddr *)(const void *)&a, sizeof a, err) == 0) return 0;
    return err_prefix(err, "cannot connect to %s", s->path);
}

static int socket_start(void *context, struct err *err) {
    struct stream_socket *s = context;
    socket_close(s);
    if (s->scheme == REDIS_UNIX) return start_unix(s, err);
    char service[12];
    snprintf(service, sizeof service, "%u", s->port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    int r = getaddrinfo(s->host, service, &hints, &s->addresses);
    if (r == EAI_NONAME) { /* a machine whose only interface is the loopback has no `configured` address */
        hints.ai_flags = 0;
        r = getaddrinfo(s->host, service, &hints, &s->addresses);
    }
    if (r != 0) {
        s->addresses = NULL;
        return err_set(err, EHOSTUNREACH, "cannot resolve %s: %s", s->host, gai_strerror(r));
    }
    s->next = s->addresses;
    return begin_next(s, err);
}

static int socket_finish(void *context, struct err *err) {
    struct stream_socket *s = context;
    struct pollfd p = {.fd = s->fd, .events = POLLOUT};
    if (poll(&p, 1, 0) == 0) return 0;
    int code = 0;
    socklen_t len = sizeof code;
    if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &code, &len) != 0) code = errno;
    s->connected = code == 0;
    if (s->connected) return 1;
    err_set(&s->last, code, "%s", strerror(code));
    if (s->scheme == REDIS_UNIX) return err_set(err, code, "cannot connect to %s: %s", s->path, strerror(code));
    return begin_next(s, err);
}

/* 0 when the call would have blocked, else -1. */
static int io_failed(const char *what, struct err *err) {
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return 0;
    int code = errno == EPIPE ? ECONNRESET : errno;
    return err_set(err, code, "%s: %s", what, strerror(errno));
}

static ssize_t socket_read(void *context, void *out, size_t len, struct err *err) {
    struct stream_socket *s = context;
    ssize_t n = FAULT_FAILS("sink:read") ? -1 : recv(s->fd, out, len, 0);
    if (n > 0) return n;
    if (n == 0) return err_set(err, ECONNRESET, "Redis closed the connection");
    return io_failed("reading from Redis", err);
}

static ssize_t socket_write(void *context, const void *bytes, size_t len, struct err *err) {
    struct stream_socket *s = context;
    ssize_t n = FAULT_FAILS("sink:write") ? -1 : send(s->fd, bytes, len, MSG_NOSIGNAL);
    if (n > 0) return n;
    return n == 0 ? 0 : io_failed("writing to Redis", err);
}

static int socket_fd(void *context) { return ((const struct stream_socket *)context)->fd; }

static short socket_events(void *context, bool writing) {
    if (!((const struct stream_socket *)context)->connected) return POLLOUT;
    return writing ? POLLIN | POLLOUT : POLLIN;
}

struct stream_port stream_socket_port(struct stream_socket *s) {
    return (struct stream_port){.connect_start = socket_start,
                                .connect_finish = socket_finish,
                                .read = socket_read,
                                .write = socket_write,
                                .close = socket_close,
                                .fd = socket_fd,
                                .events = socket_events,
                                .context = s};
}

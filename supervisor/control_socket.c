#include "supervisor/control_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/json_text.h"
#include "base/limits.h"

/* -- replies ----------------------------------------------------------------------------------- */

enum { END_BYTES = 3 }; /* `}`, the end of the line, and a NUL */

static void put(struct control_reply *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(struct control_reply *r, const char *format, ...) {
    va_list args;
    size_t room = sizeof r->text - END_BYTES - r->len;
    va_start(args, format);
    int n = vsnprintf(r->text + r->len, room, format, args);
    va_end(args);
    if (n >= 0 && (size_t)n < room) r->len += (size_t)n; /* else as if nothing had been put */
    r->text[r->len] = 0;
}

void control_reply_begin(struct control_reply *r, int ok) {
    r->len = 0;
    put(r, "{\"ok\":%s", ok ? "true" : "false");
}

void control_reply_text(struct control_reply *r, const char *name, const char *value) {
    char quoted[CONTROL_REPLY_BYTES] = "";
    FILE *f = fmemopen(quoted, sizeof quoted, "w");
    if (f == NULL) return;
    json_text_put(value, strlen(value), f);
    bool whole = ferror(f) == 0;
    if (fclose(f) == 0 && whole) put(r, ",\"%s\":%s", name, quoted);
}

void control_reply_number(struct control_reply *r, const char *name, uint64_t value) {
    put(r, ",\"%s\":%llu", name, (unsigned long long)value);
}

void control_reply_end(struct control_reply *r) {
    memcpy(r->text + r->len, "}\n", END_BYTES);
    r->len += END_BYTES - 1;
}

/* -- the socket -------------------------------------------------------------------------------- */

enum { TAG_LISTEN = CONTROL_CLIENTS_MAX };

static int ready_watch(struct control_socket *c, int fd, uint32_t tag, uint32_t events) {
    struct epoll_event e = {.events = events, .data.u32 = tag};
    return epoll_ctl(c->ready_fd, EPOLL_CTL_ADD, fd, &e);
}

/* The path of a unix socket is short, that of a folder may be long: the folder goes by its descriptor. */
static int bind_in(int listen_fd, const char *run_dir, const char *name, struct err *err) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    char file[NAME_BYTES + 8];
    int folder = open(run_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) return err_set(err, EX_CANTCREAT, "%s: %s", run_dir, strerror(errno));
    snprintf(file, sizeof file, "%s.sock", name);
    snprintf(at.sun_path, sizeof at.sun_path, "/proc/self/fd/%d/%s", folder, file);
    unlinkat(folder, file, 0);
    mode_t before = umask(0117); /* 0660 from the first moment on */
    int r = bind(listen_fd, (const struct sockaddr *)&at, sizeof at);
    umask(before);
    if (r != 0) err_set(err, EX_CANTCREAT, "%s/%s: %s", run_dir, file, strerror(errno));
    close(folder);
    return r;
}

int control_socket_open(struct control_socket *c, const char *run_dir, const char *name, control_answer *answer,
                        void *context, struct err *err) {
    *c = (struct control_socket){.answer = answer, .context = context};
    for (int i = 0; i < CONTROL_CLIENTS_MAX; i++) c->client[i].fd = -1;
    c->listen_fd =
        FAULT_FAILS("supervisor:control_socket") ? -1 : socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    c->ready_fd = epoll_create1(EPOLL_CLOEXEC);
    if (c->listen_fd < 0 || c->ready_fd < 0) return err_set(err, EX_OSERR, "control socket: %s", strerror(errno));
    if (bind_in(c->listen_fd, run_dir, name, err) != 0) return -1;
    if (listen(c->listen_fd, 2 * CONTROL_CLIENTS_MAX) == 0 && ready_watch(c, c->listen_fd, TAG_LISTEN, EPOLLIN) == 0)
        return 0;
    return err_set(err, EX_OSERR, "control socket: %s", strerror(errno));
}

static void drop(struct control_client *k) {
    if (k->fd >= 0) close(k->fd); /* and so it is no longer watched */
    k->fd = -1;
}

void control_socket_close(struct control_socket *c, const char *run_dir, const char *name) {
    char path[PATH_BYTES + NAME_BYTES + 8];
    for (int i = 0; i < CONTROL_CLIENTS_MAX; i++) drop(&c->client[i]);
    snprintf(path, sizeof path, "%s/%s.sock", run_dir, name);
    unlink(path);
    close(c->listen_fd);
    close(c->ready_fd);
}

/* -- clients ----------------------------------------------------------------------------------- */

static void refuse(struct control_reply *r, const char *message) {
    control_reply_begin(r, false);
    control_reply_text(r, "message", message);
    control_reply_end(r);
}

static void client_accept(struct control_socket *c, uint64_t now_ns) {
    struct ucred peer = {.uid = (uid_t)-1};
    socklen_t peer_bytes = sizeof peer;
    int fd =
        FAULT_FAILS("supervisor:control_accept") ? -1 : accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) return;
    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &peer_bytes);
    for (uint32_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        struct control_client *k = &c->client[i];
        if (k->fd >= 0) continue;
        k->fd = fd;
        k->uid = peer.uid;
        k->due_ns = now_ns + CONTROL_MS * NS_PER_MS;
        k->in_bytes = k->sent = k->reply.len = 0;
        if (ready_watch(c, fd, i, EPOLLIN) != 0) drop(k);
        return;
    }
    static const char busy[] = "{\"ok\":false,\"message\":\"too many requests at once\"}\n";
    if (send(fd, busy, sizeof busy - 1, MSG_NOSIGNAL) < 0) {
        /* It will see the end of the connection. */
    }
    close(fd);
}

/* A line ends with its newline, or where the client stops sending. */
static bool line_complete(struct control_client *k, bool ended) {
    char *end = memchr(k->in, '\n', k->in_bytes);
    if (end == NULL && !ended) return false;
    size_t n = end != NULL ? (size_t)(end - k->in) : k->in_bytes;
    k->in[n] = 0;
    return true;
}

static void client_read(struct control_socket *c, struct control_client *k) {
    size_t room = sizeof k->in - 1 - k->in_bytes;
    ssize_t n = FAULT_FAILS("supervisor:control_read") ? -1 : recv(k->fd, k->in + k->in_bytes, room, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n > 0) k->in_bytes += (size_t)n;
    if (n < 0 || k->in_bytes == 0) {
        drop(k);
        return;
    }
    if (line_complete(k, n == 0))
        c->answer(c->context, k->in, k->uid, &k->reply);
    else if (k->in_bytes == sizeof k->in - 1)
        refuse(&k->reply, "the request is too long");
}

static void client_write(struct control_socket *c, struct control_client *k) {
    ssize_t n = FAULT_FAILS("supervisor:control_answer")
                    ? -1
                    : send(k->fd, k->reply.text + k->sent, k->reply.len - k->sent, MSG_NOSIGNAL);
    if (n > 0) k->sent += (size_t)n;
    if (k->sent == k->reply.len || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        drop(k);
        return;
    }
    struct epoll_event e = {.events = EPOLLOUT, .data.u32 = (uint32_t)(k - c->client)};
    if (epoll_ctl(c->ready_fd, EPOLL_CTL_MOD, k->fd, &e) != 0) drop(k);
}

void control_socket_serve(struct control_socket *c, uint64_t now_ns) {
    struct epoll_event events[CONTROL_CLIENTS_MAX + 1];
    int n = epoll_wait(c->ready_fd, events, CONTROL_CLIENTS_MAX + 1, 0);
    for (int i = 0; i < n; i++) {
        if (events[i].data.u32 == TAG_LISTEN) {
            client_accept(c, now_ns);
            continue;
        }
        struct control_client *k = &c->client[events[i].data.u32];
        if (k->fd >= 0 && k->reply.len == 0) client_read(c, k);
        if (k->fd >= 0 && k->reply.len > 0) client_write(c, k);
    }
    for (int i = 0; i < CONTROL_CLIENTS_MAX; i++)
        if (c->client[i].fd >= 0 && now_ns >= c->client[i].due_ns) drop(&c->client[i]);
}

#include "supervisor/notify.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

/* -- start ------------------------------------------------------------------------------------- */

/* False when the name is none that a unix socket can have. */
static bool address_set(struct notify *n, const char *name) {
    size_t len = strlen(name);
    bool abstract = name[0] == '@';
    if ((!abstract && name[0] != '/') || len < 2 || len >= sizeof n->to.sun_path) return false;
    n->to.sun_family = AF_UNIX;
    memcpy(n->to.sun_path, name, len);
    if (abstract) n->to.sun_path[0] = 0;
    n->to_bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + (abstract ? 0 : 1));
    return true;
}

/* The watchdog is another process's when its number is given and is not ours. */
static uint64_t watchdog_ns(void) {
    const char *interval = getenv("WATCHDOG_USEC"), *owner = getenv("WATCHDOG_PID");
    char *end;
    if (interval == NULL || interval[0] < '0' || interval[0] > '9') return 0;
    if (owner != NULL && strtoull(owner, NULL, 10) != (unsigned long long)getpid()) return 0;
    errno = 0;
    unsigned long long us = strtoull(interval, &end, 10);
    return errno != 0 || *end != 0 || us > UINT64_MAX / 1000 ? 0 : us * 1000;
}

void notify_init(struct notify *n) {
    *n = (struct notify){.fd = -1};
    const char *name = getenv("NOTIFY_SOCKET");
    if (name == NULL || name[0] == 0) return;
    if (!address_set(n, name))
        log_warn("supervisor.notify_failed", "NOTIFY_SOCKET is neither a path nor an abstract name: %s", name);
    else if ((n->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) < 0)
        log_warn("supervisor.notify_failed", "socket: %s", strerror(errno));
    else
        n->watchdog_ns = watchdog_ns();
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
}

/* -- messages ---------------------------------------------------------------------------------- */

static bool message_send(struct notify *n, const char *text) {
    size_t len = strlen(text);
    bool sent = sendto(n->fd, text, len, MSG_NOSIGNAL, (const struct sockaddr *)&n->to, n->to_bytes) == (ssize_t)len;
    if (!sent && !n->failing)
        log_warn("supervisor.notify_failed", "the service manager does not take messages: %s", strerror(errno));
    n->failing = !sent;
    return sent;
}

/* One datagram with all that is owed: the state first, for a reader that stops at it. */
static void owed_send(struct notify *n) {
    char text[NOTIFY_STATUS_BYTES + 128] = "";
    size_t at = 0;
    if (n->fd < 0 || (!n->state_owed && !n->status_owed)) return;
    if (n->state_owed) {
        switch (n->state) {
        case NOTIFY_STARTING: break;
        case NOTIFY_READY: at = (size_t)snprintf(text, sizeof text, "READY=1\n"); break;
        case NOTIFY_RELOADING:
            at = (size_t)snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%llu\n",
                                  (unsigned long long)n->reloading_us);
            break;
        case NOTIFY_STOPPING:
            at = (size_t)snprintf(text, sizeof text, "STOPPING=1\nEXTEND_TIMEOUT_USEC=%llu\n",
                                  (unsigned long long)n->stopping_us);
            break;
        }
    }
    if (n->status_owed) snprintf(text + at, sizeof text - at, "STATUS=%s\n", n->status);
    if (message_send(n, text)) n->state_owed = n->status_owed = false;
}

void notify_ready(struct notify *n) {
    if (n->state == NOTIFY_READY || n->state == NOTIFY_STOPPING) return;
    n->state = NOTIFY_READY;
    n->state_owed = true;
    owed_send(n);
}

void notify_reloading(struct notify *n, uint64_t now_ns) {
    if (n->state == NOTIFY_RELOADING || n->state == NOTIFY_STOPPING) return;
    n->state = NOTIFY_RELOADING;
    n->reloading_us = now_ns / 1000;
    n->state_owed = true;
    owed_send(n);
}

void notify_stopping(struct notify *n, uint32_t within_ms) {
    if (n->state == NOTIFY_STOPPING) return;
    n->state = NOTIFY_STOPPING;
    n->stopping_us = within_ms * 1000ULL;
    n->state_owed = true;
    owed_send(n);
}

void notify_status(struct notify *n, const char *text) {
    char line[NOTIFY_STATUS_BYTES];
    snprintf(line, sizeof line, "%s", text);
    for (char *p = line; *p != 0; p++)
        if (*p < 0x20 || *p > 0x7e) *p = '?';
    if (strcmp(line, n->status) == 0) return;
    memcpy(n->status, line, sizeof line);
    n->status_owed = true;
    owed_send(n);
}

void notify_alive(struct notify *n, uint64_t now_ns, bool healthy) {
    owed_send(n);
    if (n->fd < 0 || n->watchdog_ns == 0 || !healthy) return;
    if (n->fed_ns != 0 && now_ns - n->fed_ns < n->watchdog_ns / 3) return;
    if (message_send(n, "WATCHDOG=1\n")) n->fed_ns = now_ns;
}

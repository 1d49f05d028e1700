/* Notify: what the service manager is told, over the datagram socket that $NOTIFY_SOCKET names (sd_notify(3), spoken
 * by hand).
 *
 * Nothing here ever blocks. What could not be sent because the socket is full or its other end is away stays owed, and
 * the next notify_alive tries again. Without $NOTIFY_SOCKET every call does nothing. One thread. */
#ifndef MILLRACE_SUPERVISOR_NOTIFY_H
#define MILLRACE_SUPERVISOR_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { NOTIFY_STATUS_BYTES = 512 };

struct notify {
    int fd; /* -1: nobody listens */
    struct sockaddr_un to;
    socklen_t to_bytes;
    uint64_t watchdog_ns, fed_ns; /* 0: no watchdog; when it was fed last */
    enum { NOTIFY_STARTING, NOTIFY_READY, NOTIFY_RELOADING, NOTIFY_STOPPING } state;
    uint64_t reloading_us, stopping_us; /* CLOCK_MONOTONIC of the reload; how long the stop may take */
    bool state_owed, status_owed;
    bool failing; /* the last message did not get out: one log line tells of it */
    char status[NOTIFY_STATUS_BYTES];
};

/* notify_init reads $NOTIFY_SOCKET (a path, or @ and an abstract name), $WATCHDOG_USEC and $WATCHDOG_PID, and takes
 * them out of the environment: they are this process's alone. What it cannot use is logged and left alone. */
void notify_init(struct notify *n);

/* What the service does now. Each is sent once, however often it is called in a row; now_ns is CLOCK_MONOTONIC.
 * Stopping is final. within_ms: how long the stop may take at most, so that the manager's own limit does not cut a long
 * drain short. */
void notify_ready(struct notify *n);
void notify_reloading(struct notify *n, uint64_t now_ns);
void notify_stopping(struct notify *n, uint32_t within_ms);

/* notify_status tells the line that a person sees in `systemctl status`, when it is another one. Truncates; bytes that
 * are not printable ASCII become `?`, for a line feed would begin another message to the manager. */
void notify_status(struct notify *n, const char *text);

/* notify_alive: call on every tick. Sends what is owed, and where the manager has a watchdog feeds it every third of
 * its interval, but only when healthy. */
void notify_alive(struct notify *n, uint64_t now_ns, bool healthy);

#endif

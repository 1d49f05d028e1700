#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/utf8.h"

/* How a line gets out without ever waiting. */
enum way {
    WAY_POLL,  /* ask first: standard error could not be reopened (it may belong to another user) */
    WAY_WRITE, /* a descriptor of our own that does not block, or a regular file, which never does */
    WAY_SEND,  /* a socket: the flag goes with each call, so the other holders of the socket see no change */
};

static struct {
    pthread_mutex_t lock;
    int fd;
    enum way way;
    bool own;  /* fd was opened by us */
    bool torn; /* the last line was cut by the reader's pace: begin the next on a line of its own */
    bool json;
    enum log_level level;
    int lane;
    const char *role;
    char instance[2 * NAME_BYTES];
    _Atomic uint64_t dropped;
} logger = {.lock = PTHREAD_MUTEX_INITIALIZER,
            .fd = STDERR_FILENO,
            .way = WAY_POLL,
            .level = LOG_INFO,
            .lane = -1,
            .role = "millrace"};

/* A line under construction. What does not fit is cut; room for its end is kept by `limit`. */
struct line {
    size_t len, limit;
    char text[PIPE_BUF];
};

static void put_byte(struct line *l, char c) {
    if (l->len < l->limit) l->text[l->len++] = c;
}

__attribute__((format(printf, 2, 3))) static void put(struct line *l, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(l->text + l->len, l->limit - l->len + 1, format, args);
    va_end(args);
    if (n > 0) l->len += (size_t)n < l->limit - l->len ? (size_t)n : l->limit - l->len;
}

/* Text of others (Redis, Kafka, the system) must neither end the line nor steer a terminal: control characters, C1
 * ones included, and bytes that are not UTF-8 appear as \xNN. */
static void put_escaped(struct line *l, const char *text) {
    const uint8_t *p = (const uint8_t *)text;
    size_t left = strlen(text);
    while (left > 0) {
        size_t n = utf8_bytes(p, left);
        bool control = p[0] < 0x20 || p[0] == 0x7f || (n == 2 && p[0] == 0xc2 && p[1] < 0xa0);
        if (l->limit - l->len < 5) return; /* whole characters only; the longest is \\xNN in JSON */
        if (n == 0 || control) {
            put(l, logger.json ? "\\\\x%02x" : "\\x%02x", p[0]);
            n = 1;
        } else if (logger.json && (p[0] == '"' || p[0] == '\\')) {
            put(l, "\\%c", p[0]);
        } else {
            for (size_t i = 0; i < n; i++) put_byte(l, (char)p[i]);
        }
        p += n;
        left -= n;
    }
}

static void put_time(struct line *l) {
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    put(l, "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ", utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday, utc.tm_hour,
        utc.tm_min, utc.tm_sec, now.tv_nsec / 1000000);
}

static void put_text_head(struct line *l, enum log_level level, const char *event, const struct log_at *at,
                          uint32_t held) {
    static const char *const names[] = {"ERROR", "WARN ", "INFO ", "DEBUG"};
    put_time(l);
    put(l, " %s ", names[level]);
    if (logger.instance[0] != 0) {
        put_escaped(l, logger.instance);
        put_byte(l, ' ');
    }
    put(l, "%s", logger.role);
    if (logger.lane >= 0) put(l, "[%d]", logger.lane);
    put(l, " %s", event);
    if (at != NULL && at->topic != NULL) {
        put(l, " topic=");
        put_escaped(l, at->topic);
        put(l, " partition=%d offset=%lld", at->partition, (long long)at->offset);
    }
    if (held > 0) put(l, " held=%u", held);
    put_byte(l, ' ');
}

static void put_json_head(struct line *l, enum log_level level, const char *event, const struct log_at *at,
                          uint32_t held) {
    static const char *const names[] = {"error", "warn", "info", "debug"};
    put(l, "{\"time\":\"");
    put_time(l);
    put(l, "\",\"level\":\"%s\",\"instance\":\"", names[level]);
    put_escaped(l, logger.instance);
    put(l, "\",\"role\":\"%s\"", logger.role);
    if (logger.lane >= 0) put(l, ",\"lane\":%d", logger.lane);
    put(l, ",\"event\":\"%s\"", event);
    if (at != NULL && at->topic != NULL) {
        put(l, ",\"topic\":\"");
        put_escaped(l, at->topic);
        put(l, "\",\"partition\":%d,\"offset\":%lld", at->partition, (long long)at->offset);
    }
    if (held > 0) put(l, ",\"held\":%u", held);
    put(l, ",\"message\":\"");
}

static ssize_t write_once(const char *text, size_t len) {
    if (logger.way == WAY_SEND) return send(logger.fd, text, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (logger.way == WAY_POLL) { /* room in a pipe is room for PIPE_BUF; only a race with another writer could wait */
        struct pollfd p = {.fd = logger.fd, .events = POLLOUT};
        if (poll(&p, 1, 0) != 1 || (p.revents & POLLOUT) == 0) return -1;
    }
    return write(logger.fd, text, len);
}

static void emit(const struct line *l) {
    ssize_t n = -1;
    if (!logger.torn || write_once("\n", 1) == 1) {
        logger.torn = false;
        n = write_once(l->text, l->len);
    }
    if (n == (ssize_t)l->len) return;
    logger.torn = logger.torn || n > 0;
    atomic_fetch_add_explicit(&logger.dropped, 1, memory_order_relaxed);
}

/* True when the call site may speak; *held gets how many of its lines were kept back before. */
static bool site_may_speak(struct log_site *site, uint32_t *held) {
    uint64_t now = clock_ns(&clock_real);
    *held = 0;
    if (site->window_start_ns == 0 || now - site->window_start_ns >= LOG_WINDOW_MS * NS_PER_MS) {
        *held = site->held;
        *site = (struct log_site){.window_start_ns = now};
    }
    if (++site->count <= LOG_BURST) return true;
    site->held++;
    return false;
}

void log_event(struct log_site *site, enum log_level level, const char *event, const struct log_at *at,
               const char *format, ...) {
    if (level > logger.level) return;
    int saved = errno; /* %m, and callers that look at errno afterwards */
    char message[PIPE_BUF];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);

    pthread_mutex_lock(&logger.lock);
    uint32_t held;
    if (site_may_speak(site, &held)) {
        struct line l;
        l.len = 0;
        l.limit = sizeof l.text - 4; /* "}\n, and the NUL that vsnprintf wants */
        (logger.json ? put_json_head : put_text_head)(&l, level, event, at, held);
        put_escaped(&l, message);
        l.limit = sizeof l.text - 1;
        put(&l, logger.json ? "\"}\n" : "\n");
        emit(&l);
    }
    pthread_mutex_unlock(&logger.lock);
    errno = saved;
}

/* Non-blocking is a property of the open file, which the caller and others share: only a file opened anew may be
 * changed. A regular file keeps its descriptor, for its position is shared with whoever else writes there. */
static void open_output(void) {
    struct stat st;
    if (logger.own) close(logger.fd);
    logger.own = false;
    logger.fd = STDERR_FILENO;
    logger.way = WAY_POLL;
    if (fstat(STDERR_FILENO, &st) != 0) return;
    if (S_ISSOCK(st.st_mode)) {
        logger.way = WAY_SEND;
    } else if (S_ISREG(st.st_mode)) {
        logger.way = WAY_WRITE;
    } else {
        int fd = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
        if (fd < 0) return;
        logger.fd = fd;
        logger.own = true;
        logger.way = WAY_WRITE;
    }
}

void log_init(const char *instance, const char *role, int lane, int json, enum log_level level) {
    pthread_mutex_lock(&logger.lock);
    snprintf(logger.instance, sizeof logger.instance, "%s", instance);
    logger.role = role;
    logger.lane = lane;
    logger.json = json != 0;
    logger.level = level;
    open_output();
    pthread_mutex_unlock(&logger.lock);
}

uint64_t log_dropped(void) { return atomic_load_explicit(&logger.dropped, memory_order_relaxed); }

/* Log lines to standard error: one event a line, text or JSON, never blocking, never content of records.
 *
 * A line is one write of at most PIPE_BUF bytes. When the reader does not keep up, lines are dropped and counted
 * (log_dropped): a full pipe must not look like a hang of the pipeline. A call site that repeats more than LOG_BURST
 * times in LOG_WINDOW_MS is held back and its count reported when the window ends or at its next turn. */
#ifndef MILLRACE_BASE_LOG_H
#define MILLRACE_BASE_LOG_H

#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG, LOG_LEVEL_COUNT };

enum { LOG_BURST = 5, LOG_WINDOW_MS = 10000 };

struct log_site { /* one per call site, static, zeroed */
    uint64_t window_start_ns;
    uint32_t count;
    uint32_t held;
};

/* Where a line belongs; NULL topic: no record is concerned. */
struct log_at {
    const char *topic;
    int32_t partition;
    int64_t offset;
};

/* log_init sets what every line of this process carries. Call once, before the first line.
 * role: "ingest" …, a static string; lane: -1 none; json: 0 or 1; level: the most talkative level that is written.
 * instance is copied. Reopens standard error non-blocking for itself without changing the caller's descriptor. */
void log_init(const char *instance, const char *role, int lane, int json, enum log_level level);

/* log_event writes one line. event: a stable name `component.what_happened`, the code that documentation refers to.
 * Use the macros. Any thread may call. */
void log_event(struct log_site *site, enum log_level level, const char *event, const struct log_at *at,
               const char *format, ...) __attribute__((format(printf, 5, 6)));

/* Lines that could not be written since start. */
uint64_t log_dropped(void);

#define LOG_LINE(level, event, at, ...)                                                                                \
    do {                                                                                                               \
        static struct log_site log_site_here;                                                                          \
        log_event(&log_site_here, level, event, at, __VA_ARGS__);                                                      \
    } while (0)

#define log_error(event, ...) LOG_LINE(LOG_ERROR, event, (const struct log_at *)0, __VA_ARGS__)
#define log_warn(event, ...) LOG_LINE(LOG_WARN, event, (const struct log_at *)0, __VA_ARGS__)
#define log_info(event, ...) LOG_LINE(LOG_INFO, event, (const struct log_at *)0, __VA_ARGS__)
#define log_debug(event, ...) LOG_LINE(LOG_DEBUG, event, (const struct log_at *)0, __VA_ARGS__)
#define log_warn_at(event, at, ...) LOG_LINE(LOG_WARN, event, at, __VA_ARGS__)
#define log_info_at(event, at, ...) LOG_LINE(LOG_INFO, event, at, __VA_ARGS__)

#endif

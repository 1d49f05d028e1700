/* Finding entries of the audit log: by id, by key, by place, by time. Closed segments are looked up in their indexes
 * (audit/index.h), where they have one; others, and the one that is being written, are read through, and so is a
 * segment whose index was changed. What is returned was compared with the entry itself: an index only says where to
 * look. Without its key (index_key_load) none is used. */
#ifndef MILLRACE_AUDIT_SEARCH_H
#define MILLRACE_AUDIT_SEARCH_H

#include <stdbool.h>
#include <stdint.h>

#include "audit/log.h"
#include "base/err.h"

/* What is set has to hold, all of it. An empty query is every entry. */
struct log_query {
    const uint8_t *id;   /* 16 bytes; NULL any */
    const uint8_t *key;  /* digest of a Redis key, 16 bytes: the entry's key or the one it replaced; NULL any */
    const uint8_t *load; /* 16 bytes; NULL any. No index */
    const char *topic;   /* NULL any */
    int32_t partition;   /* -1 any */
    int64_t offset_from, offset_to;         /* [from, to); both 0: any */
    int64_t created_from_ms, created_to_ms; /* event time, [from, to); both 0: any */
    uint64_t from, to;                      /* sequence numbers, [from, to); to 0: to the end */
};
#define LOG_QUERY_ANY ((struct log_query){.partition = -1})

struct log_search;

/* log_search_open begins a search of the log in dir as it is now. q is copied, what it points to has to stay. NULL with
 * err as of log_reader_open. */
struct log_search *log_search_open(const char *dir, const struct log_query *q, struct err *err);
void log_search_close(struct log_search *s);

/* log_search_next: LOG_ITEM with the next match, ascending by sequence number, valid until the next call; LOG_END there
 * is no more; LOG_BAD with err: the bytes are not a log. What retention removes meanwhile is passed over. */
enum log_read log_search_next(struct log_search *s, struct log_item *item, struct err *err);

/* How many segments have an index that somebody has changed: they were read through, so nothing is missing. */
uint64_t log_search_forged(const struct log_search *s);

/* How many entries were read, and how many segments had no index: what a search has cost. */
void log_search_cost(const struct log_search *s, uint64_t *entries, uint64_t *segments);

#endif

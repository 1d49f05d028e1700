#include "recon/overlap.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "audit/search.h"
#include "base/log.h"
#include "recon/db.h"

enum { RECORDS_AT_ONCE = 20000 };

/* Takes out [first, last] of one partition. Offsets without an entry (they were removed by retention, or are no
 * records) are none of ours any more either. */
static int range_remove(struct count *count, const struct config *config, struct count_partition *p, const char *topic,
                        int64_t first, int64_t last, struct err *err) {
    char dir[PATH_BYTES + 16];
    struct log_item item;
    struct log_query q = LOG_QUERY_ANY;
    enum log_read got;
    int r = 0;
    uint64_t removed = 0;
    log_dir(config, dir);
    q.topic = topic;
    q.partition = p->partition;
    q.offset_from = first;
    q.offset_to = last + 1;
    struct log_search *s = log_search_open(dir, &q, err);
    if (s == NULL) return -1;
    while (r == 0 && (got = log_search_next(s, &item, err)) == LOG_ITEM) {
        r = count_retract(count, p, &item, err);
        removed += r == 0;
    }
    log_search_close(s);
    if (r != 0 || got == LOG_BAD) return -1;
    count_retracted(p, first, last);
    log_info("recon.overlap",
             "%s/%" PRId32 ": offsets [%" PRId64 ", %" PRId64 ") are in another instance's log as "
             "well and count there; %" PRIu64 " entries are left out here",
             topic, p->partition, first, last + 1, removed);
    return 0;
}

/* Adds to *out what a log has retracted in a partition. */
static int retracted_read(sqlite3 *db, int64_t instance, int64_t topic, int32_t partition, struct spans *out,
                          struct err *err) {
    sqlite3_stmt *s;
    int r;
    if (db_prepare(db,
                   "SELECT first, last FROM offset_range WHERE topic = ?1 AND partition = ?2 AND instance = ?3 AND"
                   " kind = 3 ORDER BY first",
                   &s, err) != 0)
        return -1;
    sqlite3_bind_int64(s, 1, topic);
    sqlite3_bind_int64(s, 2, partition);
    sqlite3_bind_int64(s, 3, instance);
    while ((r = db_step(s, err)) == 1) spans_add(out, sqlite3_column_int64(s, 0), sqlite3_column_int64(s, 1));
    sqlite3_finalize(s);
    return r;
}
static_assert(DB_RANGE_LOGGED == 0 && DB_RANGE_RETRACTED == 3, "as the statements have it");

/* Takes out those offsets of [first, last] that are counted here and, as far as is known, there. */
static int counted_remove(sqlite3 *db, struct count *count, const struct config *config, struct count_partition *p,
                          const char *topic, int64_t other, struct span overlap, struct err *err) {
    struct spans settled = {0};
    struct span gap;
    int r = retracted_read(db, other, p->topic, p->partition, &settled, err);
    const struct spans *ours = &p->range[DB_RANGE_RETRACTED];
    for (size_t i = 0; i < ours->count; i++) spans_add(&settled, ours->at[i].first, ours->at[i].last);
    while (r == 0 && overlap.first <= overlap.last && spans_gap(&settled, overlap.first, overlap.last, &gap)) {
        int64_t end = gap.last - gap.first < RECORDS_AT_ONCE ? gap.last : gap.first + RECORDS_AT_ONCE - 1;
        r = range_remove(count, config, p, topic, gap.first, end, err);
        overlap.first = end + 1;
    }
    spans_free(&settled);
    return r;
}

int overlap_remove(sqlite3 *db, struct count *count, const struct config *config, int64_t other, struct err *err) {
    sqlite3_stmt *s;
    int r;
    if (db_prepare(db,
                   "SELECT o.topic, t.name, o.partition, max(o.first, m.first), min(o.last, m.last) FROM offset_range o"
                   " JOIN offset_range m ON m.topic = o.topic AND m.partition = o.partition AND m.instance = ?1 AND"
                   " m.kind = 0 AND m.first <= o.last AND m.last >= o.first JOIN topic t ON t.id = o.topic"
                   " WHERE o.instance = 0 AND o.kind = 0",
                   &s, err) != 0)
        return -1;
    sqlite3_bind_int64(s, 1, other);
    while ((r = db_step(s, err)) == 1) {
        struct count_partition *p = count_find(count, sqlite3_column_int64(s, 0), sqlite3_column_int(s, 2));
        struct span overlap = {sqlite3_column_int64(s, 3), sqlite3_column_int64(s, 4)};
        if (p == NULL) continue;
        r = counted_remove(db, count, config, p, (const char *)sqlite3_column_text(s, 1), other, overlap, err);
        if (r != 0) break;
    }
    sqlite3_finalize(s);
    return r;
}

int overlap_open(sqlite3 *db, struct err *err) {
    sqlite3_stmt *s;
    bool open = false;
    int r;
    if (db_prepare(db,
                   "SELECT a.topic, a.partition, a.instance, b.instance, max(a.first, b.first), min(a.last, b.last)"
                   " FROM offset_range a JOIN offset_range b ON b.topic = a.topic AND b.partition = a.partition AND"
                   " b.instance > a.instance AND b.kind = 0 AND b.first <= a.last AND b.last >= a.first"
                   " WHERE a.kind = 0 AND (SELECT count(*) FROM account_member WHERE gone AND id IN"
                   " (a.instance, b.instance)) < 2",
                   &s, err) != 0)
        return -1;
    while (!open && (r = db_step(s, err)) == 1) {
        struct spans settled = {0};
        struct span gap;
        for (int side = 2; r == 1 && side <= 3; side++)
            if (retracted_read(db, sqlite3_column_int64(s, side), sqlite3_column_int64(s, 0), sqlite3_column_int(s, 1),
                               &settled, err) != 0)
                r = -1;
        open = r == 1 && spans_gap(&settled, sqlite3_column_int64(s, 4), sqlite3_column_int64(s, 5), &gap);
        spans_free(&settled);
        if (r < 0) break;
    }
    sqlite3_finalize(s);
    return r < 0 ? -1 : open;
}

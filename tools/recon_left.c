#include "tools/recon_left.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "audit/log.h"
#include "base/json_text.h"
#include "recon/live.h"

static void row_print(const struct view *v, const char *topic, const struct live_row *row, int64_t n) {
    char key[DIGEST_HEX_BYTES], event[VIEW_TIME_BYTES];
    digest_hex(row->key, key);
    view_time(event, row->event_ms);
    if (v->json) {
        printf("%s{\"key_digest\":\"%s\",\"topic\":", n > 0 ? ",\n  " : "\n  ", key);
        json_text_put(topic, strlen(topic), stdout);
        printf(",\"partition\":%" PRId32 ",\"offset\":%" PRId64 ",\"created\":\"%s\"}", row->partition, row->offset,
               event);
    } else {
        printf("%s  %s  %s/%" PRId32 "/%" PRId64 "\n", key, event, topic, row->partition, row->offset);
    }
}

/* The keys of one topic. Returns how many there are, or -1 with err. */
static int64_t topic_left(const struct view *v, struct live *live, const char *topic, uint64_t load, int64_t begun_ms,
                          int64_t shown, struct err *err) {
    struct live_row row;
    int64_t n = 0;
    int r, index = live_topic_find(live, topic);
    if (index < 0) return 0;
    struct live_cursor *c = live_cursor_new(live, err);
    if (c == NULL) return -1;
    while ((r = live_cursor_next(c, &row, err)) == 1) {
        if (row.topic != index || row.load == load || row.event_ms >= begun_ms) continue;
        if (shown + n < LEFT_SHOWN_MAX) row_print(v, topic, &row, shown + n);
        n++;
    }
    live_cursor_free(c);
    return r == 0 ? n : -1;
}

/* The table is as of the last time it was written: what came since is applied here. 0, or -1 with err. */
static int catch_up(const struct view *v, struct live *live, struct err *err) {
    char dir[PATH_BYTES + 16];
    struct log_item item;
    enum log_read got;
    int r = 0;
    log_dir(v->config, dir);
    struct log_reader *log = log_reader_open(dir, live_sequence(live), err);
    if (log == NULL) return -1;
    while (r == 0 && ((got = log_reader_next(log, &item, err)) == LOG_ITEM || got == LOG_GONE))
        if (got == LOG_ITEM) r = live_apply(live, &item, err);
    log_reader_close(log);
    return r == 0 && got == LOG_END ? 0 : -1;
}

int recon_left(const struct view *v, const uint8_t id[16]) {
    char dir[PATH_BYTES + 16];
    struct err err = {0};
    uint64_t load;
    int64_t n = 0, asked = 0;
    memcpy(&load, id, sizeof load);
    live_dir(v->config, dir);
    struct live *live = live_open_reader(dir, &err);
    if (live != NULL && catch_up(v, live, &err) != 0) {
        live_close(live);
        live = NULL;
    }
    sqlite3_stmt *s = view_prepare(v,
                                   "SELECT p.name, l.created_ms FROM load l JOIN topic p ON p.id = l.topic "
                                   "WHERE l.id = ?1 AND l.snapshot",
                                   NULL, 0);
    if (v->json) fputs(",\n \"left\":[", stdout);
    if (s != NULL) sqlite3_bind_blob(s, 1, id, 16, SQLITE_STATIC);
    while (live != NULL && s != NULL && n >= 0 && sqlite3_step(s) == SQLITE_ROW) {
        asked++;
        int64_t more =
            topic_left(v, live, (const char *)sqlite3_column_text(s, 0), load, sqlite3_column_int64(s, 1), n, &err);
        n = more < 0 ? -1 : n + more;
    }
    sqlite3_finalize(s);
    live_close(live);
    if (v->json) printf("],\n \"left_count\":%" PRId64, n);
    if (live == NULL || n < 0)
        fprintf(stderr, "millrace recon: %s\n", err.text);
    else if (asked == 0)
        fputs("millrace recon: --left: the load is not marked as snapshot: nothing says which keys it should have\n",
              stderr);
    else if (!v->json)
        printf("%" PRId64 " keys are left that the load does not contain\n", n);
    return live == NULL || s == NULL || n < 0 ? -1 : 0;
}

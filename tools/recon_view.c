#include "tools/recon_view.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "audit/log.h"
#include "base/digest.h"
#include "base/json_text.h"
#include "base/utc.h"
#include "recon/db.h"
#include "shm/record.h"

enum { COLUMNS_MAX = 32, CELL_BYTES = 256 };

void view_time(char out[VIEW_TIME_BYTES], int64_t ms) { utc_text_ms(out, ms > 0 ? ms : -1, 3); }

/* -- the database ------------------------------------------------------------------------------ */

static int64_t behind(const struct config *c, uint64_t from) {
    char dir[PATH_BYTES + 16];
    struct err err = {0};
    struct log_item item;
    int64_t n = 0;
    log_dir(c, dir);
    struct log_reader *r = log_reader_open(dir, from, &err);
    if (r == NULL) return -1;
    enum log_read what = LOG_END;
    while (n < VIEW_BEHIND_MAX && (what = log_reader_next(r, &item, &err)) == LOG_ITEM) n++;
    log_reader_close(r);
    return what == LOG_ITEM || what == LOG_END ? n : -1;
}

int view_open(struct view *v, const struct config *c, bool json) {
    char path[PATH_BYTES + 32];
    struct err err = {0};
    *v = (struct view){.config = c, .json = json};
    db_path(c, path);
    v->db = db_open_read(path, &err);
    if (v->db == NULL) {
        fprintf(stderr, "millrace recon: %s%s\n", err.text,
                err.code == EX_NOINPUT ? " (has recon ever run here?)" : "");
        return err.code;
    }
    v->sequence = db_meta_get(v->db, "sequence", 0);
    v->checked_ms = db_meta_get(v->db, "checked_ms", 0);
    v->behind = behind(c, (uint64_t)v->sequence);
    return EX_OK;
}

void view_close(struct view *v) { sqlite3_close(v->db); }

sqlite3_stmt *view_prepare(const struct view *v, const char *sql, const int64_t *number, int n) {
    sqlite3_stmt *s;
    struct err err = {0};
    if (db_prepare(v->db, sql, &s, &err) != 0) {
        fprintf(stderr, "millrace recon: %s\n", err.text);
        return NULL;
    }
    for (int i = 0; i < n; i++) sqlite3_bind_int64(s, i + 1, number[i]);
    return s;
}

int64_t view_number(const struct view *v, const char *sql, const int64_t *number, int n, int64_t none) {
    sqlite3_stmt *s = view_prepare(v, sql, number, n);
    if (s != NULL && sqlite3_step(s) == SQLITE_ROW && sqlite3_column_type(s, 0) != SQLITE_NULL)
        none = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return none;
}

/* -- output ------------------------------------------------------------------------------------ */

void view_head(const struct view *v) {
    char checked[VIEW_TIME_BYTES];
    view_time(checked, v->checked_ms);
    if (v->json) {
        fputs("{\"instance\":", stdout);
        json_text_put(v->config->instance, strlen(v->config->instance), stdout);
        printf(",\"sequence\":%" PRId64 ",\"behind\":%" PRId64 ",\"checked\":\"%s\"", v->sequence, v->behind, checked);
        return;
    }
    printf("instance %s: the audit log is counted up to entry %" PRId64, v->config->instance,
           v->sequence > 0 ? v->sequence - 1 : 0);
    if (v->behind != 0) printf(v->behind < 0 ? " (how far behind cannot be told)" : ", %" PRId64 " behind", v->behind);
    printf("; judged %s\n", checked);
}

static bool ends_in(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* A column as text; returns whether it is one (and not a number) in JSON. */
static bool cell_text(sqlite3_stmt *s, int column, char out[CELL_BYTES]) {
    const char *name = sqlite3_column_name(s, column);
    const uint8_t *bytes;
    switch (sqlite3_column_type(s, column)) {
    case SQLITE_INTEGER:
        if (ends_in(name, "_ms") || ends_in(name, "window")) {
            view_time(out, sqlite3_column_int64(s, column));
            return true;
        }
        if (strcmp(name, "reason") == 0) {
            snprintf(out, CELL_BYTES, "%s", record_reason_name((enum record_reason)sqlite3_column_int(s, column)));
            return true;
        }
        snprintf(out, CELL_BYTES, "%" PRId64, (int64_t)sqlite3_column_int64(s, column));
        return false;
    case SQLITE_BLOB:
        bytes = sqlite3_column_blob(s, column);
        out[0] = 0;
        if (sqlite3_column_bytes(s, column) == 16 && (ends_in(name, "id") || strcmp(name, "load") == 0))
            record_id_format(bytes, out);
        else if (sqlite3_column_bytes(s, column) == DIGEST_BYTES)
            digest_hex(bytes, out);
        return true;
    case SQLITE_NULL: out[0] = 0; return true;
    default: snprintf(out, CELL_BYTES, "%s", (const char *)sqlite3_column_text(s, column)); return true;
    }
}

static void json_row(sqlite3_stmt *s, int64_t n) {
    char text[CELL_BYTES];
    fputs(n > 0 ? ",\n  {" : "\n  {", stdout);
    for (int i = 0; i < sqlite3_column_count(s); i++) {
        bool quoted = cell_text(s, i, text);
        printf("%s\"%s\":", i > 0 ? "," : "", sqlite3_column_name(s, i));
        if (sqlite3_column_type(s, i) == SQLITE_NULL)
            fputs("null", stdout);
        else if (quoted)
            json_text_put(text, strlen(text), stdout);
        else
            fputs(text, stdout);
    }
    putchar('}');
}

struct table { /* kept whole, for the widths */
    char *cell;
    bool *number;
    size_t rows, columns;
};

static void table_add(struct table *t, sqlite3_stmt *s) {
    t->cell = realloc(t->cell, (t->rows + 1) * t->columns * CELL_BYTES);
    t->number = realloc(t->number, (t->rows + 1) * t->columns * sizeof *t->number);
    CHECK(t->cell != NULL && t->number != NULL);
    for (size_t i = 0; i < t->columns; i++)
        t->number[t->rows * t->columns + i] = !cell_text(s, (int)i, t->cell + (t->rows * t->columns + i) * CELL_BYTES);
    t->rows++;
}

/* Counts of what seldom happens: left out of a table in which all of them are 0. */
static bool left_out(const struct table *t, size_t column, const char *name) {
    static const char *const seldom[] = {"superseded", "deleted", "expired", "filtered", "in_retry", "dead_lettered",
                                         "duplicate",  "delayed", "altered", "late",     "repeat",   "snapshot"};
    bool is = false;
    for (size_t i = 0; i < sizeof seldom / sizeof seldom[0]; i++) is = is || strcmp(seldom[i], name) == 0;
    for (size_t row = 0; is && row < t->rows; row++)
        is = strcmp(t->cell + (row * t->columns + column) * CELL_BYTES, "0") == 0;
    return is;
}

static void table_print(const struct table *t, sqlite3_stmt *s) {
    int width[COLUMNS_MAX];
    char head[COLUMNS_MAX][CELL_BYTES];
    bool hidden[COLUMNS_MAX];
    for (size_t i = 0; i < t->columns; i++) {
        snprintf(head[i], CELL_BYTES, "%s", sqlite3_column_name(s, (int)i));
        if (ends_in(head[i], "_ms")) head[i][strlen(head[i]) - 3] = 0; /* in a table they are times */
        hidden[i] = left_out(t, i, head[i]);
        width[i] = (int)strlen(head[i]);
        for (size_t row = 0; row < t->rows; row++) {
            int w = (int)strlen(t->cell + (row * t->columns + i) * CELL_BYTES);
            if (w > width[i]) width[i] = w;
        }
    }
    for (size_t i = 0; i < t->columns; i++)
        if (!hidden[i]) printf("%s%*s", i > 0 ? "  " : "", t->rows > 0 && t->number[i] ? width[i] : -width[i], head[i]);
    putchar('\n');
    for (size_t row = 0; row < t->rows; row++) {
        for (size_t i = 0; i < t->columns; i++) {
            size_t at = row * t->columns + i;
            bool last = i + 1 == t->columns && !t->number[at];
            if (hidden[i]) continue;
            printf("%s%*s", i > 0 ? "  " : "",
                   last            ? 0
                   : t->number[at] ? width[i]
                                   : -width[i],
                   t->cell + at * CELL_BYTES);
        }
        putchar('\n');
    }
}

int64_t view_rows(const struct view *v, const char *name, sqlite3_stmt *s) {
    struct table t = {0};
    int64_t n = 0;
    int r;
    if (s == NULL) return -1;
    t.columns = (size_t)sqlite3_column_count(s);
    CHECK(t.columns <= COLUMNS_MAX);
    if (v->json) printf(",\n \"%s\":[", name);
    for (; (r = sqlite3_step(s)) == SQLITE_ROW; n++) {
        if (v->json)
            json_row(s, n);
        else
            table_add(&t, s);
    }
    if (v->json)
        fputs("]", stdout);
    else if (t.rows > 0)
        table_print(&t, s);
    else
        printf("no %s\n", name);
    free(t.cell);
    free(t.number);
    if (r != SQLITE_DONE) fprintf(stderr, "millrace recon: %s\n", sqlite3_errmsg(v->db));
    sqlite3_finalize(s);
    return r == SQLITE_DONE ? n : -1;
}

#include "recon/exception.h"

#include <inttypes.h>
#include <openssl/sha.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "shm/record.h"

const char exception_schema[] =
    "CREATE TABLE IF NOT EXISTS exception("
    " id TEXT PRIMARY KEY, kind TEXT NOT NULL, topic TEXT NOT NULL, window_ms INTEGER NOT NULL, subject TEXT NOT NULL,"
    " occurrence INTEGER NOT NULL," /* how many about the same were closed before it */
    " count INTEGER NOT NULL, text TEXT NOT NULL, raised_ms INTEGER NOT NULL,"
    " acknowledged_ms INTEGER NOT NULL DEFAULT 0," /* 0: nobody has said that he knows */
    " cleared_ms INTEGER NOT NULL DEFAULT 0"       /* 0: open */
    ") WITHOUT ROWID;"
    "CREATE UNIQUE INDEX IF NOT EXISTS exception_open ON exception(kind, topic, window_ms, subject)"
    " WHERE cleared_ms = 0;"
    "CREATE INDEX IF NOT EXISTS exception_about ON exception(kind, topic, window_ms, subject);"
    "CREATE TABLE IF NOT EXISTS delivery("
    " exception TEXT NOT NULL REFERENCES exception(id), channel TEXT NOT NULL,"
    " attempts INTEGER NOT NULL DEFAULT 0,"
    " next_ms INTEGER NOT NULL DEFAULT 0," /* not tried before */
    " done_ms INTEGER NOT NULL DEFAULT 0," /* 0: still to be sent */
    " error TEXT NOT NULL DEFAULT '',"     /* why the last attempt failed */
    " PRIMARY KEY(exception, channel)) WITHOUT ROWID;"
    "CREATE INDEX IF NOT EXISTS delivery_due ON delivery(channel, next_ms) WHERE done_ms = 0;";

const char *exception_kind_name(enum exception_kind kind) {
    static const char *const names[] = {"window_mismatch", "window_late",   "unexplained",  "audit_cannot_write",
                                        "load_incomplete", "evidence_lost", "limit_reached"};
    static_assert(sizeof names / sizeof names[0] == EXCEPTION_KIND_COUNT, "a name for each");
    return kind < EXCEPTION_KIND_COUNT ? names[kind] : "?";
}

void exception_id(const struct config *c, const struct exception_about *about, int64_t occurrence,
                  char out[EXCEPTION_ID_BYTES]) {
    char text[NAME_BYTES * 2 + TOPIC_BYTES * 2 + EXCEPTION_SUBJECT_BYTES + 128];
    uint8_t digest[SHA256_DIGEST_LENGTH];
    /* None of the parts can hold a newline but the subject, which comes last. */
    int n = snprintf(text, sizeof text, "%s\n%s\n%s\n%s\n%s\n%" PRId64 "\n%" PRId64 "\n%s", c->name, c->kafka.group_id,
                     c->instance, exception_kind_name(about->kind), about->topic, about->window_ms, occurrence,
                     about->subject);
    SHA256((const uint8_t *)text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1, digest);
    digest[6] = (uint8_t)((digest[6] & 0x0f) | 0x80);
    digest[8] = (uint8_t)((digest[8] & 0x3f) | 0x80);
    record_id_format(digest, out);
}

static int failed(sqlite3 *db, sqlite3_stmt *s, const char *what, struct err *err) {
    int code = sqlite3_errcode(db);
    err_set(err, code, "%s: %s", what, sqlite3_errmsg(db));
    sqlite3_finalize(s);
    return -1;
}

/* Prepares sql with kind, topic, window and subject as its first four parameters. NULL with err. */
static sqlite3_stmt *about_prepare(sqlite3 *db, const char *sql, const struct exception_about *a, struct err *err) {
    sqlite3_stmt *s = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) != SQLITE_OK) {
        failed(db, s, "exception", err);
        return NULL;
    }
    sqlite3_bind_text(s, 1, exception_kind_name(a->kind), -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 2, a->topic, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 3, a->window_ms);
    sqlite3_bind_text(s, 4, a->subject, -1, SQLITE_STATIC);
    return s;
}

/* Runs and frees s, which gives no rows. Returns how many rows it has changed, -1 with err. */
static int run(sqlite3 *db, sqlite3_stmt *s, const char *what, struct err *err) {
    if (s == NULL) return -1;
    if (sqlite3_step(s) != SQLITE_DONE) return failed(db, s, what, err);
    sqlite3_finalize(s);
    return sqlite3_changes(db);
}

static int deliver(sqlite3 *db, const char *id, const char *channel, struct err *err) {
    sqlite3_stmt *s = NULL;
    if (sqlite3_prepare_v2(db, "INSERT OR IGNORE INTO delivery(exception, channel) VALUES(?1, ?2)", -1, &s, NULL) !=
        SQLITE_OK)
        return failed(db, s, "delivery", err);
    sqlite3_bind_text(s, 1, id, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 2, channel, -1, SQLITE_STATIC);
    return run(db, s, "delivery", err) < 0 ? -1 : 0;
}

/* Number of the next exception about this; those that were are closed, and the oldest of them may be forgotten. */
static int64_t occurrence_next(sqlite3 *db, const struct exception_about *about, struct err *err) {
    sqlite3_stmt *s = about_prepare(
        db,
        "SELECT coalesce(max(occurrence) + 1, 0) FROM exception WHERE kind = ?1 AND topic = ?2 AND window_ms = ?3"
        " AND subject = ?4",
        about, err);
    if (s == NULL) return -1;
    if (sqlite3_step(s) != SQLITE_ROW) return failed(db, s, "exception", err);
    int64_t n = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return n;
}

void exception_current_id(sqlite3 *db, const struct config *c, const struct exception_about *about,
                          char out[EXCEPTION_ID_BYTES]) {
    struct err ignored = {0};
    sqlite3_stmt *s = about_prepare(db,
                                    "SELECT max(occurrence + (cleared_ms > 0)) FROM exception WHERE kind = ?1 AND"
                                    " topic = ?2 AND window_ms = ?3 AND subject = ?4",
                                    about, &ignored);
    int64_t occurrence = s != NULL && sqlite3_step(s) == SQLITE_ROW ? sqlite3_column_int64(s, 0) : 0;
    sqlite3_finalize(s);
    exception_id(c, about, occurrence, out);
}

static int insert(sqlite3 *db, const struct config *c, const struct exception_about *about, int64_t count,
                  const char *text, int64_t now_ms, struct err *err) {
    char id[EXCEPTION_ID_BYTES];
    int64_t occurrence = occurrence_next(db, about, err);
    if (occurrence < 0) return -1;
    exception_id(c, about, occurrence, id);
    sqlite3_stmt *s = about_prepare(db,
                                    "INSERT INTO exception(kind, topic, window_ms, subject, id, count, text, raised_ms,"
                                    " occurrence) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                                    about, err);
    if (s == NULL) return -1;
    sqlite3_bind_text(s, 5, id, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 6, count);
    sqlite3_bind_text(s, 7, text, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 8, now_ms);
    sqlite3_bind_int64(s, 9, occurrence);
    if (run(db, s, "exception", err) < 0 || deliver(db, id, "log", err) != 0) return -1;
    if (c->recon.webhook[0] != '\0' && deliver(db, id, "webhook", err) != 0) return -1;
    return c->recon.command[0] != '\0' ? deliver(db, id, "command", err) : 0;
}

int exception_raise(sqlite3 *db, const struct config *c, const struct exception_about *about, int64_t count,
                    int64_t now_ms, struct err *err, const char *format, ...) {
    char text[EXCEPTION_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    sqlite3_stmt *s = about_prepare(db,
                                    "UPDATE exception SET count = ?5, text = ?6 WHERE kind = ?1 AND topic = ?2 AND"
                                    " window_ms = ?3 AND subject = ?4 AND cleared_ms = 0",
                                    about, err);
    if (s == NULL) return -1;
    sqlite3_bind_int64(s, 5, count);
    sqlite3_bind_text(s, 6, text, -1, SQLITE_STATIC);
    int changed = run(db, s, "exception", err);
    if (changed != 0) return changed < 0 ? -1 : 0;
    /* The row and its deliveries together or not at all, also where the caller has begun no transaction. */
    if (sqlite3_exec(db, "SAVEPOINT raise", NULL, NULL, NULL) != SQLITE_OK) return failed(db, NULL, "exception", err);
    if (insert(db, c, about, count, text, now_ms, err) != 0) {
        sqlite3_exec(db, "ROLLBACK TO raise; RELEASE raise", NULL, NULL, NULL);
        return -1;
    }
    if (sqlite3_exec(db, "RELEASE raise", NULL, NULL, NULL) == SQLITE_OK) return 0;
    failed(db, NULL, "exception", err);
    sqlite3_exec(db, "ROLLBACK TO raise; RELEASE raise", NULL, NULL, NULL);
    return -1;
}

int exception_clear(sqlite3 *db, const struct exception_about *about, int64_t now_ms, struct err *err) {
    sqlite3_stmt *s = about_prepare(db,
                                    "UPDATE exception SET cleared_ms = ?5 WHERE kind = ?1 AND topic = ?2 AND"
                                    " window_ms = ?3 AND subject = ?4 AND cleared_ms = 0",
                                    about, err);
    if (s == NULL) return -1;
    sqlite3_bind_int64(s, 5, now_ms);
    return run(db, s, "exception", err) < 0 ? -1 : 0;
}

int exception_clear_kind(sqlite3 *db, enum exception_kind kind, int64_t now_ms, struct err *err) {
    sqlite3_stmt *s = NULL;
    if (sqlite3_prepare_v2(db, "UPDATE exception SET cleared_ms = ?2 WHERE kind = ?1 AND cleared_ms = 0", -1, &s,
                           NULL) != SQLITE_OK)
        return failed(db, s, "exception", err);
    sqlite3_bind_text(s, 1, exception_kind_name(kind), -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 2, now_ms);
    return run(db, s, "exception", err) < 0 ? -1 : 0;
}

int exception_acknowledge(sqlite3 *db, const char *id, int64_t now_ms, struct err *err) {
    sqlite3_stmt *s = NULL;
    if (sqlite3_prepare_v2(db, "UPDATE exception SET acknowledged_ms = ?2 WHERE id = ?1 AND acknowledged_ms = 0", -1,
                           &s, NULL) != SQLITE_OK)
        return failed(db, s, "exception", err);
    sqlite3_bind_text(s, 1, id, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 2, now_ms);
    return run(db, s, "exception", err);
}

int64_t exception_open_count(sqlite3 *db, enum exception_kind kind, struct err *err) {
    sqlite3_stmt *s = NULL;
    if (sqlite3_prepare_v2(
            db,
            "SELECT count(*) FROM exception WHERE cleared_ms = 0 AND acknowledged_ms = 0 AND (?1 IS NULL OR kind = ?1)",
            -1, &s, NULL) != SQLITE_OK)
        return failed(db, s, "exception", err);
    if (kind < EXCEPTION_KIND_COUNT) sqlite3_bind_text(s, 1, exception_kind_name(kind), -1, SQLITE_STATIC);
    if (sqlite3_step(s) != SQLITE_ROW) return failed(db, s, "exception", err);
    int64_t n = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return n;
}

int exception_forget(sqlite3 *db, int64_t before_ms, struct err *err) {
    static const char *const sql[] = {
        "DELETE FROM delivery WHERE exception IN"
        " (SELECT id FROM exception WHERE cleared_ms > 0 AND cleared_ms < ?1)",
        "DELETE FROM exception WHERE cleared_ms > 0 AND cleared_ms < ?1",
    };
    for (size_t i = 0; i < sizeof sql / sizeof sql[0]; i++) {
        sqlite3_stmt *s = NULL;
        if (sqlite3_prepare_v2(db, sql[i], -1, &s, NULL) != SQLITE_OK) return failed(db, s, "exception", err);
        sqlite3_bind_int64(s, 1, before_ms);
        if (run(db, s, "exception", err) < 0) return -1;
    }
    return 0;
}

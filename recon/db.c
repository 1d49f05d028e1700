#include "recon/db.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/fault.h"
#include "recon/exception.h"

#define COUNTS                                                                                                         \
    "seen INTEGER NOT NULL DEFAULT 0, applied INTEGER NOT NULL DEFAULT 0, superseded INTEGER NOT NULL DEFAULT 0, "     \
    "deleted INTEGER NOT NULL DEFAULT 0, expired INTEGER NOT NULL DEFAULT 0, filtered INTEGER NOT NULL DEFAULT 0, "    \
    "in_retry INTEGER NOT NULL DEFAULT 0, dead_lettered INTEGER NOT NULL DEFAULT 0, "                                  \
    "duplicate INTEGER NOT NULL DEFAULT 0, delayed INTEGER NOT NULL DEFAULT 0, altered INTEGER NOT NULL DEFAULT 0, "   \
    "late INTEGER NOT NULL DEFAULT 0, undeclared INTEGER NOT NULL DEFAULT 0, repeat INTEGER NOT NULL DEFAULT 0, "      \
    "bytes INTEGER NOT NULL DEFAULT 0, digested INTEGER NOT NULL DEFAULT 0, digest_sum BLOB NOT NULL, "                \
    "offset_min INTEGER NOT NULL, offset_max INTEGER NOT NULL"

const char db_schema[] =
    "CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS topic(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, "
    "  evidence INTEGER NOT NULL DEFAULT 2, reconcile INTEGER NOT NULL DEFAULT 0);"
    "CREATE TABLE IF NOT EXISTS producer(hash INTEGER PRIMARY KEY, name TEXT NOT NULL);"
    "CREATE TABLE IF NOT EXISTS instance(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);"
    "CREATE TABLE IF NOT EXISTS tally(instance INTEGER NOT NULL, topic INTEGER NOT NULL, partition INTEGER NOT NULL, "
    "  start_ms INTEGER NOT NULL, published INTEGER NOT NULL DEFAULT 0, published_digest_sum BLOB NOT NULL, " COUNTS
    ", PRIMARY KEY(topic, start_ms, partition, instance)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS origin(instance INTEGER NOT NULL, topic INTEGER NOT NULL, producer INTEGER NOT NULL, "
    "  start_ms INTEGER NOT NULL, seen INTEGER NOT NULL, bytes INTEGER NOT NULL, digested INTEGER NOT NULL, "
    "  digest_sum BLOB NOT NULL, PRIMARY KEY(topic, start_ms, producer, instance)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS sequence(instance INTEGER NOT NULL, topic INTEGER NOT NULL, "
    "  producer INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, "
    "  PRIMARY KEY(topic, producer, instance, first)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS offset_range(instance INTEGER NOT NULL, topic INTEGER NOT NULL, "
    "  partition INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, kind INTEGER NOT NULL, "
    "  PRIMARY KEY(topic, partition, instance, kind, first)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS place(topic INTEGER NOT NULL, partition INTEGER NOT NULL, first INTEGER NOT NULL, "
    "  next INTEGER NOT NULL, epoch INTEGER NOT NULL, scan_sequence INTEGER NOT NULL, "
    "  PRIMARY KEY(topic, partition)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS manifest(topic INTEGER NOT NULL, producer INTEGER NOT NULL, "
    "  first_sequence INTEGER NOT NULL, last_sequence INTEGER NOT NULL, start_ms INTEGER NOT NULL, "
    "  end_ms INTEGER NOT NULL, count INTEGER NOT NULL, bytes INTEGER NOT NULL, digest_sum BLOB, "
    "  noted_ms INTEGER NOT NULL, PRIMARY KEY(topic, start_ms, producer, first_sequence)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS load(id BLOB NOT NULL, topic INTEGER NOT NULL, producer INTEGER NOT NULL, "
    "  state INTEGER NOT NULL, snapshot INTEGER NOT NULL, created_ms INTEGER NOT NULL, ended_ms INTEGER, "
    "  aborted INTEGER NOT NULL DEFAULT 0, "
    "  count INTEGER, bytes INTEGER, digest_sum BLOB, first_sequence INTEGER, last_sequence INTEGER, "
    "  changed_ms INTEGER NOT NULL, unexplained INTEGER NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '', "
    "  PRIMARY KEY(id, topic)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS load_begun(load BLOB NOT NULL, topic INTEGER NOT NULL, noted_ms INTEGER NOT NULL, "
    "  PRIMARY KEY(load, topic)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS load_undeclared(load BLOB PRIMARY KEY, noted_ms INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS load_tally(instance INTEGER NOT NULL, load BLOB NOT NULL, topic INTEGER NOT NULL, "
    "  partition INTEGER NOT NULL, " COUNTS ", PRIMARY KEY(load, topic, partition, instance)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS load_place(load BLOB NOT NULL, topic INTEGER NOT NULL, partition INTEGER NOT NULL, "
    "  first_offset INTEGER NOT NULL, PRIMARY KEY(load, topic, partition)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS window(topic INTEGER NOT NULL, start_ms INTEGER NOT NULL, state INTEGER NOT NULL, "
    "  evidence INTEGER NOT NULL, published INTEGER NOT NULL, seen INTEGER NOT NULL, in_flight INTEGER NOT NULL, "
    "  unexplained INTEGER NOT NULL, unpublished INTEGER NOT NULL, reason TEXT NOT NULL, since_ms INTEGER NOT NULL, "
    "  checked_ms INTEGER NOT NULL, next_ms INTEGER, dirty INTEGER NOT NULL, PRIMARY KEY(topic, start_ms)) "
    "  WITHOUT ROWID;"
    "CREATE INDEX IF NOT EXISTS window_due ON window(dirty, next_ms);"
    "CREATE TABLE IF NOT EXISTS window_change(id INTEGER PRIMARY KEY, topic INTEGER NOT NULL, "
    "  start_ms INTEGER NOT NULL, at_ms INTEGER NOT NULL, before INTEGER, after INTEGER NOT NULL, "
    "  reason TEXT NOT NULL);"
    "CREATE INDEX IF NOT EXISTS window_change_of ON window_change(topic, start_ms);"
    "CREATE TABLE IF NOT EXISTS record(topic INTEGER NOT NULL, start_ms INTEGER NOT NULL, kind INTEGER NOT NULL, "
    "  partition INTEGER NOT NULL, \"offset\" INTEGER NOT NULL, producer INTEGER NOT NULL, sequence INTEGER NOT NULL, "
    "  id BLOB, log_sequence INTEGER NOT NULL, other INTEGER NOT NULL, outcome INTEGER NOT NULL, "
    "  reason INTEGER NOT NULL, created_ms INTEGER NOT NULL, noted_ms INTEGER NOT NULL, load BLOB, "
    "  PRIMARY KEY(topic, start_ms, kind, partition, \"offset\", producer, sequence)) WITHOUT ROWID;"
    "CREATE INDEX IF NOT EXISTS record_at ON record(topic, partition, \"offset\");";

static const char *const window_names[] = {"pending", "matched", "late", "mismatch"};
static const char *const load_names[] = {"running", "complete", "aborted", "incomplete", "matched"};
static const char *const record_names[] = {"unexplained", "in_flight", "unpublished", "rejected",
                                           "duplicate",   "delayed",   "altered",     "late"};
_Static_assert(sizeof window_names / sizeof window_names[0] == WINDOW_STATE_COUNT, "a name each");
_Static_assert(sizeof load_names / sizeof load_names[0] == LOAD_STATE_COUNT, "a name each");
_Static_assert(sizeof record_names / sizeof record_names[0] == FOUND_KIND_COUNT, "a name each");

const char *db_window_name(enum db_window state) { return state < WINDOW_STATE_COUNT ? window_names[state] : "?"; }
const char *db_load_name(enum db_load state) { return state < LOAD_STATE_COUNT ? load_names[state] : "?"; }
const char *db_record_name(enum db_record kind) { return kind < FOUND_KIND_COUNT ? record_names[kind] : "?"; }

void db_path(const struct config *c, char out[PATH_BYTES + 32]) {
    snprintf(out, PATH_BYTES + 32, "%s/recon/recon.db", c->data_dir);
}

static int db_error(sqlite3 *db, const char *what, struct err *err) {
    return err_set(err, sqlite3_errcode(db), "%s: %s", what, sqlite3_errmsg(db));
}

int db_run(sqlite3 *db, const char *sql, struct err *err) {
    return sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_error(db, "database", err);
}

int db_prepare(sqlite3 *db, const char *sql, sqlite3_stmt **out, struct err *err) {
    if (sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, out, NULL) == SQLITE_OK) return 0;
    return db_error(db, "database", err);
}

int db_step(sqlite3_stmt *s, struct err *err) {
    int r = sqlite3_step(s);
    if (r == SQLITE_ROW) return 1;
    int code = sqlite3_reset(s);
    if (r == SQLITE_DONE) return 0;
    return err_set(err, code, "database: %s", sqlite3_errmsg(sqlite3_db_handle(s)));
}

int64_t db_meta_get(sqlite3 *db, const char *name, int64_t none) {
    sqlite3_stmt *s;
    int64_t value = none;
    if (db_prepare(db, "SELECT value FROM meta WHERE name = ?", &s, NULL) != 0) return none;
    sqlite3_bind_text(s, 1, name, -1, SQLITE_STATIC);
    if (sqlite3_step(s) == SQLITE_ROW) value = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return value;
}

int db_meta_set(sqlite3 *db, const char *name, int64_t value, struct err *err) {
    sqlite3_stmt *s;
    if (db_prepare(db, "INSERT INTO meta VALUES(?1, ?2) ON CONFLICT DO UPDATE SET value = ?2", &s, err) != 0) return -1;
    sqlite3_bind_text(s, 1, name, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 2, value);
    int r = db_step(s, err);
    sqlite3_finalize(s);
    return r;
}

int64_t db_topic(sqlite3 *db, const char *name, bool make, struct err *err) {
    sqlite3_stmt *s;
    int64_t id = -1;
    if (make) {
        if (db_prepare(db, "INSERT INTO topic(name) VALUES(?) ON CONFLICT DO NOTHING", &s, err) != 0) return -1;
        sqlite3_bind_text(s, 1, name, -1, SQLITE_STATIC);
        int r = db_step(s, err);
        sqlite3_finalize(s);
        if (r != 0) return -1;
    }
    if (db_prepare(db, "SELECT id FROM topic WHERE name = ?", &s, err) != 0) return -1;
    sqlite3_bind_text(s, 1, name, -1, SQLITE_STATIC);
    if (db_step(s, err) == 1) id = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return id;
}

/* -- opening ----------------------------------------------------------------------------------- */

static int schema_check(sqlite3 *db, const char *path, struct err *err) {
    int64_t schema = db_meta_get(db, "schema", 0);
    if (schema == DB_SCHEMA) return 0;
    return err_set(err, EX_DATAERR, "%s: schema %lld, not %d: remove the file, and it is made again from the audit log",
                   path, (long long)schema, DB_SCHEMA);
}

/* A process that is killed loses no transaction (the pages are the kernel's), and after a loss of power the log is read
 * again from an earlier transaction: so a commit needs no fsync of its own (synchronous NORMAL). */
static int prepare_for_writing(sqlite3 *db, struct err *err) {
    if (db_run(db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 4000;", err) !=
        0)
        return -1;
    if (db_run(db, "BEGIN IMMEDIATE", err) != 0) return -1;
    if (db_run(db, db_schema, err) != 0 || db_run(db, exception_schema, err) != 0 ||
        (db_meta_get(db, "schema", 0) == 0 && db_meta_set(db, "schema", DB_SCHEMA, err) != 0))
        return -1;
    return db_run(db, "COMMIT", err);
}

static int folder_make(const char *path, struct err *err) {
    char folder[PATH_BYTES + 32];
    const char *slash = strrchr(path, '/');
    if (slash == NULL) return 0;
    snprintf(folder, sizeof folder, "%.*s", (int)(slash - path), path);
    if (mkdir(folder, 0750) == 0 || errno == EEXIST) return 0;
    return err_set(err, EX_IOERR, "%s: %s", folder, strerror(errno));
}

sqlite3 *db_open(const char *path, struct err *err) {
    sqlite3 *db = NULL;
    if (folder_make(path, err) != 0) return NULL;
    int r = FAULT_FAILS("recon:db_open")
                ? SQLITE_CANTOPEN
                : sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
    if (r == SQLITE_OK && prepare_for_writing(db, err) == 0) {
        if (schema_check(db, path, err) == 0) return db;
    } else if (db == NULL || r != SQLITE_OK) {
        err_set(err, EX_IOERR, "%s: %s", path, db != NULL ? sqlite3_errmsg(db) : "no memory");
    } else {
        int code = err->code == SQLITE_NOTADB || err->code == SQLITE_CORRUPT ? EX_DATAERR : EX_IOERR;
        err_prefix(err, "%s", path);
        err->code = code;
    }
    sqlite3_close(db);
    return NULL;
}

sqlite3 *db_open_read(const char *path, struct err *err) {
    sqlite3 *db = NULL;
    if (access(path, F_OK) != 0) {
        err_set(err, EX_NOINPUT, "%s: %s", path, strerror(errno));
        return NULL;
    }
    /* Not SQLITE_OPEN_READONLY: a reader of a WAL has to be able to make its index when no writer is there. */
    int r = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (r != SQLITE_OK || db == NULL) r = sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL);
    if (r == SQLITE_OK) {
        sqlite3_busy_timeout(db, 5000);
        if (db_run(db, "PRAGMA query_only = 1", err) == 0 && schema_check(db, path, err) == 0) return db;
    } else {
        err_set(err, EX_IOERR, "%s: %s", path, db != NULL ? sqlite3_errmsg(db) : "no memory");
    }
    sqlite3_close(db);
    return NULL;
}

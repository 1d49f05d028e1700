#include "feed/outbox.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/clock.h"

enum { VERSION = 1, APPLICATION = 0x6d6c6f62 /* "mlob" */ };

static const char schema[] =
    "CREATE TABLE about(tag TEXT NOT NULL);"
    "CREATE TABLE producer(name TEXT, topic TEXT, next INTEGER NOT NULL, PRIMARY KEY(name, topic)) WITHOUT ROWID;"
    "CREATE TABLE load(number INTEGER PRIMARY KEY, id BLOB UNIQUE, topic TEXT, producer TEXT, state INTEGER,"
    " snapshot INTEGER, begun INTEGER, created_ms INTEGER, path TEXT, path_bytes INTEGER, path_hash BLOB,"
    " format INTEGER, operation INTEGER, skip_bad INTEGER, spooled INTEGER, max_message INTEGER, rate INTEGER,"
    " key TEXT, position INTEGER, line INTEGER, skipped INTEGER, oversized INTEGER, first_sequence INTEGER,"
    " last_sequence INTEGER, records INTEGER, bytes INTEGER, digest_sum BLOB, algorithm INTEGER);"
    "CREATE TABLE record(n INTEGER PRIMARY KEY, load INTEGER, sequence INTEGER, id BLOB, digest BLOB,"
    " created_ms INTEGER, operation INTEGER, key BLOB, value BLOB, attempts INTEGER, next_ms INTEGER, error TEXT);"
    "CREATE TABLE manifest(n INTEGER PRIMARY KEY, load INTEGER, last_n INTEGER, closed INTEGER, from_ms INTEGER,"
    " to_ms INTEGER, first_sequence INTEGER, last_sequence INTEGER, records INTEGER, bytes INTEGER, digest_sum BLOB);"
    "CREATE TABLE place(load INTEGER, partition INTEGER, first_offset INTEGER, PRIMARY KEY(load, partition))"
    " WITHOUT ROWID;";

enum statement {
    S_BEGIN,
    S_COMMIT,
    S_LOAD_INSERT,
    S_LOAD_UPDATE,
    S_LOAD_FIND,
    S_LOAD_OPEN,
    S_LOAD_NEXT,
    S_SEQUENCE_GET,
    S_SEQUENCE_PUT,
    S_PUT,
    S_REMOVE,
    S_FAILED,
    S_ATTEMPTS,
    S_FORGIVE,
    S_COUNT,
    S_READ,
    S_MANIFEST_PUT,
    S_MANIFEST_FIRST,
    S_MANIFEST_REMOVE,
    S_PLACE_NOTE,
    S_PLACES,
    STATEMENT_COUNT
};

static const char *const sql[STATEMENT_COUNT] = {
    [S_BEGIN] = "BEGIN IMMEDIATE",
    [S_COMMIT] = "COMMIT",
    [S_LOAD_INSERT] = "INSERT INTO load VALUES(NULL,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    [S_LOAD_UPDATE] = "UPDATE load SET state=?2, begun=?3, position=?4, line=?5, skipped=?6, oversized=?7,"
                      " first_sequence=?8, last_sequence=?9, records=?10, bytes=?11, digest_sum=?12 WHERE number=?1",
    [S_LOAD_FIND] = "SELECT * FROM load WHERE id=?",
    [S_LOAD_OPEN] = "SELECT * FROM load WHERE number>? AND state<3 ORDER BY number LIMIT 1",
    [S_LOAD_NEXT] = "SELECT * FROM load WHERE number>? ORDER BY number LIMIT 1",
    [S_SEQUENCE_GET] = "SELECT next FROM producer WHERE name=? AND topic=?",
    [S_SEQUENCE_PUT] = "INSERT OR REPLACE INTO producer VALUES(?,?,?)",
    [S_PUT] = "INSERT INTO record VALUES(?,?,?,?,?,?,?,?,?,0,0,NULL)",
    [S_REMOVE] = "DELETE FROM record WHERE n BETWEEN ? AND ?",
    [S_FAILED] = "UPDATE record SET attempts=attempts+1, next_ms=?, error=? WHERE load=?",
    [S_ATTEMPTS] = "SELECT attempts,next_ms,error FROM record WHERE load=? ORDER BY n LIMIT 1",
    [S_FORGIVE] = "UPDATE record SET attempts=0, next_ms=0 WHERE load=? AND attempts>0",
    [S_COUNT] = "SELECT count(*), coalesce(sum(length(key)+coalesce(length(value),0)),0) FROM record WHERE load=?",
    [S_READ] = "SELECT n,sequence,id,digest,created_ms,operation,key,value FROM record"
               " WHERE load=? AND n>? ORDER BY n LIMIT 1",
    [S_MANIFEST_PUT] = "INSERT OR REPLACE INTO manifest VALUES(?,?,?,?,?,?,?,?,?,?,?)",
    [S_MANIFEST_FIRST] = "SELECT * FROM manifest WHERE load=? AND closed=? ORDER BY n LIMIT 1",
    [S_MANIFEST_REMOVE] = "DELETE FROM manifest WHERE n=?",
    [S_PLACE_NOTE] = "INSERT INTO place VALUES(?1,?2,?3) ON CONFLICT DO UPDATE SET"
                     " first_offset=min(first_offset,excluded.first_offset)",
    [S_PLACES] = "SELECT partition,first_offset FROM place WHERE load=? ORDER BY partition",
};
static_assert(OUTBOX_COMPLETE == 3, "S_LOAD_OPEN finds the states before it");

struct outbox {
    sqlite3 *db;
    int lock_fd;
    int64_t next;
    sqlite3_stmt *statement[STATEMENT_COUNT];
    char tag[OUTBOX_TAG_BYTES];
};

/* -- statements -------------------------------------------------------------------------------- */

static int failed(const struct outbox *o, struct err *err) {
    return err_set(err, EX_IOERR, "outbox: %s", sqlite3_errmsg(o->db));
}

/* Parameters in their order, by one letter each: i int64_t, t text, b blob of 16 bytes. */
static sqlite3_stmt *bound(struct outbox *o, enum statement which, const char *types, ...) {
    sqlite3_stmt *s = o->statement[which];
    va_list args;
    sqlite3_reset(s);
    va_start(args, types);
    for (int i = 1; types[i - 1] != 0; i++) {
        int r = types[i - 1] == 'i'   ? sqlite3_bind_int64(s, i, va_arg(args, int64_t))
                : types[i - 1] == 't' ? sqlite3_bind_text(s, i, va_arg(args, const char *), -1, SQLITE_STATIC)
                                      : sqlite3_bind_blob(s, i, va_arg(args, const uint8_t *), 16, SQLITE_STATIC);
        CHECK(r == SQLITE_OK);
    }
    va_end(args);
    return s;
}

/* Runs a statement that answers nothing. */
static int run(struct outbox *o, sqlite3_stmt *s, struct err *err) {
    int r = sqlite3_step(s);
    if (r == SQLITE_DONE) {
        sqlite3_reset(s);
        return 0;
    }
    failed(o, err);
    sqlite3_reset(s);
    return -1;
}

/* One row of an answer: 1 there is, 0 no more, -1. */
static int fetch(struct outbox *o, sqlite3_stmt *s, struct err *err) {
    int r = sqlite3_step(s);
    if (r == SQLITE_ROW) return 1;
    if (r != SQLITE_DONE) failed(o, err);
    sqlite3_reset(s);
    return r == SQLITE_DONE ? 0 : -1;
}

static void column_text(sqlite3_stmt *s, int i, char *out, size_t room) {
    const char *text = (const char *)sqlite3_column_text(s, i);
    snprintf(out, room, "%s", text != NULL ? text : "");
}

static void column_16(sqlite3_stmt *s, int i, uint8_t out[16]) {
    memset(out, 0, 16);
    if (sqlite3_column_bytes(s, i) == 16) memcpy(out, sqlite3_column_blob(s, i), 16);
}

static int64_t column_int(sqlite3_stmt *s, int i) { return sqlite3_column_int64(s, i); }

/* -- opening ----------------------------------------------------------------------------------- */

static int number_get(struct outbox *o, const char *query, int64_t *out, struct err *err) {
    sqlite3_stmt *s;
    if (sqlite3_prepare_v2(o->db, query, -1, &s, NULL) != SQLITE_OK) return failed(o, err);
    int got = fetch(o, s, err);
    *out = got == 1 ? column_int(s, 0) : 0;
    sqlite3_finalize(s);
    return got < 0 ? -1 : 0;
}

static int execute(struct outbox *o, const char *text, struct err *err) {
    return sqlite3_exec(o->db, text, NULL, NULL, NULL) == SQLITE_OK ? 0 : failed(o, err);
}

static int schema_make(struct outbox *o, struct err *err) {
    char text[200];
    uint8_t random[4];
    clock_real.random(clock_real.context, random, sizeof random);
    snprintf(text, sizeof text,
             "INSERT INTO about VALUES('%02x%02x%02x%02x'); PRAGMA application_id=%d; PRAGMA user_version=%d; COMMIT",
             random[0], random[1], random[2], random[3], APPLICATION, VERSION);
    return execute(o, "BEGIN", err) == 0 && execute(o, schema, err) == 0 ? execute(o, text, err) : -1;
}

static int tag_read(struct outbox *o, struct err *err) {
    sqlite3_stmt *s;
    if (sqlite3_prepare_v2(o->db, "SELECT tag FROM about", -1, &s, NULL) != SQLITE_OK) return failed(o, err);
    int got = fetch(o, s, err);
    if (got == 1) column_text(s, 0, o->tag, sizeof o->tag);
    sqlite3_finalize(s);
    return got == 1 ? 0 : err_set(err, EX_DATAERR, "outbox: it has no tag");
}

static int database_open(struct outbox *o, const char *path, int flags, struct err *err) {
    int64_t application, version, tables;
    if (sqlite3_open_v2(path, &o->db, flags | SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_EXRESCODE, NULL) != SQLITE_OK)
        return err_set(err, flags == SQLITE_OPEN_READWRITE ? EX_CANTCREAT : EX_NOINPUT, "%s: %s", path,
                       o->db != NULL ? sqlite3_errmsg(o->db) : "no memory");
    sqlite3_busy_timeout(o->db, 10000);
    if (number_get(o, "PRAGMA application_id", &application, err) != 0 ||
        number_get(o, "PRAGMA user_version", &version, err) != 0 ||
        number_get(o, "SELECT count(*) FROM sqlite_schema", &tables, err) != 0)
        return err_set(err, EX_DATAERR, "%s: not an outbox: %s", path, sqlite3_errmsg(o->db));
    bool new = tables == 0 && flags == SQLITE_OPEN_READWRITE;
    if (application != APPLICATION && !new) return err_set(err, EX_DATAERR, "%s: not an outbox", path);
    if (version > VERSION) return err_set(err, EX_DATAERR, "%s: made by a newer version of millrace", path);
    return new ? schema_make(o, err) : 0;
}

static int statements_make(struct outbox *o, struct err *err) {
    for (int i = 0; i < STATEMENT_COUNT; i++)
        if (sqlite3_prepare_v3(o->db, sql[i], -1, SQLITE_PREPARE_PERSISTENT, &o->statement[i], NULL) != SQLITE_OK)
            return failed(o, err);
    return tag_read(o, err);
}

/* Numbers of records that are gone may be given again: only their order counts. */
static int next_find(struct outbox *o, struct err *err) {
    int r = number_get(o,
                       "SELECT max(coalesce((SELECT max(n) FROM record),0),"
                       "coalesce((SELECT max(last_n) FROM manifest),0))",
                       &o->next, err);
    o->next++;
    return r;
}

static int lock_take(struct outbox *o, const char *path, struct err *err) {
    char lock[3 * PATH_BYTES];
    snprintf(lock, sizeof lock, "%s.lock", path);
    o->lock_fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (o->lock_fd < 0) return err_set(err, EX_CANTCREAT, "%s: %s", lock, strerror(errno));
    if (flock(o->lock_fd, LOCK_EX | LOCK_NB) != 0)
        return err_set(err, EX_TEMPFAIL, "%s: another load is using this outbox", path);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600); /* SQLite would make it readable by others */
    if (fd < 0) return err_set(err, EX_CANTCREAT, "%s: %s", path, strerror(errno));
    close(fd);
    return 0;
}

static struct outbox *outbox_new(void) {
    struct outbox *o = calloc(1, sizeof *o);
    CHECK(o != NULL);
    o->lock_fd = -1;
    return o;
}

/* The journal is synced at each commit: a sequence that was sent is never given again, even when power fails. */
struct outbox *outbox_open(const char *path, struct err *err) {
    struct outbox *o = outbox_new();
    if (lock_take(o, path, err) == 0 && database_open(o, path, SQLITE_OPEN_READWRITE, err) == 0 &&
        execute(o,
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-32768; "
                "PRAGMA secure_delete=ON",
                err) == 0 &&
        statements_make(o, err) == 0 && next_find(o, err) == 0)
        return o;
    outbox_close(o);
    return NULL;
}

struct outbox *outbox_open_read(const char *path, struct err *err) {
    struct outbox *o = outbox_new();
    if (database_open(o, path, SQLITE_OPEN_READONLY, err) == 0 && statements_make(o, err) == 0) return o;
    outbox_close(o);
    return NULL;
}

void outbox_close(struct outbox *o) {
    if (o == NULL) return;
    for (int i = 0; i < STATEMENT_COUNT; i++) sqlite3_finalize(o->statement[i]);
    sqlite3_close(o->db);
    if (o->lock_fd >= 0) close(o->lock_fd);
    free(o);
}

const char *outbox_tag(const struct outbox *o) { return o->tag; }

/* -- transactions ------------------------------------------------------------------------------ */

int outbox_begin(struct outbox *o, struct err *err) { return run(o, bound(o, S_BEGIN, ""), err); }
int outbox_commit(struct outbox *o, struct err *err) { return run(o, bound(o, S_COMMIT, ""), err); }

void outbox_rollback(struct outbox *o) {
    if (sqlite3_get_autocommit(o->db) == 0) sqlite3_exec(o->db, "ROLLBACK", NULL, NULL, NULL);
}

/* -- loads ------------------------------------------------------------------------------------- */

int outbox_load_insert(struct outbox *o, struct outbox_load *l, struct err *err) {
    const struct outbox_source *s = &l->source;
    struct outbox_load other;
    int found = outbox_load_find(o, l->id, 0, &other, err);
    if (found < 0) return -1;
    if (found == 1) return err_set(err, EX_USAGE, "a load of this id is in the outbox already");
    sqlite3_stmt *q =
        bound(o, S_LOAD_INSERT, "bttiiiitibiiiiiitiiiiiiiibi", l->id, l->topic, l->producer, (int64_t)l->state,
              (int64_t)l->snapshot, (int64_t)l->begun, l->created_ms, s->path, (int64_t)s->bytes, s->hash,
              (int64_t)s->format, (int64_t)s->operation, (int64_t)s->skip_bad, (int64_t)s->spooled,
              (int64_t)s->max_message, (int64_t)s->rate, s->key, (int64_t)l->position, (int64_t)l->line,
              (int64_t)l->skipped, (int64_t)l->oversized, (int64_t)l->sum.first_sequence, (int64_t)l->sum.last_sequence,
              (int64_t)l->sum.count, (int64_t)l->sum.bytes, l->sum.digest_sum, (int64_t)l->algorithm);
    if (run(o, q, err) != 0) return -1;
    l->number = sqlite3_last_insert_rowid(o->db);
    return 0;
}

int outbox_load_update(struct outbox *o, const struct outbox_load *l, struct err *err) {
    sqlite3_stmt *q =
        bound(o, S_LOAD_UPDATE, "iiiiiiiiiiib", l->number, (int64_t)l->state, (int64_t)l->begun, (int64_t)l->position,
              (int64_t)l->line, (int64_t)l->skipped, (int64_t)l->oversized, (int64_t)l->sum.first_sequence,
              (int64_t)l->sum.last_sequence, (int64_t)l->sum.count, (int64_t)l->sum.bytes, l->sum.digest_sum);
    return run(o, q, err);
}

static void load_get(sqlite3_stmt *q, struct outbox_load *l) {
    struct outbox_source *s = &l->source;
    *l = (struct outbox_load){.number = column_int(q, 0), .state = (uint32_t)column_int(q, 4)};
    column_16(q, 1, l->id);
    column_text(q, 2, l->topic, sizeof l->topic);
    column_text(q, 3, l->producer, sizeof l->producer);
    l->snapshot = column_int(q, 5) != 0;
    l->begun = column_int(q, 6) != 0;
    l->created_ms = column_int(q, 7);
    column_text(q, 8, s->path, sizeof s->path);
    s->bytes = (uint64_t)column_int(q, 9);
    column_16(q, 10, s->hash);
    s->format = (uint32_t)column_int(q, 11);
    s->operation = (uint32_t)column_int(q, 12);
    s->skip_bad = (uint32_t)column_int(q, 13);
    s->spooled = (uint32_t)column_int(q, 14);
    s->max_message = (uint64_t)column_int(q, 15);
    s->rate = (uint64_t)column_int(q, 16);
    column_text(q, 17, s->key, sizeof s->key);
    l->position = (uint64_t)column_int(q, 18);
    l->line = (uint64_t)column_int(q, 19);
    l->skipped = (uint64_t)column_int(q, 20);
    l->oversized = (uint64_t)column_int(q, 21);
    l->sum = (struct manifest){.first_sequence = (uint64_t)column_int(q, 22),
                               .last_sequence = (uint64_t)column_int(q, 23),
                               .count = (uint64_t)column_int(q, 24),
                               .bytes = (uint64_t)column_int(q, 25)};
    column_16(q, 26, l->sum.digest_sum);
    l->algorithm = (uint32_t)column_int(q, 27);
}

int outbox_load_next(struct outbox *o, int64_t after, struct outbox_load *out, struct err *err) {
    sqlite3_stmt *q = bound(o, S_LOAD_NEXT, "i", after);
    int got = fetch(o, q, err);
    if (got == 1) load_get(q, out);
    sqlite3_reset(q);
    return got;
}

int outbox_load_find(struct outbox *o, const uint8_t id[16], int64_t after, struct outbox_load *out, struct err *err) {
    sqlite3_stmt *q = id != NULL ? bound(o, S_LOAD_FIND, "b", id) : bound(o, S_LOAD_OPEN, "i", after);
    int got = fetch(o, q, err);
    if (got == 1) load_get(q, out);
    sqlite3_reset(q);
    return got;
}

int outbox_sequence(struct outbox *o, const char *producer, const char *topic, uint64_t count, uint64_t *first,
                    struct err *err) {
    sqlite3_stmt *q = bound(o, S_SEQUENCE_GET, "tt", producer, topic);
    int got = fetch(o, q, err);
    *first = got == 1 ? (uint64_t)column_int(q, 0) : 1;
    sqlite3_reset(q);
    if (got < 0) return -1;
    return run(o, bound(o, S_SEQUENCE_PUT, "tti", producer, topic, (int64_t)(*first + count)), err);
}

/* -- records ----------------------------------------------------------------------------------- */

int64_t outbox_next(const struct outbox *o) { return o->next; }

static int bind_bytes(sqlite3_stmt *q, int at, const void *data, size_t len) {
    if (data == NULL) return sqlite3_bind_null(q, at);
    return sqlite3_bind_blob64(q, at, data, len, SQLITE_STATIC);
}

int outbox_put(struct outbox *o, int64_t load, const struct outbox_record *r, struct err *err) {
    sqlite3_stmt *q = bound(o, S_PUT, "iiibbii", r->n, load, (int64_t)r->sequence, r->id, r->digest, r->created_ms,
                            (int64_t)r->operation);
    CHECK(bind_bytes(q, 8, r->key, r->key_bytes) == SQLITE_OK);
    if (bind_bytes(q, 9, r->value, r->value_bytes) != SQLITE_OK) return failed(o, err);
    if (run(o, q, err) != 0) return -1;
    if (r->n >= o->next) o->next = r->n + 1;
    return 0;
}

int outbox_remove(struct outbox *o, int64_t from, int64_t to, struct err *err) {
    return run(o, bound(o, S_REMOVE, "ii", from, to), err);
}

int outbox_failed(struct outbox *o, int64_t load, int64_t next_ms, const char *why, struct err *err) {
    return run(o, bound(o, S_FAILED, "iti", next_ms, why, load), err);
}

int outbox_attempts(struct outbox *o, int64_t load, struct outbox_attempts *out, struct err *err) {
    sqlite3_stmt *q = bound(o, S_ATTEMPTS, "i", load);
    int got = fetch(o, q, err);
    *out = (struct outbox_attempts){0};
    if (got == 1) {
        out->count = (uint32_t)column_int(q, 0);
        out->next_ms = column_int(q, 1);
        column_text(q, 2, out->why, sizeof out->why);
    }
    sqlite3_reset(q);
    return got < 0 ? -1 : 0;
}

int outbox_forgive(struct outbox *o, int64_t load, struct err *err) {
    return run(o, bound(o, S_FORGIVE, "i", load), err);
}

int outbox_count(struct outbox *o, int64_t load, uint64_t *records, uint64_t *bytes, struct err *err) {
    sqlite3_stmt *q = bound(o, S_COUNT, "i", load);
    int got = fetch(o, q, err);
    *records = got == 1 ? (uint64_t)column_int(q, 0) : 0;
    *bytes = got == 1 ? (uint64_t)column_int(q, 1) : 0;
    sqlite3_reset(q);
    return got < 0 ? -1 : 0;
}

int outbox_read(struct outbox *o, int64_t load, int64_t after, struct outbox_record *out, struct err *err) {
    sqlite3_stmt *q = bound(o, S_READ, "ii", load, after);
    int got = fetch(o, q, err);
    if (got != 1) return got;
    *out = (struct outbox_record){.n = column_int(q, 0),
                                  .sequence = (uint64_t)column_int(q, 1),
                                  .created_ms = column_int(q, 4),
                                  .operation = (uint32_t)column_int(q, 5),
                                  .key_bytes = (size_t)sqlite3_column_bytes(q, 6),
                                  .value_bytes = (size_t)sqlite3_column_bytes(q, 7)};
    column_16(q, 2, out->id);
    column_16(q, 3, out->digest);
    /* An empty blob is NULL to SQLite's reader, and not null. */
    if (sqlite3_column_type(q, 6) != SQLITE_NULL) out->key = out->key_bytes > 0 ? sqlite3_column_blob(q, 6) : "";
    if (sqlite3_column_type(q, 7) != SQLITE_NULL) out->value = out->value_bytes > 0 ? sqlite3_column_blob(q, 7) : "";
    return 1;
}

/* -- manifests --------------------------------------------------------------------------------- */

int outbox_manifest_put(struct outbox *o, int64_t load, struct outbox_manifest *m, struct err *err) {
    const struct manifest *s = &m->sum;
    sqlite3_stmt *q = bound(o, S_MANIFEST_PUT, "iiiiiiiiiib", m->n, load, m->last_n, (int64_t)m->closed, s->from_ms,
                            s->to_ms, (int64_t)s->first_sequence, (int64_t)s->last_sequence, (int64_t)s->count,
                            (int64_t)s->bytes, s->digest_sum);
    if (m->n == 0) CHECK(sqlite3_bind_null(q, 1) == SQLITE_OK);
    if (run(o, q, err) != 0) return -1;
    if (m->n == 0) m->n = sqlite3_last_insert_rowid(o->db);
    return 0;
}

int outbox_manifest_first(struct outbox *o, int64_t load, bool closed, struct outbox_manifest *out, struct err *err) {
    sqlite3_stmt *q = bound(o, S_MANIFEST_FIRST, "ii", load, (int64_t)closed);
    int got = fetch(o, q, err);
    if (got != 1) return got;
    *out = (struct outbox_manifest){.n = column_int(q, 0), .last_n = column_int(q, 2), .closed = column_int(q, 3) != 0};
    out->sum = (struct manifest){.from_ms = column_int(q, 4),
                                 .to_ms = column_int(q, 5),
                                 .first_sequence = (uint64_t)column_int(q, 6),
                                 .last_sequence = (uint64_t)column_int(q, 7),
                                 .count = (uint64_t)column_int(q, 8),
                                 .bytes = (uint64_t)column_int(q, 9)};
    column_16(q, 10, out->sum.digest_sum);
    sqlite3_reset(q);
    return 1;
}

int outbox_manifest_remove(struct outbox *o, int64_t n, struct err *err) {
    return run(o, bound(o, S_MANIFEST_REMOVE, "i", n), err);
}

/* -- places ------------------------------------------------------------------------------------ */

int outbox_place_note(struct outbox *o, int64_t load, const struct manifest_place *p, struct err *err) {
    return run(o, bound(o, S_PLACE_NOTE, "iii", load, (int64_t)p->partition, p->first_offset), err);
}

int outbox_places(struct outbox *o, int64_t load, struct manifest_place *out, int room, struct err *err) {
    sqlite3_stmt *q = bound(o, S_PLACES, "i", load);
    int n = 0, got;
    while ((got = fetch(o, q, err)) == 1)
        if (n < room) out[n++] = (struct manifest_place){(int32_t)column_int(q, 0), column_int(q, 1)};
    return got < 0 ? -1 : n;
}

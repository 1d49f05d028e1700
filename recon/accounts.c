#include "recon/accounts.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "audit/log.h"
#include "base/log.h"
#include "recon/account_text.h"
#include "recon/db.h"
#include "recon/exception.h"
#include "recon/overlap.h"

enum {
    TAKE_MAX = 500,
    TELL_MAX = 200,
    MEMBERS_MAX = ACCOUNT_SEEN_MAX,
    GONE_QUIET_MS = 3000,
    OVERLAP_MS = 200,
    GONE_AGAIN_MS = 10000,
    STALE_AGAIN_MS = 60000
};

/* Of the rows that are told, the newest state is; the triggers only note which have changed. `stamp`: when that was
 * first, in readings of the log to its end; `version`: how often. The inner statements must not depend on a conflict
 * clause, because that of the statement which fires a trigger overrules theirs. */
#define NOTE(name, table, when, kind, a, b, load)                                                                      \
    "CREATE TRIGGER IF NOT EXISTS " name " AFTER INSERT ON " table " WHEN NEW.instance = 0" when " BEGIN"              \
    " UPDATE account_changed SET version = version + 1 WHERE kind = " #kind " AND topic = NEW.topic AND a = " a        \
    "  AND b = " b " AND load = " load ";"                                                                             \
    " INSERT INTO account_changed SELECT " #kind ", NEW.topic, " a ", " b ", " load ","                                \
    "  (SELECT value FROM meta WHERE name = 'account_stamp'), 1 WHERE NOT EXISTS (SELECT 1 FROM account_changed"       \
    "  WHERE kind = " #kind " AND topic = NEW.topic AND a = " a " AND b = " b " AND load = " load ");"                 \
    " END;"

static const char accounts_schema[] =
    "INSERT OR IGNORE INTO meta VALUES('account_stamp', 0);"
    "CREATE TABLE IF NOT EXISTS account_member(id INTEGER PRIMARY KEY, instance TEXT NOT NULL, log TEXT NOT NULL,"
    " beat INTEGER NOT NULL DEFAULT 0," /* the last that came */
    " seen INTEGER NOT NULL DEFAULT 0," /* the last of ours that it has answered */
    " gone INTEGER NOT NULL DEFAULT 0," /* its instance has another log now */
    " left INTEGER NOT NULL DEFAULT 0," /* it was stopped, and has told everything */
    " heard_ms INTEGER NOT NULL DEFAULT 0, UNIQUE(instance, log));"
    "CREATE TABLE IF NOT EXISTS account_order(id INTEGER PRIMARY KEY, number INTEGER NOT NULL);" /* the last taken */
    "CREATE TABLE IF NOT EXISTS account_position(partition INTEGER PRIMARY KEY, next INTEGER NOT NULL);"
    "CREATE TABLE IF NOT EXISTS account_changed(kind INTEGER NOT NULL, topic INTEGER NOT NULL, a INTEGER NOT NULL,"
    " b INTEGER NOT NULL, load BLOB NOT NULL, stamp INTEGER NOT NULL, version INTEGER NOT NULL,"
    " PRIMARY KEY(kind, topic, a, b, load)) WITHOUT ROWID;"
    "CREATE INDEX IF NOT EXISTS account_changed_stamp ON account_changed(stamp);"
    "CREATE INDEX IF NOT EXISTS account_changed_kind ON account_changed(kind, stamp);" /* and a trigger each */
    NOTE("account_tally", "tally", "", 0, "NEW.partition", "NEW.start_ms", "x''")
        NOTE("account_origin", "origin", "", 1, "NEW.producer", "NEW.start_ms", "x''")
            NOTE("account_load", "load_tally", "", 2, "NEW.partition", "0", "NEW.load")
                NOTE("account_offset", "offset_range", " AND NEW.kind = 0", 3, "NEW.partition", "NEW.first", "x''")
                    NOTE("account_sequence", "sequence", "", 4, "NEW.producer", "NEW.first", "x''")
                        NOTE("account_retracted", "offset_range", " AND NEW.kind = 3", 5, "NEW.partition", "NEW.first",
                             "x''");

/* What there was before anybody was told. */
static const char accounts_begin[] =
    "INSERT OR IGNORE INTO account_changed SELECT 0, topic, partition, start_ms, x'', 0, 1 FROM tally WHERE instance = "
    "0;"
    "INSERT OR IGNORE INTO account_changed SELECT 1, topic, producer, start_ms, x'', 0, 1 FROM origin WHERE instance = "
    "0;"
    "INSERT OR IGNORE INTO account_changed SELECT 2, topic, partition, 0, load, 0, 1 FROM load_tally WHERE instance = "
    "0;"
    "INSERT OR IGNORE INTO account_changed SELECT 3, topic, partition, first, x'', 0, 1 FROM offset_range"
    " WHERE instance = 0 AND kind = 0;"
    "INSERT OR IGNORE INTO account_changed SELECT 4, topic, producer, first, x'', 0, 1 FROM sequence WHERE instance = "
    "0;"
    "INSERT OR IGNORE INTO account_changed SELECT 5, topic, partition, first, x'', 0, 1 FROM offset_range"
    " WHERE instance = 0 AND kind = 3;"
    "INSERT OR REPLACE INTO meta VALUES('account_begun', 1);";
static_assert(ACCOUNT_TALLY == 0 && ACCOUNT_ORIGIN == 1 && ACCOUNT_LOAD == 2 && ACCOUNT_OFFSETS == 3 &&
                  ACCOUNT_SEQUENCES == 4 && ACCOUNT_RETRACTED == 5 && DB_RANGE_LOGGED == 0 && DB_RANGE_RETRACTED == 3,
              "as the triggers have it");

struct member {
    int64_t id; /* in table instance */
    char instance[NAME_BYTES], log[ACCOUNT_LOG_ID_BYTES];
    int64_t beat, seen, heard_ms;
    int64_t order, order_put; /* of the last message that was taken; and stored */
    bool gone, left;
    bool silent;         /* for so long that it is not waited for */
    int64_t reported_ms; /* gone, and said so; it may turn out what comes behind */
};

struct told { /* a row that was handed to the port */
    int64_t kind, topic, a, b, version;
    uint8_t load[16];
    int load_bytes;
};

struct accounts {
    sqlite3 *db;
    struct count *count;
    const struct config *config;
    const struct account_port *port;
    const struct clock_port *clock;
    struct stats_local *stats;
    struct digest_key key;
    char log[ACCOUNT_LOG_ID_BYTES];
    struct member member[MEMBERS_MAX];
    size_t members;
    struct told told[TELL_MAX]; /* with the port, and not acknowledged */
    size_t tolds;
    int64_t stamp;
    int64_t order;    /* of the last message sent */
    int64_t stale_ms; /* when messages out of order were told last; 0 never */
    int64_t beat;     /* of the last one sent */
    uint64_t beat_ns;
    struct { /* what the next beat says */
        bool pending;
        int64_t stamp;
        int64_t beat[MEMBERS_MAX];
    } answer;
    int64_t anchors_at, anchors_next; /* bytes of the file that are with the brokers, and with the port */
    bool leaving, left_sent, log_ended;
    uint64_t overlap_ns;
    struct account account; /* too large for a stack */
    struct account_message message;
};

/* -- the log's id ------------------------------------------------------------------------------ */

static int id_read(int fd, char out[ACCOUNT_LOG_ID_BYTES]) {
    ssize_t n = read(fd, out, ACCOUNT_LOG_ID_BYTES - 1);
    out[n < 0 ? 0 : n] = '\0';
    return strspn(out, "0123456789abcdef") == ACCOUNT_LOG_ID_BYTES - 1 ? 0 : -1;
}

/* Beside the log itself, so that it is lost with it. */
static int log_id(struct accounts *a, struct err *err) {
    char dir[PATH_BYTES + 16], path[PATH_BYTES + 32], temporary[PATH_BYTES + 48];
    uint8_t random[DIGEST_BYTES];
    log_dir(a->config, dir);
    snprintf(path, sizeof path, "%s/id", dir);
    snprintf(temporary, sizeof temporary, "%s.new", path);
    if (mkdir(dir, 0750) != 0 && errno != EEXIST) return err_set(err, EX_IOERR, "%s: %s", dir, strerror(errno));
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        int r = id_read(fd, a->log);
        close(fd);
        return r == 0 ? 0 : err_set(err, EX_IOERR, "%s: it does not hold the id of a log", path);
    }
    a->clock->random(a->clock->context, random, sizeof random);
    digest_hex(random, a->log);
    fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    bool good = fd >= 0 && write(fd, a->log, ACCOUNT_LOG_ID_BYTES - 1) == ACCOUNT_LOG_ID_BYTES - 1 && fsync(fd) == 0;
    int cause = errno;
    if (fd >= 0) close(fd);
    if (good && rename(temporary, path) == 0) return 0;
    return err_set(err, EX_IOERR, "%s: %s", path, strerror(good ? errno : cause));
}

/* -- members ----------------------------------------------------------------------------------- */

static sqlite3_stmt *query(struct accounts *a, const char *sql, struct err *err) {
    sqlite3_stmt *s = NULL;
    return db_prepare(a->db, sql, &s, err) == 0 ? s : NULL;
}

/* Runs and frees a statement without rows. */
static int finish(sqlite3_stmt *s, struct err *err) {
    if (s == NULL) return -1;
    int r = db_step(s, err);
    sqlite3_finalize(s);
    return r < 0 ? -1 : 0;
}

static int member_put(struct accounts *a, const struct member *m, struct err *err) {
    sqlite3_stmt *s = query(a,
                            "INSERT OR REPLACE INTO account_member(id, instance, log, beat, seen, gone, left, heard_ms)"
                            " VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
                            err);
    if (s == NULL) return -1;
    sqlite3_bind_int64(s, 1, m->id);
    sqlite3_bind_text(s, 2, m->instance, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 3, m->log, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 4, m->beat);
    sqlite3_bind_int64(s, 5, m->seen);
    sqlite3_bind_int64(s, 6, m->gone);
    sqlite3_bind_int64(s, 7, m->left);
    sqlite3_bind_int64(s, 8, m->heard_ms);
    return finish(s, err);
}

static int members_read(struct accounts *a, struct err *err) {
    int r;
    sqlite3_stmt *s = query(a,
                            "SELECT m.id, instance, log, beat, seen, gone, left, heard_ms, coalesce(o.number, 0) FROM"
                            " account_member m LEFT JOIN account_order o ON o.id = m.id",
                            err);
    if (s == NULL) return -1;
    while ((r = db_step(s, err)) == 1 && a->members < MEMBERS_MAX) {
        struct member *m = &a->member[a->members++];
        m->id = sqlite3_column_int64(s, 0);
        snprintf(m->instance, sizeof m->instance, "%s", (const char *)sqlite3_column_text(s, 1));
        snprintf(m->log, sizeof m->log, "%s", (const char *)sqlite3_column_text(s, 2));
        m->beat = sqlite3_column_int64(s, 3);
        m->seen = sqlite3_column_int64(s, 4);
        m->gone = sqlite3_column_int64(s, 5) != 0;
        m->left = sqlite3_column_int64(s, 6) != 0;
        m->order = m->order_put = sqlite3_column_int64(s, 8);
        m->heard_ms = sqlite3_column_int64(s, 7);
    }
    sqlite3_finalize(s);
    return r < 0 ? -1 : 0;
}

static bool ours(const struct accounts *a, const struct account *t) {
    return strcmp(t->instance, a->config->instance) == 0 && strcmp(t->log, a->log) == 0;
}

/* A log that was not heard of before: of a new instance, or of one whose old log is gone then; of two of an instance
 * the one that has told the newest is the one it has. */
static struct member *member_add(struct accounts *a, const struct account *t, struct err *err) {
    char name[NAME_BYTES + 16];
    if (a->members == MEMBERS_MAX) {
        log_warn("recon.accounts_too_many", "more than %d logs in the group: that of %s is left out", MEMBERS_MAX,
                 t->instance);
        return NULL;
    }
    snprintf(name, sizeof name, "%s/%.8s", t->instance, t->log);
    sqlite3_stmt *s =
        query(a, "INSERT INTO instance(name, id) SELECT ?, max(coalesce(max(id), 0), 0) + 1 FROM instance", err);
    if (s == NULL) return NULL;
    sqlite3_bind_text(s, 1, name, -1, SQLITE_STATIC);
    if (finish(s, err) != 0) return NULL;
    bool older = strcmp(t->instance, a->config->instance) == 0;
    for (size_t i = 0; i < a->members; i++) {
        if (strcmp(a->member[i].instance, t->instance) != 0 || a->member[i].gone) continue;
        older |= a->member[i].order > t->order;
        a->member[i].gone = !older;
        if (member_put(a, &a->member[i], err) != 0) return NULL;
    }
    s = query(a, "SELECT max(id) FROM instance", err);
    if (s == NULL || db_step(s, err) != 1) return NULL;
    struct member *m = &a->member[a->members++];
    *m = (struct member){.id = sqlite3_column_int64(s, 0), .gone = older};
    sqlite3_finalize(s);
    snprintf(m->instance, sizeof m->instance, "%s", t->instance);
    snprintf(m->log, sizeof m->log, "%s", t->log);
    log_info("recon.account_begun", "of %s, log %.8s%s", m->instance, m->log, m->gone ? ", which is gone" : "");
    count_shared(a->count, true);
    return member_put(a, m, err) == 0 ? m : NULL;
}

static struct member *member_find(struct accounts *a, const char *instance, const char *log) {
    for (size_t i = 0; i < a->members; i++)
        if (strcmp(a->member[i].instance, instance) == 0 && strcmp(a->member[i].log, log) == 0) return &a->member[i];
    return NULL;
}

bool accounts_shared(const struct accounts *a) { return a->members > 0; }

/* -- taking what the others tell ---------------------------------------------------------------- */

static const char *const row_sql[] = {
    [ACCOUNT_TALLY] =
        "INSERT OR REPLACE INTO tally(instance, topic, partition, start_ms, digest_sum, published_digest_sum, seen,"
        " applied, superseded, deleted, expired, filtered, in_retry, dead_lettered, duplicate, delayed, altered, late,"
        " undeclared, repeat, bytes, digested, published, offset_min, offset_max)"
        " VALUES(?,?,?,?,?,?, ?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    [ACCOUNT_ORIGIN] = "INSERT OR REPLACE INTO origin(instance, topic, producer, start_ms, digest_sum, seen, bytes,"
                       " digested) VALUES(?,?,?,?,?, ?,?,?)",
    [ACCOUNT_LOAD] =
        "INSERT OR REPLACE INTO load_tally(instance, topic, partition, load, digest_sum, seen, applied, superseded,"
        " deleted, expired, filtered, in_retry, dead_lettered, duplicate, delayed, altered, late, undeclared, repeat,"
        " bytes, digested, offset_min, offset_max) VALUES(?,?,?,?,?, ?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
};
static const size_t row_counts[] = {[ACCOUNT_TALLY] = 19, [ACCOUNT_ORIGIN] = 3, [ACCOUNT_LOAD] = 18};
static const size_t row_digests[] = {[ACCOUNT_TALLY] = 2, [ACCOUNT_ORIGIN] = 1, [ACCOUNT_LOAD] = 1};

static int row_take(struct accounts *a, const struct member *m, int64_t topic, struct err *err) {
    const struct account *t = &a->account;
    int at = 1;
    if (t->counts != row_counts[t->type] || t->digests != row_digests[t->type]) return 0; /* of another version */
    sqlite3_stmt *s = query(a, row_sql[t->type], err);
    if (s == NULL) return -1;
    sqlite3_bind_int64(s, at++, m->id);
    sqlite3_bind_int64(s, at++, topic);
    sqlite3_bind_int64(s, at++, t->where);
    if (t->type == ACCOUNT_LOAD)
        sqlite3_bind_blob(s, at++, t->load, sizeof t->load, SQLITE_STATIC);
    else
        sqlite3_bind_int64(s, at++, t->start_ms);
    for (size_t i = 0; i < t->digests; i++) sqlite3_bind_blob(s, at++, t->digest[i], DIGEST_BYTES, SQLITE_STATIC);
    for (size_t i = 0; i < t->counts; i++) sqlite3_bind_int64(s, at++, t->count[i]);
    if (finish(s, err) != 0) return -1;
    return t->type == ACCOUNT_LOAD ? 0 : count_dirty(a->count, topic, t->start_ms, err);
}

/* One range is joined to those that it overlaps or touches. */
static int range_take(struct accounts *a, const struct member *m, int64_t topic, const int64_t range[2],
                      struct err *err) {
    static const char *const sql[2][3] = {
        {"SELECT min(first, ?4), max(last, ?5) FROM (SELECT min(first) first, max(last) last FROM offset_range WHERE"
         " topic = ?1 AND partition = ?2 AND instance = ?3 AND kind = ?6 AND first <= ?5 + 1 AND last >= ?4 - 1)",
         "DELETE FROM offset_range WHERE topic = ?1 AND partition = ?2 AND instance = ?3 AND kind = ?6 AND"
         " first >= ?4 AND last <= ?5",
         "INSERT INTO offset_range(topic, partition, instance, first, last, kind) VALUES(?1, ?2, ?3, ?4, ?5, ?6)"},
        {"SELECT min(first, ?4), max(last, ?5) FROM (SELECT min(first) first, max(last) last FROM sequence WHERE"
         " topic = ?1 AND producer = ?2 AND instance = ?3 AND first <= ?5 + 1 AND last >= ?4 - 1)",
         "DELETE FROM sequence WHERE topic = ?1 AND producer = ?2 AND instance = ?3 AND first >= ?4 AND last <= ?5",
         "INSERT INTO sequence(topic, producer, instance, first, last) VALUES(?1, ?2, ?3, ?4, ?5)"}};
    bool sequences = a->account.type == ACCOUNT_SEQUENCES;
    int64_t first = range[0], last = range[1];
    for (int i = 0; i < 3; i++) {
        sqlite3_stmt *s = query(a, sql[sequences][i], err);
        if (s == NULL) return -1;
        sqlite3_bind_int64(s, 1, topic);
        sqlite3_bind_int64(s, 2, a->account.where);
        sqlite3_bind_int64(s, 3, m->id);
        sqlite3_bind_int64(s, 4, first);
        sqlite3_bind_int64(s, 5, last);
        if (!sequences)
            sqlite3_bind_int64(s, 6, a->account.type == ACCOUNT_RETRACTED ? DB_RANGE_RETRACTED : DB_RANGE_LOGGED);
        int r = db_step(s, err);
        if (r == 1 && sqlite3_column_type(s, 0) == SQLITE_INTEGER) {
            first = sqlite3_column_int64(s, 0);
            last = sqlite3_column_int64(s, 1);
        }
        sqlite3_finalize(s);
        if (r < 0) return -1;
    }
    if (sequences) count_learn(a->count, topic, (uint64_t)a->account.where, range[0], range[1]);
    return 0;
}

static void beat_take(struct accounts *a, struct member *m) {
    const struct account *t = &a->account;
    m->beat = t->number;
    m->left = t->left;
    for (size_t i = 0; i < t->seens; i++)
        if (strcmp(t->seen[i].instance, a->config->instance) == 0 && strcmp(t->seen[i].log, a->log) == 0 &&
            t->seen[i].beat > m->seen)
            m->seen = t->seen[i].beat;
}

/* Whether it is newer than all that was taken of its log. One that cannot count was told by an earlier version; once it
 * can, copies of what it told before are old. */
static bool fresh(struct accounts *a, struct member *m) {
    const struct account *t = &a->account;
    int64_t now_ms = clock_wall_ms(a->clock);
    if (t->order == 0 && m->order == 0) return true;
    if (t->order > m->order && a->message.partition == 0) {
        m->order = t->order;
        return true;
    }
    stats_add(a->stats, M_recon_account_refuse, 1);
    if (a->stale_ms != 0 && now_ms - a->stale_ms < STALE_AGAIN_MS) return false;
    a->stale_ms = now_ms;
    log_warn("recon.account_stale",
             "%s/%" PRId32 "/%" PRId64 ": %s, log %.8s has told this before, and something newer since",
             a->config->recon.anchor_topic, a->message.partition, a->message.offset, m->instance, m->log);
    return false;
}

static int account_take(struct accounts *a, struct err *err) {
    const struct account *t = &a->account;
    int64_t topic = -1;
    if (strcmp(t->group, a->config->kafka.group_id) != 0) return 0;
    if (ours(a, t)) {
        if (t->order > a->order) a->order = t->order; /* of before recon.db was made anew */
        return 0;
    }
    if (t->type != ACCOUNT_BEAT) {
        if (config_topic_index(a->config, t->topic) < 0) return 0;
        if ((topic = db_topic(a->db, t->topic, true, err)) < 0) return -1;
    }
    struct member *m = member_find(a, t->instance, t->log);
    if (m == NULL && (m = member_add(a, t, err)) == NULL) return err->code == 0 ? 0 : -1;
    if (!fresh(a, m)) return 0;
    m->heard_ms = clock_wall_ms(a->clock);
    m->silent = false;
    if (t->type == ACCOUNT_BEAT) {
        beat_take(a, m);
        return member_put(a, m, err);
    }
    if (t->type <= ACCOUNT_LOAD) return row_take(a, m, topic, err);
    for (size_t i = 0; i < t->ranges; i++)
        if (range_take(a, m, topic, t->range[i], err) != 0) return -1;
    return 0;
}

static int position_put(struct accounts *a, const int64_t next[], const bool moved[], int partitions, struct err *err) {
    for (int p = 0; p < partitions; p++) {
        if (!moved[p]) continue;
        sqlite3_stmt *s = query(a, "INSERT OR REPLACE INTO account_position VALUES(?, ?)", err);
        if (s == NULL) return -1;
        sqlite3_bind_int64(s, 1, p);
        sqlite3_bind_int64(s, 2, next[p]);
        if (finish(s, err) != 0) return -1;
    }
    return 0;
}

static int orders_put(struct accounts *a, struct err *err) {
    for (size_t i = 0; i < a->members; i++) {
        struct member *m = &a->member[i];
        if (m->order == m->order_put) continue;
        sqlite3_stmt *s = query(a, "INSERT OR REPLACE INTO account_order(id, number) VALUES(?, ?)", err);
        if (s == NULL) return -1;
        sqlite3_bind_int64(s, 1, m->id);
        sqlite3_bind_int64(s, 2, m->order_put = m->order);
        if (finish(s, err) != 0) return -1;
    }
    return 0;
}

/* Returns how many messages came, -1 with err. */
static int take(struct accounts *a, struct err *err) {
    enum { PARTITIONS = 256 };
    int64_t next[PARTITIONS];
    bool moved[PARTITIONS] = {false};
    int n = 0;
    for (; n < TAKE_MAX && a->port->next(a->port->self, &a->message); n++) {
        const struct account_message *m = &a->message;
        if (account_parse(&a->account, &a->key, m->text, m->len) == 0 && account_take(a, err) != 0) return -1;
        if (m->partition < 0 || m->partition >= PARTITIONS) continue;
        next[m->partition] = m->offset + 1;
        moved[m->partition] = true;
    }
    return n > 0 && (position_put(a, next, moved, PARTITIONS, err) != 0 || orders_put(a, err) != 0) ? -1 : n;
}

/* -- telling ----------------------------------------------------------------------------------- */

static const char *const tell_sql[] = {
    [ACCOUNT_TALLY] = "SELECT digest_sum, published_digest_sum, seen, applied, superseded, deleted, expired, filtered,"
                      " in_retry, dead_lettered, duplicate, delayed, altered, late, undeclared, repeat, bytes,"
                      " digested, published, offset_min, offset_max FROM tally WHERE instance = 0 AND topic = ?1 AND"
                      " partition = ?2 AND start_ms = ?3",
    [ACCOUNT_ORIGIN] = "SELECT digest_sum, seen, bytes, digested FROM origin WHERE instance = 0 AND topic = ?1 AND"
                       " producer = ?2 AND start_ms = ?3",
    [ACCOUNT_LOAD] = "SELECT digest_sum, seen, applied, superseded, deleted, expired, filtered, in_retry,"
                     " dead_lettered, duplicate, delayed, altered, late, undeclared, repeat, bytes, digested,"
                     " offset_min, offset_max FROM load_tally WHERE instance = 0 AND topic = ?1 AND partition = ?2 AND"
                     " load = ?4",
    [ACCOUNT_OFFSETS] = "SELECT first, last FROM offset_range WHERE instance = 0 AND kind = 0 AND topic = ?1 AND"
                        " partition = ?2 AND first = ?3",
    [ACCOUNT_RETRACTED] = "SELECT first, last FROM offset_range WHERE instance = 0 AND kind = 3 AND topic = ?1 AND"
                          " partition = ?2 AND first = ?3",
    [ACCOUNT_SEQUENCES] = "SELECT first, last FROM sequence WHERE instance = 0 AND topic = ?1 AND producer = ?2 AND"
                          " first = ?3",
};

static void begin(struct accounts *a, enum account_type type) {
    struct account *t = &a->account;
    memset(t, 0, offsetof(struct account, count));
    t->counts = t->digests = t->ranges = t->seens = 0;
    t->type = type;
    snprintf(t->group, sizeof t->group, "%s", a->config->kafka.group_id);
    snprintf(t->instance, sizeof t->instance, "%s", a->config->instance);
    snprintf(t->log, sizeof t->log, "%s", a->log);
}

static bool send(struct accounts *a) {
    int64_t now_us = clock_wall_ms(a->clock) * 1000;
    a->order = a->order < now_us ? now_us : a->order + 1;
    a->account.order = a->order;
    size_t len = account_write(&a->account, &a->key, a->message.text);
    return a->port->send(a->port->self, a->message.text, len);
}

static int topic_name(struct accounts *a, int64_t id, char out[TOPIC_BYTES], struct err *err) {
    sqlite3_stmt *s = query(a, "SELECT name FROM topic WHERE id = ?", err);
    if (s == NULL) return -1;
    sqlite3_bind_int64(s, 1, id);
    int r = db_step(s, err);
    if (r == 1) snprintf(out, TOPIC_BYTES, "%s", (const char *)sqlite3_column_text(s, 0));
    sqlite3_finalize(s);
    return r == 1 ? 0 : -1;
}

/* Fills the message from a row of tell_sql. */
static void row_fill(struct account *t, sqlite3_stmt *s) {
    if (t->type >= ACCOUNT_OFFSETS) {
        t->range[t->ranges][0] = sqlite3_column_int64(s, 0);
        t->range[t->ranges++][1] = sqlite3_column_int64(s, 1);
        return;
    }
    int at = 0;
    for (t->digests = row_digests[t->type]; (size_t)at < t->digests; at++) {
        memset(t->digest[at], 0, DIGEST_BYTES);
        if (sqlite3_column_bytes(s, at) == DIGEST_BYTES)
            memcpy(t->digest[at], sqlite3_column_blob(s, at), DIGEST_BYTES);
    }
    for (t->counts = 0; t->counts < row_counts[t->type]; at++) t->count[t->counts++] = sqlite3_column_int64(s, at);
}

/* Hands one changed row to the port. 1 done (or there is nothing to tell any more: it was joined to another range), 0
 * no room, -1 with err. */
static int row_tell(struct accounts *a, const struct told *d, struct err *err) {
    struct account *t = &a->account;
    begin(a, (enum account_type)d->kind);
    if (topic_name(a, d->topic, t->topic, err) != 0) return -1;
    t->where = d->a;
    t->start_ms = d->b;
    memcpy(t->load, d->load, sizeof t->load);
    sqlite3_stmt *s = query(a, tell_sql[d->kind], err);
    if (s == NULL) return -1;
    sqlite3_bind_int64(s, 1, d->topic);
    sqlite3_bind_int64(s, 2, d->a);
    sqlite3_bind_int64(s, 3, d->b);
    sqlite3_bind_blob(s, 4, d->load, d->load_bytes, SQLITE_STATIC);
    int r = db_step(s, err);
    if (r == 1) row_fill(t, s);
    sqlite3_finalize(s);
    return r < 0 ? -1 : r == 0 || send(a) ? 1 : 0;
}

/* What was told and is with the brokers now. A row that has changed since then stays, as of now. */
static int told_settle(struct accounts *a, struct err *err) {
    static const char *const sql[] = {
        "DELETE FROM account_changed WHERE kind = ?1 AND topic = ?2 AND a = ?3 AND b = ?4 AND load = ?5 AND"
        " version = ?6",
        "UPDATE account_changed SET stamp = ?7 WHERE kind = ?1 AND topic = ?2 AND a = ?3 AND b = ?4 AND load = ?5"};
    for (size_t i = 0; i < a->tolds; i++)
        for (int k = 0; k < 2; k++) {
            const struct told *d = &a->told[i];
            sqlite3_stmt *s = query(a, sql[k], err);
            if (s == NULL) return -1;
            sqlite3_bind_int64(s, 1, d->kind);
            sqlite3_bind_int64(s, 2, d->topic);
            sqlite3_bind_int64(s, 3, d->a);
            sqlite3_bind_int64(s, 4, d->b);
            sqlite3_bind_blob(s, 5, d->load, d->load_bytes, SQLITE_STATIC);
            sqlite3_bind_int64(s, 6, d->version);
            sqlite3_bind_int64(s, 7, a->stamp);
            if (finish(s, err) != 0) return -1;
        }
    a->tolds = 0;
    return 0;
}

/* Rows of one kind. Returns how many were told, -1 with err; *full: the port has no room. */
static int kind_tell(struct accounts *a, enum account_type kind, bool *full, struct err *err) {
    int r, n = 0;
    sqlite3_stmt *s =
        query(a, "SELECT topic, a, b, load, version FROM account_changed WHERE kind = ?1 ORDER BY stamp LIMIT ?2", err);
    if (s == NULL) return -1;
    sqlite3_bind_int64(s, 1, kind);
    sqlite3_bind_int64(s, 2, (int64_t)(TELL_MAX - a->tolds));
    while ((r = db_step(s, err)) == 1) {
        struct told *d = &a->told[a->tolds];
        *d = (struct told){.kind = kind,
                           .topic = sqlite3_column_int64(s, 0),
                           .a = sqlite3_column_int64(s, 1),
                           .b = sqlite3_column_int64(s, 2),
                           .version = sqlite3_column_int64(s, 4)};
        d->load_bytes = sqlite3_column_bytes(s, 3) == sizeof d->load ? (int)sizeof d->load : 0;
        if (d->load_bytes > 0) memcpy(d->load, sqlite3_column_blob(s, 3), sizeof d->load);
        r = row_tell(a, d, err);
        *full = r == 0;
        if (r <= 0) break;
        a->tolds++;
        n++;
    }
    sqlite3_finalize(s);
    return r < 0 ? -1 : n;
}

/* Returns how many rows were told, -1 with err. What two logs have is known before it is counted twice, and called
 * retracted after it was taken out: so offsets come first, then the tallies, then what was retracted. */
static int tell(struct accounts *a, struct err *err) {
    static const enum account_type order[] = {ACCOUNT_OFFSETS, ACCOUNT_TALLY,     ACCOUNT_ORIGIN,
                                              ACCOUNT_LOAD,    ACCOUNT_RETRACTED, ACCOUNT_SEQUENCES};
    int n = 0;
    bool full = false;
    if (a->tolds > 0) {
        if (a->port->unsent(a->port->self) > 0) return 0;
        if (a->port->lost(a->port->self))
            a->tolds = 0; /* they are told again */
        else if (told_settle(a, err) != 0)
            return -1;
    }
    for (size_t i = 0; i < sizeof order / sizeof order[0] && !full && a->tolds < TELL_MAX; i++) {
        int told = kind_tell(a, order[i], &full, err);
        if (told < 0) return -1;
        n += told;
    }
    return n;
}

/* The lines of the anchors file, as they stand. Returns how many, -1 with err. */
static int anchors_tell(struct accounts *a, struct err *err) {
    char path[PATH_BYTES + 32];
    int n = 0;
    log_dir(a->config, path);
    snprintf(path + strlen(path), 16, "/anchors");
    if (a->anchors_next > a->anchors_at) {
        if (a->port->unsent(a->port->self) > 0) return 0;
        if (a->port->lost(a->port->self))
            a->anchors_next = a->anchors_at; /* told again */
        else if (db_meta_set(a->db, "anchors_told", a->anchors_at = a->anchors_next, err) != 0)
            return -1;
    }
    FILE *f = fopen(path, "re");
    if (f == NULL) return 0;                                                                           /* none yet */
    if (fseek(f, 0, SEEK_END) == 0 && ftell(f) < a->anchors_next) a->anchors_next = a->anchors_at = 0; /* another one */
    for (fseek(f, a->anchors_next, SEEK_SET); n < TELL_MAX; n++) {
        if (fgets(a->message.text, sizeof a->message.text, f) == NULL) break;
        size_t len = strlen(a->message.text);
        if (len == 0 || a->message.text[len - 1] != '\n') break; /* it is being written */
        a->message.text[len - 1] = '\0';
        if (!a->port->send(a->port->self, a->message.text, len - 1)) break;
        a->anchors_next += (int64_t)len;
    }
    fclose(f);
    return n;
}

/* -- beats ------------------------------------------------------------------------------------- */

void accounts_log_end(struct accounts *a) {
    a->log_ended = true;
    if (a->answer.pending) return;
    a->answer.pending = true;
    a->answer.stamp = a->stamp;
    for (size_t i = 0; i < a->members; i++) a->answer.beat[i] = a->member[i].beat;
    for (size_t i = a->members; i < MEMBERS_MAX; i++) a->answer.beat[i] = 0;
}

/* The stamp that changes get from now on is one that the pending answer does not wait for. */
static int stamp_raise(struct accounts *a, struct err *err) {
    if (!a->answer.pending || a->answer.stamp < a->stamp) return 0;
    return db_meta_set(a->db, "account_stamp", ++a->stamp, err);
}

static int oldest_stamp(struct accounts *a, int64_t *out, struct err *err) {
    sqlite3_stmt *s = query(a, "SELECT coalesce(min(stamp), ?) FROM account_changed", err);
    if (s == NULL) return -1;
    sqlite3_bind_int64(s, 1, INT64_MAX);
    int r = db_step(s, err);
    *out = r == 1 ? sqlite3_column_int64(s, 0) : 0;
    sqlite3_finalize(s);
    return r == 1 ? 0 : -1;
}

static int beat(struct accounts *a, struct err *err) {
    int64_t oldest, now_ms = clock_wall_ms(a->clock);
    uint64_t now_ns = clock_ns(a->clock);
    if (!a->answer.pending || a->tolds > 0 || a->left_sent || now_ns < a->beat_ns) return 0;
    if (oldest_stamp(a, &oldest, err) != 0) return -1;
    if (oldest <= a->answer.stamp) return 0;
    begin(a, ACCOUNT_BEAT);
    a->account.number = now_ms > a->beat ? now_ms : a->beat + 1;
    a->account.left = a->leaving && oldest == INT64_MAX;
    for (size_t i = 0; i < a->members; i++) {
        struct account_seen *seen = &a->account.seen[a->account.seens];
        if (a->member[i].gone || a->answer.beat[i] == 0) continue;
        snprintf(seen->instance, sizeof seen->instance, "%s", a->member[i].instance);
        snprintf(seen->log, sizeof seen->log, "%s", a->member[i].log);
        seen->beat = a->answer.beat[i];
        a->account.seens++;
    }
    if (!send(a)) return 0;
    a->beat = a->account.number;
    a->left_sent = a->account.left;
    a->answer.pending = false;
    a->beat_ns = now_ns + (a->leaving ? 0 : ACCOUNT_BEAT_MS * NS_PER_MS);
    return 1;
}

uint64_t accounts_ask(struct accounts *a) { return (uint64_t)a->beat + 1; }

bool accounts_answered(const struct accounts *a, uint64_t beat) {
    if (a->beat < (int64_t)beat) return false;
    for (size_t i = 0; i < a->members; i++) {
        const struct member *m = &a->member[i];
        if (!m->gone && !m->left && !m->silent && m->seen < (int64_t)beat) return false;
    }
    return true;
}

void accounts_leave(struct accounts *a) { a->leaving = true; }

bool accounts_told(struct accounts *a) {
    if (!a->left_sent || a->port->unsent(a->port->self) > 0) return false;
    if (a->port->lost(a->port->self)) a->left_sent = false;
    return a->left_sent;
}

/* -- what is gone ------------------------------------------------------------------------------ */

/* What a log that is gone has told of, and, where another has gone on further up, what it has not. */
static const char gone_sql[] =
    "WITH g AS (SELECT topic, partition, min(first) first, max(last) last, sum(last - first + 1) n FROM offset_range"
    " WHERE instance = ?1 AND kind = 0 GROUP BY topic, partition)"
    " SELECT t.name, g.partition, g.first, g.last, g.n, CASE WHEN NOT EXISTS (SELECT 1 FROM offset_range x WHERE"
    "  x.topic = g.topic AND x.partition = g.partition AND x.kind = 0 AND x.first <= g.last + 1 AND x.last > g.last)"
    "  THEN (SELECT min(x.first) FROM offset_range x WHERE x.topic = g.topic AND x.partition = g.partition AND"
    "  x.kind = 0 AND x.first > g.last) END"
    " FROM g JOIN topic t ON t.id = g.topic";

static int gone_raise(struct accounts *a, const struct member *m, sqlite3_stmt *s, struct err *err) {
    char subject[EXCEPTION_SUBJECT_BYTES], untold[128] = "";
    int partition = sqlite3_column_int(s, 1);
    int64_t first = sqlite3_column_int64(s, 2), end = sqlite3_column_int64(s, 3) + 1, n = sqlite3_column_int64(s, 4);
    if (sqlite3_column_type(s, 5) == SQLITE_INTEGER) {
        int64_t next = sqlite3_column_int64(s, 5);
        snprintf(untold, sizeof untold, "; of offsets [%" PRId64 ", %" PRId64 ") nobody tells anything", end, next);
        n += next - end;
    }
    const struct exception_about about = {EXCEPTION_EVIDENCE_LOST, (const char *)sqlite3_column_text(s, 0), -1,
                                          subject};
    snprintf(subject, sizeof subject, "%s/%.8s partition %d", m->instance, m->log, partition);
    return exception_raise(a->db, a->config, &about, n, clock_wall_ms(a->clock), err,
                           "the log of %s that had partition %d, offsets [%" PRId64 ", %" PRId64 "), is gone: its "
                           "account stands, its entries cannot be shown%s",
                           m->instance, partition, first, end, untold);
}

static int gone_report(struct accounts *a, struct member *m, struct err *err) {
    int r;
    sqlite3_stmt *s = query(a, gone_sql, err);
    if (s == NULL) return -1;
    sqlite3_bind_int64(s, 1, m->id);
    while ((r = db_step(s, err)) == 1)
        if ((r = gone_raise(a, m, s, err)) != 0) break;
    sqlite3_finalize(s);
    m->reported_ms = clock_wall_ms(a->clock);
    return r;
}

/* A member that was there and says nothing any more is waited for only so long. */
static int members_watch(struct accounts *a, struct err *err) {
    int64_t now_ms = clock_wall_ms(a->clock);
    for (size_t i = 0; i < a->members; i++) {
        struct member *m = &a->member[i];
        int64_t quiet_ms = now_ms - m->heard_ms;
        bool due = m->gone && quiet_ms > GONE_QUIET_MS && now_ms - m->reported_ms > GONE_AGAIN_MS;
        if (due && gone_report(a, m, err) != 0) return -1;
        if (m->gone || m->left || m->silent || quiet_ms < (int64_t)a->config->recon.late_after_ms) continue;
        m->silent = true;
        log_warn("recon.account_missing", "nothing from %s for %" PRId64 " s: windows are judged without it",
                 m->instance, quiet_ms / 1000);
    }
    return 0;
}

/* What two logs have counts for the one that sorts first. */
static int overlaps_remove(struct accounts *a, struct err *err) {
    uint64_t now_ns = clock_ns(a->clock);
    if (now_ns < a->overlap_ns) return 0;
    a->overlap_ns = now_ns + OVERLAP_MS * NS_PER_MS;
    for (size_t i = 0; i < a->members; i++) {
        const struct member *m = &a->member[i];
        int order = strcmp(m->instance, a->config->instance);
        if (m->gone || order < 0 || (order == 0 && strcmp(m->log, a->log) < 0))
            if (overlap_remove(a->db, a->count, a->config, m->id, err) != 0) return -1;
    }
    return 0;
}

int accounts_even(struct accounts *a, struct err *err) {
    if (a->members == 0) return 1;
    int open = overlap_open(a->db, err);
    return open < 0 ? -1 : !open;
}

/* -- life -------------------------------------------------------------------------------------- */

static int positions_seek(struct accounts *a, struct err *err) {
    int r;
    sqlite3_stmt *s = query(a, "SELECT partition, next FROM account_position", err);
    if (s == NULL) return -1;
    while ((r = db_step(s, err)) == 1)
        a->port->seek(a->port->self, sqlite3_column_int(s, 0), sqlite3_column_int64(s, 1));
    sqlite3_finalize(s);
    return r;
}

static int tables_make(sqlite3 *db, struct err *err) {
    if (db_run(db, "BEGIN IMMEDIATE", err) != 0) return -1;
    if (db_run(db, accounts_schema, err) == 0 &&
        (db_meta_get(db, "account_begun", 0) == 1 || db_run(db, accounts_begin, err) == 0) &&
        db_run(db, "COMMIT", err) == 0)
        return 0;
    db_run(db, "ROLLBACK", NULL);
    return -1;
}

struct accounts *accounts_open(sqlite3 *db, struct count *count, const struct config *config,
                               const struct digest_key *key, const struct account_port *port,
                               const struct clock_port *clock, struct stats_local *stats, struct err *err) {
    struct accounts *a = calloc(1, sizeof *a);
    CHECK(a != NULL);
    a->db = db;
    a->count = count;
    a->config = config;
    a->port = port;
    a->clock = clock;
    a->stats = stats;
    a->key = *key;
    port->rewind(port->self);
    if (tables_make(db, err) == 0 && log_id(a, err) == 0 && members_read(a, err) == 0 && positions_seek(a, err) == 0) {
        if (a->members > 0) count_shared(count, true);
        a->stamp = db_meta_get(db, "account_stamp", 0);
        a->order = db_meta_get(db, "account_order", 0);
        a->anchors_at = a->anchors_next = db_meta_get(db, "anchors_told", 0);
        return a;
    }
    accounts_close(a);
    return NULL;
}

void accounts_close(struct accounts *a) {
    if (a == NULL) return;
    digest_key_clear(&a->key);
    free(a);
}

int accounts_step(struct accounts *a, struct err *err) {
    int taken = take(a, err);
    if (taken < 0 || stamp_raise(a, err) != 0) return -1;
    int told = tell(a, err);
    if (told < 0) return -1;
    int anchored = a->tolds == 0 ? anchors_tell(a, err) : 0;
    int beaten = beat(a, err);
    if (anchored < 0 || beaten < 0 || members_watch(a, err) != 0 || overlaps_remove(a, err) != 0) return -1;
    if ((told > 0 || beaten > 0) && db_meta_set(a->db, "account_order", a->order, err) != 0) return -1;
    return taken > 0 || told > 0 || beaten > 0;
}

#include "recon/count.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "recon/ids.h"
#include "recon/pairs.h"
#include "shm/record.h"

enum { CELLS_KEPT = 1 << 14, CELL_ID_BYTES = 16, HITS = 256 };
#define AHEAD_MS 86400000

struct count_limits count_limits = {.producers = 65536, .sequences = 65536, .loads = 10000, .windows = 100000};

enum cell_kind { CELL_NONE, CELL_TALLY, CELL_ORIGIN, CELL_LOAD };

struct cell_key { /* no padding: compared as bytes */
    int64_t topic, where /* partition, or producer */, start_ms /* 0 of a load */;
    uint8_t load[16];
    uint64_t kind;
};

struct cell {
    struct cell_key key;
    int64_t n[COUNT_WHAT_COUNT];
    uint8_t digest_sum[DIGEST_BYTES], published_digest_sum[DIGEST_BYTES];
    int64_t offset_min, offset_max; /* INT64_MAX, -1: none */
    bool dirty;
};

struct stream { /* the sequence numbers of a producer in a topic */
    int64_t topic;
    uint64_t producer;
    struct spans numbers;
    struct spans all; /* with those that other instances have logged; empty: there are none */
};

struct topic {
    char name[TOPIC_BYTES];
    int64_t id;
    int config;
};

enum statement {
    S_TALLY_GET,
    S_TALLY_PUT,
    S_ORIGIN_GET,
    S_ORIGIN_PUT,
    S_LOAD_GET,
    S_LOAD_PUT,
    S_LOAD_TOUCH,
    S_SEQUENCE_CUT,
    S_SEQUENCE_PUT,
    S_RANGE_CUT,
    S_RANGE_PUT,
    S_PLACE_PUT,
    S_WINDOW_DIRTY,
    S_RECORD_PUT,
    S_REJECT_FIND,
    S_REJECT_DROP,
    S_UNEXPLAINED_DROP,
    S_DUPLICATE_FIND,
    S_FOUND_DROP,
    STATEMENT_COUNT
};

#define COLUMNS                                                                                                        \
    "seen, applied, superseded, deleted, expired, filtered, in_retry, dead_lettered, duplicate, delayed, altered, "    \
    "late, undeclared, repeat, bytes, digested, digest_sum, offset_min, offset_max"

static const char *const sql[STATEMENT_COUNT] = {
    [S_TALLY_GET] =
        "SELECT " COLUMNS ", published, published_digest_sum FROM tally WHERE topic = ?1 AND partition = ?2 "
        "AND start_ms = ?3 AND instance = 0",
    [S_TALLY_PUT] = "INSERT OR REPLACE INTO tally(topic, partition, start_ms, " COLUMNS
                    ", published, published_digest_sum, instance) "
                    "VALUES(?,?,?, ?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?, ?,?, 0)",
    [S_ORIGIN_GET] = "SELECT seen, bytes, digested, digest_sum FROM origin WHERE topic = ?1 AND producer = ?2 "
                     "AND start_ms = ?3 AND instance = 0",
    [S_ORIGIN_PUT] = "INSERT OR REPLACE INTO origin(topic, producer, start_ms, seen, bytes, digested, digest_sum, "
                     "instance) VALUES(?,?,?, ?,?,?,?, 0)",
    [S_LOAD_GET] = "SELECT " COLUMNS " FROM load_tally WHERE topic = ?1 AND partition = ?2 AND load = ?3 "
                   "AND instance = 0",
    [S_LOAD_PUT] = "INSERT OR REPLACE INTO load_tally(topic, partition, load, " COLUMNS
                   ", instance) VALUES(?,?,?, ?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?, 0)",
    [S_LOAD_TOUCH] = "UPDATE load SET changed_ms = max(changed_ms, ?3) WHERE topic = ?1 AND id = ?2",
    [S_SEQUENCE_CUT] = "DELETE FROM sequence WHERE topic = ?1 AND producer = ?2 AND instance = 0 "
                       "AND first BETWEEN ?3 AND ?4",
    [S_SEQUENCE_PUT] = "INSERT INTO sequence(topic, producer, first, last, instance) VALUES(?,?,?,?, 0)",
    [S_RANGE_CUT] = "DELETE FROM offset_range WHERE topic = ?1 AND partition = ?2 AND instance = 0 AND kind = ?5 "
                    "AND first BETWEEN ?3 AND ?4",
    [S_RANGE_PUT] = "INSERT INTO offset_range(topic, partition, first, last, kind, instance) VALUES(?,?,?,?,?, 0)",
    [S_PLACE_PUT] = "INSERT OR REPLACE INTO place(topic, partition, first, next, epoch, scan_sequence) "
                    "VALUES(?,?,?,?,?,?)",
    [S_WINDOW_DIRTY] = "INSERT INTO window(topic, start_ms, state, evidence, published, seen, in_flight, unexplained, "
                       "unpublished, reason, since_ms, checked_ms, dirty) "
                       "VALUES(?1, ?2, 0, ?3, -1, 0, 0, 0, 0, '', 0, 0, 1) ON CONFLICT DO UPDATE SET dirty = 1",
    [S_RECORD_PUT] = "INSERT OR IGNORE INTO record(topic, start_ms, kind, partition, \"offset\", producer, sequence, "
                     "id, log_sequence, other, outcome, reason, created_ms, noted_ms, load) "
                     "VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    [S_REJECT_FIND] = "SELECT start_ms FROM record WHERE topic = ?1 AND partition = ?2 AND \"offset\" = ?3 "
                      "AND kind = 3",
    [S_REJECT_DROP] = "DELETE FROM record WHERE topic = ?1 AND partition = ?2 AND \"offset\" = ?3 AND kind = 3",
    [S_UNEXPLAINED_DROP] = "DELETE FROM record WHERE topic = ?1 AND partition = ?2 AND \"offset\" = ?3 AND kind = 0",
    [S_DUPLICATE_FIND] = "SELECT start_ms FROM record WHERE topic = ?1 AND partition = ?2 AND \"offset\" = ?3 "
                         "AND kind = 4",
    [S_FOUND_DROP] = "DELETE FROM record WHERE topic = ?1 AND partition = ?2 AND \"offset\" = ?3 "
                     "AND kind IN (3, 4, 5, 6, 7)",
};
static_assert(FOUND_REJECTED == 3 && FOUND_UNEXPLAINED == 0 && FOUND_DUPLICATE == 4 && FOUND_LATE == 7,
              "as the statements have it");

struct count {
    sqlite3 *db;
    const struct config *config;
    struct ids *ids;
    bool shared;
    sqlite3_stmt *statement[STATEMENT_COUNT];
    struct cell *cell; /* open addressing, a power of two, at most half full */
    size_t cells, cells_used;
    struct pairs streams; /* topic, producer: struct stream */
    struct pairs loads;   /* halves of the id: any */
    struct pairs windows; /* topic, start_ms: any; those far from now */
    int64_t limited[LIMIT_COUNT];
    int64_t now_ms; /* of the transaction before: what is far */
    struct count_partition **partition;
    size_t partitions;
    struct count_partition *hit[HITS]; /* found lately */
    struct topic *topic;
    size_t topics;
    int64_t configured[TOPICS_MAX];
};

/* -- statements -------------------------------------------------------------------------------- */

static sqlite3_stmt *use(struct count *c, enum statement s, int64_t a, int64_t b, int64_t d) {
    sqlite3_stmt *it = c->statement[s];
    sqlite3_reset(it);
    sqlite3_bind_int64(it, 1, a);
    sqlite3_bind_int64(it, 2, b);
    sqlite3_bind_int64(it, 3, d);
    return it;
}

/* For statements that give no rows. */
static int done(sqlite3_stmt *s, struct err *err) {
    int r = db_step(s, err);
    CHECK(r != 1);
    return r;
}

/* -- cells ------------------------------------------------------------------------------------- */

static size_t cell_slot(const struct count *c, const struct cell_key *key) {
    uint64_t word[sizeof *key / 8], h = 0;
    memcpy(word, key, sizeof *key);
    for (size_t i = 0; i < sizeof word / sizeof word[0]; i++) h = (h ^ word[i]) * 0x9e3779b97f4a7c15ULL, h ^= h >> 29;
    size_t i = h & (c->cells - 1);
    while (c->cell[i].key.kind != CELL_NONE && memcmp(&c->cell[i].key, key, sizeof *key) != 0)
        i = (i + 1) & (c->cells - 1);
    return i;
}

static void cells_make(struct count *c, size_t n) {
    struct cell *old = c->cell;
    size_t count = c->cells;
    c->cells = n;
    c->cell = calloc(n, sizeof *c->cell);
    CHECK(c->cell != NULL);
    for (size_t i = 0; i < count; i++)
        if (old[i].key.kind != CELL_NONE) c->cell[cell_slot(c, &old[i].key)] = old[i];
    free(old);
}

static void blob_get(sqlite3_stmt *s, int column, uint8_t out[DIGEST_BYTES]) {
    if (sqlite3_column_bytes(s, column) == DIGEST_BYTES) memcpy(out, sqlite3_column_blob(s, column), DIGEST_BYTES);
}

static void columns_get(sqlite3_stmt *s, struct cell *cell) {
    for (int i = 0; i < COUNT_PUBLISHED; i++) cell->n[i] = sqlite3_column_int64(s, i);
    blob_get(s, COUNT_PUBLISHED, cell->digest_sum);
    cell->offset_min = sqlite3_column_int64(s, COUNT_PUBLISHED + 1);
    cell->offset_max = sqlite3_column_int64(s, COUNT_PUBLISHED + 2);
}

static int cell_read(struct count *c, struct cell *cell, struct err *err) {
    const struct cell_key *k = &cell->key;
    enum statement which = k->kind == CELL_TALLY ? S_TALLY_GET : k->kind == CELL_ORIGIN ? S_ORIGIN_GET : S_LOAD_GET;
    sqlite3_stmt *s = use(c, which, k->topic, k->where, k->start_ms);
    if (which == S_LOAD_GET) sqlite3_bind_blob(s, 3, k->load, sizeof k->load, SQLITE_STATIC);
    int r = db_step(s, err);
    if (r != 1) return r;
    if (which == S_ORIGIN_GET) {
        cell->n[COUNT_SEEN] = sqlite3_column_int64(s, 0);
        cell->n[COUNT_BYTES] = sqlite3_column_int64(s, 1);
        cell->n[COUNT_DIGESTED] = sqlite3_column_int64(s, 2);
        blob_get(s, 3, cell->digest_sum);
    } else {
        columns_get(s, cell);
    }
    if (which == S_TALLY_GET) {
        cell->n[COUNT_PUBLISHED] = sqlite3_column_int64(s, COUNT_PUBLISHED + 3);
        blob_get(s, COUNT_PUBLISHED + 4, cell->published_digest_sum);
    }
    sqlite3_reset(s);
    return 0;
}

/* The cell of key, from memory or the database; valid until the next call. NULL with err. */
static struct cell *cell_get(struct count *c, const struct cell_key *key, struct err *err) {
    size_t i = cell_slot(c, key);
    if (c->cell[i].key.kind != CELL_NONE) return &c->cell[i];
    if (2 * (c->cells_used + 1) > c->cells) {
        cells_make(c, 2 * c->cells);
        i = cell_slot(c, key);
    }
    c->cell[i] = (struct cell){.key = *key, .offset_min = INT64_MAX, .offset_max = -1};
    c->cells_used++;
    return cell_read(c, &c->cell[i], err) == 0 ? &c->cell[i] : NULL;
}

static int cell_put(struct count *c, const struct cell *cell, struct err *err) {
    const struct cell_key *k = &cell->key;
    enum statement which = k->kind == CELL_TALLY ? S_TALLY_PUT : k->kind == CELL_ORIGIN ? S_ORIGIN_PUT : S_LOAD_PUT;
    sqlite3_stmt *s = use(c, which, k->topic, k->where, k->start_ms);
    int at = 4;
    if (which == S_ORIGIN_PUT) {
        sqlite3_bind_int64(s, 4, cell->n[COUNT_SEEN]);
        sqlite3_bind_int64(s, 5, cell->n[COUNT_BYTES]);
        sqlite3_bind_int64(s, 6, cell->n[COUNT_DIGESTED]);
        sqlite3_bind_blob(s, 7, cell->digest_sum, DIGEST_BYTES, SQLITE_STATIC);
        return done(s, err);
    }
    if (which == S_LOAD_PUT) sqlite3_bind_blob(s, 3, k->load, sizeof k->load, SQLITE_STATIC);
    for (int i = 0; i < COUNT_PUBLISHED; i++) sqlite3_bind_int64(s, at++, cell->n[i]);
    sqlite3_bind_blob(s, at++, cell->digest_sum, DIGEST_BYTES, SQLITE_STATIC);
    sqlite3_bind_int64(s, at++, cell->offset_min);
    sqlite3_bind_int64(s, at++, cell->offset_max);
    if (which == S_TALLY_PUT) {
        sqlite3_bind_int64(s, at++, cell->n[COUNT_PUBLISHED]);
        sqlite3_bind_blob(s, at++, cell->published_digest_sum, DIGEST_BYTES, SQLITE_STATIC);
    }
    return done(s, err);
}

/* -- topics, partitions, streams --------------------------------------------------------------- */

static struct topic *topic_add(struct count *c, const char *name, struct err *err) {
    int64_t id = db_topic(c->db, name, true, err);
    if (id < 0) return NULL;
    c->topic = realloc(c->topic, (c->topics + 1) * sizeof *c->topic);
    CHECK(c->topic != NULL);
    struct topic *t = &c->topic[c->topics++];
    *t = (struct topic){.id = id, .config = config_topic_index(c->config, name)};
    snprintf(t->name, sizeof t->name, "%s", name);
    return t;
}

static struct topic *topic_get(struct count *c, const char *name, struct err *err) {
    for (size_t i = 0; i < c->topics; i++)
        if (strcmp(c->topic[i].name, name) == 0) return &c->topic[i];
    return topic_add(c, name, err);
}

struct count_partition *count_each(struct count *c, size_t i) {
    return i < c->partitions ? c->partition[i] : NULL;
}

struct count_partition *count_find(struct count *c, int64_t topic, int32_t partition) {
    struct count_partition **hit = &c->hit[((uint64_t)topic * 61 + (uint64_t)partition) % HITS];
    if (*hit != NULL && (*hit)->partition == partition && (*hit)->topic == topic) return *hit;
    for (size_t i = 0; i < c->partitions; i++)
        if (c->partition[i]->partition == partition && c->partition[i]->topic == topic) return *hit = c->partition[i];
    return NULL;
}

static struct count_partition *partition_add(struct count *c, const struct count_partition *like) {
    c->partition = realloc(c->partition, (c->partitions + 1) * sizeof *c->partition);
    struct count_partition *p = malloc(sizeof *p);
    CHECK(c->partition != NULL && p != NULL);
    *p = *like;
    p->config = -1;
    for (uint32_t i = 0; i < c->config->topic_count; i++)
        if (c->configured[i] == p->topic) p->config = (int)i;
    return c->partition[c->partitions++] = p;
}

static struct stream *stream_find(const struct count *c, int64_t topic, uint64_t producer) {
    return pairs_get(&c->streams, (uint64_t)topic, producer);
}

/* NULL: there are too many. */
static struct stream *stream_get(struct count *c, int64_t topic, uint64_t producer) {
    struct stream *s = stream_find(c, topic, producer);
    if (s != NULL || c->streams.count >= count_limits.producers) return s;
    s = calloc(1, sizeof *s);
    CHECK(s != NULL);
    s->topic = topic;
    s->producer = producer;
    pairs_put(&c->streams, (uint64_t)topic, producer, s);
    return s;
}

/* The next one of those there are; NULL: *at was behind the last. */
static struct stream *stream_each(const struct count *c, size_t *at) {
    while (*at < c->streams.slots && c->streams.slot[*at].value == NULL) ++*at;
    return *at < c->streams.slots ? c->streams.slot[(*at)++].value : NULL;
}

static void streams_free(struct count *c) {
    size_t at = 0;
    for (struct stream *s; (s = stream_each(c, &at)) != NULL; free(s)) {
        spans_free(&s->numbers);
        spans_free(&s->all);
    }
    pairs_free(&c->streams);
}

const struct spans *count_sequences(struct count *c, int64_t topic, uint64_t producer) {
    struct stream *s = stream_find(c, topic, producer);
    return s == NULL ? NULL : s->all.count > 0 ? &s->all : &s->numbers;
}

void count_learn(struct count *c, int64_t topic, uint64_t producer, int64_t first, int64_t last) {
    struct stream *s = stream_get(c, topic, producer);
    if (s == NULL || s->all.count > count_limits.sequences) return;
    bool begun = s->all.count > 0;
    for (size_t i = 0; !begun && i < s->numbers.count; i++)
        spans_add(&s->all, s->numbers.at[i].first, s->numbers.at[i].last);
    spans_add(&s->all, first, last);
}

int64_t count_topic(const struct count *c, uint32_t config_topic) { return c->configured[config_topic]; }
void count_shared(struct count *c, bool shared) { c->shared = shared; }

/* -- opening ----------------------------------------------------------------------------------- */

static int topics_read(struct count *c, struct err *err) {
    sqlite3_stmt *s;
    if (db_prepare(c->db, "UPDATE topic SET evidence = ?2, reconcile = ?3 WHERE id = ?1", &s, err) != 0) return -1;
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < c->config->topic_count; i++) {
        const struct topic *t = topic_add(c, c->config->topic[i].name, err);
        if (t == NULL) {
            r = -1;
            break;
        }
        c->configured[i] = t->id;
        sqlite3_bind_int64(s, 1, t->id);
        sqlite3_bind_int64(s, 2, c->config->topic[i].evidence);
        sqlite3_bind_int64(s, 3, c->config->topic[i].reconcile);
        r = db_step(s, err);
    }
    sqlite3_finalize(s);
    return r;
}

/* Runs a query and hands each row to take. */
static int rows(struct count *c, const char *query, int (*take)(struct count *, sqlite3_stmt *), struct err *err) {
    sqlite3_stmt *s;
    int r;
    if (db_prepare(c->db, query, &s, err) != 0) return -1;
    while ((r = db_step(s, err)) == 1)
        if (take(c, s) != 0) r = err_set(err, EX_DATAERR, "database: offsets without their partition");
    sqlite3_finalize(s);
    return r;
}

static int place_take(struct count *c, sqlite3_stmt *s) {
    struct count_partition p = {.topic = sqlite3_column_int64(s, 0),
                                .partition = sqlite3_column_int(s, 1),
                                .first = sqlite3_column_int64(s, 2),
                                .next = sqlite3_column_int64(s, 3),
                                .epoch = (uint32_t)sqlite3_column_int64(s, 4),
                                .scan_sequence = (uint64_t)sqlite3_column_int64(s, 5)};
    partition_add(c, &p);
    return 0;
}

static int range_take(struct count *c, sqlite3_stmt *s) {
    struct count_partition *p = count_find(c, sqlite3_column_int64(s, 0), sqlite3_column_int(s, 1));
    int kind = sqlite3_column_int(s, 4);
    if (p == NULL || kind < 0 || kind >= DB_RANGE_COUNT) return -1;
    spans_add(&p->range[kind], sqlite3_column_int64(s, 2), sqlite3_column_int64(s, 3));
    spans_clean(&p->range[kind]);
    return 0;
}

static int sequence_take(struct count *c, sqlite3_stmt *s) {
    struct stream *t = stream_get(c, sqlite3_column_int64(s, 0), (uint64_t)sqlite3_column_int64(s, 1));
    if (t == NULL) return 0;
    spans_add(&t->numbers, sqlite3_column_int64(s, 2), sqlite3_column_int64(s, 3));
    spans_clean(&t->numbers);
    return 0;
}

static int others_take(struct count *c, sqlite3_stmt *s) {
    count_learn(c, sqlite3_column_int64(s, 0), (uint64_t)sqlite3_column_int64(s, 1), sqlite3_column_int64(s, 2),
                sqlite3_column_int64(s, 3));
    return 0;
}

static int load_take(struct count *c, sqlite3_stmt *s) {
    uint64_t half[2];
    if (sqlite3_column_bytes(s, 0) != sizeof half) return 0;
    memcpy(half, sqlite3_column_blob(s, 0), sizeof half);
    pairs_put(&c->loads, half[0], half[1], c);
    return 0;
}

static bool far(const struct count *c, int64_t start_ms) {
    return start_ms < c->now_ms - (int64_t)c->config->recon.retention_ms || start_ms > c->now_ms + AHEAD_MS;
}

static int producer_take(struct count *c, sqlite3_stmt *s) {
    stream_get(c, sqlite3_column_int64(s, 0), (uint64_t)sqlite3_column_int64(s, 1));
    return 0;
}

static int window_take(struct count *c, sqlite3_stmt *s) {
    int64_t topic = sqlite3_column_int64(s, 0), start_ms = sqlite3_column_int64(s, 1);
    if (far(c, start_ms)) pairs_put(&c->windows, (uint64_t)topic, (uint64_t)start_ms, c);
    return 0;
}

/* What the limits are for. */
static int limited_read(struct count *c, struct err *err) {
    return rows(c,
                "SELECT topic, producer, first, last FROM sequence WHERE instance = 0 "
                "ORDER BY topic, producer, first",
                sequence_take, err) != 0 ||
                   rows(c,
                        "SELECT topic, producer, first, last FROM sequence WHERE instance <> 0 "
                        "ORDER BY topic, producer, first",
                        others_take, err) != 0 ||
                   rows(c, "SELECT DISTINCT topic, producer FROM manifest", producer_take, err) != 0 ||
                   rows(c, "SELECT id FROM load UNION SELECT load FROM load_tally", load_take, err) != 0 ||
                   rows(c, "SELECT topic, start_ms FROM window", window_take, err) != 0
               ? -1
               : 0;
}

int count_forgot(struct count *c, struct err *err) {
    streams_free(c);
    pairs_free(&c->loads);
    pairs_free(&c->windows);
    return limited_read(c, err);
}

static int read_all(struct count *c, struct err *err) {
    for (int i = 0; i < STATEMENT_COUNT; i++)
        if (db_prepare(c->db, sql[i], &c->statement[i], err) != 0) return -1;
    if (db_run(c->db, "BEGIN IMMEDIATE", err) != 0) return -1;
    if (topics_read(c, err) != 0 || db_run(c->db, "COMMIT", err) != 0) {
        db_run(c->db, "ROLLBACK", NULL);
        return -1;
    }
    return rows(c, "SELECT topic, partition, first, next, epoch, scan_sequence FROM place", place_take, err) != 0 ||
                   rows(c,
                        "SELECT topic, partition, first, last, kind FROM offset_range WHERE instance = 0 "
                        "ORDER BY topic, partition, kind, first",
                        range_take, err) != 0 ||
                   limited_read(c, err) != 0
               ? -1
               : 0;
}

struct count *count_open(sqlite3 *db, const char *dir, const struct config *config, int64_t now_ms, struct err *err) {
    char path[PATH_BYTES + 32];
    struct count *c = calloc(1, sizeof *c);
    CHECK(c != NULL);
    c->db = db;
    c->config = config;
    c->now_ms = now_ms;
    cells_make(c, 1024);
    snprintf(path, sizeof path, "%s/ids", dir);
    c->ids = ids_open(path, err);
    if (c->ids != NULL && read_all(c, err) == 0) return c;
    count_close(c);
    return NULL;
}

void count_close(struct count *c) {
    if (c == NULL) return;
    for (int i = 0; i < STATEMENT_COUNT; i++) sqlite3_finalize(c->statement[i]);
    streams_free(c);
    pairs_free(&c->loads);
    pairs_free(&c->windows);
    for (size_t i = 0; i < c->partitions; i++) {
        for (int k = 0; k < DB_RANGE_COUNT; k++) spans_free(&c->partition[i]->range[k]);
        free(c->partition[i]);
    }
    ids_close(c->ids);
    free(c->cell);
    free(c->partition);
    free(c->topic);
    free(c);
}

/* -- single records ---------------------------------------------------------------------------- */

int count_note(struct count *c, const struct count_found *f, struct err *err) {
    sqlite3_stmt *s = use(c, S_RECORD_PUT, f->topic, f->start_ms, f->kind);
    sqlite3_bind_int64(s, 4, f->partition);
    sqlite3_bind_int64(s, 5, f->offset);
    sqlite3_bind_int64(s, 6, (int64_t)f->producer);
    sqlite3_bind_int64(s, 7, f->sequence);
    sqlite3_bind_blob(s, 8, f->id, CELL_ID_BYTES, SQLITE_STATIC);
    sqlite3_bind_int64(s, 9, (int64_t)f->log_sequence);
    sqlite3_bind_int64(s, 10, (int64_t)f->other);
    sqlite3_bind_int64(s, 11, f->outcome);
    sqlite3_bind_int64(s, 12, f->reason);
    sqlite3_bind_int64(s, 13, f->created_ms);
    sqlite3_bind_int64(s, 14, f->noted_ms);
    sqlite3_bind_blob(s, 15, f->load, CELL_ID_BYTES, SQLITE_STATIC);
    return done(s, err);
}

int count_dirty(struct count *c, int64_t topic, int64_t start_ms, struct err *err) {
    int64_t evidence = EVIDENCE_OFFSETS;
    for (uint32_t i = 0; i < c->config->topic_count; i++)
        if (c->configured[i] == topic) evidence = c->config->topic[i].evidence;
    if (far(c, start_ms) && pairs_get(&c->windows, (uint64_t)topic, (uint64_t)start_ms) == NULL)
        pairs_put(&c->windows, (uint64_t)topic, (uint64_t)start_ms, c);
    return done(use(c, S_WINDOW_DIRTY, topic, start_ms, evidence), err);
}

/* -- limits ------------------------------------------------------------------------------------ */

const char *count_limit_name(enum count_limit l) {
    static const char *const names[] = {"producers", "sequences", "loads", "windows"};
    static_assert(sizeof names / sizeof names[0] == LIMIT_COUNT, "a name for each");
    return names[l];
}

int64_t count_limited(const struct count *c, enum count_limit l) { return c->limited[l]; }

bool count_window_fits(const struct count *c, int64_t topic, int64_t start_ms) {
    return !far(c, start_ms) || pairs_get(&c->windows, (uint64_t)topic, (uint64_t)start_ms) != NULL ||
           c->windows.count < count_limits.windows;
}

bool count_producer_fits(struct count *c, int64_t topic, uint64_t producer) {
    return stream_get(c, topic, producer) != NULL;
}

bool count_crowded(const struct count *c) { return c->streams.count >= count_limits.producers; }

/* Those that are far from now are made at once, so that they are known. */
int count_window_of(struct count *c, int64_t topic, int64_t created_ms, int64_t read_ms, int64_t *start_ms,
                    struct err *err) {
    *start_ms = count_window(created_ms, c->config->recon.window_ms);
    if (!far(c, *start_ms) || pairs_get(&c->windows, (uint64_t)topic, (uint64_t)*start_ms) != NULL) return 0;
    if (c->windows.count < count_limits.windows) return count_dirty(c, topic, *start_ms, err);
    *start_ms = count_window(read_ms, c->config->recon.window_ms);
    c->limited[LIMIT_WINDOWS]++;
    return 0;
}

bool count_load_fits(struct count *c, const uint8_t load[16]) {
    uint64_t half[2];
    memcpy(half, load, sizeof half);
    if (pairs_get(&c->loads, half[0], half[1]) != NULL) return true;
    if (c->loads.count >= count_limits.loads) return false;
    pairs_put(&c->loads, half[0], half[1], c);
    return true;
}

/* -- an entry ---------------------------------------------------------------------------------- */

/* What an entry is, once it was looked at from all sides. */
struct view {
    const struct log_item *item;
    const struct entry *e;
    int64_t topic, start_ms, created_ms, answered_ms;
    enum count_what outcome;
    bool duplicate, sequenced, of_load, delayed, late;
    uint64_t other;
};

static const uint8_t zeros[16];

static enum count_what outcome_of(const struct entry *e) {
    switch (e->outcome) {
    case ENTRY_APPLIED: return COUNT_APPLIED;
    case ENTRY_SUPERSEDED: return COUNT_SUPERSEDED;
    case ENTRY_DELETED: return COUNT_DELETED;
    case ENTRY_EXPIRED: return COUNT_EXPIRED;
    case ENTRY_FILTERED: return COUNT_FILTERED;
    default: return COUNT_DEAD_LETTERED;
    }
}

/* An id that the pipeline derived says no more than the place does. */
static bool id_given(const struct view *v) {
    uint8_t derived[16];
    if (memcmp(v->e->id, zeros, sizeof zeros) == 0) return false;
    if (v->e->id[6] >> 4 != 8) return true;
    record_id_derive(derived, v->item->topic, v->e->partition, v->e->offset);
    return memcmp(derived, v->e->id, sizeof derived) != 0;
}

static int64_t event_ms(const struct entry *e) {
    return e->created_ms >= 0 ? e->created_ms : e->timestamp_ms >= 0 ? e->timestamp_ms : e->ingested_us / 1000;
}

static int view_of(struct count *c, const struct log_item *item, int64_t topic, struct view *v, struct err *err) {
    const struct entry *e = item->entry;
    *v = (struct view){.item = item, .e = e, .topic = topic, .outcome = outcome_of(e)};
    v->created_ms = event_ms(e);
    v->answered_ms = (e->ingested_us + e->answered_us) / 1000;
    if (count_window_of(c, topic, v->created_ms, e->ingested_us / 1000, &v->start_ms, err) != 0) return -1;
    v->delayed = v->answered_ms - v->created_ms > c->config->recon.delayed_after_ms;
    v->late = v->answered_ms > v->start_ms + c->config->recon.window_ms + c->config->recon.late_after_ms;
    v->of_load = memcmp(e->load, zeros, sizeof zeros) != 0 && count_load_fits(c, e->load);
    return 0;
}

/* Its producer's numbers, when it has one: NULL none, or one that is not told apart. */
static struct stream *stream_of(struct count *c, const struct view *v) {
    const struct entry *e = v->e;
    if (e->producer == 0 || e->sequence == 0 || e->sequence > INT64_MAX) return NULL;
    struct stream *s = stream_get(c, v->topic, e->producer);
    if (s == NULL) return NULL;
    bool room = s->numbers.count < count_limits.sequences;
    return room || spans_missing(&s->numbers, (int64_t)e->sequence - 1, (int64_t)e->sequence) < 2 ? s : NULL;
}

/* Takes the entry into the sets that tell duplicates. */
static void identify(struct count *c, struct view *v) {
    const struct entry *e = v->e;
    struct stream *s = stream_of(c, v);
    v->sequenced = s != NULL;
    if (s == NULL && e->producer != 0 && e->sequence != 0)
        c->limited[stream_find(c, v->topic, e->producer) == NULL ? LIMIT_PRODUCERS : LIMIT_SEQUENCES]++;
    if (memcmp(e->load, zeros, sizeof zeros) != 0 && !v->of_load) c->limited[LIMIT_LOADS]++;
    if (v->sequenced) {
        v->duplicate = !spans_add(&s->numbers, (int64_t)e->sequence, (int64_t)e->sequence);
        if (s->all.count > 0) spans_add(&s->all, (int64_t)e->sequence, (int64_t)e->sequence);
    }
    if (!id_given(v)) return;
    v->other = ids_note(c->ids, e->id, v->item->sequence);
    if (v->other != 0) v->duplicate = true;
}

static void cell_add(struct cell *cell, const struct view *v, bool sums) {
    const struct entry *e = v->e;
    cell->n[COUNT_SEEN]++;
    cell->n[v->outcome]++;
    cell->n[COUNT_DUPLICATE] += v->duplicate;
    cell->n[COUNT_DELAYED] += v->delayed;
    cell->n[COUNT_ALTERED] += (e->flags & ENTRY_ALTERED) != 0;
    cell->n[COUNT_LATE] += v->late;
    cell->n[COUNT_UNDECLARED] += !v->sequenced;
    if (e->offset < cell->offset_min) cell->offset_min = e->offset;
    if (e->offset > cell->offset_max) cell->offset_max = e->offset;
    if (sums) {
        cell->n[COUNT_BYTES] += e->published_bytes == RECORD_BYTES_NULL ? 0 : e->published_bytes;
        cell->n[COUNT_DIGESTED] += e->digest_algorithm == DIGEST_HMAC;
        if (e->digest_algorithm == DIGEST_HMAC) digest_sum_add(cell->digest_sum, e->digest_published);
    }
    cell->dirty = true;
}

static struct cell *tally_of(struct count *c, int64_t topic, int32_t partition, int64_t start_ms, struct err *err) {
    struct cell_key key = {.topic = topic, .where = partition, .start_ms = start_ms, .kind = CELL_TALLY};
    return cell_get(c, &key, err);
}

static int list(struct count *c, const struct view *v, enum db_record kind, int64_t listed, struct err *err) {
    const struct entry *e = v->e;
    if (listed > DB_RECORDS_MAX) return 0;
    return count_note(c,
                      &(struct count_found){.kind = kind,
                                            .topic = v->topic,
                                            .start_ms = v->start_ms,
                                            .partition = e->partition,
                                            .offset = e->offset,
                                            .producer = e->producer,
                                            .sequence = (int64_t)e->sequence,
                                            .id = e->id,
                                            .load = memcmp(e->load, zeros, sizeof zeros) != 0 ? e->load : NULL,
                                            .log_sequence = v->item->sequence,
                                            .other = v->other,
                                            .outcome = e->outcome,
                                            .reason = e->reason,
                                            .created_ms = v->created_ms,
                                            .noted_ms = v->answered_ms},
                      err);
}

/* The cells of an entry that is seen for the first time. */
static int cells_add(struct count *c, const struct view *v, struct err *err) {
    const struct entry *e = v->e;
    struct cell *cell = tally_of(c, v->topic, e->partition, v->start_ms, err);
    if (cell == NULL) return -1;
    cell_add(cell, v, true);
    const int64_t *n = cell->n;
    if ((v->outcome == COUNT_DEAD_LETTERED && list(c, v, FOUND_REJECTED, n[COUNT_DEAD_LETTERED], err) != 0) ||
        (v->duplicate && list(c, v, FOUND_DUPLICATE, n[COUNT_DUPLICATE], err) != 0) ||
        (v->delayed && list(c, v, FOUND_DELAYED, n[COUNT_DELAYED], err) != 0) ||
        ((e->flags & ENTRY_ALTERED) != 0 && list(c, v, FOUND_ALTERED, n[COUNT_ALTERED], err) != 0) ||
        (v->late && list(c, v, FOUND_LATE, n[COUNT_LATE], err) != 0))
        return -1;
    if (v->sequenced && !v->duplicate) {
        struct cell_key key = {
            .topic = v->topic, .where = (int64_t)e->producer, .start_ms = v->start_ms, .kind = CELL_ORIGIN};
        if ((cell = cell_get(c, &key, err)) == NULL) return -1;
        cell_add(cell, v, true);
    }
    if (v->of_load) {
        struct cell_key key = {.topic = v->topic, .where = e->partition, .kind = CELL_LOAD};
        memcpy(key.load, e->load, sizeof key.load);
        if ((cell = cell_get(c, &key, err)) == NULL) return -1;
        cell_add(cell, v, !v->duplicate);
    }
    return 0;
}

/* A record that was counted before. One that was rejected then and is not now has changed its class: it was sent again,
 * or read again under a configuration that knows what to do with it. */
static int cells_repeat(struct count *c, const struct view *v, struct err *err) {
    const struct entry *e = v->e;
    struct cell *cell = tally_of(c, v->topic, e->partition, v->start_ms, err);
    if (cell == NULL) return -1;
    cell->n[COUNT_REPEAT]++;
    cell->dirty = true;
    if (v->outcome == COUNT_DEAD_LETTERED || cell->n[COUNT_DEAD_LETTERED] == 0) return 0;
    int r = db_step(use(c, S_REJECT_FIND, v->topic, e->partition, e->offset), err);
    if (r != 1) return r;
    sqlite3_reset(c->statement[S_REJECT_FIND]);
    cell->n[COUNT_DEAD_LETTERED]--;
    cell->n[v->outcome]++;
    if (v->of_load) {
        struct cell_key key = {.topic = v->topic, .where = e->partition, .kind = CELL_LOAD};
        memcpy(key.load, e->load, sizeof key.load);
        if ((cell = cell_get(c, &key, err)) == NULL) return -1;
        cell->n[COUNT_DEAD_LETTERED]--;
        cell->n[v->outcome]++;
        cell->dirty = true;
    }
    return done(use(c, S_REJECT_DROP, v->topic, e->partition, e->offset), err);
}

/* -- what another instance counts ------------------------------------------------------------- */

static void digest_sum_sub(uint8_t sum[DIGEST_BYTES], const uint8_t digest[DIGEST_BYTES]) {
    uint8_t one[DIGEST_BYTES] = {0}, complement[DIGEST_BYTES];
    one[DIGEST_BYTES - 1] = 1;
    for (int i = 0; i < DIGEST_BYTES; i++) complement[i] = (uint8_t)~digest[i];
    digest_sum_add(sum, complement);
    digest_sum_add(sum, one);
}

/* cell_add, undone. The range of offsets stays: it is no count. */
static void cell_sub(struct cell *cell, const struct view *v, bool sums) {
    const struct entry *e = v->e;
    cell->n[COUNT_SEEN]--;
    cell->n[v->outcome]--;
    cell->n[COUNT_DUPLICATE] -= v->duplicate;
    cell->n[COUNT_DELAYED] -= v->delayed;
    cell->n[COUNT_ALTERED] -= (e->flags & ENTRY_ALTERED) != 0;
    cell->n[COUNT_LATE] -= v->late;
    cell->n[COUNT_UNDECLARED] -= !v->sequenced;
    if (sums) {
        cell->n[COUNT_BYTES] -= e->published_bytes == RECORD_BYTES_NULL ? 0 : e->published_bytes;
        cell->n[COUNT_DIGESTED] -= e->digest_algorithm == DIGEST_HMAC;
        if (e->digest_algorithm == DIGEST_HMAC) digest_sum_sub(cell->digest_sum, e->digest_published);
    }
    cell->dirty = true;
}

static int cells_sub(struct count *c, const struct view *v, bool scanned, struct err *err) {
    const struct entry *e = v->e;
    struct cell *cell = tally_of(c, v->topic, e->partition, v->start_ms, err);
    if (cell == NULL) return -1;
    cell_sub(cell, v, true);
    cell->n[COUNT_REPEAT]++;
    if (scanned && cell->n[COUNT_PUBLISHED] > 0) {
        cell->n[COUNT_PUBLISHED]--;
        if (e->digest_algorithm == DIGEST_HMAC) digest_sum_sub(cell->published_digest_sum, e->digest_published);
    }
    if (v->sequenced && !v->duplicate) {
        struct cell_key key = {
            .topic = v->topic, .where = (int64_t)e->producer, .start_ms = v->start_ms, .kind = CELL_ORIGIN};
        if ((cell = cell_get(c, &key, err)) == NULL) return -1;
        cell_sub(cell, v, true);
    }
    if (!v->of_load) return 0;
    struct cell_key key = {.topic = v->topic, .where = e->partition, .kind = CELL_LOAD};
    memcpy(key.load, e->load, sizeof key.load);
    if ((cell = cell_get(c, &key, err)) == NULL) return -1;
    cell_sub(cell, v, !v->duplicate);
    return 0;
}

int count_retract(struct count *c, struct count_partition *p, const struct log_item *item, struct err *err) {
    const struct entry *e = item->entry;
    struct view v;
    if (!spans_has(&p->range[DB_RANGE_LOGGED], e->offset) || spans_has(&p->range[DB_RANGE_RETRACTED], e->offset))
        return 0;
    if (view_of(c, item, p->topic, &v, err) != 0) return -1;
    v.sequenced = stream_of(c, &v) != NULL;
    int r = db_step(use(c, S_DUPLICATE_FIND, p->topic, e->partition, e->offset), err);
    if (r < 0) return -1;
    sqlite3_reset(c->statement[S_DUPLICATE_FIND]);
    v.duplicate = r == 1;
    if (cells_sub(c, &v, spans_has(&p->range[DB_RANGE_SCANNED], e->offset), err) != 0) return -1;
    spans_add(&p->range[DB_RANGE_RETRACTED], e->offset, e->offset);
    return done(use(c, S_FOUND_DROP, p->topic, e->partition, e->offset), err);
}

void count_retracted(struct count_partition *p, int64_t first, int64_t last) {
    spans_add(&p->range[DB_RANGE_RETRACTED], first, last);
}

/* -- entries ----------------------------------------------------------------------------------- */

/* Notes the offset. Returns whether it is new. One that was refed stands alone: what is around it need not be there. */
static bool place_note(struct count *c, struct count_partition *p, const struct entry *e) {
    if (e->offset > p->next && e->epoch != p->epoch && c->shared)
        spans_add(&p->range[DB_RANGE_ELSEWHERE], p->next, e->offset - 1);
    p->dirty |= e->epoch != p->epoch || e->offset >= p->next;
    p->epoch = e->epoch;
    if (e->offset >= p->next) p->next = e->offset + 1;
    if (e->offset < p->first && (e->flags & ENTRY_REFED) == 0) p->first = e->offset;
    return spans_add(&p->range[DB_RANGE_LOGGED], e->offset, e->offset);
}

void count_elsewhere(struct count *c) {
    for (size_t i = 0; i < c->partitions; i++) {
        struct count_partition *p = c->partition[i];
        struct span gap;
        for (int64_t at = p->first; at < p->next && spans_gap(&p->range[DB_RANGE_LOGGED], at, p->next - 1, &gap);
             at = gap.last + 1)
            if (spans_missing(&p->range[DB_RANGE_SCANNED], gap.first, gap.last) == gap.last - gap.first + 1)
                spans_add(&p->range[DB_RANGE_ELSEWHERE], gap.first, gap.last);
    }
}

int count_entry(struct count *c, const struct log_item *item, struct count_result *out, struct err *err) {
    const struct entry *e = item->entry;
    struct view v;
    struct topic *t = topic_get(c, item->topic, err);
    if (t == NULL) return -1;
    struct count_partition *p = count_find(c, t->id, e->partition);
    if (p == NULL)
        p = partition_add(c, &(struct count_partition){.topic = t->id,
                                                       .partition = e->partition,
                                                       .first = (e->flags & ENTRY_REFED) != 0 ? INT64_MAX : e->offset,
                                                       .next = e->offset,
                                                       .epoch = e->epoch,
                                                       .dirty = true});
    if (view_of(c, item, t->id, &v, err) != 0) return -1;
    *out = (struct count_result){.partition = p, .start_ms = v.start_ms};
    out->repeat = !place_note(c, p, e);
    if (out->repeat) return cells_repeat(c, &v, err);
    if (spans_has(&p->range[DB_RANGE_SCANNED], e->offset) &&
        done(use(c, S_UNEXPLAINED_DROP, t->id, e->partition, e->offset), err) != 0)
        return -1; /* a scan had found it before it came */
    identify(c, &v);
    return cells_add(c, &v, err);
}

int count_again(struct count *c, const struct log_item *item, struct count_result *out, struct err *err) {
    const struct entry *e = item->entry;
    *out = (struct count_result){.repeat = true};
    for (size_t i = 0; i < c->topics; i++)
        if (strcmp(c->topic[i].name, item->topic) == 0) out->partition = count_find(c, c->topic[i].id, e->partition);
    if (out->partition == NULL) return 0;
    return count_window_of(c, out->partition->topic, event_ms(e), e->ingested_us / 1000, &out->start_ms, err);
}

int count_published(struct count *c, struct count_partition *p, int64_t start_ms, const uint8_t *digest,
                    struct err *err) {
    struct cell *cell = tally_of(c, p->topic, p->partition, start_ms, err);
    if (cell == NULL) return -1;
    cell->n[COUNT_PUBLISHED]++;
    if (digest != NULL) digest_sum_add(cell->published_digest_sum, digest);
    cell->dirty = true;
    return 0;
}

/* -- writing ----------------------------------------------------------------------------------- */

static int spans_put(struct count *c, enum statement cut, enum statement put, int64_t a, int64_t b, struct spans *set,
                     int kind, struct err *err) {
    size_t begin, end;
    int64_t low, high;
    if (!spans_touched(set, &begin, &end, &low, &high)) return 0;
    sqlite3_stmt *s = use(c, cut, a, b, low);
    sqlite3_bind_int64(s, 4, high);
    if (kind >= 0) sqlite3_bind_int64(s, 5, kind);
    if (done(s, err) != 0) return -1;
    for (size_t i = begin; i < end; i++) {
        s = use(c, put, a, b, set->at[i].first);
        sqlite3_bind_int64(s, 4, set->at[i].last);
        if (kind >= 0) sqlite3_bind_int64(s, 5, kind);
        if (done(s, err) != 0) return -1;
    }
    spans_clean(set);
    return 0;
}

static int partition_put(struct count *c, struct count_partition *p, struct err *err) {
    for (int k = 0; k < DB_RANGE_COUNT; k++)
        if (spans_put(c, S_RANGE_CUT, S_RANGE_PUT, p->topic, p->partition, &p->range[k], k, err) != 0) return -1;
    if (!p->dirty) return 0;
    sqlite3_stmt *s = use(c, S_PLACE_PUT, p->topic, p->partition, p->first);
    sqlite3_bind_int64(s, 4, p->next);
    sqlite3_bind_int64(s, 5, p->epoch);
    sqlite3_bind_int64(s, 6, (int64_t)p->scan_sequence);
    p->dirty = false;
    return done(s, err);
}

static int cells_put(struct count *c, int64_t now_ms, struct err *err) {
    for (size_t i = 0; i < c->cells; i++) {
        struct cell *cell = &c->cell[i];
        if (!cell->dirty) continue;
        if (cell_put(c, cell, err) != 0) return -1;
        cell->dirty = false;
        if (cell->key.kind == CELL_LOAD) {
            sqlite3_stmt *s = use(c, S_LOAD_TOUCH, cell->key.topic, 0, now_ms);
            sqlite3_bind_blob(s, 2, cell->key.load, sizeof cell->key.load, SQLITE_STATIC);
            if (done(s, err) != 0) return -1;
        } else if (cell->key.kind == CELL_TALLY && count_dirty(c, cell->key.topic, cell->key.start_ms, err) != 0) {
            return -1;
        }
    }
    if (c->cells_used < CELLS_KEPT) return 0;
    memset(c->cell, 0, c->cells * sizeof *c->cell);
    c->cells_used = 0;
    return 0;
}

int count_flush(struct count *c, uint64_t sequence, int64_t now_ms, struct err *err) {
    c->now_ms = now_ms;
    if (cells_put(c, now_ms, err) != 0) return -1;
    size_t at = 0;
    for (struct stream *s; (s = stream_each(c, &at)) != NULL;)
        if (spans_put(c, S_SEQUENCE_CUT, S_SEQUENCE_PUT, s->topic, (int64_t)s->producer, &s->numbers, -1, err) != 0)
            return -1;
    for (size_t i = 0; i < c->partitions; i++)
        if (partition_put(c, c->partition[i], err) != 0) return -1;
    return db_meta_set(c->db, "sequence", (int64_t)sequence, err);
}

#include "recon/manifest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "recon/json_member.h"
#include "shm/record.h"

enum { TEXT_BYTES = 65536 }; /* an end of a load names the places of all its partitions */

/* -- reading ----------------------------------------------------------------------------------- */

static int text_get(yajl_val o, const char *name, char *out, size_t room, struct err *err) {
    const char *text = YAJL_GET_STRING(json_member(o, name, yajl_t_string));
    if (text == NULL || text[0] == 0) return err_set(err, EX_DATAERR, "%s is missing", name);
    if (strlen(text) >= room) return err_set(err, EX_DATAERR, "%s is too long", name);
    memcpy(out, text, strlen(text) + 1);
    return 0;
}

/* Beyond 2^62 nobody counts, and sums and ends of ranges would not fit. */
static int number_get(yajl_val o, const char *name, int64_t min, int64_t *out, struct err *err) {
    yajl_val v = json_member(o, name, yajl_t_number);
    if (v == NULL || !YAJL_IS_INTEGER(v)) return err_set(err, EX_DATAERR, "%s is missing or not an integer", name);
    *out = YAJL_GET_INTEGER(v);
    return *out >= min && *out <= INT64_C(1) << 62 ? 0 : err_set(err, EX_DATAERR, "%s is out of range", name);
}

static int load_get(yajl_val o, struct manifest *m, struct err *err) {
    char text[40];
    if (text_get(o, "load", text, sizeof text, err) != 0) return -1;
    return record_id_parse(m->load, text, strlen(text)) == 0 ? 0 : err_set(err, EX_DATAERR, "load is not a UUID");
}

static int sums_get(yajl_val o, struct manifest *m, struct err *err) {
    const char *digest = YAJL_GET_STRING(json_member(o, "digest_sum", yajl_t_string));
    if (number_get(o, "count", 0, &m->count, err) != 0 || number_get(o, "bytes", 0, &m->bytes, err) != 0) return -1;
    /* Sums of other digests than the log's cannot be compared with it. */
    const char *algorithm = YAJL_GET_STRING(json_member(o, "digest", yajl_t_string));
    m->summed = digest != NULL && (algorithm == NULL || strcmp(algorithm, "hmac") == 0);
    if (digest != NULL && digest_parse(m->digest_sum, digest, strlen(digest)) != 0)
        return err_set(err, EX_DATAERR, "digest_sum is not 32 hexadecimal digits");
    if (m->count == 0) return 0;
    if (number_get(o, "first_sequence", 1, &m->first_sequence, err) != 0 ||
        number_get(o, "last_sequence", 1, &m->last_sequence, err) != 0)
        return -1;
    if (m->last_sequence < m->first_sequence || m->last_sequence - m->first_sequence < m->count - 1)
        return err_set(err, EX_DATAERR, "count does not fit between first_sequence and last_sequence");
    return 0;
}

static int window_get(yajl_val o, struct manifest *m, struct err *err) {
    if (number_get(o, "from_ms", 0, &m->from_ms, err) != 0 || number_get(o, "to_ms", 1, &m->to_ms, err) != 0 ||
        sums_get(o, m, err) != 0)
        return -1;
    return m->from_ms < m->to_ms ? 0 : err_set(err, EX_DATAERR, "to_ms is not after from_ms");
}

static int begin_get(yajl_val o, struct manifest *m, struct err *err) {
    m->snapshot = YAJL_IS_TRUE(json_member(o, "snapshot", yajl_t_any));
    return load_get(o, m, err) != 0 || number_get(o, "created_ms", 0, &m->created_ms, err) != 0 ? -1 : 0;
}

/* What is not a place is passed over: without places, a load makes up for nothing. */
static void places_get(yajl_val o, struct manifest *m) {
    yajl_val v = json_member(o, "first_offsets", yajl_t_object);
    for (size_t i = 0; v != NULL && i < v->u.object.len && m->places < PARTITIONS_MAX; i++) {
        char *end;
        long partition = strtol(v->u.object.keys[i], &end, 10);
        yajl_val first = v->u.object.values[i];
        if (*end != 0 || end == v->u.object.keys[i] || partition < 0 || partition > INT32_MAX) continue;
        if (!YAJL_IS_INTEGER(first) || YAJL_GET_INTEGER(first) < 0) continue;
        m->place[m->places].partition = (int32_t)partition;
        m->place[m->places++].first_offset = YAJL_GET_INTEGER(first);
    }
}

static int end_get(yajl_val o, struct manifest *m, struct err *err) {
    char state[16];
    if (load_get(o, m, err) != 0 || sums_get(o, m, err) != 0 || text_get(o, "state", state, sizeof state, err) != 0)
        return -1;
    m->aborted = strcmp(state, "aborted") == 0;
    places_get(o, m);
    if (!m->aborted && strcmp(state, "complete") != 0) return err_set(err, EX_DATAERR, "state is unknown");
    return 0;
}

static int object_get(yajl_val o, struct manifest *m, struct err *err) {
    char type[16];
    if (!YAJL_IS_OBJECT(o)) return err_set(err, EX_DATAERR, "not an object");
    if (text_get(o, "type", type, sizeof type, err) != 0 ||
        text_get(o, "producer", m->producer, sizeof m->producer, err) != 0 ||
        text_get(o, "topic", m->topic, sizeof m->topic, err) != 0)
        return -1;
    if (strcmp(type, "window") == 0) return m->type = MANIFEST_WINDOW, window_get(o, m, err);
    if (strcmp(type, "load_begin") == 0) return m->type = MANIFEST_LOAD_BEGIN, begin_get(o, m, err);
    if (strcmp(type, "load_places") == 0) {
        m->type = MANIFEST_LOAD_PLACES;
        places_get(o, m);
        return load_get(o, m, err);
    }
    if (strcmp(type, "load_end") == 0) return m->type = MANIFEST_LOAD_END, end_get(o, m, err);
    return err_set(err, EX_DATAERR, "type is unknown");
}

int manifest_parse(const char *text, size_t len, struct manifest *out, struct err *err) {
    char copy[TEXT_BYTES], why[128];
    *out = (struct manifest){0};
    if (len >= sizeof copy || memchr(text, 0, len) != NULL) return err_set(err, EX_DATAERR, "too long, or not text");
    memcpy(copy, text, len);
    copy[len] = 0;
    yajl_val o = yajl_tree_parse(copy, why, sizeof why);
    if (o == NULL) return err_set(err, EX_DATAERR, "not JSON");
    int r = object_get(o, out, err);
    yajl_tree_free(o);
    return r;
}

/* -- storing ----------------------------------------------------------------------------------- */

struct bound { /* a statement being used */
    sqlite3_stmt *s;
    int at;
};

static void put(struct bound *b, int64_t value) { sqlite3_bind_int64(b->s, ++b->at, value); }

static void put_blob(struct bound *b, const uint8_t *value) {
    sqlite3_bind_blob(b->s, ++b->at, value, value != NULL ? 16 : 0, SQLITE_STATIC);
}

/* Runs it; 1 when it changed something. */
static int finish(sqlite3 *db, struct bound *b, struct err *err) {
    int r = db_step(b->s, err);
    sqlite3_finalize(b->s);
    return r != 0 ? -1 : sqlite3_changes(db) > 0;
}

static int producer_store(sqlite3 *db, const struct manifest *m, int64_t hash, struct err *err) {
    struct bound b = {0};
    if (db_prepare(db, "INSERT INTO producer VALUES(?, ?) ON CONFLICT DO NOTHING", &b.s, err) != 0) return -1;
    put(&b, hash);
    sqlite3_bind_text(b.s, 2, m->producer, -1, SQLITE_STATIC);
    return finish(db, &b, err);
}

static int window_store(sqlite3 *db, struct count *count, const struct config *config, const struct manifest *m,
                        int64_t topic, int64_t producer, int64_t now_ms, struct err *err) {
    int64_t start = count_window(m->from_ms, config->recon.window_ms);
    struct bound b = {0};
    if (m->to_ms > start + config->recon.window_ms)
        return err_set(err, EX_DATAERR, "its window %lld-%lld does not lie in one of recon.window",
                       (long long)m->from_ms, (long long)m->to_ms);
    if (m->count == 0) return 0;
    if (!count_window_fits(count, topic, start))
        return err_set(err, EX_DATAERR, "there are too many windows as far from now as its own");
    if (db_prepare(db,
                   "INSERT INTO manifest(topic, producer, first_sequence, last_sequence, start_ms, end_ms, count, "
                   "bytes, digest_sum, noted_ms) VALUES(?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO UPDATE SET "
                   "last_sequence = excluded.last_sequence, count = excluded.count, bytes = excluded.bytes, "
                   "digest_sum = excluded.digest_sum, noted_ms = excluded.noted_ms "
                   "WHERE last_sequence <> excluded.last_sequence OR count <> excluded.count OR "
                   "bytes <> excluded.bytes OR digest_sum IS NOT excluded.digest_sum",
                   &b.s, err) != 0)
        return -1;
    put(&b, topic);
    put(&b, producer);
    put(&b, m->first_sequence);
    put(&b, m->last_sequence);
    put(&b, start);
    put(&b, start + config->recon.window_ms);
    put(&b, m->count);
    put(&b, m->bytes);
    put_blob(&b, m->summed ? m->digest_sum : NULL);
    put(&b, now_ms);
    int r = finish(db, &b, err);
    if (r == 1 && count_dirty(count, topic, start, err) != 0) return -1;
    return r;
}

static int begun_store(sqlite3 *db, const struct manifest *m, int64_t topic, int64_t now_ms, struct err *err) {
    struct bound b = {0};
    if (db_prepare(db, "INSERT INTO load_begun VALUES(?,?,?) ON CONFLICT DO NOTHING", &b.s, err) != 0) return -1;
    put_blob(&b, m->load);
    put(&b, topic);
    put(&b, now_ms);
    return finish(db, &b, err) < 0 ? -1 : 0;
}

static int begin_store(sqlite3 *db, const struct manifest *m, int64_t topic, int64_t producer, int64_t now_ms,
                       struct err *err) {
    struct bound b = {0};
    if (begun_store(db, m, topic, now_ms, err) != 0) return -1;
    if (db_prepare(db,
                   "INSERT INTO load(id, topic, producer, state, snapshot, created_ms, changed_ms) "
                   "VALUES(?,?,?,?,?,?,?) ON CONFLICT DO NOTHING",
                   &b.s, err) != 0)
        return -1;
    put_blob(&b, m->load);
    put(&b, topic);
    put(&b, producer);
    put(&b, LOAD_RUNNING);
    put(&b, m->snapshot);
    put(&b, m->created_ms);
    put(&b, now_ms);
    return finish(db, &b, err);
}

/* An end may come without its begin, when that is no longer kept. */
static int end_store(sqlite3 *db, const struct manifest *m, int64_t topic, int64_t producer, int64_t now_ms,
                     struct err *err) {
    struct bound b = {0};
    if (db_prepare(db,
                   "INSERT INTO load(id, topic, producer, state, snapshot, created_ms, changed_ms, ended_ms, aborted, "
                   "count, bytes, digest_sum, first_sequence, last_sequence) VALUES(?,?,?,?,0,?,?,?,?,?,?,?,?,?) "
                   "ON CONFLICT DO UPDATE SET state = excluded.state, changed_ms = excluded.changed_ms, "
                   "ended_ms = excluded.ended_ms, aborted = excluded.aborted, count = excluded.count, "
                   "bytes = excluded.bytes, digest_sum = excluded.digest_sum, "
                   "first_sequence = excluded.first_sequence, last_sequence = excluded.last_sequence "
                   "WHERE ended_ms IS NULL OR count <> excluded.count OR aborted <> excluded.aborted",
                   &b.s, err) != 0)
        return -1;
    put_blob(&b, m->load);
    put(&b, topic);
    put(&b, producer);
    put(&b, m->aborted ? LOAD_ABORTED : LOAD_COMPLETE);
    put(&b, now_ms);
    put(&b, now_ms);
    put(&b, now_ms);
    put(&b, m->aborted);
    put(&b, m->count);
    put(&b, m->bytes);
    put_blob(&b, m->summed ? m->digest_sum : NULL);
    put(&b, m->first_sequence);
    put(&b, m->last_sequence);
    return finish(db, &b, err);
}

static int places_store(sqlite3 *db, const struct manifest *m, int64_t topic, struct err *err) {
    int r = 0;
    for (uint32_t i = 0; i < m->places && r >= 0; i++) {
        struct bound b = {0};
        if (db_prepare(db, "INSERT OR REPLACE INTO load_place VALUES(?,?,?,?)", &b.s, err) != 0) return -1;
        put_blob(&b, m->load);
        put(&b, topic);
        put(&b, m->place[i].partition);
        put(&b, m->place[i].first_offset);
        r = finish(db, &b, err);
    }
    return r < 0 ? -1 : 0;
}

int manifest_store(sqlite3 *db, struct count *count, const struct config *config, const struct manifest *m,
                   int64_t now_ms, struct err *err) {
    int index = config_topic_index(config, m->topic);
    if (index < 0) return 0;
    int64_t topic = count_topic(count, (uint32_t)index);
    int64_t producer = (int64_t)record_producer_hash(m->producer, strlen(m->producer));
    if (!count_producer_fits(count, topic, (uint64_t)producer))
        return err_set(err, EX_DATAERR, "there are too many producers");
    if (m->type != MANIFEST_WINDOW && !count_load_fits(count, m->load))
        return err_set(err, EX_DATAERR, "there are too many loads");
    if (producer_store(db, m, producer, err) < 0) return -1;
    switch (m->type) {
    case MANIFEST_WINDOW: return window_store(db, count, config, m, topic, producer, now_ms, err);
    case MANIFEST_LOAD_BEGIN: return begin_store(db, m, topic, producer, now_ms, err);
    case MANIFEST_LOAD_PLACES: return places_store(db, m, topic, err) != 0 ? -1 : m->places > 0;
    case MANIFEST_LOAD_END:
        if (places_store(db, m, topic, err) != 0) return -1;
        return end_store(db, m, topic, producer, now_ms, err);
    }
    return 0;
}

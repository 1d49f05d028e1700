#include "tools/verify_kafka.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "recon/db.h"
#include "tools/origin.h"
#include "tools/verify_others.h"
#include "tools/verify_walk.h"

/* -- names ------------------------------------------------------------------------------------- */

struct unnamed {
    struct live_row row[NAMES_MAX];
    uint32_t count;
};

static int collect(struct verify *v, const struct live_row *row, bool moving, void *context) {
    struct unnamed *u = context;
    (void)v, (void)moving;
    if (u->count == NAMES_MAX) return 1;
    u->row[u->count++] = *row;
    return 0;
}

static int by_place(const void *a, const void *b) {
    const struct live_row *x = a, *y = b;
    if (x->topic != y->topic) return x->topic < y->topic ? -1 : 1;
    if (x->partition != y->partition) return x->partition < y->partition ? -1 : 1;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* The record's key has to be the row's: the configuration may be another than it was. */
static int name_one(struct verify *v, struct origin *o, const struct live_row *row, struct err *err) {
    struct origin_record record;
    struct live_row now;
    uint8_t key[DIGEST_BYTES];
    uint64_t index;
    int r = origin_read(o, live_topic(v->known.live, row->topic), row->partition, row->offset, &record, err);
    if (r <= 0) return r;
    digest_of(&v->digest, DIGEST_HMAC, record.key, record.key_bytes, key);
    if (record.key_bytes == 0 || memcmp(key, row->key, DIGEST_BYTES) != 0) return 0;
    if (known_find(&v->known, key, &now, &index, err) < 0) return -1;
    if (index != UINT64_MAX) known_see(&v->known, index);
    if (verify_named(v, record.key, record.key_bytes)) verify_candidate(v, record.key, record.key_bytes, key);
    return 0;
}

/* Makes candidates of the rows that no key was met for, when they are few and their records are still in Kafka. */
static int name_unseen(struct verify *v, struct verify_notes *notes, struct err *err) {
    struct unnamed *u = malloc(sizeof *u);
    struct err own = {0};
    CHECK(u != NULL);
    u->count = 0;
    int r = verify_unseen(v, collect, u, err);
    if (r != 0 || u->count == 0) { /* too many, too */
        free(u);
        return r < 0 ? -1 : 0;
    }
    qsort(u->row, u->count, sizeof u->row[0], by_place);
    struct origin *o = origin_open(v->config, &own);
    for (uint32_t i = 0; o != NULL && i < u->count; i++)
        if (name_one(v, o, &u->row[i], &own) != 0) break;
    if (own.code != 0) verify_note(notes, "names of missing keys are not known: %s", own.text);
    origin_close(o);
    free(u);
    return 0;
}

static int any(struct verify *v, const struct live_row *row, bool moving, void *context) {
    (void)v, (void)row, (void)moving, (void)context;
    return 1;
}

int verify_any_unseen(struct verify *v, struct err *err) { return verify_unseen(v, any, NULL, err); }

int verify_search(struct verify *v, struct verify_notes *notes, struct err *err) {
    if (v->options.key_count > 0) return 0;
    int unseen = verify_any_unseen(v, err);
    if (unseen <= 0) return unseen;
    if (name_unseen(v, notes, err) != 0 || (unseen = verify_any_unseen(v, err)) <= 0) return unseen;
    int r = verify_walk_all(v, WALK_SEARCH, "0", NULL, err);
    return r > 0 ? err_set(err, EX_TEMPFAIL, "asked to leave") : r;
}

/* -- what this log does not tell of ------------------------------------------------------------ */

/* Whether some partition of the topic that has records is not in the table. -1: Kafka does not say. */
static int partly_elsewhere(struct verify *v, struct origin *o, const char *topic, struct err *err) {
    if (verify_shared(v, topic)) return 1;
    int32_t n = origin_partitions(o, topic, err);
    for (int32_t p = 0; p < n; p++) {
        if (live_next(v->known.live, topic, p) >= 0) continue;
        int64_t end = origin_end(o, topic, p, err);
        if (end != 0) return end < 0 ? -1 : 1;
    }
    return n < 0 ? -1 : 0;
}

static void set_aside(struct verify *v, const char *pattern) {
    for (uint64_t i = 0; i < v->count; i++) {
        struct candidate *c = &v->candidate[i];
        if (c->class == VERIFY_ORPHAN && glob_match(pattern, strlen(pattern), c->name, c->name_bytes))
            c->class = VERIFY_ELSEWHERE;
    }
}

static bool any_orphan(const struct verify *v) {
    for (uint64_t i = 0; i < v->count; i++)
        if (v->candidate[i].class == VERIFY_ORPHAN) return true;
    return false;
}

void verify_elsewhere(struct verify *v, struct verify_notes *notes) {
    struct err err = {0};
    char glob[GLOB_BYTES];
    for (uint64_t i = 0; i < v->count; i++) {
        struct candidate *c = &v->candidate[i];
        if (c->has_row && verify_is_finding(c->class) && verify_gone_on(v, &c->row)) c->class = VERIFY_ELSEWHERE;
    }
    if (!any_orphan(v)) return;
    if (v->untold) {
        verify_note(notes,
                    "the group has had other members, and without recon.anchor_topic nobody tells what they have "
                    "written: keys without a row are not called orphans");
        set_aside(v, "*");
        return;
    }
    if (live_since(v->known.live) > 1 || live_gaps(v->known.live) > 0) {
        verify_note(notes,
                    "the table of live keys begins with entry %" PRIu64 " and misses %" PRIu64
                    " since: keys without a row may be older, and are not called orphans",
                    live_since(v->known.live), live_gaps(v->known.live));
        set_aside(v, "*");
        return;
    }
    struct origin *o = origin_open(v->config, &err);
    for (uint32_t i = 0; o != NULL && i < v->config->topic_count; i++) {
        const char *topic = v->config->topic[i].name;
        int r = partly_elsewhere(v, o, topic, &err);
        if (r < 0) break;
        if (r == 0) continue;
        glob_of_template(&v->config->topic[i], glob);
        set_aside(v, glob);
        verify_note(notes,
                    "partitions of %s are not in this instance's log: its keys without a row are not called "
                    "orphans",
                    topic);
    }
    if (err.code != 0) { /* what is not known to be an orphan must not be deleted as one */
        verify_note(notes, "whether keys without a row come from partitions that are not in this log is not known: %s",
                    err.text);
        set_aside(v, "*");
    }
    origin_close(o);
}

/* What came before the first record that was logged, and is not in Kafka any more, may have been written all the same.
 */
static int begins_late(const struct verify *v, struct origin **o, sqlite3_stmt *s, struct verify_notes *notes,
                       struct err *err) {
    int r;
    while ((r = db_step(s, err)) == 1) {
        const char *topic = (const char *)sqlite3_column_text(s, 0);
        int32_t partition = sqlite3_column_int(s, 1);
        int64_t first = sqlite3_column_int64(s, 2);
        if (config_topic_index(v->config, topic) < 0) continue;
        if (*o == NULL && (*o = origin_open(v->config, err)) == NULL) return -1;
        int64_t low = origin_begin(*o, topic, partition, err);
        if (low < 0) return -1;
        if (low == first) continue;
        verify_note(notes,
                    "the log has %s/%d from offset %" PRId64 " on, and Kafka from %" PRId64
                    ": keys without a row may have been written before, and are not deleted",
                    topic, partition, first, low);
        return 1;
    }
    return r;
}

int verify_begins_late(struct verify *v, struct verify_notes *notes, struct err *err) {
    char path[PATH_BYTES + 32];
    sqlite3_stmt *s = NULL;
    struct origin *o = NULL;
    db_path(v->config, path);
    sqlite3 *db = db_open_read(path, err);
    if (db == NULL) return -1;
    int r = db_prepare(db,
                       "SELECT t.name, p.partition, p.first FROM place p JOIN topic t ON t.id = p.topic "
                       "WHERE p.first > 0 ORDER BY t.name, p.partition",
                       &s, err);
    if (r == 0) r = begins_late(v, &o, s, notes, err);
    sqlite3_finalize(s);
    sqlite3_close(db);
    origin_close(o);
    return r;
}

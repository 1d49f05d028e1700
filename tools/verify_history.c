#include "tools/verify_history.h"

#include <stdlib.h>
#include <string.h>

#include "audit/search.h"

enum { BY_INDEX_MAX = 16 };

/* One entry of the log about the candidate's key. */
static void learn(struct verify *v, struct candidate *c, const struct log_item *item) {
    const struct entry *e = item->entry;
    if (memcmp(e->digest_key, c->key, DIGEST_BYTES) != 0) return;
    if (c->class == VERIFY_UNKNOWN) c->class = VERIFY_RIGHT; /* a record has deleted it, or its time was over */
    if (!c->has_row) {
        c->was_deleted = e->outcome == ENTRY_DELETED || e->outcome == ENTRY_EXPIRED;
        return;
    }
    bool same_place =
        e->partition == c->row.partition && strcmp(item->topic, live_topic(v->known.live, c->row.topic)) == 0;
    if (same_place && e->offset == c->row.offset) {
        memcpy(c->id, e->id, sizeof c->id);
        c->has_id = true;
        return;
    }
    bool older = c->class == VERIFY_ALTERED && c->decodes && e->outcome == ENTRY_APPLIED &&
                 e->digest_algorithm == c->row.algorithm && e->digest_algorithm != DIGEST_NONE &&
                 memcmp(e->digest_stored, c->found, DIGEST_BYTES) == 0;
    if (!older) return;
    c->class = VERIFY_STALE;
    c->stale_offset = e->offset;
}

static bool wanted(const struct candidate *c) { return verify_is_finding(c->class) || c->class == VERIFY_UNKNOWN; }

static int by_index(struct verify *v, const char *dir, struct err *err) {
    struct log_item item;
    for (uint64_t i = 0; i < v->count; i++) {
        struct candidate *c = &v->candidate[i];
        struct log_query q = LOG_QUERY_ANY;
        if (!wanted(c)) continue;
        q.key = c->key;
        struct log_search *s = log_search_open(dir, &q, err);
        if (s == NULL) return -1;
        enum log_read r;
        while ((r = log_search_next(s, &item, err)) == LOG_ITEM) learn(v, c, &item);
        log_search_close(s);
        if (r == LOG_BAD) return -1;
    }
    return 0;
}

/* -- many: the log is read once ---------------------------------------------------------------- */

struct by_key {
    uint32_t *slot; /* index in candidate[] + 1; 0 empty */
    uint64_t mask;
};

static uint64_t place_of(const struct by_key *b, const struct verify *v, const uint8_t key[DIGEST_BYTES]) {
    uint64_t at;
    memcpy(&at, key + 4, sizeof at);
    for (at &= b->mask; b->slot[at] != 0; at = (at + 1) & b->mask)
        if (memcmp(v->candidate[b->slot[at] - 1].key, key, DIGEST_BYTES) == 0) break;
    return at;
}

static int read_through(struct verify *v, const struct by_key *b, const char *dir, struct err *err) {
    struct log_item item;
    struct log_reader *log = log_reader_open(dir, 0, err);
    if (log == NULL) return -1;
    enum log_read r;
    while ((r = log_reader_next(log, &item, err)) == LOG_ITEM || r == LOG_GONE) {
        if (r == LOG_GONE) continue;
        uint32_t slot = b->slot[place_of(b, v, item.entry->digest_key)];
        if (slot != 0) learn(v, &v->candidate[slot - 1], &item);
    }
    log_reader_close(log);
    return r == LOG_BAD ? -1 : 0;
}

static int by_reading(struct verify *v, const char *dir, struct err *err) {
    struct by_key b = {.mask = 1};
    while (b.mask < 2 * v->count) b.mask = 2 * b.mask + 1;
    b.slot = calloc(b.mask + 1, sizeof *b.slot);
    CHECK(b.slot != NULL);
    for (uint64_t i = 0; i < v->count; i++)
        if (wanted(&v->candidate[i])) b.slot[place_of(&b, v, v->candidate[i].key)] = (uint32_t)i + 1;
    int r = read_through(v, &b, dir, err);
    free(b.slot);
    return r;
}

int verify_history(struct verify *v, struct err *err) {
    char dir[PATH_BYTES + 16];
    uint64_t n = 0;
    for (uint64_t i = 0; i < v->count; i++) n += wanted(&v->candidate[i]);
    if (n == 0 || v->known.log == NULL) return 0;
    log_dir(v->config, dir);
    return n <= BY_INDEX_MAX ? by_index(v, dir, err) : by_reading(v, dir, err);
}

#include "tools/replay_set.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "shm/entry.h"
#include "tools/command.h"

enum { KEYS_MIN = 1024 };

struct key { /* a node: keys that occur in one record hang together */
    uint8_t digest[16];
    uint32_t parent, next; /* next: of the same bucket; UINT32_MAX none */
    bool given;
};

struct place { /* a partition */
    uint16_t topic;
    int32_t partition;
    uint32_t epoch;
    uint64_t incarnation;
    int64_t high, hole; /* highest offset met + 1; the first one that is missing, INT64_MAX none */
};

struct replay_set {
    char (*topic)[TOPIC_BYTES];
    size_t topics;
    struct replay_record *record;
    size_t records, record_room;
    uint32_t *record_bucket, *record_next; /* by place; UINT32_MAX none */
    size_t record_buckets;
    struct key *key;
    size_t keys, key_room;
    uint32_t *key_bucket;
    size_t key_buckets;
    struct place *place;
    size_t places, last_place;
    uint64_t sequence; /* the log is read up to here; 0: not yet */
    size_t chosen, keyless;
    bool sorted;
    uint32_t *last; /* groups that were given last */
    size_t last_count;
};

static void *grown(void *old, size_t n, size_t size) {
    void *p = reallocarray(old, n, size);
    CHECK(p != NULL);
    return p;
}

struct replay_set *replay_set_new(void) {
    struct replay_set *s = calloc(1, sizeof *s);
    CHECK(s != NULL);
    return s;
}

void replay_set_free(struct replay_set *s) {
    if (s == NULL) return;
    free(s->topic);
    free(s->record);
    free(s->record_bucket);
    free(s->record_next);
    free(s->key);
    free(s->key_bucket);
    free(s->place);
    free(s->last);
    free(s);
}

const char *replay_set_topic(const struct replay_set *s, uint16_t topic) { return s->topic[topic]; }
size_t replay_set_chosen(const struct replay_set *s) { return s->chosen; }
size_t replay_set_keyless(const struct replay_set *s) { return s->keyless; }

static int topic_find(const struct replay_set *s, const char *name) {
    for (size_t i = 0; i < s->topics; i++)
        if (strcmp(s->topic[i], name) == 0) return (int)i;
    return -1;
}

static uint16_t topic_number(struct replay_set *s, const char *name) {
    int found = topic_find(s, name);
    if (found >= 0) return (uint16_t)found;
    s->topic = grown(s->topic, s->topics + 1, sizeof *s->topic);
    size_t len = strnlen(name, TOPIC_BYTES - 1);
    memcpy(s->topic[s->topics], name, len);
    s->topic[s->topics][len] = 0;
    return (uint16_t)s->topics++;
}

/* -- keys -------------------------------------------------------------------------------------- */

static uint64_t digest_hash(const uint8_t digest[16]) { /* digests are as good as random */
    uint64_t h;
    memcpy(&h, digest, sizeof h);
    return h;
}

static bool digest_none(const uint8_t digest[16]) {
    static const uint8_t zeros[16];
    return memcmp(digest, zeros, sizeof zeros) == 0;
}

static void keys_spread(struct replay_set *s, size_t buckets) {
    s->key_bucket = grown(s->key_bucket, buckets, sizeof *s->key_bucket);
    s->key_buckets = buckets;
    memset(s->key_bucket, 0xff, buckets * sizeof *s->key_bucket);
    for (uint32_t i = 0; i < s->keys; i++) {
        uint32_t *b = &s->key_bucket[digest_hash(s->key[i].digest) & (buckets - 1)];
        s->key[i].next = *b;
        *b = i;
    }
}

static uint32_t key_find(const struct replay_set *s, const uint8_t digest[16]) {
    if (s->keys == 0) return UINT32_MAX;
    uint32_t i = s->key_bucket[digest_hash(digest) & (s->key_buckets - 1)];
    while (i != UINT32_MAX && memcmp(s->key[i].digest, digest, 16) != 0) i = s->key[i].next;
    return i;
}

static uint32_t key_add(struct replay_set *s, const uint8_t digest[16]) {
    uint32_t found = key_find(s, digest);
    if (found != UINT32_MAX) return found;
    if (s->keys == s->key_room) {
        s->key_room = s->key_room == 0 ? KEYS_MIN : 2 * s->key_room;
        s->key = grown(s->key, s->key_room, sizeof *s->key);
        keys_spread(s, s->key_room);
    }
    struct key *k = &s->key[s->keys];
    uint32_t *b = &s->key_bucket[digest_hash(digest) & (s->key_buckets - 1)];
    *k = (struct key){.parent = (uint32_t)s->keys, .next = *b};
    memcpy(k->digest, digest, 16);
    *b = (uint32_t)s->keys;
    return (uint32_t)s->keys++;
}

static uint32_t group_of(struct replay_set *s, uint32_t key) {
    while (s->key[key].parent != key) {
        s->key[key].parent = s->key[s->key[key].parent].parent;
        key = s->key[key].parent;
    }
    return key;
}

/* A group that was given and grows is to be given again. */
static void keys_join(struct replay_set *s, uint32_t a, uint32_t b) {
    uint32_t x = group_of(s, a), y = group_of(s, b);
    if (x == y) return;
    s->key[y].parent = x;
    s->key[x].given = s->key[x].given && s->key[y].given;
}

/* -- records ----------------------------------------------------------------------------------- */

static size_t record_hash(uint16_t topic, int32_t partition, int64_t offset) {
    uint64_t h = ((uint64_t)topic << 32 ^ (uint32_t)partition) * 0x9e3779b97f4a7c15ULL ^ (uint64_t)offset;
    h *= 0xbf58476d1ce4e5b9ULL;
    return (size_t)(h ^ h >> 31);
}

static void records_spread(struct replay_set *s) {
    memset(s->record_bucket, 0xff, s->record_buckets * sizeof *s->record_bucket);
    for (uint32_t i = 0; i < s->records; i++) {
        const struct replay_record *r = &s->record[i];
        uint32_t *b = &s->record_bucket[record_hash(r->topic, r->partition, r->offset) & (s->record_buckets - 1)];
        s->record_next[i] = *b;
        *b = i;
    }
}

static struct replay_record *record_find(const struct replay_set *s, uint16_t topic, int32_t partition,
                                         int64_t offset) {
    if (s->records == 0) return NULL;
    uint32_t i = s->record_bucket[record_hash(topic, partition, offset) & (s->record_buckets - 1)];
    for (; i != UINT32_MAX; i = s->record_next[i])
        if (s->record[i].offset == offset && s->record[i].partition == partition && s->record[i].topic == topic)
            return &s->record[i];
    return NULL;
}

static struct replay_record *record_add(struct replay_set *s, const struct replay_record *r) {
    if (s->records == s->record_room) {
        s->record_room = s->record_room == 0 ? KEYS_MIN : 2 * s->record_room;
        s->record = grown(s->record, s->record_room, sizeof *s->record);
        s->record_next = grown(s->record_next, s->record_room, sizeof *s->record_next);
        s->record_bucket = grown(s->record_bucket, s->record_room, sizeof *s->record_bucket);
        s->record_buckets = s->record_room;
        records_spread(s);
    }
    uint32_t i = (uint32_t)s->records++;
    uint32_t *b = &s->record_bucket[record_hash(r->topic, r->partition, r->offset) & (s->record_buckets - 1)];
    s->record[i] = *r;
    s->record_next[i] = *b;
    *b = i;
    s->sorted = false;
    return &s->record[i];
}

static int by_place(const void *a, const void *b) {
    const struct replay_record *x = a, *y = b;
    if (x->topic != y->topic) return x->topic < y->topic ? -1 : 1;
    if (x->partition != y->partition) return x->partition < y->partition ? -1 : 1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

const struct replay_record *replay_set_records(struct replay_set *s, size_t *count) {
    *count = s->records;
    if (s->sorted || s->records == 0) return s->record;
    qsort(s->record, s->records, sizeof *s->record, by_place);
    records_spread(s);
    s->sorted = true;
    return s->record;
}

/* -- choosing ---------------------------------------------------------------------------------- */

/* The keys of an entry, as one. A key that nobody knew is where the other one is: when that was given, so is this. */
static uint32_t keys_of(struct replay_set *s, const struct entry *e) {
    uint32_t key = key_find(s, e->digest_key), old = key_find(s, e->digest_old_key);
    bool key_new = key == UINT32_MAX, old_new = old == UINT32_MAX;
    key = key_add(s, e->digest_key);
    if (digest_none(e->digest_old_key)) return key;
    old = key_add(s, e->digest_old_key);
    if (key_new && !old_new) s->key[key].given = s->key[group_of(s, old)].given;
    if (old_new && !key_new) s->key[old].given = s->key[group_of(s, key)].given;
    keys_join(s, key, old);
    return key;
}

static struct replay_record *entry_add(struct replay_set *s, const struct log_item *item, bool follows) {
    const struct entry *e = item->entry;
    struct replay_record r = {.topic = topic_number(s, item->topic),
                              .follows = follows,
                              .outcome = e->outcome,
                              .partition = e->partition,
                              .key = UINT32_MAX,
                              .offset = e->offset,
                              .created_ms = e->created_ms,
                              .sequence = item->sequence};
    memcpy(r.id, e->id, sizeof r.id);
    struct replay_record *known = record_find(s, r.topic, r.partition, r.offset);
    if (known != NULL) return known;
    if (!digest_none(e->digest_key)) r.key = keys_of(s, e);
    s->chosen += !follows;
    return record_add(s, &r);
}

int replay_set_choose(struct replay_set *s, const char *dir, const struct log_query *q, bool keyless, struct err *err) {
    struct log_item item;
    enum log_read r;
    struct log_search *search = log_search_open(dir, q, err);
    if (search == NULL) return -1;
    while ((r = log_search_next(search, &item, err)) == LOG_ITEM) {
        bool none = digest_none(item.entry->digest_key);
        s->keyless += none && !keyless && (item.entry->flags & ENTRY_REPEAT) == 0;
        if ((none && !keyless) || s->records >= REPLAY_RECORDS_MAX) continue;
        entry_add(s, &item, false);
        if (s->sequence == 0 || item.sequence < s->sequence) s->sequence = item.sequence;
    }
    command_forged("replay", search);
    log_search_close(search);
    if (r == LOG_BAD) return -1;
    return s->records < REPLAY_RECORDS_MAX
               ? 0
               : err_set(err, EX_USAGE, "more than %d records: choose less at a time", REPLAY_RECORDS_MAX);
}

int replay_set_add(struct replay_set *s, const char *topic, int32_t partition, int64_t from, int64_t to,
                   struct err *err) {
    struct replay_record r = {.topic = topic_number(s, topic), .partition = partition, .key = UINT32_MAX};
    if (to - from > REPLAY_RECORDS_MAX - (int64_t)s->records)
        return err_set(err, EX_USAGE, "more than %d records: choose less at a time", REPLAY_RECORDS_MAX);
    for (r.offset = from; r.offset < to; r.offset++) {
        if (record_find(s, r.topic, partition, r.offset) != NULL) continue;
        record_add(s, &r);
        s->chosen++;
    }
    return 0;
}

/* -- following --------------------------------------------------------------------------------- */

static struct place *place_get(struct replay_set *s, uint16_t topic, int32_t partition) {
    for (size_t k = 0; k < s->places; k++) {
        size_t i = (s->last_place + k) % s->places;
        if (s->place[i].topic != topic || s->place[i].partition != partition) continue;
        s->last_place = i;
        return &s->place[i];
    }
    s->place = grown(s->place, s->places + 1, sizeof *s->place);
    s->place[s->places] = (struct place){.topic = topic, .partition = partition, .high = -1, .hole = INT64_MAX};
    return &s->place[s->last_place = s->places++];
}

/* Within an epoch of one ring everything that Kafka has was read, in order. Where another one begins further on, what
 * is between was read by somebody else, or was nothing: nobody can tell. */
static void place_pass(struct replay_set *s, const struct log_item *item) {
    const struct entry *e = item->entry;
    struct place *p = place_get(s, topic_number(s, item->topic), e->partition);
    if ((e->flags & ENTRY_REFED) != 0) return;
    bool same = p->incarnation == item->incarnation && p->epoch == e->epoch;
    if (!same && p->high >= 0 && e->offset > p->high && p->hole == INT64_MAX) p->hole = p->high;
    p->incarnation = item->incarnation;
    p->epoch = e->epoch;
    if (e->offset + 1 > p->high) p->high = e->offset + 1;
}

static bool key_in(const struct replay_set *s, const uint8_t digest[16]) {
    return !digest_none(digest) && key_find(s, digest) != UINT32_MAX;
}

int replay_set_follow(struct replay_set *s, const char *dir, struct err *err) {
    struct log_item item;
    enum log_read r;
    if (s->sequence == 0) return 0;
    struct log_reader *reader = log_reader_open(dir, s->sequence, err);
    if (reader == NULL) return -1;
    while ((r = log_reader_next(reader, &item, err)) == LOG_ITEM) {
        place_pass(s, &item);
        s->sequence = item.sequence + 1;
        if (key_in(s, item.entry->digest_key) || key_in(s, item.entry->digest_old_key)) entry_add(s, &item, true);
        if (s->records < REPLAY_RECORDS_MAX) continue;
        r = LOG_BAD;
        err_set(err, EX_USAGE, "more than %d records have to follow: choose less at a time", REPLAY_RECORDS_MAX);
        break;
    }
    log_reader_close(reader);
    if (r == LOG_GONE) return err_set(err, EX_NOINPUT, "the audit log no longer has what came after: retention");
    return r == LOG_END ? 0 : -1;
}

int64_t replay_set_until(const struct replay_set *s, const char *topic, int32_t partition, int64_t committed) {
    int t = topic_find(s, topic);
    for (size_t i = 0; t >= 0 && i < s->places; i++) {
        const struct place *p = &s->place[i];
        if (p->topic != t || p->partition != partition || p->high < 0) continue;
        return p->hole < p->high ? p->hole : p->high;
    }
    return committed;
}

/* -- groups ------------------------------------------------------------------------------------ */

struct head { /* a group, and its first record */
    uint32_t group;
    uint32_t count;
    uint64_t sequence;
};

static int by_sequence(const void *a, const void *b) {
    const struct head *x = a, *y = b;
    return x->sequence < y->sequence ? -1 : x->sequence > y->sequence;
}

/* The groups that are not given yet, sorted. */
static size_t heads_list(struct replay_set *s, struct head **out) {
    struct head *h = calloc(s->keys + 1, sizeof *h);
    size_t n = 0;
    CHECK(h != NULL);
    for (size_t i = 0; i < s->records; i++) {
        if (s->record[i].key == UINT32_MAX) continue;
        uint32_t g = group_of(s, s->record[i].key);
        if (h[g].count++ == 0 || s->record[i].sequence < h[g].sequence) h[g].sequence = s->record[i].sequence;
        h[g].group = g;
    }
    for (size_t i = 0; i < s->keys; i++)
        if (h[i].count > 0 && !s->key[i].given) h[n++] = h[i];
    if (n > 1) qsort(h, n, sizeof *h, by_sequence);
    *out = h;
    return n;
}

static int by_log(const void *a, const void *b) {
    const struct replay_record *x = a, *y = b;
    if (x->sequence != y->sequence) return x->sequence < y->sequence ? -1 : 1;
    return by_place(a, b);
}

static int by_wave(const void *a, const void *b) {
    const struct replay_record *x = a, *y = b;
    if (x->wave != y->wave) return x->wave < y->wave ? -1 : 1;
    return by_place(a, b);
}

/* Of one partition ingest keeps the order, of several it does not: where a group goes on in another partition, it goes
 * on in another wave. */
static void waves_give(struct replay_set *s, struct replay_record *r, size_t n) {
    const struct replay_record **last = calloc(s->keys, sizeof *last); /* of a group */
    CHECK(last != NULL);
    qsort(r, n, sizeof *r, by_log);
    for (size_t i = 0; i < n; i++) {
        const struct replay_record **own = &last[group_of(s, r[i].key)], *before = *own;
        bool same = before != NULL && before->topic == r[i].topic && before->partition == r[i].partition;
        r[i].wave = before == NULL ? 0 : before->wave + !same;
        *own = &r[i];
    }
    free(last);
    qsort(r, n, sizeof *r, by_wave);
}

size_t replay_set_group(struct replay_set *s, size_t max, struct replay_record **records) {
    struct head *h;
    size_t heads = heads_list(s, &h), all = 0, n = 0, taken = 0;
    *records = NULL;
    while (taken < heads && (taken == 0 || all + h[taken].count <= max)) all += h[taken++].count;
    if (taken > 0) {
        bool *wanted = calloc(s->keys, sizeof *wanted);
        *records = calloc(all, sizeof **records);
        CHECK(wanted != NULL && *records != NULL);
        s->last = grown(s->last, taken, sizeof *s->last);
        s->last_count = taken;
        for (size_t i = 0; i < taken; i++) {
            s->last[i] = h[i].group;
            wanted[h[i].group] = s->key[h[i].group].given = true;
        }
        for (size_t i = 0; i < s->records; i++)
            if (s->record[i].key != UINT32_MAX && wanted[group_of(s, s->record[i].key)]) (*records)[n++] = s->record[i];
        CHECK(n == all);
        waves_give(s, *records, n);
        free(wanted);
    }
    free(h);
    return n;
}

void replay_set_again(struct replay_set *s) {
    for (size_t i = 0; i < s->last_count; i++) s->key[group_of(s, s->last[i])].given = false;
    s->last_count = 0;
}

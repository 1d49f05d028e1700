/* Every search finds exactly what reading the whole log finds, with indexes and without them. */
#include "audit/search.h"

#include "audit/index.h"
#include "tests/unit/audit/help.h"

enum { N = 20000, FOUND_MAX = N };

static const char *const topics[] = {"cards", "limits"};

/* A log of several segments: keys come again, some change, event times are not in order. */
static struct bench *filled(void) {
    struct bench *b = bench_make();
    uint64_t seed = 5;
    int64_t offset[2][3] = {{0}};
    cr_assert_eq(bench_open(b), 0, "%s", b->err.text);
    for (uint64_t i = 1; i <= N; i++) {
        uint16_t t = (uint16_t)random_below(&seed, 2);
        int32_t p = (int32_t)random_below(&seed, 3);
        struct entry *e = (struct entry *)(uintptr_t)entry_make(t, p, offset[t][p]++, random_below(&seed, 20) * 10);
        if (random_below(&seed, 10) == 0) e->offset = random_below(&seed, 3000); /* delivered again */
        record_id_derive(e->id, topics[t], p, e->offset);
        memset(e->digest_key, 0, 16);
        if (random_below(&seed, 20) != 0) {
            uint32_t key = random_below(&seed, 900);
            memcpy(e->digest_key, &key, sizeof key);
            e->digest_key[9] = 1;
        }
        if (random_below(&seed, 8) == 0) {
            uint32_t key = random_below(&seed, 900);
            e->flags |= ENTRY_KEY_CHANGED;
            memcpy(e->digest_old_key, &key, sizeof key);
            e->digest_old_key[9] = 1;
        }
        e->load[0] = (uint8_t)random_below(&seed, 4);
        e->created_ms = 1700000000000 + (int64_t)i * 10 - random_below(&seed, 5000);
        log_writer_add(&b->writer, 0, 77, i, e);
        if (random_below(&seed, 30) == 0 || i == N) cr_assert_eq(log_writer_commit(&b->writer, &b->err), 0);
    }
    cr_assert_geq(b->writer.closed_count, 4);
    return b;
}

static const uint8_t index_secret[DIGEST_KEY_BYTES] = {7};

static size_t index_all(struct bench *b) {
    size_t n = 0;
    index_key(index_secret);
    int made;
    while ((made = index_build_next(b->log, &b->err)) == 1) n++;
    cr_assert_eq(made, 0, "%s", b->err.text);
    return n;
}

static bool naive(const struct log_query *q, const struct log_item *item) {
    const struct entry *e = item->entry;
    bool key = q->key == NULL || memcmp(q->key, e->digest_key, 16) == 0 ||
               ((e->flags & ENTRY_KEY_CHANGED) != 0 && memcmp(q->key, e->digest_old_key, 16) == 0);
    return key && (q->id == NULL || memcmp(q->id, e->id, 16) == 0) &&
           (q->load == NULL || memcmp(q->load, e->load, 16) == 0) &&
           (q->topic == NULL || strcmp(q->topic, item->topic) == 0) &&
           (q->partition < 0 || q->partition == e->partition) &&
           (q->offset_to == 0 || (e->offset >= q->offset_from && e->offset < q->offset_to)) &&
           (q->created_to_ms == 0 || (e->created_ms >= q->created_from_ms && e->created_ms < q->created_to_ms)) &&
           item->sequence >= q->from && (q->to == 0 || item->sequence < q->to);
}

/* Returns how many there were; *read: how many entries the search has read for it. */
static size_t compare(struct bench *b, const struct log_query *q, uint64_t *read) {
    static uint64_t want[FOUND_MAX];
    size_t wanted = 0, found = 0;
    struct log_item item;
    uint64_t unindexed;
    struct log_reader *r = log_reader_open(b->log, 0, &b->err);
    while (log_reader_next(r, &item, &b->err) == LOG_ITEM)
        if (naive(q, &item)) want[wanted++] = item.sequence;
    log_reader_close(r);
    struct log_search *s = log_search_open(b->log, q, &b->err);
    enum log_read what;
    while ((what = log_search_next(s, &item, &b->err)) == LOG_ITEM) {
        cr_assert_lt(found, wanted);
        cr_assert_eq(item.sequence, want[found]);
        cr_assert(naive(q, &item));
        found++;
    }
    cr_assert_eq(what, LOG_END, "%s", b->err.text);
    cr_assert_eq(found, wanted);
    log_search_cost(s, read, &unindexed);
    log_search_close(s);
    return found;
}

static struct log_query query_make(uint64_t *seed, int kind, uint8_t key[16], uint8_t id[16]) {
    struct log_query q = LOG_QUERY_ANY;
    uint32_t k = random_below(seed, 1000);
    memset(key, 0, 16);
    memcpy(key, &k, sizeof k);
    key[9] = 1;
    q.topic = random_below(seed, 3) == 0 ? NULL : topics[random_below(seed, 2)];
    q.partition = (int32_t)random_below(seed, 4) - 1;
    if (kind == 0 || kind == 5) q.key = key;
    if (kind == 1) {
        q.topic = topics[random_below(seed, 2)];
        q.partition = (int32_t)random_below(seed, 3);
        q.offset_from = random_below(seed, 3500);
        q.offset_to = q.offset_from + 1;
    }
    if (kind == 2) {
        record_id_derive(id, topics[random_below(seed, 2)], (int32_t)random_below(seed, 3), random_below(seed, 3500));
        q.id = id;
        q.topic = NULL;
        q.partition = -1;
    }
    if (kind == 3 || kind == 5) {
        q.created_from_ms = 1700000000000 + (int64_t)random_below(seed, N) * 10;
        q.created_to_ms = q.created_from_ms + random_below(seed, 20000) + 1;
    }
    if (kind == 4) {
        q.from = random_below(seed, N);
        q.to = q.from + random_below(seed, 3000);
        q.load = (const uint8_t *)"\2\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        q.offset_from = random_below(seed, 3500);
        q.offset_to = q.offset_from + random_below(seed, 900);
    }
    return q;
}

Test(log_search, finds_what_reading_everything_finds_with_indexes_and_without, .timeout = 120) {
    struct bench *b = filled();
    for (int indexed = 0; indexed < 2; indexed++) {
        uint64_t seed = 11, read, found[6] = {0}, cost[6] = {0};
        uint8_t key[16], id[16];
        for (int i = 0; i < 150; i++) {
            struct log_query q = query_make(&seed, i % 6, key, id);
            found[i % 6] += compare(b, &q, &read);
            cost[i % 6] += read;
        }
        for (int k = 0; k < 6; k++) cr_assert_gt(found[k], 0, "kind %d", k);
        if (indexed == 0) {
            cr_assert_eq(index_all(b), b->writer.closed_count);
            cr_assert_eq(index_all(b), 0);
            continue;
        }
        uint64_t open = b->writer.sequence - b->writer.segment; /* is read through each time */
        for (int k = 0; k < 3; k++)
            cr_assert_lt(cost[k] - 25 * open, 3 * found[k] + 100, "kind %d: %d read for %d", k, (int)cost[k],
                         (int)found[k]);
    }
    bench_drop(b);
}

Test(log_search, an_index_that_is_not_of_its_segment_or_not_whole_is_not_used) {
    struct bench *b = filled();
    char path[128];
    struct index x;
    uint8_t key[16] = {3, [9] = 1};
    uint64_t read;
    index_all(b);
    int folder = open(b->log, O_RDONLY | O_DIRECTORY);
    uint64_t first = b->writer.closed[0].first, second = b->writer.closed[1].first;
    cr_assert_eq(index_open(&x, folder, first, NULL), 0);
    index_close(&x);
    char other[128];
    snprintf(path, sizeof path, "%s/%016" PRIx64 ".index", b->log, first);
    snprintf(other, sizeof other, "%s/%016" PRIx64 ".index", b->log, second);
    cr_assert_eq(truncate(path, 5000), 0);
    cr_assert_neq(index_open(&x, folder, first, NULL), 0);
    cr_assert_eq(rename(other, path), 0);
    cr_assert_neq(index_open(&x, folder, first, NULL), 0);
    struct log_query q = LOG_QUERY_ANY;
    q.key = key;
    cr_assert_gt(compare(b, &q, &read), 0);
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(index_all(b), 2);
    cr_assert_eq(index_open(&x, folder, first, NULL), 0);
    index_close(&x);
    close(folder);
    bench_drop(b);
}

/* Whoever writes the disk has an entry left out of the index, or of the whole of it, and wants nobody to see it. */
Test(log_search, an_index_that_somebody_has_changed_hides_nothing, .timeout = 120) {
    struct bench *b = filled();
    char path[128];
    struct log_query q = LOG_QUERY_ANY;
    struct log_item item;
    struct stat st;
    const char *chosen = getenv("SEED"), *times = getenv("TIMES");
    uint64_t seed = chosen != NULL ? strtoull(chosen, NULL, 10) : 20261121;
    int rounds = 200 * (times != NULL ? atoi(times) : 1);
    uint8_t id[16], byte;
    size_t noticed = 0;
    fprintf(stderr, "SEED=%" PRIu64 "\n", seed);
    index_all(b);
    uint64_t first = b->writer.closed[1].first, count = b->writer.closed[2].first - first;
    snprintf(path, sizeof path, "%s/%016" PRIx64 ".index", b->log, first);
    int fd = open(path, O_RDWR);
    cr_assert(fd >= 0 && fstat(fd, &st) == 0);
    for (int i = 0; i < rounds; i++) {
        /* Any entry of the segment, by its id, and any byte. */
        q = LOG_QUERY_ANY;
        q.from = first + random_below(&seed, (uint32_t)count);
        q.to = q.from + 1;
        struct log_search *s = log_search_open(b->log, &q, &b->err);
        cr_assert_eq(log_search_next(s, &item, &b->err), LOG_ITEM);
        memcpy(id, item.entry->id, sizeof id);
        uint64_t sequence = item.sequence;
        log_search_close(s);
        off_t at = (off_t)random_below(&seed, (uint32_t)st.st_size);
        cr_assert_eq(pread(fd, &byte, 1, at), 1);
        uint8_t other = (uint8_t)(byte ^ (1 << random_below(&seed, 8)));
        cr_assert_eq(pwrite(fd, &other, 1, at), 1);
        q = LOG_QUERY_ANY;
        q.id = id;
        s = log_search_open(b->log, &q, &b->err);
        bool found = false;
        while (log_search_next(s, &item, &b->err) == LOG_ITEM) found |= item.sequence == sequence;
        cr_assert(found, "byte %d, entry %d", (int)at, (int)sequence);
        noticed += log_search_forged(s) == 1;
        log_search_close(s);
        cr_assert_eq(pwrite(fd, &byte, 1, at), 1);
    }
    cr_assert_gt(noticed, 10);
    close(fd);
    bench_drop(b);
}

Test(log_search, without_the_key_of_the_indexes_none_is_used) {
    struct bench *b = filled();
    uint8_t key[16] = {3, [9] = 1};
    struct log_query q = LOG_QUERY_ANY;
    uint64_t with, without;
    q.key = key;
    index_all(b);
    cr_assert_gt(compare(b, &q, &with), 0);
    index_key((const uint8_t[DIGEST_KEY_BYTES]){8});
    cr_assert_gt(compare(b, &q, &without), 0);
    cr_assert_gt(without, 2 * with);
    cr_assert_gt(index_build_next(b->log, &b->err), 0, "they are made anew");
    bench_drop(b);
}

Test(log_search, a_segment_that_is_gone_is_passed_over) {
    struct bench *b = filled();
    struct log_query q = LOG_QUERY_ANY;
    struct log_item item;
    index_all(b);
    struct log_search *s = log_search_open(b->log, &q, &b->err);
    cr_assert_eq(log_writer_remove(&b->writer, &b->err), 0);
    cr_assert_eq(log_writer_remove(&b->writer, &b->err), 0);
    uint64_t first = b->writer.closed[0].first, n = 0;
    while (log_search_next(s, &item, &b->err) == LOG_ITEM) cr_assert_geq(item.sequence, n++ + first);
    cr_assert_eq(n, N + 1 - first);
    log_search_close(s);
    bench_drop(b);
}

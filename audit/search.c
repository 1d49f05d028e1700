#include "audit/search.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "audit/index.h"
#include "audit/read_at.h"
#include "audit/segment.h"

struct span { /* entries to be looked at, and where reading for them begins */
    uint64_t from, to;
    uint64_t at, at_sequence; /* of a batch at or before `from`; at 0: the segment's first */
};

struct log_search {
    struct log_query query;
    int folder_fd;
    struct log_reader *reader;
    uint64_t *segment; /* as there were when the search began */
    size_t segments, next;
    struct index index;
    struct span *span; /* of the segment that is being looked at */
    size_t spans, span_room, current;
    bool within; /* the reader stands in the current span */
    uint64_t read, unindexed, forged;
};

struct log_search *log_search_open(const char *dir, const struct log_query *q, struct err *err) {
    struct log_search *s = calloc(1, sizeof *s);
    CHECK(s != NULL);
    s->query = *q;
    if (s->query.to == 0) s->query.to = UINT64_MAX;
    s->folder_fd = -1;
    s->reader = log_reader_open(dir, 1, err);
    if (s->reader != NULL) {
        s->folder_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        s->segment = segment_list(s->folder_fd, &s->segments, err);
    }
    if (s->segment != NULL) return s;
    log_search_close(s);
    return NULL;
}

uint64_t log_search_forged(const struct log_search *s) { return s->forged; }

void log_search_close(struct log_search *s) {
    if (s == NULL) return;
    index_close(&s->index);
    log_reader_close(s->reader);
    if (s->folder_fd >= 0) close(s->folder_fd);
    free(s->segment);
    free(s->span);
    free(s);
}

void log_search_cost(const struct log_search *s, uint64_t *entries, uint64_t *segments) {
    *entries = s->read;
    *segments = s->unindexed;
}

/* -- where to look ----------------------------------------------------------------------------- */

static void span_add(struct log_search *s, struct span span) {
    if (span.from < s->query.from) span.from = s->query.from;
    if (span.to > s->query.to) span.to = s->query.to;
    if (span.from >= span.to) return;
    struct span *last = s->spans > 0 ? &s->span[s->spans - 1] : NULL;
    if (last != NULL && span.from <= last->to) {
        if (span.to > last->to) last->to = span.to;
        return;
    }
    if (s->spans == s->span_room) {
        s->span_room = s->span_room * 2 + 64;
        s->span = reallocarray(s->span, s->span_room, sizeof *s->span);
        CHECK(s->span != NULL);
    }
    s->span[s->spans++] = span;
}

static void ordinal_add(void *context, uint32_t ordinal) {
    struct log_search *s = context;
    uint64_t sequence = s->index.head->first + ordinal;
    const struct index_block *k = index_block_of(&s->index, sequence);
    span_add(s, (struct span){sequence, sequence + 1, k->at, k->first});
}

static bool block_meets(const struct log_query *q, const struct index_block *k) {
    if (q->created_from_ms == 0 && q->created_to_ms == 0) return true;
    return k->created_max_ms >= q->created_from_ms && k->created_min_ms < q->created_to_ms;
}

static void blocks_add(struct log_search *s) {
    const struct index_block *k = index_blocks(&s->index);
    uint32_t n = s->index.head->block_count;
    uint64_t end = s->index.head->first + s->index.head->entries;
    for (uint32_t i = 0; i < n; i++)
        if (block_meets(&s->query, &k[i]))
            span_add(s, (struct span){k[i].first, i + 1 < n ? k[i + 1].first : end, k[i].at, k[i].first});
}

/* What the index says. -1: it was changed where that stands. */
static int index_ask(struct log_search *s) {
    const struct log_query *q = &s->query;
    if (q->id != NULL) return index_find(&s->index, INDEX_ID, index_hash(q->id), ordinal_add, s);
    if (q->topic != NULL && q->partition >= 0 && q->offset_to == q->offset_from + 1)
        return index_find(&s->index, INDEX_PLACE, index_hash_place(q->topic, q->partition, q->offset_from), ordinal_add,
                          s);
    if (q->key != NULL) return index_find(&s->index, INDEX_KEY, index_hash(q->key), ordinal_add, s);
    blocks_add(s);
    return 0;
}

static void spans_lay_out(struct log_search *s, uint64_t first, uint64_t end) {
    const struct log_query *q = &s->query;
    bool forged = false;
    s->spans = s->current = 0;
    s->within = false;
    index_close(&s->index);
    if (end <= q->from || first >= q->to) return;
    if (end != UINT64_MAX && index_open(&s->index, s->folder_fd, first, &forged) == 0) {
        if (index_ask(s) == 0) return;
        forged = true;
    }
    s->spans = 0;
    s->unindexed += end != UINT64_MAX;
    s->forged += forged;
    span_add(s, (struct span){.from = first, .to = end, .at_sequence = first});
}

/* -- looking ----------------------------------------------------------------------------------- */

static bool matches(const struct log_query *q, const struct log_item *item) {
    const struct entry *e = item->entry;
    if (q->id != NULL && memcmp(q->id, e->id, 16) != 0) return false;
    if (q->load != NULL && memcmp(q->load, e->load, 16) != 0) return false;
    if (q->key != NULL && memcmp(q->key, e->digest_key, 16) != 0 &&
        ((e->flags & ENTRY_KEY_CHANGED) == 0 || memcmp(q->key, e->digest_old_key, 16) != 0))
        return false;
    if (q->topic != NULL && strcmp(q->topic, item->topic) != 0) return false;
    if (q->partition >= 0 && q->partition != e->partition) return false;
    if (q->offset_to != 0 && (e->offset < q->offset_from || e->offset >= q->offset_to)) return false;
    return (q->created_from_ms == 0 && q->created_to_ms == 0) ||
           (e->created_ms >= q->created_from_ms && e->created_ms < q->created_to_ms);
}

/* Whether there is a span to look at. */
static bool span_next(struct log_search *s) {
    while (s->current == s->spans) {
        if (s->next == s->segments) return false;
        uint64_t first = s->segment[s->next++], end = s->next < s->segments ? s->segment[s->next] : UINT64_MAX;
        spans_lay_out(s, first, end);
    }
    return true;
}

enum log_read log_search_next(struct log_search *s, struct log_item *item, struct err *err) {
    while (span_next(s)) {
        const struct span *span = &s->span[s->current];
        if (!s->within) log_reader_place(s->reader, s->segment[s->next - 1], span->at, span->at_sequence, span->from);
        s->within = true;
        if (log_reader_sequence(s->reader) >= span->to) {
            s->current++;
            s->within = false;
            continue;
        }
        enum log_read what = log_reader_next(s->reader, item, err);
        if (what == LOG_BAD) return LOG_BAD;
        if (what == LOG_END || what == LOG_GONE) {
            s->current = s->spans;
            continue;
        }
        s->read++;
        if (item->sequence < span->to && matches(&s->query, item)) return LOG_ITEM;
    }
    return LOG_END;
}

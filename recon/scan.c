#include "recon/scan.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

enum { SLOTS = 2 * SCAN_ENTRIES, PIECE = 1 << 20, AGAIN_MS = 10000 };

struct logged {
    const struct count_partition *partition; /* NULL: an unused slot */
    int64_t offset, start_ms;
    uint8_t digest[DIGEST_BYTES];
    uint8_t algorithm;
    uint8_t generation;
};

/* Entries in memory are of one of two generations; when the older one is empty, all before the younger's first entry is
 * scanned. So the place to begin at after a restart moves on, however busy the partition is. */
struct progress { /* of one partition, by its place in count */
    struct count_partition *partition;
    uint64_t first[2];
    int64_t left[2];
    uint8_t young;
    int64_t asked, asked_to; /* what is being scanned; equal: nothing */
    int64_t asked_done;      /* … up to here when it was looked at last */
    uint64_t asked_ns;
};

struct scan {
    struct count *count;
    const struct config *config;
    const struct evidence_port *evidence;
    struct logged *slot;
    size_t used;
    struct progress *progress;
    size_t partitions;
    uint64_t lost;
};

struct scan *scan_open(struct count *count, const struct config *config, const struct evidence_port *evidence) {
    struct scan *s = calloc(1, sizeof *s);
    CHECK(s != NULL);
    s->count = count;
    s->config = config;
    s->evidence = evidence;
    s->slot = calloc(SLOTS, sizeof *s->slot);
    CHECK(s->slot != NULL);
    return s;
}

void scan_close(struct scan *s) {
    if (s == NULL) return;
    free(s->slot);
    free(s->progress);
    free(s);
}

bool scan_full(const struct scan *s) { return s->used >= SCAN_ENTRIES; }
uint64_t scan_lost(const struct scan *s) { return s->lost; }

/* -- what is logged and not scanned ------------------------------------------------------------ */

static size_t home(const struct count_partition *p, int64_t offset) {
    uint64_t h = ((uint64_t)p->partition << 40 ^ (uint64_t)p->topic << 52 ^ (uint64_t)offset) * 0x9e3779b97f4a7c15ULL;
    return (h ^ h >> 32) & (SLOTS - 1);
}

static struct logged *find(const struct scan *s, const struct count_partition *p, int64_t offset) {
    size_t i = home(p, offset);
    while (s->slot[i].partition != NULL && (s->slot[i].partition != p || s->slot[i].offset != offset))
        i = (i + 1) & (SLOTS - 1);
    return &s->slot[i];
}

static struct progress *progress_of(struct scan *s, struct count_partition *p) {
    for (size_t i = 0; i < s->partitions; i++)
        if (s->progress[i].partition == p) return &s->progress[i];
    s->progress = realloc(s->progress, (s->partitions + 1) * sizeof *s->progress);
    CHECK(s->progress != NULL);
    s->progress[s->partitions] = (struct progress){.partition = p};
    return &s->progress[s->partitions++];
}

/* The older generation is gone: the younger one is the older now. */
static void generation_end(struct progress *g) {
    if (g->left[!g->young] > 0) return;
    g->partition->scan_sequence = g->left[g->young] > 0 ? g->first[g->young] : 0;
    g->partition->dirty = true;
    g->young = !g->young;
}

/* Takes a slot out and moves up those behind it that would not be found any more. */
static void drop(struct scan *s, struct logged *l) {
    struct progress *g = progress_of(s, (struct count_partition *)l->partition);
    size_t hole = (size_t)(l - s->slot);
    g->left[l->generation]--;
    generation_end(g);
    s->used--;
    for (size_t i = (hole + 1) & (SLOTS - 1); s->slot[i].partition != NULL; i = (i + 1) & (SLOTS - 1)) {
        size_t wanted = home(s->slot[i].partition, s->slot[i].offset);
        if (((i - wanted) & (SLOTS - 1)) < ((i - hole) & (SLOTS - 1))) continue; /* stands between its home and here */
        s->slot[hole] = s->slot[i];
        hole = i;
    }
    s->slot[hole].partition = NULL;
}

static uint32_t evidence_of(const struct scan *s, const struct count_partition *p) {
    return p->config >= 0 ? s->config->topic[p->config].evidence : EVIDENCE_MANIFEST;
}

void scan_logged(struct scan *s, struct count_partition *p, int64_t start_ms, const struct log_item *item) {
    const struct entry *e = item->entry;
    if (s->evidence == NULL || evidence_of(s, p) != EVIDENCE_SCAN) return;
    if (e->offset < p->first || spans_has(&p->range[DB_RANGE_SCANNED], e->offset)) return; /* it is not asked for */
    CHECK(s->used < SCAN_ENTRIES);
    struct logged *l = find(s, p, e->offset);
    if (l->partition != NULL) return;
    struct progress *g = progress_of(s, p);
    *l = (struct logged){p, e->offset, start_ms, {0}, e->digest_algorithm, g->young};
    memcpy(l->digest, e->digest_published, DIGEST_BYTES);
    s->used++;
    if (g->left[g->young]++ == 0) g->first[g->young] = item->sequence;
    if (p->scan_sequence == 0) {
        p->scan_sequence = item->sequence;
        p->dirty = true;
        generation_end(g);
    }
}

uint64_t scan_from(const struct scan *s, uint64_t sequence) {
    struct count_partition *p;
    for (size_t i = 0; (p = count_each(s->count, i)) != NULL; i++)
        if (s->evidence != NULL && evidence_of(s, p) == EVIDENCE_SCAN && p->scan_sequence != 0 &&
            p->scan_sequence < sequence)
            sequence = p->scan_sequence;
    return sequence;
}

/* -- what is found ----------------------------------------------------------------------------- */

static int note(struct scan *s, const struct count_partition *p, enum db_record kind, int64_t offset, int64_t start_ms,
                const struct evidence *e, int64_t now_ms, struct err *err) {
    const struct count_found f = {.kind = kind,
                                  .topic = p->topic,
                                  .start_ms = start_ms,
                                  .partition = p->partition,
                                  .offset = offset,
                                  .producer = e != NULL ? e->producer : 0,
                                  .sequence = e != NULL ? e->sequence : 0,
                                  .id = e != NULL ? e->id : NULL,
                                  .created_ms = e != NULL ? e->created_ms : -1,
                                  .noted_ms = now_ms};
    if (count_note(s->count, &f, err) != 0) return -1;
    return count_dirty(s->count, p->topic, start_ms, err);
}

static int message_take(struct scan *s, struct count_partition *p, const struct evidence *e, int64_t now_ms,
                        struct err *err) {
    static const uint8_t zeros[DIGEST_BYTES];
    bool logged = spans_has(&p->range[DB_RANGE_LOGGED], e->offset);
    bool all = evidence_of(s, p) == EVIDENCE_SCAN;
    if (!spans_add(&p->range[DB_RANGE_SCANNED], e->offset, e->offset)) return 0;
    if (!logged && spans_has(&p->range[DB_RANGE_ELSEWHERE], e->offset)) return 0;
    struct logged *l = find(s, p, e->offset);
    int64_t start_ms = l->start_ms; /* without any time of its own it has that of its reading */
    if (l->partition == NULL &&
        count_window_of(s->count, p->topic, e->created_ms >= 0 ? e->created_ms : now_ms, now_ms, &start_ms, err) != 0)
        return -1;
    uint32_t reconcile = s->config->topic[p->config].reconcile;
    bool summed = reconcile >= RECONCILE_DIGEST && memcmp(e->digest, zeros, sizeof zeros) != 0;
    bool elsewhere = spans_has(&p->range[DB_RANGE_RETRACTED], e->offset); /* … it counts as published */
    if (all && !elsewhere && count_published(s->count, p, start_ms, summed ? e->digest : NULL, err) != 0) return -1;
    if (!logged) return note(s, p, FOUND_UNEXPLAINED, e->offset, start_ms, e, now_ms, err);
    if (l->partition == NULL) return 0;
    bool comparable = l->algorithm != DIGEST_NONE &&
                      l->algorithm == (reconcile == RECONCILE_CHECKSUM ? DIGEST_XXH3 : DIGEST_HMAC) &&
                      reconcile >= RECONCILE_CHECKSUM;
    bool differs = comparable && memcmp(l->digest, e->digest, DIGEST_BYTES) != 0;
    drop(s, l);
    return differs ? note(s, p, FOUND_ALTERED, e->offset, start_ms, e, now_ms, err) : 0;
}

/* Offsets at which Kafka has no record. What the log has of them it cannot have read from this topic. */
static int void_take(struct scan *s, struct count_partition *p, const struct evidence *e, int64_t now_ms,
                     struct err *err) {
    const struct spans *logged = &p->range[DB_RANGE_LOGGED];
    for (size_t i = spans_from(logged, e->offset); i < logged->count && logged->at[i].first < e->to; i++) {
        int64_t from = logged->at[i].first > e->offset ? logged->at[i].first : e->offset;
        for (int64_t o = from; o <= logged->at[i].last && o < e->to; o++) {
            struct logged *l = find(s, p, o);
            if (l->partition == NULL) continue;
            if (e->type == EVIDENCE_GONE)
                s->lost++;
            else if (note(s, p, FOUND_UNPUBLISHED, o, l->start_ms, NULL, now_ms, err) != 0)
                return -1;
            drop(s, l);
        }
    }
    spans_add(&p->range[DB_RANGE_SCANNED], e->offset, e->to - 1);
    return 0;
}

int scan_take(struct scan *s, const struct evidence *e, int64_t now_ms, struct err *err) {
    struct count_partition *p = count_find(s->count, count_topic(s->count, e->topic), e->partition);
    if (p == NULL) return 0;
    return e->type == EVIDENCE_MESSAGE ? message_take(s, p, e, now_ms, err) : void_take(s, p, e, now_ms, err);
}

/* -- what to look at --------------------------------------------------------------------------- */

/* The first range of [from, to) that is to be scanned. */
static bool wanted(const struct scan *s, const struct count_partition *p, int64_t from, int64_t to, struct span *out) {
    bool all = evidence_of(s, p) == EVIDENCE_SCAN;
    struct span gap;
    while (from < to && spans_gap(&p->range[DB_RANGE_SCANNED], from, to - 1, &gap)) {
        struct span inner;
        from = gap.last + 1;
        if (!spans_gap(&p->range[DB_RANGE_ELSEWHERE], gap.first, gap.last, &inner)) continue;
        if (!all && !spans_gap(&p->range[DB_RANGE_LOGGED], inner.first, inner.last, &inner)) {
            from = inner.last + 1;
            continue;
        }
        *out = inner;
        return true;
    }
    return false;
}

void scan_ask(struct scan *s, const struct judge *judge, bool shared, uint64_t now_ns) {
    struct count_partition *p;
    for (size_t i = 0; s->evidence != NULL && (p = count_each(s->count, i)) != NULL; i++) {
        struct span want;
        if (p->config < 0 || evidence_of(s, p) == EVIDENCE_MANIFEST) continue;
        struct progress *g = progress_of(s, p);
        int64_t to = p->next, committed = judge_committed(judge, (uint32_t)p->config, p->partition);
        if (!shared && committed > to) to = committed;
        if (!wanted(s, p, p->first, to, &want)) continue;
        if (want.last - want.first >= PIECE) want.last = want.first + PIECE - 1;
        bool under_way = g->asked < g->asked_to && want.first >= g->asked && want.first < g->asked_to;
        if (under_way && want.first > g->asked_done) g->asked_ns = now_ns;
        g->asked_done = want.first;
        if (under_way && now_ns - g->asked_ns < AGAIN_MS * NS_PER_MS) continue;
        g->asked = want.first;
        g->asked_to = want.last + 1;
        g->asked_ns = now_ns;
        s->evidence->scan(s->evidence->self, (uint32_t)p->config, p->partition, g->asked, g->asked_to);
    }
}

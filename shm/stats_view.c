#include "shm/stats_view.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "shm/stats_render.h"

const struct stats_metric *view_row(const struct stats *s, uint32_t i) {
    return (const void *)((const char *)s->header + s->header->metric_at + (size_t)i * s->header->metric_stride);
}

const char *view_topic(const struct stats *s, uint32_t i) {
    const char *name = (const char *)s->header + s->header->topic_at + (size_t)i * s->header->topic_stride;
    return i < s->header->topic_count && strnlen(name, TOPIC_BYTES) < TOPIC_BYTES ? name : "?";
}

/* A word of a block, or 0 when the row points out of it. */
static uint64_t word_at(const struct stats *s, const struct stats_block *b, uint64_t offset) {
    if (offset % 8 != 0 || offset + 8 > s->header->block_stride) return 0;
    return atomic_load_explicit((const _Atomic uint64_t *)(const void *)((const char *)b + offset),
                                memory_order_relaxed);
}

uint64_t view_value(const struct stats *s, const struct stats_metric *row, const struct stats_block *b) {
    return word_at(s, b, s->header->value_offset + 8ULL * row->index);
}

static uint64_t bucket_at(const struct stats *s, const struct stats_metric *row, const struct stats_block *b,
                          uint32_t bucket) {
    return word_at(s, b, s->header->histogram_offset + 8ULL * ((uint64_t)row->index * HISTOGRAM_BUCKETS + bucket));
}

bool view_row_is(const struct stats_metric *row, const char *type) {
    return strncmp(row->type, type, sizeof row->type) == 0;
}
bool view_unit_is(const struct stats_metric *row, const char *unit) {
    return strncmp(row->unit, unit, sizeof row->unit) == 0;
}

/* Whose metric is it: `worker` rows are in every block but the supervisor's. */
bool view_row_in(const struct stats_metric *row, const struct stats_block *b) {
    if (strncmp(row->role, "worker", sizeof row->role) == 0) return b->role != ROLE_SUPERVISOR;
    return strncmp(row->role, role_name((enum role)b->role), sizeof row->role) == 0;
}

/* Sum of a counter or gauge over the blocks that have it. */
uint64_t view_sum(const struct stats *s, const struct stats_metric *row) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < s->header->block_count; i++)
        if (view_row_in(row, stats_block(s, i))) sum += view_value(s, row, stats_block(s, i));
    return sum;
}

/* A row by its name, or NULL. */
static const struct stats_metric *row_named(const struct stats *s, const char *role, const char *name) {
    for (uint32_t i = 0; i < s->header->metric_count; i++) {
        const struct stats_metric *row = view_row(s, i);
        if (strncmp(row->role, role, sizeof row->role) == 0 && strncmp(row->name, name, sizeof row->name) == 0)
            return row;
    }
    return NULL;
}

uint64_t view_sum_named(const struct stats *s, const char *role, const char *name) {
    const struct stats_metric *row = row_named(s, role, name);
    return row == NULL ? 0 : view_sum(s, row);
}

uint64_t view_value_named(const struct stats *s, const struct stats_block *b, const char *role, const char *name) {
    const struct stats_metric *row = row_named(s, role, name);
    return row == NULL ? 0 : view_value(s, row, b);
}

uint64_t view_published(const struct stats_block *b) {
    return atomic_load_explicit(&b->published, memory_order_acquire);
}

bool view_audited(const struct stats *s) { return s->header->block_count == stats_block_count(s->header->lanes, true); }

/* From the end of the chain to its beginning: what is read first can only be behind what is read later. Every stage
 * notes a number before it passes the record on, the last one after it has released it. */
struct lane_numbers view_lane(const struct stats *s, uint32_t lane) {
    struct lane_numbers n = {0};
    const struct stats_block *audit = stats_block(s, stats_block_index(ROLE_AUDIT, s->header->lanes));
    if (view_audited(s)) n.audit = atomic_load_explicit(&audit->lane_published[lane], memory_order_acquire);
    n.sink = view_published(stats_block(s, stats_block_index(ROLE_SINK, lane)));
    n.transform = view_published(stats_block(s, stats_block_index(ROLE_TRANSFORM, lane)));
    n.ingest = atomic_load_explicit(&stats_block(s, 1)->lane_published[lane], memory_order_acquire);
    if (!view_audited(s)) n.audit = n.sink;
    return n;
}

struct partition_numbers view_partition(const struct stats_partition *p) {
    struct partition_numbers n;
    n.assigned = atomic_load_explicit(&p->assigned, memory_order_relaxed) != 0;
    n.epoch = atomic_load_explicit(&p->epoch, memory_order_relaxed);
    n.committed = atomic_load_explicit(&p->committed, memory_order_acquire); /* likewise, from its end */
    n.released = atomic_load_explicit(&p->released, memory_order_acquire);
    n.position = atomic_load_explicit(&p->position, memory_order_acquire);
    n.low = atomic_load_explicit(&p->low, memory_order_acquire);
    n.high = atomic_load_explicit(&p->high, memory_order_acquire);
    n.lost_from = atomic_load_explicit(&p->lost_from, memory_order_relaxed);
    n.lost_to = atomic_load_explicit(&p->lost_to, memory_order_relaxed);
    if (n.lost_to <= n.lost_from) n.lost_from = n.lost_to = 0;
    int64_t done = n.released >= 0 ? n.released : n.committed;
    n.lag = n.high < 0 || done < 0 ? -1 : n.high > done ? n.high - done : 0;
    return n;
}

uint32_t view_partition_count(const struct stats *s) {
    uint32_t n = atomic_load_explicit(&s->header->partition_count, memory_order_acquire);
    return n < PARTITIONS_MAX ? n : PARTITIONS_MAX;
}

uint32_t view_lane_count(const struct stats *s) { return s->header->lanes; }

uint64_t view_heartbeat_age_ms(const struct stats_block *b) {
    uint64_t beat = atomic_load_explicit(&b->heartbeat_ns, memory_order_relaxed), now = clock_ns(&clock_real);
    return beat == 0 || beat > now ? 0 : (now - beat) / NS_PER_MS;
}

uint32_t view_pid(const struct stats_block *b) { return atomic_load_explicit(&b->pid, memory_order_relaxed); }
uint64_t view_starts(const struct stats_block *b) { return atomic_load_explicit(&b->starts, memory_order_relaxed); }
uint64_t view_deaths(const struct stats_block *b) { return atomic_load_explicit(&b->deaths, memory_order_relaxed); }
uint32_t view_state(const struct stats_block *b) { return atomic_load_explicit(&b->state, memory_order_acquire); }
const char *view_state_name(const struct stats_block *b) { return worker_state_name((enum worker_state)view_state(b)); }
const char *view_role(const struct stats_block *b) { return role_name((enum role)b->role); }

/* -- the state of the whole -------------------------------------------------------------------- */

/* Another process may have got the number since: then the heartbeat is old, and its name is not ours. */
bool view_supervisor_alive(const struct stats *s) {
    enum { FRESH_NS = 2000000000 };
    const struct stats_block *b = stats_block(s, 0);
    uint32_t pid = view_pid(b);
    uint64_t beat = atomic_load_explicit(&b->heartbeat_ns, memory_order_relaxed), now = clock_ns(&clock_real);
    char path[32], name[16] = "";
    if (pid == 0 || (kill((pid_t)pid, 0) != 0 && errno == ESRCH)) return false;
    if (beat <= now && now - beat < FRESH_NS) return true;
    snprintf(path, sizeof path, "/proc/%u/comm", pid);
    FILE *f = fopen(path, "re");
    if (f == NULL) return true;
    bool known = fgets(name, sizeof name, f) != NULL;
    fclose(f);
    return !known || strncmp(name, "millrace", 8) == 0;
}

/* How bad a worker's state is for the whole. */
static int badness(uint32_t state) {
    static const int order[STATE_COUNT] = {
        [STATE_RUNNING] = 0, [STATE_DRAINING] = 1,   [STATE_CONNECTING] = 2, [STATE_STARTING] = 3, [STATE_DOWN] = 4,
        [STATE_BACKOFF] = 5, [STATE_RECOVERING] = 6, [STATE_BLOCKED] = 7,    [STATE_FAILED] = 8};
    return state < STATE_COUNT ? order[state] : 8;
}

const char *stats_state(const struct stats *s, char reason[STATS_TEXT_BYTES]) {
    const struct stats_block *whole = stats_block(s, 0), *worst = stats_block(s, 1);
    reason[0] = 0;
    stats_text_get(&whole->reason, reason);
    if (!view_supervisor_alive(s)) return "stopped";
    for (uint32_t i = 2; i < s->header->block_count; i++)
        if (badness(view_state(stats_block(s, i))) > badness(view_state(worst))) worst = stats_block(s, i);
    uint32_t state = view_state(worst), phase = view_state(whole);
    if (reason[0] == 0 && state != STATE_RUNNING) stats_text_get(&worst->reason, reason);
    /* While the whole starts, drains or has failed, workers come and go as they should. */
    if (phase != STATE_RUNNING && state != STATE_FAILED) state = phase;
    return worker_state_name((enum worker_state)state);
}

/* -- histograms -------------------------------------------------------------------------------- */

void view_histogram(const struct stats *s, const struct stats_metric *row, const struct stats_block *only,
                    struct merged *m) {
    *m = (struct merged){0};
    for (uint32_t i = 0; i < s->header->block_count; i++) {
        const struct stats_block *b = stats_block(s, i);
        if (!view_row_in(row, b) || (only != NULL && only != b)) continue;
        m->sum_ns += word_at(s, b, s->header->histogram_sum_offset + 8ULL * row->index);
        for (uint32_t k = 0; k < HISTOGRAM_BUCKETS; k++) {
            uint64_t n = bucket_at(s, row, b, k);
            m->bucket[k] += n;
            m->count += n;
        }
    }
}

double view_quantile_ms(const struct merged *m, double q) {
    uint64_t seen = 0, rank = (uint64_t)(q * (double)m->count);
    if (m->count == 0) return -1;
    for (uint32_t k = 0; k < HISTOGRAM_BUCKETS; k++) {
        seen += m->bucket[k];
        if (seen > rank || seen == m->count)
            return k < HISTOGRAM_BUCKETS - 1 ? (double)histogram_bound_ns(k) / 1e6 : INFINITY;
    }
    return -1;
}

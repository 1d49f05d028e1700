#include "ingest/ingest.h"

enum { REPORT_MS = 100, WATERMARKS_MS = 1000, ENDS_MS = 5000 };

static void partition_report(const struct ingest *g, uint32_t slot) {
    const struct partition *p = &g->partition[slot];
    struct stats_partition *s = stats_partition(&g->worker->stats, slot);
    s->topic = p->topic;
    s->partition = p->partition;
    s->lane = p->lane;
    atomic_store_explicit(&s->assigned, p->assigned, memory_order_relaxed);
    atomic_store_explicit(&s->epoch, p->epoch, memory_order_relaxed);
    atomic_store_explicit(&s->position, p->next, memory_order_relaxed);
    atomic_store_explicit(&s->released, commit_applied(g, slot), memory_order_relaxed);
    atomic_store_explicit(&s->committed, p->committed, memory_order_relaxed);
    const struct ledger_ingest_slot *l = &g->ledger->slot[slot];
    bool lost = p->assigned && loss_stands(g, slot);
    int64_t from = lost ? atomic_load_explicit(&l->lost_from, memory_order_relaxed) : 0;
    int64_t to = lost ? atomic_load_explicit(&l->lost_to, memory_order_relaxed) : 0;
    atomic_store_explicit(&s->lost_from, from, memory_order_relaxed);
    atomic_store_explicit(&s->lost_to, to, memory_order_relaxed);
}

static void high_report(const struct ingest *g, uint32_t slot, int64_t high) {
    struct stats_partition *s = stats_partition(&g->worker->stats, slot);
    if (high > atomic_load_explicit(&s->high, memory_order_relaxed))
        atomic_store_explicit(&s->high, high, memory_order_relaxed);
}

/* As the client last saw them when it fetched. */
static void watermarks_report(const struct ingest *g, uint32_t slot) {
    int64_t low, high;
    struct kafka_partition at = {g->partition[slot].topic, g->partition[slot].partition, -1, {0}};
    g->kafka.watermarks_seen(g->kafka.self, &at, &low, &high);
    atomic_store_explicit(&stats_partition(&g->worker->stats, slot)->low, low, memory_order_relaxed);
    high_report(g, slot, high);
}

/* A client whose queue is full does not fetch, and so does not see the topics grow: while a lane is full the broker is
 * asked, or the lag would stand still just when somebody looks at it. */
static void ends_report(struct ingest *g) {
    static struct kafka_partition list[PARTITIONS_MAX];
    static uint32_t slot[PARTITIONS_MAX];
    struct err err;
    uint32_t n = 0;
    for (uint32_t i = 0; i < g->partition_count; i++) {
        if (!g->partition[i].assigned) continue;
        slot[n] = i;
        list[n++] = (struct kafka_partition){g->partition[i].topic, g->partition[i].partition, -1, {0}};
    }
    if (n == 0 || g->kafka.ends(g->kafka.self, list, n, &err) != 0)
        return; /* the log has the client's own complaints */
    for (uint32_t i = 0; i < n; i++) high_report(g, slot[i], list[i].offset);
}

static bool lane_full(const struct ingest *g) {
    for (uint32_t i = 0; i < g->config->lanes; i++)
        if (g->lane[i].full) return true;
    return false;
}

/* Nothing was fetched of it yet when it was looked at last: there is no lag to show before that. */
static bool high_unknown(const struct ingest *g, uint32_t slot) {
    return atomic_load_explicit(&stats_partition(&g->worker->stats, slot)->high, memory_order_relaxed) < 0;
}

void report_step(struct ingest *g, uint64_t now) {
    if (now < g->report_due_ns) return;
    g->report_due_ns = now + REPORT_MS * NS_PER_MS;
    bool watermarks = now >= g->watermarks_due_ns;
    if (watermarks) g->watermarks_due_ns = now + WATERMARKS_MS * NS_PER_MS;
    uint64_t assigned = 0;
    for (uint32_t i = 0; i < g->partition_count; i++) {
        partition_report(g, i);
        assigned += g->partition[i].assigned;
        if (g->partition[i].assigned && (watermarks || high_unknown(g, i))) watermarks_report(g, i);
    }
    if (lane_full(g) && now >= g->ends_due_ns) {
        ends_report(g);
        g->ends_due_ns = now + ENDS_MS * NS_PER_MS;
    }
    atomic_store_explicit(&g->worker->stats.header->partition_count, g->partition_count, memory_order_release);
    stats_set(g->stats, M_ingest_partition_assigned, assigned);
    stats_set(g->stats, M_ingest_reject_folder, g->store.total_bytes);
}

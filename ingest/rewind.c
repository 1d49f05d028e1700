#include "base/fault.h"
#include "base/log.h"
#include "ingest/ingest.h"

enum { JUDGE_AGAIN_MS = 500, JUDGE_MS = 1000 };

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Where Redis has to be written from again: where its mark is, or where the group began when there is none; never above
 * what is released, read, or rejected and not durable yet. */
static int64_t rewind_target(struct ingest *g, uint32_t slot, uint64_t what) {
    int64_t released = commit_released(g, slot);
    int64_t target = (what & LEDGER_LOST_ALL) != 0
                         ? atomic_load_explicit(&g->ledger->slot[slot].origin, memory_order_relaxed)
                         : (int64_t)(what & LEDGER_LOST_OFFSET);
    int64_t start = atomic_load_explicit(&g->ledger->slot[slot].start, memory_order_relaxed);
    target = least(target, released >= 0 ? released : start);
    return least(least(target, g->partition[slot].next), commit_cap(g, slot));
}

/* The epoch is raised first, and its start lowered then: until it is, a sink that looks finds its mark behind the start
 * or no worse than it, and a successor reads from the start of before, which is asked about again. REWOUND comes last,
 * for it has the sink set the mark to the start that it finds; that of an earlier rewind is taken back before. */
void rewind_to(struct ingest *g, uint32_t slot, int64_t target, uint32_t flags) {
    struct ledger_ingest_slot *s = &g->ledger->slot[slot];
    struct partition *p = &g->partition[slot];
    struct log_at at = ingest_at(g, p->topic, p->partition, target);
    if (g->holding && g->held_slot == slot) read_drop_held(g);
    log_info_at("ingest.rewound", &at, "read again from here; %lld was next", (long long)p->next);
    atomic_store_explicit(&s->flags, LEDGER_ASSIGNED, memory_order_release);
    p->epoch++;
    atomic_store_explicit(&s->epoch, p->epoch, memory_order_release); /* E1, pairs with the loads in transform, sink */
    FAULT("ingest:rewind_epoch");
    atomic_store_explicit(&s->start, target, memory_order_release);
    FAULT("ingest:rewind_start");
    atomic_store_explicit(&s->flags, LEDGER_ASSIGNED | LEDGER_REWOUND | flags, memory_order_release);
    FAULT("ingest:rewound");
    read_from(p, target);
    p->refetch_ns = clock_ns(g->clock); /* a seek first */
    stats_add(g->stats, M_ingest_partition_rewind, 1);
}

/* What is gone from Redis, or from Kafka, against what Kafka has. found: the sink has noted *what*; else the offset
 * that comes next could not be read. */
static bool judge(struct ingest *g, uint32_t slot, bool found, uint64_t what, uint64_t now) {
    struct partition *p = &g->partition[slot];
    struct kafka_partition at = {p->topic, p->partition, -1, {0}};
    struct err err;
    int64_t low, high, from = 0, to = 0;
    if (found && !commit_logged(g, slot)) return false;
    if (g->kafka.watermarks(g->kafka.self, &at, &low, &high, &err) != 0) {
        p->judge_ns = clock_ns(g->clock) + JUDGE_AGAIN_MS * NS_PER_MS;
        log_warn("ingest.rewind_waits", "%s", err.text);
        return false;
    }
    int64_t target = found ? rewind_target(g, slot, what) : p->next;
    if (g->broken) return false; /* a rejects ring was found so just now: how far to go back, nobody knows */
    if (found && (what & LEDGER_LOST_OTHER) != 0)
        to = (int64_t)(what & LEDGER_LOST_OFFSET);
    else if (low > target)
        from = target, to = low;
    else if (high < target)
        from = high, to = target;
    if (to > from)
        loss_note(g, slot, from, to);
    else if (found)
        rewind_to(g, slot, target, 0);
    else
        read_again(p, now); /* it is there after all */
    p->gone = false;
    p->judged = found && to > from;
    p->judged_what = what;
    return true;
}

/* Whether partition i is to be judged now; if so, found and *what as for judge. */
static bool judge_due(const struct ingest *g, uint32_t i, uint64_t now, bool *found, uint64_t *what) {
    const struct partition *p = &g->partition[i];
    *found = commit_lost_found(g, i, what);
    bool known = *found && p->judged && p->judged_what == *what && loss_stands(g, i);
    return p->assigned && ((*found && !known) || p->gone) && now >= p->judge_ns;
}

/* A record crashes the sink, which waits before it. When everything before it is done, rejects included, the partition
 * is read again from there in another epoch, and transform rejects the record. True: the sink waits for that still. */
static bool crash_rewind(struct ingest *g, uint32_t slot, bool *changed) {
    int64_t ms, released = commit_released(g, slot);
    bool waits;
    commit_crashed(g, slot, &ms, &waits);
    if (!waits || !g->partition[slot].assigned) return false;
    if (!commit_logged(g, slot) || commit_cap(g, slot) != INT64_MAX) return true;
    if (released < 0) released = atomic_load_explicit(&g->ledger->slot[slot].start, memory_order_relaxed);
    rewind_to(g, slot, released, 0);
    *changed = true;
    return false;
}

/* A broker that does not answer takes a second a partition: there may be hundreds, and a worker that is silent for long
 * is taken for hung. So this goes on for a bounded time, in turns. */
void rewind_step(struct ingest *g) {
    if (g->membership != MEMBER_READING && g->membership != MEMBER_REVOKING) return;
    uint64_t now = clock_ns(g->clock), until = now + JUDGE_MS * NS_PER_MS, what = 0;
    uint32_t n = g->partition_count, from = g->judge_turn;
    bool changed = false, found;
    for (uint32_t k = 0; k < n; k++) {
        uint32_t i = (from + k) % n;
        if (judge_due(g, i, now, &found, &what) && now < until) {
            changed |= judge(g, i, found, what, now);
            g->judge_turn = (i + 1) % n;
            now = clock_ns(g->clock);
            found = commit_lost_found(g, i, &what);
        }
        bool lost = loss_stands(g, i) || g->partition[i].gone || found;
        g->partition[i].waits = lost || crash_rewind(g, i, &changed);
    }
    if (!changed) return;
    g->commit_due_ns = 0; /* and again as soon as one that is under way is answered */
    commit_step(g, true);
}

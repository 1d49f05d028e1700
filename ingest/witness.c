#include "base/log.h"
#include "ingest/ingest.h"

/* The brokers are asked at most once a second; after failures the pause is doubled, up to 64 s. */
enum { ASK_MS = 1000, ASK_DOUBLINGS = 6 };

struct question {
    uint32_t slot[KAFKA_WITNESS_MAX];
    struct kafka_partition at[KAFKA_WITNESS_MAX];
    int64_t seen_ms[KAFKA_WITNESS_MAX], found_ms[KAFKA_WITNESS_MAX];
    int64_t end[KAFKA_WITNESS_MAX]; /* where no record was found: of the partition; -1 unknown */
    uint32_t count;
};

/* The partitions whose mark the sink has found and nobody has looked into, those that were not asked about for the
 * longest time first. Where the mark names no record, there is nothing to look into. */
static void collect(struct ingest *g, struct question *q) {
    uint32_t from = g->witness_turn;
    q->count = 0;
    for (uint32_t k = 0; k < g->partition_count && q->count < KAFKA_WITNESS_MAX; k++) {
        uint32_t slot = (from + k) % g->partition_count;
        struct partition *p = &g->partition[slot];
        uint64_t next, ms;
        if (!p->assigned || p->witnessed == p->epoch || commit_released(g, slot) < 0) continue;
        twin_load(&g->lane[p->lane].sink->slot[slot].seen, &next, &ms);
        if (next == 0) {
            p->witnessed = p->epoch;
            continue;
        }
        q->slot[q->count] = slot;
        q->at[q->count] = (struct kafka_partition){p->topic, p->partition, (int64_t)next - 1, {0}};
        q->seen_ms[q->count++] = (int64_t)ms;
    }
}

/* Where there is no record, the end of the partition. Both questions are one call each, for a broker that does not
 * answer takes a second a call. */
static int ask(struct ingest *g, struct question *q, struct err *err) {
    static struct kafka_partition none[KAFKA_WITNESS_MAX];
    uint32_t of[KAFKA_WITNESS_MAX], n = 0;
    if (g->kafka.witness(g->kafka.self, q->at, q->count, q->found_ms, err) != 0) return -1;
    for (uint32_t i = 0; i < q->count; i++) {
        q->end[i] = -1;
        if (q->found_ms[i] != KAFKA_WITNESS_NONE) continue;
        of[n] = i;
        none[n++] = q->at[i];
    }
    if (n > 0 && g->kafka.ends(g->kafka.self, none, n, err) == 0)
        for (uint32_t k = 0; k < n; k++) q->end[of[k]] = none[k].offset;
    return 0;
}

/* All that Redis has of the partition is of the topic of before; the note of it is what a successor goes by. */
static void other(struct ingest *g, uint32_t slot, int64_t next) {
    loss_note(g, slot, 0, next);
    g->partition[slot].waits = true;
    g->commit_due_ns = 0;
    commit_step(g, true);
}

/* False: the brokers have not said enough, they are asked again. A record that is gone (retention, compaction) says
 * nothing, unless the partition ends before it. */
static bool judge(struct ingest *g, const struct question *q, uint32_t i, struct err *err) {
    const struct kafka_partition *at = &q->at[i];
    struct log_at where = ingest_at(g, at->topic, at->partition, at->offset);
    if (q->found_ms[i] == KAFKA_WITNESS_LATE) {
        err_set(err, 2, "%s[%d] was not read in time", where.topic, where.partition);
        return false;
    }
    if (q->found_ms[i] == KAFKA_WITNESS_NONE) {
        if (q->end[i] < 0) {
            err_set(err, 2, "the end of %s[%d] was not told", where.topic, where.partition);
            return false;
        }
        if (q->end[i] <= at->offset) {
            LOG_LINE(LOG_ERROR, "ingest.topic_other", &where,
                     "Redis has a record of this offset and the partition ends at %lld: the topic is another one than "
                     "before",
                     (long long)q->end[i]);
            other(g, q->slot[i], at->offset + 1);
        } else {
            log_info_at("ingest.topic_unproven", &where,
                        "the record that Redis has last is gone from Kafka: nothing tells whether the topic is the one "
                        "of before");
        }
    } else if (q->found_ms[i] != q->seen_ms[i]) {
        LOG_LINE(LOG_ERROR, "ingest.topic_other", &where,
                 "Redis has a record of this offset with timestamp %lld, in Kafka it is %lld: the topic is another one "
                 "than before",
                 (long long)q->seen_ms[i], (long long)q->found_ms[i]);
        other(g, q->slot[i], at->offset + 1);
    }
    g->partition[q->slot[i]].witnessed = g->partition[q->slot[i]].epoch;
    return true;
}

void witness_step(struct ingest *g) {
    static struct question q;
    struct err err = {0};
    if (g->membership != MEMBER_READING) return;
    collect(g, &q);
    if (q.count == 0) return;
    uint64_t now = clock_ns(g->clock);
    if (now < g->witness_ns) return;
    g->witness_turn = q.slot[q.count - 1] + 1;
    bool answered = ask(g, &q, &err) == 0, all = answered;
    for (uint32_t i = 0; answered && i < q.count; i++) all &= judge(g, &q, i, &err);
    uint32_t doublings = g->witness_fails < ASK_DOUBLINGS ? g->witness_fails : ASK_DOUBLINGS;
    g->witness_fails = all ? 0 : g->witness_fails + 1;
    g->witness_ns = now + ((uint64_t)ASK_MS << (all ? 0 : doublings)) * NS_PER_MS;
    if (!all) log_warn("ingest.topic_waits", "%s", err.text);
}

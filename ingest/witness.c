#include "base/log.h"
#include "ingest/ingest.h"

/* The brokers are asked at most once a second; after failures the pause is doubled, up to 64 s. */
enum { ASK_MS = 1000, ASK_DOUBLINGS = 6, ALL_MS = 60000 };

struct question {
    uint32_t slot[KAFKA_WITNESS_MAX];
    struct kafka_partition at[KAFKA_WITNESS_MAX];
    struct proof next[KAFKA_WITNESS_MAX]; /* what was read by then: the proof of the next time */
    int64_t seen_ms[KAFKA_WITNESS_MAX], found_ms[KAFKA_WITNESS_MAX];
    int64_t end[KAFKA_WITNESS_MAX]; /* where no record was found: of the partition; -1 unknown */
    uint32_t count;
};

/* -- when -------------------------------------------------------------------------------------- */

/* A topic that is made anew while it is read may have grown beyond what comes next before the client looks again, and
 * nothing tells. So may a log whose end was lost with its leader. The proof has to be from before that: what is still
 * to be compared stays, for it is the older one. */
static void doubt(struct partition *p, const struct proof *by) {
    if (p->witnessed != p->epoch || by->next == 0) return;
    p->proof = *by;
    p->witnessed = 0;
}

void witness_record(struct partition *p, const struct kafka_message *m) {
    bool moved = p->last.next != 0 ? m->broker != p->broker : m->broker < 0;
    if (moved || p->shaken == SHAKEN_READ_OUT) {
        doubt(p, p->last.next != 0 ? &p->last : &p->proof);
        p->shaken = SHAKEN_NOT;
    }
    if (m->timestamp_ms >= 0) p->last = (struct proof){m->offset + 1, m->timestamp_ms};
    if (p->proof.next == 0 && p->witnessed == p->epoch) p->proof = p->last;
    p->broker = m->broker;
}

void witness_read_out(struct partition *p) {
    if (p->shaken == SHAKEN) p->shaken = SHAKEN_READ_OUT;
}

void witness_trouble(struct ingest *g) {
    for (uint32_t i = 0; i < g->partition_count; i++) g->partition[i].shaken = SHAKEN;
}

static void doubt_all(struct ingest *g, uint64_t now) {
    if (now < g->witness_all_ns) return;
    g->witness_all_ns = now + ALL_MS * NS_PER_MS;
    for (uint32_t i = 0; i < g->partition_count; i++) {
        struct partition *p = &g->partition[i];
        doubt(p, &p->proof);
    }
}

/* -- the question ------------------------------------------------------------------------------ */

/* What a partition is to be compared with: at a takeover what the sink has found in its mark. */
static struct proof proof_of(const struct ingest *g, uint32_t slot) {
    const struct partition *p = &g->partition[slot];
    uint64_t next, ms;
    if (p->proof.next != 0) return p->proof;
    twin_load(&g->lane[p->lane].sink->slot[slot].seen, &next, &ms);
    return (struct proof){(int64_t)next, (int64_t)ms};
}

/* The partitions that are to be looked into, those that were not asked about for the longest time first; at a takeover
 * as soon as the sink has found the mark. Where the mark names no record, there is nothing to look into. */
static void collect(struct ingest *g, struct question *q) {
    uint32_t from = g->witness_turn;
    q->count = 0;
    for (uint32_t k = 0; k < g->partition_count && q->count < KAFKA_WITNESS_MAX; k++) {
        uint32_t slot = (from + k) % g->partition_count;
        struct partition *p = &g->partition[slot];
        if (!p->assigned || p->witnessed == p->epoch || commit_released(g, slot) < 0) continue;
        struct proof by = proof_of(g, slot);
        if (by.next == 0) {
            p->witnessed = p->epoch;
            p->proof = p->last;
            continue;
        }
        q->slot[q->count] = slot;
        q->next[q->count] = p->last;
        q->at[q->count] = (struct kafka_partition){p->topic, p->partition, by.next - 1, {0}};
        q->seen_ms[q->count++] = by.timestamp_ms;
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

/* What the record at the proof's offset says: whether the topic is another one, into *is_other. False: the brokers have
 * not said enough, they are asked again. A record that is gone (retention, compaction) says nothing, unless the
 * partition ends before it. */
static bool verdict(const struct question *q, uint32_t i, const struct log_at *where, bool *is_other, struct err *err) {
    bool none = q->found_ms[i] == KAFKA_WITNESS_NONE;
    if (q->found_ms[i] == KAFKA_WITNESS_LATE) {
        err_set(err, 2, "%s[%d] was not read in time", where->topic, where->partition);
        return false;
    }
    if (none && q->end[i] < 0) {
        err_set(err, 2, "the end of %s[%d] was not told", where->topic, where->partition);
        return false;
    }
    *is_other = none ? q->end[i] <= where->offset : q->found_ms[i] != q->seen_ms[i];
    if (*is_other && none)
        LOG_LINE(LOG_ERROR, "ingest.topic_other", where,
                 "a record of this offset was read and the partition ends at %lld: the topic is another one than "
                 "before, or its log was cut off",
                 (long long)q->end[i]);
    else if (*is_other)
        LOG_LINE(LOG_ERROR, "ingest.topic_other", where,
                 "the record of this offset that was read has timestamp %lld, in Kafka it is %lld: the topic is "
                 "another one than before, or its log was cut off",
                 (long long)q->seen_ms[i], (long long)q->found_ms[i]);
    return true;
}

static bool judge(struct ingest *g, const struct question *q, uint32_t i, struct err *err) {
    const struct kafka_partition *at = &q->at[i];
    struct log_at where = ingest_at(g, at->topic, at->partition, at->offset);
    struct partition *p = &g->partition[q->slot[i]];
    bool is_other, takeover = p->proof.next == 0, none = q->found_ms[i] == KAFKA_WITNESS_NONE;
    if (!verdict(q, i, &where, &is_other, err)) return false;
    p->witnessed = p->epoch;
    if (is_other) {
        other(g, q->slot[i], at->offset + 1);
        p->proof = p->last = (struct proof){0};
        return true;
    }
    if (none && takeover)
        log_info_at("ingest.topic_unproven", &where,
                    "the record that Redis has last is gone from Kafka: nothing tells whether the topic is the one of "
                    "before");
    if (q->next[i].next != 0 && (!none || q->next[i].next > at->offset + 1))
        p->proof = q->next[i];
    else if (none)
        p->proof = (struct proof){0};
    else
        p->proof = (struct proof){at->offset + 1, q->seen_ms[i]};
    return true;
}

void witness_step(struct ingest *g) {
    static struct question q;
    struct err err = {0};
    if (g->membership != MEMBER_READING) return;
    uint64_t now = clock_ns(g->clock);
    doubt_all(g, now);
    collect(g, &q);
    if (q.count == 0) return;
    if (now < g->witness_ns) return;
    g->witness_turn = q.slot[q.count - 1] + 1;
    bool answered = ask(g, &q, &err) == 0, all = answered;
    for (uint32_t i = 0; answered && i < q.count; i++) all &= judge(g, &q, i, &err);
    uint32_t doublings = g->witness_fails < ASK_DOUBLINGS ? g->witness_fails : ASK_DOUBLINGS;
    g->witness_fails = all ? 0 : g->witness_fails + 1;
    g->witness_ns = now + ((uint64_t)ASK_MS << (all ? 0 : doublings)) * NS_PER_MS;
    if (!all) log_warn("ingest.topic_waits", "%s", err.text);
}

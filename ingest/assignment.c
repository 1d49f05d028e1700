#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/log.h"
#include "ingest/ingest.h"

enum { EVENTS_PER_STEP = 16, RETRY_MS = 200, REVOKE_MS = 20000, BEGIN_MS = 2000 };

/* -- the table --------------------------------------------------------------------------------- */

static void lanes_fill(struct ingest *g) {
    for (uint32_t i = 0; i < g->config->lanes; i++) g->lane[i].slot_count = g->lane[i].turn = 0;
    for (uint32_t i = 0; i < g->partition_count; i++) {
        struct lane *l = &g->lane[g->partition[i].lane];
        if (g->partition[i].assigned) l->slot[l->slot_count++] = i;
    }
}

void assignment_restore(struct ingest *g) {
    g->partition_count = atomic_load_explicit(&g->ledger->count, memory_order_acquire);
    CHECK(g->partition_count <= PARTITIONS_MAX);
    for (uint32_t i = 0; i < g->partition_count; i++) {
        const struct ledger_ingest_slot *s = &g->ledger->slot[i];
        g->partition[i] = (struct partition){
            .topic = s->topic,
            .partition = s->partition,
            .lane = ledger_lane(s->partition, g->config->lanes),
            .epoch = atomic_load_explicit(&s->epoch, memory_order_relaxed),
            .next = -1,
            .committed = atomic_load_explicit(&s->committed, memory_order_relaxed),
        };
    }
}

/* The slot of a partition, a new one when it was never seen. UINT32_MAX: the table is full. */
static uint32_t slot_get(struct ingest *g, const struct kafka_partition *at) {
    for (uint32_t i = 0; i < g->partition_count; i++)
        if (g->partition[i].topic == at->topic && g->partition[i].partition == at->partition) return i;
    if (g->partition_count == PARTITIONS_MAX) return UINT32_MAX;
    uint32_t i = g->partition_count++;
    g->ledger->slot[i].topic = at->topic;
    g->ledger->slot[i].partition = at->partition;
    atomic_store_explicit(&g->ledger->count, g->partition_count, memory_order_release);
    g->partition[i] = (struct partition){.topic = at->topic,
                                         .partition = at->partition,
                                         .lane = ledger_lane(at->partition, g->config->lanes),
                                         .next = -1,
                                         .committed = -1};
    return i;
}

/* A new epoch: what is still under way from the old one is skipped by transform and sink. `start` is there before the
 * epoch that it belongs to. */
static void epoch_raise(struct ingest *g, uint32_t slot, int64_t start) {
    struct ledger_ingest_slot *s = &g->ledger->slot[slot];
    struct partition *p = &g->partition[slot];
    p->epoch++;
    read_from(p, start);
    atomic_store_explicit(&s->start, start, memory_order_release);
    FAULT("ingest:epoch_raise");
    atomic_store_explicit(&s->epoch, p->epoch,
                          memory_order_release); /* E1, pairs with the loads in transform and sink */
}

/* The partition is given up: what is under way is skipped. `start` stays what it was, for it must never say more than
 * is known to be in Redis, not even in a crash between the two stores. */
static void epoch_end(struct ingest *g, uint32_t slot) {
    epoch_raise(g, slot, atomic_load_explicit(&g->ledger->slot[slot].start, memory_order_relaxed));
}

static void flags_set(struct ingest *g, uint32_t slot, uint32_t flags) {
    atomic_store_explicit(&g->ledger->slot[slot].flags, flags, memory_order_release);
    g->partition[slot].assigned = (flags & LEDGER_ASSIGNED) != 0;
}

/* -- where a partition begins ------------------------------------------------------------------ */

static void commit_known(struct ingest *g, uint32_t slot, int64_t offset, const struct note *note) {
    g->partition[slot].committed = offset;
    g->partition[slot].noted = *note;
    g->partition[slot].by = note_by(note->by, note_instance(g->config->instance));
    atomic_store_explicit(&g->ledger->slot[slot].committed, offset, memory_order_relaxed);
    atomic_store_explicit(&g->ledger->slot[slot].intent, offset, memory_order_relaxed);
}

/* Whether this process takes up what a predecessor of the same instance was reading: it held the partition when it
 * died, and the broker's offset is what we committed or meant to commit, so nobody else has had it meanwhile. */
static bool resume(struct ingest *g, uint32_t slot, int64_t broker) {
    const struct ledger_ingest_slot *s = &g->ledger->slot[slot];
    struct partition *p = &g->partition[slot];
    bool held = (atomic_load_explicit(&s->flags, memory_order_relaxed) & LEDGER_ASSIGNED) != 0 && p->epoch != 0;
    bool ours = broker == atomic_load_explicit(&s->committed, memory_order_relaxed) ||
                broker == atomic_load_explicit(&s->intent, memory_order_relaxed);
    if (!g->first_assignment || !held || !ours) return false;
    const struct ring_producer *out = &g->lane[p->lane].out;
    bool published = ring_aux_get(out, 2 * slot) == p->epoch;
    p->next =
        published ? (int64_t)ring_aux_get(out, 2 * slot + 1) : atomic_load_explicit(&s->start, memory_order_relaxed);
    return true;
}

/* Whether the group has commits in a topic: 1 yes, 0 no, -1 no answer. Those of other members count, and are asked for,
 * once per assignment: what was added to a topic has the highest numbers, so the older partitions are those below. */
static int topic_has_commits(struct ingest *g, uint32_t topic, const struct kafka_event *e, struct err *err) {
    static struct kafka_partition below[PARTITIONS_MAX];
    int32_t highest = 0;
    uint32_t n = 0;
    if (g->topic_commits[topic] >= 0) return g->topic_commits[topic];
    for (uint32_t i = 0; i < e->count; i++) {
        if (e->list[i].topic != topic) continue;
        if (e->list[i].offset >= 0) return g->topic_commits[topic] = 1;
        if (e->list[i].partition > highest) highest = e->list[i].partition;
    }
    for (; n < PARTITIONS_MAX && n < (uint32_t)highest; n++)
        below[n] = (struct kafka_partition){topic, (int32_t)n, -1, {0}};
    if (n > 0 && g->kafka.committed(g->kafka.self, below, n, err) != 0) return -1;
    int found = 0;
    for (uint32_t i = 0; i < n; i++) found |= below[i].offset >= 0;
    return g->topic_commits[topic] = (int8_t)found;
}

/* A partition without a commit: the operator's choice, unless the group has commits in the same topic; then the
 * partition was added to it, and all it holds is to be read. 0 ok, 1 ask again later, -1 give up (reason in err). */
static int first_start(struct ingest *g, const struct kafka_partition *at, const struct kafka_event *e, int64_t *start,
                       struct err *err) {
    int64_t low, high;
    int added = topic_has_commits(g, at->topic, e, err);
    if (added < 0) return 1;
    if (!added && g->config->start == START_ERROR) {
        err_set(err, 1,
                "group %s has no committed offset for %s[%d]: choose `start: earliest` or `start: latest` for the "
                "first start",
                g->config->kafka.group_id, g->config->topic[at->topic].name, at->partition);
        return -1;
    }
    if (g->kafka.watermarks(g->kafka.self, at, &low, &high, err) != 0) return 1;
    *start = added || g->config->start == START_EARLIEST ? low : high;
    return 0;
}

/* What a commit says beside its offset, for the ledger. Lost offsets that we know of stay so unless somebody else has
 * committed since: he may have had them accepted. */
static void note_take(struct ingest *g, uint32_t slot, const struct kafka_partition *at, int64_t start, bool first) {
    struct ledger_ingest_slot *s = &g->ledger->slot[slot];
    bool others = at->offset != atomic_load_explicit(&s->committed, memory_order_relaxed) &&
                  at->offset != atomic_load_explicit(&s->intent, memory_order_relaxed);
    atomic_store_explicit(&s->origin, first ? start : at->note.origin, memory_order_release);
    if (others || at->note.lost_to > 0) loss_store(g, slot, at->note.lost_from, at->note.lost_to);
}

/* Decides where one partition of the assignment begins. Same results as first_start. What the sink does about marks is
 * not known to it before the epoch is: flags of an earlier epoch are taken back first. The commit of a new epoch is
 * noted last: from then on a successor takes the partition for ours, and must not find the epoch of before. */
static int partition_begin(struct ingest *g, struct kafka_partition *at, const struct kafka_event *e, struct err *err) {
    uint32_t slot = slot_get(g, at);
    if (slot == UINT32_MAX) return err_set(err, 1, "more than %d partitions have been assigned", PARTITIONS_MAX);
    struct partition *p = &g->partition[slot];
    if (resume(g, slot, at->offset)) {
        commit_known(g, slot, at->offset, &at->note);
        p->assigned = true;
        return 0;
    }
    int64_t start = at->offset;
    bool first = at->offset < 0;
    int r = first ? first_start(g, at, e, &start, err) : 0;
    if (r != 0) return r;
    uint32_t held = atomic_load_explicit(&g->ledger->slot[slot].flags, memory_order_relaxed) & LEDGER_ASSIGNED;
    flags_set(g, slot, held);
    note_take(g, slot, at, start, first);
    epoch_raise(g, slot, start);
    flags_set(g, slot,
              LEDGER_ASSIGNED | (first || at->note.first ? LEDGER_FIRST_START : 0) |
                  (at->note.rewound ? LEDGER_REWOUND : 0) | (at->note.accepted ? LEDGER_ACCEPTED : 0) |
                  (at->note.run != 0 && at->note.run == g->worker->control->run ? LEDGER_MARKED : 0));
    FAULT("ingest:commit_known");
    commit_known(g, slot, at->offset, &at->note);
    p->gone = loss_stands(g, slot); /* whether more than is noted is lost is found out at once */
    struct log_at where = ingest_at(g, at->topic, at->partition, start);
    log_info_at("ingest.partition_begin", &where, "epoch %u, lane %u%s", p->epoch, p->lane,
                first ? ", first start" : "");
    return 0;
}

/* After the first assignment, whatever this process did not get belongs to somebody else. Also what a predecessor had
 * given up already: it may have died before it raised the epoch. */
static void others_give_up(struct ingest *g) {
    for (uint32_t i = 0; i < g->partition_count; i++) {
        if (g->partition[i].assigned || g->partition[i].epoch == 0) continue;
        flags_set(g, i, 0);
        epoch_end(g, i);
    }
}

static enum step assign_fail(struct ingest *g, int r, const struct err *err) {
    if (r < 0) return worker_fail(g->worker, "ingest.cannot_begin", "%s", err->text);
    log_warn("ingest.assign_waits", "%s", err->text);
    g->begun = 0; /* what the broker said of the others may be out of date by then */
    g->retry_ns = clock_ns(g->clock) + RETRY_MS * NS_PER_MS;
    return STEP_IDLE;
}

/* Decides where the partitions of asked begin, for a bounded time: first starts ask the broker one by one, and a worker
 * that is silent for long is taken for hung. 0 all done, 1 to be continued, -1 failed or not answered (result in *r).
 */
static int begin_some(struct ingest *g, struct kafka_event *asked, int *r, struct err *err) {
    uint64_t until = clock_ns(g->clock) + BEGIN_MS * NS_PER_MS;
    while (g->begun < asked->count) {
        *r = partition_begin(g, &asked->list[g->begun], asked, err);
        if (*r != 0) return -1;
        g->begun++;
        if (clock_ns(g->clock) >= until) return g->begun < asked->count;
    }
    return 0;
}

/* The cluster whose offsets the ledger and the marks are about. 0 known, 1 ask again later, -1 it is another one. */
static int cluster_check(struct ingest *g, struct err *err) {
    char id[CLUSTER_BYTES];
    if (g->cluster_checked) return 0;
    if (g->kafka.cluster(g->kafka.self, id, err) != 0) return 1;
    if (atomic_load_explicit(&g->ledger->cluster_known, memory_order_relaxed) == 0) {
        memcpy(g->ledger->cluster, id, sizeof id);
        atomic_store_explicit(&g->ledger->cluster_known, 1, memory_order_release);
        log_info("ingest.cluster", "%s", id[0] != 0 ? id : "the brokers tell no id");
    } else if (strcmp(g->ledger->cluster, id) != 0)
        return err_set(err, 1, "the brokers are another cluster than before: %s, it was %s", id, g->ledger->cluster);
    g->cluster_checked = true;
    return 0;
}

bool assignment_again(struct ingest *g, struct err *err) {
    static struct kafka_partition list[PARTITIONS_MAX];
    static uint32_t slot[PARTITIONS_MAX];
    static void *handle[PARTITIONS_MAX];
    uint32_t n = 0;
    for (uint32_t i = 0; i < g->partition_count; i++) {
        const struct partition *p = &g->partition[i];
        if (!p->assigned) continue;
        slot[n] = i;
        list[n++] = (struct kafka_partition){p->topic, p->partition, read_position(g, p), {0}};
    }
    if (g->kafka.assign(g->kafka.self, list, n, handle, err) != 0) return false;
    for (uint32_t i = 0; i < n; i++) {
        g->partition[slot[i]].handle = handle[i];
        g->partition[slot[i]].refetch_ns = 0;
    }
    return true;
}

static enum step assign_carry_out(struct ingest *g) {
    static struct kafka_event asked; /* with the broker's offsets, until all is decided */
    struct err err = {0};
    int r = 1;
    if (clock_ns(g->clock) < g->retry_ns) return STEP_IDLE;
    int known = cluster_check(g, &err);
    if (known != 0) return assign_fail(g, known, &err);
    if (g->begun == 0) {
        asked = g->rebalance;
        if (asked.count > 0 && g->kafka.committed(g->kafka.self, asked.list, asked.count, &err) != 0)
            return assign_fail(g, 1, &err);
    }
    int more = begin_some(g, &asked, &r, &err);
    if (more < 0) return assign_fail(g, r, &err);
    if (more > 0) return STEP_BUSY;
    if (g->first_assignment) others_give_up(g);
    if (!assignment_again(g, &err)) return assign_fail(g, 1, &err);
    FAULT("ingest:assigned");
    lanes_fill(g);
    loss_show(g);
    lease_begin(g);
    g->commit_due_ns = 0; /* the first one brings the lease */
    g->confirmed = false;
    g->first_assignment = false;
    g->trouble[0] = 0;
    if (asked.count > 0) g->kafka_error[0] = 0;
    g->membership = MEMBER_READING;
    log_info("ingest.assigned", "%u partition%s", asked.count, asked.count == 1 ? "" : "s");
    return STEP_BUSY;
}

/* -- giving up --------------------------------------------------------------------------------- */

bool assignment_drained(const struct ingest *g) {
    for (uint32_t i = 0; i < g->partition_count; i++) {
        const struct partition *p = &g->partition[i];
        uint64_t what;
        if (!p->assigned) continue;
        if (commit_lost_found(g, i, &what)) { /* it is to be rewound; offsets that are lost are not waited for */
            if (!loss_stands(g, i)) return false;
            continue;
        }
        int64_t released = commit_released(g, i);
        int64_t start = atomic_load_explicit(&g->ledger->slot[i].start, memory_order_relaxed);
        if (released != p->next && !(released < 0 && p->next == start)) return false;
    }
    return true;
}

static void revoke_finish(struct ingest *g, const char *how) {
    struct err err = {0};
    read_drop_held(g);
    for (uint32_t i = 0; i < g->partition_count; i++) {
        if (!g->partition[i].assigned) continue;
        flags_set(g, i, 0);
        epoch_end(g, i);
        g->partition[i].handle = NULL;
    }
    lanes_fill(g);
    loss_show(g);
    lease_end(g, "the group has taken all partitions back");
    if (g->kafka.unassign(g->kafka.self, &err) != 0) log_warn("ingest.unassign_failed", "%s", err.text);
    g->committing = false;
    g->membership = MEMBER_WAITING;
    log_info("ingest.revoked", "%s", how);
}

static enum step revoke_carry_out(struct ingest *g) {
    bool due = clock_ns(g->clock) >= g->rebalance_due_ns;
    if (!g->rebalance.lost) g->rebalance.lost = g->kafka.lost(g->kafka.self);
    if (!g->rebalance.lost && !due) {
        if (!assignment_drained(g)) return STEP_IDLE;
        if (!commit_settled(g)) {
            commit_step(g, true);
            return STEP_IDLE;
        }
    }
    if (due && !g->rebalance.lost) log_warn("ingest.revoke_due", "not drained in time: giving the partitions up");
    bool drained = assignment_drained(g) && commit_settled(g);
    revoke_finish(g, g->rebalance.lost ? "partitions lost: what is under way is skipped"
                     : drained         ? "drained"
                                       : "not drained: what is under way is skipped and will be read again");
    return STEP_BUSY;
}

/* -- events ------------------------------------------------------------------------------------ */

/* How long a revocation may wait: the group waits for us for max.poll.interval.ms (5 minutes unless configured). */
static uint64_t revoke_ms(const struct ingest *g) {
    for (uint32_t i = 0; i < g->config->kafka.property_count; i++) {
        const struct config_property *p = &g->config->kafka.property[i];
        if (strcmp(p->name, "max.poll.interval.ms") != 0) continue;
        uint64_t half = strtoull(p->value, NULL, 10) / 2;
        return half < REVOKE_MS ? half : REVOKE_MS;
    }
    return REVOKE_MS;
}

static void rebalance_begin(struct ingest *g, const struct kafka_event *e) {
    stats_add(g->stats, M_ingest_rebalance, 1);
    g->rebalance = *e;
    if (e->lost) lease_end(g, "not a member of the group any more, others may have the partitions");
    g->membership = e->type == KAFKA_ASSIGN ? MEMBER_ASSIGNING : MEMBER_REVOKING;
    g->rebalance_due_ns = clock_ns(g->clock) + revoke_ms(g) * NS_PER_MS;
    g->retry_ns = 0;
    g->begun = 0;
    memset(g->topic_commits, -1, sizeof g->topic_commits);
}

static enum step event_take(struct ingest *g, const struct kafka_event *e) {
    switch (e->type) {
    case KAFKA_ASSIGN:
    case KAFKA_REVOKE: rebalance_begin(g, e); break;
    case KAFKA_COMMITTED: commit_result(g, e); break;
    case KAFKA_TROUBLE:
        witness_trouble(g);
        if (e->text[0] == 0) break;
        stats_add(g->stats, M_ingest_kafka_error, 1);
        log_warn("ingest.kafka_trouble", "%s", e->text);
        snprintf(g->kafka_error, sizeof g->kafka_error, "%s", e->text);
        g->kafka_denied = e->denied;
        break;
    case KAFKA_FATAL:
        if (!e->lost) return worker_fail(g->worker, "ingest.kafka_fatal", "%s", e->text);
        log_warn("ingest.kafka_again", "%s, after the group had left this instance out: joining anew", e->text);
        return STEP_AGAIN;
    }
    return STEP_BUSY;
}

enum step assignment_step(struct ingest *g) {
    enum step step;
    for (int i = 0; i < EVENTS_PER_STEP && g->kafka.poll(g->kafka.self, &g->event); i++)
        if ((step = event_take(g, &g->event)) != STEP_BUSY) return step;
    if (g->membership == MEMBER_ASSIGNING) return assign_carry_out(g);
    if (g->membership == MEMBER_REVOKING) return revoke_carry_out(g);
    return STEP_IDLE;
}

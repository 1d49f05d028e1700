#include "ingest/ingest.h"

#include <string.h>

#include "base/log.h"

enum { LEAVE_MS = 4000, REFEED_WAIT_MS = 5 }; /* partitions are held while a refeed waits for Redis */

void ingest_init(struct ingest *g, struct worker *w, const struct kafka_port *kafka) {
    g->worker = w;
    g->config = w->config;
    g->clock = w->clock;
    g->stats = &w->local;
    g->kafka = *kafka;
    g->first_assignment = true;
    g->commit_due_ns = clock_ns(g->clock) + NS_PER_S;
    for (uint32_t i = 0; i < g->config->lanes; i++)
        atomic_store_explicit(&w->block->lane_published[i], g->lane[i].out.number, memory_order_release);
    assignment_restore(g);
    lease_init(g);
}

static void rings_account(struct ingest *g) {
    uint64_t published = 0, bytes = 0, full = 0, wakeups = 0;
    for (uint32_t i = 0; i < g->config->lanes; i++) {
        struct ring_producer *p = &g->lane[i].out;
        published += p->count.published;
        bytes += p->count.bytes;
        full += p->count.full;
        wakeups += p->count.wakeups + g->lane[i].rejects.count.wakeups;
        memset(&p->count, 0, sizeof p->count);
        g->lane[i].rejects.count.wakeups = 0;
    }
    stats_add(g->stats, M_worker_ring_record_publish, published);
    stats_add(g->stats, M_worker_ring_byte_publish, bytes);
    stats_add(g->stats, M_worker_ring_full, full);
    stats_add(g->stats, M_worker_ring_wakeup, wakeups);
}

/* Whether there are partitions that this process or a predecessor holds: what was read of them is to be committed. */
static bool holds_any(const struct ingest *g) {
    for (uint32_t i = 0; i < g->partition_count; i++)
        if ((atomic_load_explicit(&g->ledger->slot[i].flags, memory_order_relaxed) & LEDGER_ASSIGNED) != 0) return true;
    return false;
}

/* What an operator should see. Only a state that somebody has to mend is called blocked; a full ring is not. */
static void state_show(struct ingest *g, enum control_mode mode) {
    bool waiting = g->membership == MEMBER_WAITING || g->membership == MEMBER_ASSIGNING;
    if (g->lost_text[0] != 0)
        worker_state(g->worker, STATE_BLOCKED, "%s", g->lost_text);
    else if (g->trouble[0] != 0)
        worker_state(g->worker, STATE_BLOCKED, "%s", g->trouble);
    else if (g->rejects_blocked)
        worker_state(g->worker, STATE_BLOCKED, "%s", g->rejects_full ? "rejects full" : "rejects cannot be stored");
    else if (mode != CONTROL_RUN)
        worker_state(g->worker, STATE_DRAINING, "%s", "");
    else if (g->kafka_error[0] != 0 && (waiting || !holds_any(g)))
        worker_state(g->worker, g->kafka_denied ? STATE_BLOCKED : STATE_CONNECTING, "%s", g->kafka_error);
    else if (waiting)
        worker_state(g->worker, STATE_CONNECTING, "%s", "waiting for partitions");
    else
        worker_state(g->worker, STATE_RUNNING, "%s", "");
}

/* Asked to leave: what is released is committed once more, for a bounded time. */
static bool may_leave(struct ingest *g, enum control_mode mode, uint64_t now) {
    if (mode == CONTROL_RUN) return false;
    bool no_membership = g->membership == MEMBER_WAITING || g->membership == MEMBER_ASSIGNING;
    if (g->membership == MEMBER_WAITING && !holds_any(g)) return true;
    if (mode == CONTROL_DRAIN && (no_membership || !assignment_drained(g))) return false;
    if (no_membership) return true;
    if (!g->leaving) {
        g->leaving = true;
        g->leave_due_ns = now + LEAVE_MS * NS_PER_MS;
        commit_step(g, true);
    }
    if (commit_settled(g)) return true;
    commit_step(g, true);
    return mode == CONTROL_LEAVE && now >= g->leave_due_ns;
}

enum step ingest_step(void *self) {
    struct ingest *g = self;
    enum control_mode mode = worker_mode(g->worker);
    bool blocked = false;
    enum step step = assignment_step(g);
    if (step == STEP_FAILED || step == STEP_AGAIN) return step;
    bool busy = keep_step(g);
    if (g->broken) return STEP_BROKEN;
    rewind_step(g);
    loss_step(g);
    if (mode == CONTROL_RUN) busy |= refeed_step(g);
    if (mode == CONTROL_RUN) witness_step(g);
    if (mode == CONTROL_RUN && g->membership == MEMBER_READING) busy |= read_step(g, &blocked);
    uint64_t now = clock_ns(g->clock);
    commit_step(g, false);
    rings_account(g);
    report_step(g, now);
    state_show(g, mode);
    if (may_leave(g, mode, now)) {
        log_info("ingest.leaving", "%s",
                 commit_settled(g) ? "everything released is committed" : "commit not confirmed");
        return STEP_DONE;
    }
    if (busy) return STEP_BUSY;
    return blocked || g->rejects_blocked ? STEP_BLOCKED : STEP_IDLE;
}

bool ingest_arm(void *self) {
    struct ingest *g = self;
    bool work = false;
    for (uint32_t i = 0; i < g->config->lanes; i++) {
        struct lane *l = &g->lane[i];
        if (!g->rejects_blocked) work |= ring_consumer_arm(&l->rejects);
        if (l->full) work |= ring_producer_arm(&l->out);
    }
    return work;
}

void ingest_disarm(void *self) {
    struct ingest *g = self;
    for (uint32_t i = 0; i < g->config->lanes; i++) {
        ring_consumer_disarm(&g->lane[i].rejects);
        ring_producer_disarm(&g->lane[i].out);
    }
}

int ingest_wants(void *self, struct pollfd *fds, int max, int *timeout_ms) {
    struct ingest *g = self;
    (void)fds;
    (void)max;
    uint64_t now = clock_ns(g->clock);
    int64_t left_ms = g->commit_due_ns > now ? (int64_t)((g->commit_due_ns - now) / NS_PER_MS) + 1 : 1;
    if (left_ms < *timeout_ms) *timeout_ms = (int)left_ms;
    if (g->refeed.phase != REFEED_NONE && *timeout_ms > REFEED_WAIT_MS) *timeout_ms = REFEED_WAIT_MS;
    return 0; /* Kafka's queues ring the doorbell */
}

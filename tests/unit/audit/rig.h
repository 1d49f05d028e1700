/* The body of audit between rings that the test fills and a log in a folder. */
#ifndef TESTS_UNIT_AUDIT_RIG_H
#define TESTS_UNIT_AUDIT_RIG_H

#include "audit/audit.h"
#include "base/clock.h"
#include "tests/unit/audit/help.h"

enum { RIG_LANES = 2 };

struct rig {
    struct bench *b;
    struct control control;
    struct stats_block block;
    struct worker worker;
    struct ring_fds fds[RIG_LANES];
    struct ring_producer out[RIG_LANES];
    struct ring_consumer in[RIG_LANES];
    struct ledger_audit *ledger;
    struct audit *audit;
    bool threaded;
};

static inline void rig_rings(struct rig *r, uint64_t capacity, uint64_t incarnation) {
    char name[24];
    for (uint32_t i = 0; i < RIG_LANES; i++) {
        snprintf(name, sizeof name, "sink[%u]", i);
        cr_assert_eq(ring_create(&r->fds[i], name, capacity, 0, incarnation + i, &r->b->err), 0, "%s", r->b->err.text);
        cr_assert_eq(ring_producer_attach(&r->out[i], &r->fds[i], -1, &r->b->err), RING_ATTACHED);
    }
}

static inline void rig_rings_drop(struct rig *r) {
    for (uint32_t i = 0; i < RIG_LANES; i++) {
        ring_producer_detach(&r->out[i]);
        close(r->fds[i].constants);
        close(r->fds[i].producer);
        close(r->fds[i].consumer);
    }
}

/* Everything but the body itself. topics: three, of which the last is not to be logged. */
static inline struct rig *rig_make(uint64_t ring_capacity) {
    struct rig *r = calloc(1, sizeof *r);
    r->b = bench_make();
    bench_topics(r->b, 3, (const char *const[]){"cards", "limits", "noise"});
    for (int i = 0; i < 3; i++) r->b->config.topic[i].reconcile = i == 2 ? RECONCILE_OFF : RECONCILE_DIGEST;
    r->b->config.lanes = RIG_LANES;
    r->ledger = calloc(1, sizeof *r->ledger);
    rig_rings(r, ring_capacity, 1000);
    return r;
}

/* A process of audit comes to life. */
static inline void rig_start(struct rig *r) {
    r->worker = (struct worker){.role = ROLE_AUDIT,
                                .config = &r->b->config,
                                .control = &r->control,
                                .block = &r->block,
                                .clock = &r->b->clock,
                                .attention = -1,
                                .starts = 1};
    stats_local_init(&r->worker.local, &r->block);
    r->audit = calloc(1, sizeof *r->audit);
    for (uint32_t i = 0; i < RIG_LANES; i++)
        cr_assert_eq(ring_consumer_attach(&r->in[i], &r->fds[i], -1, &r->b->err), RING_ATTACHED, "%s", r->b->err.text);
    const struct audit_ports ports = {.worker = &r->worker,
                                      .ring = r->in,
                                      .lanes = RIG_LANES,
                                      .ledger = r->ledger,
                                      .dir = r->b->log,
                                      .files = &r->b->files,
                                      .threaded = r->threaded,
                                      .keys = &r->b->keys};
    cr_assert_eq(audit_init(r->audit, &ports, &r->b->err), 0, "%s", r->b->err.text);
}

static inline void rig_stop(struct rig *r) {
    audit_fini(r->audit);
    free(r->audit);
    r->audit = NULL;
    for (uint32_t i = 0; i < RIG_LANES; i++) ring_consumer_detach(&r->in[i]);
}

static inline void rig_drop(struct rig *r) {
    if (r->audit != NULL) rig_stop(r);
    rig_rings_drop(r);
    free(r->ledger);
    bench_drop(r->b);
    free(r);
}

/* Puts an entry on a lane's ring, or says that there is no room. Published by ring_publish. */
static inline bool rig_put(struct rig *r, uint32_t lane, const struct entry *e) {
    void *room = ring_reserve(&r->out[lane], e->bytes);
    if (room == NULL) return false;
    memcpy(room, e, e->bytes);
    ring_stage(&r->out[lane], e->bytes, RECORD_ENTRY);
    return true;
}

static inline void rig_put_records(struct rig *r, uint32_t lane, uint16_t topic, int64_t from, int n) {
    for (int i = 0; i < n; i++) cr_assert(rig_put(r, lane, entry_make(topic, (int32_t)lane, from + i, 0)));
    ring_publish(&r->out[lane]);
}

static inline uint64_t rig_released(const struct rig *r, uint32_t lane) { return r->in[lane].number_released; }

static inline int64_t rig_next(const struct rig *r, uint32_t slot) {
    uint64_t epoch, next;
    twin_load(&r->ledger->slot[slot].released, &epoch, &next);
    return epoch == 0 ? -1 : (int64_t)next;
}

static inline enum worker_state rig_state(const struct rig *r) {
    return (enum worker_state)atomic_load(&r->block.state);
}

static inline const char *rig_reason(const struct rig *r) {
    static char text[STATS_TEXT_BYTES];
    stats_text_get(&r->block.reason, text);
    return text;
}

/* Steps until the body finds nothing to do, and what its time is not up for stays. */
static inline enum step rig_settle(struct rig *r) {
    enum step s;
    do s = audit_step(r->audit);
    while (s == STEP_BUSY);
    return s;
}

#endif

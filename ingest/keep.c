#include "base/fault.h"
#include "base/log.h"
#include "ingest/ingest.h"

enum { KEEP_BURST = 256, RETRY_MS = 1000 };

void keep_block(struct ingest *g, const struct err *err) {
    g->rejects_full = err == NULL;
    g->rejects_blocked = true;
    g->rejects_retry_ns = clock_ns(g->clock) + RETRY_MS * NS_PER_MS;
    if (err == NULL) return; /* the state says so; there is nothing to try but to make room */
    stats_add(g->stats, M_ingest_reject_store_fail, 1);
    log_warn("ingest.reject_store_failed", "%s; trying again", err->text);
}

void keep_broken(struct ingest *g, uint32_t lane, const char *why) {
    g->broken = true;
    worker_broken(g->worker, "ingest.ring_broken", "rejects ring of lane %u: %s", lane, why);
}

bool keep_open(struct ingest *g, uint32_t lane, const struct ring_item *item, struct record_view *r) {
    if (record_open(item->body, item->len, r) == 0 && r->head.topic < g->config->topic_count &&
        r->head.slot < PARTITIONS_MAX)
        return true;
    keep_broken(g, lane, "what is in it is not a record");
    return false;
}

/* One reject from the ring into the store; not durable yet. */
static bool keep(struct ingest *g, uint32_t lane, const struct ring_item *item, struct err *err) {
    struct record_view r;
    if (!keep_open(g, lane, item, &r)) return false;
    const char *topic = g->config->topic[r.head.topic].name;
    enum rejects_result result = rejects_store_append(&g->store, lane, item->number, &r, topic, err);
    if (result == REJECTS_STORED) stats_add(g->stats, M_ingest_reject_stored, 1);
    if (result == REJECTS_REPEAT) stats_add(g->stats, M_ingest_reject_repeat, 1);
    if (result == REJECTS_FULL || result == REJECTS_ERROR) keep_block(g, result == REJECTS_FULL ? NULL : err);
    return result == REJECTS_STORED || result == REJECTS_REPEAT;
}

/* Released only after the sync: a reject is in its ring or on the disk, at every instant. */
static bool keep_lane(struct ingest *g, uint32_t lane) {
    struct ring_consumer *c = &g->lane[lane].rejects;
    struct ring_item item;
    struct err err = {0};
    uint64_t end = c->head, number = c->number_released;
    for (int n = 0; n < KEEP_BURST; n++) {
        enum ring_state s = ring_peek(c, &item, &err);
        if (s == RING_BROKEN) keep_broken(g, lane, err.text);
        if (s != RING_OK || !keep(g, lane, &item, &err)) break;
        end = item.end;
        number = item.number;
    }
    if (end == c->head) {
        ring_rewind(c);
        return false;
    }
    if (rejects_store_sync(&g->store, &err) != 0) {
        keep_block(g, &err);
        ring_rewind(c);
        return false;
    }
    FAULT("ingest:reject_release");
    ring_release(c, end, number);
    ring_rewind(c); /* what could not be stored is peeked again */
    g->rejects_blocked = false;
    return true;
}

bool keep_step(struct ingest *g) {
    if (g->rejects_blocked) {
        if (clock_ns(g->clock) < g->rejects_retry_ns) return false;
        g->rejects_blocked = false; /* until the next attempt says otherwise */
    }
    bool busy = false;
    for (uint32_t i = 0; i < g->config->lanes && !g->rejects_blocked && !g->broken; i++) busy |= keep_lane(g, i);
    return busy;
}

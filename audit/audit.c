#include "audit/audit.h"

#include <string.h>

enum { TAKE_MAX = 4096 };

int audit_init(struct audit *a, const struct audit_ports *ports, struct err *err) {
    (void)err;
    *a = (struct audit){.port = *ports};
    for (uint32_t i = 0; i < ports->lanes; i++)
        atomic_store_explicit(&ports->worker->block->lane_published[i], ports->ring[i].number_released,
                              memory_order_release);
    return 0;
}

void audit_fini(struct audit *a) { (void)a; }

static void released_note(struct audit *a, const struct entry *e) {
    uint64_t epoch, next;
    struct twin *t = &a->port.ledger->slot[e->slot].released;
    twin_load(t, &epoch, &next);
    if (e->outcome != ENTRY_SKIPPED && e->epoch >= epoch) twin_store(t, e->epoch, (uint64_t)e->offset + 1);
}

static bool lane_take(struct audit *a, uint32_t lane) {
    struct ring_consumer *c = &a->port.ring[lane];
    struct ring_item item;
    struct entry e;
    struct err err = {0};
    uint64_t end = c->head, number = c->number_released;
    for (int n = 0; n < TAKE_MAX && !a->broken; n++) {
        enum ring_state s = ring_peek(c, &item, &err);
        if (s == RING_EMPTY) break;
        a->broken = s == RING_BROKEN || item.type != RECORD_ENTRY || entry_check(item.body, item.len) != 0;
        if (a->broken) break;
        memcpy(&e, item.body, sizeof e);
        if (e.slot < PARTITIONS_MAX) released_note(a, &e);
        stats_add(&a->port.worker->local, M_audit_entry, entry_logged(&e));
        end = item.end;
        number = item.number;
    }
    if (end == c->head) return false;
    atomic_store_explicit(&a->port.worker->block->lane_published[lane], number, memory_order_release);
    ring_release(c, end, number);
    return true;
}

enum step audit_step(void *self) {
    struct audit *a = self;
    bool busy = false;
    for (uint32_t i = 0; i < a->port.lanes; i++) busy |= lane_take(a, i);
    if (a->broken) return worker_broken(a->port.worker, "audit.ring_broken", "%s", "an audit ring fails its checks");
    if (worker_mode(a->port.worker) == CONTROL_LEAVE) return STEP_DONE;
    worker_state(a->port.worker, STATE_RUNNING, "%s", "");
    return busy ? STEP_BUSY : STEP_IDLE;
}

bool audit_arm(void *self) {
    struct audit *a = self;
    bool work = false;
    for (uint32_t i = 0; i < a->port.lanes; i++) work |= ring_consumer_arm(&a->port.ring[i]);
    return work;
}

void audit_disarm(void *self) {
    struct audit *a = self;
    for (uint32_t i = 0; i < a->port.lanes; i++) ring_consumer_disarm(&a->port.ring[i]);
}

int audit_wants(void *self, struct pollfd *fds, int max, int *timeout_ms) {
    (void)self;
    (void)fds;
    (void)max;
    (void)timeout_ms;
    return 0;
}

#include "audit/audit.h"

#include <inttypes.h>
#include <string.h>
#include <sysexits.h>

#include "base/fault.h"
#include "base/log.h"

enum {
    TURN_ENTRIES = 256, /* taken from one lane before it is another's turn */
    RING_SHARE = 4,     /* a batch is committed early when it holds this part of a lane's ring */
    GATHER_MS = 5,      /* while a batch waits, the rings are looked at as often, and nobody is woken for each entry */
    RETRY_MS = 1000,    /* after a failed errand */
    SLOW_MS = 2000,     /* an errand that takes longer is shown as the state */
};

int audit_init(struct audit *a, const struct audit_ports *ports, struct err *err) {
    uint32_t largest = 0;
    *a = (struct audit){.port = *ports};
    for (uint32_t i = 0; i < ports->lanes; i++) {
        uint32_t max = (uint32_t)(ports->ring[i].capacity / RING_RECORD_SHARE);
        if (max > largest) largest = max;
        atomic_store_explicit(&ports->worker->block->lane_published[i], ports->ring[i].number_released,
                              memory_order_release);
    }
    const struct log_writer_plan plan = {.dir = ports->dir,
                                         .config = ports->worker->config,
                                         .clock = ports->worker->clock,
                                         .files = ports->files,
                                         .entry_bytes_max = largest};
    return scribe_init(&a->scribe, &plan, ports->keys, ports->threaded, err);
}

void audit_fini(struct audit *a) { scribe_fini(&a->scribe); }

static uint64_t now_ns(const struct audit *a) { return clock_ns(a->port.worker->clock); }

/* -- taking ------------------------------------------------------------------------------------ */

/* One that was refed says nothing of how far its partition is. */
static void slot_note(struct audit *a, const struct entry *e) {
    struct audit_slot *s = &a->slot[e->slot];
    if (e->outcome == ENTRY_SKIPPED || e->epoch < s->epoch || (e->flags & ENTRY_REFED) != 0) return;
    if (s->epoch == 0) a->touched[a->touched_count++] = e->slot;
    *s = (struct audit_slot){e->epoch, e->offset + 1};
}

static bool entry_known(const struct audit *a, const struct entry *e) {
    return e->slot < PARTITIONS_MAX && e->epoch > 0 && e->topic < a->port.worker->config->topic_count;
}

static void entry_take(struct audit *a, uint32_t lane, const struct ring_item *item) {
    struct ring_consumer *c = &a->port.ring[lane];
    struct entry e;
    memcpy(&e, item->body, sizeof e);
    a->broken = !entry_known(a, &e);
    if (a->broken) return;
    struct log_writer *log = &a->scribe.log;
    bool wanted = entry_logged(&e) && a->port.worker->config->topic[e.topic].reconcile != RECONCILE_OFF;
    if (wanted && item->number > log_writer_number(log, lane, c->incarnation)) {
        if (log->count == 0) a->since_ns = now_ns(a);
        log_writer_add(log, lane, c->incarnation, item->number, item->body);
    }
    slot_note(a, &e);
    a->lane[lane] = (struct audit_lane){item->end, item->number};
    a->taken = true;
}

/* Takes up to TURN_ENTRIES of a lane into the batch; returns whether there were any. */
static bool lane_take(struct audit *a, uint32_t lane) {
    struct ring_consumer *c = &a->port.ring[lane];
    struct ring_item item;
    bool any = false;
    for (int n = 0; n < TURN_ENTRIES && !log_writer_full(&a->scribe.log); n++) {
        enum ring_state s = ring_peek(c, &item, &a->err);
        if (s == RING_EMPTY) break;
        if (s == RING_OK && (item.type != RECORD_ENTRY || entry_check(item.body, item.len) != 0)) {
            err_set(&a->err, EX_DATAERR, "lane %u: item %" PRIu64 " is no entry", lane, item.number);
            s = RING_BROKEN;
        }
        a->broken = s == RING_BROKEN;
        if (a->broken) break;
        ring_in_hand(c, item.number);
        FAULT("audit:take");
        FAULT_ON_CONTENT("audit:entry", item.body, item.len);
        entry_take(a, lane, &item);
        if (a->broken) {
            err_set(&a->err, EX_DATAERR, "lane %u: item %" PRIu64 " is of no topic or slot", lane, item.number);
            break;
        }
        any = true;
    }
    ring_in_hand(c, 0);
    return any;
}

static bool lanes_take(struct audit *a) {
    bool any = false;
    for (uint32_t i = 0; i < a->port.lanes && !a->broken; i++) any |= lane_take(a, (a->lane_first + i) % a->port.lanes);
    a->lane_first = (a->lane_first + 1) % a->port.lanes;
    return any;
}

/* -- releasing --------------------------------------------------------------------------------- */

/* Everything that was taken is in the log for good. Epochs of a slot only rise, here too: a successor may take entries
 * again whose epoch its predecessor had gone beyond. */
static void release(struct audit *a) {
    struct worker *w = a->port.worker;
    if (a->taken) FAULT("audit:release");
    for (uint32_t i = 0; i < a->touched_count; i++) {
        struct audit_slot *s = &a->slot[a->touched[i]];
        struct twin *t = &a->port.ledger->slot[a->touched[i]].released;
        uint64_t epoch, next;
        twin_load(t, &epoch, &next);
        if (s->epoch > epoch || (s->epoch == epoch && (uint64_t)s->next > next))
            twin_store(t, s->epoch, (uint64_t)s->next);
        s->epoch = 0;
    }
    a->touched_count = 0;
    for (uint32_t i = 0; i < a->port.lanes; i++) {
        if (a->lane[i].number == 0) continue;
        atomic_store_explicit(&w->block->lane_published[i], a->lane[i].number, memory_order_release);
        FAULT("audit:ring_release");
        ring_release(&a->port.ring[i], a->lane[i].end, a->lane[i].number);
        FAULT("audit:released");
        a->lane[i] = (struct audit_lane){0};
    }
    a->taken = false;
}

/* -- errands ----------------------------------------------------------------------------------- */

static bool batch_due(const struct audit *a) {
    const struct log_writer *log = &a->scribe.log;
    const struct config *c = a->port.worker->config;
    if (scribe_due(&a->scribe)) return true;
    if (log->count == 0) return false;
    if (log->count >= c->recon.commit_records || log_writer_full(log)) return true;
    if (now_ns(a) - a->since_ns >= c->recon.commit_interval_ms * NS_PER_MS) return true;
    for (uint32_t i = 0; i < a->port.lanes; i++)
        if (a->port.ring[i].cursor - a->port.ring[i].head >= a->port.ring[i].capacity / RING_SHARE) return true;
    return false;
}

static void errand_begin(struct audit *a, bool last) {
    a->began_ns = now_ns(a);
    a->leaving = last;
    scribe_start(&a->scribe, last);
}

static void errand_failed(struct audit *a, const struct scribe_result *r) {
    struct worker *w = a->port.worker;
    if (a->retry_ns == 0) log_error("audit.write_failed", "%s; trying again each second", r->err.text);
    stats_add(&w->local, M_audit_write_fail, 1);
    a->retry_ns = now_ns(a) + RETRY_MS * NS_PER_MS;
    worker_state(w, STATE_BLOCKED, "the audit log cannot be written: %s", r->err.text);
}

static void errand_done(struct audit *a, const struct scribe_result *r) {
    struct stats_local *local = &a->port.worker->local;
    if (a->retry_ns != 0) log_info("audit.write_again", "%s", "the audit log can be written again");
    a->retry_ns = 0;
    worker_state(a->port.worker, STATE_RUNNING, "%s", "");
    stats_add(local, M_audit_entry, r->entries);
    stats_add(local, M_audit_entry_repeat, r->repeats);
    stats_add(local, M_audit_byte_written, r->bytes);
    stats_set(local, M_audit_sequence, a->scribe.log.sequence - 1);
    if (r->ns == 0) return;
    stats_add(local, M_audit_batch, 1);
    stats_observe(local, H_audit_commit, r->ns);
}

/* An errand that is under way, or has just ended. STEP_BUSY: nothing is in the way. */
static enum step errand_step(struct audit *a) {
    struct scribe_result r;
    enum scribe_state s = scribe_poll(&a->scribe, &r);
    if (s == SCRIBE_IDLE) return STEP_BUSY;
    if (s == SCRIBE_ASKED) {
        uint64_t ms = (now_ns(a) - a->began_ns) / NS_PER_MS;
        if (ms >= SLOW_MS && a->retry_ns == 0)
            worker_state(a->port.worker, STATE_BLOCKED, "%s", "the disk of the audit log does not answer in time");
        return STEP_BLOCKED;
    }
    a->began_ns = 0;
    if (r.failed != 0 && (r.err.code == EX_DATAERR || r.err.code == EX_CONFIG))
        return worker_fail(a->port.worker, "audit.log_refused", "%s", r.err.text);
    if (r.failed != 0) {
        errand_failed(a, &r);
    } else {
        errand_done(a, &r);
        release(a);
    }
    return STEP_BUSY;
}

/* Asked to leave: what is taken is committed, with an anchor, if the disk lets it; nothing more is taken. */
static enum step leave(struct audit *a) {
    if (a->leaving || a->retry_ns != 0 || !a->scribe.open) return STEP_DONE;
    errand_begin(a, true);
    return STEP_BUSY;
}

enum step audit_step(void *self) {
    struct audit *a = self;
    enum step s = errand_step(a);
    if (s != STEP_BUSY) return s;
    if (worker_mode(a->port.worker) == CONTROL_LEAVE) return leave(a);
    if (a->retry_ns != 0 && now_ns(a) < a->retry_ns) return STEP_BLOCKED;
    if (!a->scribe.open || a->retry_ns != 0) {
        errand_begin(a, false);
        return STEP_BUSY;
    }
    bool any = lanes_take(a);
    if (a->broken) return worker_broken(a->port.worker, "audit.ring_broken", "%s", a->err.text);
    if (a->taken && a->scribe.log.count == 0) release(a);
    if (batch_due(a)) {
        errand_begin(a, false);
        return STEP_BUSY;
    }
    return any ? STEP_BUSY : STEP_IDLE;
}

/* -- sleeping ---------------------------------------------------------------------------------- */

/* While an errand is under way, or a batch waits for its time, no new entry is worth waking for. */
static bool gathering(const struct audit *a) {
    return a->began_ns != 0 || a->retry_ns != 0 || !a->scribe.open || a->scribe.log.count > 0;
}

bool audit_arm(void *self) {
    struct audit *a = self;
    bool work = false;
    if (gathering(a)) return false;
    for (uint32_t i = 0; i < a->port.lanes; i++) work |= ring_consumer_arm(&a->port.ring[i]);
    return work;
}

void audit_disarm(void *self) {
    struct audit *a = self;
    for (uint32_t i = 0; i < a->port.lanes; i++) ring_consumer_disarm(&a->port.ring[i]);
}

int audit_wants(void *self, struct pollfd *fds, int max, int *timeout_ms) {
    struct audit *a = self;
    if (a->began_ns == 0 && a->retry_ns == 0 && a->scribe.log.count > 0 && *timeout_ms > GATHER_MS)
        *timeout_ms = GATHER_MS;
    if (a->scribe.bell < 0 || max < 1) return 0;
    fds[0] = (struct pollfd){.fd = a->scribe.bell, .events = POLLIN};
    return 1;
}

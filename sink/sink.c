#include "sink/sink.h"

#include <string.h>

#include "base/log.h"

#define BACKOFF_NS_MIN (10 * NS_PER_MS)
#define BACKOFF_NS_MAX (1 * NS_PER_S)
#define BACKOFF_CONFIG_NS_MAX (5 * NS_PER_S) /* nothing gets better by itself: no storm of refused logins */
#define LOOK_NS (1 * NS_PER_S)               /* how often marks are read while the line is idle */
#define FIRST_LEASE_NS (2 * NS_PER_S)        /* how long the first lease after an assignment may take */
#define SHOW_NS (100 * NS_PER_MS)            /* how often the state is looked at while a loss is mended */
#define BAD_MARK_NS (2 * NS_PER_S)           /* how often a lane that is blocked by a mark looks again */
#define STALL_NS (1 * NS_PER_S)              /* how long the audit ring may be full before it is a state */
#define LEAVE_NS (2 * NS_PER_S)              /* how long answers under way are waited for when asked to leave */

int sink_init(struct sink *s, struct worker *worker, struct ring_consumer *ring, struct ring_producer *audit,
              const struct ledger_ingest *plan, struct ledger_sink *ledger, const struct stream_port *stream,
              struct err *err) {
    bool lived = worker->control->lives > 0; /* a reload: it has worked before, and somebody can mend the file again */
    *s = (struct sink){.worker = worker, .state = SINK_DOWN, .proven = lived || ring->number_released > 0};
    for (uint32_t i = 0; i < PARTITIONS_MAX && !s->proven; i++) {
        uint64_t epoch, next;
        twin_load(&ledger->slot[i].released, &epoch, &next);
        s->proven = epoch != 0;
    }
    uint64_t passed_on = audit != NULL ? audit->number : ring->number_released;
    atomic_store_explicit(&worker->block->published, passed_on, memory_order_release);
    return line_init(&s->line, worker, ring, audit, plan, ledger, stream, err);
}

void sink_free(struct sink *s) { line_free(&s->line); }

static uint64_t now_ns(const struct sink *s) { return clock_ns(s->worker->clock); }

/* -- failures ---------------------------------------------------------------------------------- */

/* Doubles from 10 ms, with jitter over the upper half, so that lanes do not come back in step. */
static uint64_t backoff_ns(const struct sink *s, enum reply_class class) {
    uint64_t max = class == REPLY_CONFIG ? BACKOFF_CONFIG_NS_MAX : BACKOFF_NS_MAX, random;
    uint64_t ns = s->failures < 20 ? BACKOFF_NS_MIN << (s->failures - 1) : max;
    if (ns > max) ns = max;
    s->worker->clock->random(s->worker->clock->context, &random, sizeof random);
    return ns / 2 + random % (ns / 2);
}

/* Nothing was ever released in this instance, and Redis refuses what is configured: a mistake in the configuration, and
 * the person who made it is still watching. Once a greeting came through, later ones only wait. */
static bool first_mistake(const struct sink *s, enum reply_class class) {
    return class == REPLY_CONFIG && !s->proven && (!s->fit || s->state == SINK_OPEN);
}

static void drop(struct sink *s, enum sink_state next) {
    session_drop(&s->line.session);
    line_rewind(&s->line);
    s->state = next;
}

/* Why the line is halted, as it is now: what mends itself is no reason to wake anybody. */
static void show_halted(struct sink *s) {
    const struct line *l = &s->line;
    uint32_t slot = 0, n = line_losses(l, false, &slot);
    if (n == 0 || line_bad_mark_stands(l)) {
        worker_state(s->worker, STATE_BLOCKED, "%s", s->halt.text);
        return;
    }
    const struct ledger_ingest_slot *p = &l->plan->slot[slot];
    const char *topic = s->worker->config->topic[p->topic].name;
    int64_t from = atomic_load_explicit(&p->lost_from, memory_order_acquire);
    int64_t to = atomic_load_explicit(&p->lost_to, memory_order_acquire);
    if (from != to)
        worker_state(s->worker, STATE_BLOCKED,
                     "redis lost writes and Kafka no longer has them: offsets [%lld,%lld) of %.120s/%d",
                     (long long)from, (long long)to, topic, p->partition);
    else
        worker_state(s->worker, STATE_RECOVERING, "redis lost writes: %u partition%s to be read again, first %.120s/%d",
                     n, n == 1 ? "" : "s", topic, p->partition);
}

/* The one place where the line stops. What follows is by class; in an open line PASSING and CONFIG are answers of
 * Redis, so the connection is good and is kept. */
static enum step stand_still(struct sink *s, const struct failure *f) {
    s->failures++;
    s->announced = false;
    if (f->class == REPLY_FATAL || first_mistake(s, f->class)) {
        drop(s, SINK_HALTED);
        return worker_fail(s->worker, "sink.cannot_go_on", "%s", f->text);
    }
    if (f->class == REPLY_HALT) {
        s->halt = *f;
        s->retry_at_ns = now_ns(s) + BAD_MARK_NS;
        drop(s, SINK_HALTED);
        show_halted(s);
        return STEP_BLOCKED;
    }
    if (s->state == SINK_GREETING) stats_add(&s->worker->local, M_sink_redis_connect_fail, 1);
    s->retry_at_ns = now_ns(s) + backoff_ns(s, f->class);
    if (s->state == SINK_OPEN && f->class != REPLY_RECONNECT) {
        s->refused = true;
        s->state = SINK_SETTLING;
    } else {
        drop(s, SINK_DOWN);
    }
    worker_state(s->worker, f->class == REPLY_RECONNECT ? STATE_CONNECTING : STATE_BLOCKED, "%s", f->text);
    return STEP_BUSY;
}

static enum step silence(struct sink *s) {
    struct failure f;
    failure_set(&f, REPLY_RECONNECT, "Redis has not answered for %u ms", s->worker->config->redis.response_timeout_ms);
    return stand_still(s, &f);
}

/* -- states ------------------------------------------------------------------------------------ */

static enum step step_down(struct sink *s) {
    struct failure f;
    if (now_ns(s) < s->retry_at_ns) return STEP_BLOCKED;
    s->state = SINK_GREETING;
    return session_connect(&s->line.session, &f) != 0 ? stand_still(s, &f) : STEP_BUSY;
}

/* Every mark is read and judged before anything is sent. */
static void open_line(struct sink *s) {
    s->state = SINK_OPEN;
    s->looked_ns = now_ns(s);
    line_ask_marks(&s->line, true);
}

static enum step step_greeting(struct sink *s) {
    struct failure f;
    struct session *session = &s->line.session;
    int r = session_greet(session, &f);
    stats_add(&s->worker->local, M_sink_redis_connection_killed, session->count.killed);
    session->count.killed = 0;
    if (r < 0) return stand_still(s, &f);
    if (session->phase == SESSION_OPEN) {
        stats_add(&s->worker->local, M_sink_redis_connect, 1);
        s->fit = true;
        open_line(s);
    }
    return r > 0 ? STEP_BUSY : STEP_BLOCKED;
}

static enum step step_settling(struct sink *s) {
    struct failure f;
    int r = line_settle(&s->line, &f);
    if (r < 0 || (r == 0 && session_overdue(&s->line.session, now_ns(s)))) {
        drop(s, SINK_DOWN); /* the reason for the stop stays what it was */
    } else if (flight_quiet(&s->line.flight) && encode_unsent(&s->line.session.out) == 0) {
        line_rewind(&s->line);
        s->state = SINK_PAUSED;
    } else {
        return r > 0 ? STEP_BUSY : STEP_BLOCKED;
    }
    return STEP_BUSY;
}

static enum step step_paused(struct sink *s) {
    if (now_ns(s) < s->retry_at_ns) return STEP_BLOCKED;
    open_line(s);
    return STEP_BUSY;
}

/* Nothing in hand, nothing under way. */
static bool idle(const struct sink *s) {
    const struct line *l = &s->line;
    return l->flight.records == 0 && flight_quiet(&l->flight) && l->intake.count == 0 && l->intake.stop == INTAKE_OPEN;
}

/* Running, or still writing again what Redis has lost. */
static void show_open(struct sink *s) {
    const struct line *l = &s->line;
    uint32_t slot = 0, n = line_losses(l, true, &slot);
    s->recovering = n > 0;
    if (n == 0) {
        worker_state(s->worker, STATE_RUNNING, "%s", "");
        return;
    }
    const struct ledger_ingest_slot *p = &l->plan->slot[slot];
    worker_state(s->worker, STATE_RECOVERING,
                 "writing again what redis lost: %u partition%s, first %.120s/%d up to %llu", n, n == 1 ? "" : "s",
                 s->worker->config->topic[p->topic].name, p->partition,
                 (unsigned long long)atomic_load_explicit(&l->ledger->slot[slot].lost_next, memory_order_relaxed));
}

/* After a look at what the step did: does the line work again? */
static void take_heart(struct sink *s) {
    uint64_t now = now_ns(s);
    if (s->line.released != s->released || (s->failures > 0 && idle(s))) {
        if (s->line.released > 0) s->proven = true;
        s->released = s->line.released;
        s->failures = 0;
        s->refused = false;
    }
    if (s->refused || s->unleased || s->stalled || s->aside || flight_asking(&s->line.flight)) return;
    if (s->announced && (!s->recovering || now - s->shown_ns < SHOW_NS)) return;
    s->announced = true;
    s->shown_ns = now;
    show_open(s);
}

/* Whether the lease has been missing long enough to be told: the first one takes a moment. */
static bool lease_missing(struct sink *s, uint64_t now) {
    uint64_t until = atomic_load_explicit(&s->line.plan->lease_until_ns, memory_order_acquire);
    if (s->unleased_ns == 0) s->unleased_ns = now;
    return until != 0 || now - s->unleased_ns >= FIRST_LEASE_NS;
}

/* Whether the line may go on. Without the lease no record is sent, and what is under way goes with its connection:
 * another machine may have the partitions by now, and the next greeting ends the old connection on the server. */
static bool leased(struct sink *s) {
    struct line *l = &s->line;
    bool held = line_leased(l);
    if (held) {
        s->unleased = false;
        s->unleased_ns = 0;
    }
    if (held || (l->flight.records == 0 && !l->unleased)) return true;
    if (!s->unleased && lease_missing(s, now_ns(s))) {
        s->unleased = true;
        s->announced = false;
        stats_add(&s->worker->local, M_sink_lease_expire, 1);
        worker_state(s->worker, STATE_BLOCKED,
                     "the consumer group has not confirmed this instance in time: nothing is written until it does");
    }
    return l->flight.records == 0;
}

/* Audit does not keep up, or stands still: for a moment that is flow control, for longer a state. */
static void show_stalled(struct sink *s) {
    uint64_t now = now_ns(s);
    if (!s->line.stalled) {
        s->stalled_ns = 0;
        s->stalled = false;
        return;
    }
    if (s->stalled_ns == 0) s->stalled_ns = now;
    if (s->stalled || now - s->stalled_ns < STALL_NS) return;
    s->stalled = true;
    s->announced = false;
    worker_state(s->worker, STATE_BLOCKED, "the audit ring is full: audit is slower, or blocked itself");
}

/* The record that the supervisor wants rejected, with everything before it released. The sink has neither the original
 * nor a way to the rejects: it notes which record it is and waits. Ingest reads the partition again from here, in
 * another epoch, and has transform reject the record; what stands here is a marker then. Without a head that says where
 * it came from, nobody can read it again, and nothing is dropped silently: the lane ends here. */
static enum step poisoned(struct sink *s) {
    struct line *l = &s->line;
    const struct record *r = &l->intake.poison;
    if (r->topic == UINT16_MAX) {
        drop(s, SINK_HALTED);
        return worker_fail(s->worker, "sink.record_crashes",
                           "record %llu crashes the sink, and does not say which one it is",
                           (unsigned long long)(l->ring->number_released + 1));
    }
    if (s->aside) return STEP_BLOCKED;
    struct ledger_sink_slot *slot = &l->ledger->slot[r->slot];
    const char *topic = s->worker->config->topic[r->topic].name;
    struct log_at at = {topic, r->partition, r->offset};
    LOG_LINE(LOG_ERROR, "sink.record_poison", &at, "this record has crashed the sink repeatedly: it is to be rejected");
    atomic_store_explicit(&slot->crashed_ms, r->timestamp_ms, memory_order_release);
    twin_store(&slot->crashed, r->epoch, (uint64_t)r->offset);
    s->aside = true;
    s->announced = false;
    worker_state(s->worker, STATE_RECOVERING, "offset %lld of %.120s/%d crashes the sink and is put aside",
                 (long long)r->offset, topic, r->partition);
    return STEP_BLOCKED;
}

/* A partition was given up before Redis had answered for all of it (it was lost, or Redis stood still for too long):
 * the connection goes, and the next one begins by ending it on the server. */
static enum step overtaken(struct sink *s) {
    log_warn("sink.overtaken", "a partition was given up with writes under way: connecting anew");
    drop(s, SINK_DOWN);
    s->retry_at_ns = now_ns(s);
    return STEP_BUSY;
}

static enum step step_open(struct sink *s) {
    struct line *l = &s->line;
    const struct config *config = s->worker->config;
    struct failure f;
    if (line_overtaken(l)) return overtaken(s);
    if (!leased(s)) {
        drop(s, SINK_DOWN);
        s->retry_at_ns = now_ns(s);
        return STEP_BUSY;
    }
    int in = line_receive(l, &f);
    if (in < 0) return stand_still(s, &f);
    /* After a failure one batch at a time feels the way. */
    int out = line_send(l, s->failures > 0 ? config->redis.batch : config->redis.in_flight, &f);
    if (out < 0) return stand_still(s, &f);
    show_stalled(s);
    s->aside = s->aside && l->intake.stop == INTAKE_POISON;
    take_heart(s);
    if (l->intake.stop == INTAKE_BROKEN) return worker_broken(s->worker, "sink.ring_broken", "%s", l->intake.err.text);
    if (in > 0 || out > 0) return STEP_BUSY;
    if (l->intake.stop == INTAKE_POISON && l->flight.records == 0 && l->intake.count == 0) return poisoned(s);
    uint64_t now = now_ns(s);
    if (!flight_quiet(&l->flight) && session_overdue(&l->session, now)) return silence(s);
    if (!idle(s)) return STEP_BLOCKED;
    if (now - s->looked_ns < LOOK_NS) return STEP_IDLE;
    s->looked_ns = now;
    line_ask_marks(l, true);
    return flight_asking(&l->flight) ? STEP_BUSY : STEP_IDLE;
}

/* A loss is mended by reading again in another epoch, or by others. Once that has come for every partition, the lane
 * looks again; at a mark that an operator has to put right also now and then. */
static enum step step_halted(struct sink *s) {
    uint32_t slot;
    bool bad = line_bad_mark_stands(&s->line) && now_ns(s) < s->retry_at_ns;
    if (bad || line_losses(&s->line, false, &slot) > 0) {
        show_halted(s);
        return STEP_BLOCKED;
    }
    s->state = SINK_DOWN;
    s->retry_at_ns = now_ns(s);
    return STEP_BUSY;
}

/* Asked to leave: what is under way is worth waiting for, so that a successor need not send it again. */
static enum step step_leave(struct sink *s) {
    struct line *l = &s->line;
    struct failure f;
    uint64_t now = now_ns(s);
    if (s->leave_by_ns == 0) s->leave_by_ns = now + LEAVE_NS;
    if (s->state == SINK_OPEN && l->flight.records > 0 && now < s->leave_by_ns) {
        int out = line_write(l, &f), in = out < 0 ? -1 : line_receive(l, &f);
        if (in >= 0 && l->flight.records > 0) return in > 0 || out > 0 ? STEP_BUSY : STEP_BLOCKED;
    }
    drop(s, SINK_HALTED);
    return STEP_DONE;
}

static void audit_account(struct sink *s) {
    struct stats_local *local = &s->worker->local;
    struct ring_producer *ring = s->line.account.ring;
    stats_add(local, M_worker_ring_record_publish, ring->count.published);
    stats_add(local, M_worker_ring_byte_publish, ring->count.bytes);
    stats_add(local, M_worker_ring_full, ring->count.full);
    stats_add(local, M_worker_ring_wakeup, ring->count.wakeups);
    ring->count.published = ring->count.bytes = ring->count.full = ring->count.wakeups = 0;
}

enum step sink_step(void *self) {
    struct sink *s = self;
    enum step step = STEP_BLOCKED;
    if (worker_mode(s->worker) == CONTROL_LEAVE) {
        step = step_leave(s);
    } else {
        switch (s->state) {
        case SINK_DOWN: step = step_down(s); break;
        case SINK_GREETING: step = step_greeting(s); break;
        case SINK_OPEN: step = step_open(s); break;
        case SINK_SETTLING: step = step_settling(s); break;
        case SINK_PAUSED: step = step_paused(s); break;
        case SINK_HALTED: step = step_halted(s); break;
        }
    }
    struct stats_local *local = &s->worker->local;
    stats_add(local, M_sink_byte_sent, s->line.session.count.bytes_sent);
    s->line.session.count.bytes_sent = 0;
    stats_set(local, M_sink_in_flight, s->line.flight.records);
    stats_add(local, M_worker_ring_empty, s->line.ring->count.empty);
    stats_add(local, M_worker_ring_wakeup, s->line.ring->count.wakeups);
    s->line.ring->count.empty = s->line.ring->count.wakeups = 0;
    if (account_on(&s->line.account)) audit_account(s);
    return step;
}

/* -- waiting ----------------------------------------------------------------------------------- */

/* With records under way the next answer wakes the sink, and what came in meanwhile goes out together; only a line with
 * nothing to wait for asks to be woken by the ring. A line that waits for room on the audit ring is woken by that
 * alone: answers would wake it in vain. */
bool sink_arm(void *self) {
    struct sink *s = self;
    const struct line *l = &s->line;
    bool hungry = s->state == SINK_OPEN && flight_quiet(&l->flight) && !intake_full(&l->intake);
    bool work = hungry && ring_consumer_arm(l->ring);
    return (l->stalled && ring_producer_arm(l->account.ring)) || work;
}

void sink_disarm(void *self) {
    const struct line *l = &((struct sink *)self)->line;
    ring_consumer_disarm(l->ring);
    if (account_on(&l->account)) ring_producer_disarm(l->account.ring);
}

static void wake_at(int *timeout_ms, uint64_t now, uint64_t at) {
    uint64_t ms = at > now ? (at - now + NS_PER_MS - 1) / NS_PER_MS : 0;
    if (ms < (uint64_t)*timeout_ms) *timeout_ms = (int)ms;
}

int sink_wants(void *self, struct pollfd *fds, int max, int *timeout_ms) {
    const struct sink *s = self;
    const struct session *session = &s->line.session;
    const struct intake *in = &s->line.intake;
    uint64_t now = now_ns(s);
    if (s->state == SINK_DOWN || s->state == SINK_PAUSED) wake_at(timeout_ms, now, s->retry_at_ns);
    if (s->state == SINK_DOWN || s->state == SINK_PAUSED || s->state == SINK_HALTED || max < 1) return 0;
    if (s->line.stalled) return 0;
    if (s->state == SINK_OPEN && in->count > 0 && s->line.flight.records == 0 && !s->line.unleased)
        wake_at(timeout_ms, now, in->since_ns + s->worker->config->redis.linger_ms * NS_PER_MS);
    short events = session->stream.events(session->stream.context, encode_unsent(&session->out) > 0);
    if (events == 0) *timeout_ms = 0;
    fds[0] = (struct pollfd){.fd = session->stream.fd(session->stream.context), .events = events};
    return fds[0].fd >= 0;
}

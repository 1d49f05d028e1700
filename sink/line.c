#include "sink/line.h"

#include <errno.h>
#include <string.h>

#include "base/fault.h"
#include "base/log.h"
#include "sink/lost.h"

enum {
    SEND_SOFT_BYTES = 256 << 10, /* unsent bytes beyond which nothing more is encoded */
    MARK_COMMAND_BYTES = MARK_KEY_BYTES + MARK_TEXT_BYTES + 64,
    OUT_SLACK_BYTES = 6 << 20,
};
/* The send buffer takes what may be unsent, a batch that ends with one largest record, and either the marks of a
 * batch or the questions about all marks with the creation of each. Pages that are never used cost nothing. */
static_assert(OUT_SLACK_BYTES > SEND_SOFT_BYTES + INTAKE_BYTES_MAX + BATCH_MAX * ENCODE_RECORD_OVERHEAD +
                                    4 * PARTITIONS_MAX * MARK_COMMAND_BYTES,
              "the send buffer takes the worst batch");

int line_init(struct line *l, struct worker *worker, struct ring_consumer *ring, struct ring_producer *audit,
              const struct ledger_ingest *plan, struct ledger_sink *ledger, const struct stream_port *stream,
              struct err *err) {
    const struct config *config = worker->config;
    *l = (struct line){.worker = worker, .config = config, .plan = plan, .ledger = ledger, .ring = ring};
    marks_init(&l->marks, config, plan, ledger);
    /* What a predecessor counted in the ledger and did not live to show. */
    uint64_t lost = lost_total(ledger);
    if (worker->local.value[M_sink_write_lost] < lost) stats_set(&worker->local, M_sink_write_lost, lost);
    if (session_init(&l->session, config, worker->lane, worker->clock, stream,
                     2 * (size_t)ring_record_max(ring->capacity) + OUT_SLACK_BYTES, err) != 0)
        return -1;
    if (flight_init(&l->flight, config->redis.in_flight, err) != 0) return -1;
    if (account_init(&l->account, audit, ring, plan, worker->clock, config->redis.in_flight, err) != 0) return -1;
    return intake_init(&l->intake, ring, config, plan, &l->marks, err);
}

void line_free(struct line *l) {
    session_free(&l->session);
    flight_free(&l->flight);
    account_free(&l->account);
    intake_free(&l->intake);
}

void line_rewind(struct line *l) {
    flight_clear(&l->flight);
    intake_rewind(&l->intake);
    marks_forget(&l->marks);
    l->halting = false;
    l->stalled = false;
    l->unleased = false;
    l->halt = (struct failure){0};
}

static struct log_at at_slot(const struct line *l, uint32_t slot, int64_t offset) {
    const struct ledger_ingest_slot *p = &l->plan->slot[slot];
    return (struct log_at){.topic = l->config->topic[p->topic].name, .partition = p->partition, .offset = offset};
}

static uint32_t epoch_of(const struct line *l, uint32_t slot) {
    return atomic_load_explicit(&l->plan->slot[slot].epoch, memory_order_acquire);
}

bool line_overtaken(const struct line *l) {
    const struct flight *f = &l->flight;
    for (uint32_t i = f->touch_from; i != f->touch_to; i++) {
        const struct touch *t = &f->touch[i & f->touch_mask];
        if (t->mark.epoch != epoch_of(l, t->slot)) return true;
    }
    return false;
}

bool line_bad_mark_stands(const struct line *l) {
    return l->bad_epoch != 0 && marks_mine(&l->marks, l->bad_slot, l->worker->lane) &&
           epoch_of(l, l->bad_slot) == l->bad_epoch;
}

uint32_t line_losses(const struct line *l, bool open, uint32_t *first) {
    uint32_t n = 0, slots = atomic_load_explicit(&l->plan->count, memory_order_acquire);
    for (uint32_t i = 0; i < slots && i < PARTITIONS_MAX; i++) {
        const struct ledger_sink_slot *s = &l->ledger->slot[i];
        if (!(open ? lost_open(s) : lost_stands(s, epoch_of(l, i))) || !marks_mine(&l->marks, i, l->worker->lane))
            continue;
        if (n++ == 0) *first = i;
    }
    return n;
}

bool line_leased(const struct line *l) {
    uint64_t until = atomic_load_explicit(&l->plan->lease_until_ns, memory_order_acquire);
    return until == UINT64_MAX || clock_boot_ns(l->worker->clock) < until;
}

int line_write(struct line *l, struct failure *f) {
    if (l->flight.records > 0 && !line_leased(l)) return 0;
    return session_write(&l->session, f);
}

/* -- sending ----------------------------------------------------------------------------------- */

static void count_command(struct line *l, enum expect kind) {
    flight_expect(&l->flight, kind);
    stats_add(&l->worker->local, M_sink_command, 1);
}

/* The record of an item that was examined when it was taken. */
static void open_item(struct line *l, const struct intake_item *item, struct record_view *view) {
    ring_in_hand(l->ring, item->number);
    CHECK(record_open(item->body, item->len, view) == 0);
    FAULT_ON_CONTENT("sink:format", view->value, view->head.value_bytes);
}

static struct encode_slice key_of(const struct record_view *v) {
    return (struct encode_slice){v->redis_key, v->head.redis_key_bytes};
}
static struct encode_slice old_key_of(const struct record_view *v) {
    return (struct encode_slice){v->old_key, v->head.old_key_bytes};
}
static struct encode_slice value_of(const struct record_view *v) {
    return (struct encode_slice){v->value, v->head.value_bytes};
}

/* Plain records from item `from` on, markers in between left out, as one command. Returns the item behind the run. */
static uint32_t encode_run(struct line *l, struct batch *b, uint32_t from) {
    const struct intake *in = &l->intake;
    struct encode_buffer *out = &l->session.out;
    struct record_view view;
    uint32_t end = from, pairs = 0;
    for (; end < in->count && in->item[end].kind <= ITEM_PLAIN; end++) pairs += in->item[end].kind == ITEM_PLAIN;
    if (pairs > 1) encode_mset(out, pairs);
    for (uint32_t i = from; i < end; i++) {
        if (in->item[i].kind == ITEM_MARKER) continue;
        open_item(l, &in->item[i], &view);
        if (pairs > 1)
            encode_pair(out, key_of(&view), value_of(&view));
        else
            encode_set(out, key_of(&view), value_of(&view), 0);
    }
    count_command(l, EXPECT_OK);
    b->applied += pairs;
    b->markers += end - from - pairs;
    return end;
}

/* A hash is replaced whole: no field of the record before stays, and nobody sees a part of it. */
static void encode_hash(struct line *l, const struct record_view *v) {
    struct encode_buffer *out = &l->session.out;
    bool timed = v->head.expire_at_ms != 0;
    encode_multi(out);
    encode_del(out, key_of(v), old_key_of(v));
    encode_hset(out, key_of(v), value_of(v));
    if (timed) encode_pexpireat(out, key_of(v), v->head.expire_at_ms);
    encode_exec(out);
    count_command(l, EXPECT_OK);
    for (int i = 0; i < 2 + timed; i++) count_command(l, EXPECT_QUEUED);
    count_command(l, timed ? EXPECT_EXEC3 : EXPECT_EXEC);
}

/* One that Redis has acknowledged already. Whether it had expired when it was sent, the clock still tells. */
static void pass_done(struct line *l, struct batch *b, struct intake_item *item, int64_t wall_ms) {
    struct record_view v;
    open_item(l, item, &v);
    int64_t expire_at_ms = v.head.op == RECORD_DELETE ? 0 : v.head.expire_at_ms;
    item->expired = expire_at_ms != 0 && expire_at_ms <= wall_ms;
    b->applied++;
    b->expired += item->expired;
}

/* One record with commands of its own. An expiry that is past is a delete: a replay revives nothing. */
static void encode_single(struct line *l, struct batch *b, struct intake_item *item, int64_t wall_ms) {
    struct encode_buffer *out = &l->session.out;
    struct record_view v;
    open_item(l, item, &v);
    int64_t expire_at_ms = item->kind == ITEM_DELETE ? 0 : v.head.expire_at_ms;
    item->expired = expire_at_ms != 0 && expire_at_ms <= wall_ms;
    b->applied++;
    b->expired += item->expired;
    if (item->expired || item->kind == ITEM_DELETE) {
        encode_del(out, key_of(&v), old_key_of(&v));
        count_command(l, EXPECT_INTEGER);
        return;
    }
    if (item->kind == ITEM_TIMED) {
        encode_set(out, key_of(&v), value_of(&v), expire_at_ms);
        count_command(l, EXPECT_OK);
        return;
    }
    if (item->kind == ITEM_HASH) {
        encode_hash(l, &v);
        return;
    }
    encode_multi(out);
    encode_del(out, old_key_of(&v), (struct encode_slice){NULL, 0});
    encode_set(out, key_of(&v), value_of(&v), expire_at_ms);
    encode_exec(out);
    count_command(l, EXPECT_OK);
    count_command(l, EXPECT_QUEUED);
    count_command(l, EXPECT_QUEUED);
    count_command(l, EXPECT_EXEC);
}

static size_t encode_mark_key(struct line *l, uint32_t slot) {
    char key[MARK_KEY_BYTES];
    const struct ledger_ingest_slot *p = &l->plan->slot[slot];
    size_t n = mark_key(key, l->config->kafka.group_id, l->config->topic[p->topic].name, p->partition);
    encode_bulk(&l->session.out, key, n);
    return n;
}

static void encode_mark_value(struct line *l, struct mark mark) {
    char text[MARK_TEXT_BYTES];
    size_t n = mark_text(text, mark, l->config->instance, marks_cluster(&l->marks));
    encode_bulk(&l->session.out, text, n);
}

/* Behind the data of a batch, in the same stream: SET mark value XX GET for each partition in it. */
static void encode_marks(struct line *l, struct batch *b) {
    for (uint32_t i = 0; i < b->touch_count; i++) {
        const struct touch *t = flight_touch_at(&l->flight, b, i);
        encode_array(&l->session.out, 5);
        encode_bulk(&l->session.out, "SET", 3);
        encode_mark_key(l, t->slot);
        encode_mark_value(l, t->mark);
        encode_bulk(&l->session.out, "XX", 2);
        encode_bulk(&l->session.out, "GET", 3);
        count_command(l, EXPECT_OLD);
    }
}

/* A partition may have been given up while the batch waited: what was read of it is a marker now. Returns whether there
 * is anything left that Redis has to hear of. */
static bool overtaken_to_markers(struct line *l) {
    bool current = false;
    for (uint32_t i = 0; i < l->intake.count; i++) {
        struct intake_item *item = &l->intake.item[i];
        if (item->epoch != 0 && item->epoch != epoch_of(l, item->slot)) {
            item->kind = ITEM_MARKER;
            item->epoch = 0;
        }
        current |= item->epoch != 0;
    }
    return current;
}

static void encode_batch(struct line *l) {
    struct intake *in = &l->intake;
    const struct intake_item *last = &in->item[in->count - 1];
    int64_t wall_ms = session_wall_ms(&l->session);
    if (flight_quiet(&l->flight)) session_waiting_begins(&l->session);
    struct batch *b = flight_begin(&l->flight, in->item[0].number);
    b->sent_ns = clock_ns(l->worker->clock);
    for (uint32_t i = 0; i < in->count;) {
        if (in->item[i].kind == ITEM_MARKER) {
            b->markers++;
            i++;
        } else if (in->item[i].kind == ITEM_PLAIN) {
            i = encode_run(l, b, i);
        } else if (in->item[i].kind == ITEM_DONE) {
            pass_done(l, b, &in->item[i++], wall_ms);
        } else {
            encode_single(l, b, &in->item[i++], wall_ms);
        }
    }
    ring_in_hand(l->ring, 0);
    for (uint32_t i = 0; i < in->count; i++) {
        const struct intake_item *item = &in->item[i];
        if (account_on(&l->account)) account_sent(&l->account, item);
        if (item->epoch == 0) continue;
        const struct ledger_sink_slot *s = &l->ledger->slot[item->slot];
        bool sent = item->kind != ITEM_MARKER && item->kind != ITEM_DONE;
        bool refed = lost_open(s) && sent && !item->refed && lost_refeeds(s, item->next);
        int64_t timestamp_ms = in->sample[item->number & in->sample_mask].timestamp_ms;
        flight_touch(&l->flight, item->slot, marks_of(&l->marks, item->slot, item->next, item->epoch, timestamp_ms),
                     refed);
    }
    flight_end(&l->flight, last->number, last->end);
    FAULT("sink:encode_marks");
    encode_marks(l, b);
    if (b->first <= l->number_sent) {
        uint64_t again = l->number_sent < b->last ? l->number_sent : b->last;
        stats_add(&l->worker->local, M_sink_record_resent, again - b->first + 1);
    }
    if (b->last > l->number_sent) l->number_sent = b->last;
    intake_sent(in);
}

static void ask_mark(struct line *l, uint32_t slot) {
    if (flight_quiet(&l->flight)) session_waiting_begins(&l->session);
    encode_array(&l->session.out, 2);
    encode_bulk(&l->session.out, "GET", 3);
    encode_mark_key(l, slot);
    flight_ask(&l->flight, EXPECT_MARK, slot);
    stats_add(&l->worker->local, M_sink_command, 1);
}

void line_ask_marks(struct line *l, bool all) {
    size_t room = 3UL * PARTITIONS_MAX * MARK_COMMAND_BYTES; /* a question, perhaps a creation and a second question */
    if (flight_asking(&l->flight) || !encode_room(&l->session.out, room)) return;
    uint32_t slots = atomic_load_explicit(&l->plan->count, memory_order_acquire);
    bool waits = l->intake.stop == INTAKE_UNMARKED;
    for (uint32_t i = 0; i < slots && i < PARTITIONS_MAX; i++) {
        uint32_t epoch = atomic_load_explicit(&l->plan->slot[i].epoch, memory_order_acquire);
        if ((marks_mine(&l->marks, i, l->worker->lane) && (all || !marks_checked(&l->marks, i, epoch))) ||
            (waits && l->intake.held.slot == i))
            ask_mark(l, i);
    }
}

/* Whether the batch in hand goes out now: when it is whole, or when the connection has nothing else to do. */
static bool batch_due(const struct line *l, uint32_t limit, uint64_t now) {
    const struct intake *in = &l->intake;
    if (in->count == 0) return false;
    if (l->flight.records > 0 && l->flight.records + in->count > limit) return false;
    if (intake_full(in)) return true;
    return l->flight.records == 0 && now - in->since_ns >= l->config->redis.linger_ms * NS_PER_MS;
}

static bool batch_fits(struct line *l) {
    const struct intake *in = &l->intake;
    uint32_t partitions = in->count < PARTITIONS_MAX ? in->count : PARTITIONS_MAX;
    return encode_unsent(&l->session.out) < SEND_SOFT_BYTES &&
           encode_room(&l->session.out, in->bytes + (size_t)in->count * ENCODE_RECORD_OVERHEAD +
                                            (size_t)partitions * MARK_COMMAND_BYTES);
}

static void release_answered(struct line *l);

/* Setting a mark back is as much of a write as a record is: whoever has the partition by now would take it for a loss.
 * Making one that is not there harms nobody, and a first start gets its lease by that. */
static bool may_set(const struct line *l, uint32_t slot) {
    return (atomic_load_explicit(&l->plan->slot[slot].flags, memory_order_acquire) & LEDGER_REWOUND) == 0 ||
           line_leased(l);
}

int line_send(struct line *l, uint32_t limit, struct failure *f) {
    uint64_t now = clock_ns(l->worker->clock), reject = worker_reject_number(l->worker);
    int moved = 0;
    l->unleased = false;
    while (!flight_asking(&l->flight) && !l->halting) {
        if (intake_fill(&l->intake, reject, now) > 0) moved = 1;
        if (l->intake.stop == INTAKE_UNMARKED && l->intake.count == 0) {
            l->unleased = !may_set(l, l->intake.held.slot);
            if (!l->unleased) line_ask_marks(l, false);
            break;
        }
        if (!batch_due(l, limit, now) || !batch_fits(l)) break;
        l->unleased = overtaken_to_markers(l) && !line_leased(l);
        if (l->unleased) break;
        encode_batch(l);
        FAULT("sink:encoded");
        moved = 1;
        release_answered(l); /* a batch of markers of earlier epochs waits for nothing */
        if (encode_unsent(&l->session.out) >= SEND_SOFT_BYTES && line_write(l, f) < 0) return -1;
    }
    int r = line_write(l, f);
    return r < 0 ? -1 : moved || r > 0;
}

/* -- releasing --------------------------------------------------------------------------------- */

static void observe_latency(struct line *l, const struct batch *b) {
    struct stats_local *local = &l->worker->local;
    int64_t now_ns = (int64_t)clock_ns(l->worker->clock), now_ms = clock_wall_ms(l->worker->clock);
    for (uint64_t n = b->first; n <= b->last; n++) {
        const struct intake_sample *sample = &l->intake.sample[n & l->intake.sample_mask];
        if (sample->ingest_ns < 0) continue;
        int64_t age_ns = now_ns - sample->ingest_ns, age_ms = now_ms - sample->timestamp_ms;
        stats_observe(local, H_sink_ingest_to_redis, age_ns > 0 ? (uint64_t)age_ns : 0);
        if (sample->timestamp_ms < 0) continue;
        stats_observe(local, H_sink_kafka_to_redis, age_ms > 0 ? (uint64_t)age_ms * NS_PER_MS : 0);
        stats_set(local, M_sink_record_timestamp, (uint64_t)sample->timestamp_ms * NS_PER_MS);
    }
}

/* Tells when everything that Redis had lost of a partition is there again. */
static void recovered(struct line *l, uint32_t slot, int64_t next) {
    uint64_t n;
    if (!lost_passed(&l->ledger->slot[slot], next, &n)) return;
    struct log_at at = at_slot(l, slot, next);
    log_info_at("sink.recovered", &at, "what Redis had lost is there again: %llu lost writes were written again",
                (unsigned long long)n);
}

/* What Redis has of a batch, in the ledger. */
static void acknowledge(struct line *l, struct batch *b) {
    for (uint32_t i = 0; i < b->touch_count; i++) {
        const struct touch *t = flight_touch_at(&l->flight, b, i);
        uint32_t epoch = atomic_load_explicit(&l->plan->slot[t->slot].epoch, memory_order_acquire);
        if (epoch != t->mark.epoch) continue;
        if (t->refed > 0) lost_count(&l->ledger->slot[t->slot], t->mark.next, t->refed);
        stats_add(&l->worker->local, M_sink_write_lost, t->refed);
        FAULT("sink:acknowledge");
        twin_store(&l->ledger->slot[t->slot].released, epoch, (uint64_t)t->mark.next);
        FAULT("sink:acknowledged");
        recovered(l, t->slot, t->mark.next);
    }
}

static void published_note(struct line *l, uint64_t number) {
    atomic_store_explicit(&l->worker->block->published, number, memory_order_release);
}

/* The batch's entries, as many as there is room for; noted before the ring shows them, so that nobody finds audit ahead
 * of the sink. Returns whether that was all. */
static bool account_for(struct line *l, const struct batch *b) {
    bool all = account_stage(&l->account, b);
    published_note(l, l->account.ring->number);
    FAULT("sink:account");
    account_publish(&l->account);
    return all;
}

/* Entries, ledger, ring, stats block, in this order: what ingest may commit is never ahead of what Redis has, and what
 * is given back in the ring is in the ledger and has its entry already. The ledger never says more than audit can come
 * to know: after a loss ingest waits for that, and the sink passes nothing on. A successor that dies between them only
 * does again what is left of it. False: the audit ring is full; call again later. */
static bool release(struct line *l, struct batch *b) {
    if (b->answered_ns == 0) b->answered_ns = clock_ns(l->worker->clock);
    if (account_on(&l->account) && !account_for(l, b)) return false;
    acknowledge(l, b);
    FAULT("sink:release");
    ring_release(l->ring, b->end, b->last);
    FAULT("sink:released");
    if (!account_on(&l->account)) published_note(l, b->last);
    observe_latency(l, b);
    struct stats_local *local = &l->worker->local;
    stats_add(local, M_sink_record_applied, b->applied);
    stats_add(local, M_sink_record_expired, b->expired);
    stats_add(local, M_sink_record_marker, b->markers);
    stats_add(local, M_sink_batch, 1);
    l->released++;
    return true;
}

static void release_answered(struct line *l) {
    struct batch *b;
    l->stalled = false;
    while ((b = flight_oldest(&l->flight)) != NULL && b->replies == 0) {
        l->stalled = !l->halting && !release(l, b);
        if (l->stalled) break;
        flight_pop(&l->flight);
    }
}

/* -- answers ----------------------------------------------------------------------------------- */

/* The line stops for a mark; the other answers under way are read first, because they may tell of more. */
static void halt(struct line *l, const struct failure *f) {
    if (!l->halting) l->halt = *f;
    l->halting = true;
}

/* A mark that only an operator can put right. */
static void mark_bad(struct line *l, uint32_t slot, enum mark_verdict verdict) {
    struct log_at at = at_slot(l, slot, marks_floor(&l->marks, slot));
    struct failure f;
    l->bad_slot = slot;
    l->bad_epoch = epoch_of(l, slot);
    bool known = l->marks.slot[slot].bad_epoch == l->bad_epoch; /* said once */
    l->marks.slot[slot].bad_epoch = l->bad_epoch;
    stats_add(&l->worker->local, M_sink_mark_mismatch, !known);
    if (verdict == MARK_FOREIGN) {
        if (!known)
            LOG_LINE(LOG_ERROR, "sink.mark_foreign", &at, "the key of this partition's mark holds something else");
        failure_set(&f, REPLY_HALT, "the mark of %s/%d holds something else: is the key used by others?", at.topic,
                    at.partition);
    } else {
        if (!known)
            LOG_LINE(
                LOG_ERROR, "sink.mark_missing", &at,
                "the group has commits and Redis has no mark: is this the Redis that was written? docs/redis.md says "
                "what the choices are");
        failure_set(&f, REPLY_HALT, "no mark for %s/%d in Redis, see redis.when_marks_missing", at.topic, at.partition);
    }
    halt(l, &f);
}

/* Noted before anything more is released, and told before it is noted: a successor of a sink that dies in between finds
 * the note and goes by it, and would say nothing. Told twice is the lesser evil. */
static void mark_lost(struct line *l, uint32_t slot, struct mark found) {
    int64_t had = marks_floor(&l->marks, slot);
    struct log_at at = at_slot(l, slot, had);
    struct failure f;
    char has[32] = "no mark";
    if (found.next >= 0) snprintf(has, sizeof has, "%lld", (long long)found.next);
    failure_set(&f, REPLY_HALT, "redis lost writes: %s/%d has %s, expected %lld", at.topic, at.partition, has,
                (long long)had);
    halt(l, &f);
    if (lost_stands(&l->ledger->slot[slot], epoch_of(l, slot))) return;
    stats_add(&l->worker->local, M_sink_loss_found, 1);
    stats_add(&l->worker->local, M_sink_mark_mismatch, 1);
    stats_flush(&l->worker->local);
    if (found.next < 0)
        LOG_LINE(LOG_ERROR, "sink.redis_lost_writes", &at,
                 "Redis has lost all it acknowledged of this partition, for the mark is gone; what came before offset "
                 "%lld is to be read again",
                 (long long)had);
    else
        LOG_LINE(LOG_ERROR, "sink.redis_lost_writes", &at,
                 "Redis has lost writes it acknowledged: its mark is at offset %lld%s and was at %lld; what is between "
                 "is to be read again",
                 (long long)found.next, found.foreign ? " of another Kafka cluster" : "", (long long)had);
    FAULT("sink:lost");
    CHECK(lost_note(&l->ledger->slot[slot], epoch_of(l, slot), marks_lost_word(found), had));
    FAULT("sink:lost_noted");
}

static void mark_other(struct line *l, uint32_t slot, struct mark expected, struct mark found) {
    struct log_at at = at_slot(l, slot, found.next);
    stats_add(&l->worker->local, M_sink_mark_mismatch, 1);
    log_warn_at("sink.mark_other", &at,
                "another process has written this partition's mark: next offset %lld epoch %u, "
                "ours was %lld epoch %u",
                (long long)found.next, found.epoch, (long long)expected.next, expected.epoch);
}

static void answer_old(struct line *l, uint32_t touch) {
    const struct touch *t = flight_touch_at(&l->flight, flight_oldest(&l->flight), touch);
    struct mark found, known = l->marks.slot[t->slot].known;
    switch (marks_judge_old(&l->marks, t->slot, t->mark, &l->session.resp.reply, &found)) {
    case MARK_OTHER: mark_other(l, t->slot, known, found); break;
    case MARK_LOST: mark_lost(l, t->slot, found); break;
    case MARK_FOREIGN: mark_bad(l, t->slot, MARK_FOREIGN); break;
    default: break;
    }
}

/* Writes the mark at the floor, a first one only if nobody else was faster, and reads it again. A rewind does not
 * change what the topic is known by. */
static void mark_create(struct line *l, uint32_t slot, enum mark_verdict verdict, struct mark found) {
    struct mark mark = {
        .next = marks_floor(&l->marks, slot), .epoch = epoch_of(l, slot), .seen = found.seen, .seen_ms = found.seen_ms};
    struct log_at at = at_slot(l, slot, mark.next);
    if (verdict == MARK_TRUST)
        log_warn_at("sink.mark_trusted", &at,
                    "Redis has no mark for this partition; trusting that it holds everything "
                    "before the committed offset (redis.when_marks_missing: trust_kafka)");
    else if (verdict == MARK_CREATE)
        log_info_at("sink.mark_created", &at, "first start of the group on this partition");
    FAULT("sink:mark_create");
    encode_array(&l->session.out, verdict == MARK_SET ? 3 : 4);
    encode_bulk(&l->session.out, "SET", 3);
    encode_mark_key(l, slot);
    encode_mark_value(l, mark);
    if (verdict != MARK_SET) encode_bulk(&l->session.out, "NX", 2);
    flight_ask(&l->flight, EXPECT_CREATE, slot);
    stats_add(&l->worker->local, M_sink_command, 1);
    ask_mark(l, slot);
}

static void answer_mark(struct line *l, uint32_t slot) {
    struct mark found, known = l->marks.slot[slot].known;
    enum mark_verdict verdict = marks_judge_read(&l->marks, slot, &l->session.resp.reply, &found);
    if (verdict == MARK_GOOD || verdict == MARK_OTHER) recovered(l, slot, marks_floor(&l->marks, slot));
    if (verdict == MARK_GOOD || !marks_mine(&l->marks, slot, l->worker->lane))
        return; /* taken away: not ours to judge */
    switch (verdict) {
    case MARK_OTHER: mark_other(l, slot, known, found); break;
    case MARK_CREATE:
    case MARK_TRUST: mark_create(l, slot, verdict, found); break;
    case MARK_SET:
        if (line_leased(l)) mark_create(l, slot, verdict, found);
        break;
    case MARK_LOST: mark_lost(l, slot, found); break;
    default: mark_bad(l, slot, verdict); break;
    }
}

static bool answer_fits(enum expect kind, const struct resp_reply *r) {
    switch (kind) {
    case EXPECT_NOTHING: return false;
    case EXPECT_OK: return r->kind == RESP_STATUS && strcmp(r->text, "OK") == 0;
    case EXPECT_QUEUED: return r->kind == RESP_STATUS && strcmp(r->text, "QUEUED") == 0;
    case EXPECT_INTEGER: return r->kind == RESP_INTEGER;
    case EXPECT_EXEC: return r->kind == RESP_ARRAY && r->elements == 2;
    case EXPECT_EXEC3: return r->kind == RESP_ARRAY && r->elements == 3;
    case EXPECT_OLD:
    case EXPECT_MARK: return r->kind == RESP_STRING || r->kind == RESP_NIL;
    case EXPECT_CREATE: return r->kind == RESP_STATUS || r->kind == RESP_NIL;
    }
    return false;
}

static int answer(struct line *l, struct failure *f) {
    const struct resp_reply *reply = &l->session.resp.reply;
    uint32_t which = 0;
    enum expect kind = flight_answer(&l->flight, &which);
    if (reply->error) {
        stats_add(&l->worker->local, M_sink_redis_error_reply, 1);
        reply_failure(f, reply->error_text);
        return -1;
    }
    if (!answer_fits(kind, reply))
        return failure_set(f, REPLY_RECONNECT, "an answer of Redis does not belong to the command that was sent");
    if (kind == EXPECT_OLD) answer_old(l, which);
    if (kind == EXPECT_MARK) answer_mark(l, which);
    if (!l->halting || !flight_quiet(&l->flight)) return 0;
    *f = l->halt;
    return -1;
}

/* The answers that were read, up to one whose batch cannot be released. 0, or -1 with f. */
static int answers(struct line *l, struct failure *f) {
    int r = 0;
    while (!l->stalled && (r = session_reply(&l->session, f)) > 0) {
        if (answer(l, f) != 0) return -1;
        release_answered(l);
    }
    return r < 0 ? -1 : 0;
}

int line_receive(struct line *l, struct failure *f) {
    if (l->stalled) {
        session_waiting_begins(&l->session); /* it is not Redis that makes us wait */
        release_answered(l);
        if (l->stalled) return 0;
        return answers(l, f) < 0 ? -1 : 1;
    }
    int r = session_read(&l->session, f);
    if (r <= 0) return r;
    return answers(l, f) < 0 ? -1 : 1;
}

int line_settle(struct line *l, struct failure *f) {
    const struct resp_reply *reply = &l->session.resp.reply;
    uint32_t which = 0;
    int moved = line_write(l, f), r;
    if (moved < 0) return -1;
    do {
        while ((r = session_reply(&l->session, f)) > 0) {
            const struct batch *b;
            while ((b = flight_oldest(&l->flight)) != NULL && b->replies == 0) flight_pop(&l->flight);
            stats_add(&l->worker->local, M_sink_redis_error_reply, reply->error);
            enum expect kind = flight_answer(&l->flight, &which);
            if (kind == EXPECT_OLD && !reply->error && answer_fits(kind, reply)) answer_old(l, which);
            moved = 1;
        }
        if (r == 0 && !flight_quiet(&l->flight)) r = session_read(&l->session, f);
        if (r < 0) return -1;
    } while (r > 0);
    return moved;
}

#include "transform/transform.h"

#include <string.h>
#include <sysexits.h>

#include "base/fault.h"
#include "base/log.h"
#include "transform/seal.h"

/* What became of one record. */
enum pass { PASS_DONE, PASS_OUT_FULL, PASS_REJECTS_FULL, PASS_BROKEN };

enum { AUX_LAST_ORIGIN = 0 }; /* aux word of the rejects ring: number_origin of the last reject on it */

#define FULL_SHOWN_NS                                                                                                  \
    NS_PER_S /* a rejects ring that is full for so long is a state; for a moment it is flow control                    \
              */

static const enum metric reason_metric[REASON_COUNT] = {
    [REASON_KEY_NULL] = M_transform_reject_key_null,         [REASON_KEY_EMPTY] = M_transform_reject_key_empty,
    [REASON_KEY_LONG] = M_transform_reject_key_long,         [REASON_FIELD_MISSING] = M_transform_reject_field_missing,
    [REASON_JSON_INVALID] = M_transform_reject_json_invalid, [REASON_OPERATION] = M_transform_reject_operation,
    [REASON_TOO_LARGE] = M_transform_reject_too_large,       [REASON_CRASH] = M_transform_reject_crash,
};
static_assert(REASON_COUNT == 9 && M_transform_reject_crash - M_transform_reject_key_null + 2 == REASON_COUNT,
              "every reason has its metric, and metrics.def its order");

static const enum metric op_metric[RECORD_OP_COUNT] = {
    [RECORD_ADD] = M_transform_record_add,       [RECORD_UPDATE] = M_transform_record_update,
    [RECORD_DELETE] = M_transform_record_delete, [RECORD_SKIP] = M_transform_record_skip,
    [RECORD_REJECT] = M_transform_record_reject,
};

/* -- life -------------------------------------------------------------------------------------- */

static int sealer_init(struct transform *t, const struct keys *keys, struct err *err) {
    uint8_t prefix[XAES_PREFIX_BYTES];
    const struct clock_port *clock = t->port.worker->clock;
    if (xaes_self_test(err) != 0) return -1;
    clock->random(clock->context, prefix, sizeof prefix);
    t->key_id = keys_current(keys)->id;
    t->sealing = true;
    return xaes_sealer_init(&t->sealer, keys_current(keys)->bytes, prefix, err);
}

/* Noted before the ring shows it: nobody finds the next stage ahead of this one. */
static void published_note(const struct transform *t) {
    atomic_store_explicit(&t->port.worker->block->published, t->port.out->number, memory_order_release);
}

int transform_init(struct transform *t, const struct transform_ports *ports, const struct keys *keys,
                   const struct audit_keys *audit, struct err *err) {
    memset(t, 0, sizeof *t);
    t->port = *ports;
    t->config = ports->worker->config;
    t->passed_on = ports->out->number;
    published_note(t);
    t->shown = STATE_COUNT;
    CHECK(ports->rejects->aux_count > AUX_LAST_ORIGIN);
    bool wants_json = false;
    for (uint32_t i = 0; i < t->config->topic_count; i++) {
        const struct config_topic *topic = &t->config->topic[i];
        if (topic->encrypt && keys == NULL)
            return err_set(err, EX_CONFIG, "topic %s is to be encrypted and crypto.keys names no key file",
                           topic->name);
        if (t->config->audit && topic->reconcile == RECONCILE_FULL && keys == NULL)
            return err_set(err, EX_CONFIG, "topic %s has reconcile: full and crypto.keys names no key file",
                           topic->name);
        if (convert_topic_init(&t->topic[i], topic, err) != 0) return -1;
        wants_json = wants_json || topic->format == FORMAT_JSON;
    }
    if (wants_json && (t->json = json_new(ring_record_max(ports->in->capacity), err)) == NULL) return -1;
    if (keys != NULL && sealer_init(t, keys, err) != 0) return -1;
    if (tracer_init(&t->tracer, t->config, audit, err) != 0) return -1;
    return value_encoder_init(&t->encoder, t->sealing ? &t->sealer : NULL, t->key_id, err);
}

void transform_fini(struct transform *t) {
    json_free(t->json);
    value_encoder_free(&t->encoder);
    tracer_free(&t->tracer);
    if (t->sealing) xaes_sealer_free(&t->sealer);
}

static void state_show(struct transform *t, enum worker_state state, const char *reason) {
    if (t->shown == state) return;
    t->shown = state;
    worker_state(t->port.worker, state, "%s", reason);
}

/* -- passing on -------------------------------------------------------------------------------- */

static void stage(struct transform *t, size_t len, const struct ring_item *item) {
    uint64_t number = ring_stage(t->port.out, (uint32_t)len, RECORD_DATA);
    CHECK(number == item->number); /* one record in, one record out, the same number */
}

static enum pass wait_for(struct transform *t, enum pass full, size_t bytes) {
    t->wait_bytes = (uint32_t)bytes;
    return full;
}

static struct seal_origin origin_of(const struct transform *t, const struct record *r) {
    return (struct seal_origin){r->id, t->config->topic[r->topic].name, r->partition, r->offset};
}

static struct seal_parts parts_of(const struct record_view *in) {
    return (struct seal_parts){.key = in->head.flags & RECORD_KEY_NULL ? NULL : in->kafka_key,
                               .value = in->head.flags & RECORD_VALUE_NULL ? NULL : in->value,
                               .headers = in->headers,
                               .key_bytes = in->head.kafka_key_bytes,
                               .value_bytes = in->head.value_bytes,
                               .headers_bytes = in->head.headers_bytes};
}

/* Room that the original takes in the trace at most; 0: it does not go along. `bytes`: what the record takes else. */
static size_t content_max(const struct transform *t, const struct record_view *in, size_t bytes) {
    if (!tracer_wants(&t->tracer, in->head.topic) || t->config->topic[in->head.topic].reconcile != RECONCILE_FULL ||
        (in->head.flags & RECORD_CONTENT_ABSENT) != 0)
        return 0;
    struct seal_parts parts = parts_of(in);
    size_t content = seal_bytes(&parts);
    return bytes + content <= ring_record_max(t->port.out->capacity) ? content : 0;
}

/* Ends the record out[0, len) with its trace, of which the room is there: right behind its head, `content` bytes for
 * the original behind everything. converted: NULL for a marker. Returns the record's length. */
static size_t trace_end(struct transform *t, const struct record_view *in, const struct converted *converted,
                        struct record *out, size_t len, size_t content) {
    struct record_trace *trace = (struct record_trace *)(out + 1);
    struct stats_local *local = &t->port.worker->local;
    const struct config_topic *topic = &t->config->topic[in->head.topic];
    out->flags |= RECORD_TRACED;
    stats_add(local, M_transform_header_malformed, trace_original(&t->tracer, in, out, trace));
    if (converted != NULL)
        trace_converted(&t->tracer, in, converted, t->topic[in->head.topic].fields.list, (uint8_t *)(trace + 1), out,
                        trace);
    if (content > 0) {
        struct seal_origin origin = origin_of(t, &in->head);
        struct seal_parts parts = parts_of(in);
        trace->content_bytes = (uint32_t)seal_compress(&t->encoder, &origin, &parts, (uint8_t *)out + len);
    } else if (topic->reconcile == RECONCILE_FULL) {
        stats_add(local, M_transform_content_absent, 1);
    }
    trace->transform_ns = (int64_t)clock_ns(t->port.worker->clock);
    return len + trace->content_bytes;
}

/* Whether a marker tells of a record that audit has to know of: not that of an earlier epoch, which is read again, and
 * not the end of a partition. */
static bool marker_traced(const struct transform *t, const struct record_view *in, enum record_op op) {
    return op == RECORD_REJECT && tracer_wants(&t->tracer, in->head.topic);
}

static size_t marker_bytes(const struct transform *t, const struct record_view *in, enum record_op op) {
    return sizeof in->head + (marker_traced(t, in, op) ? sizeof in->trace : 0);
}

/* A record without content that keeps the numbers complete. */
static enum pass marker_pass(struct transform *t, const struct ring_item *item, const struct record_view *in,
                             enum record_op op, enum record_reason reason) {
    size_t len = marker_bytes(t, in, op), content = content_max(t, in, len);
    if (op != RECORD_REJECT) content = 0;
    struct record *out = ring_reserve(t->port.out, (uint32_t)(len + content));
    if (out == NULL) return wait_for(t, PASS_OUT_FULL, len + content);
    *out = in->head;
    out->op = (uint8_t)op;
    out->reason = (uint8_t)reason;
    out->flags = in->head.flags & RECORD_REFED;
    out->kafka_key_bytes = out->redis_key_bytes = out->old_key_bytes = out->value_bytes = out->headers_bytes = 0;
    if (marker_traced(t, in, op)) len = trace_end(t, in, NULL, out, len, content);
    stage(t, len, item);
    struct stats_local *local = &t->port.worker->local;
    stats_add(local, M_transform_record_in, 1);
    stats_add(local, op_metric[op], 1);
    if (op == RECORD_REJECT && reason != REASON_NONE) stats_add(local, reason_metric[reason], 1);
    return PASS_DONE;
}

/* Head and keys; room for the trace is left between them. Returns the bytes so far. */
static size_t body_write(struct record *out, const struct converted *c, const struct convert_topic *topic,
                         const struct record_view *in, size_t trace_bytes) {
    *out = in->head;
    out->op = (uint8_t)c->op;
    out->reason = REASON_NONE;
    out->flags = (in->head.flags & RECORD_REFED) | (c->op == RECORD_DELETE ? RECORD_VALUE_NULL
                                                    : topic->fields.list   ? RECORD_VALUE_FIELDS
                                                                           : 0);
    out->expire_at_ms = c->expire_at_ms;
    out->kafka_key_bytes = out->headers_bytes = out->value_bytes = 0;
    out->redis_key_bytes = c->key_bytes;
    out->old_key_bytes = c->old_key_bytes;
    uint8_t *at = (uint8_t *)(out + 1) + trace_bytes;
    memcpy(at, c->key, c->key_bytes);
    memcpy(at + c->key_bytes, c->old_key, c->old_key_bytes);
    return sizeof *out + trace_bytes + c->key_bytes + c->old_key_bytes;
}

/* bytes: what it takes at most without the original that goes along for audit. */
static enum pass record_write(struct transform *t, const struct ring_item *item, const struct record_view *in,
                              size_t bytes) {
    const struct converted *c = &t->converted;
    const struct convert_topic *topic = &t->topic[in->head.topic];
    struct stats_local *local = &t->port.worker->local;
    bool traced = tracer_wants(&t->tracer, in->head.topic);
    size_t content = content_max(t, in, bytes);
    struct record *out = ring_reserve(t->port.out, (uint32_t)(bytes + content));
    if (out == NULL) return wait_for(t, PASS_OUT_FULL, bytes + content);
    size_t len = body_write(out, c, topic, in, traced ? sizeof in->trace : 0);
    if (c->op != RECORD_DELETE) {
        uint8_t *at = (uint8_t *)out + len;
        size_t value_bytes = c->value_bytes;
        if (topic->value_flags != 0)
            value_bytes =
                value_encode(&t->encoder, topic->value_flags, c->key, c->key_bytes, c->value, c->value_bytes, at);
        else
            memcpy(at, c->value, value_bytes);
        out->value_bytes = (uint32_t)value_bytes;
        len += value_bytes;
        stats_add(local, M_transform_value_in, in->head.value_bytes);
        stats_add(local, M_transform_value_out, value_bytes);
    }
    if (traced) len = trace_end(t, in, c, out, len, content);
    FAULT_CORRUPT("transform:record_length", &out->value_bytes, sizeof out->value_bytes);
    stage(t, len, item);
    stats_add(local, M_transform_record_in, 1);
    stats_add(local, op_metric[c->op], 1);
    return PASS_DONE;
}

/* -- rejecting --------------------------------------------------------------------------------- */

static void reject_log(const struct transform *t, const struct record *head, enum record_reason reason) {
    char id[37];
    record_id_format(head->id, id);
    struct log_at at = {t->config->topic[head->topic].name, head->partition, head->offset};
    log_warn_at("transform.record_rejected", &at, "rejected as %s, id %s", record_reason_name(reason), id);
}

/* The original with its parts as they are. */
static void original_plain(struct record *out, const struct record_view *in) {
    uint8_t *at = (uint8_t *)(out + 1);
    memcpy(at, in->kafka_key, in->head.kafka_key_bytes);
    memcpy(at + in->head.kafka_key_bytes, in->value, in->head.value_bytes);
    memcpy(at + in->head.kafka_key_bytes + in->head.value_bytes, in->headers, in->head.headers_bytes);
}

static void original_sealed(struct transform *t, struct record *out, const struct record_view *in,
                            size_t sealed_bytes) {
    struct seal_origin origin = origin_of(t, &in->head);
    struct seal_parts parts = parts_of(in);
    seal_write(&t->sealer, t->key_id, &origin, &parts, (uint8_t *)(out + 1));
    out->flags = (in->head.flags & RECORD_REFED) | RECORD_SEALED;
    out->kafka_key_bytes = out->headers_bytes = 0;
    out->value_bytes = (uint32_t)sealed_bytes;
}

/* Puts the original on the rejects ring. Its number there has nothing to do with the one here, which goes along. */
static enum pass original_pass(struct transform *t, const struct ring_item *item, const struct record_view *in,
                               enum record_reason reason) {
    struct ring_producer *ring = t->port.rejects;
    size_t content = (size_t)in->head.kafka_key_bytes + in->head.value_bytes + in->head.headers_bytes;
    if (t->sealing) content += SEAL_OVERHEAD;
    bool absent = sizeof in->head + content > ring_record_max(ring->capacity);
    if (absent) content = 0;
    struct record *out = ring_reserve(ring, (uint32_t)(sizeof *out + content));
    if (out == NULL) return wait_for(t, PASS_REJECTS_FULL, sizeof *out + content);
    *out = in->head;
    out->op = RECORD_REJECT;
    out->reason = (uint8_t)reason;
    out->number_origin = item->number;
    if (absent) {
        out->flags |= RECORD_CONTENT_ABSENT;
        out->kafka_key_bytes = out->value_bytes = out->headers_bytes = 0;
    } else if (t->sealing) {
        original_sealed(t, out, in, content);
    } else {
        original_plain(out, in);
    }
    ring_stage(ring, (uint32_t)(sizeof *out + content), RECORD_DATA);
    ring_aux_set(ring, AUX_LAST_ORIGIN, item->number);
    return PASS_DONE;
}

/* The original first, then the marker. The aux word tells a successor which originals are on the rejects ring already
 * although their markers were not published. */
static enum pass reject_pass(struct transform *t, const struct ring_item *item, const struct record_view *in,
                             enum record_reason reason) {
    size_t bytes = marker_bytes(t, in, RECORD_REJECT);
    bytes += content_max(t, in, bytes);
    if (!ring_has_room(t->port.out, (uint32_t)bytes)) return wait_for(t, PASS_OUT_FULL, bytes);
    if (item->number > ring_aux_get(t->port.rejects, AUX_LAST_ORIGIN)) {
        enum pass pass = original_pass(t, item, in, reason);
        if (pass != PASS_DONE) return pass;
        reject_log(t, &in->head, reason);
    }
    return marker_pass(t, item, in, RECORD_REJECT, reason);
}

/* -- one record -------------------------------------------------------------------------------- */

/* Bytes that the converted record takes at most, with its trace and without the original in it; more than a ring
 * record: REASON_TOO_LARGE. */
static size_t bytes_max(const struct transform *t, const struct record_view *in) {
    const struct converted *c = &t->converted;
    unsigned flags = t->topic[in->head.topic].value_flags;
    size_t value = c->op == RECORD_DELETE ? 0 : flags != 0 ? value_encoded_max(flags, c->value_bytes) : c->value_bytes;
    size_t trace = tracer_wants(&t->tracer, in->head.topic) ? sizeof in->trace : 0;
    return sizeof in->head + trace + c->key_bytes + c->old_key_bytes + value;
}

/* A death between the two ring_in_hand is counted against the record. */
static enum pass record_convert(struct transform *t, const struct ring_item *item, const struct record_view *in) {
    ring_in_hand(t->port.in, item->number);
    FAULT_ON_CONTENT("transform:parse", in->value, in->head.value_bytes);
    enum record_reason reason = convert(t->json, &t->topic[in->head.topic], in, &t->converted);
    size_t bytes = reason == REASON_NONE ? bytes_max(t, in) : 0;
    if (bytes > ring_record_max(t->port.out->capacity)) reason = REASON_TOO_LARGE;
    enum pass pass = reason == REASON_NONE ? record_write(t, item, in, bytes) : PASS_DONE;
    ring_in_hand(t->port.in, 0);
    return reason == REASON_NONE ? pass : reject_pass(t, item, in, reason);
}

static enum pass record_pass(struct transform *t, const struct ring_item *item, struct err *err) {
    struct record_view in;
    if (item->type != RECORD_DATA || record_open(item->body, item->len, &in) != 0 ||
        in.head.topic >= t->config->topic_count || in.head.slot >= PARTITIONS_MAX) {
        err_set(err, EX_DATAERR, "item %llu on the ring from ingest is not a record", (unsigned long long)item->number);
        return PASS_BROKEN;
    }
    const struct ledger_ingest_slot *slot = &t->port.ledger->slot[in.head.slot];
    /* Acquire pairs with ingest's release when it raises the epoch: later records were read under the new one. */
    if (in.head.epoch != atomic_load_explicit(&slot->epoch, memory_order_acquire))
        return marker_pass(t, item, &in, RECORD_SKIP, REASON_NONE);
    if (in.head.op == RECORD_SKIP || in.head.op == RECORD_REJECT) /* a marker of ingest's own */
        return marker_pass(t, item, &in, in.head.op, in.head.reason);
    if (in.head.op != RECORD_RAW) {
        err_set(err, EX_DATAERR, "record %llu from ingest has operation %s", (unsigned long long)item->number,
                record_op_name(in.head.op));
        return PASS_BROKEN;
    }
    /* It has crashed us; or the sink, and was read again for this (ingest/rewind.c). */
    if (item->number == t->reject_number || in.head.reason == REASON_CRASH)
        return reject_pass(t, item, &in, REASON_CRASH);
    return record_convert(t, item, &in);
}

/* -- the step ---------------------------------------------------------------------------------- */

static void stats_account(struct transform *t) {
    struct stats_local *local = &t->port.worker->local;
    const struct ring_producer *out = t->port.out, *rejects = t->port.rejects;
    uint64_t published = out->count.published + rejects->count.published,
             bytes = out->count.bytes + rejects->count.bytes;
    uint64_t full = out->count.full + rejects->count.full, empty = t->port.in->count.empty;
    uint64_t wakeups = out->count.wakeups + rejects->count.wakeups + t->port.in->count.wakeups;
    stats_add(local, M_worker_ring_record_publish, published - t->counted.published);
    stats_add(local, M_worker_ring_byte_publish, bytes - t->counted.bytes);
    stats_add(local, M_worker_ring_full, full - t->counted.full);
    stats_add(local, M_worker_ring_empty, empty - t->counted.empty);
    stats_add(local, M_worker_ring_wakeup, wakeups - t->counted.wakeups);
    t->counted.published = published;
    t->counted.bytes = bytes;
    t->counted.full = full;
    t->counted.empty = empty;
    t->counted.wakeups = wakeups;
}

/* The order is what a successor relies on: originals of rejects, then markers and records, then the input. What is
 * published has its digests before. */
static void flush(struct transform *t) {
    if (t->tracer.record_count > 0)
        stats_add(&t->port.worker->local, M_transform_record_altered, tracer_settle(&t->tracer));
    published_note(t);
    if (t->done_number != 0) FAULT("transform:publish");
    ring_publish(t->port.rejects);
    if (t->done_number != 0) FAULT("transform:rejects_published");
    ring_publish(t->port.out);
    if (t->done_number != 0) FAULT("transform:published");
    if (t->done_number != 0) ring_release(t->port.in, t->done_end, t->done_number);
    if (t->done_number != 0) FAULT("transform:released");
    t->done_end = t->done_number = 0;
    stats_account(t);
}

static enum step broken(struct transform *t, const char *event, const struct err *err) {
    flush(t);
    return worker_broken(t->port.worker, event, "%s", err->text);
}

/* One record from the ring. *pass says what became of it. */
static enum ring_state record_next(struct transform *t, enum pass *pass, struct err *err) {
    struct ring_item item;
    enum ring_state state = ring_peek(t->port.in, &item, err);
    if (state != RING_OK) return state;
    FAULT("transform:take");
    *pass = PASS_DONE;
    if (item.number > t->passed_on) { /* else a predecessor has passed it on, and died before it was released */
        if (item.number != t->port.out->number + 1) {
            err_set(err, EX_DATAERR, "record %llu from ingest cannot follow %llu, the last one passed on",
                    (unsigned long long)item.number, (unsigned long long)t->port.out->number);
            *pass = PASS_BROKEN;
        } else {
            *pass = record_pass(t, &item, err);
        }
    }
    if (*pass != PASS_DONE) return RING_OK;
    t->done_end = item.end;
    t->done_number = item.number;
    return RING_OK;
}

/* No room: what is staged goes out, and the record in hand is looked at again later. */
static enum step blocked(struct transform *t, enum pass pass, bool moved) {
    flush(t);
    ring_rewind(t->port.in);
    t->wait = pass == PASS_REJECTS_FULL ? WAIT_REJECTS : WAIT_OUT;
    t->wait_since_ns = clock_ns(t->port.worker->clock);
    return moved ? STEP_BUSY : STEP_BLOCKED;
}

static bool still_full(struct transform *t) {
    if (t->wait == WAIT_INPUT) return false;
    struct ring_producer *ring = t->wait == WAIT_OUT ? t->port.out : t->port.rejects;
    if (ring_has_room(ring, t->wait_bytes)) {
        t->wait = WAIT_INPUT;
        return false;
    }
    if (t->wait == WAIT_REJECTS && clock_ns(t->port.worker->clock) - t->wait_since_ns >= FULL_SHOWN_NS)
        state_show(t, STATE_BLOCKED, "rejects ring full");
    return true;
}

enum step transform_step(void *self) {
    struct transform *t = self;
    if (worker_mode(t->port.worker) == CONTROL_LEAVE) return STEP_DONE; /* what is on the rings stays there */
    if (still_full(t)) return STEP_BLOCKED;
    state_show(t, STATE_RUNNING, "");
    t->reject_number = worker_reject_number(t->port.worker);
    int records = 0;
    for (; records < TRANSFORM_BATCH; records++) {
        struct err err = {0};
        enum pass pass = PASS_DONE;
        enum ring_state state = record_next(t, &pass, &err);
        if (state == RING_EMPTY) break;
        if (state == RING_BROKEN) return broken(t, "transform.ring_broken", &err);
        if (pass == PASS_BROKEN) return broken(t, "transform.not_a_record", &err);
        if (pass != PASS_DONE) return blocked(t, pass, records > 0);
        /* A record given up is published at once: should the next one crash us too, it is that one's turn to be
         * counted. */
        if (t->done_number == t->reject_number) {
            records++;
            break;
        }
    }
    flush(t);
    return records > 0 ? STEP_BUSY : STEP_IDLE;
}

bool transform_arm(void *self) {
    struct transform *t = self;
    if (t->wait == WAIT_OUT) return ring_producer_arm(t->port.out);
    if (t->wait == WAIT_REJECTS) return ring_producer_arm(t->port.rejects);
    return ring_consumer_arm(t->port.in);
}

void transform_disarm(void *self) {
    struct transform *t = self;
    ring_producer_disarm(t->port.out);
    ring_producer_disarm(t->port.rejects);
    ring_consumer_disarm(t->port.in);
}

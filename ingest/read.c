#include <stdio.h>
#include <string.h>

#include "base/fault.h"
#include "base/log.h"
#include "ingest/ingest.h"

enum { BURST = 128 }; /* messages of one partition before the next has its turn; one publication each */

/* Pauses before a partition is read again: 100 ms, doubled up to 6.4 s; from the fifth failure on it is a state. */
enum { REFETCH_MS = 100, REFETCH_DOUBLINGS = 6, REFETCH_BLOCKED = 5 };

/* Headers in which producers put a record's id, the most specific first. */
static const char *const id_headers[] = {"millrace-id", "message-id", "ce_id"};

static void id_fill(struct record *r, const uint8_t *headers, const char *topic) {
    struct record_header h;
    for (size_t i = 0; r->headers_bytes > 0 && i < sizeof id_headers / sizeof id_headers[0]; i++)
        if (record_header_last(headers, r->headers_bytes, id_headers[i], &h) == 1 && h.value != NULL &&
            record_id_parse(r->id, h.value, h.value_bytes) == 0)
            return;
    record_id_derive(r->id, topic, r->partition, r->offset);
}

static struct record record_begin(const struct partition *p, uint32_t slot, int64_t offset, uint64_t now) {
    return (struct record){.op = RECORD_RAW,
                           .topic = (uint16_t)p->topic,
                           .slot = (uint16_t)slot,
                           .partition = p->partition,
                           .epoch = p->epoch,
                           .offset = offset,
                           .timestamp_ms = -1,
                           .ingest_ns = (int64_t)now};
}

/* Room was looked at before the message was taken, so that nothing is ever held outside the ring. */
static void put(struct lane *l, const struct record *r, const struct kafka_message *m, const uint8_t *headers) {
    uint8_t *at = ring_reserve(&l->out, (uint32_t)record_bytes(r));
    CHECK(at != NULL);
    memcpy(at, r, sizeof *r);
    FAULT_CORRUPT("ingest:record_length", at + offsetof(struct record, headers_bytes), sizeof r->headers_bytes);
    at += sizeof *r;
    if (r->kafka_key_bytes > 0) memcpy(at, m->key, r->kafka_key_bytes);
    at += r->kafka_key_bytes;
    if (r->value_bytes > 0) memcpy(at, m->value, r->value_bytes);
    at += r->value_bytes;
    if (r->headers_bytes > 0) memcpy(at, headers, r->headers_bytes);
    ring_stage(&l->out, (uint32_t)record_bytes(r), RECORD_DATA);
}

/* The ring's slot carries how far each partition of the lane has come, in the same publication as the record itself. */
static void advance(struct lane *l, struct partition *p, uint32_t slot, int64_t next) {
    p->next = next;
    ring_aux_set(&l->out, 2 * slot, p->epoch);
    ring_aux_set(&l->out, 2 * slot + 1, (uint64_t)next);
}

/* A record that no ring takes: its place is noted durably here, its content stays in Kafka, a marker goes on; with the
 * headers for audit, which tell whose record it is, when they fit. */
static bool oversize(struct ingest *g, struct lane *l, const struct record *r, const uint8_t *headers) {
    struct err err = {0};
    struct record_view view = {.head = *r};
    const char *topic = g->config->topic[r->topic].name;
    bool known = r->headers_bytes <= HEADERS_BYTES_MAX;
    bool carried = known && g->config->audit && sizeof *r + r->headers_bytes <= ring_record_max(l->out.capacity);
    if (known)
        id_fill(&view.head, headers, topic);
    else
        record_id_derive(view.head.id, topic, r->partition, r->offset);
    view.head.reason = REASON_TOO_LARGE;
    view.head.flags = RECORD_CONTENT_ABSENT | (r->flags & RECORD_REFED);
    view.head.kafka_key_bytes = view.head.value_bytes = view.head.headers_bytes = 0;
    view.kafka_key = view.value = view.headers = (const uint8_t *)"";
    uint32_t lane = (uint32_t)(l - g->lane);
    enum rejects_result stored = rejects_store_append(&g->store, lane, 0, &view, topic, &err);
    bool there = stored == REJECTS_STORED || stored == REJECTS_REPEAT; /* read again after a rewind */
    if (!there || rejects_store_sync(&g->store, &err) != 0) {
        keep_block(g, stored == REJECTS_FULL ? NULL : &err);
        return false;
    }
    struct log_at at = {topic, r->partition, r->offset};
    log_warn_at("ingest.record_oversize", &at, "larger than a ring record of %u bytes: rejected",
                ring_record_max(l->out.capacity));
    view.head.op = RECORD_REJECT;
    view.head.headers_bytes = carried ? r->headers_bytes : 0;
    put(l, &view.head, NULL, headers);
    stats_add(g->stats, M_ingest_record_oversize, 1);
    stats_add(g->stats, stored == REJECTS_STORED ? M_ingest_reject_stored : M_ingest_reject_repeat, 1);
    return true;
}

/* wall_ms -1: how old it is says nothing. */
static void read_account(struct ingest *g, const struct kafka_message *m, uint64_t bytes, int64_t wall_ms) {
    stats_add(g->stats, M_ingest_record_read, 1);
    stats_add(g->stats, M_ingest_byte_read, bytes);
    if (m->timestamp_ms >= 0 && wall_ms >= 0)
        stats_observe(g->stats, H_ingest_kafka_to_ingest,
                      wall_ms > m->timestamp_ms ? (uint64_t)(wall_ms - m->timestamp_ms) * NS_PER_MS : 0);
}

/* One message into the ring. False: nothing was done, the store has to take its reject first. */
static bool take(struct ingest *g, struct lane *l, struct partition *p, uint32_t slot, const struct kafka_message *m,
                 uint64_t now, int64_t wall_ms) {
    static uint8_t headers[HEADERS_BYTES_MAX]; /* one thread, one message at a time */
    FAULT("ingest:take");
    struct record r = record_begin(p, slot, m->offset, now);
    bool refed = m->offset < p->next;
    r.timestamp_ms = m->timestamp_ms;
    if (m->offset == p->crashed && m->timestamp_ms == p->crashed_ms) r.reason = REASON_CRASH;
    r.flags = (uint16_t)((m->key == NULL ? RECORD_KEY_NULL : 0) | (m->value == NULL ? RECORD_VALUE_NULL : 0) |
                         (refed ? RECORD_REFED : 0));
    r.kafka_key_bytes = m->key_bytes;
    r.value_bytes = m->value_bytes;
    r.headers_bytes = g->kafka.headers(g->kafka.self, m, headers, sizeof headers);
    if (r.headers_bytes > sizeof headers || record_bytes(&r) > ring_record_max(l->out.capacity)) {
        if (!oversize(g, l, &r, headers)) return false;
    } else {
        id_fill(&r, headers, g->config->topic[p->topic].name);
        put(l, &r, m, headers);
    }
    if (refed) {
        refeed_passed(g, p);
    } else {
        witness_record(p, m);
        advance(l, p, slot, m->offset + 1);
    }
    read_account(g, m, (uint64_t)r.kafka_key_bytes + r.value_bytes + r.headers_bytes, refed ? -1 : wall_ms);
    return true;
}

/* The end of a partition lies beyond its last record when what follows are control records or compacted ones. A marker
 * carries the end through the chain, so that it is committed, and noted in Redis, like everything else. */
static void end_reached(struct lane *l, struct partition *p, uint32_t slot, int64_t end, uint64_t now) {
    if (end <= p->next) return;
    struct record r = record_begin(p, slot, end - 1, now);
    r.op = RECORD_SKIP;
    put(l, &r, NULL, NULL);
    advance(l, p, slot, end);
}

void read_from(struct partition *p, int64_t next) {
    p->next = next;
    p->refeed = NULL;
    p->refetches = 0;
    p->refetch_ns = 0;
    p->gone = p->judged = false;
    p->judge_ns = 0;
    p->proof = p->last = (struct proof){0};
}

void read_again(struct partition *p, uint64_t now) {
    uint64_t pause_ms = REFETCH_MS << (p->refetches < REFETCH_DOUBLINGS ? p->refetches : REFETCH_DOUBLINGS);
    p->refetch_ns = now + pause_ms * NS_PER_MS;
    p->refetches++;
}

/* What comes next could not be read (a batch with a wrong checksum, say). The client would go on behind it; so the
 * partition is read again from here, after a pause, and nothing of it is taken before. */
static void failed(struct ingest *g, struct partition *p, const struct err *err, uint64_t now) {
    struct log_at at = ingest_at(g, p->topic, p->partition, p->next);
    stats_add(g->stats, M_ingest_kafka_error, 1);
    if (p->refeed != NULL && (err->code == 1 || p->refetches >= REFETCH_BLOCKED)) {
        refeed_ends(g, p, err->text); /* the partition shall not wait for a record that it had already */
        return;
    }
    if (err->code == 1) { /* rewind.c asks what the partition has */
        p->gone = p->waits = true;
        return;
    }
    read_again(p, now);
    log_warn_at("ingest.fetch_failed", &at, "%s; reading it again in %llu ms", err->text,
                (unsigned long long)((p->refetch_ns - now) / NS_PER_MS));
    if (p->refetches >= REFETCH_BLOCKED)
        snprintf(g->trouble, sizeof g->trouble, "%.100s[%d] cannot be read at offset %lld: %.100s", at.topic,
                 p->partition, (long long)p->next, err->text);
}

int64_t read_position(const struct ingest *g, const struct partition *p) {
    return p->refeed != NULL ? refeed_position(g, p) : p->next;
}

/* True when the partition may be read: nothing is amiss, or the client has gone back to where it was. A client that has
 * stopped reading it, for its offset was gone, begins with all partitions anew. */
static bool readable(struct ingest *g, struct partition *p, uint64_t now) {
    struct err err;
    if (p->refetch_ns == 0) return true;
    if (now < p->refetch_ns) return false;
    p->refetch_ns = now + REFETCH_MS * NS_PER_MS;
    if (g->kafka.seek(g->kafka.self, p->handle, read_position(g, p), &err) == 0)
        p->refetch_ns = 0;
    else if (err.code == 1 && !assignment_again(g, &err))
        log_warn("ingest.assign_waits", "%s", err.text);
    return p->refetch_ns == 0;
}

static void refetched(struct ingest *g, struct partition *p) {
    if (p->refetches >= REFETCH_BLOCKED) g->trouble[0] = 0;
    p->refetches = 0;
}

void read_drop_held(struct ingest *g) {
    if (g->holding) g->kafka.done(g->kafka.self, &g->held);
    g->holding = false;
}

static bool held_take(struct ingest *g, uint64_t now, int64_t wall_ms) {
    struct partition *p = &g->partition[g->held_slot];
    if (now < g->rejects_retry_ns || !take(g, &g->lane[p->lane], p, g->held_slot, &g->held, now, wall_ms)) return false;
    read_drop_held(g);
    return true;
}

static void ended(struct ingest *g, struct lane *l, uint32_t slot, int64_t end, uint64_t now) {
    struct partition *p = &g->partition[slot];
    if (p->refeed != NULL)
        refeed_ends(g, p, NULL);
    else
        end_reached(l, p, slot, end, now);
}

/* Nothing more is to be taken from its queue before the client was told to go elsewhere, or for a refeed at all. */
static bool interrupted(const struct ingest *g, const struct partition *p) {
    return p->refetch_ns != 0 || p->gone || (p->refeed != NULL && refeed_waits(g, p));
}

static bool wanted(struct ingest *g, struct partition *p, int64_t offset, uint64_t now) {
    if (p->refeed != NULL) return refeed_wants(g, p, offset, now);
    return offset >= p->next; /* else librdkafka repeated itself */
}

/* Up to BURST messages of one partition. Returns how many things its queue gave. */
static uint32_t read_partition(struct ingest *g, struct lane *l, uint32_t slot, uint64_t now, int64_t wall_ms) {
    struct partition *p = &g->partition[slot];
    struct kafka_message m;
    struct err err;
    uint32_t n = 0;
    bool stands;
    if (p->waits || (p->refeed != NULL && refeed_waits(g, p)) || !readable(g, p, now)) return 0;
    p->crashed = commit_crashed(g, slot, &p->crashed_ms, &stands);
    while (n < BURST && !g->holding && ring_has_room(&l->out, ring_record_max(l->out.capacity))) {
        enum kafka_fetch f = g->kafka.fetch(g->kafka.self, p->handle, &m, &err);
        if (f == KAFKA_NOTHING) {
            witness_read_out(p);
            break;
        }
        n++;
        if (f == KAFKA_END) ended(g, l, slot, m.offset, now);
        if (f == KAFKA_FAILED) failed(g, p, &err, now);
        if (interrupted(g, p)) break;
        if (f != KAFKA_MESSAGE) continue;
        if (p->refetches > 0) refetched(g, p);
        if (!wanted(g, p, m.offset, now) || take(g, l, p, slot, &m, now, wall_ms)) {
            g->kafka.done(g->kafka.self, &m);
            if (interrupted(g, p)) break;
            continue;
        }
        g->held = m;
        g->held_slot = slot;
        g->holding = true;
    }
    return n;
}

/* The number is noted before the ring shows it: nobody finds the next stage ahead of this one. */
static void publish(struct ingest *g, struct lane *l) {
    atomic_store_explicit(&g->worker->block->lane_published[l - g->lane], l->out.number, memory_order_release);
    if (l->out.cursor != l->out.tail) FAULT("ingest:publish");
    ring_publish(&l->out);
    if (l->out.number > 0) FAULT("ingest:published");
}

static bool read_lane(struct ingest *g, struct lane *l, uint64_t now, int64_t wall_ms) {
    uint32_t record_max = ring_record_max(l->out.capacity);
    bool busy = false;
    l->full = !ring_has_room(&l->out, record_max);
    for (uint32_t k = 0; k < l->slot_count && !l->full; k++) {
        uint32_t slot = l->slot[(l->turn + k) % l->slot_count];
        if (read_partition(g, l, slot, now, wall_ms) > 0) busy = true;
        publish(g, l);
        l->full = !ring_has_room(&l->out, record_max);
    }
    if (l->slot_count > 0) l->turn = (l->turn + 1) % l->slot_count;
    l->out.count.full += l->full;
    return busy;
}

bool read_step(struct ingest *g, bool *blocked) {
    uint64_t now = clock_ns(g->clock);
    int64_t wall_ms = clock_wall_ms(g->clock);
    bool busy = g->holding && held_take(g, now, wall_ms);
    for (uint32_t i = 0; i < g->config->lanes; i++) {
        struct lane *l = &g->lane[i];
        if (!g->holding) busy |= read_lane(g, l, now, wall_ms);
        *blocked |= l->full || g->holding;
        publish(g, l);
    }
    return busy;
}

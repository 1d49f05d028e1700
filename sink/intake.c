#include "sink/intake.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int intake_init(struct intake *in, struct ring_consumer *ring, const struct config *config,
                const struct ledger_ingest *plan, const struct marks *marks, struct err *err) {
    *in = (struct intake){.ring = ring, .config = config, .plan = plan, .marks = marks};
    uint64_t samples = 1;
    while (samples < (uint64_t)config->redis.in_flight + config->redis.batch + 1) samples <<= 1;
    in->sample_mask = samples - 1;
    in->item = calloc(config->redis.batch, sizeof *in->item);
    in->sample = calloc(samples, sizeof *in->sample);
    if (in->item != NULL && in->sample != NULL) return 0;
    intake_free(in);
    return err_set(err, ENOMEM, "no memory for a batch of %u records", config->redis.batch);
}

void intake_free(struct intake *in) {
    free(in->item);
    free(in->sample);
    in->item = NULL;
    in->sample = NULL;
}

void intake_rewind(struct intake *in) {
    ring_rewind(in->ring);
    intake_sent(in);
    in->stop = INTAKE_OPEN;
}

/* The ledger is ingest's word on which partition a slot is: a record that disagrees was not made by our transform. */
static bool head_valid(const struct intake *in, const struct record *r) {
    uint32_t slots = atomic_load_explicit(&in->plan->count, memory_order_acquire);
    if (r->slot >= slots || r->slot >= PARTITIONS_MAX || r->topic >= in->config->topic_count || r->offset < 0)
        return false;
    const struct ledger_ingest_slot *s = &in->plan->slot[r->slot];
    return s->topic == r->topic && s->partition == r->partition && r->op != RECORD_RAW;
}

static enum item_kind kind_of(const struct record *r, bool done) {
    if (r->op == RECORD_SKIP || r->op == RECORD_REJECT) return ITEM_MARKER;
    if (done) return ITEM_DONE;
    if (r->op == RECORD_DELETE) return ITEM_DELETE;
    if ((r->flags & RECORD_VALUE_FIELDS) != 0) return ITEM_HASH;
    if (r->old_key_bytes > 0) return ITEM_MOVE;
    return r->expire_at_ms != 0 ? ITEM_TIMED : ITEM_PLAIN;
}

/* What the commands of a hash take beyond its record: encode_hset, and the key twice more. */
static uint32_t list_room(const struct record *r) {
    return (r->flags & RECORD_VALUE_FIELDS) != 0 ? r->value_bytes / 2 + 2 * r->redis_key_bytes : 0;
}

/* Looks at one ring item. Returns why the intake has to stop there, INTAKE_OPEN when it need not. */
static enum intake_stop examine(struct intake *in, const struct ring_item *ring_item, struct intake_item *out) {
    struct record_view view;
    ring_in_hand(in->ring, ring_item->number);
    int r = ring_item->type == RECORD_DATA ? record_open(ring_item->body, ring_item->len, &view) : -1;
    ring_in_hand(in->ring, 0);
    if (r != 0 || !head_valid(in, &view.head)) {
        err_set(&in->err, EINVAL, "record %llu on the ring is not a record of this pipeline",
                (unsigned long long)ring_item->number);
        return INTAKE_BROKEN;
    }
    const struct record *h = &view.head;
    uint32_t epoch = atomic_load_explicit(&in->plan->slot[h->slot].epoch, memory_order_acquire);
    bool current = h->epoch == epoch, refed = (h->flags & RECORD_REFED) != 0;
    int64_t floor = marks_floor(in->marks, h->slot);
    /* Acknowledged, but a predecessor died, or the connection broke, before it was given back in the ring. Ingest may
     * have committed it since: were it sent again, and the machine went down before what follows it, the key would stay
     * at this value. That Redis still has it, the mark has shown by the time it is taken. */
    bool done = current && !refed && h->offset < floor;
    *out = (struct intake_item){.body = ring_item->body,
                                .number = ring_item->number,
                                .end = ring_item->end,
                                .next = refed || done ? floor : h->offset + 1,
                                .len = ring_item->len,
                                .room = ring_item->len + list_room(h),
                                .epoch = current ? epoch : 0,
                                .refed = refed,
                                .slot = h->slot,
                                .kind = (uint8_t)(current ? kind_of(h, done) : ITEM_MARKER)};
    in->sample[ring_item->number & in->sample_mask] =
        (struct intake_sample){.ingest_ns = out->kind == ITEM_MARKER || done ? -1 : h->ingest_ns,
                               .timestamp_ms = refed || done ? -1 : h->timestamp_ms};
    return current && !marks_checked(in->marks, h->slot, epoch) ? INTAKE_UNMARKED : INTAKE_OPEN;
}

static bool poison_stands(const struct intake *in) {
    const struct record *r = &in->poison;
    return r->topic == UINT16_MAX ||
           r->epoch == atomic_load_explicit(&in->plan->slot[r->slot].epoch, memory_order_acquire);
}

/* The record is not parsed again: its head is only copied, to say which one it is. Nothing but a marker can become of
 * it. */
static enum intake_stop poison(struct intake *in, const struct ring_item *ring_item, struct intake_item *out) {
    in->poison = (struct record){.topic = UINT16_MAX};
    if (ring_item->type != RECORD_DATA || ring_item->len < sizeof in->poison) return INTAKE_POISON;
    memcpy(&in->poison, ring_item->body, sizeof in->poison);
    if (!head_valid(in, &in->poison)) in->poison.topic = UINT16_MAX;
    *out = (struct intake_item){.body = ring_item->body,
                                .number = ring_item->number,
                                .end = ring_item->end,
                                .next = in->poison.offset + 1,
                                .len = ring_item->len,
                                .slot = in->poison.slot,
                                .kind = ITEM_MARKER};
    in->sample[ring_item->number & in->sample_mask] = (struct intake_sample){.ingest_ns = -1, .timestamp_ms = -1};
    return poison_stands(in) ? INTAKE_POISON : INTAKE_OPEN;
}

static void take(struct intake *in, const struct intake_item *item, uint64_t now_ns) {
    if (in->count == 0) in->since_ns = now_ns;
    in->item[in->count++] = *item;
    in->bytes += item->room;
}

/* Whether the record that was held for its mark may go now; when its epoch has passed meanwhile, it is a marker. */
static bool held_free(struct intake *in) {
    uint32_t epoch = atomic_load_explicit(&in->plan->slot[in->held.slot].epoch, memory_order_acquire);
    if (in->held.epoch != epoch) {
        in->held.epoch = 0;
        in->held.kind = ITEM_MARKER;
        in->sample[in->held.number & in->sample_mask].ingest_ns = -1;
        return true;
    }
    return marks_checked(in->marks, in->held.slot, epoch);
}

uint32_t intake_fill(struct intake *in, uint64_t reject_number, uint64_t now_ns) {
    uint32_t before = in->count;
    if ((in->stop == INTAKE_UNMARKED && held_free(in)) || (in->stop == INTAKE_POISON && !poison_stands(in))) {
        in->stop = INTAKE_OPEN;
        take(in, &in->held, now_ns);
    }
    while (!intake_full(in)) {
        struct ring_item ring_item;
        enum ring_state state = ring_peek(in->ring, &ring_item, &in->err);
        if (state == RING_EMPTY) break;
        if (state == RING_BROKEN)
            in->stop = INTAKE_BROKEN;
        else
            in->stop = ring_item.number == reject_number ? poison(in, &ring_item, &in->held)
                                                         : examine(in, &ring_item, &in->held);
        if (in->stop == INTAKE_OPEN) take(in, &in->held, now_ns);
    }
    return in->count - before;
}

#include "sink/account.h"

#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "shm/entry.h"

static_assert(sizeof(struct entry) <= sizeof(struct record) + sizeof(struct record_trace),
              "an entry with its content fits where the record with it did");

int account_init(struct account *a, struct ring_producer *ring, const struct ring_consumer *in,
                 const struct ledger_ingest *plan, const struct clock_port *clock, uint32_t records, struct err *err) {
    *a = (struct account){.ring = ring, .plan = plan, .clock = clock};
    if (ring == NULL) return 0;
    if (ring->capacity < in->capacity)
        return err_set(err, EX_SOFTWARE, "the audit ring is smaller than the ring from transform");
    if (ring->number < in->number_released)
        return err_set(err, EX_DATAERR, "records up to %llu were released, and the audit ring ends at %llu",
                       (unsigned long long)in->number_released, (unsigned long long)ring->number);
    uint64_t most = (atomic_load_explicit(&in->peer->tail, memory_order_acquire) - in->head) / RING_HEADER_BYTES;
    if (ring->number - in->number_released > most)
        return err_set(err, EX_DATAERR, "the audit ring ends at %llu, and records from %llu on are there to come",
                       (unsigned long long)ring->number, (unsigned long long)in->number_released + 1);
    uint64_t notes = 1;
    while (notes < (uint64_t)records + 1) notes <<= 1;
    a->note_mask = notes - 1;
    a->note = calloc(notes, sizeof *a->note);
    return a->note != NULL ? 0 : err_set(err, EX_OSERR, "no memory for notes on %u records", records);
}

void account_free(struct account *a) {
    free(a->note);
    a->note = NULL;
}

void account_sent(struct account *a, const struct intake_item *item) {
    a->note[item->number & a->note_mask] = (struct account_note){
        .body = item->body, .len = item->len, .epoch = item->epoch, .slot = item->slot, .expired = item->expired};
}

/* The wall clock only tells milliseconds; the largest offset seen is the closest, unless it is one that cannot be: then
 * the clock was set. */
static void wall_look(struct account *a) {
    int64_t low_us = clock_wall_ms(a->clock) * 1000 - (int64_t)(clock_ns(a->clock) / 1000);
    if (a->wall_offset_us < low_us || a->wall_offset_us >= low_us + 1000) a->wall_offset_us = low_us;
}

/* What was read under an epoch that has passed is read again, whether Redis has it or not. A record without a trace is
 * none that audit is to log. */
static enum entry_outcome outcome_of(const struct account *a, const struct account_note *n, const struct record *r) {
    uint32_t epoch = atomic_load_explicit(&a->plan->slot[n->slot].epoch, memory_order_acquire);
    if (n->epoch != epoch) return ENTRY_SKIPPED;
    if ((r->flags & RECORD_TRACED) == 0 || r->op == RECORD_SKIP) return ENTRY_NOTHING;
    if (r->op == RECORD_REJECT) return ENTRY_REJECTED;
    if (n->expired) return ENTRY_EXPIRED;
    return r->op == RECORD_DELETE ? ENTRY_DELETED : ENTRY_APPLIED;
}

static uint32_t flags_of(const struct record_view *v) {
    static_assert((int)ENTRY_DECLARED == (int)TRACE_DECLARED && (int)ENTRY_ALTERED == (int)TRACE_ALTERED &&
                      (int)ENTRY_CREATED == (int)TRACE_CREATED,
                  "flags of a trace are taken over");
    uint32_t flags = v->trace.flags & (ENTRY_DECLARED | ENTRY_ALTERED | ENTRY_CREATED);
    if (v->head.old_key_bytes > 0) flags |= ENTRY_KEY_CHANGED;
    if ((v->head.flags & RECORD_VALUE_FIELDS) != 0) flags |= ENTRY_HASH;
    if ((v->head.flags & RECORD_REFED) != 0) flags |= ENTRY_REFED;
    return flags;
}

static uint32_t us_after(int64_t ingest_ns, int64_t ns) {
    int64_t us = (ns - ingest_ns) / 1000;
    return us < 0 ? 0 : us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
}

static void entry_fill(const struct account *a, const struct batch *b, const struct record_view *v,
                       enum entry_outcome outcome, struct entry *e) {
    const struct record *r = &v->head;
    const struct record_trace *t = &v->trace;
    *e = (struct entry){.bytes = (uint32_t)sizeof *e,
                        .topic = r->topic,
                        .slot = r->slot,
                        .partition = r->partition,
                        .epoch = r->epoch,
                        .offset = r->offset,
                        .timestamp_ms = r->timestamp_ms,
                        .created_ms = t->created_ms,
                        .ingested_us = r->ingest_ns / 1000 + a->wall_offset_us,
                        .transformed_us = us_after(r->ingest_ns, t->transform_ns),
                        .sent_us = us_after(r->ingest_ns, (int64_t)b->sent_ns),
                        .answered_us = us_after(r->ingest_ns, (int64_t)b->answered_ns),
                        .op = r->op,
                        .outcome = (uint8_t)outcome,
                        .reason = r->reason,
                        .digest_algorithm = r->digest_algorithm,
                        .flags = flags_of(v),
                        .producer = t->producer,
                        .sequence = t->sequence,
                        .expire_at_ms = r->expire_at_ms,
                        .published_bytes = t->published_bytes,
                        .stored_bytes = t->stored_bytes};
    memcpy(e->id, r->id, sizeof e->id);
    memcpy(e->digest_key, t->digest_key, sizeof e->digest_key);
    memcpy(e->digest_old_key, t->digest_old_key, sizeof e->digest_old_key);
    memcpy(e->digest_published, r->digest_published, sizeof e->digest_published);
    memcpy(e->digest_stored, r->digest_stored, sizeof e->digest_stored);
    memcpy(e->load, t->load, sizeof e->load);
}

/* One record's entry. False: there is no room. */
static bool entry_stage(struct account *a, const struct batch *b, uint64_t number) {
    const struct account_note *n = &a->note[number & a->note_mask];
    struct record_view view = {0};
    if (n->epoch == 0) /* it counts for nothing; one that has crashed us is not parsed again */
        memcpy(&view.head, n->body, sizeof view.head);
    else
        CHECK(record_open(n->body, n->len, &view) == 0); /* examined when it was taken */
    enum entry_outcome outcome = outcome_of(a, n, &view.head);
    uint32_t content = outcome > ENTRY_SKIPPED ? view.trace.content_bytes : 0;
    struct entry *e = ring_reserve(a->ring, (uint32_t)sizeof *e + content);
    if (e == NULL) return false;
    entry_fill(a, b, &view, outcome, e);
    if (content > 0) memcpy(e + 1, view.content, content);
    e->content_bytes = content;
    e->bytes += content;
    CHECK(ring_stage(a->ring, e->bytes, RECORD_ENTRY) == number); /* one in, one out, the same number */
    return true;
}

bool account_stage(struct account *a, const struct batch *b) {
    wall_look(a);
    uint64_t number = a->ring->number < b->first ? b->first : a->ring->number + 1;
    while (number <= b->last && entry_stage(a, b, number)) number++;
    return number > b->last;
}

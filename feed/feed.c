#include "feed/feed.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>

#include "feed/uuid7.h"

enum { POLL_MS = 20, BACKOFF_MS_MIN = 500, BACKOFF_MS_MAX = 15000, SWEEP_RECORDS = 4096 };
enum { CREATED_BYTES = 24, DIGEST_TEXT_BYTES = 48 };

/* What an acknowledgement is for: a record by its n, or one of these. */
static const uint64_t tag_manifest = 1ULL << 63, tag_control = 1ULL << 62;

enum slot_state { SLOT_GONE, SLOT_SENT, SLOT_ACKNOWLEDGED };

struct slot { /* of record n at n % FEED_FLIGHT_MAX, for n in [base, next) */
    uint32_t bytes;
    uint8_t state;
};

struct taken { /* a record of the batch; its key and value are in the arena */
    struct outbox_record record;
    size_t at; /* of the key in the arena, the value behind it */
};

struct feed {
    struct feed_settings set;
    struct outbox_load *load;
    char load_id[37];
    struct manifest_load names;
    struct uuid7 uuid;
    /* The batch. */
    uint32_t count;
    uint8_t *arena;
    size_t arena_len, arena_room;
    int64_t created_ms; /* of the last record: time does not go back within a load */
    struct taken batch[FEED_BATCH_MAX];
    /* What is on its way. */
    int64_t base, next;
    uint64_t flight, flight_bytes, sweepable; /* sweepable: acknowledged, and still in the outbox */
    struct slot slot[FEED_FLIGHT_MAX];
    uint64_t acknowledged;
    /* Where records went, what the outbox does not know yet. */
    bool place_news;
    int64_t first_offset[PARTITIONS_MAX], noted_offset[PARTITIONS_MAX]; /* -1 none */
    /* Manifests. */
    struct outbox_manifest window; /* the open one; sum.count 0: none */
    bool closed_any;               /* there may be closed ones to send */
    int64_t manifest_sent;         /* n of the one on its way; 0 none */
    enum { CONTROL_NONE, CONTROL_SENT, CONTROL_DONE } control;
    /* The connection. */
    bool open;
    uint32_t failures, reconnects; /* failures: attempts in a row */
    uint64_t stall_ns;             /* when the last acknowledgement came, or when there was nothing to wait for */
    char text[MANIFEST_BYTES_MAX];
};

static struct slot *slot_of(struct feed *f, int64_t n) { return &f->slot[(uint64_t)n % FEED_FLIGHT_MAX]; }

struct feed *feed_new(const struct feed_settings *s) {
    struct feed *f = calloc(1, sizeof *f);
    CHECK(f != NULL);
    f->set = *s;
    f->uuid.clock = s->clock;
    for (int i = 0; i < PARTITIONS_MAX; i++) f->first_offset[i] = f->noted_offset[i] = -1;
    return f;
}

void feed_free(struct feed *f) {
    if (f == NULL) return;
    if (f->open) f->set.kafka->close(f->set.kafka->self);
    free(f->arena);
    free(f);
}

uint64_t feed_acknowledged(const struct feed *f) { return f->acknowledged; }
uint64_t feed_outstanding(const struct feed *f) { return f->flight + f->count; }
uint32_t feed_reconnects(const struct feed *f) { return f->reconnects; }

/* -- acknowledgements -------------------------------------------------------------------------- */

void feed_delivered(void *context, uint64_t tag, int32_t partition, int64_t offset) {
    struct feed *f = context;
    f->failures = 0;
    f->stall_ns = clock_ns(f->set.clock);
    if (tag == tag_control) f->control = CONTROL_DONE;
    if ((tag & tag_manifest) != 0 && (int64_t)(tag & ~tag_manifest) == f->manifest_sent) {
        f->manifest_sent = -f->manifest_sent; /* to be removed from the outbox */
        return;
    }
    int64_t n = (int64_t)tag;
    if (tag >= tag_control || n < f->base || n >= f->next || slot_of(f, n)->state != SLOT_SENT) return;
    struct slot *s = slot_of(f, n);
    s->state = SLOT_ACKNOWLEDGED;
    f->flight--;
    f->flight_bytes -= s->bytes;
    f->sweepable++;
    f->acknowledged++;
    if (partition < 0 || partition >= PARTITIONS_MAX) return;
    int64_t *first = &f->first_offset[partition];
    if (*first >= 0 && offset >= *first) return;
    *first = offset;
    f->place_news = true;
}

/* Takes from the outbox what was acknowledged, in runs. Within a transaction. */
static int sweep(struct feed *f, struct err *err) {
    for (int64_t n = f->base; n < f->next && f->sweepable > 0; n++) {
        if (slot_of(f, n)->state != SLOT_ACKNOWLEDGED) continue;
        int64_t from = n;
        for (; n < f->next && slot_of(f, n)->state == SLOT_ACKNOWLEDGED; n++) {
            slot_of(f, n)->state = SLOT_GONE;
            f->sweepable--;
        }
        if (outbox_remove(f->set.outbox, from, n - 1, err) != 0) return -1;
    }
    while (f->base < f->next && slot_of(f, f->base)->state == SLOT_GONE) f->base++;
    for (int32_t p = 0; p < PARTITIONS_MAX && f->place_news; p++) {
        struct manifest_place place = {p, f->first_offset[p]};
        if (place.first_offset == f->noted_offset[p]) continue;
        if (outbox_place_note(f->set.outbox, f->load->number, &place, err) != 0) return -1;
        f->noted_offset[p] = place.first_offset;
    }
    f->place_news = false;
    if (f->manifest_sent < 0) {
        if (outbox_manifest_remove(f->set.outbox, -f->manifest_sent, err) != 0) return -1;
        f->manifest_sent = 0;
    }
    return 0;
}

/* In a transaction of its own. */
static int sweep_now(struct feed *f, struct err *err) {
    if (outbox_begin(f->set.outbox, err) != 0) return -1;
    if (sweep(f, err) == 0 && outbox_commit(f->set.outbox, err) == 0) return 0;
    outbox_rollback(f->set.outbox);
    return -1;
}

/* -- sending ----------------------------------------------------------------------------------- */

static enum kafka_out_result record_send(struct feed *f, const struct outbox_record *r, struct err *err) {
    static const char *const algorithms[] = {[DIGEST_NONE] = "", [DIGEST_HMAC] = "hmac:", [DIGEST_XXH3] = "xxh3:"};
    char id[37], digest[DIGEST_TEXT_BYTES], created[CREATED_BYTES], sequence[CREATED_BYTES];
    size_t lead = strlen(algorithms[f->set.algorithm]);
    record_id_format(r->id, id);
    memcpy(digest, algorithms[f->set.algorithm], lead);
    digest_hex(r->digest, digest + lead);
    int created_len = snprintf(created, sizeof created, "%lld", (long long)r->created_ms);
    int sequence_len = snprintf(sequence, sizeof sequence, "%llu", (unsigned long long)r->sequence);
    const char *word = record_op_name((enum record_op)r->operation);
    struct kafka_out_message m = {.topic = f->load->topic,
                                  .key = r->key,
                                  .key_bytes = r->key_bytes,
                                  .value = r->value,
                                  .value_bytes = r->value_bytes,
                                  .timestamp_ms = r->created_ms,
                                  .header_count = 6,
                                  .header = {{HEADER_ID, id, 36},
                                             {HEADER_DIGEST, digest, lead + 32},
                                             {HEADER_CREATED, created, (size_t)created_len},
                                             {HEADER_LOAD, f->load_id, 36},
                                             {HEADER_PRODUCER, f->load->producer, strlen(f->load->producer)},
                                             {HEADER_SEQUENCE, sequence, (size_t)sequence_len},
                                             {f->set.operation_header, word, strlen(word)}},
                                  .tag = (uint64_t)r->n};
    if (r->operation != RECORD_RAW && f->set.operation_header[0] != 0) m.header_count = 7;
    return f->set.kafka->send(f->set.kafka->self, &m, err);
}

/* A message on the manifest topic, made in f->text. */
static enum kafka_out_result text_send(struct feed *f, size_t len, uint64_t tag, struct err *err) {
    char key[MANIFEST_KEY_BYTES];
    struct kafka_out_message m = {.topic = f->set.manifest_topic,
                                  .key = key,
                                  .key_bytes = manifest_key(&f->names, key),
                                  .value = f->text,
                                  .value_bytes = len,
                                  .timestamp_ms = clock_wall_ms(f->set.clock),
                                  .tag = tag};
    return f->set.kafka->send(f->set.kafka->self, &m, err);
}

static bool stopped(const struct feed *f) {
    return f->set.stop != NULL && atomic_load_explicit(f->set.stop, memory_order_relaxed) != 0;
}

static int stop_tell(struct err *err) { return err_set(err, EX_TEMPFAIL, "interrupted"); }

static enum kafka_out_result poll_once(struct feed *f, int ms, struct err *err) {
    enum kafka_out_result r = f->set.kafka->poll(f->set.kafka->self, ms, err);
    if (f->set.progress != NULL) f->set.progress(f->set.context);
    if (r == KAFKA_OUT_FULL) r = KAFKA_OUT_OK;
    bool waiting = f->flight > 0 || f->control == CONTROL_SENT || f->manifest_sent > 0;
    uint64_t now = clock_ns(f->set.clock);
    if (!waiting) f->stall_ns = now;
    if (r != KAFKA_OUT_OK || now - f->stall_ns < f->set.attempt_ms * NS_PER_MS) return r;
    if (err->code == 0) err_set(err, EX_UNAVAILABLE, "the broker acknowledges nothing");
    return KAFKA_OUT_BROKEN;
}

/* Sends everything of the load that is in the outbox, which is what is not acknowledged, in its order. */
static enum kafka_out_result send_again(struct feed *f, struct err *err) {
    struct outbox_record r;
    int64_t after = 0;
    int got;
    enum kafka_out_result sent = KAFKA_OUT_OK;
    f->flight = f->flight_bytes = f->sweepable = 0;
    f->base = f->next = outbox_next(f->set.outbox);
    while ((got = outbox_read(f->set.outbox, f->load->number, after, &r, err)) == 1) {
        if (after == 0) f->base = r.n;
        for (int64_t n = after == 0 ? r.n : after + 1; n < r.n; n++) slot_of(f, n)->state = SLOT_GONE;
        after = r.n;
        f->next = r.n + 1;
        if (f->next - f->base > FEED_FLIGHT_MAX) CHECK(!"the outbox has no more than could be on the way");
        *slot_of(f, r.n) = (struct slot){(uint32_t)(r.key_bytes + r.value_bytes), SLOT_SENT};
        f->flight++;
        f->flight_bytes += slot_of(f, r.n)->bytes;
        f->created_ms = r.created_ms;
        while ((sent = record_send(f, &r, err)) == KAFKA_OUT_FULL)
            if ((sent = poll_once(f, POLL_MS, err)) != KAFKA_OUT_OK) return sent;
        if (sent != KAFKA_OUT_OK) return sent;
        if (stopped(f)) return stop_tell(err), KAFKA_OUT_REFUSED;
    }
    return got < 0 ? KAFKA_OUT_REFUSED : KAFKA_OUT_OK;
}

/* -- the connection ---------------------------------------------------------------------------- */

static enum kafka_out_result connect_once(struct feed *f, struct err *err) {
    const char *topics[2] = {f->load->topic, f->set.manifest_topic};
    enum kafka_out_result r =
        f->set.kafka->open(f->set.kafka->self, topics, f->set.manifest_topic[0] != 0 ? 2 : 1, err);
    if (r != KAFKA_OUT_OK) return r;
    f->open = true;
    f->stall_ns = clock_ns(f->set.clock);
    if (f->manifest_sent > 0) f->manifest_sent = 0;
    if (f->control == CONTROL_SENT) f->control = CONTROL_NONE;
    f->closed_any = true;
    return send_again(f, err);
}

static void disconnect(struct feed *f) {
    if (f->open) f->set.kafka->close(f->set.kafka->self);
    f->open = false;
}

/* Gives up the connection, notes the attempt, and waits before the next one. -1: no more attempts. */
static int attempt_failed(struct feed *f, const struct err *why, struct err *err) {
    uint64_t ms = BACKOFF_MS_MIN;
    f->failures++;
    for (uint32_t i = 1; i < f->failures && ms < BACKOFF_MS_MAX; i++) ms *= 2;
    disconnect(f);
    if (sweep_now(f, err) != 0 ||
        outbox_failed(f->set.outbox, f->load->number, clock_wall_ms(f->set.clock) + (int64_t)ms, why->text, err) != 0)
        return -1;
    if (f->failures >= f->set.attempts)
        return err_set(err, EX_TEMPFAIL, "given up after %u attempts: %s", f->failures, why->text);
    for (uint64_t until = clock_ns(f->set.clock) + ms * NS_PER_MS; clock_ns(f->set.clock) < until;) {
        if (stopped(f)) return stop_tell(err);
        nanosleep(&(struct timespec){0, POLL_MS * 1000000}, NULL);
        if (f->set.progress != NULL) f->set.progress(f->set.context);
    }
    return 0;
}

/* Deals with what a call has come back with; connects anew as often as that takes. 0 when things go on. */
static int settle(struct feed *f, enum kafka_out_result r, struct err *why, struct err *err) {
    while (r != KAFKA_OUT_OK && r != KAFKA_OUT_FULL) {
        if (stopped(f)) return stop_tell(err);
        if (r == KAFKA_OUT_REFUSED) {
            *err = *why;
            return -1;
        }
        if (attempt_failed(f, why, err) != 0) return -1;
        *why = (struct err){0};
        f->reconnects++;
        r = connect_once(f, why);
    }
    return 0;
}

/* One look at what has come. */
static int step(struct feed *f, int ms, struct err *err) {
    struct err why = {0};
    if (stopped(f)) return stop_tell(err);
    enum kafka_out_result r = poll_once(f, ms, &why);
    if (settle(f, r, &why, err) != 0) return -1;
    return f->sweepable >= SWEEP_RECORDS || f->manifest_sent < 0 ? sweep_now(f, err) : 0;
}

/* -- manifests --------------------------------------------------------------------------------- */

/* Sends the oldest closed manifest once all its records are acknowledged. */
static int manifest_step(struct feed *f, struct err *err) {
    struct outbox_manifest m;
    struct err why = {0};
    if (!f->closed_any || f->manifest_sent != 0 || f->set.manifest_topic[0] == 0) return 0;
    int found = outbox_manifest_first(f->set.outbox, f->load->number, true, &m, err);
    if (found < 0) return -1;
    f->closed_any = found == 1;
    if (found == 1 && m.last_n >= f->base && f->sweepable > 0 && sweep_now(f, err) != 0) return -1;
    if (found == 0 || m.last_n >= f->base) return 0;
    size_t len = manifest_window(&f->names, &m.sum, f->text);
    enum kafka_out_result r = text_send(f, len, tag_manifest | (uint64_t)m.n, &why);
    if (r == KAFKA_OUT_OK) f->manifest_sent = m.n;
    return settle(f, r, &why, err);
}

/* Sends what make writes to f->text, again on each new connection, until it is acknowledged. */
static int control_send(struct feed *f, size_t len, struct err *err) {
    f->control = CONTROL_NONE;
    while (f->control != CONTROL_DONE) {
        struct err why = {0};
        if (f->control == CONTROL_NONE) {
            enum kafka_out_result r = text_send(f, len, tag_control, &why);
            if (r == KAFKA_OUT_OK) f->control = CONTROL_SENT;
            if (settle(f, r, &why, err) != 0) return -1;
        }
        if (step(f, POLL_MS, err) != 0) return -1;
    }
    f->control = CONTROL_NONE;
    return 0;
}

static int begin_send(struct feed *f, struct err *err) {
    if (f->set.manifest_topic[0] == 0 || f->load->begun) return 0;
    if (control_send(f, manifest_begin(&f->names, f->text), err) != 0) return -1;
    f->load->begun = true;
    return outbox_load_update(f->set.outbox, f->load, err);
}

int feed_begin(struct feed *f, struct outbox_load *load, struct err *err) {
    struct err why = {0};
    f->load = load;
    f->names = (struct manifest_load){.producer = load->producer,
                                      .topic = load->topic,
                                      .algorithm = f->set.algorithm,
                                      .created_ms = load->created_ms,
                                      .snapshot = load->snapshot};
    memcpy(f->names.id, load->id, sizeof load->id);
    record_id_format(load->id, f->load_id);
    f->created_ms = load->created_ms;
    if (outbox_manifest_first(f->set.outbox, load->number, false, &f->window, err) < 0) return -1;
    enum kafka_out_result r = connect_once(f, &why);
    return settle(f, r, &why, err) == 0 ? begin_send(f, err) : -1;
}

/* -- taking records ---------------------------------------------------------------------------- */

static void arena_add(struct feed *f, const void *data, size_t len) {
    if (f->arena_room - f->arena_len < len) {
        while (f->arena_room - f->arena_len < len) f->arena_room = f->arena_room == 0 ? 1 << 20 : 2 * f->arena_room;
        f->arena = realloc(f->arena, f->arena_room);
        CHECK(f->arena != NULL);
    }
    if (len > 0) memcpy(f->arena + f->arena_len, data, len);
    f->arena_len += len;
}

int feed_put(struct feed *f, const struct feed_record *r) {
    int64_t now = clock_wall_ms(f->set.clock);
    if (now < f->created_ms) now = f->created_ms;
    if (f->count == FEED_BATCH_MAX || f->arena_len > FEED_BATCH_BYTES_MAX) return 0;
    if (f->count > 0 && now / (int64_t)f->set.window_ms != f->created_ms / (int64_t)f->set.window_ms)
        return 0; /* a batch is of one window */
    struct taken *t = &f->batch[f->count++];
    t->record = (struct outbox_record){.created_ms = now,
                                       .operation = r->operation,
                                       .key = r->key,
                                       .value = r->value,
                                       .key_bytes = r->key_bytes,
                                       .value_bytes = r->value_bytes};
    f->created_ms = now;
    uuid7_make(&f->uuid, now, t->record.id);
    if (r->value != NULL) digest_of(f->set.digest, f->set.algorithm, r->value, r->value_bytes, t->record.digest);
    t->at = f->arena_len;
    arena_add(f, r->key, r->key_bytes);
    arena_add(f, r->value, r->value_bytes);
    return 1;
}

static int window_add(struct feed *f, struct err *err) {
    struct outbox_manifest *w = &f->window;
    if (f->set.manifest_topic[0] == 0 || f->count == 0) return 0;
    if (!manifest_has(&w->sum, f->batch[0].record.created_ms)) {
        w->closed = true;
        f->closed_any = true;
        if (outbox_manifest_put(f->set.outbox, f->load->number, w, err) != 0) return -1;
        *w = (struct outbox_manifest){0};
    }
    for (uint32_t i = 0; i < f->count; i++) {
        const struct outbox_record *r = &f->batch[i].record;
        manifest_add(&w->sum, r->created_ms, f->set.window_ms, r->sequence, r->value_bytes, r->digest);
    }
    w->last_n = f->batch[f->count - 1].record.n;
    return outbox_manifest_put(f->set.outbox, f->load->number, w, err);
}

/* The sums of the whole load; its window is not one. */
static void load_add(struct manifest *sum, const struct outbox_record *r) {
    if (sum->count == 0) sum->first_sequence = r->sequence;
    sum->last_sequence = r->sequence;
    sum->count++;
    sum->bytes += r->value_bytes;
    digest_sum_add(sum->digest_sum, r->digest);
}

static int batch_store(struct feed *f, struct err *err) {
    uint64_t sequence = 0;
    int64_t n = outbox_next(f->set.outbox);
    if (sweep(f, err) != 0) return -1;
    if (f->count > 0 &&
        outbox_sequence(f->set.outbox, f->load->producer, f->load->topic, f->count, &sequence, err) != 0)
        return -1;
    for (uint32_t i = 0; i < f->count; i++) {
        struct outbox_record *r = &f->batch[i].record;
        r->n = n + i;
        r->sequence = sequence + i;
        if (r->key != NULL) r->key = f->arena + f->batch[i].at;
        if (r->value != NULL) r->value = f->arena + f->batch[i].at + r->key_bytes;
        if (outbox_put(f->set.outbox, f->load->number, r, err) != 0) return -1;
        load_add(&f->load->sum, r);
    }
    return window_add(f, err) == 0 ? outbox_load_update(f->set.outbox, f->load, err) : -1;
}

/* From here on the records are to be sent, whatever happens. */
static int batch_send(struct feed *f, struct err *err) {
    struct err why = {0};
    enum kafka_out_result r = KAFKA_OUT_OK;
    if (f->base == f->next && f->count > 0) f->base = f->next = f->batch[0].record.n;
    for (int64_t n = f->next; f->count > 0 && n < f->batch[0].record.n; n++) slot_of(f, n)->state = SLOT_GONE;
    for (uint32_t i = 0; i < f->count; i++) {
        const struct outbox_record *record = &f->batch[i].record;
        *slot_of(f, record->n) = (struct slot){(uint32_t)(record->key_bytes + record->value_bytes), SLOT_SENT};
        f->next = record->n + 1;
        f->flight++;
        f->flight_bytes += slot_of(f, record->n)->bytes;
        while ((r = record_send(f, record, &why)) == KAFKA_OUT_FULL)
            if ((r = poll_once(f, POLL_MS, &why)) != KAFKA_OUT_OK) break;
        if (r != KAFKA_OUT_OK) break;
    }
    f->count = 0;
    f->arena_len = 0;
    return settle(f, r, &why, err); /* a new connection sends all that is in the outbox, the rest of the batch too */
}

int feed_commit(struct feed *f, struct err *err) {
    int ms = 0; /* what has come already is taken without waiting */
    do {
        if (step(f, ms, err) != 0 || manifest_step(f, err) != 0) return -1;
        if (f->next - f->base > FEED_FLIGHT_MAX - FEED_BATCH_MAX && f->sweepable > 0 && sweep_now(f, err) != 0)
            return -1;
        ms = POLL_MS;
    } while (f->next - f->base > FEED_FLIGHT_MAX - FEED_BATCH_MAX || f->flight_bytes > FEED_FLIGHT_BYTES_MAX);
    if (outbox_begin(f->set.outbox, err) != 0) return -1;
    if (batch_store(f, err) != 0 || outbox_commit(f->set.outbox, err) != 0) {
        outbox_rollback(f->set.outbox);
        return -1;
    }
    return batch_send(f, err);
}

int feed_wait(struct feed *f, uint32_t ms, struct err *err) {
    uint64_t until = clock_ns(f->set.clock) + ms * NS_PER_MS;
    do {
        if (step(f, POLL_MS, err) != 0 || manifest_step(f, err) != 0) return -1;
    } while (clock_ns(f->set.clock) < until);
    return 0;
}

/* -- the end ----------------------------------------------------------------------------------- */

/* Waits until all is acknowledged and nothing of it is in the outbox. */
static int drain(struct feed *f, struct err *err) {
    while (f->base < f->next) {
        if (f->sweepable > 0 && f->flight == 0 && sweep_now(f, err) != 0) return -1;
        if (f->base < f->next && step(f, POLL_MS, err) != 0) return -1;
    }
    return 0;
}

static int manifests_send(struct feed *f, struct err *err) {
    if (f->window.sum.count > 0) {
        f->window.closed = true;
        if (outbox_manifest_put(f->set.outbox, f->load->number, &f->window, err) != 0) return -1;
        f->window = (struct outbox_manifest){0};
    }
    f->closed_any = true;
    while (f->closed_any || f->manifest_sent != 0) {
        if (manifest_step(f, err) != 0) return -1;
        if (f->manifest_sent != 0 && step(f, POLL_MS, err) != 0) return -1;
    }
    return 0;
}

static int end_send(struct feed *f, bool complete, struct err *err) {
    static struct manifest_place places[PARTITIONS_MAX];
    int n = outbox_places(f->set.outbox, f->load->number, places, PARTITIONS_MAX, err);
    if (n < 0) return -1;
    const struct manifest_place *place = places;
    for (; n > MANIFEST_PLACES_MAX; place += MANIFEST_PLACES_MAX, n -= MANIFEST_PLACES_MAX)
        if (control_send(f, manifest_places(&f->names, place, MANIFEST_PLACES_MAX, f->text), err) != 0) return -1;
    return control_send(f, manifest_end(&f->names, &f->load->sum, complete, place, (size_t)n, f->text), err);
}

int feed_finish(struct feed *f, bool complete, struct err *err) {
    f->load->state = complete ? OUTBOX_SENDING : OUTBOX_ENDING;
    if (feed_commit(f, err) != 0 || drain(f, err) != 0) return -1;
    if (f->set.manifest_topic[0] != 0 && (manifests_send(f, err) != 0 || end_send(f, complete, err) != 0)) return -1;
    f->load->state = complete ? OUTBOX_COMPLETE : OUTBOX_ABORTED;
    if (outbox_load_update(f->set.outbox, f->load, err) != 0) return -1;
    disconnect(f);
    return 0;
}

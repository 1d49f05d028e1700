#include "transform/trace.h"

#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

enum { JOBS_PER_RECORD = 3 };

int tracer_init(struct tracer *t, const struct config *config, const struct audit_keys *keys, struct err *err) {
    *t = (struct tracer){.config = config};
    if (!config->audit) return 0;
    if (keys == NULL) return err_set(err, EX_CONFIG, "audit is on and recon.keys names no key file");
    t->field = calloc(HASH_FIELDS_MAX, sizeof *t->field);
    t->job = calloc(JOBS_PER_RECORD * TRACE_UNSETTLED_MAX, sizeof *t->job);
    t->record = calloc(TRACE_UNSETTLED_MAX, sizeof *t->record);
    if (t->field == NULL || t->job == NULL || t->record == NULL) {
        tracer_free(t);
        return err_set(err, EX_OSERR, "no memory for the digests of records");
    }
    digest_key_init(&t->key, keys->digest);
    return 0;
}

void tracer_free(struct tracer *t) {
    free(t->field);
    free(t->job);
    free(t->record);
    t->field = NULL;
    t->job = NULL;
    t->record = NULL;
    digest_key_clear(&t->key);
}

/* -- headers ----------------------------------------------------------------------------------- */

struct declared {
    enum digest_algorithm algorithm;
    uint8_t digest[DIGEST_BYTES];
};

/* A decimal number in [0, max], digits only. */
static bool decimal(const struct record_header *h, uint64_t max, uint64_t *out) {
    uint64_t n = 0;
    if (h->value == NULL || h->value_bytes == 0 || h->value_bytes > 20) return false;
    for (uint32_t i = 0; i < h->value_bytes; i++) {
        unsigned digit = (unsigned)h->value[i] - '0';
        if (digit > 9 || n > (max - digit) / 10) return false;
        n = n * 10 + digit;
    }
    *out = n;
    return true;
}

static bool read_digest(const struct record_header *h, struct record_trace *trace, struct declared *d) {
    trace->flags &= ~(uint32_t)TRACE_DECLARED;
    d->algorithm = h->value != NULL ? digest_header_parse(d->digest, h->value, h->value_bytes) : DIGEST_NONE;
    if (d->algorithm == DIGEST_NONE) return false;
    trace->flags |= TRACE_DECLARED;
    return true;
}

static bool read_created(const struct record_header *h, struct record_trace *trace, int64_t kafka_ms) {
    uint64_t ms;
    bool good = decimal(h, CREATED_MS_MAX, &ms);
    trace->created_ms = good ? (int64_t)ms : kafka_ms;
    trace->flags = good ? trace->flags | TRACE_CREATED : trace->flags & ~(uint32_t)TRACE_CREATED;
    return good;
}

static bool read_load(const struct record_header *h, struct record_trace *trace) {
    static const uint8_t none[sizeof trace->load];
    bool good = h->value != NULL && record_id_parse(trace->load, h->value, h->value_bytes) == 0 &&
                memcmp(trace->load, none, sizeof none) != 0;
    if (!good) memset(trace->load, 0, sizeof trace->load);
    return good;
}

static bool read_producer(const struct record_header *h, struct record_trace *trace) {
    trace->producer = 0;
    if (h->value == NULL || h->value_bytes == 0 || h->value_bytes >= NAME_BYTES) return false;
    for (uint32_t i = 0; i < h->value_bytes; i++)
        if (h->value[i] < 0x20 || h->value[i] == 0x7f) return false;
    trace->producer = record_producer_hash(h->value, h->value_bytes);
    return true;
}

static bool read_sequence(const struct record_header *h, struct record_trace *trace) {
    bool good = decimal(h, UINT64_MAX, &trace->sequence) && trace->sequence != 0;
    if (!good) trace->sequence = 0;
    return good;
}

/* The id was read by ingest, which derives one in place of what is not a UUID. */
static bool id_good(const struct record_header *h) {
    uint8_t id[16];
    return h->value != NULL && record_id_parse(id, h->value, h->value_bytes) == 0;
}

static bool named(const struct record_header *h, const char *name, size_t len) {
    return h->name_bytes == len && memcmp(h->name, name, len) == 0;
}
#define NAMED(h, name) named(h, name, sizeof(name) - 1)

/* Of headers of one name the last counts. Returns how many were malformed. */
static uint32_t headers_read(const struct record_view *in, struct record_trace *trace, struct declared *d) {
    struct record_header h;
    size_t at = 0;
    uint32_t malformed = 0;
    int more;
    while ((more = record_header_next(in->headers, in->head.headers_bytes, &at, &h)) == 1) {
        bool good = true;
        if (NAMED(&h, HEADER_ID))
            good = id_good(&h);
        else if (NAMED(&h, HEADER_DIGEST))
            good = read_digest(&h, trace, d);
        else if (NAMED(&h, HEADER_CREATED))
            good = read_created(&h, trace, in->head.timestamp_ms);
        else if (NAMED(&h, HEADER_LOAD))
            good = read_load(&h, trace);
        else if (NAMED(&h, HEADER_PRODUCER))
            good = read_producer(&h, trace);
        else if (NAMED(&h, HEADER_SEQUENCE))
            good = read_sequence(&h, trace);
        malformed += !good;
    }
    CHECK(more == 0); /* ingest wrote them */
    return malformed;
}

/* -- digests ----------------------------------------------------------------------------------- */

static enum digest_algorithm algorithm_of(const struct config_topic *topic) {
    if (topic->reconcile == RECONCILE_CHECKSUM) return DIGEST_XXH3;
    return topic->reconcile >= RECONCILE_DIGEST ? DIGEST_HMAC : DIGEST_NONE;
}

static void job_add(struct tracer *t, const void *data, size_t len, uint8_t out[DIGEST_BYTES]) {
    CHECK(t->job_count < JOBS_PER_RECORD * TRACE_UNSETTLED_MAX);
    t->job[t->job_count++] = (struct digest_job){data, len, out};
}

/* A record without value has the digest of zeros, and that is what its producer may declare. */
static bool has_value(const struct record_view *in) {
    return (in->head.flags & (RECORD_VALUE_NULL | RECORD_CONTENT_ABSENT)) == 0;
}

static void altered_note(struct tracer *t, struct record_trace *trace) {
    trace->flags |= TRACE_ALTERED;
    t->altered++;
}

/* The declared digest, where it is of another kind than the topic's own and has to be computed for its own sake. */
static void declared_compare(struct tracer *t, const struct record_view *in, const struct declared *d,
                             struct record_trace *trace) {
    uint8_t own[DIGEST_BYTES];
    digest_of(&t->key, has_value(in) ? d->algorithm : DIGEST_NONE, in->value, in->head.value_bytes, own);
    if (memcmp(own, d->digest, sizeof own) != 0) altered_note(t, trace);
}

uint32_t trace_original(struct tracer *t, const struct record_view *in, struct record *out,
                        struct record_trace *trace) {
    struct declared d = {.algorithm = DIGEST_NONE};
    bool there = (in->head.flags & RECORD_CONTENT_ABSENT) == 0;
    *trace = (struct record_trace){.created_ms = in->head.timestamp_ms};
    uint32_t malformed = headers_read(in, trace, &d);
    trace->published_bytes = in->head.flags & RECORD_VALUE_NULL ? RECORD_BYTES_NULL : in->head.value_bytes;
    out->digest_algorithm = (uint8_t)(there ? algorithm_of(&t->config->topic[in->head.topic]) : DIGEST_NONE);
    memset(out->digest_published, 0, sizeof out->digest_published);
    memset(out->digest_stored, 0, sizeof out->digest_stored);
    CHECK(t->record_count < TRACE_UNSETTLED_MAX);
    struct trace_unsettled *u = &t->record[t->record_count++];
    *u = (struct trace_unsettled){.out = out, .trace = trace};
    if (has_value(in) && out->digest_algorithm == DIGEST_HMAC)
        job_add(t, in->value, in->head.value_bytes, out->digest_published);
    else if (has_value(in))
        digest_of(NULL, out->digest_algorithm, in->value, in->head.value_bytes, out->digest_published);
    if (d.algorithm == DIGEST_NONE || !there) return malformed;
    u->declared = d.algorithm == out->digest_algorithm;
    memcpy(u->digest, d.digest, sizeof u->digest);
    if (!u->declared) declared_compare(t, in, &d, trace);
    return malformed;
}

static void list_digest(const struct tracer *t, enum digest_algorithm algorithm, const struct converted *c,
                        uint8_t out[DIGEST_BYTES]) {
    struct record_field f;
    size_t at = RECORD_FIELDS_HEAD, n = 0;
    while (record_field_next(c->value, c->value_bytes, &at, &f) == 1) {
        CHECK(n < HASH_FIELDS_MAX);
        t->field[n++] = (struct digest_field){f.name, f.value, f.name_bytes, f.value_bytes};
    }
    digest_of_fields(&t->key, algorithm, t->field, n, out);
}

void trace_converted(struct tracer *t, const struct record_view *in, const struct converted *c, bool list,
                     const uint8_t *keys, struct record *out, struct record_trace *trace) {
    struct trace_unsettled *u = &t->record[t->record_count - 1];
    CHECK(t->record_count > 0 && u->trace == trace);
    job_add(t, keys, c->key_bytes, trace->digest_key);
    if (c->old_key_bytes > 0) job_add(t, keys + c->key_bytes, c->old_key_bytes, trace->digest_old_key);
    if (c->op == RECORD_DELETE) return;
    trace->stored_bytes = c->value_bytes;
    u->same_stored = !list && c->value == in->value && c->value_bytes == in->head.value_bytes;
    if (list)
        list_digest(t, out->digest_algorithm, c, out->digest_stored);
    else if (!u->same_stored)
        digest_of(&t->key, out->digest_algorithm, c->value, c->value_bytes, out->digest_stored);
}

uint32_t tracer_settle(struct tracer *t) {
    digest_of_many(&t->key, t->job, t->job_count);
    for (size_t i = 0; i < t->record_count; i++) {
        const struct trace_unsettled *u = &t->record[i];
        if (u->declared && memcmp(u->digest, u->out->digest_published, sizeof u->digest) != 0)
            altered_note(t, u->trace);
        if (u->same_stored) memcpy(u->out->digest_stored, u->out->digest_published, sizeof u->out->digest_stored);
    }
    uint32_t altered = t->altered;
    t->job_count = t->record_count = t->altered = 0;
    return altered;
}

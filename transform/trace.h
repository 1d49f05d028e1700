/* What transform tells the audit log of a record, with `audit: on`: what its producer wrote in its headers, and digests
 * of the value as it was published, of the value to be stored and of the Redis keys.
 *
 *   reconcile    off   counts   checksum   digest   full
 *   keys         -     HMAC     HMAC       HMAC     HMAC
 *   values       -     -        XXH3       HMAC     HMAC
 *
 * A digest that a producer declared is compared whatever the topic's own algorithm is. Depends on the record and the
 * configuration alone: a repeat comes out the same.
 *
 * HMACs are not computed at once but by tracer_settle, those of many records together, which is faster: until then the
 * record that was read and the one that was written stay where they are, and nobody else sees the latter. */
#ifndef MILLRACE_TRANSFORM_TRACE_H
#define MILLRACE_TRANSFORM_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/audit_keys.h"
#include "base/config.h"
#include "base/digest.h"
#include "shm/record.h"
#include "transform/convert.h"

/* Event times beyond the year 9999 and before 1970 are mistakes: no window could hold them. */
#define CREATED_MS_MAX 253402300799999LL

enum { TRACE_UNSETTLED_MAX = 256 }; /* records between two tracer_settle */

struct trace_unsettled { /* a record whose digests are not all there */
    struct record *out;
    struct record_trace *trace;
    bool declared;    /* `digest` is to be compared with that of the published value */
    bool same_stored; /* what is stored is what was published */
    uint8_t digest[DIGEST_BYTES];
};

struct tracer {
    const struct config *config;
    struct digest_key key;
    struct digest_field *field;     /* HASH_FIELDS_MAX of them, for the digest of a hash; NULL: audit is off */
    struct digest_job *job;         /* value, key and old key of each of: */
    struct trace_unsettled *record; /* TRACE_UNSETTLED_MAX */
    size_t job_count, record_count;
    uint32_t altered; /* records since the last tracer_settle that are not what was declared, as far as it is known */
};

/* tracer_init prepares for config, which must outlive it; keys: the digest key (AUDIT_KEY_DIGEST), NULL with audit off.
 * The keys are not needed afterwards. Allocates. Returns 0, or -1 with err (EX_OSERR, or EX_CONFIG: audit is on and
 * there are no keys). */
int tracer_init(struct tracer *t, const struct config *config, const struct audit_keys *keys, struct err *err);

/* tracer_free wipes. */
void tracer_free(struct tracer *t);

/* tracer_wants: whether records of the topic get a trace. */
static inline bool tracer_wants(const struct tracer *t, uint32_t topic) {
    return t->field != NULL && t->config->topic[topic].reconcile != RECONCILE_OFF;
}

/* trace_original fills *trace, and digest_published and digest_algorithm of *out, with what is known of the record as
 * it was read, an original of ingest's (its markers of records that are too large included). All else in *trace is
 * zero. out must not be in->head. Returns how many headers of its producer were malformed; such a one counts as absent.
 * At most TRACE_UNSETTLED_MAX times between two tracer_settle. None of these three allocates. */
uint32_t trace_original(struct tracer *t, const struct record_view *in, struct record *out, struct record_trace *trace);

/* trace_converted, right after trace_original of the same record, adds what is to be stored: digests of keys and value.
 * `list`: the value is a list of fields. keys: where the key and behind it the old key were written. */
void trace_converted(struct tracer *t, const struct record_view *in, const struct converted *c, bool list,
                     const uint8_t *keys, struct record *out, struct record_trace *trace);

/* tracer_settle completes the digests of all records since the last one, and TRACE_ALTERED of their traces. Returns how
 * many were altered. */
uint32_t tracer_settle(struct tracer *t);

#endif

/* Transform: takes each record of its lane from ingest, gives it its Redis keys and stored value, and passes it on
 * under the same number; what cannot be handled becomes a marker, and its original goes back to ingest over the rejects
 * ring. */
#ifndef MILLRACE_TRANSFORM_TRANSFORM_H
#define MILLRACE_TRANSFORM_TRANSFORM_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/keys.h"
#include "shm/ledger.h"
#include "shm/ring.h"
#include "shm/worker.h"
#include "transform/convert.h"
#include "transform/trace.h"
#include "transform/value.h"
#include "transform/xaes.h"

enum { TRANSFORM_BATCH = 256 }; /* records between two publications */
static_assert((int)TRANSFORM_BATCH <= (int)TRACE_UNSETTLED_MAX, "a step's traces are settled together");

struct transform_ports {
    struct worker *worker;
    struct ring_consumer *in;      /* from ingest */
    struct ring_producer *out;     /* to the sink */
    struct ring_producer *rejects; /* to ingest; at least one aux word: the origin of the last reject */
    const struct ledger_ingest *ledger;
};

enum transform_wait { WAIT_INPUT, WAIT_OUT, WAIT_REJECTS };

struct transform {
    struct transform_ports port;
    const struct config *config;
    struct json *json;
    struct xaes_sealer sealer;
    struct value_encoder encoder;
    struct tracer tracer;
    bool sealing;           /* keys are configured: originals of rejects are sealed */
    uint32_t key_id;        /* of the sealer */
    uint64_t passed_on;     /* number that a predecessor published last: input up to it is released without effect */
    uint64_t reject_number; /* to be rejected as `crash`; 0 none */
    uint64_t done_end, done_number; /* behind the last record dealt with, to be released; 0: nothing */
    enum transform_wait wait;
    uint32_t wait_bytes; /* room that is waited for */
    uint64_t wait_since_ns;
    enum worker_state shown; /* state published last */
    struct {
        uint64_t published, bytes, full, empty, wakeups;
    } counted; /* of the rings' counts, what is in the stats already */
    struct converted converted;
    struct convert_topic topic[TOPICS_MAX];
};

/* transform_init prepares the body on attached rings; allocates all it will ever need. keys may be NULL: then no topic
 * may want encryption, nor `reconcile: full`. audit: the digest key (AUDIT_KEY_DIGEST); NULL with audit off. Neither is
 * needed afterwards.
 * Returns 0, or -1 with err.code EX_CONFIG (templates, a key that is missing), EX_OSERR or EX_SOFTWARE. */
int transform_init(struct transform *t, const struct transform_ports *ports, const struct keys *keys,
                   const struct audit_keys *audit, struct err *err);
void transform_fini(struct transform *t);

/* The body, for worker_run (shm/worker.h); self is the struct transform. One step deals with at most TRANSFORM_BATCH
 * records; when it returns, everything it dealt with is published and released. */
enum step transform_step(void *self);
bool transform_arm(void *self);
void transform_disarm(void *self);

#endif

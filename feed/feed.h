/* A producer that can prove what it has published: every record gets an id, a digest, its time and a sequence of its
 * producer and topic (HEADER_* of shm/record.h), is in the outbox before it is sent and until it is acknowledged, and
 * is summed up in manifests.
 *
 * One load at a time, by one thread:
 *
 *     feed_new                        of a new load, or of one that was interrupted: sends what the outbox still has
 *     feed_put, …, feed_commit        again and again
 *     feed_finish
 *     feed_free
 *
 * A connection that breaks is made anew, and what was not acknowledged is sent again in the old order, under the same
 * ids and sequences; so a record may be in Kafka twice, and none is missing. After `attempts` in a row without a single
 * acknowledgement, feed_commit and feed_finish give up with EX_TEMPFAIL; everything stays in the outbox.
 *
 * Functions return 0, or -1 with err: EX_TEMPFAIL as above, or when *stop was set; EX_UNAVAILABLE or EX_CONFIG what
 * trying again cannot mend (no such topic, no permission, a message too large for the broker); EX_IOERR the outbox. All
 * of them are final for this struct feed; the load can be resumed. */
#ifndef MILLRACE_FEED_FEED_H
#define MILLRACE_FEED_FEED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/digest.h"
#include "feed/kafka_out.h"
#include "feed/outbox.h"
#include "shm/record.h"

enum {
    FEED_FLIGHT_MAX = 65536,          /* records in the outbox that are not acknowledged */
    FEED_BATCH_MAX = 4096,            /* records between two commits */
    FEED_BATCH_BYTES_MAX = 4 << 20,   /* of their keys and values; one record may be larger */
    FEED_FLIGHT_BYTES_MAX = 64 << 20, /* of those not acknowledged, but for the last batch */
};

struct feed_settings {
    const struct clock_port *clock;
    const struct kafka_out *kafka; /* made by kafka_out_new with feed_delivered and the struct feed; or one of a test */
    struct outbox *outbox;
    const char *operation_header;    /* of the topic; "" none */
    const char *manifest_topic;      /* "" none: no manifests */
    enum digest_algorithm algorithm; /* DIGEST_HMAC or DIGEST_XXH3 */
    const struct digest_key *digest; /* of DIGEST_HMAC, else NULL */
    uint64_t window_ms;
    uint32_t attempts;               /* > 0 */
    uint32_t attempt_ms;             /* without an acknowledgement, after which an attempt has failed */
    const _Atomic int *stop;         /* other than 0: give up as soon as it is safe */
    void (*progress)(void *context); /* called now and then, or NULL; may look at feed_acknowledged */
    void *context;
};

struct feed_record {         /* copied by feed_put */
    const void *key, *value; /* NULL: null */
    size_t key_bytes, value_bytes;
    enum record_op operation; /* RECORD_ADD, _UPDATE or _DELETE, for operation_header; RECORD_RAW none */
};

struct feed;

/* feed_new allocates. *s is copied, what it points to is not. */
struct feed *feed_new(const struct feed_settings *s);
void feed_free(struct feed *f);

/* The callback to give to kafka_out_new; context is the struct feed. */
kafka_out_delivered feed_delivered;

/* feed_begin starts *load, which is in the outbox: sends its load_begin unless that was done, and what the outbox has
 * of it. The caller keeps *load, and changes only its position, line, skipped and oversized from now on. */
int feed_begin(struct feed *f, struct outbox_load *load, struct err *err);

/* feed_put takes one record. 1: taken; 0: not taken, feed_commit first. Cannot fail. */
int feed_put(struct feed *f, const struct feed_record *r);

/* feed_commit makes what was put durable, with the load's position as it is then, and sends it. Blocks while too many
 * are not acknowledged. */
int feed_commit(struct feed *f, struct err *err);

/* feed_wait lets at least ms pass, taking acknowledgements meanwhile. */
int feed_wait(struct feed *f, uint32_t ms, struct err *err);

/* feed_finish commits, waits until all is acknowledged, and sends the manifests that are left and load_end; complete
 * tells which. The load's state is OUTBOX_COMPLETE or OUTBOX_ABORTED then. */
int feed_finish(struct feed *f, bool complete, struct err *err);

/* Records of this load acknowledged since feed_begin; those taken and not acknowledged; connections made anew. */
uint64_t feed_acknowledged(const struct feed *f);
uint64_t feed_outstanding(const struct feed *f);
uint32_t feed_reconnects(const struct feed *f);

#endif

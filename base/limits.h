/* Every limit of the product in one place, with the relations between them asserted.
 * A limit is never exceeded silently: the code that meets one reports it by name. */
#ifndef MILLRACE_BASE_LIMITS_H
#define MILLRACE_BASE_LIMITS_H

#include <assert.h>

enum {
    LANES_MAX = 16,            /* lanes of one instance */
    TOPICS_MAX = 64,           /* topics of one instance */
    PARTITIONS_MAX = 1024,     /* (topic, partition) pairs one instance has ever been assigned */
    KAFKA_PROPERTIES_MAX = 64, /* librdkafka properties in one configuration */
    WORKERS_MAX = 3 + 2 * LANES_MAX, /* ingest, a transform and a sink per lane, audit, recon */

    NAME_BYTES = 64,      /* instance, group and metric names, with the final NUL */
    TOPIC_BYTES = 256,    /* Kafka allows 249 characters in a topic name */
    PATH_BYTES = 512,     /* configured paths, with the final NUL */
    TEMPLATE_BYTES = 512, /* key templates as written, with the final NUL */
    VALUE_BYTES = 1024,   /* values of librdkafka properties, with the final NUL */
    SECRET_BYTES = 256,   /* passwords, with the final NUL */

    REDIS_KEY_BYTES_MAX = 4096, /* a templated key longer than this is rejected */
    HEADERS_BYTES_MAX = 65536,  /* all headers of one record, encoded */
    BATCH_MAX = 4096,           /* records in one batch to Redis */
    IN_FLIGHT_MAX = 16384,      /* records sent to Redis and not answered, per lane */
    JSON_DEPTH_MAX = 64,        /* nesting of a JSON record */
    CRYPTO_KEYS_MAX = 64,       /* key ids in one key file */
    HASH_FIELDS_MAX = 4096,     /* top-level names of a record that is stored as a hash, nulls included */

    WAIT_MS_MAX = 100, /* no worker sleeps longer, so a lost wake-up costs at most this */
};

#define RING_BYTES_MIN (1UL << 20)
#define RING_BYTES_MAX (1UL << 30)
#define RING_RECORD_SHARE 8 /* a record takes at most 1/8 of its ring */

static_assert((RING_BYTES_MIN & (RING_BYTES_MIN - 1)) == 0, "ring sizes are powers of two");
static_assert((RING_BYTES_MAX & (RING_BYTES_MAX - 1)) == 0, "ring sizes are powers of two");
static_assert(RING_BYTES_MIN / RING_RECORD_SHARE >= HEADERS_BYTES_MAX + 2 * REDIS_KEY_BYTES_MAX + 4096,
              "the smallest ring takes a record with the longest keys and headers");
static_assert(BATCH_MAX <= IN_FLIGHT_MAX, "at least one batch is in flight");

#endif

/* The port through which records leave for Kafka, and the real one over librdkafka: an idempotent producer, acks=all,
 * the partitioner of the Java clients (murmur2_random), properties from the configuration.
 *
 * A message is either delivered, or the whole connection is given up (KAFKA_OUT_BROKEN): the library itself tries again
 * for as long as it is open and never gives up a single message, because a later one of the same key would pass it. For
 * the same reason nothing counts as delivered any more behind a message of which that is not known for certain. */
#ifndef MILLRACE_FEED_KAFKA_OUT_H
#define MILLRACE_FEED_KAFKA_OUT_H

#include <stddef.h>
#include <stdint.h>

#include "base/config.h"
#include "base/err.h"

enum { KAFKA_OUT_HEADERS_MAX = 64 };

struct kafka_out_message {
    const char *topic;
    const void *key, *value; /* NULL: null; copied */
    size_t key_bytes, value_bytes;
    int64_t timestamp_ms;
    uint32_t header_count;
    struct {
        const char *name;
        const void *value;
        size_t bytes;
    } header[KAFKA_OUT_HEADERS_MAX];
    uint64_t tag; /* comes back with the acknowledgement */
};

/* Called from poll(), once for each message that the broker has acknowledged. offset: [0, 2^63). */
typedef void kafka_out_delivered(void *context, uint64_t tag, int32_t partition, int64_t offset);

enum kafka_out_result {
    KAFKA_OUT_OK,
    KAFKA_OUT_FULL,    /* send: poll first */
    KAFKA_OUT_BROKEN,  /* close and open again; err says why */
    KAFKA_OUT_REFUSED, /* neither will help before somebody has changed something: err (EX_UNAVAILABLE, EX_CONFIG) */
};

struct kafka_out {
    void *self;
    /* open connects, and makes sure that all topics are there; waits for at most wait_ms for each. */
    enum kafka_out_result (*open)(void *self, const char *const *topics, uint32_t n, struct err *err);
    enum kafka_out_result (*send)(void *self, const struct kafka_out_message *m, struct err *err);
    /* poll calls `delivered` for what has come; waits for up to ms for something. */
    enum kafka_out_result (*poll)(void *self, int ms, struct err *err);
    /* close forgets what was not acknowledged; it may be in Kafka all the same. No acknowledgement comes after it. */
    void (*close)(void *self);
    void (*free)(void *self);
};

/* kafka_out_new fills *port; message_bytes_max: the largest message, headers aside. wait_ms: see open. No
 * connection is made yet. config has to outlive the port. */
void kafka_out_new(struct kafka_out *port, const struct config *config, size_t message_bytes_max, int wait_ms,
                   kafka_out_delivered *delivered, void *context);

#endif

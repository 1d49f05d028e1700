/* Reading single records from Kafka, by offset, without a place in the consumer group: nothing is committed, nobody's
 * partitions move. */
#ifndef MILLRACE_TOOLS_KAFKA_PICK_H
#define MILLRACE_TOOLS_KAFKA_PICK_H

#include <stddef.h>
#include <stdint.h>

#include "base/config.h"
#include "base/err.h"
#include "feed/kafka_out.h"

enum { PICK_TIMEOUT_S = 30 };

struct kafka_pick;

struct kafka_picked {        /* valid during the call */
    const void *key, *value; /* NULL: null */
    size_t key_bytes, value_bytes;
    int64_t offset, timestamp_ms; /* timestamp -1: none */
    uint32_t header_count;        /* more than KAFKA_OUT_HEADERS_MAX - 1: the rest is left out */
    struct {
        const char *name;
        const void *value;
        size_t bytes;
    } header[KAFKA_OUT_HEADERS_MAX];
};

/* kafka_pick_open makes a consumer of the configuration's properties. NULL with err: EX_CONFIG. */
struct kafka_pick *kafka_pick_open(const struct config *c, struct err *err);
void kafka_pick_close(struct kafka_pick *p);

/* kafka_pick_each reads the offsets of one partition, ascending, and calls found for each: with NULL for one that is
 * not there (retention, compaction). Stops when found returns other than 0, and returns that. Else 0, or -1 with err
 * (EX_UNAVAILABLE: no answer for PICK_TIMEOUT_S, or the broker refuses). */
int kafka_pick_each(struct kafka_pick *p, const char *topic, int32_t partition, const int64_t *offset, size_t count,
                    int (*found)(void *context, int64_t offset, const struct kafka_picked *m), void *context,
                    struct err *err);

#endif

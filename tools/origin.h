/* Records read again from Kafka, one by one, to learn their Redis keys: the table of live keys has only digests.
 * A consumer of its own without a group: nobody's position changes. */
#ifndef MILLRACE_TOOLS_ORIGIN_H
#define MILLRACE_TOOLS_ORIGIN_H

#include <stdint.h>

#include "base/config.h"
#include "base/err.h"

struct origin;

/* origin_open connects when it is used first. config must outlive it. NULL with err (EX_CONFIG, EX_OSERR). */
struct origin *origin_open(const struct config *config, struct err *err);
void origin_close(struct origin *o);

struct origin_record {
    uint32_t key_bytes;     /* 0: the record makes no key under this configuration */
    uint32_t old_key_bytes; /* of the key that it replaces; 0: none */
    char key[REDIS_KEY_BYTES_MAX], old_key[REDIS_KEY_BYTES_MAX];
    uint8_t id[16];
};

/* origin_read reads the record at an offset of a configured topic. Ascending offsets of one partition after each other
 * are cheap. 1 with *out, 0 Kafka has no record there any more, -1 with err (EX_UNAVAILABLE: not within
 * ORIGIN_PATIENCE_MS; EX_CONFIG: no such topic). */
enum { ORIGIN_PATIENCE_MS = 10000 };
int origin_read(struct origin *o, const char *topic, int32_t partition, int64_t offset, struct origin_record *out,
                struct err *err);

/* origin_partitions: how many partitions the topic has; -1 with err. */
int32_t origin_partitions(struct origin *o, const char *topic, struct err *err);

/* origin_end: the offset behind the last record of a partition, 0 it never had any; -1 with err. */
int64_t origin_end(struct origin *o, const char *topic, int32_t partition, struct err *err);

/* origin_begin: the offset at which Kafka's records of a partition begin; -1 with err. */
int64_t origin_begin(struct origin *o, const char *topic, int32_t partition, struct err *err);

#endif

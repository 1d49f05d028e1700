/* Copies of records into a topic: key, value, headers and timestamp as they were, and one more header that names the
 * original. At least once: after a failure the same call copies everything again. */
#ifndef MILLRACE_TOOLS_REPLAY_COPY_H
#define MILLRACE_TOOLS_REPLAY_COPY_H

#include <stdatomic.h>
#include <stdint.h>

#include "base/config.h"
#include "tools/replay_set.h"

#define HEADER_REPLAY_OF "millrace-replay-of" /* TOPIC/PARTITION/OFFSET */

struct replay_copy {
    const struct config *config;
    const char *topic; /* where to */
    uint64_t rate;     /* records a second; 0 as fast as it goes */
    _Atomic int *stop; /* other than 0: end early */
    void (*progress)(void *context, uint64_t copied);
    void *context;
    uint64_t copied;  /* acknowledged by the brokers */
    uint64_t missing; /* no longer in Kafka; or without content in the log */
    void (*miss)(void *context, const char *topic, int32_t partition, int64_t offset);
};

/* replay_copy_kafka copies all records of the set, read from Kafka. 0 all that are there, or -1 with err
 * (EX_UNAVAILABLE, EX_CONFIG, EX_TEMPFAIL stopped, or the connection was lost). */
int replay_copy_kafka(struct replay_copy *c, struct replay_set *s, struct err *err);

/* replay_copy_log copies what the query finds, each record once, from the content that the log has of topics with
 * `reconcile: full`. The same, and EX_DATAERR, EX_CONFIG when it cannot be decrypted. */
int replay_copy_log(struct replay_copy *c, const char *dir, const struct log_query *q, struct err *err);

#endif

/* What Kafka says was published: a thread of its own asks, for librdkafka's questions block, and the body takes the
 * answers when it comes by. A consumer without a group: it reads manifests, topics a second time (`scan`), the ends of
 * partitions, and what the pipeline's group has committed; it commits nothing. */
#ifndef MILLRACE_RECON_EVIDENCE_H
#define MILLRACE_RECON_EVIDENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "base/digest.h"
#include "base/err.h"

enum evidence_type {
    EVIDENCE_MESSAGE, /* of the manifest topic or of a scan: topic, partition, offset, value … */
    EVIDENCE_VOID,    /* a scan has passed [offset, to) and no record is there */
    EVIDENCE_GONE,    /* … because Kafka does not keep it any more */
    EVIDENCE_ENDS,    /* of a partition: low, high and committed, all asked after `asked` was raised */
    EVIDENCE_ROUND,   /* a round of questions is complete: every partition had its EVIDENCE_ENDS, and every manifest
                         that was published before the round began was handed over before this. round: its number */
    EVIDENCE_TROUBLE, /* text: Kafka cannot be asked just now */
};

struct evidence {
    enum evidence_type type;
    bool manifest;  /* EVIDENCE_MESSAGE of the manifest topic */
    uint32_t topic; /* index in the configuration, of all but manifests */
    int32_t partition;
    int64_t offset, to;
    int64_t low, high, committed; /* EVIDENCE_ENDS; -1 unknown or none */
    uint64_t round;
    int64_t timestamp_ms, created_ms; /* created: from the header, else the timestamp */
    uint8_t id[16];
    uint8_t digest[DIGEST_BYTES]; /* of the value as the topic's `reconcile` wants it; zeros for none */
    uint32_t value_bytes;         /* RECORD_BYTES_NULL: none */
    char text[1024];              /* a manifest's value, NUL-terminated; the trouble */
};

struct evidence_port {
    void *self;
    /* The next item into *out, in the order of its partition. false: nothing yet. Never blocks. */
    bool (*next)(void *self, struct evidence *out);
    /* Reads records of a partition from offset on up to (not including) `to`, and says what is there and what is not;
     * in place of what was asked for that partition before. topic: index in the configuration. */
    void (*scan)(void *self, uint32_t topic, int32_t partition, int64_t offset, int64_t to);
    /* Begins a round of questions at once, instead of at the next second. */
    void (*hurry)(void *self);
    int wake_fd; /* readable when there is something; -1 none */
};

/* evidence_open starts the thread. from: offset in each partition of the manifest topic to begin at is its oldest: what
 * was noted before is recognised. key: for digests, copied. 0, or -1 with err (bad properties). */
int evidence_open(struct evidence_port *port, const struct config *c, const uint8_t key[DIGEST_KEY_BYTES],
                  struct err *err);

#endif

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

enum { EVIDENCE_TEXT_BYTES = 4096 };

enum evidence_type {
    EVIDENCE_MESSAGE, /* of the manifest topic or of a scan: topic, partition, offset, value … */
    EVIDENCE_VOID,    /* a scan has passed [offset, to) and no record is there */
    EVIDENCE_GONE,    /* … because Kafka does not keep it any more */
    EVIDENCE_ENDS,    /* of a partition of a topic: low, high, committed; the last asked after the others */
    EVIDENCE_ROUND,   /* a round of questions that began at began_ms is complete: every partition had its EVIDENCE_ENDS,
                         and every manifest that was published before has been handed over. members: of the group;
                         others */
    EVIDENCE_TROUBLE, /* text: Kafka cannot be asked just now */
};

struct evidence {
    enum evidence_type type;
    bool manifest;  /* EVIDENCE_MESSAGE of the manifest topic: text is its value */
    uint32_t topic; /* index in the configuration; of manifests 0 */
    int32_t partition;
    int64_t offset, to;
    int64_t low, high, committed; /* committed: -1 none */
    int64_t began_ms;
    uint32_t members;
    bool others;        /* EVIDENCE_ROUND: another instance has committed something, be it long ago */
    int64_t created_ms; /* from the header, else the timestamp; -1 none */
    uint64_t producer;  /* record_producer_hash of the header, 0 none, and its sequence number */
    int64_t sequence;
    uint8_t id[16];
    uint8_t digest[DIGEST_BYTES]; /* of the value as the topic's `reconcile` wants it; zeros for none */
    uint32_t text_bytes;
    char text[EVIDENCE_TEXT_BYTES]; /* a manifest's value, the trouble; NUL-terminated */
};

struct evidence_port {
    void *self;
    /* The next item into *out, those of a partition in order. false: nothing yet. Never blocks. */
    bool (*next)(void *self, struct evidence *out);
    /* Reads records of a partition from offset on up to (not including) `to`, and says what is there and what is not;
     * in place of what was asked for that partition before. topic: index in the configuration. */
    void (*scan)(void *self, uint32_t topic, int32_t partition, int64_t offset, int64_t to);
    /* Begins a round of questions at once, instead of a second after the last. */
    void (*hurry)(void *self);
    int wake_fd; /* eventfd, readable when there is something; -1 none */
};

/* Where to go on in a partition of the manifest topic; what is not listed is read from its beginning. */
struct evidence_from {
    int32_t partition;
    int64_t offset;
};

/* evidence_open starts the thread. key: for digests, copied. The configuration has to outlive it; it lasts as long as
 * the process. 0, or -1 with err (bad properties). */
int evidence_open(struct evidence_port *port, const struct config *c, const uint8_t key[DIGEST_KEY_BYTES],
                  const struct evidence_from *from, size_t n, struct err *err);

#endif

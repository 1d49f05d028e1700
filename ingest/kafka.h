/* The Kafka port: all that ingest's body knows of Kafka. The real one (kafka_client.c) is librdkafka; a simulator
 * brings its own. Calls do not block unless they say so, and then not beyond KAFKA_CALL_MS. */
#ifndef MILLRACE_INGEST_KAFKA_H
#define MILLRACE_INGEST_KAFKA_H

#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "base/err.h"
#include "kafka/note.h"
#include "shm/ledger.h"

enum { KAFKA_CALL_MS = 1000, KAFKA_WITNESS_MAX = 32 };
enum { KAFKA_WITNESS_NONE = -1, KAFKA_WITNESS_LATE = -2 };

struct kafka_partition {
    uint32_t topic;    /* index in the configuration */
    int32_t partition; /* [0, 2^31) */
    int64_t offset;    /* as the call says; -1 none */
    struct note note;  /* of a commit */
};

enum kafka_event_type {
    KAFKA_ASSIGN, /* list: partitions given to this member; answer with assign() */
    KAFKA_REVOKE, /* list: partitions taken away; answer with unassign(). lost: somebody else may have them already */
    KAFKA_COMMITTED, /* list: commits the broker has acknowledged; ok false: others, or all, failed (text) */
    KAFKA_TROUBLE,   /* a passing error, for the log (text); "": a connection ended, or none is left */
    KAFKA_FATAL,     /* this client can never go on (fenced by a namesake): the instance stops (text). lost: it may
                        have been fenced by a belated request of its own, so another client may go on */
};

struct kafka_event {
    enum kafka_event_type type;
    bool lost, ok;
    bool denied;   /* of KAFKA_TROUBLE: only a person can mend it (credentials, certificates, permissions) */
    bool expelled; /* of KAFKA_COMMITTED: the group says that this is no member of it */
    uint64_t tag;  /* of KAFKA_COMMITTED: what commit() was given */
    uint32_t count;
    struct kafka_partition list[PARTITIONS_MAX];
    char text[256];
};

/* A message, in the client's memory until done() gets it back. */
struct kafka_message {
    const void *key, *value; /* NULL: null */
    uint32_t key_bytes, value_bytes;
    int64_t offset, timestamp_ms; /* timestamp -1: none */
    int32_t broker;               /* the id of who gave it; -1: the topic was gone since the message before */
    void *handle;
};

enum kafka_fetch { KAFKA_MESSAGE, KAFKA_NOTHING, KAFKA_END /* offset: the end of the partition */, KAFKA_FAILED };

struct kafka_port {
    void *self;
    /* The next event into *out; false: none. Keeps the membership alive: call at every step. */
    bool (*poll)(void *self, struct kafka_event *out);
    /* Fills the committed offsets (-1 none) of list and their notes. Blocks at most KAFKA_CALL_MS. 0, or -1 with err.
     */
    int (*committed)(void *self, struct kafka_partition *list, uint32_t n, struct err *err);
    /* Oldest and next offset of a partition, asked of the broker. Blocks at most KAFKA_CALL_MS. 0, or -1 with err. */
    int (*watermarks)(void *self, const struct kafka_partition *p, int64_t *low, int64_t *high, struct err *err);
    /* The same, as last seen in passing; -1 unknown. */
    void (*watermarks_seen)(void *self, const struct kafka_partition *p, int64_t *low, int64_t *high);
    /* Begins to read the partitions of list at their offsets; handle[i] stands for list[i] from then on. */
    int (*assign)(void *self, const struct kafka_partition *list, uint32_t n, void **handle, struct err *err);
    int (*unassign)(void *self, struct err *err);
    /* The next message of one partition. KAFKA_FAILED: err says why (code: 1 the offset is no longer there). */
    enum kafka_fetch (*fetch)(void *self, void *handle, struct kafka_message *out, struct err *err);
    /* Encodes the headers of a message as shm/record.h has them into out[0, room); returns the bytes they take (nothing
     * is written when that is more than room). */
    uint32_t (*headers)(void *self, const struct kafka_message *m, uint8_t *out, uint32_t room);
    void (*done)(void *self, struct kafka_message *m);
    /* Begins to commit the offsets of list with their notes; the outcome comes as KAFKA_COMMITTED with the tag. */
    int (*commit)(void *self, const struct kafka_partition *list, uint32_t n, uint64_t tag, struct err *err);
    /* Fills the next offset of each partition of list, asked of the brokers in one go. Blocks at most KAFKA_CALL_MS.
     * 0, or -1 with err. */
    int (*ends)(void *self, struct kafka_partition *list, uint32_t n, struct err *err);
    /* Reads one partition from offset on; what was fetched of it before is dropped. Blocks at most KAFKA_CALL_MS.
     * 0, or -1 with err: call again (code 1: the client has stopped reading it, for its offset was gone; only assign()
     * begins it anew). */
    int (*seek)(void *self, void *handle, int64_t offset, struct err *err);
    /* Whether the group has given this member's partitions to others already. */
    bool (*lost)(void *self);
    /* The cluster's id into out, "" when the brokers have none. Blocks at most KAFKA_CALL_MS. 0, or -1 with err: no
     * broker was reached yet. */
    int (*cluster)(void *self, char out[CLUSTER_BYTES], struct err *err);
    /* Fills in the timestamp of the record that stands at the offset of each partition of list, n in [1,
     * KAFKA_WITNESS_MAX]: KAFKA_WITNESS_NONE when there is no record at it, KAFKA_WITNESS_LATE when that did not come
     * in time. What is being read is not touched. Blocks at most KAFKA_CALL_MS. 0, or -1 with err. */
    int (*witness)(void *self, const struct kafka_partition *list, uint32_t n, int64_t *timestamp_ms, struct err *err);
};

/* kafka_client_open makes a librdkafka consumer from the configuration and subscribes (or, with a fixed list of
 * partitions, prepares one KAFKA_ASSIGN). doorbell: eventfd that is rung when something arrives. In the process that
 * uses it, after exec: its threads do not survive a fork. Kafka need not be there. 0, or -1 with err (bad properties).
 */
int kafka_client_open(struct kafka_port *port, const struct config *config, int doorbell, struct err *err);

#endif

/* Intake: takes records from the ring, looks at each once, and keeps the next batch until it is sent.
 *
 * It stops at a record that may not be sent yet or ever (enum intake_stop); that record is kept and stays the next. All
 * pointers are into the ring: nothing is copied, and nothing here is released. */
#ifndef MILLRACE_SINK_INTAKE_H
#define MILLRACE_SINK_INTAKE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "shm/ledger.h"
#include "shm/record.h"
#include "shm/ring.h"
#include "sink/marks.h"

/* A batch ends with the record that brings it to so many bytes: Redis reads and answers in reasonable pieces. */
#define INTAKE_BYTES_MAX (512UL << 10)

enum item_kind {
    ITEM_MARKER, /* nothing to send: rejected, skipped, or of an earlier epoch */
    ITEM_PLAIN,  /* SET without expiry: may share one MSET with its neighbours */
    ITEM_TIMED,  /* SET with expiry */
    ITEM_MOVE,   /* the key changes: delete the old, insert the new, in one transaction */
    ITEM_HASH,   /* a hash, replaced whole in one transaction; its key may change and it may expire */
    ITEM_DELETE,
    ITEM_DONE, /* nothing to send: Redis has acknowledged it, and it was not given back in the ring */
};

struct intake_item {
    const uint8_t *body;
    uint64_t number, end;
    int64_t next; /* Kafka offset + 1; of one that was refed, or is done: how far the partition is, which stays so */
    uint32_t len;
    uint32_t room;  /* what it takes when encoded, at most, beside ENCODE_RECORD_OVERHEAD */
    uint32_t epoch; /* 0: of an earlier epoch than the partition's; it counts for nothing */
    uint16_t slot;
    uint8_t kind; /* enum item_kind */
    bool expired; /* set when it is sent: its time to live was over, and it is a delete */
    bool refed;   /* RECORD_REFED */
};

struct intake_sample {               /* when a record in hand or in flight came; for latencies */
    int64_t ingest_ns, timestamp_ms; /* ingest_ns -1: a marker, or done; timestamp_ms -1: none, refed, or done */
};

enum intake_stop {
    INTAKE_OPEN,     /* no stop: the ring is empty or the batch is full */
    INTAKE_UNMARKED, /* the mark of its partition is not checked in this epoch and on this connection */
    INTAKE_POISON,   /* it is the number that the supervisor wants rejected, and its epoch stands */
    INTAKE_BROKEN,   /* the ring or the record fails its checks; err says how */
};

struct intake {
    struct ring_consumer *ring;
    const struct config *config;
    const struct ledger_ingest *plan;
    const struct marks *marks;
    struct intake_item *item;     /* the next batch */
    struct intake_sample *sample; /* by number & sample_mask */
    uint64_t sample_mask;
    uint32_t count;
    size_t bytes;      /* room of the records in it */
    uint64_t since_ns; /* when its first record was taken */
    enum intake_stop stop;
    struct intake_item held; /* INTAKE_UNMARKED, INTAKE_POISON: the record it stopped at */
    struct record poison;    /* INTAKE_POISON: its head; topic UINT16_MAX when it is none of this pipeline */
    struct err err;
};

/* intake_init allocates for batches of config->redis.batch records and samples of config->redis.in_flight more.
 * 0, or -1 with err. */
int intake_init(struct intake *in, struct ring_consumer *ring, const struct config *config,
                const struct ledger_ingest *plan, const struct marks *marks, struct err *err);
void intake_free(struct intake *in);

/* intake_fill takes records until the batch is full, the ring is empty, or it has to stop. reject_number: of the
 * supervisor, 0 none: once its epoch has passed it is a marker. Returns how many it took. A stop for a mark or for that
 * number is looked at again at every call. */
uint32_t intake_fill(struct intake *in, uint64_t reject_number, uint64_t now_ns);

/* intake_full: the batch will not grow any more, whatever comes. */
static inline bool intake_full(const struct intake *in) {
    return in->stop != INTAKE_OPEN || in->count == in->config->redis.batch || in->bytes >= INTAKE_BYTES_MAX;
}

/* intake_sent empties the batch: its records are in flight now. */
static inline void intake_sent(struct intake *in) {
    in->count = 0;
    in->bytes = 0;
}

/* intake_rewind begins again with the oldest record that was not released. */
void intake_rewind(struct intake *in);

#endif

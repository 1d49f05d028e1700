/* Flight: what was sent and not answered yet, in the order in which Redis will answer.
 *
 * A batch is a run of records of the ring with the replies it still waits for and the partitions it touches. Four
 * queues sized once: batches, touches, expected replies (one byte each), partitions whose mark was asked for. Between
 * the replies of batches may stand answers about marks that belong to no batch. Only the sink's own process sees it. */
#ifndef MILLRACE_SINK_FLIGHT_H
#define MILLRACE_SINK_FLIGHT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/limits.h"
#include "sink/marks.h"

enum expect {
    EXPECT_NOTHING, /* no command is waiting for an answer */
    EXPECT_OK,      /* SET, MSET, MULTI */
    EXPECT_INTEGER, /* DEL */
    EXPECT_QUEUED,  /* a command inside MULTI */
    EXPECT_EXEC,    /* EXEC of two commands */
    EXPECT_EXEC3,   /* EXEC of three commands */
    EXPECT_OLD,     /* SET … XX GET of a batch's mark */
    EXPECT_MARK,    /* GET of a mark; no batch */
    EXPECT_CREATE,  /* SET … NX of a mark; no batch */
};

struct touch {        /* a partition in a batch */
    struct mark mark; /* written with the batch */
    uint32_t slot;
    uint32_t refed; /* records that Redis had lost and that are counted when they are released */
};

struct batch {
    uint64_t first, last; /* numbers on the ring */
    uint64_t end;         /* ring position after the last */
    uint32_t replies;     /* still to come */
    uint32_t touch_at, touch_count;
    uint32_t old_seen;                  /* answers of kind EXPECT_OLD so far, refusals included */
    uint32_t applied, expired, markers; /* records */
    uint64_t sent_ns, answered_ns;      /* monotonic clock; answered_ns 0: not all answers were there yet */
};

struct flight {
    struct batch *batch;
    struct touch *touch;
    uint8_t *expect;
    uint16_t *asked; /* slots of EXPECT_MARK and EXPECT_CREATE */
    uint32_t batch_mask, touch_mask, expect_mask, asked_mask;
    uint32_t batch_from, batch_to; /* free-running, masked on use, as all of these */
    uint32_t touch_from, touch_to;
    uint32_t expect_from, expect_to;
    uint32_t asked_from, asked_to;
    uint32_t records;                 /* in all batches, markers included */
    uint32_t touched[PARTITIONS_MAX]; /* 1 + index of the partition's last touch */
};

/* flight_init sizes the queues for in_flight records ([1, IN_FLIGHT_MAX]). 0, or -1 with err. */
int flight_init(struct flight *f, uint32_t in_flight, struct err *err);
void flight_free(struct flight *f);

/* flight_clear forgets everything: the connection is gone, its answers will never come. */
void flight_clear(struct flight *f);

/* flight_begin opens a new batch, which the calls below add to until the next flight_begin. The caller keeps the sum of
 * records within in_flight. */
struct batch *flight_begin(struct flight *f, uint64_t first);
void flight_expect(struct flight *f, enum expect kind);

/* flight_touch notes that the batch covers the partition of slot up to mark; later touches of a batch replace
 * earlier, and what they count is added up. */
void flight_touch(struct flight *f, uint32_t slot, struct mark mark, bool refed);

/* flight_end: the batch ends at this record. */
void flight_end(struct flight *f, uint64_t last, uint64_t end);

/* flight_ask: a command about a mark, outside of batches; kind EXPECT_MARK or EXPECT_CREATE. At most PARTITIONS_MAX
 * partitions are asked about at a time, each with at most two commands waiting. */
void flight_ask(struct flight *f, enum expect kind, uint32_t slot);

/* flight_answer takes the next expected reply from the queue: its kind, and in *which the slot of an answer about a
 * mark, or for EXPECT_OLD the number of its touch in flight_oldest. Replies of batches are counted down there. */
enum expect flight_answer(struct flight *f, uint32_t *which);

/* flight_oldest: the batch that is answered first; NULL none. flight_touch_at: its i-th touch, i < touch_count. */
struct batch *flight_oldest(struct flight *f);
struct touch *flight_touch_at(struct flight *f, const struct batch *b, uint32_t i);

/* flight_pop removes the oldest batch, whose replies are all there. */
void flight_pop(struct flight *f);

static inline bool flight_quiet(const struct flight *f) { return f->expect_from == f->expect_to; }
static inline bool flight_asking(const struct flight *f) { return f->asked_from != f->asked_to; }

#endif

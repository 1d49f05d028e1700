/* Account: tells audit what became of each record once Redis has answered for it, by one entry (shm/entry.h) per number
 * of the sink's ring, under the same number, markers too.
 *
 * An entry is made of the record as it stands in the ring, which is released after its entry was published. So a
 * successor finds every record without an entry in the ring, and by the last number on the audit ring knows which ones
 * have theirs: those go to Redis again and get no second one. */
#ifndef MILLRACE_SINK_ACCOUNT_H
#define MILLRACE_SINK_ACCOUNT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "shm/ledger.h"
#include "shm/ring.h"
#include "sink/flight.h"
#include "sink/intake.h"

struct account_note { /* of a record that was sent */
    const uint8_t *body;
    uint32_t len;
    uint32_t epoch; /* as in struct intake_item */
    uint16_t slot;
    bool expired;
};

struct account {
    struct ring_producer *ring; /* NULL: audit is off, and nothing here is called but account_on and account_free */
    const struct ledger_ingest *plan;
    const struct clock_port *clock;
    struct account_note *note; /* by number & note_mask */
    uint64_t note_mask;
    int64_t wall_offset_us; /* wall clock less monotonic clock */
};

/* account_init: ring attached as producer, with the records' numbers and at least the capacity of the ring `in` that
 * they come from; NULL: audit is off. At most `records` are sent and not released at a time. Allocates. 0, or -1 with
 * err.code EX_OSERR, EX_SOFTWARE (the audit ring is the smaller one), EX_DATAERR (records were released that have no
 * entry, or more have one than there are: the rings do not belong together). */
int account_init(struct account *a, struct ring_producer *ring, const struct ring_consumer *in,
                 const struct ledger_ingest *plan, const struct clock_port *clock, uint32_t records, struct err *err);
void account_free(struct account *a);
static inline bool account_on(const struct account *a) { return a->ring != NULL; }

/* account_sent notes a record of the batch that is being sent; its body stays where it is until it is released. */
void account_sent(struct account *a, const struct intake_item *item);

/* account_stage stages the entries of an answered batch (sent_ns and answered_ns are set), from the first that has none
 * yet, as long as there is room. Returns whether all of them have theirs now; call again when there is room. Nothing is
 * visible before account_publish. */
bool account_stage(struct account *a, const struct batch *b);
static inline void account_publish(struct account *a) { ring_publish(a->ring); }

#endif

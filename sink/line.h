/* Line: the open connection as a line of records. Sends batches with their marks, reads and judges every answer, and
 * releases what Redis has: first the entries for audit, then the ledger, then the ring, then the stats block, in this
 * order. While the audit ring has no room the batch that was answered is kept, and no further answer is read.
 *
 * Knows nothing of connecting, waiting and trying again: sink/sink.c decides that from the failures reported here. */
#ifndef MILLRACE_SINK_LINE_H
#define MILLRACE_SINK_LINE_H

#include <stdbool.h>
#include <stdint.h>

#include "shm/ledger.h"
#include "shm/ring.h"
#include "shm/worker.h"
#include "sink/account.h"
#include "sink/flight.h"
#include "sink/intake.h"
#include "sink/marks.h"
#include "sink/reply.h"
#include "sink/session.h"

struct line {
    struct worker *worker;
    const struct config *config;
    const struct ledger_ingest *plan;
    struct ledger_sink *ledger;
    struct ring_consumer *ring;
    struct session session;
    struct marks marks;
    struct intake intake;
    struct flight flight;
    struct account account;
    uint64_t number_sent; /* highest number ever sent: what is not above it is sent again */
    uint64_t released;    /* batches released so far */
    bool halting;         /* a mark was bad: nothing more is released, the answers under way are looked at first */
    bool stalled;         /* the oldest batch is answered and waits for room on the audit ring */
    bool unleased;        /* the last line_send had records to send and no lease */
    struct failure halt;
    uint32_t bad_slot, bad_epoch; /* partition of the last mark that an operator has to put right, and its epoch; 0 none
                                   */
};

/* line_init: see sink_init. line_free closes the connection. */
int line_init(struct line *l, struct worker *worker, struct ring_consumer *ring, struct ring_producer *audit,
              const struct ledger_ingest *plan, struct ledger_sink *ledger, const struct stream_port *stream,
              struct err *err);
void line_free(struct line *l);

/* line_ask_marks asks for the marks of every partition of this lane (checked ones too when `all`), and of the record
 * that waits for its mark. Batches wait for the answers. Does nothing while answers are outstanding or without room. */
void line_ask_marks(struct line *l, bool all);

/* line_send takes records and sends them, as long as fewer than `limit` are in flight and the lease holds (else
 * `unleased` is set). 1 moved, 0 not, -1 with f. */
int line_send(struct line *l, uint32_t limit, struct failure *f);

/* line_receive reads one chunk and judges the answers in it. 1 moved, 0 not, -1 with f: nothing from the batch at fault
 * on was released. Of a mark that is bad (REPLY_HALT) only when every answer under way was looked at, so that all
 * losses are noted by then. */
int line_receive(struct line *l, struct failure *f);

/* line_settle, after line_receive failed on an answer: sends the rest of what is encoded and reads the answers under
 * way, of which only the old marks are judged: they are gone afterwards. 1 moved, 0 not, -1 with f. Done when
 * flight_quiet and nothing is unsent. */
int line_settle(struct line *l, struct failure *f);

/* line_overtaken: whether something is under way that was read under an epoch that has passed since: it is no longer
 * ours to write, and the connection should go before Redis gets to it. */
bool line_overtaken(const struct line *l);

/* line_bad_mark_stands: whether the partition of the last mark that an operator has to put right is still read here
 * under the same epoch. */
bool line_bad_mark_stands(const struct line *l);

/* line_losses counts the partitions of this lane with a loss that is noted and waits for ingest, or (`open`) of which
 * not everything is written again yet. *first gets the first one's slot when there is one. */
uint32_t line_losses(const struct line *l, bool open, uint32_t *first);

/* line_leased: whether records may be sent now: ingest's lease holds (shm/ledger.h). */
bool line_leased(const struct line *l);

/* line_write sends what is encoded: records only under the lease. As session_write. */
int line_write(struct line *l, struct failure *f);

/* line_rewind forgets what is in flight and begins again with the oldest unreleased record; all marks are unread. */
void line_rewind(struct line *l);

#endif

/* Sink: the body of the last worker of a lane, as a state machine around its line to Redis.
 *
 *              retry_at               greeted            refused by an answer
 *      DOWN ------------> GREETING ------------> OPEN ------------------------> SETTLING
 *       ^                    |                   |  ^                              | every answer read
 *       +--------------------+-------------------+  +------- retry_at ------ PAUSED
 *       |        connection lost                 |
 *       +---------------------- HALTED <---------+ bad mark
 *         the partitions have another epoch
 *
 * Whatever goes wrong, the line stands still and goes on from the oldest unreleased record, in order. Nothing is
 * skipped, nothing is sent anywhere else. */
#ifndef MILLRACE_SINK_SINK_H
#define MILLRACE_SINK_SINK_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include "sink/line.h"

enum sink_state {
    SINK_DOWN,     /* no connection; the next attempt at retry_at_ns */
    SINK_GREETING, /* connecting and greeting */
    SINK_OPEN,     /* sending, or free to */
    SINK_SETTLING, /* Redis refused something: the other answers under way are read before the pause */
    SINK_PAUSED,   /* connection kept, nothing sent before retry_at_ns */
    SINK_HALTED,   /* nothing is sent or released until ingest reads again what Redis lost, or an operator has looked */
};

struct sink {
    struct worker *worker;
    struct line line;
    enum sink_state state;
    uint64_t retry_at_ns;
    uint64_t looked_ns;   /* when all marks were last asked for */
    uint64_t leave_by_ns; /* 0: not asked to leave */
    uint64_t released;    /* line.released as last seen */
    uint32_t failures;    /* in a row: since records were released, or the line was idle with good marks */
    bool proven;          /* something was released in this instance, by this process or one before it */
    bool fit;             /* a greeting came through in this process: address, user and server are right */
    bool refused;         /* an answer stopped the line and nothing was released since: a connection proves nothing */
    bool announced;       /* that the worker is running */
    bool unleased;        /* the state shown says that records wait for the lease */
    uint64_t unleased_ns; /* since when they wait; 0: they do not */
    uint64_t stalled_ns;  /* since when the audit ring has no room; 0: it has */
    bool stalled;         /* the state shown says so */
    bool aside;           /* the state shown says that a record is to be put aside */
    bool recovering;      /* the state shown says that lost writes are written again */
    uint64_t shown_ns;    /* when it was last looked at */
    struct failure halt;  /* why the line was last halted */
};

/* sink_init: the ports are the worker (clock, configuration, stats, control), the ring attached as consumer, the audit
 * ring attached as producer (NULL: audit is off), the regions of the ledger (plan: ingest's, read-only; ledger: the
 * lane's own), and the stream, which is copied. Everything is allocated here; nothing is opened. All must outlive it.
 * 0, or -1 with err (EX_DATAERR: as account_init, the rings have to be made anew). */
int sink_init(struct sink *s, struct worker *worker, struct ring_consumer *ring, struct ring_producer *audit,
              const struct ledger_ingest *plan, struct ledger_sink *ledger, const struct stream_port *stream,
              struct err *err);

/* sink_free closes the connection as it stands and gives back what was allocated. Nothing is released by it. */
void sink_free(struct sink *s);

/* For struct worker_body; self is a struct sink. Nothing blocks but the resolution of a host name at a connect.
 * sink_arm: true when the ring has something to send now. sink_wants: max at least 1. */
enum step sink_step(void *self);
bool sink_arm(void *self);
void sink_disarm(void *self);
int sink_wants(void *self, struct pollfd *fds, int max, int *timeout_ms);

#endif

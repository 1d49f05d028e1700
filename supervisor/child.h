/* Child: one worker process as the supervisor sees it: a state × event table, and nothing clever.
 *
 *              start       ready   left        died        refused     broken      hung    stop        due
 *   DOWN       spawn       -       -           -           -           -           -       -           -
 *   STARTING   -           up      left        died        refused     broken      kill    leave       kill
 *   UP         -           -       left        died        refused     broken      kill    leave       -
 *   STOPPING   -           -       gone        gone        gone        gone        kill    -           kill
 *   BACKOFF    -           -       -           -           -           -           -       gone        spawn
 *   FAILED     -           -       -           -           -           -           -       -           -
 *
 * `broken` is a worker whose ring fails its checks: it stays down until the supervisor has made the rings anew.
 * `left` is `gone` for a worker that was asked to drain, else `died`. The first restart is at once; while the worker
 * dies again without having moved a record, the delay doubles, with jitter, up to restart.backoff_max. restart.limit
 * such deaths within restart.window end in FAILED. Deaths on one and the same record are counted for themselves
 * (poison).
 *
 * A worker outside the chain of records (recon) is never given up: for it `refused` and `broken` are `died`, of which
 * any number may be. */
#ifndef MILLRACE_SUPERVISOR_CHILD_H
#define MILLRACE_SUPERVISOR_CHILD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/clock.h"
#include "supervisor/plumbing.h"

enum child_state {
    CHILD_DOWN,
    CHILD_STARTING,
    CHILD_UP,
    CHILD_STOPPING,
    CHILD_BACKOFF,
    CHILD_FAILED,
    CHILD_STATE_COUNT
};
enum child_event {
    EVENT_START,   /* wanted: begin */
    EVENT_READY,   /* attached and validated */
    EVENT_LEFT,    /* exited 0 */
    EVENT_DIED,    /* exited otherwise or was killed */
    EVENT_REFUSED, /* exited EXIT_DONT_RESTART */
    EVENT_BROKEN,  /* exited EXIT_RING_BROKEN */
    EVENT_HUNG,    /* no heartbeat for heartbeat_timeout */
    EVENT_STOP,    /* no longer wanted */
    EVENT_DUE,     /* its deadline has passed */
    CHILD_EVENT_COUNT
};

/* As many as the largest restart.limit and poison.limit need: fewer, and those limits could never be reached. */
enum { DEATHS_MAX = 1000, POISON_MAX = 1001 };

/* What is counted against one record, and the records already given up. */
struct child_poison {
    uint64_t number;               /* in hand at the last death that counted */
    uint32_t lane;                 /* whose it is */
    uint32_t attempts;             /* deaths on it */
    uint64_t rejected[POISON_MAX]; /* where the worker stood when it gave one up, newest last */
    uint32_t rejected_count;
};

struct child {
    enum role role;
    uint32_t lane;
    bool apart;    /* outside the chain of records: recon */
    char name[24]; /* in texts: ingest, sink[0] */
    uint32_t block_index;
    struct stats_block *block;
    enum child_state state;
    pid_t pid; /* 0 none */
    int pidfd; /* -1 none */
    uint64_t starts;
    uint64_t due_ns; /* deadline of the state; 0 none */
    uint64_t started_ns;
    uint64_t progress_at_start;    /* records passed on when it was started */
    uint32_t deaths_in_a_row;      /* without progress */
    uint64_t death_ns[DEATHS_MAX]; /* when: the last ones without progress, as a ring */
    uint32_t death_count;
    bool draining; /* asked to finish what it has and leave; started again when it dies before that */
    bool hung;     /* killed by us because its heartbeat stopped, or because it was not ready in time */
    bool burning;  /* and it was using the processor all the while */
    uint64_t heartbeat_seen, heartbeat_since_ns, cpu_at_heartbeat_ns;
    int exit_signal, exit_code; /* of the last process */
    struct child_poison poison;
    char failure[STATS_TEXT_BYTES]; /* why it is FAILED */
    bool refused;                   /* FAILED because it asked not to be restarted */
    bool broken;                    /* FAILED because of a ring that fails its checks */
};

struct child_context {
    const struct plumbing *plumbing;
    const struct clock_port *clock;
    const char *program_folder; /* where the workers' programs are */
    struct stats_local *local;  /* the supervisor's counters */
};

/* child_init makes a child that was not started yet; what the plumbing's block says of earlier starts goes on. lane: as
 * for stats_block_index. */
void child_init(struct child *c, const struct plumbing *p, enum role role, uint32_t lane);

/* child_handle runs the table for one event. */
void child_handle(struct child *c, enum child_event event, const struct child_context *x);

/* child_drain asks a worker to finish what it has and to leave. One that is apart gets a few seconds for that. */
void child_drain(struct child *c, const struct child_context *x);

/* child_reap collects the process if it has ended and handles LEFT, DIED or REFUSED. Call when the pidfd is readable.
 */
void child_reap(struct child *c, const struct child_context *x);

/* child_look handles READY, HUNG and DUE as they have come about by now. Call on every tick. forgive: the supervisor
 * itself was not running for a while (a suspended machine), so silence proves nothing. */
void child_look(struct child *c, const struct child_context *x, bool forgive);

/* child_fresh: whether nothing has to be done about this worker that the supervisor has not done: it has no process, or
 * one that showed a sign of life within heartbeat_timeout. One that is apart is no reason to start an instance anew. */
bool child_fresh(const struct child *c, const struct child_context *x);

const char *child_state_name(enum child_state state);
const char *child_event_name(enum child_event event);

#endif

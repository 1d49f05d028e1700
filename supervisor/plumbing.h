/* Plumbing: all memory and descriptors of one instance, made by the supervisor, and the list each worker inherits. */
#ifndef MILLRACE_SUPERVISOR_PLUMBING_H
#define MILLRACE_SUPERVISOR_PLUMBING_H

#include "base/config.h"
#include "base/err.h"
#include "shm/ring.h"
#include "shm/stats.h"
#include "shm/worker.h"

/* One ring with both kinds of descriptor: writable, and reopened read-only for the other side. */
struct plumbing_ring {
    struct ring_fds rw, ro;
};

struct plumbing_lane {
    struct plumbing_ring to_transform, to_sink, rejects;
    struct plumbing_ring to_audit; /* with audit on; else all -1 */
    int sink_ledger_rw, sink_ledger_ro;
};

struct plumbing {
    const struct config *config;
    struct stats stats;
    struct control *control;
    const struct ledger_ingest *ledger; /* read-only */
    uint32_t lanes;                     /* that there are descriptors of */
    uint32_t lives;                     /* how often it was made anew */
    uint64_t run;                       /* random, for as long as this process lives */
    int stats_fd, control_ro, ledger_rw, ledger_ro, audited_rw, audited_ro, attention;
    int config_fd[ROLE_COUNT];
    int doorbell[WORKERS_MAX + 1]; /* by stats block index; [0] unused */
    struct plumbing_lane lane[LANES_MAX];
};

/* plumbing_create makes everything for config (which must outlive it). Returns 0, or -1 with err. Nothing is undone on
 * failure: the caller exits. */
int plumbing_create(struct plumbing *p, const struct config *config, struct err *err);

/* plumbing_remake gives back everything and makes it anew for config, which may have other lanes and topics but not
 * another name: empty rings of a new incarnation, an empty ledger, a control page at rest; the counters go on. No
 * worker is attached any more. Returns 0, or -1 with err: then only the statistics are left, and it may be called again
 * with another configuration. */
int plumbing_remake(struct plumbing *p, const struct config *config, struct err *err);

/* plumbing_ring_bytes returns the memory of all rings, and in *huge how much of it is in huge pages. */
uint64_t plumbing_ring_bytes(const struct plumbing *p, uint64_t *huge);

/* plumbing_descriptors fills fds with what the worker inherits from WORKER_FD_CONFIG on, in that order; returns how
 * many (at most WORKER_FDS_MAX). lane: as for stats_block_index. */
int plumbing_descriptors(const struct plumbing *p, enum role role, uint32_t lane, int fds[WORKER_FDS_MAX]);

/* plumbing_wake rings the doorbell of the worker with this stats block index. */
void plumbing_wake(const struct plumbing *p, uint32_t block_index);

/* The ring that a worker of this role reads in a lane (transform, sink, audit); NULL for the others. */
const struct plumbing_ring *plumbing_input(const struct plumbing *p, enum role role, uint32_t lane);

#endif

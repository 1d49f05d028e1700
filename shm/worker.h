/* What every worker process stands on: the descriptors it inherits, its place in the stats segment, its doorbell, its
 * heartbeat, and the loop that calls its body's step().
 *
 * A worker is exec'ed with exactly these descriptors: 0-2, then from WORKER_FD_CONFIG on those of the two enums below,
 * and nothing else. Its arguments are `--name NAME --lane N --starts N` (the name for `ps`; the lane as in
 * stats_block_index); everything else comes from the descriptors. */
#ifndef MILLRACE_SHM_WORKER_H
#define MILLRACE_SHM_WORKER_H

#include <poll.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/err.h"
#include "shm/ledger.h"
#include "shm/ring.h"
#include "shm/stats.h"

/* Control page: written by the supervisor, read by workers. */
#define CONTROL_MAGIC 0x6c72746363696c6dULL
enum { CONTROL_VERSION = 6 };
enum control_mode {
    CONTROL_RUN,
    CONTROL_DRAIN, /* ingest: read nothing more, and leave when everything is released and committed. recon: the audit
                      log has its end; leave when what it says is counted. Others never see it */
    CONTROL_LEAVE, /* leave now, within a bounded time */
};
enum { CONTROL_ACCEPTS = 4 };
struct control { /* ABI */
    _Atomic uint64_t magic;
    uint32_t version;
    uint32_t lives;                         /* how often everything was made anew since the instance started */
    _Atomic uint32_t mode[WORKERS_MAX + 1]; /* enum control_mode, by stats block index */
    uint32_t gap;
    _Atomic uint64_t reject_number[WORKERS_MAX + 1]; /* by stats block index: number on the worker's input ring to be
                                                        rejected as `crash`; 0 none */
    _Atomic uint64_t accept_loss; /* raised by one when it is accepted that offsets are lost; ingest carries it out
                                     while ledger_ingest.accepted is less */
    struct control_accept {       /* what the n-th is about: at n % CONTROL_ACCEPTS, written before accept_loss is n;
                                     it takes the place of those before it that are not carried out yet */
        _Atomic uint64_t what;    /* control_accept_what */
        _Atomic int64_t first;    /* of a load: where in the partition it begins; -1 it has nothing there */
        _Atomic uint64_t load[2]; /* the bytes of its id; zero: an operator accepts */
    } accept[CONTROL_ACCEPTS];
    _Atomic uint64_t refeed; /* raised by one when there may be a new request in data_dir/refeed */
    uint64_t run;            /* this supervisor with this Redis, over all lives; never 0 */
};

/* Index of the topic, UINT32_MAX all, and the partition, -1 all. */
static inline uint64_t control_accept_what(uint32_t topic, int32_t partition) {
    return (uint64_t)topic << 32 | (uint32_t)partition;
}

/* Descriptor numbers in a worker. Per lane of the worker (ingest: all lanes; others: their one):
 *   ingest     out ring (3) · rejects ring (3) · the sink's ledger region · transform's doorbell
 *   transform  in ring (3) · out ring (3) · rejects ring (3) · ingest's doorbell · sink's doorbell
 *   sink       in ring (3) · transform's doorbell · own ledger region; with audit on also: audit ring (3), which it
 *              writes · audit's doorbell
 *   audit      audit ring (3) · sink's doorbell; all lanes
 *   recon      none                                                                          */
enum {
    WORKER_FD_CONFIG = 3, /* read-only: struct config, redacted for the role */
    WORKER_FD_STATS,
    WORKER_FD_CONTROL,   /* read-only */
    WORKER_FD_DOORBELL,  /* own eventfd, non-blocking */
    WORKER_FD_ATTENTION, /* eventfd of the supervisor: ring it when ready or when the state changes */
    WORKER_FD_LEDGER,    /* ingest's region: writable for ingest, else read-only */
    WORKER_FD_AUDITED,   /* audit's region: writable for audit, else read-only */
    WORKER_FD_LANES,     /* first of the per-lane ones */
};
enum {
    INGEST_LANE_FDS = 8,
    TRANSFORM_LANE_FDS = 11,
    SINK_LANE_FDS = 5,
    SINK_AUDIT_FDS = 4, /* more, with audit on */
    AUDIT_LANE_FDS = 4,
    WORKER_FDS_MAX = WORKER_FD_LANES + LANES_MAX * INGEST_LANE_FDS
};

static inline struct ring_fds worker_ring_fds(int first) { return (struct ring_fds){first, first + 1, first + 2}; }

struct worker {
    enum role role;
    uint32_t lane;
    uint32_t block_index;
    const struct config *config;
    const struct control *control;
    struct stats stats;
    struct stats_block *block;
    struct stats_local local;
    const struct clock_port *clock;
    int attention; /* WORKER_FD_ATTENTION; -1 where no supervisor listens (a body driven by a test) */
    uint64_t starts;
    uint64_t regime_since_ns;
    uint64_t usage_ns; /* when the kernel was last asked what the process has used */
};

/* What a step found to do. */
enum step {
    STEP_BUSY,    /* moved something: call again at once */
    STEP_IDLE,    /* nothing to do until the doorbell rings or the deadline passes */
    STEP_BLOCKED, /* has work and cannot go on (full ring, Redis away): wait as for STEP_IDLE */
    STEP_DONE,    /* asked to leave and has nothing left to do: exit 0 */
    STEP_FAILED,  /* exit EXIT_DONT_RESTART; the reason is in the stats block and the log */
    STEP_AGAIN,   /* exit EXIT_FAILURE: this process cannot go on, its successor can; the log says why */
    STEP_BROKEN,  /* exit EXIT_RING_BROKEN: a ring fails its checks, and the supervisor makes the rings anew */
};

/* A worker body as the loop sees it. */
struct worker_body {
    void *self;
    enum step (*step)(void *self);
    /* arm tells neighbours that this worker goes to sleep; true: there is work after all. disarm after waking. */
    bool (*arm)(void *self);
    void (*disarm)(void *self);
    /* wants fills up to max entries beside the doorbell (sockets) and lowers *timeout_ms for its next deadline.
     * Returns how many. */
    int (*wants)(void *self, struct pollfd *fds, int max, int *timeout_ms);
};

/* worker_init attaches a freshly exec'ed process: arguments, configuration, stats, control, log, processors (`cpus`;
 * threads made later inherit them), panic hook, signals (SIGPIPE, SIGXFSZ, SIGINT, SIGTERM and SIGHUP ignored: only the
 * supervisor's control page asks a worker to leave; dies with the supervisor by PR_SET_PDEATHSIG). Exits with
 * EXIT_DONT_RESTART when what it inherited is unusable. Call first in main. */
void worker_init(struct worker *w, enum role role, int argc, char **argv);

/* worker_hide closes the process to others of the same user (no core dump, not dumpable): for those that read keys.
 * Call after the rings are attached, for mapping them may go through /proc, which is closed to such a process. */
void worker_hide(void);

/* worker_ready: everything is attached and validated; Kafka or Redis need not be there. Locks the memory when
 * memory.lock asks for it. Once. */
void worker_ready(struct worker *w);

/* worker_state publishes the state and its reason ("" none; printf-like), when either changed, and tells the
 * supervisor. */
void worker_state(struct worker *w, enum worker_state state, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* worker_fail logs, publishes STATE_FAILED with the text, and returns STEP_FAILED. */
enum step worker_fail(struct worker *w, const char *event, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* worker_broken is worker_fail for a ring that fails its checks: returns STEP_BROKEN. */
enum step worker_broken(struct worker *w, const char *event, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

enum control_mode worker_mode(const struct worker *w);
uint64_t worker_reject_number(const struct worker *w);

/* worker_run calls step until it is done: spins for spin_us when idle, then sleeps on the doorbell and what the body
 * wants, at most WAIT_MS_MAX; keeps heartbeat, regimes and counters. Returns the exit status. */
int worker_run(struct worker *w, const struct worker_body *body);

#endif

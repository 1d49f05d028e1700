/* Supervisor: one epoll loop over pidfds, signals, a tick and the workers' calls for attention. */
#ifndef MILLRACE_SUPERVISOR_SUPERVISOR_H
#define MILLRACE_SUPERVISOR_SUPERVISOR_H

#include <signal.h>

#include "shm/stats_render.h"
#include "supervisor/child.h"
#include "supervisor/notify.h"
#include "supervisor/plumbing.h"

enum phase {
    PHASE_STARTING, /* not every worker has attached yet */
    PHASE_RUNNING,
    PHASE_DRAINING, /* ingest stops reading; what it has read goes through and is committed */
    PHASE_LEAVING,  /* everybody is asked to leave */
    PHASE_DONE,
};

struct supervisor {
    struct config config;
    struct plumbing plumbing;
    struct stats_local local;
    struct child child[WORKERS_MAX];
    uint32_t child_count;
    struct child_context context;
    struct notify notify;
    struct stats_status status;
    char program_folder[PATH_BYTES];
    enum phase phase;
    uint64_t phase_due_ns; /* deadline of the phase; 0 none */
    uint64_t last_tick_ns, textfile_due_ns;
    int exit_status;
    int lock_fd, epoll_fd, signal_fd, timer_fd;
};

/* supervisor_init takes the instance's lock, makes the shared memory and the descriptors of the loop. config is already
 * in s->config. Returns 0, or -1 with err.code one of sysexits.h: EX_TEMPFAIL when this name runs already. */
int supervisor_init(struct supervisor *s, const char *program_folder, struct err *err);

/* supervisor_run starts the workers and serves the loop until everybody has left. Returns the exit status: 0 drained,
 * EX_TEMPFAIL drain_timeout passed first (nothing lost, Kafka delivers the rest again), EX_CONFIG a worker asked not to
 * be restarted (its configuration, a namesake, a ring or a record it cannot go on with), EX_SOFTWARE a worker kept
 * dying. */
int supervisor_run(struct supervisor *s);

#endif

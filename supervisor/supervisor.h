/* Supervisor: one epoll loop over pidfds, signals, a tick and the workers' calls for attention. */
#ifndef MILLRACE_SUPERVISOR_SUPERVISOR_H
#define MILLRACE_SUPERVISOR_SUPERVISOR_H

#include <signal.h>

#include "shm/stats_render.h"
#include "supervisor/child.h"
#include "supervisor/control_socket.h"
#include "supervisor/notify.h"
#include "supervisor/plumbing.h"

enum phase {
    PHASE_STARTING, /* not every worker has attached yet */
    PHASE_RUNNING,
    PHASE_DRAINING, /* ingest stops reading; what it has read goes through and is committed; then ingest leaves */
    PHASE_LEAVING,  /* everybody is asked to leave */
    PHASE_DONE,
};

/* What follows when everybody has left. */
enum after {
    AFTER_STOP,
    AFTER_RELOAD, /* everything anew, with the next configuration */
    AFTER_RESET,  /* everything anew, because a ring failed its checks */
};

enum { RESETS_MAX = 3 }; /* for broken rings, within restart.window: one more, and the instance fails */

struct supervisor_reload {
    uint64_t asked, done; /* requests are numbered; the answer to `done` and all before it is there */
    bool queued;          /* the last one waits for the one under way */
    bool undoing;         /* the one under way goes back to config_before */
    bool undoable;        /* config_before can be gone back to, until undo_until_ns */
    uint64_t undo_until_ns;
    const char *result; /* of `done`: "none" "reloaded" "unchanged" "refused" "undone" */
    char text[512];     /* and why */
};

struct supervisor {
    struct config config;
    char file[PATH_BYTES]; /* where the configuration comes from, absolute; "": it cannot be reloaded */
    uint64_t files;        /* fingerprint of the files it names (supervisor/reload.h) */
    struct config config_next, config_before;
    struct supervisor_reload reload;
    struct control_socket control_socket;
    struct plumbing plumbing;
    struct stats_local local;
    struct child child[WORKERS_MAX];
    uint32_t child_count;
    struct child_context context;
    struct notify notify;
    struct stats_status status;
    char program_folder[PATH_BYTES];
    enum phase phase;
    enum after after;
    uint64_t drain_released, drain_moved_ns; /* while draining for a reload: how far the sinks were, and since when */
    uint64_t reset_ns[RESETS_MAX];           /* when the last resets for broken rings were, as a ring */
    uint32_t reset_count;
    int broken_lane;       /* whose ring a reset is for, -1: perhaps any */
    int leave_status;      /* what a stop would exit with once everybody has left */
    uint64_t phase_due_ns; /* deadline of the phase; 0 none */
    uint64_t last_tick_ns, textfile_due_ns;
    int exit_status;
    int lock_fd, data_fd, epoll_fd, signal_fd, timer_fd;
    int watched[WORKERS_MAX]; /* by child: the pidfd that the loop watches, -1 none */
};

/* supervisor_init takes the locks of the name and of the data_dir, makes the shared memory, the control socket and
 * the descriptors of the loop. config is already in s->config, and its file in s->file. Returns 0, or -1 with err.code
 * one of sysexits.h: EX_TEMPFAIL when this name runs already, EX_CONFIG when another name has the data_dir. */
int supervisor_init(struct supervisor *s, const char *program_folder, struct err *err);

/* supervisor_run starts the workers and serves the loop until everybody has left. Returns the exit status: 0 drained,
 * EX_TEMPFAIL drain_timeout passed first (nothing lost, Kafka delivers the rest again), EX_CONFIG a worker asked not to
 * be restarted (its configuration, a namesake, a record it cannot go on with), EX_SOFTWARE a worker kept dying or rings
 * kept breaking, EX_OSERR what a reload needs could not be made. */
int supervisor_run(struct supervisor *s);

/* supervisor_populate makes the children and all that refers to the plumbing, after this was made (anew). */
int supervisor_populate(struct supervisor *s, struct err *err);

#endif

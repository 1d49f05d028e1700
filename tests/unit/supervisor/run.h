/* A whole supervisor in a process of its own, with workers that follow a plan (help.h). */
#ifndef MILLRACE_TESTS_UNIT_SUPERVISOR_RUN_H
#define MILLRACE_TESTS_UNIT_SUPERVISOR_RUN_H

#include <sysexits.h>

#include "supervisor/supervisor.h"
#include "tests/unit/supervisor/help.h"

struct run {
    char folder[64];
    struct supervisor *s; /* as configured, before the fork */
    pid_t pid;
    struct stats stats;
};

static inline struct run *run_make(void) {
    static struct run r;
    static struct supervisor s;
    folder_make(r.folder);
    config_small(&s.config, r.folder);
    s.config.heartbeat_timeout_ms = 5000;
    r.s = &s;
    plan(r.folder, "ingest", "attach mark ready serve\n");
    plan(r.folder, "transform", "attach mark ready serve\n");
    plan(r.folder, "sink", "attach mark ready serve\n");
    plan(r.folder, "audit", "attach mark ready serve\n");
    plan(r.folder, "recon", "attach mark ready serve\n");
    log_init("node", "supervisor", -1, 0, LOG_ERROR);
    cr_assert_eq(prctl(PR_SET_CHILD_SUBREAPER, 1), 0); /* orphans come to this test */
    return &r;
}

static inline void run_start(struct run *r) {
    r->pid = fork();
    cr_assert_geq(r->pid, 0);
    if (r->pid == 0) {
        struct err err = {0};
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (supervisor_init(r->s, r->folder, &err) != 0) {
            fprintf(stderr, "%s\n", err.text);
            _exit(err.code);
        }
        _exit(supervisor_run(r->s));
    }
}

#define until(condition)                                                                                               \
    do {                                                                                                               \
        uint64_t until_ = clock_ns(&clock_real) + WAIT_S * NS_PER_S;                                                   \
        while (!(condition)) {                                                                                         \
            cr_assert_lt(clock_ns(&clock_real), until_, "waited in vain for: %s", #condition);                         \
            usleep(2000);                                                                                              \
        }                                                                                                              \
    } while (0)

static inline bool stats_there(struct run *r) {
    struct err err;
    return r->stats.header != NULL || stats_open(&r->stats, r->folder, "unit", &err) == 0;
}

static inline struct stats_block *block(struct run *r, enum role role, uint32_t lane) {
    until(stats_there(r));
    return stats_block(&r->stats, role == ROLE_SUPERVISOR ? 0 : stats_block_index(role, lane));
}

static inline uint32_t state(struct run *r) { return atomic_load(&block(r, ROLE_SUPERVISOR, 0)->state); }
static inline pid_t pid_of(struct run *r, enum role role) { return (pid_t)atomic_load(&block(r, role, 0)->pid); }
static inline uint64_t metric(struct run *r, enum metric m) {
    return atomic_load(&block(r, ROLE_SUPERVISOR, 0)->value[m]);
}

static inline void run_up(struct run *r) {
    run_start(r);
    until(state(r) == STATE_RUNNING);
}

/* Waits for the supervisor's end; its exit status, or minus the signal. */
static inline int run_end(struct run *r) {
    int status = 0;
    uint64_t limit = clock_ns(&clock_real) + WAIT_S * NS_PER_S;
    while (waitpid(r->pid, &status, WNOHANG) == 0) {
        cr_assert_lt(clock_ns(&clock_real), limit, "the supervisor did not end");
        usleep(2000);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static inline void run_drop(struct run *r) {
    stats_close(&r->stats);
    folder_remove(r->folder);
}

/* On which mode a worker left and when; false: it did not. */
static inline bool left(const struct run *r, enum role role, int *mode, unsigned long long *at) {
    char path[128];
    snprintf(path, sizeof path, "%s/left-%s", r->folder, role_name(role));
    FILE *f = fopen(path, "re");
    if (f == NULL) return false;
    bool whole = fscanf(f, "%d %llu", mode, at) == 2;
    fclose(f);
    return whole;
}

#endif

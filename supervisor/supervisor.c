#include "supervisor/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/log.h"
#include "base/tune.h"
#include "shm/stats_render.h"

enum { TICK_MS = 50, FORGIVE_MS = 1000, LEAVE_MS = 15000, EVENTS_MAX = 16 };
enum { TAG_SIGNAL = 1000, TAG_TIMER, TAG_ATTENTION }; /* epoll tags; below: index of a child */

/* -- start ------------------------------------------------------------------------------------- */

static int folder_make(const char *path, mode_t mode, struct err *err) {
    if (mkdir(path, mode) == 0 || errno == EEXIST) return 0;
    return err_set(err, EX_CANTCREAT, "%s: %s", path, strerror(errno));
}

/* One instance per name: the lock goes with the process, however it ends. */
static int lock_take(struct supervisor *s, struct err *err) {
    char path[PATH_BYTES + NAME_BYTES + 8];
    snprintf(path, sizeof path, "%s/%s.lock", s->config.run_dir, s->config.name);
    s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (s->lock_fd < 0) return err_set(err, EX_CANTCREAT, "%s: %s", path, strerror(errno));
    if (flock(s->lock_fd, LOCK_EX | LOCK_NB) == 0) return 0;
    if (errno == EWOULDBLOCK)
        return err_set(err, EX_TEMPFAIL, "an instance named %s is running already (%s is locked)", s->config.name,
                       path);
    return err_set(err, EX_OSERR, "%s: %s", path, strerror(errno));
}

static int watch(struct supervisor *s, int fd, uint32_t tag, struct err *err) {
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = tag};
    if (fd >= 0 && epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &e) == 0) return 0;
    return err_set(err, EX_OSERR, "event loop: %s", strerror(errno));
}

static int loop_make(struct supervisor *s, struct err *err) {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    s->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    s->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    struct itimerspec tick = {{0, TICK_MS * 1000000L}, {0, TICK_MS * 1000000L}};
    if (s->timer_fd >= 0) timerfd_settime(s->timer_fd, 0, &tick, NULL);
    if (watch(s, s->signal_fd, TAG_SIGNAL, err) != 0 || watch(s, s->timer_fd, TAG_TIMER, err) != 0) return -1;
    return watch(s, s->plumbing.attention, TAG_ATTENTION, err);
}

/* Before anything is made: huge pages that this instance takes are free until then. */
static void host_report(const struct config *c) {
    struct tune t;
    char text[256];
    tune_check(&t, "", c);
    log_info("supervisor.tuning", "%s%s", tune_summary(&t, text, sizeof text),
             tune_count(&t, TUNE_WARNING) > 0 ? " (`millrace tune check` tells more)" : "");
}

static void rings_report(struct supervisor *s) {
    uint64_t huge, bytes = plumbing_ring_bytes(&s->plumbing, &huge);
    stats_set(&s->local, M_supervisor_ring_memory, bytes);
    stats_set(&s->local, M_supervisor_ring_memory_huge, huge);
    log_info("supervisor.ring_memory", "%llu KiB of rings, %llu KiB of it in huge pages%s",
             (unsigned long long)bytes / 1024, (unsigned long long)huge / 1024,
             s->config.memory.prefault ? "; allocated" : "");
}

int supervisor_init(struct supervisor *s, const char *program_folder, struct err *err) {
    const struct config *c = &s->config;
    notify_init(&s->notify);
    if (folder_make(c->run_dir, 0750, err) != 0 || folder_make(c->data_dir, 0750, err) != 0) return -1;
    if (lock_take(s, err) != 0) return -1;
    host_report(c);
    if (plumbing_create(&s->plumbing, c, err) != 0) {
        if (err->code < EX__BASE || err->code > EX__MAX) err->code = EX_OSERR;
        return -1;
    }
    snprintf(s->program_folder, sizeof s->program_folder, "%s", program_folder);
    struct stats_block *block = stats_block(&s->plumbing.stats, 0);
    stats_local_init(&s->local, block);
    atomic_store_explicit(&block->pid, (uint32_t)getpid(), memory_order_relaxed);
    atomic_store_explicit(&block->state, STATE_STARTING, memory_order_relaxed);
    rings_report(s);
    s->context = (struct child_context){&s->plumbing, &clock_real, s->program_folder, &s->local};
    child_init(&s->child[s->child_count++], &s->plumbing, ROLE_INGEST, 0);
    for (uint32_t lane = 0; lane < c->lanes; lane++) {
        child_init(&s->child[s->child_count++], &s->plumbing, ROLE_TRANSFORM, lane);
        child_init(&s->child[s->child_count++], &s->plumbing, ROLE_SINK, lane);
    }
    return loop_make(s, err);
}

/* -- phases ------------------------------------------------------------------------------------ */

static void phase_enter(struct supervisor *s, enum phase phase, enum worker_state shown, uint32_t due_ms) {
    s->phase = phase;
    s->phase_due_ns = due_ms == 0 ? 0 : clock_ns(&clock_real) + due_ms * NS_PER_MS;
    atomic_store_explicit(&stats_block(&s->plumbing.stats, 0)->state, shown, memory_order_release);
    s->status.looked_ns = 0; /* told on the next tick */
}

static void stop_roles(struct supervisor *s, bool ingest) {
    for (uint32_t i = 0; i < s->child_count; i++)
        if ((s->child[i].role == ROLE_INGEST) == ingest) child_handle(&s->child[i], EVENT_STOP, &s->context);
}

static void drain(struct supervisor *s) {
    if (s->phase >= PHASE_DRAINING) return;
    log_info("supervisor.draining", "ingest stops reading; waiting up to %u ms until all it has read is applied",
             s->config.drain_timeout_ms);
    notify_stopping(&s->notify, s->config.drain_timeout_ms + LEAVE_MS);
    child_drain(&s->child[0], &s->context);
    phase_enter(s, PHASE_DRAINING, STATE_DRAINING, s->config.drain_timeout_ms);
}

/* Ingest leaves first: it commits what is released, which the others may still advance. */
static void leave(struct supervisor *s, int status) {
    if (s->phase >= PHASE_LEAVING) return;
    if (s->exit_status == 0) s->exit_status = status;
    notify_stopping(&s->notify, LEAVE_MS);
    stop_roles(s, true);
    phase_enter(s, PHASE_LEAVING, s->exit_status == EX_OK ? STATE_DRAINING : STATE_FAILED, 0);
}

static const struct child *failed_child(const struct supervisor *s) {
    for (uint32_t i = 0; i < s->child_count; i++)
        if (s->child[i].state == CHILD_FAILED) return &s->child[i];
    return NULL;
}

static bool all_in(const struct supervisor *s, enum child_state state) {
    for (uint32_t i = 0; i < s->child_count; i++)
        if (s->child[i].state != state && s->child[i].state != CHILD_FAILED) return false;
    return true;
}

static bool ingest_gone(const struct supervisor *s) {
    return s->child[0].state == CHILD_DOWN || s->child[0].state == CHILD_FAILED;
}

static void failure_look(struct supervisor *s) {
    const struct child *c = failed_child(s);
    if (c == NULL || s->phase >= PHASE_LEAVING) return;
    log_error("supervisor.failed", "stopping: %s[%d] %s", role_name(c->role),
              c->role == ROLE_INGEST ? -1 : (int)c->lane, c->failure);
    stats_text_set(&stats_block(&s->plumbing.stats, 0)->reason, c->failure);
    leave(s, c->refused ? EX_CONFIG : EX_SOFTWARE);
}

static void phase_look(struct supervisor *s) {
    bool due = s->phase_due_ns != 0 && clock_ns(&clock_real) >= s->phase_due_ns;
    failure_look(s);
    switch (s->phase) {
    case PHASE_STARTING:
        if (!all_in(s, CHILD_UP)) return;
        log_info("supervisor.ready", "every worker is attached");
        notify_ready(&s->notify);
        phase_enter(s, PHASE_RUNNING, STATE_RUNNING, 0);
        break;
    case PHASE_RUNNING: break;
    case PHASE_DRAINING:
        if (ingest_gone(s)) leave(s, EX_OK);
        if (!due) return;
        log_warn("supervisor.drain_timeout", "not drained in time: what is not released will be delivered again");
        leave(s, EX_TEMPFAIL);
        break;
    case PHASE_LEAVING:
        if (ingest_gone(s)) stop_roles(s, false);
        if (all_in(s, CHILD_DOWN)) phase_enter(s, PHASE_DONE, STATE_DOWN, 0);
        break;
    case PHASE_DONE: break;
    }
}

/* -- the loop ---------------------------------------------------------------------------------- */

static void signals_read(struct supervisor *s) {
    struct signalfd_siginfo info;
    while (read(s->signal_fd, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo == SIGHUP) {
            log_warn("supervisor.reload_unavailable",
                     "SIGHUP ignored: restart the instance to change its configuration");
        } else if (s->phase >= PHASE_DRAINING) {
            log_info("supervisor.signal", "asked to stop again: draining already");
        } else {
            log_info("supervisor.signal", "asked to stop by signal %u", info.ssi_signo);
            drain(s);
        }
    }
}

static void counter_reset(int fd) {
    uint64_t n;
    if (read(fd, &n, sizeof n) < 0) {
        /* EAGAIN: nothing to reset. */
    }
}

static void textfile_write(struct supervisor *s) {
    char draft[PATH_BYTES + 8];
    if (s->config.metrics.textfile[0] == 0 || clock_ns(&clock_real) < s->textfile_due_ns) return;
    s->textfile_due_ns = clock_ns(&clock_real) + s->config.metrics.interval_ms * NS_PER_MS;
    snprintf(draft, sizeof draft, "%s.new", s->config.metrics.textfile);
    FILE *f = fopen(draft, "we");
    if (f != NULL) {
        stats_render_prometheus(&s->plumbing.stats, f);
        bool whole = ferror(f) == 0;
        if (fclose(f) == 0 && whole && rename(draft, s->config.metrics.textfile) == 0) return;
    }
    log_warn("supervisor.textfile_failed", "%s: %s", draft, strerror(errno));
}

/* A worker that stays silent although it should have been killed is a supervisor that cannot do its job. */
static void service_tell(struct supervisor *s, uint64_t now) {
    bool healthy = true;
    if (s->notify.fd < 0) return;
    for (uint32_t i = 0; i < s->child_count; i++) healthy = healthy && child_fresh(&s->child[i], &s->context);
    if (stats_status(&s->plumbing.stats, &s->status, now)) notify_status(&s->notify, s->status.text);
    notify_alive(&s->notify, now, healthy);
}

static void tick(struct supervisor *s) {
    uint64_t now = clock_ns(&clock_real);
    bool forgive = s->last_tick_ns != 0 && now - s->last_tick_ns > FORGIVE_MS * NS_PER_MS;
    s->last_tick_ns = now;
    for (uint32_t i = 0; i < s->child_count; i++) child_look(&s->child[i], &s->context, forgive);
    struct stats_block *block = stats_block(&s->plumbing.stats, 0);
    atomic_store_explicit(&block->heartbeat_ns, now, memory_order_relaxed);
    stats_set(&s->local, M_supervisor_log_line_drop, log_dropped());
    stats_flush(&s->local);
    service_tell(s, now);
    textfile_write(s);
}

/* A child's pidfd changes with every start: watch the one it has now. */
static void pidfds_watch(struct supervisor *s, int watched[WORKERS_MAX]) {
    struct err err;
    for (uint32_t i = 0; i < s->child_count; i++) {
        if (s->child[i].pidfd < 0 || s->child[i].pidfd == watched[i]) continue;
        if (watch(s, s->child[i].pidfd, i, &err) == 0) watched[i] = s->child[i].pidfd;
    }
}

static void child_ended(struct supervisor *s, uint32_t i, int watched[WORKERS_MAX]) {
    epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, watched[i], NULL);
    watched[i] = -1;
    child_reap(&s->child[i], &s->context);
}

int supervisor_run(struct supervisor *s) {
    int watched[WORKERS_MAX];
    for (uint32_t i = 0; i < WORKERS_MAX; i++) watched[i] = -1;
    log_info("supervisor.started", "%u lane%s, %u workers, pid %d", s->config.lanes, s->config.lanes == 1 ? "" : "s",
             s->child_count, (int)getpid());
    for (uint32_t i = 0; i < s->child_count; i++) child_handle(&s->child[i], EVENT_START, &s->context);
    while (s->phase != PHASE_DONE) {
        pidfds_watch(s, watched);
        struct epoll_event events[EVENTS_MAX];
        int n = epoll_wait(s->epoll_fd, events, EVENTS_MAX, 1000);
        for (int i = 0; i < n; i++) {
            uint32_t tag = events[i].data.u32;
            if (tag == TAG_SIGNAL) signals_read(s);
            if (tag == TAG_TIMER) counter_reset(s->timer_fd);
            if (tag == TAG_ATTENTION) counter_reset(s->plumbing.attention);
            if (tag < WORKERS_MAX) child_ended(s, tag, watched);
        }
        tick(s);
        phase_look(s);
    }
    stats_flush(&s->local);
    log_info("supervisor.stopped", "%s", s->exit_status == EX_OK ? "drained, everything read is committed" : "stopped");
    return s->exit_status;
}

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

#include "base/fault.h"
#include "base/log.h"
#include "base/tune.h"
#include "shm/stats_render.h"
#include "supervisor/phase.h"
#include "supervisor/reload.h"
#include "supervisor/requests.h"

enum { TICK_MS = 50, FORGIVE_MS = 1000, EVENTS_MAX = 16 };
enum { TAG_SIGNAL = 1000, TAG_TIMER, TAG_ATTENTION, TAG_CONTROL }; /* epoll tags; below: index of a child */

/* -- start ------------------------------------------------------------------------------------- */

static int folder_make(const char *path, mode_t mode, struct err *err) {
    if (mkdir(path, mode) == 0 || errno == EEXIST) return 0;
    return err_set(err, EX_CANTCREAT, "%s: %s", path, strerror(errno));
}

/* One instance per name: the lock goes with the process, however it ends. */
static int lock_take(struct supervisor *s, struct err *err) {
    char path[PATH_BYTES + NAME_BYTES + 8];
    snprintf(path, sizeof path, "%s/%s.lock", s->config.run_dir, s->config.name);
    s->lock_fd = FAULT_FAILS("supervisor:lock") ? -1 : open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (s->lock_fd < 0) return err_set(err, EX_CANTCREAT, "%s: %s", path, strerror(errno));
    if (flock(s->lock_fd, LOCK_EX | LOCK_NB) == 0) return 0;
    if (errno == EWOULDBLOCK)
        return err_set(err, EX_TEMPFAIL, "an instance named %s is running already (%s is locked)", s->config.name,
                       path);
    return err_set(err, EX_OSERR, "%s: %s", path, strerror(errno));
}

/* One instance per data_dir: two of different names would append to the same file of rejected records, and cut off what
 * they take for a torn end. */
static int data_lock_take(struct supervisor *s, struct err *err) {
    const char *path = s->config.data_dir;
    s->data_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->data_fd < 0) return err_set(err, EX_CANTCREAT, "%s: %s", path, strerror(errno));
    if (flock(s->data_fd, LOCK_EX | LOCK_NB) == 0) return 0;
    if (errno == EWOULDBLOCK)
        return err_set(err, EX_CONFIG, "data_dir %s is in use by another instance: each needs a folder of its own",
                       path);
    return err_set(err, EX_OSERR, "%s: %s", path, strerror(errno));
}

static int watch(struct supervisor *s, int fd, uint32_t tag, struct err *err) {
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = tag};
    if (fd >= 0 && !FAULT_FAILS("supervisor:watch") && epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &e) == 0) return 0;
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
    return watch(s, s->control_socket.ready_fd, TAG_CONTROL, err);
}

static void rings_report(struct supervisor *s) {
    uint64_t huge, bytes = plumbing_ring_bytes(&s->plumbing, &huge);
    stats_set(&s->local, M_supervisor_ring_memory, bytes);
    stats_set(&s->local, M_supervisor_ring_memory_huge, huge);
    log_info("supervisor.ring_memory", "%llu KiB of rings, %llu KiB of it in huge pages%s",
             (unsigned long long)bytes / 1024, (unsigned long long)huge / 1024,
             s->config.memory.prefault ? "; allocated" : "");
}

int supervisor_populate(struct supervisor *s, struct err *err) {
    struct stats_block *block = stats_block(&s->plumbing.stats, 0);
    stats_local_init(&s->local, block);
    atomic_store_explicit(&block->pid, (uint32_t)getpid(), memory_order_relaxed);
    atomic_store_explicit(&block->state, STATE_STARTING, memory_order_relaxed);
    rings_report(s);
    s->context = (struct child_context){&s->plumbing, &clock_real, s->program_folder, &s->local};
    s->child_count = 0;
    child_init(&s->child[s->child_count++], &s->plumbing, ROLE_INGEST, 0);
    for (uint32_t lane = 0; lane < s->config.lanes; lane++) {
        child_init(&s->child[s->child_count++], &s->plumbing, ROLE_TRANSFORM, lane);
        child_init(&s->child[s->child_count++], &s->plumbing, ROLE_SINK, lane);
    }
    for (enum role role = ROLE_AUDIT; role <= ROLE_RECON && s->config.audit; role++)
        child_init(&s->child[s->child_count++], &s->plumbing, role, s->config.lanes);
    for (uint32_t i = 0; i < WORKERS_MAX; i++) s->watched[i] = -1;
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

int supervisor_init(struct supervisor *s, const char *program_folder, struct err *err) {
    const struct config *c = &s->config;
    notify_init(&s->notify);
    if (folder_make(c->run_dir, 0750, err) != 0 || folder_make(c->data_dir, 0750, err) != 0) return -1;
    if (lock_take(s, err) != 0 || data_lock_take(s, err) != 0) return -1;
    host_report(c);
    if (plumbing_create(&s->plumbing, c, err) != 0) {
        if (err->code < EX__BASE || err->code > EX__MAX) err->code = EX_OSERR;
        return -1;
    }
    snprintf(s->program_folder, sizeof s->program_folder, "%s", program_folder);
    s->files = reload_files(c);
    s->reload.result = "none";
    if (control_socket_open(&s->control_socket, c->run_dir, c->name, requests_answer, s, err) != 0) return -1;
    return loop_make(s, err) != 0 ? -1 : supervisor_populate(s, err);
}

/* -- the loop ---------------------------------------------------------------------------------- */

static void signals_read(struct supervisor *s) {
    struct signalfd_siginfo info;
    while (read(s->signal_fd, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo == SIGHUP) {
            log_info("supervisor.signal", "asked to reload by a hangup signal");
            phase_reload(s);
        } else {
            log_info("supervisor.signal", "asked to stop by signal %u", info.ssi_signo);
            phase_stop(s);
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
    FILE *f = FAULT_FAILS("supervisor:textfile") ? NULL : fopen(draft, "we");
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
    control_socket_serve(&s->control_socket, now);
    service_tell(s, now);
    textfile_write(s);
}

/* A child's pidfd changes with every start: watch the one it has now. */
static void pidfds_watch(struct supervisor *s) {
    struct err err;
    for (uint32_t i = 0; i < s->child_count; i++) {
        if (s->child[i].pidfd < 0 || s->child[i].pidfd == s->watched[i]) continue;
        if (watch(s, s->child[i].pidfd, i, &err) == 0) s->watched[i] = s->child[i].pidfd;
    }
}

static void child_ended(struct supervisor *s, uint32_t i) {
    epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, s->watched[i], NULL);
    s->watched[i] = -1;
    child_reap(&s->child[i], &s->context);
}

int supervisor_run(struct supervisor *s) {
    log_info("supervisor.started", "%u lane%s, %u workers, pid %d", s->config.lanes, s->config.lanes == 1 ? "" : "s",
             s->child_count, (int)getpid());
    phase_start(s);
    while (s->phase != PHASE_DONE) {
        pidfds_watch(s);
        struct epoll_event events[EVENTS_MAX];
        int n = FAULT_FAILS("supervisor:wait") ? -1 : epoll_wait(s->epoll_fd, events, EVENTS_MAX, 1000);
        for (int i = 0; i < n; i++) {
            uint32_t tag = events[i].data.u32;
            if (tag == TAG_SIGNAL) signals_read(s);
            if (tag == TAG_TIMER) counter_reset(s->timer_fd);
            if (tag == TAG_ATTENTION) counter_reset(s->plumbing.attention);
            if (tag == TAG_CONTROL) control_socket_serve(&s->control_socket, clock_ns(&clock_real));
            if (tag < WORKERS_MAX) child_ended(s, tag);
        }
        tick(s);
        phase_look(s);
    }
    stats_flush(&s->local);
    control_socket_close(&s->control_socket, s->config.run_dir, s->config.name);
    if (s->exit_status == EX_OK)
        log_info("supervisor.stopped", "drained, everything read is committed");
    else
        log_info("supervisor.stopped", "with status %d", s->exit_status);
    return s->exit_status;
}

#include "shm/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/log.h"
#include "shm/place.h"
#include "shm/workspace.h"

enum { FLUSH_NS = 10 * 1000 * 1000, USAGE_NS = 500 * 1000 * 1000, POLL_MAX = 8 };

static struct stats_block *panic_block; /* where check_failed leaves its text; one process, one worker */

static void panic_save(const char *text) { stats_text_set(&panic_block->panic, text); }

_Noreturn static void refuse(const char *what, const struct err *err) {
    log_error("worker.cannot_attach", "%s: %s", what, err->text);
    exit(err_exit(err, EXIT_DONT_RESTART));
}

static uint64_t argument(int argc, char **argv, const char *name) {
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0) return strtoull(argv[i + 1], NULL, 10);
    fprintf(stderr, "%s is started by millrace-supervisor; see `millrace run --help`\n", argv[0]);
    exit(EXIT_DONT_RESTART);
}

/* A worker never outlives its supervisor: it could not be replaced, and it would hold the group membership and the
 * names of connections that the next instance needs. The parent is compared afterwards, for it may be gone already. */
static void die_with_supervisor(const struct worker *w) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    uint32_t supervisor = atomic_load_explicit(&stats_block(&w->stats, 0)->pid, memory_order_relaxed);
    if ((uint32_t)getppid() != supervisor) _exit(EXIT_DONT_RESTART);
}

/* What runs where is a matter of speed only: a worker that cannot have its processors works on others, and says so. */
static void pin(struct worker *w) {
    struct cpus got;
    struct err err;
    char text[2][128];
    const struct cpus *wanted = config_cpus_of(w->config, w->role, w->lane);
    stats_set(&w->local, M_worker_cpu_pinned, 0);
    if (wanted == NULL) return;
    int failed = place_pin(wanted, &got, &err);
    cpus_format(wanted, text[0], sizeof text[0]);
    cpus_format(&got, text[1], sizeof text[1]);
    if (failed) {
        log_warn("worker.not_pinned", "processors %s cannot be had (%s); runs unpinned on %s", text[0], err.text,
                 text[1]);
        return;
    }
    stats_set(&w->local, M_worker_cpu_pinned, cpus_count(&got));
    if (memcmp(wanted, &got, sizeof got) == 0)
        log_info("worker.pinned", "to processors %s", text[1]);
    else
        log_warn("worker.pinned_partly",
                 "to processors %s of %s: the others do not exist or are not in this control group's set", text[1],
                 text[0]);
}

static void lock_memory(struct worker *w) {
    struct err err;
    stats_set(&w->local, M_worker_memory_locked, 0);
    if (!w->config->memory.lock) return;
    enum place_locked locked = place_lock(&err);
    uint64_t bytes = place_locked_bytes();
    stats_set(&w->local, M_worker_memory_locked, bytes);
    if (locked == PLACE_UNLOCKED)
        log_warn("worker.memory_not_locked", "memory may be swapped out: %s", err.text);
    else if (locked == PLACE_LOCKED)
        log_info("worker.memory_locked", "%llu KiB of address space, and what will be added",
                 (unsigned long long)bytes / 1024);
    else
        log_warn("worker.memory_locked_partly",
                 "%llu KiB of address space; what will be added is not locked, for RLIMIT_MEMLOCK is not unlimited",
                 (unsigned long long)bytes / 1024);
}

void worker_init(struct worker *w, enum role role, int argc, char **argv) {
    struct err err = {0};
    *w = (struct worker){.role = role, .clock = &clock_real, .attention = WORKER_FD_ATTENTION};
    w->lane = (uint32_t)argument(argc, argv, "--lane");
    w->starts = argument(argc, argv, "--starts");
    int lane = role_in_lanes(role) ? (int)w->lane : -1;
    log_init("", role_name(role), lane, 0, LOG_INFO);
    w->config = workspace_map(WORKER_FD_CONFIG, sizeof *w->config, false, NULL, &err);
    if (w->config == NULL) refuse("configuration", &err);
    if (w->config->abi != CONFIG_ABI) {
        err_set(&err, EINVAL, "made by another build");
        refuse("configuration", &err);
    }
    char where[2 * NAME_BYTES];
    snprintf(where, sizeof where, "%.63s/%.63s", w->config->name, w->config->instance);
    log_init(where, role_name(role), lane, w->config->log.format == LOG_JSON, w->config->log.level);
    if (stats_map(&w->stats, WORKER_FD_STATS, &err) != 0) refuse("stats", &err);
    w->control = workspace_map(WORKER_FD_CONTROL, sizeof *w->control, false, NULL, &err);
    if (w->control == NULL) refuse("control page", &err);
    if (atomic_load_explicit(&w->control->magic, memory_order_acquire) != CONTROL_MAGIC ||
        w->control->version != CONTROL_VERSION) {
        err_set(&err, EINVAL, "made by another build");
        refuse("control page", &err);
    }
    w->block_index = stats_block_index(role, w->lane);
    w->block = stats_block(&w->stats, w->block_index);
    die_with_supervisor(w);
    stats_local_init(&w->local, w->block);
    pin(w);
    if (w->config->spin_us > 0)
        log_info("worker.spins", "for %u microseconds without work before it sleeps", w->config->spin_us);
    panic_block = w->block;
    check_hook_set(panic_save);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file-size limit is an error of the write, as a full disk is */
    /* A terminal or a service manager may send these to every process: the supervisor decides what they mean. */
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    atomic_store_explicit(&w->block->heartbeat_ns, clock_ns(w->clock), memory_order_relaxed);
    w->regime_since_ns = clock_ns(w->clock);
}

void worker_hide(void) {
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    prctl(PR_SET_DUMPABLE, 0);
}

static void attention_ring(const struct worker *w) {
    uint64_t one = 1;
    if (w->attention >= 0 && write(w->attention, &one, sizeof one) < 0) {
        /* The supervisor also looks on its timer. */
    }
}

void worker_ready(struct worker *w) {
    lock_memory(w);
    atomic_store_explicit(&w->block->ready, w->starts, memory_order_release);
    log_info("worker.ready", "attached and validated, start %llu", (unsigned long long)w->starts);
    stats_text_set(&w->block->reason, "");
    atomic_store_explicit(&w->block->state, STATE_CONNECTING, memory_order_release);
    attention_ring(w);
}

void worker_state(struct worker *w, enum worker_state state, const char *format, ...) {
    char text[STATS_TEXT_BYTES], old[STATS_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    stats_text_get(&w->block->reason, old);
    bool same_state = atomic_load_explicit(&w->block->state, memory_order_relaxed) == (uint32_t)state;
    if (same_state && strcmp(text, old) == 0) return;
    if (strcmp(text, old) != 0) stats_text_set(&w->block->reason, text);
    atomic_store_explicit(&w->block->state, state, memory_order_release);
    if (state == STATE_BLOCKED)
        log_warn("worker.blocked", "blocked: %s", text);
    else if (!same_state || (state == STATE_CONNECTING && old[0] == 0)) /* why not at once is known after a try */
        log_info("worker.state", "%s%s%s", worker_state_name(state), text[0] != 0 ? ": " : "", text);
    attention_ring(w);
}

static void failed(struct worker *w, const char *event, const char *format, va_list args) {
    char text[STATS_TEXT_BYTES];
    vsnprintf(text, sizeof text, format, args);
    log_error(event, "%s", text);
    stats_text_set(&w->block->reason, text);
    atomic_store_explicit(&w->block->state, STATE_FAILED, memory_order_release);
}

enum step worker_fail(struct worker *w, const char *event, const char *format, ...) {
    va_list args;
    va_start(args, format);
    failed(w, event, format, args);
    va_end(args);
    return STEP_FAILED;
}

enum step worker_broken(struct worker *w, const char *event, const char *format, ...) {
    va_list args;
    va_start(args, format);
    failed(w, event, format, args);
    va_end(args);
    return STEP_BROKEN;
}

enum control_mode worker_mode(const struct worker *w) {
    return (enum control_mode)atomic_load_explicit(&w->control->mode[w->block_index], memory_order_acquire);
}

uint64_t worker_reject_number(const struct worker *w) {
    return atomic_load_explicit(&w->control->reject_number[w->block_index], memory_order_acquire);
}

/* -- the loop ---------------------------------------------------------------------------------- */

static void regime_account(struct worker *w, enum metric regime, uint64_t now) {
    stats_add(&w->local, regime, now - w->regime_since_ns);
    w->regime_since_ns = now;
}

static void usage_account(struct worker *w, uint64_t now) {
    struct rusage u;
    if (now - w->usage_ns < USAGE_NS || getrusage(RUSAGE_SELF, &u) != 0) return;
    w->usage_ns = now;
    stats_set(&w->local, M_worker_cpu,
              ((uint64_t)u.ru_utime.tv_sec + (uint64_t)u.ru_stime.tv_sec) * NS_PER_S +
                  ((uint64_t)u.ru_utime.tv_usec + (uint64_t)u.ru_stime.tv_usec) * 1000);
    stats_set(&w->local, M_worker_memory_peak, (uint64_t)u.ru_maxrss * 1024);
    stats_set(&w->local, M_worker_context_switch, (uint64_t)u.ru_nvcsw + (uint64_t)u.ru_nivcsw);
    stats_set(&w->local, M_worker_page_fault, (uint64_t)u.ru_minflt + (uint64_t)u.ru_majflt);
}

/* Sleeps until the doorbell, a socket of the body, or a deadline; no longer than WAIT_MS_MAX in any case. */
static void nap(const struct worker_body *body) {
    struct pollfd fds[POLL_MAX] = {{.fd = WORKER_FD_DOORBELL, .events = POLLIN}};
    int timeout_ms = WAIT_MS_MAX;
    int n = body->wants != NULL ? body->wants(body->self, fds + 1, POLL_MAX - 1, &timeout_ms) : 0;
    if (timeout_ms > WAIT_MS_MAX) timeout_ms = WAIT_MS_MAX;
    if (poll(fds, (nfds_t)n + 1, timeout_ms) > 0 && (fds[0].revents & POLLIN) != 0) {
        uint64_t rings;
        if (read(WORKER_FD_DOORBELL, &rings, sizeof rings) < 0) {
            /* EAGAIN: nothing to reset. */
        }
    }
}

static void sleep_unless_work(struct worker *w, const struct worker_body *body) {
    stats_flush(&w->local);
    if (!body->arm(body->self)) nap(body);
    body->disarm(body->self);
}

int worker_run(struct worker *w, const struct worker_body *body) {
    uint64_t spin_ns = w->config->spin_us * 1000ULL, idle_since = 0, flushed = 0;
    for (;;) {
        enum step step = body->step(body->self);
        uint64_t now = clock_ns(w->clock);
        atomic_store_explicit(&w->block->heartbeat_ns, now, memory_order_relaxed);
        if (now - flushed >= FLUSH_NS) {
            usage_account(w, now); /* a worker that never rests is the one to look at */
            stats_flush(&w->local);
            flushed = now;
        }
        if (step == STEP_BUSY) {
            regime_account(w, M_worker_regime_busy, now);
            idle_since = 0;
            continue;
        }
        if (step == STEP_DONE || step == STEP_FAILED || step == STEP_AGAIN || step == STEP_BROKEN) {
            stats_flush(&w->local);
            if (step == STEP_AGAIN) return EXIT_FAILURE;
            return step == STEP_DONE ? EXIT_ASKED : step == STEP_FAILED ? EXIT_DONT_RESTART : EXIT_RING_BROKEN;
        }
        if (idle_since == 0) idle_since = now;
        if (now - idle_since >= spin_ns) sleep_unless_work(w, body);
        regime_account(w, step == STEP_IDLE ? M_worker_regime_idle : M_worker_regime_blocked, clock_ns(w->clock));
    }
}

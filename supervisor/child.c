#include "supervisor/child.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/log.h"
#include "supervisor/spawn.h"

enum { BACKOFF_MS_FIRST = 50, STOP_MS = 5000, POISON_WINDOW = 1000 };
enum { CATCH_UP_MS = 8000 }; /* what recon gets to count the end of the audit log */

/* A hung worker burns when it had this share of one processor: more than a stopped one ever shows, and no more than one
 * that spins gets on a machine with several times as much to do as it has processors. */
enum { BURNING_SHARE = 10 };

const char *child_state_name(enum child_state state) {
    static const char *const names[] = {"down", "starting", "up", "stopping", "backoff", "failed"};
    static_assert(sizeof names / sizeof names[0] == CHILD_STATE_COUNT, "a name per state");
    return names[state];
}

const char *child_event_name(enum child_event event) {
    static const char *const names[] = {"start", "ready", "left", "died", "refused", "broken", "hung", "stop", "due"};
    static_assert(sizeof names / sizeof names[0] == CHILD_EVENT_COUNT, "a name per event");
    return names[event];
}

void child_init(struct child *c, const struct plumbing *p, enum role role, uint32_t lane) {
    *c = (struct child){.role = role, .lane = lane, .pidfd = -1, .block_index = stats_block_index(role, lane)};
    c->block = stats_block(&p->stats, c->block_index);
    c->starts = atomic_load_explicit(&c->block->starts, memory_order_relaxed);
    c->apart = role == ROLE_RECON;
    if (role_in_lanes(role))
        snprintf(c->name, sizeof c->name, "%s[%u]", role_name(role), lane);
    else
        snprintf(c->name, sizeof c->name, "%s", role_name(role));
}

static void state_publish(const struct child *c, enum worker_state state, const char *reason) {
    stats_text_set(&c->block->reason, reason);
    atomic_store_explicit(&c->block->state, state, memory_order_release);
}

/* How far the worker has come, from the rings themselves: they are true even when it died before it could say so. */
static uint64_t progress(const struct child *c, const struct plumbing *p) {
    struct ring_snapshot s;
    struct err err;
    uint64_t sum = 0;
    if (c->apart) return 0;
    for (uint32_t lane = 0; lane < p->config->lanes; lane++) {
        if (role_in_lanes(c->role) && lane != c->lane) continue;
        const struct plumbing_ring *in = plumbing_input(p, c->role, lane);
        const struct plumbing_ring *ring = in != NULL ? in : &p->lane[lane].to_transform;
        if (ring_observe(&ring->ro, &s, &err) == RING_ATTACHED) sum += in != NULL ? s.released : s.published;
    }
    return sum;
}

/* -- poison: deaths that a record caused ------------------------------------------------------- */

/* Only what the worker did to itself counts: its own signals, or burning the processor until we killed it. */
static bool self_inflicted(const struct child *c) {
    switch (c->exit_signal) {
    case SIGSEGV:
    case SIGABRT:
    case SIGBUS:
    case SIGILL:
    case SIGFPE: return true;
    default: return c->hung && c->burning;
    }
}

/* Where the worker stands at a record it gives up, in records. What the sink gives up is read again with what follows
 * it, so that its numbers run ahead: what Redis has counts. */
static uint64_t stands_at(const struct child *c, uint64_t number) {
    return c->role == ROLE_SINK ? atomic_load_explicit(&c->block->value[M_sink_record_applied], memory_order_relaxed)
                                : number;
}

/* Too many poisonous records close together are a fault of the program, not of the data. */
static bool poison_breaker(struct child_poison *q, uint64_t number, uint32_t limit) {
    if (q->rejected_count == POISON_MAX) {
        memmove(q->rejected, q->rejected + 1, (POISON_MAX - 1) * sizeof q->rejected[0]);
        q->rejected_count--;
    }
    q->rejected[q->rejected_count++] = number;
    uint32_t near = 0;
    for (uint32_t i = 0; i < q->rejected_count; i++) near += number - q->rejected[i] < POISON_WINDOW;
    return near > limit;
}

/* Whether the process had attached. Before that, the record in hand is the one its predecessor left there. */
static bool attached(const struct child *c) {
    return atomic_load_explicit(&c->block->ready, memory_order_acquire) == c->starts;
}

/* The number that the worker was parsing, and in which lane; 0 none. */
static uint64_t in_hand(const struct child *c, const struct plumbing *p, uint32_t *lane) {
    struct ring_snapshot s;
    struct err err;
    for (*lane = 0; *lane < p->config->lanes; (*lane)++) {
        const struct plumbing_ring *in = plumbing_input(p, c->role, *lane);
        if (in == NULL || (role_in_lanes(c->role) && *lane != c->lane)) continue;
        if (ring_observe(&in->ro, &s, &err) == RING_ATTACHED && s.in_hand != 0) return s.in_hand;
    }
    return 0;
}

/* Counts the death against the record in hand. Returns true when there was one. May leave c->failure set. */
static bool poison_count(struct child *c, const struct child_context *x) {
    uint32_t lane;
    uint64_t number = in_hand(c, x->plumbing, &lane);
    if (number == 0 || !self_inflicted(c) || !attached(c)) return false;
    struct child_poison *q = &c->poison;
    q->attempts = q->number == number && q->lane == lane ? q->attempts + 1 : 1;
    q->number = number;
    q->lane = lane;
    const struct config *config = x->plumbing->config;
    log_warn("supervisor.record_suspect", "%s died with record %llu of lane %u in hand, %u of %u", c->name,
             (unsigned long long)q->number, lane, q->attempts, config->poison.attempts);
    if (q->attempts < config->poison.attempts) return true;
    if (c->role == ROLE_AUDIT) { /* it cannot leave one out: what is not logged is not done */
        snprintf(c->failure, sizeof c->failure, "record %llu of lane %u crashes %s", (unsigned long long)number, lane,
                 c->name);
        return true;
    }
    atomic_store_explicit(&x->plumbing->control->reject_number[c->block_index], q->number, memory_order_release);
    stats_add(x->local, M_supervisor_record_poison, 1);
    log_error("supervisor.record_poison", "record %llu of lane %u crashes %s and will be rejected",
              (unsigned long long)q->number, c->lane, role_name(c->role));
    if (poison_breaker(q, stands_at(c, q->number), config->poison.limit))
        snprintf(c->failure, sizeof c->failure, "more than %u of %d records crash %s[%u]: a fault of the program",
                 config->poison.limit, POISON_WINDOW, role_name(c->role), c->lane);
    return true;
}

/* -- actions: each returns the next state ------------------------------------------------------ */

static enum child_state do_spawn(struct child *c, const struct child_context *x) {
    struct err err = {0};
    uint64_t now = clock_ns(x->clock);
    c->starts++;
    c->started_ns = now;
    c->hung = c->burning = false;
    c->progress_at_start = progress(c, x->plumbing);
    c->heartbeat_seen = 0;
    c->heartbeat_since_ns = now;
    c->cpu_at_heartbeat_ns = 0;
    atomic_store_explicit(&c->block->starts, c->starts, memory_order_relaxed);
    atomic_store_explicit(&c->block->heartbeat_ns, now, memory_order_relaxed);
    state_publish(c, STATE_STARTING, "");
    int fds[WORKER_FDS_MAX];
    int n = plumbing_descriptors(x->plumbing, c->role, c->lane, fds);
    c->pid = spawn_worker(x->program_folder, x->plumbing->config, c->role, c->lane, c->starts, fds, n, &c->pidfd, &err);
    if (c->pid < 0) {
        log_error("supervisor.spawn_failed", "%s: %s", c->name, err.text);
        c->pid = 0;
        c->due_ns = now + NS_PER_S;
        return CHILD_BACKOFF;
    }
    FAULT("supervisor:spawned");
    atomic_store_explicit(&c->block->pid, (uint32_t)c->pid, memory_order_relaxed);
    stats_add(x->local, M_supervisor_child_start, 1);
    c->due_ns = now + x->plumbing->config->heartbeat_timeout_ms * NS_PER_MS;
    return CHILD_STARTING;
}

static enum child_state do_up(struct child *c, const struct child_context *x) {
    (void)x;
    c->due_ns = 0;
    return CHILD_UP;
}

static enum child_state do_kill(struct child *c, const struct child_context *x) {
    (void)x;
    if (c->pid > 0) kill(c->pid, SIGKILL); /* not reaped yet, so the number is still its own */
    c->due_ns = 0;
    return c->state;
}

static enum child_state do_leave(struct child *c, const struct child_context *x) {
    bool catch_up = c->apart && c->draining;
    if (!catch_up)
        atomic_store_explicit(&x->plumbing->control->mode[c->block_index], CONTROL_LEAVE, memory_order_release);
    plumbing_wake(x->plumbing, c->block_index);
    c->due_ns = clock_ns(x->clock) + (catch_up ? CATCH_UP_MS : STOP_MS) * NS_PER_MS;
    return CHILD_STOPPING;
}

static enum child_state do_gone(struct child *c, const struct child_context *x) {
    (void)x;
    c->due_ns = 0;
    state_publish(c, STATE_DOWN, "");
    return CHILD_DOWN;
}

static enum child_state fail(struct child *c) {
    c->due_ns = 0;
    state_publish(c, STATE_FAILED, c->failure);
    log_error("supervisor.child_failed", "%s is given up: %s", c->name, c->failure);
    return CHILD_FAILED;
}

static enum child_state do_refused(struct child *c, const struct child_context *x) {
    (void)x;
    stats_text_get(&c->block->reason, c->failure);
    if (c->failure[0] == 0)
        snprintf(c->failure, sizeof c->failure, "it asked not to be restarted; its log line says why");
    c->refused = true;
    return fail(c);
}

static enum child_state do_broken(struct child *c, const struct child_context *x) {
    (void)x;
    stats_text_get(&c->block->reason, c->failure);
    if (c->failure[0] == 0) snprintf(c->failure, sizeof c->failure, "a ring fails its checks");
    c->broken = true;
    c->due_ns = 0;
    state_publish(c, STATE_DOWN, c->failure);
    return CHILD_FAILED;
}

/* How many deaths without progress lie within the window, this one included. */
static uint32_t tally(struct child *c, uint64_t now, uint32_t window_ms) {
    c->death_ns[c->death_count++ % DEATHS_MAX] = now;
    uint32_t kept = c->death_count < DEATHS_MAX ? c->death_count : DEATHS_MAX, n = 0;
    for (uint32_t i = 0; i < kept; i++) n += now - c->death_ns[i] <= window_ms * NS_PER_MS;
    return n;
}

static uint64_t backoff_ns(const struct child *c, const struct child_context *x) {
    if (c->apart && c->exit_code == EXIT_DONT_RESTART)
        return x->plumbing->config->restart.backoff_ms_max * NS_PER_MS; /* it is somebody else's turn to do something */
    if (c->deaths_in_a_row <= 1) return 0;
    uint32_t doublings = c->deaths_in_a_row - 2 < 16 ? c->deaths_in_a_row - 2 : 16;
    uint64_t ms = (uint64_t)BACKOFF_MS_FIRST << doublings, cap = x->plumbing->config->restart.backoff_ms_max;
    uint32_t random;
    x->clock->random(x->clock->context, &random, sizeof random);
    if (ms > cap) ms = cap;
    return (ms / 2 + random % (ms / 2 + 1)) * NS_PER_MS;
}

static enum child_state do_died(struct child *c, const struct child_context *x) {
    uint64_t now = clock_ns(x->clock);
    const struct config *config = x->plumbing->config;
    c->failure[0] = 0;
    bool on_record = poison_count(c, x);
    bool moved = progress(c, x->plumbing) != c->progress_at_start;
    if (c->apart) moved = now - c->started_ns > config->restart.window_ms * NS_PER_MS; /* it lived for a while */
    c->deaths_in_a_row = moved ? 0 : c->deaths_in_a_row + 1;
    uint32_t n = moved || on_record || c->apart ? 0 : tally(c, now, config->restart.window_ms);
    if (n >= config->restart.limit)
        snprintf(c->failure, sizeof c->failure, "died %u times in %u s without moving a record", n,
                 config->restart.window_ms / 1000);
    if (c->failure[0] != 0) return fail(c);
    uint64_t delay = backoff_ns(c, x);
    c->due_ns = now + delay;
    char reason[STATS_TEXT_BYTES], why[STATS_TEXT_BYTES] = "";
    if (c->apart) stats_text_get(&c->block->reason, why); /* it may have said what is wrong */
    snprintf(reason, sizeof reason, "starts again in %llu ms%s%.180s", (unsigned long long)(delay / NS_PER_MS),
             why[0] != 0 ? ": " : "", why);
    state_publish(c, STATE_BACKOFF, reason);
    if (delay == 0) return do_spawn(c, x);
    return CHILD_BACKOFF;
}

static enum child_state do_left(struct child *c, const struct child_context *x) {
    return c->draining ? do_gone(c, x) : do_died(c, x);
}

typedef enum child_state (*action)(struct child *, const struct child_context *);

static const action table[][CHILD_EVENT_COUNT] = {
    [CHILD_DOWN] = {[EVENT_START] = do_spawn},
    [CHILD_STARTING] = {[EVENT_READY] = do_up,
                        [EVENT_LEFT] = do_left,
                        [EVENT_DIED] = do_died,
                        [EVENT_REFUSED] = do_refused,
                        [EVENT_BROKEN] = do_broken,
                        [EVENT_HUNG] = do_kill,
                        [EVENT_STOP] = do_leave,
                        [EVENT_DUE] = do_kill},
    [CHILD_UP] = {[EVENT_LEFT] = do_left,
                  [EVENT_DIED] = do_died,
                  [EVENT_REFUSED] = do_refused,
                  [EVENT_BROKEN] = do_broken,
                  [EVENT_HUNG] = do_kill,
                  [EVENT_STOP] = do_leave},
    [CHILD_STOPPING] = {[EVENT_LEFT] = do_gone,
                        [EVENT_DIED] = do_gone,
                        [EVENT_REFUSED] = do_gone,
                        [EVENT_BROKEN] = do_gone,
                        [EVENT_HUNG] = do_kill,
                        [EVENT_DUE] = do_kill},
    [CHILD_BACKOFF] = {[EVENT_STOP] = do_gone, [EVENT_DUE] = do_spawn},
    [CHILD_FAILED] = {NULL},
};
static_assert(sizeof table / sizeof table[0] == CHILD_STATE_COUNT, "a row per state");

void child_handle(struct child *c, enum child_event event, const struct child_context *x) {
    action act = table[c->state][event];
    enum child_state next = act != NULL ? act(c, x) : c->state;
    if (next != c->state)
        log_debug("supervisor.child", "%s: %s on %s -> %s", c->name, child_state_name(c->state),
                  child_event_name(event), child_state_name(next));
    c->state = next;
}

void child_drain(struct child *c, const struct child_context *x) {
    c->draining = true;
    atomic_store_explicit(&x->plumbing->control->mode[c->block_index], CONTROL_DRAIN, memory_order_release);
    plumbing_wake(x->plumbing, c->block_index);
}

/* -- what happened to it ----------------------------------------------------------------------- */

static void obituary(const struct child *c, const struct child_context *x) {
    char panic[STATS_TEXT_BYTES];
    stats_text_get(&c->block->panic, panic);
    if (c->exit_signal != 0) {
        if (panic[0] != 0) stats_add(x->local, M_supervisor_child_panic, 1);
        log_warn("supervisor.child_died", "%s pid %d ended by signal %d (%s)%s%s%s", c->name, (int)c->pid,
                 c->exit_signal, strsignal(c->exit_signal), c->hung ? ", it had stopped responding" : "",
                 panic[0] != 0 ? ": " : "", panic);
    } else {
        log_info("supervisor.child_left", "%s pid %d left with status %d", c->name, (int)c->pid, c->exit_code);
    }
    stats_text_set(&c->block->panic, "");
}

void child_reap(struct child *c, const struct child_context *x) {
    siginfo_t info = {0};
    if (c->pidfd < 0 || waitid(P_PIDFD, (id_t)c->pidfd, &info, WEXITED | WNOHANG) != 0 || info.si_pid == 0) return;
    bool exited = info.si_code == CLD_EXITED;
    c->exit_code = exited ? info.si_status : -1;
    c->exit_signal = exited ? 0 : info.si_status;
    FAULT("supervisor:reaped");
    obituary(c, x);
    close(c->pidfd);
    c->pidfd = -1;
    c->pid = 0;
    atomic_store_explicit(&c->block->pid, 0, memory_order_relaxed);
    enum child_event event = EVENT_DIED;
    if (exited && c->exit_code == EXIT_ASKED) event = EVENT_LEFT;
    if (exited && c->exit_code == EXIT_DONT_RESTART && !c->apart) event = EVENT_REFUSED;
    if (exited && c->exit_code == EXIT_RING_BROKEN && !c->apart) event = EVENT_BROKEN;
    bool asked = event == EVENT_LEFT && (c->draining || c->state == CHILD_STOPPING);
    stats_add(x->local, asked ? M_supervisor_child_exit : M_supervisor_child_died, 1);
    if (!asked) atomic_fetch_add_explicit(&c->block->deaths, 1, memory_order_relaxed);
    child_handle(c, event, x);
}

static uint64_t cpu_ns(pid_t pid) {
    clockid_t id;
    struct timespec t;
    if (clock_getcpuclockid(pid, &id) != 0 || clock_gettime(id, &t) != 0) return 0;
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static void heartbeat_look(struct child *c, const struct child_context *x, bool forgive, uint64_t now) {
    uint64_t beat = atomic_load_explicit(&c->block->heartbeat_ns, memory_order_relaxed);
    if (beat != c->heartbeat_seen || forgive) {
        c->heartbeat_seen = beat;
        c->heartbeat_since_ns = now;
        c->cpu_at_heartbeat_ns = cpu_ns(c->pid);
        return;
    }
    uint64_t silent = now - c->heartbeat_since_ns;
    if (c->hung || silent < x->plumbing->config->heartbeat_timeout_ms * NS_PER_MS) return;
    c->hung = true;
    c->burning = cpu_ns(c->pid) - c->cpu_at_heartbeat_ns > silent / BURNING_SHARE;
    stats_add(x->local, M_supervisor_child_hung, 1);
    log_warn("supervisor.child_hung", "%s pid %d: no heartbeat for %llu ms%s, killing it", c->name, (int)c->pid,
             (unsigned long long)(silent / NS_PER_MS), c->burning ? " while it uses the processor" : "");
    child_handle(c, EVENT_HUNG, x);
}

void child_look(struct child *c, const struct child_context *x, bool forgive) {
    uint64_t now = clock_ns(x->clock);
    if (c->state == CHILD_STARTING && attached(c)) child_handle(c, EVENT_READY, x);
    if (c->state == CHILD_STARTING && forgive && c->due_ns != 0)
        c->due_ns = now + x->plumbing->config->heartbeat_timeout_ms * NS_PER_MS;
    if (c->pid > 0) heartbeat_look(c, x, forgive, now);
    if (c->due_ns == 0 || now < c->due_ns) return;
    if (c->state == CHILD_STARTING && !c->hung) {
        c->hung = true;
        stats_add(x->local, M_supervisor_child_hung, 1);
        log_warn("supervisor.child_hung", "%s pid %d: not ready after %llu ms, killing it", c->name, (int)c->pid,
                 (unsigned long long)((now - c->started_ns) / NS_PER_MS));
    }
    child_handle(c, EVENT_DUE, x);
}

bool child_fresh(const struct child *c, const struct child_context *x) {
    uint64_t timeout_ns = x->plumbing->config->heartbeat_timeout_ms * NS_PER_MS;
    return c->apart || c->pid <= 0 || clock_ns(x->clock) - c->heartbeat_since_ns < timeout_ns;
}

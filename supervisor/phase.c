#include "supervisor/phase.h"

#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sysexits.h>

#include "base/fault.h"
#include "base/log.h"
#include "supervisor/reload.h"
#include "supervisor/ring_dump.h"

/* LEAVE_MS: how long leaving takes at most. HOPELESS_MS: a drain for a reload that has not moved for so long, while a
 * worker is in trouble, waits for what the new configuration may be about to mend. UNDO_MS: a worker that refuses the
 * new configuration so soon after a reload refuses the reload. */
enum { LEAVE_MS = 20000, HOPELESS_MS = 2000, UNDO_MS = 60000 };

static uint64_t now_ns(void) { return clock_ns(&clock_real); }

static struct stats_block *own_block(const struct supervisor *s) { return stats_block(&s->plumbing.stats, 0); }

static void phase_enter(struct supervisor *s, enum phase phase, enum worker_state shown, uint32_t due_ms) {
    s->phase = phase;
    s->phase_due_ns = due_ms == 0 ? 0 : now_ns() + due_ms * NS_PER_MS;
    atomic_store_explicit(&own_block(s)->state, shown, memory_order_release);
    s->status.looked_ns = 0; /* told on the next tick */
}

static void reason_show(struct supervisor *s, const char *reason) { stats_text_set(&own_block(s)->reason, reason); }

/* On the way to a stop, a reload or a reset. */
static bool under_way(const struct supervisor *s) { return s->phase == PHASE_DRAINING || s->phase == PHASE_LEAVING; }

const char *phase_name(const struct supervisor *s) {
    static const char *const names[] = {"starting", "running", "draining", "leaving", "done"};
    static_assert(sizeof names / sizeof names[0] == PHASE_DONE + 1, "a name per phase");
    if (under_way(s) && s->after != AFTER_STOP) return s->after == AFTER_RELOAD ? "reloading" : "resetting";
    return names[s->phase];
}

void phase_start(struct supervisor *s) {
    phase_enter(s, PHASE_STARTING, STATE_STARTING, 0);
    for (uint32_t i = 0; i < s->child_count; i++) child_handle(&s->child[i], EVENT_START, &s->context);
}

/* -- who is where ------------------------------------------------------------------------------ */

static const struct child *failed_child(const struct supervisor *s) {
    for (uint32_t i = 0; i < s->child_count; i++)
        if (s->child[i].state == CHILD_FAILED) return &s->child[i];
    return NULL;
}

/* Whether all of the chain of records are in this state, or failed. */
static bool all_in(const struct supervisor *s, enum child_state state) {
    for (uint32_t i = 0; i < s->child_count; i++)
        if (s->child[i].state != state && s->child[i].state != CHILD_FAILED && !s->child[i].apart) return false;
    return true;
}

/* The worker outside the chain; NULL: there is none. */
static struct child *apart(struct supervisor *s) {
    struct child *last = &s->child[s->child_count - 1];
    return last->apart ? last : NULL;
}

static bool ingest_gone(const struct supervisor *s) {
    return s->child[0].state == CHILD_DOWN || s->child[0].state == CHILD_FAILED;
}

/* The number of the last record that the last stage of a lane has released. From the statistics, for the rings
 * themselves may be what is broken. */
static uint64_t lane_released(const struct supervisor *s, uint32_t lane) {
    return stats_released(&s->plumbing.stats, lane);
}

static uint64_t released(const struct supervisor *s) {
    uint64_t sum = 0;
    for (uint32_t lane = 0; lane < s->plumbing.lanes; lane++) sum += lane_released(s, lane);
    return sum;
}

/* Records on the way from ingest to the last stage. Numbers that the rings of a lane cannot hold between them were
 * damaged in a ring, and tell nothing. */
static uint64_t in_the_rings(const struct supervisor *s) {
    const struct stats_block *ingest = stats_block(&s->plumbing.stats, stats_block_index(ROLE_INGEST, 0));
    uint64_t sum = 0, most = 3 * s->plumbing.config->ring_bytes / RING_HEADER_BYTES;
    for (uint32_t lane = 0; lane < s->plumbing.lanes; lane++) {
        uint64_t in = atomic_load_explicit(&ingest->lane_published[lane], memory_order_acquire);
        uint64_t n = in - lane_released(s, lane);
        if (n <= most) sum += n;
    }
    return sum;
}

static bool somebody_in_trouble(const struct supervisor *s) {
    for (uint32_t i = 0; i < s->child_count; i++) {
        uint32_t state = atomic_load_explicit(&s->child[i].block->state, memory_order_relaxed);
        if (s->child[i].apart) continue;
        if (state == STATE_BLOCKED || state == STATE_CONNECTING || state == STATE_BACKOFF) return true;
    }
    return false;
}

/* -- towards the end --------------------------------------------------------------------------- */

static void drain(struct supervisor *s, enum after after) {
    s->after = after;
    s->drain_released = released(s);
    s->drain_moved_ns = now_ns();
    log_info("supervisor.draining", "ingest stops reading; waiting up to %u ms until all it has read is applied",
             s->config.drain_timeout_ms);
    FAULT("supervisor:drain");
    child_drain(&s->child[0], &s->context);
    phase_enter(s, PHASE_DRAINING, STATE_DRAINING, s->config.drain_timeout_ms);
}

static void stop_roles(struct supervisor *s, bool ingest) {
    for (uint32_t i = 0; i < s->child_count; i++)
        if ((s->child[i].role == ROLE_INGEST) == ingest && !s->child[i].apart)
            child_handle(&s->child[i], EVENT_STOP, &s->context);
}

/* Ingest leaves first: it commits what is released, which the others may still advance. status: what a stop exits
 * with. */
static void leave(struct supervisor *s, int status) {
    if (s->phase >= PHASE_LEAVING) return;
    s->leave_status = status;
    if (s->after == AFTER_STOP) notify_stopping(&s->notify, LEAVE_MS);
    FAULT("supervisor:leave");
    stop_roles(s, true);
    bool failing = s->after == AFTER_STOP && status != EX_OK;
    phase_enter(s, PHASE_LEAVING, failing ? STATE_FAILED : STATE_DRAINING, 0);
}

void phase_stop(struct supervisor *s) {
    if (s->phase == PHASE_DONE || (under_way(s) && s->after == AFTER_STOP)) {
        log_info("supervisor.signal", "asked to stop again: draining already");
        return;
    }
    notify_stopping(&s->notify, s->config.drain_timeout_ms + LEAVE_MS);
    reason_show(s, "");
    s->reload.queued = false;
    if (!under_way(s)) {
        drain(s, AFTER_STOP);
        return;
    }
    log_info("supervisor.reload_given_up", "asked to stop: what was begun ends in a stop");
    s->after = AFTER_STOP;
    if (s->phase == PHASE_DRAINING) s->phase_due_ns = now_ns() + s->config.drain_timeout_ms * NS_PER_MS;
}

/* -- reload ------------------------------------------------------------------------------------ */

static void reload_end(struct supervisor *s, const char *result, const char *text) {
    s->reload.done = s->reload.queued ? s->reload.asked - 1 : s->reload.asked;
    s->reload.result = result;
    if (text != s->reload.text) snprintf(s->reload.text, sizeof s->reload.text, "%s", text);
}

static const char *reload_refuse(struct supervisor *s, const struct err *err) {
    stats_add(&s->local, M_supervisor_reload_refuse, 1);
    stats_flush(&s->local);
    log_error("supervisor.reload_refused", "%s; the configuration stays as it is", err->text);
    reload_end(s, "refused", err->text);
    return "refused";
}

static void go_over(struct supervisor *s, const char *why) {
    notify_reloading(&s->notify, now_ns());
    reason_show(s, why);
}

const char *phase_reload(struct supervisor *s) {
    struct err err = {0};
    if (s->phase == PHASE_DONE || (under_way(s) && s->after == AFTER_STOP)) {
        s->reload.asked++;
        err_set(&err, EX_TEMPFAIL, "the instance is stopping");
        return reload_refuse(s, &err);
    }
    if (!s->reload.queued) s->reload.asked++;
    if (under_way(s)) {
        s->reload.queued = true;
        log_info("supervisor.reload_queued", "one is under way: the file is read when that is done");
        return "queued";
    }
    enum reload_verdict verdict = reload_look(s->file, &s->config, s->files, &s->config_next, &err);
    if (verdict == RELOAD_REFUSED) return reload_refuse(s, &err);
    if (verdict == RELOAD_UNCHANGED) {
        log_info("supervisor.reload_unchanged", "%s says what is in force already: nothing to do", s->file);
        reload_end(s, "unchanged", "the file says what is in force already");
        return "unchanged";
    }
    log_info("supervisor.reloading", "%s has changed", s->file);
    go_over(s, "reloading the configuration");
    s->reload.undoable = false;
    drain(s, AFTER_RELOAD);
    return "started";
}

/* A worker cannot live with the new configuration, which nobody could know before it tried: the one before, with which
 * everything worked, comes back. */
static void undo(struct supervisor *s, const struct child *c) {
    char text[sizeof s->reload.text];
    snprintf(text, sizeof text, "%s refuses the new configuration: %s", c->name, c->failure);
    log_error("supervisor.reload_undone", "%s; going back to the one before", text);
    stats_add(&s->local, M_supervisor_reload_refuse, 1);
    s->config_next = s->config_before;
    s->reload.undoing = true;
    go_over(s, "going back to the configuration before");
    s->reload.undoable = false;
    reload_end(s, "undone", text);
    s->after = AFTER_RELOAD;
    leave(s, EX_CONFIG);
}

/* Waiting longer than this is of no use: nothing moves, and either a worker says that it cannot, or all is applied and
 * only the commit does not get through. */
static bool hopeless(struct supervisor *s) {
    uint64_t now = now_ns(), sum = released(s);
    if (s->after != AFTER_RELOAD) return false;
    if (sum != s->drain_released || !(somebody_in_trouble(s) || in_the_rings(s) == 0)) s->drain_moved_ns = now;
    s->drain_released = sum;
    return now - s->drain_moved_ns >= HOPELESS_MS * NS_PER_MS;
}

/* -- everything anew --------------------------------------------------------------------------- */

static void discarded_count(struct supervisor *s) {
    uint64_t records = in_the_rings(s);
    if (records == 0 && s->after != AFTER_RESET) return;
    stats_add(&s->local, M_supervisor_ring_reset, 1);
    stats_add(&s->local, M_supervisor_record_discard, records);
    log_warn("supervisor.ring_reset", "the rings are made anew with %llu records in them, which are read again",
             (unsigned long long)records);
}

static int remake_with(struct supervisor *s, const struct config *config, struct err *err) {
    if (config != &s->config) s->config = *config;
    s->files = reload_files(&s->config);
    return plumbing_remake(&s->plumbing, &s->config, err);
}

static void config_take(struct supervisor *s) {
    char where[2 * NAME_BYTES];
    snprintf(where, sizeof where, "%.63s/%.63s", s->config.name, s->config.instance);
    log_init(where, role_name(ROLE_SUPERVISOR), -1, s->config.log.format == LOG_JSON, s->config.log.level);
}

static int reload_remake(struct supervisor *s, struct err *err) {
    s->config_before = s->config;
    if (remake_with(s, &s->config_next, err) == 0) {
        s->reload.undoable = !s->reload.undoing;
        s->reload.undoing = false;
        s->reload.undo_until_ns = now_ns() + UNDO_MS * NS_PER_MS;
        config_take(s);
        return 0;
    }
    reload_refuse(s, err);
    return remake_with(s, &s->config_before, err);
}

static void make_anew(struct supervisor *s) {
    struct err err = {0};
    FAULT("supervisor:make_anew");
    discarded_count(s);
    if (s->after == AFTER_RESET && s->config.ring_dump) ring_dump(&s->plumbing, s->broken_lane);
    stats_flush(&s->local);
    epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, s->plumbing.attention, NULL);
    int r = s->after == AFTER_RELOAD ? reload_remake(s, &err) : remake_with(s, &s->config, &err);
    s->after = AFTER_STOP;
    if (r != 0 || supervisor_populate(s, &err) != 0) {
        log_error("supervisor.cannot_go_on", "%s", err.text);
        s->exit_status = EX_OSERR;
        phase_enter(s, PHASE_DONE, STATE_DOWN, 0);
        return;
    }
    phase_start(s);
}

/* -- failures ---------------------------------------------------------------------------------- */

/* Rings that break again and again are no accident of memory. */
static bool resets_too_many(struct supervisor *s) {
    uint64_t now = now_ns(), *oldest = &s->reset_ns[s->reset_count % RESETS_MAX];
    if (s->reset_count >= RESETS_MAX && now - *oldest <= s->config.restart.window_ms * NS_PER_MS) return true;
    *oldest = now;
    s->reset_count++;
    return false;
}

static void ring_broken(struct supervisor *s, const struct child *c) {
    log_error("supervisor.ring_broken", "%s: %s", c->name, c->failure);
    if (s->phase == PHASE_DRAINING) { /* on the way to something: what is in the rings is read again afterwards */
        leave(s, EX_TEMPFAIL);
        return;
    }
    if (resets_too_many(s)) {
        char text[STATS_TEXT_BYTES];
        snprintf(text, sizeof text, "rings broke more than %d times in %u s: %.150s", RESETS_MAX,
                 s->config.restart.window_ms / 1000, c->failure);
        log_error("supervisor.failed", "stopping: %s", text);
        reason_show(s, text);
        leave(s, EX_SOFTWARE);
        return;
    }
    s->broken_lane = role_in_lanes(c->role) ? (int)c->lane : -1;
    go_over(s, "making the rings anew");
    s->after = AFTER_RESET;
    leave(s, EX_TEMPFAIL);
}

static void failure_look(struct supervisor *s) {
    const struct child *c = failed_child(s);
    if (c == NULL || s->phase >= PHASE_LEAVING) return;
    if (c->broken) {
        ring_broken(s, c);
    } else if (s->after == AFTER_RELOAD) { /* draining for it: the new configuration may be what mends this */
        log_warn("supervisor.reload_undrained", "%s: %s", c->name, c->failure);
        leave(s, EX_TEMPFAIL);
    } else if (c->refused && s->phase < PHASE_DRAINING && s->reload.undoable && now_ns() < s->reload.undo_until_ns) {
        undo(s, c);
    } else {
        log_error("supervisor.failed", "stopping: %s: %s", c->name, c->failure);
        reason_show(s, c->failure);
        leave(s, c->refused ? EX_CONFIG : EX_SOFTWARE);
    }
}

/* -- the phases -------------------------------------------------------------------------------- */

static void starting_look(struct supervisor *s) {
    if (!all_in(s, CHILD_UP)) return;
    FAULT("supervisor:ready");
    log_info("supervisor.ready", "every worker is attached");
    notify_ready(&s->notify);
    reason_show(s, "");
    phase_enter(s, PHASE_RUNNING, STATE_RUNNING, 0);
    bool reloaded = s->reload.done + s->reload.queued < s->reload.asked;
    if (reloaded) {
        stats_add(&s->local, M_supervisor_reload, 1);
        log_info("supervisor.reloaded", "the new configuration is in force: %u lane%s, %u topic%s", s->config.lanes,
                 s->config.lanes == 1 ? "" : "s", s->config.topic_count, s->config.topic_count == 1 ? "" : "s");
        reload_end(s, "reloaded", "the new configuration is in force");
    }
    if (!s->reload.queued) return;
    s->reload.queued = false;
    s->reload.asked--; /* it keeps its number */
    phase_reload(s);
}

static void draining_look(struct supervisor *s, bool due) {
    if (ingest_gone(s)) {
        leave(s, EX_OK);
    } else if (due) {
        log_warn("supervisor.drain_timeout", "not drained in time: what is not released will be delivered again");
        leave(s, EX_TEMPFAIL);
    } else if (hopeless(s)) {
        log_warn("supervisor.reload_undrained", "nothing moves: what is not released will be delivered again");
        leave(s, EX_TEMPFAIL);
    }
}

/* It leaves last: by then the audit log has its end, and a stop in good order leaves everything counted. */
static bool apart_gone(struct supervisor *s) {
    struct child *c = apart(s);
    if (c == NULL || c->state == CHILD_DOWN) return true;
    if (c->state != CHILD_STOPPING && s->after == AFTER_STOP && s->leave_status == EX_OK) child_drain(c, &s->context);
    child_handle(c, EVENT_STOP, &s->context);
    return c->state == CHILD_DOWN;
}

static void leaving_look(struct supervisor *s) {
    if (ingest_gone(s)) stop_roles(s, false);
    if (!all_in(s, CHILD_DOWN) || !apart_gone(s)) return;
    if (s->after != AFTER_STOP) {
        make_anew(s);
        return;
    }
    s->exit_status = s->leave_status;
    phase_enter(s, PHASE_DONE, STATE_DOWN, 0);
}

void phase_look(struct supervisor *s) {
    bool due = s->phase_due_ns != 0 && now_ns() >= s->phase_due_ns;
    failure_look(s);
    switch (s->phase) {
    case PHASE_STARTING: starting_look(s); break;
    case PHASE_RUNNING: break;
    case PHASE_DRAINING: draining_look(s, due); break;
    case PHASE_LEAVING: leaving_look(s); break;
    case PHASE_DONE: break;
    }
}

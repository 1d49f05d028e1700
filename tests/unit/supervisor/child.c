/* Child: the state × event table cell by cell, restarts and their delays, when it is given up, poison, the heartbeat
 * watch; with real processes throughout. */
#include "tests/unit/supervisor/help.h"

/* -- the table, cell by cell ------------------------------------------------------------------- */

enum effect { NOTHING, SPAWNS, KILLS, ASKS_TO_LEAVE };

struct cell {
    enum child_state next;
    enum effect effect;
};

/* What child.h draws, for a worker that nobody has asked to drain; `died` stands for a first death, which is followed
 * by a restart at once. */
static const struct cell cells[CHILD_STATE_COUNT][CHILD_EVENT_COUNT] = {
    [CHILD_DOWN] = {[EVENT_START] = {CHILD_STARTING, SPAWNS},
                    [EVENT_READY] = {CHILD_DOWN, NOTHING},
                    [EVENT_LEFT] = {CHILD_DOWN, NOTHING},
                    [EVENT_DIED] = {CHILD_DOWN, NOTHING},
                    [EVENT_REFUSED] = {CHILD_DOWN, NOTHING},
                    [EVENT_BROKEN] = {CHILD_DOWN, NOTHING},
                    [EVENT_HUNG] = {CHILD_DOWN, NOTHING},
                    [EVENT_STOP] = {CHILD_DOWN, NOTHING},
                    [EVENT_DUE] = {CHILD_DOWN, NOTHING}},
    [CHILD_STARTING] = {[EVENT_START] = {CHILD_STARTING, NOTHING},
                        [EVENT_READY] = {CHILD_UP, NOTHING},
                        [EVENT_LEFT] = {CHILD_STARTING, SPAWNS},
                        [EVENT_DIED] = {CHILD_STARTING, SPAWNS},
                        [EVENT_REFUSED] = {CHILD_FAILED, NOTHING},
                        [EVENT_BROKEN] = {CHILD_FAILED, NOTHING},
                        [EVENT_HUNG] = {CHILD_STARTING, KILLS},
                        [EVENT_STOP] = {CHILD_STOPPING, ASKS_TO_LEAVE},
                        [EVENT_DUE] = {CHILD_STARTING, KILLS}},
    [CHILD_UP] = {[EVENT_START] = {CHILD_UP, NOTHING},
                  [EVENT_READY] = {CHILD_UP, NOTHING},
                  [EVENT_LEFT] = {CHILD_STARTING, SPAWNS},
                  [EVENT_DIED] = {CHILD_STARTING, SPAWNS},
                  [EVENT_REFUSED] = {CHILD_FAILED, NOTHING},
                  [EVENT_BROKEN] = {CHILD_FAILED, NOTHING},
                  [EVENT_HUNG] = {CHILD_UP, KILLS},
                  [EVENT_STOP] = {CHILD_STOPPING, ASKS_TO_LEAVE},
                  [EVENT_DUE] = {CHILD_UP, NOTHING}},
    [CHILD_STOPPING] = {[EVENT_START] = {CHILD_STOPPING, NOTHING},
                        [EVENT_READY] = {CHILD_STOPPING, NOTHING},
                        [EVENT_LEFT] = {CHILD_DOWN, NOTHING},
                        [EVENT_DIED] = {CHILD_DOWN, NOTHING},
                        [EVENT_REFUSED] = {CHILD_DOWN, NOTHING},
                        [EVENT_BROKEN] = {CHILD_DOWN, NOTHING},
                        [EVENT_HUNG] = {CHILD_STOPPING, KILLS},
                        [EVENT_STOP] = {CHILD_STOPPING, NOTHING},
                        [EVENT_DUE] = {CHILD_STOPPING, KILLS}},
    [CHILD_BACKOFF] = {[EVENT_START] = {CHILD_BACKOFF, NOTHING},
                       [EVENT_READY] = {CHILD_BACKOFF, NOTHING},
                       [EVENT_LEFT] = {CHILD_BACKOFF, NOTHING},
                       [EVENT_DIED] = {CHILD_BACKOFF, NOTHING},
                       [EVENT_REFUSED] = {CHILD_BACKOFF, NOTHING},
                       [EVENT_BROKEN] = {CHILD_BACKOFF, NOTHING},
                       [EVENT_HUNG] = {CHILD_BACKOFF, NOTHING},
                       [EVENT_STOP] = {CHILD_DOWN, NOTHING},
                       [EVENT_DUE] = {CHILD_STARTING, SPAWNS}},
    [CHILD_FAILED] = {[EVENT_START] = {CHILD_FAILED, NOTHING},
                      [EVENT_READY] = {CHILD_FAILED, NOTHING},
                      [EVENT_LEFT] = {CHILD_FAILED, NOTHING},
                      [EVENT_DIED] = {CHILD_FAILED, NOTHING},
                      [EVENT_REFUSED] = {CHILD_FAILED, NOTHING},
                      [EVENT_BROKEN] = {CHILD_FAILED, NOTHING},
                      [EVENT_HUNG] = {CHILD_FAILED, NOTHING},
                      [EVENT_STOP] = {CHILD_FAILED, NOTHING},
                      [EVENT_DUE] = {CHILD_FAILED, NOTHING}},
};

static bool state_has_process(enum child_state s) {
    return s == CHILD_STARTING || s == CHILD_UP || s == CHILD_STOPPING;
}

static bool event_ends_process(enum child_event e) { return e == EVENT_LEFT || e == EVENT_DIED || e == EVENT_REFUSED; }

static uint32_t mode_of(const struct instance *i) {
    return atomic_load(&i->plumbing.control->mode[i->child.block_index]);
}

/* Ends the process behind the child's back, as child_reap has done when it hands on one of these events. */
static void process_end(struct child *c) {
    kill(c->pid, SIGKILL);
    waitpid(c->pid, NULL, 0);
    close(c->pidfd);
    c->pid = 0;
    c->pidfd = -1;
}

static void cell_prepare(struct instance *i, enum child_state state, enum child_event event) {
    struct child *c = &i->child;
    child_init(c, &i->plumbing, ROLE_TRANSFORM, 0);
    atomic_store(&i->plumbing.control->mode[c->block_index], CONTROL_RUN);
    if (state_has_process(state)) child_begin(i);
    if (state_has_process(state) && event_ends_process(event)) process_end(c);
    c->state = state;
}

static void cell_check(struct instance *i, enum child_state state, enum child_event event) {
    struct child *c = &i->child;
    struct cell want = cells[state][event];
    cell_prepare(i, state, event);
    pid_t before = c->pid;
    uint64_t starts = c->starts;
    child_handle(c, event, &i->context);
    const char *s = child_state_name(state), *e = child_event_name(event);
    cr_assert_eq(c->state, want.next, "%s on %s: became %s", s, e, child_state_name(c->state));
    cr_assert_eq(c->starts, starts + (want.effect == SPAWNS), "%s on %s: starts", s, e);
    cr_assert_eq(mode_of(i), want.effect == ASKS_TO_LEAVE ? CONTROL_LEAVE : CONTROL_RUN, "%s on %s: mode", s, e);
    if (want.effect == SPAWNS) cr_assert(c->pid > 0 && process_runs(c->pid), "%s on %s: no process", s, e);
    if (want.effect == KILLS) {
        siginfo_t info = {0};
        cr_assert_eq(waitid(P_PID, (id_t)before, &info, WEXITED | WNOWAIT), 0);
        cr_assert_eq(info.si_status, SIGKILL, "%s on %s: ended by %d", s, e, info.si_status);
    } else if (before > 0) {
        cr_assert(process_runs(before), "%s on %s: the process is gone", s, e);
    }
    if (c->pid > 0) process_end(c);
}

Test(child, does_in_every_state_on_every_event_what_the_table_says) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    plan(i->folder, "transform", "silent\n");
    for (int s = 0; s < CHILD_STATE_COUNT; s++)
        for (int e = 0; e < CHILD_EVENT_COUNT; e++) cell_check(i, (enum child_state)s, (enum child_event)e);
    instance_drop(i);
}

Test(child, names_every_state_and_event) {
    cr_assert_str_eq(child_state_name(CHILD_DOWN), "down");
    cr_assert_str_eq(child_state_name(CHILD_FAILED), "failed");
    cr_assert_str_eq(child_event_name(EVENT_START), "start");
    cr_assert_str_eq(child_event_name(EVENT_DUE), "due");
}

/* -- the life of a worker ---------------------------------------------------------------------- */

Test(child, is_up_once_its_process_says_so_and_not_before) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    plan(i->folder, "transform", "attach wait:50 mark wait:50 ready serve\n");
    child_begin(i);
    cr_assert_eq(i->child.state, CHILD_STARTING);
    char mark[128];
    snprintf(mark, sizeof mark, "%s/pid-transform", i->folder);
    child_until(i, access(mark, F_OK) == 0);
    child_look(&i->child, &i->context, false);
    cr_assert_eq(i->child.state, CHILD_STARTING);
    child_until(i, i->child.state == CHILD_UP);
    cr_assert_eq(atomic_load(&i->child.block->pid), (uint32_t)i->child.pid);
    cr_assert_eq(atomic_load(&i->child.block->starts), 1);
    instance_drop(i);
}

Test(child, does_not_take_the_readiness_of_a_predecessor_for_its_own) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    plan(i->folder, "transform", "attach ready raise:9\nsilent\n");
    child_begin(i);
    next_death(i);
    cr_assert_eq(i->child.starts, 2);
    for (int k = 0; k < 5; k++) child_look(&i->child, &i->context, false);
    cr_assert_eq(i->child.state, CHILD_STARTING);
    instance_drop(i);
}

Test(child, that_is_not_ready_in_time_is_killed) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    plan(i->folder, "transform", "attach serve\n"); /* shows signs of life, never gets ready */
    child_begin(i);
    pid_t first = i->child.pid;
    pass_ms(i, i->config.heartbeat_timeout_ms - 1);
    child_look(&i->child, &i->context, false);
    cr_assert(process_runs(first));
    pass_ms(i, 1);
    child_until(i, i->child.pid != first);
    cr_assert_eq(i->child.exit_signal, SIGKILL);
    cr_assert_eq(counted(i, M_supervisor_child_died), 1);
    cr_assert_eq(counted(i, M_supervisor_child_hung), 1, "whoever reads of the kill finds the reason");
    instance_drop(i);
}

Test(child, that_is_asked_to_leave_leaves_and_is_not_started_again) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    plan(i->folder, "transform", "attach ready serve\n");
    child_begin(i);
    child_until(i, i->child.state == CHILD_UP);
    child_handle(&i->child, EVENT_STOP, &i->context);
    next_death(i);
    cr_assert_eq(i->child.state, CHILD_DOWN);
    cr_assert_eq(i->child.exit_code, EXIT_ASKED);
    cr_assert_eq(counted(i, M_supervisor_child_exit), 1);
    cr_assert_eq(counted(i, M_supervisor_child_died), 0);
    cr_assert_eq(atomic_load(&i->child.block->deaths), 0);
    cr_assert_eq(atomic_load(&i->child.block->state), STATE_DOWN);
    instance_drop(i);
}

Test(child, that_does_not_leave_when_asked_is_killed_after_its_time) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    plan(i->folder, "transform", "attach ready serve-for-ever\n");
    child_begin(i);
    child_until(i, i->child.state == CHILD_UP);
    child_handle(&i->child, EVENT_STOP, &i->context);
    pass_ms(i, 4999);
    child_look(&i->child, &i->context, false);
    cr_assert(process_runs(i->child.pid));
    pass_ms(i, 1);
    child_look(&i->child, &i->context, false);
    next_death(i);
    cr_assert_eq(i->child.state, CHILD_DOWN);
    cr_assert_eq(i->child.exit_signal, SIGKILL);
    instance_drop(i);
}

Test(child, that_leaves_unasked_has_died) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    plan(i->folder, "transform", "attach ready exit:0\nsilent\n");
    child_begin(i);
    next_death(i);
    cr_assert_eq(i->child.starts, 2, "it was not started again");
    cr_assert_eq(counted(i, M_supervisor_child_died), 1);
    cr_assert_eq(atomic_load(&i->child.block->deaths), 1);
    cr_assert_eq(counted(i, M_supervisor_child_exit), 0);
    instance_drop(i);
}

Test(child, that_leaves_unasked_again_and_again_is_given_up) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    plan(i->folder, "transform", "exit:0\n");
    child_begin(i);
    child_until(i, i->child.state != CHILD_BACKOFF || (pass_ms(i, 100), false));
    for (int k = 0; k < 1000 && i->child.state != CHILD_FAILED; k++) {
        pass_ms(i, 100);
        child_look(&i->child, &i->context, false);
        if (i->child.pid > 0) next_death(i);
    }
    cr_assert_eq(i->child.state, CHILD_FAILED);
    instance_drop(i);
}

Test(child, that_was_asked_to_drain_may_leave_and_is_started_again_when_it_dies_before) {
    struct instance *i = instance_make(ROLE_INGEST);
    plan(i->folder, "ingest", "attach ready serve-only-leave\nattach ready serve\n");
    child_begin(i);
    child_until(i, i->child.state == CHILD_UP);
    child_drain(&i->child, &i->context);
    cr_assert_eq(mode_of(i), CONTROL_DRAIN);
    kill(i->child.pid, SIGKILL);
    next_death(i);
    cr_assert_eq(i->child.starts, 2);
    next_death(i); /* the second one finds that it is to drain, and leaves */
    cr_assert_eq(i->child.exit_code, EXIT_ASKED);
    cr_assert_eq(i->child.state, CHILD_DOWN);
    cr_assert_eq(counted(i, M_supervisor_child_exit), 1);
    instance_drop(i);
}

Test(child, that_refuses_is_failed_with_the_reason_from_its_stats_block) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    plan(i->folder, "transform", "attach refuse\n");
    child_begin(i);
    next_death(i);
    cr_assert_eq(i->child.state, CHILD_FAILED);
    cr_assert(i->child.refused);
    cr_assert_str_eq(i->child.failure, "the reason why");
    char shown[STATS_TEXT_BYTES];
    stats_text_get(&i->child.block->reason, shown);
    cr_assert_str_eq(shown, "the reason why");
    cr_assert_eq(atomic_load(&i->child.block->state), STATE_FAILED);
    cr_assert_eq(atomic_load(&i->child.block->pid), 0);
    pass_ms(i, 3600000);
    child_look(&i->child, &i->context, false);
    cr_assert_eq(i->child.starts, 1);
    instance_drop(i);
}

Test(child, that_refuses_without_a_word_is_failed_all_the_same) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    plan(i->folder, "transform", "exit:125\n");
    child_begin(i);
    next_death(i);
    cr_assert_eq(i->child.state, CHILD_FAILED);
    cr_assert_neq(i->child.failure[0], 0);
    instance_drop(i);
}

Test(child, whose_program_is_missing_is_failed_and_not_tried_for_ever) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    char path[128];
    snprintf(path, sizeof path, "%s/millrace-transform", i->folder);
    cr_assert_eq(unlink(path), 0);
    child_begin(i);
    next_death(i);
    cr_assert_eq(i->child.state, CHILD_FAILED);
    instance_drop(i);
}

Test(child, leaves_its_panic_text_to_the_obituary_and_is_counted) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    plan(i->folder, "transform", "attach panic\nsilent\n");
    child_begin(i);
    next_death(i);
    cr_assert_eq(i->child.exit_signal, SIGABRT);
    cr_assert_eq(counted(i, M_supervisor_child_panic), 1);
    char panic[STATS_TEXT_BYTES];
    stats_text_get(&i->child.block->panic, panic);
    cr_assert_str_eq(panic, "", "the text of the last one would be shown for the next");
    instance_drop(i);
}

Test(child, keeps_no_zombie_and_no_descriptor_of_the_dead) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    plan(i->folder, "transform", "raise:9\n");
    i->config.restart.limit = 1000;
    child_begin(i);
    int highest = i->child.pidfd;
    for (int k = 0; k < 50; k++) {
        next_death(i);
        pass_ms(i, 2000);
        child_look(&i->child, &i->context, false);
        cr_assert_leq(i->child.pidfd, highest);
        cr_assert_gt(i->child.pid, 0);
    }
    process_end(&i->child);
    cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1);
    cr_assert_eq(errno, ECHILD);
    instance_drop(i);
}

/* -- restarts: at once, then with growing delays ----------------------------------------------- */

/* The delay before the next start, after the present process has died; 0: it was started at once. */
static uint64_t delay_after_death_ms(struct instance *i) {
    uint64_t starts = i->child.starts;
    next_death(i);
    if (i->child.state == CHILD_STARTING) return 0;
    cr_assert_eq(i->child.state, CHILD_BACKOFF);
    cr_assert_eq(atomic_load(&i->child.block->state), STATE_BACKOFF);
    uint64_t delay = i->child.due_ns - i->time.now_ns;
    i->time.now_ns = i->child.due_ns - 1;
    child_look(&i->child, &i->context, false);
    cr_assert_eq(i->child.starts, starts, "started before it was due");
    i->time.now_ns++;
    child_look(&i->child, &i->context, false);
    cr_assert_eq(i->child.starts, starts + 1, "not started when it was due");
    return delay / NS_PER_MS;
}

/* Random numbers fixed: 0 gives the shortest delay of each step, UINT32_MAX (odd moduli) lies somewhere inside. */
static void delays(uint32_t random, bool fixed, uint64_t out[], int n) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    plan(i->folder, "transform", "raise:9\n");
    i->config.restart.limit = 1000;
    i->config.restart.backoff_ms_max = 1000;
    i->time.random_fixed = fixed;
    i->time.random_given = random;
    i->time.random_state = random;
    child_begin(i);
    for (int k = 0; k < n; k++) out[k] = delay_after_death_ms(i);
    instance_drop(i);
}

Test(child, is_restarted_at_once_and_then_after_delays_that_double_up_to_the_cap) {
    static const uint64_t step[] = {0, 50, 100, 200, 400, 800, 1000, 1000, 1000, 1000};
    enum { N = sizeof step / sizeof step[0] };
    uint64_t low[N], any[N];
    delays(0, true, low, N);
    for (int k = 0; k < N; k++) cr_assert_eq(low[k], step[k] / 2, "death %d: %d ms", k + 1, (int)low[k]);
    for (uint32_t seed = 1; seed <= 5; seed++) {
        delays(seed, false, any, N);
        for (int k = 0; k < N; k++)
            cr_assert(any[k] >= step[k] / 2 && any[k] <= step[k], "seed %u, death %d: %d ms", seed, k + 1, (int)any[k]);
    }
}

Test(child, has_delays_with_jitter) {
    enum { N = 8 };
    uint64_t a[N], b[N];
    delays(7, false, a, N);
    delays(8, false, b, N);
    int same = 0;
    for (int k = 2; k < N; k++) same += a[k] == b[k];
    cr_assert_lt(same, N - 2, "two instances that fail together would start again together");
}

Test(child, that_has_moved_a_record_since_is_restarted_at_once_again) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    plan(i->folder, "transform",
         "raise:9\nraise:9\nraise:9\nraise:9\nattach move:1 raise:9\nraise:9\nraise:9\nsilent\n");
    i->config.restart.limit = 1000;
    feed(i, 1);
    child_begin(i);
    cr_assert_eq(delay_after_death_ms(i), 0);
    for (int k = 0; k < 3; k++) cr_assert_gt(delay_after_death_ms(i), 0);
    cr_assert_eq(delay_after_death_ms(i), 0, "it had moved a record");
    cr_assert_eq(delay_after_death_ms(i), 0, "the first death without progress after that");
    cr_assert_gt(delay_after_death_ms(i), 0);
    instance_drop(i);
}

/* -- given up ---------------------------------------------------------------------------------- */

/* Deaths `gap_ms` apart until the child fails; at most `max`. Returns how many there were. */
static int deaths_until_failed(struct instance *i, uint64_t gap_ms, int max) {
    int n = 0;
    while (n < max) {
        next_death(i);
        n++;
        if (i->child.state == CHILD_FAILED) return n;
        uint64_t due = i->child.state == CHILD_BACKOFF ? i->child.due_ns : 0;
        pass_ms(i, gap_ms);
        if (due > i->time.now_ns) i->time.now_ns = due;
        child_look(&i->child, &i->context, false);
    }
    return n;
}

Test(child, is_given_up_after_restart_limit_deaths_within_the_window) {
    static const uint32_t limits[] = {1, 2, 5, 63, 64, 65, 100};
    for (size_t k = 0; k < sizeof limits / sizeof limits[0]; k++) {
        struct instance *i = instance_make(ROLE_TRANSFORM);
        plan(i->folder, "transform", "raise:9\n");
        i->config.restart.limit = limits[k];
        i->config.restart.window_ms = 3600000;
        child_begin(i);
        cr_assert_eq(deaths_until_failed(i, 0, 150), (int)limits[k]);
        cr_assert_eq(i->child.state, CHILD_FAILED);
        cr_assert_not(i->child.refused);
        cr_assert_not_null(strstr(i->child.failure, "without moving a record"));
        instance_drop(i);
    }
}

Test(child, is_not_given_up_for_deaths_farther_apart_than_the_window_allows) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    plan(i->folder, "transform", "raise:9\n");
    i->config.restart.limit = 5;
    i->config.restart.window_ms = 60000;
    child_begin(i);
    cr_assert_eq(deaths_until_failed(i, 15001, 40), 40, "5 deaths take a little more than a minute");
    cr_assert_neq(i->child.state, CHILD_FAILED);
    cr_assert_leq(deaths_until_failed(i, 14000, 40), 5);
    cr_assert_eq(i->child.state, CHILD_FAILED);
    instance_drop(i);
}

Test(child, is_not_given_up_for_deaths_with_progress) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    plan(i->folder, "transform", "attach move:1 raise:11\n");
    i->config.restart.limit = 2;
    feed(i, 40);
    child_begin(i);
    cr_assert_eq(deaths_until_failed(i, 0, 40), 40);
    cr_assert_neq(i->child.state, CHILD_FAILED);
    instance_drop(i);
}

Test(child, counts_what_ingest_published_as_its_progress) {
    struct instance *i = instance_make(ROLE_INGEST);
    plan(i->folder, "ingest", "attach publish:3 raise:9\n");
    i->config.restart.limit = 2;
    child_begin(i);
    cr_assert_eq(deaths_until_failed(i, 0, 10), 10);
    plan(i->folder, "ingest", "attach raise:9\n");
    cr_assert_leq(deaths_until_failed(i, 0, 10), 3); /* the one that runs already may still have published */
    cr_assert_eq(i->child.state, CHILD_FAILED);
    instance_drop(i);
}

/* Puts n records onto a ring that the worker reads. */
static void fill(const struct plumbing_ring *ring, int n) {
    struct ring_producer producer;
    struct err err;
    cr_assert_eq(ring_producer_attach(&producer, &ring->rw, -1, &err), RING_ATTACHED);
    for (; n > 0; n--) {
        cr_assert_not_null(ring_reserve(&producer, 16));
        ring_stage(&producer, 16, RECORD_DATA);
    }
    ring_publish(&producer);
    ring_producer_detach(&producer);
}

Test(child, counts_what_audit_released_as_its_progress) {
    struct instance *i = instance_make(ROLE_AUDIT);
    plan(i->folder, "audit", "attach move:1 raise:9\n");
    i->config.restart.limit = 2;
    fill(&i->plumbing.lane[0].to_audit, 10);
    child_begin(i);
    cr_assert_str_eq(i->child.name, "audit");
    cr_assert_eq(deaths_until_failed(i, 0, 8), 8);
    plan(i->folder, "audit", "attach raise:9\n");
    cr_assert_leq(deaths_until_failed(i, 0, 10), 3);
    cr_assert_eq(i->child.state, CHILD_FAILED);
    instance_drop(i);
}

/* -- recon: outside the chain ------------------------------------------------------------------ */

Test(child, outside_the_chain_is_never_given_up) {
    struct instance *i = instance_make(ROLE_RECON);
    plan(i->folder, "recon", "raise:9\nexit:124\nexit:0\nraise:11\n");
    i->config.restart.limit = 2;
    i->config.restart.backoff_ms_max = 400;
    child_begin(i);
    cr_assert_str_eq(i->child.name, "recon");
    cr_assert_eq(deaths_until_failed(i, 0, 20), 20);
    cr_assert_neq(i->child.state, CHILD_FAILED);
    next_death(i);
    uint64_t delay = i->child.due_ns - i->time.now_ns;
    cr_assert(i->child.state == CHILD_BACKOFF && delay >= 200 * NS_PER_MS && delay <= 400 * NS_PER_MS);
    i->time.now_ns = i->child.due_ns;
    child_look(&i->child, &i->context, false);
    pass_ms(i, i->config.restart.window_ms + 1);
    next_death(i);
    cr_assert_neq(i->child.state, CHILD_BACKOFF, "one that lived for a while is restarted at once");
    instance_drop(i);
}

Test(child, outside_the_chain_that_refuses_says_why_and_is_tried_again) {
    struct instance *i = instance_make(ROLE_RECON);
    char shown[STATS_TEXT_BYTES];
    plan(i->folder, "recon", "attach refuse\nattach ready serve\n");
    child_begin(i);
    next_death(i);
    cr_assert_eq(i->child.state, CHILD_BACKOFF);
    stats_text_get(&i->child.block->reason, shown);
    cr_assert_str_eq(shown, "starts again in 1000 ms: the reason why");
    pass_ms(i, 1000);
    child_look(&i->child, &i->context, false);
    child_until(i, i->child.state == CHILD_UP);
    instance_drop(i);
}

Test(child, outside_the_chain_that_does_not_go_is_no_reason_to_start_the_instance_anew) {
    enum role roles[] = {ROLE_RECON, ROLE_AUDIT};
    for (int k = 0; k < 2; k++) {
        struct instance *i = instance_make(roles[k]);
        plan(i->folder, role_name(roles[k]), "attach ready silent\n");
        child_begin(i);
        child_until(i, i->child.state == CHILD_UP);
        pass_ms(i, 60000);
        cr_assert_eq(child_fresh(&i->child, &i->context), roles[k] == ROLE_RECON);
        instance_drop(i);
    }
}

Test(child, outside_the_chain_gets_time_to_catch_up_when_it_is_asked_to_drain) {
    struct instance *i = instance_make(ROLE_RECON);
    plan(i->folder, "recon", "attach ready serve-only-leave\n");
    child_begin(i);
    child_until(i, i->child.state == CHILD_UP);
    child_drain(&i->child, &i->context);
    child_handle(&i->child, EVENT_STOP, &i->context);
    cr_assert_eq(mode_of(i), CONTROL_DRAIN);
    pass_ms(i, 7900);
    child_look(&i->child, &i->context, true);
    cr_assert_eq(kill(i->child.pid, 0), 0);
    cr_assert_eq(i->child.state, CHILD_STOPPING);
    pass_ms(i, 200);
    child_look(&i->child, &i->context, true);
    child_until(i, i->child.state == CHILD_DOWN);
    instance_drop(i);
}

/* -- poison: deaths on a record ---------------------------------------------------------------- */

static uint64_t reject_number(const struct instance *i) {
    return atomic_load(&i->plumbing.control->reject_number[i->child.block_index]);
}

/* Restarts until n deaths have been handled, delays skipped. */
static void deaths(struct instance *i, int n) {
    for (; n > 0 && i->child.state != CHILD_FAILED; n--) {
        if (i->child.state == CHILD_BACKOFF) {
            i->time.now_ns = i->child.due_ns;
            child_look(&i->child, &i->context, false);
        }
        next_death(i);
    }
}

static void poisoned_by(int signal) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    char lines[64];
    snprintf(lines, sizeof lines, "attach ready hold:42 raise:%d\n", signal);
    plan(i->folder, "transform", lines);
    child_begin(i);
    deaths(i, 2);
    cr_assert_eq(reject_number(i), 0, "signal %d: rejected too early", signal);
    cr_assert_eq(counted(i, M_supervisor_record_poison), 0);
    deaths(i, 1);
    cr_assert_eq(reject_number(i), 42, "signal %d", signal);
    cr_assert_eq(counted(i, M_supervisor_record_poison), 1);
    instance_drop(i);
}

Test(child, that_kills_itself_on_one_record_poison_attempts_times_has_it_rejected) {
    static const int own[] = {SIGSEGV, SIGABRT, SIGBUS, SIGILL, SIGFPE};
    for (size_t k = 0; k < sizeof own / sizeof own[0]; k++) poisoned_by(own[k]);
}

Test(child, counts_deaths_on_a_record_apart_from_the_restart_tally) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    plan(i->folder, "transform", "attach ready hold:42 raise:11\n");
    i->config.restart.limit = 2;
    i->config.poison.attempts = 6;
    child_begin(i);
    deaths(i, 6);
    cr_assert_neq(i->child.state, CHILD_FAILED);
    cr_assert_eq(reject_number(i), 42);
    instance_drop(i);
}

Test(child, is_given_up_at_once_when_audit_crashes_on_a_record) {
    struct instance *i = instance_make(ROLE_AUDIT);
    plan(i->folder, "audit", "attach ready hold:42 raise:11\n");
    i->config.restart.limit = 1000;
    child_begin(i);
    deaths(i, 2);
    cr_assert_neq(i->child.state, CHILD_FAILED);
    deaths(i, 1);
    cr_assert_eq(i->child.state, CHILD_FAILED);
    cr_assert_str_eq(i->child.failure, "record 42 of lane 0 crashes audit");
    cr_assert_eq(reject_number(i), 0, "there is no rejecting it");
    instance_drop(i);
}

static void never_poisoned_by(const char *line) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    plan(i->folder, "transform", line);
    i->config.restart.limit = 1000;
    i->config.poison.attempts = 1;
    child_begin(i);
    deaths(i, 6);
    cr_assert_eq(reject_number(i), 0, "counted: %s", line);
    cr_assert_eq(i->child.poison.attempts, 0);
    instance_drop(i);
}

Test(child, never_counts_against_a_record_what_others_did_to_the_worker) {
    never_poisoned_by("attach ready hold:42 raise:9\n"); /* the kernel's memory killer among them */
    never_poisoned_by("attach ready hold:42 raise:15\n");
    never_poisoned_by("attach ready hold:42 raise:2\n");
    never_poisoned_by("attach ready hold:42 exit:1\n");
    never_poisoned_by("attach ready hold:42 exit:0\n");
}

Test(child, counts_nothing_against_a_record_when_none_was_in_hand) {
    never_poisoned_by("attach ready hold:42 hold:0 raise:11\n");
    never_poisoned_by("raise:11\n");
}

Test(child, does_not_blame_the_record_of_a_predecessor_for_a_death_before_attaching) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    plan(i->folder, "transform", "attach ready hold:42 raise:9\nraise:11\n");
    i->config.restart.limit = 1000;
    i->config.poison.attempts = 1;
    child_begin(i);
    deaths(i, 4);
    cr_assert_eq(reject_number(i), 0, "it never looked at the record");
    instance_drop(i);
}

Test(child, begins_to_count_anew_with_another_record) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    plan(i->folder, "transform",
         "attach ready hold:42 raise:11\nattach ready hold:42 raise:11\n"
         "attach ready hold:43 raise:11\nattach ready hold:43 raise:11\n"
         "attach ready hold:43 raise:11\nattach silent\n");
    child_begin(i);
    deaths(i, 4);
    cr_assert_eq(reject_number(i), 0);
    deaths(i, 1);
    cr_assert_eq(reject_number(i), 43);
    instance_drop(i);
}

/* Records that each crash the worker, `gap` numbers apart: after how many the lane is given up; 0: not within max. */
static int breaker(uint64_t gap, uint32_t limit, int max) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    i->config.poison.attempts = 1;
    i->config.poison.limit = limit;
    char lines[64];
    int failed_at = 0;
    for (int n = 1; n <= max && failed_at == 0; n++) {
        snprintf(lines, sizeof lines, "attach ready hold:%llu raise:11\n", (unsigned long long)(1 + (uint64_t)n * gap));
        plan(i->folder, "transform", lines);
        if (n == 1) child_begin(i);
        i->child.state = CHILD_BACKOFF; /* whatever runs by now follows the plan of before */
        if (i->child.pid > 0) process_end(&i->child);
        child_handle(&i->child, EVENT_DUE, &i->context);
        next_death(i);
        if (i->child.state == CHILD_FAILED) failed_at = n;
        cr_assert_eq(reject_number(i), 1 + (uint64_t)n * gap);
    }
    if (failed_at > 0) cr_assert_not_null(strstr(i->child.failure, "a fault of the program"));
    instance_drop(i);
    return failed_at;
}

Test(child, is_given_up_when_more_than_poison_limit_of_a_thousand_records_crash_it) {
    cr_assert_eq(breaker(1, 10, 20), 11);
    cr_assert_eq(breaker(99, 10, 20), 11, "11 records span 991 numbers");
    cr_assert_eq(breaker(1, 1, 20), 2);
    cr_assert_eq(breaker(1, 70, 80), 71);
}

Test(child, is_not_given_up_for_poisonous_records_far_apart) { cr_assert_eq(breaker(100, 10, 40), 0); }

/* What the sink gives up is read again with what follows: its numbers say nothing of how many records crash it. */
Test(child, sink_is_given_up_by_what_redis_has_and_not_by_numbers) {
    for (uint64_t applied = 1; applied <= 2000; applied += 1999) {
        struct instance *i = instance_make(ROLE_SINK);
        i->config.poison.attempts = 1;
        i->config.poison.limit = 2;
        plan(i->folder, "sink",
             "attach ready hold:1 raise:11\nattach ready hold:5000 raise:11\nattach ready hold:10000 raise:11\n"
             "attach silent\n");
        child_begin(i);
        for (int n = 0; n < 3; n++) {
            atomic_fetch_add(&i->child.block->value[M_sink_record_applied], applied);
            deaths(i, 1);
        }
        cr_assert_eq(i->child.state == CHILD_FAILED, applied == 1);
        instance_drop(i);
    }
}

/* -- the heartbeat watch ----------------------------------------------------------------------- */

Test(child, without_heartbeat_is_killed_after_its_time_and_restarted) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    plan(i->folder, "transform", "attach ready silent\nattach silent\n");
    child_begin(i);
    child_until(i, i->child.state == CHILD_UP);
    child_look(&i->child, &i->context, false);
    pass_ms(i, i->config.heartbeat_timeout_ms - 1);
    child_look(&i->child, &i->context, false);
    cr_assert_eq(counted(i, M_supervisor_child_hung), 0);
    cr_assert(child_fresh(&i->child, &i->context));
    pass_ms(i, 1);
    child_look(&i->child, &i->context, false);
    child_look(&i->child, &i->context, false);
    cr_assert_eq(counted(i, M_supervisor_child_hung), 1, "once, however often one looks before it is gone");
    cr_assert_not(child_fresh(&i->child, &i->context), "killed, but not gone yet");
    next_death(i);
    cr_assert(child_fresh(&i->child, &i->context), "a successor has its own time");
    cr_assert_eq(i->child.exit_signal, SIGKILL);
    cr_assert_eq(i->child.starts, 2);
    instance_drop(i);
}

Test(child, with_a_heartbeat_is_left_alone) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    plan(i->folder, "transform", "attach ready serve\n");
    child_begin(i);
    child_until(i, i->child.state == CHILD_UP);
    for (int k = 0; k < 50; k++) {
        uint64_t beat = atomic_load(&i->child.block->heartbeat_ns);
        while (atomic_load(&i->child.block->heartbeat_ns) == beat) usleep(500);
        pass_ms(i, i->config.heartbeat_timeout_ms - 1);
        child_look(&i->child, &i->context, false);
    }
    cr_assert_eq(counted(i, M_supervisor_child_hung), 0);
    cr_assert(process_runs(i->child.pid));
    instance_drop(i);
}

Test(child, is_forgiven_its_silence_after_a_gap_of_the_supervisor) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    plan(i->folder, "transform", "attach ready silent\n");
    child_begin(i);
    child_until(i, i->child.state == CHILD_UP);
    pass_ms(i, 100 * i->config.heartbeat_timeout_ms);
    child_look(&i->child, &i->context, true);
    pass_ms(i, i->config.heartbeat_timeout_ms - 1);
    child_look(&i->child, &i->context, false);
    cr_assert_eq(counted(i, M_supervisor_child_hung), 0, "the gap counts from its end");
    pass_ms(i, 1);
    child_look(&i->child, &i->context, false);
    cr_assert_eq(counted(i, M_supervisor_child_hung), 1);
    instance_drop(i);
}

Test(child, is_forgiven_a_late_start_after_a_gap_of_the_supervisor) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    plan(i->folder, "transform", "attach silent\n");
    child_begin(i);
    pass_ms(i, 100 * i->config.heartbeat_timeout_ms);
    child_look(&i->child, &i->context, true);
    usleep(50000);
    cr_assert(process_runs(i->child.pid), "the machine was suspended: it had no time to get ready");
    pass_ms(i, i->config.heartbeat_timeout_ms);
    child_look(&i->child, &i->context, false);
    next_death(i);
    instance_drop(i);
}

/* Hangs with record 42 in hand, the real clock running, until the watch has killed it `n` times. */
static uint64_t rejected_after_hangs(const char *line, int n) {
    struct instance *i = instance_make(ROLE_TRANSFORM);
    plan(i->folder, "transform", line);
    i->context.clock = &clock_real;
    i->config.heartbeat_timeout_ms = 600;
    i->config.restart.limit = 1000;
    i->config.restart.backoff_ms_max = 10;
    i->config.poison.attempts = (uint32_t)n;
    child_begin(i);
    child_until(i, i->child.starts == (uint64_t)n + 1);
    cr_assert_eq(counted(i, M_supervisor_child_hung), (uint64_t)n);
    uint64_t number = reject_number(i);
    instance_drop(i);
    return number;
}

Test(child, that_hangs_on_a_record_while_burning_the_processor_has_it_rejected) {
    cr_assert_eq(rejected_after_hangs("attach ready hold:42 spin\n", 2), 42);
}

Test(child, that_was_stopped_with_a_record_in_hand_does_not_blame_it) {
    cr_assert_eq(rejected_after_hangs("attach ready hold:42 stop\n", 2), 0);
    cr_assert_eq(rejected_after_hangs("attach ready hold:42 silent\n", 2), 0);
}

/* Ingest as a whole: draining, leaving, what it shows, when it sleeps. */
#include "tests/unit/ingest/help.h"

enum { RING = 65536, SMALL = 4096 };

/* -- draining ---------------------------------------------------------------------------------- */

Test(ingest, that_drains_stops_reading_and_is_done_when_all_it_read_is_committed) {
    struct bench *b = bench_reading(1, SMALL, 1, 100);
    settle(b);
    mode_set(b, CONTROL_DRAIN);
    uint32_t fetched = b->kafka.partition[0].fetched;
    cr_assert_neq(settle(b), STEP_DONE, "with records under way");
    cr_assert_eq(atomic_load(&b->worker.block->state), STATE_DRAINING);
    uint32_t n = apply(b, 0, fetched - 1);
    cr_assert_eq(n, fetched - 1);
    cr_assert_neq(settle(b), STEP_DONE);
    cr_assert_eq(apply_all(b), 1);
    b->kafka.answer = ANSWER_LATER;
    cr_assert_neq(settle(b), STEP_DONE, "before the commit was acknowledged");
    sim_answer_now(&b->kafka);
    cr_assert_eq(settle(b), STEP_DONE);
    cr_assert_eq(b->kafka.partition[0].fetched, fetched, "it read on");
    cr_assert_eq(b->kafka.partition[0].committed, fetched);
    bench_drop(b);
}

Test(ingest, that_drains_commits_at_once_and_not_on_the_timer) {
    struct bench *b = bench_reading(1, RING, 1, 10);
    settle(b);
    apply_all(b);
    mode_set(b, CONTROL_DRAIN);
    cr_assert_eq(settle(b), STEP_DONE); /* the clock stood still */
    cr_assert_eq(b->kafka.partition[0].committed, 10);
    bench_drop(b);
}

Test(ingest, that_drains_waits_for_rejects_to_be_durable) {
    struct bench *b = bench_reading(1, RING, 1, 10);
    settle(b);
    struct taken t;
    b->g->store.max_bytes = 64;
    while (take_next(b, 0, &t)) {
        if (t.head.offset == 4) reject(b, 0, &t.head, 20);
        release(b, 0, &t);
    }
    mode_set(b, CONTROL_DRAIN);
    for (int s = 0; s < 10; s++) {
        cr_assert_neq(settle(b), STEP_DONE);
        pass_ms(b, 1000);
    }
    b->g->store.max_bytes = 1 << 20;
    pass_ms(b, 1000);
    cr_assert_eq(settle(b), STEP_DONE);
    cr_assert_eq(b->kafka.partition[0].committed, 10);
    cr_assert_eq(kept_read(b->folder)->count, 1);
    bench_drop(b);
}

Test(ingest, that_drains_is_not_done_while_commits_fail) {
    struct bench *b = bench_reading(1, RING, 1, 10);
    settle(b);
    apply_all(b);
    b->kafka.answer = ANSWER_FAILS;
    mode_set(b, CONTROL_DRAIN);
    for (int s = 0; s < 20; s++) {
        for (int i = 0; i < 20; i++) cr_assert_neq(step(b), STEP_DONE);
        pass_ms(b, 1000);
    }
    b->kafka.answer = ANSWER_OK;
    cr_assert_eq(settle(b), STEP_DONE);
    bench_drop(b);
}

Test(ingest, that_never_had_a_partition_is_drained) {
    struct bench *b = bench_make(1, RING);
    ingest_starts(b);
    settle(b);
    mode_set(b, CONTROL_DRAIN);
    cr_assert_eq(settle(b), STEP_DONE);
    bench_drop(b);
}

Test(ingest, whose_partitions_were_all_taken_away_is_drained) {
    struct bench *b = bench_reading(1, RING, 2, 10);
    settle(b);
    apply_all(b);
    sim_take_away(&b->kafka, false);
    settle(b);
    cr_assert_eq(b->kafka.unassigns, 1);
    mode_set(b, CONTROL_DRAIN);
    cr_assert_eq(settle(b), STEP_DONE, "it has nothing left to do, and would wait for drain_timeout");
    bench_drop(b);
}

Test(ingest, that_was_given_nothing_is_drained) {
    struct bench *b = bench_reading(1, RING, 2, 10);
    settle(b);
    apply_all(b);
    sim_take_away(&b->kafka, false);
    settle(b);
    sim_give(&b->kafka, 0);
    settle(b);
    mode_set(b, CONTROL_DRAIN);
    cr_assert_eq(settle(b), STEP_DONE);
    bench_drop(b);
}

Test(ingest, started_anew_while_draining_commits_for_its_predecessor) {
    struct bench *b = bench_reading(1, RING, 1, 10);
    settle(b);
    mode_set(b, CONTROL_DRAIN);
    settle(b);
    ingest_dies(b);
    apply_all(b);
    ingest_starts(b);
    for (int i = 0; i < 5; i++) cr_assert_neq(settle(b), STEP_DONE, "its predecessor's records are not committed");
    sim_give(&b->kafka, 1);
    cr_assert_eq(settle(b), STEP_DONE);
    cr_assert_eq(b->kafka.partition[0].committed, 10);
    cr_assert_eq(b->kafka.partition[0].fetched, 10);
    bench_drop(b);
}

Test(ingest, that_drains_answers_a_revocation) {
    struct bench *b = bench_reading(1, RING, 1, 10);
    settle(b);
    mode_set(b, CONTROL_DRAIN);
    settle(b);
    sim_take_away(&b->kafka, true);
    cr_assert_eq(settle(b), STEP_DONE);
    cr_assert_eq(b->kafka.unassigns, 1);
    cr_assert_eq(b->kafka.commit_calls, 0);
    bench_drop(b);
}

/* -- leaving ----------------------------------------------------------------------------------- */

Test(ingest, asked_to_leave_commits_what_is_released_and_leaves_the_rest) {
    struct bench *b = bench_reading(1, RING, 1, 10);
    settle(b);
    apply(b, 0, 4);
    mode_set(b, CONTROL_LEAVE);
    cr_assert_eq(settle(b), STEP_DONE);
    cr_assert_eq(b->kafka.partition[0].committed, 4);
    bench_drop(b);
}

static void leaves_within_bounds(enum answer answer) {
    struct bench *b = bench_reading(1, RING, 1, 10);
    settle(b);
    apply(b, 0, 4);
    b->kafka.answer = answer;
    mode_set(b, CONTROL_LEAVE);
    int ms = 0;
    for (; step(b) != STEP_DONE; ms += 50) {
        cr_assert_lt(ms, 5000, "the supervisor kills it then");
        pass_ms(b, 50);
    }
    cr_assert_geq(ms, 1000, "it did not try");
    bench_drop(b);
}

Test(ingest, asked_to_leave_does_so_in_bounded_time_whatever_the_broker_does) {
    leaves_within_bounds(ANSWER_FAILS);
    leaves_within_bounds(ANSWER_REFUSED);
    leaves_within_bounds(ANSWER_NEVER_LOST);
    leaves_within_bounds(ANSWER_NEVER_DONE);
}

Test(ingest, asked_to_leave_without_partitions_leaves) {
    struct bench *b = bench_reading(1, RING, 1, 10);
    b->kafka.committed_fails = 1000;
    settle(b);
    mode_set(b, CONTROL_LEAVE);
    cr_assert_eq(settle(b), STEP_DONE);
    bench_drop(b);
}

/* -- what it shows ----------------------------------------------------------------------------- */

Test(ingest, shows_every_partition_with_its_positions) {
    struct bench *b = bench_reading(2, RING, 3, 10);
    settle(b);
    apply(b, 0, 4);
    pass_ms(b, 1000);
    settle(b);
    pass_ms(b, 100);
    settle(b);
    cr_assert_eq(atomic_load(&b->stats.header->partition_count), 3);
    const struct stats_partition *p = stats_partition(&b->stats, slot_at(b, 0, 0));
    cr_assert_eq(p->partition, 0);
    cr_assert_eq(p->lane, 0);
    cr_assert_eq(atomic_load(&p->assigned), 1);
    cr_assert_eq(atomic_load(&p->epoch), 1);
    cr_assert_eq(atomic_load(&p->position), 10);
    cr_assert_eq(atomic_load(&p->released), 4);
    cr_assert_eq(atomic_load(&p->committed), 4);
    cr_assert_eq(atomic_load(&p->high), 10);
    p = stats_partition(&b->stats, slot_at(b, 0, 1));
    cr_assert_eq(p->lane, 1);
    cr_assert_eq(atomic_load(&p->released), -1);
    cr_assert_eq(counted(b, M_ingest_partition_assigned), 3);
    bench_drop(b);
}

Test(ingest, shows_what_it_waits_for) {
    struct bench *b = bench_make(1, RING);
    uint64_t seed = 1;
    sim_fill(sim_partition_add(&b->kafka, 0, 0), 10, 0, &seed);
    ingest_starts(b);
    settle(b);
    cr_assert_eq(atomic_load(&b->worker.block->state), STATE_CONNECTING);
    sim_give(&b->kafka, 1);
    settle(b);
    cr_assert_eq(atomic_load(&b->worker.block->state), STATE_RUNNING);
    cr_assert_str_eq(reason_shown(b), "");
    bench_drop(b);
}

/* -- sleeping ---------------------------------------------------------------------------------- */

Test(ingest, does_not_go_to_sleep_over_a_reject_or_over_room_that_it_waited_for) {
    struct bench *b = bench_reading(1, SMALL, 1, 100);
    cr_assert_eq(settle(b), STEP_BLOCKED);
    cr_assert_not(ingest_arm(b->g));
    ingest_disarm(b->g);
    struct taken t;
    cr_assert(take_next(b, 0, &t));
    reject(b, 0, &t.head, 20);
    cr_assert(ingest_arm(b->g), "a reject is there");
    ingest_disarm(b->g);
    settle(b);
    cr_assert_not(ingest_arm(b->g));
    ingest_disarm(b->g);
    release(b, 0, &t);
    apply_all(b);
    cr_assert(ingest_arm(b->g), "there is room");
    ingest_disarm(b->g);
    bench_drop(b);
}

Test(ingest, sleeps_over_rejects_that_it_cannot_keep) {
    struct bench *b = bench_reading(1, RING, 1, 10);
    settle(b);
    struct taken t;
    cr_assert(take_next(b, 0, &t));
    b->g->store.max_bytes = 64;
    reject(b, 0, &t.head, 20);
    cr_assert_eq(settle(b), STEP_BLOCKED);
    cr_assert_not(ingest_arm(b->g), "it would spin until somebody makes room");
    ingest_disarm(b->g);
    bench_drop(b);
}

/* -- what it shows ----------------------------------------------------------------------------- */

static void kafka_says(struct bench *b, const char *text, bool denied) {
    struct kafka_event *e = sim_event(&b->kafka, KAFKA_TROUBLE);
    snprintf(e->text, sizeof e->text, "%s", text);
    e->denied = denied;
    settle(b);
}

static void expect_shown(struct bench *b, enum worker_state state, const char *reason) {
    char text[STATS_TEXT_BYTES];
    stats_text_get(&b->worker.block->reason, text);
    cr_assert_eq(atomic_load(&b->worker.block->state), state, "%s", text);
    cr_assert_str_eq(text, reason);
}

Test(ingest, that_waits_shows_what_kafka_said_last) {
    struct bench *b = bench_make(1, RING);
    ingest_starts(b);
    settle(b);
    expect_shown(b, STATE_CONNECTING, "waiting for partitions");
    kafka_says(b, "k:9092: Connection refused", false);
    expect_shown(b, STATE_CONNECTING, "k:9092: Connection refused");
    kafka_says(b, "k:9092: Authentication failed", true);
    expect_shown(b, STATE_BLOCKED, "k:9092: Authentication failed");
    kafka_says(b, "", false);
    expect_shown(b, STATE_BLOCKED, "k:9092: Authentication failed");
    bench_drop(b);
}

Test(ingest, that_is_given_partitions_forgets_what_kafka_said_before) {
    struct bench *b = bench_reading(1, RING, 1, 10);
    settle(b);
    kafka_says(b, "k:9092/2: certificate", true);
    expect_shown(b, STATE_RUNNING, "");
    sim_take_away(&b->kafka, false);
    apply_all(b);
    settle(b);
    expect_shown(b, STATE_BLOCKED, "k:9092/2: certificate");
    sim_give(&b->kafka, 1);
    settle(b);
    expect_shown(b, STATE_RUNNING, "");
    sim_take_away(&b->kafka, false);
    settle(b);
    expect_shown(b, STATE_CONNECTING, "waiting for partitions");
    bench_drop(b);
}

/* Without the permission for a topic the group gives nothing, and that is not a member at rest. */
Test(ingest, that_was_given_nothing_shows_what_kafka_said) {
    struct bench *b = bench_reading(1, RING, 1, 10);
    settle(b);
    apply_all(b);
    sim_take_away(&b->kafka, false);
    kafka_says(b, "Topic authorization failed", true);
    sim_give(&b->kafka, 0);
    settle(b);
    expect_shown(b, STATE_BLOCKED, "Topic authorization failed");
    bench_drop(b);
}

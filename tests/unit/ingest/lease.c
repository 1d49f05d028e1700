/* The lease: as long as the group's last word reaches, and not a moment after the group has said otherwise. */
#include "tests/unit/ingest/help.h"

enum { RING = 65536 };

static uint64_t lease(const struct bench *b) { return atomic_load(&b->ledger->lease_until_ns); }
static uint64_t after_s(const struct bench *b, uint64_t s) { return b->time.now_ns + s * NS_PER_S; }

Test(lease, is_not_there_before_a_commit_is_confirmed) {
    struct bench *b = bench_reading(1, RING, 1, 10);
    b->kafka.answer = ANSWER_LATER;
    settle(b);
    apply_all(b);
    pass_ms(b, 1000);
    uint64_t sent = b->time.now_ns;
    settle(b);
    cr_assert_eq(b->kafka.commit_calls, 1);
    cr_assert_eq(lease(b), 0);
    pass_ms(b, 5000);
    sim_answer_now(&b->kafka);
    step(b);
    cr_assert_eq(lease(b), sent + 8 * NS_PER_S, "it counts from when the commit was sent");
    bench_drop(b);
}

Test(lease, comes_soon_after_an_assignment_with_a_commit) {
    struct bench *b = bench_make(1, RING);
    sim_partition_add(&b->kafka, 0, 0)->committed = 0;
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    cr_assert_eq(lease(b), after_s(b, 8), "the broker's own commit is enough");
    cr_assert_eq(b->kafka.partition[0].committed, 0);
    bench_drop(b);
}

Test(lease, is_extended_every_second_though_nothing_is_new) {
    struct bench *b = bench_reading(1, RING, 1, 10);
    settle(b);
    apply_all(b);
    for (int s = 0; s < 60; s++) {
        pass_ms(b, 1000);
        settle(b);
        cr_assert_eq(lease(b), after_s(b, 8));
    }
    cr_assert_eq(b->kafka.partition[0].committed, 10);
    bench_drop(b);
}

Test(lease, is_not_extended_by_a_commit_that_failed) {
    struct bench *b = bench_reading(1, RING, 1, 10);
    settle(b);
    apply_all(b);
    pass_ms(b, 1000);
    settle(b);
    uint64_t until = lease(b);
    b->kafka.answer = ANSWER_FAILS;
    for (int s = 0; s < 20; s++) {
        pass_ms(b, 1000);
        settle(b);
    }
    cr_assert_eq(lease(b), until);
    b->kafka.answer = ANSWER_OK;
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(lease(b), after_s(b, 8));
    bench_drop(b);
}

Test(lease, ends_when_the_group_says_that_this_is_no_member) {
    struct bench *b = bench_reading(1, RING, 1, 10);
    settle(b);
    apply_all(b);
    pass_ms(b, 1000);
    settle(b);
    cr_assert_gt(lease(b), b->time.now_ns);
    struct kafka_event *e = sim_event(&b->kafka, KAFKA_COMMITTED);
    uint64_t before = b->time.now_ns;
    pass_ms(b, 100);
    e->ok = false;
    e->expelled = true;
    step(b);
    cr_assert_eq(lease(b), 0);
    e = sim_event(&b->kafka, KAFKA_COMMITTED); /* a late answer to what was sent before that */
    sim_list_add(e, &b->kafka.partition[0]);
    e->list[0].offset = 10;
    e->expelled = false;
    e->tag = before;
    step(b);
    cr_assert_eq(lease(b), 0);
    for (int s = 0; s < 3; s++) { /* a group without members takes commits of anybody */
        pass_ms(b, 1000);
        settle(b);
    }
    cr_assert_eq(lease(b), 0);
    sim_take_away(&b->kafka, true);
    sim_give(&b->kafka, 1);
    settle(b);
    cr_assert_eq(lease(b), after_s(b, 8));
    bench_drop(b);
}

Test(lease, ends_with_the_partitions) {
    for (int lost = 0; lost < 2; lost++) {
        struct bench *b = bench_reading(1, RING, 1, 10);
        settle(b);
        apply_all(b);
        pass_ms(b, 1000);
        settle(b);
        cr_assert_gt(lease(b), b->time.now_ns);
        sim_take_away(&b->kafka, lost);
        b->kafka.fenced = lost;
        settle(b);
        cr_assert_eq(lease(b), 0);
        bench_drop(b);
    }
}

Test(lease, is_asked_for_by_nobody_whose_partitions_are_with_others) {
    struct bench *b = bench_reading(1, RING, 1, 10);
    settle(b);
    apply_all(b);
    b->kafka.fenced = true; /* the event is still on its way */
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(b->kafka.commit_calls, 0);
    cr_assert_eq(lease(b), 0);
    bench_drop(b);
}

Test(lease, of_a_predecessor_goes_on) {
    struct bench *b = bench_reading(1, RING, 1, 10);
    settle(b);
    apply_all(b);
    pass_ms(b, 1000);
    settle(b);
    uint64_t until = lease(b);
    ingest_dies(b);
    pass_ms(b, 1000);
    ingest_starts(b);
    settle(b);
    cr_assert_eq(lease(b), until);
    bench_drop(b);
}

Test(lease, is_not_needed_for_a_fixed_list_of_partitions) {
    struct bench *b = bench_make(1, RING);
    sim_partition_add(&b->kafka, 0, 0);
    b->config.topic[0].partition_count = 1;
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    cr_assert_eq(lease(b), UINT64_MAX);
    b->kafka.answer = ANSWER_FAILS;
    apply_all(b);
    pass_ms(b, 60000);
    settle(b);
    cr_assert_eq(lease(b), UINT64_MAX);
    ingest_dies(b);
    b->config.topic[0].partition_count = 0; /* a group from now on */
    ingest_starts(b);
    cr_assert_eq(lease(b), 0);
    bench_drop(b);
}

Test(lease, of_a_short_session_is_half_of_it) {
    struct bench *b = bench_make(1, RING);
    sim_partition_add(&b->kafka, 0, 0)->committed = 0;
    b->config.kafka.session_timeout_ms = 3000;
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    cr_assert_eq(lease(b), b->time.now_ns + 1500 * NS_PER_MS);
    bench_drop(b);
}

/* Rewinds: what the sink finds gone from Redis is read again under a new epoch, from the right offset, once. */
#include "tests/unit/ingest/help.h"

enum { RING = 65536 };

static void lost_note(struct bench *b, int32_t partition, uint64_t epoch, uint64_t what) {
    uint32_t slot = slot_at(b, 0, partition);
    twin_store(&b->sink[ledger_lane(partition, b->config.lanes)]->slot[slot].lost, epoch, what);
}

static uint64_t flags_of(struct bench *b, int32_t partition) { return atomic_load(&ledger_of(b, 0, partition)->flags); }
static int64_t start_of(struct bench *b, int32_t partition) { return atomic_load(&ledger_of(b, 0, partition)->start); }

/* One partition of 20 records, all applied and committed. */
static struct bench *bench_applied(void) {
    struct bench *b = bench_reading(1, RING, 1, 20);
    settle(b);
    apply_all(b);
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(b->kafka.partition[0].committed, 20);
    return b;
}

Test(rewind, goes_back_to_the_mark_under_a_new_epoch) {
    struct bench *b = bench_applied();
    struct sim_partition *p = &b->kafka.partition[0];
    lost_note(b, 0, 1, 13);
    step(b);
    cr_assert_eq(epoch_of(b, 0, 0), 2);
    cr_assert_eq(start_of(b, 0), 13);
    cr_assert_eq(flags_of(b, 0), LEDGER_ASSIGNED | LEDGER_REWOUND);
    cr_assert_eq(counted(b, M_ingest_partition_rewind), 1);
    cr_assert(p->committed == 13 && p->note.rewound && p->note.origin == 0, "committed %lld", (long long)p->committed);
    settle(b);
    for (int64_t i = 13; i < 20; i++) cr_assert_eq(expect_record(b, 0, 0, 0, i).head.epoch, 2);
    expect_nothing(b, 0);
    pass_ms(b, 1000);
    settle(b);
    cr_assert(p->committed == 20 && !p->note.rewound);
    cr_assert_eq(counted(b, M_ingest_partition_rewind), 1, "the note of an epoch that has passed is answered");
    bench_drop(b);
}

Test(rewind, with_audit_on_waits_until_the_log_has_what_redis_had) {
    struct bench *b = bench_make(1, RING);
    uint64_t seed = 4;
    struct sim_partition *p = sim_partition_add(&b->kafka, 0, 0);
    sim_fill(p, 20, 0, &seed);
    audit_on(b);
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    apply_all(b);
    lost_note(b, 0, 1, 13);
    for (int i = 0; i < 20; i++) {
        cr_assert_eq(epoch_of(b, 0, 0), 1, "only %d are in the log", i);
        pass_ms(b, 1000);
        settle(b);
        cr_assert_leq(p->committed, 0);
        audit_one(b);
    }
    settle(b);
    cr_assert_eq(epoch_of(b, 0, 0), 2);
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(p->committed, 13);
    for (int64_t i = 13; i < 20; i++) expect_record(b, 0, 0, 0, i);
    bench_drop(b);
}

Test(rewind, without_a_mark_goes_back_to_where_the_group_began) {
    struct bench *b = bench_make(1, RING);
    uint64_t seed = 4;
    struct sim_partition *p = sim_partition_add(&b->kafka, 0, 0);
    sim_fill(p, 30, 0, &seed);
    p->committed = 25;
    p->note.origin = 10;
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    apply_all(b);
    lost_note(b, 0, 1, LEDGER_LOST_ALL);
    settle(b);
    cr_assert_eq(start_of(b, 0), 10);
    for (int64_t i = 10; i < 30; i++) expect_record(b, 0, 0, 0, i);
    expect_nothing(b, 0);
    bench_drop(b);
}

Test(rewind, never_goes_to_what_is_not_released_yet) {
    struct bench *b = bench_reading(1, RING, 1, 20);
    settle(b);
    for (int64_t i = 0; i < 7; i++) expect_record(b, 0, 0, 0, i);
    lost_note(b, 0, 1, 15); /* a mark ahead of what was released: records are sent again */
    settle(b);
    cr_assert_eq(start_of(b, 0), 7);
    struct taken t;
    for (int64_t i = 7; i < 20; i++) { /* those of before are still there, and skipped */
        cr_assert(take_next(b, 0, &t) && t.head.offset == i && t.head.epoch == 1);
        release(b, 0, &t);
    }
    for (int64_t i = 7; i < 20; i++) cr_assert_eq(expect_record(b, 0, 0, 0, i).head.epoch, 2);
    expect_nothing(b, 0);
    bench_drop(b);
}

Test(rewind, reads_a_reject_again_that_is_not_durable) {
    struct bench *b = bench_reading(1, RING, 1, 20);
    struct taken t;
    settle(b);
    b->config.rejects.max_bytes = 0;
    b->g->store.max_bytes = 0; /* nothing is kept */
    for (int64_t i = 0; i < 20; i++) {
        cr_assert(take_next(b, 0, &t));
        if (i == 5) reject(b, 0, &t.head, 10);
        release(b, 0, &t);
    }
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(b->kafka.partition[0].committed, 5);
    lost_note(b, 0, 1, 12);
    settle(b);
    cr_assert_eq(start_of(b, 0), 5, "its offset would be committed, and the reject be nowhere");
    bench_drop(b);
}

Test(rewind, commits_nothing_of_what_redis_lost) {
    struct bench *b = bench_reading(1, RING, 1, 20);
    struct sim_partition *p = &b->kafka.partition[0];
    settle(b);
    apply(b, 0, 10);
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(p->committed, 10);
    apply(b, 0, 5);
    lost_note(b, 0, 1, 4);
    b->kafka.watermarks_fail = 1000;
    for (int s = 0; s < 5; s++) {
        pass_ms(b, 1000);
        settle(b);
        cr_assert_eq(p->committed, 10, "15 is released and not in Redis");
        cr_assert_eq(epoch_of(b, 0, 0), 1);
    }
    b->kafka.watermarks_fail = 0;
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(p->committed, 4);
    bench_drop(b);
}

Test(rewind, whose_commit_fails_commits_the_lower_offset_later) {
    struct bench *b = bench_applied();
    struct sim_partition *p = &b->kafka.partition[0];
    static const enum answer answers[] = {ANSWER_FAILS, ANSWER_REFUSED, ANSWER_NEVER_LOST};
    for (int i = 0; i < 3; i++) {
        b->kafka.answer = answers[i];
        lost_note(b, 0, (uint64_t)i + 1, (uint64_t)(3 + i));
        settle(b);
        cr_assert_eq(p->committed, 20);
    }
    b->kafka.answer = ANSWER_OK;
    pass_ms(b, 11000);
    settle(b);
    cr_assert_eq(p->committed, 3);
    bench_drop(b);
}

Test(rewind, waits_for_a_commit_under_way_and_comes_after_it) {
    struct bench *b = bench_reading(1, RING, 1, 20);
    struct sim_partition *p = &b->kafka.partition[0];
    settle(b);
    apply_all(b);
    b->kafka.answer = ANSWER_LATER;
    pass_ms(b, 1000);
    settle(b);
    lost_note(b, 0, 1, 3);
    settle(b);
    cr_assert_eq(b->kafka.commit_calls, 1);
    b->kafka.answer = ANSWER_OK;
    sim_answer_now(&b->kafka);
    settle(b);
    cr_assert_eq(p->committed, 3, "at once");
    cr_assert_eq(atomic_load(&ledger_of(b, 0, 0)->committed), 3);
    bench_drop(b);
}

Test(rewind, whose_seek_fails_reads_nothing_before_it_has_worked) {
    struct bench *b = bench_applied();
    uint64_t seed = 9;
    b->kafka.seek_fails = 2;
    lost_note(b, 0, 1, 13);
    sim_fill(&b->kafka.partition[0], 5, 0, &seed);
    settle(b);
    expect_nothing(b, 0);
    for (int i = 0; i < 4; i++) {
        pass_ms(b, 100);
        settle(b);
    }
    for (int64_t i = 13; i < 25; i++) expect_record(b, 0, 0, 0, i);
    bench_drop(b);
}

Test(rewind, leaves_other_partitions_alone) {
    struct bench *b = bench_reading(2, RING, 3, 20);
    settle(b);
    apply_all(b);
    lost_note(b, 1, 1, 13);
    settle(b);
    cr_assert(epoch_of(b, 0, 0) == 1 && epoch_of(b, 0, 2) == 1 && epoch_of(b, 0, 1) == 2);
    expect_nothing(b, 0);
    for (int64_t i = 13; i < 20; i++) expect_record(b, 1, 0, 1, i);
    expect_nothing(b, 1);
    bench_drop(b);
}

Test(rewind, drops_a_message_that_waits_for_the_store) {
    struct bench *b = bench_make(1, 8192);
    uint64_t seed = 4;
    struct sim_partition *p = sim_partition_add(&b->kafka, 0, 0);
    sim_fill(p, 10, 0, &seed);
    sim_put(p, 10, 3000, 4);
    ingest_starts(b);
    b->g->store.max_bytes = 0;
    sim_give(&b->kafka, 1);
    settle(b);
    apply_all(b);
    cr_assert(b->g->holding);
    lost_note(b, 0, 1, 8);
    step(b);
    settle(b);
    for (int64_t i = 8; i < 10; i++) expect_record(b, 0, 0, 0, i);
    cr_assert(b->g->holding, "it came again");
    b->g->store.max_bytes = 1 << 20;
    pass_ms(b, 1000);
    settle(b);
    expect_record(b, 0, 0, 0, 10);
    cr_assert_eq(b->kafka.held, 0);
    bench_drop(b);
}

Test(rewind, while_partitions_are_taken_back_hands_over_the_lower_offset) {
    struct bench *b = bench_applied();
    struct sim_partition *p = &b->kafka.partition[0];
    lost_note(b, 0, 1, 6);
    sim_take_away(&b->kafka, false);
    settle(b);
    cr_assert_eq(b->kafka.unassigns, 1, "it waits for what will never be released");
    cr_assert(p->committed == 6 && p->note.rewound);
    bench_forgets(b); /* the next owner, whose Redis may have been emptied since */
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    cr_assert_eq(flags_of(b, 0), LEDGER_ASSIGNED | LEDGER_REWOUND, "an empty Redis is no beginning: [0,6) was there");
    cr_assert_eq(start_of(b, 0), 6);
    bench_drop(b);
}

static struct bench *asking;
static int32_t answering; /* partitions from here on are on a broker that answers */

static int watermarks_slow(void *self, const struct kafka_partition *at, int64_t *low, int64_t *high, struct err *err) {
    if (at->partition >= answering) return sim_watermarks(self, at, low, high, err);
    asking->time.now_ns += KAFKA_CALL_MS * NS_PER_MS;
    return err_set(err, 2, "no answer");
}

/* Or the worker would be silent for so long that it is taken for hung, again and again. */
Test(rewind, of_many_partitions_does_not_wait_for_a_broker_that_is_away) {
    struct bench *b = asking = bench_reading(1, 1 << 20, 40, 2);
    settle(b);
    apply_all(b);
    b->g->kafka.watermarks = watermarks_slow;
    answering = 39;
    for (int i = 0; i < 40; i++) lost_note(b, i, 1, 0);
    for (int i = 0; i < 50; i++) {
        uint64_t before = b->time.now_ns;
        step(b);
        cr_assert_leq(b->time.now_ns - before, 2 * KAFKA_CALL_MS * NS_PER_MS, "step %d", i);
    }
    cr_assert(epoch_of(b, 0, 38) == 1 && epoch_of(b, 0, 39) == 2, "its turn comes");
    answering = 0;
    pass_ms(b, 1000);
    settle(b);
    for (int i = 0; i < 40; i++) cr_assert_eq(epoch_of(b, 0, i), 2, "%d", i);
    bench_drop(b);
}

Test(rewind, lets_an_instance_leave) {
    struct bench *b = bench_applied();
    lost_note(b, 0, 1, 6);
    mode_set(b, CONTROL_DRAIN);
    cr_assert_eq(settle(b), STEP_DONE);
    cr_assert_eq(b->kafka.partition[0].committed, 6);
    bench_drop(b);
}

Test(rewind, flag_of_an_earlier_epoch_does_not_reach_a_later_one) {
    struct bench *b = bench_applied();
    lost_note(b, 0, 1, 6);
    settle(b);
    apply_all(b);
    cr_assert_eq(flags_of(b, 0), LEDGER_ASSIGNED | LEDGER_REWOUND);
    ingest_dies(b);
    b->kafka.partition[0].committed = 18; /* by somebody else */
    b->kafka.partition[0].note = (struct note){0};
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    cr_assert_eq(flags_of(b, 0), LEDGER_ASSIGNED);
    cr_assert_eq(start_of(b, 0), 18);
    bench_drop(b);
}

/* -- a record that crashes the sink ------------------------------------------------------------ */

static void crash_note(struct bench *b, uint64_t epoch, uint64_t offset, int64_t ms) {
    struct ledger_sink_slot *s = &b->sink[0]->slot[slot_at(b, 0, 0)];
    atomic_store(&s->crashed_ms, ms);
    twin_store(&s->crashed, epoch, offset);
}

static int64_t timestamp_of(struct bench *b, int64_t offset) { return b->kafka.partition[0].log[offset]->timestamp_ms; }

/* 20 records of which seven are released; the sink stands before the eighth. */
static struct bench *bench_crashing(void) {
    struct bench *b = bench_reading(1, RING, 1, 20);
    settle(b);
    for (int64_t i = 0; i < 7; i++) expect_record(b, 0, 0, 0, i);
    crash_note(b, 1, 7, timestamp_of(b, 7));
    return b;
}

static struct taken next_of(struct bench *b, int64_t offset, uint32_t epoch) {
    struct taken t;
    cr_assert(take_next(b, 0, &t) && t.head.offset == offset && t.head.epoch == epoch);
    release(b, 0, &t);
    return t;
}

Test(rewind, reads_a_record_that_crashes_the_sink_again_to_have_it_rejected) {
    struct bench *b = bench_crashing();
    settle(b);
    cr_assert_eq(start_of(b, 0), 7);
    for (int64_t i = 7; i < 20; i++) cr_assert_eq(next_of(b, i, 1).head.reason, REASON_NONE);
    for (int64_t i = 7; i < 20; i++)
        cr_assert_eq(next_of(b, i, 2).head.reason, i == 7 ? REASON_CRASH : REASON_NONE, "%lld", (long long)i);
    expect_nothing(b, 0);
    cr_assert_eq(counted(b, M_ingest_partition_rewind), 1);
    bench_drop(b);
}

Test(rewind, takes_no_other_record_for_the_one_that_crashed) {
    struct bench *b = bench_crashing();
    crash_note(b, 1, 7, timestamp_of(b, 7) + 1); /* the topic was made anew since */
    settle(b);
    for (int64_t i = 7; i < 20; i++) next_of(b, i, 1);
    for (int64_t i = 7; i < 20; i++) cr_assert_eq(next_of(b, i, 2).head.reason, REASON_NONE);
    bench_drop(b);
}

Test(rewind, for_a_record_that_crashes_waits_until_rejects_before_it_are_durable) {
    struct bench *b = bench_reading(1, RING, 1, 20);
    struct taken t;
    settle(b);
    uint64_t max = b->g->store.max_bytes;
    b->config.rejects.max_bytes = 0;
    b->g->store.max_bytes = 0; /* nothing is kept */
    for (int64_t i = 0; i < 7; i++) {
        cr_assert(take_next(b, 0, &t));
        if (i == 5) reject(b, 0, &t.head, 10);
        release(b, 0, &t);
    }
    crash_note(b, 1, 7, timestamp_of(b, 7));
    settle(b);
    cr_assert_eq(epoch_of(b, 0, 0), 1, "it would be read again, and crash somebody again");
    b->config.rejects.max_bytes = b->g->store.max_bytes = max;
    pass_ms(b, 2000);
    settle(b);
    cr_assert(epoch_of(b, 0, 0) == 2 && start_of(b, 0) == 7);
    bench_drop(b);
}

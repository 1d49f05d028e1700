/* Commit: only what is released, in the present epoch, held back by rejects, tried again. */
#include "tests/unit/ingest/help.h"

enum { RING = 65536 };

static int64_t committed(struct bench *b, int32_t partition) { return sim_at(&b->kafka, 0, partition)->committed; }

Test(commit, is_only_of_what_the_last_stage_has_released) {
    struct bench *b = bench_reading(1, RING, 1, 10);
    settle(b);
    for (int s = 0; s < 5; s++) {
        pass_ms(b, 1000);
        settle(b);
    }
    cr_assert_eq(b->kafka.commit_calls, 0, "published is not applied");
    for (int64_t i = 0; i < 10; i++) {
        expect_record(b, 0, 0, 0, i);
        pass_ms(b, 1000);
        settle(b);
        cr_assert_eq(committed(b, 0), i + 1);
    }
    bench_drop(b);
}

Test(commit, with_audit_on_is_only_of_what_is_in_its_log) {
    struct bench *b = bench_make(1, RING);
    uint64_t seed = 3;
    struct sim_partition *p = sim_partition_add(&b->kafka, 0, 0);
    sim_fill(p, 10, 0, &seed);
    audit_on(b);
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    apply(b, 0, 6);
    for (int s = 0; s < 3; s++) {
        pass_ms(b, 1000);
        settle(b);
        cr_assert_eq(p->committed, 0, "Redis has 6, the log has none: all before the start of the epoch is done");
    }
    for (int64_t i = 1; i <= 6; i++) {
        cr_assert_not_null(audit_one(b));
        pass_ms(b, 1000);
        settle(b);
        cr_assert_eq(p->committed, i);
    }
    twin_store(&b->audited->slot[0].released, 1, 9);
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(p->committed, 6, "audit was told of 9, the sink does not say that Redis has it");
    const struct stats_partition *s = stats_partition(&b->stats, 0);
    cr_assert_eq(atomic_load(&s->released), 6);
    bench_drop(b);
}

Test(commit, with_audit_on_a_drain_waits_for_the_log) {
    struct bench *b = bench_make(1, RING);
    uint64_t seed = 3;
    struct sim_partition *p = sim_partition_add(&b->kafka, 0, 0);
    sim_fill(p, 10, 0, &seed);
    audit_on(b);
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    apply_all(b);
    mode_set(b, CONTROL_DRAIN);
    for (int k = 0; k < 5; k++) {
        cr_assert_neq(settle(b), STEP_DONE);
        pass_ms(b, 1000);
    }
    while (audit_one(b) != NULL) {
    }
    cr_assert_eq(settle(b), STEP_DONE);
    cr_assert_eq(p->committed, 10);
    bench_drop(b);
}

Test(commit, happens_once_a_second_whether_anything_is_new_or_not) {
    struct bench *b = bench_reading(1, RING, 2, 10);
    settle(b);
    apply(b, 0, 10); /* all of one partition */
    for (int ms = 0; ms < 10000; ms += 50) {
        pass_ms(b, 50);
        settle(b);
    }
    cr_assert(b->kafka.commit_calls == 10 || b->kafka.commit_calls == 11, "%u", b->kafka.commit_calls);
    cr_assert_eq(committed(b, 0) + committed(b, 1), 9, "nothing of the other: it has none");
    cr_assert_eq(counted(b, M_ingest_commit), b->kafka.commit_calls);
    bench_drop(b);
}

Test(commit, says_where_the_group_began) {
    struct bench *b = bench_make(1, RING);
    uint64_t seed = 3;
    struct sim_partition *p = sim_partition_add(&b->kafka, 0, 0);
    sim_fill(p, 10, 0, &seed);
    p->low = 4;
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    apply_all(b);
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(p->committed, 10);
    cr_assert_eq(p->note.origin, 4);
    cr_assert(!p->note.first && !p->note.rewound && p->note.lost_to == 0);
    ingest_dies(b);
    sim_fill(p, 1, 0, &seed);
    ingest_starts(b); /* as it was */
    sim_give(&b->kafka, 1);
    settle(b);
    cr_assert_eq(atomic_load(&ledger_of(b, 0, 0)->origin), 4);
    ingest_dies(b);
    p->committed = 11; /* somebody else's, who knows another beginning */
    p->note = (struct note){.origin = 2};
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    cr_assert_eq(atomic_load(&ledger_of(b, 0, 0)->origin), 2);
    ingest_dies(b);
    p->committed = 10; /* by a tool */
    p->note = (struct note){0};
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    cr_assert_eq(atomic_load(&ledger_of(b, 0, 0)->origin), 0, "nobody knows: everything is to be there");
    bench_drop(b);
}

Test(commit, wakes_up_for_its_timer) {
    struct bench *b = bench_reading(1, RING, 1, 10);
    settle(b);
    int timeout = WAIT_MS_MAX;
    pass_ms(b, 970);
    ingest_wants(b->g, NULL, 0, &timeout);
    cr_assert_leq(timeout, 31);
    cr_assert_gt(timeout, 0);
    bench_drop(b);
}

Test(commit, counts_nothing_released_in_another_epoch) {
    struct bench *b = bench_reading(1, RING, 1, 10);
    settle(b);
    uint32_t slot = slot_at(b, 0, 0);
    for (uint64_t epoch = 0; epoch < 4; epoch++) {
        if (epoch == 1) continue;
        twin_store(&b->sink[0]->slot[slot].released, epoch, 5);
        pass_ms(b, 1000);
        settle(b);
        cr_assert_eq(b->kafka.commit_calls, 0, "epoch %d", (int)epoch);
    }
    twin_store(&b->sink[0]->slot[slot].released, 1, 5);
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(committed(b, 0), 5);
    bench_drop(b);
}

Test(commit, is_noted_as_an_intent_before_the_call_and_as_done_after_the_answer) {
    struct bench *b = bench_reading(1, RING, 1, 10);
    settle(b);
    apply(b, 0, 6);
    const struct ledger_ingest_slot *l = ledger_of(b, 0, 0);
    b->kafka.answer = ANSWER_LATER;
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(b->kafka.commit_calls, 1);
    cr_assert_eq(atomic_load(&l->intent), 6);
    cr_assert_eq(atomic_load(&l->committed), -1);
    sim_answer_now(&b->kafka);
    settle(b);
    cr_assert_eq(atomic_load(&l->committed), 6);
    bench_drop(b);
}

static int64_t intent_at_call; /* one test, one process */

static void intent_look(void *context, const char *call) {
    struct bench *b = context;
    if (strcmp(call, "commit") == 0) intent_at_call = atomic_load(&ledger_of(b, 0, 0)->intent);
}

Test(commit, has_its_intent_in_memory_when_the_call_is_made) {
    struct bench *b = bench_reading(1, RING, 1, 10);
    settle(b);
    apply(b, 0, 7);
    intent_at_call = -7;
    b->kafka.before = intent_look;
    b->kafka.context = b;
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(intent_at_call, 7);
    bench_drop(b);
}

static void tried_again(enum answer first, uint64_t within_ms, uint64_t failures) {
    struct bench *b = bench_reading(1, RING, 1, 10);
    settle(b);
    apply(b, 0, 3);
    b->kafka.answer = first;
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(b->kafka.commit_calls, 1);
    b->kafka.answer = ANSWER_OK;
    apply(b, 0, 2);
    uint64_t ms = 0;
    for (; committed(b, 0) != 5; ms += 100) {
        cr_assert_leq(ms, within_ms, "answer %d", (int)first);
        pass_ms(b, 100);
        settle(b);
    }
    cr_assert_eq(counted(b, M_ingest_commit_fail), failures);
    cr_assert_eq(atomic_load(&ledger_of(b, 0, 0)->committed), 5);
    bench_drop(b);
}

Test(commit, is_tried_again_after_a_failure) {
    tried_again(ANSWER_FAILS, 1100, 1);
    tried_again(ANSWER_REFUSED, 1100, 1);
}

Test(commit, is_tried_again_after_silence) {
    tried_again(ANSWER_NEVER_LOST, 12000, 0);
    tried_again(ANSWER_NEVER_DONE, 12000, 0);
}

Test(commit, is_one_at_a_time) {
    struct bench *b = bench_reading(1, RING, 1, 10);
    settle(b);
    b->kafka.answer = ANSWER_LATER;
    for (int s = 0; s < 5; s++) {
        apply(b, 0, 1);
        pass_ms(b, 1000);
        settle(b);
    }
    cr_assert_eq(b->kafka.commit_calls, 1);
    sim_answer_now(&b->kafka);
    b->kafka.answer = ANSWER_OK;
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(b->kafka.commit_calls, 2);
    cr_assert_eq(committed(b, 0), 5);
    bench_drop(b);
}

/* -- rejects ----------------------------------------------------------------------------------- */

/* 10 records applied, of which `offset` was rejected and its original stands on the rejects ring. */
static struct bench *bench_rejected(int64_t offset) {
    struct bench *b = bench_reading(1, RING, 1, 10);
    settle(b);
    struct taken t;
    b->g->store.max_bytes = 64; /* nothing can be kept for now */
    while (take_next(b, 0, &t)) {
        if (t.head.offset == offset) reject(b, 0, &t.head, 20);
        release(b, 0, &t);
    }
    return b;
}

Test(commit, is_held_back_by_a_reject_that_is_not_durable) {
    for (int64_t offset = 0; offset < 10; offset += 3) {
        struct bench *b = bench_rejected(offset);
        for (int s = 0; s < 5; s++) {
            pass_ms(b, 1000);
            settle(b);
        }
        cr_assert_eq(committed(b, 0), offset, "reject at %lld", (long long)offset);
        cr_assert_eq(atomic_load(&b->worker.block->state), STATE_BLOCKED);
        b->g->store.max_bytes = 1 << 20;
        pass_ms(b, 1000);
        settle(b);
        pass_ms(b, 1000);
        settle(b);
        cr_assert_eq(committed(b, 0), 10);
        struct kept *k = kept_read(b->folder);
        cr_assert_eq(k->count, 1);
        cr_assert_eq(k->head[0].offset, offset);
        bench_drop(b);
    }
}

Test(commit, is_held_back_by_the_first_reject_that_did_not_fit_beside_others_that_did) {
    for (uint64_t room = 200; room < 2000; room += 61) {
        struct bench *b = bench_reading(1, RING, 1, 10);
        settle(b);
        struct taken t;
        b->g->store.max_bytes = room;
        while (take_next(b, 0, &t)) {
            reject(b, 0, &t.head, 20);
            release(b, 0, &t);
        }
        pass_ms(b, 1000); /* the store and the commit come in one and the same step */
        step(b);
        step(b);
        cr_assert_leq(committed(b, 0), (int64_t)kept_read(b->folder)->count, "room for %d bytes", (int)room);
        bench_drop(b);
    }
}

Test(commit, of_one_partition_is_not_held_back_by_the_reject_of_another) {
    struct bench *b = bench_reading(1, RING, 2, 10);
    settle(b);
    struct taken t;
    b->g->store.max_bytes = 64;
    while (take_next(b, 0, &t)) {
        if (t.head.partition == 0 && t.head.offset == 4) reject(b, 0, &t.head, 20);
        release(b, 0, &t);
    }
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(committed(b, 0), 4);
    cr_assert_eq(committed(b, 1), 10);
    bench_drop(b);
}

Test(commit, is_not_taken_back_by_a_reject_of_an_earlier_epoch) {
    struct bench *b = bench_rejected(4);
    pass_ms(b, 1000);
    settle(b);
    sim_take_away(&b->kafka, true);
    settle(b);
    b->kafka.partition[0].committed = 10; /* the other member went on, and dealt with the record in its own way */
    uint64_t seed = 1;
    sim_fill(&b->kafka.partition[0], 10, 0, &seed);
    sim_give(&b->kafka, 1);
    settle(b);
    apply_all(b);
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(committed(b, 0), 20, "committed %lld", (long long)committed(b, 0));
    bench_drop(b);
}

Test(commit, is_held_back_when_a_partition_is_revoked_too) {
    struct bench *b = bench_rejected(4);
    sim_take_away(&b->kafka, false);
    for (int s = 0; s < 40 && b->kafka.unassigns == 0; s++) {
        settle(b);
        pass_ms(b, 1000);
    }
    cr_assert_eq(b->kafka.unassigns, 1);
    cr_assert_eq(committed(b, 0), 4);
    bench_drop(b);
}

/* -- late answers ------------------------------------------------------------------------------ */

Test(commit, answered_after_its_partition_was_lost_does_no_harm) {
    struct bench *b = bench_reading(1, RING, 1, 10);
    settle(b);
    apply_all(b);
    b->kafka.answer = ANSWER_LATER;
    pass_ms(b, 1000);
    settle(b);
    sim_take_away(&b->kafka, true);
    settle(b);
    sim_answer_now(&b->kafka);
    b->kafka.answer = ANSWER_OK;
    settle(b);
    uint64_t seed = 1;
    sim_fill(&b->kafka.partition[0], 5, 0, &seed);
    sim_give(&b->kafka, 1);
    settle(b);
    for (int64_t i = 10; i < 15; i++) expect_record(b, 0, 0, 0, i);
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(committed(b, 0), 15);
    bench_drop(b);
}

Test(commit, remembers_where_latest_was_before_redis_is_there) {
    struct bench *b = bench_make(1, 65536);
    struct sim_partition *p = sim_partition_add(&b->kafka, 0, 0);
    uint64_t seed = 3;
    sim_fill(p, 100, 0, &seed);
    b->config.start = START_LATEST;
    ingest_starts(b);
    sim_give(&b->kafka, UINT64_MAX);
    settle(b);
    sim_fill(p, 50, 0, &seed); /* nobody applies these: Redis is away */
    pass_ms(b, 1100);
    settle(b);
    cr_assert_eq(p->committed, 100, "else the next start begins at another latest offset");
    bench_drop(b);
}

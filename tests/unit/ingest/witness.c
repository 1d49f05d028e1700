/* The witness: a topic made anew under the same name is found by the record at an offset that Redis has, and stops. */
#include "tests/unit/ingest/help.h"

enum { RING = 65536 };

static const int64_t NEXT = 15; /* of the record by which marks know the topic */

static int64_t time_at(int64_t offset) { return 1700000000000 + offset; }

/* What the sink does when it has found a mark: everything before the start is there. */
static void establish(struct bench *b, int32_t partition, int64_t next, int64_t ms) {
    uint32_t slot = slot_at(b, 0, partition);
    const struct ledger_ingest_slot *s = ledger_of(b, 0, partition);
    struct ledger_sink_slot *of = &b->sink[ledger_lane(partition, b->config.lanes)]->slot[slot];
    twin_store(&of->seen, (uint64_t)next, (uint64_t)ms);
    twin_store(&of->released, atomic_load(&s->epoch), (uint64_t)atomic_load(&s->start));
}

static void expect_lost(struct bench *b, int32_t partition, int64_t from, int64_t to) {
    const struct ledger_ingest_slot *s = ledger_of(b, 0, partition);
    cr_assert(s->lost_from == from && s->lost_to == to, "[%lld,%lld)", (long long)s->lost_from, (long long)s->lost_to);
}

/* The topic is another one: the same offsets, other records. */
static void made_anew(struct sim_partition *p) {
    for (uint32_t i = 0; i < p->count; i++) p->log[i]->timestamp_ms += 86400000;
}

/* n partitions of 30 messages, committed at 20; their epochs are not established. Partition `anew` (-1: none) was made
 * anew since the marks were written. */
static struct bench *bench_began(int partitions, int32_t anew) {
    struct bench *b = bench_make(1, RING);
    uint64_t seed = 4;
    for (int32_t i = 0; i < partitions; i++) {
        struct sim_partition *p = sim_partition_add(&b->kafka, 0, i);
        sim_fill(p, 30, 0, &seed);
        p->committed = 20;
        if (i == anew) made_anew(p);
    }
    ingest_starts(b);
    sim_give(&b->kafka, UINT64_MAX);
    settle(b);
    cr_assert_eq(b->kafka.witness_calls, 0, "the sink has found no mark yet");
    return b;
}

/* All that the partition has, under the new epoch. */
static void expect_all_again(struct bench *b, int64_t from) {
    struct taken t;
    do {
        cr_assert(take_next(b, 0, &t));
        release(b, 0, &t);
    } while (t.head.epoch < epoch_of(b, 0, 0));
    cr_assert_eq(t.head.offset, from);
    for (int64_t i = from + 1; i < b->kafka.partition[0].end; i++) expect_record(b, 0, 0, 0, i);
    expect_nothing(b, 0);
}

static void accept_loss(struct bench *b) {
    atomic_store(&b->control->accept[(b->control->accept_loss + 1) % CONTROL_ACCEPTS].what,
                 control_accept_what(UINT32_MAX, -1));
    atomic_fetch_add(&b->control->accept_loss, 1);
}

Test(witness, same_record_is_the_same_topic_and_is_asked_about_once) {
    struct bench *b = bench_began(1, -1);
    establish(b, 0, NEXT, time_at(NEXT - 1));
    for (int s = 0; s < 5; s++) {
        settle(b);
        pass_ms(b, 1000);
    }
    cr_assert_eq(b->kafka.witness_calls, 1);
    expect_lost(b, 0, 0, 0);
    cr_assert_eq(apply_all(b), 10);
    bench_drop(b);
}

Test(witness, mark_that_names_no_record_asks_nobody) {
    struct bench *b = bench_began(1, -1);
    establish(b, 0, 0, 0);
    settle(b);
    cr_assert_eq(b->kafka.witness_calls, 0);
    cr_assert_eq(apply_all(b), 10);
    bench_drop(b);
}

Test(witness, other_record_is_another_topic_and_accepted_from_its_beginning_on) {
    struct bench *b = bench_began(1, 0);
    struct sim_partition *p = &b->kafka.partition[0];
    establish(b, 0, NEXT, time_at(NEXT - 1));
    settle(b);
    expect_lost(b, 0, 0, NEXT);
    cr_assert_str_eq(reason_shown(b), "offsets [0,15) lost: bulk[0]");
    cr_assert_eq(atomic_load(&b->worker.block->state), STATE_BLOCKED);
    cr_assert(p->note.lost_from == 0 && p->note.lost_to == NEXT, "said with the commits, at once");
    uint64_t seed = 7;
    sim_fill(p, 5, 0, &seed);
    settle(b);
    cr_assert_eq(b->g->partition[0].next, 30, "nothing more is read");
    accept_loss(b);
    settle(b);
    expect_lost(b, 0, 0, NEXT);
    apply_all(b); /* what was under way */
    pass_ms(b, 1000);
    settle(b);
    expect_lost(b, 0, 0, 0);
    cr_assert_eq(atomic_load(&ledger_of(b, 0, 0)->start), 0);
    cr_assert_eq(atomic_load(&ledger_of(b, 0, 0)->flags), LEDGER_ASSIGNED | LEDGER_REWOUND | LEDGER_ACCEPTED,
                 "the mark forgets the record by this");
    cr_assert_eq(counted(b, M_ingest_offset_lost), NEXT);
    establish(b, 0, 0, 0);
    expect_all_again(b, 0);
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(b->kafka.witness_calls, 1);
    cr_assert(p->committed == 35 && p->note.lost_to == 0);
    bench_drop(b);
}

Test(witness, record_that_is_gone_proves_nothing) {
    struct bench *b = bench_began(2, -1);
    b->kafka.partition[0].low = 18; /* retention */
    struct sim_partition *p = &b->kafka.partition[1];
    struct sim_message *gone = p->log[NEXT - 1];
    for (uint32_t i = (uint32_t)NEXT - 1; i + 1 < p->count; i++) p->log[i] = p->log[i + 1]; /* compaction */
    p->log[--p->count] = gone;
    free(gone->key);
    free(gone->value);
    free(gone);
    establish(b, 0, NEXT, time_at(NEXT - 1));
    establish(b, 1, NEXT, time_at(NEXT - 1));
    for (int s = 0; s < 3; s++) {
        settle(b);
        pass_ms(b, 1000);
    }
    expect_lost(b, 0, 0, 0);
    expect_lost(b, 1, 0, 0);
    cr_assert_eq(b->kafka.witness_calls, 1);
    cr_assert_eq(apply_all(b), 20);
    bench_drop(b);
}

Test(witness, first_start_with_marks_beyond_the_end_is_another_topic) {
    for (int64_t next = 30; next <= 31; next++) {
        struct bench *b = bench_reading(1, RING, 1, 30); /* no commits, from the earliest on */
        settle(b);
        establish(b, 0, next, time_at(next - 1));
        settle(b);
        expect_lost(b, 0, 0, next == 30 ? 0 : 31);
        cr_assert_eq(b->kafka.partition[0].note.lost_to, next == 30 ? 0 : 31);
        bench_drop(b);
    }
}

Test(witness, brokers_that_do_not_answer_are_asked_again_with_growing_pauses) {
    struct bench *b = bench_began(1, 0);
    establish(b, 0, NEXT, time_at(NEXT - 1));
    b->kafka.witness_fails = 2;
    b->kafka.witness_late = 2;
    for (int s = 0; s < 15; s++) { /* asked at 0, 1, 3, 7, 15 seconds */
        settle(b);
        expect_lost(b, 0, 0, 0);
        pass_ms(b, 1000);
    }
    cr_assert_eq(b->kafka.witness_calls, 4);
    settle(b);
    cr_assert_eq(b->kafka.witness_calls, 5);
    expect_lost(b, 0, 0, NEXT);
    bench_drop(b);
}

Test(witness, end_that_is_not_told_is_asked_for_again) {
    struct bench *b = bench_began(1, -1);
    establish(b, 0, 40, time_at(39));
    b->kafka.watermarks_fail = 1;
    settle(b);
    expect_lost(b, 0, 0, 0);
    pass_ms(b, 1000);
    settle(b);
    expect_lost(b, 0, 0, 40);
    bench_drop(b);
}

Test(witness, all_partitions_have_their_turn_though_some_have_no_answer) {
    struct bench *b = bench_began(SIM_PARTITIONS_MAX, SIM_PARTITIONS_MAX - 1);
    for (int32_t i = 0; i < SIM_PARTITIONS_MAX; i++) establish(b, i, NEXT, time_at(NEXT - 1));
    b->kafka.witness_late = 1;
    settle(b);
    pass_ms(b, 1000);
    settle(b);
    expect_lost(b, SIM_PARTITIONS_MAX - 1, 0, NEXT);
    for (int s = 0; s < 3; s++) {
        pass_ms(b, 2000);
        settle(b);
    }
    for (uint32_t i = 0; i < SIM_PARTITIONS_MAX; i++) cr_assert_eq(b->g->partition[i].witnessed, 1, "%u", i);
    bench_drop(b);
}

Test(witness, is_asked_again_by_a_successor_of_one_that_died_before_it_was_noted) {
    struct bench *b = bench_began(1, -1);
    establish(b, 0, NEXT, time_at(NEXT - 1));
    settle(b);
    cr_assert_eq(b->kafka.witness_calls, 1);
    ingest_dies(b);
    made_anew(&b->kafka.partition[0]);
    ingest_starts(b);
    sim_give(&b->kafka, UINT64_MAX);
    settle(b);
    cr_assert_eq(epoch_of(b, 0, 0), 1, "it goes on where the one before was");
    cr_assert_eq(b->kafka.witness_calls, 2);
    expect_lost(b, 0, 0, NEXT);
    bench_forgets(b); /* and what was noted is there on another machine */
    ingest_starts(b);
    sim_give(&b->kafka, UINT64_MAX);
    settle(b);
    expect_lost(b, 0, 0, NEXT);
    expect_nothing(b, 0);
    bench_drop(b);
}

Test(witness, widens_what_is_known_to_be_lost) {
    struct bench *b = bench_began(1, -1);
    struct sim_partition *p = &b->kafka.partition[0];
    p->end = 10; /* as the broker says now */
    p->count = 10;
    p->fail_code = 1;
    settle(b);
    expect_lost(b, 0, 10, 30);
    establish(b, 0, 20, time_at(19));
    settle(b);
    expect_lost(b, 0, 0, 30);
    p->count = 30; /* for the drop */
    bench_drop(b);
}

/* -- while it is read -------------------------------------------------------------------------- */

/* One partition, taken over at 20 with a mark, read to its end at 30, all of it released. */
static struct bench *bench_settled(void) {
    struct bench *b = bench_began(1, -1);
    establish(b, 0, NEXT, time_at(NEXT - 1));
    settle(b);
    apply_all(b);
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(b->kafka.witness_calls, 1);
    return b;
}

static void grow(struct bench *b, int n) {
    uint64_t seed = 7;
    sim_fill(&b->kafka.partition[0], n, 0, &seed);
}

/* What comes next is of another topic, or of a log that was cut off and written again: all before it has changed. */
static void expect_noticed(struct bench *b, uint32_t calls, bool anew) {
    cr_assert_eq(b->kafka.witness_calls, calls);
    expect_lost(b, 0, 0, anew ? 30 : 0);
}

Test(witness, first_record_from_another_broker_has_the_one_before_it_looked_up) {
    for (int anew = 0; anew <= 1; anew++) {
        struct bench *b = bench_settled();
        if (anew) made_anew(&b->kafka.partition[0]);
        b->kafka.partition[0].broker = 2;
        settle(b);
        cr_assert_eq(b->kafka.witness_calls, 1, "nothing has come yet");
        grow(b, 5);
        settle(b);
        expect_noticed(b, 2, anew);
        apply_all(b);
        pass_ms(b, 1000);
        grow(b, 5);
        settle(b);
        expect_noticed(b, 2, anew);
        cr_assert_eq(b->g->partition[0].next, anew ? 35 : 40);
        bench_drop(b);
    }
}

Test(witness, topic_that_was_gone_has_the_record_before_looked_up) {
    for (int anew = 0; anew <= 1; anew++) {
        struct bench *b = bench_settled();
        if (anew) made_anew(&b->kafka.partition[0]);
        b->kafka.partition[0].broker = -1;
        grow(b, 1);
        settle(b);
        expect_noticed(b, 2, anew);
        bench_drop(b);
    }
}

Test(witness, broken_connection_has_the_record_before_the_next_one_looked_up) {
    for (int anew = 0; anew <= 1; anew++) {
        struct bench *b = bench_settled();
        sim_event(&b->kafka, KAFKA_TROUBLE);
        settle(b);
        settle(b);
        cr_assert_eq(b->kafka.witness_calls, 1, "nothing has come since");
        if (anew) made_anew(&b->kafka.partition[0]);
        grow(b, 5);
        settle(b);
        expect_noticed(b, 2, anew);
        bench_drop(b);
    }
}

/* Nothing tells that the topic is another one; the proof is older than what was read of it. */
Test(witness, all_are_looked_up_once_a_minute_by_what_was_read_before) {
    struct bench *b = bench_settled();
    made_anew(&b->kafka.partition[0]);
    grow(b, 5);
    settle(b);
    apply_all(b);
    settle(b);
    expect_noticed(b, 1, false);
    pass_ms(b, 60000);
    settle(b);
    expect_noticed(b, 2, true);
    for (int minute = 0; minute < 3; minute++) {
        pass_ms(b, 60000);
        settle(b);
    }
    expect_noticed(b, 2, true);
    bench_drop(b);
}

/* Read before the mark was found to name no record, or after it. */
Test(witness, first_record_of_a_topic_is_a_proof_too) {
    for (int after = 0; after <= 1; after++) {
        struct bench *b = after ? bench_make(1, RING) : bench_began(1, -1);
        if (after) {
            sim_partition_add(&b->kafka, 0, 0)->committed = 0;
            ingest_starts(b);
            sim_give(&b->kafka, UINT64_MAX);
            settle(b);
        }
        establish(b, 0, 0, 0);
        settle(b);
        if (after) grow(b, 30);
        settle(b);
        apply_all(b);
        cr_assert_eq(b->kafka.witness_calls, 0);
        made_anew(&b->kafka.partition[0]);
        grow(b, 5);
        settle(b);
        apply_all(b);
        pass_ms(b, 60000);
        settle(b);
        cr_assert_eq(b->kafka.witness_calls, 1);
        expect_lost(b, 0, 0, after ? 1 : 30);
        bench_drop(b);
    }
}

Test(witness, proof_that_is_gone_is_no_proof_any_more) {
    struct bench *b = bench_settled();
    b->kafka.partition[0].low = 30; /* retention */
    for (int minute = 0; minute < 3; minute++) {
        pass_ms(b, 60000);
        settle(b);
    }
    expect_noticed(b, 2, false);
    grow(b, 1);
    settle(b);
    apply_all(b);
    pass_ms(b, 60000);
    settle(b);
    expect_noticed(b, 3, false);
    bench_drop(b);
}

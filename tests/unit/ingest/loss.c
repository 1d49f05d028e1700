/* Lost offsets: what Redis needs and Kafka no longer has is never passed over, until somebody accepts it on record. */
#include "tests/unit/ingest/help.h"

enum { RING = 65536 };

static void lost_note(struct bench *b, int32_t partition, uint64_t epoch, uint64_t what) {
    uint32_t slot = slot_at(b, 0, partition);
    twin_store(&b->sink[ledger_lane(partition, b->config.lanes)]->slot[slot].lost, epoch, what);
}

static void low_set(struct sim_partition *p, int64_t low) { p->low = low; }

static void accept_by(struct bench *b, uint32_t topic, int32_t partition, uint64_t load, int64_t first) {
    struct control_accept *a = &b->control->accept[(b->control->accept_loss + 1) % CONTROL_ACCEPTS];
    atomic_store(&a->what, control_accept_what(topic, partition));
    atomic_store(&a->first, first);
    atomic_store(&a->load[0], load);
    atomic_store(&a->load[1], 0);
    atomic_fetch_add(&b->control->accept_loss, 1);
}

static void accept_loss(struct bench *b, uint32_t topic, int32_t partition) { accept_by(b, topic, partition, 0, -1); }

static const char *accepted_text(struct bench *b) {
    static char text[4096];
    char path[96];
    snprintf(path, sizeof path, "%s/accepted-losses", b->folder);
    FILE *f = fopen(path, "r");
    text[f == NULL ? 0 : fread(text, 1, sizeof text - 1, f)] = 0;
    if (f != NULL) fclose(f);
    return text;
}

static void expect_lost(struct bench *b, int32_t partition, int64_t from, int64_t to) {
    const struct ledger_ingest_slot *s = ledger_of(b, 0, partition);
    cr_assert(s->lost_from == from && s->lost_to == to, "[%lld,%lld)", (long long)s->lost_from, (long long)s->lost_to);
    pass_ms(b, 100);
    settle(b);
    const struct stats_partition *p = stats_partition(&b->stats, slot_at(b, 0, partition));
    cr_assert(p->lost_from == from && p->lost_to == to);
}

static struct bench *bench_applied(int partitions) {
    struct bench *b = bench_reading(1, RING, partitions, 20);
    settle(b);
    apply_all(b);
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(b->kafka.partition[0].committed, 20);
    return b;
}

static uint32_t state_of(struct bench *b) { return atomic_load(&b->worker.block->state); }

Test(loss, is_found_where_kafka_no_longer_has_what_redis_lost) {
    struct bench *b = bench_applied(2);
    struct sim_partition *p = &b->kafka.partition[0];
    uint64_t seed = 6;
    low_set(p, 15);
    lost_note(b, 0, 1, 7);
    settle(b);
    expect_lost(b, 0, 7, 15);
    cr_assert_str_eq(reason_shown(b), "offsets [7,15) lost: bulk[0]");
    cr_assert_eq(state_of(b), STATE_BLOCKED);
    cr_assert_eq(epoch_of(b, 0, 0), 1);
    cr_assert(p->committed == 20 && p->note.lost_from == 7 && p->note.lost_to == 15);
    sim_fill(p, 5, 0, &seed);
    sim_fill(&b->kafka.partition[1], 5, 0, &seed);
    settle(b);
    for (int64_t i = 20; i < 25; i++) expect_record(b, 0, 0, 1, i);
    expect_nothing(b, 0);
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(p->committed, 20, "nothing of it is committed");
    cr_assert_eq(b->kafka.partition[1].committed, 25);
    bench_drop(b);
}

Test(loss, is_accepted_on_record_and_the_rest_is_read_again) {
    struct bench *b = bench_applied(1);
    struct sim_partition *p = &b->kafka.partition[0];
    low_set(p, 15);
    lost_note(b, 0, 1, 7);
    settle(b);
    accept_loss(b, UINT32_MAX, -1);
    settle(b);
    expect_lost(b, 0, 0, 0);
    cr_assert_str_eq(accepted_text(b), "{\"time\": \"2023-11-14T22:30:01Z\", \"topic\": \"bulk\", \"partition\": 0, "
                                       "\"from\": 7, \"to\": 15, \"cluster\": \"\"}\n");
    cr_assert_eq(counted(b, M_ingest_offset_lost), 8);
    cr_assert_eq(epoch_of(b, 0, 0), 2);
    cr_assert_eq(atomic_load(&ledger_of(b, 0, 0)->flags), LEDGER_ASSIGNED | LEDGER_REWOUND | LEDGER_ACCEPTED,
                 "not that Redis may have nothing");
    cr_assert_eq(atomic_load(&b->ledger->accepted), 1);
    cr_assert_str_neq(reason_shown(b), "offsets [7,15) lost: bulk[0]");
    for (int64_t i = 15; i < 20; i++) expect_record(b, 0, 0, 0, i);
    pass_ms(b, 1000);
    settle(b);
    cr_assert(p->committed == 20 && p->note.lost_to == 0 && p->note.origin == 0, "[0,7) was there and has to be again");
    bench_drop(b);
}

Test(loss, is_made_up_for_by_a_load_that_is_read_from_its_beginning) {
    struct bench *b = bench_applied(1);
    uint64_t load = 0;
    memcpy(&load, "\x01\xa1\xff\xbf\x46\x31\x7a\x72", 8);
    low_set(&b->kafka.partition[0], 15);
    lost_note(b, 0, 1, 7);
    settle(b);
    accept_by(b, 0, 0, load, 14); /* its first record is lost, too */
    settle(b);
    expect_lost(b, 0, 7, 15);
    cr_assert_eq(atomic_load(&b->ledger->accepted), 1, "it was dealt with");
    cr_assert_str_eq(accepted_text(b), "");
    accept_by(b, 0, 0, load, 20); /* it has no record there at all */
    settle(b);
    expect_lost(b, 0, 7, 15);
    cr_assert_str_eq(accepted_text(b), "");
    accept_by(b, 0, 0, load, 15);
    settle(b);
    expect_lost(b, 0, 0, 0);
    cr_assert_str_eq(accepted_text(b), "{\"time\": \"2023-11-14T22:30:01Z\", \"topic\": \"bulk\", \"partition\": 0, "
                                       "\"from\": 7, \"to\": 15, \"cluster\": \"\", "
                                       "\"load\": \"01a1ffbf-4631-7a72-0000-000000000000\"}\n");
    for (int64_t i = 15; i < 20; i++) expect_record(b, 0, 0, 0, i);
    apply_all(b);
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(b->kafka.partition[0].note.origin, 15, "nothing before the load is needed again");
    bench_drop(b);
}

Test(loss, is_made_up_for_where_a_load_has_nothing) {
    struct bench *b = bench_applied(1);
    low_set(&b->kafka.partition[0], 15);
    lost_note(b, 0, 1, 7);
    settle(b);
    accept_by(b, 0, 0, 5, -1);
    settle(b);
    expect_lost(b, 0, 0, 0);
    bench_drop(b);
}

Test(loss, that_was_accepted_is_known_to_the_next_instance) {
    struct bench *b = bench_applied(1);
    struct sim_partition *p = &b->kafka.partition[0];
    low_set(p, 15);
    lost_note(b, 0, 1, 7);
    settle(b);
    accept_loss(b, UINT32_MAX, -1);
    settle(b);
    cr_assert(p->committed == 15 && p->note.rewound && p->note.accepted, "committed %lld", (long long)p->committed);
    bench_forgets(b);
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    cr_assert_eq(atomic_load(&ledger_of(b, 0, 0)->flags), LEDGER_ASSIGNED | LEDGER_REWOUND | LEDGER_ACCEPTED,
                 "the mark may be below where it goes on");
    bench_drop(b);
}

Test(loss, of_everything_moves_the_origin_when_it_is_accepted) {
    struct bench *b = bench_applied(1);
    low_set(&b->kafka.partition[0], 15);
    lost_note(b, 0, 1, LEDGER_LOST_ALL);
    settle(b);
    expect_lost(b, 0, 0, 15);
    accept_loss(b, 0, 0);
    settle(b);
    apply_all(b);
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(b->kafka.partition[0].note.origin, 15);
    lost_note(b, 0, 2, LEDGER_LOST_ALL); /* again: what was accepted is not asked for twice */
    settle(b);
    cr_assert_eq(epoch_of(b, 0, 0), 3);
    expect_record(b, 0, 0, 0, 15);
    bench_drop(b);
}

Test(loss, stays_over_a_restart_and_on_another_machine) {
    struct bench *b = bench_applied(1);
    low_set(&b->kafka.partition[0], 15);
    lost_note(b, 0, 1, 7);
    settle(b);
    ingest_dies(b);
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    expect_lost(b, 0, 7, 15);
    for (int i = 0; i < 2; i++) {
        bench_forgets(b);
        ingest_starts(b);
        sim_give(&b->kafka, 1);
        settle(b);
        expect_lost(b, 0, 7, 15);
        cr_assert_str_eq(reason_shown(b), "offsets [7,15) lost: bulk[0]");
        expect_nothing(b, 0);
        pass_ms(b, 1000);
        settle(b);
        cr_assert_eq(b->kafka.partition[0].note.lost_to, 15);
    }
    accept_loss(b, UINT32_MAX, -1);
    settle(b);
    for (int64_t i = 15; i < 20; i++) expect_record(b, 0, 0, 0, i);
    bench_drop(b);
}

Test(loss, survives_a_partition_that_goes_and_comes_back) {
    struct bench *b = bench_applied(1);
    low_set(&b->kafka.partition[0], 15);
    b->kafka.answer = ANSWER_FAILS; /* the note does not reach the broker */
    lost_note(b, 0, 1, 7);
    settle(b);
    sim_take_away(&b->kafka, true);
    settle(b);
    cr_assert_eq(b->g->lost_text[0], 0);
    b->kafka.answer = ANSWER_OK;
    sim_give(&b->kafka, 1);
    settle(b);
    expect_lost(b, 0, 7, 15);
    sim_take_away(&b->kafka, false);
    settle(b);
    b->kafka.partition[0].committed = 16; /* somebody else has had it accepted */
    b->kafka.partition[0].note = (struct note){0};
    sim_give(&b->kafka, 1);
    settle(b);
    expect_lost(b, 0, 0, 0);
    bench_drop(b);
}

Test(loss, lets_partitions_go) {
    struct bench *b = bench_reading(1, RING, 1, 20);
    settle(b);
    apply(b, 0, 10); /* the rest cannot be released: the lane waits */
    low_set(&b->kafka.partition[0], 15);
    lost_note(b, 0, 1, 7);
    settle(b);
    expect_lost(b, 0, 7, 15);
    mode_set(b, CONTROL_DRAIN);
    pass_ms(b, 1000);
    cr_assert_eq(settle(b), STEP_DONE);
    bench_drop(b);
}

Test(loss, at_the_commit_is_found_at_the_assignment) {
    for (int high = 0; high < 2; high++) {
        struct bench *b = bench_make(1, RING);
        uint64_t seed = 4;
        struct sim_partition *p = sim_partition_add(&b->kafka, 0, 0);
        sim_fill(p, 30, 0, &seed);
        p->committed = high ? 40 : 5;
        if (!high) low_set(p, 12);
        ingest_starts(b);
        sim_give(&b->kafka, 1);
        settle(b);
        expect_lost(b, 0, high ? 30 : 5, high ? 40 : 12);
        cr_assert_str_eq(reason_shown(b), high ? "offsets [30,40) lost: bulk[0]" : "offsets [5,12) lost: bulk[0]");
        expect_nothing(b, 0);
        accept_loss(b, 0, -1);
        settle(b);
        for (int64_t i = high ? 0 : 12; i < 30; i++) expect_record(b, 0, 0, 0, i);
        expect_lost(b, 0, 0, 0);
        bench_drop(b);
    }
}

Test(loss, while_reading_is_accepted_only_when_all_that_was_read_is_in_redis) {
    struct bench *b = bench_reading(1, RING, 1, 20);
    struct sim_partition *p = &b->kafka.partition[0];
    uint64_t seed = 4;
    settle(b);
    sim_fill(p, 40, 0, &seed);
    low_set(p, 50);
    settle(b);
    expect_lost(b, 0, 20, 50);
    accept_loss(b, UINT32_MAX, -1);
    settle(b);
    cr_assert_eq(atomic_load(&b->ledger->accepted), 0);
    cr_assert_str_eq(accepted_text(b), "");
    cr_assert_eq(apply_all(b), 20);
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(atomic_load(&b->ledger->accepted), 1);
    for (int64_t i = 50; i < 60; i++) expect_record(b, 0, 0, 0, i);
    cr_assert_eq(counted(b, M_ingest_offset_lost), 30);
    bench_drop(b);
}

/* What is asked for cannot be settled while another loss stops the lane: accepting that one is the way out. */
Test(loss, is_accepted_while_another_waits_for_the_same_lane) {
    struct bench *b = bench_reading(1, RING, 2, 20);
    uint64_t seed = 4;
    settle(b);
    sim_fill(&b->kafka.partition[0], 40, 0, &seed);
    low_set(&b->kafka.partition[0], 50);
    low_set(&b->kafka.partition[1], 15);
    lost_note(b, 1, 1, 7);
    settle(b);
    expect_lost(b, 0, 20, 50);
    expect_lost(b, 1, 0, 15);
    accept_loss(b, 0, 0);
    settle(b);
    cr_assert_eq(atomic_load(&b->ledger->accepted), 0, "the sink stands still: nothing of it is released");
    accept_loss(b, 0, 1);
    pass_ms(b, 1000);
    settle(b);
    expect_lost(b, 1, 0, 0);
    cr_assert_eq(atomic_load(&b->ledger->accepted), 2);
    apply_all(b);
    accept_loss(b, 0, 0);
    settle(b);
    expect_lost(b, 0, 0, 0);
    bench_drop(b);
}

Test(loss, of_a_topic_made_anew_is_what_lies_beyond_its_end) {
    struct bench *b = bench_applied(1);
    b->kafka.partition[0].end = 5; /* as the broker says; the fetcher is beyond it */
    lost_note(b, 0, 1, 12);
    settle(b);
    expect_lost(b, 0, 5, 12);
    bench_drop(b);
}

Test(loss, with_another_cluster_is_all_that_redis_has_and_goes_on_where_the_group_stands) {
    struct bench *b = bench_make(1, RING);
    uint64_t seed = 4;
    struct sim_partition *p = sim_partition_add(&b->kafka, 0, 0);
    sim_fill(p, 30, 0, &seed);
    p->committed = 25;
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    lost_note(b, 0, 1, LEDGER_LOST_OTHER | 900);
    settle(b);
    expect_lost(b, 0, 0, 900);
    accept_loss(b, UINT32_MAX, -1);
    settle(b);
    cr_assert_eq(atomic_load(&ledger_of(b, 0, 0)->start), 25);
    cr_assert_eq(atomic_load(&ledger_of(b, 0, 0)->origin), 25);
    apply_all(b);
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(p->committed, 30);
    bench_drop(b);
}

Test(loss, is_accepted_only_where_it_was_asked_for) {
    struct bench *b = bench_applied(3);
    for (int32_t i = 0; i < 3; i++) {
        low_set(&b->kafka.partition[i], 15);
        lost_note(b, i, 1, 7);
    }
    settle(b);
    cr_assert_str_eq(reason_shown(b), "offsets [7,15) lost: bulk[0] and 2 more");
    accept_loss(b, 1, -1); /* another topic */
    settle(b);
    cr_assert_eq(atomic_load(&b->ledger->accepted), 1);
    expect_lost(b, 1, 7, 15);
    accept_loss(b, 0, 1);
    settle(b);
    expect_lost(b, 0, 7, 15);
    expect_lost(b, 1, 0, 0);
    expect_lost(b, 2, 7, 15);
    cr_assert_str_eq(reason_shown(b), "offsets [7,15) lost: bulk[0] and 1 more");
    accept_loss(b, 0, -1);
    settle(b);
    expect_lost(b, 0, 0, 0);
    expect_lost(b, 2, 0, 0);
    bench_drop(b);
}

Test(loss, that_comes_later_was_not_accepted_before) {
    struct bench *b = bench_applied(1);
    accept_loss(b, UINT32_MAX, -1); /* there is none */
    settle(b);
    low_set(&b->kafka.partition[0], 15);
    lost_note(b, 0, 1, 7);
    settle(b);
    expect_lost(b, 0, 7, 15);
    sim_take_away(&b->kafka, false);
    settle(b);
    accept_loss(b, UINT32_MAX, -1); /* it belongs to somebody else now */
    settle(b);
    sim_give(&b->kafka, 1);
    settle(b);
    expect_lost(b, 0, 7, 15);
    bench_drop(b);
}

Test(loss, is_not_accepted_while_that_cannot_be_put_on_record) {
    struct bench *b = bench_applied(1);
    char path[96];
    low_set(&b->kafka.partition[0], 15);
    lost_note(b, 0, 1, 7);
    settle(b);
    snprintf(path, sizeof path, "%s/accepted-losses", b->folder);
    cr_assert_eq(mkdir(path, 0700), 0);
    accept_loss(b, UINT32_MAX, -1);
    for (int s = 0; s < 3; s++) {
        pass_ms(b, 1000);
        settle(b);
        expect_lost(b, 0, 7, 15);
    }
    cr_assert_eq(rmdir(path), 0);
    FILE *f = fopen(path, "w");
    fputs("{\"cut", f); /* by a crash */
    fclose(f);
    pass_ms(b, 1000);
    settle(b);
    expect_lost(b, 0, 0, 0);
    cr_assert_eq(strncmp(accepted_text(b), "{\"cut\n{\"time\": ", 15), 0, "%s", accepted_text(b));
    bench_drop(b);
}

Test(loss, that_grew_until_it_was_accepted_is_recorded_as_it_is) {
    struct bench *b = bench_applied(1);
    low_set(&b->kafka.partition[0], 15);
    lost_note(b, 0, 1, 7);
    settle(b);
    low_set(&b->kafka.partition[0], 18);
    b->kafka.watermarks_fail = 2;
    accept_loss(b, UINT32_MAX, -1);
    for (int s = 0; s < 4; s++) {
        pass_ms(b, 1000);
        settle(b);
    }
    cr_assert_not_null(strstr(accepted_text(b), "\"from\": 7, \"to\": 18"), "%s", accepted_text(b));
    cr_assert_eq(counted(b, M_ingest_offset_lost), 11);
    expect_record(b, 0, 0, 0, 18);
    bench_drop(b);
}

Test(loss, found_by_the_sink_widens_what_the_reader_found) {
    struct bench *b = bench_applied(1);
    struct sim_partition *p = &b->kafka.partition[0];
    uint64_t seed = 4;
    sim_fill(p, 40, 0, &seed);
    low_set(p, 50);
    settle(b);
    expect_lost(b, 0, 20, 50);
    lost_note(b, 0, 1, 3);
    settle(b);
    expect_lost(b, 0, 3, 50);
    accept_loss(b, UINT32_MAX, -1);
    settle(b);
    expect_record(b, 0, 0, 0, 50);
    bench_drop(b);
}

Test(loss, that_is_none_after_all_is_read_again) {
    struct bench *b = bench_applied(1);
    uint64_t seed = 4;
    sim_fill(&b->kafka.partition[0], 5, 0, &seed);
    b->kafka.partition[0].fail_code = 1; /* a message of before a seek, say */
    settle(b);
    pass_ms(b, 200);
    settle(b);
    for (int64_t i = 20; i < 25; i++) expect_record(b, 0, 0, 0, i);
    expect_lost(b, 0, 0, 0);
    bench_drop(b);
}

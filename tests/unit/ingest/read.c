/* Read: from the partitions' queues to the rings; numbering, lanes, full rings, ends of partitions, oversize records.
 */
#include "tests/unit/ingest/help.h"

enum { RING = 65536, SMALL = 4096 };

Test(read, numbers_the_records_of_a_lane_one_by_one_and_carries_them_unaltered) {
    struct bench *b = bench_reading(1, RING, 3, 40);
    settle(b);
    int64_t next[3] = {0};
    struct taken t;
    uint64_t number = 0;
    while (take_next(b, 0, &t)) { /* content is checked in there */
        cr_assert_eq(t.number, ++number);
        cr_assert_eq(t.head.op, RECORD_RAW);
        cr_assert_eq(t.head.epoch, 1);
        cr_assert_eq(t.head.ingest_ns, (int64_t)b->time.now_ns);
        cr_assert_eq(t.head.offset, next[t.head.partition]++);
        release(b, 0, &t);
    }
    cr_assert_eq(number, 120);
    cr_assert_eq(b->kafka.held, 0, "messages were not given back");
    cr_assert_eq(counted(b, M_ingest_record_read), 120);
    cr_assert_eq(counted(b, M_worker_ring_record_publish), 120);
    cr_assert_eq(atomic_load(&b->worker.block->lane_published[0]), 120);
    bench_drop(b);
}

Test(read, keeps_a_partition_in_the_lane_of_its_number_for_every_topic) {
    struct bench *b = bench_make(3, RING);
    uint64_t seed = 5;
    for (int i = 0; i < 7; i++)
        for (uint32_t topic = 0; topic < 2; topic++) sim_fill(sim_partition_add(&b->kafka, topic, i), 20, 0, &seed);
    ingest_starts(b);
    sim_give(&b->kafka, UINT64_MAX);
    uint32_t lanes[3] = {0};
    for (int rounds = 0; rounds < 50; rounds++) {
        settle(b);
        for (uint32_t lane = 0; lane < 3; lane++) lanes[lane] += apply(b, lane, UINT32_MAX); /* checks the lane */
    }
    cr_assert_eq(lanes[0], 3 * 2 * 20); /* partitions 0, 3, 6 */
    cr_assert_eq(lanes[1], 2 * 2 * 20);
    cr_assert_eq(lanes[2], 2 * 2 * 20);
    bench_drop(b);
}

Test(read, numbers_every_lane_from_one) {
    struct bench *b = bench_reading(2, RING, 2, 3);
    settle(b);
    for (uint32_t lane = 0; lane < 2; lane++)
        for (uint64_t n = 1; n <= 3; n++)
            cr_assert_eq(expect_record(b, lane, 0, (int32_t)lane, (int64_t)n - 1).number, n);
    bench_drop(b);
}

Test(read, follows_gaps_in_offsets) {
    struct bench *b = bench_make(1, RING);
    struct sim_partition *p = sim_partition_add(&b->kafka, 0, 0);
    static const int64_t offsets[] = {3, 4, 9, 1000, 1001, 70000000000};
    p->low = 3;
    p->end = 3;
    for (size_t i = 0; i < 6; i++) sim_put(p, offsets[i], 10, 3);
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    for (size_t i = 0; i < 6; i++) expect_record(b, 0, 0, 0, offsets[i]);
    expect_nothing(b, 0);
    bench_drop(b);
}

Test(read, tells_null_from_empty) {
    struct bench *b = bench_make(1, RING);
    struct sim_partition *p = sim_partition_add(&b->kafka, 0, 0);
    for (int key = -1; key < 2; key++)
        for (int value = -1; value < 2; value++) sim_put(p, p->end, value, key);
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    for (int64_t i = 0; i < 9; i++) {
        struct taken t = expect_record(b, 0, 0, 0, i);
        cr_assert_eq((t.head.flags & RECORD_KEY_NULL) != 0, i / 3 == 0);
        cr_assert_eq((t.head.flags & RECORD_VALUE_NULL) != 0, i % 3 == 0);
    }
    bench_drop(b);
}

Test(read, takes_the_id_from_the_most_specific_header_and_else_derives_it) {
    struct bench *b = bench_make(1, RING);
    struct sim_partition *p = sim_partition_add(&b->kafka, 1, 4);
    static const char *const text = "00112233-4455-6677-8899-aabbccddeeff";
    static const char *const other = "ffffffff-4455-6677-8899-aabbccddeeff";
    struct sim_message *m = sim_put(p, 0, 5, 5);
    m->header_bytes = (uint32_t)record_header_put(m->headers, "ce_id", 5, other, 36);
    m->header_bytes += (uint32_t)record_header_put(m->headers + m->header_bytes, "message-id", 10, text, 36);
    m = sim_put(p, 1, 5, 5);
    m->header_bytes = (uint32_t)record_header_put(m->headers, "message-id", 10, "nonsense", 8);
    sim_put(p, 2, 5, 5);
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    uint8_t want[16];
    struct taken t = expect_record(b, 0, 1, 4, 0);
    cr_assert_eq(record_id_parse(want, text, 36), 0);
    cr_assert_arr_eq(t.head.id, want, 16);
    for (int64_t offset = 1; offset < 3; offset++) {
        t = expect_record(b, 0, 1, 4, offset);
        record_id_derive(want, "change", 4, offset);
        cr_assert_arr_eq(t.head.id, want, 16);
    }
    bench_drop(b);
}

Test(read, leaves_out_what_the_client_delivers_twice) {
    struct bench *b = bench_reading(1, RING, 1, 30);
    settle(b);
    b->kafka.partition[0].position = 10; /* as a resumed or reset fetcher of the library may */
    b->kafka.partition[0].end_told = false;
    uint64_t seed = 1;
    sim_fill(&b->kafka.partition[0], 5, 0, &seed);
    settle(b);
    for (int64_t i = 0; i < 35; i++) expect_record(b, 0, 0, 0, i);
    expect_nothing(b, 0);
    cr_assert_eq(b->kafka.held, 0);
    bench_drop(b);
}

/* -- full rings -------------------------------------------------------------------------------- */

Test(read, takes_nothing_while_the_ring_is_full_and_loses_nothing_after) {
    struct bench *b = bench_reading(1, SMALL, 2, 200);
    cr_assert_eq(settle(b), STEP_BLOCKED);
    uint32_t fetched = b->kafka.partition[0].fetched + b->kafka.partition[1].fetched;
    cr_assert_lt(fetched, 40);
    for (int i = 0; i < 20; i++) cr_assert_eq(step(b), STEP_BLOCKED);
    cr_assert_eq(b->kafka.partition[0].fetched + b->kafka.partition[1].fetched, fetched, "taken without room");
    cr_assert_eq(b->kafka.held, 0, "held outside the ring");
    int64_t next[2] = {0};
    struct taken t;
    uint32_t n = 0;
    for (int rounds = 0; rounds < 1000 && n < 400; rounds++) {
        if (take_next(b, 0, &t)) {
            cr_assert_eq(t.head.offset, next[t.head.partition]++);
            release(b, 0, &t);
            n++;
        }
        step(b);
    }
    cr_assert_eq(n, 400);
    bench_drop(b);
}

Test(read, lets_a_full_lane_hold_up_no_other) {
    struct bench *b = bench_reading(2, SMALL, 2, 300);
    uint32_t n = 0;
    for (int rounds = 0; rounds < 2000 && n < 300; rounds++) {
        step(b);
        n += apply(b, 1, UINT32_MAX); /* nobody reads lane 0 */
    }
    cr_assert_eq(n, 300);
    cr_assert_lt(b->kafka.partition[0].fetched, 40);
    bench_drop(b);
}

Test(read, polls_for_events_however_long_the_ring_is_full) {
    struct bench *b = bench_reading(1, SMALL, 1, 200);
    settle(b);
    for (int hour = 0; hour < 24; hour++) {
        pass_ms(b, 3600 * 1000);
        sim_event(&b->kafka, KAFKA_TROUBLE);
        step(b);
        cr_assert_eq(b->kafka.event_count, 0, "the membership would have ended");
    }
    cr_assert_eq(atomic_load(&b->worker.block->state), STATE_RUNNING, "a full ring is nothing to mend");
    bench_drop(b);
}

Test(read, gives_every_partition_of_a_lane_its_turn) {
    struct bench *b = bench_reading(1, SMALL, 3, 5000);
    for (int rounds = 0; rounds < 300; rounds++) {
        step(b);
        apply(b, 0, 10);
    }
    uint32_t low = UINT32_MAX, high = 0;
    for (int i = 0; i < 3; i++) {
        uint32_t n = b->kafka.partition[i].fetched;
        low = n < low ? n : low;
        high = n > high ? n : high;
    }
    cr_assert_gt(low, high / 3, "%u to %u", low, high);
    bench_drop(b);
}

/* -- ends of partitions ------------------------------------------------------------------------ */

Test(read, carries_an_end_beyond_the_last_record_with_a_marker) {
    struct bench *b = bench_reading(1, RING, 1, 5);
    sim_gap(&b->kafka.partition[0], 3);
    settle(b);
    for (int64_t i = 0; i < 5; i++) expect_record(b, 0, 0, 0, i);
    struct taken t = expect_record(b, 0, 0, 0, 7);
    cr_assert_eq(t.head.op, RECORD_SKIP);
    expect_nothing(b, 0);
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(b->kafka.partition[0].committed, 8);
    bench_drop(b);
}

Test(read, puts_no_marker_where_the_end_follows_the_last_record) {
    struct bench *b = bench_reading(1, RING, 1, 5);
    settle(b);
    for (int i = 0; i < 10; i++) { /* told again, as after every reconnect */
        b->kafka.partition[0].end_told = false;
        settle(b);
    }
    cr_assert_eq(apply_all(b), 5);
    bench_drop(b);
}

Test(read, goes_on_after_a_marker_with_the_next_record) {
    struct bench *b = bench_reading(1, RING, 1, 2);
    sim_gap(&b->kafka.partition[0], 2);
    settle(b);
    sim_put(&b->kafka.partition[0], 4, 1, 1);
    sim_put(&b->kafka.partition[0], 9, 1, 1);
    settle(b);
    static const int64_t want[] = {0, 1, 3, 4, 9};
    for (size_t i = 0; i < 5; i++) expect_record(b, 0, 0, 0, want[i]);
    expect_nothing(b, 0);
    bench_drop(b);
}

/* -- errors of a partition --------------------------------------------------------------------- */

Test(read, goes_on_after_a_passing_error_of_a_partition) {
    struct bench *b = bench_reading(1, RING, 1, 5);
    b->kafka.partition[0].fail_code = 2;
    settle(b);
    pass_ms(b, 150);
    settle(b);
    for (int64_t i = 0; i < 5; i++) expect_record(b, 0, 0, 0, i);
    cr_assert_eq(counted(b, M_ingest_kafka_error), 1);
    cr_assert_eq(atomic_load(&b->worker.block->state), STATE_RUNNING);
    bench_drop(b);
}

Test(read, goes_back_for_what_could_not_be_read_and_takes_nothing_behind_it) {
    struct bench *b = bench_reading(1, RING, 1, 20);
    struct sim_partition *p = &b->kafka.partition[0];
    p->fail_code = 2;
    p->fail_skips = 7; /* the client would go on at 7 */
    settle(b);
    expect_nothing(b, 0);
    cr_assert_eq(p->seeks, 0, "a pause comes first");
    pass_ms(b, 150);
    b->kafka.seek_fails = 1;
    settle(b);
    expect_nothing(b, 0);
    pass_ms(b, 150);
    settle(b);
    cr_assert_eq(p->seeks, 1);
    for (int64_t i = 0; i < 20; i++) expect_record(b, 0, 0, 0, i);
    bench_drop(b);
}

Test(read, says_so_when_a_place_cannot_be_read_again_and_again_and_goes_on_when_it_can) {
    struct bench *b = bench_reading(1, RING, 1, 3);
    struct sim_partition *p = &b->kafka.partition[0];
    for (int i = 0; i < 6; i++) {
        p->fail_code = 2;
        p->fail_skips = 2;
        settle(b);
        expect_nothing(b, 0);
        pass_ms(b, 10000);
    }
    cr_assert_not_null(strstr(reason_shown(b), "cannot be read at offset 0"), "%s", reason_shown(b));
    settle(b);
    for (int64_t i = 0; i < 3; i++) expect_record(b, 0, 0, 0, i);
    step(b);
    cr_assert_str_empty(reason_shown(b));
    bench_drop(b);
}

Test(read, blocks_a_partition_whose_offset_is_gone_and_says_which_while_others_go_on) {
    struct bench *b = bench_make(1, RING);
    uint64_t seed = 3;
    for (int i = 0; i < 2; i++) {
        sim_fill(sim_partition_add(&b->kafka, 0, i), 100, 0, &seed);
        b->kafka.partition[i].committed = 20;
    }
    b->kafka.partition[0].low = 50; /* retention went past our commit: 30 records nobody will ever see */
    ingest_starts(b);
    sim_give(&b->kafka, 3);
    settle(b);
    cr_assert_eq(atomic_load(&b->worker.block->state), STATE_BLOCKED);
    cr_assert_not_null(strstr(reason_shown(b), "bulk[0]"), "%s", reason_shown(b));
    cr_assert_not_null(strstr(reason_shown(b), "20"), "%s", reason_shown(b));
    for (int64_t i = 20; i < 100; i++) expect_record(b, 0, 0, 1, i);
    expect_nothing(b, 0);
    pass_ms(b, 5000);
    settle(b);
    cr_assert_eq(b->kafka.partition[0].committed, 20, "the loss was committed away");
    cr_assert_eq(b->kafka.partition[1].committed, 100);
    bench_drop(b);
}

/* -- oversize ---------------------------------------------------------------------------------- */

static struct bench *bench_oversize(void) {
    struct bench *b = bench_make(1, RING);
    struct sim_partition *p = sim_partition_add(&b->kafka, 0, 0);
    sim_put(p, 0, 10, 3);
    sim_put(p, 1, RING, 3);
    sim_put(p, 2, 10, 3);
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    return b;
}

Test(read, rejects_durably_what_no_ring_takes_and_passes_a_marker_on) {
    struct bench *b = bench_oversize();
    settle(b);
    expect_record(b, 0, 0, 0, 0);
    struct taken t = expect_record(b, 0, 0, 0, 1);
    cr_assert_eq(t.head.op, RECORD_REJECT);
    cr_assert_eq(t.head.reason, REASON_TOO_LARGE);
    expect_record(b, 0, 0, 0, 2);
    cr_assert_eq(b->kafka.held, 0);
    struct kept *k = kept_read(b->folder);
    cr_assert_eq(k->count, 1);
    cr_assert_eq(k->head[0].offset, 1);
    cr_assert_eq(k->head[0].reason, REASON_TOO_LARGE);
    cr_assert_eq(k->head[0].flags, REJECT_CONTENT_ABSENT);
    cr_assert_eq(k->head[0].value_bytes, 0);
    cr_assert_eq(counted(b, M_ingest_record_oversize), 1);
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(b->kafka.partition[0].committed, 3);
    bench_drop(b);
}

/* Its producer may have counted it: whose it is, and under which id, is known all the same. */
Test(read, gives_audit_the_headers_of_a_record_that_is_too_large) {
    static const uint8_t id[16] = {0x11, 0x22, 0x33, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    for (uint32_t audit = 0; audit <= 1; audit++) {
        struct bench *b = bench_oversize();
        b->config.audit = audit;
        struct sim_message *m = b->kafka.partition[0].log[1];
        m->header_bytes = (uint32_t)record_header_put(m->headers, "millrace-id", 11, id, sizeof id);
        m->header_bytes += (uint32_t)record_header_put(m->headers + m->header_bytes, "n", 1, "7", 1);
        settle(b);
        expect_record(b, 0, 0, 0, 0);
        struct taken t = expect_record(b, 0, 0, 0, 1);
        cr_assert(t.head.op == RECORD_REJECT && t.head.value_bytes == 0 && t.head.kafka_key_bytes == 0);
        cr_assert_eq(t.head.headers_bytes, audit ? m->header_bytes : 0);
        cr_assert_eq(memcmp(t.head.id, id, sizeof id), 0);
        expect_record(b, 0, 0, 0, 2);
        struct kept *k = kept_read(b->folder);
        cr_assert(k->count == 1 && memcmp(k->head[0].id, id, sizeof id) == 0 && k->head[0].headers_bytes == 0);
        bench_drop(b);
    }
}

Test(read, takes_a_record_of_exactly_the_largest_size) {
    struct bench *b = bench_make(1, RING);
    struct sim_partition *p = sim_partition_add(&b->kafka, 0, 0);
    int32_t max = (int32_t)(ring_record_max(RING) - sizeof(struct record));
    sim_put(p, 0, max - 3, 3);
    sim_put(p, 1, max - 2, 3);
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    cr_assert_eq(expect_record(b, 0, 0, 0, 0).head.op, RECORD_RAW);
    cr_assert_eq(expect_record(b, 0, 0, 0, 1).head.op, RECORD_REJECT);
    bench_drop(b);
}

Test(read, rejects_a_record_whose_headers_are_beyond_the_limit) {
    struct bench *b = bench_make(1, 1 << 20);
    struct sim_partition *p = sim_partition_add(&b->kafka, 0, 0);
    sim_put(p, 0, 10, 3)->headers_claimed = HEADERS_BYTES_MAX + 1;
    sim_put(p, 1, 10, 3)->headers_claimed = UINT32_MAX;
    sim_put(p, 2, 10, 3);
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    for (int64_t i = 0; i < 3; i++)
        cr_assert_eq(expect_record(b, 0, 0, 0, i).head.op, i < 2 ? RECORD_REJECT : RECORD_RAW);
    bench_drop(b);
}

Test(read, waits_with_an_oversize_record_while_the_store_is_full_and_loses_nothing) {
    struct bench *b = bench_oversize();
    b->g->store.max_bytes = 64;
    settle(b);
    expect_record(b, 0, 0, 0, 0);
    expect_nothing(b, 0);
    cr_assert_eq(atomic_load(&b->worker.block->state), STATE_BLOCKED);
    cr_assert_str_eq(reason_shown(b), "rejects full");
    for (int i = 0; i < 20; i++) {
        pass_ms(b, 500);
        cr_assert_eq(settle(b), STEP_BLOCKED);
    }
    cr_assert_eq(b->kafka.partition[0].committed, 1, "committed beyond what is safe");
    cr_assert_eq(b->kafka.held, 1);
    b->g->store.max_bytes = 1 << 20;
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(expect_record(b, 0, 0, 0, 1).head.op, RECORD_REJECT);
    expect_record(b, 0, 0, 0, 2);
    cr_assert_eq(b->kafka.held, 0);
    cr_assert_eq(atomic_load(&b->worker.block->state), STATE_RUNNING);
    cr_assert_eq(counted(b, M_ingest_record_read), 3, "each record is read once, however often it is tried");
    bench_drop(b);
}

Test(read, takes_up_a_waiting_oversize_record_again_after_a_death) {
    struct bench *b = bench_oversize();
    b->g->store.max_bytes = 64;
    settle(b);
    ingest_dies(b);
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    expect_record(b, 0, 0, 0, 0);
    cr_assert_eq(expect_record(b, 0, 0, 0, 1).head.op, RECORD_REJECT);
    expect_record(b, 0, 0, 0, 2);
    bench_drop(b);
}

Test(read, gives_a_waiting_oversize_record_back_when_its_partition_goes) {
    struct bench *b = bench_oversize();
    b->g->store.max_bytes = 64;
    settle(b);
    cr_assert_eq(b->kafka.held, 1);
    sim_take_away(&b->kafka, true);
    settle(b);
    cr_assert_eq(b->kafka.held, 0);
    cr_assert_eq(b->kafka.unassigns, 1);
    b->g->store.max_bytes = 1 << 20;
    sim_give(&b->kafka, 1);
    settle(b);
    int64_t last = -1;
    struct taken t;
    while (take_next(b, 0, &t)) last = t.head.offset;
    cr_assert_eq(last, 2);
    bench_drop(b);
}

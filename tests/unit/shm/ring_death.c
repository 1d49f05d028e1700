/* Deaths: states of memory that a killed end leaves behind, built by hand. Real processes are killed in ring_step.c
 * (at every instruction) and in ring_soak.c (at random). */
#include "tests/unit/shm/help.h"

enum { AUX = 3 };

/* A ring with n records published, whose aux word 0 is the last number and word 1 its square. */
static struct pair ring_with(int n) {
    struct pair r = pair_make(SMALL, AUX);
    for (int i = 0; i < n; i++) {
        cr_assert(put_len(&r.p, 40));
        ring_aux_set(&r.p, 0, r.p.number);
        ring_aux_set(&r.p, 1, r.p.number * r.p.number);
        ring_publish(&r.p);
    }
    return r;
}

/* The successor goes on with number n + 1 and the aux words of n, and the reader sees all records once and in order. */
static void expect_continues(struct pair *r, uint64_t n) {
    producer_attach(r);
    cr_assert_eq(r->p.number_published, n);
    cr_assert_eq(r->p.number, n);
    cr_assert_eq(ring_aux_get(&r->p, 0), n);
    cr_assert_eq(ring_aux_get(&r->p, 1), n * n);
    cr_assert_eq(ring_aux_get(&r->p, 2), 0);
    for (int i = 0; i < 5; i++) {
        cr_assert(put_len(&r->p, (uint32_t)(20 + 30 * i)));
        cr_assert_eq(r->p.number, n + 1 + (uint64_t)i);
        ring_aux_set(&r->p, 0, r->p.number);
        ring_publish(&r->p);
    }
    struct ring_item item = {0};
    for (uint64_t k = r->c.number_released + 1; k <= n + 5; k++) item = peek_expect(&r->c, k);
    peek_expect_empty(&r->c);
    ring_release(&r->c, item.end, n + 5);
    ring_producer_detach(&r->p);
    producer_attach(r);
    cr_assert_eq(r->p.number_published, n + 5);
    cr_assert_eq(ring_aux_get(&r->p, 0), n + 5);
    cr_assert_eq(ring_aux_get(&r->p, 1), n * n);
    pair_drop(r);
}

/* Index of the slot of the producer's page that is not current. */
static int slot_spare(const struct pair *r) {
    uint64_t tail = look64(r->fds.producer, 0);
    bool first = look64(r->fds.producer, slot_at(0)) == tail;
    cr_assert_neq(first, look64(r->fds.producer, slot_at(1)) == tail);
    return first ? 1 : 0;
}

static size_t aux_at(int slot, uint32_t i) { return RING_PAGE + ((size_t)slot * AUX + i) * sizeof(uint64_t); }

Test(ring_death, a_producer_that_staged_and_did_not_publish_leaves_no_trace) {
    for (int n = 0; n < 6; n++) {
        struct pair r = ring_with(n);
        for (int i = 0; i < 4; i++) cr_assert(put_len(&r.p, 90));
        ring_aux_set(&r.p, 0, 999);
        ring_aux_set(&r.p, 2, 999);
        ring_producer_detach(&r.p);
        expect_continues(&r, (uint64_t)n);
    }
}

Test(ring_death, a_producer_that_died_while_copying_leaves_no_trace) {
    for (int n = 0; n < 6; n++) {
        struct pair r = ring_with(n);
        uint8_t *body = ring_reserve(&r.p, 300);
        memset(body, 0xff, 300);
        memset(body - RING_HEADER_BYTES, 0xff, 5); /* half a header */
        ring_producer_detach(&r.p);
        expect_continues(&r, (uint64_t)n);
    }
}

Test(ring_death, a_half_filled_slot_of_a_tail_that_never_came_is_not_taken) {
    for (int n = 1; n < 6; n++)
        for (int stage = 0; stage < 4; stage++) {
            struct pair r = ring_with(n);
            uint64_t tail = r.p.tail;
            ring_producer_detach(&r.p);
            int spare = slot_spare(&r);
            smash64(r.fds.producer, aux_at(spare, 0), 4242);
            if (stage >= 1) smash64(r.fds.producer, aux_at(spare, 2), 4242);
            if (stage >= 2) smash64(r.fds.producer, slot_at(spare) + 8, (uint64_t)n + 1);
            if (stage >= 3) smash64(r.fds.producer, slot_at(spare), tail + 64);
            expect_continues(&r, (uint64_t)n);
        }
}

Test(ring_death, the_position_of_a_future_tail_does_not_come_true_later) {
    /* The dead producer had filled its slot for a tail that its successor reaches with other records, one, two or three
     * publications later. */
    for (int later = 1; later <= 3; later++) {
        struct pair r = ring_with(3);
        uint64_t tail = r.p.tail;
        ring_producer_detach(&r.p);
        int spare = slot_spare(&r);
        smash64(r.fds.producer, slot_at(spare), tail + (uint64_t)later * 64);
        smash64(r.fds.producer, slot_at(spare) + 8, 77);
        smash64(r.fds.producer, aux_at(spare, 0), 77);
        producer_attach(&r);
        for (int i = 1; i <= later; i++) {
            cr_assert(put_len(&r.p, 48));
            ring_aux_set(&r.p, 0, r.p.number);
            ring_publish(&r.p);
            ring_producer_detach(&r.p);
            producer_attach(&r);
            cr_assert_eq(r.p.number_published, (uint64_t)(3 + i));
            cr_assert_eq(ring_aux_get(&r.p, 0), (uint64_t)(3 + i));
            cr_assert_eq(ring_aux_get(&r.p, 1), 9);
        }
        cr_assert_eq(r.p.tail, tail + (uint64_t)later * 64);
        pair_drop(&r);
    }
}

Test(ring_death, successors_that_die_at_once_one_after_the_other_lose_nothing) {
    struct pair r = ring_with(4);
    for (int i = 0; i < 100; i++) {
        ring_producer_detach(&r.p);
        producer_attach(&r);
        if (i % 3 == 0) cr_assert(put_len(&r.p, 50));
        if (i % 3 == 1) ring_aux_set(&r.p, 1, 1);
    }
    ring_producer_detach(&r.p);
    expect_continues(&r, 4);
}

Test(ring_death, padding_that_was_staged_without_its_record_is_never_seen) {
    struct pair r = ring_with(0);
    uint64_t n = 0;
    while (r.p.tail < SMALL - 200) {
        put_and_publish(&r.p, 1, 112);
        struct ring_item item = peek_expect(&r.c, ++n);
        ring_release(&r.c, item.end, n);
    }
    cr_assert(put_len(&r.p, 400)); /* goes behind padding */
    cr_assert_gt(r.p.cursor, (uint64_t)SMALL);
    ring_producer_detach(&r.p);
    producer_attach(&r);
    peek_expect_empty(&r.c);
    put_and_publish(&r.p, 1, 8); /* fits before the wrap, where the padding header was */
    cr_assert_leq(r.p.tail, (uint64_t)SMALL);
    peek_expect(&r.c, n + 1);
    peek_expect_empty(&r.c);
    pair_drop(&r);
}

Test(ring_death, a_consumers_successor_gets_the_oldest_unreleased_record_with_its_number) {
    struct pair r = ring_with(20);
    struct ring_item third = {0};
    for (uint64_t k = 1; k <= 12; k++) {
        struct ring_item item = peek_expect(&r.c, k);
        if (k == 3) third = item;
    }
    ring_release(&r.c, third.end, 3);
    ring_in_hand(&r.c, 13);
    ring_consumer_detach(&r.c);
    consumer_attach(&r);
    cr_assert_eq(r.c.number_released, 3);
    for (uint64_t k = 4; k <= 20; k++) peek_expect(&r.c, k);
    peek_expect_empty(&r.c);
    pair_drop(&r);
}

Test(ring_death, a_consumer_that_died_while_releasing_has_released_nothing) {
    for (int stage = 0; stage < 2; stage++) {
        struct pair r = ring_with(10);
        struct ring_item item = {0};
        for (uint64_t k = 1; k <= 4; k++) item = peek_expect(&r.c, k);
        ring_release(&r.c, item.end, 4);
        uint64_t head = r.c.head;
        ring_consumer_detach(&r.c);
        int spare = look64(r.fds.consumer, slot_at(0)) == head ? 1 : 0;
        smash64(r.fds.consumer, slot_at(spare) + 8, 9);
        if (stage == 1) smash64(r.fds.consumer, slot_at(spare), head + 320);
        consumer_attach(&r);
        cr_assert_eq(r.c.number_released, 4);
        for (uint64_t k = 5; k <= 10; k++) {
            item = peek_expect(&r.c, k);
            ring_release(&r.c, item.end, k);
            ring_consumer_detach(&r.c);
            consumer_attach(&r);
            cr_assert_eq(r.c.number_released, k);
        }
        pair_drop(&r);
    }
}

Test(ring_death, a_full_ring_outlives_both_ends) {
    struct pair r = ring_with(0);
    uint64_t n = 0;
    while (put_len(&r.p, 112)) n++;
    ring_publish(&r.p);
    ring_producer_detach(&r.p);
    ring_consumer_detach(&r.c);
    producer_attach(&r);
    cr_assert_null(ring_reserve(&r.p, 0));
    consumer_attach(&r);
    for (uint64_t k = 1; k <= n; k++) {
        struct ring_item item = peek_expect(&r.c, k);
        ring_release(&r.c, item.end, k);
    }
    cr_assert(put_len(&r.p, 112));
    pair_drop(&r);
}

#include "sink/flight.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdlib.h>

static struct flight f;

static void start(void) {
    struct err err;
    cr_assert_eq(flight_init(&f, 8, &err), 0);
}
static void stop(void) { flight_free(&f); }

TestSuite(flight, .init = start, .fini = stop);

static void batch(uint64_t first, uint64_t last, int replies) {
    flight_begin(&f, first);
    for (int i = 0; i < replies; i++) flight_expect(&f, EXPECT_OK);
    flight_end(&f, last, last * 100);
}

Test(flight, answers_count_down_the_oldest_batch) {
    uint32_t slot;
    batch(1, 3, 2);
    batch(4, 4, 1);
    cr_assert_eq(f.records, 4);
    cr_assert_eq(flight_answer(&f, &slot), EXPECT_OK);
    cr_assert_eq(flight_oldest(&f)->replies, 1);
    cr_assert_eq(flight_answer(&f, &slot), EXPECT_OK);
    cr_assert_eq(flight_oldest(&f)->replies, 0);
    cr_assert_eq(flight_oldest(&f)->last, 3);
    flight_pop(&f);
    cr_assert_eq(f.records, 1);
    cr_assert_eq(flight_oldest(&f)->end, 400);
    cr_assert_eq(flight_answer(&f, &slot), EXPECT_OK);
    flight_pop(&f);
    cr_assert_null(flight_oldest(&f));
    cr_assert_eq(flight_answer(&f, &slot), EXPECT_NOTHING);
}

Test(flight, batch_with_answers_to_come_cannot_be_popped, .signal = SIGABRT) {
    batch(1, 1, 1);
    flight_pop(&f);
}

Test(flight, touches_of_a_batch_are_one_per_partition_with_the_last_offset) {
    struct batch *b = flight_begin(&f, 1);
    flight_touch(&f, 5, (struct mark){10, 1, false, 0, 0}, true);
    flight_touch(&f, 9, (struct mark){70, 1, false, 0, 0}, false);
    flight_touch(&f, 5, (struct mark){11, 1, false, 0, 0}, true);
    flight_end(&f, 3, 300);
    cr_assert_eq(b->touch_count, 2);
    cr_assert_eq(flight_touch_at(&f, b, 0)->mark.next, 11);
    cr_assert_eq(flight_touch_at(&f, b, 0)->refed, 2);
    cr_assert_eq(flight_touch_at(&f, b, 1)->slot, 9);
    cr_assert_eq(flight_touch_at(&f, b, 1)->refed, 0);
    b = flight_begin(&f, 4);
    flight_touch(&f, 5, (struct mark){12, 1, false, 0, 0}, false);
    flight_end(&f, 4, 400);
    cr_assert_eq(b->touch_count, 1, "the next batch has touches of its own");
    cr_assert_eq(flight_touch_at(&f, flight_oldest(&f), 0)->mark.next, 11);
}

Test(flight, touch_in_one_place_of_the_queue_is_not_taken_for_one_before_a_clear) {
    for (int i = 0; i < 100; i++) {
        struct batch *b = flight_begin(&f, 1);
        flight_touch(&f, 5, (struct mark){i, 1, false, 0, 0}, false);
        cr_assert_eq(b->touch_count, 1);
        flight_end(&f, 1, 100);
        flight_clear(&f);
        cr_assert(f.records == 0 && flight_oldest(&f) == NULL && flight_quiet(&f));
    }
}

Test(flight, questions_stand_between_batches_and_belong_to_none) {
    uint32_t slot = 0;
    batch(1, 1, 1);
    flight_ask(&f, EXPECT_MARK, 77);
    flight_ask(&f, EXPECT_CREATE, 78);
    batch(2, 2, 1);
    cr_assert(flight_asking(&f));
    cr_assert_eq(flight_answer(&f, &slot), EXPECT_OK);
    flight_pop(&f);
    cr_assert_eq(flight_answer(&f, &slot), EXPECT_MARK);
    cr_assert_eq(slot, 77);
    cr_assert_eq(flight_answer(&f, &slot), EXPECT_CREATE);
    cr_assert_eq(slot, 78);
    cr_assert(!flight_asking(&f) && !flight_quiet(&f));
    cr_assert_eq(flight_answer(&f, &slot), EXPECT_OK);
    cr_assert(flight_quiet(&f));
}

/* Against a model that is a plain list, through many turns of every queue. */
Test(flight, long_random_use_agrees_with_a_list) {
    struct {
        uint64_t first, last;
        uint32_t replies;
    } model[16];
    int from = 0, to = 0;
    uint64_t number = 0, records = 0;
    uint32_t slot;
    srand(11);
    for (int i = 0; i < 200000; i++) {
        uint64_t size = 1 + (uint64_t)rand() % 3;
        if (rand() % 2 == 0 && records + size <= 8) {
            uint32_t replies = (uint32_t)rand() % 4;
            batch(number + 1, number + size, (int)replies);
            model[to++ % 16].first = number + 1;
            model[(to - 1) % 16].last = number + size;
            model[(to - 1) % 16].replies = replies;
            number += size;
            records += size;
        } else if (from < to && model[from % 16].replies > 0) {
            cr_assert_eq(flight_answer(&f, &slot), EXPECT_OK);
            model[from % 16].replies--;
        }
        while (from < to && model[from % 16].replies == 0) {
            struct batch *b = flight_oldest(&f);
            cr_assert(b->first == model[from % 16].first && b->last == model[from % 16].last && b->replies == 0);
            records -= b->last - b->first + 1;
            flight_pop(&f);
            from++;
        }
        cr_assert_eq(f.records, records);
    }
}

#include "sink/lost.h"

#include <criterion/criterion.h>
#include <string.h>

static struct ledger_sink ledger;
static struct ledger_sink_slot *s = &ledger.slot[5];
static uint64_t n;

static uint64_t lost_next(void) { return atomic_load(&s->lost_next); }

/* Writes the records [from, to) again, `each` a batch; counts as the line does. */
static void refeed(int64_t from, int64_t to, int64_t each) {
    for (int64_t at = from; at < to; at += each) {
        uint64_t again = 0;
        int64_t end = at + each < to ? at + each : to;
        for (int64_t offset = at; offset < end; offset++) again += lost_refeeds(s, offset + 1);
        if (again > 0) lost_count(s, end, again);
    }
}

Test(lost, nothing_is_counted_where_nothing_was_lost) {
    cr_assert(!lost_open(s) && !lost_stands(s, 1) && !lost_refeeds(s, 1));
    cr_assert(!lost_passed(s, 100, &n));
    cr_assert_eq(lost_total(&ledger), 0);
}

Test(lost, note_stands_in_its_epoch_until_a_later_one_answers_it) {
    uint64_t epoch, what;
    cr_assert(lost_note(s, 4, 60, 100));
    twin_load(&s->lost, &epoch, &what);
    cr_assert(epoch == 4 && what == 60 && lost_next() == 100);
    cr_assert(lost_stands(s, 4) && !lost_stands(s, 5) && lost_open(s));
    cr_assert(!lost_note(s, 4, LEDGER_LOST_ALL, 500), "once in an epoch");
    twin_load(&s->lost, &epoch, &what);
    cr_assert(epoch == 4 && what == 60 && lost_next() == 100);
    lost_answered(s);
    cr_assert(!lost_stands(s, 4) && lost_open(s));
}

Test(lost, each_lost_write_is_counted_once_however_often_it_is_sent) {
    lost_note(s, 4, 60, 100);
    refeed(60, 90, 7);
    refeed(83, 90, 7); /* a sink that died before the release, or a connection that broke */
    refeed(60, 90, 30);
    cr_assert_eq(lost_total(&ledger), 30);
    cr_assert(!lost_passed(s, 90, &n));
    refeed(90, 130, 7);
    cr_assert_eq(lost_total(&ledger), 40, "what comes behind the loss is new");
    cr_assert(lost_passed(s, 130, &n));
    cr_assert_eq(n, 40);
    cr_assert(!lost_open(s) && !lost_passed(s, 131, &n), "told once");
}

Test(lost, what_redis_kept_is_not_counted_though_it_is_written_again) {
    lost_note(s, 4, 60, 100);
    refeed(40, 70, 7); /* ingest went back to a reject that was not durable */
    cr_assert_eq(lost_total(&ledger), 10);
    lost_note(s, 5, 80, 90); /* what was under way was there, and not released */
    refeed(70, 100, 7);
    cr_assert(lost_passed(s, 100, &n));
    cr_assert_eq(n, 40, "[70,80) was lost before, and is counted now");
}

Test(lost, writes_that_are_lost_twice_are_counted_twice) {
    lost_note(s, 4, LEDGER_LOST_ALL, 100);
    refeed(0, 40, 10);
    cr_assert(lost_note(s, 5, LEDGER_LOST_ALL, 40));
    cr_assert_eq(lost_next(), 100, "the first loss is still open");
    refeed(0, 100, 10);
    cr_assert(lost_passed(s, 100, &n));
    cr_assert_eq(n, 140);
    cr_assert(lost_note(s, 6, 90, 100));
    refeed(90, 100, 10);
    cr_assert(lost_passed(s, 100, &n));
    cr_assert_eq(n, 10, "the next loss is counted by itself");
    cr_assert_eq(lost_total(&ledger), 150);
}

Test(lost, total_is_of_all_partitions) {
    lost_note(s, 4, 0, 10);
    refeed(0, 10, 3);
    s = &ledger.slot[1023];
    lost_note(s, 4, 0, 10);
    refeed(0, 4, 3);
    cr_assert_eq(lost_total(&ledger), 14);
}

/* A sink that dies between any two stores of a note leaves either no note or the whole one; the successor notes it
 * again and nothing is counted that was not lost. */
Test(lost, note_that_was_cut_short_is_made_again) {
    for (int stores = 0; stores < 4; stores++) {
        memset(&ledger, 0, sizeof ledger);
        if (stores > 0) atomic_store(&s->lost_before, 0);
        if (stores > 1) atomic_store(&s->lost_next, 100);
        if (stores > 2) twin_store(&s->refed, 60, 0);
        cr_assert(!lost_stands(s, 4));
        cr_assert(lost_note(s, 4, 60, 100));
        refeed(60, 100, 10);
        cr_assert(lost_passed(s, 100, &n) && n == 40);
    }
}

#include "sink/marks.h"

#include <criterion/criterion.h>
#include <string.h>

static struct config config;
static struct ledger_ingest plan;
static struct ledger_sink ledger;
static struct marks m;
static struct resp_reply reply;
static struct mark found;

static void start(void) {
    config.lanes = 2;
    plan.slot[3].partition = 5;
    atomic_store(&plan.slot[3].epoch, 7);
    atomic_store(&plan.slot[3].start, 100);
    atomic_store(&plan.slot[3].flags, LEDGER_ASSIGNED);
    marks_init(&m, &config, &plan, &ledger);
}

TestSuite(marks, .init = start);

static const struct resp_reply *answer(const char *text) {
    memset(&reply, 0, sizeof reply);
    reply.kind = text == NULL ? RESP_NIL : RESP_STRING;
    if (text == NULL) return &reply;
    snprintf(reply.text, sizeof reply.text, "%s", text);
    reply.text_bytes = strlen(text);
    return &reply;
}

static enum mark_verdict read_as(const char *text) { return marks_judge_read(&m, 3, answer(text), &found); }

Test(marks, key_and_text_have_their_documented_form) {
    char key[MARK_KEY_BYTES], text[MARK_TEXT_BYTES];
    size_t n = mark_key(key, "millrace-cards", "cards.bulk", 12);
    cr_assert_str_eq(key, "millrace:mark:millrace-cards:cards.bulk:12");
    cr_assert_eq(n, strlen(key));
    n = mark_text(text, (struct mark){INT64_MAX, UINT32_MAX}, "node1");
    cr_assert_str_eq(text, "1 9223372036854775807 4294967295 node1");
    cr_assert_eq(n, strlen(text));
}

Test(marks, longest_names_fit) {
    char group[TOPIC_BYTES], topic[TOPIC_BYTES], instance[NAME_BYTES], key[MARK_KEY_BYTES], text[MARK_TEXT_BYTES];
    memset(group, 'g', sizeof group);
    memset(topic, 't', sizeof topic);
    memset(instance, 'i', sizeof instance);
    group[sizeof group - 1] = topic[sizeof topic - 1] = instance[sizeof instance - 1] = 0;
    cr_assert_lt(mark_key(key, group, topic, INT32_MAX), sizeof key);
    cr_assert_lt(mark_text(text, (struct mark){INT64_MAX, UINT32_MAX}, instance), sizeof text);
}

Test(marks, text_is_read_back_and_everything_else_refused) {
    struct mark mark;
    cr_assert_eq(mark_parse("1 42 7 node1", 12, &mark), 0);
    cr_assert(mark.next == 42 && mark.epoch == 7);
    static const char *const bad[] = {"",
                                      "1",
                                      "1 42",
                                      "1 42 7",
                                      "1 42 7 ",
                                      "2 42 7 n",
                                      "1 -1 7 n",
                                      "1 42 x n",
                                      "0 1 1 n",
                                      "1 9223372036854775808 7 n",
                                      "1 42 4294967296 n",
                                      " 1 42 7 n",
                                      "1  42 7 n",
                                      "1 99999999999999999999 7 n",
                                      "x"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        cr_assert_eq(mark_parse(bad[i], strlen(bad[i]), &mark), -1, "%s", bad[i]);
    cr_assert_eq(mark_parse("1 4\0002 7 n", 11, &mark), -1);
}

Test(marks, floor_is_what_was_released_in_this_epoch_else_its_start) {
    cr_assert_eq(marks_floor(&m, 3), 100);
    twin_store(&ledger.slot[3].released, 6, 500);
    cr_assert_eq(marks_floor(&m, 3), 100);
    twin_store(&ledger.slot[3].released, 7, 160);
    cr_assert_eq(marks_floor(&m, 3), 160);
}

Test(marks, partition_is_mine_when_assigned_and_of_this_lane) {
    cr_assert(marks_mine(&m, 3, 1));
    cr_assert(!marks_mine(&m, 3, 0));
    atomic_store(&plan.slot[3].flags, LEDGER_FIRST_START);
    cr_assert(!marks_mine(&m, 3, 1));
}

Test(marks, at_first_sight_a_mark_is_compared_with_the_floor) {
    cr_assert_eq(read_as("1 99 2 other"), MARK_LOST);
    cr_assert(!marks_checked(&m, 3, 7));
    cr_assert_eq(read_as("1 100 2 other"), MARK_GOOD);
    cr_assert(marks_checked(&m, 3, 7));
    marks_forget(&m);
    cr_assert(!marks_checked(&m, 3, 7));
    cr_assert_eq(read_as("1 5000 2 other"), MARK_GOOD);
    cr_assert_eq(m.slot[3].known.next, 5000);
}

Test(marks, later_a_mark_is_compared_with_what_was_written) {
    read_as("1 100 7 i");
    struct mark before = marks_wrote(&m, 3, (struct mark){150, 7});
    cr_assert(before.next == 100 && before.epoch == 7);
    cr_assert_eq(read_as("1 149 7 i"), MARK_LOST);
    cr_assert_eq(read_as("1 150 7 i"), MARK_GOOD);
    cr_assert_eq(read_as("1 150 9 i"), MARK_OTHER);
    cr_assert_eq(read_as("1 151 9 i"), MARK_OTHER);
    cr_assert_eq(read_as(NULL), MARK_LOST);
    cr_assert_eq(read_as("what"), MARK_FOREIGN);
}

Test(marks, next_epoch_begins_with_the_floor_again) {
    read_as("1 900 7 i");
    atomic_store(&plan.slot[3].epoch, 8);
    atomic_store(&plan.slot[3].start, 50);
    cr_assert(!marks_checked(&m, 3, 8));
    cr_assert_eq(read_as("1 60 7 i"), MARK_GOOD, "a rewind took us back, too");
}

Test(marks, missing_mark_is_a_beginning_only_where_nothing_was_written_yet) {
    cr_assert_eq(read_as(NULL), MARK_MISSING);
    config.redis.when_marks_missing = MARKS_MISSING_TRUST_KAFKA;
    cr_assert_eq(read_as(NULL), MARK_TRUST);
    atomic_store(&plan.slot[3].flags, LEDGER_ASSIGNED | LEDGER_FIRST_START);
    cr_assert_eq(read_as(NULL), MARK_CREATE);
    twin_store(&ledger.slot[3].released, 6, 101);
    cr_assert_eq(read_as(NULL), MARK_LOST);
}

Test(marks, mark_that_was_seen_and_is_gone_is_a_loss_after_a_reconnect_too) {
    atomic_store(&plan.slot[3].flags, LEDGER_ASSIGNED | LEDGER_FIRST_START);
    read_as("1 100 7 i");
    marks_forget(&m);
    cr_assert_eq(read_as(NULL), MARK_LOST);
}

Test(marks, good_mark_takes_the_note_of_a_loss_back) {
    uint64_t epoch, what;
    twin_store(&ledger.slot[3].lost, 7, 99);
    cr_assert_eq(read_as("1 99 7 i"), MARK_LOST);
    twin_load(&ledger.slot[3].lost, &epoch, &what);
    cr_assert(epoch == 7 && what == 99);
    cr_assert_eq(read_as("1 100 7 i"), MARK_GOOD);
    twin_load(&ledger.slot[3].lost, &epoch, &what);
    cr_assert_eq(epoch, 0);
}

Test(marks, old_mark_of_a_batch_is_compared_with_what_it_should_replace) {
    struct mark expected = {120, 7};
    cr_assert_eq(marks_judge_old(&m, 3, 7, expected, answer("1 120 7 i"), &found), MARK_GOOD);
    cr_assert_eq(marks_judge_old(&m, 3, 7, expected, answer("1 119 7 i"), &found), MARK_LOST);
    cr_assert_eq(marks_judge_old(&m, 3, 7, expected, answer(NULL), &found), MARK_LOST);
    cr_assert_eq(found.next, -1);
    cr_assert_eq(marks_judge_old(&m, 3, 7, expected, answer("1 130 7 i2"), &found), MARK_OTHER);
    cr_assert_eq(marks_judge_old(&m, 3, 7, expected, answer("?"), &found), MARK_FOREIGN);
    atomic_store(&plan.slot[3].epoch, 8);
    cr_assert_eq(marks_judge_old(&m, 3, 7, expected, answer(NULL), &found), MARK_GOOD, "no longer ours");
    atomic_store(&plan.slot[3].epoch, 7);
    atomic_store(&plan.slot[3].flags, 0);
    cr_assert_eq(marks_judge_old(&m, 3, 7, expected, answer(NULL), &found), MARK_GOOD, "no longer ours");
}

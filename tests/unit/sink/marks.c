#include "sink/marks.h"

#include <criterion/criterion.h>
#include <string.h>

#include "sink/lost.h"

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
    n = mark_text(text, (struct mark){48213, UINT32_MAX, false, 0, 0}, "node1", "iXF8Yq");
    cr_assert_str_eq(text, "2 48213 4294967295 node1 iXF8Yq -");
    cr_assert_eq(n, strlen(text));
    n = mark_text(text, (struct mark){48213, 3, false, 48212, 1700000000123}, "node1", "iXF8Yq");
    cr_assert_str_eq(text, "2 48213 3 node1 iXF8Yq 48211:1700000000123");
    cr_assert_eq(n, strlen(text));
    mark_text(text, (struct mark){0, 1, false, 0, 0}, "node1", "");
    cr_assert_str_eq(text, "2 0 1 node1 - -");
}

Test(marks, longest_names_fit) {
    char group[TOPIC_BYTES], topic[TOPIC_BYTES], instance[NAME_BYTES], key[MARK_KEY_BYTES], text[MARK_TEXT_BYTES];
    char cluster[CLUSTER_BYTES];
    struct mark mark;
    memset(cluster, 'c', sizeof cluster);
    memset(group, 'g', sizeof group);
    memset(topic, 't', sizeof topic);
    memset(instance, 'i', sizeof instance);
    group[sizeof group - 1] = topic[sizeof topic - 1] = instance[sizeof instance - 1] = 0;
    cluster[sizeof cluster - 1] = 0;
    cr_assert_lt(mark_key(key, group, topic, INT32_MAX), sizeof key);
    struct mark longest = {LEDGER_LOST_OFFSET, UINT32_MAX, false, LEDGER_LOST_OFFSET, LEDGER_LOST_OFFSET};
    size_t n = mark_text(text, longest, instance, cluster);
    cr_assert_lt(n, sizeof text);
    cr_assert_lt(n, RESP_TEXT_BYTES, "what is read back is whole");
    cr_assert_eq(mark_parse(text, n, cluster, &mark), 0);
    cr_assert(mark.next == LEDGER_LOST_OFFSET && mark.epoch == UINT32_MAX && !mark.foreign);
    cr_assert(mark.seen == LEDGER_LOST_OFFSET && mark.seen_ms == LEDGER_LOST_OFFSET);
}

Test(marks, text_is_read_back_and_everything_else_refused) {
    struct mark mark;
    cr_assert_eq(mark_parse("2 42 7 node1 c", 14, "", &mark), 0);
    cr_assert(mark.next == 42 && mark.epoch == 7 && !mark.foreign);
    static const char *const bad[] = {"",
                                      "2",
                                      "2 42",
                                      "2 42 7",
                                      "2 42 7 ",
                                      "2 42 7 n",
                                      "2 42 7 n ",
                                      "2 42 7  c",
                                      "1 42 7 ",
                                      "3 42 7 n c",
                                      "1 -1 7 n",
                                      "1 42 x n",
                                      "0 1 1 n",
                                      "1 4611686018427387904 7 n",
                                      "1 42 4294967296 n",
                                      " 1 42 7 n",
                                      "1  42 7 n",
                                      "1 99999999999999999999 7 n",
                                      "x"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        cr_assert_eq(mark_parse(bad[i], strlen(bad[i]), "c", &mark), -1, "%s", bad[i]);
    cr_assert_eq(mark_parse("1 4\0002 7 n", 11, "c", &mark), -1);
}

Test(marks, last_record_is_read_back_from_texts_of_any_age) {
    static const struct {
        const char *text;
        int64_t seen, ms;
        bool foreign;
    } row[] = {{"2 4 7 n c 3:1700000000123", 4, 1700000000123, false},
               {"2 4 7 n c 0:0", 1, 0, false},
               {"2 4 7 n c -", 0, 0, false},
               {"2 4 7 n c", 0, 0, false},
               {"2 4 7 n - 3:5", 4, 5, false},
               {"2 4 7 n - -", 0, 0, false},
               {"2 4 7 n -", 0, 0, false},
               {"2 4 7 n d 3:5", 4, 5, true},
               {"2 4 7 n c e 3:5", 4, 5, true},
               {"2 4 7 n 3:5", 0, 0, true}, /* a cluster of that name */
               {"2 4 7 n c 3:5x", 0, 0, true},
               {"2 4 7 n c 3:", 0, 0, true},
               {"2 4 7 n c :5", 0, 0, true},
               {"1 4 7 n", 0, 0, false}};
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        struct mark mark;
        cr_assert_eq(mark_parse(row[i].text, strlen(row[i].text), "c", &mark), 0, "%s", row[i].text);
        cr_assert(mark.seen == row[i].seen && mark.seen_ms == row[i].ms, "%s: %lld:%lld", row[i].text,
                  (long long)mark.seen, (long long)mark.seen_ms);
        cr_assert_eq(mark.foreign, row[i].foreign, "%s", row[i].text);
    }
}

Test(marks, cluster_is_another_one_only_when_both_are_known) {
    static const struct {
        const char *text, *ours;
        bool foreign;
    } row[] = {{"2 4 7 n c", "c", false}, {"2 4 7 n c", "d", true},      {"2 4 7 n c", "", false},
               {"2 4 7 n -", "d", false}, {"2 4 7 n c d", "c d", false}, {"1 4 7 n", "d", false},
               {"1 4 7 n c", "d", false}, {"2 4 7 n c", "cc", true}};
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        struct mark mark;
        cr_assert_eq(mark_parse(row[i].text, strlen(row[i].text), row[i].ours, &mark), 0, "%s", row[i].text);
        cr_assert_eq(mark.foreign, row[i].foreign, "%s, ours %s", row[i].text, row[i].ours);
    }
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
    cr_assert_eq(marks_judge_old(&m, 3, (struct mark){150, 7, false, 0, 0}, answer("1 100 7 i"), &found), MARK_GOOD);
    cr_assert_eq(read_as("2 150 7 i -"), MARK_GOOD);
    cr_assert_eq(read_as("2 150 9 i -"), MARK_OTHER);
    cr_assert_eq(read_as("2 151 9 i -"), MARK_OTHER);
    cr_assert_eq(read_as("2 150 9 i -"), MARK_LOST, "behind what was there a moment ago");
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

Test(marks, after_a_reconnect_a_mark_is_compared_with_what_was_released_in_this_epoch) {
    read_as("1 100 7 i");
    twin_store(&ledger.slot[3].released, 7, 160);
    marks_forget(&m);
    cr_assert_eq(read_as("2 159 7 i -"), MARK_LOST);
    cr_assert_eq(read_as("2 400 7 i -"), MARK_GOOD);
    marks_forget(&m);
    cr_assert_eq(read_as(NULL), MARK_LOST);
}

Test(marks, missing_mark_is_a_beginning_only_where_nothing_was_written_yet) {
    cr_assert_eq(read_as(NULL), MARK_MISSING);
    config.redis.when_marks_missing = MARKS_MISSING_TRUST_KAFKA;
    cr_assert_eq(read_as(NULL), MARK_TRUST);
    config.redis.when_marks_missing = MARKS_MISSING_REBUILD;
    cr_assert_eq(read_as(NULL), MARK_LOST);
    atomic_store(&plan.slot[3].flags, LEDGER_ASSIGNED | LEDGER_FIRST_START);
    cr_assert_eq(read_as(NULL), MARK_CREATE);
    twin_store(&ledger.slot[3].released, 6, 101);
    cr_assert_eq(read_as(NULL), MARK_LOST);
}

Test(marks, mark_that_was_there_before_the_rings_were_made_anew_and_is_gone_is_a_loss) {
    config.redis.when_marks_missing = MARKS_MISSING_TRUST_KAFKA;
    atomic_store(&plan.slot[3].flags, LEDGER_ASSIGNED | LEDGER_MARKED);
    cr_assert_eq(read_as(NULL), MARK_LOST);
    atomic_store(&plan.slot[3].flags, LEDGER_ASSIGNED);
    cr_assert_eq(read_as(NULL), MARK_TRUST);
}

Test(marks, mark_that_was_seen_and_is_gone_is_a_loss_after_a_reconnect_too) {
    atomic_store(&plan.slot[3].flags, LEDGER_ASSIGNED | LEDGER_FIRST_START);
    read_as("1 100 7 i");
    marks_forget(&m);
    cr_assert_eq(read_as(NULL), MARK_LOST);
}

Test(marks, mark_of_another_cluster_is_a_loss_in_any_epoch) {
    snprintf(plan.cluster, sizeof plan.cluster, "here");
    atomic_store(&plan.cluster_known, 1);
    cr_assert_eq(read_as("2 500 3 i there"), MARK_LOST);
    cr_assert_eq(marks_lost_word(found), LEDGER_LOST_OTHER | 500);
    cr_assert_eq(read_as("2 500 3 i here"), MARK_GOOD);
    cr_assert_eq(read_as("2 700 3 i there"), MARK_LOST, "later, too");
    marks_forget(&m);
    cr_assert_eq(read_as("2 700 3 i there"), MARK_LOST, "and on a new connection");
    cr_assert_eq(marks_judge_old(&m, 3, (struct mark){510, 7, false, 0, 0}, answer("2 500 3 i there"), &found),
                 MARK_LOST);
}

Test(marks, word_of_a_loss_says_what_is_left) {
    cr_assert_eq(marks_lost_word((struct mark){-1, 0, false, 0, 0}), LEDGER_LOST_ALL);
    cr_assert_eq(marks_lost_word((struct mark){42, 7, false, 0, 0}), 42);
    cr_assert_eq(marks_lost_word((struct mark){42, 7, true, 0, 0}), 42 | LEDGER_LOST_OTHER);
}

/* -- after a loss ------------------------------------------------------------------------------ */

Test(marks, loss_that_was_noted_stands_until_the_epoch_is_raised) {
    lost_note(&ledger.slot[3], 7, 99, 100);
    cr_assert_eq(read_as("2 5000 7 i -"), MARK_LOST, "it may have been overwritten by what was under way");
    cr_assert_eq(read_as(NULL), MARK_LOST);
    cr_assert(lost_stands(&ledger.slot[3], 7));
}

static void next_epoch(int64_t start, uint32_t flags) {
    atomic_store(&plan.slot[3].start, start);
    atomic_fetch_add(&plan.slot[3].epoch, 1);
    atomic_store(&plan.slot[3].flags, LEDGER_ASSIGNED | flags);
}

static int64_t established(uint32_t epoch) {
    uint64_t noted, next;
    twin_load(&ledger.slot[3].released, &noted, &next);
    return noted == epoch ? (int64_t)next : -1;
}

Test(marks, rewound_epoch_has_its_mark_set_and_is_established_by_what_is_read_back) {
    lost_note(&ledger.slot[3], 7, LEDGER_LOST_ALL, 100);
    next_epoch(0, LEDGER_REWOUND);
    cr_assert_eq(read_as(NULL), MARK_SET);
    cr_assert_eq(read_as("2 100 7 i -"), MARK_SET, "whatever there is");
    cr_assert_eq(established(8), -1);
    cr_assert_eq(marks_floor(&m, 3), 0);
    cr_assert_eq(read_as("2 0 8 i -"), MARK_GOOD);
    cr_assert_eq(established(8), 0);
    uint64_t epoch, what;
    twin_load(&ledger.slot[3].lost, &epoch, &what);
    cr_assert_eq(epoch, 0, "the note has done its work");
    cr_assert(lost_open(&ledger.slot[3]), "but what was lost is not there yet");
    marks_forget(&m);
    cr_assert_eq(read_as(NULL), MARK_LOST, "from then on it has to be there");
}

Test(marks, rewound_epoch_does_not_cover_up_a_second_loss) {
    lost_note(&ledger.slot[3], 7, 60, 100);
    next_epoch(60, LEDGER_REWOUND);
    cr_assert_eq(read_as(NULL), MARK_LOST, "emptied since");
    cr_assert_eq(read_as("2 59 7 i -"), MARK_LOST, "gone back further since");
    cr_assert_eq(read_as("2 90 7 i -"), MARK_SET, "overwritten by what was under way");
    cr_assert_eq(read_as("2 60 7 i -"), MARK_GOOD, "as it was: nothing to write");
}

Test(marks, rewound_epoch_behind_offsets_that_were_given_up_takes_what_is_there) {
    lost_note(&ledger.slot[3], 7, 60, 100);
    next_epoch(80, LEDGER_REWOUND);
    cr_assert_eq(read_as("2 60 7 i -"), MARK_SET);
    cr_assert_eq(read_as("2 59 7 i -"), MARK_LOST);
    lost_answered(&ledger.slot[3]);
    cr_assert_eq(read_as("2 59 7 i -"), MARK_LOST, "an instance before went back to the mark, and it is lower now");
    plan.slot[3].flags |= LEDGER_ACCEPTED;
    cr_assert_eq(read_as("2 59 7 i -"), MARK_SET, "an operator gave up what is lost");
    cr_assert_eq(read_as(NULL), MARK_MISSING);
    twin_store(&ledger.slot[3].released, 7, 100);
    cr_assert_eq(read_as(NULL), MARK_LOST);
    atomic_store(&plan.slot[3].origin, 80);
    cr_assert_eq(read_as(NULL), MARK_SET, "nothing has to be there before the origin");
}

Test(marks, rewound_epoch_takes_the_place_of_another_cluster) {
    snprintf(plan.cluster, sizeof plan.cluster, "here");
    atomic_store(&plan.cluster_known, 1);
    next_epoch(60, LEDGER_REWOUND);
    cr_assert_eq(read_as("2 60 7 i there"), MARK_LOST);
    lost_note(&ledger.slot[3], 7, LEDGER_LOST_OTHER | 60, 100);
    cr_assert_eq(read_as("2 60 7 i there"), MARK_SET);
    cr_assert_eq(read_as(NULL), MARK_LOST);
}

Test(marks, loss_of_an_earlier_epoch_that_no_rewind_answered_still_holds) {
    lost_note(&ledger.slot[3], 7, 60, 100);
    next_epoch(100, 0);
    cr_assert_eq(read_as("2 120 7 i -"), MARK_LOST, "overwritten by what was under way");
    cr_assert_eq(found.next, 60);
    next_epoch(60, 0);
    cr_assert_eq(read_as("2 120 7 i -"), MARK_GOOD, "all that was lost is read again from here");
    cr_assert_eq(m.slot[3].known.next, 120);
    cr_assert_eq(established(9), 60);
}

Test(marks, old_mark_of_a_batch_is_compared_with_what_was_there_last) {
    struct mark wrote = {120, 7, false, 0, 0}, next = {130, 7, false, 0, 0};
    read_as("1 110 7 i");
    cr_assert_eq(marks_judge_old(&m, 3, wrote, answer("1 110 7 i"), &found), MARK_GOOD);
    cr_assert_eq(marks_judge_old(&m, 3, next, answer("2 119 7 i -"), &found), MARK_LOST);
    cr_assert_eq(found.next, 119);
    cr_assert_eq(marks_judge_old(&m, 3, next, answer("2 130 7 i -"), &found), MARK_GOOD, "it was overwritten");
    cr_assert_eq(marks_judge_old(&m, 3, next, answer(NULL), &found), MARK_LOST);
    cr_assert_eq(found.next, -1);
    cr_assert_eq(marks_judge_old(&m, 3, next, answer("2 140 7 i2 -"), &found), MARK_OTHER);
    cr_assert_eq(marks_judge_old(&m, 3, next, answer("?"), &found), MARK_FOREIGN);
    atomic_store(&plan.slot[3].epoch, 8);
    cr_assert_eq(marks_judge_old(&m, 3, next, answer(NULL), &found), MARK_GOOD, "no longer ours");
    atomic_store(&plan.slot[3].epoch, 7);
    atomic_store(&plan.slot[3].flags, 0);
    cr_assert_eq(marks_judge_old(&m, 3, next, answer(NULL), &found), MARK_GOOD, "no longer ours");
}

Test(marks, batch_that_redis_refused_has_replaced_no_mark) {
    read_as("1 110 7 i");
    /* The batch up to 120 was refused with its mark; the next one, up to 130, was not. */
    cr_assert_eq(marks_judge_old(&m, 3, (struct mark){130, 7, false, 0, 0}, answer("1 110 7 i"), &found), MARK_GOOD);
    cr_assert_eq(m.slot[3].known.next, 130);
}

/* -- by which record the topic is known -------------------------------------------------------- */

static void expect_seen(int64_t next, int64_t ms, const char *why) {
    uint64_t a, b;
    twin_load(&ledger.slot[3].seen, &a, &b);
    cr_assert((int64_t)a == next && (int64_t)b == ms, "%s: %lld:%lld", why, (long long)a, (long long)b);
}

Test(marks, last_record_of_the_mark_found_is_in_the_ledger_when_the_epoch_is_established) {
    cr_assert_eq(read_as("2 90 2 other - 89:1700"), MARK_LOST);
    expect_seen(0, 0, "not established");
    cr_assert_eq(read_as("2 100 2 other - 98:1700"), MARK_GOOD);
    expect_seen(99, 1700, "a takeover");
    cr_assert_eq(established(7), 100);
    cr_assert_eq(read_as("2 150 7 i - 149:1800"), MARK_OTHER);
    expect_seen(99, 1700, "only takeovers count");
    next_epoch(120, 0);
    cr_assert_eq(read_as("2 150 7 i -"), MARK_GOOD);
    expect_seen(0, 0, "nothing is known any more");
}

Test(marks, what_is_sent_names_the_last_record_and_no_marker) {
    read_as("2 100 2 other - 98:1700");
    struct mark mark = marks_of(&m, 3, 105, 7, -1);
    cr_assert(mark.next == 105 && mark.epoch == 7 && mark.seen == 99 && mark.seen_ms == 1700, "as before");
    mark = marks_of(&m, 3, 106, 7, 0);
    cr_assert(mark.seen == 106 && mark.seen_ms == 0);
    mark = marks_of(&m, 3, 107, 7, INT64_MAX);
    cr_assert(mark.next == 107 && mark.seen == 106, "such a time could not be read back");
    mark = marks_of(&m, 3, 108, 7, -1);
    cr_assert(mark.next == 108 && mark.seen == 106 && !mark.foreign);
    read_as("2 100 2 other -");
    cr_assert_eq(marks_of(&m, 3, 101, 7, -1).seen, 0, "what was read last counts");
}

Test(marks, rewound_epoch_knows_the_topic_by_the_same_record) {
    lost_note(&ledger.slot[3], 7, 60, 100);
    next_epoch(60, LEDGER_REWOUND);
    cr_assert_eq(read_as("2 90 7 i - 89:1700"), MARK_SET);
    cr_assert(found.seen == 90 && found.seen_ms == 1700, "to be written");
    cr_assert_eq(read_as("2 60 8 i - 89:1700"), MARK_GOOD);
    expect_seen(90, 1700, "still to be looked at");
}

Test(marks, topic_that_was_accepted_is_known_by_nothing_of_the_one_before) {
    next_epoch(60, LEDGER_REWOUND | LEDGER_ACCEPTED);
    cr_assert_eq(read_as("2 60 7 i - 59:1700"), MARK_SET, "at the right offset, of the wrong topic");
    cr_assert_eq(found.seen, 0);
    cr_assert_eq(read_as("2 60 8 i - -"), MARK_GOOD);
    expect_seen(0, 0, "accepted");
}

/* The records of a replay: chosen ones, and those that have to follow them, from a log that the test writes. */
#include "tests/unit/audit/help.h"
#include "tools/replay_set.h"

static struct bench *b;
static uint64_t number;
static struct replay_set *s;

static void start(void) {
    b = bench_make();
    number = 0;
    cr_assert_eq(bench_open(b), 0, "%s", b->err.text);
    s = replay_set_new();
}
static void stop(void) {
    replay_set_free(s);
    bench_drop(b);
}

TestSuite(replay_set, .init = start, .fini = stop, .timeout = 60);

/* A record of a topic and partition, of these keys (0: none), by an epoch of an incarnation. */
struct given {
    uint16_t topic;
    int32_t partition;
    int64_t offset;
    uint8_t key, old_key;
    uint32_t epoch;
    uint64_t incarnation;
    uint32_t flags;
};

static void logged(struct given g) {
    struct entry e = *entry_make(g.topic, g.partition, g.offset, 0);
    memset(e.digest_key, g.key, sizeof e.digest_key);
    memset(e.digest_old_key, g.old_key, sizeof e.digest_old_key);
    e.epoch = g.epoch != 0 ? g.epoch : 1;
    e.flags = g.flags;
    if (g.key == 0) e.outcome = ENTRY_REJECTED;
    log_writer_add(&b->writer, 0, g.incarnation != 0 ? g.incarnation : 77, ++number, &e);
    cr_assert_eq(log_writer_commit(&b->writer, &b->err), 0, "%s", b->err.text);
}
#define LOGGED(...) logged((struct given){__VA_ARGS__})

static void choose(const char *topic, int32_t partition, int64_t from, int64_t to) {
    struct log_query q = {.topic = topic, .partition = partition, .offset_from = from, .offset_to = to};
    cr_assert_eq(replay_set_choose(s, b->log, &q, false, &b->err), 0, "%s", b->err.text);
}

static void follow(void) { cr_assert_eq(replay_set_follow(s, b->log, &b->err), 0, "%s", b->err.text); }

/* "topic/partition@offset" of each record, followed by `+` when it only follows. */
static const char *listed(const struct replay_record *r, size_t n) {
    static char text[2048];
    size_t len = 0;
    text[0] = 0;
    for (size_t i = 0; i < n; i++)
        len += (size_t)snprintf(text + len, sizeof text - len, "%s%s/%d@%lld%s", i > 0 ? " " : "",
                                replay_set_topic(s, r[i].topic), r[i].partition, (long long)r[i].offset,
                                r[i].follows ? "+" : "");
    return text;
}
static const char *all(void) {
    size_t n;
    const struct replay_record *r = replay_set_records(s, &n);
    return listed(r, n);
}
static const char *group(size_t max) {
    struct replay_record *r;
    size_t n = replay_set_group(s, max, &r);
    const char *text = listed(r, n);
    free(r);
    return text;
}

Test(replay_set, every_later_record_of_the_same_key_follows) {
    LOGGED(.offset = 0, .key = 1);
    LOGGED(.offset = 1, .key = 2);
    LOGGED(.offset = 2, .key = 1);
    LOGGED(.topic = 1, .partition = 5, .offset = 9, .key = 1);
    LOGGED(.offset = 3, .key = 3);
    choose("cards", 0, 2, 3);
    follow();
    cr_assert_str_eq(all(), "cards/0@2 limits/5@9+", "what came before does not: %s", all());
    cr_assert_eq(replay_set_chosen(s), 1);
}

Test(replay_set, an_update_that_moves_a_key_draws_both_along) {
    LOGGED(.offset = 0, .key = 1);
    LOGGED(.offset = 1, .key = 3);
    LOGGED(.offset = 2, .key = 2, .old_key = 1);
    LOGGED(.offset = 3, .key = 2);
    LOGGED(.offset = 4, .key = 4, .old_key = 3);
    LOGGED(.offset = 5, .key = 1);
    choose("cards", 0, 0, 1);
    follow();
    cr_assert_str_eq(all(), "cards/0@0 cards/0@2+ cards/0@3+ cards/0@5+", "%s", all());
}

/* The old key of a chosen record: it deletes it, so what was written there afterwards has to come again. */
Test(replay_set, what_a_chosen_record_deletes_is_written_again) {
    LOGGED(.offset = 0, .key = 2, .old_key = 1);
    LOGGED(.offset = 1, .key = 1);
    choose("cards", 0, 0, 1);
    follow();
    cr_assert_str_eq(all(), "cards/0@0 cards/0@1+", "%s", all());
}

Test(replay_set, repeats_and_refed_entries_are_one_record) {
    LOGGED(.offset = 0, .key = 1);
    LOGGED(.offset = 0, .key = 1, .epoch = 2);
    LOGGED(.offset = 0, .key = 1, .epoch = 2, .flags = ENTRY_REFED);
    choose("cards", 0, 0, 5);
    follow();
    cr_assert_str_eq(all(), "cards/0@0", "%s", all());
}

Test(replay_set, rejected_records_are_left_out_and_counted) {
    LOGGED(.offset = 0, .key = 0);
    LOGGED(.offset = 1, .key = 1);
    choose("cards", 0, 0, 5);
    cr_assert_str_eq(all(), "cards/0@1");
    cr_assert_eq(replay_set_keyless(s), 1);
    struct log_query q = {.topic = "cards", .partition = 0, .offset_from = 0, .offset_to = 5};
    cr_assert_eq(replay_set_choose(s, b->log, &q, true, &b->err), 0);
    cr_assert_str_eq(all(), "cards/0@0 cards/0@1", "for copies their key does not matter");
}

Test(replay_set, the_log_is_read_on_from_where_it_was) {
    LOGGED(.offset = 0, .key = 1);
    choose("cards", 0, 0, 1);
    follow();
    LOGGED(.offset = 1, .key = 1);
    LOGGED(.offset = 2, .key = 2);
    follow();
    cr_assert_str_eq(all(), "cards/0@0 cards/0@1+", "%s", all());
}

/* -- how far it is known ----------------------------------------------------------------------- */

Test(replay_set, knowledge_ends_where_somebody_else_had_the_partition) {
    LOGGED(.offset = 0, .key = 1);
    LOGGED(.offset = 1, .key = 1);
    LOGGED(.offset = 4, .key = 1); /* compacted in between: read in one go */
    LOGGED(.topic = 1, .offset = 10, .key = 1);
    LOGGED(.offset = 9, .key = 1, .epoch = 3); /* 5 to 8 were another's */
    LOGGED(.offset = 10, .key = 1, .epoch = 3);
    choose("cards", 0, 0, 1);
    follow();
    cr_assert_eq(replay_set_until(s, "cards", 0, 3), 5);
    cr_assert_eq(replay_set_until(s, "limits", 0, 3), 11);
    cr_assert_eq(replay_set_until(s, "cards", 7, 8), 8, "nothing came of it");
}

Test(replay_set, a_rewind_is_no_hole_and_new_rings_may_hide_one) {
    LOGGED(.offset = 5, .key = 1);
    LOGGED(.offset = 6, .key = 1);
    LOGGED(.offset = 2, .key = 1, .epoch = 2);
    LOGGED(.offset = 3, .key = 1, .epoch = 2);
    LOGGED(.offset = 7, .key = 1, .epoch = 2);
    choose("cards", 0, 5, 6);
    follow();
    cr_assert_eq(replay_set_until(s, "cards", 0, 100), 8, "3 is followed by what Kafka has next");
    LOGGED(.offset = 2, .key = 1, .epoch = 2, .flags = ENTRY_REFED);
    LOGGED(.offset = 8, .key = 1, .epoch = 3);
    follow();
    cr_assert_eq(replay_set_until(s, "cards", 0, 100), 9, "another epoch that goes on where the last one was");
    LOGGED(.offset = 10, .key = 1, .epoch = 3, .incarnation = 78);
    follow();
    cr_assert_eq(replay_set_until(s, "cards", 0, 100), 9);
}

/* -- groups ------------------------------------------------------------------------------------ */

Test(replay_set, groups_are_given_whole_and_once) {
    LOGGED(.offset = 0, .key = 1);
    LOGGED(.offset = 1, .key = 2);
    LOGGED(.offset = 2, .key = 1);
    LOGGED(.offset = 3, .key = 3);
    LOGGED(.offset = 4, .key = 2);
    choose("cards", 0, 0, 4);
    follow();
    cr_assert_str_eq(group(3), "cards/0@0 cards/0@2");
    cr_assert_str_eq(group(3), "cards/0@1 cards/0@3 cards/0@4+");
    cr_assert_str_eq(group(3), "");
}

Test(replay_set, a_group_larger_than_a_piece_is_given_all_the_same) {
    for (int64_t i = 0; i < 10; i++) LOGGED(.offset = i, .key = 1);
    choose("cards", 0, 0, 10);
    follow();
    struct replay_record *r;
    cr_assert_eq(replay_set_group(s, 3, &r), 10);
    free(r);
}

Test(replay_set, what_is_given_again_has_what_came_since) {
    LOGGED(.offset = 0, .key = 1);
    LOGGED(.offset = 1, .key = 2);
    choose("cards", 0, 0, 2);
    follow();
    cr_assert_str_eq(group(1), "cards/0@0");
    LOGGED(.offset = 2, .key = 1);
    follow();
    replay_set_again(s);
    cr_assert_str_eq(group(2), "cards/0@0 cards/0@2+");
    cr_assert_str_eq(group(2), "cards/0@1");
}

Test(replay_set, what_comes_for_a_group_that_was_given_is_not_given_again) {
    LOGGED(.offset = 0, .key = 1);
    choose("cards", 0, 0, 2);
    follow();
    cr_assert_str_eq(group(9), "cards/0@0");
    LOGGED(.offset = 2, .key = 1);
    LOGGED(.offset = 3, .key = 9, .old_key = 1);
    LOGGED(.offset = 4, .key = 9);
    follow();
    cr_assert_str_eq(group(9), "", "it was written after the refeed");
}

Test(replay_set, a_group_that_joins_one_that_was_given_is_given_with_it) {
    LOGGED(.offset = 0, .key = 1);
    LOGGED(.offset = 1, .key = 2);
    choose("cards", 0, 0, 2);
    follow();
    cr_assert_str_eq(group(1), "cards/0@0");
    LOGGED(.offset = 2, .key = 2, .old_key = 1);
    follow();
    cr_assert_str_eq(group(9), "cards/0@0 cards/0@1 cards/0@2+");
}

Test(replay_set, many_keys_and_records_are_found_again) {
    for (uint32_t i = 0; i < 5000; i++) {
        struct entry e = *entry_make(0, (int32_t)(i % 4), i / 4, 0);
        memset(e.digest_key, 0, sizeof e.digest_key);
        uint32_t key = i % 2500 + 1;
        memcpy(e.digest_key, &key, sizeof key);
        log_writer_add(&b->writer, 0, 77, ++number, &e);
    }
    cr_assert_eq(log_writer_commit(&b->writer, &b->err), 0);
    choose(NULL, -1, 0, 100);
    cr_assert_eq(replay_set_chosen(s), 400);
    follow();
    size_t n;
    const struct replay_record *r = replay_set_records(s, &n);
    cr_assert_eq(n, 800, "each key is written twice");
    for (size_t i = 1; i < n; i++) cr_assert(r[i].partition > r[i - 1].partition || r[i].offset > r[i - 1].offset);
    cr_assert_eq(replay_set_add(s, "cards", 0, 0, 10, &b->err), 0);
    replay_set_records(s, &n);
    cr_assert_eq(n, 800, "they were there");
    cr_assert_eq(replay_set_add(s, "cards", 0, 0, REPLAY_RECORDS_MAX, &b->err), -1);
}

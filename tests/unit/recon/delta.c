/* Changed rows in memory. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "recon/delta.h"

static struct live_row row_of(uint32_t key, int32_t partition, int64_t offset) {
    struct live_row r = {.partition = partition, .offset = offset};
    uint64_t scattered = (key + 1) * 0x9e3779b97f4a7c15ULL;
    memcpy(r.key, &scattered, 8);
    memcpy(r.key + 8, &key, 4);
    return r;
}

Test(delta, grows_finds_and_sorts) {
    enum { ROWS = 5000 };
    struct delta d;
    struct err err = {0};
    cr_assert_eq(delta_init(&d, 16, &err), 0);
    for (uint32_t i = 0; i < ROWS; i++) {
        struct live_row r = row_of(i, 0, i);
        cr_assert_eq(delta_put(&d, &r, &err), 0);
    }
    cr_assert_eq(d.count, ROWS);
    for (uint32_t i = 0; i < ROWS; i++) cr_assert_eq(delta_find(&d, row_of(i, 0, 0).key)->offset, i);
    cr_assert_null(delta_find(&d, row_of(ROWS, 0, 0).key));
    const struct live_row **sorted = delta_sorted(&d, &err);
    for (uint32_t i = 1; i < ROWS; i++) cr_assert_lt(memcmp(sorted[i - 1]->key, sorted[i]->key, DIGEST_BYTES), 0);
    free(sorted);
    delta_clear(&d);
    cr_assert(d.count == 0 && delta_find(&d, row_of(1, 0, 0).key) == NULL);
    delta_free(&d);
}

/* Keys that all want the last places of the table go on at its beginning. */
Test(delta, sorts_what_is_crowded_at_the_end) {
    enum { ROWS = 64 };
    struct delta d;
    struct err err = {0};
    struct live_row low = {.key = {0}}, next = {.key = {[15] = 1}};
    cr_assert_eq(delta_init(&d, ROWS, &err), 0);
    delta_put(&d, &next, &err);
    for (uint32_t i = 0; i < ROWS - 2; i++) {
        struct live_row r = {.key = {0xff, 0xff, 0xff, 0xff, (uint8_t)(i * 37)}, .offset = i};
        cr_assert_eq(delta_put(&d, &r, &err), 0);
    }
    delta_put(&d, &low, &err);
    const struct live_row **sorted = delta_sorted(&d, &err);
    for (uint32_t i = 1; i < ROWS; i++) cr_assert_lt(memcmp(sorted[i - 1]->key, sorted[i]->key, DIGEST_BYTES), 0);
    cr_assert_eq(sorted[1]->key[15], 1);
    free(sorted);
    delta_free(&d);
}

Test(delta, which_row_counts) {
    struct delta d;
    struct err err = {0};
    const struct live_row first = row_of(1, 0, 9), lower = row_of(1, 0, 5), same = row_of(1, 0, 9),
                          other = row_of(1, 1, 2);
    cr_assert(live_replaces(&same, &first) && !live_replaces(&lower, &first) && live_replaces(&other, &first));
    struct live_row of_another_topic = lower;
    of_another_topic.topic = 1;
    cr_assert(live_replaces(&of_another_topic, &first));
    cr_assert_eq(delta_init(&d, 16, &err), 0);
    delta_put(&d, &first, &err);
    delta_put(&d, &lower, &err);
    cr_assert(d.count == 1 && d.row[0].offset == 9);
    delta_put(&d, &other, &err);
    cr_assert(d.count == 1 && d.row[0].partition == 1);
    delta_free(&d);
}

#include "recon/spans.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

enum { NUMBERS = 300 };

static void check(const struct spans *s, const bool *model) {
    int64_t ranges = 0, missing = 0;
    for (int i = 0; i < NUMBERS; i++) {
        cr_assert_eq(spans_has(s, i), model[i], "%d", i);
        ranges += model[i] && (i == 0 || !model[i - 1]);
        missing += !model[i];
    }
    cr_assert_eq((int64_t)s->count, ranges, "ranges neither overlap nor touch");
    cr_assert_eq(spans_missing(s, 0, NUMBERS - 1), missing);
}

Test(spans, is_the_set_of_what_was_added_in_any_order) {
    for (unsigned seed = 1; seed <= 60; seed++) {
        struct spans s = {0};
        bool model[NUMBERS] = {0};
        srand(seed);
        for (int i = 0; i < 200; i++) {
            int first = rand() % NUMBERS, last = first + rand() % 4;
            if (last >= NUMBERS) last = NUMBERS - 1;
            bool fresh = false;
            for (int n = first; n <= last; n++) fresh |= !model[n], model[n] = true;
            cr_assert_eq(spans_add(&s, first, last), fresh);
            if (i % 20 == 0) check(&s, model);
        }
        check(&s, model);
        spans_free(&s);
    }
}

Test(spans, names_the_gaps_of_a_range) {
    struct spans s = {0};
    struct span gap;
    cr_assert(spans_gap(&s, 5, 9, &gap) && gap.first == 5 && gap.last == 9);
    spans_add(&s, 10, 20);
    spans_add(&s, 30, 40);
    cr_assert(spans_gap(&s, 0, 100, &gap) && gap.first == 0 && gap.last == 9);
    cr_assert(spans_gap(&s, 10, 100, &gap) && gap.first == 21 && gap.last == 29);
    cr_assert(spans_gap(&s, 35, 100, &gap) && gap.first == 41 && gap.last == 100);
    cr_assert_not(spans_gap(&s, 12, 20, &gap));
    cr_assert_eq(spans_missing(&s, 0, 100), 101 - 22);
    spans_free(&s);
}

/* What a database has that is given the touched part after every few additions is the set. */
Test(spans, stores_no_more_than_what_has_changed) {
    for (unsigned seed = 1; seed <= 60; seed++) {
        struct spans s = {0}, stored = {0};
        struct span rows[NUMBERS];
        size_t count = 0;
        srand(seed);
        for (int round = 0; round < 60; round++) {
            for (int i = rand() % 5; i > 0; i--) {
                int first = rand() % NUMBERS;
                spans_add(&s, first, first + rand() % 3);
            }
            size_t begin, end, kept = 0;
            int64_t low, high;
            if (!spans_touched(&s, &begin, &end, &low, &high)) continue;
            for (size_t i = 0; i < count; i++)
                if (rows[i].first < low || rows[i].first > high) rows[kept++] = rows[i];
            for (size_t i = begin; i < end; i++) rows[kept++] = s.at[i];
            count = kept;
            spans_clean(&s);
            cr_assert_eq(count, s.count, "seed %u: %zu rows for %zu ranges", seed, count, s.count);
            for (size_t i = 0; i < count; i++) spans_add(&stored, rows[i].first, rows[i].last);
            cr_assert_eq(stored.count, s.count);
            cr_assert_eq(memcmp(stored.at, s.at, s.count * sizeof *s.at), 0);
        }
        spans_free(&s);
        spans_free(&stored);
    }
}

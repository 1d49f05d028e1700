#include "recon/pairs.h"

#include <criterion/criterion.h>

Test(pairs, what_was_put_is_there_and_nothing_else) {
    static int value[5000];
    struct pairs p = {0};
    cr_assert_null(pairs_get(&p, 1, 1));
    for (uint64_t i = 0; i < 5000; i++) pairs_put(&p, i % 7, i * 0x10001, &value[i]);
    cr_assert_eq(p.count, 5000u);
    cr_assert_geq(p.slots, 2 * p.count);
    for (uint64_t i = 0; i < 5000; i++) {
        cr_assert_eq(pairs_get(&p, i % 7, i * 0x10001), &value[i]);
        cr_assert_null(pairs_get(&p, 7, i * 0x10001));
    }
    pairs_free(&p);
    cr_assert_null(pairs_get(&p, 0, 0));
    pairs_put(&p, 0, 0, &value[0]);
    cr_assert_eq(pairs_get(&p, 0, 0), &value[0]);
    pairs_free(&p);
}

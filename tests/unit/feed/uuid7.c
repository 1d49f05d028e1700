#include "feed/uuid7.h"

#include <criterion/criterion.h>
#include <string.h>

static uint32_t drawn;

static void count_up(void *context, void *out, size_t len) {
    (void)context;
    for (size_t i = 0; i < len; i++) ((uint8_t *)out)[i] = 0xff;
    drawn++;
}

static const struct clock_port counting = {.random = count_up};

Test(uuid7, has_the_time_the_version_and_the_variant) {
    static const uint8_t expected[16] = {0x01, 0x7f, 0x22, 0xe2, 0x79, 0xb0, 0x7f, 0xff,
                                         0xbf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    struct uuid7 u = {.clock = &counting};
    uint8_t id[16];
    uuid7_make(&u, 0x017f22e279b0, id);
    cr_assert_arr_eq(id, expected, 16);
}

Test(uuid7, later_ones_sort_behind) {
    struct uuid7 u = {.clock = &clock_real};
    uint8_t a[16], b[16];
    for (int64_t ms = 0; ms < 1LL << 47; ms = 2 * ms + 1) {
        uuid7_make(&u, ms, a);
        uuid7_make(&u, ms + 1, b);
        cr_assert_lt(memcmp(a, b, 16), 0);
    }
}

Test(uuid7, random_bytes_are_used_once_and_fetched_in_bulk) {
    static uint8_t ids[5000][16];
    struct uuid7 u = {.clock = &clock_real};
    for (int i = 0; i < 5000; i++) uuid7_make(&u, 1, ids[i]);
    for (int i = 0; i < 5000; i += 7)
        for (int k = i + 1; k < 5000; k++) cr_assert_neq(memcmp(ids[i], ids[k], 16), 0, "%d and %d", i, k);
    u = (struct uuid7){.clock = &counting};
    for (int i = 0; i < 800; i++) uuid7_make(&u, 1, ids[0]);
    cr_assert_eq(drawn, 2);
}

#include "base/utc.h"

#include <criterion/criterion.h>

static const char *text(int64_t us, int decimals) {
    static char out[UTC_BYTES];
    cr_assert(utc_text(out, us, decimals));
    return out;
}

Test(utc, seconds_and_their_digits_are_cut_off) {
    cr_assert_str_eq(text(0, 0), "1970-01-01T00:00:00Z");
    cr_assert_str_eq(text(1773526800001999, 0), "2026-03-14T22:20:00Z");
    cr_assert_str_eq(text(1773526800001999, 3), "2026-03-14T22:20:00.001Z");
    cr_assert_str_eq(text(1773526800001999, 6), "2026-03-14T22:20:00.001999Z");
    cr_assert_str_eq(text(253402300799999999, 3), "9999-12-31T23:59:59.999Z");
}

Test(utc, milliseconds_are_the_same_moment) {
    char out[UTC_BYTES];
    cr_assert(utc_text_ms(out, 1773526800001, 3));
    cr_assert_str_eq(out, "2026-03-14T22:20:00.001Z");
    cr_assert(utc_text_ms(out, 253402300799999, 0));
    cr_assert_str_eq(out, "9999-12-31T23:59:59Z");
}

Test(utc, what_is_no_moment_is_a_dash) {
    const int64_t wrong[] = {-1, INT64_MIN, 253402300800000000, INT64_MAX};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        char out[UTC_BYTES];
        cr_assert(!utc_text(out, wrong[i], 6));
        cr_assert_str_eq(out, "-");
        cr_assert(!utc_text_ms(out, wrong[i], 3));
        cr_assert_str_eq(out, "-");
    }
}

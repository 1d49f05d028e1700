#include "base/utc.h"

#include <criterion/criterion.h>
#include <string.h>

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

static int64_t ms(const char *text) { return utc_read(text, strlen(text)); }

Test(utc, moments_are_read_as_they_are_written) {
    char out[UTC_BYTES];
    for (int64_t at = 1; at < 4102444800000; at += 98765432109) {
        cr_assert(utc_text_ms(out, at, 3));
        cr_assert_eq(ms(out), at, "%s", out);
    }
    cr_assert_eq(ms("2026-03-14T22:20:00Z"), 1773526800000);
    cr_assert_eq(ms("2026-03-14T22:20Z"), 1773526800000);
    cr_assert_eq(ms("2026-03-14T22:20:00.123456Z"), 1773526800123);
    cr_assert_eq(ms("2024-02-29T00:00:00Z"), 1709164800000);
    cr_assert_eq(ms("9999-12-31T23:59:59.999Z"), 253402300799999);
    cr_assert_eq(ms("1773526800000"), 1773526800000);
    cr_assert_eq(ms("253402300799999"), 253402300799999);
    cr_assert_eq(ms("0"), 0);
    cr_assert_eq(utc_read("1970-01-01T00:00Z/", 17), 0, "only so many bytes");
}

Test(utc, what_is_no_moment_is_refused) {
    static const char *const bad[] = {"",
                                      "yesterday",
                                      "-1",
                                      "12x",
                                      " 1",
                                      "253402300800000",
                                      "99999999999999999999999",
                                      "2026-03-14",
                                      "2026-03-14T22:20:00",
                                      "2026-03-14T22:20:00.5Z",
                                      "2026-03-14T22:20:00.12345Z",
                                      "2026-03-14T22:20:00.Z",
                                      "2026-03-14T22:20:00Zx",
                                      "2026-03-14T22:20:00+01:00",
                                      "2026-03-14 22:20:00Z",
                                      "2026-3-14T22:20:00Z",
                                      "2026-13-14T22:20:00Z",
                                      "2026-02-30T22:20:00Z",
                                      "2026-02-28T24:20:00Z",
                                      "2026-02-28T22:60:00Z",
                                      "2026-02-28T22:20:61Z",
                                      "1969-12-31T23:59:59Z",
                                      "T"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) cr_assert_eq(ms(bad[i]), -1, "%s", bad[i]);
}

/* Numbers for people. */
#include "base/grouped.h"

#include <criterion/criterion.h>

Test(grouped, digits_stand_in_threes_from_the_right) {
    char out[GROUPED_BYTES];
    cr_assert_str_eq(grouped(0, out), "0");
    cr_assert_str_eq(grouped(999, out), "999");
    cr_assert_str_eq(grouped(1000, out), "1,000");
    cr_assert_str_eq(grouped(123456, out), "123,456");
    cr_assert_str_eq(grouped(1234567, out), "1,234,567");
    cr_assert_str_eq(grouped(UINT64_MAX, out), "18,446,744,073,709,551,615");
}

/* Sets of processors: what is read, what is refused, what is written. */
#include "base/cpus.h"

#include <criterion/criterion.h>
#include <string.h>

static struct cpus set;
static struct err err;
static char text[256];

static const char *again(const char *list) {
    cr_assert_eq(cpus_parse(list, &set, &err), 0, "%s: %s", list, err.text);
    return cpus_format(&set, text, sizeof text);
}

Test(cpus, a_list_reads_back_as_its_shortest_form) {
    cr_assert_str_eq(again("0"), "0");
    cr_assert_eq(cpus_count(&set), 1);
    cr_assert_str_eq(again("3,1,2"), "1-3");
    cr_assert_str_eq(again("2-3,8"), "2-3,8");
    cr_assert_str_eq(again("8,2-3,3,2"), "2-3,8");
    cr_assert_eq(cpus_count(&set), 3);
    cr_assert_str_eq(again("63-64"), "63-64");
    cr_assert_str_eq(again("0-1023"), "0-1023");
    cr_assert_eq(cpus_count(&set), CPUS_MAX);
    cr_assert_str_eq(again("0-1\n"), "0-1", "as the kernel ends its files");
    for (uint32_t n = 0; n < CPUS_MAX; n++) cr_assert_eq(cpus_has(&set, n), n < 2);
}

Test(cpus, what_is_no_list_is_refused) {
    static const char *const bad[] = {"",    " ",   "\n",  "a",    "-1",     "1-",          "1,",     ",1",    "1,,2",
                                      "3-2", "1 2", "0x1", "1024", "0-1024", "99999999999", "0-31:2", "1\n\n", "1\n2"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        err = (struct err){0};
        cr_assert_eq(cpus_parse(bad[i], &set, &err), -1, "\"%s\"", bad[i]);
        cr_assert_str_eq(err.text, "expected processors such as 0 or 2-3,8, below 1024");
    }
}

Test(cpus, none_is_empty_text) {
    set = (struct cpus){0};
    cr_assert_str_eq(cpus_format(&set, text, sizeof text), "");
    cr_assert_eq(cpus_count(&set), 0);
}

Test(cpus, text_without_room_ends_after_a_whole_entry) {
    cr_assert_eq(cpus_parse("1,10-11,100", &set, &err), 0);
    cr_assert_str_eq(cpus_format(&set, text, 12), "1,10-11,100");
    cr_assert_str_eq(cpus_format(&set, text, 11), "1,10-11");
    cr_assert_str_eq(cpus_format(&set, text, 7), "1");
}

Test(cpus, without_leaves_what_only_the_first_has) {
    struct cpus other;
    cr_assert_eq(cpus_parse("0-5,900", &set, &err), 0);
    cr_assert_eq(cpus_parse("1,3-4,70", &other, &err), 0);
    struct cpus rest = cpus_without(&set, &other);
    cr_assert_str_eq(cpus_format(&rest, text, sizeof text), "0,2,5,900");
}

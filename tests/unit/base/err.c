#include "base/err.h"

#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

Test(err, set_fills_code_and_text_and_returns_minus_one) {
    struct err e = {0};
    cr_assert_eq(err_set(&e, 78, "%s is %d", "lanes", 17), -1);
    cr_assert_eq(e.code, 78);
    cr_assert_str_eq(e.text, "lanes is 17");
}

Test(err, may_be_null) {
    cr_assert_eq(err_set(NULL, 1, "x"), -1);
    cr_assert_eq(err_prefix(NULL, "x"), -1);
}

Test(err, arguments_may_point_into_the_text_that_is_replaced) {
    struct err e = {.text = "inner"};
    err_set(&e, 1, "outer (%s)", e.text);
    cr_assert_str_eq(e.text, "outer (inner)");
}

Test(err, prefix_goes_before_the_text_and_keeps_the_code) {
    struct err e = {.code = 5, .text = "no such file"};
    cr_assert_eq(err_prefix(&e, "%s:%d", "a.yaml", 3), -1);
    cr_assert_str_eq(e.text, "a.yaml:3: no such file");
    cr_assert_eq(e.code, 5);
}

Test(err, long_texts_are_cut_and_terminated) {
    struct err e = {0};
    char long_text[2000];
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = 0;
    err_set(&e, 1, "%s", long_text);
    cr_assert_eq(strlen(e.text), sizeof e.text - 1);
    err_prefix(&e, "%s", long_text);
    cr_assert_eq(strlen(e.text), sizeof e.text - 1);
}

Test(err, tells_what_a_new_start_may_mend_from_what_it_cannot) {
    const int passing[] = {ENOMEM, EMFILE, ENFILE, EAGAIN, EINTR, EIO, ENOSPC, EX_OSERR, EX_IOERR, EX_TEMPFAIL};
    const int lasting[] = {0, EINVAL, EACCES, ENOENT, EX_CONFIG, EX_DATAERR, EX_SOFTWARE, EX_NOPERM};
    for (size_t i = 0; i < sizeof passing / sizeof passing[0]; i++) {
        struct err e = {.code = passing[i]};
        cr_assert_eq(err_exit(&e, EXIT_DONT_RESTART), EX_TEMPFAIL, "%d", passing[i]);
    }
    for (size_t i = 0; i < sizeof lasting / sizeof lasting[0]; i++) {
        struct err e = {.code = lasting[i]};
        cr_assert_eq(err_exit(&e, EXIT_RING_BROKEN), EXIT_RING_BROKEN, "%d", lasting[i]);
    }
}

Test(check, does_nothing_when_it_holds) { CHECK(1 + 1 == 2); }

static void hook_says(const char *text) {
    /* The test fails with another signal when the text is not what operators are promised. */
    if (strstr(text, "tests/unit/base/err.c:") == NULL || strstr(text, ": check failed: 1 + 1 == 3") == NULL)
        raise(SIGUSR1);
    if (write(STDERR_FILENO, "hook ran\n", 9) < 0) raise(SIGUSR1);
}

Test(check, aborts_when_it_does_not, .signal = SIGABRT) { CHECK(1 + 1 == 3); }

Test(check, gives_the_hook_place_and_expression_before_it_aborts, .signal = SIGABRT) {
    check_hook_set(hook_says);
    CHECK(1 + 1 == 3);
}

static void hook_fails_too(const char *text) {
    (void)text;
    CHECK(1 + 1 == 3);
}

Test(check, that_fails_within_the_hook_aborts_instead_of_calling_it_again, .signal = SIGABRT) {
    check_hook_set(hook_fails_too);
    CHECK(1 + 1 == 3);
}

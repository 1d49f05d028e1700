/* UTF-8, strictly. */
#include "base/utf8.h"

#include <criterion/criterion.h>
#include <string.h>

static bool valid(const char *text) { return utf8_valid((const uint8_t *)text, strlen(text)); }

Test(utf8, text_is_valid_when_every_character_is) {
    static const char *const good[] = {"",
                                       "a",
                                       "\xc2\x80",
                                       "\xdf\xbf",
                                       "\xe0\xa0\x80",
                                       "\xed\x9f\xbf",
                                       "\xee\x80\x80",
                                       "\xef\xbf\xbf",
                                       "\xf0\x90\x80\x80",
                                       "\xf4\x8f\xbf\xbf",
                                       "eight by\xc3\xa9te steps"};
    static const char *const bad[] = {"\x80",
                                      "\xbf",
                                      "\xc0\x80",
                                      "\xc1\xbf",
                                      "\xc2",
                                      "\xc2\x41",
                                      "\xe0\x80\x80",
                                      "\xe0\x9f\xbf",
                                      "\xed\xa0\x80",
                                      "\xed\xbf\xbf",
                                      "\xe2\x82",
                                      "\xe2\x28\xa1",
                                      "\xf0\x80\x80\x80",
                                      "\xf0\x8f\xbf\xbf",
                                      "\xf4\x90\x80\x80",
                                      "\xf5\x80\x80\x80",
                                      "\xf8\x88\x80\x80\x80",
                                      "\xff",
                                      "\xfe",
                                      "1234567\xff",
                                      "12345678\xff",
                                      "\xf0\x90\x80"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) cr_assert(valid(good[i]), "%zu", i);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) cr_assert_not(valid(bad[i]), "%zu", i);
}

Test(utf8, a_character_is_whole_or_none) {
    static const char *const whole[] = {"a", "\xc2\x80", "\xe2\x82\xac", "\xf0\x9f\x98\x80"};
    for (size_t n = 1; n <= 4; n++) {
        const uint8_t *p = (const uint8_t *)whole[n - 1];
        cr_assert_eq(utf8_bytes(p, n), n);
        cr_assert_eq(utf8_bytes(p, n + 1), n, "what follows is not looked at");
        for (size_t cut = 1; cut < n; cut++) cr_assert_eq(utf8_bytes(p, cut), 0);
    }
    cr_assert_eq(utf8_bytes((const uint8_t *)"", 1), 1, "NUL is a character");
}

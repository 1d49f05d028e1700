/* Patterns of keys: what Redis's SCAN MATCH takes, this takes. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "tools/glob.h"

static bool takes(const char *pattern, const char *text) {
    return glob_match(pattern, strlen(pattern), text, strlen(text));
}

Test(glob, stars_questions_and_letters) {
    cr_assert(takes("", "") && !takes("", "a") && takes("*", "") && takes("*", "abc"));
    cr_assert(takes("card:*", "card:") && takes("card:*", "card:1:2") && !takes("card:*", "car"));
    cr_assert(takes("a?c", "abc") && !takes("a?c", "ac") && !takes("a?c", "abbc"));
    cr_assert(takes("*:x:*", "a:b:x:c") && takes("a*b*c", "aXXbYYbZc") && !takes("a*b*c", "aXXbYYbZ"));
    cr_assert(takes("**", "") && takes("a**b", "ab"));
}

Test(glob, sets_and_escapes) {
    cr_assert(takes("[abc]x", "bx") && !takes("[abc]x", "dx") && takes("[a-c]", "b") && !takes("[^a-c]", "b"));
    cr_assert(takes("[^a-c]", "d") && takes("[c-a]", "b") && takes("[\\]]", "]"));
    cr_assert(takes("\\*", "*") && !takes("\\*", "a") && takes("a\\", "a\\"));
    cr_assert(takes("[ab", "a") && !takes("[", ""));
}

Test(glob, bytes_that_are_no_text) { cr_assert(glob_match("a*\0b", 4, "a\xff\0\0b", 5)); }

Test(glob, a_template_becomes_what_all_its_keys_match) {
    struct config_topic t = {.name = "cards.bulk"};
    char out[GLOB_BYTES];
    snprintf(t.key, sizeof t.key, "card:{account}:{{*}}:{$topic}:{$key}");
    glob_of_template(&t, out);
    cr_assert_str_eq(out, "card:*:{\\*}:cards.bulk:*");
    cr_assert(takes(out, "card:7:{*}:cards.bulk:k") && !takes(out, "card:7:{x}:cards.bulk:k"));
}

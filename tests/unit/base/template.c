#include "base/template.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

static struct template t;

/* The parsed template as "kind:text|kind:text", to compare it at a glance. */
static const char *parsed(const char *text) {
    static char out[1024];
    static const char *const kinds[] = {"lit", "field", "key", "topic", "partition", "offset"};
    struct err err = {0};
    size_t n = 0;
    cr_assert_eq(template_parse(text, &t, NULL, &err), 0, "%s", err.text);
    for (uint32_t i = 0; i < t.count; i++)
        n += (size_t)snprintf(out + n, sizeof out - n, "%s%s:%.*s", i > 0 ? "|" : "", kinds[t.part[i].kind],
                              t.part[i].len, t.text + t.part[i].at);
    return out;
}

static void refuses(const char *text, size_t at_expected, const char *message) {
    struct err err = {0};
    size_t at = 999;
    cr_assert_eq(template_parse(text, &t, &at, &err), -1, "%s", text);
    cr_assert_eq(err.code, EX_CONFIG);
    cr_assert_str_eq(err.text, message);
    cr_assert_eq(at, at_expected, "%zu", at);
}

Test(template, literals_and_fields_alternate) {
    cr_assert_str_eq(parsed("card:{account}:{card_no}"), "lit:card:|field:account|lit::|field:card_no");
}

Test(template, words_with_a_dollar_stand_for_the_record) {
    cr_assert_str_eq(parsed("{$topic}/{$partition}/{$offset}/{$key}"),
                     "topic:|lit:/|partition:|lit:/|offset:|lit:/|key:");
}

Test(template, doubled_braces_stand_for_themselves_and_join_the_literal) {
    cr_assert_str_eq(parsed("a{{b}}c"), "lit:a{b}c");
    cr_assert_str_eq(parsed("{{{a}}}"), "lit:{|field:a|lit:}");
}

Test(template, dollar_outside_braces_is_a_character) { cr_assert_str_eq(parsed("$key"), "lit:$key"); }

Test(template, names_may_be_any_text_without_dots) {
    cr_assert_str_eq(parsed("{a b-\xc3\xa9:1}"), "field:a b-\xc3\xa9:1");
}

Test(template, has_tells_which_kinds_there_are) {
    parsed("x{a}{$key}");
    cr_assert(template_has(&t, TEMPLATE_FIELD) && template_has(&t, TEMPLATE_KEY) && template_has(&t, TEMPLATE_LITERAL));
    cr_assert(!template_has(&t, TEMPLATE_OFFSET));
}

Test(template, mistakes_are_named_with_their_place) {
    refuses("", 0, "an empty template makes no key");
    refuses("a{", 1, "{ without } (write {{ for the brace itself)");
    refuses("a{b{c}", 1, "{ without } (write {{ for the brace itself)");
    refuses("a}b", 1, "} without { (write }} for the brace itself)");
    refuses("ab{}", 2, "{} names no field");
    refuses("{x}{a.b}", 3, "{a.b} names a nested field; only top-level fields are available in this version");
    refuses("{$keys}", 0, "{$keys} is unknown: {$key} {$topic} {$partition} {$offset} or {field}");
    refuses("{$}", 0, "{$} is unknown: {$key} {$topic} {$partition} {$offset} or {field}");
    refuses("a\nb", 1, "a template has no control characters");
}

Test(template, holds_thirty_two_parts_and_no_more) {
    char text[8 * 33 + 1] = "";
    for (int i = 0; i < 32; i++) snprintf(text + strlen(text), sizeof text - strlen(text), "{f%02d}", i);
    parsed(text);
    cr_assert_eq(t.count, 32);
    snprintf(text + strlen(text), sizeof text - strlen(text), "x");
    refuses(text, 160, "a template has at most 32 parts");
}

Test(template, holds_the_longest_text_and_no_longer) {
    char text[TEMPLATE_BYTES + 1];
    memset(text, 'x', sizeof text);
    text[TEMPLATE_BYTES - 1] = 0;
    parsed(text);
    cr_assert_eq(t.part[0].len, TEMPLATE_BYTES - 1);
    text[TEMPLATE_BYTES - 1] = 'x';
    text[TEMPLATE_BYTES] = 0;
    refuses(text, 0, "a template is at most 511 characters");
}

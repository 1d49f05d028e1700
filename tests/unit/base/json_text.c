/* Text as JSON: escapes, and nothing that is no UTF-8. */
#include "base/json_text.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static void becomes(const char *text, const char *json) {
    char *out = NULL;
    size_t len;
    FILE *f = open_memstream(&out, &len);
    json_text_put(text, strlen(text), f);
    fclose(f);
    cr_assert_str_eq(out, json);
    free(out);
}

Test(json_text, text_is_quoted_and_escaped) {
    becomes("", "\"\"");
    becomes("a \"b\" \\ c", "\"a \\\"b\\\" \\\\ c\"");
    becomes("\x01\n\t\x7f", "\"\\u0001\\u000a\\u0009\\u007f\"");
    becomes("h\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80", "\"h\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80\"");
}

Test(json_text, what_is_no_utf8_is_replaced_byte_by_byte) {
    becomes("a\xff\xfe", "\"a\\ufffd\\ufffd\"");
    becomes("\xc3", "\"\\ufffd\"");
    becomes("\xe2\x82x", "\"\\ufffd\\ufffdx\"");
    becomes("\xc0\x80", "\"\\ufffd\\ufffd\"");
    becomes("\xe0\x80\x80", "\"\\ufffd\\ufffd\\ufffd\"");
    becomes("\xed\xa0\x80", "\"\\ufffd\\ufffd\\ufffd\"");
    becomes("\xf4\x90\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\"");
    becomes("\xf5\x80\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\"");
}

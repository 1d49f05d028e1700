#include "transform/json.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "shm/record.h"

enum { LEN_MAX = 1 << 20 };
static struct json *json;
static struct json_plan plan;

static void setup(void) {
    struct err err = {0};
    json = json_new(LEN_MAX, &err);
    cr_assert_not_null(json, "%s", err.text);
    memset(&plan, 0, sizeof plan);
    json_plan_add(&plan, "a", 1);
    json_plan_add(&plan, "b\"c", 3);
}
static void teardown(void) { json_free(json); }
TestSuite(json, .init = setup, .fini = teardown);

/* The shortest field there is. Returns its bytes. */
static int shortest_field(char *out, bool last) {
    memcpy(out, last ? "\"\":1}" : "\"\":1,", 5);
    return 5;
}

static int read_text(const char *text) { return json_read(json, &plan, (const uint8_t *)text, strlen(text)); }

static void field_expect(const char *text, const char *value) {
    cr_assert_eq(read_text(text), 0, "%s", text);
    const struct json_field *f = &json_fields(json)[0];
    cr_assert_eq(f->present, value != NULL, "%s", text);
    if (value == NULL) return;
    cr_assert_eq(f->len, strlen(value), "%s", text);
    cr_assert_eq(memcmp(f->text, value, f->len), 0, "%s", text);
}

Test(json, takes_values_as_they_are_written) {
    field_expect("{\"a\":\"text\"}", "text");
    field_expect("{\"a\":\"\"}", "");
    field_expect("{\"a\":-12.50e+3}", "-12.50e+3");
    field_expect("{\"a\":123456789012345678901234567890}", "123456789012345678901234567890");
    field_expect("{\"a\":0}", "0");
    field_expect("{\"a\":true}", "true");
    field_expect("{\"a\":false}", "false");
    field_expect(" \t\r\n{ \"x\" : [ { \"a\" : 1 } ] , \"a\" : 2 } \n", "2");
}

Test(json, fields_that_make_no_key_are_absent) {
    field_expect("{}", NULL);
    field_expect("{\"a\":null}", NULL);
    field_expect("{\"a\":{}}", NULL);
    field_expect("{\"a\":[1]}", NULL);
    field_expect("{\"A\":1,\"aa\":2,\"\":3}", NULL);
    field_expect("{\"x\":{\"a\":1},\"y\":[{\"a\":2}]}", NULL);
}

Test(json, the_last_of_equal_names_counts) {
    field_expect("{\"a\":1,\"a\":\"2\"}", "2");
    field_expect("{\"a\":1,\"a\":null}", NULL);
    field_expect("{\"a\":1,\"a\":{\"a\":3}}", NULL);
    field_expect("{\"a\":{},\"\\u0061\":4}", "4");
}

Test(json, decodes_escapes_of_strings_and_names) {
    field_expect("{\"a\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"}", "\"\\/\b\f\n\r\t");
    field_expect("{\"a\":\"\\u00e9\\u20ac\\ud83d\\ude00x\"}", "\u00e9\u20ac\U0001f600x");
    cr_assert_eq(read_text("{\"a\":\"n\\u0000l\",\"b\\\"c\":\"two\\n\"}"), 0);
    cr_assert_eq(json_fields(json)[0].len, 3);
    cr_assert_eq(memcmp(json_fields(json)[0].text, "n\0l", 3), 0, "the first survives the second");
    cr_assert_eq(json_fields(json)[1].len, 4);
    cr_assert_eq(memcmp(json_fields(json)[1].text, "two\n", 4), 0);
}

Test(json, half_surrogate_pairs_make_no_key) {
    static const char *const bad[] = {"\\ud800",    "x\\ud800y",      "\\udc00",     "\\ud83d\\ud83d\\ude00",
                                      "\\ud83d\\n", "\\ude00\\ud83d", "\\\\\\ud83d", "\\uD83Dde00"};
    char text[256];
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        snprintf(text, sizeof text, "{\"a\":\"%s\"}", bad[i]);
        cr_assert_eq(read_text(text), -1, "%s", text);
        snprintf(text, sizeof text, "{\"a\":\"ok\",\"other\":\"%s\"}", bad[i]);
        cr_assert_eq(read_text(text), 0, "it matters only where a key is made of it: %s", text);
    }
    field_expect("{\"a\":\"\\\\ud800\"}", "\\ud800");
    field_expect("{\"x\":\"\\\\\",\"a\":\"\\ud83d\\ude00\\\"\"}", "\U0001f600\"");
}

/* -- the list of fields ------------------------------------------------------------------------ */

/* "name=value|…" as the list has them. */
static void list_expect(const char *text, const char *fields) {
    static char got[4096];
    const uint8_t *list;
    size_t len, at = RECORD_FIELDS_HEAD, n = 0;
    struct record_field f;
    int32_t count = 0, told;
    plan.list = true;
    cr_assert_eq(read_text(text), 0, "%s", text);
    told = json_list(json, &list, &len);
    got[0] = 0;
    while (record_field_next(list, len, &at, &f) == 1) {
        n += (size_t)snprintf(got + n, sizeof got - n, "%s%.*s=%.*s", count > 0 ? "|" : "", (int)f.name_bytes,
                              (const char *)f.name, (int)f.value_bytes, (const char *)f.value);
        count++;
    }
    cr_assert_eq(at, len, "%s", text);
    cr_assert_eq(count, told, "%s", text);
    cr_assert_str_eq(got, fields, "%s", text);
}

Test(json, list_has_every_field_as_it_is_written) {
    list_expect(
        "{\"a\":\"x y\",\"n\":-12.50e+3,\"big\":123456789012345678901234567890.10,\"t\":true,\"f\":false,\"z\":null}",
        "a=x y|n=-12.50e+3|big=123456789012345678901234567890.10|t=true|f=false");
    list_expect("{ \"o\" : { \"a\" : [ 1.0 , null ] } , \"l\":[], \"e\":{}, \"s\":\"\" }",
                "o={ \"a\" : [ 1.0 , null ] }|l=[]|e={}|s=");
    list_expect("{\"\":1,\"\\u0061\\n\":\"\\u20ac\\\"\\ud83d\\ude00\",\"x\":[\"\\ud800\"]}",
                "=1|a\n=\xe2\x82\xac\"\xf0\x9f\x98\x80|x=[\"\\ud800\"]");
    list_expect("{}", "");
    list_expect("{\"a\":null,\"b\":null}", "");
    const struct json_field *f = json_fields(json);
    cr_assert_eq(read_text("{\"a\":\"\\u0041\"}"), 0);
    cr_assert(f->present && f->len == 1 && f->text[0] == 'A', "keys are found as before");
}

Test(json, of_equal_names_in_the_list_the_last_counts) {
    list_expect("{\"a\":1,\"b\":2,\"a\":3}", "a=1|b=2|a=3"); /* Redis takes the last, too */
    list_expect("{\"a\":1,\"b\":2,\"a\":null}", "b=2");
    list_expect("{\"a\":1,\"a\":2,\"\\u0061\":null}", "");
    list_expect("{\"a\":1,\"a\":null,\"a\":4,\"ab\":5}", "a=4|ab=5");
    list_expect("{\"a\":null,\"a\":{\"a\":null}}", "a={\"a\":null}");
}

Test(json, half_surrogate_pairs_are_refused_anywhere_in_the_list) {
    plan.list = true;
    cr_assert_eq(read_text("{\"x\":\"\\ud800\"}"), -1);
    cr_assert_eq(read_text("{\"\\udc00\":1}"), -1);
    plan.list = false;
    cr_assert_eq(read_text("{\"x\":\"\\ud800\"}"), 0);
}

Test(json, list_has_room_for_the_worst_text_and_a_limit_of_names) {
    static char text[LEN_MAX];
    const uint8_t *list;
    size_t len, n = 0;
    plan.list = true;
    for (int names = HASH_FIELDS_MAX - 1; names <= HASH_FIELDS_MAX + 1; names++) {
        n = 0;
        text[n++] = '{';
        for (int i = 0; i < names; i++) n += (size_t)shortest_field(text + n, i == names - 1);
        cr_assert_eq(json_read(json, &plan, (const uint8_t *)text, n), 0);
        cr_assert_eq(json_list(json, &list, &len), names <= HASH_FIELDS_MAX ? names : -1);
    }
    for (text[n - 1] = ','; n < sizeof text - 10;) n += (size_t)shortest_field(text + n, false);
    n += (size_t)shortest_field(text + n, true);
    cr_assert_eq(json_read(json, &plan, (const uint8_t *)text, n), 0, "as many as there can be");
    cr_assert_eq(json_list(json, &list, &len), -1);
    memset(text, 'v', sizeof text); /* one field as long as a text can be */
    memcpy(text, "{\"\":\"", 5);
    memcpy(text + sizeof text - 2, "\"}", 2);
    cr_assert_eq(json_read(json, &plan, (const uint8_t *)text, sizeof text), 0);
    cr_assert_eq(json_list(json, &list, &len), 1);
    cr_assert_eq(len, RECORD_FIELDS_HEAD + RECORD_FIELD_HEAD + sizeof text - 7);
}

Test(json, refuses_what_is_not_json) {
    static const char *const bad[] = {"",
                                      " ",
                                      "{",
                                      "}",
                                      "{]",
                                      "[]",
                                      "[{}]",
                                      "null",
                                      "true",
                                      "1",
                                      "\"a\"",
                                      "{}{}",
                                      "{} x",
                                      "{},",
                                      "{\"a\"}",
                                      "{\"a\":}",
                                      "{\"a\":1,}",
                                      "{,}",
                                      "{a:1}",
                                      "{'a':1}",
                                      "{\"a\":01}",
                                      "{\"a\":1.}",
                                      "{\"a\":.5}",
                                      "{\"a\":+1}",
                                      "{\"a\":-}",
                                      "{\"a\":1e}",
                                      "{\"a\":0x1}",
                                      "{\"a\":NaN}",
                                      "{\"a\":Infinity}",
                                      "{\"a\":nul}",
                                      "{\"a\":TRUE}",
                                      "{\"a\":\"x}",
                                      "{\"a\":\"\\x\"}",
                                      "{\"a\":\"\\u12g4\"}",
                                      "{\"a\":\"\n\"}",
                                      "{\"a\":\"\t\"}",
                                      "{\"a\":1 \"b\":2}",
                                      "{\"a\":1}}",
                                      "{\"a\":[1,]}",
                                      "{\"a\":1}//c",
                                      "{\"a\":1}/*c*/",
                                      "\xef\xbb\xbf{}",
                                      "{\"a\":1}\x01",
                                      "{\"a\":\"\x01\"}",
                                      "\v{}",
                                      "{\f}"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) cr_assert_eq(read_text(bad[i]), -1, "%s", bad[i]);
    cr_assert_eq(json_read(json, &plan, (const uint8_t *)"{}\0", 3), -1, "a NUL is not a blank");
    cr_assert_eq(json_read(json, &plan, (const uint8_t *)"{\"a\":\"\0\"}", 9), -1);
}

Test(json, refuses_every_proper_prefix) {
    static const char text[] = "{\"a\":\"x\\u00e9\\n\",\"b\":[1,-2.5e3,true,false,null,{\"c\":{}}],\"d\":\"\xc3\xa9\"}";
    uint8_t copy[sizeof text];
    for (size_t len = 0; len < sizeof text - 1; len++) {
        uint8_t *exact = malloc(len > 0 ? len : 1); /* so that a sanitizer sees a read beyond the end */
        memcpy(exact, text, len);
        cr_assert_eq(json_read(json, &plan, exact, len), -1, "%zu bytes", len);
        free(exact);
    }
    memcpy(copy, text, sizeof text);
    cr_assert_eq(json_read(json, &plan, copy, sizeof text - 1), 0);
}

Test(json, depth_is_limited) {
    static char text[2 * JSON_DEPTH_MAX + 64];
    for (int extra = 0; extra <= 1; extra++) {
        int arrays = JSON_DEPTH_MAX - 1 + extra;
        memcpy(text, "{\"x\":", 5);
        memset(text + 5, '[', (size_t)arrays);
        memset(text + 5 + arrays, ']', (size_t)arrays);
        memcpy(text + 5 + 2 * arrays, ",\"a\":7}", 8);
        if (extra == 0)
            field_expect(text, "7");
        else
            cr_assert_eq(read_text(text), -1);
    }
    static uint8_t deep[LEN_MAX];
    memset(deep, '[', sizeof deep);
    memcpy(deep, "{\"a\":", 5);
    cr_assert_eq(json_read(json, &plan, deep, sizeof deep), -1);
}

Test(json, text_that_is_not_utf8_is_refused_anywhere_in_the_record) {
    static const char *const bad[] = {"\x80", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "1234567\xff"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char text[64];
        snprintf(text, sizeof text, "{\"other\":\"%s\"}", bad[i]);
        cr_assert_eq(read_text(text), -1, "%zu", i);
    }
}

/* Strings with escapes at many lengths, big ones and small ones in turn: the memory of the parser is used again and
 * again, up to the longest text it was made for. */
Test(json, reuses_its_memory_up_to_the_longest_text) {
    static char text[LEN_MAX + 1];
    for (int round = 0; round < 3; round++)
        for (size_t len = 32; len <= LEN_MAX; len *= 2) {
            memset(text, 'x', len);
            memcpy(text, "{\"x\":\"\\n", 8);
            memcpy(text + len / 2, "\\t\",\"a\":\"\\r", 11);
            memcpy(text + len - 3, "\\n\"", 3);
            cr_assert_eq(json_read(json, &plan, (const uint8_t *)text, len), -1, "the end is missing: %zu", len);
            memcpy(text + len - 4, "\\n\"}", 4);
            cr_assert_eq(json_read(json, &plan, (const uint8_t *)text, len), 0, "%zu", len);
            const struct json_field *f = &json_fields(json)[0];
            size_t expected = len - 3 - (len / 2 + 9) - 2 + 1;
            cr_assert_eq(f->len, expected < REDIS_KEY_BYTES_MAX + 1 ? expected : REDIS_KEY_BYTES_MAX + 1);
            cr_assert_eq(f->text[0], '\r');
        }
}

Test(json, plan_keeps_each_name_once) {
    cr_assert_eq(json_plan_add(&plan, "a", 1), 0);
    cr_assert_eq(json_plan_add(&plan, "ab", 2), 2);
    cr_assert_eq(json_plan_add(&plan, "ab", 2), 2);
    cr_assert_eq(plan.count, 3);
}

/* Whatever is done to a valid text, the reader neither crashes nor takes what is no UTF-8. */
Test(json, survives_random_damage) {
    static const char text[] =
        "{\"a\":\"x\\u00e9\\ud83d\\ude00\\n\",\"b\":[1,-2.5e3,true,false,null,{\"c\":{}}],\"d\":\"\xc3\xa9\"}";
    uint64_t s = 88172645463325252ULL;
    for (int i = 0; i < 200000; i++) {
        uint8_t *copy = malloc(sizeof text - 1);
        memcpy(copy, text, sizeof text - 1);
        for (int flips = 0; flips < 3; flips++) {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            copy[s % (sizeof text - 1)] ^= (uint8_t)(1 << (s >> 32) % 8);
        }
        if (json_read(json, &plan, copy, sizeof text - 1) == 0) cr_assert(utf8_valid(copy, sizeof text - 1));
        free(copy);
    }
}

#include "transform/convert.h"

#include <stdlib.h>

#include "tests/unit/transform/help.h"
#include "transform/value.h"

enum { ROOM = 1 << 16 };
static struct json *json;
static struct config_topic config;
static struct convert_topic topic;
static struct converted got;
static uint8_t bytes[ROOM];

static void setup(void) {
    struct err err = {0};
    json = json_new(ROOM, &err);
    cr_assert_not_null(json);
}
static void teardown(void) { json_free(json); }
TestSuite(convert, .init = setup, .fini = teardown);

static void prepare(void) {
    struct err err = {0};
    cr_assert_eq(convert_topic_init(&topic, &config, &err), 0, "%s", err.text);
}

static enum record_reason converted(struct given g) {
    struct record_view view;
    cr_assert_leq(given_bytes(&g), ROOM);
    given_write(&g, bytes);
    cr_assert_eq(record_open(bytes, given_bytes(&g), &view), 0);
    memset(&got, 0xee, sizeof got);
    return convert(json, &topic, &view, &got);
}

#define convert_of(...) converted((struct given){__VA_ARGS__})

static void key_expect(const char *key) {
    cr_assert_eq(got.key_bytes, strlen(key), "%.*s", (int)got.key_bytes, (char *)got.key);
    cr_assert_eq(memcmp(got.key, key, got.key_bytes), 0, "%.*s", (int)got.key_bytes, (char *)got.key);
}

static void old_key_expect(const char *key) {
    cr_assert_eq(got.old_key_bytes, strlen(key), "%u bytes", got.old_key_bytes);
    cr_assert_eq(memcmp(got.old_key, key, got.old_key_bytes), 0);
}

Test(convert, key_is_made_of_fields_and_places) {
    topic_set(&config, "cards", MODE_CHANGE, FORMAT_JSON, "{{c}}:{$topic}:{$partition}:{$offset}:{$key}:{a}-{b}:{a}");
    prepare();
    cr_assert_eq(convert_of(.key = "kk", .value = "{\"b\":2,\"a\":\"one\"}", .offset = 9000000000), REASON_NONE);
    key_expect("{c}:cards:3:9000000000:kk:one-2:one");
    cr_assert_eq(got.op, RECORD_ADD);
    cr_assert_eq(got.old_key_bytes, 0);
    cr_assert_eq(got.expire_at_ms, 0);
}

Test(convert, raw_keys_are_any_bytes) {
    topic_set(&config, "raw", MODE_CHANGE, FORMAT_RAW, "{$key}");
    prepare();
    cr_assert_eq(convert_of(.key = "\xff\0k\r\n", .key_bytes = 5, .value = "not json \xff"), REASON_NONE);
    cr_assert_eq(got.key_bytes, 5);
    cr_assert_arr_eq(got.key, "\xff\0k\r\n", 5);
}

Test(convert, null_and_empty_keys) {
    topic_set(&config, "raw", MODE_CHANGE, FORMAT_RAW, "{$key}");
    prepare();
    cr_assert_eq(convert_of(.value = "v"), REASON_KEY_NULL);
    cr_assert_eq(convert_of(.key = "", .value = "v"), REASON_KEY_EMPTY);
    topic_set(&config, "raw", MODE_CHANGE, FORMAT_RAW, "p:{$key}");
    prepare();
    cr_assert_eq(convert_of(.key = "", .value = "v"), REASON_NONE);
    key_expect("p:");
    topic_set(&config, "json", MODE_CHANGE, FORMAT_JSON, "{a}");
    prepare();
    cr_assert_eq(convert_of(.key = "k", .value = "{\"a\":\"\"}"), REASON_KEY_EMPTY);
}

Test(convert, key_length_is_limited) {
    static char key[REDIS_KEY_BYTES_MAX + 2], text[REDIS_KEY_BYTES_MAX + 32];
    memset(key, 'k', REDIS_KEY_BYTES_MAX + 1);
    topic_set(&config, "raw", MODE_CHANGE, FORMAT_RAW, "{$key}");
    prepare();
    cr_assert_eq(convert_of(.key = key, .value = "v"), REASON_KEY_LONG);
    cr_assert_eq(convert_of(.key = key, .key_bytes = REDIS_KEY_BYTES_MAX, .value = "v"), REASON_NONE);
    cr_assert_eq(got.key_bytes, REDIS_KEY_BYTES_MAX);
    topic_set(&config, "json", MODE_CHANGE, FORMAT_JSON, "x{a}");
    prepare();
    snprintf(text, sizeof text, "{\"a\":\"%s\"}", key);
    cr_assert_eq(convert_of(.value = text), REASON_KEY_LONG);
    snprintf(text, sizeof text, "{\"a\":\"\\n%s\"}", key);
    cr_assert_eq(convert_of(.value = text), REASON_KEY_LONG, "with escapes the text is cut, and still too long");
    topic_set(&config, "json", MODE_CHANGE, FORMAT_JSON, "{a}{missing}");
    prepare();
    cr_assert_eq(convert_of(.value = text), REASON_FIELD_MISSING, "the better reason of two");
}

Test(convert, missing_fields) {
    topic_set(&config, "json", MODE_CHANGE, FORMAT_JSON, "{a}:{b}");
    prepare();
    cr_assert_eq(convert_of(.key = "k", .value = "{\"a\":1}"), REASON_FIELD_MISSING);
    cr_assert_eq(convert_of(.key = "k", .value = "{\"a\":1,\"b\":null}"), REASON_FIELD_MISSING);
    cr_assert_eq(convert_of(.key = "k", .value = "{\"a\":1,\"b\":[2]}"), REASON_FIELD_MISSING);
    cr_assert_eq(convert_of(.key = "k"), REASON_FIELD_MISSING, "a null value has no fields");
}

Test(convert, values_that_are_not_json) {
    topic_set(&config, "json", MODE_CHANGE, FORMAT_JSON, "{$key}");
    prepare();
    cr_assert_eq(convert_of(.key = "k", .value = ""), REASON_JSON_INVALID, "0 bytes are no JSON");
    cr_assert_eq(convert_of(.key = "k", .value = "{\"a\":\"\xff\"}"), REASON_JSON_INVALID);
    cr_assert_eq(convert_of(.key = "k", .value = "[1]"), REASON_JSON_INVALID);
    cr_assert_eq(convert_of(.key = "k", .value = "{}"), REASON_NONE);
    topic_set(&config, "raw", MODE_CHANGE, FORMAT_RAW, "{$key}");
    prepare();
    cr_assert_eq(convert_of(.key = "k", .value = ""), REASON_NONE, "0 bytes are a raw value");
    cr_assert_eq(got.op, RECORD_ADD);
}

Test(convert, tombstones_delete_by_what_is_not_in_the_value) {
    topic_set(&config, "json", MODE_CHANGE, FORMAT_JSON, "t:{$key}");
    snprintf(config.operation_header, sizeof config.operation_header, "op");
    config.ttl_ms = 1000;
    prepare();
    cr_assert_eq(convert_of(.key = "k", .timestamp_ms = 5), REASON_NONE);
    cr_assert_eq(got.op, RECORD_DELETE);
    cr_assert_eq(got.expire_at_ms, 0);
    key_expect("t:k");
    cr_assert_eq(convert_of(.key = "k", .op = "add"), REASON_NONE);
    cr_assert_eq(got.op, RECORD_DELETE, "there is nothing to add");
}

Test(convert, operation_from_a_header) {
    static const struct {
        const char *word;
        enum record_op op;
    } known[] = {{"add", RECORD_ADD},       {"Add", RECORD_ADD},       {"ADD", RECORD_ADD},    {"c", RECORD_ADD},
                 {"i", RECORD_ADD},         {"I", RECORD_ADD},         {"insert", RECORD_ADD}, {"r", RECORD_ADD},
                 {"update", RECORD_UPDATE}, {"Update", RECORD_UPDATE}, {"u", RECORD_UPDATE},   {"U", RECORD_UPDATE},
                 {"delete", RECORD_DELETE}, {"DELETE", RECORD_DELETE}, {"d", RECORD_DELETE},   {"D", RECORD_DELETE}};
    static const char *const unknown[] = {"", "x", "adds", "ad", " add", "upsert", "1"};
    topic_set(&config, "t", MODE_CHANGE, FORMAT_JSON, "{$key}");
    snprintf(config.operation_header, sizeof config.operation_header, "op");
    prepare();
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        cr_assert_eq(convert_of(.key = "k", .value = "{}", .op = known[i].word), REASON_NONE, "%s", known[i].word);
        cr_assert_eq(got.op, known[i].op, "%s", known[i].word);
    }
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++)
        cr_assert_eq(convert_of(.key = "k", .value = "{}", .op = unknown[i]), REASON_OPERATION, "%s", unknown[i]);
    cr_assert_eq(convert_of(.key = "k", .value = "{}"), REASON_OPERATION, "the header is not there");
}

Test(convert, operation_from_a_field) {
    topic_set(&config, "t", MODE_CHANGE, FORMAT_JSON, "{$key}");
    snprintf(config.operation_field, sizeof config.operation_field, "kind");
    prepare();
    cr_assert_eq(convert_of(.key = "k", .value = "{\"kind\":\"delete\"}"), REASON_NONE);
    cr_assert_eq(got.op, RECORD_DELETE);
    cr_assert_eq(convert_of(.key = "k", .value = "{\"kind\":\"u\"}"), REASON_NONE);
    cr_assert_eq(got.op, RECORD_UPDATE);
    cr_assert_eq(convert_of(.key = "k", .value = "{}"), REASON_OPERATION);
    cr_assert_eq(convert_of(.key = "k", .value = "{\"kind\":null}"), REASON_OPERATION);
    cr_assert_eq(convert_of(.key = "k", .value = "{\"kind\":7}"), REASON_OPERATION);
    cr_assert_eq(convert_of(.key = "k"), REASON_NONE);
    cr_assert_eq(got.op, RECORD_DELETE);
}

Test(convert, bulk_topics_only_add) {
    topic_set(&config, "t", MODE_BULK, FORMAT_JSON, "{$key}");
    prepare();
    cr_assert_eq(convert_of(.key = "k", .value = "{}"), REASON_NONE);
    cr_assert_eq(got.op, RECORD_ADD);
    cr_assert_eq(convert_of(.key = "k"), REASON_OPERATION, "a record without value");
    cr_assert_eq(convert_of(.key = "k", .value = "{}", .op = "delete"), REASON_NONE, "no header is configured");
    snprintf(config.operation_header, sizeof config.operation_header, "op");
    prepare();
    cr_assert_eq(convert_of(.key = "k", .value = "{}", .op = "add"), REASON_NONE);
    cr_assert_eq(convert_of(.key = "k", .value = "{}", .op = "update"), REASON_OPERATION);
    cr_assert_eq(convert_of(.key = "k", .value = "{}", .op = "delete"), REASON_OPERATION);
    cr_assert_eq(convert_of(.key = "k", .value = "{}"), REASON_OPERATION);
    cr_assert_eq(convert_of(.key = "k", .value = "[", .op = "update"), REASON_JSON_INVALID, "JSON is looked at first");
}

Test(convert, old_key_only_when_it_changes) {
    topic_set(&config, "t", MODE_CHANGE, FORMAT_JSON, "c:{a}:{b}");
    snprintf(config.old_key, sizeof config.old_key, "c:{old_a}:{old_b}");
    snprintf(config.operation_field, sizeof config.operation_field, "op");
    prepare();
    cr_assert_eq(convert_of(.value = "{\"op\":\"u\",\"a\":1,\"b\":2,\"old_a\":1,\"old_b\":9}"), REASON_NONE);
    key_expect("c:1:2");
    old_key_expect("c:1:9");
    cr_assert_eq(convert_of(.value = "{\"op\":\"u\",\"a\":1,\"b\":2,\"old_a\":1,\"old_b\":2}"), REASON_NONE);
    old_key_expect("");
    cr_assert_eq(convert_of(.value = "{\"op\":\"u\",\"a\":1,\"b\":2,\"old_a\":1}"), REASON_NONE);
    old_key_expect("");
    cr_assert_eq(got.op, RECORD_UPDATE);
    cr_assert_eq(convert_of(.value = "{\"op\":\"d\",\"a\":1,\"b\":2,\"old_a\":1,\"old_b\":9}"), REASON_NONE);
    old_key_expect("");
    cr_assert_eq(convert_of(.value = "{\"op\":\"c\",\"a\":1,\"b\":2,\"old_a\":1,\"old_b\":9}"), REASON_NONE);
    old_key_expect("");
    static char text[REDIS_KEY_BYTES_MAX + 100], old[REDIS_KEY_BYTES_MAX];
    memset(old, 'x', sizeof old - 1);
    snprintf(text, sizeof text, "{\"op\":\"u\",\"a\":1,\"b\":2,\"old_a\":1,\"old_b\":\"%s\"}", old);
    cr_assert_eq(convert_of(.value = text), REASON_NONE, "under so long a key no record was ever stored");
    old_key_expect("");
}

Test(convert, expiry_counts_from_the_kafka_timestamp) {
    topic_set(&config, "t", MODE_CHANGE, FORMAT_RAW, "{$key}");
    config.ttl_ms = 3600000;
    prepare();
    cr_assert_eq(convert_of(.key = "k", .value = "v", .timestamp_ms = 1000), REASON_NONE);
    cr_assert_eq(got.expire_at_ms, 3601000);
    cr_assert_eq(convert_of(.key = "k", .value = "v", .timestamp_ms = 4102444800000), REASON_NONE,
                 "a clock in the future");
    cr_assert_eq(got.expire_at_ms, 4102444800000 + 3600000);
    cr_assert_eq(convert_of(.key = "k", .value = "v", .timestamp_ms = -1), REASON_NONE);
    cr_assert_eq(got.expire_at_ms, 0, "no timestamp, nothing to count from");
    cr_assert_eq(convert_of(.key = "k", .value = "v", .timestamp_ms = INT64_MAX), REASON_NONE);
    cr_assert_eq(got.expire_at_ms, INT64_MAX);
}

Test(convert, value_flags_are_the_topics) {
    topic_set(&config, "t", MODE_CHANGE, FORMAT_RAW, "{$key}");
    prepare();
    cr_assert_eq(topic.value_flags, 0);
    config.compress = COMPRESS_LZ4;
    config.encrypt = 1;
    prepare();
    cr_assert_eq(topic.value_flags, VALUE_LZ4 | VALUE_ENCRYPTED);
}

Test(convert, a_hash_is_a_list_of_fields) {
    topic_set(&config, "rows", MODE_CHANGE, FORMAT_JSON, "row:{id}");
    snprintf(config.operation_field, sizeof config.operation_field, "op");
    config.value_type = VALUE_TYPE_HASH;
    prepare();
    cr_assert_eq(convert_of(.value = "{\"op\":\"u\",\"id\":7,\"x\":null}"), REASON_NONE);
    key_expect("row:7");
    cr_assert_eq(record_fields_count(got.value), 2);
    cr_assert_eq(got.value_bytes, 4 + 8 + 3 + 8 + 3);
    cr_assert_eq(convert_of(.value = "{\"op\":\"d\",\"id\":7}"), REASON_NONE);
    cr_assert_eq(got.op, RECORD_DELETE);
    cr_assert_eq(convert_of(.value = "{\"op\":\"a\",\"id\":7,\"s\":\"\\udead\"}"), REASON_JSON_INVALID);
    topic_set(&config, "rows", MODE_CHANGE, FORMAT_JSON, "{$key}");
    config.value_type = VALUE_TYPE_HASH;
    prepare();
    cr_assert_eq(convert_of(.key = "k", .value = "{\"x\":null}"), REASON_FIELD_MISSING, "Redis has no empty hash");
    cr_assert_eq(convert_of(.key = "k", .value = "{}"), REASON_FIELD_MISSING);
    cr_assert_eq(convert_of(.key = "k", .value = NULL), REASON_NONE);
    cr_assert_eq(got.op, RECORD_DELETE);
    cr_assert_eq(convert_of(.key = "", .value = "{}"), REASON_KEY_EMPTY, "keys come first");
}

Test(convert, a_broken_template_is_refused_with_its_topic) {
    struct err err = {0};
    topic_set(&config, "cards", MODE_CHANGE, FORMAT_JSON, "c:{a");
    cr_assert_eq(convert_topic_init(&topic, &config, &err), -1);
    cr_assert_not_null(strstr(err.text, "cards"));
}

#include "feed/shape.h"

#include <criterion/criterion.h>
#include <string.h>
#include <sysexits.h>

static struct err err;
static struct shape *s;
static struct shaped got;
static struct config_topic topic;

static void begin(void) {
    topic = (struct config_topic){.name = "cards", .key = "card:{no}", .mode = MODE_CHANGE, .format = FORMAT_JSON};
}

static void end(void) { shape_free(s); }

static void make(enum rows_format format, enum record_op op, const char *key) {
    struct shape_settings set = {&topic, format, op, key, 100};
    err = (struct err){0};
    s = shape_new(&set, &err);
}

static enum shape_result of(const char *value) {
    struct row row = {(const uint8_t *)value, strlen(value), 9};
    return shape_row(s, &row, &got, &err);
}

static void key_is(const char *kafka, const char *redis) {
    cr_assert_eq(got.record.key_bytes, strlen(kafka));
    cr_assert_arr_eq(got.record.key, kafka, strlen(kafka));
    cr_assert_eq(got.redis_key_bytes, strlen(redis));
    cr_assert_arr_eq(got.redis_key, redis, strlen(redis));
}

Test(shape, the_kafka_key_is_the_redis_key_unless_another_is_wanted, .init = begin, .fini = end) {
    make(ROWS_CSV, RECORD_RAW, "");
    cr_assert_eq(of("{\"no\":\"5\",\"account\":7}"), SHAPE_OK);
    key_is("card:5", "card:5");
    cr_assert_eq(got.record.operation, RECORD_RAW, "the topic has no place for a word");
    shape_free(s);
    make(ROWS_CSV, RECORD_RAW, "account");
    cr_assert_eq(of("{\"no\":\"5\",\"account\":7}"), SHAPE_OK);
    key_is("7", "card:5");
    shape_free(s);
    make(ROWS_CSV, RECORD_RAW, "{account}/{$topic}");
    cr_assert_eq(of("{\"no\":\"5\",\"account\":7}"), SHAPE_OK);
    key_is("7/cards", "card:5");
}

Test(shape, redis_keys_may_be_made_of_the_kafka_key, .init = begin, .fini = end) {
    topic.format = FORMAT_RAW;
    strcpy(topic.key, "raw:{$key}");
    make(ROWS_CSV, RECORD_RAW, "");
    cr_assert_null(s);
    cr_assert(err.code == EX_USAGE && strstr(err.text, "--key is needed") != NULL, "%s", err.text);
    make(ROWS_JSONL, RECORD_RAW, "no");
    cr_assert_eq(of("{\"no\":5}"), SHAPE_OK);
    key_is("5", "raw:5");
    cr_assert_eq(of("{\"no\":5"), SHAPE_BAD);
    cr_assert_str_eq(err.text, "line 9: no Kafka key: json_invalid");
    cr_assert_eq(of("{}"), SHAPE_BAD);
    cr_assert_str_eq(err.text, "line 9: no Kafka key: field_missing");
}

Test(shape, keys_that_are_not_known_before_need_one_and_are_not_told, .init = begin, .fini = end) {
    strcpy(topic.key, "x:{$offset}");
    make(ROWS_CSV, RECORD_RAW, "");
    cr_assert_null(s);
    make(ROWS_CSV, RECORD_RAW, "no");
    cr_assert(!shape_knows_keys(s));
    cr_assert_eq(of("{\"no\":5}"), SHAPE_OK);
    key_is("5", "");
}

Test(shape, what_the_pipeline_would_reject_is_refused, .init = begin, .fini = end) {
    make(ROWS_JSONL, RECORD_RAW, "");
    cr_assert_eq(of("{\"other\":5}"), SHAPE_BAD);
    cr_assert_str_eq(err.text, "line 9: the pipeline would reject it: field_missing");
    cr_assert_eq(err.code, EX_DATAERR);
    cr_assert_eq(of("[1]"), SHAPE_BAD);
    cr_assert_str_eq(err.text, "line 9: the pipeline would reject it: json_invalid");
    cr_assert_eq(of("{\"no\":1} x"), SHAPE_BAD);
}

Test(shape, records_larger_than_allowed_are_told_apart, .init = begin, .fini = end) {
    char value[128];
    make(ROWS_JSONL, RECORD_RAW, "");
    snprintf(value, sizeof value, "{\"no\":1,\"x\":\"%080d\"}", 0);
    cr_assert_eq(of(value), SHAPE_OVERSIZED, "with its key it has 101 bytes");
    snprintf(value, sizeof value, "{\"no\":1,\"x\":\"%079d\"}", 0);
    cr_assert_eq(strlen(value), 94);
    cr_assert_eq(of(value), SHAPE_OK);
    snprintf(value, sizeof value, "%0101d", 0);
    cr_assert_eq(of(value), SHAPE_OVERSIZED);
}

Test(shape, operations_go_where_the_topic_wants_them, .init = begin, .fini = end) {
    const char *value;
    make(ROWS_CSV, RECORD_DELETE, "");
    cr_assert_null(s);
    cr_assert_not_null(strstr(err.text, "--key is needed"));
    make(ROWS_CSV, RECORD_UPDATE, "");
    cr_assert_null(s);
    cr_assert_eq(err.code, EX_USAGE);

    strcpy(topic.operation_header, "op");
    make(ROWS_CSV, RECORD_DELETE, "");
    cr_assert_eq(of("{\"no\":1}"), SHAPE_OK);
    cr_assert(got.record.operation == RECORD_DELETE && got.record.value != NULL);
    cr_assert_null(shape_added_column(s, &value));
    shape_free(s);
    make(ROWS_CSV, RECORD_RAW, "");
    cr_assert_eq(of("{\"no\":1}"), SHAPE_OK);
    cr_assert_eq(got.record.operation, RECORD_ADD);
    shape_free(s);

    topic.operation_header[0] = 0;
    strcpy(topic.operation_field, "what");
    make(ROWS_JSONL, RECORD_DELETE, "");
    cr_assert_null(s);
    make(ROWS_CSV, RECORD_UPDATE, "");
    cr_assert_str_eq(shape_added_column(s, &value), "what");
    cr_assert_str_eq(value, "update");
    cr_assert_eq(of("{\"no\":1,\"what\":\"update\"}"), SHAPE_OK);
    cr_assert_eq(got.record.operation, RECORD_RAW, "it is in the value");
    cr_assert_eq(of("{\"no\":1,\"what\":\"nonsense\"}"), SHAPE_BAD);
    cr_assert_str_eq(err.text, "line 9: the pipeline would reject it: operation");
}

Test(shape, deletes_of_topics_without_words_have_no_value, .init = begin, .fini = end) {
    strcpy(topic.key, "card:{$key}");
    make(ROWS_CSV, RECORD_DELETE, "no");
    cr_assert_eq(of("{\"no\":1}"), SHAPE_OK, "%s", err.text);
    cr_assert_null(got.record.value);
    key_is("1", "card:1");
}

Test(shape, bulk_topics_take_adds_alone, .init = begin, .fini = end) {
    topic.mode = MODE_BULK;
    make(ROWS_CSV, RECORD_DELETE, "no");
    cr_assert_null(s);
    cr_assert_str_eq(err.text, "topic cards is a bulk topic: it takes no operation but add");
    make(ROWS_CSV, RECORD_ADD, "");
    cr_assert_eq(of("{\"no\":1}"), SHAPE_OK);
}

Test(shape, keys_of_places_or_of_the_key_are_refused, .init = begin, .fini = end) {
    make(ROWS_CSV, RECORD_RAW, "{$partition}");
    cr_assert_null(s);
    make(ROWS_CSV, RECORD_RAW, "{a");
    cr_assert_null(s);
    cr_assert_eq(err.code, EX_USAGE);
    cr_assert_eq(strncmp(err.text, "--key: ", 7), 0, "%s", err.text);
}

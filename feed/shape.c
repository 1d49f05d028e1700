#include "feed/shape.h"

#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/clock.h"
#include "transform/convert.h"

struct shape {
    struct shape_settings set;
    enum record_op operation;
    bool null_value; /* a delete that only a missing value can say */
    bool keys_known, own_key;
    char key_text[TEMPLATE_BYTES];
    struct key_plan key; /* of the Kafka key, with own_key */
    struct json_plan key_fields;
    struct json *json;
    struct convert_topic topic;
    struct converted converted;
    uint32_t headers_bytes;
    uint8_t headers[NAME_BYTES + 64], kafka_key[REDIS_KEY_BYTES_MAX];
};

static bool has_place(const struct template *t) {
    return template_has(t, TEMPLATE_PARTITION) || template_has(t, TEMPLATE_OFFSET);
}

static int operation_init(struct shape *s, struct err *err) {
    const struct config_topic *t = s->set.topic;
    bool asked = s->set.operation != RECORD_RAW, header = t->operation_header[0] != 0,
         field = t->operation_field[0] != 0;
    s->operation = asked ? s->set.operation : RECORD_ADD;
    if (t->mode == MODE_BULK && s->operation != RECORD_ADD)
        return err_set(err, EX_USAGE, "topic %s is a bulk topic: it takes no operation but add", t->name);
    if (field && asked && s->set.format == ROWS_JSONL)
        return err_set(err, EX_USAGE, "the operation is in the field %s of each line: leave --operation away",
                       t->operation_field);
    if (!field && !header && s->operation == RECORD_UPDATE)
        return err_set(err, EX_USAGE, "topic %s has no `operation`, so that a record cannot say that it is an update",
                       t->name);
    s->null_value = !field && !header && s->operation == RECORD_DELETE;
    if (header) {
        const char *word = record_op_name(s->operation);
        s->headers_bytes = (uint32_t)record_header_put(s->headers, t->operation_header, strlen(t->operation_header),
                                                       word, strlen(word));
    }
    return 0;
}

static int keys_init(struct shape *s, struct err *err) {
    const struct template *redis = &s->topic.key.template;
    const char *key = s->set.key;
    s->keys_known = !has_place(redis);
    s->own_key = key[0] != 0;
    if (!s->own_key && (template_has(redis, TEMPLATE_KEY) || !s->keys_known || s->null_value))
        return err_set(err, EX_USAGE, "--key is needed: %s",
                       s->null_value    ? "a delete without value has nothing else to make its Redis key of"
                       : !s->keys_known ? "the Redis key depends on where the record will stand"
                                        : "the Redis key is made of the Kafka key");
    if (!s->own_key) return 0;
    if (strpbrk(key, "{}") == NULL) { /* the name of a field */
        if (strlen(key) + 3 > sizeof s->key_text) return err_set(err, EX_USAGE, "--key is too long");
        s->key_text[0] = '{';
        memcpy(s->key_text + 1, key, strlen(key));
        s->key_text[strlen(key) + 1] = '}';
        key = s->key_text;
    }
    if (key_plan_make(&s->key, key, &s->key_fields, err) != 0) {
        err->code = EX_USAGE;
        return err_prefix(err, "--key");
    }
    if (template_has(&s->key.template, TEMPLATE_KEY) || has_place(&s->key.template))
        return err_set(err, EX_USAGE, "--key: a Kafka key is made of fields and {$topic}");
    return 0;
}

struct shape *shape_new(const struct shape_settings *set, struct err *err) {
    struct shape *s = calloc(1, sizeof *s);
    CHECK(s != NULL);
    s->set = *set;
    if (convert_topic_init(&s->topic, set->topic, err) == 0 && operation_init(s, err) == 0 && keys_init(s, err) == 0) {
        s->json = json_new(set->max_message, err);
        if (s->json != NULL) return s;
    }
    shape_free(s);
    return NULL;
}

void shape_free(struct shape *s) {
    if (s == NULL) return;
    json_free(s->json);
    free(s);
}

const char *shape_added_column(const struct shape *s, const char **value) {
    *value = record_op_name(s->operation);
    return s->set.topic->operation_field[0] != 0 ? s->set.topic->operation_field : NULL;
}

bool shape_knows_keys(const struct shape *s) { return s->keys_known; }

static enum shape_result bad(struct err *why, const struct row *row, const char *what, enum record_reason reason) {
    err_set(why, EX_DATAERR, "line %llu: %s: %s", (unsigned long long)row->line, what, record_reason_name(reason));
    return SHAPE_BAD;
}

/* The Kafka key of fields of the row. Lines of JSON for topics that do not look into them are checked here, too. */
static enum record_reason kafka_key(struct shape *s, const struct row *row, struct record_view *view) {
    struct key_source source = {.record = view, .topic = s->set.topic->name};
    bool looks = s->own_key || s->set.topic->format == FORMAT_RAW || s->null_value;
    if (looks && json_read(s->json, &s->key_fields, row->value, row->value_bytes) != 0) return REASON_JSON_INVALID;
    view->head.flags |= RECORD_KEY_NULL;
    if (!s->own_key) return REASON_NONE;
    source.fields = json_fields(s->json);
    enum record_reason reason = key_format(&s->key, &source, s->kafka_key, &view->head.kafka_key_bytes);
    view->kafka_key = s->kafka_key;
    view->head.flags &= (uint16_t)~RECORD_KEY_NULL;
    return reason;
}

enum shape_result shape_row(struct shape *s, const struct row *row, struct shaped *out, struct err *why) {
    if (row->value_bytes > s->set.max_message) return SHAPE_OVERSIZED;
    struct record_view view = {.head = {.op = RECORD_RAW,
                                        .flags = s->null_value ? RECORD_VALUE_NULL : 0,
                                        .timestamp_ms = -1,
                                        .value_bytes = s->null_value ? 0 : (uint32_t)row->value_bytes,
                                        .headers_bytes = s->headers_bytes},
                               .value = row->value,
                               .headers = s->headers};
    enum record_reason reason = kafka_key(s, row, &view);
    if (reason != REASON_NONE) return bad(why, row, "no Kafka key", reason);
    reason = convert(s->json, &s->topic, &view, &s->converted);
    if (reason != REASON_NONE) return bad(why, row, "the pipeline would reject it", reason);
    *out = (struct shaped){.redis_key = s->converted.key, .redis_key_bytes = s->converted.key_bytes};
    out->record = (struct feed_record){.key = s->own_key ? s->kafka_key : s->converted.key,
                                       .key_bytes = s->own_key ? view.head.kafka_key_bytes : s->converted.key_bytes,
                                       .value = s->null_value ? NULL : row->value,
                                       .value_bytes = s->null_value ? 0 : row->value_bytes,
                                       .operation = s->headers_bytes > 0 ? s->operation : RECORD_RAW};
    if (!s->keys_known) out->redis_key_bytes = 0;
    return out->record.key_bytes + out->record.value_bytes > s->set.max_message ? SHAPE_OVERSIZED : SHAPE_OK;
}

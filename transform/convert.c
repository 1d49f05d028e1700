#include "transform/convert.h"

#include <string.h>
#include <strings.h>

#include "transform/value.h"

int convert_topic_init(struct convert_topic *t, const struct config_topic *config, struct err *err) {
    *t = (struct convert_topic){.config = config};
    t->has_old_key = config->old_key[0] != '\0';
    t->has_operation_field = config->operation_field[0] != '\0';
    t->has_operation = t->has_operation_field || config->operation_header[0] != '\0';
    t->value_flags = (config->compress == COMPRESS_LZ4 ? VALUE_LZ4 : 0U) | (config->encrypt ? VALUE_ENCRYPTED : 0U);
    t->fields.list = config->value_type == VALUE_TYPE_HASH;
    int status = key_plan_make(&t->key, config->key, &t->fields, err);
    if (status == 0 && t->has_old_key) status = key_plan_make(&t->old_key, config->old_key, &t->fields, err);
    if (status != 0) return err_prefix(err, "topic %s", config->name);
    if (t->has_operation_field)
        t->operation_field = json_plan_add(&t->fields, config->operation_field, strlen(config->operation_field));
    return 0;
}

/* -- operation --------------------------------------------------------------------------------- */

struct word {
    const uint8_t *at; /* NULL: the record has no operation */
    size_t len;
};

static struct word word_find(const struct convert_topic *t, const struct record_view *in,
                             const struct json_field *fields) {
    if (t->has_operation_field) {
        const struct json_field *f = fields != NULL ? &fields[t->operation_field] : NULL;
        return f != NULL && f->present ? (struct word){f->text, f->len} : (struct word){0};
    }
    struct record_header header;
    int found = record_header_last(in->headers, in->head.headers_bytes, t->config->operation_header, &header);
    CHECK(found >= 0); /* ingest wrote them */
    return found == 1 ? (struct word){header.value, header.value_bytes} : (struct word){0};
}

/* RECORD_RAW: not a word for an operation. Letters are those of SQL and of Debezium (create, read, update, delete). */
static enum record_op word_op(struct word w) {
    static const struct {
        const char *text;
        enum record_op op;
    } words[] = {{"add", RECORD_ADD},    {"a", RECORD_ADD},         {"insert", RECORD_ADD}, {"i", RECORD_ADD},
                 {"create", RECORD_ADD}, {"c", RECORD_ADD},         {"r", RECORD_ADD},      {"update", RECORD_UPDATE},
                 {"u", RECORD_UPDATE},   {"delete", RECORD_DELETE}, {"d", RECORD_DELETE}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strlen(words[i].text) == w.len && strncasecmp(words[i].text, (const char *)w.at, w.len) == 0)
            return words[i].op;
    return RECORD_RAW;
}

/* The table of operations: what mode, word and value say together. A record without value is a delete whatever its
 * word, as the tombstones of compaction have none; a word that is missing although the topic is configured to carry one
 * is refused, for an update whose key changed would leave the old record behind. */
static enum record_reason operation_find(const struct convert_topic *t, const struct record_view *in,
                                         const struct json_field *fields, enum record_op *op) {
    *op = RECORD_ADD;
    if ((in->head.flags & RECORD_VALUE_NULL) != 0) {
        *op = RECORD_DELETE;
    } else if (t->has_operation) {
        struct word w = word_find(t, in, fields);
        *op = w.at != NULL ? word_op(w) : RECORD_RAW;
    }
    bool allowed = t->config->mode == MODE_CHANGE ? *op != RECORD_RAW : *op == RECORD_ADD;
    return allowed ? REASON_NONE : REASON_OPERATION;
}

/* -- keys and expiry --------------------------------------------------------------------------- */

/* An old key that cannot be formed, or is the new one, means that the key did not change; under one that is too long no
 * record was ever stored. */
static void old_key_find(const struct convert_topic *t, const struct key_source *source, struct converted *out) {
    enum record_reason reason = key_format(&t->old_key, source, out->old_key, &out->old_key_bytes);
    bool same = out->old_key_bytes == out->key_bytes && memcmp(out->old_key, out->key, out->key_bytes) == 0;
    if (reason != REASON_NONE || same) out->old_key_bytes = 0;
}

static int64_t expiry(uint64_t ttl_ms, int64_t timestamp_ms) {
    if (ttl_ms == 0 || timestamp_ms < 0) return 0;
    uint64_t at = (uint64_t)timestamp_ms + ttl_ms;
    return at < ttl_ms || at > INT64_MAX ? INT64_MAX : (int64_t)at;
}

/* An object without a field cannot be stored: Redis has no empty hash. */
static enum record_reason fields_find(struct json *json, struct converted *out) {
    size_t len;
    int32_t count = json_list(json, &out->value, &len);
    out->value_bytes = (uint32_t)len;
    return count < 0 ? REASON_TOO_LARGE : count == 0 ? REASON_FIELD_MISSING : REASON_NONE;
}

enum record_reason convert(struct json *json, const struct convert_topic *t, const struct record_view *in,
                           struct converted *out) {
    struct key_source source = {.record = in, .topic = t->config->name};
    if (t->config->format == FORMAT_JSON && (in->head.flags & RECORD_VALUE_NULL) == 0) {
        if (json_read(json, &t->fields, in->value, in->head.value_bytes) != 0) return REASON_JSON_INVALID;
        source.fields = json_fields(json);
    }
    enum record_reason reason = operation_find(t, in, source.fields, &out->op);
    if (reason != REASON_NONE) return reason;
    reason = key_format(&t->key, &source, out->key, &out->key_bytes);
    if (reason != REASON_NONE) return reason;
    out->old_key_bytes = 0;
    out->expire_at_ms = out->op == RECORD_DELETE ? 0 : expiry(t->config->ttl_ms, in->head.timestamp_ms);
    if (out->op == RECORD_UPDATE && t->has_old_key) old_key_find(t, &source, out);
    out->value = in->value;
    out->value_bytes = in->head.value_bytes;
    return t->fields.list && out->op != RECORD_DELETE ? fields_find(json, out) : REASON_NONE;
}

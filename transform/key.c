#include "transform/key.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { DECIMAL_BYTES = 24 };

int key_plan_make(struct key_plan *plan, const char *text, struct json_plan *fields, struct err *err) {
    *plan = (struct key_plan){0};
    if (template_parse(text, &plan->template, NULL, err) != 0) return -1;
    for (uint32_t i = 0; i < plan->template.count; i++) {
        const struct template_part *part = &plan->template.part[i];
        if (part->kind == TEMPLATE_FIELD)
            plan->field[i] = json_plan_add(fields, plan->template.text + part->at, part->len);
    }
    return 0;
}

/* One part of a key: where its bytes are. text has room for a number. */
static enum record_reason part_get(const struct key_plan *plan, uint32_t i, const struct key_source *source,
                                   const uint8_t **at, size_t *len, char text[DECIMAL_BYTES]) {
    const struct template_part *part = &plan->template.part[i];
    const struct record *head = &source->record->head;
    const struct json_field *field;
    switch ((enum template_kind)part->kind) {
    case TEMPLATE_LITERAL:
        *at = (const uint8_t *)plan->template.text + part->at;
        *len = part->len;
        return REASON_NONE;
    case TEMPLATE_FIELD:
        field = source->fields != NULL ? &source->fields[plan->field[i]] : NULL;
        if (field == NULL || !field->present) return REASON_FIELD_MISSING;
        *at = field->text;
        *len = field->len;
        return REASON_NONE;
    case TEMPLATE_KEY:
        if ((head->flags & RECORD_KEY_NULL) != 0) return REASON_KEY_NULL;
        *at = source->record->kafka_key;
        *len = head->kafka_key_bytes;
        return REASON_NONE;
    case TEMPLATE_TOPIC:
        *at = (const uint8_t *)source->topic;
        *len = strlen(source->topic);
        return REASON_NONE;
    case TEMPLATE_PARTITION:
    case TEMPLATE_OFFSET:
        *at = (const uint8_t *)text;
        *len = (size_t)snprintf(text, DECIMAL_BYTES, "%" PRId64,
                                part->kind == TEMPLATE_OFFSET ? head->offset : (int64_t)head->partition);
        return REASON_NONE;
    case TEMPLATE_KIND_COUNT: break;
    }
    CHECK(!"a template part of a known kind");
}

enum record_reason key_format(const struct key_plan *plan, const struct key_source *source,
                              uint8_t out[REDIS_KEY_BYTES_MAX], uint32_t *len) {
    uint32_t used = 0;
    enum record_reason reason = REASON_NONE;
    for (uint32_t i = 0; i < plan->template.count; i++) {
        const uint8_t *at = NULL;
        size_t n = 0;
        char text[DECIMAL_BYTES];
        enum record_reason missing = part_get(plan, i, source, &at, &n, text);
        if (missing != REASON_NONE) return missing;
        if (n > REDIS_KEY_BYTES_MAX - used) {
            reason = REASON_KEY_LONG; /* a part that is missing further on is the better reason */
            n = REDIS_KEY_BYTES_MAX - used;
        }
        if (n > 0) memcpy(out + used, at, n);
        used += (uint32_t)n;
    }
    if (reason == REASON_NONE && used == 0) reason = REASON_KEY_EMPTY;
    *len = used;
    return reason;
}

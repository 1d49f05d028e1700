/* Redis keys from templates. */
#ifndef MILLRACE_TRANSFORM_KEY_H
#define MILLRACE_TRANSFORM_KEY_H

#include <stddef.h>
#include <stdint.h>

#include "base/template.h"
#include "shm/record.h"
#include "transform/json.h"

struct key_plan {
    struct template template;
    uint32_t field[TEMPLATE_PARTS_MAX]; /* of a TEMPLATE_FIELD part: its index in the topic's json_plan */
};

/* key_plan_make parses the template and enters its fields into fields. text must outlive the plan's use of fields.
 * Returns 0, or -1 with err (EX_CONFIG). */
int key_plan_make(struct key_plan *plan, const char *text, struct json_plan *fields, struct err *err);

struct key_source { /* what a record's key is made of */
    const struct record_view *record;
    const char *topic;
    const struct json_field *fields; /* by the topic's json_plan; NULL: the record has none */
};

/* key_format writes the key to out and its length to *len.
 * Returns REASON_NONE, REASON_KEY_NULL ({$key} of a record without key), REASON_FIELD_MISSING, REASON_KEY_LONG,
 * or REASON_KEY_EMPTY; the first two in the order of the template's parts. */
enum record_reason key_format(const struct key_plan *plan, const struct key_source *source,
                              uint8_t out[REDIS_KEY_BYTES_MAX], uint32_t *len);

#endif

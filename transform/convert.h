/* What a record means: operation, Redis keys, expiry, or the reason why it cannot be handled.
 * Depends on the record and the configuration alone, never on the clock: a repeat comes out the same. */
#ifndef MILLRACE_TRANSFORM_CONVERT_H
#define MILLRACE_TRANSFORM_CONVERT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "shm/record.h"
#include "transform/json.h"
#include "transform/key.h"

struct convert_topic { /* one topic's configuration, prepared */
    const struct config_topic *config;
    struct key_plan key, old_key;
    struct json_plan fields;
    uint32_t operation_field; /* index in fields */
    bool has_operation, has_operation_field, has_old_key;
    unsigned value_flags; /* of transform/value.h; 0: stored as it came */
};

struct converted {     /* filled by convert when it returns REASON_NONE */
    enum record_op op; /* RECORD_ADD, RECORD_UPDATE or RECORD_DELETE */
    uint32_t key_bytes;
    uint32_t old_key_bytes; /* 0: the key does not change */
    uint32_t value_bytes;   /* of an add or update */
    const uint8_t *value;   /* of the record, or in the JSON reader: a list of fields */
    int64_t expire_at_ms;   /* 0: never */
    uint8_t key[REDIS_KEY_BYTES_MAX];
    uint8_t old_key[REDIS_KEY_BYTES_MAX];
};

/* convert_topic_init prepares a topic. config must outlive it. Returns 0, or -1 with err (EX_CONFIG). */
int convert_topic_init(struct convert_topic *t, const struct config_topic *config, struct err *err);

/* convert looks at a record as ingest published it. Checks in this order: JSON, operation, key, fields of a hash; the
 * first that fails is the reason. Returns REASON_NONE or why the record is rejected. */
enum record_reason convert(struct json *json, const struct convert_topic *t, const struct record_view *in,
                           struct converted *out);

#endif

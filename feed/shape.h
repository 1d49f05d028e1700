/* Rows into records: what a row of a file becomes as a record of a topic, and the Redis key it will have, found by the
 * code with which the pipeline finds it. A row that the pipeline would reject is refused here. */
#ifndef MILLRACE_FEED_SHAPE_H
#define MILLRACE_FEED_SHAPE_H

#include <stdbool.h>

#include "base/config.h"
#include "feed/feed.h"
#include "feed/rows.h"
#include "shm/record.h"

struct shape_settings {
    const struct config_topic *topic; /* outlives the shape */
    enum rows_format format;
    enum record_op operation; /* RECORD_ADD, _UPDATE, _DELETE; RECORD_RAW: none was asked for, which is an add */
    const char *key;          /* of the Kafka key: the name of a field or a template; "": the Redis key is it */
    uint64_t max_message;     /* bytes of Kafka key and value, [1, ROW_BYTES_MAX] */
};

struct shape;

enum shape_result {
    SHAPE_OK,
    SHAPE_BAD,       /* why: the pipeline would reject it, or it has no Kafka key */
    SHAPE_OVERSIZED, /* larger than max_message */
};

struct shaped { /* valid until the next shape_row */
    struct feed_record record;
    const uint8_t *redis_key;
    uint32_t redis_key_bytes; /* 0: it depends on where the record will stand in Kafka */
};

/* shape_new returns NULL with err: EX_USAGE (an operation that the topic does not take or cannot express, a key that is
 * missing or cannot be known before the record is in Kafka), EX_OSERR. */
struct shape *shape_new(const struct shape_settings *s, struct err *err);
void shape_free(struct shape *s);

/* The column that CSV rows get beside their own, for rows_open; NULL: none. */
const char *shape_added_column(const struct shape *s, const char **value);

/* Whether Redis keys are known (see shaped). */
bool shape_knows_keys(const struct shape *s);

/* why: of SHAPE_BAD, with its line. */
enum shape_result shape_row(struct shape *s, const struct row *row, struct shaped *out, struct err *why);

#endif

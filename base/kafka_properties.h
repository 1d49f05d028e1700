/* Which of librdkafka's properties a configuration may set: an allow-list (kafka_properties.def), so that no release of
 * librdkafka can add a way to run programs or load code behind the operator's back. */
#ifndef MILLRACE_BASE_KAFKA_PROPERTIES_H
#define MILLRACE_BASE_KAFKA_PROPERTIES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum kafka_property_kind {
    PROPERTY_INT,
    PROPERTY_BOOL,
    PROPERTY_WORD,
    PROPERTY_EXACT,
    PROPERTY_LIST,
    PROPERTY_TEXT,
    PROPERTY_SECRET,
    PROPERTY_ALIAS,
    PROPERTY_REFUSED,
};

struct kafka_property {
    const char *name;
    enum kafka_property_kind kind;
    int64_t min, max;
    const char *words;   /* separated by `|`; of an alias the name it stands for */
    const char *refused; /* a word that librdkafka knows and millrace refuses, or NULL */
    const char *why;     /* of what is refused */
};

/* kafka_property_find returns the row of name with aliases resolved, or NULL when there is none. The caller looks at
 * kind for PROPERTY_REFUSED. */
const struct kafka_property *kafka_property_find(const char *name);

/* kafka_property_at returns the i-th row in the order of the table, aliases as they are; NULL behind the last. */
const struct kafka_property *kafka_property_at(size_t i);

/* kafka_property_nearest returns the name of the allowed property that is spelled most like name. Never NULL. */
const char *kafka_property_nearest(const char *name);

/* kafka_property_check checks a value against its row. Returns 0, or -1 with err.text (without the property's name; a
 * secret is never repeated). */
int kafka_property_check(const struct kafka_property *p, const char *value, struct err *err);

#endif

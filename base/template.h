/* Template of a Redis key: "card:{account}:{card_no}" as a list of literals and parts to be filled in per record.
 *
 *   {field}      the text of a top-level field of the JSON value
 *   {$key}       the Kafka key     {$topic} {$partition} {$offset}  where the record stands in Kafka
 *   {{ and }}    the braces themselves */
#ifndef MILLRACE_BASE_TEMPLATE_H
#define MILLRACE_BASE_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/limits.h"

enum { TEMPLATE_PARTS_MAX = 32 };

enum template_kind {
    TEMPLATE_LITERAL, /* text[at, at + len) as it stands */
    TEMPLATE_FIELD,   /* text[at, at + len) is the name of the field */
    TEMPLATE_KEY,     /* the others have no text */
    TEMPLATE_TOPIC,
    TEMPLATE_PARTITION,
    TEMPLATE_OFFSET,
    TEMPLATE_KIND_COUNT
};

struct template_part {
    uint16_t kind;    /* enum template_kind */
    uint16_t at, len; /* in text; len is 0 for the kinds without text, never for the others */
};

struct template {
    uint32_t count; /* [1, TEMPLATE_PARTS_MAX] after template_parse */
    struct template_part part[TEMPLATE_PARTS_MAX];
    char text[TEMPLATE_BYTES]; /* literals without their doubled braces, and names; not terminated part by part */
};

/* template_parse reads text (NUL-terminated) into *out. Anyone; no allocation.
 * Returns 0, or -1 with err.code EX_CONFIG and *at (when not NULL) the byte of text where the mistake is: empty text,
 * longer than TEMPLATE_BYTES - 1, a brace without its partner, an empty or nested name, an unknown {$word}, too many
 * parts, a NUL or control character. */
int template_parse(const char *text, struct template *out, size_t *at, struct err *err);

/* template_has tells whether any part is of that kind. */
bool template_has(const struct template *t, enum template_kind kind);

#endif

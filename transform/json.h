/* JSON records: the whole text is validated, and the top-level fields that templates name are picked out.
 *
 * Valid means RFC 8259, strict UTF-8 (no overlong forms, no surrogates), one object with nothing but blanks around it,
 * nested at most JSON_DEPTH_MAX deep. Of a name that is there twice the last one counts. */
#ifndef MILLRACE_TRANSFORM_JSON_H
#define MILLRACE_TRANSFORM_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/limits.h"
#include "base/template.h"

enum { JSON_FIELDS_MAX = 2 * TEMPLATE_PARTS_MAX + 1 }; /* of key, old key and operation */

/* The names that are wanted of one topic's records. Points into configuration and templates. */
struct json_plan {
    bool list; /* all of them are, for json_list */
    uint32_t count;
    struct {
        const char *name;
        size_t len;
    } want[JSON_FIELDS_MAX];
};

/* json_plan_add adds a name unless it is there. Returns its index. At most JSON_FIELDS_MAX different names. */
uint32_t json_plan_add(struct json_plan *plan, const char *name, size_t len);

/* A field as found: strings without quotes and escapes, numbers as written, true and false. */
struct json_field {
    bool present;        /* false: absent, null, an object or an array */
    uint32_t len;        /* of a string with escapes at most REDIS_KEY_BYTES_MAX + 1: what is longer makes no key */
    const uint8_t *text; /* in the record or in the reader; valid until the next json_read */
};

struct json; /* the reader: the parser's memory, taken once */

/* json_new makes a reader for texts of up to len_max bytes. Returns NULL with err (EX_OSERR). */
struct json *json_new(size_t len_max, struct err *err);
void json_free(struct json *j);

/* json_read validates text[0, len) and finds the plan's fields: field[i] is that of plan->want[i].
 * Returns 0, or -1 when the text is not valid as above, or a wanted string has half a surrogate pair (no UTF-8 text is
 * its value); with `list`, every top-level name and string is wanted. Does not allocate. */
int json_read(struct json *j, const struct json_plan *plan, const uint8_t *text, size_t len);
const struct json_field *json_fields(const struct json *j);

/* json_list gives, after json_read with a plan whose `list` is set, the object's top-level names and values as the list
 * of shm/record.h (RECORD_VALUE_FIELDS): strings without quotes and escapes, numbers as written, true and false,
 * objects and arrays as they stand in the record, null left out. *len gets its bytes; valid until the next json_read.
 * Returns the count of fields, or -1 when the object has more than HASH_FIELDS_MAX names. */
int32_t json_list(struct json *j, const uint8_t **list, size_t *len);

#endif

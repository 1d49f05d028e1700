/* What config_parse.c (reading the YAML) leaves for config_validate.c (what holds between keys): the draft, and where
 * in the file each of its values stands. */
#ifndef MILLRACE_BASE_CONFIG_READER_H
#define MILLRACE_BASE_CONFIG_READER_H

#include <yaml.h>

#include "base/config_keys.h"

struct scope { /* one mapping with a table: the file, the defaults, or a topic */
    const struct config_key *keys;
    size_t count;
    void *base;     /* what the table's offsets refer to */
    char label[32]; /* "" or "defaults." or "topics[3]." */
    yaml_mark_t start;
    bool seen[CONFIG_KEYS_MAX];
    yaml_mark_t where[CONFIG_KEYS_MAX]; /* of the value; valid where seen */
};

struct reader {
    const char *file;
    struct err *err;
    yaml_document_t *document;
    struct config_draft *draft;
    struct scope root, defaults, topic[TOPICS_MAX];
    yaml_mark_t kafka_start, property_where[KAFKA_PROPERTIES_MAX], group_where, session_where;
    bool property_inline[KAFKA_PROPERTIES_MAX]; /* a secret written in the file itself */
    bool kafka_seen, group_seen, session_seen;
};

/* reader_complain fills err with "FILE:LINE:COLUMN: message". Returns -1. */
int reader_complain(struct reader *r, yaml_mark_t at, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Index of the row called name, which is there. */
size_t scope_index(const struct scope *s, const char *name);
static inline bool scope_has(const struct scope *s, const char *name) { return s->seen[scope_index(s, name)]; }
static inline yaml_mark_t scope_where(const struct scope *s, const char *name) {
    size_t i = scope_index(s, name);
    return s->seen[i] ? s->where[i] : s->start;
}

/* config_warn writes a line per doubtful setting to out. After config_complete. */
void config_warn(const struct reader *r, FILE *out);

/* config_complete fills in defaults, checks what is required and what must hold between keys, and reads the secret file
 * of Redis. Returns 0 or -1 after reader_complain. */
int config_complete(struct reader *r);

#endif

/* The table of configuration keys (config.def) as data, and the texts of single values. For the parser, the printer and
 * the reference only. */
#ifndef MILLRACE_BASE_CONFIG_KEYS_H
#define MILLRACE_BASE_CONFIG_KEYS_H

#include "base/config.h"

/* A configuration with what is written in the file and does not reach the workers. */
struct config_draft {
    struct config config;
    uint32_t config_version;
    char redis_url[VALUE_BYTES];
    char redis_password_file[PATH_BYTES];
    struct config_topic defaults;
};

enum config_type {
    TYPE_VERSION, /* a COUNT with a message of its own */
    TYPE_NAME,    /* [a-z0-9][a-z0-9._-]* */
    TYPE_LABEL,   /* the same with upper case */
    TYPE_TOPIC,   /* what Kafka allows */
    TYPE_TEXT,
    TYPE_PATH,
    TYPE_SECRET, /* text never shown */
    TYPE_URL,    /* text shown without user and password */
    TYPE_TEMPLATE,
    TYPE_COUNT,
    TYPE_SIZE,
    TYPE_SIZE2, /* a power of two */
    TYPE_DURATION,
    TYPE_BOOL,
    TYPE_WORD,
    TYPE_PARTITIONS,
    TYPE_CPUS, /* struct config_cpus; max: how many sets */
    TYPE_SECTION,
    TYPE_LATER,
};

struct config_key {
    const char *name; /* dotted */
    enum config_type type;
    uint32_t offset, size; /* of the field */
    uint64_t min, max;
    const char *words;
    const char *initial; /* default as written; NULL required */
    const char *help;
};

enum { CONFIG_KEYS_MAX = 96 }; /* of one table */

extern const struct config_key config_keys[];       /* offsets in struct config_draft */
extern const struct config_key config_topic_keys[]; /* offsets in struct config_topic */
extern const size_t config_key_count, config_topic_key_count;

/* config_value_parse reads text into the key's field of *base. Any type but PARTITIONS, CPUS, SECTION, LATER.
 * Returns 0, or -1 with err.text saying what was found and what is expected, without the key's name, and *at (when not
 * NULL) the byte of text it is about. Secrets are never repeated. */
int config_value_parse(const struct config_key *key, const char *text, void *base, size_t *at, struct err *err);

/* config_value_format writes the field as it would be written in the file, unquoted. Same types. Truncates. */
void config_value_format(const struct config_key *key, const void *base, char *out, size_t size);

/* config_range_format writes what the key accepts, for people: "1 to 16 lanes", "`raw` or `json`". "" for texts. */
void config_range_format(const struct config_key *key, char *out, size_t size);

static inline bool config_type_text(enum config_type t) { return t >= TYPE_NAME && t <= TYPE_TEMPLATE; }

/* config_quote copies up to 60 bytes of text for a message, control characters as '?'. Returns out. */
enum { CONFIG_QUOTE_BYTES = 72 };
const char *config_quote(const char *text, char out[CONFIG_QUOTE_BYTES]);

/* name_distance is 0 for equal names, 1 when the known one begins with what was written, else the number of insertions,
 * deletions, replacements and swaps of neighbours between them. Of longer names it compares the first 127 bytes. */
unsigned name_distance(const char *written, const char *known);

#endif

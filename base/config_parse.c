/* Reading the YAML file: every key and value by itself. What must hold between them is config_validate.c. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/config_reader.h"
#include "base/config_text.h"
#include "base/kafka_properties.h"

enum { FILE_BYTES_MAX = 1 << 20, SCALAR_BYTES = 4096, KEY_NAME_BYTES = 160 };

int reader_complain(struct reader *r, yaml_mark_t at, const char *format, ...) {
    char text[sizeof r->err->text];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return err_set(r->err, EX_CONFIG, "%s:%zu:%zu: %s", r->file, at.line + 1, at.column + 1, text);
}

size_t scope_index(const struct scope *s, const char *name) {
    for (size_t i = 0; i < s->count; i++)
        if (strcmp(s->keys[i].name, name) == 0) return i;
    CHECK(!"a row of config.def");
    return 0;
}

/* -- scalars ----------------------------------------------------------------------------------- */

static const char *node_kind(const yaml_node_t *n) {
    return n->type == YAML_MAPPING_NODE    ? "keys of its own"
           : n->type == YAML_SEQUENCE_NODE ? "a list"
                                           : "a single value";
}

/* The place of byte `at` of the scalar's text, when the file has the text as it is; else where the scalar starts. */
static yaml_mark_t scalar_mark(const yaml_node_t *n, size_t at) {
    yaml_mark_t m = n->start_mark;
    const char *text = (const char *)n->data.scalar.value;
    size_t characters = 0, before = 0, quotes = n->data.scalar.style == YAML_PLAIN_SCALAR_STYLE ? 0 : 2;
    for (size_t i = 0; i < n->data.scalar.length; i++) {
        bool first = (text[i] & 0xc0) != 0x80;
        characters += first;
        before += first && i < at;
    }
    if (n->end_mark.line == m.line && n->end_mark.index - m.index == characters + quotes && at > 0)
        m.column += quotes / 2 + before;
    return m;
}

/* The text of a single value with ${NAME} filled in. name: of the key, for messages. */
static int scalar_read(struct reader *r, const yaml_node_t *n, const char *name, char out[SCALAR_BYTES]) {
    struct err err = {0};
    size_t at = 0;
    if (n->type != YAML_SCALAR_NODE)
        return reader_complain(r, n->start_mark, "%s: expected a single value, found %s", name, node_kind(n));
    const char *text = (const char *)n->data.scalar.value;
    if (strlen(text) != n->data.scalar.length) return reader_complain(r, n->start_mark, "%s: contains a NUL", name);
    if (n->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
        (text[0] == 0 || strcmp(text, "~") == 0 || strcmp(text, "null") == 0))
        return reader_complain(r, n->start_mark, "%s: has no value", name);
    if (config_expand(text, out, SCALAR_BYTES, &at, &err) != 0)
        return reader_complain(r, scalar_mark(n, at), "%s: %s", name, err.text);
    return 0;
}

static int value_read(struct reader *r, struct scope *s, size_t index, const yaml_node_t *n) {
    const struct config_key *key = &s->keys[index];
    char text[SCALAR_BYTES], name[KEY_NAME_BYTES];
    struct err err = {0};
    size_t at = 0;
    snprintf(name, sizeof name, "%s%s", s->label, key->name);
    if (scalar_read(r, n, name, text) != 0) return -1;
    int failed = config_value_parse(key, text, s->base, &at, &err);
    if (failed) {
        bool as_written = strcmp(text, (const char *)n->data.scalar.value) == 0;
        reader_complain(r, scalar_mark(n, as_written ? at : 0), "%s: %s", name, err.text);
    }
    explicit_bzero(text, sizeof text);
    return failed ? -1 : 0;
}

/* -- partitions -------------------------------------------------------------------------------- */

static int partition_add(struct reader *r, struct config_topic *t, const yaml_node_t *n, const char *name, long first,
                         long last) {
    enum { MOST = sizeof t->partitions / sizeof t->partitions[0] };
    for (long p = first; p <= last; p++) {
        uint32_t i = t->partition_count;
        if (i == MOST)
            return reader_complain(r, n->start_mark, "%s: at most %d partitions of a topic can be listed", name, MOST);
        for (; i > 0 && t->partitions[i - 1] > p; i--) t->partitions[i] = t->partitions[i - 1];
        if (i > 0 && t->partitions[i - 1] == p)
            return reader_complain(r, n->start_mark, "%s: %ld is listed twice", name, p);
        t->partitions[i] = (int32_t)p;
        t->partition_count++;
    }
    return 0;
}

/* One item: "5", or a range "0-7". */
static int partition_item_read(struct reader *r, struct config_topic *t, const yaml_node_t *n, const char *name) {
    char text[SCALAR_BYTES], quote[CONFIG_QUOTE_BYTES], *end;
    if (scalar_read(r, n, name, text) != 0) return -1;
    long first = strtol(text, &end, 10), last = first;
    bool ok = text[0] >= '0' && text[0] <= '9';
    if (ok && end[0] == '-' && end[1] >= '0' && end[1] <= '9') last = strtol(end + 1, &end, 10);
    if (!ok || *end != 0 || first > last || last > INT32_MAX)
        return reader_complain(r, n->start_mark,
                               "%s: found \"%s\", expected a partition such as 5 or a range such as 0-7", name,
                               config_quote(text, quote));
    return partition_add(r, t, n, name, first, last);
}

static int partitions_read(struct reader *r, struct scope *s, const yaml_node_t *n) {
    struct config_topic *t = s->base;
    char name[KEY_NAME_BYTES];
    snprintf(name, sizeof name, "%spartitions", s->label);
    if (n->type == YAML_SCALAR_NODE) return partition_item_read(r, t, n, name);
    if (n->type == YAML_MAPPING_NODE)
        return reader_complain(r, n->start_mark, "%s: expected a list such as [0, 1, 5] or \"0-7\", found %s", name,
                               node_kind(n));
    yaml_node_item_t *i = n->data.sequence.items.start, *end = n->data.sequence.items.top;
    if (i == end) return reader_complain(r, n->start_mark, "%s: the list is empty", name);
    for (; i < end; i++)
        if (partition_item_read(r, t, yaml_document_get_node(r->document, *i), name) != 0) return -1;
    return 0;
}

/* -- processors -------------------------------------------------------------------------------- */

static int cpus_set_read(struct reader *r, struct config_cpus *c, const yaml_node_t *n, const char *name) {
    char text[SCALAR_BYTES], quote[CONFIG_QUOTE_BYTES];
    struct err err = {0};
    if (scalar_read(r, n, name, text) != 0) return -1;
    if (cpus_parse(text, &c->set[c->count], &err) != 0)
        return reader_complain(r, n->start_mark, "%s: found \"%s\", %s", name, config_quote(text, quote), err.text);
    c->count++;
    return 0;
}

static int cpus_read(struct reader *r, struct scope *s, size_t index, const yaml_node_t *n) {
    const struct config_key *key = &s->keys[index];
    struct config_cpus *c = (struct config_cpus *)(void *)((char *)s->base + key->offset);
    if (n->type == YAML_SCALAR_NODE || key->max == 1) return cpus_set_read(r, c, n, key->name);
    if (n->type == YAML_MAPPING_NODE)
        return reader_complain(r, n->start_mark,
                               "%s: expected processors such as \"2-3\" or a list [\"2\", \"3\"], found %s", key->name,
                               node_kind(n));
    yaml_node_item_t *i = n->data.sequence.items.start, *end = n->data.sequence.items.top;
    if (i == end) return reader_complain(r, n->start_mark, "%s: the list is empty", key->name);
    if ((uint64_t)(end - i) > key->max)
        return reader_complain(r, n->start_mark, "%s: at most %d sets", key->name, LANES_MAX);
    for (; i < end; i++)
        if (cpus_set_read(r, c, yaml_document_get_node(r->document, *i), key->name) != 0) return -1;
    return 0;
}

/* A key is a word, not a list, and nothing hides behind a NUL. */
static int key_check(struct reader *r, const yaml_node_t *n) {
    if (n->type == YAML_SCALAR_NODE && strlen((const char *)n->data.scalar.value) == n->data.scalar.length) return 0;
    return reader_complain(r, n->start_mark, "a key must be a single word");
}

/* -- kafka ------------------------------------------------------------------------------------- */

static int property_unknown(struct reader *r, const yaml_node_t *key, const char *name,
                            const struct kafka_property *base) {
    char quote[CONFIG_QUOTE_BYTES];
    config_quote(name, quote);
    if (base != NULL && base->kind != PROPERTY_REFUSED)
        return reader_complain(r, key->start_mark, "kafka.%s: %s is not a secret; write it without _file", quote,
                               base->name);
    return reader_complain(r, key->start_mark, "unknown Kafka property %s; did you mean %s?", quote,
                           kafka_property_nearest(name));
}

/* Finds the row for a key, with or without _file. NULL after a complaint. */
static const struct kafka_property *property_of(struct reader *r, const yaml_node_t *key, const char *name,
                                                bool *from_file) {
    char base[NAME_BYTES] = "";
    size_t len = strlen(name);
    const struct kafka_property *p = kafka_property_find(name);
    *from_file = p == NULL && len > 5 && len < sizeof base && strcmp(name + len - 5, "_file") == 0;
    if (*from_file) {
        memcpy(base, name, len - 5);
        p = kafka_property_find(base);
    }
    if (p == NULL || (*from_file && p->kind != PROPERTY_SECRET)) {
        property_unknown(r, key, name, p);
        return NULL;
    }
    if (p->kind != PROPERTY_REFUSED) return p;
    reader_complain(r, key->start_mark, "kafka.%s is refused: %s", name, p->why);
    return NULL;
}

/* Stores a checked value where it belongs; false when that property has been set before. */
static bool property_store(struct reader *r, const struct kafka_property *p, const char *value, bool from_file,
                           yaml_mark_t at) {
    struct config *c = &r->draft->config;
    if (strcmp(p->name, "group.id") == 0) {
        bool first = !r->group_seen;
        r->group_seen = true;
        r->group_where = at;
        memcpy(c->kafka.group_id, value, strlen(value) + 1); /* the caller has compared the lengths */
        return first;
    }
    if (strcmp(p->name, "session.timeout.ms") == 0) {
        bool first = !r->session_seen;
        r->session_seen = true;
        r->session_where = at;
        c->kafka.session_timeout_ms = (uint32_t)strtoul(value, NULL, 10);
        return first;
    }
    for (uint32_t i = 0; i < c->kafka.property_count; i++)
        if (strcmp(c->kafka.property[i].name, p->name) == 0) return false;
    r->property_where[c->kafka.property_count] = at;
    r->property_inline[c->kafka.property_count] = p->kind == PROPERTY_SECRET && !from_file;
    struct config_property *out = &c->kafka.property[c->kafka.property_count++];
    snprintf(out->name, sizeof out->name, "%s", p->name);
    snprintf(out->value, sizeof out->value, "%s", value);
    out->secret = p->kind == PROPERTY_SECRET;
    return true;
}

/* text: the value, or the path of the file that holds it. */
static int property_take(struct reader *r, const struct kafka_property *p, const char *name, const char *text,
                         bool from_file, const yaml_node_t *value) {
    char secret[VALUE_BYTES] = "";
    struct err err = {0};
    size_t size = strcmp(p->name, "group.id") == 0 ? TOPIC_BYTES : VALUE_BYTES;
    int result = 0;
    if (kafka_property_check(p, text, &err) != 0 ||
        (from_file && config_secret_read(text, secret, sizeof secret, &err) != 0))
        result = reader_complain(r, value->start_mark, "%s: %s", name, err.text);
    else if (strlen(text) >= size)
        result = reader_complain(r, value->start_mark, "%s: is longer than %zu bytes", name, size - 1);
    else if (!property_store(r, p, from_file ? secret : text, from_file, value->start_mark))
        result = reader_complain(r, value->start_mark, "%s: %s is set twice", name, p->name);
    explicit_bzero(secret, sizeof secret);
    return result;
}

static int property_read(struct reader *r, const yaml_node_t *key, const yaml_node_t *value) {
    char name[KEY_NAME_BYTES], text[SCALAR_BYTES] = "", quote[CONFIG_QUOTE_BYTES];
    const char *written = (const char *)key->data.scalar.value;
    bool from_file;
    const struct kafka_property *p = property_of(r, key, written, &from_file);
    if (p == NULL) return -1;
    if (r->draft->config.kafka.property_count == KAFKA_PROPERTIES_MAX)
        return reader_complain(r, key->start_mark, "kafka: at most %d properties", KAFKA_PROPERTIES_MAX);
    snprintf(name, sizeof name, "kafka.%s", config_quote(written, quote));
    int result = scalar_read(r, value, name, text);
    if (result == 0) result = property_take(r, p, name, text, from_file, value);
    explicit_bzero(text, sizeof text);
    return result;
}

static int kafka_read(struct reader *r, const yaml_node_t *n) {
    r->kafka_start = n->start_mark;
    r->kafka_seen = true;
    if (n->type != YAML_MAPPING_NODE)
        return reader_complain(r, n->start_mark, "kafka: expected properties of librdkafka, found %s", node_kind(n));
    for (yaml_node_pair_t *i = n->data.mapping.pairs.start; i < n->data.mapping.pairs.top; i++) {
        const yaml_node_t *key = yaml_document_get_node(r->document, i->key);
        if (key_check(r, key) != 0 || property_read(r, key, yaml_document_get_node(r->document, i->value)) != 0)
            return -1;
    }
    return 0;
}

/* -- keys and sections ------------------------------------------------------------------------- */

/* The row whose name is most like `name`, or whose last part is exactly `leaf`. */
static const char *key_nearest(const struct scope *s, const char *name, const char *leaf) {
    const char *nearest = s->keys[0].name;
    unsigned best = UINT32_MAX;
    for (size_t i = 0; i < s->count; i++) {
        const char *dot = strrchr(s->keys[i].name, '.');
        unsigned d = name_distance(name, s->keys[i].name);
        if (dot != NULL && strcmp(dot + 1, leaf) == 0 && d > 1) d = 1; /* the right key in the wrong place */
        if (s->keys[i].type == TYPE_LATER || d >= best) continue;
        best = d;
        nearest = s->keys[i].name;
    }
    return nearest;
}

static int key_unknown(struct reader *r, const struct scope *s, const yaml_node_t *key, const char *name) {
    char quote[CONFIG_QUOTE_BYTES];
    const char *leaf = (const char *)key->data.scalar.value, *nearest = key_nearest(s, name, leaf);
    if (strcmp(name, nearest) == 0) /* dots in the file where sections belong */
        return reader_complain(r, key->start_mark, "%s%s: write a section %.*s: with %s: below it", s->label, name,
                               (int)(strrchr(name, '.') - name), name, strrchr(name, '.') + 1);
    return reader_complain(r, key->start_mark, "unknown key %s%s; did you mean %s%s?", s->label,
                           config_quote(name, quote), s->label, nearest);
}

static int mapping_read(struct reader *r, struct scope *s, const yaml_node_t *n, const char *prefix);

static int defaults_read(struct reader *r, const yaml_node_t *n) {
    static const char *const own[] = {"name", "key", "partitions"};
    struct scope *s = &r->defaults;
    *s = (struct scope){.keys = config_topic_keys,
                        .count = config_topic_key_count,
                        .base = &r->draft->defaults,
                        .label = "defaults.",
                        .start = n->start_mark};
    if (mapping_read(r, s, n, "") != 0) return -1;
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        if (scope_has(s, own[i]))
            return reader_complain(r, scope_where(s, own[i]), "defaults.%s: belongs to each topic", own[i]);
    return 0;
}

static int topics_read(struct reader *r, const yaml_node_t *n) {
    struct config *c = &r->draft->config;
    if (n->type != YAML_SEQUENCE_NODE)
        return reader_complain(r, n->start_mark, "topics: expected a list, found %s", node_kind(n));
    yaml_node_item_t *i = n->data.sequence.items.start, *end = n->data.sequence.items.top;
    if (i == end) return reader_complain(r, n->start_mark, "topics: the list is empty");
    for (; i < end; i++) {
        const yaml_node_t *item = yaml_document_get_node(r->document, *i);
        if (c->topic_count == TOPICS_MAX) return reader_complain(r, item->start_mark, "topics: at most %d", TOPICS_MAX);
        struct scope *s = &r->topic[c->topic_count];
        *s = (struct scope){.keys = config_topic_keys,
                            .count = config_topic_key_count,
                            .base = &c->topic[c->topic_count],
                            .start = item->start_mark};
        snprintf(s->label, sizeof s->label, "topics[%u].", c->topic_count);
        c->topic_count++;
        if (mapping_read(r, s, item, "") != 0) return -1;
    }
    return 0;
}

static int section_read(struct reader *r, struct scope *s, const char *name, const yaml_node_t *n) {
    char prefix[KEY_NAME_BYTES];
    if (s == &r->root && strcmp(name, "kafka") == 0) return kafka_read(r, n);
    if (s == &r->root && strcmp(name, "topics") == 0) return topics_read(r, n);
    if (s == &r->root && strcmp(name, "defaults") == 0) return defaults_read(r, n);
    snprintf(prefix, sizeof prefix, "%s.", name);
    return mapping_read(r, s, n, prefix);
}

static int pair_read(struct reader *r, struct scope *s, const yaml_node_t *key, const yaml_node_t *value,
                     const char *prefix) {
    char name[KEY_NAME_BYTES];
    if (key_check(r, key) != 0) return -1;
    const char *written = (const char *)key->data.scalar.value;
    snprintf(name, sizeof name, "%s%s", prefix, written);
    size_t i = 0;
    while (i < s->count && strcmp(s->keys[i].name, name) != 0) i++;
    if (i == s->count || strchr(written, '.') != NULL) return key_unknown(r, s, key, name);
    if (s->keys[i].type == TYPE_LATER)
        return reader_complain(r, key->start_mark, "%s%s is not available in this version", s->label, name);
    if (s->seen[i]) return reader_complain(r, key->start_mark, "%s%s is there twice", s->label, name);
    s->seen[i] = true;
    s->where[i] = value->start_mark;
    if (s->keys[i].type == TYPE_SECTION) return section_read(r, s, s->keys[i].name, value);
    if (s->keys[i].type == TYPE_PARTITIONS) return partitions_read(r, s, value);
    if (s->keys[i].type == TYPE_CPUS) return cpus_read(r, s, i, value);
    return value_read(r, s, i, value);
}

/* prefix: "" or "section.", the part of the table that this mapping holds. Depth is bounded by the table's. */
static int mapping_read(struct reader *r, struct scope *s, const yaml_node_t *n, const char *prefix) {
    if (n->type != YAML_MAPPING_NODE) {
        char name[KEY_NAME_BYTES];
        int len = snprintf(name, sizeof name, "%s%s", s->label, prefix);
        if (len > 0 && (size_t)len < sizeof name) name[len - 1] = 0; /* the last dot */
        return reader_complain(r, n->start_mark, "%s%sexpected keys and values, found %s", name, len > 0 ? ": " : "",
                               node_kind(n));
    }
    for (yaml_node_pair_t *i = n->data.mapping.pairs.start; i < n->data.mapping.pairs.top; i++)
        if (pair_read(r, s, yaml_document_get_node(r->document, i->key), yaml_document_get_node(r->document, i->value),
                      prefix) != 0)
            return -1;
    return 0;
}

/* -- the file ---------------------------------------------------------------------------------- */

/* The version stands first, so that a program that does not know it can say so before it trips over the rest. */
static int version_first(struct reader *r, const yaml_node_t *root) {
    if (root->type == YAML_MAPPING_NODE && root->data.mapping.pairs.start < root->data.mapping.pairs.top) {
        const yaml_node_t *key = yaml_document_get_node(r->document, root->data.mapping.pairs.start->key);
        if (key->type == YAML_SCALAR_NODE && strcmp((const char *)key->data.scalar.value, "config_version") == 0)
            return 0;
    }
    return reader_complain(r, root->start_mark, "config_version: 1 must be the first key");
}

static int document_read(struct reader *r) {
    yaml_node_t *root = yaml_document_get_root_node(r->document);
    if (root == NULL)
        return reader_complain(r, (yaml_mark_t){0}, "the file is empty; config_version: 1 must be the first key");
    r->root =
        (struct scope){.keys = config_keys, .count = config_key_count, .base = r->draft, .start = root->start_mark};
    if (version_first(r, root) != 0 || mapping_read(r, &r->root, root, "") != 0) return -1;
    return config_complete(r);
}

static int syntax_error(struct reader *r, const yaml_parser_t *y) {
    yaml_mark_t at = y->problem_mark;
    const char *problem = y->problem != NULL ? y->problem : "out of memory", *context = y->context;
    if (y->error == YAML_READER_ERROR) { /* has an offset in bytes only */
        const unsigned char *text = y->input.string.start;
        at = (yaml_mark_t){0};
        for (size_t i = 0; i < y->problem_offset; i++) {
            at.column = text[i] == '\n' ? 0 : at.column + 1;
            at.line += text[i] == '\n';
        }
    }
    return reader_complain(r, at, "%s%s%s", problem, context != NULL ? " " : "", context != NULL ? context : "");
}

static int second_document(struct reader *r, yaml_parser_t *y) {
    yaml_document_t more;
    if (!yaml_parser_load(y, &more)) return syntax_error(r, y);
    yaml_node_t *root = yaml_document_get_root_node(&more);
    int result = root == NULL
                     ? 0
                     : reader_complain(r, root->start_mark, "one file holds one configuration; this is a second one");
    yaml_document_delete(&more);
    return result;
}

static int text_load(const char *text, size_t len, const char *name, struct config *out, FILE *warnings,
                     struct err *err) {
    struct err ignored;
    struct reader *r = calloc(1, sizeof *r);
    struct config_draft *draft = calloc(1, sizeof *draft);
    yaml_parser_t y;
    yaml_document_t document;
    int result = -1;
    CHECK(r != NULL && draft != NULL && yaml_parser_initialize(&y));
    *r = (struct reader){.file = name, .err = err != NULL ? err : &ignored, .document = &document, .draft = draft};
    yaml_parser_set_input_string(&y, (const unsigned char *)text, len);
    if (!yaml_parser_load(&y, &document)) {
        syntax_error(r, &y);
    } else {
        result = document_read(r) == 0 ? second_document(r, &y) : -1;
        yaml_document_delete(&document);
    }
    if (result == 0 && warnings != NULL) config_warn(r, warnings);
    if (result == 0) *out = draft->config;
    yaml_parser_delete(&y);
    explicit_bzero(draft, sizeof *draft);
    free(draft);
    free(r);
    return result;
}

int config_load_text(const char *text, size_t len, const char *name, struct config *out, struct err *err) {
    return text_load(text, len, name, out, NULL, err);
}

static ssize_t file_read(int fd, char *text) {
    size_t len = 0;
    while (len <= FILE_BYTES_MAX) {
        ssize_t n = read(fd, text + len, FILE_BYTES_MAX + 1 - len);
        if (n < 0 && errno != EINTR) return -1;
        if (n == 0) break;
        if (n > 0) len += (size_t)n;
    }
    return (ssize_t)len;
}

int config_load(const char *path, struct config *out, struct err *err) {
    return config_load_warned(path, out, NULL, err);
}

int config_load_warned(const char *path, struct config *out, FILE *warnings, struct err *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0) return err_set(err, EX_NOINPUT, "%s: %s", path, strerror(errno));
    char *text = malloc(FILE_BYTES_MAX + 1);
    CHECK(text != NULL);
    ssize_t len = file_read(fd, text);
    int result;
    if (len < 0)
        result = err_set(err, EX_NOINPUT, "%s: %s", path, strerror(errno));
    else if (len > FILE_BYTES_MAX)
        result = err_set(err, EX_CONFIG, "%s: larger than %d bytes", path, FILE_BYTES_MAX);
    else
        result = text_load(text, (size_t)len, path, out, warnings, err);
    if (len > 0) explicit_bzero(text, (size_t)len);
    free(text);
    close(fd);
    return result;
}

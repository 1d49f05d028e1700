/* Writing the configuration: the effective one as YAML, and the reference of all keys. */
#include <stdlib.h>
#include <string.h>

#include "base/config_keys.h"
#include "base/kafka_properties.h"
#include "base/redis_url.h"

enum { COMMENT_COLUMN = 44, VALUE_TEXT_BYTES = 2048 };

/* -- the effective configuration --------------------------------------------------------------- */

/* A double-quoted scalar that reads back as the same bytes: ${ would be taken from the environment. */
static int quoted_put(const char *text, FILE *out) {
    int n = fputc('"', out) == '"';
    for (const char *p = text; *p != 0; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            n += fprintf(out, "\\x%02x", (unsigned char)*p);
        else
            n += fprintf(out, "%s%c", *p == '"' || *p == '\\' ? "\\" : *p == '$' && p[1] == '{' ? "$" : "", *p);
    }
    return n + (fputc('"', out) == '"');
}

static void partitions_put(const struct config_topic *t, FILE *out) {
    for (uint32_t i = 0; i < t->partition_count; i++) fprintf(out, "%s%d", i == 0 ? "[" : ", ", t->partitions[i]);
    fputs("]\n", out);
}

/* One set as a text, more as a list of texts. */
static void cpus_put(const struct config_cpus *c, FILE *out) {
    char text[VALUE_TEXT_BYTES * 2];
    for (uint32_t i = 0; i < c->count; i++)
        fprintf(out, "%s\"%s\"", c->count == 1 ? "" : i == 0 ? "[" : ", ", cpus_format(&c->set[i], text, sizeof text));
    fputs(c->count == 1 ? "\n" : "]\n", out);
}

/* Is there anything to print for this key? Optional texts that are not set are left out. */
static bool key_printed(const struct config_key *k, const void *base) {
    const char *field = (const char *)base + k->offset;
    if (k->type == TYPE_SECTION || k->type == TYPE_LATER) return false;
    if (k->type == TYPE_PARTITIONS) return ((const struct config_topic *)base)->partition_count > 0;
    if (k->type == TYPE_CPUS) return ((const struct config_cpus *)(const void *)field)->count > 0;
    return !config_type_text(k->type) || field[0] != 0;
}

static bool value_is_default(const struct config_key *k, const char *text) {
    return k->initial != NULL && k->initial[0] != 0 && strcmp(k->initial, text) == 0;
}

static void value_put(const struct config_key *k, const void *base, int column, FILE *out) {
    char text[VALUE_TEXT_BYTES];
    if (k->type == TYPE_PARTITIONS) {
        partitions_put(base, out);
        return;
    }
    if (k->type == TYPE_CPUS) {
        cpus_put((const struct config_cpus *)(const void *)((const char *)base + k->offset), out);
        return;
    }
    config_value_format(k, base, text, sizeof text);
    column += k->type == TYPE_SECRET      ? quoted_put("***", out)
              : config_type_text(k->type) ? quoted_put(text, out)
                                          : fprintf(out, "%s", text);
    if (value_is_default(k, text))
        fprintf(out, "%*s", column < COMMENT_COLUMN ? COMMENT_COLUMN - column + 9 : 11, "# default");
    fputc('\n', out);
    explicit_bzero(text, sizeof text);
}

/* Opens the sections of `name` that the key printed before it was not in. Returns the key's own part of the name. */
static const char *sections_put(const char *name, const char *before, int *indent, const char **first, FILE *out) {
    const char *part = name;
    bool open = true;
    for (const char *dot; (dot = strchr(part, '.')) != NULL; part = dot + 1) {
        open = open && strncmp(name, before, (size_t)(dot - name) + 1) == 0;
        if (!open) {
            fprintf(out, "%*s%s%.*s:\n", *indent - (int)strlen(*first), "", *first, (int)(dot - part), part);
            *first = "";
        }
        *indent += 2;
    }
    return part;
}

/* Prints the keys of a table with their sections. first: what stands before the first line ("- " of a list). */
static void table_put(const struct config_key *keys, size_t count, const void *base, int indent, const char *first,
                      FILE *out) {
    const char *before = "";
    for (size_t i = 0; i < count; i++) {
        const struct config_key *k = &keys[i];
        int at = indent;
        if (!key_printed(k, base)) continue;
        const char *own = sections_put(k->name, before, &at, &first, out);
        int column = fprintf(out, "%*s%s%s: ", at - (int)strlen(first), "", first, own);
        value_put(k, base, column, out);
        before = k->name;
        first = "";
    }
}

static void property_put(const char *name, const char *value, const char *comment, FILE *out) {
    int column = fprintf(out, "  %s: ", name);
    bool number = value[0] != 0 && value[strspn(value, "0123456789")] == 0;
    column += number ? fprintf(out, "%s", value) : quoted_put(value, out);
    if (comment != NULL) fprintf(out, "%*s", column < COMMENT_COLUMN ? COMMENT_COLUMN - column + 9 : 11, comment);
    fputc('\n', out);
}

static void kafka_put(const struct config *c, FILE *out) {
    char session[16], group[TOPIC_BYTES];
    snprintf(session, sizeof session, "%u", c->kafka.session_timeout_ms);
    snprintf(group, sizeof group, "millrace-%s", c->name);
    fputs("kafka:\n", out);
    property_put("group.id", c->kafka.group_id, strcmp(group, c->kafka.group_id) == 0 ? "# default" : NULL, out);
    property_put("session.timeout.ms", session, c->kafka.session_timeout_ms == 10000 ? "# default" : NULL, out);
    for (uint32_t i = 0; i < c->kafka.property_count; i++)
        property_put(c->kafka.property[i].name, c->kafka.property[i].secret ? "***" : c->kafka.property[i].value, NULL,
                     out);
}

void config_print(const struct config *c, FILE *out) {
    struct config_draft *d = calloc(1, sizeof *d);
    CHECK(d != NULL);
    d->config = *c;
    d->config_version = 1;
    redis_url_format(c, d->redis_url, sizeof d->redis_url);
    table_put(config_keys, config_key_count, d, 0, "", out);
    kafka_put(c, out);
    fputs("topics:\n", out);
    for (uint32_t i = 0; i < c->topic_count; i++)
        table_put(config_topic_keys, config_topic_key_count, &c->topic[i], 4, "- ", out);
    explicit_bzero(d, sizeof *d);
    free(d);
}

/* -- the reference ----------------------------------------------------------------------------- */

static const char introduction[] =
    "# Configuration\n"
    "\n"
    "<!-- Generated by `millrace check --reference` from base/config.def and base/kafka_properties.def. -->\n"
    "\n"
    "One YAML file, found by `-c FILE`, else `./millrace.yaml`, else `/etc/millrace/millrace.yaml`.\n"
    "`millrace check -c FILE` validates it, prints it with all defaults filled in, and says what would run.\n"
    "`deploy/examples/` holds files to start from.\n"
    "\n"
    "- An unknown key, a key that is there twice, or a value of the wrong kind is refused with file, line and\n"
    "  column.\n"
    "- Durations carry a unit: `500ms` `10s` `5m` `1h` `7d`. Sizes are bytes or carry one: `16777216` `16MiB`.\n"
    "- `${NAME}` in a value is taken from the environment, `${NAME:default}` too when it is set there; `$${`\n"
    "  stands for `${` itself. It is filled in after the YAML is read, so no variable can add keys; the default\n"
    "  ends at the first `}`.\n"
    "- Secrets belong in files: for every secret there is a key ending in `_file`, whose first line is the\n"
    "  secret. The file must not be readable by users other than its owner and group. `millrace check`, logs and\n"
    "  `ps` never show a secret.\n"
    "- With systemd, `LoadCredential=` puts secrets into the folder that `${CREDENTIALS_DIRECTORY}` names.\n"
    "\n";

static const char *type_word(const struct config_key *k) {
    switch (k->type) {
    case TYPE_NAME:
    case TYPE_LABEL:
    case TYPE_TOPIC: return "a name";
    case TYPE_PATH: return "a path";
    case TYPE_SECRET: return "a secret";
    case TYPE_URL: return "a URL";
    case TYPE_TEMPLATE: return "a template";
    case TYPE_PARTITIONS: return "a list";
    case TYPE_CPUS: return k->max > 1 ? "processors, or a list of them" : "processors";
    case TYPE_VERSION: return "1";
    case TYPE_SIZE2: return "a power of two, ";
    default: return config_type_text(k->type) ? "text" : "";
    }
}

static void row_put(const struct config_key *k, FILE *out) {
    char range[256];
    config_range_format(k, range, sizeof range);
    fprintf(out, "| `%s` | %s%s | ", k->name, type_word(k), k->type == TYPE_VERSION ? "" : range);
    if (k->initial == NULL)
        fputs("required", out);
    else if (k->initial[0] != 0)
        fprintf(out, "`%s`", k->initial);
    fprintf(out, " | %s |\n", k->help);
}

static void rows_put(const struct config_key *keys, size_t count, FILE *out) {
    static const char head[] = "| Key | Accepts | Default | Meaning |\n|---|---|---|---|\n";
    fputs(head, out);
    for (size_t i = 0; i < count; i++) {
        const struct config_key *k = &keys[i];
        bool has_keys = i + 1 < count && strncmp(keys[i + 1].name, k->name, strlen(k->name)) == 0;
        if (k->type == TYPE_LATER) continue;
        if (k->type != TYPE_SECTION)
            row_put(k, out);
        else if (keys == config_topic_keys)
            fprintf(out, "| `%s` | keys below | | %s |\n", k->name, k->help);
        else if (has_keys)
            fprintf(out, "\n## %s\n\n%s\n\n%s", k->name, k->help, head);
    }
}

static void property_row_put(const struct kafka_property *p, FILE *out) {
    fprintf(out, "| `%s` | ", p->name);
    if (p->kind == PROPERTY_INT) fprintf(out, "%lld to %lld", (long long)p->min, (long long)p->max);
    if (p->kind == PROPERTY_TEXT) fputs("text", out);
    if (p->kind == PROPERTY_SECRET) fprintf(out, "a secret; or `%s_file`", p->name);
    if (p->kind == PROPERTY_ALIAS) fprintf(out, "another name of `%s`", p->words);
    if (p->kind == PROPERTY_LIST) fputs("a list of ", out);
    if (p->kind == PROPERTY_BOOL || p->kind == PROPERTY_WORD || p->kind == PROPERTY_EXACT || p->kind == PROPERTY_LIST)
        for (const char *c = p->words; *c != 0; c++) *c == '|' ? fputs(", ", out) : fputc(*c, out);
    fputs(" |\n", out);
}

static void properties_put(FILE *out) {
    const struct kafka_property *p;
    fputs("\n"
          "## kafka\n"
          "\n"
          "Properties of librdkafka by their own names, from a list: none that runs programs, loads code, shows\n"
          "content or takes away what the pipeline's promises rest on. `bootstrap.servers` is required, `group.id`\n"
          "defaults to `millrace-<name>`, `session.timeout.ms` to 10000; what the others mean and default to is in\n"
          "librdkafka's documentation.\n"
          "\n"
          "| Property | Accepts |\n"
          "|---|---|\n",
          out);
    for (size_t i = 0; (p = kafka_property_at(i)) != NULL; i++)
        if (p->kind != PROPERTY_REFUSED) property_row_put(p, out);
    fputs("\nRefused, like every property that is not listed:\n\n| Property | Because |\n|---|---|\n", out);
    for (size_t i = 0; (p = kafka_property_at(i)) != NULL; i++) {
        if (p->kind == PROPERTY_REFUSED) fprintf(out, "| `%s` | %s |\n", p->name, p->why);
        if (p->refused != NULL) fprintf(out, "| `%s: %s` | %s |\n", p->name, p->refused, p->why);
    }
}

void config_reference(FILE *out) {
    fputs(introduction, out);
    fputs("## Top level\n\n", out);
    rows_put(config_keys, config_key_count, out);
    fputs("\n"
          "## topics and defaults\n"
          "\n"
          "`topics:` is a list; each entry has the keys below. `defaults:` holds the same keys for all topics,\n"
          "`name`, `key` and `partitions` excepted; what a topic says itself comes first, and a bulk topic takes no\n"
          "`old_key` from it.\n"
          "\n",
          out);
    rows_put(config_topic_keys, config_topic_key_count, out);
    properties_put(out);
}

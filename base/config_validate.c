/* The second half of reading a configuration: defaults, what is required, and what must hold between keys. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/config_reader.h"
#include "base/config_text.h"
#include "base/kafka_properties.h"
#include "base/redis_url.h"
#include "base/template.h"

/* Where to point for a key that is not there: its section if the file has that, else the whole. */
static yaml_mark_t missing_mark(const struct scope *s, const char *name) {
    char section[64];
    snprintf(section, sizeof section, "%.*s", (int)strcspn(name, "."), name);
    return strchr(name, '.') == NULL ? s->start : scope_where(s, section);
}

static bool type_valued(enum config_type t) {
    return t != TYPE_SECTION && t != TYPE_LATER && t != TYPE_PARTITIONS && t != TYPE_CPUS;
}

/* Gives every key that the file does not set its default. */
static int scope_fill(struct reader *r, struct scope *s) {
    struct err err = {0};
    for (size_t i = 0; i < s->count; i++) {
        const struct config_key *k = &s->keys[i];
        if (s->seen[i]) continue;
        if (k->initial == NULL)
            return reader_complain(r, missing_mark(s, k->name), "%s%s is required", s->label, k->name);
        if (type_valued(k->type) && k->initial[0] != 0)
            CHECK(config_value_parse(k, k->initial, s->base, NULL, &err) == 0);
    }
    return 0;
}

/* -- the whole --------------------------------------------------------------------------------- */

static int instance_fill(struct reader *r) {
    struct config *c = &r->draft->config;
    struct err err = {0};
    char host[256] = "";
    if (c->instance[0] != 0) return 0;
    gethostname(host, sizeof host - 1);
    const struct config_key *k = &r->root.keys[scope_index(&r->root, "instance")];
    if (config_value_parse(k, host, r->draft, NULL, &err) == 0) return 0;
    return reader_complain(r, r->root.start, "instance: the host name cannot be used (%s); set instance", err.text);
}

/* One set for all lanes, or one for each. */
static int cpus_check(struct reader *r) {
    const struct config *c = &r->draft->config;
    const struct {
        const char *name;
        uint32_t count;
    } rows[] = {{"cpus.transform", c->cpus.transform.count}, {"cpus.sink", c->cpus.sink.count}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (rows[i].count > 1 && rows[i].count != c->lanes)
            return reader_complain(r, scope_where(&r->root, rows[i].name),
                                   "%s lists %u sets of processors for %u lane%s; one set for all, or one for each",
                                   rows[i].name, rows[i].count, c->lanes, c->lanes == 1 ? "" : "s");
    return 0;
}

static const char *property_value(const struct config *c, const char *name, uint32_t *index) {
    for (uint32_t i = 0; i < c->kafka.property_count; i++) {
        if (strcmp(c->kafka.property[i].name, name) != 0) continue;
        *index = i;
        return c->kafka.property[i].value;
    }
    return NULL;
}

/* Without a mechanism librdkafka takes Kerberos, which runs kinit. */
static int sasl_check(struct reader *r) {
    const struct config *c = &r->draft->config;
    uint32_t protocol_at = 0, at = 0;
    const char *protocol = property_value(c, "security.protocol", &protocol_at);
    if (protocol == NULL || strncasecmp(protocol, "sasl", 4) != 0) return 0;
    const char *mechanism = property_value(c, "sasl.mechanisms", &at);
    if (mechanism == NULL)
        return reader_complain(r, r->property_where[protocol_at],
                               "kafka.sasl.mechanism is required with security.protocol %s", protocol);
    uint32_t ignored;
    if (property_value(c, "sasl.username", &ignored) != NULL && property_value(c, "sasl.password", &ignored) != NULL)
        return 0;
    return reader_complain(r, r->property_where[at],
                           "kafka.sasl.mechanism %s needs sasl.username and sasl.password (or sasl.password_file)",
                           mechanism);
}

static int kafka_complete(struct reader *r) {
    enum { SESSION_MS = 10000, POLL_MS = 300000 };
    struct config *c = &r->draft->config;
    uint32_t at = 0;
    if (!r->kafka_seen || property_value(c, "bootstrap.servers", &at) == NULL)
        return reader_complain(r, r->kafka_seen ? r->kafka_start : r->root.start,
                               "kafka.bootstrap.servers is required");
    if (!r->group_seen) snprintf(c->kafka.group_id, sizeof c->kafka.group_id, "millrace-%s", c->name);
    if (!r->session_seen) c->kafka.session_timeout_ms = SESSION_MS;
    const char *poll = property_value(c, "max.poll.interval.ms", &at);
    if (c->kafka.session_timeout_ms > (poll == NULL ? POLL_MS : strtoul(poll, NULL, 10)))
        return reader_complain(r, poll == NULL ? r->session_where : r->property_where[at],
                               "kafka.session.timeout.ms must not be above max.poll.interval.ms");
    return sasl_check(r);
}

/* User and password may stand in the URL, in keys of their own, or (the password) in a file: in one place each. */
static int redis_credentials(struct reader *r) {
    struct config_draft *d = r->draft;
    struct config *c = &d->config;
    const struct scope *s = &r->root;
    struct err err = {0};
    char user[sizeof c->redis.user], password[sizeof c->redis.password];
    memcpy(user, c->redis.user, sizeof user); /* of the keys; the URL is read over them */
    memcpy(password, c->redis.password, sizeof password);
    c->redis.user[0] = c->redis.password[0] = 0;
    bool file = d->redis_password_file[0] != 0;
    bool bad = redis_url_parse(d->redis_url, c, &err) != 0;
    bool user_twice = user[0] != 0 && c->redis.user[0] != 0;
    bool password_twice = (password[0] != 0) + (c->redis.password[0] != 0) + file > 1;
    if (user[0] != 0) memcpy(c->redis.user, user, sizeof user);
    if (password[0] != 0) memcpy(c->redis.password, password, sizeof password);
    explicit_bzero(password, sizeof password);
    if (bad) return reader_complain(r, scope_where(s, "redis.url"), "redis.url: %s", err.text);
    if (user_twice) return reader_complain(r, scope_where(s, "redis.user"), "redis.user: redis.url names a user too");
    if (password_twice)
        return reader_complain(r, scope_where(s, file ? "redis.password_file" : "redis.password"),
                               "redis: the password is there twice (redis.url, redis.password, redis.password_file)");
    if (file && config_secret_read(d->redis_password_file, c->redis.password, sizeof c->redis.password, &err) != 0)
        return reader_complain(r, scope_where(s, "redis.password_file"), "redis.password_file: %s", err.text);
    if (c->redis.user[0] != 0 && c->redis.password[0] == 0)
        return reader_complain(r, scope_where(s, user[0] != 0 ? "redis.user" : "redis.url"),
                               "redis: a user needs a password");
    return 0;
}

/* That the files are what they should be inside is found out by OpenSSL, which the supervisor does not link. */
static int redis_tls_check(struct reader *r) {
    const struct config *c = &r->draft->config;
    const struct scope *s = &r->root;
    const struct {
        const char *key, *value;
        bool file, secret;
    } given[] = {{"redis.tls.ca_file", c->redis.tls.ca_file, true, false},
                 {"redis.tls.cert_file", c->redis.tls.cert_file, true, false},
                 {"redis.tls.key_file", c->redis.tls.key_file, true, true},
                 {"redis.tls.server_name", c->redis.tls.server_name, false, false}};
    bool cert = c->redis.tls.cert_file[0] != 0, key = c->redis.tls.key_file[0] != 0;
    struct err err = {0};
    for (size_t i = 0; i < sizeof given / sizeof given[0]; i++) {
        if (given[i].value[0] == 0) continue;
        if (c->redis.scheme != REDIS_TLS)
            return reader_complain(r, scope_where(s, given[i].key), "%s: only rediss:// is TLS; redis.url is not",
                                   given[i].key);
        if (given[i].file && config_file_check(given[i].value, given[i].secret, &err) != 0)
            return reader_complain(r, scope_where(s, given[i].key), "%s: %s", given[i].key, err.text);
    }
    if (cert == key) return 0;
    return reader_complain(r, scope_where(s, cert ? "redis.tls.cert_file" : "redis.tls.key_file"),
                           "redis.tls: cert_file and key_file belong together; %s is missing",
                           cert ? "key_file" : "cert_file");
}

static int redis_complete(struct reader *r) {
    const struct config *c = &r->draft->config;
    const struct scope *s = &r->root;
    if (redis_credentials(r) != 0 || redis_tls_check(r) != 0) return -1;
    if (c->redis.in_flight >= c->redis.batch) return 0;
    return reader_complain(r, scope_where(s, scope_has(s, "redis.in_flight") ? "redis.in_flight" : "redis.batch"),
                           "redis.in_flight is %u and redis.batch %u: at least one whole batch must be in flight",
                           c->redis.in_flight, c->redis.batch);
}

/* -- doubts ------------------------------------------------------------------------------------ */

__attribute__((format(printf, 4, 5))) static void doubt(const struct reader *r, FILE *out, yaml_mark_t at,
                                                        const char *format, ...) {
    va_list args;
    fprintf(out, "%s:%zu:%zu: warning: ", r->file, at.line + 1, at.column + 1);
    va_start(args, format);
    vfprintf(out, format, args);
    va_end(args);
    fputc('\n', out);
}

/* Files that librdkafka reads when ingest starts, perhaps as another user: what is wrong with them is said here. */
static void kafka_files_warn(const struct reader *r, FILE *out) {
    static const struct {
        const char *name;
        bool secret;
    } files[] = {{"ssl.certificate.location", false},
                 {"ssl.key.location", true},
                 {"ssl.keystore.location", true},
                 {"ssl.crl.location", false}};
    uint32_t at;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        struct err err = {0};
        const char *path = property_value(&r->draft->config, files[i].name, &at);
        if (path != NULL && config_file_check(path, files[i].secret, &err) != 0)
            doubt(r, out, r->property_where[at], "kafka.%s: %s", files[i].name, err.text);
    }
}

static void kafka_warn(const struct reader *r, FILE *out) {
    static const struct {
        const char *name, *value, *text;
    } weak[] = {
        {"enable.ssl.certificate.verification", "false",
         "anybody between here and the brokers can read and change records"},
        {"ssl.endpoint.identification.algorithm", "none", "any holder of a valid certificate can pose as a broker"},
        {"security.protocol", "sasl_plaintext", "password and records cross the network in the clear"},
    };
    const struct config *c = &r->draft->config;
    uint32_t at;
    for (size_t i = 0; i < sizeof weak / sizeof weak[0]; i++) {
        const char *value = property_value(c, weak[i].name, &at);
        if (value != NULL && strcasecmp(value, weak[i].value) == 0)
            doubt(r, out, r->property_where[at], "kafka.%s %s: %s", weak[i].name, value, weak[i].text);
    }
    for (uint32_t i = 0; i < c->kafka.property_count; i++)
        if (r->property_inline[i])
            doubt(r, out, r->property_where[i], "kafka.%s stands in the file or the environment; %s_file is safer",
                  c->kafka.property[i].name, c->kafka.property[i].name);
    kafka_files_warn(r, out);
}

/* With fixed lists it is known which lanes get work. */
static void lanes_warn(const struct reader *r, FILE *out) {
    const struct config *c = &r->draft->config;
    bool used[LANES_MAX] = {false};
    uint32_t count = 0;
    for (uint32_t t = 0; t < c->topic_count; t++) {
        if (c->topic[t].partition_count == 0) return;
        for (uint32_t i = 0; i < c->topic[t].partition_count; i++)
            used[(uint32_t)c->topic[t].partitions[i] % c->lanes] = true;
    }
    for (uint32_t i = 0; i < c->lanes; i++) count += used[i];
    if (count < c->lanes)
        doubt(r, out, scope_where(&r->root, "lanes"), "lanes: of %u only %u have a partition in the lists", c->lanes,
              count);
}

void config_warn(const struct reader *r, FILE *out) {
    const struct config_draft *d = r->draft;
    kafka_warn(r, out);
    if (d->config.redis.password[0] != 0 && d->redis_password_file[0] == 0)
        doubt(r, out, scope_where(&r->root, scope_has(&r->root, "redis.password") ? "redis.password" : "redis.url"),
              "the password of Redis stands in the file or the environment; redis.password_file is safer");
    lanes_warn(r, out);
}

/* -- topics ------------------------------------------------------------------------------------ */

static bool key_in(const char *name, const char *const *names) {
    for (; *names != NULL; names++)
        if (strcmp(*names, name) == 0) return true;
    return false;
}

/* Takes from `defaults` what the topic does not say and can use: a bulk topic has no old key, and of header and field a
 * topic has the one it names itself. */
static void topic_inherit(struct reader *r, struct scope *s) {
    static const char *const operation[] = {"operation.header", "operation.field", NULL};
    const struct scope *d = &r->defaults;
    struct config_topic *t = s->base;
    bool own_operation = scope_has(s, "operation.header") || scope_has(s, "operation.field");
    bool bulk = scope_has(s, "mode") ? t->mode == MODE_BULK : r->draft->defaults.mode == MODE_BULK;
    for (size_t i = 0; i < s->count; i++) {
        const struct config_key *k = &s->keys[i];
        if (s->seen[i] || !d->seen[i] || !type_valued(k->type)) continue;
        if ((own_operation && key_in(k->name, operation)) || (bulk && strcmp(k->name, "old_key") == 0)) continue;
        memcpy((char *)s->base + k->offset, (const char *)d->base + k->offset, k->size);
        s->seen[i] = true;
        s->where[i] = d->where[i];
    }
}

static int template_check(struct reader *r, const struct scope *s, const char *key, const char *text) {
    const struct config_topic *t = s->base;
    struct template parsed;
    if (text[0] == 0) return 0;
    CHECK(template_parse(text, &parsed, NULL, NULL) == 0);
    if (t->format == FORMAT_JSON || !template_has(&parsed, TEMPLATE_FIELD)) return 0;
    return reader_complain(r, scope_where(s, key), "%s%s: fields of the value need format json", s->label, key);
}

static int topic_check(struct reader *r, const struct scope *s) {
    const struct config_topic *t = s->base;
    bool header = t->operation_header[0] != 0, field = t->operation_field[0] != 0;
    if (t->mode == MODE_BULK && t->old_key[0] != 0)
        return reader_complain(r, scope_where(s, "old_key"), "%sold_key: only change topics have updates", s->label);
    if (header && field)
        return reader_complain(r, scope_where(s, "operation.field"), "%soperation: a header or a field, not both",
                               s->label);
    if (field && t->format != FORMAT_JSON)
        return reader_complain(r, scope_where(s, "operation.field"), "%soperation.field needs format json", s->label);
    if (t->value_type == VALUE_TYPE_HASH && t->format != FORMAT_JSON)
        return reader_complain(r, scope_where(s, "value.type"), "%svalue.type hash needs format json", s->label);
    if (t->value_type == VALUE_TYPE_HASH && (t->compress != COMPRESS_NONE || t->encrypt))
        return reader_complain(r, scope_where(s, "value.type"),
                               "%svalue.type hash goes with neither compression nor encryption: fields of a hash are "
                               "stored as they are",
                               s->label);
    if (t->encrypt && r->draft->config.crypto.keys[0] == 0)
        return reader_complain(r, scope_where(s, "value.encrypt"), "%svalue.encrypt needs crypto.keys", s->label);
    if (r->draft->config.audit && t->reconcile == RECONCILE_FULL && r->draft->config.crypto.keys[0] == 0)
        return reader_complain(r, scope_where(s, "reconcile"), "%sreconcile: full needs crypto.keys", s->label);
    if (r->draft->config.audit && t->evidence == EVIDENCE_MANIFEST && r->draft->config.recon.manifest_topic[0] == 0)
        return reader_complain(r, scope_where(s, "evidence"), "%sevidence: manifest needs recon.manifest_topic",
                               s->label);
    if (template_check(r, s, "key", t->key) != 0) return -1;
    return template_check(r, s, "old_key", t->old_key);
}

/* What holds between topics. */
static int topics_check(struct reader *r) {
    const struct config *c = &r->draft->config;
    uint32_t total = 0;
    for (uint32_t i = 0; i < c->topic_count; i++) {
        int first = config_topic_index(c, c->topic[i].name);
        if (first != (int)i)
            return reader_complain(r, scope_where(&r->topic[i], "name"), "topics[%u].name: %s is topics[%d] already", i,
                                   c->topic[i].name, first);
        if ((c->topic[i].partition_count == 0) != (c->topic[0].partition_count == 0))
            return reader_complain(r, r->topic[i].start,
                                   "topics: %s has a list of partitions and %s has none; all have one, or none has",
                                   c->topic[c->topic[i].partition_count == 0 ? 0 : i].name,
                                   c->topic[c->topic[i].partition_count == 0 ? i : 0].name);
        total += c->topic[i].partition_count;
        if (total > PARTITIONS_MAX)
            return reader_complain(r, r->topic[i].start, "topics: more than %d partitions are listed", PARTITIONS_MAX);
    }
    return 0;
}

/* What the audit stage cannot do without. */
static int recon_check(struct reader *r) {
    const struct config *c = &r->draft->config;
    const char *hook = c->recon.webhook;
    if (c->audit && c->recon.keys[0] == 0)
        return reader_complain(r, scope_where(&r->root, "audit"),
                               "audit: on needs recon.keys, a file made by `millrace keygen`");
    if (hook[0] != 0 && strncmp(hook, "http://", 7) != 0 && strncmp(hook, "https://", 8) != 0)
        return reader_complain(r, scope_where(&r->root, "recon.webhook"),
                               "recon.webhook is neither an http:// nor an https:// URL");
    if (c->recon.retention_bytes < 2 * c->recon.segment_bytes)
        return reader_complain(r, scope_where(&r->root, "recon.retention_bytes"),
                               "recon.retention_bytes is less than two segments (recon.segment_bytes)");
    return 0;
}

int config_complete(struct reader *r) {
    r->draft->config.abi = CONFIG_ABI;
    if (scope_fill(r, &r->root) != 0 || instance_fill(r) != 0 || cpus_check(r) != 0 || kafka_complete(r) != 0 ||
        redis_complete(r) != 0 || recon_check(r) != 0)
        return -1;
    if (r->defaults.keys == NULL)
        r->defaults =
            (struct scope){.keys = config_topic_keys, .count = config_topic_key_count, .base = &r->draft->defaults};
    for (uint32_t i = 0; i < r->draft->config.topic_count; i++) {
        topic_inherit(r, &r->topic[i]);
        if (scope_fill(r, &r->topic[i]) != 0 || topic_check(r, &r->topic[i]) != 0) return -1;
    }
    return topics_check(r);
}

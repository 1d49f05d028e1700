#include "base/kafka_properties.h"

#include <criterion/criterion.h>
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"

/* Every property that the librdkafka at hand documents, as `visit(name, range)`. */
static int documented(void (*visit)(const char *name, const char *range)) {
    char *text = NULL, *line, *rest;
    size_t len;
    int count = 0;
    FILE *out = open_memstream(&text, &len);
    rd_kafka_conf_properties_show(out);
    fclose(out);
    for (line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
        char name[128] = "", kind[8] = "", range[512] = "";
        if (sscanf(line, "%127s | %7[*CP] | %511[^|]", name, kind, range) < 2 || strcmp(name, "Property") == 0)
            continue;
        visit(name, range);
        count++;
    }
    free(text);
    return count;
}

/* What a configuration with this property amounts to: is it accepted with any value that could be meant? */
static bool accepted(const char *name, const char *value) {
    static struct config c;
    struct err err = {0};
    char text[2048];
    const char *servers = strcmp(name, "bootstrap.servers") == 0 || strcmp(name, "metadata.broker.list") == 0
                              ? ""
                              : "  bootstrap.servers: localhost:9092\n";
    snprintf(text, sizeof text,
             "config_version: 1\nname: x\ninstance: y\nkafka:\n%s  %s: \"%s\"\nredis:\n  url: redis://h\n"
             "topics:\n  - {name: t, mode: bulk, key: k}\n",
             servers, name, value);
    return config_load_text(text, strlen(text), "t", &c, &err) == 0;
}

static const char *const values[] = {"1",    "5000",           "true", "/x",   "range", "PLAIN", "plaintext", "https",
                                     "oidc", "read_committed", "any",  "gzip", "none",  "error", "300000",    "all"};

static bool accepted_at_all(const char *name) {
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
        if (accepted(name, values[i])) return true;
    return false;
}

/* The whole list of what may be set, written out once more: a row that is added to the table by mistake fails here. */
static const char allowed[] =
    " bootstrap.servers metadata.broker.list client.id client.rack group.id session.timeout.ms heartbeat.interval.ms"
    " max.poll.interval.ms coordinator.query.interval.ms partition.assignment.strategy isolation.level "
    "security.protocol"
    " sasl.mechanisms sasl.mechanism sasl.username sasl.password"
    ""
    " ssl.ca.location ssl.certificate.location ssl.key.location ssl.key.password ssl.keystore.location "
    "ssl.keystore.password"
    " ssl.crl.location ssl.cipher.suites ssl.curves.list ssl.sigalgs.list ssl.endpoint.identification.algorithm"
    " enable.ssl.certificate.verification fetch.wait.max.ms fetch.min.bytes fetch.max.bytes fetch.message.max.bytes"
    " max.partition.fetch.bytes fetch.error.backoff.ms queued.min.messages queued.max.messages.kbytes"
    " receive.message.max.bytes socket.timeout.ms socket.send.buffer.bytes socket.receive.buffer.bytes"
    " socket.keepalive.enable socket.nagle.disable socket.max.fails socket.connection.setup.timeout.ms"
    " connections.max.idle.ms broker.address.ttl broker.address.family reconnect.backoff.ms reconnect.backoff.max.ms"
    " metadata.max.age.ms topic.metadata.refresh.interval.ms topic.metadata.refresh.fast.interval.ms"
    " topic.metadata.refresh.sparse topic.metadata.propagation.max.ms api.version.request.timeout.ms "
    "log.connection.close ";

static bool listed(const char *name) {
    char word[160];
    snprintf(word, sizeof word, " %s ", name);
    return strstr(allowed, word) != NULL;
}

static void decided(const char *name, const char *range) {
    (void)range;
    cr_expect_eq(accepted_at_all(name), listed(name), "%s is %s", name, listed(name) ? "refused" : "accepted");
    cr_expect_not_null(kafka_property_find(name), "%s has no row: allow it, or refuse it with the reason", name);
}

Test(kafka_properties, every_documented_one_is_in_the_list_or_refused) {
    cr_assert_gt(documented(decided), 150, "the list of librdkafka's properties could not be read");
}

/* Named one by one, whatever the table says: programs, code, simulations, content, and what carries the promises. */
Test(kafka_properties, dangerous_ones_are_refused) {
    static const char *const dangerous[] = {"sasl.kerberos.kinit.cmd",
                                            "sasl.kerberos.keytab",
                                            "sasl.kerberos.principal",
                                            "plugin.library.paths",
                                            "ssl.engine.location",
                                            "ssl.engine.id",
                                            "ssl.providers",
                                            "ssl_engine_callback_data",
                                            "interceptors",
                                            "opaque",
                                            "default_topic_conf",
                                            "test.mock.num.brokers",
                                            "test.mock.broker.rtt",
                                            "test.mock.anything",
                                            "debug",
                                            "builtin.features",
                                            "enable.sasl.oauthbearer.unsecure.jwt",
                                            "ssl.certificate.verify_cb",
                                            "log_cb",
                                            "open_cb",
                                            "socket_cb",
                                            "connect_cb",
                                            "closesocket_cb",
                                            "resolve_cb",
                                            "background_event_cb",
                                            "rebalance_cb",
                                            "offset_commit_cb",
                                            "oauthbearer_token_refresh_cb",
                                            "enable.auto.commit",
                                            "enable.auto.offset.store",
                                            "auto.offset.reset",
                                            "group.instance.id",
                                            "enable.partition.eof",
                                            "check.crcs",
                                            "statistics.interval.ms",
                                            "offset.store.method",
                                            "offset.store.path",
                                            "internal.termination.signal",
                                            "a.property.of.tomorrow",
                                            ""};
    for (size_t i = 0; i < sizeof dangerous / sizeof dangerous[0]; i++)
        for (size_t k = 0; k < sizeof values / sizeof values[0]; k++)
            cr_expect(!accepted(dangerous[i], values[k]), "%s: %s is accepted", dangerous[i], values[k]);
}

Test(kafka_properties, case_does_not_open_a_door) {
    cr_assert(!accepted_at_all("Plugin.Library.Paths") && !accepted_at_all("SASL.KERBEROS.KINIT.CMD"));
}

Test(kafka_properties, file_suffix_does_not_open_a_door) {
    cr_assert(!accepted_at_all("plugin.library.paths_file") && !accepted_at_all("sasl.kerberos.kinit.cmd_file"));
}

Test(kafka_properties, mechanisms_that_are_not_available_are_refused_in_any_spelling) {
    cr_assert(accepted("sasl.mechanism", "PLAIN"));
    cr_assert(!accepted("sasl.mechanism", "GSSAPI") && !accepted("sasl.mechanism", "gssapi"));
    cr_assert(!accepted("sasl.mechanism", "OAUTHBEARER"));
    cr_assert(!accepted("sasl.mechanisms", "PLAIN GSSAPI") && !accepted("sasl.mechanisms", "PLAIN,GSSAPI"));
}

/* The two ends of a range, or a word: what the table accepts librdkafka must accept too. */
static void librdkafka_takes(const struct kafka_property *p, const char *value) {
    char why[512];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_res_t r = rd_kafka_conf_set(conf, p->name, value, why, sizeof why);
    cr_expect_eq(r, RD_KAFKA_CONF_OK, "%s=%s: %s", p->name, value, why);
    rd_kafka_conf_destroy(conf);
}

Test(kafka_properties, allowed_ones_are_taken_by_librdkafka_at_both_ends_of_their_range) {
    const struct kafka_property *p;
    for (size_t i = 0; (p = kafka_property_at(i)) != NULL; i++) {
        char value[64];
        if (p->kind == PROPERTY_REFUSED) continue;
        if (p->kind == PROPERTY_INT) {
            snprintf(value, sizeof value, "%lld", (long long)p->min);
            librdkafka_takes(p, value);
            snprintf(value, sizeof value, "%lld", (long long)p->max);
            librdkafka_takes(p, value);
        } else if (p->kind == PROPERTY_TEXT || p->kind == PROPERTY_SECRET || p->kind == PROPERTY_ALIAS) {
            librdkafka_takes(p, strcmp(kafka_property_find(p->name)->name, "fetch.message.max.bytes") == 0 ? "1000"
                                : strcmp(p->name, "sasl.mechanism") == 0                                   ? "PLAIN"
                                                                                                           : "x");
        } else {
            for (const char *w = p->words; *w != 0; w += strspn(w, "|")) {
                snprintf(value, sizeof value, "%.*s", (int)strcspn(w, "|"), w);
                librdkafka_takes(p, value);
                w += strcspn(w, "|");
            }
        }
    }
}

static void refused_beyond(const char *name, long long value) {
    char text[32];
    const struct kafka_property *p = kafka_property_find(name);
    snprintf(text, sizeof text, "%lld", value);
    cr_expect_eq(kafka_property_check(p, text, NULL), -1, "%s=%s", name, text);
}

Test(kafka_properties, numbers_beyond_their_range_are_refused) {
    const struct kafka_property *p;
    for (size_t i = 0; (p = kafka_property_at(i)) != NULL; i++) {
        if (p->kind != PROPERTY_INT) continue;
        refused_beyond(p->name, p->min - 1);
        refused_beyond(p->name, p->max + 1);
    }
}

Test(kafka_properties, every_refusal_has_a_reason_and_every_name_one_row) {
    const struct kafka_property *p, *q;
    for (size_t i = 0; (p = kafka_property_at(i)) != NULL; i++) {
        cr_expect(p->kind != PROPERTY_REFUSED || (p->why != NULL && p->why[0] != 0), "%s", p->name);
        for (size_t k = 0; k < i && (q = kafka_property_at(k)) != NULL; k++) cr_expect_str_neq(p->name, q->name);
    }
}

Test(kafka_properties, nearest_is_one_that_may_be_set) {
    cr_assert_str_eq(kafka_property_nearest("bootstrap.server"), "bootstrap.servers");
    cr_assert_str_eq(kafka_property_nearest("sasl.user"), "sasl.username");
    cr_assert_str_eq(kafka_property_nearest("session.timeout"), "session.timeout.ms");
    cr_assert_str_eq(kafka_property_nearest("fetch.min.byte"), "fetch.min.bytes");
}

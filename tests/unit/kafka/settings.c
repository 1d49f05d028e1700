#include "kafka/settings.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

static struct config c;
static struct err err;
static const struct kafka_setting defaults[] = {{"client.id", "a"}, {"linger.ms", "7"}, {NULL, NULL}};
static const struct kafka_setting fixed[] = {{"log.connection.close", "false"}, {NULL, NULL}};

static void property(const char *name, const char *value, uint8_t secret) {
    struct config_property *p = &c.kafka.property[c.kafka.property_count++];
    snprintf(p->name, sizeof p->name, "%s", name);
    snprintf(p->value, sizeof p->value, "%s", value);
    p->secret = secret;
}

static const char *value_of(const rd_kafka_conf_t *conf, const char *name) {
    static char text[256];
    size_t size = sizeof text;
    cr_assert_eq(rd_kafka_conf_get(conf, name, text, &size), RD_KAFKA_CONF_OK);
    return text;
}

Test(kafka_settings, defaults_give_way_to_the_configuration_and_that_to_what_is_fixed) {
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    property("client.id", "mine", 0);
    property("log.connection.close", "true", 0);
    cr_assert_eq(kafka_settings_fill(conf, RD_KAFKA_CONSUMER, &c, defaults, fixed, &err), 0, "%s", err.text);
    cr_assert_str_eq(value_of(conf, "client.id"), "mine");
    cr_assert_str_eq(value_of(conf, "linger.ms"), "7");
    cr_assert_str_eq(value_of(conf, "log.connection.close"), "false");
    rd_kafka_t *rk = kafka_settings_open(conf, RD_KAFKA_CONSUMER, &err);
    cr_assert_not_null(rk);
    rd_kafka_destroy(rk);
}

Test(kafka_settings, a_producer_is_spared_what_only_consumers_understand) {
    static const char *const names[] = {"fetch.wait.max.ms", "queued.min.messages", "session.timeout.ms",
                                        "heartbeat.interval.ms", "max.poll.interval.ms"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        rd_kafka_conf_t *consumer = rd_kafka_conf_new(), *producer = rd_kafka_conf_new();
        c.kafka.property_count = 0;
        property(names[i], "4321", 0);
        cr_assert_eq(kafka_settings_fill(consumer, RD_KAFKA_CONSUMER, &c, defaults, fixed, &err), 0, "%s", err.text);
        cr_assert_eq(kafka_settings_fill(producer, RD_KAFKA_PRODUCER, &c, defaults, fixed, &err), 0, "%s", err.text);
        cr_assert_str_eq(value_of(consumer, names[i]), "4321");
        cr_assert_str_neq(value_of(producer, names[i]), "4321");
        rd_kafka_conf_destroy(consumer);
        rd_kafka_conf_destroy(producer);
    }
}

Test(kafka_settings, a_refused_value_is_told_and_that_of_a_secret_is_not) {
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    property("socket.nagle.disable", "perhaps", 0);
    cr_assert_eq(kafka_settings_fill(conf, RD_KAFKA_CONSUMER, &c, defaults, fixed, &err), -1);
    cr_assert_eq(err.code, EX_CONFIG);
    cr_assert_not_null(strstr(err.text, "kafka.socket.nagle.disable: Expected bool value"), "%s", err.text);
    c.kafka.property[0].secret = 1;
    cr_assert_eq(kafka_settings_fill(conf, RD_KAFKA_CONSUMER, &c, defaults, fixed, &err), -1);
    cr_assert_str_eq(err.text, "kafka.socket.nagle.disable: not accepted");
    rd_kafka_conf_destroy(conf);
}

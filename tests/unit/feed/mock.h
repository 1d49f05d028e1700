/* librdkafka's simulated broker, and a configuration that leads to it. */
#ifndef MILLRACE_TESTS_UNIT_FEED_MOCK_H
#define MILLRACE_TESTS_UNIT_FEED_MOCK_H

#include <criterion/criterion.h>
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <stdio.h>
#include <string.h>

#include "base/config.h"

static rd_kafka_t *mock_owner;
static rd_kafka_mock_cluster_t *mock;

static inline void property(struct config *c, const char *name, const char *value) {
    struct config_property *p = &c->kafka.property[c->kafka.property_count++];
    snprintf(p->name, sizeof p->name, "%s", name);
    snprintf(p->value, sizeof p->value, "%s", value);
}

static inline struct config *mock_config(void) {
    static struct config c;
    char text[256];
    mock_owner = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), text, sizeof text);
    mock = rd_kafka_mock_cluster_new(mock_owner, 1);
    cr_assert_not_null(mock);
    cr_assert_eq(rd_kafka_mock_topic_create(mock, "cards", 1, 1), RD_KAFKA_RESP_ERR_NO_ERROR);
    cr_assert_eq(rd_kafka_mock_topic_create(mock, "manifests", 1, 1), RD_KAFKA_RESP_ERR_NO_ERROR);
    snprintf(c.instance, sizeof c.instance, "node");
    property(&c, "bootstrap.servers", rd_kafka_mock_cluster_bootstraps(mock));
    property(&c, "fetch.wait.max.ms", "100");
    property(&c, "session.timeout.ms", "10000");
    c.recon.window_ms = 600000;
    snprintf(c.recon.manifest_topic, TOPIC_BYTES, "manifests");
    c.topic_count = 1;
    snprintf(c.topic[0].name, TOPIC_BYTES, "cards");
    snprintf(c.topic[0].key, TEMPLATE_BYTES, "card:{no}");
    c.topic[0].format = FORMAT_JSON;
    c.topic[0].mode = MODE_CHANGE;
    return &c;
}

#endif

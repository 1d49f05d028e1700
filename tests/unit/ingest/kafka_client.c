/* The Kafka client of the library, as far as it can be seen without a broker: what is refused, and what comes first. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/clock.h"
#include "base/log.h"
#include "ingest/kafka.h"

static struct config *config_make(void) {
    static struct config c;
    memset(&c, 0, sizeof c);
    log_init("node", "ingest", -1, 0, LOG_ERROR);
    snprintf(c.name, sizeof c.name, "unit");
    snprintf(c.instance, sizeof c.instance, "node");
    snprintf(c.kafka.group_id, sizeof c.kafka.group_id, "group");
    c.kafka.session_timeout_ms = 10000;
    c.topic_count = 2;
    snprintf(c.topic[0].name, TOPIC_BYTES, "bulk");
    snprintf(c.topic[1].name, TOPIC_BYTES, "change");
    return &c;
}

static void property(struct config *c, const char *name, const char *value, bool secret) {
    struct config_property *p = &c->kafka.property[c->kafka.property_count++];
    snprintf(p->name, sizeof p->name, "%s", name);
    snprintf(p->value, sizeof p->value, "%s", value);
    p->secret = secret;
}

Test(kafka_client, opens_without_a_broker) {
    struct config *c = config_make();
    struct kafka_port port;
    struct err err = {0};
    property(c, "bootstrap.servers", "127.0.0.1:1", false);
    cr_assert_eq(kafka_client_open(&port, c, eventfd(0, EFD_NONBLOCK), &err), 0, "%s", err.text);
    cr_assert_not_null(port.commit);
}

Test(kafka_client, names_a_property_that_it_does_not_take) {
    struct config *c = config_make();
    struct kafka_port port;
    struct err err = {0};
    property(c, "fetch.wait.max.ms", "soon", false);
    cr_assert_eq(kafka_client_open(&port, c, -1, &err), -1);
    cr_assert_not_null(strstr(err.text, "kafka.fetch.wait.max.ms"), "%s", err.text);
}

Test(kafka_client, says_nothing_of_the_value_of_a_secret_that_it_does_not_take) {
    struct config *c = config_make();
    struct kafka_port port;
    struct err err = {0};
    property(c, "fetch.wait.max.ms", "hunter2", true);
    cr_assert_eq(kafka_client_open(&port, c, -1, &err), -1);
    cr_assert_null(strstr(err.text, "hunter2"), "%s", err.text);
    cr_assert_not_null(strstr(err.text, "kafka.fetch.wait.max.ms"), "%s", err.text);
}

Test(kafka_client, announces_a_fixed_list_of_partitions_first_and_once) {
    struct config *c = config_make();
    struct kafka_port port;
    struct kafka_event *e = calloc(1, sizeof *e);
    struct err err = {0};
    property(c, "bootstrap.servers", "127.0.0.1:1", false);
    c->topic[0].partition_count = 2;
    c->topic[0].partitions[0] = 3;
    c->topic[0].partitions[1] = 7;
    c->topic[1].partition_count = 1;
    cr_assert_eq(kafka_client_open(&port, c, eventfd(0, EFD_NONBLOCK), &err), 0, "%s", err.text);
    cr_assert(port.poll(port.self, e));
    cr_assert_eq(e->type, KAFKA_ASSIGN);
    cr_assert_eq(e->count, 3);
    cr_assert(e->list[0].topic == 0 && e->list[0].partition == 3);
    cr_assert(e->list[1].topic == 0 && e->list[1].partition == 7);
    cr_assert(e->list[2].topic == 1 && e->list[2].partition == 0);
    while (port.poll(port.self, e)) cr_assert_neq(e->type, KAFKA_ASSIGN);
}

Test(kafka_client, does_not_wait_long_for_a_broker_that_is_away) {
    struct config *c = config_make();
    struct kafka_port port;
    struct err err = {0};
    struct kafka_partition at = {0, 0, -1, {0}};
    int64_t low, high;
    property(c, "bootstrap.servers", "127.0.0.1:1", false);
    cr_assert_eq(kafka_client_open(&port, c, eventfd(0, EFD_NONBLOCK), &err), 0);
    uint64_t begin = clock_ns(&clock_real);
    cr_assert_eq(port.committed(port.self, &at, 1, &err), -1);
    cr_assert_lt(clock_ns(&clock_real) - begin, 3 * NS_PER_S, "the heartbeat stops meanwhile");
    begin = clock_ns(&clock_real);
    cr_assert_eq(port.watermarks(port.self, &at, &low, &high, &err), -1);
    cr_assert_lt(clock_ns(&clock_real) - begin, 3 * NS_PER_S);
    port.watermarks_seen(port.self, &at, &low, &high);
    cr_assert(low == -1 && high == -1);
}

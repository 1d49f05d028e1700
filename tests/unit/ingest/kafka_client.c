/* The Kafka client of the library, as far as it can be seen without a real broker: what is refused, what comes first,
 * and that it keeps on reading. */
#include <criterion/criterion.h>
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
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
    static struct kafka_event event, *e = &event;
    static struct kafka_port port;
    struct config *c = config_make();
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

/* -- reading ----------------------------------------------------------------------------------- */

enum { MESSAGES = 2000, MESSAGE_BYTES = 1000 }; /* less than the simulated broker keeps of a partition */

static rd_kafka_t *producer_make(const char *brokers) {
    char text[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    cr_assert_eq(rd_kafka_conf_set(conf, "bootstrap.servers", brokers, text, sizeof text), RD_KAFKA_CONF_OK);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
    cr_assert_not_null(rk, "%s", text);
    return rk;
}

static void publish(rd_kafka_t *rk, const char *topic) {
    static char value[MESSAGE_BYTES];
    rd_kafka_topic_t *t = rd_kafka_topic_new(rk, topic, NULL);
    for (int i = 0; i < MESSAGES; i++) {
        cr_assert_eq(rd_kafka_produce(t, 0, RD_KAFKA_MSG_F_COPY, value, sizeof value, NULL, 0, NULL), 0);
        if (i % 50 == 49) cr_assert_eq(rd_kafka_flush(rk, 5000), RD_KAFKA_RESP_ERR_NO_ERROR); /* batches of 50 kB */
    }
    rd_kafka_topic_destroy(t);
}

static double seconds_to_read(struct kafka_port *port, void *handle) {
    uint64_t began = clock_ns(&clock_real);
    struct kafka_message m;
    struct err err;
    for (int read = 0; read < MESSAGES && clock_ns(&clock_real) - began < 60 * NS_PER_S;) {
        enum kafka_fetch f = port->fetch(port->self, handle, &m, &err);
        cr_assert_neq(f, KAFKA_FAILED, "%s", err.text);
        if (f != KAFKA_MESSAGE) continue;
        cr_assert_eq(m.offset, read);
        port->done(port->self, &m);
        read++;
    }
    return (double)(clock_ns(&clock_real) - began) / (double)NS_PER_S;
}

/* A reader of the only partition of a topic with MESSAGES messages, from its beginning. */
static void *reader_make(struct kafka_port *port, const char *name, const char *value) {
    rd_kafka_t *owner = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), NULL, 0);
    rd_kafka_mock_cluster_t *cluster = rd_kafka_mock_cluster_new(owner, 1);
    const char *brokers = rd_kafka_mock_cluster_bootstraps(cluster);
    cr_assert_eq(rd_kafka_mock_topic_create(cluster, "bulk", 1, 1), RD_KAFKA_RESP_ERR_NO_ERROR);
    publish(producer_make(brokers), "bulk");

    struct config *c = config_make();
    struct err err = {0};
    property(c, "bootstrap.servers", brokers, false);
    property(c, "fetch.message.max.bytes", "50000", false);
    property(c, name, value, false);
    c->topic[0].partition_count = 1;
    cr_assert_eq(kafka_client_open(port, c, eventfd(0, EFD_NONBLOCK), &err), 0, "%s", err.text);
    struct kafka_partition at = {.offset = 0};
    void *handle;
    cr_assert_eq(port->assign(port->self, &at, 1, &handle, &err), 0, "%s", err.text);
    return handle;
}

static double seconds_with(const char *name, const char *value) {
    struct kafka_port port;
    void *handle = reader_make(&port, name, value);
    return seconds_to_read(&port, handle);
}

static int64_t next_offset(struct kafka_port *port, void *handle) {
    struct kafka_message m;
    struct err err;
    uint64_t began = clock_ns(&clock_real);
    while (port->fetch(port->self, handle, &m, &err) != KAFKA_MESSAGE)
        cr_assert_lt(clock_ns(&clock_real) - began, 20 * NS_PER_S, "nothing comes");
    port->done(port->self, &m);
    return m.offset;
}

Test(kafka_client, gives_nothing_from_before_a_seek_after_it) {
    struct kafka_port port;
    struct err err;
    void *handle = reader_make(&port, "queued.min.messages", "100000");
    for (int64_t i = 0; i < 300; i++) cr_assert_eq(next_offset(&port, handle), i);
    static const int64_t targets[] = {0, 1500, 299, 300, 64};
    for (size_t i = 0; i < sizeof targets / sizeof targets[0]; i++) {
        cr_assert_eq(port.seek(port.self, handle, targets[i], &err), 0, "%s", err.text);
        for (int64_t k = 0; k < 70; k++) cr_assert_eq(next_offset(&port, handle), targets[i] + k);
    }
}

/* The library by itself would sleep for a second each time that the queue is full: forty times here. */
Test(kafka_client, goes_on_reading_as_soon_as_a_queue_full_of_bytes_has_room) {
    cr_assert_lt(seconds_with("queued.max.messages.kbytes", "50"), 8.0);
}

Test(kafka_client, goes_on_reading_as_soon_as_a_queue_full_of_messages_has_room) {
    cr_assert_lt(seconds_with("queued.min.messages", "40"), 8.0);
}

static void wait_event(struct kafka_port *port, enum kafka_event_type type, struct kafka_event *e) {
    uint64_t began = clock_ns(&clock_real);
    do cr_assert_lt(clock_ns(&clock_real) - began, 30 * NS_PER_S, "event %d does not come", type);
    while (!port->poll(port->self, e) || e->type != type);
}

Test(kafka_client, fence_ends_it_and_is_not_taken_for_a_passing_error) {
    static struct kafka_event e;
    struct kafka_port port;
    struct err err = {0};
    void *handle;
    rd_kafka_t *owner = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), NULL, 0);
    rd_kafka_mock_cluster_t *cluster = rd_kafka_mock_cluster_new(owner, 1);
    cr_assert_eq(rd_kafka_mock_topic_create(cluster, "bulk", 1, 1), RD_KAFKA_RESP_ERR_NO_ERROR);
    struct config *c = config_make();
    property(c, "bootstrap.servers", rd_kafka_mock_cluster_bootstraps(cluster), false);
    cr_assert_eq(kafka_client_open(&port, c, eventfd(0, EFD_NONBLOCK), &err), 0, "%s", err.text);
    wait_event(&port, KAFKA_ASSIGN, &e);
    struct kafka_partition at = {.offset = 0};
    cr_assert_eq(port.assign(port.self, &at, 1, &handle, &err), 0, "%s", err.text);
    rd_kafka_mock_push_request_errors(cluster, 8 /* OffsetCommit */, 1, RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID);
    cr_assert_eq(port.commit(port.self, &at, 1, 1, &err), 0, "%s", err.text);
    wait_event(&port, KAFKA_FATAL, &e);
    cr_assert_not(e.lost, "it was in the group: it is a namesake's doing");
    cr_assert_not_null(strstr(e.text, "FENCED_INSTANCE_ID"), "%s", e.text);
}

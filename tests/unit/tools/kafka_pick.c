/* Single records out of a topic: a cluster that librdkafka makes up within this process. */
#include "tools/kafka_pick.h"

#include <criterion/criterion.h>
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

enum { RECORDS = 40 };

static rd_kafka_t *producer;
static rd_kafka_mock_cluster_t *cluster;
static struct config config;
static struct kafka_pick *pick;
static struct err err;

static void put(int i) {
    char key[16], value[16];
    snprintf(key, sizeof key, "k%d", i);
    snprintf(value, sizeof value, "value %d", i);
    cr_assert_eq(rd_kafka_producev(producer, RD_KAFKA_V_TOPIC("cards"), RD_KAFKA_V_PARTITION(0),
                                   RD_KAFKA_V_KEY(key, strlen(key)), RD_KAFKA_V_VALUE(value, i % 5 ? strlen(value) : 0),
                                   RD_KAFKA_V_HEADER("op", "add", 3), RD_KAFKA_V_TIMESTAMP(1700000000000 + i),
                                   RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END),
                 RD_KAFKA_RESP_ERR_NO_ERROR);
}

static void prepare(void) {
    char text[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set(conf, "log_level", "0", NULL, 0);
    producer = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
    cr_assert_not_null(producer, "%s", text);
    cluster = rd_kafka_mock_cluster_new(producer, 1);
    cr_assert_eq(rd_kafka_mock_topic_create(cluster, "cards", 1, 1), RD_KAFKA_RESP_ERR_NO_ERROR);
    rd_kafka_brokers_add(producer, rd_kafka_mock_cluster_bootstraps(cluster));
    for (int i = 0; i < RECORDS; i++) put(i);
    cr_assert_eq(rd_kafka_flush(producer, 10000), RD_KAFKA_RESP_ERR_NO_ERROR);
    config.kafka.property_count = 1;
    struct config_property *p = &config.kafka.property[0];
    snprintf(p->name, sizeof p->name, "bootstrap.servers");
    snprintf(p->value, sizeof p->value, "%s", rd_kafka_mock_cluster_bootstraps(cluster));
    snprintf(config.kafka.group_id, sizeof config.kafka.group_id, "nobody");
    cr_assert_not_null(pick = kafka_pick_open(&config, &err), "%s", err.text);
}

static void clean(void) {
    kafka_pick_close(pick);
    rd_kafka_mock_cluster_destroy(cluster);
    rd_kafka_destroy(producer);
}
TestSuite(kafka_pick, .init = prepare, .fini = clean, .timeout = 60);

static char said[4096];
static int stop_at = -1;

static int tell(void *context, int64_t offset, const struct kafka_picked *m) {
    size_t n = strlen(said);
    cr_assert_eq(context, &config);
    if (m == NULL) {
        snprintf(said + n, sizeof said - n, "%d missing,", (int)offset);
    } else {
        cr_assert(m->offset == offset && m->timestamp_ms == 1700000000000 + offset);
        cr_assert(m->header_count == 1 && strcmp(m->header[0].name, "op") == 0 && m->header[0].bytes == 3);
        snprintf(said + n, sizeof said - n, "%d %.*s=%.*s,", (int)offset, (int)m->key_bytes, (const char *)m->key,
                 (int)m->value_bytes, m->value != NULL ? (const char *)m->value : "");
    }
    return offset == stop_at ? 7 : 0;
}

static int each(const int64_t *offset, size_t count) {
    said[0] = 0;
    return kafka_pick_each(pick, "cards", 0, offset, count, tell, &config, &err);
}

Test(kafka_pick, reads_what_was_chosen_and_names_what_is_not_there) {
    const int64_t offsets[] = {1, 2, 17, 39, 40, 1000};
    cr_assert_eq(each(offsets, 6), 0, "%s", err.text);
    cr_assert_str_eq(said, "1 k1=value 1,2 k2=value 2,17 k17=value 17,39 k39=value 39,40 missing,1000 missing,");
    const int64_t back[] = {0, 5};
    cr_assert_eq(each(back, 2), 0, "%s", err.text);
    cr_assert_str_eq(said, "0 k0=,5 k5=,", "from the front again, values that are empty");
    const int64_t beyond[] = {500};
    cr_assert_eq(each(beyond, 1), 0, "%s", err.text);
    cr_assert_str_eq(said, "500 missing,");
}

Test(kafka_pick, ends_when_it_is_told_to) {
    const int64_t offsets[] = {3, 4, 6};
    stop_at = 4;
    cr_assert_eq(each(offsets, 3), 7);
    cr_assert_str_eq(said, "3 k3=value 3,4 k4=value 4,");
}

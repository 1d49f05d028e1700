/* The second consumer, against the library's simulated brokers: what stands at an offset, and how long it may take. */
#include "ingest/kafka_witness.h"

#include <criterion/criterion.h>
#include <librdkafka/rdkafka_mock.h>
#include <string.h>

#include "base/clock.h"
#include "ingest/kafka.h"

enum { PARTITIONS = 8, MESSAGES = 50 };

static rd_kafka_conf_t *conf_make(const char *brokers, bool consumer) {
    static const char *const of_consumers[][2] = {{"group.id", "group"},
                                                  {"group.instance.id", "node"},
                                                  {"enable.auto.commit", "false"},
                                                  {"enable.partition.eof", "true"},
                                                  {"auto.offset.reset", "error"}};
    char text[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    cr_assert_eq(rd_kafka_conf_set(conf, "bootstrap.servers", brokers, text, sizeof text), RD_KAFKA_CONF_OK);
    for (size_t i = 0; consumer && i < sizeof of_consumers / sizeof of_consumers[0]; i++)
        cr_assert_eq(rd_kafka_conf_set(conf, of_consumers[i][0], of_consumers[i][1], text, sizeof text),
                     RD_KAFKA_CONF_OK, "%s", text);
    return conf;
}

static int64_t time_of(int32_t partition, int64_t offset) { return 1700000000000 + partition * 1000 + offset; }

/* A topic of which the record at each offset of each partition has a timestamp of its own. */
static const char *brokers_make(void) {
    rd_kafka_t *owner = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), NULL, 0);
    rd_kafka_mock_cluster_t *cluster = rd_kafka_mock_cluster_new(owner, 2);
    const char *brokers = rd_kafka_mock_cluster_bootstraps(cluster);
    cr_assert_eq(rd_kafka_mock_topic_create(cluster, "bulk", PARTITIONS, 1), RD_KAFKA_RESP_ERR_NO_ERROR);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf_make(brokers, false), NULL, 0);
    for (int32_t p = 0; p < PARTITIONS; p++)
        for (int64_t i = 0; i < MESSAGES; i++)
            cr_assert_eq(rd_kafka_producev(rk, RD_KAFKA_V_TOPIC("bulk"), RD_KAFKA_V_PARTITION(p),
                                           RD_KAFKA_V_VALUE("value", 5), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
                                           RD_KAFKA_V_TIMESTAMP(time_of(p, i)), RD_KAFKA_V_END),
                         RD_KAFKA_RESP_ERR_NO_ERROR);
    cr_assert_eq(rd_kafka_flush(rk, 10000), RD_KAFKA_RESP_ERR_NO_ERROR);
    return brokers;
}

Test(kafka_witness, reads_the_timestamp_at_each_offset) {
    const char *brokers = brokers_make();
    static const int64_t offset[PARTITIONS] = {0, 1, 17, MESSAGES - 1, MESSAGES, MESSAGES + 1, 100000, 30};
    int64_t ms[PARTITIONS];
    struct err err = {0};
    rd_kafka_conf_t *conf = conf_make(brokers, true);
    rd_kafka_topic_partition_list_t *at = rd_kafka_topic_partition_list_new(PARTITIONS);
    for (int32_t p = 0; p < PARTITIONS; p++) rd_kafka_topic_partition_list_add(at, "bulk", p)->offset = offset[p];
    for (int round = 0; round < 3; round++) {
        cr_assert_eq(kafka_witness(conf, at, ms, &err), 0, "%s", err.text);
        for (int32_t p = 0; p < PARTITIONS; p++) {
            int64_t expected = offset[p] < MESSAGES ? time_of(p, offset[p]) : KAFKA_WITNESS_NONE;
            cr_assert_eq(ms[p], expected, "partition %d: %lld", p, (long long)ms[p]);
        }
    }
    rd_kafka_topic_partition_list_destroy(at);
    rd_kafka_conf_destroy(conf);
}

Test(kafka_witness, says_that_nothing_came_and_does_not_wait_long) {
    int64_t ms[2];
    struct err err = {0};
    rd_kafka_topic_partition_list_t *at = rd_kafka_topic_partition_list_new(2);
    rd_kafka_topic_partition_list_add(at, "bulk", 0)->offset = 3;
    rd_kafka_topic_partition_list_add(at, "bulk", 7)->offset = 3;
    rd_kafka_conf_t *conf = conf_make("127.0.0.1:1", true);
    uint64_t began = clock_ns(&clock_real);
    cr_assert_eq(kafka_witness(conf, at, ms, &err), 0, "%s", err.text);
    uint64_t took = clock_ns(&clock_real) - began;
    cr_assert(ms[0] == KAFKA_WITNESS_LATE && ms[1] == KAFKA_WITNESS_LATE);
    cr_assert(took >= KAFKA_CALL_MS * NS_PER_MS && took < 3 * NS_PER_S, "%llu ms",
              (unsigned long long)(took / 1000000));
    rd_kafka_topic_partition_list_destroy(at);
    rd_kafka_conf_destroy(conf);
}

Test(kafka_witness, of_a_topic_that_is_not_there_has_no_answer) {
    const char *brokers = brokers_make();
    int64_t ms[1];
    struct err err = {0};
    rd_kafka_topic_partition_list_t *at = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(at, "bulk", PARTITIONS + 5)->offset = 3;
    rd_kafka_conf_t *conf = conf_make(brokers, true);
    cr_assert_eq(kafka_witness(conf, at, ms, &err), 0, "%s", err.text);
    cr_assert_eq(ms[0], KAFKA_WITNESS_LATE);
    rd_kafka_topic_partition_list_destroy(at);
    rd_kafka_conf_destroy(conf);
}

/* The ends of a partition, asked of a simulated broker that answers one question and refuses the other. */
#include "kafka/watermarks.h"

#include <criterion/criterion.h>
#include <librdkafka/rdkafka_mock.h>

enum { LIST_OFFSETS = 2, RECORDS = 10, TIMES = 200 };

static rd_kafka_t *client;
static rd_kafka_mock_cluster_t *cluster;

static void opened(void) {
    char text[256];
    rd_kafka_t *owner = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), text, sizeof text);
    cluster = rd_kafka_mock_cluster_new(owner, 1);
    cr_assert_not_null(cluster);
    cr_assert_eq(rd_kafka_mock_topic_create(cluster, "cards", 2, 1), RD_KAFKA_RESP_ERR_NO_ERROR);
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    cr_assert_eq(rd_kafka_conf_set(conf, "bootstrap.servers", rd_kafka_mock_cluster_bootstraps(cluster), NULL, 0),
                 RD_KAFKA_CONF_OK);
    client = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
    cr_assert_not_null(client);
    for (int i = 0; i < RECORDS; i++)
        cr_assert_eq(rd_kafka_producev(client, RD_KAFKA_V_TOPIC("cards"), RD_KAFKA_V_PARTITION(0),
                                       RD_KAFKA_V_VALUE("x", 1), RD_KAFKA_V_END),
                     RD_KAFKA_RESP_ERR_NO_ERROR);
    cr_assert_eq(rd_kafka_flush(client, 10000), RD_KAFKA_RESP_ERR_NO_ERROR);
}

TestSuite(watermarks, .init = opened, .timeout = 60);

Test(watermarks, are_those_of_the_partition) {
    int64_t low = -5, high = -5;
    cr_assert_eq(kafka_watermarks(client, "cards", 0, &low, &high, 5000), RD_KAFKA_RESP_ERR_NO_ERROR);
    cr_assert(low == 0 && high == RECORDS, "%lld %lld", (long long)low, (long long)high);
    cr_assert_eq(kafka_watermarks(client, "cards", 1, &low, &high, 5000), RD_KAFKA_RESP_ERR_NO_ERROR);
    cr_assert(low == 0 && high == 0);
    cr_assert_neq(kafka_watermarks(client, "cards", 7, &low, &high, 1000), RD_KAFKA_RESP_ERR_NO_ERROR);
}

Test(watermarks, one_that_is_refused_is_not_taken_from_the_other) {
    int refused = 0;
    for (int i = 0; i < TIMES; i++) {
        int64_t low, high;
        rd_kafka_mock_push_request_errors(cluster, LIST_OFFSETS, 1, RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
        if (kafka_watermarks(client, "cards", 0, &low, &high, 5000) != RD_KAFKA_RESP_ERR_NO_ERROR)
            refused++;
        else
            cr_assert(low == 0 && high == RECORDS, "try %d: %lld %lld", i, (long long)low, (long long)high);
    }
    cr_assert_gt(refused, TIMES / 2);
}

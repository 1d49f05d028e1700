#include "tools/demo/broker.h"

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

static const char *const topics[2] = {BROKER_TOPIC_BULK, BROKER_TOPIC_CHANGE};

/* -- the broker -------------------------------------------------------------------------------- */

int broker_main(void) {
    char error[512];
    rd_kafka_t *kafka = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), error, sizeof error);
    rd_kafka_mock_cluster_t *cluster = kafka != NULL ? rd_kafka_mock_cluster_new(kafka, 1) : NULL;
    if (cluster == NULL) {
        fprintf(stderr, "no broker: %s\n", kafka != NULL ? "the mock cluster cannot be made" : error);
        return EX_UNAVAILABLE;
    }
    for (int i = 0; i < 2; i++)
        if (rd_kafka_mock_topic_create(cluster, topics[i], CARDS_PARTITIONS, 1) != RD_KAFKA_RESP_ERR_NO_ERROR)
            return EX_UNAVAILABLE;
    printf("%s\n", rd_kafka_mock_cluster_bootstraps(cluster));
    fflush(stdout);
    for (;;) pause(); /* it lives in threads of its own, and dies with the process */
}

static int address_read(int fd, char address[BROKER_ADDRESS_BYTES], struct err *err) {
    size_t len = 0;
    for (;;) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        ssize_t n = poll(&ready, 1, 10000) == 1 ? read(fd, address + len, BROKER_ADDRESS_BYTES - 1 - len) : 0;
        if (n <= 0) return err_set(err, EX_UNAVAILABLE, "the embedded broker does not start");
        len += (size_t)n;
        address[len] = 0;
        char *end = strchr(address, '\n');
        if (end == NULL) continue;
        *end = 0;
        return 0;
    }
}

int broker_start(struct process *p, const char *executable, const char *log, char address[BROKER_ADDRESS_BYTES],
                 struct err *err) {
    char *argv[] = {(char *)executable, (char[]){"--broker"}, NULL};
    int out;
    if (process_start(p, argv, log, &out, err) != 0) return -1;
    int r = address_read(out, address, err);
    close(out);
    return r;
}

/* -- the producer ------------------------------------------------------------------------------ */

static void delivered(rd_kafka_t *kafka, const rd_kafka_message_t *message, void *opaque) {
    (void)kafka;
    struct producer *p = opaque;
    if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR)
        p->delivered++;
    else
        p->failed++;
}

/* The client asks for the leaders of a topic it hears of for the first time only once a second: ask now. */
static int topics_know(struct producer *p, struct err *err) {
    for (int i = 0; i < 2; i++) {
        const struct rd_kafka_metadata *metadata;
        p->topic[i] = rd_kafka_topic_new(p->kafka, topics[i], NULL);
        rd_kafka_resp_err_t e =
            p->topic[i] != NULL ? rd_kafka_metadata(p->kafka, 0, p->topic[i], &metadata, 5000) : rd_kafka_last_error();
        if (e != RD_KAFKA_RESP_ERR_NO_ERROR)
            return err_set(err, EX_UNAVAILABLE, "topic %s of the embedded broker: %s", topics[i], rd_kafka_err2str(e));
        rd_kafka_metadata_destroy(metadata);
    }
    return 0;
}

int producer_init(struct producer *p, const char *address, struct err *err) {
    /* One request in flight keeps the order of retries; the mock would duplicate for an idempotent producer. */
    const char *const properties[][2] = {{"bootstrap.servers", address},
                                         {"enable.idempotence", "false"},
                                         {"max.in.flight.requests.per.connection", "1"},
                                         {"linger.ms", "5"},
                                         {"message.timeout.ms", "10000"},
                                         {"log_level", "2"}};
    char error[512];
    *p = (struct producer){0};
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    for (size_t i = 0; i < sizeof properties / sizeof properties[0]; i++)
        if (rd_kafka_conf_set(conf, properties[i][0], properties[i][1], error, sizeof error) != RD_KAFKA_CONF_OK) {
            rd_kafka_conf_destroy(conf);
            return err_set(err, EX_SOFTWARE, "%s", error);
        }
    rd_kafka_conf_set_dr_msg_cb(conf, delivered);
    rd_kafka_conf_set_opaque(conf, p);
    p->kafka = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof error);
    if (p->kafka != NULL) return topics_know(p, err);
    rd_kafka_conf_destroy(conf);
    return err_set(err, EX_UNAVAILABLE, "no producer: %s", error);
}

int producer_send(struct producer *p, const struct card_record *r, struct err *err) {
    static const char *const words[] = {"add", "update", "delete"};
    const char *word = words[r->operation];
    for (;;) {
        rd_kafka_resp_err_t e = rd_kafka_producev(
            p->kafka, RD_KAFKA_V_RKT(p->topic[r->bulk ? 0 : 1]), RD_KAFKA_V_PARTITION(r->partition),
            RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_KEY((void *)(uintptr_t)r->account, strlen(r->account)),
            RD_KAFKA_V_VALUE((void *)(uintptr_t)r->value, r->value_bytes), RD_KAFKA_V_HEADER("op", word, -1),
            RD_KAFKA_V_END);
        if (e == RD_KAFKA_RESP_ERR_NO_ERROR) break;
        if (e != RD_KAFKA_RESP_ERR__QUEUE_FULL || interrupted())
            return err_set(err, EX_UNAVAILABLE, "publishing: %s", rd_kafka_err2str(e));
        rd_kafka_poll(p->kafka, 100);
    }
    p->sent[r->bulk ? 0 : 1][r->partition]++;
    return 0;
}

void producer_poll(struct producer *p, int timeout_ms) { rd_kafka_poll(p->kafka, timeout_ms); }

int producer_flush(struct producer *p, int timeout_ms, struct err *err) {
    if (rd_kafka_flush(p->kafka, timeout_ms) != RD_KAFKA_RESP_ERR_NO_ERROR)
        return err_set(err, EX_UNAVAILABLE, "the embedded broker has not acknowledged %d records",
                       rd_kafka_outq_len(p->kafka));
    if (p->failed == 0) return 0;
    return err_set(err, EX_UNAVAILABLE, "the embedded broker has refused %llu records", (unsigned long long)p->failed);
}

int broker_check(struct producer *p, struct err *err) {
    for (int t = 0; t < 2; t++)
        for (int32_t i = 0; i < CARDS_PARTITIONS; i++) {
            int64_t low = -1, high = -1;
            rd_kafka_resp_err_t e = rd_kafka_query_watermark_offsets(p->kafka, topics[t], i, &low, &high, 5000);
            if (e != RD_KAFKA_RESP_ERR_NO_ERROR)
                return err_set(err, EX_UNAVAILABLE, "the embedded broker does not tell the offsets of %s[%d]: %s",
                               topics[t], i, rd_kafka_err2str(e));
            if (low != 0 || high != (int64_t)p->sent[t][i])
                return err_set(err, EX_SOFTWARE, "the embedded broker holds %s[%d] %lld to %lld, not the %llu sent",
                               topics[t], i, (long long)low, (long long)high, (unsigned long long)p->sent[t][i]);
        }
    return 0;
}

void producer_free(struct producer *p) {
    if (p->kafka == NULL) return;
    rd_kafka_purge(p->kafka, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
    rd_kafka_flush(p->kafka, 1000);
    for (int i = 0; i < 2; i++)
        if (p->topic[i] != NULL) rd_kafka_topic_destroy(p->topic[i]);
    rd_kafka_destroy(p->kafka);
    p->kafka = NULL;
}

#include "recon/account_kafka.h"

#include <librdkafka/rdkafka.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "kafka/settings.h"
#include "base/log.h"
#include "base/thread.h"

enum { PARTITIONS = 256, CALL_MS = 2000, LAYOUT_S = 5, LAYOUT_KNOWN_S = 60 };

static const struct kafka_setting consumer_defaults[] = {
    {"client.id", "millrace-recon"},
    {"socket.nagle.disable", "true"},
    {"reconnect.backoff.ms", "100"},
    {"reconnect.backoff.max.ms", "2000"},
    {"queued.max.messages.kbytes", "16384"},
    {"fetch.error.backoff.ms", "50"},
    {NULL, NULL},
};

static const struct kafka_setting producer_defaults[] = {
    {"client.id", "millrace-recon"},
    {"socket.nagle.disable", "true"},
    {"reconnect.backoff.ms", "100"},
    {"reconnect.backoff.max.ms", "2000"},
    {NULL, NULL},
};

static const struct kafka_setting consumer_fixed[] = {
    {"enable.auto.commit", "false"},
    {"enable.auto.offset.store", "false"},
    {"auto.offset.reset", "earliest"},
    {"check.crcs", "true"},
    {"allow.auto.create.topics", "false"},
    {"log.connection.close", "false"},
    {NULL, NULL},
};

static const struct kafka_setting producer_fixed[] = {
    {"enable.idempotence", "true"},
    {"acks", "all"},
    {"linger.ms", "5"},
    {"message.timeout.ms", "300000"},
    {"queue.buffering.max.messages", "10000"},
    {"log.connection.close", "false"},
    {NULL, NULL},
};

struct link {
    const struct config *config;
    rd_kafka_t *producer, *consumer;
    rd_kafka_topic_t *topic; /* of the consumer */
    rd_kafka_queue_t *queue;
    _Atomic int32_t partitions; /* 0: not known yet */
    int32_t started;            /* partitions below it are read */
    int64_t from[PARTITIONS];
    int64_t expected[PARTITIONS]; /* lower offsets were fetched before a seek */
    bool lost;                    /* a message could not be delivered */
};

/* -- sending ----------------------------------------------------------------------------------- */

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque) {
    struct link *l = opaque;
    (void)rk;
    if (m->err == RD_KAFKA_RESP_ERR_NO_ERROR && m->offset >= 0) return; /* without an offset: see feed/kafka_out.c */
    l->lost = true;
    log_warn("recon.account_undelivered", "%s: %s; it is told again", l->config->recon.anchor_topic,
             m->err != RD_KAFKA_RESP_ERR_NO_ERROR ? rd_kafka_err2str(m->err) : "not known whether it was written");
}

static bool port_send(void *self, const char *text, size_t len) {
    struct link *l = self;
    rd_kafka_resp_err_t e = rd_kafka_producev(l->producer, RD_KAFKA_V_TOPIC(l->config->recon.anchor_topic),
                                              RD_KAFKA_V_PARTITION(0), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
                                              RD_KAFKA_V_KEY(l->config->instance, strlen(l->config->instance)),
                                              RD_KAFKA_V_VALUE((void *)(uintptr_t)text, len), RD_KAFKA_V_END);
    rd_kafka_poll(l->producer, 0);
    if (e == RD_KAFKA_RESP_ERR_NO_ERROR) return true;
    if (e != RD_KAFKA_RESP_ERR__QUEUE_FULL)
        log_warn("recon.account_undelivered", "%s: %s; it is told again", l->config->recon.anchor_topic,
                 rd_kafka_err2str(e));
    return false;
}

static uint64_t port_unsent(void *self) {
    struct link *l = self;
    rd_kafka_poll(l->producer, 0);
    return (uint64_t)rd_kafka_outq_len(l->producer);
}

static bool port_lost(void *self) {
    struct link *l = self;
    bool lost = l->lost;
    l->lost = false;
    return lost;
}

/* -- reading ----------------------------------------------------------------------------------- */

static void read_on(struct link *l) {
    int32_t partitions = atomic_load(&l->partitions);
    for (; l->started < partitions && l->started < PARTITIONS; l->started++) {
        int32_t p = l->started;
        if (rd_kafka_consume_start_queue(l->topic, p, l->from[p] < 0 ? RD_KAFKA_OFFSET_BEGINNING : l->from[p],
                                         l->queue) != 0)
            return;
        l->expected[p] = l->from[p];
    }
}

static bool port_next(void *self, struct account_message *out) {
    struct link *l = self;
    read_on(l);
    for (;;) {
        rd_kafka_message_t *m = rd_kafka_consume_queue(l->queue, 0);
        if (m == NULL) return false;
        bool good = m->err == RD_KAFKA_RESP_ERR_NO_ERROR && m->payload != NULL && m->len < sizeof out->text &&
                    m->partition < PARTITIONS && m->offset >= l->expected[m->partition];
        if (good) {
            out->partition = m->partition;
            out->offset = m->offset;
            out->len = m->len;
            memcpy(out->text, m->payload, m->len);
            out->text[m->len] = '\0';
            l->expected[m->partition] = m->offset + 1;
        }
        rd_kafka_message_destroy(m);
        if (good) return true;
    }
}

/* What was fetched and not stored is read again. */
static void port_rewind(void *self) {
    struct link *l = self;
    for (int32_t p = 0; p < l->started; p++) rd_kafka_consume_stop(l->topic, p);
    for (rd_kafka_message_t *m; (m = rd_kafka_consume_queue(l->queue, 0)) != NULL;) rd_kafka_message_destroy(m);
    l->started = 0;
    for (int p = 0; p < PARTITIONS; p++) l->from[p] = -1;
}

static void port_seek(void *self, int32_t partition, int64_t offset) {
    struct link *l = self;
    if (partition >= 0 && partition < PARTITIONS) l->from[partition] = offset;
}

/* -- opening ----------------------------------------------------------------------------------- */

static void *layout_ask(void *self) {
    struct link *l = self;
    for (;;) {
        const struct rd_kafka_metadata *found;
        int32_t n = 0;
        if (rd_kafka_metadata(l->consumer, 0, l->topic, &found, CALL_MS) == RD_KAFKA_RESP_ERR_NO_ERROR) {
            if (found->topic_cnt == 1 && found->topics[0].err == RD_KAFKA_RESP_ERR_NO_ERROR)
                n = found->topics[0].partition_cnt;
            rd_kafka_metadata_destroy(found);
        }
        if (n > atomic_load(&l->partitions)) atomic_store(&l->partitions, n);
        sleep(atomic_load(&l->partitions) > 0 ? LAYOUT_KNOWN_S : n == 0 ? 1 : LAYOUT_S);
    }
    return NULL;
}

static void log_from_library(const rd_kafka_t *rk, int level, const char *facility, const char *text) {
    (void)rk;
    if (level <= 3) log_warn("recon.account_link", "%s: %s", facility, text);
}

static rd_kafka_t *client(struct link *l, bool producer, struct err *err) {
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_type_t type = producer ? RD_KAFKA_PRODUCER : RD_KAFKA_CONSUMER;
    CHECK(conf != NULL);
    rd_kafka_conf_set_log_cb(conf, log_from_library);
    rd_kafka_conf_set_opaque(conf, l);
    if (producer) rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    if (kafka_settings_fill(conf, type, l->config, producer ? producer_defaults : consumer_defaults,
                            producer ? producer_fixed : consumer_fixed, err) == 0)
        return kafka_settings_open(conf, type, err);
    rd_kafka_conf_destroy(conf);
    return NULL;
}

int account_kafka_open(struct account_port *port, const struct config *c, struct err *err) {
    struct link *l = calloc(1, sizeof *l);
    CHECK(l != NULL);
    l->config = c;
    for (int p = 0; p < PARTITIONS; p++) l->from[p] = -1;
    if ((l->producer = client(l, true, err)) == NULL || (l->consumer = client(l, false, err)) == NULL) return -1;
    l->queue = rd_kafka_queue_new(l->consumer);
    l->topic = rd_kafka_topic_new(l->consumer, c->recon.anchor_topic, NULL);
    if (l->topic == NULL) return err_set(err, EX_CONFIG, "recon.anchor_topic: not accepted");
    *port = (struct account_port){.self = l,
                                  .next = port_next,
                                  .send = port_send,
                                  .unsent = port_unsent,
                                  .lost = port_lost,
                                  .rewind = port_rewind,
                                  .seek = port_seek};
    return thread_start(layout_ask, l, err);
}

#include "ingest/kafka_witness.h"

#include <string.h>

#include "base/clock.h"
#include "base/thread.h"
#include "ingest/kafka.h"

/* The partitions share one queue, and the library fetches nothing for a second when it finds it full: it takes a first
 * fetch of all. */
static const char *const roomy[][2] = {
    {"queued.min.messages", "10000000"},
    {"queued.max.messages.kbytes", "65536"},
    {"fetch.wait.max.ms", "10"},
};

static rd_kafka_t *consumer_make(const rd_kafka_conf_t *like, struct err *err) {
    char text[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_dup(like);
    for (size_t i = 0; i < sizeof roomy / sizeof roomy[0]; i++)
        if (rd_kafka_conf_set(conf, roomy[i][0], roomy[i][1], text, sizeof text) != RD_KAFKA_CONF_OK) {
            rd_kafka_conf_destroy(conf);
            err_set(err, 1, "kafka.%s: %s", roomy[i][0], text);
            return NULL;
        }
    rd_kafka_conf_set_error_cb(conf, NULL); /* it is about what the other consumer reads */
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof text);
    if (rk == NULL) {
        rd_kafka_conf_destroy(conf);
        err_set(err, 1, "Kafka client: %s", text);
        return NULL;
    }
    rd_kafka_poll_set_consumer(rk);
    return rk;
}

static void *destroy(void *rk) {
    rd_kafka_destroy_flags(rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    return NULL;
}

static void consumer_end(rd_kafka_t *rk) {
    struct err ignored;
    if (thread_start(destroy, rk, &ignored) != 0) destroy(rk);
}

static int index_of(const rd_kafka_topic_partition_list_t *at, const rd_kafka_message_t *m) {
    if (m->rkt == NULL) return -1;
    const char *topic = rd_kafka_topic_name(m->rkt);
    for (int i = 0; i < at->cnt; i++)
        if (at->elems[i].partition == m->partition && strcmp(at->elems[i].topic, topic) == 0) return i;
    return -1;
}

/* What a message says of the record at an offset. False: nothing. */
static bool answer(const rd_kafka_message_t *m, int64_t offset, int64_t *timestamp_ms) {
    rd_kafka_timestamp_type_t type;
    if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF || m->err == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET ||
        m->err == RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE) {
        *timestamp_ms = KAFKA_WITNESS_NONE;
        return true;
    }
    if (m->err != RD_KAFKA_RESP_ERR_NO_ERROR || m->offset < offset) return false;
    int64_t ms = rd_kafka_message_timestamp(m, &type);
    *timestamp_ms =
        m->offset == offset && type != RD_KAFKA_TIMESTAMP_NOT_AVAILABLE && ms >= 0 ? ms : KAFKA_WITNESS_NONE;
    return true;
}

int kafka_witness(const rd_kafka_conf_t *conf, const rd_kafka_topic_partition_list_t *at, int64_t *timestamp_ms,
                  struct err *err) {
    uint64_t due = clock_ns(&clock_real) + KAFKA_CALL_MS * NS_PER_MS, now;
    int left = at->cnt;
    for (int i = 0; i < at->cnt; i++) timestamp_ms[i] = KAFKA_WITNESS_LATE;
    rd_kafka_t *rk = consumer_make(conf, err);
    if (rk == NULL) return -1;
    rd_kafka_resp_err_t e = rd_kafka_assign(rk, at);
    while (e == RD_KAFKA_RESP_ERR_NO_ERROR && left > 0 && (now = clock_ns(&clock_real)) < due) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(rk, (int)((due - now) / NS_PER_MS));
        if (m == NULL) continue;
        int i = index_of(at, m);
        if (i >= 0 && timestamp_ms[i] == KAFKA_WITNESS_LATE && answer(m, at->elems[i].offset, &timestamp_ms[i])) left--;
        rd_kafka_message_destroy(m);
    }
    consumer_end(rk);
    return e == RD_KAFKA_RESP_ERR_NO_ERROR ? 0 : err_set(err, 2, "assign: %s", rd_kafka_err2str(e));
}

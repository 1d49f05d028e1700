#include "tools/kafka_pick.h"

#include <librdkafka/rdkafka.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/clock.h"
#include "kafka/settings.h"
#include "kafka/watermarks.h"

enum { JUMP = 20000, POLL_MS = 200 }; /* offsets to be left out that are worth beginning anew */

struct kafka_pick {
    rd_kafka_t *rk;
    char why[256]; /* what the library complained of last */
};

static const struct kafka_setting no_defaults[] = {{NULL, NULL}};
static const struct kafka_setting fixed[] = {
    {"enable.auto.commit", "false"}, {"enable.partition.eof", "true"}, {"auto.offset.reset", "error"},
    {"check.crcs", "true"},          {"client.id", "millrace-replay"}, {NULL, NULL},
};

static void on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque) {
    struct kafka_pick *p = opaque;
    (void)rk;
    (void)code;
    snprintf(p->why, sizeof p->why, "%s", reason);
}

static void on_log(const rd_kafka_t *rk, int level, const char *facility, const char *text) {
    (void)rk, (void)level, (void)facility, (void)text; /* what matters comes as an error */
}

struct kafka_pick *kafka_pick_open(const struct config *c, struct err *err) {
    struct kafka_pick *p = calloc(1, sizeof *p);
    CHECK(p != NULL);
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set_opaque(conf, p);
    rd_kafka_conf_set_error_cb(conf, on_error);
    rd_kafka_conf_set_log_cb(conf, on_log);
    if (kafka_settings_fill(conf, RD_KAFKA_CONSUMER, c, no_defaults, fixed, err) == 0 &&
        kafka_settings_set(conf, "group.id", c->kafka.group_id, err) == 0)
        p->rk = kafka_settings_open(conf, RD_KAFKA_CONSUMER, err);
    else
        rd_kafka_conf_destroy(conf);
    if (p->rk == NULL) {
        free(p);
        return NULL;
    }
    rd_kafka_poll_set_consumer(p->rk);
    return p;
}

void kafka_pick_close(struct kafka_pick *p) {
    if (p == NULL) return;
    rd_kafka_assign(p->rk, NULL);
    rd_kafka_destroy_flags(p->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    free(p);
}

static int begin_at(struct kafka_pick *p, const char *topic, int32_t partition, int64_t offset, struct err *err) {
    rd_kafka_topic_partition_list_t *l = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(l, topic, partition)->offset = offset;
    rd_kafka_resp_err_t e = rd_kafka_assign(p->rk, l);
    rd_kafka_topic_partition_list_destroy(l);
    return e == 0 ? 0 : err_set(err, EX_UNAVAILABLE, "%s[%d]: %s", topic, partition, rd_kafka_err2str(e));
}

static void fill(struct kafka_picked *out, const rd_kafka_message_t *m) {
    rd_kafka_headers_t *headers;
    rd_kafka_timestamp_type_t type;
    *out = (struct kafka_picked){.key = m->key,
                                 .value = m->payload,
                                 .key_bytes = m->key_len,
                                 .value_bytes = m->len,
                                 .offset = m->offset,
                                 .timestamp_ms = rd_kafka_message_timestamp(m, &type)};
    if (type == RD_KAFKA_TIMESTAMP_NOT_AVAILABLE) out->timestamp_ms = -1;
    if (rd_kafka_message_headers(m, &headers) != RD_KAFKA_RESP_ERR_NO_ERROR) return;
    while (out->header_count < KAFKA_OUT_HEADERS_MAX &&
           rd_kafka_header_get_all(headers, out->header_count, &out->header[out->header_count].name,
                                   &out->header[out->header_count].value,
                                   &out->header[out->header_count].bytes) == RD_KAFKA_RESP_ERR_NO_ERROR)
        out->header_count++;
}

struct walk {
    const char *topic;
    int32_t partition;
    const int64_t *offset;
    size_t count, at;
    int (*found)(void *context, int64_t offset, const struct kafka_picked *m);
    void *context;
};

/* The offsets before `to` that are wanted are not there. */
static int pass_missing(struct walk *w, int64_t to) {
    int r = 0;
    while (r == 0 && w->at < w->count && w->offset[w->at] < to) r = w->found(w->context, w->offset[w->at++], NULL);
    return r;
}

/* The oldest offset that Kafka has, when what was asked for is below it or beyond the end. */
static int out_of_range(struct kafka_pick *p, struct walk *w, struct err *err) {
    int64_t low, high;
    rd_kafka_resp_err_t e = kafka_watermarks(p->rk, w->topic, w->partition, &low, &high, PICK_TIMEOUT_S * 1000);
    if (e != 0) return err_set(err, EX_UNAVAILABLE, "%s[%d]: %s", w->topic, w->partition, rd_kafka_err2str(e));
    int r = pass_missing(w, low);
    if (r == 0 && w->at < w->count && w->offset[w->at] >= high) r = pass_missing(w, INT64_MAX);
    return r != 0 || w->at == w->count ? r : begin_at(p, w->topic, w->partition, w->offset[w->at], err);
}

static int take(struct kafka_pick *p, struct walk *w, const rd_kafka_message_t *m, struct err *err) {
    struct kafka_picked picked;
    if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) return pass_missing(w, INT64_MAX);
    if (m->err == RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE || m->err == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET)
        return out_of_range(p, w, err);
    if (m->err != RD_KAFKA_RESP_ERR_NO_ERROR)
        return err_set(err, EX_UNAVAILABLE, "%s[%d]: %s", w->topic, w->partition, rd_kafka_message_errstr(m));
    int r = pass_missing(w, m->offset);
    if (r != 0 || w->at == w->count || w->offset[w->at] != m->offset) return r;
    fill(&picked, m);
    w->at++;
    r = w->found(w->context, m->offset, &picked);
    if (r == 0 && w->at < w->count && w->offset[w->at] - m->offset > JUMP)
        r = begin_at(p, w->topic, w->partition, w->offset[w->at], err);
    return r;
}

int kafka_pick_each(struct kafka_pick *p, const char *topic, int32_t partition, const int64_t *offset, size_t count,
                    int (*found)(void *context, int64_t offset, const struct kafka_picked *m), void *context,
                    struct err *err) {
    struct walk w = {topic, partition, offset, count, 0, found, context};
    if (count == 0) return 0;
    int r = begin_at(p, topic, partition, offset[0], err);
    uint64_t due = clock_ns(&clock_real) + PICK_TIMEOUT_S * NS_PER_S;
    while (r == 0 && w.at < count) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(p->rk, POLL_MS);
        if (m != NULL) {
            r = take(p, &w, m, err);
            rd_kafka_message_destroy(m);
            due = clock_ns(&clock_real) + PICK_TIMEOUT_S * NS_PER_S;
        } else if (clock_ns(&clock_real) >= due) {
            r = err_set(err, EX_UNAVAILABLE, "%s[%d]: the brokers have not answered for %d s%s%s", topic, partition,
                        PICK_TIMEOUT_S, p->why[0] != 0 ? ": " : "", p->why);
        }
    }
    return r;
}

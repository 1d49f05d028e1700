#include "tools/origin.h"

#include <librdkafka/rdkafka.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/clock.h"
#include "kafka/settings.h"
#include "kafka/watermarks.h"
#include "transform/convert.h"

/* Few records at a time are wanted, each at once. */
static const struct kafka_setting settings[] = {
    {"client.id", "millrace-verify"},
    {"queued.min.messages", "1000"},
    {"fetch.wait.max.ms", "10"},
    {"queued.max.messages.kbytes", "8192"},
    {"enable.auto.commit", "false"},
    {"enable.auto.offset.store", "false"},
    {"auto.offset.reset", "error"},
    {"enable.partition.eof", "true"},
    {"allow.auto.create.topics", "false"},
    {"log.connection.close", "false"},
    {NULL, NULL},
};
static const struct kafka_setting no_defaults[] = {{NULL, NULL}};

enum { READ_ON = 2000, POLL_MS = 200 }; /* records that are read and dropped rather than sought past */

struct origin {
    const struct config *config;
    rd_kafka_t *rk;
    struct json *json;
    rd_kafka_topic_t *topic; /* that is being read */
    uint32_t topic_index;
    int32_t partition; /* -1: none */
    int64_t next;
    uint8_t *headers;
    struct convert_topic *convert; /* [config->topic_count] */
    struct converted converted;
};

static void quiet(const rd_kafka_t *rk, int level, const char *facility, const char *text) {
    (void)rk, (void)level, (void)facility, (void)text;
}

static int make_client(struct origin *o, struct err *err) {
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    CHECK(conf != NULL);
    rd_kafka_conf_set_log_cb(conf, quiet);
    if (kafka_settings_fill(conf, RD_KAFKA_CONSUMER, o->config, no_defaults, settings, err) != 0) {
        rd_kafka_conf_destroy(conf);
        return -1;
    }
    o->rk = kafka_settings_open(conf, RD_KAFKA_CONSUMER, err);
    return o->rk != NULL ? 0 : -1;
}

struct origin *origin_open(const struct config *config, struct err *err) {
    struct origin *o = calloc(1, sizeof *o);
    CHECK(o != NULL);
    o->config = config;
    o->partition = -1;
    o->headers = malloc(HEADERS_BYTES_MAX);
    o->convert = calloc(config->topic_count, sizeof *o->convert);
    CHECK(o->headers != NULL && o->convert != NULL);
    o->json = json_new(RING_BYTES_MAX / RING_RECORD_SHARE, err);
    int r = o->json == NULL ? -1 : make_client(o, err);
    for (uint32_t i = 0; r == 0 && i < config->topic_count; i++)
        r = convert_topic_init(&o->convert[i], &config->topic[i], err);
    if (r == 0) return o;
    origin_close(o);
    return NULL;
}

static void leave(struct origin *o) {
    if (o->partition >= 0) rd_kafka_consume_stop(o->topic, o->partition);
    if (o->topic != NULL) rd_kafka_topic_destroy(o->topic);
    o->topic = NULL;
    o->partition = -1;
}

void origin_close(struct origin *o) {
    if (o == NULL) return;
    leave(o);
    if (o->rk != NULL) rd_kafka_destroy(o->rk);
    json_free(o->json);
    free(o->convert);
    free(o->headers);
    free(o);
}

static int topic_find(const struct origin *o, const char *topic, struct err *err) {
    for (uint32_t i = 0; i < o->config->topic_count; i++)
        if (strcmp(o->config->topic[i].name, topic) == 0) return (int)i;
    return err_set(err, EX_CONFIG, "the configuration has no topic %s", topic);
}

/* The next message to come is that at `offset`, or soon before it. */
static int go_to(struct origin *o, uint32_t topic, int32_t partition, int64_t offset, struct err *err) {
    bool here = o->partition == partition && o->topic_index == topic;
    if (here && o->next <= offset && offset - o->next < READ_ON) return 0;
    leave(o);
    o->topic = rd_kafka_topic_new(o->rk, o->config->topic[topic].name, NULL);
    if (o->topic == NULL || rd_kafka_consume_start(o->topic, partition, offset) != 0)
        return err_set(err, EX_UNAVAILABLE, "Kafka: %s", rd_kafka_err2str(rd_kafka_last_error()));
    o->topic_index = topic;
    o->partition = partition;
    o->next = offset;
    return 0;
}

static uint32_t headers_put(struct origin *o, const rd_kafka_message_t *m) {
    rd_kafka_headers_t *headers;
    const char *name;
    const void *value;
    size_t value_bytes, at = 0;
    if (rd_kafka_message_headers(m, &headers) != RD_KAFKA_RESP_ERR_NO_ERROR) return 0;
    for (size_t i = 0; rd_kafka_header_get_all(headers, i, &name, &value, &value_bytes) == RD_KAFKA_RESP_ERR_NO_ERROR;
         i++) {
        if (at + record_header_bytes(strlen(name), value != NULL ? value_bytes : 0) > HEADERS_BYTES_MAX) break;
        at += record_header_put(o->headers + at, name, strlen(name), value, value_bytes);
    }
    return (uint32_t)at;
}

static void key_make(struct origin *o, const rd_kafka_message_t *m, struct origin_record *out) {
    rd_kafka_timestamp_type_t kind;
    struct record_header id;
    int64_t at_ms = rd_kafka_message_timestamp(m, &kind);
    struct record_view in = {.head = {.op = RECORD_RAW,
                                      .partition = m->partition,
                                      .offset = m->offset,
                                      .timestamp_ms = kind == RD_KAFKA_TIMESTAMP_NOT_AVAILABLE ? -1 : at_ms,
                                      .kafka_key_bytes = (uint32_t)m->key_len,
                                      .value_bytes = (uint32_t)m->len,
                                      .headers_bytes = headers_put(o, m)},
                             .kafka_key = m->key,
                             .value = m->payload,
                             .headers = o->headers};
    if (m->key == NULL) in.head.flags |= RECORD_KEY_NULL;
    if (m->payload == NULL) in.head.flags |= RECORD_VALUE_NULL;
    const struct config_topic *topic = &o->config->topic[o->topic_index];
    bool given = record_header_last(o->headers, in.head.headers_bytes, HEADER_ID, &id) == 1 && id.value != NULL &&
                 record_id_parse(out->id, id.value, id.value_bytes) == 0;
    if (!given) record_id_derive(out->id, topic->name, m->partition, m->offset);
    out->key_bytes = out->old_key_bytes = 0;
    if (convert(o->json, &o->convert[o->topic_index], &in, &o->converted) != REASON_NONE) return;
    out->key_bytes = o->converted.key_bytes;
    memcpy(out->key, o->converted.key, out->key_bytes);
    out->old_key_bytes = o->converted.old_key_bytes;
    memcpy(out->old_key, o->converted.old_key, out->old_key_bytes);
}

/* One message. 1 the one wanted, 0 there is none at its offset, 2 one before it, -1 with err. */
static int take(struct origin *o, const rd_kafka_message_t *m, int64_t offset, struct origin_record *out,
                struct err *err) {
    if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) return 0;
    if (m->err == RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE || m->err == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET) {
        leave(o); /* the library has stopped reading it */
        return 0;
    }
    if (m->err != RD_KAFKA_RESP_ERR_NO_ERROR)
        return err_set(err, EX_UNAVAILABLE, "Kafka: %s", rd_kafka_message_errstr(m));
    o->next = m->offset + 1;
    if (m->offset < offset) return 2;
    if (m->offset > offset) return 0;
    key_make(o, m, out);
    return 1;
}

int origin_read(struct origin *o, const char *topic, int32_t partition, int64_t offset, struct origin_record *out,
                struct err *err) {
    int t = topic_find(o, topic, err);
    if (t < 0 || go_to(o, (uint32_t)t, partition, offset, err) != 0) return -1;
    uint64_t until = clock_ns(&clock_real) + ORIGIN_PATIENCE_MS * NS_PER_MS;
    while (clock_ns(&clock_real) < until) {
        rd_kafka_message_t *m = rd_kafka_consume(o->topic, partition, POLL_MS);
        if (m == NULL) continue;
        int r = take(o, m, offset, out, err);
        rd_kafka_message_destroy(m);
        if (r != 2) return r;
    }
    return err_set(err, EX_UNAVAILABLE, "Kafka: %s/%d has sent nothing for %d ms", topic, partition,
                   ORIGIN_PATIENCE_MS);
}

int32_t origin_partitions(struct origin *o, const char *topic, struct err *err) {
    const struct rd_kafka_metadata *m;
    rd_kafka_topic_t *t = rd_kafka_topic_new(o->rk, topic, NULL);
    rd_kafka_resp_err_t e = t == NULL ? rd_kafka_last_error() : rd_kafka_metadata(o->rk, 0, t, &m, ORIGIN_PATIENCE_MS);
    if (t != NULL) rd_kafka_topic_destroy(t);
    if (e != RD_KAFKA_RESP_ERR_NO_ERROR) return err_set(err, EX_UNAVAILABLE, "Kafka: %s", rd_kafka_err2str(e));
    int32_t n = m->topic_cnt == 1 ? m->topics[0].partition_cnt : 0;
    rd_kafka_metadata_destroy(m);
    return n;
}

static int ends(struct origin *o, const char *topic, int32_t partition, int64_t *low, int64_t *high, struct err *err) {
    rd_kafka_resp_err_t e = kafka_watermarks(o->rk, topic, partition, low, high, ORIGIN_PATIENCE_MS);
    return e == RD_KAFKA_RESP_ERR_NO_ERROR ? 0 : err_set(err, EX_UNAVAILABLE, "Kafka: %s", rd_kafka_err2str(e));
}

int64_t origin_end(struct origin *o, const char *topic, int32_t partition, struct err *err) {
    int64_t low, high;
    return ends(o, topic, partition, &low, &high, err) == 0 ? high : -1;
}

int64_t origin_begin(struct origin *o, const char *topic, int32_t partition, struct err *err) {
    int64_t low, high;
    return ends(o, topic, partition, &low, &high, err) == 0 ? low : -1;
}

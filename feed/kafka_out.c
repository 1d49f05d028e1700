#include "feed/kafka_out.h"

#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "kafka/settings.h"

enum { MESSAGE_BYTES_MIN = 1000000, HEADERS_ROOM = 1024, BATCH_BYTES = 1000000, BATCH_SHARE = 8 };

static const struct kafka_setting defaults[] = {
    {"client.id", "millrace-load"},       {"socket.nagle.disable", "true"},         {"reconnect.backoff.ms", "100"},
    {"reconnect.backoff.max.ms", "2000"}, {"queue.buffering.max.kbytes", "131072"}, {NULL, NULL},
};

/* What delivery and order rest on. The library's own limit on time is off: see kafka_out.h. */
static const struct kafka_setting fixed[] = {
    {"enable.idempotence", "true"},
    {"acks", "all"},
    {"partitioner", "murmur2_random"},
    {"message.timeout.ms", "0"},
    {"linger.ms", "10"},
    {"batch.num.messages", "10000"},
    {"queue.buffering.max.messages", "200000"},
    {NULL, NULL},
};

struct client {
    const struct config *config;
    size_t message_bytes_max;
    int wait_ms;        /* for an answer about a topic */
    size_t batch_bytes; /* most that is sent together; smaller when a topic has refused that */
    kafka_out_delivered *delivered;
    void *context;
    rd_kafka_t *rk;
    enum kafka_out_result state; /* of the connection since open */
    bool unplaced;               /* a message was called delivered without an offset: nothing behind it counts */
    struct err why;              /* of a state that is not OK; else what the library said last */
};

/* -- what the library tells -------------------------------------------------------------------- */

/* The first that is worse counts. */
static void state_set(struct client *c, enum kafka_out_result state, int code, const char *what) {
    if (c->state >= state) return;
    c->state = state;
    err_set(&c->why, code, "%s", what);
}

/* What a broker refuses as too large is a batch: with a smaller one it may take all of it. False: it cannot get
 * smaller.
 */
static bool batch_shrink(struct client *c) {
    size_t least = c->message_bytes_max + HEADERS_ROOM;
    if (c->batch_bytes <= least) return false;
    c->batch_bytes = c->batch_bytes / BATCH_SHARE > least ? c->batch_bytes / BATCH_SHARE : least;
    return true;
}

static enum kafka_out_result grade(rd_kafka_resp_err_t e) {
    switch (e) {
    case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
    case RD_KAFKA_RESP_ERR_INVALID_RECORD:
    case RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE:
    case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
    case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
    case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
    case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
    case RD_KAFKA_RESP_ERR__AUTHENTICATION:
    case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED: return KAFKA_OUT_REFUSED;
    default: return KAFKA_OUT_BROKEN;
    }
}

/* An idempotent client takes a batch that was refused for written when the next one is: a broker that knows the
 * producer would have missed it. One that has just begun to lead a partition knows no producer, and takes the next one
 * alone. The sign is a delivery without an offset, and those of the next batch come behind it. */
static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque) {
    struct client *c = opaque;
    char text[300];
    (void)rk;
    if (m->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
        c->unplaced |= m->offset < 0;
        if (!c->unplaced) {
            c->delivered(c->context, (uint64_t)(uintptr_t)m->_private, m->partition, m->offset);
            return;
        }
        snprintf(text, sizeof text, "%s: not known whether a batch was written", rd_kafka_topic_name(m->rkt));
        state_set(c, KAFKA_OUT_BROKEN, EX_UNAVAILABLE, text);
        return;
    }
    snprintf(text, sizeof text, "%s: %s", rd_kafka_topic_name(m->rkt), rd_kafka_err2str(m->err));
    bool smaller = m->err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE && (c->state != KAFKA_OUT_OK || batch_shrink(c));
    state_set(c, smaller ? KAFKA_OUT_BROKEN : grade(m->err), EX_UNAVAILABLE, text);
}

static void on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque) {
    struct client *c = opaque;
    rd_kafka_resp_err_t e = (rd_kafka_resp_err_t)code;
    char text[300];
    if (e == RD_KAFKA_RESP_ERR__FATAL) {
        rd_kafka_fatal_error(rk, text, sizeof text);
        state_set(c, KAFKA_OUT_BROKEN, EX_UNAVAILABLE, text);
    } else if (grade(e) == KAFKA_OUT_REFUSED) {
        state_set(c, KAFKA_OUT_REFUSED, EX_UNAVAILABLE, reason);
    } else if (c->state == KAFKA_OUT_OK && e != RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN) {
        err_set(&c->why, EX_UNAVAILABLE, "%s", reason); /* it goes on by itself; in case it does not */
    }
}

static void on_log(const rd_kafka_t *rk, int level, const char *facility, const char *text) {
    (void)rk, (void)level, (void)facility, (void)text; /* what matters comes as an error */
}

/* -- opening ----------------------------------------------------------------------------------- */

static int set_all(struct client *c, rd_kafka_conf_t *conf, struct err *err) {
    char bytes[24];
    size_t largest = c->message_bytes_max + HEADERS_ROOM;
    if (kafka_settings_fill(conf, RD_KAFKA_PRODUCER, c->config, defaults, fixed, err) != 0) return -1;
    snprintf(bytes, sizeof bytes, "%zu", largest > MESSAGE_BYTES_MIN ? largest : MESSAGE_BYTES_MIN);
    if (kafka_settings_set(conf, "message.max.bytes", bytes, err) != 0) return -1;
    snprintf(bytes, sizeof bytes, "%zu", c->batch_bytes);
    return kafka_settings_set(conf, "batch.size", bytes, err);
}

/* A topic that is being made has no leader yet; that one passes. */
static enum kafka_out_result topic_check(struct client *c, const char *topic, struct err *err) {
    const struct rd_kafka_metadata *m;
    rd_kafka_topic_t *t = rd_kafka_topic_new(c->rk, topic, NULL);
    if (t == NULL) {
        err_set(err, EX_CONFIG, "%s: %s", topic, rd_kafka_err2str(rd_kafka_last_error()));
        return KAFKA_OUT_REFUSED;
    }
    rd_kafka_resp_err_t e = rd_kafka_metadata(c->rk, 0, t, &m, c->wait_ms);
    rd_kafka_topic_destroy(t);
    enum kafka_out_result r = e == RD_KAFKA_RESP_ERR_NO_ERROR ? KAFKA_OUT_OK : KAFKA_OUT_BROKEN;
    if (r == KAFKA_OUT_OK) {
        e = m->topic_cnt == 1 ? m->topics[0].err : RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
        rd_kafka_metadata_destroy(m);
        if (e != RD_KAFKA_RESP_ERR_NO_ERROR) r = grade(e);
        if (r != KAFKA_OUT_OK) err_set(err, EX_UNAVAILABLE, "topic %s: %s", topic, rd_kafka_err2str(e));
        return r;
    }
    rd_kafka_poll(c->rk, 0); /* why */
    if (c->state == KAFKA_OUT_REFUSED) r = KAFKA_OUT_REFUSED;
    err_set(err, EX_UNAVAILABLE, "%s", c->why.code != 0 ? c->why.text : rd_kafka_err2str(e));
    return r;
}

static void client_close(void *self) {
    struct client *c = self;
    if (c->rk == NULL) return;
    rd_kafka_purge(c->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT | RD_KAFKA_PURGE_F_NON_BLOCKING);
    rd_kafka_destroy(c->rk);
    c->rk = NULL;
}

static enum kafka_out_result client_open(void *self, const char *const *topics, uint32_t n, struct err *err) {
    struct client *c = self;
    char text[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    c->state = KAFKA_OUT_OK;
    c->unplaced = false;
    c->why = (struct err){0};
    rd_kafka_conf_set_opaque(conf, c);
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    rd_kafka_conf_set_error_cb(conf, on_error);
    rd_kafka_conf_set_log_cb(conf, on_log);
    if (set_all(c, conf, err) == 0) {
        c->rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
        if (c->rk == NULL) err_set(err, EX_CONFIG, "Kafka client: %s", text);
    }
    if (c->rk == NULL) {
        rd_kafka_conf_destroy(conf);
        return KAFKA_OUT_REFUSED;
    }
    enum kafka_out_result r = KAFKA_OUT_OK;
    for (uint32_t i = 0; i < n && r == KAFKA_OUT_OK; i++) r = topic_check(c, topics[i], err);
    if (r != KAFKA_OUT_OK) client_close(c);
    return r;
}

/* -- sending ----------------------------------------------------------------------------------- */

static enum kafka_out_result state_tell(const struct client *c, struct err *err) {
    if (c->state != KAFKA_OUT_OK || c->why.code != 0) *err = c->why;
    return c->state;
}

static enum kafka_out_result client_send(void *self, const struct kafka_out_message *m, struct err *err) {
    struct client *c = self;
    if (c->state != KAFKA_OUT_OK) return state_tell(c, err);
    rd_kafka_vu_t part[7 + KAFKA_OUT_HEADERS_MAX];
    size_t n = 0;
    part[n++] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_TOPIC, .u.cstr = m->topic};
    part[n++] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {(void *)m->key, m->key_bytes}};
    part[n++] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {(void *)m->value, m->value_bytes}};
    part[n++] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY};
    part[n++] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_TIMESTAMP, .u.i64 = m->timestamp_ms};
    part[n++] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_OPAQUE, .u.ptr = (void *)(uintptr_t)m->tag};
    for (uint32_t i = 0; i < m->header_count; i++)
        part[n++] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_HEADER,
                                    .u.header = {m->header[i].name, m->header[i].value, (ssize_t)m->header[i].bytes}};
    rd_kafka_error_t *e = rd_kafka_produceva(c->rk, part, n);
    if (e == NULL) return KAFKA_OUT_OK;
    rd_kafka_resp_err_t code = rd_kafka_error_code(e);
    enum kafka_out_result r = code == RD_KAFKA_RESP_ERR__QUEUE_FULL ? KAFKA_OUT_FULL : grade(code);
    err_set(err, EX_UNAVAILABLE, "%s: %s", m->topic, rd_kafka_error_string(e));
    rd_kafka_error_destroy(e);
    return r;
}

static enum kafka_out_result client_poll(void *self, int ms, struct err *err) {
    struct client *c = self;
    rd_kafka_poll(c->rk, ms);
    return state_tell(c, err);
}

static void client_free(void *self) {
    client_close(self);
    free(self);
}

void kafka_out_new(struct kafka_out *port, const struct config *config, size_t message_bytes_max, int wait_ms,
                   kafka_out_delivered *delivered, void *context) {
    struct client *c = calloc(1, sizeof *c);
    CHECK(c != NULL);
    *c = (struct client){.config = config,
                         .message_bytes_max = message_bytes_max,
                         .wait_ms = wait_ms,
                         .batch_bytes = BATCH_BYTES,
                         .delivered = delivered,
                         .context = context};
    *port = (struct kafka_out){c, client_open, client_send, client_poll, client_close, client_free};
}

#include "base/fault.h"
#include "ingest/kafka.h"
#include "ingest/kafka_error.h"
#include "ingest/kafka_witness.h"

#include <librdkafka/rdkafka.h>
#include <openssl/x509_vfy.h> /* numbers only: the library is librdkafka's */
#include <stdatomic.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include "base/clock.h"
#include "kafka/settings.h"
#include "kafka/watermarks.h"
#include "base/log.h"
#include "ingest/subscription.h"
#include "shm/record.h"

/* Of each assigned partition, as many kilobytes are fetched ahead as `queued.max.messages.kbytes` says: with the rings
 * it is what ingest's memory consists of. A few milliseconds of the stream are enough, because refill() sees to it that
 * the library goes on fetching as soon as there is room; a queue that is small is also one whose memory is used again
 * while it is in the processor's cache. */
static const struct kafka_setting defaults[] = {
    {"queued.max.messages.kbytes", "4096"},
    {"queued.min.messages", "10000000"},
    {"fetch.error.backoff.ms", "50"},
    {"socket.nagle.disable", "true"},
    {"reconnect.backoff.ms", "100"},
    {"reconnect.backoff.max.ms", "2000"},
    {"partition.assignment.strategy", "range,roundrobin"},
    {"fetch.wait.max.ms", "100"},
    {"client.id", "millrace"},
    {NULL, NULL},
};

struct handle { /* one assigned partition */
    rd_kafka_queue_t *queue;
    rd_kafka_topic_partition_t *at; /* in client.assigned */
    uint64_t taken_bytes, taken;    /* bytes and messages since the library was last told to look at the queue */
    bool gone;                      /* the topic, since the last message */
};

struct client {
    rd_kafka_t *rk;
    rd_kafka_queue_t *events;
    const struct config *config;
    rd_kafka_topic_partition_list_t *assigned;
    struct handle handle[PARTITIONS_MAX];
    uint32_t handle_count;
    bool assign_fixed;                   /* a fixed list waits to be announced */
    uint64_t refill_bytes, refill_after; /* bytes or messages taken of a partition, after which a fetch is worth it */
    int doorbell;
    enum { SUBSCRIBED, REJOIN_WANTED, REJOIN_LEAVING } rejoin;
    uint64_t rejoin_due_ns;
    uint64_t own_fence_ns;   /* until then a fence may be our own doing */
    bool partition_gone;     /* told by the queue that is being read */
    bool noted;              /* the group knows the topics, and that is on the disk */
    bool scram;              /* the mechanism is one of SCRAM */
    _Atomic int certificate; /* why a broker's certificate was refused last; by librdkafka's threads */
};

static const uint64_t ring_once = 1;
enum { QUEUE_PARTS = 2 }; /* a queue is told to fill up again each time that such a part of it was taken */

/* -- configuration ----------------------------------------------------------------------------- */

static int set_all(rd_kafka_conf_t *conf, const struct config *c, struct err *err) {
    char member[2 * NAME_BYTES + 2], session[16];
    if (kafka_settings_fill(conf, RD_KAFKA_CONSUMER, c, defaults, kafka_settings_reader, err) != 0) return -1;
    /* Only librdkafka from 2.2 on knows it, and waits for so long instead of a second. */
    if (rd_kafka_conf_set(conf, "fetch.queue.backoff.ms", "1", NULL, 0) == RD_KAFKA_CONF_INVALID)
        return err_set(err, EX_CONFIG, "fetch.queue.backoff.ms is not accepted");
    snprintf(session, sizeof session, "%u", c->kafka.session_timeout_ms);
    /* A connection that ends under way is an event: what follows may be of another leader, or of another log. */
    if (kafka_settings_set(conf, "log.connection.close", "true", err) != 0 ||
        kafka_settings_set(conf, "group.id", c->kafka.group_id, err) != 0 ||
        kafka_settings_set(conf, "session.timeout.ms", session, err) != 0)
        return -1;
    if (c->topic[0].partition_count > 0) return 0; /* a fixed list: no membership */
    snprintf(member, sizeof member, "%s-%s", c->name, c->instance);
    return kafka_settings_set(conf, "group.instance.id", member, err);
}

static uint64_t number(const rd_kafka_conf_t *conf, const char *name) {
    char text[32];
    size_t size = sizeof text;
    CHECK(rd_kafka_conf_get(conf, name, text, &size) == RD_KAFKA_CONF_OK);
    return strtoull(text, NULL, 10);
}

/* Failures of brokers come as errors, too, and better explained. */
static void log_from_library(const rd_kafka_t *rk, int level, const char *facility, const char *text) {
    (void)rk;
    bool told = strcmp(facility, "FAIL") == 0 || strcmp(facility, "SSLCERTVRFY") == 0;
    if (level <= 4 && !told)
        log_warn("ingest.kafka_library", "%s: %s", facility, text);
    else
        log_debug("ingest.kafka_library", "%s: %s", facility, text);
}

/* Other errors are events. What the queue of a partition has among its messages comes here, from within the call that
 * reads it: that the topic, or the partition, is there no more. */
static void error_from_queue(rd_kafka_t *rk, int code, const char *text, void *opaque) {
    (void)rk, (void)code;
    ((struct client *)opaque)->partition_gone = true;
    log_warn("ingest.topic_gone", "%s", text);
}

/* Notes why a certificate is not accepted, and changes nothing: the verdict is OpenSSL's. */
static int certificate_noted(rd_kafka_t *rk, const char *broker, int32_t id, int *verdict, int depth, const char *bytes,
                             size_t len, char *text, size_t text_size, void *opaque) {
    struct client *c = opaque;
    (void)rk, (void)broker, (void)id, (void)depth, (void)bytes, (void)len;
    if (*verdict == X509_V_OK) return 1;
    atomic_store_explicit(&c->certificate, *verdict, memory_order_relaxed);
    snprintf(text, text_size, "OpenSSL's verdict %d", *verdict);
    return 0;
}

/* -- small translations ------------------------------------------------------------------------ */

static const char *topic_name(const struct client *c, uint32_t topic) { return c->config->topic[topic].name; }

static rd_kafka_topic_partition_list_t *list_to_library(const struct client *c, const struct kafka_partition *list,
                                                        uint32_t n) {
    rd_kafka_topic_partition_list_t *l = rd_kafka_topic_partition_list_new((int)n);
    for (uint32_t i = 0; i < n; i++)
        rd_kafka_topic_partition_list_add(l, topic_name(c, list[i].topic), list[i].partition)->offset = list[i].offset;
    return l;
}

/* The list frees what it is given. */
static void notes_to_library(const struct kafka_partition *list, uint32_t n, rd_kafka_topic_partition_list_t *l) {
    char text[NOTE_BYTES];
    for (uint32_t i = 0; i < n; i++) {
        l->elems[i].metadata_size = note_write(text, &list[i].note);
        l->elems[i].metadata = strdup(text);
        CHECK(l->elems[i].metadata != NULL);
    }
}

static void list_from_library(const struct client *c, const rd_kafka_topic_partition_list_t *l, struct kafka_event *e) {
    e->count = 0;
    for (int i = 0; l != NULL && i < l->cnt && e->count < PARTITIONS_MAX; i++) {
        int topic = config_topic_index(c->config, l->elems[i].topic);
        if (topic < 0) continue;
        int64_t offset = l->elems[i].offset >= 0 ? l->elems[i].offset : -1;
        e->list[e->count++] = (struct kafka_partition){(uint32_t)topic, l->elems[i].partition, offset, {0}};
    }
}

static int library_error(struct err *err, const char *what, rd_kafka_resp_err_t e) {
    return err_set(err, 2, "%s: %s", what, rd_kafka_err2str(e));
}

/* -- events ------------------------------------------------------------------------------------ */

static void rebalance_event(struct client *c, rd_kafka_event_t *ev, struct kafka_event *out) {
    rd_kafka_resp_err_t e = rd_kafka_event_error(ev);
    out->type = e == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS ? KAFKA_ASSIGN : KAFKA_REVOKE;
    out->lost =
        out->type == KAFKA_REVOKE && (e != RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS || rd_kafka_assignment_lost(c->rk));
    list_from_library(c, rd_kafka_event_topic_partition_list(ev), out);
    /* A commit that waits in the library for the coordinator, for up to a session, is sent with the membership of then;
     * as that of a static member without one it is refused as a namesake's. */
    if (out->lost) c->own_fence_ns = clock_ns(&clock_real) + 2 * c->config->kafka.session_timeout_ms * NS_PER_MS;
}

/* Of a commit that some partitions failed in, the others are told all the same. */
static void commit_event(struct client *c, rd_kafka_event_t *ev, struct kafka_event *out) {
    rd_kafka_resp_err_t e = rd_kafka_event_error(ev);
    const rd_kafka_topic_partition_list_t *l = rd_kafka_event_topic_partition_list(ev);
    out->type = KAFKA_COMMITTED;
    for (int i = 0; l != NULL && i < l->cnt && out->count < PARTITIONS_MAX; i++) {
        const rd_kafka_topic_partition_t *at = &l->elems[i];
        int topic = config_topic_index(c->config, at->topic);
        if (at->err != RD_KAFKA_RESP_ERR_NO_ERROR) e = at->err;
        if (at->err != RD_KAFKA_RESP_ERR_NO_ERROR || rd_kafka_event_error(ev) != RD_KAFKA_RESP_ERR_NO_ERROR ||
            topic < 0)
            continue;
        out->list[out->count++] = (struct kafka_partition){(uint32_t)topic, at->partition, at->offset,
                                                           note_read(at->metadata, at->metadata_size)};
    }
    out->ok = e == RD_KAFKA_RESP_ERR_NO_ERROR;
    out->tag = (uint64_t)(uintptr_t)rd_kafka_event_opaque(ev);
    out->expelled = e == RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION || e == RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID ||
                    e == RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID;
    if (!out->ok) snprintf(out->text, sizeof out->text, "%s", rd_kafka_err2str(e));
}

static void error_event(struct client *c, rd_kafka_event_t *ev, struct kafka_event *out) {
    const struct kafka_error error = {.code = rd_kafka_event_error(ev),
                                      .said = rd_kafka_event_error_string(ev),
                                      .certificate = atomic_load_explicit(&c->certificate, memory_order_relaxed),
                                      .scram = c->scram,
                                      .version = rd_kafka_version()};
    out->type = KAFKA_TROUBLE;
    out->count = 0;
    out->denied = kafka_error_explain(&error, out->text, sizeof out->text);
    if (!rd_kafka_event_error_is_fatal(ev)) return;
    char text[200];
    rd_kafka_resp_err_t e = rd_kafka_fatal_error(c->rk, text, sizeof text);
    out->type = KAFKA_FATAL;
    out->lost = e == RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID && clock_ns(&clock_real) < c->own_fence_ns;
    snprintf(out->text, sizeof out->text, "%s: %s", rd_kafka_err2name(e), text);
}

/* -- other topics than before (ingest/subscription.h) ------------------------------------------ */

enum { REJOIN_MS = 1000 };

static int subscribe(struct client *c, struct err *err) {
    rd_kafka_topic_partition_list_t *l = rd_kafka_topic_partition_list_new((int)c->config->topic_count);
    for (uint32_t i = 0; i < c->config->topic_count; i++)
        rd_kafka_topic_partition_list_add(l, c->config->topic[i].name, RD_KAFKA_PARTITION_UA);
    rd_kafka_resp_err_t e = rd_kafka_subscribe(c->rk, l);
    rd_kafka_topic_partition_list_destroy(l);
    return e == RD_KAFKA_RESP_ERR_NO_ERROR ? 0 : library_error(err, "subscribe", e);
}

/* Joining again waits until the library has taken the leave up; it tells that by a revocation, but not of no partitions
 * at all. */
static void rejoin_finish(struct client *c) {
    struct err err = {0};
    c->rejoin = SUBSCRIBED;
    if (subscribe(c, &err) != 0) log_error("ingest.rejoin_failed", "%s", err.text);
}

/* True when the event concerns only the way to an assignment that knows of all topics. */
static bool rejoin_takes(struct client *c, const struct kafka_event *e) {
    if (c->rejoin == REJOIN_WANTED && e->type == KAFKA_ASSIGN) {
        log_info("ingest.rejoining", "other topics than before: leaving the group once, so that it is divided anew");
        rd_kafka_topic_partition_list_t *none = rd_kafka_topic_partition_list_new(0);
        rd_kafka_assign(c->rk, none); /* the library waits for an answer, which NULL would not be */
        rd_kafka_topic_partition_list_destroy(none);
        rd_kafka_unsubscribe(c->rk);
        c->rejoin = REJOIN_LEAVING;
        c->rejoin_due_ns = clock_ns(&clock_real) + REJOIN_MS * NS_PER_MS;
        return true;
    }
    if (c->rejoin == REJOIN_LEAVING && e->type == KAFKA_REVOKE) {
        rd_kafka_assign(c->rk, NULL);
        rejoin_finish(c);
        return true;
    }
    struct err err = {0};
    if (e->type != KAFKA_ASSIGN || c->noted) return false;
    c->noted = true;
    if (subscription_note(c->config, &err) != 0) log_warn("ingest.subscription_unwritten", "%s", err.text);
    return false;
}

static bool client_poll(void *self, struct kafka_event *out) {
    struct client *c = self;
    out->count = 0;
    out->text[0] = 0;
    if (c->rejoin == REJOIN_LEAVING && clock_ns(&clock_real) >= c->rejoin_due_ns) rejoin_finish(c);
    if (c->assign_fixed) {
        c->assign_fixed = false;
        out->type = KAFKA_ASSIGN;
        for (uint32_t t = 0; t < c->config->topic_count; t++)
            for (uint32_t i = 0; i < c->config->topic[t].partition_count && out->count < PARTITIONS_MAX; i++)
                out->list[out->count++] = (struct kafka_partition){t, c->config->topic[t].partitions[i], -1, {0}};
        return true;
    }
    rd_kafka_event_t *ev = rd_kafka_queue_poll(c->events, 0);
    if (ev == NULL) return false;
    bool known = true;
    switch (rd_kafka_event_type(ev)) {
    case RD_KAFKA_EVENT_REBALANCE: rebalance_event(c, ev, out); break;
    case RD_KAFKA_EVENT_OFFSET_COMMIT: commit_event(c, ev, out); break;
    case RD_KAFKA_EVENT_ERROR: error_event(c, ev, out); break;
    case RD_KAFKA_EVENT_FETCH:
        CHECK(!"no message comes by the queue of events: partitions are taken out of forwarding");
    default: known = false; /* statistics and the like */
    }
    rd_kafka_event_destroy(ev);
    if (known && rejoin_takes(c, out)) known = false;
    if (!known) *out = (struct kafka_event){.type = KAFKA_TROUBLE};
    return true;
}

/* -- questions --------------------------------------------------------------------------------- */

static int client_committed(void *self, struct kafka_partition *list, uint32_t n, struct err *err) {
    struct client *c = self;
    rd_kafka_topic_partition_list_t *l = list_to_library(c, list, n);
    rd_kafka_resp_err_t e =
        FAULT_FAILS("ingest:committed_ask") ? RD_KAFKA_RESP_ERR__FAIL : rd_kafka_committed(c->rk, l, KAFKA_CALL_MS);
    for (uint32_t i = 0; i < n && e == RD_KAFKA_RESP_ERR_NO_ERROR; i++) {
        e = l->elems[i].err;
        list[i].offset = l->elems[i].offset >= 0 ? l->elems[i].offset : -1;
        list[i].note = note_read(l->elems[i].metadata, l->elems[i].metadata_size);
    }
    rd_kafka_topic_partition_list_destroy(l);
    return e == RD_KAFKA_RESP_ERR_NO_ERROR ? 0 : library_error(err, "reading committed offsets", e);
}

static int client_watermarks(void *self, const struct kafka_partition *p, int64_t *low, int64_t *high,
                             struct err *err) {
    struct client *c = self;
    rd_kafka_resp_err_t e = FAULT_FAILS("ingest:watermarks") ? RD_KAFKA_RESP_ERR__FAIL
                                                             : kafka_watermarks(c->rk, topic_name(c, p->topic),
                                                                                p->partition, low, high, KAFKA_CALL_MS);
    return e == RD_KAFKA_RESP_ERR_NO_ERROR ? 0 : library_error(err, "reading the ends of a partition", e);
}

static int client_ends(void *self, struct kafka_partition *list, uint32_t n, struct err *err) {
    struct client *c = self;
    rd_kafka_topic_partition_list_t *l = list_to_library(c, list, n);
    for (int i = 0; i < l->cnt; i++) l->elems[i].offset = RD_KAFKA_OFFSET_END; /* the "time" to ask for */
    rd_kafka_resp_err_t e = rd_kafka_offsets_for_times(c->rk, l, KAFKA_CALL_MS);
    for (uint32_t i = 0; i < n && e == RD_KAFKA_RESP_ERR_NO_ERROR; i++) {
        rd_kafka_topic_partition_t *at =
            rd_kafka_topic_partition_list_find(l, topic_name(c, list[i].topic), list[i].partition);
        list[i].offset = at != NULL && at->err == RD_KAFKA_RESP_ERR_NO_ERROR && at->offset >= 0 ? at->offset : -1;
    }
    rd_kafka_topic_partition_list_destroy(l);
    return e == RD_KAFKA_RESP_ERR_NO_ERROR ? 0 : library_error(err, "reading the ends of partitions", e);
}

static void client_watermarks_seen(void *self, const struct kafka_partition *p, int64_t *low, int64_t *high) {
    struct client *c = self;
    if (rd_kafka_get_watermark_offsets(c->rk, topic_name(c, p->topic), p->partition, low, high) !=
        RD_KAFKA_RESP_ERR_NO_ERROR)
        *low = *high = -1;
    if (*low < 0) *low = -1;
    if (*high < 0) *high = -1;
}

/* -- reading ----------------------------------------------------------------------------------- */

static void handles_drop(struct client *c) {
    for (uint32_t i = 0; i < c->handle_count; i++) {
        rd_kafka_queue_io_event_enable(c->handle[i].queue, -1, NULL, 0);
        rd_kafka_queue_destroy(c->handle[i].queue);
    }
    c->handle_count = 0;
    if (c->assigned != NULL) rd_kafka_topic_partition_list_destroy(c->assigned);
    c->assigned = NULL;
}

/* Each partition's queue leaves the common one before it is assigned, so that not one message goes there: a full lane
 * then holds up its own partitions only, and nothing fetched is thrown away as pause() would. */
static int client_assign(void *self, const struct kafka_partition *list, uint32_t n, void **handle, struct err *err) {
    struct client *c = self;
    handles_drop(c);
    c->assigned = list_to_library(c, list, n);
    for (uint32_t i = 0; i < n; i++) {
        rd_kafka_queue_t *q = rd_kafka_queue_get_partition(c->rk, topic_name(c, list[i].topic), list[i].partition);
        if (q == NULL) return err_set(err, 1, "no queue for partition %d", list[i].partition);
        rd_kafka_queue_forward(q, NULL);
        rd_kafka_queue_io_event_enable(q, c->doorbell, &ring_once, sizeof ring_once);
        c->handle[i] = (struct handle){.queue = q, .at = &c->assigned->elems[i]};
        handle[i] = &c->handle[i];
        c->handle_count = i + 1;
    }
    rd_kafka_resp_err_t e =
        FAULT_FAILS("ingest:assign") ? RD_KAFKA_RESP_ERR__FAIL : rd_kafka_assign(c->rk, c->assigned);
    return e == RD_KAFKA_RESP_ERR_NO_ERROR ? 0 : library_error(err, "assign", e);
}

static int client_unassign(void *self, struct err *err) {
    struct client *c = self;
    handles_drop(c);
    rd_kafka_resp_err_t e = rd_kafka_assign(c->rk, NULL);
    return e == RD_KAFKA_RESP_ERR_NO_ERROR ? 0 : library_error(err, "unassign", e);
}

/* The barrier that a seek puts into the partition's queue takes effect with the call: nothing older comes out of it,
 * even when the answer is late. */
static int client_seek(void *self, void *handle, int64_t offset, struct err *err) {
    struct client *c = self;
    const rd_kafka_topic_partition_t *at = ((struct handle *)handle)->at;
    rd_kafka_topic_partition_list_t *l = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(l, at->topic, at->partition)->offset = offset;
    rd_kafka_error_t *e = rd_kafka_seek_partitions(c->rk, l, KAFKA_CALL_MS);
    rd_kafka_resp_err_t code = e != NULL ? rd_kafka_error_code(e) : l->elems[0].err;
    if (e != NULL) rd_kafka_error_destroy(e);
    rd_kafka_topic_partition_list_destroy(l);
    if (code == RD_KAFKA_RESP_ERR_NO_ERROR) return 0;
    library_error(err, "seek", code);
    if (code == RD_KAFKA_RESP_ERR__STATE) err->code = 1;
    return -1;
}

static bool client_lost(void *self) { return rd_kafka_assignment_lost(((struct client *)self)->rk) != 0; }

/* The library answers NULL when nobody was asked yet, and when there is no id: only who has met a broker knows the
 * controller. */
static int client_cluster(void *self, char out[CLUSTER_BYTES], struct err *err) {
    struct client *c = self;
    char *id = rd_kafka_clusterid(c->rk, KAFKA_CALL_MS);
    if (id == NULL && rd_kafka_controllerid(c->rk, 0) < 0)
        return library_error(err, "reading the id of the cluster", RD_KAFKA_RESP_ERR__TIMED_OUT);
    snprintf(out, CLUSTER_BYTES, "%s", id != NULL ? id : "");
    if (id != NULL) rd_kafka_mem_free(c->rk, id);
    return 0;
}

static int client_witness(void *self, const struct kafka_partition *list, uint32_t n, int64_t *timestamp_ms,
                          struct err *err) {
    struct client *c = self;
    rd_kafka_topic_partition_list_t *at = list_to_library(c, list, n);
    int r = kafka_witness(rd_kafka_conf(c->rk), at, timestamp_ms, err);
    rd_kafka_topic_partition_list_destroy(at);
    return r;
}

static enum kafka_fetch fetch_failed(const rd_kafka_message_t *m, struct kafka_message *out, struct err *err) {
    rd_kafka_resp_err_t e = m->err;
    out->offset = m->offset;
    if (e == RD_KAFKA_RESP_ERR__PARTITION_EOF) return KAFKA_END;
    bool gone = e == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET || e == RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE;
    err_set(err, gone ? 1 : 2, "%s: %s", rd_kafka_err2name(e), rd_kafka_message_errstr(m));
    return KAFKA_FAILED;
}

/* The thread of librdkafka 2.0.2 that fetches from a broker and finds the queues of all its partitions full sleeps for
 * a whole second, however soon there is room again; only something to send wakes it. So it is given a question (where
 * the partition ends) whose answer nobody waits for, each time that half of a queue was taken. */
static void refill(struct client *c, struct handle *h) {
    rd_kafka_topic_partition_list_t *l = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(l, h->at->topic, h->at->partition)->offset = RD_KAFKA_OFFSET_END;
    rd_kafka_offsets_for_times(c->rk, l, 0);
    rd_kafka_topic_partition_list_destroy(l);
    h->taken_bytes = h->taken = 0;
}

static enum kafka_fetch client_fetch(void *self, void *handle, struct kafka_message *out, struct err *err) {
    struct client *c = self;
    struct handle *h = handle;
    if (h->taken_bytes >= c->refill_bytes || h->taken >= c->refill_after) refill(c, h);
    rd_kafka_message_t *m = rd_kafka_consume_queue(h->queue, 0);
    h->gone |= c->partition_gone;
    c->partition_gone = false;
    if (m == NULL) return KAFKA_NOTHING;
    h->taken_bytes += m->key_len + m->len;
    h->taken++;
    if (m->err != RD_KAFKA_RESP_ERR_NO_ERROR) {
        enum kafka_fetch r = fetch_failed(m, out, err);
        rd_kafka_message_destroy(m);
        return r;
    }
    rd_kafka_timestamp_type_t type;
    int64_t timestamp = rd_kafka_message_timestamp(m, &type);
    *out = (struct kafka_message){
        .key = m->key,
        .value = m->payload,
        .key_bytes = (uint32_t)m->key_len,
        .value_bytes = (uint32_t)m->len,
        .offset = m->offset,
        .timestamp_ms = type == RD_KAFKA_TIMESTAMP_NOT_AVAILABLE ? -1 : timestamp,
        .broker = h->gone ? -1 : rd_kafka_message_broker_id(m),
        .handle = m,
    };
    h->gone = false;
    return KAFKA_MESSAGE;
}

static uint32_t client_headers(void *self, const struct kafka_message *m, uint8_t *out, uint32_t room) {
    (void)self;
    rd_kafka_headers_t *headers;
    if (rd_kafka_message_headers(m->handle, &headers) != RD_KAFKA_RESP_ERR_NO_ERROR) return 0;
    const char *name;
    const void *value;
    size_t value_bytes, need = 0, at = 0;
    for (size_t i = 0; rd_kafka_header_get_all(headers, i, &name, &value, &value_bytes) == RD_KAFKA_RESP_ERR_NO_ERROR;
         i++)
        need += record_header_bytes(strlen(name), value != NULL ? value_bytes : 0);
    if (need > room) return need > UINT32_MAX ? UINT32_MAX : (uint32_t)need;
    for (size_t i = 0; rd_kafka_header_get_all(headers, i, &name, &value, &value_bytes) == RD_KAFKA_RESP_ERR_NO_ERROR;
         i++)
        at += record_header_put(out + at, name, strlen(name), value, value_bytes);
    return (uint32_t)at;
}

static void client_done(void *self, struct kafka_message *m) {
    (void)self;
    rd_kafka_message_destroy(m->handle);
    m->handle = NULL;
}

static_assert(sizeof(void *) == sizeof(uint64_t), "a tag travels as a pointer");

static int client_commit(void *self, const struct kafka_partition *list, uint32_t n, uint64_t tag, struct err *err) {
    struct client *c = self;
    rd_kafka_topic_partition_list_t *l = list_to_library(c, list, n);
    notes_to_library(list, n, l);
    rd_kafka_resp_err_t e = FAULT_FAILS("ingest:commit")
                                ? RD_KAFKA_RESP_ERR__FAIL
                                : rd_kafka_commit_queue(c->rk, l, c->events, NULL, (void *)(uintptr_t)tag);
    rd_kafka_topic_partition_list_destroy(l);
    return e == RD_KAFKA_RESP_ERR_NO_ERROR ? 0 : library_error(err, "commit", e);
}

/* -- opening ----------------------------------------------------------------------------------- */

int kafka_client_open(struct kafka_port *port, const struct config *config, int doorbell, struct err *err) {
    struct client *c = calloc(1, sizeof *c);
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    CHECK(c != NULL && conf != NULL);
    c->config = config;
    c->doorbell = doorbell;
    c->assign_fixed = config->topic[0].partition_count > 0;
    if (!c->assign_fixed && subscription_changed(config)) c->rejoin = REJOIN_WANTED;
    rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_REBALANCE | RD_KAFKA_EVENT_OFFSET_COMMIT | RD_KAFKA_EVENT_ERROR);
    rd_kafka_conf_set_log_cb(conf, log_from_library);
    rd_kafka_conf_set_error_cb(conf, error_from_queue);
    rd_kafka_conf_set_opaque(conf, c);
    rd_kafka_conf_set_ssl_cert_verify_cb(conf, certificate_noted);
    for (uint32_t i = 0; i < config->kafka.property_count; i++)
        if (strcmp(config->kafka.property[i].name, "sasl.mechanisms") == 0)
            c->scram = strncmp(config->kafka.property[i].value, "SCRAM-", 6) == 0;
    if (set_all(conf, config, err) != 0) {
        rd_kafka_conf_destroy(conf);
        free(c);
        return -1;
    }
    c->refill_bytes = number(conf, "queued.max.messages.kbytes") * 1000 / QUEUE_PARTS;
    c->refill_after = number(conf, "queued.min.messages") / QUEUE_PARTS;
    c->rk = kafka_settings_open(conf, RD_KAFKA_CONSUMER, err);
    if (c->rk == NULL) {
        free(c);
        return -1;
    }
    rd_kafka_poll_set_consumer(c->rk);
    c->events = rd_kafka_queue_get_consumer(c->rk);
    rd_kafka_queue_io_event_enable(c->events, doorbell, &ring_once, sizeof ring_once);
    *port = (struct kafka_port){c,
                                client_poll,
                                client_committed,
                                client_watermarks,
                                client_watermarks_seen,
                                client_assign,
                                client_unassign,
                                client_fetch,
                                client_headers,
                                client_done,
                                client_commit,
                                client_ends,
                                client_seek,
                                client_lost,
                                client_cluster,
                                client_witness};
    return c->assign_fixed ? 0 : subscribe(c, err);
}

#include "recon/evidence.h"

#include <errno.h>
#include <librdkafka/rdkafka.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "kafka/note.h"
#include "kafka/settings.h"
#include "kafka/watermarks.h"
#include "shm/record.h"
#include "transform/trace.h"

enum { QUEUE_ITEMS = 2048, CALL_MS = 2000, ROUND_MS = 1000, ROUND_MS_MAX = 10000, POLL_MS = 50, LAYOUT_MS = 30000 };

static const struct kafka_setting defaults[] = {
    {"queued.max.messages.kbytes", "16384"}, {"queued.min.messages", "100000"},
    {"fetch.error.backoff.ms", "50"},        {"socket.nagle.disable", "true"},
    {"reconnect.backoff.ms", "100"},         {"reconnect.backoff.max.ms", "2000"},
    {"client.id", "millrace-recon"},         {NULL, NULL},
};

struct reading { /* one partition that is being read, or was */
    bool manifest, active;
    uint32_t topic;
    int32_t partition;
    int64_t at, to; /* next offset expected; not beyond `to` (manifests: INT64_MAX) */
    int64_t wanted; /* of manifests: the round at hand waits for it */
    rd_kafka_topic_t *handle;
};

struct asked { /* a scan that the body wants */
    uint32_t topic;
    int32_t partition;
    int64_t offset, to;
    bool fresh;
};

struct asker {
    const struct config *config;
    struct digest_key key;
    rd_kafka_t *questions; /* apart from reading: a broker answers a connection in order, and a fetch waits there */
    rd_kafka_t *reader;
    rd_kafka_queue_t *queue;
    rd_kafka_topic_t *topic[TOPICS_MAX], *manifests; /* of reader */
    int32_t partitions[TOPICS_MAX];                  /* 0: not known yet */
    int32_t manifest_partitions;
    struct reading *reading;
    size_t readings;
    struct evidence_from *from;
    size_t froms;
    uint64_t round_due_ns, layout_due_ns;
    int64_t round_began_ms; /* 0: no round is at hand */
    bool round_asked;       /* … and its ends were told: it waits for manifests */
    uint32_t members;
    bool others;
    struct evidence item; /* being made */

    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t room;
    struct evidence *queued; /* a ring of QUEUE_ITEMS */
    size_t head, count;
    struct asked *asked;
    size_t askeds;
    bool hurry;
    int wake_fd;
};

/* -- to the body ------------------------------------------------------------------------------- */

static void item_copy(struct evidence *to, const struct evidence *from) {
    memcpy(to, from, offsetof(struct evidence, text));
    memcpy(to->text, from->text, (size_t)from->text_bytes + 1);
}

/* Waits for room: the body reads when it has got on. */
static void tell(struct asker *a) {
    pthread_mutex_lock(&a->lock);
    while (a->count == QUEUE_ITEMS) pthread_cond_wait(&a->room, &a->lock);
    item_copy(&a->queued[(a->head + a->count) % QUEUE_ITEMS], &a->item);
    bool first = a->count++ == 0;
    pthread_mutex_unlock(&a->lock);
    if (first) eventfd_write(a->wake_fd, 1);
}

static struct evidence *item_new(struct asker *a, enum evidence_type type, uint32_t topic, int32_t partition) {
    memset(&a->item, 0, offsetof(struct evidence, text));
    a->item.text[0] = 0;
    a->item.type = type;
    a->item.topic = topic;
    a->item.partition = partition;
    return &a->item;
}

static void trouble(struct asker *a, const char *what, const char *why) {
    struct evidence *e = item_new(a, EVIDENCE_TROUBLE, 0, 0);
    int n = snprintf(e->text, sizeof e->text, "%s: %s", what, why);
    e->text_bytes = n < (int)sizeof e->text ? (uint32_t)n : (uint32_t)sizeof e->text - 1;
    tell(a);
}

static bool port_next(void *self, struct evidence *out) {
    struct asker *a = self;
    eventfd_t ignored;
    pthread_mutex_lock(&a->lock);
    bool there = a->count > 0;
    if (there) {
        item_copy(out, &a->queued[a->head]);
        a->head = (a->head + 1) % QUEUE_ITEMS;
        a->count--;
        pthread_cond_signal(&a->room);
    } else {
        eventfd_read(a->wake_fd, &ignored);
    }
    pthread_mutex_unlock(&a->lock);
    return there;
}

static void port_scan(void *self, uint32_t topic, int32_t partition, int64_t offset, int64_t to) {
    struct asker *a = self;
    size_t i = 0;
    pthread_mutex_lock(&a->lock);
    while (i < a->askeds && (a->asked[i].topic != topic || a->asked[i].partition != partition)) i++;
    if (i == a->askeds) {
        a->asked = realloc(a->asked, ++a->askeds * sizeof *a->asked);
        CHECK(a->asked != NULL);
    }
    a->asked[i] = (struct asked){topic, partition, offset, to, true};
    pthread_mutex_unlock(&a->lock);
}

static void port_hurry(void *self) {
    struct asker *a = self;
    pthread_mutex_lock(&a->lock);
    a->hurry = true;
    pthread_mutex_unlock(&a->lock);
}

/* -- reading ----------------------------------------------------------------------------------- */

static void reading_start(struct asker *a, struct reading *r) {
    int64_t from = r->manifest && r->at == 0 ? RD_KAFKA_OFFSET_BEGINNING : r->at;
    if (rd_kafka_consume_start_queue(r->handle, r->partition, from, a->queue) == 0)
        r->active = true;
    else
        trouble(a, rd_kafka_topic_name(r->handle), rd_kafka_err2str(rd_kafka_last_error()));
}

static void reading_stop(struct reading *r) {
    if (r->active) rd_kafka_consume_stop(r->handle, r->partition);
    r->active = false;
}

static struct reading *reading_find(struct asker *a, bool manifest, uint32_t topic, int32_t partition) {
    for (size_t i = 0; i < a->readings; i++)
        if (a->reading[i].partition == partition && a->reading[i].topic == topic && a->reading[i].manifest == manifest)
            return &a->reading[i];
    a->reading = realloc(a->reading, (a->readings + 1) * sizeof *a->reading);
    CHECK(a->reading != NULL);
    a->reading[a->readings] = (struct reading){.manifest = manifest,
                                               .topic = topic,
                                               .partition = partition,
                                               .to = INT64_MAX,
                                               .handle = manifest ? a->manifests : a->topic[topic]};
    return &a->reading[a->readings++];
}

/* Starts what the body has asked for since. */
static void scans_take(struct asker *a) {
    for (size_t i = 0;; i++) {
        struct asked want = {0};
        pthread_mutex_lock(&a->lock);
        bool more = i < a->askeds;
        if (more) {
            want = a->asked[i];
            a->asked[i].fresh = false;
        }
        pthread_mutex_unlock(&a->lock);
        if (!more) return;
        if (!want.fresh) continue;
        struct reading *r = reading_find(a, false, want.topic, want.partition);
        bool goes_on = r->active && r->at == want.offset;
        if (!goes_on) reading_stop(r);
        r->at = want.offset;
        r->to = want.to;
        if (!goes_on) reading_start(a, r);
    }
}

/* Kafka does not have the offset any more: goes on with the oldest it has. */
static void reading_gone(struct asker *a, struct reading *r) {
    int64_t low, high;
    reading_stop(r);
    if (kafka_watermarks(a->questions, rd_kafka_topic_name(r->handle), r->partition, &low, &high, CALL_MS) !=
        RD_KAFKA_RESP_ERR_NO_ERROR) {
        reading_start(a, r); /* the same answer comes again, later */
        return;
    }
    int64_t to = low > r->at ? low : high < r->to ? r->to : r->at;
    if (to > r->to) to = r->to;
    if (!r->manifest && to > r->at) {
        struct evidence *e = item_new(a, EVIDENCE_GONE, r->topic, r->partition);
        e->offset = r->at;
        e->to = to;
        tell(a);
    }
    r->at = r->manifest ? low : to;
    if (r->at < r->to) reading_start(a, r);
}

/* No record is there up to (not including) offset. */
static void reading_passes(struct asker *a, struct reading *r, int64_t offset) {
    if (offset > r->to) offset = r->to;
    if (offset <= r->at) return;
    if (!r->manifest) {
        struct evidence *e = item_new(a, EVIDENCE_VOID, r->topic, r->partition);
        e->offset = r->at;
        e->to = offset;
        tell(a);
    }
    r->at = offset;
}

static bool decimal(const uint8_t *text, size_t len, int64_t max, int64_t *out) {
    int64_t n = 0;
    if (len == 0 || len > 20) return false;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9' || n > (max - (text[i] - '0')) / 10) return false;
        n = n * 10 + (text[i] - '0');
    }
    *out = n;
    return true;
}

static bool header(const rd_kafka_headers_t *headers, const char *name, const void **value, size_t *len) {
    return headers != NULL && rd_kafka_header_get_last(headers, name, value, len) == RD_KAFKA_RESP_ERR_NO_ERROR &&
           *value != NULL;
}

/* The same that transform makes of the headers (shm/record.h). */
static void headers_take(struct asker *a, const struct reading *r, rd_kafka_message_t *m, struct evidence *e) {
    rd_kafka_headers_t *headers = NULL;
    rd_kafka_timestamp_type_t type;
    const void *value;
    size_t len;
    int64_t number;
    rd_kafka_message_headers(m, &headers);
    e->created_ms = rd_kafka_message_timestamp(m, &type);
    if (type == RD_KAFKA_TIMESTAMP_NOT_AVAILABLE) e->created_ms = -1;
    if (header(headers, HEADER_CREATED, &value, &len) && decimal(value, len, CREATED_MS_MAX, &number))
        e->created_ms = number;
    if (header(headers, HEADER_PRODUCER, &value, &len) && len > 0 && len < NAME_BYTES)
        e->producer = record_producer_hash(value, len);
    if (header(headers, HEADER_SEQUENCE, &value, &len) && decimal(value, len, INT64_MAX, &number)) e->sequence = number;
    if (!header(headers, HEADER_ID, &value, &len) || record_id_parse(e->id, value, len) != 0)
        record_id_derive(e->id, a->config->topic[r->topic].name, m->partition, m->offset);
}

static void message_tell(struct asker *a, const struct reading *r, rd_kafka_message_t *m) {
    struct evidence *e = item_new(a, EVIDENCE_MESSAGE, r->topic, r->partition);
    e->manifest = r->manifest;
    e->offset = m->offset;
    if (r->manifest) {
        size_t n = m->len < sizeof e->text ? m->len : sizeof e->text - 1;
        memcpy(e->text, m->payload != NULL ? m->payload : "", n);
        e->text[n] = 0;
        e->text_bytes = (uint32_t)n;
    } else {
        headers_take(a, r, m, e);
        uint32_t reconcile = a->config->topic[r->topic].reconcile;
        enum digest_algorithm algorithm = reconcile == RECONCILE_CHECKSUM ? DIGEST_XXH3
                                          : reconcile >= RECONCILE_DIGEST ? DIGEST_HMAC
                                                                          : DIGEST_NONE;
        if (m->payload != NULL) digest_of(&a->key, algorithm, m->payload, m->len, e->digest);
    }
    tell(a);
}

static void message_take(struct asker *a, rd_kafka_message_t *m) {
    struct reading *r = NULL;
    for (size_t i = 0; i < a->readings; i++)
        if (a->reading[i].active && a->reading[i].partition == m->partition &&
            strcmp(rd_kafka_topic_name(a->reading[i].handle), rd_kafka_topic_name(m->rkt)) == 0)
            r = &a->reading[i];
    if (r == NULL) return;
    switch (m->err) {
    case RD_KAFKA_RESP_ERR_NO_ERROR:
        if (m->offset < r->at) return;
        reading_passes(a, r, m->offset);
        if (m->offset < r->to) {
            message_tell(a, r, m);
            r->at = m->offset + 1;
        }
        break;
    case RD_KAFKA_RESP_ERR__PARTITION_EOF: reading_passes(a, r, m->offset); break;
    case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
    case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE: reading_gone(a, r); return;
    default: trouble(a, rd_kafka_topic_name(m->rkt), rd_kafka_message_errstr(m)); return;
    }
    if (r->at >= r->to) reading_stop(r);
}

/* -- questions --------------------------------------------------------------------------------- */

static int32_t partition_count(struct asker *a, rd_kafka_topic_t *topic) {
    const struct rd_kafka_metadata *found;
    int32_t n = 0;
    rd_kafka_resp_err_t e = rd_kafka_metadata(a->reader, 0, topic, &found, CALL_MS);
    if (e != RD_KAFKA_RESP_ERR_NO_ERROR) {
        trouble(a, rd_kafka_topic_name(topic), rd_kafka_err2str(e));
        return 0;
    }
    if (found->topic_cnt == 1) e = found->topics[0].err;
    if (found->topic_cnt == 1 && e == RD_KAFKA_RESP_ERR_NO_ERROR) n = found->topics[0].partition_cnt;
    if (e != RD_KAFKA_RESP_ERR_NO_ERROR) trouble(a, rd_kafka_topic_name(topic), rd_kafka_err2str(e));
    rd_kafka_metadata_destroy(found);
    return n;
}

/* How many partitions there are: asked at first, and now and then. New ones of the manifest topic are read. */
static void layout_ask(struct asker *a) {
    for (uint32_t t = 0; t < a->config->topic_count; t++) {
        int32_t n = partition_count(a, a->topic[t]);
        if (n > a->partitions[t]) a->partitions[t] = n;
    }
    int32_t n = a->manifests != NULL ? partition_count(a, a->manifests) : 0;
    for (; a->manifest_partitions < n; a->manifest_partitions++) {
        struct reading *r = reading_find(a, true, 0, a->manifest_partitions);
        for (size_t i = 0; i < a->froms; i++)
            if (a->from[i].partition == r->partition) r->at = a->from[i].offset;
        reading_start(a, r);
    }
}

static void members_ask(struct asker *a) {
    const struct rd_kafka_group_list *list;
    if (rd_kafka_list_groups(a->questions, a->config->kafka.group_id, &list, CALL_MS) != RD_KAFKA_RESP_ERR_NO_ERROR)
        return;
    for (int i = 0; i < list->group_cnt; i++)
        if (strcmp(list->groups[i].group, a->config->kafka.group_id) == 0)
            a->members = (uint32_t)list->groups[i].member_cnt;
    rd_kafka_group_list_destroy(list);
}

static bool watermarks(struct asker *a, rd_kafka_topic_t *topic, int32_t partition, int64_t *low, int64_t *high) {
    const char *name = rd_kafka_topic_name(topic);
    rd_kafka_resp_err_t e = kafka_watermarks(a->questions, name, partition, low, high, CALL_MS);
    if (e != RD_KAFKA_RESP_ERR_NO_ERROR) trouble(a, name, rd_kafka_err2str(e));
    return e == RD_KAFKA_RESP_ERR_NO_ERROR;
}

/* The partitions of a topic that the pipeline reads: all, or those of the fixed list. */
static int32_t partitions_read(const struct asker *a, uint32_t topic) {
    uint32_t listed = a->config->topic[topic].partition_count;
    return listed > 0 ? (int32_t)listed : a->partitions[topic];
}

static int32_t partition_read(const struct asker *a, uint32_t topic, int32_t i) {
    return a->config->topic[topic].partition_count > 0 ? a->config->topic[topic].partitions[i] : i;
}

/* Low and high of each partition, then what is committed. */
static bool topic_ask(struct asker *a, uint32_t t) {
    int32_t n = partitions_read(a, t);
    int64_t *end = calloc(2 * (size_t)n + 1, sizeof *end);
    rd_kafka_topic_partition_list_t *l = rd_kafka_topic_partition_list_new(n + 1);
    CHECK(end != NULL);
    bool ok = n > 0;
    for (int32_t i = 0; ok && i < n; i++) {
        ok = watermarks(a, a->topic[t], partition_read(a, t, i), &end[2 * i], &end[2 * i + 1]);
        rd_kafka_topic_partition_list_add(l, a->config->topic[t].name, partition_read(a, t, i));
    }
    rd_kafka_resp_err_t e = ok ? rd_kafka_committed(a->questions, l, CALL_MS) : RD_KAFKA_RESP_ERR_NO_ERROR;
    if (e != RD_KAFKA_RESP_ERR_NO_ERROR) trouble(a, "committed offsets", rd_kafka_err2str(e));
    ok &= e == RD_KAFKA_RESP_ERR_NO_ERROR;
    for (int32_t i = 0; ok && i < n; i++) {
        struct evidence *item = item_new(a, EVIDENCE_ENDS, t, l->elems[i].partition);
        item->low = end[2 * i];
        item->high = end[2 * i + 1];
        item->committed = l->elems[i].offset >= 0 ? l->elems[i].offset : -1;
        uint64_t self = note_instance(a->config->instance);
        a->others |= note_by(note_read(l->elems[i].metadata, l->elems[i].metadata_size).by, self) != self;
        tell(a);
    }
    rd_kafka_topic_partition_list_destroy(l);
    free(end);
    return ok;
}

static bool manifests_ask(struct asker *a) {
    for (int32_t p = 0; p < a->manifest_partitions; p++) {
        int64_t low, high;
        if (!watermarks(a, a->manifests, p, &low, &high)) return false;
        reading_find(a, true, 0, p)->wanted = high;
    }
    return true;
}

static bool manifests_read(struct asker *a) {
    for (size_t i = 0; i < a->readings; i++)
        if (a->reading[i].manifest && a->reading[i].at < a->reading[i].wanted) return false;
    return true;
}

static bool round_wanted(struct asker *a, uint64_t now) {
    pthread_mutex_lock(&a->lock);
    bool wanted = a->hurry || now >= a->round_due_ns;
    a->hurry = false;
    pthread_mutex_unlock(&a->lock);
    return wanted;
}

static void round_ask(struct asker *a) {
    uint64_t now = clock_ns(&clock_real);
    bool ok = true;
    if (a->round_began_ms == 0) {
        if (!round_wanted(a, now)) return;
        a->round_began_ms = clock_wall_ms(&clock_real);
        a->round_asked = false;
        if (now >= a->layout_due_ns) layout_ask(a), a->layout_due_ns = now + LAYOUT_MS * NS_PER_MS;
        ok = a->manifests == NULL || (a->manifest_partitions > 0 && manifests_ask(a));
        for (uint32_t t = 0; ok && t < a->config->topic_count; t++) ok = topic_ask(a, t);
        if (ok) members_ask(a); /* after that: whoever has committed something is a member by then */
        if (!ok) a->layout_due_ns = 0;
        a->round_asked = ok;
        uint64_t took = clock_ns(&clock_real) - now,
                 pause = 4 * took; /* a fifth of the time at most is for questions */
        if (pause < ROUND_MS * NS_PER_MS) pause = ROUND_MS * NS_PER_MS;
        if (pause > ROUND_MS_MAX * NS_PER_MS) pause = ROUND_MS_MAX * NS_PER_MS;
        a->round_due_ns = clock_ns(&clock_real) + pause;
        if (!ok) a->round_began_ms = 0;
    }
    if (a->round_began_ms == 0 || !manifests_read(a)) return;
    struct evidence *e = item_new(a, EVIDENCE_ROUND, 0, 0);
    e->began_ms = a->round_began_ms;
    e->members = a->members;
    e->others = a->others;
    a->round_began_ms = 0;
    tell(a);
}

static void *ask(void *self) {
    struct asker *a = self;
    for (;;) {
        scans_take(a);
        round_ask(a);
        rd_kafka_message_t *m = rd_kafka_consume_queue(a->queue, POLL_MS);
        for (int i = 0; m != NULL; i++) {
            message_take(a, m);
            rd_kafka_message_destroy(m);
            m = i < 10000 ? rd_kafka_consume_queue(a->queue, 0) : NULL;
        }
        rd_kafka_poll(a->reader, 0);
        rd_kafka_poll(a->questions, 0);
    }
    return NULL;
}

/* -- opening ----------------------------------------------------------------------------------- */

static void log_from_library(const rd_kafka_t *rk, int level, const char *facility, const char *text) {
    (void)rk;
    if (level <= 4)
        log_warn("recon.kafka_library", "%s: %s", facility, text);
    else
        log_debug("recon.kafka_library", "%s: %s", facility, text);
}

/* NULL with err. The group is asked what it has committed; it is never joined. */
static rd_kafka_t *client_open(const struct config *c, struct err *err) {
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    CHECK(conf != NULL);
    rd_kafka_conf_set_log_cb(conf, log_from_library);
    if (kafka_settings_fill(conf, RD_KAFKA_CONSUMER, c, defaults, kafka_settings_reader, err) == 0 &&
        kafka_settings_set(conf, "group.id", c->kafka.group_id, err) == 0)
        return kafka_settings_open(conf, RD_KAFKA_CONSUMER, err);
    rd_kafka_conf_destroy(conf);
    return NULL;
}

int evidence_open(struct evidence_port *port, const struct config *c, const uint8_t key[DIGEST_KEY_BYTES],
                  const struct evidence_from *from, size_t n, struct err *err) {
    struct asker *a = calloc(1, sizeof *a);
    CHECK(a != NULL);
    a->config = c;
    digest_key_init(&a->key, key);
    a->queued = malloc(QUEUE_ITEMS * sizeof *a->queued);
    a->from = calloc(n + 1, sizeof *a->from);
    CHECK(a->queued != NULL && a->from != NULL);
    memcpy(a->from, from, n * sizeof *from);
    a->froms = n;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->room, NULL);
    a->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (a->wake_fd < 0) return err_set(err, EX_OSERR, "eventfd: %s", strerror(errno));
    if ((a->reader = client_open(c, err)) == NULL || (a->questions = client_open(c, err)) == NULL) return -1;
    a->queue = rd_kafka_queue_new(a->reader);
    for (uint32_t t = 0; t < c->topic_count; t++) a->topic[t] = rd_kafka_topic_new(a->reader, c->topic[t].name, NULL);
    if (c->recon.manifest_topic[0] != 0) a->manifests = rd_kafka_topic_new(a->reader, c->recon.manifest_topic, NULL);
    *port = (struct evidence_port){a, port_next, port_scan, port_hurry, a->wake_fd};
    return thread_start(ask, a, err);
}

#include "tools/replay_copy.h"

#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sysexits.h>
#include <time.h>

#include "base/clock.h"
#include "base/keys.h"
#include "feed/kafka_out.h"
#include "shm/record.h"
#include "tools/kafka_pick.h"
#include "transform/seal.h"

enum { MESSAGE_BYTES_MAX = 16 << 20, OPEN_MS = 15000, IDLE_S = 60, WAIT_MS = 100, STEP = 256 };

struct work {
    struct replay_copy *copy;
    struct kafka_out out;
    uint64_t sent, begin_ns;
    const char *from; /* topic of the originals in hand */
    int32_t partition;
    struct err *err;
};

static void delivered(void *context, uint64_t tag, int32_t partition, int64_t offset) {
    struct work *w = context;
    (void)tag, (void)partition, (void)offset;
    w->copy->copied++;
}

static int refused(struct work *w, enum kafka_out_result r) {
    if (r == KAFKA_OUT_REFUSED) return -1;
    w->err->code = EX_TEMPFAIL;
    return -1;
}

static int stopped(const struct work *w) {
    if (atomic_load_explicit(w->copy->stop, memory_order_relaxed) == 0) return 0;
    return err_set(w->err, EX_TEMPFAIL, "stopped: %llu copies were acknowledged", (unsigned long long)w->copy->copied);
}

static int look(struct work *w, int ms) {
    enum kafka_out_result r = w->out.poll(w->out.self, ms, w->err);
    if (w->copy->progress != NULL) w->copy->progress(w->copy->context, w->copy->copied);
    return r == KAFKA_OUT_OK ? stopped(w) : refused(w, r);
}

/* No faster than was asked for. */
static int pace(struct work *w) {
    if (w->copy->rate == 0) return w->sent % STEP == 0 ? look(w, 0) : 0;
    uint64_t due = w->begin_ns + w->sent * NS_PER_S / w->copy->rate, now;
    while ((now = clock_ns(&clock_real)) < due) {
        uint64_t ms = (due - now) / NS_PER_MS + 1;
        if (look(w, ms < WAIT_MS ? (int)ms : WAIT_MS) != 0) return -1;
    }
    return look(w, 0);
}

static int send_one(struct work *w, struct kafka_out_message *m, int64_t offset) {
    char of[TOPIC_BYTES + 40];
    int n = snprintf(of, sizeof of, "%s/%d/%lld", w->from, w->partition, (long long)offset);
    if (m->header_count == KAFKA_OUT_HEADERS_MAX)
        return err_set(w->err, EX_DATAERR, "%s has more than %d headers", of, KAFKA_OUT_HEADERS_MAX - 1);
    m->topic = w->copy->topic;
    m->header[m->header_count].name = HEADER_REPLAY_OF;
    m->header[m->header_count].value = of;
    m->header[m->header_count++].bytes = (size_t)n;
    for (;;) {
        enum kafka_out_result r = w->out.send(w->out.self, m, w->err);
        if (r == KAFKA_OUT_OK) break;
        if (r != KAFKA_OUT_FULL) return refused(w, r);
        if (look(w, WAIT_MS) != 0) return -1;
    }
    w->sent++;
    return pace(w);
}

static int begin(struct work *w) {
    kafka_out_new(&w->out, w->copy->config, MESSAGE_BYTES_MAX, OPEN_MS, delivered, w);
    w->begin_ns = clock_ns(&clock_real);
    enum kafka_out_result r = w->out.open(w->out.self, &w->copy->topic, 1, w->err);
    return r == KAFKA_OUT_OK ? 0 : refused(w, r);
}

/* Waits until everything is acknowledged. */
static int end(struct work *w, int r) {
    uint64_t due = clock_ns(&clock_real) + IDLE_S * NS_PER_S, last = w->copy->copied;
    while (r == 0 && w->copy->copied < w->sent) {
        r = look(w, WAIT_MS);
        uint64_t now = clock_ns(&clock_real);
        if (w->copy->copied != last) {
            due = now + IDLE_S * NS_PER_S;
            last = w->copy->copied;
        } else if (r == 0 && now >= due) {
            r = err_set(w->err, EX_TEMPFAIL, "the brokers have not acknowledged %llu copies",
                        (unsigned long long)(w->sent - last));
        }
    }
    w->out.close(w->out.self);
    w->out.free(w->out.self);
    return r;
}

/* -- from Kafka -------------------------------------------------------------------------------- */

static int copy_picked(void *context, int64_t offset, const struct kafka_picked *p) {
    struct work *w = context;
    struct kafka_out_message m;
    if (p == NULL) {
        w->copy->missing++;
        if (w->copy->miss != NULL) w->copy->miss(w->copy->context, w->from, w->partition, offset);
        return 0;
    }
    m = (struct kafka_out_message){.key = p->key,
                                   .value = p->value,
                                   .key_bytes = p->key_bytes,
                                   .value_bytes = p->value_bytes,
                                   .timestamp_ms = p->timestamp_ms >= 0 ? p->timestamp_ms : 0,
                                   .header_count = p->header_count};
    for (uint32_t i = 0; i < p->header_count; i++) {
        m.header[i].name = p->header[i].name;
        m.header[i].value = p->header[i].value;
        m.header[i].bytes = p->header[i].bytes;
    }
    return send_one(w, &m, offset);
}

/* One partition after the other, each in its order. */
static int copy_all(struct work *w, struct kafka_pick *pick, struct replay_set *s) {
    size_t n, i = 0, k;
    int r = 0;
    const struct replay_record *list = replay_set_records(s, &n);
    int64_t *offset = calloc(n + 1, sizeof *offset);
    CHECK(offset != NULL);
    for (; r == 0 && i < n; i += k) {
        for (k = 0; i + k < n && list[i + k].topic == list[i].topic && list[i + k].partition == list[i].partition; k++)
            offset[k] = list[i + k].offset;
        w->from = replay_set_topic(s, list[i].topic);
        w->partition = list[i].partition;
        r = kafka_pick_each(pick, w->from, w->partition, offset, k, copy_picked, w, w->err);
    }
    free(offset);
    return r;
}

int replay_copy_kafka(struct replay_copy *c, struct replay_set *s, struct err *err) {
    struct work w = {.copy = c, .err = err};
    struct kafka_pick *pick = kafka_pick_open(c->config, err);
    if (pick == NULL) return -1;
    int r = begin(&w);
    if (r == 0) r = copy_all(&w, pick, s);
    r = end(&w, r);
    kafka_pick_close(pick);
    return r;
}

/* -- from the audit log ------------------------------------------------------------------------ */

static int headers_decode(const struct seal_parts *parts, struct kafka_out_message *m,
                          char names[KAFKA_OUT_HEADERS_MAX][256], struct err *err) {
    struct record_header h;
    size_t at = 0;
    int r;
    while ((r = record_header_next(parts->headers, parts->headers_bytes, &at, &h)) == 1) {
        if (m->header_count == KAFKA_OUT_HEADERS_MAX - 1 || h.name_bytes > 255)
            return err_set(err, EX_DATAERR, "more than %d headers, or one with a name of more than 255 bytes",
                           KAFKA_OUT_HEADERS_MAX - 1);
        memcpy(names[m->header_count], h.name, h.name_bytes);
        names[m->header_count][h.name_bytes] = 0;
        m->header[m->header_count].name = names[m->header_count];
        m->header[m->header_count].value = h.value;
        m->header[m->header_count++].bytes = h.value_bytes;
    }
    return r;
}

static int copy_entry(struct work *w, const struct keys *keys, const struct log_item *item) {
    static char names[KAFKA_OUT_HEADERS_MAX][256];
    const struct entry *e = item->entry;
    struct seal_origin origin = {e->id, item->topic, e->partition, e->offset};
    struct seal_parts parts;
    uint8_t *buffer;
    w->from = item->topic;
    w->partition = e->partition;
    if (e->content_bytes == 0) return copy_picked(w, e->offset, NULL);
    if (seal_open(keys, &origin, (const uint8_t *)(e + 1), e->content_bytes, &parts, &buffer, w->err) != 0)
        return err_prefix(w->err, "%s/%d/%lld", item->topic, e->partition, (long long)e->offset);
    struct kafka_out_message m = {.key = parts.key,
                                  .value = parts.value,
                                  .key_bytes = parts.key_bytes,
                                  .value_bytes = parts.value_bytes,
                                  .timestamp_ms = e->timestamp_ms >= 0 ? e->timestamp_ms : 0};
    int r = headers_decode(&parts, &m, names, w->err);
    if (r == 0) r = send_one(w, &m, e->offset);
    free(buffer);
    return r;
}

static int copy_found(struct work *w, const char *dir, const struct log_query *q, const struct keys *keys) {
    struct replay_set *seen = replay_set_new();
    struct log_search *search = log_search_open(dir, q, w->err);
    struct log_item item;
    enum log_read found = LOG_END;
    int r = search != NULL ? 0 : -1;
    while (r == 0 && (found = log_search_next(search, &item, w->err)) == LOG_ITEM) {
        size_t before = replay_set_chosen(seen);
        r = replay_set_add(seen, item.topic, item.entry->partition, item.entry->offset, item.entry->offset + 1, w->err);
        if (r == 0 && replay_set_chosen(seen) > before) r = copy_entry(w, keys, &item);
    }
    if (search != NULL) log_search_close(search);
    replay_set_free(seen);
    return r == 0 && found == LOG_BAD ? -1 : r;
}

int replay_copy_log(struct replay_copy *c, const char *dir, const struct log_query *q, struct err *err) {
    struct work w = {.copy = c, .err = err};
    if (c->config->crypto.keys[0] == 0)
        return err_set(err, EX_CONFIG, "crypto.keys is not set: the content in the log cannot be decrypted");
    prctl(PR_SET_DUMPABLE, 0); /* what it holds in memory must not end in a core dump */
    struct keys *keys = keys_load(c->config->crypto.keys, err);
    if (keys == NULL) return -1;
    int r = begin(&w);
    if (r == 0) r = copy_found(&w, dir, q, keys);
    r = end(&w, r);
    keys_free(keys);
    return r;
}

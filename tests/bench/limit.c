/* The limit program: how fast one process gets that promises no more than a commit after the answer. `batch` records
 * (500) at a time become one MSET (or as many HSETs), four batches are under way, a commit goes out once a second. */
#include "tests/bench/bench.h"

#include <stdlib.h>
#include <string.h>

enum { UNDER_WAY = 4, COMMAND_BYTES = BENCH_VALUE_BYTES + 256 };

struct flight { /* one batch */
    uint64_t replies;
    int64_t next[BENCH_PARTITIONS]; /* offsets after it */
};

struct limit {
    struct bench b;
    rd_kafka_t *rk;
    redisContext *redis;
    struct flight flight[UNDER_WAY];
    uint64_t sent, answered;        /* batches */
    int64_t next[BENCH_PARTITIONS]; /* read so far */
    uint64_t committed_ns;
    char *out;
    rd_kafka_message_t **message;
};

static void commit(struct limit *l, const int64_t next[BENCH_PARTITIONS]) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(BENCH_PARTITIONS);
    for (int32_t p = 0; p < BENCH_PARTITIONS; p++)
        if (next[p] > 0) rd_kafka_topic_partition_list_add(list, l->b.topic, p)->offset = next[p];
    rd_kafka_commit(l->rk, list, 1);
    rd_kafka_topic_partition_list_destroy(list);
}

static void answer(struct limit *l) {
    struct flight *f = &l->flight[l->answered++ % UNDER_WAY];
    bench_replies(l->redis->fd, f->replies);
    uint64_t now = bench_now_ns();
    if (now - l->committed_ns < 1000000000ULL) return;
    l->committed_ns = now;
    commit(l, f->next);
}

static char *fields(char *at, const rd_kafka_message_t *m) {
    struct bench_slice field[2 * BENCH_FIELDS];
    bench_fields(m->payload, field);
    at = (char *)memcpy(at, "*10\r\n$4\r\nHSET\r\n", 15) + 15;
    at = bench_argument(at, m->key, m->key_len);
    for (int i = 0; i < 2 * BENCH_FIELDS; i++) at = bench_argument(at, field[i].bytes, field[i].len);
    return at;
}

static char *encode(struct limit *l, uint32_t n) {
    static const char name[] = "$4\r\nMSET\r\n";
    char *at = l->out, digits[16];
    if (!l->b.hash) {
        size_t len = 0;
        for (uint32_t left = 1 + 2 * n; left > 0; left /= 10) digits[len++] = (char)('0' + left % 10);
        *at++ = '*';
        while (len > 0) *at++ = digits[--len];
        at = (char *)memcpy(at, "\r\n", 2) + 2;
        at = (char *)memcpy(at, name, sizeof name - 1) + sizeof name - 1;
    }
    for (uint32_t i = 0; i < n; i++) {
        const rd_kafka_message_t *m = l->message[i];
        if (m->len != BENCH_VALUE_BYTES || m->key_len != BENCH_KEY_BYTES) bench_fail("not a record of this benchmark");
        if (l->b.hash) {
            at = fields(at, m);
        } else {
            at = bench_argument(at, m->key, m->key_len);
            at = bench_argument(at, m->payload, m->len);
        }
        l->next[m->partition] = m->offset + 1;
    }
    return at;
}

static void send_batch(struct limit *l, uint32_t n) {
    if (l->sent - l->answered == UNDER_WAY) answer(l);
    char *end = encode(l, n);
    struct flight *f = &l->flight[l->sent++ % UNDER_WAY];
    f->replies = l->b.hash ? n : 1;
    memcpy(f->next, l->next, sizeof f->next);
    bench_send(l->redis->fd, l->out, (size_t)(end - l->out));
    for (uint32_t i = 0; i < n; i++) rd_kafka_message_destroy(l->message[i]);
}

int main(int argc, char **argv) {
    static struct limit l;
    bench_options(&l.b, argc, argv);
    l.rk = bench_consumer(&l.b);
    l.redis = bench_redis(&l.b);
    l.out = malloc(64 + (size_t)l.b.batch * COMMAND_BYTES);
    l.message = calloc(l.b.batch, sizeof(rd_kafka_message_t *));
    if (l.out == NULL || l.message == NULL) bench_fail("no memory");
    rd_kafka_queue_t *q = rd_kafka_queue_get_consumer(l.rk);
    uint64_t done = 0, began = 0;
    while (done < l.b.count) {
        uint64_t left = l.b.count - done;
        uint32_t n = bench_consume(q, l.message, left < l.b.batch ? (uint32_t)left : l.b.batch);
        if (n == 0) continue;
        if (began == 0) began = l.committed_ns = bench_now_ns();
        send_batch(&l, n);
        done += n;
    }
    while (l.answered < l.sent) answer(&l);
    commit(&l, l.next);
    bench_result(done, began, bench_now_ns());
    return 0;
}

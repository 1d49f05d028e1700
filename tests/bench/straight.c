/* The straightforward program, as one writes it from the manuals: poll a record, append a SET (or HSET) to the
 * pipeline, after `batch` of them wait for all answers, commit without waiting. */
#include "tests/bench/bench.h"

#include <string.h>

static void append(const struct bench *b, redisContext *redis, const rd_kafka_message_t *m) {
    struct bench_slice field[2 * BENCH_FIELDS];
    const char *argv[2 + 2 * BENCH_FIELDS] = {b->hash ? "HSET" : "SET", m->key, m->payload};
    size_t len[2 + 2 * BENCH_FIELDS] = {b->hash ? 4 : 3, m->key_len, m->len};
    int argc = 3;
    if (b->hash) {
        if (m->len != BENCH_VALUE_BYTES) bench_fail("not a record of this benchmark");
        bench_fields(m->payload, field);
        for (argc = 2; argc < 2 + 2 * BENCH_FIELDS; argc++) {
            argv[argc] = field[argc - 2].bytes;
            len[argc] = field[argc - 2].len;
        }
    }
    redisAppendCommandArgv(redis, argc, argv, len);
}

static void answers(redisContext *redis, uint32_t n) {
    for (; n > 0; n--) {
        void *object = NULL;
        if (redisGetReply(redis, &object) != REDIS_OK) bench_fail("Redis: %s", redis->errstr);
        redisReply *reply = object;
        if (reply->type == REDIS_REPLY_ERROR) bench_fail("Redis: %s", reply->str);
        freeReplyObject(reply);
    }
}

int main(int argc, char **argv) {
    struct bench b;
    bench_options(&b, argc, argv);
    rd_kafka_t *rk = bench_consumer(&b);
    redisContext *redis = bench_redis(&b);
    uint64_t done = 0, began = 0;
    uint32_t pending = 0;
    while (done < b.count) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(rk, 100);
        if (began == 0 && m != NULL) began = bench_now_ns();
        if (m != NULL && m->err != RD_KAFKA_RESP_ERR_NO_ERROR) bench_fail("consume: %s", rd_kafka_message_errstr(m));
        if (m != NULL) {
            append(&b, redis, m);
            rd_kafka_message_destroy(m);
            pending++;
        }
        if (pending < b.batch && m != NULL && done + pending < b.count) continue;
        answers(redis, pending);
        if (pending > 0) rd_kafka_commit(rk, NULL, 1);
        done += pending;
        pending = 0;
    }
    bench_result(done, began, bench_now_ns());
    return 0;
}

/* What one connection to Redis gives: `count` records are written in batches of SETs (or HSETs), each batch answered
 * before the next, without any Kafka. */
#include "tests/bench/bench.h"

#include <stdlib.h>
#include <string.h>

enum { COMMAND_BYTES = BENCH_VALUE_BYTES + 256 };

static char *command(const struct bench *b, char *at, const char *key, const char *value) {
    if (!b->hash) {
        at = (char *)memcpy(at, "*3\r\n$3\r\nSET\r\n", 13) + 13;
        at = bench_argument(at, key, BENCH_KEY_BYTES);
        return bench_argument(at, value, BENCH_VALUE_BYTES);
    }
    struct bench_slice field[2 * BENCH_FIELDS];
    bench_fields(value, field);
    at = (char *)memcpy(at, "*10\r\n$4\r\nHSET\r\n", 15) + 15;
    at = bench_argument(at, key, BENCH_KEY_BYTES);
    for (int i = 0; i < 2 * BENCH_FIELDS; i++) at = bench_argument(at, field[i].bytes, field[i].len);
    return at;
}

int main(int argc, char **argv) {
    struct bench b;
    bench_options(&b, argc, argv);
    redisContext *redis = bench_redis(&b);
    char *out = malloc((size_t)b.batch * COMMAND_BYTES), value[BENCH_VALUE_BYTES];
    if (out == NULL) bench_fail("no memory");
    bench_value(0, 0, value); /* the same for all: this measures Redis, not the making of records */
    uint64_t began = bench_now_ns();
    for (uint64_t n = 0; n < b.count;) {
        char *at = out;
        uint64_t before = n;
        for (; n < b.count && n - before < b.batch; n++) {
            char key[BENCH_KEY_BYTES + 1];
            bench_key(bench_account(&b, n), key);
            at = command(&b, at, key, value);
        }
        bench_send(redis->fd, out, (size_t)(at - out));
        bench_replies(redis->fd, n - before);
    }
    bench_result(b.count, began, bench_now_ns());
    return 0;
}

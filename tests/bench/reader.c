/* A service that reads the cache: one GET each millisecond for so many seconds, and how long they took, as a line of
 * JSON:   bench-reader PORT COUNT SECONDS */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "bench.h"

enum { PER_SECOND = 1000 };

static int by_size(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc != 4) bench_fail("usage: bench-reader PORT COUNT SECONDS");
    uint64_t count = strtoull(argv[2], NULL, 10), looks = strtoull(argv[3], NULL, 10) * PER_SECOND, seed = 1;
    uint64_t *ns = malloc(looks * sizeof *ns);
    redisContext *redis = redisConnect("127.0.0.1", atoi(argv[1]));
    if (redis == NULL || redis->err != 0) bench_fail("no Redis at port %s", argv[1]);
    uint64_t due = bench_now_ns();
    for (uint64_t i = 0; i < looks; i++, due += 1000000000 / PER_SECOND) {
        uint64_t now = bench_now_ns();
        if (now < due) nanosleep(&(struct timespec){.tv_nsec = (long)(due - now)}, NULL);
        seed = seed * 6364136223846793005 + 1442695040888963407;
        uint64_t began = bench_now_ns();
        redisReply *reply = redisCommand(redis, "GET card:%010llu", (unsigned long long)((seed >> 33) % count));
        ns[i] = bench_now_ns() - began;
        if (reply == NULL || reply->type != REDIS_REPLY_STRING) bench_fail("a key is not there");
        freeReplyObject(reply);
    }
    qsort(ns, looks, sizeof *ns, by_size);
    printf("{\"p50_us\":%.0f,\"p99_us\":%.0f,\"p999_us\":%.0f}\n", (double)ns[looks / 2] / 1e3,
           (double)ns[looks * 99 / 100] / 1e3, (double)ns[looks * 999 / 1000] / 1e3);
    return 0;
}

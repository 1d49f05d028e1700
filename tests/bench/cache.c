/* Fills a Redis with keys and writes the table of live keys that fits them, as if all had come through the pipeline
 * long ago and the audit log were gone:   bench-cache PORT COUNT BYTES KEYFILE TABLE */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/audit_keys.h"
#include "bench.h"
#include "recon/live.h"

enum { BATCH = 500, BYTES_MAX = 4096 };

static void apply(struct live *table, const struct digest_key *k, uint64_t n, const char *key, size_t key_bytes,
                  const char *value, size_t value_bytes) {
    struct err err = {0};
    struct entry e = {.bytes = sizeof e,
                      .partition = (int32_t)(n % BENCH_PARTITIONS),
                      .offset = (int64_t)(n / BENCH_PARTITIONS),
                      .outcome = ENTRY_APPLIED,
                      .digest_algorithm = DIGEST_HMAC};
    digest_of(k, DIGEST_HMAC, key, key_bytes, e.digest_key);
    digest_of(k, DIGEST_HMAC, value, value_bytes, e.digest_stored);
    const struct log_item item = {.entry = &e, .topic = "cards", .sequence = n + 1};
    if (live_apply(table, &item, &err) != 0 || (n % 10000 == 0 && live_commit(table, 1, &err) != 0))
        bench_fail("%s", err.text);
}

int main(int argc, char **argv) {
    struct err err = {0};
    struct audit_keys keys;
    struct digest_key k;
    char key[32], value[BYTES_MAX];
    if (argc != 6) bench_fail("usage: bench-cache PORT COUNT BYTES KEYFILE TABLE");
    uint64_t count = strtoull(argv[2], NULL, 10), bytes = strtoull(argv[3], NULL, 10), pending = 0;
    if (bytes < 20 || bytes > BYTES_MAX) bench_fail("BYTES is 20 to %d", BYTES_MAX);
    if (audit_keys_load(argv[4], AUDIT_KEY_DIGEST, &keys, &err) != 0) bench_fail("%s", err.text);
    digest_key_init(&k, keys.digest);
    struct live *table = live_open_writer(argv[5], &err);
    redisContext *redis = redisConnect("127.0.0.1", atoi(argv[1]));
    if (table == NULL) bench_fail("%s", err.text);
    if (redis == NULL || redis->err != 0) bench_fail("no Redis at port %s", argv[1]);
    for (uint64_t i = 0; i < bytes; i++) value[i] = (char)('a' + i % 26);
    for (uint64_t n = 0; n < count; n++) {
        int key_bytes = snprintf(key, sizeof key, "card:%010llu", (unsigned long long)n);
        char number[21];
        snprintf(number, sizeof number, "%020llu", (unsigned long long)n);
        memcpy(value, number, 20);
        redisAppendCommand(redis, "SET %b %b", key, (size_t)key_bytes, value, (size_t)bytes);
        apply(table, &k, n, key, (size_t)key_bytes, value, bytes);
        pending++;
        for (void *reply; pending > 0 && (pending == BATCH || n + 1 == count); pending--) {
            if (redisGetReply(redis, &reply) != REDIS_OK) bench_fail("Redis: %s", redis->errstr);
            freeReplyObject(reply);
        }
    }
    if (live_flush(table, &err) != 0) bench_fail("%s", err.text);
    live_close(table);
    redisFree(redis);
    return 0;
}

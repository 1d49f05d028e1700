/* Writes `count` records into the topic, from number `first` on, at most `rate` a second. With --run-dir, --name and
 * --ahead it stays at most so many records before what that instance has applied: for a soak at full speed on a topic
 * that forgets. */
#include "tests/bench/bench.h"

#include <string.h>
#include <time.h>

#include "shm/stats_view.h"

enum { CHUNK = 1000 }; /* records between two looks */

static void producer_settings(struct bench *b) {
    static const char *const properties[] = {"linger.ms=20", "batch.num.messages=10000", "batch.size=1000000",
                                             "queue.buffering.max.messages=200000", "acks=all"};
    memcpy(b->property, properties, sizeof properties);
    b->property_count = sizeof properties / sizeof properties[0];
}

static uint64_t applied(const struct stats *s) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < view_lane_count(s); i++) n += view_lane(s, i).sink;
    return n;
}

int main(int argc, char **argv) {
    struct bench b;
    struct stats stats;
    struct err err = {0};
    bench_options(&b, argc, argv);
    if (b.ahead > 0 && stats_open(&stats, b.run_dir, b.name, &err) != 0) bench_fail("%s", err.text);
    producer_settings(&b);
    rd_kafka_t *rk = bench_producer(&b);
    rd_kafka_topic_t *topic = rd_kafka_topic_new(rk, b.topic, NULL);
    uint64_t began = bench_now_ns(), before = b.ahead > 0 ? applied(&stats) : 0;
    for (uint64_t i = 0; i < b.count; i++) {
        char key[BENCH_KEY_BYTES + 1], value[BENCH_VALUE_BYTES];
        uint32_t account = bench_account(&b, b.first + i);
        bench_key(account, key);
        bench_value(account, b.first + i, value);
        bench_produce(rk, topic, account, key, value);
        while (b.rate > 0 && bench_now_ns() - began < i * 1000000000ULL / b.rate) rd_kafka_poll(rk, 1);
        if (i % CHUNK != 0) continue;
        rd_kafka_poll(rk, 0);
        while (b.ahead > 0 && i > applied(&stats) - before + b.ahead) rd_kafka_poll(rk, 1);
        if (b.seconds > 0 && bench_now_ns() - began > b.seconds * 1000000000ULL) b.count = i;
    }
    if (rd_kafka_flush(rk, 60000) != RD_KAFKA_RESP_ERR_NO_ERROR) bench_fail("the broker has not taken everything");
    bench_result(b.count, began, bench_now_ns());
    return 0;
}

/* What librdkafka gives at most: `count` records are read and forgotten. */
#include "tests/bench/bench.h"

enum { TAKE = 1000 };

int main(int argc, char **argv) {
    struct bench b;
    bench_options(&b, argc, argv);
    rd_kafka_t *rk = bench_consumer(&b);
    rd_kafka_queue_t *q = rd_kafka_queue_get_consumer(rk);
    uint64_t done = 0, began = 0;
    while (done < b.count) {
        static rd_kafka_message_t *m[TAKE];
        uint64_t left = b.count - done;
        uint32_t n = bench_consume(q, m, left < TAKE ? (uint32_t)left : TAKE);
        if (began == 0 && n > 0) began = bench_now_ns();
        for (uint32_t i = 0; i < n; i++) rd_kafka_message_destroy(m[i]);
        done += n;
    }
    bench_result(done, began, bench_now_ns());
    return 0; /* without closing the consumer: its threads end with the process */
}

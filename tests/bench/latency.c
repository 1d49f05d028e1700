/* From produce to visible: publishes `rate` records a second for `warmup` and then `seconds` seconds, each with a key
 * of its own, linger 0, and takes the time from just before the call that produces a record to
 *   with --redis    the moment Redis tells this program that the key was written (CLIENT TRACKING, broadcasting): the
 *                   push leaves Redis in the same turn of its loop as the answer to the writer, and any GET that
 *                   arrives from then on finds the value. Polling would need a processor of its own.
 *   else            the moment a librdkafka consumer of this program has it: the floor that Kafka itself sets.
 * What leaves during the warm-up does not count: the topic is new, and the broker compiles its code.
 * Records leave on a fixed schedule whatever comes back, in ticks of at least 250 us. */
#include "tests/bench/bench.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

enum { KEY_BYTES = 14, TICK_NS_MIN = 250000, PATIENCE_S = 10 };

struct prober {
    struct bench b;
    uint64_t *produced_ns, *visible_ns; /* by record */
    uint64_t seen;
};

/* Number of a record of this run from its key "lat:NNNNNNNNNN", or -1. */
static int64_t number_of(const struct prober *p, const char *key, size_t len) {
    char digits[KEY_BYTES];
    if (len != KEY_BYTES || memcmp(key, "lat:", 4) != 0) return -1;
    memcpy(digits, key + 4, KEY_BYTES - 4);
    digits[KEY_BYTES - 4] = 0;
    uint64_t n = strtoull(digits, NULL, 10);
    return n >= p->b.first && n < p->b.first + p->b.count ? (int64_t)(n - p->b.first) : -1;
}

static void note(struct prober *p, const char *key, size_t len, uint64_t now) {
    int64_t i = number_of(p, key, len);
    if (i < 0 || p->visible_ns[i] != 0) return;
    p->visible_ns[i] = now;
    p->seen++;
}

/* -- the two ways to see a record -------------------------------------------------------------- */

static redisContext *tracking(const struct bench *b) {
    redisContext *c = bench_redis(b);
    struct timeval patience = {PATIENCE_S, 0};
    static const char ask[] = "HELLO 3\r\nCLIENT TRACKING ON BCAST PREFIX lat:\r\n";
    char answer[4096];
    size_t n = 0;
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    bench_send(c->fd, ask, sizeof ask - 1);
    while (memmem(answer, n, "+OK\r\n", 5) == NULL) { /* the second of both answers */
        ssize_t got = n < sizeof answer ? recv(c->fd, answer + n, sizeof answer - n, 0) : -1;
        if (got <= 0) bench_fail("Redis does not track: %.*s", (int)n, answer);
        n += (size_t)got;
    }
    return c;
}

/* Lines are all there is to know: a line that is a key of this run has been written. */
static void watch_redis(struct prober *p, int fd) {
    static char buffer[1 << 20];
    size_t n = 0;
    while (p->seen < p->b.count) {
        ssize_t got = recv(fd, buffer + n, sizeof buffer - n, 0);
        uint64_t now = bench_now_ns();
        if (got <= 0)
            bench_fail("only %llu of %llu records came", (unsigned long long)p->seen, (unsigned long long)p->b.count);
        n += (size_t)got;
        char *at = buffer, *end;
        while ((end = memmem(at, n - (size_t)(at - buffer), "\r\n", 2)) != NULL) {
            note(p, at, (size_t)(end - at), now);
            at = end + 2;
        }
        n -= (size_t)(at - buffer);
        memmove(buffer, at, n);
    }
}

static void watch_kafka(struct prober *p, rd_kafka_t *rk) {
    uint64_t last = bench_now_ns();
    while (p->seen < p->b.count) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(rk, 1000);
        uint64_t now = bench_now_ns();
        if (now - last > PATIENCE_S * 1000000000ULL) bench_fail("only %llu records came", (unsigned long long)p->seen);
        if (m == NULL) continue;
        if (m->err == RD_KAFKA_RESP_ERR_NO_ERROR) note(p, m->key, m->key_len, now);
        rd_kafka_message_destroy(m);
        last = now;
    }
}

static void *watch(void *self) {
    struct prober *p = self;
    if (p->b.redis_port != 0)
        watch_redis(p, tracking(&p->b)->fd);
    else
        watch_kafka(p, bench_consumer(&p->b));
    return NULL;
}

/* -- producing --------------------------------------------------------------------------------- */

static void sleep_until(uint64_t ns) {
    struct timespec t = {(time_t)(ns / 1000000000ULL), (long)(ns % 1000000000ULL)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static void produce_all(struct prober *p) {
    struct bench own = p->b;
    own.property[0] = "linger.ms=0";
    own.property[1] = "socket.nagle.disable=true";
    own.property[2] = "acks=all";
    own.property[3] =
        "max.in.flight.requests.per.connection=5"; /* as the Java producer; else each record is a request */
    own.property_count = 4;
    rd_kafka_t *rk = bench_producer(&own);
    rd_kafka_topic_t *topic = rd_kafka_topic_new(rk, p->b.topic, NULL);
    uint64_t tick_ns = 1000000000ULL / p->b.rate, per_tick = 1;
    while (tick_ns * per_tick < TICK_NS_MIN) per_tick++;
    uint64_t begin = bench_now_ns() + 2000000000ULL; /* for the connections */
    rd_kafka_poll(rk, 500);
    for (uint64_t i = 0; i < p->b.count; i++) {
        char key[KEY_BYTES + 1], value[BENCH_VALUE_BYTES];
        uint32_t account = bench_account(&p->b, i);
        snprintf(key, sizeof key, "lat:%010llu", (unsigned long long)(p->b.first + i) % 10000000000ULL);
        bench_value(account, i, value);
        if (i % per_tick == 0) {
            rd_kafka_poll(rk, 0);
            sleep_until(begin + i * tick_ns);
        }
        p->produced_ns[i] = bench_now_ns();
        bench_produce(rk, topic, (uint32_t)i, key, value);
    }
    if (rd_kafka_flush(rk, 10000) != RD_KAFKA_RESP_ERR_NO_ERROR) bench_fail("the broker has not taken everything");
}

static int ascending(const void *a, const void *b) {
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static void print(const struct prober *p) {
    static const double quantiles[] = {0.5, 0.9, 0.99, 0.999, 1.0};
    uint64_t from = (uint64_t)p->b.rate * p->b.warmup, n = p->b.count - from;
    uint64_t *ns = malloc(n * sizeof *ns);
    if (ns == NULL) bench_fail("no memory");
    for (uint64_t i = 0; i < n; i++) ns[i] = p->visible_ns[from + i] - p->produced_ns[from + i];
    qsort(ns, n, sizeof *ns, ascending);
    printf("{\"records\": %llu, \"rate\": %u, \"ms\": [", (unsigned long long)n, p->b.rate);
    for (size_t i = 0; i < sizeof quantiles / sizeof quantiles[0]; i++) {
        uint64_t at = (uint64_t)(quantiles[i] * (double)n);
        printf("%s%.4f", i > 0 ? ", " : "", (double)ns[at < n ? at : n - 1] / 1e6);
    }
    printf("]}\n");
}

int main(int argc, char **argv) {
    static struct prober p;
    pthread_t watcher;
    bench_options(&p.b, argc, argv);
    if (p.b.rate == 0 || p.b.seconds == 0) bench_fail("--rate and --seconds are needed");
    prctl(PR_SET_TIMERSLACK, 1UL);
    p.b.count = (uint64_t)p.b.rate * (p.b.warmup + p.b.seconds);
    p.produced_ns = calloc(p.b.count, sizeof(uint64_t));
    p.visible_ns = calloc(p.b.count, sizeof(uint64_t));
    if (p.produced_ns == NULL || p.visible_ns == NULL) bench_fail("no memory");
    if (pthread_create(&watcher, NULL, watch, &p) != 0) bench_fail("no thread");
    produce_all(&p);
    pthread_join(watcher, NULL);
    print(&p);
    return 0;
}

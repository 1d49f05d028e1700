#include "tests/bench/bench.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

void bench_fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

uint64_t bench_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
}

enum option_name {
    BROKERS = 256,
    TOPIC,
    GROUP,
    REDIS,
    COUNT,
    FIRST,
    KEYS,
    BATCH,
    RATE,
    SECONDS,
    AHEAD,
    AFTER,
    WARMUP,
    RUN_DIR,
    NAME,
    HASH
};

static const struct option names[] = {
    {"brokers", required_argument, NULL, BROKERS}, {"topic", required_argument, NULL, TOPIC},
    {"group", required_argument, NULL, GROUP},     {"redis", required_argument, NULL, REDIS},
    {"count", required_argument, NULL, COUNT},     {"first", required_argument, NULL, FIRST},
    {"keys", required_argument, NULL, KEYS},       {"batch", required_argument, NULL, BATCH},
    {"rate", required_argument, NULL, RATE},       {"seconds", required_argument, NULL, SECONDS},
    {"ahead", required_argument, NULL, AHEAD},     {"run-dir", required_argument, NULL, RUN_DIR},
    {"name", required_argument, NULL, NAME},       {"hash", no_argument, NULL, HASH},
    {"after", required_argument, NULL, AFTER},     {"warmup", required_argument, NULL, WARMUP},
    {NULL, 0, NULL, 0},
};

static uint64_t number(const char *text) {
    char *end;
    uint64_t n = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != 0) bench_fail("not a number: %s", text);
    return n;
}

static void option_take(struct bench *b, int option) {
    switch (option) {
    case BROKERS: b->brokers = optarg; break;
    case TOPIC: b->topic = optarg; break;
    case GROUP: b->group = optarg; break;
    case RUN_DIR: b->run_dir = optarg; break;
    case NAME: b->name = optarg; break;
    case REDIS: b->redis_port = (uint16_t)number(optarg); break;
    case COUNT: b->count = number(optarg); break;
    case FIRST: b->first = number(optarg); break;
    case KEYS: b->keys = (uint32_t)number(optarg); break;
    case BATCH: b->batch = (uint32_t)number(optarg); break;
    case RATE: b->rate = (uint32_t)number(optarg); break;
    case SECONDS: b->seconds = (uint32_t)number(optarg); break;
    case WARMUP: b->warmup = (uint32_t)number(optarg); break;
    case AHEAD: b->ahead = number(optarg); break;
    case AFTER: b->after = (uint32_t)number(optarg); break;
    case HASH: b->hash = true; break;
    case 'X':
        if (b->property_count == BENCH_PROPERTIES) bench_fail("too many -X");
        b->property[b->property_count++] = optarg;
        break;
    default: exit(1);
    }
}

void bench_options(struct bench *b, int argc, char **argv) {
    int option;
    *b = (struct bench){.group = "bench", .keys = 200000, .batch = 100};
    while ((option = getopt_long(argc, argv, "X:", names, NULL)) != -1) option_take(b, option);
    if (b->keys == 0 || b->keys > 9999999 || b->batch == 0) bench_fail("--keys in [1, 9999999], --batch at least 1");
}

/* -- records ----------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x) { /* the finalizer of SplitMix64 */
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

uint32_t bench_account(const struct bench *b, uint64_t n) {
    return (uint32_t)((n % b->keys * 7368787ULL) % b->keys); /* a prime: a permutation of the keys */
}

void bench_key(uint32_t account, char key[BENCH_KEY_BYTES + 1]) {
    snprintf(key, BENCH_KEY_BYTES + 1, "card:%07u:0", account % 10000000);
}

#define VALUE_HEAD "{\"account\":\"%07u\",\"card_no\":\"0\",\"version\":\"%010llu\",\"text\":\""
enum { AT_ACCOUNT = 12, AT_CARD_NO = 32, AT_VERSION = 46, AT_TEXT = 66 };

static void text_write(char *text, size_t size, uint64_t seed) {
    static const char *const words[] = {"payment",  "transfer", "card",     "account", "branch", "merchant",
                                        "terminal", "approved", "declined", "pending", "refund", "invoice",
                                        "holder",   "limit",    "currency", "balance"};
    char word[32];
    uint64_t random = mix(seed + 1);
    for (size_t at = 0; at < size;) { /* words and numbers in turn */
        size_t n = (size_t)snprintf(word, sizeof word, "%s %u ", words[random & 15], (uint32_t)(random >> 40));
        if (n > size - at) n = size - at;
        memcpy(text + at, word, n);
        at += n;
        random = mix(random + at);
    }
}

void bench_value(uint32_t account, uint64_t n, char value[BENCH_VALUE_BYTES]) {
    enum { TEXTS = 8192, TEXT_BYTES = BENCH_VALUE_BYTES - AT_TEXT - 2 };
    static char texts[TEXTS]
                     [TEXT_BYTES]; /* made when they are needed first: the making takes longer than the sending */
    char *text = texts[n % TEXTS];
    if (text[0] == 0) text_write(text, TEXT_BYTES, n % TEXTS);
    char head[AT_TEXT + 1];
    snprintf(head, sizeof head, VALUE_HEAD, account % 10000000, (unsigned long long)n % 10000000000ULL);
    memcpy(value, head, AT_TEXT);
    memcpy(value + AT_TEXT, text, TEXT_BYTES);
    memcpy(value + BENCH_VALUE_BYTES - 2, "\"}", 2);
}

void bench_fields(const char *value, struct bench_slice out[2 * BENCH_FIELDS]) {
    const struct bench_slice all[2 * BENCH_FIELDS] = {
        {"account", 7}, {value + AT_ACCOUNT, 7},  {"card_no", 7}, {value + AT_CARD_NO, 1},
        {"version", 7}, {value + AT_VERSION, 10}, {"text", 4},    {value + AT_TEXT, BENCH_VALUE_BYTES - AT_TEXT - 2},
    };
    memcpy(out, all, sizeof all);
}

/* -- Kafka ------------------------------------------------------------------------------------- */

static void set(rd_kafka_conf_t *conf, const char *name, const char *value) {
    char text[256];
    if (rd_kafka_conf_set(conf, name, value, text, sizeof text) != RD_KAFKA_CONF_OK) bench_fail("%s", text);
}

static rd_kafka_t *client(const struct bench *b, rd_kafka_type_t type, rd_kafka_conf_t *conf) {
    char name[64], text[256];
    if (b->brokers == NULL || b->topic == NULL) bench_fail("--brokers and --topic are needed");
    set(conf, "bootstrap.servers", b->brokers);
    for (uint32_t i = 0; i < b->property_count; i++) {
        const char *equals = strchr(b->property[i], '=');
        if (equals == NULL || (size_t)(equals - b->property[i]) >= sizeof name) bench_fail("-X name=value");
        snprintf(name, sizeof name, "%.*s", (int)(equals - b->property[i]), b->property[i]);
        set(conf, name, equals + 1);
    }
    rd_kafka_t *rk = rd_kafka_new(type, conf, text, sizeof text);
    if (rk == NULL) bench_fail("%s", text);
    return rk;
}

rd_kafka_t *bench_consumer(const struct bench *b) {
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    set(conf, "group.id", b->group);
    set(conf, "enable.auto.commit", "false");
    set(conf, "auto.offset.reset", "earliest");
    set(conf, "check.crcs",
        "true"); /* as millrace does: a cache that is compared with its source checks what it reads */
    rd_kafka_t *rk = client(b, RD_KAFKA_CONSUMER, conf);
    rd_kafka_poll_set_consumer(rk);
    rd_kafka_topic_partition_list_t *l = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(l, b->topic, RD_KAFKA_PARTITION_UA);
    rd_kafka_resp_err_t e = rd_kafka_subscribe(rk, l);
    rd_kafka_topic_partition_list_destroy(l);
    if (e != RD_KAFKA_RESP_ERR_NO_ERROR) bench_fail("subscribe: %s", rd_kafka_err2str(e));
    return rk;
}

static void delivered(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque) {
    (void)rk;
    (void)opaque;
    if (m->err != RD_KAFKA_RESP_ERR_NO_ERROR) bench_fail("not delivered: %s", rd_kafka_err2str(m->err));
}

rd_kafka_t *bench_producer(const struct bench *b) {
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set_dr_msg_cb(conf, delivered);
    return client(b, RD_KAFKA_PRODUCER, conf);
}

void bench_produce(rd_kafka_t *rk, rd_kafka_topic_t *topic, uint32_t account, const char *key, const char *value) {
    while (rd_kafka_produce(topic, (int32_t)(account % BENCH_PARTITIONS), RD_KAFKA_MSG_F_COPY, (void *)(uintptr_t)value,
                            BENCH_VALUE_BYTES, key, strlen(key), NULL) != 0) {
        rd_kafka_resp_err_t e = rd_kafka_last_error();
        if (e != RD_KAFKA_RESP_ERR__QUEUE_FULL) bench_fail("produce: %s", rd_kafka_err2str(e));
        rd_kafka_poll(rk, 10);
    }
}

/* -- messages, as the fast programs take them -------------------------------------------------- */

uint32_t bench_consume(rd_kafka_queue_t *q, rd_kafka_message_t **m, uint32_t n) {
    ssize_t got = rd_kafka_consume_batch_queue(q, 1000, m, n);
    if (got < 0) bench_fail("consume: %s", rd_kafka_err2str(rd_kafka_last_error()));
    for (ssize_t i = 0; i < got; i++)
        if (m[i]->err != RD_KAFKA_RESP_ERR_NO_ERROR) bench_fail("consume: %s", rd_kafka_message_errstr(m[i]));
    return (uint32_t)got;
}

/* -- Redis ------------------------------------------------------------------------------------- */

redisContext *bench_redis(const struct bench *b) {
    redisContext *c = redisConnect("127.0.0.1", b->redis_port);
    if (c == NULL || c->err != 0) bench_fail("Redis: %s", c != NULL ? c->errstr : "no memory");
    return c;
}

char *bench_argument(char *at, const void *bytes, size_t len) {
    char digits[20];
    size_t n = 0, left = len;
    do digits[n++] = (char)('0' + left % 10);
    while ((left /= 10) != 0);
    *at++ = '$';
    while (n > 0) *at++ = digits[--n];
    *at++ = '\r';
    *at++ = '\n';
    memcpy(at, bytes, len);
    at += len;
    *at++ = '\r';
    *at++ = '\n';
    return at;
}

void bench_replies(int fd, uint64_t n) {
    static char buffer[65536];
    static bool within;   /* a line that went on beyond the last read */
    static uint64_t read; /* replies that nobody has asked for yet */
    while (read < n) {
        ssize_t got = recv(fd, buffer, sizeof buffer, 0);
        if (got <= 0) bench_fail("Redis closed the connection");
        for (ssize_t i = 0; i < got; i++) {
            if (!within && buffer[i] == '-') bench_fail("Redis: %.*s", (int)(got - i), buffer + i);
            within = buffer[i] != '\n';
            read += !within;
        }
    }
    read -= n;
}

void bench_send(int fd, const void *bytes, size_t len) {
    for (size_t sent = 0; sent < len;) {
        ssize_t n = send(fd, (const char *)bytes + sent, len - sent, MSG_NOSIGNAL);
        if (n <= 0) bench_fail("Redis does not take any more");
        sent += (size_t)n;
    }
}

void bench_result(uint64_t records, uint64_t began_ns, uint64_t ended_ns) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    double cpu =
        (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
    printf("{\"records\": %llu, \"seconds\": %.4f, \"cpu_s\": %.4f, \"memory_kb\": %ld}\n", (unsigned long long)records,
           (double)(ended_ns - began_ns) / 1e9, cpu, u.ru_maxrss);
    fflush(stdout);
}

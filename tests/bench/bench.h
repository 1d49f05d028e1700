/* What the programs of the benchmark share: their options, the records, a Kafka consumer, a Redis connection, and the
 * line of JSON in which each says what it measured. Each program reads a topic (or writes), does its work for `count`
 * records, and ends; whatever goes wrong ends it with a message and status 1. */
#ifndef MILLRACE_TESTS_BENCH_H
#define MILLRACE_TESTS_BENCH_H

#include <hiredis/hiredis.h>
#include <librdkafka/rdkafka.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { BENCH_PARTITIONS = 4, BENCH_VALUE_BYTES = 512, BENCH_KEY_BYTES = 14, BENCH_FIELDS = 4, BENCH_PROPERTIES = 16 };

/* --brokers A --topic T --group G --redis PORT --count N --keys N --batch N --rate N --hash, and
 * -X name=value of librdkafka, which the Kafka clients get on top of what each program sets. */
struct bench {
    const char *brokers, *topic, *group;
    const char *run_dir, *name; /* of an instance of millrace to look at */
    const char *property[BENCH_PROPERTIES];
    uint32_t property_count;
    uint16_t redis_port;
    uint64_t count;   /* records to handle */
    uint64_t first;   /* number of the first record that is written */
    uint32_t keys;    /* different Redis keys */
    uint32_t batch;   /* records sent to Redis together */
    uint32_t rate;    /* records a second, 0: as fast as it goes */
    uint32_t seconds; /* how long */
    uint32_t warmup;  /* seconds before those, which do not count */
    uint64_t ahead;   /* records that may be written before the instance has applied them, 0: any number */
    uint32_t after;   /* process whose successor is waited for, 0: none */
    bool hash;        /* HSET of BENCH_FIELDS fields instead of SET */
};
void bench_options(struct bench *b, int argc, char **argv);

_Noreturn void bench_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
uint64_t bench_now_ns(void); /* CLOCK_MONOTONIC */

/* Record n: key "card:AAAAAAA:0" and a JSON object of 512 bytes, of words that compress as text does. The account is a
 * permutation of n modulo the keys, so every key comes as often as any other, in no order. */
uint32_t bench_account(const struct bench *b, uint64_t n);
void bench_key(uint32_t account, char key[BENCH_KEY_BYTES + 1]);
void bench_value(uint32_t account, uint64_t n, char value[BENCH_VALUE_BYTES]);

/* The fields of such a value by their places in it, for programs that store hashes: names and values in turn. A real
 * program would have to parse. */
struct bench_slice {
    const char *bytes;
    size_t len;
};
void bench_fields(const char *value, struct bench_slice out[2 * BENCH_FIELDS]);

/* A consumer of the topic, from its beginning, with a group of its own; nothing is committed by itself. */
rd_kafka_t *bench_consumer(const struct bench *b);
/* A producer whose failed deliveries end the program, and one record to its partition (the account's); waits for room.
 */
rd_kafka_t *bench_producer(const struct bench *b);
void bench_produce(rd_kafka_t *rk, rd_kafka_topic_t *topic, uint32_t account, const char *key, const char *value);

/* Up to n messages at once; 0: none came for a second. */
uint32_t bench_consume(rd_kafka_queue_t *q, rd_kafka_message_t **m, uint32_t n);

redisContext *bench_redis(const struct bench *b);

/* RESP by hand: appends an argument ("$len\r\nbytes\r\n") at `at`, returns its end. */
char *bench_argument(char *at, const void *bytes, size_t len);

/* Reads replies of one line each until n of them have come. An error among them ends the program. */
void bench_replies(int fd, uint64_t n);
void bench_send(int fd, const void *bytes, size_t len);

/* {"records":…,"seconds":…,"cpu_s":…,"memory_kb":…} of this process, from `began` on. */
void bench_result(uint64_t records, uint64_t began_ns, uint64_t ended_ns);

#endif

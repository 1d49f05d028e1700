/* What the tests of shm/ share: a ring with both ends in one process, copies of its memory to smash, contents that a
 * number determines, seeded random numbers. */
#ifndef MILLRACE_TESTS_UNIT_SHM_HELP_H
#define MILLRACE_TESTS_UNIT_SHM_HELP_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "shm/ring.h"
#include <criterion/criterion.h>

enum { SMALL = 4096 }; /* the smallest ring there is: wraps often */

static inline uint64_t random_next(uint64_t *state) { /* xorshift64*, Marsaglia and Vigna */
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dULL;
}

static inline uint32_t random_below(uint64_t *state, uint32_t n) { return (uint32_t)(random_next(state) >> 33) % n; }

/* A number that the environment may set: SEED, TIMES. */
static inline uint64_t asked(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text != NULL && text[0] != 0 ? strtoull(text, NULL, 10) : otherwise;
}

static inline double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The length and the bytes of record `number`: whoever knows the number can check the record. */
static inline uint32_t content_len(uint64_t number, uint32_t max) {
    uint64_t s = number * 0x9e3779b97f4a7c15ULL + 1;
    return random_below(&s, 8) == 0 ? random_below(&s, max + 1) : random_below(&s, max < 64 ? max + 1 : 64);
}

static inline void content_fill(uint8_t *out, uint64_t number, uint32_t len) {
    for (uint32_t i = 0; i < len; i++) out[i] = (uint8_t)(number * 167 + i * 13 + (number >> 8));
}

static inline bool content_matches(const uint8_t *body, uint64_t number, uint32_t len) {
    for (uint32_t i = 0; i < len; i++)
        if (body[i] != (uint8_t)(number * 167 + i * 13 + (number >> 8))) return false;
    return true;
}

static inline uint16_t content_type(uint64_t number) { return (uint16_t)(1 + number % 65535); }

struct pair {
    struct ring_fds fds;
    struct ring_producer p;
    struct ring_consumer c;
    int producer_bell, consumer_bell;
};

static inline struct ring_fds ring_make(uint64_t capacity, uint32_t aux_count) {
    struct err err = {0};
    struct ring_fds fds;
    cr_assert_eq(ring_create(&fds, "test", capacity, aux_count, 0x1234567890abcdefULL, &err), 0, "%s", err.text);
    return fds;
}

static inline void ring_drop(struct ring_fds *fds) {
    close(fds->constants);
    close(fds->producer);
    close(fds->consumer);
}

static inline void producer_attach(struct pair *r) {
    struct err err = {0};
    cr_assert_eq(ring_producer_attach(&r->p, &r->fds, r->consumer_bell, &err), RING_ATTACHED, "%s", err.text);
}

static inline void consumer_attach(struct pair *r) {
    struct err err = {0};
    cr_assert_eq(ring_consumer_attach(&r->c, &r->fds, r->producer_bell, &err), RING_ATTACHED, "%s", err.text);
}

static inline struct pair pair_make(uint64_t capacity, uint32_t aux_count) {
    struct pair r = {.fds = ring_make(capacity, aux_count)};
    r.producer_bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r.consumer_bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    cr_assert(r.producer_bell >= 0 && r.consumer_bell >= 0);
    producer_attach(&r);
    consumer_attach(&r);
    return r;
}

static inline void pair_drop(struct pair *r) {
    ring_producer_detach(&r->p);
    ring_consumer_detach(&r->c);
    ring_drop(&r->fds);
    close(r->producer_bell);
    close(r->consumer_bell);
}

/* Stages the record that comes next, with len bytes of its content. false: no room. */
static inline bool put_len(struct ring_producer *p, uint32_t len) {
    uint64_t number = p->number + 1;
    uint8_t *body = ring_reserve(p, len);
    if (body == NULL) return false;
    content_fill(body, number, len);
    cr_assert_eq(ring_stage(p, len, content_type(number)), number);
    return true;
}

static inline bool put(struct ring_producer *p) {
    return put_len(p, content_len(p->number + 1, ring_record_max(p->capacity)));
}

static inline void put_and_publish(struct ring_producer *p, int n, uint32_t len) {
    for (int i = 0; i < n; i++) cr_assert(put_len(p, len));
    ring_publish(p);
}

static inline struct ring_item peek_expect(struct ring_consumer *c, uint64_t number) {
    struct err err = {0};
    struct ring_item item;
    cr_assert_eq(ring_peek(c, &item, &err), RING_OK, "record %llu: %s", (unsigned long long)number, err.text);
    cr_assert_eq(item.number, number);
    cr_assert_eq(item.type, content_type(number));
    cr_assert(content_matches(item.body, number, item.len), "record %llu is altered", (unsigned long long)number);
    return item;
}

static inline void peek_expect_empty(struct ring_consumer *c) {
    struct err err = {0};
    struct ring_item item;
    cr_assert_eq(ring_peek(c, &item, &err), RING_EMPTY, "%s", err.text);
}

/* A copy of the memory files that can be resized, as it might look after somebody smashed it. */
static inline int file_copy(int fd) {
    struct stat st;
    cr_assert_eq(fstat(fd, &st), 0);
    int copy = memfd_create("copy", MFD_CLOEXEC);
    cr_assert_geq(copy, 0);
    void *bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    cr_assert_neq(bytes, MAP_FAILED);
    cr_assert_eq(pwrite(copy, bytes, (size_t)st.st_size, 0), st.st_size);
    munmap(bytes, (size_t)st.st_size);
    return copy;
}

static inline struct ring_fds ring_copy(const struct ring_fds *fds) {
    return (struct ring_fds){file_copy(fds->constants), file_copy(fds->producer), file_copy(fds->consumer)};
}

static inline void smash(int fd, size_t at, const void *bytes, size_t n) {
    cr_assert_eq(pwrite(fd, bytes, n, (off_t)at), (ssize_t)n);
}

static inline void smash64(int fd, size_t at, uint64_t value) { smash(fd, at, &value, sizeof value); }
static inline void smash32(int fd, size_t at, uint32_t value) { smash(fd, at, &value, sizeof value); }

static inline uint64_t look64(int fd, size_t at) {
    uint64_t value;
    cr_assert_eq(pread(fd, &value, sizeof value, (off_t)at), (ssize_t)sizeof value);
    return value;
}

/* Where the data begin in the producer's file: after its page and the aux words of both slots, in whole pages. */
static inline size_t data_at(uint32_t aux_count) {
    return RING_PAGE + (2 * sizeof(uint64_t) * aux_count + RING_PAGE - 1) / RING_PAGE * RING_PAGE;
}

/* Where slot i of a page is. */
static inline size_t slot_at(int i) {
    return offsetof(struct ring_producer_page, slot) + (size_t)i * sizeof(struct ring_slot);
}

#endif

#include "sink/flight.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* MULTI, DEL, HSET, PEXPIREAT, EXEC, and one mark: the most that a batch of one record waits for. */
enum { REPLIES_PER_RECORD = 6 };

static uint32_t power_of_two(uint32_t at_least) {
    uint32_t n = 1;
    while (n < at_least) n <<= 1;
    return n;
}

int flight_init(struct flight *f, uint32_t in_flight, struct err *err) {
    CHECK(in_flight >= 1 && in_flight <= IN_FLIGHT_MAX);
    *f = (struct flight){.batch_mask = power_of_two(in_flight) - 1,
                         .touch_mask = power_of_two(in_flight) - 1,
                         .expect_mask = power_of_two(in_flight * REPLIES_PER_RECORD + 2 * PARTITIONS_MAX) - 1,
                         .asked_mask = power_of_two(2 * PARTITIONS_MAX) - 1};
    f->batch = calloc((size_t)f->batch_mask + 1, sizeof *f->batch);
    f->touch = calloc((size_t)f->touch_mask + 1, sizeof *f->touch);
    f->expect = calloc((size_t)f->expect_mask + 1, sizeof *f->expect);
    f->asked = calloc((size_t)f->asked_mask + 1, sizeof *f->asked);
    if (f->batch != NULL && f->touch != NULL && f->expect != NULL && f->asked != NULL) return 0;
    flight_free(f);
    return err_set(err, ENOMEM, "no memory for %u records in flight", in_flight);
}

void flight_free(struct flight *f) {
    free(f->batch);
    free(f->touch);
    free(f->expect);
    free(f->asked);
    *f = (struct flight){0};
}

void flight_clear(struct flight *f) {
    f->batch_from = f->batch_to;
    f->touch_from = f->touch_to;
    f->expect_from = f->expect_to;
    f->asked_from = f->asked_to;
    f->records = 0;
}

static struct batch *newest(struct flight *f) { return &f->batch[(f->batch_to - 1) & f->batch_mask]; }

struct batch *flight_begin(struct flight *f, uint64_t first) {
    CHECK(f->batch_to - f->batch_from <= f->batch_mask);
    struct batch *b = &f->batch[f->batch_to++ & f->batch_mask];
    *b = (struct batch){.first = first, .touch_at = f->touch_to};
    return b;
}

static void expect_push(struct flight *f, enum expect kind) {
    CHECK(f->expect_to - f->expect_from <= f->expect_mask);
    f->expect[f->expect_to++ & f->expect_mask] = (uint8_t)kind;
}

void flight_expect(struct flight *f, enum expect kind) {
    expect_push(f, kind);
    newest(f)->replies++;
}

void flight_touch(struct flight *f, uint32_t slot, struct mark mark, bool refed) {
    struct batch *b = newest(f);
    uint32_t at = f->touched[slot] - 1;
    if (f->touched[slot] != 0 && at - b->touch_at < b->touch_count && f->touch[at & f->touch_mask].slot == slot) {
        f->touch[at & f->touch_mask].mark = mark;
        f->touch[at & f->touch_mask].refed += refed;
        return;
    }
    CHECK(f->touch_to - f->touch_from <= f->touch_mask);
    f->touch[f->touch_to & f->touch_mask] = (struct touch){.slot = slot, .mark = mark, .refed = refed};
    b->touch_count++;
    f->touched[slot] = ++f->touch_to;
}

void flight_end(struct flight *f, uint64_t last, uint64_t end) {
    struct batch *b = newest(f);
    b->last = last;
    b->end = end;
    f->records += (uint32_t)(last - b->first + 1);
}

void flight_ask(struct flight *f, enum expect kind, uint32_t slot) {
    CHECK(f->asked_to - f->asked_from <= f->asked_mask);
    expect_push(f, kind);
    f->asked[f->asked_to++ & f->asked_mask] = (uint16_t)slot;
}

enum expect flight_answer(struct flight *f, uint32_t *which) {
    if (flight_quiet(f)) return EXPECT_NOTHING;
    enum expect kind = f->expect[f->expect_from++ & f->expect_mask];
    if (kind == EXPECT_MARK || kind == EXPECT_CREATE) {
        *which = f->asked[f->asked_from++ & f->asked_mask];
        return kind;
    }
    struct batch *b = flight_oldest(f);
    CHECK(b != NULL && b->replies > 0);
    b->replies--;
    if (kind == EXPECT_OLD) *which = b->old_seen++;
    return kind;
}

struct batch *flight_oldest(struct flight *f) {
    return f->batch_from == f->batch_to ? NULL : &f->batch[f->batch_from & f->batch_mask];
}

struct touch *flight_touch_at(struct flight *f, const struct batch *b, uint32_t i) {
    CHECK(i < b->touch_count);
    return &f->touch[(b->touch_at + i) & f->touch_mask];
}

void flight_pop(struct flight *f) {
    struct batch *b = flight_oldest(f);
    CHECK(b != NULL && b->replies == 0);
    f->touch_from += b->touch_count;
    f->records -= (uint32_t)(b->last - b->first + 1);
    f->batch_from++;
}

/* The record on a ring: lengths that add up or nothing, ids, headers. */
#include "shm/record.h"

#include <criterion/criterion.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static uint64_t random_next(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dULL;
}

/* -- ABI --------------------------------------------------------------------------------------- */

Test(record, layout_is_what_version_3_says) {
    cr_assert_eq(RECORD_VERSION, 3);
    cr_assert_eq(sizeof(struct record), 128);
    cr_assert_eq(sizeof(struct record_trace), 96);
    cr_assert_eq(offsetof(struct record, op), 0);
    cr_assert_eq(offsetof(struct record, reason), 1);
    cr_assert_eq(offsetof(struct record, topic), 2);
    cr_assert_eq(offsetof(struct record, flags), 6);
    cr_assert_eq(offsetof(struct record, partition), 8);
    cr_assert_eq(offsetof(struct record, timestamp_ms), 24);
    cr_assert_eq(offsetof(struct record, ingest_ns), 32);
    cr_assert_eq(offsetof(struct record, expire_at_ms), 40);
    cr_assert_eq(offsetof(struct record, digest_published), 72);
    cr_assert_eq(offsetof(struct record, digest_stored), 88);
    cr_assert_eq(offsetof(struct record, redis_key_bytes), 112);
    cr_assert_eq(offsetof(struct record, old_key_bytes), 116);
    cr_assert_eq(offsetof(struct record, value_bytes), 120);
}

Test(record, operations_and_reasons_have_names_of_their_own) {
    for (int a = 0; a < RECORD_OP_COUNT; a++)
        for (int b = 0; b < a; b++) cr_assert_str_neq(record_op_name(a), record_op_name(b));
    for (int a = 0; a < REASON_COUNT; a++)
        for (int b = 0; b < a; b++) cr_assert_str_neq(record_reason_name(a), record_reason_name(b));
    cr_assert_str_eq(record_op_name(RECORD_RAW), "raw");
    cr_assert_str_eq(record_op_name(RECORD_REJECT), "reject");
    cr_assert_str_eq(record_reason_name(REASON_NONE), "none");
    cr_assert_str_eq(record_reason_name(REASON_CRASH), "crash");
    cr_assert_not_null(record_op_name((enum record_op)99));
    cr_assert_not_null(record_reason_name((enum record_reason)99));
}

/* -- opening ----------------------------------------------------------------------------------- */

static size_t example(uint8_t *out) {
    struct record r = {.op = RECORD_UPDATE,
                       .topic = 2,
                       .slot = 3,
                       .partition = 7,
                       .epoch = 1,
                       .offset = 99,
                       .kafka_key_bytes = 3,
                       .redis_key_bytes = 5,
                       .old_key_bytes = 4,
                       .value_bytes = 6,
                       .headers_bytes = 2};
    memcpy(out, &r, sizeof r);
    memcpy(out + sizeof r, "kkkRRRRRooooVVVVVVhh", 20);
    return sizeof r + 20;
}

Test(record, open_finds_every_part) {
    uint8_t bytes[256];
    size_t len = example(bytes);
    struct record_view v;
    cr_assert_eq(record_open(bytes, len, &v), 0);
    cr_assert_eq(v.head.offset, 99);
    cr_assert_eq(record_bytes(&v.head), len);
    cr_assert_eq(memcmp(v.kafka_key, "kkk", 3), 0);
    cr_assert_eq(memcmp(v.redis_key, "RRRRR", 5), 0);
    cr_assert_eq(memcmp(v.old_key, "oooo", 4), 0);
    cr_assert_eq(memcmp(v.value, "VVVVVV", 6), 0);
    cr_assert_eq(memcmp(v.headers, "hh", 2), 0);
}

/* -- traces ------------------------------------------------------------------------------------ */

static size_t traced_example(uint8_t *out, uint32_t content_bytes) {
    struct record r = {
        .op = RECORD_ADD, .flags = RECORD_TRACED, .redis_key_bytes = 3, .value_bytes = 4, .digest_algorithm = 1};
    struct record_trace t = {.producer = 9, .sequence = 8, .created_ms = -1, .content_bytes = content_bytes};
    memcpy(out, &r, sizeof r);
    memcpy(out + sizeof r, &t, sizeof t);
    memcpy(out + sizeof r + sizeof t, "kkkvvvvcontent", 14);
    return sizeof r + sizeof t + 7 + content_bytes;
}

Test(record, trace_comes_first_and_its_content_last) {
    uint8_t bytes[512];
    struct record_view v;
    cr_assert_eq(record_open(bytes, traced_example(bytes, 7), &v), 0);
    cr_assert(v.trace.producer == 9 && v.trace.sequence == 8 && v.trace.created_ms == -1);
    cr_assert_eq(memcmp(v.redis_key, "kkk", 3), 0);
    cr_assert_eq(memcmp(v.value, "vvvv", 4), 0);
    cr_assert_eq(memcmp(v.content, "content", 7), 0);
    cr_assert_eq(record_bytes(&v.head), sizeof v.head + sizeof v.trace + 7);
    cr_assert_eq(record_open(bytes, traced_example(bytes, 0), &v), 0);
    size_t len = example(bytes);
    memset(&v.trace, 0xff, sizeof v.trace);
    cr_assert_eq(record_open(bytes, len, &v), 0);
    cr_assert(v.trace.producer == 0 && v.trace.content_bytes == 0, "a record without one has zeros");
}

Test(record, traces_whose_lengths_do_not_add_up_are_refused) {
    uint8_t bytes[512];
    struct record_view v;
    size_t len = traced_example(bytes, 7);
    for (size_t n = 0; n < len; n++) {
        uint8_t *exact = malloc(n); /* under the sanitizers: nothing is read beyond it */
        memcpy(exact, bytes, n);
        cr_assert_eq(record_open(exact, n, &v), -1, "%zu bytes", n);
        free(exact);
    }
    static const uint32_t wrong[] = {0, 6, 8, 1U << 31, UINT32_MAX, UINT32_MAX - 6};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        traced_example(bytes, 7);
        memcpy(bytes + sizeof(struct record) + offsetof(struct record_trace, content_bytes), &wrong[i], 4);
        cr_assert_eq(record_open(bytes, len, &v), -1, "%u", wrong[i]);
    }
}

Test(record, producers_have_hashes_that_are_never_zero) {
    cr_assert_neq(record_producer_hash("a", 1), record_producer_hash("b", 1));
    cr_assert_eq(record_producer_hash("db2", 3), record_producer_hash("db2x", 3));
    cr_assert_neq(record_producer_hash("", 0), 0);
}

/* -- lists of fields --------------------------------------------------------------------------- */

static size_t field_put(uint8_t *out, const char *name, const char *value) {
    uint32_t lens[2] = {(uint32_t)strlen(name), (uint32_t)strlen(value)};
    memcpy(out, lens, 8);
    memcpy(out + 8, name, lens[0]);
    memcpy(out + 8 + lens[0], value, lens[1]);
    return 8 + lens[0] + lens[1];
}

static size_t fields_example(uint8_t *out, enum record_op op, uint32_t count) {
    struct record r = {.op = (uint8_t)op, .flags = RECORD_VALUE_FIELDS};
    uint8_t *value = out + sizeof r;
    size_t n = RECORD_FIELDS_HEAD;
    memcpy(value, &count, 4);
    n += field_put(value + n, "name", "value");
    n += field_put(value + n, "", "");
    r.value_bytes = (uint32_t)n;
    memcpy(out, &r, sizeof r);
    return sizeof r + n;
}

Test(record, fields_are_found_one_after_the_other) {
    uint8_t bytes[256];
    struct record_view v;
    struct record_field f;
    size_t len = fields_example(bytes, RECORD_ADD, 2), at = RECORD_FIELDS_HEAD;
    cr_assert_eq(record_open(bytes, len, &v), 0);
    cr_assert_eq(record_fields_count(v.value), 2);
    cr_assert_eq(record_field_next(v.value, v.head.value_bytes, &at, &f), 1);
    cr_assert(f.name_bytes == 4 && memcmp(f.name, "name", 4) == 0);
    cr_assert(f.value_bytes == 5 && memcmp(f.value, "value", 5) == 0);
    cr_assert_eq(record_field_next(v.value, v.head.value_bytes, &at, &f), 1);
    cr_assert(f.name_bytes == 0 && f.value_bytes == 0);
    cr_assert_eq(record_field_next(v.value, v.head.value_bytes, &at, &f), 0);
}

Test(record, open_refuses_lists_that_are_none) {
    uint8_t bytes[256];
    struct record_view v;
    static const uint32_t wrong[] = {0, 1, 3, UINT32_MAX};
    for (int i = 0; i < 4; i++)
        cr_assert_eq(record_open(bytes, fields_example(bytes, RECORD_ADD, wrong[i]), &v), -1, "a count of %u",
                     wrong[i]);
    static const enum record_op ops[] = {RECORD_RAW, RECORD_DELETE, RECORD_SKIP, RECORD_REJECT};
    for (int i = 0; i < 4; i++) cr_assert_eq(record_open(bytes, fields_example(bytes, ops[i], 2), &v), -1);
    cr_assert_eq(record_open(bytes, fields_example(bytes, RECORD_UPDATE, 2), &v), 0);
    size_t len = fields_example(bytes, RECORD_ADD, 2), list = sizeof(struct record);
    for (uint32_t n = 0; n < len - list; n++) { /* shorter than its fields */
        memcpy(bytes + offsetof(struct record, value_bytes), &n, 4);
        cr_assert_eq(record_open(bytes, list + n, &v), -1, "%u bytes", n);
    }
    uint64_t seed = 5;
    for (int i = 0; i < 100000; i++) { /* under the sanitizers: nothing is read beyond the record */
        len = fields_example(bytes, RECORD_ADD, 2);
        for (int k = 0; k < 3; k++) bytes[list + random_next(&seed) % (len - list)] = (uint8_t)random_next(&seed);
        uint8_t *exact = malloc(len);
        memcpy(exact, bytes, len);
        record_open(exact, len, &v);
        free(exact);
    }
}

Test(record, a_marker_has_a_head_and_nothing_else) {
    struct record r = {.op = RECORD_SKIP};
    struct record_view v;
    cr_assert_eq(record_open(&r, sizeof r, &v), 0);
    cr_assert_eq(record_bytes(&v.head), sizeof r);
}

Test(record, the_view_does_not_change_when_the_ring_does) {
    uint8_t bytes[256];
    size_t len = example(bytes);
    struct record_view v;
    cr_assert_eq(record_open(bytes, len, &v), 0);
    memset(bytes, 0xff, sizeof(struct record));
    cr_assert_eq(v.head.value_bytes, 6);
}

Test(record, open_refuses_every_other_length) {
    uint8_t bytes[256] = {0};
    size_t len = example(bytes);
    struct record_view v;
    for (size_t n = 0; n < sizeof bytes; n++)
        cr_assert_eq(record_open(bytes, n, &v), n == len ? 0 : -1, "length %zu", n);
}

Test(record, open_refuses_operations_and_reasons_it_does_not_know) {
    uint8_t bytes[256];
    size_t len = example(bytes);
    struct record_view v;
    for (int op = 0; op < 256; op++) {
        bytes[0] = (uint8_t)op;
        cr_assert_eq(record_open(bytes, len, &v), op < RECORD_OP_COUNT ? 0 : -1);
    }
    bytes[0] = RECORD_REJECT;
    for (int reason = 0; reason < 256; reason++) {
        bytes[1] = (uint8_t)reason;
        cr_assert_eq(record_open(bytes, len, &v), reason < REASON_COUNT ? 0 : -1);
    }
}

Test(record, open_refuses_lengths_that_would_overflow_32_bits) {
    uint8_t bytes[256];
    size_t len = example(bytes);
    const size_t at[] = {offsetof(struct record, kafka_key_bytes), offsetof(struct record, redis_key_bytes),
                         offsetof(struct record, old_key_bytes), offsetof(struct record, value_bytes),
                         offsetof(struct record, headers_bytes)};
    for (int i = 0; i < 5; i++)
        for (int j = 0; j < 5; j++) {
            if (i == j) continue;
            example(bytes);
            uint32_t a, b;
            memcpy(&a, bytes + at[i], 4);
            memcpy(&b, bytes + at[j], 4);
            uint32_t total = a + b; /* the same sum, modulo 2^32 */
            a = 0x80000000u;
            b = total - a;
            memcpy(bytes + at[i], &a, 4);
            memcpy(bytes + at[j], &b, 4);
            struct record_view v;
            cr_assert_eq(record_open(bytes, len, &v), -1);
        }
}

Test(record, random_bytes_open_only_when_the_lengths_add_up) {
    uint64_t seed = 99, opened = 0;
    for (int round = 0; round < 300000; round++) {
        size_t len = random_next(&seed) % 300;
        uint8_t *bytes = malloc(len > 0 ? len : 1); /* of this length, so that a sanitizer sees a read beyond it */
        for (size_t i = 0; i < len; i++) bytes[i] = (uint8_t)random_next(&seed);
        if (len >= sizeof(struct record)) { /* small lengths, or nothing would ever be accepted */
            bytes[0] %= 8;
            bytes[1] %= 12;
            for (int i = 0; i < 5; i++) {
                uint32_t part = (uint32_t)(random_next(&seed) % 40);
                if (random_next(&seed) % 16 != 0) memcpy(bytes + 108 + 4 * i, &part, 4);
            }
            uint32_t lengths[5], rest;
            memcpy(lengths, bytes + 108, sizeof lengths);
            rest = (uint32_t)(len - 128) - lengths[0] - lengths[1] - lengths[2] - lengths[3];
            if (random_next(&seed) % 2 == 0) memcpy(bytes + 124, &rest, 4);
        }
        struct record_view v;
        if (record_open(bytes, len, &v) == 0) {
            opened++;
            uint64_t sum = 128;
            uint32_t lengths[5];
            memcpy(lengths, bytes + 108, sizeof lengths);
            for (int i = 0; i < 5; i++) sum += lengths[i];
            cr_assert_eq(sum, len);
            cr_assert(v.head.op < RECORD_OP_COUNT && v.head.reason < REASON_COUNT);
            cr_assert_eq(v.kafka_key, bytes + 128);
            cr_assert_eq(v.headers + v.head.headers_bytes, bytes + len);
        }
        free(bytes);
    }
    cr_assert_gt(opened, 1000);
}

/* -- ids --------------------------------------------------------------------------------------- */

Test(record, a_derived_id_is_the_same_at_every_delivery_and_a_version_8_uuid) {
    uint8_t a[16], b[16];
    char text[37];
    record_id_derive(a, "cards.bulk", 5, 123456789);
    record_id_derive(b, "cards.bulk", 5, 123456789);
    cr_assert_eq(memcmp(a, b, 16), 0);
    record_id_format(a, text);
    cr_assert_eq(strlen(text), 36);
    cr_assert_eq(text[14], '8', "version of %s", text);
    cr_assert(strchr("89ab", text[19]) != NULL, "variant of %s", text);
}

Test(record, derived_ids_of_different_records_differ) {
    uint8_t a[16], b[16];
    const struct {
        const char *topic;
        int32_t partition;
        int64_t offset;
    } all[] = {{"t", 0, 0},         {"t", 0, 1},         {"t", 1, 0},
               {"t", 16384, 0},     {"t", 0x3ffffff, 0}, {"u", 0, 0},
               {"tt", 0, 0},        {"", 0, 0},          {"t", 0, 0xffffffffffffLL},
               {"t", 0, 1LL << 32}, {"t", 1, 1},         {"t", 16384, 1}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        for (size_t j = 0; j < i; j++) {
            record_id_derive(a, all[i].topic, all[i].partition, all[i].offset);
            record_id_derive(b, all[j].topic, all[j].partition, all[j].offset);
            cr_assert_neq(memcmp(a, b, 16), 0, "%zu and %zu", i, j);
        }
}

Test(record, a_derived_id_carries_offset_and_partition) {
    uint8_t id[16];
    char text[37];
    record_id_derive(id, "t", 0x2abcdef, 0x123456789abcLL);
    record_id_format(id, text);
    cr_assert_str_eq(text + 24, "123456789abc");
    uint32_t high = (uint32_t)(id[6] & 15) << 8 | id[7], low = (uint32_t)(id[8] & 63) << 8 | id[9];
    cr_assert_eq(high << 14 | low, 0x2abcdefu);
}

Test(record, ids_read_back_what_was_written) {
    uint64_t seed = 3;
    for (int i = 0; i < 1000; i++) {
        uint8_t id[16], again[16];
        char text[37];
        for (int k = 0; k < 16; k++) id[k] = (uint8_t)random_next(&seed);
        record_id_format(id, text);
        cr_assert_eq(record_id_parse(again, text, 36), 0, "%s", text);
        cr_assert_eq(memcmp(id, again, 16), 0);
        cr_assert_eq(record_id_parse(again, id, 16), 0);
        cr_assert_eq(memcmp(id, again, 16), 0);
    }
    uint8_t id[16];
    char text[37];
    cr_assert_eq(record_id_parse(id, "00112233-4455-6677-8899-AABBCCDDEEFF", 36), 0);
    record_id_format(id, text);
    cr_assert_str_eq(text, "00112233-4455-6677-8899-aabbccddeeff");
}

Test(record, what_is_no_uuid_is_refused) {
    uint8_t id[16];
    const char *bad[] = {"00112233-4455-6677-8899-aabbccddeefg", "00112233x4455-6677-8899-aabbccddeeff",
                         "0011223344556677-8899-aabbccddeeff--", "00112233-4455-6677-8899-aabbccddeef ",
                         "-0112233-4455-6677-8899-aabbccddeeff", "00112233-4455-6677-8899aabbccddeeff-"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        cr_assert_eq(record_id_parse(id, bad[i], 36), -1, "%s", bad[i]);
    const char *good = "00112233-4455-6677-8899-aabbccddeeff-and-more";
    for (size_t n = 0; n < 45; n++)
        if (n != 16 && n != 36) cr_assert_eq(record_id_parse(id, good, n), -1, "%zu characters", n);
}

/* -- headers ----------------------------------------------------------------------------------- */

Test(record, headers_read_back_what_was_put) {
    uint8_t buffer[512];
    size_t n = 0;
    n += record_header_put(buffer + n, "op", 2, "update", 6);
    n += record_header_put(buffer + n, "empty", 5, "", 0);
    n += record_header_put(buffer + n, "null", 4, NULL, 0);
    n += record_header_put(buffer + n, "", 0, "\0\xff", 2);
    cr_assert_eq(n, record_header_bytes(2, 6) + record_header_bytes(5, 0) + record_header_bytes(4, 0) +
                        record_header_bytes(0, 2));
    size_t at = 0;
    struct record_header h;
    cr_assert_eq(record_header_next(buffer, n, &at, &h), 1);
    cr_assert(h.name_bytes == 2 && memcmp(h.name, "op", 2) == 0);
    cr_assert(h.value_bytes == 6 && memcmp(h.value, "update", 6) == 0);
    cr_assert_eq(record_header_next(buffer, n, &at, &h), 1);
    cr_assert(h.name_bytes == 5 && h.value != NULL && h.value_bytes == 0);
    cr_assert_eq(record_header_next(buffer, n, &at, &h), 1);
    cr_assert(h.name_bytes == 4 && h.value == NULL && h.value_bytes == 0);
    cr_assert_eq(record_header_next(buffer, n, &at, &h), 1);
    cr_assert(h.name_bytes == 0 && h.value_bytes == 2 && h.value[1] == 0xff);
    cr_assert_eq(record_header_next(buffer, n, &at, &h), 0);
    cr_assert_eq(record_header_next(buffer, n, &at, &h), 0);
    at = 0;
    cr_assert_eq(record_header_next(buffer, 0, &at, &h), 0);
}

Test(record, of_headers_with_one_name_the_last_counts) {
    uint8_t buffer[512];
    size_t n = 0;
    struct record_header h;
    n += record_header_put(buffer + n, "op", 2, "add", 3);
    n += record_header_put(buffer + n, "opx", 3, "x", 1);
    n += record_header_put(buffer + n, "op", 2, "delete", 6);
    n += record_header_put(buffer + n, "o", 1, "o", 1);
    cr_assert_eq(record_header_last(buffer, n, "op", &h), 1);
    cr_assert(h.value_bytes == 6 && memcmp(h.value, "delete", 6) == 0);
    cr_assert_eq(record_header_last(buffer, n, "Op", &h), 0);
    cr_assert_eq(record_header_last(buffer, n, "nothing", &h), 0);
    cr_assert_eq(record_header_last(buffer, 0, "op", &h), 0);
    n += record_header_put(buffer + n, "op", 2, NULL, 0);
    cr_assert_eq(record_header_last(buffer, n, "op", &h), 1);
    cr_assert_null(h.value);
    cr_assert_eq(record_header_last(buffer, n - 1, "op", &h), -1, "a broken end is not passed over");
}

Test(record, headers_cut_anywhere_are_broken_or_end_between_two) {
    uint8_t buffer[128];
    size_t n = record_header_put(buffer, "first", 5, "value", 5);
    size_t first = n;
    n += record_header_put(buffer + n, "second", 6, "value", 5);
    for (size_t len = 0; len <= n; len++) {
        uint8_t *copy = malloc(len > 0 ? len : 1);
        memcpy(copy, buffer, len);
        size_t at = 0;
        int r;
        struct record_header h;
        do r = record_header_next(copy, len, &at, &h);
        while (r == 1);
        cr_assert_eq(r, len == 0 || len == first || len == n ? 0 : -1, "cut at %zu", len);
        free(copy);
    }
}

Test(record, random_headers_are_never_read_beyond_their_end) {
    uint64_t seed = 17, read = 0;
    for (int round = 0; round < 200000; round++) {
        size_t len = random_next(&seed) % 64;
        uint8_t *bytes = malloc(len > 0 ? len : 1);
        for (size_t i = 0; i < len; i++) bytes[i] = random_next(&seed) % 8 == 0 ? (uint8_t)random_next(&seed) : 0;
        size_t at = 0;
        struct record_header h;
        while (record_header_next(bytes, len, &at, &h) == 1) {
            read++;
            cr_assert_leq(at, len);
            cr_assert((const uint8_t *)h.name >= bytes && (const uint8_t *)h.name + h.name_bytes <= bytes + len);
            if (h.value != NULL) cr_assert(h.value + h.value_bytes <= bytes + len);
        }
        free(bytes);
    }
    cr_assert_gt(read, 1000);
}

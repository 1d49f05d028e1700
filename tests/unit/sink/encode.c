#include "sink/encode.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shm/record.h"

static struct encode_buffer b;

static void start(void) {
    struct err err;
    cr_assert_eq(encode_init(&b, 4096, &err), 0);
}
static void stop(void) { encode_free(&b); }

TestSuite(encode, .init = start, .fini = stop);

static struct encode_slice slice(const char *s) {
    return (struct encode_slice){(const uint8_t *)s, (uint32_t)strlen(s)};
}

static void expect(const char *text) {
    cr_assert_eq(encode_unsent(&b), strlen(text), "%.*s", (int)encode_unsent(&b), (const char *)encode_at(&b));
    cr_assert_arr_eq(encode_at(&b), text, strlen(text));
}

Test(encode, set_is_three_arguments) {
    encode_set(&b, slice("key"), slice("value"), 0);
    expect("*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nvalue\r\n");
}

Test(encode, set_with_expiry_carries_it_as_absolute_milliseconds) {
    encode_set(&b, slice("k"), slice(""), 1700000000123);
    expect("*5\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n$4\r\nPXAT\r\n$13\r\n1700000000123\r\n");
}

Test(encode, mset_counts_its_pairs) {
    encode_mset(&b, 2);
    encode_pair(&b, slice("a"), slice("1"));
    encode_pair(&b, slice("b"), slice("22"));
    expect("*5\r\n$4\r\nMSET\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$2\r\n22\r\n");
}

Test(encode, del_takes_one_key_or_two) {
    encode_del(&b, slice("a"), slice(""));
    encode_del(&b, slice("a"), slice("b"));
    expect("*2\r\n$3\r\nDEL\r\n$1\r\na\r\n*3\r\n$3\r\nDEL\r\n$1\r\na\r\n$1\r\nb\r\n");
}

Test(encode, transaction_frames_are_as_redis_wants_them) {
    encode_multi(&b);
    encode_exec(&b);
    expect("*1\r\n$5\r\nMULTI\r\n*1\r\n$4\r\nEXEC\r\n");
}

static size_t list_put(uint8_t *out, uint32_t count, uint32_t name_bytes, uint32_t value_bytes) {
    size_t n = RECORD_FIELDS_HEAD;
    memcpy(out, &count, 4);
    for (uint32_t i = 0; i < count; i++) {
        memcpy(out + n, &name_bytes, 4);
        memcpy(out + n + 4, &value_bytes, 4);
        memset(out + n + 8, 'x', name_bytes);
        memset(out + n + 8 + name_bytes, 'y', value_bytes);
        n += 8 + name_bytes + value_bytes;
    }
    return n;
}

Test(encode, hset_has_every_field_of_the_list) {
    uint8_t list[64];
    size_t n = list_put(list, 2, 1, 2);
    list[RECORD_FIELDS_HEAD + 8] = 'a';
    encode_hset(&b, slice("k"), (struct encode_slice){list, (uint32_t)n});
    expect("*6\r\n$4\r\nHSET\r\n$1\r\nk\r\n$1\r\na\r\n$2\r\nyy\r\n$1\r\nx\r\n$2\r\nyy\r\n");
}

Test(encode, pexpireat_carries_milliseconds) {
    encode_pexpireat(&b, slice("k"), 1700000000123);
    expect("*3\r\n$9\r\nPEXPIREAT\r\n$1\r\nk\r\n$13\r\n1700000000123\r\n");
}

/* What the intake counts for a hash: its record, half of the list again, and the key twice more. */
Test(encode, a_hash_stays_within_its_bound) {
    static uint8_t list[1 << 20], key[4096];
    static const uint32_t lens[] = {0, 1, 2, 9, 10, 11, 99, 100, 101};
    struct err err;
    encode_free(&b);
    cr_assert_eq(encode_init(&b, 4 << 20, &err), 0);
    for (uint32_t count = 1; count < 3000; count += count < 20 ? 1 : 700)
        for (int i = 0; i < 9; i++)
            for (int k = 0; k < 9; k++) {
                uint32_t n = (uint32_t)list_put(list, count, lens[i], lens[k]);
                encode_clear(&b);
                struct encode_slice name = {key, sizeof key};
                encode_multi(&b);
                encode_del(&b, name, name);
                encode_hset(&b, name, (struct encode_slice){list, n});
                encode_pexpireat(&b, name, INT64_MAX);
                encode_exec(&b);
                size_t record = sizeof(struct record) + 2 * sizeof key + n;
                cr_assert_leq(encode_unsent(&b), record + n / 2 + 2 * sizeof key + ENCODE_RECORD_OVERHEAD,
                              "%u of %u %u", count, lens[i], lens[k]);
            }
}

Test(encode, digits_are_right_at_every_length) {
    char out[21], wanted[24];
    uint64_t value = 0;
    for (int i = 0; i < 21; i++) {
        for (uint64_t v = value > 0 ? value - 1 : 0; v <= value + 1 && v >= value / 2; v++) {
            size_t n = encode_digits(out, v);
            snprintf(wanted, sizeof wanted, "%llu", (unsigned long long)v);
            cr_assert_eq(n, strlen(wanted));
            cr_assert_arr_eq(out, wanted, n);
        }
        value = value == 0 ? 1 : value > UINT64_MAX / 10 ? UINT64_MAX - 1 : value * 10;
    }
    encode_bulk_integer(&b, INT64_MIN);
    expect("$20\r\n-9223372036854775808\r\n");
}

Test(encode, room_is_made_by_moving_what_is_unsent_to_the_front) {
    static const uint8_t bytes[4000];
    encode_raw(&b, bytes, 3000);
    cr_assert(!encode_room(&b, 2000));
    encode_raw(&b, "unsent", 6);
    encode_sent(&b, 3000);
    cr_assert(!encode_room(&b, 4096 - 5));
    cr_assert(encode_room(&b, 4096 - 6));
    expect("unsent");
    encode_sent(&b, 6);
    cr_assert(encode_room(&b, 4096), "an empty buffer begins at its front again");
}

Test(encode, writing_beyond_the_room_that_was_asked_for_aborts, .signal = SIGABRT) {
    static const uint8_t bytes[4097];
    encode_raw(&b, bytes, 4097);
}

/* The bound that batches are admitted by, at its worst: an update with another key and an expiry. */
Test(encode, overhead_of_a_record_stays_within_its_bound) {
    static uint8_t key[4096], old[4096];
    struct err err;
    encode_free(&b);
    cr_assert_eq(encode_init(&b, 1 << 16, &err), 0);
    encode_multi(&b);
    encode_del(&b, (struct encode_slice){old, sizeof old}, slice(""));
    encode_set(&b, (struct encode_slice){key, sizeof key}, slice("1234567"), INT64_MAX);
    encode_exec(&b);
    cr_assert_leq(encode_unsent(&b), sizeof key + sizeof old + 7 + ENCODE_RECORD_OVERHEAD);
}

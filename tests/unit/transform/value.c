#include "transform/value.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

enum { ROOM = 1 << 16 };
static const uint8_t prefix[XAES_PREFIX_BYTES] = "ABCDEFGHIJK";
static struct keys keys = {.count = 2, .current = 1};
static struct xaes_sealer sealer;
static struct value_encoder encoder;
static uint8_t stored[ROOM];
static struct err err; /* of the last call */

static void setup(void) {
    keys.key[0].id = 1;
    keys.key[1].id = 0x01020304;
    memset(keys.key[0].bytes, 7, KEY_BYTES);
    memset(keys.key[1].bytes, 1, KEY_BYTES);
    cr_assert_eq(xaes_sealer_init(&sealer, keys.key[1].bytes, prefix, &err), 0, "%s", err.text);
    cr_assert_eq(value_encoder_init(&encoder, &sealer, keys.key[1].id, &err), 0, "%s", err.text);
}

static void teardown(void) {
    value_encoder_free(&encoder);
    xaes_sealer_free(&sealer);
}

TestSuite(value, .init = setup, .fini = teardown);

static size_t encode(unsigned flags, const char *key, const void *value, size_t len) {
    memset(stored, 0xee, sizeof stored);
    size_t n = value_encode(&encoder, flags, key, strlen(key), value, len, stored);
    cr_assert_leq(n, value_encoded_max(flags, len));
    cr_assert_eq(stored[value_encoded_max(flags, len)], 0xee, "wrote beyond the room it asked for");
    return n;
}

static void decode_expect(const char *key, size_t stored_len, const void *value, size_t len) {
    uint8_t *out = NULL;
    size_t out_len = 0;
    cr_assert_eq(value_decode(&keys, key, strlen(key), stored, stored_len, &out, &out_len, &err), 0, "%s", err.text);
    cr_assert_eq(out_len, len);
    if (len > 0) cr_assert_arr_eq(out, value, len);
    free(out);
}

static int refused(const struct keys *k, const char *key, size_t stored_len) {
    err = (struct err){0};
    uint8_t *out = NULL;
    size_t out_len = 0;
    cr_assert_eq(value_decode(k, key, strlen(key), stored, stored_len, &out, &out_len, &err), -1);
    cr_assert_null(out);
    cr_assert_neq(err.text[0], '\0');
    return err.code;
}

Test(value, round_trips_at_every_length_and_flag) {
    uint8_t value[1200];
    for (size_t i = 0; i < sizeof value; i++) value[i] = (uint8_t)(i % 50);
    for (unsigned flags = 0; flags <= 3; flags++)
        for (size_t len = 0; len < sizeof value; len += len < 70 ? 1 : 97)
            decode_expect("k", encode(flags, "k", value, len), value, len);
}

Test(value, header_is_what_the_format_says) {
    uint8_t value[300];
    memset(value, 'a', sizeof value);
    static const uint8_t lz4_head[16] = {0x89, 'M', 'L', 'R', 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 44};
    cr_assert_lt(encode(VALUE_LZ4, "k", value, sizeof value), 40);
    cr_assert_arr_eq(stored, lz4_head, 16);
    static const uint8_t both_head[28] = {0x89, 'M', 'L', 'R', 1,   3,   0,   0,   1,   2,   3,   4,   0,   0,
                                          1,    44,  'A', 'B', 'C', 'D', 'E', 'F', 'G', 'H', 'I', 'J', 'K', 0};
    cr_assert_lt(encode(VALUE_LZ4 | VALUE_ENCRYPTED, "k", value, sizeof value), 80);
    cr_assert_arr_eq(stored, both_head, 28);
}

Test(value, what_does_not_get_smaller_is_kept_behind_the_header) {
    uint8_t value[64];
    for (size_t i = 0; i < sizeof value; i++) value[i] = (uint8_t)(i * 151 + 13);
    cr_assert_eq(encode(VALUE_LZ4, "k", value, sizeof value), VALUE_HEADER_BYTES + sizeof value);
    cr_assert_eq(stored[5], 0);
    cr_assert_arr_eq(stored + VALUE_HEADER_BYTES, value, sizeof value);
    decode_expect("k", VALUE_HEADER_BYTES + sizeof value, value, sizeof value);
    cr_assert_eq(encode(VALUE_LZ4 | VALUE_ENCRYPTED, "k", value, sizeof value), VALUE_OVERHEAD_MAX + sizeof value);
    cr_assert_eq(stored[5], VALUE_ENCRYPTED);
    decode_expect("k", VALUE_OVERHEAD_MAX + sizeof value, value, sizeof value);
}

Test(value, plain_values_come_back_as_they_are) {
    memcpy(stored, "{\"plain\":1}", 11);
    decode_expect("k", 11, "{\"plain\":1}", 11);
    decode_expect("k", 0, "", 0);
    decode_expect("k", 3, stored, 3);
}

Test(value, equal_values_encrypt_differently) {
    size_t n = encode(VALUE_ENCRYPTED, "k", "secret", 6);
    uint8_t first[128];
    memcpy(first, stored, n);
    cr_assert_eq(encode(VALUE_ENCRYPTED, "k", "secret", 6), n);
    cr_assert_neq(memcmp(first + 40, stored + 40, n - 40), 0);
    cr_assert_null(memmem(stored, n, "secret", 6));
}

Test(value, every_flipped_bit_of_an_encrypted_value_is_noticed) {
    uint8_t value[100];
    memset(value, 'v', sizeof value);
    size_t n = encode(VALUE_LZ4 | VALUE_ENCRYPTED, "card:1", value, sizeof value);
    for (size_t i = 4; i < n; i++) /* without its magic it is a plain value, which nothing protects */
        for (int bit = 0; bit < 8; bit++) {
            stored[i] ^= (uint8_t)(1 << bit);
            int code = refused(&keys, "card:1", n);
            cr_assert(code == EX_DATAERR || (code == EX_CONFIG && i >= 8 && i < 12), "byte %zu bit %d: %d", i, bit,
                      code);
            stored[i] ^= (uint8_t)(1 << bit);
        }
    decode_expect("card:1", n, value, sizeof value);
}

Test(value, every_shortened_encrypted_value_is_noticed) {
    size_t n = encode(VALUE_ENCRYPTED, "k", "some value", 10);
    for (size_t len = 4; len < n; len++) cr_assert_eq(refused(&keys, "k", len), EX_DATAERR, "length %zu", len);
    stored[n] = 0;
    cr_assert_eq(refused(&keys, "k", n + 1), EX_DATAERR);
}

Test(value, damage_to_the_header_of_a_compressed_value_is_noticed) {
    uint8_t value[200];
    memset(value, 'c', sizeof value);
    size_t n = encode(VALUE_LZ4, "k", value, sizeof value);
    for (size_t i = 4; i < VALUE_HEADER_BYTES; i++) {
        stored[i] ^= 0x40;
        cr_assert_eq(refused(&keys, "k", n), EX_DATAERR, "byte %zu", i);
        stored[i] ^= 0x40;
    }
    for (size_t len = 4; len < n; len++) cr_assert_eq(refused(&keys, "k", len), EX_DATAERR, "length %zu", len);
}

Test(value, refuses_lengths_before_it_allocates) {
    uint8_t value[200] = {0};
    size_t n = encode(VALUE_LZ4, "k", value, sizeof value);
    memset(stored + 12, 0xff, 4); /* 4 GiB from a few bytes */
    cr_assert_eq(refused(&keys, "k", n), EX_DATAERR);
    cr_assert_not_null(strstr(err.text, "original length"), "%s", err.text);
    stored[12] = 0x07; /* within the limit of a record, and still more than LZ4 can make of so few bytes */
    cr_assert_eq(refused(&keys, "k", n), EX_DATAERR);
    cr_assert_not_null(strstr(err.text, "original length"), "%s", err.text);
}

Test(value, cannot_be_moved_to_another_key) {
    size_t n = encode(VALUE_ENCRYPTED, "card:1", "value", 5);
    cr_assert_eq(refused(&keys, "card:2", n), EX_DATAERR);
    cr_assert_eq(refused(&keys, "", n), EX_DATAERR);
    decode_expect("card:1", n, "value", 5);
}

Test(value, needs_the_key_it_was_encrypted_with) {
    size_t n = encode(VALUE_ENCRYPTED, "k", "value", 5);
    struct keys others = keys;
    others.count = 1;
    others.current = 0;
    cr_assert_eq(refused(&others, "k", n), EX_CONFIG, "the id is not there");
    cr_assert_eq(refused(NULL, "k", n), EX_CONFIG, "no key file");
    others = keys;
    others.key[1].bytes[0] ^= 1;
    cr_assert_eq(refused(&others, "k", n), EX_DATAERR, "another key under the same id");
    struct keys newer = keys;
    newer.current = 0;
    uint8_t *out;
    size_t len;
    cr_assert_eq(value_decode(&newer, "k", 1, stored, n, &out, &len, &err), 0, "an old id still reads: %s", err.text);
    free(out);
}

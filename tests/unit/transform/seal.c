#include "transform/seal.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

static const uint8_t prefix[XAES_PREFIX_BYTES] = "ABCDEFGHIJK", id[16] = {1, 2, 3};
static struct keys keys = {.count = 1};
static struct xaes_sealer sealer;
static uint8_t sealed[1024];

static void setup(void) {
    struct err err = {0};
    keys.key[0].id = 5;
    memset(keys.key[0].bytes, 1, KEY_BYTES);
    cr_assert_eq(xaes_sealer_init(&sealer, keys.key[0].bytes, prefix, &err), 0, "%s", err.text);
}
static void teardown(void) { xaes_sealer_free(&sealer); }
TestSuite(seal, .init = setup, .fini = teardown);

static const struct seal_origin origin = {id, "cards.change", 3, 77};

static size_t seal(const struct seal_parts *parts) {
    size_t n = seal_bytes(parts);
    memset(sealed, 0xee, sizeof sealed);
    seal_write(&sealer, 5, &origin, parts, sealed);
    cr_assert_eq(sealed[n], 0xee, "wrote beyond what it said");
    return n;
}

static int open_code(const struct keys *k, const struct seal_origin *o, size_t len) {
    struct seal_parts parts;
    uint8_t *buffer = NULL;
    struct err err = {0};
    if (seal_open(k, o, sealed, len, &parts, &buffer, &err) == 0) {
        free(buffer);
        return 0;
    }
    cr_assert_null(buffer);
    return err.code;
}

static void round_trip(const struct seal_parts *in) {
    size_t n = seal(in);
    struct seal_parts out;
    uint8_t *buffer;
    struct err err = {0};
    cr_assert_eq(seal_open(&keys, &origin, sealed, n, &out, &buffer, &err), 0, "%s", err.text);
    cr_assert_eq(out.key == NULL, in->key == NULL);
    cr_assert_eq(out.value == NULL, in->value == NULL);
    cr_assert_eq(out.key_bytes, in->key_bytes);
    cr_assert_eq(out.value_bytes, in->value_bytes);
    cr_assert_eq(out.headers_bytes, in->headers_bytes);
    cr_assert(in->key_bytes == 0 || memcmp(out.key, in->key, in->key_bytes) == 0);
    cr_assert(in->value_bytes == 0 || memcmp(out.value, in->value, in->value_bytes) == 0);
    cr_assert(in->headers_bytes == 0 || memcmp(out.headers, in->headers, in->headers_bytes) == 0);
    free(buffer);
}

static const uint8_t *text(const char *s) { return (const uint8_t *)s; }

Test(seal, tells_null_from_empty) {
    round_trip(&(struct seal_parts){text("key"), text("value"), text("headers"), 3, 5, 7});
    round_trip(&(struct seal_parts){NULL, text("value"), text(""), 0, 5, 0});
    round_trip(&(struct seal_parts){text(""), NULL, text(""), 0, 0, 0});
    round_trip(&(struct seal_parts){NULL, NULL, text("h"), 0, 0, 1});
    round_trip(&(struct seal_parts){text("k"), text(""), text(""), 1, 0, 0});
}

Test(seal, shows_nothing_of_the_content) {
    size_t n = seal(&(struct seal_parts){text("key"), text("CANARY"), text("headers"), 3, 6, 7});
    cr_assert_null(memmem(sealed, n, "CANARY", 6));
    cr_assert_null(memmem(sealed, n, "headers", 7));
}

Test(seal, every_flipped_bit_is_noticed) {
    size_t n = seal(&(struct seal_parts){text("key"), text("value"), text("headers"), 3, 5, 7});
    for (size_t i = 0; i < n; i++)
        for (int bit = 0; bit < 8; bit++) {
            sealed[i] ^= (uint8_t)(1 << bit);
            cr_assert_neq(open_code(&keys, &origin, n), 0, "byte %zu bit %d", i, bit);
            sealed[i] ^= (uint8_t)(1 << bit);
        }
    for (size_t len = 0; len < n; len++) cr_assert_eq(open_code(&keys, &origin, len), EX_DATAERR, "length %zu", len);
    cr_assert_eq(open_code(&keys, &origin, n), 0);
}

Test(seal, belongs_to_one_record) {
    size_t n = seal(&(struct seal_parts){text("key"), text("value"), text(""), 3, 5, 0});
    static const uint8_t other_id[16] = {9};
    struct seal_origin o[] = {origin, origin, origin, origin};
    o[0].id = other_id;
    o[1].topic = "cards.chang";
    o[2].partition = 4;
    o[3].offset = 78;
    for (size_t i = 0; i < 4; i++) cr_assert_eq(open_code(&keys, &o[i], n), EX_DATAERR, "origin %zu", i);
    struct keys none = {.count = 0};
    cr_assert_eq(open_code(&none, &origin, n), EX_CONFIG);
    cr_assert_eq(open_code(NULL, &origin, n), EX_CONFIG);
}

/* -- compressed -------------------------------------------------------------------------------- */

static struct value_encoder encoder;

/* The parts in one piece, as a record on a ring has them, sealed with compression. */
static size_t seal_joined(const char *key, const char *value, const char *headers) {
    static char joined[512];
    struct err err = {0};
    size_t k = strlen(key), v = strlen(value), h = strlen(headers);
    snprintf(joined, sizeof joined, "%s%s%s", key, value, headers);
    const uint8_t *at = (const uint8_t *)joined;
    struct seal_parts parts = {at, at + k, at + k + v, k, v, h};
    if (encoder.lz4 == NULL) cr_assert_eq(value_encoder_init(&encoder, &sealer, 5, &err), 0, "%s", err.text);
    memset(sealed, 0xee, sizeof sealed);
    size_t n = seal_compress(&encoder, &origin, &parts, sealed);
    cr_assert_leq(n, seal_bytes(&parts));
    cr_assert_eq(sealed[n], 0xee, "wrote beyond what it said");
    return n;
}

static void joined_expect(const char *key, const char *value, const char *headers, bool smaller) {
    size_t n = seal_joined(key, value, headers);
    struct seal_parts out;
    uint8_t *buffer;
    struct err err = {0};
    cr_assert_eq(sealed[5], smaller ? 1 : 0);
    cr_assert_eq(seal_open(&keys, &origin, sealed, n, &out, &buffer, &err), 0, "%s", err.text);
    cr_assert(out.key_bytes == strlen(key) && memcmp(out.key, key, out.key_bytes) == 0);
    cr_assert(out.value_bytes == strlen(value) && memcmp(out.value, value, out.value_bytes) == 0);
    cr_assert(out.headers_bytes == strlen(headers) && memcmp(out.headers, headers, out.headers_bytes) == 0);
    free(buffer);
}

#define LONG "{\"limits\":[1000,1000,1000,1000,1000,1000,1000,1000,1000,1000,1000,1000,1000,1000]}"

Test(seal, compressed_parts_come_back_and_short_ones_stay_as_they_are) {
    joined_expect("key", LONG LONG, "headers", true);
    joined_expect("key", "value", "headers", false);
    joined_expect("", "", "", false);
    joined_expect("", LONG, "", true);
    value_encoder_free(&encoder);
}

Test(seal, every_flipped_bit_of_a_compressed_one_is_noticed) {
    size_t n = seal_joined("key", LONG, "headers");
    for (size_t i = 0; i < n; i++)
        for (int bit = 0; bit < 8; bit++) {
            sealed[i] ^= (uint8_t)(1 << bit);
            cr_assert_neq(open_code(&keys, &origin, n), 0, "byte %zu bit %d", i, bit);
            sealed[i] ^= (uint8_t)(1 << bit);
        }
    for (size_t len = 0; len < n; len++) cr_assert_eq(open_code(&keys, &origin, len), EX_DATAERR, "length %zu", len);
    cr_assert_eq(open_code(&keys, &origin, n), 0);
    value_encoder_free(&encoder);
}

/* Nothing is allocated on the word of a head: more than LZ4 can make of so few bytes is refused before. */
Test(seal, length_that_no_compression_reaches_is_refused) {
    size_t n = seal_joined("key", LONG, "headers");
    sealed[12] = 0x7f; /* of the length, big-endian */
    cr_assert_eq(open_code(&keys, &origin, n), EX_DATAERR);
    value_encoder_free(&encoder);
}

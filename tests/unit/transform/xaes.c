#include "transform/xaes.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t nonce_known[XAES_NONCE_BYTES + 1] = "ABCDEFGHIJKLMNOPQRSTUVWX";

static struct xaes_data data_of(const char *text) { return (struct xaes_data){{text, NULL}, {strlen(text), 0}}; }

static struct xaes_sealer sealer_of(uint8_t key_byte, const uint8_t prefix[XAES_PREFIX_BYTES]) {
    uint8_t key[XAES_KEY_BYTES];
    struct xaes_sealer s;
    struct err err = {0};
    memset(key, key_byte, sizeof key);
    cr_assert_eq(xaes_sealer_init(&s, key, prefix, &err), 0, "%s", err.text);
    return s;
}

static void hex(char *out, const uint8_t *bytes, size_t len) {
    for (size_t i = 0; i < len; i++) snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

/* The two answers published with the specification: with the top bit of the first block clear, and set. */
static void known_answer(uint8_t key_byte, const char *data_text, const char *answer) {
    uint8_t sealed[12 + XAES_TAG_BYTES];
    char text[2 * sizeof sealed + 1];
    struct xaes_sealer s = sealer_of(key_byte, nonce_known);
    struct xaes_data data = data_of(data_text);
    xaes_seal(&s, nonce_known, &data, (const uint8_t *)"XAES-256-GCM", 12, sealed, sealed + 12);
    hex(text, sealed, sizeof sealed);
    cr_assert_str_eq(text, answer);
    xaes_sealer_free(&s);
}

Test(xaes, gives_the_first_known_answer) {
    known_answer(1, "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271");
}

Test(xaes, gives_the_second_known_answer) {
    known_answer(3, "c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d");
}

Test(xaes, self_test_passes) {
    struct err err = {0};
    cr_assert_eq(xaes_self_test(&err), 0, "%s", err.text);
}

Test(xaes, nonces_keep_the_prefix_and_count) {
    struct xaes_sealer s = sealer_of(1, nonce_known);
    uint8_t a[XAES_NONCE_BYTES], b[XAES_NONCE_BYTES];
    static const uint8_t zero[12], one[12] = {[11] = 1}, carried[12] = {[10] = 1};
    xaes_nonce_next(&s, a);
    xaes_nonce_next(&s, b);
    cr_assert_arr_eq(a, nonce_known, XAES_PREFIX_BYTES);
    cr_assert_arr_eq(a + XAES_PREFIX_BYTES, zero, 12);
    cr_assert_arr_eq(b + XAES_PREFIX_BYTES, one, 12);
    for (int i = 2; i <= 256; i++) xaes_nonce_next(&s, a);
    cr_assert_arr_eq(a + XAES_PREFIX_BYTES, carried, 12);
    xaes_sealer_free(&s);
}

Test(xaes, opens_what_it_sealed_and_nothing_else) {
    enum { LEN = 37 };
    uint8_t key[XAES_KEY_BYTES], in[LEN], sealed[LEN], out[LEN], tag[XAES_TAG_BYTES], nonce[XAES_NONCE_BYTES];
    memset(key, 9, sizeof key);
    for (int i = 0; i < LEN; i++) in[i] = (uint8_t)(i * 7);
    struct xaes_sealer s = sealer_of(9, nonce_known);
    struct xaes_data data = {{"head", "redis key"}, {4, 9}}, joined = {{"headredis key", NULL}, {13, 0}};
    xaes_nonce_next(&s, nonce);
    xaes_seal(&s, nonce, &data, in, LEN, sealed, tag);
    cr_assert_eq(xaes_open(key, nonce, &data, sealed, LEN, out, tag), 0);
    cr_assert_arr_eq(out, in, LEN);
    cr_assert_eq(xaes_open(key, nonce, &joined, sealed, LEN, out, tag), 0, "two pieces count as one");

    struct xaes_data other = {{"head", "other key"}, {4, 9}};
    static const uint8_t wiped[LEN];
    cr_assert_eq(xaes_open(key, nonce, &other, sealed, LEN, out, tag), -1);
    cr_assert_arr_eq(out, wiped, LEN, "what failed to authenticate is wiped");
    for (int i = 0; i < XAES_NONCE_BYTES; i++) {
        nonce[i] ^= 1;
        cr_assert_eq(xaes_open(key, nonce, &data, sealed, LEN, out, tag), -1, "nonce byte %d", i);
        nonce[i] ^= 1;
    }
    key[31] ^= 1;
    cr_assert_eq(xaes_open(key, nonce, &data, sealed, LEN, out, tag), -1);
    xaes_sealer_free(&s);
}

Test(xaes, seals_in_place_and_seals_nothing) {
    uint8_t key[XAES_KEY_BYTES], text[16] = "fifteen letters", tag[XAES_TAG_BYTES];
    memset(key, 1, sizeof key);
    struct xaes_sealer s = sealer_of(1, nonce_known);
    struct xaes_data data = data_of("");
    xaes_seal(&s, nonce_known, &data, text, sizeof text, text, tag);
    cr_assert_neq(memcmp(text, "fifteen letters", 15), 0);
    cr_assert_eq(xaes_open(key, nonce_known, &data, text, sizeof text, text, tag), 0);
    cr_assert_str_eq((char *)text, "fifteen letters");
    xaes_seal(&s, nonce_known, &data, text, 0, text, tag);
    cr_assert_eq(xaes_open(key, nonce_known, &data, text, 0, text, tag), 0);
    tag[0] ^= 0x80;
    cr_assert_eq(xaes_open(key, nonce_known, &data, text, 0, text, tag), -1);
    xaes_sealer_free(&s);
}

#ifndef __SANITIZE_ADDRESS__ /* which brings an allocator of its own */
extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t each);
extern void *__libc_realloc(void *p, size_t n);
static uint64_t allocations;
void *malloc(size_t n) {
    allocations++;
    return __libc_malloc(n);
}
void *calloc(size_t n, size_t each) {
    allocations++;
    return __libc_calloc(n, each);
}
void *realloc(void *p, size_t n) {
    allocations++;
    return __libc_realloc(p, n);
}

Test(xaes, sealing_does_not_allocate) {
    uint64_t before = allocations;
    struct xaes_sealer s = sealer_of(1, nonce_known);
    cr_assert_gt(allocations, before, "libcrypto's allocations are counted");
    struct xaes_data data = data_of("associated");
    uint8_t text[512] = {1}, tag[XAES_TAG_BYTES], nonce[XAES_NONCE_BYTES];
    before = allocations;
    for (int i = 0; i < 1000; i++) {
        xaes_nonce_next(&s, nonce);
        xaes_seal(&s, nonce, &data, text, sizeof text, text, tag);
    }
    cr_assert_eq(allocations, before);
    xaes_sealer_free(&s);
}
#endif

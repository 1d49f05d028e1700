#include "base/digest.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct digest_key key_of(const void *bytes, size_t len) {
    uint8_t padded[DIGEST_KEY_BYTES] = {0}; /* HMAC pads shorter keys with zeros: those of RFC 4231 are such */
    struct digest_key k;
    memcpy(padded, bytes, len);
    digest_key_init(&k, padded);
    return k;
}

static void hex_expect(const uint8_t digest[DIGEST_BYTES], const char *hex) {
    char got[DIGEST_HEX_BYTES];
    digest_hex(digest, got);
    cr_assert_str_eq(got, hex);
}

static void hmac_expect(const char *key, size_t key_bytes, const void *data, size_t len, const char *hex) {
    uint8_t out[DIGEST_BYTES];
    struct digest_key k = key_of(key, key_bytes);
    digest_of(&k, DIGEST_HMAC, data, len, out);
    hex_expect(out, hex);
}

/* RFC 4231, test cases 1 to 5, cut to 128 bits. */
Test(digest, hmac_has_the_known_answers) {
    char a[20], b[20], c[20], dd[50], cd[50], counted[25];
    memset(a, 0x0b, sizeof a);
    memset(b, 0xaa, sizeof b);
    memset(c, 0x0c, sizeof c);
    memset(dd, 0xdd, sizeof dd);
    memset(cd, 0xcd, sizeof cd);
    for (int i = 0; i < 25; i++) counted[i] = (char)(i + 1);
    hmac_expect(a, sizeof a, "Hi There", 8, "b0344c61d8db38535ca8afceaf0bf12b");
    hmac_expect("Jefe", 4, "what do ya want for nothing?", 28, "5bdcc146bf60754e6a042426089575c7");
    hmac_expect(b, sizeof b, dd, sizeof dd, "773ea91e36800e46854db8ebd09181a7");
    hmac_expect(counted, sizeof counted, cd, sizeof cd, "82558a389a443c0ea4cc819899f2083a");
    hmac_expect(c, sizeof c, "Test With Truncation", 20, "a3b6167473100ee06e0c796c2955552b");
}

/* Made with xxhsum -H2. */
Test(digest, xxh3_has_the_known_answers) {
    static const struct {
        size_t len;
        const char *text, *hex; /* text NULL: bytes that count up */
    } rows[] = {{0, "", "99aa06d3014798d86001c324468d497f"},
                {1, "a", "a96faf705af16834e6c632b61e964e1f"},
                {3, "abc", "06b05ab6733a618578af5f94892f3950"},
                {43, "The quick brown fox jumps over the lazy dog", "ddd650205ca3e7fa24a1cc2e3a8a7651"},
                {256, NULL, "f1f8a93f50849ac39408a4433b952d71"},
                {1000, NULL, "076f7e02b7120d2ad33dd80b46f60e50"}};
    uint8_t counted[1000], out[DIGEST_BYTES];
    for (size_t i = 0; i < sizeof counted; i++) counted[i] = (uint8_t)i;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        digest_of(NULL, DIGEST_XXH3, rows[i].text != NULL ? (const void *)rows[i].text : counted, rows[i].len, out);
        hex_expect(out, rows[i].hex);
    }
}

/* The sum over lengths 0 to 300, against another implementation: every way to end a block of 64 bytes. */
Test(digest, lengths_around_every_block_are_right) {
    uint8_t key[DIGEST_KEY_BYTES], data[300], out[DIGEST_BYTES], hmac[DIGEST_BYTES] = {0}, xxh3[DIGEST_BYTES] = {0};
    struct digest_key k;
    for (size_t i = 0; i < sizeof key; i++) key[i] = (uint8_t)(i + 1);
    digest_key_init(&k, key);
    for (size_t n = 0; n <= 300; n++) {
        for (size_t i = 0; i < n; i++) data[i] = (uint8_t)(n * 7 + i * 13);
        digest_of(&k, DIGEST_HMAC, data, n, out);
        digest_sum_add(hmac, out);
        digest_of(&k, DIGEST_XXH3, data, n, out);
        digest_sum_add(xxh3, out);
    }
    hex_expect(hmac, "6bb95e681944a16f629a93bc577a04b2");
    hex_expect(xxh3, "2d3255cdb70313f7c82289a6a7b1572f");
}

/* Two at a time where the processor can: every pairing of lengths around the borders of blocks, any number of them. */
Test(digest, many_together_are_what_each_is_alone) {
    static const size_t lengths[] = {0, 1, 54, 55, 56, 63, 64, 65, 118, 119, 120, 127, 128, 129, 183, 184, 512, 4096};
    enum { N = sizeof lengths / sizeof lengths[0] };
    static uint8_t data[8192], out[N * N * 2][DIGEST_BYTES];
    static struct digest_job jobs[N * N * 2];
    uint8_t want[DIGEST_BYTES];
    struct digest_key k = key_of("Jefe", 4);
    srand(5);
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)rand();
    size_t n = 0;
    for (size_t a = 0; a < N; a++)
        for (size_t b = 0; b < N; b++) {
            jobs[n] = (struct digest_job){data + n, lengths[a], out[n]};
            jobs[n + 1] = (struct digest_job){data + 3 * n, lengths[b], out[n + 1]};
            n += 2;
        }
    for (size_t count = 0; count <= n; count = count < 8 ? count + 1 : count * 2 + 1) {
        memset(out, 0, sizeof out);
        digest_of_many(&k, jobs, count);
        for (size_t i = 0; i < n; i++) {
            digest_of(&k, i < count ? DIGEST_HMAC : DIGEST_NONE, jobs[i].data, jobs[i].len, want);
            cr_assert_eq(memcmp(out[i], want, sizeof want), 0, "%zu of %zu, %zu bytes", i, count, jobs[i].len);
        }
    }
    k.paired = false; /* … and on a processor that cannot */
    memset(out, 0, sizeof out);
    digest_of_many(&k, jobs, n);
    digest_of(&k, DIGEST_HMAC, jobs[n - 1].data, jobs[n - 1].len, want);
    cr_assert_eq(memcmp(out[n - 1], want, sizeof want), 0);
}

Test(digest, none_is_zero_and_needs_no_key) {
    uint8_t out[DIGEST_BYTES];
    memset(out, 1, sizeof out);
    digest_of(NULL, DIGEST_NONE, "x", 1, out);
    hex_expect(out, "00000000000000000000000000000000");
    memset(out, 1, sizeof out);
    digest_of_fields(NULL, DIGEST_NONE, NULL, 0, out);
    hex_expect(out, "00000000000000000000000000000000");
}

Test(digest, wiped_key_leaves_nothing) {
    static const struct digest_key none;
    struct digest_key k = key_of("Jefe", 4);
    digest_key_clear(&k);
    cr_assert_eq(memcmp(&k, &none, sizeof k), 0);
}

/* -- lists of fields --------------------------------------------------------------------------- */

#define FIELD(n, v)                                                                                                    \
    { (const uint8_t *)(n), (const uint8_t *)(v), sizeof(n) - 1, sizeof(v) - 1 }

static struct digest_key counting_key(void) {
    uint8_t key[DIGEST_KEY_BYTES];
    struct digest_key k;
    for (size_t i = 0; i < sizeof key; i++) key[i] = (uint8_t)(i + 1);
    digest_key_init(&k, key);
    return k;
}

/* Made with another implementation of HMAC and with xxhsum over the canonical form. */
Test(digest, fields_have_one_digest_whatever_their_order) {
    static const struct digest_field fields[] = {FIELD("account", "1001"), FIELD("card", "7"), FIELD("", "empty name"),
                                                 FIELD("ac", ""), FIELD("\xff", "z")};
    struct digest_key k = counting_key();
    uint8_t out[DIGEST_BYTES];
    srand(3);
    for (int round = 0; round < 200; round++) {
        struct digest_field mixed[5];
        memcpy(mixed, fields, sizeof mixed);
        for (size_t i = 4; i > 0; i--) {
            size_t j = (size_t)rand() % (i + 1);
            struct digest_field f = mixed[i];
            mixed[i] = mixed[j];
            mixed[j] = f;
        }
        digest_of_fields(&k, DIGEST_HMAC, mixed, 5, out);
        hex_expect(out, "2563f462e3871b6941be8cf4aa91dcc5");
        digest_of_fields(&k, DIGEST_XXH3, mixed, 5, out);
        hex_expect(out, "d0aa455754cdbe8ed83565ac722b4fa6");
    }
}

Test(digest, longest_list_is_sorted) {
    enum { N = 4096 };
    static char names[N][16], values[N][16];
    static struct digest_field fields[N];
    struct digest_key k = counting_key();
    uint8_t out[DIGEST_BYTES];
    for (int i = 0; i < N; i++) {
        int n = snprintf(names[i], sizeof names[i], "f%d", i), v = snprintf(values[i], sizeof values[i], "v%d", i * 3);
        fields[i] = (struct digest_field){(uint8_t *)names[i], (uint8_t *)values[i], (uint32_t)n, (uint32_t)v};
    }
    digest_of_fields(&k, DIGEST_HMAC, fields, N, out);
    hex_expect(out, "bae193be288a2731e8fa2d1fcdf940a9");
    for (int i = 0; i < N / 2; i++) { /* sorted by now; and the other way round */
        struct digest_field f = fields[i];
        fields[i] = fields[N - 1 - i];
        fields[N - 1 - i] = f;
    }
    digest_of_fields(&k, DIGEST_HMAC, fields, N, out);
    hex_expect(out, "bae193be288a2731e8fa2d1fcdf940a9");
}

Test(digest, last_of_equal_names_counts) {
    static const char list[] = "aa1b2a3c4a5"; /* a=…, three times; the last at the highest address */
    const uint8_t *at = (const uint8_t *)list;
    struct digest_field twice[] = {{at + 1, at + 2, 1, 1},
                                   {at + 3, at + 4, 1, 1},
                                   {at + 5, at + 6, 1, 1},
                                   {at + 7, at + 8, 1, 1},
                                   {at + 9, at + 10, 1, 1}};
    struct digest_field once[] = {FIELD("c", "4"), FIELD("b", "2"), FIELD("a", "5")};
    struct digest_key k = counting_key();
    uint8_t a[DIGEST_BYTES], b[DIGEST_BYTES];
    digest_of_fields(&k, DIGEST_HMAC, twice, 5, a);
    digest_of_fields(&k, DIGEST_HMAC, once, 3, b);
    cr_assert_eq(memcmp(a, b, sizeof a), 0);
    digest_of_fields(&k, DIGEST_XXH3, twice, 5, a);
    digest_of_fields(&k, DIGEST_XXH3, once, 3, b);
    cr_assert_eq(memcmp(a, b, sizeof a), 0);
}

/* A byte that moves from a name to its value, or to the next field, is another list. */
Test(digest, borders_between_names_and_values_count) {
    struct digest_field lists[][2] = {{FIELD("ab", "c"), FIELD("d", "e")},
                                      {FIELD("a", "bc"), FIELD("d", "e")},
                                      {FIELD("ab", "cd"), FIELD("", "e")},
                                      {FIELD("ab", ""), FIELD("cd", "e")}};
    struct digest_key k = counting_key();
    uint8_t out[4][DIGEST_BYTES];
    for (int i = 0; i < 4; i++) digest_of_fields(&k, DIGEST_HMAC, lists[i], 2, out[i]);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < i; j++) cr_assert_neq(memcmp(out[i], out[j], DIGEST_BYTES), 0, "%d and %d", i, j);
}

/* -- sums and text ----------------------------------------------------------------------------- */

Test(digest, sums_carry_and_wrap) {
    uint8_t sum[DIGEST_BYTES] = {0}, one[DIGEST_BYTES] = {0}, all[DIGEST_BYTES];
    one[15] = 1;
    memset(all, 0xff, sizeof all);
    digest_sum_add(sum, all);
    hex_expect(sum, "ffffffffffffffffffffffffffffffff");
    digest_sum_add(sum, one);
    hex_expect(sum, "00000000000000000000000000000000");
    digest_sum_add(sum, one);
    digest_sum_add(sum, all);
    hex_expect(sum, "00000000000000000000000000000000");
    sum[14] = 0xff;
    sum[15] = 0xff;
    digest_sum_add(sum, one);
    hex_expect(sum, "00000000000000000000000000010000");
}

Test(digest, text_is_read_back_and_everything_else_refused) {
    uint8_t out[DIGEST_BYTES];
    cr_assert_eq(digest_parse(out, "0123456789abcdefFEDCBA9876543210", 32), 0);
    hex_expect(out, "0123456789abcdeffedcba9876543210");
    cr_assert_eq(digest_parse(out, "0123456789abcdeffedcba987654321", 31), -1);
    cr_assert_eq(digest_parse(out, "0123456789abcdeffedcba98765432100", 33), -1);
    cr_assert_eq(digest_parse(out, "0123456789abcdeffedcba987654321g", 32), -1);
    cr_assert_eq(digest_parse(out, "", 0), -1);
}

Test(digest, header_names_its_algorithm_or_is_none) {
    uint8_t out[DIGEST_BYTES];
    static const char good[] = "hmac:0123456789abcdeffedcba9876543210";
    cr_assert_eq(digest_header_parse(out, good, 37), DIGEST_HMAC);
    hex_expect(out, "0123456789abcdeffedcba9876543210");
    cr_assert_eq(digest_header_parse(out, "xxh3:0123456789ABCDEFFEDCBA9876543210", 37), DIGEST_XXH3);
    for (size_t len = 0; len < 37; len++) cr_assert_eq(digest_header_parse(out, good, len), DIGEST_NONE, "%zu", len);
    cr_assert_eq(digest_header_parse(out, "HMAC:0123456789abcdeffedcba9876543210", 37), DIGEST_NONE);
    cr_assert_eq(digest_header_parse(out, "sha1:0123456789abcdeffedcba9876543210", 37), DIGEST_NONE);
    cr_assert_eq(digest_header_parse(out, "0123456789abcdeffedcba98765432100000f", 37), DIGEST_NONE);
}

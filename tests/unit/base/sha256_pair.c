#define OPENSSL_SUPPRESS_DEPRECATED
#include "base/sha256_pair.h"

#include <criterion/criterion.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

/* FIPS 180-4's own example: "abc" in one block. */
Test(sha256_pair, has_the_known_answer_on_both_sides) {
    static const uint32_t first[SHA256_WORDS] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                                 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    static const uint32_t want[SHA256_WORDS] = {0xba7816bf, 0x8f01cfea, 0x414140de, 0x5dae2223,
                                                0xb00361a3, 0x96177a9c, 0xb410ff61, 0xf20015ad};
    uint8_t block[SHA256_BLOCK_BYTES] = {'a', 'b', 'c', 0x80, [63] = 24}, other[SHA256_BLOCK_BYTES] = {1, 2, 3};
    uint32_t state[2][SHA256_WORDS];
    if (!sha256_pair_there()) cr_skip("this processor cannot");
    for (int side = 0; side < 2; side++) {
        const uint8_t *data[2] = {side == 0 ? block : other, side == 0 ? other : block};
        memcpy(state[0], first, sizeof first);
        memcpy(state[1], first, sizeof first);
        sha256_pair(state, data, 1);
        cr_assert_eq(memcmp(state[side], want, sizeof want), 0, "side %d", side);
        cr_assert_neq(memcmp(state[1 - side], want, sizeof want), 0);
    }
}

/* Against OpenSSL: many blocks, states that are anything, data at any address. */
Test(sha256_pair, does_what_openssl_does) {
    static uint8_t bytes[2][40 * SHA256_BLOCK_BYTES + 16];
    if (!sha256_pair_there()) cr_skip("this processor cannot");
    srand(1);
    for (int round = 0; round < 2000; round++) {
        uint32_t state[2][SHA256_WORDS];
        const uint8_t *data[2];
        SHA256_CTX want[2];
        size_t blocks = (size_t)rand() % 41;
        for (int i = 0; i < 2; i++) {
            data[i] = bytes[i] + rand() % 16;
            for (int k = 0; k < 100; k++) bytes[i][(size_t)rand() % sizeof bytes[i]] = (uint8_t)rand();
            SHA256_Init(&want[i]);
            for (int k = 0; k < SHA256_WORDS; k++) state[i][k] = want[i].h[k] = (uint32_t)rand() * 3U;
            SHA256_Update(&want[i], data[i], blocks * SHA256_BLOCK_BYTES);
        }
        sha256_pair(state, data, blocks);
        for (int i = 0; i < 2; i++) cr_assert_eq(memcmp(state[i], want[i].h, sizeof state[i]), 0, "%zu blocks", blocks);
    }
}

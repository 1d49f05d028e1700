/* The low-level SHA-256 functions: a keyed state is copied per mac, which EVP does with two allocations. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "audit/mac.h"

#include <assert.h>
#include <string.h>

#include "base/sha256_pair.h"

static_assert(sizeof(SHA_LONG) == sizeof(uint32_t), "OpenSSL's state of SHA-256 is ours");

static void state_init(SHA256_CTX *state, const uint8_t key[AUDIT_KEY_BYTES], uint8_t pad) {
    uint8_t block[SHA256_CBLOCK];
    memset(block, pad, sizeof block);
    for (size_t i = 0; i < AUDIT_KEY_BYTES; i++) block[i] ^= key[i];
    SHA256_Init(state);
    SHA256_Update(state, block, sizeof block);
    explicit_bzero(block, sizeof block);
}

void log_mac_key_init(struct log_mac_key *k, const uint8_t key[AUDIT_KEY_BYTES]) {
    state_init(&k->inner, key, 0x36);
    state_init(&k->outer, key, 0x5c);
}

/* Two messages of which the second is no shorter. */
static void hash_two(const uint8_t *const data[2], const size_t len[2], uint8_t out[2][LOG_HASH_BYTES]) {
    SHA256_CTX state[2];
    uint32_t words[2][SHA256_WORDS];
    size_t blocks = sha256_pair_there() ? len[0] / SHA256_BLOCK_BYTES : 0, done = blocks * SHA256_BLOCK_BYTES;
    SHA256_Init(&state[0]);
    SHA256_Init(&state[1]);
    if (blocks > 0) {
        for (int i = 0; i < 2; i++) memcpy(words[i], state[i].h, sizeof words[i]);
        sha256_pair(words, data, blocks);
    }
    for (int i = 0; i < 2; i++) {
        if (blocks > 0) {
            memcpy(state[i].h, words[i], sizeof words[i]);
            state[i].Nl = (SHA_LONG)(done << 3);
            state[i].Nh = (SHA_LONG)((uint64_t)done >> 29);
        }
        SHA256_Update(&state[i], data[i] + done, len[i] - done);
        SHA256_Final(out[i], &state[i]);
    }
}

void log_mac_make(const struct log_mac_key *k, const uint8_t previous[LOG_MAC_BYTES], const void *bytes, size_t len,
                  uint8_t out[LOG_MAC_BYTES]) {
    uint8_t halves[2][LOG_HASH_BYTES], hash[LOG_HASH_BYTES];
    size_t half = len / 2 / SHA256_BLOCK_BYTES * SHA256_BLOCK_BYTES;
    const uint8_t *const data[2] = {bytes, (const uint8_t *)bytes + half};
    hash_two(data, (const size_t[2]){half, len - half}, halves);
    SHA256_CTX all;
    SHA256_Init(&all);
    SHA256_Update(&all, previous, LOG_HASH_BYTES);
    SHA256_Update(&all, halves, sizeof halves);
    SHA256_Final(out, &all);
    memset(out + LOG_HASH_BYTES, 0, LOG_MAC_BYTES - LOG_HASH_BYTES);
    if (k == NULL) return;
    SHA256_CTX inner = k->inner, outer = k->outer;
    SHA256_Update(&inner, out, LOG_HASH_BYTES);
    SHA256_Final(hash, &inner);
    SHA256_Update(&outer, hash, sizeof hash);
    SHA256_Final(out + LOG_HASH_BYTES, &outer);
}

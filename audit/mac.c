/* The low-level SHA-256 functions: a keyed state is copied per mac, which EVP does with two allocations. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "audit/mac.h"

#include <string.h>

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

void log_mac_begin(struct log_mac *m, const uint8_t previous[LOG_MAC_BYTES]) {
    SHA256_Init(&m->hash);
    SHA256_Update(&m->hash, previous, LOG_HASH_BYTES);
}

void log_mac_add(struct log_mac *m, const void *bytes, size_t len) { SHA256_Update(&m->hash, bytes, len); }

void log_mac_end(struct log_mac *m, const struct log_mac_key *k, uint8_t out[LOG_MAC_BYTES]) {
    uint8_t hash[SHA256_DIGEST_LENGTH];
    SHA256_Final(out, &m->hash);
    memset(out + LOG_HASH_BYTES, 0, LOG_MAC_BYTES - LOG_HASH_BYTES);
    if (k == NULL) return;
    SHA256_CTX inner = k->inner, outer = k->outer;
    SHA256_Update(&inner, out, LOG_HASH_BYTES);
    SHA256_Final(hash, &inner);
    SHA256_Update(&outer, hash, sizeof hash);
    SHA256_Final(out + LOG_HASH_BYTES, &outer);
}

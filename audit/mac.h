/* The macs that chain the audit log, of two halves: a hash, and the HMAC-SHA-256 of that hash under the chain key.
 * Anybody can compute the hashes, and hold them against one that was signed; only who has the key can make the second
 * half.
 *
 * The hash is SHA-256 over the hash before it and the SHA-256 of each half of the bytes since: both halves are hashed
 * at a time, which is what the instructions for SHA are made for. The first half is the whole blocks of 64 bytes of
 * half the length. */
#ifndef MILLRACE_AUDIT_MAC_H
#define MILLRACE_AUDIT_MAC_H

#include <openssl/sha.h>
#include <stddef.h>
#include <stdint.h>

#include "audit/log.h"
#include "base/audit_keys.h"

struct log_mac_key { /* holds a secret: explicit_bzero it */
    SHA256_CTX inner, outer;
};

void log_mac_key_init(struct log_mac_key *k, const uint8_t key[AUDIT_KEY_BYTES]);

/* log_mac_make: over the hash in `previous` and bytes[0, len); k NULL: the second half of the mac is zeros. previous
 * may be out. Any thread; does not allocate. */
void log_mac_make(const struct log_mac_key *k, const uint8_t previous[LOG_MAC_BYTES], const void *bytes, size_t len,
                  uint8_t out[LOG_MAC_BYTES]);

#endif

/* The macs that chain the audit log, of two halves: a hash, SHA-256 over the hash before it and the bytes since, and
 * the HMAC-SHA-256 of that hash under the chain key. Anybody can compute the hashes, and hold them against one that was
 * signed; only who has the key can make the second half. */
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

struct log_mac { /* one that is being made */
    SHA256_CTX hash;
};

void log_mac_key_init(struct log_mac_key *k, const uint8_t key[AUDIT_KEY_BYTES]);

/* log_mac_begin, then log_mac_add any number of times, then log_mac_end (k NULL: the second half is zeros). previous
 * may be out. Do not allocate. */
void log_mac_begin(struct log_mac *m, const uint8_t previous[LOG_MAC_BYTES]);
void log_mac_add(struct log_mac *m, const void *bytes, size_t len);
void log_mac_end(struct log_mac *m, const struct log_mac_key *k, uint8_t out[LOG_MAC_BYTES]);

#endif

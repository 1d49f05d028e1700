/* The keys of reconciliation, all derived from the one key of the file `recon.keys` (made by `millrace keygen`, a key
 * file as in base/keys.h): HKDF-SHA-256 (RFC 5869) without salt, with the labels "millrace digest", "millrace chain",
 * "millrace anchor", "millrace account" and "millrace index". The file holds exactly one key: digests made under
 * another one could not be compared. */
#ifndef MILLRACE_BASE_AUDIT_KEYS_H
#define MILLRACE_BASE_AUDIT_KEYS_H

#include <stdint.h>

#include "base/err.h"

enum { AUDIT_KEY_BYTES = 32 };

/* What a process asks for; the rest stays zero. */
enum audit_key_part {
    AUDIT_KEY_DIGEST = 1 << 0,  /* transform, verify, load, recon */
    AUDIT_KEY_CHAIN = 1 << 1,   /* audit, `millrace audit verify` */
    AUDIT_KEY_ANCHOR = 1 << 2,  /* audit: the seed of its Ed25519 key; `millrace audit key` shows the public half */
    AUDIT_KEY_ACCOUNT = 1 << 3, /* recon: of what instances tell each other */
    AUDIT_KEY_INDEX = 1 << 4,   /* recon and who looks into the log: of its indexes */
};

struct audit_keys {
    uint32_t id; /* of the key in the file */
    uint8_t digest[AUDIT_KEY_BYTES], chain[AUDIT_KEY_BYTES], anchor_seed[AUDIT_KEY_BYTES];
    uint8_t account[AUDIT_KEY_BYTES], index[AUDIT_KEY_BYTES];
};

/* audit_keys_load reads the file at path and derives the parts asked for (enum audit_key_part, or'ed). The caller wipes
 * *out (explicit_bzero) as soon as it has made its own states of it. Returns 0, or -1 with err as of keys_load;
 * EX_CONFIG too when the file holds more than one key, EX_SOFTWARE when OpenSSL refuses. */
int audit_keys_load(const char *path, unsigned parts, struct audit_keys *out, struct err *err);

#endif

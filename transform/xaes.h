/* XAES-256-GCM (C2SP): AES-256-GCM with nonces of 24 bytes, of which the first 12 choose a derived key.
 *
 * A sealer draws the first 12 bytes at random once and counts in the last 12, so the derived key is fresh for each
 * process, computed once, and no nonce state has to survive a crash. */
#ifndef MILLRACE_TRANSFORM_XAES_H
#define MILLRACE_TRANSFORM_XAES_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { XAES_KEY_BYTES = 32, XAES_NONCE_BYTES = 24, XAES_TAG_BYTES = 16, XAES_PREFIX_BYTES = 12 };

/* Associated data in up to two pieces, authenticated as if they were one. */
struct xaes_data {
    const void *at[2];
    size_t len[2];
};

struct xaes_sealer { /* private to one process; never copied */
    void *cipher;    /* EVP_CIPHER_CTX with the derived key */
    uint8_t prefix[XAES_PREFIX_BYTES];
    uint64_t counter; /* of the next nonce */
};

/* xaes_sealer_init derives the key for `prefix`, which must be random: never the same twice under one key.
 * Returns 0, or -1 with err.code EX_SOFTWARE when the cipher is not to be had. Allocates. */
int xaes_sealer_init(struct xaes_sealer *s, const uint8_t key[XAES_KEY_BYTES], const uint8_t prefix[XAES_PREFIX_BYTES],
                     struct err *err);

/* xaes_nonce_next writes the nonce of the next xaes_seal and moves the counter on. */
void xaes_nonce_next(struct xaes_sealer *s, uint8_t nonce[XAES_NONCE_BYTES]);

/* xaes_seal encrypts in[0, len) to out[0, len) and writes the tag. in == out is allowed, other overlap is not.
 * nonce: from xaes_nonce_next, used once. len in [0, 2^31). Does not allocate, cannot fail (a failing one aborts). */
void xaes_seal(struct xaes_sealer *s, const uint8_t nonce[XAES_NONCE_BYTES], const struct xaes_data *data,
               const uint8_t *in, size_t len, uint8_t *out, uint8_t tag[XAES_TAG_BYTES]);

/* xaes_sealer_free wipes. */
void xaes_sealer_free(struct xaes_sealer *s);

/* xaes_open decrypts in[0, len) to out[0, len), which is wiped when the tag does not match. in == out is allowed.
 * Returns 0, or -1: key, nonce, data, bytes or tag are not those of xaes_seal. Allocates; not for the record path. */
int xaes_open(const uint8_t key[XAES_KEY_BYTES], const uint8_t nonce[XAES_NONCE_BYTES], const struct xaes_data *data,
              const uint8_t *in, size_t len, uint8_t *out, const uint8_t tag[XAES_TAG_BYTES]);

/* xaes_self_test runs the known answers of the specification. Returns 0, or -1 with err (EX_SOFTWARE): this libcrypto
 * must not be used. */
int xaes_self_test(struct err *err);

#endif

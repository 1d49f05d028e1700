/* The stored form of a value that is compressed or encrypted: a header, then the payload (docs/formats.md).
 *
 *      0  4  magic 89 'M' 'L' 'R'
 *      4  1  version 1
 *      5  1  flags: 1 compressed (LZ4 block), 2 encrypted (XAES-256-GCM)
 *      6  2  zero
 *      8  4  key id, big-endian; 0 when not encrypted
 *     12  4  length of the original value, big-endian
 *     16 24  nonce, only when encrypted
 *      …     payload, then a tag of 16 bytes when encrypted
 *
 * Associated data: everything before the payload, then the Redis key, so a value cannot be moved to another key.
 * Every value of a topic that compresses or encrypts has the header; one that did not get smaller is kept as it was
 * behind it. Values of other topics are stored as they came. */
#ifndef MILLRACE_TRANSFORM_VALUE_H
#define MILLRACE_TRANSFORM_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/keys.h"
#include "transform/xaes.h"

enum { VALUE_HEADER_BYTES = 16, VALUE_VERSION = 1 };
enum { VALUE_LZ4 = 1, VALUE_ENCRYPTED = 2 };
enum { VALUE_OVERHEAD_MAX = VALUE_HEADER_BYTES + XAES_NONCE_BYTES + XAES_TAG_BYTES };
#define VALUE_ORIGINAL_BYTES_MAX (RING_BYTES_MAX / RING_RECORD_SHARE) /* no record is larger */

/* What encoding needs, made once at start. */
struct value_encoder {
    struct xaes_sealer *sealer; /* NULL: nothing is encrypted */
    uint32_t key_id;            /* of the sealer's key */
    void *lz4;                  /* LZ4's working memory */
};

/* value_encoder_init: sealer may be NULL. Returns 0, or -1 with err (EX_OSERR). Allocates. */
int value_encoder_init(struct value_encoder *e, struct xaes_sealer *sealer, uint32_t key_id, struct err *err);
void value_encoder_free(struct value_encoder *e);

/* value_encode writes the stored form of value[0, len) to out. flags: VALUE_LZ4, VALUE_ENCRYPTED or both: what the
 * topic asks for (0 is allowed: a header before the bytes). Needs room for value_encoded_max(flags, len) bytes. out
 * must not overlap value. Returns the bytes written, at most value_encoded_max. Does not allocate. */
size_t value_encode(struct value_encoder *e, unsigned flags, const void *redis_key, size_t redis_key_bytes,
                    const uint8_t *value, size_t len, uint8_t *out);

/* value_compress writes in[0, len) as one LZ4 block of at most len - 1 bytes to out, which must not overlap. Returns
 * its length, 0 when it does not get smaller. len at most VALUE_ORIGINAL_BYTES_MAX. Does not allocate. */
size_t value_compress(struct value_encoder *e, const uint8_t *in, size_t len, uint8_t *out);

static inline size_t value_encoded_max(unsigned flags, size_t len) {
    return VALUE_HEADER_BYTES + len + (flags & VALUE_ENCRYPTED ? XAES_NONCE_BYTES + XAES_TAG_BYTES : 0);
}

/* value_is_encoded: whether the bytes begin with the magic of the stored form. */
bool value_is_encoded(const void *stored, size_t len);

/* value_decode turns a stored value back. Bytes without the magic are a plain value and come back as they are.
 * keys may be NULL. On success *out (to be given to free(), never NULL) and *out_len are set. Not for the record path.
 * Returns 0, or -1 with err.code EX_DATAERR (damaged or tampered with: header, tag, compression), EX_CONFIG (the key id
 * is not in the key file, or there is none), EX_OSERR (memory). Nothing is allocated before the lengths are checked. */
int value_decode(const struct keys *keys, const void *redis_key, size_t redis_key_bytes, const uint8_t *stored,
                 size_t len, uint8_t **out, size_t *out_len, struct err *err);

#endif

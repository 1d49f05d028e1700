/* The sealed original of a record: Kafka key, value and headers, encrypted with the current key (docs/formats.md). In
 * the rejects folder, and compressed in the audit log of a topic with `reconcile: full`.
 *
 *      0  4  magic 89 'M' 'L' 'S'
 *      4  1  version 1
 *      5  1  flags: 1 compressed
 *      6  2  zero
 *      8  4  key id, big-endian
 *     12  4  length of the packed parts, big-endian; before compression
 *     16 24  nonce
 *     40     packed parts, encrypted, then a tag of 16 bytes
 *
 * Packed parts: three lengths, big-endian (key, value, headers; 0xffffffff: null), then the bytes of each; compressed:
 * the three lengths, then one LZ4 block of all the bytes. Associated data: the first 40 bytes, the record's id, topic
 * name, partition (4 bytes) and offset (8 bytes), both big-endian: a sealed original cannot pass for that of another
 * record. */
#ifndef MILLRACE_TRANSFORM_SEAL_H
#define MILLRACE_TRANSFORM_SEAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/keys.h"
#include "transform/value.h"
#include "transform/xaes.h"

enum { SEAL_HEADER_BYTES = 16, SEAL_VERSION = 1, SEAL_PACKED_BYTES = 12 };
enum { SEAL_OVERHEAD = SEAL_HEADER_BYTES + XAES_NONCE_BYTES + SEAL_PACKED_BYTES + XAES_TAG_BYTES };

struct seal_origin {   /* what a sealed original is bound to */
    const uint8_t *id; /* 16 bytes */
    const char *topic; /* shorter than TOPIC_BYTES */
    int32_t partition;
    int64_t offset;
};

struct seal_parts { /* NULL: the part is null; headers are never null */
    const uint8_t *key, *value, *headers;
    size_t key_bytes, value_bytes, headers_bytes;
};

static inline size_t seal_bytes(const struct seal_parts *p) {
    return SEAL_OVERHEAD + p->key_bytes + p->value_bytes + p->headers_bytes;
}

/* seal_write writes exactly seal_bytes(parts) bytes to out, which must not overlap the parts. The sum of the parts is
 * below 2^31. Does not allocate, cannot fail. */
void seal_write(struct xaes_sealer *sealer, uint32_t key_id, const struct seal_origin *origin,
                const struct seal_parts *parts, uint8_t *out);

/* seal_compress is seal_write with the parts compressed when that makes them smaller, and with the sealer and the key
 * of the encoder. The parts stand in one piece: key, value, headers. Returns the bytes written, at most
 * seal_bytes(parts). */
size_t seal_compress(struct value_encoder *encoder, const struct seal_origin *origin, const struct seal_parts *parts,
                     uint8_t *out);

/* seal_open decrypts what either has written. On success *buffer is to be given to free() and *parts points into it.
 * Not for the record path. Returns 0, or -1 with err.code EX_DATAERR, EX_CONFIG (no such key id) or EX_OSERR. */
int seal_open(const struct keys *keys, const struct seal_origin *origin, const uint8_t *sealed, size_t len,
              struct seal_parts *parts, uint8_t **buffer, struct err *err);

#endif

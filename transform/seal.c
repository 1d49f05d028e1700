#include "transform/seal.h"

#include <limits.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "transform/bytes.h"

static const uint8_t magic[4] = {0x89, 'M', 'L', 'S'};
enum { SEAL_LZ4 = 1, LZ4_RATIO_MAX = 255 };
enum { AT_VERSION = 4, AT_FLAGS, AT_KEY_ID = 8, AT_LENGTH = 12, AT_PACKED = SEAL_HEADER_BYTES + XAES_NONCE_BYTES };
enum { ORIGIN_BYTES_MAX = 16 + TOPIC_BYTES + 4 + 8 };
static const uint32_t part_null = UINT32_MAX;

static size_t origin_write(uint8_t out[ORIGIN_BYTES_MAX], const struct seal_origin *o) {
    size_t n = strlen(o->topic);
    CHECK(n < TOPIC_BYTES);
    memcpy(out, o->id, 16);
    memcpy(out + 16, o->topic, n);
    put_u32(out + 16 + n, (uint32_t)o->partition);
    put_u64(out + 20 + n, (uint64_t)o->offset);
    return 28 + n;
}

static uint8_t *part_put(uint8_t *to, const uint8_t *part, size_t len) {
    if (part != NULL && len > 0) memcpy(to, part, len);
    return to + len;
}

/* Everything before the parts' bytes; the nonce is the sealer's next. */
static void head_write(struct xaes_sealer *sealer, uint32_t key_id, const struct seal_parts *parts, uint8_t *out) {
    size_t packed = seal_bytes(parts) - AT_PACKED - XAES_TAG_BYTES;
    CHECK(packed <= INT_MAX && (parts->key != NULL || parts->key_bytes == 0) &&
          (parts->value != NULL || parts->value_bytes == 0));
    memset(out, 0, SEAL_HEADER_BYTES);
    memcpy(out, magic, sizeof magic);
    out[AT_VERSION] = SEAL_VERSION;
    put_u32(out + AT_KEY_ID, key_id);
    put_u32(out + AT_LENGTH, (uint32_t)packed);
    xaes_nonce_next(sealer, out + SEAL_HEADER_BYTES);
    uint8_t *body = out + AT_PACKED;
    put_u32(body, parts->key == NULL ? part_null : (uint32_t)parts->key_bytes);
    put_u32(body + 4, parts->value == NULL ? part_null : (uint32_t)parts->value_bytes);
    put_u32(body + 8, (uint32_t)parts->headers_bytes);
}

/* Encrypts `packed` bytes where they stand, and puts the tag behind them. */
static void close_seal(struct xaes_sealer *sealer, const struct seal_origin *origin, size_t packed, uint8_t *out) {
    uint8_t bound_to[ORIGIN_BYTES_MAX], *body = out + AT_PACKED;
    struct xaes_data data = {{out, bound_to}, {AT_PACKED, origin_write(bound_to, origin)}};
    xaes_seal(sealer, out + SEAL_HEADER_BYTES, &data, body, packed, body, body + packed);
}

void seal_write(struct xaes_sealer *sealer, uint32_t key_id, const struct seal_origin *origin,
                const struct seal_parts *parts, uint8_t *out) {
    uint8_t *to = out + AT_PACKED + SEAL_PACKED_BYTES;
    head_write(sealer, key_id, parts, out);
    to = part_put(to, parts->key, parts->key_bytes);
    to = part_put(to, parts->value, parts->value_bytes);
    to = part_put(to, parts->headers, parts->headers_bytes);
    close_seal(sealer, origin, (size_t)(to - out) - AT_PACKED, out);
}

size_t seal_compress(struct value_encoder *encoder, const struct seal_origin *origin, const struct seal_parts *parts,
                     uint8_t *out) {
    size_t len = parts->key_bytes + parts->value_bytes + parts->headers_bytes;
    const uint8_t *bytes = parts->headers - parts->value_bytes - parts->key_bytes;
    CHECK((parts->key_bytes == 0 || parts->key == bytes) &&
          (parts->value_bytes == 0 || parts->value == bytes + parts->key_bytes));
    uint8_t *to = out + AT_PACKED + SEAL_PACKED_BYTES;
    head_write(encoder->sealer, encoder->key_id, parts, out);
    size_t smaller = value_compress(encoder, bytes, len, to);
    if (smaller > 0)
        out[AT_FLAGS] = SEAL_LZ4;
    else
        part_put(to, bytes, len);
    size_t packed = SEAL_PACKED_BYTES + (smaller > 0 ? smaller : len);
    close_seal(encoder->sealer, origin, packed, out);
    return AT_PACKED + packed + XAES_TAG_BYTES;
}

/* Takes a part of the length at `head` from *at. Returns false when it reaches beyond end. */
static bool part_take(const uint8_t *head, const uint8_t **at, const uint8_t *end, const uint8_t **part, size_t *len) {
    uint32_t n = get_u32(head);
    *part = n == part_null ? NULL : *at;
    *len = n == part_null ? 0 : n;
    if (*len > (size_t)(end - *at)) return false;
    *at += *len;
    return true;
}

static int unpack(const uint8_t *body, size_t packed, struct seal_parts *p) {
    const uint8_t *at = body + SEAL_PACKED_BYTES, *end = body + packed;
    bool ok = part_take(body, &at, end, &p->key, &p->key_bytes) &&
              part_take(body + 4, &at, end, &p->value, &p->value_bytes) &&
              part_take(body + 8, &at, end, &p->headers, &p->headers_bytes);
    return ok && at == end && p->headers != NULL ? 0 : -1;
}

/* Whether the head is one of ours and its length can be true: nothing is allocated on its word alone. */
static bool head_valid(const uint8_t *sealed, size_t len) {
    if (len < SEAL_OVERHEAD || memcmp(sealed, magic, sizeof magic) != 0 || sealed[AT_VERSION] != SEAL_VERSION ||
        (sealed[AT_FLAGS] & ~SEAL_LZ4) != 0)
        return false;
    size_t stored = len - SEAL_OVERHEAD, original = get_u32(sealed + AT_LENGTH);
    if (original < SEAL_PACKED_BYTES) return false;
    original -= SEAL_PACKED_BYTES;
    if ((sealed[AT_FLAGS] & SEAL_LZ4) == 0) return original == stored;
    return original > stored && original <= LZ4_MAX_INPUT_SIZE && original / LZ4_RATIO_MAX <= stored;
}

/* The packed parts of body[0, packed) as they were before compression, in place of it. 0, or -1. */
static int inflate(uint8_t **body, size_t packed, size_t original) {
    uint8_t *out = malloc(original);
    if (out == NULL) return -1;
    memcpy(out, *body, SEAL_PACKED_BYTES);
    int want = (int)(original - SEAL_PACKED_BYTES);
    int n = LZ4_decompress_safe((const char *)*body + SEAL_PACKED_BYTES, (char *)out + SEAL_PACKED_BYTES,
                                (int)(packed - SEAL_PACKED_BYTES), want);
    free(*body);
    *body = out;
    return n == want ? 0 : -1;
}

int seal_open(const struct keys *keys, const struct seal_origin *origin, const uint8_t *sealed, size_t len,
              struct seal_parts *parts, uint8_t **buffer, struct err *err) {
    if (!head_valid(sealed, len)) return err_set(err, EX_DATAERR, "not a sealed record, or of another version");
    uint32_t id = get_u32(sealed + AT_KEY_ID);
    const struct key *key = keys == NULL ? NULL : keys_find(keys, id);
    if (key == NULL) return err_set(err, EX_CONFIG, "sealed with key %u, which is not in the key file", id);
    size_t packed = len - AT_PACKED - XAES_TAG_BYTES, original = get_u32(sealed + AT_LENGTH);
    uint8_t *body = malloc(packed), bound_to[ORIGIN_BYTES_MAX];
    if (body == NULL) return err_set(err, EX_OSERR, "no memory for a sealed record of %zu bytes", packed);
    struct xaes_data data = {{sealed, bound_to}, {AT_PACKED, origin_write(bound_to, origin)}};
    if (xaes_open(key->bytes, sealed + SEAL_HEADER_BYTES, &data, sealed + AT_PACKED, packed, body,
                  sealed + AT_PACKED + packed) != 0 ||
        ((sealed[AT_FLAGS] & SEAL_LZ4) != 0 && inflate(&body, packed, original) != 0) ||
        unpack(body, original, parts) != 0) {
        free(body);
        return err_set(err, EX_DATAERR, "does not decrypt with key %u: altered, or of another record", id);
    }
    *buffer = body;
    return 0;
}

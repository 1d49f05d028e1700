#include "transform/seal.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "transform/bytes.h"

static const uint8_t magic[4] = {0x89, 'M', 'L', 'S'};
enum { AT_VERSION = 4, AT_KEY_ID = 8, AT_LENGTH = 12, AT_PACKED = SEAL_HEADER_BYTES + XAES_NONCE_BYTES };
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

void seal_write(struct xaes_sealer *sealer, uint32_t key_id, const struct seal_origin *origin,
                const struct seal_parts *parts, uint8_t *out) {
    size_t packed = seal_bytes(parts) - AT_PACKED - XAES_TAG_BYTES;
    CHECK(packed <= INT_MAX && (parts->key != NULL || parts->key_bytes == 0) &&
          (parts->value != NULL || parts->value_bytes == 0));
    memset(out, 0, SEAL_HEADER_BYTES);
    memcpy(out, magic, sizeof magic);
    out[AT_VERSION] = SEAL_VERSION;
    put_u32(out + AT_KEY_ID, key_id);
    put_u32(out + AT_LENGTH, (uint32_t)packed);
    xaes_nonce_next(sealer, out + SEAL_HEADER_BYTES);
    uint8_t *body = out + AT_PACKED, *to = body + SEAL_PACKED_BYTES;
    put_u32(body, parts->key == NULL ? part_null : (uint32_t)parts->key_bytes);
    put_u32(body + 4, parts->value == NULL ? part_null : (uint32_t)parts->value_bytes);
    put_u32(body + 8, (uint32_t)parts->headers_bytes);
    to = part_put(to, parts->key, parts->key_bytes);
    to = part_put(to, parts->value, parts->value_bytes);
    part_put(to, parts->headers, parts->headers_bytes);
    uint8_t bound_to[ORIGIN_BYTES_MAX];
    struct xaes_data data = {{out, bound_to}, {AT_PACKED, origin_write(bound_to, origin)}};
    xaes_seal(sealer, out + SEAL_HEADER_BYTES, &data, body, packed, body, body + packed);
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

int seal_open(const struct keys *keys, const struct seal_origin *origin, const uint8_t *sealed, size_t len,
              struct seal_parts *parts, uint8_t **buffer, struct err *err) {
    if (len < SEAL_OVERHEAD || memcmp(sealed, magic, sizeof magic) != 0 || sealed[AT_VERSION] != SEAL_VERSION ||
        get_u32(sealed + AT_LENGTH) != len - AT_PACKED - XAES_TAG_BYTES)
        return err_set(err, EX_DATAERR, "not a sealed record, or of another version");
    uint32_t id = get_u32(sealed + AT_KEY_ID);
    const struct key *key = keys == NULL ? NULL : keys_find(keys, id);
    if (key == NULL) return err_set(err, EX_CONFIG, "sealed with key %u, which is not in the key file", id);
    size_t packed = len - AT_PACKED - XAES_TAG_BYTES;
    uint8_t *body = malloc(packed), bound_to[ORIGIN_BYTES_MAX];
    if (body == NULL) return err_set(err, EX_OSERR, "no memory for a sealed record of %zu bytes", packed);
    struct xaes_data data = {{sealed, bound_to}, {AT_PACKED, origin_write(bound_to, origin)}};
    if (xaes_open(key->bytes, sealed + SEAL_HEADER_BYTES, &data, sealed + AT_PACKED, packed, body,
                  sealed + AT_PACKED + packed) != 0 ||
        unpack(body, packed, parts) != 0) {
        free(body);
        return err_set(err, EX_DATAERR, "does not decrypt with key %u: altered, or of another record", id);
    }
    *buffer = body;
    return 0;
}

#include "transform/value.h"

#include <limits.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "transform/bytes.h"

static const uint8_t magic[4] = {0x89, 'M', 'L', 'R'};
enum { AT_VERSION = 4, AT_FLAGS = 5, AT_KEY_ID = 8, AT_ORIGINAL = 12, LZ4_RATIO_MAX = 255 };
static_assert(VALUE_ORIGINAL_BYTES_MAX <= LZ4_MAX_INPUT_SIZE, "every record can be compressed");

int value_encoder_init(struct value_encoder *e, struct xaes_sealer *sealer, uint32_t key_id, struct err *err) {
    *e = (struct value_encoder){.sealer = sealer, .key_id = sealer != NULL ? key_id : 0};
    e->lz4 = LZ4_createStream();
    return e->lz4 != NULL ? 0 : err_set(err, EX_OSERR, "no memory for LZ4");
}

void value_encoder_free(struct value_encoder *e) {
    LZ4_freeStream(e->lz4);
    *e = (struct value_encoder){0};
}

/* The table of matches (16 KiB) is as large as thirty records, so it is not cleared for each: a fast reset makes what
 * it has out of date. After a failure the stream is to be made anew (lz4.h). */
size_t value_compress(struct value_encoder *e, const uint8_t *in, size_t len, uint8_t *out) {
    LZ4_stream_t *s = e->lz4;
    if (len < 2) return 0;
    LZ4_resetStream_fast(s);
    int n = LZ4_compress_fast_continue(s, (const char *)in, (char *)out, (int)len, (int)len - 1, 1);
    if (n <= 0) LZ4_initStream(s, sizeof *s);
    return n > 0 ? (size_t)n : 0;
}

size_t value_encode(struct value_encoder *e, unsigned flags, const void *redis_key, size_t redis_key_bytes,
                    const uint8_t *value, size_t len, uint8_t *out) {
    bool encrypt = (flags & VALUE_ENCRYPTED) != 0;
    CHECK(len <= VALUE_ORIGINAL_BYTES_MAX && (!encrypt || e->sealer != NULL));
    size_t header = VALUE_HEADER_BYTES + (encrypt ? XAES_NONCE_BYTES : 0);
    uint8_t *payload = out + header;
    size_t packed = (flags & VALUE_LZ4) != 0 ? value_compress(e, value, len, payload) : 0;
    size_t stored = packed > 0 ? packed : len;
    memset(out, 0, VALUE_HEADER_BYTES);
    memcpy(out, magic, sizeof magic);
    out[AT_VERSION] = VALUE_VERSION;
    out[AT_FLAGS] = (uint8_t)((packed > 0 ? VALUE_LZ4 : 0) | (encrypt ? VALUE_ENCRYPTED : 0));
    put_u32(out + AT_KEY_ID, encrypt ? e->key_id : 0);
    put_u32(out + AT_ORIGINAL, (uint32_t)len);
    if (!encrypt) {
        if (packed == 0) memcpy(payload, value, len);
        return header + stored;
    }
    xaes_nonce_next(e->sealer, out + VALUE_HEADER_BYTES);
    struct xaes_data data = {{out, redis_key}, {header, redis_key_bytes}};
    const uint8_t *in = packed > 0 ? payload : value; /* compressed in place, encrypted in place */
    xaes_seal(e->sealer, out + VALUE_HEADER_BYTES, &data, in, stored, payload, payload + stored);
    return header + stored + XAES_TAG_BYTES;
}

bool value_is_encoded(const void *stored, size_t len) {
    return len >= sizeof magic && memcmp(stored, magic, sizeof magic) == 0;
}

struct parsed {
    bool lz4, encrypted;
    uint32_t key_id;
    size_t original, header, payload;
};

static int parse(const uint8_t *stored, size_t len, struct parsed *p, struct err *err) {
    if (len < VALUE_HEADER_BYTES) return err_set(err, EX_DATAERR, "the value is cut short within its header");
    if (stored[AT_VERSION] != VALUE_VERSION)
        return err_set(err, EX_DATAERR, "the value has format version %u; this build reads version %d",
                       stored[AT_VERSION], VALUE_VERSION);
    unsigned flags = stored[AT_FLAGS];
    if ((flags & ~(unsigned)(VALUE_LZ4 | VALUE_ENCRYPTED)) != 0 || stored[6] != 0 || stored[7] != 0)
        return err_set(err, EX_DATAERR, "the value's header is damaged: unknown flags");
    p->lz4 = (flags & VALUE_LZ4) != 0;
    p->encrypted = (flags & VALUE_ENCRYPTED) != 0;
    p->key_id = get_u32(stored + AT_KEY_ID);
    p->original = get_u32(stored + AT_ORIGINAL);
    p->header = VALUE_HEADER_BYTES + (p->encrypted ? XAES_NONCE_BYTES : 0);
    size_t around = p->header + (p->encrypted ? XAES_TAG_BYTES : 0);
    if (len < around) return err_set(err, EX_DATAERR, "the value is cut short");
    p->payload = len - around;
    if (p->encrypted != (p->key_id != 0)) return err_set(err, EX_DATAERR, "the value's header is damaged: key id");
    bool plausible =
        p->lz4 ? p->original > p->payload && p->original <= p->payload * LZ4_RATIO_MAX : p->original == p->payload;
    if (!plausible || p->original > VALUE_ORIGINAL_BYTES_MAX || p->payload > VALUE_ORIGINAL_BYTES_MAX)
        return err_set(err, EX_DATAERR, "the value's header is damaged: original length %zu for %zu bytes", p->original,
                       p->payload);
    return 0;
}

/* The payload as it was before encryption, in memory of its own. NULL with err. */
static uint8_t *payload_get(const struct parsed *p, const struct keys *keys, const void *redis_key,
                            size_t redis_key_bytes, const uint8_t *stored, struct err *err) {
    const struct key *key = NULL;
    if (p->encrypted) {
        if (keys == NULL) {
            err_set(err, EX_CONFIG, "the value is encrypted with key %u and no key file is configured", p->key_id);
            return NULL;
        }
        key = keys_find(keys, p->key_id);
        if (key == NULL) {
            err_set(err, EX_CONFIG, "the value is encrypted with key %u, which is not in the key file", p->key_id);
            return NULL;
        }
    }
    uint8_t *out = malloc(p->payload + 1);
    if (out == NULL) {
        err_set(err, EX_OSERR, "no memory for a value of %zu bytes", p->payload);
        return NULL;
    }
    const uint8_t *payload = stored + p->header;
    if (key == NULL) {
        memcpy(out, payload, p->payload);
        return out;
    }
    struct xaes_data data = {{stored, redis_key}, {p->header, redis_key_bytes}};
    if (xaes_open(key->bytes, stored + VALUE_HEADER_BYTES, &data, payload, p->payload, out, payload + p->payload) == 0)
        return out;
    free(out);
    err_set(err, EX_DATAERR,
            "the value does not decrypt with key %u: it was altered, or stored under another Redis key, "
            "or the key file holds another key under this id",
            p->key_id);
    return NULL;
}

static uint8_t *decompress(const struct parsed *p, uint8_t *payload, struct err *err) {
    uint8_t *out = malloc(p->original);
    int n =
        out == NULL ? -1 : LZ4_decompress_safe((const char *)payload, (char *)out, (int)p->payload, (int)p->original);
    explicit_bzero(payload, p->payload);
    free(payload);
    if (n >= 0 && (size_t)n == p->original) return out;
    err_set(err, out == NULL ? EX_OSERR : EX_DATAERR,
            out == NULL ? "no memory for a value of %zu bytes"
                        : "the value is damaged: it does not decompress to %zu bytes",
            p->original);
    free(out);
    return NULL;
}

int value_decode(const struct keys *keys, const void *redis_key, size_t redis_key_bytes, const uint8_t *stored,
                 size_t len, uint8_t **out, size_t *out_len, struct err *err) {
    struct parsed p = {.payload = len, .original = len}; /* a plain value is all payload */
    if (value_is_encoded(stored, len) && parse(stored, len, &p, err) != 0) return -1;
    uint8_t *bytes = payload_get(&p, keys, redis_key, redis_key_bytes, stored, err);
    if (bytes != NULL && p.lz4) bytes = decompress(&p, bytes, err);
    if (bytes == NULL) return -1;
    *out = bytes;
    *out_len = p.original;
    return 0;
}

/* The low-level SHA-256 functions: a keyed state is copied per message, which EVP does with two allocations. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "base/digest.h"

#include <assert.h>
#include <endian.h>
#include <string.h>

#define XXH_INLINE_ALL /* the whole of it is in the header: the size of its state is not ABI */
#include <xxhash.h>

#include "base/hex.h"
#include "base/sha256_pair.h"

enum { BLOCK_BYTES = SHA256_BLOCK_BYTES };

void digest_key_init(struct digest_key *k, const uint8_t key[DIGEST_KEY_BYTES]) {
    uint8_t inner[BLOCK_BYTES], outer[BLOCK_BYTES];
    memset(inner, 0x36, sizeof inner);
    memset(outer, 0x5c, sizeof outer);
    for (size_t i = 0; i < DIGEST_KEY_BYTES; i++) {
        inner[i] ^= key[i];
        outer[i] ^= key[i];
    }
    k->paired = sha256_pair_there();
    SHA256_Init(&k->inner);
    SHA256_Update(&k->inner, inner, sizeof inner);
    SHA256_Init(&k->outer);
    SHA256_Update(&k->outer, outer, sizeof outer);
    explicit_bzero(inner, sizeof inner);
    explicit_bzero(outer, sizeof outer);
}

void digest_key_clear(struct digest_key *k) { explicit_bzero(k, sizeof *k); }

static void hmac_finish(const struct digest_key *k, SHA256_CTX *inner, uint8_t out[DIGEST_BYTES]) {
    uint8_t hash[SHA256_DIGEST_LENGTH];
    SHA256_CTX outer = k->outer;
    SHA256_Final(hash, inner);
    SHA256_Update(&outer, hash, sizeof hash);
    SHA256_Final(hash, &outer);
    memcpy(out, hash, DIGEST_BYTES);
}

static void xxh3_finish(XXH128_hash_t hash, uint8_t out[DIGEST_BYTES]) {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, hash);
    memcpy(out, canonical.digest, DIGEST_BYTES);
}

void digest_of(const struct digest_key *k, enum digest_algorithm algorithm, const void *data, size_t len,
               uint8_t out[DIGEST_BYTES]) {
    if (algorithm == DIGEST_HMAC) {
        SHA256_CTX inner = k->inner;
        SHA256_Update(&inner, data, len);
        hmac_finish(k, &inner, out);
    } else if (algorithm == DIGEST_XXH3) {
        xxh3_finish(XXH3_128bits(data, len), out);
    } else {
        memset(out, 0, DIGEST_BYTES);
    }
}

/* -- two at a time ----------------------------------------------------------------------------- */

static_assert(sizeof(SHA_LONG) == sizeof(uint32_t), "OpenSSL's state of SHA-256 is ours");

enum phase { PHASE_DATA, PHASE_TAIL, PHASE_OUTER, PHASE_IDLE };

struct side { /* one of the two messages under way */
    const struct digest_job *job;
    enum phase phase;
    const uint8_t *at; /* blocks to be hashed next */
    size_t blocks;
    uint8_t buffer[2 * BLOCK_BYTES]; /* the end of a message with its padding */
};

static void put_be32(uint8_t *at, uint32_t value) {
    value = htobe32(value);
    memcpy(at, &value, sizeof value);
}

/* Padding behind `len` bytes in the buffer, of a message of `total` bytes. */
static void side_pad(struct side *s, size_t len, uint64_t total) {
    s->blocks = len + 9 <= BLOCK_BYTES ? 1 : 2;
    memset(s->buffer + len, 0, s->blocks * BLOCK_BYTES - len);
    s->buffer[len] = 0x80;
    uint8_t *bits = s->buffer + s->blocks * BLOCK_BYTES - 8;
    put_be32(bits, (uint32_t)(total >> 29));
    put_be32(bits + 4, (uint32_t)(total << 3));
    s->at = s->buffer;
}

/* What comes after the blocks that were hashed; false when the digest is written. */
static bool side_next(struct side *s, const struct digest_key *k, uint32_t state[SHA256_WORDS]) {
    const struct digest_job *job = s->job;
    size_t whole = job->len / BLOCK_BYTES, rest = job->len % BLOCK_BYTES;
    if (s->phase == PHASE_DATA) {
        if (rest > 0) memcpy(s->buffer, (const uint8_t *)job->data + whole * BLOCK_BYTES, rest);
        side_pad(s, rest, BLOCK_BYTES + job->len);
        s->phase = PHASE_TAIL;
        return true;
    }
    uint8_t *to = s->phase == PHASE_TAIL ? s->buffer : job->out;
    for (int i = 0; i < (s->phase == PHASE_TAIL ? SHA256_WORDS : DIGEST_BYTES / 4); i++)
        put_be32(to + 4 * i, state[i]);
    if (s->phase == PHASE_OUTER) return false;
    memcpy(state, k->outer.h, sizeof k->outer.h);
    side_pad(s, SHA256_DIGEST_LENGTH, BLOCK_BYTES + SHA256_DIGEST_LENGTH);
    s->phase = PHASE_OUTER;
    return true;
}

/* Brings a side whose blocks are all hashed to its next ones, of the next message when there is one. An idle side
 * hashes along for nothing: that costs no time. */
static void side_advance(struct side *s, const struct digest_key *k, uint32_t state[SHA256_WORDS],
                         const struct digest_job **next, const struct digest_job *end) {
    while (s->blocks == 0) {
        if (s->phase != PHASE_IDLE && side_next(s, k, state)) continue;
        if (*next == end) {
            *s = (struct side){.phase = PHASE_IDLE};
            return;
        }
        s->job = (*next)++;
        s->phase = PHASE_DATA;
        s->at = s->job->data;
        s->blocks = s->job->len / BLOCK_BYTES;
        memcpy(state, k->inner.h, sizeof k->inner.h);
    }
}

static void many_paired(const struct digest_key *k, const struct digest_job *job, size_t n) {
    uint32_t state[2][SHA256_WORDS] = {{0}};
    struct side side[2] = {{.phase = PHASE_IDLE}, {.phase = PHASE_IDLE}};
    const struct digest_job *next = job, *end = job + n;
    for (;;) {
        for (int i = 0; i < 2; i++) side_advance(&side[i], k, state[i], &next, end);
        bool idle[2] = {side[0].phase == PHASE_IDLE, side[1].phase == PHASE_IDLE};
        if (idle[0] && idle[1]) return;
        size_t blocks = idle[0]                           ? side[1].blocks
                        : idle[1]                         ? side[0].blocks
                        : side[0].blocks < side[1].blocks ? side[0].blocks
                                                          : side[1].blocks;
        const uint8_t *data[2] = {idle[0] ? side[1].at : side[0].at, idle[1] ? side[0].at : side[1].at};
        sha256_pair(state, data, blocks);
        for (int i = 0; i < 2; i++) {
            if (idle[i]) continue;
            side[i].at += blocks * BLOCK_BYTES;
            side[i].blocks -= blocks;
        }
    }
}

void digest_of_many(const struct digest_key *k, const struct digest_job *job, size_t n) {
    if (n > 1 && k->paired)
        many_paired(k, job, n);
    else
        for (size_t i = 0; i < n; i++) digest_of(k, DIGEST_HMAC, job[i].data, job[i].len, job[i].out);
}

/* -- lists of fields --------------------------------------------------------------------------- */

static bool same_name(const struct digest_field *a, const struct digest_field *b) {
    return a->name_bytes == b->name_bytes && memcmp(a->name, b->name, a->name_bytes) == 0;
}

static bool before(const struct digest_field *a, const struct digest_field *b) {
    uint32_t shorter = a->name_bytes < b->name_bytes ? a->name_bytes : b->name_bytes;
    int order = memcmp(a->name, b->name, shorter);
    if (order != 0) return order < 0;
    if (a->name_bytes != b->name_bytes) return a->name_bytes < b->name_bytes;
    return (uintptr_t)a->name < (uintptr_t)b->name;
}

/* Shell's sort: in place, where qsort takes memory for more than a few fields; most lists are short, or sorted. */
static void sort(struct digest_field *field, size_t n) {
    size_t gap = 1;
    while (gap < n / 3) gap = 3 * gap + 1;
    for (; gap > 0; gap /= 3)
        for (size_t i = gap; i < n; i++) {
            struct digest_field f = field[i];
            size_t at = i;
            for (; at >= gap && before(&f, &field[at - gap]); at -= gap) field[at] = field[at - gap];
            field[at] = f;
        }
}

static void lengths_write(uint8_t out[8], const struct digest_field *f) {
    for (int i = 0; i < 4; i++) {
        out[i] = (uint8_t)(f->name_bytes >> (8 * i));
        out[4 + i] = (uint8_t)(f->value_bytes >> (8 * i));
    }
}

void digest_of_fields(const struct digest_key *k, enum digest_algorithm algorithm, struct digest_field *field, size_t n,
                      uint8_t out[DIGEST_BYTES]) {
    SHA256_CTX inner;
    XXH3_state_t xxh3;
    memset(out, 0, DIGEST_BYTES);
    if (algorithm == DIGEST_NONE) return;
    if (algorithm == DIGEST_HMAC)
        inner = k->inner;
    else
        XXH3_128bits_reset(&xxh3);
    sort(field, n);
    for (size_t i = 0; i < n; i++) {
        if (i + 1 < n && same_name(&field[i], &field[i + 1])) continue; /* the next one counts */
        uint8_t lengths[8];
        lengths_write(lengths, &field[i]);
        const struct {
            const void *bytes;
            size_t len;
        } parts[] = {
            {lengths, sizeof lengths}, {field[i].name, field[i].name_bytes}, {field[i].value, field[i].value_bytes}};
        for (size_t p = 0; p < sizeof parts / sizeof parts[0]; p++) {
            if (algorithm == DIGEST_HMAC)
                SHA256_Update(&inner, parts[p].bytes, parts[p].len);
            else
                XXH3_128bits_update(&xxh3, parts[p].bytes, parts[p].len);
        }
    }
    if (algorithm == DIGEST_HMAC)
        hmac_finish(k, &inner, out);
    else
        xxh3_finish(XXH3_128bits_digest(&xxh3), out);
}

/* -- sums and text ----------------------------------------------------------------------------- */

void digest_sum_add(uint8_t sum[DIGEST_BYTES], const uint8_t digest[DIGEST_BYTES]) {
    unsigned carry = 0;
    for (int i = DIGEST_BYTES - 1; i >= 0; i--) {
        carry += (unsigned)sum[i] + digest[i];
        sum[i] = (uint8_t)carry;
        carry >>= 8;
    }
}

void digest_hex(const uint8_t digest[DIGEST_BYTES], char out[DIGEST_HEX_BYTES]) {
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < DIGEST_BYTES; i++) {
        out[2 * i] = digits[digest[i] >> 4];
        out[2 * i + 1] = digits[digest[i] & 15];
    }
    out[DIGEST_HEX_BYTES - 1] = '\0';
}

int digest_parse(uint8_t out[DIGEST_BYTES], const char *text, size_t len) {
    if (len != DIGEST_HEX_BYTES - 1) return -1;
    for (int i = 0; i < DIGEST_BYTES; i++) {
        int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
        if (high < 0 || low < 0) return -1;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return 0;
}

enum digest_algorithm digest_header_parse(uint8_t out[DIGEST_BYTES], const void *text, size_t len) {
    enum { WORD_BYTES = 5 };
    const char *s = text;
    if (len < WORD_BYTES || digest_parse(out, s + WORD_BYTES, len - WORD_BYTES) != 0) return DIGEST_NONE;
    if (memcmp(s, "hmac:", WORD_BYTES) == 0) return DIGEST_HMAC;
    return memcmp(s, "xxh3:", WORD_BYTES) == 0 ? DIGEST_XXH3 : DIGEST_NONE;
}

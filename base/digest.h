/* Digests of keys and values, as the audit log, producers and `millrace verify` compare them: 128 bits each.
 *
 * HMAC-SHA-256 (RFC 2104, RFC 6234) cut to its first 16 bytes, under a key of its own: card numbers are too few for a
 * hash that anybody can compute. XXH3-128 (canonical form) where a topic only asks for a checksum. */
#ifndef MILLRACE_BASE_DIGEST_H
#define MILLRACE_BASE_DIGEST_H

#include <openssl/sha.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { DIGEST_BYTES = 16, DIGEST_KEY_BYTES = 32, DIGEST_HEX_BYTES = 33 };

enum digest_algorithm { DIGEST_NONE, DIGEST_HMAC, DIGEST_XXH3, DIGEST_ALGORITHM_COUNT };

/* The key, as the states of SHA-256 behind its inner and outer padding: hashing a message costs no more than its blocks
 * and one. Holds a secret: wipe it (digest_key_clear). */
struct digest_key {
    SHA256_CTX inner, outer;
    bool paired; /* the processor can do two messages at a time */
};

void digest_key_init(struct digest_key *k, const uint8_t key[DIGEST_KEY_BYTES]);
void digest_key_clear(struct digest_key *k);

/* digest_of writes the digest of data[0, len); k may be NULL unless algorithm is DIGEST_HMAC. DIGEST_NONE: zeros.
 * Any thread; does not allocate. */
void digest_of(const struct digest_key *k, enum digest_algorithm algorithm, const void *data, size_t len,
               uint8_t out[DIGEST_BYTES]);

struct digest_job {
    const void *data;
    size_t len;
    uint8_t *out; /* DIGEST_BYTES */
};
/* digest_of_many is digest_of with DIGEST_HMAC for each of job[0, n), about twice as fast where the processor helps.
 * Any thread; does not allocate. */
void digest_of_many(const struct digest_key *k, const struct digest_job *job, size_t n);

/* A list of fields (a Redis hash) has the digest of its canonical form: fields in ascending order of their names'
 * bytes, the last of equal names, each as u32 name length, u32 value length (little-endian), name, value. */
struct digest_field {
    const uint8_t *name, *value;
    uint32_t name_bytes, value_bytes;
};
/* digest_of_fields sorts field[0, n) in place; of equal names the one at the highest address counts, which is the last
 * of a list that stands in one piece. Any thread, with a list of its own; does not allocate. */
void digest_of_fields(const struct digest_key *k, enum digest_algorithm algorithm, struct digest_field *field, size_t n,
                      uint8_t out[DIGEST_BYTES]);

/* Sums of digests, modulo 2^128, as big-endian numbers: the same whatever the order. sum += digest. */
void digest_sum_add(uint8_t sum[DIGEST_BYTES], const uint8_t digest[DIGEST_BYTES]);

void digest_hex(const uint8_t digest[DIGEST_BYTES], char out[DIGEST_HEX_BYTES]);
/* digest_parse reads 32 hexadecimal digits of either case. 0, or -1. */
int digest_parse(uint8_t out[DIGEST_BYTES], const char *text, size_t len);

/* digest_header_parse reads the value of a millrace-digest header: "hmac:" or "xxh3:" and 32 hexadecimal digits.
 * Returns the algorithm, DIGEST_NONE when it is not one. */
enum digest_algorithm digest_header_parse(uint8_t out[DIGEST_BYTES], const void *text, size_t len);

#endif

/* Key file: the keys that encrypt values, each with an id.
 *
 * Text, made by `millrace keygen`, one thing a line:
 *
 *     # comment
 *     key <id> <base64 of 32 bytes> <created, YYYY-MM-DD>
 *     current <id>
 *
 * Ids are in [1, 2^32), each once; exactly one line names the current key, which encrypts; the others still decrypt. */
#ifndef MILLRACE_BASE_KEYS_H
#define MILLRACE_BASE_KEYS_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/limits.h"

enum { KEY_BYTES = 32, KEY_BASE64_CHARS = 44, KEY_DATE_CHARS = 10, KEYS_FILE_BYTES_MAX = 32768 };

struct key {
    uint32_t id; /* [1, 2^32) */
    char created[KEY_DATE_CHARS + 1];
    uint8_t bytes[KEY_BYTES];
};

struct keys {         /* in memory that is locked, left out of core dumps and not inherited by a fork */
    uint32_t count;   /* [1, CRYPTO_KEYS_MAX] */
    uint32_t current; /* index in key[] */
    struct key key[CRYPTO_KEYS_MAX];
};

/* keys_load reads the key file at path. Anyone; not on the record path.
 * Returns the keys, to be given to keys_free, or NULL with err.code EX_NOINPUT (no such file, or unreadable), EX_NOPERM
 * (its mode lets others read or change it), EX_CONFIG ("FILE:LINE: what is wrong"), EX_OSERR (memory cannot be locked).
 * No message contains key bytes. */
struct keys *keys_load(const char *path, struct err *err);

/* keys_find returns the key with this id, or NULL. */
const struct key *keys_find(const struct keys *keys, uint32_t id);

static inline const struct key *keys_current(const struct keys *keys) { return &keys->key[keys->current]; }

/* keys_free wipes and unmaps; keys may be NULL. */
void keys_free(struct keys *keys);

/* keys_line writes one `key` line with its newline and a NUL. Returns its length. The caller wipes out. */
enum { KEYS_LINE_BYTES = 80 };
size_t keys_line(char out[KEYS_LINE_BYTES], const struct key *key);

#endif

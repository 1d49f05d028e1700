#include "base/keys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

static const char base64_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* -- memory that holds secrets ----------------------------------------------------------------- */

static void *secret_map(size_t bytes, struct err *err) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        err_set(err, EX_OSERR, "no memory for keys: %s", strerror(errno));
        return NULL;
    }
    if (mlock(p, bytes) != 0) {
        bool limit = errno == ENOMEM || errno == EPERM;
        err_set(err, limit ? EX_NOPERM : EX_OSERR,
                "keys cannot be locked in memory: %s; raise the limit of locked memory (LimitMEMLOCK=)",
                strerror(errno));
        munmap(p, bytes);
        return NULL;
    }
    madvise(p, bytes, MADV_DONTDUMP);
    madvise(p, bytes, MADV_WIPEONFORK);
    return p;
}

static void secret_unmap(void *p, size_t bytes) {
    if (p == NULL) return;
    explicit_bzero(p, bytes);
    munmap(p, bytes);
}

/* -- base64 of exactly 32 bytes ---------------------------------------------------------------- */

static int base64_digit(char c) {
    const char *at = c == '\0' ? NULL : strchr(base64_digits, c);
    return at == NULL ? -1 : (int)(at - base64_digits);
}

static bool key_decode(uint8_t out[KEY_BYTES], const char *text, size_t len) {
    if (len != KEY_BASE64_CHARS || text[KEY_BASE64_CHARS - 1] != '=') return false;
    uint32_t bits = 0;
    size_t n = 0;
    for (size_t i = 0; i < KEY_BASE64_CHARS - 1; i++) {
        int digit = base64_digit(text[i]);
        if (digit < 0) return false;
        bits = bits << 6 | (uint32_t)digit;
        if (i % 4 == 3) {
            out[n++] = (uint8_t)(bits >> 16);
            out[n++] = (uint8_t)(bits >> 8);
            out[n++] = (uint8_t)bits;
            bits = 0;
        }
    }
    out[n++] = (uint8_t)(bits >> 10); /* the last three digits: 18 bits, of which 16 count and 2 are zero */
    out[n++] = (uint8_t)(bits >> 2);
    return (bits & 3) == 0;
}

static void key_encode(char out[KEY_BASE64_CHARS + 1], const uint8_t bytes[KEY_BYTES]) {
    size_t n = 0;
    for (size_t i = 0; i < KEY_BYTES; i += 3) {
        uint32_t bits = (uint32_t)bytes[i] << 16 | (uint32_t)bytes[i + 1] << 8 | (i + 2 < KEY_BYTES ? bytes[i + 2] : 0);
        for (int shift = 18; shift >= 0; shift -= 6) out[n++] = base64_digits[bits >> shift & 63];
    }
    out[KEY_BASE64_CHARS - 1] = '=';
    out[KEY_BASE64_CHARS] = '\0';
}

size_t keys_line(char out[KEYS_LINE_BYTES], const struct key *key) {
    char text[KEY_BASE64_CHARS + 1];
    key_encode(text, key->bytes);
    int n = snprintf(out, KEYS_LINE_BYTES, "key %u %s %.10s\n", key->id, text, key->created);
    explicit_bzero(text, sizeof text);
    return (size_t)n;
}

/* -- parsing ----------------------------------------------------------------------------------- */

struct word {
    const char *at;
    size_t len;
};
enum { WORDS_MAX = 5 };

/* Splits a line at blanks into up to WORDS_MAX words. */
static size_t words_split(const char *line, size_t len, struct word word[WORDS_MAX]) {
    size_t count = 0, i = 0;
    while (i < len && count < WORDS_MAX) {
        while (i < len && (line[i] == ' ' || line[i] == '\t' || line[i] == '\r')) i++;
        if (i == len) break;
        word[count].at = line + i;
        while (i < len && line[i] != ' ' && line[i] != '\t' && line[i] != '\r') i++;
        word[count].len = (size_t)(line + i - word[count].at);
        count++;
    }
    return count;
}

static bool word_is(const struct word *w, const char *text) {
    return w->len == strlen(text) && memcmp(w->at, text, w->len) == 0;
}

/* An id in [1, 2^32); 0 when the word is none. */
static uint32_t word_id(const struct word *w) {
    uint64_t id = 0;
    if (w->len == 0 || w->len > 10) return 0;
    for (size_t i = 0; i < w->len; i++) {
        if (w->at[i] < '0' || w->at[i] > '9') return 0;
        id = id * 10 + (uint64_t)(w->at[i] - '0');
    }
    return id <= UINT32_MAX ? (uint32_t)id : 0;
}

static bool word_date(const struct word *w) {
    if (w->len != KEY_DATE_CHARS) return false;
    for (size_t i = 0; i < KEY_DATE_CHARS; i++) {
        bool dash = i == 4 || i == 7;
        if (dash ? w->at[i] != '-' : (w->at[i] < '0' || w->at[i] > '9')) return false;
    }
    return true;
}

/* What is wrong with a `key` line, or NULL when it was taken into keys. */
static const char *key_line_take(struct keys *keys, const struct word *word, size_t words) {
    static const uint8_t zero[KEY_BYTES];
    if (words != 4) return "a key line is `key ID BASE64 YYYY-MM-DD`";
    uint32_t id = word_id(&word[1]);
    if (id == 0) return "the id of a key is a number from 1 to 4294967295";
    if (keys_find(keys, id) != NULL) return "this key id is there twice";
    if (keys->count == CRYPTO_KEYS_MAX) return "too many keys in one file (at most 64)";
    struct key *key = &keys->key[keys->count];
    if (!key_decode(key->bytes, word[2].at, word[2].len)) return "a key is the base64 of 32 bytes (44 characters)";
    if (memcmp(key->bytes, zero, KEY_BYTES) == 0) return "this key is all zero";
    if (!word_date(&word[3])) return "the last word of a key line is its date, YYYY-MM-DD";
    key->id = id;
    memcpy(key->created, word[3].at, KEY_DATE_CHARS);
    keys->count++;
    return NULL;
}
static_assert(CRYPTO_KEYS_MAX == 64, "the message in key_line_take says 64");

static int line_error(struct err *err, const char *path, int line, const char *text) {
    return err_set(err, EX_CONFIG, "%s:%d: %s", path, line, text);
}

static int keys_parse(struct keys *keys, const char *text, size_t len, const char *path, struct err *err) {
    uint32_t current_id = 0;
    int current_line = 0, number = 0;
    for (size_t at = 0; at < len;) {
        const char *line = text + at, *end = memchr(line, '\n', len - at);
        size_t line_len = end != NULL ? (size_t)(end - line) : len - at;
        at += line_len + 1;
        number++;
        struct word word[WORDS_MAX];
        size_t words = words_split(line, line_len, word);
        if (words == 0 || word[0].at[0] == '#') continue;
        if (word_is(&word[0], "key")) {
            const char *wrong = key_line_take(keys, word, words);
            if (wrong != NULL) return line_error(err, path, number, wrong);
        } else if (word_is(&word[0], "current")) {
            if (current_line != 0) return line_error(err, path, number, "only one line can name the current key");
            if (words != 2 || (current_id = word_id(&word[1])) == 0)
                return line_error(err, path, number, "the current key is named as `current ID`");
            current_line = number;
        } else {
            return line_error(err, path, number,
                              "a line is `key ID BASE64 YYYY-MM-DD`, `current ID`, or a comment after #");
        }
    }
    if (keys->count == 0) return line_error(err, path, number + 1, "there is no key; make one with `millrace keygen`");
    if (current_line == 0) return line_error(err, path, number + 1, "no line names the current key (`current ID`)");
    const struct key *current = keys_find(keys, current_id);
    if (current == NULL) return line_error(err, path, current_line, "the current key is not in this file");
    keys->current = (uint32_t)(current - keys->key);
    return 0;
}

/* -- the file ---------------------------------------------------------------------------------- */

/* What is not to be had now is another matter than a file that is not there. */
static int file_failed(const char *path, struct err *err) {
    bool passing = errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == EIO || errno == EAGAIN ||
                   errno == EINTR || errno == ENOSPC;
    return err_set(err, passing ? EX_IOERR : EX_NOINPUT, "%s: %s", path, strerror(errno));
}

static int file_open(const char *path, struct err *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* non-blocking: a fifo must not hang the start */
    if (fd < 0) return file_failed(path, err);
    struct stat st;
    int status = 0;
    if (fstat(fd, &st) != 0) {
        status = file_failed(path, err);
    } else if (!S_ISREG(st.st_mode)) {
        status = err_set(err, EX_NOINPUT, "%s: not a file", path);
    } else if ((st.st_mode & 037) != 0) {
        status = err_set(err, EX_NOPERM, "%s: mode %04o lets others at the keys; make it 0600 (chmod 600)", path,
                         (unsigned)(st.st_mode & 07777));
    } else if (st.st_size > KEYS_FILE_BYTES_MAX) {
        status = err_set(err, EX_CONFIG, "%s: larger than %d bytes; this is not a key file", path, KEYS_FILE_BYTES_MAX);
    }
    if (status == 0) return fd;
    close(fd);
    return -1;
}

static ssize_t file_read(int fd, char *out, size_t room, const char *path, struct err *err) {
    size_t len = 0;
    while (len < room) {
        ssize_t n = read(fd, out + len, room - len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return file_failed(path, err);
        if (n == 0) break;
        len += (size_t)n;
    }
    return (ssize_t)len;
}

struct keys *keys_load(const char *path, struct err *err) {
    int fd = file_open(path, err);
    if (fd < 0) return NULL;
    char *text = secret_map(KEYS_FILE_BYTES_MAX, err);
    struct keys *keys = text != NULL ? secret_map(sizeof *keys, err) : NULL;
    ssize_t len = keys != NULL ? file_read(fd, text, KEYS_FILE_BYTES_MAX, path, err) : -1;
    close(fd);
    bool ok = len >= 0 && keys_parse(keys, text, (size_t)len, path, err) == 0;
    secret_unmap(text, KEYS_FILE_BYTES_MAX);
    if (ok) return keys;
    keys_free(keys);
    return NULL;
}

const struct key *keys_find(const struct keys *keys, uint32_t id) {
    for (uint32_t i = 0; i < keys->count; i++)
        if (keys->key[i].id == id) return &keys->key[i];
    return NULL;
}

void keys_free(struct keys *keys) { secret_unmap(keys, sizeof *keys); }

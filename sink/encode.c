#include "sink/encode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shm/record.h"

int encode_init(struct encode_buffer *b, size_t size, struct err *err) {
    *b = (struct encode_buffer){.size = size};
    b->bytes = malloc(size);
    return b->bytes != NULL ? 0 : err_set(err, ENOMEM, "no memory for a send buffer of %zu bytes", size);
}

void encode_free(struct encode_buffer *b) {
    free(b->bytes);
    *b = (struct encode_buffer){0};
}

void encode_clear(struct encode_buffer *b) { b->from = b->to = 0; }

/* An empty buffer begins at its front again: the same few pages stay in the cache, and the rest is never touched. */
void encode_sent(struct encode_buffer *b, size_t n) {
    CHECK(n <= encode_unsent(b));
    b->from += n;
    if (b->from == b->to) encode_clear(b);
}

bool encode_room(struct encode_buffer *b, size_t bytes) {
    if (bytes <= b->size - b->to) return true;
    if (bytes > b->size - encode_unsent(b)) return false;
    memmove(b->bytes, encode_at(b), encode_unsent(b));
    b->to -= b->from;
    b->from = 0;
    return true;
}

static uint8_t *claim(struct encode_buffer *b, size_t n) {
    CHECK(n <= b->size - b->to);
    uint8_t *at = b->bytes + b->to;
    b->to += n;
    return at;
}

void encode_raw(struct encode_buffer *b, const void *bytes, size_t len) { memcpy(claim(b, len), bytes, len); }

size_t encode_digits(char *out, uint64_t value) {
    char digits[20];
    size_t n = 0;
    do digits[n++] = (char)('0' + value % 10);
    while ((value /= 10) != 0);
    for (size_t i = 0; i < n; i++) out[i] = digits[n - 1 - i];
    return n;
}

/* '*' or '$', a number, CRLF. */
static void head(struct encode_buffer *b, char sign, uint64_t n) {
    char text[24];
    text[0] = sign;
    size_t len = 1 + encode_digits(text + 1, n);
    text[len++] = '\r';
    text[len++] = '\n';
    encode_raw(b, text, len);
}

void encode_array(struct encode_buffer *b, uint32_t argc) { head(b, '*', argc); }

void encode_bulk(struct encode_buffer *b, const void *bytes, size_t len) {
    head(b, '$', len);
    uint8_t *at = claim(b, len + 2);
    if (len > 0) memcpy(at, bytes, len);
    at[len] = '\r';
    at[len + 1] = '\n';
}

void encode_bulk_integer(struct encode_buffer *b, int64_t value) {
    char text[24];
    size_t n = 0;
    if (value < 0) text[n++] = '-';
    n += encode_digits(text + n, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
    encode_bulk(b, text, n);
}

#define LITERAL(b, text) encode_raw(b, text, sizeof(text) - 1)

void encode_mset(struct encode_buffer *b, uint32_t pairs) {
    encode_array(b, 1 + 2 * pairs);
    LITERAL(b, "$4\r\nMSET\r\n");
}

void encode_pair(struct encode_buffer *b, struct encode_slice key, struct encode_slice value) {
    encode_bulk(b, key.bytes, key.len);
    encode_bulk(b, value.bytes, value.len);
}

void encode_set(struct encode_buffer *b, struct encode_slice key, struct encode_slice value, int64_t expire_at_ms) {
    if (expire_at_ms == 0)
        LITERAL(b, "*3\r\n$3\r\nSET\r\n");
    else
        LITERAL(b, "*5\r\n$3\r\nSET\r\n");
    encode_pair(b, key, value);
    if (expire_at_ms == 0) return;
    LITERAL(b, "$4\r\nPXAT\r\n");
    encode_bulk_integer(b, expire_at_ms);
}

/* Of a field the list has 8 bytes besides name and value, a command 10 and the digits of two lengths: never more than
 * half of all again. */
void encode_hset(struct encode_buffer *b, struct encode_slice key, struct encode_slice list) {
    struct record_field field;
    size_t at = RECORD_FIELDS_HEAD;
    encode_array(b, 2 + 2 * record_fields_count(list.bytes));
    LITERAL(b, "$4\r\nHSET\r\n");
    encode_bulk(b, key.bytes, key.len);
    while (record_field_next(list.bytes, list.len, &at, &field) == 1) {
        encode_bulk(b, field.name, field.name_bytes);
        encode_bulk(b, field.value, field.value_bytes);
    }
}

void encode_pexpireat(struct encode_buffer *b, struct encode_slice key, int64_t at_ms) {
    LITERAL(b, "*3\r\n$9\r\nPEXPIREAT\r\n");
    encode_bulk(b, key.bytes, key.len);
    encode_bulk_integer(b, at_ms);
}

void encode_del(struct encode_buffer *b, struct encode_slice first, struct encode_slice second) {
    encode_array(b, second.len > 0 ? 3 : 2);
    LITERAL(b, "$3\r\nDEL\r\n");
    encode_bulk(b, first.bytes, first.len);
    if (second.len > 0) encode_bulk(b, second.bytes, second.len);
}

void encode_multi(struct encode_buffer *b) { LITERAL(b, "*1\r\n$5\r\nMULTI\r\n"); }
void encode_exec(struct encode_buffer *b) { LITERAL(b, "*1\r\n$4\r\nEXEC\r\n"); }

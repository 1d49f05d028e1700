/* Encode: commands for Redis, one behind the other in one contiguous send buffer.
 *
 * Every function that writes CHECKs its room: the caller asks for it with encode_room before a batch, by the upper
 * bounds below, so that a batch is always whole in the buffer. */
#ifndef MILLRACE_SINK_ENCODE_H
#define MILLRACE_SINK_ENCODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* Bytes of any one record's commands beyond its keys and value. */
enum { ENCODE_RECORD_OVERHEAD = 192 };

struct encode_buffer {
    uint8_t *bytes;
    size_t size;
    size_t from; /* first byte not sent */
    size_t to;   /* end of what was encoded */
};

/* encode_init allocates size bytes (> 0). 0, or -1 with err. */
int encode_init(struct encode_buffer *b, size_t size, struct err *err);
void encode_free(struct encode_buffer *b);

/* What is to be sent: encode_unsent bytes at encode_at; encode_sent(n) after n of them went out. */
static inline size_t encode_unsent(const struct encode_buffer *b) { return b->to - b->from; }
static inline const uint8_t *encode_at(const struct encode_buffer *b) { return b->bytes + b->from; }
void encode_sent(struct encode_buffer *b, size_t n);

/* encode_room: whether `bytes` more fit; moves what is unsent to the front when that helps. */
bool encode_room(struct encode_buffer *b, size_t bytes);

/* encode_clear forgets everything: the connection is gone. */
void encode_clear(struct encode_buffer *b);

/* encode_raw appends bytes that are commands already (handshake). */
void encode_raw(struct encode_buffer *b, const void *bytes, size_t len);

/* encode_array begins a command of argc arguments, each then given by encode_bulk or encode_bulk_integer. */
void encode_array(struct encode_buffer *b, uint32_t argc);
void encode_bulk(struct encode_buffer *b, const void *bytes, size_t len);
void encode_bulk_integer(struct encode_buffer *b, int64_t value);

struct encode_slice { /* a key or a value */
    const uint8_t *bytes;
    uint32_t len;
};

/* MSET of `pairs` keys and values, which follow by encode_pair. */
void encode_mset(struct encode_buffer *b, uint32_t pairs);
void encode_pair(struct encode_buffer *b, struct encode_slice key, struct encode_slice value);

/* SET key value, with PXAT expire_at_ms unless that is 0. */
void encode_set(struct encode_buffer *b, struct encode_slice key, struct encode_slice value, int64_t expire_at_ms);

/* HSET key name value …, of `fields` fields: the list value[0, len) of a record (shm/record.h). Takes at most half as
 * many bytes again as the list, beyond ENCODE_RECORD_OVERHEAD and the key. */
void encode_hset(struct encode_buffer *b, struct encode_slice key, struct encode_slice list);

/* PEXPIREAT key at_ms. */
void encode_pexpireat(struct encode_buffer *b, struct encode_slice key, int64_t at_ms);

/* DEL of one or two keys (second.len 0: one). */
void encode_del(struct encode_buffer *b, struct encode_slice first, struct encode_slice second);

/* MULTI, EXEC. */
void encode_multi(struct encode_buffer *b);
void encode_exec(struct encode_buffer *b);

/* encode_digits writes value in decimal at out (room for 20 bytes). Returns how many. */
size_t encode_digits(char *out, uint64_t value);

#endif

/* The record on a ring: what one stage hands to the next.
 *
 * A ring item of type RECORD_DATA is a struct record followed by, in this order and without gaps:
 *     trace (RECORD_TRACED), Kafka key, Redis key, old Redis key, value, headers, content (of the trace)
 * with the lengths in the struct. The same layout at every stage; which parts are filled says `op`:
 *
 *   ingest -> transform   op RECORD_RAW: Kafka key, value and headers as read; no Redis keys. reason `crash`: it has
 *                         crashed the sink and is to be rejected
 *   ingest -> transform   op SKIP (the end of a partition) or REJECT (too large for a ring): a marker, as below; with
 *                         audit on a REJECT has its headers
 *   transform -> sink     op ADD/UPDATE/DELETE: Redis keys and the value to be stored; no Kafka key, no headers
 *   transform -> sink     op SKIP/REJECT: a marker; all lengths are zero
 *   transform -> sink     with audit on, every record that was read from Kafka has a trace, markers too
 *   transform -> ingest   (rejects ring) op REJECT: Kafka key, value and headers as read, sealed into `value` when
 *                         RECORD_SEALED is set; number_origin is the record's number on the ingest ring
 *
 * Headers are encoded one after the other: u16 name length, u32 value length (0xffffffff: null), name, value, in host
 * byte order (a ring never leaves its machine).
 *
 * A value that is a list of fields (RECORD_VALUE_FIELDS): u32 count in [1, HASH_FIELDS_MAX], then for each field u32
 * name length, u32 value length, name, value, in the same byte order and without gaps. Of equal names the last counts.
 *
 * This is ABI between executables: a change of any offset raises RECORD_VERSION, which the rings' constants carry. */
#ifndef MILLRACE_SHM_RECORD_H
#define MILLRACE_SHM_RECORD_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "base/limits.h"

enum { RECORD_VERSION = 3 };

enum record_type { RECORD_DATA = 1 }; /* ring item types; 0 is the ring's own padding */

enum record_op { RECORD_RAW, RECORD_ADD, RECORD_UPDATE, RECORD_DELETE, RECORD_SKIP, RECORD_REJECT, RECORD_OP_COUNT };

/* Why a record was rejected. Names (record_reason_name) are what operators see and what metrics count. */
enum record_reason {
    REASON_NONE,
    REASON_KEY_NULL,      /* the template asks for {$key} and the record has none */
    REASON_KEY_EMPTY,     /* the Redis key came out empty */
    REASON_KEY_LONG,      /* longer than REDIS_KEY_BYTES_MAX */
    REASON_FIELD_MISSING, /* a field of the template is absent, null, an object or an array; a hash without one */
    REASON_JSON_INVALID,  /* not JSON, not an object, invalid UTF-8, or nested too deeply */
    REASON_OPERATION,     /* unknown operation word, or one that this topic's mode does not allow */
    REASON_TOO_LARGE,     /* does not fit a ring record, or has more than HASH_FIELDS_MAX names for a hash */
    REASON_CRASH,         /* it crashed a worker poison.attempts times */
    REASON_COUNT
};

/* Flags. A null part has length 0; the flag tells it from an empty one. */
enum {
    RECORD_KEY_NULL = 1 << 0,
    RECORD_VALUE_NULL = 1 << 1,
    RECORD_SEALED = 1 << 2,         /* rejects: value is the sealed original (transform/seal.h) */
    RECORD_CONTENT_ABSENT = 1 << 3, /* rejects: too large or poisonous to carry; only Kafka has the content */
    RECORD_VALUE_FIELDS = 1 << 4,   /* add and update: value is a list of fields, to be stored as a hash */
    RECORD_TRACED = 1 << 5,         /* a struct record_trace comes first */
    RECORD_REFED = 1 << 6,          /* asked for once more (ingest/refeed.c): it stands before what the partition has
                                       come to, and says nothing of that; markers of such records have it too */
};

struct record {
    uint8_t op;                   /*   0 enum record_op */
    uint8_t reason;               /*   1 enum record_reason */
    uint16_t topic;               /*   2 index in the configuration's topics */
    uint16_t slot;                /*   4 index in the ledger */
    uint16_t flags;               /*   6 */
    int32_t partition;            /*   8 [0, 2^31) */
    uint32_t epoch;               /*  12 of the partition when the record was read */
    int64_t offset;               /*  16 [0, 2^63) */
    int64_t timestamp_ms;         /*  24 Kafka timestamp, ms since 1970; -1 none */
    int64_t ingest_ns;            /*  32 CLOCK_MONOTONIC when ingest published it */
    int64_t expire_at_ms;         /*  40 ms since 1970; 0 never */
    uint64_t number_origin;       /*  48 rejects ring: number on the ingest ring; else 0 */
    uint8_t id[16];               /*  56 UUID from the header, else derived (record_id_derive) */
    uint8_t digest_published[16]; /*  72 */
    uint8_t digest_stored[16];    /*  88 */
    uint8_t digest_algorithm;     /* 104 enum digest_algorithm, base/digest.h: of both, and of the trace's */
    uint8_t reserved[3];          /* 105 zero */
    uint32_t kafka_key_bytes;     /* 108 */
    uint32_t redis_key_bytes;     /* 112 */
    uint32_t old_key_bytes;       /* 116 0: the key did not change */
    uint32_t value_bytes;         /* 120 */
    uint32_t headers_bytes;       /* 124 */
};

static_assert(sizeof(struct record) == 128, "record ABI");
static_assert(offsetof(struct record, slot) == 4, "record ABI");
static_assert(offsetof(struct record, epoch) == 12, "record ABI");
static_assert(offsetof(struct record, offset) == 16, "record ABI");
static_assert(offsetof(struct record, number_origin) == 48, "record ABI");
static_assert(offsetof(struct record, id) == 56, "record ABI");
static_assert(offsetof(struct record, digest_algorithm) == 104, "record ABI");
static_assert(offsetof(struct record, kafka_key_bytes) == 108, "record ABI");
static_assert(offsetof(struct record, headers_bytes) == 124, "record ABI");

/* What the audit log keeps of a record beside its head; made by transform. */
struct record_trace {
    uint8_t digest_key[16];     /*  0 of the Redis key; zero where there is none */
    uint8_t digest_old_key[16]; /* 16 of the key that an update replaces; zero where it did not change */
    uint8_t load[16];           /* 32 load id from the header; zero none */
    uint64_t producer;          /* 48 record_producer_hash of the producer's name; 0 none */
    uint64_t sequence;          /* 56 of the producer in this topic, from 1; 0 none */
    int64_t created_ms;         /* 64 event time: the header, else the Kafka timestamp; -1 none */
    int64_t transform_ns;       /* 72 CLOCK_MONOTONIC when transform was done with it */
    uint32_t published_bytes;   /* 80 of the value as it was read; RECORD_BYTES_NULL: it had none */
    uint32_t stored_bytes;      /* 84 of the value to be stored, before compression and encryption */
    uint32_t flags;             /* 88 enum trace_flags */
    uint32_t content_bytes;     /* 92 of the sealed original at the end of the record (`reconcile: full`); 0 none */
};
static_assert(sizeof(struct record_trace) == 96, "record ABI");
#define RECORD_BYTES_NULL UINT32_MAX

enum trace_flags {
    TRACE_DECLARED = 1 << 0, /* its producer declared a digest */
    TRACE_ALTERED = 1 << 1,  /* … which is not that of the value */
    TRACE_CREATED = 1 << 2,  /* created_ms comes from the header */
};

/* Headers a producer writes; all values are text (docs/reconciliation.md). */
#define HEADER_ID "millrace-id"             /* UUID */
#define HEADER_DIGEST "millrace-digest"     /* of the value: "hmac:" or "xxh3:", 32 hexadecimal digits */
#define HEADER_CREATED "millrace-created"   /* milliseconds since 1970, decimal */
#define HEADER_LOAD "millrace-load"         /* UUID */
#define HEADER_PRODUCER "millrace-producer" /* 1 to 63 characters */
#define HEADER_SEQUENCE "millrace-sequence" /* decimal, per producer and topic, 1, 2, 3, … */

/* record_producer_hash: FNV-1a of the name, never 0. */
uint64_t record_producer_hash(const void *name, size_t len);

/* The parts of a record in a ring, as pointers. Valid as long as the ring item is. */
struct record_view {
    struct record head;        /* a copy: the ring is not read twice */
    struct record_trace trace; /* with RECORD_TRACED; else zero */
    const uint8_t *kafka_key, *redis_key, *old_key, *value, *headers, *content;
};

/* record_open checks that body[0, len) is a whole record (operation and reason known, lengths adding up exactly to
 * len, those of a list of fields too) and fills *view. Anyone. Returns 0, or -1 when the bytes are not a record. */
int record_open(const void *body, size_t len, struct record_view *view);

/* Bytes a record with these lengths takes on a ring, without the ring's own header and the content of a trace. */
static inline size_t record_bytes(const struct record *r) {
    return sizeof *r + (r->flags & RECORD_TRACED ? sizeof(struct record_trace) : 0) + (size_t)r->kafka_key_bytes +
           r->redis_key_bytes + r->old_key_bytes + r->value_bytes + r->headers_bytes;
}

/* record_id_derive makes the id of a record that came without one: a version 8 UUID (RFC 9562) of topic hash,
 * partition (low 26 bits) and offset (low 48 bits), the same at every delivery. */
void record_id_derive(uint8_t id[16], const char *topic, int32_t partition, int64_t offset);

/* record_id_parse reads a UUID as 36 characters of text or 16 raw bytes. Returns 0, or -1 when it is neither. */
int record_id_parse(uint8_t id[16], const void *text, size_t len);

/* record_id_format writes 36 characters and a NUL. */
void record_id_format(const uint8_t id[16], char out[37]);

/* One header, as record_header_next finds it; value NULL when it is null. */
struct record_header {
    const char *name;
    const uint8_t *value;
    uint32_t name_bytes, value_bytes;
};

/* record_header_next reads the header at *at of headers[0, len) and advances *at. Returns 1, 0 at the end, -1 when the
 * encoding is broken. Start with *at = 0. */
int record_header_next(const uint8_t *headers, size_t len, size_t *at, struct record_header *out);

/* record_header_last finds the last header called name. Returns 1 found, 0 not there, -1 broken encoding. */
int record_header_last(const uint8_t *headers, size_t len, const char *name, struct record_header *out);

/* record_header_put appends one header at out (room for record_header_bytes). value NULL: null. Returns bytes written.
 */
size_t record_header_put(uint8_t *out, const char *name, size_t name_bytes, const void *value, size_t value_bytes);
static inline size_t record_header_bytes(size_t name_bytes, size_t value_bytes) { return 6 + name_bytes + value_bytes; }

/* One field of a list, as record_field_next finds it. */
struct record_field {
    const uint8_t *name, *value;
    uint32_t name_bytes, value_bytes;
};
enum { RECORD_FIELDS_HEAD = 4, RECORD_FIELD_HEAD = 8 }; /* bytes before the first field, and of each before its name */

/* record_field_next reads the field at *at of the list value[0, len) and advances *at. Returns 1, 0 at the end, -1 when
 * a length reaches beyond it. Start with *at = RECORD_FIELDS_HEAD. */
int record_field_next(const uint8_t *value, size_t len, size_t *at, struct record_field *out);

/* record_fields_count is the count of a list in a record that record_open has checked. */
uint32_t record_fields_count(const uint8_t *value);

const char *record_reason_name(enum record_reason reason); /* "none" "key_null" … */
const char *record_op_name(enum record_op op);             /* "raw" "add" … */

#endif

/* The files of the rejects folder (data_dir/rejects): what ingest keeps of records that could not be handled.
 *
 * A folder holds segments named 00000001.rejects, 00000002.rejects and so on (rejects_segment_name), mode 0600. Ingest
 * appends to the highest one and begins the next when it has passed REJECTS_SEGMENT_BYTES; nobody else writes. It is
 *
 *     struct rejects_segment, then entries one after the other, each
 *     struct rejects_entry · topic name · Kafka key · value · headers · zero bytes up to a multiple of 8
 *
 * Everything is little-endian. Value is the sealed original (transform/seal.h) when REJECT_SEALED is set; key and
 * headers are empty then. Headers are encoded as in shm/record.h. An entry is whole when its magic, its lengths and its
 * checksum agree; a torn one can only be the last of a segment, left by a machine that went down: ingest cuts it off at
 * start.
 *
 * This is a file format: a change of any offset raises REJECTS_VERSION. docs/formats.md describes it for others. */
#ifndef MILLRACE_BASE_REJECTS_FORMAT_H
#define MILLRACE_BASE_REJECTS_FORMAT_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "base/limits.h"

#define REJECTS_MAGIC 0x0a0d6a65726c6d89ULL /* bytes 89 'm' 'l' 'r' 'e' 'j' 0d 0a */
#define REJECTS_ENTRY_MAGIC 0x656a6552U     /* bytes 'R' 'e' 'j' 'e' */
enum { REJECTS_VERSION = 1, REJECTS_ALIGN = 8, REJECTS_NAME_BYTES = 32 };
#define REJECTS_SEGMENT_BYTES (64UL << 20) /* the writer begins a new segment once the current one has reached this */
#define REJECTS_ENTRY_BYTES_MAX (RING_BYTES_MAX / RING_RECORD_SHARE + 4096) /* no entry is larger */

struct rejects_segment {   /* ABI: head of a file */
    uint64_t magic;        /*  0 */
    uint32_t version;      /*  8 REJECTS_VERSION */
    uint32_t header_bytes; /* 12 sizeof(struct rejects_segment): where the first entry begins */
    uint64_t number;       /* 16 the one in the file's name, from 1 */
    int64_t created_ms;    /* 24 wall clock */
};
static_assert(sizeof(struct rejects_segment) == 32, "rejects file format");

/* Flags of an entry: the same bits as RECORD_KEY_NULL … in shm/record.h. */
enum {
    REJECT_KEY_NULL = 1 << 0,
    REJECT_VALUE_NULL = 1 << 1,
    REJECT_SEALED = 1 << 2,
    REJECT_CONTENT_ABSENT = 1 << 3, /* only Kafka has the content */
};

struct rejects_entry {      /* ABI */
    uint32_t magic;         /*   0 REJECTS_ENTRY_MAGIC */
    uint32_t checksum;      /*   4 rejects_checksum of the entry's bytes [8, total_bytes) */
    uint32_t total_bytes;   /*   8 of the whole entry with its padding: rejects_entry_bytes */
    uint16_t topic_bytes;   /*  12 [1, TOPIC_BYTES) */
    uint8_t reason;         /*  14 enum record_reason, whose numbers never change */
    uint8_t flags;          /*  15 */
    uint32_t lane;          /*  16 of the rejects ring it came from */
    int32_t partition;      /*  20 */
    uint64_t incarnation;   /*  24 of that ring */
    uint64_t number;        /*  32 on that ring; 0: it did not come from a ring (ingest's own rejects) */
    int64_t offset;         /*  40 */
    int64_t timestamp_ms;   /*  48 Kafka timestamp; -1 none */
    int64_t stored_ms;      /*  56 wall clock when it was stored */
    uint8_t id[16];         /*  64 */
    uint32_t key_bytes;     /*  80 */
    uint32_t value_bytes;   /*  84 */
    uint32_t headers_bytes; /*  88 */
    uint32_t reserved;      /*  92 zero */
};
static_assert(sizeof(struct rejects_entry) == 96, "rejects file format");
static_assert(offsetof(struct rejects_entry, incarnation) == 24, "rejects file format");
static_assert(offsetof(struct rejects_entry, offset) == 40, "rejects file format");
static_assert(offsetof(struct rejects_entry, id) == 64, "rejects file format");
static_assert(offsetof(struct rejects_entry, headers_bytes) == 88, "rejects file format");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files are written as memory has them");

/* Bytes of the whole entry whose lengths are set. The sum of the lengths must not exceed REJECTS_ENTRY_BYTES_MAX. */
static inline size_t rejects_entry_bytes(const struct rejects_entry *e) {
    size_t n = sizeof *e + e->topic_bytes + (size_t)e->key_bytes + e->value_bytes + e->headers_bytes;
    return (n + REJECTS_ALIGN - 1) & ~(size_t)(REJECTS_ALIGN - 1);
}

/* rejects_checksum continues a CRC-32C (Castagnoli) over data[0, len); begin with 0. An entry's checksum runs over the
 * header from byte 8 on (with total_bytes set), the parts, and the padding. */
uint32_t rejects_checksum(uint32_t so_far, const void *data, size_t len);

/* rejects_segment_name writes the file name of segment `number` (from 1). */
void rejects_segment_name(char out[REJECTS_NAME_BYTES], uint64_t number);

#endif

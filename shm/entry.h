/* What became of one record: made by the sink once Redis has answered, passed to audit on a ring, appended to the audit
 * log as it is. So this is both ABI between executables and a format on disk (docs/formats.md): little-endian, and a
 * change of it raises ENTRY_VERSION, which the log's segments carry.
 *
 * A ring item of type RECORD_ENTRY is a struct entry followed by `content_bytes` bytes. Every number of the sink's ring
 * has one, with the same number, markers too; audit logs those that tell of a record (entry_logged). */
#ifndef MILLRACE_SHM_ENTRY_H
#define MILLRACE_SHM_ENTRY_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ENTRY_VERSION = 1 };
enum { RECORD_ENTRY = 2 }; /* ring item type */

/* The classes of the identity that a single record can be in. Names: entry_outcome_name. Part of the format. */
enum entry_outcome {
    ENTRY_NOTHING,    /* a marker that is no record: the end of a partition. Not logged */
    ENTRY_SKIPPED,    /* read under an epoch that has passed; it is read again, here or elsewhere. Not logged */
    ENTRY_APPLIED,    /* Redis has acknowledged the write */
    ENTRY_SUPERSEDED, /* a later record of the same batch wrote the same key: this one was not sent */
    ENTRY_DELETED,    /* Redis has acknowledged the deletion */
    ENTRY_EXPIRED,    /* its time to live was over before it was applied: the key was deleted */
    ENTRY_FILTERED,   /* the configuration leaves it out */
    ENTRY_REJECTED,   /* `reason` says why; the original is in the rejects folder */
    ENTRY_OUTCOME_COUNT
};

enum entry_flags {
    ENTRY_DECLARED = 1 << 0, /* as enum trace_flags */
    ENTRY_ALTERED = 1 << 1,
    ENTRY_CREATED = 1 << 2,
    ENTRY_REPEAT = 1 << 3,      /* set by audit: this topic, partition and offset were logged before */
    ENTRY_KEY_CHANGED = 1 << 4, /* digest_old_key is the key that was deleted */
    ENTRY_HASH = 1 << 5,        /* stored as a Redis hash: digest_stored is that of its fields */
    ENTRY_REFED = 1 << 6,       /* RECORD_REFED: written once more because somebody asked for it */
};

struct entry {
    uint32_t bytes;             /*   0 of the whole entry on disk: struct, content, zeros up to a multiple of 8; on the
                                       ring without the zeros */
    uint16_t topic;             /*   4 index in the configuration's topics; in the log: in its segment's table */
    uint16_t slot;              /*   6 on the ring: index in the ledger; in the log: the lane */
    int32_t partition;          /*   8 */
    uint32_t epoch;             /*  12 */
    int64_t offset;             /*  16 of the record; of ENTRY_NOTHING: the next offset less one */
    int64_t timestamp_ms;       /*  24 Kafka timestamp, -1 none */
    int64_t created_ms;         /*  32 event time, as in struct record_trace */
    int64_t ingested_us;        /*  40 wall clock, microseconds since 1970 */
    uint32_t transformed_us;    /*  48 microseconds after `ingested_us`, at most UINT32_MAX, as the next two */
    uint32_t sent_us;           /*  52 handed to the connection */
    uint32_t answered_us;       /*  56 acknowledged by Redis (markers: passed on) */
    uint8_t op;                 /*  60 enum record_op */
    uint8_t outcome;            /*  61 enum entry_outcome */
    uint8_t reason;             /*  62 enum record_reason */
    uint8_t digest_algorithm;   /*  63 enum digest_algorithm */
    uint32_t flags;             /*  64 enum entry_flags */
    uint32_t content_bytes;     /*  68 of the sealed original behind the struct; 0 none */
    uint8_t id[16];             /*  72 */
    uint8_t digest_key[16];     /*  88 */
    uint8_t digest_old_key[16]; /* 104 */
    uint8_t digest_published[16]; /* 120 */
    uint8_t digest_stored[16];    /* 136 */
    uint8_t load[16];             /* 152 */
    uint64_t producer;            /* 168 */
    uint64_t sequence;            /* 176 */
    int64_t expire_at_ms;         /* 184 0 never */
    uint32_t published_bytes;     /* 192 RECORD_BYTES_NULL: no value */
    uint32_t stored_bytes;        /* 196 */
};
static_assert(sizeof(struct entry) == 200, "entry ABI");
static_assert(offsetof(struct entry, offset) == 16, "entry ABI");
static_assert(offsetof(struct entry, op) == 60, "entry ABI");
static_assert(offsetof(struct entry, id) == 72, "entry ABI");
static_assert(offsetof(struct entry, load) == 152, "entry ABI");
static_assert(offsetof(struct entry, stored_bytes) == 196, "entry ABI");

static inline bool entry_logged(const struct entry *e) { return e->outcome > ENTRY_SKIPPED; }

/* entry_check: whether body[0, len) is a whole entry of a ring: outcome, operation and reason known, lengths adding up.
 * 0, or -1. */
int entry_check(const void *body, size_t len);

const char *entry_outcome_name(enum entry_outcome outcome); /* "nothing" "skipped" "applied" … */

#endif

/* Ledger: what is known of every partition, outside the rings.
 *
 * One region is written by ingest (which partitions there are, their epochs, what was committed), one by each sink
 * (what Redis has acknowledged). Slot i of every region is the same partition; ingest gives out slots and never takes
 * one back. Both survive their writer's death at any instruction: every field is one word, or a twin. */
#ifndef MILLRACE_SHM_LEDGER_H
#define MILLRACE_SHM_LEDGER_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/limits.h"
#include "shm/twin.h"

#define LEDGER_MAGIC 0x726567646c6c696dULL
enum { LEDGER_VERSION = 1 };

enum ledger_flags {
    LEDGER_ASSIGNED = 1 << 0,    /* this instance reads the partition now */
    LEDGER_FIRST_START = 1 << 1, /* the group had no commit: the sink creates the mark */
};

struct ledger_ingest_slot { /* ABI: written by ingest only */
    uint32_t topic;         /* index in the configuration; set before `count` covers the slot */
    int32_t partition;
    _Atomic uint32_t epoch; /* [1, 2^32): records of another epoch are skipped; 0 never assigned */
    _Atomic uint32_t flags;
    _Atomic int64_t start;     /* offset at which this epoch began */
    _Atomic int64_t committed; /* next offset, last acknowledged by the broker; -1 none */
    _Atomic int64_t intent;    /* next offset about to be committed, noted before the call; -1 none */
    uint64_t reserved[3];
};
static_assert(sizeof(struct ledger_ingest_slot) == 64, "ledger ABI");

struct ledger_ingest { /* ABI */
    _Atomic uint64_t magic;
    uint32_t version;
    _Atomic uint32_t count; /* slots in use, [0, PARTITIONS_MAX]; only grows */
    uint64_t reserved[6];
    struct ledger_ingest_slot slot[PARTITIONS_MAX];
};

enum ledger_sink_flags { LEDGER_LOST_WRITES = 1 << 0 };

struct ledger_sink_slot {   /* ABI: written by the lane's sink only */
    struct twin released;   /* {epoch, next offset}: every earlier record of the epoch is in Redis or a marker */
    _Atomic uint64_t flags; /* enum ledger_sink_flags */
    uint64_t reserved;
};
static_assert(sizeof(struct ledger_sink_slot) == 64, "ledger ABI");

struct ledger_sink { /* ABI */
    _Atomic uint64_t magic;
    uint32_t version;
    uint32_t lane;
    uint64_t reserved[6];
    struct ledger_sink_slot slot[PARTITIONS_MAX];
};

/* ledger_ingest_create / ledger_sink_create make a sealed memory file. Supervisor only. Returns the writable descriptor
 * (close-on-exec) or -1 with err. */
int ledger_ingest_create(struct err *err);
int ledger_sink_create(uint32_t lane, struct err *err);

/* ledger_*_map maps the region of fd, writable for its owner, after checking size, magic and version.
 * Returns NULL with err on failure. Never unmapped: a worker keeps it for its life. */
struct ledger_ingest *ledger_ingest_map(int fd, bool writable, struct err *err);
struct ledger_sink *ledger_sink_map(int fd, bool writable, struct err *err);

/* The lane of a partition: the same for every topic. */
static inline uint32_t ledger_lane(int32_t partition, uint32_t lanes) { return (uint32_t)partition % lanes; }

#endif

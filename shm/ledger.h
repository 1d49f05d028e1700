/* Ledger: what is known of every partition, outside the rings.
 *
 * One region is written by ingest (which partitions there are, their epochs, what was committed), one by each sink
 * (what Redis has acknowledged), one by audit (what is in its log as well). Slot i of every region is the same
 * partition; ingest gives out slots and never takes one back. Both survive their writer's death at any instruction:
 * every field is one word, or a twin. */
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
enum { LEDGER_VERSION = 5, CLUSTER_BYTES = 64 };

enum ledger_flags {
    LEDGER_ASSIGNED = 1 << 0,    /* this instance reads the partition now */
    LEDGER_FIRST_START = 1 << 1, /* the group had no commit: the sink creates the mark */
    LEDGER_REWOUND = 1 << 2, /* this epoch began by a rewind: the sink sets the mark to `start`, whatever it finds */
    LEDGER_ACCEPTED =
        1 << 3, /* … and an operator has accepted what is lost: the mark found may tell of another topic */
    LEDGER_MARKED =
        1 << 4, /* its mark was there in this run, before the rings were made anew: one that is gone is lost */
    LEDGER_REFEED = 1 << 5, /* this epoch went back on purpose: Redis has everything before `start`, and more */
};

struct ledger_ingest_slot { /* ABI: written by ingest only */
    uint32_t topic;         /* index in the configuration; set before `count` covers the slot */
    int32_t partition;
    _Atomic uint32_t epoch; /* [1, 2^32): records of another epoch are skipped; 0 never assigned */
    _Atomic uint32_t flags;
    _Atomic int64_t start;     /* offset at which this epoch began */
    _Atomic int64_t committed; /* next offset, last acknowledged by the broker; -1 none */
    _Atomic int64_t intent;    /* next offset about to be committed, noted before the call; -1 none */
    _Atomic int64_t origin; /* where the group first began with the partition: what a rebuild must reach; 0 unknown */
    _Atomic int64_t lost_from, lost_to; /* offsets Redis needs again and Kafka no longer has; equal: none */
    uint64_t reserved[8];
};
static_assert(sizeof(struct ledger_ingest_slot) == 128, "ledger ABI");

struct ledger_ingest { /* ABI */
    _Atomic uint64_t magic;
    uint32_t version;
    _Atomic uint32_t count;          /* slots in use, [0, PARTITIONS_MAX]; only grows */
    _Atomic uint64_t lease_until_ns; /* CLOCK_BOOTTIME until which the sinks may write; UINT64_MAX: no lease is needed
                                        (a fixed list of partitions); 0: none was granted yet */
    _Atomic uint64_t accepted;       /* the last control.accept_loss that was carried out */
    _Atomic uint32_t cluster_known;  /* 1: cluster is written and stays; stored last */
    uint32_t gap;
    char cluster[CLUSTER_BYTES]; /* the cluster's id, NUL-terminated; "": the brokers have none */
    uint64_t reserved[3];
    struct ledger_ingest_slot slot[PARTITIONS_MAX];
};

/* What the sink found in Redis, the second word of `lost`: the next offset that Redis still has, [0, 2^62), with: */
#define LEDGER_LOST_ALL (1ULL << 62)   /* there is no mark: nothing is known to be there; the offset is 0 */
#define LEDGER_LOST_OTHER (1ULL << 63) /* the mark was written from another cluster */
#define LEDGER_LOST_OFFSET (LEDGER_LOST_ALL - 1)

struct ledger_sink_slot {       /* ABI: written by the lane's sink only */
    struct twin released;       /* {epoch, next offset}: every earlier record of the epoch is in Redis or a marker */
    struct twin lost;           /* {epoch, what}: writes of this epoch or before it are gone from Redis; the lane waits
                                   for ingest to raise the epoch and to read again */
    _Atomic uint64_t lost_next; /* next offset that Redis had acknowledged when the loss was found; 0: none is open */
    _Atomic uint64_t lost_before; /* refed's count at that moment */
    struct twin refed;            /* {next offset, count}: earlier records of a rewound epoch are counted; lost writes
                                     that were written again, in all */
    struct twin seen;             /* {next offset, ms}: what the mark found when the epoch was established says of the
                                     last record it covers, its offset + 1 (0: nothing) and its Kafka timestamp; stored
                                     before `released` names that epoch */
    struct twin crashed;        /* {epoch, offset}: the last record that crashed the sink poison.attempts times; read
                                   again in a later epoch it is to be rejected, if its timestamp is crashed_ms */
    _Atomic int64_t crashed_ms; /* stored before `crashed` */
    uint64_t reserved[7];
};
static_assert(sizeof(struct ledger_sink_slot) == 320, "ledger ABI");

struct ledger_sink { /* ABI */
    _Atomic uint64_t magic;
    uint32_t version;
    uint32_t lane;
    uint64_t reserved[6];
    struct ledger_sink_slot slot[PARTITIONS_MAX];
};

struct ledger_audit_slot { /* ABI: written by audit only */
    struct twin
        released; /* {epoch, next offset}: every earlier record of the epoch is in Redis, or no write, and what
                     became of it is in the audit log for good. Epochs of a slot only rise; epoch 0: nothing yet */
    uint64_t reserved[2];
};
static_assert(sizeof(struct ledger_audit_slot) == 64, "ledger ABI");

struct ledger_audit { /* ABI; there is one with `audit: off` too, in which nothing is ever released */
    _Atomic uint64_t magic;
    uint32_t version;
    uint32_t gap;
    uint64_t reserved[6];
    struct ledger_audit_slot slot[PARTITIONS_MAX];
};

/* ledger_ingest_create / ledger_sink_create / ledger_audit_create make a sealed memory file. Supervisor only. Returns
 * the writable descriptor (close-on-exec) or -1 with err. */
int ledger_ingest_create(struct err *err);
int ledger_sink_create(uint32_t lane, struct err *err);
int ledger_audit_create(struct err *err);

/* ledger_*_map maps the region of fd, writable for its owner, after checking size, magic and version.
 * Returns NULL with err on failure. Never unmapped: a worker keeps it for its life. */
struct ledger_ingest *ledger_ingest_map(int fd, bool writable, struct err *err);
struct ledger_sink *ledger_sink_map(int fd, bool writable, struct err *err);
struct ledger_audit *ledger_audit_map(int fd, bool writable, struct err *err);

/* The lane of a partition: the same for every topic. */
static inline uint32_t ledger_lane(int32_t partition, uint32_t lanes) { return (uint32_t)partition % lanes; }

#endif

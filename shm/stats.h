/* Stats segment: one file per instance (run_dir/NAME.stats), mapped by every process, readable by tools at any time.
 *
 *   header | metric names | topics | block of the supervisor | block per worker | partitions
 *
 * Made by the supervisor and owned by it, so counters go on when a worker is replaced. Each block has one writer, which
 * stores plain values; a reader never blocks a writer and may see values of slightly different moments. The names of
 * all metrics stand in the segment with their places, so an older tool reads a newer segment. */
#ifndef MILLRACE_SHM_STATS_H
#define MILLRACE_SHM_STATS_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/config.h"
#include "base/err.h"
#include "base/limits.h"

#define STATS_MAGIC 0x737461747373696dULL
enum { STATS_VERSION = 3 };

enum metric {
#define METRIC(role, name, type, unit, help) M_##role##_##name,
#define HISTOGRAM(role, name, help)
#define REASON_METRIC(reason) M_transform_reject_##reason,
#include "shm/metrics.def"
#undef METRIC
#undef HISTOGRAM
#undef REASON_METRIC
    METRIC_COUNT
};

enum histogram {
#define METRIC(role, name, type, unit, help)
#define HISTOGRAM(role, name, help) H_##role##_##name,
#define REASON_METRIC(reason)
#include "shm/metrics.def"
#undef METRIC
#undef HISTOGRAM
#undef REASON_METRIC
    HISTOGRAM_COUNT
};

/* Log-linear buckets: 8 per power of two from 1 microsecond (1024 ns) to 2^40 ns (18 minutes); below and above in the
 * first and last. Error of a quantile is at most 1/8 of its value. */
enum {
    HISTOGRAM_SUB_BITS = 3,
    HISTOGRAM_LOW_BITS = 10,
    HISTOGRAM_HIGH_BITS = 40,
    HISTOGRAM_BUCKETS = (HISTOGRAM_HIGH_BITS - HISTOGRAM_LOW_BITS) * (1 << HISTOGRAM_SUB_BITS) + 2
};

enum worker_state {
    STATE_DOWN,       /* no process */
    STATE_STARTING,   /* process started, not attached yet */
    STATE_CONNECTING, /* attached; Kafka or Redis not reached yet */
    STATE_RUNNING,
    STATE_BLOCKED, /* cannot go on until somebody mends something; the reason says what */
    STATE_DRAINING,
    STATE_BACKOFF,    /* died, to be started again */
    STATE_FAILED,     /* given up; the reason says why */
    STATE_RECOVERING, /* Redis lost writes, and they are written again; nobody has to do anything */
    STATE_COUNT
};
const char *worker_state_name(enum worker_state state);

enum { STATS_TEXT_BYTES = 256, STATS_TEXT_WORDS = STATS_TEXT_BYTES / 8 };
struct stats_text { /* ABI: two copies; the generation's lowest bit names the current one */
    _Atomic uint64_t generation;
    _Atomic uint64_t copy[2][STATS_TEXT_WORDS];
};

struct stats_block {      /* ABI */
    uint32_t role;        /* enum role; set by the supervisor */
    int32_t lane;         /* -1: of the whole instance */
    _Atomic uint32_t pid; /* 0: none */
    _Atomic uint32_t state;
    _Atomic uint64_t starts;       /* a reload and rings made anew count as well */
    _Atomic uint64_t deaths;       /* ends that nobody asked for, as the supervisor's child_died counts them */
    _Atomic uint64_t heartbeat_ns; /* CLOCK_MONOTONIC of the last step */
    _Atomic uint64_t ready;        /* equals `starts` once this process is attached and validated */
    _Atomic uint64_t published;    /* number of the last record this stage has passed on */
    _Atomic uint64_t lane_published[LANES_MAX]; /* ingest: per lane; audit: released, per lane */
    struct stats_text reason;                   /* why the state is what it is; "" when there is nothing to say */
    struct stats_text panic;                    /* text of the last failed check */
    _Atomic uint64_t value[METRIC_COUNT];
    _Atomic uint64_t histogram[HISTOGRAM_COUNT][HISTOGRAM_BUCKETS];
    _Atomic uint64_t histogram_sum_ns[HISTOGRAM_COUNT];
};

struct stats_metric { /* ABI: one row of metrics.def */
    char role[16];
    char name[48];
    char type[12]; /* counter gauge histogram */
    char unit[12]; /* none bytes seconds */
    char help[136];
    uint32_t index;
    uint32_t reserved;
};

struct stats_partition { /* ABI: written by ingest, in ledger slot order */
    uint32_t topic;
    int32_t partition;
    uint32_t lane;
    _Atomic uint32_t assigned;
    _Atomic uint32_t epoch;
    _Atomic uint32_t reserved;
    _Atomic int64_t position;           /* next offset to read; -1 unknown */
    _Atomic int64_t released;           /* next offset after what Redis has acknowledged; -1 unknown */
    _Atomic int64_t committed;          /* next offset last committed; -1 none */
    _Atomic int64_t low, high;          /* watermarks; -1 unknown */
    _Atomic int64_t lost_from, lost_to; /* offsets Redis needs again and Kafka no longer has; equal: none */
};

struct stats_header { /* ABI */
    _Atomic uint64_t magic;
    uint32_t version;
    uint32_t total_bytes;
    uint64_t layout_hash; /* of metrics.def and the struct sizes */
    char name[NAME_BYTES], instance[NAME_BYTES];
    char group[TOPIC_BYTES];
    char build[64];
    uint32_t lanes, topic_count;
    uint32_t metric_count, metric_at, metric_stride; /* struct stats_metric */
    uint32_t block_count, block_at, block_stride;    /* struct stats_block: see stats_block_index */
    uint32_t partition_at, partition_stride;         /* struct stats_partition */
    _Atomic uint32_t partition_count;
    uint32_t topic_at, topic_stride;                               /* names, char[TOPIC_BYTES] */
    uint32_t value_offset, histogram_offset, histogram_sum_offset; /* in a block */
    _Atomic uint32_t superseded; /* 1: another segment has taken this one's place under its name: open it again */
    uint32_t reserved[4];
    int64_t started_wall_ms;
};

/* The segment as this process has it mapped. */
struct stats {
    struct stats_header *header;
    size_t bytes;
};

/* Block numbers: the supervisor is 0, ingest 1, then per lane transform and sink; with `audit: on` audit and recon
 * after the lanes, for which `lane` is the number of lanes. */
static inline uint32_t stats_block_index(enum role role, uint32_t lane) {
    if (role == ROLE_SUPERVISOR || role == ROLE_INGEST) return role == ROLE_INGEST;
    return 2 + lane * 2 + (role == ROLE_SINK || role == ROLE_RECON);
}
static inline uint32_t stats_block_count(uint32_t lanes, bool audit) { return 2 + 2 * lanes + (audit ? 2 : 0); }
static inline struct stats_block *stats_block(const struct stats *s, uint32_t index) {
    return (struct stats_block *)(void *)((char *)s->header + s->header->block_at +
                                          (size_t)index * s->header->block_stride);
}
/* stats_released: the number of the last record that the last stage of a lane has released: audit where there is one.
 */
static inline uint64_t stats_released(const struct stats *s, uint32_t lane) {
    bool audited = s->header->block_count == stats_block_count(s->header->lanes, true);
    const struct stats_block *last =
        stats_block(s, audited ? stats_block_index(ROLE_AUDIT, s->header->lanes) : stats_block_index(ROLE_SINK, lane));
    return atomic_load_explicit(audited ? &last->lane_published[lane] : &last->published, memory_order_acquire);
}
static inline struct stats_partition *stats_partition(const struct stats *s, uint32_t slot) {
    return (struct stats_partition *)(void *)((char *)s->header + s->header->partition_at +
                                              (size_t)slot * s->header->partition_stride);
}

/* stats_create makes run_dir/NAME.stats anew (mode 0640) and maps it. Supervisor only. On success *fd is its
 * descriptor (close-on-exec). Returns 0, or -1 with err. */
int stats_create(struct stats *s, const struct config *config, int *fd, struct err *err);

/* stats_replace is stats_create for an instance that goes on with other lanes or topics: what the blocks of old have
 * counted goes on in those of the same role and lane, and a reader finds either the old segment under the name or the
 * new one. old is marked as superseded and stays mapped. On failure old is as it was. */
int stats_replace(struct stats *s, const struct stats *old, const struct config *config, int *fd, struct err *err);

/* stats_map maps the segment of an inherited descriptor, writable. Workers. Checks version and layout hash. */
int stats_map(struct stats *s, int fd, struct err *err);

/* stats_open maps run_dir/NAME.stats read-only, for tools: takes any layout whose version it knows.
 * err.code: EX_UNAVAILABLE when there is no segment, EX_DATAERR when it is not one. */
int stats_open(struct stats *s, const char *run_dir, const char *name, struct err *err);
void stats_close(struct stats *s);

void stats_text_set(struct stats_text *t, const char *text);                 /* the one writer; truncates */
void stats_text_get(const struct stats_text *t, char out[STATS_TEXT_BYTES]); /* any reader */

/* A worker's own counters: plain memory, added to freely, copied to the segment by stats_flush once per step. */
struct stats_local {
    struct stats_block *block;
    uint64_t value[METRIC_COUNT];
    uint64_t histogram[HISTOGRAM_COUNT][HISTOGRAM_BUCKETS];
    uint64_t histogram_sum_ns[HISTOGRAM_COUNT];
    uint32_t histogram_changed; /* bit per histogram */
};
void stats_local_init(struct stats_local *l, struct stats_block *block); /* goes on from what the block holds */
void stats_flush(struct stats_local *l);
static inline void stats_add(struct stats_local *l, enum metric m, uint64_t n) { l->value[m] += n; }
static inline void stats_set(struct stats_local *l, enum metric m, uint64_t n) { l->value[m] = n; }
void stats_observe(struct stats_local *l, enum histogram h, uint64_t ns);
uint32_t histogram_bucket(uint64_t ns);       /* [0, HISTOGRAM_BUCKETS) */
uint64_t histogram_bound_ns(uint32_t bucket); /* upper bound of a bucket, UINT64_MAX for the last */

#endif

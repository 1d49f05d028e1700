/* What `millrace top` knows: one look at the stats segment, and the difference of two.
 *
 * A sample is a copy, so that it can be drawn again when the segment is gone. Counters that went back began anew in
 * between (processor time with a new process): the difference is then what they have counted since. */
#ifndef MILLRACE_TOOLS_TOP_SAMPLE_H
#define MILLRACE_TOOLS_TOP_SAMPLE_H

#include "shm/stats_view.h"

enum { LATENCY_TO_RING, LATENCY_TO_REDIS, LATENCY_WHOLE, LATENCY_COUNT };
enum { RING_TO_TRANSFORM, RING_TO_SINK, RING_TO_AUDIT, RING_COUNT };

struct sample_ring {
    uint64_t records;         /* published and not released */
    uint64_t bytes, capacity; /* capacity 0: cannot be had (another user's instance) */
};

struct sample_worker {
    enum role role;
    int32_t lane; /* -1: of the whole instance */
    uint32_t pid, state;
    uint64_t deaths, cpu_ns, memory, silent_ms;
    char reason[STATS_TEXT_BYTES];
};

struct sample_lane {
    uint64_t in, applied, bytes; /* counters */
    int64_t lag;                 /* records; -1 unknown */
    int64_t timestamp_ms;        /* of the record that Redis acknowledged last; 0 none yet */
    struct sample_ring ring[RING_COUNT];
};

struct sample_partition {
    uint32_t topic, lane;
    int32_t partition;
    struct partition_numbers numbers;
};

struct sample {
    bool present; /* there was a segment */
    uint64_t at_ns;
    int64_t wall_ms;
    char name[NAME_BYTES], instance[NAME_BYTES];
    char missing[512]; /* why there is none */
    const char *state; /* stats_state; "down" when there is no segment */
    char reason[STATS_TEXT_BYTES];
    uint64_t up_ms;
    uint64_t read, read_bytes, applied, sent_bytes, rejected, deaths; /* counters of the whole */
    int64_t lag;
    uint32_t worker_count, lane_count, ring_count, partition_count, lost_count;
    struct sample_worker worker[WORKERS_MAX];
    struct sample_lane lane[LANES_MAX];
    struct sample_partition partition[PARTITIONS_MAX]; /* assigned ones: lost offsets first, then the most lag */
    struct merged latency[LATENCY_COUNT];
    char topic[TOPICS_MAX][TOPIC_BYTES];
};

/* sample_take fills *out from the segment; the fill of the rings in bytes is left out when the process is another
 * user's. */
void sample_take(struct sample *out, const struct stats *s);

/* sample_missing is the sample of an instance without a segment. */
void sample_missing(struct sample *out, const char *name, const char *why);

struct change { /* per second, between two samples of one segment */
    bool known; /* there were two */
    double read, read_bytes, applied, sent_bytes;
    uint64_t rejected; /* in the interval */
    double lane_in[LANES_MAX], lane_applied[LANES_MAX], lane_bytes[LANES_MAX];
    double cpu[WORKERS_MAX];              /* 1.0: one processor */
    struct merged latency[LATENCY_COUNT]; /* of the interval */
    int64_t behind_ms[LANES_MAX];         /* age of the oldest record that is not in Redis, at most; -1 unknown */
    int64_t behind_most_ms;
    uint64_t interval_ns;
};

/* When each lane was last seen without lag: what has come since cannot be older. Zeroed: never. */
struct caught_up {
    int64_t wall_ms[LANES_MAX];
};

/* sample_change fills *out. before NULL: rates are unknown, the rest is not. */
void sample_change(struct change *out, const struct sample *before, const struct sample *now, struct caught_up *caught);

/* The increase of a counter, per second; and of a histogram. */
double sample_rate(uint64_t before, uint64_t now, uint64_t ns);
void sample_histogram(struct merged *out, const struct merged *before, const struct merged *now);

#endif

/* Reading the stats segment by the names in it, for the renderers. Every access is checked against the sizes in the
 * header,
 * which stats_open has checked against the file. Private to shm/stats_*.c. */
#ifndef MILLRACE_SHM_STATS_VIEW_H
#define MILLRACE_SHM_STATS_VIEW_H

#include "shm/stats.h"

/* Rows of metrics.def as the segment has them. */
const struct stats_metric *view_row(const struct stats *s, uint32_t i);
bool view_row_is(const struct stats_metric *row, const char *type);  /* counter gauge histogram */
bool view_unit_is(const struct stats_metric *row, const char *unit); /* none bytes seconds */

/* Whose metric is it: `worker` rows are in every block but the supervisor's. */
bool view_row_in(const struct stats_metric *row, const struct stats_block *b);

/* A counter or gauge of one block, or summed over the blocks that have it. */
uint64_t view_value(const struct stats *s, const struct stats_metric *row, const struct stats_block *b);
uint64_t view_sum(const struct stats *s, const struct stats_metric *row);

/* The same by name; 0 when the segment has no such row. */
uint64_t view_sum_named(const struct stats *s, const char *role, const char *name);
uint64_t view_value_named(const struct stats *s, const struct stats_block *b, const char *role, const char *name);

struct merged { /* one histogram of one block, or of all that have it */
    uint64_t count, sum_ns;
    uint64_t bucket[HISTOGRAM_BUCKETS];
};
void view_histogram(const struct stats *s, const struct stats_metric *row, const struct stats_block *only,
                    struct merged *m);

/* Upper bound of the bucket that holds the quantile, in ms; INFINITY when that is the last one, which has no bound: all
 * that is known is "more than VIEW_QUANTILE_MS_MOST". -1: empty. */
#define VIEW_QUANTILE_MS_MOST ((double)(1ULL << HISTOGRAM_HIGH_BITS) / 1e6)
double view_quantile_ms(const struct merged *m, double q);

struct lane_numbers { /* numbers of the last record that each stage has passed on; audit: released, or with audit off
                         what the sink has */
    uint64_t ingest, transform, sink, audit;
};
uint32_t view_lane_count(const struct stats *s);
bool view_audited(const struct stats *s); /* whether it has an audit stage */
/* view_lane: never audit > sink, sink > transform or transform > ingest. */
struct lane_numbers view_lane(const struct stats *s, uint32_t lane);

struct partition_numbers { /* next offsets; -1 unknown */
    int64_t position, released, committed, low, high, lag;
    int64_t lost_from, lost_to; /* from below to; 0 and 0: no offsets are lost */
    bool assigned;
    uint32_t epoch;
};
uint32_t view_partition_count(const struct stats *s);
struct partition_numbers view_partition(const struct stats_partition *p);
const char *view_topic(const struct stats *s, uint32_t i); /* "?" when there is no such topic */

/* Fields of a block. */
uint32_t view_pid(const struct stats_block *b);
uint64_t view_starts(const struct stats_block *b);
uint64_t view_deaths(const struct stats_block *b);
uint32_t view_state(const struct stats_block *b);
const char *view_state_name(const struct stats_block *b);
uint64_t view_heartbeat_age_ms(const struct stats_block *b);
uint64_t view_published(const struct stats_block *b);
const char *view_role(const struct stats_block *b);

bool view_supervisor_alive(const struct stats *s);

#endif

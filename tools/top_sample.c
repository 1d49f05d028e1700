#include "tools/top_sample.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "shm/stats_render.h"
#include "tools/rings.h"

/* -- one look ---------------------------------------------------------------------------------- */

static void workers_take(struct sample *out, const struct stats *s) {
    for (uint32_t i = 1; i < s->header->block_count && out->worker_count < WORKERS_MAX; i++) {
        const struct stats_block *b = stats_block(s, i);
        struct sample_worker *w = &out->worker[out->worker_count++];
        *w = (struct sample_worker){
            .role = (enum role)b->role,
            .lane = b->lane,
            .pid = view_pid(b),
            .state = view_state(b),
            .deaths = view_deaths(b),
            .cpu_ns = view_value_named(s, b, "worker", "cpu"),
            .memory = view_value_named(s, b, "worker", "memory_peak"),
            .silent_ms = view_heartbeat_age_ms(b),
        };
        stats_text_get(&b->reason, w->reason);
    }
}

static int by_trouble(const void *a, const void *b) {
    const struct sample_partition *x = a, *y = b;
    bool lost_x = x->numbers.lost_to != 0, lost_y = y->numbers.lost_to != 0;
    if (lost_x != lost_y) return lost_x ? -1 : 1;
    if (x->numbers.lag != y->numbers.lag) return x->numbers.lag > y->numbers.lag ? -1 : 1;
    if (x->topic != y->topic) return x->topic < y->topic ? -1 : 1;
    return (x->partition > y->partition) - (x->partition < y->partition);
}

static void lag_add(int64_t *sum, int64_t lag) {
    if (lag >= 0) *sum = (*sum < 0 ? 0 : *sum) + lag;
}

/* Partitions with an unknown lag (nothing came yet) make that of the lane unknown only when all are. */
static void partitions_take(struct sample *out, const struct stats *s) {
    for (uint32_t i = 0, n = view_partition_count(s); i < n; i++) {
        const struct stats_partition *p = stats_partition(s, i);
        struct sample_partition one = {
            .topic = p->topic, .lane = p->lane, .partition = p->partition, .numbers = view_partition(p)};
        if (!one.numbers.assigned) continue;
        out->partition[out->partition_count++] = one;
        out->lost_count += one.numbers.lost_to != 0;
        lag_add(&out->lag, one.numbers.lag);
        if (one.lane < out->lane_count) lag_add(&out->lane[one.lane].lag, one.numbers.lag);
    }
    qsort(out->partition, out->partition_count, sizeof out->partition[0], by_trouble);
}

static void lanes_take(struct sample *out, const struct stats *s) {
    out->lane_count = view_lane_count(s);
    out->ring_count = view_audited(s) ? RING_COUNT : RING_TO_AUDIT;
    for (uint32_t i = 0; i < out->lane_count; i++) {
        const struct stats_block *sink = stats_block(s, stats_block_index(ROLE_SINK, i));
        struct lane_numbers n = view_lane(s, i);
        out->lane[i] = (struct sample_lane){
            .in = n.ingest,
            .applied = view_value_named(s, sink, "sink", "record_applied"),
            .bytes = view_value_named(s, sink, "sink", "byte_sent"),
            .lag = -1,
            .timestamp_ms = (int64_t)(view_value_named(s, sink, "sink", "record_timestamp") / NS_PER_MS),
            .ring = {{.records = n.ingest - n.transform},
                     {.records = n.transform - n.sink},
                     {.records = n.sink - n.audit}},
        };
    }
}

static void ring_take(struct sample *out, const struct rings *rings, uint32_t i) {
    struct ring_fds copy;
    struct ring_snapshot snapshot;
    char stage[24];
    unsigned lane;
    if (sscanf(rings->one[i].name, "%23[a-z][%u]", stage, &lane) != 2 || lane >= out->lane_count) return;
    static const char *const from[RING_COUNT] = {"ingest", "transform", "sink"};
    int which = 0;
    while (which < RING_COUNT && strcmp(stage, from[which]) != 0) which++;
    if (which == RING_COUNT || rings_take(rings, i, RING_FILE_CONTROL, &copy, NULL) != 0) return;
    if (ring_observe(&copy, &snapshot, NULL) == RING_ATTACHED) {
        out->lane[lane].ring[which].bytes = snapshot.tail - snapshot.head;
        out->lane[lane].ring[which].capacity = snapshot.capacity;
    }
    ring_file_drop(&copy);
}

static void rings_fill_take(struct sample *out, const struct stats *s) {
    static struct rings rings; /* large */
    uint32_t pid = view_pid(stats_block(s, 0));
    if (pid == 0 || rings_of_process(&rings, (pid_t)pid, NULL) != 0) return;
    for (uint32_t i = 0; i < rings.count; i++) ring_take(out, &rings, i);
    rings_close(&rings);
}

static void latency_take(struct sample *out, const struct stats *s) {
    static const char *const names[LATENCY_COUNT] = {"kafka_to_ingest", "ingest_to_redis", "kafka_to_redis"};
    for (uint32_t i = 0; i < s->header->metric_count; i++) {
        const struct stats_metric *row = view_row(s, i);
        for (int k = 0; k < LATENCY_COUNT; k++)
            if (view_row_is(row, "histogram") && strncmp(row->name, names[k], sizeof row->name) == 0)
                view_histogram(s, row, NULL, &out->latency[k]);
    }
}

void sample_take(struct sample *out, const struct stats *s) {
    const struct stats_header *h = s->header;
    memset(out, 0, sizeof *out);
    out->present = true;
    out->at_ns = clock_ns(&clock_real);
    out->wall_ms = clock_wall_ms(&clock_real);
    out->lag = -1;
    snprintf(out->name, sizeof out->name, "%.*s", NAME_BYTES - 1, h->name);
    snprintf(out->instance, sizeof out->instance, "%.*s", NAME_BYTES - 1, h->instance);
    out->state = stats_state(s, out->reason);
    out->up_ms = out->wall_ms > h->started_wall_ms ? (uint64_t)(out->wall_ms - h->started_wall_ms) : 0;
    out->read = view_sum_named(s, "ingest", "record_read");
    out->read_bytes = view_sum_named(s, "ingest", "byte_read");
    out->applied = view_sum_named(s, "sink", "record_applied");
    out->sent_bytes = view_sum_named(s, "sink", "byte_sent");
    out->rejected = view_sum_named(s, "transform", "record_reject");
    out->deaths = view_sum_named(s, "supervisor", "child_died");
    for (uint32_t i = 0; i < h->topic_count && i < TOPICS_MAX; i++)
        snprintf(out->topic[i], TOPIC_BYTES, "%s", view_topic(s, i));
    workers_take(out, s);
    lanes_take(out, s);
    partitions_take(out, s);
    rings_fill_take(out, s);
    latency_take(out, s);
}

void sample_missing(struct sample *out, const char *name, const char *why) {
    memset(out, 0, sizeof *out);
    out->at_ns = clock_ns(&clock_real);
    out->wall_ms = clock_wall_ms(&clock_real);
    out->lag = -1;
    out->state = "down";
    snprintf(out->name, sizeof out->name, "%s", name);
    snprintf(out->missing, sizeof out->missing, "%s", why);
}

/* -- the difference of two --------------------------------------------------------------------- */

static uint64_t increase(uint64_t before, uint64_t now) { return now >= before ? now - before : now; }

double sample_rate(uint64_t before, uint64_t now, uint64_t ns) {
    return ns == 0 ? 0 : (double)increase(before, now) * 1e9 / (double)ns;
}

void sample_histogram(struct merged *out, const struct merged *before, const struct merged *now) {
    bool anew = now->sum_ns < before->sum_ns;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) anew |= now->bucket[i] < before->bucket[i];
    *out = *now;
    if (anew) return;
    out->sum_ns -= before->sum_ns;
    out->count = 0;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        out->bucket[i] -= before->bucket[i];
        out->count += out->bucket[i];
    }
}

static void behind(struct change *out, const struct sample *now, struct caught_up *caught) {
    out->behind_most_ms = -1;
    for (uint32_t i = 0; i < now->lane_count; i++) {
        const struct sample_lane *l = &now->lane[i];
        int64_t since = l->timestamp_ms;
        if (l->lag == 0) caught->wall_ms[i] = now->wall_ms;
        if (caught->wall_ms[i] > since) since = caught->wall_ms[i];
        int64_t age = now->wall_ms > since ? now->wall_ms - since : 0;
        out->behind_ms[i] = l->lag == 0 ? 0 : l->lag < 0 || since == 0 ? -1 : age;
        if (out->behind_ms[i] > out->behind_most_ms) out->behind_most_ms = out->behind_ms[i];
    }
}

void sample_change(struct change *out, const struct sample *before, const struct sample *now,
                   struct caught_up *caught) {
    *out = (struct change){0};
    behind(out, now, caught);
    if (before == NULL || !before->present || !now->present || now->at_ns <= before->at_ns) return;
    uint64_t ns = now->at_ns - before->at_ns;
    out->known = true;
    out->interval_ns = ns;
    out->read = sample_rate(before->read, now->read, ns);
    out->read_bytes = sample_rate(before->read_bytes, now->read_bytes, ns);
    out->applied = sample_rate(before->applied, now->applied, ns);
    out->sent_bytes = sample_rate(before->sent_bytes, now->sent_bytes, ns);
    out->rejected = increase(before->rejected, now->rejected);
    for (uint32_t i = 0; i < now->lane_count; i++) {
        out->lane_in[i] = sample_rate(before->lane[i].in, now->lane[i].in, ns);
        out->lane_applied[i] = sample_rate(before->lane[i].applied, now->lane[i].applied, ns);
        out->lane_bytes[i] = sample_rate(before->lane[i].bytes, now->lane[i].bytes, ns);
    }
    for (uint32_t i = 0; i < now->worker_count; i++)
        out->cpu[i] = sample_rate(before->worker[i].cpu_ns, now->worker[i].cpu_ns, ns) / 1e9;
    for (int k = 0; k < LATENCY_COUNT; k++) sample_histogram(&out->latency[k], &before->latency[k], &now->latency[k]);
}

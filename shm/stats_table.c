/* The stats segment as a table for people, at most 80 columns wide. */
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/grouped.h"
#include "shm/stats_render.h"
#include "shm/stats_view.h"

/* Two units are enough: 3d 4h, 12m 5s, 1.2s, 40ms. */
static const char *spell_ms(uint64_t ms, char out[GROUPED_BYTES]) {
    uint64_t s = ms / 1000;
    if (ms < 1000)
        snprintf(out, GROUPED_BYTES, "%" PRIu64 "ms", ms);
    else if (s < 60)
        snprintf(out, GROUPED_BYTES, "%" PRIu64 ".%" PRIu64 "s", s, ms % 1000 / 100);
    else if (s < 3600)
        snprintf(out, GROUPED_BYTES, "%" PRIu64 "m %" PRIu64 "s", s / 60, s % 60);
    else if (s < 86400)
        snprintf(out, GROUPED_BYTES, "%" PRIu64 "h %" PRIu64 "m", s / 3600, s % 3600 / 60);
    else
        snprintf(out, GROUPED_BYTES, "%" PRIu64 "d %" PRIu64 "h", s / 86400, s % 86400 / 3600);
    return out;
}

/* Text of Redis or Kafka in a reason must not steer the terminal. */
static void safe_put(const char *text, FILE *out) {
    for (const unsigned char *p = (const unsigned char *)text; *p != 0; p++)
        fputc(*p < 0x20 || *p == 0x7f || (*p == 0xc2 && p[1] < 0xa0) ? '?' : *p, out);
}

static void head_put(const struct stats *s, FILE *out) {
    const struct stats_header *h = s->header;
    char reason[STATS_TEXT_BYTES], up[GROUPED_BYTES];
    const char *state = stats_state(s, reason);
    int64_t age_ms = clock_wall_ms(&clock_real) - h->started_wall_ms;
    fprintf(out, "%s/%s  %s", h->name, h->instance, state);
    if (strcmp(state, "stopped") != 0) fprintf(out, ", up %s", spell_ms(age_ms < 0 ? 0 : (uint64_t)age_ms, up));
    fputs(reason[0] != 0 ? ": " : "", out);
    safe_put(reason, out);
    fprintf(out, "\ngroup %s, build %s, supervisor pid %u\n", h->group, h->build, view_pid(stats_block(s, 0)));
}

static void worker_put(const struct stats *s, const struct stats_block *b, FILE *out) {
    char name[24], alive[GROUPED_BYTES], cpu[GROUPED_BYTES], pid[16] = "-", reason[STATS_TEXT_BYTES] = "";
    snprintf(name, sizeof name, b->lane >= 0 ? "%s[%d]" : "%s", view_role(b), b->lane);
    if (view_pid(b) != 0) snprintf(pid, sizeof pid, "%u", view_pid(b));
    spell_ms(view_value_named(s, b, "worker", "cpu") / NS_PER_MS, cpu);
    snprintf(alive, sizeof alive, "-");
    if (view_pid(b) != 0) spell_ms(view_heartbeat_age_ms(b), alive);
    fprintf(out, "%-14s %-10s %8s %7" PRIu64 " %10s %10s %6" PRIu64 "MiB\n", name, view_state_name(b), pid,
            view_deaths(b), alive, cpu, view_value_named(s, b, "worker", "memory_peak") >> 20);
    stats_text_get(&b->reason, reason);
    if (reason[0] == 0) return;
    fputs("               ", out);
    safe_put(reason, out);
    fputc('\n', out);
}

static void lanes_put(const struct stats *s, FILE *out) {
    char text[5][GROUPED_BYTES];
    const bool audited = view_audited(s);
    const int width = audited ? 13 : 16;
    fprintf(out, "\n%-6s %*s %*s %*s", "LANE", width, "READ", width, "TRANSFORMED", width, "IN REDIS");
    if (audited) fprintf(out, " %*s", width, "IN THE LOG");
    fprintf(out, " %*s\n", width, "ON THE WAY");
    for (uint32_t lane = 0; lane < view_lane_count(s); lane++) {
        struct lane_numbers n = view_lane(s, lane);
        fprintf(out, "%-6u %*s %*s %*s", lane, width, grouped(n.ingest, text[0]), width, grouped(n.transform, text[1]),
                width, grouped(n.sink, text[2]));
        if (audited) fprintf(out, " %*s", width, grouped(n.audit, text[3]));
        fprintf(out, " %*s\n", width, grouped(n.ingest - n.audit, text[4]));
    }
}

/* Partitions may be a thousand: one line a topic, with the partition that is furthest behind. */
static void topic_put(const struct stats *s, uint32_t topic, FILE *out) {
    char lag_text[GROUPED_BYTES], most_text[GROUPED_BYTES];
    uint32_t assigned = 0, unknown = 0;
    int64_t lag = 0, most = -1;
    int32_t behind = -1;
    for (uint32_t i = 0, count = view_partition_count(s); i < count; i++) {
        const struct stats_partition *p = stats_partition(s, i);
        struct partition_numbers n = view_partition(p);
        if (p->topic != topic || !n.assigned) continue;
        assigned++;
        unknown += n.lag < 0;
        if (n.lag > 0) lag += n.lag;
        if (n.lag <= most) continue;
        most = n.lag;
        behind = p->partition;
    }
    fprintf(out, "%-40s %10u %14s", view_topic(s, topic), assigned,
            unknown == assigned ? "-" : grouped((uint64_t)lag, lag_text));
    if (most > 0) fprintf(out, "  %s in %d", grouped((uint64_t)most, most_text), behind);
    fputc('\n', out);
}

/* Lost offsets are named one by one: each is for somebody to decide about. */
static void lost_put(const struct stats *s, FILE *out) {
    bool first = true;
    for (uint32_t i = 0, count = view_partition_count(s); i < count; i++) {
        const struct stats_partition *p = stats_partition(s, i);
        struct partition_numbers n = view_partition(p);
        if (n.lost_to == 0) continue;
        fprintf(out, "%soffsets [%" PRId64 ",%" PRId64 ") lost: %s[%d]\n", first ? "\n" : "", n.lost_from, n.lost_to,
                view_topic(s, p->topic), p->partition);
        first = false;
    }
}

static void quantile_put(const struct merged *m, double q, FILE *out) {
    char text[32];
    double ms = view_quantile_ms(m, q);
    snprintf(text, sizeof text, isinf(ms) ? ">%.0f" : "%.3f", isinf(ms) ? VIEW_QUANTILE_MS_MOST : ms);
    fprintf(out, " %12s", text);
}

static void latency_put(const struct stats *s, FILE *out) {
    struct merged m;
    bool first = true;
    for (uint32_t i = 0; i < s->header->metric_count; i++) {
        const struct stats_metric *row = view_row(s, i);
        if (!view_row_is(row, "histogram")) continue;
        view_histogram(s, row, NULL, &m);
        if (m.count == 0) continue;
        if (first) fprintf(out, "\n%-40s %12s %12s %12s\n", "MILLISECONDS", "P50", "P99", "P99.9");
        first = false;
        fprintf(out, "%-40.*s", (int)sizeof row->name, row->name);
        quantile_put(&m, 0.5, out);
        quantile_put(&m, 0.99, out);
        quantile_put(&m, 0.999, out);
        fputc('\n', out);
    }
}

/* What an operator should not have to look for: only what has happened is listed. */
static void troubles_put(const struct stats *s, FILE *out) {
    static const struct {
        const char *role, *name, *text;
    } troubles[] = {
        {"supervisor", "child_died", "worker deaths"},
        {"supervisor", "child_hung", "workers hung"},
        {"supervisor", "ring_reset", "times broken rings made anew"},
        {"supervisor", "record_poison", "poisonous records"},
        {"transform", "record_reject", "records rejected"},
        {"ingest", "commit_fail", "failed commits"},
        {"ingest", "kafka_error", "Kafka errors"},
        {"sink", "redis_connect_fail", "failed connects to Redis"},
        {"sink", "redis_error_reply", "error replies of Redis"},
        {"sink", "record_resent", "records sent again"},
        {"sink", "mark_mismatch", "marks that differ"},
        {"sink", "write_lost", "writes that Redis lost, written again"},
        {"audit", "write_fail", "failed writes of the audit log"},
        {"ingest", "offset_lost", "offsets accepted as lost"},
    };
    char number[GROUPED_BYTES];
    const char *lead = "\nsince start: ";
    for (size_t i = 0; i < sizeof troubles / sizeof troubles[0]; i++) {
        uint64_t n = view_sum_named(s, troubles[i].role, troubles[i].name);
        if (n == 0) continue;
        fprintf(out, "%s%s %s", lead, grouped(n, number), troubles[i].text);
        lead = ",\n             ";
    }
    if (lead[0] == ',') fputc('\n', out);
}

void stats_render_table(const struct stats *s, FILE *out) {
    head_put(s, out);
    fprintf(out, "\n%-14s %-10s %8s %7s %10s %10s %9s\n", "WORKER", "STATE", "PID", "DEATHS", "LAST SEEN", "CPU",
            "MEMORY");
    for (uint32_t i = 1; i < s->header->block_count; i++) worker_put(s, stats_block(s, i), out);
    lanes_put(s, out);
    fprintf(out, "\n%-40s %10s %14s  %s\n", "TOPIC", "PARTITIONS", "LAG", "MOST BEHIND");
    for (uint32_t i = 0; i < s->header->topic_count; i++) topic_put(s, i, out);
    lost_put(s, out);
    latency_put(s, out);
    troubles_put(s, out);
}

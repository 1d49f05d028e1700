/* The stats segment as JSON. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/json_text.h"
#include "base/utc.h"
#include "shm/stats_render.h"
#include "shm/stats_view.h"

static void json_member(const char *name, const char *text, const char *end, FILE *out) {
    fprintf(out, "\"%s\": ", name);
    json_text_put(text, strlen(text), out);
    fputs(end, out);
}

static void json_number(const struct stats_metric *row, uint64_t value, FILE *out) {
    if (view_unit_is(row, "seconds"))
        fprintf(out, "%" PRIu64 ".%06" PRIu64, value / (uint64_t)NS_PER_S, value % (uint64_t)NS_PER_S / 1000);
    else
        fprintf(out, "%" PRIu64, value);
}

/* The metrics of one block, or with NULL of all together; prefixed: names carry their role. */
static void json_metrics(const struct stats *s, const struct stats_block *b, FILE *out) {
    const char *comma = "";
    fputc('{', out);
    for (uint32_t i = 0; i < s->header->metric_count; i++) {
        const struct stats_metric *row = view_row(s, i);
        if (view_row_is(row, "histogram") || (b != NULL && !view_row_in(row, b))) continue;
        fprintf(out, "%s\n      \"%.*s_%.*s\": ", comma, (int)sizeof row->role, row->role, (int)sizeof row->name,
                row->name);
        json_number(row, b != NULL ? view_value(s, row, b) : view_sum(s, row), out);
        comma = ",";
    }
    fputs("}", out);
}

static void json_rejects(const struct stats *s, FILE *out) {
    const char *comma = "";
    fputs("  \"rejects\": {", out);
    for (uint32_t i = 0; i < s->header->metric_count; i++) {
        const struct stats_metric *row = view_row(s, i);
        if (strncmp(row->role, "transform", sizeof row->role) != 0 || strncmp(row->name, "reject_", 7) != 0) continue;
        fprintf(out, "%s\"%.*s\": %" PRIu64, comma, (int)sizeof row->name - 7, row->name + 7, view_sum(s, row));
        comma = ", ";
    }
    fputs("},\n", out);
}

/* JSON has no infinity: what lies beyond every bucket is null. */
static void json_quantile(const char *name, const struct merged *m, double q, const char *end, FILE *out) {
    double ms = view_quantile_ms(m, q);
    fprintf(out, "\"%s\": ", name);
    if (isinf(ms))
        fputs("null", out);
    else
        fprintf(out, "%.3f", ms);
    fputs(end, out);
}

static void json_histograms(const struct stats *s, FILE *out) {
    const char *comma = "";
    struct merged m;
    fputs("  \"histograms\": {", out);
    for (uint32_t i = 0; i < s->header->metric_count; i++) {
        const struct stats_metric *row = view_row(s, i);
        if (!view_row_is(row, "histogram")) continue;
        view_histogram(s, row, NULL, &m);
        fprintf(out, "%s\n    \"%.*s_%.*s\": {\"count\": %" PRIu64 ", \"sum_ms\": %.3f, ", comma, (int)sizeof row->role,
                row->role, (int)sizeof row->name, row->name, m.count, (double)m.sum_ns / 1e6);
        json_quantile("p50_ms", &m, 0.5, ", ", out);
        json_quantile("p99_ms", &m, 0.99, ", ", out);
        json_quantile("p99.9_ms", &m, 0.999, "}", out);
        comma = ",";
    }
    fputs("\n  },\n", out);
}

static void json_worker(const struct stats *s, uint32_t index, FILE *out) {
    const struct stats_block *b = stats_block(s, index);
    char reason[STATS_TEXT_BYTES] = "";
    stats_text_get(&b->reason, reason);
    fprintf(out, "%s\n    {", index == 1 ? "" : ",");
    json_member("role", view_role(b), ", ", out);
    fprintf(out, "\"lane\": %d, \"pid\": %u, \"starts\": %" PRIu64 ", \"deaths\": %" PRIu64 ", ", b->lane, view_pid(b),
            view_starts(b), view_deaths(b));
    json_member("state", view_state_name(b), ", ", out);
    json_member("reason", reason, ", ", out);
    fprintf(out, "\"heartbeat_age_ms\": %" PRIu64 ",\n     \"metrics\": ", view_heartbeat_age_ms(b));
    json_metrics(s, b, out);
    fputc('}', out);
}

static void json_lanes(const struct stats *s, FILE *out) {
    fputs("  \"lanes\": [", out);
    for (uint32_t lane = 0; lane < view_lane_count(s); lane++) {
        struct lane_numbers n = view_lane(s, lane);
        fprintf(out,
                "%s\n    {\"lane\": %u, \"ingest_published\": %" PRIu64 ", \"transform_published\": %" PRIu64
                ", \"sink_published\": %" PRIu64 ", \"released\": %" PRIu64 "}",
                lane == 0 ? "" : ",", lane, n.ingest, n.transform, n.sink, n.audit);
    }
    fputs("\n  ],\n", out);
}

static void json_partitions(const struct stats *s, FILE *out) {
    const char *comma = "";
    fputs("  \"partitions\": [", out);
    for (uint32_t i = 0, count = view_partition_count(s); i < count; i++) {
        const struct stats_partition *p = stats_partition(s, i);
        struct partition_numbers n = view_partition(p);
        fprintf(out, "%s\n    {", comma);
        json_member("topic", view_topic(s, p->topic), ", ", out);
        fprintf(out, "\"partition\": %d, \"lane\": %u, \"assigned\": %s, \"epoch\": %u, ", p->partition, p->lane,
                n.assigned ? "true" : "false", n.epoch);
        fprintf(out, "\"position\": %" PRId64 ", \"released\": %" PRId64 ", \"committed\": %" PRId64 ", ", n.position,
                n.released, n.committed);
        fprintf(out, "\"low\": %" PRId64 ", \"high\": %" PRId64 ", \"lag\": %" PRId64 ", \"lost\": ", n.low, n.high,
                n.lag);
        if (n.lost_to > 0)
            fprintf(out, "{\"from\": %" PRId64 ", \"to\": %" PRId64 "}}", n.lost_from, n.lost_to);
        else
            fputs("null}", out);
        comma = ",";
    }
    fputs("\n  ],\n", out);
}

static void json_started(const struct stats *s, FILE *out) {
    char text[UTC_BYTES];
    utc_text_ms(text, s->header->started_wall_ms, 0);
    json_member("started", text, ",\n", out);
}

void stats_render_json(const struct stats *s, FILE *out) {
    char reason[STATS_TEXT_BYTES], supervisor_reason[STATS_TEXT_BYTES] = "";
    const struct stats_block *supervisor = stats_block(s, 0);
    const char *state = stats_state(s, reason);
    stats_text_get(&supervisor->reason, supervisor_reason);
    fputs("{\n  ", out);
    json_member("name", s->header->name, ", ", out);
    json_member("instance", s->header->instance, ", ", out);
    json_member("group", s->header->group, ", ", out);
    json_member("build", s->header->build, ",\n  ", out);
    json_started(s, out);
    fputs("  ", out);
    json_member("state", state, ", ", out);
    json_member("reason", reason, ",\n", out);
    fprintf(out, "  \"supervisor\": {\"pid\": %u, ", view_pid(supervisor));
    json_member("state", view_state_name(supervisor), ", ", out);
    json_member("reason", supervisor_reason, ", ", out);
    fprintf(out, "\"heartbeat_age_ms\": %" PRIu64 "},\n  \"workers\": [", view_heartbeat_age_ms(supervisor));
    for (uint32_t i = 1; i < s->header->block_count; i++) json_worker(s, i, out);
    fputs("\n  ],\n", out);
    json_lanes(s, out);
    json_partitions(s, out);
    json_rejects(s, out);
    json_histograms(s, out);
    fputs("  \"metrics\": ", out);
    json_metrics(s, NULL, out);
    fputs("\n}\n", out);
}

/* The stats segment as text for Prometheus, and the page that documents every name. */
#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "shm/stats_render.h"
#include "shm/stats_view.h"

/* What is shown beside the rows of metrics.def. Prometheus puts "millrace_" before the name. */
#define STATS_SERIES(X)                                                                                                \
    X(info, "gauge", "Always 1; the labels build and group say what runs.")                                            \
    X(up, "gauge", "1 while the supervisor's process is there.")                                                       \
    X(worker_state, "gauge", "1 for the state each worker is in, 0 for the others.")                                   \
    X(worker_start_total, "counter", "Times the worker was started, also by a reload.")                                \
    X(worker_death_total, "counter", "Ends of the worker that nobody asked for.")                                      \
    X(worker_heartbeat_age_seconds, "gauge", "Time since the worker's last sign of life.")                             \
    X(lane_publish_total, "counter",                                                                                   \
      "Records a stage has passed on, markers included; of the sink: that Redis has acknowledged; of audit: that "     \
      "are in its log.")                                                                                               \
    X(partition_position, "gauge", "Next offset to read.")                                                             \
    X(partition_released, "gauge", "Next offset after what Redis has acknowledged.")                                   \
    X(partition_committed, "gauge", "Next offset last committed.")                                                     \
    X(partition_low, "gauge", "First offset that Kafka still has.")                                                    \
    X(partition_high, "gauge", "Offset after the last record in Kafka.")                                               \
    X(partition_lag, "gauge", "Records in Kafka that are not in Redis yet.")                                           \
    X(partition_lost_offsets, "gauge", "Offsets that Redis needs again and Kafka no longer has; 0: none.")

static const struct {
    const char *name, *type, *help;
} series[] = {
#define X(name, type, help) {#name, type, help},
    STATS_SERIES(X)
#undef X
};
enum series_index {
#define X(name, type, help) SERIES_##name,
    STATS_SERIES(X)
#undef X
        SERIES_COUNT
};

static void label_text(const char *text, FILE *out) {
    for (const char *p = text; *p != 0; p++)
        if (*p == '\n')
            fputs("\\n", out);
        else
            fprintf(out, "%s%c", *p == '"' || *p == '\\' ? "\\" : "", *p);
}

/* The labels that every sample carries, and those of its worker; the brace stays open. */
static void labels_put(const struct stats *s, const struct stats_block *b, FILE *out) {
    fputs("{name=\"", out);
    label_text(s->header->name, out);
    fputs("\",instance_name=\"", out);
    label_text(s->header->instance, out);
    fputc('"', out);
    if (b == NULL) return;
    fprintf(out, ",role=\"%s\"", view_role(b));
    if (b->lane >= 0) fprintf(out, ",lane=\"%d\"", b->lane);
}

/* The name without "millrace_": the unit, then _total of a counter. */
static void metric_name(const struct stats_metric *row, char out[96]) {
    const char *unit = view_unit_is(row, "bytes") ? "_bytes" : view_unit_is(row, "seconds") ? "_seconds" : "";
    snprintf(out, 96, "%.*s_%.*s%s%s", (int)sizeof row->role, row->role, (int)sizeof row->name, row->name, unit,
             view_row_is(row, "counter") ? "_total" : "");
}

static void family_put(const char *name, const char *type, const char *help, int help_bytes, FILE *out) {
    fprintf(out, "# HELP millrace_%s %.*s\n# TYPE millrace_%s %s\n", name, help_bytes, help, name, type);
}

static void series_put(enum series_index i, FILE *out) {
    family_put(series[i].name, series[i].type, series[i].help, (int)strlen(series[i].help), out);
}

/* One bound per power of two is enough for graphs; the table and the JSON use all buckets. */
static void prometheus_histogram(const struct stats *s, const struct stats_metric *row, const char *name,
                                 const struct stats_block *b, FILE *out) {
    struct merged m;
    uint64_t below = 0;
    uint32_t k = 0;
    view_histogram(s, row, b, &m);
    for (unsigned power = HISTOGRAM_LOW_BITS; power <= HISTOGRAM_HIGH_BITS; power++) {
        for (; k < HISTOGRAM_BUCKETS && histogram_bound_ns(k) <= 1ULL << power; k++) below += m.bucket[k];
        fprintf(out, "millrace_%s_bucket", name);
        labels_put(s, b, out);
        fprintf(out, ",le=\"%.9g\"} %" PRIu64 "\n", (double)(1ULL << power) / 1e9, below);
    }
    fprintf(out, "millrace_%s_bucket", name);
    labels_put(s, b, out);
    fprintf(out, ",le=\"+Inf\"} %" PRIu64 "\nmillrace_%s_sum", m.count, name);
    labels_put(s, b, out);
    fprintf(out, "} %.9f\nmillrace_%s_count", (double)m.sum_ns / 1e9, name);
    labels_put(s, b, out);
    fprintf(out, "} %" PRIu64 "\n", m.count);
}

static bool row_in_any(const struct stats *s, const struct stats_metric *row) {
    for (uint32_t i = 0; i < s->header->block_count; i++)
        if (view_row_in(row, stats_block(s, i))) return true;
    return false;
}

static void prometheus_row(const struct stats *s, const struct stats_metric *row, FILE *out) {
    char name[96];
    bool histogram = view_row_is(row, "histogram");
    if (!row_in_any(s, row)) return; /* of audit, which is off */
    metric_name(row, name);
    family_put(name,
               histogram                   ? "histogram"
               : view_row_is(row, "gauge") ? "gauge"
                                           : "counter",
               row->help, (int)sizeof row->help, out);
    for (uint32_t i = 0; i < s->header->block_count; i++) {
        const struct stats_block *b = stats_block(s, i);
        if (!view_row_in(row, b)) continue;
        if (histogram) {
            prometheus_histogram(s, row, name, b, out);
            continue;
        }
        fprintf(out, "millrace_%s", name);
        labels_put(s, b, out);
        fputs("} ", out);
        uint64_t value = view_value(s, row, b);
        if (view_unit_is(row, "seconds"))
            fprintf(out, "%" PRIu64 ".%09" PRIu64 "\n", value / (uint64_t)NS_PER_S, value % (uint64_t)NS_PER_S);
        else
            fprintf(out, "%" PRIu64 "\n", value);
    }
}

static void prometheus_states(const struct stats *s, FILE *out) {
    series_put(SERIES_worker_state, out);
    for (uint32_t i = 1; i < s->header->block_count; i++)
        for (uint32_t state = 0; state < STATE_COUNT; state++) {
            fputs("millrace_worker_state", out);
            labels_put(s, stats_block(s, i), out);
            fprintf(out, ",state=\"%s\"} %d\n", worker_state_name((enum worker_state)state),
                    view_state(stats_block(s, i)) == state);
        }
}

static void prometheus_workers(const struct stats *s, FILE *out) {
    series_put(SERIES_worker_start_total, out);
    for (uint32_t i = 1; i < s->header->block_count; i++) {
        fputs("millrace_worker_start_total", out);
        labels_put(s, stats_block(s, i), out);
        fprintf(out, "} %" PRIu64 "\n", view_starts(stats_block(s, i)));
    }
    series_put(SERIES_worker_death_total, out);
    for (uint32_t i = 1; i < s->header->block_count; i++) {
        fputs("millrace_worker_death_total", out);
        labels_put(s, stats_block(s, i), out);
        fprintf(out, "} %" PRIu64 "\n", view_deaths(stats_block(s, i)));
    }
    series_put(SERIES_worker_heartbeat_age_seconds, out);
    for (uint32_t i = 1; i < s->header->block_count; i++) {
        fputs("millrace_worker_heartbeat_age_seconds", out);
        labels_put(s, stats_block(s, i), out);
        fprintf(out, "} %.3f\n", (double)view_heartbeat_age_ms(stats_block(s, i)) / 1e3);
    }
}

static void prometheus_lanes(const struct stats *s, FILE *out) {
    static const char *const stages[] = {"ingest", "transform", "sink", "audit"};
    const size_t count = view_audited(s) ? 4 : 3;
    series_put(SERIES_lane_publish_total, out);
    for (uint32_t lane = 0; lane < view_lane_count(s); lane++) {
        struct lane_numbers n = view_lane(s, lane);
        const uint64_t values[] = {n.ingest, n.transform, n.sink, n.audit};
        for (size_t i = 0; i < count; i++) {
            fputs("millrace_lane_publish_total", out);
            labels_put(s, NULL, out);
            fprintf(out, ",role=\"%s\",lane=\"%u\"} %" PRIu64 "\n", stages[i], lane, values[i]);
        }
    }
}

static void prometheus_partitions(const struct stats *s, FILE *out) {
    for (int which = SERIES_partition_position; which < SERIES_COUNT; which++) {
        series_put((enum series_index)which, out);
        for (uint32_t i = 0, count = view_partition_count(s); i < count; i++) {
            const struct stats_partition *p = stats_partition(s, i);
            struct partition_numbers n = view_partition(p);
            const int64_t values[] = {
                n.position, n.released, n.committed, n.low, n.high, n.lag, n.lost_to - n.lost_from};
            int64_t value = values[which - SERIES_partition_position];
            if (value < 0 || !n.assigned) continue; /* unknown, or another's */
            fprintf(out, "millrace_%s", series[which].name);
            labels_put(s, NULL, out);
            fputs(",topic=\"", out);
            label_text(view_topic(s, p->topic), out);
            fprintf(out, "\",partition=\"%d\"} %" PRId64 "\n", p->partition, value);
        }
    }
}

void stats_render_prometheus(const struct stats *s, FILE *out) {
    series_put(SERIES_info, out);
    fputs("millrace_info", out);
    labels_put(s, NULL, out);
    fputs(",group=\"", out);
    label_text(s->header->group, out);
    fputs("\",build=\"", out);
    label_text(s->header->build, out);
    fputs("\"} 1\n", out);
    series_put(SERIES_up, out);
    fputs("millrace_up", out);
    labels_put(s, NULL, out);
    fprintf(out, "} %d\n", view_supervisor_alive(s));
    prometheus_states(s, out);
    prometheus_workers(s, out);
    prometheus_lanes(s, out);
    prometheus_partitions(s, out);
    for (uint32_t i = 0; i < s->header->metric_count; i++) prometheus_row(s, view_row(s, i), out);
}

/* -- the page of documentation ----------------------------------------------------------------- */

/* The rows this program was built with: the page needs no segment. */
static const struct stats_metric built_rows[] = {
#define TYPE_COUNTER "counter"
#define TYPE_GAUGE "gauge"
#define UNIT_NONE "none"
#define UNIT_BYTES "bytes"
#define UNIT_SECONDS "seconds"
#define METRIC(r, n, t, u, h) {#r, #n, TYPE_##t, UNIT_##u, h, 0, 0},
#define HISTOGRAM(r, n, h) {#r, #n, "histogram", "seconds", h, 0, 0},
#define REASON_METRIC(r) {"transform", "reject_" #r, "counter", "none", "Records rejected with reason " #r ".", 0, 0},
#include "shm/metrics.def"
};

void stats_render_markdown(FILE *out) {
    char name[96];
    fputs("# Metrics\n"
          "\n"
          "<!-- Generated by `millrace stats --format markdown` from shm/metrics.def: edit that. -->\n"
          "\n"
          "`millrace stats` shows them as a table, `--format json` for programs, `--format prometheus` as text for\n"
          "Prometheus; with `metrics.textfile` the supervisor writes the latter for the textfile collector of\n"
          "node_exporter.\n"
          "\n"
          "Every name begins with `millrace_`, and every sample has the labels `name` and `instance_name`; those of\n"
          "a process have `role`, and `lane` where there are several of it, those of a partition `topic` and\n"
          "`partition`. Counters go on when a worker is replaced, and over a reload; they begin anew with the\n"
          "supervisor. In JSON the names are `<role>_<name>` without unit and `_total`, times are in seconds, and\n"
          "`metrics` holds the sums over all lanes.\n"
          "\n"
          "| Prometheus | Type | Meaning |\n"
          "|---|---|---|\n",
          out);
    for (size_t i = 0; i < SERIES_COUNT; i++)
        fprintf(out, "| `millrace_%s` | %s | %s |\n", series[i].name, series[i].type, series[i].help);
    for (size_t i = 0; i < sizeof built_rows / sizeof built_rows[0]; i++) {
        const struct stats_metric *row = &built_rows[i];
        metric_name(row, name);
        fprintf(out, "| `millrace_%s` | %s | %s |\n", name, row->type, row->help);
    }
}

#include <regex.h>
#include <signal.h>
#include <yajl/yajl_tree.h>

#include "base/clock.h"
#include "shm/stats_render.h"
#include "tests/unit/tools/command.h"

static struct config config; /* too large for a stack */
static struct stats s;

static void block_set(enum role role, uint32_t lane, enum worker_state state, const char *reason) {
    struct stats_block *b = stats_block(&s, stats_block_index(role, lane));
    b->pid = 1000 + stats_block_index(role, lane);
    b->state = state;
    b->starts = 4;
    b->deaths = 2;
    b->heartbeat_ns = clock_ns(&clock_real) - 40 * NS_PER_MS;
    stats_text_set(&b->reason, reason);
}

static void count(enum role role, uint32_t lane, enum metric m, uint64_t n) {
    stats_block(&s, stats_block_index(role, lane))->value[m] = n;
}

static void partition_set(uint32_t slot, uint32_t topic, int32_t partition, int64_t released, int64_t high) {
    struct stats_partition *p = stats_partition(&s, slot);
    p->topic = topic;
    p->partition = partition;
    p->lane = (uint32_t)partition % 2;
    p->assigned = 1;
    p->epoch = 3;
    p->position = released < 0 ? -1 : released + 5;
    p->released = released;
    p->committed = released < 0 ? -1 : released - 10;
    p->low = 0;
    p->high = high;
}

/* An instance of two lanes as its processes would leave it in the segment; this process stands for the supervisor. */
static void instance_make(void) {
    struct err err = {0};
    int fd;
    folder_make();
    snprintf(config.run_dir, sizeof config.run_dir, "%s", folder);
    snprintf(config.name, sizeof config.name, "cards");
    snprintf(config.instance, sizeof config.instance, "node1");
    snprintf(config.kafka.group_id, sizeof config.kafka.group_id, "millrace-cards");
    config.lanes = 2;
    config.topic_count = 2;
    snprintf(config.topic[0].name, TOPIC_BYTES, "cards.bulk");
    snprintf(config.topic[1].name, TOPIC_BYTES, "cards.change");
    cr_assert_eq(stats_create(&s, &config, &fd, &err), 0, "%s", err.text);
    close(fd);
    block_set(ROLE_SUPERVISOR, 0, STATE_RUNNING, "");
    stats_block(&s, 0)->pid = (uint32_t)getpid();
    block_set(ROLE_INGEST, 0, STATE_RUNNING, "");
    stats_block(&s, 1)->lane_published[0] = 1000;
    stats_block(&s, 1)->lane_published[1] = 2000000;
    for (uint32_t lane = 0; lane < 2; lane++) {
        block_set(ROLE_TRANSFORM, lane, STATE_RUNNING, "");
        block_set(ROLE_SINK, lane, STATE_RUNNING, "");
        stats_block(&s, stats_block_index(ROLE_TRANSFORM, lane))->published = 990;
        stats_block(&s, stats_block_index(ROLE_SINK, lane))->published = 980;
    }
    count(ROLE_INGEST, 0, M_ingest_record_read, 2001000);
    count(ROLE_SINK, 0, M_sink_record_applied, 970);
    count(ROLE_SINK, 1, M_sink_record_applied, 960);
    count(ROLE_SINK, 1, M_worker_cpu, 1500000000);
    count(ROLE_TRANSFORM, 0, M_transform_reject_key_null, 3);
    count(ROLE_TRANSFORM, 1, M_transform_reject_key_null, 4);
    partition_set(0, 0, 0, 100, 150);
    partition_set(1, 1, 1, -1, -1);
    s.header->partition_count = 2;
}

static void instance_drop(void) {
    stats_close(&s);
    folder_remove();
}

/* Prints to memory. */
static const char *rendered(void (*render)(const struct stats *, FILE *)) {
    static char *text;
    size_t len;
    free(text);
    FILE *out = open_memstream(&text, &len);
    render(&s, out);
    fclose(out);
    return text;
}

static yajl_val json(const char *text) {
    static char why[512];
    yajl_val v = yajl_tree_parse(text, why, sizeof why);
    cr_assert_not_null(v, "%s in %s", why, text);
    return v;
}

static yajl_val at(yajl_val v, const char *a, const char *b) {
    const char *path[] = {a, b, NULL};
    yajl_val found = yajl_tree_get(v, path, yajl_t_any);
    cr_assert_not_null(found, "%s.%s", a, b != NULL ? b : "");
    return found;
}

static const char *text_at(yajl_val v, const char *a, const char *b) { return YAJL_GET_STRING(at(v, a, b)); }
static long long number_at(yajl_val v, const char *a, const char *b) { return YAJL_GET_INTEGER(at(v, a, b)); }
static yajl_val item(yajl_val v, const char *list, size_t i) {
    yajl_val l = at(v, list, NULL);
    cr_assert(YAJL_IS_ARRAY(l) && i < l->u.array.len, "%s[%zu]", list, i);
    return l->u.array.values[i];
}

Test(stats, json_has_what_is_documented, .init = instance_make, .fini = instance_drop) {
    yajl_val v = json(rendered(stats_render_json));
    cr_assert_str_eq(text_at(v, "name", NULL), "cards");
    cr_assert_str_eq(text_at(v, "instance", NULL), "node1");
    cr_assert_str_eq(text_at(v, "state", NULL), "running");
    cr_assert_eq(number_at(v, "supervisor", "pid"), getpid());
    cr_assert_eq(at(v, "workers", NULL)->u.array.len, 5, "the supervisor is not among them");
    yajl_val w = item(v, "workers", 4);
    cr_assert_str_eq(text_at(w, "role", NULL), "sink");
    cr_assert_str_eq(text_at(w, "state", NULL), "running");
    cr_assert(number_at(w, "lane", NULL) == 1 && number_at(w, "pid", NULL) == 1005 &&
              number_at(w, "starts", NULL) == 4 && number_at(w, "deaths", NULL) == 2);
    cr_assert(number_at(w, "heartbeat_age_ms", NULL) >= 40 && number_at(w, "heartbeat_age_ms", NULL) < 2000);
    cr_assert_eq(number_at(w, "metrics", "sink_record_applied"), 960);
    cr_assert_eq(number_at(item(v, "workers", 0), "lane", NULL), -1);
    yajl_val l = item(v, "lanes", 1);
    cr_assert(number_at(l, "lane", NULL) == 1 && number_at(l, "ingest_published", NULL) == 2000000);
    cr_assert(number_at(l, "transform_published", NULL) == 990 && number_at(l, "sink_published", NULL) == 980);
    cr_assert_eq(number_at(l, "released", NULL), 980);
    yajl_val p = item(v, "partitions", 0);
    cr_assert_str_eq(text_at(p, "topic", NULL), "cards.bulk");
    cr_assert(number_at(p, "partition", NULL) == 0 && number_at(p, "position", NULL) == 105);
    cr_assert(number_at(p, "released", NULL) == 100 && number_at(p, "committed", NULL) == 90);
    cr_assert(number_at(p, "high", NULL) == 150 && number_at(p, "lag", NULL) == 50);
    yajl_tree_free(v);
}

Test(stats, prometheus_has_nothing_of_an_audit_that_is_off, .init = instance_make, .fini = instance_drop) {
    cr_assert_null(strstr(rendered(stats_render_prometheus), "millrace_audit_"));
    cr_assert_null(strstr(rendered(stats_render_prometheus), "role=\"audit\""));
}

static void instance_audited(void) {
    config.audit = 1;
    instance_make();
    block_set(ROLE_AUDIT, 2, STATE_RUNNING, "");
    block_set(ROLE_RECON, 2, STATE_BLOCKED, "no brokers");
    stats_block(&s, stats_block_index(ROLE_AUDIT, 2))->lane_published[0] = 970;
    stats_block(&s, stats_block_index(ROLE_AUDIT, 2))->lane_published[1] = 975;
}

Test(stats, shows_how_far_audit_is_and_what_ails_recon, .init = instance_audited, .fini = instance_drop) {
    yajl_val v = json(rendered(stats_render_json));
    cr_assert_eq(at(v, "workers", NULL)->u.array.len, 7);
    cr_assert_str_eq(text_at(item(v, "workers", 5), "role", NULL), "audit");
    cr_assert_eq(number_at(item(v, "workers", 6), "lane", NULL), -1);
    cr_assert_eq(number_at(item(v, "lanes", 0), "sink_published", NULL), 980);
    cr_assert_eq(number_at(item(v, "lanes", 0), "released", NULL), 970);
    cr_assert_eq(number_at(item(v, "lanes", 1), "released", NULL), 975);
    cr_assert_eq(stats_released(&s, 1), 975);
    cr_assert_str_eq(text_at(v, "reason", NULL), "no brokers");
    yajl_tree_free(v);
    const char *table = rendered(stats_render_table);
    cr_assert_not_null(strstr(table, "  IN THE LOG    ON THE WAY\n"), "%s", table);
    cr_assert_not_null(
        strstr(table, "\n0              1,000           990           980           970            30\n"), "%s", table);
    cr_assert_not_null(strstr(table, "\nrecon          blocked "), "%s", table);
    const char *text = rendered(stats_render_prometheus);
    cr_assert_not_null(strstr(text, ",role=\"audit\",lane=\"1\"} 975\n"), "%s", text);
    cr_assert_not_null(strstr(text, "# TYPE millrace_audit_commit_seconds histogram\n"), "%s", text);
}

Test(stats, json_sums_metrics_over_lanes, .init = instance_make, .fini = instance_drop) {
    yajl_val v = json(rendered(stats_render_json));
    cr_assert_eq(number_at(v, "metrics", "sink_record_applied"), 1930);
    cr_assert_eq(number_at(v, "metrics", "ingest_record_read"), 2001000);
    cr_assert_eq(number_at(v, "metrics", "transform_reject_key_null"), 7);
    cr_assert_eq(number_at(v, "rejects", "key_null"), 7);
    cr_assert_float_eq(YAJL_GET_DOUBLE(at(v, "metrics", "worker_cpu")), 1.5, 1e-9);
    yajl_tree_free(v);
}

Test(stats, what_is_unknown_is_minus_one, .init = instance_make, .fini = instance_drop) {
    yajl_val v = json(rendered(stats_render_json)), p = item(v, "partitions", 1);
    cr_assert(number_at(p, "position", NULL) == -1 && number_at(p, "released", NULL) == -1 &&
              number_at(p, "lag", NULL) == -1);
    yajl_tree_free(v);
}

Test(stats, lag_is_never_below_zero, .init = instance_make, .fini = instance_drop) {
    partition_set(0, 0, 0, 100, 90); /* the watermark is older than the position */
    yajl_val v = json(rendered(stats_render_json));
    cr_assert_eq(number_at(item(v, "partitions", 0), "lag", NULL), 0);
    yajl_tree_free(v);
}

Test(stats, quantiles_come_from_the_buckets_of_all_lanes, .init = instance_make, .fini = instance_drop) {
    struct stats_block *a = stats_block(&s, stats_block_index(ROLE_SINK, 0)),
                       *b = stats_block(&s, stats_block_index(ROLE_SINK, 1));
    a->histogram[H_sink_kafka_to_redis][histogram_bucket(2000000)] = 600;
    b->histogram[H_sink_kafka_to_redis][histogram_bucket(50000000)] = 399;
    b->histogram[H_sink_kafka_to_redis][histogram_bucket(UINT64_MAX)] = 1;
    a->histogram_sum_ns[H_sink_kafka_to_redis] = 5000000;
    yajl_val v = json(rendered(stats_render_json)), h = at(v, "histograms", "sink_kafka_to_redis");
    cr_assert_eq(number_at(h, "count", NULL), 1000);
    cr_assert_float_eq(YAJL_GET_DOUBLE(at(h, "sum_ms", NULL)), 5, 1e-9);
    double p50 = YAJL_GET_DOUBLE(at(h, "p50_ms", NULL)), p99 = YAJL_GET_DOUBLE(at(h, "p99_ms", NULL));
    cr_assert(p50 >= 2 && p50 <= 2 * 1.125, "%f", p50);
    cr_assert(p99 >= 50 && p99 <= 50 * 1.125, "%f", p99);
    cr_assert(YAJL_IS_NULL(at(h, "p99.9_ms", NULL)), "more than 18 minutes is no exact figure");
    cr_assert_float_eq(YAJL_GET_DOUBLE(at(at(v, "histograms", "ingest_kafka_to_ingest"), "p50_ms", NULL)), -1, 1e-9);
    yajl_tree_free(v);
}

Test(stats, latencies_beyond_the_last_bucket_are_shown_as_more_than_its_bound, .init = instance_make,
     .fini = instance_drop) {
    struct stats_block *a = stats_block(&s, stats_block_index(ROLE_SINK, 0));
    a->histogram[H_sink_kafka_to_redis][histogram_bucket(1ULL << 40) - 1] = 50;
    a->histogram[H_sink_kafka_to_redis][histogram_bucket(1ULL << 40)] = 50;
    const char *line = strstr(rendered(stats_render_table), "kafka_to_redis ");
    cr_assert_not_null(line);
    char name[64], p50[32], p99[32], p999[32];
    cr_assert_eq(sscanf(line, "%63s %31s %31s %31s", name, p50, p99, p999), 4, "%s", line);
    cr_assert_str_eq(p99, ">1099512");
    cr_assert_str_eq(p999, ">1099512");
    a->histogram[H_sink_kafka_to_redis][histogram_bucket(1ULL << 40) - 1] = 51;
    line = strstr(rendered(stats_render_table), "kafka_to_redis ");
    cr_assert_eq(sscanf(line, "%63s %31s", name, p50), 2);
    cr_assert_str_eq(p50, "1099511.628", "the bound of a bucket that has one");
}

static void state_is(const char *state, const char *reason) {
    char actual_reason[STATS_TEXT_BYTES];
    cr_assert_str_eq(stats_state(&s, actual_reason), state);
    cr_assert_str_eq(actual_reason, reason);
}

Test(stats, state_of_the_whole_is_that_of_the_worst_worker, .init = instance_make, .fini = instance_drop) {
    state_is("running", "");
    block_set(ROLE_INGEST, 0, STATE_CONNECTING, "no broker answers");
    state_is("connecting", "no broker answers");
    block_set(ROLE_TRANSFORM, 0, STATE_BACKOFF, "died");
    state_is("backoff", "died");
    block_set(ROLE_SINK, 1, STATE_BLOCKED, "redis lost writes");
    state_is("blocked", "redis lost writes");
    block_set(ROLE_SINK, 0, STATE_FAILED, "given up");
    state_is("failed", "given up");
}

Test(stats, while_the_whole_drains_workers_that_have_left_are_no_trouble, .init = instance_make,
     .fini = instance_drop) {
    block_set(ROLE_INGEST, 0, STATE_DOWN, "");
    stats_block(&s, 0)->state = STATE_DRAINING;
    state_is("draining", "");
    stats_block(&s, 0)->state = STATE_STARTING;
    state_is("starting", "");
}

/* A process that has ended and has been waited for: its number is free. */
static uint32_t gone(void) {
    pid_t child = fork();
    if (child == 0) _exit(0);
    waitpid(child, NULL, 0);
    return (uint32_t)child;
}

Test(stats, without_its_supervisor_the_instance_is_stopped, .init = instance_make, .fini = instance_drop) {
    stats_block(&s, 0)->pid = gone();
    stats_text_set(&stats_block(&s, 0)->reason, "why it ended");
    state_is("stopped", "why it ended");
    stats_block(&s, 0)->pid = 0;
    state_is("stopped", "why it ended");
    yajl_val v = json(rendered(stats_render_json));
    cr_assert_str_eq(text_at(v, "state", NULL), "stopped");
    yajl_tree_free(v);
}

Test(stats, another_process_with_the_supervisors_number_is_not_taken_for_it, .init = instance_make,
     .fini = instance_drop) {
    stats_block(&s, 0)->heartbeat_ns = 1; /* long ago, and this test is not called millrace */
    state_is("stopped", "");
}

Test(stats, text_of_others_cannot_break_the_json, .init = instance_make, .fini = instance_drop) {
    block_set(ROLE_SINK, 0, STATE_BLOCKED, "say \"no\" \\ \n \x1b[2J \xff \xed\xa0\x80 \xc3\xa9 \xe2\x82");
    yajl_val v = json(rendered(stats_render_json));
    cr_assert_str_eq(
        text_at(v, "reason", NULL),
        "say \"no\" \\ \n \x1b[2J \xef\xbf\xbd \xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd \xc3\xa9 \xef\xbf\xbd\xef\xbf\xbd");
    yajl_tree_free(v);
}

static int matches(const char *text, const char *pattern) {
    regex_t r;
    cr_assert_eq(regcomp(&r, pattern, REG_EXTENDED | REG_NOSUB | REG_NEWLINE), 0, "%s", pattern);
    int found = regexec(&r, text, 0, NULL, 0) == 0;
    regfree(&r);
    return found;
}

#define OF "\\{name=\"cards\",instance_name=\"node1\""

Test(stats, prometheus_form_has_types_labels_and_values, .init = instance_make, .fini = instance_drop) {
    static const char *const lines[] = {
        "^# TYPE millrace_sink_record_applied_total counter$",
        "^millrace_sink_record_applied_total" OF ",role=\"sink\",lane=\"1\"\\} 960$",
        "^millrace_ingest_record_read_total" OF ",role=\"ingest\"\\} 2001000$",
        "^millrace_worker_cpu_seconds_total" OF ",role=\"sink\",lane=\"1\"\\} 1\\.500000000$",
        "^# TYPE millrace_sink_in_flight gauge$",
        "^millrace_worker_state" OF ",role=\"sink\",lane=\"0\",state=\"running\"\\} 1$",
        "^millrace_worker_state" OF ",role=\"sink\",lane=\"0\",state=\"blocked\"\\} 0$",
        "^millrace_worker_start_total" OF ",role=\"ingest\"\\} 4$",
        "^millrace_worker_death_total" OF ",role=\"ingest\"\\} 2$",
        "^millrace_lane_publish_total" OF ",role=\"ingest\",lane=\"1\"\\} 2000000$",
        "^millrace_partition_lag" OF ",topic=\"cards.bulk\",partition=\"0\"\\} 50$",
        "^millrace_info" OF ",group=\"millrace-cards\",build=\"[^\"]*\"\\} 1$",
        "^millrace_up" OF "\\} 1$",
    };
    const char *text = rendered(stats_render_prometheus);
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) cr_expect(matches(text, lines[i]), "%s", lines[i]);
    cr_expect(!matches(text, "^millrace_partition_lag.*cards.change"), "what is unknown is left out");
}

Test(stats, name_the_offsets_that_are_lost, .init = instance_make, .fini = instance_drop) {
    yajl_val v = json(rendered(stats_render_json));
    const char *path[] = {"lost", NULL};
    cr_assert(YAJL_IS_NULL(yajl_tree_get(item(v, "partitions", 0), path, yajl_t_any)));
    yajl_tree_free(v);
    cr_assert_null(strstr(rendered(stats_render_table), "lost:"));
    cr_assert(matches(rendered(stats_render_prometheus),
                      "^millrace_partition_lost_offsets" OF ",topic=\"cards.bulk\",partition=\"0\"\\} 0$"));
    stats_partition(&s, 0)->lost_from = 500;
    stats_partition(&s, 0)->lost_to = 900;
    v = json(rendered(stats_render_json));
    cr_assert(number_at(item(v, "partitions", 0), "lost", "from") == 500 &&
              number_at(item(v, "partitions", 0), "lost", "to") == 900);
    yajl_tree_free(v);
    cr_assert(matches(rendered(stats_render_table), "^offsets \\[500,900\\) lost: cards.bulk\\[0\\]$"));
    cr_assert(matches(rendered(stats_render_prometheus),
                      "^millrace_partition_lost_offsets" OF ",topic=\"cards.bulk\",partition=\"0\"\\} 400$"));
    stats_partition(&s, 0)->lost_to = 500; /* half written: no range */
    v = json(rendered(stats_render_json));
    cr_assert(YAJL_IS_NULL(yajl_tree_get(item(v, "partitions", 0), path, yajl_t_any)));
    yajl_tree_free(v);
}

Test(stats, prometheus_says_when_the_supervisor_is_gone, .init = instance_make, .fini = instance_drop) {
    stats_block(&s, 0)->pid = gone();
    cr_assert(matches(rendered(stats_render_prometheus), "^millrace_up" OF "\\} 0$"));
}

Test(stats, prometheus_histogram_is_cumulative, .init = instance_make, .fini = instance_drop) {
    struct stats_block *b = stats_block(&s, stats_block_index(ROLE_SINK, 0));
    b->histogram[H_sink_kafka_to_redis][0] = 1;
    b->histogram[H_sink_kafka_to_redis][histogram_bucket(1500)] = 2; /* up to 2048 ns */
    b->histogram[H_sink_kafka_to_redis][HISTOGRAM_BUCKETS - 1] = 4;
    b->histogram_sum_ns[H_sink_kafka_to_redis] = 2500000000;
    const char *text = rendered(stats_render_prometheus);
#define SINK0 OF ",role=\"sink\",lane=\"0\""
    cr_expect(matches(text, "^millrace_sink_kafka_to_redis_seconds_bucket" SINK0 ",le=\"1\\.024e-06\"\\} 1$"));
    cr_expect(matches(text, "^millrace_sink_kafka_to_redis_seconds_bucket" SINK0 ",le=\"2\\.048e-06\"\\} 3$"));
    cr_expect(matches(text, "^millrace_sink_kafka_to_redis_seconds_bucket" SINK0 ",le=\"1099\\.51163\"\\} 3$"));
    cr_expect(matches(text, "^millrace_sink_kafka_to_redis_seconds_bucket" SINK0 ",le=\"\\+Inf\"\\} 7$"));
    cr_expect(matches(text, "^millrace_sink_kafka_to_redis_seconds_sum" SINK0 "\\} 2\\.500000000$"));
    cr_expect(matches(text, "^millrace_sink_kafka_to_redis_seconds_count" SINK0 "\\} 7$"));
}

Test(stats, table_fits_eighty_columns_and_says_what_matters, .init = instance_make, .fini = instance_drop) {
    block_set(ROLE_SINK, 1, STATE_BLOCKED, "redis lost writes");
    count(ROLE_SUPERVISOR, 0, M_supervisor_child_died, 12345);
    count(ROLE_SINK, 1, M_sink_write_lost, 2000);
    const char *text = rendered(stats_render_table);
    for (const char *p = text, *end; (end = strchr(p, '\n')) != NULL; p = end + 1)
        cr_expect(end - p <= 80, "%td columns: %.*s", end - p, (int)(end - p), p);
    static const char *const lines[] = {"^cards/node1  blocked, up .*: redis lost writes$",
                                        "^sink\\[1\\] +blocked +1005 +2 ",
                                        "^1 +2,000,000 +990 +980 +1,999,020$",
                                        "^cards\\.bulk +1 +50  50 in 0$",
                                        "^cards\\.change +1 +- *$",
                                        "since start: 12,345 worker deaths,$",
                                        "^ +2,000 writes that Redis lost, written again$"};
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        cr_expect(matches(text, lines[i]), "%s\n%s", lines[i], text);
}

Test(stats, table_keeps_control_characters_from_the_terminal, .init = instance_make, .fini = instance_drop) {
    block_set(ROLE_SINK, 1, STATE_BLOCKED, "a\x1b[2Jb\nc");
    cr_assert(matches(rendered(stats_render_table), "a\\?\\[2Jb\\?c"));
}

/* A segment of a later build: rows moved, and one that this program does not know. */
Test(stats, rows_are_found_by_name_whatever_their_place, .init = instance_make, .fini = instance_drop) {
    struct stats_metric *rows = (void *)((char *)s.header + s.header->metric_at), swapped = rows[0];
    rows[0] = rows[1];
    rows[1] = swapped;
    memcpy(rows[2].name, "of_tomorrow", 12);
    rows[2].index = UINT32_MAX; /* and points nowhere */
    yajl_val v = json(rendered(stats_render_json));
    cr_assert_eq(number_at(v, "metrics", "sink_record_applied"), 1930);
    cr_assert_eq(number_at(v, "metrics", "worker_of_tomorrow"), 0);
    yajl_tree_free(v);
    cr_assert(matches(rendered(stats_render_prometheus), "^millrace_worker_of_tomorrow_total"));
    rendered(stats_render_table);
}

Test(stats_command, finds_the_instance_by_name, .init = instance_make, .fini = instance_drop) {
    cr_assert_eq(RUN(command_stats, "--name", "cards", "--run-dir", folder, "--format", "json"), EX_OK, "%s", done.err);
    yajl_val v = json(done.out);
    cr_assert_str_eq(text_at(v, "name", NULL), "cards");
    yajl_tree_free(v);
}

Test(stats_command, finds_the_instance_by_its_configuration, .init = instance_make, .fini = instance_drop) {
    char text[512];
    snprintf(text, sizeof text,
             "config_version: 1\nname: cards\nrun_dir: %s\nkafka: {bootstrap.servers: a}\nredis: {url: 'redis://h'}\n"
             "topics: [{name: t, mode: bulk, key: x}]\n",
             folder);
    file_put("m.yaml", text);
    cr_assert_eq(RUN(command_stats, "-c", (char *)in_folder("m.yaml")), EX_OK, "%s", done.err);
    cr_assert_not_null(strstr(done.out, "cards/node1  running"), "%s", done.out);
}

Test(stats_command, without_an_instance_is_status_69, .init = folder_make, .fini = folder_remove) {
    cr_assert_eq(RUN(command_stats, "--name", "none", "--run-dir", folder), EX_UNAVAILABLE);
    cr_assert_not_null(strstr(done.err, "none.stats"));
    cr_assert_str_empty(done.out);
}

Test(stats_command, garbage_is_status_65, .init = folder_make, .fini = folder_remove) {
    file_put("bad.stats", "not a segment");
    cr_assert_eq(RUN(command_stats, "--name", "bad", "--run-dir", folder), EX_DATAERR);
    cr_assert_str_empty(done.out);
}

Test(stats_command, wrong_arguments_are_status_64, .init = folder_make, .fini = folder_remove) {
    cr_assert_eq(RUN(command_stats, "--format", "xml"), EX_USAGE);
    cr_assert_eq(RUN(command_stats, "--name", "a", "-c", "b"), EX_USAGE);
    cr_assert_eq(RUN(command_stats, "--run-dir", "a"), EX_USAGE);
    cr_assert_eq(RUN(command_stats, "--name"), EX_USAGE);
    cr_assert_eq(RUN(command_stats, "extra"), EX_USAGE);
    cr_assert_str_empty(done.out);
}

Test(stats_command, documentation_of_the_metrics_is_fresh, .init = folder_make, .fini = folder_remove) {
    static char page[sizeof done.out];
    FILE *f = fopen("docs/metrics.md", "r");
    cr_assert_not_null(f, "run the tests from the top folder");
    page[fread(page, 1, sizeof page - 1, f)] = 0;
    fclose(f);
    cr_assert_eq(RUN(command_stats, "--format", "markdown"), EX_OK);
    cr_assert(strcmp(page, done.out) == 0, "millrace stats --format markdown > docs/metrics.md");
}

/* -- one line for a service manager ------------------------------------------------------------ */

Test(stats_status, tells_state_rate_and_lag_and_again_when_they_change, .init = instance_make, .fini = instance_drop) {
    static struct stats_status line;
    uint64_t now = 1000 * NS_PER_S;
    cr_assert(stats_status(&s, &line, now));
    cr_assert_str_eq(line.text, "running; 0 records/s to Redis, lag 50");
    cr_assert_not(stats_status(&s, &line, now + 500 * NS_PER_MS));
    count(ROLE_SINK, 0, M_sink_record_applied, 970 + 12345);
    cr_assert_not(stats_status(&s, &line, now + 2 * NS_PER_S), "the numbers alone are no news yet");
    block_set(ROLE_SINK, 1, STATE_BLOCKED, "OOM command not allowed");
    cr_assert_not(stats_status(&s, &line, now + 2500 * NS_PER_MS), "not looked for yet");
    cr_assert(stats_status(&s, &line, now + 5 * NS_PER_S));
    cr_assert_str_eq(line.text, "blocked: OOM command not allowed; 2469 records/s to Redis, lag 50");
    cr_assert_not(stats_status(&s, &line, now + 14 * NS_PER_S));
    cr_assert(stats_status(&s, &line, now + 15 * NS_PER_S));
    cr_assert_str_eq(line.text, "blocked: OOM command not allowed; 0 records/s to Redis, lag 50");
}

Test(stats_status, lag_is_of_what_this_instance_reads, .init = instance_make, .fini = instance_drop) {
    static struct stats_status line;
    partition_set(1, 1, 1, 1000, 1007);
    cr_assert(stats_status(&s, &line, NS_PER_S));
    cr_assert_str_eq(line.text, "running; 0 records/s to Redis, lag 57");
    stats_partition(&s, 0)->assigned = 0;
    cr_assert_not(stats_status(&s, &line, 10 * NS_PER_S));
    cr_assert(stats_status(&s, &line, 11 * NS_PER_S));
    cr_assert_str_eq(line.text, "running; 0 records/s to Redis, lag 7");
    stats_partition(&s, 1)->assigned = 0;
    cr_assert(stats_status(&s, &line, 21 * NS_PER_S));
    cr_assert_str_eq(line.text, "running; 0 records/s to Redis, lag unknown");
}

Test(stats_status, a_counter_that_began_anew_is_no_rate, .init = instance_make, .fini = instance_drop) {
    static struct stats_status line;
    cr_assert(stats_status(&s, &line, NS_PER_S));
    count(ROLE_SINK, 0, M_sink_record_applied, 0);
    cr_assert(stats_status(&s, &line, 11 * NS_PER_S));
    cr_assert_str_eq(line.text, "running; 0 records/s to Redis, lag 50");
    count(ROLE_SINK, 0, M_sink_record_applied, 1000);
    cr_assert(stats_status(&s, &line, 21 * NS_PER_S));
    cr_assert_str_eq(line.text, "running; 100 records/s to Redis, lag 50");
}

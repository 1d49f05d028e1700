/* millrace top without a terminal: the arithmetic of two looks, and frames of every size. */
#include <math.h>

#include "base/clock.h"
#include "shm/stats.h"
#include "tests/unit/tools/command.h"
#include "tools/top_layout.h"

static struct config config; /* too large for a stack, like the rest here */
static struct stats s;
static struct sample before, now;
static struct change change;
static struct caught_up caught;
static struct frame frame;

static struct stats_block *block(enum role role, uint32_t lane) {
    return stats_block(&s, stats_block_index(role, lane));
}

static void partition_set(uint32_t slot, uint32_t topic, int32_t partition, int64_t released, int64_t high) {
    struct stats_partition *p = stats_partition(&s, slot);
    p->topic = topic;
    p->partition = partition;
    p->lane = (uint32_t)partition % config.lanes;
    p->assigned = 1;
    p->position = p->released = p->committed = released;
    p->high = high;
    if (s.header->partition_count <= slot) s.header->partition_count = slot + 1;
}

/* An instance as its processes would leave it in the segment; this process stands for the supervisor. */
static void instance_of(uint32_t lanes) {
    struct err err = {0};
    int fd;
    folder_make();
    snprintf(config.run_dir, sizeof config.run_dir, "%s", folder);
    snprintf(config.name, sizeof config.name, "cards");
    snprintf(config.instance, sizeof config.instance, "node1");
    config.lanes = lanes;
    config.topic_count = 2;
    snprintf(config.topic[0].name, TOPIC_BYTES, "cards.bulk");
    memset(config.topic[1].name, 'x', 249);
    cr_assert_eq(stats_create(&s, &config, &fd, &err), 0, "%s", err.text);
    close(fd);
    for (uint32_t i = 0; i < s.header->block_count; i++) {
        struct stats_block *b = stats_block(&s, i);
        b->pid = i == 0 ? (uint32_t)getpid() : 4000000 + i;
        b->state = STATE_RUNNING;
        b->starts = 1;
        b->heartbeat_ns = clock_ns(&clock_real);
    }
    for (int32_t i = 0; i < 40; i++) partition_set((uint32_t)i, (uint32_t)i % 2, i, 1000, 1000 + i % 7);
}

static void instance_make(void) { instance_of(2); }
static void instance_many(void) {
    config.audit = 1;
    instance_of(LANES_MAX);
}

static char shown[65536];

static const char *draw(int rows, int columns, enum top_view view, const char *footer) {
    struct top_picture picture = {&now, &change, view, false, footer};
    FILE *f = fmemopen(shown, sizeof shown, "w");
    frame_clear(&frame, rows, columns);
    top_layout(&frame, frame.columns, &picture);
    frame_print(&frame, f);
    fclose(f);
    return shown;
}

static void looks(void) { sample_change(&change, &before, &now, &caught); }

/* -- arithmetic -------------------------------------------------------------------------------- */

Test(top, rates_are_per_second_and_begin_anew_with_a_counter) {
    cr_assert_float_eq(sample_rate(100, 350, 500000000), 500, 1e-9);
    cr_assert_float_eq(sample_rate(100, 100, 500000000), 0, 1e-9);
    cr_assert_float_eq(sample_rate(100, 30, 500000000), 60, 1e-9, "counted from 0 since");
    cr_assert_float_eq(sample_rate(0, UINT64_MAX, 1), 1.8446744073709552e28, 1e15);
    cr_assert_float_eq(sample_rate(1, 2, 0), 0, 0);
}

static void observe(struct merged *m, uint64_t ns, uint64_t times) {
    m->bucket[histogram_bucket(ns)] += times;
    m->count += times;
    m->sum_ns += ns * times;
}

Test(top, percentiles_are_those_of_the_interval) {
    struct merged a = {0}, b, d;
    observe(&a, 2 * NS_PER_MS, 1000000); /* what was before must not weigh */
    b = a;
    observe(&b, 100 * NS_PER_MS, 98);
    observe(&b, 900 * NS_PER_MS, 2);
    sample_histogram(&d, &a, &b);
    cr_assert_eq(d.count, 100);
    cr_assert_eq(d.sum_ns, 98 * 100 * NS_PER_MS + 2 * 900 * NS_PER_MS);
    cr_assert_float_eq(view_quantile_ms(&d, 0.5), 100, 100.0 / 8);
    cr_assert_float_eq(view_quantile_ms(&d, 0.99), 900, 900.0 / 8);
    sample_histogram(&d, &b, &b);
    cr_assert_eq(d.count, 0);
    cr_assert_eq(view_quantile_ms(&d, 0.5), -1);
    sample_histogram(&d, &b, &a); /* began anew */
    cr_assert_eq(d.count, 1000000);
}

Test(top, two_looks_make_rates_per_lane_and_worker, .init = instance_make, .fini = folder_remove) {
    sample_take(&before, &s);
    block(ROLE_INGEST, 0)->value[M_ingest_record_read] = 3000;
    block(ROLE_INGEST, 0)->lane_published[1] = 2000;
    block(ROLE_TRANSFORM, 1)->published = 1500;
    block(ROLE_SINK, 1)->published = 1000;
    block(ROLE_SINK, 1)->value[M_sink_record_applied] = 1000;
    block(ROLE_SINK, 0)->value[M_sink_record_applied] = 500;
    block(ROLE_SINK, 1)->value[M_worker_cpu] = NS_PER_S;
    block(ROLE_SINK, 1)->starts = 5; /* by reloads, too */
    block(ROLE_SINK, 1)->deaths = 2;
    stats_block(&s, 0)->value[M_supervisor_child_died] = 2;
    sample_take(&now, &s);
    now.at_ns = before.at_ns + 2 * NS_PER_S;
    looks();
    cr_assert(change.known);
    cr_assert_float_eq(change.read, 1500, 1e-6);
    cr_assert_float_eq(change.applied, 750, 1e-6);
    cr_assert_float_eq(change.lane_in[1], 1000, 1e-6);
    cr_assert_float_eq(change.lane_applied[1], 500, 1e-6);
    cr_assert_float_eq(change.cpu[stats_block_index(ROLE_SINK, 1) - 1], 0.5, 1e-6);
    cr_assert_eq(now.lane[1].ring[RING_TO_TRANSFORM].records, 500);
    cr_assert_eq(now.lane[1].ring[RING_TO_SINK].records, 500);
    cr_assert_eq(now.lane[1].ring[RING_TO_SINK].capacity, 0, "this process has no rings");
    cr_assert_eq(now.deaths, 2);
    cr_assert_eq(now.worker[stats_block_index(ROLE_SINK, 1) - 1].deaths, 2);
    sample_change(&change, NULL, &now, &caught);
    cr_assert(!change.known, "one look is not enough");
}

static void instance_audited(void) {
    config.audit = 1;
    instance_of(2);
}

Test(top, shows_the_ring_to_audit_where_there_is_one, .init = instance_audited, .fini = folder_remove) {
    block(ROLE_INGEST, 0)->lane_published[1] = 2000;
    block(ROLE_TRANSFORM, 1)->published = 1900;
    block(ROLE_SINK, 1)->published = 1700;
    block(ROLE_AUDIT, 2)->lane_published[1] = 1400;
    sample_take(&now, &s);
    cr_assert_eq(now.worker_count, 7);
    cr_assert_eq(now.lane[1].ring[RING_TO_AUDIT].records, 300);
    sample_change(&change, NULL, &now, &caught);
    cr_assert_not_null(strstr(draw(30, 120, VIEW_LANES, NULL), " TO AUDIT"), "%s", shown);
    cr_assert_not_null(strstr(shown, " 300"), "%s", shown);
    cr_assert_not_null(strstr(draw(30, 78, VIEW_LANES, NULL), "RING 3"), "%s", shown);
    cr_assert_not_null(strstr(draw(30, 78, VIEW_WORKERS, NULL), "\n recon "), "%s", shown);
}

Test(top, partitions_with_trouble_come_first, .init = instance_make, .fini = folder_remove) {
    stats_partition(&s, 5)->lost_from = 10;
    stats_partition(&s, 5)->lost_to = 20;
    stats_partition(&s, 8)->high = 9000;
    stats_partition(&s, 9)->assigned = 0;
    stats_partition(&s, 9)->high = 99000;
    stats_partition(&s, 11)->high = -1;
    sample_take(&now, &s);
    cr_assert_eq(now.partition_count, 39);
    cr_assert_eq(now.lost_count, 1);
    cr_assert_eq(now.partition[0].partition, 5);
    cr_assert_eq(now.partition[1].partition, 8);
    cr_assert_eq(now.partition[38].partition, 11, "unknown lag is last");
    for (int i = 2; i < 39; i++) cr_assert(now.partition[i - 1].numbers.lag >= now.partition[i].numbers.lag);
}

/* -- lag in time ------------------------------------------------------------------------------- */

Test(top, lag_in_time_is_the_age_of_what_redis_has_last, .init = instance_make, .fini = folder_remove) {
    for (uint32_t i = 0; i < 40; i++) partition_set(i, 0, (int32_t)i, 1000, 1000);
    partition_set(1, 0, 1, 1000, 1100); /* lane 1 has lag */
    sample_take(&now, &s);
    looks();
    cr_assert_eq(change.behind_ms[0], 0);
    cr_assert_eq(change.behind_ms[1], -1, "nothing was acknowledged yet: unknown");
    block(ROLE_SINK, 1)->value[M_sink_record_timestamp] = (uint64_t)(now.wall_ms - 7000) * NS_PER_MS;
    sample_take(&now, &s);
    looks();
    cr_assert(change.behind_ms[1] >= 7000 && change.behind_ms[1] < 17000, "%lld", (long long)change.behind_ms[1]);
    cr_assert_eq(change.behind_most_ms, change.behind_ms[1]);
    /* A record that comes after an hour without any is not an hour late. */
    partition_set(1, 0, 1, 1100, 1100);
    block(ROLE_SINK, 1)->value[M_sink_record_timestamp] = (uint64_t)(now.wall_ms - 3600000) * NS_PER_MS;
    sample_take(&now, &s);
    looks();
    cr_assert_eq(change.behind_ms[1], 0);
    partition_set(1, 0, 1, 1100, 1101);
    sample_take(&now, &s);
    now.wall_ms += 300;
    looks();
    cr_assert(change.behind_ms[1] >= 300 && change.behind_ms[1] < 10000, "%lld", (long long)change.behind_ms[1]);
}

Test(top, a_timestamp_of_the_future_is_no_age, .init = instance_make, .fini = folder_remove) {
    sample_take(&now, &s);
    block(ROLE_SINK, 1)->value[M_sink_record_timestamp] = (uint64_t)(now.wall_ms + 99000) * NS_PER_MS;
    sample_take(&now, &s);
    looks();
    cr_assert_eq(change.behind_ms[1], 0);
}

/* -- numbers ----------------------------------------------------------------------------------- */

Test(top, numbers_fit_their_width) {
    char text[FRAME_NUMBER_BYTES];
    static const double values[] = {0,   1,        999, 999.6,     1234, 99999, 123456, 999499, 999600,
                                    1e6, 12345678, 1e9, 9.9949e11, 1e15, 1e19,  NAN,    -5};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
        for (int width = 5; width <= 11; width++)
            cr_assert_leq(strlen(frame_number(values[i], width, text)), width, "%s in %d", text, width);
    cr_assert_str_eq(frame_number(1234567, 9, text), "1,234,567");
    cr_assert_str_eq(frame_number(1234567, 8, text), "1.2M");
    cr_assert_str_eq(frame_number(999960, 6, text), "1.0M");
    cr_assert_str_eq(frame_bytes(512, text), "512 B");
    cr_assert_str_eq(frame_bytes(10.3e6, text), "10.3 MB");
    cr_assert_str_eq(frame_duration(800, text), "0.8s");
    cr_assert_str_eq(frame_duration(12500, text), "12s");
    cr_assert_str_eq(frame_duration(125000, text), "2m 5s");
    cr_assert_str_eq(frame_duration(-1, text), "-");
    cr_assert_str_eq(frame_latency(0.354, text), "0.35 ms");
    cr_assert_str_eq(frame_latency(1500, text), "1.5 s");
    cr_assert_str_eq(frame_latency(-1, text), "-");
}

/* -- frames ------------------------------------------------------------------------------------ */

static int rows_of(const char *text) {
    int n = 0;
    for (; *text != 0; text++) n += *text == '\n';
    return n;
}

Test(top, every_size_can_be_drawn, .init = instance_many, .fini = folder_remove) {
    block(ROLE_SINK, 7)->state = STATE_BLOCKED;
    stats_text_set(&block(ROLE_SINK, 7)->reason, "redis lost writes");
    stats_partition(&s, 5)->lost_to = 20;
    sample_take(&before, &s);
    sample_take(&now, &s);
    now.at_ns += NS_PER_S;
    looks();
    for (int rows = 1; rows < 70; rows++)
        for (int columns = 1; columns < 220; columns += columns < 100 ? 1 : 17)
            for (enum top_view view = VIEW_OVERVIEW; view < VIEW_COUNT; view++) {
                draw(rows, columns, view, "keys");
                cr_assert_leq(rows_of(shown), rows);
                if (columns < 40 || rows < 3) continue;
                cr_assert_not_null(strstr(shown, "sink[7] blocked: redis"), "%dx%d\n%s", columns, rows, shown);
                cr_assert_not_null(strstr(shown, "\n keys\n"), "the last row is the keys\n%s", shown);
            }
}

Test(top, what_is_wrong_stands_under_the_head, .init = instance_many, .fini = folder_remove) {
    for (uint32_t i = 0; i < LANES_MAX; i++) {
        block(ROLE_SINK, i)->state = STATE_BLOCKED;
        stats_text_set(&block(ROLE_SINK, i)->reason, i == 3 ? "a\x1b[2Jb" : "redis: OOM command not allowed");
    }
    block(ROLE_TRANSFORM, 2)->heartbeat_ns = clock_ns(&clock_real) - 60 * NS_PER_S;
    stats_partition(&s, 6)->lost_from = 100;
    stats_partition(&s, 6)->lost_to = 200;
    sample_take(&before, &s);
    block(ROLE_TRANSFORM, 0)->value[M_transform_record_reject] = 4;
    sample_take(&now, &s);
    now.at_ns = before.at_ns + NS_PER_S;
    looks();
    draw(40, 80, VIEW_OVERVIEW, "keys");
    const char *at = shown, *const lines[] = {" cards/node1   blocked  up ",
                                              "\n sink[0] and 14 more blocked: redis: OOM command not allowed\n",
                                              "\n sink[3] blocked: a?[2Jb\n",
                                              "\n transform[2] has not been heard of for 1m 0s\n",
                                              "\n offsets [100,200) lost: cards.bulk[6]\n",
                                              "\n 4 records rejected just now"};
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        const char *found = strstr(at, lines[i]);
        cr_assert_not_null(found, "%s\n%s", lines[i], shown);
        at = found;
    }
    draw(12, 80, VIEW_OVERVIEW, "keys");
    cr_assert_not_null(strstr(shown, "... and 4 more complaints"), "%s", shown);
}

Test(top, a_quiet_instance_has_nothing_to_complain_of, .init = instance_make, .fini = folder_remove) {
    sample_take(&now, &s);
    sample_change(&change, NULL, &now, &caught);
    draw(24, 80, VIEW_OVERVIEW, "keys");
    cr_assert_eq(frame.style[0][15], STYLE_GOOD);
    cr_assert_not_null(strstr(shown, "\n\n read"), "the totals follow the head\n%s", shown);
    for (int row = 0; row < 24; row++)
        for (int column = 0; column < 80; column++)
            cr_assert(frame.style[row][column] != STYLE_BAD && frame.style[row][column] != STYLE_WARN);
}

Test(top, long_names_and_reasons_are_cut, .init = instance_make, .fini = folder_remove) {
    char reason[200];
    memset(reason, 'r', sizeof reason);
    reason[199] = 0;
    block(ROLE_SINK, 0)->state = STATE_FAILED;
    stats_text_set(&block(ROLE_SINK, 0)->reason, reason);
    sample_take(&now, &s);
    sample_change(&change, NULL, &now, &caught);
    draw(40, 80, VIEW_OVERVIEW, "keys");
    cr_assert_not_null(strstr(shown, "rrrr..\n"));
    cr_assert_not_null(strstr(shown, "\n ..xxxx"), "the end of a topic's name\n%s", shown);
    cr_assert_not_null(strstr(shown, "xxx[1"));
}

Test(top, without_a_segment_it_is_down_and_says_what_it_waits_for) {
    sample_missing(&now, "cards", "/run/millrace/cards.stats: No such file or directory");
    sample_change(&change, NULL, &now, &caught);
    draw(24, 80, VIEW_OVERVIEW, "keys");
    cr_assert_not_null(strstr(shown, " cards   down "));
    cr_assert_not_null(strstr(shown, "\n /run/millrace/cards.stats: No such file"));
    cr_assert_null(strstr(shown, "LANE"));
}

/* -- command ----------------------------------------------------------------------------------- */

Test(top_command, once_prints_a_frame, .init = instance_make, .fini = folder_remove) {
    cr_assert_eq(RUN(command_top, "--name", "cards", "--run-dir", folder, "--once", "--interval", "0.2"), EX_OK, "%s",
                 done.err);
    cr_assert_not_null(strstr(done.out, " cards/node1   running  up "), "%s", done.out);
    cr_assert_not_null(strstr(done.out, "PARTITION"));
    cr_assert_null(strchr(done.out, 0x1b));
}

Test(top_command, wrong_arguments_are_status_64, .init = folder_make, .fini = folder_remove) {
    cr_assert_eq(RUN(command_top, "--interval", "0"), EX_USAGE);
    cr_assert_eq(RUN(command_top, "--interval", "x"), EX_USAGE);
    cr_assert_eq(RUN(command_top, "--interval", "61"), EX_USAGE);
    cr_assert_eq(RUN(command_top, "extra"), EX_USAGE);
    cr_assert_eq(RUN(command_top, "-c", "a", "--name", "b"), EX_USAGE);
    cr_assert_eq(RUN(command_top, "--name", "cards", "--run-dir", folder), EX_USAGE, "standard output is a file");
    cr_assert_not_null(strstr(done.err, "--once"));
    cr_assert_eq(RUN(command_top, "--name", "none", "--run-dir", folder, "--once"), EX_UNAVAILABLE);
    cr_assert_not_null(strstr(done.err, "none.stats"));
}

/* The stats segment: what is written is what a tool reads, and garbage is refused. */
#include "shm/stats.h"

#include <assert.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "shm/record.h"
#include <criterion/criterion.h>

static char folder[] = "/tmp/millrace-unit-stats-XXXXXX";
static struct config config; /* too large for a stack */

static void folder_make(void) {
    cr_assert_not_null(mkdtemp(folder));
    snprintf(config.run_dir, sizeof config.run_dir, "%s", folder);
    snprintf(config.name, sizeof config.name, "cards");
    snprintf(config.instance, sizeof config.instance, "node1");
    snprintf(config.kafka.group_id, sizeof config.kafka.group_id, "millrace-cards");
    config.lanes = 2;
    config.topic_count = 2;
    snprintf(config.topic[0].name, TOPIC_BYTES, "cards.bulk");
    snprintf(config.topic[1].name, TOPIC_BYTES, "cards.change");
}

static void folder_drop(void) {
    char path[128];
    const char *names[] = {"cards.stats", "cards.stats.new", "bad.stats"};
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    rmdir(folder);
}

static struct stats make(int *fd) {
    struct err err = {0};
    struct stats s = {0};
    cr_assert_eq(stats_create(&s, &config, fd, &err), 0, "%s", err.text);
    return s;
}

#ifndef __SANITIZE_THREAD__ /* the rest has one thread */

static struct stats_metric *metric_find(const struct stats *s, const char *role, const char *name) {
    for (uint32_t i = 0; i < s->header->metric_count; i++) {
        char *row = (char *)s->header + s->header->metric_at + (size_t)i * s->header->metric_stride;
        struct stats_metric *m = (void *)row;
        if (strcmp(m->role, role) == 0 && strcmp(m->name, name) == 0) return m;
    }
    return NULL;
}

/* -- ABI --------------------------------------------------------------------------------------- */

Test(stats, every_row_of_the_table_has_a_place_of_its_own) {
    static_assert(M_transform_reject_crash < METRIC_COUNT, "reasons are metrics");
    static_assert(HISTOGRAM_COUNT <= 32, "a bit per histogram");
    cr_assert_eq(REASON_COUNT - 1, M_transform_reject_crash - M_transform_reject_key_null + 1);
    cr_assert_eq(offsetof(struct stats_text, copy), 8);
    cr_assert_eq(sizeof(struct stats_metric) % 8, 0);
}

Test(stats, every_state_has_a_name) {
    for (int a = 0; a < STATE_COUNT; a++)
        for (int b = 0; b < a; b++) cr_assert_str_neq(worker_state_name(a), worker_state_name(b));
    cr_assert_not_null(worker_state_name((enum worker_state)99));
}

/* -- creation and opening ---------------------------------------------------------------------- */

Test(stats, a_tool_finds_the_names_topics_and_blocks_the_supervisor_made, .init = folder_make, .fini = folder_drop) {
    struct err err = {0};
    int fd;
    struct stats s = make(&fd), tool = {0};
    cr_assert_eq(stats_open(&tool, folder, "cards", &err), 0, "%s", err.text);
    cr_assert_str_eq(tool.header->name, "cards");
    cr_assert_str_eq(tool.header->instance, "node1");
    cr_assert_str_eq(tool.header->group, "millrace-cards");
    cr_assert_eq(tool.header->lanes, 2);
    cr_assert_eq(tool.header->block_count, 6);
    cr_assert_eq(tool.header->topic_count, 2);
    cr_assert_str_eq((char *)tool.header + tool.header->topic_at + tool.header->topic_stride, "cards.change");
    cr_assert_eq(stats_block(&tool, stats_block_index(ROLE_SUPERVISOR, 0))->role, ROLE_SUPERVISOR);
    cr_assert_eq(stats_block(&tool, stats_block_index(ROLE_INGEST, 0))->role, ROLE_INGEST);
    for (uint32_t lane = 0; lane < 2; lane++) {
        struct stats_block *t = stats_block(&tool, stats_block_index(ROLE_TRANSFORM, lane));
        struct stats_block *k = stats_block(&tool, stats_block_index(ROLE_SINK, lane));
        cr_assert(t->role == ROLE_TRANSFORM && t->lane == (int32_t)lane);
        cr_assert(k->role == ROLE_SINK && k->lane == (int32_t)lane);
    }
    struct stats_metric *m = metric_find(&tool, "sink", "record_applied");
    cr_assert_not_null(m);
    cr_assert_str_eq(m->type, "counter");
    stats_block(&s, stats_block_index(ROLE_SINK, 1))->value[M_sink_record_applied] = 77;
    const char *block = (const char *)stats_block(&tool, stats_block_index(ROLE_SINK, 1));
    uint64_t value;
    memcpy(&value, block + tool.header->value_offset + m->index * sizeof value, sizeof value);
    cr_assert_eq(value, 77);
    m = metric_find(&tool, "transform", "reject_key_null");
    cr_assert_not_null(m);
    cr_assert_eq(m->index, M_transform_reject_key_null);
    m = metric_find(&tool, "sink", "kafka_to_redis");
    cr_assert_str_eq(m->type, "histogram");
    cr_assert_eq(m->index, H_sink_kafka_to_redis);
    stats_close(&tool);
    stats_close(&s);
}

Test(stats, blocks_do_not_overlap_and_lie_in_the_segment, .init = folder_make, .fini = folder_drop) {
    config.lanes = LANES_MAX;
    config.topic_count = TOPICS_MAX;
    int fd;
    struct stats s = make(&fd);
    char *end = (char *)s.header + s.bytes, *last = (char *)s.header + sizeof *s.header;
    for (uint32_t i = 0; i < s.header->block_count; i++) {
        char *b = (char *)stats_block(&s, i);
        cr_assert_geq(b, last);
        last = b + sizeof(struct stats_block);
        cr_assert_leq(last, end);
    }
    cr_assert_eq(s.header->block_count, stats_block_index(ROLE_SINK, LANES_MAX - 1) + 1);
    cr_assert_geq((char *)stats_partition(&s, 0), last);
    cr_assert_leq((char *)(stats_partition(&s, PARTITIONS_MAX - 1) + 1), end);
    cr_assert_eq(stats_partition(&s, PARTITIONS_MAX - 1)->committed, -1);
}

Test(stats, audit_and_recon_come_after_the_lanes_when_audit_is_on, .init = folder_make, .fini = folder_drop) {
    struct err err = {0};
    int fd;
    config.audit = 1;
    struct stats s = make(&fd), tool = {0};
    cr_assert_eq(stats_open(&tool, folder, "cards", &err), 0, "%s", err.text);
    cr_assert_eq(tool.header->block_count, 8);
    const struct stats_block *audit = stats_block(&tool, stats_block_index(ROLE_AUDIT, 2));
    const struct stats_block *recon = stats_block(&tool, stats_block_index(ROLE_RECON, 2));
    cr_assert(audit->role == ROLE_AUDIT && audit->lane == -1);
    cr_assert(recon->role == ROLE_RECON && recon->lane == -1);
    cr_assert_eq(stats_block(&tool, stats_block_index(ROLE_SINK, 1))->role, ROLE_SINK);
    cr_assert_eq(stats_block_index(ROLE_RECON, 2), tool.header->block_count - 1);
    stats_close(&tool);
    s.header->block_count = 7;
    cr_assert_eq(stats_open(&tool, folder, "cards", &err), -1, "blocks that are neither");
    stats_close(&s);
    config.audit = 0;
}

Test(stats, what_audit_has_counted_goes_on_beside_other_lanes, .init = folder_make, .fini = folder_drop) {
    int fd, next_fd;
    struct err err = {0};
    struct stats old = {0}, next = {0};
    config.audit = 1;
    cr_assert_eq(stats_create(&old, &config, &fd, &err), 0);
    atomic_store(&stats_block(&old, stats_block_index(ROLE_AUDIT, 2))->value[M_audit_entry], 42);
    atomic_store(&stats_block(&old, stats_block_index(ROLE_SINK, 1))->value[M_sink_batch], 5);
    config.lanes = 1;
    cr_assert_eq(stats_replace(&next, &old, &config, &next_fd, &err), 0, "%s", err.text);
    cr_assert_eq(atomic_load(&stats_block(&next, stats_block_index(ROLE_AUDIT, 1))->value[M_audit_entry]), 42);
    cr_assert_eq(atomic_load(&stats_block(&next, stats_block_index(ROLE_RECON, 1))->value[M_sink_batch]), 0);
    config.audit = 0;
    config.lanes = 2;
    stats_close(&old);
    cr_assert_eq(stats_replace(&old, &next, &config, &fd, &err), 0, "%s", err.text);
    cr_assert_eq(old.header->block_count, 6);
    stats_close(&old);
    stats_close(&next);
}

Test(stats, the_file_is_readable_by_group_and_nobody_else, .init = folder_make, .fini = folder_drop) {
    umask(0);
    int fd;
    make(&fd);
    char path[128];
    struct stat st;
    snprintf(path, sizeof path, "%s/cards.stats", folder);
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0640);
    cr_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC);
}

Test(stats, creating_again_begins_anew_and_leaves_old_readers_in_peace, .init = folder_make, .fini = folder_drop) {
    struct err err = {0};
    int fd;
    struct stats first = make(&fd), old = {0}, tool = {0};
    stats_block(&first, 0)->starts = 5;
    cr_assert_eq(stats_open(&old, folder, "cards", &err), 0);
    make(&fd);
    cr_assert_eq(stats_open(&tool, folder, "cards", &err), 0, "%s", err.text);
    cr_assert_eq(stats_block(&tool, 0)->starts, 0);
    cr_assert_eq(stats_block(&old, 0)->starts, 5);
}

Test(stats, create_without_a_folder_says_so, .init = folder_make, .fini = folder_drop) {
    struct err err = {0};
    struct stats s = {0};
    int fd = 7;
    snprintf(config.run_dir, sizeof config.run_dir, "%s/nothing-here", folder);
    cr_assert_eq(stats_create(&s, &config, &fd, &err), -1);
    cr_assert_neq(err.code, 0);
    cr_assert(strstr(err.text, "nothing-here") != NULL, "%s", err.text);
    cr_assert_eq(fd, -1);
}

Test(stats, a_worker_writes_through_the_descriptor_it_inherits, .init = folder_make, .fini = folder_drop) {
    struct err err = {0};
    int fd;
    struct stats s = make(&fd), worker = {0};
    cr_assert_eq(stats_map(&worker, fd, &err), 0, "%s", err.text);
    stats_block(&worker, 3)->heartbeat_ns = 99;
    cr_assert_eq(stats_block(&s, 3)->heartbeat_ns, 99);
}

Test(stats, a_worker_of_another_build_refuses_the_segment_a_tool_does_not, .init = folder_make, .fini = folder_drop) {
    struct err err = {0};
    int fd;
    struct stats s = make(&fd), worker = {0}, tool = {0};
    s.header->layout_hash ^= 1;
    cr_assert_eq(stats_map(&worker, fd, &err), -1);
    cr_assert_neq(err.text[0], 0);
    cr_assert_eq(stats_open(&tool, folder, "cards", &err), 0, "%s", err.text);
}

Test(stats, a_tool_that_writes_faults, .init = folder_make, .fini = folder_drop, .signal = SIGSEGV) {
    int fd;
    struct stats tool = {0};
    make(&fd);
    cr_assert_eq(stats_open(&tool, folder, "cards", NULL), 0);
    folder_drop();            /* the fault leaves no time for it */
    signal(SIGSEGV, SIG_DFL); /* a sanitizer's own handler would turn the fault into an exit */
    stats_block(&tool, 0)->starts = 1;
}

Test(stats, opening_what_is_not_there_is_unavailable, .init = folder_make, .fini = folder_drop) {
    struct err err = {0};
    struct stats tool = {0};
    cr_assert_eq(stats_open(&tool, folder, "cards", &err), -1);
    cr_assert_eq(err.code, EX_UNAVAILABLE);
    cr_assert(strstr(err.text, "cards.stats") != NULL, "%s", err.text);
}

/* -- garbage ----------------------------------------------------------------------------------- */

/* Writes bytes[0, n) as a segment called "bad" and opens it: 0, or the error code. */
static int open_bytes(const void *bytes, size_t n) {
    char path[128];
    snprintf(path, sizeof path, "%s/bad.stats", folder);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, bytes, n), (ssize_t)n);
    close(fd);
    struct err err = {0};
    struct stats tool = {0};
    int r = stats_open(&tool, folder, "bad", &err);
    if (r == 0) {
        stats_close(&tool);
        return 0;
    }
    cr_assert(strstr(err.text, "bad.stats") != NULL, "%s", err.text);
    return err.code;
}

Test(stats, what_is_no_segment_is_a_data_error, .init = folder_make, .fini = folder_drop) {
    static char bytes[1 << 16];
    cr_assert_eq(open_bytes("", 0), EX_DATAERR);
    cr_assert_eq(open_bytes("hello", 5), EX_DATAERR);
    cr_assert_eq(open_bytes(bytes, sizeof bytes), EX_DATAERR);
    memset(bytes, 0xff, sizeof bytes);
    cr_assert_eq(open_bytes(bytes, sizeof bytes), EX_DATAERR);
}

Test(stats, a_segment_cut_anywhere_is_a_data_error, .init = folder_make, .fini = folder_drop) {
    int fd;
    struct stats s = make(&fd);
    cr_assert_eq(open_bytes(s.header, s.bytes), 0);
    const size_t lengths[] = {8,
                              sizeof(struct stats_header) - 1,
                              sizeof(struct stats_header),
                              4096,
                              s.header->block_at,
                              s.header->partition_at,
                              s.bytes - 1};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++)
        cr_assert_eq(open_bytes(s.header, lengths[i]), EX_DATAERR, "cut to %zu", lengths[i]);
}

Test(stats, a_segment_of_another_version_is_a_data_error, .init = folder_make, .fini = folder_drop) {
    int fd;
    struct stats s = make(&fd);
    s.header->version = STATS_VERSION + 1;
    cr_assert_eq(open_bytes(s.header, s.bytes), EX_DATAERR);
    s.header->version = STATS_VERSION;
    s.header->magic ^= 1;
    cr_assert_eq(open_bytes(s.header, s.bytes), EX_DATAERR);
}

/* What a tool does with a segment that was accepted: everything it touches must lie within the mapping. */
static void walk(const struct stats *s) {
    const char *begin = (const char *)s->header, *end = begin + s->bytes;
    const struct stats_header *h = s->header;
    for (uint32_t i = 0; i < h->metric_count; i++) {
        const char *m = begin + h->metric_at + (size_t)i * h->metric_stride;
        cr_assert(m >= begin && m + sizeof(struct stats_metric) <= end);
    }
    for (uint32_t lane = 0; lane < h->lanes; lane++) {
        const char *b = (const char *)stats_block(s, stats_block_index(ROLE_SINK, lane));
        cr_assert(b >= begin && b + h->value_offset + sizeof(uint64_t) <= end, "block of lane %u", lane);
        cr_assert_eq((uintptr_t)b % 8, 0);
    }
    for (uint32_t i = 0; i < h->partition_count; i++) {
        const char *p = (const char *)stats_partition(s, i);
        cr_assert(p >= begin && p + sizeof(struct stats_partition) <= end);
        cr_assert_eq((uintptr_t)p % 8, 0);
    }
    for (uint32_t i = 0; i < h->topic_count; i++)
        cr_assert(begin + h->topic_at + (size_t)(i + 1) * h->topic_stride <= end);
}

Test(stats, a_damaged_header_is_refused_or_leads_nowhere_outside, .init = folder_make, .fini = folder_drop) {
    int fd;
    struct stats s = make(&fd);
    char path[128];
    snprintf(path, sizeof path, "%s/cards.stats", folder);
    const size_t at = offsetof(struct stats_header, lanes);
    uint8_t whole[sizeof(struct stats_header)];
    memcpy(whole, s.header, sizeof whole);
    const uint32_t values[] = {0, 1, 3, 7, 12, 4095, 65535, 1 << 20, 1 << 24, 0x7fffffff, 0x80000000u, UINT32_MAX};
    int refused = 0, taken = 0;
    for (size_t where = at; where < offsetof(struct stats_header, reserved); where += 4)
        for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
            memcpy((char *)s.header, whole, sizeof whole);
            memcpy((char *)s.header + where, &values[v], 4);
            struct err err = {0};
            struct stats tool = {0};
            if (stats_open(&tool, folder, "cards", &err) != 0) {
                cr_assert_eq(err.code, EX_DATAERR, "%s", err.text);
                refused++;
                continue;
            }
            walk(&tool);
            stats_close(&tool);
            taken++;
        }
    cr_assert(refused > 20 && taken > 0, "%d refused, %d taken", refused, taken);
}

/* -- counters of a worker ---------------------------------------------------------------------- */

Test(stats, a_successor_counts_on_from_where_the_block_stands, .init = folder_make, .fini = folder_drop) {
    static struct stats_local first, second;
    int fd;
    struct stats s = make(&fd);
    struct stats_block *b = stats_block(&s, 3);
    stats_local_init(&first, b);
    stats_add(&first, M_sink_record_applied, 5);
    stats_observe(&first, H_sink_ingest_to_redis, 5000);
    cr_assert_eq(b->value[M_sink_record_applied], 0, "before the flush nothing is in the segment");
    stats_flush(&first);
    cr_assert_eq(b->value[M_sink_record_applied], 5);
    stats_add(&first, M_sink_record_applied, 100); /* dies before it flushes */
    stats_local_init(&second, b);
    stats_add(&second, M_sink_record_applied, 2);
    stats_set(&second, M_sink_in_flight, 9);
    stats_observe(&second, H_sink_ingest_to_redis, 7000);
    stats_flush(&second);
    cr_assert_eq(b->value[M_sink_record_applied], 7);
    cr_assert_eq(b->value[M_sink_in_flight], 9);
    cr_assert_eq(b->histogram_sum_ns[H_sink_ingest_to_redis], 12000);
    uint64_t observed = 0;
    for (int i = 0; i < HISTOGRAM_BUCKETS; i++) observed += b->histogram[H_sink_ingest_to_redis][i];
    cr_assert_eq(observed, 2);
    stats_set(&second, M_sink_in_flight, 0);
    stats_flush(&second);
    cr_assert_eq(b->value[M_sink_in_flight], 0);
}

Test(stats, each_histogram_is_flushed_to_its_own_place, .init = folder_make, .fini = folder_drop) {
    static struct stats_local l;
    int fd;
    struct stats s = make(&fd);
    struct stats_block *b = stats_block(&s, 1);
    stats_local_init(&l, b);
    for (int h = 0; h < HISTOGRAM_COUNT; h++)
        for (int n = 0; n <= h; n++) stats_observe(&l, (enum histogram)h, 1000000);
    stats_flush(&l);
    for (int h = 0; h < HISTOGRAM_COUNT; h++) {
        cr_assert_eq(b->histogram[h][histogram_bucket(1000000)], (uint64_t)h + 1);
        cr_assert_eq(b->histogram_sum_ns[h], ((uint64_t)h + 1) * 1000000);
    }
}

/* -- histograms -------------------------------------------------------------------------------- */

Test(stats, buckets_rise_with_the_time_and_none_is_left_out) {
    uint32_t last = 0;
    cr_assert_eq(histogram_bucket(0), 0);
    cr_assert_eq(histogram_bucket(1023), 0);
    cr_assert_eq(histogram_bucket(1024), 1);
    for (uint64_t ns = 1; ns < 1ULL << 41; ns += 1 + ns / 100) {
        uint32_t b = histogram_bucket(ns);
        cr_assert(b == last || b == last + 1, "%llu ns: bucket %u after %u", (unsigned long long)ns, b, last);
        last = b;
    }
    cr_assert_eq(last, HISTOGRAM_BUCKETS - 1);
    cr_assert_eq(histogram_bucket((1ULL << 40) - 1), HISTOGRAM_BUCKETS - 2);
    cr_assert_eq(histogram_bucket(1ULL << 40), HISTOGRAM_BUCKETS - 1);
    cr_assert_eq(histogram_bucket(UINT64_MAX), HISTOGRAM_BUCKETS - 1);
}

Test(stats, every_time_lies_below_the_bound_of_its_bucket_and_not_below_the_one_before) {
    for (uint32_t b = 0; b + 1 < HISTOGRAM_BUCKETS; b++) {
        uint64_t bound = histogram_bound_ns(b);
        cr_assert_gt(histogram_bound_ns(b + 1), bound);
        cr_assert_eq(histogram_bucket(bound - 1), b);
        cr_assert_eq(histogram_bucket(bound), b + 1);
        if (b > 0) { /* a quantile read off the bound is at most 1/8 too high */
            uint64_t low = histogram_bound_ns(b - 1);
            cr_assert_leq(bound - low, low / 8);
        }
    }
    cr_assert_eq(histogram_bound_ns(HISTOGRAM_BUCKETS - 1), UINT64_MAX);
}

/* -- texts ------------------------------------------------------------------------------------- */

Test(stats, a_text_reads_back_and_a_long_one_is_cut) {
    static struct stats_text t;
    char out[STATS_TEXT_BYTES], longer[2 * STATS_TEXT_BYTES];
    stats_text_get(&t, out);
    cr_assert_str_eq(out, "");
    stats_text_set(&t, "blocked: redis lost writes");
    stats_text_get(&t, out);
    cr_assert_str_eq(out, "blocked: redis lost writes");
    memset(longer, 'x', sizeof longer);
    longer[sizeof longer - 1] = 0;
    stats_text_set(&t, longer);
    stats_text_get(&t, out);
    cr_assert_eq(strlen(out), STATS_TEXT_BYTES - 1);
    stats_text_set(&t, "");
    stats_text_get(&t, out);
    cr_assert_str_eq(out, "");
}

Test(stats, a_text_whose_writer_died_half_way_is_the_one_before) {
    static struct stats_text t;
    char out[STATS_TEXT_BYTES];
    stats_text_set(&t, "first");
    stats_text_set(&t, "second");
    memset(t.copy[(t.generation + 1) & 1], '#', 100);
    stats_text_get(&t, out);
    cr_assert_str_eq(out, "second");
}

Test(stats, a_text_without_an_end_in_the_segment_still_ends_for_the_reader) {
    static struct stats_text t;
    char out[STATS_TEXT_BYTES];
    memset(t.copy, 'y', sizeof t.copy);
    stats_text_get(&t, out);
    cr_assert_eq(strlen(out), STATS_TEXT_BYTES - 1);
}

/* -- replaced ---------------------------------------------------------------------------------- */

Test(stats, what_was_counted_goes_on_in_the_segment_that_takes_its_place, .init = folder_make, .fini = folder_drop) {
    int fd, next_fd;
    struct err err = {0};
    struct stats old = {0}, next = {0}, reader = {0};
    cr_assert_eq(stats_create(&old, &config, &fd, &err), 0);
    struct stats_local local;
    stats_local_init(&local, stats_block(&old, stats_block_index(ROLE_SINK, 1)));
    stats_add(&local, M_sink_record_applied, 42);
    stats_observe(&local, H_sink_ingest_to_redis, 5000);
    stats_flush(&local);
    atomic_store(&local.block->starts, 7);
    atomic_store(&local.block->deaths, 3);
    atomic_store(&local.block->published, 99);
    old.header->started_wall_ms = 123;
    config.lanes = 3;
    cr_assert_eq(stats_replace(&next, &old, &config, &next_fd, &err), 0, "%s", err.text);
    const struct stats_block *b = stats_block(&next, stats_block_index(ROLE_SINK, 1));
    cr_assert_eq(atomic_load(&b->value[M_sink_record_applied]), 42);
    cr_assert_eq(atomic_load(&b->histogram[H_sink_ingest_to_redis][histogram_bucket(5000)]), 1);
    cr_assert_eq(atomic_load(&b->histogram_sum_ns[H_sink_ingest_to_redis]), 5000);
    cr_assert_eq(atomic_load(&b->starts), 7);
    cr_assert_eq(atomic_load(&b->deaths), 3);
    cr_assert_eq(atomic_load(&b->published), 0, "the numbers begin again with the rings");
    cr_assert_eq(atomic_load(&stats_block(&next, stats_block_index(ROLE_SINK, 2))->starts), 0);
    cr_assert_eq(next.header->started_wall_ms, 123);
    cr_assert_eq(atomic_load(&old.header->superseded), 1);
    cr_assert_eq(stats_open(&reader, folder, "cards", &err), 0);
    cr_assert_eq(reader.header->lanes, 3);
    cr_assert_eq(atomic_load(&reader.header->superseded), 0);
    stats_close(&reader);
    config.lanes = 1; /* what is beyond the new lanes ends */
    struct stats last = {0};
    cr_assert_eq(stats_replace(&last, &next, &config, &fd, &err), 0);
    cr_assert_eq(atomic_load(&stats_block(&last, stats_block_index(ROLE_SINK, 0))->starts), 0);
    config.lanes = 2;
}

Test(stats, that_cannot_be_replaced_stay_in_force, .init = folder_make, .fini = folder_drop) {
    int fd, next_fd;
    struct err err = {0};
    struct stats old = {0}, next = {0};
    cr_assert_eq(stats_create(&old, &config, &fd, &err), 0);
    snprintf(config.run_dir, sizeof config.run_dir, "/nonexistent");
    cr_assert_eq(stats_replace(&next, &old, &config, &next_fd, &err), -1);
    snprintf(config.run_dir, sizeof config.run_dir, "%s", folder);
    cr_assert_eq(atomic_load(&old.header->superseded), 0);
    cr_assert_null(next.header);
}

#endif

struct race {
    struct stats_text text;
    _Atomic uint32_t stop;
};

static void *write_all_the_time(void *arg) {
    struct race *race = arg;
    char text[STATS_TEXT_BYTES];
    for (uint32_t i = 0; atomic_load_explicit(&race->stop, memory_order_relaxed) == 0; i++) {
        size_t len = i % 200;
        memset(text, 'a' + (int)(i % 26), len);
        text[len] = 0;
        stats_text_set(&race->text, text);
    }
    return NULL;
}

Test(stats, a_reader_of_a_racing_writer_never_sees_two_texts_in_one, .timeout = 60) {
    static struct race race;
    pthread_t writer;
    cr_assert_eq(pthread_create(&writer, NULL, write_all_the_time, &race), 0);
    int different = 0;
    for (int i = 0; i < 300000 || different < 1000; i++) {
        char out[STATS_TEXT_BYTES];
        stats_text_get(&race.text, out);
        size_t len = strlen(out);
        for (size_t k = 1; k < len; k++) cr_assert_eq(out[k], out[0], "torn: %s", out);
        if (len > 0) cr_assert_eq((uint32_t)(out[0] - 'a') % 2, len % 2, "the length of another text: %s", out);
        different += len > 0;
    }
    atomic_store(&race.stop, 1);
    pthread_join(writer, NULL);
}

struct counting {
    struct stats s;
    _Atomic uint32_t stop;
};

static void *count_all_the_time(void *arg) {
    static struct stats_local l;
    struct counting *c = arg;
    stats_local_init(&l, stats_block(&c->s, 3));
    while (atomic_load_explicit(&c->stop, memory_order_relaxed) == 0) {
        stats_add(&l, M_sink_record_applied, 1);
        stats_observe(&l, H_sink_ingest_to_redis, l.value[M_sink_record_applied]);
        stats_flush(&l);
    }
    return NULL;
}

Test(stats, a_tool_beside_a_working_worker_sees_counters_that_only_grow, .timeout = 60) {
    static struct counting c;
    folder_make();
    int fd;
    c.s = make(&fd);
    struct stats tool = {0};
    cr_assert_eq(stats_open(&tool, folder, "cards", NULL), 0);
    struct stats_block *b = stats_block(&tool, 3);
    pthread_t writer;
    cr_assert_eq(pthread_create(&writer, NULL, count_all_the_time, &c), 0);
    uint64_t last = 0, moved = 0;
    for (int i = 0; i < 500000 || moved < 100; i++) {
        uint64_t now = atomic_load_explicit(&b->value[M_sink_record_applied], memory_order_relaxed);
        cr_assert_geq(now, last);
        moved += now > last;
        last = now;
    }
    atomic_store(&c.stop, 1);
    pthread_join(writer, NULL);
    folder_drop();
}

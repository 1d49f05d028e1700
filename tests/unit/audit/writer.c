#include <errno.h>
#include <sysexits.h>

#include "tests/unit/audit/help.h"

static void reopen(struct bench *b) {
    log_writer_close(&b->writer);
    cr_assert_eq(bench_open(b), 0, "%s", b->err.text);
}

/* Reads entry `sequence`. The copy is overwritten by the next call. */
static const struct entry *entry_at(struct bench *b, uint64_t sequence, const char **topic) {
    static struct entry copy;
    static char name[LOG_TOPIC_BYTES];
    struct log_reader *r = log_reader_open(b->log, sequence, &b->err);
    struct log_item item;
    cr_assert_eq(log_reader_next(r, &item, &b->err), LOG_ITEM, "%s", b->err.text);
    copy = *item.entry;
    snprintf(name, sizeof name, "%s", item.topic);
    if (topic != NULL) *topic = name;
    log_reader_close(r);
    return &copy;
}

static bool add(struct bench *b, uint64_t number, uint16_t topic, int32_t partition, int64_t offset) {
    return log_writer_add(&b->writer, 0, 77, number, entry_make(topic, partition, offset, 0));
}

static void commit(struct bench *b) { cr_assert_eq(log_writer_commit(&b->writer, &b->err), 0, "%s", b->err.text); }

Test(log_writer, an_offset_that_was_logged_before_is_marked_as_a_repeat_after_a_restart_too) {
    struct bench *b = bench_make();
    cr_assert_eq(bench_open(b), 0, "%s", b->err.text);
    cr_assert_not(add(b, 1, 0, 0, 10));
    cr_assert_not(add(b, 2, 0, 1, 10));
    cr_assert_not(add(b, 3, 1, 0, 10));
    cr_assert(add(b, 4, 0, 0, 10));
    cr_assert(add(b, 5, 0, 0, 3));
    cr_assert_not(add(b, 6, 0, 0, 11));
    commit(b);
    reopen(b);
    cr_assert(add(b, 7, 0, 0, 11));
    cr_assert(add(b, 8, 0, 1, 10));
    cr_assert_not(add(b, 9, 0, 1, 11));
    commit(b);
    const bool repeat[] = {false, false, false, true, true, false, true, true, false};
    for (uint64_t s = 1; s <= 9; s++)
        cr_assert_eq((entry_at(b, s, NULL)->flags & ENTRY_REPEAT) != 0, repeat[s - 1], "%d", (int)s);
    bench_drop(b);
}

Test(log_writer, numbers_of_lanes_are_known_after_a_restart_and_not_of_another_incarnation) {
    struct bench *b = bench_make();
    cr_assert_eq(bench_open(b), 0);
    cr_assert_eq(log_writer_number(&b->writer, 0, 77), 0);
    log_writer_add(&b->writer, 0, 77, 5, entry_make(0, 0, 1, 0));
    log_writer_add(&b->writer, 1, 78, 9, entry_make(0, 1, 1, 0));
    cr_assert_eq(log_writer_number(&b->writer, 0, 77), 0, "not durable yet");
    commit(b);
    for (int i = 0; i < 2; i++, reopen(b)) {
        cr_assert_eq(log_writer_number(&b->writer, 0, 77), 5);
        cr_assert_eq(log_writer_number(&b->writer, 1, 78), 9);
        cr_assert_eq(log_writer_number(&b->writer, 1, 77), 0);
    }
    bench_drop(b);
}

Test(log_writer, places_and_lanes_go_from_segment_to_segment) {
    struct bench *b = bench_make();
    b->config.recon.segment_bytes = 1;
    cr_assert_eq(bench_open(b), 0);
    for (uint64_t n = 1; n <= 6; n++) {
        add(b, n, (uint16_t)(n % 2), 0, (int64_t)n);
        commit(b);
    }
    cr_assert_eq(b->writer.closed_count, 5);
    reopen(b);
    cr_assert_eq(b->writer.sequence, 7);
    cr_assert_eq(b->writer.closed_count, 5);
    cr_assert_eq(log_writer_number(&b->writer, 0, 77), 6);
    cr_assert(add(b, 7, 0, 0, 6));
    cr_assert(add(b, 8, 1, 0, 5));
    cr_assert_not(add(b, 9, 1, 0, 6));
    bench_drop(b);
}

/* Else whoever makes one file larger has retention remove the others, and sign for it. */
Test(log_writer, retention_by_size_does_not_count_what_was_put_behind_a_segment) {
    struct bench *b = bench_make();
    b->config.recon.segment_bytes = 1;
    cr_assert_eq(bench_open(b), 0);
    for (uint64_t n = 1; n <= 4; n++) {
        add(b, n, 0, 0, (int64_t)n);
        commit(b);
    }
    uint64_t closed = b->writer.closed_bytes;
    b->config.recon.retention_bytes = 4 << 20;
    file_cut(b, 2, 1 << 30); /* makes it longer */
    reopen(b);
    cr_assert_eq(b->writer.closed_bytes, closed);
    cr_assert_null(log_writer_expired(&b->writer));
    b->config.recon.retention_bytes = closed;
    cr_assert_not_null(log_writer_expired(&b->writer));
    file_cut(b, 3, 1 << 30);
    file_cut(b, 2, 0); /* what is no segment any more takes nothing */
    reopen(b);
    cr_assert_lt(b->writer.closed_bytes, closed);
    bench_drop(b);
}

Test(log_writer, a_torn_tail_is_cut_wherever_it_was_torn) {
    struct bench *b = bench_make();
    cr_assert_eq(bench_open(b), 0);
    log_fill(b, 1, 4, 2);
    uint64_t before = b->writer.end;
    log_fill(b, 5, 3, 3);
    uint64_t end = b->writer.end;
    for (uint64_t cut = before; cut < end; cut += 7) {
        log_writer_close(&b->writer);
        char path[128];
        snprintf(path, sizeof path, "%s/" LOG_MARK_NAME, b->log);
        cr_assert_eq(unlink(path), 0); /* the machine went down */
        file_cut(b, 1, (off_t)cut);
        cr_assert_eq(bench_open(b), 0, "%s", b->err.text);
        cr_assert_eq(b->writer.sequence, 5);
        cr_assert_eq(b->writer.end, before);
        cr_assert_eq(b->writer.cut_bytes, cut - before);
        cr_assert_eq(file_bytes(b, 1), (off_t)before);
        cr_assert_eq(log_writer_number(&b->writer, 0, 77), 4);
        log_fill(b, 5, 3, 3);
        cr_assert_eq(log_count(b, 0), 7);
    }
    bench_drop(b);
}

Test(log_writer, a_last_batch_whose_pages_did_not_all_reach_the_disk_is_cut) {
    static const char zeros[8192];
    struct bench *b = bench_make();
    cr_assert_eq(bench_open(b), 0);
    log_fill(b, 1, 4, 2);
    uint64_t before = b->writer.end;
    log_fill(b, 5, 100, 100);
    uint64_t end = b->writer.end;
    const struct {
        uint64_t from, to;
    } hole[] = {{before, end}, {8192, 12288}, {before, 8192}, {end / 4096 * 4096, end}};
    for (size_t i = 0; i < sizeof hole / sizeof hole[0]; i++) {
        char path[128];
        log_writer_close(&b->writer);
        snprintf(path, sizeof path, "%s/" LOG_MARK_NAME, b->log);
        cr_assert_eq(unlink(path), 0);
        for (uint64_t at = hole[i].from; at < hole[i].to; at += 8192)
            file_put(b, 1, (off_t)at, zeros, hole[i].to - at < 8192 ? hole[i].to - at : 8192);
        cr_assert_eq(bench_open(b), 0, "%d: %s", (int)i, b->err.text);
        cr_assert_eq(b->writer.sequence, 5);
        log_fill(b, 5, 100, 100);
        cr_assert_eq(log_count(b, 0), 104);
    }
    bench_drop(b);
}

Test(log_writer, zeros_in_what_is_known_to_be_durable_are_no_torn_tail) {
    static const char zeros[4096];
    struct bench *b = bench_make();
    cr_assert_eq(bench_open(b), 0);
    log_fill(b, 1, 100, 100);
    log_writer_close(&b->writer);
    file_put(b, 1, 8192, zeros, 4096);
    cr_assert_neq(bench_open(b), 0);
    cr_assert_eq(b->err.code, EX_DATAERR);
    bench_drop(b);
}

Test(log_writer, a_whole_last_batch_that_was_changed_is_refused_not_cut) {
    struct bench *b = bench_make();
    cr_assert_eq(bench_open(b), 0);
    log_fill(b, 1, 10, 5);
    off_t at = (off_t)b->writer.end - 100;
    log_writer_close(&b->writer);
    file_put(b, 1, at, "x", 1);
    cr_assert_neq(bench_open(b), 0);
    cr_assert_eq(b->err.code, EX_DATAERR);
    cr_assert_not_null(strstr(b->err.text, "millrace audit verify"), "%s", b->err.text);
    cr_assert_eq(file_bytes(b, 1), at + 100);
    bench_drop(b);
}

/* A length that was changed makes all behind it look torn. */
Test(log_writer, what_is_known_to_be_durable_is_not_cut_off_as_a_torn_tail) {
    struct bench *b = bench_make();
    cr_assert_eq(bench_open(b), 0);
    log_fill(b, 1, 2, 2);
    off_t second = (off_t)b->writer.end;
    log_fill(b, 3, 6, 2);
    off_t end = (off_t)b->writer.end;
    uint32_t bytes = LOG_BATCH_BYTES_MAX, right;
    log_writer_close(&b->writer);
    int fd = file_open(b, 1);
    cr_assert_eq(pread(fd, &right, sizeof right, second + 8), (ssize_t)sizeof right);
    close(fd);
    file_put(b, 1, second + 8, &bytes, sizeof bytes);
    for (int again = 0; again < 2; again++) {
        cr_assert_neq(bench_open(b), 0);
        cr_assert_eq(b->err.code, EX_DATAERR, "%s", b->err.text);
        cr_assert_eq(file_bytes(b, 1), end);
    }
    file_put(b, 1, second + 8, &right, sizeof right);
    cr_assert_eq(bench_open(b), 0, "%s", b->err.text);
    log_writer_close(&b->writer);
    file_cut(b, 1, second); /* at a batch, and by whoever */
    cr_assert_neq(bench_open(b), 0);
    cr_assert_eq(b->err.code, EX_DATAERR);
    bench_drop(b);
}

Test(log_writer, a_last_segment_that_is_gone_is_missed) {
    struct bench *b = bench_make();
    char path[128];
    b->config.recon.segment_bytes = 1;
    cr_assert_eq(bench_open(b), 0);
    log_fill(b, 1, 3, 1);
    log_writer_close(&b->writer);
    for (int segment = 3; segment > 0; segment--) {
        snprintf(path, sizeof path, "%s/%016x.log", b->log, (unsigned)segment);
        cr_assert_eq(unlink(path), 0);
        cr_assert_neq(bench_open(b), 0);
        cr_assert_eq(b->err.code, EX_DATAERR);
        cr_assert_not_null(strstr(b->err.text, "0000000000000003.log is gone"), "%s", b->err.text);
    }
    bench_drop(b);
}

Test(log_writer, a_log_of_another_key_is_refused) {
    struct bench *b = bench_make();
    cr_assert_eq(bench_open(b), 0);
    log_fill(b, 1, 10, 5);
    log_writer_close(&b->writer);
    b->keys.id = 8;
    cr_assert_neq(bench_open(b), 0);
    cr_assert_eq(b->err.code, EX_CONFIG);
    b->keys.id = 7; /* the same id, other bytes */
    b->keys.chain[3] ^= 1;
    cr_assert_neq(bench_open(b), 0);
    cr_assert_eq(b->err.code, EX_DATAERR);
    bench_drop(b);
}

Test(log_writer, a_second_writer_is_refused) {
    struct bench *b = bench_make();
    cr_assert_eq(bench_open(b), 0);
    struct bench other = *b;
    cr_assert_neq(bench_open(&other), 0);
    cr_assert_eq(other.err.code, EWOULDBLOCK);
    bench_drop(b);
}

Test(log_writer, another_configuration_of_topics_begins_a_segment_and_knows_what_was_logged) {
    struct bench *b = bench_make();
    const char *topic;
    cr_assert_eq(bench_open(b), 0);
    add(b, 1, 0, 0, 5);
    add(b, 2, 1, 0, 6);
    commit(b);
    log_writer_close(&b->writer);
    bench_topics(b, 2, (const char *const[]){"accounts", "limits"});
    cr_assert_eq(bench_open(b), 0, "%s", b->err.text);
    cr_assert_eq(b->writer.closed_count, 1);
    cr_assert_not(add(b, 3, 0, 0, 1)); /* accounts */
    cr_assert(add(b, 4, 1, 0, 6));     /* limits */
    commit(b);
    entry_at(b, 3, &topic);
    cr_assert_str_eq(topic, "accounts");
    entry_at(b, 4, &topic);
    cr_assert_str_eq(topic, "limits");
    log_writer_close(&b->writer);
    bench_topics(b, 1, (const char *const[]){"cards"}); /* in the table still, for its partition's sake */
    cr_assert_eq(bench_open(b), 0, "%s", b->err.text);
    cr_assert_eq(b->writer.closed_count, 1);
    cr_assert(add(b, 5, 0, 0, 5));
    cr_assert_not(add(b, 6, 0, 0, 6));
    commit(b);
    entry_at(b, 5, &topic);
    cr_assert_str_eq(topic, "cards");
    cr_assert_eq(log_count(b, 0), 6);
    bench_drop(b);
}

Test(log_writer, more_partitions_than_it_can_hold_cost_only_those_of_old) {
    struct bench *b = bench_make();
    cr_assert_eq(bench_open(b), 0);
    for (int i = 0; i < PARTITIONS_MAX; i++) add(b, (uint64_t)i + 1, 0, i, 5);
    commit(b);
    reopen(b);
    for (int i = 0; i < 10; i++) cr_assert_not(add(b, 5000 + (uint64_t)i, 0, PARTITIONS_MAX + i, 5));
    for (int i = 0; i < 10; i++) cr_assert(add(b, 6000 + (uint64_t)i, 0, PARTITIONS_MAX + i, 5));
    commit(b);
    reopen(b);
    cr_assert_eq(b->writer.sequence, PARTITIONS_MAX + 21);
    bench_drop(b);
}

Test(log_writer, when_its_file_is_removed_under_it_the_batch_goes_to_another_one) {
    struct bench *b = bench_make();
    char path[128];
    cr_assert_eq(bench_open(b), 0);
    add(b, 1, 0, 0, 1);
    commit(b);
    snprintf(path, sizeof path, "%s/0000000000000001.log", b->log);
    cr_assert_eq(unlink(path), 0);
    add(b, 2, 0, 0, 2);
    cr_assert_neq(log_writer_commit(&b->writer, &b->err), 0);
    cr_assert_eq(b->err.code, ENOENT);
    commit(b);
    cr_assert_eq(file_bytes(b, 1), -1);
    cr_assert_gt(file_bytes(b, 2), 0);
    cr_assert_eq(entry_at(b, 2, NULL)->offset, 2);
    add(b, 3, 0, 0, 3);
    commit(b);
    reopen(b);
    cr_assert_eq(b->writer.sequence, 4);
    bench_drop(b);
}

/* -- files that fail --------------------------------------------------------------------------- */

static struct {
    int countdown; /* calls that succeed before one fails; -1: all do */
    int times;     /* how many fail from there on */
    int code;
    bool cut; /* a write does a part of it */
    int calls;
} fail;

static bool failing(void) {
    fail.calls++;
    if (fail.countdown < 0 || fail.times == 0) return false;
    if (fail.countdown > 0) {
        fail.countdown--;
        return false;
    }
    fail.times--;
    errno = fail.code;
    return true;
}

static int fail_open(void *c, int folder, const char *name, int flags) {
    return failing() ? -1 : log_files_real.open(c, folder, name, flags);
}
static ssize_t fail_write(void *c, int fd, const struct iovec *part, int parts, off_t at) {
    if (!failing()) return log_files_real.write(c, fd, part, parts, at);
    if (!fail.cut) return -1;
    size_t len = 0;
    char *whole = malloc(1 << 20);
    for (int i = 0; i < parts; len += part[i++].iov_len) memcpy(whole + len, part[i].iov_base, part[i].iov_len);
    struct iovec some = {whole, len / 2 + 1};
    ssize_t n = log_files_real.write(c, fd, &some, 1, at);
    free(whole);
    return n;
}
static int fail_truncate(void *c, int fd, off_t bytes) {
    return failing() ? -1 : log_files_real.truncate(c, fd, bytes);
}
static int fail_sync(void *c, int fd) { return failing() ? -1 : log_files_real.sync(c, fd); }
static int fail_rename(void *c, int folder, const char *from, const char *to) {
    return failing() ? -1 : log_files_real.rename(c, folder, from, to);
}
static int fail_unlink(void *c, int folder, const char *name) {
    return failing() ? -1 : log_files_real.unlink(c, folder, name);
}

static int fail_direct(void *c, int fd, bool on) { /* some file systems cannot */
    (void)c, (void)fd, (void)on;
    errno = EINVAL;
    return -1;
}

static const struct log_files failing_files = {fail_open,   fail_write,  fail_truncate, fail_sync,
                                               fail_rename, fail_unlink, fail_direct,   NULL};

/* Every call of a run fails once, and from there on for a while; the run goes on, and each entry is in the log once. */
Test(log_writer, whichever_call_fails_every_entry_is_logged_once_when_it_is_tried_again, .timeout = 60) {
    static const struct {
        int times, code;
        bool cut;
    } ways[] = {{1, EIO, false}, {1, ENOSPC, true}, {2, EIO, true}, {7, ENOSPC, false}};
    for (size_t way = 0; way < sizeof ways / sizeof ways[0]; way++)
        for (int n = 0;; n++) {
            struct bench *b = bench_make();
            b->config.recon.segment_bytes = 1500;
            b->files = failing_files;
            fail.countdown = n;
            fail.times = ways[way].times;
            fail.code = ways[way].code;
            fail.cut = ways[way].cut;
            fail.calls = 0;
            while (bench_open(b) != 0)
                cr_assert(b->err.code == (ways[way].cut ? ENOSPC : ways[way].code) || b->err.code == ways[way].code,
                          "%s", b->err.text);
            for (uint64_t k = 1; k <= 12; k++) {
                cr_assert_not(add(b, k, 0, 0, (int64_t)k));
                if (k % 3 != 0) continue;
                uint64_t before = b->writer.sequence;
                while (log_writer_commit(&b->writer, &b->err) != 0) {
                    cr_assert_eq(b->writer.sequence, before);
                    cr_assert_eq(log_count(b, 0), before - 1);
                }
                if (k == 6) {
                    log_writer_close(&b->writer);
                    while (bench_open(b) != 0)
                        cr_assert(b->err.code == (ways[way].cut ? ENOSPC : ways[way].code) ||
                                      b->err.code == ways[way].code,
                                  "%s", b->err.text);
                }
            }
            cr_assert_eq(log_count(b, 0), 12);
            int left = fail.countdown, calls = fail.calls;
            bench_drop(b);
            cr_assert_lt(n, 200);
            if (left > 0) {
                cr_assert_gt(calls, 15);
                break;
            }
        }
}

Test(log_writer, what_was_not_committed_does_not_make_a_repeat_of_what_comes_again) {
    enum { CALLS_OF_A_SEGMENT = 5 };
    struct bench *b = bench_make();
    b->config.recon.segment_bytes = 1;
    b->files = failing_files;
    fail.countdown = -1;
    cr_assert_eq(bench_open(b), 0);
    add(b, 1, 0, 0, 1);
    commit(b);
    add(b, 2, 0, 0, 2);
    fail.countdown = CALLS_OF_A_SEGMENT; /* a segment is begun for it, and not filled */
    fail.times = 2;
    fail.code = EIO;
    cr_assert_neq(log_writer_commit(&b->writer, &b->err), 0);
    cr_assert_eq(b->writer.segment, 2);
    reopen(b);
    cr_assert_eq(b->writer.sequence, 2);
    cr_assert_not(add(b, 2, 0, 0, 2));
    commit(b);
    cr_assert(add(b, 3, 0, 0, 2));
    bench_drop(b);
}

/* -- retention --------------------------------------------------------------------------------- */

Test(log_writer, segments_are_removed_by_age_and_by_size_the_oldest_first_and_never_the_last) {
    struct bench *b = bench_make();
    uint64_t sequence;
    uint8_t mac[LOG_MAC_BYTES];
    b->config.recon.segment_bytes = 1;
    cr_assert_eq(bench_open(b), 0);
    for (uint64_t n = 1; n <= 5; n++) {
        add(b, n, 0, 0, (int64_t)n);
        commit(b);
        b->wall_ms += 60000;
    }
    for (int again = 0; again < 2; again++, reopen(b)) {
        cr_assert_null(log_writer_expired(&b->writer));
        b->wall_ms += (int64_t)b->config.recon.retention_ms - 4 * 60000 + 1;
        cr_assert_eq(log_writer_expired(&b->writer)->first, 1);
        b->wall_ms -= (int64_t)b->config.recon.retention_ms - 4 * 60000 + 1;
    }
    b->wall_ms += (int64_t)b->config.recon.retention_ms;
    cr_assert_eq(log_writer_closed_end(&b->writer, &sequence, mac, &b->err), 0);
    cr_assert_eq(sequence, 1);
    cr_assert_eq(log_writer_remove(&b->writer, &b->err), 0);
    cr_assert_eq(file_bytes(b, 1), -1);
    cr_assert_eq(log_writer_expired(&b->writer)->first, 2);
    b->wall_ms -= (int64_t)b->config.recon.retention_ms;
    cr_assert_null(log_writer_expired(&b->writer));
    b->config.recon.retention_bytes = b->writer.closed_bytes + b->writer.end - 1;
    cr_assert_eq(log_writer_expired(&b->writer)->first, 2);
    b->config.recon.retention_bytes = 1;
    while (log_writer_expired(&b->writer) != NULL) cr_assert_eq(log_writer_remove(&b->writer, &b->err), 0);
    cr_assert_eq(b->writer.closed_count, 0);
    cr_assert_eq(log_count(b, 5), 1);
    bench_drop(b);
}

Test(log_writer, a_clock_that_was_set_makes_no_segment_old) {
    struct bench *b = bench_make();
    const int64_t years_ms = 10 * 31557600000;
    b->config.recon.segment_bytes = 1;
    cr_assert_eq(bench_open(b), 0);
    log_fill(b, 1, 4, 1);
    b->set_ms = years_ms;
    cr_assert(log_writer_clock_set(&b->writer) && log_writer_expired(&b->writer) == NULL);
    b->wall_ms += (int64_t)b->config.recon.retention_ms + 1;
    cr_assert_null(log_writer_expired(&b->writer), "how old it is nobody knows");
    b->set_ms = -years_ms;
    cr_assert_null(log_writer_expired(&b->writer));
    b->config.recon.retention_bytes = 1;
    cr_assert_eq(log_writer_expired(&b->writer)->first, 1, "by size");
    b->config.recon.retention_bytes = 1ULL << 40;
    b->set_ms = 60000;
    cr_assert(!log_writer_clock_set(&b->writer) && log_writer_expired(&b->writer)->first == 1, "it was put right");
    bench_drop(b);
}

/* Retention signs for what it removes, so nobody else may have it do that. */
Test(log_writer, a_time_that_was_changed_in_a_segment_removes_nothing) {
    struct bench *b = bench_make();
    const int64_t long_ago = 1;
    b->config.recon.segment_bytes = 1;
    cr_assert_eq(bench_open(b), 0);
    log_fill(b, 1, 4, 1);
    log_writer_close(&b->writer);
    for (uint64_t segment = 1; segment < 4; segment++)
        file_put(b, segment, offsetof(struct log_head, created_us), &long_ago, sizeof long_ago);
    cr_assert_eq(bench_open(b), 0, "%s", b->err.text);
    cr_assert_eq(b->writer.closed_count, 3);
    cr_assert_null(log_writer_expired(&b->writer));
    b->wall_ms += (int64_t)b->config.recon.retention_ms + 1;
    cr_assert_eq(log_writer_expired(&b->writer)->first, 1);
    bench_drop(b);
}

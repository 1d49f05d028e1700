#include "audit/audit.h"

#include <errno.h>
#include <poll.h>

#include "tests/unit/audit/rig.h"

enum { CAPACITY = 1 << 20 };

static struct {
    int code; /* every write fails with it; 0 none */
    _Atomic int stall_ms;
} disk;

static ssize_t disk_write(void *c, int fd, const struct iovec *part, int parts, off_t at) {
    if (disk.code == 0) return log_files_real.write(c, fd, part, parts, at);
    errno = disk.code;
    return -1;
}

static int disk_sync(void *c, int fd) {
    usleep((useconds_t)disk.stall_ms * 1000);
    return log_files_real.sync(c, fd);
}

static struct rig *rig_started(void) {
    struct rig *r = rig_make(CAPACITY);
    r->b->files.write = disk_write;
    r->b->files.sync = disk_sync;
    rig_start(r);
    cr_assert_eq(rig_settle(r), STEP_IDLE);
    cr_assert_eq(rig_state(r), STATE_RUNNING);
    return r;
}

Test(audit, entries_are_released_when_they_are_durable_and_not_before) {
    struct rig *r = rig_started();
    rig_put_records(r, 0, 0, 5, 3);
    rig_put_records(r, 1, 1, 7, 2);
    cr_assert_eq(rig_settle(r), STEP_IDLE);
    cr_assert_eq(log_count(r->b, 0), 0);
    cr_assert_eq(rig_released(r, 0), 0);
    cr_assert_eq(rig_next(r, 0), -1);
    r->b->wall_ms += 100;
    cr_assert_eq(rig_settle(r), STEP_IDLE);
    cr_assert_eq(log_count(r->b, 0), 5);
    cr_assert_eq(rig_released(r, 0), 3);
    cr_assert_eq(rig_released(r, 1), 2);
    cr_assert_eq(rig_next(r, 0), 8);
    cr_assert_eq(rig_next(r, 11), 9);
    cr_assert_eq(atomic_load(&r->block.lane_published[1]), 2);
    cr_assert_eq(r->worker.local.value[M_audit_entry], 5);
    cr_assert_eq(r->worker.local.value[M_audit_batch], 1);
    cr_assert_eq(r->worker.local.value[M_audit_sequence], 5);
    rig_drop(r);
}

Test(audit, a_batch_is_committed_early_when_it_has_enough_entries_or_a_ring_fills) {
    struct rig *r = rig_started();
    r->b->config.recon.commit_records = 10;
    rig_put_records(r, 0, 0, 0, 10);
    rig_settle(r);
    cr_assert_eq(log_count(r->b, 0), 10);
    r->b->config.recon.commit_records = 1000000;
    int n = 0;
    while (rig_put(r, 0, entry_make(0, 0, 10 + n, 0))) n++;
    ring_publish(&r->out[0]);
    rig_settle(r);
    cr_assert_gt(log_count(r->b, 0), 10 + (uint64_t)n / 2);
    r->b->wall_ms += 100;
    rig_settle(r);
    cr_assert_eq(log_count(r->b, 0), 10 + (uint64_t)n);
    rig_drop(r);
}

Test(audit, markers_and_topics_that_are_not_reconciled_are_released_without_an_entry) {
    struct rig *r = rig_started();
    struct entry e = *entry_make(0, 0, 41, 0);
    e.outcome = ENTRY_NOTHING;
    e.op = RECORD_SKIP;
    cr_assert(rig_put(r, 0, &e));
    ring_publish(&r->out[0]);
    rig_put_records(r, 0, 2, 9, 3);
    rig_settle(r);
    cr_assert_eq(log_count(r->b, 0), 0);
    cr_assert_eq(rig_released(r, 0), 4);
    cr_assert_eq(rig_next(r, 0), 42);
    cr_assert_eq(rig_next(r, 20), 12);
    rig_drop(r);
}

Test(audit, what_was_skipped_or_is_of_an_epoch_that_has_passed_moves_no_partition) {
    struct rig *r = rig_started();
    struct entry e = *entry_make(0, 0, 100, 0);
    e.epoch = 5;
    cr_assert(rig_put(r, 0, &e));
    e.epoch = 4;
    e.offset = 300;
    cr_assert(rig_put(r, 0, &e));
    e.outcome = ENTRY_SKIPPED;
    e.epoch = 6;
    cr_assert(rig_put(r, 0, &e));
    ring_publish(&r->out[0]);
    rig_settle(r);
    r->b->wall_ms += 100;
    rig_settle(r);
    cr_assert_eq(rig_next(r, 0), 101);
    cr_assert_eq(rig_released(r, 0), 3);
    e.outcome = ENTRY_APPLIED; /* a rewind goes back */
    e.epoch = 6;
    e.offset = 20;
    cr_assert(rig_put(r, 0, &e));
    ring_publish(&r->out[0]);
    rig_settle(r);
    r->b->wall_ms += 100;
    rig_settle(r);
    cr_assert_eq(rig_next(r, 0), 21);
    cr_assert_eq(r->worker.local.value[M_audit_entry_repeat], 1);
    rig_drop(r);
}

Test(audit, a_disk_that_fails_blocks_the_lanes_with_its_reason_and_nothing_is_lost) {
    struct rig *r = rig_started();
    struct pollfd fds[4];
    int timeout = 100;
    rig_put_records(r, 0, 0, 0, 10);
    disk.code = ENOSPC;
    rig_settle(r);
    r->b->wall_ms += 100;
    cr_assert_eq(rig_settle(r), STEP_BLOCKED);
    cr_assert_eq(rig_state(r), STATE_BLOCKED);
    cr_assert_not_null(strstr(rig_reason(r), "No space left on device"), "%s", rig_reason(r));
    rig_put_records(r, 0, 0, 10, 5);
    for (int i = 0; i < 20; i++) {
        cr_assert_eq(rig_settle(r), STEP_BLOCKED);
        cr_assert_not(audit_arm(r->audit), "it would not sleep");
        audit_disarm(r->audit);
        cr_assert_eq(audit_wants(r->audit, fds, 4, &timeout), 0);
        r->b->wall_ms += 100;
    }
    cr_assert_eq(timeout, 100);
    cr_assert_eq(r->worker.local.value[M_audit_write_fail], 2, "once a second");
    cr_assert_eq(rig_released(r, 0), 0);
    disk.code = 0;
    r->b->wall_ms += 1000;
    cr_assert_eq(rig_settle(r), STEP_IDLE);
    cr_assert_eq(rig_state(r), STATE_RUNNING);
    r->b->wall_ms += 100;
    rig_settle(r);
    cr_assert_eq(log_count(r->b, 0), 15);
    cr_assert_eq(rig_released(r, 0), 15);
    rig_drop(r);
}

Test(audit, a_folder_that_cannot_be_written_at_the_start_is_tried_again) {
    struct rig *r = rig_make(CAPACITY);
    r->b->files.write = disk_write;
    disk.code = EROFS;
    rig_put_records(r, 0, 0, 0, 4);
    rig_start(r);
    cr_assert_eq(rig_settle(r), STEP_BLOCKED);
    cr_assert_eq(rig_state(r), STATE_BLOCKED);
    disk.code = 0;
    r->b->wall_ms += 1000;
    rig_settle(r);
    r->b->wall_ms += 100;
    rig_settle(r);
    cr_assert_eq(log_count(r->b, 0), 4);
    rig_drop(r);
}

Test(audit, a_log_whose_end_was_changed_fails_the_worker_and_is_left_alone) {
    struct rig *r = rig_started();
    rig_put_records(r, 0, 0, 0, 4);
    rig_settle(r);
    r->b->wall_ms += 100;
    rig_settle(r);
    rig_stop(r);
    off_t bytes = file_bytes(r->b, 1);
    file_put(r->b, 1, bytes - 60, "x", 1);
    rig_start(r);
    cr_assert_eq(rig_settle(r), STEP_FAILED);
    cr_assert_eq(rig_state(r), STATE_FAILED);
    cr_assert_not_null(strstr(rig_reason(r), "millrace audit verify"), "%s", rig_reason(r));
    cr_assert_eq(file_bytes(r->b, 1), bytes);
    rig_drop(r);
}

Test(audit, a_log_that_ends_before_its_anchors_is_not_gone_on_with) {
    struct rig *r = rig_started();
    char path[128];
    rig_put_records(r, 0, 0, 0, 4);
    rig_settle(r);
    r->b->wall_ms += 100;
    rig_settle(r);
    off_t first = (off_t)r->audit->scribe.log.end;
    r->b->wall_ms += 60000;
    rig_put_records(r, 0, 0, 4, 4);
    rig_settle(r);
    r->b->wall_ms += 100;
    rig_settle(r);
    rig_stop(r);
    cr_assert_gt(file_bytes(r->b, 1), first);
    file_cut(r->b, 1, first);
    snprintf(path, sizeof path, "%s/" LOG_MARK_NAME, r->b->log);
    cr_assert_eq(unlink(path), 0); /* whoever can cut the log can remove this */
    rig_start(r);
    cr_assert_eq(rig_settle(r), STEP_FAILED);
    cr_assert_not_null(strstr(rig_reason(r), "an anchor was made of entry 8"), "%s", rig_reason(r));
    rig_drop(r);
}

Test(audit, asked_to_leave_it_commits_what_it_has_taken_with_an_anchor) {
    struct rig *r = rig_started();
    rig_put_records(r, 0, 0, 0, 4);
    rig_settle(r);
    atomic_store(&r->control.mode[0], CONTROL_LEAVE);
    cr_assert_eq(rig_settle(r), STEP_DONE);
    cr_assert_eq(log_count(r->b, 0), 4);
    cr_assert_eq(rig_released(r, 0), 4);
    cr_assert_eq(r->audit->scribe.anchors.sequence, 4);
    rig_stop(r);
    atomic_store(&r->control.mode[0], CONTROL_RUN);
    rig_start(r); /* nothing new: no second anchor */
    uint64_t anchors = r->audit->scribe.anchors.end;
    rig_settle(r);
    atomic_store(&r->control.mode[0], CONTROL_LEAVE);
    anchors = r->audit->scribe.anchors.end;
    cr_assert_eq(rig_settle(r), STEP_DONE);
    cr_assert_eq(r->audit->scribe.anchors.end, anchors);
    rig_drop(r);
}

Test(audit, asked_to_leave_it_does_not_wait_for_a_disk_that_fails) {
    struct rig *r = rig_started();
    rig_put_records(r, 0, 0, 0, 4);
    rig_settle(r);
    disk.code = EIO;
    atomic_store(&r->control.mode[0], CONTROL_LEAVE);
    cr_assert_eq(rig_settle(r), STEP_DONE);
    cr_assert_eq(rig_released(r, 0), 0);
    rig_drop(r);
}

Test(audit, anchors_come_with_the_first_batch_each_minute_and_with_each_segment) {
    struct rig *r = rig_started();
    uint64_t last = 0;
    int anchors = 0;
    r->b->config.recon.segment_bytes = 1 << 20;
    for (int i = 0; i < 130; i++) { /* a second each */
        if (i < 70) rig_put_records(r, 0, 0, i * 10, 10);
        rig_settle(r);
        r->b->wall_ms += 1000;
        rig_settle(r);
        anchors += r->audit->scribe.anchors.sequence != last;
        last = r->audit->scribe.anchors.sequence;
    }
    cr_assert_eq(anchors, 3);
    cr_assert_eq(last, 700);
    r->b->config.recon.segment_bytes = 1;
    rig_put_records(r, 0, 0, 700, 1);
    rig_settle(r);
    r->b->wall_ms += 100;
    rig_settle(r);
    rig_put_records(r, 0, 0, 701, 1);
    rig_settle(r);
    r->b->wall_ms += 100;
    rig_settle(r);
    cr_assert_eq(r->audit->scribe.anchors.sequence, 701);
    rig_drop(r);
}

/* Batches can be written, anchors cannot. */
static ssize_t anchors_fail(void *context, int fd, const struct iovec *part, int parts, off_t at) {
    for (int i = 0; i < parts && disk.code != 0; i++)
        if (memmem(part[i].iov_base, part[i].iov_len, "{\"type\":", 8) != NULL) return errno = disk.code, -1;
    return log_files_real.write(context, fd, part, parts, at);
}

Test(audit, an_anchor_that_cannot_be_written_is_not_given_up_for_a_minute) {
    struct rig *r = rig_started();
    r->b->files.write = anchors_fail;
    disk.code = ENOSPC;
    rig_put_records(r, 0, 0, 0, 10);
    for (int i = 0; i < 30; i++, r->b->wall_ms += 100) rig_settle(r);
    cr_assert_eq(log_count(r->b, 0), 10);
    cr_assert_eq(r->audit->scribe.anchors.sequence, 0);
    disk.code = 0;
    for (int i = 0; i < 12; i++, r->b->wall_ms += 100) rig_settle(r);
    cr_assert_eq(r->audit->scribe.anchors.sequence, 10);
    rig_drop(r);
}

Test(audit, what_is_no_entry_breaks_the_ring) {
    for (int kind = 0; kind < 4; kind++) {
        struct rig *r = rig_started();
        struct entry e = *entry_make(0, 0, 1, 0);
        if (kind == 0) e.topic = 3;
        if (kind == 1) e.slot = PARTITIONS_MAX;
        if (kind == 2) e.outcome = ENTRY_OUTCOME_COUNT;
        if (kind == 3) e.content_bytes = 1;
        cr_assert(rig_put(r, 1, &e));
        ring_publish(&r->out[1]);
        cr_assert_eq(rig_settle(r), STEP_BROKEN);
        cr_assert_eq(rig_released(r, 1), 0);
        rig_drop(r);
    }
}

Test(audit, both_lanes_get_their_turn) {
    struct rig *r = rig_started();
    rig_put_records(r, 0, 0, 0, 3000);
    rig_put_records(r, 1, 1, 0, 100);
    r->b->config.recon.commit_records = 300;
    for (int i = 0; i < 2; i++) audit_step(r->audit);
    rig_settle(r);
    cr_assert_eq(rig_released(r, 1), 100);
    struct log_reader *reader = log_reader_open(r->b->log, 0, &r->b->err);
    struct log_item item;
    uint64_t last = 0;
    while (log_reader_next(reader, &item, &r->b->err) == LOG_ITEM)
        if (item.entry->slot == 1) last = item.sequence;
    log_reader_close(reader);
    cr_assert_leq(last, 700, "lane 1 waited for lane 0: %d", (int)last);
    rig_drop(r);
}

/* -- with its thread --------------------------------------------------------------------------- */

/* Steps, sleeping as worker_run does, until condition or for too long. */
#define settle_until(r, condition)                                                                                     \
    do {                                                                                                               \
        for (int spins_ = 0; spins_ < 4000 && !(condition); spins_++) {                                                \
            struct pollfd fds_[2];                                                                                     \
            int timeout_ = 5;                                                                                          \
            if (audit_step((r)->audit) == STEP_BUSY) continue;                                                         \
            int n_ = audit_wants((r)->audit, fds_, 2, &timeout_);                                                      \
            poll(fds_, (nfds_t)n_, timeout_);                                                                          \
        }                                                                                                              \
        cr_assert(condition, #condition);                                                                              \
    } while (0)

Test(audit, a_disk_that_takes_its_time_does_not_hold_up_the_worker_and_is_shown) {
    struct rig *r = rig_make(CAPACITY);
    r->b->files.sync = disk_sync;
    r->b->clock = clock_real;
    r->b->config.recon.commit_interval_ms = 1;
    r->threaded = true;
    rig_start(r);
    settle_until(r, rig_state(r) == STATE_RUNNING);
    disk.stall_ms = 2500;
    rig_put_records(r, 0, 0, 0, 5);
    uint64_t longest = 0, began = clock_ns(&clock_real);
    while (rig_state(r) != STATE_BLOCKED && clock_ns(&clock_real) - began < 10 * NS_PER_S) {
        uint64_t before = clock_ns(&clock_real);
        audit_step(r->audit);
        uint64_t took = clock_ns(&clock_real) - before;
        longest = took > longest ? took : longest;
        usleep(1000);
    }
    cr_assert_eq(rig_state(r), STATE_BLOCKED);
    cr_assert_lt(longest, 2 * NS_PER_S);
    disk.stall_ms = 0;
    settle_until(r, rig_released(r, 0) == 5);
    cr_assert_eq(rig_state(r), STATE_RUNNING);
    cr_assert_eq(log_count(r->b, 0), 5);
    atomic_store(&r->control.mode[0], CONTROL_LEAVE);
    settle_until(r, audit_step(r->audit) == STEP_DONE);
    rig_drop(r);
}

Test(audit, many_batches_go_through_the_thread_whole_and_in_order) {
    struct rig *r = rig_make(CAPACITY);
    r->b->clock = clock_real;
    r->b->config.recon.commit_interval_ms = 1;
    r->threaded = true;
    rig_start(r);
    enum { N = 20000 };
    int64_t put[RIG_LANES] = {0};
    while (rig_released(r, 0) < N || rig_released(r, 1) < N) {
        for (uint32_t l = 0; l < RIG_LANES; l++) {
            for (int i = 0; i < 37 && put[l] < N; i++)
                if (rig_put(r, l, entry_make((uint16_t)l, (int32_t)l, put[l], 0))) put[l]++;
            ring_publish(&r->out[l]);
        }
        audit_step(r->audit);
    }
    struct log_reader *reader = log_reader_open(r->b->log, 0, &r->b->err);
    struct log_item item;
    int64_t next[RIG_LANES] = {0};
    while (log_reader_next(reader, &item, &r->b->err) == LOG_ITEM)
        cr_assert_eq(item.entry->offset, next[item.entry->slot]++);
    log_reader_close(reader);
    cr_assert(next[0] == N && next[1] == N);
    rig_drop(r);
}

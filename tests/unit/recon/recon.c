#include "recon/recon.h"

#include <sys/wait.h>
#include <sysexits.h>

#include "tests/unit/recon/rig.h"

#define WINDOW "SELECT state, published, seen, in_flight, unexplained, unpublished FROM window ORDER BY start_ms"
#define STATES "SELECT state FROM window ORDER BY start_ms"

/* n records of the producer from `sequence` on, a millisecond apart. */
static void publish(struct rig *r, uint64_t sequence, int n, int64_t created_ms) {
    for (int i = 0; i < n; i++) rig_publish(r, sequence + (uint64_t)i, created_ms + i);
}

static void log_range(struct rig *r, int64_t from, int64_t to) {
    for (int64_t o = from; o < to; o++) rig_log(r, o);
}

Test(recon, a_window_whose_manifest_agrees_with_the_log_matches_when_it_is_over) {
    struct rig *r = rig_make(EVIDENCE_MANIFEST);
    publish(r, 1, 50, RIG_START);
    log_range(r, 0, 50);
    rig_manifest(r, 1, 50, RIG_START);
    rig_pass(r, 3);
    rig_says(r, WINDOW, "0|50|50|0|0|0");
    rig_pass(r, 9);
    rig_says(r, WINDOW, "1|50|50|0|0|0");
    rig_says(r, "SELECT before, after FROM window_change", "|0\n0|1");
    rig_says(r, "SELECT count(*) FROM record", "0");
    rig_says(r, "SELECT count(*) FROM exception", "0");
    rig_drop(r);
}

Test(recon, a_published_record_that_is_not_in_the_log_is_in_flight_until_the_group_has_passed_it) {
    struct rig *r = rig_make(EVIDENCE_MANIFEST);
    publish(r, 1, 20, RIG_START);
    log_range(r, 0, 10);
    rig_manifest(r, 1, 20, RIG_START);
    rig_pass(r, 12);
    rig_says(r, WINDOW, "0|20|10|10|0|0");
    rig_says(r, "SELECT count(*), min(sequence), max(sequence) FROM record WHERE kind = 1", "10|11|20");
    log_range(r, 10, 20);
    rig_pass(r, 3);
    rig_says(r, WINDOW, "1|20|20|0|0|0");
    rig_says(r, "SELECT count(*) FROM record", "0");
    rig_drop(r);
}

Test(recon, a_record_that_never_reached_the_topic_is_named_by_its_sequence_number) {
    struct rig *r = rig_make(EVIDENCE_MANIFEST);
    publish(r, 1, 30, RIG_START);
    for (int64_t o = 0; o < 30; o++)
        if (o != 7 && o != 20) rig_log(r, o);
    rig_manifest(r, 1, 30, RIG_START);
    rig_pass(r, 13);
    rig_says(r, WINDOW, "3|30|28|0|2|0");
    rig_says(r, "SELECT kind, sequence FROM record", "0|8\n0|21");
    rig_says(r, "SELECT kind FROM exception WHERE cleared_ms = 0 ORDER BY kind", "unexplained\nwindow_mismatch");
    rig_log(r, 7); /* they come after all */
    rig_log(r, 20);
    rig_pass(r, 3);
    rig_says(r, WINDOW, "1|30|30|0|0|0");
    rig_says(r, "SELECT count(*) FROM exception WHERE cleared_ms = 0", "0");
    rig_says(r, "SELECT before, after FROM window_change ORDER BY id", "|3\n3|1");
    rig_drop(r);
}

/* Whoever switches reconciliation on finds the manifests of before in their topic. */
Test(recon, what_was_declared_before_it_began_to_count_is_no_mismatch) {
    struct rig *r = rig_make(EVIDENCE_MANIFEST);
    publish(r, 1, 10, RIG_START - 5 * RIG_WINDOW_MS);
    publish(r, 11, 10, RIG_START);
    publish(r, 21, 10, RIG_START - 3 * RIG_WINDOW_MS);
    log_range(r, 10, 20);
    for (int64_t o = 20; o < 30; o++)
        if (o != 25) rig_log(r, o); /* this window was read from Kafka after all, but for one */
    rig_manifest(r, 1, 10, RIG_START - 5 * RIG_WINDOW_MS);
    rig_manifest(r, 11, 20, RIG_START);
    rig_manifest(r, 21, 30, RIG_START - 3 * RIG_WINDOW_MS);
    rig_pass(r, 13);
    rig_says(r, WINDOW, "0|10|0|0|0|0\n3|10|9|0|1|0\n1|10|10|0|0|0");
    rig_says(r, "SELECT reason FROM window ORDER BY start_ms LIMIT 1", "from before this instance began to count");
    rig_drop(r);
}

Test(recon, a_record_that_nobody_declared_does_not_make_up_for_one_that_is_missing) {
    struct rig *r = rig_make(EVIDENCE_MANIFEST);
    publish(r, 1, 10, RIG_START);
    rig_publish(r, 99, RIG_START + 20);
    for (int64_t o = 0; o < 11; o++)
        if (o != 4) rig_log(r, o);
    rig_manifest(r, 1, 10, RIG_START);
    rig_pass(r, 13);
    rig_says(r, WINDOW, "3|10|10|0|1|1");
    rig_says(r, "SELECT kind, sequence FROM record", "0|5");
    rig_drop(r);
}

/* Numbers between those of a manifest may be of other windows: they are not missing. */
Test(recon, numbers_that_a_manifest_leaves_out_are_not_missing) {
    struct rig *r = rig_make(EVIDENCE_MANIFEST);
    for (int i = 0; i < 10; i++) rig_publish(r, 1 + 2 * (uint64_t)i, RIG_START + i);
    log_range(r, 0, 10);
    rig_manifest(r, 1, 19, RIG_START);
    rig_pass(r, 13);
    rig_says(r, WINDOW, "1|10|10|0|0|0");
    rig_drop(r);
}

static void twice(struct entry *e) { e->sequence = 3; }
static void elsewhere(struct entry *e) {
    int64_t same = 4; /* the id of the record at offset 4 */
    memcpy(e->id, &same, sizeof same);
    e->id[6] = 0x70;
    e->producer = 0;
    e->sequence = 0;
}
static void late(struct entry *e) { e->answered_us = 2000000; }
static void altered(struct entry *e) { e->flags |= ENTRY_DECLARED | ENTRY_ALTERED; }

Test(recon, attributes_are_counted_and_the_records_listed) {
    struct rig *r = rig_make(EVIDENCE_OFFSETS);
    publish(r, 1, 10, RIG_START);
    log_range(r, 0, 6);
    rig_log_as(r, 6, twice);
    rig_log_as(r, 7, elsewhere);
    rig_log_as(r, 8, late);
    rig_log_as(r, 9, altered);
    rig_pass(r, 2);
    rig_says(r, "SELECT seen, applied, duplicate, delayed, altered, undeclared, repeat FROM tally", "10|10|2|1|1|1|0");
    rig_says(r, "SELECT kind, \"offset\", other FROM record ORDER BY \"offset\"", "4|6|0\n4|7|5\n5|8|0\n6|9|0");
    rig_drop(r);
}

static void rejected(struct entry *e) {
    e->outcome = ENTRY_REJECTED;
    e->reason = REASON_JSON_INVALID;
}
static void deleted(struct entry *e) { e->outcome = ENTRY_DELETED; }
static void expired(struct entry *e) { e->outcome = ENTRY_EXPIRED; }
static void superseded(struct entry *e) { e->outcome = ENTRY_SUPERSEDED; }
static void filtered(struct entry *e) { e->outcome = ENTRY_FILTERED; }

Test(recon, every_outcome_is_a_class_and_the_classes_add_up) {
    static void (*const outcome[])(struct entry *) = {NULL, deleted, expired, superseded, filtered, rejected};
    struct rig *r = rig_make(EVIDENCE_MANIFEST);
    publish(r, 1, 60, RIG_START);
    for (int64_t o = 0; o < 60; o++) rig_log_as(r, o, outcome[o % 6]);
    rig_manifest(r, 1, 60, RIG_START);
    rig_pass(r, 12);
    rig_says(r, "SELECT seen, applied, superseded, deleted, expired, filtered, in_retry, dead_lettered FROM tally",
             "60|10|10|10|10|10|0|10");
    rig_says(r, WINDOW, "1|60|60|0|0|0");
    rig_says(r, "SELECT count(*) FROM record WHERE kind = 3 AND reason > 0", "10");
    rig_drop(r);
}

Test(recon, a_rejected_record_that_is_applied_later_changes_its_class) {
    struct rig *r = rig_make(EVIDENCE_OFFSETS);
    publish(r, 1, 3, RIG_START);
    rig_log(r, 0);
    rig_log_as(r, 1, rejected);
    rig_log_as(r, 2, rejected);
    rig_pass(r, 1);
    rig_log(r, 1);
    rig_log_as(r, 2, rejected);
    rig_log(r, 0);
    rig_pass(r, 1);
    rig_says(r, "SELECT seen, applied, dead_lettered, repeat FROM tally", "3|2|1|3");
    rig_says(r, "SELECT \"offset\" FROM record WHERE kind = 3", "2");
    rig_drop(r);
}

Test(recon, what_is_logged_again_after_a_rewind_is_a_repeat_and_nothing_else) {
    struct rig *r = rig_make(EVIDENCE_MANIFEST);
    publish(r, 1, 40, RIG_START);
    log_range(r, 0, 30);
    rig_pass(r, 1);
    r->epoch = 2;
    log_range(r, 10, 40);
    rig_manifest(r, 1, 40, RIG_START);
    rig_pass(r, 12);
    rig_says(r, WINDOW, "1|40|40|0|0|0");
    rig_says(r, "SELECT seen, repeat, duplicate FROM tally", "40|20|0");
    rig_drop(r);
}

Test(recon, a_sum_of_digests_that_differs_is_a_mismatch) {
    struct rig *r = rig_make(EVIDENCE_MANIFEST);
    publish(r, 1, 10, RIG_START);
    log_range(r, 0, 10);
    r->record[4].digest[0] ^= 1; /* what the producer declares */
    rig_manifest(r, 1, 10, RIG_START);
    rig_pass(r, 12);
    rig_says(r, "SELECT state, reason FROM window", "3|the sum of the digests differs");
    rig_drop(r);
}

Test(recon, records_that_no_manifest_declares_are_a_mismatch_when_their_time_is_over) {
    struct rig *r = rig_make(EVIDENCE_MANIFEST);
    publish(r, 1, 12, RIG_START);
    log_range(r, 0, 12);
    rig_manifest(r, 1, 10, RIG_START);
    rig_pass(r, 12);
    rig_says(r, WINDOW, "0|10|12|0|0|2");
    rig_pass(r, 5);
    rig_says(r, WINDOW, "3|10|12|0|0|2");
    rig_manifest(r, 11, 12, RIG_START); /* the producer was slow */
    rig_pass(r, 2);
    rig_says(r, WINDOW, "1|12|12|0|0|0");
    rig_drop(r);
}

Test(recon, a_window_that_stays_incomplete_is_late) {
    struct rig *r = rig_make(EVIDENCE_MANIFEST);
    publish(r, 1, 10, RIG_START);
    log_range(r, 0, 5);
    rig_manifest(r, 1, 10, RIG_START);
    rig_pass(r, 16);
    rig_says(r, WINDOW, "2|10|5|5|0|0");
    rig_says(r, "SELECT kind FROM exception", "window_late");
    log_range(r, 5, 10);
    rig_pass(r, 2);
    rig_says(r, STATES, "1");
    rig_says(r, "SELECT count(*) FROM exception WHERE cleared_ms = 0", "0");
    rig_drop(r);
}

Test(recon, no_alarm_is_raised_while_kafka_cannot_be_asked) {
    struct rig *r = rig_make(EVIDENCE_MANIFEST);
    rig_pass(r, 1);
    r->silent = true;
    publish(r, 1, 10, RIG_START);
    log_range(r, 0, 10);
    rig_pass(r, 30);
    rig_says(r, STATES, "0");
    rig_says(r, "SELECT count(*) FROM exception", "0");
    r->silent = false;
    rig_manifest(r, 1, 10, RIG_START); /* it was there all the time */
    rig_pass(r, 2);
    rig_says(r, STATES, "1");
    rig_says(r, "SELECT count(*) FROM exception", "0");
    rig_drop(r);
}

Test(recon, where_no_digest_agrees_another_key_may_be_the_reason) {
    struct rig *r = rig_make(EVIDENCE_MANIFEST);
    rig_pass(r, 1);
    publish(r, 1, 10, RIG_START);
    rig_manifest(r, 1, 10, RIG_START);
    for (int64_t o = 0; o < 10; o++) rig_log_as(r, o, o == 0 ? NULL : altered);
    rig_pass(r, 13);
    rig_says(r, "SELECT reason FROM window", "records were altered on their way");
    rig_drop(r);
    r = rig_make(EVIDENCE_MANIFEST);
    rig_pass(r, 1);
    publish(r, 1, 10, RIG_START);
    rig_manifest(r, 1, 10, RIG_START);
    for (int64_t o = 0; o < 10; o++) rig_log_as(r, o, altered);
    rig_pass(r, 13);
    rig_says(r, "SELECT reason FROM window", "no digest agrees: altered, or the producers have another recon.keys");
    rig_drop(r);
}

Test(recon, a_scan_that_agrees_offset_by_offset_matches) {
    struct rig *r = rig_make(EVIDENCE_SCAN);
    for (int i = 0; i < 100; i++) {
        if (i % 10 == 9) r->high++; /* the marker of a transaction */
        rig_publish(r, 0, RIG_START + i);
    }
    for (int64_t o = 0; o < r->high; o++)
        if (r->record[o].there) rig_log(r, o);
    rig_pass(r, 13);
    rig_says(r, WINDOW, "1|100|100|0|0|0");
    rig_says(r, "SELECT count(*) FROM record", "0");
    rig_drop(r);
}

Test(recon, a_scan_finds_what_is_missing_altered_and_not_published) {
    struct rig *r = rig_make(EVIDENCE_SCAN);
    for (int i = 0; i < 20; i++) rig_publish(r, 0, RIG_START + i);
    for (int64_t o = 0; o < 20; o++)
        if (o != 4) rig_log(r, o);
    r->record[9].digest[3] ^= 1;
    r->record[12].there = false;
    rig_pass(r, 13);
    rig_says(r, WINDOW, "3|19|19|0|1|1");
    rig_says(r, "SELECT kind, \"offset\" FROM record ORDER BY \"offset\"", "0|4\n6|9\n2|12");
    rig_drop(r);
}

/* Its sequence numbers begin again, and the first of them would be taken for counted. */
Test(recon, another_log_in_the_place_of_the_one_that_was_counted_is_refused) {
    struct rig *r = rig_make(EVIDENCE_SCAN);
    struct err err = {0};
    char aside[128];
    for (int i = 0; i < 40; i++) rig_publish(r, 0, RIG_START + i);
    log_range(r, 0, 20);
    rig_pass(r, 1);
    recon_close(r->recon);
    log_writer_close(&r->b->writer);
    snprintf(aside, sizeof aside, "%s.aside", r->b->log);
    cr_assert_eq(rename(r->b->log, aside), 0);
    for (int entries = 0; entries < 30; entries += 10) { /* none, fewer, as many */
        r->recon = recon_open(&r->worker, &r->port, &err);
        cr_assert_null(r->recon);
        cr_assert_eq(err.code, EX_DATAERR);
        cr_assert_not_null(strstr(err.text, "not the one that was counted"), "%s", err.text);
        if (entries == 0) cr_assert_eq(bench_open(r->b), 0, "%s", r->b->err.text);
        for (int64_t o = 20 + entries; o < 30 + entries && o < 40; o++) rig_log(r, o);
        rig_commit(r);
    }
    log_writer_close(&r->b->writer);
    folder_remove(r->b->log);
    cr_assert_eq(rename(aside, r->b->log), 0);
    cr_assert_eq(bench_open(r->b), 0, "%s", r->b->err.text);
    r->recon = recon_open(&r->worker, &r->port, &err);
    cr_assert_not_null(r->recon, "%s", err.text);
    rig_drop(r);
}

Test(recon, retention_does_not_make_it_another_log) {
    struct rig *r = rig_make(EVIDENCE_SCAN);
    struct err err = {0};
    r->b->config.recon.segment_bytes = 1;
    for (int i = 0; i < 6; i++) rig_publish(r, 0, RIG_START + i);
    for (int64_t o = 0; o < 5; o++) {
        rig_log(r, o);
        rig_pass(r, 1);
    }
    recon_close(r->recon);
    rig_log(r, 5);
    rig_commit(r);
    while (r->b->writer.closed_count > 0) cr_assert_eq(log_writer_remove(&r->b->writer, &r->b->err), 0);
    r->recon = recon_open(&r->worker, &r->port, &err);
    cr_assert_not_null(r->recon, "%s", err.text);
    rig_pass(r, 1);
    rig_says(r, "SELECT total(seen) FROM tally", "6.0");
    rig_drop(r);
}

static void refed(struct entry *e) { e->flags |= ENTRY_REFED; }

/* What was applied before the log began is not missing because one of it is written again. */
Test(recon, a_record_refed_from_before_the_log_began_says_nothing_of_those_around_it) {
    static const enum config_evidence kinds[] = {EVIDENCE_SCAN, EVIDENCE_OFFSETS};
    for (size_t k = 0; k < 2; k++) {
        struct rig *r = rig_make(kinds[k]);
        for (int i = 0; i < 40; i++) rig_publish(r, 0, RIG_START + i);
        rig_log_as(r, 15, refed);
        rig_pass(r, 1);
        log_range(r, 20, 40);
        rig_log_as(r, 3, refed);
        rig_pass(r, 13);
        rig_says(r, "SELECT count(*) FROM record", "0");
        rig_says(r, "SELECT first, scan_sequence FROM place WHERE topic > 0", "20|0");
        rig_drop(r);
    }
}

Test(recon, a_scan_goes_on_where_it_was_after_a_restart) {
    struct rig *r = rig_make(EVIDENCE_SCAN);
    for (int i = 0; i < 40; i++) rig_publish(r, 0, RIG_START + i);
    r->record[33].digest[3] ^= 1;
    log_range(r, 0, 20);
    rig_pass(r, 2);
    log_range(r, 20, 40);
    rig_commit(r);
    cr_assert_eq(recon_step(r->recon), STEP_IDLE); /* counted; the scan was asked for, and dies with the process */
    recon_close(r->recon);
    rig_open(r);
    r->record[33].digest[3] ^= 1; /* what the log has is compared, however it came to memory */
    r->record[34].digest[3] ^= 1;
    rig_pass(r, 13);
    rig_says(r, WINDOW, "3|40|40|0|0|0");
    rig_says(r, "SELECT kind, \"offset\" FROM record ORDER BY \"offset\"", "6|33\n6|34");
    rig_drop(r);
}

Test(recon, a_scan_proves_nothing_of_what_kafka_does_not_keep_any_more) {
    struct rig *r = rig_make(EVIDENCE_SCAN);
    for (int i = 0; i < 20; i++) rig_publish(r, 0, RIG_START + i);
    log_range(r, 0, 20);
    r->low = 8;
    rig_pass(r, 20);
    rig_says(r, "SELECT state, published, seen, reason FROM window",
             "0|12|20|Kafka no longer keeps some of the records: they cannot be compared");
    rig_says(r, "SELECT kind FROM exception WHERE cleared_ms = 0", "evidence_lost");
    rig_drop(r);
}

Test(recon, offsets_alone_never_match_but_find_a_gap_with_a_record_in_it) {
    struct rig *r = rig_make(EVIDENCE_OFFSETS);
    for (int i = 0; i < 30; i++) rig_publish(r, 0, RIG_START + i);
    r->record[10].there = false; /* a marker */
    for (int64_t o = 0; o < 30; o++)
        if (o != 10) rig_log(r, o);
    rig_pass(r, 20);
    rig_says(r, "SELECT state, reason FROM window", "0|nothing is missing; offsets alone prove no match");
    for (int i = 0; i < 10; i++) rig_publish(r, 0, RIG_START + 100 + i);
    for (int64_t o = 30; o < 39; o++)
        if (o != 35) rig_log(r, o);
    r->committed = 40;
    rig_pass(r, 2);
    rig_says(r, WINDOW, "3|-1|37|0|2|0");
    rig_says(r, "SELECT kind, \"offset\" FROM record", "0|35\n0|39");
    rig_log(r, 35);
    rig_log(r, 39);
    rig_pass(r, 2);
    rig_says(r, WINDOW, "0|-1|39|0|0|0");
    rig_drop(r);
}

Test(recon, what_another_member_of_the_group_has_read_is_not_missing) {
    struct rig *r = rig_make(EVIDENCE_OFFSETS);
    for (int i = 0; i < 60; i++) rig_publish(r, 0, RIG_START + i);
    log_range(r, 0, 20);
    rig_pass(r, 1);
    r->members = 2;
    r->committed = 40;
    rig_pass(r, 2);
    r->epoch = 2; /* the partition came back */
    log_range(r, 40, 60);
    rig_pass(r, 2);
    rig_says(r, WINDOW, "0|-1|40|0|0|0");
    rig_says(r, "SELECT count(*) FROM record", "0");
    rig_says(r, "SELECT first, last FROM offset_range WHERE kind = 2", "20|39");
    rig_drop(r);
}

Test(recon, what_may_be_in_the_logs_of_others_is_neither_missing_nor_late) {
    struct rig *r = rig_make(EVIDENCE_MANIFEST);
    publish(r, 1, 20, RIG_START);
    r->members = 2;
    log_range(r, 0, 10);
    r->committed = 20;
    rig_manifest(r, 1, 20, RIG_START);
    rig_pass(r, 20);
    rig_says(r, "SELECT state, in_flight, unexplained FROM window", "0|0|0");
    rig_says(r, "SELECT count(*) FROM exception", "0");
    rig_drop(r);
    r = rig_make(EVIDENCE_SCAN);
    for (int i = 0; i < 20; i++) rig_publish(r, 0, RIG_START + i);
    r->members = 2;
    log_range(r, 0, 10);
    r->committed = 20;
    rig_pass(r, 20);
    rig_says(r, WINDOW, "1|10|10|0|0|0"); /* of its own part */
    rig_drop(r);
}

Test(recon, an_instance_that_was_never_seen_counts_as_another_when_it_has_committed) {
    struct rig *r = rig_make(EVIDENCE_MANIFEST);
    publish(r, 1, 20, RIG_START);
    log_range(r, 0, 10);
    r->committed = 20;
    r->others = true;
    rig_manifest(r, 1, 20, RIG_START);
    rig_pass(r, 20);
    rig_says(r, "SELECT state, in_flight, unexplained FROM window", "0|0|0");
    rig_says(r, "SELECT value FROM meta WHERE name = 'shared'", "1");
    rig_drop(r);
    r = rig_make(EVIDENCE_SCAN);
    for (int i = 0; i < 60; i++) rig_publish(r, 0, RIG_START + i);
    log_range(r, 0, 20);
    r->epoch = 3;
    log_range(r, 40, 60); /* counted before Kafka is asked */
    r->others = true;
    rig_pass(r, 20);
    rig_says(r, WINDOW, "1|40|40|0|0|0");
    rig_says(r, "SELECT first, last FROM offset_range WHERE kind = 2", "20|39");
    rig_drop(r);
}

Test(recon, a_question_is_answered_when_kafka_and_the_log_have_been_looked_at_after_it) {
    struct rig *r = rig_make(EVIDENCE_MANIFEST);
    char path[PATH_BYTES];
    publish(r, 1, 10, RIG_START);
    log_range(r, 0, 10);
    rig_manifest(r, 1, 10, RIG_START);
    rig_pass(r, 2);
    snprintf(path, sizeof path, "%s/recon/check", r->b->dir);
    close(open(path, O_WRONLY | O_CREAT, 0600));
    rig_says(r, "SELECT count(*) FROM meta WHERE name = 'answered_ms'", "0");
    rig_pass(r, 2);
    cr_assert_neq(access(path, F_OK), 0);
    cr_assert_geq(atoll(rig_ask(r, "SELECT value FROM meta WHERE name = 'answered_ms'")), RIG_START + 2000);
    rig_drop(r);
}

Test(recon, a_drain_ends_with_the_log_read_and_every_window_judged) {
    struct rig *r = rig_make(EVIDENCE_MANIFEST);
    publish(r, 1, 10, RIG_START);
    rig_manifest(r, 1, 10, RIG_START);
    rig_pass(r, 11);
    log_range(r, 0, 10);
    rig_commit(r);
    atomic_store(&r->control.mode[r->worker.block_index], CONTROL_DRAIN);
    enum step s = STEP_BUSY;
    for (int i = 0; i < 50 && s != STEP_DONE; i++) {
        s = recon_step(r->recon);
        if (s == STEP_IDLE) r->b->wall_ms += 100;
    }
    cr_assert_eq(s, STEP_DONE);
    rig_says(r, WINDOW, "1|10|10|0|0|0");
    rig_drop(r);
}

Test(recon, a_drain_does_not_wait_for_a_kafka_that_is_away) {
    struct rig *r = rig_make(EVIDENCE_MANIFEST);
    rig_pass(r, 1);
    r->silent = true;
    atomic_store(&r->control.mode[r->worker.block_index], CONTROL_DRAIN);
    int64_t began = r->b->wall_ms;
    for (int i = 0; i < 100 && recon_step(r->recon) != STEP_DONE; i++) r->b->wall_ms += 100;
    cr_assert_leq(r->b->wall_ms - began, RECON_DRAIN_MS + 300);
    rig_drop(r);
}

#define LOAD "0192a0b0-0000-7000-8000-000000000001"

static void of_load(struct entry *e) { record_id_parse(e->load, LOAD, 36); }

#define OF_LOAD "\"load\":\"" LOAD "\",\"producer\":\"till\",\"topic\":\"cards\""

static void load_begin(struct rig *r) {
    struct evidence *e = rig_answer(r, EVIDENCE_MESSAGE);
    e->manifest = true;
    e->text_bytes =
        (uint32_t)snprintf(e->text, sizeof e->text, "{\"type\":\"load_begin\"," OF_LOAD ",\"created_ms\":1}");
}

static void load_end(struct rig *r, int n) {
    struct evidence *e = rig_answer(r, EVIDENCE_MESSAGE);
    e->manifest = true;
    e->text_bytes = (uint32_t)snprintf(e->text, sizeof e->text,
                                       "{\"type\":\"load_end\"," OF_LOAD ",\"count\":%d,\"bytes\":%d,"
                                       "\"first_sequence\":1,\"last_sequence\":%d,\"state\":\"complete\"}",
                                       n, 100 * n, n);
}

Test(recon, a_load_is_matched_when_all_that_it_declares_is_in_the_log) {
    struct rig *r = rig_make(EVIDENCE_OFFSETS);
    publish(r, 1, 10, RIG_START);
    load_begin(r);
    for (int64_t o = 0; o < 9; o++) rig_log_as(r, o, of_load);
    rig_pass(r, 1);
    rig_says(r, "SELECT state FROM load", "0");
    load_end(r, 10);
    rig_pass(r, 1);
    rig_says(r, "SELECT state, unexplained, reason FROM load", "1|0|records are on their way");
    rig_log_as(r, 9, of_load);
    rig_pass(r, 2);
    rig_says(r, "SELECT state, unexplained FROM load", "4|0");
    rig_drop(r);
}

/* Kafka may be away when the records of a load are logged. */
Test(recon, a_load_that_is_declared_after_a_restart_is_matched) {
    struct rig *r = rig_make(EVIDENCE_OFFSETS);
    publish(r, 1, 10, RIG_START);
    for (int64_t o = 0; o < 10; o++) rig_log_as(r, o, of_load);
    for (int i = 0; i < 3; i++) {
        rig_pass(r, 2);
        recon_close(r->recon);
        rig_open(r);
    }
    rig_pass(r, 1);
    load_begin(r);
    load_end(r, 10);
    rig_pass(r, 3);
    rig_says(r, "SELECT state, unexplained, reason FROM load", "4|0|");
    rig_drop(r);
}

Test(recon, what_nobody_can_ever_come_to_is_forgotten) {
    struct rig *r = rig_make(EVIDENCE_OFFSETS);
    rig_publish(r, 1, RIG_START + (int64_t)r->b->config.recon.retention_ms * 3);
    rig_publish(r, 2, RIG_START);
    rig_log_as(r, 0, of_load);
    rig_log(r, 1);
    rig_pass(r, 1);
    recon_close(r->recon);
    rig_open(r);
    rig_pass(r, 1);
    rig_says(r, "SELECT count(*) FROM window", "2"); /* not before somebody could see it */
    rig_says(r, "SELECT count(*) FROM load_tally", "1");
    recon_close(r->recon);
    r->b->wall_ms += (int64_t)r->b->config.recon.retention_ms + 1000;
    rig_open(r);
    rig_pass(r, 1);
    rig_says(r, "SELECT count(*) FROM window", "0");
    rig_says(r, "SELECT (SELECT count(*) FROM load_tally) + (SELECT count(*) FROM load_undeclared)", "0");
    rig_drop(r);
}

Test(recon, loads_that_nobody_ends_keep_no_other_from_being_judged) {
    struct rig *r = rig_make(EVIDENCE_OFFSETS);
    for (int i = 0; i < 200; i++) {
        struct evidence *e = rig_answer(r, EVIDENCE_MESSAGE);
        e->manifest = true;
        e->text_bytes = (uint32_t)snprintf(e->text, sizeof e->text,
                                           "{\"type\":\"load_begin\",\"load\":\"0092a0b0-0000-7000-8000-%012d\","
                                           "\"producer\":\"till\",\"topic\":\"cards\",\"created_ms\":1}",
                                           i);
    }
    publish(r, 1, 10, RIG_START);
    load_begin(r);
    for (int64_t o = 0; o < 10; o++) rig_log_as(r, o, of_load);
    load_end(r, 10);
    rig_pass(r, 6);
    rig_says(r, "SELECT count(*) FROM load WHERE state = 4", "1");
    rig_pass(r, RIG_LATE_MS / 1000 + 6);
    rig_says(r, "SELECT count(*) FROM load WHERE state = 3", "200");
    rig_drop(r);
}

Test(recon, a_load_that_is_not_ended_is_incomplete_and_one_that_lost_records_says_so) {
    struct rig *r = rig_make(EVIDENCE_OFFSETS);
    publish(r, 1, 10, RIG_START);
    load_begin(r);
    for (int64_t o = 0; o < 10; o++)
        if (o != 3) rig_log_as(r, o, of_load);
    rig_pass(r, 4);
    rig_says(r, "SELECT state FROM load", "0");
    rig_pass(r, 3);
    rig_says(r, "SELECT state FROM load", "3");
    rig_says(r, "SELECT kind FROM exception WHERE kind LIKE 'load%'", "load_incomplete");
    load_end(r, 10);
    rig_pass(r, 3);
    rig_says(r, "SELECT state, unexplained, reason FROM load", "1|1|records are missing");
    rig_drop(r);
}

Test(recon, a_load_is_not_given_up_while_kafka_was_not_asked_whether_it_went_on) {
    struct rig *r = rig_make(EVIDENCE_OFFSETS);
    publish(r, 1, 10, RIG_START);
    load_begin(r);
    rig_pass(r, 2);
    r->silent = true; /* as after an outage: its end may have been in the topic for long */
    rig_pass(r, 30);
    rig_says(r, "SELECT state FROM load", "0");
    rig_says(r, "SELECT count(*) FROM exception", "0");
    r->silent = false;
    for (int64_t o = 0; o < 10; o++) rig_log_as(r, o, of_load);
    load_end(r, 10);
    rig_pass(r, 6);
    rig_says(r, "SELECT state FROM load", "4");
    rig_says(r, "SELECT count(*) FROM exception WHERE kind LIKE 'load%'", "0");
    rig_drop(r);
}

/* -- deaths ------------------------------------------------------------------------------------ */

static int left; /* statements until the death; negative: it does not come */

static int count_down(unsigned kind, void *context, void *a, void *b) {
    (void)kind, (void)context, (void)a, (void)b;
    if (left >= 0 && left-- == 0) _exit(9);
    return 0;
}
static int listen_in(sqlite3 *db, char **error, const void *api) {
    (void)error, (void)api;
    return sqlite3_trace_v2(db, SQLITE_TRACE_STMT | SQLITE_TRACE_PROFILE, count_down, NULL);
}

static void story(struct rig *r) {
    publish(r, 1, 40, RIG_START);
    for (int64_t o = 0; o < 40; o++)
        if (o != 17) rig_log_as(r, o, o == 20 ? rejected : o == 21 ? twice : o == 22 ? late : NULL);
    rig_log(r, 20);
    log_range(r, 2, 6);
    rig_commit(r);
}

static void end_of_story(struct rig *r) {
    rig_manifest(r, 1, 40, RIG_START);
    rig_pass(r, 12);
}

#define EVERYTHING                                                                                                     \
    "SELECT * FROM (SELECT seen||'/'||applied||'/'||dead_lettered||'/'||duplicate||'/'||delayed||'/'||repeat||'/'||"   \
    "bytes||'/'||hex(digest_sum)||'/'||offset_min||'/'||offset_max FROM tally) UNION ALL "                             \
    "SELECT first||'-'||last FROM sequence UNION ALL SELECT first||'-'||last||'/'||kind FROM offset_range UNION ALL "  \
    "SELECT seen||'/'||hex(digest_sum) FROM origin UNION ALL "                                                         \
    "SELECT kind||'@'||\"offset\"||'/'||sequence||'/'||other FROM record UNION ALL "                                   \
    "SELECT state||'/'||published||'/'||seen||'/'||unexplained FROM window UNION ALL "                                 \
    "SELECT value FROM meta WHERE name = 'sequence'"

Test(recon, killed_at_any_statement_it_counts_every_entry_once, .timeout = 120) {
    char expected[16384];
    sqlite3_auto_extension((void (*)(void))listen_in);
    left = -1;
    struct rig *r = rig_make(EVIDENCE_MANIFEST);
    story(r);
    end_of_story(r);
    snprintf(expected, sizeof expected, "%s", rig_ask(r, EVERYTHING));
    rig_drop(r);
    bool died = true;
    int deaths = 0;
    for (int n = 0; died; n += n < 30 ? 2 : 11) {
        left = -1;
        r = rig_make(EVIDENCE_MANIFEST);
        story(r);
        pid_t child = fork();
        if (child == 0) {
            left = n;
            rig_pass(r, 2);
            _exit(0);
        }
        int status;
        waitpid(child, &status, 0);
        died = WEXITSTATUS(status) == 9;
        deaths += died;
        recon_close(r->recon);
        rig_open(r);
        end_of_story(r);
        cr_assert_str_eq(rig_ask(r, EVERYTHING), expected, "killed at statement %d:\n%s\ninstead of\n%s", n,
                         rig_ask(r, EVERYTHING), expected);
        rig_drop(r);
    }
    cr_assert_gt(deaths, 20);
}

/* -- a disk that does not take it -------------------------------------------------------------- */

static int refusals; /* of commits to come */

static int refuse_commit(void *context) {
    (void)context;
    return refusals > 0 && refusals-- > 0;
}
static int refuse_commits(sqlite3 *db, char **error, const void *api) {
    (void)error, (void)api;
    sqlite3_commit_hook(db, refuse_commit, NULL);
    return SQLITE_OK;
}

Test(recon, a_transaction_that_cannot_be_stored_is_done_again_and_counts_once) {
    char expected[16384];
    sqlite3_auto_extension((void (*)(void))refuse_commits);
    struct rig *r = rig_make(EVIDENCE_MANIFEST);
    story(r);
    end_of_story(r);
    snprintf(expected, sizeof expected, "%s", rig_ask(r, EVERYTHING));
    rig_drop(r);
    r = rig_make(EVIDENCE_MANIFEST);
    story(r);
    rig_manifest(r, 1, 40, RIG_START); /* Kafka tells it once */
    refusals = 3;
    int blocked = 0;
    for (int i = 0; i < 40; i++) {
        blocked += recon_step(r->recon) == STEP_BLOCKED;
        r->b->wall_ms += 300;
    }
    cr_assert_gt(blocked, 2);
    cr_assert_eq(refusals, 0);
    cr_assert_gt(r->worker.local.value[M_recon_store_fail], 0);
    rig_pass(r, 4);
    cr_assert_str_eq(rig_ask(r, EVERYTHING), expected, "%s\ninstead of\n%s", rig_ask(r, EVERYTHING), expected);
    rig_drop(r);
}

Test(recon, windows_are_forgotten_when_the_logs_retention_is_over) {
    struct rig *r = rig_make(EVIDENCE_MANIFEST);
    publish(r, 1, 10, RIG_START);
    log_range(r, 0, 10);
    rig_manifest(r, 1, 10, RIG_START);
    rig_pass(r, 12);
    rig_says(r, STATES, "1");
    r->b->wall_ms += 86400000 + 3600000;
    rig_pass(r, 1);
    rig_says(r,
             "SELECT (SELECT count(*) FROM window) + (SELECT count(*) FROM tally) + (SELECT count(*) FROM origin) + "
             "(SELECT count(*) FROM manifest) + (SELECT count(*) FROM window_change)",
             "0");
    rig_says(r, "SELECT first, last FROM sequence", "1|10"); /* what tells duplicates stays */
    rig_drop(r);
}

/* A load of last year's records is counted and judged today, and is to be seen for as long as other windows are. */
Test(recon, a_window_of_long_ago_that_was_judged_just_now_is_kept) {
    struct rig *r = rig_make(EVIDENCE_MANIFEST);
    int64_t then = RIG_START - 40 * (int64_t)r->b->config.recon.retention_ms;
    publish(r, 1, 10, then);
    log_range(r, 0, 10);
    rig_manifest(r, 1, 10, then);
    rig_pass(r, 2);
    r->b->wall_ms += (int64_t)r->b->config.recon.retention_ms / 2;
    rig_pass(r, 2);
    rig_says(r, STATES, "1");
    rig_says(r, "SELECT seen FROM tally", "10");
    r->b->wall_ms += (int64_t)r->b->config.recon.retention_ms;
    rig_pass(r, 2);
    rig_says(r, "SELECT (SELECT count(*) FROM window) + (SELECT count(*) FROM tally)", "0");
    rig_drop(r);
}

static void random_load(struct entry *e) {
    memcpy(e->load, &e->offset, sizeof e->offset);
    e->load[15] = 1;
}
static void random_producer(struct entry *e) {
    e->producer = 1000 + (uint64_t)e->offset;
    e->sequence = 1;
}

static void read_now(struct entry *e) { e->ingested_us = RIG_START * 1000; }

#define LIMITED "SELECT subject, count FROM exception WHERE kind = 'limit_reached' AND cleared_ms = 0 ORDER BY subject"

/* Whoever writes records chooses all of these. */
Test(recon, what_is_made_up_without_end_is_counted_and_not_kept) {
    count_limits = (struct count_limits){.producers = 5, .sequences = 4, .loads = 3, .windows = 6};
    struct rig *r = rig_make(EVIDENCE_MANIFEST);
    for (int i = 0; i < 10; i++) rig_log_as(r, rig_publish(r, 0, RIG_START), random_load);
    for (int i = 0; i < 10; i++) rig_log_as(r, rig_publish(r, 0, RIG_START), random_producer);
    rig_pass(r, 2);
    rig_says(r, "SELECT count(*) FROM load_tally", "3");
    rig_says(r, "SELECT count(*) FROM sequence", "5");
    rig_says(r, LIMITED, "loads|7\nproducers|5");
    int64_t year = 31536000000;
    for (int i = 1; i < 11; i++) rig_log_as(r, rig_publish(r, 0, RIG_START - i * year), read_now);
    rig_pass(r, 2);
    rig_says(r, "SELECT count(*) FROM window", "7");
    rig_says(r, "SELECT total(seen) FROM tally", "30.0"); /* and each of them once */
    rig_says(r, LIMITED, "loads|7\nproducers|5\nwindows|4");
    cr_assert_eq(r->worker.local.value[M_recon_record_merge], 16);
    recon_close(r->recon); /* as many are too many after a restart */
    rig_open(r);
    rig_log_as(r, rig_publish(r, 0, RIG_START), random_load);
    rig_log_as(r, rig_publish(r, 0, RIG_START), random_producer);
    rig_log_as(r, rig_publish(r, 0, RIG_START - 20 * year), read_now);
    rig_log(r, rig_publish(r, 0, RIG_START - 1 * year)); /* that one is there */
    rig_pass(r, 2);
    rig_says(r,
             "SELECT (SELECT count(*) FROM load_tally) || ' ' || (SELECT count(*) FROM sequence) || ' ' || "
             "(SELECT count(*) FROM window) || ' ' || (SELECT total(seen) FROM tally)",
             "3 5 7 34.0");
    r->b->wall_ms += 3 * 3600000; /* no more of it comes */
    rig_pass(r, 2);
    r->b->wall_ms += 3600000;
    rig_pass(r, 2);
    rig_says(r, LIMITED, "");
    rig_drop(r);
}

Test(recon, numbers_with_gaps_between_them_are_kept_up_to_a_limit) {
    count_limits.sequences = 4;
    struct rig *r = rig_make(EVIDENCE_MANIFEST);
    for (uint64_t i = 1; i <= 8; i++) rig_log(r, rig_publish(r, 10 * i, RIG_START));
    rig_log(r, rig_publish(r, 41, RIG_START)); /* goes on where one ends */
    rig_pass(r, 2);
    rig_says(r, "SELECT first, last FROM sequence", "10|10\n20|20\n30|30\n40|41");
    rig_says(r, LIMITED, "sequences|4");
    rig_drop(r);
}

Test(recon, anchors_that_are_taken_away_are_told) {
    struct rig *r = rig_make(EVIDENCE_MANIFEST);
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/anchors", r->b->log);
    FILE *f = fopen(path, "w");
    for (int i = 0; i < 20; i++) fprintf(f, "{\"type\":\"anchor\",%0700d}\n", i);
    fclose(f);
    rig_pass(r, 6);
    cr_assert_eq(truncate(path, 14000), 0); /* a line that was not whole */
    rig_pass(r, 6);
    rig_says(r, "SELECT count(*) FROM exception", "0");
    cr_assert_eq(truncate(path, 7000), 0);
    rig_pass(r, 6);
    rig_says(r, "SELECT kind, subject FROM exception", "evidence_lost|anchors");
    cr_assert(
        strncmp(rig_ask(r, "SELECT text FROM exception"), "the file of anchors had 14000 bytes and has 7000", 48) == 0);
    rig_drop(r);
    r = rig_make(EVIDENCE_MANIFEST);
    snprintf(path, sizeof path, "%s/anchors", r->b->log);
    f = fopen(path, "w");
    fputs("{}\n", f);
    fclose(f);
    rig_pass(r, 6);
    recon_close(r->recon);
    cr_assert_eq(unlink(path), 0);
    rig_open(r);
    rig_pass(r, 6);
    rig_says(r, "SELECT kind, subject FROM exception", "evidence_lost|anchors");
    rig_drop(r);
}

/* One thing has happened, however many windows it concerns: it is told once, and of those nothing is claimed. */
Test(recon, entries_that_retention_removed_before_they_were_counted_are_one_exception) {
    struct rig *r = rig_make(EVIDENCE_MANIFEST);
    struct err err = {0};
    r->b->config.recon.segment_bytes = 1;
    publish(r, 1, 10, RIG_START);
    log_range(r, 0, 10);
    rig_pass(r, 1);
    recon_close(r->recon);
    for (int w = 1; w <= 3; w++) { /* windows that nobody counts */
        r->b->wall_ms = RIG_START + w * RIG_WINDOW_MS;
        publish(r, 1 + 10 * (uint64_t)w, 10, RIG_START + w * RIG_WINDOW_MS);
        log_range(r, 10 * w, 10 * w + 10);
        rig_commit(r);
    }
    r->b->wall_ms = RIG_START + 40 * RIG_WINDOW_MS;
    publish(r, 41, 20, RIG_START + 40 * RIG_WINDOW_MS);
    log_range(r, 40, 50);
    rig_commit(r);
    while (r->b->writer.closed_count > 0) cr_assert_eq(log_writer_remove(&r->b->writer, &r->b->err), 0);
    r->recon = recon_open(&r->worker, &r->port, &err);
    cr_assert_not_null(r->recon, "%s", err.text);
    r->committed = 60;
    for (int w = 0; w <= 3; w++)
        rig_manifest(r, 1 + 10 * (uint64_t)w, 10 + 10 * (uint64_t)w, RIG_START + w * RIG_WINDOW_MS);
    rig_manifest(r, 41, 60, RIG_START + 40 * RIG_WINDOW_MS);
    rig_pass(r, 20);
    rig_says(r, "SELECT kind, subject, count FROM exception WHERE kind = 'evidence_lost'", "evidence_lost|entries|30");
    rig_says(r, "SELECT DISTINCT reason FROM window WHERE unexplained > 0 AND state = 0",
             "entries of this time were removed before they were counted");
    /* What is missing at another time is missing all the same, and counted without what else is wrong. */
    rig_says(r, "SELECT kind, count FROM exception WHERE kind <> 'evidence_lost' ORDER BY kind",
             "unexplained|10\nwindow_mismatch|10");
    recon_close(r->recon);
    rig_open(r);
    rig_pass(r, 3);
    rig_says(r, "SELECT count(*) FROM exception WHERE cleared_ms = 0", "3");
    rig_drop(r);
}

/* Assignment: where each partition begins, when a successor takes up what its predecessor had, giving up. */
#include "tests/unit/ingest/help.h"

#include <sys/mman.h>
#include <unistd.h>

enum { RING = 65536 };

static struct bench *bench_first(enum config_start start, int partitions) {
    struct bench *b = bench_make(1, RING);
    uint64_t seed = 17;
    b->config.start = start;
    for (int i = 0; i < partitions; i++) sim_fill(sim_partition_add(&b->kafka, 0, i), 10, 0, &seed);
    return b;
}

static void begin(struct bench *b, uint64_t mask) {
    ingest_starts(b);
    sim_give(&b->kafka, mask);
}

/* -- first starts ------------------------------------------------------------------------------ */

Test(assignment, of_a_group_without_commits_asks_the_operator) {
    struct bench *b = bench_first(START_ERROR, 1);
    begin(b, 1);
    cr_assert_eq(settle(b), STEP_FAILED);
    cr_assert_eq(atomic_load(&b->worker.block->state), STATE_FAILED);
    cr_assert_not_null(strstr(reason_shown(b), "start: earliest"), "%s", reason_shown(b));
    cr_assert_not_null(strstr(reason_shown(b), "bulk[0]"), "%s", reason_shown(b));
    cr_assert_eq(b->kafka.assigns, 0);
    expect_nothing(b, 0);
    bench_drop(b);
}

Test(assignment, begins_at_the_oldest_record_where_the_operator_says_so) {
    struct bench *b = bench_first(START_EARLIEST, 1);
    b->kafka.partition[0].low = 4;
    begin(b, 1);
    settle(b);
    expect_record(b, 0, 0, 0, 4);
    cr_assert_neq(atomic_load(&ledger_of(b, 0, 0)->flags) & LEDGER_FIRST_START, 0, "the sink has to create the mark");
    bench_drop(b);
}

Test(assignment, begins_at_the_end_where_the_operator_says_so) {
    struct bench *b = bench_first(START_LATEST, 1);
    begin(b, 1);
    settle(b);
    sim_put(&b->kafka.partition[0], 10, 1, 1);
    settle(b);
    struct taken t;
    while (take_next(b, 0, &t)) cr_assert_geq(t.head.offset, 9, "offset %lld is of before", (long long)t.head.offset);
    cr_assert_eq(t.head.offset, 10);
    bench_drop(b);
}

Test(assignment, that_began_at_the_end_is_remembered_though_nothing_came) {
    struct bench *b = bench_first(START_LATEST, 1);
    begin(b, 1);
    settle(b);
    apply_all(b);
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(b->kafka.partition[0].committed, 10, "what comes while the instance is down would be left out");
    apply_all(b);
    b->kafka.partition[0].end_told = false;
    settle(b);
    cr_assert_eq(apply_all(b), 0, "the end was carried twice");
    bench_drop(b);
}

Test(assignment, at_the_end_stays_a_first_start_until_there_is_a_mark) {
    struct bench *b = bench_first(START_LATEST, 1);
    struct sim_partition *p = &b->kafka.partition[0];
    begin(b, 1);
    settle(b);
    pass_ms(b, 1000);
    settle(b);
    cr_assert(p->committed == 10 && p->note.first && p->note.origin == 10);
    bench_forgets(b); /* Redis was never reached; the next start is on another machine */
    sim_put(p, 10, 1, 1);
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    cr_assert_eq(atomic_load(&ledger_of(b, 0, 0)->flags), LEDGER_ASSIGNED | LEDGER_FIRST_START);
    cr_assert_eq(atomic_load(&ledger_of(b, 0, 0)->start), 10);
    cr_assert_eq(atomic_load(&ledger_of(b, 0, 0)->origin), 10);
    pass_ms(b, 1000);
    settle(b);
    cr_assert(p->note.first, "still no mark");
    expect_record(b, 0, 0, 0, 10);
    pass_ms(b, 1000);
    settle(b);
    cr_assert(p->committed == 11 && !p->note.first);
    bench_forgets(b);
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    cr_assert_eq(atomic_load(&ledger_of(b, 0, 0)->flags), LEDGER_ASSIGNED);
    bench_drop(b);
}

Test(assignment, asks_for_the_cluster_first_and_waits_for_it) {
    struct bench *b = bench_first(START_EARLIEST, 1);
    snprintf(b->kafka.cluster, CLUSTER_BYTES, "one");
    b->kafka.cluster_fails = 3;
    begin(b, 1);
    settle(b);
    cr_assert_eq(b->kafka.assigns, 0);
    cr_assert_eq(atomic_load(&b->ledger->cluster_known), 0);
    for (int i = 0; i < 5; i++) {
        pass_ms(b, 200);
        settle(b);
    }
    cr_assert_eq(b->kafka.assigns, 1);
    cr_assert_eq(atomic_load(&b->ledger->cluster_known), 1);
    cr_assert_str_eq(b->ledger->cluster, "one");
    ingest_dies(b);
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    cr_assert_eq(b->kafka.assigns, 2);
    bench_drop(b);
}

Test(assignment, by_another_cluster_than_before_is_refused) {
    struct bench *b = bench_first(START_EARLIEST, 1);
    snprintf(b->kafka.cluster, CLUSTER_BYTES, "one");
    begin(b, 1);
    settle(b);
    ingest_dies(b);
    snprintf(b->kafka.cluster, CLUSTER_BYTES, "two");
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    cr_assert_eq(settle(b), STEP_FAILED);
    cr_assert_str_eq(reason_shown(b), "the brokers are another cluster than before: two, it was one");
    cr_assert_str_eq(b->ledger->cluster, "one");
    bench_drop(b);
}

Test(assignment, goes_on_from_the_commit_and_is_no_first_start) {
    struct bench *b = bench_first(START_LATEST, 1);
    b->kafka.partition[0].committed = 7;
    begin(b, 1);
    settle(b);
    expect_record(b, 0, 0, 0, 7);
    cr_assert_eq(atomic_load(&ledger_of(b, 0, 0)->flags), LEDGER_ASSIGNED);
    cr_assert_eq(atomic_load(&ledger_of(b, 0, 0)->committed), 7);
    bench_drop(b);
}

static void added_later(enum config_start start) {
    struct bench *b = bench_first(start, 2);
    b->kafka.partition[0].committed = 10;
    begin(b, 3);
    settle(b);
    cr_assert_eq(b->kafka.assigns, 1, "%s", reason_shown(b));
    for (int64_t i = 0; i < 10; i++) expect_record(b, 0, 0, 1, i);
    expect_nothing(b, 0);
    cr_assert_neq(atomic_load(&ledger_of(b, 0, 1)->flags) & LEDGER_FIRST_START, 0);
    bench_drop(b);
}

Test(assignment, reads_all_of_a_partition_that_was_added_to_a_topic_with_commits) {
    added_later(START_ERROR);
    added_later(START_LATEST);
    added_later(START_EARLIEST);
}

static void added_later_alone(enum config_start start) {
    struct bench *b = bench_first(start, 2);
    b->kafka.partition[0].committed = 10; /* another member's */
    begin(b, 2);
    settle(b);
    cr_assert_eq(b->kafka.assigns, 1, "%s", reason_shown(b));
    for (int64_t i = 0; i < 10; i++) expect_record(b, 0, 0, 1, i);
    bench_drop(b);
}

Test(assignment, reads_all_of_an_added_partition_though_the_others_belong_to_another_member) {
    added_later_alone(START_ERROR);
    added_later_alone(START_LATEST);
}

Test(assignment, asks_again_for_each_topic_that_has_no_commits) {
    struct bench *b = bench_first(START_ERROR, 1);
    uint64_t seed = 8;
    b->kafka.partition[0].committed = 10;
    sim_fill(sim_partition_add(&b->kafka, 1, 0), 10, 0, &seed); /* a topic that is new in the configuration */
    begin(b, 3);
    cr_assert_eq(settle(b), STEP_FAILED);
    cr_assert_not_null(strstr(reason_shown(b), "change[0]"), "%s", reason_shown(b));
    bench_drop(b);
}

Test(assignment, waits_for_a_broker_that_does_not_answer) {
    struct bench *b = bench_first(START_EARLIEST, 3);
    b->kafka.committed_fails = 3;
    b->kafka.watermarks_fail = 4;
    b->kafka.assign_fails = 2;
    begin(b, 7);
    for (int i = 0; i < 30 && b->kafka.assigns == 0; i++) {
        cr_assert_neq(settle(b), STEP_FAILED);
        if (b->kafka.assigns == 0) cr_assert_eq(atomic_load(&b->worker.block->state), STATE_CONNECTING);
        pass_ms(b, 200);
    }
    settle(b);
    cr_assert_eq(b->kafka.assigns, 1);
    int64_t next[3] = {0};
    struct taken t;
    while (take_next(b, 0, &t)) {
        cr_assert_eq(t.head.offset, next[t.head.partition]++);
        cr_assert_eq(t.head.epoch, epoch_of(b, 0, t.head.partition));
        release(b, 0, &t);
    }
    for (int i = 0; i < 3; i++) cr_assert_eq(next[i], 10);
    bench_drop(b);
}

Test(assignment, does_not_press_a_broker_that_does_not_answer) {
    struct bench *b = bench_first(START_EARLIEST, 1);
    b->kafka.committed_fails = 1000;
    begin(b, 1);
    for (int i = 0; i < 100; i++) step(b);
    cr_assert_geq(b->kafka.committed_fails, 998);
    bench_drop(b);
}

Test(assignment, of_nothing_is_an_assignment) {
    struct bench *b = bench_first(START_ERROR, 1);
    begin(b, 0);
    settle(b);
    cr_assert_eq(b->kafka.assigns, 1);
    cr_assert_eq(atomic_load(&b->worker.block->state), STATE_RUNNING);
    bench_drop(b);
}

Test(assignment, beyond_the_table_stops_with_the_limit_named) {
    struct bench *b = bench_first(START_EARLIEST, 1);
    ingest_starts(b);
    b->g->partition_count = PARTITIONS_MAX;
    for (uint32_t i = 0; i < PARTITIONS_MAX; i++) b->g->partition[i].partition = 5000 + (int32_t)i;
    sim_give(&b->kafka, 1);
    cr_assert_eq(settle(b), STEP_FAILED);
    cr_assert_not_null(strstr(reason_shown(b), "1024"), "%s", reason_shown(b));
    bench_drop(b);
}

/* -- resuming ---------------------------------------------------------------------------------- */

/* A predecessor that read 10 records of one partition, of which `released` were applied, committed or not. */
static struct bench *bench_predecessor(uint32_t released, bool committed) {
    struct bench *b = bench_first(START_EARLIEST, 1);
    begin(b, 1);
    settle(b);
    apply(b, 0, released);
    if (committed) {
        pass_ms(b, 1000);
        settle(b);
        cr_assert_eq(b->kafka.partition[0].committed, released);
    }
    ingest_dies(b);
    uint64_t seed = 4;
    sim_fill(&b->kafka.partition[0], 10, 0, &seed);
    return b;
}

static void expect_resumed(struct bench *b, int64_t from) {
    begin(b, 1);
    settle(b);
    cr_assert_eq(epoch_of(b, 0, 0), 1, "it was not taken up");
    for (int64_t i = from; i < 20; i++) {
        struct taken t = expect_record(b, 0, 0, 0, i);
        cr_assert_eq(t.number, (uint64_t)i + 1);
        cr_assert_eq(t.head.epoch, 1);
    }
    expect_nothing(b, 0);
    bench_drop(b);
}

Test(assignment, is_taken_up_where_the_predecessor_published_last) {
    expect_resumed(bench_predecessor(4, true), 4);
    expect_resumed(bench_predecessor(0, false), 0); /* nothing committed, and nothing is what we committed */
    expect_resumed(bench_predecessor(4, false), 4);
    expect_resumed(bench_predecessor(10, true), 10);
}

Test(assignment, is_taken_up_at_the_start_of_the_epoch_when_nothing_was_published_in_it) {
    struct bench *b = bench_first(START_EARLIEST, 1);
    struct sim_partition *p = &b->kafka.partition[0];
    p->low = 6;
    begin(b, 1);
    step(b); /* assigned in this step; reading begins in it too, but the ring may be full */
    ingest_dies(b);
    begin(b, 1);
    settle(b);
    cr_assert_eq(epoch_of(b, 0, 0), 1);
    for (int64_t i = 6; i < 10; i++) expect_record(b, 0, 0, 0, i);
    bench_drop(b);
}

static void commit_then_die(struct bench *b, enum answer answer) {
    b->kafka.answer = answer;
    pass_ms(b, 1000);
    settle(b);
    ingest_dies(b);
    b->kafka.answer = ANSWER_OK;
    uint64_t seed = 4;
    sim_fill(&b->kafka.partition[0], 10, 0, &seed);
}

Test(assignment, is_taken_up_when_the_broker_took_a_commit_that_was_never_answered) {
    static const enum answer answers[] = {ANSWER_NEVER_DONE, ANSWER_NEVER_LOST, ANSWER_FAILS, ANSWER_REFUSED};
    for (size_t i = 0; i < 4; i++) {
        struct bench *b = bench_first(START_EARLIEST, 1);
        begin(b, 1);
        settle(b);
        apply(b, 0, 4);
        commit_then_die(b, answers[i]);
        expect_resumed(b, 4);
    }
}

Test(assignment, is_not_taken_up_when_somebody_else_has_committed_meanwhile) {
    for (int64_t theirs = 0; theirs <= 20; theirs++) {
        if (theirs == 4) continue;
        struct bench *b = bench_predecessor(4, true);
        b->kafka.partition[0].committed = theirs;
        begin(b, 1);
        settle(b);
        cr_assert_eq(epoch_of(b, 0, 0), 2, "committed %lld", (long long)theirs);
        for (int64_t i = 4; i < 10; i++) cr_assert_eq(expect_record(b, 0, 0, 0, i).head.epoch, 1); /* to be skipped */
        for (int64_t i = theirs; i < 20; i++) cr_assert_eq(expect_record(b, 0, 0, 0, i).head.epoch, 2);
        expect_nothing(b, 0);
        bench_drop(b);
    }
}

Test(assignment, is_not_taken_up_twice_by_one_process) {
    struct bench *b = bench_first(START_EARLIEST, 1);
    begin(b, 1);
    settle(b);
    apply(b, 0, 4);
    pass_ms(b, 1000);
    settle(b);
    sim_take_away(&b->kafka, true);
    sim_give(&b->kafka, 1);
    settle(b);
    cr_assert_gt(epoch_of(b, 0, 0), 1);
    for (int64_t i = 4; i < 10; i++) cr_assert_eq(expect_record(b, 0, 0, 0, i).head.epoch, 1);
    for (int64_t i = 4; i < 10; i++) cr_assert_gt(expect_record(b, 0, 0, 0, i).head.epoch, 1);
    expect_nothing(b, 0);
    bench_drop(b);
}

Test(assignment, is_taken_up_across_many_deaths_without_a_commit) {
    struct bench *b = bench_first(START_EARLIEST, 1);
    uint64_t seed = 4;
    int64_t next = 0;
    for (int i = 0; i < 30; i++) {
        begin(b, 1);
        sim_fill(&b->kafka.partition[0], 3, 2, &seed);
        settle(b);
        struct taken t;
        while (take_next(b, 0, &t)) {
            const struct sim_message *m = sim_first_from(&b->kafka.partition[0], next);
            cr_assert_eq(t.head.offset, m->offset);
            next = m->offset + 1;
            release(b, 0, &t);
        }
        ingest_dies(b);
    }
    cr_assert_eq(next, b->kafka.partition[0].end);
    cr_assert_eq(epoch_of(b, 0, 0), 1);
    bench_drop(b);
}

Test(assignment, gives_a_new_epoch_to_all_that_a_predecessor_had_and_it_has_not) {
    struct bench *b = bench_first(START_EARLIEST, 3);
    begin(b, 7);
    settle(b);
    ingest_dies(b);
    begin(b, 2);
    settle(b);
    cr_assert_eq(epoch_of(b, 0, 0), 2);
    cr_assert_eq(epoch_of(b, 0, 1), 1);
    cr_assert_eq(epoch_of(b, 0, 2), 2);
    cr_assert_eq(atomic_load(&ledger_of(b, 0, 0)->flags), 0);
    bench_drop(b);
}

/* -- giving up --------------------------------------------------------------------------------- */

/* What is logged from here on goes to a file; revoked_says ends that and tells how the partitions were given up. */
static int log_fd, stderr_fd;

static void log_catch(void) {
    log_fd = memfd_create("log", MFD_CLOEXEC);
    stderr_fd = dup(STDERR_FILENO);
    dup2(log_fd, STDERR_FILENO);
    log_init("node", "ingest", -1, 0, LOG_INFO); /* takes standard error as it is now */
}

static const char *revoked_says(void) {
    static char text[65536];
    dup2(stderr_fd, STDERR_FILENO);
    log_init("node", "ingest", -1, 0, LOG_ERROR);
    ssize_t n = pread(log_fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = 0;
    char *line = strstr(text, "ingest.revoked ");
    cr_assert_not_null(line, "%s", text);
    line += strlen("ingest.revoked ");
    line[strcspn(line, "\n")] = 0;
    return line;
}

Test(assignment, that_is_revoked_waits_for_what_is_under_way_then_commits_then_is_given_up) {
    struct bench *b = bench_first(START_EARLIEST, 1);
    begin(b, 1);
    settle(b);
    uint64_t seed = 4;
    sim_fill(&b->kafka.partition[0], 10, 0, &seed);
    sim_take_away(&b->kafka, false);
    settle(b);
    cr_assert_eq(b->kafka.unassigns, 0, "given up with records under way");
    cr_assert_eq(b->kafka.partition[0].fetched, 10, "read on after the revocation");
    cr_assert_eq(apply(b, 0, 9), 9);
    settle(b);
    cr_assert_eq(b->kafka.unassigns, 0);
    b->kafka.answer = ANSWER_LATER;
    cr_assert_eq(apply_all(b), 1);
    settle(b);
    cr_assert_eq(b->kafka.unassigns, 0, "given up before the commit was acknowledged");
    log_catch();
    sim_answer_now(&b->kafka);
    settle(b);
    cr_assert_str_eq(revoked_says(), "drained");
    cr_assert_eq(b->kafka.unassigns, 1);
    cr_assert_eq(b->kafka.partition[0].committed, 10);
    cr_assert_eq(epoch_of(b, 0, 0), 2);
    cr_assert_eq(atomic_load(&ledger_of(b, 0, 0)->flags), 0);
    bench_drop(b);
}

Test(assignment, that_is_revoked_is_given_up_after_a_bounded_time_all_the_same) {
    struct bench *b = bench_first(START_EARLIEST, 1);
    begin(b, 1);
    settle(b);
    sim_take_away(&b->kafka, false);
    apply(b, 0, 4);
    int s = 0;
    log_catch();
    for (; s < 60 && b->kafka.unassigns == 0; s++) {
        settle(b);
        pass_ms(b, 1000);
    }
    cr_assert_str_eq(revoked_says(), "not drained: what is under way is skipped and will be read again");
    cr_assert(s > 10 && s < 30, "%d s", s);
    cr_assert_leq(b->kafka.partition[0].committed, 4);
    cr_assert_eq(epoch_of(b, 0, 0), 2, "what is under way would still be written");
    bench_drop(b);
}

Test(assignment, that_is_lost_is_given_up_at_once_without_a_commit) {
    struct bench *b = bench_first(START_EARLIEST, 2);
    begin(b, 3);
    settle(b);
    apply_all(b);
    sim_take_away(&b->kafka, true);
    uint32_t calls = b->kafka.commit_calls;
    pass_ms(b, 5000);
    step(b);
    for (int i = 0; i < 10; i++) {
        pass_ms(b, 1000);
        settle(b);
    }
    cr_assert_eq(b->kafka.unassigns, 1);
    cr_assert_eq(b->kafka.commit_calls, calls, "a partition of somebody else was committed");
    for (int i = 0; i < 2; i++) cr_assert_eq(epoch_of(b, 0, i), 2);
    bench_drop(b);
}

Test(assignment, that_is_lost_while_its_revocation_waits_is_given_up_at_once) {
    struct bench *b = bench_first(START_EARLIEST, 1);
    begin(b, 1);
    settle(b);
    sim_take_away(&b->kafka, false);
    settle(b);
    cr_assert_eq(b->kafka.unassigns, 0);
    b->kafka.fenced = true; /* we took too long for the group */
    apply(b, 0, 4);
    log_catch();
    settle(b);
    cr_assert_str_eq(revoked_says(), "partitions lost: what is under way is skipped");
    cr_assert_eq(b->kafka.unassigns, 1);
    cr_assert_eq(b->kafka.commit_calls, 0);
    cr_assert_eq(epoch_of(b, 0, 0), 2);
    bench_drop(b);
}

Test(assignment, comes_back_after_a_revocation_in_a_new_epoch_from_the_commit) {
    struct bench *b = bench_first(START_EARLIEST, 1);
    begin(b, 1);
    settle(b);
    apply_all(b);
    sim_take_away(&b->kafka, false);
    settle(b);
    uint32_t epoch = epoch_of(b, 0, 0);
    b->kafka.partition[0].committed = 15; /* the other member came so far */
    uint64_t seed = 4;
    sim_fill(&b->kafka.partition[0], 10, 0, &seed);
    sim_give(&b->kafka, 1);
    settle(b);
    cr_assert_gt(epoch_of(b, 0, 0), epoch);
    for (int64_t i = 15; i < 20; i++) expect_record(b, 0, 0, 0, i);
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(b->kafka.partition[0].committed, 20);
    bench_drop(b);
}

Test(assignment, taken_away_before_it_was_carried_out_is_answered) {
    struct bench *b = bench_first(START_EARLIEST, 2);
    b->kafka.watermarks_fail = 1000;
    begin(b, 3);
    settle(b);
    struct kafka_event *e = sim_event(&b->kafka, KAFKA_REVOKE);
    sim_list_add(e, &b->kafka.partition[0]);
    for (int i = 0; i < 30; i++) {
        settle(b);
        pass_ms(b, 1000);
    }
    cr_assert_eq(b->kafka.unassigns, 1, "the group waits for the answer for ever");
    b->kafka.watermarks_fail = 0;
    sim_give(&b->kafka, 3);
    settle(b);
    cr_assert_eq(b->kafka.assigns, 1);
    cr_assert_eq(apply_all(b), 20);
    bench_drop(b);
}

/* -- fatal ------------------------------------------------------------------------------------- */

Test(assignment, ends_with_a_client_that_can_never_go_on) {
    struct bench *b = bench_first(START_EARLIEST, 1);
    begin(b, 1);
    settle(b);
    sim_event(&b->kafka, KAFKA_FATAL);
    cr_assert_eq(step(b), STEP_FAILED);
    cr_assert_str_eq(reason_shown(b), "trouble");
    bench_drop(b);
}

Test(assignment, client_that_may_have_fenced_itself_makes_room_for_another) {
    struct bench *b = bench_first(START_EARLIEST, 1);
    begin(b, 1);
    settle(b);
    sim_event(&b->kafka, KAFKA_FATAL)->lost = true;
    cr_assert_eq(step(b), STEP_AGAIN);
    bench_drop(b);
}

/* What the sink then takes for a loss, whatever redis.when_marks_missing says. */
Test(assignment, partition_of_this_run_had_its_mark_before_the_rings_were_made_anew) {
    struct bench *b = bench_reading(1, RING, 1, 20);
    b->control->run = 77;
    settle(b);
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(b->kafka.partition[0].note.run, 0, "there is no mark yet");
    apply_all(b);
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(b->kafka.partition[0].note.run, 77);
    for (int i = 0; i < 2; i++) { /* the second time what the first has committed before there was anything to read */
        bench_forgets(b);
        ingest_starts(b);
        sim_give(&b->kafka, 1);
        settle(b);
        cr_assert_eq(atomic_load(&ledger_of(b, 0, 0)->flags), LEDGER_ASSIGNED | LEDGER_MARKED);
        pass_ms(b, 1000);
        settle(b);
        cr_assert_eq(b->kafka.partition[0].note.run, 77);
    }
    b->control->run = 78; /* another process, or another Redis */
    bench_forgets(b);
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    cr_assert_eq(atomic_load(&ledger_of(b, 0, 0)->flags), LEDGER_ASSIGNED);
    bench_drop(b);
}

/* Whoever reconciles has to know, however long ago that was, and though the two have never met. */
Test(assignment, commit_says_for_good_that_another_instance_has_committed) {
    struct bench *b = bench_reading(1, RING, 1, 20);
    settle(b);
    apply_all(b);
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(b->kafka.partition[0].note.by, note_instance("node"));
    for (int i = 0; i < 3; i++) {
        bench_forgets(b);
        ingest_starts(b);
        if (i == 1) b->kafka.partition[0].note.by = note_instance("another");
        sim_give(&b->kafka, 1);
        settle(b);
        pass_ms(b, 1000);
        settle(b);
        cr_assert_eq(b->kafka.partition[0].note.by, i == 0 ? note_instance("node") : NOTE_SEVERAL, "start %d", i);
    }
    bench_drop(b);
}

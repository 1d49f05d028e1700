/* The sink against a Redis that forgets what it acknowledged. The test plays ingest: it has the log of each partition,
 * feeds it, and when the ledger notes a loss it raises the epoch and feeds again. */
#include "sink/lost.h"
#include "tests/unit/sink/rig.h"

enum { PARTITIONS = 3, KEYS = 7 };

static struct rig_redis redis;
static struct rig rig;

static struct {
    int64_t end;      /* of the log */
    int64_t origin;   /* what a rewind for a mark that is gone reaches */
    uint64_t rewinds; /* so far */
    uint64_t lost;    /* writes that Redis had acknowledged and lost, as the test knows it */
} part[PARTITIONS];
static bool hold; /* ingest does not answer */

static void start(void) {
    memset(part, 0, sizeof part);
    hold = false;
    redis_start(&redis, NULL);
    rig_init(&rig, &redis, PARTITIONS);
}

static void stop(void) {
    rig_crash(&rig);
    redis_stop(&redis);
}

TestSuite(forget, .init = start, .fini = stop, .timeout = 120);

/* -- the log ----------------------------------------------------------------------------------- */

static enum record_op op_at(int64_t offset) {
    return offset % 11 == 10 ? RECORD_SKIP : offset % 5 == 4 ? RECORD_DELETE : RECORD_ADD;
}

/* How many of the records [from, to) are writes. */
static uint64_t writes(int64_t from, int64_t to) {
    uint64_t n = 0;
    for (int64_t offset = from; offset < to; offset++) n += op_at(offset) != RECORD_SKIP;
    return n;
}

static bool put(uint32_t p, int64_t offset) {
    char key[32], value[32];
    struct rig_record r = {.op = op_at(offset), .partition = p, .epoch = atomic_load(&rig.plan->slot[p].epoch)};
    snprintf(key, sizeof key, "k%lld:%u", (long long)(offset % KEYS), p);
    snprintf(value, sizeof value, "%lld", (long long)offset);
    if (r.op != RECORD_SKIP) r.key = key;
    if (r.op == RECORD_ADD) r.value = value;
    return rig_try(&rig, r);
}

static void expect_all_there(void) {
    char key[32];
    int keys = 0, marks = 0;
    for (uint32_t p = 0; p < PARTITIONS; p++) {
        for (int64_t k = 0; k < KEYS; k++) {
            int64_t last = -1;
            for (int64_t offset = k; offset < part[p].end; offset += KEYS)
                if (op_at(offset) != RECORD_SKIP) last = op_at(offset) == RECORD_ADD ? offset : -1;
            snprintf(key, sizeof key, "k%lld:%u", (long long)k, p);
            if (last < 0)
                redis_is(&redis, "(nil)", "GET %s", key);
            else
                cr_assert_eq(atoll(redis_say(&redis, "GET %s", key)), last, "%s", key);
            keys += last >= 0;
        }
        marks++;
    }
    cr_assert_eq(atoi(redis_say(&redis, "DBSIZE")), keys + marks, "beside the marks only what was published");
}

/* -- ingest, played ---------------------------------------------------------------------------- */

static bool note(uint32_t p, uint64_t *what) {
    uint64_t epoch;
    twin_load(&rig.ledger->slot[p].lost, &epoch, what);
    return epoch == atomic_load(&rig.plan->slot[p].epoch);
}

static int64_t released(uint32_t p) {
    uint64_t epoch, next;
    twin_load(&rig.ledger->slot[p].released, &epoch, &next);
    return epoch == atomic_load(&rig.plan->slot[p].epoch) ? (int64_t)next : atomic_load(&rig.plan->slot[p].start);
}

static void epoch_begin(uint32_t p, int64_t from, uint32_t flags) {
    struct ledger_ingest_slot *s = &rig.plan->slot[p];
    atomic_store(&s->start, from);
    atomic_store(&s->flags, LEDGER_ASSIGNED | flags);
    atomic_store(&s->epoch, atomic_load(&s->epoch) + 1);
    rig.next[p] = from;
}

static void rewind_one(uint32_t p, uint64_t what) {
    int64_t had = released(p), target = (what & LEDGER_LOST_ALL) != 0 ? part[p].origin : (int64_t)what;
    if (had < target) target = had;
    part[p].lost += writes(target, had);
    part[p].rewinds++;
    epoch_begin(p, target, LEDGER_REWOUND);
}

static void ingest_step(void) {
    uint64_t what;
    for (uint32_t p = 0; p < PARTITIONS; p++)
        if (!hold && note(p, &what)) rewind_one(p, what);
    bool more = true;
    for (int n = 0; n < 40 && more; n++) {
        more = false;
        for (uint32_t p = 0; p < PARTITIONS; p++)
            if (rig.next[p] < part[p].end && put(p, rig.next[p])) more = true;
    }
    ring_publish(&rig.producer);
}

#define PLAY_UNTIL(limit_ms, condition) RIG_UNTIL(&rig, limit_ms, (ingest_step(), (condition)))

static bool settled(void) {
    for (uint32_t p = 0; p < PARTITIONS; p++) {
        uint64_t what;
        if (note(p, &what) || released(p) != part[p].end || lost_open(&rig.ledger->slot[p])) return false;
    }
    return rig_done(&rig) && rig_state(&rig) == STATE_RUNNING;
}

static void play(int64_t more) {
    for (uint32_t p = 0; p < PARTITIONS; p++) part[p].end += more;
    PLAY_UNTIL(20000, settled());
}

static uint64_t lost_in_all(void) {
    uint64_t n = 0;
    for (uint32_t p = 0; p < PARTITIONS; p++) n += part[p].lost;
    return n;
}

static void expect_recovered(void) {
    PLAY_UNTIL(20000, settled());
    expect_all_there();
    cr_assert_eq(rig_count(&rig, M_sink_write_lost), lost_in_all(), "%lu, the test says %lu",
                 rig_count(&rig, M_sink_write_lost), lost_in_all());
}

static bool recovering_on(const char *text) {
    return rig_state(&rig) == STATE_RECOVERING && strstr(rig_reason(&rig), text) != NULL;
}

static void mark_back(uint32_t p, int64_t next) {
    char text[64];
    snprintf(text, sizeof text, "2 %lld %u i1 -", (long long)next, atomic_load(&rig.plan->slot[p].epoch));
    redis_is(&redis, "OK", "SET millrace:mark:g:cards:%u %s", p, text);
}

static void crash(void) {
    rig_crash(&rig);
    rig_attach(&rig);
}

/* -- a mark that is gone ----------------------------------------------------------------------- */

Test(forget, flush_while_idle_is_noticed_and_mended_and_every_lost_write_is_counted) {
    play(100);
    redis_is(&redis, "OK", "FLUSHALL");
    hold = true;
    PLAY_UNTIL(2000, recovering_on("redis lost writes: 3 partitions to be read again, first cards/0"));
    uint64_t before = rig.ring.number_released;
    for (uint32_t p = 0; p < PARTITIONS; p++) part[p].end += 10;
    ingest_step();
    rig_for(&rig, 300);
    cr_assert_eq(rig.ring.number_released, before, "nothing more is released");
    redis_is(&redis, "0", "DBSIZE");
    hold = false;
    expect_recovered();
    cr_assert_eq(rig_count(&rig, M_sink_write_lost), PARTITIONS * writes(0, 100));
    cr_assert_eq(rig_count(&rig, M_sink_loss_found), PARTITIONS);
    for (uint32_t p = 0; p < PARTITIONS; p++) cr_assert_eq(part[p].rewinds, 1);
}

Test(forget, flush_under_load_releases_nothing_from_the_batch_at_fault_on) {
    for (uint32_t p = 0; p < PARTITIONS; p++) part[p].end = 2000;
    PLAY_UNTIL(5000, rig.ring.number_released >= 1500 && rig.sink.line.flight.records > 0);
    redis_is(&redis, "OK", "FLUSHALL");
    PLAY_UNTIL(5000, recovering_on("writing again what redis lost"));
    expect_recovered();
    cr_assert_gt(lost_in_all(), 1000);
}

Test(forget, flush_between_two_batches_in_flight_is_found_with_the_second_ones_mark) {
    rig.config.redis.batch = 5;
    play(10);
    kill(redis.pid, SIGSTOP);
    for (uint32_t p = 0; p < PARTITIONS; p++) part[p].end += 5;
    PLAY_UNTIL(2000, rig.sink.line.flight.records == 15);
    /* Behind the batches under way, in another connection: it may be executed before, between or after them. */
    redisAppendCommand(redis.c, "FLUSHALL");
    int done = 0;
    redisBufferWrite(redis.c, &done);
    kill(redis.pid, SIGCONT);
    redisReply *reply = NULL;
    cr_assert_eq(redisGetReply(redis.c, (void **)&reply), REDIS_OK);
    freeReplyObject(reply);
    for (uint32_t p = 0; p < PARTITIONS; p++) part[p].end += 5;
    expect_recovered();
    cr_assert_geq(lost_in_all(), PARTITIONS * writes(0, 10));
}

Test(forget, marks_alone_that_are_gone_stand_for_everything) {
    play(50);
    redis_is(&redis, "1", "DEL " RIG_MARK(1));
    PLAY_UNTIL(3000, part[1].rewinds == 1);
    expect_recovered();
    cr_assert(part[0].rewinds == 0 && part[1].rewinds == 1 && part[2].rewinds == 0);
    cr_assert_eq(lost_in_all(), writes(0, 50));
}

Test(forget, restart_without_its_data_is_mended) {
    play(100);
    redis_kill(&redis);
    PLAY_UNTIL(2000, rig_state(&rig) == STATE_CONNECTING);
    redis_spawn(&redis);
    redis_connect(&redis);
    expect_recovered();
    cr_assert_eq(lost_in_all(), PARTITIONS * writes(0, 100));
}

Test(forget, five_flushes_during_one_rebuild_converge_and_each_lost_write_is_counted_each_time) {
    play(3000);
    redis_is(&redis, "OK", "FLUSHALL");
    for (uint64_t round = 1; round <= 5; round++) {
        PLAY_UNTIL(10000, part[0].rewinds >= round && part[1].rewinds >= round && part[2].rewinds >= round &&
                              released(0) > 100 * (int64_t)round);
        cr_assert_eq(rig_state(&rig), STATE_RECOVERING);
        redis_is(&redis, "OK", "FLUSHALL");
    }
    PLAY_UNTIL(10000, part[0].rewinds >= 6);
    expect_recovered();
    cr_assert_geq(lost_in_all(), PARTITIONS * writes(0, 3000) + 5 * writes(0, 100));
}

/* -- a mark that went back --------------------------------------------------------------------- */

Test(forget, snapshot_of_an_earlier_time_is_noticed_at_the_connect) {
    uint64_t what;
    play(100);
    mark_back(1, 91);
    hold = true;
    crash();
    PLAY_UNTIL(5000, recovering_on("redis lost writes: 1 partition to be read again, first cards/1"));
    cr_assert(note(1, &what) && what == 91 && !note(0, &what) && !note(2, &what));
    hold = false;
    expect_recovered();
    cr_assert_eq(lost_in_all(), writes(91, 100));
}

/* The marks that show the loss are overwritten by the batches that find it: it has to be noted for every partition from
 * the answers, and the note has to outlive the sink. */
Test(forget, loss_behind_one_connection_is_noted_for_every_partition_from_the_answers_under_way) {
    uint64_t what;
    rig.config.redis.batch = 5;
    play(100);
    for (uint32_t p = 0; p < PARTITIONS; p++) mark_back(p, 80 + (int64_t)p);
    hold = true;
    for (uint32_t p = 0; p < PARTITIONS; p++) part[p].end += 10;
    PLAY_UNTIL(3000, recovering_on("redis lost writes: 3 partitions"));
    for (uint32_t p = 0; p < PARTITIONS; p++) {
        cr_assert(note(p, &what) && what == 80 + p, "partition %u", p);
        cr_assert_gt(atoi(redis_say(&redis, "GET millrace:mark:g:cards:%u", p) + 2), 100, "overwritten");
        cr_assert_eq(released(p), 100);
    }
    crash();
    rig_for(&rig, 300);
    cr_assert(recovering_on("redis lost writes: 3 partitions"), "%s", rig_reason(&rig));
    for (uint32_t p = 0; p < PARTITIONS; p++) cr_assert(note(p, &what) && what == 80 + p, "partition %u", p);
    hold = false;
    expect_recovered();
    cr_assert_eq(lost_in_all(), writes(80, 100) + writes(81, 100) + writes(82, 100));
}

Test(forget, loss_is_noted_from_answers_behind_a_refusal) {
    uint64_t what;
    play(100);
    mark_back(2, 80);
    hold = true;
    redis_words(&redis, "ACL SETUSER default -mset"); /* the marks are written by SET */
    for (uint32_t p = 0; p < PARTITIONS; p++) part[p].end += 10;
    PLAY_UNTIL(3000, note(2, &what));
    cr_assert_eq(what, 80);
    redis_words(&redis, "ACL SETUSER default +mset");
    hold = false;
    expect_recovered();
    cr_assert_eq(lost_in_all(), writes(80, 100));
}

Test(forget, flush_while_a_smaller_loss_waits_for_ingest_is_not_covered_up) {
    uint64_t what;
    play(100);
    mark_back(0, 90);
    hold = true;
    PLAY_UNTIL(3000, note(0, &what));
    redis_is(&redis, "OK", "FLUSHALL");
    hold = false;
    PLAY_UNTIL(5000, part[0].rewinds == 2);
    expect_recovered();
    cr_assert_eq(part[0].lost, writes(90, 100) + writes(0, 90));
}

Test(forget, loss_that_no_rewind_answered_still_holds_when_the_partition_comes_back) {
    play(100);
    mark_back(0, 90);
    hold = true;
    part[0].end += 10;
    uint64_t what;
    PLAY_UNTIL(3000, note(0, &what));
    epoch_begin(0, 100, 0); /* taken away and given back before ingest looked */
    hold = false;
    PLAY_UNTIL(5000, part[0].rewinds == 1);
    PLAY_UNTIL(20000, settled());
    expect_all_there();
    cr_assert_eq(rig_count(&rig, M_sink_write_lost), writes(90, 100));
}

/* -- deaths ------------------------------------------------------------------------------------ */

/* The sink dies between steps, at random, while Redis is flushed or goes back and everything is mended. */
Test(forget, sink_that_dies_again_and_again_counts_each_lost_write_once) {
    srand(5);
    play(500);
    for (int round = 0; round < 12; round++) {
        if (round % 3 == 2)
            mark_back((uint32_t)round % PARTITIONS, part[round % PARTITIONS].end - 50);
        else
            redis_is(&redis, "OK", "FLUSHALL");
        for (uint32_t p = 0; p < PARTITIONS; p++) part[p].end += 20;
        for (int death = 0; death < 8; death++) {
            for (int steps = rand() % 60; steps > 0; steps--) {
                ingest_step();
                rig_step(&rig);
            }
            crash();
        }
        expect_recovered();
    }
    cr_assert_gt(lost_in_all(), 12000);
}

/* A sink in a process of its own, on the same rings and ledgers. */
static pid_t sink_spawn(void) {
    pid_t parent = getpid(), pid = fork();
    if (pid != 0) return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    log_init("", "sink", 0, 0, LOG_ERROR + 1);
    rig_attach(&rig);
    for (;;) rig_step(&rig);
}

/* … and killed at any instruction, the ones of noting a loss, counting and releasing included. */
Test(forget, sink_that_is_killed_at_any_instruction_counts_each_lost_write_once) {
    srand(7);
    play(300);
    for (int round = 0; round < 6; round++) {
        rig_crash(&rig);
        redis_is(&redis, "OK", "FLUSHALL");
        for (uint32_t p = 0; p < PARTITIONS; p++) part[p].end += 50;
        for (int death = 0; death < 15; death++) {
            pid_t pid = sink_spawn();
            uint64_t until = clock_ns(&clock_real) + (uint64_t)(2000 + rand() % 30000) * 1000;
            while (clock_ns(&clock_real) < until) {
                ingest_step();
                usleep(200);
            }
            kill(pid, SIGKILL);
            waitpid(pid, NULL, 0);
        }
        rig_attach(&rig);
        expect_recovered();
    }
    cr_assert_gt(lost_in_all(), 6000);
}

Test(forget, count_of_a_sink_that_died_before_it_showed_it_is_not_lost) {
    play(100);
    redis_is(&redis, "OK", "FLUSHALL");
    PLAY_UNTIL(5000, part[0].rewinds == 1 && settled());
    cr_assert_eq(rig.block.value[M_sink_write_lost], 0, "not shown yet");
    crash();
    cr_assert_eq(rig_count(&rig, M_sink_write_lost), PARTITIONS * writes(0, 100));
    stats_flush(&rig.worker.local);
    crash();
    cr_assert_eq(rig_count(&rig, M_sink_write_lost), PARTITIONS * writes(0, 100));
}

/* -- whose loss it is -------------------------------------------------------------------------- */

Test(forget, loss_of_a_partition_that_somebody_else_has_now_stops_nobody) {
    play(10);
    mark_back(1, 9);
    hold = true;
    PLAY_UNTIL(3000, recovering_on("redis lost writes"));
    rig_for(&rig, 200);
    cr_assert_eq(rig.sink.state, SINK_HALTED, "as long as it is ours");
    atomic_store(&rig.plan->slot[1].flags, 0);
    part[0].end += 10;
    PLAY_UNTIL(5000, released(0) == 20);
    PLAY_UNTIL(2000, rig_state(&rig) == STATE_RUNNING);
}

Test(forget, loss_is_mended_while_another_waits_for_somebody_to_take_the_partition) {
    play(10);
    redis_is(&redis, "OK", "FLUSHALL");
    hold = true;
    PLAY_UNTIL(3000, recovering_on("3 partitions"));
    for (uint32_t p = 0; p < 2; p++) rewind_one(p, LEDGER_LOST_ALL);
    rig_for(&rig, 300);
    cr_assert_eq(rig.sink.state, SINK_HALTED, "one is still ours and not answered");
    atomic_store(&rig.plan->slot[2].flags, 0);
    PLAY_UNTIL(5000, released(0) == 10 && released(1) == 10);
    redis_is(&redis, "(nil)", "GET " RIG_MARK(2));
}

Test(forget, partition_that_comes_back_mended_by_others_is_not_counted_here) {
    play(100);
    redis_is(&redis, "OK", "FLUSHALL");
    hold = true;
    PLAY_UNTIL(3000, recovering_on("3 partitions"));
    for (uint32_t p = 1; p < PARTITIONS; p++) rewind_one(p, LEDGER_LOST_ALL);
    redis_is(&redis, "OK", "SET %s %s", RIG_MARK(0), "2 100 9 i2 -");
    epoch_begin(0, 100, 0);
    PLAY_UNTIL(5000, settled());
    cr_assert_eq(rig_count(&rig, M_sink_write_lost), 2 * writes(0, 100));
    cr_assert(!lost_open(&rig.ledger->slot[0]));
}

Test(forget, offsets_that_kafka_no_longer_has_are_the_operators_business) {
    play(10);
    redis_is(&redis, "OK", "FLUSHALL");
    hold = true;
    PLAY_UNTIL(3000, recovering_on("redis lost writes"));
    atomic_store(&rig.plan->slot[0].lost_to, 7);
    PLAY_UNTIL(2000, rig_blocked_on(&rig, "Kafka no longer has them: offsets [0,7) of cards/0"));
    atomic_store(&rig.plan->slot[0].lost_to, 0);
    part[0].origin = 7;
    hold = false;
    PLAY_UNTIL(10000, settled());
    mark_is(&redis, "2 10 2 i1 -", RIG_MARK(0));
    cr_assert_eq(rig_count(&rig, M_sink_write_lost), writes(7, 10) + 2 * writes(0, 10));
}

/* -- where a group begins ---------------------------------------------------------------------- */

static void begin_at_commit(int64_t from) {
    for (uint32_t p = 0; p < PARTITIONS; p++) {
        atomic_store(&rig.plan->slot[p].flags, LEDGER_ASSIGNED);
        atomic_store(&rig.plan->slot[p].start, from);
        rig.next[p] = part[p].end = from;
    }
}

Test(forget, mark_behind_the_committed_offset_at_takeover_is_a_loss) {
    begin_at_commit(1000);
    redis_is(&redis, "OK", "SET %s %s", RIG_MARK(0), "1 999 3 i2");
    redis_is(&redis, "OK", "SET %s %s", RIG_MARK(1), "1 1000 3 i2");
    redis_is(&redis, "OK", "SET %s %s", RIG_MARK(2), "1 1700 3 i2");
    PLAY_UNTIL(5000, settled() && part[0].rewinds == 1);
    cr_assert(part[1].rewinds == 0 && part[2].rewinds == 0);
    cr_assert_eq(rig_count(&rig, M_sink_write_lost), writes(999, 1000));
    mark_is(&redis, "2 1000 2 i1 -", RIG_MARK(0));
    redis_is(&redis, "1 1000 3 i2", "GET " RIG_MARK(1));
}

Test(forget, commits_without_marks_block_until_somebody_decides) {
    begin_at_commit(1000);
    PLAY_UNTIL(5000, rig_blocked_on(&rig, "see redis.when_marks_missing"));
    rig_for(&rig, 2500);
    redis_is(&redis, "0", "DBSIZE");
    cr_assert_gt(rig_count(&rig, M_sink_redis_connect), 1, "it looks again");
    cr_assert_eq(rig_count(&rig, M_sink_mark_mismatch), PARTITIONS, "and says it once");
}

Test(forget, commits_without_marks_are_trusted_when_the_operator_says_so) {
    begin_at_commit(1000);
    rig.config.redis.when_marks_missing = MARKS_MISSING_TRUST_KAFKA;
    play(1);
    mark_is(&redis, "2 1001 1 i1 -", RIG_MARK(0));
    cr_assert_eq(lost_in_all(), 0);
}

Test(forget, commits_without_marks_are_rebuilt_when_the_operator_says_so) {
    begin_at_commit(1000);
    rig.config.redis.when_marks_missing = MARKS_MISSING_REBUILD;
    play(1);
    expect_recovered();
    cr_assert_eq(lost_in_all(), PARTITIONS * writes(0, 1000));
}

Test(forget, mark_of_another_cluster_waits_for_the_operator_and_is_taken_over) {
    snprintf(rig.plan->cluster, sizeof rig.plan->cluster, "here");
    atomic_store(&rig.plan->cluster_known, 1);
    begin_at_commit(100);
    for (uint32_t p = 0; p < PARTITIONS; p++)
        redis_is(&redis, "OK", "SET millrace:mark:g:cards:%u %s", p, p == 0 ? "2 500 1 i1 there" : "2 100 1 i1 here");
    hold = true;
    uint64_t what;
    PLAY_UNTIL(5000, note(0, &what));
    cr_assert_eq(what, LEDGER_LOST_OTHER | 500);
    epoch_begin(0, 100, LEDGER_REWOUND); /* accepted */
    play(1);
    mark_is(&redis, "2 101 2 i1 here", RIG_MARK(0));
}

/* The instance that noted a loss and went back to the mark is gone, and Redis has lost more since. */
Test(forget, mark_below_where_an_instance_before_went_back_to_is_a_loss) {
    uint64_t what;
    begin_at_commit(100);
    for (uint32_t p = 0; p < PARTITIONS; p++) {
        uint32_t accepted = p == 1 ? LEDGER_ACCEPTED : 0;
        atomic_store(&rig.plan->slot[p].flags, LEDGER_ASSIGNED | LEDGER_REWOUND | accepted);
        redis_is(&redis, "OK", "SET millrace:mark:g:cards:%u %s", p, p < 2 ? "2 90 3 i1 -" : "2 120 3 i1 -");
    }
    hold = true;
    PLAY_UNTIL(5000, note(0, &what));
    cr_assert_eq(what, 90);
    cr_assert_not(note(1, &what), "what was given up is not asked for again");
    cr_assert_not(note(2, &what));
    hold = false;
    play(1);
    for (uint32_t p = 0; p < PARTITIONS; p++) cr_assert_eq(released(p), 101);
}

Test(forget, key_of_a_mark_that_holds_something_else_stops_the_lane) {
    redis_is(&redis, "OK", "SET %s %s", RIG_MARK(0), "mine");
    PLAY_UNTIL(5000, rig_blocked_on(&rig, "the mark of cards/0 holds something else"));
    part[0].end = 5;
    ingest_step();
    rig_for(&rig, 200);
    redis_is(&redis, "mine", "GET " RIG_MARK(0));
    cr_assert_eq(rig.ring.number_released, 0);
    redis_is(&redis, "1", "DEL " RIG_MARK(0));
    PLAY_UNTIL(5000, settled());
    cr_assert_eq(rig_count(&rig, M_sink_mark_mismatch), 1, "said once, not at every look");
}

Test(forget, mark_ahead_of_the_ledger_is_what_a_crash_leaves) {
    play(20);
    mark_back(1, 500);
    crash();
    play(20);
    mark_is(&redis, "2 40 1 i1 -", RIG_MARK(1));
    cr_assert_eq(rig_count(&rig, M_sink_loss_found), 0);
}

Test(forget, mark_of_another_process_is_counted_and_not_taken_for_a_loss) {
    play(20);
    redis_is(&redis, "OK", "SET %s %s", RIG_MARK(1), "2 700 4 i2 -");
    play(20);
    cr_assert_eq(rig_count(&rig, M_sink_mark_mismatch), 1);
    cr_assert_eq(rig_count(&rig, M_sink_loss_found), 0);
}

Test(forget, mark_of_a_partition_that_was_taken_away_is_no_loss) {
    play(20);
    atomic_store(&rig.plan->slot[1].epoch, 2);
    atomic_store(&rig.plan->slot[1].flags, 0);
    redis_is(&redis, "1", "DEL " RIG_MARK(1));
    part[0].end += 30;
    PLAY_UNTIL(5000, released(0) == 50);
    rig_for(&rig, 1300);
    cr_assert_eq(rig_state(&rig), STATE_RUNNING);
    redis_is(&redis, "(nil)", "GET " RIG_MARK(1));
}

/* -- the lease --------------------------------------------------------------------------------- */

static void lease_ms(int64_t ms) {
    atomic_store(&rig.plan->lease_until_ns, clock_boot_ns(&clock_real) + (uint64_t)(ms * (int64_t)NS_PER_MS));
}

Test(forget, nothing_is_written_without_the_lease_but_marks_are_made) {
    atomic_store(&rig.plan->lease_until_ns, 0);
    PLAY_UNTIL(2000, rig_state(&rig) == STATE_RUNNING);
    mark_is(&redis, "2 0 1 i1 -", RIG_MARK(0));
    for (uint32_t p = 0; p < PARTITIONS; p++) part[p].end = 30;
    for (int i = 0; i < 50; i++) PLAY_UNTIL(100, rig_step(&rig) != STEP_FAILED);
    cr_assert_eq(rig_state(&rig), STATE_RUNNING, "the first lease may take a moment");
    PLAY_UNTIL(4000, rig_blocked_on(&rig, "has not confirmed this instance"));
    rig_for(&rig, 300);
    redis_is(&redis, "3", "DBSIZE");
    mark_is(&redis, "2 0 1 i1 -", RIG_MARK(0));
    cr_assert_eq(rig_count(&rig, M_sink_redis_connect), 1, "a connection that carries nothing is kept");
    cr_assert_eq(rig_count(&rig, M_sink_lease_expire), 1);
    lease_ms(60000);
    PLAY_UNTIL(3000, settled());
    expect_all_there();
}

Test(forget, mark_is_not_set_back_without_the_lease) {
    lease_ms(60000);
    play(20);
    redis_is(&redis, "OK", "FLUSHALL");
    hold = true;
    PLAY_UNTIL(3000, recovering_on("redis lost writes"));
    lease_ms(-1); /* this machine stood still, and another has all partitions and has mended them */
    for (uint32_t p = 0; p < PARTITIONS; p++) mark_back(p, 500);
    hold = false;
    PLAY_UNTIL(3000, rig_blocked_on(&rig, "has not confirmed this instance"));
    uint64_t commands = rig_count(&rig, M_sink_command);
    rig_for(&rig, 300);
    for (uint32_t p = 0; p < PARTITIONS; p++)
        cr_assert_eq(atoi(redis_say(&redis, "GET millrace:mark:g:cards:%u", p) + 2), 500);
    cr_assert_leq(rig_count(&rig, M_sink_command), commands + 10, "and nobody asks without a pause");
    lease_ms(60000);
    expect_recovered();
}

Test(forget, lease_that_ends_takes_what_is_under_way_with_its_connection) {
    lease_ms(60000);
    play(20);
    kill(redis.pid, SIGSTOP);
    for (uint32_t p = 0; p < PARTITIONS; p++) part[p].end += 10;
    PLAY_UNTIL(2000, rig.sink.line.flight.records > 0);
    lease_ms(100);
    PLAY_UNTIL(2000, rig.sink.line.flight.records == 0);
    cr_assert(!line_leased(&rig.sink.line));
    cr_assert(rig_blocked_on(&rig, "has not confirmed this instance"));
    kill(redis.pid, SIGCONT);
    rig_for(&rig, 300);
    cr_assert_eq(rig.ring.number_released, 60);
    cr_assert(rig_blocked_on(&rig, "has not confirmed this instance"), "%s", rig_reason(&rig));
    cr_assert_eq(rig_count(&rig, M_sink_lease_expire), 1, "once, not at every look");
    lease_ms(60000);
    PLAY_UNTIL(3000, settled());
    expect_all_there();
    lease_ms(-1);
    part[0].end++;
    PLAY_UNTIL(2000, rig_blocked_on(&rig, "has not confirmed this instance"));
    cr_assert_eq(rig_count(&rig, M_sink_lease_expire), 2);
}

Test(forget, lease_that_ends_with_nothing_to_write_stops_nobody) {
    lease_ms(60000);
    play(20);
    lease_ms(-1);
    rig_for(&rig, 200);
    cr_assert_eq(rig_state(&rig), STATE_RUNNING);
    cr_assert_eq(rig_count(&rig, M_sink_lease_expire), 0);
}

Test(forget, what_was_read_under_an_earlier_epoch_leaves_the_ring_without_a_lease) {
    play(20);
    lease_ms(-1);
    for (uint32_t p = 0; p < PARTITIONS; p++) part[p].end += 10;
    PLAY_UNTIL(2000, rig_blocked_on(&rig, "has not confirmed this instance"));
    for (uint32_t p = 0; p < PARTITIONS; p++) {
        atomic_store(&rig.plan->slot[p].flags, 0);
        atomic_store(&rig.plan->slot[p].epoch, 2);
    }
    RIG_UNTIL(&rig, 3000, rig_done(&rig));
    mark_is(&redis, "2 20 1 i1 -", RIG_MARK(0));
}

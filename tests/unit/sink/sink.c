/* The sink against a real Redis that works: what each record becomes, in which order, and what is said about it. */
#include "shm/entry.h"
#include "tests/unit/sink/rig.h"

static struct rig_redis redis;
static struct rig rig;

static void start(void) {
    redis_start(&redis, NULL);
    rig_init(&rig, &redis, 2);
}

static void stop(void) {
    rig_crash(&rig);
    redis_stop(&redis);
}

TestSuite(sink, .init = start, .fini = stop, .timeout = 60);

Test(sink, add_update_and_delete_become_what_they_say) {
    rig_add(&rig, 0, "a", "1");
    rig_add(&rig, 0, "b", "2");
    rig_put(&rig, .op = RECORD_UPDATE, .partition = 0, .key = "a", .value = "3");
    rig_add(&rig, 1, "c", "4");
    rig_put(&rig, .op = RECORD_DELETE, .partition = 0, .key = "b");
    rig_run(&rig);
    redis_is(&redis, "3", "GET a");
    redis_is(&redis, "(nil)", "GET b");
    redis_is(&redis, "4", "GET c");
    cr_assert_eq(rig_released(&rig, 0), 4);
    cr_assert_eq(rig_released(&rig, 1), 1);
    cr_assert_eq(atomic_load(&rig.block.published), 5);
    cr_assert_eq(rig_state(&rig), STATE_RUNNING);
    cr_assert_eq(rig_count(&rig, M_sink_record_applied), 5);
}

Test(sink, marks_say_what_was_released) {
    for (int i = 0; i < 25; i++) rig_add(&rig, i % 2, "k", "v");
    rig_run(&rig);
    mark_is(&redis, "2 13 1 i1 -", RIG_MARK(0));
    mark_is(&redis, "2 12 1 i1 -", RIG_MARK(1));
    cr_assert_eq(rig_count(&rig, M_sink_mark_mismatch), 0);
}

Test(sink, marks_name_the_last_record_of_kafka_and_a_takeover_hands_it_on) {
    uint64_t seen, ms;
    rig_put(&rig, .op = RECORD_ADD, .key = "k", .value = "v", .timestamp_ms = 1700);
    rig_put(&rig, .op = RECORD_SKIP, .timestamp_ms = -1);
    rig_run(&rig);
    redis_is(&redis, "2 2 1 i1 - 0:1700", "GET " RIG_MARK(0));
    rig_put(&rig, .op = RECORD_SKIP, .timestamp_ms = -1);
    rig_run(&rig);
    redis_is(&redis, "2 3 1 i1 - 0:1700", "GET " RIG_MARK(0));
    rig_put(&rig, .op = RECORD_REJECT, .timestamp_ms = 1800);
    rig_run(&rig);
    redis_is(&redis, "2 4 1 i1 - 3:1800", "GET " RIG_MARK(0));
    twin_load(&rig.ledger->slot[0].seen, &seen, &ms);
    cr_assert_eq(seen, 0, "no mark was there when it began");

    rig_crash(&rig);
    atomic_store(&rig.plan->slot[0].start, 4);
    atomic_store(&rig.plan->slot[0].flags, LEDGER_ASSIGNED);
    atomic_store(&rig.plan->slot[0].epoch, 2);
    rig_attach(&rig);
    rig_put(&rig, .op = RECORD_SKIP, .timestamp_ms = -1, .epoch = 2);
    rig_run(&rig);
    redis_is(&redis, "2 5 2 i1 - 3:1800", "GET " RIG_MARK(0));
    twin_load(&rig.ledger->slot[0].seen, &seen, &ms);
    cr_assert(seen == 4 && ms == 1800, "%llu:%llu", (unsigned long long)seen, (unsigned long long)ms);
}

/* Its partition went back from 20 to 12 for it, on purpose. */
Test(sink, records_that_were_refed_are_written_and_neither_the_mark_nor_the_ledger_follows_them) {
    for (int i = 0; i < 20; i++) rig_put(&rig, .op = RECORD_ADD, .key = "k", .value = "v", .timestamp_ms = 1700 + i);
    rig_run(&rig);
    atomic_store(&rig.plan->slot[0].flags, LEDGER_ASSIGNED | LEDGER_MARKED | LEDGER_REFEED);
    atomic_store(&rig.plan->slot[0].start, 12);
    atomic_store(&rig.plan->slot[0].epoch, 2);
    rig.next[0] = 3;
    rig_put(&rig, .op = RECORD_ADD, .key = "a", .value = "refed", .flags = RECORD_REFED, .epoch = 2);
    rig_put(&rig, .op = RECORD_DELETE, .key = "k", .flags = RECORD_REFED | RECORD_VALUE_NULL, .epoch = 2);
    rig_run(&rig);
    redis_is(&redis, "refed", "GET a");
    redis_is(&redis, "(nil)", "GET k");
    redis_is(&redis, "2 12 2 i1 - 19:1719", "GET " RIG_MARK(0));
    cr_assert_eq(rig_released(&rig, 0), 12);
    rig.next[0] = 12;
    rig_put(&rig, .op = RECORD_ADD, .key = "k", .value = "again", .epoch = 2, .timestamp_ms = 1712);
    rig_run(&rig);
    redis_is(&redis, "again", "GET k");
    redis_is(&redis, "2 13 2 i1 - 12:1712", "GET " RIG_MARK(0));
    cr_assert_eq(rig_released(&rig, 0), 13);
    cr_assert_eq(rig_count(&rig, M_sink_mark_mismatch) + rig_count(&rig, M_sink_write_lost), 0, "nothing was lost");
    cr_assert_eq(rig_count(&rig, M_sink_loss_found), 0);
}

/* A mark behind where the partition went back to: that Redis has lost something is not covered up. */
Test(sink, a_refeed_hides_no_loss) {
    for (int i = 0; i < 20; i++) rig_add(&rig, 0, "k", "v");
    rig_run(&rig);
    redis_is(&redis, "OK", "SET %s %s", RIG_MARK(0), "2 7 1 i1 - -");
    atomic_store(&rig.plan->slot[0].flags, LEDGER_ASSIGNED | LEDGER_MARKED | LEDGER_REFEED);
    atomic_store(&rig.plan->slot[0].start, 12);
    atomic_store(&rig.plan->slot[0].epoch, 2);
    rig.next[0] = 3;
    rig_put(&rig, .op = RECORD_ADD, .key = "a", .value = "refed", .flags = RECORD_REFED, .epoch = 2);
    for (int i = 0; i < 2000 && rig_count(&rig, M_sink_loss_found) == 0; i++) {
        sink_step(&rig.sink);
        usleep(500);
    }
    cr_assert_eq(rig_count(&rig, M_sink_loss_found), 1);
    redis_is(&redis, "(nil)", "GET a");
}

Test(sink, last_write_of_a_key_wins_within_one_batch_and_across) {
    char value[16];
    for (int i = 0; i < 997; i++) {
        snprintf(value, sizeof value, "%d", i);
        rig_add(&rig, 0, i % 3 == 0 ? "x" : "y", value);
        if (i % 7 == 0) rig_put(&rig, .op = RECORD_DELETE, .partition = 0, .key = "z");
    }
    rig_run(&rig);
    redis_is(&redis, "996", "GET x");
    redis_is(&redis, "995", "GET y");
}

Test(sink, run_of_plain_records_is_one_mset_around_markers) {
    redis_is(&redis, "OK", "CONFIG RESETSTAT");
    for (int i = 0; i < 4; i++) rig_add(&rig, 0, i % 2 ? "a" : "b", "v");
    rig_put(&rig, .op = RECORD_REJECT, .partition = 0);
    rig_add(&rig, 0, "c", "v");
    rig_run(&rig);
    cr_assert(strstr(redis_say(&redis, "INFO commandstats"), "cmdstat_mset:calls=1,") != NULL);
    cr_assert(strstr(redis_say(&redis, "INFO commandstats"), "cmdstat_set:calls=3,") != NULL,
              "two marks made, one written");
    cr_assert_eq(rig_count(&rig, M_sink_record_applied), 5);
    cr_assert_eq(rig_count(&rig, M_sink_record_marker), 1);
}

/* Another client looks at both keys at once, all the time: it sees the one or the other, never both and never none. */
Test(sink, update_that_changes_the_key_is_atomic) {
    rig_add(&rig, 0, "old0", "v");
    rig_run(&rig);
    pid_t watcher = fork();
    if (watcher == 0) {
        redisContext *c = redisConnectUnix(redis.path);
        for (;;) {
            redisReply *reply = redisCommand(c, "EXISTS old0 old1");
            if (reply == NULL) _exit(0); /* the server has ended */
            if (reply->integer != 1) _exit(1);
            freeReplyObject(reply);
        }
    }
    for (int i = 0; i < 3000; i++) {
        const char *keys[] = {"old0", "old1"};
        rig_put(&rig, .op = RECORD_UPDATE, .partition = 0, .key = keys[(i + 1) % 2], .old_key = keys[i % 2],
                .value = "v");
        if (i % 100 == 99) rig_run(&rig);
    }
    rig_run(&rig);
    redis_is(&redis, "1", "EXISTS old0 old1");
    int status;
    cr_assert_eq(waitpid(watcher, &status, WNOHANG), 0, "the watcher saw both keys or none");
    redis_kill(&redis);
    waitpid(watcher, &status, 0);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the watcher saw both keys or none");
}

Test(sink, time_to_live_is_set_with_the_value_and_past_is_a_delete) {
    int64_t now = clock_wall_ms(&clock_real);
    rig_add(&rig, 0, "gone", "v");
    rig_add(&rig, 0, "moved", "v");
    rig_put(&rig, .op = RECORD_ADD, .partition = 0, .key = "t", .value = "v", .expire_at_ms = now + 100000);
    rig_put(&rig, .op = RECORD_ADD, .partition = 0, .key = "gone", .value = "w", .expire_at_ms = now - 1);
    rig_put(&rig, .op = RECORD_UPDATE, .partition = 0, .key = "u", .old_key = "moved", .value = "w",
            .expire_at_ms = now + 100000);
    rig_run(&rig);
    long long left = atoll(redis_say(&redis, "PTTL t"));
    cr_assert(left > 90000 && left <= 100000, "%lld", left);
    left = atoll(redis_say(&redis, "PTTL u"));
    cr_assert(left > 90000 && left <= 100000, "%lld", left);
    redis_is(&redis, "(nil)", "GET gone");
    redis_is(&redis, "(nil)", "GET moved");
    cr_assert_eq(rig_count(&rig, M_sink_record_expired), 1);
    rig_add(&rig, 0, "t", "forever");
    rig_run(&rig);
    redis_is(&redis, "-1", "PTTL t");
}

static int64_t ahead_ms; /* how far this machine's wall clock was set ahead of Redis's */
static int64_t set_wall_ms(void *context) { return clock_real.wall_ms(context) + ahead_ms; }

/* Years, both ways, at once and while the connection is open: the record lives as long as it was given by Redis's
 * clock. */
Test(sink, a_clock_that_was_set_ends_no_life_and_lengthens_none) {
    static const int64_t year_ms = 31557600000;
    struct clock_port jumped = clock_real;
    jumped.wall_ms = set_wall_ms;
    rig_run(&rig);
    rig.worker.clock = rig.sink.line.session.clock = &jumped;
    for (int years = -10; years <= 10; years += 5) {
        ahead_ms = years * year_ms;
        int64_t now = clock_wall_ms(&clock_real);
        rig_put(&rig, .op = RECORD_ADD, .partition = 0, .key = "t", .value = "v", .expire_at_ms = now + 100000);
        rig_put(&rig, .op = RECORD_ADD, .partition = 0, .key = "gone", .value = "w", .expire_at_ms = now - 1);
        rig_run(&rig);
        long long left = atoll(redis_say(&redis, "PTTL t"));
        cr_assert(left > 90000 && left <= 100000, "%lld ms left at %d years", left, years);
        redis_is(&redis, "(nil)", "GET gone");
        if (years == 0) redis_say(&redis, "CLIENT KILL TYPE normal SKIPME yes"); /* the later ones begin so */
    }
    ahead_ms = 0;
}

Test(sink, a_hash_is_replaced_whole) {
    rig_add(&rig, 0, "h", "a string before");
    rig_hash(&rig, 0, "h", "a=1 stale=x", .epoch = 1);
    rig_run(&rig);
    redis_is(&redis, "1", "HGET h a");
    redis_is(&redis, "2", "HLEN h");
    rig_hash(&rig, 0, "h", "a=2 b=3.10 b=4", .epoch = 1);
    rig_add(&rig, 0, "plain", "v");
    rig_hash(&rig, 0, "other", "n=", .epoch = 1);
    rig_run(&rig);
    redis_is(&redis, "2", "HLEN h");
    redis_is(&redis, "2", "HGET h a");
    redis_is(&redis, "4", "HGET h b");
    redis_is(&redis, "0", "HEXISTS h stale");
    redis_is(&redis, "", "HGET other n");
    redis_is(&redis, "v", "GET plain");
    rig_add(&rig, 0, "h", "a string again");
    rig_put(&rig, .op = RECORD_DELETE, .partition = 0, .key = "other");
    rig_run(&rig);
    redis_is(&redis, "a string again", "GET h");
    redis_is(&redis, "0", "EXISTS other");
    cr_assert_eq(rig_count(&rig, M_sink_record_applied), 7);
    cr_assert_eq(rig_count(&rig, M_sink_redis_error_reply), 0);
}

Test(sink, a_hash_expires_and_a_past_one_is_a_delete) {
    int64_t now = clock_wall_ms(&clock_real);
    rig_hash(&rig, 0, "t", "a=1", .expire_at_ms = now + 100000);
    rig_hash(&rig, 0, "gone", "a=1", .epoch = 1);
    rig_hash(&rig, 0, "gone", "a=2", .expire_at_ms = now - 1);
    rig_run(&rig);
    long long left = atoll(redis_say(&redis, "PTTL t"));
    cr_assert(left > 90000 && left <= 100000, "%lld", left);
    redis_is(&redis, "0", "EXISTS gone");
    cr_assert_eq(rig_count(&rig, M_sink_record_expired), 1);
    rig_hash(&rig, 0, "t", "a=2", .epoch = 1);
    rig_run(&rig);
    redis_is(&redis, "-1", "PTTL t");
}

/* Another client looks all the time: at the key of a hash that is replaced and moved there are always both fields, of
 * one record. */
Test(sink, nobody_sees_a_part_of_a_hash) {
    static const char script[] = "local n=0 for _,k in ipairs(KEYS) do local a=redis.call('HMGET',k,'a','b') "
                                 "if a[1] then n=n+1 if a[1]~=a[2] then return -1 end end end return n";
    rig_hash(&rig, 0, "h0", "a=0 b=0", .epoch = 1);
    rig_run(&rig);
    pid_t watcher = fork();
    if (watcher == 0) {
        redisContext *c = redisConnectUnix(redis.path);
        for (;;) {
            redisReply *reply = redisCommand(c, "EVAL %s 2 h0 h1", script);
            if (reply == NULL) _exit(0); /* the server has ended */
            if (reply->integer != 1) _exit(1);
            freeReplyObject(reply);
        }
    }
    for (int i = 0; i < 2000; i++) {
        const char *keys[] = {"h0", "h1"};
        char fields[64];
        snprintf(fields, sizeof fields, "a=%d b=%d", i, i);
        rig_hash(&rig, 0, keys[(i + 1) % 2], fields, .old_key = keys[i % 2]);
        if (i % 100 == 99) rig_run(&rig);
    }
    rig_run(&rig);
    int status;
    cr_assert_eq(waitpid(watcher, &status, WNOHANG), 0, "the watcher saw a part of a hash, or none");
    redis_kill(&redis);
    waitpid(watcher, &status, 0);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the watcher saw a part of a hash, or none");
}

Test(sink, markers_advance_the_ledger_and_the_mark_in_order) {
    rig_put(&rig, .op = RECORD_REJECT, .partition = 0);
    rig_put(&rig, .op = RECORD_SKIP, .partition = 0);
    rig_put(&rig, .op = RECORD_REJECT, .partition = 1);
    rig_run(&rig);
    cr_assert_eq(rig_released(&rig, 0), 2);
    cr_assert_eq(rig_released(&rig, 1), 1);
    mark_is(&redis, "2 2 1 i1 -", RIG_MARK(0));
    cr_assert_eq(rig_count(&rig, M_sink_record_marker), 3);
    cr_assert_eq(rig_count(&rig, M_sink_record_applied), 0);
}

Test(sink, record_of_an_earlier_epoch_is_neither_applied_nor_counted_as_released) {
    rig_add(&rig, 0, "a", "1");
    rig_run(&rig);
    atomic_store(&rig.plan->slot[0].start, 0);
    atomic_store(&rig.plan->slot[0].epoch, 2);
    rig_add(&rig, 0, "a", "stale");
    rig_run(&rig);
    redis_is(&redis, "1", "GET a");
    cr_assert_eq(rig_released(&rig, 0), 1, "of the old epoch");
    rig.next[0] = 0;
    rig_put(&rig, .op = RECORD_ADD, .partition = 0, .key = "a", .value = "again", .epoch = 2);
    rig_run(&rig);
    redis_is(&redis, "again", "GET a");
    uint64_t epoch, next;
    twin_load(&rig.ledger->slot[0].released, &epoch, &next);
    cr_assert(epoch == 2 && next == 1);
    mark_is(&redis, "2 1 2 i1 -", RIG_MARK(0));
}

Test(sink, answer_that_comes_after_the_epoch_was_raised_releases_nothing_of_the_new_one) {
    rig_add(&rig, 0, "a", "1");
    rig_run(&rig);
    kill(redis.pid, SIGSTOP);
    rig_add(&rig, 0, "a", "2");
    rig_add(&rig, 1, "b", "2");
    ring_publish(&rig.producer);
    RIG_UNTIL(&rig, 2000, rig.sink.line.flight.records == 2);
    atomic_store(&rig.plan->slot[0].epoch, 2);
    kill(redis.pid, SIGCONT);
    RIG_UNTIL(&rig, 2000, rig_done(&rig));
    uint64_t epoch, next;
    twin_load(&rig.ledger->slot[0].released, &epoch, &next);
    cr_assert(epoch == 2 && next == 0, "epoch %lu, next %lu: not more than where it began", epoch, next);
    cr_assert_eq(rig_released(&rig, 1), 1);
    cr_assert_eq(rig_count(&rig, M_sink_redis_connect), 2, "what was under way goes with its connection");
}

Test(sink, batch_that_waited_while_its_epoch_passed_is_not_sent) {
    rig.config.redis.linger_ms = 200;
    rig_add(&rig, 0, "a", "1");
    rig_run(&rig);
    rig_add(&rig, 0, "a", "stale");
    ring_publish(&rig.producer);
    RIG_UNTIL(&rig, 2000, rig.sink.line.intake.count == 1);
    atomic_store(&rig.plan->slot[0].start, 1);
    atomic_store(&rig.plan->slot[0].epoch, 2);
    RIG_UNTIL(&rig, 2000, rig_done(&rig));
    redis_is(&redis, "1", "GET a");
}

Test(sink, large_and_empty_values_and_binary_keys_arrive_unaltered) {
    static struct rig big; /* a ring whose records may be larger than 1 MB */
    rig_init(&big, &redis, 1);
    rig_ring(&big, 16 << 20);
    size_t bytes = 1 << 20;
    char *value = malloc(bytes);
    for (size_t i = 0; i < bytes; i++) value[i] = (char)(i * 31 + i / 255);
    for (int i = 0; i < 10; i++) {
        value[0] = (char)i;
        rig_put(&big, .op = RECORD_ADD, .partition = 0, .key = "big", .value = value, .value_bytes = bytes);
        rig_put(&big, .op = RECORD_ADD, .partition = 0, .key = "\x01\xff\r\n$3", .value = "\r\nx");
        rig_put(&big, .op = RECORD_ADD, .partition = 0, .key = "empty", .value = "");
    }
    rig_run(&big);
    redisReply *reply = redisCommand(redis.c, "GET big");
    cr_assert(reply->len == bytes && memcmp(reply->str, value, bytes) == 0);
    freeReplyObject(reply);
    redis_is(&redis, "\r\nx", "GET %s", "\x01\xff\r\n$3");
    redis_is(&redis, "0", "STRLEN empty");
    redis_is(&redis, "1", "EXISTS empty");
    rig_crash(&big);
    free(value);
}

Test(sink, full_batches_go_out_together_and_partial_ones_when_the_connection_is_free) {
    rig_step(&rig);
    RIG_UNTIL(&rig, 2000, rig_state(&rig) == STATE_RUNNING);
    kill(redis.pid, SIGSTOP);
    for (int i = 0; i < 4; i++) rig_add(&rig, 0, "k", "v");
    ring_publish(&rig.producer);
    RIG_UNTIL(&rig, 2000, rig.sink.line.flight.records == 4); /* a partial batch: nothing else was under way */
    for (int i = 0; i < 87; i++) rig_add(&rig, 0, "k", "v");
    ring_publish(&rig.producer);
    RIG_UNTIL(&rig, 2000, rig.sink.line.flight.records > 4);
    rig_for(&rig, 20);
    cr_assert_eq(rig.sink.line.flight.records, 44, "whole batches follow up to in_flight, a partial one waits");
    kill(redis.pid, SIGCONT);
    RIG_UNTIL(&rig, 2000, rig_done(&rig));
    cr_assert_eq(rig_count(&rig, M_sink_batch), 10);
}

Test(sink, linger_waits_for_a_batch_to_fill_but_not_longer) {
    rig.config.redis.linger_ms = 150;
    RIG_UNTIL(&rig, 2000, rig_state(&rig) == STATE_RUNNING);
    for (int i = 0; i < 4; i++) rig_add(&rig, 0, "k", "v");
    ring_publish(&rig.producer);
    uint64_t begin = clock_ns(&clock_real);
    rig_for(&rig, 50);
    cr_assert_eq(rig_count(&rig, M_sink_batch), 0);
    RIG_UNTIL(&rig, 2000, rig_done(&rig));
    uint64_t took_ms = (clock_ns(&clock_real) - begin) / NS_PER_MS;
    cr_assert(took_ms >= 150 && took_ms < 1000, "%lu", took_ms);
    for (int i = 0; i < 10; i++) rig_add(&rig, 0, "k", "v");
    begin = clock_ns(&clock_real);
    rig_run(&rig);
    cr_assert((clock_ns(&clock_real) - begin) / NS_PER_MS < 150, "a full batch does not linger");
}

Test(sink, asks_to_be_woken_only_when_it_could_send) {
    RIG_UNTIL(&rig, 2000, rig_state(&rig) == STATE_RUNNING && rig.last == STEP_IDLE);
    cr_assert(!sink_arm(&rig.sink));
    cr_assert_neq(atomic_load(&rig.ring.page->waiting), 0);
    rig_add(&rig, 0, "k", "v");
    ring_publish(&rig.producer);
    cr_assert(sink_arm(&rig.sink), "there is work: do not sleep");
    sink_disarm(&rig.sink);
    cr_assert_eq(atomic_load(&rig.ring.page->waiting), 0);
    kill(redis.pid, SIGSTOP);
    RIG_UNTIL(&rig, 2000, rig.sink.line.flight.records == 1 && rig.last == STEP_BLOCKED);
    cr_assert(!sink_arm(&rig.sink), "only an answer can help");
    cr_assert_eq(atomic_load(&rig.ring.page->waiting), 0);
    kill(redis.pid, SIGCONT);
}

/* The process is killed with batches under way; whether Redis has them, nobody knows. */
Test(sink, successor_sends_again_from_the_oldest_unreleased_record_in_order) {
    char value[16];
    for (int i = 0; i < 20; i++) rig_add(&rig, 0, "k", "first");
    rig_run(&rig);
    for (int i = 0; i < 95; i++) {
        snprintf(value, sizeof value, "%d", i);
        rig_add(&rig, 0, "k", value);
    }
    ring_publish(&rig.producer);
    while (rig.sink.line.flight.records < 50) rig_step(&rig);
    uint64_t released = rig.ring.number_released;
    rig_crash(&rig);
    cr_assert_lt(released, 115);
    rig_attach(&rig);
    cr_assert_eq(rig.ring.number_released, released);
    cr_assert_eq(atomic_load(&rig.block.published), released);
    rig_run(&rig);
    redis_is(&redis, "94", "GET k");
    mark_is(&redis, "2 115 1 i1 -", RIG_MARK(0));
    cr_assert_eq(rig_released(&rig, 0), 115);
}

/* A sink that dies between the ledger and the ring leaves this: what follows from the ledger may be committed, and on a
 * machine that goes down while the first record is there again, the key would stay at it. */
Test(sink, successor_does_not_send_what_redis_has_acknowledged) {
    struct ring_consumer entries;
    struct ring_item item;
    struct err err;
    rig_audit(&rig, 1 << 20);
    redis_say(&redis, "EVAL %s 1 " RIG_MARK(0), "redis.call('SET',KEYS[1],'2 2 1 i1 -')");
    rig_add(&rig, 0, "k", "first");
    rig_add(&rig, 0, "k", "second");
    rig_add(&rig, 0, "other", "third");
    twin_store(&rig.ledger->slot[0].released, 1, 2);
    redis_say(&redis, "SET k witness");
    rig_run(&rig);
    redis_is(&redis, "witness", "GET k");
    redis_is(&redis, "third", "GET other");
    mark_is(&redis, "2 3 1 i1 -", RIG_MARK(0));
    cr_assert_eq(rig_released(&rig, 0), 3);
    cr_assert_eq(ring_consumer_attach(&entries, &rig.audit_fds, -1, &err), RING_ATTACHED);
    for (uint64_t n = 1; n <= 3; n++) {
        cr_assert_eq(ring_peek(&entries, &item, &err), RING_OK);
        cr_assert_eq(((const struct entry *)(const void *)item.body)->outcome, ENTRY_APPLIED);
    }
    ring_consumer_detach(&entries);
}

Test(sink, leaving_waits_for_answers_under_way_and_takes_nothing_new) {
    RIG_UNTIL(&rig, 2000, rig_state(&rig) == STATE_RUNNING);
    kill(redis.pid, SIGSTOP);
    for (int i = 0; i < 95; i++) rig_add(&rig, 0, "k", "v");
    ring_publish(&rig.producer);
    RIG_UNTIL(&rig, 2000, rig.sink.line.flight.records == 50);
    atomic_store(&rig.control.mode[0], CONTROL_LEAVE);
    cr_assert_neq(rig_step(&rig), STEP_DONE);
    kill(redis.pid, SIGCONT);
    RIG_UNTIL(&rig, 1500, rig.last == STEP_DONE);
    cr_assert_eq(rig.ring.number_released, 50);
    cr_assert_eq(rig_released(&rig, 0), 50);
}

Test(sink, leaving_does_not_wait_for_a_dead_redis) {
    RIG_UNTIL(&rig, 2000, rig_state(&rig) == STATE_RUNNING);
    kill(redis.pid, SIGSTOP);
    rig_add(&rig, 0, "k", "v");
    ring_publish(&rig.producer);
    RIG_UNTIL(&rig, 2000, rig.sink.line.flight.records == 1);
    rig.config.redis.response_timeout_ms = 60000;
    atomic_store(&rig.control.mode[0], CONTROL_LEAVE);
    RIG_UNTIL(&rig, 2500, rig.last == STEP_DONE);
    cr_assert_eq(rig.ring.number_released, 0);
    kill(redis.pid, SIGCONT);
}

/* Twenty-five records, of which the 24th (offset 23) has crashed the sink, up to where it waits for ingest. */
static void stand_before_poison(void) {
    char key[8];
    for (int i = 0; i < 25; i++) {
        snprintf(key, sizeof key, "k%d", i);
        rig_put(&rig, .op = RECORD_ADD, .key = key, .value = "v", .timestamp_ms = 1000 + i);
    }
    atomic_store(&rig.control.reject_number[0], 24);
    ring_publish(&rig.producer);
    RIG_UNTIL(&rig, 5000, atomic_load(&rig.block.state) == STATE_RECOVERING);
}

Test(sink, record_that_crashes_the_sink_is_noted_with_everything_before_it_released) {
    uint64_t epoch, offset;
    stand_before_poison();
    cr_assert_eq(rig.ring.number_released, 23);
    cr_assert_eq(rig_released(&rig, 0), 23);
    twin_load(&rig.ledger->slot[0].crashed, &epoch, &offset);
    cr_assert(epoch == 1 && offset == 23 && atomic_load(&rig.ledger->slot[0].crashed_ms) == 1023);
    cr_assert_str_eq(rig_reason(&rig), "offset 23 of cards/0 crashes the sink and is put aside");
    for (int i = 0; i < 20; i++) rig_step(&rig);
    cr_assert_eq(rig.ring.number_released, 23, "it waits for ingest");
    cr_assert_eq(atomic_load(&rig.block.state), STATE_RECOVERING);
}

Test(sink, record_that_crashes_the_sink_is_a_marker_when_its_epoch_has_passed) {
    stand_before_poison();
    atomic_store(&rig.plan->slot[0].start, 23);
    atomic_store(&rig.plan->slot[0].flags, LEDGER_ASSIGNED | LEDGER_REWOUND);
    atomic_store(&rig.plan->slot[0].epoch, 2);
    rig.next[0] = 23;
    rig_put(&rig, .op = RECORD_REJECT, .epoch = 2);
    rig_put(&rig, .op = RECORD_ADD, .key = "k24", .value = "again", .epoch = 2);
    rig_run(&rig);
    redis_is(&redis, "(nil)", "GET k23");
    redis_is(&redis, "again", "GET k24");
    cr_assert_eq(rig_released(&rig, 0), 25);
    cr_assert_eq(atomic_load(&rig.block.state), STATE_RUNNING);
}

Test(sink, record_that_crashes_the_sink_and_is_none_stops_the_lane) {
    rig_add(&rig, 0, "k", "v");
    memset(ring_reserve(&rig.producer, 50), 0xff, 50);
    ring_stage(&rig.producer, 50, RECORD_DATA);
    atomic_store(&rig.control.reject_number[0], 2);
    ring_publish(&rig.producer);
    RIG_UNTIL(&rig, 5000, rig.last == STEP_FAILED);
    cr_assert_eq(rig.ring.number_released, 1);
    cr_assert_str_eq(rig_reason(&rig), "record 2 crashes the sink, and does not say which one it is");
}

Test(sink, what_is_not_a_record_stops_the_lane) {
    void *at = ring_reserve(&rig.producer, 200);
    memset(at, 0x55, 200);
    ring_stage(&rig.producer, 200, RECORD_DATA);
    ring_publish(&rig.producer);
    RIG_UNTIL(&rig, 5000, rig.last == STEP_BROKEN);
    cr_assert_eq(rig.ring.number_released, 0);
}

Test(sink, a_partition_seen_for_the_first_time_gets_its_mark_before_its_records) {
    for (int i = 0; i < 5; i++) rig_add(&rig, 0, "k", "v");
    rig_run(&rig);
    rig.plan->slot[2].partition = 2;
    atomic_store(&rig.plan->slot[2].start, 1000);
    atomic_store(&rig.plan->slot[2].epoch, 1);
    atomic_store(&rig.plan->slot[2].flags, LEDGER_ASSIGNED | LEDGER_FIRST_START);
    atomic_store(&rig.plan->count, 3);
    rig.next[2] = 1000;
    for (int i = 0; i < 5; i++) rig_add(&rig, i % 2 ? 2 : 0, "k", "v");
    rig_run(&rig);
    mark_is(&redis, "2 1002 1 i1 -", RIG_MARK(2));
    cr_assert_eq(rig_released(&rig, 2), 1002);
}

Test(sink, marks_of_other_lanes_are_left_alone) {
    rig.config.lanes = 2;
    rig_add(&rig, 0, "k", "v");
    rig_run(&rig);
    rig_for(&rig, 1200); /* a look at all marks while idle, too */
    mark_is(&redis, "2 1 1 i1 -", RIG_MARK(0));
    redis_is(&redis, "(nil)", "GET " RIG_MARK(1));
}

Test(sink, latencies_are_counted_per_record_and_markers_left_out) {
    for (int i = 0; i < 7; i++) rig_add(&rig, 0, "k", "v");
    rig_put(&rig, .op = RECORD_REJECT, .partition = 0);
    rig_run(&rig);
    uint64_t n = 0, k = 0;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        n += rig.worker.local.histogram[H_sink_ingest_to_redis][i];
        k += rig.worker.local.histogram[H_sink_kafka_to_redis][i];
    }
    cr_assert_eq(n, 7);
    cr_assert_eq(k, 7);
}

/* What the sink tells audit: an entry for every number, once and in order, whatever dies or stands still, and nothing
 * released that has none. Against a real Redis. */
#include "sink/account.h"

#include <sysexits.h>

#include "shm/entry.h"
#include "tests/unit/sink/rig.h"

static struct rig_redis redis;
static struct rig rig;
static struct ring_consumer audit; /* the reading end */

static void start_with(uint64_t capacity) {
    struct err err = {0};
    redis_start(&redis, NULL);
    rig_init(&rig, &redis, 2);
    rig_ring(&rig, capacity);
    rig_audit(&rig, capacity);
    cr_assert_eq(ring_consumer_attach(&audit, &rig.audit_fds, -1, &err), RING_ATTACHED, "%s", err.text);
}
static void start(void) { start_with(1 << 20); }
static void start_small(void) { start_with(8192); }

static void stop(void) {
    rig_crash(&rig);
    redis_stop(&redis);
}

TestSuite(account, .init = start, .fini = stop, .timeout = 60);
TestSuite(account_small, .init = start_small, .fini = stop, .timeout = 60);

/* The next entry and its number, 0 when there is none; its content follows it in *content. */
static uint64_t entry_next(struct entry *e, const char **content) {
    struct err err = {0};
    struct ring_item item;
    enum ring_state state = ring_peek(&audit, &item, &err);
    cr_assert_neq(state, RING_BROKEN, "%s", err.text);
    if (state == RING_EMPTY) return 0;
    cr_assert_eq(item.type, RECORD_ENTRY);
    cr_assert_eq(entry_check(item.body, item.len), 0);
    memcpy(e, item.body, sizeof *e);
    if (content != NULL) *content = (const char *)item.body + sizeof *e;
    ring_release(&audit, item.end, item.number); /* the bytes stay readable: nobody writes meanwhile */
    return item.number;
}

static struct entry entry_expect(uint64_t number, enum entry_outcome outcome) {
    struct entry e;
    cr_assert_eq(entry_next(&e, NULL), number);
    cr_assert_str_eq(entry_outcome_name(e.outcome), entry_outcome_name(outcome), "of %llu", (unsigned long long)number);
    return e;
}

static bool all_are(const uint8_t digest[16], uint8_t byte) {
    for (int i = 0; i < 16; i++)
        if (digest[i] != byte) return false;
    return true;
}

/* -- what an entry says ------------------------------------------------------------------------ */

Test(account, entry_tells_what_became_of_its_record) {
    int64_t now = clock_wall_ms(&clock_real);
    rig_add(&rig, 0, "a", "1");
    rig_put(&rig, .op = RECORD_UPDATE, .partition = 1, .key = "longer", .old_key = "ab", .value = "2");
    rig_put(&rig, .op = RECORD_DELETE, .partition = 0, .key = "a");
    rig_put(&rig, .op = RECORD_ADD, .partition = 0, .key = "t", .value = "v", .expire_at_ms = now - 1);
    rig_put(&rig, .op = RECORD_ADD, .partition = 0, .key = "u", .value = "v", .expire_at_ms = now + 60000);
    rig_hash(&rig, 0, "h", "x=1 y=2");
    rig_put(&rig, .op = RECORD_REJECT, .partition = 0);
    rig_put(&rig, .op = RECORD_SKIP, .partition = 0);
    rig_put(&rig, .op = RECORD_ADD, .partition = 0, .key = "quiet", .value = "v", .untraced = true);
    rig_run(&rig);
    struct entry e = entry_expect(1, ENTRY_APPLIED);
    cr_assert(e.op == RECORD_ADD && e.partition == 0 && e.offset == 0 && e.epoch == 1 && e.reason == REASON_NONE);
    cr_assert(e.digest_algorithm == 1 && e.flags == (ENTRY_DECLARED | ENTRY_CREATED) && e.content_bytes == 0);
    cr_assert(all_are(e.digest_key, 1) && all_are(e.digest_old_key, 0) && all_are(e.digest_published, 0x20));
    cr_assert(all_are(e.digest_stored, 0x30) && all_are(e.load, 0x10) && all_are(e.id, 0));
    cr_assert(e.producer == 77 && e.sequence == 1 && e.created_ms == 1234 && e.published_bytes == 2);
    cr_assert(e.stored_bytes == 1 && e.expire_at_ms == 0 && e.timestamp_ms >= now);
    e = entry_expect(2, ENTRY_APPLIED);
    cr_assert(e.op == RECORD_UPDATE && e.partition == 1 && e.slot == 1 && (e.flags & ENTRY_KEY_CHANGED) != 0);
    cr_assert(all_are(e.digest_key, 6) && all_are(e.digest_old_key, 2));
    e = entry_expect(3, ENTRY_DELETED);
    cr_assert(e.offset == 1 && e.sequence == 2);
    e = entry_expect(4, ENTRY_EXPIRED);
    cr_assert_eq(e.expire_at_ms, now - 1);
    entry_expect(5, ENTRY_APPLIED);
    e = entry_expect(6, ENTRY_APPLIED);
    cr_assert_eq(e.flags & ENTRY_HASH, ENTRY_HASH);
    e = entry_expect(7, ENTRY_REJECTED);
    cr_assert_eq(e.reason, REASON_JSON_INVALID);
    e = entry_expect(8, ENTRY_NOTHING);
    cr_assert(!entry_logged(&e) && e.offset == 6, "audit's ledger goes on behind the end of the partition");
    e = entry_expect(9, ENTRY_NOTHING);
    cr_assert(!entry_logged(&e) && e.offset == 7);
    cr_assert_eq(entry_next(&e, NULL), 0);
    cr_assert_eq(atomic_load(&rig.block.published), 9);
    cr_assert_eq(rig_count(&rig, M_worker_ring_record_publish), 9);
}

Test(account, entry_says_that_its_record_was_refed_and_names_the_offset_it_has) {
    for (int i = 0; i < 3; i++) rig_add(&rig, 0, "a", "1");
    rig_run(&rig);
    rig.next[0] = 1;
    rig_put(&rig, .op = RECORD_ADD, .partition = 0, .key = "a", .value = "1", .flags = RECORD_REFED);
    rig_run(&rig);
    for (uint64_t i = 1; i <= 3; i++) cr_assert_eq(entry_expect(i, ENTRY_APPLIED).flags & ENTRY_REFED, 0);
    struct entry e = entry_expect(4, ENTRY_APPLIED);
    cr_assert((e.flags & ENTRY_REFED) != 0 && e.offset == 1);
    cr_assert_eq(rig_released(&rig, 0), 3);
}

Test(account, stages_of_an_entry_are_in_order_and_on_the_wall_clock) {
    int64_t before_us = clock_wall_ms(&clock_real) * 1000;
    for (int i = 0; i < 40; i++) rig_add(&rig, 0, "a", "1");
    rig_run(&rig);
    int64_t after_us = (clock_wall_ms(&clock_real) + 1) * 1000;
    struct entry e;
    for (int i = 0; i < 40; i++) {
        cr_assert_neq(entry_next(&e, NULL), 0);
        cr_assert(e.ingested_us >= before_us - 1000 && e.ingested_us <= after_us, "%lld in [%lld,%lld]",
                  (long long)e.ingested_us, (long long)before_us, (long long)after_us);
        cr_assert_eq(e.transformed_us, 5);
        cr_assert(e.sent_us > 0 && e.answered_us >= e.sent_us);
        cr_assert_leq(e.ingested_us + e.answered_us, after_us + 1000);
    }
}

Test(account, content_goes_along_but_not_with_what_is_read_again) {
    const char *content;
    struct entry e;
    rig_put(&rig, .op = RECORD_ADD, .partition = 0, .key = "a", .value = "1", .content = "sealed");
    rig_put(&rig, .op = RECORD_ADD, .partition = 0, .key = "b", .value = "1", .content = "old", .epoch = 9);
    rig_put(&rig, .op = RECORD_REJECT, .partition = 0, .content = "refused");
    rig_run(&rig);
    cr_assert_eq(entry_next(&e, &content), 1);
    cr_assert(e.content_bytes == 6 && memcmp(content, "sealed", 6) == 0 && e.bytes == sizeof e + 6);
    e = entry_expect(2, ENTRY_SKIPPED);
    cr_assert(!entry_logged(&e) && e.content_bytes == 0 && e.bytes == sizeof e);
    cr_assert_eq(entry_next(&e, &content), 3);
    cr_assert(e.content_bytes == 7 && memcmp(content, "refused", 7) == 0);
    redis_is(&redis, "(nil)", "GET b");
}

/* The partition is taken away between Redis's answer and the entry: audit had no room before. */
Test(account_small, partition_given_up_before_its_entry_is_skipped) {
    uint64_t n = 0;
    struct entry e;
    while (n < 100 && audit.number_released == 0) {
        while (rig_try(&rig, (struct rig_record){.op = RECORD_ADD, .key = "k", .value = "v"})) n++;
        ring_publish(&rig.producer);
        for (int i = 0; i < 20; i++) rig_step(&rig);
        if (rig.sink.line.stalled) break;
    }
    cr_assert(rig.sink.line.stalled);
    uint64_t told = rig.audit.number_published;
    atomic_store(&rig.plan->slot[0].epoch, 2);
    for (uint64_t k = 1; k <= told; k++) entry_expect(k, ENTRY_APPLIED);
    RIG_UNTIL(&rig, 3000, rig_done(&rig));
    for (uint64_t k = told + 1; k <= n; k++) {
        e = entry_expect(k, ENTRY_SKIPPED);
        cr_assert_eq(e.epoch, 1);
    }
}

/* … and when that happens after the line has last looked. */
Test(account, epoch_counts_that_is_there_when_the_entry_is_made) {
    struct err err = {0};
    struct ring_item item;
    struct account *a = &rig.sink.line.account;
    rig_add(&rig, 0, "a", "1");
    rig_add(&rig, 0, "a", "1");
    ring_publish(&rig.producer);
    for (uint64_t n = 1; n <= 2; n++) {
        cr_assert_eq(ring_peek(&rig.ring, &item, &err), RING_OK);
        account_sent(a, &(struct intake_item){.body = item.body, .len = item.len, .number = n, .epoch = 1});
        atomic_store(&rig.plan->slot[0].epoch, (uint32_t)n);
        cr_assert(account_stage(a, &(struct batch){.first = n, .last = n}));
    }
    account_publish(a);
    entry_expect(1, ENTRY_APPLIED);
    entry_expect(2, ENTRY_SKIPPED);
}

/* -- no room ----------------------------------------------------------------------------------- */

/* Puts plain records until the sink stands for want of room on the audit ring. Returns how many it put. */
static uint64_t fill(void) {
    uint64_t n = 0, end = clock_ns(&clock_real) + 5 * NS_PER_S;
    while (!rig.sink.line.stalled) {
        cr_assert_lt(clock_ns(&clock_real), end, "it never stood");
        while (rig_try(&rig, (struct rig_record){.op = RECORD_ADD, .partition = n % 2, .key = "k", .value = "v"})) n++;
        ring_publish(&rig.producer);
        rig_step(&rig);
    }
    return n;
}

Test(account_small, full_audit_ring_holds_the_line_and_loses_nothing) {
    struct entry e;
    rig.config.redis.response_timeout_ms = 300;
    uint64_t n = fill(), told = rig.audit.number_published;
    rig_for(&rig, 1500);
    cr_assert(rig_blocked_on(&rig, "audit ring"), "%s", rig_reason(&rig));
    cr_assert_eq(rig.audit.number_published, told);
    cr_assert_leq(rig.ring.number_released, told, "nothing is released that has no entry");
    cr_assert_leq(rig_released(&rig, 0) + rig_released(&rig, 1), told,
                  "nor is it in the ledger: after a loss ingest would wait for entries that never come");
    cr_assert_eq(atomic_load(&rig.block.published), told);
    cr_assert_eq(rig_count(&rig, M_sink_redis_connect), 1, "it is not Redis that is slow");
    cr_assert_eq(rig.last, STEP_BLOCKED);
    for (uint64_t number = 1; number <= n;) {
        if (entry_next(&e, NULL) == 0) {
            RIG_UNTIL(&rig, 3000, rig.audit.number_published >= number);
            continue;
        }
        cr_assert_eq(e.offset, (int64_t)(number - 1) / 2);
        number++;
    }
    RIG_UNTIL(&rig, 3000, rig_done(&rig) && rig_state(&rig) == STATE_RUNNING);
    cr_assert_eq(entry_next(&e, NULL), 0);
    cr_assert_eq(rig_count(&rig, M_sink_record_resent), 0);
}

/* The worker's loop: while it waits for room, answers of Redis do not wake it, and room does. */
Test(account_small, waits_for_room_without_spinning) {
    struct pollfd fds[2];
    struct entry e;
    int timeout_ms = 100;
    fill();
    while (rig_step(&rig) == STEP_BUSY) continue;
    cr_assert_not(sink_arm(&rig.sink));
    cr_assert_eq(sink_wants(&rig.sink, fds, 2, &timeout_ms), 0);
    cr_assert_eq(timeout_ms, 100);
    cr_assert_neq(atomic_load(&rig.audit.page->waiting), 0);
    sink_disarm(&rig.sink);
    cr_assert_eq(atomic_load(&rig.audit.page->waiting), 0);
    while (entry_next(&e, NULL) != 0) continue;
    cr_assert(sink_arm(&rig.sink), "there is room now");
    sink_disarm(&rig.sink);
}

Test(account_small, lost_connection_while_it_waits_gives_no_entry_twice) {
    struct entry e;
    uint64_t n = fill();
    redis_is(&redis, "1", "CLIENT KILL TYPE normal SKIPME yes");
    for (uint64_t number = 1; number <= n;) {
        uint64_t got = entry_next(&e, NULL);
        cr_assert(got == 0 || got == number);
        if (got == 0)
            rig_step(&rig);
        else
            number++;
    }
    RIG_UNTIL(&rig, 5000, rig_done(&rig));
    cr_assert_eq(entry_next(&e, NULL), 0);
}

/* -- deaths ------------------------------------------------------------------------------------ */

enum { NUMBERS = 4000 };
struct made { /* what was put under a number */
    int64_t offset;
    uint8_t partition, outcome;
};
static struct made made[NUMBERS + 1];
static uint64_t put_last, told_last;

/* Some records of all kinds, as many as there is room for. */
static void feed(void) {
    for (int i = rand() % 8; i > 0 && put_last < NUMBERS; i--) {
        static const struct {
            struct rig_record r;
            enum entry_outcome outcome;
        } kinds[] = {{{.op = RECORD_ADD, .key = "k", .value = "v"}, ENTRY_APPLIED},
                     {{.op = RECORD_ADD, .key = "k", .value = "v", .content = "sealed"}, ENTRY_APPLIED},
                     {{.op = RECORD_DELETE, .key = "k"}, ENTRY_DELETED},
                     {{.op = RECORD_UPDATE, .key = "k", .old_key = "j", .value = "v"}, ENTRY_APPLIED},
                     {{.op = RECORD_ADD, .key = "k", .value = "v", .expire_at_ms = 1}, ENTRY_EXPIRED},
                     {{.op = RECORD_REJECT}, ENTRY_REJECTED},
                     {{.op = RECORD_SKIP}, ENTRY_NOTHING},
                     {{.op = RECORD_ADD, .key = "k", .value = "v", .epoch = 7}, ENTRY_SKIPPED}};
        size_t kind = (size_t)rand() % (sizeof kinds / sizeof kinds[0]);
        struct rig_record r = kinds[kind].r;
        r.partition = (uint32_t)rand() % 2;
        int64_t offset = rig.next[r.partition];
        if (!rig_try(&rig, r)) break;
        made[++put_last] = (struct made){offset, (uint8_t)r.partition, (uint8_t)kinds[kind].outcome};
    }
    ring_publish(&rig.producer);
}

/* Audit takes some; each has to be the next one, and what was put under its number. */
static void hear(int most) {
    struct entry e;
    uint64_t number;
    for (int i = 0; i < most && (number = entry_next(&e, NULL)) != 0; i++) {
        const struct made *m = &made[number];
        cr_assert_eq(number, ++told_last);
        cr_assert(e.offset == m->offset && e.partition == m->partition, "number %llu", (unsigned long long)number);
        cr_assert_str_eq(entry_outcome_name(e.outcome), entry_outcome_name(m->outcome));
    }
    struct ring_snapshot in, out;
    struct err err = {0};
    cr_assert_eq(ring_observe(&rig.fds, &in, &err), RING_ATTACHED, "%s", err.text);
    cr_assert_eq(ring_observe(&rig.audit_fds, &out, &err), RING_ATTACHED, "%s", err.text);
    cr_assert_leq(in.released, out.published, "released without an entry");
}

static void hear_all(void) {
    uint64_t end = clock_ns(&clock_real) + 20 * NS_PER_S;
    while (told_last < put_last) {
        cr_assert_lt(clock_ns(&clock_real), end, "%llu of %llu", (unsigned long long)told_last,
                     (unsigned long long)put_last);
        rig_step(&rig);
        hear(1000);
    }
    RIG_UNTIL(&rig, 3000, rig_done(&rig));
}

Test(account_small, sink_that_dies_between_steps_tells_of_every_number_once) {
    srand(11);
    for (int death = 0; death < 150; death++) {
        for (int steps = rand() % 25; steps > 0; steps--) {
            feed();
            rig_step(&rig);
            if (rand() % 3 == 0) hear(rand() % 20);
        }
        rig_crash(&rig);
        rig_attach(&rig);
        cr_assert_eq(rig.audit.number, rig.audit.number_published);
    }
    hear_all();
    cr_assert_gt(put_last, 1000);
}

Test(account, record_that_has_crashed_the_sink_has_an_entry_and_is_not_parsed_for_it) {
    struct record head = {.op = RECORD_ADD, .epoch = 1, .value_bytes = 99}; /* lengths that do not add up */
    memcpy(ring_reserve(&rig.producer, sizeof head), &head, sizeof head);
    ring_stage(&rig.producer, sizeof head, RECORD_DATA);
    atomic_store(&rig.control.reject_number[0], 1);
    ring_publish(&rig.producer);
    RIG_UNTIL(&rig, 5000, atomic_load(&rig.block.state) == STATE_RECOVERING);
    atomic_store(&rig.plan->slot[0].flags, LEDGER_ASSIGNED | LEDGER_REWOUND);
    atomic_store(&rig.plan->slot[0].epoch, 2);
    rig_put(&rig, .op = RECORD_REJECT, .epoch = 2);
    rig_run(&rig);
    entry_expect(1, ENTRY_SKIPPED);
    cr_assert_eq(entry_expect(2, ENTRY_REJECTED).offset, 0);
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

Test(account_small, sink_that_is_killed_at_any_instruction_tells_of_every_number_once) {
    srand(13);
    rig_crash(&rig);
    for (int death = 0; death < 120; death++) {
        pid_t pid = sink_spawn();
        uint64_t until = clock_ns(&clock_real) + (uint64_t)(2000 + rand() % 10000) * 1000;
        while (clock_ns(&clock_real) < until) {
            feed();
            hear(rand() % 30);
            usleep((useconds_t)(rand() % 300));
        }
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    rig_attach(&rig);
    hear_all();
    cr_assert_gt(put_last, 500);
}

/* -- rings that do not fit --------------------------------------------------------------------- */

Test(account, refuses_rings_that_do_not_belong_together) {
    struct account a;
    struct err err = {0};
    struct ring_producer small = {.capacity = rig.ring.capacity / 2};
    cr_assert_eq(account_init(&a, &small, &rig.ring, rig.plan, &clock_real, 10, &err), -1);
    cr_assert_eq(err.code, EX_SOFTWARE);
    struct ring_producer behind = {.capacity = rig.ring.capacity, .number = 4};
    rig.ring.number_released = 5;
    cr_assert_eq(account_init(&a, &behind, &rig.ring, rig.plan, &clock_real, 10, &err), -1);
    cr_assert_eq(err.code, EX_DATAERR);
    rig.ring.number_released = 0;
    rig_add(&rig, 0, "a", "1");
    struct ring_producer beyond = {.capacity = rig.ring.capacity, .number = 1000};
    err.code = 0;
    cr_assert_eq(account_init(&a, &beyond, &rig.ring, rig.plan, &clock_real, 10, &err), -1);
    cr_assert_eq(err.code, EX_DATAERR);
}

/* Refeeds: chosen records are passed on once more, and nothing else; what follows them follows again; whoever dies.
 *
 * The sources of the ring and of ingest belong to this program, with a place to die before each store. */
#include <setjmp.h>

#include "base/refeed_request.h"
#include "tests/unit/ingest/help.h"

static struct {
    bool armed;
    int64_t countdown; /* places passed before it dies */
    jmp_buf end;
} life;

static void place_to_die(void) {
    if (!life.armed || life.countdown-- > 0) return;
    life.armed = false;
    longjmp(life.end, 1);
}

#undef atomic_store_explicit
#define atomic_store_explicit(object, value, order)                                                                    \
    __extension__({                                                                                                    \
        place_to_die();                                                                                                \
        __auto_type object_ = (object);                                                                                \
        __typeof__((void)0, *object_) value_ = (value);                                                                \
        __atomic_store(object_, &value_, order);                                                                       \
    })
#include "shm/ring.c"
#include "ingest/assignment.c"
#include "ingest/commit.c"
#include "ingest/lease.c"
#include "ingest/refeed.c"

enum { RING = 65536 };

/* -- asking, and the other ends ---------------------------------------------------------------- */

/* The sink finds the marks of new epochs in order. */
static void establish(struct bench *b) {
    uint32_t n = atomic_load(&b->ledger->count), epoch;
    for (uint32_t i = 0; i < n; i++) {
        const struct ledger_ingest_slot *s = &b->ledger->slot[i];
        if ((atomic_load(&s->flags) & LEDGER_ASSIGNED) == 0) continue;
        released_of(b, i, &epoch);
        if (epoch == atomic_load(&s->epoch)) continue;
        twin_store(&b->sink[ledger_lane(s->partition, b->config.lanes)]->slot[i].released, atomic_load(&s->epoch),
                   (uint64_t)atomic_load(&s->start));
    }
}

/* n partitions with so many messages, all of them read, applied and committed. */
static struct bench *bench_applied(uint32_t lanes, int partitions, int messages) {
    struct bench *b = bench_reading(lanes, RING, partitions, messages);
    settle(b);
    establish(b);
    while (apply_all(b) > 0) settle(b);
    pass_ms(b, 1000);
    settle(b);
    for (int i = 0; i < partitions; i++) cr_assert_eq(b->kafka.partition[i].committed, messages);
    return b;
}

struct want {
    const char *topic;
    int32_t partition;
    int64_t until;
    int64_t offset[8]; /* ended by -1 */
};

static const char *ask(struct bench *b, const struct want *w, size_t n) {
    static char id[REFEED_ID_BYTES];
    struct refeed_request *r = refeed_request_new();
    struct err err = {0};
    for (size_t i = 0; i < n; i++) {
        cr_assert_eq(refeed_request_until(r, w[i].topic, w[i].partition, w[i].until, &err), 0, "%s", err.text);
        for (const int64_t *o = w[i].offset; *o >= 0; o++)
            cr_assert_eq(refeed_request_add(r, w[i].topic, w[i].partition, *o, &err), 0, "%s", err.text);
    }
    cr_assert_eq(refeed_request_write(r, b->folder, id, &err), 0, "%s", err.text);
    refeed_request_free(r);
    atomic_fetch_add(&b->control->refeed, 1);
    return id;
}

static struct refeed_result result_of(struct bench *b, const char *id) {
    struct refeed_result r;
    struct err err = {0};
    cr_assert_eq(refeed_result_read(b->folder, id, &r, &err), 1, "no result: %s", err.text);
    return r;
}

static bool told(struct bench *b, const char *id) {
    struct refeed_result r;
    struct err err = {0};
    int there = refeed_result_read(b->folder, id, &r, &err);
    cr_assert_geq(there, 0, "%s", err.text);
    if (there == 1) refeed_result_free(&r);
    return there == 1;
}

static void expect_refed(struct bench *b, uint32_t lane, int32_t partition, int64_t offset, uint32_t epoch) {
    struct taken t = expect_record(b, lane, 0, partition, offset);
    cr_assert((t.head.flags & RECORD_REFED) != 0 && t.head.epoch == epoch, "offset %lld, flags %x, epoch %u",
              (long long)offset, t.head.flags, t.head.epoch);
}

static void expect_live(struct bench *b, uint32_t lane, int32_t partition, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i++)
        cr_assert_eq(expect_record(b, lane, 0, partition, i).head.flags & RECORD_REFED, 0);
}

static void expect_state(struct bench *b, const char *id, enum refeed_state state, const char *reason) {
    struct refeed_result r = result_of(b, id);
    cr_assert(r.partitions >= 1 && r.partition[0].state == state, "%s", r.reason);
    cr_assert(strstr(r.reason, reason) != NULL && (reason[0] != 0 || r.reason[0] == 0), "%s", r.reason);
    refeed_result_free(&r);
}

/* -- what is passed on ------------------------------------------------------------------------- */

Test(refeed, passes_on_what_was_chosen_and_everything_from_until_on) {
    struct bench *b = bench_applied(1, 1, 100);
    struct sim_partition *p = &b->kafka.partition[0];
    const char *id = ask(b, &(struct want){"bulk", 0, 90, {5, 17, 40, -1}}, 1);
    settle(b);
    cr_assert(epoch_of(b, 0, 0) == 2 && p->committed == 90, "committed %lld", (long long)p->committed);
    cr_assert(!p->note.rewound && p->note.run == b->control->run, "nothing was lost");
    cr_assert_eq(atomic_load(&ledger_of(b, 0, 0)->flags), LEDGER_ASSIGNED | LEDGER_MARKED | LEDGER_REFEED);
    establish(b);
    expect_refed(b, 0, 0, 5, 2);
    expect_refed(b, 0, 0, 17, 2);
    settle(b);
    cr_assert(!told(b, id));
    expect_refed(b, 0, 0, 40, 2);
    expect_nothing(b, 0);
    settle(b);
    expect_live(b, 0, 0, 90, 100);
    expect_nothing(b, 0);
    struct refeed_result r = result_of(b, id);
    const struct refeed_outcome *o = r.partition;
    cr_assert(r.partitions == 1 && o->state == REFEED_DONE && o->asked == 3 && o->fed == 3 && o->covered == 0 &&
                  o->from == 90 && r.missing == 0,
              "%s", r.reason);
    refeed_result_free(&r);
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(p->committed, 100);
    cr_assert(counted(b, M_ingest_refeed) == 1 && counted(b, M_ingest_record_refeed) == 3);
    cr_assert_eq(counted(b, M_ingest_partition_rewind), 0, "Redis has lost nothing");
    cr_assert_eq(b->kafka.held, 0);
    bench_drop(b);
}

Test(refeed, that_knows_everything_needs_no_new_epoch) {
    struct bench *b = bench_applied(1, 1, 50);
    uint64_t seed = 5;
    const char *id = ask(b, &(struct want){"bulk", 0, 4000, {3, 49, -1}}, 1);
    settle(b);
    cr_assert_eq(epoch_of(b, 0, 0), 1);
    expect_refed(b, 0, 0, 3, 1);
    expect_refed(b, 0, 0, 49, 1);
    expect_nothing(b, 0);
    settle(b);
    sim_fill(&b->kafka.partition[0], 5, 0, &seed);
    settle(b);
    expect_live(b, 0, 0, 50, 55);
    expect_state(b, id, REFEED_DONE, "");
    bench_drop(b);
}

/* The latest record of a key may stand in another partition, of another topic even: nothing from `until` on, of any of
 * them, comes before all that was chosen is in Redis. Partitions that are not in the request go on meanwhile. */
Test(refeed, holds_all_its_partitions_until_redis_has_what_was_chosen) {
    struct bench *b = bench_applied(2, 3, 60);
    uint64_t seed = 5;
    const struct want want[] = {{"bulk", 0, 58, {7, -1}}, {"bulk", 1, 57, {-1}}};
    ask(b, want, 2);
    settle(b);
    establish(b);
    for (int i = 0; i < 3; i++) sim_fill(&b->kafka.partition[i], 2, 0, &seed);
    settle(b);
    cr_assert(b->kafka.partition[0].committed == 58 && b->kafka.partition[1].committed == 57);
    struct taken t;
    bool refed = false;
    int live = 0;
    for (int i = 0; i < 20; i++) {
        settle(b);
        for (uint32_t lane = 0; lane < 2; lane++)
            while (take_next(b, lane, &t)) {
                bool held = t.head.epoch == 2 && t.head.partition < 2;
                if ((t.head.flags & RECORD_REFED) != 0)
                    refed = true;
                else if (held)
                    cr_assert(refed, "%d@%lld overtakes", t.head.partition, (long long)t.head.offset);
                live += t.head.partition == 2;
                release(b, lane, &t);
            }
    }
    cr_assert(refed && live == 2);
    cr_assert(released_of(b, 0, NULL) == 62 && released_of(b, 1, NULL) == 62);
    bench_drop(b);
}

Test(refeed, waits_for_redis_in_every_lane) {
    struct bench *b = bench_applied(2, 2, 60);
    const struct want want[] = {{"bulk", 0, 58, {7, -1}}, {"bulk", 1, 57, {9, -1}}};
    const char *id = ask(b, want, 2);
    settle(b);
    establish(b);
    expect_refed(b, 0, 0, 7, 2);
    settle(b);
    expect_nothing(b, 0);
    expect_refed(b, 1, 1, 9, 2);
    settle(b);
    expect_live(b, 0, 0, 58, 60);
    expect_live(b, 1, 1, 57, 60);
    expect_state(b, id, REFEED_DONE, "");
    bench_drop(b);
}

Test(refeed, tells_of_each_record_that_is_not_there) {
    struct bench *b = bench_applied(1, 1, 50);
    struct sim_partition *p = &b->kafka.partition[0];
    uint64_t seed = 5;
    sim_gap(p, 3); /* compacted: 50, 51, 52 */
    sim_fill(p, 7, 0, &seed);
    settle(b);
    while (apply_all(b) > 0) settle(b);
    p->low = 20;
    const char *id = ask(b, &(struct want){"bulk", 0, 1000, {5, 19, 20, 51, 55, 60, 999, -1}}, 1);
    settle(b);
    expect_refed(b, 0, 0, 20, 1);
    expect_refed(b, 0, 0, 55, 1);
    settle(b);
    struct refeed_result r = result_of(b, id);
    static const struct {
        int64_t offset;
        bool gone;
    } miss[] = {{5, true}, {19, true}, {60, false}, {999, false}, {51, false}};
    cr_assert(r.missing == 5 && r.partition[0].fed == 2 && r.partition[0].asked == 7);
    for (uint32_t i = 0; i < 5; i++)
        cr_assert(r.miss[i].offset == miss[i].offset && r.miss[i].gone == miss[i].gone, "%lld",
                  (long long)r.miss[i].offset);
    refeed_result_free(&r);
    bench_drop(b);
}

Test(refeed, of_the_last_offsets_that_were_compacted_comes_to_an_end) {
    struct bench *b = bench_applied(1, 1, 50);
    sim_gap(&b->kafka.partition[0], 3);
    settle(b);
    cr_assert_eq(apply_all(b), 1, "the marker of the end");
    const char *id = ask(b, &(struct want){"bulk", 0, 53, {51, 52, -1}}, 1);
    settle(b);
    struct refeed_result r = result_of(b, id);
    cr_assert(r.missing == 2 && r.partition[0].state == REFEED_DONE && r.partition[0].fed == 0);
    refeed_result_free(&r);
    expect_nothing(b, 0);
    bench_drop(b);
}

Test(refeed, says_which_partitions_are_not_its_own) {
    struct bench *b = bench_applied(1, 1, 50);
    const struct want want[] = {{"bulk", 9, 5, {1, -1}}, {"nowhere", 0, 5, {1, -1}}, {"bulk", 0, 50, {1, -1}}};
    const char *id = ask(b, want, 3);
    settle(b);
    expect_refed(b, 0, 0, 1, 1);
    settle(b);
    struct refeed_result r = result_of(b, id);
    cr_assert(r.partition[0].state == REFEED_ELSEWHERE && r.partition[0].from == -1);
    cr_assert(r.partition[1].state == REFEED_UNKNOWN && r.partition[2].state == REFEED_DONE);
    refeed_result_free(&r);
    bench_drop(b);
}

Test(refeed, jumps_over_what_is_far_from_the_next_one) {
    struct bench *b = bench_make(1, RING);
    struct sim_partition *p = sim_partition_add(&b->kafka, 0, 0);
    for (int64_t i = 0; i < 10; i++) sim_put(p, i, 10, 4);
    for (int64_t i = 50000; i < 50010; i++) sim_put(p, i, 10, 4);
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    establish(b);
    apply_all(b);
    uint32_t before = p->fetched;
    ask(b, &(struct want){"bulk", 0, 50010, {2, 50005, -1}}, 1);
    pass_ms(b, 1000);
    settle(b);
    expect_refed(b, 0, 0, 2, 1);
    expect_refed(b, 0, 0, 50005, 1);
    cr_assert_leq(p->fetched - before, 3, "%u", p->fetched - before);
    cr_assert_eq(p->seeks, 2);
    cr_assert_eq(b->kafka.held, 0);
    bench_drop(b);
}

Test(refeed, of_a_record_too_large_for_a_ring_is_a_marker_that_moves_nothing) {
    struct bench *b = bench_make(1, RING);
    struct sim_partition *p = sim_partition_add(&b->kafka, 0, 0);
    uint64_t seed = 3;
    sim_fill(p, 5, 0, &seed);
    sim_put(p, 5, 20000, 4);
    sim_fill(p, 5, 0, &seed);
    ingest_starts(b);
    sim_give(&b->kafka, 1);
    settle(b);
    establish(b);
    apply_all(b);
    pass_ms(b, 1000);
    settle(b);
    const char *id = ask(b, &(struct want){"bulk", 0, 11, {5, -1}}, 1);
    settle(b);
    struct taken t = expect_record(b, 0, 0, 0, 5);
    cr_assert(t.head.op == RECORD_REJECT && (t.head.flags & RECORD_REFED) != 0);
    settle(b);
    expect_state(b, id, REFEED_DONE, "");
    struct kept *k = kept_read(b->folder);
    cr_assert(k->count == 1 && counted(b, M_ingest_reject_repeat) == 1, "it was stored already");
    bench_drop(b);
}

/* The record was dealt with when the partition came to it. */
Test(refeed, of_a_record_that_is_rejected_again_takes_no_commit_back) {
    struct bench *b = bench_applied(1, 1, 50);
    ask(b, &(struct want){"bulk", 0, 50, {5, -1}}, 1);
    settle(b);
    struct taken t;
    cr_assert(take_next(b, 0, &t) && t.head.offset == 5);
    b->config.rejects.max_bytes = b->g->store.max_bytes = 0; /* it stays on its ring */
    reject(b, 0, &t.head, 10);
    release(b, 0, &t);
    pass_ms(b, 1000);
    settle(b);
    cr_assert_eq(b->kafka.partition[0].committed, 50);
    bench_drop(b);
}

/* -- when ------------------------------------------------------------------------------------- */

Test(refeed, passes_nothing_on_before_the_broker_knows_where_it_went_back_to) {
    struct bench *b = bench_applied(1, 1, 50);
    b->kafka.answer = ANSWER_FAILS;
    const char *id = ask(b, &(struct want){"bulk", 0, 45, {5, -1}}, 1);
    for (int i = 0; i < 20; i++) {
        pass_ms(b, 1000);
        settle(b);
        establish(b);
    }
    cr_assert_eq(epoch_of(b, 0, 0), 2);
    expect_nothing(b, 0);
    b->kafka.answer = ANSWER_OK;
    pass_ms(b, 1000);
    settle(b);
    expect_refed(b, 0, 0, 5, 2);
    settle(b);
    expect_live(b, 0, 0, 45, 50);
    expect_state(b, id, REFEED_DONE, "");
    bench_drop(b);
}

Test(refeed, waits_until_what_was_read_is_applied_and_lets_go_when_that_takes_long) {
    struct bench *b = bench_applied(1, 1, 50);
    uint64_t seed = 5;
    sim_fill(&b->kafka.partition[0], 3, 0, &seed);
    settle(b);
    const char *id = ask(b, &(struct want){"bulk", 0, 45, {5, -1}}, 1);
    settle(b);
    cr_assert_eq(epoch_of(b, 0, 0), 1, "three records are on their way");
    sim_fill(&b->kafka.partition[0], 2, 0, &seed);
    settle(b);
    expect_live(b, 0, 0, 50, 52);
    settle(b);
    struct taken t;
    cr_assert(take_next(b, 0, &t) && t.head.offset == 52);
    expect_nothing(b, 0); /* 53 and 54 are held */
    pass_ms(b, 10001);
    settle(b);
    cr_assert(take_next(b, 0, &t) && t.head.offset == 53, "it was let go");
    ring_rewind(&b->in[0]);
    expect_live(b, 0, 0, 52, 55);
    pass_ms(b, 5001);
    settle(b);
    establish(b);
    expect_refed(b, 0, 0, 5, 2);
    settle(b);
    expect_live(b, 0, 0, 45, 55);
    expect_state(b, id, REFEED_DONE, "");
    bench_drop(b);
}

Test(refeed, that_never_finds_quiet_is_given_up) {
    struct bench *b = bench_applied(1, 1, 50);
    uint64_t seed = 5;
    const char *id = ask(b, &(struct want){"bulk", 0, 45, {5, -1}}, 1);
    sim_fill(&b->kafka.partition[0], 30, 0, &seed);
    step(b);
    for (int i = 0; i < 40 && !told(b, id); i++) {
        pass_ms(b, 5001);
        settle(b);
    }
    expect_state(b, id, REFEED_ENDED, "not applied yet");
    settle(b);
    expect_live(b, 0, 0, 50, 80);
    expect_nothing(b, 0);
    bench_drop(b);
}

Test(refeed, ends_when_the_partition_is_taken_away) {
    struct bench *b = bench_applied(1, 2, 50);
    const struct want want[] = {{"bulk", 0, 45, {5, -1}}, {"bulk", 1, 44, {5, -1}}};
    const char *id = ask(b, want, 2);
    settle(b);
    establish(b);
    sim_take_away(&b->kafka, false);
    settle(b);
    sim_give(&b->kafka, 2); /* the second one comes back */
    settle(b);
    establish(b);
    for (int i = 0; i < 5; i++) {
        settle(b);
        apply_all(b);
        establish(b);
    }
    struct refeed_result r = result_of(b, id);
    cr_assert(r.partition[0].state != REFEED_DONE && r.partition[1].state == REFEED_DONE, "%s", r.reason);
    refeed_result_free(&r);
    cr_assert_eq(released_of(b, slot_at(b, 0, 1), NULL), 50);
    bench_drop(b);
}

Test(refeed, begins_again_when_redis_loses_writes_meanwhile) {
    struct bench *b = bench_applied(1, 1, 50);
    const char *id = ask(b, &(struct want){"bulk", 0, 45, {5, 6, -1}}, 1);
    settle(b);
    establish(b);
    expect_refed(b, 0, 0, 5, 2);
    twin_store(&b->sink[0]->slot[0].lost, 2, 30);
    settle(b);
    cr_assert_eq(epoch_of(b, 0, 0), 3);
    cr_assert_eq(atomic_load(&ledger_of(b, 0, 0)->start), 30);
    struct taken t;
    cr_assert(take_next(b, 0, &t) && t.head.epoch == 2);
    release(b, 0, &t);
    twin_store(&b->sink[0]->slot[0].lost, 0, 0);
    establish(b);
    cr_assert(!told(b, id));
    for (int i = 0; i < 5; i++) {
        settle(b);
        while (take_next(b, 0, &t)) release(b, 0, &t);
        establish(b);
    }
    struct refeed_result r = result_of(b, id);
    cr_assert(r.partition[0].state == REFEED_DONE && r.partition[0].fed == 2 && r.partition[0].from == 45);
    refeed_result_free(&r);
    cr_assert_eq(released_of(b, 0, NULL), 50);
    bench_drop(b);
}

/* Nothing is repaired at the cost of the live records. */
Test(refeed, of_what_cannot_be_read_is_given_up) {
    for (int code = 1; code <= 2; code++) {
        struct bench *b = bench_applied(1, 1, 50);
        struct sim_partition *p = &b->kafka.partition[0];
        const char *id = ask(b, &(struct want){"bulk", 0, 45, {5, 6, -1}}, 1);
        while (b->g->refeed.phase != REFEED_COMMIT) step(b);
        for (int i = 0; i < 12 && !told(b, id); i++) {
            p->fail_code = code;
            settle(b);
            establish(b);
            apply_all(b);
            pass_ms(b, 7000);
        }
        p->fail_code = 0;
        expect_state(b, id, REFEED_ENDED, "fetch failed");
        for (int i = 0; i < 3; i++) {
            pass_ms(b, 7000);
            settle(b);
            apply_all(b);
        }
        cr_assert_eq(released_of(b, 0, NULL), 50);
        cr_assert(!b->g->partition[0].waits && !loss_stands(b->g, 0) && b->g->trouble[0] == 0);
        bench_drop(b);
    }
}

Test(refeed, whose_until_is_below_what_kafka_has_is_refused) {
    struct bench *b = bench_applied(1, 1, 50);
    b->kafka.partition[0].low = 30;
    const char *id = ask(b, &(struct want){"bulk", 0, 29, {5, -1}}, 1);
    settle(b);
    expect_state(b, id, REFEED_ENDED, "no longer has what follows");
    cr_assert_eq(epoch_of(b, 0, 0), 1);
    expect_nothing(b, 0);
    bench_drop(b);
}

Test(refeed, asks_the_broker_again_and_gives_up_after_a_minute) {
    for (int fails = 3; fails <= 1000; fails += 997) {
        struct bench *b = bench_applied(1, 1, 50);
        b->kafka.watermarks_fail = fails;
        const char *id = ask(b, &(struct want){"bulk", 0, 50, {5, -1}}, 1);
        for (int i = 0; i < 150; i++) {
            settle(b);
            apply_all(b);
            pass_ms(b, 500);
        }
        settle(b);
        expect_state(b, id, fails == 3 ? REFEED_DONE : REFEED_ENDED, fails == 3 ? "" : "no answer");
        bench_drop(b);
    }
}

/* -- requests ---------------------------------------------------------------------------------- */

Test(refeed, requests_are_carried_out_one_after_the_other) {
    struct bench *b = bench_applied(1, 1, 50);
    char first[REFEED_ID_BYTES];
    snprintf(first, sizeof first, "%s", ask(b, &(struct want){"bulk", 0, 50, {5, -1}}, 1));
    usleep(2000);
    const char *second = ask(b, &(struct want){"bulk", 0, 50, {3, -1}}, 1);
    settle(b);
    expect_refed(b, 0, 0, 5, 1);
    expect_nothing(b, 0);
    settle(b);
    cr_assert(told(b, first) && !told(b, second));
    expect_refed(b, 0, 0, 3, 1);
    settle(b);
    cr_assert(told(b, second));
    bench_drop(b);
}

Test(refeed, a_file_that_is_no_request_is_answered) {
    struct bench *b = bench_applied(1, 1, 50);
    const char *id = ask(b, &(struct want){"bulk", 0, 50, {5, -1}}, 1);
    char path[PATH_BYTES + 64];
    refeed_path(path, b->folder, id, "refeed");
    FILE *f = fopen(path, "w");
    cr_assert(f != NULL && fputs("rubbish", f) >= 0 && fclose(f) == 0);
    settle(b);
    struct refeed_result r = result_of(b, id);
    cr_assert(r.partitions == 0 && strstr(r.reason, "not a refeed request") != NULL, "%s", r.reason);
    refeed_result_free(&r);
    expect_nothing(b, 0);
    bench_drop(b);
}

Test(refeed, other_files_in_the_folder_are_left_alone) {
    struct bench *b = bench_applied(1, 1, 50);
    const char *id = ask(b, &(struct want){"bulk", 0, 50, {5, -1}}, 1);
    static const char *const name[] = {
        "x",        "0123456789abcdef",        "0123456789abcdef.new", "0123456789ABCDEF.refeed",
        "..refeed", "0000000000000000.refeeds"};
    for (size_t i = 0; i < sizeof name / sizeof name[0]; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/refeed/%s", b->folder, name[i]);
        cr_assert_eq(close(open(path, O_CREAT | O_WRONLY, 0600)), 0);
    }
    settle(b);
    expect_refed(b, 0, 0, 5, 1);
    settle(b);
    expect_state(b, id, REFEED_DONE, "");
    cr_assert_eq(counted(b, M_ingest_refeed), 1);
    bench_drop(b);
}

Test(refeed, a_result_that_cannot_be_written_is_written_later) {
    struct bench *b = bench_applied(1, 1, 50);
    const char *id = ask(b, &(struct want){"bulk", 0, 50, {5, -1}}, 1);
    settle(b);
    char taken[128];
    snprintf(taken, sizeof taken, "%s/refeed/%s.new", b->folder, id);
    cr_assert_eq(mkdir(taken, 0700), 0);
    expect_refed(b, 0, 0, 5, 1);
    settle(b);
    cr_assert(!told(b, id));
    cr_assert_eq(rmdir(taken), 0);
    pass_ms(b, 1000);
    settle(b);
    cr_assert(told(b, id));
    bench_drop(b);
}

/* -- deaths ------------------------------------------------------------------------------------ */

enum { PARTITIONS = 3, KEYS = 7, MESSAGES = 60 };

/* What Redis has: the offset that a key was written from, -1 none. The keys of a partition are its own. */
static struct {
    struct bench *b;
    int64_t redis[PARTITIONS][KEYS], newest[PARTITIONS][KEYS];
} world;

static void before_call(void *context, const char *call) {
    (void)context;
    (void)call;
    place_to_die();
}

static void world_apply(void) {
    struct bench *b = world.b;
    struct taken t;
    for (uint32_t lane = 0; lane < b->config.lanes; lane++)
        while (take_next(b, lane, &t)) {
            uint32_t epoch = atomic_load(&b->ledger->slot[t.head.slot].epoch);
            if (t.head.epoch == epoch && t.head.op == RECORD_RAW)
                world.redis[t.head.partition][t.head.offset % KEYS] = t.head.offset;
            release(b, lane, &t);
        }
    establish(b);
}

static void world_publish(int32_t partition, int n) {
    uint64_t seed = 7;
    struct sim_partition *p = &world.b->kafka.partition[partition];
    for (int i = 0; i < n; i++) {
        world.newest[partition][p->end % KEYS] = p->end;
        sim_fill(p, 1, 0, &seed);
    }
}

static const char *world_make(void) {
    struct bench *b = world.b = bench_make(2, RING);
    memset(world.redis, -1, sizeof world.redis);
    for (int32_t i = 0; i < PARTITIONS; i++) {
        sim_partition_add(&b->kafka, 0, i);
        world_publish(i, MESSAGES);
    }
    ingest_starts(b);
    sim_give(&b->kafka, UINT64_MAX);
    for (int i = 0; i < 5; i++) {
        settle(b);
        world_apply();
        pass_ms(b, 1000);
    }
    settle(b);
    /* Keys 1 and 4 of two partitions are wrong; what is known of them ends before the last records of theirs. */
    static const struct want want[] = {
        {"bulk", 0, 55, {50, 53, -1}}, {"bulk", 1, 60, {53, 57, -1}}, {"bulk", 2, 50, {-1}}};
    for (int32_t i = 0; i < 2; i++) world.redis[i][1] = world.redis[i][4] = -1;
    for (int32_t i = 0; i < 2; i++) cr_assert(want[i].offset[0] % KEYS == (i == 0 ? 1 : 4));
    const char *id = ask(b, want, 3);
    for (int32_t i = 0; i < PARTITIONS; i++) world_publish(i, 3);
    b->kafka.before = before_call;
    return id;
}

static bool world_right(void) { return memcmp(world.redis, world.newest, sizeof world.redis) == 0; }

/* One death at a place; a successor in the same memory, or on a machine that has started anew. True: it died. */
static bool die_once(int64_t place, bool machine) {
    const char *id = world_make();
    struct bench *b = world.b;
    life.countdown = place;
    int rounds = 0;
    if (setjmp(life.end) == 0) {
        for (; rounds < 12; rounds++) {
            life.armed = true;
            for (int i = 0; i < 3; i++) step(b);
            life.armed = false;
            if (rounds % 2 == 1 || place % 2 == 0) world_apply();
            pass_ms(b, 300);
        }
    }
    life.armed = false;
    b->kafka.before = NULL;
    bool died = life.countdown < 0;
    if (machine)
        bench_forgets(b);
    else
        ingest_dies(b);
    ingest_starts(b);
    sim_give(&b->kafka, UINT64_MAX);
    for (int i = 0; i < 12; i++) {
        settle(b);
        world_apply();
        pass_ms(b, 1000);
    }
    cr_assert(told(b, id), "death at %lld: no result", (long long)place);
    expect_state(b, id, REFEED_DONE, "");
    for (int32_t i = 0; i < PARTITIONS; i++)
        for (int k = 0; k < KEYS; k++)
            cr_assert_eq(world.redis[i][k], world.newest[i][k], "death at %lld: %d, key %d is from %lld, not %lld",
                         (long long)place, i, k, (long long)world.redis[i][k], (long long)world.newest[i][k]);
    bench_drop(b);
    return died;
}

Test(refeed, survives_a_death_of_ingest_at_every_place, .timeout = 300) {
    int64_t place = 0;
    while (die_once(place, false)) place++;
    cr_assert_gt(place, 300, "there were only %d places", (int)place);
}

Test(refeed, survives_the_end_of_the_machine_at_every_place, .timeout = 300) {
    int64_t place = 0;
    while (die_once(place, true)) place++;
    cr_assert_gt(place, 300, "there were only %d places", (int)place);
}

Test(refeed, mends_every_key_when_nobody_dies) {
    const char *id = world_make();
    cr_assert(!world_right());
    for (int i = 0; i < 12; i++) {
        settle(world.b);
        world_apply();
    }
    cr_assert(world_right());
    expect_state(world.b, id, REFEED_DONE, "");
    bench_drop(world.b);
}

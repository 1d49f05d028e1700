/* Deaths of ingest at any point: before every store to shared memory, and before and after every call to Kafka and the
 * clock; then a successor. A model follows the records on the rings and what the broker was told: no record is skipped
 * or repeated, no commit runs ahead of Redis or of a reject that is not durable, nothing is written for a partition
 * that belongs to somebody else. Redis loses writes now and then: what the model's sink finds is written again, and
 * nothing above it before. With audit on, no commit runs ahead of the audit log either, which is behind Redis, and from
 * which nothing may be missing even when the supervisor dies with everything that was on its way.
 *
 * The sources of the ring and of some parts of ingest belong to this program, with a place to die before each store. */
#include <setjmp.h>

#include "tests/unit/ingest/help.h"

static struct {
    bool armed;        /* only while ingest runs, not while the test plays the other ends */
    int64_t countdown; /* places passed before it dies */
    uint64_t places;   /* passed so far */
    jmp_buf end;
    bool died;
} life;

static void place_to_die(void) {
    if (!life.armed) return;
    life.places++;
    if (life.countdown-- > 0) return;
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
#include "ingest/loss.c"
#include "ingest/rewind.c"

enum { LANES = 2, RING = 8192, PARTITIONS = 5, REJECTS_MAX = 20000, OVERSIZE = 3000 };

/* -- the model --------------------------------------------------------------------------------- */

struct flow {        /* one partition */
    uint32_t epoch;  /* of its last record on the ring */
    int64_t next;    /* what has to come next in that epoch */
    int64_t covered; /* all before it is in Redis, by us or by somebody else */
    int64_t logged;  /* … and in an audit log */
    uint32_t first;  /* epoch of its first record */
    uint32_t losses; /* how often Redis lost some of it */
    bool went_back;  /* Redis did, and nobody has committed since: the broker may be ahead of it */
    bool accepted;   /* an operator was asked about offsets that are lost, and has accepted that */
};

struct original { /* a reject on its way */
    uint32_t lane, epoch;
    uint64_t number;
    const struct sim_partition *partition;
    int64_t offset;
    uint32_t bytes;
};

static struct {
    struct bench *b;
    bool solo; /* nobody else is in the group */
    uint64_t seed;
    struct flow flow[PARTITIONS];
    struct original original[REJECTS_MAX];
    uint32_t original_count;
    uint64_t deaths, records, takeovers, forgotten, forgotten_all, largest_life;
} w;

static struct flow *flow_of(const struct sim_partition *p) { return &w.flow[p - w.b->kafka.partition]; }

static uint32_t dice(uint32_t n) { return random_below(&w.seed, n); }

/* The record follows the one before it: the next message, or a marker over offsets that hold none. */
static void flow_check(const struct sim_partition *p, const struct taken *t) {
    struct flow *f = flow_of(p);
    cr_assert_geq(t->head.epoch, f->epoch, "an older epoch came after a newer one");
    if (t->head.epoch > f->epoch) {
        if (f->epoch == 0) f->first = t->head.epoch;
        cr_assert(!w.solo || f->accepted || t->head.epoch <= f->first + f->losses,
                  "nobody else was there, and yet it began anew at %lld", (long long)t->head.offset);
        const struct ledger_ingest_slot *s = &w.b->ledger->slot[t->head.slot];
        const struct sim_message *m = sim_first_from(p, atomic_load(&s->start));
        cr_assert(t->head.epoch != atomic_load(&s->epoch) || m == NULL || t->head.offset <= m->offset,
                  "the epoch begins at %lld, its first record is %lld", (long long)atomic_load(&s->start),
                  (long long)t->head.offset);
        f->epoch = t->head.epoch;
    } else {
        const struct sim_message *m = sim_first_from(p, f->next);
        if (t->head.op == RECORD_SKIP)
            cr_assert(m == NULL || m->offset > t->head.offset, "a marker covers a message");
        else
            cr_assert(m != NULL && m->offset == t->head.offset, "%u[%d]: %lld came, %lld was next", p->topic,
                      p->partition, (long long)t->head.offset, m != NULL ? (long long)m->offset : -1);
    }
    f->next = t->head.offset + 1;
}

/* It gets into Redis: nothing before it may be missing there. */
static void applied(const struct sim_partition *p, const struct taken *t) {
    struct flow *f = flow_of(p);
    const struct ingest *g = w.b->g;
    bool known = g != NULL && !g->first_assignment && !p->assigned;
    cr_assert(!known, "%u[%d] was given up, and offset %lld is written", p->topic, p->partition,
              (long long)t->head.offset);
    bool ours = p->assigned && !w.b->kafka.fenced && g != NULL && g->membership == MEMBER_READING && !f->went_back;
    cr_assert(!ours || t->head.offset >= p->committed,
              "%u[%d]: %lld is written, committed is %lld: a key goes back in time", p->topic, p->partition,
              (long long)t->head.offset, (long long)p->committed);
    const struct sim_message *missing = sim_first_from(p, f->covered);
    cr_assert(missing == NULL || missing->offset >= t->head.offset, "%u[%d]: %lld is applied, %lld was skipped",
              p->topic, p->partition, (long long)t->head.offset, (long long)missing->offset);
    cr_assert(!w.solo || t->head.offset >= f->covered || f->losses > 0, "%lld is applied twice",
              (long long)t->head.offset);
    if (t->head.offset + 1 > f->covered) f->covered = t->head.offset + 1;
}

/* Audit goes on by up to n entries: nothing is left out. Returns how many there were. */
static uint32_t audit(uint32_t n) {
    const struct waiting *e;
    uint32_t i = 0;
    for (; i < n && w.b->audited != NULL && (e = audit_one(w.b)) != NULL; i++) {
        const struct ledger_ingest_slot *s = &w.b->ledger->slot[e->slot];
        const struct sim_partition *p = sim_at(&w.b->kafka, s->topic, s->partition);
        const struct sim_message *missing = sim_first_from(p, flow_of(p)->logged);
        cr_assert(missing == NULL || missing->offset >= e->offset || flow_of(p)->accepted,
                  "%u[%d]: %lld is logged, %lld was left out", p->topic, p->partition, (long long)e->offset,
                  (long long)missing->offset);
        if (e->offset + 1 > flow_of(p)->logged) flow_of(p)->logged = e->offset + 1;
    }
    return i;
}

static uint64_t rejects_released(uint32_t lane) {
    struct ring_snapshot s;
    struct err err;
    cr_assert_eq(ring_observe(&w.b->rejects[lane], &s, &err), RING_ATTACHED);
    return s.released;
}

static void commit_check(void *context, struct sim_partition *p, int64_t offset) {
    (void)context;
    cr_assert(p->assigned, "%u[%d] is committed and not ours", p->topic, p->partition);
    if (offset == p->committed) return; /* the same again says nothing new */
    const struct ledger_ingest_slot *s = ledger_of(w.b, p->topic, p->partition);
    uint32_t epoch = atomic_load(&s->epoch);
    struct flow *f = flow_of(p);
    cr_assert(offset <= f->covered || (f->went_back && offset < p->committed) || (f->accepted && offset == p->low),
              "%u[%d]: committed %lld, in Redis up to %lld", p->topic, p->partition, (long long)offset,
              (long long)f->covered);
    cr_assert(w.b->audited == NULL || offset <= f->logged || (f->accepted && offset == p->low),
              "%u[%d]: committed %lld, in the log up to %lld", p->topic, p->partition, (long long)offset,
              (long long)f->logged);
    cr_assert(offset > p->committed || f->went_back, "%u[%d]: taken back from %lld to %lld", p->topic, p->partition,
              (long long)p->committed, (long long)offset);
    if (offset <= f->covered) f->went_back = false;
    uint64_t released[LANES] = {rejects_released(0), rejects_released(1)};
    for (uint32_t i = 0; i < w.original_count; i++) {
        const struct original *o = &w.original[i];
        if (o->partition != p || o->number <= released[o->lane]) continue;
        if (o->epoch != epoch && (!w.solo || o->offset >= atomic_load(&s->start))) continue; /* it was read again */
        cr_assert_leq(offset, o->offset, "%u[%d]: committed %lld, the reject of %lld is not durable", p->topic,
                      p->partition, (long long)offset, (long long)o->offset);
    }
}

/* -- transform and sink ------------------------------------------------------------------------ */

static void reject_some(uint32_t lane, const struct sim_partition *p, const struct taken *t) {
    if (t->head.op != RECORD_RAW || dice(12) != 0 || w.original_count == REJECTS_MAX) return;
    if (!ring_has_room(&w.b->rejects_out[lane], 200)) return;
    uint32_t bytes = dice(3) * 20;
    uint64_t number = reject(w.b, lane, &t->head, bytes);
    w.original[w.original_count++] = (struct original){lane, t->head.epoch, number, p, t->head.offset, bytes};
}

static void loss_found(uint32_t slot, const struct sim_partition *p, bool all) {
    struct ledger_sink_slot *s = &w.b->sink[ledger_lane(p->partition, LANES)]->slot[slot];
    uint64_t what = all ? LEDGER_LOST_ALL : (uint64_t)flow_of(p)->covered;
    twin_store(&s->lost, atomic_load(&w.b->ledger->slot[slot].epoch), what);
    flow_of(p)->losses++;
    flow_of(p)->went_back = true;
}

/* A partition whose epoch is new to the sink: the mark, which says what is covered, is set back or compared. */
static void mark_judge(uint32_t slot, const struct sim_partition *p) {
    const struct ledger_ingest_slot *s = &w.b->ledger->slot[slot];
    int64_t start = atomic_load(&s->start);
    struct flow *f = flow_of(p);
    bool rewound = (atomic_load(&s->flags) & LEDGER_REWOUND) != 0;
    if (rewound && f->accepted && start == p->low && start > f->covered) f->covered = start;
    if (f->covered < start) {
        loss_found(slot, p, false);
        return;
    }
    twin_store(&w.b->sink[ledger_lane(p->partition, LANES)]->slot[slot].released, atomic_load(&s->epoch),
               (uint64_t)start);
}

/* Looks at the marks of a lane as the sink does. False: a loss waits for its answer, and the lane with it. */
static bool marks_judge(uint32_t lane) {
    bool good = true;
    for (uint32_t i = 0; i < atomic_load(&w.b->ledger->count); i++) {
        const struct ledger_ingest_slot *s = &w.b->ledger->slot[i];
        uint64_t epoch = atomic_load(&s->epoch), released, lost, value;
        bool ours = (atomic_load(&s->flags) & LEDGER_ASSIGNED) != 0 && epoch != 0;
        if (!ours || ledger_lane(s->partition, LANES) != lane) continue;
        twin_load(&w.b->sink[lane]->slot[i].released, &released, &value);
        twin_load(&w.b->sink[lane]->slot[i].lost, &lost, &value);
        if (released != epoch && lost != epoch) mark_judge(i, sim_at(&w.b->kafka, s->topic, s->partition));
        twin_load(&w.b->sink[lane]->slot[i].lost, &lost, &value);
        good &= lost != epoch;
    }
    return good;
}

/* Redis goes back in time, or is emptied; the sink finds out, for it had everything acknowledged that it released. */
static void redis_forgets(void) {
    uint32_t slot = dice(PARTITIONS);
    if (slot >= atomic_load(&w.b->ledger->count)) return;
    const struct ledger_ingest_slot *s = &w.b->ledger->slot[slot];
    struct sim_partition *p = sim_at(&w.b->kafka, s->topic, s->partition);
    uint64_t released, value;
    twin_load(&w.b->sink[ledger_lane(s->partition, LANES)]->slot[slot].released, &released, &value);
    if ((atomic_load(&s->flags) & LEDGER_ASSIGNED) == 0 || released != atomic_load(&s->epoch) || released == 0) return;
    if (w.b->kafka.fenced || !p->assigned) return; /* another member would have to find out */
    bool all = dice(4) == 0;
    int64_t covered = all ? 0 : flow_of(p)->covered - dice(40);
    flow_of(p)->covered = covered > 0 ? covered : 0;
    loss_found(slot, p, all);
    w.forgotten++;
}

static uint32_t consume(uint32_t lane, uint32_t n) {
    struct taken t;
    uint32_t i = 0;
    if (!marks_judge(lane)) return 0;
    for (; i < n && take_next(w.b, lane, &t); i++) {
        const struct sim_partition *p = sim_at(&w.b->kafka, t.head.topic, t.head.partition);
        flow_check(p, &t);
        if (t.head.epoch == atomic_load(&w.b->ledger->slot[t.head.slot].epoch)) {
            reject_some(lane, p, &t);
            applied(p, &t);
        }
        release(w.b, lane, &t);
        w.records++;
    }
    return i;
}

/* -- the rest of the world --------------------------------------------------------------------- */

static void publish_some(uint32_t at_most) {
    for (int i = 0; i < PARTITIONS; i++) {
        struct sim_partition *p = &w.b->kafka.partition[i];
        sim_fill(p, (int)dice(at_most), dice(2) ? 3 : 0, &w.seed);
        if (dice(40) == 0) sim_put(p, p->end, OVERSIZE, 4);
        if (dice(10) == 0) sim_gap(p, 1 + dice(4));
        if (dice(30) == 0) {
            p->fail_code = 2;
            p->fail_skips = (int)dice(5); /* the client would go on behind what it could not read */
        }
    }
}

/* Another member goes on with what is not ours. */
static void others_work(void) {
    for (int i = 0; i < PARTITIONS; i++) {
        struct sim_partition *p = &w.b->kafka.partition[i];
        if ((p->assigned && !w.b->kafka.fenced) || dice(2) == 0) continue;
        int64_t from = p->committed >= 0 ? p->committed : p->low;
        if (from >= p->end) continue;
        p->committed = from + 1 + dice((uint32_t)(p->end - from));
        if (p->committed > flow_of(p)->covered) flow_of(p)->covered = p->committed;
        if (p->committed > flow_of(p)->logged) flow_of(p)->logged = p->committed;
        flow_of(p)->went_back = false;
        w.takeovers++;
    }
}

static uint64_t membership(void) { return w.solo || dice(3) == 0 ? UINT64_MAX : random_next(&w.seed); }

static bool anything_assigned(void) {
    for (int i = 0; i < PARTITIONS; i++)
        if (w.b->kafka.partition[i].assigned) return true;
    return false;
}

/* The group moves partitions about: asked back in order, or lost, when the broker takes no commit from us any more. */
static void rebalance(void) {
    struct sim *s = &w.b->kafka;
    if (w.solo || s->event_count > 0 || w.b->g->membership != MEMBER_READING || !anything_assigned()) return;
    bool lost = dice(3) == 0;
    sim_take_away(s, lost);
    if (lost) s->fenced = true;
}

static void happen(void) {
    static const uint64_t waits[] = {0, 0, 1, 20, 200, 1100, 1100, 21000};
    static const enum answer answers[] = {ANSWER_OK,      ANSWER_OK,         ANSWER_FAILS,
                                          ANSWER_REFUSED, ANSWER_NEVER_DONE, ANSWER_NEVER_LOST};
    struct sim *s = &w.b->kafka;
    pass_ms(w.b, waits[dice(8)]);
    if (dice(3) == 0) s->answer = answers[dice(w.solo ? 4 : 6)];
    if (dice(4) == 0) publish_some(6);
    for (uint32_t lane = 0; lane < LANES; lane++)
        if (dice(3) != 0) consume(lane, dice(25));
    if (dice(2) == 0) audit(dice(40));
    if (dice(30) == 0) redis_forgets();
    if (dice(25) == 0) rebalance();
    if (s->fenced) others_work();
    if (!anything_assigned() && s->event_count == 0 && w.b->g->membership == MEMBER_WAITING) sim_give(s, membership());
    w.b->g->store.max_bytes = dice(6) == 0 ? 64 : 1ULL << 30;
    if (dice(50) == 0) s->committed_fails = 1;
    if (dice(50) == 0) s->watermarks_fail = 1;
    if (dice(50) == 0) s->seek_fails = 1;
}

/* -- lives ------------------------------------------------------------------------------------- */

static void hook(void *context, const char *call) {
    (void)context, (void)call;
    place_to_die();
}

static void world_make(bool solo, bool audited, uint64_t seed) {
    memset(&w, 0, sizeof w);
    w.b = bench_make(LANES, RING);
    if (audited) audit_on(w.b);
    w.solo = solo;
    w.seed = seed * 0x9e3779b97f4a7c15ULL + 1;
    w.b->config.rejects.max_bytes = 1ULL << 30;
    for (int i = 0; i < PARTITIONS; i++) sim_partition_add(&w.b->kafka, (uint32_t)i % 2, i);
    w.b->kafka.before = w.b->time.before = hook;
    w.b->kafka.on_commit = commit_check;
    publish_some(20);
}

static bool step_armed(void) {
    life.armed = true;
    enum step s = ingest_step(w.b->g);
    life.armed = false;
    cr_assert_neq(s, STEP_FAILED, "%s", reason_shown(w.b));
    return s == STEP_DONE;
}

/* One process from its start to its death after `countdown` places, or `steps` steps. True: it died on the way. */
static bool live(int64_t countdown, int steps) {
    life.countdown = countdown;
    life.places = 0;
    life.died = true;
    if (setjmp(life.end) == 0) {
        life.armed = true;
        ingest_starts(w.b);
        life.armed = false;
        sim_give(&w.b->kafka, membership());
        for (int i = 0; i < steps; i++) {
            step_armed();
            happen();
        }
        life.died = false;
    }
    life.armed = false;
    if (life.places > w.largest_life) w.largest_life = life.places;
    ingest_dies(w.b);
    w.deaths++;
    return life.died;
}

/* Rings and ledgers are gone, what was on its way is read again: to Redis that is nothing new, to the log what it had
 * not got is. */
static void supervisor_dies(void) {
    struct err err = {0};
    for (uint32_t lane = 0; lane < LANES; lane++)
        if (rejects_released(lane) != w.b->rejects_out[lane].number_published) return; /* the model would lose them */
    bench_forgets(w.b);
    for (uint32_t lane = 0; lane < LANES; lane++) {
        ring_consumer_detach(&w.b->in[lane]);
        ring_fds_close(&w.b->to_transform[lane]);
        uint64_t incarnation = random_next(&w.seed);
        cr_assert_eq(ring_create(&w.b->to_transform[lane], "out", RING, 2 * PARTITIONS_MAX, incarnation, &err), 0);
        cr_assert_eq(ring_consumer_attach(&w.b->in[lane], &w.b->to_transform[lane], -1, &err), RING_ATTACHED);
    }
    for (int i = 0; i < PARTITIONS; i++) {
        struct flow *f = &w.flow[i];
        f->epoch = f->first = 0;
        f->losses++;
    }
    w.forgotten_all++;
}

static void between_lives(void) {
    for (uint32_t lane = 0; lane < LANES; lane++)
        if (dice(2)) consume(lane, dice(30));
    if (dice(2)) audit(dice(60));
    if (w.b->audited != NULL && dice(20) == 0) supervisor_dies();
    if (!w.solo && dice(2)) others_work();
    if (dice(3) == 0) publish_some(4);
}

/* The last process: everything is read, applied, committed, and kept; slowly, so that every commit on the way is seen.
 */
static void finish(void) {
    struct sim *s = &w.b->kafka;
    s->answer = ANSWER_OK;
    s->committed_fails = s->watermarks_fail = 0;
    life.armed = false;
    ingest_starts(w.b);
    sim_give(s, UINT64_MAX);
    settle(w.b);
    for (int quiet = 0; quiet < 10; quiet++) {
        if (consume(0, 1 + dice(40)) + consume(1, 1 + dice(40)) > 0) quiet = 0;
        if (audit(1 + dice(100)) > 0) quiet = 0;
        pass_ms(w.b, dice(3) * 500);
        step(w.b);
        step(w.b);
    }
    mode_set(w.b, CONTROL_DRAIN);
    enum step last = STEP_IDLE;
    for (int i = 0; i < 50 && last != STEP_DONE; i++) {
        last = settle(w.b);
        pass_ms(w.b, 300);
        audit(UINT32_MAX);
    }
    cr_assert_eq(last, STEP_DONE);
    for (int i = 0; i < PARTITIONS; i++) {
        const struct sim_partition *p = &s->partition[i];
        cr_assert_geq(flow_of(p)->covered, p->end, "%u[%d] ends at %lld, in Redis up to %lld", p->topic, p->partition,
                      (long long)p->end, (long long)flow_of(p)->covered);
        cr_assert(p->committed == p->end || p->end == 0, "%u[%d] ends at %lld, committed %lld", p->topic, p->partition,
                  (long long)p->end, (long long)p->committed);
    }
}

/* The reject of that number was the same as an earlier one, of a record that was read again. */
static bool repeated(uint32_t lane, uint64_t number) {
    uint32_t at = 0;
    while (w.original[at].lane != lane || w.original[at].number != number) cr_assert_lt(++at, w.original_count);
    const struct original *o = &w.original[at];
    for (uint32_t i = 0; i < at; i++)
        if (w.original[i].partition == o->partition && w.original[i].offset == o->offset &&
            w.original[i].bytes == o->bytes)
            return true;
    return false;
}

/* Every reject of transform's stands in the folder once. */
static void rejects_check(void) {
    struct kept *k = calloc(1, sizeof *k);
    struct rejects_reader reader;
    struct rejects_record record;
    struct err err = {0};
    char folder[96];
    uint64_t next[LANES] = {1, 1}, wanted[LANES] = {1, 1};
    snprintf(folder, sizeof folder, "%s/rejects", w.b->folder);
    cr_assert_eq(rejects_open(&reader, folder, &err), 0);
    while (rejects_next(&reader, &record, &err) == 1) {
        if (record.head.number == 0) continue; /* ingest's own, too large for a ring */
        uint32_t lane = record.head.lane;
        for (; next[lane] < record.head.number; next[lane]++)
            cr_assert(repeated(lane, next[lane]), "lane %u: %d is missing", lane, (int)next[lane]);
        cr_assert_eq(record.head.number, next[lane]++, "lane %u", lane);
        cr_assert_not(repeated(lane, record.head.number), "lane %u: %d", lane, (int)record.head.number);
    }
    cr_assert_eq(reader.damaged_bytes, 0);
    rejects_close(&reader);
    for (uint32_t i = 0; i < w.original_count; i++) wanted[w.original[i].lane]++;
    for (uint32_t lane = 0; lane < LANES; lane++)
        for (; next[lane] < wanted[lane]; next[lane]++) cr_assert(repeated(lane, next[lane]));
    free(k);
}

static void world_end(void) {
    finish();
    rejects_check();
    bench_drop(w.b);
}

/* Deaths at random places, most of them soon: starts and assignments are where the decisions are. */
static void die_many_times(bool solo, bool audited, uint64_t seed, int deaths) {
    world_make(solo, audited, seed);
    int hit = 0;
    for (int i = 0; i < deaths; i++) {
        hit += live(dice(3) == 0 ? dice(20000) : dice(dice(2) ? 60 : 600), 10 + (int)dice(150));
        between_lives();
    }
    cr_assert_gt(hit, deaths / 2, "only %d of %d died on the way", hit, deaths);
    world_end();
    cr_assert_gt(w.records, (uint64_t)deaths);
    cr_assert_gt(w.forgotten, (uint64_t)deaths / 10);
}

/* Deaths while partitions are given up, at every place of it. Then one of them comes back, and the others stay away. */
static bool die_giving_up(bool lost, uint32_t applied_before, int64_t place) {
    world_make(false, place % 2 != 0, 5);
    ingest_starts(w.b);
    sim_give(&w.b->kafka, UINT64_MAX);
    settle(w.b);
    for (uint32_t lane = 0; lane < LANES; lane++) consume(lane, applied_before);
    pass_ms(w.b, 1500);
    settle(w.b);
    sim_take_away(&w.b->kafka, lost);
    w.b->kafka.fenced = lost;
    life.countdown = place;
    life.died = true;
    if (setjmp(life.end) == 0) {
        for (int i = 0; i < 4; i++) {
            step_armed();
            pass_ms(w.b, 10000); /* the third step is beyond the time that a revocation waits */
        }
        life.died = false;
    }
    life.armed = false;
    ingest_dies(w.b);
    ingest_starts(w.b);
    sim_give(&w.b->kafka, 2);
    settle(w.b);
    consume(0, UINT32_MAX); /* nothing of a partition that stayed away may be written: see applied() */
    consume(1, UINT32_MAX);
    ingest_dies(w.b);
    others_work();
    world_end();
    return life.died;
}

Test(death, while_partitions_are_given_up_is_recovered_from, .timeout = 300) {
    for (int lost = 0; lost < 2; lost++)
        for (uint32_t before = 0; before < 60; before += 19) {
            int64_t place = 0;
            while (die_giving_up(lost, before, place)) place++;
            cr_assert_gt(place, 20, "there were only %d places", (int)place);
        }
}

enum loss { LOSS_SOME, LOSS_ALL, LOSS_ACCEPTED };

/* Redis loses writes of one partition; with LOSS_ACCEPTED Kafka has not got some of them either, and an operator
 * accepts that. Deaths at every place of what ingest does about it; then a sink that looks, and a successor. */
static bool die_rewinding(enum loss loss, bool audited, int64_t place) {
    world_make(true, audited, 5);
    ingest_starts(w.b);
    sim_give(&w.b->kafka, UINT64_MAX);
    settle(w.b);
    for (uint32_t lane = 0; lane < LANES; lane++) consume(lane, 45);
    pass_ms(w.b, 1500);
    settle(w.b);
    struct sim_partition *p = &w.b->kafka.partition[0];
    uint32_t slot = slot_at(w.b, p->topic, p->partition);
    struct flow *f = flow_of(p);
    cr_assert_gt(f->covered, 12);
    f->covered = loss == LOSS_ALL ? 0 : 5;
    if (loss == LOSS_ACCEPTED) p->low = 11;
    f->accepted = loss == LOSS_ACCEPTED;
    atomic_store(&w.b->control->accept[1].what, control_accept_what(UINT32_MAX, -1));
    loss_found(slot, p, loss == LOSS_ALL);
    life.countdown = place;
    life.died = true;
    if (setjmp(life.end) == 0) {
        for (int i = 0; i < 6; i++) {
            step_armed();
            pass_ms(w.b, 400);
            if (i == 1 && loss == LOSS_ACCEPTED) atomic_store(&w.b->control->accept_loss, 1);
            if (i == 0) audit(UINT32_MAX); /* before that it is not judged */
        }
        life.died = false;
    }
    life.armed = false;
    ingest_dies(w.b);
    for (uint32_t lane = 0; lane < LANES; lane++) consume(lane, 20);
    audit(UINT32_MAX);
    ingest_starts(w.b);
    sim_give(&w.b->kafka, UINT64_MAX);
    settle(w.b);
    if (loss == LOSS_ACCEPTED) {
        atomic_store(&w.b->control->accept_loss, 1);
        pass_ms(w.b, 1000);
        settle(w.b);
        cr_assert_eq(atomic_load(&w.b->ledger->accepted), 1);
        char path[96], line[512];
        snprintf(path, sizeof path, "%s/accepted-losses", w.b->folder);
        FILE *record = fopen(path, "r");
        cr_assert_not_null(record);
        for (int n = 0; fgets(line, sizeof line, record) != NULL; n++)
            cr_assert(n < 2 && strstr(line, "\"from\": 5, \"to\": 11,") != NULL, "%s", line);
        fclose(record);
    }
    ingest_dies(w.b);
    world_end();
    return life.died;
}

static void die_rewinding_everywhere(enum loss loss) {
    int64_t place = 0;
    while (die_rewinding(loss, false, place)) place++;
    cr_assert_gt(place, 40, "there were only %d places", (int)place);
    for (place = 0; die_rewinding(loss, true, place); place++) {
    }
}

Test(death, while_some_writes_are_read_again_is_recovered_from, .timeout = 300) { die_rewinding_everywhere(LOSS_SOME); }
Test(death, while_everything_is_read_again_is_recovered_from, .timeout = 300) { die_rewinding_everywhere(LOSS_ALL); }
Test(death, while_a_loss_is_accepted_is_recovered_from, .timeout = 300) { die_rewinding_everywhere(LOSS_ACCEPTED); }

/* Sanitizers make a life many times as long: there every few places must do. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SEEDS = 3, DEATHS = 250, EVERY = 7 };
#else
enum { SEEDS = 12, DEATHS = 250, EVERY = 1 };
#endif

Test(death, of_ingest_alone_in_its_group_skips_and_repeats_no_record, .timeout = 300) {
    for (uint64_t seed = 1; seed <= SEEDS; seed++) die_many_times(true, seed % 2 == 0, seed, DEATHS);
}

Test(death, of_ingest_among_others_loses_nothing_and_commits_nothing_that_is_not_done, .timeout = 300) {
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        die_many_times(false, seed % 2 == 0, seed, DEATHS);
        cr_assert_gt(w.takeovers, 100);
    }
}

/* Every single place, one after the other, in one and the same short life; then a successor that finishes. */
static void die_everywhere(bool solo, int64_t first, int64_t every) {
    int64_t place = first;
    for (bool died = true; died; place += every) {
        world_make(solo, place % 2 != 0, 77);
        died = live(place, 40);
        between_lives();
        world_end();
        cr_assert_lt(place, 50000);
    }
    cr_assert_gt(place, 1000, "there were only %d places", (int)place);
}

Test(death, at_every_place_of_a_life_is_recovered_from, .timeout = 300) { die_everywhere(true, 0, EVERY); }
Test(death, at_every_place_of_a_life_among_others_is_recovered_from, .timeout = 300) {
    die_everywhere(false, 0, EVERY);
}

/* And a successor that dies at every place of its own start and assignment. */
Test(death, of_a_successor_at_every_place_of_its_beginning_is_recovered_from, .timeout = 300) {
    for (int64_t place = 0; place < 120; place++)
        for (int64_t other = 0; other < 3; other++) {
            world_make(false, other == 1, 1000 + (uint64_t)place * 3 + (uint64_t)other);
            live(INT64_MAX, 60);
            others_work();
            live(place, 20);
            between_lives();
            live(place + other * 40, 20);
            world_end();
        }
}

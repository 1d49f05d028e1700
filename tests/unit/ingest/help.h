/* What the tests of ingest/ share: a Kafka in memory behind the port (tests/sim/kafka.h), a clock that moves when told,
 * real rings whose other ends the test plays (transform and sink in one), and an ingest that can be dropped without any
 * clean-up, as a kill would, and followed by a successor. */
#ifndef MILLRACE_TESTS_UNIT_INGEST_HELP_H
#define MILLRACE_TESTS_UNIT_INGEST_HELP_H

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/rejects_read.h"
#include "ingest/ingest.h"
#include "shm/record.h"
#define KAFKA_REQUIRE(condition, ...) cr_assert(condition, __VA_ARGS__)
#include "tests/sim/kafka.h"

/* -- the bench: shared memory, the other ends, one ingest at a time ---------------------------- */

struct bench_clock {
    uint64_t now_ns;
    void (*before)(void *context, const char *call);
    void *context;
};

static inline uint64_t bench_monotonic_ns(void *context) {
    struct bench_clock *c = context;
    if (c->before != NULL) c->before(c->context, "clock");
    return c->now_ns;
}
static inline int64_t bench_wall_ms(void *context) {
    return 1700000000000 + (int64_t)(((struct bench_clock *)context)->now_ns / NS_PER_MS);
}
static inline void bench_random(void *context, void *out, size_t len) {
    (void)context;
    memset(out, 7, len);
}

enum { WAITING_MAX = 65536 };
struct waiting { /* an entry on its way from the sink to the audit log */
    uint32_t slot, epoch;
    int64_t offset;
};

struct bench {
    char folder[64];
    struct config config;
    struct sim kafka;
    struct bench_clock time;
    struct clock_port clock;
    struct control *control;
    struct stats stats;
    int ledger_fd, sink_fd[LANES_MAX], audited_fd;
    struct ring_fds to_transform[LANES_MAX], rejects[LANES_MAX];
    struct ledger_ingest *ledger;
    struct ledger_sink *sink[LANES_MAX];
    struct ledger_audit *audited; /* NULL: audit is off */
    struct waiting *waiting;
    uint32_t waiting_count, logged_count;        /* of all; of them are in the log */
    struct ring_consumer in[LANES_MAX];          /* as transform */
    struct ring_producer rejects_out[LANES_MAX]; /* as transform */
    bool others_attached;
    struct worker worker;
    struct ingest *g; /* NULL: none runs */
    struct kafka_port port;
};

static inline uint64_t rejects_incarnation(uint32_t lane) { return 0xabc000 + lane; }

static inline void bench_config(struct bench *b, uint32_t lanes) {
    struct config *c = &b->config;
    c->abi = CONFIG_ABI;
    snprintf(c->name, sizeof c->name, "unit");
    snprintf(c->instance, sizeof c->instance, "node");
    snprintf(c->run_dir, sizeof c->run_dir, "%s", b->folder);
    snprintf(c->data_dir, sizeof c->data_dir, "%s", b->folder);
    snprintf(c->kafka.group_id, sizeof c->kafka.group_id, "group");
    c->lanes = lanes;
    c->start = START_EARLIEST;
    c->rejects.max_bytes = 1 << 20;
    c->kafka.session_timeout_ms = 10000;
    c->topic_count = SIM_TOPICS;
    snprintf(c->topic[0].name, TOPIC_BYTES, "bulk");
    snprintf(c->topic[1].name, TOPIC_BYTES, "change");
}

static inline struct bench *bench_make(uint32_t lanes, uint64_t ring_bytes) {
    struct bench *b = calloc(1, sizeof *b);
    struct err err = {0};
    int fd;
    snprintf(b->folder, sizeof b->folder, "/tmp/millrace-unit-XXXXXX");
    cr_assert_not_null(mkdtemp(b->folder));
    bench_config(b, lanes);
    log_init("node", "ingest", -1, 0, LOG_ERROR);
    cr_assert_eq(stats_create(&b->stats, &b->config, &fd, &err), 0, "%s", err.text);
    close(fd);
    b->control = calloc(1, sizeof *b->control);
    b->ledger_fd = ledger_ingest_create(&err);
    b->ledger = ledger_ingest_map(b->ledger_fd, false, &err);
    for (uint32_t i = 0; i < lanes; i++) {
        cr_assert_eq(ring_create(&b->to_transform[i], "out", ring_bytes, 2 * PARTITIONS_MAX, 0x111 + i, &err), 0, "%s",
                     err.text);
        cr_assert_eq(ring_create(&b->rejects[i], "rejects", ring_bytes, 1, rejects_incarnation(i), &err), 0);
        b->sink_fd[i] = ledger_sink_create(i, &err);
        b->sink[i] = ledger_sink_map(b->sink_fd[i], true, &err);
        cr_assert_eq(ring_consumer_attach(&b->in[i], &b->to_transform[i], -1, &err), RING_ATTACHED);
        cr_assert_eq(ring_producer_attach(&b->rejects_out[i], &b->rejects[i], -1, &err), RING_ATTACHED);
    }
    b->time.now_ns = 1000 * NS_PER_S;
    b->clock = (struct clock_port){bench_monotonic_ns, bench_wall_ms, bench_monotonic_ns, bench_random, &b->time};
    b->kafka.event = calloc(SIM_EVENTS_MAX, sizeof *b->kafka.event);
    b->kafka.later = calloc(1, sizeof *b->kafka.later);
    b->port = sim_port(&b->kafka);
    return b;
}

static inline void audit_on(struct bench *b) {
    struct err err = {0};
    b->config.audit = 1;
    b->audited_fd = ledger_audit_create(&err);
    b->audited = ledger_audit_map(b->audited_fd, true, &err);
    cr_assert_not_null(b->audited, "%s", err.text);
    b->waiting = calloc(WAITING_MAX, sizeof *b->waiting);
}

static inline void audit_off(struct bench *b) {
    if (b->audited == NULL) return;
    munmap(b->audited, sizeof *b->audited);
    close(b->audited_fd);
    free(b->waiting);
    b->audited = NULL;
    b->waiting_count = b->logged_count = 0;
}

/* What audit does: the next entry is durable, and that is noted. NULL: there is none. */
static inline const struct waiting *audit_one(struct bench *b) {
    if (b->logged_count == b->waiting_count) return NULL;
    const struct waiting *e = &b->waiting[b->logged_count++];
    twin_store(&b->audited->slot[e->slot].released, e->epoch, (uint64_t)e->offset + 1);
    return e;
}

static inline int entry_remove(const char *path, const struct stat *st, int type, struct FTW *at) {
    (void)st, (void)type, (void)at;
    return remove(path);
}

static inline void folder_remove(const char *folder) { nftw(folder, entry_remove, 16, FTW_DEPTH | FTW_PHYS); }

/* A process ends, in whatever way: nothing is told to anybody. */
static inline void ingest_dies(struct bench *b) {
    if (b->g == NULL) return;
    for (uint32_t i = 0; i < b->config.lanes; i++) {
        if (b->g->lane[i].out.page != NULL) ring_producer_detach(&b->g->lane[i].out);
        if (b->g->lane[i].rejects.page != NULL) ring_consumer_detach(&b->g->lane[i].rejects);
        if (b->g->lane[i].sink != NULL) munmap((void *)(uintptr_t)b->g->lane[i].sink, sizeof *b->g->lane[i].sink);
    }
    if (b->g->audited != NULL) munmap((void *)(uintptr_t)b->g->audited, sizeof *b->g->audited);
    if (b->g->ledger != NULL) munmap(b->g->ledger, sizeof *b->g->ledger);
    rejects_store_close(&b->g->store);
    refeed_result_free(&b->g->refeed.result);
    free(b->g->refeed.wanted.memory);
    free(b->g);
    b->g = NULL;
    sim_member_gone(&b->kafka);
}

static inline void ring_fds_close(const struct ring_fds *fds) {
    close(fds->constants);
    close(fds->producer);
    close(fds->consumer);
}

static inline void bench_drop(struct bench *b) {
    ingest_dies(b);
    for (uint32_t i = 0; i < b->config.lanes; i++) {
        ring_consumer_detach(&b->in[i]);
        ring_producer_detach(&b->rejects_out[i]);
        ring_fds_close(&b->to_transform[i]);
        ring_fds_close(&b->rejects[i]);
        munmap(b->sink[i], sizeof *b->sink[i]);
        close(b->sink_fd[i]);
    }
    munmap(b->ledger, sizeof *b->ledger);
    close(b->ledger_fd);
    audit_off(b);
    stats_close(&b->stats);
    folder_remove(b->folder);
    sim_drop(&b->kafka);
    free(b->control);
    free(b);
}

/* What main.c does, with the bench's ports. b->g stands before the first attach, so that a death in here leaves no
 * leak. */
static inline void ingest_starts(struct bench *b) {
    struct err err = {0};
    uint64_t incarnation[LANES_MAX];
    cr_assert_null(b->g);
    struct ingest *g = b->g = calloc(1, sizeof *g);
    struct worker *w = &b->worker;
    *w = (struct worker){.role = ROLE_INGEST,
                         .block_index = 1,
                         .config = &b->config,
                         .control = b->control,
                         .stats = b->stats,
                         .clock = &b->clock,
                         .attention = -1,
                         .starts = w->starts + 1};
    w->block = stats_block(&b->stats, 1);
    stats_local_init(&w->local, w->block);
    g->store.fd = g->store.folder_fd = -1;
    g->ledger = ledger_ingest_map(b->ledger_fd, true, &err);
    g->audited = b->config.audit ? ledger_audit_map(b->audited_fd, false, &err) : NULL;
    for (uint32_t i = 0; i < b->config.lanes; i++) {
        cr_assert_eq(ring_producer_attach(&g->lane[i].out, &b->to_transform[i], -1, &err), RING_ATTACHED, "%s",
                     err.text);
        cr_assert_eq(ring_consumer_attach(&g->lane[i].rejects, &b->rejects[i], -1, &err), RING_ATTACHED, "%s",
                     err.text);
        g->lane[i].sink = ledger_sink_map(b->sink_fd[i], false, &err);
        incarnation[i] = g->lane[i].rejects.incarnation;
    }
    cr_assert_eq(rejects_store_open(&g->store, b->config.data_dir, b->config.rejects.max_bytes, incarnation,
                                    b->config.lanes, &b->clock, &err),
                 0, "%s", err.text);
    ingest_init(g, w, &b->port);
}

static inline void pass_ms(struct bench *b, uint64_t ms) { b->time.now_ns += ms * NS_PER_MS; }

static inline enum step step(struct bench *b) {
    enum step s = ingest_step(b->g);
    stats_flush(&b->worker.local);
    return s;
}

/* Steps until nothing moves any more (the clock stands still), but no more than many. Returns the last one's answer. */
static inline enum step settle(struct bench *b) {
    enum step s = STEP_BUSY;
    for (int quiet = 0, n = 0; quiet < 3; n++) {
        cr_assert_lt(n, 100000, "it is busy for ever");
        s = step(b);
        if (s == STEP_DONE || s == STEP_FAILED) return s;
        quiet = s == STEP_BUSY ? 0 : quiet + 1;
    }
    return s;
}

static inline void mode_set(struct bench *b, enum control_mode mode) { atomic_store(&b->control->mode[1], mode); }

/* -- transform and sink, as the test plays them ------------------------------------------------ */

struct taken {
    struct record head;
    uint64_t number, end;
};

static inline void same_bytes(const uint8_t *a, uint32_t na, const uint8_t *b, uint32_t nb, const char *what,
                              int64_t offset) {
    cr_assert_eq(na, nb, "%s of offset %lld: %u bytes for %u", what, (long long)offset, na, nb);
    cr_assert(na == 0 || memcmp(a, b, na) == 0, "%s of offset %lld is altered", what, (long long)offset);
}

static inline void content_check(struct bench *b, const struct record_view *v) {
    struct sim_partition *p = sim_at(&b->kafka, v->head.topic, v->head.partition);
    const struct sim_message *m = sim_first_from(p, v->head.offset);
    cr_assert(m != NULL && m->offset == v->head.offset, "offset %lld was never published", (long long)v->head.offset);
    same_bytes(v->kafka_key, v->head.kafka_key_bytes, m->key, m->key_bytes, "key", m->offset);
    same_bytes(v->value, v->head.value_bytes, m->value, m->value_bytes, "value", m->offset);
    same_bytes(v->headers, v->head.headers_bytes, m->headers, m->header_bytes, "headers", m->offset);
    cr_assert_eq((v->head.flags & RECORD_KEY_NULL) != 0, m->key == NULL);
    cr_assert_eq((v->head.flags & RECORD_VALUE_NULL) != 0, m->value == NULL);
    cr_assert_eq(v->head.timestamp_ms, m->timestamp_ms);
    cr_assert_eq(v->head.redis_key_bytes + v->head.old_key_bytes, 0);
}

/* The next record of a lane, its content checked against what was published. False: there is none. */
static inline bool take_next(struct bench *b, uint32_t lane, struct taken *t) {
    struct ring_item item;
    struct record_view v;
    struct err err = {0};
    enum ring_state s = ring_peek(&b->in[lane], &item, &err);
    cr_assert_neq(s, RING_BROKEN, "%s", err.text);
    if (s == RING_EMPTY) return false;
    cr_assert_eq(item.type, RECORD_DATA);
    cr_assert_eq(record_open(item.body, item.len, &v), 0, "record %llu", (unsigned long long)item.number);
    cr_assert_lt(v.head.slot, PARTITIONS_MAX);
    const struct ledger_ingest_slot *slot = &b->ledger->slot[v.head.slot];
    cr_assert(slot->topic == v.head.topic && slot->partition == v.head.partition, "the slot is another partition's");
    cr_assert_eq(ledger_lane(v.head.partition, b->config.lanes), lane, "in the wrong lane");
    if (v.head.op == RECORD_RAW)
        content_check(b, &v);
    else
        cr_assert_eq(record_bytes(&v.head), sizeof v.head + (b->config.audit ? v.head.headers_bytes : 0));
    *t = (struct taken){v.head, item.number, item.end};
    return true;
}

/* The next start is on another machine, or after the supervisor's end: its memory is new, what is in Kafka stays. */
static inline void bench_forgets(struct bench *b) {
    struct err err = {0};
    ingest_dies(b);
    munmap(b->ledger, sizeof *b->ledger);
    close(b->ledger_fd);
    b->ledger_fd = ledger_ingest_create(&err);
    b->ledger = ledger_ingest_map(b->ledger_fd, false, &err);
    for (uint32_t i = 0; i < b->config.lanes; i++) {
        struct ring_item item;
        while (ring_peek(&b->in[i], &item, &err) == RING_OK) ring_release(&b->in[i], item.end, item.number);
        munmap(b->sink[i], sizeof *b->sink[i]);
        close(b->sink_fd[i]);
        b->sink_fd[i] = ledger_sink_create(i, &err);
        b->sink[i] = ledger_sink_map(b->sink_fd[i], true, &err);
    }
    if (b->audited == NULL) return;
    audit_off(b);
    audit_on(b);
}

/* What the sink does with it: applied, handed to audit and released, unless it is of an older epoch. One that was refed
 * says nothing of how far the partition is. */
static inline void release(struct bench *b, uint32_t lane, const struct taken *t) {
    uint32_t epoch = atomic_load(&b->ledger->slot[t->head.slot].epoch);
    bool moves = t->head.epoch == epoch && (t->head.flags & RECORD_REFED) == 0;
    atomic_store(&stats_block(&b->stats, stats_block_index(ROLE_SINK, lane))->published, t->number);
    if (moves && b->audited != NULL) {
        if (b->waiting_count == WAITING_MAX) {
            memmove(b->waiting, b->waiting + b->logged_count,
                    (b->waiting_count -= b->logged_count) * sizeof *b->waiting);
            b->logged_count = 0;
        }
        cr_assert_lt(b->waiting_count, WAITING_MAX);
        b->waiting[b->waiting_count++] = (struct waiting){t->head.slot, epoch, t->head.offset};
    }
    if (moves) twin_store(&b->sink[lane]->slot[t->head.slot].released, epoch, (uint64_t)t->head.offset + 1);
    ring_release(&b->in[lane], t->end, t->number);
}

/* Takes and releases up to n records of a lane; returns how many there were. */
static inline uint32_t apply(struct bench *b, uint32_t lane, uint32_t n) {
    struct taken t;
    uint32_t i = 0;
    for (; i < n && take_next(b, lane, &t); i++) release(b, lane, &t);
    return i;
}

static inline uint32_t apply_all(struct bench *b) {
    uint32_t n = 0;
    for (uint32_t lane = 0; lane < b->config.lanes; lane++) n += apply(b, lane, UINT32_MAX);
    return n;
}

/* Takes the next record and expects it to be this one; it is released too. */
static inline struct taken expect_record(struct bench *b, uint32_t lane, uint32_t topic, int32_t partition,
                                         int64_t offset) {
    struct taken t;
    cr_assert(take_next(b, lane, &t), "no record; expected offset %lld", (long long)offset);
    cr_assert(t.head.topic == topic && t.head.partition == partition, "a record of %u[%d]", t.head.topic,
              t.head.partition);
    cr_assert_eq(t.head.offset, offset, "offset %lld for %lld", (long long)t.head.offset, (long long)offset);
    release(b, lane, &t);
    return t;
}

static inline void expect_nothing(struct bench *b, uint32_t lane) {
    struct taken t;
    cr_assert(!take_next(b, lane, &t), "offset %lld of %u[%d] came", (long long)t.head.offset, t.head.topic,
              t.head.partition);
}

/* Puts an original on the rejects ring, as transform does before the marker. */
static inline uint64_t reject(struct bench *b, uint32_t lane, const struct record *of, uint32_t value_bytes) {
    struct record r = *of;
    r.op = RECORD_REJECT;
    r.reason = REASON_JSON_INVALID;
    r.kafka_key_bytes = r.headers_bytes = 0;
    r.value_bytes = value_bytes;
    uint8_t *at = ring_reserve(&b->rejects_out[lane], (uint32_t)record_bytes(&r));
    cr_assert_not_null(at);
    memcpy(at, &r, sizeof r);
    for (uint32_t i = 0; i < value_bytes; i++) at[sizeof r + i] = (uint8_t)(r.offset + i);
    uint64_t number = ring_stage(&b->rejects_out[lane], (uint32_t)record_bytes(&r), RECORD_DATA);
    ring_publish(&b->rejects_out[lane]);
    return number;
}

static inline int64_t released_of(struct bench *b, uint32_t slot, uint32_t *epoch) {
    uint64_t e, next;
    twin_load(&b->sink[ledger_lane(b->ledger->slot[slot].partition, b->config.lanes)]->slot[slot].released, &e, &next);
    if (epoch != NULL) *epoch = (uint32_t)e;
    return (int64_t)next;
}

static inline uint32_t slot_at(struct bench *b, uint32_t topic, int32_t partition) {
    uint32_t n = atomic_load(&b->ledger->count);
    for (uint32_t i = 0; i < n; i++)
        if (b->ledger->slot[i].topic == topic && b->ledger->slot[i].partition == partition) return i;
    cr_assert_fail("the partition has no slot");
    return 0;
}

static inline const struct ledger_ingest_slot *ledger_of(struct bench *b, uint32_t topic, int32_t partition) {
    return &b->ledger->slot[slot_at(b, topic, partition)];
}
static inline uint32_t epoch_of(struct bench *b, uint32_t topic, int32_t partition) {
    return atomic_load(&ledger_of(b, topic, partition)->epoch);
}

/* n partitions of topic 0 (numbers 0 …), each with `messages` messages, all given to a fresh ingest. */
static inline struct bench *bench_reading(uint32_t lanes, uint64_t ring_bytes, int partitions, int messages) {
    struct bench *b = bench_make(lanes, ring_bytes);
    uint64_t seed = 99;
    for (int i = 0; i < partitions; i++) sim_fill(sim_partition_add(&b->kafka, 0, i), messages, 0, &seed);
    ingest_starts(b);
    sim_give(&b->kafka, UINT64_MAX);
    return b;
}

static inline uint64_t counted(const struct bench *b, enum metric m) { return b->worker.local.value[m]; }

static inline const char *reason_shown(struct bench *b) {
    static char text[STATS_TEXT_BYTES];
    stats_text_get(&b->worker.block->reason, text);
    return text;
}

/* The rejects folder as a reader sees it; the last four stay as they were read. */
struct kept {
    uint32_t count;
    struct rejects_entry head[4096];
    uint64_t damaged_bytes, total_bytes;
};

static inline struct kept *kept_read(const char *data_dir) {
    static struct kept last[4];
    static unsigned int reads;
    struct kept *k = &last[reads++ % 4];
    struct rejects_reader reader;
    struct rejects_record record;
    struct err err = {0};
    char folder[96];
    memset(k, 0, sizeof *k);
    snprintf(folder, sizeof folder, "%s/rejects", data_dir);
    cr_assert_eq(rejects_open(&reader, folder, &err), 0, "%s", err.text);
    int r;
    while ((r = rejects_next(&reader, &record, &err)) == 1) {
        cr_assert_lt(k->count, 4096);
        k->head[k->count++] = record.head;
    }
    cr_assert_eq(r, 0, "%s", err.text);
    k->damaged_bytes = reader.damaged_bytes;
    k->total_bytes = reader.total_bytes;
    rejects_close(&reader);
    return k;
}

#endif

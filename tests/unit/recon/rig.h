/* recon's body over a real log and a real database, with a Kafka that the test makes up: what producers publish, what
 * of it the pipeline logs, and what Kafka answers. */
#ifndef TESTS_UNIT_RECON_RIG_H
#define TESTS_UNIT_RECON_RIG_H

#include "base/log.h"
#include "recon/db.h"
#include "recon/manifest.h"
#include "recon/recon.h"
#include "shm/stats.h"
#include "tests/unit/audit/help.h"

enum { RIG_RECORDS = 4096, RIG_WINDOW_MS = 10000, RIG_LATE_MS = 5000, RIG_PENDING = 8192 };
#define RIG_START 1700000000000 /* begins a window */

struct rig_record { /* what stands in the topic; index: its offset */
    bool there;     /* false: no record at this offset */
    int64_t created_ms;
    uint64_t sequence;
    uint8_t id[16], digest[16];
    uint32_t bytes;
};

struct rig {
    struct bench *b;
    struct control control;
    struct stats stats;
    struct worker worker;
    struct evidence_port port;
    struct recon *recon;
    struct rig_record record[RIG_RECORDS]; /* one topic, "cards", one partition */
    int64_t low, high, committed;
    uint64_t number; /* of the next entry on its ring */
    uint32_t epoch, members;
    bool others; /* have committed */
    struct evidence *queue; /* answers */
    size_t head, count;
    int64_t rounds_at; /* a round is told whenever the clock has moved on by a second */
    bool silent;       /* Kafka does not answer */
    uint64_t scans;
};

static inline struct evidence *rig_answer(struct rig *r, enum evidence_type type) {
    cr_assert_lt(r->count, (size_t)RIG_PENDING);
    struct evidence *e = &r->queue[(r->head + r->count++) % RIG_PENDING];
    memset(e, 0, offsetof(struct evidence, text) + 1);
    e->type = type;
    return e;
}

static inline void rig_round(struct rig *r) {
    struct evidence *e = rig_answer(r, EVIDENCE_ENDS);
    e->low = r->low;
    e->high = r->high;
    e->committed = r->committed;
    e = rig_answer(r, EVIDENCE_ROUND);
    e->began_ms = r->b->wall_ms;
    e->members = r->members;
    e->others = r->others;
}

static inline bool rig_next(void *self, struct evidence *out) {
    struct rig *r = self;
    if (!r->silent && r->b->wall_ms >= r->rounds_at + 1000) {
        r->rounds_at = r->b->wall_ms;
        rig_round(r);
    }
    if (r->count == 0) return false;
    *out = r->queue[r->head];
    r->head = (r->head + 1) % RIG_PENDING;
    r->count--;
    return true;
}

static inline void rig_scan(void *self, uint32_t topic, int32_t partition, int64_t offset, int64_t to) {
    struct rig *r = self;
    struct evidence *e;
    cr_assert(topic == 0 && partition == 0 && offset < to && to <= RIG_RECORDS);
    r->scans++;
    if (offset < r->low) {
        e = rig_answer(r, EVIDENCE_GONE);
        e->offset = offset;
        offset = e->to = r->low < to ? r->low : to;
    }
    for (; offset < to; offset++) {
        const struct rig_record *m = &r->record[offset];
        e = rig_answer(r, m->there ? EVIDENCE_MESSAGE : EVIDENCE_VOID);
        e->offset = offset;
        e->to = offset + 1;
        e->created_ms = m->created_ms;
        e->sequence = (int64_t)m->sequence;
        memcpy(e->id, m->id, 16);
        memcpy(e->digest, m->digest, 16);
    }
}

static inline void rig_hurry(void *self) { ((struct rig *)self)->rounds_at = 0; }

static inline void rig_open(struct rig *r) {
    struct err err = {0};
    r->recon = recon_open(&r->worker, &r->port, &err);
    cr_assert_not_null(r->recon, "%s", err.text);
    r->rounds_at = 0;
    r->count = 0; /* a new process asks anew */
    struct evidence_from from[4];
    if (recon_manifests(r->recon, from, 4) > 1) cr_assert(false, "one partition of manifests");
}

static inline struct rig *rig_make(enum config_evidence evidence) {
    struct rig *r = calloc(1, sizeof *r);
    struct err err = {0};
    int fd;
    r->b = bench_make();
    struct config *c = &r->b->config;
    c->lanes = 1;
    c->audit = 1;
    snprintf(c->run_dir, sizeof c->run_dir, "%s", r->b->dir);
    snprintf(c->recon.manifest_topic, sizeof c->recon.manifest_topic, "manifests");
    c->recon.window_ms = RIG_WINDOW_MS;
    c->recon.late_after_ms = RIG_LATE_MS;
    c->recon.delayed_after_ms = 1000;
    c->recon.retention_ms = 86400000;
    for (uint32_t t = 0; t < c->topic_count; t++) {
        c->topic[t].reconcile = RECONCILE_DIGEST;
        c->topic[t].evidence = evidence;
    }
    c->topic_count = 1;
    r->b->wall_ms = RIG_START;
    log_init("node1", "recon", -1, 0, LOG_ERROR);
    cr_assert_eq(bench_open(r->b), 0, "%s", r->b->err.text);
    cr_assert_eq(stats_create(&r->stats, c, &fd, &err), 0, "%s", err.text);
    close(fd);
    r->worker = (struct worker){.role = ROLE_RECON,
                                .config = c,
                                .control = &r->control,
                                .stats = r->stats,
                                .block = stats_block(&r->stats, stats_block_index(ROLE_RECON, 1)),
                                .clock = &r->b->clock,
                                .attention = -1};
    r->worker.block_index = stats_block_index(ROLE_RECON, 1);
    stats_local_init(&r->worker.local, r->worker.block);
    r->port = (struct evidence_port){r, rig_next, rig_scan, rig_hurry, -1};
    r->queue = calloc(RIG_PENDING, sizeof *r->queue);
    r->epoch = 1;
    r->number = 1;
    r->committed = -1;
    r->members = 1;
    rig_open(r);
    return r;
}

static inline void rig_drop(struct rig *r) {
    recon_close(r->recon);
    stats_close(&r->stats);
    bench_drop(r->b);
    free(r->queue);
    free(r);
}

/* A producer publishes a record at the end of the topic. Returns its offset. */
static inline int64_t rig_publish(struct rig *r, uint64_t sequence, int64_t created_ms) {
    int64_t offset = r->high++;
    struct rig_record *m = &r->record[offset];
    *m = (struct rig_record){.there = true, .created_ms = created_ms, .sequence = sequence, .bytes = 100};
    memcpy(m->id, &offset, sizeof offset);
    m->id[6] = 0x70;
    m->id[8] = 0x80;
    memset(m->digest, (int)(offset % 250) + 1, 16);
    return offset;
}

/* The pipeline logs the record at an offset, a moment after it was created. change may alter the entry. */
static inline void rig_log_as(struct rig *r, int64_t offset, void (*change)(struct entry *)) {
    const struct rig_record *m = &r->record[offset];
    struct entry *e = (struct entry *)entry_make(0, 0, offset, 0);
    e->epoch = r->epoch;
    e->created_ms = m->created_ms;
    e->timestamp_ms = m->created_ms;
    e->ingested_us = m->created_ms * 1000;
    e->answered_us = 500;
    e->digest_algorithm = DIGEST_HMAC;
    e->published_bytes = m->bytes;
    e->producer = m->sequence != 0 ? record_producer_hash("till", 4) : 0;
    e->sequence = m->sequence;
    memcpy(e->id, m->id, 16);
    memcpy(e->digest_published, m->digest, 16);
    if (change != NULL) change(e);
    log_writer_add(&r->b->writer, 0, 77, r->number++, e);
    if (offset + 1 > r->committed) r->committed = offset + 1;
}
static inline void rig_log(struct rig *r, int64_t offset) { rig_log_as(r, offset, NULL); }

static inline void rig_commit(struct rig *r) {
    if (r->b->writer.count > 0) cr_assert_eq(log_writer_commit(&r->b->writer, &r->b->err), 0, "%s", r->b->err.text);
}

/* The producer's manifest of the records with these sequence numbers (its offsets are those less one). */
static inline void rig_manifest(struct rig *r, uint64_t first, uint64_t last, int64_t from_ms) {
    uint8_t sum[16] = {0};
    char hex[DIGEST_HEX_BYTES];
    int64_t n = 0, bytes = 0;
    for (int64_t o = 0; o < RIG_RECORDS; o++) {
        const struct rig_record *m = &r->record[o];
        if (m->sequence < first || m->sequence > last) continue;
        digest_sum_add(sum, m->digest);
        n++;
        bytes += m->bytes;
    }
    digest_hex(sum, hex);
    struct evidence *e = rig_answer(r, EVIDENCE_MESSAGE);
    e->manifest = true;
    e->offset = (int64_t)first;
    e->text_bytes =
        (uint32_t)snprintf(e->text, sizeof e->text,
                           "{\"type\":\"window\",\"producer\":\"till\",\"topic\":\"cards\",\"from_ms\":%" PRId64
                           ",\"to_ms\":%" PRId64 ",\"first_sequence\":%" PRIu64 ",\"last_sequence\":%" PRIu64
                           ",\"count\":%" PRId64 ",\"bytes\":%" PRId64 ",\"digest_sum\":\"%s\"}",
                           from_ms, from_ms + RIG_WINDOW_MS, first, last, n, bytes, hex);
}

static inline void rig_steps(struct rig *r) {
    for (int i = 0; i < 1000; i++) {
        enum step s = recon_step(r->recon);
        cr_assert(s == STEP_IDLE || s == STEP_BUSY, "step %d", (int)s);
        if (s == STEP_IDLE && r->count == 0) return;
    }
    cr_assert(false, "it does not come to rest");
}

/* Time passes, second by second. */
static inline void rig_pass(struct rig *r, int seconds) {
    rig_commit(r);
    rig_steps(r);
    for (int i = 0; i < seconds; i++) {
        r->b->wall_ms += 1000;
        rig_steps(r);
    }
}

/* What a query says, as text: rows by line, columns by `|`. */
static inline char *rig_ask(struct rig *r, const char *sql) {
    char path[PATH_BYTES + 32];
    static char out[1 << 18];
    struct err err = {0};
    sqlite3_stmt *s;
    size_t n = 0;
    db_path(&r->b->config, path);
    sqlite3 *db = db_open_read(path, &err);
    cr_assert_not_null(db, "%s", err.text);
    cr_assert_eq(db_prepare(db, sql, &s, &err), 0, "%s: %s", sql, err.text);
    out[0] = 0;
    while (sqlite3_step(s) == SQLITE_ROW) {
        for (int i = 0; i < sqlite3_column_count(s); i++) {
            const char *text = (const char *)sqlite3_column_text(s, i);
            if (sqlite3_column_type(s, i) == SQLITE_BLOB) text = "blob";
            n += (size_t)snprintf(out + n, sizeof out - n, "%s%s", i > 0 ? "|" : n > 0 ? "\n" : "", text ? text : "");
        }
        cr_assert_lt(n, sizeof out - 1);
    }
    sqlite3_finalize(s);
    sqlite3_close(db);
    return out;
}

#define rig_says(r, sql, expected) cr_assert_str_eq(rig_ask(r, sql), expected, "%s\nsays:\n%s", sql, rig_ask(r, sql))

#endif

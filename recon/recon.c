#include "recon/recon.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "audit/anchor.h"
#include "audit/index.h"
#include "audit/log.h"
#include "audit/segment.h"
#include "base/fault.h"
#include "base/log.h"
#include "recon/count.h"
#include "recon/cover.h"
#include "recon/db.h"
#include "recon/exception.h"
#include "recon/judge.h"
#include "recon/live.h"
#include "recon/manifest.h"
#include "recon/notify.h"
#include "recon/scan.h"

enum {
    TAKEN_MAX = 2048,
    ENTRIES_MAX = 1 << 15,
    BATCH_MS = 100,
    JUDGE_MS = 1000,
    JUDGE_LATEST_MS = 5000,
    RETRY_MS = 1000,
    LOOK_MS = 200,
    ACCOUNTS_MS = 50
};
enum { FORGET_MS = 3600000, INDEX_LOOK_MS = 10000, COVER_MS = 1000, ANCHORS_LOOK_MS = 5000 };

struct recon {
    struct worker *worker;
    const struct config *config;
    const struct evidence_port *evidence;
    char dir[PATH_BYTES + 16], log_dir[PATH_BYTES + 16], check_path[PATH_BYTES + 32];
    sqlite3 *db;
    struct notify *notify;
    struct cover *cover;
    struct live *live;
    const struct account_port *others; /* NULL: nobody is told */
    struct digest_key account_key;
    /* Made again from the database when a transaction has failed: */
    struct count *count;
    struct judge *judge;
    struct scan *scan;
    struct accounts *accounts; /* NULL without others */
    struct log_reader *reader;
    uint64_t counted; /* next sequence to be counted: what comes before was */
    int64_t read_us;  /* when the batch of the last entry was written */
    uint64_t segment; /* that has the last entry; 0 none yet */

    struct evidence *taken; /* of the transaction at hand */
    size_t taken_count;
    bool open;  /* a transaction is */
    bool ended; /* the log was read to its end in it */
    bool shared;
    bool lost_open; /* the entry that comes next stands behind some that were removed */
    bool full;      /* the scan has to catch up */
    uint64_t retry_ns, judge_ns, look_ns, forget_ns, accounts_ns, index_ns, cover_ns, anchors_ns;
    uint64_t leave_due_ns;                  /* when it goes, told or not; 0: it does not leave */
    int64_t question_ms, question_round_ms; /* of a person, or the drain: when; the round that answers it. 0 none */
    uint64_t question_due_ns;               /* … by when it is answered by what is known then */
    bool question_asked;                    /* by a file */
    bool answered;                          /* in the transaction at hand */
    bool draining;
    int64_t limited[LIMIT_COUNT], limited_ms[LIMIT_COUNT]; /* what was told of limits, and when that changed */
    struct notify_counts sent;                             /* of these the metrics know */
    char trouble[200];                                     /* why it cannot go on; "" nothing */
};

/* -- opening ----------------------------------------------------------------------------------- */

static void core_close(struct recon *r) {
    judge_close(r->judge);
    accounts_close(r->accounts);
    scan_close(r->scan);
    count_close(r->count);
    log_reader_close(r->reader);
    r->judge = NULL;
    r->accounts = NULL;
    r->scan = NULL;
    r->count = NULL;
    r->reader = NULL;
}

static int accounts_start(struct recon *r, struct err *err) {
    if (r->others == NULL) return 0;
    r->accounts =
        accounts_open(r->db, r->count, r->config, &r->account_key, r->others, r->worker->clock, &r->worker->local, err);
    if (r->accounts == NULL) return -1;
    judge_accounts(r->judge, r->accounts);
    return 0;
}

int recon_share(struct recon *r, const struct account_port *port, const uint8_t key[DIGEST_KEY_BYTES],
                struct err *err) {
    digest_key_init(&r->account_key, key);
    r->others = port;
    return accounts_start(r, err);
}

/* -- which log it is --------------------------------------------------------------------------- */

/* When the segment was begun, which tells it from that of another log. 0, or -1 with err.code as segment_open. */
static int segment_begun(const struct recon *r, uint64_t segment, int64_t *created_us, struct err *err) {
    struct segment s;
    segment_init(&s);
    int fd = open(r->log_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int status = fd >= 0 ? segment_open(&s, fd, segment, err) : err_set(err, errno, "%s: %m", r->log_dir);
    *created_us = s.head.created_us;
    segment_free(&s);
    if (fd >= 0) close(fd);
    return status;
}

/* Whether the log has only later segments than this one: retention removes the oldest first. */
static bool all_later(const struct recon *r, uint64_t segment) {
    struct err ignored;
    size_t count = 0;
    int fd = open(r->log_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    uint64_t *list = fd >= 0 ? segment_list(fd, &count, &ignored) : NULL;
    bool later = count > 0 && list[0] > segment;
    free(list);
    if (fd >= 0) close(fd);
    return later;
}

static int segment_note(struct recon *r, uint64_t segment, struct err *err) {
    int64_t created_us;
    if (segment_begun(r, segment, &created_us, err) != 0) return err->code == ENOENT ? 0 : -1;
    r->segment = segment;
    return db_meta_set(r->db, "log_segment", (int64_t)segment, err) != 0 ||
                   db_meta_set(r->db, "log_created_us", created_us, err) != 0
               ? -1
               : 0;
}

/* Another log counts its entries from 1 again: those below `counted` would be taken for counted. */
static int log_check(struct recon *r, struct err *err) {
    int64_t created_us;
    struct err why;
    r->segment = (uint64_t)db_meta_get(r->db, "log_segment", 0);
    if (r->segment == 0) return 0;
    if (segment_begun(r, r->segment, &created_us, &why) == 0) {
        if (created_us == db_meta_get(r->db, "log_created_us", 0)) return 0;
    } else if (why.code != ENOENT || all_later(r, r->segment)) {
        return 0; /* what is wrong with it will be told by who reads it */
    }
    return err_set(err, EX_DATAERR,
                   "the audit log is not the one that was counted: bring that back, or move %s away too", r->dir);
}

static int core_open(struct recon *r, struct err *err) {
    int64_t sequence = db_meta_get(r->db, "sequence", 0);
    if (log_check(r, err) != 0) return -1;
    r->counted = (uint64_t)sequence;
    if (sequence == 0 && db_meta_get(r->db, "begun_ms", 0) == 0 &&
        db_meta_set(r->db, "begun_ms", clock_wall_ms(r->worker->clock), err) != 0)
        return -1;
    r->shared = db_meta_get(r->db, "shared", 0) != 0;
    memset(r->limited, 0, sizeof r->limited);
    r->count = count_open(r->db, r->dir, r->config, clock_wall_ms(r->worker->clock), err);
    if (r->count == NULL) return -1;
    count_shared(r->count, r->shared);
    r->judge = judge_open(r->db, r->count, r->config, err);
    if (r->judge == NULL) return -1;
    if (r->shared) judge_shared(r->judge);
    r->read_us = db_meta_get(r->db, "read_us", 0);
    judge_lost(r->judge, db_meta_get(r->db, "entries_lost_from_ms", 0), db_meta_get(r->db, "entries_lost_to_ms", 0));
    if (accounts_start(r, err) != 0) return -1;
    r->scan = scan_open(r->count, r->config, r->evidence);
    uint64_t from = scan_from(r->scan, r->counted), live = live_sequence(r->live);
    if (live < from) from = live;
    /* Not 0, the oldest there is: what was not counted and is gone has to be told. */
    r->reader = log_reader_open(r->log_dir, from > 0 ? from : 1, err);
    if (r->reader == NULL) return -1;
    log_reader_direct(r->reader);
    return 0;
}

/* The folders may be there before audit has made them, or not. */
static int folders_make(struct recon *r, struct err *err) {
    if ((mkdir(r->dir, 0750) == 0 || errno == EEXIST) && (mkdir(r->log_dir, 0750) == 0 || errno == EEXIST)) return 0;
    return err_set(err, EX_IOERR, "%s: %s", r->dir, strerror(errno));
}

static int parts_open(struct recon *r, struct err *err) {
    char path[PATH_BYTES + 32], live[PATH_BYTES + 16];
    db_path(r->config, path);
    live_dir(r->config, live);
    if (folders_make(r, err) != 0 || (r->db = db_open(path, err)) == NULL) return -1;
    if ((r->live = live_open_writer(live, err)) == NULL) return -1;
    if ((r->notify = notify_open(r->db, r->config, r->worker->clock, err)) == NULL) return -1;
    r->cover = cover_new(r->db, r->config, &r->worker->stats, cover_ask_supervisor);
    return core_open(r, err);
}

struct recon *recon_open(struct worker *w, const struct evidence_port *evidence, struct err *err) {
    struct recon *r = calloc(1, sizeof *r);
    CHECK(r != NULL);
    r->worker = w;
    r->config = w->config;
    r->evidence = evidence;
    r->taken = malloc(TAKEN_MAX * sizeof *r->taken);
    CHECK(r->taken != NULL);
    snprintf(r->dir, sizeof r->dir, "%s/recon", r->config->data_dir);
    snprintf(r->check_path, sizeof r->check_path, "%s/check", r->dir);
    log_dir(r->config, r->log_dir);
    if (parts_open(r, err) == 0) return r;
    recon_close(r);
    /* Of SQLite, or an errno: what is read or written. */
    if (err->code < EX__BASE)
        err->code = err->code == SQLITE_CORRUPT || err->code == SQLITE_NOTADB ? EX_DATAERR : EX_IOERR;
    return NULL;
}

void recon_close(struct recon *r) {
    if (r == NULL) return;
    core_close(r);
    cover_free(r->cover);
    notify_close(r->notify);
    live_close(r->live);
    sqlite3_close(r->db);
    digest_key_clear(&r->account_key);
    free(r->taken);
    free(r);
}

size_t recon_manifests(struct recon *r, struct evidence_from *out, size_t max) {
    sqlite3_stmt *s;
    size_t n = 0;
    if (db_prepare(r->db, "SELECT partition, next FROM place WHERE topic = -1", &s, NULL) != 0) return 0;
    for (; n < max && sqlite3_step(s) == SQLITE_ROW; n++)
        out[n] = (struct evidence_from){sqlite3_column_int(s, 0), sqlite3_column_int64(s, 1)};
    sqlite3_finalize(s);
    return n;
}

/* -- what Kafka says --------------------------------------------------------------------------- */

/* Where to go on: the manifest topic's partitions stand in table place under topic -1. */
static int manifest_place(struct recon *r, const struct evidence *e, struct err *err) {
    sqlite3_stmt *s;
    if (db_prepare(r->db,
                   "INSERT OR REPLACE INTO place(topic, partition, first, next, epoch, scan_sequence) "
                   "VALUES(-1, ?1, 0, ?2, 0, 0)",
                   &s, err) != 0)
        return -1;
    sqlite3_bind_int64(s, 1, e->partition);
    sqlite3_bind_int64(s, 2, e->offset + 1);
    int status = db_step(s, err);
    sqlite3_finalize(s);
    return status;
}

static int manifest_take(struct recon *r, const struct evidence *e, int64_t now_ms, struct err *err) {
    struct manifest m;
    struct err why = {0};
    int status = manifest_parse(e->text, e->text_bytes, &m, &why);
    if (status == 0) status = manifest_store(r->db, r->count, r->config, &m, now_ms, &why);
    if (status < 0 && why.code != EX_DATAERR) {
        *err = why;
        return -1;
    }
    if (status < 0) {
        stats_add(&r->worker->local, M_recon_manifest_refuse, 1);
        log_warn("recon.manifest_refused", "%s/%" PRId32 "/%" PRId64 ": %s", r->config->recon.manifest_topic,
                 e->partition, e->offset, why.text);
    }
    stats_add(&r->worker->local, M_recon_manifest, status == 1);
    return manifest_place(r, e, err);
}

static int round_take(struct recon *r, const struct evidence *e, struct err *err) {
    judge_round(r->judge, e->began_ms);
    r->trouble[0] = 0;
    if (r->question_ms != 0 && e->began_ms >= r->question_ms) r->question_round_ms = e->began_ms;
    if ((e->members <= 1 && !e->others) || r->shared) return 0;
    log_info("recon.group_shared", "other instances of group %s have or had partitions of these topics%s",
             r->config->kafka.group_id, r->others == NULL ? "; without recon.anchor_topic they tell nothing" : "");
    r->shared = true;
    count_shared(r->count, true);
    count_elsewhere(r->count);
    judge_shared(r->judge);
    return db_meta_set(r->db, "shared", 1, err);
}

static int evidence_take(struct recon *r, const struct evidence *e, int64_t now_ms, struct err *err) {
    switch (e->type) {
    case EVIDENCE_MESSAGE: return e->manifest ? manifest_take(r, e, now_ms, err) : scan_take(r->scan, e, now_ms, err);
    case EVIDENCE_VOID:
    case EVIDENCE_GONE: return scan_take(r->scan, e, now_ms, err);
    case EVIDENCE_ENDS: judge_ends(r->judge, e->topic, e->partition, e->low, e->high, e->committed); return 0;
    case EVIDENCE_ROUND: return round_take(r, e, err);
    case EVIDENCE_TROUBLE:
        log_warn("recon.kafka_trouble", "%s", e->text);
        stats_add(&r->worker->local, M_recon_kafka_error, 1);
        snprintf(r->trouble, sizeof r->trouble, "Kafka cannot be asked: %.150s", e->text);
    }
    return 0;
}

/* -- the transaction --------------------------------------------------------------------------- */

static int begin(struct recon *r, struct err *err) {
    if (r->open) return 0;
    if (db_run(r->db, "BEGIN IMMEDIATE", err) != 0) return -1;
    r->open = true;
    FAULT("recon:begun");
    return 0;
}

/* Takes what has come and is kept until the transaction is through: it does not come again. */
static int evidence_read(struct recon *r, int64_t now_ms, struct err *err) {
    size_t kept = r->taken_count;
    while (r->evidence != NULL && r->taken_count < TAKEN_MAX &&
           r->evidence->next(r->evidence->self, &r->taken[r->taken_count]))
        r->taken_count++;
    if (r->taken_count > kept || kept > 0) {
        if (begin(r, err) != 0) return -1;
    }
    for (size_t i = 0; i < r->taken_count; i++)
        if (evidence_take(r, &r->taken[i], now_ms, err) != 0) return -1;
    return 0;
}

static int gone(struct recon *r, int64_t now_ms, struct err *err) {
    uint64_t oldest = log_reader_sequence(r->reader);
    if (oldest <= r->counted) return 0; /* what was wanted again is not there: only digests for a scan */
    if (r->counted == 0) return 0;      /* nothing was counted ever: it begins with what there is */
    if (begin(r, err) != 0) return -1;
    log_error("recon.entries_lost",
              "the audit log's retention removed entries %" PRIu64 "-%" PRIu64 " before they were counted", r->counted,
              oldest - 1);
    const struct exception_about about = {EXCEPTION_EVIDENCE_LOST, "", -1, "entries"};
    int64_t lost = db_meta_get(r->db, "entries_lost", 0) + (int64_t)(oldest - r->counted);
    int64_t from_ms = r->read_us / 1000 - (int64_t)r->config->recon.window_ms - (int64_t)r->config->recon.late_after_ms;
    int64_t known_ms = db_meta_get(r->db, "entries_lost_from_ms", from_ms);
    int status =
        db_meta_set(r->db, "entries_lost", lost, err) != 0 ||
                db_meta_set(r->db, "entries_lost_from_ms", known_ms < from_ms ? known_ms : from_ms, err) != 0
            ? -1
            : exception_raise(r->db, r->config, &about, lost, now_ms, err,
                              "the audit log's retention removed %" PRId64 " entries before they were "
                              "counted, the last of them %" PRIu64 "-%" PRIu64 ": windows of that time stay pending",
                              lost, r->counted, oldest - 1);
    r->counted = oldest;
    r->lost_open = true;
    return status;
}

/* Up to when entries may be of the time that was lost: the first one behind it was written then. */
static int lost_end(struct recon *r, const struct log_item *item, struct err *err) {
    r->lost_open = false;
    if (db_meta_set(r->db, "entries_lost_to_ms", item->written_us / 1000, err) != 0) return -1;
    judge_lost(r->judge, db_meta_get(r->db, "entries_lost_from_ms", 0), item->written_us / 1000);
    return 0;
}

static int entry_take(struct recon *r, const struct log_item *item, struct err *err) {
    struct count_result result = {0};
    if (item->sequence >= r->counted) {
        if (begin(r, err) != 0 || (r->lost_open && lost_end(r, item, err) != 0) ||
            count_entry(r->count, item, &result, err) != 0)
            return -1;
        if (item->segment != r->segment && segment_note(r, item->segment, err) != 0) return -1;
        r->counted = item->sequence + 1;
        r->read_us = item->written_us;
        stats_add(&r->worker->local, M_recon_entry, 1);
        if (!result.repeat) scan_logged(r->scan, result.partition, result.start_ms, item);
    } else { /* counted before this process: only for the scan, and for the live keys */
        if (begin(r, err) != 0 || count_again(r->count, item, &result, err) != 0) return -1;
        if (result.partition != NULL) scan_logged(r->scan, result.partition, result.start_ms, item);
    }
    return live_apply(r->live, item, err);
}

/* Reads the log until its end, or as much as belongs in one transaction. */
static int log_read_on(struct recon *r, int64_t now_ms, struct err *err) {
    uint64_t until = clock_ns(r->worker->clock) + BATCH_MS * NS_PER_MS;
    r->ended = false;
    r->full = false;
    for (int i = 0; i < ENTRIES_MAX; i++) {
        struct log_item item;
        if (scan_full(r->scan)) {
            r->full = true;
            return 0;
        }
        if ((i & 255) == 255 && clock_ns(r->worker->clock) >= until) return 0;
        switch (log_reader_next(r->reader, &item, err)) {
        case LOG_ITEM:
            if (entry_take(r, &item, err) != 0) return -1;
            break;
        case LOG_END: r->ended = true; return 0;
        case LOG_GONE:
            if (gone(r, now_ms, err) != 0) return -1;
            break;
        case LOG_BAD: return -1;
        }
    }
    return 0;
}

/* Whether what was asked can be answered now: Kafka has answered after the question, the log was read after that, and
 * all that was published before is settled; or that takes too long. */
static bool question_ripe(const struct recon *r, uint64_t now) {
    if (r->question_ms == 0 || !r->ended) return false;
    if (now >= r->question_due_ns) return true;
    if (r->question_round_ms == 0 || r->full) return false;
    for (uint32_t t = 0; t < r->config->topic_count; t++)
        if (r->evidence != NULL && judge_settled(r->judge, t) < r->question_ms) return false;
    return true;
}

static int judge_all(struct recon *r, int64_t now_ms, struct err *err) {
    int n;
    while ((n = judge_windows(r->judge, now_ms, true, err)) == JUDGE_WINDOWS_MAX) continue;
    if (n < 0) return -1;
    stats_add(&r->worker->local, M_recon_check, 1);
    r->answered = true;
    return r->question_asked ? db_meta_set(r->db, "answered_ms", r->question_ms, err) : 0;
}

/* What was not told apart because there are too many of a kind: open until an hour has brought no more of it. */
static int limits_tell(struct recon *r, int64_t now_ms, struct err *err) {
    for (int l = 0; l < LIMIT_COUNT; l++) {
        const struct exception_about about = {EXCEPTION_LIMIT_REACHED, "", -1, count_limit_name((enum count_limit)l)};
        int64_t n = count_limited(r->count, (enum count_limit)l);
        if (n == r->limited[l]) continue;
        stats_add(&r->worker->local, M_recon_record_merge, (uint64_t)(n - r->limited[l]));
        r->limited[l] = n;
        r->limited_ms[l] = now_ms;
        if (exception_raise(r->db, r->config, &about, n, now_ms, err,
                            "more %s than recon keeps: %" PRId64 " records are counted and not told apart by them",
                            about.subject, n) != 0)
            return -1;
    }
    return 0;
}

static int judge_some(struct recon *r, int64_t now_ms, uint64_t now, struct err *err) {
    bool due = now >= r->judge_ns && (r->ended || now >= r->judge_ns + JUDGE_LATEST_MS * NS_PER_MS);
    if (!due && r->question_ms == 0) return 0;
    if (begin(r, err) != 0 || count_flush(r->count, r->counted, now_ms, err) != 0) return -1;
    if (r->ended && judge_log_end(r->judge, err) != 0) return -1;
    if (question_ripe(r, now)) return judge_all(r, now_ms, err);
    if (!due) return 0;
    int n = judge_windows(r->judge, now_ms, false, err);
    if (n < 0) return -1;
    if (n < JUDGE_WINDOWS_MAX) r->judge_ns = now + JUDGE_MS * NS_PER_MS;
    struct judge_counts counts;
    if (judge_total(r->judge, &counts, err) != 0) return -1;
    stats_set(&r->worker->local, M_recon_window_pending, (uint64_t)counts.windows[WINDOW_PENDING]);
    stats_set(&r->worker->local, M_recon_window_matched, (uint64_t)counts.windows[WINDOW_MATCHED]);
    stats_set(&r->worker->local, M_recon_window_late, (uint64_t)counts.windows[WINDOW_LATE]);
    stats_set(&r->worker->local, M_recon_window_mismatch, (uint64_t)counts.windows[WINDOW_MISMATCH]);
    stats_set(&r->worker->local, M_recon_record_unexplained, (uint64_t)counts.unexplained);
    if (limits_tell(r, now_ms, err) != 0) return -1;
    int64_t open = exception_open_count(r->db, EXCEPTION_KIND_COUNT, err);
    if (open < 0) return -1;
    stats_set(&r->worker->local, M_recon_exception_open, (uint64_t)open);
    stats_set(&r->worker->local, M_recon_check_timestamp, (uint64_t)now_ms * NS_PER_MS);
    return 0;
}

static int limits_clear(struct recon *r, int64_t now_ms, struct err *err) {
    for (int l = 0; l < LIMIT_COUNT; l++) {
        const struct exception_about about = {EXCEPTION_LIMIT_REACHED, "", -1, count_limit_name((enum count_limit)l)};
        if (now_ms - r->limited_ms[l] > FORGET_MS && exception_clear(r->db, &about, now_ms, err) != 0) return -1;
    }
    return 0;
}

static int forget_old(struct recon *r, int64_t now_ms, uint64_t now, struct err *err) {
    if (now < r->forget_ns) return 0;
    int64_t before = now_ms - (int64_t)r->config->recon.retention_ms;
    if (begin(r, err) != 0 || count_flush(r->count, r->counted, now_ms, err) != 0 ||
        judge_forget(r->judge, before, err) != 0 || exception_forget(r->db, before, err) != 0 ||
        count_forgot(r->count, err) != 0 || limits_clear(r, now_ms, err) != 0)
        return -1;
    r->forget_ns = now + FORGET_MS * NS_PER_MS;
    return 0;
}

/* What the others have told, and what they are to be told. */
static int accounts_look(struct recon *r, uint64_t now, struct err *err) {
    if (r->accounts == NULL || now < r->accounts_ns) return 0;
    if (begin(r, err) != 0) return -1;
    int moved = accounts_step(r->accounts, err);
    if (moved < 0) return -1;
    r->accounts_ns = moved > 0 ? 0 : now + ACCOUNTS_MS * NS_PER_MS;
    return 0;
}

/* The file of anchors only grows. What recon.db remembers of it tells when somebody has taken something away. */
static int anchors_look(struct recon *r, int64_t now_ms, uint64_t now, struct err *err) {
    char path[PATH_BYTES + 32];
    struct stat st = {0};
    if (now < r->anchors_ns) return 0;
    r->anchors_ns = now + ANCHORS_LOOK_MS * NS_PER_MS;
    snprintf(path, sizeof path, "%s/%s", r->log_dir, ANCHORS_NAME);
    if (stat(path, &st) != 0 && errno != ENOENT) return 0;
    int64_t before = db_meta_get(r->db, "anchors_bytes", 0);
    if (st.st_size == before) return 0;
    if (begin(r, err) != 0 || db_meta_set(r->db, "anchors_bytes", st.st_size, err) != 0) return -1;
    if (st.st_size + ANCHOR_LINE_BYTES > before && st.st_size > 0) return 0; /* a line that was not whole is cut off */
    const struct exception_about about = {EXCEPTION_EVIDENCE_LOST, "", -1, "anchors"};
    return exception_raise(r->db, r->config, &about, 0, now_ms, err,
                           "the file of anchors had %" PRId64 " bytes and has %" PRId64
                           ": what was signed stands in the copies alone (journal, recon.anchor_topic)",
                           before, (int64_t)st.st_size);
}

static int finish(struct recon *r, int64_t now_ms, struct err *err) {
    if (!r->open) return 0;
    FAULT("recon:commit");
    if (count_flush(r->count, r->counted, now_ms, err) != 0 || db_meta_set(r->db, "read_us", r->read_us, err) != 0 ||
        db_meta_set(r->db, "behind", !r->ended, err) != 0 ||
        db_meta_set(r->db, "window_ms", r->config->recon.window_ms, err) != 0 || db_run(r->db, "COMMIT", err) != 0)
        return -1;
    FAULT("recon:committed");
    r->open = false;
    r->taken_count = 0;
    if (!r->answered) return 0;
    r->answered = r->question_asked = false;
    r->question_ms = r->question_round_ms = 0;
    return 0;
}

static int transaction(struct recon *r, struct err *err) {
    int64_t now_ms = clock_wall_ms(r->worker->clock);
    uint64_t now = clock_ns(r->worker->clock);
    if (evidence_read(r, now_ms, err) != 0 || log_read_on(r, now_ms, err) != 0 || accounts_look(r, now, err) != 0 ||
        judge_some(r, now_ms, now, err) != 0 || forget_old(r, now_ms, now, err) != 0 ||
        anchors_look(r, now_ms, now, err) != 0 || finish(r, now_ms, err) != 0)
        return -1;
    if (r->ended && r->accounts != NULL) accounts_log_end(r->accounts);
    /* Beyond what was counted it may look only when all that is committed was: else that would be missing. */
    if (r->ended || r->full) scan_ask(r->scan, r->judge, r->shared || !r->ended, now);
    return live_commit(r->live, now_ms, err);
}

/* -- steps ------------------------------------------------------------------------------------- */

static enum step failed(struct recon *r, const struct err *err) {
    if (r->open) db_run(r->db, "ROLLBACK", NULL);
    r->open = false;
    core_close(r);
    r->retry_ns = clock_ns(r->worker->clock) + RETRY_MS * NS_PER_MS;
    stats_add(&r->worker->local, M_recon_store_fail, 1);
    worker_state(r->worker, STATE_BLOCKED, "%s", err->text);
    log_error("recon.cannot_go_on", "%s", err->text);
    return STEP_BLOCKED;
}

static void question_put(struct recon *r, uint64_t now, uint64_t patience_ms) {
    r->question_ms = clock_wall_ms(r->worker->clock);
    r->question_due_ns = now + patience_ms * NS_PER_MS;
    r->question_round_ms = 0;
    if (r->evidence != NULL)
        r->evidence->hurry(r->evidence->self);
    else
        r->question_round_ms = r->question_ms;
}

/* A person's question, left as a file. */
static void question_look(struct recon *r, uint64_t now) {
    if (now < r->look_ns || r->question_ms != 0) return;
    r->look_ns = now + LOOK_MS * NS_PER_MS;
    if (unlink(r->check_path) != 0) return;
    r->question_asked = true;
    question_put(r, now, RECON_ANSWER_MS);
}

/* The last check, which a drain waits for. */
static void drain_look(struct recon *r, uint64_t now) {
    if (worker_mode(r->worker) != CONTROL_DRAIN || r->draining) return;
    r->draining = true;
    question_put(r, now, RECON_DRAIN_MS);
}

/* The others are told that no more will come, for as long as that can be waited for. */
static bool leaving(struct recon *r) {
    uint64_t now = clock_ns(r->worker->clock);
    if (r->accounts == NULL) return false;
    if (r->leave_due_ns == 0) r->leave_due_ns = now + RECON_DRAIN_MS * NS_PER_MS;
    accounts_leave(r->accounts);
    return now < r->leave_due_ns && !accounts_told(r->accounts);
}

static enum step drain_step(struct recon *r) {
    struct err err = {0};
    if (r->question_ms != 0) return STEP_IDLE; /* the answer is not there yet */
    if (leaving(r)) return STEP_IDLE;
    if (live_flush(r->live, &err) != 0) log_error("recon.cannot_go_on", "%s", err.text);
    return STEP_DONE;
}

static void show(struct recon *r) {
    const struct stats_block *audit = stats_block(&r->worker->stats, stats_block_index(ROLE_AUDIT, r->config->lanes));
    uint64_t last = atomic_load_explicit(&audit->value[M_audit_sequence], memory_order_relaxed);
    struct notify_counts sent = notify_counts(r->notify);
    stats_set(&r->worker->local, M_recon_entry_behind, last >= r->counted ? last + 1 - r->counted : 0);
    stats_add(&r->worker->local, M_recon_exception_sent, sent.sent - r->sent.sent);
    stats_add(&r->worker->local, M_recon_exception_send_fail, sent.failed - r->sent.failed);
    r->sent = sent;
    if (r->full)
        worker_state(r->worker, STATE_RUNNING, "the scan of a topic has to catch up with the log");
    else
        worker_state(r->worker, STATE_RUNNING, "%s", r->trouble);
}

/* A segment that is closed gets its index when there is nothing else to do. */
static bool index_look(struct recon *r) {
    struct err err;
    uint64_t now = clock_ns(r->worker->clock);
    if (now < r->index_ns) return false;
    int made = index_build_next(r->log_dir, &err);
    if (made < 0) log_warn("recon.index_failed", "%s", err.text);
    r->index_ns = made == 1 ? 0 : now + INDEX_LOOK_MS * NS_PER_MS;
    return made == 1;
}

/* What it keeps is written now and then, outside of the step's transaction. */
static void cover_look(struct recon *r, uint64_t now) {
    struct err err = {0};
    if (r->open || now < r->cover_ns || worker_mode(r->worker) != CONTROL_RUN) return;
    r->cover_ns = now + COVER_MS * NS_PER_MS;
    if (cover_step(r->cover, clock_wall_ms(r->worker->clock), &err) != 0)
        log_warn("recon.cover_failed", "%s", err.text);
}

enum step recon_step(void *self) {
    struct recon *r = self;
    struct err err = {0};
    uint64_t now = clock_ns(r->worker->clock);
    if (worker_mode(r->worker) == CONTROL_LEAVE) return STEP_DONE;
    bool told = notify_attend(r->notify, r->worker);
    if (r->count == NULL) {
        if (worker_mode(r->worker) == CONTROL_DRAIN) return STEP_DONE;
        if (now < r->retry_ns) return told ? STEP_BUSY : STEP_BLOCKED;
        if (core_open(r, &err) != 0) return failed(r, &err);
    }
    question_look(r, now);
    drain_look(r, now);
    if (transaction(r, &err) != 0) return failed(r, &err);
    show(r);
    if (!r->ended && !r->full) return STEP_BUSY;
    cover_look(r, now);
    if (r->draining && r->ended) return drain_step(r);
    if (index_look(r)) return STEP_BUSY;
    return told ? STEP_BUSY : STEP_IDLE;
}

/* Nobody rings: the log is looked at again after the wait. */
bool recon_arm(void *self) {
    (void)self;
    return false;
}

void recon_disarm(void *self) { (void)self; }

int recon_wants(void *self, struct pollfd *fds, int max, int *timeout_ms) {
    struct recon *r = self;
    int n = notify_wants(r->notify, fds, max, timeout_ms);
    if (n < max && r->evidence != NULL && r->evidence->wake_fd >= 0)
        fds[n++] = (struct pollfd){.fd = r->evidence->wake_fd, .events = POLLIN};
    return n;
}

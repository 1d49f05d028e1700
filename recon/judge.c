#include "recon/judge.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/log.h"
#include "base/utc.h"
#include "recon/exception.h"
#include "shm/record.h"

/* Why a window is what it is: the one that stands first wins. What is an exception raises one; the rest is an event,
 * which is counted and listed and calls nobody. */
enum finding {
    FINDING_LOST,
    FINDING_UNEXPLAINED,
    FINDING_OTHER_KEY,
    FINDING_ALTERED,
    FINDING_DIGEST,
    FINDING_BYTES,
    FINDING_UNPUBLISHED,
    FINDING_LATE,
    FINDING_UNPROVEN,
    FINDING_GONE,
    FINDING_ELSEWHERE,
    FINDING_BEFORE,
    FINDING_IN_FLIGHT,
    FINDING_UNDECLARED,
    FINDING_WAITING,
    FINDING_OPEN,
    FINDING_NONE,
    FINDING_COUNT
};

static const struct {
    enum db_window state;
    enum exception_kind exception; /* EXCEPTION_KIND_COUNT: an event */
    const char *reason;
} rules[FINDING_COUNT] = {
    [FINDING_LOST] = {WINDOW_PENDING, EXCEPTION_KIND_COUNT,
                      "entries of this time were removed before they were counted"},
    [FINDING_UNEXPLAINED] = {WINDOW_MISMATCH, EXCEPTION_UNEXPLAINED, "records are missing"},
    [FINDING_OTHER_KEY] = {WINDOW_MISMATCH, EXCEPTION_WINDOW_MISMATCH,
                           "no digest agrees: altered, or the producers have another recon.keys"},
    [FINDING_ALTERED] = {WINDOW_MISMATCH, EXCEPTION_WINDOW_MISMATCH, "records were altered on their way"},
    [FINDING_DIGEST] = {WINDOW_MISMATCH, EXCEPTION_WINDOW_MISMATCH, "the sum of the digests differs"},
    [FINDING_BYTES] = {WINDOW_MISMATCH, EXCEPTION_WINDOW_MISMATCH, "the number of bytes differs"},
    [FINDING_UNPUBLISHED] = {WINDOW_MISMATCH, EXCEPTION_WINDOW_MISMATCH, "records that nobody says he has published"},
    [FINDING_LATE] = {WINDOW_LATE, EXCEPTION_WINDOW_LATE, "still not complete after recon.late_after"},
    [FINDING_UNPROVEN] = {WINDOW_PENDING, EXCEPTION_KIND_COUNT, "nothing is missing; offsets alone prove no match"},
    [FINDING_GONE] = {WINDOW_PENDING, EXCEPTION_EVIDENCE_LOST,
                      "Kafka no longer keeps some of the records: they cannot be compared"},
    [FINDING_ELSEWHERE] = {WINDOW_PENDING, EXCEPTION_KIND_COUNT,
                           "the rest may be in the logs of other instances; recon.anchor_topic lets them tell"},
    [FINDING_BEFORE] = {WINDOW_PENDING, EXCEPTION_KIND_COUNT, "from before this instance began to count"},
    [FINDING_IN_FLIGHT] = {WINDOW_PENDING, EXCEPTION_KIND_COUNT, "records are on their way"},
    [FINDING_UNDECLARED] = {WINDOW_PENDING, EXCEPTION_KIND_COUNT, "manifests are still to come"},
    [FINDING_WAITING] = {WINDOW_PENDING, EXCEPTION_KIND_COUNT, "not all of the topic has been looked at yet"},
    [FINDING_OPEN] = {WINDOW_PENDING, EXCEPTION_KIND_COUNT, "not over yet"},
    [FINDING_NONE] = {WINDOW_MATCHED, EXCEPTION_KIND_COUNT, ""},
};

enum statement {
    S_DUE,
    S_ALL,
    S_TALLY,
    S_MANIFESTS,
    S_ORIGINS,
    S_FOUND,
    S_FOUND_DROP,
    S_WINDOW,
    S_WINDOW_PUT,
    S_CHANGE_PUT,
    S_SETTLED,
    S_LOADS,
    S_LOAD_TALLY,
    S_LOAD_PUT,
    S_TOTAL,
    STATEMENT_COUNT
};

static const char *const sql[STATEMENT_COUNT] = {
    [S_DUE] = "SELECT topic, start_ms FROM window WHERE dirty = 1 OR next_ms <= ?1 LIMIT ?2",
    [S_ALL] = "SELECT topic, start_ms FROM window WHERE checked_ms < ?1 LIMIT ?2",
    [S_TALLY] = "SELECT total(seen), total(duplicate), total(altered), total(undeclared), total(published), "
                "total(CASE instance WHEN 0 THEN published - seen ELSE 0 END) FROM tally "
                "WHERE topic = ?1 AND start_ms = ?2",
    [S_MANIFESTS] = "SELECT producer, first_sequence, last_sequence, count, bytes, digest_sum, noted_ms FROM manifest "
                    "WHERE topic = ?1 AND start_ms = ?2 ORDER BY producer, first_sequence",
    [S_ORIGINS] = "SELECT producer, seen, bytes, digested, digest_sum FROM origin WHERE topic = ?1 AND start_ms = ?2 "
                  "ORDER BY producer",
    [S_FOUND] = "SELECT count(*) FROM record WHERE topic = ?1 AND start_ms = ?2 AND kind = ?3",
    [S_FOUND_DROP] = "DELETE FROM record WHERE topic = ?1 AND start_ms = ?2 AND kind IN (0, 1)",
    [S_WINDOW] = "SELECT state, evidence, reason, since_ms, unexplained, in_flight FROM window WHERE topic = ?1 "
                 "AND start_ms = ?2",
    [S_WINDOW_PUT] = "UPDATE window SET state = ?3, published = ?4, seen = ?5, in_flight = ?6, unexplained = ?7, "
                     "unpublished = ?8, reason = ?9, since_ms = ?10, checked_ms = ?11, next_ms = ?12, dirty = 0 "
                     "WHERE topic = ?1 AND start_ms = ?2",
    [S_CHANGE_PUT] = "INSERT INTO window_change(topic, start_ms, at_ms, before, after, reason) VALUES(?,?,?,?,?,?)",
    [S_SETTLED] = "UPDATE window SET dirty = 1 WHERE topic = ?1 AND state IN (0, 2) AND evidence <> 2",
    [S_LOADS] = "SELECT id, topic, producer, state, changed_ms, ended_ms, aborted, count, digest_sum, first_sequence, "
                "last_sequence, unexplained, created_ms FROM load WHERE state IN (0, 1, 3) AND (id > ?1 OR (id = ?1 "
                "AND topic > ?2)) "
                "ORDER BY id, topic LIMIT ?3",
    [S_LOAD_TALLY] = "SELECT seen - duplicate, digested, digest_sum FROM load_tally WHERE load = ?1 AND topic = ?2",
    [S_LOAD_PUT] = "UPDATE load SET state = ?3, unexplained = ?4, reason = ?5 WHERE id = ?1 AND topic = ?2",
    [S_TOTAL] = "SELECT state, count(*), total(unexplained) FROM window GROUP BY state",
};
static_assert(FOUND_UNEXPLAINED == 0 && FOUND_IN_FLIGHT == 1 && WINDOW_PENDING == 0 && WINDOW_LATE == 2 &&
                  EVIDENCE_OFFSETS == 2 && LOAD_RUNNING == 0 && LOAD_COMPLETE == 1 && LOAD_INCOMPLETE == 3,
              "as the statements have it");

struct end { /* of a partition */
    int32_t partition;
    int64_t low, high, committed;
    int64_t target;
    int64_t told; /* committed, as of the last whole round; -1 none */
};

struct front { /* of a topic: how far it is settled */
    struct end *end;
    size_t ends;
    int64_t target_ms;  /* when the brokers were asked for the targets; 0: there are none */
    uint64_t beat;      /* the others have to answer this one first; 0: they were not asked */
    bool passed;        /* the group has committed all of them: the end of the log is still to be read */
    int64_t round_ms;   /* when the last whole round of questions began */
    int64_t settled_ms; /* everything that was published before is in the log, or nowhere */
    int64_t scan_ms;    /* settled, and being scanned up to the targets of that time; 0: nothing is */
    int64_t scanned_ms; /* … and scanned */
    int64_t *scan_target;
    size_t scan_targets;
};

struct judge {
    sqlite3 *db;
    struct count *count;
    const struct config *config;
    sqlite3_stmt *statement[STATEMENT_COUNT];
    struct front front[TOPICS_MAX];
    struct accounts *accounts; /* NULL: there are none */
    bool shared;
    int64_t lost_from_ms, lost_to_ms; /* event times of entries that nobody has counted */
    int64_t begun_ms;                 /* when the database was made: what is older may never have been counted */
    uint8_t load_id[16];              /* of the load that was judged last: the next ones have their turn */
    int64_t load_topic;
};

static sqlite3_stmt *use(struct judge *j, enum statement s, int64_t a, int64_t b) {
    sqlite3_stmt *it = j->statement[s];
    sqlite3_reset(it);
    sqlite3_bind_int64(it, 1, a);
    sqlite3_bind_int64(it, 2, b);
    return it;
}

struct judge *judge_open(sqlite3 *db, struct count *count, const struct config *config, struct err *err) {
    struct judge *j = calloc(1, sizeof *j);
    CHECK(j != NULL);
    j->db = db;
    j->count = count;
    j->config = config;
    j->begun_ms = db_meta_get(db, "begun_ms", 0);
    for (int i = 0; i < STATEMENT_COUNT; i++)
        if (db_prepare(db, sql[i], &j->statement[i], err) != 0) {
            judge_close(j);
            return NULL;
        }
    return j;
}

void judge_close(struct judge *j) {
    if (j == NULL) return;
    for (int i = 0; i < STATEMENT_COUNT; i++) sqlite3_finalize(j->statement[i]);
    for (int i = 0; i < TOPICS_MAX; i++) {
        free(j->front[i].end);
        free(j->front[i].scan_target);
    }
    free(j);
}

void judge_shared(struct judge *j) { j->shared = true; }

void judge_lost(struct judge *j, int64_t from_ms, int64_t to_ms) {
    j->lost_from_ms = from_ms;
    j->lost_to_ms = to_ms;
}

/* -- how far a topic is settled ---------------------------------------------------------------- */

static struct end *end_find(const struct front *f, int32_t partition) {
    for (size_t i = 0; i < f->ends; i++)
        if (f->end[i].partition == partition) return &f->end[i];
    return NULL;
}

void judge_ends(struct judge *j, uint32_t topic, int32_t partition, int64_t low, int64_t high, int64_t committed) {
    struct front *f = &j->front[topic];
    struct end *e = end_find(f, partition);
    if (e == NULL) {
        f->end = realloc(f->end, (f->ends + 1) * sizeof *f->end);
        CHECK(f->end != NULL);
        e = &f->end[f->ends++];
        *e = (struct end){
            .partition = partition, .target = INT64_MAX, .told = -1}; /* of no use to the targets there are */
        f->target_ms = 0;
    }
    e->low = low;
    e->high = high;
    e->committed = committed;
}

/* A partition without records has nothing to commit. */
static bool reached(const struct end *e) { return e->committed >= e->target || e->low >= e->target; }

void judge_round(struct judge *j, int64_t began_ms) {
    for (uint32_t t = 0; t < j->config->topic_count; t++) {
        struct front *f = &j->front[t];
        bool all = f->ends > 0;
        if (f->target_ms == 0) {
            for (size_t i = 0; i < f->ends; i++) f->end[i].target = f->end[i].high;
            f->target_ms = f->ends > 0 ? began_ms : 0;
        }
        for (size_t i = 0; i < f->ends; i++) {
            all &= reached(&f->end[i]);
            f->end[i].told = f->end[i].committed;
        }
        f->passed |= all;
        f->round_ms = began_ms;
    }
}

int64_t judge_settled(const struct judge *j, uint32_t topic) { return j->front[topic].settled_ms; }

int64_t judge_committed(const struct judge *j, uint32_t topic, int32_t partition) {
    const struct end *e = end_find(&j->front[topic], partition);
    return e != NULL ? e->told : -1;
}

/* Whether all of a partition from where the log begins up to `to` was scanned, or is elsewhere. */
static bool scanned(const struct count_partition *p, int64_t to) {
    struct span gap;
    int64_t from = p->first;
    while (from < to && spans_gap(&p->range[DB_RANGE_SCANNED], from, to - 1, &gap)) {
        if (spans_missing(&p->range[DB_RANGE_ELSEWHERE], gap.first, gap.last) > 0) return false;
        from = gap.last + 1;
    }
    return true;
}

static bool scan_finished(struct judge *j, uint32_t t) {
    struct front *f = &j->front[t];
    for (size_t i = 0; i < f->scan_targets; i++) {
        struct count_partition *p = count_find(j->count, count_topic(j->count, t), f->end[i].partition);
        /* What other members have read is theirs to scan. */
        int64_t to = p != NULL && j->shared && p->next < f->scan_target[i] ? p->next : f->scan_target[i];
        if (p != NULL && !scanned(p, to)) return false;
    }
    return true;
}

static void scan_begin(struct front *f) {
    f->scan_target = realloc(f->scan_target, f->ends * sizeof *f->scan_target);
    CHECK(f->scan_target != NULL || f->ends == 0);
    for (size_t i = 0; i < f->ends; i++) f->scan_target[i] = f->end[i].target;
    f->scan_targets = f->ends;
    f->scan_ms = f->settled_ms;
}

void judge_accounts(struct judge *j, struct accounts *accounts) { j->accounts = accounts; }

/* Whether the group's other instances have told what they had committed when the targets were passed. */
static bool others_told(struct judge *j, struct front *f) {
    if (j->accounts == NULL) return true;
    if (f->beat == 0) f->beat = accounts_ask(j->accounts);
    if (!accounts_answered(j->accounts, f->beat)) return false;
    f->beat = 0;
    return true;
}

int judge_log_end(struct judge *j, struct err *err) {
    for (uint32_t t = 0; t < j->config->topic_count; t++) {
        struct front *f = &j->front[t];
        bool news = f->passed && others_told(j, f);
        if (news) {
            f->settled_ms = f->target_ms;
            if (f->scan_ms == 0) scan_begin(f);
            f->passed = false;
            f->target_ms = 0;
        }
        if (f->scan_ms != 0 && scan_finished(j, t)) {
            f->scanned_ms = f->scan_ms;
            f->scan_ms = 0;
            news = true;
        }
        if (news && db_step(use(j, S_SETTLED, count_topic(j->count, t), 0), err) != 0) return -1;
    }
    return 0;
}

/* -- a window ---------------------------------------------------------------------------------- */

struct verdict {
    int64_t topic, start_ms, end_ms, due_ms; /* due: beyond it the window is late */
    int config;                              /* -1: the topic is not in the configuration any more */
    int64_t now_ms;
    int64_t published, seen, duplicate, in_flight, unexplained, unpublished, altered;
    int64_t scanned_more; /* records that the scan has found here, less those in this instance's log */
    bool digest_differs, bytes_differ, waiting, elsewhere, before, gone;
    bool lost;      /* entries of this time were removed before they were counted */
    bool asked;     /* Kafka was asked when the window was due already: all that was declared until then is known */
    bool unsettled; /* what was published until its end may still be on its way */
};

static int configured(const struct judge *j, int64_t topic) {
    for (uint32_t t = 0; t < j->config->topic_count; t++)
        if (count_topic(j->count, t) == topic) return (int)t;
    return -1;
}

static void blob(sqlite3_stmt *s, int column, uint8_t out[DIGEST_BYTES]) {
    if (sqlite3_column_bytes(s, column) == DIGEST_BYTES) memcpy(out, sqlite3_column_blob(s, column), DIGEST_BYTES);
}

struct claim { /* of one producer in a window: what it declares, and what was logged of it */
    int64_t producer;
    int64_t declared, bytes, noted_ms;
    bool summed;
    uint8_t digest_sum[DIGEST_BYTES];
    int64_t seen, seen_bytes, digested;
    uint8_t seen_sum[DIGEST_BYTES];
    struct span *range; /* the manifests' sequence numbers */
    size_t ranges;
};

struct claims {
    struct claim *at;
    size_t count;
};

/* Of what others declare; neither is negative. Beyond all measure it stays there. */
static int64_t plus(int64_t a, int64_t b) { return a > INT64_MAX - b ? INT64_MAX : a + b; }

static struct claim *claim_of(struct claims *c, int64_t producer) {
    for (size_t i = 0; i < c->count; i++)
        if (c->at[i].producer == producer) return &c->at[i];
    c->at = realloc(c->at, (c->count + 1) * sizeof *c->at);
    CHECK(c->at != NULL);
    c->at[c->count] = (struct claim){.producer = producer, .summed = true};
    return &c->at[c->count++];
}

static void claims_free(struct claims *c) {
    for (size_t i = 0; i < c->count; i++) free(c->at[i].range);
    free(c->at);
}

static void claim_manifest(struct claims *all, sqlite3_stmt *s) {
    struct claim *c = claim_of(all, sqlite3_column_int64(s, 0));
    uint8_t sum[DIGEST_BYTES] = {0};
    c->range = realloc(c->range, (c->ranges + 1) * sizeof *c->range);
    CHECK(c->range != NULL);
    c->range[c->ranges++] = (struct span){sqlite3_column_int64(s, 1), sqlite3_column_int64(s, 2)};
    c->declared = plus(c->declared, sqlite3_column_int64(s, 3));
    c->bytes = plus(c->bytes, sqlite3_column_int64(s, 4));
    c->summed &= sqlite3_column_type(s, 5) == SQLITE_BLOB;
    blob(s, 5, sum);
    digest_sum_add(c->digest_sum, sum);
    if (sqlite3_column_int64(s, 6) > c->noted_ms) c->noted_ms = sqlite3_column_int64(s, 6);
}

static void claim_origin(struct claims *all, sqlite3_stmt *s) {
    struct claim *c = claim_of(all, sqlite3_column_int64(s, 0));
    uint8_t sum[DIGEST_BYTES] = {0};
    c->seen += sqlite3_column_int64(s, 1);
    c->seen_bytes += sqlite3_column_int64(s, 2);
    c->digested += sqlite3_column_int64(s, 3);
    blob(s, 4, sum);
    digest_sum_add(c->seen_sum, sum);
}

static int claims_read(struct judge *j, const struct verdict *v, struct claims *out, struct err *err) {
    int r;
    sqlite3_stmt *s = use(j, S_MANIFESTS, v->topic, v->start_ms);
    while ((r = db_step(s, err)) == 1) claim_manifest(out, s);
    if (r != 0) return -1;
    s = use(j, S_ORIGINS, v->topic, v->start_ms);
    while ((r = db_step(s, err)) == 1) claim_origin(out, s);
    return r;
}

/* Lists up to `limit` of the sequence numbers that a producer has declared and nobody has seen. Returns how many were
 * listed or, beyond DB_RECORDS_MAX, counted; -1 with err. */
static int64_t missing_list(struct judge *j, const struct verdict *v, const struct claim *c, enum db_record kind,
                            int64_t limit, struct err *err) {
    static const struct spans none;
    const struct spans *seen = count_sequences(j->count, v->topic, (uint64_t)c->producer);
    int64_t found = 0;
    struct span gap;
    for (size_t i = 0; i < c->ranges; i++)
        for (int64_t at = c->range[i].first; found < limit && at <= c->range[i].last &&
                                             spans_gap(seen != NULL ? seen : &none, at, c->range[i].last, &gap);
             at = gap.last + 1)
            for (int64_t n = gap.first; n <= gap.last && found < limit; n++, found++) {
                if (found >= DB_RECORDS_MAX) return limit;
                const struct count_found f = {.kind = kind,
                                              .topic = v->topic,
                                              .start_ms = v->start_ms,
                                              .partition = -1,
                                              .offset = -1,
                                              .producer = (uint64_t)c->producer,
                                              .sequence = n,
                                              .created_ms = -1,
                                              .noted_ms = v->now_ms};
                if (count_note(j->count, &f, err) != 0) return -1;
            }
    return found;
}

/* How many of the sequence numbers that a producer has declared nobody has seen, when the manifests name each of them;
 * else 0: the numbers between are of other windows. */
static int64_t missing_by_number(struct judge *j, const struct verdict *v, const struct claim *c) {
    static const struct spans none;
    const struct spans *seen = count_sequences(j->count, v->topic, (uint64_t)c->producer);
    int64_t named = 0, missing = 0;
    for (size_t i = 0; i < c->ranges; i++) {
        named = plus(named, c->range[i].last - c->range[i].first + 1);
        missing = plus(missing, spans_missing(seen != NULL ? seen : &none, c->range[i].first, c->range[i].last));
    }
    return named == c->declared ? missing : 0;
}

/* A record that nobody has declared does not make up for one that is missing. */
static int claim_judge(struct judge *j, struct verdict *v, const struct claim *c, struct err *err) {
    int64_t missing = c->declared - c->seen, numbers = missing_by_number(j, v, c);
    v->published = plus(v->published, c->declared);
    if (numbers > 0 && numbers > missing) {
        v->unpublished += numbers - missing;
        missing = numbers;
    }
    if (missing < 0) v->unpublished -= missing;
    if (missing == 0 && c->declared > 0) {
        v->bytes_differ |= c->bytes != c->seen_bytes;
        v->digest_differs |=
            c->summed && c->digested == c->seen && memcmp(c->digest_sum, c->seen_sum, DIGEST_BYTES) != 0;
    }
    if (missing <= 0) return 0;
    if (j->shared && j->accounts == NULL) {
        v->elsewhere = true;
        return 0;
    }
    if (c->seen == 0 && v->end_ms <= j->begun_ms) { /* its manifests are still there to be read, and that is all */
        v->before = true;
        return 0;
    }
    bool settled = v->config >= 0 && c->noted_ms <= j->front[v->config].settled_ms;
    int64_t *class = settled ? &v->unexplained : &v->in_flight;
    *class = plus(*class, missing);
    return missing_list(j, v, c, settled ? FOUND_UNEXPLAINED : FOUND_IN_FLIGHT, missing, err) < 0 ? -1 : 0;
}

static int judge_manifest(struct judge *j, struct verdict *v, int64_t undeclared, bool had_missing, struct err *err) {
    struct claims claims = {0};
    int r = claims_read(j, v, &claims, err);
    if (r == 0 && had_missing) r = db_step(use(j, S_FOUND_DROP, v->topic, v->start_ms), err);
    v->published = 0;
    v->unpublished = undeclared;
    for (size_t i = 0; r == 0 && i < claims.count; i++) r = claim_judge(j, v, &claims.at[i], err);
    /* A record that came twice was published twice: the identity counts messages. */
    v->published += v->duplicate;
    v->waiting = v->unsettled;
    claims_free(&claims);
    return r;
}

static int64_t found(struct judge *j, const struct verdict *v, enum db_record kind) {
    sqlite3_stmt *s = use(j, S_FOUND, v->topic, v->start_ms);
    sqlite3_bind_int64(s, 3, kind);
    int64_t n = db_step(s, NULL) == 1 ? sqlite3_column_int64(s, 0) : 0;
    sqlite3_reset(s);
    return n;
}

/* A scan notes what it finds record by record (recon/scan.h). */
static void judge_scan(struct judge *j, struct verdict *v) {
    v->unexplained = found(j, v, FOUND_UNEXPLAINED);
    v->unpublished = found(j, v, FOUND_UNPUBLISHED);
    v->altered = found(j, v, FOUND_ALTERED);
    v->waiting = v->config < 0 || j->front[v->config].scanned_ms < v->end_ms;
    v->gone = !v->waiting && v->scanned_more < v->unexplained - v->unpublished;
    v->waiting |= v->published < v->seen - v->unpublished; /* another instance's scan is behind its log */
}

static enum finding finding_of(const struct verdict *v, uint32_t evidence) {
    bool late = v->now_ms >= v->due_ms && v->asked;
    if (v->lost && v->unexplained > 0) return FINDING_LOST;
    if (v->unexplained > 0) return FINDING_UNEXPLAINED;
    if (v->altered > 1 && v->altered == v->seen) return FINDING_OTHER_KEY;
    if (v->altered > 0) return FINDING_ALTERED;
    if (v->digest_differs) return FINDING_DIGEST;
    if (v->bytes_differ) return FINDING_BYTES;
    if (v->unpublished > 0 && (late || evidence == EVIDENCE_SCAN)) return FINDING_UNPUBLISHED;
    if (v->now_ms < v->end_ms) return FINDING_OPEN;
    if (evidence == EVIDENCE_OFFSETS) return FINDING_UNPROVEN;
    if (v->elsewhere) return FINDING_ELSEWHERE;
    if (v->before) return FINDING_BEFORE;
    if (late && (v->in_flight > 0 || v->unsettled)) return FINDING_LATE;
    if (v->in_flight > 0) return FINDING_IN_FLIGHT;
    if (v->gone) return FINDING_GONE;
    if (v->unpublished > 0) return FINDING_UNDECLARED;
    return v->waiting ? FINDING_WAITING : FINDING_NONE;
}

/* -- what follows from it ---------------------------------------------------------------------- */

static const char *topic_name(const struct judge *j, int config) {
    return config >= 0 ? j->config->topic[config].name : "";
}

static int tell(struct judge *j, const struct verdict *v, enum finding finding, struct err *err) {
    static const enum exception_kind kinds[] = {EXCEPTION_UNEXPLAINED, EXCEPTION_WINDOW_MISMATCH, EXCEPTION_WINDOW_LATE,
                                                EXCEPTION_EVIDENCE_LOST};
    int r = 0;
    for (size_t i = 0; r == 0 && i < sizeof kinds / sizeof kinds[0]; i++) {
        const struct exception_about about = {kinds[i], topic_name(j, v->config), v->start_ms, ""};
        bool mismatch = kinds[i] == EXCEPTION_WINDOW_MISMATCH && rules[finding].state == WINDOW_MISMATCH;
        if (rules[finding].exception != kinds[i] && !mismatch)
            r = exception_clear(j->db, &about, v->now_ms, err);
        else
            r = exception_raise(
                j->db, j->config, &about,
                kinds[i] == EXCEPTION_UNEXPLAINED ? v->unexplained
                                                  : v->unexplained + v->unpublished + v->altered + v->in_flight,
                v->now_ms, err,
                "%s: published %" PRId64 ", logged %" PRId64 ", in flight %" PRId64 ", unexplained %" PRId64,
                rules[finding].reason, v->published, v->seen, v->in_flight, v->unexplained);
    }
    return r;
}

static int change_note(struct judge *j, const struct verdict *v, int before, enum finding finding, struct err *err) {
    sqlite3_stmt *s = use(j, S_CHANGE_PUT, v->topic, v->start_ms);
    sqlite3_bind_int64(s, 3, v->now_ms);
    if (before >= 0)
        sqlite3_bind_int64(s, 4, before);
    else
        sqlite3_bind_null(s, 4);
    sqlite3_bind_int64(s, 5, rules[finding].state);
    sqlite3_bind_text(s, 6, rules[finding].reason, -1, SQLITE_STATIC);
    if (db_step(s, err) != 0) return -1;
    char window[UTC_BYTES];
    utc_text_ms(window, v->start_ms, 0);
    if (rules[finding].state == WINDOW_MISMATCH)
        log_warn("recon.window_mismatch",
                 "%s window %s: %s: published %" PRId64 ", logged %" PRId64 ", unexplained %" PRId64,
                 topic_name(j, v->config), window, rules[finding].reason, v->published, v->seen, v->unexplained);
    else if (rules[finding].state == WINDOW_LATE)
        log_warn("recon.window_late", "%s window %s: published %" PRId64 ", logged %" PRId64, topic_name(j, v->config),
                 window, v->published, v->seen);
    return tell(j, v, finding, err);
}

static int window_put(struct judge *j, const struct verdict *v, enum finding finding, int64_t since_ms,
                      struct err *err) {
    sqlite3_stmt *s = use(j, S_WINDOW_PUT, v->topic, v->start_ms);
    sqlite3_bind_int64(s, 3, rules[finding].state);
    sqlite3_bind_int64(s, 4, v->published);
    sqlite3_bind_int64(s, 5, v->seen);
    sqlite3_bind_int64(s, 6, v->in_flight);
    sqlite3_bind_int64(s, 7, v->unexplained);
    sqlite3_bind_int64(s, 8, v->unpublished);
    sqlite3_bind_text(s, 9, rules[finding].reason, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 10, since_ms);
    sqlite3_bind_int64(s, 11, v->now_ms);
    if (v->now_ms < v->due_ms)
        sqlite3_bind_int64(s, 12, v->now_ms < v->end_ms ? v->end_ms : v->due_ms);
    else if (!v->asked && v->config >= 0 && rules[finding].state == WINDOW_PENDING)
        sqlite3_bind_int64(s, 12, v->now_ms + 1000);
    else
        sqlite3_bind_null(s, 12);
    return db_step(s, err);
}

static int tally_read(struct judge *j, struct verdict *v, int64_t *undeclared, struct err *err) {
    sqlite3_stmt *s = use(j, S_TALLY, v->topic, v->start_ms);
    int r = db_step(s, err);
    if (r != 1) return -1;
    v->seen = sqlite3_column_int64(s, 0);
    v->duplicate = sqlite3_column_int64(s, 1);
    v->altered = sqlite3_column_int64(s, 2);
    *undeclared = sqlite3_column_int64(s, 3);
    v->published = sqlite3_column_int64(s, 4);
    v->scanned_more = sqlite3_column_int64(s, 5);
    sqlite3_reset(s);
    return 0;
}

static int window_judge(struct judge *j, int64_t topic, int64_t start_ms, int64_t now_ms, struct err *err) {
    struct verdict v = {.topic = topic, .start_ms = start_ms, .now_ms = now_ms, .config = configured(j, topic)};
    char reason[128] = "";
    int64_t undeclared;
    v.end_ms = start_ms + j->config->recon.window_ms;
    v.due_ms = v.end_ms + j->config->recon.late_after_ms;
    v.lost = start_ms < j->lost_to_ms && v.end_ms > j->lost_from_ms;
    v.asked = v.config >= 0 && j->front[v.config].round_ms >= v.due_ms;
    v.unsettled = v.config < 0 || j->front[v.config].settled_ms < v.end_ms;
    sqlite3_stmt *s = use(j, S_WINDOW, topic, start_ms);
    int r = db_step(s, err);
    if (r != 1) return r;
    int before = sqlite3_column_int64(s, 3) == 0 ? -1 : sqlite3_column_int(s, 0);
    uint32_t evidence = (uint32_t)sqlite3_column_int(s, 1);
    int64_t since_ms = sqlite3_column_int64(s, 3);
    bool had_missing = sqlite3_column_int64(s, 4) + sqlite3_column_int64(s, 5) > 0;
    snprintf(reason, sizeof reason, "%s", (const char *)sqlite3_column_text(s, 2));
    sqlite3_reset(s);
    if (tally_read(j, &v, &undeclared, err) != 0) return -1;
    if (evidence == EVIDENCE_MANIFEST) {
        if (judge_manifest(j, &v, undeclared, had_missing, err) != 0) return -1;
    } else {
        judge_scan(j, &v);
        if (evidence == EVIDENCE_OFFSETS) v.published = -1;
    }
    enum finding finding = finding_of(&v, evidence);
    bool news = before != (int)rules[finding].state || strcmp(reason, rules[finding].reason) != 0;
    if (before != (int)rules[finding].state) since_ms = now_ms;
    if (news && change_note(j, &v, before, finding, err) != 0) return -1;
    if (!news && rules[finding].exception != EXCEPTION_KIND_COUNT && tell(j, &v, finding, err) != 0) return -1;
    return window_put(j, &v, finding, since_ms, err);
}

/* -- loads ------------------------------------------------------------------------------------- */

struct load {
    uint8_t id[16], digest_sum[DIGEST_BYTES];
    int64_t topic, producer, state, created_ms, changed_ms, ended_ms, count, first, last, unexplained;
    bool ended, aborted, summed, counted;
    int64_t seen, digested;
    uint8_t seen_sum[DIGEST_BYTES];
};

static void load_take(sqlite3_stmt *s, struct load *l) {
    *l = (struct load){.topic = sqlite3_column_int64(s, 1),
                       .producer = sqlite3_column_int64(s, 2),
                       .state = sqlite3_column_int64(s, 3),
                       .changed_ms = sqlite3_column_int64(s, 4),
                       .ended = sqlite3_column_type(s, 5) != SQLITE_NULL,
                       .ended_ms = sqlite3_column_int64(s, 5),
                       .aborted = sqlite3_column_int(s, 6) != 0,
                       .count = sqlite3_column_int64(s, 7),
                       .summed = sqlite3_column_type(s, 8) == SQLITE_BLOB,
                       .first = sqlite3_column_int64(s, 9),
                       .last = sqlite3_column_int64(s, 10),
                       .unexplained = sqlite3_column_int64(s, 11),
                       .created_ms = sqlite3_column_int64(s, 12)};
    if (sqlite3_column_bytes(s, 0) == 16) memcpy(l->id, sqlite3_column_blob(s, 0), 16);
    blob(s, 8, l->digest_sum);
}

static int load_tally(struct judge *j, struct load *l, struct err *err) {
    sqlite3_stmt *s = use(j, S_LOAD_TALLY, 0, l->topic);
    int r;
    sqlite3_bind_blob(s, 1, l->id, sizeof l->id, SQLITE_STATIC);
    while ((r = db_step(s, err)) == 1) {
        uint8_t sum[DIGEST_BYTES] = {0};
        l->seen += sqlite3_column_int64(s, 0);
        l->digested += sqlite3_column_int64(s, 1);
        blob(s, 2, sum);
        digest_sum_add(l->seen_sum, sum);
    }
    return r;
}

static int load_put(struct judge *j, const struct load *l, int64_t state, int64_t unexplained, const char *reason,
                    int64_t now_ms, struct err *err) {
    char id[37];
    record_id_format(l->id, id);
    const struct exception_about about = {EXCEPTION_LOAD_INCOMPLETE, topic_name(j, configured(j, l->topic)), -1, id};
    bool bad = state == LOAD_INCOMPLETE || unexplained > 0 || strcmp(reason, "the sum of the digests differs") == 0;
    int r = bad ? exception_raise(j->db, j->config, &about, unexplained, now_ms, err, "load %s: %s", id, reason)
                : exception_clear(j->db, &about, now_ms, err);
    if (r != 0) return -1;
    if (state != l->state && (state == LOAD_INCOMPLETE || state == LOAD_MATCHED))
        log_info("recon.load_judged", "load %s: %s: declared %" PRId64 ", logged %" PRId64, id,
                 db_load_name((enum db_load)state), l->count, l->seen);
    sqlite3_stmt *s = use(j, S_LOAD_PUT, 0, l->topic);
    sqlite3_bind_blob(s, 1, l->id, sizeof l->id, SQLITE_STATIC);
    sqlite3_bind_int64(s, 3, state);
    sqlite3_bind_int64(s, 4, unexplained);
    sqlite3_bind_text(s, 5, reason, -1, SQLITE_STATIC);
    return db_step(s, err);
}

static int load_judge(struct judge *j, struct load *l, int64_t now_ms, struct err *err) {
    int config = configured(j, l->topic);
    if (config < 0) return 0;
    if (load_tally(j, l, err) != 0) return -1;
    if (!l->ended) {
        /* By the time the topic is settled to: after an outage manifests and records are still to be read. */
        bool abandoned = j->front[config].settled_ms - l->changed_ms > (int64_t)j->config->recon.late_after_ms;
        return load_put(j, l, abandoned ? LOAD_INCOMPLETE : LOAD_RUNNING, 0,
                        abandoned ? "it was begun and not ended" : "it is running", now_ms, err);
    }
    if (l->seen == 0 && l->count > 0 && l->created_ms < j->begun_ms)
        return load_put(j, l, LOAD_COMPLETE, 0, rules[FINDING_BEFORE].reason, now_ms, err);
    if (l->seen < l->count) {
        bool settled = l->ended_ms <= j->front[config].settled_ms;
        return load_put(j, l, LOAD_COMPLETE, settled ? l->count - l->seen : 0,
                        settled ? "records are missing" : "records are on their way", now_ms, err);
    }
    if (l->seen > l->count) return load_put(j, l, LOAD_COMPLETE, 0, "more records than it declares", now_ms, err);
    if (l->summed && l->digested == l->seen && memcmp(l->digest_sum, l->seen_sum, DIGEST_BYTES) != 0)
        return load_put(j, l, LOAD_COMPLETE, 0, "the sum of the digests differs", now_ms, err);
    return load_put(j, l, LOAD_MATCHED, 0, "", now_ms, err);
}

/* The next few that are not matched. 1 there may be more, 0 these were the last, -1 with err. */
static int loads_some(struct judge *j, int64_t now_ms, struct err *err) {
    struct load batch[64];
    const int max = sizeof batch / sizeof batch[0];
    int n = 0, r = 0;
    sqlite3_stmt *s = use(j, S_LOADS, 0, j->load_topic);
    sqlite3_bind_blob(s, 1, j->load_id, sizeof j->load_id, SQLITE_STATIC);
    sqlite3_bind_int(s, 3, max);
    while (n < max && (r = db_step(s, err)) == 1) load_take(s, &batch[n++]);
    sqlite3_reset(s);
    for (int i = 0; r >= 0 && i < n; i++)
        if (load_judge(j, &batch[i], now_ms, err) != 0) return -1;
    memset(j->load_id, 0, sizeof j->load_id);
    if (n == max) memcpy(j->load_id, batch[n - 1].id, sizeof j->load_id);
    j->load_topic = n == max ? batch[n - 1].topic : 0;
    return r < 0 ? -1 : n == max;
}

/* Some of them, and the next time others; or all. */
static int loads_judge(struct judge *j, int64_t now_ms, bool all, struct err *err) {
    int r = loads_some(j, now_ms, err);
    while (all && r == 1) r = loads_some(j, now_ms, err);
    return r < 0 ? -1 : 0;
}

/* -- all of them ------------------------------------------------------------------------------- */

int judge_windows(struct judge *j, int64_t now_ms, bool all, struct err *err) {
    struct {
        int64_t topic, start_ms;
    } due[JUDGE_WINDOWS_MAX];
    int n = 0, r = 0, even = j->accounts != NULL ? accounts_even(j->accounts, err) : 1;
    if (even != 1) return even;
    sqlite3_stmt *s = use(j, all ? S_ALL : S_DUE, now_ms, JUDGE_WINDOWS_MAX);
    while (n < JUDGE_WINDOWS_MAX && (r = db_step(s, err)) == 1) {
        due[n].topic = sqlite3_column_int64(s, 0);
        due[n++].start_ms = sqlite3_column_int64(s, 1);
    }
    sqlite3_reset(s);
    if (r < 0) return -1;
    for (int i = 0; i < n; i++)
        if (window_judge(j, due[i].topic, due[i].start_ms, now_ms, err) != 0) return -1;
    return loads_judge(j, now_ms, all, err) != 0 || db_meta_set(j->db, "checked_ms", now_ms, err) != 0 ? -1 : n;
}

int judge_total(struct judge *j, struct judge_counts *out, struct err *err) {
    int r;
    *out = (struct judge_counts){0};
    sqlite3_stmt *s = j->statement[S_TOTAL];
    while ((r = db_step(s, err)) == 1) {
        int state = sqlite3_column_int(s, 0);
        if (state >= 0 && state < WINDOW_STATE_COUNT) out->windows[state] = sqlite3_column_int64(s, 1);
        out->unexplained += sqlite3_column_int64(s, 2);
    }
    return r;
}

/* Records may be logged before the manifest of their load is read. What nobody has declared for as long as anything is
 * kept goes as well. */
static int loads_forget(struct judge *j, int64_t before_ms, int64_t now_ms, struct err *err) {
    static const char forget[] =
        "DELETE FROM load WHERE changed_ms < %" PRId64 ";"
        "INSERT OR IGNORE INTO load_undeclared SELECT DISTINCT load, %" PRId64
        " FROM load_tally WHERE load NOT IN (SELECT id FROM load);"
        "DELETE FROM load_undeclared WHERE load IN (SELECT id FROM load);"
        "DELETE FROM load_tally WHERE load IN (SELECT load FROM load_undeclared WHERE noted_ms < %" PRId64 ");"
        "DELETE FROM load_undeclared WHERE load NOT IN (SELECT load FROM load_tally);"
        "DELETE FROM load_place WHERE load NOT IN (SELECT id FROM load);"
        "DELETE FROM load_begun WHERE load NOT IN (SELECT id FROM load)";
    char text[sizeof forget + 64];
    snprintf(text, sizeof text, forget, before_ms, now_ms, before_ms);
    return db_run(j->db, text, err);
}

/* Numbers of producers tell duplicates for as long as there is room for them. */
static int producers_forget(struct judge *j, struct err *err) {
    if (!count_crowded(j->count)) return 0;
    return db_run(j->db,
                  "DELETE FROM sequence WHERE producer NOT IN (SELECT producer FROM origin UNION SELECT producer FROM "
                  "manifest);"
                  "DELETE FROM producer WHERE hash NOT IN (SELECT producer FROM sequence UNION SELECT producer FROM "
                  "manifest UNION SELECT producer FROM load)",
                  err);
}

int judge_forget(struct judge *j, int64_t before_ms, struct err *err) {
    static const char *const tables[] = {"tally", "origin", "manifest", "record", "window_change"};
    char text[256];
    int64_t now_ms = before_ms + (int64_t)j->config->recon.retention_ms;
    int64_t after_ms = now_ms + (int64_t)j->config->recon.retention_ms;
    snprintf(text, sizeof text,
             "DELETE FROM window WHERE (start_ms < %" PRId64 " OR start_ms > %" PRId64 ") AND since_ms < %" PRId64
             " AND (since_ms > 0 OR NOT dirty)",
             before_ms, after_ms, before_ms);
    if (db_run(j->db, text, err) != 0) return -1;
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        snprintf(text, sizeof text,
                 "DELETE FROM %s AS t WHERE (start_ms < %" PRId64 " OR start_ms > %" PRId64 ") AND NOT EXISTS "
                 "(SELECT 1 FROM window w WHERE w.topic = t.topic AND w.start_ms = t.start_ms)",
                 tables[i], before_ms, after_ms);
        if (db_run(j->db, text, err) != 0) return -1;
    }
    return producers_forget(j, err) != 0 ? -1 : loads_forget(j, before_ms, now_ms, err);
}

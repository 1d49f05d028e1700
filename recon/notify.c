#include "recon/notify.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>

#include "base/json_text.h"
#include "base/log.h"
#include "base/utc.h"
#include "recon/acknowledge.h"
#include "recon/errand.h"
#include "recon/exception.h"
#include "recon/silence.h"
#include "recon/webhook.h"

enum { LOOK_MS = 200, SAVE_MS = 1000, SILENCES_LOOK_MS = 1000 };

enum channel_name { CHANNEL_LOG, CHANNEL_WEBHOOK, CHANNEL_COMMAND, CHANNEL_COUNT };
static const char *const channel_names[] = {"log", "webhook", "command"};
static_assert(sizeof channel_names / sizeof channel_names[0] == CHANNEL_COUNT, "a name for each");

struct job { /* one exception to be sent over one channel */
    char id[EXCEPTION_ID_BYTES], kind[32], topic[TOPIC_BYTES], subject[EXCEPTION_SUBJECT_BYTES];
    char text[EXCEPTION_TEXT_BYTES];
    int64_t window_ms, count, raised_ms, attempts;
};

struct channel {
    enum { FREE, BUSY, SAVING } state; /* SAVING: it is over, and that has to be stored */
    struct job job;
    bool urgent; /* job is the urgent one, of which nothing is stored */
    bool sent;
    struct err why; /* when it was not */
    uint64_t save_ns;
    char *body; /* of the message under way */
    size_t body_bytes;
};

struct notify {
    sqlite3 *db;
    const struct config *config;
    const struct clock_port *clock;
    struct webhook *webhook; /* NULL: not configured */
    struct errand errand;
    struct channel channel[CHANNEL_COUNT];
    struct notify_counts counts;
    uint64_t look_ns; /* when the database is looked at again */
    struct silences silences;
    struct timespec silences_changed;
    uint64_t silences_ns;
    struct { /* the audit's exception, while it cannot be stored */
        bool active, done[CHANNEL_COUNT];
        uint64_t next_ns[CHANNEL_COUNT];
        struct job job;
    } urgent;
    uint64_t gauge_ns;       /* when the open exceptions are counted again */
    uint64_t audit_since_ns; /* since when it cannot write; 0: it can */
    uint64_t audit_save_ns;
    bool audit_stored, audit_clear; /* its exception is in the database; none is open there */
    char audit_subject[EXCEPTION_SUBJECT_BYTES];
};

static bool configured(const struct notify *n, enum channel_name c) {
    return c == CHANNEL_LOG || (c == CHANNEL_WEBHOOK ? n->webhook != NULL : n->config->recon.command[0] != '\0');
}

struct notify *notify_open(sqlite3 *db, const struct config *c, const struct clock_port *clock, struct err *err) {
    struct notify *n = calloc(1, sizeof *n);
    if (n == NULL) {
        err_set(err, EX_OSERR, "no memory");
        return NULL;
    }
    *n = (struct notify){.db = db, .config = c, .clock = clock, .errand = {.pidfd = -1}};
    if (c->recon.webhook[0] == '\0') return n;
    n->webhook = webhook_open(c->recon.webhook, c->recon.webhook_ca_file, err);
    if (n->webhook != NULL) return n;
    free(n);
    return NULL;
}

void notify_close(struct notify *n) {
    if (n == NULL) return;
    webhook_close(n->webhook);
    errand_stop(&n->errand);
    for (int i = 0; i < CHANNEL_COUNT; i++) free(n->channel[i].body);
    free(n);
}

struct notify_counts notify_counts(const struct notify *n) {
    return n->counts;
}

/* -- the message ------------------------------------------------------------------------------- */

static void put_text(FILE *f, const char *name, const char *text) {
    fprintf(f, ",\"%s\":", name);
    if (text[0] == '\0')
        fputs("null", f);
    else
        json_text_put(text, strlen(text), f);
}

static void put_time(FILE *f, const char *name, int64_t ms) {
    char text[UTC_BYTES];
    put_text(f, name, utc_text_ms(text, ms, 3) ? text : "");
}

/* One JSON object with a newline. Returns 0, -1 without memory. */
static int message(const struct notify *n, const struct job *job, char **body, size_t *len) {
    FILE *f = open_memstream(body, len);
    if (f == NULL) return -1;
    fprintf(f, "{\"id\":\"%s\",\"kind\":\"%s\"", job->id, job->kind);
    put_text(f, "name", n->config->name);
    put_text(f, "group", n->config->kafka.group_id);
    put_text(f, "instance", n->config->instance);
    put_text(f, "topic", job->topic);
    put_time(f, "window_from", job->window_ms);
    put_time(f, "window_to", job->window_ms < 0 ? -1 : job->window_ms + (int64_t)n->config->recon.window_ms);
    put_text(f, "subject", job->subject);
    fprintf(f, ",\"count\":%" PRId64, job->count);
    put_text(f, "text", job->text);
    put_time(f, "raised", job->raised_ms);
    fputs("}\n", f);
    bool bad = ferror(f);
    if (fclose(f) == 0 && !bad && *len <= ERRAND_BODY_BYTES_MAX) return 0;
    free(*body);
    *body = NULL;
    return -1;
}

static void log_job(const struct job *job) {
    char window[UTC_BYTES] = "";
    bool windowed = utc_text_ms(window, job->window_ms, 0);
    struct log_site site = {0}; /* of its own: no such line is ever held back */
    log_event(&site, LOG_ERROR, "recon.exception", NULL, "%s%s%s%s%s%s%s: %s (exception %s)", job->kind,
              job->topic[0] != '\0' ? " " : "", job->topic, windowed ? " window " : "", windowed ? window : "",
              job->subject[0] != '\0' ? " " : "", job->subject, job->text, job->id);
}

/* -- one channel ------------------------------------------------------------------------------- */

static uint64_t backoff_ms(const struct notify *n, int64_t attempts) {
    uint64_t ms = NOTIFY_BACKOFF_MS_MIN, random;
    for (int64_t i = 1; i < attempts && ms < NOTIFY_BACKOFF_MS_MAX; i++) ms *= 2;
    if (ms > NOTIFY_BACKOFF_MS_MAX) ms = NOTIFY_BACKOFF_MS_MAX;
    n->clock->random(n->clock->context, &random, sizeof random);
    return ms - random % (ms / 4); /* many instances must not all come at once */
}

/* Stores what became of a delivery. Returns 0, or -1 when the database cannot be written now. */
static int save(struct notify *n, enum channel_name name, const struct job *job, bool sent, const char *why) {
    static const char sql[] = "UPDATE delivery SET attempts = ?3, next_ms = ?4, done_ms = ?5, error = ?6"
                              " WHERE exception = ?1 AND channel = ?2";
    sqlite3_stmt *s = NULL;
    int64_t now_ms = clock_wall_ms(n->clock);
    bool ok = sqlite3_prepare_v2(n->db, sql, -1, &s, NULL) == SQLITE_OK;
    sqlite3_bind_text(s, 1, job->id, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 2, channel_names[name], -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 3, job->attempts);
    sqlite3_bind_int64(s, 4, sent ? 0 : now_ms + (int64_t)backoff_ms(n, job->attempts));
    sqlite3_bind_int64(s, 5, sent ? now_ms : 0);
    sqlite3_bind_text(s, 6, sent ? "" : why, -1, SQLITE_STATIC);
    ok = ok && sqlite3_step(s) == SQLITE_DONE;
    if (!ok) log_warn("recon.delivery_unsaved", "%s: %s; tried again", channel_names[name], sqlite3_errmsg(n->db));
    sqlite3_finalize(s);
    return ok ? 0 : -1;
}

static void over(struct notify *n, enum channel_name name, bool sent, const struct err *why) {
    struct channel *c = &n->channel[name];
    free(c->body);
    c->body = NULL;
    c->job.attempts++;
    c->sent = sent;
    c->why = *why;
    if (sent) {
        n->counts.sent++;
    } else {
        n->counts.failed++;
        log_warn("recon.delivery_failed", "%s of exception %s (%s), attempt %" PRId64 ": %s", channel_names[name],
                 c->job.id, c->job.kind, c->job.attempts, why->text);
    }
    c->state = SAVING;
    c->save_ns = 0;
}

static void settle(struct notify *n, enum channel_name name) {
    struct channel *c = &n->channel[name];
    uint64_t now_ns = clock_ns(n->clock);
    if (c->urgent) {
        n->urgent.done[name] |= c->sent;
        n->urgent.job.attempts = c->job.attempts;
        n->urgent.next_ns[name] = now_ns + backoff_ms(n, c->job.attempts) * NS_PER_MS;
    } else {
        if (now_ns < c->save_ns) return;
        c->save_ns = now_ns + SAVE_MS * NS_PER_MS;
        if (save(n, name, &c->job, c->sent, c->why.text) != 0) return;
    }
    c->state = FREE;
    n->look_ns = 0;
}

static void start(struct notify *n, enum channel_name name, const struct job *job, bool urgent) {
    struct channel *c = &n->channel[name];
    struct err err = {0};
    c->job = *job;
    c->urgent = urgent;
    c->state = BUSY;
    if (name == CHANNEL_LOG) {
        log_job(job);
        over(n, name, true, &err);
        return;
    }
    int failed = message(n, job, &c->body, &c->body_bytes);
    if (failed != 0)
        err_set(&err, EX_OSERR, "no memory");
    else if (name == CHANNEL_WEBHOOK)
        failed = webhook_start(n->webhook, job->id, c->body, c->body_bytes, &err);
    else
        failed = errand_start(&n->errand, n->config->recon.command, job->id, c->body, c->body_bytes, clock_ns(n->clock),
                              &err);
    if (failed != 0) over(n, name, false, &err);
}

static void carry_on(struct notify *n, enum channel_name name) {
    struct err err = {0};
    enum sending s =
        name == CHANNEL_WEBHOOK ? webhook_step(n->webhook, &err) : errand_step(&n->errand, clock_ns(n->clock), &err);
    if (s != SENDING) over(n, name, s == SENT, &err);
}

/* -- what is due ------------------------------------------------------------------------------- */

static void copy(char *out, size_t room, sqlite3_stmt *s, int column) {
    const unsigned char *text = sqlite3_column_text(s, column);
    snprintf(out, room, "%s", text != NULL ? (const char *)text : "");
}

static void job_read(struct job *job, sqlite3_stmt *s) {
    copy(job->id, sizeof job->id, s, 0);
    copy(job->kind, sizeof job->kind, s, 1);
    copy(job->topic, sizeof job->topic, s, 2);
    job->window_ms = sqlite3_column_int64(s, 3);
    copy(job->subject, sizeof job->subject, s, 4);
    job->count = sqlite3_column_int64(s, 5);
    copy(job->text, sizeof job->text, s, 6);
    job->raised_ms = sqlite3_column_int64(s, 7);
    job->attempts = sqlite3_column_int64(s, 8);
}

/* Finds what has waited longest on a channel and is not silenced. */
static bool due_find(struct notify *n, enum channel_name name, struct job *job) {
    /* A time further ahead than any backoff was written before the clock was set back. */
    static const char sql[] =
        "SELECT e.id, e.kind, e.topic, e.window_ms, e.subject, e.count, e.text, e.raised_ms, d.attempts"
        " FROM delivery d JOIN exception e ON e.id = d.exception"
        " WHERE d.done_ms = 0 AND e.acknowledged_ms = 0 AND d.channel = ?1 AND (d.next_ms <= ?2 OR d.next_ms > ?2 + 2 "
        "* ?3)"
        " ORDER BY d.next_ms, e.raised_ms";
    sqlite3_stmt *s = NULL;
    int64_t now_ms = clock_wall_ms(n->clock);
    bool found = false;
    if (sqlite3_prepare_v2(n->db, sql, -1, &s, NULL) != SQLITE_OK) {
        log_warn("recon.exceptions_unread", "%s", sqlite3_errmsg(n->db));
        return false;
    }
    sqlite3_bind_text(s, 1, channel_names[name], -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 2, now_ms);
    sqlite3_bind_int64(s, 3, NOTIFY_BACKOFF_MS_MAX);
    while (!found && sqlite3_step(s) == SQLITE_ROW) {
        job_read(job, s);
        found = job->window_ms < 0 || silences_until(&n->silences, job->topic, job->window_ms, now_ms) == 0;
    }
    sqlite3_finalize(s);
    return found;
}

static bool pick(struct notify *n, enum channel_name name) {
    struct job job;
    if (n->urgent.active && !n->urgent.done[name] && clock_ns(n->clock) >= n->urgent.next_ns[name]) {
        start(n, name, &n->urgent.job, true);
        return true;
    }
    if (!due_find(n, name, &job)) return false;
    start(n, name, &job, false);
    return true;
}

static int acknowledge(void *self, const char *id) {
    struct notify *n = self;
    struct err err = {0};
    int r = exception_acknowledge(n->db, id, clock_wall_ms(n->clock), &err);
    if (r < 0) log_warn("recon.acknowledgement_unsaved", "%s: %s; tried again", id, err.text);
    if (r > 0) log_info("recon.exception_acknowledged", "%s", id);
    return r < 0 ? -1 : 0;
}

static void silences_look(struct notify *n, uint64_t now_ns) {
    char path[PATH_BYTES + 32];
    struct stat st = {0};
    struct err err = {0};
    if (now_ns < n->silences_ns) return;
    n->silences_ns = now_ns + SILENCES_LOOK_MS * NS_PER_MS;
    acknowledge_take(n->config, acknowledge, n);
    silences_path(n->config, path);
    stat(path, &st); /* not there: all zero */
    if (memcmp(&st.st_mtim, &n->silences_changed, sizeof st.st_mtim) == 0) return;
    if (silences_read(path, &n->silences, &err) != 0) log_warn("recon.silences_unread", "%s", err.text);
    n->silences_changed = st.st_mtim;
}

bool notify_step(struct notify *n) {
    uint64_t now_ns = clock_ns(n->clock);
    bool moved = false, look = now_ns >= n->look_ns;
    if (look) n->look_ns = now_ns + LOOK_MS * NS_PER_MS;
    silences_look(n, now_ns);
    for (enum channel_name i = 0; i < CHANNEL_COUNT; i++) {
        struct channel *c = &n->channel[i];
        if (!configured(n, i)) continue;
        if (c->state == FREE && look) moved |= pick(n, i);
        if (c->state == BUSY) carry_on(n, i);
        if (c->state == SAVING) {
            settle(n, i);
            moved |= c->state == FREE;
        }
    }
    return moved;
}

int notify_wants(struct notify *n, struct pollfd *fds, int max, int *timeout_ms) {
    int got = 0;
    if (n->channel[CHANNEL_WEBHOOK].state == BUSY) got += webhook_wants(n->webhook, fds, max, timeout_ms);
    if (n->channel[CHANNEL_COMMAND].state == BUSY)
        got += errand_wants(&n->errand, clock_ns(n->clock), fds + got, max - got, timeout_ms);
    return got;
}

/* -- the audit that cannot write --------------------------------------------------------------- */

static struct exception_about audit_about(const struct notify *n) {
    return (struct exception_about){EXCEPTION_AUDIT_CANNOT_WRITE, "", -1, n->audit_subject};
}

/* Sends it from memory: it could not be stored. */
static void urgent_begin(struct notify *n, const char *reason, const struct err *why) {
    struct exception_about about = audit_about(n);
    struct job *job = &n->urgent.job;
    if (n->urgent.active) return;
    memset(&n->urgent, 0, sizeof n->urgent);
    n->urgent.active = true;
    exception_current_id(n->db, n->config, &about, job->id);
    snprintf(job->kind, sizeof job->kind, "%s", exception_kind_name(about.kind));
    snprintf(job->subject, sizeof job->subject, "%s", about.subject);
    snprintf(job->text, sizeof job->text, "%s", reason);
    job->window_ms = -1;
    job->raised_ms = clock_wall_ms(n->clock);
    log_warn("recon.exception_unsaved", "%s; it is sent all the same", why->text);
}

/* It could be stored after all. What was sent already need not be sent again. */
static void urgent_end(struct notify *n) {
    for (enum channel_name i = 0; n->urgent.active && i < CHANNEL_COUNT; i++)
        if (n->urgent.done[i]) save(n, i, &n->urgent.job, true, "");
    n->urgent.active = false;
}

static void audit_raise(struct notify *n, const char *reason) {
    struct exception_about about = audit_about(n);
    struct err err = {0};
    uint64_t now_ns = clock_ns(n->clock);
    if (n->audit_stored || now_ns < n->audit_save_ns) return;
    n->audit_save_ns = now_ns + SAVE_MS * NS_PER_MS;
    if (exception_raise(n->db, n->config, &about, 0, clock_wall_ms(n->clock), &err, "%s", reason) != 0) {
        urgent_begin(n, reason, &err);
        return;
    }
    n->audit_stored = true;
    n->audit_clear = false;
    urgent_end(n);
}

void notify_audit(struct notify *n, bool cannot_write, uint64_t sequence, const char *reason) {
    struct err err = {0};
    if (cannot_write) {
        uint64_t now_ns = clock_ns(n->clock);
        if (n->audit_since_ns == 0) {
            n->audit_since_ns = now_ns;
            if (!n->audit_stored && !n->urgent.active)
                snprintf(n->audit_subject, sizeof n->audit_subject, "entry %" PRIu64, sequence);
        }
        if (now_ns - n->audit_since_ns >= NOTIFY_AUDIT_PATIENCE_MS * NS_PER_MS) audit_raise(n, reason);
        return;
    }
    n->audit_since_ns = 0;
    if (n->urgent.active) audit_raise(n, n->urgent.job.text); /* on record, and its other channels are served */
    /* Once after a start in any case: the predecessor's may be open. */
    if (n->audit_clear || clock_ns(n->clock) < n->audit_save_ns) return;
    n->audit_clear = exception_clear_kind(n->db, EXCEPTION_AUDIT_CANNOT_WRITE, clock_wall_ms(n->clock), &err) == 0;
    if (n->audit_clear) n->audit_stored = false;
    n->audit_save_ns = clock_ns(n->clock) + SAVE_MS * NS_PER_MS;
}

bool notify_attend(struct notify *n, struct worker *w) {
    const struct stats_block *audit = stats_block(&w->stats, stats_block_index(ROLE_AUDIT, w->config->lanes));
    enum worker_state state = atomic_load_explicit(&audit->state, memory_order_relaxed);
    uint64_t sequence = atomic_load_explicit(&audit->value[M_audit_sequence], memory_order_relaxed);
    char reason[STATS_TEXT_BYTES];
    stats_text_get(&audit->reason, reason);
    notify_audit(n, state == STATE_BLOCKED || state == STATE_FAILED, sequence + 1, reason);
    struct notify_counts before = n->counts;
    bool moved = notify_step(n);
    stats_add(&w->local, M_recon_exception_sent, n->counts.sent - before.sent);
    stats_add(&w->local, M_recon_exception_send_fail, n->counts.failed - before.failed);
    if (clock_ns(n->clock) >= n->gauge_ns) {
        int64_t open = exception_open_count(n->db, EXCEPTION_KIND_COUNT, NULL);
        if (open >= 0) stats_set(&w->local, M_recon_exception_open, (uint64_t)open);
        n->gauge_ns = clock_ns(n->clock) + NS_PER_S;
    }
    return moved;
}

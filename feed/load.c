#include "feed/load.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/audit_keys.h"
#include "feed/feed.h"
#include "feed/shape.h"
#include "feed/source.h"
#include "feed/uuid7.h"

enum { TICKS_PER_S = 20, LOOK_ROWS = 16384, ANSWER_MS = 15000 };

struct load { /* one in progress */
    const struct load_settings *set;
    const struct config_topic *topic;
    struct outbox *outbox;
    struct load_result *out;
    struct feed *feed;
    struct kafka_out kafka;
    struct digest_key digest;
    struct shape *shape;
    struct rows *rows;
    int fd; /* of the source; -1 none */
    struct stat stat;
    uint64_t acknowledged_shown;
};

static bool stopped(const struct load *l) {
    return l->set->stop != NULL && atomic_load_explicit(l->set->stop, memory_order_relaxed) != 0;
}

static void show(void *context) {
    struct load *l = context;
    const struct outbox_load *o = &l->out->load;
    if (l->set->progress == NULL) return;
    l->set->progress(l->set->context, true, o->sum.count, o->sum.count - feed_outstanding(l->feed), l->out->rows);
}

/* -- preparing --------------------------------------------------------------------------------- */

static int topic_find(struct load *l, const char *name, struct err *err) {
    int i = config_topic_index(l->set->config, name);
    if (i < 0) return err_set(err, EX_USAGE, "the configuration has no topic %s", name);
    l->topic = &l->set->config->topic[i];
    return 0;
}

/* Digests as the audit log makes them for this topic. */
static int digest_init(struct load *l, enum digest_algorithm *algorithm, struct err *err) {
    struct audit_keys keys;
    const char *path = l->set->config->recon.keys;
    *algorithm = DIGEST_XXH3;
    if (path[0] == 0 || l->topic->reconcile == RECONCILE_CHECKSUM) return 0;
    if (audit_keys_load(path, AUDIT_KEY_DIGEST, &keys, err) != 0) return -1;
    digest_key_init(&l->digest, keys.digest);
    explicit_bzero(&keys, sizeof keys);
    *algorithm = DIGEST_HMAC;
    return 0;
}

static int shape_make(struct load *l, const struct outbox_source *s, struct err *err) {
    struct shape_settings set = {.topic = l->topic,
                                 .format = s->format,
                                 .operation = s->operation,
                                 .key = s->key,
                                 .max_message = s->max_message};
    l->shape = shape_new(&set, err);
    return l->shape != NULL ? 0 : -1;
}

static int rows_make(struct load *l, const struct outbox_source *s, struct err *err) {
    const char *value, *column = shape_added_column(l->shape, &value);
    rows_close(l->rows);
    l->rows = NULL;
    if (lseek(l->fd, 0, SEEK_SET) < 0) return err_set(err, EX_IOERR, "%s: %s", s->path, strerror(errno));
    l->rows = rows_open(l->fd, s->format, column, value, err);
    return l->rows != NULL ? 0 : err_prefix(err, "%s", s->path);
}

static void load_close(struct load *l) {
    feed_free(l->feed);
    if (l->kafka.free != NULL) l->kafka.free(l->kafka.self);
    rows_close(l->rows);
    shape_free(l->shape);
    digest_key_clear(&l->digest);
    if (l->fd >= 0) close(l->fd);
    outbox_close(l->outbox);
}

/* -- looking at the whole file ----------------------------------------------------------------- */

struct look {
    uint64_t bad, oversized;
    FILE *keys;
};

static void complain(const struct load *l, struct look *look, const char *text) {
    if (look->bad + look->oversized <= LOAD_COMPLAINTS_MAX)
        fprintf(stderr, "millrace load: %s: %s\n", l->out->load.source.path, text);
}

/* One key a line; what would break the line is written as in C. */
static void key_print(FILE *out, const uint8_t *key, uint32_t len) {
    for (uint32_t i = 0; i < len; i++) {
        if (key[i] == '\n' || key[i] == '\r' || key[i] == '\\') putc('\\', out);
        putc(key[i] == '\n' ? 'n' : key[i] == '\r' ? 'r' : key[i], out);
    }
    putc('\n', out);
}

static void row_look(struct load *l, const struct row *row, struct look *look) {
    struct shaped shaped;
    struct err why;
    char text[128];
    switch (shape_row(l->shape, row, &shaped, &why)) {
    case SHAPE_OK:
        l->out->rows++;
        if (look->keys != NULL) key_print(look->keys, shaped.redis_key, shaped.redis_key_bytes);
        break;
    case SHAPE_BAD:
        look->bad++;
        complain(l, look, why.text);
        break;
    case SHAPE_OVERSIZED:
        look->oversized++;
        snprintf(text, sizeof text, "line %llu: larger than %llu bytes (--max-message)", (unsigned long long)row->line,
                 (unsigned long long)l->out->load.source.max_message);
        complain(l, look, text);
        break;
    }
}

static int rows_look(struct load *l, struct look *look, struct err *err) {
    struct row row;
    struct err why = {0};
    for (uint64_t n = 1;; n++) {
        enum rows_result got = rows_next(l->rows, &row, &why);
        if (got == ROWS_END) return 0;
        if (got == ROWS_FAILED) return err_set(err, why.code, "%s: %s", l->out->load.source.path, why.text);
        if (got == ROWS_ROW) row_look(l, &row, look);
        if (got == ROWS_BAD) {
            look->bad++;
            complain(l, look, why.text);
        }
        if (n % LOOK_ROWS != 0) continue;
        if (stopped(l)) return err_set(err, EX_TEMPFAIL, "interrupted; nothing was published");
        if (l->set->progress != NULL) l->set->progress(l->set->context, false, n, 0, 0);
    }
}

/* Looks at every row; writes the keys. Refuses the file when a row cannot be used, unless those are to be skipped. */
static int look(struct load *l, const struct load_request *r, struct err *err) {
    struct look look = {0};
    char temporary[PATH_MAX];
    if (r->keys_out != NULL) {
        if (!shape_knows_keys(l->shape))
            return err_set(err, EX_USAGE, "--keys-out: the Redis keys depend on where the records will stand");
        snprintf(temporary, sizeof temporary, "%s.part", r->keys_out);
        look.keys = fopen(temporary, "we");
        if (look.keys == NULL) return err_set(err, EX_CANTCREAT, "%s: %s", temporary, strerror(errno));
    }
    int done = rows_look(l, &look, err);
    uint64_t unusable = look.bad + look.oversized;
    if (done == 0 && unusable > 0 && !r->skip_bad)
        done = err_set(err, EX_DATAERR,
                       "%s: %llu of %llu rows cannot be used (%llu of them too large): nothing was published",
                       l->out->load.source.path, (unsigned long long)unusable,
                       (unsigned long long)(unusable + l->out->rows), (unsigned long long)look.oversized);
    if (look.keys == NULL) return done;
    bool written = fflush(look.keys) == 0 && fsync(fileno(look.keys)) == 0;
    if (fclose(look.keys) != 0) written = false;
    if (done == 0 && (!written || rename(temporary, r->keys_out) != 0))
        done = err_set(err, EX_CANTCREAT, "%s: %s", r->keys_out, strerror(errno));
    if (done != 0) unlink(temporary);
    return done;
}

/* -- publishing -------------------------------------------------------------------------------- */

struct pace {
    uint64_t begin_ns, records, rate;
};

/* Holds back so that no more than `rate` records a second are published; a twentieth of a second's at a time. */
static int pace_keep(struct load *l, struct pace *p, struct err *err) {
    uint64_t lot = p->rate / TICKS_PER_S > 0 ? p->rate / TICKS_PER_S : 1;
    if (p->rate == 0 || ++p->records % lot != 0) return 0;
    if (feed_commit(l->feed, err) != 0) return -1;
    uint64_t due = p->begin_ns + (uint64_t)((__uint128_t)p->records * NS_PER_S / p->rate);
    for (uint64_t now; (now = clock_ns(&clock_real)) < due;) {
        uint64_t ms = (due - now) / NS_PER_MS + 1;
        if (feed_wait(l->feed, ms < 1000 ? (uint32_t)ms : 1000, err) != 0) return -1;
    }
    return 0;
}

/* Puts one row; the load's position moves behind it. */
static int row_publish(struct load *l, enum rows_result got, const struct row *row, struct err *err) {
    struct outbox_load *o = &l->out->load;
    struct shaped shaped;
    struct err why;
    enum shape_result shape = got == ROWS_BAD ? SHAPE_BAD : shape_row(l->shape, row, &shaped, &why);
    if (shape != SHAPE_OK && !o->source.skip_bad)
        return err_set(err, EX_DATAERR, "%s has changed since the load began: line %llu cannot be used", o->source.path,
                       (unsigned long long)row->line);
    o->skipped += shape == SHAPE_BAD;
    o->oversized += shape == SHAPE_OVERSIZED;
    if (shape == SHAPE_OK && feed_put(l->feed, &shaped.record) == 0) {
        if (feed_commit(l->feed, err) != 0) return -1;
        CHECK(feed_put(l->feed, &shaped.record) == 1);
    }
    o->position = rows_position(l->rows, &o->line);
    return 0;
}

static int rows_publish(struct load *l, struct err *err) {
    struct outbox_load *o = &l->out->load;
    struct pace pace = {.begin_ns = clock_ns(&clock_real), .rate = o->source.rate};
    struct row row = {0};
    struct err why = {0};
    struct stat now;
    if (o->position > 0 && rows_seek(l->rows, o->position, o->line, err) != 0) return -1;
    for (;;) {
        enum rows_result got = rows_next(l->rows, &row, &why);
        if (got == ROWS_FAILED) return err_set(err, why.code, "%s: %s", o->source.path, why.text);
        if (got == ROWS_END) break;
        if (row_publish(l, got, &row, err) != 0 || pace_keep(l, &pace, err) != 0) return -1;
    }
    if (fstat(l->fd, &now) != 0 || now.st_size != l->stat.st_size || now.st_mtim.tv_sec != l->stat.st_mtim.tv_sec ||
        now.st_mtim.tv_nsec != l->stat.st_mtim.tv_nsec)
        return err_set(err, EX_DATAERR, "%s was changed while it was being read", o->source.path);
    return 0;
}

static void feed_make(struct load *l) {
    const struct config *c = l->set->config;
    struct feed_settings set = {.clock = &clock_real,
                                .kafka = &l->kafka,
                                .outbox = l->outbox,
                                .operation_header = l->topic->operation_header,
                                .manifest_topic = c->recon.manifest_topic,
                                .algorithm = l->out->load.algorithm,
                                .digest = &l->digest,
                                .window_ms = c->recon.window_ms,
                                .attempts = l->set->attempts,
                                .attempt_ms = l->set->attempt_ms,
                                .stop = l->set->stop,
                                .progress = show,
                                .context = l};
    int wait_ms = l->set->attempt_ms < ANSWER_MS ? (int)l->set->attempt_ms : ANSWER_MS;
    l->feed = feed_new(&set);
    kafka_out_new(&l->kafka, c, l->out->load.source.max_message, wait_ms, feed_delivered, l->feed);
}

/* From the load's state to its end. */
static int carry(struct load *l, struct err *err) {
    struct outbox_load *o = &l->out->load;
    feed_make(l);
    int done = feed_begin(l->feed, o, err);
    if (done == 0 && o->state == OUTBOX_READING) done = rows_publish(l, err);
    if (done == 0) done = feed_finish(l->feed, o->state != OUTBOX_ENDING, err);
    l->out->acknowledged = feed_acknowledged(l->feed);
    l->out->reconnects = feed_reconnects(l->feed);
    uint64_t bytes;
    struct err ignored;
    outbox_rollback(l->outbox);
    if (outbox_count(l->outbox, o->number, &l->out->left, &bytes, &ignored) != 0) l->out->left = 0;
    l->out->places = outbox_places(l->outbox, o->number, l->out->place, PARTITIONS_MAX, &ignored);
    if (done == 0 && o->source.spooled) unlink(o->source.path);
    return done;
}

/* -- new and old loads ------------------------------------------------------------------------- */

static int source_make(struct load *l, const struct load_request *r, struct err *err) {
    struct outbox_load *o = &l->out->load;
    struct outbox_source *s = &o->source;
    s->format = r->format;
    s->operation = r->operation;
    s->skip_bad = r->skip_bad;
    s->max_message = r->max_message;
    s->rate = r->rate;
    s->spooled = strcmp(r->path, "-") == 0;
    if (r->key != NULL && strlen(r->key) >= sizeof s->key) return err_set(err, EX_USAGE, "--key is too long");
    snprintf(s->key, sizeof s->key, "%s", r->key != NULL ? r->key : "");
    l->fd = s->spooled ? source_spool(l->set->outbox, o->id, s->path, sizeof s->path, err)
                       : source_open(r->path, s->path, sizeof s->path, err);
    if (l->fd < 0 || shape_make(l, s, err) != 0 || rows_make(l, s, err) != 0 || look(l, r, err) != 0) return -1;
    if (fstat(l->fd, &l->stat) != 0) return err_set(err, EX_IOERR, "%s: %s", s->path, strerror(errno));
    s->bytes = (uint64_t)l->stat.st_size;
    if (source_hash(l->fd, s->hash, err) != 0) return err_prefix(err, "%s", s->path);
    return rows_make(l, s, err);
}

static int load_make(struct load *l, const struct load_request *r, struct err *err) {
    static struct uuid7 uuid = {.clock = &clock_real};
    struct outbox_load *o = &l->out->load;
    enum digest_algorithm algorithm;
    if (topic_find(l, r->topic, err) != 0 || digest_init(l, &algorithm, err) != 0) return -1;
    o->algorithm = algorithm;
    o->created_ms = clock_wall_ms(&clock_real);
    o->snapshot = r->snapshot;
    snprintf(o->topic, sizeof o->topic, "%s", r->topic);
    if (r->id != NULL)
        memcpy(o->id, r->id, sizeof o->id);
    else
        uuid7_make(&uuid, o->created_ms, o->id);
    if (r->producer != NULL)
        snprintf(o->producer, sizeof o->producer, "%s", r->producer);
    else
        snprintf(o->producer, sizeof o->producer, "load-%.48s-%s", l->set->config->instance, outbox_tag(l->outbox));
    return source_make(l, r, err);
}

int load_run(const struct load_settings *s, const struct load_request *r, struct load_result *out, struct err *err) {
    struct load l = {.set = s, .out = out, .fd = -1};
    *out = (struct load_result){.manifests = s->config->recon.manifest_topic[0] != 0};
    int done = -1;
    l.outbox = outbox_open(s->outbox, err);
    if (l.outbox != NULL) done = load_make(&l, r, err);
    if (done == 0 && !r->dry_run) done = outbox_load_insert(l.outbox, &out->load, err);
    if (out->load.number == 0 && out->load.source.spooled && out->load.source.path[0] != 0)
        unlink(out->load.source.path); /* nobody will come back for it */
    if (done == 0 && !r->dry_run) done = carry(&l, err);
    load_close(&l);
    return done;
}

/* The source as it was left; it has to be the same. */
static int source_again(struct load *l, struct err *err) {
    struct outbox_source *s = &l->out->load.source;
    char path[sizeof s->path];
    uint8_t hash[16];
    l->fd = source_open(s->path, path, sizeof path, err);
    if (l->fd < 0) return -1;
    if (fstat(l->fd, &l->stat) != 0 || source_hash(l->fd, hash, err) != 0)
        return err_set(err, EX_IOERR, "%s cannot be read", s->path);
    if (memcmp(hash, s->hash, sizeof hash) != 0 || (uint64_t)l->stat.st_size != s->bytes)
        return err_set(err, EX_DATAERR, "%s is not what it was when the load began; --abandon ends the load", s->path);
    return shape_make(l, s, err) == 0 ? rows_make(l, s, err) : -1;
}

static int load_go_on(struct load *l, bool abandon, struct err *err) {
    struct outbox_load *o = &l->out->load;
    enum digest_algorithm algorithm;
    if (topic_find(l, o->topic, err) != 0 || digest_init(l, &algorithm, err) != 0) return -1;
    if (algorithm != o->algorithm)
        return err_set(err, EX_CONFIG, "the load was begun with other digests than recon.keys and reconcile say now");
    if (abandon && o->state != OUTBOX_SENDING) {
        o->state = OUTBOX_ENDING;
        if (outbox_load_update(l->outbox, o, err) != 0) return -1;
    }
    if (outbox_forgive(l->outbox, o->number, err) != 0) return -1;
    if (o->state == OUTBOX_READING && source_again(l, err) != 0) return -1;
    return carry(l, err);
}

int load_resume(const struct load_settings *s, const uint8_t *id, int64_t after, bool abandon, struct load_result *out,
                struct err *err) {
    struct load l = {.set = s, .out = out, .fd = -1};
    uint8_t wanted[16];
    if (id != NULL) id = memcpy(wanted, id, sizeof wanted); /* it may be in *out */
    *out = (struct load_result){.manifests = s->config->recon.manifest_topic[0] != 0};
    l.outbox = outbox_open(s->outbox, err);
    int found = l.outbox == NULL ? -1 : outbox_load_find(l.outbox, id, after, &out->load, err);
    if (found == 1 && (out->load.state == OUTBOX_COMPLETE || out->load.state == OUTBOX_ABORTED))
        found = err_set(err, EX_USAGE, "this load is over");
    if (found == 1 && load_go_on(&l, abandon, err) != 0) found = -1;
    load_close(&l);
    return found;
}

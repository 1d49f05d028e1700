#include "recon/live.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/clock.h"
#include "recon/live_state.h"

enum {
    OPEN_ATTEMPTS = 100, /* of a reader, while the writer merges runs away */
    READER_ROWS_AT_FIRST = 4096,
    FLUSH_AFTER_MS = 60000,
    MERGE_COUNT_MIN = 4,      /* runs that are worth a merge */
    MERGE_ROWS = 65536,       /* merged by a live_commit, */
    MERGE_ROWS_PER_ENTRY = 6, /* and for each entry since the last: more than merging can fall behind */
};

struct live {
    int dir, lock;           /* lock -1: a reader */
    struct live_state state; /* as applied; what MANIFEST holds is older by the delta */
    struct delta delta;
    struct run run[MERGE_RUNS_MAX]; /* as state.run */
    bool changed;                   /* since MANIFEST was written */
    int64_t changed_ms;             /* about when; 0: live_commit has not seen it yet */
    uint64_t applied;               /* entries since the last live_commit */
    struct {                        /* the merge under way, of run[from, to) */
        bool on;
        uint32_t from, to;
        uint64_t number;
        int64_t now_ms; /* by which expired rows are left out */
        struct merge source;
        struct run_writer out;
    } merging;
};

void live_dir(const struct config *c, char out[PATH_BYTES + 16]) {
    snprintf(out, PATH_BYTES + 16, "%s/recon/live", c->data_dir);
}

/* -- opening ----------------------------------------------------------------------------------- */

static void close_runs(struct live *l, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) run_close(&l->run[i]);
}

/* The manifest and the runs it names. */
static int load(struct live *l, struct err *err) {
    char name[RUN_NAME_BYTES];
    live_state_free(&l->state);
    if (live_state_init(&l->state, err) != 0 || live_state_read(&l->state, l->dir, err) != 0) return -1;
    for (uint32_t i = 0; i < l->state.run_count; i++) {
        live_run_name(l->state.run[i], name);
        if (run_open(&l->run[i], l->dir, name, err) != 0) {
            close_runs(l, i);
            l->state.run_count = 0;
            return -1;
        }
    }
    return 0;
}

static bool has_manifest(const struct live *l) { return faccessat(l->dir, "MANIFEST", F_OK, 0) == 0; }

static bool named(const struct live *l, const char *name) {
    char own[RUN_NAME_BYTES];
    for (uint32_t i = 0; i < l->state.run_count; i++) {
        live_run_name(l->state.run[i], own);
        if (strcmp(own, name) == 0) return true;
    }
    return false;
}

/* What a writer that died had begun. */
static void tidy(const struct live *l) {
    int fd = openat(l->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (d == NULL) return; /* it costs nothing but the room */
    for (const struct dirent *e; (e = readdir(d)) != NULL;) {
        size_t len = strlen(e->d_name);
        if (len > 4 && strcmp(e->d_name + len - 4, ".run") == 0 && !named(l, e->d_name)) unlinkat(l->dir, e->d_name, 0);
    }
    closedir(d);
}

static struct live *allocate(uint32_t rows, struct err *err) {
    struct live *l = calloc(1, sizeof *l);
    if (l == NULL) {
        err_set(err, EX_OSERR, "no memory for the table of live keys");
        return NULL;
    }
    l->dir = l->lock = -1;
    if (live_state_init(&l->state, err) == 0 && delta_init(&l->delta, rows, err) == 0) return l;
    live_close(l);
    return NULL;
}

static int open_folder(struct live *l, const char *dir, bool make, struct err *err) {
    if (make && mkdir(dir, 0750) != 0 && errno != EEXIST) return err_set(err, EX_IOERR, "%s: %s", dir, strerror(errno));
    l->dir = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (l->dir >= 0) return 0;
    return err_set(err, errno == ENOENT ? EX_NOINPUT : EX_IOERR, "%s: %s", dir, strerror(errno));
}

static int lock_folder(struct live *l, struct err *err) {
    l->lock = openat(l->dir, "LOCK", O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (l->lock < 0) return err_set(err, EX_IOERR, "LOCK: %s", strerror(errno));
    if (flock(l->lock, LOCK_EX | LOCK_NB) == 0) return 0;
    return err_set(err, EX_TEMPFAIL, "another process writes the table of live keys");
}

struct live *live_open_writer(const char *dir, struct err *err) {
    struct live *l = allocate(LIVE_DELTA_ROWS, err);
    if (l == NULL) return NULL;
    if (open_folder(l, dir, true, err) == 0 && lock_folder(l, err) == 0) {
        bool there = has_manifest(l);
        if (there ? load(l, err) == 0 : live_state_write(&l->state, l->dir, err) == 0) {
            tidy(l);
            *err = (struct err){0};
            return l;
        }
        if (err->code == EX_NOINPUT) err->code = EX_DATAERR; /* a run that the manifest names */
        err_prefix(err, "%s", dir);
    }
    live_close(l);
    return NULL;
}

struct live *live_open_reader(const char *dir, struct err *err) {
    struct live *l = allocate(READER_ROWS_AT_FIRST, err);
    if (l == NULL) return NULL;
    if (open_folder(l, dir, false, err) == 0) {
        for (int i = 0; i < OPEN_ATTEMPTS; i++) {
            if (load(l, err) == 0) {
                *err = (struct err){0};
                return l;
            }
            if (err->code != EX_NOINPUT || !has_manifest(l)) break;
        }
        if (err->code == EX_NOINPUT && has_manifest(l)) err->code = EX_DATAERR; /* it names a run that is not there */
        err_prefix(err, "%s", dir);
    }
    live_close(l);
    return NULL;
}

static void merge_drop(struct live *l, bool remove);

void live_close(struct live *l) {
    if (l == NULL) return;
    if (l->merging.on) merge_drop(l, true);
    close_runs(l, l->state.run_count);
    live_state_free(&l->state);
    delta_free(&l->delta);
    if (l->lock >= 0) close(l->lock);
    if (l->dir >= 0) close(l->dir);
    free(l);
}

/* -- applying the log -------------------------------------------------------------------------- */

uint64_t live_sequence(const struct live *l) { return l->state.next; }
uint64_t live_since(const struct live *l) { return l->state.since; }
uint64_t live_gaps(const struct live *l) { return l->state.gaps; }

static int write_delta(struct live *l, struct err *err);

static int put(struct live *l, const struct live_row *row, struct err *err) {
    if (l->lock >= 0 && l->delta.count == l->delta.room && write_delta(l, err) != 0) return -1;
    return delta_put(&l->delta, row, err);
}

/* What the entry means for the keys it names. Superseded: the record that took its place is in the same batch. */
static int apply_rows(struct live *l, const struct entry *e, uint16_t topic, struct err *err) {
    struct live_row row = {.offset = e->offset, .event_ms = e->created_ms, .partition = e->partition, .topic = topic};
    bool written = e->outcome == ENTRY_APPLIED;
    if (!written && e->outcome != ENTRY_DELETED && e->outcome != ENTRY_EXPIRED) return 0;
    if ((e->flags & ENTRY_KEY_CHANGED) != 0) {
        memcpy(row.key, e->digest_old_key, DIGEST_BYTES);
        row.flags = LIVE_GONE;
        if (put(l, &row, err) != 0) return -1;
    }
    memcpy(row.key, e->digest_key, DIGEST_BYTES);
    row.flags = written ? 0 : LIVE_GONE;
    if (written) {
        memcpy(row.value, e->digest_stored, DIGEST_BYTES);
        memcpy(&row.load, e->load, sizeof row.load);
        row.expire_at_ms = e->expire_at_ms;
        row.algorithm = e->digest_algorithm;
        if ((e->flags & ENTRY_HASH) != 0) row.flags |= LIVE_HASH;
        if ((e->flags & ENTRY_KEY_CHANGED) != 0) row.flags |= LIVE_MOVED;
    }
    return put(l, &row, err);
}

int live_apply(struct live *l, const struct log_item *item, struct err *err) {
    struct live_state *s = &l->state;
    if (item->sequence < s->next) return 0;
    int topic = live_state_topic(s, item->topic, err);
    if (topic < 0) return -1;
    struct live_place *place = live_state_place(s, (uint16_t)topic, item->entry->partition, err);
    if (place == NULL || apply_rows(l, item->entry, (uint16_t)topic, err) != 0) return -1;
    if (item->entry->offset >= place->next) place->next = item->entry->offset + 1;
    if (s->since == 0) s->since = item->sequence;
    if (s->next != 0) s->gaps += item->sequence - s->next;
    s->next = item->sequence + 1;
    l->changed = true;
    l->applied++;
    return 0;
}

/* -- writing ----------------------------------------------------------------------------------- */

static int write_rows(struct run_writer *w, const struct delta *d, struct err *err) {
    const struct live_row **sorted = delta_sorted(d, err);
    if (sorted == NULL) return -1;
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < d->count; i++) r = run_writer_put(w, sorted[i], err);
    free(sorted);
    return r == 0 ? run_writer_close(w, err) : -1;
}

/* The delta as a file, which no manifest names yet; opened as the newest run. */
static int make_run(struct live *l, struct err *err) {
    char name[RUN_NAME_BYTES];
    struct run_writer w;
    struct live_state *s = &l->state;
    live_run_name(s->next_run, name);
    if (run_writer_open(&w, l->dir, name, err) != 0) return -1;
    if (write_rows(&w, &l->delta, err) != 0 || run_open(&l->run[s->run_count], l->dir, name, err) != 0) {
        run_writer_drop(&w);
        unlinkat(l->dir, name, 0);
        return -1;
    }
    s->run[s->run_count++] = s->next_run++;
    return 0;
}

static int merge_some(struct live *l, uint64_t rows, struct err *err);

/* The delta becomes a run, and the manifest names it. A failure leaves everything as it was. */
static int write_delta(struct live *l, struct err *err) {
    struct live_state *s = &l->state;
    while (s->run_count == MERGE_RUNS_MAX)
        if (merge_some(l, UINT64_MAX, err) != 0) return -1;
    bool rows = l->delta.count > 0;
    if (rows && make_run(l, err) != 0) return -1;
    int r = live_state_write(s, l->dir, err);
    if (r != 0) {
        if (rows) {
            run_close(&l->run[--s->run_count]);
            if (r != LIVE_STATE_DOUBT) unlinkat(l->dir, l->run[s->run_count].name, 0);
        }
        return r;
    }
    delta_clear(&l->delta);
    l->changed = false;
    l->changed_ms = 0;
    return 0;
}

/* -- merging ----------------------------------------------------------------------------------- */

/* Which runs to merge: the oldest that those after it outweigh, and all of those. So sizes at least double from a run
 * to the one before it, and each row is written again at most once per doubling. */
static bool merge_worth(const struct live *l, uint32_t *from) {
    uint32_t n = l->state.run_count;
    bool full = n == MERGE_RUNS_MAX;
    for (uint32_t i = 0; i + MERGE_COUNT_MIN <= n; i++) {
        uint64_t after = 0;
        for (uint32_t j = i + 1; j < n; j++) after += l->run[j].rows;
        *from = i;
        if (full || l->run[i].rows <= after) return true;
    }
    return false;
}

static int merge_start(struct live *l, uint32_t from, struct err *err) {
    char name[RUN_NAME_BYTES];
    const struct run *runs[MERGE_RUNS_MAX];
    uint32_t to = l->state.run_count;
    for (uint32_t i = from; i < to; i++) runs[i - from] = &l->run[i];
    if (merge_begin(&l->merging.source, runs, to - from, NULL, err) != 0) return -1;
    l->merging.from = from;
    l->merging.to = to;
    l->merging.number = l->state.next_run++;
    l->merging.now_ms = clock_wall_ms(&clock_real);
    live_run_name(l->merging.number, name);
    if (run_writer_open(&l->merging.out, l->dir, name, err) != 0) {
        merge_end(&l->merging.source);
        return -1;
    }
    l->merging.on = true;
    return 0;
}

static void merge_drop(struct live *l, bool remove) {
    char name[RUN_NAME_BYTES];
    live_run_name(l->merging.number, name);
    merge_end(&l->merging.source);
    run_writer_drop(&l->merging.out);
    if (remove) unlinkat(l->dir, name, 0);
    l->merging.on = false;
}

/* run[from, to) and their numbers are replaced by `count` others. */
static void replace_runs(struct live *l, uint32_t from, uint32_t to, const struct run *with, const uint64_t *number,
                         uint32_t count) {
    struct live_state *s = &l->state;
    uint32_t after = s->run_count - to;
    memmove(&s->run[from + count], &s->run[to], after * sizeof s->run[0]);
    memmove(&l->run[from + count], &l->run[to], after * sizeof l->run[0]);
    memcpy(&s->run[from], number, count * sizeof s->run[0]);
    memcpy(&l->run[from], with, count * sizeof l->run[0]);
    s->run_count = from + count + after;
}

/* The merged run takes the place of those it was made of. What is in memory goes to the disk with it: a manifest tells
 * of all that was applied. */
static int merge_finish(struct live *l, struct err *err) {
    char name[RUN_NAME_BYTES];
    struct run merged, old[MERGE_RUNS_MAX];
    uint64_t old_number[MERGE_RUNS_MAX];
    uint32_t from = l->merging.from, to = l->merging.to, count = to - from;
    live_run_name(l->merging.number, name);
    if (run_writer_close(&l->merging.out, err) != 0 || run_open(&merged, l->dir, name, err) != 0) return -1;
    memcpy(old, &l->run[from], count * sizeof old[0]);
    memcpy(old_number, &l->state.run[from], count * sizeof old_number[0]);
    replace_runs(l, from, to, &merged, &l->merging.number, 1);
    int r = write_delta(l, err);
    if (r != 0) {
        replace_runs(l, from, from + 1, old, old_number, count);
        run_close(&merged);
        return r;
    }
    for (uint32_t i = 0; i < count; i++) {
        unlinkat(l->dir, old[i].name, 0);
        run_close(&old[i]);
    }
    merge_drop(l, false);
    return 0;
}

/* A row of a merge that nothing older lies under need not be kept once there is no such key. */
static bool row_needed(const struct live *l, const struct live_row *row) {
    if (l->merging.from > 0) return true;
    if ((row->flags & LIVE_GONE) != 0) return false;
    return row->expire_at_ms == 0 || row->expire_at_ms + LIVE_EXPIRED_KEPT_MS > l->merging.now_ms;
}

/* Goes on with the merge under way by so many rows, or begins one. 0, or -1 with err: it is begun anew later. */
static int merge_some(struct live *l, uint64_t rows, struct err *err) {
    struct err own = {0};
    uint32_t from;
    if (!l->merging.on && (!merge_worth(l, &from) || merge_start(l, from, &own) != 0)) {
        if (own.code != 0) *err = own;
        return own.code == 0 ? 0 : -1;
    }
    const struct live_row *row = NULL;
    int r = 0;
    while (r == 0 && rows-- > 0 && (row = merge_next(&l->merging.source, &own)) != NULL)
        if (row_needed(l, row)) r = run_writer_put(&l->merging.out, row, &own);
    if (own.code == 0 && row == NULL) r = merge_finish(l, &own);
    if (own.code == 0) return 0;
    merge_drop(l, r != LIVE_STATE_DOUBT);
    *err = own;
    return -1;
}

int live_flush(struct live *l, struct err *err) { return !l->changed || write_delta(l, err) == 0 ? 0 : -1; }

int live_commit(struct live *l, int64_t now_ms, struct err *err) {
    uint64_t rows = MERGE_ROWS + MERGE_ROWS_PER_ENTRY * l->applied;
    l->applied = 0;
    if (l->changed && l->changed_ms == 0) l->changed_ms = now_ms;
    bool old = l->changed && (now_ms < l->changed_ms || now_ms - l->changed_ms > FLUSH_AFTER_MS);
    if ((old || l->delta.count > LIVE_DELTA_ROWS / 2) && write_delta(l, err) != 0) return -1;
    return merge_some(l, rows, err);
}

/* -- reading ----------------------------------------------------------------------------------- */

int live_find_at(struct live *l, const uint8_t key[DIGEST_BYTES], struct live_row *row, uint64_t *index,
                 struct err *err) {
    struct live_row next;
    uint64_t at;
    bool found = false;
    *index = UINT64_MAX;
    for (uint32_t i = 0; i < l->state.run_count; i++) {
        int r = run_find(&l->run[i], key, &next, &at, err);
        if (r < 0) return -1;
        if (r > 0 && i == 0) *index = at;
        if (r > 0 && (!found || live_replaces(&next, row))) *row = next;
        found = found || r > 0;
    }
    const struct live_row *changed = delta_find(&l->delta, key);
    if (changed != NULL && (!found || live_replaces(changed, row))) *row = *changed;
    found = found || changed != NULL;
    return found && (row->flags & LIVE_GONE) == 0;
}

int live_find(struct live *l, const uint8_t key[DIGEST_BYTES], struct live_row *row, struct err *err) {
    uint64_t index;
    return live_find_at(l, key, row, &index, err);
}

const struct run *live_base(const struct live *l) { return l->state.run_count > 0 ? &l->run[0] : NULL; }

struct live_cursor {
    struct merge merge;
};

struct live_cursor *live_cursor_new(struct live *l, struct err *err) {
    const struct run *runs[MERGE_RUNS_MAX];
    struct live_cursor *c = calloc(1, sizeof *c);
    if (c == NULL) {
        err_set(err, EX_OSERR, "no memory to walk over the live keys");
        return NULL;
    }
    for (uint32_t i = 0; i < l->state.run_count; i++) runs[i] = &l->run[i];
    if (merge_begin(&c->merge, runs, l->state.run_count, &l->delta, err) == 0) return c;
    free(c);
    return NULL;
}

int live_cursor_next(struct live_cursor *c, struct live_row *row, struct err *err) {
    struct err own = {0};
    const struct live_row *next;
    while ((next = merge_next(&c->merge, &own)) != NULL) {
        if ((next->flags & LIVE_GONE) != 0) continue;
        *row = *next;
        return 1;
    }
    if (own.code != 0) *err = own;
    return own.code == 0 ? 0 : -1;
}

void live_cursor_free(struct live_cursor *c) {
    if (c == NULL) return;
    merge_end(&c->merge);
    free(c);
}

/* All living rows into the run `name` of folder dir. */
static int export_rows(struct live *l, int dir, const char *name, struct err *err) {
    struct run_writer w;
    struct live_row row;
    struct live_cursor *c = live_cursor_new(l, err);
    int r = c == NULL || run_writer_open(&w, dir, name, err) != 0 ? -1 : 0;
    if (r == 0) {
        while ((r = live_cursor_next(c, &row, err)) == 1)
            if (run_writer_put(&w, &row, err) != 0) break;
        r = r == 0 ? run_writer_close(&w, err) : -1;
        if (r != 0) run_writer_drop(&w);
    }
    live_cursor_free(c);
    return r;
}

int live_export(struct live *l, const char *dir, struct err *err) {
    char name[RUN_NAME_BYTES];
    struct live_state as_one = l->state; /* its own topics and places stay l's */
    as_one.run_count = 1;
    as_one.run[0] = 1;
    as_one.next_run = 2;
    live_run_name(1, name);
    if (mkdir(dir, 0700) != 0)
        return err_set(err, errno == EEXIST ? EX_CANTCREAT : EX_IOERR, "%s: %s", dir, strerror(errno));
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return err_set(err, EX_IOERR, "%s: %s", dir, strerror(errno));
    int r = export_rows(l, fd, name, err) == 0 && live_state_write(&as_one, fd, err) == 0 ? 0 : -1;
    close(fd);
    return r;
}

const char *live_topic(const struct live *l, uint16_t topic) {
    return topic < l->state.topic_count ? l->state.topic[topic] : "?";
}

int live_topic_find(const struct live *l, const char *name) {
    for (uint32_t i = 0; i < l->state.topic_count; i++)
        if (strcmp(l->state.topic[i], name) == 0) return (int)i;
    return -1;
}

int64_t live_next(const struct live *l, const char *topic, int32_t partition) {
    int t = live_topic_find(l, topic);
    for (uint32_t i = 0; t >= 0 && i < l->state.place_count; i++)
        if (l->state.place[i].topic == t && l->state.place[i].partition == partition) return l->state.place[i].next;
    return -1;
}

void live_measure(const struct live *l, struct live_size *out) {
    *out = (struct live_size){.delta_rows = l->delta.count, .runs = l->state.run_count};
    for (uint32_t i = 0; i < l->state.run_count; i++) {
        out->rows += l->run[i].rows;
        out->disk_bytes += run_file_bytes(&l->run[i]);
    }
}

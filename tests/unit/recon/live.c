/* The table of live keys: which row counts, and that it is whole after any death, failure or merge. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include "recon/live.h"
#include "recon/run.h"
#include "shm/record.h"

static char dir[64], table[80];

/* -- file calls that die or fail --------------------------------------------------------------- */

/* The calls that change something, in place of the C library's: the `strike`th of them kills the process half-way, or
 * fails. */
static struct {
    enum { QUIET, DIE, FAIL } mode;
    int calls, strike;
} fault;

static bool struck(void) {
    if (fault.mode == QUIET || ++fault.calls != fault.strike) return false;
    errno = ENOSPC;
    return true;
}
static void maybe_die(void) {
    if (fault.mode == DIE) _exit(77);
}

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at) {
    bool now = struck();
    ssize_t n = syscall(SYS_pwrite64, fd, bytes, now ? len / 2 : len, at);
    if (now) maybe_die();
    if (now) errno = ENOSPC;
    return now ? -1 : n;
}
ssize_t write(int fd, const void *bytes, size_t len) {
    if (fault.mode == QUIET) return syscall(SYS_write, fd, bytes, len);
    bool now = struck();
    ssize_t n = syscall(SYS_write, fd, bytes, now ? len / 2 : len);
    if (now) maybe_die();
    return n;
}
int renameat(int from, const char *a, int to, const char *b) {
    if (struck()) {
        maybe_die();
        return -1;
    }
    return (int)syscall(SYS_renameat, from, a, to, b);
}
int unlinkat(int at, const char *name, int flags) {
    if (struck()) {
        maybe_die();
        return -1;
    }
    return (int)syscall(SYS_unlinkat, at, name, flags);
}
int fsync(int fd) {
    if (struck()) {
        maybe_die();
        return -1;
    }
    (void)fd; /* no test here cuts the power */
    return 0;
}
int fdatasync(int fd) { return fsync(fd); }

/* -- a made-up log ----------------------------------------------------------------------------- */

enum { KEYS = 3000, PARTITIONS = 4, LOG_MAX = 60000 };

static struct entry entries[LOG_MAX];
static uint32_t entry_count;

static uint32_t seed = 1;
static uint32_t draw(uint32_t below) {
    seed = seed * 1664525 + 1013904223;
    return (uint32_t)(((uint64_t)seed * below) >> 32);
}

static void digest_make(uint8_t out[DIGEST_BYTES], uint32_t n) {
    uint64_t a = (n + 1) * 0x9e3779b97f4a7c15ULL, b = a * 0xbf58476d1ce4e5b9ULL + n;
    memcpy(out, &a, 8);
    memcpy(out + 8, &b, 4);
    memcpy(out + 12, &n, 4);
}

static struct entry entry_of(int32_t partition, int64_t offset, enum entry_outcome outcome, uint32_t key,
                             uint32_t value) {
    struct entry e = {.bytes = sizeof e, .partition = partition, .offset = offset, .outcome = (uint8_t)outcome};
    e.op = RECORD_ADD;
    e.created_ms = 1000 + offset;
    e.digest_algorithm = DIGEST_HMAC;
    digest_make(e.digest_key, key);
    if (outcome == ENTRY_APPLIED) digest_make(e.digest_stored, 1000000 + value);
    return e;
}

/* A partition's records from its history: the same offset is the same record, however often it is read. */
static struct entry record_at(int32_t partition, int64_t offset) {
    uint32_t saved = seed, kind;
    seed = (uint32_t)(partition * 7919 + offset * 104729 + 17);
    draw(2);
    uint32_t key = draw(KEYS), old = draw(KEYS);
    kind = draw(20);
    struct entry e = entry_of(partition, offset,
                              kind < 3    ? ENTRY_DELETED
                              : kind == 3 ? ENTRY_EXPIRED
                              : kind == 4 ? ENTRY_REJECTED
                              : kind == 5 ? ENTRY_SUPERSEDED
                                          : ENTRY_APPLIED,
                              key, draw(1000000));
    if (kind == 6 && old != key) {
        e.flags |= ENTRY_KEY_CHANGED;
        digest_make(e.digest_old_key, old);
    }
    if (kind == 7) e.flags |= ENTRY_HASH;
    seed = saved;
    return e;
}

/* Partitions go on by turns; now and then one is read again from further back, up to where it was. */
static void log_make(uint32_t count, uint32_t from_seed) {
    int64_t next[PARTITIONS] = {0};
    seed = from_seed;
    entry_count = 0;
    while (entry_count < count) {
        int32_t p = (int32_t)draw(PARTITIONS);
        if (draw(500) == 0 && next[p] > 0) {
            int64_t back = 1 + draw((uint32_t)(next[p] < 400 ? next[p] : 400));
            for (int64_t o = next[p] - back; o < next[p] && entry_count < LOG_MAX; o++) {
                entries[entry_count] = record_at(p, o);
                entries[entry_count++].flags |= ENTRY_REPEAT;
            }
        } else {
            entries[entry_count++] = record_at(p, next[p]++);
        }
    }
}

static struct log_item item_of(uint32_t i) {
    return (struct log_item){.entry = &entries[i], .topic = "cards", .sequence = i + 1};
}

/* -- what the table should hold ---------------------------------------------------------------- */

static struct {
    bool there, gone;
    const struct entry *by;
} model[KEYS];

static uint32_t key_number(const uint8_t key[DIGEST_BYTES]) {
    uint32_t k;
    memcpy(&k, key + 12, sizeof k);
    cr_assert_lt(k, KEYS);
    return k;
}

static void model_put(const uint8_t key[DIGEST_BYTES], const struct entry *e, bool gone) {
    uint32_t k = key_number(key);
    if (model[k].there && model[k].by->partition == e->partition && model[k].by->offset > e->offset) return;
    model[k].there = true;
    model[k].gone = gone;
    model[k].by = e;
}

static void model_make(uint32_t count) {
    memset(model, 0, sizeof model);
    for (uint32_t i = 0; i < count; i++) {
        const struct entry *e = &entries[i];
        if (e->outcome != ENTRY_APPLIED && e->outcome != ENTRY_DELETED && e->outcome != ENTRY_EXPIRED) continue;
        if ((e->flags & ENTRY_KEY_CHANGED) != 0) model_put(e->digest_old_key, e, true);
        model_put(e->digest_key, e, e->outcome != ENTRY_APPLIED);
    }
}

static void expect_row(const struct live_row *row, uint32_t k) {
    const struct entry *e = model[k].by;
    cr_assert(model[k].there && !model[k].gone, "key %u should not be there", k);
    cr_assert(row->partition == e->partition && row->offset == e->offset, "key %u: %d/%ld, not %d/%ld", k,
              row->partition, row->offset, e->partition, e->offset);
    cr_assert_arr_eq(row->value, e->digest_stored, DIGEST_BYTES);
    cr_assert_eq(row->event_ms, e->created_ms);
    cr_assert_eq((row->flags & LIVE_HASH) != 0, (e->flags & ENTRY_HASH) != 0);
}

/* Both ways of reading the table agree with the model. */
static void expect_model(struct live *l) {
    struct err err = {0};
    struct live_row row;
    uint32_t living = 0, seen = 0;
    for (uint32_t k = 0; k < KEYS; k++) {
        uint8_t key[DIGEST_BYTES];
        digest_make(key, k);
        bool there = model[k].there && !model[k].gone;
        int r = live_find(l, key, &row, &err);
        cr_assert_eq(r, there, "key %u: %d, %s", k, r, err.text);
        living += there;
        if (there) expect_row(&row, k);
    }
    struct live_cursor *c = live_cursor_new(l, &err);
    uint8_t before[DIGEST_BYTES] = {0};
    while (live_cursor_next(c, &row, &err) == 1) {
        cr_assert(seen == 0 || memcmp(before, row.key, DIGEST_BYTES) < 0, "not in order");
        memcpy(before, row.key, DIGEST_BYTES);
        expect_row(&row, key_number(row.key));
        seen++;
    }
    live_cursor_free(c);
    cr_assert_eq(err.code, 0, "%s", err.text);
    cr_assert_eq(seen, living);
}

static void apply(struct live *l, uint32_t from, uint32_t to) {
    struct err err = {0};
    for (uint32_t i = from; i < to; i++) {
        struct log_item item = item_of(i);
        cr_assert_eq(live_apply(l, &item, &err), 0, "%s", err.text);
    }
}

static struct live *writer(void) {
    struct err err = {0};
    struct live *l = live_open_writer(table, &err);
    cr_assert_not_null(l, "%s", err.text);
    return l;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}
static void clean(void) { nftw(table, remove_one, 8, FTW_DEPTH | FTW_PHYS); }
static void folder_make(void) {
    snprintf(dir, sizeof dir, "/tmp/millrace-live-XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
    snprintf(table, sizeof table, "%s/live", dir);
}
static void folder_remove(void) { nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS); }

TestSuite(live, .init = folder_make, .fini = folder_remove, .timeout = 120);

/* -- which row counts -------------------------------------------------------------------------- */

/* A walk comes by the row that was found, and by none when there is none. */
static void expect_walked(struct live *l, const uint8_t key[DIGEST_BYTES], const struct live_row *found) {
    struct err err = {0};
    struct live_row row;
    bool met = false;
    struct live_cursor *c = live_cursor_new(l, &err);
    while (live_cursor_next(c, &row, &err) == 1)
        if (memcmp(row.key, key, DIGEST_BYTES) == 0) {
            met = true;
            cr_assert(found != NULL && memcmp(&row, found, sizeof row) == 0);
        }
    live_cursor_free(c);
    cr_assert_eq(met, found != NULL);
}

/* A log of its own: what the entries given make of key 1. Returns what live_find does. */
static int after(struct live_row *row, uint32_t count, const struct entry *list) {
    struct err err = {0};
    uint8_t key[DIGEST_BYTES];
    int r[2];
    digest_make(key, 1);
    for (int flushed = 0; flushed < 2; flushed++) { /* in memory, and each entry in a run of its own */
        clean();
        struct live *l = writer();
        for (uint32_t i = 0; i < count; i++) {
            struct log_item item = {.entry = &list[i], .topic = "cards", .sequence = i + 1};
            cr_assert_eq(live_apply(l, &item, &err), 0);
            if (flushed) cr_assert_eq(live_flush(l, &err), 0, "%s", err.text);
        }
        r[flushed] = live_find(l, key, row, &err);
        expect_walked(l, key, r[flushed] == 1 ? row : NULL);
        live_close(l);
    }
    cr_assert_eq(r[0], r[1]);
    return r[1];
}
#define AFTER(row, ...)                                                                                                \
    after(row, sizeof((struct entry[]){__VA_ARGS__}) / sizeof(struct entry), (struct entry[]){__VA_ARGS__})

Test(live, a_written_key_lives_and_a_deleted_or_expired_one_does_not) {
    struct live_row row;
    cr_assert_eq(AFTER(&row, entry_of(0, 5, ENTRY_APPLIED, 1, 7)), 1);
    cr_assert_eq(row.offset, 5);
    cr_assert_eq(AFTER(&row, entry_of(0, 5, ENTRY_APPLIED, 1, 7), entry_of(0, 6, ENTRY_DELETED, 1, 0)), 0);
    cr_assert_eq(AFTER(&row, entry_of(0, 5, ENTRY_APPLIED, 1, 7), entry_of(0, 6, ENTRY_EXPIRED, 1, 0)), 0);
}

Test(live, what_was_not_written_changes_nothing) {
    static const enum entry_outcome none[] = {ENTRY_SUPERSEDED, ENTRY_FILTERED, ENTRY_REJECTED};
    struct live_row row;
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        cr_assert_eq(AFTER(&row, entry_of(0, 5, ENTRY_APPLIED, 1, 7), entry_of(0, 6, none[i], 1, 8)), 1);
        cr_assert_eq(row.offset, 5);
    }
}

Test(live, a_lower_offset_of_the_same_partition_never_wins_and_of_another_one_the_later) {
    struct live_row row;
    cr_assert_eq(AFTER(&row, entry_of(0, 9, ENTRY_APPLIED, 1, 7), entry_of(0, 5, ENTRY_APPLIED, 1, 6)), 1);
    cr_assert_eq(row.offset, 9);
    cr_assert_eq(AFTER(&row, entry_of(0, 9, ENTRY_DELETED, 1, 0), entry_of(0, 5, ENTRY_APPLIED, 1, 6)), 0);
    cr_assert_eq(AFTER(&row, entry_of(0, 9, ENTRY_APPLIED, 1, 7), entry_of(1, 5, ENTRY_APPLIED, 1, 6)), 1);
    cr_assert_eq(row.partition, 1);
    struct entry twice = entry_of(0, 9, ENTRY_APPLIED, 1, 7);
    twice.expire_at_ms = 99;
    cr_assert_eq(AFTER(&row, entry_of(0, 9, ENTRY_APPLIED, 1, 7), twice), 1);
    cr_assert_eq(row.expire_at_ms, 99, "the same record, read under another configuration");
}

Test(live, a_changed_key_takes_the_old_one_away) {
    struct live_row row;
    struct entry moved = entry_of(0, 6, ENTRY_APPLIED, 2, 7);
    moved.flags |= ENTRY_KEY_CHANGED;
    digest_make(moved.digest_old_key, 1);
    cr_assert_eq(AFTER(&row, entry_of(0, 5, ENTRY_APPLIED, 1, 7), moved), 0);
    digest_make(moved.digest_key, 1);
    digest_make(moved.digest_old_key, 2);
    cr_assert_eq(AFTER(&row, moved), 1);
    cr_assert_eq(row.flags, LIVE_MOVED);
}

Test(live, a_row_says_where_its_value_comes_from) {
    struct live_row row;
    struct entry e = entry_of(3, 44, ENTRY_APPLIED, 1, 7);
    e.flags |= ENTRY_HASH;
    e.expire_at_ms = 123456;
    e.digest_algorithm = DIGEST_XXH3;
    memcpy(e.load, "abcdefghijklmnop", 16);
    cr_assert_eq(AFTER(&row, e), 1);
    cr_assert(row.partition == 3 && row.offset == 44 && row.expire_at_ms == 123456 && row.event_ms == 1044);
    cr_assert(row.algorithm == DIGEST_XXH3 && row.flags == LIVE_HASH && memcmp(&row.load, "abcdefgh", 8) == 0);
}

Test(live, an_entry_that_is_covered_is_ignored_and_a_gap_is_noted) {
    struct err err = {0};
    log_make(10, 3);
    struct live *l = writer();
    cr_assert_eq(live_sequence(l), 0);
    apply(l, 2, 5);
    cr_assert(live_sequence(l) == 6 && live_since(l) == 3 && live_gaps(l) == 0);
    apply(l, 0, 5);
    cr_assert(live_sequence(l) == 6 && live_gaps(l) == 0);
    apply(l, 8, 9);
    cr_assert(live_sequence(l) == 10 && live_gaps(l) == 3);
    cr_assert_eq(live_flush(l, &err), 0);
    live_close(l);
    l = live_open_reader(table, &err);
    cr_assert(live_sequence(l) == 10 && live_gaps(l) == 3 && live_since(l) == 3);
    cr_assert_eq(live_next(l, "cards", entries[8].partition), entries[8].offset + 1);
    cr_assert_eq(live_next(l, "cards", 77), -1);
    cr_assert_eq(live_next(l, "other", 0), -1);
    live_close(l);
}

/* -- against the model ------------------------------------------------------------------------- */

Test(live, holds_what_the_log_says_through_runs_merges_and_restarts) {
    struct err err = {0};
    for (uint32_t round = 0; round < 6; round++) {
        clean();
        log_make(20000, 100 + round);
        struct live *l = writer();
        uint32_t at = 0, most = 0;
        while (at < entry_count) {
            uint32_t to = at + 1 + draw(700);
            if (to > entry_count) to = entry_count;
            apply(l, at, to);
            at = to;
            if (draw(2) == 0) cr_assert_eq(live_flush(l, &err), 0, "%s", err.text);
            struct live_size size;
            live_measure(l, &size);
            if (size.runs > most) most = size.runs;
            cr_assert_eq(live_commit(l, at, &err), 0, "%s", err.text);
            if (draw(8) == 0) {
                live_close(l);
                l = writer();
                at = live_sequence(l) == 0 ? 0 : (uint32_t)live_sequence(l) - 1;
            }
        }
        model_make(entry_count);
        expect_model(l);
        cr_assert(most >= 4 && most < 20, "%u runs", most);
        live_close(l);
    }
}

Test(live, a_reader_keeps_what_it_opened_while_runs_are_merged_away) {
    struct err err = {0};
    log_make(20000, 7);
    struct live *l = writer();
    apply(l, 0, 5000);
    cr_assert_eq(live_flush(l, &err), 0);
    struct live *r = live_open_reader(table, &err);
    cr_assert_not_null(r, "%s", err.text);
    for (uint32_t at = 5000; at < entry_count; at += 500) {
        apply(l, at, at + 500 < entry_count ? at + 500 : entry_count);
        cr_assert_eq(live_flush(l, &err), 0);
        cr_assert_eq(live_commit(l, 1, &err), 0);
    }
    live_close(l);
    cr_assert_eq(live_sequence(r), 5001);
    apply(r, 0, entry_count); /* the rest of the log, by itself */
    model_make(entry_count);
    expect_model(r);
    live_close(r);
}

Test(live, an_export_is_a_table_of_one_run_that_goes_on_by_itself) {
    struct err err = {0};
    char copy[100];
    struct live_row row;
    uint64_t index;
    log_make(20000, 9);
    struct live *l = writer();
    for (uint32_t at = 0; at < 10000; at += 1000) {
        apply(l, at, at + 1000);
        cr_assert_eq(live_flush(l, &err), 0);
    }
    apply(l, 10000, 11000);
    snprintf(copy, sizeof copy, "%s/copy", dir);
    cr_assert_eq(live_export(l, copy, &err), 0, "%s", err.text);
    cr_assert_neq(live_export(l, copy, &err), 0);
    cr_assert_eq(err.code, EX_CANTCREAT);
    live_close(l);
    l = live_open_reader(copy, &err);
    cr_assert_not_null(l, "%s", err.text);
    cr_assert_eq(live_sequence(l), 11001);
    model_make(11000);
    expect_model(l);
    for (uint64_t i = 0; i < live_base(l)->rows; i++) {
        cr_assert_eq(run_row(live_base(l), i, &row, &err), 0);
        cr_assert_eq(live_find_at(l, row.key, &row, &index, &err), 1);
        cr_assert_eq(index, i);
    }
    apply(l, 0, entry_count);
    model_make(entry_count);
    expect_model(l);
    live_close(l);
}

Test(live, a_delta_that_is_full_becomes_a_run) {
    struct err err = {0};
    struct live *l = writer();
    struct live_size size;
    for (uint32_t i = 0; i < LIVE_DELTA_ROWS + 10; i++) {
        struct entry e = entry_of(0, i, ENTRY_APPLIED, i, i);
        struct log_item item = {.entry = &e, .topic = "cards", .sequence = i + 1};
        cr_assert_eq(live_apply(l, &item, &err), 0);
    }
    live_measure(l, &size);
    cr_assert(size.runs == 1 && size.rows == LIVE_DELTA_ROWS && size.delta_rows == 10);
    live_close(l);
    l = writer();
    cr_assert_eq(live_sequence(l), LIVE_DELTA_ROWS + 1);
    live_close(l);
}

/* -- deaths and failures ----------------------------------------------------------------------- */

enum { DEATH_LOG = 3000, DEATH_STEP = 250 };

static void write_all_of_it(void) {
    struct err err = {0};
    struct live *l = live_open_writer(table, &err);
    if (l == NULL) _exit(1);
    for (uint32_t at = (uint32_t)live_sequence(l); at < entry_count;) {
        uint32_t to = at + DEATH_STEP < entry_count ? at + DEATH_STEP : entry_count;
        for (uint32_t i = at; i < to; i++) {
            struct log_item item = item_of(i);
            if (live_apply(l, &item, &err) != 0) _exit(1);
        }
        at = to;
        if (live_flush(l, &err) != 0 || live_commit(l, 1, &err) != 0) _exit(1);
    }
    live_close(l);
}

Test(live, killed_at_any_call_it_is_whole_and_goes_on_from_the_log) {
    log_make(DEATH_LOG, 11);
    model_make(entry_count);
    int strike = 0, status;
    do {
        clean();
        pid_t child = fork();
        if (child == 0) {
            fault.strike = strike + 1;
            fault.mode = DIE;
            write_all_of_it();
            _exit(0);
        }
        cr_assert_eq(waitpid(child, &status, 0), child);
        cr_assert(WIFEXITED(status) && (WEXITSTATUS(status) == 77 || WEXITSTATUS(status) == 0), "%d", status);
        struct live *l = writer();
        apply(l, 0, entry_count);
        expect_model(l);
        live_close(l);
        strike++;
    } while (WEXITSTATUS(status) == 77);
    cr_assert(strike > 60, "only %d calls to die at", strike);
}

/* Whatever is on the disk can be opened. */
static void expect_whole(void) {
    struct err err = {0};
    struct live *r = live_open_reader(table, &err);
    cr_assert(r != NULL || err.code == EX_NOINPUT, "%s", err.text);
    live_close(r);
}

Test(live, a_call_that_fails_loses_nothing) {
    log_make(DEATH_LOG, 12);
    model_make(entry_count);
    int failures = 0;
    for (int strike = 1; strike < 400; strike++) {
        struct err err = {0};
        clean();
        struct live *l = writer();
        fault.calls = 0;
        fault.strike = strike;
        fault.mode = FAIL;
        for (uint32_t at = 0; at < entry_count; at += DEATH_STEP) {
            apply(l, at, at + DEATH_STEP < entry_count ? at + DEATH_STEP : entry_count);
            while (live_flush(l, &err) != 0 || live_commit(l, 1, &err) != 0) {
                failures++;
                expect_whole();
            }
            expect_whole();
        }
        fault.mode = QUIET;
        expect_model(l);
        live_close(l);
        l = writer(); /* and what is on the disk is the same */
        apply(l, 0, entry_count);
        expect_model(l);
        live_close(l);
        if (fault.calls < strike) break;
    }
    cr_assert(failures > 40, "only %d failures", failures);
}

/* -- damage ------------------------------------------------------------------------------------ */

Test(live, a_changed_byte_is_found_wherever_it_is) {
    struct err err = {0};
    log_make(600, 5);
    struct live *l = writer();
    apply(l, 0, entry_count);
    cr_assert_eq(live_flush(l, &err), 0);
    live_close(l);
    static const char *const files[] = {"MANIFEST", "0000000000000001.run"};
    for (size_t f = 0; f < 2; f++) {
        char path[200];
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", table, files[f]);
        int fd = open(path, O_RDWR);
        cr_assert_eq(fstat(fd, &st), 0);
        for (off_t at = 0; at < st.st_size; at += 1 + (off_t)draw(20)) {
            uint8_t was, changed;
            cr_assert_eq(pread(fd, &was, 1, at), 1);
            changed = was ^ 4;
            cr_assert_eq(pwrite(fd, &changed, 1, at), 1);
            err = (struct err){0};
            l = live_open_reader(table, &err);
            if (l != NULL) {
                struct live_row row;
                struct live_cursor *c = live_cursor_new(l, &err);
                while (c != NULL && live_cursor_next(c, &row, &err) == 1) continue;
                live_cursor_free(c);
            }
            live_close(l);
            cr_assert_eq(err.code, EX_DATAERR, "%s, byte %ld: %d %s", files[f], (long)at, err.code, err.text);
            cr_assert_eq(pwrite(fd, &was, 1, at), 1);
        }
        close(fd);
    }
}

Test(live, a_missing_run_is_damage_and_a_missing_table_is_not) {
    struct err err = {0};
    char path[200];
    cr_assert_null(live_open_reader(table, &err));
    cr_assert_eq(err.code, EX_NOINPUT);
    log_make(100, 5);
    struct live *l = writer();
    apply(l, 0, entry_count);
    cr_assert_eq(live_flush(l, &err), 0);
    cr_assert_null(live_open_writer(table, &err));
    cr_assert_eq(err.code, EX_TEMPFAIL, "there is one writer");
    live_close(l);
    snprintf(path, sizeof path, "%s/0000000000000001.run", table);
    cr_assert_eq(remove(path), 0);
    cr_assert_null(live_open_writer(table, &err));
    cr_assert_eq(err.code, EX_DATAERR, "%s", err.text);
}

Test(live, rows_of_expired_keys_are_left_out_after_a_day) {
    struct err err = {0};
    struct live *l = writer();
    struct live_row row;
    uint8_t key[DIGEST_BYTES];
    for (uint32_t i = 0; i < 8; i++) {
        struct entry e = entry_of(0, i, ENTRY_APPLIED, i, i);
        e.expire_at_ms = i == 0 ? 1 : INT64_MAX / 2;
        struct log_item item = {.entry = &e, .topic = "cards", .sequence = i + 1};
        cr_assert_eq(live_apply(l, &item, &err), 0);
        cr_assert_eq(live_flush(l, &err), 0);
    }
    digest_make(key, 0);
    cr_assert_eq(live_find(l, key, &row, &err), 1);
    cr_assert_eq(live_commit(l, 1, &err), 0);
    cr_assert_eq(live_find(l, key, &row, &err), 0);
    digest_make(key, 1);
    cr_assert_eq(live_find(l, key, &row, &err), 1);
    live_close(l);
}

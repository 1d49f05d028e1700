/* What verify knows: the table as it was, and on top of it what the log tells since. */
#include "tools/verify_known.h"

#include <sysexits.h>

#include "tests/unit/audit/help.h"

static struct bench *b;
static struct known k = {.lock = -1};
static struct err err;

static void prepare(void) {
    b = bench_make();
    cr_assert_eq(bench_open(b), 0, "%s", b->err.text);
}

static void clean(void) {
    known_close(&k);
    bench_drop(b);
}
TestSuite(verify_known, .init = prepare, .fini = clean);

/* The record at an offset writes the key `offset`, or deletes it. */
static void log_one(int64_t offset, int64_t key, bool deletes) {
    struct entry *e = (struct entry *)(uintptr_t)entry_make(0, 0, offset, 0);
    memset(e->digest_key, (int)key, sizeof e->digest_key);
    if (deletes) e->outcome = ENTRY_DELETED;
    log_writer_add(&b->writer, 0, 77, (uint64_t)offset, e);
    cr_assert_eq(log_writer_commit(&b->writer, &b->err), 0, "%s", b->err.text);
}

/* Offset of the record that the key's row comes from; -1: no such key lives. *index as known_find has it. */
static int64_t row_of(int64_t key, uint64_t *index) {
    uint8_t digest[DIGEST_BYTES];
    struct live_row row;
    memset(digest, (int)key, sizeof digest);
    int r = known_find(&k, digest, &row, index, &err);
    cr_assert_geq(r, 0, "%s", err.text);
    return r == 1 ? row.offset : -1;
}

Test(verify_known, is_an_export_of_the_log_and_what_the_log_tells_since) {
    uint64_t index;
    for (int64_t i = 1; i <= 20; i++) log_one(i, i, false);
    log_one(21, 5, false);
    log_one(22, 6, true);
    cr_assert_eq(known_open(&k, &b->config, NULL, &err), 0, "%s", err.text);
    cr_assert(k.rows == 19 && k.unseen == 19 && k.as_of == 23, "%d rows as of %d", (int)k.rows, (int)k.as_of);
    cr_assert(row_of(5, &index) == 21 && index < k.rows);
    cr_assert_eq(row_of(6, &index), -1);
    log_one(23, 7, false);
    log_one(24, 8, true);
    log_one(25, 40, false);
    cr_assert_eq(row_of(7, &index), 7, "not read yet");
    cr_assert_eq(known_follow(&k, &err), 3, "%s", err.text);
    cr_assert(row_of(7, &index) == 23 && index < k.rows, "its place in the export is the one it had");
    cr_assert_eq(row_of(8, &index), -1);
    cr_assert(row_of(40, &index) == 25 && index == UINT64_MAX, "it has none");
    cr_assert_eq(k.rows, 19u, "the export stays as it was");
}

Test(verify_known, a_key_is_met_once) {
    uint64_t index;
    for (int64_t i = 1; i <= 9; i++) log_one(i, i, false);
    cr_assert_eq(known_open(&k, &b->config, NULL, &err), 0, "%s", err.text);
    cr_assert_eq(row_of(4, &index), 4);
    cr_assert_not(known_seen(&k, index));
    known_see(&k, index);
    known_see(&k, index);
    cr_assert(known_seen(&k, index) && k.unseen == 8);
}

Test(verify_known, an_export_that_is_kept_is_opened_again_and_followed) {
    char folder[PATH_BYTES];
    uint64_t index;
    snprintf(folder, sizeof folder, "%s/kept", b->dir);
    for (int64_t i = 1; i <= 9; i++) log_one(i, i, false);
    cr_assert_eq(known_open(&k, &b->config, folder, &err), 0, "%s", err.text);
    known_close(&k);
    log_one(10, 3, false);
    cr_assert_eq(known_open(&k, &b->config, folder, &err), 0, "%s", err.text);
    cr_assert(k.rows == 9 && k.as_of == 10, "as of then");
    cr_assert_eq(known_follow(&k, &err), 1);
    cr_assert_eq(row_of(3, &index), 10);
    known_discard(&k);
    known_close(&k);
    cr_assert_neq(access(folder, F_OK), 0, "nobody needs it any more");
}

Test(verify_known, nothing_is_known_where_nothing_was_logged) {
    b->config.data_dir[0] = 0;
    snprintf(b->config.data_dir, sizeof b->config.data_dir, "%s/elsewhere", b->dir);
    cr_assert_eq(mkdir(b->config.data_dir, 0700), 0);
    cr_assert_eq(known_open(&k, &b->config, NULL, &err), -1);
    cr_assert_eq(err.code, EX_NOINPUT, "%s", err.text);
}

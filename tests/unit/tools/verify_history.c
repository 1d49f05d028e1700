/* What the log says of keys that are not as they should be. */
#include "tools/verify_history.h"

#include "tests/unit/audit/help.h"

static struct bench *b;
static struct verify v;
static struct err err;

static void log_one(int64_t offset, int64_t key, enum entry_outcome outcome) {
    struct entry *e = (struct entry *)(uintptr_t)entry_make(0, 0, offset, 0);
    memset(e->digest_key, (int)key, sizeof e->digest_key);
    memset(e->digest_stored, (int)offset, sizeof e->digest_stored);
    e->outcome = (uint8_t)outcome;
    log_writer_add(&b->writer, 0, 77, (uint64_t)offset, e);
}

/* Keys 1 to 30: written at the offset of their number, and once more 30 later; 40 written and deleted. */
static void prepare(void) {
    b = bench_make();
    cr_assert_eq(bench_open(b), 0, "%s", b->err.text);
    for (int64_t i = 1; i <= 60; i++) log_one(i, (i - 1) % 30 + 1, ENTRY_APPLIED);
    log_one(61, 40, ENTRY_APPLIED);
    log_one(62, 40, ENTRY_DELETED);
    cr_assert_eq(log_writer_commit(&b->writer, &b->err), 0, "%s", b->err.text);
    v = (struct verify){.config = &b->config};
    cr_assert_eq(known_open(&v.known, &b->config, NULL, &err), 0, "%s", err.text);
}

static void clean(void) {
    for (uint64_t i = 0; i < v.count; i++) free(v.candidate[i].name);
    free(v.candidate);
    known_close(&v.known);
    bench_drop(b);
}
TestSuite(verify_history, .init = prepare, .fini = clean);

static struct candidate *candidate(int64_t key, enum verify_class class, int64_t found) {
    uint8_t digest[DIGEST_BYTES];
    uint64_t index;
    memset(digest, (int)key, sizeof digest);
    verify_candidate(&v, "name", 4, digest);
    struct candidate *c = &v.candidate[v.count - 1];
    c->class = (uint8_t) class;
    c->decodes = true;
    c->has_row = known_find(&v.known, digest, &c->row, &index, &err) == 1;
    memset(c->found, (int)found, sizeof c->found);
    return c;
}

/* few: looked up one by one; many: the log is read once. */
static void look(uint64_t more) {
    candidate(3, VERIFY_ALTERED, 3);  /* the value of before */
    candidate(4, VERIFY_ALTERED, 99); /* one that nobody wrote */
    candidate(5, VERIFY_ALTERED, 6);  /* that of another key */
    candidate(40, VERIFY_ORPHAN, 0);  /* whose record was deleted */
    candidate(41, VERIFY_ORPHAN, 0);  /* that never had one */
    candidate(7, VERIFY_RIGHT, 7);    /* nothing to learn */
    for (uint64_t i = 0; i < more; i++) candidate(8 + (int64_t)i, VERIFY_MISSING, 0);
    cr_assert_eq(verify_history(&v, &err), 0, "%s", err.text);
    const struct candidate *c = v.candidate;
    cr_assert(c[0].class == VERIFY_STALE && c[0].stale_offset == 3 && c[0].has_id);
    cr_assert(c[1].class == VERIFY_ALTERED && c[2].class == VERIFY_ALTERED);
    cr_assert(c[3].class == VERIFY_ORPHAN && c[3].was_deleted && !c[4].was_deleted);
    cr_assert(c[5].class == VERIFY_RIGHT && !c[5].has_id);
    for (uint64_t i = 0; i < more; i++) cr_assert(c[6 + i].has_id && c[6 + i].class == VERIFY_MISSING);
}

Test(verify_history, few_are_looked_up) { look(2); }

Test(verify_history, of_many_the_log_is_read_once) { look(20); }

Test(verify_history, a_key_that_was_asked_for_is_unknown_when_no_record_has_it) {
    v.options.key_count = 2;
    candidate(40, VERIFY_UNKNOWN, 0);
    candidate(41, VERIFY_UNKNOWN, 0);
    cr_assert_eq(verify_history(&v, &err), 0, "%s", err.text);
    cr_assert_eq(v.candidate[0].class, VERIFY_RIGHT, "it was deleted, and is not there");
    cr_assert_eq(v.candidate[1].class, VERIFY_UNKNOWN);
    cr_assert_not(verify_is_finding(VERIFY_UNKNOWN));
}

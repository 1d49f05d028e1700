#include "feed/outbox.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include "tests/unit/feed/help.h"

static struct err err;
static struct outbox *o;

static void begin(void) {
    folder_make();
    o = outbox_open(in_folder("outbox.db"), &err);
    cr_assert_not_null(o, "%s", err.text);
}

static void end(void) {
    outbox_close(o);
    folder_remove();
}

static void again(void) {
    outbox_close(o);
    o = outbox_open(in_folder("outbox.db"), &err);
    cr_assert_not_null(o, "%s", err.text);
}

static void put(int64_t load, int64_t n, const char *value) {
    struct outbox_record r = {.n = n,
                              .sequence = (uint64_t)n + 100,
                              .id = {(uint8_t)n},
                              .digest = {9, (uint8_t)n},
                              .created_ms = 5000 + n,
                              .operation = 2,
                              .key = "k",
                              .key_bytes = 1,
                              .value = value,
                              .value_bytes = value != NULL ? strlen(value) : 0};
    cr_assert_eq(outbox_put(o, load, &r, &err), 0, "%s", err.text);
}

static struct outbox_load load_of(uint8_t id) {
    struct outbox_load l = {.id = {id, 1},
                            .topic = "cards",
                            .producer = "p",
                            .state = OUTBOX_READING,
                            .snapshot = true,
                            .algorithm = DIGEST_HMAC,
                            .created_ms = 77};
    l.source = (struct outbox_source){.path = "/f",
                                      .bytes = 5,
                                      .hash = {1, 2},
                                      .format = 1,
                                      .operation = 3,
                                      .skip_bad = 1,
                                      .spooled = 1,
                                      .max_message = 10,
                                      .rate = 11,
                                      .key = "{a}"};
    return l;
}

Test(outbox, records_are_kept_in_order_until_they_are_removed, .init = begin, .fini = end) {
    struct outbox_record r;
    put(1, 1, "one");
    put(1, 2, NULL);
    put(2, 3, "other");
    put(1, 4, "");
    again();
    cr_assert_eq(outbox_next(o), 5);
    cr_assert_eq(outbox_read(o, 1, 0, &r, &err), 1);
    cr_assert(r.n == 1 && r.sequence == 101 && r.id[0] == 1 && r.digest[1] == 1 && r.created_ms == 5001);
    cr_assert(r.operation == 2 && r.value_bytes == 3 && memcmp(r.value, "one", 3) == 0 && r.key_bytes == 1);
    cr_assert_eq(outbox_read(o, 1, 1, &r, &err), 1);
    cr_assert(r.n == 2 && r.value == NULL);
    cr_assert_eq(outbox_read(o, 1, 2, &r, &err), 1);
    cr_assert(r.n == 4 && r.value != NULL && r.value_bytes == 0, "empty is not null");
    cr_assert_eq(outbox_read(o, 1, 4, &r, &err), 0);
    cr_assert_eq(outbox_remove(o, 1, 2, &err), 0);
    cr_assert_eq(outbox_read(o, 1, 0, &r, &err), 1);
    cr_assert_eq(r.n, 4);
    uint64_t count, bytes;
    cr_assert_eq(outbox_count(o, 2, &count, &bytes, &err), 0);
    cr_assert(count == 1 && bytes == 6);
}

Test(outbox, a_transaction_is_whole_or_nothing, .init = begin, .fini = end) {
    struct outbox_record r;
    uint64_t first;
    cr_assert_eq(outbox_begin(o, &err), 0);
    put(1, 1, "x");
    cr_assert_eq(outbox_sequence(o, "p", "t", 10, &first, &err), 0);
    cr_assert_eq(first, 1);
    outbox_rollback(o);
    cr_assert_eq(outbox_read(o, 1, 0, &r, &err), 0);
    cr_assert_eq(outbox_begin(o, &err), 0);
    cr_assert_eq(outbox_sequence(o, "p", "t", 10, &first, &err), 0);
    cr_assert_eq(first, 1);
    cr_assert_eq(outbox_commit(o, &err), 0);
    again();
    cr_assert_eq(outbox_sequence(o, "p", "t", 1, &first, &err), 0);
    cr_assert_eq(first, 11);
    cr_assert_eq(outbox_sequence(o, "p", "other", 1, &first, &err), 0);
    cr_assert_eq(first, 1);
    cr_assert_eq(outbox_sequence(o, "q", "t", 1, &first, &err), 0);
    cr_assert_eq(first, 1);
}

Test(outbox, loads_are_found_with_all_that_was_said, .init = begin, .fini = end) {
    struct outbox_load a = load_of(1), b = load_of(2), got;
    cr_assert_eq(outbox_load_insert(o, &a, &err), 0, "%s", err.text);
    cr_assert_eq(outbox_load_insert(o, &b, &err), 0);
    cr_assert_eq(outbox_load_insert(o, &b, &err), -1);
    cr_assert_eq(err.code, EX_USAGE);
    a.state = OUTBOX_SENDING;
    a.begun = true;
    a.position = 100;
    a.line = 9;
    a.skipped = 3;
    a.oversized = 4;
    a.sum = (struct manifest){.first_sequence = 5, .last_sequence = 6, .count = 7, .bytes = 8, .digest_sum = {0xfe}};
    cr_assert_eq(outbox_load_update(o, &a, &err), 0);
    again();
    cr_assert_eq(outbox_load_find(o, a.id, 0, &got, &err), 1);
    cr_assert_arr_eq(&got.source.hash, &a.source.hash, 16);
    cr_assert_str_eq(got.source.path, "/f");
    cr_assert_str_eq(got.source.key, "{a}");
    cr_assert(got.source.bytes == 5 && got.source.format == 1 && got.source.operation == 3 &&
              got.source.skip_bad == 1 && got.source.spooled == 1 && got.source.max_message == 10 &&
              got.source.rate == 11);
    cr_assert(got.state == OUTBOX_SENDING && got.begun && got.position == 100 && got.line == 9 && got.skipped == 3 &&
              got.oversized == 4 && got.snapshot && got.created_ms == 77 && got.algorithm == DIGEST_HMAC);
    cr_assert(got.sum.first_sequence == 5 && got.sum.last_sequence == 6 && got.sum.count == 7 && got.sum.bytes == 8 &&
              got.sum.digest_sum[0] == 0xfe);
    cr_assert_eq(outbox_load_find(o, NULL, 0, &got, &err), 1);
    cr_assert_eq(got.number, a.number);
    cr_assert_eq(outbox_load_find(o, NULL, a.number, &got, &err), 1);
    cr_assert_eq(got.number, b.number);
    a.state = OUTBOX_COMPLETE;
    b.state = OUTBOX_ABORTED;
    outbox_load_update(o, &a, &err);
    outbox_load_update(o, &b, &err);
    cr_assert_eq(outbox_load_find(o, NULL, 0, &got, &err), 0);
    cr_assert_eq(outbox_load_find(o, b.id, 0, &got, &err), 1);
}

Test(outbox, attempts_are_noted_and_forgiven, .init = begin, .fini = end) {
    struct outbox_attempts n;
    put(1, 1, "x");
    put(2, 2, "x");
    cr_assert_eq(outbox_failed(o, 1, 99, "no broker", &err), 0);
    cr_assert_eq(outbox_failed(o, 1, 99, "no broker", &err), 0);
    cr_assert_eq(outbox_attempts(o, 1, &n, &err), 0);
    cr_assert_eq(n.count, 2);
    cr_assert_eq(n.next_ms, 99);
    cr_assert_str_eq(n.why, "no broker");
    cr_assert_eq(outbox_attempts(o, 2, &n, &err), 0);
    cr_assert_eq(n.count, 0);
    outbox_forgive(o, 1, &err);
    outbox_attempts(o, 1, &n, &err);
    cr_assert_eq(n.count, 0);
}

Test(outbox, manifests_and_places_are_kept, .init = begin, .fini = end) {
    struct outbox_manifest m = {.last_n = 7, .sum = {.from_ms = 1, .to_ms = 2, .count = 3}}, n = m, got;
    cr_assert_eq(outbox_manifest_put(o, 1, &m, &err), 0);
    cr_assert_neq(m.n, 0);
    m.closed = true;
    m.sum.count = 4;
    cr_assert_eq(outbox_manifest_put(o, 1, &m, &err), 0);
    cr_assert_eq(outbox_manifest_put(o, 1, &n, &err), 0);
    cr_assert_eq(outbox_manifest_first(o, 1, true, &got, &err), 1);
    cr_assert(got.n == m.n && got.sum.count == 4 && got.last_n == 7 && got.closed);
    cr_assert_eq(outbox_manifest_first(o, 1, false, &got, &err), 1);
    cr_assert_eq(got.n, n.n);
    cr_assert_eq(outbox_manifest_remove(o, m.n, &err), 0);
    cr_assert_eq(outbox_manifest_first(o, 1, true, &got, &err), 0);
    cr_assert_eq(outbox_manifest_first(o, 2, false, &got, &err), 0);

    struct manifest_place p = {3, 50}, places[2];
    outbox_place_note(o, 1, &p, &err);
    p.first_offset = 40;
    outbox_place_note(o, 1, &p, &err);
    p.first_offset = 60;
    outbox_place_note(o, 1, &p, &err);
    cr_assert_eq(outbox_places(o, 1, places, 2, &err), 1);
    cr_assert(places[0].partition == 3 && places[0].first_offset == 40);
}

Test(outbox, one_process_at_a_time_and_the_lock_ends_with_it, .init = begin, .fini = end) {
    pid_t child = fork();
    if (child == 0) {
        struct err e = {0};
        _exit(outbox_open(in_folder("outbox.db"), &e) == NULL && e.code == EX_TEMPFAIL ? 0 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    cr_assert_eq(status, 0);
    again();
}

Test(outbox, it_can_be_looked_at_while_it_is_used, .init = begin, .fini = end) {
    struct outbox_load a = load_of(1), got;
    struct outbox_attempts attempts;
    cr_assert_eq(outbox_load_insert(o, &a, &err), 0);
    put(a.number, 1, "x");
    outbox_failed(o, a.number, 99, "no broker", &err);
    struct outbox *r = outbox_open_read(in_folder("outbox.db"), &err);
    cr_assert_not_null(r, "%s", err.text);
    cr_assert_eq(outbox_load_next(r, 0, &got, &err), 1);
    cr_assert_eq(got.id[0], 1);
    cr_assert_eq(outbox_load_next(r, got.number, &got, &err), 0);
    cr_assert_eq(outbox_attempts(r, a.number, &attempts, &err), 0);
    cr_assert(attempts.count == 1 && attempts.next_ms == 99);
    put(a.number, 2, "x");
    cr_assert_eq(outbox_load_update(r, &a, &err), -1, "it cannot be changed");
    outbox_close(r);
    cr_assert_null(outbox_open_read(in_folder("nothing"), &err));
    cr_assert_eq(err.code, EX_NOINPUT);
}

Test(outbox, what_was_committed_is_there_after_a_kill, .init = begin, .fini = end) {
    outbox_close(o);
    pid_t child = fork();
    if (child == 0) {
        o = outbox_open(in_folder("outbox.db"), &err);
        outbox_begin(o, &err);
        put(1, 1, "kept");
        outbox_commit(o, &err);
        outbox_begin(o, &err);
        put(1, 2, "lost");
        raise(SIGKILL);
    }
    waitpid(child, NULL, 0);
    o = outbox_open(in_folder("outbox.db"), &err);
    cr_assert_not_null(o, "%s", err.text);
    struct outbox_record r;
    cr_assert_eq(outbox_read(o, 1, 0, &r, &err), 1);
    cr_assert_eq(r.n, 1);
    cr_assert_eq(outbox_read(o, 1, 1, &r, &err), 0);
}

Test(outbox, files_of_others_are_refused, .init = folder_make, .fini = folder_remove) {
    sqlite3 *db;
    file_put("text",
             "this is not a database, and long enough to be looked at as one: ................................");
    cr_assert_null(outbox_open(in_folder("text"), &err));
    cr_assert_eq(err.code, EX_DATAERR, "%s", err.text);
    sqlite3_open(in_folder("other.db"), &db);
    sqlite3_exec(db, "CREATE TABLE x(y)", NULL, NULL, NULL);
    sqlite3_close(db);
    cr_assert_null(outbox_open(in_folder("other.db"), &err));
    cr_assert_eq(err.code, EX_DATAERR, "%s", err.text);
    o = outbox_open(in_folder("new.db"), &err);
    outbox_close(o);
    sqlite3_open(in_folder("new.db"), &db);
    sqlite3_exec(db, "PRAGMA user_version=99", NULL, NULL, NULL);
    sqlite3_close(db);
    cr_assert_null(outbox_open(in_folder("new.db"), &err));
    cr_assert_eq(err.code, EX_DATAERR);
    cr_assert_not_null(strstr(err.text, "newer version"));
    cr_assert_null(outbox_open("/nowhere/outbox.db", &err));
    cr_assert_eq(err.code, EX_CANTCREAT);
}

Test(outbox, only_its_owner_can_read_it_and_its_tag_stays, .init = begin, .fini = end) {
    struct stat st;
    char tag[OUTBOX_TAG_BYTES];
    cr_assert_eq(stat(in_folder("outbox.db"), &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0600);
    cr_assert_eq(strlen(outbox_tag(o)), 8);
    memcpy(tag, outbox_tag(o), sizeof tag);
    again();
    cr_assert_str_eq(outbox_tag(o), tag);
}

#include "recon/ids.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[64];
static struct err err;

static void begin(void) {
    snprintf(path, sizeof path, "/tmp/millrace-ids-XXXXXX");
    close(mkstemp(path));
}
static void end(void) { unlink(path); }

static const uint8_t *id_of(uint64_t n) {
    static uint8_t id[16];
    memcpy(id, &n, sizeof n);
    return id;
}

Test(ids, remembers_the_earliest_entry_of_an_id, .init = begin, .fini = end) {
    struct ids *t = ids_open(path, &err);
    cr_assert_not_null(t, "%s", err.text);
    for (uint64_t i = 1; i <= 100000; i++) cr_assert_eq(ids_note(t, id_of(i), i), 0);
    for (uint64_t i = 1; i <= 100000; i++) cr_assert_eq(ids_note(t, id_of(i), 100000 + i), i, "%d", (int)i);
    ids_close(t);
    cr_assert_not_null(t = ids_open(path, &err));
    cr_assert_eq(ids_note(t, id_of(77), 300000), 77, "it is kept in the file");
    ids_close(t);
}

/* The process died after it had noted 1-1000, and the transaction that they belong to was not stored. */
Test(ids, an_entry_that_is_counted_again_is_no_duplicate_of_itself, .init = begin, .fini = end) {
    struct ids *t = ids_open(path, &err);
    for (uint64_t i = 1; i <= 1000; i++) ids_note(t, id_of(i), i);
    ids_close(t);
    t = ids_open(path, &err);
    for (uint64_t i = 500; i <= 1000; i++) cr_assert_eq(ids_note(t, id_of(i), i), 0);
    cr_assert_eq(ids_note(t, id_of(600), 1001), 600);
    ids_close(t);
}

Test(ids, gives_up_the_oldest_when_there_are_too_many, .init = begin, .fini = end) {
    struct ids *t = ids_open(path, &err);
    uint64_t n = 2 * (uint64_t)IDS_COUNT, known = 0;
    for (uint64_t i = 1; i <= n; i++) cr_assert_eq(ids_note(t, id_of(i), i), 0);
    for (uint64_t i = n - IDS_COUNT / 2; i < n; i++) known += ids_note(t, id_of(i), n + 1) == i;
    cr_assert_gt(known, (uint64_t)IDS_COUNT / 2 * 9 / 10, "%lu of the youngest half are known", (unsigned long)known);
    ids_close(t);
}

Test(ids, makes_a_file_that_is_none_of_ours_anew, .init = begin, .fini = end) {
    FILE *f = fopen(path, "w");
    fputs("something else", f);
    fclose(f);
    struct ids *t = ids_open(path, &err);
    cr_assert_not_null(t);
    cr_assert_eq(ids_note(t, id_of(1), 1), 0);
    ids_close(t);
    cr_assert_null(ids_open("/nowhere/ids", &err));
}

#include "recon/silence.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

static char folder[64], path[128];
static struct silences s, read_back;
static struct err err;

static void make_folder(void) {
    snprintf(folder, sizeof folder, "/tmp/millrace-silence-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/silences", folder);
}

static void remove_folder(void) {
    unlink(path);
    rmdir(folder);
}

TestSuite(silence, .init = make_folder, .fini = remove_folder);

static void put(const char *topic, int64_t window_ms, int64_t until_ms, int64_t now_ms) {
    struct silence item = {.until_ms = until_ms, .window_ms = window_ms};
    snprintf(item.topic, sizeof item.topic, "%s", topic);
    cr_assert_eq(silences_put(&s, &item, now_ms), 0);
}

static void file(const char *text) {
    FILE *f = fopen(path, "w");
    fputs(text, f);
    fclose(f);
}

Test(silence, no_file_means_none) {
    cr_assert_eq(silences_read(path, &s, &err), 0);
    cr_assert_eq(s.count, 0);
}

Test(silence, is_read_as_it_was_written) {
    put("cards.change", 600000, 5000, 1000);
    put("*", 1200000, 6000, 1000);
    cr_assert_eq(silences_write(path, &s, &err), 0, "%s", err.text);
    cr_assert_eq(silences_read(path, &read_back, &err), 0);
    cr_assert_eq(read_back.count, 2);
    cr_assert_eq(silences_until(&read_back, "cards.change", 600000, 4999), 5000);
    cr_assert_eq(silences_until(&read_back, "cards.change", 600000, 5000), 0, "over");
    cr_assert_eq(silences_until(&read_back, "cards.bulk", 600000, 1000), 0, "another topic");
    cr_assert_eq(silences_until(&read_back, "cards.bulk", 1200000, 1000), 6000, "every topic");
    cr_assert_eq(silences_until(&read_back, "cards.bulk", 1800000, 1000), 0, "another window");
}

Test(silence, is_replaced_ended_and_forgotten_when_over) {
    put("a", 1, 5000, 1000);
    put("a", 1, 9000, 1000);
    cr_assert_eq(s.count, 1);
    cr_assert_eq(silences_until(&s, "a", 1, 1000), 9000);
    put("b", 1, 2000, 1000);
    put("c", 1, 9000, 3000);
    cr_assert_eq(s.count, 2, "b was over");
    put("a", 1, 0, 3000);
    cr_assert_eq(silences_until(&s, "a", 1, 3000), 0);
    cr_assert_eq(s.count, 1);
}

Test(silence, there_is_an_end_to_them) {
    for (int64_t i = 0; i < SILENCES_MAX; i++) put("a", i, 9000, 1000);
    struct silence more = {.until_ms = 9000, .window_ms = SILENCES_MAX, .topic = "a"};
    cr_assert_eq(silences_put(&s, &more, 1000), -1);
    cr_assert_eq(silences_write(path, &s, &err), 0);
    cr_assert_eq(silences_read(path, &read_back, &err), 0);
    cr_assert_eq(read_back.count, SILENCES_MAX);
}

Test(silence, what_is_no_silence_is_refused_and_named) {
    static const char *const bad[] = {
        "x\n", "1\n", "1 2\n", "1 2 \n", "1 2 topic", "1 two topic\n", "99999999999999999999 2 a\n", "1 2 a\n\n"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        file(bad[i]);
        cr_assert_eq(silences_read(path, &s, &err), -1, "%s", bad[i]);
        cr_assert_eq(err.code, EX_DATAERR);
        cr_assert_eq(s.count, 0);
    }
    cr_assert_not_null(strstr(err.text, "silences:2"), "%s", err.text);
}

Test(silence, that_cannot_be_written_leaves_the_old_ones) {
    put("a", 1, 5000, 1000);
    cr_assert_eq(silences_write("/nowhere/silences", &s, &err), -1);
    cr_assert_eq(err.code, EX_CANTCREAT);
}

/* The manifest of the table of live keys: what was written is read back, and nothing else is taken for one. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "recon/live_state.h"

static char dir[64];
static int fd;

static void prepare(void) {
    snprintf(dir, sizeof dir, "/tmp/millrace-state-XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
    fd = open(dir, O_RDONLY | O_DIRECTORY);
}
static void clean(void) {
    unlinkat(fd, "MANIFEST", 0);
    unlinkat(fd, "MANIFEST.new", 0);
    close(fd);
    rmdir(dir);
}
TestSuite(live_state, .init = prepare, .fini = clean);

static struct live_state filled(void) {
    struct live_state s;
    struct err err = {0};
    char name[32];
    cr_assert_eq(live_state_init(&s, &err), 0);
    s.next = 1ULL << 60;
    s.since = 3;
    s.gaps = 17;
    s.next_run = 0xabc;
    for (uint32_t i = 0; i < 5; i++) s.run[s.run_count++] = 100 + i;
    for (int i = 0; i < 200; i++) {
        snprintf(name, sizeof name, "cards.%d", i % 20);
        int topic = live_state_topic(&s, name, &err);
        cr_assert_eq(topic, i % 20);
        live_state_place(&s, (uint16_t)topic, i, &err)->next = 1000000LL * i;
    }
    return s;
}

Test(live_state, is_read_as_it_was_written) {
    struct err err = {0};
    struct live_state a = filled(), b;
    cr_assert_eq(live_state_write(&a, fd, &err), 0, "%s", err.text);
    cr_assert_eq(live_state_init(&b, &err), 0);
    cr_assert_eq(live_state_read(&b, fd, &err), 0, "%s", err.text);
    cr_assert(b.next == a.next && b.since == 3 && b.gaps == 17 && b.next_run == 0xabc && b.run_count == 5);
    cr_assert(b.topic_count == 20 && b.place_count == 200 && b.run[4] == 104);
    for (int i = 0; i < 200; i++) cr_assert_eq(live_state_place(&b, (uint16_t)(i % 20), i, &err)->next, 1000000LL * i);
    cr_assert_eq(b.place_count, 200);
    live_state_free(&a);
    live_state_free(&b);
}

Test(live_state, any_changed_or_missing_byte_is_noticed) {
    struct err err = {0};
    char path[80], text[20000];
    struct live_state a = filled(), b;
    cr_assert_eq(live_state_write(&a, fd, &err), 0);
    snprintf(path, sizeof path, "%s/MANIFEST", dir);
    int file = open(path, O_RDWR);
    ssize_t len = read(file, text, sizeof text);
    for (ssize_t i = 0; i < len; i++) {
        char changed = (char)(text[i] ^ 1);
        cr_assert_eq(pwrite(file, &changed, 1, i), 1);
        cr_assert_eq(live_state_init(&b, &err), 0);
        cr_assert_eq(live_state_read(&b, fd, &err), -1, "byte %zd", i);
        cr_assert_eq(err.code, EX_DATAERR);
        live_state_free(&b);
        cr_assert_eq(pwrite(file, &text[i], 1, i), 1);
    }
    for (ssize_t left = len - 1; left >= 0; left -= 7) {
        cr_assert_eq(ftruncate(file, left), 0);
        cr_assert_eq(live_state_init(&b, &err), 0);
        cr_assert_eq(live_state_read(&b, fd, &err), -1);
        live_state_free(&b);
    }
    close(file);
    live_state_free(&a);
}

Test(live_state, there_is_a_most_of_everything) {
    struct err err = {0};
    struct live_state s = filled();
    char name[32];
    for (int i = 20; i < LIVE_TOPICS_MAX; i++) {
        snprintf(name, sizeof name, "t%d", i);
        cr_assert_eq(live_state_topic(&s, name, &err), i);
    }
    cr_assert_eq(live_state_topic(&s, "one more", &err), -1);
    cr_assert_eq(err.code, EX_UNAVAILABLE);
    live_state_free(&s);
    cr_assert_eq(live_state_init(&s, &err), 0);
    cr_assert_eq(live_state_read(&s, fd, &err), -1);
    cr_assert_eq(err.code, EX_NOINPUT);
    live_state_free(&s);
}

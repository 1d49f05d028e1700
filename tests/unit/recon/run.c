/* A sorted run: what was put in is found, by key, by place and by walking, and nothing else is. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "recon/run.h"

static char dir[64];
static int fd;

static void prepare(void) {
    snprintf(dir, sizeof dir, "/tmp/millrace-run-XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
    fd = open(dir, O_RDONLY | O_DIRECTORY);
}
static void clean(void) {
    unlinkat(fd, "a.run", 0);
    close(fd);
    rmdir(dir);
}
TestSuite(run, .init = prepare, .fini = clean);

/* Row i of a run; odd keys are in it, even ones are not. */
static struct live_row row_of(uint32_t i) {
    struct live_row r = {.offset = i, .partition = 7};
    uint32_t key = __builtin_bswap32(2 * i + 1);
    memcpy(r.key, &key, sizeof key);
    return r;
}

static struct run made(uint32_t rows) {
    struct run_writer w;
    struct run r;
    struct err err = {0};
    cr_assert_eq(run_writer_open(&w, fd, "a.run", &err), 0);
    for (uint32_t i = 0; i < rows; i++) {
        struct live_row row = row_of(i);
        cr_assert_eq(run_writer_put(&w, &row, &err), 0);
    }
    cr_assert_eq(run_writer_close(&w, &err), 0);
    cr_assert_eq(run_open(&r, fd, "a.run", &err), 0, "%s", err.text);
    cr_assert_eq(r.rows, rows);
    return r;
}

static void expect_all_found(const struct run *r, uint32_t rows) {
    struct err err = {0};
    struct live_row found, wanted;
    uint64_t index;
    for (uint32_t i = 0; i < rows; i++) {
        wanted = row_of(i);
        cr_assert_eq(run_find(r, wanted.key, &found, &index, &err), 1);
        cr_assert(index == i && memcmp(&found, &wanted, sizeof found) == 0);
        cr_assert_eq(run_row(r, i, &found, &err), 0);
        cr_assert_eq(found.offset, i);
        wanted.key[3]--;
        cr_assert_eq(run_find(r, wanted.key, &found, &index, &err), 0);
    }
    wanted = row_of(rows);
    cr_assert_eq(run_find(r, wanted.key, &found, &index, &err), 0);
}

Test(run, every_row_is_found_whatever_the_number) {
    static const uint32_t sizes[] = {0, 1, RUN_BLOCK_ROWS - 1, RUN_BLOCK_ROWS, RUN_BLOCK_ROWS + 1, 20000};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct run r = made(sizes[i]);
        struct stat st;
        cr_assert_eq(fstat(r.fd, &st), 0);
        cr_assert_eq(run_file_bytes(&r), (uint64_t)st.st_size);
        expect_all_found(&r, sizes[i]);
        run_close(&r);
    }
}

Test(run, a_walk_begins_anywhere_and_comes_to_the_end) {
    static struct run_cursor c;
    static const uint64_t from[] = {0, 1, 63, 64, 1023, 1024, 4999, 5000};
    struct err err = {0};
    struct run r = made(5000);
    for (size_t i = 0; i < sizeof from / sizeof from[0]; i++) {
        const struct live_row *row;
        int64_t next = (int64_t)from[i];
        run_cursor_init(&c, &r, from[i]);
        while ((row = run_cursor_next(&c, &err)) != NULL) cr_assert_eq(row->offset, next++);
        cr_assert(next == 5000 && err.code == 0, "from %lu: %ld", (unsigned long)from[i], (long)next);
    }
    run_close(&r);
}

Test(run, an_open_run_is_read_on_when_its_file_is_removed) {
    struct run r = made(100);
    unlinkat(fd, "a.run", 0);
    expect_all_found(&r, 100);
    run_close(&r);
}

Test(run, a_file_that_is_cut_is_refused) {
    struct err err = {0};
    struct run r = made(300);
    uint64_t bytes = run_file_bytes(&r);
    run_close(&r);
    for (uint64_t left = 0; left < bytes; left += 97) {
        char path[80];
        snprintf(path, sizeof path, "%s/a.run", dir);
        r = made(300);
        run_close(&r);
        cr_assert_eq(truncate(path, (off_t)left), 0);
        cr_assert_eq(run_open(&r, fd, "a.run", &err), -1);
        cr_assert_eq(err.code, EX_DATAERR, "%s", err.text);
    }
}

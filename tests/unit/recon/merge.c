/* Several runs and a delta as one. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "recon/merge.h"

static char dir[64];
static int fd;

static struct live_row row_of(uint32_t key, int64_t offset) {
    struct live_row r = {.offset = offset};
    uint32_t big = __builtin_bswap32(key);
    memcpy(r.key, &big, sizeof big);
    return r;
}

static struct run made(const char *name, uint32_t step, uint32_t count, int64_t offset) {
    struct run_writer w;
    struct run r;
    struct err err = {0};
    cr_assert_eq(run_writer_open(&w, fd, name, &err), 0);
    for (uint32_t i = 0; i < count; i++) {
        struct live_row row = row_of(i * step, offset);
        cr_assert_eq(run_writer_put(&w, &row, &err), 0);
    }
    cr_assert_eq(run_writer_close(&w, &err), 0);
    cr_assert_eq(run_open(&r, fd, name, &err), 0);
    unlinkat(fd, name, 0);
    return r;
}

static bool there(uint32_t key) {
    return (key % 2 == 0 && key < 10000) || (key % 3 == 0 && key < 15000) || key % 5 == 0 || key == 7;
}

/* Multiples of 2 at offset 10, of 3 at 5 (read again), of 5 at 20, and 7 in the delta at 30. */
Test(merge, each_key_comes_once_in_order_as_the_row_that_counts) {
    struct err err = {0};
    struct merge m;
    struct delta d;
    snprintf(dir, sizeof dir, "/tmp/millrace-merge-XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
    fd = open(dir, O_RDONLY | O_DIRECTORY);
    struct run two = made("2.run", 2, 5000, 10), three = made("3.run", 3, 5000, 5), five = made("5.run", 5, 5000, 20);
    const struct run *const runs[] = {&two, &three, &five};
    cr_assert_eq(delta_init(&d, 16, &err), 0);
    struct live_row seven = row_of(7, 30);
    delta_put(&d, &seven, &err);
    cr_assert_eq(merge_begin(&m, runs, 3, &d, &err), 0);
    uint32_t at = 0, count = 0;
    for (const struct live_row *row; (row = merge_next(&m, &err)) != NULL; count++, at++) {
        while (!there(at)) at++;
        int64_t offset = at == 7 ? 30 : at % 5 == 0 ? 20 : at % 2 == 0 && at < 10000 ? 10 : 5;
        struct live_row wanted = row_of(at, offset);
        cr_assert_eq(memcmp(row, &wanted, sizeof wanted), 0, "key %u", at);
    }
    for (uint32_t key = 0; key < 25000; key++) count -= there(key);
    cr_assert(err.code == 0 && count == 0, "%u", count);
    merge_end(&m);
    delta_free(&d);
    run_close(&two);
    run_close(&three);
    run_close(&five);
    close(fd);
    rmdir(dir);
}

/* A folder for a test of feed. */
#ifndef MILLRACE_TESTS_UNIT_FEED_HELP_H
#define MILLRACE_TESTS_UNIT_FEED_HELP_H

#include <criterion/criterion.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

static char folder[64];

static inline void folder_make(void) {
    snprintf(folder, sizeof folder, "/tmp/millrace-test-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
}

static inline int remove_one(const char *path, const struct stat *st, int type, struct FTW *place) {
    (void)st, (void)type, (void)place;
    return remove(path);
}

static inline void folder_remove(void) { nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS); }

/* The path of a file in the test's folder; up to four at a time. */
static inline const char *in_folder(const char *name) {
    static char path[4][256];
    static int next;
    next = (next + 1) % 4;
    snprintf(path[next], sizeof path[next], "%s/%s", folder, name);
    return path[next];
}

static inline void file_put(const char *name, const char *text) {
    FILE *f = fopen(in_folder(name), "w");
    cr_assert_not_null(f);
    fputs(text, f);
    fclose(f);
}

#endif

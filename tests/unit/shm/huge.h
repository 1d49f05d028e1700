/* Huge pages for a test: reserved for it, given back after it, one test at a time on the whole machine. */
#ifndef MILLRACE_TESTS_UNIT_SHM_HUGE_H
#define MILLRACE_TESTS_UNIT_SHM_HUGE_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#define HUGE_FOLDER "/sys/kernel/mm/hugepages/hugepages-2048kB/"

static int huge_fd = -1;
static long huge_before;

static inline long huge_number(const char *path) {
    char text[32] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0) close(fd);
    return n > 0 ? strtol(text, NULL, 10) : -1;
}

static inline bool huge_write(long pages) {
    char text[32];
    int n = snprintf(text, sizeof text, "%ld", pages);
    return pwrite(huge_fd, text, (size_t)n, 0) == n && huge_number(HUGE_FOLDER "nr_hugepages") == pages;
}

static inline void huge_give_back(void) {
    if (huge_fd < 0) return;
    huge_write(huge_before);
    close(huge_fd);
    huge_fd = -1;
}

/* Makes exactly `free` huge pages free until huge_give_back. False where this may not be done: the test says that it is
 * skipped, for tests/run-unit to repeat, and is over. */
static inline bool huge_free_is(const char *test, long pages) {
    huge_fd = open(HUGE_FOLDER "nr_hugepages", O_RDWR | O_CLOEXEC);
    if (huge_fd >= 0 && flock(huge_fd, LOCK_EX) == 0) {
        huge_before = huge_number(HUGE_FOLDER "nr_hugepages");
        long used = huge_before - huge_number(HUGE_FOLDER "free_hugepages");
        if (huge_write(used + pages) && huge_number(HUGE_FOLDER "free_hugepages") == pages) return true;
        huge_give_back();
    }
    fprintf(stderr, "SKIPPED %s: huge pages cannot be reserved here\n", test);
    return false;
}

#endif

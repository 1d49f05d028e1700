/* Memory files: zeroed, sealed, and read-only when reopened so. */
#include "shm/workspace.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/shm/huge.h"

Test(workspace, a_new_file_is_whole_pages_of_zeros) {
    struct err err = {0};
    int fd = workspace_create("x", 5000, &err);
    cr_assert_geq(fd, 0, "%s", err.text);
    size_t bytes = 0;
    uint8_t *p = workspace_map(fd, 5000, true, &bytes, &err);
    cr_assert_not_null(p, "%s", err.text);
    cr_assert_eq(bytes, 8192);
    for (size_t i = 0; i < bytes; i++) cr_assert_eq(p[i], 0);
    cr_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    cr_assert_neq(ftruncate(fd, 4096), 0);
    cr_assert_neq(ftruncate(fd, 16384), 0);
    cr_assert_neq(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
}

Test(workspace, two_maps_of_one_file_are_one_memory) {
    int fd = workspace_create("x", 4096, NULL);
    uint8_t *a = workspace_map(fd, 4096, true, NULL, NULL), *b = workspace_map(fd, 4096, false, NULL, NULL);
    a[100] = 7;
    cr_assert_eq(b[100], 7);
}

Test(workspace, a_file_that_is_too_short_is_not_mapped) {
    struct err err = {0};
    int fd = workspace_create("x", 4096, &err);
    cr_assert_null(workspace_map(fd, 4097, false, NULL, &err));
    cr_assert_eq(err.code, EINVAL);
    int empty = memfd_create("empty", MFD_CLOEXEC);
    err = (struct err){0};
    cr_assert_null(workspace_map(empty, 0, false, NULL, &err));
    cr_assert_neq(err.text[0], 0);
}

Test(workspace, what_was_reopened_read_only_is_never_mapped_writable) {
    struct err err = {0};
    int fd = workspace_create("x", 4096, &err);
    int ro = workspace_reopen_readonly(fd, &err);
    cr_assert_geq(ro, 0, "%s", err.text);
    cr_assert(fcntl(ro, F_GETFD) & FD_CLOEXEC);
    cr_assert_not_null(workspace_map(ro, 4096, false, NULL, &err));
    cr_assert_null(workspace_map(ro, 4096, true, NULL, &err));
    cr_assert_neq(err.text[0], 0);
    cr_assert_eq(mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, ro, 0), MAP_FAILED);
    void *p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, ro, 0);
    cr_assert_neq(p, MAP_FAILED);
    cr_assert_neq(mprotect(p, 4096, PROT_READ | PROT_WRITE), 0);
    cr_assert_eq(write(ro, "x", 1), -1);
}

/* -- how memory is held ------------------------------------------------------------------------ */

static size_t resident(void *p, size_t bytes) {
    unsigned char page[1024];
    size_t n = 0;
    cr_assert_leq(bytes, sizeof page * 4096);
    cr_assert_eq(mincore(p, bytes, page), 0);
    for (size_t i = 0; i < bytes / 4096; i++) n += page[i] & 1;
    return n * 4096;
}

static long faults(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_minflt;
}

static long touch(uint8_t *p, size_t bytes) {
    long before = faults();
    for (size_t i = 0; i < bytes; i += 4096) p[i] = 1;
    return faults() - before;
}

Test(workspace, a_new_file_has_no_memory_until_it_is_used) {
    enum { BYTES = 1 << 20 };
    int fd = workspace_create("x", BYTES, NULL);
    uint8_t *p = workspace_map(fd, BYTES, true, NULL, NULL);
    cr_assert_eq(resident(p, BYTES), 0);
    cr_assert_geq(touch(p, BYTES), 1);
}

Test(workspace, a_prefaulted_file_is_all_there_and_maps_without_faults_to_come) {
    enum { BYTES = 1 << 20 };
    struct err err = {0};
    int fd = workspace_create_held("x", BYTES - 1, WORKSPACE_PREFAULT, &err);
    cr_assert_geq(fd, 0, "%s", err.text);
    struct stat st;
    cr_assert_eq(fstat(fd, &st), 0);
    cr_assert_eq(st.st_blocks * 512, BYTES);
    size_t huge = 1;
    cr_assert_eq(workspace_bytes(fd, &huge), BYTES);
    cr_assert_eq(huge, 0);
    uint8_t *p = workspace_map(fd, BYTES, true, NULL, &err);
    cr_assert_eq(resident(p, BYTES), BYTES);
    cr_assert_lt(touch(p, BYTES), 64, "a sanitizer has pages of its own; without mapping them at once there are 256");
    cr_assert_eq(p[5], 0);
    cr_assert_neq(ftruncate(fd, 4096), 0, "sealed like any other");
    cr_assert_eq(workspace_bytes(-1, &huge), 0);
}

Test(workspace, huge_pages_are_sealed_and_read_only_when_reopened_so, .fini = huge_give_back) {
    enum { WANTED = (2 << 20) + 36864, BYTES = 4 << 20 };
    struct err err = {0};
    if (!huge_free_is("huge pages of a memory file", 2)) return;
    int fd = workspace_create_held("x", WANTED, WORKSPACE_HUGE, &err);
    long left = huge_number(HUGE_FOLDER "free_hugepages");
    int ro = workspace_reopen_readonly(fd, &err);
    size_t bytes = 0, huge = 0;
    uint8_t *p = workspace_map(fd, WANTED, true, &bytes, &err);
    const uint8_t *q = workspace_map(ro, WANTED, false, NULL, &err);
    void *stolen = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, ro, 0);
    int unprotected = mprotect((void *)(uintptr_t)q, BYTES, PROT_READ | PROT_WRITE);
    bool resized = ftruncate(fd, 0) == 0 || ftruncate(fd, 8 << 20) == 0;
    bool resealed = fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) == 0;
    size_t known = workspace_bytes(fd, &huge);
    int zeros = p != NULL;
    for (size_t i = 0; zeros && i < bytes; i++) zeros = p[i] == 0;
    if (p != NULL) p[WANTED - 1] = 7;
    int seen = q != NULL ? q[WANTED - 1] : -1;
    if (p != NULL) munmap(p, bytes);
    if (q != NULL) munmap((void *)(uintptr_t)q, BYTES);
    close(fd);
    close(ro);
    huge_give_back();
    cr_assert_geq(fd, 0, "%s", err.text);
    cr_assert(zeros && seen == 7, "%s", err.text);
    cr_assert_eq(bytes, BYTES);
    cr_assert_eq(left, 0, "both pages are taken at once");
    cr_assert(known == BYTES && huge == BYTES);
    cr_assert_eq(stolen, MAP_FAILED);
    cr_assert_eq(unprotected, -1);
    cr_assert_not(resized || resealed);
}

Test(workspace, huge_pages_that_are_not_there_are_an_error_and_not_a_signal_later, .fini = huge_give_back) {
    struct err err = {0};
    if (!huge_free_is("too few huge pages for a memory file", 1)) return;
    int fd = workspace_create_held("x", 4 << 20, WORKSPACE_HUGE, &err);
    long left = huge_number(HUGE_FOLDER "free_hugepages");
    huge_give_back();
    cr_assert_eq(fd, -1);
    cr_assert_str_eq(err.text, "memory file x of 4194304 bytes: not so many huge pages are free");
    cr_assert_eq(left, 1, "what was taken is given back");
}

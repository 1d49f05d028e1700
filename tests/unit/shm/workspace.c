/* Memory files: zeroed, sealed, and read-only when reopened so. */
#include "shm/workspace.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

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

#include "shm/workspace.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"

int workspace_create(const char *name, size_t bytes, struct err *err) {
    return workspace_create_held(name, bytes, 0, err);
}

/* Without allocation a huge page that is not there would be a SIGBUS in whoever touches it first. */
int workspace_create_held(const char *name, size_t bytes, unsigned how, struct err *err) {
    bool huge = (how & WORKSPACE_HUGE) != 0;
    size_t page = huge ? WORKSPACE_HUGE_BYTES : (size_t)sysconf(_SC_PAGESIZE);
    bytes = (bytes + page - 1) / page * page;
    int fd = FAULT_FAILS("supervisor:memory")
                 ? -1
                 : memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | (huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0U));
    if (fd < 0) return err_set(err, errno, "memfd_create %s: %s", name, strerror(errno));
    if (ftruncate(fd, (off_t)bytes) != 0 || (how != 0 && fallocate(fd, 0, 0, (off_t)bytes) != 0) ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        bool none = huge && (errno == ENOSPC || errno == ENOMEM);
        err_set(err, errno, "memory file %s of %zu bytes: %s", name, bytes,
                none ? "not so many huge pages are free" : strerror(errno));
        close(fd);
        return -1;
    }
    return fd;
}

size_t workspace_bytes(int fd, size_t *huge) {
    struct stat st;
    size_t bytes = fstat(fd, &st) == 0 && st.st_size > 0 ? (size_t)st.st_size : 0;
    if (huge != NULL) *huge = bytes > 0 && st.st_blksize == WORKSPACE_HUGE_BYTES ? bytes : 0;
    return bytes;
}

int workspace_reopen_readonly(int fd, struct err *err) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int ro = open(path, O_RDONLY | O_CLOEXEC);
    if (ro < 0) return err_set(err, errno, "reopen %s read-only: %s", path, strerror(errno));
    return ro;
}

void *workspace_map(int fd, size_t bytes_min, bool writable, size_t *bytes, struct err *err) {
    struct stat st;
    if (fstat(fd, &st) != 0) {
        err_set(err, errno, "descriptor %d: %s", fd, strerror(errno));
        return NULL;
    }
    if (st.st_size < 0 || (size_t)st.st_size < bytes_min || st.st_size == 0) {
        err_set(err, EINVAL, "memory file is %lld bytes, needs %zu", (long long)st.st_size, bytes_min);
        return NULL;
    }
    /* What is allocated anyway costs nothing to map, and then no fault interrupts a record. */
    int populate = (uint64_t)st.st_blocks * 512 >= (uint64_t)st.st_size ? MAP_POPULATE : 0;
    void *p =
        mmap(NULL, (size_t)st.st_size, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED | populate, fd, 0);
    if (p == MAP_FAILED) {
        err_set(err, errno, "mmap of %lld bytes: %s", (long long)st.st_size, strerror(errno));
        return NULL;
    }
    if (bytes != NULL) *bytes = (size_t)st.st_size;
    return p;
}

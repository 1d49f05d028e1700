#include "shm/workspace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int workspace_create(const char *name, size_t bytes, struct err *err) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    bytes = (bytes + page - 1) / page * page;
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) return err_set(err, errno, "memfd_create %s: %s", name, strerror(errno));
    if (ftruncate(fd, (off_t)bytes) != 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        err_set(err, errno, "memory file %s of %zu bytes: %s", name, bytes, strerror(errno));
        close(fd);
        return -1;
    }
    return fd;
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
    void *p = mmap(NULL, (size_t)st.st_size, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        err_set(err, errno, "mmap of %lld bytes: %s", (long long)st.st_size, strerror(errno));
        return NULL;
    }
    if (bytes != NULL) *bytes = (size_t)st.st_size;
    return p;
}

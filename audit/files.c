#include "audit/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/fault.h"

static int real_open(void *context, int folder_fd, const char *name, int flags) {
    (void)context;
    return FAULT_FAILS("audit:open") ? -1 : openat(folder_fd, name, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
}

static ssize_t real_write(void *context, int fd, const struct iovec *part, int parts, off_t at) {
    (void)context;
    ssize_t n;
    do n = FAULT_FAILS("audit:write") ? -1 : pwritev(fd, part, parts, at);
    while (n < 0 && errno == EINTR);
    return n;
}

static int real_truncate(void *context, int fd, off_t bytes) {
    (void)context;
    return FAULT_FAILS("audit:truncate") ? -1 : ftruncate(fd, bytes);
}

static int real_sync(void *context, int fd) {
    (void)context;
    return FAULT_FAILS("audit:sync") ? -1 : fdatasync(fd);
}

static int real_rename(void *context, int folder_fd, const char *from, const char *to) {
    (void)context;
    return FAULT_FAILS("audit:rename") ? -1 : renameat(folder_fd, from, folder_fd, to);
}

static int real_unlink(void *context, int folder_fd, const char *name) {
    (void)context;
    return unlinkat(folder_fd, name, 0);
}

static int real_direct(void *context, int fd, bool on) {
    (void)context;
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 ? -1 : fcntl(fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT);
}

const struct log_files log_files_real = {real_open,   real_write,  real_truncate, real_sync,
                                         real_rename, real_unlink, real_direct,   NULL};

/* The calls to files that the audit log is written with: a place to die before and after each, and a disk that fails.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

static bool failing(void) {
    sim_place();
    if (!sim.storm || sim.disk == 0 || dice(sim.disk) != 0) return false;
    sim.count.disk_errors++;
    errno = dice(2) == 0 ? EIO : ENOSPC;
    return true;
}

static int disk_open(void *context, int folder_fd, const char *name, int flags) {
    return failing() ? -1 : log_files_real.open(context, folder_fd, name, flags);
}

/* One that fails, and one whose process dies, may have written a part. */
static ssize_t disk_write(void *context, int fd, const struct iovec *part, int parts, off_t at) {
    bool fails = failing();
    if (fails || dice(8) == 0) {
        const struct iovec first = {part[0].iov_base, dice((uint32_t)part[0].iov_len)};
        ssize_t n = log_files_real.write(context, fd, &first, 1, at);
        if (fails) return dice(2) == 0 ? n : -1;
        sim_place();
    }
    if (fails) return -1;
    ssize_t n = log_files_real.write(context, fd, part, parts, at);
    sim_place();
    return n;
}

static int disk_truncate(void *context, int fd, off_t bytes) {
    return failing() ? -1 : log_files_real.truncate(context, fd, bytes);
}

static int disk_sync(void *context, int fd) {
    (void)context, (void)fd;
    return failing() ? -1 : 0;
}

static int disk_rename(void *context, int folder_fd, const char *from, const char *to) {
    return failing() ? -1 : log_files_real.rename(context, folder_fd, from, to);
}

static int disk_unlink(void *context, int folder_fd, const char *name) {
    return failing() ? -1 : log_files_real.unlink(context, folder_fd, name);
}

/* It cuts writes anywhere, which the real one would refuse. */
static int disk_direct(void *context, int fd, bool on) {
    (void)context, (void)fd, (void)on;
    errno = EINVAL;
    return -1;
}

const struct log_files sim_files = {disk_open,   disk_write,  disk_truncate, disk_sync,
                                    disk_rename, disk_unlink, disk_direct,   NULL};

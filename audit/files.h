/* The calls to files that the audit log is written with, as a port: a test brings its own, in which they fail. */
#ifndef MILLRACE_AUDIT_FILES_H
#define MILLRACE_AUDIT_FILES_H

#include <stdbool.h>
#include <sys/types.h>
#include <sys/uio.h>

/* Each returns what the system call of that name does, with errno. */
struct log_files {
    int (*open)(void *context, int folder_fd, const char *name, int flags); /* a new file has mode 0600 */
    ssize_t (*write)(void *context, int fd, const struct iovec *part, int parts, off_t at); /* pwritev */
    int (*truncate)(void *context, int fd, off_t bytes);
    int (*sync)(void *context, int fd); /* fdatasync; of a folder too */
    int (*rename)(void *context, int folder_fd, const char *from, const char *to);
    int (*unlink)(void *context, int folder_fd, const char *name);
    int (*direct)(void *context, int fd, bool on); /* fcntl: past the page cache (O_DIRECT), or not */
    void *context;
};

extern const struct log_files log_files_real;

#endif

/* A disk that cannot be read for a moment: nobody may take that for an end of the log, or for a changed one. The calls
 * stand here in place of those of the C library. */
#include <dlfcn.h>
#include <errno.h>

#include "tests/unit/audit/help.h"

static struct {
    int countdown; /* calls that succeed before one fails; -1: all do */
    int code, calls;
} reads = {.countdown = -1};

static bool failing(void) {
    if (reads.countdown < 0) return false;
    reads.calls++;
    if (reads.countdown-- > 0) return false;
    errno = reads.code;
    return true;
}

static void *real(const char *name) {
    void *f = dlsym(RTLD_NEXT, name);
    cr_assert_not_null(f);
    return f;
}

int fstat(int fd, struct stat *st) { return failing() ? -1 : fstatat(fd, "", st, AT_EMPTY_PATH); }

ssize_t pread(int fd, void *out, size_t len, off_t at) {
    struct iovec part = {out, len};
    return failing() ? -1 : preadv(fd, &part, 1, at);
}

ssize_t __pread_chk(int fd, void *out, size_t len, off_t at, size_t room) {
    cr_assert_leq(len, room);
    return pread(fd, out, len, at);
}

struct dirent *readdir(DIR *d) {
    struct dirent *(*f)(DIR *) = (struct dirent * (*)(DIR *)) real("readdir");
    return failing() ? NULL : f(d);
}

/* Three segments and a torn end; note: whether the log says how much of it is durable. */
static struct bench *log_make(bool note) {
    struct bench *b = bench_make();
    char path[128];
    b->config.recon.segment_bytes = 1500;
    cr_assert_eq(bench_open(b), 0, "%s", b->err.text);
    for (uint64_t k = 1; k <= 12; k++) {
        log_writer_add(&b->writer, 0, 77, k, entry_make(0, 0, (int64_t)k, 0));
        if (k % 3 == 0) cr_assert_eq(log_writer_commit(&b->writer, &b->err), 0, "%s", b->err.text);
    }
    uint64_t segment = b->writer.segment;
    log_writer_close(&b->writer);
    snprintf(path, sizeof path, "%s/%016" PRIx64 ".log", b->log, segment);
    int fd = open(path, O_WRONLY | O_APPEND);
    cr_assert_eq(write(fd, "torn", 4), 4);
    close(fd);
    snprintf(path, sizeof path, "%s/durable", b->log);
    if (!note) cr_assert_eq(unlink(path), 0);
    return b;
}

Test(log_writer, a_read_that_fails_is_no_end_of_the_log_and_no_sign_of_a_change, .timeout = 60) {
    static const int codes[] = {EIO, ENOMEM};
    for (int way = 0; way < 4; way++)
        for (int n = 0;; n++) {
            struct bench *b = log_make(way & 1);
            reads.code = codes[way >> 1];
            reads.calls = 0;
            reads.countdown = n;
            int opened = bench_open(b), left = reads.countdown, calls = reads.calls;
            reads.countdown = -1;
            if (opened != 0) {
                cr_assert_eq(b->err.code, reads.code, "call %d: %s", n, b->err.text);
                cr_assert_eq(bench_open(b), 0, "after call %d: %s", n, b->err.text);
            }
            cr_assert_eq(b->writer.sequence, 13, "call %d cost entries", n);
            log_writer_add(&b->writer, 0, 77, 13, entry_make(0, 0, 13, 0));
            cr_assert_eq(log_writer_commit(&b->writer, &b->err), 0, "%s", b->err.text);
            log_writer_close(&b->writer);
            cr_assert_eq(bench_open(b), 0, "call %d left a log that is not one: %s", n, b->err.text);
            cr_assert_eq(b->writer.sequence, 14);
            bench_drop(b);
            cr_assert_lt(n, 200);
            if (left < 0) continue;
            cr_assert_gt(calls, 15);
            break;
        }
}

#include "feed/source.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>
#define XXH_INLINE_ALL /* the whole of it is in the header: the size of its state is not ABI */
#include <xxhash.h>

#include "shm/record.h"

enum { COPY_BYTES = 1 << 18 };

int source_open(const char *path, char *absolute, size_t room, struct err *err) {
    char real[PATH_MAX];
    struct stat st;
    if (realpath(path, real) == NULL) return err_set(err, EX_NOINPUT, "%s: %s", path, strerror(errno));
    if (strlen(real) >= room) return err_set(err, EX_NOINPUT, "%s: the path is too long", path);
    int fd = open(real, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return err_set(err, EX_NOINPUT, "%s: %s", path, strerror(errno));
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return err_set(err, EX_NOINPUT, "%s: not a file; what comes from a pipe goes by `-`", path);
    }
    memcpy(absolute, real, strlen(real) + 1);
    return fd;
}

static int copy(int from, int to, const char *path, struct err *err) {
    static uint8_t bytes[COPY_BYTES];
    for (;;) {
        ssize_t n = read(from, bytes, sizeof bytes), written = 0;
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return err_set(err, EX_IOERR, "standard input: %s", strerror(errno));
        if (n == 0) break;
        for (ssize_t k; written < n; written += k)
            if ((k = write(to, bytes + written, (size_t)(n - written))) < 0)
                return err_set(err, EX_CANTCREAT, "%s: %s", path, strerror(errno));
    }
    if (fsync(to) != 0 || lseek(to, 0, SEEK_SET) < 0) return err_set(err, EX_IOERR, "%s: %s", path, strerror(errno));
    return 0;
}

int source_spool(const char *outbox, const uint8_t load[16], char *path, size_t room, struct err *err) {
    char id[37];
    const char *slash = strrchr(outbox, '/');
    record_id_format(load, id);
    int len = snprintf(path, room, "%.*s%s.input", slash != NULL ? (int)(slash - outbox + 1) : 0, outbox, id);
    if (len < 0 || (size_t)len >= room) return err_set(err, EX_CANTCREAT, "the path of the outbox is too long");
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return err_set(err, EX_CANTCREAT, "%s: %s", path, strerror(errno));
    if (copy(STDIN_FILENO, fd, path, err) == 0) return fd;
    close(fd);
    unlink(path);
    path[0] = 0;
    return -1;
}

int source_hash(int fd, uint8_t out[16], struct err *err) {
    static uint8_t bytes[COPY_BYTES];
    XXH3_state_t state;
    ssize_t n;
    if (lseek(fd, 0, SEEK_SET) < 0) return err_set(err, EX_IOERR, "%s", strerror(errno));
    XXH3_128bits_reset(&state);
    while ((n = read(fd, bytes, sizeof bytes)) != 0) {
        if (n < 0 && errno != EINTR) return err_set(err, EX_IOERR, "%s", strerror(errno));
        if (n > 0) XXH3_128bits_update(&state, bytes, (size_t)n);
    }
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state));
    memcpy(out, canonical.digest, 16);
    return 0;
}
